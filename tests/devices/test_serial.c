/* The 16550A: output, input, FIFOs, interrupts, loopback. */
#include "tests/devices/fixture.h"

enum {
    RBR = 0x3f8,
    THR = 0x3f8,
    DLL = 0x3f8,
    IER = 0x3f9,
    DLM = 0x3f9,
    IIR = 0x3fa,
    FCR = 0x3fa,
    LCR = 0x3fb,
    MCR = 0x3fc,
    LSR = 0x3fd,
    MSR = 0x3fe,
    SCR = 0x3ff
};
enum { RDI = 1, THRI = 2, RLSI = 4, MSI = 8 };
enum { DTR_RTS_OUT2 = 0x0b, LOOP = 0x10 };

static int serial_setup(void **state)
{
    fixture_setup(state);
    struct fixture *f = *state;
    pic_program(f, 0xef, 0xff, 0x01); /* IRQ 4 alone */
    out8(f, LCR, 0x80);
    out8(f, DLL, 1);
    out8(f, DLM, 0);
    out8(f, LCR, 0x03);
    out8(f, MCR, DTR_RTS_OUT2);
    return 0;
}

/* 1 when IRQ 4 came, 0 when not. */
static int irq4(struct fixture *f)
{
    int vector = take_interrupt(f);
    if (vector < 0)
        return 0;
    assert_int_equal(vector, 0x24);
    out8(f, 0x20, 0x20);
    return 1;
}

static size_t input(struct fixture *f, const char *text)
{
    return machine_input(f->m, (const uint8_t *)text, strlen(text));
}

static void prints_what_is_written(void **state)
{
    struct fixture *f = *state;
    for (const char *c = "hello\n"; *c; c++) {
        assert_int_equal(in8(f, LSR), 0x60);
        out8(f, THR, (unsigned char)*c);
    }
    assert_string_equal(f->printed[0], "hello\n");
    assert_string_equal(f->printed[1], "");
}

static void registers_keep_what_is_theirs(void **state)
{
    struct fixture *f = *state;
    out8(f, SCR, 0xa5);
    assert_int_equal(in8(f, SCR), 0xa5);
    out8(f, IER, 0xff);
    assert_int_equal(in8(f, IER), 0x0f);
    out8(f, MCR, 0xff);
    assert_int_equal(in8(f, MCR), 0x1f);
    out8(f, MCR, 0);
    out8(f, LCR, 0x9b);
    assert_int_equal(in8(f, LCR), 0x9b);
    out8(f, DLL, 0x34);
    out8(f, DLM, 0x12);
    assert_int_equal(in8(f, DLL), 0x34);
    assert_int_equal(in8(f, DLM), 0x12);
    out8(f, LCR, 0x1b);
    assert_int_equal(in8(f, IER), 0x0f); /* the divisor went elsewhere */
    assert_string_equal(f->printed[0], "");
    out8(f, LSR, 0);
    assert_int_equal(in8(f, LSR), 0x60);
}

static void identifies_itself_as_a_16550a(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(in8(f, IIR), 0x01);
    out8(f, FCR, 0x01);
    assert_int_equal(in8(f, IIR), 0xc1);
    out8(f, FCR, 0x00);
    assert_int_equal(in8(f, IIR), 0x01);
}

static void transmitter_interrupt_comes_when_enabled_and_after_each_byte(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(irq4(f), 0);
    out8(f, IER, THRI);
    assert_int_equal(irq4(f), 1);
    assert_int_equal(in8(f, IIR), 0x02);
    assert_int_equal(in8(f, IIR), 0x01); /* reading it took it away */
    assert_int_equal(irq4(f), 0);
    out8(f, THR, 'a');
    assert_int_equal(irq4(f), 1);
    out8(f, THR, 'b'); /* without reading IIR */
    assert_int_equal(irq4(f), 1);
    assert_int_equal(in8(f, IIR), 0x02);
    out8(f, IER, THRI); /* it was enabled already */
    assert_int_equal(in8(f, IIR), 0x01);
    out8(f, IER, 0);
    out8(f, IER, THRI);
    assert_int_equal(in8(f, IIR), 0x02);
    assert_string_equal(f->printed[0], "ab");
}

