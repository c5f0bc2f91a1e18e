/* Operands whose values decide what happens: targets of jumps, selectors, quotients, images of the FPU. */
#include <string.h>

#include "tests/isa/aim.h"

uint64_t aim_target(struct aim *a)
{
    uint64_t rip = a->c->in.rip, target;
    switch (isa_below(a->r, 16)) {
    case 0:
        return aim_place(a->r, PLACE_RANDOM, a->long_mode, 1);
    case 1:
        return ISA_CODE + ISA_CODE_BYTES + isa_below(a->r, 64);
    default:
        break;
    }
    do {
        target = ISA_CODE + isa_below(a->r, ISA_CODE_BYTES);
    } while (target - rip < 2 * ISA_BYTES_MAX || rip - target < 2 * ISA_BYTES_MAX);
    return target;
}

/* Not 0x78: there Linux has a segment whose limit tells the number of the CPU. */
uint16_t aim_selector(struct isa_random *r)
{
    static const uint16_t list[] = {
        0,    1,    2,    3,    0x07,         0x0f,         0x17,           0x1f,
        0x20, 0x23, 0x28, 0x2b, ISA_SEL_FLAT, ISA_SEL_FLAT, ISA_SEL_CODE32, 0x33,
        0x08, 0x10, 0x18, 0x40, 0x50,         0x63,         0x27,           0xfff8,
        0x80, 0x2a, 0x29, 0x06, ISA_SEL_DATA, ISA_SEL_DOWN};
    return list[isa_below(r, sizeof list / sizeof *list)];
}

static uint16_t code_selector(struct isa_random *r)
{
    switch (isa_below(r, 4)) {
    case 0:
        return aim_selector(r);
    case 1:
        return ISA_SEL_CODE32;
    default:
        return ISA_SEL_CODE64;
    }
}

static void put(uint8_t *out, unsigned *n, uint64_t value, unsigned bytes)
{
    memcpy(out + *n, &value, bytes);
    *n += bytes;
}

/* ---- control transfers ---- */

static void aim_relative(struct aim *a)
{
    unsigned at = a->insn.raw.imm[0].offset, bytes = a->insn.raw.imm[0].size / 8u;
    uint64_t next = a->c->in.rip + a->insn.length, offset;
    do {
        offset = bytes == 1 ? (uint64_t)(int64_t)(int8_t)isa_random(a->r) : aim_target(a) - next;
    } while (next + offset - a->c->in.rip < 16 || a->c->in.rip - (next + offset) < 2);
    memcpy(a->c->bytes + at, &offset, bytes);
    if (isa_one_in(a->r, 2))
        a->c->in.gpr[GPR_RCX] = isa_below(a->r, 3);
}

/* Near or far through a register or memory, or to the pointer in the instruction. */
static void aim_transfer(struct aim *a)
{
    const ZydisDecodedOperand *o = &a->operands[0];
    uint8_t pointer[16];
    unsigned n = 0, width = a->insn.operand_width / 8u;
    bool far = a->insn.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
    /* A push across 4 GiB is not asked for. */
    if (far && (uint32_t)a->c->in.gpr[GPR_RSP] < 16)
        a->c->in.gpr[GPR_RSP] += 16;
    if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && o->imm.is_relative) {
        aim_relative(a);
    } else if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
        /* A call through RSP pushes onto its target. */
        if (aim_gpr(o->reg.value) != GPR_RSP || a->insn.meta.category != ZYDIS_CATEGORY_CALL)
            a->c->in.gpr[aim_gpr(o->reg.value)] = aim_target(a);
    } else if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
        /* With REX.W some CPUs take m16:64, and some m16:32. */
        unsigned offset_bytes = !far ? 8 : width == 8 && !isa_one_in(a->r, 4) ? 4 : width;
        put(pointer, &n, aim_target(a), offset_bytes);
        if (far)
            put(pointer, &n, code_selector(a->r), 2);
        aim_poke(a, a->operand, pointer, n);
    } else if (o->type == ZYDIS_OPERAND_TYPE_POINTER) {
        put(pointer, &n, aim_target(a), width);
        put(pointer, &n, code_selector(a->r), 2);
        memcpy(a->c->bytes + a->insn.length - n, pointer, n);
    }
}

