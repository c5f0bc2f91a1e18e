/* Far jumps and calls, direct and through call gates (SDM 3, 5.8). */
#include <string.h>

#include "core/x86/protect.h"

/* ---- code segments as targets ---- */

enum step code_descriptor(struct emu *e, uint16_t selector, bool is_return, struct descriptor *out)
{
    enum step step = descriptor_read(e, selector, VEC_GP, out);
    if (step != STEP_NEXT)
        return step;
    unsigned dpl = descriptor_dpl(out), rpl = selector_rpl(selector), cpl = vcpu_cpl(&e->cpu);
    bool ok;
    if (is_return)
        ok = descriptor_is_conforming(out) ? dpl <= rpl : dpl == rpl;
    else
        ok = descriptor_is_conforming(out) ? dpl <= cpl : rpl <= cpl && dpl == cpl;
    bool both = vcpu_in_long_mode(&e->cpu) && descriptor_is_long_code(out) && descriptor_is_big(out);
    if (!descriptor_is_code(out) || !ok || both)
        return raise_exception_code(e, VEC_GP, selector_error(selector));
    if (!descriptor_present(out))
        return raise_exception_code(e, VEC_NP, selector_error(selector));
    return STEP_NEXT;
}

enum step code_offset_check(struct emu *e, const struct descriptor *d, uint64_t offset)
{
    bool wide = vcpu_in_long_mode(&e->cpu) && descriptor_is_long_code(d);
    if (wide ? !is_canonical(offset) : offset > descriptor_limit(d))
        return raise_exception_code(e, VEC_GP, 0);
    return STEP_NEXT;
}

/* The current stack, for pushes of the given width. */
static struct frame current_stack(const struct emu *e, unsigned width)
{
    struct frame f = {
        .ss = e->cpu.seg[SEG_SS],
        .rights = rights_of_cpl(vcpu_cpl(&e->cpu)),
        .long_mode = vcpu_in_64bit_code(&e->cpu),
        .width = width,
    };
    unsigned bytes = stack_width(e);
    f.sp_mask = truncate_to(~(uint64_t)0, bytes);
    f.sp = e->cpu.gpr[GPR_RSP] & f.sp_mask;
    return f;
}

static void load_cs(struct emu *e, const struct descriptor *d, uint16_t selector, unsigned cpl, uint64_t rip)
{
    e->cpu.seg[SEG_CS] = segment_of(d, (uint16_t)((selector & 0xfffc) | cpl));
    e->cpu.rip = rip;
}

/* ---- real mode ---- */

static enum step far_real(struct emu *e, uint16_t selector, uint64_t offset, unsigned width, bool call)
{
    if (offset > e->cpu.seg[SEG_CS].limit)
        return raise_exception_code(e, VEC_GP, 0);
    if (call) {
        struct frame f = current_stack(e, width);
        frame_push(&f, e->cpu.seg[SEG_CS].selector);
        frame_push(&f, e->next_rip);
        enum step step = frame_check(e, &f);
        if (step == STEP_NEXT)
            step = frame_write(e, &f);
        if (step != STEP_NEXT)
            return step;
        e->cpu.gpr[GPR_RSP] = frame_sp(&f, e->cpu.gpr[GPR_RSP]);
    }
    e->cpu.seg[SEG_CS].selector = selector;
    e->cpu.seg[SEG_CS].base = (uint32_t)selector << 4;
    e->cpu.rip = offset;
    return STEP_JUMP;
}

/* ---- call gates (SDM 3, 5.8.3) ---- */

struct call_gate {
    uint16_t selector;
    uint64_t offset;
    unsigned parameters; /* to copy, legacy only */
    unsigned width;      /* of what is pushed */
};

static enum step gate_permitted(struct emu *e, uint16_t selector, const struct descriptor *d)
{
    unsigned dpl = descriptor_dpl(d);
    if (dpl < vcpu_cpl(&e->cpu) || dpl < selector_rpl(selector))
        return raise_exception_code(e, VEC_GP, selector_error(selector));
    if (!descriptor_present(d))
        return raise_exception_code(e, VEC_NP, selector_error(selector));
    return STEP_NEXT;
}

