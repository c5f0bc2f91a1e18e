#include "tests/machine/rig.h"

#include <stdlib.h>
#include <string.h>

#include "core/x86/emu.h"
#include "tests/stages.h"

/* ---- boundary ---- */

static int cross(struct boundary *b, char kind, uint64_t address, unsigned size, uint64_t value)
{
    struct rig *r = container_of(b, struct rig, boundary);
    if (r->crossings < RIG_CROSSINGS_MAX)
        r->crossing[r->crossings] = (struct rig_crossing){kind, address, value, size};
    return r->crossings++ == r->fail_at ? r->answer : BOUNDARY_OK;
}

/* An MMIO byte reads as its address, low 8 bits. */
static int mmio_read(struct boundary *b, position_t position, gpa_t gpa, unsigned size, uint64_t *value)
{
    (void)position;
    *value = 0;
    for (unsigned i = 0; i < size; i++)
        *value |= ((gpa + i) & 0xff) << (8 * i);
    return cross(b, 'r', gpa, size, *value);
}

static int mmio_write(struct boundary *b, position_t position, gpa_t gpa, unsigned size, uint64_t value)
{
    (void)position;
    return cross(b, 'w', gpa, size, value);
}

static int cpu_read(struct boundary *b, position_t position, enum boundary_source source, uint32_t argument,
                    uint64_t *value, bool *valid)
{
    (void)position;
    (void)argument;
    *valid = true;
    if (source == SOURCE_IGNNE) {
        *value = container_of(b, struct rig, boundary)->ignne;
        return cross(b, 'x', 0, 0, *value);
    }
    *value = 0x1122334455667788;
    return cross(b, 't', (uint64_t)source, 8, *value);
}

static int msr_read(struct boundary *b, position_t position, uint32_t index, uint64_t *value, bool *known)
{
    (void)position;
    *value = 0xaabbccdd00000000 | index;
    *known = container_of(b, struct rig, boundary)->msr_known;
    return cross(b, 'm', index, 8, *value);
}

static int msr_write(struct boundary *b, position_t position, uint32_t index, uint64_t value, bool *known)
{
    (void)position;
    *known = container_of(b, struct rig, boundary)->msr_known;
    return cross(b, 'M', index, 8, value);
}

static int halted(struct boundary *b, position_t position)
{
    (void)position;
    return cross(b, 'h', 0, 0, 0);
}

static void ferr_deasserted(struct boundary *b)
{
    cross(b, 'f', 0, 0, 0);
}

static const struct boundary_ops ops = {
    .mmio_read = mmio_read,
    .mmio_write = mmio_write,
    .cpu_read = cpu_read,
    .msr_read = msr_read,
    .msr_write = msr_write,
    .halted = halted,
    .ferr_deasserted = ferr_deasserted,
};

/* ---- life ---- */

struct rig *rig_create(void)
{
    static struct error err;
    struct rig *r = calloc(1, sizeof(*r));
    assert_non_null(r);
    r->boundary.ops = &ops;
    r->fail_at = UINT32_MAX;
    r->msr_known = true;
    assert_int_equal(ram_create(&r->ram, RIG_RAM_BYTES, &err), 0);
    cpu_model_init(&r->model, CPU_PROFILE_EMU);
    assert_int_equal(emu_create(&r->engine, r->ram, &r->boundary, &r->model, &err), 0);
    stages_from_environment(r->engine);
    r->e = container_of(r->engine, struct emu, engine);
    return r;
}

void rig_destroy(struct rig *r)
{
    r->engine->ops->destroy(r->engine);
    ram_destroy(r->ram);
    free(r);
}

int rig_setup(void **state)
{
    *state = rig_create();
    return 0;
}

int rig_teardown(void **state)
{
    rig_destroy(*state);
    return 0;
}

/* ---- memory ---- */

void *rig_at(struct rig *r, gpa_t gpa)
{
    uint64_t offset = ram_offset(r->ram, gpa);
    assert_true(offset != RAM_NO_OFFSET);
    return r->ram->host + offset;
}

uint64_t rig_u64(struct rig *r, gpa_t gpa)
{
    uint64_t value;
    memcpy(&value, rig_at(r, gpa), sizeof(value));
    return value;
}

uint32_t rig_u32(struct rig *r, gpa_t gpa)
{
    return (uint32_t)rig_u64(r, gpa);
}

uint16_t rig_u16(struct rig *r, gpa_t gpa)
{
    return (uint16_t)rig_u64(r, gpa);
}

void rig_put64(struct rig *r, gpa_t gpa, uint64_t value)
{
    memcpy(rig_at(r, gpa), &value, sizeof(value));
}

void rig_put32(struct rig *r, gpa_t gpa, uint32_t value)
{
    memcpy(rig_at(r, gpa), &value, sizeof(value));
}

void rig_put16(struct rig *r, gpa_t gpa, uint16_t value)
{
    memcpy(rig_at(r, gpa), &value, sizeof(value));
}

/* ---- modes ---- */

void rig_descriptor(struct rig *r, uint16_t selector, uint32_t base, uint32_t limit20, uint8_t access,
                    uint8_t flags)
{
    gpa_t at = (selector & 4 ? RIG_LDT : RIG_GDT) + (selector & 0xfff8u);
    rig_put32(r, at, (base << 16) | (limit20 & 0xffff));
    rig_put32(r, at + 4,
              (base & 0xff000000) | (uint32_t)flags << 20 | (limit20 & 0xf0000) | (uint32_t)access << 8 |
                  ((base >> 16) & 0xff));
}

