/*
 * Stops on the way of a run: at break addresses, watched ranges and caught instructions, which the engine looks for, and
 * at events of the trace.
 *
 * A break counts where the next transition is the instruction itself: not where an interrupt is delivered before it or a
 * device writes, since the instruction comes again after that. Each iteration of a REP counts, as each is a transition.
 */
#include <stdlib.h>

#include "core/x86/inspect.h"
#include "replay/internal.h"

/* A watched range of more pages than this is not compared with a device's writes to its end. */
#define DMA_WATCH_MAX_PAGES 65536u

void replay_set_points(struct replay *r, struct replay_points *points)
{
    const struct engine_points *engine = points ? points->engine : NULL;
    r->engine->ops->set_points(r->engine, engine);
    r->points = points;
}

/* ---- events ---- */

void points_ask(struct replay *r)
{
    struct replay_points *p = r->points;
    uint64_t number = trace_cursor_index(r->cursor); /* one more than that of the event just fetched */
    if (!p || !p->want_event || number <= p->asked)
        return;
    p->asked = number;
    if (p->is_wanted || r->next.position < p->from || !p->want_event(p->context, &r->next))
        return;
    p->is_wanted = true;
    p->wanted = r->next;
    p->wanted.data = NULL;
    p->wanted.data_length = 0;
    p->wanted.landmark = NULL;
}

position_t points_limit(const struct replay *r, position_t limit)
{
    const struct replay_points *p = r->points;
    return p && p->is_wanted && p->wanted.position < limit ? p->wanted.position : limit;
}

/* ---- watched ranges ---- */

static void note_hit(struct replay_points *p, int kind, const struct engine_hit *hit)
{
    p->is_hit = true;
    p->hit_kind = kind;
    p->hit = *hit;
}

void points_take_hit(struct replay *r, int engine_stop)
{
    if (r->points)
        note_hit(r->points, engine_stop, r->engine->ops->hit(r->engine));
}

int points_poll(struct replay *r, struct error *err)
{
    if (!r->points || !r->points->engine || r->failed || r->ran_out)
        return 0;
    struct engine_request request = {.limit = replay_position(r)};
    int stop = r->engine->ops->run(r->engine, &request, err);
    if (stop == ENGINE_STOP_WATCH || stop == ENGINE_STOP_CATCH)
        points_take_hit(r, stop);
    return stop < 0 ? stop : 0;
}

/* The first byte of [linear, linear+length), inside one page, that lies in the range of the DMA. */
static bool dma_touches(const struct replay *r, gva_t linear, uint64_t length, const struct event *dma,
                        gva_t *first)
{
    gpa_t gpa;
    if (x86_translate(r->ram, r->engine->ops->state(r->engine), linear, &gpa) < 0)
        return false;
    if (gpa - dma->address < dma->data_length) {
        *first = linear;
        return true;
    }
    if (!dma->data_length || dma->address - gpa >= length)
        return false;
    *first = linear + (dma->address - gpa);
    return true;
}

static bool dma_touches_watch(const struct replay *r, const struct engine_watch *w, const struct event *dma,
                              gva_t *first)
{
    uint64_t left = w->length;
    gva_t linear = w->address;
    for (unsigned i = 0; left && i < DMA_WATCH_MAX_PAGES; i++) {
        uint64_t room = PAGE_SIZE_BYTES - (linear & PAGE_MASK), part = left < room ? left : room;
        if (dma_touches(r, linear, part, dma, first))
            return true;
        linear += part;
        left -= part;
    }
    return false;
}

void points_note_dma(struct replay *r, const struct event *dma)
{
    struct replay_points *p = r->points;
    size_t count = p && p->engine ? p->engine->watch_count : 0;
    for (size_t i = 0; i < count; i++) {
        const struct engine_watch *w = &p->engine->watches[i];
        struct engine_hit hit = {.watch = i, .access = ENGINE_ACCESS_WRITE};
        if (!(w->accesses & ENGINE_ACCESS_WRITE) || !dma_touches_watch(r, w, dma, &hit.address))
            continue;
        note_hit(p, ENGINE_STOP_WATCH, &hit);
        return;
    }
}

/* ---- breaks ---- */

static int compare_address(const void *a, const void *b)
{
    gva_t x = *(const gva_t *)a, y = *(const gva_t *)b;
    return (x > y) - (x < y);
}

/* A digest that is due is checked first: only then is it known what comes after it. */
static bool next_transition_is_instruction(const struct replay *r, const struct vcpu_state *s)
{
    bool traps = s->pending_debug && s->shadow != SHADOW_MOV_SS;
    return s->activity == ACTIVITY_RUNNING && !traps && !replay_event_is_due(r);
}

static bool at_break(const struct replay *r)
{
    const struct replay_points *p = r->points;
    position_t now = replay_position(r);
    if (!p->engine || !p->engine->break_count || now < p->from || now == p->break_done)
        return false;
    const struct vcpu_state *s = r->engine->ops->state(r->engine);
    gva_t linear = vcpu_in_64bit_code(s) ? s->rip : (uint32_t)(s->rip + s->seg[SEG_CS].base);
    return bsearch(&linear, p->engine->breaks, p->engine->break_count, sizeof(linear), compare_address) &&
           next_transition_is_instruction(r, s);
}

bool points_stop_here(struct replay *r, struct replay_stop *stop)
{
    struct replay_points *p = r->points;
    if (!p)
        return false;
    position_t now = replay_position(r);
    if (p->is_hit) {
        p->is_hit = false;
        stop->reason = p->hit_kind == ENGINE_STOP_WATCH ? REPLAY_STOP_WATCH : REPLAY_STOP_CATCH;
        stop->hit = p->hit;
        stop->at = now - 1;
        return true;
    }
    if (p->is_wanted && p->wanted.position <= now) {
        p->is_wanted = false;
        stop->reason = REPLAY_STOP_EVENT;
        stop->event = p->wanted;
        stop->at = p->wanted.position;
        return true;
    }
    if (!at_break(r))
        return false;
    p->break_done = now;
    stop->reason = REPLAY_STOP_BREAK;
    stop->at = now;
    return true;
}
