#include "core/x86/stub.h"

#include <errno.h>
#include <string.h>

#include "core/x86/allow_list.h"
#include "core/x86/code_arena.h"

/*
 * Layout of a stub:
 *
 *     push callee-saved registers that are used
 *     mov eax, edx; add al, 0x78; sahf      status flags (ADD sets OF)
 *     mov state, rdi; mov memory, rsi       only where RDI/RSI are the guest's
 *     mov reg, [state + gpr]...             from here on nothing touches flags
 *     movups/vmovups reg, [state + ymm]...
 *     stmxcsr [state + host_scratch]; ldmxcsr [state + mxcsr]
 *     THE INSTRUCTION
 *     stmxcsr [state + mxcsr]; ldmxcsr [state + host_scratch]
 *     stores; vzeroupper
 *     seto al; lahf
 *     pop...; ret
 */
#define STUB_MAX_BYTES 512u

struct emitter {
    uint8_t code[STUB_MAX_BYTES];
    size_t length;
    bool overflow;
};

/* What the instruction uses, as bit masks of guest register numbers. */
struct usage {
    uint32_t gpr, gpr_written;
    uint32_t vector, vector_written;
    bool vex_vector; /* whole YMM registers */
    bool flags, mxcsr, memory, high_byte;
};

/* Host registers chosen for the stub. */
struct mapping {
    unsigned state, memory, stack_pointer; /* stack_pointer: stands for the guest's RSP */
};

#define NO_REGISTER 16u
#define CALLEE_SAVED                                                                                         \
    ((1u << GPR_RBX) | (1u << GPR_RBP) | (1u << GPR_R12) | (1u << GPR_R13) | (1u << GPR_R14) |               \
     (1u << GPR_R15))

static void emit(struct emitter *m, const uint8_t *bytes, size_t n)
{
    if (n > STUB_MAX_BYTES - m->length) {
        m->overflow = true;
        return;
    }
    memcpy(m->code + m->length, bytes, n);
    m->length += n;
}

static void emit_u8(struct emitter *m, unsigned byte)
{
    emit(m, &(uint8_t){(uint8_t)byte}, 1);
}

#define EMIT(m, ...) emit((m), (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

/* ModRM with [base + disp32]; base is never RSP or R12. */
static void emit_modrm_disp32(struct emitter *m, unsigned reg, unsigned base, size_t disp)
{
    uint32_t d = (uint32_t)disp;
    EMIT(m, (uint8_t)(0x80 | (reg & 7) << 3 | (base & 7)), (uint8_t)d, (uint8_t)(d >> 8), (uint8_t)(d >> 16),
         (uint8_t)(d >> 24));
}

static void emit_gpr_move(struct emitter *m, bool store, unsigned reg, unsigned base, size_t disp)
{
    EMIT(m, (uint8_t)(0x48 | (reg >> 3) << 2 | (base >> 3)), store ? 0x89 : 0x8b);
    emit_modrm_disp32(m, reg, base, disp);
}

/* MOVUPS, or VMOVUPS ymm. */
static void emit_vector_move(struct emitter *m, bool store, bool ymm, unsigned reg, unsigned base,
                             size_t disp)
{
    unsigned opcode = store ? 0x11 : 0x10;
    if (ymm) {
        EMIT(m, 0xc4, (uint8_t)((reg >> 3 ? 0 : 0x80) | 0x40 | (base >> 3 ? 0 : 0x20) | 1), 0x7c,
             (uint8_t)opcode);
    } else {
        unsigned rex = 0x40 | (reg >> 3) << 2 | base >> 3;
        if (rex != 0x40)
            emit_u8(m, rex);
        EMIT(m, 0x0f, (uint8_t)opcode);
    }
    emit_modrm_disp32(m, reg, base, disp);
}

/* LDMXCSR is 0F AE /2, STMXCSR /3. */
static void emit_mxcsr(struct emitter *m, bool store, unsigned base, size_t disp)
{
    if (base >> 3)
        emit_u8(m, 0x41);
    EMIT(m, 0x0f, 0xae);
    emit_modrm_disp32(m, store ? 3 : 2, base, disp);
}

static void emit_register_copy(struct emitter *m, unsigned to, unsigned from)
{
    if (to != from)
        EMIT(m, (uint8_t)(0x48 | (from >> 3) << 2 | to >> 3), 0x89,
             (uint8_t)(0xc0 | (from & 7) << 3 | (to & 7)));
}

