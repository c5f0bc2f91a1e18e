/* Stage 2 at run time: finding, entering and leaving translated code, links, and what makes translations invalid. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/x86/code_arena.h"
#include "core/x86/jit/internal.h"

#define ARENA_BYTES     ((size_t)64 << 20)
#define POOL_BYTES      ((size_t)24 << 20)
#define JIT_SLICE_STEPS (1 << 17)
#define LIMIT_MARGIN    ((int32_t)BLOCK_MAX_PLANS) /* stage 1 has room to finish a block in */
#define THRESHOLD_MIXED 16u
#define FAILURES_MAX    64u
#define FAILURES_PERIOD ((position_t)1 << 20)
#define HEAT_NEVER      UINT16_MAX

/* ---- low memory ---- */

void *jit_low_memory(size_t bytes)
{
    size_t guarded = (bytes + PAGE_MASK) / PAGE_SIZE_BYTES * PAGE_SIZE_BYTES + 2 * PAGE_SIZE_BYTES;
    uint8_t *map =
        mmap(NULL, guarded, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_32BIT, -1, 0);
    if (map == MAP_FAILED)
        return NULL;
    if (mprotect(map + PAGE_SIZE_BYTES, guarded - 2 * PAGE_SIZE_BYTES, PROT_READ | PROT_WRITE) != 0 ||
        (uintptr_t)map + guarded > INT32_MAX) {
        munmap(map, guarded);
        return NULL;
    }
    return map + PAGE_SIZE_BYTES;
}

void jit_low_memory_free(void *memory, size_t bytes)
{
    size_t guarded = (bytes + PAGE_MASK) / PAGE_SIZE_BYTES * PAGE_SIZE_BYTES + 2 * PAGE_SIZE_BYTES;
    if (memory)
        munmap((uint8_t *)memory - PAGE_SIZE_BYTES, guarded);
}

void *jit_pool_take(struct jit *j, size_t bytes)
{
    size_t rounded = (bytes + 15) & ~(size_t)15;
    if (POOL_BYTES - j->pool_used < rounded)
        return NULL;
    void *memory = j->pool + j->pool_used;
    j->pool_used += rounded;
    memset(memory, 0, rounded);
    return memory;
}

/* ---- keys ---- */

static unsigned current_key(const struct emu *e)
{
    const struct vcpu_state *s = &e->cpu;
    unsigned key = (unsigned)((size_t)(e->tlb - e->tlb_sets[0]) / TLB_ENTRIES);
    bool available = !(s->cr0 & (CR0_EM | CR0_TS));
    if (available && (s->cr4 & CR4_OSFXSR))
        key |= KEY_SSE;
    if (!(s->cr0 & CR0_TS) && (s->cr4 & CR4_OSXSAVE) && (s->xcr0 & 6) == 6)
        key |= KEY_AVX;
    const uint32_t masks = 0x3fu << 7;
    if ((s->fpu.mxcsr & masks) == masks)
        key |= KEY_MASKED;
    return key;
}

unsigned jit_key_slot(struct jit *j, unsigned key)
{
    for (unsigned i = 0; i < j->key_slots; i++)
        if (j->key_of_slot[i] == key)
            return i;
    if (j->key_slots == KEY_SLOTS)
        return KEY_SLOTS;
    j->key_of_slot[j->key_slots] = (uint8_t)key;
    memset(&j->targets[j->key_slots], 0, sizeof j->targets[0]);
    return j->key_slots++;
}

/* ---- closing and opening ---- */

static void write_jump(uint8_t *at, const uint8_t *target)
{
    at[0] = 0xe9;
    patch_rel32(at + 1, target);
}

static void code_close(struct jit_code *code)
{
    if (code->closed)
        return;
    memcpy(code->opening[0], code->entry_host, 5);
    memcpy(code->opening[1], code->entry_saved, 5);
    write_jump(code->entry_host, code->closed_host);
    write_jump(code->entry_saved, code->closed_saved);
    code->closed = true;
}

