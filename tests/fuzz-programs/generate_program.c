/* Makes programs out of the single-instruction generator's instructions. */
#include <Zydis/Zydis.h>
#include <string.h>

#include "tests/fuzz-programs/maker.h"

/* The generator's first: four prefixes, 256 opcodes. Half of a program is made of them, as in real ones. */
#define ONE_BYTE_OPCODES 1024u

unsigned below(struct maker *m, unsigned n)
{
    return (unsigned)(isa_random(&m->r) % n);
}

bool one_in(struct maker *m, unsigned n)
{
    return below(m, n) == 0;
}

static bool has_room(const struct maker *m, unsigned items)
{
    return m->p->count + items + 8 < PROGRAM_MAX_ITEMS;
}

struct item *add(struct maker *m, const uint8_t *bytes, unsigned length)
{
    struct item *i = &m->p->items[m->p->count++];
    *i = (struct item){.length = (uint8_t)length};
    memcpy(i->bytes, bytes, length);
    return i;
}

void put(struct item *i, unsigned at, uint64_t value, unsigned bytes)
{
    memcpy(i->bytes + at, &value, bytes);
}

/* MOV reg, value */
struct item *add_set_register(struct maker *m, unsigned reg, uint64_t value)
{
    struct item *i;
    if (m->p->long_mode) {
        i = ADD(m, (uint8_t)(0x48 | (reg >> 3)), (uint8_t)(0xb8 | (reg & 7)), 0, 0, 0, 0, 0, 0, 0, 0);
        put(i, 2, value, 8);
    } else {
        i = ADD(m, (uint8_t)(0xb8 | (reg & 7)), 0, 0, 0, 0);
        put(i, 1, value, 4);
    }
    return i;
}

/* VMOVDQU ymm, [literal] */
static bool add_set_vector(struct maker *m, unsigned reg, const uint8_t *value)
{
    struct program *p = m->p;
    if (p->literal_count == PROGRAM_MAX_LITERALS)
        return false;
    uint32_t address = (uint32_t)PROGRAM_LITERALS + 32 * p->literal_count;
    memcpy(p->literals[p->literal_count++], value, 32);
    struct item *i =
        ADD(m, 0xc5, reg < 8 ? 0xfe : 0x7e, 0x6f, (uint8_t)((reg & 7) << 3 | 4), 0x25, 0, 0, 0, 0);
    put(i, 5, address, 4);
    return true;
}

/* ---- instructions of the generator ---- */

/*
 * What only programs of one instruction can have (jumps to where nothing is), what needs more than the flat segments and the
 * plain memory that programs have, and what the two sides' kernels answer differently.
 */
static bool is_category_left_out(ZydisInstructionCategory category)
{
    switch (category) {
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_COND_BR:
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_IO:
    case ZYDIS_CATEGORY_IOSTRINGOP:
    case ZYDIS_CATEGORY_RDWRFSGS:
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_SEGOP:
    case ZYDIS_CATEGORY_SMAP:
    case ZYDIS_CATEGORY_SYSCALL:
    case ZYDIS_CATEGORY_SYSRET:
    case ZYDIS_CATEGORY_SYSTEM:
    case ZYDIS_CATEGORY_UNCOND_BR:
    case ZYDIS_CATEGORY_XSAVE:
    case ZYDIS_CATEGORY_XSAVEOPT:
        return true;
    default:
        return false;
    }
}

/*
 * Where two CPUs may differ, and what is said about them elsewhere: which of several accesses faults first, what the x87
 * pointers in memory hold. And what depends on flags that are the kernel's.
 */
