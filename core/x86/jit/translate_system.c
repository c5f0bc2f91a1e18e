/*
 * System instructions that kernels execute often. At CPL 0 they cannot fault but for their memory operands; what else they check is in
 * the translation's key or looked at here.
 *
 * RFLAGS but for the status flags is that of struct emu while translated code runs; each flag is addressed in its byte.
 */
#include "core/x86/jit/translation.h"
#include "core/x86/protect.h"

/* ---- which ---- */

static bool is_move_from_segment(const struct insn *insn)
{
    return insn->z.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && insn->z.opcode == 0x8c;
}

static bool is_move_from_control(const struct insn *insn)
{
    return insn->z.opcode_map == ZYDIS_OPCODE_MAP_0F && insn->z.opcode == 0x20;
}

/* MOV r, Sreg and MOV r64, CRn. */
static enum insn_kind classify_move(const struct translation_state *t, struct insn *insn)
{
    const struct plan *p = insn->plan;
    bool to_register = insn->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER;
    bool segment = is_move_from_segment(insn) && to_register && p->operand_bytes[0] >= 4;
    bool control = is_move_from_control(insn) && (t->key & KEY_CPL0) && p->reg[1] >= 2 && p->reg[1] <= 4;
    if ((!segment && !control) || in_frame(p->reg[0]))
        return KIND_HANDLER;
    insn->gpr_written = (uint16_t)(1u << p->reg[0]);
    return KIND_SYSTEM;
}

enum insn_kind jit_classify_system(const struct translation_state *t, struct insn *insn)
{
    bool cpl0 = t->key & KEY_CPL0;
    switch (insn->z.mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        return classify_move(t, insn);
    case ZYDIS_MNEMONIC_CLD:
        return KIND_SYSTEM;
    case ZYDIS_MNEMONIC_CLI:
    case ZYDIS_MNEMONIC_SWAPGS:
        return cpl0 ? KIND_SYSTEM : KIND_HANDLER;
    case ZYDIS_MNEMONIC_STAC:
    case ZYDIS_MNEMONIC_CLAC:
        insn->leaves = true;
        return cpl0 ? KIND_SYSTEM : KIND_HANDLER;
    case ZYDIS_MNEMONIC_STI:
        /* Its shadow ends in the same translation. */
        insn->leaves = true;
        return cpl0 && insn + 1 < t->insn + t->count ? KIND_SYSTEM : KIND_HANDLER;
    case ZYDIS_MNEMONIC_PUSHFQ:
        insn->leaves = insn->reads_flags = true;
        insn->gpr_written = 1u << GPR_RSP;
        return KIND_SYSTEM;
    default:
        return KIND_HANDLER;
    }
}

bool in_sti_shadow(const struct translation_state *t, const struct insn *insn)
{
    return insn > t->insn && insn[-1].kind == KIND_SYSTEM && insn[-1].z.mnemonic == ZYDIS_MNEMONIC_STI;
}

bool changes_context(const struct insn *insn)
{
    return insn->kind == KIND_SYSTEM &&
           (insn->z.mnemonic == ZYDIS_MNEMONIC_STAC || insn->z.mnemonic == ZYDIS_MNEMONIC_CLAC);
}

/* ---- flags that are not status flags ---- */

static struct mem rflags_byte(const struct translation_state *t, uint64_t flag)
{
    return mem_absolute((const uint8_t *)&t->e->cpu.rflags + (unsigned)__builtin_ctzll(flag) / 8);
}

static unsigned bit_in_byte(uint64_t flag)
{
    return 1u << ((unsigned)__builtin_ctzll(flag) % 8);
}

static void put_set_flag(struct translation_state *t, uint64_t flag)
{
    put_rm(&t->m, 0, 0x80, 1, rflags_byte(t, flag)); /* or */
    put8(&t->m, bit_in_byte(flag));
}

static void put_clear_flag(struct translation_state *t, uint64_t flag)
{
    put_rm(&t->m, 0, 0x80, 4, rflags_byte(t, flag)); /* and */
    put8(&t->m, ~bit_in_byte(flag) & 0xff);
}

/*
 * An STI that sets IF: the interrupt shadow lasts for the next instruction, which is part of the translation; jit_step knows, should
 * it be called for that. Nothing can come in between unless the run wants to know of the window.
 */
static void translate_sti(struct translation_state *t, const struct insn *insn)
{
    struct emitter *m = &t->m;
    struct slow *s = slow_begin(t, insn);
    put_rm(m, 0, 0xf6, 0, rflags_byte(t, RFLAGS_IF)); /* test */
    put8(m, bit_in_byte(RFLAGS_IF));
    slow_jump(t, s, COND_NE);
    put_rm(m, 0, 0x80, 7, mem_absolute(&t->e->want_window)); /* cmp */
    put8(m, 0);
    slow_jump(t, s, COND_NE);
    put_set_flag(t, RFLAGS_IF);
    slow_end(t, s, false);
}

