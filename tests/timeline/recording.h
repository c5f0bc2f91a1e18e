/* Recordings of real guests for the timeline's tests, and what a position looks like. */
#ifndef DEJAVM_TESTS_TIMELINE_RECORDING_H
#define DEJAVM_TESTS_TIMELINE_RECORDING_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "record/record.h"
#include "replay/replay.h"

void must(int status, const struct error *err);

/* False, and a message: KVM is asked for, and is not usable here. */
bool recording_possible(enum record_engine engine);
/*
 * Records the guest into a new file in /tmp and seals it. Under emu with the virtual clock: the recording is as long on a fast host as on
 * a slow one. False: KVM is not usable here.
 */
bool recording_make(const char *path, const char *guest, const char *command_line, enum record_engine engine);

/* All of the state at a position, as one number: registers and the full digest of RAM. */
uint64_t state_number(struct replay *r);
/* As state_number, but by the digest that the replay keeps up to date. */
uint64_t state_number_quick(struct replay *r);

/* Deterministic pseudo-random numbers. */
uint64_t random_next(uint64_t *seed);

#endif
