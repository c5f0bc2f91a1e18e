/* DIV and IDIV: the instruction itself where it cannot fault, which is seen beforehand; else the handler of stage 1 divides. */
#include "core/x86/jit/translation.h"

/* The divisor: a register, or memory (of the guest, or of the frame). */
struct divisor {
    bool in_memory;
    unsigned reg;
    struct mem mem;
};

static void put_with_divisor(struct emitter *m, unsigned form, unsigned opcode, unsigned reg,
                             const struct divisor *by)
{
    if (by->in_memory)
        put_rm(m, form, opcode, reg, by->mem);
    else
        put_rr(m, form, opcode, reg, by->reg);
}

static unsigned form_of(unsigned size)
{
    return size == 8 ? FORM_W : size == 2 ? FORM_66 : size == 1 ? FORM_BYTE : 0;
}

/* The quotient fits if the dividend's upper half is less than the divisor. */
static void put_check_unsigned(struct translation_state *t, struct slow *s, unsigned size,
                               const struct divisor *by)
{
    struct emitter *m = &t->m;
    unsigned high = GPR_RDX;
    if (size == 1) {
        high = SCRATCH_B;
        put_rr(m, 0, 0x89, GPR_RAX, high);
        put_rr(m, 0, 0xc1, 5, high); /* shr r11d, 8: AH */
        put8(m, 8);
    }
    put_with_divisor(m, form_of(size), size == 1 ? 0x3a : 0x3b, high, by); /* cmp high, divisor */
    slow_jump(t, s, COND_AE);
}

/* The quotient fits if the dividend is the sign extension of its lower half, and the divisor neither 0 nor -1. */
static void put_check_signed(struct translation_state *t, struct slow *s, unsigned size,
                             const struct divisor *by)
{
    struct emitter *m = &t->m;
    unsigned form = form_of(size);
    if (size == 1) {
        put_rr(m, FORM_BYTE, 0x0fbe, SCRATCH_B, GPR_RAX); /* movsx r11d, al */
        put_rr(m, FORM_66, 0x3b, SCRATCH_B, GPR_RAX);     /* cmp r11w, ax */
    } else {
        put_rr(m, form, 0x89, GPR_RAX, SCRATCH_B);
        put_rr(m, form, 0xc1, 7, SCRATCH_B); /* sar r11, all but one */
        put8(m, size * 8 - 1);
        put_rr(m, form, 0x3b, SCRATCH_B, GPR_RDX);
    }
    slow_jump(t, s, COND_NE);
    unsigned wide = size == 8 ? FORM_W : 0;
    unsigned load = size == 1 ? 0x0fbe : size == 2 ? 0x0fbf : 0x8b;
    put_with_divisor(m, wide | (size == 1 ? FORM_BYTE : 0), load, SCRATCH_B, by);
    put_rr(m, wide, 0xff, 0, SCRATCH_B); /* inc */
    put_rr(m, wide, 0x83, 7, SCRATCH_B); /* cmp r11, 1 */
    put8(m, 1);
    slow_jump(t, s, COND_BE);
}

void translate_divide(struct translation_state *t, const struct insn *insn)
{
    const struct plan *p = insn->plan;
    struct divisor by = {.in_memory = insn->memory};
    flags_protect(t);
    struct slow *s = slow_begin(t, insn);
    if (insn->memory) {
        put_operand(t, s, insn, p->mem_bytes, ACCESS_READ, &by.mem);
    } else if (in_frame(p->reg[0])) {
        by = (struct divisor){.in_memory = true, .mem = frame_gpr(p->reg[0])};
    } else {
        by.reg = host_gpr(p->reg[0]);
    }
    if (p->mnemonic == ZYDIS_MNEMONIC_DIV)
        put_check_unsigned(t, s, p->op_size, &by);
    else
        put_check_signed(t, s, p->op_size, &by);
    flags_before(t, insn);
    put_native(t, insn, insn->memory ? &by.mem : NULL);
    flags_after(t, insn);
    slow_end(t, s, true);
}
