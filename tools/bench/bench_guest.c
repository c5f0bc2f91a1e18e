#include "tools/bench/bench_guest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/x86/emu.h"

enum guest_map {
    GUEST_PML4 = 0x1000,
    GUEST_PDPT = 0x2000,
    GUEST_PD = 0x3000,
    GUEST_GDT = 0x4000,
    GUEST_IDT = 0x5000,
    GUEST_HANDLERS = 0x7000,
    GUEST_PT = 0x10000, /* of the data: 4 KiB pages */
    GUEST_STACK = 0x80000,
    GUEST_CODE = 0x100000,
    GUEST_DATA = 0x1000000,
    GUEST_RAM_BYTES = 0x2000000,
};

#define PTE_PWU 7u /* present, writable, for CPL 3 too */
#define PTE_PS  0x80u
#define RET     0xc3

/* Selectors. SYSRET takes CS from STAR[63:48] + 16 and SS from + 8 (SDM 2B, SYSRET). */
enum selector {
    KERNEL_CODE = 0x08,
    KERNEL_DATA = 0x10,
    SYSRET_BASE = 0x10,
    USER_DATA = 0x18 | 3,
    USER_CODE = 0x20 | 3
};

#define GATE_INTERRUPT 0x8e00u
#define VECTOR_PF      14u
#define VECTOR_INT     0x20u

#define CODE_BYTES 4096u

static size_t loop_bytes(const struct bench_loop *loop)
{
    return (size_t)(loop->end - loop->code);
}

/* ---- guest ---- */

struct bench_guest {
    struct boundary boundary;
    struct cpu_model model;
    struct guest_ram *ram;
    struct engine *engine;
};

static int halted(struct boundary *b, position_t position)
{
    (void)b, (void)position;
    return BOUNDARY_OK;
}

/* The loops do nothing but compute: no other crossing comes. */
static const struct boundary_ops operations = {.halted = halted};

static void put64(struct bench_guest *g, gpa_t gpa, uint64_t value)
{
    memcpy(g->ram->host + gpa, &value, 8);
}

static void build_page_tables(struct bench_guest *g)
{
    put64(g, GUEST_PML4, GUEST_PDPT | PTE_PWU);
    put64(g, GUEST_PDPT, GUEST_PD | PTE_PWU);
    for (uint64_t i = 0; i < GUEST_DATA >> 21; i++)
        put64(g, GUEST_PD + 8 * i, i << 21 | PTE_PWU | PTE_PS);
    for (uint64_t i = 0; i < BENCH_DATA_BYTES >> 12; i++)
        put64(g, GUEST_PT + 8 * i, (GUEST_DATA + (i << 12)) | PTE_PWU);
    for (uint64_t i = 0; i < BENCH_DATA_BYTES >> 21; i++)
        put64(g, GUEST_PD + 8 * (i + (GUEST_DATA >> 21)), (GUEST_PT + (i << 12)) | PTE_PWU);
}

static void put_gate(struct bench_guest *g, unsigned vector, const uint8_t *handler)
{
    uint64_t target = GUEST_HANDLERS + (uint64_t)(handler - bench_handlers);
    put64(g, GUEST_IDT + 16 * vector,
          (target & 0xffff) | (uint64_t)KERNEL_CODE << 16 | (uint64_t)GATE_INTERRUPT << 32 |
              (target >> 16 & 0xffff) << 48);
    put64(g, GUEST_IDT + 16 * vector + 8, target >> 32);
}

/* What faults, interrupts and system calls go through. */
static void build_kernel(struct bench_guest *g)
{
    put64(g, GUEST_GDT + KERNEL_CODE, 0x00af9b000000ffff);
    put64(g, GUEST_GDT + KERNEL_DATA, 0x00cf93000000ffff);
    put64(g, GUEST_GDT + (USER_DATA & ~3u), 0x00cff3000000ffff);
    put64(g, GUEST_GDT + (USER_CODE & ~3u), 0x00affb000000ffff);
    put_gate(g, VECTOR_PF, bench_handlers);
    put_gate(g, VECTOR_INT, bench_handler_interrupt);
    memcpy(g->ram->host + GUEST_HANDLERS, bench_handlers, (size_t)(bench_handlers_end - bench_handlers));
}

int bench_guest_create(struct bench_guest **out, struct error *err)
{
    struct bench_guest *g = calloc(1, sizeof(*g));
    if (!g)
        return error_set(err, -ENOMEM, "no memory for the guest");
    g->boundary.ops = &operations;
    cpu_model_init(&g->model, CPU_PROFILE_EMU);
    int result = cpu_model_check_host(&g->model, err);
    if (result == 0)
        result = ram_create(&g->ram, GUEST_RAM_BYTES, err);
    if (result == 0) {
        build_page_tables(g);
        build_kernel(g);
        result = emu_create(&g->engine, g->ram, &g->boundary, &g->model, err);
    }
    if (result < 0) {
        bench_guest_destroy(g);
        return result;
    }
    *out = g;
    return 0;
}

void bench_guest_destroy(struct bench_guest *g)
{
    if (!g)
        return;
    if (g->engine)
        g->engine->ops->destroy(g->engine);
    ram_destroy(g->ram);
    free(g);
}

