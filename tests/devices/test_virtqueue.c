/* Split virtqueues, and drivers that break their rules. */
#include "tests/devices/rng_rig.h"

static void a_request_costs_few_writes(void **state)
{
    struct rng *g = *state;
    start(g, BIT(F_EVENT_IDX), 8);
    request(g, 16); /* data; the index and the first entry at once; the event index */
    assert_int_equal(g->r->writes, 3);
    request(g, 16); /* data, entry, index, event index */
    assert_int_equal(g->r->writes, 7);
    g->r->writes = 0;
    for (unsigned i = 0; i < 5; i++)
        ring_add(&g->q, &(struct buffer_spec){0x1000, 16, true}, 1);
    vdev_notify(&g->v, 0);
    assert_int_equal(g->r->writes, 5 + 3);
    assert_int_equal(rig_get(g->r, g->q.used + 2, 2), 7);
}

static void rings_wrap_around(void **state)
{
    struct rng *g = *state;
    uint32_t head, length;
    start(g, BIT(F_EVENT_IDX), 4);
    g->q.v = &g->v;
    gpa_t at = rig_alloc(g->r, 64);
    for (unsigned i = 0; i < 70000; i += 3) { /* the indices' 16 bits too */
        uint16_t heads[3];
        for (unsigned k = 0; k < 3; k++)
            heads[k] = ring_add(&g->q, &(struct buffer_spec){at, 8 + k, true}, 1);
        vdev_notify(&g->v, 0);
        for (unsigned k = 0; k < 3; k++) {
            assert_true(ring_used(&g->q, &head, &length));
            assert_int_equal(head, heads[k]);
            assert_int_equal(length, 8 + k);
        }
    }
    assert_int_equal(g->r->mark_count, 0);
}

static void buffers_that_adjoin_are_one(void **state)
{
    struct rng *g = *state;
    uint32_t head, length;
    start(g, 0, 8);
    gpa_t at = rig_alloc(g->r, 4096);
    const struct buffer_spec buffers[] = {
        {at, 100, true}, {at + 100, 0, true}, {at + 100, 28, true}, {at + 1000, 8, true}};
    ring_add(&g->q, buffers, 4);
    vdev_notify(&g->v, 0);
    assert_true(ring_used(&g->q, &head, &length));
    assert_int_equal(length, 136);
    assert_int_equal(g->r->writes, 2 + 1);
    uint8_t zeros[100] = {0}, bytes[100];
    assert_int_equal(ram_read(g->r->ram, at + 28, bytes, 100), 0);
    assert_memory_not_equal(bytes, zeros, 100);
    assert_int_equal(ram_read(g->r->ram, at + 128, bytes, 100), 0);
    assert_memory_equal(bytes, zeros, 100);
}

static void put_indirect(struct rng *g, gpa_t table, unsigned index, gpa_t gpa, uint32_t length,
                         uint16_t flags, uint16_t next)
{
    struct ring q = g->q;
    q.desc = table;
    ring_desc(&q, index, gpa, length, flags, next);
}

static void indirect_tables_may_follow_other_descriptors(void **state)
{
    struct rng *g = *state;
    uint32_t head, length;
    start(g, BIT(F_INDIRECT_DESC), 4);
    gpa_t at = rig_alloc(g->r, 65536), table = rig_alloc(g->r, 320);
    for (unsigned i = 0; i < 20; i++) /* more than the queue has; in no particular order */
        put_indirect(g, table, (i * 7) % 20, at + (gpa_t)100 * i, 10, D_WRITE | (i < 19 ? D_NEXT : 0),
                     (uint16_t)((i + 1) * 7 % 20));
    ring_desc(&g->q, 2, at + 5000, 3, D_WRITE | D_NEXT, 1);
    ring_desc(&g->q, 1, table, 16 * 20, D_INDIRECT | D_WRITE,
              0); /* WRITE means nothing here (virtio 2.7.5.3.2) */
    ring_offer(&g->q, 2);
    vdev_notify(&g->v, 0);
    assert_true(ring_used(&g->q, &head, &length));
    assert_int_equal(head, 2);
    assert_int_equal(length, 203);
}

static void interrupts_come_when_the_driver_wants_them(void **state)
{
    struct rng *g = *state;
    vdev_enable_msix(&g->v);
    start(g, 0, 8);
    vdev_set(&g->v, QUEUE_MSIX_VECTOR, 2, 0);
    rig_put(g->r, g->q.avail, 2, 1); /* VIRTQ_AVAIL_F_NO_INTERRUPT */
    request(g, 8);
    assert_int_equal(g->r->messages, 0);
    rig_put(g->r, g->q.avail, 2, 0);
    request(g, 8);
    assert_int_equal(g->r->messages, 1);
    start(g, BIT(F_EVENT_IDX), 8);
    vdev_set(&g->v, QUEUE_MSIX_VECTOR, 2, 0);
    rig_put(g->r, g->q.avail, 2, 1); /* means nothing now */
    gpa_t used_event = g->q.avail + 20;
    static const struct {
        uint16_t event;
        unsigned messages; /* from the next request */
    } cases[] = {{0, 1}, {5, 0}, {2, 1}, {2, 0}, {3, 0}, {5, 1}, {5, 0}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        g->r->messages = 0;
        rig_put(g->r, used_event, 2, cases[i].event);
        request(g, 8);
        assert_int_equal(g->r->messages, cases[i].messages);
        assert_int_equal(rig_get(g->r, g->q.used + 68, 2), g->q.offered); /* avail_event */
    }
}

