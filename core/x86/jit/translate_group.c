/*
 * Groups: accesses of a block that go through the same register, at offsets that are known beforehand. One lookup checks that
 * all of them lie in one page with the rights that are needed, and the others use what it found. Where that fails, the
 * instruction is done by stage 1 and the block is left; where it fails often, the block is translated anew without groups.
 *
 * What was found holds as long as nothing is taken out of the TLB: jit_step sees to that (e->tlb_removals).
 */
#include "core/x86/jit/translation.h"

#define GROUP_SPAN  1024
#define MOVING_SPAN 256 /* of accesses that move with a register: the chance that one is on the next page */

struct access_shape {
    unsigned reg, index, scale; /* index: PLAN_NO_REG for none */
    int64_t disp;
    unsigned bytes;
    bool write;
};

static bool is_stack_operation(const struct insn *insn)
{
    bool memory = insn->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
    return (insn->kind == KIND_PUSH && !memory) || insn->kind == KIND_POP || insn->kind == KIND_CALL ||
           insn->kind == KIND_RETURN;
}

static bool find_shape(const struct insn *insn, struct access_shape *out)
{
    const struct plan *p = insn->plan;
    if (is_stack_operation(insn)) {
        bool push = insn->kind == KIND_PUSH || insn->kind == KIND_CALL;
        *out = (struct access_shape){GPR_RSP, PLAN_NO_REG, 0, push ? -8 : 0, 8, push};
        return true;
    }
    if (insn->kind == KIND_LEAVE) {
        *out = (struct access_shape){GPR_RBP, PLAN_NO_REG, 0, 0, 8, false};
        return true;
    }
    if (insn->kind != KIND_NATIVE || !insn->memory || p->base >= GPR_COUNT || p->seg >= SEG_FS ||
        p->addr_size != 8)
        return false;
    *out = (struct access_shape){p->base, p->index,     p->scale,
                                 p->disp, p->mem_bytes, (p->mem_access & PLAN_MEM_WRITE) != 0};
    return true;
}

/* The instruction adds a constant to all of a register. */
static bool adds_constant(const struct insn *insn, unsigned reg, int64_t *constant)
{
    const struct plan *p = insn->plan;
    const ZydisDecodedOperand *to = &insn->op[0], *by = &insn->op[1];
    bool pops_sp = insn->kind == KIND_POP && (insn->plan->reg[0] & 15) == GPR_RSP;
    if (reg == GPR_RSP && !pops_sp && (insn->kind == KIND_PUSH || insn->kind == KIND_POP)) {
        *constant = insn->kind == KIND_PUSH ? -8 : 8;
        return true;
    }
    if (insn->kind == KIND_CALL || insn->kind == KIND_RETURN) {
        *constant = insn->kind == KIND_CALL ? -8 : 8 + return_pops(insn);
        return true;
    }
    if (insn->kind == KIND_LEA) {
        *constant = p->disp;
        return p->op_size == 8 && p->addr_size == 8 && p->base == reg && p->index == PLAN_NO_REG;
    }
    if (insn->kind == KIND_NATIVE && to->type == ZYDIS_OPERAND_TYPE_REGISTER && to->size == 64 &&
        (insn->z.mnemonic == ZYDIS_MNEMONIC_INC || insn->z.mnemonic == ZYDIS_MNEMONIC_DEC)) {
        *constant = insn->z.mnemonic == ZYDIS_MNEMONIC_INC ? 1 : -1;
        return true;
    }
    bool add = insn->z.mnemonic == ZYDIS_MNEMONIC_ADD, subtract = insn->z.mnemonic == ZYDIS_MNEMONIC_SUB;
    if (insn->kind != KIND_NATIVE || !(add || subtract) || to->type != ZYDIS_OPERAND_TYPE_REGISTER ||
        to->size != 64 || by->type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
        return false;
    *constant = add ? (int64_t)by->imm.value.u : -(int64_t)by->imm.value.u;
    return *constant >= INT32_MIN && *constant <= INT32_MAX;
}

/* So that sums of two fit displacements. */
static bool is_near(int64_t distance)
{
    return distance >= INT32_MIN / 4 && distance <= INT32_MAX / 4;
}

/* A group that further accesses may join. */
struct joinable {
    unsigned reg, index, scale;
    int8_t group;  /* the last one made for them */
    int64_t moved; /* what was added to the address since its first member's */
};

struct tracking {
    unsigned count;
    struct joinable open[GROUPS_MAX];
};

static struct joinable *find_joinable(struct tracking *k, const struct access_shape *a)
{
    for (unsigned i = 0; i < k->count; i++) {
        struct joinable *o = &k->open[i];
        if (o->reg == a->reg && o->index == a->index && (a->index == PLAN_NO_REG || o->scale == a->scale))
            return o;
    }
    if (k->count == GROUPS_MAX)
        return NULL;
    struct joinable *o = &k->open[k->count++];
    *o = (struct joinable){a->reg, a->index, a->scale, NO_GROUP, 0};
    return o;
}

/* The group that the access can join, or a new one; NO_GROUP when there are too many. */
static int8_t join(struct translation_state *t, struct joinable *o, const struct access_shape *a)
{
    int64_t offset = o->moved + a->disp, end = offset + a->bytes;
    if (o->group != NO_GROUP) {
        struct group *g = &t->groups[o->group];
        int64_t low = offset < g->low ? offset : g->low, high = end > g->high ? end : g->high;
        bool moves = a->reg != GPR_RSP && (g->moves || o->moved != 0);
        if (high - low <= (moves ? MOVING_SPAN : GROUP_SPAN)) {
            g->low = low;
            g->high = high;
            g->write |= a->write;
            g->moves = moves;
            g->members++;
            return o->group;
        }
    }
    if (t->group_count == GROUPS_MAX)
        return NO_GROUP;
    o->moved = 0;
    o->group = (int8_t)t->group_count++;
    t->groups[o->group] =
        (struct group){.low = a->disp, .high = a->disp + a->bytes, .write = a->write, .members = 1};
    return o->group;
}

/* False: what is added to the address by the instruction is not known. */
static bool follow(struct joinable *o, const struct insn *insn)
{
    int64_t constant, moved = o->moved;
    if (insn->gpr_written & 1u << o->reg) {
        if (!adds_constant(insn, o->reg, &constant))
            return false;
        moved += constant;
    }
    if (o->index != PLAN_NO_REG && (insn->gpr_written & 1u << o->index)) {
        if (!adds_constant(insn, o->index, &constant))
            return false;
        moved += constant * (int64_t)o->scale;
    }
    o->moved = moved;
    return is_near(moved);
}

static void follow_writes(struct tracking *k, const struct insn *insn)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < k->count; i++)
        if (!changes_context(insn) && follow(&k->open[i], insn))
            k->open[kept++] = k->open[i];
    k->count = kept;
}

