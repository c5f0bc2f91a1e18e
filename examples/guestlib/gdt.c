/* GDT and TSS of a 64-bit guest: SDM 3, 3.4.5 and 8.7. */
#include "cpu.h"

struct __attribute__((packed)) task_state_segment {
    uint32_t reserved0;
    uint64_t rsp[3];
    uint64_t reserved1;
    uint64_t ist[7];
    uint64_t reserved2;
    uint16_t reserved3;
    uint16_t io_map; /* at or beyond the limit: no port is open to ring 3 */
};

struct __attribute__((packed)) table_register {
    uint16_t limit;
    uint64_t base;
};

static struct task_state_segment tss;
static uint64_t gdt[7];

#define DESCRIPTOR_CODE64    0x00af9b000000ffffull /* present, accessed, G and L set */
#define DESCRIPTOR_DATA      0x00cf93000000ffffull
#define DESCRIPTOR_DPL3      0x0000600000000000ull
#define DESCRIPTOR_TSS_AVAIL 0x0000890000000000ull

void gdt_init(void)
{
    uint64_t base = (uintptr_t)&tss;
    tss.io_map = sizeof(tss);
    tss.rsp[0] = (uintptr_t)guest_stack_end;

    gdt[KERNEL_CS / 8] = DESCRIPTOR_CODE64;
    gdt[KERNEL_DS / 8] = DESCRIPTOR_DATA;
    gdt[USER_DS / 8] = DESCRIPTOR_DATA | DESCRIPTOR_DPL3;
    gdt[USER_CS / 8] = DESCRIPTOR_CODE64 | DESCRIPTOR_DPL3;
    gdt[TSS_SELECTOR / 8] =
        DESCRIPTOR_TSS_AVAIL | (sizeof(tss) - 1) | (base & 0xffffff) << 16 | (base >> 24 & 0xff) << 56;
    gdt[TSS_SELECTOR / 8 + 1] = base >> 32;

    struct table_register gdtr = {sizeof(gdt) - 1, (uintptr_t)gdt};
    __asm__ volatile("lgdt %0\n\t"
                     "mov %1, %%ds\n\t"
                     "mov %1, %%es\n\t"
                     "mov %1, %%ss\n\t"
                     "push %2\n\t"
                     "lea 1f(%%rip), %%rax\n\t"
                     "push %%rax\n\t"
                     "lretq\n"
                     "1:\n\t"
                     "ltr %w3"
                     :
                     : "m"(gdtr), "r"((uint32_t)KERNEL_DS), "i"(KERNEL_CS), "r"((uint32_t)TSS_SELECTOR)
                     : "rax", "memory");
}

void tss_set_kernel_stack(uint64_t rsp0)
{
    tss.rsp[0] = rsp0;
}
