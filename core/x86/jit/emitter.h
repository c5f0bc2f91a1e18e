/* Writes x86-64 machine code: bytes, and the few forms that translations are held together with. */
#ifndef DEJAVM_CORE_X86_JIT_EMITTER_H
#define DEJAVM_CORE_X86_JIT_EMITTER_H

#include <string.h>

#include "core/base/types.h"

struct emitter {
    uint8_t *at, *end;
    bool full; /* what did not fit was left out */
};

#define NO_REG 0xffu

/* [base + index << scale + disp]; base NO_REG: absolute, or index alone. An index is never register 4. */
struct mem {
    uint8_t base, index, scale;
    int32_t disp;
};

static inline struct mem mem_at(unsigned base, int32_t disp)
{
    return (struct mem){(uint8_t)base, NO_REG, 0, disp};
}

/* An object in low memory. */
static inline struct mem mem_absolute(const volatile void *object)
{
    return (struct mem){NO_REG, NO_REG, 0, (int32_t)(uintptr_t)object};
}

static inline void put8(struct emitter *m, unsigned byte)
{
    if (m->at < m->end)
        *m->at++ = (uint8_t)byte;
    else
        m->full = true;
}

static inline void put_bytes(struct emitter *m, const void *bytes, size_t n)
{
    if ((size_t)(m->end - m->at) < n) {
        m->full = true;
        return;
    }
    memcpy(m->at, bytes, n);
    m->at += n;
}

static inline void put32(struct emitter *m, uint32_t value)
{
    put_bytes(m, &value, 4);
}

static inline void put64(struct emitter *m, uint64_t value)
{
    put_bytes(m, &value, 8);
}

/* How an instruction is encoded, beside its opcode and operands. */
enum form {
    FORM_W = 1,    /* 64-bit operand: REX.W */
    FORM_66 = 2,   /* operand size prefix */
    FORM_BYTE = 4, /* the register operands have 8 bits: SPL..DIL need a REX prefix */
    FORM_F2 = 8,   /* REPNE prefix */
    FORM_F3 = 16,  /* REP prefix */
};

/* Opcodes of up to three bytes are written as one number: 0x89, 0x0fb6, 0x0f38f0. */
static inline void put_opcode(struct emitter *m, unsigned opcode)
{
    if (opcode > 0xffff)
        put8(m, opcode >> 16);
    if (opcode > 0xff)
        put8(m, opcode >> 8 & 0xff);
    put8(m, opcode & 0xff);
}

/* Legacy prefixes and REX; r, x, b: the numbers of the registers in ModRM.reg, SIB.index, and ModRM.rm or SIB.base. */
static inline void put_prefixes(struct emitter *m, unsigned form, unsigned r, unsigned x, unsigned b)
{
    unsigned rex = (form & FORM_W ? 8u : 0u) | (r != NO_REG && r & 8 ? 4u : 0u) |
                   (x != NO_REG && x & 8 ? 2u : 0u) | (b != NO_REG && b & 8 ? 1u : 0u);
    if (form & FORM_66)
        put8(m, 0x66);
    if (form & FORM_F2)
        put8(m, 0xf2);
    if (form & FORM_F3)
        put8(m, 0xf3);
    if (rex || form & FORM_BYTE)
        put8(m, 0x40 | rex);
}

static inline void put_modrm_mem(struct emitter *m, unsigned reg, struct mem mem)
{
    unsigned r = (reg & 7) << 3;
    unsigned index = mem.index == NO_REG ? 4 : mem.index & 7u;
    if (mem.base == NO_REG) {
        put8(m, r | 4);
        put8(m, (unsigned)mem.scale << 6 | index << 3 | 5);
        put32(m, (uint32_t)mem.disp);
        return;
    }
    unsigned base = mem.base & 7u, mod = 2;
    if (mem.disp == 0 && base != 5)
        mod = 0;
    else if (mem.disp >= -128 && mem.disp < 128)
        mod = 1;
    if (mem.index != NO_REG || base == 4) {
        put8(m, mod << 6 | r | 4);
        put8(m, (unsigned)mem.scale << 6 | index << 3 | base);
    } else {
        put8(m, mod << 6 | r | base);
    }
    if (mod == 1)
        put8(m, (uint8_t)mem.disp);
    else if (mod == 2)
        put32(m, (uint32_t)mem.disp);
}

