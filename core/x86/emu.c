/*
 * The engine: creation, state in and out, and the run loop. The loop has two speeds. Normally it executes whole
 * blocks, in which nothing can happen between two instructions. When something has to be looked at around each
 * instruction (a single-step trap, an armed breakpoint, RF, an interrupt shadow) it executes one at a time.
 */
#include "core/x86/emu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/x86/block.h"
#include "core/x86/code_arena.h"
#include "core/x86/decode_fast.h"
#include "core/x86/jit/jit.h"
#include "core/x86/protect.h"
#include "core/x86/stub.h"

#define PENDING_BS 0x40u

static const struct engine_ops emu_ops;

static struct emu *emu_of(struct engine *engine)
{
    return container_of(engine, struct emu, engine);
}

/* ---- what happens between instructions ---- */

static bool can_interrupt(const struct emu *e)
{
    return (e->cpu.rflags & RFLAGS_IF) && e->cpu.shadow == SHADOW_NONE && !e->cpu.pending_debug &&
           e->cpu.activity != ACTIVITY_SHUTDOWN;
}

/*
 * Completes the delivery of an event as one transition: step is what deliver_event said. An event whose own
 * delivery faults turns into that fault. STEP_STOP: the boundary failed and nothing was counted.
 */
static enum step finish_delivery(struct emu *e, enum step step)
{
    if (step == STEP_FAULT && deliver_fault(e) != 0)
        step = STEP_STOP;
    if (step == STEP_STOP)
        return STEP_STOP;
    e->cpu.shadow = SHADOW_NONE;
    e->position++;
    return STEP_JUMP;
}

/* A #DB trap for what the last instruction left in pending_debug (SDM 3, 18.3.1). */
static enum step deliver_pending_debug(struct emu *e)
{
    uint8_t pending = e->cpu.pending_debug;
    uint64_t dr6 = e->cpu.dr6;
    e->cpu.dr6 = (dr6 & ~(uint64_t)0xf) | (pending & 0xf) | (pending & PENDING_BS ? DR6_BS : 0);
    e->cpu.pending_debug = 0;
    e->cpu.activity = ACTIVITY_RUNNING;
    enum step step = deliver_event(e, VEC_DB, EVENT_FAULT, false, 0, e->cpu.rip);
    step = finish_delivery(e, step);
    if (step == STEP_STOP) {
        e->cpu.pending_debug = pending;
        e->cpu.dr6 = dr6;
    } else {
        points_note_exception(e, VEC_DB);
    }
    return step;
}

/* DR7 enables (bits 2i, 2i+1) an instruction breakpoint (R/W of 0) at the linear address of the next instruction. */
static unsigned instruction_breakpoints(const struct emu *e)
{
    uint64_t dr7 = e->cpu.dr7, linear = e->cpu.rip;
    unsigned hits = 0;
    if (!(dr7 & 0xff))
        return 0;
    if (code_size(e) != 8)
        linear = (uint32_t)(linear + e->cpu.seg[SEG_CS].base);
    for (unsigned i = 0; i < 4; i++) {
        bool enabled = dr7 >> (2 * i) & 3, on_execution = !(dr7 >> (16 + 4 * i) & 3);
        if (enabled && on_execution && e->cpu.dr[i] == linear)
            hits |= 1u << i;
    }
    return hits;
}

/* Things that the fast loop does not look at. */
static bool needs_care(const struct emu *e)
{
    return (e->cpu.rflags & (RFLAGS_TF | RFLAGS_RF)) || e->cpu.shadow || e->cpu.pending_debug ||
           (e->cpu.dr7 & 0xff);
}

/* ---- landmarks ---- */

static bool match_here(struct emu *e)
{
    const struct engine_match *m = e->match;
    if (memcmp(e->cpu.gpr, m->gpr, sizeof(m->gpr)) != 0 ||
        ((e->cpu.rflags ^ m->rflags) & ~m->rflags_ignore)) {
        if (m->miss) {
            m->miss->count++;
            memcpy(m->miss->gpr, e->cpu.gpr, sizeof(m->miss->gpr));
            m->miss->rflags = e->cpu.rflags;
        }
        return false;
    }
    x87_sync(e);
    return m->accept(m->context, &e->cpu);
}