/* What RET, RETF and IRET pop. */
static void aim_return(struct aim *a)
{
    uint8_t frame[64];
    unsigned n = 0, width = a->insn.operand_width / 8u;
    bool interrupt = a->insn.mnemonic == ZYDIS_MNEMONIC_IRET || a->insn.mnemonic == ZYDIS_MNEMONIC_IRETD ||
                     a->insn.mnemonic == ZYDIS_MNEMONIC_IRETQ;
    put(frame, &n, aim_target(a), width);
    if (a->insn.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR || interrupt)
        put(frame, &n, code_selector(a->r), width);
    if (interrupt) {
        put(frame, &n, isa_random(a->r) & ~(uint64_t)RFLAGS_TF, width);
        put(frame, &n, ISA_DATA + isa_below(a->r, 4096), width);
        put(frame, &n, isa_one_in(a->r, 3) ? aim_selector(a->r) : ISA_SEL_FLAT, width);
    }
    aim_poke(a, a->c->in.gpr[GPR_RSP], frame, n);
}

/* ---- selectors ---- */

static bool has_segment_register(const struct aim *a)
{
    return a->operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
           ZydisRegisterGetClass(a->operands[0].reg.value) == ZYDIS_REGCLASS_SEGMENT;
}

static void aim_selector_operand(struct aim *a, const ZydisDecodedOperand *o)
{
    uint16_t selector = aim_selector(a->r);
    if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
        uint64_t *gpr = &a->c->in.gpr[aim_gpr(o->reg.value)];
        *gpr = (*gpr & ~0xffffull) | selector;
    } else if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
        aim_poke(a, a->operand, &selector, 2);
    }
}

static void aim_segments(struct aim *a)
{
    uint8_t pointer[10];
    unsigned n = 0;
    uint16_t selector = aim_selector(a->r);
    switch (a->insn.mnemonic) {
    case ZYDIS_MNEMONIC_LDS:
    case ZYDIS_MNEMONIC_LES:
    case ZYDIS_MNEMONIC_LFS:
    case ZYDIS_MNEMONIC_LGS:
    case ZYDIS_MNEMONIC_LSS:
        put(pointer, &n, isa_random(a->r), a->operands[0].size / 8u);
        put(pointer, &n, selector, 2);
        aim_poke(a, a->operand, pointer, n);
        break;
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_LSL:
        aim_selector_operand(a, &a->operands[1]);
        break;
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW:
        aim_selector_operand(a, &a->operands[0]);
        break;
    case ZYDIS_MNEMONIC_MOV:
        if (has_segment_register(a))
            aim_selector_operand(a, &a->operands[1]);
        break;
    case ZYDIS_MNEMONIC_POP:
        if (has_segment_register(a))
            aim_poke(a, a->c->in.gpr[GPR_RSP], &selector, 2);
        break;
    default:
        break;
    }
}

/* ---- integers ---- */

