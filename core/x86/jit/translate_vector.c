/*
 * Vector registers and MXCSR. A block loads a guest's vector register into the host's of the same number when it first needs
 * it, and stores those it has written where it is left.
 */
#include "core/x86/jit/translation.h"

/* MOVUPS, or VMOVUPS of 256 bits in blocks that have VEX instructions. */
static void put_vector_move(struct translation_state *t, bool store, unsigned reg)
{
    struct emitter *m = &t->m;
    struct mem mem = mem_absolute(t->e->cpu.fpu.ymm[reg]);
    unsigned opcode = store ? 0x11 : 0x10;
    if (!t->wide) {
        put_rm(m, 0, 0x0f00 | opcode, reg, mem);
        return;
    }
    put8(m, 0xc5);
    put8(m, (reg & 8 ? 0 : 0x80) | 0x7c);
    put8(m, opcode);
    put_modrm_mem(m, reg, mem);
}

void vector_load(struct translation_state *t, const struct insn *insn)
{
    bool whole = insn->whole && (!t->wide || insn->wide);
    for (unsigned r = 0; r < 16; r++) {
        uint16_t bit = (uint16_t)(1u << r);
        if (!(insn->vector_used & bit) || (t->vector_loaded & bit) || (whole && (insn->vector_written & bit)))
            continue;
        put_vector_move(t, false, r);
        t->vector_loaded |= bit;
    }
}

void vector_store(struct translation_state *t, uint16_t which)
{
    for (unsigned r = 0; r < 16; r++)
        if (which & 1u << r)
            put_vector_move(t, true, r);
}

void vector_reload(struct translation_state *t, uint16_t which)
{
    for (unsigned r = 0; r < 16; r++)
        if (which & 1u << r)
            put_vector_move(t, false, r);
}

void put_ensure_mxcsr(struct translation_state *t)
{
    struct emitter *m = &t->m;
    put_rm(m, 0, 0x83, 7, FRAME(mxcsr_loaded)); /* cmp dword [loaded], 0 */
    put8(m, 0);
    uint8_t *skip = put_jump(m, COND_NE);
    put_rm(m, 0, 0x0fae, 3, FRAME(mxcsr));                       /* stmxcsr */
    put_rm(m, 0, 0x0fae, 2, mem_absolute(&t->e->cpu.fpu.mxcsr)); /* ldmxcsr */
    put_rm(m, 0, 0xc7, 0, FRAME(mxcsr_loaded));
    put32(m, 1);
    if (!m->full)
        patch_rel32(skip, m->at);
}

/* Registers that are loaded become shorter in the host; the others in cpu.fpu. */
void translate_vzeroupper(struct translation_state *t)
{
    static const uint8_t vzeroupper[] = {0xc5, 0xf8, 0x77};
    struct emitter *m = &t->m;
    uint16_t others = (uint16_t)~t->vector_loaded;
    put_bytes(m, vzeroupper, sizeof vzeroupper);
    t->vector_dirty |= t->vector_loaded;
    if (!others)
        return;
    unsigned zero = (unsigned)__builtin_ctz(others);
    put_rr(m, 0, 0x0f57, zero, zero); /* xorps */
    for (unsigned r = 0; r < 16; r++)
        if (others & 1u << r)
            put_rm(m, 0, 0x0f11, zero, mem_absolute(t->e->cpu.fpu.ymm[r] + 16)); /* movups */
}
