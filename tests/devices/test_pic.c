/* The 8259A pair, as the data sheet has it. */
#include "tests/devices/fixture.h"

enum { EOI = 0x20, ROTATE_ON_EOI = 0xa0, SPECIFIC_EOI = 0x60, SET_PRIORITY = 0xc0, ROTATE_SPECIFIC = 0xe0 };
enum { READ_IRR = 0x0a, READ_ISR = 0x0b, POLL = 0x0c, SPECIAL_MASK = 0x68, SPECIAL_MASK_OFF = 0x48 };

static unsigned irr(struct fixture *f, uint16_t port)
{
    out8(f, port, READ_IRR);
    return in8(f, port);
}

static unsigned isr(struct fixture *f, uint16_t port)
{
    out8(f, port, READ_ISR);
    return in8(f, port);
}

/* The timer's line is high at the start: take it down, so that all lines are the test's. */
static int pic_setup(void **state)
{
    int rc = fixture_setup(state);
    lower_irq(*state, 0);
    return rc;
}

static void starts_as_firmware_leaves_it(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(in8(f, 0x21), 0xf8);
    assert_int_equal(in8(f, 0xa1), 0xff);
    assert_int_equal(take_interrupt(f), -1);
    raise_irq(f, 1);
    assert_int_equal(take_interrupt(f), 0x09);
}

static void gives_vectors_of_both_chips(void **state)
{
    struct fixture *f = *state;
    pic_program(f, 0, 0, 0x01);
    for (unsigned irq = 0; irq < 16; irq++) {
        if (irq == 2)
            continue;
        raise_irq(f, irq);
        assert_true(machine_interrupt_pending(f->m));
        assert_int_equal(take_interrupt(f), 0x20 + irq);
        assert_int_equal(take_interrupt(f), -1);
        lower_irq(f, irq);
        if (irq >= 8)
            out8(f, 0xa0, EOI);
        out8(f, 0x20, EOI);
        assert_int_equal(isr(f, 0x20), 0);
        assert_int_equal(isr(f, 0xa0), 0);
    }
}

static void higher_priority_interrupts_lower_but_not_equal(void **state)
{
    struct fixture *f = *state;
    pic_program(f, 0, 0, 0x01);
    raise_irq(f, 5);
    assert_int_equal(take_interrupt(f), 0x25);
    raise_irq(f, 6);
    assert_int_equal(take_interrupt(f), -1);
    lower_irq(f, 5);
    raise_irq(f, 5); /* again, while in service */
    assert_int_equal(take_interrupt(f), -1);
    raise_irq(f, 3);
    assert_int_equal(take_interrupt(f), 0x23);
    assert_int_equal(isr(f, 0x20), 1 << 5 | 1 << 3);
    assert_int_equal(irr(f, 0x20), 1 << 5 | 1 << 6);
    out8(f, 0x20, EOI); /* ends 3, the highest in service */
    assert_int_equal(isr(f, 0x20), 1 << 5);
    assert_int_equal(take_interrupt(f), -1);
    out8(f, 0x20, EOI);
    assert_int_equal(take_interrupt(f), 0x25);
    out8(f, 0x20, EOI);
    assert_int_equal(take_interrupt(f), 0x26);
}

static void slave_ranks_between_irq_1_and_3(void **state)
{
    struct fixture *f = *state;
    pic_program(f, 0, 0, 0x01);
    raise_irq(f, 3);
    raise_irq(f, 12);
    raise_irq(f, 8);
    raise_irq(f, 1);
    assert_int_equal(take_interrupt(f), 0x21);
    out8(f, 0x20, EOI);
    assert_int_equal(take_interrupt(f), 0x28);
    assert_int_equal(isr(f, 0x20), 1 << 2);
    assert_int_equal(isr(f, 0xa0), 1 << 0);
    out8(f, 0xa0, EOI);
    out8(f, 0x20, EOI);
    assert_int_equal(take_interrupt(f), 0x2c);
    out8(f, 0xa0, EOI);
    out8(f, 0x20, EOI);
    assert_int_equal(take_interrupt(f), 0x23);
}