/* ---- drivers that break the rules ---- */

static void loop(struct rng *g)
{
    for (unsigned i = 0; i < 8; i++)
        ring_desc(&g->q, i, 0x1000, 4, D_WRITE | D_NEXT, (i + 1) % 8);
    ring_offer(&g->q, 0);
}

static void self_loop_of_nothing(struct rng *g)
{
    ring_desc(&g->q, 3, 0x1000, 0, D_WRITE | D_NEXT, 3);
    ring_offer(&g->q, 3);
}

static void no_ram(struct rng *g)
{
    ring_desc(&g->q, 7, 0xdeadbeef000, 64, D_WRITE, 0);
    ring_offer(&g->q, 7);
}

static void end_of_ram(struct rng *g)
{
    ring_desc(&g->q, 0, RIG_RAM_BYTES - 8, 9, D_WRITE, 0);
    ring_offer(&g->q, 0);
}

static void end_of_addresses(struct rng *g)
{
    ring_desc(&g->q, 0, UINT64_MAX - 3, 100, D_WRITE, 0);
    ring_offer(&g->q, 0);
}

static void next_out_of_range(struct rng *g)
{
    ring_desc(&g->q, 1, 0x1000, 9, D_WRITE | D_NEXT, 8);
    ring_offer(&g->q, 1);
}

static void head_out_of_range(struct rng *g)
{
    ring_offer(&g->q, 8);
}

static void index_leaps(struct rng *g)
{
    rig_put(g->r, g->q.avail + 2, 2, 9);
}

static void read_after_write(struct rng *g)
{
    ring_desc(&g->q, 0, 0x1000, 9, D_WRITE | D_NEXT, 1);
    ring_desc(&g->q, 1, 0x2000, 9, 0, 0);
    ring_offer(&g->q, 0);
}

static void too_long(struct rng *g)
{
    for (unsigned i = 0; i < 8; i++) /* each is RAM, all together are more than 2^32 */
        put_indirect(g, 0x8000, i, 0, RIG_RAM_BYTES, D_WRITE | D_NEXT, (uint16_t)(i + 1));
    for (unsigned i = 8; i < 1024; i++)
        put_indirect(g, 0x8000, i, 0, RIG_RAM_BYTES, D_WRITE | D_NEXT, (uint16_t)(i + 1));
    ring_desc(&g->q, 0, 0x8000, 1024 * 16, D_INDIRECT, 0);
    ring_offer(&g->q, 0);
}

static void too_many(struct rng *g)
{
    for (unsigned i = 0; i < 1024; i++)
        put_indirect(g, 0x8000, i, 0x1000 + 2 * i, 1, D_WRITE | (i < 1023 ? D_NEXT : 0), (uint16_t)(i + 1));
    ring_desc(&g->q, 0, 0x100000, 1, D_WRITE | D_NEXT, 1);
    ring_desc(&g->q, 1, 0x8000, 1024 * 16, D_INDIRECT, 0);
    ring_offer(&g->q, 0);
}

static void nested_indirect(struct rng *g)
{
    put_indirect(g, 0x8000, 0, 0x8000, 16, D_INDIRECT, 0);
    ring_desc(&g->q, 0, 0x8000, 16, D_INDIRECT, 0);
    ring_offer(&g->q, 0);
}

static void indirect_with_next(struct rng *g)
{
    ring_desc(&g->q, 0, 0x8000, 16, D_INDIRECT | D_NEXT, 1);
    ring_offer(&g->q, 0);
}

static void indirect_of_odd_size(struct rng *g)
{
    ring_desc(&g->q, 0, 0x8000, 24, D_INDIRECT, 0);
    ring_offer(&g->q, 0);
}

static void indirect_without_end(struct rng *g)
{
    ring_desc(&g->q, 0, 0, 0xfffffff0, D_INDIRECT, 0);
    ring_offer(&g->q, 0);
}

static void indirect_outside_ram(struct rng *g)
{
    ring_desc(&g->q, 0, RIG_RAM_BYTES - 16, 32, D_INDIRECT, 0);
    ring_offer(&g->q, 0);
}

static void indirect_loop(struct rng *g)
{
    put_indirect(g, 0x8000, 0, 0x1000, 4, D_WRITE | D_NEXT, 1);
    put_indirect(g, 0x8000, 1, 0x1000, 4, D_WRITE | D_NEXT, 0);
    ring_desc(&g->q, 4, 0x8000, 32, D_INDIRECT, 0);
    ring_offer(&g->q, 4);
}

