/* Virtio devices as such: the PCI transport, negotiation, rings. The device at hand is the one for random numbers. */
#include "tests/devices/virtio_rig.h"

struct rng {
    struct rig *r;
    struct vdev v;
    struct ring q;
};

static int setup(void **state)
{
    struct rng *g = calloc(1, sizeof(*g));
    struct error err;
    assert_non_null(g);
    g->r = rig_create();
    assert_int_equal(virtio_rng_attach(g->r->m, g->r->bus, &err), 0);
    assert_int_equal(virtio_console_attach(g->r->m, g->r->bus, &err), 0);
    vdev_find(g->r, VIRTIO_ID_ENTROPY, &g->v);
    *state = g;
    return 0;
}

static int teardown(void **state)
{
    struct rng *g = *state;
    rig_destroy(g->r);
    free(g);
    return 0;
}

static void start(struct rng *g, uint64_t features, uint16_t size)
{
    assert_int_equal(vdev_negotiate(&g->v, BIT(F_VERSION_1) | features), ACKNOWLEDGE | DRIVER | FEATURES_OK);
    ring_setup(&g->v, 0, size, &g->q);
    vdev_driver_ok(&g->v);
}

static unsigned status(struct rng *g)
{
    return (unsigned)vdev_get(&g->v, DEVICE_STATUS, 1);
}

/* One request for length bytes, which is answered at once. */
static void request(struct rng *g, uint32_t length)
{
    uint32_t head, got;
    gpa_t at = rig_alloc(g->r, length);
    uint16_t mine = ring_add(&g->q, &(struct buffer_spec){at, length, true}, 1);
    vdev_notify(&g->v, 0);
    assert_true(ring_used(&g->q, &head, &got));
    assert_int_equal(head, mine);
    assert_int_equal(got, length);
    assert_false(ring_used(&g->q, &head, &got));
}

/* ---- transport ---- */

static void the_common_configuration_is_as_the_specification_has_it(void **state)
{
    struct rng *g = *state;
    struct vdev console;
    vdev_find(g->r, VIRTIO_ID_CONSOLE, &console);
    assert_int_equal(vdev_get(&g->v, NUM_QUEUES, 2), 1);
    assert_int_equal(vdev_get(&console, NUM_QUEUES, 2), 2);
    assert_int_equal(g->v.config_bytes, 0);
    assert_int_equal(console.config_bytes, 12);
    assert_int_equal(vdev_offered(&g->v), BIT(F_VERSION_1) | BIT(F_INDIRECT_DESC) | BIT(F_EVENT_IDX));
    assert_int_equal(vdev_offered(&console), vdev_offered(&g->v) | BIT(0) | BIT(2));
    vdev_set(&g->v, DEVICE_FEATURE_SELECT, 4, 2);
    assert_int_equal(vdev_get(&g->v, DEVICE_FEATURE, 4), 0);
    assert_int_equal(vdev_get(&g->v, QUEUE_SIZE, 2), 256);
    assert_int_equal(vdev_get(&g->v, CONFIG_MSIX_VECTOR, 2), 0xffff);
    vdev_set(&g->v, QUEUE_SELECT, 2, 1);
    assert_int_equal(vdev_get(&g->v, QUEUE_SIZE, 2), 0); /* there is no such queue */
    vdev_set(&g->v, QUEUE_SELECT, 2, 0);
    /* Reading in other sizes than the fields'. */
    vdev_set(&g->v, QUEUE_DESC, 8, 0x1122334455667788);
    assert_int_equal(vdev_get(&g->v, QUEUE_DESC, 8), 0x1122334455667788);
    assert_int_equal(vdev_get(&g->v, QUEUE_DESC + 4, 4), 0x11223344);
    assert_int_equal(vdev_get(&g->v, QUEUE_DESC + 1, 1), 0x77);
    assert_int_equal(vdev_get(&g->v, QUEUE_SIZE, 4), 0xffff0100u);
    /* Past its end, and around it. */
    assert_int_equal(vdev_get(&g->v, 0x3a, 8), 0);
    assert_int_equal(vdev_get(&g->v, 0x100, 4), 0);
    assert_int_equal(g->r->mark_count, 0);
    vdev_set(&g->v, QUEUE_SIZE, 4, 64);
    vdev_set(&g->v, QUEUE_DESC + 2, 4, 64);
    vdev_set(&g->v, DEVICE_STATUS, 2, 1);
    assert_int_equal(g->r->mark_count, 3);
    assert_int_equal(vdev_get(&g->v, QUEUE_SIZE, 2), 256);
    assert_string_equal(g->r->marks[0],
                        "virtio-rng: a write of 4 bytes at 0x18 of the common configuration is ignored");
}

