/*
 * A guest that behaves badly, in a way of its choice: mode=NAME, count=N, seed=N. Whatever it does must end in a
 * guest's end (exit, triple fault, timeout), never in a crash of ours.
 */
#include "cpu.h"

#define EXIT_PORT 0xf4

static uint64_t random_state = 0x243f6a8885a308d3;

static uint64_t random_number(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static uint64_t count;

/* Faults of the modes that provoke them: goes on at R15. */
static void skip(struct interrupt_frame *f)
{
    f->rip = f->r15;
}

static void skip_faults(void)
{
    for (unsigned vector = 0; vector < 32; vector++)
        interrupt_set_handler(vector, skip);
}

/* Runs one instruction; a fault skips it. */
#define TRY(instruction, ...)                                                                                \
    __asm__ volatile("lea 9f(%%rip), %%r15\n\t" instruction "\n9:"                                           \
                     :                                                                                       \
                     : __VA_ARGS__                                                                           \
                     : "rax", "r15", "memory", "cc")

static void ports(void)
{
    for (uint64_t i = 0; i < count; i++) {
        uint64_t r = random_number();
        uint16_t port = (uint16_t)r;
        /* Not the exit and reset ports, and not what would flood the console. */
        if ((port >= EXIT_PORT - 3 && port <= EXIT_PORT) || (port >= 0x61 && port <= 0x64) ||
            (port >= 0x8f && port <= 0x92) || (port >= 0x3f5 && port <= 0x3f8) ||
            (port >= 0xe6 && port <= 0xe9) || (port >= 0xcf6 && port <= 0xcf9))
            continue;
        switch (r >> 16 & 7) {
        case 0:
            out8(port, (uint8_t)(r >> 32));
            break;
        case 1:
            out16(port, (uint16_t)(r >> 32));
            break;
        case 2:
            out32(port, (uint32_t)(r >> 32));
            break;
        case 3:
            (void)in8(port);
            break;
        case 4:
            (void)in16(port);
            break;
        default:
            (void)in32(port);
            break;
        }
    }
}

/* Where there is no RAM: from 3 GiB to 4 GiB. Any size, any alignment. */
static void mmio(void)
{
    for (uint64_t i = 0; i < count; i++) {
        uint64_t r = random_number();
        volatile void *p = (volatile void *)(0xc0000000 + (r >> 8) % 0x3fffff00);
        switch (r & 7) {
        case 0:
            *(volatile uint8_t *)p = (uint8_t)r;
            break;
        case 1:
            *(volatile uint16_t *)p = (uint16_t)r;
            break;
        case 2:
            *(volatile uint32_t *)p = (uint32_t)r;
            break;
        case 3:
            *(volatile uint64_t *)p = r;
            break;
        case 4:
            (void)*(volatile uint8_t *)p;
            break;
        case 5:
            (void)*(volatile uint16_t *)p;
            break;
        case 6:
            (void)*(volatile uint32_t *)p;
            break;
        default:
            (void)*(volatile uint64_t *)p;
            break;
        }
    }
}

/* Random page tables for the second 512 GiB, and accesses all over them. */
static void tables(void)
{
    uint64_t *root = paging_init(0x400000, 0);
    uint64_t *table[4];
    for (unsigned i = 0; i < ARRAY_LEN(table); i++)
        table[i] = page_allocate();
    root[1] = (uintptr_t)table[0] | 7;
    for (uint64_t i = 0; i < count; i++) {
        for (unsigned j = 0; j < 64; j++) {
            uint64_t r = random_number(), entry = r;
            if (r & 1) /* half of them lead on, to itself too, the others anywhere */
                entry = (uintptr_t)table[r >> 8 & 3] | (r >> 16 & 0xfff);
            table[r >> 32 & 3][r >> 40 & 511] = entry;
        }
        write_cr3((uintptr_t)root);
        for (unsigned j = 0; j < 64; j++) {
            uint64_t r = random_number();
            uint64_t address = 0x8000000000 | (r & 0x7fffffffff);
            if (r >> 60 == 0)
                TRY("jmp *%0", "r"(address));
            else
                TRY("mov (%0), %%rax", "r"(address));
        }
    }
}
/* Random control registers, MSRs and selectors. What takes effect may well end the guest. */
static void system_registers(void)
{
    for (uint64_t i = 0; i < count; i++) {
        uint64_t r = random_number(), value = random_number() >> (r >> 8 & 63);
        switch (r & 7) {
        case 0:
            TRY("mov %0, %%cr0", "r"(read_cr0() ^ (uint64_t)1 << (value & 63)));
            break;
        case 1:
            TRY("mov %%cr4, %%rax; xor %0, %%rax; mov %%rax, %%cr4", "r"((uint64_t)1 << (value & 31)));
            break;
        case 2:
            TRY("mov %0, %%cr8", "r"(value));
            break;
        case 3:
            TRY("mov %1, %%eax; wrmsr", "c"((uint32_t)(r >> 32) & 0xc0000fff), "r"((uint32_t)value),
                "d"((uint32_t)(value >> 32)));
            break;
        case 4:
            TRY("push %%rdx; rdmsr; pop %%rdx", "c"((uint32_t)(r >> 32)));
            break;
        case 5:
            TRY("mov %w0, %%fs", "r"((uint32_t)value));
            break;
        case 6:
            TRY("lldt %w0", "r"((uint32_t)value));
            break;
        default:
            TRY("mov %0, %%dr7", "r"(value & ~0xffull)); /* no breakpoint becomes active */
            break;
        }
    }
}

/* Waits for no error: answers as it likes, or not at all. */
static void answer_x87_error(struct interrupt_frame *f)
{
    uint64_t r = random_number();
    (void)f;
    if (r & 3)
        out8(0xf0, (uint8_t)r);
    if (r & 4)
        __asm__ volatile("fnclex");
    if (r & 8)
        pic_end_of_interrupt(13);
}

/* A timer that now and then ends what would wait for ever. */
static void unblock_x87_error(struct interrupt_frame *f)
{
    uint64_t r = random_number();
    (void)f;
    if (!(r & 3))
        __asm__ volatile("fninit");
    out8(0xa1, r & 4 ? 0xdf : 0xff);
    out8(0xa0, 0x20);
    pic_end_of_interrupt(0);
}

/*
 * Random x87 states and instructions, CR0.NE on and off, IRQ 13 masked or not, interrupts off for a while. "pointers": the x87's
 * pointers are stored too. AMD's CPUs lose them when the host changes tasks (FXSAVE without an exception pending), so not under KVM.
 */
static void x87_errors(void)
{
    static uint8_t image[576] __attribute__((aligned(64)));
    bool pointers = option_present("pointers");
    pic_init();
    interrupt_set_handler(32, unblock_x87_error);
    interrupt_set_handler(32 + 13, answer_x87_error);
    pic_enable(0);
    pic_enable(13);
    pit_start(2000);
    interrupts_enable();
    for (uint64_t i = 0; i < count * 10; i++) {
        uint64_t r = random_number();
        image[0] = (uint8_t)r, image[1] = 3; /* FCW */
        image[2] = (uint8_t)(r >> 8), image[4] = (uint8_t)(r >> 16);
        image[25] = 0x1f; /* MXCSR */
        switch (r >> 32 & 15) {
        case 0:
            write_cr0(read_cr0() ^ 0x20);
            break;
        case 1:
            TRY("fxrstor64 (%0)", "r"(image));
            break;
        case 2:
            TRY("fldcw (%0)", "r"(image));
            break;
        case 3:
            TRY("fldz; fld1; fdivp", "r"(image));
            break;
        case 4:
            TRY("fldenv (%0)", "r"(image));
            break;
        case 5:
            TRY("frstor (%0)", "r"(image));
            break;
        case 6:
            if (pointers)
                TRY("fnsave (%0)", "r"(image));
            else
                TRY("fninit", "r"(image));
            break;
        case 7:
            TRY("movq (%0), %%mm3; paddb %%mm3, %%mm4; emms", "r"(image));
            break;
        case 8:
            TRY("cvtpi2ps %%mm1, %%xmm2; cvtps2pi (%0), %%mm5", "r"(image));
            break;
        case 9:
            out8(0xf0, 0);
            break;
        case 10:
            TRY("fsqrt; fistpll 64(%0)", "r"(image));
            break;
        case 11:
            TRY("fnclex", "r"(image));
            break;
        case 12:
            if (!(r >> 40 & 63)) {
                __asm__ volatile("cli");
                TRY("fwait", "r"(image));
                __asm__ volatile("sti");
            }
            break;
        default:
            if (pointers)
                TRY("fwait; fnstenv 128(%0)", "r"(image));
            TRY("fwait; fstsw 192(%0)", "r"(image));
            break;
        }
    }
}

static void triple_fault(void)
{
    struct __attribute__((packed)) {
        uint16_t limit;
        uint64_t base;
    } none = {0, 0};
    __asm__ volatile("lidt %0; ud2" : : "m"(none));
}

static void bad_cr3(void)
{
    write_cr3(0xfffff0000);
}

static void bad_stack(void)
{
    __asm__ volatile("mov %0, %%rsp; push %%rax" : : "r"(0x8000000000000000) : "memory");
}

static void no_change(struct interrupt_frame *f)
{
    (void)f;
}

static void endless_ud(void)
{
    interrupt_set_handler(VECTOR_INVALID_OPCODE, no_change);
    __asm__ volatile("ud2");
}

static void endless_pf(void)
{
    interrupt_set_handler(VECTOR_PAGE_FAULT, no_change);
    paging_init(0x400000, 0);
    (void)*(volatile uint64_t *)0x40000000;
}

static void fault_again(struct interrupt_frame *f)
{
    (void)f;
    __asm__ volatile("ud2");
}

/* Every fault inside the handler of the one before: the stack grows down over everything. */
static void nested_faults(void)
{
    interrupt_set_handler(VECTOR_INVALID_OPCODE, fault_again);
    __asm__ volatile("ud2");
}

static void huge_rep_ram(void)
{
    void *to = (void *)0x1000000;
    uint64_t length = (uint64_t)1 << 62;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(length) : "a"(0) : "memory");
}

