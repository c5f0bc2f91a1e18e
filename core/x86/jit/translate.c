/* From a block of plans to host code: see internal.h for what the code looks like, translation.h for the parts. */
#include <stdlib.h>

#include "core/x86/code_arena.h"
#include "core/x86/jit/translation.h"

#define TRANSLATION_MAX ((size_t)32 << 10) /* bytes of host code */
#define CODE_ALIGN      16u

/* ---- what is known beforehand ---- */

/* Going backwards: whether anybody can see the flags that an instruction leaves. */
static void find_needed_flags(struct translation_state *t)
{
    bool needed = true;
    for (unsigned i = t->count; i-- > 0;) {
        struct insn *insn = &t->insn[i];
        insn->flags_needed = needed;
        if (insn->leaves || insn->reads_flags)
            needed = true;
        else if (insn->sets_all)
            needed = false;
    }
}

enum entry_flags {
    ENTRY_DEAD,  /* overwritten before anybody looks */
    ENTRY_FRAME, /* wanted in the frame */
    ENTRY_HOST   /* wanted in the host's register */
};

static enum entry_flags find_entry_flags(const struct translation_state *t)
{
    for (unsigned i = 0; i < t->first_count && i < JIT_DEAD_STEPS; i++) {
        const struct insn *insn = &t->insn[i];
        if (insn->leaves)
            return ENTRY_FRAME;
        if (insn->reads_flags || (insn->keeps_flags && insn->flags_needed))
            return ENTRY_HOST;
        if (insn->sets_all)
            return ENTRY_DEAD;
    }
    return ENTRY_FRAME;
}

/* Appends a block's instructions. */
static void classify_block(struct translation_state *t, const struct block *b, uint64_t rip)
{
    struct insn *insn = &t->insn[t->count];
    t->count += b->count;
    for (unsigned i = 0; i < b->count; i++, insn++) {
        insn->plan = &b->plan[i];
        insn->rip = rip;
        jit_classify(t, insn);
        rip += insn->plan->length;
    }
}

static void find_facts(struct translation_state *t)
{
    t->wide = t->mxcsr = t->uses_x87 = false;
    for (unsigned i = 0; i < t->count; i++) {
        t->wide |= t->insn[i].wide;
        t->mxcsr |= t->insn[i].mxcsr;
        t->uses_x87 |= t->insn[i].x87;
    }
    find_groups(t);
    find_needed_flags(t);
}

/* ---- one instruction ---- */

/* Host registers for the guest's that are in the frame, if the instruction names them; loads what is read. */
static void map_framed(struct translation_state *t, const struct insn *insn, uint8_t map[GPR_COUNT])
{
    unsigned free = insn->memory ? SCRATCH_B : SCRATCH_A;
    for (unsigned r = 0; r < GPR_COUNT; r++) {
        map[r] = (uint8_t)host_gpr(r);
        if (!in_frame(r) || !(insn->gpr_named & 1u << r))
            continue;
        map[r] = (uint8_t)free;
        if (insn->gpr_read & 1u << r)
            put_load(&t->m, free, frame_gpr(r));
        free = SCRATCH_B;
    }
}

static void store_framed(struct translation_state *t, const struct insn *insn, const uint8_t map[GPR_COUNT])
{
    for (unsigned r = 0; r < GPR_COUNT; r++)
        if (in_frame(r) && (insn->gpr_named & insn->gpr_written & 1u << r))
            put_store(&t->m, map[r], frame_gpr(r));
}

void put_native(struct translation_state *t, const struct insn *insn, const struct mem *operand)
{
    uint8_t map[GPR_COUNT], code[16];
    struct mem beside_high_byte = mem_at(GPR_RSI, 0);
    map_framed(t, insn, map);
    /* AH to BH exclude R8 to R15, and also SIL, so RSI is free to stand in for the operand's register. */
    if (insn->high_byte && operand) {
        put_store(&t->m, GPR_RSI, FRAME(temp[2]));
        put_lea(&t->m, GPR_RSI, *operand);
        operand = &beside_high_byte;
    }
    size_t length = jit_reencode(t, insn, map, operand, code);
    if (!length)
        t->failed = true;
    put_bytes(&t->m, code, length);
    if (operand == &beside_high_byte)
        put_load(&t->m, GPR_RSI, FRAME(temp[2]));
    store_framed(t, insn, map);
}

