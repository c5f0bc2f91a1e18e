#include "trace-format/trace_reader.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "trace-format/reader_internal.h"
#include "trace-format/trace_meta.h"
#include "trace-format/trace_scan.h"

static int read_file_header(struct trace_reader *r, struct error *err)
{
    static const uint8_t magic[8] = {0x89, 'D', 'J', 'V', 'M', '\r', '\n', 0x1a};
    uint8_t bytes[TRACE_FILE_HEADER_BYTES];
    const struct chunk_source *s = &r->source;
    if (s->size < sizeof(bytes))
        return trace_damaged(s, 0, err, "%llu bytes are too few for a trace", (unsigned long long)s->size);
    int result = chunk_source_read(s, 0, bytes, sizeof(bytes), err);
    if (result < 0)
        return result;
    if (memcmp(bytes, magic, sizeof(magic)) != 0)
        return trace_damaged(s, 0, err, "this is not a dejavm trace");
    struct reader in = reader_of(bytes + sizeof(magic), sizeof(bytes) - sizeof(magic));
    uint32_t version = reader_u32(&in);
    uint32_t length = reader_u32(&in);
    struct reader tail = reader_of(bytes + sizeof(bytes) - 8, 8);
    if (reader_u64(&tail) != hash64(bytes, sizeof(bytes) - 8))
        return trace_damaged(s, 0, err, "checksum of the file header");
    if (version != TRACE_FORMAT_VERSION && version != TRACE_FORMAT_VERSION_STEPS)
        return error_set(err, -ENOTSUP, "%s: trace format version %u; this program reads versions %u and %u",
                         s->path, version, TRACE_FORMAT_VERSION, TRACE_FORMAT_VERSION_STEPS);
    if (length != TRACE_FILE_HEADER_BYTES)
        return trace_damaged(s, 0, err, "file header of %u bytes; %zu are expected", length,
                             TRACE_FILE_HEADER_BYTES);
    r->info.format_version = version;
    return 0;
}

static int read_meta(struct trace_reader *r, struct error *err)
{
    struct chunk c;
    int result = chunk_read(&r->source, TRACE_FILE_HEADER_BYTES, CHUNK_META, &r->decoder, &c, err);
    if (result < 0)
        return result;
    const char *why;
    result = trace_meta_decode(&r->info.meta, &r->info.image_length, &r->strings, c.raw, c.header.raw_length,
                               &why);
    if (result == -ENOMEM)
        return error_set(err, result, "%s: no memory for its description", r->path);
    if (result < 0)
        return trace_damaged(&r->source, c.offset, err, "META chunk: %s", why);
    r->after_meta = c.offset + chunk_file_bytes(&c.header);
    return 0;
}

static void publish_statistics(struct trace_reader *r)
{
    const struct chunk_statistics *s = &r->statistics;
    struct trace_info *i = &r->info;
    i->chunks = s->chunks;
    i->stored_pages = s->stored_pages;
    i->bytes_events = s->bytes_events;
    i->bytes_pages = s->bytes_pages;
    i->bytes_keyframes = s->bytes_keyframes;
    i->bytes_positions = s->bytes_positions;
    i->bytes_image = s->bytes_image;
    i->bytes_other = s->bytes_other;
    i->keyframes = index_table_count(&r->keyframes);
}

/* The way of a finished trace: all that is needed is in the trailer. */
static int open_by_trailer(struct trace_reader *r, struct error *err)
{
    const struct chunk_source *s = &r->source;
    uint64_t offset = s->size < TRACE_FILE_HEADER_BYTES + TRAILER_BYTES ? s->size : s->size - TRAILER_BYTES;
    struct trailer t = {0};
    int result = trailer_read(&t, s, offset, &r->decoder, err);
    if (result < 0)
        return result;
    struct trace_info *info = &r->info;
    if (t.seal_offset) {
        struct seal seal;
        result = seal_read(&seal, s, t.seal_offset, &r->decoder, err);
        if (result < 0)
            return result;
        if (seal.keyframes != t.keyframes_records || seal.raw_end != t.raw_end ||
            seal.positions_chunks > t.events_records || seal.summary.events > t.events)
            return trace_damaged(s, t.seal_offset, err, "SEAL chunk that contradicts the trailer");
        info->sealed = true;
        info->seal = seal.summary;
    }
    index_table_init_file(&r->events, false, t.events_offset, t.events_records);
    index_table_init_file(&r->keyframes, true, t.keyframes_offset, t.keyframes_records);
    info->events = t.events;
    info->complete = t.complete;
    info->cut_short = !t.complete;
    r->raw_end = t.raw_end;
    r->whole_end = s->size;
    r->statistics = t.statistics;
    chunk_statistics_add(&r->statistics,
                         &(struct chunk_header){.type = CHUNK_TRAILER, .stored_length = TRAILER_RAW_BYTES});
    publish_statistics(r);
    return 0;
}

