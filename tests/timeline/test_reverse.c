/* From the end of a recording to its start, one step backwards at a time, every state compared with those seen forwards. */
#include "tests/timeline/recording.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "replay/timeline.h"

static const char *guest_dir;
static char trace_path[64];

static uint64_t *numbers_of_all_positions(position_t end)
{
    static struct error err;
    struct replay *r;
    uint64_t *numbers = calloc(end + 1, sizeof(*numbers));
    assert_non_null(numbers);
    must(replay_open(&r, trace_path, NULL, &err), &err);
    for (position_t p = 0; p <= end; p++) {
        must(replay_run(r, p, &err), &err);
        assert_true(replay_position(r) == p);
        numbers[p] = state_number_quick(r);
    }
    replay_close(r);
    return numbers;
}

static void step_back_through(const char *guest, const char *command_line, position_t at_least)
{
    static struct error err;
    struct timeline *t;
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", guest_dir, guest);
    assert_true(recording_make(trace_path, path, command_line, RECORD_ENGINE_EMU));
    must(timeline_open(&t, trace_path, NULL, &err), &err);
    position_t end = timeline_end(t);
    assert_true(end >= at_least);
    uint64_t *numbers = numbers_of_all_positions(end);
    must(timeline_goto(t, end, NULL, &err), &err);
    for (position_t p = end;; p--) {
        assert_true(timeline_position(t) == p);
        struct replay *r = timeline_replay(t);
        uint64_t number = p % 5000 == 0 ? state_number(r) : state_number_quick(r);
        if (number != numbers[p])
            fail_msg("position %" PRIu64 " reached backwards is not what it was forwards", p);
        if (p == 0)
            break;
        must(timeline_goto(t, p - 1, NULL, &err), &err);
    }
    free(numbers);
    timeline_close(t);
}

static void through_a_scheduler(void **state)
{
    (void)state;
    step_back_through("preempt", "preemptions=8 rate=100000", 100000);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    guest_dir = argv[1];
    snprintf(trace_path, sizeof(trace_path), "/tmp/test_reverse.%d.dvm", (int)getpid());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(through_a_scheduler),
    };
    int failed = cmocka_run_group_tests_name("stepping back", tests, NULL, NULL);
    unlink(trace_path);
    return failed;
}
