#include "trace-format/trace_index.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { TRAILER_COMPLETE = 1, TRAILER_RESERVED_WORDS = 7 };

int index_array_add(struct index_array *a, struct index_record record)
{
    if (a->count == a->capacity) {
        size_t capacity = a->capacity ? a->capacity + a->capacity / 2 : 64;
        struct index_record *records = realloc(a->records, capacity * sizeof(*records));
        if (!records)
            return -ENOMEM;
        a->records = records;
        a->capacity = capacity;
    }
    a->records[a->count++] = record;
    return 0;
}

void index_array_free(struct index_array *a)
{
    free(a->records);
    *a = (struct index_array){0};
}

void index_table_init_memory(struct index_table *t, bool keyframes)
{
    *t = (struct index_table){.keyframes = keyframes, .in_memory = true, .leaf = UINT64_MAX};
}

void index_table_init_file(struct index_table *t, bool keyframes, uint64_t offset, uint64_t count)
{
    *t = (struct index_table){.keyframes = keyframes, .offset = offset, .count = count, .leaf = UINT64_MAX};
}

void index_table_free(struct index_table *t)
{
    index_array_free(&t->array);
    chunk_decoder_free(&t->decoder);
}

uint64_t index_table_count(const struct index_table *t)
{
    return t->in_memory ? t->array.count : t->count;
}

static int load_leaf(struct index_table *t, const struct chunk_source *s, uint64_t leaf, struct error *err)
{
    uint64_t offset = t->offset + leaf * INDEX_CHUNK_BYTES;
    uint64_t left = t->count - leaf * INDEX_CHUNK_RECORDS;
    uint64_t expected = left < INDEX_CHUNK_RECORDS ? left : INDEX_CHUNK_RECORDS;
    struct chunk c;
    t->leaf = UINT64_MAX;
    int r = chunk_read(s, offset, CHUNK_INDEX, &t->decoder, &c, err);
    if (r < 0)
        return r;
    const struct chunk_header *h = &c.header;
    if (h->flags != (t->keyframes ? CHUNK_FLAG_KEYFRAMES : 0) || h->first != leaf * INDEX_CHUNK_RECORDS ||
        h->count != expected || h->raw_length != expected * INDEX_RECORD_BYTES)
        return trace_damaged(s, offset, err, "INDEX chunk that is not the %llu-th of its table",
                             (unsigned long long)leaf);
    struct reader in = reader_of(c.raw, h->raw_length);
    for (uint64_t i = 0; i < expected; i++) {
        struct index_record *record = &t->leaf_records[i];
        record->offset = reader_u64(&in);
        record->first = reader_u64(&in);
        record->position = reader_u64(&in);
        record->extra = reader_u64(&in);
    }
    t->leaf = leaf;
    return 0;
}

int index_table_get(struct index_table *t, const struct chunk_source *s, uint64_t n, struct index_record *out,
                    struct error *err)
{
    if (n >= index_table_count(t))
        return error_set(err, -ERANGE, "%s: record %llu of a table of %llu", s->path, (unsigned long long)n,
                         (unsigned long long)index_table_count(t));
    if (t->in_memory) {
        *out = t->array.records[n];
        return 0;
    }
    if (t->leaf != n / INDEX_CHUNK_RECORDS) {
        int r = load_leaf(t, s, n / INDEX_CHUNK_RECORDS, err);
        if (r < 0)
            return r;
    }
    *out = t->leaf_records[n % INDEX_CHUNK_RECORDS];
    return 0;
}

int index_table_search(struct index_table *t, const struct chunk_source *s, enum index_key key,
                       uint64_t value, bool strict, uint64_t *n, struct error *err)
{
    uint64_t low = 0, high = index_table_count(t);
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        struct index_record record;
        int r = index_table_get(t, s, middle, &record, err);
        if (r < 0)
            return r;
        uint64_t k = key == INDEX_BY_FIRST ? record.first : record.position;
        if (k < value || (!strict && k == value))
            low = middle + 1;
        else
            high = middle;
    }
    *n = low;
    return 0;
}

int index_write(struct chunk_sink *sink, bool keyframes, uint64_t count, index_source get, void *context,
                uint64_t *offset, struct error *err)
{
    struct buffer payload = {0};
    int r = 0;
    *offset = sink->end;
    for (uint64_t n = 0; n < count && r >= 0;) {
        struct chunk_header h = {
            .type = CHUNK_INDEX, .flags = keyframes ? CHUNK_FLAG_KEYFRAMES : 0, .first = n, .position = 0};
        buffer_clear(&payload);
        for (; h.count < INDEX_CHUNK_RECORDS && n < count && r >= 0; h.count++, n++) {
            struct index_record record = {0};
            r = get(context, n, &record, err);
            buffer_put_u64(&payload, record.offset);
            buffer_put_u64(&payload, record.first);
            buffer_put_u64(&payload, record.position);
            buffer_put_u64(&payload, record.extra);
        }
        if (r >= 0 && payload.failed)
            r = chunk_sink_fail(sink, -ENOMEM, "writing the index", err);
        if (r >= 0)
            r = chunk_append(sink, &h, payload.data, payload.length, false, NULL, err);
    }
    buffer_free(&payload);
    return r;
}

