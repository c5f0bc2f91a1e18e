/*
 * A guest is recorded in pieces, as a debugger does it: so many steps, up to a point, a while under KVM, and again. Whatever the
 * pieces, each stops where it should, and the trace seals: its replay is exact.
 * Argument: the folder of the example guests.
 */
#include "tests/timeline/recording.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PIECES 200u

static const char *guest_dir;
static char trace_path[64];

struct pieces {
    struct recorder *recorder;
    uint64_t seed;
    unsigned polls; /* how often it may be asked before it is interrupted */
    bool ended;
    unsigned breaks, watches, events, steps, in_kvm;
};

static uint64_t pick(struct pieces *p, uint64_t bound)
{
    return random_next(&p->seed) % bound;
}

static bool stop_soon(void *context)
{
    struct pieces *p = context;
    return p->polls-- == 0;
}

static bool is_interrupt(void *context, const struct event *event)
{
    (void)context;
    return event->type == EVENT_INTERRUPT;
}

static struct recorder_stop resume(struct pieces *p, struct recorder_request *request)
{
    static struct error err;
    struct recorder_stop stop;
    request->context = p;
    must(recorder_resume(p->recorder, request, &stop, &err), &err);
    p->ended = stop.reason == RECORDER_STOP_END;
    return stop;
}

/* In the emulator the number of steps is known: that of the positions, where there are any. */
static void some_steps(struct pieces *p, uint64_t steps)
{
    struct recorder_request request = {.steps = steps};
    position_t before = recorder_position(p->recorder);
    struct recorder_stop stop = resume(p, &request);
    if (p->ended)
        return;
    assert_int_equal(stop.reason, RECORDER_STOP_STEPS);
    if (before != POSITION_UNKNOWN)
        assert_int_equal(recorder_position(p->recorder) - before, steps);
    p->steps++;
}

static void until_a_point(struct pieces *p)
{
    const struct vcpu_state *s = recorder_state(p->recorder);
    gva_t here = s->rip;
    struct engine_watch watch = {s->gpr[GPR_RSP] - 8, 8, ENGINE_ACCESS_WRITE};
    struct engine_points points = {0};
    struct recorder_request request = {.points = &points, .interrupted = stop_soon};
    p->polls = 5;
    switch (pick(p, 3)) {
    case 0:
        points = (struct engine_points){.breaks = &here, .break_count = 1};
        break;
    case 1:
        points = (struct engine_points){.watches = &watch, .watch_count = 1};
        break;
    default:
        request.want_event = is_interrupt;
        break;
    }
    struct recorder_stop stop = resume(p, &request);
    switch (stop.reason) {
    case RECORDER_STOP_BREAK:
        assert_true(recorder_state(p->recorder)->rip == here);
        if (pick(p, 2)) { /* on from there: the instruction, whatever waits */
            struct recorder_request step = {.steps = 1, .instruction_first = true};
            resume(p, &step);
        }
        p->breaks++;
        break;
    case RECORDER_STOP_WATCH:
        assert_true(stop.hit.address - watch.address < 8 && stop.hit.access & ENGINE_ACCESS_WRITE);
        p->watches++;
        break;
    case RECORDER_STOP_EVENT:
        assert_int_equal(stop.event.type, EVENT_INTERRUPT);
        p->events++;
        break;
    default:
        assert_true(stop.reason == RECORDER_STOP_INTERRUPTED || p->ended);
    }
}

static void freely(struct pieces *p)
{
    struct recorder_request request = {.interrupted = stop_soon};
    p->polls = 0;
    resume(p, &request);
    if (!p->ended)
        assert_false(recorder_in_emulator(p->recorder));
    p->in_kvm++;
}

