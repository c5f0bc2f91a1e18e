/* Threads of a target that has them: the first two steps of the walk are thread 7's, what follows is thread 9's; 6,000 others sleep. */
#include "tests/gdbstub/client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST = 7, SECOND = 9, SLEEPER = 1000, SLEEPERS = 6000, SWITCH_AT = 2 };

struct threads {
    struct fixture *fixture;
    struct debug_target_ops ops;
};

static uint64_t now(struct debug_target *t)
{
    return ((struct walk *)(void *)t)->at < SWITCH_AT ? FIRST : SECOND;
}

static bool exists(uint64_t id)
{
    return id == FIRST || id == SECOND || (id >= SLEEPER && id < SLEEPER + SLEEPERS);
}

/* The first is on no list: a client has to hear of it all the same while it runs. */
static void list(struct debug_target *t, struct buffer *out)
{
    (void)t;
    for (uint64_t id = SECOND; id < SLEEPER + SLEEPERS; id++)
        if (exists(id))
            buffer_put(out, &id, sizeof(id));
}

static bool text(struct debug_target *t, uint64_t id, char *out, size_t size)
{
    (void)t;
    snprintf(out, size, "t%u", (unsigned)id);
    return exists(id);
}

static bool saved(struct debug_target *t, uint64_t id, struct vcpu_state *out)
{
    *out = *t->ops->state(t);
    out->gpr[GPR_RAX] = id;
    return exists(id);
}

static size_t read_in(struct debug_target *t, const struct vcpu_state *state, gva_t address, void *out,
                      size_t length)
{
    (void)t;
    (void)address;
    memset(out, (int)state->gpr[GPR_RAX] & 0xff, length);
    return length;
}

static int setup(void **state)
{
    struct threads *threads = calloc(1, sizeof(*threads));
    void *fixture;
    if (!threads || client_setup(&fixture))
        return -1;
    threads->fixture = fixture;
    struct debug_target *target = &threads->fixture->walk->target;
    threads->ops = *target->ops;
    threads->ops.thread_current = now;
    threads->ops.thread_list = list;
    threads->ops.thread_text = text;
    threads->ops.thread_state = saved;
    threads->ops.read_in = read_in;
    target->ops = &threads->ops;
    walk_goto(threads->fixture->walk, 0);
    *state = threads;
    return 0;
}

static int teardown(void **state)
{
    struct threads *threads = *state;
    void *fixture = threads->fixture;
    int result = client_teardown(&fixture);
    free(threads);
    return result;
}

static struct client *client_of(void **state)
{
    return &((struct threads *)*state)->fixture->client;
}

static bool stopped_in(const char *answer, unsigned id)
{
    char thread[32];
    snprintf(thread, sizeof(thread), "T05thread:%x;", id);
    return strncmp(answer, thread, strlen(thread)) == 0;
}

/* RAX, the first register. */
static uint64_t rax(struct client *c)
{
    uint64_t value = 0;
    const char *answer = client_ask(c, "p0");
    for (unsigned i = 0; i < 8; i++) {
        unsigned byte;
        assert_int_equal(sscanf(answer + 2 * i, "%2x", &byte), 1);
        value |= (uint64_t)byte << 8 * i;
    }
    return value;
}

static void a_stop_names_the_thread_on_the_vcpu(void **state)
{
    struct client *c = client_of(state);
    assert_true(stopped_in(client_ask(c, "?"), FIRST));
    assert_answer(c, "qC", "QC7");
    assert_answer(c, "Z0,100015,1", "OK");
    assert_true(stopped_in(client_ask(c, "vCont;c"), SECOND));
    assert_answer(c, "qC", "QC9");
    assert_true(stopped_in(client_ask(c, "bc"), FIRST));
    assert_answer(c, "qC", "QC7");
}

