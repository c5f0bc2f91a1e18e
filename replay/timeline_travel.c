/* Getting from one position to another: forward runs that leave checkpoints behind, and the choice of the way. */
#include <errno.h>
#include <inttypes.h>
#include <time.h>

#include "replay/timeline_internal.h"

/*
 * Distance of checkpoints. The least: closer ones would cost more than running there. The most, in time: what a step backwards
 * from anywhere has to run again at worst.
 */
#define SPACING_MIN_STEPS 1000u
#define SPACING_MAX_STEPS 400000u
#define SPACING_MAX_NS    3000000.0

/* Rough costs, for choosing a way only. */
#define NS_PER_PAGE    500.0
#define NS_PER_RESTORE 30000.0

bool timeline_is_interrupted(const struct timeline_interrupt *interrupt)
{
    return interrupt && interrupt->interrupted && interrupt->interrupted(interrupt->context);
}

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* ---- keyframes ---- */

/* t->keyframe becomes the last one at or before position. */
static int find_keyframe(struct timeline *t, position_t position, struct error *err)
{
    struct trace_reader *reader = replay_reader(t->replay);
    if (t->keyframe_known && t->keyframe.position <= position && position < t->next_keyframe)
        return 0;
    t->keyframe_known = false;
    int status = trace_reader_find_keyframe(reader, position, &t->keyframe, err);
    if (status < 0)
        return status;
    struct trace_keyframe_info next;
    t->next_keyframe = POSITION_UNKNOWN;
    if (t->keyframe.index + 1 < trace_reader_info(reader)->keyframes) {
        status = trace_reader_keyframe_info(reader, t->keyframe.index + 1, &next, err);
        if (status < 0)
            return status;
        t->next_keyframe = next.position;
    }
    t->keyframe_known = t->next_keyframe > t->keyframe.position;
    return 0;
}

/* The number of the keyframe at exactly this position. */
static int keyframe_at(struct timeline *t, position_t position, uint64_t *keyframe, struct error *err)
{
    int status = find_keyframe(t, position, err);
    *keyframe = status == 0 && t->keyframe.position == position ? t->keyframe.index : NO_KEYFRAME;
    return status;
}

static int load_keyframe(struct timeline *t, const struct trace_keyframe_info *keyframe, struct error *err)
{
    struct replay_place place;
    uint64_t start = now_ns();
    t->inexact = false;
    checkpoints_detach(t->checkpoints);
    int status = replay_load_keyframe(t->replay, keyframe->index, err);
    if (status < 0)
        return status;
    t->keyframe_loads++;
    t->ns_per_load = (double)(now_ns() - start);
    replay_save_place(t->replay, &place);
    return checkpoints_at_keyframe(t->checkpoints, &place, keyframe->index, err);
}

/* ---- running ---- */

int timeline_checkpoint_here(struct timeline *t, struct error *err)
{
    struct replay_place place;
    uint64_t keyframe;
    int status = keyframe_at(t, replay_position(t->replay), &keyframe, err);
    if (status < 0)
        return status;
    replay_save_place(t->replay, &place);
    return checkpoints_take(t->checkpoints, &place, keyframe, err);
}

static uint64_t longest_spacing(const struct timeline *t)
{
    double steps = SPACING_MAX_NS / t->ns_per_step;
    if (steps > SPACING_MAX_STEPS)
        return SPACING_MAX_STEPS;
    return steps < SPACING_MIN_STEPS ? SPACING_MIN_STEPS : (uint64_t)steps;
}

/* Where the next stretch of a run ends: at target, a checkpoint that is there or to be made, or a keyframe's position. */
static int stretch_end(struct timeline *t, position_t target, enum timeline_spacing spacing, position_t *end,
                       struct error *err)
{
    position_t now = replay_position(t->replay);
    uint64_t left = target - now, step = longest_spacing(t);
    if (spacing == SPACING_TO_TARGET && left / 2 < step)
        step = left / 2 < SPACING_MIN_STEPS ? SPACING_MIN_STEPS : left / 2;
    *end = left > step ? now + step : target;
    position_t next = checkpoints_next_position(t->checkpoints, now);
    if (next < *end)
        *end = next;
    int status = find_keyframe(t, now, err);
    if (status == 0 && t->next_keyframe < *end)
        *end = t->next_keyframe;
    return status;
}

/* A checkpoint that is here already becomes the anchor, before the run goes beyond it. */
static int settle(struct timeline *t, struct error *err)
{
    position_t now = replay_position(t->replay);
    const struct checkpoint *here = checkpoints_find(t->checkpoints, now);
    bool passed = !here || here->place.position != now || here == t->checkpoints->anchor;
    return passed ? 0 : timeline_checkpoint_here(t, err);
}

