/*
 * Groups: accesses of a block that go through the same register, at offsets that are known beforehand. One lookup checks that
 * all of them lie in one page with the rights that are needed, and the others use what it found. Where that fails, the
 * instruction is done by stage 1 and the block is left; where it fails often, the block is translated anew without groups.
 *
 * What was found holds as long as nothing is taken out of the TLB: jit_step sees to that (e->tlb_removals).
 */
#include "core/x86/jit/translation.h"

#define GROUP_SPAN 1024

struct access_shape {
    unsigned reg;
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
        *out = (struct access_shape){GPR_RSP, push ? -8 : 0, 8, push};
        return true;
    }
    if (insn->kind == KIND_LEAVE) {
        *out = (struct access_shape){GPR_RBP, 0, 8, false};
        return true;
    }
    if (insn->kind != KIND_NATIVE || !insn->memory || p->base >= GPR_COUNT || p->index != PLAN_NO_REG ||
        p->seg >= SEG_FS || p->addr_size != 8)
        return false;
    *out = (struct access_shape){p->base, p->disp, p->mem_bytes, (p->mem_access & PLAN_MEM_WRITE) != 0};
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

struct tracking {
    int8_t group[GPR_COUNT];  /* NO_GROUP: none open */
    int64_t moved[GPR_COUNT]; /* what was added to the register since its first member's */
};

/* The group that the access can join, or a new one; NO_GROUP when there are too many. */
static int8_t join(struct translation_state *t, struct tracking *k, const struct access_shape *a,
                   int64_t offset)
{
    int64_t end = offset + a->bytes;
    int8_t index = k->group[a->reg];
    if (index != NO_GROUP) {
        struct group *g = &t->groups[index];
        int64_t low = offset < g->low ? offset : g->low, high = end > g->high ? end : g->high;
        if (high - low <= GROUP_SPAN) {
            g->low = low;
            g->high = high;
            g->write |= a->write;
            g->members++;
            return index;
        }
    }
    if (t->group_count == GROUPS_MAX)
        return NO_GROUP;
    index = (int8_t)t->group_count++;
    t->groups[index] = (struct group){.low = offset, .high = end, .write = a->write, .members = 1};
    k->group[a->reg] = index;
    return index;
}

static void follow_writes(struct tracking *k, const struct insn *insn)
{
    for (unsigned r = 0; r < GPR_COUNT; r++) {
        int64_t constant;
        if (!(insn->gpr_written & 1u << r))
            continue;
        if (k->group[r] != NO_GROUP && adds_constant(insn, r, &constant) && is_near(k->moved[r] + constant)) {
            k->moved[r] += constant;
        } else {
            k->group[r] = NO_GROUP;
            k->moved[r] = 0;
        }
    }
}

void find_groups(struct translation_state *t)
{
    struct tracking k = {.moved = {0}};
    memset(k.group, NO_GROUP, sizeof k.group);
    t->group_count = 0;
    for (unsigned i = 0; i < t->count; i++) {
        struct insn *insn = &t->insn[i];
        struct access_shape a;
        insn->group = NO_GROUP;
        if (!t->ungrouped && find_shape(insn, &a) && is_near(a.disp) && is_near(k.moved[a.reg])) {
            insn->group_moved = (int32_t)k.moved[a.reg];
            insn->group_offset = (int32_t)(k.moved[a.reg] + a.disp);
            insn->group_reg = (uint8_t)a.reg;
            insn->group = join(t, &k, &a, k.moved[a.reg] + a.disp);
        }
        follow_writes(&k, insn);
        if (changes_context(insn))
            memset(k.group, NO_GROUP, sizeof k.group);
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
    if (g->open) {
        put_load(m, SCRATCH_A, slot);
        return true;
    }
    g->open = true;
    int32_t start = (int32_t)g->low - insn->group_moved;
    if (in_frame(insn->group_reg)) {
        put_load(m, SCRATCH_A, frame_gpr(insn->group_reg));
        put_lea(m, SCRATCH_A, mem_at(SCRATCH_A, start));
    } else {
        put_lea(m, SCRATCH_A, mem_at(host_gpr(insn->group_reg), start));
    }
    s->group = true;
    put_lookup(t, s, (unsigned)(g->high - g->low), g->write ? ACCESS_WRITE : ACCESS_READ);
    put_store(m, SCRATCH_A, slot);
    return true;
}
