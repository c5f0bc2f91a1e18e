#include "trace-format/trace_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "trace-format/trace_meta.h"
#include "trace-format/writer_internal.h"

enum { DEFAULT_LEVEL = 1 };

int trace_open_locked(const char *path, int flags, struct error *err)
{
    int fd = open(path, flags | O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0666);
    if (fd < 0 && errno == EEXIST)
        return error_set(err, -EEXIST, "%s exists already; give another name, or ask to overwrite it", path);
    if (fd < 0)
        return error_errno(err, -errno, "open %s", path);
    struct stat st;
    int r = 0;
    if (fstat(fd, &st) < 0)
        r = error_errno(err, -errno, "stat %s", path);
    else if (!S_ISREG(st.st_mode))
        r = error_set(err, -EINVAL, "%s is not a regular file; a trace must be one", path);
    else if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        r = errno == EWOULDBLOCK
                ? error_set(err, -EBUSY, "%s is being written by another process (it records or seals)", path)
                : error_errno(err, -errno, "lock %s", path);
    if (r < 0) {
        close(fd);
        return r;
    }
    return fd;
}

static int write_file_header(struct trace_writer *w, struct error *err)
{
    static const uint8_t magic[8] = {0x89, 'D', 'J', 'V', 'M', '\r', '\n', 0x1a};
    uint8_t bytes[TRACE_FILE_HEADER_BYTES] = {0};
    struct buffer b = {.data = bytes, .capacity = sizeof(bytes)};
    buffer_put(&b, magic, sizeof(magic));
    buffer_put_u32(&b, w->steps ? TRACE_FORMAT_VERSION_STEPS : TRACE_FORMAT_VERSION);
    buffer_put_u32(&b, TRACE_FILE_HEADER_BYTES);
    b.length = TRACE_FILE_HEADER_BYTES - 8;
    buffer_put_u64(&b, hash64(bytes, b.length));
    return chunk_sink_write(&w->sink, bytes, sizeof(bytes), err);
}

static int write_preamble(struct trace_writer *w, const struct trace_meta *meta, const struct buffer *cpuid,
                          size_t image_length, struct error *err)
{
    struct buffer payload = {0};
    int r = trace_meta_encode(meta, image_length, &payload, err);
    if (r >= 0)
        r = write_file_header(w, err);
    struct chunk_header h = {.type = CHUNK_META};
    if (r >= 0)
        r = chunk_append(&w->sink, &h, payload.data, payload.length, true, NULL, err);
    buffer_free(&payload);
    h.type = CHUNK_CPUID;
    if (r >= 0)
        r = chunk_append(&w->sink, &h, cpuid ? cpuid->data : NULL, cpuid ? cpuid->length : 0, true, NULL,
                         err);
    return r;
}

int writer_write_image(struct trace_writer *w, struct error *err)
{
    int r = 0;
    for (size_t done = 0; done < w->image_length && r >= 0;) {
        size_t left = w->image_length - done;
        struct chunk_header h = {
            .type = CHUNK_IMAGE, .first = done, .count = left < IMAGE_CHUNK_BYTES ? left : IMAGE_CHUNK_BYTES};
        r = chunk_append(&w->sink, &h, w->image + done, (size_t)h.count, true, NULL, err);
        done += (size_t)h.count;
    }
    w->image_length = 0;
    return r;
}

int writer_settle(struct trace_writer *w, struct error *err)
{
    background_wait(w->background);
    int r = chunk_sink_check(&w->sink, err);
    return r >= 0 && w->image_length ? writer_write_image(w, err) : r;
}

/*
 * A new trace has no name until its first flush, so that no file that cannot be used is ever seen, and an old one that is
 * to be replaced is there until then. Where the file system cannot do this (O_TMPFILE), the name is there from the start.
 * Returns the descriptor; *named says which of the two it was.
 */
static int open_new(const char *path, bool overwrite, bool *named, struct error *err)
{
    struct stat st;
    bool exists = lstat(path, &st) == 0;
    if (exists && !overwrite)
        return error_set(err, -EEXIST, "%s exists already; give another name, or ask to overwrite it", path);
    if (exists) { /* it must be one that may be replaced */
        int old = trace_open_locked(path, 0, err);
        if (old < 0)
            return old;
        close(old);
    }
    *named = false;
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    int length = slash ? (int)(slash - path) + 1 : 1;
    if (snprintf(folder, sizeof(folder), "%.*s", length, slash ? path : ".") >= (int)sizeof(folder))
        return error_errno(err, -ENAMETOOLONG, "open %s", path);
    bool is_link = exists && S_ISLNK(st.st_mode); /* write through it, as any program would */
    int fd = is_link ? -1 : open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0666);
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    *named = true;
    return trace_open_locked(path, O_CREAT | (overwrite ? 0 : O_EXCL), err);
}

