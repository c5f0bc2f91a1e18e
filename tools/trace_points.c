#include "tools/trace_points.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_watch(enum debug_point_kind kind)
{
    return kind >= DEBUG_WATCH_WRITE;
}

void trace_points_free(struct trace_points *p)
{
    free(p->list);
    free(p->breaks);
    free(p->watches);
    free(p->watch_of);
    *p = (struct trace_points){0};
}

/* ---- the list ---- */

static size_t find(const struct trace_points *p, const struct trace_point *wanted)
{
    for (size_t i = 0; i < p->count; i++)
        if (p->list[i].kind == wanted->kind && p->list[i].address == wanted->address &&
            p->list[i].length == wanted->length)
            return i;
    return p->count;
}

int trace_points_insert(struct trace_points *p, enum debug_point_kind kind, gva_t address, uint64_t length,
                        struct error *err)
{
    struct trace_point point = {kind, address, is_watch(kind) ? length : 0};
    gva_t end;
    if (is_watch(kind) && (length == 0 || __builtin_add_overflow(address, length, &end)))
        return error_set(err, -EINVAL, "cannot watch %" PRIu64 " bytes at 0x%" PRIx64, length, address);
    if (find(p, &point) < p->count)
        return 0;
    if (p->count == TRACE_POINTS_MAX)
        return error_set(err, -ENOSPC, "more than %zu breakpoints and watchpoints", TRACE_POINTS_MAX);
    if (p->count == p->capacity) {
        size_t capacity = p->capacity ? 2 * p->capacity : 16;
        struct trace_point *list = reallocarray(p->list, capacity, sizeof(*list));
        if (!list)
            return error_set(err, -ENOMEM, "no memory for a breakpoint");
        p->list = list;
        p->capacity = capacity;
    }
    p->list[p->count++] = point;
    return 0;
}

void trace_points_remove(struct trace_points *p, enum debug_point_kind kind, gva_t address, uint64_t length)
{
    struct trace_point point = {kind, address, is_watch(kind) ? length : 0};
    size_t i = find(p, &point);
    if (i == p->count)
        return;
    memmove(&p->list[i], &p->list[i + 1], (p->count - i - 1) * sizeof(*p->list));
    p->count--;
}

const struct trace_point *trace_points_break_at(const struct trace_points *p, gva_t address)
{
    const struct trace_point *hardware = NULL;
    for (size_t i = 0; i < p->count; i++) {
        if (p->list[i].address != address)
            continue;
        if (p->list[i].kind == DEBUG_BREAK_SOFTWARE)
            return &p->list[i];
        if (p->list[i].kind == DEBUG_BREAK_HARDWARE)
            hardware = &p->list[i];
    }
    return hardware;
}

const struct trace_point *trace_points_watch_hit(const struct trace_points *p, const struct engine_hit *hit)
{
    return hit->watch < p->prepared.engine.watch_count ? &p->list[p->watch_of[hit->watch]] : NULL;
}

/* ---- telling the timeline ---- */

bool trace_catch_is_empty(const struct trace_catch *c)
{
    const struct trace_catch none = {0};
    return memcmp(c->vectors, none.vectors, sizeof(none.vectors)) == 0 && !c->nmi && !c->exceptions &&
           !c->engine && !c->port_count && !c->msr_count;
}

static bool catches_event(const struct trace_catch *c, const struct event *e)
{
    switch (e->type) {
    case EVENT_INTERRUPT:
        return c->vectors[e->vector / 64] >> e->vector % 64 & 1;
    case EVENT_NMI:
        return c->nmi;
    case EVENT_PIO_READ:
    case EVENT_PIO_WRITE:
        for (size_t i = 0; i < c->port_count; i++)
            if (c->port[i] >= e->address && c->port[i] - e->address < e->size)
                return true;
        return false;
    case EVENT_MSR_READ:
    case EVENT_MSR_WRITE:
        for (size_t i = 0; i < c->msr_count; i++)
            if (c->msr[i] == e->address)
                return true;
        return false;
    default:
        return false;
    }
}

static bool want_event(void *context, const struct event *event)
{
    const struct trace_points *p = context;
    return catches_event(&p->catching, event);
}

void trace_points_set_catch(struct trace_points *p, const struct trace_catch *c)
{
    p->catching = *c;
    p->catch_number++;
}

static int compare_addresses(const void *a, const void *b)
{
    gva_t x = *(const gva_t *)a, y = *(const gva_t *)b;
    return x < y ? -1 : x > y;
}

/* The engine wants break addresses in order, and each one once. */
static size_t sort_breaks(gva_t *breaks, size_t count)
{
    size_t kept = 0;
    qsort(breaks, count, sizeof(*breaks), compare_addresses);
    for (size_t i = 0; i < count; i++)
        if (kept == 0 || breaks[i] != breaks[kept - 1])
            breaks[kept++] = breaks[i];
    return kept;
}

