/* Interrupts whose delivery crosses the boundary: here, with a stack where there is no RAM. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <unistd.h>

#include "replay/replay.h"
#include "tests/replay/crafted.h"

#define VECTOR        0x20
#define STACK_SEGMENT 0xffff /* FFFF:1000 is 1 MiB + 0xff0: the machine has 1 MiB */

static char path[64];

/* Interrupts the guest's first instruction; more are the events after that. */
static int run(const struct event *more, size_t count, struct replay_totals *totals, struct error *err)
{
    const uint8_t code[] = {0xeb, 0xfe}; /* jmp . */
    struct event events[8] = {{.type = EVENT_INTERRUPT, .place = PLACE_POSITION, .vector = VECTOR}};
    struct vcpu_state state = crafted_real_mode();
    struct replay *r = NULL;
    state.rflags |= RFLAGS_IF;
    state.seg[SEG_SS].selector = STACK_SEGMENT;
    state.seg[SEG_SS].base = STACK_SEGMENT << 4;
    state.gpr[GPR_RSP] = 0x1000;
    state.idtr.limit = 0x3ff;
    for (size_t i = 0; i < count; i++)
        events[1 + i] = more[i];
    crafted_trace(path, true, &state, code, sizeof(code), events, 1 + count);
    if (replay_open(&r, path, NULL, err) < 0)
        fail_msg("%s", err->message);
    int status = replay_run(r, POSITION_UNKNOWN, err);
    *totals = *replay_totals(r);
    replay_close(r);
    return status;
}

static void trace_that_was_cut_there_ends_there(void **state)
{
    (void)state;
    struct error err = {0};
    struct replay_totals totals;
    int status = run(NULL, 0, &totals, &err);
    if (status < 0)
        fail_msg("%s", err.message);
    assert_true(totals.at_end);
}

static void other_value_on_the_stack_is_a_divergence(void **state)
{
    (void)state;
    struct error err = {0};
    struct replay_totals totals;
    struct event other = {.type = EVENT_MMIO_WRITE, .address = 0x123456, .size = 2, .value = 1};
    assert_true(run(&other, 1, &totals, &err) < 0);
    assert_int_equal(err.kind, ERROR_DIVERGENCE);
}

int main(void)
{
    snprintf(path, sizeof(path), "/tmp/test_delivery.%d.dvm", (int)getpid());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trace_that_was_cut_there_ends_there),
        cmocka_unit_test(other_value_on_the_stack_is_a_divergence),
    };
    int failed = cmocka_run_group_tests_name("delivery that crosses the boundary", tests, NULL, NULL);
    unlink(path);
    return failed;
}
