#include <errno.h>
#include <stdlib.h>

#include "trace-format/event_codec.h"
#include "trace-format/reader_internal.h"

/* How decoding stood before an event of the chunk at hand: so that seeking need not begin at the chunk's start. */
#define RESUME_EVENTS 256u
struct resume_point {
    uint64_t index;
    size_t offset; /* in the chunk */
    struct event_context context;
    size_t positions_offset;
    uint64_t positions_left;
    position_t sealed_position, last_position;
};

struct trace_cursor {
    struct trace_reader *reader;
    uint64_t index;       /* of the next event */
    uint64_t record;      /* of the chunk at hand */
    uint64_t next_record; /* of the chunk after it */
    struct chunk_decoder events_chunk, positions_chunk;
    struct chunk_header header; /* of the chunk at hand */
    uint64_t offset;
    uint64_t left; /* events left in it */
    struct reader events;
    struct event_decoder decoder;
    struct reader positions;
    uint64_t positions_offset, positions_left;
    position_t sealed_position;  /* the last one from a POSITIONS chunk */
    position_t last_position;    /* of all events so far, where known */
    struct resume_point *resume; /* one every RESUME_EVENTS of the chunk at hand, as far as it was read */
    size_t resume_count, resume_capacity;
    bool failed; /* and every further call fails in the same way */
    struct error failure;
};

void trace_cursor_close(struct trace_cursor *c)
{
    if (!c)
        return;
    chunk_decoder_free(&c->events_chunk);
    chunk_decoder_free(&c->positions_chunk);
    event_decoder_free(&c->decoder);
    free(c->resume);
    free(c);
}

static int load_positions(struct trace_cursor *c, uint64_t offset, struct error *err)
{
    struct chunk chunk;
    int r = chunk_read(&c->reader->source, offset, CHUNK_POSITIONS, &c->positions_chunk, &chunk, err);
    if (r < 0)
        return r;
    const struct chunk_header *h = &chunk.header;
    if (h->first != c->header.first || h->count == 0 || h->count > c->header.count)
        return trace_damaged(&c->reader->source, offset, err,
                             "%llu positions from event %llu on, for %llu events from %llu on",
                             (unsigned long long)h->count, (unsigned long long)h->first,
                             (unsigned long long)c->header.count, (unsigned long long)c->header.first);
    c->positions = reader_of(chunk.raw, h->raw_length);
    c->positions_offset = offset;
    c->positions_left = h->count;
    c->sealed_position = h->position;
    return 0;
}

static int load_chunk(struct trace_cursor *c, struct error *err)
{
    struct trace_reader *reader = c->reader;
    struct index_record record;
    struct chunk chunk;
    c->resume_count = 0;
    int r = reader_record(reader, &reader->events, c->next_record, &record, err);
    if (r >= 0)
        r = chunk_read(&reader->source, record.offset, CHUNK_EVENTS, &c->events_chunk, &chunk, err);
    if (r < 0)
        return r;
    const struct chunk_header *h = &chunk.header;
    if (h->first != c->index || h->count == 0 || h->count > EVENTS_MAX_COUNT ||
        h->count > reader->info.events - c->index)
        return trace_damaged(&reader->source, record.offset, err,
                             "%llu events from number %llu on, where number %llu of %llu is next",
                             (unsigned long long)h->count, (unsigned long long)h->first,
                             (unsigned long long)c->index, (unsigned long long)reader->info.events);
    c->header = *h;
    c->offset = record.offset;
    c->left = h->count;
    c->record = c->next_record++;
    c->events = reader_of(chunk.raw, h->raw_length);
    event_context_start(&c->decoder.context, h->position);
    c->positions_left = 0;
    bool sealed_positions = reader->info.sealed && !reader->info.meta.positions && record.extra;
    return sealed_positions ? load_positions(c, record.extra, err) : 0;
}

/* ---- places ---- */

