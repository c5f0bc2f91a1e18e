/*
 * The timeline: moving freely through a sealed trace, in both directions, under a memory budget.
 *
 * It keeps checkpoints in memory: the vCPU's state, the place in the event stream, and the pages that changed since the
 * checkpoint before. Since replay is deterministic, a checkpoint stays true for ever. They lie dense near where the user stands
 * and thin out exponentially with distance; keyframes of the trace are the far ones. Going backwards is: nearest checkpoint
 * before, run forward noting hits, go to the last one.
 */
#ifndef DEJAVM_REPLAY_TIMELINE_H
#define DEJAVM_REPLAY_TIMELINE_H

#include "core/engine.h"
#include "replay/replay.h"

struct timeline;

struct timeline_options {
    uint64_t memory_budget_bytes; /* of checkpoints; 0: 1 GiB */
    /* What the guest prints while running forwards for the user (not while scanning). May be NULL. */
    void (*console)(void *context, unsigned channel, const uint8_t *data, size_t length);
    void *context;
    /*
     * The trace is still being recorded, by this process: it is not sealed, and its end is where timeline_extend() has come to,
     * 0 at first.
     */
    bool growing;
};

/* Seals the trace first if need be. Stands at position 0. */
int timeline_open(struct timeline **out, const char *path, const struct timeline_options *options,
                  struct error *err) must_check;
void timeline_close(struct timeline *t); /* NULL is fine */

position_t timeline_position(const struct timeline *t);
position_t timeline_end(const struct timeline *t); /* the last position of the trace */
/* The replay underneath, for its state, RAM, reader and symbols; not to be run or sought directly. */
struct replay *timeline_replay(struct timeline *t);

struct timeline_interrupt;
/*
 * For a growing trace, which has been flushed: replays what has been added, checks it, and stands at the new end. -EINTR: the end is
 * as far as it got. After another failure it stands somewhere before the end. A digest of the present state as the trace's last
 * event makes sure that the end is that state.
 */
int timeline_extend(struct timeline *t, const struct timeline_interrupt *interrupt,
                    struct error *err) must_check;

/*
 * interrupted: asked at least every 50 ms. True ends timeline_goto with -EINTR, standing where it was before, and the other two
 * with TIMELINE_STOP_INTERRUPTED: forwards where it has got to, backwards at the earliest place after which nothing was found. May
 * be NULL.
 */
struct timeline_interrupt {
    bool (*interrupted)(void *context);
    void *context;
};

/* -ERANGE beyond the end. */
int timeline_goto(struct timeline *t, position_t position, const struct timeline_interrupt *interrupt,
                  struct error *err) must_check;

enum timeline_stop_reason {
    TIMELINE_STOP_TARGET, /* reached the position asked for */
    TIMELINE_STOP_BREAK,
    TIMELINE_STOP_WATCH,
    TIMELINE_STOP_CATCH,
    TIMELINE_STOP_EVENT, /* an event that the filter wants */
    TIMELINE_STOP_BEGIN,
    TIMELINE_STOP_END,
    TIMELINE_STOP_INTERRUPTED,
};

/* What to stop at besides the engine's points. */
struct timeline_points {
    struct engine_points engine;
    /*
     * Asked for each event of the trace as it is passed, or about to be; true stops before its transition. May be NULL. The same
     * event may be asked about again.
     */
    bool (*want_event)(void *context, const struct event *event);
    void *context;
    /*
     * Names what want_event answers: as long as this number, want_event and context are the same, so are the answers. 0: they may change
     * at any time, and hits are not remembered from one call to the next.
     */
    uint64_t event_filter;
};

struct timeline_stop {
    enum timeline_stop_reason reason;
    position_t position;   /* where it stands now */
    struct engine_hit hit; /* with WATCH and CATCH */
    struct event event;    /* with EVENT; data pointers are not kept */
};

/*
 * What counts as a stop at position q, whichever way it is come by:
 *   BREAK  the instruction at q has the address and is the transition q -> q+1: not where an interrupt or a device comes first
 *          (the instruction comes again after it). Every iteration of a REP counts.
 *   WATCH  q -> q+1 makes the access: an instruction, a delivery (its pushes), or a device's write, found through the page tables
 *          as they are at q.
 *   CATCH  q -> q+1 is the exception's delivery, or the instruction.
 *   EVENT  the event's position is q.
 * Backwards, where several are at q, WATCH and CATCH are told rather than BREAK and EVENT.
 */

/*
 * Forwards to the first stop after the present position, at most to limit (POSITION_UNKNOWN: the end).
 * BREAK: at the instruction, not executed. WATCH, CATCH: right after the transition that did it.
 */
int timeline_forward(struct timeline *t, const struct timeline_points *points, position_t limit,
                     const struct timeline_interrupt *interrupt, struct timeline_stop *stop,
                     struct error *err) must_check;

/*
 * Backwards to the last stop before the present position, at least to limit. BREAK: at the instruction. WATCH, CATCH, EVENT:
 * right *before* the transition that does it, so that the value shown is the old one.
 */
int timeline_backward(struct timeline *t, const struct timeline_points *points, position_t limit,
                      const struct timeline_interrupt *interrupt, struct timeline_stop *stop,
                      struct error *err) must_check;

struct timeline_statistics {
    uint64_t checkpoints, checkpoint_bytes, restores, keyframe_loads, steps_executed;
};
void timeline_statistics(const struct timeline *t, struct timeline_statistics *out);

#endif
