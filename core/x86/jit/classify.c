/* What is known about an instruction before it is translated: how, which registers and flags it uses. */
#include "core/x86/allow_list.h"
#include "core/x86/decode_fast.h"
#include "core/x86/jit/translation.h"

static bool is_high_byte(ZydisRegister reg)
{
    return reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH;
}

/* Instructions without a stub that compute all the same: stage 1 does them in C (fast_ops.c, io.c). */
static bool computes_without_stub(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
    case ZYDIS_MNEMONIC_MOVZX:
    case ZYDIS_MNEMONIC_MOVSX:
    case ZYDIS_MNEMONIC_MOVSXD:
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_SUB:
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_XOR:
    case ZYDIS_MNEMONIC_CMP:
    case ZYDIS_MNEMONIC_TEST:
    case ZYDIS_MNEMONIC_INC:
    case ZYDIS_MNEMONIC_DEC:
    case ZYDIS_MNEMONIC_CLC:
    case ZYDIS_MNEMONIC_STC:
    case ZYDIS_MNEMONIC_CMC:
    case ZYDIS_MNEMONIC_LAHF:
    case ZYDIS_MNEMONIC_SAHF:
        return true;
    default:
        return false;
    }
}

/* FNINIT clears FIP and the like; the others can be MMX instructions or not. */
static bool needs_its_handler(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_FNINIT:
    case ZYDIS_MNEMONIC_CVTPI2PS:
    case ZYDIS_MNEMONIC_CVTPI2PD:
        return true;
    default:
        return false;
    }
}

/* Legacy SSE instructions that leave nothing of their destination's 128 bits, given that it is only written. */
static bool writes_whole_register(const struct insn *insn)
{
    switch (insn->z.mnemonic) {
    case ZYDIS_MNEMONIC_MOVAPS:
    case ZYDIS_MNEMONIC_MOVAPD:
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQA:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
    case ZYDIS_MNEMONIC_MOVD:
    case ZYDIS_MNEMONIC_MOVQ:
    case ZYDIS_MNEMONIC_PSHUFD:
        return true;
    case ZYDIS_MNEMONIC_MOVSS:
    case ZYDIS_MNEMONIC_MOVSD:
        return insn->op[1].type == ZYDIS_OPERAND_TYPE_MEMORY;
    default:
        return false;
    }
}

/* ---- operands ---- */

/* The destination stays as it was when the source is 0; Zydis 4.0 says that it is only written. */
static bool may_keep_destination(ZydisMnemonic mnemonic)
{
    return mnemonic == ZYDIS_MNEMONIC_BSF || mnemonic == ZYDIS_MNEMONIC_BSR;
}

static void note_gpr(struct insn *insn, const ZydisDecodedOperand *o)
{
    uint16_t bit = (uint16_t)(1u << gpr_number(o->reg.value));
    bool written = (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
    if (written)
        insn->gpr_written |= bit;
    if (o->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
        return;
    insn->gpr_named |= bit;
    if (o->actions != ZYDIS_OPERAND_ACTION_WRITE || o->size < 32 || may_keep_destination(insn->z.mnemonic))
        insn->gpr_read |= bit;
}

static void note_vector(struct insn *insn, const ZydisDecodedOperand *o)
{
    uint16_t bit = (uint16_t)(1u << (ZydisRegisterGetId(o->reg.value) & 15));
    insn->vector_used |= bit;
    if (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
        insn->vector_written |= bit;
}

/* False: the operands cannot be renamed, or not all at once. */
static bool note_operands(struct insn *insn)
{
    bool hidden = false;
    unsigned read_vectors = 0;
    for (unsigned i = 0; i < insn->z.operand_count; i++) {
        const ZydisDecodedOperand *o = &insn->op[i];
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            insn->memory = true;
        } else if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && is_gpr(o->reg.value)) {
            note_gpr(insn, o);
            insn->high_byte |= is_high_byte(o->reg.value);
            unsigned number = gpr_number(o->reg.value);
            hidden |= o->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT &&
                      (in_frame(number) || host_gpr(number) != number);
        } else if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
            ZydisRegisterClass class = ZydisRegisterGetClass(o->reg.value);
            if (class != ZYDIS_REGCLASS_XMM && class != ZYDIS_REGCLASS_YMM)
                continue;
            note_vector(insn, o);
            if (o->actions != ZYDIS_OPERAND_ACTION_WRITE)
                read_vectors |= 1u << (ZydisRegisterGetId(o->reg.value) & 15);
        }
    }
    insn->whole = !(insn->vector_written & read_vectors) &&
                  (insn->z.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX || writes_whole_register(insn));
    unsigned framed = insn->gpr_named & ((1u << GPR_R10) | (1u << GPR_R11) | (1u << GPR_R15));
    unsigned available = insn->memory ? 1 : 2;
    return !hidden && (unsigned)__builtin_popcount(framed) <= available;
}

