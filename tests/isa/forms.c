/*
 * The forms of the CPU model, read off Zydis' decoder by walking the opcode space. A form is a mnemonic with the kinds, sizes and
 * encodings of its operands, its operand and address size, and LOCK or REP.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/x86/allow_list.h"
#include "tests/isa/isa.h"

void isa_init_decoder(ZydisDecoder *decoder, bool long_mode)
{
    if (long_mode)
        ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    else
        ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_WBNOINVD, ZYAN_FALSE);
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_AMD_BRANCHES, ZYAN_TRUE);
}

/* ---- keys ---- */

static uint64_t mix(uint64_t key, uint64_t value)
{
    key = (key ^ value) * 0x9e3779b97f4a7c15ull;
    return key ^ (key >> 29);
}

static uint64_t operand_key(const ZydisDecodedOperand *o)
{
    uint64_t key = (uint64_t)o->type | (uint64_t)o->encoding << 4 | (uint64_t)o->size << 12;
    switch (o->type) {
    case ZYDIS_OPERAND_TYPE_REGISTER: {
        bool implied = o->encoding == ZYDIS_OPERAND_ENCODING_NONE;
        ZydisRegisterClass class = ZydisRegisterGetClass(o->reg.value);
        key |= (uint64_t) class << 32;
        return implied && class != ZYDIS_REGCLASS_X87 ? key | (uint64_t)o->reg.value << 40 : key;
    }
    case ZYDIS_OPERAND_TYPE_MEMORY: {
        key |= (uint64_t)o->mem.type << 32;
        bool vsib = o->mem.type == ZYDIS_MEMOP_TYPE_VSIB;
        return vsib ? key | (uint64_t)ZydisRegisterGetClass(o->mem.index) << 40 : key;
    }
    case ZYDIS_OPERAND_TYPE_IMMEDIATE:
        return key | (uint64_t)o->imm.is_relative << 32 | (uint64_t)o->imm.is_signed << 33;
    default:
        return key;
    }
}

static bool has_memory(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands)
{
    for (unsigned i = 0; i < insn->operand_count; i++)
        if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
            return true;
    return false;
}

static bool reg_is_operand(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands)
{
    for (unsigned i = 0; i < insn->operand_count; i++)
        if (operands[i].encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG)
            return true;
    return false;
}

static bool rm_is_operand(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands)
{
    for (unsigned i = 0; i < insn->operand_count; i++)
        if (operands[i].encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
            return true;
    return false;
}

static uint64_t form_key(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands)
{
    uint64_t key = insn->mnemonic;
    bool memory = has_memory(insn, operands);
    key = mix(key, (uint64_t)insn->encoding | (uint64_t)insn->opcode_map << 4 | (uint64_t)insn->opcode << 8 |
                       (uint64_t)insn->operand_width << 16 |
                       (memory ? (uint64_t)insn->address_width << 24 : 0));
    for (unsigned i = 0; i < insn->operand_count_visible; i++)
        key = mix(key, operand_key(&operands[i]));
    const ZydisInstructionAttributes repeats =
        ZYDIS_ATTRIB_HAS_LOCK | ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE;
    key = mix(key, insn->attributes & repeats);
    if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
        key = mix(key, insn->raw.vex.W | (uint64_t)insn->raw.vex.L << 1);
    if ((insn->attributes & ZYDIS_ATTRIB_HAS_MODRM) && !reg_is_operand(insn, operands))
        key = mix(key, insn->raw.modrm.reg);
    return key ? key : 1;
}

int isa_forms_find(const struct isa_forms *forms, const ZydisDecodedInstruction *insn,
                   const ZydisDecodedOperand *operands)
{
    uint64_t key = form_key(insn, operands);
    for (uint64_t i = key % (2 * ISA_FORMS_MAX); forms->slot[i]; i = (i + 1) % (2 * ISA_FORMS_MAX))
        if (forms->form[forms->slot[i] - 1].key == key)
            return forms->slot[i] - 1;
    return -1;
}

/* ---- what can be compared ---- */

static enum isa_reason reason_of(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_SYSCALL:
    case ZYDIS_MNEMONIC_SYSENTER:
        return ISA_ENTERS_KERNEL;
    case ZYDIS_MNEMONIC_SGDT:
    case ZYDIS_MNEMONIC_SIDT:
    case ZYDIS_MNEMONIC_SLDT:
    case ZYDIS_MNEMONIC_SMSW:
    case ZYDIS_MNEMONIC_STR:
        return ISA_UMIP;
    default:
        return ISA_COMPARED;
    }
}

