/*
 * A trace of KVM has no positions: nothing in it says when the guest's next access to a port is due. A guest that went
 * another way and never makes it is a divergence, and not a replay without an end.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "replay/replay.h"
#include "tests/replay/crafted.h"

static char path[64];

static struct replay *replay_of(const uint8_t *code, size_t length)
{
    struct error err = {0};
    struct replay *r = NULL;
    struct vcpu_state state = crafted_real_mode();
    struct event write = {.type = EVENT_PIO_WRITE, .position = POSITION_UNKNOWN, .address = 0x80, .size = 1};
    crafted_trace(path, false, &state, code, length, &write, 1);
    if (replay_open(&r, path, NULL, &err) < 0)
        fail_msg("%s", err.message);
    return r;
}

static void guest_that_makes_the_crossing_replays(void **state)
{
    (void)state;
    struct error err = {0};
    const uint8_t writes[] = {0xe6, 0x80, 0xeb, 0xfe}; /* out 0x80, al; jmp . */
    struct replay *r = replay_of(writes, sizeof(writes));
    if (replay_run(r, POSITION_UNKNOWN, &err) < 0)
        fail_msg("%s", err.message);
    assert_true(replay_totals(r)->at_end);
    assert_int_equal(replay_position(r), 1);
    replay_close(r);
}

static void guest_that_never_makes_it_diverges(void **state)
{
    (void)state;
    struct error err = {0};
    const uint8_t endless[] = {0xeb, 0xfe}; /* jmp . */
    struct replay *r = replay_of(endless, sizeof(endless));
    assert_true(replay_run(r, POSITION_UNKNOWN, &err) < 0);
    assert_int_equal(err.kind, ERROR_DIVERGENCE);
    assert_non_null(strstr(err.message, "pio-write 0x80"));
    print_message("%s\n", err.message);
    replay_close(r);
}

int main(void)
{
    snprintf(path, sizeof(path), "/tmp/test_silent_guest.%d.dvm", (int)getpid());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(guest_that_makes_the_crossing_replays),
        cmocka_unit_test(guest_that_never_makes_it_diverges),
    };
    int failed = cmocka_run_group_tests_name("a guest that makes no crossing", tests, NULL, NULL);
    unlink(path);
    return failed;
}
