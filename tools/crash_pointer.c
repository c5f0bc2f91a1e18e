#include "tools/crash_pointer.h"

#include <errno.h>
#include <string.h>

#include "core/x86/inspect.h"
#include "tools/crash_site.h"

static void effect_here(const struct trace_target *t, struct x86_effect *out)
{
    x86_instruction_effect(trace_target_ram(t), trace_target_state(t), out);
}

static uint64_t read_value(const struct trace_target *t, gva_t address, unsigned bytes)
{
    uint64_t value = 0;
    x86_read_virtual(trace_target_ram(t), trace_target_state(t), address, &value, bytes);
    return value;
}

/* The register of an address that is most likely the pointer: the base, unless that is the stack's or there is none. */
static uint8_t pointer_register(const struct x86_effect *e)
{
    if (!e->has_memory)
        return X86_NO_REGISTER;
    return e->base != X86_NO_REGISTER && e->base != GPR_RSP ? e->base : e->index;
}

/*
 * Back, one transition at a time, to the instruction that loaded the register from memory; copies between registers are
 * followed. 1: it stands there, with its effect in *load. Interrupts on the way leave registers as they were, so what their handlers
 * do is looked at too and does no harm.
 */
static int back_to_load(struct trace_target *t, uint8_t reg, const struct timeline_interrupt *interrupt,
                        struct x86_effect *load, struct error *err)
{
    position_t start = timeline_position(t->timeline);
    for (position_t back = 1; back <= POINTER_STEPS_MAX && back <= start; back++) {
        int code = timeline_goto(t->timeline, start - back, interrupt, err);
        if (code < 0)
            return code;
        effect_here(t, load);
        if (!(load->writes >> reg & 1))
            continue;
        if (load->target != reg)
            return 0;
        if (load->loads)
            return load->bytes >= 1 && load->bytes <= 8;
        if (load->source == X86_NO_REGISTER)
            return 0;
        reg = load->source;
    }
    return 0;
}

static int take_write(struct trace_target *t, struct pointer_origin *out, struct error *err)
{
    struct pointer_write *w = &out->writes[out->write_count];
    position_t here = timeline_position(t->timeline);
    struct x86_effect effect;
    struct trace_cursor *cursor;
    struct event event;
    uint64_t index;
    effect_here(t, &effect);
    *w = (struct pointer_write){.position = here,
                                .rip = trace_target_state(t)->rip,
                                .old_value = read_value(t, out->address, out->bytes)};
    int code = trace_reader_find_event(t->reader, here, &index, err);
    if (code == 0)
        code = trace_target_events(t, index, &cursor, err);
    if (code < 0)
        return code;
    while ((code = trace_cursor_next(cursor, &event, err)) == 1 && event.position == here)
        w->by_device |= event.type == EVENT_DMA;
    trace_cursor_close(cursor);
    if (code >= 0)
        code = timeline_goto(t->timeline, here + 1, NULL, err);
    if (code < 0)
        return code;
    w->new_value = read_value(t, out->address, out->bytes);
    out->write_count++;
    return timeline_goto(t->timeline, here, NULL, err);
}

static int find_writes(struct trace_target *t, const struct timeline_interrupt *interrupt,
                       struct pointer_origin *out, struct error *err)
{
    const struct engine_watch watch = {
        .address = out->address, .length = out->bytes, .accesses = ENGINE_ACCESS_WRITE};
    const struct timeline_points points = {.engine.watches = &watch, .engine.watch_count = 1};
    while (out->write_count < POINTER_WRITES_MAX && timeline_position(t->timeline) > 0) {
        struct timeline_stop stop;
        int code = crash_backward(t, &points, interrupt, &stop, err);
        if (code < 0)
            return code;
        if (stop.reason != TIMELINE_STOP_WATCH) {
            out->from_image = true;
            return 0;
        }
        code = take_write(t, out, err);
        if (code < 0)
            return code;
    }
    return 0;
}

int pointer_trace(struct trace_target *t, const struct timeline_interrupt *interrupt,
                  struct pointer_origin *out, bool *found, struct error *err)
{
    position_t start = timeline_position(t->timeline);
    struct x86_effect effect;
    struct error ignored;
    effect_here(t, &effect);
    *out = (struct pointer_origin){.reg = pointer_register(&effect)};
    *found = out->reg != X86_NO_REGISTER;
    if (!*found)
        return 0;
    out->value = trace_target_state(t)->gpr[out->reg];
    int code = back_to_load(t, out->reg, interrupt, &effect, err);
    if (code == 1) {
        out->loaded = true;
        out->position = timeline_position(t->timeline);
        out->address = effect.address;
        out->bytes = effect.bytes;
        code = find_writes(t, interrupt, out, err);
    }
    int back = timeline_goto(t->timeline, start, NULL, code < 0 ? &ignored : err);
    return code < 0 ? code : back;
}
