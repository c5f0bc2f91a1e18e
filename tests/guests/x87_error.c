/*
 * x87 errors as the PC/AT reports them, with CR0.NE = 0: the next waiting instruction waits for IRQ 13, whose handler writes port
 * 0xf0. What must be so is checked here; what the interrupted instructions and the status words were is printed, and so is part of
 * what a replay must repeat.
 *
 * mode=irq (the default); mode=deaf: waits with interrupts off, for ever; mode=which: only tells how an error is reported.
 */
#include "cpu.h"

#define ERROR_IRQ  13
#define ERROR_PORT 0xf0
#define TIMER_IRQ  0
#define RATE_HZ    1000
#define CR0_NE     ((uint64_t)1 << 5)
#define VECTOR_MF  16

#define FSW_ZE 0x04
#define FSW_ES 0x80

#define PIC2_DATA 0xa1

static volatile unsigned errors, ticks, unmask_at, native_errors;
static volatile bool keep_error; /* the handler writes the port, and leaves the error as it is */

static uint16_t status_word(void)
{
    uint16_t fsw;
    __asm__ volatile("fnstsw %0" : "=m"(fsw));
    return fsw;
}

static void control_word(uint16_t fcw)
{
    __asm__ volatile("fldcw %0" : : "m"(fcw));
}

static void on_error(struct interrupt_frame *frame)
{
    uint16_t fsw = status_word(), waited;
    errors++;
    if (!(fsw & FSW_ES))
        panic("IRQ 13 without an error: FSW %x", fsw);
    print("error %u at %lx: fsw %x\n", errors, frame->rip, fsw);
    out8(ERROR_PORT, 0);
    __asm__ volatile("fwait; fstsw %0" : "=m"(waited)); /* IGNNE# lets both pass */
    if (waited != fsw)
        panic("FSTSW found %x, FNSTSW %x", waited, fsw);
    if (!keep_error)
        __asm__ volatile("fnclex");
    pic_end_of_interrupt(ERROR_IRQ);
}

static void on_timer(struct interrupt_frame *frame)
{
    (void)frame;
    if (++ticks == unmask_at)
        pic_enable(ERROR_IRQ);
    pic_end_of_interrupt(TIMER_IRQ);
}

static void on_native_error(struct interrupt_frame *frame)
{
    (void)frame;
    native_errors++;
    __asm__ volatile("fnclex");
}

/* 1 / 0, with the error unmasked: ES is set, and nothing has waited yet. */
static void divide_by_zero(void)
{
    __asm__ volatile("fninit");
    control_word(0x37f & ~FSW_ZE);
    __asm__ volatile("fldz; fld1; fdiv %st(1), %st");
    if (!(status_word() & FSW_ES))
        panic("1 / 0 left FSW %x", status_word());
}

static void expect_errors(const char *what, unsigned wanted)
{
    if (errors != wanted)
        panic("%s: %u errors instead of %u", what, errors, wanted);
    print("%s\n", what);
}

static void each_waiting_instruction_waits(void)
{
    uint16_t word;
    uint64_t mmx = 0;
    divide_by_zero();
    __asm__ volatile("fwait");
    expect_errors("FWAIT waits", 1);
    divide_by_zero();
    __asm__ volatile("fld1");
    expect_errors("FLD1 waits", 2);
    divide_by_zero();
    __asm__ volatile("fnstcw %0; fnstsw %0; fnclex; fwait" : "=m"(word));
    expect_errors("FNSTCW, FNSTSW and FNCLEX do not", 2);
    divide_by_zero();
    __asm__ volatile("movq %0, %%mm0; emms" : : "m"(mmx));
    expect_errors("MOVQ waits", 3);
    for (unsigned i = 0; i < 100; i++) { /* enough for the loop to be translated */
        divide_by_zero();
        __asm__ volatile("xor %%eax, %%eax; mov $1, %%eax; fld1; add $1, %%eax" : : : "rax", "cc");
    }
    expect_errors("every time", 103);
}

/* The error is there until it is cleared, and nobody minds: IGNNE# stays asserted. Then the next error is one again. */
static void ignored(void)
{
    uint64_t one = 0;
    keep_error = true;
    divide_by_zero();
    __asm__ volatile("fld1; fistpll %0; fld1; fstp %%st" : "=m"(one));
    if (one != 1 || !(status_word() & FSW_ES))
        panic("with IGNNE#: %lu, FSW %x", one, status_word());
    control_word(0x37f); /* masks it: ES goes, the flag stays */
    if ((status_word() & (FSW_ES | FSW_ZE)) != FSW_ZE)
        panic("masked: FSW %x", status_word());
    keep_error = false;
    expect_errors("an error is ignored after port f0", 104);
    divide_by_zero();
    __asm__ volatile("fwait");
    expect_errors("the next one is not", 105);
}

static void port_without_error(void)
{
    out8(ERROR_PORT, 0);
    divide_by_zero();
    out8(ERROR_PORT, 0); /* nothing has waited: no IRQ 13 yet */
    __asm__ volatile("fwait");
    expect_errors("port f0 without IRQ 13 does nothing", 106);
}

/* Other interrupts are taken meanwhile, and the instruction waits again. */
static void masked_interrupt(void)
{
    out8(PIC2_DATA, 0xff);
    unmask_at = ticks + 5;
    divide_by_zero();
    __asm__ volatile("fwait");
    if (ticks < unmask_at)
        panic("FWAIT waited %u ticks, not 5", ticks + 5 - unmask_at);
    expect_errors("timer interrupts while it waits", 107);
}

static void native(void)
{
    write_cr0(read_cr0() | CR0_NE);
    divide_by_zero();
    __asm__ volatile("fwait");
    write_cr0(read_cr0() & ~CR0_NE);
    if (native_errors != 1)
        panic("CR0.NE = 1: %u times #MF", native_errors);
    expect_errors("CR0.NE = 1: #MF", 107);
    divide_by_zero();
    __asm__ volatile("fwait");
    expect_errors("CR0.NE = 0 again", 108);
}

void guest_main(void)
{
    char mode[16];
    gdt_init();
    idt_init();
    pic_init();
    interrupt_set_handler(VECTOR_IRQ0 + TIMER_IRQ, on_timer);
    interrupt_set_handler(VECTOR_IRQ0 + ERROR_IRQ, on_error);
    interrupt_set_handler(VECTOR_MF, on_native_error);
    write_cr0(read_cr0() & ~CR0_NE);
    pit_start(RATE_HZ);
    pic_enable(TIMER_IRQ);
    pic_enable(ERROR_IRQ);
    option_string("mode", mode, sizeof(mode));
    if (strcmp(mode, "deaf") == 0) {
        divide_by_zero();
        __asm__ volatile("fwait");
        panic("FWAIT did not wait");
    }
    interrupts_enable();
    if (strcmp(mode, "which") == 0) {
        divide_by_zero();
        __asm__ volatile("fwait");
        print("reported by %s\n", errors ? "IRQ 13" : native_errors ? "#MF" : "nothing");
        guest_exit(0);
    }
    each_waiting_instruction_waits();
    ignored();
    port_without_error();
    masked_interrupt();
    native();
    print("%u errors\n", errors);
    guest_exit(0);
}