static void start_state(struct vcpu_state *s, bool user, uint64_t iterations)
{
    vcpu_state_reset(s);
    s->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    s->cr3 = GUEST_PML4;
    s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    s->xcr0 = 7; /* x87, SSE, AVX */
    s->efer = EFER_LME | EFER_LMA | EFER_SCE;
    s->star = (uint64_t)SYSRET_BASE << 48 | (uint64_t)KERNEL_CODE << 32;
    s->lstar = GUEST_HANDLERS + (uint64_t)(bench_handler_syscall - bench_handlers);
    s->gdtr = (struct descriptor_table){.base = GUEST_GDT, .limit = 0x27};
    s->idtr = (struct descriptor_table){.base = GUEST_IDT, .limit = 16 * (VECTOR_INT + 1) - 1};
    for (unsigned i = 0; i < SEG_COUNT; i++)
        s->seg[i] = (struct segment){.selector = user ? USER_DATA : KERNEL_DATA,
                                     .limit = UINT32_MAX,
                                     .rights = user ? 0xc0f3 : 0xc093};
    s->seg[SEG_CS] = (struct segment){
        .selector = user ? USER_CODE : KERNEL_CODE, .limit = UINT32_MAX, .rights = user ? 0xa0fb : 0xa09b};
    s->rip = GUEST_CODE;
    s->rflags = RFLAGS_FIXED;
    s->gpr[GPR_RCX] = iterations;
    s->gpr[GPR_RDI] = GUEST_DATA;
    s->gpr[GPR_RSP] = GUEST_STACK;
}

/* Behind the loop: HLT; at CPL 3 the system call whose handler does that. */
static void put_loop(struct bench_guest *g, const struct bench_loop *loop)
{
    static const uint8_t halt[] = {0xf4}, end[] = {0xb8, 1, 0, 0, 0, 0x0f, 0x05}; /* mov eax, 1; syscall */
    uint8_t *code = g->ram->host + GUEST_CODE;
    memcpy(code, loop->code, loop_bytes(loop));
    if (loop->flags & LOOP_USER)
        memcpy(code + loop_bytes(loop), end, sizeof(end));
    else
        memcpy(code + loop_bytes(loop), halt, sizeof(halt));
    emu_ram_changed(g->engine, GUEST_CODE, CODE_BYTES);
}

int bench_guest_run(struct bench_guest *g, const struct bench_loop *loop, enum bench_stage stage,
                    uint64_t iterations, uint64_t *steps, struct error *err)
{
    const struct engine_ops *ops = g->engine->ops;
    struct vcpu_state start;
    put_loop(g, loop);
    emu_set_stages(g->engine, stage == STAGE_1 ? EMU_STAGE_1_ONLY : EMU_STAGES_MIXED);
    start_state(&start, loop->flags & LOOP_USER, iterations);
    int result = ops->set_state(g->engine, &start, err);
    if (result < 0)
        return result;
    position_t before = ops->position(g->engine);
    struct engine_request request = {.limit = POSITION_UNKNOWN};
    result = ops->run(g->engine, &request, err);
    if (result < 0)
        return result;
    if (result != ENGINE_STOP_HALT)
        return error_set(err, -EIO, "loop %s: the guest stopped before its end (reason %d)", loop->name,
                         result);
    *steps = ops->position(g->engine) - before;
    return 0;
}

/* ---- host ---- */

struct bench_host {
    uint8_t *code, *data;
};

int bench_host_create(struct bench_host **out, struct error *err)
{
    struct bench_host *h = calloc(1, sizeof(*h));
    if (!h)
        return error_set(err, -ENOMEM, "no memory for the loops");
    /* One of the loops writes itself. */
    h->code = mmap(NULL, CODE_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    h->data = mmap(NULL, BENCH_DATA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (h->code == MAP_FAILED || h->data == MAP_FAILED) {
        int result = error_errno(err, -errno, "map memory for the loops");
        bench_host_destroy(h);
        return result;
    }
    /* As in the guest: pages of 4 KiB. */
    (void)madvise(h->data, BENCH_DATA_BYTES, MADV_NOHUGEPAGE);
    memset(h->data, 0, BENCH_DATA_BYTES);
    *out = h;
    return 0;
}

void bench_host_destroy(struct bench_host *h)
{
    if (!h)
        return;
    if (h->code && h->code != MAP_FAILED)
        munmap(h->code, CODE_BYTES);
    if (h->data && h->data != MAP_FAILED)
        munmap(h->data, BENCH_DATA_BYTES);
    free(h);
}

int bench_host_run(struct bench_host *h, const struct bench_loop *loop, uint64_t iterations,
                   struct error *err)
{
    if (loop->flags & LOOP_GUEST_ONLY)
        return error_set(err, -ENOTSUP, "loop %s: for a guest only", loop->name);
    memcpy(h->code, loop->code, loop_bytes(loop));
    h->code[loop_bytes(loop)] = RET;
    uint64_t count = iterations;
    uint8_t *data = h->data;
    /* The loop uses the stack: it goes below the red zone. */
    __asm__ volatile("lea -128(%%rsp), %%rsp\n\t"
                     "xor %%edx, %%edx\n\t"
                     "call *%[code]\n\t"
                     "lea 128(%%rsp), %%rsp"
                     : "+c"(count), "+D"(data)
                     : [code] "b"(h->code)
                     : "rax", "rdx", "rsi", "r8", "r9", "r10", "r11", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4",
                       "xmm5", "xmm6", "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)",
                       "memory", "cc");
    return 0;
}