static void take_tables(struct trace_reader *r, struct trace_scan *scan)
{
    index_table_free(&r->events);
    index_table_free(&r->keyframes);
    index_table_init_memory(&r->events, false);
    index_table_init_memory(&r->keyframes, true);
    r->events.array = scan->events;
    r->keyframes.array = scan->keyframes;
    scan->events = scan->keyframes = (struct index_array){0};
}

static int open_by_scan(struct trace_reader *r, struct error *err)
{
    struct trace_scan scan;
    int result = trace_scan(&scan, &r->source, &r->decoder, err);
    if (result >= 0) {
        struct trace_info *info = &r->info;
        info->sealed = scan.seal_offset != 0;
        if (info->sealed)
            info->seal = scan.seal.summary;
        info->events = scan.event_count;
        info->complete = scan.complete;
        info->cut_short = !scan.complete || (scan.cut && !scan.raw_end);
        r->raw_end = scan.raw_end;
        r->whole_end = scan.whole_end;
        r->damaged = scan.damaged;
        r->damage = scan.damage;
        r->statistics = scan.statistics;
        take_tables(r, &scan);
        publish_statistics(r);
    }
    trace_scan_free(&scan);
    return result;
}

static int open_file(struct trace_reader *r, struct error *err)
{
    struct stat st;
    if (fstat(r->source.fd, &st) < 0)
        return error_errno(err, -errno, "stat %s", r->path);
    if (!S_ISREG(st.st_mode))
        return error_set(err, -EINVAL, "%s is not a regular file; a trace is one", r->path);
    r->source.size = (uint64_t)st.st_size;
    r->info.file_bytes = r->source.size;
    int result = read_file_header(r, err);
    if (result >= 0)
        result = read_meta(r, err);
    if (result < 0)
        return result;
    struct error no_trailer = {0};
    result = open_by_trailer(r, &no_trailer);
    if (result >= 0)
        return 0;
    if (no_trailer.kind != ERROR_DAMAGED) {
        if (err)
            *err = no_trailer;
        return result;
    }
    return open_by_scan(r, err);
}

int trace_reader_open_named(struct trace_reader **out, int fd, const char *path, struct error *err)
{
    *out = NULL;
    struct trace_reader *r = calloc(1, sizeof(*r));
    char *copy = strdup(path);
    if (!r || !copy) {
        close(fd);
        free(r);
        free(copy);
        return error_set(err, -ENOMEM, "%s: no memory to open it", path);
    }
    r->path = copy;
    r->source = (struct chunk_source){.fd = fd, .path = copy};
    index_table_init_memory(&r->events, false);
    index_table_init_memory(&r->keyframes, true);
    int result = open_file(r, err);
    if (result < 0) {
        trace_reader_close(r);
        return result;
    }
    *out = r;
    return 0;
}

int trace_reader_open(struct trace_reader **out, const char *path, struct error *err)
{
    *out = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return error_errno(err, -errno, "open %s", path);
    return trace_reader_open_named(out, fd, path, err);
}

int trace_reader_open_fd(struct trace_reader **out, int fd, struct error *err)
{
    *out = NULL;
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0)
        return error_errno(err, -errno, "trace on file descriptor %d", fd);
    return trace_reader_open_named(out, copy, "trace", err);
}

