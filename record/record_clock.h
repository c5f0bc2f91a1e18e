/*
 * The guest's clock: the host's, without its leaps.
 *
 * A host takes the CPU away for milliseconds at any time, and so does a digest of all of RAM. A guest that compares two clocks
 * just then (Linux measures the time stamp counter against the 8254, and trusts the result) concludes nonsense. So while the emulator
 * runs, the clock advances by no more than so much per step and per reading; what it falls behind it catches up as the guest
 * goes on, as one step takes much less than that. A clock that is far behind (the whole emulator was stopped) catches up faster, but
 * not at once either: a guest whose clock leaps by more than 20 s reports a lockup of its own. A vCPU that sleeps catches up from one
 * timer to the next.
 *
 * A virtual clock has nothing to do with the host's: it advances by CLOCK_VIRTUAL_NS_PER_STEP with each step, by so much more with
 * each crossing of the boundary, and leaps to the next timer when the vCPU sleeps. Two guests that do the same see the same time.
 */
#ifndef DEJAVM_RECORD_RECORD_CLOCK_H
#define DEJAVM_RECORD_RECORD_CLOCK_H

#include "core/base/types.h"

#define CLOCK_NS_PER_STEP    100u  /* many times what a step takes: a guest with a tenth of a CPU keeps up */
#define CLOCK_NS_PER_READING 2000u /* a device access takes about 1000 */
#define CLOCK_FAR_BEHIND_NS  1000000000u
#define CLOCK_FAST           5u /* times as much, when it is far behind */

#define CLOCK_VIRTUAL_NS_PER_STEP   1u
#define CLOCK_VIRTUAL_NS_PER_ACCESS 1000u /* ports, MMIO, MSRs: about what they take on hardware */
/*
 * Reading the time stamp counter takes so much, and twice as much each time when a guest does nothing else (no more than
 * CLOCK_VIRTUAL_SPIN_STEPS between two readings), up to a limit: it waits for a time to come.
 */
#define CLOCK_VIRTUAL_NS_PER_TSC 25u
#define CLOCK_VIRTUAL_SPIN_NS    10000u
#define CLOCK_VIRTUAL_SPIN_STEPS 100u

struct record_clock {
    bool is_virtual;
    uint64_t now_ns;
    position_t position;     /* at the last reading */
    position_t tsc_position; /* of the last reading of the TSC, and what it took; virtual clocks */
    uint64_t tsc_ns;
};

/*
 * The time at this position, for a host time that never goes backwards: not after it (but for a virtual clock), and not before the last
 * reading.
 */
uint64_t record_clock_read(struct record_clock *c, uint64_t host_ns, position_t position);

/* Virtual clocks, otherwise nothing: the boundary is crossed, for a device or an MSR, or for the TSC. */
void record_clock_access(struct record_clock *c);
void record_clock_tsc(struct record_clock *c, position_t position);

/* The clock is where the host's is. Not for a virtual clock. */
void record_clock_catch_up(struct record_clock *c, uint64_t host_ns, position_t position);

/*
 * The vCPU sleeps: the clock is where the host's is, or at the next timer's deadline_ns (UINT64_MAX: there is none) if that is
 * earlier. A virtual clock is at the deadline, if there is one.
 */
void record_clock_sleep(struct record_clock *c, uint64_t host_ns, uint64_t deadline_ns, position_t position);

/* After so many steps a clock that lags behind host times beyond deadline_ns, or a virtual clock, shows deadline_ns. */
uint64_t record_clock_steps_until(const struct record_clock *c, uint64_t deadline_ns);

#endif