static void code_open(struct jit_code *code)
{
    if (!code->closed || code->dropped)
        return;
    memcpy(code->entry_host, code->opening[0], 5);
    memcpy(code->entry_saved, code->opening[1], 5);
    code->closed = false;
}

static bool has_break(const struct engine_points *points, uint64_t from, uint64_t bytes)
{
    size_t low = 0, high = points ? points->break_count : 0;
    size_t count = high;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (points->breaks[middle] < from)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && points->breaks[low] - from < bytes;
}

/* The run loop has to look at some boundary of the code at rip. */
static bool must_look(const struct jit *j, uint64_t rip, uint64_t bytes)
{
    return (j->match && j->match_rip - rip < bytes) || has_break(j->points, rip, bytes);
}

static struct jit_code **page_list(struct jit *j, uint64_t rip)
{
    uint64_t page = rip >> PAGE_SHIFT;
    return &j->pages[(page ^ page >> 12) & (PAGE_LISTS - 1)];
}

static void look_again(struct jit *j, struct jit_code *list)
{
    for (struct jit_code *code = list; code; code = code->page_next) {
        if (must_look(j, code->rip, code->bytes))
            code_close(code);
        else
            code_open(code);
    }
}

void jit_points_changed(struct emu *e)
{
    struct jit *j = e->jit;
    if (!j)
        return;
    j->points = e->points;
    for (unsigned i = 0; i < PAGE_LISTS; i++)
        look_again(j, j->pages[i]);
}

void jit_begin_run(struct emu *e)
{
    struct jit *j = e->jit;
    bool match = e->match != NULL;
    if (!match && !j->match)
        return;
    if (match && j->match && e->match->rip == j->match_rip)
        return;
    struct jit_code *before = j->match ? *page_list(j, j->match_rip) : NULL;
    j->match = match;
    j->match_rip = match ? e->match->rip : 0;
    look_again(j, before);
    if (match)
        look_again(j, *page_list(j, j->match_rip));
}

void jit_block_dropped(struct emu *e, struct block *b)
{
    struct jit *j = e->jit;
    if (!j || b->code_generation != j->generation)
        return;
    for (struct jit_code *code = b->code; code; code = code->next) {
        code_close(code);
        code->dropped = true;
        j->profile.drops++;
    }
    b->code = NULL;
}

void jit_blocks_flushed(struct emu *e)
{
    if (e->jit)
        e->jit->flushed = true;
}

/* All translations go. Not to be called while translated code waits for a handler. */
static void drop_everything(struct jit *j)
{
    j->used = j->thunks_end;
    j->pool_used = 0;
    j->generation = j->generation == UINT32_MAX ? 1 : j->generation + 1;
    j->key_slots = 0;
    j->pending = NULL;
    j->left_closed = NULL;
    j->flushed = false;
    memset(j->pages, 0, sizeof j->pages);
    memset(j->recent, 0, sizeof j->recent);
}

/* ---- finding ---- */

struct jit_code *jit_code_of(const struct jit *j, const struct block *b, uint64_t rip, unsigned key)
{
    if (b->code_generation != j->generation)
        return NULL;
    for (struct jit_code *code = b->code; code; code = code->next)
        if (code->rip == rip && code->key == key)
            return code;
    return NULL;
}

void jit_connect(struct jit *j, struct jit_link *link, const struct jit_code *code)
{
    const struct jit_code *owner = link->owner;
    if (code->key != owner->key || owner->dropped || code->closed)
        return;
    j->profile.links++;
    if (link->jump) {
        bool same = ((uintptr_t)code->host ^ (uintptr_t)owner->host) < PAGE_SIZE_BYTES;
        if (same)
            patch_rel32(link->jump, link->host_flags ? code->entry_host : code->entry_saved);
        return;
    }
    link->code = executable_of(j, code->entry_saved);
    link->epoch = j->e->link_epoch[link_half(code->rip)];
    link_remember(j->e, code->rip);
}

