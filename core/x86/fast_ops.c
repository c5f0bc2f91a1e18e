/*
 * The most frequent simple instructions without a stub: MOV, MOVZX, MOVSX, ADD, SUB, AND, OR, XOR, CMP, TEST, INC, DEC.
 * The arithmetic is the host's own instruction all the same, so that flags are the host's.
 */
#include <string.h>

#include "core/x86/stub.h"

/* ---- operands ---- */

static inline uint64_t load_host(const uint8_t *host, unsigned bytes)
{
    uint64_t value = 0;
    memcpy(&value, host, bytes);
    return value;
}

static enum step load_slow(struct emu *e, const struct plan *p, unsigned bytes, uint64_t *value)
{
    gva_t linear;
    *value = 0;
    enum step step = plan_linear(e, p, bytes, ACCESS_READ, &linear);
    return step == STEP_NEXT ? mem_read(e, linear, value, bytes) : step;
}

static inline enum step load(struct emu *e, const struct plan *p, unsigned bytes, uint64_t *value)
{
    const uint8_t *host = operand_host(e, p, PLAN_MEM_READ);
    if (unlikely(!host))
        return load_slow(e, p, bytes, value);
    *value = load_host(host, bytes);
    return STEP_NEXT;
}

static enum step store_slow(struct emu *e, const struct plan *p, unsigned bytes, uint64_t value)
{
    gva_t linear;
    enum step step = plan_linear(e, p, bytes, ACCESS_WRITE, &linear);
    return step == STEP_NEXT ? mem_write(e, linear, &value, bytes) : step;
}

static inline enum step store(struct emu *e, const struct plan *p, unsigned bytes, uint64_t value)
{
    uint8_t *host = operand_host(e, p, PLAN_MEM_WRITE);
    if (unlikely(!host))
        return store_slow(e, p, bytes, value);
    memcpy(host, &value, bytes);
    return STEP_NEXT;
}

/* ---- moves ---- */

#define MOVES(BYTES)                                                                                         \
    static enum step mov_rr_##BYTES(struct emu *e, const struct plan *p)                                     \
    {                                                                                                        \
        gpr_write(e, p->reg[0], BYTES, e->cpu.gpr[p->reg[1]]);                                               \
        return STEP_NEXT;                                                                                    \
    }                                                                                                        \
    static enum step mov_ri_##BYTES(struct emu *e, const struct plan *p)                                     \
    {                                                                                                        \
        gpr_write(e, p->reg[0], BYTES, p->imm);                                                              \
        return STEP_NEXT;                                                                                    \
    }                                                                                                        \
    static enum step mov_rm_##BYTES(struct emu *e, const struct plan *p)                                     \
    {                                                                                                        \
        uint64_t value;                                                                                      \
        enum step step = load(e, p, BYTES, &value);                                                          \
        if (likely(step == STEP_NEXT))                                                                       \
            gpr_write(e, p->reg[0], BYTES, value);                                                           \
        return step;                                                                                         \
    }                                                                                                        \
    static enum step mov_mr_##BYTES(struct emu *e, const struct plan *p)                                     \
    {                                                                                                        \
        return store(e, p, BYTES, e->cpu.gpr[p->reg[0]]);                                                    \
    }                                                                                                        \
    static enum step mov_mi_##BYTES(struct emu *e, const struct plan *p)                                     \
    {                                                                                                        \
        return store(e, p, BYTES, p->imm);                                                                   \
    }

MOVES(1)
MOVES(2)
MOVES(4)
MOVES(8)

/* MOVZX to 32 and 64 bits are the same; MOVSX and MOVSXD differ. */
#define ZERO_EXTENSIONS(BYTES, TYPE)                                                                         \
    static enum step movzx_rr_##BYTES(struct emu *e, const struct plan *p)                                   \
    {                                                                                                        \
        e->cpu.gpr[p->reg[0]] = (TYPE)e->cpu.gpr[p->reg[1]];                                                 \
        return STEP_NEXT;                                                                                    \
    }                                                                                                        \
    static enum step movzx_rm_##BYTES(struct emu *e, const struct plan *p)                                   \
    {                                                                                                        \
        uint64_t value;                                                                                      \
        enum step step = load(e, p, BYTES, &value);                                                          \
        if (likely(step == STEP_NEXT))                                                                       \
            e->cpu.gpr[p->reg[0]] = value;                                                                   \
        return step;                                                                                         \
    }

