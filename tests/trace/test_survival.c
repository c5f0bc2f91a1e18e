/* What is left after kills, full disks and damage: everything before, and a clear word about the rest. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/trace/support.h"
#include "trace-format/chunk.h"
#include "trace-format/trace_index.h"

static int memory_file(const uint8_t *data, size_t length)
{
    int fd = memfd_create("trace", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, data, length, 0), length);
    return fd;
}

/* Copies of all events of a trace. */
static struct event *load_events(const char *path, uint64_t count)
{
    struct error err;
    struct trace_reader *r;
    struct trace_cursor *c;
    struct event *events = calloc(count, sizeof(*events)), e;
    must(trace_reader_open(&r, path, &err), &err);
    must(trace_cursor_open(&c, r, 0, &err), &err);
    for (uint64_t i = 0; i < count; i++) {
        must(trace_cursor_next(c, &e, &err), &err);
        events[i] = event_copy(&e);
    }
    trace_cursor_close(c);
    trace_reader_close(r);
    return events;
}

static void free_events(struct event *events, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        event_free(&events[i]);
    free(events);
}

/* Reads a prefix of the expected events; returns how many, and the trace's info. */
static uint64_t read_prefix(int fd, const struct event *expected, uint64_t count, struct trace_info *info)
{
    struct error err;
    struct trace_reader *r;
    struct trace_cursor *c;
    struct event e;
    uint64_t n = 0;
    must(trace_reader_open_fd(&r, fd, &err), &err);
    *info = *trace_reader_info(r);
    must(trace_cursor_open(&c, r, 0, &err), &err);
    int got;
    while ((got = trace_cursor_next(c, &e, &err)) > 0) {
        assert_true(n < count);
        assert_null(event_difference(&expected[n], &e));
        n++;
    }
    must(got, &err);
    assert_int_equal(n, info->events);
    trace_cursor_close(c);
    trace_reader_close(r);
    return n;
}

enum { TINY_EVENTS = 60, TINY_FLUSH = 6 };

/* Few bytes, so that every one of them can be the last. */
static void make_tiny_trace(const char *path, bool finish)
{
    struct error err;
    struct random r = {1};
    struct trace_writer *w = create_trace(path, false, 20);
    const struct trace_keyframe_input first = {.position = 0};
    must(trace_writer_keyframe(w, &first, &err), &err);
    for (unsigned i = 1; i <= TINY_EVENTS; i++) {
        struct event e = {.type = EVENT_PIO_READ,
                          .position = POSITION_UNKNOWN,
                          .size = 1,
                          .address = random_below(&r, 65536),
                          .value = random_below(&r, 256)};
        if (finish && i == TINY_EVENTS)
            e = (struct event){.type = EVENT_END, .position = POSITION_UNKNOWN};
        must(trace_writer_event(w, &e, &err), &err);
        if (i % TINY_FLUSH == 0)
            must(trace_writer_flush(w, &err), &err);
    }
    if (finish)
        must(trace_writer_finish(w, &err), &err);
    else
        trace_writer_destroy(w);
}

static void a_file_cut_anywhere_opens_with_what_was_whole(void **state)
{
    (void)state;
    char *path = scratch_path();
    for (int finished = 0; finished < 2; finished++) {
        make_tiny_trace(path, finished);
        struct event *events = load_events(path, TINY_EVENTS);
        size_t length;
        uint8_t *whole = read_whole_file(path, &length);
        struct error err;
        struct trace_reader *r;
        uint64_t last = 0;
        unsigned opened = 0;
        for (size_t cut = 0; cut <= length; cut++) {
            struct trace_info info;
            int fd = memory_file(whole, cut);
            int result = trace_reader_open_fd(&r, fd, &err);
            if (result < 0) { /* only while not even the description was whole */
                assert_int_equal(err.kind, ERROR_DAMAGED);
                assert_int_equal(opened, 0);
                close(fd);
                continue;
            }
            trace_reader_close(r);
            opened++;
            uint64_t n = read_prefix(fd, events, TINY_EVENTS, &info);
            assert_true(n >= last);
            assert_int_equal(n % TINY_FLUSH, 0);
            last = n;
            assert_int_equal(info.complete, finished && n == TINY_EVENTS);
            if (cut == length)
                assert_int_equal(info.cut_short, !finished);
            else if (n < TINY_EVENTS)
                assert_true(info.cut_short);
            close(fd);
        }
        assert_int_equal(last, TINY_EVENTS);
        assert_true(opened > 800);
        free(whole);
        free_events(events, TINY_EVENTS);
    }
    unlink(path);
    free(path);
}