static int make_room(struct trace_points *p, struct error *err)
{
    size_t n = p->count ? p->count : 1;
    gva_t *breaks = reallocarray(p->breaks, n, sizeof(*breaks));
    p->breaks = breaks ? breaks : p->breaks;
    struct engine_watch *watches = reallocarray(p->watches, n, sizeof(*watches));
    p->watches = watches ? watches : p->watches;
    size_t *watch_of = reallocarray(p->watch_of, n, sizeof(*watch_of));
    p->watch_of = watch_of ? watch_of : p->watch_of;
    if (breaks && watches && watch_of)
        return 0;
    return error_set(err, -ENOMEM, "no memory for %zu breakpoints", p->count);
}

int trace_points_prepare(struct trace_points *p, bool step, struct error *err)
{
    static const uint8_t accesses[] = {[DEBUG_WATCH_WRITE] = ENGINE_ACCESS_WRITE,
                                       [DEBUG_WATCH_READ] = ENGINE_ACCESS_READ,
                                       [DEBUG_WATCH_ACCESS] = ENGINE_ACCESS_READ | ENGINE_ACCESS_WRITE};
    size_t breaks = 0, watches = 0;
    p->prepared = (struct timeline_points){.context = p};
    int code = make_room(p, err);
    if (code)
        return code;
    for (size_t i = 0; i < p->count; i++) {
        const struct trace_point *point = &p->list[i];
        if (is_watch(point->kind)) {
            p->watches[watches] = (struct engine_watch){point->address, point->length, accesses[point->kind]};
            p->watch_of[watches++] = i;
        } else if (!step) {
            p->breaks[breaks++] = point->address;
        }
    }
    struct engine_points *engine = &p->prepared.engine;
    engine->breaks = p->breaks;
    engine->break_count = sort_breaks(p->breaks, breaks);
    engine->watches = p->watches;
    engine->watch_count = watches;
    if (step)
        return 0;
    engine->exceptions = p->catching.exceptions;
    engine->catches = p->catching.engine;
    if (!trace_catch_is_empty(&p->catching)) {
        p->prepared.want_event = want_event;
        p->prepared.event_filter = p->catch_number;
    }
    return 0;
}

const char *exception_describe(unsigned vector, char *out, size_t size)
{
    /* SDM 3, table 6-1. */
    static const char *const names[] = {
        [VEC_DE] = "#DE, divide error",
        [VEC_DB] = "#DB, debug",
        [VEC_NMI] = "NMI",
        [VEC_BP] = "#BP, breakpoint",
        [VEC_OF] = "#OF, overflow",
        [VEC_BR] = "#BR, bound range",
        [VEC_UD] = "#UD, invalid opcode",
        [VEC_NM] = "#NM, device not available",
        [VEC_DF] = "#DF, double fault",
        [VEC_TS] = "#TS, invalid TSS",
        [VEC_NP] = "#NP, segment not present",
        [VEC_SS] = "#SS, stack fault",
        [VEC_GP] = "#GP, general protection",
        [VEC_PF] = "#PF, page fault",
        [VEC_MF] = "#MF, x87 error",
        [VEC_AC] = "#AC, alignment check",
        [VEC_MC] = "#MC, machine check",
        [VEC_XM] = "#XM, SIMD error",
    };
    const char *name = vector < ARRAY_LEN(names) ? names[vector] : NULL;
    snprintf(out, size, "exception %u%s%s%s", vector, name ? " (" : "", name ? name : "", name ? ")" : "");
    return out;
}

void trace_catch_describe_hit(const struct engine_hit *hit, char *out, size_t size)
{
    if (hit->catches & ENGINE_CATCH_SYSCALL)
        snprintf(out, size, "system call");
    else if (hit->catches & ENGINE_CATCH_CR3)
        snprintf(out, size, "write to CR3");
    else
        exception_describe(hit->vector, out, size);
}

void trace_catch_describe_event(const struct event *e, char *out, size_t size)
{
    bool write = e->type == EVENT_PIO_WRITE || e->type == EVENT_MSR_WRITE;
    switch (e->type) {
    case EVENT_INTERRUPT:
        snprintf(out, size, "interrupt 0x%02x", e->vector);
        break;
    case EVENT_NMI:
        snprintf(out, size, "NMI");
        break;
    case EVENT_PIO_READ:
    case EVENT_PIO_WRITE:
        snprintf(out, size, "%s port 0x%" PRIx64 ", value 0x%" PRIx64, write ? "write to" : "read of",
                 e->address, e->value);
        break;
    default:
        snprintf(out, size, "%s MSR 0x%" PRIx64 ", value 0x%" PRIx64, write ? "write to" : "read of",
                 e->address, e->value);
        break;
    }
}
