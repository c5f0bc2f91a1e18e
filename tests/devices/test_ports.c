/* The small devices: PM timer, debug exit, debug console; and what the board leaves unclaimed. */
#include "tests/devices/fixture.h"

static void pm_timer_counts_exactly_and_wraps_at_24_bits(void **state)
{
    struct fixture *f = *state;
    static const uint64_t times_ns[] = {
        0, 279, 280, 1000000, SECOND_NS, 4686 * SECOND_NS / 1000, 5 * SECOND_NS, 86400 * SECOND_NS};
    for (size_t i = 0; i < ARRAY_LEN(times_ns); i++) {
        machine_set_clock_ns(f->m, times_ns[i]);
        uint64_t ticks = times_ns[i] / SECOND_NS * 3579545 + times_ns[i] % SECOND_NS * 3579545 / SECOND_NS;
        assert_int_equal(machine_port_read(f->m, 0x608, 4), ticks & 0xffffff);
        assert_int_equal(machine_port_read(f->m, 0x608, 2), ticks & 0xffff);
        assert_int_equal(machine_port_read(f->m, 0x60a, 1), ticks >> 16 & 0xff);
    }
    machine_port_write(f->m, 0x608, 4, 0);
    assert_int_not_equal(machine_port_read(f->m, 0x608, 4), 0);
}

static void debug_exit_takes_any_size(void **state)
{
    static const struct {
        unsigned size;
        uint64_t value;
        uint32_t status;
    } cases[] = {
        {1, 0x12, 0x12}, {2, 0x1234, 0x1234}, {4, 0x89abcdef, 0x89abcdef}, {1, 0, 0}, {1, 0x1ff, 0xff}};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct fixture *f = fixture_create(0, 0);
        uint32_t status = 1;
        assert_int_equal(machine_end(f->m, NULL), MACHINE_END_NONE);
        machine_port_write(f->m, 0xf4, cases[i].size, cases[i].value);
        assert_int_equal(machine_end(f->m, &status), MACHINE_END_DEBUG_EXIT);
        assert_int_equal(status, cases[i].status);
        machine_port_write(f->m, 0xf4, 1, 99); /* the first one stays */
        out8(f, 0x64, 0xfe);
        assert_int_equal(machine_end(f->m, &status), MACHINE_END_DEBUG_EXIT);
        assert_int_equal(status, cases[i].status);
        fixture_destroy(f);
    }
}

static void debug_console_prints_and_is_found(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(in8(f, 0xe9), 0xe9);
    out8(f, 0xe9, 'o');
    out8(f, 0xe9, 'k');
    assert_string_equal(f->printed[1], "ok");
    assert_string_equal(f->printed[0], "");
}

static void a_board_without_a_host_prints_nowhere(void **state)
{
    struct machine *m;
    struct error err;
    (void)state;
    assert_int_equal(machine_create(&m, NULL, NULL, &err), 0);
    assert_int_equal(board_attach(m, &(struct board_options){.kind = BOARD_MINIMAL}, &err), 0);
    machine_port_write(m, 0xe9, 1, 'x');
    machine_port_write(m, 0x3f8, 1, 'x');
    assert_int_equal(board_attach(m, &(struct board_options){.kind = BOARD_MINIMAL}, &err), -EEXIST);
    assert_non_null(strstr(err.message, "8259A"));
    machine_destroy(m);
}

static void absent_hardware_reads_all_ones_and_is_counted(void **state)
{
    struct fixture *f = *state;
    const struct unclaimed *list;
    assert_int_equal(machine_port_read(f->m, 0xcf8, 4), 0xffffffff);
    assert_int_equal(machine_port_read(f->m, 0x2f9, 1), 0xff);
    out8(f, 0x80, 1); /* the delay port of every kernel is no news */
    assert_int_equal(machine_unclaimed_ports(f->m, &list), 2);
    assert_int_equal(list[0].address, 0xcf8);
    assert_int_equal(list[0].reads, 1);
    assert_int_equal(list[1].address, 0x2f9);
}

#define PORTS_TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        PORTS_TEST(pm_timer_counts_exactly_and_wraps_at_24_bits),
        cmocka_unit_test(debug_exit_takes_any_size),
        PORTS_TEST(debug_console_prints_and_is_found),
        cmocka_unit_test(a_board_without_a_host_prints_nowhere),
        PORTS_TEST(absent_hardware_reads_all_ones_and_is_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
