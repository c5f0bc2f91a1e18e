/*
 * Control flow inside the code segment, and the stack instructions (SDM 2, and SDM 1 chapter 6). A handler that
 * faults leaves every register as it was.
 */
#include "core/x86/internal.h"

/* ---- conditions ---- */

/* SDM 1, appendix B: the low nibble of the opcode. */
static inline bool condition_met(uint64_t flags, unsigned condition)
{
    bool met;
    switch (condition >> 1) {
    case 0:
        met = flags & RFLAGS_OF;
        break;
    case 1:
        met = flags & RFLAGS_CF;
        break;
    case 2:
        met = flags & RFLAGS_ZF;
        break;
    case 3:
        met = flags & (RFLAGS_CF | RFLAGS_ZF);
        break;
    case 4:
        met = flags & RFLAGS_SF;
        break;
    case 5:
        met = flags & RFLAGS_PF;
        break;
    case 6:
        met = !(flags & RFLAGS_SF) != !(flags & RFLAGS_OF);
        break;
    default:
        met = (flags & RFLAGS_ZF) || !(flags & RFLAGS_SF) != !(flags & RFLAGS_OF);
        break;
    }
    return met != (condition & 1);
}

static enum step branch_relative(struct emu *e, const struct plan *p)
{
    return near_branch(e, e->next_rip + p->imm, p->op_size);
}

static enum step do_jcc(struct emu *e, const struct plan *p)
{
    return condition_met(e->cpu.rflags, p->condition) ? branch_relative(e, p) : STEP_NEXT;
}

static enum step do_jcxz(struct emu *e, const struct plan *p)
{
    return gpr_read(e, GPR_RCX, p->addr_size) == 0 ? branch_relative(e, p) : STEP_NEXT;
}

static enum step do_loop(struct emu *e, const struct plan *p)
{
    uint64_t count = truncate_to(e->cpu.gpr[GPR_RCX] - 1, p->addr_size);
    bool zero = e->cpu.rflags & RFLAGS_ZF;
    bool taken = count != 0;
    if (p->rep != PLAN_REP_NONE)
        taken = taken && zero == (p->rep == PLAN_REP);
    else if (p->mnemonic == ZYDIS_MNEMONIC_LOOPE)
        taken = taken && zero;
    else if (p->mnemonic == ZYDIS_MNEMONIC_LOOPNE)
        taken = taken && !zero;
    enum step step = taken ? branch_relative(e, p) : STEP_NEXT;
    if (step != STEP_FAULT)
        gpr_write(e, GPR_RCX, p->addr_size, count);
    return step;
}

/* ---- jumps, calls, returns ---- */

/* The register or memory operand of size bytes. */
static enum step read_operand(struct emu *e, const struct plan *p, unsigned size, uint64_t *value)
{
    *value = 0;
    if (!(p->reg_is_memory & 1)) {
        *value = gpr_read(e, p->reg[0], size);
        return STEP_NEXT;
    }
    gva_t linear;
    enum step step = plan_linear(e, p, size, ACCESS_READ, &linear);
    if (step != STEP_NEXT)
        return step;
    const uint8_t *host = tlb_host(e, linear, size, PLAN_MEM_READ);
    if (likely(host && size == 8)) {
        __builtin_memcpy(value, host, 8);
        return STEP_NEXT;
    }
    return mem_read(e, linear, value, size);
}

/* A target that cannot be reached: the stack's own fault comes before that, but nothing is written. */
static enum step call_fault(struct emu *e, const struct plan *p, enum step step)
{
    unsigned width = stack_width(e);
    struct fault fault = e->fault;
    gva_t linear;
    enum step stack = segment_linear(e, SEG_SS, truncate_to(e->cpu.gpr[GPR_RSP] - p->op_size, width),
                                     p->op_size, ACCESS_WRITE, &linear);
    if (stack == STEP_NEXT)
        stack = mem_check_write(e, linear, p->op_size);
    if (stack != STEP_NEXT)
        return stack;
    e->fault = fault;
    return step;
}

static enum step call_to(struct emu *e, const struct plan *p, uint64_t target)
{
    uint64_t rip = e->cpu.rip;
    enum step step = near_branch(e, target, p->op_size);
    if (unlikely(step != STEP_JUMP))
        return call_fault(e, p, step);
    step = stack_push(e, e->next_rip, p->op_size);
    if (step != STEP_NEXT) {
        e->cpu.rip = rip;
        return step;
    }
    return STEP_JUMP;
}

