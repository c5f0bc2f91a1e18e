/* INT n, INT3, INTO, INT1; SYSCALL, SYSRET, SYSENTER, SYSEXIT. */
#include "core/x86/protect.h"

static enum step software_event(struct emu *e, unsigned vector, enum event_class class)
{
    enum step step = deliver_event(e, vector, class, false, 0, e->next_rip);
    return step == STEP_NEXT ? STEP_JUMP : step;
}

enum step op_int(struct emu *e, const struct plan *p)
{
    return software_event(e, p->imm & 0xff, EVENT_SOFTWARE_INT);
}

enum step op_int3(struct emu *e, const struct plan *p)
{
    (void)p;
    return software_event(e, VEC_BP, EVENT_INT3_INTO);
}

enum step op_int1(struct emu *e, const struct plan *p)
{
    (void)p;
    return software_event(e, VEC_DB, EVENT_INT1);
}

enum step op_into(struct emu *e, const struct plan *p)
{
    if (p->code_size == 8)
        return raise_exception(e, VEC_UD);
    if (!(e->cpu.rflags & RFLAGS_OF))
        return STEP_NEXT;
    return software_event(e, VEC_OF, EVENT_INT3_INTO);
}

/* The flat segments that the fast system calls load without reading a descriptor. */
static struct segment flat_code(uint16_t selector, unsigned dpl, bool wide)
{
    unsigned rights = SEGMENT_P | SEGMENT_S | TYPE_CODE | TYPE_READABLE | TYPE_ACCESSED | SEGMENT_G |
                      (wide ? SEGMENT_L : SEGMENT_DB) | dpl << SEGMENT_DPL_SHIFT;
    return (struct segment){.limit = 0xffffffff, .selector = selector, .rights = (uint16_t)rights};
}

static struct segment flat_stack(uint16_t selector, unsigned dpl)
{
    unsigned rights = SEGMENT_P | SEGMENT_S | TYPE_WRITABLE | TYPE_ACCESSED | SEGMENT_G | SEGMENT_DB |
                      dpl << SEGMENT_DPL_SHIFT;
    return (struct segment){.limit = 0xffffffff, .selector = selector, .rights = (uint16_t)rights};
}

/* Outside long mode too, as AMD processors have it: target in STAR 31:0 (AMD64 manual 2, 6.1.1). */
enum step op_syscall(struct emu *e, const struct plan *p)
{
    struct vcpu_state *s = &e->cpu;
    (void)p;
    if (!(s->efer & EFER_SCE) || !protected_mode(e))
        return raise_exception(e, VEC_UD);
    uint16_t selector = (uint16_t)((s->star >> 32) & 0xfffc);
    bool wide = vcpu_in_long_mode(s);
    s->gpr[GPR_RCX] = e->next_rip;
    if (wide) {
        s->gpr[GPR_R11] = s->rflags & ~RFLAGS_RF;
        s->rip = vcpu_in_64bit_code(s) ? s->lstar : s->cstar;
        s->rflags = (s->rflags & ~(s->sfmask | RFLAGS_RF)) | RFLAGS_FIXED;
    } else {
        s->rip = (uint32_t)s->star;
        s->rflags &= ~(RFLAGS_IF | RFLAGS_RF | RFLAGS_VM);
    }
    s->seg[SEG_CS] = flat_code(selector, 0, wide);
    s->seg[SEG_SS] = flat_stack((uint16_t)(selector + 8), 0);
    tlb_select(e);
    return STEP_JUMP;
}

/*
 * As on AMD processors a non-canonical RCX faults at CPL 3, at the fetch. SS gets flat attributes, of which AMD
 * processors leave the old ones; a program sees the difference only with a null SS before.
 */
enum step op_sysret(struct emu *e, const struct plan *p)
{
    struct vcpu_state *s = &e->cpu;
    if (!(s->efer & EFER_SCE) || !protected_mode(e))
        return raise_exception(e, VEC_UD);
    if (vcpu_cpl(s) != 0)
        return raise_exception_code(e, VEC_GP, 0);
    bool wide = p->op_size == 8;
    uint16_t selector = (uint16_t)(s->star >> 48);
    s->rip = wide ? s->gpr[GPR_RCX] : (uint32_t)s->gpr[GPR_RCX];
    if (vcpu_in_long_mode(s))
        s->rflags = (s->gpr[GPR_R11] & 0x3c7fd7) | RFLAGS_FIXED;
    else
        s->rflags |= RFLAGS_IF;
    s->seg[SEG_CS] = flat_code((uint16_t)((selector + (wide ? 16 : 0)) | 3), 3, wide);
    s->seg[SEG_SS] = flat_stack((uint16_t)((selector + 8) | 3), 3);
    tlb_select(e);
    return STEP_JUMP;
}

/* AMD processors have these outside long mode only (AMD64 manual 3, SYSENTER). */
static bool sysenter_exists(const struct emu *e)
{
    return cpu_model_has(e->model, CPU_FEATURE_LEAF1_EDX + 11) && !vcpu_in_long_mode(&e->cpu);
}

enum step op_sysenter(struct emu *e, const struct plan *p)
{
    struct vcpu_state *s = &e->cpu;
    (void)p;
    if (!sysenter_exists(e))
        return raise_exception(e, VEC_UD);
    uint16_t selector = (uint16_t)(s->sysenter_cs & 0xfffc);
    if (!(s->cr0 & CR0_PE) || !selector)
        return raise_exception_code(e, VEC_GP, 0);
    s->rflags &= ~(RFLAGS_VM | RFLAGS_IF | RFLAGS_RF);
    s->rip = (uint32_t)s->sysenter_eip;
    s->gpr[GPR_RSP] = (uint32_t)s->sysenter_esp;
    s->seg[SEG_CS] = flat_code(selector, 0, false);
    s->seg[SEG_SS] = flat_stack((uint16_t)(selector + 8), 0);
    tlb_select(e);
    return STEP_JUMP;
}

enum step op_sysexit(struct emu *e, const struct plan *p)
{
    struct vcpu_state *s = &e->cpu;
    (void)p;
    if (!sysenter_exists(e))
        return raise_exception(e, VEC_UD);
    uint16_t selector = (uint16_t)(s->sysenter_cs & 0xfffc);
    if (!protected_mode(e) || !selector || vcpu_cpl(s) != 0)
        return raise_exception_code(e, VEC_GP, 0);
    s->rip = (uint32_t)s->gpr[GPR_RDX];
    s->gpr[GPR_RSP] = (uint32_t)s->gpr[GPR_RCX];
    s->seg[SEG_CS] = flat_code((uint16_t)((selector + 16) | 3), 3, false);
    s->seg[SEG_SS] = flat_stack((uint16_t)((selector + 24) | 3), 3);
    tlb_select(e);
    return STEP_JUMP;
}
