/* The guest that programs run in at CPL 3, on the emulator or on KVM: its handlers only halt. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/kvm/kvm_engine.h"
#include "core/x86/emu.h"
#include "tests/fuzz-programs/program.h"
#include "tests/stages.h"

#define RAM_BYTES       ((uint64_t)4 << 20)
#define GPA_PML4        0x1000u
#define GPA_PDPT        0x2000u
#define GPA_PD          0x3000u
#define GPA_PT_CODE     0x4000u
#define GPA_PT_DATA     0x5000u
#define GPA_KERNEL_PDPT 0x9000u
#define GPA_KERNEL_PD   0xa000u
#define GPA_IDT         0x6000u
#define GPA_PT_LOW      0xb000u
#define GPA_GDT         0x7000u
#define GPA_TSS         0x8000u
#define KERNEL_STACK    0xe000u
#define GPA_HANDLERS    0x100000u /* one every 16 bytes */
#define GPA_CODE        0x200000u
#define GPA_DATA        0x300000u

/* The first 2 MiB, where the host has its kernel: programs find nothing at low addresses in either. */
#define KERNEL        0xffffffff80000000ull
#define HANDLERS      (KERNEL + GPA_HANDLERS)
#define SYSCALL_ENTRY (HANDLERS + 16u * 256u)

#define PTE_P  1u
#define PTE_W  2u
#define PTE_U  4u
#define PTE_PS 0x80u
#define PTE_NX (1ull << 63)
#define HLT    0xf4

#define MAX_STEPS  10000u
#define LINE_BYTES 64u

struct side {
    bool kvm, crossed;
    struct guest_ram *ram;
    struct engine *engine;
    struct boundary boundary;
    struct cpu_model model;
};

/* Programs have nothing to cross the boundary with; one that has made itself such an instruction is not compared. */
static int crossing(struct boundary *b)
{
    container_of(b, struct side, boundary)->crossed = true;
    return -1;
}

static int port_read(struct boundary *b, position_t at, uint16_t port, unsigned size, uint32_t *value)
{
    (void)at, (void)port, (void)size, (void)value;
    return crossing(b);
}

static int port_write(struct boundary *b, position_t at, uint16_t port, unsigned size, uint32_t value)
{
    (void)at, (void)port, (void)size, (void)value;
    return crossing(b);
}

static int memory_read(struct boundary *b, position_t at, gpa_t gpa, unsigned size, uint64_t *value)
{
    (void)at, (void)gpa, (void)size, (void)value;
    return crossing(b);
}

static int memory_write(struct boundary *b, position_t at, gpa_t gpa, unsigned size, uint64_t value)
{
    (void)at, (void)gpa, (void)size, (void)value;
    return crossing(b);
}

static int cpu_read(struct boundary *b, position_t at, enum boundary_source source, uint32_t argument,
                    uint64_t *value, bool *valid)
{
    (void)at, (void)source, (void)argument, (void)value, (void)valid;
    return crossing(b);
}

static int halted(struct boundary *b, position_t at)
{
    (void)b, (void)at;
    return BOUNDARY_OK;
}

static const struct boundary_ops operations = {
    .pio_read = port_read,
    .pio_write = port_write,
    .mmio_read = memory_read,
    .mmio_write = memory_write,
    .cpu_read = cpu_read,
    .halted = halted,
};

static void put64(struct side *s, gpa_t gpa, uint64_t value)
{
    memcpy(s->ram->host + gpa, &value, 8);
}

static uint64_t get64(const struct side *s, gpa_t gpa)
{
    uint64_t value;
    memcpy(&value, s->ram->host + gpa, 8);
    return value;
}

static void map_data(struct side *s, gpa_t table, uint64_t linear)
{
    for (unsigned i = 0; i < ISA_DATA_BYTES; i += 4096)
        if (i != ISA_DATA_GAP)
            put64(s, table + 8 * ((linear + i) >> 12 & 511),
                  (GPA_DATA + i) | PTE_P | PTE_U | (i == ISA_DATA_RO ? 0 : PTE_W) | PTE_NX);
}

