/* Sealing: positions and keyframes behind a finished recording (SPEC.md, "Life of a file"). */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "trace-format/reader_internal.h"
#include "trace-format/trace_meta.h"
#include "trace-format/writer_internal.h"

/* Of what sealing adds. Level 1 would take half as much time again, and save a tenth of the space. */
static const int seal_level = -1;

/* Whatever is not finished is taken away again. */
void trace_sealing_destroy(struct trace_writer *w)
{
    struct sealing *s = w->sealing;
    if (s->raw_end && !s->finished && ftruncate(w->sink.fd, (off_t)s->raw_end) < 0)
        w->sink.end = s->raw_end; /* the next attempt drops it */
    trace_cursor_close(s->cursor);
    trace_reader_close(s->raw);
    buffer_free(&s->positions);
    free(s);
    w->sealing = NULL;
}

static int raw_record(void *context, uint64_t n, struct index_record *out, struct error *err)
{
    struct trace_reader *raw = context;
    return reader_record(raw, &raw->events, n, out, err);
}

/* The trace was cut short, or its index is lost: finish it first. */
static int finish_raw(struct trace_writer *w, struct error *err)
{
    struct trace_reader *raw = w->sealing->raw;
    struct trailer t = {.events = raw->info.events, .complete = raw->info.complete};
    if (ftruncate(w->sink.fd, (off_t)raw->whole_end) < 0)
        return error_errno(err, -errno, "%s: cutting it back to its last whole chunk", w->sink.path);
    w->sink.end = raw->whole_end;
    int r = trace_write_index(w, &t, index_table_count(&raw->events), raw_record, raw, err);
    w->sealing->raw_end = w->sink.end;
    return r;
}

/* Pages of the recording's first keyframe, before offset end, become known to the page store. */
static int learn_pages(struct trace_writer *w, uint64_t end, struct error *err)
{
    struct trace_reader *raw = w->sealing->raw;
    struct chunk_decoder decoder = {0};
    int r = 0;
    for (uint64_t offset = TRACE_FILE_HEADER_BYTES; offset < end && r >= 0;) {
        struct chunk c = {.offset = offset};
        r = chunk_read_header(&raw->source, offset, &c.header, err);
        if (r == CHUNK_CUT)
            break;
        if (r >= 0 && c.header.type == CHUNK_PAGES)
            r = chunk_read(&raw->source, offset, CHUNK_PAGES, &decoder, &c, err);
        if (r < 0)
            break;
        bool usable = c.raw && c.header.count <= PAGES_MAX_COUNT &&
                      c.header.raw_length == c.header.count * PAGES_ENTRY_BYTES;
        struct reader in = reader_of(c.raw, usable ? c.header.raw_length : 0);
        for (uint32_t i = 0; usable && i < c.header.count && r >= 0; i++) {
            struct hash128 hash = {.low = reader_u64(&in)};
            hash.high = reader_u64(&in);
            struct page_ref ref = {offset, i};
            if (page_store_learn(&w->store, hash, ref) < 0)
                r = error_set(err, -ENOMEM, "%s: no memory to seal", w->sink.path);
        }
        offset += chunk_file_bytes(&c.header);
    }
    chunk_decoder_free(&decoder);
    return r < 0 ? r : 0;
}

/* A failure is kept by the sink, for the next call. */
static void learn_job(void *context)
{
    struct trace_writer *w = context;
    struct error err;
    if (learn_pages(w, w->learn_end, &err) < 0 && !w->sink.failed) {
        w->sink.failed = true;
        w->sink.failure = err;
    }
}

/* After interrupted sealing, or where none was tried: the sink stands at the end of the finished raw part. */
static int prepare_file(struct trace_writer *w, struct error *err)
{
    struct sealing *s = w->sealing;
    w->sink.statistics = s->raw->statistics;
    if (!s->raw->raw_end)
        return finish_raw(w, err);
    if (ftruncate(w->sink.fd, (off_t)s->raw->raw_end) < 0)
        return error_errno(err, -errno, "%s: dropping unfinished sealing data", w->sink.path);
    w->sink.end = s->raw_end = s->raw->raw_end;
    return 0;
}

