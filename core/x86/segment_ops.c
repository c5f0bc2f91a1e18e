/* Instructions on segment registers and descriptor tables (SDM 2; SDM 3, 2.4 and 5.10). */
#include <string.h>

#include "core/x86/protect.h"

/* ---- operands ---- */

/* A 16-bit source that is explicit operand i: memory, or the register that comes i-th among the registers. */
static enum step source16(struct emu *e, const struct plan *p, unsigned i, uint16_t *out)
{
    gva_t linear;
    if (!(p->reg_is_memory & (1u << i))) {
        *out = (uint16_t)gpr_read(e, p->reg[i], 2);
        return STEP_NEXT;
    }
    enum step step = plan_linear(e, p, 2, ACCESS_READ, &linear);
    return step == STEP_NEXT ? mem_read(e, linear, out, 2) : step;
}

/* Operand 0: memory gets 16 bits, a register its whole width, zero-extended. */
static enum step store(struct emu *e, const struct plan *p, uint64_t value)
{
    gva_t linear;
    if (!(p->reg_is_memory & 1)) {
        gpr_write(e, p->reg[0], p->operand_bytes[0], value);
        return STEP_NEXT;
    }
    enum step step = plan_linear(e, p, 2, ACCESS_WRITE, &linear);
    return step == STEP_NEXT ? mem_write(e, linear, &value, 2) : step;
}

static void set_zf(struct emu *e, bool on)
{
    e->cpu.rflags = on ? e->cpu.rflags | RFLAGS_ZF : e->cpu.rflags & ~RFLAGS_ZF;
}

/* ---- MOV, PUSH, POP, LxS ---- */

static enum step op_mov_from(struct emu *e, const struct plan *p)
{
    unsigned seg = p->reg_is_memory & 1 ? p->reg[0] : p->reg[1];
    return store(e, p, e->cpu.seg[seg].selector);
}

/* Until after the next instruction no interrupt, NMI or debug trap comes in (SDM 3, 6.8.3). LSS does not do this. */
static enum step loaded_ss(struct emu *e)
{
    e->cpu.shadow = SHADOW_MOV_SS;
    return STEP_LEAVE;
}

static enum step op_mov_to(struct emu *e, const struct plan *p)
{
    uint16_t selector = 0;
    unsigned seg = p->reg[0];
    enum step step = source16(e, p, 1, &selector);
    if (step == STEP_NEXT)
        step = segment_load(e, seg, selector);
    return step == STEP_NEXT && seg == SEG_SS ? loaded_ss(e) : step;
}

static bool setup_mov(struct plan *p, const ZydisDecodedInstruction *insn,
                      const ZydisDecodedOperand *operands)
{
    (void)insn;
    (void)operands;
    if (p->opcode == 0x8c)
        return true;
    p->fn = op_mov_to;
    return p->reg[0] != SEG_CS;
}

/* 32-bit pushes write zeros above the selector, as AMD processors do. */
static enum step op_push(struct emu *e, const struct plan *p)
{
    return stack_push(e, e->cpu.seg[p->reg[0]].selector, p->op_size);
}

static enum step op_pop(struct emu *e, const struct plan *p)
{
    uint64_t value, rsp = e->cpu.gpr[GPR_RSP];
    enum step step = stack_pop(e, &value, p->op_size);
    if (step != STEP_NEXT)
        return step;
    step = segment_load(e, p->reg[0], (uint16_t)value);
    if (step != STEP_NEXT)
        e->cpu.gpr[GPR_RSP] = rsp;
    return step == STEP_NEXT && p->reg[0] == SEG_SS ? loaded_ss(e) : step;
}

static enum step op_load_pointer(struct emu *e, const struct plan *p)
{
    uint64_t offset;
    uint16_t selector;
    enum step step = plan_far_pointer(e, p, &offset, &selector);
    if (step != STEP_NEXT)
        return step;
    step = segment_load(e, p->flags, selector);
    if (step != STEP_NEXT)
        return step;
    gpr_write(e, p->reg[0], p->op_size, offset);
    return p->flags == SEG_SS ? STEP_LEAVE : STEP_NEXT;
}

