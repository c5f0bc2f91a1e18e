/*
 * A driver out to do harm, for the fuzzers of virtio devices: rings, descriptors and registers that are mostly right, and wrong in
 * one place or another. Data is what the device's own fuzzer puts into RAM.
 */
#ifndef DEJAVM_TESTS_DEVICES_RING_FUZZ_H
#define DEJAVM_TESTS_DEVICES_RING_FUZZ_H

#include "tests/devices/virtio_rig.h"

#define RING_FUZZ_AREA_BYTES 0x100000u

struct ring_fuzz {
    struct vdev v;
    unsigned queues;
    struct ring ring[VIRTIO_QUEUES_MAX];
    gpa_t area; /* where buffers are, mostly */
    uint64_t seed;
    uint64_t features; /* of the device type */
    /* Puts something that the device may understand at gpa, at most room bytes; returns how many. */
    unsigned (*fill)(struct ring_fuzz *f, gpa_t gpa, unsigned room);
    void *context;
};

uint64_t ring_fuzz_random(struct ring_fuzz *f);
unsigned ring_fuzz_below(struct ring_fuzz *f, unsigned limit);

/* v, seed, features, fill and context are set. */
void ring_fuzz_start(struct ring_fuzz *f, unsigned queues);
/* Resets the device, and sets it up with rings and features of some kind. */
void ring_fuzz_restart(struct ring_fuzz *f);
/* One thing that a driver may do, and the device's work after it. */
void ring_fuzz_step(struct ring_fuzz *f);

#endif
