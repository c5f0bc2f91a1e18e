/* General instructions in C: those that only 32-bit code has, that do nothing, or that are simpler than a stub. */
#include "core/x86/stub.h"

static void set_status(struct emu *e, uint64_t mask, uint64_t value)
{
    e->cpu.rflags = (e->cpu.rflags & ~mask) | (value & mask);
}

static enum step do_lea(struct emu *e, const struct plan *p)
{
    if (likely(p->addr_size == 8 && p->op_size == 8 && p->base < GPR_COUNT)) {
        uint64_t address = (uint64_t)p->disp + e->cpu.gpr[p->base];
        if (p->index < GPR_COUNT)
            address += e->cpu.gpr[p->index] * p->scale;
        e->cpu.gpr[p->reg[0]] = address;
        return STEP_NEXT;
    }
    gpr_write(e, p->reg[0], p->op_size, plan_offset(e, p));
    return STEP_NEXT;
}

static enum step do_xchg(struct emu *e, const struct plan *p)
{
    unsigned size = p->op_size;
    if (!p->mem_access) {
        uint64_t a = gpr_read(e, p->reg[0], size), b = gpr_read(e, p->reg[1], size);
        gpr_write(e, p->reg[0], size, b);
        gpr_write(e, p->reg[1], size, a);
        return STEP_NEXT;
    }
    gva_t linear;
    uint64_t old = 0, new = gpr_read(e, p->reg[0], size);
    enum step step = plan_linear(e, p, size, ACCESS_WRITE, &linear);
    if (step == STEP_NEXT)
        step = mem_check_write(e, linear, size);
    if (step == STEP_NEXT)
        step = mem_read(e, linear, &old, size);
    if (step == STEP_NEXT)
        step = mem_write(e, linear, &new, size);
    if (step == STEP_NEXT)
        gpr_write(e, p->reg[0], size, old);
    return step;
}

static enum step do_xlat(struct emu *e, const struct plan *p)
{
    gva_t linear;
    uint8_t value;
    uint64_t offset = truncate_to(e->cpu.gpr[GPR_RBX] + (e->cpu.gpr[GPR_RAX] & 0xff), p->addr_size);
    enum step step = segment_linear(e, p->seg, offset, 1, ACCESS_READ, &linear);
    if (step == STEP_NEXT)
        step = mem_read(e, linear, &value, 1);
    if (step == STEP_NEXT)
        gpr_write(e, GPR_RAX, 1, value);
    return step;
}

static enum step do_bound(struct emu *e, const struct plan *p)
{
    gva_t linear;
    unsigned size = p->op_size;
    uint8_t pair[8] = {0};
    enum step step = plan_linear(e, p, size, ACCESS_READ, &linear);
    if (step == STEP_NEXT)
        step = mem_read(e, linear, pair, size);
    if (step == STEP_NEXT)
        step = segment_linear(e, p->seg, truncate_to(plan_offset(e, p) + size, p->addr_size), size,
                              ACCESS_READ, &linear);
    if (step == STEP_NEXT)
        step = mem_read(e, linear, pair + size, size);
    if (step != STEP_NEXT)
        return step;
    int32_t low, high, index;
    if (size == 2) {
        low = (int16_t)(pair[0] | pair[1] << 8);
        high = (int16_t)(pair[2] | pair[3] << 8);
        index = (int16_t)e->cpu.gpr[p->reg[0]];
    } else {
        low = (int32_t)((uint32_t)pair[0] | (uint32_t)pair[1] << 8 | (uint32_t)pair[2] << 16 |
                        (uint32_t)pair[3] << 24);
        high = (int32_t)((uint32_t)pair[4] | (uint32_t)pair[5] << 8 | (uint32_t)pair[6] << 16 |
                         (uint32_t)pair[7] << 24);
        index = (int32_t)e->cpu.gpr[p->reg[0]];
    }
    return index < low || index > high ? raise_exception(e, VEC_BR) : STEP_NEXT;
}

/* ---- BT, BTS, BTR, BTC on a string of bits in memory ---- */

/* The host does it on a register, so that the flags that the SDM leaves undefined are the host's. */
static uint64_t test_bit(struct emu *e, const struct plan *p, uint64_t value, uint64_t bit)
{
    uint64_t flags = stub_pack_flags(e->cpu.rflags);
#define BIT_TEST(instruction)                                                                                \
    __asm__("addb $0x78, %%al\n\tsahf\n\t" instruction " %2, %1\n\tseto %%al\n\tlahf"                        \
            : "+a"(flags), "+r"(value)                                                                       \
            : "r"(bit)                                                                                       \
            : "cc")
    switch (p->mnemonic) {
    case ZYDIS_MNEMONIC_BTS:
        BIT_TEST("btsq");
        break;
    case ZYDIS_MNEMONIC_BTR:
        BIT_TEST("btrq");
        break;
    case ZYDIS_MNEMONIC_BTC:
        BIT_TEST("btcq");
        break;
    default:
        BIT_TEST("btq");
        break;
    }
#undef BIT_TEST
    e->cpu.rflags = stub_unpack_flags(e->cpu.rflags, (uint32_t)flags);
    return value;
}