static enum step do_jmp_indirect(struct emu *e, const struct plan *p)
{
    uint64_t target;
    enum step step = read_operand(e, p, p->op_size, &target);
    return step == STEP_NEXT ? near_branch(e, target, p->op_size) : step;
}

static enum step do_call_relative(struct emu *e, const struct plan *p)
{
    return call_to(e, p, e->next_rip + p->imm);
}

static enum step do_call_indirect(struct emu *e, const struct plan *p)
{
    uint64_t target;
    enum step step = read_operand(e, p, p->op_size, &target);
    return step == STEP_NEXT ? call_to(e, p, target) : step;
}

/* RSP, ESP or SP, by the stack's width. */
static void add_to_stack_pointer(struct emu *e, uint64_t bytes)
{
    unsigned width = stack_width(e);
    gpr_write(e, GPR_RSP, width, truncate_to(e->cpu.gpr[GPR_RSP] + bytes, width));
}

static enum step do_ret(struct emu *e, const struct plan *p)
{
    uint64_t rsp = e->cpu.gpr[GPR_RSP], target;
    enum step step = stack_pop(e, &target, p->op_size);
    if (step != STEP_NEXT)
        return step;
    step = near_branch(e, target, p->op_size);
    if (step != STEP_JUMP)
        e->cpu.gpr[GPR_RSP] = rsp;
    else if (p->operand_count)
        add_to_stack_pointer(e, p->imm & 0xffff);
    return step;
}

/* ---- push and pop ---- */

static enum step do_push_reg(struct emu *e, const struct plan *p)
{
    return stack_push(e, gpr_read(e, p->reg[0], p->op_size), p->op_size);
}

static enum step do_push_imm(struct emu *e, const struct plan *p)
{
    return stack_push(e, truncate_to(p->imm, p->op_size), p->op_size);
}

static enum step do_push_mem(struct emu *e, const struct plan *p)
{
    uint64_t value;
    enum step step = read_operand(e, p, p->op_size, &value);
    return step == STEP_NEXT ? stack_push(e, value, p->op_size) : step;
}

static enum step do_pop_reg(struct emu *e, const struct plan *p)
{
    uint64_t value;
    enum step step = stack_pop(e, &value, p->op_size);
    if (step == STEP_NEXT)
        gpr_write(e, p->reg[0], p->op_size, value);
    return step;
}

/* An address based on RSP is computed with RSP as it is after the pop (SDM 2, POP). */
static enum step do_pop_mem(struct emu *e, const struct plan *p)
{
    uint64_t rsp = e->cpu.gpr[GPR_RSP], value;
    gva_t linear;
    enum step step = stack_pop(e, &value, p->op_size);
    if (step != STEP_NEXT)
        return step;
    step = plan_linear(e, p, p->op_size, ACCESS_WRITE, &linear);
    if (step == STEP_NEXT)
        step = mem_write(e, linear, &value, p->op_size);
    if (step != STEP_NEXT)
        e->cpu.gpr[GPR_RSP] = rsp;
    return step;
}

/* The eight registers in the order of rising addresses. */
static const uint8_t all_registers[8] = {GPR_RDI, GPR_RSI, GPR_RBP, GPR_RSP,
                                         GPR_RBX, GPR_RDX, GPR_RCX, GPR_RAX};

static enum step all_registers_slot(struct emu *e, const struct plan *p, uint64_t sp, enum access access,
                                    gva_t *linear)
{
    return segment_linear(e, SEG_SS, truncate_to(sp, stack_width(e)), p->op_size, access, linear);
}

/* Eight pushes, AX first: those before one that faults stay written, as on hardware. */
static enum step do_pusha(struct emu *e, const struct plan *p)
{
    uint64_t sp = e->cpu.gpr[GPR_RSP];
    for (unsigned i = 8; i-- > 0;) {
        gva_t linear;
        sp -= p->op_size;
        enum step step = all_registers_slot(e, p, sp, ACCESS_WRITE, &linear);
        if (step == STEP_NEXT)
            step = mem_write(e, linear, &e->cpu.gpr[all_registers[i]], p->op_size);
        if (step != STEP_NEXT)
            return step;
    }
    add_to_stack_pointer(e, 0 - (uint64_t)8 * p->op_size);
    return STEP_NEXT;
}