/* What the host's process has at these addresses. */
static void build_memory(struct side *s, bool low)
{
    const uint64_t user = PTE_P | PTE_W | PTE_U;
    put64(s, GPA_PML4, GPA_PDPT | user);
    put64(s, GPA_PML4 + 8 * 511, GPA_KERNEL_PDPT | user);
    put64(s, GPA_PDPT, GPA_PD | user);
    put64(s, GPA_KERNEL_PDPT + 8 * 510, GPA_KERNEL_PD | user);
    put64(s, GPA_KERNEL_PD, PTE_P | PTE_W | PTE_PS);
    put64(s, GPA_PD + 8 * (ISA_CODE >> 21), GPA_PT_CODE | user);
    put64(s, GPA_PD + 8 * (ISA_DATA >> 21), GPA_PT_DATA | user);
    for (unsigned i = 0; i < ISA_CODE_BYTES / 4096; i++)
        put64(s, GPA_PT_CODE + 8 * i, (GPA_CODE + 4096 * i) | user);
    map_data(s, GPA_PT_DATA, ISA_DATA);
    if (low) {
        put64(s, GPA_PD, GPA_PT_LOW | user);
        map_data(s, GPA_PT_LOW, ISA_LOW);
    }
    for (unsigned v = 0; v <= 256; v++) {
        uint64_t handler = HANDLERS + 16 * v;
        s->ram->host[handler - KERNEL] = HLT;
        if (v == 256)
            break;
        bool callable = v == VEC_BP || v == VEC_OF; /* INT n may not reach the others */
        put64(s, GPA_IDT + 16 * v,
              (handler & 0xffff) | 0x08 << 16 | (callable ? 0xee00ull : 0x8e00ull) << 32 |
                  (handler >> 16 & 0xffff) << 48);
        put64(s, GPA_IDT + 16 * v + 8, handler >> 32);
    }
    put64(s, GPA_GDT + 0x08, 0x00af9b000000ffffull);
    put64(s, GPA_GDT + 0x10, 0x00cf93000000ffffull);
    put64(s, GPA_GDT + 0x20, 0x00cffb000000ffffull);
    put64(s, GPA_GDT + 0x28, 0x00cff3000000ffffull);
    put64(s, GPA_GDT + 0x30, 0x00affb000000ffffull);
    memcpy(s->ram->host + GPA_TSS + 4, &(uint64_t){KERNEL + KERNEL_STACK}, 8);
    memset(s->ram->host + GPA_TSS + 0x66, 0xff, 2); /* no I/O permission bitmap */
}

struct side *side_create(bool kvm, bool low, char *message, size_t size)
{
    struct error err = {0};
    struct side *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->kvm = kvm;
    s->boundary.ops = &operations;
    cpu_model_init(&s->model, kvm ? CPU_PROFILE_KVM : CPU_PROFILE_EMU);
    s->model.mxcsr_mask = cpu_host_mxcsr_mask();
    int result = ram_create(&s->ram, RAM_BYTES, &err);
    if (result == 0) {
        build_memory(s, low);
        result = kvm ? kvm_engine_create(&s->engine, s->ram, &s->boundary, &s->model, &err)
                     : emu_create(&s->engine, s->ram, &s->boundary, &s->model, &err);
    }
    if (result == 0) {
        stages_from_environment(s->engine);
        return s;
    }
    snprintf(message, size, "%s", err.message);
    side_destroy(s);
    return NULL;
}

void side_destroy(struct side *s)
{
    if (s->engine)
        s->engine->ops->destroy(s->engine);
    ram_destroy(s->ram);
    free(s);
}

const uint8_t *side_code(const struct side *s)
{
    return s->ram->host + GPA_CODE;
}

const uint8_t *side_data(const struct side *s)
{
    return s->ram->host + GPA_DATA;
}

/* Only what differs is written, so that code which stays as it is need not be decoded again. */
static void update(struct side *s, gpa_t gpa, const uint8_t *from, size_t bytes)
{
    uint8_t *to = s->ram->host + gpa;
    for (size_t at = 0, end; at < bytes; at = end) {
        end = at + LINE_BYTES;
        if (memcmp(to + at, from + at, LINE_BYTES) == 0)
            continue;
        while (end < bytes && memcmp(to + end, from + end, LINE_BYTES) != 0)
            end += LINE_BYTES;
        memcpy(to + at, from + at, end - at);
        if (!s->kvm)
            emu_ram_changed(s->engine, gpa + at, end - at);
    }
}

void side_load(struct side *s, const uint8_t *code, const uint8_t *data)
{
    update(s, GPA_CODE, code, ISA_CODE_BYTES);
    update(s, GPA_DATA, data, ISA_DATA_BYTES);
}

void side_base_state(bool long_mode, struct vcpu_state *s)
{
    vcpu_state_reset(s);
    s->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    s->cr3 = GPA_PML4;
    s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_UMIP;
    s->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    s->lstar = s->cstar = SYSCALL_ENTRY;
    s->star = 0x23ull << 48 | 0x08ull << 32;
    s->xcr0 = 7;
    s->rflags = RFLAGS_FIXED | RFLAGS_IF;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        s->seg[i] = (struct segment){
            .selector = i >= SEG_FS && long_mode ? 0 : ISA_SEL_FLAT, .limit = 0xffffffff, .rights = 0xc0f3};
    s->seg[SEG_CS] = (struct segment){.selector = 0x33, .limit = 0xffffffff, .rights = 0xa0fb};
    if (!long_mode)
        s->seg[SEG_CS] = (struct segment){.selector = 0x23, .limit = 0xffffffff, .rights = 0xc0fb};
    s->ldtr = (struct segment){0};
    s->tr = (struct segment){.selector = 0x40, .base = KERNEL + GPA_TSS, .limit = 0x67, .rights = 0x8b};
    s->gdtr = (struct descriptor_table){.base = KERNEL + GPA_GDT, .limit = 0xff};
    s->idtr = (struct descriptor_table){.base = KERNEL + GPA_IDT, .limit = 0xfff};
    s->fpu.mxcsr = MXCSR_DEFAULT;
    s->fpu.fcw = FCW_DEFAULT;
}