void trace_reader_close(struct trace_reader *r)
{
    if (!r)
        return;
    index_table_free(&r->events);
    index_table_free(&r->keyframes);
    chunk_decoder_free(&r->decoder);
    close(r->source.fd);
    free(r->strings);
    free(r->noted);
    free(r->path);
    free(r);
}

const struct trace_info *trace_reader_info(const struct trace_reader *r)
{
    return &r->info;
}

/* ---- a trace that is being written ---- */

/* The chunks' first positions, as far as they were noted, so that the table can be searched by position. */
static void put_noted_positions(struct trace_reader *r)
{
    for (size_t i = 0; i < r->events.array.count && r->events.array.records[i].first < r->noted_count; i++)
        r->events.array.records[i].position = r->noted[r->events.array.records[i].first];
}

int trace_reader_refresh(struct trace_reader *r, struct error *err)
{
    struct stat st;
    if (r->info.sealed)
        return error_set(err, -EINVAL, "%s: it is sealed, and grows no more", r->path);
    if (fstat(r->source.fd, &st) < 0)
        return error_errno(err, -errno, "stat %s", r->path);
    if ((uint64_t)st.st_size == r->source.size)
        return 0;
    uint64_t events = r->info.events;
    r->source.size = r->info.file_bytes = (uint64_t)st.st_size;
    int result = open_by_scan(r, err);
    if (result >= 0 && r->damaged) {
        if (err)
            *err = r->damage;
        return r->damage.code;
    }
    if (result >= 0 && r->info.events < events)
        return error_set_kind(err, ERROR_DAMAGED, -EBADMSG, "%s: it had %llu events, and has %llu now",
                              r->path, (unsigned long long)events, (unsigned long long)r->info.events);
    if (result >= 0 && !r->info.meta.positions)
        put_noted_positions(r);
    return result < 0 ? result : 0;
}

int trace_reader_note_position(struct trace_reader *r, uint64_t event_index, position_t position,
                               struct error *err)
{
    if (event_index < r->noted_count && r->noted[event_index] == position)
        return 0;
    if (event_index != r->noted_count || (event_index && position < r->noted[event_index - 1]))
        return error_set(err, -EINVAL, "%s: event %llu cannot be at position %llu", r->path,
                         (unsigned long long)event_index, (unsigned long long)position);
    if (r->noted_count == r->noted_capacity) {
        size_t capacity = r->noted_capacity ? r->noted_capacity * 2 : 1024;
        position_t *grown = reallocarray(r->noted, capacity, sizeof(*grown));
        if (!grown)
            return error_set(err, -ENOMEM, "%s: no memory for the positions of its events", r->path);
        r->noted = grown;
        r->noted_capacity = capacity;
    }
    r->noted[r->noted_count++] = position;
    size_t low = 0, high = r->events.array.count;
    while (low < high) { /* the chunk that begins with this event, if one does */
        size_t middle = low + (high - low) / 2;
        if (r->events.array.records[middle].first < event_index)
            low = middle + 1;
        else
            high = middle;
    }
    if (low < r->events.array.count && r->events.array.records[low].first == event_index)
        r->events.array.records[low].position = position;
    return 0;
}

/* Replaces the tables in the file by ones made anew, which must describe the same trace. */
static int rebuild(struct trace_reader *r, struct error *err)
{
    struct trace_scan scan;
    int result = trace_scan(&scan, &r->source, &r->decoder, err);
    const struct trace_info *info = &r->info;
    if (result >= 0 && scan.damaged) {
        if (err)
            *err = scan.damage;
        result = scan.damage.code;
    } else if (result >= 0 && (scan.event_count != info->events || scan.keyframes.count != info->keyframes ||
                               (scan.seal_offset != 0) != info->sealed)) {
        result =
            trace_damaged(&r->source, scan.whole_end, err,
                          "the index is damaged, and cannot be rebuilt from the chunks before this place");
    } else if (result >= 0) {
        take_tables(r, &scan);
    }
    trace_scan_free(&scan);
    return result;
}

static bool worth_rebuilding(const struct index_table *t, int result, const struct error *e)
{
    return result < 0 && e->kind == ERROR_DAMAGED && !t->in_memory;
}

static int give(int result, const struct error *e, struct error *err)
{
    if (result < 0 && err)
        *err = *e;
    return result;
}