static void record_in_pieces(const char *guest, const char *command_line, enum record_engine engine)
{
    static struct error err;
    static struct record_result result;
    static struct replay_totals totals;
    struct pieces p = {.seed = engine};
    char path[256];
    if (engine == RECORD_ENGINE_KVM && !recording_possible(engine))
        skip();
    snprintf(path, sizeof(path), "%s/%s", guest_dir, guest);
    struct record_options options = {.guest_path = path,
                                     .trace_path = trace_path,
                                     .command_line = command_line,
                                     .engine = engine,
                                     .ram_bytes = 16 << 20,
                                     .serial_in = -1,
                                     .overwrite = true,
                                     .debugged = true};
    must(recorder_create(&p.recorder, &options, &err), &err);
    for (unsigned i = 0; i < PIECES && !p.ended; i++) {
        switch (pick(&p, 4)) {
        case 0:
            some_steps(&p, 1 + pick(&p, 4));
            break;
        case 1:
            some_steps(&p, 1 + pick(&p, 3000));
            break;
        case 2:
            until_a_point(&p);
            break;
        default:
            freely(&p);
            break;
        }
        if (pick(&p, 8) == 0 && !p.ended)
            must(recorder_sync(p.recorder, &err), &err);
    }
    must(recorder_finish(p.recorder, &result, &err), &err);
    recorder_destroy(p.recorder);
    must(replay_seal(trace_path, NULL, &totals, &err), &err);
    assert_true(totals.at_end);
    print_message("%s: %u breaks, %u watches, %u events, %u times steps, %u freely; %" PRIu64
                  " steps, %" PRIu64 " digests\n",
                  guest, p.breaks, p.watches, p.events, p.steps, p.in_kvm, totals.position,
                  totals.digests_checked);
    unlink(trace_path);
}

static void racy_in_the_emulator(void **state)
{
    (void)state;
    record_in_pieces("racy", "", RECORD_ENGINE_EMU);
}

static void preempt_in_the_emulator(void **state)
{
    (void)state;
    record_in_pieces("preempt", "", RECORD_ENGINE_EMU);
}

static void racy_under_kvm(void **state)
{
    (void)state;
    record_in_pieces("racy", "", RECORD_ENGINE_KVM);
}

static void preempt_under_kvm(void **state)
{
    (void)state;
    record_in_pieces("preempt", "", RECORD_ENGINE_KVM);
}

/* The landmark of a place that comes long after the last event says how long: the search for it is bounded by that. */
static void a_long_stretch_without_events_under_kvm(void **state)
{
    (void)state;
    static struct error err;
    static struct record_result result;
    static struct replay_totals totals;
    struct pieces p = {0};
    char path[256];
    if (!recording_possible(RECORD_ENGINE_KVM))
        skip();
    snprintf(path, sizeof(path), "%s/preempt", guest_dir);
    struct record_options options = {.guest_path = path,
                                     .trace_path = trace_path,
                                     .command_line = "tasks=sse rate=19",
                                     .engine = RECORD_ENGINE_KVM,
                                     .ram_bytes = 16 << 20,
                                     .serial_in = -1,
                                     .overwrite = true,
                                     .debugged = true};
    must(recorder_create(&p.recorder, &options, &err), &err);
    for (unsigned in_task = 0; in_task < 2 && !p.ended;) {
        struct recorder_request request = {.interrupted = stop_soon};
        p.polls = 2;
        resume(&p, &request);
        must(recorder_sync(p.recorder, &err), &err);
        in_task += vcpu_cpl(recorder_state(p.recorder)) == 3;
    }
    must(recorder_finish(p.recorder, &result, &err), &err);
    recorder_destroy(p.recorder);
    must(replay_seal(trace_path, NULL, &totals, &err), &err);
    print_message("%" PRIu64 " steps\n", totals.position);
    unlink(trace_path);
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fputs("usage: test_live_recorder EXAMPLES\n", stderr);
        return 2;
    }
    guest_dir = argv[1];
    snprintf(trace_path, sizeof(trace_path), "/tmp/dejavm-live-%d.dvm", (int)getpid());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(racy_in_the_emulator),
        cmocka_unit_test(preempt_in_the_emulator),
        cmocka_unit_test(racy_under_kvm),
        cmocka_unit_test(preempt_under_kvm),
        cmocka_unit_test(a_long_stretch_without_events_under_kvm),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(trace_path);
    return failed;
}