/* How many of count instructions of the block come before the one at the landmark's RIP. */
static unsigned count_before_match(const struct emu *e, const struct block *b, unsigned count)
{
    uint64_t distance = e->match->rip - e->cpu.rip, offset = 0;
    if (distance == 0 || distance >= b->bytes)
        return count;
    for (unsigned i = 0; i < count; i++) {
        if (offset == distance)
            return i;
        offset += b->plan[i].length;
    }
    return count;
}

/* ---- break points ---- */

/* How many of count instructions of the block come before the next one at a break address. */
static unsigned count_before_break(const struct emu *e, const struct block *b, unsigned count)
{
    uint64_t distance = points_break_distance(e), offset = 0;
    if (distance >= b->bytes)
        return count;
    for (unsigned i = 0; i < count; i++) {
        if (offset >= distance)
            return i;
        offset += b->plan[i].length;
    }
    return count;
}

/* ---- executing ---- */

/* Outside 64-bit mode: how many instructions of the block lie within CS's limit. */
static unsigned count_within_limit(const struct emu *e, const struct block *b)
{
    uint64_t room = (uint64_t)e->cpu.seg[SEG_CS].limit + 1 - e->cpu.rip;
    uint64_t bytes = 0;
    for (unsigned i = 0; i < b->count; i++) {
        bytes += b->plan[i].length;
        if (bytes > room)
            return i;
    }
    return b->count;
}

/* The block at CS:RIP and how many of its instructions may be executed now (at least 1). */
static enum step next_block(struct emu *e, struct block **block, unsigned *count)
{
    bool wide = vcpu_in_64bit_code(&e->cpu);
    if (!wide && e->cpu.rip > e->cpu.seg[SEG_CS].limit)
        return raise_exception_code(e, VEC_GP, 0);
    enum step step = block_find(e, block);
    if (step != STEP_NEXT)
        return step;
    *count = (*block)->count;
    if (!wide && e->cpu.rip + (*block)->bytes - 1 > e->cpu.seg[SEG_CS].limit) {
        *count = count_within_limit(e, *block);
        if (*count == 0)
            return raise_exception_code(e, VEC_GP, 0);
    }
    return STEP_NEXT;
}

/* Executes plans until one ends the block. Counts all that completed; what the last one said is returned. */
static enum step execute(struct emu *e, const struct plan *p, unsigned count)
{
    const struct plan *end = p + count;
    /* EIP counts on past 64 KiB in 16-bit code too, where the segment's limit lets it; only branches cut it. */
    uint64_t mask = p->code_size == 8 ? ~0ull : 0xffffffffull;
    enum step step = STEP_NEXT;
    unsigned cpl = vcpu_cpl(&e->cpu);
    e->block_gone = false;
    for (; p < end; p++) {
        e->next_rip = (e->cpu.rip + p->length) & mask;
        step = p->fn(e, p);
        if (unlikely(step != STEP_NEXT))
            break;
        e->cpu.rip = e->next_rip;
        e->position++;
        if (unlikely(e->block_gone | e->boundary_stop))
            break;
    }
    if (unlikely(e->points != NULL) && (step == STEP_JUMP || step == STEP_LEAVE))
        points_note_instruction(e, p, cpl);
    switch (step) {
    case STEP_EXIT:
    case STEP_LEAVE:
        e->cpu.rip = e->next_rip;
        e->position++;
        break;
    case STEP_JUMP:
    case STEP_AGAIN:
        e->position++;
        break;
    default:
        break;
    }
    return step;
}

/* Software interrupts clear TF on their way: the handler's first instruction is not preceded by a trap for them. */
static bool is_software_interrupt(const struct plan *p)
{
    return p->mnemonic == ZYDIS_MNEMONIC_INT || p->mnemonic == ZYDIS_MNEMONIC_INT1 ||
           p->mnemonic == ZYDIS_MNEMONIC_INT3 || p->mnemonic == ZYDIS_MNEMONIC_INTO;
}

