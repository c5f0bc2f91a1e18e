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
};

/* Seals the trace first if need be. Stands at position 0. */
int timeline_open(struct timeline **out, const char *path, const struct timeline_options *options,
                  struct error *err) must_check;
void timeline_close(struct timeline *t); /* NULL is fine */

position_t timeline_position(const struct timeline *t);
position_t timeline_end(const struct timeline *t); /* the last position of the trace */
/* The replay underneath, for its state, RAM, reader and symbols; not to be run or sought directly. */
struct replay *timeline_replay(struct timeline *t);

/* interrupted: asked at least every 50 ms; true ends the call with -EINTR, standing where it was before. May be NULL. */
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
    /* Asked for each event of the trace as it is passed; true stops before its transition. May be NULL. */
    bool (*want_event)(void *context, const struct event *event);
    void *context;
};

struct timeline_stop {
    enum timeline_stop_reason reason;
    position_t position;   /* where it stands now */
    struct engine_hit hit; /* with WATCH and CATCH */
    struct event event;    /* with EVENT; data pointers are not kept */
};

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
