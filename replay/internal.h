/*
 * A replay's own state, and what its files call of each other. Private to replay.
 *
 *   replay.c           opens and closes; questions about where it stands
 *   replay_run.c       the run: executes up to the next event, applies it, checks it
 *   landmark.c         finds the boundary that a landmark describes
 *   replay_points.c    stops for a debugger on the way
 *   replay_boundary.c  the boundary: answers from the trace, checks outputs
 *   replay_keyframe.c  loads and stores keyframes; seeking
 *   replay_seal.c      the first replay of a trace: finds positions, writes keyframes
 *   divergence.c       the report when guest and trace disagree
 */
#ifndef DEJAVM_REPLAY_INTERNAL_H
#define DEJAVM_REPLAY_INTERNAL_H

#include "core/cpu_model.h"
#include "core/engine.h"
#include "core/ram_tracker.h"
#include "replay/replay.h"

#define REPLAY_HISTORY     8
#define REPLAY_SLICE_STEPS 2000000u /* between two calls of the progress hook */

/* How a landmark's search went, for the report if it fails. */
struct landmark_search {
    position_t start;         /* where the search began */
    uint64_t registers_equal; /* boundaries with equal RIP, GPRs and RFLAGS */
    uint64_t witness_differs, fpu_differs, page_differs;
    size_t hint; /* the page that differed last: looked at first, since it tends to differ again */
    gfn_t page_gfn;
    struct engine_match_miss miss;
};

struct past_event {
    enum event_type type;
    position_t position;
    uint64_t address, value;
    uint8_t vector;
};

/*
 * What a run stops at on its way, and how far it has got with that. The same one is kept while running on from stop to stop; a
 * run that starts elsewhere needs a new one.
 */
struct replay_points {
    const struct engine_points *engine;                           /* or NULL */
    bool (*want_event)(void *context, const struct event *event); /* or NULL */
    void *context;
    position_t from; /* breaks and events before this position do not count */

    position_t break_done; /* where a break was told last; POSITION_UNKNOWN at first */
    uint64_t asked;        /* events before this number have been asked about; 0 at first */
    bool is_wanted;        /* wanted is to be told, when its position is reached */
    struct event wanted;
    bool is_hit; /* the last transition did what hit says */
    struct engine_hit hit;
    int hit_kind; /* ENGINE_STOP_WATCH or ENGINE_STOP_CATCH */
};

enum replay_stop_reason {
    REPLAY_STOP_TARGET,
    REPLAY_STOP_END, /* of the trace */
    REPLAY_STOP_BREAK,
    REPLAY_STOP_WATCH,
    REPLAY_STOP_CATCH,
    REPLAY_STOP_EVENT,
};

struct replay_stop {
    enum replay_stop_reason reason;
    position_t at;         /* of the transition that did it, or that would be next (BREAK) */
    bool exact;            /* nothing that belongs to the present position has been done yet */
    struct engine_hit hit; /* WATCH, CATCH */
    struct event event;    /* EVENT; without what it points to */
};

/* Where a replay stands, without RAM: what has to be set to stand there again. */
struct replay_place {
    position_t position;
    uint64_t events, interrupts, digests_checked, outputs_checked, console_bytes;
    position_t last_event_position;
    struct vcpu_state state;
};

struct replay {
    struct boundary boundary;
    struct replay_hooks hooks;
    struct trace_reader *reader;
    struct trace_cursor *cursor;
    struct guest_ram *ram;
    struct ram_tracker tracker;
    struct cpu_model model;
    struct engine *engine;
    struct symbols *symbols; /* from the first time that they are wanted */
    bool symbols_wanted;
    struct replay_totals totals;

    struct event next; /* the next event of the stream; annotations have been taken out */
    bool have_next;
    position_t last_event_position;
    bool ran_out; /* the guest went on where the trace has no more events */

    struct landmark_search search;
    struct engine_match match; /* of the landmark that next is placed by */
    struct past_event history[REPLAY_HISTORY];
    unsigned history_count; /* all that were ever put there */

    struct replay_points *points;
    position_t done_here; /* where an event was done that is no transition; POSITION_UNKNOWN: nowhere yet */

    struct error error; /* what happened inside the boundary or a hook */
    bool failed;

    bool note_positions; /* of a trace that is being recorded: the reader is told them */
    bool profiles;
    struct replay_profile profile;
    uint64_t crossing_since_ns; /* when the boundary was called */

    struct trace_writer *seal; /* while sealing */
    position_t next_keyframe;
    struct trace_seal_summary summary;
};

/* replay_boundary.c */
extern const struct boundary_ops replay_boundary_ops;

/* replay_run.c */
/* Fetches the next event; gives annotations on the way to the hooks. */
int replay_fetch(struct replay *r, struct error *err) must_check;
/* The next event has happened at position. */
int replay_consume(struct replay *r, position_t position, struct error *err) must_check;
/* As replay_run, but stops at r->points as well. */
int replay_run_to(struct replay *r, position_t position, struct replay_stop *stop,
                  struct error *err) must_check;

/* replay.c */
/* Sees what has been recorded since, in a trace that is still being written. */
int replay_refresh(struct replay *r, struct error *err) must_check;

/* replay_points.c */
/* NULL: none. points stays the caller's, and in use until the next call. */
void replay_set_points(struct replay *r, struct replay_points *points);
/* An event has been fetched: is it wanted? */
void points_ask(struct replay *r);
/* The engine stopped because of a point. */
void points_take_hit(struct replay *r, int engine_stop);
/* After an interrupt was delivered or the boundary stopped the engine: was anything hit in that? */
int points_poll(struct replay *r, struct error *err) must_check;
/* A device is about to write RAM. */
void points_note_dma(struct replay *r, const struct event *dma);
/* Is there something to stop at, here? */
bool points_stop_here(struct replay *r, struct replay_stop *stop);
/* The run must not go beyond limit without looking. */
position_t points_limit(const struct replay *r, position_t limit);

/* landmark.c */
/* Sets up the search for the landmark of the next event, if it has one and its position is not known. */
void landmark_prepare(struct replay *r);
/* How the search went, in words, for a report. */
const char *landmark_describe_search(const struct replay *r, char *out, size_t size);
/* Diverges when the search has gone on for longer than the recording can have. */
int landmark_check_search(struct replay *r, struct error *err) must_check;
/* At the landmark's boundary: sets the A and D bits that the recording's CPU had set ahead of the instruction. */
void landmark_apply_entries(struct replay *r);

/* replay_keyframe.c */
int replay_load_keyframe(struct replay *r, uint64_t index, struct error *err) must_check;
void replay_save_place(struct replay *r, struct replay_place *place);
/* RAM holds what it held there. */
int replay_restore_place(struct replay *r, const struct replay_place *place, struct error *err) must_check;
int replay_write_keyframe(struct replay *r, struct error *err) must_check;

/* replay_run.c: the next event happens at this boundary. */
bool replay_event_is_due(const struct replay *r);

/* replay.c */
/* The host's clock while time is taken, else 0. */
uint64_t replay_profile_now_ns(const struct replay *r);

/* divergence.c */
/* Builds the report (position, RIP, instruction, what, last events) and returns -EILSEQ. */
int replay_diverged(struct replay *r, struct error *err, const char *format, ...) format_printf(3, 4);
/* One line for an event. */
const char *replay_describe_event(const struct event *event, char *out, size_t size);

#endif
