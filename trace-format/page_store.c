#include "trace-format/page_store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { WINDOW_SLOTS = 8, FIRST_SLOTS = 1024 };

void page_store_init(struct page_store *s, size_t budget_bytes)
{
    *s = (struct page_store){.max_slots = WINDOW_SLOTS};
    while (s->max_slots * 2 <= budget_bytes / sizeof(struct page_store_entry))
        s->max_slots *= 2;
}

void page_store_free(struct page_store *s)
{
    free(s->entries);
    buffer_free(&s->pages);
    buffer_free(&s->payload);
    *s = (struct page_store){0};
}

/* The slot of hash, else a free one in its window, else NULL. */
static struct page_store_entry *find_slot(struct page_store_entry *entries, size_t slots, struct hash128 hash)
{
    struct page_store_entry *vacant = NULL;
    for (size_t i = 0; i < WINDOW_SLOTS; i++) {
        struct page_store_entry *e = &entries[(hash.low + i) & (slots - 1)];
        if (e->ref.offset == 0) {
            if (!vacant)
                vacant = e;
        } else if (hash128_equal(e->hash, hash)) {
            return e;
        }
    }
    return vacant;
}

/* An entry whose window is full in the new table as well is forgotten: that costs space, never correctness. */
static int resize(struct page_store *s, size_t slots)
{
    struct page_store_entry *entries = calloc(slots, sizeof(*entries));
    if (!entries)
        return -ENOMEM;
    s->used = 0;
    for (size_t i = 0; i < s->slots; i++) {
        if (s->entries[i].ref.offset == 0)
            continue;
        struct page_store_entry *e = find_slot(entries, slots, s->entries[i].hash);
        if (e) {
            *e = s->entries[i];
            s->used++;
        }
    }
    free(s->entries);
    s->entries = entries;
    s->slots = slots;
    return 0;
}

int page_store_learn(struct page_store *s, struct hash128 hash, struct page_ref ref)
{
    bool crowded = s->used >= s->slots - s->slots / 4;
    if (crowded && s->slots < s->max_slots) {
        size_t slots = s->slots ? s->slots * 2 : FIRST_SLOTS;
        int r = resize(s, slots < s->max_slots ? slots : s->max_slots);
        if (r < 0)
            return r;
    }
    struct page_store_entry *e = find_slot(s->entries, s->slots, hash);
    if (!e)
        e = &s->entries[(hash.low + hash.high % WINDOW_SLOTS) & (s->slots - 1)];
    else if (e->ref.offset == 0)
        s->used++;
    *e = (struct page_store_entry){hash, ref};
    return 0;
}

int page_store_flush(struct page_store *s, struct chunk_sink *sink, struct error *err)
{
    if (!s->pending)
        return 0;
    buffer_clear(&s->payload);
    for (unsigned i = 0; i < s->pending; i++) {
        buffer_put_u64(&s->payload, s->pending_hash[i].low);
        buffer_put_u64(&s->payload, s->pending_hash[i].high);
    }
    buffer_put(&s->payload, s->pages.data, s->pages.length);
    if (s->payload.failed || s->pages.failed)
        return chunk_sink_fail(sink, -ENOMEM, "collecting pages", err);
    struct chunk_header h = {.type = CHUNK_PAGES, .count = s->pending};
    s->pending = 0;
    buffer_clear(&s->pages);
    return chunk_append(sink, &h, s->payload.data, s->payload.length, true, NULL, err);
}

int page_store_put(struct page_store *s, struct chunk_sink *sink, const uint8_t *page, struct page_ref *ref,
                   struct error *err)
{
    if (page_is_zero(page)) {
        *ref = (struct page_ref){0};
        return 0;
    }
    struct hash128 hash = hash128(page, PAGE_SIZE_BYTES);
    struct page_store_entry *known = s->slots ? find_slot(s->entries, s->slots, hash) : NULL;
    if (known && known->ref.offset) {
        *ref = known->ref;
        return 0;
    }
    if (s->pending == PAGES_MAX_COUNT) {
        int r = page_store_flush(s, sink, err);
        if (r < 0)
            return r;
    }
    *ref = (struct page_ref){.offset = sink->end, .index = s->pending};
    s->pending_hash[s->pending++] = hash;
    buffer_put(&s->pages, page, PAGE_SIZE_BYTES);
    if (page_store_learn(s, hash, *ref) < 0)
        return chunk_sink_fail(sink, -ENOMEM, "remembering a page", err);
    return 0;
}