static bool setup_load_pointer(struct plan *p, const ZydisDecodedInstruction *insn,
                               const ZydisDecodedOperand *operands)
{
    (void)operands;
    /* AMD's CPUs have no m16:64. */
    if (p->op_size == 8)
        p->op_size = 4;
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_LDS:
        p->flags = SEG_DS;
        break;
    case ZYDIS_MNEMONIC_LES:
        p->flags = SEG_ES;
        break;
    case ZYDIS_MNEMONIC_LFS:
        p->flags = SEG_FS;
        break;
    case ZYDIS_MNEMONIC_LGS:
        p->flags = SEG_GS;
        break;
    default:
        p->flags = SEG_SS;
        break;
    }
    return true;
}

/* ---- LAR, LSL, VERR, VERW, ARPL ---- */

#define TYPES_LAR      0x1a3eu /* 1..5, 9, 11, 12 */
#define TYPES_LAR_LONG 0x1a04u /* 2, 9, 11, 12 */
#define TYPES_LSL      0x0a0eu /* 1, 2, 3, 9, 11 */
#define TYPES_LSL_LONG 0x0a04u /* 2, 9, 11 */

/* The selector's descriptor, if there is one and this privilege level may see it. */
static enum step look_up(struct emu *e, const struct plan *p, unsigned operand, struct descriptor *d,
                         bool *visible)
{
    uint16_t selector = 0;
    *visible = false;
    if (!protected_mode(e))
        return raise_exception(e, VEC_UD);
    enum step step = source16(e, p, operand, &selector);
    if (step != STEP_NEXT || selector_is_null(selector))
        return step;
    step = descriptor_probe(e, selector, d, visible);
    if (step != STEP_NEXT || !*visible)
        return step;
    bool conforming = descriptor_is_code(d) && descriptor_is_conforming(d);
    unsigned dpl = descriptor_dpl(d);
    *visible = conforming || (vcpu_cpl(&e->cpu) <= dpl && selector_rpl(selector) <= dpl);
    return step;
}

static enum step op_lar_lsl(struct emu *e, const struct plan *p)
{
    struct descriptor d = {0};
    bool ok;
    enum step step = look_up(e, p, 1, &d, &ok);
    if (step != STEP_NEXT)
        return step;
    bool lar = p->mnemonic == ZYDIS_MNEMONIC_LAR;
    if (ok && !descriptor_is_segment(&d)) {
        bool wide = vcpu_in_long_mode(&e->cpu);
        unsigned types = lar ? (wide ? TYPES_LAR_LONG : TYPES_LAR) : (wide ? TYPES_LSL_LONG : TYPES_LSL);
        ok = (types >> descriptor_type(&d)) & 1;
    }
    if (ok)
        gpr_write(e, p->reg[0], p->operand_bytes[0], lar ? d.high & 0x00ffff00 : descriptor_limit(&d));
    set_zf(e, ok);
    return STEP_NEXT;
}

static enum step op_verify(struct emu *e, const struct plan *p)
{
    struct descriptor d = {0};
    bool ok;
    enum step step = look_up(e, p, 0, &d, &ok);
    if (step != STEP_NEXT)
        return step;
    if (ok && p->mnemonic == ZYDIS_MNEMONIC_VERW)
        ok = descriptor_is_writable_data(&d);
    else if (ok)
        ok = descriptor_is_segment(&d) && (!descriptor_is_code(&d) || (descriptor_type(&d) & TYPE_READABLE));
    set_zf(e, ok);
    return STEP_NEXT;
}

static enum step op_arpl(struct emu *e, const struct plan *p)
{
    uint16_t selector = 0;
    gva_t linear = 0;
    bool memory = p->reg_is_memory & 1;
    if (!protected_mode(e))
        return raise_exception(e, VEC_UD);
    enum step step = STEP_NEXT;
    if (memory) {
        /* Written only when it changes. */
        step = plan_linear(e, p, 2, ACCESS_READ, &linear);
        if (step == STEP_NEXT)
            step = mem_read(e, linear, &selector, 2);
        if (step != STEP_NEXT)
            return step;
    } else {
        selector = (uint16_t)gpr_read(e, p->reg[0], 2);
    }
    unsigned rpl = gpr_read(e, p->reg[memory ? 0 : 1], 2) & 3;
    bool raise = selector_rpl(selector) < rpl;
    if (raise) {
        selector = (uint16_t)((selector & 0xfffc) | rpl);
        if (memory)
            step = plan_linear(e, p, 2, ACCESS_WRITE, &linear);
        if (memory && step == STEP_NEXT)
            step = mem_write(e, linear, &selector, 2);
        if (!memory)
            gpr_write(e, p->reg[0], 2, selector);
    }
    if (step == STEP_NEXT)
        set_zf(e, raise);
    return step;
}

