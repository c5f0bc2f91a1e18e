/* Keyframes, the reading side (SPEC.md, "Keyframes"). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "trace-format/reader_internal.h"
#include "trace-format/trace_meta.h"

enum page_ref_kind { REF_ZERO = 0, REF_NEXT = 1, REF_EXPLICIT = 2 };

enum { KEYFRAME_FIXED_BYTES = 48, REF_MIN_BYTES = 2 };

struct keyframe {
    struct trace_keyframe_info info;
    uint64_t offset;
    uint64_t parts_offset, parts, pages;
    const uint8_t *state; /* in the reader's decoder */
    size_t state_length;
};

static int read_keyframe(struct trace_reader *r, uint64_t index, struct keyframe *k, struct error *err)
{
    struct index_record record;
    struct chunk c;
    int result = reader_record(r, &r->keyframes, index, &record, err);
    if (result >= 0)
        result = chunk_read(&r->source, record.offset, CHUNK_KEYFRAME, &r->decoder, &c, err);
    if (result < 0)
        return result;
    const struct chunk_header *h = &c.header;
    struct reader in = reader_of(c.raw, h->raw_length);
    *k = (struct keyframe){.offset = c.offset};
    k->info =
        (struct trace_keyframe_info){.index = index, .position = h->position, .events_before = h->count};
    k->info.console_bytes_before = reader_u64(&in);
    k->info.ram_digest.low = reader_u64(&in);
    k->info.ram_digest.high = reader_u64(&in);
    k->parts_offset = reader_u64(&in);
    k->parts = reader_u64(&in);
    k->pages = reader_u64(&in);
    k->state_length = reader_left(&in);
    k->state = reader_take(&in, k->state_length);
    if (in.failed || h->first != index || k->state_length > STATE_MAX_BYTES || h->count > r->info.events ||
        (index == 0 && (h->position || h->count)))
        return trace_damaged(&r->source, c.offset, err, "KEYFRAME chunk that is not a correct keyframe %llu",
                             (unsigned long long)index);
    return 0;
}

int trace_reader_keyframe_info(struct trace_reader *r, uint64_t index, struct trace_keyframe_info *out,
                               struct error *err)
{
    if (index >= r->info.keyframes)
        return error_set(err, -ERANGE, "%s: keyframe %llu of %llu", r->path, (unsigned long long)index,
                         (unsigned long long)r->info.keyframes);
    struct keyframe k;
    int result = read_keyframe(r, index, &k, err);
    if (result >= 0)
        *out = k.info;
    return result;
}

int trace_reader_find_keyframe(struct trace_reader *r, position_t position, struct trace_keyframe_info *out,
                               struct error *err)
{
    uint64_t n = 0;
    int result = reader_search(r, &r->keyframes, INDEX_BY_POSITION, position, false, &n, err);
    if (result < 0)
        return result;
    if (n == 0)
        return trace_damaged(&r->source, r->whole_end, err,
                             "there is no keyframe at the start; the recording ended before it began");
    result = trace_reader_keyframe_info(r, n - 1, out, err);
    if (result >= 0 && out->position > position)
        return trace_damaged(&r->source, r->whole_end, err,
                             "keyframe %llu is at position %llu, and not where the index has it",
                             (unsigned long long)out->index, (unsigned long long)out->position);
    return result;
}

struct page_place {
    uint64_t offset; /* of the PAGES chunk */
    uint64_t index;
    gfn_t gfn;
};

/* One keyframe being put together. */
struct load {
    struct trace_reader *reader;
    struct ram_layout layout;
    uint8_t *done; /* a bit per page of RAM */
    struct page_place *places;
    size_t place_count, place_capacity;
    struct chunk_decoder parts, pages;
    uint8_t *(*place)(void *context, gfn_t gfn);
    void *context;
    struct error *err;
};

static int compare_places(const void *pa, const void *pb)
{
    const struct page_place *a = pa, *b = pb;
    if (a->offset != b->offset)
        return a->offset < b->offset ? -1 : 1;
    return (a->index > b->index) - (a->index < b->index);
}