int trailer_write(struct chunk_sink *sink, struct trailer *t, struct error *err)
{
    t->file_length = sink->end + TRAILER_BYTES;
    if (!t->raw_end)
        t->raw_end = t->file_length;
    t->statistics = sink->statistics;
    const struct chunk_statistics *s = &t->statistics;
    const uint64_t words[] = {
        t->file_length,
        t->raw_end,
        t->seal_offset,
        t->events,
        s->chunks,
        s->stored_pages,
        s->bytes_events,
        s->bytes_pages,
        s->bytes_keyframes,
        s->bytes_positions,
        s->bytes_image,
        s->bytes_other,
        t->events_offset,
        t->events_records,
        t->keyframes_offset,
        t->keyframes_records,
        t->complete ? TRAILER_COMPLETE : 0,
    };
    uint8_t bytes[TRAILER_RAW_BYTES];
    struct buffer payload = {.data = bytes, .capacity = sizeof(bytes)};
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        buffer_put_u64(&payload, words[i]);
    for (size_t i = 0; i < TRAILER_RESERVED_WORDS; i++)
        buffer_put_u64(&payload, 0);
    struct chunk_header h = {.type = CHUNK_TRAILER};
    return chunk_append(sink, &h, bytes, payload.length, false, NULL, err);
}

/* Does a table of count records fit into [offset, end)? */
static bool table_fits(uint64_t offset, uint64_t count, uint64_t end)
{
    if (!count)
        return true;
    uint64_t chunks = count / INDEX_CHUNK_RECORDS + (count % INDEX_CHUNK_RECORDS != 0);
    return offset >= TRACE_FILE_HEADER_BYTES && offset < end && count <= end / INDEX_RECORD_BYTES &&
           chunks * CHUNK_HEADER_BYTES + count * INDEX_RECORD_BYTES <= end - offset;
}

int trailer_read(struct trailer *t, const struct chunk_source *s, uint64_t offset, struct chunk_decoder *d,
                 struct error *err)
{
    struct chunk c;
    int r = chunk_read(s, offset, CHUNK_TRAILER, d, &c, err);
    if (r < 0)
        return r;
    if (c.header.raw_length != TRAILER_RAW_BYTES || c.header.compression != CHUNK_STORED)
        return trace_damaged(s, offset, err, "TRAILER chunk of %u bytes; %zu are expected",
                             c.header.raw_length, TRAILER_RAW_BYTES);
    struct reader in = reader_of(c.raw, c.header.raw_length);
    struct chunk_statistics *st = &t->statistics;
    uint64_t *const words[] = {
        &t->file_length,      &t->raw_end,          &t->seal_offset,      &t->events,
        &st->chunks,          &st->stored_pages,    &st->bytes_events,    &st->bytes_pages,
        &st->bytes_keyframes, &st->bytes_positions, &st->bytes_image,     &st->bytes_other,
        &t->events_offset,    &t->events_records,   &t->keyframes_offset, &t->keyframes_records,
    };
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        *words[i] = reader_u64(&in);
    uint64_t flags = reader_u64(&in);
    t->complete = (flags & TRAILER_COMPLETE) != 0;
    bool sealed_fits = !t->seal_offset || (t->seal_offset >= t->raw_end && t->seal_offset < offset);
    bool raw_fits = t->raw_end <= t->file_length && t->raw_end >= TRACE_FILE_HEADER_BYTES + TRAILER_BYTES &&
                    (t->seal_offset || t->raw_end == t->file_length);
    if (t->file_length != offset + TRAILER_BYTES || !sealed_fits || !raw_fits)
        return trace_damaged(s, offset, err, "TRAILER chunk that belongs to another place or file");
    if (!table_fits(t->events_offset, t->events_records, offset) ||
        !table_fits(t->keyframes_offset, t->keyframes_records, offset) || t->events_records > t->events)
        return trace_damaged(s, offset, err, "TRAILER chunk whose tables do not fit into the file");
    return 0;
}

int seal_write(struct chunk_sink *sink, const struct seal *seal, uint64_t *offset, struct error *err)
{
    uint8_t bytes[SEAL_RAW_BYTES];
    struct buffer payload = {.data = bytes, .capacity = sizeof(bytes)};
    const struct trace_seal_summary *s = &seal->summary;
    const uint64_t words[] = {
        s->end_position,        s->events,
        s->interrupts,          s->console_bytes,
        s->end_ram_digest.low,  s->end_ram_digest.high,
        s->end_state_hash,      seal->keyframes,
        seal->positions_chunks, seal->raw_end,
    };
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        buffer_put_u64(&payload, words[i]);
    struct chunk_header h = {.type = CHUNK_SEAL, .position = s->end_position};
    return chunk_append(sink, &h, bytes, payload.length, false, offset, err);
}

int seal_read(struct seal *seal, const struct chunk_source *s, uint64_t offset, struct chunk_decoder *d,
              struct error *err)
{
    struct chunk c;
    int r = chunk_read(s, offset, CHUNK_SEAL, d, &c, err);
    if (r < 0)
        return r;
    if (c.header.raw_length != SEAL_RAW_BYTES)
        return trace_damaged(s, offset, err, "SEAL chunk of %u bytes; %zu are expected", c.header.raw_length,
                             SEAL_RAW_BYTES);
    struct reader in = reader_of(c.raw, c.header.raw_length);
    struct trace_seal_summary *m = &seal->summary;
    uint64_t *const words[] = {
        &m->end_position,        &m->events,
        &m->interrupts,          &m->console_bytes,
        &m->end_ram_digest.low,  &m->end_ram_digest.high,
        &m->end_state_hash,      &seal->keyframes,
        &seal->positions_chunks, &seal->raw_end,
    };
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        *words[i] = reader_u64(&in);
    return 0;
}
