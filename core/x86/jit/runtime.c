/* Stage 2: its memory, its life, and what closes and drops translations. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/x86/code_arena.h"
#include "core/x86/jit/internal.h"

#define ARENA_BYTES     ((size_t)64 << 20)
#define POOL_BYTES      ((size_t)24 << 20)
#define THRESHOLD_MIXED 16u

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

/* ---- closing and opening ---- */

static void code_close(struct jit_code *code)
{
    if (code->closed)
        return;
    memcpy(code->opening[0], code->entry_host, 5);
    memcpy(code->opening[1], code->entry_saved, 5);
    put_jump_at(code->entry_host, code->closed_host);
    put_jump_at(code->entry_saved, code->closed_saved);
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

bool jit_must_look(const struct jit *j, uint64_t rip, uint64_t bytes)
{
    return (j->match && j->match_rip - rip < bytes) || has_break(j->points, rip, bytes);
}

struct jit_part **jit_page_list(struct jit *j, uint64_t rip)
{
    uint64_t page = rip >> PAGE_SHIFT;
    return &j->pages[(page ^ page >> 12) & (PAGE_LISTS - 1)];
}

bool jit_must_look_at(const struct jit *j, const struct jit_part *parts, unsigned count)
{
    bool look = false;
    for (unsigned i = 0; i < count && !look; i++)
        look = jit_must_look(j, parts[i].rip, parts[i].block->bytes);
    return look;
}

static bool code_must_look(const struct jit *j, const struct jit_code *code)
{
    return code->part_count ? jit_must_look_at(j, code->part, code->part_count)
                            : jit_must_look(j, code->rip, code->bytes);
}

static void look_again(struct jit *j, const struct jit_part *list)
{
    for (const struct jit_part *part = list; part; part = part->page_next) {
        if (code_must_look(j, part->code))
            code_close(part->code);
        else
            code_open(part->code);
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
    struct jit_part *before = j->match ? *jit_page_list(j, j->match_rip) : NULL;
    j->match = match;
    j->match_rip = match ? e->match->rip : 0;
    look_again(j, before);
    if (match)
        look_again(j, *jit_page_list(j, j->match_rip));
}

void jit_code_drop(struct jit *j, struct jit_code *code)
{
    code_close(code);
    if (code->dropped)
        return;
    code->dropped = true;
    j->profile.drops++;
    if (code->plain && ++code->block->super_drops < SUPERBLOCK_DROPS)
        code->plain->samples = 0; /* another one may be made */
}

void jit_block_dropped(struct emu *e, struct block *b)
{
    struct jit *j = e->jit;
    if (!j)
        return;
    j->recording.head = NULL;
    if (b->code_generation != j->generation)
        return;
    for (struct jit_code *code = b->code; code; code = code->next)
        jit_code_drop(j, code);
    for (const struct jit_part *part = b->parts; part; part = part->next)
        jit_code_drop(j, part->code);
    b->code = NULL;
    b->parts = NULL;
}

void jit_blocks_flushed(struct emu *e)
{
    if (!e->jit)
        return;
    e->jit->flushed = true;
    e->jit->recording.head = NULL;
}

void jit_drop_everything(struct jit *j)
{
    j->used = j->thunks_end;
    j->pool_used = 0;
    j->generation = j->generation == UINT32_MAX ? 1 : j->generation + 1;
    j->key_slots = 0;
    j->pending = NULL;
    j->left_closed = NULL;
    j->recording.head = NULL;
    j->flushed = false;
    memset(j->pages, 0, sizeof j->pages);
    memset(j->recent, 0, sizeof j->recent);
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
    profile->decoded = e->insns_decoded;
    profile->decoded_anew = e->insns_decoded_anew;
    profile->decode_ns = e->decode_ns;
    profile->translate_ns = e->translate_ns;
    return profile;
}