#define SIGN_EXTENSIONS(BYTES, TYPE)                                                                         \
    static enum step movsx_rr_##BYTES(struct emu *e, const struct plan *p)                                   \
    {                                                                                                        \
        gpr_write(e, p->reg[0], p->op_size, (uint64_t)(int64_t)(TYPE)e->cpu.gpr[p->reg[1]]);                 \
        return STEP_NEXT;                                                                                    \
    }                                                                                                        \
    static enum step movsx_rm_##BYTES(struct emu *e, const struct plan *p)                                   \
    {                                                                                                        \
        uint64_t value;                                                                                      \
        enum step step = load(e, p, BYTES, &value);                                                          \
        if (likely(step == STEP_NEXT))                                                                       \
            gpr_write(e, p->reg[0], p->op_size, (uint64_t)(int64_t)(TYPE)value);                             \
        return step;                                                                                         \
    }

ZERO_EXTENSIONS(1, uint8_t)
ZERO_EXTENSIONS(2, uint16_t)
SIGN_EXTENSIONS(1, int8_t)
SIGN_EXTENSIONS(2, int16_t)
SIGN_EXTENSIONS(4, int32_t)

/* ---- arithmetic and logic ---- */

static inline void set_flags(struct emu *e, uint32_t packed)
{
    e->cpu.rflags = stub_unpack_flags(e->cpu.rflags, packed);
}

/* SUFFIX and TYPE of the operand size; the result goes to a, the flags to e. */
#define BINARY_2(NAME, BYTES, TYPE, INSTRUCTION)                                                             \
    static inline TYPE NAME##_op_##BYTES(struct emu *e, TYPE a, TYPE b)                                      \
    {                                                                                                        \
        uint32_t flags = 0;                                                                                  \
        __asm__(INSTRUCTION " %2, %1\n\tlahf\n\tseto %%al" : "+a"(flags), "+r"(a) : "r"(b) : "cc");          \
        set_flags(e, flags);                                                                                 \
        return a;                                                                                            \
    }

/* WRITES: 1 where the destination is written, 0 for CMP and TEST. */
#define FORMS(NAME, BYTES, TYPE, WRITES)                                                                     \
    static enum step NAME##_rr_##BYTES(struct emu *e, const struct plan *p)                                  \
    {                                                                                                        \
        TYPE r = NAME##_op_##BYTES(e, (TYPE)e->cpu.gpr[p->reg[0]], (TYPE)e->cpu.gpr[p->reg[1]]);             \
        if (WRITES)                                                                                          \
            gpr_write(e, p->reg[0], BYTES, r);                                                               \
        return STEP_NEXT;                                                                                    \
    }                                                                                                        \
    static enum step NAME##_ri_##BYTES(struct emu *e, const struct plan *p)                                  \
    {                                                                                                        \
        TYPE r = NAME##_op_##BYTES(e, (TYPE)e->cpu.gpr[p->reg[0]], (TYPE)p->imm);                            \
        if (WRITES)                                                                                          \
            gpr_write(e, p->reg[0], BYTES, r);                                                               \
        return STEP_NEXT;                                                                                    \
    }                                                                                                        \
    static enum step NAME##_rm_##BYTES(struct emu *e, const struct plan *p)                                  \
    {                                                                                                        \
        uint64_t value;                                                                                      \
        enum step step = load(e, p, BYTES, &value);                                                          \
        if (unlikely(step != STEP_NEXT))                                                                     \
            return step;                                                                                     \
        TYPE r = NAME##_op_##BYTES(e, (TYPE)e->cpu.gpr[p->reg[0]], (TYPE)value);                             \
        if (WRITES)                                                                                          \
            gpr_write(e, p->reg[0], BYTES, r);                                                               \
        return STEP_NEXT;                                                                                    \
    }                                                                                                        \
    static enum step NAME##_m_##BYTES(struct emu *e, const struct plan *p, TYPE b)                           \
    {                                                                                                        \
        uint8_t *host = operand_host(e, p, WRITES ? PLAN_MEM_RMW : PLAN_MEM_READ);                           \
        if (likely(host != NULL)) {                                                                          \
            TYPE r = NAME##_op_##BYTES(e, (TYPE)load_host(host, BYTES), b);                                  \
            if (WRITES)                                                                                      \
                memcpy(host, &r, BYTES);                                                                     \
            return STEP_NEXT;                                                                                \
        }                                                                                                    \
        gva_t linear;                                                                                        \
        TYPE a;                                                                                              \
        uint64_t before = e->cpu.rflags;                                                                     \
        enum step step = plan_linear(e, p, BYTES, WRITES ? ACCESS_WRITE : ACCESS_READ, &linear);             \
        if (step == STEP_NEXT && WRITES)                                                                     \
            step = mem_check_write(e, linear, BYTES);                                                        \
        if (step == STEP_NEXT)                                                                               \
            step = mem_read(e, linear, &a, BYTES);                                                           \
        if (step != STEP_NEXT)                                                                               \
            return step;                                                                                     \
        TYPE r = NAME##_op_##BYTES(e, a, b);                                                                 \
        if (WRITES)                                                                                          \
            step = mem_write(e, linear, &r, BYTES);                                                          \
        if (step != STEP_NEXT)                                                                               \
            e->cpu.rflags = before;                                                                          \
        return step;                                                                                         \
    }                                                                                                        \
    static enum step NAME##_mr_##BYTES(struct emu *e, const struct plan *p)                                  \
    {                                                                                                        \
        return NAME##_m_##BYTES(e, p, (TYPE)e->cpu.gpr[p->reg[0]]);                                          \
    }                                                                                                        \
    static enum step NAME##_mi_##BYTES(struct emu *e, const struct plan *p)                                  \
    {                                                                                                        \
        return NAME##_m_##BYTES(e, p, (TYPE)p->imm);                                                         \
    }

