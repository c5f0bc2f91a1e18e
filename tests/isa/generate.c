/* Random instructions over the whole opcode space, with registers and operands that make them interesting. */
#include <Zydis/Zydis.h>
#include <string.h>

#include "tests/isa/isa.h"

uint64_t isa_random(struct isa_random *r)
{
    uint64_t z = (r->s += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static unsigned below(struct isa_random *r, unsigned n)
{
    return (unsigned)(isa_random(r) % n);
}

static bool one_in(struct isa_random *r, unsigned n)
{
    return below(r, n) == 0;
}

/* ---- values ---- */

static uint64_t interesting_integer(struct isa_random *r)
{
    static const uint64_t edges[] = {0,
                                     1,
                                     2,
                                     0x7f,
                                     0x80,
                                     0xff,
                                     0x7fff,
                                     0x8000,
                                     0xffff,
                                     0x7fffffff,
                                     0x80000000,
                                     0xffffffff,
                                     0x100000000,
                                     0x7fffffffffffffff,
                                     0x8000000000000000,
                                     0xffffffffffffffff,
                                     0xfffffffffffffffe,
                                     0xaaaaaaaaaaaaaaaa};
    switch (below(r, 4)) {
    case 0:
        return edges[below(r, sizeof edges / sizeof *edges)];
    case 1:
        return below(r, 70);
    case 2:
        return 1ull << below(r, 64);
    default:
        return isa_random(r);
    }
}

static uint64_t interesting_double(struct isa_random *r)
{
    static const uint64_t values[] = {0,
                                      0x8000000000000000,
                                      0x3ff0000000000000,
                                      0xbff0000000000000,
                                      0x7ff0000000000000,
                                      0xfff0000000000000,
                                      0x7ff8000000000000,
                                      0x7ff0000000000001,
                                      0xfff8000000000001,
                                      0x0000000000000001,
                                      0x000fffffffffffff,
                                      0x0010000000000000,
                                      0x7fefffffffffffff,
                                      0x3fe0000000000000,
                                      0x4000000000000000,
                                      0x41dfffffffc00000,
                                      0x41e0000000000000,
                                      0xc1e0000000000000,
                                      0x43e0000000000000,
                                      0x3ff8000000000000,
                                      0x400921fb54442d18};
    if (one_in(r, 3))
        return (isa_random(r) & 0x800fffffffffffff) | (uint64_t)(1000 + below(r, 50)) << 52;
    return values[below(r, sizeof values / sizeof *values)];
}

static uint32_t interesting_float(struct isa_random *r)
{
    static const uint32_t values[] = {0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000,
                                      0x7fc00000, 0x7f800001, 0xffc00001, 0x00000001, 0x007fffff, 0x00800000,
                                      0x7f7fffff, 0x3f000000, 0x40000000, 0x4effffff, 0x4f000000, 0xcf000000};
    if (one_in(r, 3))
        return (uint32_t)(isa_random(r) & 0x807fffff) | (100 + below(r, 50)) << 23;
    return values[below(r, sizeof values / sizeof *values)];
}

static void fill_vector(struct isa_random *r, uint8_t *out, size_t bytes)
{
    unsigned kind = below(r, 4);
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t v = isa_random(r);
        if (kind == 0)
            v = interesting_double(r);
        else if (kind == 1)
            v = interesting_float(r) | (uint64_t)interesting_float(r) << 32;
        else if (kind == 2)
            v = interesting_integer(r);
        memcpy(out + i, &v, bytes - i < 8 ? bytes - i : 8);
    }
}

/* An 80-bit value; sometimes an encoding that the x87 does not support. */
static void fill_st(struct isa_random *r, uint8_t out[16])
{
    static const uint16_t exponents[] = {0,      1,      0x3fff, 0x3ffe, 0x4000,
                                         0x401e, 0x403e, 0x403f, 0x7ffe, 0x7fff};
    uint64_t significand = isa_random(r) | 1ull << 63;
    uint16_t exponent = (uint16_t)(0x3fff - 40 + below(r, 80));
    if (one_in(r, 2))
        exponent = exponents[below(r, 10)];
    if (one_in(r, 4))
        significand = one_in(r, 2) ? 1ull << 63 : interesting_integer(r);
    if (one_in(r, 8)) {
        significand = 0;
        exponent = 0;
    }
    exponent |= (uint16_t)(one_in(r, 3) ? 0x8000 : 0);
    memset(out, 0, 16);
    memcpy(out, &significand, 8);
    memcpy(out + 8, &exponent, 2);
}

static void fill_fpu(struct isa_random *r, struct fpu_state *f)
{
    for (unsigned i = 0; i < 16; i++)
        fill_vector(r, f->ymm[i], 32);
    for (unsigned i = 0; i < 8; i++)
        fill_st(r, f->st[i]);
    f->ftw = one_in(r, 4) ? (uint8_t)isa_random(r) : one_in(r, 2) ? 0xff : 0;
    f->fsw = (uint16_t)(isa_random(r) & 0x7f00);
    f->fcw = FCW_DEFAULT;
    if (one_in(r, 3))
        f->fcw = (uint16_t)((below(r, 4) << 10) | ((below(r, 3) + 1) << 8 & 0x300) | 0x7f);
    if (one_in(r, 4))
        f->fcw = (uint16_t)(f->fcw & ~below(r, 64));
    if (one_in(r, 4))
        f->fsw |= (uint16_t)below(r, 128);
    if (f->fsw & ~f->fcw & 0x3f) {
        if (one_in(r, 8))
            f->fsw |= 0x8080;
        else
            f->fsw &= (uint16_t)~0x3f;
    }
    f->fop = f->fcs = f->fds = 0;
    f->fip = f->fdp = 0;
    f->mxcsr = MXCSR_DEFAULT | (one_in(r, 3) ? below(r, 4) << 13 | (one_in(r, 2) ? 0x8000 : 0) : 0);
    f->mxcsr |= one_in(r, 4) ? 0x40 : 0;
    f->mxcsr |= one_in(r, 4) ? below(r, 64) : 0;
    if (one_in(r, 8))
        f->mxcsr &= ~(below(r, 64) << 7);
}

/* ---- opcodes ---- */

/*
 * Legacy: map (4) x prefix (4) x opcode. VEX: map (3) x pp (4) x opcode. REX, W, L, registers are random.
 */
#define LEGACY_OPCODES (4u * 4u * 256u)
#define VEX_OPCODES    (3u * 4u * 256u)

unsigned isa_opcode_count(void)
{
    return LEGACY_OPCODES + VEX_OPCODES;
}

unsigned isa_opcode_weight(unsigned opcode)
{
    static const uint8_t groups[] = {0x80, 0x81, 0x83, 0xc0, 0xc1, 0xd0, 0xd1, 0xd2, 0xd3, 0xd8, 0xd9,
                                     0xda, 0xdb, 0xdc, 0xdd, 0xde, 0xdf, 0xf6, 0xf7, 0xfe, 0xff};
    static const uint8_t groups_0f[] = {0x18, 0x71, 0x72, 0x73, 0xae, 0xba, 0xc7};
    unsigned map = opcode >> 10, byte = opcode & 0xff;
    for (size_t i = 0; map == 0 && i < sizeof groups; i++)
        if (groups[i] == byte)
            return 8;
    for (size_t i = 0; map == 1 && i < sizeof groups_0f; i++)
        if (groups_0f[i] == byte)
            return 8;
    return 1;
}

static unsigned put_modrm(struct isa_random *r, uint8_t *b, unsigned n)
{
    uint8_t modrm = (uint8_t)isa_random(r);
    if (one_in(r, 3))
        modrm |= 0xc0;
    b[n++] = modrm;
    for (unsigned i = 0; i < 9 && n < 15; i++)
        b[n++] = (uint8_t)isa_random(r);
    return n;
}

static unsigned legacy_bytes(struct isa_random *r, unsigned opcode, bool long_mode, uint8_t *b)
{
    static const uint8_t mandatory[4] = {0, 0x66, 0xf3, 0xf2};
    unsigned map = opcode >> 10, prefix = opcode >> 8 & 3, n = 0;
    if (one_in(r, 24))
        b[n++] = 0xf0;
    if (one_in(r, 24))
        b[n++] = 0x67;
    if (prefix)
        b[n++] = mandatory[prefix];
    if (prefix > 1 && one_in(r, 8))
        b[n++] = 0x66;
    if (long_mode && one_in(r, 2))
        b[n++] = (uint8_t)(0x40 | below(r, 16));
    if (map)
        b[n++] = 0x0f;
    if (map > 1)
        b[n++] = map == 2 ? 0x38 : 0x3a;
    b[n++] = (uint8_t)opcode;
    return put_modrm(r, b, n);
}

/* Outside 64-bit mode the bits that would name registers 8 to 15 are set: else it is LES. */
static unsigned vex_bytes(struct isa_random *r, unsigned opcode, bool long_mode, uint8_t *b)
{
    unsigned map = (opcode >> 10) + 1, pp = opcode >> 8 & 3, n = 0;
    bool no_third = one_in(r, 3);
    b[n++] = 0xc4;
    b[n++] = (uint8_t)((isa_random(r) & 0xe0) | (long_mode ? 0 : 0xc0) | map);
    b[n++] = (uint8_t)((one_in(r, 2) ? 0x80 : 0) | (no_third ? 0x78 : below(r, 16) << 3) |
                       (one_in(r, 2) ? 4 : 0) | pp);
    b[n++] = (uint8_t)opcode;
    return put_modrm(r, b, n);
}

/* ---- what is tested ---- */

static bool set_is_tested(ZydisISASet set)
{
    static const ZydisISASet sets[] = {
        ZYDIS_ISA_SET_ADOX_ADCX,  ZYDIS_ISA_SET_AES,          ZYDIS_ISA_SET_AVX,
        ZYDIS_ISA_SET_AVX2,       ZYDIS_ISA_SET_AVX2GATHER,   ZYDIS_ISA_SET_AVXAES,
        ZYDIS_ISA_SET_BMI1,       ZYDIS_ISA_SET_BMI2,         ZYDIS_ISA_SET_CLFLUSHOPT,
        ZYDIS_ISA_SET_CLFSH,      ZYDIS_ISA_SET_CLWB,         ZYDIS_ISA_SET_CMOV,
        ZYDIS_ISA_SET_CMPXCHG16B, ZYDIS_ISA_SET_F16C,         ZYDIS_ISA_SET_FAT_NOP,
        ZYDIS_ISA_SET_FCMOV,      ZYDIS_ISA_SET_FMA,          ZYDIS_ISA_SET_FXSAVE,
        ZYDIS_ISA_SET_FXSAVE64,   ZYDIS_ISA_SET_I186,         ZYDIS_ISA_SET_I386,
        ZYDIS_ISA_SET_I486,       ZYDIS_ISA_SET_I486REAL,     ZYDIS_ISA_SET_I86,
        ZYDIS_ISA_SET_LAHF,       ZYDIS_ISA_SET_LONGMODE,     ZYDIS_ISA_SET_LZCNT,
        ZYDIS_ISA_SET_MOVBE,      ZYDIS_ISA_SET_PAUSE,        ZYDIS_ISA_SET_PCLMULQDQ,
        ZYDIS_ISA_SET_PENTIUMMMX, ZYDIS_ISA_SET_PENTIUMREAL,  ZYDIS_ISA_SET_POPCNT,
        ZYDIS_ISA_SET_PPRO,       ZYDIS_ISA_SET_PREFETCH_NOP, ZYDIS_ISA_SET_SHA,
        ZYDIS_ISA_SET_SSE,        ZYDIS_ISA_SET_SSE2,         ZYDIS_ISA_SET_SSE2MMX,
        ZYDIS_ISA_SET_SSE3,       ZYDIS_ISA_SET_SSE3X87,      ZYDIS_ISA_SET_SSE4,
        ZYDIS_ISA_SET_SSE42,      ZYDIS_ISA_SET_SSEMXCSR,     ZYDIS_ISA_SET_SSE_PREFETCH,
        ZYDIS_ISA_SET_SSSE3,      ZYDIS_ISA_SET_SSSE3MMX,     ZYDIS_ISA_SET_X87,
    };
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
        if (sets[i] == set)
            return true;
    return false;
}

static bool is_tested(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands)
{
    if (!set_is_tested(insn->meta.isa_set) || (insn->attributes & ZYDIS_ATTRIB_IS_PRIVILEGED))
        return false;
    switch (insn->meta.category) {
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_COND_BR:
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_IO:
    case ZYDIS_CATEGORY_IOSTRINGOP:
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_SEGOP:
    case ZYDIS_CATEGORY_SYSCALL:
    case ZYDIS_CATEGORY_SYSRET:
    case ZYDIS_CATEGORY_SYSTEM:
    case ZYDIS_CATEGORY_UNCOND_BR:
        return false;
    default:
        break;
    }
    if (insn->mnemonic == ZYDIS_MNEMONIC_POPF || insn->mnemonic == ZYDIS_MNEMONIC_POPFQ ||
        insn->mnemonic == ZYDIS_MNEMONIC_POPFD || insn->mnemonic == ZYDIS_MNEMONIC_PUSHFD ||
        insn->mnemonic == ZYDIS_MNEMONIC_PUSHF || insn->mnemonic == ZYDIS_MNEMONIC_PUSHFQ ||
        insn->mnemonic == ZYDIS_MNEMONIC_CLI || insn->mnemonic == ZYDIS_MNEMONIC_CPUID ||
        insn->mnemonic == ZYDIS_MNEMONIC_STI)
        return false;
    for (unsigned i = 0; i < insn->operand_count; i++) {
        if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
            (operands[i].mem.segment == ZYDIS_REGISTER_FS || operands[i].mem.segment == ZYDIS_REGISTER_GS))
            return false;
        if (operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER) {
            ZydisRegisterClass class = ZydisRegisterGetClass(operands[i].reg.value);
            if (class == ZYDIS_REGCLASS_SEGMENT || class == ZYDIS_REGCLASS_CONTROL ||
                class == ZYDIS_REGCLASS_DEBUG)
                return false;
        }
    }
    return true;
}