/* A recorder that is killed while it writes; the parent sees every event that was flushed before. */
static void a_killed_recorder_leaves_a_trace_with_all_that_was_flushed(void **state)
{
    (void)state;
    char *path = scratch_path();
    for (unsigned round = 0; round < 12; round++) {
        int pipes[2];
        assert_int_equal(pipe(pipes), 0);
        pid_t child = fork();
        if (child == 0) {
            struct error err;
            struct random r = {round};
            struct event_store store = {0};
            struct trace_writer *w = create_trace(path, false, 100);
            for (uint64_t i = 0;; i++) {
                struct event e;
                random_event(&r, &store, &e);
                must(trace_writer_event(w, &e, &err), &err);
                if (i % 16 == 15) {
                    must(trace_writer_flush(w, &err), &err);
                    uint64_t done = i + 1;
                    if (write(pipes[1], &done, sizeof(done)) != sizeof(done))
                        _exit(1);
                }
            }
        }
        close(pipes[1]);
        uint64_t flushed = 0, n;
        for (unsigned i = 0; i <= round * 20; i++)
            assert_int_equal(read(pipes[0], &flushed, sizeof(flushed)), sizeof(flushed));
        kill(child, SIGKILL);
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        while (read(pipes[0], &n, sizeof(n)) == sizeof(n))
            flushed = n;
        close(pipes[0]);
        struct error err;
        uint64_t events;
        int fd = open(path, O_RDONLY);
        must(walk_trace(fd, &events, &err), &err);
        close(fd);
        assert_true(events >= flushed);
        struct trace_reader *reader;
        must(trace_reader_open(&reader, path, &err), &err);
        assert_true(trace_reader_info(reader)->cut_short);
        trace_reader_close(reader);
    }
    unlink(path);
    free(path);
}

static int fill_until_it_fails(const char *path, uint64_t *events, struct error *err)
{
    struct random r = {9};
    struct event_store store = {0};
    struct trace_writer *w = create_trace(path, false, 1000);
    int result = 0;
    while (result >= 0) {
        struct event e;
        random_event(&r, &store, &e);
        result = trace_writer_event(w, &e, err);
    }
    /* The error stays, whatever is tried. */
    struct error again;
    struct event halt = {.type = EVENT_HALT, .position = POSITION_UNKNOWN};
    int sticky = trace_writer_event(w, &halt, &again) == result && trace_writer_flush(w, &again) == result &&
                 strcmp(again.message, err->message) == 0;
    *events = sticky ? trace_writer_event_count(w) : 0;
    if (trace_writer_finish(w, &again) != result)
        *events = 0;
    event_store_free(&store);
    return result;
}

static void a_full_disk_keeps_all_before_it(void **state)
{
    (void)state;
    char *path = scratch_path();
    pid_t child = fork();
    if (child == 0) {
        struct error err;
        uint64_t events;
        const struct rlimit limit = {3000000, 3000000};
        signal(SIGXFSZ, SIG_IGN);
        if (setrlimit(RLIMIT_FSIZE, &limit) < 0)
            _exit(2);
        int r = fill_until_it_fails(path, &events, &err);
        _exit(r == -EFBIG && events > 0 && strstr(err.message, path) ? 0 : 1);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);

    struct error err;
    struct trace_reader *reader;
    must(trace_reader_open(&reader, path, &err), &err);
    struct trace_info info = *trace_reader_info(reader);
    trace_reader_close(reader);
    assert_true(info.file_bytes > 2000000 && info.file_bytes < 3000000);
    assert_true(info.events > 5000);
    /* It was cut at a chunk: what there is, is used to the last byte. */
    assert_int_equal(info.file_bytes, 64 + info.bytes_events + info.bytes_pages + info.bytes_keyframes +
                                          info.bytes_positions + info.bytes_image + info.bytes_other);
    uint64_t events;
    int fd = open(path, O_RDONLY);
    must(walk_trace(fd, &events, &err), &err);
    close(fd);
    assert_int_equal(events, info.events);
    unlink(path);
    free(path);
}

