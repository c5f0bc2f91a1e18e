#include "core/x86/inspect.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/x86/plan.h"

/* ---- translation ---- */

#define PTE_P  ((uint64_t)1)
#define PTE_PS ((uint64_t)1 << 7)

/* Physical address bits 12..51 of an entry. */
#define PTE_ADDRESS 0x000ffffffffff000ull

/* How one paging mode is walked: from the top level down (SDM 3, 4.3 to 4.5). */
struct paging {
    unsigned levels;
    unsigned index_bits; /* per level, save PAE's top level */
    unsigned top_bits;
    unsigned entry_bytes;
    bool large_at_2; /* PS is looked at in the level that maps 2 or 4 MiB */
    bool large_at_3; /* and in the level that maps 1 GiB */
};

static struct paging paging_of(const struct vcpu_state *s)
{
    if (s->efer & EFER_LMA)
        return (struct paging){4, 9, 9, 8, true, true};
    if (s->cr4 & CR4_PAE)
        return (struct paging){3, 9, 2, 8, true, false};
    return (struct paging){2, 10, 10, 4, (s->cr4 & CR4_PSE) != 0, false};
}

static gpa_t table_base(const struct vcpu_state *s)
{
    if (s->efer & EFER_LMA)
        return s->cr3 & PTE_ADDRESS;
    return s->cr4 & CR4_PAE ? s->cr3 & 0xffffffe0u : s->cr3 & 0xfffff000u;
}

/* Frame address of a large page's entry; 4 MiB pages have physical bits 32..39 in bits 13..20 (PSE-36). */
static gpa_t large_base(const struct paging *mode, uint64_t entry, unsigned shift)
{
    if (mode->entry_bytes == 4)
        return (entry & 0xffc00000u) | ((entry >> 13 & 0xff) << 32);
    return entry & PTE_ADDRESS & ~((1ull << shift) - 1);
}

static bool read_entry(const struct guest_ram *ram, const struct paging *mode, gpa_t at, unsigned level,
                       struct x86_walk *out)
{
    uint64_t value = 0;
    if (ram_read(ram, at, &value, mode->entry_bytes) != 0)
        return false;
    out->step[out->count++] = (struct x86_walk_step){
        .entry = at, .value = value, .level = (uint8_t)level, .bytes = (uint8_t)mode->entry_bytes};
    return (value & PTE_P) != 0;
}

void x86_walk(const struct guest_ram *ram, const struct vcpu_state *state, gva_t gva, struct x86_walk *out)
{
    *out = (struct x86_walk){.page_shift = PAGE_SHIFT};
    if (!(state->efer & EFER_LMA))
        gva = (uint32_t)gva;
    else if ((uint64_t)((int64_t)(gva << 16) >> 16) != gva)
        return;
    if (!(state->cr0 & CR0_PG)) {
        out->gpa = gva;
        out->mapped = true;
        return;
    }
    struct paging mode = paging_of(state);
    gpa_t table = table_base(state);
    for (unsigned level = mode.levels; level >= 1; level--) {
        unsigned shift = 12 + (level - 1) * mode.index_bits;
        unsigned bits = level == mode.levels ? mode.top_bits : mode.index_bits;
        if (!read_entry(ram, &mode, table + (gva >> shift & ((1u << bits) - 1)) * mode.entry_bytes, level,
                        out))
            return;
        uint64_t entry = out->step[out->count - 1].value;
        bool large = (entry & PTE_PS) && ((level == 2 && mode.large_at_2) || (level == 3 && mode.large_at_3));
        if (large || level == 1) {
            gpa_t base = large ? large_base(&mode, entry, shift) : entry & PTE_ADDRESS;
            out->page_shift = (uint8_t)shift;
            out->gpa = base + (gva & ((1ull << shift) - 1));
            out->mapped = true;
            return;
        }
        table = entry & PTE_ADDRESS;
    }
}

int x86_translate(const struct guest_ram *ram, const struct vcpu_state *state, gva_t gva, gpa_t *gpa)
{
    struct x86_walk walk;
    x86_walk(ram, state, gva, &walk);
    *gpa = walk.gpa;
    return walk.mapped ? 0 : -EFAULT;
}