static void dump(struct jit *j, const struct jit_code *code, size_t start)
{
    char name[64];
    const uint8_t *at = j->writable + start;
    snprintf(name, sizeof(name), "guest_%" PRIx64 "%s", code->rip,
             (code->key & KEY_CONTEXT) == TLB_USER ? "_user" : "");
    jitdump_add(j->dump, name, (uint64_t)(uintptr_t)executable_of(j, at), at, j->used - start);
}

static struct jit_code *translate(struct jit *j, struct block *b, unsigned key)
{
    bool full = false;
    uint64_t rip = j->e->cpu.rip;
    size_t start = j->used;
    struct jit_code *code = jit_translate(j, b, rip, key, &full);
    if (full) {
        drop_everything(j);
        j->profile.recycles++;
        start = j->used;
        code = jit_translate(j, b, rip, key, &full);
    }
    if (!code) {
        b->heat = HEAT_NEVER;
        return NULL;
    }
    if (b->code_generation != j->generation)
        b->code = NULL;
    b->code_generation = j->generation;
    code->next = b->code;
    b->code = code;
    struct jit_code **list = page_list(j, rip);
    code->page_next = *list;
    *list = code;
    if (unlikely(j->dump != NULL))
        dump(j, code, start);
    return code;
}

static bool targets_valid(const struct emu *e, const struct jit_targets *t)
{
    return t->entry[0].rip && (!t->half[0] || t->epoch[0] == e->link_epoch[0]) &&
           (!t->half[1] || t->epoch[1] == e->link_epoch[1]);
}

/* What still leads to a dropped translation goes on to the one that replaces it. */
static void forward(struct jit_code *dropped, const struct jit_code *code)
{
    if (!dropped->dropped || dropped == code || dropped->rip != code->rip || dropped->key != code->key ||
        dropped->host != code->host)
        return;
    write_jump(dropped->entry_host, code->entry_host);
    write_jump(dropped->entry_saved, code->entry_saved);
}

/* Makes the target known to indirect branches, and to the jump that was looking for it. */
static void announce(struct jit *j, const struct jit_code *code)
{
    struct jit_targets *t = &j->targets[code->slot];
    if (!targets_valid(j->e, t)) {
        /* No address that ends in other bits than an entry's index is looked for there. */
        memset(t, 0, sizeof *t);
        t->entry[0].rip = 1;
        memcpy(t->epoch, j->e->link_epoch, sizeof t->epoch);
    }
    if (t->entry[code->rip & (TARGETS - 1)].rip != code->rip) {
        t->half[link_half(code->rip)] = true;
        link_remember(j->e, code->rip);
    }
    t->entry[code->rip & (TARGETS - 1)] =
        (struct jit_target){.rip = code->rip, .code = executable_of(j, code->entry_saved)};
    if (j->pending && j->pending->rip == code->rip)
        jit_connect(j, j->pending, code);
    if (j->left_closed)
        forward(j->left_closed, code);
    j->pending = NULL;
    j->left_closed = NULL;
}

static struct jit_code **recent(struct jit *j, uint64_t rip)
{
    return &j->recent[(rip ^ rip >> 13) & (RECENT - 1)];
}

const struct jit_code *jit_find_recent(struct emu *e)
{
    struct jit *j = e->jit;
    uint64_t rip = e->cpu.rip;
    const struct tlb_entry *t = &e->tlb[(rip >> PAGE_SHIFT) & (TLB_ENTRIES - 1)];
    const struct jit_code *code = *recent(j, rip);
    if (!code || code->rip != rip || code->closed || t->exec != (rip & ~PAGE_MASK) ||
        code->host != t->host + (rip & PAGE_MASK) || j->flushed || !vcpu_in_64bit_code(&e->cpu) ||
        code->key != current_key(e) || e->limit - e->position < JIT_MIN_STEPS)
        return NULL;
    announce(j, code);
    return code;
}