static void find_group(struct translation_state *t, struct tracking *k, struct insn *insn)
{
    struct access_shape a;
    insn->group = NO_GROUP;
    if (t->ungrouped || !find_shape(insn, &a) || !is_near(a.disp))
        return;
    struct joinable *o = find_joinable(k, &a);
    insn->group = o ? join(t, o, &a) : NO_GROUP;
    if (insn->group == NO_GROUP)
        return;
    insn->group_offset = (int32_t)(o->moved + a.disp);
    insn->group_moved = (int32_t)o->moved;
}

void find_groups(struct translation_state *t)
{
    struct tracking k = {.count = 0};
    t->group_count = 0;
    t->held = NO_GROUP;
    for (unsigned i = 0; i < t->count; i++) {
        find_group(t, &k, &t->insn[i]);
        follow_writes(&k, &t->insn[i]);
    }
    uint32_t seen = 0;
    for (unsigned i = 0; i < t->count; i++) {
        struct insn *insn = &t->insn[i];
        if (insn->group == NO_GROUP)
            continue;
        if (t->groups[insn->group].members < 2) {
            insn->group = NO_GROUP;
            continue;
        }
        bool first = !(seen & 1u << insn->group);
        seen |= 1u << insn->group;
        if (!first && !insn->aligned && (insn->kind < KIND_JUMP || (insn->inner && insn->kind == KIND_CALL)))
            insn->leaves = false;
    }
}

/* The first byte of the group, in R10; clobbers R11. */
static void put_group_address(struct translation_state *t, const struct insn *insn, int32_t start)
{
    struct emitter *m = &t->m;
    struct access_shape a;
    if (!find_shape(insn, &a))
        t->failed = true;
    struct mem mem = mem_at(in_frame(a.reg) ? SCRATCH_A : host_gpr(a.reg), start);
    if (in_frame(a.reg))
        put_load(m, SCRATCH_A, frame_gpr(a.reg));
    if (a.index != PLAN_NO_REG) {
        mem.index = (uint8_t)(in_frame(a.index) ? SCRATCH_B : host_gpr(a.index));
        mem.scale = (uint8_t)__builtin_ctz(a.scale);
        if (in_frame(a.index))
            put_load(m, SCRATCH_B, frame_gpr(a.index));
    }
    put_lea(m, SCRATCH_A, mem);
}

bool put_group_operand(struct translation_state *t, struct slow *s, const struct insn *insn,
                       struct mem *operand)
{
    struct emitter *m = &t->m;
    if (insn->group == NO_GROUP)
        return false;
    struct group *g = &t->groups[insn->group];
    struct mem slot =
        mem_at(GPR_RSP, (int32_t)(offsetof(struct jit_frame, page) + 8u * (unsigned)insn->group));
    *operand = mem_at(SCRATCH_A, insn->group_offset - (int32_t)g->low);
    if (!g->open) {
        g->open = true;
        put_group_address(t, insn, (int32_t)g->low - insn->group_moved);
        s->group = true;
        put_lookup(t, s, (unsigned)(g->high - g->low), g->write ? ACCESS_WRITE : ACCESS_READ);
        put_store(m, SCRATCH_A, slot);
    } else if (t->held != insn->group) {
        put_load(m, SCRATCH_A, slot);
    }
    t->held = insn->group;
    return true;
}

bool keeps_held(const struct insn *insn)
{
    const unsigned framed = 1u << GPR_R10 | 1u << GPR_R11 | 1u << GPR_R15;
    switch (insn->kind) {
    case KIND_NATIVE:
        return !insn->x87 && (insn->memory ? insn->group != NO_GROUP : !(insn->gpr_named & framed));
    case KIND_PUSH:
    case KIND_POP:
        return insn->group != NO_GROUP;
    case KIND_CONDITIONAL:
        return insn->inner;
    case KIND_NOTHING:
        return true;
    default:
        return false;
    }
}
