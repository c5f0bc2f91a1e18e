#include "tools/live_target.h"
#include "core/x86/inspect.h"
#include "tools/monitor.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct live_target *of(struct debug_target *target)
{
    return container_of(target, struct live_target, target);
}

/* ---- looking ---- */

static const struct vcpu_state *state_of(struct live_target *t)
{
    return t->in_history ? trace_target_state(t->history) : recorder_state(t->recorder);
}

static const struct guest_ram *ram_of(const struct live_target *t)
{
    return t->in_history ? trace_target_ram(t->history) : recorder_ram(t->recorder);
}

static const struct vcpu_state *target_state(struct debug_target *target)
{
    return state_of(of(target));
}

static size_t target_read(struct debug_target *target, gva_t address, void *out, size_t length)
{
    struct live_target *t = of(target);
    return x86_read_virtual(ram_of(t), state_of(t), address, out, length);
}

static size_t target_read_physical(struct debug_target *target, gpa_t address, void *out, size_t length)
{
    return debug_read_physical(ram_of(of(target)), address, out, length);
}

/* ---- what a debugger writes would be missing in the recording ---- */

static int read_only(const char *what, struct error *err)
{
    return error_set(
        err, -EROFS,
        "this guest is being recorded: %s can be read, but not changed, or its recording would not replay",
        what);
}

static int target_set_state(struct debug_target *target, const struct vcpu_state *state, struct error *err)
{
    (void)target;
    (void)state;
    return read_only("registers", err);
}

static int target_write(struct debug_target *target, gva_t address, const void *data, size_t length,
                        struct error *err)
{
    (void)target;
    (void)address;
    (void)data;
    (void)length;
    return read_only("memory", err);
}

static int target_insert(struct debug_target *target, enum debug_point_kind kind, gva_t address,
                         uint64_t length, struct error *err)
{
    return trace_points_insert(&of(target)->history->points, kind, address, length, err);
}

static int target_remove(struct debug_target *target, enum debug_point_kind kind, gva_t address,
                         uint64_t length, struct error *err)
{
    (void)err;
    trace_points_remove(&of(target)->history->points, kind, address, length);
    return 0;
}

/* ---- history ---- */

static bool at_end_of_history(const struct live_target *t)
{
    return timeline_position(t->history->timeline) == t->history->end;
}

/* After a move inside history: its end is the present. */
static void note_place(struct live_target *t)
{
    t->in_history = t->over || !at_end_of_history(t);
}

/* The replay has checked the digest of the present state; where KVM does not count, this is all there is to compare. */
static int check_present(struct live_target *t, struct error *err)
{
    position_t live = recorder_position(t->recorder);
    if (t->over || live == POSITION_UNKNOWN || live == t->history->end)
        return 0;
    return error_set_kind(err, ERROR_DIVERGENCE, -EILSEQ,
                          "history ends at position %" PRIu64 ", but the guest stands at %" PRIu64,
                          t->history->end, live);
}

int live_target_complete_history(struct live_target *t, const struct timeline_interrupt *interrupt,
                                 struct error *err)
{
    if (t->history_is_complete)
        return 0;
    int code = t->over ? 0 : recorder_sync(t->recorder, err);
    if (code == 0)
        code = trace_target_extend(t->history, interrupt, err);
    if (code == 0)
        code = check_present(t, err);
    if (code == -EINTR)
        return code;
    if (code)
        return error_prefix(err, "what was recorded so far cannot be replayed");
    t->history_is_complete = true;
    return 0;
}

/* ---- the end ---- */

void live_target_finish(struct live_target *t)
{
    if (t->over)
        return;
    t->failed = recorder_finish(t->recorder, &t->result, &t->error);
    t->over = true;
    t->history_is_complete = false;
}

/* The guest ended: what is left is history, seen from its end. If that fails the last state of the guest is shown. */
static void end_while_debugged(struct live_target *t, struct debug_stop *stop)
{
    static const struct timeline_interrupt never;
    struct error ignored;
    live_target_finish(t);
    stop->reason = DEBUG_STOP_HISTORY_END;
    if (t->ended)
        t->ended(t->context);
    t->in_history = live_target_complete_history(t, &never, &ignored) == 0;
}

/* ---- forwards from the present ---- */

static void report_hit(const struct live_target *t, const struct recorder_stop *at, struct debug_stop *stop)
{
    const struct trace_point *point = trace_points_watch_hit(&t->history->points, &at->hit);
    stop->reason = DEBUG_STOP_WATCH;
    stop->point = point ? point->kind : DEBUG_WATCH_WRITE;
    stop->address = at->hit.address;
}