const struct jit_code *jit_find(struct emu *e, struct block *b)
{
    struct jit *j = e->jit;
    if (b->code_size != 8 || b->host2 || b->heat == HEAT_NEVER || e->limit - e->position < JIT_MIN_STEPS)
        return NULL;
    if (j->flushed)
        drop_everything(j);
    unsigned key = current_key(e);
    struct jit_code *code = jit_code_of(j, b, e->cpu.rip, key);
    if (unlikely(!code)) {
        if (++b->heat < j->threshold || must_look(j, e->cpu.rip, b->bytes))
            return NULL;
        b->heat = (uint16_t)j->threshold;
        code = translate(j, b, key);
    }
    if (!code || code->closed)
        return NULL;
    *recent(j, code->rip) = code;
    announce(j, code);
    return code;
}

/* ---- running ---- */

static uint32_t pack_flags(uint64_t rflags)
{
    return (uint32_t)((rflags & 0xff) << 8 | (rflags >> 11 & 1));
}

enum step jit_run(struct emu *e, const struct jit_code *code, bool *again)
{
    struct jit *j = e->jit;
    uint64_t remaining = e->limit - e->position;
    int32_t left = (int32_t)(remaining < JIT_SLICE_STEPS ? remaining : JIT_SLICE_STEPS) - LIMIT_MARGIN;
    position_t start = e->position;
    j->slice_end = e->position + (uint64_t)left;
    memcpy(j->epoch, e->link_epoch, sizeof j->epoch);
    j->key = code->key;
    j->slot = code->slot;
    e->block_gone = false;
    *again = false;
    j->profile.entries++;
    uintptr_t way = j->enter(executable_of(j, code->entry_saved), left, pack_flags(e->cpu.rflags));
    e->last_block = NULL;
    if (!way) {
        j->profile.exits_step++;
        j->profile.steps_translated += e->position - start;
        return j->step;
    }
    e->position = j->slice_end - (uint64_t)(int64_t)j->exit.left;
    e->cpu.rflags = stub_unpack_flags(e->cpu.rflags, j->exit.flags);
    j->profile.steps_translated += e->position - start;
    unsigned kind = way & LINK_KINDS;
    if (kind == LINK_JUMP) {
        j->pending = (struct jit_link *)way;
        j->profile.exits_link++;
        e->cpu.rip = j->pending->rip;
        return STEP_NEXT;
    }
    struct jit_code *next = (struct jit_code *)(way - kind);
    e->cpu.rip = next->rip;
    j->left_closed = kind == LINK_CLOSED ? next : NULL;
    *again = kind == LINK_LIMIT_DEAD;
    j->profile.exits_limit += kind != LINK_CLOSED;
    j->profile.exits_closed += kind == LINK_CLOSED;
    return STEP_NEXT;
}

static void count_call(struct jit *j, const struct jit_site *site)
{
    if (site->last)
        j->profile.slow_branch++;
    else if (site->memory)
        j->profile.slow_memory++;
    else
        j->profile.handler_calls++;
}

/* Nothing that translated code knows of where code may be fetched was taken back. */
static bool may_stay(const struct jit *j, uint64_t rip)
{
    const struct emu *e = j->e;
    unsigned half = link_half(rip);
    if (likely(e->link_epoch[0] == j->epoch[0] && e->link_epoch[1] == j->epoch[1]))
        return true;
    return e->link_epoch[half] == j->epoch[half] && !j->targets[j->slot].half[!half];
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
    code->block->ungrouped = true;
    jit_block_dropped(e, code->block);
}

