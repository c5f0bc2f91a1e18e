/* The device for random numbers, the simplest there is, for what is the same for all virtio devices. */
#ifndef DEJAVM_TESTS_DEVICES_RNG_RIG_H
#define DEJAVM_TESTS_DEVICES_RNG_RIG_H

#include "tests/devices/virtio_rig.h"

struct rng {
    struct rig *r;
    struct vdev v;
    struct ring q;
};

static inline int setup(void **state)
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

static inline int teardown(void **state)
{
    struct rng *g = *state;
    rig_destroy(g->r);
    free(g);
    return 0;
}

static inline void start(struct rng *g, uint64_t features, uint16_t size)
{
    assert_int_equal(vdev_negotiate(&g->v, BIT(F_VERSION_1) | features), ACKNOWLEDGE | DRIVER | FEATURES_OK);
    ring_setup(&g->v, 0, size, &g->q);
    vdev_driver_ok(&g->v);
}

static inline unsigned status(struct rng *g)
{
    return (unsigned)vdev_get(&g->v, DEVICE_STATUS, 1);
}

/* One request for length bytes, which is answered at once. */
static inline void request(struct rng *g, uint32_t length)
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

#define RNG_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
