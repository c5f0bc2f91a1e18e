/* BT, BTS, BTR and BTC on a string of bits in memory: compute_ops.c says what they do. */
#include "core/x86/jit/translation.h"

/* The address of the element that holds the bit, in R10; clobbers R11 and flags. */
static void put_element_address(struct translation_state *t, const struct insn *insn)
{
    const struct plan *p = insn->plan;
    struct emitter *m = &t->m;
    unsigned size = p->mem_bytes, bit = host_gpr(p->reg[0]);
    put_address(t, insn);
    put_rr(m, FORM_W, size == 8 ? 0x8b : size == 4 ? 0x63 : 0x0fbf, SCRATCH_B, bit); /* sign-extended */
    put_rr(m, FORM_W, 0xc1, 7, SCRATCH_B);                                           /* sar r11, 3: bytes */
    put8(m, 3);
    put_rr(m, FORM_W, 0x83, 4, SCRATCH_B); /* and r11, -size: whole elements */
    put8(m, (uint8_t)-size);
    put_rr(m, FORM_W, 0x01, SCRATCH_B, SCRATCH_A); /* add r10, r11 */
    if (p->addr_size == 4)
        put_rr(m, 0, 0x89, SCRATCH_A, SCRATCH_A);
}

/* With both operands registers, which takes the bit offset modulo their size. */
static unsigned register_form(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_BTS:
        return 0x0fab;
    case ZYDIS_MNEMONIC_BTR:
        return 0x0fb3;
    case ZYDIS_MNEMONIC_BTC:
        return 0x0fbb;
    default:
        return 0x0fa3;
    }
}

void translate_bit_test(struct translation_state *t, const struct insn *insn)
{
    const struct plan *p = insn->plan;
    struct emitter *m = &t->m;
    unsigned form = p->mem_bytes == 8 ? FORM_W : p->mem_bytes == 2 ? FORM_66 : 0;
    bool write = p->mem_access & PLAN_MEM_WRITE;
    flags_protect(t);
    struct slow *s = slow_begin(t, insn);
    put_element_address(t, insn);
    put_lookup(t, s, p->mem_bytes, write ? ACCESS_WRITE : ACCESS_READ);
    flags_before(t, insn);
    put_rm(m, form, 0x8b, SCRATCH_B, mem_at(SCRATCH_A, 0));
    put_rr(m, form, register_form(insn->z.mnemonic), host_gpr(p->reg[0]), SCRATCH_B);
    if (write)
        put_rm(m, form, 0x89, SCRATCH_B, mem_at(SCRATCH_A, 0));
    flags_after(t, insn);
    slow_end(t, s, true);
}
