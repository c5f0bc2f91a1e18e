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

static void a_clock_never_lags_by_more_than_the_limit(void **unused)
{
    (void)unused;
    struct record_clock c = {0};
    assert_int_equal(record_clock_read(&c, 5000 * (uint64_t)MS, 1), 5000 * (uint64_t)MS - CLOCK_MAX_LAG_NS);
    assert_int_equal(record_clock_read(&c, 6000 * (uint64_t)MS, UINT64_MAX), 6000 * (uint64_t)MS);
}

static void sleep_catches_up(void **unused)
{
    (void)unused;
    struct record_clock c = {0};
    record_clock_read(&c, 100 * MS, 10);
    record_clock_catch_up(&c, 100 * MS, 10);
    assert_int_equal(record_clock_read(&c, 100 * MS, 10), 100 * MS);
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
        cmocka_unit_test(a_clock_never_lags_by_more_than_the_limit),
        cmocka_unit_test(sleep_catches_up),
        cmocka_unit_test(a_deadline_is_reached_after_the_steps_foretold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