/* Without special fully nested mode the master holds back the slave's second request until its own EOI. */
static void slave_nests_only_in_special_fully_nested_mode(void **state)
{
    struct fixture *f = *state;
    pic_program(f, 0, 0, 0x01);
    raise_irq(f, 12);
    assert_int_equal(take_interrupt(f), 0x2c);
    raise_irq(f, 8);
    assert_int_equal(take_interrupt(f), -1);
    out8(f, 0x20, EOI);
    assert_int_equal(take_interrupt(f), 0x28);

    pic_program(f, 0, 0, 0x11);
    lower_irq(f, 8);
    lower_irq(f, 12);
    raise_irq(f, 12);
    assert_int_equal(take_interrupt(f), 0x2c);
    raise_irq(f, 14); /* lower than 12 */
    assert_int_equal(take_interrupt(f), -1);
    raise_irq(f, 8);
    assert_int_equal(take_interrupt(f), 0x28);
}

static void mask_holds_back_and_keeps_the_request(void **state)
{
    struct fixture *f = *state;
    pic_program(f, 0xff, 0xff, 0x01);
    raise_irq(f, 4);
    raise_irq(f, 10);
    assert_int_equal(take_interrupt(f), -1);
    assert_int_equal(irr(f, 0x20), 1 << 4);
    assert_int_equal(irr(f, 0xa0), 1 << 2);
    out8(f, 0xa1, 0xfb);
    assert_int_equal(irr(f, 0x20), 1 << 4 | 1 << 2);
    assert_int_equal(take_interrupt(f), -1);
    out8(f, 0x21, 0xeb);
    assert_int_equal(in8(f, 0x21), 0xeb);
    assert_int_equal(take_interrupt(f), 0x2a);
    out8(f, 0x20, SPECIFIC_EOI | 2);
    assert_int_equal(take_interrupt(f), 0x24);
}

static void edge_input_needs_a_new_edge(void **state)
{
    struct fixture *f = *state;
    pic_program(f, 0, 0, 0x01);
    raise_irq(f, 4);
    assert_int_equal(take_interrupt(f), 0x24);
    out8(f, 0x20, EOI);
    raise_irq(f, 4); /* still high */
    assert_int_equal(take_interrupt(f), -1);
    lower_irq(f, 4);
    raise_irq(f, 4);
    assert_int_equal(take_interrupt(f), 0x24);
}

static void level_input_asks_until_it_falls(void **state)
{
    struct fixture *f = *state;
    pic_program(f, 0, 0, 0x01);
    out8(f, 0x4d0, 0xff);
    out8(f, 0x4d1, 0xff);
    assert_int_equal(in8(f, 0x4d0), 0xf8);
    assert_int_equal(in8(f, 0x4d1), 0xde);
    raise_irq(f, 11);
    assert_int_equal(take_interrupt(f), 0x2b);
    out8(f, 0xa0, EOI);
    out8(f, 0x20, EOI);
    assert_int_equal(take_interrupt(f), 0x2b);
    lower_irq(f, 11);
    out8(f, 0xa0, EOI);
    out8(f, 0x20, EOI);
    assert_int_equal(take_interrupt(f), -1);
    raise_irq(f, 5);
    assert_int_equal(take_interrupt(f), 0x25);
    out8(f, 0x20, EOI);
    assert_int_equal(take_interrupt(f), 0x25);
}

/* The request went away between INTR and INTA. */
static void spurious_interrupts_are_7_and_15(void **state)
{
    struct fixture *f = *state;
    pic_program(f, 0, 0, 0x01);
    raise_irq(f, 4);
    lower_irq(f, 4);
    assert_false(machine_interrupt_pending(f->m));
    assert_int_equal(machine_interrupt_acknowledge(f->m), 0x27);
    assert_int_equal(isr(f, 0x20), 0);

    /* The slave's request has reached the master's IR2, which is level triggered here, and then is masked. */
    out8(f, 0x20, 0x19);
    out8(f, 0x21, 0x20);
    out8(f, 0x21, 0x04);
    out8(f, 0x21, 0x01);
    raise_irq(f, 9);
    assert_true(machine_interrupt_pending(f->m));
    out8(f, 0xa1, 0xff);
    assert_false(machine_interrupt_pending(f->m));
    assert_int_equal(machine_interrupt_acknowledge(f->m), 0x27);
}

static void icw1_forgets_edges_and_masks(void **state)
{
    struct fixture *f = *state;
    pic_program(f, 0, 0, 0x01);
    raise_irq(f, 3);
    out8(f, 0x21, 0xff);
    out8(f, 0x20, 0x11);
    assert_int_equal(in8(f, 0x21), 0);
    out8(f, 0x21, 0x40);
    raise_irq(f, 5);
    assert_false(machine_interrupt_pending(f->m)); /* in the middle of the sequence */
    lower_irq(f, 5);
    out8(f, 0x21, 0x04);
    out8(f, 0x21, 0x01);
    assert_int_equal(irr(f, 0x20), 0);
    lower_irq(f, 3);
    raise_irq(f, 3);
    assert_int_equal(take_interrupt(f), 0x43);
}

