/*
 * Model-specific registers. Those in vcpu_state are inside the line, and as deterministic as any other register;
 * the time-stamp counter is a CPU value from outside; all others are the boundary's.
 */
#include "core/x86/protect.h"

enum {
    MSR_TSC = 0x10,
    MSR_APIC_BASE = 0x1b,
    MSR_SYSENTER_CS = 0x174,
    MSR_SYSENTER_ESP = 0x175,
    MSR_SYSENTER_EIP = 0x176,
    MSR_MISC_ENABLE = 0x1a0,
    MSR_PAT = 0x277,
};

#define MSR_EFER           0xc0000080u
#define MSR_STAR           0xc0000081u
#define MSR_LSTAR          0xc0000082u
#define MSR_CSTAR          0xc0000083u
#define MSR_SFMASK         0xc0000084u
#define MSR_FS_BASE        0xc0000100u
#define MSR_GS_BASE        0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX        0xc0000103u

/* APIC_BASE: BSP (8), enable (11) and the address may be written. */
#define APIC_BASE_WRITABLE_LOW ((uint64_t)0x900)

static enum step refused(struct emu *e)
{
    return raise_exception_code(e, VEC_GP, 0);
}

/* Where an MSR that is plain state lives, or NULL. */
static uint64_t *msr_field(struct emu *e, uint32_t index)
{
    struct vcpu_state *s = &e->cpu;
    switch (index) {
    case MSR_APIC_BASE:
        return &s->apic_base;
    case MSR_SYSENTER_CS:
        return &s->sysenter_cs;
    case MSR_SYSENTER_ESP:
        return &s->sysenter_esp;
    case MSR_SYSENTER_EIP:
        return &s->sysenter_eip;
    case MSR_MISC_ENABLE:
        return &s->misc_enable;
    case MSR_PAT:
        return &s->pat;
    case MSR_EFER:
        return &s->efer;
    case MSR_STAR:
        return &s->star;
    case MSR_LSTAR:
        return &s->lstar;
    case MSR_CSTAR:
        return &s->cstar;
    case MSR_SFMASK:
        return &s->sfmask;
    case MSR_FS_BASE:
        return &s->seg[SEG_FS].base;
    case MSR_GS_BASE:
        return &s->seg[SEG_GS].base;
    case MSR_KERNEL_GS_BASE:
        return &s->kernel_gs_base;
    case MSR_TSC_AUX: /* comes with RDTSCP */
        return cpu_model_has(e->model, CPU_FEATURE_EXT1_EDX + 27) ? &s->tsc_aux : NULL;
    default:
        return NULL;
    }
}

/* What the boundary said about a crossing. */
static enum step crossed(struct emu *e, int result, bool known)
{
    if (result < 0) {
        e->stop_reason = ENGINE_STOP_BOUNDARY;
        return STEP_STOP;
    }
    if (result == BOUNDARY_STOP)
        e->boundary_stop = true;
    return known ? STEP_NEXT : refused(e);
}

enum step read_msr(struct emu *e, uint32_t index, uint64_t *value)
{
    const struct boundary_ops *ops = e->boundary->ops;
    const uint64_t *field = msr_field(e, index);
    bool known = true;
    *value = 0;
    if (field) {
        *value = *field;
        return STEP_NEXT;
    }
    if (index == MSR_TSC)
        return crossed(e, ops->cpu_read(e->boundary, e->position, SOURCE_RDTSC, 0, value, &known), true);
    if (index == MSR_TSC_AUX)
        return refused(e);
    int result = ops->msr_read(e->boundary, e->position, index, value, &known);
    return crossed(e, result, known);
}

static enum step write_efer(struct emu *e, uint64_t value)
{
    struct vcpu_state *s = &e->cpu;
    uint64_t known = EFER_LMA; /* read-only: writes to it are ignored */
    if (cpu_model_has(e->model, CPU_FEATURE_EXT1_EDX + 11))
        known |= EFER_SCE;
    if (cpu_model_has(e->model, CPU_FEATURE_EXT1_EDX + 29))
        known |= EFER_LME;
    if (cpu_model_has(e->model, CPU_FEATURE_EXT1_EDX + 20))
        known |= EFER_NXE;
    if (value & ~known)
        return refused(e);
    if ((s->cr0 & CR0_PG) && ((value ^ s->efer) & EFER_LME))
        return refused(e);
    bool flush = (value ^ s->efer) & EFER_NXE;
    s->efer = (value & ~EFER_LMA) | (s->efer & EFER_LMA);
    if (flush)
        tlb_flush(e);
    return STEP_NEXT;
}

/* Each byte a memory type: 0, 1, 4, 5, 6, 7 (SDM 3, 11.12.2). */
bool pat_is_valid(uint64_t value)
{
    for (unsigned i = 0; i < 64; i += 8) {
        unsigned type = (value >> i) & 0xff;
        if (type > 7 || type == 2 || type == 3)
            return false;
    }
    return true;
}

bool apic_base_is_valid(const struct emu *e, uint64_t value)
{
    return !(value >> e->physical_bits) && !(value & PAGE_MASK & ~APIC_BASE_WRITABLE_LOW);
}

enum step write_msr(struct emu *e, uint32_t index, uint64_t value)
{
    uint64_t *field = msr_field(e, index);
    bool known = true;
    if (!field && index == MSR_TSC_AUX)
        return refused(e);
    if (!field) {
        int result = e->boundary->ops->msr_write(e->boundary, e->position, index, value, &known);
        return crossed(e, result, known);
    }
    switch (index) {
    case MSR_EFER:
        return write_efer(e, value);
    case MSR_APIC_BASE:
        if (!apic_base_is_valid(e, value))
            return refused(e);
        break;
    case MSR_PAT:
        if (!pat_is_valid(value))
            return refused(e);
        break;
    case MSR_SYSENTER_CS:
    case MSR_SFMASK:
    case MSR_TSC_AUX: /* 32 bits wide: AMD processors ignore the upper half */
        value = (uint32_t)value;
        break;
    case MSR_STAR:
    case MSR_MISC_ENABLE:
        break;
    default: /* all others hold a linear address */
        if (!is_canonical(value))
            return refused(e);
        break;
    }
    *field = value;
    return STEP_NEXT;
}

static bool may_access_msrs(const struct emu *e)
{
    return !(e->cpu.cr0 & CR0_PE) || (protected_mode(e) && vcpu_cpl(&e->cpu) == 0);
}

enum step op_rdmsr(struct emu *e, const struct plan *p)
{
    uint64_t value;
    (void)p;
    if (!may_access_msrs(e))
        return refused(e);
    enum step step = read_msr(e, (uint32_t)e->cpu.gpr[GPR_RCX], &value);
    if (step != STEP_NEXT)
        return step;
    e->cpu.gpr[GPR_RAX] = (uint32_t)value;
    e->cpu.gpr[GPR_RDX] = value >> 32;
    return STEP_NEXT;
}

enum step op_wrmsr(struct emu *e, const struct plan *p)
{
    (void)p;
    if (!may_access_msrs(e))
        return refused(e);
    uint64_t value = (uint32_t)e->cpu.gpr[GPR_RAX] | e->cpu.gpr[GPR_RDX] << 32;
    enum step step = write_msr(e, (uint32_t)e->cpu.gpr[GPR_RCX], value);
    return step == STEP_NEXT ? STEP_LEAVE : step;
}
