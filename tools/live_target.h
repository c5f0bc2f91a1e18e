/*
 * The debug target over a guest that is being recorded. Where the guest stands last is the *present*; what was recorded before it
 * is history, and is looked at by a trace_target on the same trace. Backwards leads into history, forwards through it to the
 * present, and from there the guest itself goes on.
 */
#ifndef DEJAVM_TOOLS_LIVE_TARGET_H
#define DEJAVM_TOOLS_LIVE_TARGET_H

#include "record/record.h"
#include "tools/trace_target.h"

struct live_target {
    struct debug_target target;
    struct recorder *recorder;
    struct trace_target *history; /* with the points, marks and symbols of both */
    bool in_history;          /* it stands before the present, or at the end of a recording that is over */
    bool history_is_complete; /* it reaches up to the present */
    bool at_break;            /* a break was told at the present: the instruction comes next */
    bool over;                /* the recording is finished */
    int failed;               /* the negative errno of recorder_finish; its message in error */
    struct error error;
    struct record_result result; /* when it is over */
    /* Told once, when the guest or the recording ends while a debugger runs it. May be NULL. */
    void (*ended)(void *context);
    void *context;
};

/*
 * recorder's options had debugged, and it has not run. It stays the caller's and must outlive the target. trace_path: of its
 * trace. memory_budget_bytes: of checkpoints, 0: the default.
 */
int live_target_open(struct live_target **out, struct recorder *recorder, const char *trace_path,
                     uint64_t memory_budget_bytes, struct error *err) must_check;
void live_target_close(struct live_target *t); /* NULL is fine */

/* Runs the guest without a debugger until interrupted says so or it ends. */
int live_target_run_on(struct live_target *t, bool (*interrupted)(void *context), void *context,
                       struct error *err) must_check;
/* Ends the recording where the guest stands, if it is not over. */
void live_target_finish(struct live_target *t);

/* Makes history reach the present, checking that it leads to the state that the guest is in. -EINTR when interrupted. */
int live_target_complete_history(struct live_target *t, const struct timeline_interrupt *interrupt,
                                 struct error *err) must_check;

#endif
