/*
 * x87 and MMX. A translation that uses them (KEY_X87: no exception can come of it) has the guest's x87 state in the host's
 * registers from its entry on, and executes the instructions themselves. What the host cannot know are the guest's addresses:
 * FIP, FDP, FOP and the selectors are stored into cpu.fpu as exec_x87.c does, but those that the next instruction overwrites only
 * where somebody can look at them.
 */
#include "core/x86/jit/translation.h"

void put_ensure_x87(struct translation_state *t)
{
    struct emitter *m = &t->m;
    put_rm(m, 0, 0x80, 7, mem_absolute(&t->e->x87_live)); /* cmp byte [live], 0 */
    put8(m, 0);
    uint8_t *skip = put_jump(m, COND_NE);
    put_call_to(m, t->j->load_x87);
    if (!m->full)
        patch_rel32(skip, m->at);
}

/* Copies a selector; MOV with 16-bit immediates is slow to decode, so words go through R11. */
static void put_selector(struct translation_state *t, unsigned seg, const uint16_t *to)
{
    put_rm(&t->m, 0, 0x0fb7, SCRATCH_B, mem_absolute(&t->e->cpu.seg[seg].selector)); /* movzx r11d */
    put_rm(&t->m, FORM_66, 0x89, SCRATCH_B, mem_absolute(to));
}

void put_x87_pointers(struct translation_state *t, const struct x87_pointers *pointers)
{
    const struct fpu_state *f = &t->e->cpu.fpu;
    struct emitter *m = &t->m;
    if (!pointers->last)
        return;
    put_constant(m, SCRATCH_B, pointers->last->rip);
    put_store(m, SCRATCH_B, mem_absolute(&f->fip));
    put_constant(m, SCRATCH_B, pointers->last->plan->extra & EXEC_FOP_MASK);
    put_rm(m, FORM_66, 0x89, SCRATCH_B, mem_absolute(&f->fop));
    put_selector(t, SEG_CS, &f->fcs);
    if (pointers->last_memory)
        put_selector(t, pointers->last_memory->plan->seg, &f->fds);
}

void x87_settle_pointers(struct translation_state *t)
{
    put_x87_pointers(t, &t->x87);
    t->x87 = (struct x87_pointers){NULL, NULL};
}

void x87_after(struct translation_state *t, const struct insn *insn)
{
    const struct plan *p = insn->plan;
    if (!(p->flags & EXEC_X87) || (p->extra & EXEC_X87_CONTROL))
        return;
    t->x87.last = insn;
    if (!insn->memory)
        return;
    t->x87.last_memory = insn;
    put_address(t, insn);
    put_store(&t->m, SCRATCH_A, mem_absolute(&t->e->cpu.fpu.fdp));
}

/* Natively where all exceptions stay masked. */
void translate_fldcw(struct translation_state *t, const struct insn *insn)
{
    struct emitter *m = &t->m;
    struct mem operand;
    flags_protect(t);
    struct slow *s = slow_begin(t, insn);
    put_operand(t, s, insn, 2, ACCESS_READ, &operand);
    put_rm(m, 0, 0x0fb7, SCRATCH_B, operand); /* movzx r11d, word */
    put_rr(m, 0, 0xf7, 2, SCRATCH_B);         /* not r11d */
    put_rr(m, FORM_BYTE, 0xf6, 0, SCRATCH_B); /* test r11b, 0x3f */
    put8(m, 0x3f);
    slow_jump(t, s, COND_NE);
    flags_before(t, insn);
    put_rm(m, 0, 0xd9, 5, operand); /* fldcw */
    flags_after(t, insn);
    slow_end(t, s, true);
}