static void emit_push_pop(struct emitter *m, unsigned opcode, unsigned reg)
{
    if (reg >> 3)
        emit_u8(m, 0x41);
    emit_u8(m, opcode | (reg & 7));
}

/* The register of the same width as like, with another number. like is not a high-byte register. */
static ZydisRegister gpr_like(ZydisRegister like, unsigned number)
{
    static const ZydisRegister low_bytes[16] = {
        ZYDIS_REGISTER_AL,   ZYDIS_REGISTER_CL,   ZYDIS_REGISTER_DL,   ZYDIS_REGISTER_BL,
        ZYDIS_REGISTER_SPL,  ZYDIS_REGISTER_BPL,  ZYDIS_REGISTER_SIL,  ZYDIS_REGISTER_DIL,
        ZYDIS_REGISTER_R8B,  ZYDIS_REGISTER_R9B,  ZYDIS_REGISTER_R10B, ZYDIS_REGISTER_R11B,
        ZYDIS_REGISTER_R12B, ZYDIS_REGISTER_R13B, ZYDIS_REGISTER_R14B, ZYDIS_REGISTER_R15B};
    switch (ZydisRegisterGetClass(like)) {
    case ZYDIS_REGCLASS_GPR8:
        return low_bytes[number];
    case ZYDIS_REGCLASS_GPR16:
        return (ZydisRegister)(ZYDIS_REGISTER_AX + number);
    case ZYDIS_REGCLASS_GPR32:
        return (ZydisRegister)(ZYDIS_REGISTER_EAX + number);
    default:
        return (ZydisRegister)(ZYDIS_REGISTER_RAX + number);
    }
}

static struct usage find_usage(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands)
{
    struct usage u = {0};
    const ZydisAccessedFlags *f = insn->cpu_flags;
    if (f)
        u.flags = ((f->tested | f->modified | f->set_0 | f->set_1 | f->undefined) & RFLAGS_STATUS) != 0;
    for (unsigned i = 0; i < insn->operand_count; i++) {
        const ZydisDecodedOperand *o = &operands[i];
        bool written = (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            u.memory = true;
        } else if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && is_gpr(o->reg.value)) {
            uint32_t bit = 1u << gpr_number(o->reg.value);
            u.gpr |= bit;
            u.gpr_written |= written ? bit : 0;
            u.high_byte |= o->reg.value >= ZYDIS_REGISTER_AH && o->reg.value <= ZYDIS_REGISTER_BH;
        } else if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
            ZydisRegisterClass class = ZydisRegisterGetClass(o->reg.value);
            if (class == ZYDIS_REGCLASS_XMM || class == ZYDIS_REGCLASS_YMM) {
                uint32_t bit = 1u << ZydisRegisterGetId(o->reg.value);
                u.vector |= bit;
                u.vector_written |= written ? bit : 0;
            }
        }
    }
    u.vex_vector = u.vector && insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    u.mxcsr = allow_list_uses_mxcsr(insn);
    return u;
}

/* First register of the list that is not taken; takes it. NO_REGISTER if there is none. */
static unsigned pick(const uint8_t *list, size_t n, uint32_t *taken)
{
    for (size_t i = 0; i < n; i++) {
        if (!(*taken & 1u << list[i])) {
            *taken |= 1u << list[i];
            return list[i];
        }
    }
    return NO_REGISTER;
}

static bool choose_mapping(const struct usage *u, struct mapping *map)
{
    /* Memory bases and RSP's stand-in need no REX prefix: the instruction may name AH..BH. */
    static const uint8_t stand_ins[] = {GPR_RCX, GPR_RDX, GPR_RAX, GPR_RBX, GPR_RBP, GPR_RSI};
    static const uint8_t bases[] = {GPR_RSI, GPR_RCX, GPR_RDX, GPR_RAX, GPR_RBX, GPR_RBP};
    static const uint8_t states[] = {GPR_RDI, GPR_R11, GPR_R10, GPR_R9, GPR_R8, GPR_R15, GPR_R14, GPR_R13};
    uint32_t taken = u->gpr | 1u << GPR_RSP;
    *map = (struct mapping){NO_REGISTER, NO_REGISTER, NO_REGISTER};
    if (u->gpr & 1u << GPR_RSP) {
        map->stack_pointer = pick(stand_ins, sizeof stand_ins, &taken);
        if (map->stack_pointer == NO_REGISTER)
            return false;
    }
    if (u->memory) {
        map->memory = pick(bases, sizeof bases, &taken);
        if (map->memory == NO_REGISTER)
            return false;
    }
    map->state = pick(states, sizeof states, &taken);
    return map->state != NO_REGISTER;
}

