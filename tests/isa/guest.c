/* The emulator's side: a guest with page tables, an IDT whose handlers are never executed, and CPL 3. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/ram.h"
#include "core/x86/emu.h"
#include "tests/isa/isa.h"
#include "tests/stages.h"

#define RAM_BYTES    ((uint64_t)8 << 20)
#define GPA_PML4     0x1000u
#define GPA_PDPT     0x2000u
#define GPA_PD       0x3000u
#define GPA_PT_CODE  0x4000u
#define GPA_PT_DATA  0x5000u
#define GPA_PT_LOW   0x6000u
#define GPA_PDPT_SYS 0x7000u
#define GPA_PD_SYS   0x8000u
#define GPA_IDT      0x9000u
#define GPA_GDT      0xa000u
#define GPA_LDT      0xb000u
#define GPA_TSS      0xc000u
#define KERNEL_STACK 0xe000u
#define HANDLERS     0x100000u /* one every 16 bytes */
#define GPA_CODE     0x400000u
#define GPA_DATA     0x600000u

/* The guest's system structures, and ISA_KERNEL: the first 4 MiB of RAM, for the supervisor. */
#define SYSTEM 0xffff800000000000ull

#define PTE_P  1u
#define PTE_W  2u
#define PTE_U  4u
#define PTE_PS 0x80u
#define PTE_NX (1ull << 63)

#define HLT            0xf4
#define MAX_ITERATIONS 4096u

struct guest {
    struct guest_ram *ram;
    struct engine *engine;
    struct boundary boundary;
    struct cpu_model model;
    bool low;
};

static int refuse_pio_read(struct boundary *b, position_t at, uint16_t port, unsigned size, uint32_t *value)
{
    (void)b, (void)at, (void)port, (void)size, (void)value;
    return -1;
}

static int refuse_pio_write(struct boundary *b, position_t at, uint16_t port, unsigned size, uint32_t value)
{
    (void)b, (void)at, (void)port, (void)size, (void)value;
    return -1;
}

static int refuse_mmio_read(struct boundary *b, position_t at, gpa_t gpa, unsigned size, uint64_t *value)
{
    (void)b, (void)at, (void)gpa, (void)size, (void)value;
    return -1;
}

static int refuse_mmio_write(struct boundary *b, position_t at, gpa_t gpa, unsigned size, uint64_t value)
{
    (void)b, (void)at, (void)gpa, (void)size, (void)value;
    return -1;
}

/* RDTSC, RDRAND and the like. */
static int answer(struct boundary *b, position_t at, enum boundary_source source, uint32_t argument,
                  uint64_t *value, bool *valid)
{
    (void)b, (void)source, (void)argument;
    *value = at * 0x9e3779b97f4a7c15ull;
    *valid = true;
    return 0;
}

static int halted(struct boundary *b, position_t at)
{
    (void)b, (void)at;
    return BOUNDARY_OK;
}

static const struct boundary_ops refuse = {
    .halted = halted,
    .pio_read = refuse_pio_read,
    .pio_write = refuse_pio_write,
    .mmio_read = refuse_mmio_read,
    .mmio_write = refuse_mmio_write,
    .cpu_read = answer,
};

static void put64(struct guest *g, gpa_t gpa, uint64_t value)
{
    memcpy(g->ram->host + gpa, &value, 8);
}

static uint64_t descriptor(const struct segment *seg)
{
    uint64_t limit = seg->rights & SEGMENT_G ? seg->limit >> 12 : seg->limit;
    return (limit & 0xffff) | (seg->base & 0xffffff) << 16 | (uint64_t)seg->rights << 40 |
           (limit >> 16 & 0xf) << 48 | (seg->base >> 24 & 0xff) << 56;
}

static const uint16_t ldt_selectors[ISA_LDT_COUNT] = {ISA_SEL_DATA, ISA_SEL_DOWN, ISA_SEL_READ_ONLY,
                                                      ISA_SEL_ABSENT};

