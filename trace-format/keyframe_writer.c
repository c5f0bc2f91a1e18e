/*
 * Keyframes, the writing side. Keyframe k > 0 stores the pages that changed after keyframe k - lowbit(k), where lowbit
 * is the lowest set bit: as in a Fenwick tree, k, k - lowbit(k), ... down to 0 together hold every page, and are at
 * most log2(k) + 2 keyframes, while a page that changed once is stored at most log2 times, each time as a reference.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "trace-format/writer_internal.h"

enum page_ref_kind { REF_ZERO = 0, REF_NEXT = 1, REF_EXPLICIT = 2 };

struct changed_page {
    gfn_t gfn;
    struct page_ref ref;
};

/* The KEYFRAME_PAGES chunks of one keyframe, one after the other. */
struct parts {
    struct trace_writer *w;
    uint64_t keyframe;
    struct buffer payload;
    gfn_t next_gfn;
    struct page_ref last;
    uint32_t in_part;
    uint64_t offset, pages;
    uint32_t count;
    struct error *err;
};

static int parts_flush(struct parts *p)
{
    if (!p->in_part)
        return 0;
    if (p->payload.failed)
        return chunk_sink_fail(&p->w->sink, -ENOMEM, "writing a keyframe", p->err);
    struct chunk_header h = {.type = CHUNK_KEYFRAME_PAGES, .first = p->keyframe, .count = p->in_part};
    uint64_t offset;
    int r = chunk_append(&p->w->sink, &h, p->payload.data, p->payload.length, true, &offset, p->err);
    if (r < 0)
        return r;
    if (p->count++ == 0)
        p->offset = offset;
    buffer_clear(&p->payload);
    p->in_part = 0;
    p->next_gfn = 0;
    p->last = (struct page_ref){0};
    return 0;
}

static int parts_add(void *context, gfn_t gfn, struct page_ref ref)
{
    struct parts *p = context;
    if (p->keyframe == 0 && ref.offset == 0)
        return 0;
    buffer_put_varint(&p->payload, gfn - p->next_gfn);
    p->next_gfn = gfn + 1;
    if (ref.offset == 0) {
        buffer_put_u8(&p->payload, REF_ZERO);
    } else if (ref.offset == p->last.offset && ref.index == p->last.index + 1) {
        buffer_put_u8(&p->payload, REF_NEXT);
    } else {
        buffer_put_u8(&p->payload, REF_EXPLICIT);
        buffer_put_svarint(&p->payload, (int64_t)(ref.offset - p->last.offset));
        buffer_put_varint(&p->payload, ref.index);
    }
    if (ref.offset)
        p->last = ref;
    p->pages++;
    return ++p->in_part == KEYFRAME_PAGES_MAX_COUNT ? parts_flush(p) : 0;
}

static int check_keyframe(const struct trace_writer *w, const struct trace_keyframe_input *k,
                          struct error *err)
{
    size_t n = w->keyframe_table.count;
    const struct index_record *last = n ? &w->keyframe_table.records[n - 1] : NULL;
    if (!w->sealing && (n || w->event_count || k->position || k->events_before))
        return error_set(err, -EINVAL, "a recording has one keyframe, at position 0 and before all events");
    if (w->sealing && !n)
        return error_set(err, -EINVAL, "sealing a trace without its first keyframe");
    if (last && (k->position <= last->position || k->events_before < last->extra))
        return error_set(err, -EINVAL, "keyframe at position %llu (%llu events) after one at %llu (%llu)",
                         (unsigned long long)k->position, (unsigned long long)k->events_before,
                         (unsigned long long)last->position, (unsigned long long)last->extra);
    if (k->state_length > STATE_MAX_BYTES)
        return error_set(err, -EMSGSIZE, "vCPU state of %zu bytes; at most %zu fit", k->state_length,
                         STATE_MAX_BYTES);
    if (n >= UINT32_MAX)
        return error_set(err, -EFBIG, "too many keyframes");
    for (size_t i = 0; i < k->changed_count; i++) {
        if (i && k->changed[i] <= k->changed[i - 1])
            return error_set(err, -EINVAL, "changed frames of a keyframe are not in ascending order");
        if (ram_layout_page(&w->layout, k->changed[i]) == NO_PAGE)
            return error_set(err, -EINVAL, "changed frame %llx is outside RAM",
                             (unsigned long long)k->changed[i]);
    }
    return 0;
}

/* Puts the changed pages into the store, and remembers where they are. */
static int store_pages(struct trace_writer *w, const struct trace_keyframe_input *k,
                       struct changed_page *changed, struct error *err)
{
    uint32_t number = (uint32_t)w->keyframe_table.count;
    for (size_t i = 0; i < k->changed_count; i++) {
        gfn_t gfn = k->changed[i];
        const uint8_t *page =
            w->job.copied ? w->job.pages.data + i * PAGE_SIZE_BYTES : k->page(k->context, gfn);
        if (!page)
            return chunk_sink_fail(&w->sink, -EINVAL, "no content for a changed frame", err);
        changed[i].gfn = gfn;
        int r = page_store_put(&w->store, &w->sink, page, &changed[i].ref, err);
        if (r < 0)
            return r;
        if (number && frame_map_set(&w->frames, ram_layout_page(&w->layout, gfn), changed[i].ref, number) < 0)
            return chunk_sink_fail(&w->sink, -ENOMEM, "remembering a frame", err);
    }
    return page_store_flush(&w->store, &w->sink, err);
}

