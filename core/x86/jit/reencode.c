/*
 * A guest instruction as host code: the same prefixes, opcode and immediate, other register numbers, and the memory operand
 * as the host address that the code before it has worked out.
 */
#include "core/x86/allow_list.h"
#include "core/x86/decode_fast.h"
#include "core/x86/jit/translation.h"

/* Register numbers, 0 to 15, for the fields of the encoding; NO_REG where a field names none. */
struct fields {
    unsigned reg, rm, opcode, vvvv;
};

static bool is_general(ZydisRegister reg)
{
    ZydisRegisterClass class = ZydisRegisterGetClass(reg);
    return class == ZYDIS_REGCLASS_GPR8 || class == ZYDIS_REGCLASS_GPR16 || class == ZYDIS_REGCLASS_GPR32 ||
           class == ZYDIS_REGCLASS_GPR64;
}

static bool is_high_byte(ZydisRegister reg)
{
    return reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH;
}

/* The number that goes into the encoding for a register operand. AH to BH are 4 to 7. */
static unsigned encoded_number(ZydisRegister reg, const uint8_t map[GPR_COUNT])
{
    if (is_high_byte(reg))
        return 4u + (unsigned)(reg - ZYDIS_REGISTER_AH);
    if (!is_general(reg))
        return (unsigned)ZydisRegisterGetId(reg) & 15;
    ZydisRegister full = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
    return map[ZydisRegisterGetId(full) & 15];
}

static bool find_fields(const struct insn *insn, const uint8_t map[GPR_COUNT], struct fields *f)
{
    *f = (struct fields){NO_REG, NO_REG, NO_REG, NO_REG};
    for (unsigned i = 0; i < insn->z.operand_count_visible; i++) {
        const ZydisDecodedOperand *o = &insn->op[i];
        if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        unsigned number = encoded_number(o->reg.value, map);
        switch (o->encoding) {
        case ZYDIS_OPERAND_ENCODING_MODRM_REG:
            f->reg = number;
            break;
        case ZYDIS_OPERAND_ENCODING_MODRM_RM:
            f->rm = number;
            break;
        case ZYDIS_OPERAND_ENCODING_OPCODE:
            f->opcode = number;
            break;
        case ZYDIS_OPERAND_ENCODING_NDSNDD:
            f->vvvv = number;
            break;
        case ZYDIS_OPERAND_ENCODING_IS4:
            break;
        default:
            /* Named by the opcode itself: AL, CL, ... */
            if (is_general(o->reg.value) &&
                number != encoded_number(o->reg.value, (const uint8_t[]){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,
                                                                         12, 13, 14, 15}))
                return false;
            break;
        }
    }
    return true;
}

/* Where the bytes after opcode, ModRM, SIB and displacement start: the immediate. */
static unsigned tail_offset(const struct insn *insn)
{
    const ZydisDecodedInstruction *z = &insn->z;
    if (z->raw.imm[0].size)
        return z->raw.imm[0].offset;
    return z->length;
}

/* Those that are part of the instruction; segment overrides, address size and LOCK are not needed any longer. */
static void put_legacy_prefixes(struct emitter *m, const struct insn *insn)
{
    for (unsigned i = 0; i < insn->z.raw.prefix_count; i++) {
        uint8_t prefix = insn->z.raw.prefixes[i].value;
        if (prefix == 0x66 || prefix == 0xf2 || prefix == 0xf3)
            put8(m, prefix);
    }
}

static bool put_legacy(struct emitter *m, const struct insn *insn, const struct fields *f,
                       const struct mem *memory)
{
    const ZydisDecodedInstruction *z = &insn->z;
    bool had_rex = (z->attributes & ZYDIS_ATTRIB_HAS_REX) != 0;
    unsigned base = memory ? memory->base : f->rm != NO_REG ? f->rm : f->opcode;
    unsigned index = memory ? memory->index : NO_REG;
    unsigned rex = (had_rex && z->raw.rex.W ? 8u : 0) | (f->reg != NO_REG && f->reg & 8 ? 4u : 0) |
                   (index != NO_REG && index & 8 ? 2u : 0) | (base != NO_REG && base & 8 ? 1u : 0);
    put_legacy_prefixes(m, insn);
    if (had_rex || rex) {
        for (unsigned i = 0; i < z->operand_count_visible; i++)
            if (insn->op[i].type == ZYDIS_OPERAND_TYPE_REGISTER && is_high_byte(insn->op[i].reg.value))
                return false;
        put8(m, 0x40 | rex);
    }
    switch (z->opcode_map) {
    case ZYDIS_OPCODE_MAP_DEFAULT:
        break;
    case ZYDIS_OPCODE_MAP_0F:
        put8(m, 0x0f);
        break;
    case ZYDIS_OPCODE_MAP_0F38:
        put8(m, 0x0f);
        put8(m, 0x38);
        break;
    case ZYDIS_OPCODE_MAP_0F3A:
        put8(m, 0x0f);
        put8(m, 0x3a);
        break;
    default:
        return false;
    }
    put8(m, f->opcode == NO_REG ? z->opcode : (z->opcode & 0xf8u) | (f->opcode & 7));
    return true;
}