static void huge_rep_mmio(void)
{
    void *to = (void *)0xd0000000;
    uint64_t length = (uint64_t)1 << 28;
    __asm__ volatile("rep stosq" : "+D"(to), "+c"(length) : "a"(0) : "memory");
}

static void huge_rep_port(void)
{
    const void *from = (const void *)0x100000;
    uint64_t length = (uint64_t)1 << 32;
    __asm__ volatile("rep outsb" : "+S"(from), "+c"(length) : "d"(0x1234) : "memory");
}

static void flood(void)
{
    for (;;)
        print("What nobody reads has to go somewhere.\n");
}

static void huge_rep_mmio_read(void)
{
    const void *from = (const void *)0xd0000000;
    void *to = (void *)0x1000000;
    uint64_t length = (uint64_t)1 << 24;
    __asm__ volatile("rep movsq" : "+S"(from), "+D"(to), "+c"(length) : : "memory");
}

static void huge_rep_port_read(void)
{
    void *to = (void *)0x1000000;
    uint64_t length = (uint64_t)1 << 32;
    __asm__ volatile("rep insb" : "+D"(to), "+c"(length) : "d"(0x1234) : "memory");
}

/* ---- the PC's platform: configuration space, BARs, interrupt controllers, ACPI registers, MSRs ---- */