struct segment guest_segment(uint16_t selector)
{
    struct segment s = {.selector = selector, .limit = 0xffffffff, .rights = 0xc0f3};
    switch (selector) {
    case ISA_SEL_FLAT:
        break;
    case ISA_SEL_CODE32:
        s.rights = 0xc0fb;
        break;
    case ISA_SEL_CODE64:
        s.rights = 0xa0fb;
        break;
    case ISA_SEL_DATA:
        s = (struct segment){ISA_LDT_BASE, 0xffff, selector, 0x40f3};
        break;
    case ISA_SEL_DOWN:
        s = (struct segment){ISA_LDT_BASE, 0x4fff, selector, 0x40f7};
        break;
    case ISA_SEL_READ_ONLY:
        s = (struct segment){ISA_LDT_BASE, 0x4fff, selector, 0x40f1};
        break;
    case ISA_SEL_ABSENT:
        s = (struct segment){ISA_LDT_BASE, 0x4fff, selector, 0x4073};
        break;
    default:
        s = (struct segment){.selector = selector};
        break;
    }
    return s;
}

/* Linux gives its user's descriptors these selectors. */
static void build_descriptors(struct guest *g)
{
    static const uint16_t user[] = {ISA_SEL_CODE32, ISA_SEL_FLAT, ISA_SEL_CODE64};
    put64(g, GPA_GDT + 0x08, 0x00cf9b000000ffffull);
    put64(g, GPA_GDT + 0x10, 0x00af9b000000ffffull);
    put64(g, GPA_GDT + 0x18, 0x00cf93000000ffffull);
    for (unsigned i = 0; i < 3; i++) {
        struct segment s = guest_segment(user[i]);
        put64(g, GPA_GDT + (user[i] & ~7u), descriptor(&s));
    }
    for (unsigned i = 0; i < ISA_LDT_COUNT; i++) {
        struct segment s = guest_segment(ldt_selectors[i]);
        put64(g, GPA_LDT + 8 * i, descriptor(&s));
    }
    put64(g, GPA_GDT + 0x40, 0x00008b0000000067ull);
    put64(g, GPA_GDT + 0x50, 0x000082000000001full);
}

static void build_interrupts(struct guest *g)
{
    for (unsigned v = 0; v < 256; v++) {
        uint64_t handler = SYSTEM + HANDLERS + 16 * v;
        bool user = v == VEC_BP || v == VEC_OF || v == 0x80;
        put64(g, GPA_IDT + 16 * v,
              (handler & 0xffff) | 0x10 << 16 | (user ? 0xee00ull : 0x8e00ull) << 32 |
                  (handler >> 16 & 0xffff) << 48);
        put64(g, GPA_IDT + 16 * v + 8, handler >> 32);
    }
    memset(g->ram->host + HANDLERS, HLT, 16 * 256);
    uint64_t stack = SYSTEM + KERNEL_STACK;
    memcpy(g->ram->host + GPA_TSS + 4, &stack, 8);
    memset(g->ram->host + GPA_TSS + 0x66, 0xff, 2); /* no I/O permission bitmap */
}

static void map_data(struct guest *g, gpa_t table, uint64_t linear, uint64_t gap)
{
    for (unsigned i = 0; i < ISA_DATA_BYTES / 4096; i++) {
        uint64_t rights = PTE_P | PTE_U | PTE_NX | (4096 * i == ISA_DATA_RO ? 0 : PTE_W);
        put64(g, table + 8 * ((linear >> 12 & 511) + i),
              4096 * i == ISA_DATA_GAP ? gap : (GPA_DATA + 4096 * i) | rights);
    }
    /* The pages beside the data. */
    put64(g, table + 8 * ((linear >> 12 & 511) + ISA_DATA_BYTES / 4096), gap);
}

void guest_set_supervisor(struct guest *g, bool present)
{
    uint64_t gap = present ? GPA_DATA | PTE_P | PTE_W | PTE_NX : 0;
    map_data(g, GPA_PT_DATA, ISA_DATA, gap);
}

