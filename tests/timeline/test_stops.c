/*
 * Where a timeline stops. The expectation is made by looking at every single position of a plain replay; forward and backward
 * runs, from the ends and from anywhere, must stop at exactly these places.
 */
#include "tests/timeline/recording.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/x86/inspect.h"
#include "replay/timeline.h"

static const char *guest_dir;
static char trace_path[64];

/* What a look at every position tells. */
struct look {
    position_t end;
    uint64_t *rip;     /* by position */
    uint8_t *delivers; /* an interrupt is delivered at that position */
    uint8_t *system_call;
    uint64_t *cr3;
    uint64_t *memory; /* the eight bytes at watched */
    gva_t watched;
};

static struct look look;

struct list {
    position_t *at;
    size_t count;
};

static void add(struct list *l, position_t at)
{
    if (!l->at)
        l->at = calloc(look.end + 2, sizeof(*l->at));
    assert_non_null(l->at);
    assert_true(l->count <= look.end);
    l->at[l->count++] = at;
}

static void look_at_events(struct replay *r)
{
    static struct error err;
    struct trace_cursor *c;
    struct event event;
    must(trace_cursor_open(&c, replay_reader(r), 0, &err), &err);
    while (trace_cursor_next(c, &event, &err) == 1)
        if (event.type == EVENT_INTERRUPT)
            look.delivers[event.position] = 1;
    trace_cursor_close(c);
}

static bool is_int_in_user_mode(struct replay *r)
{
    const struct vcpu_state *s = replay_state(r);
    uint8_t opcode = 0;
    x86_read_virtual(replay_ram(r), s, s->rip, &opcode, 1);
    return vcpu_cpl(s) == 3 && opcode == 0xcd;
}

static void look_at_all(void)
{
    static struct error err;
    struct replay *r;
    must(replay_open(&r, trace_path, NULL, &err), &err);
    look.end = trace_reader_info(replay_reader(r))->seal.end_position;
    size_t n = look.end + 1;
    look.rip = calloc(n, sizeof(*look.rip));
    look.delivers = calloc(n, 1);
    look.system_call = calloc(n, 1);
    look.cr3 = calloc(n, sizeof(*look.cr3));
    look.memory = calloc(n, sizeof(*look.memory));
    look_at_events(r);
    position_t delivery = look.end / 2;
    while (!look.delivers[delivery])
        delivery++;
    must(replay_seek(r, delivery + 1, &err), &err);
    look.watched = replay_state(r)->gpr[GPR_RSP]; /* RIP in the interrupt's frame: written by the delivery */
    must(replay_seek(r, 0, &err), &err);
    for (position_t p = 0; p <= look.end; p++) {
        must(replay_run(r, p, &err), &err);
        look.rip[p] = replay_state(r)->rip;
        look.cr3[p] = replay_state(r)->cr3;
        look.system_call[p] = !look.delivers[p] && is_int_in_user_mode(r);
        look.memory[p] = x86_witness_value(replay_ram(r), replay_state(r), look.watched);
    }
    replay_close(r);
}

static void forget_look(void)
{
    free(look.rip);
    free(look.delivers);
    free(look.system_call);
    free(look.cr3);
    free(look.memory);
    look = (struct look){0};
}

static unsigned count_system_calls(void)
{
    unsigned calls = 0;
    for (position_t p = 0; look.system_call && p < look.end; p++)
        calls += look.system_call[p];
    return calls;
}

static void record(void **state)
{
    (void)state;
    char path[256];
    snprintf(path, sizeof(path), "%s/preempt", guest_dir);
    assert_true(recording_make(trace_path, path, "preemptions=8 rate=100000", RECORD_ENGINE_EMU));
    look_at_all();
    assert_true(count_system_calls() > 3);
}

static struct timeline *open_timeline(void)
{
    static struct error err;
    struct timeline *t;
    must(timeline_open(&t, trace_path, NULL, &err), &err);
    return t;
}

static bool stops_before(enum timeline_stop_reason reason)
{
    return reason == TIMELINE_STOP_BREAK || reason == TIMELINE_STOP_EVENT;
}