static struct segment cached(struct rig *r, uint16_t selector)
{
    struct descriptor d = {.low = rig_u32(r, RIG_GDT + (selector & 0xfff8u)),
                           .high = rig_u32(r, RIG_GDT + (selector & 0xfff8u) + 4)};
    return segment_of(&d, selector);
}

static void fill_gdt(struct rig *r)
{
    rig_descriptor(r, SEL_CODE64, 0, 0xfffff, 0x9b, 0xa);
    rig_descriptor(r, SEL_DATA, 0, 0xfffff, 0x93, 0xc);
    rig_descriptor(r, SEL_USER_DATA, 0, 0xfffff, 0xf3, 0xc);
    rig_descriptor(r, SEL_USER_CODE64, 0, 0xfffff, 0xfb, 0xa);
    rig_descriptor(r, SEL_CODE32, 0, 0xfffff, 0x9b, 0xc);
    rig_descriptor(r, SEL_USER_CODE32, 0, 0xfffff, 0xfb, 0xc);
    rig_descriptor(r, SEL_CODE16, 0x100000, 0xffff, 0x9b, 0x0);
    rig_descriptor(r, SEL_DATA16, 0x100000, 0xffff, 0x93, 0x0);
    rig_descriptor(r, SEL_TSS, RIG_TSS, 0x67, 0x8b, 0);
    rig_put64(r, RIG_GDT + SEL_TSS + 8, 0);
    rig_descriptor(r, SEL_LDT, RIG_LDT, 0xfff, 0x82, 0);
    rig_put64(r, RIG_GDT + SEL_LDT + 8, 0);
    r->e->cpu.gdtr = (struct descriptor_table){RIG_GDT, 0xfff};
    r->e->cpu.idtr = (struct descriptor_table){RIG_IDT, 0xfff};
    r->e->cpu.tr = cached(r, SEL_TSS);
    r->e->cpu.ldtr = cached(r, SEL_LDT);
}

static void load_segments(struct rig *r, unsigned cpl, uint16_t code)
{
    struct vcpu_state *s = &r->e->cpu;
    uint16_t data = cpl == 3 ? SEL_USER_DATA | 3 : SEL_DATA;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        s->seg[i] = cached(r, data);
    s->seg[SEG_CS] = cached(r, (uint16_t)(code | cpl));
    s->gpr[GPR_RSP] = 0x8000;
    s->rip = 0x5000;
    s->rflags = RFLAGS_FIXED;
    tlb_flush(r->e);
    tlb_select(r->e);
}

void rig_protected(struct rig *r, unsigned cpl)
{
    struct vcpu_state *s = &r->e->cpu;
    s->cr0 = CR0_PE | CR0_ET | CR0_NE;
    s->efer = 0;
    fill_gdt(r);
    rig_put32(r, RIG_TSS + 4, 0x9000);
    rig_put32(r, RIG_TSS + 8, SEL_DATA);
    load_segments(r, cpl, cpl == 3 ? SEL_USER_CODE32 : SEL_CODE32);
}

void rig_long(struct rig *r, unsigned cpl)
{
    struct vcpu_state *s = &r->e->cpu;
    s->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG | CR0_WP;
    s->cr4 = CR4_PAE;
    s->efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE;
    s->cr3 = RIG_TABLES;
    rig_put64(r, RIG_TABLES, (RIG_TABLES + 0x1000) | 7);
    for (uint64_t i = 0; i < 512; i++) {
        rig_put64(r, RIG_TABLES + 0x1000 + 8 * i,
                  i == 0 || i == 1 ? (RIG_TABLES + 0x2000 + (i << 12)) | 7 : 0);
        rig_put64(r, RIG_TABLES + 0x2000 + 8 * i, (i << 21) | 0x87);
        rig_put64(r, RIG_TABLES + 0x3000 + 8 * i, RIG_MMIO | (i << 21) | 0x87);
    }
    fill_gdt(r);
    rig_put64(r, RIG_TSS + 4, 0x9000);
    load_segments(r, cpl, cpl == 3 ? SEL_USER_CODE64 : SEL_CODE64);
}

void rig_gate(struct rig *r, unsigned vector, unsigned type, unsigned dpl, uint16_t selector, uint64_t offset,
              unsigned ist)
{
    bool wide = vcpu_in_long_mode(&r->e->cpu);
    gpa_t at = RIG_IDT + vector * (wide ? 16 : 8);
    rig_put32(r, at, (uint32_t)selector << 16 | (offset & 0xffff));
    rig_put32(r, at + 4, (uint32_t)((offset & 0xffff0000) | 0x8000 | dpl << 13 | type << 8 | ist));
    if (wide)
        rig_put64(r, at + 8, offset >> 32);
}

/* ---- execution ---- */

enum step rig_exec(struct rig *r, const void *bytes, size_t length)
{
    struct emu *e = r->e;
    struct plan plan;
    assert_int_equal(plan_decode(e, bytes, length, code_size(e), &plan), 1);
    e->next_rip = truncate_to(e->cpu.rip + plan.length, code_size(e));
    enum step step = plan.fn(e, &plan);
    if (step == STEP_NEXT || step == STEP_LEAVE)
        e->cpu.rip = e->next_rip;
    return step;
}

void rig_assert_fault(const struct rig *r, enum step step, unsigned vector, int64_t code)
{
    assert_int_equal(step, STEP_FAULT);
    assert_int_equal(r->e->fault.vector, vector);
    assert_int_equal(r->e->fault.has_error_code, code >= 0);
    if (code >= 0)
        assert_int_equal(r->e->fault.error_code, code);
}
