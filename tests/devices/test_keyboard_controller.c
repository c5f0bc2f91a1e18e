/* The 8042 without devices: resets, and answers that let a driver go on. */
#include "tests/devices/fixture.h"

enum { OBF = 0x01, SYSTEM_FLAG = 0x04, LAST_WAS_COMMAND = 0x08, AUX = 0x20, TIMEOUT = 0x40 };

static void expect_no_end(struct fixture *f)
{
    assert_int_equal(machine_end(f->m, NULL), MACHINE_END_NONE);
}

static void expect_reset(void (*reset)(struct fixture *f))
{
    void *state;
    fixture_setup(&state);
    struct fixture *f = state;
    expect_no_end(f);
    reset(f);
    assert_int_equal(machine_end(f->m, NULL), MACHINE_END_RESET);
    fixture_destroy(f);
}

static void reset_by_pulse(struct fixture *f)
{
    out8(f, 0x64, 0xfe);
}

static void reset_by_output_port(struct fixture *f)
{
    out8(f, 0x64, 0xd1);
    out8(f, 0x60, 0xdf); /* A20 and reset line high */
    expect_no_end(f);
    out8(f, 0x64, 0xd1);
    out8(f, 0x60, 0xde);
}

static void reset_by_control_port_a(struct fixture *f)
{
    assert_int_equal(in8(f, 0x92), 0x02);
    out8(f, 0x92, 0x00);
    out8(f, 0x92, 0x02);
    expect_no_end(f);
    assert_int_equal(in8(f, 0x92), 0x02); /* A20 stays on */
    out8(f, 0x92, 0x03);
}

static void resets_in_all_three_ways(void **state)
{
    (void)state;
    expect_reset(reset_by_pulse);
    expect_reset(reset_by_output_port);
    expect_reset(reset_by_control_port_a);
}

static void pulses_of_other_lines_do_nothing(void **state)
{
    struct fixture *f = *state;
    for (unsigned command = 0xf1; command <= 0xff; command += 2)
        out8(f, 0x64, command);
    expect_no_end(f);
}

static unsigned ask(struct fixture *f, unsigned command)
{
    out8(f, 0x64, command);
    assert_int_equal(in8(f, 0x64) & (OBF | LAST_WAS_COMMAND | AUX), OBF | LAST_WAS_COMMAND);
    unsigned answer = in8(f, 0x60);
    assert_int_equal(in8(f, 0x64) & OBF, 0);
    return answer;
}

static void answers_the_commands_of_a_probe(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(in8(f, 0x64), 0x14);
    assert_int_equal(ask(f, 0xaa), 0x55);
    assert_int_equal(ask(f, 0xab), 0x00);
    assert_int_equal(ask(f, 0xa9), 0x00);
    assert_int_equal(ask(f, 0xc0), 0x80);
    assert_int_equal(ask(f, 0xd0) & 0x03, 0x03);
    out8(f, 0x64, 0x60);
    out8(f, 0x60, 0x47);
    assert_int_equal(ask(f, 0x20), 0x47);
    out8(f, 0x64, 0xad);
    assert_int_equal(ask(f, 0x20), 0x57);
    out8(f, 0x64, 0xa7);
    out8(f, 0x64, 0xae);
    assert_int_equal(ask(f, 0x20), 0x67);
    out8(f, 0x64, 0xa8);
    assert_int_equal(ask(f, 0x20), 0x47);
    out8(f, 0x64, 0x7f); /* the last byte of its RAM */
    out8(f, 0x60, 0x99);
    assert_int_equal(ask(f, 0x3f), 0x99);
    expect_no_end(f);
}

static void absent_devices_time_out_at_once(void **state)
{
    struct fixture *f = *state;
    out8(f, 0x60, 0xf2); /* identify */
    assert_int_equal(in8(f, 0x64) & (OBF | AUX | TIMEOUT), OBF | TIMEOUT);
    assert_int_equal(in8(f, 0x60), 0xfe);
    out8(f, 0x64, 0xd4);
    out8(f, 0x60, 0xf2);
    assert_int_equal(in8(f, 0x64) & (OBF | AUX | TIMEOUT), OBF | AUX | TIMEOUT);
    assert_int_equal(in8(f, 0x60), 0xfe);
    assert_int_equal(in8(f, 0x64) & (OBF | AUX | TIMEOUT), 0);
}

static void output_buffer_interrupts_when_the_command_byte_says_so(void **state)
{
    struct fixture *f = *state;
    pic_program(f, 0xf9, 0xef, 0x01); /* IRQ 1 and 12 */
    out8(f, 0x64, 0xd2);
    out8(f, 0x60, 0x42);
    assert_int_equal(take_interrupt(f), -1);
    assert_int_equal(in8(f, 0x60), 0x42);
    out8(f, 0x64, 0x60);
    out8(f, 0x60, 0x03);
    out8(f, 0x64, 0xd2);
    out8(f, 0x60, 0x43);
    assert_int_equal(take_interrupt(f), 0x21);
    out8(f, 0x20, 0x20);
    assert_int_equal(in8(f, 0x60), 0x43);
    out8(f, 0x64, 0xd3);
    out8(f, 0x60, 0x5a);
    assert_int_equal(in8(f, 0x64) & (OBF | AUX), OBF | AUX);
    assert_int_equal(take_interrupt(f), 0x2c);
    assert_int_equal(in8(f, 0x60), 0x5a);
}

#define KEYBOARD_TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(resets_in_all_three_ways),
        KEYBOARD_TEST(pulses_of_other_lines_do_nothing),
        KEYBOARD_TEST(answers_the_commands_of_a_probe),
        KEYBOARD_TEST(absent_devices_time_out_at_once),
        KEYBOARD_TEST(output_buffer_interrupts_when_the_command_byte_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