/* One instruction (or REP iteration), with RF, TF and the interrupt shadow taken care of. */
static enum step execute_with_care(struct emu *e, const struct plan *p)
{
    uint64_t before = e->cpu.rflags;
    uint8_t shadow = e->cpu.shadow;
    bool software = is_software_interrupt(p), syscall = p->mnemonic == ZYDIS_MNEMONIC_SYSCALL;
    position_t limit = e->limit;
    e->limit = e->position + 1;
    e->cpu.rflags &= ~RFLAGS_RF;
    enum step step = execute(e, p, 1);
    e->limit = limit;
    if (step == STEP_FAULT || step == STEP_STOP) {
        e->cpu.rflags |= before & RFLAGS_RF;
        return step;
    }
    if (step == STEP_AGAIN)
        e->cpu.rflags |= before & RFLAGS_RF;
    if (e->cpu.shadow == shadow)
        e->cpu.shadow = SHADOW_NONE;
    /* SYSCALL masks TF as part of itself, and traps by what is left (SDM 2, SYSCALL). */
    bool trap = syscall ? e->cpu.rflags & RFLAGS_TF : (before & RFLAGS_TF) && !software;
    if (trap)
        e->cpu.pending_debug |= PENDING_BS;
    return step;
}

/* One boundary and the instruction after it, when needs_care(). */
static enum step careful_step(struct emu *e)
{
    if (e->cpu.shadow != SHADOW_MOV_SS) {
        if (e->cpu.pending_debug)
            return deliver_pending_debug(e);
        unsigned hits = e->cpu.rflags & RFLAGS_RF ? 0 : instruction_breakpoints(e);
        if (hits) {
            e->cpu.dr6 = (e->cpu.dr6 & ~(uint64_t)0xf) | hits;
            return raise_exception(e, VEC_DB);
        }
    }
    struct block *block;
    unsigned count;
    enum step step = next_block(e, &block, &count);
    return step == STEP_NEXT ? execute_with_care(e, &block->plan[0]) : step;
}

/* The block at CS:RIP by stage 1. */
static enum step interpret(struct emu *e, const struct block *block, unsigned count)
{
    if (unlikely(e->limit - e->position < count))
        count = (unsigned)(e->limit - e->position);
    if (unlikely(e->match != NULL))
        count = count_before_match(e, block, count);
    if (unlikely(e->points != NULL))
        count = count_before_break(e, block, count);
    return execute(e, block->plan, count);
}

/* Stage 2 wants to know which blocks follow each other. */
static void record_path(struct emu *e, struct block *block, uint64_t rip, uint64_t steps, enum step step)
{
    if (steps == block->count && (step == STEP_NEXT || step == STEP_JUMP))
        jit_record(e, block, rip, step);
    else
        jit_record_end(e);
}

static enum step fast_steps(struct emu *e)
{
    struct block *block = NULL;
    unsigned count = 0;
    enum step step;
    const struct jit_code *code = e->translates ? jit_find_recent(e) : NULL;
    if (!code) {
        step = next_block(e, &block, &count);
        if (unlikely(step != STEP_NEXT))
            return step;
        if (e->translates)
            code = jit_find(e, block);
    }
    if (code) {
        bool again;
        step = jit_run(e, code, &again);
        if (likely(!again))
            return step;
        step = next_block(e, &block, &count);
        if (unlikely(step != STEP_NEXT))
            return step;
    }
    position_t start = e->position;
    uint64_t rip = e->cpu.rip;
    step = interpret(e, block, count);
    e->steps_stage1 += e->position - start;
    if (unlikely(jit_records(e)))
        record_path(e, block, rip, e->position - start, step);
    return step;
}

/* ---- the run loop ---- */

#define GO_ON (-1)

/* The interrupt that waits can be delivered. */
static bool window_open(const struct emu *e)
{
    return can_interrupt(e) && (!e->window_priority || e->cpu.cr8 < e->window_priority);
}

bool run_goes_on(const struct emu *e)
{
    return !e->boundary_stop && !e->hit_stop && e->cpu.activity == ACTIVITY_RUNNING &&
           e->position < e->limit && !needs_care(e) && !(e->want_window && window_open(e)) &&
           !atomic_load_explicit(&e->attention, memory_order_relaxed);
}