/* All stops after the start, running forwards; a watch's or catch's by the position of its transition. */
static struct list all_forwards(struct timeline *t, const struct timeline_points *points)
{
    static struct error err;
    struct timeline_stop stop;
    struct list l = {0};
    must(timeline_goto(t, 0, NULL, &err), &err);
    for (;;) {
        must(timeline_forward(t, points, POSITION_UNKNOWN, NULL, &stop, &err), &err);
        if (stop.reason == TIMELINE_STOP_END)
            return l;
        assert_true(stop.position == timeline_position(t));
        add(&l, stops_before(stop.reason) ? stop.position : stop.position - 1);
    }
}

static struct list all_backwards(struct timeline *t, const struct timeline_points *points)
{
    static struct error err;
    struct timeline_stop stop;
    struct list l = {0};
    must(timeline_goto(t, timeline_end(t), NULL, &err), &err);
    for (;;) {
        must(timeline_backward(t, points, 0, NULL, &stop, &err), &err);
        assert_true(stop.position == timeline_position(t));
        if (stop.reason == TIMELINE_STOP_BEGIN)
            return l;
        add(&l, stop.position);
    }
}

static void compare(const struct list *got, const struct list *expected, bool reversed, const char *how)
{
    for (size_t i = 0; i < expected->count && i < got->count; i++) {
        position_t e = expected->at[reversed ? expected->count - 1 - i : i];
        if (got->at[i] != e)
            fail_msg("%s: stop %zu is at %" PRIu64 " and not at %" PRIu64, how, i, got->at[i], e);
    }
    if (got->count != expected->count)
        fail_msg("%s: %zu stops instead of %zu", how, got->count, expected->count);
}

/* From anywhere: the nearest in either direction. */
static void from_anywhere(struct timeline *t, const struct timeline_points *points,
                          const struct list *expected, bool before)
{
    static struct error err;
    struct timeline_stop stop;
    uint64_t seed = 3;
    for (unsigned i = 0; i < 60; i++) {
        position_t from = random_next(&seed) % (look.end + 1), last = POSITION_UNKNOWN,
                   next = POSITION_UNKNOWN;
        if (i % 3 == 0 && expected->count) /* right at one, and right behind */
            from = expected->at[random_next(&seed) % expected->count] + i % 2;
        for (size_t j = 0; j < expected->count; j++) {
            if (expected->at[j] < from)
                last = expected->at[j];
            if (expected->at[j] + !before > from && next == POSITION_UNKNOWN)
                next = expected->at[j] + !before;
        }
        must(timeline_goto(t, from, NULL, &err), &err);
        must(timeline_backward(t, points, 0, NULL, &stop, &err), &err);
        assert_true(last == POSITION_UNKNOWN ? stop.reason == TIMELINE_STOP_BEGIN : stop.position == last);
        must(timeline_goto(t, from, NULL, &err), &err);
        must(timeline_forward(t, points, POSITION_UNKNOWN, NULL, &stop, &err), &err);
        assert_true(next == POSITION_UNKNOWN ? stop.reason == TIMELINE_STOP_END : stop.position == next);
    }
}

/* before: the stop is before its transition forwards too, so one at position 0 is not come by. */
static void check(const struct timeline_points *points, const struct list *expected, bool before)
{
    struct timeline *t = open_timeline();
    struct list after_start = *expected;
    if (before && after_start.count && after_start.at[0] == 0) {
        after_start.at++;
        after_start.count--;
    }
    struct list forwards = all_forwards(t, points), backwards = all_backwards(t, points);
    struct list again = all_backwards(t, points);
    compare(&forwards, &after_start, false, "forwards");
    compare(&backwards, expected, true, "backwards");
    compare(&again, &backwards, false, "backwards again");
    from_anywhere(t, points, expected, before);
    free(forwards.at);
    free(backwards.at);
    free(again.at);
    free(expected->at);
    timeline_close(t);
}

static int by_address(const void *a, const void *b)
{
    gva_t x = *(const gva_t *)a, y = *(const gva_t *)b;
    return (x > y) - (x < y);
}

static size_t make_breaks(gva_t *breaks, size_t count)
{
    size_t kept = 0;
    qsort(breaks, count, sizeof(*breaks), by_address);
    for (size_t i = 0; i < count; i++)
        if (!kept || breaks[kept - 1] != breaks[i])
            breaks[kept++] = breaks[i];
    return kept;
}

#define MOST_HITS 4000u