uint32_t jit_step(struct emu *e, const struct jit_site *site, struct jit_frame *frame)
{
    struct jit *j = e->jit;
    const struct plan *p = site->plan;
    e->cpu.gpr[GPR_R10] = frame->gpr[0];
    e->cpu.gpr[GPR_R11] = frame->gpr[1];
    e->cpu.gpr[GPR_R15] = frame->gpr[2];
    e->cpu.rflags = stub_unpack_flags(e->cpu.rflags, frame->flags);
    e->cpu.rip = site->rip;
    e->next_rip = site->rip + p->length;
    e->position = j->slice_end - (uint64_t)(int64_t)frame->left - (uint64_t)(int64_t)site->back;
    count_call(j, site);

    unsigned cpl = vcpu_cpl(&e->cpu);
    uint64_t removals = e->tlb_removals;
    enum step step = site->string && jit_string(e, p) ? STEP_NEXT : p->fn(e, p);
    if (likely(step == STEP_NEXT || (step == STEP_LEAVE && site->string))) {
        e->cpu.rip = e->next_rip;
        e->position++;
        int64_t left = (int64_t)(j->slice_end - e->position) - (site->back - 1);
        if (unlikely(site->group_failed))
            note_failure(e, site->code);
        bool stay = !site->last && !site->group_failed && (!site->groups || removals == e->tlb_removals) &&
                    left >= 0 && !e->block_gone && !e->boundary_stop && may_stay(j, site->rip) &&
                    current_key(e) == j->key;
        if (likely(stay)) {
            frame->left = (int32_t)left;
            frame->gpr[0] = e->cpu.gpr[GPR_R10];
            frame->gpr[1] = e->cpu.gpr[GPR_R11];
            frame->gpr[2] = e->cpu.gpr[GPR_R15];
            frame->flags = pack_flags(e->cpu.rflags);
            return 0;
        }
        j->step = STEP_NEXT;
        return 1;
    }
    if (unlikely(e->points != NULL) && (step == STEP_JUMP || step == STEP_LEAVE))
        points_note_instruction(e, p, cpl);
    if (step == STEP_EXIT || step == STEP_LEAVE)
        e->cpu.rip = e->next_rip;
    if (step == STEP_EXIT || step == STEP_LEAVE || step == STEP_JUMP || step == STEP_AGAIN)
        e->position++;
    j->step = step;
    return 1;
}

/* ---- life ---- */

void jit_set_stages(struct emu *e, enum emu_stages stages)
{
    if (!e->jit)
        return;
    e->jit->stages = stages;
    e->jit->threshold = stages == EMU_STAGE_2_ONLY ? 1 : THRESHOLD_MIXED;
}

bool jit_wanted(const struct emu *e)
{
    return e->jit && e->jit->stages != EMU_STAGE_1_ONLY;
}

struct jit *jit_create(struct emu *e)
{
    if (!__builtin_cpu_supports("bmi2") || (uintptr_t)e + sizeof(*e) > INT32_MAX)
        return NULL;
    struct jit *j = jit_low_memory(sizeof(*j));
    if (!j)
        return NULL;
    j->e = e;
    j->pool = jit_low_memory(POOL_BYTES);
    j->translation = jit_translation_create();
    if (!j->pool || !j->translation || code_arena_create(&j->arena, ARENA_BYTES, NULL) < 0) {
        jit_destroy(j);
        return NULL;
    }
    j->writable = code_arena_writable(j->arena);
    j->executable = code_arena_executable(j->arena);
    j->generation = 1;
    j->sets_all = jit_probe_flags();
    j->threshold = THRESHOLD_MIXED;
    jit_make_thunks(j);
    return j;
}

void jit_destroy(struct jit *j)
{
    if (!j)
        return;
    jitdump_close(j->dump);
    jit_translation_destroy(j->translation);
    code_arena_destroy(j->arena);
    jit_low_memory_free(j->pool, POOL_BYTES);
    jit_low_memory_free(j, sizeof(*j));
}

int jit_dump_to(struct jit *j, const char *folder, struct error *err)
{
    jitdump_close(j->dump);
    j->dump = NULL;
    return jitdump_create(&j->dump, folder, err);
}

const struct emu_profile *jit_profile(const struct emu *e)
{
    struct emu_profile *profile = &e->jit->profile;
    profile->steps_stage1 = e->steps_stage1;
    return profile;
}
