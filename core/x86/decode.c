/* From bytes to a plan: see plan.h for what each field means. */
#include <errno.h>
#include <string.h>

#include "core/x86/allow_list.h"
#include "core/x86/code_arena.h"
#include "core/x86/decode_fast.h"
#include "core/x86/stub.h"

static void init_decoder(ZydisDecoder *decoder, const struct cpu_model *model, unsigned code_size)
{
    switch (code_size) {
    case 8:
        ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
        break;
    case 4:
        ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
        break;
    default:
        ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
        break;
    }
    /* Extensions of the hint NOP space that the CPU model does not have: there they are NOPs. */
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_WBNOINVD, ZYAN_FALSE);
    /* F3 in front of BSR and BSF means nothing to a CPU that has not got these. */
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_LZCNT, allow_list_has_lzcnt(model));
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_TZCNT, allow_list_has_tzcnt(model));
    /* 66 in front of a branch in 64-bit code: 16 bits, as the model's vendor has it. */
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_AMD_BRANCHES, ZYAN_TRUE);
}

static uint8_t gpr_operand(ZydisRegister reg)
{
    if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH)
        return (uint8_t)((reg - ZYDIS_REGISTER_AH) | PLAN_REG_HIGH);
    ZydisRegister full = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
    return (uint8_t)ZydisRegisterGetId(full);
}

static uint8_t register_operand(ZydisRegister reg)
{
    switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_GPR8:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
        return gpr_operand(reg);
    default:
        return (uint8_t)ZydisRegisterGetId(reg);
    }
}

/* What implicit operands (string sources, XLAT, MASKMOV) use: the override, or DS. */
static uint8_t default_segment(const ZydisDecodedInstruction *insn)
{
    if (insn->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_FS)
        return SEG_FS;
    if (insn->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_GS)
        return SEG_GS;
    if (insn->machine_mode == ZYDIS_MACHINE_MODE_LONG_64)
        return SEG_DS;
    if (insn->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_CS)
        return SEG_CS;
    if (insn->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_SS)
        return SEG_SS;
    return insn->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_ES ? SEG_ES : SEG_DS;
}

static uint8_t address_register(ZydisRegister reg)
{
    if (reg == ZYDIS_REGISTER_NONE)
        return PLAN_NO_REG;
    if (reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP || reg == ZYDIS_REGISTER_IP)
        return PLAN_REG_RIP;
    return register_operand(reg);
}

