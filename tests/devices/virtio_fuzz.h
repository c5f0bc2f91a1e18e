/*
 * Hostile drivers for the virtio devices. What they do is drawn from a source of choices: a seed, or a fuzzer's bytes.
 */
#ifndef DEJAVM_TESTS_DEVICES_VIRTIO_FUZZ_H
#define DEJAVM_TESTS_DEVICES_VIRTIO_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct choices {
    const uint8_t *bytes; /* NULL: from seed alone */
    size_t left;
    uint64_t seed; /* not 0 */
};

/*
 * One guest: a machine with two disks (one of them read-only), a console and random numbers, and so many operations on them; fewer
 * when the choices' bytes end. path names the disks' file, raw. The checks: RAM is written at work only, and only by a device that is
 * running and may; a run of work does not write without bound; marks are bounded; and in the end each device can be reset, and works.
 * Aborts where one of them fails.
 */
void virtio_fuzz(struct choices *c, unsigned operations, const char *path);

#endif
