/* The stack, and the ends of blocks. */
#include "core/x86/jit/translation.h"

/* ---- push, pop, leave ---- */

static unsigned register_operand(const struct insn *insn)
{
    return insn->plan->reg[0] & 15;
}

/* MOV qword [to], value; clobbers R11. */
static void put_store_constant(struct emitter *m, struct mem to, uint64_t value)
{
    if ((int64_t)value == (int32_t)value) {
        put_rm(m, FORM_W, 0xc7, 0, to);
        put32(m, (uint32_t)value);
    } else {
        put_constant(m, SCRATCH_B, value);
        put_store(m, SCRATCH_B, to);
    }
}

static void put_move_sp(struct translation_state *t, int32_t by)
{
    put_lea(&t->m, HOST_OF_SP, mem_at(HOST_OF_SP, by));
}

static void translate_push(struct translation_state *t, const struct insn *insn, struct slow *s)
{
    struct emitter *m = &t->m;
    const ZydisDecodedOperand *o = &insn->op[0];
    if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
        struct mem operand;
        put_operand(t, s, insn, 8, ACCESS_READ, &operand);
        put_load(m, SCRATCH_A, operand);
        put_store(m, SCRATCH_A, FRAME(temp[0]));
    }
    struct mem to;
    put_stack(t, s, insn, GPR_RSP, -8, ACCESS_WRITE, &to);
    if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        put_store_constant(m, to, insn->plan->imm);
    } else {
        unsigned reg = register_operand(insn), from = SCRATCH_B;
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY)
            put_load(m, SCRATCH_B, FRAME(temp[0]));
        else if (in_frame(reg))
            put_load(m, SCRATCH_B, frame_gpr(reg));
        else
            from = host_gpr(reg);
        put_store(m, from, to);
    }
    flags_before(t, insn);
    put_move_sp(t, -8);
}

static void translate_pop(struct translation_state *t, const struct insn *insn, struct slow *s)
{
    struct emitter *m = &t->m;
    unsigned reg = register_operand(insn);
    struct mem from;
    put_stack(t, s, insn, GPR_RSP, 0, ACCESS_READ, &from);
    flags_before(t, insn);
    if (in_frame(reg)) {
        put_load(m, SCRATCH_B, from);
        put_store(m, SCRATCH_B, frame_gpr(reg));
    } else {
        put_load(m, host_gpr(reg), from);
    }
    if (reg != GPR_RSP)
        put_move_sp(t, 8);
}

static void translate_leave(struct translation_state *t, const struct insn *insn, struct slow *s)
{
    struct mem from;
    put_stack(t, s, insn, GPR_RBP, 0, ACCESS_READ, &from);
    flags_before(t, insn);
    put_lea(&t->m, HOST_OF_SP, mem_at(GPR_RBP, 8));
    put_load(&t->m, GPR_RBP, from);
}

void translate_stack(struct translation_state *t, const struct insn *insn)
{
    if (insn->leaves)
        flags_protect(t);
    struct slow *s = slow_begin(t, insn);
    if (insn->kind == KIND_PUSH)
        translate_push(t, insn, s);
    else if (insn->kind == KIND_POP)
        translate_pop(t, insn, s);
    else
        translate_leave(t, insn, s);
    flags_after(t, insn);
    slow_end(t, s, true);
}

/* ---- going on elsewhere ---- */

static struct jit_link *new_link(struct translation_state *t, uint64_t rip, bool host_flags)
{
    struct jit_link *link = jit_pool_take(t->j, sizeof(*link));
    if (!link) {
        t->m.full = true;
        return NULL;
    }
    *link = (struct jit_link){.rip = rip, .owner = t->code, .host_flags = host_flags, .key = (uint8_t)t->key};
    return link;
}

static const uint8_t *page_of(const uint8_t *host)
{
    return host - ((uintptr_t)host & PAGE_MASK);
}