#define LOCAL_APIC 0xfee00000u
#define IO_APIC    0xfec00000u
#define PCI_BARS   0xe0000000u

static void end_of_interrupt(struct interrupt_frame *frame)
{
    (void)frame;
    *(volatile uint32_t *)(LOCAL_APIC + 0xb0) = 0;
    out8(0xa0, 0x20);
    out8(0x20, 0x20);
}

static void random_mmio(uint64_t address, uint64_t r)
{
    if (r & 1)
        (void)*(volatile uint32_t *)address;
    else if (r & 2)
        *(volatile uint32_t *)address = (uint32_t)(r >> 32);
    else
        *(volatile uint8_t *)address = (uint8_t)(r >> 32);
}

/* Mostly what makes it work: on, timers and messages to itself with vectors that have a handler. */
static void random_local_apic(uint64_t r)
{
    volatile uint32_t *apic = (volatile uint32_t *)(uintptr_t)LOCAL_APIC;
    uint32_t vector = 32 + (uint32_t)(r >> 8) % 224;
    switch (r & 7) {
    case 0:
        apic[0xf0 / 4] = 0x100 | vector;
        break;
    case 1:
        apic[0x320 / 4] = vector | (uint32_t)(r >> 20 & 7) << 16; /* masked, periodic, TSC deadline */
        break;
    case 2:
        apic[0x380 / 4] = (uint32_t)(r >> 20 & 0xffff);
        break;
    case 3:
    case 4:
        apic[0x300 / 4] = 0x40000 | vector;
        break;
    case 5:
        apic[0x80 / 4] = (uint32_t)(r >> 20 & 0x3f);
        break;
    default:
        random_mmio(LOCAL_APIC + (r >> 12 & 0x3f0), r >> 20);
        break;
    }
}

static void random_config(uint64_t r)
{
    out32(0xcf8, 0x80000000u | (uint32_t)(r >> 8 & 3) << 11 | (uint32_t)(r >> 16 & 0xfc));
    if (r & 1)
        (void)in32(0xcfc);
    else if (r & 2)
        out16(0xcfc, (uint16_t)(r >> 32 &
                                0x8407)); /* the bits that mean something in command and control registers */
    else
        out32(0xcfc, (uint32_t)(r >> 32));
}