static void build_memory(struct guest *g)
{
    const uint64_t all = PTE_P | PTE_W | PTE_U;
    put64(g, GPA_PML4, GPA_PDPT | all);
    put64(g, GPA_PDPT, GPA_PD | all);
    put64(g, GPA_PD + 8 * (ISA_CODE >> 21), GPA_PT_CODE | all);
    put64(g, GPA_PD + 8 * (ISA_DATA >> 21), GPA_PT_DATA | all);
    put64(g, GPA_PML4 + 8 * 256, GPA_PDPT_SYS | PTE_P | PTE_W);
    put64(g, GPA_PDPT_SYS, GPA_PD_SYS | PTE_P | PTE_W);
    put64(g, GPA_PD_SYS, PTE_P | PTE_W | PTE_PS);
    put64(g, GPA_PD_SYS + 8, 0x200000 | PTE_P | PTE_W | PTE_PS);
    for (unsigned i = 0; i < ISA_CODE_BYTES / 4096; i++)
        put64(g, GPA_PT_CODE + 8 * i, (GPA_CODE + 4096 * i) | all);
    map_data(g, GPA_PT_DATA, ISA_DATA, 0);
    if (g->low) {
        put64(g, GPA_PD, GPA_PT_LOW | all);
        map_data(g, GPA_PT_LOW, ISA_LOW, 0);
    }
}

struct guest *guest_create(bool low, bool ldt)
{
    struct error err = {0};
    struct guest *g = calloc(1, sizeof *g);
    if (!g)
        return NULL;
    g->boundary.ops = &refuse;
    g->low = low;
    cpu_model_init(&g->model, CPU_PROFILE_EMU);
    g->model.mxcsr_mask = cpu_host_mxcsr_mask();
    if (ram_create(&g->ram, RAM_BYTES, &err) != 0 ||
        emu_create(&g->engine, g->ram, &g->boundary, &g->model, &err) != 0) {
        fprintf(stderr, "%s\n", err.message);
        guest_destroy(g);
        return NULL;
    }
    stages_from_environment(g->engine);
    build_memory(g);
    build_descriptors(g);
    build_interrupts(g);
    memset(guest_code(g), 0xcc, ISA_CODE_BYTES);
    if (!ldt)
        memset(g->ram->host + GPA_LDT, 0, 8 * ISA_LDT_COUNT);
    return g;
}

void guest_destroy(struct guest *g)
{
    if (g->engine)
        g->engine->ops->destroy(g->engine);
    ram_destroy(g->ram);
    free(g);
}

uint8_t *guest_code(struct guest *g)
{
    return g->ram->host + GPA_CODE;
}

uint8_t *guest_data(struct guest *g)
{
    return g->ram->host + GPA_DATA;
}

void guest_base_state(bool long_mode, struct vcpu_state *s)
{
    vcpu_state_reset(s);
    s->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
    s->cr3 = GPA_PML4;
    s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE;
    s->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    s->xcr0 = 7;
    s->rflags = RFLAGS_FIXED | RFLAGS_IF;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        s->seg[i] = guest_segment(ISA_SEL_FLAT);
    s->seg[SEG_CS] = guest_segment(long_mode ? ISA_SEL_CODE64 : ISA_SEL_CODE32);
    s->tr = (struct segment){.selector = 0x40, .base = SYSTEM + GPA_TSS, .limit = 0x67, .rights = 0x8b};
    s->ldtr = (struct segment){
        .selector = 0x50, .base = SYSTEM + GPA_LDT, .limit = 8 * ISA_LDT_COUNT - 1, .rights = 0x82};
    s->gdtr = (struct descriptor_table){.base = SYSTEM + GPA_GDT, .limit = 0x7f};
    s->idtr = (struct descriptor_table){.base = SYSTEM + GPA_IDT, .limit = 0xfff};
    s->fpu.mxcsr = MXCSR_DEFAULT;
    s->fpu.fcw = FCW_DEFAULT;
}

static uint64_t get64(struct guest *g, gpa_t gpa)
{
    uint64_t value;
    memcpy(&value, g->ram->host + gpa, 8);
    return value;
}

static bool at_handler(const struct vcpu_state *s)
{
    return s->rip - (SYSTEM + HANDLERS) < 256 * 16;
}

