/* Events: what is written comes back, by reading on and by seeking; typical streams stay small. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/trace/support.h"

static void keep_expected(struct event *kept, const struct event *e, position_t previous)
{
    *kept = event_copy(e);
    if (e->place == PLACE_PREVIOUS && e->position == POSITION_UNKNOWN)
        kept->position = previous;
}

static void check_round_trip(uint64_t seed, bool positions, bool steps)
{
    enum { COUNT = 20000 };
    struct error err;
    struct random r = {seed};
    struct event_store store = {.positions = positions, .steps = steps};
    struct event *kept = calloc(COUNT, sizeof(*kept));
    char *path = scratch_path();
    struct trace_writer *w = create_trace_with_steps(path, positions, 0, steps);
    position_t previous = positions ? 0 : POSITION_UNKNOWN;
    for (unsigned i = 0; i < COUNT; i++) {
        struct event e;
        random_event(&r, &store, &e);
        must(trace_writer_event(w, &e, &err), &err);
        keep_expected(&kept[i], &e, previous);
        previous = kept[i].position;
        if (random_below(&r, 1000) == 0)
            must(trace_writer_flush(w, &err), &err);
    }
    assert_int_equal(trace_writer_event_count(w), COUNT);
    must(trace_writer_finish(w, &err), &err);

    struct trace_reader *reader;
    struct trace_cursor *c;
    struct event e;
    must(trace_reader_open(&reader, path, &err), &err);
    assert_int_equal(trace_reader_info(reader)->events, COUNT);
    must(trace_cursor_open(&c, reader, 0, &err), &err);
    for (unsigned i = 0; i < COUNT; i++) {
        assert_int_equal(trace_cursor_index(c), i);
        int got = trace_cursor_next(c, &e, &err);
        must(got, &err);
        assert_int_equal(got, 1);
        const char *difference = event_difference(&kept[i], &e);
        if (difference)
            fail_msg("event %u (%s): %s", i, event_type_name(e.type), difference);
    }
    assert_int_equal(trace_cursor_next(c, &e, &err), 0);
    trace_cursor_close(c);
    for (unsigned i = 0; i < 100; i++) {
        uint64_t index = random_below(&r, COUNT);
        must(trace_cursor_open(&c, reader, index, &err), &err);
        must(trace_cursor_next(c, &e, &err), &err);
        assert_null(event_difference(&kept[index], &e));
        trace_cursor_close(c);
    }
    must(trace_cursor_open(&c, reader, COUNT, &err), &err);
    assert_int_equal(trace_cursor_next(c, &e, &err), 0);
    trace_cursor_close(c);
    assert_int_equal(trace_cursor_open(&c, reader, COUNT + 1, &err), -ERANGE);
    trace_reader_close(reader);
    for (unsigned i = 0; i < COUNT; i++)
        event_free(&kept[i]);
    free(kept);
    event_store_free(&store);
    unlink(path);
    free(path);
}

static void events_of_every_type_come_back_as_written(void **state)
{
    (void)state;
    check_round_trip(1, false, false);
    check_round_trip(2, true, false);
    check_round_trip(3, false, true);
}

static void largest_events_come_back_as_written(void **state)
{
    (void)state;
    struct error err;
    char *path = scratch_path();
    uint8_t *data = malloc(EVENT_MAX_DATA + 1);
    struct random r = {3};
    for (size_t i = 0; i <= EVENT_MAX_DATA; i++)
        data[i] = (uint8_t)random_u64(&r);
    struct landmark_page *pages = malloc(LANDMARK_MAX_PAGES * sizeof(*pages));
    for (size_t i = 0; i < LANDMARK_MAX_PAGES; i++)
        pages[i] = (struct landmark_page){random_u64(&r), random_u64(&r)};
    struct landmark landmark = {.entry_count = LANDMARK_MAX_ENTRIES,
                                .witness_count = LANDMARK_MAX_WITNESSES,
                                .rip = UINT64_MAX,
                                .page_count = LANDMARK_MAX_PAGES,
                                .pages = pages};
    struct event big = {.type = EVENT_DMA,
                        .place = PLACE_LANDMARK,
                        .position = POSITION_UNKNOWN,
                        .address = UINT64_MAX - EVENT_MAX_DATA,
                        .data = data,
                        .data_length = EVENT_MAX_DATA,
                        .landmark = &landmark};
    struct trace_writer *w = create_trace(path, false, 3 << 20);
    for (unsigned i = 0; i < 3; i++)
        must(trace_writer_event(w, &big, &err), &err);
    struct event too_big = big;
    too_big.data_length++;
    assert_int_equal(trace_writer_event(w, &too_big, &err), -EMSGSIZE);
    struct landmark too_long = {.entry_count = LANDMARK_MAX_ENTRIES + 1};
    too_big = big;
    too_big.landmark = &too_long;
    assert_int_equal(trace_writer_event(w, &too_big, &err), -EMSGSIZE);
    must(trace_writer_event(w, &big, &err), &err);
    must(trace_writer_finish(w, &err), &err);

    struct trace_reader *reader;
    struct trace_cursor *c;
    must(trace_reader_open(&reader, path, &err), &err);
    must(trace_cursor_open(&c, reader, 0, &err), &err);
    for (unsigned i = 0; i < 4; i++) {
        struct event e;
        must(trace_cursor_next(c, &e, &err), &err);
        assert_null(event_difference(&big, &e));
    }
    trace_cursor_close(c);
    trace_reader_close(reader);
    free(data);
    free(pages);
    unlink(path);
    free(path);
}

static void wrong_events_are_refused_and_do_no_harm(void **state)
{
    (void)state;
    struct error err;
    char *path = scratch_path();
    struct trace_writer *w = create_trace(path, true, 0);
    const struct event wrong[] = {
        {.type = EVENT_PIO_READ, .size = 3, .position = 5},
        {.type = EVENT_PIO_READ, .size = 8, .position = 5},
        {.type = EVENT_PIO_READ, .size = 1, .address = 65536, .position = 5},
        {.type = EVENT_MMIO_WRITE, .size = 16, .position = 5},
        {.type = EVENT_MSR_READ, .address = (uint64_t)1 << 32, .position = 5},
        {.type = EVENT_HALT, .place = PLACE_LANDMARK, .position = 5},
        {.type = EVENT_HALT, .position = POSITION_UNKNOWN},
        {.type = EVENT_HALT, .position = 3},
        {.type = (enum event_type)0, .position = 5},
        {.type = EVENT_TYPE_COUNT, .position = 5},
    };
    const struct event good = {.type = EVENT_HALT, .position = 4};
    must(trace_writer_event(w, &good, &err), &err);
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        assert_int_equal(trace_writer_event(w, &wrong[i], &err), -EINVAL);
    const struct event end = {.type = EVENT_END, .position = 4};
    must(trace_writer_event(w, &end, &err), &err);
    assert_int_equal(trace_writer_event(w, &good, &err), -EINVAL);
    must(trace_writer_finish(w, &err), &err);
    struct trace_reader *reader;
    must(trace_reader_open(&reader, path, &err), &err);
    assert_int_equal(trace_reader_info(reader)->events, 2);
    assert_true(trace_reader_info(reader)->complete);
    assert_false(trace_reader_info(reader)->cut_short);
    trace_reader_close(reader);
    unlink(path);
    free(path);
}

/* A stream as a booting kernel makes it: mostly port reads and writes, with a timer interrupt now and then. */
static void typical_event(struct random *r, uint64_t i, position_t *position, struct event *e)
{
    static const uint16_t ports[] = {0x3fd, 0x3f8, 0x20, 0x21, 0x40, 0x43, 0x70, 0x71};
    *position += 20 + random_below(r, 200);
    *e = (struct event){.position = *position};
    switch (random_below(r, 8)) {
    case 0:
        e->type = EVENT_CPU_READ;
        e->value = i * 1000 + random_below(r, 500);
        break;
    case 1:
        e->type = EVENT_INTERRUPT;
        e->place = PLACE_POSITION;
        e->vector = 0x30;
        break;
    case 2:
    case 3:
        e->type = EVENT_PIO_WRITE;
        e->size = 1;
        e->address = ports[random_below(r, ARRAY_LEN(ports))];
        e->value = random_below(r, 256);
        break;
    default:
        e->type = EVENT_PIO_READ;
        e->size = 1;
        e->address = 0x3fd;
        e->value = random_below(r, 20) ? 0x60 : 0x61;
    }
}

