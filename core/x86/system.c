/* System instructions: control and debug registers, CPUID, caches and TLB, FS and GS bases (SDM 2). */
#include "core/x86/protect.h"

static bool privileged(const struct emu *e)
{
    return !protected_mode(e) ? !(e->cpu.rflags & RFLAGS_VM) : vcpu_cpl(&e->cpu) == 0;
}

static enum step refused(struct emu *e)
{
    return raise_exception_code(e, VEC_GP, 0);
}

static enum step op_undefined(struct emu *e, const struct plan *p)
{
    (void)p;
    return raise_exception(e, VEC_UD);
}

/* Things that the rest of the block was decoded or chained under may have changed. */
static enum step leave(enum step step)
{
    return step == STEP_NEXT ? STEP_LEAVE : step;
}

/* ---- MOV CR, MOV DR, CLTS ---- */

static enum step read_cr(struct emu *e, unsigned cr, uint64_t *value)
{
    const struct vcpu_state *s = &e->cpu;
    switch (cr) {
    case 0:
        *value = s->cr0;
        return STEP_NEXT;
    case 2:
        *value = s->cr2;
        return STEP_NEXT;
    case 3:
        *value = s->cr3;
        return STEP_NEXT;
    case 4:
        *value = s->cr4;
        return STEP_NEXT;
    case 8:
        *value = s->cr8;
        return STEP_NEXT;
    default:
        return raise_exception(e, VEC_UD);
    }
}

static enum step write_cr(struct emu *e, unsigned cr, uint64_t value)
{
    switch (cr) {
    case 0:
        return write_cr0(e, value);
    case 2:
        e->cpu.cr2 = value;
        return STEP_NEXT;
    case 3:
        return write_cr3(e, value);
    case 4:
        return write_cr4(e, value);
    case 8:
        if (value >> 4)
            return refused(e);
        e->cpu.cr8 = value;
        return STEP_NEXT;
    default:
        return raise_exception(e, VEC_UD);
    }
}

static unsigned native_width(const struct plan *p)
{
    return p->code_size == 8 ? 8 : 4;
}

static enum step op_mov_from_cr(struct emu *e, const struct plan *p)
{
    uint64_t value = 0;
    enum step step = read_cr(e, p->reg[1], &value);
    if (step == STEP_NEXT && !privileged(e))
        return refused(e);
    if (step == STEP_NEXT)
        gpr_write(e, p->reg[0], native_width(p), value);
    return step;
}

static enum step op_mov_to_cr(struct emu *e, const struct plan *p)
{
    uint64_t ignored;
    enum step step = read_cr(e, p->reg[0], &ignored); /* #UD comes before #GP */
    if (step == STEP_NEXT && !privileged(e))
        return refused(e);
    if (step == STEP_NEXT)
        step = write_cr(e, p->reg[0], gpr_read(e, p->reg[1], native_width(p)));
    return leave(step);
}

/* DR4 and DR5 are DR6 and DR7 unless CR4.DE is set (SDM 3, 17.2.2). DR7.GD guards all of them. */
static enum step debug_register_check(struct emu *e, unsigned *dr)
{
    if (*dr == 4 || *dr == 5) {
        if (e->cpu.cr4 & CR4_DE)
            return raise_exception(e, VEC_UD);
        *dr += 2;
    }
    if (*dr > 7)
        return raise_exception(e, VEC_UD);
    if (!privileged(e))
        return refused(e);
    if (e->cpu.dr7 & DR7_GD) {
        e->cpu.dr6 |= DR6_BD; /* part of the delivery of this #DB, which nothing can stop */
        return raise_exception(e, VEC_DB);
    }
    return STEP_NEXT;
}

static enum step op_mov_from_dr(struct emu *e, const struct plan *p)
{
    unsigned dr = p->reg[1];
    enum step step = debug_register_check(e, &dr);
    if (step != STEP_NEXT)
        return step;
    uint64_t value = dr == 7 ? e->cpu.dr7 : dr == 6 ? e->cpu.dr6 : e->cpu.dr[dr];
    gpr_write(e, p->reg[0], native_width(p), value);
    return STEP_NEXT;
}

static enum step op_mov_to_dr(struct emu *e, const struct plan *p)
{
    unsigned dr = p->reg[0];
    enum step step = debug_register_check(e, &dr);
    if (step != STEP_NEXT)
        return step;
    uint64_t value = gpr_read(e, p->reg[1], native_width(p));
    if (dr >= 6 && value >> 32)
        return refused(e);
    if (dr == 7)
        e->cpu.dr7 = (value & DR7_WRITABLE) | DR7_FIXED;
    else if (dr == 6)
        e->cpu.dr6 = (value & DR6_WRITABLE) | DR6_FIXED;
    else
        e->cpu.dr[dr] = value;
    tlb_flush(e); /* pages with a data breakpoint are kept out of it */
    return STEP_LEAVE;
}