/* The page in the RAM mapping, where rip is on one that the translation is on; else NULL. */
static const uint8_t *near_page(const struct translation_state *t, uint64_t rip)
{
    if ((rip ^ t->rip) < PAGE_SIZE_BYTES)
        return page_of(t->code->host);
    for (unsigned i = 1; i < t->part_count; i++)
        if ((rip ^ t->part[i].rip) < PAGE_SIZE_BYTES)
            return page_of(t->part[i].block->host);
    return NULL;
}

static void add_exit(struct translation_state *t, uint8_t *jump, struct jit_link *link, bool host_flags,
                     bool far)
{
    if (t->exit_count == EXITS_MAX) {
        t->failed = true;
        return;
    }
    t->exits[t->exit_count++] =
        (struct exit_stub){.jump = jump, .link = link, .host_flags = host_flags, .far = far};
}

/* To another page: whether code may be fetched there is known for as long as the link's epoch is the present one. */
static void put_far_link(struct translation_state *t, struct jit_link *link)
{
    struct emitter *m = &t->m;
    put_load(m, SCRATCH_A, mem_absolute(&t->e->link_epoch[link_half(link->rip)]));
    put_rm(m, FORM_W, 0x3b, SCRATCH_A, mem_absolute(&link->epoch));
    add_exit(t, put_jump(m, COND_NE), link, false, false);
    put_rm(m, 0, 0xff, 4, mem_absolute(&link->code));
}

/* A jump to rip under a condition of the host's flags, or always. */
static void put_link(struct translation_state *t, uint64_t rip, unsigned condition)
{
    struct emitter *m = &t->m;
    const uint8_t *page = near_page(t, rip);
    bool near = page != NULL;
    if (!near && condition == JUMP_ALWAYS)
        flags_to_frame(t);
    bool host_flags = t->flags.host && (near || condition != JUMP_ALWAYS);
    if (condition == JUMP_ALWAYS && near && t->flags.saved)
        host_flags = false;
    struct jit_link *link = new_link(t, rip, host_flags);
    if (!link)
        return;
    if (!near && condition == JUMP_ALWAYS) {
        put_far_link(t, link);
        return;
    }
    uint8_t *jump = put_jump(m, condition);
    link->page = page;
    if (near)
        link->jump = jump;
    add_exit(t, jump, link, host_flags, !near);
    if (near && rip == t->rip && t->key == t->code->key && !m->full) {
        patch_rel32(jump, host_flags ? t->code->entry_host : t->code->entry_saved);
        t->exits[t->exit_count - 1].jump = NULL;
    }
}

/* Steps that were counted at the entry and are not done; flags stay. */
static void put_undo(struct emitter *m, unsigned steps)
{
    put_rm(m, 0, 0x8b, SCRATCH_A, FRAME(left));
    put_rm(m, 0, 0x8d, SCRATCH_A, mem_at(SCRATCH_A, (int32_t)steps));
    put_rm(m, 0, 0x89, SCRATCH_A, FRAME(left));
}

static void put_exit_stub(struct translation_state *t, const struct exit_stub *stub)
{
    struct emitter *m = &t->m;
    if (m->full)
        return;
    if (stub->jump)
        patch_rel32(stub->jump, m->at);
    if (stub->undo)
        put_undo(m, stub->undo);
    vector_store(t, stub->dirty);
    put_x87_pointers(t, &stub->x87);
    if (stub->undo && !stub->far) { /* it is this jump that will go to the translation */
        stub->link->jump = put_jump(m, JUMP_ALWAYS);
        if (!m->full)
            patch_rel32(stub->link->jump, m->at);
    }
    if (stub->far) {
        put_save_flags(m);
        put_load(m, SCRATCH_A, mem_absolute(&t->e->link_epoch[link_half(stub->link->rip)]));
        put_rm(m, FORM_W, 0x3b, SCRATCH_A, mem_absolute(&stub->link->epoch));
        uint8_t *leave = put_jump(m, COND_NE);
        put_rm(m, 0, 0xff, 4, mem_absolute(&stub->link->code));
        if (!m->full)
            patch_rel32(leave, m->at);
    }
    put_constant(m, SCRATCH_B, (uintptr_t)stub->link);
    put_jump_to(m, JUMP_ALWAYS, stub->host_flags && !stub->far ? t->j->exit_host : t->j->exit_saved);
}