/* The client that steps a thread takes another one's stop for something that it has to tell the user. */
static void a_step_keeps_the_name_and_a_run_does_not(void **state)
{
    struct client *c = client_of(state);
    assert_true(stopped_in(client_ask(c, "?"), FIRST));
    assert_true(stopped_in(client_ask(c, "vCont;s:7;c"), FIRST));
    assert_true(stopped_in(client_ask(c, "vCont;s:7"), FIRST)); /* the vCPU works on the second now */
    assert_true(stopped_in(client_ask(c, "bs"), FIRST));
    assert_true(stopped_in(client_ask(c, "vCont;s:7"), FIRST));
    assert_true(stopped_in(client_ask(c, "?"), SECOND));
    assert_answer(c, "qC", "QC9");
}

static void what_runs_is_the_vcpu_whatever_thread_is_stepped(void **state)
{
    struct threads *threads = *state;
    struct client *c = client_of(state);
    client_ask(c, "?");
    assert_true(stopped_in(client_ask(c, "vCont;s:3e8;c"), FIRST));
    assert_int_equal(threads->fixture->walk->at, 1);
    /* What is asked of the vCPU's thread by name counts. */
    client_ask(c, "vCont;c:3e8;s:7");
    assert_int_equal(threads->fixture->walk->at, 2);
    assert_answer(c, "vCont;s:5", "E16");
    assert_answer(c, "vCont;s:p2.7", "E16");
    assert_int_equal(threads->fixture->walk->at, 2);
}

static void registers_and_memory_are_those_of_the_chosen_thread(void **state)
{
    struct client *c = client_of(state);
    client_ask(c, "?");
    uint64_t own = rax(c);
    assert_answer(c, "Hg3e8", "OK");
    assert_int_equal(rax(c), SLEEPER);
    assert_answer(c, "m100000,2", "e8e8");
    assert_int_equal(strncmp(client_ask(c, "g"), "e803", 4), 0);
    assert_non_null(
        strstr(client_ask(c, "P0=0000000000000000"), "only the registers of the thread that runs"));
    assert_answer(c, "Hg7", "OK");
    assert_int_equal(rax(c), own);
    assert_string_not_equal(client_ask(c, "m100000,2"), "e8e8");
    /* After a stop it is the one that stopped; a thread that there is not is none to choose. */
    assert_answer(c, "Hg3e8", "OK");
    client_ask(c, "vCont;s");
    assert_int_not_equal(rax(c), SLEEPER);
    assert_answer(c, "Hg3e8", "OK");
    assert_answer(c, "Hg5", "E16");
    assert_int_not_equal(rax(c), SLEEPER);
}

static void the_list_comes_in_parts_and_has_the_thread_on_the_vcpu(void **state)
{
    struct client *c = client_of(state);
    unsigned count = 0, parts = 0;
    bool first = false;
    client_ask(c, "?");
    for (const char *answer = client_ask(c, "qfThreadInfo"); *answer == 'm';
         answer = client_ask(c, "qsThreadInfo")) {
        parts++;
        assert_true(strlen(answer) < 16384);
        for (const char *at = answer; at; at = strchr(at + 1, ',')) {
            unsigned id;
            assert_int_equal(sscanf(at + 1, "%x", &id), 1);
            assert_true(exists(id));
            first = first || id == FIRST;
            count++;
        }
    }
    assert_int_equal(count, SLEEPERS + 2);
    assert_true(first);
    assert_true(parts > 1);
    assert_answer(c, "qThreadExtraInfo,3e8", "7431303030");
    assert_answer(c, "T3e8", "OK");
    assert_answer(c, "T5", "E16");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_stop_names_the_thread_on_the_vcpu, setup, teardown),
        cmocka_unit_test_setup_teardown(a_step_keeps_the_name_and_a_run_does_not, setup, teardown),
        cmocka_unit_test_setup_teardown(what_runs_is_the_vcpu_whatever_thread_is_stepped, setup, teardown),
        cmocka_unit_test_setup_teardown(registers_and_memory_are_those_of_the_chosen_thread, setup, teardown),
        cmocka_unit_test_setup_teardown(the_list_comes_in_parts_and_has_the_thread_on_the_vcpu, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