struct found_chunk {
    uint64_t offset;
    struct chunk_header header;
};

static size_t list_chunks(int fd, uint64_t size, struct found_chunk *list, size_t capacity)
{
    struct error err;
    const struct chunk_source source = {.fd = fd, .path = "trace", .size = size};
    size_t n = 0;
    uint64_t offset = TRACE_FILE_HEADER_BYTES;
    while (offset < size) {
        assert_true(n < capacity);
        must(chunk_read_header(&source, offset, &list[n].header, &err), &err);
        list[n].offset = offset;
        offset += chunk_file_bytes(&list[n++].header);
    }
    return n;
}

static void flip(uint8_t *bytes, uint64_t offset)
{
    bytes[offset] ^= 0x40;
}

static void a_lost_or_damaged_index_is_made_again(void **state)
{
    (void)state;
    for (int sealed = 0; sealed < 2; sealed++) {
        char *path = scratch_path();
        struct small_trace t = make_small_trace(path, 30, false, true, sealed);
        struct event *events = load_events(path, t.events);
        size_t length;
        uint8_t *bytes = read_whole_file(path, &length);
        struct found_chunk chunks[200];
        int fd = memory_file(bytes, length);
        size_t count = list_chunks(fd, length, chunks, ARRAY_LEN(chunks));
        close(fd);
        unsigned damaged = 0;
        for (size_t i = 0; i < count; i++) {
            uint8_t type = chunks[i].header.type;
            if (type != CHUNK_INDEX && type != CHUNK_TRAILER)
                continue;
            if (sealed && i + 3 < count)
                continue; /* the raw part's: nobody needs it, see below */
            for (unsigned part = 0; part < 2; part++, damaged++) {
                uint64_t at = chunks[i].offset + (part ? CHUNK_HEADER_BYTES + 9 : 20);
                flip(bytes, at);
                fd = memory_file(bytes, length);
                struct trace_info info;
                assert_int_equal(read_prefix(fd, events, t.events, &info), t.events);
                assert_int_equal(info.sealed, sealed);
                assert_false(info.cut_short);
                assert_int_equal(info.keyframes, t.keyframes);
                uint64_t walked;
                struct error err;
                must(walk_trace(fd, &walked, &err), &err);
                close(fd);
                flip(bytes, at);
            }
        }
        assert_int_equal(damaged, 6);
        free_events(events, t.events);
        free(bytes);
        unlink(path);
        free(path);
    }
}

/* Every chunk of a sealed trace is needed for something: damage in any is reported, at its offset. */
static void damage_in_any_chunk_is_reported_where_it_is(void **state)
{
    (void)state;
    char *path = scratch_path();
    struct small_trace t = make_small_trace(path, 31, false, true, true);
    size_t length;
    uint8_t *bytes = read_whole_file(path, &length);
    struct found_chunk chunks[200];
    int fd = memory_file(bytes, length);
    size_t count = list_chunks(fd, length, chunks, ARRAY_LEN(chunks));
    close(fd);
    for (size_t i = 0; i < count; i++) {
        uint8_t type = chunks[i].header.type;
        if (type == CHUNK_INDEX || type == CHUNK_TRAILER || type == CHUNK_SEAL)
            continue;
        for (unsigned part = 0; part < 2; part++) {
            uint64_t at =
                chunks[i].offset + (part ? CHUNK_HEADER_BYTES + chunks[i].header.stored_length / 2 : 30);
            flip(bytes, at);
            fd = memory_file(bytes, length);
            struct error err;
            uint64_t events;
            char expected[64];
            snprintf(expected, sizeof(expected), "offset %llu:", (unsigned long long)chunks[i].offset);
            assert_int_equal(walk_trace(fd, &events, &err), -EBADMSG);
            assert_int_equal(err.kind, ERROR_DAMAGED);
            if (!strstr(err.message, expected))
                fail_msg("%s chunk at %llu: %s", chunk_type_name(type), (unsigned long long)chunks[i].offset,
                         err.message);
            if (type == CHUNK_EVENTS)
                assert_int_equal(events, chunks[i].header.first);
            close(fd);
            flip(bytes, at);
        }
    }
    (void)t;
    free(bytes);
    unlink(path);
    free(path);
}