static void translate_native(struct translation_state *t, const struct insn *insn)
{
    vector_load(t, insn);
    if (!insn->memory) {
        flags_before(t, insn);
        put_native(t, insn, NULL);
        t->vector_loaded |= insn->vector_written;
        t->vector_dirty |= insn->vector_written;
        flags_after(t, insn);
        if (insn->x87)
            x87_after(t, insn);
        return;
    }
    struct mem operand;
    if (insn->leaves)
        flags_protect(t);
    struct slow *s = slow_begin(t, insn);
    enum access access = insn->plan->mem_access & PLAN_MEM_WRITE ? ACCESS_WRITE : ACCESS_READ;
    put_operand(t, s, insn, insn->plan->mem_bytes, access, &operand);
    flags_before(t, insn);
    put_native(t, insn, &operand);
    t->vector_loaded |= insn->vector_written;
    t->vector_dirty |= insn->vector_written;
    flags_after(t, insn);
    if (insn->x87)
        x87_after(t, insn);
    slow_end(t, s, true);
}

static bool plain_address(const struct plan *p)
{
    return p->base < GPR_COUNT && !in_frame(p->base) && (p->index == PLAN_NO_REG || !in_frame(p->index));
}

static struct mem host_address(const struct plan *p)
{
    struct mem mem = mem_at(host_gpr(p->base), (int32_t)p->disp);
    if (p->index != PLAN_NO_REG) {
        mem.index = (uint8_t)host_gpr(p->index);
        mem.scale = (uint8_t)__builtin_ctz(p->scale);
    }
    return mem;
}

static void translate_lea(struct translation_state *t, const struct insn *insn)
{
    const struct plan *p = insn->plan;
    struct emitter *m = &t->m;
    unsigned to = in_frame(p->reg[0]) ? SCRATCH_A : host_gpr(p->reg[0]);
    flags_before(t, insn);
    if (p->op_size == 2) {
        put_address(t, insn);
        if (in_frame(p->reg[0]))
            put_rm(m, FORM_66, 0x89, SCRATCH_A, frame_gpr(p->reg[0]));
        else
            put_rr(m, FORM_66, 0x89, SCRATCH_A, to);
        flags_after(t, insn);
        return;
    }
    if (p->base == PLAN_REG_RIP) {
        uint64_t linear = truncate_to(insn->rip + p->length + (uint64_t)p->disp, p->addr_size);
        put_constant(m, to, truncate_to(linear, p->op_size));
    } else if (p->addr_size == 8 && plain_address(p)) {
        put_rm(m, p->op_size == 8 ? FORM_W : 0, 0x8d, to, host_address(p));
    } else {
        put_address(t, insn);
        if (p->op_size == 4)
            put_rr(m, 0, 0x89, SCRATCH_A, to);
        else if (to != SCRATCH_A)
            put_move(m, to, SCRATCH_A);
    }
    if (in_frame(p->reg[0]))
        put_store(m, SCRATCH_A, frame_gpr(p->reg[0]));
    flags_after(t, insn);
}

/* The guest's register into host register to, all of it. */
static void put_get(struct translation_state *t, unsigned to, unsigned guest)
{
    if (in_frame(guest))
        put_load(&t->m, to, frame_gpr(guest));
    else
        put_move(&t->m, to, host_gpr(guest));
}

/* size bytes of host register from into the guest's, the way an instruction of that operand size does. */
static void put_set(struct translation_state *t, unsigned guest, unsigned from, unsigned size)
{
    unsigned form = size == 2 ? FORM_66 : size == 1 ? FORM_BYTE : size == 8 ? FORM_W : 0;
    unsigned store = size == 1 ? 0x88 : 0x89;
    if (!in_frame(guest)) {
        put_rr(&t->m, form, store, from, host_gpr(guest));
        return;
    }
    if (size == 4)
        put_rr(&t->m, 0, 0x89, from, from);
    put_rm(&t->m, size == 4 ? FORM_W : form, store, from, frame_gpr(guest));
}