static void out2_gates_the_interrupt(void **state)
{
    struct fixture *f = *state;
    out8(f, MCR, 0x03);
    out8(f, IER, THRI);
    assert_int_equal(irq4(f), 0);
    out8(f, MCR, DTR_RTS_OUT2);
    assert_int_equal(irq4(f), 1);
    out8(f, MCR, DTR_RTS_OUT2 | LOOP);
    assert_int_equal(in8(f, IIR), 0x02);
    out8(f, THR, 'x');
    assert_int_equal(irq4(f), 0);
}

static void takes_one_byte_without_fifo(void **state)
{
    struct fixture *f = *state;
    out8(f, IER, RDI);
    assert_int_equal(input(f, "ab"), 1);
    assert_int_equal(irq4(f), 1);
    assert_int_equal(in8(f, LSR), 0x61);
    assert_int_equal(in8(f, IIR), 0x04);
    assert_int_equal(input(f, "b"), 0);
    assert_int_equal(in8(f, RBR), 'a');
    assert_int_equal(in8(f, LSR), 0x60);
    assert_int_equal(in8(f, IIR), 0x01);
    assert_int_equal(input(f, "b"), 1);
    assert_int_equal(irq4(f), 1);
    assert_int_equal(in8(f, RBR), 'b');
}

static void fifo_takes_sixteen_and_interrupts_at_its_trigger(void **state)
{
    static const unsigned triggers[4] = {1, 4, 8, 14};
    struct fixture *f = *state;
    out8(f, IER, RDI);
    for (unsigned i = 0; i < 4; i++) {
        out8(f, FCR, 0x03 | i << 6);
        assert_int_equal(in8(f, IIR), 0xc1);
        for (unsigned n = 1; n <= 16; n++) {
            assert_int_equal(input(f, "x"), 1);
            assert_int_equal(in8(f, IIR), n >= triggers[i] ? 0xc4 : 0xc1);
        }
        assert_int_equal(input(f, "x"), 0);
        assert_int_equal(in8(f, LSR), 0x61);
    }
    out8(f, FCR, 0x03);
    assert_int_equal(in8(f, LSR), 0x60);
    assert_int_equal(input(f, "0123456789abcdefXYZ"), 16);
    for (const char *c = "0123456789abcdef"; *c; c++)
        assert_int_equal(in8(f, RBR), (unsigned char)*c);
    assert_int_equal(in8(f, LSR), 0x60);
    assert_int_equal(input(f, "XYZ"), 3);
    out8(f, FCR, 0x00); /* switching the FIFO empties it */
    assert_int_equal(in8(f, LSR), 0x60);
}

static void a_few_bytes_below_the_trigger_time_out(void **state)
{
    struct fixture *f = *state;
    /* 115200 baud, 8N1: a character is 86805 ns */
    uint64_t timeout_ns = 4 * 86805;
    out8(f, IER, RDI);
    out8(f, FCR, 0xc1);
    assert_int_equal(input(f, "abc"), 3);
    assert_int_equal(irq4(f), 0);
    run_for_ns(f, timeout_ns - 1);
    assert_int_equal(in8(f, IIR), 0xc1);
    run_for_ns(f, 1);
    assert_int_equal(irq4(f), 1);
    assert_int_equal(in8(f, IIR), 0xcc);
    assert_int_equal(in8(f, RBR), 'a'); /* reading ends it, and starts it anew */
    assert_int_equal(in8(f, IIR), 0xc1);
    run_for_ns(f, timeout_ns);
    assert_int_equal(in8(f, IIR), 0xcc);
    assert_int_equal(in8(f, RBR), 'b');
    assert_int_equal(in8(f, RBR), 'c');
    run_for_ns(f, 10 * timeout_ns);
    assert_int_equal(in8(f, IIR), 0xc1);
    /* 7 bits, parity, two stop bits at 9600 baud: 11 bits of 104.17 us */
    out8(f, LCR, 0x8e);
    out8(f, DLL, 12);
    out8(f, LCR, 0x0e);
    assert_int_equal(input(f, "d"), 1);
    run_for_ns(f, 4 * 1145833 - 1);
    assert_int_equal(in8(f, IIR), 0xc1);
    run_for_ns(f, 1);
    assert_int_equal(in8(f, IIR), 0xcc);
}

