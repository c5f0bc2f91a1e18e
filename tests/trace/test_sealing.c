/* Sealing: positions and keyframes appear at once or not at all, whatever happens in between. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/trace/support.h"

static uint64_t walk_path(const char *path)
{
    struct error err;
    uint64_t events;
    int fd = open(path, O_RDONLY);
    must(walk_trace(fd, &events, &err), &err);
    close(fd);
    return events;
}

static struct trace_info info_of(const char *path)
{
    struct error err;
    struct trace_reader *r;
    must(trace_reader_open(&r, path, &err), &err);
    struct trace_info info = *trace_reader_info(r);
    trace_reader_close(r);
    return info;
}

/* Position of every event, by reading. */
static position_t *positions_of(const char *path, uint64_t count)
{
    struct error err;
    struct trace_reader *r;
    struct trace_cursor *c;
    struct event e;
    position_t *positions = calloc(count, sizeof(*positions));
    must(trace_reader_open(&r, path, &err), &err);
    must(trace_cursor_open(&c, r, 0, &err), &err);
    for (uint64_t i = 0; i < count; i++) {
        must(trace_cursor_next(c, &e, &err), &err);
        positions[i] = e.position;
    }
    trace_cursor_close(c);
    trace_reader_close(r);
    return positions;
}

static void sealing_gives_every_event_its_position(void **state)
{
    (void)state;
    enum { COUNT = 70000 };
    struct error err;
    struct random r = {1};
    char *path = scratch_path();
    struct trace_writer *w = create_trace(path, false, 0);
    const struct trace_keyframe_input first = {.position = 0};
    must(trace_writer_keyframe(w, &first, &err), &err);
    for (unsigned i = 0; i < COUNT; i++) {
        struct event e = {.type = EVENT_HALT, .position = POSITION_UNKNOWN};
        if (i == COUNT - 1)
            e.type = EVENT_END;
        must(trace_writer_event(w, &e, &err), &err);
        if (random_below(&r, 5000) == 0)
            must(trace_writer_flush(w, &err), &err);
    }
    must(trace_writer_finish(w, &err), &err);
    struct trace_reader *reader;
    uint64_t found;
    must(trace_reader_open(&reader, path, &err), &err);
    assert_int_equal(trace_reader_find_event(reader, 5, &found, &err), -ENODATA);
    trace_reader_close(reader);

    must(trace_seal_open(&w, path, &err), &err);
    position_t *given = calloc(COUNT, sizeof(*given)), position = 17;
    for (unsigned i = 0; i < COUNT; i++) {
        position += random_below(&r, 3) ? random_below(&r, 100000) : 0;
        given[i] = position;
        must(trace_seal_position(w, position, &err), &err);
    }
    assert_int_equal(trace_seal_position(w, position, &err), -EINVAL);
    const struct trace_seal_summary summary = {.end_position = position,
                                               .events = COUNT,
                                               .interrupts = 3,
                                               .console_bytes = 4,
                                               .end_ram_digest = {5, 6},
                                               .end_state_hash = 7};
    must(trace_seal_finish(w, &summary, &err), &err);
    struct trace_info info = info_of(path);
    assert_true(info.sealed);
    assert_memory_equal(&info.seal, &summary, sizeof(summary));
    position_t *read = positions_of(path, COUNT);
    assert_memory_equal(read, given, COUNT * sizeof(*given));
    must(trace_reader_open(&reader, path, &err), &err);
    for (unsigned i = 0; i < 300; i++) {
        uint64_t index = random_below(&r, COUNT);
        must(trace_reader_find_event(reader, given[index], &found, &err), &err);
        assert_int_equal(given[found], given[index]);
        assert_true(found == 0 || given[found - 1] < given[index]);
    }
    trace_reader_close(reader);
    assert_int_equal(trace_seal_open(&w, path, &err), -EALREADY);
    free(given);
    free(read);
    unlink(path);
    free(path);
}