static bool setup_mov(struct plan *p, const ZydisDecodedInstruction *insn,
                      const ZydisDecodedOperand *operands)
{
    (void)insn;
    (void)operands;
    switch (p->opcode) {
    case 0x20:
        p->fn = op_mov_from_cr;
        return true;
    case 0x21:
        p->fn = op_mov_from_dr;
        return true;
    case 0x22:
        p->fn = op_mov_to_cr;
        return true;
    case 0x23:
        p->fn = op_mov_to_dr;
        return true;
    default:
        return false;
    }
}

static enum step op_clts(struct emu *e, const struct plan *p)
{
    (void)p;
    if (!privileged(e))
        return refused(e);
    e->cpu.cr0 &= ~CR0_TS;
    return STEP_LEAVE;
}

/* ---- caches and TLB: entries are never stale, so these only check ---- */

static enum step op_wbinvd(struct emu *e, const struct plan *p)
{
    (void)p;
    return privileged(e) ? STEP_NEXT : refused(e);
}

static enum step op_invlpg(struct emu *e, const struct plan *p)
{
    gva_t linear;
    if (!privileged(e))
        return refused(e);
    enum step step = plan_linear(e, p, 0, ACCESS_READ, &linear); /* no check: length 0 */
    if (step == STEP_NEXT)
        tlb_flush_page(e, linear & ~PAGE_MASK);
    return step;
}

static enum step op_invpcid(struct emu *e, const struct plan *p)
{
    enum { ADDRESS, CONTEXT, ALL_GLOBAL, ALL };
    uint64_t descriptor[2];
    gva_t linear;
    if (!cpu_model_has(e->model, CPU_FEATURE_LEAF7_EBX + 10))
        return raise_exception(e, VEC_UD);
    if (!privileged(e))
        return refused(e);
    uint64_t type = gpr_read(e, p->reg[0], native_width(p));
    enum step step = plan_linear(e, p, sizeof(descriptor), ACCESS_READ, &linear);
    if (step == STEP_NEXT)
        step = mem_read(e, linear, descriptor, sizeof(descriptor));
    if (step != STEP_NEXT)
        return step;
    bool names_pcid = type == ADDRESS || type == CONTEXT;
    if (type > ALL || descriptor[0] >> 12 || (names_pcid && descriptor[0] && !(e->cpu.cr4 & CR4_PCIDE)) ||
        (type == ADDRESS && !is_canonical(descriptor[1])))
        return refused(e);
    tlb_flush(e);
    return STEP_LEAVE;
}

/* ---- CPUID, SWAPGS, FSGSBASE ---- */

/* EDX of leaves 1 and 0x80000001: there is no local APIC while it is disabled (SDM 3, 10.4.2). */
#define CPUID_APIC (1u << 9)

static enum step op_cpuid(struct emu *e, const struct plan *p)
{
    uint32_t out[4];
    uint64_t *gpr = e->cpu.gpr;
    (void)p;
    cpu_model_cpuid(e->model, (uint32_t)gpr[GPR_RAX], (uint32_t)gpr[GPR_RCX], e->cpu.cr4, e->cpu.xcr0, out);
    bool apic_leaf = (uint32_t)gpr[GPR_RAX] == 1 || (uint32_t)gpr[GPR_RAX] == 0x80000001;
    if (apic_leaf && !(e->cpu.apic_base & APIC_BASE_ENABLE))
        out[3] &= ~CPUID_APIC;
    gpr[GPR_RAX] = out[0];
    gpr[GPR_RBX] = out[1];
    gpr[GPR_RCX] = out[2];
    gpr[GPR_RDX] = out[3];
    return STEP_NEXT;
}

static enum step op_swapgs(struct emu *e, const struct plan *p)
{
    if (p->code_size != 8)
        return raise_exception(e, VEC_UD);
    if (!privileged(e))
        return refused(e);
    uint64_t base = e->cpu.seg[SEG_GS].base;
    e->cpu.seg[SEG_GS].base = e->cpu.kernel_gs_base;
    e->cpu.kernel_gs_base = base;
    return STEP_NEXT;
}

