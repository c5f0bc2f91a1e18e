/* The guest's clock: the host's time, but for its leaps. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "record/record_clock.h"

#define MS 1000000u

static void an_undisturbed_guest_sees_the_hosts_time(void **unused)
{
    (void)unused;
    struct record_clock c = {0};
    for (uint64_t i = 1; i <= 1000; i++) /* 100 steps, and a reading, in 1 us */
        assert_int_equal(record_clock_read(&c, i * 1000, i * 100), i * 1000);
}

static void a_leap_of_the_host_is_made_up_for_step_by_step(void **unused)
{
    (void)unused;
    struct record_clock c = {0};
    uint64_t host = 20 * MS, last = 0, position = 0;
    unsigned readings = 0;
    for (; last < host; readings++) {
        host += 1000;
        position += 100;
        uint64_t now = record_clock_read(&c, host, position);
        assert_true(now > last && now <= host);
        assert_true(now - last <= 100 * CLOCK_NS_PER_STEP + CLOCK_NS_PER_READING);
        last = now;
    }
    assert_in_range(readings, 20, 5000); /* neither at once nor never */
}

/* A second or an hour: the guest's clock goes at most so much faster than the host's, and gets there. */
static void a_stopped_emulator_is_made_up_for_without_a_leap(void **unused)
{
    (void)unused;
    struct record_clock c = {0};
    uint64_t host = 3600 * 1000 * (uint64_t)MS, last = 0, position = 0, behind = host;
    while (last < host) {
        host += 1000000;
        position += 100000;
        uint64_t now = record_clock_read(&c, host, position);
        assert_in_range(now - last, 1, CLOCK_FAST * (100000 * CLOCK_NS_PER_STEP + CLOCK_NS_PER_READING));
        assert_true(host - now < behind);
        behind = host - now;
        last = now;
    }
    assert_in_range(position, 1, 20 * (uint64_t)1000000000);
}

static void a_sleeping_vcpu_goes_from_timer_to_timer(void **unused)
{
    (void)unused;
    struct record_clock c = {0};
    record_clock_sleep(&c, 100 * MS, UINT64_MAX, 10);
    assert_int_equal(c.now_ns, 100 * MS);
    record_clock_sleep(&c, 30000 * (uint64_t)MS, 104 * MS,
                       10); /* nobody looked for 30 s: a timer is to fire first */
    assert_int_equal(c.now_ns, 104 * MS);
    record_clock_sleep(&c, 30000 * (uint64_t)MS, 50000 * (uint64_t)MS, 10);
    assert_int_equal(c.now_ns, 30000 * (uint64_t)MS);
    record_clock_sleep(&c, 30000 * (uint64_t)MS, 1 * MS, 10); /* never back */
    assert_int_equal(c.now_ns, 30000 * (uint64_t)MS);
}

static void a_virtual_clock_follows_the_steps(void **unused)
{
    (void)unused;
    struct record_clock c = {.is_virtual = true};
    assert_int_equal(record_clock_read(&c, 5, 1000), 1000 * CLOCK_VIRTUAL_NS_PER_STEP);
    assert_int_equal(record_clock_read(&c, 999999, 1000), 1000 * CLOCK_VIRTUAL_NS_PER_STEP);
    record_clock_access(&c);
    uint64_t now = 1000 * CLOCK_VIRTUAL_NS_PER_STEP + CLOCK_VIRTUAL_NS_PER_ACCESS;
    assert_int_equal(record_clock_read(&c, 0, 1000), now);
    assert_int_equal(record_clock_steps_until(&c, now + 12345), 12345 / CLOCK_VIRTUAL_NS_PER_STEP);
    assert_int_equal(record_clock_steps_until(&c, now), 0);
    record_clock_sleep(&c, 77, UINT64_MAX, 1000); /* nothing to wait for */
    assert_int_equal(c.now_ns, now);
    record_clock_sleep(&c, 77, 3600 * (uint64_t)1000 * MS, 1000);
    assert_int_equal(c.now_ns, 3600 * (uint64_t)1000 * MS);
}

/* Waiting for a time to come takes a bounded number of readings; a single reading next to nothing. */
static void a_virtual_clock_does_not_make_a_guest_spin_long(void **unused)
{
    (void)unused;
    struct record_clock c = {.is_virtual = true, .position = 1000};
    position_t position = 1000;
    unsigned readings = 0;
    while (c.now_ns < 20 * MS) {
        record_clock_read(&c, 0, position += 10);
        record_clock_tsc(&c, position);
        assert_in_range(++readings, 1, 20 * MS / CLOCK_VIRTUAL_SPIN_NS + 20);
    }
    record_clock_read(&c, 0, position += 1000);
    uint64_t before = c.now_ns;
    record_clock_tsc(&c, position);
    assert_int_equal(c.now_ns - before, CLOCK_VIRTUAL_NS_PER_TSC);
}

static void a_deadline_is_reached_after_the_steps_foretold(void **unused)
{
    (void)unused;
    for (uint64_t distance = 1; distance < 100000; distance += 777) {
        struct record_clock c = {0};
        record_clock_read(&c, 100 * MS, 0);
        uint64_t deadline = c.now_ns + distance, steps = record_clock_steps_until(&c, deadline);
        assert_true((steps - 1) * CLOCK_NS_PER_STEP < distance); /* not far beyond it */
        assert_true(record_clock_read(&c, 100 * MS, steps) >= deadline);
    }
    struct record_clock c = {.now_ns = 1000};
    assert_int_equal(record_clock_steps_until(&c, 1000), 0);
    assert_int_equal(record_clock_steps_until(&c, 10), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_undisturbed_guest_sees_the_hosts_time),
        cmocka_unit_test(a_leap_of_the_host_is_made_up_for_step_by_step),
        cmocka_unit_test(a_stopped_emulator_is_made_up_for_without_a_leap),
        cmocka_unit_test(a_sleeping_vcpu_goes_from_timer_to_timer),
        cmocka_unit_test(a_virtual_clock_follows_the_steps),
        cmocka_unit_test(a_virtual_clock_does_not_make_a_guest_spin_long),
        cmocka_unit_test(a_deadline_is_reached_after_the_steps_foretold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