static void a_million_events_can_be_sought_by_index_and_position(void **state)
{
    (void)state;
    enum { COUNT = 1000000, SAMPLE = 1000 };
    struct error err;
    struct random r = {5};
    char *path = scratch_path();
    struct trace_writer *w = create_trace(path, true, 0);
    position_t *positions = malloc(COUNT * sizeof(*positions));
    position_t position = 0;
    for (uint64_t i = 0; i < COUNT; i++) {
        struct event e;
        typical_event(&r, i, &position, &e);
        positions[i] = e.position;
        must(trace_writer_event(w, &e, &err), &err);
    }
    must(trace_writer_finish(w, &err), &err);
    struct trace_reader *reader;
    must(trace_reader_open(&reader, path, &err), &err);
    const struct trace_info *info = trace_reader_info(reader);
    assert_int_equal(info->events, COUNT);
    print_message("1,000,000 typical events: %.2f bytes each in the file\n",
                  (double)info->bytes_events / COUNT);
    assert_true(info->bytes_events < COUNT * 4);
    for (unsigned i = 0; i < SAMPLE / 10; i++) {
        uint64_t index = random_below(&r, COUNT), found;
        must(trace_reader_find_event(reader, positions[index], &found, &err), &err);
        assert_int_equal(found, index);
        must(trace_reader_find_event(reader, positions[index] - 1, &found, &err), &err);
        assert_true(found <= index && (found == 0 || positions[found - 1] < positions[index] - 1));
    }
    uint64_t found;
    must(trace_reader_find_event(reader, 0, &found, &err), &err);
    assert_int_equal(found, 0);
    must(trace_reader_find_event(reader, position + 1, &found, &err), &err);
    assert_int_equal(found, COUNT);
    trace_reader_close(reader);
    free(positions);
    unlink(path);
    free(path);
}

