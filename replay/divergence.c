#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "core/x86/inspect.h"
#include "replay/internal.h"

struct text {
    char *out;
    size_t size, used;
};

static void put(struct text *t, const char *format, ...) format_printf(2, 3);
static void put(struct text *t, const char *format, ...)
{
    if (t->used >= t->size)
        return;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(t->out + t->used, t->size - t->used, format, args);
    va_end(args);
    t->used += n > 0 ? (size_t)n : 0;
}

static void describe(struct text *t, enum event_type type, uint64_t address, uint64_t value, uint8_t vector)
{
    put(t, "%s", event_type_name(type));
    switch (type) {
    case EVENT_PIO_READ:
    case EVENT_PIO_WRITE:
    case EVENT_MMIO_READ:
    case EVENT_MMIO_WRITE:
    case EVENT_MSR_READ:
    case EVENT_MSR_WRITE:
        put(t, " 0x%" PRIx64 " value 0x%" PRIx64, address, value);
        break;
    case EVENT_CPU_READ:
        put(t, " value 0x%" PRIx64, value);
        break;
    case EVENT_INTERRUPT:
        put(t, " vector 0x%x", vector);
        break;
    default:
        break;
    }
}

const char *replay_describe_event(const struct event *event, char *out, size_t size)
{
    struct text t = {.out = out, .size = size};
    out[0] = '\0';
    describe(&t, event->type, event->address, event->value, event->vector);
    return out;
}

static void put_history(struct text *t, const struct replay *r)
{
    unsigned count = r->history_count < REPLAY_HISTORY ? r->history_count : REPLAY_HISTORY;
    if (count)
        put(t, "\n  last events before it:");
    for (unsigned i = r->history_count - count; i < r->history_count; i++) {
        const struct past_event *e = &r->history[i % REPLAY_HISTORY];
        put(t, "\n    %12" PRIu64 "  ", e->position);
        describe(t, e->type, e->address, e->value, e->vector);
    }
}

static void put_registers(struct text *t, const struct vcpu_state *s)
{
    put(t,
        "\n  rax %" PRIx64 " rcx %" PRIx64 " rdx %" PRIx64 " rbx %" PRIx64 " rsp %" PRIx64 " rbp %" PRIx64
        " rsi %" PRIx64 " rdi %" PRIx64,
        s->gpr[GPR_RAX], s->gpr[GPR_RCX], s->gpr[GPR_RDX], s->gpr[GPR_RBX], s->gpr[GPR_RSP], s->gpr[GPR_RBP],
        s->gpr[GPR_RSI], s->gpr[GPR_RDI]);
    put(t, "\n  cr0 %" PRIx64 " cr2 %" PRIx64 " cr3 %" PRIx64 " rflags %" PRIx64 " cpl %u", s->cr0, s->cr2,
        s->cr3, s->rflags, vcpu_cpl(s));
}

int replay_diverged(struct replay *r, struct error *err, const char *format, ...)
{
    const struct vcpu_state *state = r->engine->ops->state(r->engine);
    char what[1536], instruction[128], symbol[256];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    x86_disassemble(r->ram, state, instruction, sizeof(instruction));
    symbols_describe(replay_symbols(r), state->rip, symbol, sizeof(symbol));
    char report[ERROR_MESSAGE_BYTES];
    struct text t = {.out = report, .size = sizeof(report)};
    put(&t, "the replay diverged from the recording at position %" PRIu64 "\n  %s", replay_position(r), what);
    put(&t, "\n  at RIP 0x%" PRIx64 "%s%s: %s", state->rip, symbol[0] ? " " : "", symbol, instruction);
    put_registers(&t, state);
    put_history(&t, r);
    return error_set_kind(err, ERROR_DIVERGENCE, -EILSEQ, "%s", report);
}