/* ---- descriptor tables ---- */

/* UMIP makes the instructions that reveal system state privileged (SDM 3, 2.5). */
static bool umip_forbids(const struct emu *e)
{
    return (e->cpu.cr4 & CR4_UMIP) && vcpu_cpl(&e->cpu) != 0;
}

static enum step op_store_selector(struct emu *e, const struct plan *p)
{
    if (!protected_mode(e))
        return raise_exception(e, VEC_UD);
    if (umip_forbids(e))
        return raise_exception_code(e, VEC_GP, 0);
    return store(e, p, p->mnemonic == ZYDIS_MNEMONIC_STR ? e->cpu.tr.selector : e->cpu.ldtr.selector);
}

static enum step op_smsw(struct emu *e, const struct plan *p)
{
    if (umip_forbids(e))
        return raise_exception_code(e, VEC_GP, 0);
    return store(e, p, e->cpu.cr0);
}

static enum step op_lmsw(struct emu *e, const struct plan *p)
{
    uint16_t value;
    if (vcpu_cpl(&e->cpu) != 0)
        return raise_exception_code(e, VEC_GP, 0);
    enum step step = source16(e, p, 0, &value);
    if (step != STEP_NEXT)
        return step;
    /* PE can be set but not cleared. */
    uint64_t changed = CR0_MP | CR0_EM | CR0_TS | (value & CR0_PE);
    step = write_cr0(e, (e->cpu.cr0 & ~changed) | (value & changed));
    return step == STEP_NEXT ? STEP_LEAVE : step;
}

/* SGDT and SIDT store the whole base whatever the operand size is. */
static enum step op_store_table(struct emu *e, const struct plan *p)
{
    const struct descriptor_table *t = p->mnemonic == ZYDIS_MNEMONIC_SGDT ? &e->cpu.gdtr : &e->cpu.idtr;
    size_t length = p->code_size == 8 ? 10 : 6;
    uint8_t raw[10];
    gva_t linear;
    if (umip_forbids(e))
        return raise_exception_code(e, VEC_GP, 0);
    memcpy(raw, &t->limit, 2);
    memcpy(raw + 2, &t->base, 8);
    enum step step = plan_linear(e, p, length, ACCESS_WRITE, &linear);
    return step == STEP_NEXT ? mem_write(e, linear, raw, length) : step;
}

static enum step op_load_table(struct emu *e, const struct plan *p)
{
    struct descriptor_table *t = p->mnemonic == ZYDIS_MNEMONIC_LGDT ? &e->cpu.gdtr : &e->cpu.idtr;
    size_t length = p->code_size == 8 ? 10 : 6;
    uint8_t raw[10] = {0};
    struct descriptor_table loaded;
    gva_t linear;
    if (vcpu_cpl(&e->cpu) != 0)
        return raise_exception_code(e, VEC_GP, 0);
    enum step step = plan_linear(e, p, length, ACCESS_READ, &linear);
    if (step == STEP_NEXT)
        step = mem_read(e, linear, raw, length);
    if (step != STEP_NEXT)
        return step;
    memcpy(&loaded.limit, raw, 2);
    memcpy(&loaded.base, raw + 2, 8);
    if (p->code_size == 8 && !is_canonical(loaded.base))
        return raise_exception_code(e, VEC_GP, 0);
    if (p->code_size != 8 && p->op_size == 2)
        loaded.base &= 0xffffff;
    *t = loaded;
    return STEP_NEXT;
}

/* A system segment descriptor, with the upper half in long mode. */
static enum step system_segment(struct emu *e, uint16_t selector, unsigned types, struct descriptor *d,
                                struct segment *out)
{
    if (selector & 4)
        return raise_exception_code(e, VEC_GP, selector_error(selector));
    enum step step = descriptor_read(e, selector, VEC_GP, d);
    if (step != STEP_NEXT)
        return step;
    if (descriptor_is_segment(d) || !((types >> descriptor_type(d)) & 1))
        return raise_exception_code(e, VEC_GP, selector_error(selector));
    if (!descriptor_present(d))
        return raise_exception_code(e, VEC_NP, selector_error(selector));
    *out = segment_of(d, selector);
    if (!vcpu_in_long_mode(&e->cpu))
        return STEP_NEXT;
    uint32_t upper[2];
    step = descriptor_read_upper(e, selector, d, upper);
    if (step != STEP_NEXT)
        return step;
    out->base |= (uint64_t)upper[0] << 32;
    if ((upper[1] & 0x1f00) || !is_canonical(out->base))
        return raise_exception_code(e, VEC_GP, selector_error(selector));
    return STEP_NEXT;
}

