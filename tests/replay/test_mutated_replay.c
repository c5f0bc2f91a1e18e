/*
 * Replaying mutated traces: never a crash, a hang or a leak; always success or an error with a message. Run it in the
 * sanitizer build to see the most. The emulator meets states and memory contents here that no guest would make.
 *
 *   test_mutated_replay EXAMPLES-FOLDER [CASES [FIRST-SEED]]
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/file.h"
#include "core/kvm/kvm_probe.h"
#include "record/record.h"
#include "replay/replay.h"
#include "tests/trace/mutate.h"

#define PARTS            6   /* traces that share the cases */
#define CASE_SECONDS_MAX 60u /* a case that takes longer hangs: SIGALRM ends the test */

static const char *examples;
static uint64_t case_count = 400, first_seed = 1;
static char path[64];

static void must(int status, const struct error *err)
{
    if (status < 0)
        fail_msg("%s", err->message);
}

static void record(const char *guest, const char *command_line, enum record_engine engine)
{
    struct error err = {0};
    struct recorder *recorder;
    static struct record_result result;
    char guest_path[512];
    snprintf(guest_path, sizeof(guest_path), "%s/%s", examples, guest);
    struct record_options options = {.guest_path = guest_path,
                                     .trace_path = path,
                                     .command_line = command_line,
                                     .engine = engine,
                                     .ram_bytes = 16 << 20,
                                     .timeout_ns = 60000000000,
                                     .serial_in = -1,
                                     .overwrite = true};
    must(recorder_create(&recorder, &options, &err), &err);
    must(recorder_run(recorder, &result, &err), &err);
    recorder_destroy(recorder);
}

static void write_file(const uint8_t *data, size_t length)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, length), (ssize_t)length);
    close(fd);
}

/* A mutated trace may ask for more steps than anyone waits for. */
static bool stop_soon(void *context, position_t position, uint64_t events)
{
    (void)events;
    unsigned *calls = context;
    return ++*calls > 500 || position > 3000000;
}

struct tally {
    uint64_t good, stopped, diverged, damaged, failed;
};

static void count(struct tally *t, int status, const struct error *err, uint64_t seed)
{
    if (status >= 0) {
        t->good++;
        return;
    }
    if (!err->message[0])
        fail_msg("seed %" PRIu64 ": error %d without a message", seed, status);
    if (status == -EINTR)
        t->stopped++;
    else if (err->kind == ERROR_DIVERGENCE)
        t->diverged++;
    else if (err->kind == ERROR_DAMAGED)
        t->damaged++;
    else
        t->failed++;
}

static void replay_one(uint64_t seed, struct tally *t)
{
    struct error err = {0};
    unsigned calls = 0;
    struct replay_hooks hooks = {.progress = stop_soon, .context = &calls};
    struct replay *r;
    alarm(CASE_SECONDS_MAX);
    int status = replay_open(&r, path, &hooks, &err);
    if (status == 0) {
        status = seed % 2 ? replay_seek(r, seed * 7919 % 3000, &err) : replay_run(r, POSITION_UNKNOWN, &err);
        replay_close(r);
    }
    count(t, status, &err, seed);
    if (seed % 5 == 0) {
        calls = 0;
        err = (struct error){0};
        count(t, replay_seal(path, &hooks, NULL, &err), &err, seed);
    }
    alarm(0);
}

static void mutate_and_replay(const char *guest, const char *command_line, enum record_engine engine,
                              bool sealed)
{
    struct error err = {0};
    struct buffer trace = {0};
    struct tally tally = {0};
    record(guest, command_line, engine);
    if (sealed)
        must(replay_seal(path, NULL, NULL, &err), &err);
    must(file_read(path, 1 << 26, &trace, &err), &err);
    for (uint64_t i = 0; i < case_count / PARTS; i++) {
        size_t length;
        uint8_t *mutated = trace_mutate(trace.data, trace.length, first_seed + i, &length);
        assert_non_null(mutated);
        write_file(mutated, length);
        free(mutated);
        replay_one(first_seed + i, &tally);
    }
    print_message("%s, %s: %" PRIu64 " mutated traces: replayed %" PRIu64 ", stopped %" PRIu64
                  ", diverged %" PRIu64 ", damaged %" PRIu64 ", other errors %" PRIu64 "\n",
                  guest, sealed ? "sealed" : "unsealed", case_count / PARTS, tally.good, tally.stopped,
                  tally.diverged, tally.damaged, tally.failed);
    assert_true(tally.damaged + tally.diverged >
                case_count / PARTS / 10); /* else the mutations do not reach anything */
    buffer_free(&trace);
}

static void short_guest(void **state)
{
    (void)state;
    mutate_and_replay("hello", "", RECORD_ENGINE_EMU, false);
    mutate_and_replay("hello", "", RECORD_ENGINE_EMU, true);
}

static void guest_with_interrupts(void **state)
{
    (void)state;
    mutate_and_replay("preempt", "preemptions=4", RECORD_ENGINE_EMU, false);
    mutate_and_replay("preempt", "preemptions=4", RECORD_ENGINE_EMU, true);
}

/* Traces with landmarks. */
static void recorded_under_kvm(void **state)
{
    (void)state;
    struct error err;
    if (kvm_probe_usable(&err) < 0) {
        print_message("skipped: %s\n", err.message);
        skip();
    }
    mutate_and_replay("preempt", "preemptions=4", RECORD_ENGINE_KVM, false);
    mutate_and_replay("preempt", "preemptions=4", RECORD_ENGINE_KVM, true);
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    examples = argv[1];
    if (argc > 2)
        case_count = strtoull(argv[2], NULL, 0);
    if (argc > 3)
        first_seed = strtoull(argv[3], NULL, 0);
    snprintf(path, sizeof(path), "/dev/shm/test_mutated_replay.%d.dvm", (int)getpid());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(short_guest),
        cmocka_unit_test(guest_with_interrupts),
        cmocka_unit_test(recorded_under_kvm),
    };
    int failed = cmocka_run_group_tests_name("replay of mutated traces", tests, NULL, NULL);
    unlink(path);
    return failed;
}
