/* monitor catch: stops at things that are not addresses. */
#include "tools/monitor.h"
#include "tools/number.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

static int run_catch(struct monitor *m, const struct monitor_words *words, struct error *err);

const struct monitor_command monitor_catch_commands[] = {
    {"catch", "[irq [N]|nmi|exception [N]|syscall|cr3|port P|msr M|off]",
     "stop at these too, in both directions; alone: list them. MSRs: those that are events of the trace",
     run_catch},
    {0},
};

static void print_caught(struct monitor *m)
{
    const struct trace_catch *c = &m->target->points.catching;
    const char *separator = "";
    unsigned vectors = 0;
    for (unsigned v = 0; v < 256; v++)
        vectors += (unsigned)(c->vectors[v / 64] >> v % 64 & 1);
    fputs("catching: ", m->out);
    if (trace_catch_is_empty(c))
        fputs("nothing", m->out);
    for (unsigned v = 0; vectors < 256 && v < 256; v++)
        if (c->vectors[v / 64] >> v % 64 & 1)
            fprintf(m->out, "%sirq 0x%02x", separator, v), separator = ", ";
    if (vectors == 256)
        fprintf(m->out, "%sirq", separator), separator = ", ";
    if (c->nmi)
        fprintf(m->out, "%snmi", separator), separator = ", ";
    for (unsigned v = 0; (uint32_t)c->exceptions != UINT32_MAX && v < 32; v++)
        if (c->exceptions >> v & 1)
            fprintf(m->out, "%sexception %u", separator, v), separator = ", ";
    if ((uint32_t)c->exceptions == UINT32_MAX)
        fprintf(m->out, "%sexception", separator), separator = ", ";
    if (c->engine & ENGINE_CATCH_SYSCALL)
        fprintf(m->out, "%ssyscall", separator), separator = ", ";
    if (c->engine & ENGINE_CATCH_CR3)
        fprintf(m->out, "%scr3", separator), separator = ", ";
    for (size_t i = 0; i < c->port_count; i++)
        fprintf(m->out, "%sport 0x%x", separator, c->port[i]), separator = ", ";
    for (size_t i = 0; i < c->msr_count; i++)
        fprintf(m->out, "%smsr 0x%" PRIx32, separator, c->msr[i]), separator = ", ";
    putc('\n', m->out);
}

static int number_up_to(const char *what, const char *text, uint64_t max, uint64_t *out, struct error *err)
{
    if (number_parse(text, out) && *out <= max)
        return 0;
    return error_set(err, -EINVAL, "\"%.60s\" is not %s: a number from 0 to 0x%" PRIx64, text, what, max);
}

static int catch_irq(struct trace_catch *c, const char *which, struct error *err)
{
    uint64_t vector;
    if (!which) {
        memset(c->vectors, 0xff, sizeof(c->vectors));
        return 0;
    }
    int code = number_up_to("a vector", which, 255, &vector, err);
    if (code == 0)
        c->vectors[vector / 64] |= 1ull << vector % 64;
    return code;
}

static int catch_exception(struct trace_catch *c, const char *which, struct error *err)
{
    uint64_t vector;
    if (!which) {
        c->exceptions = UINT32_MAX;
        return 0;
    }
    int code = number_up_to("an exception", which, 31, &vector, err);
    if (code == 0)
        c->exceptions |= 1ull << vector;
    return code;
}

static int catch_port(struct trace_catch *c, const char *which, struct error *err)
{
    uint64_t port;
    int code = number_up_to("a port", which, UINT16_MAX, &port, err);
    if (code)
        return code;
    for (size_t i = 0; i < c->port_count; i++)
        if (c->port[i] == port)
            return 0;
    if (c->port_count == CATCH_LIST_MAX)
        return error_set(err, -ENOSPC, "more than %d ports", CATCH_LIST_MAX);
    c->port[c->port_count++] = (uint16_t)port;
    return 0;
}

static int catch_msr(struct trace_catch *c, const char *which, struct error *err)
{
    uint64_t msr;
    int code = number_up_to("an MSR", which, UINT32_MAX, &msr, err);
    if (code)
        return code;
    for (size_t i = 0; i < c->msr_count; i++)
        if (c->msr[i] == msr)
            return 0;
    if (c->msr_count == CATCH_LIST_MAX)
        return error_set(err, -ENOSPC, "more than %d MSRs", CATCH_LIST_MAX);
    c->msr[c->msr_count++] = (uint32_t)msr;
    return 0;
}

static int catch_one(struct trace_catch *c, const struct monitor_words *words, struct error *err)
{
    const char *kind = words->word[0], *which = words->count == 2 ? words->word[1] : NULL;
    if (words->count > 2)
        return monitor_usage(monitor_catch_commands, err);
    if (strcmp(kind, "irq") == 0)
        return catch_irq(c, which, err);
    if (strcmp(kind, "exception") == 0)
        return catch_exception(c, which, err);
    if (strcmp(kind, "port") == 0 && which)
        return catch_port(c, which, err);
    if (strcmp(kind, "msr") == 0 && which)
        return catch_msr(c, which, err);
    if (which)
        return monitor_usage(monitor_catch_commands, err);
    if (strcmp(kind, "nmi") == 0)
        c->nmi = true;
    else if (strcmp(kind, "syscall") == 0)
        c->engine |= ENGINE_CATCH_SYSCALL;
    else if (strcmp(kind, "cr3") == 0)
        c->engine |= ENGINE_CATCH_CR3;
    else if (strcmp(kind, "off") == 0)
        *c = (struct trace_catch){0};
    else
        return monitor_usage(monitor_catch_commands, err);
    return 0;
}

static int run_catch(struct monitor *m, const struct monitor_words *words, struct error *err)
{
    struct trace_catch wanted = m->target->points.catching;
    int code = words->count ? catch_one(&wanted, words, err) : 0;
    if (code)
        return code;
    trace_points_set_catch(&m->target->points, &wanted);
    print_caught(m);
    return 0;
}