static size_t times_at(gva_t rip)
{
    size_t times = 0;
    for (position_t p = 0; p < look.end; p++)
        times += look.rip[p] == rip;
    return times;
}

static void at_breaks(void **state)
{
    (void)state;
    struct timeline_points points = {0};
    struct list expected = {0};
    gva_t breaks[64];
    uint64_t seed = 5;
    size_t count = 0, hits = 0;
    breaks[count++] = look.rip[0];
    breaks[count++] = look.rip[look.end - 1];
    for (position_t p = 0; p < look.end; p++) /* where interrupts come: they must not count twice */
        if (look.delivers[p] && count < 16 && hits + times_at(look.rip[p]) < MOST_HITS) {
            hits += times_at(look.rip[p]);
            breaks[count++] = look.rip[p];
        }
    assert_true(count > 2);
    while (count < 24) { /* rarely executed ones */
        gva_t rip = look.rip[random_next(&seed) % look.end];
        if (times_at(rip) < 50)
            breaks[count++] = rip;
    }
    count = make_breaks(breaks, count);
    points.engine.breaks = breaks;
    points.engine.break_count = count;
    for (position_t p = 0; p < look.end; p++)
        if (!look.delivers[p] && bsearch(&look.rip[p], breaks, count, sizeof(gva_t), by_address))
            add(&expected, p);
    assert_true(expected.count > 100);
    print_message("%zu breaks, hit %zu times\n", count, expected.count);
    check(&points, &expected, true);
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

static void at_interrupts(void **state)
{
    (void)state;
    struct timeline_points points = {.want_event = is_interrupt, .event_filter = 1};
    struct list expected = {0};
    for (position_t p = 0; p < look.end; p++)
        if (look.delivers[p])
            add(&expected, p);
    assert_true(expected.count == 8);
    check(&points, &expected, true);
}

static void at_output(void **state)
{
    (void)state;
    struct timeline_points points = {.want_event = is_console};
    static struct error err;
    struct replay *r;
    struct trace_cursor *c;
    struct event event;
    struct list expected = {0};
    must(replay_open(&r, trace_path, NULL, &err), &err);
    must(trace_cursor_open(&c, replay_reader(r), 0, &err), &err);
    while (trace_cursor_next(c, &event, &err) == 1)
        if (event.type == EVENT_CONSOLE)
            add(&expected, event.position);
    trace_cursor_close(c);
    replay_close(r);
    assert_true(expected.count > 50);
    check(&points, &expected, true);
}

static void at_system_calls(void **state)
{
    (void)state;
    struct timeline_points points = {.engine.catches = ENGINE_CATCH_SYSCALL};
    struct list expected = {0};
    for (position_t p = 0; p < look.end; p++)
        if (look.system_call[p])
            add(&expected, p);
    assert_true(expected.count > 3);
    check(&points, &expected, false);
}

/* Accesses that change nothing cannot be seen from outside: so all changes must be among the hits, and both ways agree. */
static void at_watched_memory(void **state)
{
    (void)state;
    static struct error err;
    struct engine_watch watch = {look.watched, 8, ENGINE_ACCESS_WRITE};
    struct timeline_points points = {.engine = {.watches = &watch, .watch_count = 1}};
    struct timeline *t = open_timeline();
    struct list forwards = all_forwards(t, &points), backwards = all_backwards(t, &points);
    size_t changes = 0, i = 0;
    compare(&backwards, &forwards, true, "backwards");
    for (position_t p = 0; p < look.end; p++) {
        if (look.memory[p] == look.memory[p + 1] || look.cr3[p] != look.cr3[p + 1])
            continue;
        changes++;
        while (i < forwards.count && forwards.at[i] < p)
            i++;
        if (i == forwards.count || forwards.at[i] != p)
            fail_msg("position %" PRIu64 " (RIP %" PRIx64
                     ", delivery: %u) changes the watched memory from %" PRIx64 " to %" PRIx64
                     " and is not a hit",
                     p, look.rip[p], look.delivers[p], look.memory[p], look.memory[p + 1]);
    }
    assert_true(changes > 3);
    assert_true(forwards.count >= changes);
    print_message("%zu hits, %zu changes\n", forwards.count, changes);
    from_anywhere(t, &points, &forwards, false);
    for (i = 0; i < forwards.count; i++) { /* in a run of one step */
        struct timeline_stop stop;
        must(timeline_goto(t, forwards.at[i], NULL, &err), &err);
        must(timeline_forward(t, &points, forwards.at[i] + 1, NULL, &stop, &err), &err);
        assert_int_equal(stop.reason, TIMELINE_STOP_WATCH);
        must(timeline_backward(t, &points, forwards.at[i], NULL, &stop, &err), &err);
        assert_int_equal(stop.reason, TIMELINE_STOP_WATCH);
        assert_true(stop.position == forwards.at[i]);
    }
    free(forwards.at);
    free(backwards.at);
    timeline_close(t);
}

static bool at_once(void *context)
{
    (*(unsigned *)context)++;
    return true;
}

static void interrupted(void **state)
{
    (void)state;
    static struct error err;
    unsigned asked = 0;
    struct timeline_interrupt interrupt = {at_once, &asked};
    struct timeline_points nothing = {.engine.exceptions = 1u << 31};
    struct timeline_stop stop;
    struct timeline *t = open_timeline();
    position_t middle = look.end / 2;
    must(timeline_goto(t, middle, NULL, &err), &err);
    uint64_t number = state_number(timeline_replay(t));
    assert_int_equal(timeline_goto(t, look.end, &interrupt, &err), -4 /* EINTR */);
    assert_true(asked > 0);
    assert_true(timeline_position(t) == middle);
    assert_true(state_number(timeline_replay(t)) == number);
    must(timeline_forward(t, &nothing, POSITION_UNKNOWN, &interrupt, &stop, &err), &err);
    assert_int_equal(stop.reason, TIMELINE_STOP_INTERRUPTED);
    assert_true(stop.position > middle && stop.position < look.end);
    must(timeline_goto(t, look.end, NULL, &err), &err);
    must(timeline_backward(t, &nothing, 0, &interrupt, &stop, &err), &err);
    assert_int_equal(stop.reason, TIMELINE_STOP_INTERRUPTED);
    assert_true(stop.position <= look.end && stop.position > 0);
    timeline_close(t);
}

struct printed {
    char text[8192];
    size_t length;
};

static void print(void *context, unsigned channel, const uint8_t *data, size_t length)
{
    struct printed *p = context;
    (void)channel;
    assert_true(p->length + length < sizeof(p->text));
    memcpy(p->text + p->length, data, length);
    p->length += length;
}

/* Run forwards from stop to stop, with searches backwards in between, the user is given everything once. */
static void console_is_given_once(void **state)
{
    (void)state;
    static struct error err;
    static struct printed plain, given;
    struct replay *r;
    struct replay_hooks hooks = {.console = print, .context = &plain};
    plain.length = given.length = 0;
    must(replay_open(&r, trace_path, &hooks, &err), &err);
    must(replay_run(r, POSITION_UNKNOWN, &err), &err);
    replay_close(r);
    struct timeline *t;
    struct timeline_options options = {.console = print, .context = &given};
    struct timeline_points points = {.want_event = is_console, .event_filter = 1};
    struct timeline_stop stop;
    must(timeline_open(&t, trace_path, &options, &err), &err);
    do {
        must(timeline_forward(t, &points, POSITION_UNKNOWN, NULL, &stop, &err), &err);
        position_t here = stop.position;
        must(timeline_backward(t, &points, 0, NULL, &stop, &err), &err);
        must(timeline_goto(t, here, NULL, &err), &err);
    } while (timeline_position(t) < look.end);
    timeline_close(t);
    assert_true(plain.length > 100);
    assert_int_equal(given.length, plain.length);
    assert_memory_equal(given.text, plain.text, plain.length);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    guest_dir = argv[1];
    snprintf(trace_path, sizeof(trace_path), "/tmp/test_stops.%d.dvm", (int)getpid());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(record),          cmocka_unit_test(at_breaks),
        cmocka_unit_test(at_interrupts),   cmocka_unit_test(at_output),
        cmocka_unit_test(at_system_calls), cmocka_unit_test(at_watched_memory),
        cmocka_unit_test(interrupted),     cmocka_unit_test(console_is_given_once),
    };
    int failed = cmocka_run_group_tests_name("stops of a timeline", tests, NULL, NULL);
    unlink(trace_path);
    forget_look();
    return failed;
}