/* Eight pops, DI first: registers popped before a fault keep their new values, as on AMD's CPUs; SP does not move. */
static enum step do_popa(struct emu *e, const struct plan *p)
{
    uint64_t sp = e->cpu.gpr[GPR_RSP];
    for (unsigned i = 0; i < 8; i++, sp += p->op_size) {
        uint64_t value = 0;
        gva_t linear;
        enum step step = all_registers_slot(e, p, sp, ACCESS_READ, &linear);
        if (step == STEP_NEXT)
            step = mem_read(e, linear, &value, p->op_size);
        if (step != STEP_NEXT)
            return step;
        if (all_registers[i] != GPR_RSP)
            gpr_write(e, all_registers[i], p->op_size, value);
    }
    add_to_stack_pointer(e, (uint64_t)8 * p->op_size);
    return STEP_NEXT;
}

/* ---- flags ---- */

static unsigned iopl(const struct emu *e)
{
    return (unsigned)((e->cpu.rflags & RFLAGS_IOPL) >> 12);
}

/* Virtual-8086 mode with IOPL < 3: with CR4.VME the 16-bit forms work on VIF instead of IF (SDM 3, 21.3). */
static bool flags_virtual(const struct emu *e, const struct plan *p, bool *faults)
{
    bool limited = (e->cpu.rflags & RFLAGS_VM) && iopl(e) < 3;
    bool vme = (e->cpu.cr4 & CR4_VME) && p->op_size == 2;
    *faults = limited && !vme;
    return limited && vme;
}

static enum step do_pushf(struct emu *e, const struct plan *p)
{
    bool faults, virtual = flags_virtual(e, p, &faults);
    if (faults)
        return raise_exception_code(e, VEC_GP, 0);
    uint64_t image = e->cpu.rflags & ~(RFLAGS_RF | RFLAGS_VM);
    if (virtual) {
        image |= RFLAGS_IOPL;
        image = (image & ~RFLAGS_IF) | (e->cpu.rflags & RFLAGS_VIF ? RFLAGS_IF : 0);
    }
    return stack_push(e, truncate_to(image, p->op_size), p->op_size);
}

static enum step do_popf(struct emu *e, const struct plan *p)
{
    bool faults, virtual = flags_virtual(e, p, &faults);
    if (faults)
        return raise_exception_code(e, VEC_GP, 0);
    uint64_t value, rsp = e->cpu.gpr[GPR_RSP];
    enum step step = stack_pop(e, &value, p->op_size);
    if (step != STEP_NEXT)
        return step;
    uint64_t mask = RFLAGS_STATUS | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT;
    if (p->op_size != 2)
        mask |= RFLAGS_AC | RFLAGS_ID;
    if (virtual) {
        if ((value & RFLAGS_TF) || ((value & RFLAGS_IF) && (e->cpu.rflags & RFLAGS_VIP))) {
            e->cpu.gpr[GPR_RSP] = rsp;
            return raise_exception_code(e, VEC_GP, 0);
        }
        mask |= RFLAGS_VIF;
        value = (value & ~RFLAGS_VIF) | (value & RFLAGS_IF ? RFLAGS_VIF : 0);
    } else if (vcpu_cpl(&e->cpu) == 0) {
        mask |= RFLAGS_IOPL | RFLAGS_IF;
    } else if (vcpu_cpl(&e->cpu) <= iopl(e)) {
        mask |= RFLAGS_IF;
    }
    set_rflags(e, value, mask);
    return STEP_LEAVE;
}

/* ---- frames ---- */

/* The display of ENTER with a nesting level: the level-1 frame pointers that RBP points to, then the new one. */
static enum step push_display(struct emu *e, const struct plan *p, unsigned level, uint64_t frame)
{
    unsigned width = stack_width(e);
    uint64_t bp = truncate_to(e->cpu.gpr[GPR_RBP], width);
    for (unsigned i = 1; i < level; i++) {
        uint64_t value = 0;
        gva_t linear;
        bp = truncate_to(bp - p->op_size, width);
        enum step step = segment_linear(e, SEG_SS, bp, p->op_size, ACCESS_READ, &linear);
        if (step == STEP_NEXT)
            step = mem_read(e, linear, &value, p->op_size);
        if (step == STEP_NEXT)
            step = stack_push(e, value, p->op_size);
        if (step != STEP_NEXT)
            return step;
    }
    return stack_push(e, frame, p->op_size);
}

