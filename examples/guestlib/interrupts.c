/* IDT and dispatch: SDM 3, 6.14. */
#include "cpu.h"

struct __attribute__((packed)) gate {
    uint16_t offset_low;
    uint16_t selector;
    uint8_t ist;
    uint8_t type;
    uint16_t offset_middle;
    uint32_t offset_high;
    uint32_t reserved;
};

struct __attribute__((packed)) table_register {
    uint16_t limit;
    uint64_t base;
};

#define GATE_INTERRUPT 0x8e /* present, DPL 0, 64-bit interrupt gate */
#define GATE_DPL3      0x60
#define STUB_BYTES     16
#define USER_RFLAGS    0x202 /* IF */

extern const char interrupt_stubs[];
void interrupt_dispatch(struct interrupt_frame *frame);

static struct gate idt[256];
static interrupt_handler *handlers[256];

void idt_init(void)
{
    for (unsigned i = 0; i < 256; i++) {
        uint64_t stub = (uintptr_t)interrupt_stubs + i * STUB_BYTES;
        idt[i] = (struct gate){.offset_low = (uint16_t)stub,
                               .selector = KERNEL_CS,
                               .type = GATE_INTERRUPT | (i == VECTOR_SYSTEM_CALL ? GATE_DPL3 : 0),
                               .offset_middle = (uint16_t)(stub >> 16),
                               .offset_high = (uint32_t)(stub >> 32)};
    }
    struct table_register idtr = {sizeof(idt) - 1, (uintptr_t)idt};
    __asm__ volatile("lidt %0" : : "m"(idtr));
}

void interrupt_set_handler(unsigned vector, interrupt_handler *handler)
{
    handlers[vector] = handler;
}

static void print_frame(const struct interrupt_frame *f)
{
    print("  rax %016lx rbx %016lx rcx %016lx rdx %016lx\n", f->rax, f->rbx, f->rcx, f->rdx);
    print("  rsi %016lx rdi %016lx rbp %016lx rsp %016lx\n", f->rsi, f->rdi, f->rbp, f->rsp);
    print("  r8  %016lx r9  %016lx r10 %016lx r11 %016lx\n", f->r8, f->r9, f->r10, f->r11);
    print("  r12 %016lx r13 %016lx r14 %016lx r15 %016lx\n", f->r12, f->r13, f->r14, f->r15);
    print("  cs %lx ss %lx rflags %lx\n", f->cs, f->ss, f->rflags);
}

static _Noreturn void unexpected(const struct interrupt_frame *f)
{
    print("PANIC: unexpected interrupt %lu, error code 0x%lx, at 0x%lx", f->vector, f->error_code, f->rip);
    if (f->vector == VECTOR_PAGE_FAULT)
        print(", CR2 0x%lx", read_cr2());
    print("\n");
    print_frame(f);
    print_stack_trace(f->rip, f->rbp, (uintptr_t)guest_stack, (uintptr_t)guest_stack_end);
    guest_exit(1);
}

void interrupt_dispatch(struct interrupt_frame *frame)
{
    interrupt_handler *handler = handlers[frame->vector];
    if (!handler)
        unexpected(frame);
    handler(frame);
}

struct interrupt_frame user_frame(uint64_t rip, uint64_t rsp)
{
    return (struct interrupt_frame){
        .rip = rip, .cs = USER_CS, .rflags = USER_RFLAGS, .rsp = rsp, .ss = USER_DS};
}