static bool put_vex(struct emitter *m, const struct insn *insn, const struct fields *f,
                    const struct mem *memory)
{
    const ZydisDecodedInstruction *z = &insn->z;
    unsigned base = memory ? memory->base : f->rm;
    unsigned index = memory ? memory->index : NO_REG;
    unsigned not_r = f->reg != NO_REG && f->reg & 8 ? 0 : 0x80;
    unsigned not_x = index != NO_REG && index & 8 ? 0 : 0x40;
    unsigned not_b = base != NO_REG && base & 8 ? 0 : 0x20;
    unsigned vvvv = f->vvvv == NO_REG ? 0 : f->vvvv;
    put8(m, 0xc4);
    put8(m, not_r | not_x | not_b | z->raw.vex.m_mmmm);
    put8(m, (z->raw.vex.W ? 0x80u : 0) | (~vvvv & 15u) << 3 | (z->raw.vex.L ? 4u : 0) | z->raw.vex.pp);
    put8(m, z->opcode);
    return true;
}

/* ---- what is written is read again: nothing but the very same instruction may ever run ---- */

static bool same_memory(const ZydisDecodedOperand *o, const ZydisDecodedOperand *guest,
                        const struct mem *memory)
{
    ZydisRegister base = (ZydisRegister)(ZYDIS_REGISTER_RAX + memory->base);
    ZydisRegister index =
        memory->index == NO_REG ? ZYDIS_REGISTER_NONE : (ZydisRegister)(ZYDIS_REGISTER_RAX + memory->index);
    return guest->type == o->type && guest->size == o->size && o->mem.base == base && o->mem.index == index &&
           (index == ZYDIS_REGISTER_NONE || o->mem.scale == 1) && o->mem.disp.value == memory->disp &&
           o->mem.segment != ZYDIS_REGISTER_FS && o->mem.segment != ZYDIS_REGISTER_GS;
}

static bool same_register(const ZydisDecodedOperand *o, const ZydisDecodedOperand *guest,
                          const uint8_t map[GPR_COUNT])
{
    if (guest->type != o->type || guest->size != o->size)
        return false;
    if (!is_general(guest->reg.value) || is_high_byte(guest->reg.value))
        return o->reg.value == guest->reg.value;
    return is_general(o->reg.value) && !is_high_byte(o->reg.value) &&
           encoded_number(guest->reg.value, map) ==
               encoded_number(o->reg.value,
                              (const uint8_t[]){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15});
}

static bool verify(struct decode_cache *cache, const struct insn *insn, const uint8_t map[GPR_COUNT],
                   const struct mem *memory, const uint8_t *code, size_t length)
{
    struct decoded d;
    if (!decode_cache_decode(cache, code, length, &d))
        return false;
    const ZydisDecodedInstruction *z = d.z;
    const ZydisDecodedOperand *o = d.op;
    if (z->length != length || z->mnemonic != insn->z.mnemonic ||
        z->operand_count_visible != insn->z.operand_count_visible ||
        z->operand_width != insn->z.operand_width || !allow_list_may_execute(z, o))
        return false;
    for (unsigned k = 0; k < z->operand_count; k++) {
        const ZydisDecodedOperand *guest = &insn->op[k];
        bool visible = k < z->operand_count_visible;
        if (o[k].type == ZYDIS_OPERAND_TYPE_REGISTER) {
            ZydisRegister full = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, o[k].reg.value);
            if (full == ZYDIS_REGISTER_RSP || (visible && !same_register(&o[k], guest, map)))
                return false;
        } else if (o[k].type == ZYDIS_OPERAND_TYPE_MEMORY) {
            if (!visible || !memory || !same_memory(&o[k], guest, memory))
                return false;
        } else if (!visible || guest->type != o[k].type || guest->imm.value.u != o[k].imm.value.u) {
            return false;
        }
    }
    return true;
}

size_t jit_reencode(struct translation_state *t, const struct insn *insn, const uint8_t map[GPR_COUNT],
                    const struct mem *memory, uint8_t out[16])
{
    struct emitter m = {.at = out, .end = out + 15};
    struct fields f;
    if (!find_fields(insn, map, &f))
        return 0;
    bool vex = insn->z.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    if (vex ? !put_vex(&m, insn, &f, memory) : !put_legacy(&m, insn, &f, memory))
        return 0;
    if (insn->z.attributes & ZYDIS_ATTRIB_HAS_MODRM) {
        unsigned reg = f.reg == NO_REG ? insn->z.raw.modrm.reg : f.reg;
        if (memory)
            put_modrm_mem(&m, reg, *memory);
        else
            put8(&m, 0xc0 | (reg & 7) << 3 | (f.rm == NO_REG ? insn->z.raw.modrm.rm : f.rm & 7));
    }
    unsigned tail = tail_offset(insn);
    put_bytes(&m, insn->plan->bytes + tail, insn->plan->length - tail);
    size_t length = (size_t)(m.at - out);
    return !m.full && verify(t->e->decoded, insn, map, memory, out, length) ? length : 0;
}
