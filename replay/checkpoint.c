#include "replay/checkpoint.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MAX_COUNT   2048u /* checkpoints: a bound on the work of thinning */
#define DENSE_COUNT 64u   /* so many are left when memory is short before whole stretches go */
#define LINE_BYTES  64u

/* ---- life ---- */

static void *map_zero(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

int checkpoints_create(struct checkpoints **out, struct guest_ram *ram, struct ram_tracker *tracker,
                       uint64_t budget_bytes, void (*ram_changed)(void *, uint64_t, size_t), void *context,
                       struct error *err)
{
    *out = NULL;
    struct checkpoints *c = calloc(1, sizeof(*c));
    if (!c)
        return error_set(err, -ENOMEM, "no memory for checkpoints");
    *c = (struct checkpoints){.ram = ram,
                              .tracker = tracker,
                              .budget_bytes = budget_bytes,
                              .ram_changed = ram_changed,
                              .context = context,
                              .writing = UINT64_MAX};
    size_t pages = (size_t)ram_page_count(ram);
    c->known = map_zero(pages * sizeof(struct page_content *));
    c->want = map_zero(pages * sizeof(struct page_content *));
    c->known_list = map_zero(pages * sizeof(*c->known_list));
    c->want_list = map_zero(pages * sizeof(*c->want_list));
    c->capacity = MAX_COUNT + 2;
    c->list = calloc(c->capacity, sizeof(struct checkpoint *));
    int status = page_contents_create(&c->contents, err);
    if (status == 0 && (!c->known || !c->want || !c->known_list || !c->want_list || !c->list))
        status = error_set(err, -ENOMEM, "no memory for checkpoints of %zu pages of guest RAM", pages);
    if (status < 0) {
        checkpoints_destroy(c);
        return status;
    }
    *out = c;
    return 0;
}

static void free_checkpoint(struct checkpoints *c, struct checkpoint *p)
{
    c->delta_bytes -= p->delta.count * sizeof(*p->delta.pages);
    delta_free(&c->contents, &p->delta);
    free(p);
}

void checkpoints_destroy(struct checkpoints *c)
{
    if (!c)
        return;
    checkpoints_detach(c);
    for (size_t i = 0; i < c->count; i++)
        free_checkpoint(c, c->list[i]);
    page_contents_destroy(&c->contents);
    size_t pages = (size_t)ram_page_count(c->ram);
    if (c->known)
        munmap(c->known, pages * sizeof(struct page_content *));
    if (c->want)
        munmap(c->want, pages * sizeof(struct page_content *));
    if (c->known_list)
        munmap(c->known_list, pages * sizeof(*c->known_list));
    if (c->want_list)
        munmap(c->want_list, pages * sizeof(*c->want_list));
    free(c->list);
    free(c);
}

uint64_t checkpoints_bytes(const struct checkpoints *c)
{
    return page_contents_bytes(&c->contents) + c->delta_bytes + c->count * sizeof(struct checkpoint);
}

/* ---- finding ---- */

/* How many have a position <= position. */
static size_t count_until(const struct checkpoints *c, position_t position)
{
    size_t low = 0, high = c->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (c->list[middle]->place.position <= position)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static size_t index_of(const struct checkpoints *c, const struct checkpoint *p)
{
    return count_until(c, p->place.position) - 1;
}

const struct checkpoint *checkpoints_find(const struct checkpoints *c, position_t position)
{
    size_t n = count_until(c, position);
    return n ? c->list[n - 1] : NULL;
}

position_t checkpoints_next_position(const struct checkpoints *c, position_t position)
{
    size_t n = count_until(c, position);
    return n < c->count ? c->list[n]->place.position : POSITION_UNKNOWN;
}

/* ---- contents at the anchor ---- */

static void set_known(struct checkpoints *c, uint32_t page, struct page_content *content)
{
    if (!c->known[page])
        c->known_list[c->known_count++] = page;
    page_contents_drop(&c->contents, c->known[page]);
    c->known[page] = content;
}

static void forget_known(struct checkpoints *c)
{
    for (size_t i = 0; i < c->known_count; i++) {
        uint32_t page = c->known_list[i];
        page_contents_drop(&c->contents, c->known[page]);
        c->known[page] = NULL;
    }
    c->known_count = 0;
}

void checkpoints_detach(struct checkpoints *c)
{
    c->ram->before_dirty = NULL;
    forget_known(c);
    c->anchor = NULL;
}

static bool shrink(struct checkpoints *c, position_t here);

/* There is no memory for the way back from here: only keyframes lead elsewhere, until one is reached. */
static void give_up(struct checkpoints *c, position_t here)
{
    checkpoints_detach(c);
    (void)shrink(c, here);
}

/* A page is about to be written: its content at the anchor must be known, or the way back is lost. */
static void before_dirty(void *context, uint64_t page)
{
    struct checkpoints *c = context;
    if (c->known[page])
        return;
    struct page_content *content =
        page_contents_put(&c->contents, c->tracker->terms[page], c->ram->host + (page << PAGE_SHIFT));
    if (content)
        set_known(c, (uint32_t)page, content);
    c->writing = page;
    position_t here = c->anchor->place.position;
    if (!content || !shrink(c, here))
        give_up(c, here);
    c->writing = UINT64_MAX;
}

static void attach(struct checkpoints *c, struct checkpoint *anchor)
{
    c->anchor = anchor;
    c->ram->before_dirty = before_dirty;
    c->ram->before_dirty_context = c;
    ram_tracker_clear_changed(c->tracker);
}

/* ---- dropping ---- */

static void remove_from_list(struct checkpoints *c, size_t i)
{
    free_checkpoint(c, c->list[i]);
    c->count--;
    memmove(&c->list[i], &c->list[i + 1], (c->count - i) * sizeof(struct checkpoint *));
}

static bool linked_after(const struct checkpoints *c, size_t i)
{
    return i + 1 < c->count && !c->list[i + 1]->base;
}

static uint64_t distance(position_t a, position_t b)
{
    return a > b ? a - b : b - a;
}

/*
 * The one that is missed least: where the gap that it would leave is smallest in proportion to the distance from here. So
 * they get exponentially rarer with distance. Keyframes' own stay: a gap never spans one, so that a keyframe can always be
 * linked to what follows it.
 */
static size_t least_missed(const struct checkpoints *c, position_t here)
{
    size_t best = SIZE_MAX;
    double best_score = 0;
    for (size_t i = 1; i < c->count; i++) {
        const struct checkpoint *p = c->list[i];
        if (p == c->anchor || p->base || p->keyframe != NO_KEYFRAME)
            continue;
        position_t before = c->list[i - 1]->place.position;
        position_t after = i + 1 < c->count ? c->list[i + 1]->place.position : p->place.position;
        double score = (double)(after - before) / (double)(distance(p->place.position, here) + 1);
        if (best == SIZE_MAX || score < best_score) {
            best = i;
            best_score = score;
        }
    }
    return best;
}

static bool thin(struct checkpoints *c, position_t here)
{
    size_t i = least_missed(c, here);
    if (i == SIZE_MAX)
        return false;
    if (linked_after(c, i)) {
        struct checkpoint *gone = c->list[i], *next = c->list[i + 1];
        uint64_t bytes = (gone->delta.count + next->delta.count) * sizeof(*gone->delta.pages);
        if (!delta_join(&c->contents, &gone->delta, &next->delta))
            return false;
        c->delta_bytes += next->delta.count * sizeof(*gone->delta.pages) - bytes;
    }
    remove_from_list(c, i);
    return true;
}

static void make_base(struct checkpoints *c, struct checkpoint *p)
{
    c->delta_bytes -= p->delta.count * sizeof(*p->delta.pages);
    delta_free(&c->contents, &p->delta);
    p->base = true;
}

/* Removes the first stretch: up to the next checkpoint at a keyframe. */
static bool drop_front(struct checkpoints *c)
{
    size_t end = 1;
    while (end < c->count && c->list[end]->keyframe == NO_KEYFRAME)
        end++;
    for (size_t i = 0; i < end; i++)
        if (c->list[i] == c->anchor)
            return false;
    if (end < c->count)
        make_base(c, c->list[end]);
    while (end > 0)
        remove_from_list(c, --end);
    return true;
}

static bool drop_back(struct checkpoints *c)
{
    if (c->list[c->count - 1] == c->anchor)
        return false;
    remove_from_list(c, c->count - 1);
    return true;
}

static bool drop_farthest(struct checkpoints *c, position_t here)
{
    if (!c->count)
        return false;
    bool front =
        distance(c->list[0]->place.position, here) > distance(c->list[c->count - 1]->place.position, here);
    return front ? drop_front(c) || drop_back(c) : drop_back(c) || drop_front(c);
}

/*
 * Contents at the anchor that no write has made necessary can be had again from RAM. Goes through the list only when
 * everything else is gone.
 */
static bool forget_unwritten(struct checkpoints *c)
{
    size_t kept = 0, before = c->known_count;
    for (size_t i = 0; i < before; i++) {
        uint32_t page = c->known_list[i];
        bool written = c->tracker->is_changed[page] || (c->ram->page_flags[page] & RAM_PAGE_DIRTY);
        if (written || page == c->writing) {
            c->known_list[kept++] = page;
            continue;
        }
        page_contents_drop(&c->contents, c->known[page]);
        c->known[page] = NULL;
    }
    c->known_count = kept;
    return kept < before;
}

/* Keeps to the budget. False when that cannot be done. */
static bool shrink(struct checkpoints *c, position_t here)
{
    while (c->count > MAX_COUNT && (thin(c, here) || drop_farthest(c, here)))
        ;
    while (checkpoints_bytes(c) > c->budget_bytes) {
        bool done = (c->count > DENSE_COUNT && thin(c, here)) || drop_farthest(c, here) || thin(c, here) ||
                    forget_unwritten(c);
        if (!done)
            return false;
    }
    return c->count <= MAX_COUNT;
}

/* ---- taking ---- */

static int compare_delta_pages(const void *a, const void *b)
{
    uint32_t x = ((const struct delta_page *)a)->page, y = ((const struct delta_page *)b)->page;
    return (x > y) - (x < y);
}

/* What has changed since the anchor. The tracker is up to date. */
static bool delta_since_anchor(struct checkpoints *c, struct delta *d)
{
    const struct ram_tracker *t = c->tracker;
    *d = (struct delta){.pages = malloc((t->changed_count + 1) * sizeof(*d->pages))};
    if (!d->pages)
        return false;
    for (size_t i = 0; i < t->changed_count; i++) {
        uint32_t page = t->changed[i];
        struct page_content *before = c->known[page];
        if (hash128_equal(before->term, t->terms[page]))
            continue;
        struct page_content *after =
            page_contents_put(&c->contents, t->terms[page], c->ram->host + ((uint64_t)page << PAGE_SHIFT));
        if (!after) {
            delta_free(&c->contents, d);
            return false;
        }
        d->pages[d->count++] = (struct delta_page){page, page_content_take(before), after};
    }
    qsort(d->pages, d->count, sizeof(*d->pages), compare_delta_pages);
    return true;
}

static void know_delta(struct checkpoints *c, const struct delta *d)
{
    for (size_t i = 0; i < d->count; i++)
        set_known(c, d->pages[i].page, page_content_take(d->pages[i].after));
}

static struct checkpoint *new_checkpoint(const struct checkpoints *c, const struct replay_place *place,
                                         uint64_t keyframe)
{
    struct checkpoint *p = c->count < c->capacity ? calloc(1, sizeof(*p)) : NULL;
    if (p) {
        p->place = *place;
        p->keyframe = keyframe;
    }
    return p;
}

static void insert(struct checkpoints *c, size_t at, struct checkpoint *p)
{
    memmove(&c->list[at + 1], &c->list[at], (c->count - at) * sizeof(struct checkpoint *));
    c->list[at] = p;
    c->count++;
    c->delta_bytes += p->delta.count * sizeof(*p->delta.pages);
}

static int must_be_same(const struct checkpoint *p, const struct replay_place *place, struct error *err)
{
    if (p->place.events == place->events && vcpu_state_equal(&p->place.state, &place->state))
        return 0;
    return error_set(err, -EILSEQ,
                     "position %" PRIu64 " was reached again with other registers: the replay is not exact",
                     place->position);
}

int checkpoints_at_keyframe(struct checkpoints *c, const struct replay_place *place, uint64_t keyframe,
                            struct error *err)
{
    size_t n = count_until(c, place->position);
    struct checkpoint *p = n ? c->list[n - 1] : NULL;
    checkpoints_detach(c);
    if (p && p->place.position == place->position) {
        p->keyframe = keyframe;
        attach(c, p);
        return must_be_same(p, place, err);
    }
    if (c->count >= MAX_COUNT)
        shrink(c, place->position);
    n = count_until(c, place->position);
    bool spanned = n < c->count && !c->list[n]->base; /* memory was short when the timeline came past here */
    p = spanned ? NULL : new_checkpoint(c, place, keyframe);
    if (!p)
        return 0;
    p->base = true;
    insert(c, n, p);
    attach(c, p);
    if (!shrink(c, place->position))
        give_up(c, place->position);
    return 0;
}

/* The pages written since the anchor are those of the delta from the anchor to p. */
static int must_have_delta(struct checkpoints *c, const struct checkpoint *p, struct error *err)
{
    const struct ram_tracker *t = c->tracker;
    bool same = true;
    for (size_t i = 0; i < t->changed_count && same; i++) {
        const struct delta_page *d = delta_find(&p->delta, t->changed[i]);
        struct hash128 term = d ? d->after->term : c->known[t->changed[i]]->term;
        same = hash128_equal(term, t->terms[t->changed[i]]);
    }
    for (size_t i = 0; i < p->delta.count && same; i++)
        same = t->is_changed[p->delta.pages[i].page];
    return same ? 0
                : error_set(err, -EILSEQ,
                            "position %" PRIu64 " was reached again with other RAM: the replay is not exact",
                            p->place.position);
}

/* Goes to p, the one after the anchor, at whose position the replay has come. */
static int pass(struct checkpoints *c, struct checkpoint *p, struct error *err)
{
    int status = 0;
    if (p->base) { /* from here on it can be had from the ones before as well */
        struct delta d;
        if (!delta_since_anchor(c, &d)) {
            checkpoints_detach(c);
            attach(c, p);
            return 0;
        }
        p->delta = d;
        p->base = false;
        c->delta_bytes += d.count * sizeof(*d.pages);
    } else {
        status = must_have_delta(c, p, err);
    }
    know_delta(c, &p->delta);
    attach(c, p);
    return status;
}

/* A new one after the anchor; if another follows that is linked, the delta between them is cut in two. */
static bool add_after_anchor(struct checkpoints *c, const struct replay_place *place, uint64_t keyframe)
{
    size_t at = index_of(c, c->anchor) + 1;
    struct checkpoint *p = new_checkpoint(c, place, keyframe);
    if (!p || !delta_since_anchor(c, &p->delta)) {
        free(p);
        return false;
    }
    struct checkpoint *next = at < c->count && !c->list[at]->base ? c->list[at] : NULL;
    size_t next_count = next ? next->delta.count : 0;
    if (next && !delta_cut_front(&c->contents, &p->delta, &next->delta)) {
        delta_free(&c->contents, &p->delta);
        free(p);
        return false;
    }
    if (next)
        c->delta_bytes += (next->delta.count - next_count) * sizeof(*p->delta.pages);
    insert(c, at, p);
    know_delta(c, &p->delta);
    attach(c, p);
    return true;
}

int checkpoints_take(struct checkpoints *c, const struct replay_place *place, uint64_t keyframe,
                     struct error *err)
{
    ram_tracker_update(c->tracker);
    if (!c->anchor)
        return keyframe == NO_KEYFRAME ? 0 : checkpoints_at_keyframe(c, place, keyframe, err);
    int status = 0;
    size_t n = count_until(c, place->position);
    struct checkpoint *there = n ? c->list[n - 1] : NULL;
    if (there && there->place.position == place->position) {
        status = must_be_same(there, place, err);
        if (status == 0 && there != c->anchor)
            status = pass(c, there, err);
    } else if (!add_after_anchor(c, place, keyframe) && keyframe != NO_KEYFRAME) {
        return checkpoints_at_keyframe(c, place, keyframe, err);
    }
    if (status < 0 || !shrink(c, place->position))
        give_up(c, place->position);
    return status;
}

/* ---- restoring ---- */

/* Is every checkpoint of (low, high] linked to the one before it? Counts the pages of their deltas. */
static bool linked(const struct checkpoints *c, size_t low, size_t high, size_t *pages)
{
    for (size_t i = low + 1; i <= high; i++) {
        if (c->list[i]->base)
            return false;
        *pages += c->list[i]->delta.count;
    }
    return true;
}

bool checkpoints_reachable(const struct checkpoints *c, const struct checkpoint *target, size_t *pages)
{
    *pages = 0;
    if (!c->anchor)
        return false;
    size_t from = index_of(c, c->anchor), to = index_of(c, target);
    *pages = c->tracker->changed_count + c->ram->dirty_count;
    return from < to ? linked(c, from, to, pages) : linked(c, to, from, pages);
}

static void set_want(struct checkpoints *c, size_t *count, uint32_t page, struct page_content *content)
{
    if (!c->want[page])
        c->want_list[(*count)++] = page;
    c->want[page] = content;
}

/* Copies what differs, by cache lines: decoded code of the others stays good. */
static void copy_page(struct checkpoints *c, uint32_t page, const uint8_t *from)
{
    uint64_t offset = (uint64_t)page << PAGE_SHIFT;
    uint8_t *to = c->ram->host + offset;
    for (size_t i = 0; i < PAGE_SIZE_BYTES;) {
        size_t end = i;
        while (end < PAGE_SIZE_BYTES && memcmp(to + end, from + end, LINE_BYTES) != 0)
            end += LINE_BYTES;
        if (end > i) {
            c->ram_changed(c->context, offset + i, end - i);
            memcpy(to + i, from + i, end - i);
        }
        i = end + LINE_BYTES;
    }
}

static void restore_page(struct checkpoints *c, uint32_t page, struct page_content *content)
{
    struct ram_tracker *t = c->tracker;
    if (!hash128_equal(t->terms[page], content->term)) {
        copy_page(c, page, content->bytes);
        ram_digest_remove(&t->digest, t->terms[page]);
        ram_digest_add(&t->digest, content->term);
        t->terms[page] = content->term;
    }
    if (c->known[page] != content)
        set_known(c, page, page_content_take(content));
}

void checkpoints_restore(struct checkpoints *c, const struct checkpoint *target)
{
    size_t count = 0, from = index_of(c, c->anchor), to = index_of(c, target);
    ram_tracker_update(c->tracker);
    for (size_t i = 0; i < c->tracker->changed_count; i++)
        set_want(c, &count, c->tracker->changed[i], c->known[c->tracker->changed[i]]);
    for (size_t i = from; i > to; i--) {
        const struct delta *d = &c->list[i]->delta;
        for (size_t j = 0; j < d->count; j++)
            set_want(c, &count, d->pages[j].page, d->pages[j].before);
    }
    for (size_t i = from + 1; i <= to && from < to; i++) {
        const struct delta *d = &c->list[i]->delta;
        for (size_t j = 0; j < d->count; j++)
            set_want(c, &count, d->pages[j].page, d->pages[j].after);
    }
    for (size_t i = 0; i < count; i++) {
        uint32_t page = c->want_list[i];
        restore_page(c, page, c->want[page]);
        c->want[page] = NULL;
    }
    attach(c, c->list[to]);
    c->restores++;
}