static int read_pages_chunk(struct load *l, uint64_t offset, struct chunk *c)
{
    const struct chunk_source *s = &l->reader->source;
    int r = chunk_read(s, offset, CHUNK_PAGES, &l->pages, c, l->err);
    if (r < 0)
        return r;
    if (c->header.count == 0 || c->header.count > PAGES_MAX_COUNT ||
        c->header.raw_length != c->header.count * PAGES_ENTRY_BYTES)
        return trace_damaged(s, offset, l->err, "PAGES chunk of %u bytes for %llu pages",
                             c->header.raw_length, (unsigned long long)c->header.count);
    return 0;
}

static int place_page(struct load *l, const struct chunk *c, const struct page_place *p)
{
    const struct chunk_source *s = &l->reader->source;
    if (p->index >= c->header.count)
        return trace_damaged(s, c->offset, l->err, "page %llu of %llu in a PAGES chunk",
                             (unsigned long long)p->index, (unsigned long long)c->header.count);
    struct reader in = reader_of(c->raw + p->index * 16, 16);
    struct hash128 expected = {.low = reader_u64(&in)};
    expected.high = reader_u64(&in);
    const uint8_t *page = c->raw + c->header.count * 16 + p->index * PAGE_SIZE_BYTES;
    if (!hash128_equal(hash128(page, PAGE_SIZE_BYTES), expected))
        return trace_damaged(s, c->offset, l->err, "content of page %llu in a PAGES chunk",
                             (unsigned long long)p->index);
    uint8_t *to = l->place(l->context, p->gfn);
    if (!to)
        return trace_damaged(s, c->offset, l->err, "keyframe with frame %llx, which is outside RAM",
                             (unsigned long long)p->gfn);
    memcpy(to, page, PAGE_SIZE_BYTES);
    return 0;
}

/* In the order of the file, so that every chunk is decompressed once. */
static int place_pages(struct load *l)
{
    qsort(l->places, l->place_count, sizeof(*l->places), compare_places);
    struct chunk c = {0};
    for (size_t i = 0; i < l->place_count; i++) {
        const struct page_place *p = &l->places[i];
        int r = i == 0 || p->offset != c.offset ? read_pages_chunk(l, p->offset, &c) : 0;
        if (r >= 0)
            r = place_page(l, &c, p);
        if (r < 0)
            return r;
    }
    return 0;
}

/* The next reference of a part; offset 0 for a page of zeros. */
static bool decode_place(struct reader *in, gfn_t *next_gfn, struct page_place *last, struct page_place *out)
{
    bool overflow = __builtin_add_overflow(*next_gfn, reader_varint(in), &out->gfn);
    *next_gfn = out->gfn + 1;
    uint8_t kind = reader_u8(in);
    if (in->failed || overflow || kind > REF_EXPLICIT)
        return false;
    if (kind == REF_ZERO) {
        out->offset = out->index = 0;
        return true;
    }
    out->offset = last->offset;
    out->index = last->index + 1;
    if (kind == REF_EXPLICIT) {
        out->offset += (uint64_t)reader_svarint(in);
        out->index = reader_varint(in);
    }
    *last = *out;
    return !in->failed && out->offset != 0 && out->index < PAGES_MAX_COUNT;
}

static int take_place(struct load *l, const struct page_place *p)
{
    uint64_t page = ram_layout_page(&l->layout, p->gfn);
    if (page == NO_PAGE)
        return -ERANGE;
    uint8_t bit = (uint8_t)(1u << (page % 8));
    if (l->done[page / 8] & bit)
        return 0;
    l->done[page / 8] |= bit;
    if (p->offset)
        l->places[l->place_count++] = *p;
    return 0;
}

