/*
 * Lockstep: one trace replayed by both stages of the emulator (core/x86/emu.h) side by side, each with RAM of its own. Every
 * register is compared at every stop, RAM at some.
 */
#ifndef DEJAVM_REPLAY_LOCKSTEP_H
#define DEJAVM_REPLAY_LOCKSTEP_H

#include "replay/replay.h"

struct lockstep_options {
    position_t stop_every; /* about so many steps between stops; 0: LOCKSTEP_STOP_EVERY */
    uint64_t ram_every;    /* so many stops between comparisons of RAM; 0: LOCKSTEP_RAM_EVERY */
};

#define LOCKSTEP_STOP_EVERY ((position_t)2000)
#define LOCKSTEP_RAM_EVERY  ((uint64_t)5000)

struct lockstep_totals {
    position_t position;
    uint64_t stops, ram_compared;
};

/*
 * To the end of the trace. ERROR_DIVERGENCE where the stages differ: the message names the first stop that shows it (found by
 * going back and halving), and the registers or the page. hooks as in replay_open; progress is that of one of the two.
 */
int replay_lockstep(const char *path, const struct replay_hooks *hooks,
                    const struct lockstep_options *options, struct lockstep_totals *totals,
                    struct error *err) must_check;

#endif