/* The vCPU has halted in a handler: what the frame tells. */
static bool read_fault(const struct side *s, struct isa_result *out)
{
    struct vcpu_state *state = &out->state;
    uint64_t at = state->rip - 1 - HANDLERS;
    if (at % 16 || at / 16 >= 256)
        return false;
    out->vector = (int)(at / 16);
    gpa_t frame = (state->gpr[GPR_RSP] - KERNEL) % RAM_BYTES;
    bool has_code = out->vector == VEC_PF || out->vector == VEC_GP || out->vector == VEC_SS ||
                    out->vector == VEC_AC || out->vector == VEC_NP || out->vector == VEC_TS;
    if (has_code) {
        out->error_code = (uint32_t)get64(s, frame);
        if (out->vector == VEC_PF)
            out->cr2 = state->cr2;
        frame += 8;
    }
    state->rip = get64(s, frame);
    state->rflags = get64(s, frame + 16);
    state->gpr[GPR_RSP] = get64(s, frame + 24);
    if (out->vector == VEC_BP) {
        out->vector = -1;
        state->rip--;
    }
    return true;
}

/* One run() or, with r, several to random limits. */
static int run_to_halt(struct side *s, struct isa_random *r, position_t start, struct error *err)
{
    const struct engine_ops *ops = s->engine->ops;
    struct engine_request request = {.limit = s->kvm ? POSITION_UNKNOWN : start + MAX_STEPS};
    if (!r)
        return ops->run(s->engine, &request, err);
    int stop;
    do {
        uint64_t length = isa_random(r) % 4 ? 1 + isa_random(r) % 7 : 1 + isa_random(r) % 60;
        if (ops->position(s->engine) - start >
            300) /* a long loop: limits further apart, so that all of its code can run */
            length = 1 + isa_random(r) % 500;
        request.limit = ops->position(s->engine) + length;
        stop = ops->run(s->engine, &request, err);
        if (stop == ENGINE_STOP_LIMIT && ops->position(s->engine) != request.limit) {
            snprintf(err->message, sizeof err->message, "the run stopped %lld steps from its limit",
                     (long long)(request.limit - ops->position(s->engine)));
            return -1;
        }
    } while (stop == ENGINE_STOP_LIMIT && ops->position(s->engine) < start + MAX_STEPS);
    return stop;
}

enum side_end side_run(struct side *s, const struct vcpu_state *in, struct isa_random *r,
                       struct isa_result *out, uint64_t *steps, char *message, size_t size)
{
    const struct engine_ops *ops = s->engine->ops;
    struct error err = {0};
    struct vcpu_state start = *in;
    if (s->kvm) {
        start.cr4 &= ~(CR4_OSXSAVE | CR4_UMIP);
        start.xcr0 = 1;
    }
    memset(out, 0, sizeof *out);
    s->crossed = false;
    if (ops->set_state(s->engine, &start, &err) != 0) {
        snprintf(message, size, "set_state: %s", err.message);
        return SIDE_FAILED;
    }
    position_t position = s->kvm ? 0 : ops->position(s->engine);
    int stop = run_to_halt(s, r, position, &err);
    out->state = *ops->state(s->engine);
    *steps = s->kvm ? 0 : ops->position(s->engine) - position - 1;
    if (out->state.rip - 1 == SYSCALL_ENTRY)
        return SIDE_ENDLESS;
    if (stop == ENGINE_STOP_LIMIT || stop == ENGINE_STOP_ATTENTION || s->crossed)
        return SIDE_ENDLESS;
    if (stop != ENGINE_STOP_HALT || !read_fault(s, out)) {
        snprintf(message, size, "stop %d at rip %#llx: %s", stop, (unsigned long long)out->state.rip,
                 err.message);
        return SIDE_FAILED;
    }
    return SIDE_ENDED;
}

void side_choose_stage(struct side *s, bool translate)
{
    if (!getenv("DEJAVM_EMU_STAGES"))
        emu_set_stages(s->engine, translate ? EMU_STAGE_2_ONLY : EMU_STAGE_1_ONLY);
}

void side_kick(struct side *s)
{
    s->engine->ops->kick(s->engine);
}
