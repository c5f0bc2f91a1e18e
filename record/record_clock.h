/*
 * The guest's clock: the host's, without its leaps.
 *
 * A host takes the CPU away for milliseconds at any time, and so does a digest of all of RAM. A guest that compares two clocks
 * just then (Linux measures the time stamp counter against the 8254, and trusts the result) concludes nonsense. So while the emulator
 * runs, the clock advances by no more than so much per step and per reading; what it falls behind it catches up as the guest
 * goes on, as one step takes much less than that. A vCPU that sleeps sees nothing of a leap.
 */
#ifndef DEJAVM_RECORD_RECORD_CLOCK_H
#define DEJAVM_RECORD_RECORD_CLOCK_H

#include "core/base/types.h"

#define CLOCK_NS_PER_STEP    100u  /* many times what a step takes: a guest with a tenth of a CPU keeps up */
#define CLOCK_NS_PER_READING 2000u /* a device access takes about 1000 */
#define CLOCK_MAX_LAG_NS     1000000000u

struct record_clock {
    uint64_t now_ns;
    position_t position; /* at the last reading */
};

/* The time at this position, for a host time that never goes backwards: not after it, and not before the last reading. */
uint64_t record_clock_read(struct record_clock *c, uint64_t host_ns, position_t position);

/* The vCPU slept: the clock is where the host's is. */
void record_clock_catch_up(struct record_clock *c, uint64_t host_ns, position_t position);

/* After so many steps a clock that lags behind host times beyond deadline_ns shows deadline_ns. */
uint64_t record_clock_steps_until(const struct record_clock *c, uint64_t deadline_ns);

#endif