/* A dividend whose quotient is at, or just beyond, the limit of what fits. */
static void aim_division(struct aim *a)
{
    unsigned bits = a->operands[0].size;
    uint64_t *gpr = a->c->in.gpr;
    if (a->operands[0].type != ZYDIS_OPERAND_TYPE_REGISTER || bits < 16)
        return;
    int reg = aim_gpr(a->operands[0].reg.value);
    if (reg == GPR_RAX || reg == GPR_RDX)
        return;
    __extension__ typedef __int128 wide;
    __extension__ typedef unsigned __int128 uwide;
    bool is_signed = a->insn.mnemonic == ZYDIS_MNEMONIC_IDIV;
    wide divisor = is_signed ? (wide)((int64_t)(gpr[reg] << (64 - bits)) >> (64 - bits))
                             : (wide)(gpr[reg] << (64 - bits) >> (64 - bits));
    wide top = (wide)1 << (is_signed ? bits - 1 : bits);
    wide quotient = (is_signed && isa_one_in(a->r, 2) ? -top : top) + (wide)isa_below(a->r, 4) - 2;
    wide magnitude = divisor < 0 ? -divisor : divisor;
    wide rest = magnitude ? (wide)(isa_random(a->r) % 4) % magnitude : 0;
    /* The products of 64-bit operands stay clear of the sign bit of 128: those that do not are simply odd cases. */
    uwide dividend = (uwide)quotient * (uwide)divisor + (uwide)(isa_one_in(a->r, 2) ? rest : -rest);
    uint64_t mask = bits == 64 ? ~0ull : (1ull << bits) - 1;
    gpr[GPR_RAX] = (uint64_t)dividend & mask;
    gpr[GPR_RDX] = (uint64_t)(dividend >> bits) & mask;
}

static uint64_t address_bits(const struct aim *a)
{
    return a->insn.address_width == 64 ? ~0ull : (1ull << a->insn.address_width) - 1;
}

/* A bit offset in a register reaches beyond the operand. */
static void aim_bit_offset(struct aim *a)
{
    const ZydisDecodedOperand *m = &a->operands[0], *o = &a->operands[1];
    if (m->type != ZYDIS_OPERAND_TYPE_MEMORY || o->type != ZYDIS_OPERAND_TYPE_REGISTER)
        return;
    int reg = aim_gpr(o->reg.value);
    if ((m->mem.base != ZYDIS_REGISTER_NONE && reg == aim_gpr(m->mem.base)) ||
        (m->mem.index != ZYDIS_REGISTER_NONE && reg == aim_gpr(m->mem.index))) {
        a->c->in.gpr[reg] &= address_bits(a);
        return;
    }
    uint64_t *gpr = &a->c->in.gpr[reg];
    unsigned range = isa_one_in(a->r, 2) ? 32768 : 64;
    *gpr = (uint64_t)(int64_t)((int)isa_below(a->r, range) - (int)range / 2);
    if (o->size < 64 && isa_one_in(a->r, 2))
        *gpr = (*gpr & (o->size == 32 ? 0xffffffff : 0xffff)) | isa_random(a->r) << 32;
}

/* ENTER reads a display below RBP. */
static void aim_frame(struct aim *a)
{
    enum isa_place place = isa_one_in(a->r, 3) ? a->place : PLACE_UNALIGNED;
    a->c->in.gpr[GPR_RBP] = aim_place(a->r, place, a->long_mode, 8);
    if (a->insn.mnemonic == ZYDIS_MNEMONIC_ENTER) {
        uint64_t room = isa_one_in(a->r, 4) ? isa_random(a->r) & 0x1fff : isa_below(a->r, 0x400);
        memcpy(a->c->bytes + a->insn.raw.imm[0].offset, &room, 2);
        if (isa_one_in(a->r, 2))
            a->c->bytes[a->insn.raw.imm[1].offset] &= 3;
        a->c->in.gpr[GPR_RSP] = aim_place(a->r, a->place, a->long_mode, 8) + 8;
    }
}

/* ---- images of the FPU ---- */

static uint32_t some_mxcsr(struct isa_random *r)
{
    uint32_t value = (uint32_t)isa_random(r) & 0xffff;
    return isa_one_in(r, 8) ? value | 1u << isa_below(r, 32) : value;
}