static enum step do_enter(struct emu *e, const struct plan *p)
{
    unsigned level = p->imm2 & 31, width = stack_width(e);
    uint64_t rsp = e->cpu.gpr[GPR_RSP], room = p->imm & 0xffff;
    enum step step = stack_push(e, truncate_to(e->cpu.gpr[GPR_RBP], p->op_size), p->op_size);
    uint64_t frame = truncate_to(e->cpu.gpr[GPR_RSP], width);
    if (step == STEP_NEXT && level)
        step = push_display(e, p, level, frame);
    if (step == STEP_NEXT) {
        uint64_t top = truncate_to(e->cpu.gpr[GPR_RSP] - room, width);
        gva_t linear;
        step = segment_linear(e, SEG_SS, top, p->op_size, ACCESS_WRITE, &linear);
        if (step == STEP_NEXT)
            step = mem_check_write(e, linear, p->op_size);
        if (step == STEP_NEXT)
            gpr_write(e, GPR_RSP, width, top);
    }
    if (step == STEP_NEXT)
        gpr_write(e, GPR_RBP, p->op_size == 2 || width == 2 ? 2 : width, frame);
    else
        e->cpu.gpr[GPR_RSP] = rsp;
    return step;
}

static enum step do_leave(struct emu *e, const struct plan *p)
{
    uint64_t rsp = e->cpu.gpr[GPR_RSP], value;
    unsigned width = stack_width(e);
    gpr_write(e, GPR_RSP, width, truncate_to(e->cpu.gpr[GPR_RBP], width));
    enum step step = stack_pop(e, &value, p->op_size);
    if (step == STEP_NEXT)
        gpr_write(e, GPR_RBP, p->op_size, value);
    else
        e->cpu.gpr[GPR_RSP] = rsp;
    return step;
}

/* ---- the table (far and segment register forms of the same mnemonics are in other files) ---- */

/* In 64-bit mode near branches and the stack have no 32-bit form. */
static void widen(struct plan *p)
{
    if (p->code_size == 8 && p->op_size == 4)
        p->op_size = 8;
}

/* In 64-bit code RIP has 64 bits, or after 66 on AMD's CPUs 16. */
static uint8_t branch_size(const struct plan *p, const ZydisDecodedInstruction *insn)
{
    if (p->code_size != 8)
        return p->op_size;
    return (insn->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE) && !insn->raw.rex.W ? 2 : 8;
}

