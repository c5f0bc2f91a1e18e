/* The emulator's side: a guest with page tables, an IDT whose handlers are never executed, and CPL 3. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/ram.h"
#include "core/x86/emu.h"
#include "tests/isa/isa.h"

#define RAM_BYTES    ((uint64_t)8 << 20)
#define GPA_PML4     0x1000u
#define GPA_PDPT     0x2000u
#define GPA_PD       0x3000u
#define GPA_PT_CODE  0x4000u
#define GPA_PT_DATA  0x5000u
#define GPA_IDT      0x6000u
#define GPA_GDT      0x7000u
#define GPA_TSS      0x8000u
#define KERNEL_STACK 0xa000u
#define HANDLERS     0x100000u /* one every 16 bytes */
#define GPA_CODE     0x400000u
#define GPA_DATA     0x600000u

#define PTE_P  1u
#define PTE_W  2u
#define PTE_U  4u
#define PTE_PS 0x80u

#define MAX_ITERATIONS 4096u

struct guest {
    struct guest_ram *ram;
    struct engine *engine;
    struct boundary boundary;
    struct cpu_model model;
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

static const struct boundary_ops refuse = {
    .pio_read = refuse_pio_read,
    .pio_write = refuse_pio_write,
    .mmio_read = refuse_mmio_read,
    .mmio_write = refuse_mmio_write,
};

static void put64(struct guest *g, gpa_t gpa, uint64_t value)
{
    memcpy(g->ram->host + gpa, &value, 8);
}

static void build_memory(struct guest *g)
{
    put64(g, GPA_PML4, GPA_PDPT | PTE_P | PTE_W | PTE_U);
    put64(g, GPA_PDPT, GPA_PD | PTE_P | PTE_W | PTE_U);
    put64(g, GPA_PD, PTE_P | PTE_W | PTE_PS);
    put64(g, GPA_PD + 8 * (ISA_CODE >> 21), GPA_PT_CODE | PTE_P | PTE_W | PTE_U);
    put64(g, GPA_PD + 8 * (ISA_DATA >> 21), GPA_PT_DATA | PTE_P | PTE_W | PTE_U);
    for (unsigned i = 0; i < ISA_CODE_BYTES / 4096; i++)
        put64(g, GPA_PT_CODE + 8 * i, (GPA_CODE + 4096 * i) | PTE_P | PTE_W | PTE_U);
    for (unsigned i = 0; i < ISA_DATA_BYTES / 4096; i++)
        put64(g, GPA_PT_DATA + 8 * i,
              (GPA_DATA + 4096 * i) | PTE_P | (4096 * i < ISA_DATA_RW ? PTE_W : 0) | PTE_U);
    for (unsigned v = 0; v < 256; v++) {
        uint64_t handler = HANDLERS + 16 * v;
        put64(g, GPA_IDT + 16 * v, (handler & 0xffff) | 0x08 << 16 | 0xee00ull << 32 | (handler >> 16) << 48);
        put64(g, GPA_IDT + 16 * v + 8, handler >> 32);
    }
    put64(g, GPA_GDT + 0x08, 0x00af9b000000ffffull);
    put64(g, GPA_GDT + 0x10, 0x00cf93000000ffffull);
    put64(g, GPA_GDT + 0x20, 0x00cffb000000ffffull);
    put64(g, GPA_GDT + 0x28, 0x00cff3000000ffffull);
    put64(g, GPA_GDT + 0x30, 0x00affb000000ffffull);
    memcpy(g->ram->host + GPA_TSS + 4, &(uint64_t){KERNEL_STACK}, 8);
}

struct guest *guest_create(void)
{
    struct error err = {0};
    struct guest *g = calloc(1, sizeof *g);
    if (!g)
        return NULL;
    g->boundary.ops = &refuse;
    cpu_model_init(&g->model, CPU_PROFILE_EMU);
    g->model.mxcsr_mask = cpu_host_mxcsr_mask();
    if (ram_create(&g->ram, RAM_BYTES, &err) != 0 ||
        emu_create(&g->engine, g->ram, &g->boundary, &g->model, &err) != 0) {
        fprintf(stderr, "%s\n", err.message);
        guest_destroy(g);
        return NULL;
    }
    build_memory(g);
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
    s->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    s->cr3 = GPA_PML4;
    s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    s->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    s->xcr0 = 7;
    s->rflags = RFLAGS_FIXED | RFLAGS_IF;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        s->seg[i] = (struct segment){.selector = 0x2b, .limit = 0xffffffff, .rights = 0xc0f3};
    s->seg[SEG_CS] = (struct segment){.selector = 0x33, .limit = 0xffffffff, .rights = 0xa0fb};
    if (!long_mode)
        s->seg[SEG_CS] = (struct segment){.selector = 0x23, .limit = 0xffffffff, .rights = 0xc0fb};
    s->tr = (struct segment){.selector = 0x40, .base = GPA_TSS, .limit = 0x67, .rights = 0x8b};
    s->gdtr = (struct descriptor_table){.base = GPA_GDT, .limit = 0xff};
    s->idtr = (struct descriptor_table){.base = GPA_IDT, .limit = 0xfff};
    s->fpu.mxcsr = MXCSR_DEFAULT;
    s->fpu.fcw = FCW_DEFAULT;
}

static uint64_t get64(struct guest *g, gpa_t gpa)
{
    uint64_t value;
    memcpy(&value, g->ram->host + gpa, 8);
    return value;
}

/* The vCPU is at a handler: what the frame and RIP tell. */
static void read_fault(struct guest *g, struct isa_result *out)
{
    struct vcpu_state *s = &out->state;
    out->vector = (int)((s->rip - HANDLERS) / 16);
    gpa_t frame = s->gpr[GPR_RSP];
    bool has_code = out->vector == VEC_PF || out->vector == VEC_GP || out->vector == VEC_SS ||
                    out->vector == VEC_AC || out->vector == VEC_NP || out->vector == VEC_TS;
    if (has_code) {
        uint64_t code = get64(g, frame);
        frame += 8;
        if (out->vector == VEC_PF) {
            out->error_code = (uint32_t)code & 7;
            out->cr2 = s->cr2;
        }
    }
    s->rip = get64(g, frame);
    s->rflags = get64(g, frame + 16);
    s->gpr[GPR_RSP] = get64(g, frame + 24);
}

bool guest_run(struct guest *g, const struct vcpu_state *in, struct isa_result *out, char *message,
               size_t size)
{
    const struct engine_ops *ops = g->engine->ops;
    struct error err = {0};
    memset(out, 0, sizeof *out);
    out->vector = -1;
    emu_ram_changed(g->engine, GPA_CODE, ISA_CODE_BYTES);
    if (ops->set_state(g->engine, in, &err) != 0) {
        snprintf(message, size, "set_state: %s", err.message);
        return false;
    }
    for (unsigned i = 0; i < MAX_ITERATIONS; i++) {
        struct engine_request request = {.limit = ops->position(g->engine) + 1};
        int stop = ops->run(g->engine, &request, &err);
        if (stop != ENGINE_STOP_LIMIT) {
            snprintf(message, size, "run: stop %d: %s", stop, err.message);
            return false;
        }
        out->state = *ops->state(g->engine);
        if (out->state.rip != in->rip)
            break;
    }
    if (out->state.rip - HANDLERS < 256 * 16)
        read_fault(g, out);
    return true;
}