/* Positions of the cursor inside the chunk at hand. Without memory for a resume point, seeking is only slower. */
static void note_resume_point(struct trace_cursor *c)
{
    uint64_t done = c->header.count - c->left;
    if (done % RESUME_EVENTS || done / RESUME_EVENTS != c->resume_count)
        return;
    if (c->resume_count == c->resume_capacity) {
        size_t capacity = c->resume_capacity ? c->resume_capacity * 2 : 16;
        struct resume_point *grown = realloc(c->resume, capacity * sizeof(*grown));
        if (!grown)
            return;
        c->resume = grown;
        c->resume_capacity = capacity;
    }
    c->resume[c->resume_count++] = (struct resume_point){.index = c->index,
                                                         .offset = c->events.offset,
                                                         .context = c->decoder.context,
                                                         .positions_offset = c->positions.offset,
                                                         .positions_left = c->positions_left,
                                                         .sealed_position = c->sealed_position,
                                                         .last_position = c->last_position};
}

/* Goes to the last resume point at or before event_index; false if the chunk at hand has none. */
static bool resume(struct trace_cursor *c, uint64_t event_index)
{
    if (!c->resume_count || event_index < c->resume[0].index ||
        event_index - c->header.first >= c->header.count)
        return false;
    size_t n = (size_t)((event_index - c->resume[0].index) / RESUME_EVENTS);
    const struct resume_point *p = &c->resume[n < c->resume_count ? n : c->resume_count - 1];
    c->left = c->header.count - (p->index - c->header.first);
    c->next_record = c->record + 1;
    c->index = p->index;
    c->events.offset = p->offset;
    c->decoder.context = p->context;
    c->positions.offset = p->positions_offset;
    c->positions_left = p->positions_left;
    c->sealed_position = p->sealed_position;
    c->last_position = p->last_position;
    return true;
}

/* Makes the chunk with event_index, which exists, the next one. */
static int find_chunk(struct trace_cursor *c, uint64_t event_index, struct error *err)
{
    struct trace_reader *reader = c->reader;
    uint64_t n = 0;
    struct index_record record;
    int r = reader_search(reader, &reader->events, INDEX_BY_FIRST, event_index, false, &n, err);
    if (r >= 0 && n == 0)
        r = trace_damaged(&reader->source, 0, err, "the index has no chunk with event %llu",
                          (unsigned long long)event_index);
    if (r >= 0)
        r = reader_record(reader, &reader->events, n - 1, &record, err);
    if (r >= 0 && event_index - record.first >= EVENTS_MAX_COUNT)
        r = trace_damaged(&reader->source, record.offset, err, "no chunk has event %llu",
                          (unsigned long long)event_index);
    if (r < 0)
        return r;
    c->next_record = n - 1;
    c->index = record.first;
    c->left = 0;
    c->last_position = 0;
    return 0;
}

int trace_cursor_seek(struct trace_cursor *c, uint64_t event_index, struct error *err)
{
    struct trace_reader *reader = c->reader;
    if (event_index > reader->info.events)
        return error_set(err, -ERANGE, "%s: event %llu of %llu", reader->path,
                         (unsigned long long)event_index, (unsigned long long)reader->info.events);
    c->failed = false;
    int r = 0;
    bool ahead = c->left && event_index >= c->index && event_index - c->index < RESUME_EVENTS;
    if (event_index == reader->info.events) {
        c->next_record = index_table_count(&reader->events);
        c->index = event_index;
        c->left = 0;
        return 0;
    }
    if (!ahead && !resume(c, event_index))
        r = find_chunk(c, event_index, err);
    while (r >= 0 && c->index < event_index) {
        struct event skipped;
        r = trace_cursor_next(c, &skipped, err);
    }
    return r < 0 ? r : 0;
}

int trace_cursor_open(struct trace_cursor **out, struct trace_reader *reader, uint64_t event_index,
                      struct error *err)
{
    *out = NULL;
    struct trace_cursor *c = calloc(1, sizeof(*c));
    if (!c)
        return error_set(err, -ENOMEM, "%s: no memory to read events", reader->path);
    c->reader = reader;
    c->decoder.steps = reader->info.format_version >= TRACE_FORMAT_VERSION_STEPS;
    int r = trace_cursor_seek(c, event_index, err);
    if (r < 0) {
        trace_cursor_close(c);
        return r;
    }
    *out = c;
    return 0;
}

static int sealed_position(struct trace_cursor *c, struct event *e, struct error *err)
{
    if (!c->positions_left) {
        e->position = POSITION_UNKNOWN;
        return 0;
    }
    uint64_t delta = reader_varint(&c->positions);
    bool overflow = __builtin_add_overflow(c->sealed_position, delta, &c->sealed_position);
    bool last = --c->positions_left == 0;
    if (c->positions.failed || overflow || c->sealed_position == POSITION_UNKNOWN ||
        (last && reader_left(&c->positions)))
        return trace_damaged(&c->reader->source, c->positions_offset, err,
                             "POSITIONS chunk: cut off, too long, or beyond 64 bits at event %llu",
                             (unsigned long long)c->index);
    e->position = c->sealed_position;
    return 0;
}