/* The bit offset is signed and reaches beyond the operand (SDM 2, BT). */
static enum step do_bit_string(struct emu *e, const struct plan *p)
{
    unsigned size = p->mem_bytes, bits = size * 8u;
    uint64_t raw = e->cpu.gpr[p->reg[0]], value = 0;
    int64_t offset = bits == 64 ? (int64_t)raw : bits == 32 ? (int32_t)raw : (int16_t)raw;
    int64_t element = offset >> (p->mem_bytes_log2 + 3);
    uint64_t address =
        truncate_to(plan_offset(e, p) + ((uint64_t)element << p->mem_bytes_log2), p->addr_size);
    bool write = p->mem_access & PLAN_MEM_WRITE;
    gva_t linear;
    enum step step = segment_linear(e, p->seg, address, size, write ? ACCESS_WRITE : ACCESS_READ, &linear);
    if (step == STEP_NEXT && write)
        step = mem_check_write(e, linear, size);
    if (step == STEP_NEXT)
        step = mem_read(e, linear, &value, size);
    if (step != STEP_NEXT)
        return step;
    uint64_t rflags = e->cpu.rflags;
    value = test_bit(e, p, value, (uint64_t)offset & (bits - 1));
    if (write)
        step = mem_write(e, linear, &value, size);
    if (step != STEP_NEXT)
        e->cpu.rflags = rflags;
    return step;
}

/*
 * ---- decimal adjustment (SDM 2) ----
 * 64-bit hosts cannot execute these. Flags that the SDM leaves undefined come out as measured on AMD's CPUs in compatibility
 * mode: those of the addition or subtraction that makes the adjustment.
 */

static uint64_t flags_of(uint32_t packed)
{
    return stub_unpack_flags(0, packed);
}

/* *value += by (or -=), as 8 bits; the status flags. */
static uint64_t adjust_byte(uint8_t *value, unsigned by, bool subtract)
{
    uint32_t packed = 0;
    if (subtract)
        __asm__("subb %2, %1\n\tlahf\n\tseto %%al" : "+a"(packed), "+q"(*value) : "q"((uint8_t)by) : "cc");
    else
        __asm__("addb %2, %1\n\tlahf\n\tseto %%al" : "+a"(packed), "+q"(*value) : "q"((uint8_t)by) : "cc");
    return flags_of(packed);
}

/* The same as 16 bits. */
static uint64_t adjust_word(uint16_t *value, unsigned by, bool subtract)
{
    uint32_t packed = 0;
    if (subtract)
        __asm__("subw %2, %1\n\tlahf\n\tseto %%al" : "+a"(packed), "+r"(*value) : "r"((uint16_t)by) : "cc");
    else
        __asm__("addw %2, %1\n\tlahf\n\tseto %%al" : "+a"(packed), "+r"(*value) : "r"((uint16_t)by) : "cc");
    return flags_of(packed);
}

static uint64_t carries(bool af, bool cf)
{
    return (af ? RFLAGS_AF : 0) | (cf ? RFLAGS_CF : 0);
}

static enum step do_daa_das(struct emu *e, const struct plan *p)
{
    bool subtract = p->mnemonic == ZYDIS_MNEMONIC_DAS;
    uint8_t old = (uint8_t)e->cpu.gpr[GPR_RAX], al = old;
    bool old_cf = e->cpu.rflags & RFLAGS_CF;
    bool low = (old & 0xf) > 9 || (e->cpu.rflags & RFLAGS_AF), high = old > 0x99 || old_cf;
    bool cf = high || (low && subtract && old < 6);
    uint64_t flags = adjust_byte(&al, (low ? 6u : 0) + (high ? 0x60u : 0), subtract);
    gpr_write(e, GPR_RAX, 1, al);
    set_status(e, RFLAGS_STATUS, (flags & ~(RFLAGS_AF | RFLAGS_CF)) | carries(low, cf));
    return STEP_NEXT;
}

static enum step do_aaa_aas(struct emu *e, const struct plan *p)
{
    uint16_t ax = (uint16_t)e->cpu.gpr[GPR_RAX];
    bool adjust = (ax & 0xf) > 9 || (e->cpu.rflags & RFLAGS_AF);
    uint64_t flags = adjust_word(&ax, adjust ? 0x106 : 0, p->mnemonic == ZYDIS_MNEMONIC_AAS);
    gpr_write(e, GPR_RAX, 2, ax & 0xff0f);
    set_status(e, RFLAGS_STATUS, (flags & ~(RFLAGS_AF | RFLAGS_CF)) | carries(adjust, adjust));
    return STEP_NEXT;
}

static enum step do_aam(struct emu *e, const struct plan *p)
{
    uint8_t al = (uint8_t)e->cpu.gpr[GPR_RAX], base = (uint8_t)p->imm;
    if (base == 0)
        return raise_exception(e, VEC_DE);
    uint8_t low = al % base;
    uint64_t flags = adjust_byte(&low, 0, false);
    gpr_write(e, GPR_RAX, 2, (uint64_t)(al / base) << 8 | low);
    set_status(e, RFLAGS_STATUS, flags);
    return STEP_NEXT;
}

