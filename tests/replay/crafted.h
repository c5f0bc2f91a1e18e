/* Traces made by hand: 1 MiB of RAM, a few bytes of code in it, and a list of events. */
#ifndef DEJAVM_TESTS_REPLAY_CRAFTED_H
#define DEJAVM_TESTS_REPLAY_CRAFTED_H

#include "core/vcpu_state.h"
#include "trace-format/event.h"

#define CRAFTED_CODE 0x1000

/* Real mode at 0000:1000, everything else as at power-on. */
struct vcpu_state crafted_real_mode(void);
/* Writes the trace; it has no end, as if cut short, unless the events have. A failure fails the test. */
void crafted_trace(const char *path, bool positions, const struct vcpu_state *state, const uint8_t *code,
                   size_t length, const struct event *events, size_t count);

#endif