/* ---- flags ---- */

/* A shift of 32 or 64 bits by a constant that is not zero. */
static bool shifts_by_constant(const struct insn *insn)
{
    unsigned size = insn->op[0].size;
    if ((size != 32 && size != 64) || insn->z.operand_count_visible != 2 ||
        insn->op[1].type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
        return false;
    return (insn->op[1].imm.value.u & (size - 1)) != 0;
}

static bool sets_undefined_too(const struct translation_state *t, const struct insn *insn)
{
    unsigned probed = t->j->sets_all;
    switch (insn->z.mnemonic) {
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_XOR:
    case ZYDIS_MNEMONIC_TEST:
        return probed & PROBE_LOGIC;
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
        return (probed & PROBE_SHIFT) && shifts_by_constant(insn);
    case ZYDIS_MNEMONIC_IMUL:
        return (probed & PROBE_IMUL) && insn->z.operand_count_visible >= 2;
    case ZYDIS_MNEMONIC_TZCNT:
    case ZYDIS_MNEMONIC_LZCNT:
        return probed & PROBE_COUNT;
    case ZYDIS_MNEMONIC_ANDN:
    case ZYDIS_MNEMONIC_BLSR:
        return probed & PROBE_BMI;
    default:
        return false;
    }
}

/* Its flags depend on a count that may be zero. */
static bool is_shift(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD:
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR:
        return true;
    default:
        return false;
    }
}

static void note_flags(const struct translation_state *t, struct insn *insn)
{
    const ZydisAccessedFlags *f = insn->z.cpu_flags;
    if (!f)
        return;
    uint64_t defined = (f->modified | f->set_0 | f->set_1) & RFLAGS_STATUS;
    uint64_t touched = defined | (f->undefined & RFLAGS_STATUS);
    insn->sets_flags = touched != 0;
    /* Whether FCOMI clears OF, SF and AF, as the SDM says, is left to the host. */
    if (is_shift(insn->z.mnemonic))
        insn->sets_all = sets_undefined_too(t, insn);
    else
        insn->sets_all = (defined == RFLAGS_STATUS && !insn->x87) ||
                         (touched == RFLAGS_STATUS && sets_undefined_too(t, insn));
    insn->reads_flags = (f->tested & RFLAGS_STATUS) != 0;
    if (insn->reads_flags)
        insn->sets_all = false;
    insn->keeps_flags = insn->sets_flags && !insn->sets_all;
}

static bool plain_gpr(const ZydisDecodedOperand *o)
{
    return o->type == ZYDIS_OPERAND_TYPE_REGISTER && is_gpr(o->reg.value) && !is_high_byte(o->reg.value) &&
           !in_frame(gpr_number(o->reg.value));
}