/* opcode reg, [mem] */
static inline void put_rm(struct emitter *m, unsigned form, unsigned opcode, unsigned reg, struct mem mem)
{
    put_prefixes(m, form, reg, mem.index, mem.base);
    put_opcode(m, opcode);
    put_modrm_mem(m, reg, mem);
}

/* opcode with both operands registers: reg in ModRM.reg, rm in ModRM.rm. */
static inline void put_rr(struct emitter *m, unsigned form, unsigned opcode, unsigned reg, unsigned rm)
{
    put_prefixes(m, form, reg, NO_REG, rm);
    put_opcode(m, opcode);
    put8(m, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

static inline void put_load(struct emitter *m, unsigned reg, struct mem mem)
{
    put_rm(m, FORM_W, 0x8b, reg, mem);
}

static inline void put_store(struct emitter *m, unsigned reg, struct mem mem)
{
    put_rm(m, FORM_W, 0x89, reg, mem);
}

static inline void put_move(struct emitter *m, unsigned to, unsigned from)
{
    put_rr(m, FORM_W, 0x89, from, to);
}

static inline void put_lea(struct emitter *m, unsigned to, struct mem mem)
{
    put_rm(m, FORM_W, 0x8d, to, mem);
}

/* MOV reg, value in the shortest form; flags stay. */
static inline void put_constant(struct emitter *m, unsigned reg, uint64_t value)
{
    if (value <= UINT32_MAX) {
        put_prefixes(m, 0, NO_REG, NO_REG, reg);
        put8(m, 0xb8 | (reg & 7));
        put32(m, (uint32_t)value);
    } else if ((int64_t)value == (int32_t)value) {
        put_rr(m, FORM_W, 0xc7, 0, reg);
        put32(m, (uint32_t)value);
    } else {
        put_prefixes(m, FORM_W, NO_REG, NO_REG, reg);
        put8(m, 0xb8 | (reg & 7));
        put64(m, value);
    }
}

/* The 32-bit distance at field, from its end to target. */
static inline void patch_rel32(uint8_t *field, const uint8_t *target)
{
    int32_t distance = (int32_t)(target - (field + 4));
    memcpy(field, &distance, 4);
}

enum condition { COND_O, COND_NO, COND_B, COND_AE, COND_E, COND_NE, COND_BE, COND_A, COND_S, COND_NS };

#define JUMP_ALWAYS 16u

/* A jump whose 32-bit distance is filled in later by patch_rel32; returns where the distance goes. */
static inline uint8_t *put_jump(struct emitter *m, unsigned condition)
{
    if (condition == JUMP_ALWAYS) {
        put8(m, 0xe9);
    } else {
        put8(m, 0x0f);
        put8(m, 0x80 | condition);
    }
    uint8_t *field = m->at;
    put32(m, 0);
    return field;
}

static inline void put_jump_to(struct emitter *m, unsigned condition, const uint8_t *target)
{
    uint8_t *field = put_jump(m, condition);
    if (!m->full)
        patch_rel32(field, target);
}

/* A jump of 5 bytes over what is at at. */
static inline void put_jump_at(uint8_t *at, const uint8_t *target)
{
    at[0] = 0xe9;
    patch_rel32(at + 1, target);
}

static inline void put_call_to(struct emitter *m, const uint8_t *target)
{
    put8(m, 0xe8);
    uint8_t *field = m->at;
    put32(m, 0);
    if (!m->full)
        patch_rel32(field, target);
}

#endif
