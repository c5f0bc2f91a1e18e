/*
 * A device's writes into RAM are transitions with positions of their own, and hits of a watch. The trace is a recording that
 * such writes have been put into, at memory that the guest does not use.
 */
#include "tests/timeline/recording.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "replay/timeline.h"

#define UNUSED    0xf00000u /* mapped to itself by the guest */
#define WATCHED   (UNUSED + 0x1ffe)
#define RAM_BYTES ((size_t)64 << 20)

static const char *guest_path;
static char trace_path[64], dma_path[64];

struct copy {
    struct trace_reader *reader;
    struct trace_cursor *cursor;
    struct trace_writer *writer;
    uint8_t *ram;
    gfn_t frames[RAM_BYTES / PAGE_SIZE_BYTES];
    size_t frame_count;
    position_t shift; /* writes put in so far */
};

static uint8_t *place(void *context, gfn_t gfn)
{
    struct copy *c = context;
    assert_true(gfn < RAM_BYTES / PAGE_SIZE_BYTES);
    c->frames[c->frame_count++] = gfn;
    return c->ram + gfn * PAGE_SIZE_BYTES;
}

static const uint8_t *page(void *context, gfn_t gfn)
{
    struct copy *c = context;
    return c->ram + gfn * PAGE_SIZE_BYTES;
}

static int ascending(const void *a, const void *b)
{
    gfn_t x = *(const gfn_t *)a, y = *(const gfn_t *)b;
    return (x > y) - (x < y);
}

static void copy_start(struct copy *c)
{
    static struct error err;
    struct buffer cpuid = {0}, image = {0}, state = {0};
    struct trace_keyframe_info info;
    must(trace_reader_cpuid(c->reader, &cpuid, &err), &err);
    must(trace_reader_image(c->reader, &image, &err), &err);
    must(trace_writer_create(&c->writer, dma_path, &(struct trace_writer_options){.overwrite = true},
                             &trace_reader_info(c->reader)->meta, &cpuid, image.data, image.length, &err),
         &err);
    must(trace_reader_keyframe_info(c->reader, 0, &info, &err), &err);
    must(trace_reader_load_keyframe(c->reader, 0, &state, place, c, &err), &err);
    qsort(c->frames, c->frame_count, sizeof(c->frames[0]), ascending);
    struct trace_keyframe_input first = {.state = state.data,
                                         .state_length = state.length,
                                         .ram_digest = info.ram_digest,
                                         .changed = c->frames,
                                         .changed_count = c->frame_count,
                                         .page = page,
                                         .context = c};
    must(trace_writer_keyframe(c->writer, &first, &err), &err);
    buffer_free(&cpuid);
    buffer_free(&image);
    buffer_free(&state);
}

static position_t put_dma(struct copy *c, position_t position, gpa_t gpa, size_t length, uint8_t byte)
{
    static struct error err;
    static uint8_t data[3 * PAGE_SIZE_BYTES];
    assert_true(length <= sizeof(data));
    memset(data, byte, length);
    struct event dma = {.type = EVENT_DMA,
                        .place = PLACE_POSITION,
                        .position = position + c->shift,
                        .address = gpa,
                        .data = data,
                        .data_length = length};
    must(trace_writer_event(c->writer, &dma, &err), &err);
    c->shift++;
    return dma.position;
}

#define HITS 4

/* Copies the events; puts writes in at the first interrupt, and a while after it. Digests would not agree any more. */
static void make_trace(position_t hits[HITS])
{
    static struct error err;
    static struct copy c;
    struct event e;
    position_t later = POSITION_UNKNOWN;
    unsigned interrupts = 0;
    c.ram = calloc(1, RAM_BYTES);
    assert_non_null(c.ram);
    must(trace_reader_open(&c.reader, trace_path, &err), &err);
    copy_start(&c);
    must(trace_cursor_open(&c.cursor, c.reader, 0, &err), &err);
    while (trace_cursor_next(c.cursor, &e, &err) == 1) {
        if (e.type == EVENT_DIGEST)
            continue;
        if (e.type == EVENT_INTERRUPT && interrupts++ == 0) {
            hits[0] = put_dma(&c, e.position, WATCHED - 1, 2, 0x11);
            put_dma(&c, e.position, WATCHED - 4, 4, 0x22); /* right before */
            put_dma(&c, e.position, WATCHED + 4, 4, 0x33); /* right behind */
            hits[1] = put_dma(&c, e.position, UNUSED, 3 * PAGE_SIZE_BYTES, 0x44);
            later = e.position + 1000;
        } else if (e.position >= later) {
            hits[2] = put_dma(&c, later, WATCHED + 3, 1, 0x55);
            hits[3] = put_dma(&c, later, WATCHED + 2, 8, 0x66);
            later = POSITION_UNKNOWN;
        }
        e.position += c.shift;
        must(trace_writer_event(c.writer, &e, &err), &err);
        if (trace_writer_event_count(c.writer) % 300 == 0) /* many small chunks */
            must(trace_writer_flush(c.writer, &err), &err);
    }
    assert_int_equal(c.shift, 6);
    must(trace_writer_finish(c.writer, &err), &err);
    trace_cursor_close(c.cursor);
    trace_reader_close(c.reader);
    free(c.ram);
}

