/* Where the time of a replay or a recording went: a table for people, or JSON. */
#ifndef DEJAVM_TOOLS_PROFILE_VIEW_H
#define DEJAVM_TOOLS_PROFILE_VIEW_H

#include "record/record.h"
#include "replay/replay.h"

/* Of a replay after replay_start_profile(); open_ns is what opening the trace took. The table goes to standard error, as messages. */
void profile_print_replay(const struct replay *r, uint64_t open_ns);
/* The same as JSON on standard output. */
void profile_json_replay(const struct replay *r, uint64_t open_ns);

/* Of a recording that has run, and the engine that executed it. */
void profile_print_record(const struct record_result *result, const struct engine *engine);

#endif
