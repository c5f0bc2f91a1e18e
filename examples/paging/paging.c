/*
 * Page tables at work: demand paging in pages of 4 KiB and 2 MiB, copy on write, and every kind of page fault,
 * provoked, caught and explained; and the A and D bits that the CPU sets. The output is the same in every run.
 */
#include "cpu.h"

/* Virtual addresses that nothing else uses. 2 MiB boundaries, so that each has a page table of its own. */
#define DEMAND_START    0x40000000ul /* 4 KiB pages, made when touched */
#define DEMAND_END      0x40010000ul
#define SUPERVISOR_PAGE 0x50000000ul /* probe.user.S knows it, too */
#define READ_ONLY_PAGE  0x60000000ul
#define NO_EXECUTE_PAGE 0x60200000ul
#define ACCESSED_PAGE   0x60400000ul
#define ACCESSED_LARGE  0x60600000ul
#define RESERVED_PAGE   0x8000000000ul /* has a PML4 entry of its own */
#define LARGE_START     0x80000000ul   /* 2 MiB pages, made when touched */
#define LARGE_END       0x80400000ul
#define LARGE_PHYSICAL  0x01000000ul /* what they are made of: RAM from 16 MiB on */
#define IDENTITY_BYTES  0x02000000ul
#define NOT_CANONICAL   0x8000000000000000ul

bool probe_read(uint64_t address);
bool probe_write(uint64_t address);
bool probe_call(uint64_t address);
void probe_failed(void);
extern uint64_t probe_stack;
extern char user_probe[];

static uint64_t *root;
static uint64_t next_large = LARGE_PHYSICAL;
static uint64_t zero_page;

static void print_fault(const struct interrupt_frame *f, uint64_t address)
{
    uint64_t code = f->error_code; /* SDM 3, figure 4-12 */
    print("  #PF at %lx, error code %02lx:", address, code);
    print(code & 1 ? " protection" : " not present");
    print(code & 16 ? ", instruction fetch" : code & 2 ? ", write" : ", read");
    print(code & 4 ? ", user" : ", supervisor");
    print(code & 8 ? ", reserved bit\n" : "\n");
}

/* Makes what is missing; false if the fault is not about demand paging. */
static bool demand_page(uint64_t address, uint64_t code)
{
    if (address >= LARGE_START && address < LARGE_END && !(code & 1)) {
        page_map(root, address, next_large, PAGE_WRITABLE | PAGE_LARGE);
        print("    mapped 2 MiB\n");
        next_large += LARGE_PAGE_BYTES;
        return true;
    }
    if (address < DEMAND_START || address >= DEMAND_END)
        return false;
    if (!(code & 2)) {
        page_map(root, address, zero_page, 0);
        print("    mapped the zero page, read-only\n");
        return true;
    }
    void *page = page_allocate();
    if (code & 1)
        memcpy(page, (const void *)(address & ~(PAGE_BYTES - 1)), PAGE_BYTES);
    page_map(root, address, (uintptr_t)page, PAGE_WRITABLE);
    invalidate_page(address);
    print(code & 1 ? "    copied on write\n" : "    mapped 4 KiB\n");
    return true;
}

static void page_fault(struct interrupt_frame *f)
{
    uint64_t address = read_cr2();
    print_fault(f, address);
    if (f->cs == USER_CS) {
        f->rip = f->r15;
    } else if (!demand_page(address, f->error_code)) {
        if (!probe_stack)
            panic("page fault at 0x%lx by 0x%lx", address, f->rip);
        f->rip = (uintptr_t)probe_failed;
        f->rsp = probe_stack;
    }
}

static void general_protection(struct interrupt_frame *f)
{
    print("  #GP, error code %lx\n", f->error_code);
    if (!probe_stack)
        panic("general protection at 0x%lx", f->rip);
    f->rip = (uintptr_t)probe_failed;
    f->rsp = probe_stack;
}

static void demand_paging(void)
{
    print("demand paging:\n");
    volatile uint64_t *p = (volatile uint64_t *)DEMAND_START;
    p[0] = 7;
    print("  reads back %lu\n", p[0]);
    print("  never written: %lu\n", p[512]);
    p[513] = 9;
    print("  after the write: %lu %lu\n", p[512], p[513]);
    /* One access, two pages, two faults. */
    volatile uint64_t *across = (volatile uint64_t *)(DEMAND_START + 5 * PAGE_BYTES - 4);
    *across = 0x1122334455667788;
    print("  across two pages: %lx\n", *across);
    volatile uint64_t *large = (volatile uint64_t *)LARGE_START;
    large[0] = 1;
    large[LARGE_PAGE_BYTES / 8 - 1] = 2;
    large[LARGE_PAGE_BYTES / 8] = 3;
    print("  large pages: %lu %lu %lu\n", large[0], large[LARGE_PAGE_BYTES / 8 - 1],
          large[LARGE_PAGE_BYTES / 8]);
}