static void fill_memory(struct plan *p, const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *o)
{
    p->seg = plan_segment(o->mem.segment);
    p->base = address_register(o->mem.base);
    p->index = address_register(o->mem.index);
    p->scale = o->mem.scale ? o->mem.scale : 1;
    p->disp = o->mem.disp.has_displacement ? o->mem.disp.value : 0;
    /* SIB base 101 with mod 00 is "no base" whatever REX.B says (SDM 2, table 2-5); Zydis 4.0 can name R13D. */
    if ((insn->attributes & ZYDIS_ATTRIB_HAS_SIB) && insn->raw.modrm.mod == 0 && insn->raw.sib.base == 5) {
        p->base = PLAN_NO_REG;
        p->disp = insn->raw.disp.value;
    }
    if (o->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
        return;
    if (o->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
        p->mem_access |= PLAN_MEM_READ;
    if (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
        p->mem_access |= PLAN_MEM_WRITE;
    p->mem_bytes = (uint16_t)(o->size / 8);
    while (p->mem_bytes >> (p->mem_bytes_log2 + 1))
        p->mem_bytes_log2++;
}

static void fill_operands(struct plan *p, const ZydisDecodedInstruction *insn,
                          const ZydisDecodedOperand *operands)
{
    unsigned registers = 0, immediates = 0, count = 0;
    for (unsigned i = 0; i < insn->operand_count_visible; i++) {
        const ZydisDecodedOperand *o = &operands[i];
        if (count < 3)
            p->operand_bytes[count] = (uint8_t)(o->size / 8);
        switch (o->type) {
        case ZYDIS_OPERAND_TYPE_REGISTER:
            if (registers < 3)
                p->reg[registers++] = register_operand(o->reg.value);
            break;
        case ZYDIS_OPERAND_TYPE_MEMORY:
            p->reg_is_memory |= (uint8_t)(1u << count);
            fill_memory(p, insn, o);
            break;
        case ZYDIS_OPERAND_TYPE_IMMEDIATE:
            if (immediates++ == 0)
                p->imm = o->imm.is_signed ? (uint64_t)o->imm.value.s : o->imm.value.u;
            else
                p->imm2 = (uint32_t)o->imm.value.u;
            break;
        case ZYDIS_OPERAND_TYPE_POINTER:
            p->imm = o->ptr.offset;
            p->imm2 = o->ptr.segment;
            break;
        default:
            break;
        }
        count++;
    }
    p->operand_count = (uint8_t)count;
}

static void fill_plan(struct plan *p, const ZydisDecodedInstruction *insn,
                      const ZydisDecodedOperand *operands, const uint8_t *bytes)
{
    p->mnemonic = (uint16_t)insn->mnemonic;
    p->length = insn->length;
    p->op_size = (uint8_t)(insn->operand_width / 8);
    p->addr_size = (uint8_t)(insn->address_width / 8);
    p->seg = default_segment(insn);
    p->lock = (insn->attributes & ZYDIS_ATTRIB_HAS_LOCK) != 0;
    if (insn->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE))
        p->rep = PLAN_REP;
    else if (insn->attributes & ZYDIS_ATTRIB_HAS_REPNE)
        p->rep = PLAN_REPNE;
    p->opcode = insn->opcode;
    p->condition = insn->opcode & 0xf;
    if (insn->attributes & ZYDIS_ATTRIB_HAS_MODRM)
        p->modrm = bytes[insn->raw.modrm.offset];
    memcpy(p->bytes, bytes, insn->length);
    fill_operands(p, insn, operands);
}

/* ---- choosing the handler ---- */

static const struct plan_handler *find_in(const struct plan_handlers *table, ZydisMnemonic mnemonic)
{
    for (size_t i = 0; i < table->count; i++)
        if (table->list[i].mnemonic == mnemonic)
            return &table->list[i];
    return NULL;
}

/* The class of the first segment, control or debug register among the explicit operands. */
static ZydisRegisterClass system_register_class(const ZydisDecodedInstruction *insn,
                                                const ZydisDecodedOperand *operands)
{
    for (unsigned i = 0; i < insn->operand_count_visible; i++) {
        if (operands[i].type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        ZydisRegisterClass class = ZydisRegisterGetClass(operands[i].reg.value);
        if (class == ZYDIS_REGCLASS_SEGMENT || class == ZYDIS_REGCLASS_CONTROL ||
            class == ZYDIS_REGCLASS_DEBUG)
            return class;
    }
    return ZYDIS_REGCLASS_INVALID;
}

/* Bit tests have a stub, save those that address a string of bits in memory. */
static bool is_plain_bit_test(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands)
{
    bool bit_test = insn->mnemonic == ZYDIS_MNEMONIC_BT || insn->mnemonic == ZYDIS_MNEMONIC_BTS ||
                    insn->mnemonic == ZYDIS_MNEMONIC_BTR || insn->mnemonic == ZYDIS_MNEMONIC_BTC;
    return bit_test &&
           (operands[0].type != ZYDIS_OPERAND_TYPE_MEMORY || operands[1].type != ZYDIS_OPERAND_TYPE_REGISTER);
}

static bool has_vector_operand(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands)
{
    for (unsigned i = 0; i < insn->operand_count_visible; i++)
        if (operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            ZydisRegisterGetClass(operands[i].reg.value) == ZYDIS_REGCLASS_XMM)
            return true;
    return false;
}

/*
 * One mnemonic can name instructions of different files: MOV (general, segment, control), PUSH/POP of segment
 * registers, near and far CALL/JMP/RET, the string and the SSE2 forms of MOVSD and CMPSD.
 */
static const struct plan_handler *find_handler(const ZydisDecodedInstruction *insn,
                                               const ZydisDecodedOperand *operands)
{
    ZydisMnemonic mnemonic = insn->mnemonic;
    ZydisRegisterClass class = system_register_class(insn, operands);
    if (mnemonic == ZYDIS_MNEMONIC_MOV) {
        if (class == ZYDIS_REGCLASS_SEGMENT)
            return find_in(&segment_handlers, mnemonic);
        return class == ZYDIS_REGCLASS_INVALID ? NULL : find_in(&system_handlers, mnemonic);
    }
    if ((mnemonic == ZYDIS_MNEMONIC_MOVSD || mnemonic == ZYDIS_MNEMONIC_CMPSD) &&
        has_vector_operand(insn, operands))
        return NULL;
    if (is_plain_bit_test(insn, operands))
        return NULL;

    const struct plan_handlers *const tables[] = {
        &near_handlers,   &string_handlers, &io_handlers,    &far_handlers,    &segment_handlers,
        &system_handlers, &fpu_handlers,    &xsave_handlers, &vector_handlers, &compute_handlers};
    const struct plan_handler *h = NULL;
    if (insn->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
        h = find_in(&far_handlers, mnemonic);
    else if (class == ZYDIS_REGCLASS_SEGMENT)
        h = find_in(&segment_handlers, mnemonic);
    for (size_t i = 0; !h && i < ARRAY_LEN(tables); i++)
        h = find_in(tables[i], mnemonic);
    return h;
}

/* Outside 64-bit mode VEX.W selects a quadword register that is not there: AMD's CPUs refuse it. */
static bool names_missing_quadword(const ZydisDecodedInstruction *insn)
{
    return insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX && insn->raw.vex.W &&
           insn->machine_mode != ZYDIS_MACHINE_MODE_LONG_64 &&
           (insn->mnemonic == ZYDIS_MNEMONIC_VPEXTRD || insn->mnemonic == ZYDIS_MNEMONIC_VPINSRD);
}

/* *free_immediate: the choice does not depend on the immediate's value. */
static void choose_handler(struct emu *e, struct plan *p, const ZydisDecodedInstruction *insn,
                           const ZydisDecodedOperand *operands, bool *free_immediate)
{
    *free_immediate = false;
    if (!allow_list_model_has(e->model, insn) || names_missing_quadword(insn)) {
        p->fn = exec_undefined;
        return;
    }
    const struct plan_handler *h = find_handler(insn, operands);
    if (h) {
        p->fn = h->fn;
        if (h->setup && !h->setup(p, insn, operands))
            p->fn = exec_undefined;
        *free_immediate = h >= near_handlers.list && h < near_handlers.list + near_handlers.count;
        return;
    }
    p->fn = fast_select(p, insn, operands);
    *free_immediate = p->fn != NULL;
    if (p->fn)
        return;
    switch (stub_generate(e->arena, insn, operands, p->bytes, &p->stub)) {
    case 0:
        exec_stub_setup(p, insn, operands);
        break;
    case -ENOSPC:
        p->fn = exec_arena_full;
        break;
    default:
        p->fn = exec_unsupported;
        break;
    }
}

/* #UD, or #GP(0) when it is too long for even that. 0: it goes on in the next page, which has to be there first. */
static int decode_undefined(const uint8_t *bytes, size_t length, struct plan *out)
{
    size_t needed = plan_instruction_length(bytes, length, out->code_size);
    if (needed > length && length < ZYDIS_MAX_INSTRUCTION_LENGTH)
        return 0;
    out->fn = needed > ZYDIS_MAX_INSTRUCTION_LENGTH ? exec_too_long : exec_undefined;
    out->length = (uint8_t)(needed < length ? needed : length);
    memcpy(out->bytes, bytes, out->length);
    return 1;
}

int plan_decode_anew(struct emu *e, const uint8_t *bytes, size_t length, unsigned code_size, struct plan *out)
{
    ZydisDecoder decoder;
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    bool free_immediate;

    if (length > ZYDIS_MAX_INSTRUCTION_LENGTH)
        length = ZYDIS_MAX_INSTRUCTION_LENGTH;
    memset(out, 0, sizeof *out);
    out->code_size = (uint8_t)code_size;
    out->base = out->index = PLAN_NO_REG;
    out->scale = 1;
    out->reg[0] = out->reg[1] = out->reg[2] = PLAN_NO_REG;

    e->insns_decoded_anew++;
    init_decoder(&decoder, e->model, code_size);
    ZyanStatus status = ZydisDecoderDecodeFull(&decoder, bytes, length, &insn, operands);
    if (!ZYAN_SUCCESS(status))
        return decode_undefined(bytes, length, out);
    fill_plan(out, &insn, operands, bytes);
    choose_handler(e, out, &insn, operands, &free_immediate);
    if (out->fn == exec_undefined)
        return decode_undefined(bytes, length, out);
    if (code_size == 8 && out->fn != exec_arena_full)
        decode_cache_keep_plan(e->decoded, out, &insn, operands, free_immediate);
    return 1;
}

int plan_decode(struct emu *e, const uint8_t *bytes, size_t length, unsigned code_size, struct plan *out)
{
    if (length > ZYDIS_MAX_INSTRUCTION_LENGTH)
        length = ZYDIS_MAX_INSTRUCTION_LENGTH;
    int found = -ENOENT;
    if (likely(code_size == 8))
        found = decode_cache_find_plan(e->decoded, bytes, length, code_arena_generation(e->arena), out);
    return found >= 0 ? found : plan_decode_anew(e, bytes, length, code_size, out);
}