/* ---- operands ---- */

static int gpr_index(ZydisRegister reg)
{
    return ZydisRegisterGetId(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg));
}

/* Where the operand shall lie: aligned, unaligned, across pages, read-only, not mapped, not canonical. */
static uint64_t pick_target(struct isa_random *r, bool long_mode, unsigned bytes)
{
    unsigned align = bytes ? bytes : 1;
    switch (below(r, 12)) {
    case 0:
        return ISA_DATA + 0x1000 - 1 - below(r, align);
    case 1:
        return ISA_DATA + ISA_DATA_RW - 1 - below(r, align);
    case 2:
        return one_in(r, 2) ? ISA_DATA + ISA_DATA_RW + 64 * below(r, 32)
                            : ISA_DATA + ISA_DATA_BYTES - below(r, align);
    case 3:
        return long_mode && one_in(r, 4) ? 0x8000000000000000 | isa_random(r)
                                         : ISA_DATA + ISA_DATA_BYTES + below(r, 256);
    case 4:
    case 5:
    case 6:
        return ISA_DATA + 256 + below(r, 0x1c00);
    default:
        return ISA_DATA + 64 * (4 + below(r, 0x60));
    }
}

static void put_disp(struct isa_case *c, const ZydisDecodedInstruction *insn, uint64_t value)
{
    unsigned offset = insn->raw.disp.offset, bytes = insn->raw.disp.size / 8;
    memcpy(c->bytes + offset, &value, bytes);
}