static void report(const char *what, bool went_well)
{
    print("  %s: %s\n", what, went_well ? "went well" : "caught");
}

static void faults(void)
{
    print("faults:\n");
    report("read of nothing", probe_read(0x70000000));
    report("call of nothing", probe_call(0x70001000));
    report("not canonical", probe_read(NOT_CANONICAL));

    page_map(root, READ_ONLY_PAGE, (uintptr_t)page_allocate(), 0);
    report("read of a read-only page", probe_read(READ_ONLY_PAGE));
    report("write to it", probe_write(READ_ONLY_PAGE));
    write_cr0(read_cr0() & ~CR0_WP);
    report("write to it with CR0.WP = 0", probe_write(READ_ONLY_PAGE));
    write_cr0(read_cr0() | CR0_WP);
    report("and with CR0.WP = 1 again", probe_write(READ_ONLY_PAGE));

    uint8_t *code = page_allocate();
    code[0] = 0xc3; /* ret */
    page_map(root, NO_EXECUTE_PAGE, (uintptr_t)code, PAGE_NO_EXECUTE);
    report("call into a no-execute page", probe_call(NO_EXECUTE_PAGE));
    *page_entry(root, NO_EXECUTE_PAGE) &= ~PAGE_NO_EXECUTE;
    invalidate_page(NO_EXECUTE_PAGE);
    report("call into it without NX", probe_call(NO_EXECUTE_PAGE));

    root[RESERVED_PAGE >> 39] = (uintptr_t)page_allocate() | PAGE_PRESENT | PAGE_LARGE; /* no such size */
    report("reserved bit in a PML4 entry", probe_read(RESERVED_PAGE));
    root[RESERVED_PAGE >> 39] = 0;
}

static void print_bits(const char *when, uint64_t address)
{
    uint64_t entry = *page_entry(root, address);
    print("  %-14s A=%u D=%u\n", when, !!(entry & PAGE_ACCESSED), !!(entry & PAGE_DIRTY));
}

static void accessed_and_dirty(uint64_t address, uint64_t physical, uint64_t flags)
{
    page_map(root, address, physical, PAGE_WRITABLE | flags);
    print_bits("fresh:", address);
    probe_read(address);
    print_bits("read:", address);
    probe_write(address);
    print_bits("written:", address);
    *page_entry(root, address) &= ~(uint64_t)(PAGE_ACCESSED | PAGE_DIRTY);
    invalidate_page(address);
    print_bits("cleared:", address);
    probe_read(address + 8);
    print_bits("read again:", address);
}

/* The end of it: ring 3 has done its part. */
static void system_call(struct interrupt_frame *f)
{
    print("  ring 3 says %lu\n", f->rdi);
    guest_exit(0);
}

void guest_main(void)
{
    gdt_init();
    idt_init();
    interrupt_set_handler(VECTOR_PAGE_FAULT, page_fault);
    interrupt_set_handler(VECTOR_GENERAL_PROTECTION, general_protection);
    interrupt_set_handler(VECTOR_SYSTEM_CALL, system_call);
    write_msr(MSR_EFER, read_msr(MSR_EFER) | EFER_NXE);
    root = paging_init(IDENTITY_BYTES, 0);
    zero_page = (uintptr_t)page_allocate();

    demand_paging();
    faults();
    print("accessed and dirty, 4 KiB page:\n");
    accessed_and_dirty(ACCESSED_PAGE, (uintptr_t)page_allocate(), 0);
    print("accessed and dirty, 2 MiB page:\n");
    accessed_and_dirty(ACCESSED_LARGE, next_large, PAGE_LARGE);

    print("ring 3:\n");
    page_map(root, SUPERVISOR_PAGE, (uintptr_t)page_allocate(), PAGE_WRITABLE);
    struct interrupt_frame frame = user_frame((uintptr_t)user_probe, 0); /* without a stack: it needs none */
    frame.rflags = 2;
    interrupt_return(&frame);
}