/* PUSHF shows RF and VM as 0. */
static void translate_pushfq(struct translation_state *t, const struct insn *insn)
{
    struct emitter *m = &t->m;
    struct mem to;
    struct slow *s = slow_begin(t, insn);
    put_rm(m, 0, 0x8b, SCRATCH_B, mem_absolute(&t->e->cpu.rflags));
    put_rr(m, 0, 0x81, 4, SCRATCH_B); /* and */
    put32(m, (uint32_t) ~(RFLAGS_STATUS | RFLAGS_RF | RFLAGS_VM));
    /* jit_frame.flags: OF, and what LAHF says */
    _Static_assert(RFLAGS_OF == 1u << 11, "OF is shifted there");
    struct mem overflow = FRAME(flags), others = overflow;
    others.disp++;
    put_rm(m, 0, 0x0fb6, SCRATCH_A, overflow); /* movzx */
    put_rr(m, 0, 0xc1, 4, SCRATCH_A);          /* shl */
    put8(m, 11);
    put_rr(m, 0, 0x09, SCRATCH_A, SCRATCH_B); /* or */
    put_rm(m, 0, 0x0fb6, SCRATCH_A, others);
    put_rr(m, 0, 0x81, 4, SCRATCH_A);
    put32(m, (uint32_t)(RFLAGS_STATUS & 0xff));
    put_rr(m, 0, 0x09, SCRATCH_A, SCRATCH_B);
    put_store(m, SCRATCH_B, FRAME(temp[0]));
    put_stack(t, s, insn, GPR_RSP, -8, ACCESS_WRITE, &to);
    put_load(m, SCRATCH_B, FRAME(temp[0]));
    put_store(m, SCRATCH_B, to);
    put_lea(m, HOST_OF_SP, mem_at(HOST_OF_SP, -8));
    slow_end(t, s, true);
}

/* ---- STAC, CLAC: another part of the TLB, and so another key from here on ---- */

static void put_context(struct translation_state *t, enum tlb_context context)
{
    struct emitter *m = &t->m;
    const struct tlb_entry *tlb = t->e->tlb_sets[context];
    put_rm(m, FORM_W, 0xc7, 0, mem_absolute(&t->e->tlb)); /* mov */
    put32(m, (uint32_t)(uintptr_t)tlb);
    t->tlb = tlb;
    t->key = (t->key & ~(unsigned)KEY_CONTEXT) | context;
    t->slot = jit_key_slot(t->j, t->key);
    if (t->slot == KEY_SLOTS) {
        t->slot = 0;
        t->m.full = true;
    }
}

static void translate_stac(struct translation_state *t)
{
    put_set_flag(t, RFLAGS_AC);
    if ((t->key & KEY_CONTEXT) == TLB_KERNEL)
        put_context(t, TLB_KERNEL_AC);
}

/* Without SMAP the context is the same with AC and without. */
static void translate_clac(struct translation_state *t, const struct insn *insn)
{
    struct emitter *m = &t->m;
    if ((t->key & KEY_CONTEXT) == TLB_KERNEL)
        return;
    struct slow *s = slow_begin(t, insn);
    put_rm(m, 0, 0xf7, 0, mem_absolute(&t->e->cpu.cr4)); /* test */
    put32(m, (uint32_t)CR4_SMAP);
    slow_jump(t, s, COND_E);
    put_clear_flag(t, RFLAGS_AC);
    slow_end(t, s, false);
    put_context(t, TLB_KERNEL);
}

/* ---- moves ---- */

static void translate_swapgs(struct translation_state *t)
{
    struct emitter *m = &t->m;
    struct mem base = mem_absolute(&t->e->cpu.seg[SEG_GS].base),
               other = mem_absolute(&t->e->cpu.kernel_gs_base);
    put_load(m, SCRATCH_A, base);
    put_load(m, SCRATCH_B, other);
    put_store(m, SCRATCH_A, other);
    put_store(m, SCRATCH_B, base);
}

static void translate_move(struct translation_state *t, const struct insn *insn)
{
    const struct plan *p = insn->plan;
    const struct vcpu_state *s = &t->e->cpu;
    if (is_move_from_segment(insn)) {
        put_rm(&t->m, 0, 0x0fb7, host_gpr(p->reg[0]), mem_absolute(&s->seg[p->reg[1]].selector)); /* movzx */
        return;
    }
    const uint64_t *value = p->reg[1] == 2 ? &s->cr2 : p->reg[1] == 3 ? &s->cr3 : &s->cr4;
    put_load(&t->m, host_gpr(p->reg[0]), mem_absolute(value));
}

void translate_system(struct translation_state *t, const struct insn *insn)
{
    switch (insn->z.mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        flags_before(t, insn);
        translate_move(t, insn);
        break;
    case ZYDIS_MNEMONIC_SWAPGS:
        translate_swapgs(t);
        break;
    case ZYDIS_MNEMONIC_CLI:
        flags_protect(t);
        put_clear_flag(t, RFLAGS_IF);
        break;
    case ZYDIS_MNEMONIC_CLD:
        flags_protect(t);
        put_clear_flag(t, RFLAGS_DF);
        break;
    case ZYDIS_MNEMONIC_STI:
        flags_protect(t);
        translate_sti(t, insn);
        break;
    case ZYDIS_MNEMONIC_STAC:
        flags_protect(t);
        translate_stac(t);
        break;
    case ZYDIS_MNEMONIC_CLAC:
        flags_protect(t);
        translate_clac(t, insn);
        break;
    default:
        flags_to_frame(t);
        flags_protect(t);
        translate_pushfq(t, insn);
        break;
    }
    flags_after(t, insn);
}
