/* The Linux guest in a trace: finding it, its names, and its tasks as GDB's threads. */
#ifndef DEJAVM_TOOLS_TRACE_LINUX_H
#define DEJAVM_TOOLS_TRACE_LINUX_H

#include "tools/linux_session.h"
#include "tools/trace_target.h"

static inline struct linux_view trace_linux_view(const struct trace_target *t)
{
    return (struct linux_view){trace_target_ram(t), trace_target_state(t)};
}

/*
 * Looks for a Linux kernel here; where it is not up yet, and the trace's guest is one, also at the end of the trace (the target stands
 * here again afterwards). From then on t->kernel->guest is it. -ENOENT: the guest is not Linux, as far as can be seen; -ENOTSUP: it
 * is one that cannot be read; both with a message.
 */
int trace_linux_find(struct trace_target *t, const struct timeline_interrupt *interrupt,
                     struct error *err) must_check;

/* The modules that are loaded here; NULL where none are known. */
const struct linux_modules *trace_linux_modules(const struct trace_target *t);

/* For trace_target.c: names, and the target's thread operations. */
const char *trace_linux_describe(const struct trace_target *t, gva_t address, char *out, size_t size);
bool trace_linux_symbol(const struct trace_target *t, const char *name, gva_t *address);
uint64_t trace_linux_thread_current(struct debug_target *target);
void trace_linux_thread_list(struct debug_target *target, struct buffer *out);
bool trace_linux_thread_text(struct debug_target *target, uint64_t id, char *out, size_t size);
bool trace_linux_thread_state(struct debug_target *target, uint64_t id, struct vcpu_state *out);
size_t trace_linux_read_in(struct debug_target *target, const struct vcpu_state *state, gva_t address,
                           void *out, size_t length);

#endif
