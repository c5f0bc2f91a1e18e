/* Moving until something happens, in both directions. */
#include <errno.h>

#include "replay/timeline_internal.h"

/* A stretch that is scanned backwards is twice as long as what was scanned before it, up to this. */
#define SCAN_FIRST_STEPS ((uint64_t)100000)
#define SCAN_MAX_STEPS   ((uint64_t)1 << 27)

static void set_points(struct timeline *t, struct replay_points *out, const struct timeline_points *points,
                       position_t from)
{
    *out = (struct replay_points){.engine = &points->engine,
                                  .want_event = points->want_event,
                                  .context = points->context,
                                  .from = from,
                                  .break_done = POSITION_UNKNOWN};
    replay_set_points(t->replay, out);
}

static void finish(const struct timeline *t, struct timeline_stop *stop, enum timeline_stop_reason reason)
{
    stop->reason = reason;
    stop->position = replay_position(t->replay);
}

/* ---- forwards ---- */

/* The run came to something: it stands at the place that the user is to see. */
static int stop_forward(struct timeline *t, const struct replay_stop *found, struct timeline_stop *stop,
                        struct error *err)
{
    bool before = found->reason == REPLAY_STOP_BREAK || found->reason == REPLAY_STOP_EVENT;
    int status = before ? timeline_travel(t, found->at, NULL, err) : 0;
    stop->hit = found->hit;
    stop->event = found->event;
    switch (found->reason) {
    case REPLAY_STOP_BREAK:
        finish(t, stop, TIMELINE_STOP_BREAK);
        break;
    case REPLAY_STOP_WATCH:
        finish(t, stop, TIMELINE_STOP_WATCH);
        break;
    case REPLAY_STOP_CATCH:
        finish(t, stop, TIMELINE_STOP_CATCH);
        break;
    case REPLAY_STOP_EVENT:
        finish(t, stop, TIMELINE_STOP_EVENT);
        break;
    default:
        finish(t, stop, replay_position(t->replay) >= t->end ? TIMELINE_STOP_END : TIMELINE_STOP_TARGET);
        break;
    }
    return status;
}

int timeline_forward(struct timeline *t, const struct timeline_points *points, position_t limit,
                     const struct timeline_interrupt *interrupt, struct timeline_stop *stop,
                     struct error *err)
{
    struct replay_points run_points;
    struct replay_stop found;
    *stop = (struct timeline_stop){0};
    if (limit > t->end)
        limit = t->end;
    set_points(t, &run_points, points, replay_position(t->replay) + 1);
    t->give_console = true;
    int status = timeline_run(t, limit, SPACING_EVEN, interrupt, &found, err);
    t->give_console = false;
    replay_set_points(t->replay, NULL);
    if (status == -EINTR) {
        finish(t, stop, TIMELINE_STOP_INTERRUPTED);
        return 0;
    }
    return status < 0 ? status : stop_forward(t, &found, stop, err);
}

/* ---- backwards ---- */

/* Runs over [from, to) and collects the hits in it. */
static int scan(struct timeline *t, const struct timeline_points *points, position_t from, position_t to,
                const struct timeline_interrupt *interrupt, struct timeline_hits *found, struct error *err)
{
    struct replay_points run_points;
    struct replay_stop stop;
    *found = (struct timeline_hits){.from = from, .to = to};
    int status = timeline_travel(t, from, interrupt, err);
    if (status < 0)
        return status;
    set_points(t, &run_points, points, from);
    do {
        status = timeline_run(t, to, SPACING_EVEN, interrupt, &stop, err);
        bool hit = stop.reason != REPLAY_STOP_TARGET && stop.reason != REPLAY_STOP_END;
        if (status < 0 || !hit)
            break;
        if (stop.at >= from && stop.at < to)
            status = timeline_hits_add(found, &stop, err);
        if (timeline_is_interrupted(interrupt))
            status = -EINTR;
    } while (status == 0);
    replay_set_points(t->replay, NULL);
    return status;
}

/* Scans one more stretch before *to, and remembers what is there; *to becomes the stretch's start. */
static int scan_before(struct timeline *t, const struct timeline_points *points, position_t limit,
                       uint64_t steps, const struct timeline_interrupt *interrupt, position_t *to,
                       struct error *err)
{
    struct timeline_hits found;
    position_t from;
    position_t wanted = *to - limit > steps ? *to - steps : limit;
    int status = timeline_nearest(t, wanted, &from, err);
    if (status < 0)
        return status;
    if (from < limit)
        from = limit;
    if (t->hits.valid && from < t->hits.to && t->hits.to < *to) /* what is before that is known */
        from = t->hits.to;
    status = scan(t, points, from, *to, interrupt, &found, err);
    if (status < 0) {
        timeline_hits_free(&found);
        return status;
    }
    *to = found.from;
    return timeline_hits_merge(&t->hits, &found, err);
}

/*
 * Finds the last hit in [limit, *to): found, or NULL with *to == limit. After a failure or an interruption nothing in
 * [*to, ...) was hit.
 */
static int find_before(struct timeline *t, const struct timeline_points *points, position_t limit,
                       const struct timeline_interrupt *interrupt, position_t *to,
                       const struct timeline_hit **found, struct error *err)
{
    uint64_t steps = SCAN_FIRST_STEPS;
    *found = NULL;
    while (*to > limit) {
        const struct timeline_hits *h = &t->hits;
        if (h->valid && h->from < *to && *to <= h->to) {
            *found = timeline_hits_before(h, *to);
            if (*found)
                break;
            *to = h->from;
            continue;
        }
        position_t before = *to;
        int status = scan_before(t, points, limit, steps, interrupt, &before, err);
        if (status < 0)
            return status;
        if (steps < SCAN_MAX_STEPS)
            steps *= 2;
    }
    if (*found && (*found)->at < limit)
        *found = NULL;
    if (!*found)
        *to = limit;
    return 0;
}

int timeline_backward(struct timeline *t, const struct timeline_points *points, position_t limit,
                      const struct timeline_interrupt *interrupt, struct timeline_stop *stop,
                      struct error *err)
{
    const struct timeline_hit *found = NULL;
    position_t to = replay_position(t->replay);
    *stop = (struct timeline_stop){0};
    if (limit > to)
        limit = to;
    int status = timeline_hits_for(&t->hits, points, err);
    if (status == 0)
        status = timeline_checkpoint_here(t, err);
    if (status == 0)
        status = find_before(t, points, limit, interrupt, &to, &found, err);
    bool interrupted = status == -EINTR;
    if (status < 0 && !interrupted)
        return status;
    struct timeline_hit hit = found ? *found : (struct timeline_hit){.at = to};
    status = timeline_travel(t, hit.at, NULL, err);
    if (status < 0)
        return status;
    stop->hit = hit.hit;
    stop->event = hit.event;
    if (found)
        finish(t, stop, hit.reason);
    else if (interrupted)
        finish(t, stop, TIMELINE_STOP_INTERRUPTED);
    else
        finish(t, stop, hit.at == 0 ? TIMELINE_STOP_BEGIN : TIMELINE_STOP_TARGET);
    return 0;
}