/* Without an index, a damaged header in the middle of the stream hides the rest: that must not look like an end. */
static void damage_in_an_unfinished_trace_is_not_taken_for_its_end(void **state)
{
    (void)state;
    char *path = scratch_path();
    struct small_trace t = make_small_trace(path, 32, false, false, false);
    size_t length;
    uint8_t *bytes = read_whole_file(path, &length);
    struct found_chunk chunks[200];
    int fd = memory_file(bytes, length);
    size_t count = list_chunks(fd, length, chunks, ARRAY_LEN(chunks));
    close(fd);
    assert_int_equal(chunks[count - 3].header.type, CHUNK_EVENTS);
    flip(bytes, chunks[count - 3].offset + 5);
    write_whole_file(path, bytes, length);
    fd = open(path, O_RDONLY);
    struct error err;
    uint64_t events;
    assert_int_equal(walk_trace(fd, &events, &err), -EBADMSG);
    assert_int_equal(events, t.events - 3 * SMALL_TRACE_FLUSH);
    close(fd);
    struct trace_writer *w;
    assert_int_equal(trace_seal_open(&w, path, &err), -EBADMSG);
    size_t after;
    free(read_whole_file(path, &after));
    assert_int_equal(after, length);
    free(bytes);
    unlink(path);
    free(path);
}

static void other_files_are_refused(void **state)
{
    (void)state;
    struct error err;
    struct trace_reader *r;
    char *path = scratch_path();
    assert_int_equal(trace_reader_open(&r, path, &err), -EBADMSG);
    uint8_t text[1000];
    memset(text, 'x', sizeof(text));
    write_whole_file(path, text, sizeof(text));
    assert_int_equal(trace_reader_open(&r, path, &err), -EBADMSG);
    assert_int_equal(err.kind, ERROR_DAMAGED);
    assert_int_equal(trace_reader_open(&r, "/dev/zero", &err), -EINVAL);
    assert_int_equal(trace_reader_open(&r, "/", &err), -EINVAL);
    assert_int_equal(trace_reader_open(&r, "/nonexistent/x", &err), -ENOENT);

    make_small_trace(path, 33, false, true, false);
    size_t length;
    uint8_t *bytes = read_whole_file(path, &length);
    bytes[8] = 3; /* version */
    uint64_t sum = hash64(bytes, 56);
    memcpy(bytes + 56, &sum, 8);
    write_whole_file(path, bytes, length);
    assert_int_equal(trace_reader_open(&r, path, &err), -ENOTSUP);
    assert_non_null(strstr(err.message, "version 3"));
    free(bytes);
    unlink(path);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_cut_anywhere_opens_with_what_was_whole),
        cmocka_unit_test(a_killed_recorder_leaves_a_trace_with_all_that_was_flushed),
        cmocka_unit_test(a_full_disk_keeps_all_before_it),
        cmocka_unit_test(a_lost_or_damaged_index_is_made_again),
        cmocka_unit_test(damage_in_any_chunk_is_reported_where_it_is),
        cmocka_unit_test(damage_in_an_unfinished_trace_is_not_taken_for_its_end),
        cmocka_unit_test(other_files_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