static void features_are_agreed_on_or_not(void **state)
{
    struct rng *g = *state;
    assert_int_equal(vdev_negotiate(&g->v, 0), ACKNOWLEDGE | DRIVER);
    assert_true(rig_marked(g->r, "does not accept VIRTIO_F_VERSION_1"));
    assert_int_equal(vdev_negotiate(&g->v, BIT(F_VERSION_1) | BIT(34)), ACKNOWLEDGE | DRIVER);
    assert_true(rig_marked(g->r, "features that are not offered (0x400000000)"));
    vdev_set(&g->v, DEVICE_STATUS, 1, ACKNOWLEDGE | DRIVER | DRIVER_OK);
    assert_int_equal(status(g), ACKNOWLEDGE | DRIVER);
    assert_true(rig_marked(g->r, "DRIVER_OK without FEATURES_OK"));
    assert_int_equal(vdev_negotiate(&g->v, BIT(F_VERSION_1)), ACKNOWLEDGE | DRIVER | FEATURES_OK);
    /* Settled: writing does not change them any more, nor clear a bit of the status. */
    vdev_set(&g->v, DRIVER_FEATURE_SELECT, 4, 0);
    vdev_set(&g->v, DRIVER_FEATURE, 4, 0xffffffff);
    assert_int_equal(vdev_get(&g->v, DRIVER_FEATURE, 4), 0);
    vdev_set(&g->v, DEVICE_STATUS, 1, ACKNOWLEDGE);
    assert_int_equal(status(g), ACKNOWLEDGE | DRIVER | FEATURES_OK);
}

static void a_reset_forgets_everything(void **state)
{
    struct rng *g = *state;
    start(g, BIT(F_EVENT_IDX), 8);
    vdev_set(&g->v, CONFIG_MSIX_VECTOR, 2, 1);
    vdev_set(&g->v, QUEUE_MSIX_VECTOR, 2, 0);
    request(g, 16);
    vdev_set(&g->v, DEVICE_STATUS, 1, 0);
    assert_int_equal(status(g), 0);
    vdev_set(&g->v, QUEUE_SELECT, 2, 0);
    assert_int_equal(vdev_get(&g->v, QUEUE_ENABLE, 2), 0);
    assert_int_equal(vdev_get(&g->v, QUEUE_SIZE, 2), 256);
    assert_int_equal(vdev_get(&g->v, QUEUE_DESC, 8), 0);
    assert_int_equal(vdev_get(&g->v, QUEUE_MSIX_VECTOR, 2), 0xffff);
    assert_int_equal(vdev_get(&g->v, CONFIG_MSIX_VECTOR, 2), 0xffff);
    vdev_set(&g->v, DRIVER_FEATURE_SELECT, 4, 1);
    assert_int_equal(vdev_get(&g->v, DRIVER_FEATURE, 4), 0);
    /* The old ring means nothing; a new one works from index 0. */
    ring_add(&g->q, &(struct buffer_spec){0x1000, 16, true}, 1);
    unsigned writes = g->r->writes;
    vdev_notify(&g->v, 0);
    assert_int_equal(g->r->writes, writes);
    start(g, 0, 4);
    request(g, 16);
}

static void a_queue_is_fixed_once_it_is_enabled(void **state)
{
    struct rng *g = *state;
    start(g, 0, 8);
    vdev_set(&g->v, QUEUE_SIZE, 2, 16);
    vdev_set(&g->v, QUEUE_DRIVER, 4, 0x5000);
    assert_int_equal(vdev_get(&g->v, QUEUE_SIZE, 2), 8);
    assert_int_equal(vdev_get(&g->v, QUEUE_DRIVER, 8), g->q.avail);
    vdev_set(&g->v, QUEUE_ENABLE, 2, 0);
    assert_int_equal(vdev_get(&g->v, QUEUE_ENABLE, 2), 1);
    assert_true(rig_marked(g->r, "cannot be changed"));
    request(g, 100);
}