static void icw1_can_do_without_icw3_and_icw4(void **state)
{
    struct fixture *f = *state;
    out8(f, 0x20, 0x12); /* single, no ICW4 */
    out8(f, 0x21, 0x50);
    out8(f, 0x21, 0xef); /* already the mask */
    assert_int_equal(in8(f, 0x21), 0xef);
    raise_irq(f, 4);
    assert_int_equal(take_interrupt(f), 0x54);
}

static void automatic_eoi_leaves_nothing_in_service(void **state)
{
    struct fixture *f = *state;
    pic_program(f, 0, 0, 0x03);
    raise_irq(f, 4);
    raise_irq(f, 13);
    assert_int_equal(take_interrupt(f), 0x2d);
    assert_int_equal(isr(f, 0xa0), 0);
    assert_int_equal(take_interrupt(f), 0x24);
    assert_int_equal(isr(f, 0x20), 0);
    /* Two of the slave's at once: the second one is a new edge for the master. */
    lower_irq(f, 13);
    raise_irq(f, 13);
    raise_irq(f, 14);
    assert_int_equal(take_interrupt(f), 0x2d);
    assert_int_equal(take_interrupt(f), 0x2e);
    assert_int_equal(take_interrupt(f), -1);
}

static void automatic_eoi_can_rotate(void **state)
{
    struct fixture *f = *state;
    pic_program(f, 0, 0xff, 0x03);
    out8(f, 0x20, 0x80); /* rotate in automatic EOI mode */
    raise_irq(f, 3);
    raise_irq(f, 4);
    assert_int_equal(take_interrupt(f), 0x23); /* now 3 is the lowest */
    lower_irq(f, 3);
    raise_irq(f, 3);
    assert_int_equal(take_interrupt(f), 0x24); /* now 4 is */
    assert_int_equal(take_interrupt(f), 0x23);
    out8(f, 0x20, 0x00); /* off: priorities stay as they are, 3 lowest */
    for (unsigned irq = 3; irq < 5; irq++) {
        lower_irq(f, irq);
        raise_irq(f, irq);
    }
    assert_int_equal(take_interrupt(f), 0x24);
    assert_int_equal(take_interrupt(f), 0x23);
}

static void non_specific_eoi_rotates(void **state)
{
    struct fixture *f = *state;
    pic_program(f, 0, 0xff, 0x01);
    raise_irq(f, 4);
    raise_irq(f, 6);
    assert_int_equal(take_interrupt(f), 0x24);
    out8(f, 0x20, ROTATE_ON_EOI); /* 4 is the lowest now, 5 the highest */
    lower_irq(f, 4);
    raise_irq(f, 4);
    raise_irq(f, 0);
    assert_int_equal(take_interrupt(f), 0x26);
    out8(f, 0x20, ROTATE_ON_EOI); /* 6 lowest: 7, 0, 1, ... */
    assert_int_equal(take_interrupt(f), 0x20);
    out8(f, 0x20, EOI);
    assert_int_equal(take_interrupt(f), 0x24);
}

static void priorities_can_be_set(void **state)
{
    struct fixture *f = *state;
    pic_program(f, 0, 0xff, 0x01);
    out8(f, 0x20, SET_PRIORITY | 5); /* 6 is the highest */
    raise_irq(f, 0);
    raise_irq(f, 6);
    raise_irq(f, 5);
    assert_int_equal(take_interrupt(f), 0x26);
    assert_int_equal(take_interrupt(f), -1);
    out8(f, 0x20, ROTATE_SPECIFIC | 6); /* ends 6 and makes it the lowest */
    assert_int_equal(isr(f, 0x20), 0);
    lower_irq(f, 6);
    raise_irq(f, 6);
    assert_int_equal(take_interrupt(f), 0x20);
    out8(f, 0x20, 0x40 | 3); /* no operation */
    out8(f, 0x20, EOI);
    assert_int_equal(take_interrupt(f), 0x25);
    out8(f, 0x20, EOI);
    assert_int_equal(take_interrupt(f), 0x26);
}

