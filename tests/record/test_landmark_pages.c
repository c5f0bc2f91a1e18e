/*
 * Landmarks whose list of changed pages would be too long have the digest of all of RAM instead, and that alone tells
 * boundaries apart which have everything else in common. Needs /dev/kvm.
 *
 *   test_landmark_pages FAR PREEMPT      the two guests
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/kvm/kvm_probe.h"
#include "record/record.h"
#include "replay/replay.h"

static const char *far_guest, *preempt_guest;
static char path[64];

static void must(int status, const struct error *err)
{
    if (status < 0)
        fail_msg("%s", err->message);
}

static void record(const char *guest)
{
    struct error err = {0};
    struct recorder *recorder;
    static struct record_result result;
    struct record_options options = {.guest_path = guest,
                                     .trace_path = path,
                                     .command_line = "",
                                     .engine = RECORD_ENGINE_KVM,
                                     .ram_bytes = 64 << 20,
                                     .timeout_ns = 60000000000,
                                     .serial_in = -1,
                                     .overwrite = true,
                                     .landmark_pages = 1};
    must(recorder_create(&recorder, &options, &err), &err);
    must(recorder_run(recorder, &result, &err), &err);
    recorder_destroy(recorder);
    assert_int_equal(result.end, TRACE_END_DEBUG_EXIT);
}

static unsigned count_landmarks_by_all_of_ram(void)
{
    struct error err = {0};
    struct trace_reader *reader;
    struct trace_cursor *cursor;
    struct event event;
    unsigned count = 0;
    int more;
    must(trace_reader_open(&reader, path, &err), &err);
    must(trace_cursor_open(&cursor, reader, 0, &err), &err);
    while ((more = trace_cursor_next(cursor, &event, &err)) == 1) {
        if (event.place != PLACE_LANDMARK)
            continue;
        assert_true(event.landmark->page_count <= 1);
        count += event.landmark->page_count && event.landmark->pages[0].gfn == LANDMARK_ALL_OF_RAM;
    }
    must(more, &err);
    trace_cursor_close(cursor);
    trace_reader_close(reader);
    return count;
}

static void seals(const char *guest)
{
    struct error err = {0};
    struct replay_totals totals = {0};
    if (kvm_probe_usable(&err) < 0) {
        print_message("skipped: %s\n", err.message);
        skip();
    }
    record(guest);
    unsigned landmarks = count_landmarks_by_all_of_ram();
    assert_true(landmarks >= 5);
    must(replay_seal(path, NULL, &totals, &err), &err);
    assert_true(totals.at_end);
    print_message("%u landmarks by all of RAM, %llu steps\n", landmarks, (unsigned long long)totals.position);
}

static void only_a_far_page_tells(void **state)
{
    (void)state;
    seals(far_guest);
}

static void tasks_of_all_kinds(void **state)
{
    (void)state;
    seals(preempt_guest);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    far_guest = argv[1];
    preempt_guest = argv[2];
    snprintf(path, sizeof(path), "/tmp/test_landmark_pages.%d.dvm", (int)getpid());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_a_far_page_tells),
        cmocka_unit_test(tasks_of_all_kinds),
    };
    int failed = cmocka_run_group_tests_name("landmarks by the digest of all of RAM", tests, NULL, NULL);
    unlink(path);
    return failed;
}