static unsigned host_register(const struct mapping *map, unsigned guest)
{
    return guest == GPR_RSP ? map->stack_pointer : guest;
}

static ZydisRegister renamed(const struct mapping *map, ZydisRegister reg)
{
    return is_gpr(reg) && gpr_number(reg) == GPR_RSP ? gpr_like(reg, map->stack_pointer) : reg;
}

/* Decodes the bytes that will run and compares them with what was asked for: nothing else may ever run. */
static bool verify(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands,
                   const struct mapping *map, const uint8_t *code, size_t length)
{
    ZydisDecoder decoder;
    ZydisDecodedInstruction i;
    ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code, length, &i, o)) || i.length != length ||
        i.mnemonic != insn->mnemonic || i.operand_count_visible != insn->operand_count_visible ||
        !allow_list_may_execute(&i, o))
        return false;
    for (unsigned k = 0; k < i.operand_count; k++) {
        bool visible = k < i.operand_count_visible;
        if (o[k].type == ZYDIS_OPERAND_TYPE_REGISTER) {
            if (is_gpr(o[k].reg.value) && gpr_number(o[k].reg.value) == GPR_RSP)
                return false;
            if (visible &&
                (operands[k].type != o[k].type || o[k].reg.value != renamed(map, operands[k].reg.value)))
                return false;
        } else if (o[k].type == ZYDIS_OPERAND_TYPE_MEMORY) {
            if (!visible || operands[k].type != o[k].type || o[k].size != operands[k].size ||
                o[k].mem.base != (ZydisRegister)(ZYDIS_REGISTER_RAX + map->memory) ||
                o[k].mem.index != ZYDIS_REGISTER_NONE || o[k].mem.disp.value != 0 ||
                o[k].mem.segment == ZYDIS_REGISTER_FS || o[k].mem.segment == ZYDIS_REGISTER_GS)
                return false;
        } else if (!visible || operands[k].type != o[k].type || operands[k].imm.value.u != o[k].imm.value.u) {
            return false;
        }
    }
    return true;
}

/* The instruction with RSP renamed and the memory operand as [memory]; returns its length, 0 on failure. */
static size_t encode(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands,
                     const struct mapping *map, uint8_t out[ZYDIS_MAX_INSTRUCTION_LENGTH])
{
    ZydisEncoderRequest r;
    if (!ZYAN_SUCCESS(
            ZydisEncoderDecodedInstructionToEncoderRequest(insn, operands, insn->operand_count_visible, &r)))
        return 0;
    r.machine_mode = ZYDIS_MACHINE_MODE_LONG_64;
    r.address_size_hint = ZYDIS_ADDRESS_SIZE_HINT_NONE;
    /* The guest has one vCPU and its operand is private to it while it runs: LOCK would only cost time. */
    r.prefixes = 0;
    for (unsigned i = 0; i < r.operand_count; i++) {
        ZydisEncoderOperand *o = &r.operands[i];
        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
            o->reg.value = renamed(map, o->reg.value);
        } else if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            o->mem.base = (ZydisRegister)(ZYDIS_REGISTER_RAX + map->memory);
            o->mem.index = ZYDIS_REGISTER_NONE;
            o->mem.scale = 0;
            o->mem.displacement = 0;
        }
    }
    ZyanUSize length = ZYDIS_MAX_INSTRUCTION_LENGTH;
    if (ZYAN_SUCCESS(ZydisEncoderEncodeInstruction(&r, out, &length)))
        return length;
    r.operand_size_hint = ZYDIS_OPERAND_SIZE_HINT_NONE;
    length = ZYDIS_MAX_INSTRUCTION_LENGTH;
    return ZYAN_SUCCESS(ZydisEncoderEncodeInstruction(&r, out, &length)) ? length : 0;
}

