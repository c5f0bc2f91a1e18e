/*
 * The debug target over a trace: gdbstub's interface, implemented on replay's timeline. History can be looked at and moved
 * through in both directions, and not changed.
 */
#ifndef DEJAVM_TOOLS_TRACE_TARGET_H
#define DEJAVM_TOOLS_TRACE_TARGET_H

#include "tools/trace_points.h"

#define MARK_NAME_BYTES   48
#define MARKS_MAX         ((size_t)1000)
#define SYMBOL_TABLES_MAX 64

struct mark {
    char name[MARK_NAME_BYTES];
    position_t position;
};

struct linux_session;

struct trace_target {
    struct debug_target target;
    char *path;
    struct timeline *timeline;
    struct trace_reader *reader;     /* for lists of events */
    struct trace_reader *own_reader; /* the same, or NULL where it is the timeline's */
    position_t end;
    struct event end_event; /* EVENT_END; type 0 when the recording was cut short. data is not kept */
    struct symbols *tables[SYMBOL_TABLES_MAX]; /* besides those of the guest's image */
    uint64_t table_offsets[SYMBOL_TABLES_MAX]; /* what a table's addresses are moved by */
    size_t table_count;
    struct linux_session *kernel; /* never NULL; trace_linux_find fills it */
    struct trace_points points;
    struct mark *marks;
    size_t mark_count;
    /* What the guest prints while it runs forwards for the user. May be NULL. */
    void (*console)(void *context, const uint8_t *data, size_t length);
    void *console_context;
};

/* The trace must be sealed, or can be. Stands at 0. memory_budget_bytes: of checkpoints, 0: the default. */
int trace_target_open(struct trace_target **out, const char *path, uint64_t memory_budget_bytes,
                      struct error *err) must_check;
/* Of a trace that is being recorded by this process: its end is where trace_target_extend has come to, 0 at first. */
int trace_target_open_growing(struct trace_target **out, const char *path, uint64_t memory_budget_bytes,
                              struct error *err) must_check;
/* As timeline_extend. */
int trace_target_extend(struct trace_target *t, const struct timeline_interrupt *interrupt,
                        struct error *err) must_check;
void trace_target_close(struct trace_target *t); /* NULL is fine */

/* Symbols for `monitor` from one more ELF file; those of a Linux kernel are moved to where it runs, when it has been found. */
int trace_target_add_symbols(struct trace_target *t, const char *path, struct error *err) must_check;

/* True when the guest came to a bad end, with what it was in words. */
bool trace_target_crashed(const struct trace_target *t, char *why, size_t size);

/*
 * The position that text means: a number, "start", "end", "crash", "event N", "N%", "+N", "-N" (from here), or the name of
 * a mark. -EINVAL or -ERANGE with a message.
 */
int trace_target_where(struct trace_target *t, const char *text, position_t *out,
                       struct error *err) must_check;
/* True when the text has the form of a position; looks nothing up. */
bool trace_position_well_formed(const char *text);

int trace_target_goto(struct trace_target *t, position_t position, const struct timeline_interrupt *interrupt,
                      struct error *err) must_check;

static inline const struct vcpu_state *trace_target_state(const struct trace_target *t)
{
    return replay_state(timeline_replay(t->timeline));
}

static inline const struct guest_ram *trace_target_ram(const struct trace_target *t)
{
    return replay_ram(timeline_replay(t->timeline));
}

/* As symbols_describe and symbols_find, in all tables. */
const char *trace_target_describe(const struct trace_target *t, gva_t address, char *out, size_t size);
bool trace_target_find_symbol(const struct trace_target *t, const char *name, gva_t *address);

/* Reads what can be read from the start of the range; returns how many bytes. */
size_t debug_read_physical(const struct guest_ram *ram, gpa_t address, void *out, size_t length);

/* Linear address of the next instruction. */
gva_t trace_target_pc(const struct trace_target *t);

/* Opens a cursor at an event of the trace, with a reader of the target's own. */
int trace_target_events(struct trace_target *t, uint64_t index, struct trace_cursor **out,
                        struct error *err) must_check;

#endif