static int check_raw(struct trace_writer *w, struct error *err)
{
    struct trace_reader *raw = w->sealing->raw;
    if (raw->info.sealed)
        return error_set(err, -EALREADY, "%s is sealed already", w->sink.path);
    if (raw->damaged) {
        if (err)
            *err = raw->damage;
        return raw->damage.code;
    }
    struct index_record record;
    struct trace_keyframe_info first;
    int r = trace_reader_find_keyframe(raw, 0, &first, err);
    if (r >= 0)
        r = reader_record(raw, &raw->keyframes, 0, &record, err);
    if (r >= 0 && index_array_add(&w->keyframe_table, record) < 0)
        r = error_set(err, -ENOMEM, "%s: no memory to seal", w->sink.path);
    return r;
}

static int open_sealing(struct trace_writer *w, const char *path, struct error *err)
{
    struct sealing *s = w->sealing;
    int fd = fcntl(w->sink.fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        return error_errno(err, -errno, "%s", path);
    int r = trace_reader_open_named(&s->raw, fd, path, err);
    if (r >= 0)
        r = check_raw(w, err);
    if (r < 0)
        return r;
    w->positions = s->raw->info.meta.positions;
    w->layout = trace_meta_layout(&s->raw->info.meta);
    w->event_count = s->raw->info.events;
    if (frame_map_init(&w->frames, w->layout) < 0)
        return error_set(err, -ENOMEM, "%s: no memory to seal", path);
    w->learn_end = w->keyframe_table.records[0].offset;
    r = prepare_file(w, err);
    if (r >= 0 && w->positions)
        r = trace_cursor_open(&s->cursor, s->raw, 0, err);
    if (r >= 0)
        background_start(w->background, learn_job, w);
    return r;
}

int trace_seal_open(struct trace_writer **out, const char *path, struct error *err)
{
    *out = NULL;
    int fd = trace_open_locked(path, 0, err);
    if (fd < 0)
        return fd;
    struct trace_writer *w = calloc(1, sizeof(*w));
    struct sealing *s = calloc(1, sizeof(*s));
    if (!w || !s) {
        close(fd);
        free(w);
        free(s);
        return error_set(err, -ENOMEM, "%s: no memory to seal", path);
    }
    w->sealing = s;
    w->background = background_create();
    page_store_init(&w->store, PAGE_STORE_DEFAULT_BUDGET_BYTES);
    int r = chunk_sink_open(&w->sink, fd, path, seal_level, err);
    if (r >= 0)
        r = open_sealing(w, path, err);
    if (r < 0) {
        trace_writer_destroy(w);
        return r;
    }
    *out = w;
    return 0;
}

/* Makes the EVENTS chunk that the next position belongs to the one at hand. */
static int next_events_chunk(struct trace_writer *w, struct error *err)
{
    struct sealing *s = w->sealing;
    uint64_t chunks = index_table_count(&s->raw->events);
    struct index_record next = {.first = s->raw->info.events};
    int r = reader_record(s->raw, &s->raw->events, s->chunk_number, &s->chunk, err);
    if (r >= 0 && s->chunk_number + 1 < chunks)
        r = reader_record(s->raw, &s->raw->events, s->chunk_number + 1, &next, err);
    if (r < 0)
        return r;
    if (s->chunk.first != s->events || next.first <= s->events || next.first > s->raw->info.events)
        return trace_damaged(&s->raw->source, s->chunk.offset, err,
                             "the index is wrong about the events in this chunk");
    s->chunk_end = next.first;
    buffer_clear(&s->positions);
    return 0;
}

static int write_positions(struct trace_writer *w, struct error *err)
{
    struct sealing *s = w->sealing;
    int r = writer_settle(w, err);
    if (r < 0)
        return r;
    if (s->positions.failed)
        return chunk_sink_fail(&w->sink, -ENOMEM, "collecting positions", err);
    struct chunk_header h = {
        .type = CHUNK_POSITIONS,
        .first = s->chunk.first,
        .count = s->events - s->chunk.first,
        .position = s->chunk.position,
    };
    r = chunk_append(&w->sink, &h, s->positions.data, s->positions.length, true, &s->chunk.extra, err);
    if (r >= 0 && index_array_add(&w->event_table, s->chunk) < 0)
        r = chunk_sink_fail(&w->sink, -ENOMEM, "remembering a chunk", err);
    s->positions_chunks++;
    s->chunk_number++;
    s->chunk_end = 0;
    return r;
}

/* A trace with positions: what the replay found must be what was recorded. */
static int compare_position(struct trace_writer *w, position_t position, struct error *err)
{
    struct sealing *s = w->sealing;
    struct event e;
    int r = trace_cursor_next(s->cursor, &e, err);
    if (r < 0)
        return r;
    if (e.place != PLACE_PREVIOUS && e.position != position)
        return error_set_kind(err, ERROR_DIVERGENCE, -EINVAL,
                              "event %llu (%s) was recorded at position %llu, and replayed at %llu",
                              (unsigned long long)s->events, event_type_name(e.type),
                              (unsigned long long)e.position, (unsigned long long)position);
    s->events++;
    return 0;
}

int trace_seal_position(struct trace_writer *w, position_t position, struct error *err)
{
    struct sealing *s = w->sealing;
    int r = trace_writer_is_busy(w) ? 0 : chunk_sink_check(&w->sink, err);
    if (r < 0)
        return r;
    if (!s)
        return error_set(err, -EINVAL, "%s: it is being recorded, not sealed", w->sink.path);
    if (position == POSITION_UNKNOWN || position < s->last || s->events >= w->event_count)
        return error_set(err, -EINVAL, "position %llu for event %llu of %llu, after position %llu",
                         (unsigned long long)position, (unsigned long long)s->events,
                         (unsigned long long)w->event_count, (unsigned long long)s->last);
    if (w->positions) {
        r = compare_position(w, position, err);
        if (r >= 0)
            s->last = position;
        return r;
    }
    if (!s->chunk_end) {
        r = next_events_chunk(w, err);
        if (r < 0)
            return r;
        s->chunk.position = s->last = position;
    }
    buffer_put_varint(&s->positions, position - s->last);
    s->last = position;
    return ++s->events == s->chunk_end ? write_positions(w, err) : 0;
}

/* The records of events chunks that got no positions: all of a trace with positions, the tail of a cut-short one. */
static int copy_records(struct trace_writer *w, struct error *err)
{
    struct trace_reader *raw = w->sealing->raw;
    uint64_t count = index_table_count(&raw->events);
    for (uint64_t n = w->event_table.count; n < count; n++) {
        struct index_record record;
        int r = reader_record(raw, &raw->events, n, &record, err);
        if (r < 0)
            return r;
        if (!w->positions)
            record.position = POSITION_UNKNOWN;
        if (index_array_add(&w->event_table, record) < 0)
            return chunk_sink_fail(&w->sink, -ENOMEM, "writing the index", err);
    }
    return 0;
}

static int check_summary(const struct trace_writer *w, const struct trace_seal_summary *summary,
                         struct error *err)
{
    const struct sealing *s = w->sealing;
    if (summary->events != s->events || (s->events != w->event_count && !s->raw->info.cut_short))
        return error_set(err, -EINVAL,
                         "%s: sealing of %llu events; %llu got a position, and the trace has %llu",
                         w->sink.path, (unsigned long long)summary->events, (unsigned long long)s->events,
                         (unsigned long long)w->event_count);
    if (summary->end_position < s->last)
        return error_set(err, -EINVAL, "%s: sealing ends at position %llu, before its last event at %llu",
                         w->sink.path, (unsigned long long)summary->end_position,
                         (unsigned long long)s->last);
    return 0;
}

static int finish_sealing(struct trace_writer *w, const struct trace_seal_summary *summary, struct error *err)
{
    struct sealing *s = w->sealing;
    int r = writer_settle(w, err);
    if (r >= 0)
        r = check_summary(w, summary, err);
    if (r >= 0 && s->chunk_end)
        r = write_positions(w, err);
    if (r >= 0)
        r = copy_records(w, err);
    struct seal seal = {
        .summary = *summary,
        .keyframes = w->keyframe_table.count,
        .positions_chunks = s->positions_chunks,
        .raw_end = s->raw_end,
    };
    struct trailer t = {.raw_end = s->raw_end, .events = w->event_count, .complete = s->raw->info.complete};
    if (r >= 0)
        r = seal_write(&w->sink, &seal, &t.seal_offset, err);
    if (r >= 0)
        r = trace_write_index(w, &t, w->event_table.count, trace_index_from_array, &w->event_table, err);
    if (r >= 0)
        r = trace_sync(w, err);
    s->finished = r >= 0;
    return r;
}

int trace_seal_finish(struct trace_writer *w, const struct trace_seal_summary *summary, struct error *err)
{
    int r = w->sealing ? finish_sealing(w, summary, err)
                       : error_set(err, -EINVAL, "%s: it is being recorded, not sealed", w->sink.path);
    trace_writer_destroy(w);
    return r;
}