static bool aim(struct isa_random *r, struct isa_case *c, const ZydisDecodedInstruction *insn,
                const ZydisDecodedOperand *o)
{
    uint64_t target = pick_target(r, insn->machine_mode == ZYDIS_MACHINE_MODE_LONG_64, o->size / 8u),
             *gpr = c->in.gpr;
    uint64_t disp = o->mem.disp.has_displacement ? (uint64_t)o->mem.disp.value : 0;
    /* Zydis 4.0 can name R13D where there is no base. */
    bool no_base =
        (insn->attributes & ZYDIS_ATTRIB_HAS_SIB) && insn->raw.modrm.mod == 0 && insn->raw.sib.base == 5;
    uint64_t index = 0, mask = insn->address_width == 32 ? 0xffffffff : ~0ull;
    bool vector_index = o->mem.type == ZYDIS_MEMOP_TYPE_VSIB;
    if (o->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
        return true;
    if (insn->address_width == 16)
        return false;
    if (vector_index) {
        uint8_t *v = c->in.fpu.ymm[ZydisRegisterGetId(o->mem.index)];
        for (unsigned i = 0; i < 32; i += 4) {
            int32_t small = (int32_t)below(r, 512) - 256;
            if (i % 8 && one_in(r, 2))
                small = 0;
            memcpy(v + i, &small, 4);
        }
        target = ISA_DATA + 0x1000 + below(r, 64);
    } else if (o->mem.index != ZYDIS_REGISTER_NONE && (no_base || o->mem.index != o->mem.base)) {
        gpr[gpr_index(o->mem.index)] = (uint64_t)(int64_t)((int)below(r, 4096) - 2048);
        index = gpr[gpr_index(o->mem.index)] * o->mem.scale;
    }
    if (o->mem.base == ZYDIS_REGISTER_RIP || o->mem.base == ZYDIS_REGISTER_EIP) {
        if (target >> 32)
            return false;
        put_disp(c, insn, target - (c->in.rip + insn->length));
    } else if (no_base || o->mem.base == ZYDIS_REGISTER_NONE) {
        if (insn->raw.disp.size < 32 || target >> 31)
            return false;
        put_disp(c, insn, target - index);
    } else if (o->mem.base == o->mem.index) {
        gpr[gpr_index(o->mem.base)] = ((target - disp) & mask) / (1 + o->mem.scale);
    } else {
        gpr[gpr_index(o->mem.base)] = (target - disp - index) & mask;
    }
    return true;
}

static bool is_one_of(ZydisMnemonic m, const ZydisMnemonic *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (list[i] == m)
            return true;
    return false;
}

/* Registers that the instruction uses as hidden pointers or counts. */
/* A dividend whose quotient is at, or just beyond, the limit of what fits. */
static void aim_division(struct isa_random *r, struct isa_case *c, const ZydisDecodedInstruction *insn,
                         const ZydisDecodedOperand *operands)
{
    unsigned bits = operands[0].size;
    if (operands[0].type != ZYDIS_OPERAND_TYPE_REGISTER || bits < 16)
        return;
    int reg = gpr_index(operands[0].reg.value);
    if (reg == GPR_RAX || reg == GPR_RDX)
        return;
    __extension__ typedef __int128 wide;
    __extension__ typedef unsigned __int128 uwide;
    bool is_signed = insn->mnemonic == ZYDIS_MNEMONIC_IDIV;
    wide divisor = is_signed ? (wide)((int64_t)(c->in.gpr[reg] << (64 - bits)) >> (64 - bits))
                             : (wide)(c->in.gpr[reg] << (64 - bits) >> (64 - bits));
    wide top = (wide)1 << (is_signed ? bits - 1 : bits);
    wide quotient = (is_signed && one_in(r, 2) ? -top : top) + (wide)below(r, 4) - 2;
    wide magnitude = divisor < 0 ? -divisor : divisor;
    wide rest = magnitude ? (wide)(isa_random(r) % 4) % magnitude : 0;
    /* The products of 64-bit operands stay clear of the sign bit of 128: those that do not are simply odd cases. */
    uwide dividend = (uwide)quotient * (uwide)divisor + (uwide)(one_in(r, 2) ? rest : -rest);
    uint64_t mask = bits == 64 ? ~0ull : (1ull << bits) - 1;
    c->in.gpr[GPR_RAX] = (uint64_t)dividend & mask;
    c->in.gpr[GPR_RDX] = (uint64_t)(dividend >> bits) & mask;
}

/* False: it has 16-bit addresses, where nothing can be mapped. */
static bool aim_hidden(struct isa_random *r, struct isa_case *c, const ZydisDecodedInstruction *insn,
                       const ZydisDecodedOperand *operands)
{
    static const ZydisMnemonic bit_tests[] = {ZYDIS_MNEMONIC_BT, ZYDIS_MNEMONIC_BTS, ZYDIS_MNEMONIC_BTR,
                                              ZYDIS_MNEMONIC_BTC};
    uint64_t *gpr = c->in.gpr;
    if (is_one_of(insn->mnemonic, bit_tests, 4) && operands[0].type == ZYDIS_OPERAND_TYPE_MEMORY &&
        operands[1].type == ZYDIS_OPERAND_TYPE_REGISTER) {
        int reg = gpr_index(operands[1].reg.value);
        if (reg != gpr_index(operands[0].mem.base) && reg != gpr_index(operands[0].mem.index)) {
            gpr[reg] = (uint64_t)(int64_t)((int)below(r, 32768) - 16384);
            if (operands[1].size < 64 && one_in(r, 2))
                gpr[reg] = (gpr[reg] & (operands[1].size == 32 ? 0xffffffff : 0xffff)) | isa_random(r) << 32;
        }
    }
    for (unsigned i = 0; i < insn->operand_count; i++) {
        const ZydisDecodedOperand *o = &operands[i];
        if (o->type != ZYDIS_OPERAND_TYPE_MEMORY || o->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
            continue;
        if (o->mem.segment != ZYDIS_REGISTER_SS && insn->address_width == 16)
            return false;
        if (o->mem.base != ZYDIS_REGISTER_NONE)
            gpr[gpr_index(o->mem.base)] =
                pick_target(r, insn->machine_mode == ZYDIS_MACHINE_MODE_LONG_64, o->size / 8u) &
                (insn->address_width == 32 ? 0xffffffff : ~0ull);
        if (insn->meta.category == ZYDIS_CATEGORY_STRINGOP) {
            gpr[GPR_RCX] = below(r, 40);
            if (insn->address_width == 32 && one_in(r, 2))
                gpr[GPR_RCX] |= isa_random(r) << 32;
        }
    }
    if ((insn->mnemonic == ZYDIS_MNEMONIC_DIV || insn->mnemonic == ZYDIS_MNEMONIC_IDIV) && !one_in(r, 4))
        aim_division(r, c, insn, operands);
    if (insn->mnemonic == ZYDIS_MNEMONIC_LEAVE || insn->mnemonic == ZYDIS_MNEMONIC_ENTER)
        gpr[GPR_RBP] = ISA_DATA + 0x800 + below(r, 64);
    if (insn->mnemonic == ZYDIS_MNEMONIC_ENTER)
        gpr[GPR_RSP] = ISA_DATA + 0x1800 + below(r, 64);
    if (insn->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ || insn->mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU ||
        insn->mnemonic == ZYDIS_MNEMONIC_VMASKMOVDQU)
        gpr[GPR_RDI] = ISA_DATA + below(r, 0x1f00);
    return true;
}

static uint64_t form_of(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands)
{
    uint64_t form = insn->mnemonic;
    for (unsigned i = 0; i < insn->operand_count_visible; i++)
        form = form * 1099511628211ull + ((unsigned)operands[i].type << 12 | operands[i].size |
                                          (operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER
                                               ? (unsigned)ZydisRegisterGetClass(operands[i].reg.value) << 20
                                               : 0));
    return form * 4 + insn->encoding;
}

/* Bytes that Zydis calls undefined; not where AMD's CPUs have LOCK MOV CR0, nor in the system groups 0F 00 and 0F 01, nor XOP. */
static bool invalid_is_tested(struct isa_random *r, unsigned opcode)
{
    unsigned byte = opcode & 0xff, map = opcode >> 10;
    return opcode < LEGACY_OPCODES && one_in(r, 8) && byte != 0x8f &&
           !(map == 1 && (byte <= 1 || (byte & 0xfc) == 0x20));
}

bool isa_generate(struct isa_random *r, unsigned opcode, const struct vcpu_state *base, struct isa_case *c)
{
    ZydisDecoder decoder;
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    bool long_mode = base->seg[SEG_CS].rights & SEGMENT_L;
    memset(c, 0, sizeof *c);
    c->in = *base;
    c->length = opcode < LEGACY_OPCODES ? legacy_bytes(r, opcode, long_mode, c->bytes)
                                        : vex_bytes(r, opcode - LEGACY_OPCODES, long_mode, c->bytes);

    for (unsigned i = 0; i < GPR_COUNT; i++)
        c->in.gpr[i] = long_mode ? interesting_integer(r) : (uint32_t)interesting_integer(r);
    c->in.rflags |= (isa_random(r) & RFLAGS_STATUS) | (one_in(r, 8) ? RFLAGS_DF : 0);
    fill_fpu(r, &c->in.fpu);

    if (long_mode)
        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    else
        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
    ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
    ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
    ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
    /* At the end of the page or across it, now and then. */
    c->in.rip = ISA_CODE + 16 * below(r, 64);
    c->valid = ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, c->bytes, c->length, &insn, operands));
    if (!c->valid)
        return invalid_is_tested(r, opcode);
    if (one_in(r, 32))
        c->in.rip = ISA_CODE + 0x1000 - 1 - below(r, insn.length);
    if (!is_tested(&insn, operands))
        return false;
    c->mnemonic = (unsigned)insn.mnemonic;
    c->form = form_of(&insn, operands);
    c->length = insn.length;
    for (unsigned i = 0; i < insn.operand_count_visible; i++) {
        if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
            operands[i].visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT) {
            c->memory = true;
            if (!aim(r, c, &insn, &operands[i]))
                return false;
        }
    }
    if (!aim_hidden(r, c, &insn, operands))
        return false;
    for (unsigned i = 0; i < GPR_COUNT && !long_mode; i++)
        c->in.gpr[i] = (uint32_t)c->in.gpr[i];
    return true;
}
