/*
 * The live target, driven at random as a debugger would: steps and runs to points, forwards and backwards, jumps, from the present
 * into history and out of it again. Every state it shows must be that of a plain replay of the finished trace at the same
 * position.
 * Argument: the folder of the example guests.
 */
#include "tests/timeline/recording.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/x86/inspect.h"
#include "tools/command.h"
#include "tools/live_target.h"

/* Those of the program are in its main.c. */
const struct command *const commands[] = {NULL};

#define OPERATIONS 200u

static const char *guest_dir;
static char trace_path[64];

/* What was seen. Under KVM the position of a present is known only when history has been made. */
struct visit {
    position_t position;
    uint64_t registers;
    struct hash128 ram;
    bool with_ram;
    gva_t stack; /* the page that RSP points into, as the debugger reads it */
    uint64_t stack_hash, physical_hash;
};

struct walk {
    struct recorder *recorder;
    struct live_target *t;
    uint64_t seed;
    unsigned polls;
    struct visit visits[OPERATIONS + 8];
    size_t count;
    unsigned live, into_history, past_present, breaks, watches, catches;
};

static uint64_t pick(struct walk *w, uint64_t bound)
{
    return random_next(&w->seed) % bound;
}

static bool stop_soon(void *context)
{
    struct walk *w = context;
    return w->polls-- == 0;
}

static bool never(void *context)
{
    (void)context;
    return false;
}

/*
 * History shows RAM before the A and D bits that a CPU sets ahead of an instruction (docs/landmarks.md); a present under KVM
 * has them already. So there only history's RAM can be compared with a replay's.
 */
static void visit(struct walk *w)
{
    static struct error err;
    static const struct timeline_interrupt none;
    static uint8_t page[PAGE_SIZE_BYTES];
    struct live_target *t = w->t;
    struct visit *v = &w->visits[w->count++];
    bool present = !t->in_history;
    *v = (struct visit){.registers = vcpu_state_digest(t->target.ops->state(&t->target)),
                        .with_ram = !present || recorder_position(w->recorder) != POSITION_UNKNOWN};
    const struct guest_ram *ram = present ? recorder_ram(w->recorder) : trace_target_ram(t->history);
    v->ram = ram_digest(ram);
    v->stack = t->target.ops->state(&t->target)->gpr[GPR_RSP] & ~(gva_t)PAGE_MASK;
    size_t length = t->target.ops->read(&t->target, v->stack, page, sizeof(page));
    v->stack_hash = hash64(page, length);
    length = t->target.ops->read_physical(&t->target, v->stack, page,
                                          sizeof(page)); /* the same page: an identity map */
    v->physical_hash = hash64(page, length);
    must(live_target_complete_history(t, &none, &err), &err);
    v->position = timeline_position(t->history->timeline);
    assert_true(present == (!t->over && v->position == t->history->end));
}

static int by_position(const void *a, const void *b)
{
    const struct visit *x = a, *y = b;
    return (x->position > y->position) - (x->position < y->position);
}

static void compare_with_plain_replay(struct walk *w)
{
    static struct error err;
    static uint8_t page[PAGE_SIZE_BYTES];
    struct replay *r;
    qsort(w->visits, w->count, sizeof(w->visits[0]), by_position);
    must(replay_open(&r, trace_path, NULL, &err), &err);
    for (size_t i = 0; i < w->count; i++) {
        struct hash128 ram;
        must(replay_run(r, w->visits[i].position, &err), &err);
        assert_true(replay_position(r) == w->visits[i].position);
        ram = ram_digest(replay_ram(r));
        size_t length =
            x86_read_virtual(replay_ram(r), replay_state(r), w->visits[i].stack, page, sizeof(page));
        if (hash64(page, length) != w->visits[i].stack_hash ||
            w->visits[i].physical_hash != w->visits[i].stack_hash)
            fail_msg("position %" PRIu64 ": the debugger read another stack", w->visits[i].position);
        bool same = vcpu_state_digest(replay_state(r)) == w->visits[i].registers &&
                    (!w->visits[i].with_ram || hash128_equal(ram, w->visits[i].ram));
        if (!same)
            fail_msg("position %" PRIu64 ": the debugger saw another state than a plain replay",
                     w->visits[i].position);
    }
    replay_close(r);
}

static struct debug_stop resume(struct walk *w, enum debug_direction direction, bool step, unsigned polls)
{
    static struct error err;
    struct debug_target *target = &w->t->target;
    struct debug_stop stop;
    bool history_before = w->t->in_history;
    w->polls = polls;
    must(target->ops->resume(target, direction, step, stop_soon, w, &stop, &err), &err);
    w->live += !w->t->in_history && !history_before;
    w->into_history += w->t->in_history && !history_before;
    w->past_present += !w->t->in_history && history_before;
    w->breaks += stop.reason == DEBUG_STOP_BREAK;
    w->watches += stop.reason == DEBUG_STOP_WATCH;
    w->catches += stop.reason == DEBUG_STOP_CATCH;
    return stop;
}

static void monitor(struct walk *w, const char *command)
{
    static struct error err;
    struct debug_target *target = &w->t->target;
    struct buffer out = {0};
    bool moved;
    must(target->ops->monitor(target, command, &out, &moved, never, NULL, &err), &err);
    assert_true(out.length > 0);
    buffer_free(&out);
}