static void specific_eoi_ends_any_level(void **state)
{
    struct fixture *f = *state;
    pic_program(f, 0, 0xff, 0x01);
    raise_irq(f, 5);
    assert_int_equal(take_interrupt(f), 0x25);
    raise_irq(f, 1);
    assert_int_equal(take_interrupt(f), 0x21);
    out8(f, 0x20, SPECIFIC_EOI | 5);
    assert_int_equal(isr(f, 0x20), 1 << 1);
}

static void special_mask_lets_lower_levels_through(void **state)
{
    struct fixture *f = *state;
    pic_program(f, 0, 0xff, 0x01);
    raise_irq(f, 3);
    assert_int_equal(take_interrupt(f), 0x23);
    raise_irq(f, 6);
    out8(f, 0x21, 1 << 3);
    assert_int_equal(take_interrupt(f), -1);
    out8(f, 0x20, SPECIAL_MASK);
    assert_int_equal(take_interrupt(f), 0x26);
    out8(f, 0x20, EOI); /* not 3: it is masked */
    assert_int_equal(isr(f, 0x20), 1 << 3);
    out8(f, 0x20, EOI);
    assert_int_equal(isr(f, 0x20), 1 << 3);
    out8(f, 0x20, SPECIAL_MASK_OFF);
    raise_irq(f, 7);
    assert_int_equal(take_interrupt(f), -1);
    out8(f, 0x20, EOI);
    assert_int_equal(take_interrupt(f), 0x27);
}

static void polling_acknowledges(void **state)
{
    struct fixture *f = *state;
    pic_program(f, 0, 0, 0x01);
    out8(f, 0x20, POLL);
    assert_int_equal(in8(f, 0x20) & 0x80, 0);
    raise_irq(f, 5);
    raise_irq(f, 14);
    out8(f, 0x20, POLL);
    assert_int_equal(in8(f, 0x20), 0x82);
    out8(f, 0xa0, POLL);
    assert_int_equal(in8(f, 0xa1), 0x86); /* the next read, of either address */
    assert_int_equal(in8(f, 0xa1), 0x00); /* the mask again */
    assert_int_equal(isr(f, 0x20), 1 << 2);
    assert_int_equal(isr(f, 0xa0), 1 << 6);
    out8(f, 0xa0, EOI);
    out8(f, 0x20, EOI);
    assert_int_equal(take_interrupt(f), 0x25);
}

static void the_cascade_input_is_not_a_line(void **state)
{
    struct fixture *f = *state;
    pic_program(f, 0, 0, 0x01);
    raise_irq(f, 2);
    raise_irq(f, 16);
    raise_irq(f, UINT32_MAX);
    assert_int_equal(take_interrupt(f), -1);
    /*
     * The slave's request has been seen by the master, but not by the slave: no second edge comes from
     * outside.
     */
    raise_irq(f, 9);
    out8(f, 0x20, POLL);
    assert_int_equal(in8(f, 0x20), 0x82);
    lower_irq(f, 2);
    out8(f, 0x20, EOI);
    assert_int_equal(take_interrupt(f), -1);
}

#define PIC_TEST(name) cmocka_unit_test_setup_teardown(name, pic_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(starts_as_firmware_leaves_it, fixture_setup, fixture_teardown),
        PIC_TEST(gives_vectors_of_both_chips),
        PIC_TEST(higher_priority_interrupts_lower_but_not_equal),
        PIC_TEST(slave_ranks_between_irq_1_and_3),
        PIC_TEST(slave_nests_only_in_special_fully_nested_mode),
        PIC_TEST(mask_holds_back_and_keeps_the_request),
        PIC_TEST(edge_input_needs_a_new_edge),
        PIC_TEST(level_input_asks_until_it_falls),
        PIC_TEST(spurious_interrupts_are_7_and_15),
        PIC_TEST(icw1_forgets_edges_and_masks),
        PIC_TEST(icw1_can_do_without_icw3_and_icw4),
        PIC_TEST(automatic_eoi_leaves_nothing_in_service),
        PIC_TEST(automatic_eoi_can_rotate),
        PIC_TEST(non_specific_eoi_rotates),
        PIC_TEST(priorities_can_be_set),
        PIC_TEST(specific_eoi_ends_any_level),
        PIC_TEST(special_mask_lets_lower_levels_through),
        PIC_TEST(polling_acknowledges),
        PIC_TEST(the_cascade_input_is_not_a_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