static void choose_remat(const struct translation_state *t, struct insn *insn)
{
    const ZydisDecodedOperand *to = &insn->op[0], *from = &insn->op[1];
    if (insn->z.operand_count_visible != 2 || !plain_gpr(to) || !insn->sets_all)
        return;
    bool source = plain_gpr(from) || from->type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    uint16_t to_bit = (uint16_t)(1u << gpr_number(to->reg.value));
    uint16_t from_bit = (uint16_t)(plain_gpr(from) ? 1u << gpr_number(from->reg.value) : 0);
    switch (insn->z.mnemonic) {
    case ZYDIS_MNEMONIC_CMP:
    case ZYDIS_MNEMONIC_TEST:
        if (source)
            insn->remat = REMAT_REPEAT;
        break;
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_XOR:
        if (t->j->sets_all & PROBE_LOGIC)
            insn->remat = REMAT_TEST;
        from_bit = 0;
        break;
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_SUB:
        if (source && to->size >= 32 && to_bit != from_bit)
            insn->remat = insn->z.mnemonic == ZYDIS_MNEMONIC_ADD ? REMAT_ADD : REMAT_SUB;
        break;
    default:
        break;
    }
    insn->remat_gpr = insn->remat ? to_bit | from_bit : 0;
}

/* ---- kinds ---- */

static bool vector_available(const struct translation_state *t, const struct plan *p)
{
    if (!p->stub)
        return true;
    if ((p->flags & (EXEC_X87 | EXEC_MMX)) && !(t->key & KEY_X87))
        return false;
    if ((p->flags & EXEC_SSE) && !(t->key & KEY_SSE))
        return false;
    if ((p->flags & EXEC_AVX) && !(t->key & KEY_AVX))
        return false;
    return !(p->flags & EXEC_MXCSR) || (t->key & KEY_MASKED);
}

/* The memory operand is not known to fault, or to lie on two pages: those are left to the handler. */
static bool operand_in_page(const struct insn *insn, unsigned bytes)
{
    const struct plan *p = insn->plan;
    uint64_t linear;
    if (p->base == PLAN_REG_RIP && p->seg >= SEG_FS)
        return p->addr_size == 4 || is_canonical(insn->rip + p->length + (uint64_t)p->disp);
    if (!constant_address(insn, &linear))
        return true;
    return is_canonical(linear) && (linear & PAGE_MASK) + bytes <= PAGE_SIZE_BYTES;
}

static bool classify_native(const struct translation_state *t, struct insn *insn)
{
    const struct plan *p = insn->plan;
    if (!allow_list_may_execute(&insn->z, insn->op) || needs_its_handler(insn->z.mnemonic) ||
        (!p->stub && !computes_without_stub(insn->z.mnemonic)) || !vector_available(t, p))
        return false;
    if (!note_operands(insn))
        return false;
    if (insn->memory && (!(insn->z.attributes & ZYDIS_ATTRIB_HAS_MODRM) || p->mem_bytes == 0))
        return false;
    if (insn->memory && !operand_in_page(insn, p->mem_bytes))
        return false;
    insn->leaves = insn->memory;
    insn->mxcsr = p->stub && (p->flags & EXEC_MXCSR);
    insn->x87 = p->stub && (p->flags & (EXEC_X87 | EXEC_MMX));
    insn->aligned = (p->stub && (p->flags & EXEC_ALIGNED)) || insn->z.mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B;
    insn->wide = insn->vector_used && insn->z.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    note_flags(t, insn);
    choose_remat(t, insn);
    return true;
}

static bool is_explicit_gpr64(const ZydisDecodedOperand *o)
{
    return o->type == ZYDIS_OPERAND_TYPE_REGISTER &&
           ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_GPR64;
}

static enum insn_kind classify_stack(struct insn *insn)
{
    const struct plan *p = insn->plan;
    const ZydisDecodedOperand *o = &insn->op[0];
    insn->leaves = true;
    insn->gpr_written = 1u << GPR_RSP;
    if (p->op_size != 8)
        return KIND_HANDLER;
    switch (insn->z.mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY)
            return operand_in_page(insn, 8) ? KIND_PUSH : KIND_HANDLER;
        return is_explicit_gpr64(o) || o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? KIND_PUSH : KIND_HANDLER;
    case ZYDIS_MNEMONIC_POP:
        if (!is_explicit_gpr64(o))
            return KIND_HANDLER;
        insn->gpr_written |= (uint16_t)(1u << gpr_number(o->reg.value));
        return KIND_POP;
    default:
        insn->gpr_written |= 1u << GPR_RBP;
        return KIND_LEAVE;
    }
}