/* What ends the run at this boundary, or GO_ON. */
static int check_boundary(struct emu *e)
{
    if (unlikely(e->boundary_stop))
        return ENGINE_STOP_BOUNDARY;
    if (unlikely(e->hit_stop))
        return e->hit_stop;
    if (unlikely(e->cpu.activity != ACTIVITY_RUNNING)) {
        if (e->cpu.activity == ACTIVITY_SHUTDOWN)
            return ENGINE_STOP_SHUTDOWN;
        if (!e->cpu.pending_debug)
            return ENGINE_STOP_HALT;
    }
    if (unlikely(e->position >= e->limit))
        return ENGINE_STOP_LIMIT;
    if (unlikely(e->match && e->match->rip == e->cpu.rip) && match_here(e))
        return ENGINE_STOP_MATCH;
    if (unlikely(e->points != NULL) && e->position != e->run_start && points_break_here(e))
        return ENGINE_STOP_BREAK;
    if (unlikely(e->want_window) && window_open(e))
        return ENGINE_STOP_WINDOW;
    if (unlikely(atomic_load_explicit(&e->attention, memory_order_relaxed))) {
        atomic_store(&e->attention, 0);
        return ENGINE_STOP_ATTENTION;
    }
    return GO_ON;
}

/* A step that did not complete: delivers its fault, or ends the run. */
static int handle_failure(struct emu *e, enum step step, struct error *err)
{
    e->hit_stop = 0; /* what an instruction did that was not completed has not happened */
    if (step == STEP_FAULT && finish_delivery(e, STEP_FAULT) != STEP_STOP) {
        if (!e->fault.waits)
            points_note_exception(e, e->fault.vector);
        return GO_ON;
    }
    if (e->error.code) {
        if (err)
            *err = e->error;
        return e->error.code;
    }
    return ENGINE_STOP_BOUNDARY;
}

static int run_loop(struct emu *e, struct error *err)
{
    for (;;) {
        int stop = check_boundary(e);
        if (unlikely(stop != GO_ON))
            return stop;
        enum step step = unlikely(needs_care(e)) ? careful_step(e) : fast_steps(e);
        if (unlikely(step == STEP_FAULT || step == STEP_STOP)) {
            stop = handle_failure(e, step, err);
            if (stop != GO_ON)
                return stop;
        } else if (unlikely(step == STEP_EXIT) && !e->boundary_stop && e->stop_reason != ENGINE_STOP_HALT) {
            return e->stop_reason;
        }
    }
}

/* Before the engine touches guest memory in a call from outside. */
static void enter(struct emu *e)
{
    e->boundary_stop = false;
    e->error.code = 0;
    if (e->dirty_generation != e->ram->dirty_generation) {
        e->dirty_generation = e->ram->dirty_generation;
        tlb_flush_writes(e);
    }
}

static int emu_run(struct engine *engine, const struct engine_request *request, struct error *err)
{
    struct emu *e = emu_of(engine);
    enter(e);
    e->limit = request->limit;
    e->match = request->match;
    e->run_start = e->position;
    e->want_window = request->want_window;
    e->window_priority = request->window_priority;
    if (e->jit)
        jit_begin_run(e);
    int result = run_loop(e, err);
    e->match = NULL;
    if (result != ENGINE_STOP_BOUNDARY)
        e->hit_stop = 0;
    x87_sync(e);
    return result;
}

/* ---- interrupts from outside ---- */

static int deliver_external(struct emu *e, uint8_t vector, enum event_class event, struct error *err)
{
    uint8_t activity = e->cpu.activity;
    e->cpu.activity = ACTIVITY_RUNNING;
    enum step step = deliver_event(e, vector, event, false, 0, e->cpu.rip);
    if (finish_delivery(e, step) != STEP_STOP)
        return 0;
    e->cpu.activity = activity;
    if (e->error.code) {
        if (err)
            *err = e->error;
        return e->error.code;
    }
    return error_set(err, -EIO, "interrupt %u: its delivery needed memory-mapped I/O, which was refused",
                     vector);
}