void put_exit_stubs(struct translation_state *t)
{
    for (unsigned i = 0; i < t->exit_count; i++)
        put_exit_stub(t, &t->exits[i]);
}

/* The flags are somewhere where the next block can have them. */
static void settle_flags(struct translation_state *t)
{
    if (!t->flags.host && !t->flags.saved)
        flags_to_host(t);
}

void translate_fall_through(struct translation_state *t, uint64_t rip)
{
    vector_store(t, t->vector_dirty);
    settle_flags(t);
    put_link(t, rip, JUMP_ALWAYS);
}

/*
 * Out of the middle of a superblock, under a condition of the host's flags, which are the guest's. Everything else is in the
 * exit's stub, so that staying costs no more than the jump.
 */
static void put_side_exit(struct translation_state *t, const struct insn *insn, uint64_t rip,
                          unsigned condition)
{
    struct jit_link *link = new_link(t, rip, true);
    if (!link)
        return;
    uint8_t *jump = put_jump(&t->m, condition);
    unsigned done = (unsigned)(insn - t->insn) + 1;
    link->page = near_page(t, rip);
    add_exit(t, jump, link, true, !link->page);
    if (t->failed)
        return;
    struct exit_stub *stub = &t->exits[t->exit_count - 1];
    stub->undo = (uint8_t)(t->count - done);
    stub->dirty = t->vector_dirty;
    stub->x87 = t->x87;
}

/* ---- branches ---- */

static uint64_t next_rip(const struct insn *insn)
{
    return insn->rip + insn->plan->length;
}

static void translate_conditional(struct translation_state *t, const struct insn *insn)
{
    flags_to_host(t);
    t->flags.saved = false;
    put_link(t, next_rip(insn) + insn->plan->imm, COND_O + (insn->plan->condition & 15u));
    put_link(t, next_rip(insn), JUMP_ALWAYS);
}

static void translate_call(struct translation_state *t, const struct insn *insn)
{
    flags_to_frame(t);
    t->flags.host = false;
    struct slow *s = slow_begin(t, insn);
    struct mem to;
    put_stack(t, s, insn, GPR_RSP, -8, ACCESS_WRITE, &to);
    put_store_constant(&t->m, to, next_rip(insn));
    put_move_sp(t, -8);
    put_link(t, next_rip(insn) + insn->plan->imm, JUMP_ALWAYS);
    slow_end(t, s, false);
}

/* R10: the target. R11 becomes the place of its entry in the targets; unknown ones are done by stage 1. */
static void put_find_target(struct translation_state *t, struct slow *s)
{
    struct emitter *m = &t->m;
    const struct jit_target *table = t->j->targets[t->slot].entry;
    _Static_assert(sizeof(struct jit_target) == 16, "entries are addressed by a shift");
    /* rorx r11, r10, 59: the lower bits of the address and, below them, its highest, times the size of an entry */
    const uint8_t rorx[] = {0xc4, 0x43, 0xfb, 0xf0, 0xda, 64 - 5};
    put_bytes(m, rorx, sizeof rorx);
    put_rr(m, 0, 0x81, 4, SCRATCH_B); /* and r11d, mask */
    put32(m, (TARGETS - 1) << 4);
    put_rm(m, FORM_W, 0x3b, SCRATCH_A, mem_at(SCRATCH_B, (int32_t)(uintptr_t)&table->rip));
    slow_jump(t, s, COND_NE);
}

static struct mem target_code(const struct translation_state *t)
{
    return mem_at(SCRATCH_B, (int32_t)(uintptr_t)&t->j->targets[t->slot].entry[0].code);
}

/* The register or memory operand, in R10. */
static void put_target(struct translation_state *t, struct slow *s, const struct insn *insn)
{
    struct emitter *m = &t->m;
    struct mem operand;
    if (insn->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY) {
        put_operand(t, s, insn, 8, ACCESS_READ, &operand);
        put_load(m, SCRATCH_A, operand);
    } else if (in_frame(register_operand(insn))) {
        put_load(m, SCRATCH_A, frame_gpr(register_operand(insn)));
    } else {
        put_move(m, SCRATCH_A, host_gpr(register_operand(insn)));
    }
}

