/*
 * Random walks over recordings: steps, jumps and runs to points in both directions. Wherever they lead, registers and RAM must
 * be those of a plain replay from the start to the same position; and runs in either direction must stop where one that looks
 * at every single position says.
 */
#include "tests/timeline/recording.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "replay/timeline.h"

#define OPERATIONS 1000u
#define VISITS     4096u

static const char *guest_dir;
static char trace_path[64];

struct visit {
    position_t position;
    uint64_t number;
};

struct walk {
    struct timeline *t;
    uint64_t seed;
    struct visit visits[VISITS];
    size_t count;
};

static uint64_t pick(struct walk *w, uint64_t bound)
{
    return random_next(&w->seed) % bound;
}

static void visit(struct walk *w)
{
    assert_true(w->count < VISITS);
    w->visits[w->count++] = (struct visit){timeline_position(w->t), state_number(timeline_replay(w->t))};
}

static int by_position(const void *a, const void *b)
{
    const struct visit *x = a, *y = b;
    return (x->position > y->position) - (x->position < y->position);
}

/* A plain replay, in one go from the start, must find the same at all the positions that were visited. */
static void compare_with_plain_replay(struct walk *w)
{
    static struct error err;
    struct replay *r;
    qsort(w->visits, w->count, sizeof(w->visits[0]), by_position);
    must(replay_open(&r, trace_path, NULL, &err), &err);
    for (size_t i = 0; i < w->count; i++) {
        must(replay_run(r, w->visits[i].position, &err), &err);
        assert_true(replay_position(r) == w->visits[i].position);
        if (state_number(r) != w->visits[i].number)
            fail_msg("position %" PRIu64 ": the timeline had another state than a plain replay",
                     w->visits[i].position);
    }
    replay_close(r);
}

static bool is_interrupt(void *context, const struct event *event)
{
    (void)context;
    return event->type == EVENT_INTERRUPT;
}

static bool is_console(void *context, const struct event *event)
{
    (void)context;
    return event->type == EVENT_CONSOLE;
}

/* Points at what is executed and used around here, so that they are hit. */
static void random_points(struct walk *w, struct timeline_points *p, gva_t *breaks,
                          struct engine_watch *watches)
{
    const struct vcpu_state *s = replay_state(timeline_replay(w->t));
    *p = (struct timeline_points){.engine = {.breaks = breaks, .watches = watches}};
    switch (pick(w, 6)) {
    case 0:
        breaks[0] = s->rip;
        p->engine.break_count = 1;
        break;
    case 1:
        watches[0] = (struct engine_watch){s->gpr[GPR_RSP] - 8, 8, ENGINE_ACCESS_WRITE};
        p->engine.watch_count = 1;
        break;
    case 2:
        watches[0] = (struct engine_watch){s->gpr[GPR_RSP] + 3, 2, ENGINE_ACCESS_READ};
        p->engine.watch_count = 1;
        break;
    case 3:
        p->engine.exceptions = UINT32_MAX;
        p->engine.catches = ENGINE_CATCH_SYSCALL | ENGINE_CATCH_CR3;
        break;
    case 4:
        p->want_event = is_interrupt;
        p->event_filter = pick(w, 2);
        break;
    default:
        p->want_event = is_console;
        break;
    }
}

static void run_to_points(struct walk *w, bool forward)
{
    static struct error err;
    struct timeline_points points;
    struct engine_watch watches[1];
    gva_t breaks[1];
    struct timeline_stop stop;
    position_t start = timeline_position(w->t);
    random_points(w, &points, breaks, watches);
    if (pick(w, 2)) { /* so that it is not always the next hit after where the points were made */
        position_t end = timeline_end(w->t);
        must(timeline_goto(w->t, pick(w, end + 1), NULL, &err), &err);
        start = timeline_position(w->t);
    }
    if (forward)
        must(timeline_forward(w->t, &points, POSITION_UNKNOWN, NULL, &stop, &err), &err);
    else
        must(timeline_backward(w->t, &points, 0, NULL, &stop, &err), &err);
    assert_true(stop.position == timeline_position(w->t));
    if (stop.reason == TIMELINE_STOP_END)
        assert_true(stop.position == timeline_end(w->t));
    else if (stop.reason == TIMELINE_STOP_BEGIN)
        assert_true(stop.position == 0);
    else
        assert_true(forward ? stop.position > start : stop.position < start);
    if (stop.reason == TIMELINE_STOP_BREAK)
        assert_true(replay_state(timeline_replay(w->t))->rip == breaks[0]);
}

