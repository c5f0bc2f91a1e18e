/* The recorder's helper thread: descriptors of devices, the deadline, sleeping. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "record/record_host.h"

#define LONG_NS ((uint64_t)60 * 1000000000u)

struct rig {
    struct record_host *host;
    atomic_uint kicks;
    int pipe[2][2];
};

static void kick(void *context)
{
    atomic_fetch_add(&((struct rig *)context)->kicks, 1);
}

static int setup(void **state)
{
    struct rig *r = calloc(1, sizeof(*r));
    struct error err;
    assert_non_null(r);
    *state = r;
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(pipe(r->pipe[i]), 0);
    assert_int_equal(record_host_create(&r->host, -1, kick, r, &err), 0);
    record_host_continue(r->host);
    return 0;
}

static int teardown(void **state)
{
    struct rig *r = *state;
    record_host_destroy(r->host);
    for (unsigned i = 0; i < 2; i++) {
        close(r->pipe[i][0]);
        close(r->pipe[i][1]);
    }
    free(r);
    return 0;
}

static void watch(struct rig *r, unsigned pipe)
{
    record_host_watch(r->host, &(struct pollfd){.fd = r->pipe[pipe][0], .events = POLLIN}, 1);
}

static void make_ready(struct rig *r, unsigned pipe)
{
    assert_int_equal(write(r->pipe[pipe][1], "x", 1), 1);
}

/* Sleeps until the watch has fired; a sleep may end before. */
static void wait_for_fire(struct rig *r)
{
    uint64_t end = record_host_now_ns(r->host) + LONG_NS;
    while (!record_host_watch_fired(r->host)) {
        assert_true(record_host_now_ns(r->host) < end);
        record_host_sleep(r->host, end);
    }
}

static void a_ready_descriptor_kicks_once_for_each_call(void **state)
{
    struct rig *r = *state;
    watch(r, 0);
    assert_false(record_host_watch_fired(r->host));
    make_ready(r, 0);
    wait_for_fire(r);
    assert_int_equal(r->kicks, 1);
    /* It is ready still, and nobody asked again: the only thing that comes is the deadline. */
    record_host_arm(r->host, record_host_now_ns(r->host) + 50000000);
    while (r->kicks == 1)
        record_host_sleep(r->host, record_host_now_ns(r->host) + LONG_NS);
    assert_false(record_host_watch_fired(r->host));
    assert_int_equal(r->kicks, 2);
    watch(r, 0);
    wait_for_fire(r);
    assert_int_equal(r->kicks, 3);
}

static void a_call_replaces_what_was_watched(void **state)
{
    struct rig *r = *state;
    watch(r, 0);
    watch(r, 1);
    make_ready(r, 0);
    record_host_arm(r->host, record_host_now_ns(r->host) + 50000000);
    while (r->kicks == 0)
        record_host_sleep(r->host, record_host_now_ns(r->host) + LONG_NS);
    assert_false(record_host_watch_fired(r->host));
    make_ready(r, 1);
    wait_for_fire(r);
    record_host_watch(r->host, NULL, 0);
    assert_false(record_host_watch_fired(r->host));
}

static void all_of_many_are_watched(void **state)
{
    struct rig *r = *state;
    struct pollfd fds[MACHINE_WATCH_MAX + 1];
    for (size_t i = 0; i < ARRAY_LEN(fds); i++)
        fds[i] = (struct pollfd){.fd = r->pipe[0][0], .events = POLLIN};
    fds[MACHINE_WATCH_MAX - 1].fd = r->pipe[1][0];
    record_host_watch(r->host, fds, ARRAY_LEN(fds)); /* one more than there may be */
    make_ready(r, 1);
    wait_for_fire(r);
}

static void a_closed_descriptor_does_no_harm(void **state)
{
    struct rig *r = *state;
    watch(r, 0);
    close(r->pipe[0][0]);
    watch(r, 1);
    (void)record_host_watch_fired(r->host); /* it may have: a session then finds nothing to do */
    watch(r, 1);
    make_ready(r, 1);
    wait_for_fire(r);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_ready_descriptor_kicks_once_for_each_call),
        TEST(a_call_replaces_what_was_watched),
        TEST(all_of_many_are_watched),
        TEST(a_closed_descriptor_does_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