/* What an event must fulfil beyond its own encoding. */
static int check_event(struct trace_cursor *c, const struct event *e, struct error *err)
{
    const struct chunk_source *s = &c->reader->source;
    unsigned long long index = c->index;
    bool last = c->left == 1;
    if (last && reader_left(&c->events))
        return trace_damaged(s, c->offset, err, "EVENTS chunk: %zu bytes behind its last event",
                             reader_left(&c->events));
    bool end_expected = last && (c->header.flags & CHUNK_FLAG_END);
    if ((e->type == EVENT_END) != end_expected || (end_expected && c->index + 1 != c->reader->info.events))
        return trace_damaged(s, c->offset, err,
                             "event %llu: the end of the recording is not where it should be", index);
    if (e->position == POSITION_UNKNOWN)
        return 0;
    if (e->position < c->last_position)
        return trace_damaged(s, c->offset, err, "event %llu: position %llu after %llu", index,
                             (unsigned long long)e->position, (unsigned long long)c->last_position);
    c->last_position = e->position;
    return 0;
}

static int next_event(struct trace_cursor *c, struct event *event, struct error *err)
{
    struct trace_reader *reader = c->reader;
    int r = 0;
    if (c->left == 0) {
        if (c->index == reader->info.events) {
            if (reader->damaged)
                *err = reader->damage;
            return reader->damaged ? reader->damage.code : 0;
        }
        if (c->next_record >= index_table_count(&reader->events))
            return trace_damaged(&reader->source, 0, err, "the index has no chunk with event %llu",
                                 (unsigned long long)c->index);
        r = load_chunk(c, err);
        if (r < 0)
            return r;
    }
    note_resume_point(c);
    const char *why = NULL;
    r = event_decode(&c->decoder, &c->events, event, &why);
    if (r == -ENOMEM)
        return error_set(err, r, "%s: no memory for event %llu", reader->path, (unsigned long long)c->index);
    if (r < 0)
        return trace_damaged(&reader->source, c->offset, err, "event %llu: %s", (unsigned long long)c->index,
                             why);
    if (reader->info.sealed && !reader->info.meta.positions)
        r = sealed_position(c, event, err);
    else if (c->index < reader->noted_count)
        event->position = reader->noted[c->index];
    if (r >= 0)
        r = check_event(c, event, err);
    if (r < 0)
        return r;
    c->left--;
    c->index++;
    return 1;
}

int trace_cursor_next(struct trace_cursor *c, struct event *event, struct error *err)
{
    int r = c->failed ? c->failure.code : next_event(c, event, &c->failure);
    c->failed = r < 0;
    if (r < 0 && err)
        *err = c->failure;
    return r;
}

uint64_t trace_cursor_index(const struct trace_cursor *c)
{
    return c->index;
}

int trace_reader_find_event(struct trace_reader *r, position_t position, uint64_t *event_index,
                            struct error *err)
{
    if (!r->info.sealed && !r->info.meta.positions && !r->noted_count)
        return error_set(err, -ENODATA, "%s: its events have no positions before it is sealed", r->path);
    uint64_t n = 0;
    struct index_record record = {0};
    int result = reader_search(r, &r->events, INDEX_BY_POSITION, position, true, &n, err);
    if (result >= 0 && n > 0)
        result = reader_record(r, &r->events, n - 1, &record, err);
    if (result >= 0 && record.first > r->info.events)
        result =
            trace_damaged(&r->source, record.offset, err, "the index has event %llu of %llu in this chunk",
                          (unsigned long long)record.first, (unsigned long long)r->info.events);
    if (result < 0)
        return result;
    *event_index = 0;
    if (n == 0)
        return 0;
    struct trace_cursor *c;
    result = trace_cursor_open(&c, r, record.first, err);
    if (result < 0)
        return result;
    struct event event;
    do {
        *event_index = trace_cursor_index(c);
        result = trace_cursor_next(c, &event, err);
    } while (result > 0 && event.position < position);
    trace_cursor_close(c);
    return result < 0 ? result : 0;
}