/* ---- walking the opcode space ---- */

unsigned isa_template_bytes(const struct isa_template *t, bool long_mode, uint8_t out[15])
{
    unsigned n = 0;
    memset(out, 0, 15);
    if (t->p67)
        out[n++] = 0x67;
    if (t->vex) {
        out[n++] = 0xc4;
        out[n++] = (uint8_t)(0xe0 | t->map);
        out[n++] = (uint8_t)(t->w << 7 | 0x78 | t->l << 2 | t->prefix);
    } else {
        if (t->lock)
            out[n++] = 0xf0;
        if (t->p66)
            out[n++] = 0x66;
        if (t->prefix)
            out[n++] = t->prefix;
        if ((t->w || t->b) && long_mode)
            out[n++] = (uint8_t)(0x40 | (t->w ? 8 : 0) | (t->b ? 1 : 0));
        if (t->map)
            out[n++] = 0x0f;
        if (t->map > 1)
            out[n++] = t->map == 2 ? 0x38 : 0x3a;
    }
    out[n++] = t->opcode;
    out[n] = t->modrm;
    if ((t->modrm & 0xc7) == 4)
        out[n + 1] = 0x28; /* SIB: an index, which is not ModRM.reg of any enumerated form but 5 */
    return 15;
}

static bool add_form(struct isa_forms *forms, const struct isa_template *t,
                     const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands)
{
    if (isa_forms_find(forms, insn, operands) >= 0)
        return true;
    if (forms->count == ISA_FORMS_MAX)
        return false;
    struct isa_form *f = &forms->form[forms->count++];
    *f = (struct isa_form){.key = form_key(insn, operands),
                           .how = *t,
                           .mnemonic = (uint16_t)insn->mnemonic,
                           .reason = (uint8_t)reason_of(insn->mnemonic),
                           .memory = has_memory(insn, operands)};
    f->how.has_modrm = (insn->attributes & ZYDIS_ATTRIB_HAS_MODRM) != 0;
    f->how.group = !reg_is_operand(insn, operands);
    f->how.fixed_rm = !rm_is_operand(insn, operands);
    uint64_t i = f->key % (2 * ISA_FORMS_MAX);
    while (forms->slot[i])
        i = (i + 1) % (2 * ISA_FORMS_MAX);
    forms->slot[i] = (uint16_t)forms->count;
    return true;
}

struct walk {
    struct isa_forms *forms;
    ZydisDecoder decoder;
    struct cpu_model model;
};

/* 0: no such instruction, 1: one without ModRM, 2: one with, -1: the table is full. */
static int try_template(struct walk *w, const struct isa_template *t)
{
    uint8_t bytes[15];
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    isa_template_bytes(t, w->forms->long_mode, bytes);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&w->decoder, bytes, sizeof bytes, &insn, operands)))
        return 0;
    bool modrm = insn.attributes & ZYDIS_ATTRIB_HAS_MODRM;
    /* The bytes meant something else: a prefix, or VEX where it is LES. */
    bool vex = insn.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    if (vex != t->vex || insn.opcode != t->opcode || !allow_list_model_has(&w->model, &insn))
        return modrm ? 2 : 0;
    if (!add_form(w->forms, t, &insn, operands))
        return -1;
    return modrm ? 2 : 1;
}

