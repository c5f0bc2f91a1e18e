/* A reader's memory does not grow with the trace, nor with what a file claims. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/trace/support.h"
#include "trace-format/trace_scan.h"
#include "trace-format/writer_internal.h"

enum { CHUNKS = 30000 };

/* Many chunks of one event: as many as 7 GiB of ordinary ones. */
static void write_long_trace(const char *path, bool finish)
{
    struct error err;
    struct trace_writer *w = create_trace(path, true, 0);
    const struct trace_keyframe_input first = {.position = 0};
    must(trace_writer_keyframe(w, &first, &err), &err);
    for (uint64_t i = 0; i < CHUNKS; i++) {
        struct event e = {.type = EVENT_HALT, .position = i * 10};
        must(trace_writer_event(w, &e, &err), &err);
        must(trace_writer_flush(w, &err), &err);
    }
    if (finish)
        must(trace_writer_finish(w, &err), &err);
    else
        trace_writer_destroy(w);
}

size_t __sanitizer_get_current_allocated_bytes(void) __attribute__((weak));

static size_t in_use(void)
{
    if (__sanitizer_get_current_allocated_bytes)
        return __sanitizer_get_current_allocated_bytes();
    return mallinfo2().uordblks + mallinfo2().hblkhd;
}

/* Opens, seeks about, and says how much more memory was in use meanwhile. */
static size_t memory_of_reading(const char *path)
{
    struct error err;
    size_t before = in_use();
    struct trace_reader *r;
    must(trace_reader_open(&r, path, &err), &err);
    assert_int_equal(trace_reader_info(r)->events, CHUNKS);
    assert_int_equal(trace_reader_info(r)->chunks > CHUNKS, 1);
    struct random random = {1};
    size_t most = 0;
    for (unsigned i = 0; i < 300; i++) {
        uint64_t index = random_below(&random, CHUNKS), found;
        must(trace_reader_find_event(r, index * 10, &found, &err), &err);
        assert_int_equal(found, index);
        struct trace_cursor *c;
        struct event e;
        must(trace_cursor_open(&c, r, index, &err), &err);
        must(trace_cursor_next(c, &e, &err), &err);
        assert_int_equal(e.position, index * 10);
        size_t now = in_use() - before;
        most = now > most ? now : most;
        trace_cursor_close(c);
    }
    trace_reader_close(r);
    return most;
}

static void memory_does_not_grow_with_a_finished_trace(void **state)
{
    (void)state;
    char *path = scratch_path();
    write_long_trace(path, true);
    size_t bytes = memory_of_reading(path);
    print_message("reader of a finished trace of %d chunks: %zu bytes\n", CHUNKS, bytes);
    assert_true(bytes > 1000 && bytes < 512 << 10);
    unlink(path);
    free(path);
}

static void an_unfinished_trace_costs_32_bytes_a_chunk(void **state)
{
    (void)state;
    char *path = scratch_path();
    write_long_trace(path, false);
    size_t bytes = memory_of_reading(path);
    print_message("reader of an unfinished trace of %d chunks: %zu bytes\n", CHUNKS, bytes);
    assert_int_equal(sizeof(struct index_record), 32);
    assert_true(bytes > (size_t)CHUNKS * 32);
    assert_true(bytes < (512 << 10) + (size_t)CHUNKS * 48); /* half more: the array grows by half */
    unlink(path);
    free(path);
}

/* 100 GB by their index: the file is sparse, only what the reader needs of it is there. */
static void a_trace_of_100_gigabytes_opens(void **state)
{
    (void)state;
    enum { RECORDS = 1000000 };
    struct error err;
    char *path = scratch_path();
    struct trace_writer *w = create_trace(path, true, 0);
    must(trace_writer_flush(w, &err), &err);
    uint64_t head = trace_writer_bytes(w);
    trace_writer_destroy(w);

    struct chunk_sink sink;
    int fd = open(path, O_RDWR);
    must(chunk_sink_open(&sink, fd, path, 1, &err), &err);
    sink.end = head;
    struct index_array table = {0};
    struct chunk_header h = {.type = CHUNK_EVENTS, .count = 1};
    for (uint64_t i = 0; i < RECORDS; i++) {
        h.first = i;
        h.position = i * 10;
        const uint8_t halt[] = {8 | 0x80, 0};
        uint64_t offset = 0;
        if (i % 1000 == 0)
            must(chunk_append(&sink, &h, halt, sizeof(halt), false, &offset, &err), &err);
        sink.end += 100000;
        assert_int_equal(index_array_add(&table, (struct index_record){offset, i, i * 10, 0}), 0);
    }
    struct trailer t = {.events = RECORDS, .events_records = RECORDS};

    must(index_write(&sink, false, RECORDS, trace_index_from_array, &table, &t.events_offset, &err), &err);
    must(trailer_write(&sink, &t, &err), &err);
    chunk_sink_close(&sink);
    index_array_free(&table);

    size_t before = in_use();
    struct trace_reader *r;
    must(trace_reader_open(&r, path, &err), &err);
    assert_true(trace_reader_info(r)->file_bytes > 100ull * 1000 * 1000 * 1000);
    for (uint64_t index = 0; index < RECORDS; index += 137000) {
        struct trace_cursor *c;
        struct event e;
        must(trace_cursor_open(&c, r, index, &err), &err);
        must(trace_cursor_next(c, &e, &err), &err);
        assert_int_equal(e.position, index * 10);
        trace_cursor_close(c);
    }
    assert_true(in_use() - before < 256 << 10);
    trace_reader_close(r);
    unlink(path);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_does_not_grow_with_a_finished_trace),
        cmocka_unit_test(an_unfinished_trace_costs_32_bytes_a_chunk),
        cmocka_unit_test(a_trace_of_100_gigabytes_opens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