size_t x86_read_virtual(const struct guest_ram *ram, const struct vcpu_state *state, gva_t gva, void *out,
                        size_t length)
{
    size_t done = 0;
    while (done < length) {
        gva_t at = gva + done;
        size_t part = PAGE_SIZE_BYTES - (at & PAGE_MASK);
        if (part > length - done)
            part = length - done;
        gpa_t gpa;
        if (x86_translate(ram, state, at, &gpa) != 0 || ram_read(ram, gpa, (uint8_t *)out + done, part) != 0)
            break;
        done += part;
    }
    return done;
}

/* ---- decoding ---- */

#define INSTRUCTION_MAX 15

struct decoded {
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
    uint8_t bytes[INSTRUCTION_MAX];
    size_t length; /* bytes that could be read */
    bool valid;
};

static void init_decoder(const struct vcpu_state *s, ZydisDecoder *decoder)
{
    if (vcpu_in_64bit_code(s))
        ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    else if (s->seg[SEG_CS].rights & SEGMENT_DB)
        ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    else if (s->cr0 & CR0_PE)
        ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
    else
        ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_REAL_16, ZYDIS_STACK_WIDTH_16);
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_AMD_BRANCHES, ZYAN_TRUE);
}

/* Linear address of an offset into a segment. */
static gva_t linear_of(const struct vcpu_state *s, unsigned seg, uint64_t offset)
{
    if (!vcpu_in_64bit_code(s))
        return (uint32_t)(offset + s->seg[seg].base);
    return seg == SEG_FS || seg == SEG_GS ? offset + s->seg[seg].base : offset;
}

static void decode_at(const struct guest_ram *ram, const struct vcpu_state *s, uint64_t rip,
                      struct decoded *out)
{
    ZydisDecoder decoder;
    init_decoder(s, &decoder);
    out->length = x86_read_virtual(ram, s, linear_of(s, SEG_CS, rip), out->bytes, sizeof(out->bytes));
    out->valid = out->length && ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, out->bytes, out->length,
                                                                    &out->insn, out->operand));
}

static void format_bytes(const struct decoded *d, char *out, size_t size)
{
    size_t used = (size_t)snprintf(out, size, "bytes:");
    for (size_t i = 0; i < d->length && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, " %02x", d->bytes[i]);
}

void x86_disassemble(const struct guest_ram *ram, const struct vcpu_state *state, char *out, size_t size)
{
    struct decoded d;
    if (!size)
        return;
    decode_at(ram, state, state->rip, &d);
    if (!d.length) {
        snprintf(out, size, "(not mapped)");
        return;
    }
    ZydisFormatter formatter;
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    ZydisFormatterSetProperty(&formatter, ZYDIS_FORMATTER_PROP_HEX_UPPERCASE, ZYAN_FALSE);
    ZydisFormatterSetProperty(&formatter, ZYDIS_FORMATTER_PROP_FORCE_SIZE, ZYAN_TRUE);
    bool formatted = d.valid && ZYAN_SUCCESS(ZydisFormatterFormatInstruction(&formatter, &d.insn, d.operand,
                                                                             d.insn.operand_count_visible,
                                                                             out, size, state->rip, NULL));
    if (!formatted)
        format_bytes(&d, out, size);
}

unsigned x86_finished_rep(const struct guest_ram *ram, const struct vcpu_state *state)
{
    struct decoded d;
    decode_at(ram, state, state->rip, &d);
    ZydisInstructionAttributes rep = ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE;
    if (!d.valid || !(d.insn.attributes & rep))
        return 0;
    uint64_t count = state->gpr[GPR_RCX];
    if (d.insn.address_width < 64)
        count &= (1ull << d.insn.address_width) - 1;
    return count ? 0 : d.insn.length;
}

/* ---- witnesses ---- */

static uint64_t register_value(const struct vcpu_state *s, ZydisRegister reg, uint64_t next_rip)
{
    if (reg == ZYDIS_REGISTER_NONE)
        return 0;
    if (reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP)
        return next_rip;
    ZyanI8 id = ZydisRegisterGetId(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg));
    if (id < 0 || id >= GPR_COUNT)
        return 0;
    uint64_t value = s->gpr[id];
    ZyanU16 width = ZydisRegisterGetWidth(ZYDIS_MACHINE_MODE_LONG_64, reg);
    return width >= 64 ? value : value & ((1ull << width) - 1);
}

