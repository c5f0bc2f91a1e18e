/* Hits found by scanning, remembered as long as the points stay the same. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "replay/timeline_internal.h"

#define HITS_MAX 16384u

static void *copy_array(const void *from, size_t count, size_t size)
{
    void *copy = malloc(count * size + 1);
    if (copy && count)
        memcpy(copy, from, count * size);
    return copy;
}

void timeline_hits_free(struct timeline_hits *h)
{
    free((void *)(uintptr_t)h->points.engine.breaks);
    free((void *)(uintptr_t)h->points.engine.watches);
    free(h->list);
    *h = (struct timeline_hits){0};
}

static bool same_watches(const struct engine_points *a, const struct engine_points *b)
{
    for (size_t i = 0; i < a->watch_count; i++) {
        const struct engine_watch *x = &a->watches[i], *y = &b->watches[i];
        if (x->address != y->address || x->length != y->length || x->accesses != y->accesses)
            return false;
    }
    return true;
}

/* A filter of events whose answers may have changed is never the same. */
static bool same_points(const struct timeline_points *a, const struct timeline_points *b)
{
    const struct engine_points *x = &a->engine, *y = &b->engine;
    if (a->want_event != b->want_event || a->context != b->context || a->event_filter != b->event_filter ||
        (a->want_event && !a->event_filter))
        return false;
    return x->break_count == y->break_count && x->watch_count == y->watch_count &&
           x->exceptions == y->exceptions && x->catches == y->catches &&
           (!x->break_count || !memcmp(x->breaks, y->breaks, x->break_count * sizeof(*x->breaks))) &&
           same_watches(x, y);
}

int timeline_hits_for(struct timeline_hits *h, const struct timeline_points *points, struct error *err)
{
    if (h->points.engine.breaks && same_points(&h->points, points))
        return 0;
    timeline_hits_free(h);
    const struct engine_points *e = &points->engine;
    h->points = *points;
    h->points.engine.breaks = copy_array(e->breaks, e->break_count, sizeof(*e->breaks));
    h->points.engine.watches = copy_array(e->watches, e->watch_count, sizeof(*e->watches));
    if (h->points.engine.breaks && h->points.engine.watches)
        return 0;
    timeline_hits_free(h);
    return error_set(err, -ENOMEM, "no memory for break and watch points");
}

const struct timeline_hit *timeline_hits_before(const struct timeline_hits *h, position_t position)
{
    size_t low = 0, high = h->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (h->list[middle].at < position)
            low = middle + 1;
        else
            high = middle;
    }
    return low ? &h->list[low - 1] : NULL;
}

static int make_room(struct timeline_hits *h, size_t count, struct error *err)
{
    if (count <= h->capacity)
        return 0;
    size_t capacity = h->capacity ? h->capacity : 16;
    while (capacity < count)
        capacity *= 2;
    struct timeline_hit *grown = realloc(h->list, capacity * sizeof(*grown));
    if (!grown)
        return error_set(err, -ENOMEM, "no memory for %zu hits", count);
    h->list = grown;
    h->capacity = capacity;
    return 0;
}

static void forget_first(struct timeline_hits *h, size_t n)
{
    h->count -= n;
    memmove(h->list, h->list + n, h->count * sizeof(*h->list));
    h->from = h->list[0].at;
}

static enum timeline_stop_reason reason_of(enum replay_stop_reason reason)
{
    switch (reason) {
    case REPLAY_STOP_BREAK:
        return TIMELINE_STOP_BREAK;
    case REPLAY_STOP_WATCH:
        return TIMELINE_STOP_WATCH;
    case REPLAY_STOP_CATCH:
        return TIMELINE_STOP_CATCH;
    default:
        return TIMELINE_STOP_EVENT;
    }
}

int timeline_hits_add(struct timeline_hits *scan, const struct replay_stop *stop, struct error *err)
{
    struct timeline_hit hit = {
        .at = stop->at, .reason = reason_of(stop->reason), .hit = stop->hit, .event = stop->event};
    /* What a transition does tells more than that there is a break at it or an event in it. */
    if (scan->count && scan->list[scan->count - 1].at >= hit.at) {
        struct timeline_hit *last = &scan->list[scan->count - 1];
        bool tells_more = hit.reason == TIMELINE_STOP_WATCH || hit.reason == TIMELINE_STOP_CATCH;
        if (last->at == hit.at && tells_more)
            *last = hit;
        return 0;
    }
    if (scan->count == HITS_MAX)
        forget_first(scan, HITS_MAX / 2);
    int status = make_room(scan, scan->count + 1, err);
    if (status == 0)
        scan->list[scan->count++] = hit;
    return status;
}

/* h := first, then second, which begins where first ends or before. */
static int join(struct timeline_hits *h, const struct timeline_hits *first,
                const struct timeline_hits *second, struct error *err)
{
    size_t n = first->count;
    while (n && first->list[n - 1].at >= second->from)
        n--;
    struct timeline_hits joined = {.points = h->points, .valid = true, .from = first->from, .to = second->to};
    int status = make_room(&joined, n + second->count, err);
    if (status < 0)
        return status;
    if (n)
        memcpy(joined.list, first->list, n * sizeof(*joined.list));
    if (second->count)
        memcpy(joined.list + n, second->list, second->count * sizeof(*joined.list));
    joined.count = n + second->count;
    free(h->list);
    *h = joined;
    return 0;
}

/* Without the hits that are farthest from those of the last scan. */
static void cut_back(struct timeline_hits *h, bool scan_is_first)
{
    if (h->count <= HITS_MAX)
        return;
    if (!scan_is_first) {
        forget_first(h, h->count - HITS_MAX);
        return;
    }
    h->to = h->list[HITS_MAX].at;
    h->count = HITS_MAX;
}

int timeline_hits_merge(struct timeline_hits *h, struct timeline_hits *scan, struct error *err)
{
    int status = 0;
    bool touch = h->valid && scan->from <= h->to && h->from <= scan->to;
    bool scan_is_first = scan->from < h->from;
    if (!touch) {
        free(h->list);
        scan->points = h->points;
        scan->valid = true;
        *h = *scan;
    } else {
        status = scan_is_first ? join(h, scan, h, err) : join(h, h, scan, err);
        cut_back(h, scan_is_first);
        free(scan->list);
    }
    *scan = (struct timeline_hits){0};
    return status;
}