static void one_operation(struct walk *w)
{
    static struct error err;
    position_t now = timeline_position(w->t), end = timeline_end(w->t), to;
    switch (pick(w, 8)) {
    case 0:
    case 1:
        must(timeline_goto(w->t, now ? now - 1 : 0, NULL, &err), &err);
        break;
    case 2:
        must(timeline_goto(w->t, now < end ? now + 1 : end, NULL, &err), &err);
        break;
    case 3:
        must(timeline_goto(w->t, pick(w, end + 1), NULL, &err), &err);
        break;
    case 4: /* not far */
        to = now + pick(w, 20000);
        to = to < 10000 ? 0 : to - 10000;
        must(timeline_goto(w->t, to < end ? to : end, NULL, &err), &err);
        break;
    case 5:
        run_to_points(w, true);
        break;
    default:
        run_to_points(w, false);
        break;
    }
}

static void walk(const char *guest, const char *command_line, enum record_engine engine, uint64_t budget)
{
    static struct error err;
    static struct walk w;
    char guest_path[256];
    snprintf(guest_path, sizeof(guest_path), "%s/%s", guest_dir, guest);
    if (!recording_make(trace_path, guest_path, command_line, engine))
        skip();
    w = (struct walk){.seed = 7};
    struct timeline_options options = {.memory_budget_bytes = budget};
    must(timeline_open(&w.t, trace_path, &options, &err), &err);
    for (unsigned i = 0; i < OPERATIONS; i++) {
        one_operation(&w);
        visit(&w);
        struct timeline_statistics statistics;
        timeline_statistics(w.t, &statistics);
        assert_true(statistics.checkpoint_bytes <= (budget ? budget : (uint64_t)1 << 30));
    }
    timeline_close(w.t);
    compare_with_plain_replay(&w);
}

static void racy_under_emu(void **state)
{
    (void)state;
    walk("racy", "rate=10000", RECORD_ENGINE_EMU, 0);
}

static void preempt_under_emu(void **state)
{
    (void)state;
    walk("preempt", "preemptions=6 rate=50000", RECORD_ENGINE_EMU, 0);
}

static void paging_under_emu(void **state)
{
    (void)state;
    walk("paging", "", RECORD_ENGINE_EMU, 0);
}

static void preempt_in_little_memory(void **state)
{
    (void)state;
    walk("preempt", "preemptions=6 rate=50000", RECORD_ENGINE_EMU, 200 << 10);
}

static void preempt_in_no_memory(void **state)
{
    (void)state;
    walk("preempt", "preemptions=1 rate=100000", RECORD_ENGINE_EMU, 4 << 10);
}

static void preempt_under_kvm(void **state)
{
    (void)state;
    walk("preempt", "preemptions=4 rate=5000", RECORD_ENGINE_KVM, 0);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    guest_dir = argv[1];
    snprintf(trace_path, sizeof(trace_path), "/tmp/test_walks.%d.dvm", (int)getpid());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(racy_under_emu),       cmocka_unit_test(preempt_under_emu),
        cmocka_unit_test(paging_under_emu),     cmocka_unit_test(preempt_in_little_memory),
        cmocka_unit_test(preempt_in_no_memory), cmocka_unit_test(preempt_under_kvm),
    };
    int failed = cmocka_run_group_tests_name("random walks", tests, NULL, NULL);
    unlink(trace_path);
    return failed;
}