static bool target_reachable(const struct insn *insn)
{
    return is_canonical(insn->rip + insn->plan->length + insn->plan->imm);
}

static enum insn_kind classify_branch(struct insn *insn)
{
    const struct plan *p = insn->plan;
    bool relative = insn->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    insn->leaves = true;
    if (insn->z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR || p->op_size != 8)
        return KIND_HANDLER;
    if (insn->z.mnemonic == ZYDIS_MNEMONIC_RET) {
        insn->gpr_written = 1u << GPR_RSP;
        return KIND_RETURN;
    }
    bool call = insn->z.mnemonic == ZYDIS_MNEMONIC_CALL;
    if (call)
        insn->gpr_written = 1u << GPR_RSP;
    if (relative && !target_reachable(insn))
        return KIND_HANDLER;
    if (relative)
        return call ? KIND_CALL : KIND_JUMP;
    if (!operand_in_page(insn, 8))
        return KIND_HANDLER;
    return call ? KIND_CALL_INDIRECT : KIND_JUMP_INDIRECT;
}

/* Jcc: 70 to 7F, 0F 80 to 0F 8F. */
static bool is_jcc(const struct insn *insn)
{
    bool short_form = insn->z.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (insn->z.opcode & 0xf0) == 0x70;
    bool near_form = insn->z.opcode_map == ZYDIS_OPCODE_MAP_0F && (insn->z.opcode & 0xf0) == 0x80;
    return insn->z.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY && (short_form || near_form);
}

static enum insn_kind classify_exchange(struct insn *insn)
{
    unsigned size = insn->plan->op_size;
    if (!note_operands(insn))
        return KIND_HANDLER;
    for (unsigned i = 0; i < 2; i++)
        if (insn->op[i].type == ZYDIS_OPERAND_TYPE_REGISTER && is_high_byte(insn->op[i].reg.value))
            return KIND_HANDLER;
    if (!insn->memory)
        return KIND_EXCHANGE;
    insn->leaves = true;
    return operand_in_page(insn, size) ? KIND_EXCHANGE : KIND_HANDLER;
}

/* Checks for overflow come before it, and use a scratch register. */
static enum insn_kind classify_divide(const struct translation_state *t, struct insn *insn)
{
    const ZydisDecodedOperand *by = &insn->op[0];
    if (!classify_native(t, insn) || (by->type == ZYDIS_OPERAND_TYPE_REGISTER && is_high_byte(by->reg.value)))
        return KIND_HANDLER;
    insn->leaves = true;
    return KIND_DIVIDE;
}

/* With a register as bit offset, which reaches beyond the operand (SDM 2, BT). */
static enum insn_kind classify_bit_test(const struct translation_state *t, struct insn *insn)
{
    const struct plan *p = insn->plan;
    if (insn->op[0].type != ZYDIS_OPERAND_TYPE_MEMORY || insn->op[1].type != ZYDIS_OPERAND_TYPE_REGISTER)
        return classify_native(t, insn) ? KIND_NATIVE : KIND_HANDLER;
    if (!note_operands(insn) || p->seg >= SEG_FS || in_frame(p->reg[0]))
        return KIND_HANDLER;
    insn->leaves = true;
    note_flags(t, insn);
    return KIND_BIT_TEST;
}

/* FLDCW may unmask an exception that is pending, which its handler looks after. */
static enum insn_kind classify_fldcw(const struct translation_state *t, struct insn *insn)
{
    if (!classify_native(t, insn))
        return KIND_HANDLER;
    insn->leaves = true;
    return KIND_FLDCW;
}

