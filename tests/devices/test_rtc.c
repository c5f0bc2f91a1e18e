/* The MC146818 clock against the C library's calendar, its interrupts, and the CMOS RAM. */
#include "tests/devices/fixture.h"

#include <time.h>

enum {
    SECONDS,
    SECONDS_ALARM,
    MINUTES,
    MINUTES_ALARM,
    HOURS,
    HOURS_ALARM,
    WEEKDAY,
    DAY,
    MONTH,
    YEAR,
    A,
    B,
    C,
    D
};
enum { CENTURY = 0x32 };
enum { B_24H = 0x02, B_BINARY = 0x04, B_UIE = 0x10, B_AIE = 0x20, B_PIE = 0x40, B_SET = 0x80 };

#define RTC_VECTOR 0x28

static uint8_t cmos(struct fixture *f, unsigned index)
{
    out8(f, 0x70, index);
    return in8(f, 0x71);
}

static void cmos_write(struct fixture *f, unsigned index, unsigned value)
{
    out8(f, 0x70, index);
    out8(f, 0x71, value);
}

static unsigned bcd(unsigned value)
{
    return value / 10 << 4 | value % 10;
}

static struct fixture *at(const char *utc)
{
    struct tm tm = {0};
    assert_non_null(strptime(utc, "%Y-%m-%d %H:%M:%S", &tm));
    struct fixture *f = fixture_create(0, timegm(&tm));
    pic_program(f, 0xfb, 0xfe, 0x01); /* IRQ 8 alone */
    out8(f, 0x43, 0x34);              /* channel 0 of the timer waits for a count: no other timers */
    return f;
}

/* The time registers, in BCD and 24 hour mode, show this moment. */
static void expect_time(struct fixture *f, const char *utc)
{
    struct tm tm = {0};
    assert_non_null(strptime(utc, "%Y-%m-%d %H:%M:%S", &tm));
    timegm(&tm);
    assert_int_equal(cmos(f, YEAR), bcd((unsigned)tm.tm_year % 100));
    assert_int_equal(cmos(f, CENTURY), bcd((unsigned)(tm.tm_year + 1900) / 100));
    assert_int_equal(cmos(f, MONTH), bcd((unsigned)tm.tm_mon + 1));
    assert_int_equal(cmos(f, DAY), bcd((unsigned)tm.tm_mday));
    assert_int_equal(cmos(f, WEEKDAY), tm.tm_wday + 1);
    assert_int_equal(cmos(f, HOURS), bcd((unsigned)tm.tm_hour));
    assert_int_equal(cmos(f, MINUTES), bcd((unsigned)tm.tm_min));
    assert_int_equal(cmos(f, SECONDS), bcd((unsigned)tm.tm_sec));
}

static int irq8(struct fixture *f)
{
    int vector = take_interrupt(f);
    if (vector < 0)
        return 0;
    assert_int_equal(vector, RTC_VECTOR);
    out8(f, 0xa0, 0x20);
    out8(f, 0x20, 0x20);
    return 1;
}