static enum step gate_read(struct emu *e, uint16_t selector, const struct descriptor *d,
                           struct call_gate *out)
{
    bool long_mode = vcpu_in_long_mode(&e->cpu);
    unsigned type = descriptor_type(d);
    bool gate = type == DESCRIPTOR_CALL || (!long_mode && type == DESCRIPTOR_CALL16);
    if (!gate)
        return raise_exception_code(e, VEC_GP, selector_error(selector));
    enum step step = gate_permitted(e, selector, d);
    if (step != STEP_NEXT)
        return step;
    *out = (struct call_gate){
        .selector = (uint16_t)(d->low >> 16),
        .offset = (d->low & 0xffff) | (d->high & 0xffff0000),
        .parameters = d->high & 0x1f,
        .width = type == DESCRIPTOR_CALL ? 4 : 2,
    };
    if (type == DESCRIPTOR_CALL16)
        out->offset &= 0xffff;
    if (!long_mode)
        return STEP_NEXT;
    uint32_t upper[2];
    step = descriptor_read_upper(e, selector, d, upper);
    if (step == STEP_NEXT && (upper[1] & 0x1f00)) /* the upper half's type must be 0 */
        return raise_exception_code(e, VEC_GP, selector_error(selector));
    out->offset |= (uint64_t)upper[0] << 32;
    out->parameters = 0;
    out->width = 8;
    return step;
}

static enum step gate_code(struct emu *e, const struct call_gate *g, bool call, struct descriptor *cs)
{
    if (selector_is_null(g->selector))
        return raise_exception_code(e, VEC_GP, 0);
    enum step step = descriptor_read(e, g->selector, VEC_GP, cs);
    if (step != STEP_NEXT)
        return step;
    unsigned dpl = descriptor_dpl(cs), cpl = vcpu_cpl(&e->cpu);
    bool level = descriptor_is_conforming(cs) || call ? dpl <= cpl : dpl == cpl;
    bool mode = !vcpu_in_long_mode(&e->cpu) || (descriptor_is_long_code(cs) && !descriptor_is_big(cs));
    if (!descriptor_is_code(cs) || !level || !mode)
        return raise_exception_code(e, VEC_GP, selector_error(g->selector));
    if (!descriptor_present(cs))
        return raise_exception_code(e, VEC_NP, selector_error(g->selector));
    return code_offset_check(e, cs, g->offset);
}

/* Pushes the parameters of the caller's stack, the first-pushed (highest) first. */
static enum step copy_parameters(struct emu *e, const struct call_gate *g, struct frame *f)
{
    uint64_t mask = truncate_to(~(uint64_t)0, stack_width(e));
    for (unsigned i = g->parameters; i-- > 0;) {
        gva_t linear;
        uint64_t value = 0;
        enum step step = segment_linear(e, SEG_SS, (e->cpu.gpr[GPR_RSP] + i * g->width) & mask, g->width,
                                        ACCESS_READ, &linear);
        if (step == STEP_NEXT)
            step = mem_read(e, linear, &value, g->width);
        if (step != STEP_NEXT)
            return step;
        frame_push(f, value);
    }
    return STEP_NEXT;
}

static enum step inner_stack(struct emu *e, const struct call_gate *g, unsigned cpl, struct frame *f,
                             uint16_t *selector, struct descriptor *ss)
{
    bool long_mode = vcpu_in_long_mode(&e->cpu);
    *f = (struct frame){.long_mode = long_mode, .rights = rights_of_cpl(cpl), .width = g->width};
    enum step step = tss_stack(e, cpl, 0, selector, &f->sp);
    if (step != STEP_NEXT)
        return step;
    f->sp_mask = ~(uint64_t)0;
    if (!long_mode) {
        if (selector_is_null(*selector))
            return raise_exception_code(e, VEC_TS, 0);
        step = stack_descriptor(e, *selector, cpl, VEC_TS, ss);
        if (step != STEP_NEXT)
            return step;
        f->ss = segment_of(ss, *selector);
        f->ss_error = (uint16_t)selector_error(*selector);
        f->sp_mask = f->ss.rights & SEGMENT_DB ? 0xffffffff : 0xffff;
        f->sp &= f->sp_mask;
    }
    frame_push(f, e->cpu.seg[SEG_SS].selector);
    frame_push(f, e->cpu.gpr[GPR_RSP]);
    return copy_parameters(e, g, f);
}