static int emu_interrupt(struct engine *engine, uint8_t vector, struct error *err)
{
    struct emu *e = emu_of(engine);
    if (!can_interrupt(e))
        return error_set(err, -EBUSY,
                         "interrupt %u cannot be delivered at position %llu: interrupts are masked", vector,
                         (unsigned long long)e->position);
    enter(e);
    return deliver_external(e, vector, EVENT_EXTERNAL, err);
}

static int emu_nmi(struct engine *engine, struct error *err)
{
    struct emu *e = emu_of(engine);
    if (e->cpu.nmi_blocked || e->cpu.shadow == SHADOW_MOV_SS || e->cpu.activity == ACTIVITY_SHUTDOWN)
        return error_set(err, -EBUSY, "an NMI cannot be delivered at position %llu: NMIs are blocked",
                         (unsigned long long)e->position);
    enter(e);
    return deliver_external(e, VEC_NMI, EVENT_NMI_CLASS, err);
}

static bool emu_can_interrupt(struct engine *engine)
{
    return can_interrupt(emu_of(engine));
}

static void emu_set_points(struct engine *engine, const struct engine_points *points)
{
    struct emu *e = emu_of(engine);
    bool watches = (points && points->watch_count) || (e->points && e->points->watch_count);
    e->points = points;
    e->hit_stop = 0;
    if (watches)
        tlb_flush(e);
    jit_points_changed(e);
}

static const struct engine_hit *emu_hit(const struct engine *engine)
{
    return &container_of(engine, const struct emu, engine)->hit;
}

static void emu_kick(struct engine *engine)
{
    atomic_store(&emu_of(engine)->attention, 1);
}

/* ---- state ---- */

static const struct vcpu_state *emu_state(struct engine *engine)
{
    struct emu *e = emu_of(engine);
    x87_sync(e);
    return &e->cpu;
}

static int emu_set_state(struct engine *engine, const struct vcpu_state *state, struct error *err)
{
    struct emu *e = emu_of(engine);
    const char *reason = state_impossible(e, state);
    if (reason)
        return error_set(err, -EINVAL, "a vCPU state cannot be loaded: %s", reason);
    e->x87_live = false;
    e->cpu = *state;
    /* A pending exception that ES does not show would hit the host. */
    x87_settle(&e->cpu.fpu);
    e->block_gone = true;
    e->hit_stop = 0;
    tlb_flush(e);
    tlb_select(e);
    return 0;
}

static position_t emu_position(const struct engine *engine)
{
    return container_of(engine, const struct emu, engine)->position;
}

static void emu_set_position(struct engine *engine, position_t position)
{
    emu_of(engine)->position = position;
}

/* Nothing to fetch: pages were marked as they were written. */
static int emu_collect_dirty(struct engine *engine, struct error *err)
{
    (void)engine, (void)err;
    return 0;
}

void emu_ram_changed(struct engine *engine, uint64_t offset, size_t length)
{
    if (engine->ops != &emu_ops)
        return;
    struct emu *e = emu_of(engine);
    block_invalidate(e, offset, length);
    tlb_flush(e);
}

void emu_ram_reset(struct engine *engine)
{
    if (engine->ops != &emu_ops)
        return;
    struct emu *e = emu_of(engine);
    block_cache_flush(e);
    tlb_flush(e);
}

/* ---- stages ---- */

void emu_set_stages(struct engine *engine, enum emu_stages stages)
{
    if (engine->ops != &emu_ops)
        return;
    struct emu *e = emu_of(engine);
    jit_set_stages(e, stages);
    e->translates = jit_wanted(e);
}

bool emu_stages_parse(const char *text, enum emu_stages *out)
{
    if (!text || strcmp(text, "mixed") == 0)
        *out = EMU_STAGES_MIXED;
    else if (strcmp(text, "1") == 0)
        *out = EMU_STAGE_1_ONLY;
    else if (strcmp(text, "2") == 0)
        *out = EMU_STAGE_2_ONLY;
    else
        return false;
    return true;
}