/* Gives the new trace its name. */
static int publish(struct trace_writer *w, struct error *err)
{
    if (w->named)
        return 0;
    char self[64], temporary[PATH_MAX];
    snprintf(self, sizeof(self), "/proc/self/fd/%d", w->sink.fd);
    const char *path = w->sink.path;
    bool replaced = false;
    if (linkat(AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW) < 0) {
        if (errno != EEXIST || !w->overwrite)
            return chunk_sink_fail(&w->sink, -errno, "giving the file its name", err);
        if (snprintf(temporary, sizeof(temporary), "%s.%d", path, (int)getpid()) >= (int)sizeof(temporary))
            return chunk_sink_fail(&w->sink, -ENAMETOOLONG, "giving the file its name", err);
        replaced = linkat(AT_FDCWD, self, AT_FDCWD, temporary, AT_SYMLINK_FOLLOW) == 0 &&
                   rename(temporary, path) == 0;
        if (!replaced)
            return chunk_sink_fail(&w->sink, -errno, "replacing the old file", err);
    }
    w->named = true;
    return 0;
}

int trace_writer_create(struct trace_writer **out, const char *path,
                        const struct trace_writer_options *options, const struct trace_meta *meta,
                        const struct buffer *cpuid, const uint8_t *image, size_t image_length,
                        struct error *err)
{
    bool overwrite = options && options->overwrite;
    int level = options && options->level ? options->level : DEFAULT_LEVEL;
    *out = NULL;
    if (image_length > IMAGE_MAX_BYTES)
        return error_set(err, -EFBIG, "the guest image has %zu bytes; a trace holds at most %llu",
                         image_length, (unsigned long long)IMAGE_MAX_BYTES);
    bool named;
    int fd = open_new(path, overwrite, &named, err);
    if (fd < 0)
        return fd;
    struct trace_writer *w = calloc(1, sizeof(*w));
    if (!w) {
        close(fd);
        return error_set(err, -ENOMEM, "%s: no memory to write a trace", path);
    }
    w->named = named;
    w->overwrite = overwrite;
    w->image = image;
    w->image_length = image_length;
    w->background = background_create();
    w->positions = meta->positions;
    w->steps = options && options->steps;
    w->layout = trace_meta_layout(meta);
    w->previous = meta->positions ? 0 : POSITION_UNKNOWN;
    page_store_init(&w->store, PAGE_STORE_DEFAULT_BUDGET_BYTES);
    int r = chunk_sink_open(&w->sink, fd, path, level, err);
    if (r >= 0 && ftruncate(fd, 0) < 0)
        r = error_errno(err, -errno, "%s: emptying the file", path);
    if (r >= 0)
        r = write_preamble(w, meta, cpuid, image_length, err);
    if (r < 0) {
        trace_writer_destroy(w);
        if (named && !overwrite)
            unlink(path);
        return r;
    }
    *out = w;
    return 0;
}

void trace_writer_free(struct trace_writer *w)
{
    background_destroy(w->background);
    writer_free_job(w);
    buffer_free(&w->events);
    index_array_free(&w->event_table);
    index_array_free(&w->keyframe_table);
    page_store_free(&w->store);
    frame_map_free(&w->frames);
    chunk_sink_close(&w->sink);
    free(w);
}

void trace_writer_destroy(struct trace_writer *w)
{
    if (!w)
        return;
    background_wait(w->background);
    if (w->sealing)
        trace_sealing_destroy(w);
    trace_writer_free(w);
}

static int check_order(const struct trace_writer *w, const struct event *e, struct error *err)
{
    if (w->ended)
        return error_set(err, -EINVAL, "%s event after the end event", event_type_name(e->type));
    if (e->place == PLACE_STEPS && !w->steps)
        return error_set(err, -EINVAL, "%s event placed by steps in a trace of format version %u",
                         event_type_name(e->type), TRACE_FORMAT_VERSION);
    if (e->position == POSITION_UNKNOWN)
        return w->positions && e->place != PLACE_PREVIOUS
                   ? error_set(err, -EINVAL, "%s event without a position in a trace with positions",
                               event_type_name(e->type))
                   : 0;
    if (e->position < w->last_known)
        return error_set(err, -EINVAL, "%s event at position %llu after one at %llu",
                         event_type_name(e->type), (unsigned long long)e->position,
                         (unsigned long long)w->last_known);
    return 0;
}

