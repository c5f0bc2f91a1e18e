#include "tools/crash_site.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/x86/inspect.h"
#include "tools/trace_linux.h"

#define DELIVERIES_MAX      100000u /* exceptions to look at on the way back from the report to its cause */
#define VECTOR_DOUBLE_FAULT 8u
#define VECTOR_PAGE_FAULT   14u

/* Vectors that push an error code (SDM 3, table 6-1): 8, 10 to 14, 17, 21, 29, 30. */
#define VECTORS_WITH_ERROR_CODE 0x60227d00u

static void copy_printable(char *out, size_t size, const uint8_t *data, size_t length)
{
    size_t used = 0;
    for (size_t i = 0; i < length && used + 1 < size; i++)
        if (data[i] >= 0x20 && data[i] < 0x7f)
            out[used++] = (char)data[i];
    out[used] = '\0';
}

bool crash_first_mark(struct trace_target *t, position_t *position, char *text, size_t size,
                      struct error *err)
{
    struct trace_cursor *cursor;
    struct event event;
    const uint8_t *told = NULL;
    size_t length = 0;
    if (trace_target_events(t, 0, &cursor, err))
        return false;
    while (!told && trace_cursor_next(cursor, &event, err) == 1)
        told = event.position == POSITION_UNKNOWN ? NULL : event_crash_text(&event, &length);
    if (told) {
        *position = event.position;
        copy_printable(text, size, told, length);
    }
    trace_cursor_close(cursor);
    return told != NULL;
}

/* The frame of the exception that the code at the top of this stack handles: an interrupted place that an exception's entry code called from. */
static const struct linux_frame *exception_frame(const struct linux_guest *g,
                                                 const struct linux_frame *frames, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        struct linux_symbol symbol;
        if (!frames[i].entry || frames[i].uncertain)
            continue;
        for (size_t j = 0; j < i; j++)
            if (linux_symbol_of(g, frames[j].rip, &symbol, NULL) &&
                (strncmp(symbol.name, "exc_", 4) == 0 || strncmp(symbol.name, "asm_exc_", 8) == 0))
                return &frames[i];
    }
    return NULL;
}

int crash_backward(struct trace_target *t, const struct timeline_points *points,
                   const struct timeline_interrupt *interrupt, struct timeline_stop *stop, struct error *err)
{
    int code = timeline_backward(t->timeline, points, 0, interrupt, stop, err);
    if (code == 0 && stop->reason == TIMELINE_STOP_INTERRUPTED)
        return error_set(err, -EINTR, "interrupted");
    return code;
}

/* Back to the delivery that interrupted that place. 1: it stands right before it; 0: it was not found. */
static int back_to_delivery(struct trace_target *t, const struct linux_frame *frame,
                            const struct timeline_interrupt *interrupt, struct crash_site *out,
                            struct error *err)
{
    const struct timeline_points points = {.engine.exceptions = 0xffffffffu};
    for (unsigned i = 0; i < DELIVERIES_MAX; i++) {
        struct timeline_stop stop;
        int code = crash_backward(t, &points, interrupt, &stop, err);
        if (code < 0)
            return code;
        if (stop.reason != TIMELINE_STOP_CATCH)
            return 0;
        const struct vcpu_state *s = trace_target_state(t);
        if (s->rip == frame->rip && s->gpr[GPR_RSP] == frame->rsp) {
            out->kind = CRASH_EXCEPTION;
            out->position = stop.position;
            out->vector = stop.hit.vector;
            return 1;
        }
    }
    return 0;
}

/* What the exception pushed, or left in CR2: seen right after its delivery. */
static int look_at_delivery(struct trace_target *t, struct crash_site *out, struct error *err)
{
    int code = timeline_goto(t->timeline, out->position + 1, NULL, err);
    if (code)
        return code;
    const struct vcpu_state *s = trace_target_state(t);
    uint64_t pushed = 0;
    out->has_error_code = out->vector < 32 && (VECTORS_WITH_ERROR_CODE >> out->vector & 1) &&
                          x86_read_virtual(trace_target_ram(t), s, s->gpr[GPR_RSP], &pushed, 8) == 8;
    out->error_code = (uint32_t)pushed;
    out->cr2 = out->vector == VECTOR_PAGE_FAULT ? s->cr2 : 0;
    return timeline_goto(t->timeline, out->position, NULL, err);
}