static void translate_exchange(struct translation_state *t, const struct insn *insn)
{
    const struct plan *p = insn->plan;
    struct emitter *m = &t->m;
    unsigned size = p->op_size;
    unsigned form = size == 8 ? FORM_W : size == 2 ? FORM_66 : size == 1 ? FORM_BYTE : 0;
    unsigned load = size == 1 ? 0x8a : 0x8b, store = size == 1 ? 0x88 : 0x89;
    unsigned a = p->reg[0] & 15, b = p->reg[1] & 15;
    if (!insn->memory) {
        flags_before(t, insn);
        put_get(t, SCRATCH_A, a);
        put_get(t, SCRATCH_B, b);
        put_set(t, a, SCRATCH_B, size);
        put_set(t, b, SCRATCH_A, size);
        flags_after(t, insn);
        return;
    }
    struct mem operand;
    flags_protect(t);
    struct slow *s = slow_begin(t, insn);
    put_operand(t, s, insn, size, ACCESS_WRITE, &operand);
    flags_before(t, insn);
    put_rm(m, form, load, SCRATCH_B, operand);
    if (in_frame(a)) {
        put_store(m, SCRATCH_B, FRAME(temp[0]));
        put_get(t, SCRATCH_B, a);
        put_rm(m, form, store, SCRATCH_B, operand);
        put_load(m, SCRATCH_B, FRAME(temp[0]));
    } else {
        put_rm(m, form, store, host_gpr(a), operand);
    }
    put_set(t, a, SCRATCH_B, size);
    flags_after(t, insn);
    slow_end(t, s, true);
}

static void translate_handler(struct translation_state *t, const struct insn *insn)
{
    flags_to_frame(t);
    vector_store(t, t->vector_dirty);
    x87_settle_pointers(t);
    put_call_step(t, insn, NULL);
    t->vector_dirty = t->vector_loaded = 0;
    t->flags = (struct flags_state){.saved = true};
    if (t->mxcsr)
        put_ensure_mxcsr(t);
    if (t->uses_x87)
        put_ensure_x87(t);
}

static void translate_one(struct translation_state *t, const struct insn *insn)
{
    if (insn->inner && insn->kind >= KIND_JUMP) {
        translate_inner_branch(t, insn);
        return;
    }
    switch (insn->kind) {
    case KIND_NOTHING:
        break;
    case KIND_NATIVE:
        translate_native(t, insn);
        break;
    case KIND_LEA:
        translate_lea(t, insn);
        break;
    case KIND_EXCHANGE:
        translate_exchange(t, insn);
        break;
    case KIND_PUSH:
    case KIND_POP:
    case KIND_LEAVE:
        translate_stack(t, insn);
        break;
    case KIND_DIVIDE:
        translate_divide(t, insn);
        break;
    case KIND_BIT_TEST:
        translate_bit_test(t, insn);
        break;
    case KIND_FLDCW:
        translate_fldcw(t, insn);
        break;
    case KIND_VZEROUPPER:
        translate_vzeroupper(t);
        break;
    case KIND_SYSTEM:
        translate_system(t, insn);
        break;
    case KIND_HANDLER:
        translate_handler(t, insn);
        break;
    default:
        x87_settle_pointers(t);
        translate_branch(t, insn);
        break;
    }
}

/* ---- the whole ---- */

static void put_way_out(struct translation_state *t, enum link_kind kind, const uint8_t *exit)
{
    put_constant(&t->m, SCRATCH_B, (uintptr_t)t->code | kind);
    put_jump_to(&t->m, JUMP_ALWAYS, exit);
}

/* Where the entries lead when the translation is closed. */
static void put_closed(struct translation_state *t)
{
    t->code->closed_host = t->m.at;
    put_way_out(t, LINK_CLOSED, t->j->exit_host);
    t->code->closed_saved = t->m.at;
    put_way_out(t, LINK_CLOSED, t->j->exit_saved);
}

/* Both entries, and the count of steps. Returns the jump that is taken when there are not enough left. */
static uint8_t *put_entry(struct translation_state *t, enum entry_flags wanted)
{
    static const uint8_t long_nop[5] = {0x0f, 0x1f, 0x44, 0x00, 0x00};
    struct emitter *m = &t->m;
    t->code->entry_host = m->at;
    if (wanted == ENTRY_DEAD)
        put_bytes(m, long_nop, sizeof long_nop); /* room for the jump that closes it */
    else
        put_save_flags(m);
    t->code->entry_saved = m->at;
    put_rm(m, 0, 0x83, 5, FRAME(left)); /* sub dword [left], count */
    put8(m, t->count);
    uint8_t *limit = put_jump(m, COND_S);
    t->stale = NULL;
    if (t->several_pages) {
        put_load(m, SCRATCH_A, mem_absolute(&t->e->link_epoch[link_half(t->rip)]));
        put_rm(m, FORM_W, 0x3b, SCRATCH_A, mem_absolute(&t->code->epoch));
        t->stale = put_jump(m, COND_NE);
    }
    if (t->mxcsr)
        put_ensure_mxcsr(t);
    if (t->uses_x87)
        put_ensure_x87(t);
    t->flags = (struct flags_state){.saved = wanted != ENTRY_DEAD};
    return limit;
}