static uint8_t watched_byte(struct timeline *t, unsigned i)
{
    return replay_ram(timeline_replay(t))->host[WATCHED + i];
}

static void device_writes_are_hits(void **state)
{
    (void)state;
    static struct error err;
    static const gva_t address[HITS] = {WATCHED, WATCHED, WATCHED + 3, WATCHED + 2};
    position_t hits[HITS];
    struct timeline *t;
    struct timeline_stop stop;
    struct engine_watch watch = {WATCHED, 4, ENGINE_ACCESS_WRITE};
    struct timeline_points points = {.engine = {.watches = &watch, .watch_count = 1}};
    assert_true(recording_make(trace_path, guest_path, "preemptions=3 rate=10000", RECORD_ENGINE_EMU));
    make_trace(hits);
    must(timeline_open(&t, dma_path, NULL, &err), &err);
    for (unsigned i = 0; i < HITS; i++) {
        must(timeline_forward(t, &points, POSITION_UNKNOWN, NULL, &stop, &err), &err);
        assert_int_equal(stop.reason, TIMELINE_STOP_WATCH);
        assert_int_equal(stop.position, hits[i] + 1);
        assert_int_equal(stop.hit.address, address[i]);
        assert_int_equal(stop.hit.access, ENGINE_ACCESS_WRITE);
    }
    assert_int_equal(watched_byte(t, 0), 0x44);
    assert_int_equal(watched_byte(t, 2), 0x66);
    must(timeline_forward(t, &points, POSITION_UNKNOWN, NULL, &stop, &err), &err);
    assert_int_equal(stop.reason, TIMELINE_STOP_END);
    for (unsigned i = HITS; i-- > 0;) {
        must(timeline_backward(t, &points, 0, NULL, &stop, &err), &err);
        assert_int_equal(stop.reason, TIMELINE_STOP_WATCH);
        assert_int_equal(stop.position, hits[i]);
        assert_int_equal(stop.hit.address, address[i]);
    }
    assert_int_equal(watched_byte(t, 0), 0);
    must(timeline_backward(t, &points, 0, NULL, &stop, &err), &err);
    assert_int_equal(stop.reason, TIMELINE_STOP_BEGIN);
    must(timeline_goto(t, hits[3], NULL, &err), &err); /* single steps over them, both ways */
    assert_int_equal(watched_byte(t, 2), 0x44);
    assert_int_equal(watched_byte(t, 3), 0x55);
    must(timeline_goto(t, hits[3] + 1, NULL, &err), &err);
    assert_int_equal(watched_byte(t, 2), 0x66);
    must(timeline_goto(t, hits[3] - 1, NULL, &err), &err);
    assert_int_equal(watched_byte(t, 3), 0x44);
    watch.accesses = ENGINE_ACCESS_READ;
    must(timeline_forward(t, &points, POSITION_UNKNOWN, NULL, &stop, &err), &err);
    assert_int_equal(stop.reason, TIMELINE_STOP_END);
    timeline_close(t);
}

struct seen {
    enum event_type type;
    position_t position;
    uint64_t value;
};

static void check_next(struct trace_cursor *c, const struct seen *expected)
{
    static struct error err;
    struct event e;
    int n = trace_cursor_next(c, &e, &err);
    must(n, &err);
    assert_int_equal(n, expected ? 1 : 0);
    if (!expected)
        return;
    assert_int_equal(e.type, expected->type);
    assert_true(e.position == expected->position);
    assert_true(e.value == expected->value);
}

/* A cursor gives the same events wherever it has been before. */
static void a_cursor_can_be_moved(void **state)
{
    (void)state;
    static struct error err;
    static struct seen all[4096];
    struct trace_reader *reader;
    struct trace_cursor *c;
    struct event e;
    uint64_t count = 0, seed = 9;
    must(trace_reader_open(&reader, dma_path, &err), &err);
    must(trace_cursor_open(&c, reader, 0, &err), &err);
    while (trace_cursor_next(c, &e, &err) == 1) {
        assert_true(count < ARRAY_LEN(all));
        all[count++] = (struct seen){e.type, e.position, e.value};
    }
    assert_true(count > 600);
    for (unsigned i = 0; i < 3000; i++) {
        uint64_t to = i % 50 == 0 ? count : random_next(&seed) % count;
        must(trace_cursor_seek(c, to, &err), &err);
        assert_true(trace_cursor_index(c) == to);
        for (uint64_t n = random_next(&seed) % 4 * 110 + 1; n > 0 && to <= count; n--, to++)
            check_next(c, to < count ? &all[to] : NULL);
    }
    assert_int_equal(trace_cursor_seek(c, count + 1, &err), -34 /* ERANGE */);
    trace_cursor_close(c);
    trace_reader_close(reader);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    guest_path = argv[1];
    snprintf(trace_path, sizeof(trace_path), "/tmp/test_dma.%d.dvm", (int)getpid());
    snprintf(dma_path, sizeof(dma_path), "/tmp/test_dma.%d.with.dvm", (int)getpid());
    const struct CMUnitTest tests[] = {cmocka_unit_test(device_writes_are_hits),
                                       cmocka_unit_test(a_cursor_can_be_moved)};
    int failed = cmocka_run_group_tests_name("device writes", tests, NULL, NULL);
    unlink(trace_path);
    unlink(dma_path);
    return failed;
}