static gva_t operand_address(const struct vcpu_state *s, const struct decoded *d,
                             const ZydisDecodedOperand *o, uint64_t next_rip)
{
    uint64_t offset = register_value(s, o->mem.base, next_rip);
    offset += register_value(s, o->mem.index, next_rip) * o->mem.scale;
    if (o->mem.disp.has_displacement)
        offset += (uint64_t)o->mem.disp.value;
    if (d->insn.address_width < 64)
        offset &= (1ull << d->insn.address_width) - 1;
    return linear_of(s, plan_segment(o->mem.segment), offset);
}

/* The number of the general register that reg is, or is a part of. */
static uint8_t general_register(ZydisRegister reg)
{
    ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
    if (ZydisRegisterGetClass(whole) != ZYDIS_REGCLASS_GPR64)
        return X86_NO_REGISTER;
    return (uint8_t)ZydisRegisterGetId(whole);
}

static void note_memory(const struct vcpu_state *s, const struct decoded *d, const ZydisDecodedOperand *o,
                        struct x86_effect *out)
{
    out->has_memory = true;
    out->stores = (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
    out->base = general_register(o->mem.base);
    out->index = general_register(o->mem.index);
    out->address = operand_address(s, d, o, s->rip + d->insn.length);
    out->bytes = (uint16_t)(o->size / 8);
}

/* What the first operand is made from: the memory operand before a register, the last register before the first. */
static void note_source(const struct vcpu_state *s, const struct decoded *d, struct x86_effect *out)
{
    const ZydisDecodedOperand *o = d->operand;
    if (d->insn.operand_count_visible == 0 || o[0].type != ZYDIS_OPERAND_TYPE_REGISTER ||
        !(o[0].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
        return;
    out->target = general_register(o[0].reg.value);
    for (unsigned i = 1; i < d->insn.operand_count_visible; i++) {
        if (o[i].type == ZYDIS_OPERAND_TYPE_REGISTER)
            out->source = general_register(o[i].reg.value);
        else if (o[i].type == ZYDIS_OPERAND_TYPE_MEMORY && o[i].mem.type == ZYDIS_MEMOP_TYPE_AGEN)
            out->source = general_register(o[i].mem.base);
        else if (o[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
            out->loads = true;
    }
    if (d->insn.mnemonic == ZYDIS_MNEMONIC_POP) {
        out->loads = out->has_memory = true;
        out->address = linear_of(s, SEG_SS, s->gpr[GPR_RSP]);
        out->bytes = (uint16_t)(d->insn.operand_width / 8);
    } else if (out->source == X86_NO_REGISTER && (o[0].actions & ZYDIS_OPERAND_ACTION_MASK_READ)) {
        out->source = out->target; /* add rdx, 8: still made from what it was */
    }
}

void x86_instruction_effect(const struct guest_ram *ram, const struct vcpu_state *state,
                            struct x86_effect *out)
{
    struct decoded d;
    *out = (struct x86_effect){.base = X86_NO_REGISTER,
                               .index = X86_NO_REGISTER,
                               .target = X86_NO_REGISTER,
                               .source = X86_NO_REGISTER};
    decode_at(ram, state, state->rip, &d);
    if (!d.valid)
        return;
    out->length = d.insn.length;
    for (unsigned i = 0; i < d.insn.operand_count; i++) {
        const ZydisDecodedOperand *o = &d.operand[i];
        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) &&
            general_register(o->reg.value) != X86_NO_REGISTER)
            out->writes |= (uint16_t)(1u << general_register(o->reg.value));
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.type == ZYDIS_MEMOP_TYPE_MEM &&
            o->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
            note_memory(state, &d, o, out);
    }
    note_source(state, &d, out);
}

struct witness_list {
    struct x86_witness *out;
    unsigned count;
};

static void add_witness(const struct guest_ram *ram, const struct vcpu_state *s, struct witness_list *list,
                        gva_t address)
{
    for (unsigned i = 0; i < list->count; i++)
        if (list->out[i].address == address)
            return;
    if (list->count < X86_WITNESS_MAX)
        list->out[list->count++] = (struct x86_witness){address, x86_witness_value(ram, s, address)};
}

/* The memory operands of one instruction, the stack's own left out (its top is a witness already). */
static void add_operands(const struct guest_ram *ram, const struct vcpu_state *s, struct witness_list *list,
                         const struct decoded *d, uint64_t next_rip)
{
    for (unsigned i = 0; i < d->insn.operand_count; i++) {
        const ZydisDecodedOperand *o = &d->operand[i];
        bool stack = o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN && o->mem.segment == ZYDIS_REGISTER_SS;
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.type == ZYDIS_MEMOP_TYPE_MEM && !stack)
            add_witness(ram, s, list, operand_address(s, d, o, next_rip));
    }
}

uint64_t x86_witness_value(const struct guest_ram *ram, const struct vcpu_state *state, gva_t address)
{
    uint8_t bytes[8] = {0};
    uint64_t value;
    x86_read_virtual(ram, state, address, bytes, sizeof(bytes));
    memcpy(&value, bytes, sizeof(value));
    return value;
}

#define WITNESS_INSTRUCTIONS 16

unsigned x86_witnesses(const struct guest_ram *ram, const struct vcpu_state *state,
                       struct x86_witness out[X86_WITNESS_MAX])
{
    struct witness_list list = {.out = out};
    uint64_t sp = state->gpr[GPR_RSP], rip = state->rip;
    if (!vcpu_in_64bit_code(state))
        sp &= state->seg[SEG_SS].rights & SEGMENT_DB ? 0xffffffffu : 0xffffu;
    add_witness(ram, state, &list, linear_of(state, SEG_SS, sp));
    for (unsigned i = 0; i < WITNESS_INSTRUCTIONS && list.count < X86_WITNESS_MAX; i++) {
        struct decoded d;
        decode_at(ram, state, rip, &d);
        if (!d.valid)
            break;
        uint64_t next_rip = rip + d.insn.length;
        add_operands(ram, state, &list, &d, next_rip);
        rip = next_rip;
        bool unconditional = d.insn.meta.category == ZYDIS_CATEGORY_UNCOND_BR ||
                             d.insn.meta.category == ZYDIS_CATEGORY_CALL ||
                             d.insn.meta.category == ZYDIS_CATEGORY_RET;
        if (!unconditional)
            continue;
        if (d.operand[0].type != ZYDIS_OPERAND_TYPE_IMMEDIATE || !d.operand[0].imm.is_relative)
            break;
        rip = next_rip + d.operand[0].imm.value.u;
        if (!vcpu_in_64bit_code(state))
            rip = (uint32_t)rip;
    }
    return list.count;
}

/* ---- page-table entries of the next instruction ---- */

struct entry_list {
    struct x86_walk_step *out;
    unsigned count;
};

static void add_entries_of_page(const struct guest_ram *ram, const struct vcpu_state *s,
                                struct entry_list *list, gva_t address)
{
    struct x86_walk walk;
    x86_walk(ram, s, address, &walk);
    for (unsigned i = 0; i < walk.count; i++) {
        bool known = walk.step[i].bytes != 8 || !(walk.step[i].value & PTE_P);
        for (unsigned j = 0; j < list->count && !known; j++)
            known = list->out[j].entry == walk.step[i].entry;
        if (!known && list->count < X86_UPCOMING_MAX)
            list->out[list->count++] = walk.step[i];
    }
}

static void add_entries(const struct guest_ram *ram, const struct vcpu_state *s, struct entry_list *list,
                        gva_t address, size_t length)
{
    add_entries_of_page(ram, s, list, address);
    if (length && (address & PAGE_MASK) + length > PAGE_SIZE_BYTES)
        add_entries_of_page(ram, s, list, address + length - 1);
}

#define STACK_REACH 8u

unsigned x86_upcoming_entries(const struct guest_ram *ram, const struct vcpu_state *state,
                              struct x86_walk_step out[X86_UPCOMING_MAX])
{
    struct entry_list list = {.out = out};
    struct decoded d;
    if (!(state->cr0 & CR0_PG))
        return 0;
    decode_at(ram, state, state->rip, &d);
    add_entries(ram, state, &list, linear_of(state, SEG_CS, state->rip), d.valid ? d.insn.length : 1);
    if (!d.valid)
        return list.count;
    uint64_t next_rip = state->rip + d.insn.length;
    for (unsigned i = 0; i < d.insn.operand_count; i++) {
        const ZydisDecodedOperand *o = &d.operand[i];
        if (o->type != ZYDIS_OPERAND_TYPE_MEMORY || o->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
            continue;
        gva_t address = operand_address(state, &d, o, next_rip);
        if (o->mem.segment == ZYDIS_REGISTER_SS && o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
            add_entries(ram, state, &list, address - STACK_REACH, 2 * STACK_REACH);
        else
            add_entries(ram, state, &list, address, o->size / 8);
    }
    return list.count;
}