static bool is_left_out(ZydisMnemonic mnemonic)
{
    static const ZydisMnemonic list[] = {
        ZYDIS_MNEMONIC_CMPSB,  ZYDIS_MNEMONIC_CMPSW,    ZYDIS_MNEMONIC_CMPSD,   ZYDIS_MNEMONIC_CMPSQ,
        ZYDIS_MNEMONIC_FXSAVE, ZYDIS_MNEMONIC_FXSAVE64, ZYDIS_MNEMONIC_FXRSTOR, ZYDIS_MNEMONIC_FXRSTOR64,
        ZYDIS_MNEMONIC_FNSAVE, ZYDIS_MNEMONIC_FNSTENV,  ZYDIS_MNEMONIC_FLDENV,  ZYDIS_MNEMONIC_FRSTOR,
        ZYDIS_MNEMONIC_PUSHA,  ZYDIS_MNEMONIC_PUSHAD,   ZYDIS_MNEMONIC_POPA,    ZYDIS_MNEMONIC_POPAD,
        ZYDIS_MNEMONIC_POPF,   ZYDIS_MNEMONIC_POPFD,    ZYDIS_MNEMONIC_POPFQ,   ZYDIS_MNEMONIC_PUSHF,
        ZYDIS_MNEMONIC_PUSHFD, ZYDIS_MNEMONIC_PUSHFQ,   ZYDIS_MNEMONIC_CLI,     ZYDIS_MNEMONIC_STI,
        ZYDIS_MNEMONIC_CPUID,  ZYDIS_MNEMONIC_LAR,      ZYDIS_MNEMONIC_LSL,     ZYDIS_MNEMONIC_VERR,
        ZYDIS_MNEMONIC_VERW,   ZYDIS_MNEMONIC_XGETBV,   ZYDIS_MNEMONIC_RDPID,   ZYDIS_MNEMONIC_ARPL,
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (list[i] == mnemonic)
            return true;
    return false;
}

static bool is_flat(const struct vcpu_state *s, ZydisRegister segment)
{
    static const uint8_t number[] = {SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS};
    unsigned i = number[segment - ZYDIS_REGISTER_ES];
    bool long_mode = s->seg[SEG_CS].rights & SEGMENT_L;
    return i < SEG_FS && (long_mode || i == SEG_CS || i == SEG_SS || s->seg[i].selector == ISA_SEL_FLAT);
}

/* No segment registers as operands, memory in flat segments only, at addresses of more than 16 bits. */
static bool has_plain_operands(const struct isa_case *c, const ZydisDecodedInstruction *insn,
                               const ZydisDecodedOperand *operands)
{
    for (unsigned i = 0; i < insn->operand_count; i++) {
        const ZydisDecodedOperand *o = &operands[i];
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY &&
            (insn->address_width == 16 || !is_flat(&c->in, o->mem.segment)))
            return false;
        ZydisRegisterClass class = o->type == ZYDIS_OPERAND_TYPE_REGISTER
                                       ? ZydisRegisterGetClass(o->reg.value)
                                       : ZYDIS_REGCLASS_INVALID;
        if (class == ZYDIS_REGCLASS_SEGMENT || class == ZYDIS_REGCLASS_CONTROL ||
            class == ZYDIS_REGCLASS_DEBUG)
            return false;
    }
    return true;
}

static int gpr_index(ZydisRegister reg)
{
    ZydisRegister full = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
    return ZydisRegisterGetClass(full) == ZYDIS_REGCLASS_GPR64 ? ZydisRegisterGetId(full) : -1;
}

static bool is_mmx_or_x87(const ZydisDecodedInstruction *insn)
{
    return insn->meta.isa_ext == ZYDIS_ISA_EXT_X87;
}