static void report_break(struct live_target *t, struct debug_stop *stop)
{
    const struct vcpu_state *s = recorder_state(t->recorder);
    gva_t pc = vcpu_in_64bit_code(s) ? s->rip : (uint32_t)(s->seg[SEG_CS].base + s->rip);
    const struct trace_point *point = trace_points_break_at(&t->history->points, pc);
    stop->reason = DEBUG_STOP_BREAK;
    stop->point = point ? point->kind : DEBUG_BREAK_SOFTWARE;
    stop->address = pc;
    t->at_break = true;
}

static void report_caught(const struct recorder_stop *at, struct debug_stop *stop)
{
    char what[80];
    if (at->reason == RECORDER_STOP_EVENT)
        trace_catch_describe_event(&at->event, what, sizeof(what));
    else
        trace_catch_describe_hit(&at->hit, what, sizeof(what));
    stop->reason = DEBUG_STOP_CATCH;
    snprintf(stop->text, sizeof(stop->text), "caught: %s, happened", what);
}

static void report(struct live_target *t, const struct recorder_stop *at, struct debug_stop *stop)
{
    switch (at->reason) {
    case RECORDER_STOP_END:
        end_while_debugged(t, stop);
        break;
    case RECORDER_STOP_INTERRUPTED:
        stop->reason = DEBUG_STOP_INTERRUPTED;
        break;
    case RECORDER_STOP_BREAK:
        report_break(t, stop);
        break;
    case RECORDER_STOP_WATCH:
        report_hit(t, at, stop);
        break;
    case RECORDER_STOP_CATCH:
    case RECORDER_STOP_EVENT:
        report_caught(at, stop);
        break;
    case RECORDER_STOP_STEPS:
    case RECORDER_STOP_NONE:
        stop->reason = DEBUG_STOP_STEP;
        break;
    }
}

/* A device wrote RAM right after the step: what the user asked for is before that. */
static int back_to_first_step(struct live_target *t, uint64_t steps,
                              const struct timeline_interrupt *interrupt, struct error *err)
{
    int code = live_target_complete_history(t, interrupt, err);
    if (code == 0)
        code = trace_target_goto(t->history, t->history->end - (steps - 1), interrupt, err);
    note_place(t);
    return code;
}

static int run_guest(struct live_target *t, struct recorder_request *request, struct recorder_stop *at,
                     struct error *err)
{
    t->history_is_complete = false;
    t->at_break = false;
    int code = recorder_resume(t->recorder, request, at, err);
    if (code && at->reason == RECORDER_STOP_END)
        live_target_finish(t);
    return code;
}

static int resume_guest(struct live_target *t, bool step, bool break_at_start,
                        const struct timeline_interrupt *interrupt, struct debug_stop *stop,
                        struct error *err)
{
    struct recorder_stop at;
    int code = trace_points_prepare(&t->history->points, step, err);
    if (code)
        return code;
    const struct timeline_points *points = &t->history->points.prepared;
    const struct engine_points *engine = &points->engine;
    bool any = engine->break_count || engine->watch_count || engine->exceptions || engine->catches;
    struct recorder_request request = {.points = any ? engine : NULL,
                                       .want_event = points->want_event,
                                       .event_context = points->context,
                                       .steps = step,
                                       .break_at_start = break_at_start,
                                       .instruction_first = t->at_break,
                                       .interrupted = interrupt->interrupted,
                                       .context = interrupt->context};
    code = run_guest(t, &request, &at, err);
    if (code)
        return code;
    report(t, &at, stop);
    return step && at.steps > 1 && !t->over ? back_to_first_step(t, at.steps, interrupt, err) : 0;
}

int live_target_run_on(struct live_target *t, bool (*interrupted)(void *context), void *context,
                       struct error *err)
{
    struct recorder_request request = {
        .instruction_first = t->at_break, .interrupted = interrupted, .context = context};
    struct recorder_stop at;
    if (t->over)
        return 0;
    t->in_history = false;
    int code = run_guest(t, &request, &at, err);
    if (code == 0 && at.reason == RECORDER_STOP_END)
        live_target_finish(t);
    return code;
}

/* ---- moving ---- */

static int resume_history(struct live_target *t, enum debug_direction direction, bool step,
                          const struct timeline_interrupt *interrupt, struct debug_stop *stop,
                          struct error *err)
{
    struct debug_target *history = &t->history->target;
    int code =
        history->ops->resume(history, direction, step, interrupt->interrupted, interrupt->context, stop, err);
    note_place(t);
    return code;
}

