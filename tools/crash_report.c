#include "tools/crash_report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/x86/inspect.h"
#include "tools/trace_linux.h"

/* What is looked at while the report is made. */
struct maker {
    struct crash_report *report;
    struct trace_target *target;
    const struct timeline_interrupt *interrupt;
};

static void name_of(const struct maker *m, gva_t address, char *out, size_t size)
{
    trace_target_describe(m->target, address, out, size);
}

static void add_frame(const struct maker *m, struct report_actor *a, const struct linux_frame *frame,
                      bool is_return)
{
    struct report_frame *f = &a->frames[a->count++];
    *f = (struct report_frame){
        .rip = frame->rip, .uncertain = frame->uncertain, .interrupted = a->count > 1 && frame->entry};
    name_of(m, frame->rip, f->name, sizeof(f->name));
    /* A call may be a function's last instruction: the address after it belongs to the next function. */
    if (is_return && !strstr(f->name, "+0x"))
        name_of(m, frame->rip - 1, f->name, sizeof(f->name));
}

/* Frames by the chain of saved RBP, as compilers leave it with -fno-omit-frame-pointer. */
static size_t frame_pointer_chain(const struct maker *m, struct linux_frame *out, size_t max)
{
    const struct vcpu_state *s = trace_target_state(m->target);
    uint64_t frame = s->gpr[GPR_RBP];
    size_t count = 0, word = vcpu_in_64bit_code(s) ? 8 : 4;
    out[count++] = (struct linux_frame){.rip = s->rip, .rsp = s->gpr[GPR_RSP]};
    while (count < max) {
        uint64_t saved = 0, address = 0;
        char name[REPORT_NAME_BYTES];
        if (x86_read_virtual(trace_target_ram(m->target), s, frame, &saved, word) < word ||
            x86_read_virtual(trace_target_ram(m->target), s, frame + word, &address, word) < word)
            break;
        name_of(m, address, name, sizeof(name));
        if (!name[0])
            break;
        out[count++] = (struct linux_frame){.rip = address, .rsp = frame + 2 * word};
        if (saved <= frame)
            break;
        frame = saved;
    }
    return count;
}

/* Who the vCPU is working for at this position, at most max frames of it. */
static void look_at_actor(const struct maker *m, struct report_actor *a, size_t max)
{
    struct linux_frame frames[REPORT_FRAMES_MAX];
    const struct linux_guest *g = m->target->kernel->guest;
    const struct linux_view view = trace_linux_view(m->target);
    struct error ignored;
    *a = (struct report_actor){0};
    bool kernel = g && linux_guest_is_up(g, &view);
    a->have_task = kernel && linux_task_current(g, &view, &a->task, &ignored) == 0;
    size_t count =
        kernel ? linux_backtrace(g, &view, view.state, frames, max) : frame_pointer_chain(m, frames, max);
    for (size_t i = 0; i < count; i++) {
        add_frame(m, a, &frames[i], i > 0 && !frames[i].entry && !frames[i].user);
    }
}

static int look_at_pointer(struct maker *m, struct error *err)
{
    struct crash_report *r = m->report;
    if (r->site.kind != CRASH_EXCEPTION)
        return 0;
    int code = pointer_trace(m->target, m->interrupt, &r->pointer, &r->have_pointer, err);
    for (unsigned i = 0; code == 0 && r->have_pointer && i < r->pointer.write_count; i++) {
        code = timeline_goto(m->target->timeline, r->pointer.writes[i].position, m->interrupt, err);
        if (code < 0)
            break;
        look_at_actor(m, &r->writers[i], REPORT_CALLERS_MAX);
        name_of(m, r->pointer.writes[i].new_value, r->written_names[i], sizeof(r->written_names[i]));
    }
    if (r->have_pointer && r->pointer.loaded)
        name_of(m, r->pointer.address, r->address_name, sizeof(r->address_name));
    int back =
        timeline_goto(m->target->timeline, r->site.position, NULL, code < 0 ? &(struct error){0} : err);
    return code < 0 ? code : back;
}

static void note_interrupt(struct crash_report *r, const struct event *e)
{
    memmove(&r->interrupts[1], &r->interrupts[0], sizeof(r->interrupts) - sizeof(r->interrupts[0]));
    r->interrupts[0].position = e->position;
    r->interrupts[0].vector = e->vector;
    r->interrupts[0].nmi = e->type == EVENT_NMI;
    if (r->interrupt_count < REPORT_INTERRUPTS_MAX)
        r->interrupt_count++;
}

static void keep_end(struct buffer *b, size_t keep)
{
    if (b->length <= keep)
        return;
    memmove(b->data, b->data + (b->length - keep), keep);
    b->length = keep;
}

/* One pass over the events up to where the crash was told of. */
static int look_at_events(struct maker *m, struct error *err)
{
    struct crash_report *r = m->report;
    struct trace_cursor *cursor;
    struct event event;
    position_t last = r->site.told == POSITION_UNKNOWN ? r->end : r->site.told;
    int code = trace_target_events(m->target, 0, &cursor, err);
    if (code < 0)
        return code;
    while ((code = trace_cursor_next(cursor, &event, err)) == 1 && event.position <= last) {
        if ((event.type == EVENT_INTERRUPT || event.type == EVENT_NMI) && event.position < r->site.position)
            note_interrupt(r, &event);
        if (event.type == EVENT_CONSOLE && event.data_length > 0) {
            buffer_put(&r->console, event.data, event.data_length);
            if (r->console.length > 4 * REPORT_CONSOLE_BYTES)
                keep_end(&r->console, REPORT_CONSOLE_BYTES);
        }
    }
    trace_cursor_close(cursor);
    keep_end(&r->console, REPORT_CONSOLE_BYTES);
    if (r->console.failed)
        return error_set(err, -ENOMEM, "no memory for the console's text");
    return code < 0 ? code : 0;
}

static int make(struct maker *m, struct error *err)
{
    struct crash_report *r = m->report;
    int code = crash_find(m->target, m->interrupt, &r->site, err);
    if (code < 0 || r->site.kind == CRASH_NONE)
        return code;
    if (m->target->kernel->guest)
        snprintf(r->banner, sizeof(r->banner), "%s", linux_guest_banner(m->target->kernel->guest));
    r->state = *trace_target_state(m->target);
    x86_disassemble(trace_target_ram(m->target), &r->state, r->instruction, sizeof(r->instruction));
    look_at_actor(m, &r->actor, REPORT_FRAMES_MAX);
    code = look_at_pointer(m, err);
    return code == 0 ? look_at_events(m, err) : code;
}

int crash_report_make(struct crash_report *r, struct trace_target *t,
                      const struct timeline_interrupt *interrupt, struct error *err)
{
    struct maker m = {.report = r, .target = t, .interrupt = interrupt};
    *r = (struct crash_report){.end = t->end};
    return make(&m, err);
}

void crash_report_free(struct crash_report *r)
{
    buffer_free(&r->console);
}
