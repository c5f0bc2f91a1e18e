/*
 * What a debugger of a trace wants to be stopped at: its breakpoints and watchpoints, and what `monitor catch` asked for; and
 * how that is told to a timeline.
 */
#ifndef DEJAVM_TOOLS_TRACE_POINTS_H
#define DEJAVM_TOOLS_TRACE_POINTS_H

#include "gdbstub/target.h"
#include "replay/timeline.h"

#define TRACE_POINTS_MAX ((size_t)65536)
#define CATCH_LIST_MAX   16

struct trace_point {
    enum debug_point_kind kind;
    gva_t address;
    uint64_t length; /* of watchpoints; breakpoints: 0 */
};

/* What `monitor catch` asked for. */
struct trace_catch {
    uint64_t vectors[4]; /* bit v of 256: external interrupt v */
    bool nmi;
    uint64_t exceptions; /* bit v */
    uint32_t engine;     /* enum engine_catch bits */
    uint16_t port[CATCH_LIST_MAX];
    size_t port_count;
    uint32_t msr[CATCH_LIST_MAX];
    size_t msr_count;
};

struct trace_points {
    struct trace_point *list; /* watchpoints in the order in which the engine gets them */
    size_t count, capacity;
    struct trace_catch catching;
    uint64_t catch_number; /* of catching: changes when it does, never 0 */

    /* Made from the above for a run. */
    gva_t *breaks;
    struct engine_watch *watches;
    size_t *watch_of; /* index into list */
    struct timeline_points prepared;
};

void trace_points_free(struct trace_points *p);

int trace_points_insert(struct trace_points *p, enum debug_point_kind kind, gva_t address, uint64_t length,
                        struct error *err) must_check;
/* A point that is not there is no error. */
void trace_points_remove(struct trace_points *p, enum debug_point_kind kind, gva_t address, uint64_t length);

void trace_points_set_catch(struct trace_points *p, const struct trace_catch *c);
bool trace_catch_is_empty(const struct trace_catch *c);

/*
 * What a run has to stop at; for a step only the watchpoints, which it may hit. In p->prepared, valid until the next call on p.
 */
int trace_points_prepare(struct trace_points *p, bool step, struct error *err) must_check;

/* The point that a stop of the timeline is about; NULL: none. */
const struct trace_point *trace_points_break_at(const struct trace_points *p, gva_t address);
const struct trace_point *trace_points_watch_hit(const struct trace_points *p, const struct engine_hit *hit);

/* What was caught, in words: "system call", "interrupt 0x20", "write to port 0x80, value 0x1". */
void trace_catch_describe_hit(const struct engine_hit *hit, char *out, size_t size);
void trace_catch_describe_event(const struct event *e, char *out, size_t size);

/* "exception 14 (page fault)" */
const char *exception_describe(unsigned vector, char *out, size_t size);

#endif