int reader_record(struct trace_reader *r, struct index_table *t, uint64_t n, struct index_record *out,
                  struct error *err)
{
    struct error e;
    e.kind = ERROR_FAILURE;
    int result = index_table_get(t, &r->source, n, out, &e);
    if (!worth_rebuilding(t, result, &e))
        return give(result, &e, err);
    result = rebuild(r, err);
    return result < 0 ? result : index_table_get(t, &r->source, n, out, err);
}

int reader_search(struct trace_reader *r, struct index_table *t, enum index_key key, uint64_t value,
                  bool strict, uint64_t *n, struct error *err)
{
    struct error e;
    e.kind = ERROR_FAILURE;
    int result = index_table_search(t, &r->source, key, value, strict, n, &e);
    if (!worth_rebuilding(t, result, &e))
        return give(result, &e, err);
    result = rebuild(r, err);
    return result < 0 ? result : index_table_search(t, &r->source, key, value, strict, n, err);
}

int trace_reader_cpuid(struct trace_reader *r, struct buffer *out, struct error *err)
{
    struct chunk c;
    int result = chunk_read(&r->source, r->after_meta, CHUNK_CPUID, &r->decoder, &c, err);
    if (result < 0)
        return result;
    buffer_clear(out);
    buffer_put(out, c.raw, c.header.raw_length);
    return out->failed ? error_set(err, -ENOMEM, "%s: no memory for its CPUID leaves", r->path) : 0;
}

/* done: how many of the image's bytes are in the chunks before it. */
static int check_image_chunk(const struct trace_reader *r, const struct chunk *c, uint64_t done,
                             struct error *err)
{
    const struct chunk_header *h = &c->header;
    if (h->first == done && h->raw_length && h->raw_length <= r->info.image_length - done)
        return 0;
    return trace_damaged(&r->source, c->offset, err,
                         "IMAGE chunk of bytes %llu to %llu; %llu of the image's %llu bytes are before it",
                         (unsigned long long)h->first, (unsigned long long)h->first + h->raw_length,
                         (unsigned long long)done, (unsigned long long)r->info.image_length);
}

static int append_image_chunk(struct trace_reader *r, uint64_t *offset, struct buffer *out, struct error *err)
{
    struct chunk c;
    int result = chunk_read(&r->source, *offset, CHUNK_IMAGE, &r->decoder, &c, err);
    if (result >= 0)
        result = check_image_chunk(r, &c, out->length, err);
    if (result < 0)
        return result;
    buffer_put(out, c.raw, c.header.raw_length);
    *offset += chunk_file_bytes(&c.header);
    return out->failed ? error_set(err, -ENOMEM, "%s: no memory for the guest image", r->path) : 0;
}

/* Where the first IMAGE chunk is. */
static int find_image(struct trace_reader *r, uint64_t *offset, struct error *err)
{
    struct chunk_header h;
    int result = chunk_read_header(&r->source, r->after_meta, &h, err);
    if (result == CHUNK_CUT || (result == 0 && h.type != CHUNK_CPUID))
        result =
            trace_damaged(&r->source, r->after_meta, err, "the CPUID chunk that belongs here is missing");
    *offset = result < 0 ? 0 : r->after_meta + chunk_file_bytes(&h);
    return result;
}

int trace_reader_image(struct trace_reader *r, struct buffer *out, struct error *err)
{
    uint64_t offset;
    buffer_clear(out);
    int result = find_image(r, &offset, err);
    while (result >= 0 && out->length < r->info.image_length)
        result = append_image_chunk(r, &offset, out, err);
    return result;
}

int trace_reader_check_image(struct trace_reader *r, struct error *err)
{
    uint64_t offset, length = 0;
    struct chunk c;
    int result = find_image(r, &offset, err);
    while (result >= 0 && length < r->info.image_length) {
        result = chunk_check(&r->source, offset, CHUNK_IMAGE, &r->decoder, &c, err);
        if (result >= 0)
            result = check_image_chunk(r, &c, length, err);
        length += c.header.raw_length;
        offset += chunk_file_bytes(&c.header);
    }
    return result;
}
