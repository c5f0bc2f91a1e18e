/* Memory operands: the inline TLB lookup, and the way to stage 1 where it does not answer. */
#include "core/x86/jit/translation.h"

bool constant_address(const struct insn *insn, uint64_t *linear)
{
    const struct plan *p = insn->plan;
    if (p->index != PLAN_NO_REG || p->seg >= SEG_FS)
        return false;
    if (p->base == PLAN_REG_RIP)
        *linear = insn->rip + p->length + (uint64_t)p->disp;
    else if (p->base == PLAN_NO_REG)
        *linear = (uint64_t)p->disp;
    else
        return false;
    *linear = truncate_to(*linear, p->addr_size);
    return true;
}

/* ---- out of line ---- */

struct slow *slow_begin(struct translation_state *t, const struct insn *insn)
{
    struct slow *s = &t->slow[t->slow_count++];
    *s = (struct slow){.index = (unsigned)(insn - t->insn),
                       .key = (uint8_t)t->key,
                       .before = t->flags,
                       .x87 = t->x87,
                       .dirty_before = t->vector_dirty};
    s->before.host = false;
    return s;
}

void slow_end(struct translation_state *t, struct slow *s, bool resume)
{
    s->after = t->flags;
    s->loaded_after = t->vector_loaded;
    s->resume = resume ? t->m.at : NULL;
    if (s->jumps && resume && !s->group)
        t->held = NO_GROUP; /* it may come from there without it */
}

void slow_jump(struct translation_state *t, struct slow *s, enum condition condition)
{
    if (s->jumps == SLOW_JUMPS) {
        t->failed = true;
        return;
    }
    s->jump[s->jumps++] = put_jump(&t->m, condition);
}

static bool any_group(const struct translation_state *t)
{
    for (unsigned i = 0; i < t->group_count; i++)
        if (t->groups[i].open)
            return true;
    return false;
}

void put_call_step(struct translation_state *t, const struct insn *insn, const struct slow *slow)
{
    struct emitter *m = &t->m;
    struct site_use *use = &t->sites[t->site_count++];
    unsigned index = (unsigned)(insn - t->insn);
    bool last = insn->kind >= KIND_JUMP;
    use->site = (struct jit_site){.plan = insn->plan,
                                  .rip = insn->rip,
                                  .back = (int32_t)(t->count - index),
                                  .last = last,
                                  .memory = slow != NULL};
    use->site.code = t->code;
    use->site.key = slow ? slow->key : (uint8_t)t->key;
    use->site.shadow = in_sti_shadow(t, insn);
    use->site.groups = any_group(t);
    use->site.group_failed = slow && slow->group;
    use->site.string = insn->z.meta.category == ZYDIS_CATEGORY_STRINGOP;
    put_prefixes(m, FORM_W, SCRATCH_B, NO_REG, NO_REG); /* lea r11, [rip + site] */
    put8(m, 0x8d);
    put8(m, (SCRATCH_B & 7) << 3 | 5);
    use->field = m->at;
    put32(m, 0);
    put_call_to(m, t->j->call_step);
}

static void put_slow_part(struct translation_state *t, const struct slow *s)
{
    struct emitter *m = &t->m;
    for (unsigned i = 0; i < s->jumps && !m->full; i++)
        patch_rel32(s->jump[i], m->at);
    if (!s->before.saved && s->before.remat != REMAT_NONE) {
        put_remat(t, &s->before);
        put_save_flags(m);
    }
    vector_store(t, s->dirty_before);
    put_x87_pointers(t, &s->x87);
    put_call_step(t, &t->insn[s->index], s);
    if (!s->resume || s->group)
        return;
    if (t->mxcsr)
        put_ensure_mxcsr(t);
    if (t->uses_x87)
        put_ensure_x87(t);
    vector_reload(t, s->loaded_after);
    if (s->after.host)
        put_restore_flags(m);
    put_jump_to(m, JUMP_ALWAYS, s->resume);
}

void put_slow_parts(struct translation_state *t)
{
    for (unsigned i = 0; i < t->slow_count; i++)
        if (t->slow[i].jumps)
            put_slow_part(t, &t->slow[i]);
}

/* ---- addresses ---- */

void put_address(struct translation_state *t, const struct insn *insn)
{
    const struct plan *p = insn->plan;
    struct emitter *m = &t->m;
    struct mem mem = {NO_REG, NO_REG, 0, (int32_t)p->disp};
    if (p->base < GPR_COUNT) {
        mem.base = (uint8_t)host_gpr(p->base);
        if (in_frame(p->base)) {
            put_load(m, SCRATCH_A, frame_gpr(p->base));
            mem.base = SCRATCH_A;
        }
    }
    if (p->index < GPR_COUNT) {
        mem.index = (uint8_t)host_gpr(p->index);
        mem.scale = p->scale == 8 ? 3 : p->scale == 4 ? 2 : p->scale == 2 ? 1 : 0;
        if (in_frame(p->index)) {
            put_load(m, SCRATCH_B, frame_gpr(p->index));
            mem.index = SCRATCH_B;
        }
    }
    if (p->base == PLAN_REG_RIP)
        put_constant(m, SCRATCH_A, insn->rip + p->length + (uint64_t)p->disp);
    else if (mem.base == NO_REG && mem.index == NO_REG)
        put_constant(m, SCRATCH_A, (uint64_t)p->disp);
    else if (mem.index == NO_REG && mem.disp == 0 && mem.base != SCRATCH_A)
        put_move(m, SCRATCH_A, mem.base);
    else if (mem.index != NO_REG || mem.disp != 0)
        put_lea(m, SCRATCH_A, mem);
    if (p->addr_size == 4)
        put_rr(m, 0, 0x89, SCRATCH_A, SCRATCH_A);
}

