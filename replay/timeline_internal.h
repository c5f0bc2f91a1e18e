/* What the files of the timeline share. Private to replay. */
#ifndef DEJAVM_REPLAY_TIMELINE_INTERNAL_H
#define DEJAVM_REPLAY_TIMELINE_INTERNAL_H

#include "replay/checkpoint.h"
#include "replay/internal.h"
#include "replay/timeline.h"

/* A place where the present points stop, as found by a scan. */
struct timeline_hit {
    position_t at; /* of the transition, or of the instruction at a break */
    enum timeline_stop_reason reason;
    struct engine_hit hit;
    struct event event;
};

/* All hits of some points in [from, to), ascending; at most one per position. */
struct timeline_hits {
    struct timeline_points points; /* a copy of its own */
    bool valid;
    position_t from, to;
    struct timeline_hit *list;
    size_t count, capacity;
};

struct timeline {
    struct timeline_options options;
    struct replay *replay;
    struct checkpoints *checkpoints;
    position_t end;
    bool inexact;      /* something that belongs to the present position has been done already */
    bool give_console; /* running for the user: what the guest prints is passed on */
    struct timeline_hits hits;
    /* Keyframes around where it was last asked for: the one before, and the position of the one after. */
    bool keyframe_known;
    struct trace_keyframe_info keyframe;
    position_t next_keyframe;
    double ns_per_step, ns_per_load; /* measured, to choose between ways */
    uint64_t keyframe_loads, steps_executed;
};

/* ---- timeline_travel.c ---- */

/* How checkpoints are laid on the way. */
enum timeline_spacing {
    SPACING_EVEN,     /* the user may stop anywhere */
    SPACING_TO_TARGET /* ever denser towards the target */
};

/*
 * Runs forward to target, laying checkpoints, or to the first stop of the replay's points. -EINTR (with no message that matters)
 * when interrupted: it stands where it got to.
 */
int timeline_run(struct timeline *t, position_t target, enum timeline_spacing spacing,
                 const struct timeline_interrupt *interrupt, struct replay_stop *stop,
                 struct error *err) must_check;
/* Goes to position, at most end, by the shortest way. Interrupted: -EINTR, standing anywhere. */
int timeline_travel(struct timeline *t, position_t position, const struct timeline_interrupt *interrupt,
                    struct error *err) must_check;
/* The nearest place at or before position that can be reached without running. */
int timeline_nearest(struct timeline *t, position_t position, position_t *nearest,
                     struct error *err) must_check;
/* Makes the place where it stands a checkpoint. */
int timeline_checkpoint_here(struct timeline *t, struct error *err) must_check;
bool timeline_is_interrupted(const struct timeline_interrupt *interrupt);

/* ---- timeline_hits.c ---- */

/* Forgets all hits that are not those of points. -ENOMEM. */
int timeline_hits_for(struct timeline_hits *h, const struct timeline_points *points,
                      struct error *err) must_check;
void timeline_hits_free(struct timeline_hits *h);
/* The last one before position, or NULL. */
const struct timeline_hit *timeline_hits_before(const struct timeline_hits *h, position_t position);
/* A stop that a scan of [from, ...) came to. When there are too many, the first ones are forgotten and *from moves. */
int timeline_hits_add(struct timeline_hits *scan, const struct replay_stop *stop,
                      struct error *err) must_check;
/* scan's hits are added to h's if the two ranges touch, else they replace them. scan is used up. */
int timeline_hits_merge(struct timeline_hits *h, struct timeline_hits *scan, struct error *err) must_check;

#endif