static void loopback_receives_what_it_sends(void **state)
{
    struct fixture *f = *state;
    out8(f, MCR, LOOP | 0x0f);
    out8(f, THR, 0xae);
    assert_int_equal(in8(f, LSR), 0x61);
    assert_int_equal(in8(f, RBR), 0xae);
    assert_string_equal(f->printed[0], "");
    assert_int_equal(input(f, "x"), 0); /* off the line */
    out8(f, LCR, 0x00);                 /* five bits */
    out8(f, THR, 0xff);
    assert_int_equal(in8(f, RBR), 0x1f);
    /* As a kernel sizes the FIFO. */
    out8(f, LCR, 0x03);
    out8(f, FCR, 0x07);
    for (unsigned i = 0; i < 256; i++)
        out8(f, THR, i);
    unsigned count = 0;
    while (in8(f, LSR) & 1) {
        assert_int_equal(in8(f, RBR), count);
        count++;
    }
    assert_int_equal(count, 16);
}

static void overrun_is_reported_once(void **state)
{
    struct fixture *f = *state;
    out8(f, MCR, LOOP);
    out8(f, IER, RLSI | RDI | THRI);
    out8(f, THR, 'a');
    assert_int_equal(in8(f, IIR), 0x04);
    out8(f, THR, 'b');
    assert_int_equal(in8(f, IIR), 0x06); /* before received data and transmitter */
    assert_int_equal(in8(f, LSR), 0x63);
    assert_int_equal(in8(f, LSR), 0x61);
    assert_int_equal(in8(f, IIR), 0x04);
    assert_int_equal(in8(f, RBR), 'b'); /* took the place of 'a' */
    assert_int_equal(in8(f, IIR), 0x02);
    assert_int_equal(in8(f, IIR), 0x01);
    out8(f, FCR, 0x01);
    for (unsigned i = 0; i < 17; i++)
        out8(f, THR, 'A' + i);
    assert_int_equal(in8(f, IIR), 0xc6);
    assert_int_equal(in8(f, LSR), 0x63);
    assert_int_equal(in8(f, RBR), 'A'); /* the seventeenth is lost */
}

static void modem_status_follows_the_outputs_in_loopback(void **state)
{
    static const struct {
        unsigned mcr, msr;
    } pairs[] = {{0x01, 0x20}, {0x02, 0x10}, {0x04, 0x40}, {0x08, 0x80}};
    struct fixture *f = *state;
    assert_int_equal(in8(f, MSR) & 0xf0, 0xb0); /* a terminal that is ready */
    out8(f, MCR, LOOP);
    assert_int_equal(in8(f, MSR), 0x0b); /* CTS, DSR and DCD went away */
    assert_int_equal(in8(f, MSR), 0x00);
    for (unsigned i = 0; i < 4; i++) {
        unsigned delta = pairs[i].msr >> 4;
        out8(f, MCR, LOOP | pairs[i].mcr);
        /* RI has no delta on its rising edge. */
        assert_int_equal(in8(f, MSR), pairs[i].msr | (delta == 4 ? 0 : delta));
        out8(f, MCR, LOOP);
        assert_int_equal(in8(f, MSR), delta);
    }
    out8(f, IER, MSI);
    assert_int_equal(in8(f, IIR), 0x01);
    out8(f, MCR, LOOP | 0x02);
    assert_int_equal(in8(f, IIR), 0x00);
    in8(f, MSR);
    assert_int_equal(in8(f, IIR), 0x01);
}

static void a_wide_access_is_one_per_register(void **state)
{
    struct fixture *f = *state;
    machine_port_write(f->m, LCR, 2, 0x0b1b);
    assert_int_equal(in8(f, LCR), 0x1b);
    assert_int_equal(in8(f, MCR), 0x0b);
    assert_int_equal(machine_port_read(f->m, LCR, 2), 0x0b1b);
}

#define SERIAL_TEST(name) cmocka_unit_test_setup_teardown(name, serial_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        SERIAL_TEST(prints_what_is_written),
        SERIAL_TEST(registers_keep_what_is_theirs),
        SERIAL_TEST(identifies_itself_as_a_16550a),
        SERIAL_TEST(transmitter_interrupt_comes_when_enabled_and_after_each_byte),
        SERIAL_TEST(out2_gates_the_interrupt),
        SERIAL_TEST(takes_one_byte_without_fifo),
        SERIAL_TEST(fifo_takes_sixteen_and_interrupts_at_its_trigger),
        SERIAL_TEST(a_few_bytes_below_the_trigger_time_out),
        SERIAL_TEST(loopback_receives_what_it_sends),
        SERIAL_TEST(overrun_is_reported_once),
        SERIAL_TEST(modem_status_follows_the_outputs_in_loopback),
        SERIAL_TEST(a_wide_access_is_one_per_register),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