int emu_jitdump(struct engine *engine, const char *folder, struct error *err)
{
    struct emu *e = engine->ops == &emu_ops ? emu_of(engine) : NULL;
    if (!e || !e->jit)
        return error_set(err, -ENOTSUP, "this engine does not translate code");
    return jit_dump_to(e->jit, folder, err);
}

void emu_start_profile(struct engine *engine)
{
    if (engine->ops == &emu_ops)
        emu_of(engine)->profiles = true;
}

uint64_t emu_profile_now_ns(const struct emu *e)
{
    struct timespec t;
    if (likely(!e->profiles))
        return 0;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

const struct emu_profile *emu_profile(const struct engine *engine)
{
    if (engine->ops != &emu_ops)
        return NULL;
    const struct emu *e = container_of(engine, const struct emu, engine);
    return e->jit ? jit_profile(e) : NULL;
}

/* ---- life ---- */

static void emu_destroy(struct engine *engine)
{
    if (!engine)
        return;
    struct emu *e = emu_of(engine);
    x87_sync(e);
    if (e->blocks)
        block_cache_flush(e);
    jit_destroy(e->jit);
    block_cache_destroy(e->blocks);
    code_arena_destroy(e->arena);
    decode_cache_destroy(e->decoded);
    free(e->bounce);
    if (e->low)
        jit_low_memory_free(e, sizeof(*e));
    else
        free(e);
}

static const struct engine_ops emu_ops = {
    .name = "emu",
    .destroy = emu_destroy,
    .run = emu_run,
    .interrupt = emu_interrupt,
    .nmi = emu_nmi,
    .can_interrupt = emu_can_interrupt,
    .state = emu_state,
    .set_state = emu_set_state,
    .set_points = emu_set_points,
    .hit = emu_hit,
    .kick = emu_kick,
    .position = emu_position,
    .set_position = emu_set_position,
    .collect_dirty = emu_collect_dirty,
};

#define BOUNCE_BYTES          1024u
#define DEFAULT_PHYSICAL_BITS 36u

/* MAXPHYADDR: leaf 0x80000008, EAX bits 0..7. */
static unsigned model_physical_bits(const struct cpu_model *model)
{
    uint32_t out[4];
    cpu_model_cpuid(model, 0x80000008, 0, 0, 0, out);
    unsigned bits = out[0] & 0xff;
    return bits >= 32 && bits <= 52 ? bits : DEFAULT_PHYSICAL_BITS;
}

/* In low memory if there is any: stage 2 needs it. */
static struct emu *emu_allocate(void)
{
    struct emu *e = jit_low_memory(sizeof(*e));
    if (e) {
        e->low = true;
        return e;
    }
    size_t size = (sizeof(*e) + 63) & ~(size_t)63;
    e = aligned_alloc(64, size);
    if (e)
        memset(e, 0, size);
    return e;
}

int emu_create(struct engine **out, struct guest_ram *ram, struct boundary *boundary,
               const struct cpu_model *model, struct error *err)
{
    *out = NULL;
    struct emu *e = emu_allocate();
    if (!e)
        return error_set(err, -ENOMEM, "no memory for the emulator");
    e->engine = (struct engine){.ops = &emu_ops, .ram = ram, .boundary = boundary};
    e->ram = ram;
    e->boundary = boundary;
    e->model = model;
    e->dirty_generation = ram->dirty_generation;
    e->physical_bits = model_physical_bits(model);
    e->has_local_apic = cpu_model_has(model, CPU_FEATURE_LEAF1_EDX + 9);
    e->bounce = aligned_alloc(64, BOUNCE_BYTES);
    e->blocks = block_cache_create(ram);
    e->decoded = decode_cache_create();
    int result = 0;
    if (!e->bounce || !e->blocks || !e->decoded)
        result = error_set(err, -ENOMEM, "no memory for the emulator");
    else
        result = code_arena_create(&e->arena, CODE_ARENA_BYTES, err);
    if (result < 0) {
        emu_destroy(&e->engine);
        return result;
    }
    vcpu_state_reset(&e->cpu);
    tlb_flush(e);
    tlb_select(e);
    e->jit = e->low ? jit_create(e) : NULL;
    e->translates = jit_wanted(e);
    *out = &e->engine;
    return 0;
}
