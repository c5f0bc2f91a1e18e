#include "tests/devices/ring_fuzz.h"

#define RINGS_BYTES (VIRTIO_QUEUES_MAX * 4 * 4096) /* at most */

/* xorshift64* */
uint64_t ring_fuzz_random(struct ring_fuzz *f)
{
    f->seed ^= f->seed >> 12;
    f->seed ^= f->seed << 25;
    f->seed ^= f->seed >> 27;
    return f->seed * 0x2545f4914f6cdd1du;
}

unsigned ring_fuzz_below(struct ring_fuzz *f, unsigned limit)
{
    return (unsigned)(ring_fuzz_random(f) >> 33) % limit;
}

static bool one_in(struct ring_fuzz *f, unsigned n)
{
    return ring_fuzz_below(f, n) == 0;
}

static gpa_t address(struct ring_fuzz *f)
{
    const gpa_t odd[] = {0,
                         RIG_RAM_BYTES - 1,
                         RIG_RAM_BYTES - 100,
                         RIG_RAM_BYTES,
                         UINT64_MAX,
                         UINT64_MAX - 4095,
                         f->ring[0].desc,
                         f->ring[0].avail,
                         f->ring[0].used,
                         0xe0000000u};
    return one_in(f, 60) ? odd[ring_fuzz_below(f, ARRAY_LEN(odd))]
                         : f->area + ring_fuzz_below(f, RING_FUZZ_AREA_BYTES - 0x20000);
}

static uint32_t length(struct ring_fuzz *f)
{
    static const uint32_t odd[] = {0, 1, 11, 12, 1u << 20, 1u << 25, UINT32_MAX, 0x80000000u};
    return one_in(f, 40) ? odd[ring_fuzz_below(f, ARRAY_LEN(odd))]
                         : 1 + ring_fuzz_below(f, one_in(f, 4) ? 0x10000 : 2000);
}

void ring_fuzz_restart(struct ring_fuzz *f)
{
    static const uint16_t sizes[] = {2, 8, 64, 256};
    static const uint8_t zeros[RINGS_BYTES];
    vdev_set(&f->v, DEVICE_STATUS, 1, 0);
    f->v.r->mark_count = 0;
    f->v.r->free_ram = f->area + RING_FUZZ_AREA_BYTES;
    assert_int_equal(ram_write(f->v.r->ram, f->v.r->free_ram, zeros, sizeof(zeros)), 0);
    uint64_t features = ring_fuzz_random(f) & (f->features | BIT(F_INDIRECT_DESC) | BIT(F_EVENT_IDX));
    vdev_negotiate(&f->v, features | BIT(F_VERSION_1));
    for (unsigned i = 0; i < f->queues; i++)
        ring_setup(&f->v, i, sizes[ring_fuzz_below(f, ARRAY_LEN(sizes))], &f->ring[i]);
    vdev_driver_ok(&f->v);
}

void ring_fuzz_start(struct ring_fuzz *f, unsigned queues)
{
    f->queues = queues;
    f->area = rig_alloc(f->v.r, RING_FUZZ_AREA_BYTES);
    ring_fuzz_restart(f);
}

/* A chain as it should be, with data that the device may understand: readable buffers, then writable ones. */
static void offer_good_chain(struct ring_fuzz *f, struct ring *q)
{
    struct buffer_spec buffers[4];
    unsigned count = 1 + ring_fuzz_below(f, q->size < 4 ? q->size : 4),
             readable = ring_fuzz_below(f, count + 1);
    gpa_t gpa = f->area + ring_fuzz_below(f, RING_FUZZ_AREA_BYTES / 2);
    unsigned bytes = f->fill(f, gpa, 0x10000), done = 0;
    for (unsigned i = 0; i < count; i++) {
        buffers[i] = (struct buffer_spec){address(f), length(f), true};
        if (i < readable) {
            unsigned now = i + 1 == readable ? bytes - done : ring_fuzz_below(f, bytes - done + 1);
            buffers[i] = (struct buffer_spec){gpa + done, now, false};
            done += now;
        }
    }
    ring_add(q, buffers, count);
}

static void write_descriptor(struct ring_fuzz *f, struct ring *q)
{
    unsigned flags = ring_fuzz_below(f, 4) | (one_in(f, 8) ? 4 : 0) | (one_in(f, 50) ? 0xfff8 : 0);
    ring_desc(q, ring_fuzz_below(f, q->size), address(f), length(f), (uint16_t)flags,
              (uint16_t)ring_fuzz_below(f, one_in(f, 10) ? 65536 : q->size));
}

/* An indirect table in the area, and a descriptor for it. */
static void write_indirect(struct ring_fuzz *f, struct ring *q)
{
    gpa_t table = f->area + ring_fuzz_below(f, RING_FUZZ_AREA_BYTES / 2);
    unsigned entries = 1 + ring_fuzz_below(f, one_in(f, 10) ? 1100 : 8);
    for (unsigned i = 0; i < entries; i++) {
        rig_put(f->v.r, table + 16 * i, 8, address(f));
        rig_put(f->v.r, table + 16 * i + 8, 4, length(f));
        rig_put(f->v.r, table + 16 * i + 12, 2, (i + 1 < entries ? 1u : 0u) | (i >= entries / 2 ? 2u : 0u));
        rig_put(f->v.r, table + 16 * i + 14, 2, one_in(f, 50) ? ring_fuzz_below(f, 2000) : i + 1);
    }
    unsigned index = ring_fuzz_below(f, q->size);
    ring_desc(q, index, table, 16 * entries + (one_in(f, 20) ? 5 : 0), 4, 0);
    ring_offer(q, (uint16_t)index);
}

static void poke_registers(struct ring_fuzz *f)
{
    static const unsigned offsets[] = {DRIVER_FEATURE, DEVICE_STATUS, QUEUE_SELECT, QUEUE_SIZE,
                                       QUEUE_ENABLE,   QUEUE_DESC,    QUEUE_DRIVER, QUEUE_DEVICE};
    vdev_set(&f->v, offsets[ring_fuzz_below(f, ARRAY_LEN(offsets))], one_in(f, 2) ? 4 : 2,
             ring_fuzz_random(f));
}

void ring_fuzz_step(struct ring_fuzz *f)
{
    unsigned queue = ring_fuzz_below(f, f->queues);
    struct ring *q = &f->ring[queue];
    switch (ring_fuzz_below(f, 16)) {
    case 0:
        write_descriptor(f, q);
        break;
    case 1:
        ring_offer(q, (uint16_t)ring_fuzz_below(f, one_in(f, 30) ? 65536 : q->size));
        break;
    case 2:
        write_indirect(f, q);
        break;
    case 3:
        if (one_in(f, 20))
            q->offered = (uint16_t)ring_fuzz_random(f);
        break;
    case 4:
        if (one_in(f, 10))
            poke_registers(f);
        break;
    default:
        offer_good_chain(f, q);
    }
    if (one_in(f, 3))
        vdev_notify(&f->v, queue);
    rig_work(f->v.r, 100); /* a device that was made to write its own available ring may go on for ever */
    if (one_in(f, 30) || (vdev_get(&f->v, DEVICE_STATUS, 1) & NEEDS_RESET))
        ring_fuzz_restart(f);
}
