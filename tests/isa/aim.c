#include "tests/isa/aim.h"

#include <string.h>

#define XSAVE_AREA_BYTES 832u

int aim_gpr(ZydisRegister reg)
{
    return ZydisRegisterGetId(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg));
}

/* ---- places ---- */

static enum isa_place random_place(struct isa_random *r)
{
    switch (isa_below(r, 4)) {
    case 0:
        return (enum isa_place)isa_below(r, PLACE_COUNT);
    case 1:
        return PLACE_UNALIGNED;
    default:
        return PLACE_ALIGNED;
    }
}

/* An operand of bytes around boundary: at least one byte on each side, where it has two. */
static uint64_t around(struct isa_random *r, uint64_t boundary, unsigned bytes)
{
    return bytes > 1 ? boundary - 1 - isa_below(r, bytes - 1) : boundary - isa_below(r, 2);
}

uint64_t aim_place(struct isa_random *r, enum isa_place place, bool long_mode, unsigned bytes)
{
    unsigned room = bytes ? bytes : 1;
    if (place == PLACE_RANDOM)
        place = random_place(r);
    switch (place) {
    case PLACE_UNALIGNED:
        return ISA_DATA + 256 + isa_below(r, 0x1c00);
    case PLACE_ACROSS:
        return around(r, ISA_DATA + 0x1000, room);
    case PLACE_ACROSS_READ_ONLY:
        return around(r, ISA_DATA + ISA_DATA_RO, room);
    case PLACE_READ_ONLY:
        return ISA_DATA + ISA_DATA_RO + 64 * isa_below(r, 32);
    case PLACE_READ_ONLY_ABSENT:
        return around(r, ISA_DATA + ISA_DATA_GAP, room);
    case PLACE_ACROSS_ABSENT:
        return around(r, ISA_DATA + ISA_DATA_BYTES, room);
    case PLACE_FROM_ABSENT:
        return around(r, ISA_DATA + ISA_DATA_GAP + 0x1000, room);
    case PLACE_ABSENT:
        return ISA_DATA + ISA_DATA_GAP + (isa_below(r, 2048));
    case PLACE_SUPERVISOR:
        return long_mode ? ISA_KERNEL + (isa_one_in(r, 2) ? 0 : isa_below(r, 4096))
                         : 0xffffff00 - isa_below(r, room);
    case PLACE_NOT_CANONICAL:
        return long_mode
                   ? 0x0000800030000000ull + ((isa_random(r) & 0x7ffe) << 32) + 64 * isa_below(r, 0x1000)
                   : ISA_DATA + 0xc000;
    case PLACE_ACROSS_CANONICAL:
        return long_mode ? around(r, 0x0000800000000000, room) : around(r, ISA_DATA + 0x1000, room);
    default:
        return ISA_DATA + 64 * (4 + isa_below(r, 0x60));
    }
}

void aim_poke(struct aim *a, uint64_t linear, const void *bytes, unsigned length)
{
    struct isa_case *c = a->c;
    if (linear >= ISA_LOW && linear < ISA_LOW + ISA_DATA_BYTES)
        linear += ISA_DATA - ISA_LOW;
    if (c->pokes == 2 || length > 64 || linear < ISA_DATA || linear > ISA_DATA + ISA_DATA_BYTES - length)
        return;
    c->poke[c->pokes].offset = (uint32_t)(linear - ISA_DATA);
    c->poke[c->pokes].length = (uint8_t)length;
    memcpy(c->poke[c->pokes++].bytes, bytes, length);
}

/* ---- addresses ---- */

static uint64_t address_mask(const struct aim *a)
{
    return a->insn.address_width == 16 ? 0xffff : a->insn.address_width == 32 ? 0xffffffff : ~0ull;
}

static uint64_t segment_base(const struct aim *a, ZydisRegister segment)
{
    static const uint8_t number[] = {SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS};
    unsigned i = number[segment - ZYDIS_REGISTER_ES];
    return a->long_mode && i < SEG_FS ? 0 : a->c->in.seg[i].base;
}