static void emit_prologue(struct emitter *m, const struct usage *u, const struct mapping *map, uint32_t saved)
{
    for (unsigned r = 0; r < GPR_COUNT; r++)
        if (saved & 1u << r)
            emit_push_pop(m, 0x50, r);
    if (u->flags)
        EMIT(m, 0x89, 0xd0, 0x04, 0x78, 0x9e); /* mov eax, edx; add al, 0x78; sahf */
    emit_register_copy(m, map->state, GPR_RDI);
    if (u->memory)
        emit_register_copy(m, map->memory, GPR_RSI);
    for (unsigned r = 0; r < GPR_COUNT; r++)
        if (u->gpr & 1u << r)
            emit_gpr_move(m, false, host_register(map, r), map->state, offsetof(struct emu, cpu.gpr) + 8 * r);
    for (unsigned r = 0; r < 16; r++)
        if (u->vector & 1u << r)
            emit_vector_move(m, false, u->vex_vector, r, map->state,
                             offsetof(struct emu, cpu.fpu.ymm) + 32 * r);
    if (u->mxcsr) {
        emit_mxcsr(m, true, map->state, offsetof(struct emu, host_scratch) + 8 * SCRATCH_HOST_MXCSR);
        emit_mxcsr(m, false, map->state, offsetof(struct emu, cpu.fpu.mxcsr));
    }
}

static void emit_epilogue(struct emitter *m, const struct usage *u, const struct mapping *map, uint32_t saved)
{
    if (u->mxcsr) {
        emit_mxcsr(m, true, map->state, offsetof(struct emu, cpu.fpu.mxcsr));
        emit_mxcsr(m, false, map->state, offsetof(struct emu, host_scratch) + 8 * SCRATCH_HOST_MXCSR);
    }
    for (unsigned r = 0; r < GPR_COUNT; r++)
        if (u->gpr_written & 1u << r)
            emit_gpr_move(m, true, host_register(map, r), map->state, offsetof(struct emu, cpu.gpr) + 8 * r);
    for (unsigned r = 0; r < 16; r++)
        if (u->vector_written & 1u << r)
            emit_vector_move(m, true, u->vex_vector, r, map->state,
                             offsetof(struct emu, cpu.fpu.ymm) + 32 * r);
    if (u->vex_vector)
        EMIT(m, 0xc5, 0xf8, 0x77); /* vzeroupper */
    if (u->flags)
        EMIT(m, 0x0f, 0x90, 0xc0, 0x9f); /* seto al; lahf */
    for (unsigned r = GPR_COUNT; r-- > 0;)
        if (saved & 1u << r)
            emit_push_pop(m, 0x58, r);
    emit_u8(m, 0xc3);
}

int stub_generate(struct code_arena *arena, const ZydisDecodedInstruction *insn,
                  const ZydisDecodedOperand *operands, const uint8_t *bytes, const void **stub)
{
    if (!allow_list_may_execute(insn, operands))
        return -ENOTSUP;
    struct usage u = find_usage(insn, operands);
    struct mapping map;
    if (!choose_mapping(&u, &map))
        return -ENOTSUP;

    uint8_t code[ZYDIS_MAX_INSTRUCTION_LENGTH];
    size_t length = insn->length;
    bool as_it_is =
        insn->machine_mode == ZYDIS_MACHINE_MODE_LONG_64 && !u.memory && map.stack_pointer == NO_REGISTER;
    if (as_it_is)
        memcpy(code, bytes, length);
    /* A prefix without a meaning for the guest may have one for the host: F3 in front of BSR. */
    if (!as_it_is || !verify(insn, operands, &map, code, length)) {
        length = encode(insn, operands, &map, code);
        if (length == 0 || !verify(insn, operands, &map, code, length))
            return -ENOTSUP;
    }

    uint32_t used = u.gpr & ~(1u << GPR_RSP);
    used |= 1u << map.state;
    used |= map.memory == NO_REGISTER ? 0 : 1u << map.memory;
    used |= map.stack_pointer == NO_REGISTER ? 0 : 1u << map.stack_pointer;
    struct emitter m = {.length = 0};
    emit_prologue(&m, &u, &map, used & CALLEE_SAVED);
    emit(&m, code, length);
    emit_epilogue(&m, &u, &map, used & CALLEE_SAVED);
    if (m.overflow)
        return -ENOTSUP;
    *stub = code_arena_put(arena, m.code, m.length);
    return *stub ? 0 : -ENOSPC;
}
