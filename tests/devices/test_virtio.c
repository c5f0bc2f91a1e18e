/* Virtio devices as such: the PCI transport, negotiation, and what a device type sees. */
#include "tests/devices/rng_rig.h"

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
    assert_int_equal(g->r->mark_count, 0); /* nor does it reach the registers */
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        RNG_TEST(the_common_configuration_is_as_the_specification_has_it),
        RNG_TEST(features_are_agreed_on_or_not),
        RNG_TEST(a_reset_forgets_everything),
        RNG_TEST(a_queue_is_fixed_once_it_is_enabled),
        RNG_TEST(queues_that_cannot_be_are_refused),
        RNG_TEST(interrupts_go_by_line_until_msix_is_on),
        cmocka_unit_test(without_a_local_apic_there_is_no_msix),
        RNG_TEST(the_bar_can_be_reached_through_configuration_space),
        RNG_TEST(without_bus_mastering_ram_is_left_alone),
        RNG_TEST(a_ring_that_feeds_itself_does_not_hang),
        RNG_TEST(requests_are_given_back_in_any_order),
        RNG_TEST(a_type_has_features_and_a_configuration),
        RNG_TEST(a_type_can_have_itself_called),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