/* The offset that reaches linear, or with 16 bits its other address. */
static uint64_t offset_of(const struct aim *a, uint64_t linear, ZydisRegister segment)
{
    uint64_t base = segment_base(a, segment);
    bool in_data = linear - ISA_DATA + 64 < ISA_DATA_BYTES + 1024;
    if (a->insn.address_width == 16 && base == 0 && in_data)
        linear += (uint64_t)ISA_LOW - ISA_DATA;
    return (linear - base) & address_mask(a);
}

/* The bits of an address register above the address size do not count. */
static void set_address(struct aim *a, ZydisRegister reg, uint64_t value)
{
    uint64_t mask = address_mask(a), *gpr = &a->c->in.gpr[aim_gpr(reg)];
    uint64_t rest = isa_one_in(a->r, 2) ? isa_random(a->r) : 0;
    *gpr = (value & mask) | (rest & ~mask);
}

static bool has_quadword_indices(ZydisMnemonic mnemonic)
{
    return mnemonic == ZYDIS_MNEMONIC_VGATHERQPS || mnemonic == ZYDIS_MNEMONIC_VGATHERQPD ||
           mnemonic == ZYDIS_MNEMONIC_VPGATHERQD || mnemonic == ZYDIS_MNEMONIC_VPGATHERQQ;
}

/* Indices of a gather: small ones, so that the elements lie around one address. */
static void set_vector_index(struct aim *a, const ZydisDecodedOperand *o)
{
    uint8_t *v = a->c->in.fpu.ymm[ZydisRegisterGetId(o->mem.index)];
    unsigned bytes = has_quadword_indices(a->insn.mnemonic) ? 8 : 4;
    for (unsigned i = 0; i < 32; i += bytes) {
        int64_t small = (int64_t)isa_below(a->r, 512) - 256;
        memcpy(v + i, &small, bytes);
    }
}

static bool put_displacement(struct aim *a, uint64_t value)
{
    unsigned bytes = a->insn.raw.disp.size / 8;
    int64_t as_signed = (int64_t)value;
    if (bytes < 2 || (bytes == 4 && a->insn.address_width == 64 && as_signed != (int32_t)as_signed))
        return false;
    memcpy(a->c->bytes + a->insn.raw.disp.offset, &value, bytes);
    return true;
}

/* The parts of an image that wraps round at its address size are not looked at in the order that the emulator has. */
static bool is_wrapped_image(const struct aim *a, uint64_t offset)
{
    bool image =
        a->insn.meta.category == ZYDIS_CATEGORY_XSAVE || a->insn.meta.category == ZYDIS_CATEGORY_XSAVEOPT;
    return image && a->insn.address_width < 64 && offset + XSAVE_AREA_BYTES > address_mask(a);
}

static bool aim_explicit(struct aim *a, const ZydisDecodedOperand *o, enum isa_place place)
{
    uint64_t *gpr = a->c->in.gpr;
    unsigned size = o->size / 8u;
    a->operand = aim_place(a->r, place, a->long_mode, size);
    uint64_t offset = offset_of(a, a->operand, o->mem.segment);
    if (is_wrapped_image(a, offset))
        return false;
    uint64_t disp = o->mem.disp.has_displacement ? (uint64_t)o->mem.disp.value : 0, index = 0;
    /* SIB base 101 with mod 00 is no base; Zydis 4.0 can name R13D. */
    bool no_base = (a->insn.attributes & ZYDIS_ATTRIB_HAS_SIB) && a->insn.raw.modrm.mod == 0 &&
                   a->insn.raw.sib.base == 5;
    ZydisRegister base = no_base ? ZYDIS_REGISTER_NONE : o->mem.base;
    if (o->mem.type == ZYDIS_MEMOP_TYPE_VSIB) {
        set_vector_index(a, o);
    } else if (o->mem.index != ZYDIS_REGISTER_NONE && o->mem.index != base) {
        gpr[aim_gpr(o->mem.index)] = (uint64_t)(int64_t)((int)isa_below(a->r, 4096) - 2048);
        index = gpr[aim_gpr(o->mem.index)] * (o->mem.scale ? o->mem.scale : 1);
    }
    if (base == ZYDIS_REGISTER_RIP || base == ZYDIS_REGISTER_EIP)
        return put_displacement(a, offset - (a->c->in.rip + a->insn.length));
    if (base == ZYDIS_REGISTER_NONE)
        return put_displacement(a, offset - index);
    if (base == o->mem.index && o->mem.type != ZYDIS_MEMOP_TYPE_VSIB)
        set_address(a, base, ((offset - disp) & address_mask(a)) / (1u + o->mem.scale));
    else
        set_address(a, base, offset - disp - index);
    return true;
}