static int write_parts(struct trace_writer *w, const struct changed_page *changed, size_t count,
                       struct parts *p)
{
    uint32_t number = (uint32_t)w->keyframe_table.count;
    uint32_t lowbit = number & -number;
    int r = 0;
    if (lowbit <= 1) {
        for (size_t i = 0; i < count && r >= 0; i++)
            r = parts_add(p, changed[i].gfn, changed[i].ref);
    } else {
        r = frame_map_visit(&w->frames, number - lowbit, parts_add, p);
    }
    return r < 0 ? r : parts_flush(p);
}

static int write_head(struct trace_writer *w, const struct trace_keyframe_input *k, const struct parts *p,
                      struct error *err)
{
    struct buffer b = {0};
    buffer_put_u64(&b, k->console_bytes_before);
    buffer_put_u64(&b, k->ram_digest.low);
    buffer_put_u64(&b, k->ram_digest.high);
    buffer_put_u64(&b, p->offset);
    buffer_put_u64(&b, p->count);
    buffer_put_u64(&b, p->pages);
    buffer_put(&b, k->state, k->state_length);
    struct chunk_header h = {
        .type = CHUNK_KEYFRAME, .first = p->keyframe, .count = k->events_before, .position = k->position};
    uint64_t offset = 0;
    int r = b.failed ? chunk_sink_fail(&w->sink, -ENOMEM, "writing a keyframe", err)
                     : chunk_append(&w->sink, &h, b.data, b.length, true, &offset, err);
    buffer_free(&b);
    struct index_record record = {offset, p->keyframe, k->position, k->events_before};
    if (r >= 0 && index_array_add(&w->keyframe_table, record) < 0)
        r = chunk_sink_fail(&w->sink, -ENOMEM, "remembering a keyframe", err);
    return r;
}

static int write_keyframe(struct trace_writer *w, const struct trace_keyframe_input *k, struct error *err)
{
    struct changed_page *changed = calloc(k->changed_count ? k->changed_count : 1, sizeof(*changed));
    if (!changed)
        return chunk_sink_fail(&w->sink, -ENOMEM, "writing a keyframe", err);
    struct parts p = {.w = w, .keyframe = w->keyframe_table.count, .err = err};
    int r = store_pages(w, k, changed, err);
    if (r >= 0)
        r = write_parts(w, changed, k->changed_count, &p);
    if (r >= 0)
        r = write_head(w, k, &p, err);
    buffer_free(&p.payload);
    free(changed);
    return r;
}

/* ---- in the background ---- */

/* A keyframe of more pages than this is not worth the memory for copies of them. */
#define JOB_PAGES_MAX ((size_t)16384)

/* Failures are kept by the sink. */
static void run_job(void *context)
{
    struct trace_writer *w = context;
    struct error err;
    if (chunk_sink_check(&w->sink, &err) < 0 || (w->image_length && writer_write_image(w, &err) < 0))
        return;
    int kept = write_keyframe(w, &w->job.input, &err);
    (void)kept;
}

/* False without memory. */
static bool copy_pages(struct keyframe_job *job, const struct trace_keyframe_input *k)
{
    buffer_clear(&job->pages);
    uint8_t *to = buffer_extend(&job->pages, k->changed_count * PAGE_SIZE_BYTES);
    for (size_t i = 0; to && i < k->changed_count; i++) {
        const uint8_t *page = k->page(k->context, k->changed[i]);
        if (!page)
            return false;
        memcpy(to + i * PAGE_SIZE_BYTES, page, PAGE_SIZE_BYTES);
    }
    return to;
}

static bool copy_input(struct keyframe_job *job, const struct trace_keyframe_input *k)
{
    if (k->changed_count > JOB_PAGES_MAX)
        return false;
    buffer_clear(&job->state);
    buffer_clear(&job->frames);
    buffer_put(&job->state, k->state, k->state_length);
    buffer_put(&job->frames, k->changed, k->changed_count * sizeof(*k->changed));
    if (job->state.failed || job->frames.failed || !copy_pages(job, k))
        return false;
    job->input = *k;
    job->input.state = job->state.data;
    job->input.changed = (const gfn_t *)(const void *)job->frames.data;
    return true;
}

void writer_free_job(struct trace_writer *w)
{
    buffer_free(&w->job.state);
    buffer_free(&w->job.frames);
    buffer_free(&w->job.pages);
}

int trace_writer_keyframe(struct trace_writer *w, const struct trace_keyframe_input *k, struct error *err)
{
    background_wait(w->background);
    int r = chunk_sink_check(&w->sink, err);
    if (r >= 0)
        r = check_keyframe(w, k, err);
    if (r < 0)
        return r;
    w->bytes_before_job = w->sink.end;
    w->job.copied = copy_input(&w->job, k);
    if (w->job.copied) {
        background_start(w->background, run_job, w);
        return 0;
    }
    r = writer_settle(w, err);
    return r < 0 ? r : write_keyframe(w, k, err);
}