static void translate_indirect(struct translation_state *t, const struct insn *insn)
{
    struct emitter *m = &t->m;
    flags_to_frame(t);
    t->flags.host = false;
    struct slow *s = slow_begin(t, insn);
    if (insn->kind == KIND_RETURN) {
        struct mem from;
        put_stack(t, s, insn, GPR_RSP, 0, ACCESS_READ, &from);
        put_load(m, SCRATCH_A, from);
        put_find_target(t, s);
        put_move_sp(t, 8 + return_pops(insn));
    } else {
        put_target(t, s, insn);
        put_find_target(t, s);
    }
    if (insn->kind == KIND_CALL_INDIRECT) {
        put_load(m, SCRATCH_B, target_code(t));
        put_store(m, SCRATCH_B, FRAME(temp[1]));
        struct mem to;
        put_stack(t, s, insn, GPR_RSP, -8, ACCESS_WRITE, &to);
        put_store_constant(m, to, next_rip(insn));
        put_move_sp(t, -8);
        put_rm(m, 0, 0xff, 4, FRAME(temp[1]));
    } else {
        put_rm(m, 0, 0xff, 4, target_code(t));
    }
    slow_end(t, s, false);
}

void translate_branch(struct translation_state *t, const struct insn *insn)
{
    vector_store(t, t->vector_dirty);
    t->vector_dirty = 0;
    switch (insn->kind) {
    case KIND_JUMP:
        settle_flags(t);
        put_link(t, next_rip(insn) + insn->plan->imm, JUMP_ALWAYS);
        break;
    case KIND_CONDITIONAL:
        translate_conditional(t, insn);
        break;
    case KIND_CALL:
        translate_call(t, insn);
        break;
    default:
        translate_indirect(t, insn);
        break;
    }
}

/* ---- in the middle of a superblock ---- */

static void inner_conditional(struct translation_state *t, const struct insn *insn)
{
    uint64_t end = next_rip(insn), target = end + insn->plan->imm;
    unsigned condition = COND_O + (insn->plan->condition & 15u);
    flags_to_host(t);
    if (target == end)
        return;
    if (insn->next == end)
        put_side_exit(t, insn, target, condition);
    else
        put_side_exit(t, insn, end, condition ^ 1);
}

static void inner_call(struct translation_state *t, const struct insn *insn)
{
    if (insn->leaves)
        flags_protect(t);
    struct slow *s = slow_begin(t, insn);
    struct mem to;
    put_stack(t, s, insn, GPR_RSP, -8, ACCESS_WRITE, &to);
    put_store_constant(&t->m, to, next_rip(insn));
    flags_before(t, insn);
    put_move_sp(t, -8);
    flags_after(t, insn);
    slow_end(t, s, false);
}

/* The call was inner, too; where another address was put on the stack meanwhile stage 1 returns to it. */
static void inner_return(struct translation_state *t, const struct insn *insn)
{
    struct emitter *m = &t->m;
    struct mem from;
    flags_protect(t);
    struct slow *s = slow_begin(t, insn);
    put_stack(t, s, insn, GPR_RSP, 0, ACCESS_READ, &from);
    put_constant(m, SCRATCH_B, insn->next);
    put_rm(m, FORM_W, 0x39, SCRATCH_B, from);
    slow_jump(t, s, COND_NE);
    flags_before(t, insn);
    put_move_sp(t, 8 + return_pops(insn));
    flags_after(t, insn);
    slow_end(t, s, false);
}

void translate_inner_branch(struct translation_state *t, const struct insn *insn)
{
    switch (insn->kind) {
    case KIND_CONDITIONAL:
        inner_conditional(t, insn);
        break;
    case KIND_CALL:
        inner_call(t, insn);
        break;
    case KIND_RETURN:
        inner_return(t, insn);
        break;
    default: /* KIND_JUMP: what it leads to is next */
        break;
    }
}