static void queues_that_cannot_be_are_refused(void **state)
{
    struct rng *g = *state;
    static const struct {
        uint16_t size;
        gpa_t desc, avail, used;
        const char *mark;
    } cases[] = {
        {0, 0x1000, 0x2000, 0x3000, "queue 0 was enabled with a size of 0: not a power of two up to 256"},
        {100, 0x1000, 0x2000, 0x3000, "a size of 100"},
        {512, 0x1000, 0x2000, 0x3000, "a size of 512"},
        {256, 0x1008, 0x2000, 0x3000,
         "descriptor table of queue 0 is at 0x1008, which is not a multiple of 16"},
        {256, 0x1000, 0x2001, 0x3000, "available ring of queue 0 is at 0x2001, which is not a multiple of 2"},
        {256, 0x1000, 0x2000, 0x3002, "used ring of queue 0 is at 0x3002, which is not a multiple of 4"},
        {256, RIG_RAM_BYTES - 4080, 0x2000, 0x3000,
         "descriptor table of queue 0, 4096 bytes at 0x3fff010, is not all in RAM"},
        {256, 0x1000, UINT64_MAX - 1, 0x3000,
         "available ring of queue 0, 516 bytes at 0xfffffffffffffffe, is not"},
        {256, 0x1000, 0x2000, 0xfee00000,
         "used ring of queue 0, 2052 bytes at 0xfee00000, is not all in RAM"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        vdev_negotiate(&g->v, BIT(F_VERSION_1));
        g->r->mark_count = 0;
        vdev_set(&g->v, QUEUE_SIZE, 2, cases[i].size);
        vdev_set(&g->v, QUEUE_DESC, 8, cases[i].desc);
        vdev_set(&g->v, QUEUE_DRIVER, 8, cases[i].avail);
        vdev_set(&g->v, QUEUE_DEVICE, 8, cases[i].used);
        vdev_set(&g->v, QUEUE_ENABLE, 2, 1);
        assert_int_equal(vdev_get(&g->v, QUEUE_ENABLE, 2), 0);
        assert_int_equal(g->r->mark_count, 1);
        assert_non_null(strstr(g->r->marks[0], cases[i].mark));
        assert_int_equal(status(g) & NEEDS_RESET, NEEDS_RESET);
    }
    /* The ring's last fields belong to it, if there are event indices. */
    vdev_negotiate(&g->v, BIT(F_VERSION_1));
    vdev_set(&g->v, QUEUE_DESC, 8, 0x1000);
    vdev_set(&g->v, QUEUE_DRIVER, 8, RIG_RAM_BYTES - 516);
    vdev_set(&g->v, QUEUE_DEVICE, 8, 0x3000);
    vdev_set(&g->v, QUEUE_ENABLE, 2, 1);
    assert_int_equal(vdev_get(&g->v, QUEUE_ENABLE, 2), 1);
    vdev_negotiate(&g->v, BIT(F_VERSION_1) | BIT(F_EVENT_IDX));
    vdev_set(&g->v, QUEUE_DESC, 8, 0x1000);
    vdev_set(&g->v, QUEUE_DRIVER, 8, RIG_RAM_BYTES - 516);
    vdev_set(&g->v, QUEUE_DEVICE, 8, 0x3000);
    vdev_set(&g->v, QUEUE_ENABLE, 2, 1);
    assert_int_equal(vdev_get(&g->v, QUEUE_ENABLE, 2), 0);
}

static void interrupts_go_by_line_until_msix_is_on(void **state)
{
    struct rng *g = *state;
    unsigned line = pci_line_of_device(g->v.number);
    start(g, 0, 8);
    request(g, 8);
    assert_true(g->r->level[line]);
    assert_int_equal(machine_mmio_read(g->r->m, g->v.isr, 1), 1);
    assert_false(g->r->level[line]);
    assert_int_equal(machine_mmio_read(g->r->m, g->v.isr, 1), 0);
    vdev_enable_msix(&g->v);
    request(g, 8); /* no vector: no message */
    assert_int_equal(g->r->messages, 0);
    vdev_set(&g->v, QUEUE_MSIX_VECTOR, 2, 2); /* there are two, 0 and 1 */
    assert_int_equal(vdev_get(&g->v, QUEUE_MSIX_VECTOR, 2), 0xffff);
    vdev_set(&g->v, QUEUE_MSIX_VECTOR, 2, 1);
    assert_int_equal(vdev_get(&g->v, QUEUE_MSIX_VECTOR, 2), 1);
    request(g, 8);
    assert_int_equal(g->r->messages, 1);
    assert_int_equal(g->r->message_data, 0x41);
    assert_false(g->r->level[line]);
    assert_int_equal(machine_mmio_read(g->r->m, g->v.isr, 1), 0);
}

/* Linux complains of a device with MSI-X where there is nobody who takes its messages. */
static void without_a_local_apic_there_is_no_msix(void **state)
{
    (void)state;
    struct machine *m;
    struct pci_bus *bus;
    struct rig r = {0};
    struct error err;
    assert_int_equal(machine_create(&m, NULL, NULL, &err), 0);
    assert_int_equal(pci_bus_attach(m, &bus, &err), 0);
    assert_int_equal(virtio_rng_attach(m, bus, &err), 0);
    r.m = m;
    for (unsigned cap = config_read(&r, 1, 0x34, 1); cap; cap = config_read(&r, 1, cap + 1, 1))
        assert_int_equal(config_read(&r, 1, cap, 1), 0x09);
    machine_destroy(m);
}

static void the_bar_can_be_reached_through_configuration_space(void **state)
{
    struct rng *g = *state;
    unsigned cap = g->v.pci_cfg, n = g->v.number;
    config_write(g->r, n, cap + 4, 1, 0);
    config_write(g->r, n, cap + 8, 4, QUEUE_SIZE);
    config_write(g->r, n, cap + 12, 4, 2);
    assert_int_equal(config_read(g->r, n, cap + 16, 2), 256);
    config_write(g->r, n, cap + 16, 2, 32);
    assert_int_equal(vdev_get(&g->v, QUEUE_SIZE, 2), 32);
    /* What makes no sense does nothing. */
    static const struct {
        uint32_t bar, offset, length;
    } cases[] = {
        {1, QUEUE_SIZE, 2}, {0, QUEUE_SIZE + 1, 2}, {0, 0x4000, 2}, {0, 0xfffffffe, 2}, {0, QUEUE_SIZE, 8}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        config_write(g->r, n, cap + 4, 1, cases[i].bar);
        config_write(g->r, n, cap + 8, 4, cases[i].offset);
        config_write(g->r, n, cap + 12, 4, cases[i].length);
        config_write(g->r, n, cap + 16, 2, 64);
        config_read(g->r, n, cap + 16, 4);
        assert_int_equal(vdev_get(&g->v, QUEUE_SIZE, 2), 32);
    }
}

static void without_bus_mastering_ram_is_left_alone(void **state)
{
    struct rng *g = *state;
    uint32_t head, length;
    start(g, 0, 8);
    config_write(g->r, g->v.number, 0x04, 2, 0x2);
    ring_add(&g->q, &(struct buffer_spec){0x1000, 16, true}, 1);
    vdev_notify(&g->v, 0);
    assert_int_equal(g->r->writes, 0);
    config_write(g->r, g->v.number, 0x04, 2, 0x6);
    vdev_notify(&g->v, 0);
    assert_true(ring_used(&g->q, &head, &length));
    assert_int_equal(length, 16);
}

/* ---- rings ---- */

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
    gpa_t at = rig_alloc(g->r, 65536), table = rig_alloc(g->r, 16 * 20);
    for (unsigned i = 0; i < 20; i++) /* more than the queue has; in no particular order */
        put_indirect(g, table, (i * 7) % 20, at + 100 * i, 10, D_WRITE | (i < 19 ? D_NEXT : 0),
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
    gpa_t used_event = g->q.avail + 4 + 2 * 8;
    static const struct {
        uint16_t event;
        unsigned messages; /* from the next request */
    } cases[] = {{0, 1}, {5, 0}, {2, 1}, {2, 0}, {3, 0}, {5, 1}, {5, 0}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        g->r->messages = 0;
        rig_put(g->r, used_event, 2, cases[i].event);
        request(g, 8);
        assert_int_equal(g->r->messages, cases[i].messages);
        assert_int_equal(rig_get(g->r, g->q.used + 4 + 8 * 8, 2), g->q.offered); /* avail_event */
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

/* ---- a type of this test's own ---- */

struct counter {
    struct virtio_device *virtio;
    unsigned taken, reset;
    unsigned keep; /* requests that it does not give back at once */
    struct virtio_chain chain[4];
    uint8_t config[4];
    unsigned config_offset, config_size;
    uint64_t config_value;
};

/* Writes the number of the request, plus 1, as 16 bits; gives the last few back in reverse order. */
static void counter_notify(void *device, unsigned queue)
{
    struct counter *c = device;
    unsigned kept = 0;
    while (virtqueue_pop(c->virtio, queue, &c->chain[kept]) > 0) {
        c->taken++;
        uint16_t number = (uint16_t)(c->taken + 1);
        virtio_chain_write(c->virtio, &c->chain[kept], 0, &number, 2);
        if (++kept > c->keep)
            virtqueue_push(c->virtio, queue, &c->chain[--kept], 2);
    }
    while (kept > 0)
        virtqueue_push(c->virtio, queue, &c->chain[--kept], 2);
}

static void counter_reset(void *device)
{
    ((struct counter *)device)->reset++;
}

static void counter_config(void *device, unsigned offset, unsigned size, uint64_t value)
{
    struct counter *c = device;
    c->config_offset = offset;
    c->config_size = size;
    c->config_value = value;
}

static const struct virtio_type counter_type = {.name = "counter",
                                                .id = 42,
                                                .class_code = 0xff0000,
                                                .queues = 1,
                                                .notify = counter_notify,
                                                .reset = counter_reset,
                                                .config_written = counter_config};

static void attach_counter(struct rng *g, struct counter *c)
{
    struct error err;
    const struct virtio_instance instance = {
        .type = &counter_type, .device = c, .features = BIT(3), .config = c->config, .config_bytes = 4};
    *c = (struct counter){.config = {1, 2, 3, 4}};
    assert_int_equal(virtio_pci_attach(g->r->m, g->r->bus, &instance, &c->virtio, &err), 0);
    vdev_find(g->r, 42, &g->v);
}

/* The device is made to write its own available index, one more each time: work without end, but in portions. */
static void a_ring_that_feeds_itself_does_not_hang(void **state)
{
    struct rng *g = *state;
    struct counter c;
    attach_counter(g, &c);
    start(g, 0, 64);
    ring_desc(&g->q, 0, g->q.avail + 2, 2, D_WRITE, 0);
    ring_offer(&g->q, 0);
    machine_mmio_write(g->r->m, g->v.notify, 2, 0);
    for (unsigned i = 1; i < 2000; i++) {
        assert_true(machine_work_waits(g->r->m));
        machine_run_work(g->r->m);
        assert_int_equal(c.taken, 64 * i);
        assert_int_equal(rig_get(g->r, g->q.used + 2, 2), (uint16_t)c.taken);
    }
    assert_int_equal(g->r->mark_count, 0);
}

static void requests_are_given_back_in_any_order(void **state)
{
    struct rng *g = *state;
    struct counter c;
    uint32_t head, length;
    attach_counter(g, &c);
    start(g, 0, 8);
    c.keep = 3;
    for (unsigned i = 0; i < 3; i++)
        ring_add(&g->q, &(struct buffer_spec){0x1000 + 16 * i, 2, true}, 1);
    vdev_notify(&g->v, 0);
    for (unsigned i = 0; i < 3; i++) {
        assert_true(ring_used(&g->q, &head, &length));
        assert_int_equal(head, 2 - i);
        assert_int_equal(rig_get(g->r, 0x1000 + 16 * i, 2), 2 + i);
    }
    assert_false(ring_used(&g->q, &head, &length));
}

static void a_type_has_features_and_a_configuration(void **state)
{
    struct rng *g = *state;
    struct counter c;
    attach_counter(g, &c);
    assert_int_equal(vdev_offered(&g->v) & 0xffff, BIT(3));
    assert_int_equal(g->v.config_bytes, 4);
    assert_int_equal(vdev_config(&g->v, 0, 4), 0x04030201);
    assert_int_equal(vdev_config(&g->v, 2, 4), 0x0403);
    assert_int_equal(vdev_config(&g->v, 1, 1), 2);
    machine_mmio_write(g->r->m, g->v.config + 2, 2, 0xabcd);
    assert_int_equal(c.config_offset, 2);
    assert_int_equal(c.config_size, 2);
    assert_int_equal(c.config_value, 0xabcd);
    machine_mmio_write(g->r->m, g->v.config + 2, 4, 1); /* beyond its end */
    assert_int_equal(c.config_size, 2);
    /* A change is told, and can be told from the state before. */
    unsigned line = pci_line_of_device(g->v.number),
             generation = (unsigned)vdev_get(&g->v, CONFIG_GENERATION, 1);
    virtio_config_changed(c.virtio);
    assert_false(g->r->level[line]); /* there is no driver yet */
    start(g, BIT(3), 8);
    assert_true(virtio_has_feature(c.virtio, 3));
    assert_int_equal(c.reset, 1);
    c.config[0] = 9;
    virtio_config_changed(c.virtio);
    assert_int_equal(machine_mmio_read(g->r->m, g->v.isr, 1), 2);
    assert_int_equal(vdev_get(&g->v, CONFIG_GENERATION, 1), (generation + 2) & 0xff);
    assert_int_equal(vdev_config(&g->v, 0, 1), 9);
}

static void a_type_can_have_itself_called(void **state)
{
    struct rng *g = *state;
    struct counter c;
    uint32_t head, length;
    attach_counter(g, &c);
    virtio_schedule(c.virtio, 0);
    assert_false(machine_work_waits(g->r->m)); /* there is no driver */
    start(g, 0, 8);
    ring_add(&g->q, &(struct buffer_spec){0x1000, 2, true}, 1);
    virtio_schedule(c.virtio, 0);
    machine_run_work(g->r->m);
    assert_true(ring_used(&g->q, &head, &length));
    virtio_broken(c.virtio, "number %d", 5);
    assert_true(rig_marked(g->r, "counter: number 5"));
    ring_add(&g->q, &(struct buffer_spec){0x1000, 2, true}, 1);
    virtio_schedule(c.virtio, 0);
    machine_run_work(g->r->m);
    assert_false(ring_used(&g->q, &head, &length));
}

#define VIRTIO_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        VIRTIO_TEST(the_common_configuration_is_as_the_specification_has_it),
        VIRTIO_TEST(features_are_agreed_on_or_not),
        VIRTIO_TEST(a_reset_forgets_everything),
        VIRTIO_TEST(a_queue_is_fixed_once_it_is_enabled),
        VIRTIO_TEST(queues_that_cannot_be_are_refused),
        VIRTIO_TEST(interrupts_go_by_line_until_msix_is_on),
        cmocka_unit_test(without_a_local_apic_there_is_no_msix),
        VIRTIO_TEST(the_bar_can_be_reached_through_configuration_space),
        VIRTIO_TEST(without_bus_mastering_ram_is_left_alone),
        VIRTIO_TEST(a_request_costs_few_writes),
        VIRTIO_TEST(rings_wrap_around),
        VIRTIO_TEST(buffers_that_adjoin_are_one),
        VIRTIO_TEST(indirect_tables_may_follow_other_descriptors),
        VIRTIO_TEST(interrupts_come_when_the_driver_wants_them),
        VIRTIO_TEST(a_broken_ring_stops_the_device_until_it_is_reset),
        VIRTIO_TEST(indirect_descriptors_are_for_those_who_asked),
        VIRTIO_TEST(marks_are_bounded),
        VIRTIO_TEST(a_ring_that_feeds_itself_does_not_hang),
        VIRTIO_TEST(requests_are_given_back_in_any_order),
        VIRTIO_TEST(a_type_has_features_and_a_configuration),
        VIRTIO_TEST(a_type_can_have_itself_called),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