/* A guess that follows the guest's changing speed; short stretches say nothing. */
static void note_speed(struct timeline *t, uint64_t steps, uint64_t ns)
{
    t->steps_executed += steps;
    if (steps >= SPACING_MIN_STEPS)
        t->ns_per_step = 0.8 * t->ns_per_step + 0.2 * ((double)ns / (double)steps);
}

int timeline_run(struct timeline *t, position_t target, enum timeline_spacing spacing,
                 const struct timeline_interrupt *interrupt, struct replay_stop *stop, struct error *err)
{
    int status = settle(t, err);
    *stop = (struct replay_stop){.reason = REPLAY_STOP_TARGET, .exact = true};
    while (status == 0) {
        position_t start = replay_position(t->replay), end;
        if (start >= target)
            return 0;
        status = stretch_end(t, target, spacing, &end, err);
        if (status < 0)
            break;
        uint64_t start_ns = now_ns();
        status = replay_run_to(t->replay, end, stop, err);
        note_speed(t, replay_position(t->replay) - start, now_ns() - start_ns);
        t->inexact = status == 0 && !stop->exact;
        if (status < 0 || stop->reason != REPLAY_STOP_TARGET)
            break;
        if (end != target || checkpoints_next_position(t->checkpoints, end - 1) == end)
            status = timeline_checkpoint_here(t, err);
        if (status == 0 && end != target && timeline_is_interrupted(interrupt))
            status = error_set(err, -EINTR, "interrupted at position %" PRIu64, replay_position(t->replay));
    }
    return status;
}

/* ---- the way ---- */

static int restore(struct timeline *t, const struct checkpoint *c, struct error *err)
{
    struct replay_place place = c->place;
    t->inexact = false;
    checkpoints_restore(t->checkpoints, c);
    return replay_restore_place(t->replay, &place, err);
}

/* Goes to where running to position has to begin. */
static int go_near(struct timeline *t, position_t position, struct error *err)
{
    position_t now = replay_position(t->replay);
    const struct checkpoint *c = checkpoints_find(t->checkpoints, position);
    size_t pages = 0;
    bool reachable = c && checkpoints_reachable(t->checkpoints, c, &pages);
    double run =
        position > now || (position == now && !t->inexact) ? (double)(position - now) * t->ns_per_step : 1e30;
    double back = reachable ? (double)(position - c->place.position) * t->ns_per_step +
                                  (double)pages * NS_PER_PAGE + NS_PER_RESTORE
                            : 1e30;
    if ((run < back ? run : back) < t->ns_per_load)
        return run <= back ? 0 : restore(t, c, err);

    int status = find_keyframe(t, position, err);
    if (status < 0)
        return status;
    struct trace_keyframe_info keyframe = t->keyframe;
    bool nearer = c && c->place.position > keyframe.position;
    position_t from = nearer ? c->place.position : keyframe.position;
    double load = t->ns_per_load + (double)(position - from) * t->ns_per_step;
    if (run <= back && run <= load)
        return 0;
    if (back <= load)
        return restore(t, c, err);
    status = load_keyframe(t, &keyframe, err);
    if (status < 0)
        return status;
    c = checkpoints_find(t->checkpoints, position);
    if (c && c->place.position > keyframe.position && checkpoints_reachable(t->checkpoints, c, &pages))
        status = restore(t, c, err);
    return status;
}

int timeline_travel(struct timeline *t, position_t position, const struct timeline_interrupt *interrupt,
                    struct error *err)
{
    struct replay_stop stop;
    if (position == replay_position(t->replay) && !t->inexact)
        return 0;
    int status = go_near(t, position, err);
    if (status == 0)
        status = timeline_run(t, position, SPACING_TO_TARGET, interrupt, &stop, err);
    if (status == 0 && replay_position(t->replay) != position)
        status = error_set(err, -EIO, "position %" PRIu64 " cannot be reached: the replay ends at %" PRIu64,
                           position, replay_position(t->replay));
    return status;
}

int timeline_nearest(struct timeline *t, position_t position, position_t *nearest, struct error *err)
{
    const struct checkpoint *c = checkpoints_find(t->checkpoints, position);
    int status = find_keyframe(t, position, err);
    if (status < 0)
        return status;
    *nearest = t->keyframe.position;
    if (c && c->place.position > *nearest)
        *nearest = c->place.position;
    return 0;
}