static void a_recording_with_positions_is_compared_when_sealed(void **state)
{
    (void)state;
    struct error err;
    char *path = scratch_path();
    struct trace_writer *w = create_trace(path, true, 0);
    const struct trace_keyframe_input first = {.position = 0};
    must(trace_writer_keyframe(w, &first, &err), &err);
    struct event e = {.type = EVENT_HALT, .position = 10};
    must(trace_writer_event(w, &e, &err), &err);
    e = (struct event){.type = EVENT_END, .place = PLACE_POSITION, .position = 20};
    must(trace_writer_event(w, &e, &err), &err);
    must(trace_writer_finish(w, &err), &err);
    must(trace_seal_open(&w, path, &err), &err);
    must(trace_seal_position(w, 10, &err), &err);
    assert_int_equal(trace_seal_position(w, 21, &err), -EINVAL);
    assert_int_equal(err.kind, ERROR_DIVERGENCE);
    trace_writer_destroy(w);
    assert_false(info_of(path).sealed);
    must(trace_seal_open(&w, path, &err), &err);
    must(trace_seal_position(w, 10, &err), &err);
    must(trace_seal_position(w, 20, &err), &err);
    const struct trace_seal_summary summary = {.end_position = 20, .events = 2};
    must(trace_seal_finish(w, &summary, &err), &err);
    assert_true(info_of(path).sealed);
    assert_int_equal(info_of(path).bytes_positions, 0);
    unlink(path);
    free(path);
}

static void a_reader_from_before_sealing_goes_on_reading(void **state)
{
    (void)state;
    struct error err;
    char *path = scratch_path();
    struct small_trace t = make_small_trace(path, 4, false, true, false);
    struct trace_reader *reader;
    must(trace_reader_open(&reader, path, &err), &err);
    seal_small_trace(path, 4, 3);
    struct trace_cursor *c;
    struct event e;
    must(trace_cursor_open(&c, reader, 0, &err), &err);
    uint64_t count = 0;
    int got;
    while ((got = trace_cursor_next(c, &e, &err)) > 0)
        count++;
    must(got, &err);
    assert_int_equal(count, t.events);
    assert_false(trace_reader_info(reader)->sealed);
    trace_cursor_close(c);
    trace_reader_close(reader);
    unlink(path);
    free(path);
}

static void interrupted_sealing_leaves_a_good_unsealed_trace(void **state)
{
    (void)state;
    for (int cut_short = 0; cut_short < 2; cut_short++) {
        char *path = scratch_path();
        struct small_trace t = make_small_trace(path, 5, false, !cut_short, false);
        size_t raw_length, sealed_length;
        free(read_whole_file(path, &raw_length));
        seal_small_trace(path, 5, 4);
        uint8_t *sealed = read_whole_file(path, &sealed_length);
        position_t *expected = positions_of(path, t.events);
        assert_int_equal(info_of(path).sealed, 1);
        struct random r = {6};
        for (size_t length = raw_length; length < sealed_length;
             length += 1 + (size_t)random_below(&r, 400)) {
            write_whole_file(path, sealed, length);
            struct trace_info info = info_of(path);
            assert_int_equal(info.events, t.events);
            assert_int_equal(info.cut_short, cut_short);
            assert_int_equal(info.keyframes, info.sealed ? 5 : 1);
            assert_int_equal(walk_path(path), t.events);
            if (info.sealed)
                continue; /* the SEAL chunk is whole: only the index was lost */
            seal_small_trace(path, 5, 4);
            assert_true(info_of(path).sealed);
            position_t *again = positions_of(path, t.events);
            assert_memory_equal(expected, again, t.events * sizeof(*again));
            free(again);
        }
        free(expected);
        free(sealed);
        unlink(path);
        free(path);
    }
}