/* The vCPU is at a handler: what the frame and RIP tell. */
static void read_fault(struct guest *g, struct isa_result *out)
{
    struct vcpu_state *s = &out->state;
    out->vector = (int)((s->rip - (SYSTEM + HANDLERS)) / 16);
    gpa_t frame = s->gpr[GPR_RSP] - SYSTEM;
    bool has_code = out->vector == VEC_PF || out->vector == VEC_GP || out->vector == VEC_SS ||
                    out->vector == VEC_AC || out->vector == VEC_NP || out->vector == VEC_TS;
    if (has_code) {
        out->error_code = (uint32_t)get64(g, frame);
        frame += 8;
        if (out->vector == VEC_PF)
            out->cr2 = s->cr2;
    }
    s->rip = get64(g, frame);
    s->seg[SEG_CS].selector = (uint16_t)get64(g, frame + 8);
    s->rflags = get64(g, frame + 16);
    s->gpr[GPR_RSP] = get64(g, frame + 24);
    s->seg[SEG_SS].selector = (uint16_t)get64(g, frame + 32);
}

/* One transition; false: the engine stopped. */
static bool step(struct guest *g, struct isa_result *out, char *message, size_t size)
{
    const struct engine_ops *ops = g->engine->ops;
    struct error err = {0};
    struct engine_request request = {.limit = ops->position(g->engine) + 1};
    int stop = ops->run(g->engine, &request, &err);
    if (stop != ENGINE_STOP_LIMIT) {
        snprintf(message, size, "run: stop %d: %s", stop, err.message);
        return false;
    }
    out->state = *ops->state(g->engine);
    return true;
}

static void choose_stage(struct guest *g, bool translate)
{
    if (!getenv("DEJAVM_EMU_STAGES"))
        emu_set_stages(g->engine, translate ? EMU_STAGE_2_ONLY : EMU_STAGE_1_ONLY);
}

static bool load(struct guest *g, const struct vcpu_state *in, struct isa_result *out, char *message,
                 size_t size)
{
    struct error err = {0};
    memset(out, 0, sizeof *out);
    out->vector = -1;
    emu_ram_changed(g->engine, GPA_CODE, ISA_CODE_BYTES);
    if (g->engine->ops->set_state(g->engine, in, &err) == 0)
        return true;
    snprintf(message, size, "set_state: %s", err.message);
    return false;
}

bool guest_run_to_end(struct guest *g, const struct vcpu_state *in, unsigned length, struct isa_result *out,
                      char *message, size_t size)
{
    const struct engine_ops *ops = g->engine->ops;
    struct error err = {0};
    choose_stage(g, true);
    if (!load(g, in, out, message, size))
        return false;
    struct engine_request request = {.limit = ops->position(g->engine) + MAX_ITERATIONS};
    int stop = ops->run(g->engine, &request, &err);
    out->state = *ops->state(g->engine);
    out->state.rip--; /* before the HLT */
    if (stop != ENGINE_STOP_HALT || !at_handler(&out->state)) {
        snprintf(message, size, "run: stop %d at %#llx: %s", stop, (unsigned long long)out->state.rip,
                 err.message);
        return false;
    }
    read_fault(g, out);
    if (out->vector == VEC_BP && out->state.rip - 1 - in->rip >= length) {
        out->vector = -1;
        out->state.rip--;
    }
    return true;
}

bool guest_run(struct guest *g, const struct vcpu_state *in, struct isa_result *out, char *message,
               size_t size)
{
    choose_stage(g, false);
    if (!load(g, in, out, message, size))
        return false;
    for (unsigned i = 0; i < MAX_ITERATIONS; i++) {
        if (!step(g, out, message, size))
            return false;
        if (out->state.rip != in->rip)
            break;
    }
    if (!at_handler(&out->state) && out->state.rip - ISA_CODE >= ISA_CODE_BYTES &&
        !step(g, out, message, size))
        return false;
    if (at_handler(&out->state))
        read_fault(g, out);
    return true;
}