static enum insn_kind classify(const struct translation_state *t, struct insn *insn)
{
    const struct plan *p = insn->plan;
    if (p->fn == exec_undefined || p->fn == exec_too_long || p->fn == exec_unsupported ||
        p->fn == exec_arena_full)
        return KIND_HANDLER;
    switch (insn->z.mnemonic) {
    case ZYDIS_MNEMONIC_NOP:
    case ZYDIS_MNEMONIC_LFENCE:
    case ZYDIS_MNEMONIC_MFENCE:
    case ZYDIS_MNEMONIC_SFENCE:
    case ZYDIS_MNEMONIC_PREFETCHNTA:
    case ZYDIS_MNEMONIC_PREFETCHT0:
    case ZYDIS_MNEMONIC_PREFETCHT1:
    case ZYDIS_MNEMONIC_PREFETCHT2:
    case ZYDIS_MNEMONIC_PREFETCHW:
    case ZYDIS_MNEMONIC_PREFETCH:
        return KIND_NOTHING;
    case ZYDIS_MNEMONIC_PAUSE:
        return insn->z.raw.rex.B ? KIND_HANDLER : KIND_NOTHING; /* F3 REX.B 90 is XCHG */
    case ZYDIS_MNEMONIC_LEA:
        insn->gpr_written = (uint16_t)(1u << (p->reg[0] & 15));
        return KIND_LEA;
    case ZYDIS_MNEMONIC_XCHG:
        return classify_exchange(insn);
    case ZYDIS_MNEMONIC_PUSH:
    case ZYDIS_MNEMONIC_POP:
    case ZYDIS_MNEMONIC_LEAVE:
        return classify_stack(insn);
    case ZYDIS_MNEMONIC_JMP:
    case ZYDIS_MNEMONIC_CALL:
    case ZYDIS_MNEMONIC_RET:
        return classify_branch(insn);
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
        return classify_divide(t, insn);
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
        return classify_bit_test(t, insn);
    case ZYDIS_MNEMONIC_FLDCW:
        return classify_fldcw(t, insn);
    case ZYDIS_MNEMONIC_FWAIT:
        return t->key & KEY_X87 ? KIND_NOTHING : KIND_HANDLER;
    case ZYDIS_MNEMONIC_VZEROUPPER:
        insn->wide = true;
        return t->key & KEY_AVX ? KIND_VZEROUPPER : KIND_HANDLER;
    default:
        break;
    }
    if (is_jcc(insn)) {
        insn->reads_flags = true;
        return p->op_size == 8 && target_reachable(insn) ? KIND_CONDITIONAL : KIND_HANDLER;
    }
    enum insn_kind system = jit_classify_system(t, insn);
    if (system != KIND_HANDLER)
        return system;
    return classify_native(t, insn) ? KIND_NATIVE : KIND_HANDLER;
}

/* Fills in z and op; of the operands that it lacks the first ones are of no type. */
static bool decode_again(struct translation_state *t, struct insn *insn)
{
    struct decoded decoded;
    if (!decode_cache_decode(t->e->decoded, insn->plan->bytes, insn->plan->length, &decoded) ||
        decoded.z->length != insn->plan->length)
        return false;
    insn->z = *decoded.z;
    memset(insn->op, 0, 3 * sizeof insn->op[0]);
    memcpy(insn->op, decoded.op, decoded.z->operand_count * sizeof insn->op[0]);
    return true;
}

void jit_classify(struct translation_state *t, struct insn *insn)
{
    const struct plan *p = insn->plan;
    uint64_t rip = insn->rip;
    memset(insn, 0, offsetof(struct insn, z));
    insn->plan = p;
    insn->rip = rip;
    insn->kind = (uint8_t)(decode_again(t, insn) ? classify(t, insn) : KIND_HANDLER);
    if (insn->kind != KIND_HANDLER)
        return;
    memset(insn, 0, offsetof(struct insn, z));
    insn->plan = p;
    insn->rip = rip;
    insn->kind = KIND_HANDLER;
    insn->leaves = true;
    insn->gpr_written = 0xffff;
}