static enum step op_segment_base(struct emu *e, const struct plan *p)
{
    bool fs = p->mnemonic == ZYDIS_MNEMONIC_RDFSBASE || p->mnemonic == ZYDIS_MNEMONIC_WRFSBASE;
    bool write = p->mnemonic == ZYDIS_MNEMONIC_WRFSBASE || p->mnemonic == ZYDIS_MNEMONIC_WRGSBASE;
    struct segment *s = &e->cpu.seg[fs ? SEG_FS : SEG_GS];
    if (p->code_size != 8 || !(e->cpu.cr4 & CR4_FSGSBASE))
        return raise_exception(e, VEC_UD);
    if (!write) {
        gpr_write(e, p->reg[0], p->operand_bytes[0], truncate_to(s->base, p->operand_bytes[0]));
        return STEP_NEXT;
    }
    uint64_t value = gpr_read(e, p->reg[0], p->operand_bytes[0]);
    if (!is_canonical(value))
        return refused(e);
    s->base = value;
    return STEP_NEXT;
}

/* CLAC, STAC: for the supervisor, with or without CR4.SMAP; not in virtual-8086 mode (SDM 2). */
static enum step op_alignment_flag(struct emu *e, const struct plan *p)
{
    if (!privileged(e))
        return raise_exception(e, VEC_UD);
    set_rflags(e, p->mnemonic == ZYDIS_MNEMONIC_STAC ? RFLAGS_AC : 0, RFLAGS_AC);
    return STEP_LEAVE;
}

static const struct plan_handler handlers[] = {
    {ZYDIS_MNEMONIC_MOV, op_undefined, setup_mov},
    {ZYDIS_MNEMONIC_CLTS, op_clts, NULL},
    {ZYDIS_MNEMONIC_CLAC, op_alignment_flag, NULL},
    {ZYDIS_MNEMONIC_STAC, op_alignment_flag, NULL},
    {ZYDIS_MNEMONIC_INVLPG, op_invlpg, NULL},
    {ZYDIS_MNEMONIC_INVPCID, op_invpcid, NULL},
    {ZYDIS_MNEMONIC_WBINVD, op_wbinvd, NULL},
    {ZYDIS_MNEMONIC_INVD, op_wbinvd, NULL},
    {ZYDIS_MNEMONIC_CPUID, op_cpuid, NULL},
    {ZYDIS_MNEMONIC_SWAPGS, op_swapgs, NULL},
    {ZYDIS_MNEMONIC_RDFSBASE, op_segment_base, NULL},
    {ZYDIS_MNEMONIC_RDGSBASE, op_segment_base, NULL},
    {ZYDIS_MNEMONIC_WRFSBASE, op_segment_base, NULL},
    {ZYDIS_MNEMONIC_WRGSBASE, op_segment_base, NULL},
    {ZYDIS_MNEMONIC_RDMSR, op_rdmsr, NULL},
    {ZYDIS_MNEMONIC_WRMSR, op_wrmsr, NULL},
    /* The CPU model has no virtualization and no system management mode. */
    {ZYDIS_MNEMONIC_RSM, op_undefined, NULL},
    {ZYDIS_MNEMONIC_GETSEC, op_undefined, NULL},
    {ZYDIS_MNEMONIC_VMCALL, op_undefined, NULL},
    {ZYDIS_MNEMONIC_VMMCALL, op_undefined, NULL},
    {ZYDIS_MNEMONIC_VMLAUNCH, op_undefined, NULL},
    {ZYDIS_MNEMONIC_VMRESUME, op_undefined, NULL},
    {ZYDIS_MNEMONIC_VMXOFF, op_undefined, NULL},
    {ZYDIS_MNEMONIC_VMXON, op_undefined, NULL},
    {ZYDIS_MNEMONIC_VMFUNC, op_undefined, NULL},
    {ZYDIS_MNEMONIC_VMCLEAR, op_undefined, NULL},
    {ZYDIS_MNEMONIC_VMPTRLD, op_undefined, NULL},
    {ZYDIS_MNEMONIC_VMPTRST, op_undefined, NULL},
    {ZYDIS_MNEMONIC_VMREAD, op_undefined, NULL},
    {ZYDIS_MNEMONIC_VMWRITE, op_undefined, NULL},
    {ZYDIS_MNEMONIC_INVEPT, op_undefined, NULL},
    {ZYDIS_MNEMONIC_INVVPID, op_undefined, NULL},
    {ZYDIS_MNEMONIC_VMRUN, op_undefined, NULL},
    {ZYDIS_MNEMONIC_VMLOAD, op_undefined, NULL},
    {ZYDIS_MNEMONIC_VMSAVE, op_undefined, NULL},
    {ZYDIS_MNEMONIC_STGI, op_undefined, NULL},
    {ZYDIS_MNEMONIC_CLGI, op_undefined, NULL},
    {ZYDIS_MNEMONIC_SKINIT, op_undefined, NULL},
    {ZYDIS_MNEMONIC_INVLPGA, op_undefined, NULL},
};

const struct plan_handlers system_handlers = {handlers, ARRAY_LEN(handlers)};