/* FS and GS: the offset has to be canonical on its own, too. */
static void put_segment_base(struct translation_state *t, struct slow *s, const struct plan *p)
{
    struct emitter *m = &t->m;
    if (p->seg < SEG_FS)
        return;
    if ((p->base < GPR_COUNT || p->index < GPR_COUNT) && p->addr_size == 8) {
        put_move(m, SCRATCH_B, SCRATCH_A);
        put_rr(m, FORM_W, 0xc1, 4, SCRATCH_B); /* shl r11, 16 */
        put8(m, 16);
        put_rr(m, FORM_W, 0xc1, 7, SCRATCH_B); /* sar r11, 16 */
        put8(m, 16);
        put_rr(m, FORM_W, 0x39, SCRATCH_A, SCRATCH_B);
        slow_jump(t, s, COND_NE);
    }
    put_rm(m, FORM_W, 0x03, SCRATCH_A, mem_absolute(&t->e->cpu.seg[p->seg].base));
}

static size_t tag_offset(enum access access)
{
    return access == ACCESS_READ ? offsetof(struct tlb_entry, read) : offsetof(struct tlb_entry, write);
}

/* R10: linear address; becomes the host address. */
void put_lookup(struct translation_state *t, struct slow *s, unsigned bytes, enum access access)
{
    struct emitter *m = &t->m;
    int32_t table = (int32_t)(uintptr_t)t->tlb;
    /* rorx r11, r10, 7: the page number, times the size of an entry */
    const uint8_t rorx[] = {0xc4, 0x43, 0xfb, 0xf0, 0xda, PAGE_SHIFT - 5};
    _Static_assert(sizeof(struct tlb_entry) == 32, "entries are addressed by a shift");
    put_bytes(m, rorx, sizeof rorx);
    put_rr(m, 0, 0x81, 4, SCRATCH_B); /* and r11d, mask */
    put32(m, (TLB_ENTRIES - 1) << 5);
    /* A tag of the same page leaves the offset in the page. */
    put_rm(m, FORM_W, 0x33, SCRATCH_A, mem_at(SCRATCH_B, table + (int32_t)tag_offset(access)));
    put_rr(m, FORM_W, 0x81, 7, SCRATCH_A); /* cmp r10, room */
    put32(m, (uint32_t)(PAGE_SIZE_BYTES - bytes));
    slow_jump(t, s, COND_A);
    put_rm(m, FORM_W, 0x03, SCRATCH_A, mem_at(SCRATCH_B, table + (int32_t)offsetof(struct tlb_entry, host)));
}

/* A known address: so is its slot in the TLB. */
static void put_constant_operand(struct translation_state *t, struct slow *s, uint64_t linear,
                                 enum access access, struct mem *operand)
{
    struct emitter *m = &t->m;
    const struct tlb_entry *entry = &t->tlb[(linear >> PAGE_SHIFT) & (TLB_ENTRIES - 1)];
    uint64_t page = linear & ~PAGE_MASK;
    struct mem tag = mem_absolute((const uint8_t *)entry + tag_offset(access));
    if ((int64_t)page == (int32_t)page) {
        put_rm(m, FORM_W, 0x81, 7, tag);
        put32(m, (uint32_t)page);
    } else {
        put_constant(m, SCRATCH_A, page);
        put_rm(m, FORM_W, 0x39, SCRATCH_A, tag);
    }
    slow_jump(t, s, COND_NE);
    put_load(m, SCRATCH_A, mem_absolute(&entry->host));
    *operand = mem_at(SCRATCH_A, (int32_t)(linear & PAGE_MASK));
}

/* Pages are aligned alike in guest and host. */
static void put_alignment_check(struct translation_state *t, struct slow *s, unsigned bytes,
                                struct mem operand)
{
    put_lea(&t->m, SCRATCH_B, operand);
    put_rr(&t->m, FORM_BYTE, 0xf6, 0, SCRATCH_B); /* test r11b, bytes - 1 */
    put8(&t->m, bytes - 1);
    slow_jump(t, s, COND_NE);
}

void put_operand(struct translation_state *t, struct slow *s, const struct insn *insn, unsigned bytes,
                 enum access access, struct mem *operand)
{
    const struct plan *p = insn->plan;
    uint64_t linear;
    if (put_group_operand(t, s, insn, operand)) {
        if (insn->aligned)
            put_alignment_check(t, s, bytes, *operand);
        return;
    }
    *operand = mem_at(SCRATCH_A, 0);
    if (constant_address(insn, &linear)) {
        put_constant_operand(t, s, linear, access, operand);
        if (insn->aligned && (linear & (bytes - 1)))
            slow_jump(t, s, JUMP_ALWAYS);
        return;
    }
    put_address(t, insn);
    put_segment_base(t, s, p);
    put_lookup(t, s, bytes, access);
    if (insn->aligned)
        put_alignment_check(t, s, bytes, *operand);
}

void put_stack(struct translation_state *t, struct slow *s, const struct insn *insn, unsigned guest,
               int32_t disp, enum access access, struct mem *operand)
{
    if (put_group_operand(t, s, insn, operand))
        return;
    *operand = mem_at(SCRATCH_A, 0);
    if (disp)
        put_lea(&t->m, SCRATCH_A, mem_at(host_gpr(guest), disp));
    else
        put_move(&t->m, SCRATCH_A, host_gpr(guest));
    put_lookup(t, s, 8, access);
}