static enum step do_aad(struct emu *e, const struct plan *p)
{
    uint16_t ax = (uint16_t)e->cpu.gpr[GPR_RAX];
    uint8_t al = (uint8_t)ax;
    uint64_t flags = adjust_byte(&al, (ax >> 8) * (uint8_t)p->imm, false);
    gpr_write(e, GPR_RAX, 2, al);
    set_status(e, RFLAGS_STATUS, flags);
    return STEP_NEXT;
}

static enum step do_salc(struct emu *e, const struct plan *p)
{
    (void)p;
    gpr_write(e, GPR_RAX, 1, e->cpu.rflags & RFLAGS_CF ? 0xff : 0);
    return STEP_NEXT;
}

/* ---- nothing, or almost ---- */

static enum step do_nothing(struct emu *e, const struct plan *p)
{
    (void)e;
    (void)p;
    return STEP_NEXT;
}

/* 0F 0D with a register is undefined on AMD's CPUs. */
static bool setup_nop(struct plan *p, const ZydisDecodedInstruction *insn,
                      const ZydisDecodedOperand *operands)
{
    (void)operands;
    return !(insn->opcode_map == ZYDIS_OPCODE_MAP_0F && p->opcode == 0x0d && p->modrm >= 0xc0);
}

/* F3 REX.B 90 is XCHG R8, not PAUSE. */
static bool setup_pause(struct plan *p, const ZydisDecodedInstruction *insn,
                        const ZydisDecodedOperand *operands)
{
    (void)operands;
    if (insn->raw.rex.B) {
        p->fn = do_xchg;
        p->reg[0] = GPR_R8;
        p->reg[1] = GPR_RAX;
    }
    return true;
}

/* CLFLUSH, CLFLUSHOPT, CLWB: a byte that can be read; caches are not part of the guest's state. */
static enum step do_cache_line(struct emu *e, const struct plan *p)
{
    gva_t linear;
    uint8_t byte;
    enum step step = plan_linear(e, p, 1, ACCESS_READ, &linear);
    return step == STEP_NEXT ? mem_read(e, linear, &byte, 1) : step;
}

static const struct plan_handler list[] = {
    {ZYDIS_MNEMONIC_LEA, do_lea, NULL},
    {ZYDIS_MNEMONIC_XCHG, do_xchg, NULL},
    {ZYDIS_MNEMONIC_XLAT, do_xlat, NULL},
    {ZYDIS_MNEMONIC_BOUND, do_bound, NULL},
    {ZYDIS_MNEMONIC_BT, do_bit_string, NULL},
    {ZYDIS_MNEMONIC_BTS, do_bit_string, NULL},
    {ZYDIS_MNEMONIC_BTR, do_bit_string, NULL},
    {ZYDIS_MNEMONIC_BTC, do_bit_string, NULL},
    {ZYDIS_MNEMONIC_DAA, do_daa_das, NULL},
    {ZYDIS_MNEMONIC_DAS, do_daa_das, NULL},
    {ZYDIS_MNEMONIC_AAA, do_aaa_aas, NULL},
    {ZYDIS_MNEMONIC_AAS, do_aaa_aas, NULL},
    {ZYDIS_MNEMONIC_AAM, do_aam, NULL},
    {ZYDIS_MNEMONIC_AAD, do_aad, NULL},
    {ZYDIS_MNEMONIC_SALC, do_salc, NULL},
    {ZYDIS_MNEMONIC_NOP, do_nothing, setup_nop},
    {ZYDIS_MNEMONIC_PAUSE, do_nothing, setup_pause},
    {ZYDIS_MNEMONIC_LFENCE, do_nothing, NULL},
    {ZYDIS_MNEMONIC_MFENCE, do_nothing, NULL},
    {ZYDIS_MNEMONIC_SFENCE, do_nothing, NULL},
    {ZYDIS_MNEMONIC_PREFETCH, do_nothing, NULL},
    {ZYDIS_MNEMONIC_PREFETCHNTA, do_nothing, NULL},
    {ZYDIS_MNEMONIC_PREFETCHT0, do_nothing, NULL},
    {ZYDIS_MNEMONIC_PREFETCHT1, do_nothing, NULL},
    {ZYDIS_MNEMONIC_PREFETCHT2, do_nothing, NULL},
    {ZYDIS_MNEMONIC_PREFETCHW, do_nothing, NULL},
    {ZYDIS_MNEMONIC_PREFETCHWT1, do_nothing, NULL},
    {ZYDIS_MNEMONIC_CLFLUSH, do_cache_line, NULL},
    {ZYDIS_MNEMONIC_CLFLUSHOPT, do_cache_line, NULL},
    {ZYDIS_MNEMONIC_CLWB, do_cache_line, NULL},
    {ZYDIS_MNEMONIC_UD0, exec_undefined, NULL},
    {ZYDIS_MNEMONIC_UD1, exec_undefined, NULL},
    {ZYDIS_MNEMONIC_UD2, exec_undefined, NULL},
};

const struct plan_handlers compute_handlers = {list, ARRAY_LEN(list)};