static int resume_backwards(struct live_target *t, bool step, const struct timeline_interrupt *interrupt,
                            struct debug_stop *stop, struct error *err)
{
    int code = t->in_history ? 0 : live_target_complete_history(t, interrupt, err);
    if (code == 0)
        return resume_history(t, DEBUG_BACKWARDS, step, interrupt, stop, err);
    if (code != -EINTR)
        return code;
    stop->reason = DEBUG_STOP_INTERRUPTED;
    return 0;
}

static int resume_forwards(struct live_target *t, bool step, const struct timeline_interrupt *interrupt,
                           struct debug_stop *stop, struct error *err)
{
    bool from_history = t->in_history;
    if (from_history) {
        int code = resume_history(t, DEBUG_FORWARDS, step, interrupt, stop, err);
        if (code || t->in_history || stop->reason != DEBUG_STOP_HISTORY_END) {
            t->at_break = !t->in_history && stop->reason == DEBUG_STOP_BREAK;
            return code;
        }
        *stop = (struct debug_stop){0};
    }
    if (t->over) { /* and history cannot be shown */
        stop->reason = DEBUG_STOP_HISTORY_END;
        return 0;
    }
    return resume_guest(t, step, from_history, interrupt, stop, err);
}

static int target_resume(struct debug_target *target, enum debug_direction direction, bool step,
                         bool (*interrupted)(void *context), void *context, struct debug_stop *stop,
                         struct error *err)
{
    const struct timeline_interrupt interrupt = {interrupted, context};
    *stop = (struct debug_stop){0};
    return direction == DEBUG_BACKWARDS ? resume_backwards(of(target), step, &interrupt, stop, err)
                                        : resume_forwards(of(target), step, &interrupt, stop, err);
}

static bool target_can_reverse(struct debug_target *target)
{
    (void)target;
    return true;
}

/* ---- monitor ---- */

/* Commands that say nothing of where the guest stands, so that history need not reach there. */
static bool needs_history(const char *command)
{
    static const char *const without[] = {"help", "catch", "marks"};
    command += strspn(command, " \t");
    size_t length = strcspn(command, " \t");
    for (size_t i = 0; i < ARRAY_LEN(without); i++)
        if (strlen(without[i]) == length && strncmp(command, without[i], length) == 0)
            return false;
    return length > 0;
}

static void put_state(const struct live_target *t, struct buffer *out)
{
    const char *text = t->over ? "the recording is over\n"
                       : t->in_history
                           ? "in the history of a guest that is being recorded; \"goto end\": its present\n"
                       : recorder_in_emulator(t->recorder)
                           ? "the present of a guest that is being recorded, moved from KVM to the emulator\n"
                           : "the present of a guest that is being recorded\n";
    buffer_put(out, text, strlen(text));
}

static int target_monitor(struct debug_target *target, const char *command, struct buffer *out, bool *moved,
                          bool (*interrupted)(void *context), void *context, struct error *err)
{
    struct live_target *t = of(target);
    const struct timeline_interrupt interrupt = {interrupted, context};
    *moved = false;
    int code = needs_history(command) ? live_target_complete_history(t, &interrupt, err) : 0;
    if (code)
        return code;
    code = monitor_run(t->history, command, out, moved, interrupt, err);
    if (needs_history(command))
        note_place(t);
    if (code == 0 && strcmp(command, "info") == 0)
        put_state(t, out);
    return code;
}

static const struct debug_target_ops target_ops = {
    .state = target_state,
    .set_state = target_set_state,
    .read = target_read,
    .read_physical = target_read_physical,
    .write = target_write,
    .write_physical = target_write,
    .insert_point = target_insert,
    .remove_point = target_remove,
    .resume = target_resume,
    .monitor = target_monitor,
    .can_reverse = target_can_reverse,
};

/* ---- opening ---- */

int live_target_open(struct live_target **out, struct recorder *recorder, const char *trace_path,
                     uint64_t memory_budget_bytes, struct error *err)
{
    struct live_target *t = calloc(1, sizeof(*t));
    *out = NULL;
    if (!t)
        return error_set(err, -ENOMEM, "out of memory");
    t->target.ops = &target_ops;
    t->recorder = recorder;
    int code = recorder_sync(recorder, err);
    if (code == 0)
        code = trace_target_open_growing(&t->history, trace_path, memory_budget_bytes, err);
    if (code) {
        live_target_close(t);
        return code;
    }
    *out = t;
    return 0;
}

void live_target_close(struct live_target *t)
{
    if (!t)
        return;
    trace_target_close(t->history);
    free(t);
}