static void meta_cpuid_and_image_come_back_as_written(void **state)
{
    (void)state;
    struct error err;
    char *path = scratch_path();
    size_t length = (5 << 20) + 77;
    must(trace_writer_finish(create_trace(path, true, length), &err), &err);
    struct trace_reader *reader;
    struct buffer b = {0};
    must(trace_reader_open(&reader, path, &err), &err);
    const struct trace_meta *m = &trace_reader_info(reader)->meta;
    assert_string_equal(m->writer, test_meta.writer);
    assert_string_equal(m->engine, test_meta.engine);
    assert_string_equal(m->host_cpu, test_meta.host_cpu);
    assert_string_equal(m->host_system, test_meta.host_system);
    assert_string_equal(m->guest_path, test_meta.guest_path);
    assert_string_equal(m->guest_format, test_meta.guest_format);
    assert_string_equal(m->command_line, test_meta.command_line);
    assert_string_equal(m->initrd_path, "");
    assert_int_equal(m->start_time_s, test_meta.start_time_s);
    assert_int_equal(m->ram_bytes, test_meta.ram_bytes);
    assert_int_equal(m->ram_low_bytes, test_meta.ram_low_bytes);
    assert_true(m->positions);
    must(trace_reader_cpuid(reader, &b, &err), &err);
    assert_int_equal(b.length, sizeof("cpuid leaves"));
    assert_memory_equal(b.data, "cpuid leaves", b.length);
    must(trace_reader_image(reader, &b, &err), &err);
    assert_int_equal(b.length, length);
    assert_int_equal(trace_reader_info(reader)->image_length, length);
    struct random r = {length};
    for (size_t i = 0; i < length; i++)
        if (b.data[i] != (random_u64(&r) & 0x33))
            fail_msg("image byte %zu", i);
    buffer_free(&b);
    trace_reader_close(reader);
    unlink(path);
    free(path);
}