static bool setup_branch(struct plan *p, const ZydisDecodedInstruction *insn,
                         const ZydisDecodedOperand *operands)
{
    p->op_size = branch_size(p, insn);
    bool relative = operands[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    if (insn->mnemonic == ZYDIS_MNEMONIC_JMP)
        p->fn = relative ? branch_relative : do_jmp_indirect;
    else if (insn->mnemonic == ZYDIS_MNEMONIC_CALL)
        p->fn = relative ? do_call_relative : do_call_indirect;
    return true;
}

/* REPE and REPNE in front of LOOPE and LOOPNE decide between the two on AMD's CPUs. */
static uint8_t repeat_prefix(const ZydisDecodedInstruction *insn)
{
    uint8_t rep = PLAN_REP_NONE;
    for (unsigned i = 0; i < insn->raw.prefix_count; i++) {
        if (insn->raw.prefixes[i].value == 0xf3)
            rep = PLAN_REP;
        else if (insn->raw.prefixes[i].value == 0xf2)
            rep = PLAN_REPNE;
    }
    return rep;
}

static bool setup_conditional(struct plan *p, const ZydisDecodedInstruction *insn,
                              const ZydisDecodedOperand *operands)
{
    (void)operands;
    p->op_size = branch_size(p, insn);
    p->condition = insn->opcode & 0xf;
    if (p->mnemonic == ZYDIS_MNEMONIC_LOOPE || p->mnemonic == ZYDIS_MNEMONIC_LOOPNE)
        p->rep = repeat_prefix(insn);
    return true;
}

static bool setup_push(struct plan *p, const ZydisDecodedInstruction *insn,
                       const ZydisDecodedOperand *operands)
{
    (void)insn;
    widen(p);
    if (operands[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
        p->fn = do_push_imm;
    else
        p->fn = p->reg_is_memory & 1 ? do_push_mem : do_push_reg;
    return true;
}

static bool setup_pop(struct plan *p, const ZydisDecodedInstruction *insn,
                      const ZydisDecodedOperand *operands)
{
    (void)insn, (void)operands;
    widen(p);
    p->fn = p->reg_is_memory & 1 ? do_pop_mem : do_pop_reg;
    return true;
}

static bool setup_stack(struct plan *p, const ZydisDecodedInstruction *insn,
                        const ZydisDecodedOperand *operands)
{
    (void)insn, (void)operands;
    widen(p);
    return true;
}

static const struct plan_handler handlers[] = {
    {ZYDIS_MNEMONIC_JMP, branch_relative, setup_branch},
    {ZYDIS_MNEMONIC_CALL, do_call_relative, setup_branch},
    {ZYDIS_MNEMONIC_RET, do_ret, setup_branch},
    {ZYDIS_MNEMONIC_JO, do_jcc, setup_conditional},
    {ZYDIS_MNEMONIC_JNO, do_jcc, setup_conditional},
    {ZYDIS_MNEMONIC_JB, do_jcc, setup_conditional},
    {ZYDIS_MNEMONIC_JNB, do_jcc, setup_conditional},
    {ZYDIS_MNEMONIC_JZ, do_jcc, setup_conditional},
    {ZYDIS_MNEMONIC_JNZ, do_jcc, setup_conditional},
    {ZYDIS_MNEMONIC_JBE, do_jcc, setup_conditional},
    {ZYDIS_MNEMONIC_JNBE, do_jcc, setup_conditional},
    {ZYDIS_MNEMONIC_JS, do_jcc, setup_conditional},
    {ZYDIS_MNEMONIC_JNS, do_jcc, setup_conditional},
    {ZYDIS_MNEMONIC_JP, do_jcc, setup_conditional},
    {ZYDIS_MNEMONIC_JNP, do_jcc, setup_conditional},
    {ZYDIS_MNEMONIC_JL, do_jcc, setup_conditional},
    {ZYDIS_MNEMONIC_JNL, do_jcc, setup_conditional},
    {ZYDIS_MNEMONIC_JLE, do_jcc, setup_conditional},
    {ZYDIS_MNEMONIC_JNLE, do_jcc, setup_conditional},
    {ZYDIS_MNEMONIC_JCXZ, do_jcxz, setup_conditional},
    {ZYDIS_MNEMONIC_JECXZ, do_jcxz, setup_conditional},
    {ZYDIS_MNEMONIC_JRCXZ, do_jcxz, setup_conditional},
    {ZYDIS_MNEMONIC_LOOP, do_loop, setup_conditional},
    {ZYDIS_MNEMONIC_LOOPE, do_loop, setup_conditional},
    {ZYDIS_MNEMONIC_LOOPNE, do_loop, setup_conditional},
    {ZYDIS_MNEMONIC_PUSH, do_push_reg, setup_push},
    {ZYDIS_MNEMONIC_POP, do_pop_reg, setup_pop},
    {ZYDIS_MNEMONIC_PUSHA, do_pusha, setup_stack},
    {ZYDIS_MNEMONIC_PUSHAD, do_pusha, setup_stack},
    {ZYDIS_MNEMONIC_POPA, do_popa, setup_stack},
    {ZYDIS_MNEMONIC_POPAD, do_popa, setup_stack},
    {ZYDIS_MNEMONIC_PUSHF, do_pushf, setup_stack},
    {ZYDIS_MNEMONIC_PUSHFD, do_pushf, setup_stack},
    {ZYDIS_MNEMONIC_PUSHFQ, do_pushf, setup_stack},
    {ZYDIS_MNEMONIC_POPF, do_popf, setup_stack},
    {ZYDIS_MNEMONIC_POPFD, do_popf, setup_stack},
    {ZYDIS_MNEMONIC_POPFQ, do_popf, setup_stack},
    {ZYDIS_MNEMONIC_ENTER, do_enter, setup_stack},
    {ZYDIS_MNEMONIC_LEAVE, do_leave, setup_stack},
};

const struct plan_handlers near_handlers = {.list = handlers, .count = ARRAY_LEN(handlers)};