static enum step op_lldt(struct emu *e, const struct plan *p)
{
    uint16_t selector = 0;
    struct descriptor d = {0};
    struct segment loaded;
    if (!protected_mode(e))
        return raise_exception(e, VEC_UD);
    if (vcpu_cpl(&e->cpu) != 0)
        return raise_exception_code(e, VEC_GP, 0);
    enum step step = source16(e, p, 0, &selector);
    if (step != STEP_NEXT)
        return step;
    if (selector_is_null(selector)) {
        e->cpu.ldtr = segment_null(selector, 0);
        return STEP_NEXT;
    }
    step = system_segment(e, selector, 1u << DESCRIPTOR_LDT, &d, &loaded);
    if (step == STEP_NEXT)
        e->cpu.ldtr = loaded;
    return step;
}

static enum step op_ltr(struct emu *e, const struct plan *p)
{
    uint16_t selector = 0;
    struct descriptor d = {0};
    struct segment loaded;
    if (!protected_mode(e))
        return raise_exception(e, VEC_UD);
    if (vcpu_cpl(&e->cpu) != 0)
        return raise_exception_code(e, VEC_GP, 0);
    enum step step = source16(e, p, 0, &selector);
    if (step == STEP_NEXT && selector_is_null(selector))
        return raise_exception_code(e, VEC_GP, 0);
    unsigned types = 1u << DESCRIPTOR_TSS | (vcpu_in_long_mode(&e->cpu) ? 0 : 1u << DESCRIPTOR_TSS16);
    if (step == STEP_NEXT)
        step = system_segment(e, selector, types, &d, &loaded);
    if (step != STEP_NEXT)
        return step;
    uint8_t busy = (uint8_t)((d.high >> 8) | 2);
    step = mem_write_system(e, d.linear + 5, &busy, 1);
    if (step != STEP_NEXT)
        return step;
    loaded.rights |= 2;
    e->cpu.tr = loaded;
    return STEP_NEXT;
}

static const struct plan_handler handlers[] = {
    {ZYDIS_MNEMONIC_MOV, op_mov_from, setup_mov},
    {ZYDIS_MNEMONIC_PUSH, op_push, NULL},
    {ZYDIS_MNEMONIC_POP, op_pop, NULL},
    {ZYDIS_MNEMONIC_LDS, op_load_pointer, setup_load_pointer},
    {ZYDIS_MNEMONIC_LES, op_load_pointer, setup_load_pointer},
    {ZYDIS_MNEMONIC_LFS, op_load_pointer, setup_load_pointer},
    {ZYDIS_MNEMONIC_LGS, op_load_pointer, setup_load_pointer},
    {ZYDIS_MNEMONIC_LSS, op_load_pointer, setup_load_pointer},
    {ZYDIS_MNEMONIC_LAR, op_lar_lsl, NULL},
    {ZYDIS_MNEMONIC_LSL, op_lar_lsl, NULL},
    {ZYDIS_MNEMONIC_VERR, op_verify, NULL},
    {ZYDIS_MNEMONIC_VERW, op_verify, NULL},
    {ZYDIS_MNEMONIC_ARPL, op_arpl, NULL},
    {ZYDIS_MNEMONIC_SLDT, op_store_selector, NULL},
    {ZYDIS_MNEMONIC_STR, op_store_selector, NULL},
    {ZYDIS_MNEMONIC_LLDT, op_lldt, NULL},
    {ZYDIS_MNEMONIC_LTR, op_ltr, NULL},
    {ZYDIS_MNEMONIC_SGDT, op_store_table, NULL},
    {ZYDIS_MNEMONIC_SIDT, op_store_table, NULL},
    {ZYDIS_MNEMONIC_LGDT, op_load_table, NULL},
    {ZYDIS_MNEMONIC_LIDT, op_load_table, NULL},
    {ZYDIS_MNEMONIC_SMSW, op_smsw, NULL},
    {ZYDIS_MNEMONIC_LMSW, op_lmsw, NULL},
};

const struct plan_handlers segment_handlers = {handlers, ARRAY_LEN(handlers)};