static void put_limit(struct translation_state *t, uint8_t *jump, enum entry_flags wanted)
{
    if (t->m.full)
        return;
    patch_rel32(jump, t->m.at);
    put_rm(&t->m, 0, 0x83, 0, FRAME(left)); /* add */
    put8(&t->m, t->count);
    /* Its first block alone may have room. */
    if (t->plain && t->plain->dead == t->code->dead)
        put_jump_to(&t->m, JUMP_ALWAYS, t->plain->entry_saved);
    else
        put_way_out(t, wanted == ENTRY_DEAD ? LINK_LIMIT_DEAD : LINK_LIMIT, t->j->exit_saved);
}

/* What was known of its pages may not hold any longer: step.c finds out. */
static void put_stale(struct translation_state *t)
{
    if (t->m.full || !t->stale)
        return;
    patch_rel32(t->stale, t->m.at);
    put_rm(&t->m, 0, 0x83, 0, FRAME(left)); /* add */
    put8(&t->m, t->count);
    put_way_out(t, t->code->dead ? LINK_STALE_DEAD : LINK_STALE, t->j->exit_saved);
}

static void put_sites(struct translation_state *t)
{
    struct emitter *m = &t->m;
    while ((uintptr_t)m->at % _Alignof(struct jit_site) && !m->full)
        put8(m, 0);
    for (unsigned i = 0; i < t->site_count && !m->full; i++) {
        const uint8_t *at = m->at;
        put_bytes(m, &t->sites[i].site, sizeof t->sites[i].site);
        if (!m->full)
            patch_rel32(t->sites[i].field, at);
    }
}

static void translate_body(struct translation_state *t)
{
    enum entry_flags wanted = find_entry_flags(t);
    t->code->dead = wanted == ENTRY_DEAD;
    put_closed(t);
    while ((uintptr_t)t->m.at % CODE_ALIGN && !t->m.full)
        put8(&t->m, 0xcc);
    uint8_t *limit = put_entry(t, wanted);
    const struct insn *last = &t->insn[t->count - 1];
    for (unsigned i = 0; i < t->count; i++) {
        bool keeps = keeps_held(&t->insn[i]);
        if (!keeps)
            t->held = NO_GROUP;
        translate_one(t, &t->insn[i]);
        if (!keeps)
            t->held = NO_GROUP;
    }
    if (last->kind < KIND_JUMP) {
        x87_settle_pointers(t);
        translate_fall_through(t, last->rip + last->plan->length);
    }
    put_limit(t, limit, wanted);
    put_stale(t);
    put_slow_parts(t);
    put_exit_stubs(t);
    put_sites(t);
}

static void begin(struct jit *j, uint64_t rip, unsigned key)
{
    struct translation_state *t = j->translation;
    t->j = j;
    t->e = j->e;
    t->rip = rip;
    t->key = key;
    t->count = 0;
    t->plain = NULL;
    t->part_count = 0;
    t->several_pages = false;
    t->tlb = j->e->tlb_sets[key & KEY_CONTEXT];
    t->slow_count = t->exit_count = t->site_count = 0;
    t->vector_loaded = t->vector_dirty = 0;
    t->x87 = (struct x87_pointers){NULL, NULL};
    t->failed = false;
}

/* Host code for the instructions that were classified. *full: there is no room for it. */
static struct jit_code *generate(struct jit *j, struct block *b, bool *full)
{
    struct translation_state *t = j->translation;
    size_t pool = j->pool_used;
    *full = false;
    t->slot = jit_key_slot(j, t->key);
    t->code = jit_pool_take(j, sizeof(*t->code));
    size_t used = (j->used + CODE_ALIGN - 1) & ~(size_t)(CODE_ALIGN - 1);
    *full = t->slot == KEY_SLOTS || !t->code || code_arena_size(j->arena) - used < TRANSLATION_MAX;
    if (*full)
        return NULL;
    t->m = (struct emitter){.at = j->writable + used, .end = j->writable + used + TRANSLATION_MAX};
    *t->code = (struct jit_code){.block = b,
                                 .host = b->host,
                                 .rip = t->rip,
                                 .key = (uint8_t)t->key,
                                 .slot = (uint8_t)t->slot,
                                 .steps = (uint16_t)t->count,
                                 .bytes = b->bytes};
    translate_body(t);
    if (t->m.full || t->failed) {
        *full = t->m.full && !t->failed && pool != 0;
        j->pool_used = pool;
        return NULL;
    }
    j->used = (size_t)(t->m.at - j->writable);
    j->profile.translations++;
    j->profile.guest_bytes += b->bytes;
    j->profile.host_bytes += j->used - used;
    return t->code;
}