/* The registers that the instruction needs as the generator has set them, as a mask. */
static uint32_t registers_to_set(struct maker *m, const ZydisDecodedInstruction *insn,
                                 const ZydisDecodedOperand *operands)
{
    uint32_t mask = 0;
    for (unsigned i = 0; i < insn->operand_count; i++) {
        const ZydisDecodedOperand *o = &operands[i];
        bool hidden = o->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT;
        if (o->type != ZYDIS_OPERAND_TYPE_MEMORY || o->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
            continue;
        int base = gpr_index(o->mem.base), index = gpr_index(o->mem.index);
        if (base >= 0 && !(hidden && base == GPR_RSP && !one_in(m, 8)))
            mask |= 1u << base;
        if (index >= 0)
            mask |= 1u << index;
        if (insn->meta.category == ZYDIS_CATEGORY_STRINGOP)
            mask |= 1u << GPR_RCX;
    }
    if (insn->mnemonic == ZYDIS_MNEMONIC_ENTER || insn->mnemonic == ZYDIS_MNEMONIC_LEAVE)
        mask |= 1u << GPR_RBP | 1u << GPR_RSP;
    if (insn->mnemonic == ZYDIS_MNEMONIC_DIV || insn->mnemonic == ZYDIS_MNEMONIC_IDIV)
        mask |= 1u << GPR_RAX | 1u << GPR_RDX;
    bool division = insn->mnemonic == ZYDIS_MNEMONIC_DIV || insn->mnemonic == ZYDIS_MNEMONIC_IDIV;
    bool bit_test = insn->mnemonic == ZYDIS_MNEMONIC_BT || insn->mnemonic == ZYDIS_MNEMONIC_BTS ||
                    insn->mnemonic == ZYDIS_MNEMONIC_BTR || insn->mnemonic == ZYDIS_MNEMONIC_BTC;
    for (unsigned i = 0; (division || bit_test) && i < insn->operand_count_visible; i++)
        if (operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER && gpr_index(operands[i].reg.value) >= 0)
            mask |= 1u << gpr_index(operands[i].reg.value);
    return mask;
}

static bool writes_stack_pointer(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands)
{
    for (unsigned i = 0; i < insn->operand_count_visible; i++)
        if (operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            (operands[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) &&
            gpr_index(operands[i].reg.value) == GPR_RSP)
            return true;
    return false;
}

/* Sets the index vector of a gather and then the other registers. False: cannot be done. */
static bool set_registers(struct maker *m, const struct isa_case *c, const ZydisDecodedInstruction *insn,
                          const ZydisDecodedOperand *operands)
{
    for (unsigned i = 0; i < insn->operand_count_visible; i++) {
        if (operands[i].type != ZYDIS_OPERAND_TYPE_MEMORY || operands[i].mem.type != ZYDIS_MEMOP_TYPE_VSIB)
            continue;
        unsigned reg = (unsigned)ZydisRegisterGetId(operands[i].mem.index);
        if (!add_set_vector(m, reg, c->in.fpu.ymm[reg]))
            return false;
    }
    uint32_t mask = registers_to_set(m, insn, operands);
    for (unsigned i = 0; i < GPR_COUNT; i++)
        if (mask & 1u << i)
            add_set_register(m, i, c->in.gpr[i]);
    return true;
}

/* #UD with a register operand, but KVM may emulate what raised #UD, and takes all of 0F 0D for NOPs. */
static bool is_nop_to_kvm(const ZydisDecodedInstruction *insn)
{
    return insn->opcode_map == ZYDIS_OPCODE_MAP_0F && insn->opcode == 0x0d;
}

static bool is_wanted(struct maker *m, const struct isa_case *c, const ZydisDecodedInstruction *insn,
                      const ZydisDecodedOperand *operands)
{
    if (is_left_out(insn->mnemonic) || is_category_left_out(insn->meta.category) || c->branch ||
        (insn->attributes & ZYDIS_ATTRIB_IS_PRIVILEGED) || !has_plain_operands(c, insn, operands) ||
        (is_mmx_or_x87(insn) && one_in(m, 2)))
        return false;
    if (m->p->for_kvm && (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX || is_nop_to_kvm(insn)))
        return false;
    return !writes_stack_pointer(insn, operands) || one_in(m, 8);
}

/* An instruction of the generator, with what it needs before it. */
void add_generated(struct maker *m)
{
    struct isa_case c;
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    for (;;) {
        bool good =
            one_in(m, 2)
                ? isa_generate_opcode(&m->r, m->forms, below(m, ONE_BYTE_OPCODES), &m->base, &c)
                : isa_generate(&m->r, m->forms, below(m, m->forms->count), PLACE_RANDOM, &m->base, &c);
        if (!good)
            continue;
        if (!c.valid && !one_in(m, 8))
            continue;
        if (!c.valid ||
            !ZYAN_SUCCESS(ZydisDecoderDecodeFull(&m->decoder, c.bytes, c.length, &insn, operands))) {
            if (m->p->for_kvm)
                continue;
            add(m, c.bytes, c.length < ITEM_BYTES ? c.length : ITEM_BYTES)->tested = true;
            return;
        }
        if (is_wanted(m, &c, &insn, operands) && set_registers(m, &c, &insn, operands))
            break;
    }
    struct item *i = add(m, c.bytes, c.length);
    i->tested = true;
    for (unsigned k = 0; k < insn.operand_count_visible; k++) {
        if (operands[k].type == ZYDIS_OPERAND_TYPE_MEMORY && operands[k].mem.type != ZYDIS_MEMOP_TYPE_AGEN &&
            (operands[k].mem.base == ZYDIS_REGISTER_RIP || operands[k].mem.base == ZYDIS_REGISTER_EIP)) {
            int32_t disp;
            memcpy(&disp, c.bytes + insn.raw.disp.offset, 4);
            i->kind = ITEM_RIP;
            i->field = insn.raw.disp.offset;
            i->field_bytes = 4;
            i->address = c.in.rip + insn.length + (uint64_t)(int64_t)disp;
        }
    }
}

/* ---- what only programs have ---- */

/* Mostly a few times; some often enough for the code to be translated, and for what runs often to be translated once more. */
static unsigned iterations(struct maker *m)
{
    if (!one_in(m, 6))
        return 2 + below(m, 6);
    return m->depth ? 10 + below(m, 20) : one_in(m, 5) ? 150 + below(m, 300) : 20 + below(m, 60);
}

/* The end of a loop comes when left instructions have been made. */
static void open_loop(struct maker *m)
{
    struct open_loop *l = &m->loop[m->depth];
    unsigned n = iterations(m);
    l->in_rcx = m->depth == 0 && one_in(m, 3);
    l->by_loop = l->in_rcx && one_in(m, 2);
    l->iterations = n * (m->depth ? m->loop[0].iterations : 1);
    l->left = 1 + below(m, 8);
    l->counter = LOOP_COUNTERS + 8 * (uint64_t)(4 * m->depth + below(m, 4));
    if (l->in_rcx) {
        add_set_register(m, GPR_RCX, n);
    } else {
        struct item *i = ADD(m, 0xc7, 0x04, 0x25, 0, 0, 0, 0, 0, 0, 0, 0); /* mov dword [counter], n */
        put(i, 3, l->counter, 4);
        put(i, 7, n, 4);
    }
    l->head = m->p->count;
    m->depth++;
}

static void close_loop(struct maker *m)
{
    struct item *i;
    const struct open_loop *l = &m->loop[--m->depth];
    if (!l->in_rcx) {
        i = ADD(m, 0x83, 0x2c, 0x25, 0, 0, 0, 0, 1); /* sub dword [counter], 1 */
        put(i, 3, l->counter, 4);
    } else if (!l->by_loop) {
        ADD(m, 0xff, 0xc9); /* dec ecx */
    }
    if (l->by_loop) {
        i = ADD(m, (uint8_t)(one_in(m, 3) ? 0xe0 + below(m, 2) : 0xe2), 0);
        i->field = i->field_bytes = 1;
    } else {
        i = ADD(m, 0x0f, 0x85, 0, 0, 0, 0);
        i->field = 2;
        i->field_bytes = 4;
    }
    i->kind = ITEM_BRANCH;
    i->target = (uint16_t)l->head;
    i->tested = true;
}

/* Forward, over some of the instructions that follow; program_generate cuts targets beyond the end. */
static void add_branch(struct maker *m)
{
    struct item *i;
    switch (below(m, 6)) {
    case 0:
        i = ADD(m, 0xe9, 0, 0, 0, 0);
        i->field = 1;
        i->field_bytes = 4;
        break;
    case 1:
        i = ADD(m, (uint8_t)(0x70 | below(m, 16)), 0);
        i->field = i->field_bytes = 1;
        break;
    case 2:
        i = ADD(m, 0xe3, 0); /* JRCXZ */
        i->field = i->field_bytes = 1;
        break;
    default:
        i = ADD(m, 0x0f, (uint8_t)(0x80 | below(m, 16)), 0, 0, 0, 0);
        i->field = 2;
        i->field_bytes = 4;
        break;
    }
    i->kind = ITEM_BRANCH;
    i->target = (uint16_t)(m->p->count + below(m, 8));
    i->tested = true;
}

/* Through a register, to some instruction that follows. */
static void add_indirect(struct maker *m)
{
    static const uint8_t registers[] = {GPR_RAX, GPR_RDX, GPR_RBX, GPR_RBP, GPR_RSI};
    unsigned reg = registers[below(m, sizeof registers)];
    struct item *i = add_set_register(m, reg, 0);
    i->kind = ITEM_ADDRESS;
    i->field = m->p->long_mode ? 2 : 1;
    i->field_bytes = m->p->long_mode ? 8 : 4;
    i->target = (uint16_t)(m->p->count + 1 + below(m, 6));
    ADD(m, 0xff, (uint8_t)((one_in(m, 2) ? 0xd0 : 0xe0) | reg))->tested = true;
}

/* To the subroutine behind the program's end: the target is set when it is there. */
static void add_call(struct maker *m)
{
    struct item *i = ADD(m, 0xe8, 0, 0, 0, 0);
    i->kind = ITEM_BRANCH;
    i->field = 1;
    i->field_bytes = 4;
    i->target = UINT16_MAX;
    i->tested = true;
}

/* Four bytes of code: INC, DEC, NEG, NOT, ADD or XOR of a register, and filling. */
static uint32_t slot_code(struct maker *m)
{
    unsigned reg = below(m, 4), other = below(m, 4);
    switch (below(m, 5)) {
    case 0:
        return 0x9090c0ffu | (reg << 8); /* inc reg */
    case 1:
        return 0x9090d8f7u | (reg << 8); /* neg reg */
    case 2:
        return 0x9001c083u | (reg << 8); /* add reg, 1 */
    case 3:
        return 0x90c00366u | (reg * 8 + other) << 16; /* add reg16, other16 */
    default:
        return 0x9090c031u | (reg * 8 + other) << 8; /* xor */
    }
}

/* Each patch makes the emulator decode the page's code anew. */
bool may_patch(struct maker *m)
{
    return !m->depth || m->loop[m->depth - 1].iterations < 50 || one_in(m, 16);
}

/* A store into code that comes at once, a little later, or that came before (and comes again in a loop). */
static void add_patch(struct maker *m)
{
    unsigned distance = one_in(m, 2) ? 0 : 1 + below(m, 3);
    unsigned bytes = one_in(m, 3) ? 1 : 4;
    bool backwards = one_in(m, 4) && m->depth && m->loop[m->depth - 1].left > 1;
    uint32_t code = slot_code(m), patch = slot_code(m);
    if (bytes == 1) {
        code = 0x9001c083u; /* the immediate of ADD EAX, 1 */
        patch = below(m, 100);
    }
    unsigned slot = m->p->count;
    if (backwards) {
        add(m, (const uint8_t *)&code, 4)->tested = true;
        for (unsigned i = 0; i < distance; i++)
            add_generated(m);
    }
    unsigned store = m->p->count;
    struct item *i;
    if (bytes == 4) {
        i = ADD(m, 0xc7, 0x04, 0x25, 0, 0, 0, 0, 0, 0, 0, 0); /* mov dword [slot], patch */
        put(i, 7, patch, 4);
    } else {
        i = ADD(m, 0xc6, 0x04, 0x25, 0, 0, 0, 0, 0); /* mov byte [slot + 2], patch */
        put(i, 7, patch, 1);
        i->address = 2;
    }
    i->kind = ITEM_ADDRESS;
    i->field = 3;
    i->field_bytes = 4;
    i->needs_target = true;
    i->tested = true;
    if (!backwards) {
        for (unsigned k = 0; k < distance; k++)
            add_generated(m);
        slot = m->p->count;
        add(m, (const uint8_t *)&code, 4)->tested = true;
    }
    m->p->items[store].target = (uint16_t)slot;
}

/* Instructions that only fault at CPL 3, or always. */
static void add_fault(struct maker *m)
{
    static const uint8_t faults[][3] = {
        {0x0f, 0x0b, 0x90}, /* ud2 */
        {0xcc, 0x90, 0x90}, /* int3 */
        {0xf4, 0x90, 0x90}, /* hlt */
        {0xfa, 0x90, 0x90}, /* cli */
        {0x0f, 0x20, 0xc0}, /* mov rax, cr0 */
        {0x0f, 0x06, 0x90}, /* clts */
        {0x31, 0xc9, 0x90}, /* xor ecx, ecx; nop; div ecx */
    };
    unsigned k = below(m, sizeof faults / sizeof *faults);
    add(m, faults[k], 3)->tested = true;
    if (faults[k][0] == 0x31)
        ADD(m, 0xf7, 0xf1);
}

static void add_one(struct maker *m)
{
    unsigned kind = below(m, 100), depth = m->depth;
    if (kind < 8 && depth < LOOP_DEPTH)
        open_loop(m);
    else if (kind < 16)
        add_branch(m);
    else if (kind < 20)
        add_call(m);
    else if (kind < 22)
        add_indirect(m);
    else if (kind < 26 && may_patch(m))
        add_patch(m);
    else if (kind < 27)
        add_fault(m);
    else if (kind < 50)
        add_idiom(m);
    else
        add_generated(m);
    m->tested++;
    if (depth && m->depth == depth && --m->loop[depth - 1].left == 0)
        close_loop(m);
}

static void add_subroutine(struct maker *m)
{
    unsigned start = m->p->count;
    for (unsigned n = below(m, 4); n > 0 && has_room(m, 16); n--)
        add_generated(m);
    ADD(m, 0xc3)->tested = true;
    for (unsigned i = 0; i < start; i++)
        if (m->p->items[i].target == UINT16_MAX)
            m->p->items[i].target = (uint16_t)start;
}

/* Registers at random, as some case of the generator has them; a stack. */
static void initial_state(struct maker *m)
{
    struct isa_case c;
    struct vcpu_state *in = &m->p->in;
    while (!isa_generate_opcode(&m->r, m->forms, below(m, ONE_BYTE_OPCODES), &m->base, &c))
        ;
    *in = c.in;
    memcpy(in->seg, m->base.seg, sizeof in->seg);
    in->rflags = m->base.rflags | (in->rflags & RFLAGS_STATUS);
    in->gpr[GPR_RSP] = ISA_DATA + 0x1800 + 8 * (uint64_t)below(m, 8);
    /* A pending x87 exception would end nearly every program at its first x87 instruction. */
    if (!one_in(m, 8)) {
        in->fpu.fsw &= 0x7f00;
        in->fpu.fcw |= 0x3f;
    }
    for (unsigned i = 0; m->p->for_kvm && i < 16; i++)
        memset(in->fpu.ymm[i] + 16, 0, 16);
}

void program_generate(struct program *p, const struct isa_forms *const forms[2], uint64_t seed)
{
    /* The generator counts its state up: programs of neighbouring seeds must not start a few counts apart. */
    struct maker m = {.r.s = seed, .p = p};
    m.r.s = isa_random(&m.r);
    *p = (struct program){.seed = seed};
    p->long_mode = !one_in(&m, 4);
    p->for_kvm = one_in(&m, 12); /* KVM takes as long as the rest for ten of them */
    m.forms = forms[p->long_mode];
    side_base_state(p->long_mode, &m.base);
    isa_init_decoder(&m.decoder, p->long_mode);
    initial_state(&m);
    /* Often so that the program lies on both pages. */
    p->start = ISA_CODE + (one_in(&m, 2) ? 64 + below(&m, 512) : 0x1000 - below(&m, 256));
    unsigned wanted = 5 + below(&m, 46);
    while (m.tested < wanted && has_room(&m, IDIOM_MAX_ITEMS + 8))
        add_one(&m);
    while (m.depth)
        close_loop(&m);
    unsigned end = p->count;
    ADD(&m, 0xcc);
    add_subroutine(&m);
    for (unsigned i = 0; i < p->count; i++) {
        struct item *item = &p->items[i];
        if (item->kind != ITEM_PLAIN && item->kind != ITEM_RIP && i < end && item->target > end &&
            item->bytes[0] != 0xe8)
            item->target = (uint16_t)end;
    }
    p->in.rip = p->start;
    program_layout(p);
}