/*
 * All ModRM bytes that can select another form: every one with mod 3, and of the memory forms every reg, with and without SIB
 * (the vector index of gathers).
 */
static bool try_modrm(struct walk *w, struct isa_template *t)
{
    t->modrm = 0xc1;
    if (try_template(w, t) == 1)
        return true;
    for (unsigned m = 0; m < 64; m++) {
        t->modrm = (uint8_t)(0xc0 | m);
        if (try_template(w, t) < 0)
            return false;
    }
    for (unsigned reg = 0; reg < 8; reg++) {
        for (unsigned rm = 0; rm <= 4; rm += 4) {
            t->modrm = (uint8_t)(reg << 3 | rm);
            if ((rm == 0 || t->vex) && try_template(w, t) < 0)
                return false;
        }
    }
    return true;
}

/* To another map. */
static bool is_escape(unsigned map, unsigned opcode)
{
    return (map == 0 && opcode == 0x0f) || (map == 1 && (opcode == 0x38 || opcode == 0x3a));
}

static bool walk_legacy(struct walk *w)
{
    static const uint8_t prefixes[3] = {0, 0xf3, 0xf2};
    for (unsigned n = 0; n < 4u * 3 * 2 * 2 * 2 * 2; n++) {
        struct isa_template t = {.map = (uint8_t)(n & 3),
                                 .p66 = n >> 2 & 1,
                                 .p67 = n >> 3 & 1,
                                 .w = n >> 4 & 1,
                                 .lock = n >> 5 & 1,
                                 .prefix = prefixes[n >> 6]};
        if ((t.w && !w->forms->long_mode) || (t.lock && (t.prefix || t.map > 1)))
            continue;
        for (unsigned opcode = 0; opcode < 256; opcode++) {
            t.opcode = (uint8_t)opcode;
            if (!is_escape(t.map, opcode) && !try_modrm(w, &t))
                return false;
        }
        /* NOP with REX.B is XCHG. */
        t.opcode = 0x90;
        t.b = w->forms->long_mode;
        if (t.map == 0 && !try_modrm(w, &t))
            return false;
    }
    return true;
}

static bool walk_vex(struct walk *w)
{
    for (unsigned n = 0; n < 3u * 4 * 2 * 2 * 2; n++) {
        struct isa_template t = {.vex = true,
                                 .prefix = (uint8_t)(n & 3),
                                 .w = n >> 2 & 1,
                                 .l = n >> 3 & 1,
                                 .p67 = n >> 4 & 1,
                                 .map = (uint8_t)(1 + (n >> 5))};
        for (unsigned opcode = 0; opcode < 256; opcode++) {
            t.opcode = (uint8_t)opcode;
            if (!try_modrm(w, &t))
                return false;
        }
    }
    return true;
}

struct isa_forms *isa_forms_create(bool long_mode)
{
    struct walk w = {.forms = calloc(1, sizeof *w.forms)};
    if (!w.forms)
        return NULL;
    w.forms->long_mode = long_mode;
    isa_init_decoder(&w.decoder, long_mode);
    cpu_model_init(&w.model, CPU_PROFILE_EMU);
    if (walk_legacy(&w) && walk_vex(&w))
        return w.forms;
    free(w.forms);
    return NULL;
}

void isa_forms_destroy(struct isa_forms *forms)
{
    free(forms);
}

void isa_form_describe(const struct isa_forms *forms, unsigned index, char *out, size_t size)
{
    uint8_t bytes[15];
    ZydisDisassembledInstruction d;
    unsigned length = isa_template_bytes(&forms->form[index].how, forms->long_mode, bytes);
    ZydisMachineMode mode = forms->long_mode ? ZYDIS_MACHINE_MODE_LONG_64 : ZYDIS_MACHINE_MODE_LONG_COMPAT_32;
    if (!ZYAN_SUCCESS(ZydisDisassembleIntel(mode, ISA_CODE, bytes, length, &d)))
        d.text[0] = '\0';
    snprintf(out, size, "%s", d.text);
}