/* Back to the entry of the function that has a frame on this stack. 1: it stands there. */
static int back_to_call(struct trace_target *t, gva_t function, const struct timeline_interrupt *interrupt,
                        struct crash_site *out, struct error *err)
{
    const struct timeline_points points = {.engine.breaks = &function, .engine.break_count = 1};
    struct timeline_stop stop;
    int code = crash_backward(t, &points, interrupt, &stop, err);
    if (code < 0)
        return code;
    if (stop.reason != TIMELINE_STOP_BREAK)
        return 0;
    out->kind = CRASH_CALL;
    out->position = stop.position;
    return 1;
}

static bool calls(const struct linux_guest *g, const struct linux_frame *frames, size_t count,
                  const char *function, gva_t *address)
{
    for (size_t i = 0; i < count; i++) {
        struct linux_symbol symbol;
        if (linux_symbol_of(g, frames[i].rip, &symbol, NULL) && strcmp(symbol.name, function) == 0) {
            *address = symbol.address;
            return true;
        }
    }
    return false;
}

/* From the guest's words about it to what it was. 1: found, and it stands there. */
static int find_cause(struct trace_target *t, const struct linux_guest *g,
                      const struct timeline_interrupt *interrupt, struct crash_site *out, struct error *err)
{
    struct linux_frame *frames = calloc(LINUX_FRAMES_MAX, sizeof(*frames));
    const struct linux_view view = trace_linux_view(t);
    gva_t panic;
    int code = 0;
    if (!frames)
        return error_set(err, -ENOMEM, "out of memory");
    size_t count =
        linux_guest_is_up(g, &view) ? linux_backtrace(g, &view, view.state, frames, LINUX_FRAMES_MAX) : 0;
    const struct linux_frame *exception = exception_frame(g, frames, count);
    if (exception) {
        code = back_to_delivery(t, exception, interrupt, out, err);
        if (code == 1)
            code = look_at_delivery(t, out, err) < 0 ? err->code : 1;
    } else if (calls(g, frames, count, "panic", &panic)) {
        code = back_to_call(t, panic, interrupt, out, err);
    }
    free(frames);
    return code;
}

/* The recording's end is the crash: there is nothing after it. */
static int crash_at_end(struct trace_target *t, const struct timeline_interrupt *interrupt,
                        struct crash_site *out, struct error *err)
{
    char why[128];
    *out = (struct crash_site){.kind = CRASH_NONE, .told = POSITION_UNKNOWN};
    if (!trace_target_crashed(t, why, sizeof(why)))
        return 0;
    out->kind = CRASH_END;
    out->position = t->end;
    snprintf(out->text, sizeof(out->text), "%s", why);
    return timeline_goto(t->timeline, t->end, interrupt, err);
}

int crash_find(struct trace_target *t, const struct timeline_interrupt *interrupt, struct crash_site *out,
               struct error *err)
{
    position_t start = timeline_position(t->timeline), told;
    char text[CRASH_TEXT_BYTES];
    struct error reason = {0}, ignored;
    bool marked = crash_first_mark(t, &told, text, sizeof(text), &reason);
    if (reason.code < 0) {
        *err = reason;
        return reason.code;
    }
    if (!marked)
        return crash_at_end(t, interrupt, out, err);
    *out = (struct crash_site){.kind = CRASH_TOLD, .told = told, .position = told};
    memcpy(out->text, text, sizeof(text));
    int code = timeline_goto(t->timeline, told, interrupt, err);
    if (code == 0 && trace_linux_find(t, interrupt, &reason) == 0) {
        code = find_cause(t, t->kernel->guest, interrupt, out, err);
        if (code == 0)
            code = timeline_goto(t->timeline, told, NULL, err);
    }
    if (code < 0 && timeline_goto(t->timeline, start, NULL, &ignored) < 0)
        return code;
    return code < 0 ? code : 0;
}

int crash_position(struct trace_target *t, const struct timeline_interrupt *interrupt, position_t *out,
                   struct error *err)
{
    position_t here = timeline_position(t->timeline);
    struct crash_site site;
    int code = crash_find(t, interrupt, &site, err);
    if (code < 0)
        return code;
    code = timeline_goto(t->timeline, here, NULL, err);
    if (code < 0)
        return code;
    if (site.kind == CRASH_NONE) {
        char why[128];
        trace_target_crashed(t, why, sizeof(why));
        return error_set(err, -ENODATA, "the guest did not crash: it ended with %s", why);
    }
    *out = site.position;
    return 0;
}
