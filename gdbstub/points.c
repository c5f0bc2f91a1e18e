/* Break- and watchpoints: Z0..Z4 and z0..z4. What the client has set is kept, to take it back when the client leaves. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "gdbstub/internal.h"

static int compare(const struct gdb_point *a, const struct gdb_point *b)
{
    if (a->kind != b->kind)
        return a->kind < b->kind ? -1 : 1;
    if (a->address != b->address)
        return a->address < b->address ? -1 : 1;
    return a->length < b->length ? -1 : a->length > b->length;
}

/* The place of the first point that is not less. */
static size_t lower_bound(const struct gdb_server *s, const struct gdb_point *point)
{
    size_t low = 0, high = s->point_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare(&s->points[middle], point) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool is_at(const struct gdb_server *s, size_t place, const struct gdb_point *point)
{
    return place < s->point_count && compare(&s->points[place], point) == 0;
}

bool points_break_at(const struct gdb_server *s, gva_t address)
{
    struct gdb_point software = {DEBUG_BREAK_SOFTWARE, address, 0};
    struct gdb_point hardware = {DEBUG_BREAK_HARDWARE, address, 0};
    return is_at(s, lower_bound(s, &software), &software) || is_at(s, lower_bound(s, &hardware), &hardware);
}

enum parsed { PARSED, PARSED_WRONG, PARSED_UNKNOWN };

/*
 * "TYPE,ADDRESS,KIND". KIND is the length of what is watched; for breakpoints the length of the instruction that would be written,
 * which means nothing here. Conditions and commands (";...") are not offered.
 */
static enum parsed parse(struct text *t, struct gdb_point *point)
{
    uint64_t type;
    if (!text_number(t, &type))
        return PARSED_WRONG;
    if (type > DEBUG_WATCH_ACCESS)
        return PARSED_UNKNOWN;
    point->kind = (enum debug_point_kind)type;
    if (!text_skip(t, ',') || !text_number(t, &point->address) || !text_skip(t, ',') ||
        !text_number(t, &point->length) || text_left(t) > 0)
        return PARSED_WRONG;
    if (point->kind < DEBUG_WATCH_WRITE)
        point->length = 0;
    else if (point->length == 0 || point->length - 1 > UINT64_MAX - point->address)
        return PARSED_WRONG;
    return PARSED;
}

/* Makes room for one more. */
static int grow(struct gdb_server *s, struct error *err)
{
    if (s->point_count < s->point_capacity)
        return 0;
    if (s->point_count >= GDB_POINTS_MAX)
        return error_set(err, -ENOSPC, "there are %zu break- and watchpoints already", s->point_count);
    size_t capacity = s->point_capacity ? s->point_capacity * 2 : 64;
    struct gdb_point *points = reallocarray(s->points, capacity, sizeof(*points));
    if (!points)
        return error_set(err, -ENOMEM, "no memory for a breakpoint");
    s->points = points;
    s->point_capacity = capacity;
    return 0;
}

static int insert(struct gdb_server *s, const struct gdb_point *point, struct error *err)
{
    size_t place = lower_bound(s, point);
    if (is_at(s, place, point))
        return 0;
    int r = grow(s, err);
    if (r == 0)
        r = s->target->ops->insert_point(s->target, point->kind, point->address, point->length, err);
    if (r < 0)
        return r;
    memmove(s->points + place + 1, s->points + place, (s->point_count - place) * sizeof(*point));
    s->points[place] = *point;
    s->point_count++;
    return 0;
}

static int take_out(struct gdb_server *s, const struct gdb_point *point, struct error *err)
{
    size_t place = lower_bound(s, point);
    if (!is_at(s, place, point))
        return 0;
    s->point_count--;
    memmove(s->points + place, s->points + place + 1, (s->point_count - place) * sizeof(*point));
    return s->target->ops->remove_point(s->target, point->kind, point->address, point->length, err);
}

static void change(struct gdb_server *s, struct text *t,
                   int (*how)(struct gdb_server *, const struct gdb_point *, struct error *))
{
    struct gdb_point point;
    struct error err = {0};
    enum parsed parsed = parse(t, &point);
    if (parsed == PARSED_UNKNOWN)
        return;
    if (parsed == PARSED_WRONG) {
        reply_error(s, -EINVAL);
        return;
    }
    int r = how(s, &point, &err);
    if (r < 0)
        reply_message(s, r, err.message);
    else
        reply_ok(s);
}

void points_insert(struct gdb_server *s, struct text *t)
{
    change(s, t, insert);
}

void points_remove(struct gdb_server *s, struct text *t)
{
    change(s, t, take_out);
}

void points_remove_all(struct gdb_server *s)
{
    for (size_t i = 0; i < s->point_count; i++) {
        const struct gdb_point *p = &s->points[i];
        (void)s->target->ops->remove_point(s->target, p->kind, p->address, p->length, NULL);
    }
    s->point_count = 0;
}
