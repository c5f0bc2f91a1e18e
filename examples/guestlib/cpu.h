/* The machine under a 64-bit guest: descriptors, interrupts, timer, page tables, ring 3. */
#ifndef GUEST_CPU_H
#define GUEST_CPU_H

#include "guest.h"

/* ---- control registers and MSRs ---- */

#define MSR_EFER 0xc0000080u
#define EFER_NXE ((uint64_t)1 << 11)
#define CR0_WP   ((uint64_t)1 << 16)

static inline uint64_t read_cr0(void)
{
    uint64_t value;
    __asm__ volatile("mov %%cr0, %0" : "=r"(value));
    return value;
}

static inline void write_cr0(uint64_t value)
{
    __asm__ volatile("mov %0, %%cr0" : : "r"(value) : "memory");
}

static inline uint64_t read_cr2(void)
{
    uint64_t value;
    __asm__ volatile("mov %%cr2, %0" : "=r"(value));
    return value;
}

static inline void write_cr3(uint64_t value)
{
    __asm__ volatile("mov %0, %%cr3" : : "r"(value) : "memory");
}

static inline uint64_t read_msr(uint32_t index)
{
    uint32_t low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
    return (uint64_t)high << 32 | low;
}

static inline void write_msr(uint32_t index, uint64_t value)
{
    __asm__ volatile("wrmsr" : : "c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

static inline void invalidate_page(uint64_t address)
{
    __asm__ volatile("invlpg (%0)" : : "r"(address) : "memory");
}

/* ---- segments and ring 3, gdt.c ---- */

enum selector { KERNEL_CS = 0x08, KERNEL_DS = 0x10, USER_DS = 0x1b, USER_CS = 0x23, TSS_SELECTOR = 0x28 };

/*
 * Loads a GDT of our own and a TSS. Interrupts from ring 3 use the entry code's stack from its end on: code that
 * goes to ring 3 with interrupt_return must not expect to find its own frames again.
 */
void gdt_init(void);

/* Where the CPU finds its stack when an interrupt comes from ring 3. */
void tss_set_kernel_stack(uint64_t rsp0);

/* ---- interrupts, interrupts.c and isr.S ---- */

/* What is on the stack in a handler: isr.S pushes the upper part, the CPU (SDM 3, figure 6-9) from error_code on. */
struct interrupt_frame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8;
    uint64_t rbp, rdi, rsi, rdx, rcx, rbx, rax;
    uint64_t vector;
    uint64_t error_code; /* 0 where the exception has none */
    uint64_t rip, cs, rflags, rsp, ss;
};

enum vector {
    VECTOR_DIVIDE = 0,
    VECTOR_INVALID_OPCODE = 6,
    VECTOR_GENERAL_PROTECTION = 13,
    VECTOR_PAGE_FAULT = 14,
    VECTOR_IRQ0 = 32, /* IRQ n is vector 32 + n */
};

/*
 * System calls are INT 4. Of all INT n, only 3 and 4 work under kvm_pvm, the KVM of hosts without virtualisation
 * hardware: the others raise #UD there.
 */
#define VECTOR_SYSTEM_CALL 4

/*
 * The handler may change the frame: the interrupted code goes on with what it says then. Interrupts are off.
 */
typedef void interrupt_handler(struct interrupt_frame *frame);

/* Loads the IDT. An exception without a handler panics; the vector VECTOR_SYSTEM_CALL is open to ring 3. */
void idt_init(void);
void interrupt_set_handler(unsigned vector, interrupt_handler *handler);

/* Goes to the state in frame, for example ring 3; does not come back. isr.S */
_Noreturn void interrupt_return(const struct interrupt_frame *frame);

/* A frame that starts ring-3 code with interrupts on and all registers zero. */
struct interrupt_frame user_frame(uint64_t rip, uint64_t rsp);

static inline void interrupts_enable(void)
{
    __asm__ volatile("sti" : : : "memory");
}

static inline void interrupts_disable(void)
{
    __asm__ volatile("cli" : : : "memory");
}

/* Interrupts on, and sleep until one came: STI's shadow covers HLT, so that none is missed. */
static inline void wait_for_interrupt(void)
{
    __asm__ volatile("sti; hlt" : : : "memory");
}

/* ---- 8259A interrupt controllers and 8254 timer, pic_pit.c ---- */

void pic_init(void); /* IRQs at vectors 32..47, all masked */
void pic_enable(unsigned irq);
void pic_end_of_interrupt(unsigned irq);
void pit_start(uint32_t rate_hz); /* channel 0, periodic, IRQ 0; 19 Hz to 1 MHz */

/* ---- page tables, paging.c ---- */

enum page_flag {
    PAGE_PRESENT = 1 << 0,
    PAGE_WRITABLE = 1 << 1,
    PAGE_USER = 1 << 2,
    PAGE_ACCESSED = 1 << 5,
    PAGE_DIRTY = 1 << 6,
    PAGE_LARGE = 1 << 7, /* a 2 MiB page */
};
#define PAGE_NO_EXECUTE   ((uint64_t)1 << 63) /* needs EFER_NXE */
#define PAGE_ADDRESS_MASK ((uint64_t)0x000ffffffffff000)
#define PAGE_BYTES        ((uint64_t)4096)
#define LARGE_PAGE_BYTES  ((uint64_t)0x200000)

/* A zeroed 4 KiB page from a small pool; panics when the pool is empty. Its address is physical, too. */
void *page_allocate(void);

/*
 * Maps one page, 4 KiB or (with PAGE_LARGE) 2 MiB. PAGE_PRESENT is implied; tables above are made as
 * needed, writable and open to ring 3, so that the last level alone decides.
 */
void page_map(uint64_t *root, uint64_t address, uint64_t physical, uint64_t flags);

/* The entry of the page that address is in (either size), or NULL where there is none, present or not. */
uint64_t *page_entry(uint64_t *root, uint64_t address);

/*
 * Makes and loads page tables that map [0, bytes) to itself, writable, in 2 MiB pages, for ring 0 only, except
 * for user_start..user_end (guest.ld), which ring 3 may use. flags are more page flags: with PAGE_ACCESSED | PAGE_DIRTY
 * the CPU finds these bits set and need not write to the tables. Returns the root.
 */
uint64_t *paging_init(uint64_t bytes, uint64_t flags);

extern char user_start[], user_end[], guest_stack[], guest_stack_end[];

#endif
