/* IRQ 13, port 0xf0 and IGNNE#. */
#include "tests/devices/fixture.h"

#define ERROR_PORT   0xf0
#define ERROR_VECTOR 0x2d

static int error_setup(void **state)
{
    int rc = fixture_setup(state);
    lower_irq(*state, 0);
    pic_program(*state, 0, 0, 0x01);
    return rc;
}

static void end_of_interrupt(struct fixture *f)
{
    out8(f, 0xa0, 0x20);
    out8(f, 0x20, 0x20);
}

static void ferr_is_irq_13_and_the_port_asserts_ignne(void **state)
{
    struct fixture *f = *state;
    assert_false(machine_set_ferr(f->m, true));
    assert_int_equal(take_interrupt(f), ERROR_VECTOR);
    end_of_interrupt(f);
    assert_int_equal(take_interrupt(f), -1); /* an edge */
    assert_false(machine_set_ferr(f->m, true));
    out8(f, ERROR_PORT, 0);
    assert_true(machine_set_ferr(f->m, true));
    assert_int_equal(take_interrupt(f), -1);
    assert_false(machine_set_ferr(f->m, false));
    assert_false(machine_set_ferr(f->m, true)); /* the next error is one again */
    assert_int_equal(take_interrupt(f), ERROR_VECTOR);
}

static void the_port_alone_does_nothing(void **state)
{
    struct fixture *f = *state;
    out8(f, ERROR_PORT, 0);
    assert_int_equal(take_interrupt(f), -1);
    assert_false(machine_set_ferr(f->m, true));
    assert_int_equal(take_interrupt(f), ERROR_VECTOR);
}

/* The error was cleared first: the interrupt is taken back, and there is nothing left to ignore. */
static void the_port_after_the_error_has_gone(void **state)
{
    struct fixture *f = *state;
    machine_set_ferr(f->m, true);
    assert_int_equal(take_interrupt(f), ERROR_VECTOR);
    machine_set_ferr(f->m, false);
    out8(f, ERROR_PORT, 0);
    end_of_interrupt(f);
    assert_false(machine_set_ferr(f->m, true));
    assert_int_equal(take_interrupt(f), ERROR_VECTOR);
}

/* The latch holds the line: without a write to the port, a second error makes no edge. */
static void the_interrupt_stays_latched_without_the_port(void **state)
{
    struct fixture *f = *state;
    machine_set_ferr(f->m, true);
    assert_int_equal(take_interrupt(f), ERROR_VECTOR);
    end_of_interrupt(f);
    machine_set_ferr(f->m, false);
    machine_set_ferr(f->m, true);
    assert_int_equal(take_interrupt(f), -1);
    out8(f, ERROR_PORT, 0xff); /* any value */
    machine_set_ferr(f->m, false);
    machine_set_ferr(f->m, true);
    assert_int_equal(take_interrupt(f), ERROR_VECTOR);
}

static void a_machine_without_it_waits(void **state)
{
    struct machine *m;
    struct error err;
    (void)state;
    assert_int_equal(machine_create(&m, NULL, NULL, &err), 0);
    assert_false(machine_set_ferr(m, true));
    assert_false(machine_set_ferr(m, false));
    machine_destroy(m);
}

#define ERROR_TEST(name) cmocka_unit_test_setup_teardown(name, error_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ERROR_TEST(ferr_is_irq_13_and_the_port_asserts_ignne),
        ERROR_TEST(the_port_alone_does_nothing),
        ERROR_TEST(the_port_after_the_error_has_gone),
        ERROR_TEST(the_interrupt_stays_latched_without_the_port),
        cmocka_unit_test(a_machine_without_it_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