struct jit_code *jit_translate(struct jit *j, struct block *b, uint64_t rip, unsigned key, bool *full)
{
    struct translation_state *t = j->translation;
    *full = false;
    begin(j, rip, key);
    t->ungrouped = b->ungrouped;
    classify_block(t, b, rip);
    t->first_count = t->count;
    find_facts(t);
    return generate(j, b, full);
}

/* ---- superblocks ---- */

/* Calls that were not returned from yet: where to. */
struct calls {
    unsigned depth;
    uint64_t to[SUPERBLOCK_PARTS];
};

/* Whether the block that ends with insn can go on at next without leaving the translation. */
static bool goes_on(struct insn *insn, uint64_t next, struct calls *calls)
{
    uint64_t end = insn->rip + insn->plan->length, target = end + insn->plan->imm;
    insn->next = next;
    switch (insn->kind) {
    case KIND_JUMP:
        insn->leaves = false;
        return next == target;
    case KIND_CONDITIONAL:
        return next == target || next == end;
    case KIND_CALL:
        calls->to[calls->depth++] = end;
        return next == target;
    case KIND_RETURN:
        return calls->depth > 0 && calls->to[--calls->depth] == next;
    case KIND_JUMP_INDIRECT:
    case KIND_CALL_INDIRECT:
        return false;
    default:
        return next == end;
    }
}

/* How many of the parts one translation can have: up to where the path cannot be followed, or was at its start again last. */
static unsigned classify_parts(struct translation_state *t, const struct jit_part *parts, unsigned count)
{
    unsigned used = 0, again = 0, counts[SUPERBLOCK_PARTS];
    struct calls calls = {.depth = 0};
    while (used < count && t->count + parts[used].block->count <= SUPERBLOCK_STEPS) {
        if (used && parts[used].rip == t->rip)
            again = used;
        classify_block(t, parts[used].block, parts[used].rip);
        counts[used++] = t->count;
        struct insn *last = &t->insn[t->count - 1];
        if (used == count || !goes_on(last, parts[used].rip, &calls))
            break;
    }
    if (again)
        used = again;
    t->count = counts[used - 1];
    t->first_count = counts[0];
    for (unsigned i = 0; i + 1 < used; i++)
        t->insn[counts[i] - 1].inner = true;
    struct insn *last = &t->insn[t->count - 1];
    last->leaves |= last->kind == KIND_JUMP;
    return used;
}

struct jit_code *jit_translate_superblock(struct jit *j, const struct jit_recording *r)
{
    struct translation_state *t = j->translation;
    bool full;
    begin(j, r->head->rip, r->head->key);
    t->plain = r->head;
    t->ungrouped = r->head->block->super_ungrouped;
    unsigned count = classify_parts(t, r->part, r->count);
    size_t pool = j->pool_used;
    struct jit_part *own = count > 1 ? jit_pool_take(j, count * sizeof(*own)) : NULL;
    if (!own)
        return NULL;
    memcpy(own, r->part, count * sizeof(*own));
    t->part = own;
    t->part_count = count;
    for (unsigned i = 1; i < count; i++)
        t->several_pages |= (own[i].rip ^ t->rip) >= PAGE_SIZE_BYTES;
    find_facts(t);
    struct jit_code *code = generate(j, r->head->block, &full);
    if (!code) {
        j->pool_used = pool;
        return NULL;
    }
    code->plain = r->head;
    code->part = own;
    code->part_count = (uint8_t)count;
    j->profile.superblocks++;
    return code;
}

struct translation_state *jit_translation_create(void)
{
    return malloc(sizeof(struct translation_state));
}

void jit_translation_destroy(struct translation_state *t)
{
    free(t);
}