/* Format version 1 has no such events: written they are refused, read they are damage. */
static void events_placed_by_steps_need_format_version_2(void **state)
{
    (void)state;
    enum { VERSION = 8, CHECKSUM = 56 };
    struct error err;
    char *path = scratch_path();
    const struct event halt = {
        .type = EVENT_HALT, .place = PLACE_STEPS, .position = POSITION_UNKNOWN, .steps = 1000};
    struct trace_writer *w = create_trace(path, false, 0);
    assert_int_equal(trace_writer_event(w, &halt, &err), -EINVAL);
    trace_writer_destroy(w);
    w = create_trace_with_steps(path, false, 0, true);
    must(trace_writer_event(w, &halt, &err), &err);
    must(trace_writer_finish(w, &err), &err);
    size_t length;
    uint8_t *file = read_whole_file(path, &length);
    for (uint8_t version = 1; version <= 3; version++) {
        struct trace_reader *reader;
        struct trace_cursor *c;
        struct event e;
        struct buffer sum = {0};
        file[VERSION] = version;
        buffer_put_u64(&sum, hash64(file, CHECKSUM));
        memcpy(file + CHECKSUM, sum.data, 8);
        buffer_free(&sum);
        write_whole_file(path, file, length);
        if (version == 3) {
            assert_int_equal(trace_reader_open(&reader, path, &err), -ENOTSUP);
            break;
        }
        must(trace_reader_open(&reader, path, &err), &err);
        must(trace_cursor_open(&c, reader, 0, &err), &err);
        int got = trace_cursor_next(c, &e, &err);
        assert_true(version == 2 ? got == 1 && e.steps == 1000 : got < 0 && err.kind == ERROR_DAMAGED);
        trace_cursor_close(c);
        trace_reader_close(reader);
    }
    free(file);
    unlink(path);
    free(path);
}

/* While it is written: a reader sees what was flushed, cursors go on, and positions that are noted are found. */
static void a_reader_follows_a_trace_that_grows(void **state)
{
    (void)state;
    enum { PARTS = 30, PART = 40 };
    struct error err;
    char *path = scratch_path();
    struct trace_writer *w = create_trace_with_steps(path, false, 100, true);
    struct trace_reader *reader;
    struct trace_cursor *c;
    uint64_t read = 0, found;
    must(trace_writer_flush(w, &err), &err);
    must(trace_reader_open(&reader, path, &err), &err);
    must(trace_cursor_open(&c, reader, 0, &err), &err);
    for (unsigned part = 0; part <= PARTS; part++) {
        for (unsigned i = 0; i < PART && part < PARTS; i++) {
            const struct event e = {.type = EVENT_PIO_WRITE,
                                    .position = POSITION_UNKNOWN,
                                    .size = 1,
                                    .address = 0x3f8,
                                    .value = part * PART + i};
            must(trace_writer_event(w, &e, &err), &err);
        }
        if (part < PARTS)
            must(trace_writer_flush(w, &err), &err);
        else
            must(trace_writer_finish(w, &err), &err); /* what follows the events is no event */
        must(trace_reader_refresh(reader, &err), &err);
        struct event e;
        int got;
        while ((got = trace_cursor_next(c, &e, &err)) == 1) {
            assert_int_equal(e.value, read);
            assert_true(e.position == POSITION_UNKNOWN);
            must(trace_reader_note_position(reader, read, read * 10, &err), &err);
            must(trace_reader_note_position(reader, read, read * 10, &err), &err); /* as often as one likes */
            assert_int_equal(trace_reader_note_position(reader, read, read * 10 + 1, &err), -EINVAL);
            read++;
        }
        must(got, &err);
        assert_int_equal(read, (part < PARTS ? part + 1 : PARTS) * PART);
        must(trace_reader_find_event(reader, read * 5, &found, &err), &err);
        assert_int_equal(found, read / 2);
        struct trace_cursor *again;
        must(trace_cursor_open(&again, reader, found, &err), &err);
        assert_int_equal(trace_cursor_next(again, &e, &err), 1);
        assert_int_equal(e.position, found * 10);
        trace_cursor_close(again);
    }
    assert_int_equal(trace_reader_note_position(reader, read + 1, read * 10, &err), -EINVAL);
    trace_cursor_close(c);
    trace_reader_close(reader);
    unlink(path);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_of_every_type_come_back_as_written),
        cmocka_unit_test(largest_events_come_back_as_written),
        cmocka_unit_test(wrong_events_are_refused_and_do_no_harm),
        cmocka_unit_test(a_million_events_can_be_sought_by_index_and_position),
        cmocka_unit_test(meta_cpuid_and_image_come_back_as_written),
        cmocka_unit_test(events_placed_by_steps_need_format_version_2),
        cmocka_unit_test(a_reader_follows_a_trace_that_grows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
