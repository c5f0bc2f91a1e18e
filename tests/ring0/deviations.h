/* Cases in which a host's KVM is known to do something else than the SDM says, and why. */
#ifndef DEJAVM_TESTS_RING0_DEVIATIONS_H
#define DEJAVM_TESTS_RING0_DEVIATIONS_H

#include <stddef.h>

struct ring0_deviation {
    const char *name, *reason;
};

extern const struct ring0_deviation ring0_deviations[];
extern const size_t ring0_deviation_count;

#endif