static void aim_xsave(struct aim *a)
{
    uint64_t header[8] = {isa_random(a->r) & 7};
    uint32_t mxcsr = some_mxcsr(a->r);
    if (isa_one_in(a->r, 3)) {
        header[1] = (1ull << 63) | (isa_random(a->r) & 7);
        header[0] &= isa_one_in(a->r, 8) ? 7 : header[1];
    }
    if (isa_one_in(a->r, 12))
        header[isa_below(a->r, 8)] |= 1ull << isa_below(a->r, 64);
    /* The host's XCR0 has more components than the guest's. */
    a->c->in.gpr[GPR_RAX] = isa_random(a->r) & 7;
    a->c->in.gpr[GPR_RDX] = 0;
    header[0] &= ~0xfff8ull;
    header[1] &= ~0xfff8ull;
    aim_poke(a, a->operand + 24, &mxcsr, 4);
    aim_poke(a, a->operand + 512, header, 64);
}

static void aim_fpu(struct aim *a)
{
    uint32_t mxcsr = some_mxcsr(a->r);
    switch (a->insn.mnemonic) {
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_VLDMXCSR:
        aim_poke(a, a->operand, &mxcsr, 4);
        break;
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
        aim_poke(a, a->operand + 24, &mxcsr, 4);
        break;
    default:
        break;
    }
    if (a->insn.meta.category == ZYDIS_CATEGORY_XSAVE || a->insn.meta.category == ZYDIS_CATEGORY_XSAVEOPT)
        aim_xsave(a);
}

/* ---- what the CPU model or the boundary answers ---- */

static void aim_answers(struct aim *a)
{
    struct isa_case *c = a->c;
    c->answer_bits = 32;
    switch (a->insn.mnemonic) {
    case ZYDIS_MNEMONIC_CPUID:
        c->answers = 1u << GPR_RAX | 1u << GPR_RBX | 1u << GPR_RCX | 1u << GPR_RDX;
        break;
    case ZYDIS_MNEMONIC_RDTSC:
        c->answers = 1u << GPR_RAX | 1u << GPR_RDX;
        break;
    case ZYDIS_MNEMONIC_RDTSCP:
        c->answers = 1u << GPR_RAX | 1u << GPR_RCX | 1u << GPR_RDX;
        break;
    case ZYDIS_MNEMONIC_XGETBV:
        c->answers = 1u << GPR_RAX | 1u << GPR_RDX;
        if (isa_one_in(a->r, 2))
            c->in.gpr[GPR_RCX] &= 1;
        break;
    case ZYDIS_MNEMONIC_RDRAND:
    case ZYDIS_MNEMONIC_RDSEED:
        c->answers = (uint16_t)(1u << aim_gpr(a->operands[0].reg.value));
        c->answer_bits = (uint8_t)a->operands[0].size;
        break;
    default:
        break;
    }
}

/* ---- all ---- */

void aim_contents(struct aim *a)
{
    switch (a->insn.meta.category) {
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_COND_BR:
    case ZYDIS_CATEGORY_UNCOND_BR:
        a->c->branch = true;
        aim_transfer(a);
        break;
    case ZYDIS_CATEGORY_RET:
        a->c->branch = true;
        aim_return(a);
        break;
    default:
        break;
    }
    switch (a->insn.mnemonic) {
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
        if (!isa_one_in(a->r, 4))
            aim_division(a);
        break;
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
        aim_bit_offset(a);
        break;
    case ZYDIS_MNEMONIC_ENTER:
    case ZYDIS_MNEMONIC_LEAVE:
        aim_frame(a);
        break;
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
        a->c->branch = true;
        aim_return(a);
        break;
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ: {
        uint64_t flags = isa_random(a->r) & ~(uint64_t)RFLAGS_TF;
        aim_poke(a, a->c->in.gpr[GPR_RSP], &flags, 8);
        break;
    }
    case ZYDIS_MNEMONIC_INT:
        /* 0x80 is the kernel's system call. */
        if (a->c->bytes[a->insn.raw.imm[0].offset] == 0x80)
            a->c->bytes[a->insn.raw.imm[0].offset] = 0x81;
        break;
    default:
        aim_segments(a);
        aim_fpu(a);
        aim_answers(a);
        break;
    }
}
