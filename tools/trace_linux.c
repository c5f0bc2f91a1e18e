#include "tools/trace_linux.h"
#include "core/loader.h"
#include "core/x86/inspect.h"

#include <errno.h>
#include <string.h>

static struct trace_target *of(struct debug_target *target)
{
    return container_of(target, struct trace_target, target);
}

static uint64_t moment(const struct trace_target *t)
{
    return timeline_position(t->timeline);
}

/* ---- finding ---- */

static int look(struct trace_target *t, struct error *err)
{
    const struct linux_view view = trace_linux_view(t);
    return linux_guest_open(&t->kernel->guest, &view, err);
}

static bool loaded_as_linux(const struct trace_target *t)
{
    const char *format = trace_reader_info(t->reader)->meta.guest_format;
    return strcmp(format, guest_format_name(GUEST_LINUX_BZIMAGE)) == 0 ||
           strcmp(format, guest_format_name(GUEST_PVH)) == 0;
}

int trace_linux_find(struct trace_target *t, const struct timeline_interrupt *interrupt, struct error *err)
{
    position_t here = timeline_position(t->timeline);
    if (t->kernel->guest)
        return 0;
    int code = look(t, err);
    if (code != -ENOENT || here == t->end || !loaded_as_linux(t))
        return code;
    code = trace_target_goto(t, t->end, interrupt, err);
    if (code)
        return code;
    code = look(t, err);
    int back = trace_target_goto(t, here, NULL, err);
    return back ? back : code;
}

/* ---- names ---- */

const struct linux_modules *trace_linux_modules(const struct trace_target *t)
{
    const struct linux_view view = trace_linux_view(t);
    return linux_session_modules(t->kernel, &view, moment(t));
}

const char *trace_linux_describe(const struct trace_target *t, gva_t address, char *out, size_t size)
{
    const struct linux_view view = trace_linux_view(t);
    return linux_session_describe(t->kernel, &view, moment(t), address, out, size);
}

bool trace_linux_symbol(const struct trace_target *t, const char *name, gva_t *address)
{
    const struct linux_view view = trace_linux_view(t);
    return linux_session_symbol(t->kernel, &view, moment(t), name, address);
}

/* ---- threads ---- */

uint64_t trace_linux_thread_current(struct debug_target *target)
{
    struct trace_target *t = of(target);
    const struct linux_view view = trace_linux_view(t);
    return linux_session_thread(t->kernel, &view);
}

void trace_linux_thread_list(struct debug_target *target, struct buffer *out)
{
    struct trace_target *t = of(target);
    const struct linux_view view = trace_linux_view(t);
    linux_session_threads(t->kernel, &view, moment(t), out);
}

bool trace_linux_thread_text(struct debug_target *target, uint64_t id, char *out, size_t size)
{
    struct trace_target *t = of(target);
    const struct linux_view view = trace_linux_view(t);
    return linux_session_thread_text(t->kernel, &view, moment(t), id, out, size);
}

bool trace_linux_thread_state(struct debug_target *target, uint64_t id, struct vcpu_state *out)
{
    struct trace_target *t = of(target);
    const struct linux_view view = trace_linux_view(t);
    return linux_session_thread_state(t->kernel, &view, moment(t), id, out);
}

size_t trace_linux_read_in(struct debug_target *target, const struct vcpu_state *state, gva_t address,
                           void *out, size_t length)
{
    return x86_read_virtual(trace_target_ram(of(target)), state, address, out, length);
}