int trace_writer_event(struct trace_writer *w, const struct event *event, struct error *err)
{
    int r = trace_writer_is_busy(w) ? 0 : chunk_sink_check(&w->sink, err);
    if (r >= 0 && w->sealing)
        r = error_set(err, -EINVAL, "%s: sealing adds no events", w->sink.path);
    if (r >= 0)
        r = event_check(event, err);
    if (r >= 0)
        r = check_order(w, event, err);
    if (r < 0)
        return r;
    bool full =
        w->events.length && (w->events.length + event_encoded_bound(event) > EVENTS_TARGET_RAW_BYTES ||
                             w->event_count - w->chunk_first >= EVENTS_MAX_COUNT);
    if (full) {
        r = trace_writer_flush(w, err);
        if (r < 0)
            return r;
    }
    position_t position = event_resolve_position(event, w->previous);
    if (w->events.length == 0) {
        w->chunk_position = position;
        event_context_start(&w->context, position);
    }
    event_encode(&w->context, &w->events, event);
    if (w->events.failed) {
        r = writer_settle(w, err);
        return r < 0 ? r : chunk_sink_fail(&w->sink, -ENOMEM, "collecting events", err);
    }
    w->event_count++;
    w->previous = position;
    if (position != POSITION_UNKNOWN)
        w->last_known = position;
    w->ended = event->type == EVENT_END;
    return 0;
}

int trace_writer_flush(struct trace_writer *w, struct error *err)
{
    int r = writer_settle(w, err);
    if (r >= 0 && !w->sealing)
        r = publish(w, err);
    if (r < 0 || w->events.length == 0)
        return r;
    struct chunk_header h = {
        .type = CHUNK_EVENTS,
        .flags = w->ended ? CHUNK_FLAG_END : 0,
        .first = w->chunk_first,
        .count = w->event_count - w->chunk_first,
        .position = w->chunk_position,
    };
    uint64_t offset = 0;
    r = chunk_append(&w->sink, &h, w->events.data, w->events.length, true, &offset, err);
    if (r < 0)
        return r;
    struct index_record record = {.offset = offset, .first = h.first, .position = h.position};
    if (index_array_add(&w->event_table, record) < 0)
        return chunk_sink_fail(&w->sink, -ENOMEM, "remembering a chunk", err);
    buffer_clear(&w->events);
    w->chunk_first = w->event_count;
    return 0;
}

uint64_t trace_writer_event_count(const struct trace_writer *w)
{
    return w->event_count;
}

bool trace_writer_is_busy(const struct trace_writer *w)
{
    return background_is_busy(w->background);
}

uint64_t trace_writer_bytes(const struct trace_writer *w)
{
    return trace_writer_is_busy(w) ? w->bytes_before_job : w->sink.end;
}

int trace_index_from_array(void *context, uint64_t n, struct index_record *out, struct error *err)
{
    (void)err;
    const struct index_array *a = context;
    *out = a->records[n];
    return 0;
}

int trace_write_index(struct trace_writer *w, struct trailer *t, uint64_t events, index_source get,
                      void *context, struct error *err)
{
    t->events_records = events;
    t->keyframes_records = w->keyframe_table.count;
    int r = index_write(&w->sink, false, events, get, context, &t->events_offset, err);
    if (r >= 0)
        r = index_write(&w->sink, true, t->keyframes_records, trace_index_from_array, &w->keyframe_table,
                        &t->keyframes_offset, err);
    if (r >= 0)
        r = trailer_write(&w->sink, t, err);
    return r;
}

int trace_sync(struct trace_writer *w, struct error *err)
{
    if (fsync(w->sink.fd) < 0)
        return chunk_sink_fail(&w->sink, -errno, "waiting for the disk", err);
    return 0;
}

int trace_writer_finish(struct trace_writer *w, struct error *err)
{
    int r = w->sealing ? error_set(err, -EINVAL, "%s: it is being sealed, not recorded", w->sink.path)
                       : trace_writer_flush(w, err);
    struct trailer t = {.events = w->event_count, .complete = w->ended};
    if (r >= 0)
        r = trace_write_index(w, &t, w->event_table.count, trace_index_from_array, &w->event_table, err);
    if (r >= 0)
        r = trace_sync(w, err);
    trace_writer_destroy(w);
    return r;
}