static void indirect_next_out_of_range(struct rng *g)
{
    put_indirect(g, 0x8000, 0, 0x1000, 4, D_WRITE | D_NEXT, 1);
    ring_desc(&g->q, 0, 0x8000, 16, D_INDIRECT, 0);
    ring_offer(&g->q, 0);
}

static void without_room(struct rng *g)
{
    ring_desc(&g->q, 0, 0x1000, 64, 0, 0);
    ring_offer(&g->q, 0);
}

static const struct {
    void (*make)(struct rng *g);
    const char *mark;
} broken[] = {
    {loop, "virtio-rng: the chain that starts at descriptor 0 of queue 0 is a loop"},
    {self_loop_of_nothing, "virtio-rng: the chain that starts at descriptor 3 of queue 0 is a loop"},
    {no_ram, "virtio-rng: descriptor 7 of queue 0 has 64 bytes at 0xdeadbeef000, where there is no RAM"},
    {end_of_ram, "virtio-rng: descriptor 0 of queue 0 has 9 bytes at 0x3fffff8, where there is no RAM"},
    {end_of_addresses,
     "virtio-rng: descriptor 0 of queue 0 has 100 bytes at 0xfffffffffffffffc, where there is no RAM"},
    {next_out_of_range, "virtio-rng: descriptor 1 of queue 0 goes on at 8, and there are only 8"},
    {head_out_of_range,
     "virtio-rng: the available ring of queue 0 offers descriptor 8, and there are only 8"},
    {index_leaps, "virtio-rng: the available index of queue 0 went from 0 to 9, with 8 descriptors"},
    {read_after_write,
     "virtio-rng: descriptor 1 of queue 0 is for the device to read, and comes after one that it writes"},
    {too_long,
     "virtio-rng: descriptor 63 of an indirect table of queue 0 makes the chain longer than 2^32 bytes"},
    {too_many, "virtio-rng: a chain of queue 0 has more than 1024 buffers"},
    {nested_indirect,
     "virtio-rng: descriptor 0 of an indirect table of queue 0 is indirect, and so is its table"},
    {indirect_with_next, "virtio-rng: descriptor 0 of queue 0 is indirect, and has a next one"},
    {indirect_of_odd_size,
     "virtio-rng: descriptor 0 of queue 0 is an indirect table of 24 bytes: not 1 to 1024 descriptors"},
    {indirect_without_end, "virtio-rng: descriptor 0 of queue 0 is an indirect table of 4294967280 bytes: "
                           "not 1 to 1024 descriptors"},
    {indirect_outside_ram,
     "virtio-rng: descriptor 0 of queue 0 is an indirect table at 0x3fffff0, where there is no RAM"},
    {indirect_loop, "virtio-rng: the chain that starts at descriptor 4 of queue 0 is a loop"},
    {indirect_next_out_of_range,
     "virtio-rng: descriptor 0 of an indirect table of queue 0 goes on at 1, and there are only 1"},
    {without_room, "virtio-rng: a request without room for random numbers"},
};

static void a_broken_ring_stops_the_device_until_it_is_reset(void **state)
{
    struct rng *g = *state;
    vdev_enable_msix(&g->v);
    for (size_t i = 0; i < ARRAY_LEN(broken); i++) {
        start(g, BIT(F_INDIRECT_DESC), 8);
        vdev_set(&g->v, CONFIG_MSIX_VECTOR, 2, 1);
        g->r->mark_count = g->r->writes = g->r->messages = 0;
        broken[i].make(g);
        vdev_notify(&g->v, 0);
        assert_int_equal(g->r->mark_count, 1);
        assert_string_equal(g->r->marks[0], broken[i].mark);
        assert_int_equal(status(g) & NEEDS_RESET, NEEDS_RESET);
        assert_int_equal(g->r->messages, 1); /* of a configuration change (virtio 2.1.2) */
        assert_int_equal(g->r->message_data, 0x41);
        vdev_notify(&g->v, 0);
        assert_int_equal(g->r->writes, 0);
        start(g, 0, 4);
        request(g, 32);
    }
}

static void indirect_descriptors_are_for_those_who_asked(void **state)
{
    struct rng *g = *state;
    start(g, 0, 8);
    nested_indirect(g);
    vdev_notify(&g->v, 0);
    assert_true(rig_marked(g->r, "descriptor 0 of queue 0 is indirect, which was not negotiated"));
}

/* Not one that makes a million mistakes, either. */
static void marks_are_bounded(void **state)
{
    struct rng *g = *state;
    for (unsigned i = 0; i < 1000; i++)
        vdev_negotiate(&g->v, 0);
    assert_int_equal(g->r->mark_count, 32);
    assert_non_null(strstr(g->r->marks[31], "no more marks"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RNG_TEST(a_request_costs_few_writes),
        RNG_TEST(rings_wrap_around),
        RNG_TEST(buffers_that_adjoin_are_one),
        RNG_TEST(indirect_tables_may_follow_other_descriptors),
        RNG_TEST(interrupts_come_when_the_driver_wants_them),
        RNG_TEST(a_broken_ring_stops_the_device_until_it_is_reset),
        RNG_TEST(indirect_descriptors_are_for_those_who_asked),
        RNG_TEST(marks_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