/* Runs to a point that was executed or used here, and takes it away again. */
static void run_to_point(struct walk *w)
{
    static struct error err;
    struct debug_target *target = &w->t->target;
    const struct vcpu_state *s = target->ops->state(target);
    enum debug_direction direction = pick(w, 2) ? DEBUG_FORWARDS : DEBUG_BACKWARDS;
    enum debug_point_kind kind = pick(w, 2) ? DEBUG_BREAK_SOFTWARE : DEBUG_WATCH_WRITE;
    gva_t address = kind == DEBUG_BREAK_SOFTWARE ? s->rip : s->gpr[GPR_RSP] - 8;
    must(target->ops->insert_point(target, kind, address, 8, &err), &err);
    struct debug_stop stop = resume(w, direction, false, 3);
    if (stop.reason == DEBUG_STOP_BREAK)
        assert_true(target->ops->state(target)->rip == address);
    if (stop.reason == DEBUG_STOP_WATCH)
        assert_true(stop.address - address < 8);
    must(target->ops->remove_point(target, kind, address, 8, &err), &err);
}

static void one_operation(struct walk *w)
{
    char command[64];
    switch (pick(w, 9)) {
    case 0:
    case 1:
        resume(w, DEBUG_FORWARDS, true, 100000);
        break;
    case 2:
        resume(w, DEBUG_BACKWARDS, true, 100000);
        break;
    case 3:
    case 4:
        run_to_point(w);
        break;
    case 5:
        monitor(w, "catch irq");
        resume(w, pick(w, 2) ? DEBUG_FORWARDS : DEBUG_BACKWARDS, false, 3);
        monitor(w, "catch off");
        break;
    case 6: /* without any point: under KVM the guest goes back there */
        resume(w, DEBUG_FORWARDS, false, 0);
        break;
    case 7:
        snprintf(command, sizeof(command), "goto %u%%", (unsigned)pick(w, 101));
        monitor(w, command);
        break;
    default:
        monitor(w, "goto end");
        break;
    }
}

static void walk(struct walk *w, const char *path, const char *command_line, enum record_engine engine,
                 size_t operations)
{
    static struct error err;
    struct record_options options = {.guest_path = path,
                                     .trace_path = trace_path,
                                     .command_line = command_line,
                                     .engine = engine,
                                     .ram_bytes = 8 << 20,
                                     .serial_in = -1,
                                     .overwrite = true,
                                     .debugged = true};
    must(recorder_create(&w->recorder, &options, &err), &err);
    must(live_target_open(&w->t, w->recorder, trace_path, 0, &err), &err);
    w->count = 0;
    visit(w);
    while (w->count < operations && !w->t->over) {
        one_operation(w);
        visit(w);
    }
    live_target_finish(w->t);
    must(w->t->failed, &w->t->error);
    live_target_close(w->t);
    recorder_destroy(w->recorder);
    must(replay_seal(trace_path, NULL, NULL, &err), &err);
    compare_with_plain_replay(w);
    unlink(trace_path);
}

/* As many recordings as it takes: these guests end after a while. */
static void walk_in(const char *guest, const char *command_line, enum record_engine engine)
{
    static struct walk w;
    char path[256];
    size_t done = 0;
    if (!recording_possible(engine))
        skip();
    w = (struct walk){.seed = (uint64_t)engine * 1000 + strlen(guest)};
    snprintf(path, sizeof(path), "%s/%s", guest_dir, guest);
    unsigned recordings = 0;
    for (; done < OPERATIONS; done += w.count, recordings++)
        walk(&w, path, command_line, engine, OPERATIONS - done + 1);
    print_message("%s: %zu states in %u recordings; %u live, %u into history, %u back to the present; %u "
                  "breaks, %u watches, "
                  "%u catches\n",
                  guest, done, recordings, w.live, w.into_history, w.past_present, w.breaks, w.watches,
                  w.catches);
    assert_true(w.live > 20 && w.into_history > 3 && w.past_present > 1 &&
                w.breaks + w.watches + w.catches > 5);
}

static void racy_in_the_emulator(void **state)
{
    (void)state;
    walk_in("racy", "", RECORD_ENGINE_EMU);
}

static void preempt_in_the_emulator(void **state)
{
    (void)state;
    walk_in("preempt", "", RECORD_ENGINE_EMU);
}

static void racy_under_kvm(void **state)
{
    (void)state;
    walk_in("racy", "", RECORD_ENGINE_KVM);
}

static void preempt_under_kvm(void **state)
{
    (void)state;
    walk_in("preempt", "", RECORD_ENGINE_KVM);
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fputs("usage: test_live_target EXAMPLES\n", stderr);
        return 2;
    }
    guest_dir = argv[1];
    snprintf(trace_path, sizeof(trace_path), "/tmp/dejavm-target-%d.dvm", (int)getpid());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(racy_in_the_emulator),
        cmocka_unit_test(preempt_in_the_emulator),
        cmocka_unit_test(racy_under_kvm),
        cmocka_unit_test(preempt_under_kvm),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(trace_path);
    return failed;
}
