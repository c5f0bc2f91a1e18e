/*
 * Running translated code: entering it, instructions that stage 1 does for it, and going on from one translation to another that
 * it does not know yet. The run loop gets the vCPU back only where it has something to do.
 */
#include "core/x86/jit/internal.h"

#define JIT_SLICE_STEPS (1 << 15)
#define LIMIT_MARGIN    ((int32_t)JIT_DEAD_STEPS) /* for what is to be done by stage 1: jit_run's *again */
#define FAILURES_MAX    512u
#define FAILURES_PERIOD ((position_t)1 << 20)

/* At most so many steps from here on. */
static int32_t begin_slice(struct emu *e)
{
    uint64_t remaining = e->limit - e->position;
    int32_t left = (int32_t)(remaining < JIT_SLICE_STEPS ? remaining : JIT_SLICE_STEPS) - LIMIT_MARGIN;
    e->jit->slice_end = e->position + (uint64_t)left;
    e->block_gone = false;
    return left;
}

enum step jit_run(struct emu *e, const struct jit_code *code, bool *again)
{
    struct jit *j = e->jit;
    position_t start = e->position;
    j->again = false;
    j->profile.entries++;
    int32_t left = begin_slice(e);
    j->enter(executable_of(j, code->entry_saved), left, jit_pack_flags(e->cpu.rflags));
    e->last_block = NULL;
    j->profile.steps_translated += e->position - start;
    *again = j->again;
    return j->step;
}

/* ---- between the vCPU's state and the frame ---- */

static void state_from_frame(struct emu *e, const struct jit_frame *frame)
{
    e->cpu.gpr[GPR_R10] = frame->gpr[0];
    e->cpu.gpr[GPR_R11] = frame->gpr[1];
    e->cpu.gpr[GPR_R15] = frame->gpr[2];
    e->cpu.rflags = stub_unpack_flags(e->cpu.rflags, frame->flags);
}

static void state_to_frame(const struct emu *e, struct jit_frame *frame, int32_t left)
{
    frame->left = left;
    frame->gpr[0] = e->cpu.gpr[GPR_R10];
    frame->gpr[1] = e->cpu.gpr[GPR_R11];
    frame->gpr[2] = e->cpu.gpr[GPR_R15];
    frame->flags = jit_pack_flags(e->cpu.rflags);
}

/* ---- going on elsewhere ---- */

/*
 * At a boundary, with all state in struct emu: on to the translation for CS:RIP (known, if it is not NULL), if there is one and the run loop has nothing to do
 * before it. Break addresses and landmarks close the translations in which they lie.
 */
static bool dispatch(struct emu *e, struct jit_frame *frame, const struct jit_code *known)
{
    struct jit *j = e->jit;
    if (!run_goes_on(e))
        return false;
    const struct jit_code *code = known ? known : jit_find_recent(e);
    if (!code)
        return false;
    j->profile.dispatches++;
    state_to_frame(e, frame, begin_slice(e));
    frame->temp[0] = (uintptr_t)executable_of(j, code->entry_saved);
    return true;
}

uint32_t jit_exit(struct emu *e, uintptr_t way, struct jit_frame *frame)
{
    struct jit *j = e->jit;
    state_from_frame(e, frame);
    e->position = j->slice_end - (uint64_t)(int64_t)frame->left;
    j->step = STEP_NEXT;
    const struct jit_code *instead = NULL;
    unsigned kind = way & LINK_KINDS;
    if (kind == LINK_JUMP) {
        j->pending = (struct jit_link *)way;
        e->cpu.rip = j->pending->rip;
    } else {
        struct jit_code *next = (struct jit_code *)(way - kind);
        e->cpu.rip = next->rip;
        j->left_closed = kind == LINK_CLOSED ? next : NULL;
        j->again = kind == LINK_LIMIT_DEAD || kind == LINK_STALE_DEAD;
        if (kind == LINK_LIMIT || kind == LINK_LIMIT_DEAD)
            superblock_sample(j, next);
        else if (kind != LINK_CLOSED && !superblock_check(j, next) && !next->dropped)
            instead = next->plain; /* which will touch the pages that nobody knows of */
    }
    if (!j->again && dispatch(e, frame, instead))
        return JIT_DISPATCH;
    j->profile.exits_link += kind == LINK_JUMP;
    j->profile.exits_limit += kind == LINK_LIMIT || kind == LINK_LIMIT_DEAD;
    j->profile.exits_closed += kind == LINK_CLOSED;
    return JIT_LEAVE;
}