#define BINARY(NAME, WRITES)                                                                                 \
    BINARY_2(NAME, 1, uint8_t, #NAME "b")                                                                    \
    BINARY_2(NAME, 4, uint32_t, #NAME "l")                                                                   \
    BINARY_2(NAME, 8, uint64_t, #NAME "q")                                                                   \
    FORMS(NAME, 1, uint8_t, WRITES)                                                                          \
    FORMS(NAME, 4, uint32_t, WRITES)                                                                         \
    FORMS(NAME, 8, uint64_t, WRITES)

BINARY(add, 1)
BINARY(sub, 1)
BINARY(and, 1)
BINARY(or, 1)
BINARY(xor, 1)
BINARY(cmp, 0)
BINARY(test, 0)

/* INC and DEC leave CF alone. */
#define UNARY(NAME, BYTES, TYPE, INSTRUCTION)                                                                \
    static enum step NAME##_r_##BYTES(struct emu *e, const struct plan *p)                                   \
    {                                                                                                        \
        uint32_t flags = 0;                                                                                  \
        TYPE a = (TYPE)e->cpu.gpr[p->reg[0]];                                                                \
        __asm__(INSTRUCTION " %1\n\tlahf\n\tseto %%al" : "+a"(flags), "+r"(a) : : "cc");                     \
        uint64_t carry = e->cpu.rflags & RFLAGS_CF;                                                          \
        set_flags(e, flags);                                                                                 \
        e->cpu.rflags = (e->cpu.rflags & ~RFLAGS_CF) | carry;                                                \
        gpr_write(e, p->reg[0], BYTES, a);                                                                   \
        return STEP_NEXT;                                                                                    \
    }

UNARY(inc, 4, uint32_t, "incl")
UNARY(inc, 8, uint64_t, "incq")
UNARY(dec, 4, uint32_t, "decl")
UNARY(dec, 8, uint64_t, "decq")

/* ---- choosing ---- */

enum form { FORM_RR, FORM_RI, FORM_RM, FORM_MR, FORM_MI, FORM_COUNT };

struct fast_op {
    ZydisMnemonic mnemonic;
    plan_fn fn[4][FORM_COUNT]; /* by log2 of the size */
};

#define FORM_LIST(NAME, BYTES)                                                                               \
    {                                                                                                        \
        NAME##_rr_##BYTES, NAME##_ri_##BYTES, NAME##_rm_##BYTES, NAME##_mr_##BYTES, NAME##_mi_##BYTES        \
    }
#define NO_FORMS                                                                                             \
    {                                                                                                        \
        NULL, NULL, NULL, NULL, NULL                                                                         \
    }
#define SIZES(NAME)                                                                                          \
    {                                                                                                        \
        FORM_LIST(NAME, 1), NO_FORMS, FORM_LIST(NAME, 4), FORM_LIST(NAME, 8)                                 \
    }

static const struct fast_op fast_ops[] = {
    {ZYDIS_MNEMONIC_MOV, {FORM_LIST(mov, 1), FORM_LIST(mov, 2), FORM_LIST(mov, 4), FORM_LIST(mov, 8)}},
    {ZYDIS_MNEMONIC_ADD, SIZES(add)},
    {ZYDIS_MNEMONIC_SUB, SIZES(sub)},
    {ZYDIS_MNEMONIC_AND, SIZES(and)},
    {ZYDIS_MNEMONIC_OR, SIZES(or)},
    {ZYDIS_MNEMONIC_XOR, SIZES(xor)},
    {ZYDIS_MNEMONIC_CMP, SIZES(cmp)},
    {ZYDIS_MNEMONIC_TEST, SIZES(test)},
};

static unsigned size_index(unsigned bytes)
{
    return bytes == 1 ? 0 : bytes == 2 ? 1 : bytes == 4 ? 2 : 3;
}

static bool uses_high_byte(const struct plan *p)
{
    for (unsigned i = 0; i < 2; i++)
        if (p->reg[i] != PLAN_NO_REG && (p->reg[i] & PLAN_REG_HIGH))
            return true;
    return false;
}

static plan_fn select_extension(const struct plan *p, const ZydisDecodedOperand *operands)
{
    static const plan_fn zero[2][2] = {{movzx_rr_1, movzx_rm_1}, {movzx_rr_2, movzx_rm_2}};
    static const plan_fn sign[3][2] = {
        {movsx_rr_1, movsx_rm_1}, {movsx_rr_2, movsx_rm_2}, {movsx_rr_4, movsx_rm_4}};
    unsigned memory = operands[1].type == ZYDIS_OPERAND_TYPE_MEMORY, size = size_index(p->operand_bytes[1]);
    if (p->op_size < 4 || uses_high_byte(p))
        return NULL;
    if (p->mnemonic == ZYDIS_MNEMONIC_MOVZX)
        return size < 2 ? zero[size][memory] : NULL;
    return size < 3 ? sign[size][memory] : NULL;
}

static plan_fn select_unary(const struct plan *p)
{
    if (p->mem_access || p->op_size < 4)
        return NULL;
    if (p->mnemonic == ZYDIS_MNEMONIC_INC)
        return p->op_size == 4 ? inc_r_4 : inc_r_8;
    return p->op_size == 4 ? dec_r_4 : dec_r_8;
}

static int find_form(const ZydisDecodedOperand *operands)
{
    ZydisOperandType to = operands[0].type, from = operands[1].type;
    if (to == ZYDIS_OPERAND_TYPE_MEMORY)
        return from == ZYDIS_OPERAND_TYPE_REGISTER ? FORM_MR : FORM_MI;
    if (from == ZYDIS_OPERAND_TYPE_MEMORY)
        return FORM_RM;
    return from == ZYDIS_OPERAND_TYPE_REGISTER ? FORM_RR : FORM_RI;
}

plan_fn fast_select(const struct plan *p, const ZydisDecodedInstruction *insn,
                    const ZydisDecodedOperand *operands)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_MOVZX:
    case ZYDIS_MNEMONIC_MOVSX:
    case ZYDIS_MNEMONIC_MOVSXD:
        return select_extension(p, operands);
    case ZYDIS_MNEMONIC_INC:
    case ZYDIS_MNEMONIC_DEC:
        return select_unary(p);
    default:
        break;
    }
    if (insn->operand_count_visible != 2 || uses_high_byte(p))
        return NULL;
    for (size_t i = 0; i < ARRAY_LEN(fast_ops); i++)
        if (fast_ops[i].mnemonic == insn->mnemonic)
            return fast_ops[i].fn[size_index(p->op_size)][find_form(operands)];
    return NULL;
}
