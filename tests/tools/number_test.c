/* Numbers on the command line, and numbers for people. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tools/number.h"

static void numbers_are_decimal_or_hexadecimal_with_separators(void **state)
{
    static const struct {
        const char *text;
        uint64_t value;
    } good[] = {{"0", 0},
                {"1_000_000", 1000000},
                {"1,234", 1234},
                {"0xff", 255},
                {"0XFF_00", 0xff00},
                {"18446744073709551615", UINT64_MAX},
                {"0xffffffffffffffff", UINT64_MAX},
                {"007", 7}};
    static const char *const bad[] = {"",
                                      "x",
                                      "1x",
                                      " 1",
                                      "1 ",
                                      "-1",
                                      "+1",
                                      "_1",
                                      "1_",
                                      "1__0",
                                      "0x",
                                      "0x_1",
                                      "1.0",
                                      "1e3",
                                      "0xg",
                                      "18446744073709551616",
                                      "0x10000000000000000",
                                      "99999999999999999999999"};
    uint64_t value;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        assert_true(number_parse(good[i].text, &value));
        assert_int_equal(value, good[i].value);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_false(number_parse(bad[i], &value));
}

static void sizes_have_units_and_do_not_overflow(void **state)
{
    uint64_t value;
    (void)state;
    assert_true(size_parse("64M", &value) && value == (uint64_t)64 << 20);
    assert_true(size_parse("64MiB", &value) && value == (uint64_t)64 << 20);
    assert_true(size_parse("2gB", &value) && value == (uint64_t)2 << 30);
    assert_true(size_parse("0x10k", &value) && value == 16384);
    assert_true(size_parse("4096", &value) && value == 4096);
    assert_true(size_parse("16777215T", &value) && value == (uint64_t)16777215 << 40);
    assert_false(size_parse("16777216T", &value));
    assert_false(size_parse("64Q", &value));
    assert_false(size_parse("M", &value));
    assert_false(size_parse("64MM", &value));
    assert_false(size_parse("64M ", &value));
    assert_false(size_parse("1.5G", &value));
}

static void seconds_have_fractions(void **state)
{
    uint64_t ns;
    (void)state;
    assert_true(seconds_parse("10", &ns) && ns == 10000000000);
    assert_true(seconds_parse("0.25", &ns) && ns == 250000000);
    assert_true(seconds_parse("1.000000001s", &ns) && ns == 1000000001);
    assert_true(seconds_parse("1.0000000009", &ns) && ns == 1000000000);
    assert_false(seconds_parse("1000000001", &ns));
    assert_false(seconds_parse("1.", &ns));
    assert_false(seconds_parse(".5", &ns));
    assert_false(seconds_parse("1ms", &ns));
    assert_false(seconds_parse("", &ns));
}

static void positions_are_numbers_the_end_or_percentages(void **state)
{
    struct position_argument at;
    (void)state;
    assert_true(position_parse("1,000", &at));
    assert_int_equal(position_resolve(&at, 10), 1000);
    assert_true(position_parse("end", &at));
    assert_int_equal(position_resolve(&at, 12345), 12345);
    assert_true(position_parse("50%", &at));
    assert_int_equal(position_resolve(&at, 1001), 500);
    assert_true(position_parse("12.5%", &at));
    assert_int_equal(position_resolve(&at, 800), 100);
    assert_true(position_parse("100%", &at));
    assert_int_equal(position_resolve(&at, UINT64_MAX - 1), UINT64_MAX - 1);
    assert_true(position_parse("0%", &at));
    assert_int_equal(position_resolve(&at, UINT64_MAX - 1), 0);
    assert_false(position_parse("100.1%", &at));
    assert_false(position_parse("1s%", &at));
    assert_false(position_parse("%", &at));
    assert_false(position_parse("18446744073709551615", &at)); /* stands for "unknown" */
}

static void people_get_separators_and_units(void **state)
{
    struct number_text text;
    (void)state;
    assert_string_equal(number_format(0, &text), "0");
    assert_string_equal(number_format(999, &text), "999");
    assert_string_equal(number_format(1000, &text), "1,000");
    assert_string_equal(number_format(UINT64_MAX, &text), "18,446,744,073,709,551,615");
    assert_string_equal(bytes_format(1023, &text), "1023 bytes");
    assert_string_equal(bytes_format(1536, &text), "1.5 KiB");
    assert_string_equal(bytes_format(((uint64_t)1 << 20) - 1, &text), "1.0 MiB");
    assert_string_equal(bytes_format(UINT64_MAX, &text), "16.0 EiB");
    assert_string_equal(duration_format(1500, &text), "2 us");
    assert_string_equal(duration_format(1500000000, &text), "1.50 s");
    assert_string_equal(duration_format(125000000000, &text), "2 min 05 s");
    assert_string_equal(duration_format(UINT64_MAX, &text), "5124095 h 34 min");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_decimal_or_hexadecimal_with_separators),
        cmocka_unit_test(sizes_have_units_and_do_not_overflow),
        cmocka_unit_test(seconds_have_fractions),
        cmocka_unit_test(positions_are_numbers_the_end_or_percentages),
        cmocka_unit_test(people_get_separators_and_units),
    };
    return cmocka_run_group_tests_name("number", tests, NULL, NULL);
}