static enum step call_through_gate(struct emu *e, const struct call_gate *g, struct descriptor *cs)
{
    unsigned cpl = descriptor_is_conforming(cs) ? vcpu_cpl(&e->cpu) : descriptor_dpl(cs);
    bool inner = cpl < vcpu_cpl(&e->cpu);
    struct descriptor ss = {0};
    uint16_t selector = 0;
    struct frame f = current_stack(e, g->width);
    if (vcpu_in_long_mode(&e->cpu)) {
        f.long_mode = true; /* the gate's target is 64-bit code, and so is its stack */
        f.sp_mask = ~(uint64_t)0;
    }
    enum step step = inner ? inner_stack(e, g, cpl, &f, &selector, &ss) : STEP_NEXT;
    if (step != STEP_NEXT)
        return step;
    frame_push(&f, e->cpu.seg[SEG_CS].selector);
    frame_push(&f, e->next_rip);
    step = frame_check(e, &f);
    if (step == STEP_NEXT)
        step = descriptor_set_accessed(e, cs);
    if (step == STEP_NEXT && inner && !f.long_mode)
        step = descriptor_set_accessed(e, &ss);
    if (step == STEP_NEXT)
        step = frame_write(e, &f);
    if (step != STEP_NEXT)
        return step;
    if (inner)
        e->cpu.seg[SEG_SS] = f.long_mode ? segment_null(selector, cpl) : segment_of(&ss, selector);
    e->cpu.gpr[GPR_RSP] = frame_sp(&f, e->cpu.gpr[GPR_RSP]);
    load_cs(e, cs, g->selector, cpl, g->offset);
    tlb_select(e);
    return STEP_JUMP;
}

static enum step far_through_gate(struct emu *e, uint16_t selector, const struct descriptor *d, bool call)
{
    struct call_gate g = {0};
    struct descriptor cs = {0};
    enum step step = gate_read(e, selector, d, &g);
    if (step == STEP_NEXT)
        step = gate_code(e, &g, call, &cs);
    if (step != STEP_NEXT)
        return step;
    if (call)
        return call_through_gate(e, &g, &cs);
    step = descriptor_set_accessed(e, &cs);
    if (step != STEP_NEXT)
        return step;
    load_cs(e, &cs, g.selector, vcpu_cpl(&e->cpu), g.offset);
    return STEP_JUMP;
}

/* The code that is called decides how wide the stack pointer is. */
static void use_stack_of(struct frame *f, const struct emu *e, bool long_code)
{
    unsigned bytes = long_code ? 8 : e->cpu.seg[SEG_SS].rights & SEGMENT_DB ? 4 : 2;
    f->long_mode = long_code;
    f->sp_mask = truncate_to(~(uint64_t)0, bytes);
    f->sp = e->cpu.gpr[GPR_RSP] & f->sp_mask;
}

/* A TSS, or a task gate that names one. */
static enum step far_to_task(struct emu *e, uint16_t selector, const struct descriptor *d, bool call)
{
    bool gate = descriptor_type(d) == DESCRIPTOR_TASK_GATE;
    enum step step = gate_permitted(e, selector, d);
    if (step != STEP_NEXT)
        return step;
    return task_switch(e, gate ? (uint16_t)(d->low >> 16) : selector, call ? TASK_CALL : TASK_JUMP,
                       e->next_rip, e->cpu.rflags);
}

static bool names_task(const struct emu *e, const struct descriptor *d)
{
    unsigned type = descriptor_type(d);
    return !vcpu_in_long_mode(&e->cpu) &&
           (type == DESCRIPTOR_TASK_GATE || type == DESCRIPTOR_TSS || type == DESCRIPTOR_TSS16);
}

