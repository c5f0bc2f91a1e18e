#include "trace-format/trace_scan.h"

#include <errno.h>

/* What only the pass itself needs to know. */
struct pass {
    struct trace_scan *scan;
    const struct chunk_source *source;
    struct chunk_decoder *decoder;
    uint64_t positions_seen;
    size_t raw_keyframes;
    struct chunk_statistics raw_statistics;
    bool done;
};

void trace_scan_free(struct trace_scan *scan)
{
    index_array_free(&scan->events);
    index_array_free(&scan->keyframes);
}

static int take_keyframe(struct pass *p, uint64_t offset, const struct chunk_header *h, struct error *err)
{
    struct index_array *k = &p->scan->keyframes;
    bool first = k->count == 0;
    if (h->first != k->count || (!first && h->position < k->records[k->count - 1].position))
        return trace_damaged(p->source, offset, err, "keyframe %llu at position %llu follows keyframe %llu",
                             (unsigned long long)h->first, (unsigned long long)h->position,
                             (unsigned long long)k->count - 1);
    return index_array_add(k, (struct index_record){offset, h->first, h->position, h->count});
}

static int take_events(struct pass *p, uint64_t offset, const struct chunk_header *h, struct error *err)
{
    struct trace_scan *s = p->scan;
    if (s->complete)
        return trace_damaged(p->source, offset, err, "events after the end of the recording");
    if (h->first != s->event_count || h->count == 0 || h->count > EVENTS_MAX_COUNT)
        return trace_damaged(p->source, offset, err, "%llu events from number %llu where number %llu is next",
                             (unsigned long long)h->count, (unsigned long long)h->first,
                             (unsigned long long)s->event_count);
    s->event_count += h->count;
    s->complete = (h->flags & CHUNK_FLAG_END) != 0;
    return index_array_add(&s->events, (struct index_record){offset, h->first, h->position, 0});
}

static int take_positions(struct pass *p, uint64_t offset, const struct chunk_header *h, struct error *err)
{
    struct index_array *e = &p->scan->events;
    if (p->positions_seen >= e->count || h->first != e->records[p->positions_seen].first)
        return trace_damaged(p->source, offset, err,
                             "positions from event %llu on belong to no chunk of events",
                             (unsigned long long)h->first);
    struct index_record *record = &e->records[p->positions_seen++];
    record->position = h->position;
    record->extra = offset;
    return 0;
}

static int take_seal(struct pass *p, uint64_t offset, struct error *err)
{
    struct trace_scan *s = p->scan;
    int r = seal_read(&s->seal, p->source, offset, p->decoder, err);
    if (r < 0)
        return r;
    if (s->seal.keyframes != s->keyframes.count || s->seal.positions_chunks != p->positions_seen ||
        s->seal.raw_end != s->raw_end)
        return trace_damaged(p->source, offset, err, "SEAL chunk of another sealing");
    s->seal_offset = offset;
    return 0;
}

static int unexpected(struct pass *p, uint64_t offset, const struct chunk_header *h, struct error *err)
{
    return trace_damaged(p->source, offset, err, "%s chunk in a place where it cannot be",
                         chunk_type_name(h->type));
}

static int take_raw(struct pass *p, uint64_t offset, const struct chunk_header *h, struct error *err)
{
    switch (h->type) {
    case CHUNK_META:
        return offset == TRACE_FILE_HEADER_BYTES ? 0 : unexpected(p, offset, h, err);
    case CHUNK_KEYFRAME:
        return take_keyframe(p, offset, h, err);
    case CHUNK_EVENTS:
        return take_events(p, offset, h, err);
    case CHUNK_POSITIONS:
    case CHUNK_SEAL:
        return unexpected(p, offset, h, err);
    case CHUNK_TRAILER:
        p->scan->raw_end = offset + chunk_file_bytes(h);
        p->raw_keyframes = p->scan->keyframes.count;
        return 0;
    default:
        return 0;
    }
}

static int take_sealing(struct pass *p, uint64_t offset, const struct chunk_header *h, struct error *err)
{
    bool sealed = p->scan->seal_offset != 0;
    switch (h->type) {
    case CHUNK_KEYFRAME:
        return sealed ? unexpected(p, offset, h, err) : take_keyframe(p, offset, h, err);
    case CHUNK_POSITIONS:
        return sealed ? unexpected(p, offset, h, err) : take_positions(p, offset, h, err);
    case CHUNK_SEAL:
        return sealed ? unexpected(p, offset, h, err) : take_seal(p, offset, err);
    case CHUNK_TRAILER:
        p->done = sealed;
        return sealed ? 0 : unexpected(p, offset, h, err);
    case CHUNK_META:
    case CHUNK_CPUID:
    case CHUNK_IMAGE:
    case CHUNK_EVENTS:
        return unexpected(p, offset, h, err);
    default:
        return 0;
    }
}

/* Sealing data without a SEAL chunk does not count. */
static void drop_sealing(struct pass *p)
{
    struct trace_scan *s = p->scan;
    if (!s->raw_end || s->seal_offset)
        return;
    s->keyframes.count = p->raw_keyframes;
    s->statistics = p->raw_statistics;
    s->whole_end = s->raw_end;
    for (uint64_t i = 0; i < p->positions_seen; i++) {
        s->events.records[i].position = POSITION_UNKNOWN;
        s->events.records[i].extra = 0;
    }
}

/*
 * Damage ends the pass. It concerns the recording only while the stream of events may still go on: what follows
 * EVENT_END or the first TRAILER can be made again.
 */
static void note_damage(struct trace_scan *s, const struct error *damage)
{
    if (s->complete || s->raw_end)
        return;
    s->damaged = true;
    s->damage = *damage;
}

int trace_scan(struct trace_scan *scan, const struct chunk_source *source, struct chunk_decoder *d,
               struct error *err)
{
    *scan = (struct trace_scan){.whole_end = TRACE_FILE_HEADER_BYTES};
    struct pass p = {.scan = scan, .source = source, .decoder = d};
    struct error e = {0};
    while (!p.done && scan->whole_end < source->size) {
        struct chunk_header h;
        uint64_t offset = scan->whole_end;
        int r = chunk_read_header(source, offset, &h, &e);
        if (r == CHUNK_CUT) {
            scan->cut = true;
            break;
        }
        bool in_raw = scan->raw_end == 0;
        if (r == 0)
            r = in_raw ? take_raw(&p, offset, &h, &e) : take_sealing(&p, offset, &h, &e);
        if (r == -ENOMEM)
            return error_set(err, r, "%s: no memory for the index", source->path);
        if (r < 0 && e.kind == ERROR_DAMAGED) {
            note_damage(scan, &e);
            break;
        }
        if (r < 0) {
            if (err)
                *err = e;
            return r;
        }
        chunk_statistics_add(&scan->statistics, &h);
        scan->whole_end = offset + chunk_file_bytes(&h);
        if (in_raw && scan->raw_end)
            p.raw_statistics = scan->statistics;
    }
    drop_sealing(&p);
    return 0;
}
