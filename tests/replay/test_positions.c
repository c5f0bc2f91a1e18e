/*
 * A position has one state, however it is reached: by running from the start, by a keyframe, from the back, or
 * by stopping and going on. Records a real guest first.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/kvm/kvm_probe.h"
#include "record/record.h"
#include "replay/replay.h"

#define POSITIONS 24

static const char *guest_path;
static char trace_path[64];

struct seen {
    position_t position;
    struct vcpu_state state;
    struct hash128 ram;
};

static void must(int status, const struct error *err)
{
    if (status < 0)
        fail_msg("%s", err->message);
}

static void record_once(enum record_engine engine, unsigned preemptions)
{
    char command_line[64];
    snprintf(command_line, sizeof(command_line), "preemptions=%u", preemptions);
    struct error err = {0};
    struct recorder *recorder;
    static struct record_result result;
    struct record_options options = {.guest_path = guest_path,
                                     .trace_path = trace_path,
                                     .command_line = command_line,
                                     .engine = engine,
                                     .ram_bytes = 64 << 20,
                                     .timeout_ns = 60000000000,
                                     .serial_in = -1,
                                     .overwrite = true};
    must(recorder_create(&recorder, &options, &err), &err);
    must(recorder_run(recorder, &result, &err), &err);
    recorder_destroy(recorder);
    assert_int_equal(result.end, TRACE_END_DEBUG_EXIT);
}

/* A slow build of the emulator makes fewer steps in the same time: until there is a keyframe to go to. */
static void record(enum record_engine engine)
{
    struct error err = {0};
    uint64_t keyframes = 0;
    for (unsigned preemptions = 24; keyframes < 2 && preemptions < 2000; preemptions *= 3) {
        struct trace_reader *reader;
        record_once(engine, preemptions);
        must(replay_seal(trace_path, NULL, NULL, &err), &err);
        must(trace_reader_open(&reader, trace_path, &err), &err);
        keyframes = trace_reader_info(reader)->keyframes;
        trace_reader_close(reader);
    }
}

/* The digest is computed in full here, not the incremental way that the replay itself uses. */
static void look(struct replay *r, struct seen *out)
{
    struct error err = {0};
    struct hash128 incremental;
    out->position = replay_position(r);
    out->state = *replay_state(r);
    out->ram = ram_digest(replay_ram(r));
    must(replay_ram_digest(r, &incremental, &err), &err);
    assert_true(hash128_equal(out->ram, incremental));
}

static void compare(const struct seen *a, const struct seen *b, const char *how)
{
    char difference[2048];
    assert_true(a->position == b->position);
    if (vcpu_state_diff(&a->state, &b->state, difference, sizeof(difference)))
        fail_msg("position %" PRIu64 " %s: registers differ:\n%s", a->position, how, difference);
    if (!hash128_equal(a->ram, b->ram))
        fail_msg("position %" PRIu64 " %s: RAM differs", a->position, how);
}

static int ascending(const void *a, const void *b)
{
    position_t x = *(const position_t *)a, y = *(const position_t *)b;
    return (x > y) - (x < y);
}

static void check_all_ways(void)
{
    struct error err = {0};
    struct replay *r;
    static struct seen seen[POSITIONS];
    struct seen other;
    position_t position[POSITIONS];
    must(replay_seal(trace_path, NULL, NULL, &err), &err);
    must(replay_open(&r, trace_path, NULL, &err), &err);
    const struct trace_info *info = trace_reader_info(replay_reader(r));
    assert_true(info->sealed);
    assert_true(info->keyframes > 1);
    srandom(1);
    for (unsigned i = 0; i < POSITIONS; i++)
        position[i] = ((uint64_t)random() << 20 ^ (uint64_t)random()) % info->seal.end_position;
    qsort(position, POSITIONS, sizeof(position[0]), ascending);
    for (unsigned i = 0; i < POSITIONS; i++) { /* forwards in one run, stopping at each */
        must(replay_run(r, position[i], &err), &err);
        assert_true(replay_position(r) == position[i]);
        look(r, &seen[i]);
    }
    for (unsigned i = POSITIONS; i-- > 0;) { /* backwards */
        must(replay_seek(r, position[i], &err), &err);
        look(r, &other);
        compare(&seen[i], &other, "reached backwards by seeking");
    }
    replay_close(r);
    for (unsigned i = 0; i < POSITIONS; i += 5) { /* each in a session of its own */
        must(replay_open(&r, trace_path, NULL, &err), &err);
        must(replay_seek(r, position[i], &err), &err);
        look(r, &other);
        compare(&seen[i], &other, "reached by a new session");
        must(replay_run(r, POSITION_UNKNOWN, &err), &err); /* and on to the end, every check on the way */
        assert_true(replay_totals(r)->at_end);
        replay_close(r);
    }
}

static void recorded_under_emu(void **state)
{
    (void)state;
    record(RECORD_ENGINE_EMU);
    check_all_ways();
}

static void recorded_under_kvm(void **state)
{
    (void)state;
    struct error err;
    if (kvm_probe_usable(&err) < 0) {
        print_message("skipped: %s\n", err.message);
        skip();
    }
    record(RECORD_ENGINE_KVM);
    check_all_ways();
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    guest_path = argv[1];
    snprintf(trace_path, sizeof(trace_path), "/tmp/test_positions.%d.dvm", (int)getpid());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recorded_under_emu),
        cmocka_unit_test(recorded_under_kvm),
    };
    int failed = cmocka_run_group_tests_name("a position has one state", tests, NULL, NULL);
    unlink(trace_path);
    return failed;
}
