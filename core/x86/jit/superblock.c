/*
 * Superblocks: blocks that follow each other, as one translation. Its inner branches are side exits; flags, page lookups, vector
 * registers and the count of steps are carried over from block to block, and loops are unrolled.
 *
 * Which blocks: where the slices of a run end is a sample of what runs often. From a block that was hit SAMPLES times, stage 1 executes what
 * comes next, and the path that it takes is what is translated. When one of its blocks is dropped, the superblock is. When they lie on
 * several pages, it is entered only while these are known to be where they were (jit_code.epoch).
 */
#include "core/x86/jit/internal.h"

#define SAMPLES       2u
#define SAMPLES_NEVER UINT8_MAX

void superblock_sample(struct jit *j, struct jit_code *code)
{
    if (code->part_count || code->dropped || code->samples == SAMPLES_NEVER || ++code->samples < SAMPLES)
        return;
    code->samples = SAMPLES_NEVER;
    j->recording = (struct jit_recording){.head = code};
}

bool superblock_wanted(struct jit *j, struct jit_code *code)
{
    if (j->stages != EMU_STAGE_2_ONLY)
        return false;
    superblock_sample(j, code);
    return j->recording.head == code;
}

bool superblock_check(struct jit *j, struct jit_code *code)
{
    struct emu *e = j->e;
    for (unsigned i = 0; i < code->part_count; i++) {
        const struct jit_part *part = &code->part[i];
        const struct tlb_entry *t = &e->tlb[(part->rip >> PAGE_SHIFT) & (TLB_ENTRIES - 1)];
        if (t->exec != (part->rip & ~PAGE_MASK))
            return false;
        if (t->host + (part->rip & PAGE_MASK) != part->block->host) {
            jit_code_drop(j, code);
            return false;
        }
        link_remember(e, part->rip);
    }
    code->epoch = e->link_epoch[link_half(code->rip)];
    return true;
}

bool jit_records(const struct emu *e)
{
    return e->jit && e->jit->recording.head;
}

/* The path so far becomes a superblock, if it is worth it. */
static void finish(struct jit *j)
{
    struct jit_recording *r = &j->recording;
    struct jit_code *head = r->head;
    struct jit_code *code = NULL;
    uint64_t start = emu_profile_now_ns(j->e);
    if (jit_must_look_at(j, r->part, r->count)) /* stage 1 came past a break address, or a landmark's RIP */
        head->samples = 0;                      /* another time */
    else if (r->count > 1 && !head->dropped && !head->closed)
        code = jit_translate_superblock(j, r);
    j->e->translate_ns += emu_profile_now_ns(j->e) - start;
    r->head = NULL;
    if (!code)
        return;
    jit_publish(j, code);
    if (!superblock_check(j, code)) {
        jit_code_drop(j, code);
        return;
    }
    head->super = code;
    jit_redirect(j, head, code);
}

void jit_record_end(struct emu *e)
{
    finish(e->jit);
}

void jit_record(struct emu *e, struct block *b, uint64_t rip, enum step step)
{
    struct jit *j = e->jit;
    struct jit_recording *r = &j->recording;
    const struct jit_code *head = r->head;
    bool fits = r->count < SUPERBLOCK_PARTS && r->steps + b->count <= SUPERBLOCK_STEPS &&
                link_half(rip) == link_half(head->rip) && !b->host2 && !b->dropped;
    if (r->count == 0 && rip != head->rip) {
        r->head->samples = 0;
        r->head = NULL;
        return;
    }
    if (fits) {
        r->part[r->count++] = (struct jit_part){.block = b, .rip = rip};
        r->steps += b->count;
    }
    if (!fits || (step != STEP_NEXT && step != STEP_JUMP) || jit_current_key(e) != head->key)
        finish(j);
}