static int load_part(struct load *l, const struct chunk *c)
{
    const struct chunk_header *h = &c->header;
    const struct chunk_source *s = &l->reader->source;
    struct reader in = reader_of(c->raw, h->raw_length);
    if (h->count == 0 || h->count > KEYFRAME_PAGES_MAX_COUNT || h->count > h->raw_length / REF_MIN_BYTES)
        return trace_damaged(s, c->offset, l->err, "%llu pages in a KEYFRAME_PAGES chunk of %u bytes",
                             (unsigned long long)h->count, h->raw_length);
    if (h->count > l->place_capacity) {
        free(l->places);
        l->place_capacity = 0;
        l->places = malloc((size_t)h->count * sizeof(*l->places));
        if (!l->places)
            return error_set(l->err, -ENOMEM, "%s: no memory to load a keyframe", s->path);
        l->place_capacity = (size_t)h->count;
    }
    l->place_count = 0;
    gfn_t next_gfn = 0;
    struct page_place last = {0}, p = {0};
    for (uint64_t i = 0; i < h->count; i++) {
        if (!decode_place(&in, &next_gfn, &last, &p) || p.offset >= c->offset)
            return trace_damaged(s, c->offset, l->err,
                                 "KEYFRAME_PAGES chunk: page reference %llu is not correct",
                                 (unsigned long long)i);
        if (take_place(l, &p) < 0)
            return trace_damaged(s, c->offset, l->err, "keyframe with frame %llx, which is outside RAM",
                                 (unsigned long long)p.gfn);
    }
    if (reader_left(&in))
        return trace_damaged(s, c->offset, l->err, "KEYFRAME_PAGES chunk with %zu bytes too many",
                             reader_left(&in));
    return place_pages(l);
}

static int load_parts(struct load *l, const struct keyframe *k)
{
    const struct chunk_source *s = &l->reader->source;
    uint64_t offset = k->parts_offset, pages = 0;
    for (uint64_t i = 0; i < k->parts; i++) {
        struct chunk c;
        if (offset >= k->offset)
            return trace_damaged(s, k->offset, l->err, "keyframe whose pages are not in front of it");
        int r = chunk_read(s, offset, CHUNK_KEYFRAME_PAGES, &l->parts, &c, l->err);
        if (r >= 0 && c.header.first != k->info.index)
            r = trace_damaged(s, offset, l->err, "pages of keyframe %llu where those of %llu belong",
                              (unsigned long long)c.header.first, (unsigned long long)k->info.index);
        if (r >= 0)
            r = load_part(l, &c);
        if (r < 0)
            return r;
        pages += c.header.count;
        offset += chunk_file_bytes(&c.header);
    }
    if (pages != k->pages)
        return trace_damaged(s, k->offset, l->err, "keyframe with %llu pages; %llu are expected",
                             (unsigned long long)pages, (unsigned long long)k->pages);
    return 0;
}

static int load_chain(struct load *l, uint64_t index, struct buffer *state)
{
    for (uint64_t n = index;; n -= n & -n) {
        struct keyframe k;
        int r = read_keyframe(l->reader, n, &k, l->err);
        if (r < 0)
            return r;
        if (n == index) {
            buffer_clear(state);
            buffer_put(state, k.state, k.state_length);
            if (state->failed)
                return error_set(l->err, -ENOMEM, "%s: no memory for a vCPU state", l->reader->path);
        }
        r = load_parts(l, &k);
        if (r < 0 || n == 0)
            return r;
    }
}

int trace_reader_load_keyframe(struct trace_reader *r, uint64_t index, struct buffer *state,
                               uint8_t *(*place)(void *context, gfn_t gfn), void *context, struct error *err)
{
    if (index >= r->info.keyframes)
        return error_set(err, -ERANGE, "%s: keyframe %llu of %llu", r->path, (unsigned long long)index,
                         (unsigned long long)r->info.keyframes);
    struct load l = {.reader = r,
                     .layout = trace_meta_layout(&r->info.meta),
                     .place = place,
                     .context = context,
                     .err = err};
    l.done = calloc((size_t)(l.layout.pages / 8 + 1), 1);
    int result = l.done ? load_chain(&l, index, state)
                        : error_set(err, -ENOMEM, "%s: no memory to load a keyframe", r->path);
    free(l.done);
    free(l.places);
    chunk_decoder_free(&l.parts);
    chunk_decoder_free(&l.pages);
    return result;
}