/* With the timer mostly soon, and TPR now and then in the way. */
static void random_msr(uint64_t r)
{
    static const uint32_t index[] = {0x6e0, 0x6e0, 0x6e0, 0x1b, 0x802, 0x808, 0x10, 0x3b};
    uint64_t which = r >> 4 & 7, value = r & 1 ? r : r >> 40;
    if (index[which] == 0x1b)
        value = LOCAL_APIC | 0x100 | (r >> 10 & 15 ? 0x800 : 0);
    uint32_t low = (uint32_t)value, high = (uint32_t)(value >> 32);
    if (r & 8) /* a fault skips it, as in TRY */
        __asm__ volatile("lea 9f(%%rip), %%r15; rdmsr; 9:"
                         : "+a"(low), "+d"(high)
                         : "c"(index[which])
                         : "r15");
    else
        __asm__ volatile("lea 9f(%%rip), %%r15; wrmsr; 9:"
                         : "+a"(low), "+d"(high)
                         : "c"(index[which])
                         : "r15", "memory");
}

static void platform(void)
{
    for (unsigned vector = 32; vector < 256; vector++)
        interrupt_set_handler(vector, end_of_interrupt);
    pic_init();
    for (unsigned irq = 9; irq < 12; irq++) /* the SCI and PCI */
        pic_enable(irq);
    interrupts_enable();
    for (uint64_t i = 0; i < count * 100; i++) {
        uint64_t r = random_number();
        switch (r & 7) {
        case 0:
        case 1:
            random_config(r >> 3);
            break;
        case 2:
            random_local_apic(r >> 3);
            break;
        case 3:
            *(volatile uint32_t *)IO_APIC = r >> 12 & 0x3f;
            random_mmio(IO_APIC + 0x10, r >> 3);
            break;
        case 4:
            random_mmio(PCI_BARS + (r >> 12 & 0xffff), r >> 3);
            break;
        case 5:
            random_msr(r >> 3);
            break;
        case 6:
            TRY("mov %0, %%cr8", "r"(r >> 8 & 1 ? r >> 12 & 3 : 0));
            break;
        default:
            out16(0x600 + (r >> 8 & 2), (uint16_t)(r >> 32)); /* not the register that powers off */
            break;
        }
    }
}

static void halt(void)
{
    __asm__ volatile("cli; hlt");
}

static void spin(void)
{
    __asm__ volatile("cli; jmp .");
}

static void tick(struct interrupt_frame *frame)
{
    (void)frame;
    pic_end_of_interrupt(0);
}

/* Takes an interrupt as it should, and then none any more. */
static void deaf(void)
{
    pic_init();
    interrupt_set_handler(32, tick);
    pic_enable(0);
    pit_start(100);
    wait_for_interrupt();
    interrupts_disable();
    spin();
}

static void jump_to(uint64_t address)
{
    __asm__ volatile("jmp *%0" : : "r"(address));
}

static void nowhere(void)
{
    jump_to(0xd0000000); /* neither RAM nor device */
}

static void not_canonical(void)
{
    jump_to(0x8000000000000000);
}

static const struct {
    const char *name;
    void (*run)(void);
    bool faults_expected;
} modes[] = {
    {"ports", ports, false},
    {"mmio", mmio, false},
    {"tables", tables, true},
    {"system", system_registers, true},
    {"triple", triple_fault, false},
    {"cr3", bad_cr3, false},
    {"stack", bad_stack, false},
    {"ud", endless_ud, false},
    {"pf", endless_pf, false},
    {"nested", nested_faults, false},
    {"rep-ram", huge_rep_ram, false},
    {"rep-mmio", huge_rep_mmio, false},
    {"rep-port", huge_rep_port, false},
    {"rep-mmio-read", huge_rep_mmio_read, false},
    {"rep-port-read", huge_rep_port_read, false},
    {"flood", flood, false},
    {"platform", platform, true},
    {"x87", x87_errors, true},
    {"halt", halt, false},
    {"spin", spin, false},
    {"deaf", deaf, false},
    {"nowhere", nowhere, false},
    {"not-canonical", not_canonical, false},
};

void guest_main(void)
{
    char name[32];
    option_string("mode", name, sizeof(name));
    count = option_number("count", 1000);
    random_state += option_number("seed", 0) * 0x9e3779b97f4a7c15;
    gdt_init();
    idt_init();
    for (unsigned i = 0; i < ARRAY_LEN(modes); i++) {
        if (strcmp(modes[i].name, name) != 0)
            continue;
        print("mode %s\n", name);
        if (modes[i].faults_expected)
            skip_faults();
        modes[i].run();
        guest_exit(0);
    }
    panic("no such mode: \"%s\"", name);
}