static void rolls_over(void **state)
{
    static const struct {
        const char *before, *after;
    } cases[] = {
        {"2023-12-31 23:59:59", "2024-01-01 00:00:00"}, {"2024-02-28 23:59:59", "2024-02-29 00:00:00"},
        {"2024-02-29 23:59:59", "2024-03-01 00:00:00"}, {"2023-02-28 23:59:59", "2023-03-01 00:00:00"},
        {"2000-02-28 23:59:59", "2000-02-29 00:00:00"}, {"2100-02-28 23:59:59", "2100-03-01 00:00:00"},
        {"1999-12-31 23:59:59", "2000-01-01 00:00:00"}, {"2024-06-30 11:59:59", "2024-06-30 12:00:00"},
        {"2024-04-30 09:59:59", "2024-04-30 10:00:00"}, {"1970-01-01 00:00:00", "1970-01-01 00:00:01"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct fixture *f = at(cases[i].before);
        run_for_ns(f, SECOND_NS - 1);
        expect_time(f, cases[i].before);
        run_for_ns(f, 1);
        expect_time(f, cases[i].after);
        fixture_destroy(f);
    }
}

/* Every day of 140 years, and all hours of some. */
static void agrees_with_the_c_library(void **state)
{
    struct fixture *f = at("1970-01-01 00:00:00");
    (void)state;
    for (int64_t s = 0; s < (int64_t)140 * 365 * 86400; s += 86400 + 3599) {
        char text[32];
        time_t t = (time_t)s;
        struct tm tm;
        machine_set_clock_ns(f->m, (uint64_t)s * SECOND_NS);
        strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", gmtime_r(&t, &tm));
        expect_time(f, text);
    }
    fixture_destroy(f);
}

static void shows_binary_and_twelve_hours(void **state)
{
    static const unsigned twelve[24] = {12, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    struct fixture *f = at("2038-11-19 00:58:47");
    (void)state;
    for (unsigned hour = 0; hour < 24; hour++) {
        unsigned pm = hour >= 12 ? 0x80 : 0;
        cmos_write(f, B, B_24H);
        assert_int_equal(cmos(f, HOURS), bcd(hour));
        cmos_write(f, B, 0);
        assert_int_equal(cmos(f, HOURS), bcd(twelve[hour % 12]) | pm);
        cmos_write(f, B, B_BINARY);
        assert_int_equal(cmos(f, HOURS), twelve[hour % 12] | pm);
        assert_int_equal(cmos(f, SECONDS), 47);
        cmos_write(f, B, B_BINARY | B_24H);
        assert_int_equal(cmos(f, HOURS), hour);
        assert_int_equal(cmos(f, YEAR), 38);
        assert_int_equal(cmos(f, CENTURY), 0x20);
        run_for_ns(f, 3600 * SECOND_NS);
    }
    fixture_destroy(f);
}

static void the_guest_can_set_it(void **state)
{
    struct fixture *f = at("2026-01-01 00:00:00");
    (void)state;
    cmos_write(f, B, B_SET | B_24H);
    static const unsigned values[][2] = {{SECONDS, 0x58}, {MINUTES, 0x59}, {HOURS, 0x23}, {WEEKDAY, 0x06},
                                         {DAY, 0x31},     {MONTH, 0x12},   {YEAR, 0x99},  {CENTURY, 0x19}};
    for (size_t i = 0; i < ARRAY_LEN(values); i++)
        cmos_write(f, values[i][0], values[i][1]);
    run_for_ns(f, 10 * SECOND_NS + SECOND_NS / 4);
    assert_int_equal(cmos(f, SECONDS), 0x58); /* stopped */
    assert_int_equal(cmos(f, A) & 0x80, 0);
    cmos_write(f, B, B_24H);
    expect_time(f, "1999-12-31 23:59:58");
    assert_int_equal(cmos(f, WEEKDAY), 6);
    /* SET does not disturb the divider: updates stay on whole seconds of the clock. */
    run_for_ns(f, SECOND_NS * 3 / 4 - 1);
    expect_time(f, "1999-12-31 23:59:58");
    run_for_ns(f, 1);
    expect_time(f, "1999-12-31 23:59:59");
    run_for_ns(f, SECOND_NS);
    assert_int_equal(cmos(f, WEEKDAY), 7);
    expect_time(f, "2000-01-01 00:00:00"); /* was indeed a Friday and a Saturday */
    /* Straight, without SET; a weekday of the guest's own. */
    cmos_write(f, MINUTES, 0x30);
    cmos_write(f, WEEKDAY, 2);
    assert_int_equal(cmos(f, MINUTES), 0x30);
    run_for_ns(f, 86400 * SECOND_NS);
    assert_int_equal(cmos(f, WEEKDAY), 3);
    assert_int_equal(cmos(f, DAY), 2);
    fixture_destroy(f);
}

static void setting_in_twelve_hour_mode(void **state)
{
    struct fixture *f = at("2026-01-01 00:00:00");
    (void)state;
    for (unsigned hour = 0; hour < 24; hour++) {
        cmos_write(f, B, B_SET);
        cmos_write(f, HOURS, bcd(hour % 12 ? hour % 12 : 12) | (hour >= 12 ? 0x80 : 0));
        cmos_write(f, B, 0);
        cmos_write(f, B, B_24H);
        assert_int_equal(cmos(f, HOURS), bcd(hour));
    }
    fixture_destroy(f);
}

static void divider_reset_delays_the_update_by_half_a_second(void **state)
{
    struct fixture *f = at("2026-03-04 05:06:07");
    (void)state;
    run_for_ns(f, SECOND_NS / 10);
    unsigned a = cmos(f, A);
    cmos_write(f, A, a | 0x70);
    run_for_ns(f, 5 * SECOND_NS);
    expect_time(f, "2026-03-04 05:06:07");
    cmos_write(f, A, a);
    run_for_ns(f, SECOND_NS / 2 - 1);
    expect_time(f, "2026-03-04 05:06:07");
    run_for_ns(f, 1);
    expect_time(f, "2026-03-04 05:06:08");
    run_for_ns(f, SECOND_NS);
    expect_time(f, "2026-03-04 05:06:09");
    fixture_destroy(f);
}

static void garbage_in_the_registers_gives_some_time(void **state)
{
    struct fixture *f = at("2026-03-04 05:06:07");
    (void)state;
    for (unsigned mode = 0; mode < 8; mode += 2) {
        cmos_write(f, B, B_SET | mode);
        for (unsigned i = 0; i < 10; i++)
            cmos_write(f, i, 0xff);
        cmos_write(f, CENTURY, 0xff);
        cmos_write(f, B, mode);
        run_for_ns(f, 3 * SECOND_NS);
        cmos_write(f, B, B_24H | B_BINARY);
        assert_in_range(cmos(f, SECONDS), 0, 59);
        assert_in_range(cmos(f, MINUTES), 0, 59);
        assert_in_range(cmos(f, HOURS), 0, 23);
        assert_in_range(cmos(f, WEEKDAY), 1, 7);
        assert_in_range(cmos(f, DAY), 1, 31);
        assert_in_range(cmos(f, MONTH), 1, 12);
        assert_in_range(cmos(f, YEAR), 0, 99);
    }
    cmos_write(f, B, B_SET | B_24H);
    static const unsigned february_30[][2] = {{SECONDS, 0}, {MINUTES, 0}, {HOURS, 0},     {DAY, 0x30},
                                              {MONTH, 2},   {YEAR, 0x24}, {CENTURY, 0x20}};
    for (size_t i = 0; i < ARRAY_LEN(february_30); i++)
        cmos_write(f, february_30[i][0], february_30[i][1]);
    cmos_write(f, B, B_24H);
    assert_int_equal(cmos(f, DAY), 1);
    assert_int_equal(cmos(f, MONTH), 3);
    fixture_destroy(f);
}

static void update_in_progress_announces_the_update(void **state)
{
    struct fixture *f = at("2026-03-04 05:06:07");
    (void)state;
    run_for_ns(f, SECOND_NS - 2228000 - 1);
    assert_int_equal(cmos(f, A), 0x26);
    run_for_ns(f, 1);
    assert_int_equal(cmos(f, A), 0xa6);
    run_for_ns(f, 2228000 - 1);
    assert_int_equal(cmos(f, A), 0xa6);
    assert_int_equal(cmos(f, SECONDS), 0x07);
    run_for_ns(f, 1);
    assert_int_equal(cmos(f, A), 0x26);
    assert_int_equal(cmos(f, SECONDS), 0x08);
    fixture_destroy(f);
}

static void update_ended_interrupts_each_second(void **state)
{
    struct fixture *f = at("2026-03-04 05:06:07");
    (void)state;
    cmos_write(f, B, B_24H | B_UIE);
    unsigned count = 0;
    for (uint64_t end = machine_clock_ns(f->m) + 60 * SECOND_NS; machine_next_deadline_ns(f->m) <= end;) {
        machine_set_clock_ns(f->m, machine_next_deadline_ns(f->m));
        machine_run_timers(f->m);
        if (irq8(f)) {
            assert_int_equal(machine_clock_ns(f->m) % SECOND_NS, 0);
            assert_int_equal(cmos(f, C) & ~0x40, 0x90);
            count++;
        }
    }
    assert_int_equal(count, 60);
    fixture_destroy(f);
}

static void register_c_is_cleared_by_reading(void **state)
{
    struct fixture *f = at("2026-03-04 05:06:07");
    (void)state;
    cmos_write(f, A, 0x20); /* no periodic flag */
    run_for_ns(f, SECOND_NS / 2);
    assert_int_equal(cmos(f, C), 0);
    run_for_ns(f, SECOND_NS);
    assert_int_equal(cmos(f, C), 0x10); /* the flag comes without its interrupt */
    assert_int_equal(cmos(f, C), 0);
    assert_int_equal(irq8(f), 0);
    run_for_ns(f, SECOND_NS);
    cmos_write(f, B, B_24H | B_UIE); /* enabled while the flag is set */
    assert_int_equal(irq8(f), 1);
    assert_int_equal(machine_next_deadline_ns(f->m), UINT64_MAX); /* no timer for what changes nothing */
    run_for_ns(f, 5 * SECOND_NS);
    assert_int_equal(irq8(f), 0); /* the line stays high as long as C is not read */
    assert_int_equal(cmos(f, C), 0x90);
    run_for_ns(f, SECOND_NS);
    assert_int_equal(irq8(f), 1);
    cmos_write(f, B, B_SET | B_24H | B_UIE);
    assert_int_equal(cmos(f, B), B_SET | B_24H); /* SET takes UIE away */
    cmos_write(f, B, B_24H | B_UIE);
    cmos_write(f, C, 0xff); /* read-only, as is D */
    cmos_write(f, D, 0x00);
    assert_int_equal(cmos(f, C), 0x90);
    assert_int_equal(cmos(f, D), 0x80);
    fixture_destroy(f);
}

static void periodic_rates_are_exact(void **state)
{
    (void)state;
    for (unsigned rate = 0; rate < 16; rate++) {
        static const unsigned hz[16] = {0,   256, 128, 8192, 4096, 2048, 1024, 512,
                                        256, 128, 64,  32,   16,   8,    4,    2};
        struct fixture *f = at("2026-03-04 05:06:07");
        cmos_write(f, A, 0x20 | rate);
        cmos_write(f, B, B_24H | B_PIE);
        unsigned count = 0;
        uint64_t next;
        while ((next = machine_next_deadline_ns(f->m)) <= 60 * SECOND_NS) {
            machine_set_clock_ns(f->m, next);
            machine_run_timers(f->m);
            if (irq8(f)) {
                assert_int_equal(cmos(f, C) & 0xc0, 0xc0);
                count++;
            }
        }
        assert_int_equal(count, hz[rate] * 60);
        fixture_destroy(f);
    }
}

static void alarms_match_with_wild_cards(void **state)
{
    static const struct {
        unsigned hour, minute, second, mode;
        uint64_t first_s, second_s; /* from 05:06:07; 0: never */
    } cases[] = {
        {0x05, 0x06, 0x09, B_24H, 2, 86402},        {0x05, 0x06, 0x07, B_24H, 86400, 172800},
        {0x04, 0x00, 0x00, B_24H, 82433, 168833},   {0xff, 0xff, 0x00, B_24H, 53, 113},
        {0xff, 0x10, 0x00, B_24H, 233, 3833},       {0xc0, 0xff, 0xff, B_24H, 1, 2},
        {0x83, 0x00, 0x00, 0, 35633, 122033},
        /* 3 PM */ {0x05, 0x06, 0x60, B_24H, 0, 0}, {0x24, 0x06, 0x00, B_24H, 0, 0},
        {0x06, 0xff, 0xff, B_24H, 3233, 3234},      {23, 59, 59, B_24H | B_BINARY, 68032, 154432},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct fixture *f = at("2026-03-04 05:06:07");
        cmos_write(f, A, 0x20);
        cmos_write(f, HOURS_ALARM, cases[i].hour);
        cmos_write(f, MINUTES_ALARM, cases[i].minute);
        cmos_write(f, SECONDS_ALARM, cases[i].second);
        cmos_write(f, B, cases[i].mode | B_AIE);
        assert_int_equal(cmos(f, HOURS_ALARM), cases[i].hour);
        if (!cases[i].first_s) {
            assert_int_equal(machine_next_deadline_ns(f->m), UINT64_MAX);
            run_for_ns(f, 3 * 86400 * SECOND_NS);
            assert_int_equal(irq8(f), 0);
            assert_int_equal(cmos(f, C) & 0x20, 0);
            fixture_destroy(f);
            continue;
        }
        run_to_ns(f, cases[i].first_s * SECOND_NS - 1);
        assert_int_equal(irq8(f), 0);
        run_for_ns(f, 1);
        assert_int_equal(irq8(f), 1);
        assert_int_equal(cmos(f, C) & 0xa0, 0xa0);
        run_to_ns(f, cases[i].second_s * SECOND_NS - 1);
        assert_int_equal(irq8(f), 0);
        run_for_ns(f, 1);
        assert_int_equal(irq8(f), 1);
        fixture_destroy(f);
    }
}

static unsigned cmos16(struct fixture *f, unsigned index)
{
    return cmos(f, index) | (unsigned)cmos(f, index + 1) << 8;
}

static void memory_size_is_where_firmware_puts_it(void **state)
{
    static const struct {
        uint64_t bytes;
        unsigned extended_kb, above_16m;
        uint64_t above_4g;
    } cases[] = {
        {(uint64_t)1 << 20, 0, 0, 0},
        {(uint64_t)8 << 20, 7 << 10, 0, 0},
        {(uint64_t)64 << 20, 63 << 10, 48 << 4, 0},
        {(uint64_t)256 << 20, 0xffff, 240 << 4, 0},
        {(uint64_t)5 << 30, 0xffff, (3072 - 16) << 4, (uint64_t)2 << 14},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct fixture *f = fixture_create(cases[i].bytes, 0);
        assert_int_equal(cmos16(f, 0x15), 640);
        assert_int_equal(cmos16(f, 0x17), cases[i].extended_kb);
        assert_int_equal(cmos16(f, 0x30), cases[i].extended_kb);
        assert_int_equal(cmos16(f, 0x34), cases[i].above_16m);
        assert_int_equal(cmos16(f, 0x5b) | (unsigned)cmos(f, 0x5d) << 16, cases[i].above_4g);
        unsigned sum = 0;
        for (unsigned n = 0x10; n <= 0x2d; n++)
            sum += cmos(f, n);
        assert_int_equal(cmos(f, 0x2e) << 8 | cmos(f, 0x2f), sum);
        fixture_destroy(f);
    }
}

static void cmos_ram_keeps_bytes_and_bit_7_of_the_index_is_not_part_of_it(void **state)
{
    struct fixture *f = at("2026-03-04 05:06:07");
    (void)state;
    for (unsigned i = 0x40; i < 0x80; i++)
        cmos_write(f, i, i ^ 0x5a);
    for (unsigned i = 0x40; i < 0x80; i++)
        assert_int_equal(cmos(f, i | 0x80), i ^ 0x5a);
    assert_int_equal(in8(f, 0x70), 0xff);
    fixture_destroy(f);
}

static void impossible_start_times_are_bounded(void **state)
{
    (void)state;
    struct fixture *f = fixture_create(0, INT64_MIN);
    expect_time(f, "1970-01-01 00:00:00");
    fixture_destroy(f);
    f = fixture_create(0, INT64_MAX);
    expect_time(f, "9999-12-31 23:59:59");
    machine_set_clock_ns(f->m, UINT64_MAX);
    machine_run_timers(f->m);
    assert_in_range(cmos(f, SECONDS), 0, 0x59);
    cmos_write(f, B, B_24H | B_UIE | B_AIE | B_PIE);
    cmos_write(f, A, 0x76);
    cmos_write(f, A, 0x26);
    assert_in_range(cmos(f, SECONDS), 0, 0x59);
    fixture_destroy(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rolls_over),
        cmocka_unit_test(agrees_with_the_c_library),
        cmocka_unit_test(shows_binary_and_twelve_hours),
        cmocka_unit_test(the_guest_can_set_it),
        cmocka_unit_test(setting_in_twelve_hour_mode),
        cmocka_unit_test(divider_reset_delays_the_update_by_half_a_second),
        cmocka_unit_test(garbage_in_the_registers_gives_some_time),
        cmocka_unit_test(update_in_progress_announces_the_update),
        cmocka_unit_test(update_ended_interrupts_each_second),
        cmocka_unit_test(register_c_is_cleared_by_reading),
        cmocka_unit_test(periodic_rates_are_exact),
        cmocka_unit_test(alarms_match_with_wild_cards),
        cmocka_unit_test(memory_size_is_where_firmware_puts_it),
        cmocka_unit_test(cmos_ram_keeps_bytes_and_bit_7_of_the_index_is_not_part_of_it),
        cmocka_unit_test(impossible_start_times_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