/* ---- instructions done by stage 1 ---- */

static void count_call(struct jit *j, const struct jit_site *site)
{
    if (site->last)
        j->profile.slow_branch++;
    else if (site->memory)
        j->profile.slow_memory++;
    else
        j->profile.handler_calls++;
}

/* A group that is too often spread over two pages, or not to be written, is better not made. */
static void note_failure(struct emu *e, struct jit_code *code)
{
    if (e->position - code->failures_since > FAILURES_PERIOD) {
        code->failures_since = e->position;
        code->failures = 0;
    }
    if (++code->failures < FAILURES_MAX || code->dropped || e->jit->flushed)
        return;
    if (code->part_count) {
        code->block->super_ungrouped = true;
        jit_code_drop(e->jit, code);
    } else {
        code->block->ungrouped = true;
        jit_block_dropped(e, code->block);
    }
}

static uint32_t leave(struct emu *e, enum step step)
{
    e->jit->step = step;
    e->jit->profile.exits_step++;
    return JIT_LEAVE;
}

/* What is the same before an instruction and after it wherever translated code can go on behind it. */
struct before {
    uint64_t removals, epoch;
};

static struct before look(const struct emu *e, const struct jit_site *site)
{
    return (struct before){.removals = e->tlb_removals, .epoch = e->link_epoch[link_half(site->rip)]};
}

/* left: steps of the slice after the block. */
static bool may_stay(const struct emu *e, const struct jit_site *site, const struct before *before,
                     int64_t left)
{
    struct before now = look(e, site);
    return !site->last && !site->group_failed && (!site->groups || now.removals == before->removals) &&
           now.epoch == before->epoch && left >= 0 && !e->block_gone && !e->boundary_stop &&
           jit_current_key(e) == site->key;
}

/* The instruction after STI: as execute_with_care() of the run loop has it. */
static enum step execute_in_shadow(struct emu *e, const struct plan *p)
{
    position_t limit = e->limit;
    e->limit = e->position + 1;
    e->cpu.shadow = SHADOW_STI;
    enum step step = p->fn(e, p);
    e->limit = limit;
    if (step != STEP_FAULT && step != STEP_STOP && e->cpu.shadow == SHADOW_STI)
        e->cpu.shadow = SHADOW_NONE;
    return step;
}

static enum step execute(struct emu *e, const struct jit_site *site)
{
    if (unlikely(site->shadow))
        return execute_in_shadow(e, site->plan);
    if (site->string && jit_string(e, site->plan))
        return STEP_NEXT;
    return site->plan->fn(e, site->plan);
}

uint32_t jit_step(struct emu *e, const struct jit_site *site, struct jit_frame *frame)
{
    struct jit *j = e->jit;
    const struct plan *p = site->plan;
    state_from_frame(e, frame);
    e->cpu.rip = site->rip;
    e->next_rip = site->rip + p->length;
    e->position = j->slice_end - (uint64_t)(int64_t)frame->left - (uint64_t)(int64_t)site->back;
    count_call(j, site);

    unsigned cpl = vcpu_cpl(&e->cpu);
    struct before before = look(e, site);
    enum step step = execute(e, site);
    if (likely(step == STEP_NEXT || (step == STEP_LEAVE && site->string))) {
        e->cpu.rip = e->next_rip;
        e->position++;
        int64_t left = (int64_t)(j->slice_end - e->position) - (site->back - 1);
        if (unlikely(site->group_failed))
            note_failure(e, site->code);
        if (likely(may_stay(e, site, &before, left))) {
            state_to_frame(e, frame, (int32_t)left);
            return JIT_STAY;
        }
        return dispatch(e, frame, NULL) ? JIT_DISPATCH : leave(e, STEP_NEXT);
    }
    if (unlikely(e->points != NULL) && (step == STEP_JUMP || step == STEP_LEAVE))
        points_note_instruction(e, p, cpl);
    if (step == STEP_EXIT || step == STEP_LEAVE)
        e->cpu.rip = e->next_rip;
    if (step == STEP_EXIT || step == STEP_LEAVE || step == STEP_JUMP || step == STEP_AGAIN)
        e->position++;
    if ((step == STEP_JUMP || step == STEP_LEAVE) && dispatch(e, frame, NULL))
        return JIT_DISPATCH;
    return leave(e, step);
}