static void abandoned_sealing_is_taken_back(void **state)
{
    (void)state;
    struct error err;
    char *path = scratch_path();
    make_small_trace(path, 7, false, true, false);
    size_t before_length, after_length;
    uint8_t *before = read_whole_file(path, &before_length);
    struct trace_writer *w;
    must(trace_seal_open(&w, path, &err), &err);
    for (unsigned i = 0; i < 3 * SMALL_TRACE_FLUSH; i++)
        must(trace_seal_position(w, i, &err), &err);
    assert_true(trace_writer_bytes(w) > before_length);
    trace_writer_destroy(w);
    size_t after_first;
    free(read_whole_file(path, &after_first));
    assert_int_equal(after_first, before_length);
    must(trace_seal_open(&w, path, &err), &err);
    const struct trace_seal_summary too_early = {.events = 0};
    assert_int_equal(trace_seal_finish(w, &too_early, &err), -EINVAL);
    uint8_t *after = read_whole_file(path, &after_length);
    assert_int_equal(before_length, after_length);
    assert_memory_equal(before, after, after_length);
    free(before);
    free(after);
    unlink(path);
    free(path);
}

static void a_cut_short_trace_can_be_sealed_in_part(void **state)
{
    (void)state;
    struct error err;
    char *path = scratch_path();
    struct small_trace t = make_small_trace(path, 8, false, false, false);
    struct trace_writer *w;
    must(trace_seal_open(&w, path, &err), &err);
    for (unsigned i = 0; i < 130; i++)
        must(trace_seal_position(w, i * 2, &err), &err);
    const struct trace_seal_summary summary = {.end_position = 300, .events = 130};
    must(trace_seal_finish(w, &summary, &err), &err);
    struct trace_info info = info_of(path);
    assert_true(info.sealed && info.cut_short);
    assert_int_equal(info.events, t.events);
    assert_int_equal(info.seal.events, 130);
    position_t *positions = positions_of(path, t.events);
    assert_int_equal(positions[129], 258);
    assert_true(positions[130] == POSITION_UNKNOWN);
    assert_true(positions[t.events - 1] == POSITION_UNKNOWN);
    struct trace_reader *reader;
    uint64_t found;
    must(trace_reader_open(&reader, path, &err), &err);
    must(trace_reader_find_event(reader, 257, &found, &err), &err);
    assert_int_equal(found, 129);
    must(trace_reader_find_event(reader, 259, &found, &err), &err);
    assert_int_equal(found, 130);
    trace_reader_close(reader);
    free(positions);
    unlink(path);
    free(path);
}

static void two_writers_do_not_meet(void **state)
{
    (void)state;
    struct error err;
    char *path = scratch_path();
    struct trace_writer *w, *second;
    const struct trace_writer_options options = {.overwrite = true};
    const struct buffer none = {0};
    w = create_trace(path, false, 10);
    const struct trace_keyframe_input first = {.position = 0};
    must(trace_writer_keyframe(w, &first, &err), &err);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 0); /* still the old file: the new one has no name before its first flush */
    must(trace_writer_flush(w, &err), &err);
    assert_int_equal(trace_seal_open(&second, path, &err), -EBUSY);
    assert_int_equal(trace_writer_create(&second, path, &options, &test_meta, &none, NULL, 0, &err), -EBUSY);
    assert_int_equal(trace_writer_create(&second, path, NULL, &test_meta, &none, NULL, 0, &err), -EEXIST);
    must(trace_writer_finish(w, &err), &err);
    must(trace_seal_open(&w, path, &err), &err);
    pid_t child = fork();
    if (child == 0)
        _exit(trace_seal_open(&second, path, &err) == -EBUSY ? 0 : 1);
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    trace_writer_destroy(w);
    must(trace_seal_open(&w, path, &err), &err);
    trace_writer_destroy(w);
    unlink(path);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sealing_gives_every_event_its_position),
        cmocka_unit_test(a_recording_with_positions_is_compared_when_sealed),
        cmocka_unit_test(a_reader_from_before_sealing_goes_on_reading),
        cmocka_unit_test(interrupted_sealing_leaves_a_good_unsealed_trace),
        cmocka_unit_test(abandoned_sealing_is_taken_back),
        cmocka_unit_test(a_cut_short_trace_can_be_sealed_in_part),
        cmocka_unit_test(two_writers_do_not_meet),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