static enum step far_transfer(struct emu *e, uint16_t selector, uint64_t offset, unsigned width, bool call)
{
    if (!protected_mode(e))
        return far_real(e, selector, offset, width, call);
    struct descriptor d = {0};
    if (selector_is_null(selector))
        return raise_exception_code(e, VEC_GP, 0);
    enum step step = descriptor_read(e, selector, VEC_GP, &d);
    if (step != STEP_NEXT)
        return step;
    if (!descriptor_is_segment(&d))
        return names_task(e, &d) ? far_to_task(e, selector, &d, call)
                                 : far_through_gate(e, selector, &d, call);
    step = code_descriptor(e, selector, false, &d);
    if (step == STEP_NEXT)
        step = code_offset_check(e, &d, offset);
    if (step != STEP_NEXT)
        return step;
    struct frame f = current_stack(e, width);
    if (call && vcpu_in_long_mode(&e->cpu))
        use_stack_of(&f, e, descriptor_is_long_code(&d));
    if (call) {
        frame_push(&f, e->cpu.seg[SEG_CS].selector);
        frame_push(&f, e->next_rip);
        /* Two pushes: CS stays written when the second one faults. */
        step = frame_write(e, &f);
    }
    if (step == STEP_NEXT)
        step = descriptor_set_accessed(e, &d);
    if (step != STEP_NEXT)
        return step;
    if (call)
        e->cpu.gpr[GPR_RSP] = frame_sp(&f, e->cpu.gpr[GPR_RSP]);
    load_cs(e, &d, selector, vcpu_cpl(&e->cpu), offset);
    return STEP_JUMP;
}

#define FAR_WIDE 1u /* plan's flags: CALL pushes 8 bytes each */

static enum step op_far_direct(struct emu *e, const struct plan *p)
{
    return far_transfer(e, (uint16_t)p->imm2, truncate_to(p->imm, p->op_size), p->op_size,
                        p->mnemonic == ZYDIS_MNEMONIC_CALL);
}

static enum step op_far_memory(struct emu *e, const struct plan *p)
{
    uint64_t offset;
    uint16_t selector;
    enum step step = plan_far_pointer(e, p, &offset, &selector);
    if (step != STEP_NEXT)
        return step;
    unsigned width = p->flags & FAR_WIDE ? 8 : p->op_size;
    return far_transfer(e, selector, offset, width, p->mnemonic == ZYDIS_MNEMONIC_CALL);
}

/* Near forms of the same mnemonics belong to near.c: only far ones get here. */
static bool setup_far(struct plan *p, const ZydisDecodedInstruction *insn,
                      const ZydisDecodedOperand *operands)
{
    (void)operands;
    (void)insn;
    if (p->reg_is_memory & 1)
        p->fn = op_far_memory;
    /* AMD's CPUs have no m16:64: REX.W only makes the pushes wide. */
    if (p->op_size == 8) {
        p->op_size = 4;
        p->flags |= FAR_WIDE;
    }
    return p->code_size != 8 || (p->reg_is_memory & 1); /* 9A and EA do not exist in 64-bit mode */
}

static const struct plan_handler handlers[] = {
    {ZYDIS_MNEMONIC_CALL, op_far_direct, setup_far},
    {ZYDIS_MNEMONIC_JMP, op_far_direct, setup_far},
    {ZYDIS_MNEMONIC_RET, op_ret_far, NULL},
    {ZYDIS_MNEMONIC_IRET, op_iret, NULL},
    {ZYDIS_MNEMONIC_IRETD, op_iret, NULL},
    {ZYDIS_MNEMONIC_IRETQ, op_iret, NULL},
    {ZYDIS_MNEMONIC_INT, op_int, NULL},
    {ZYDIS_MNEMONIC_INT3, op_int3, NULL},
    {ZYDIS_MNEMONIC_INT1, op_int1, NULL},
    {ZYDIS_MNEMONIC_INTO, op_into, NULL},
    {ZYDIS_MNEMONIC_SYSCALL, op_syscall, NULL},
    {ZYDIS_MNEMONIC_SYSRET, op_sysret, NULL},
    {ZYDIS_MNEMONIC_SYSENTER, op_sysenter, NULL},
    {ZYDIS_MNEMONIC_SYSEXIT, op_sysexit, NULL},
};

const struct plan_handlers far_handlers = {handlers, ARRAY_LEN(handlers)};