/* An absolute address in the instruction (MOV AL, [moffs]) has no displacement field of its own in Zydis 4.0. */
static bool is_absolute(const struct aim *a)
{
    return !(a->insn.attributes & ZYDIS_ATTRIB_HAS_MODRM) && a->insn.opcode >= 0xa0 &&
           a->insn.opcode <= 0xa3 && a->insn.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT;
}

static void aim_absolute(struct aim *a, const ZydisDecodedOperand *o, enum isa_place place)
{
    unsigned bytes = a->insn.address_width / 8;
    a->operand = aim_place(a->r, place, a->long_mode, o->size / 8u);
    uint64_t offset = offset_of(a, a->operand, o->mem.segment);
    memcpy(a->c->bytes + a->insn.length - bytes, &offset, bytes);
}

/* Strings, the stack, XLAT, MASKMOV. A push writes below its pointer. */
static void aim_hidden(struct aim *a, const ZydisDecodedOperand *o, enum isa_place place)
{
    unsigned size = o->size / 8u;
    if (o->mem.base == ZYDIS_REGISTER_NONE)
        return;
    uint64_t linear = aim_place(a->r, place, a->long_mode, size);
    if (!a->c->operand)
        a->c->operand = linear;
    bool stack =
        ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, o->mem.base) == ZYDIS_REGISTER_RSP;
    bool push = stack && (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
    uint64_t offset = stack ? linear : offset_of(a, linear, o->mem.segment);
    if (stack)
        a->c->in.gpr[GPR_RSP] = offset + (push ? size : 0);
    else
        set_address(a, o->mem.base, offset);
}

static void aim_count(struct aim *a)
{
    a->c->in.gpr[GPR_RCX] = isa_below(a->r, 40);
    if (a->insn.address_width < 64 && isa_one_in(a->r, 2))
        a->c->in.gpr[GPR_RCX] |= isa_random(a->r) << a->insn.address_width;
}

/* PUSH [rsp+disp]: RSP has been aimed for the stack meanwhile, and the operand is to be where it was. */
static void follow_stack_pointer(struct aim *a)
{
    for (unsigned i = 0; i < a->insn.operand_count_visible; i++) {
        const ZydisDecodedOperand *o = &a->operands[i];
        if (o->type != ZYDIS_OPERAND_TYPE_MEMORY || o->mem.base == ZYDIS_REGISTER_NONE ||
            aim_gpr(o->mem.base) != GPR_RSP)
            continue;
        uint64_t index = o->mem.index == ZYDIS_REGISTER_NONE ? 0 : a->c->in.gpr[aim_gpr(o->mem.index)];
        uint64_t offset = offset_of(a, a->operand, o->mem.segment);
        (void)put_displacement(a, offset - index * o->mem.scale - a->c->in.gpr[GPR_RSP]);
    }
}

bool aim_operands(struct aim *a)
{
    unsigned memory = 0, chosen;
    for (unsigned i = 0; i < a->insn.operand_count; i++)
        memory += a->operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY;
    a->c->memory = memory != 0;
    if (a->insn.meta.category == ZYDIS_CATEGORY_STRINGOP ||
        a->insn.meta.category == ZYDIS_CATEGORY_IOSTRINGOP)
        aim_count(a);
    /* One operand at the place asked for, the others mostly where nothing happens. */
    chosen = memory ? isa_below(a->r, memory) : 0;
    memory = 0;
    for (unsigned i = 0; i < a->insn.operand_count; i++) {
        const ZydisDecodedOperand *o = &a->operands[i];
        if (o->type != ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
        enum isa_place place = memory++ == chosen || isa_one_in(a->r, 4) ? a->place : PLACE_UNALIGNED;
        if (o->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
            continue;
        if (o->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
            aim_hidden(a, o, place);
        else if (is_absolute(a))
            aim_absolute(a, o, place);
        else if (!aim_explicit(a, o, place))
            return false;
        if (a->operand)
            a->c->operand = a->operand;
    }
    if (a->operand && memory > 1)
        follow_stack_pointer(a);
    aim_contents(a);
    return true;
}
