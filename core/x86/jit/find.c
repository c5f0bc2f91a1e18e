/* Finding the translation for CS:RIP, and telling links and indirect branches where it is. */
#include <inttypes.h>
#include <stdio.h>

#include "core/x86/jit/internal.h"

#define HEAT_NEVER UINT16_MAX

/* ---- keys ---- */

unsigned jit_current_key(const struct emu *e)
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
    if (vcpu_cpl(s) == 0)
        key |= KEY_CPL0;
    const uint16_t x87_masks = 0x3f;
    if (available && (s->fpu.fcw & x87_masks) == x87_masks)
        key |= KEY_X87;
    return key;
}

unsigned jit_key_slot(struct jit *j, unsigned key)
{
    for (unsigned i = 0; i < j->key_slots; i++)
        if (j->key_of_slot[i] == key)
            return i;
    if (j->key_slots == KEY_SLOTS)
        return KEY_SLOTS;
    struct jit_targets *t = &j->targets[j->key_slots];
    j->key_of_slot[j->key_slots] = (uint8_t)key;
    memset(t, 0, sizeof *t);
    /* Nothing is known, of address 0 either: this one belongs to another entry. */
    t->entry[0].rip = 1;
    return j->key_slots++;
}

/* ---- indirect branches ---- */

/* As put_find_target() has it. */
static unsigned target_index(uint64_t rip)
{
    return (unsigned)(rip << 1 | rip >> 63) & (TARGETS - 1);
}

static void target_clear(struct jit_targets *t, unsigned index)
{
    t->entry[index].rip = index == 0;
}

void jit_links_forgotten(struct emu *e, unsigned half)
{
    struct jit *j = e->jit;
    for (unsigned slot = 0; j && slot < j->key_slots; slot++) {
        struct jit_targets *t = &j->targets[slot];
        bool all = t->known_count[half] == TARGETS_KNOWN;
        for (unsigned i = half; i < TARGETS && all; i += 2)
            target_clear(t, i);
        for (unsigned i = 0; i < t->known_count[half] && !all; i++)
            target_clear(t, t->known[half][i]);
        t->known_count[half] = 0;
    }
}

static void remember_target(struct jit *j, const struct jit_code *code)
{
    struct jit_targets *t = &j->targets[code->slot];
    unsigned half = link_half(code->rip), index = target_index(code->rip);
    const void *entry = executable_of(j, code->entry_saved);
    if (t->entry[index].rip == code->rip && t->entry[index].code == entry)
        return;
    if (t->known_count[half] < TARGETS_KNOWN)
        t->known[half][t->known_count[half]++] = (uint16_t)index;
    t->entry[index] = (struct jit_target){.rip = code->rip, .code = entry};
    link_remember(j->e, code->rip);
}

/* ---- links ---- */

void jit_redirect(struct jit *j, struct jit_code *from, struct jit_code *to)
{
    struct jit_link *link = from->incoming;
    from->incoming = NULL;
    while (link) {
        struct jit_link *next = link->next;
        link->next = to->incoming;
        to->incoming = link;
        if (link->jump)
            patch_rel32(link->jump, link->host_flags ? to->entry_host : to->entry_saved);
        else
            link->code = executable_of(j, to->entry_saved);
        link = next;
    }
}

/* Makes the link go to code straight away, if it can. */
static void connect(struct jit *j, struct jit_link *link, struct jit_code *code)
{
    const struct jit_code *owner = link->owner;
    if (code->key != link->key || owner->dropped || code->closed)
        return;
    j->profile.links++;
    if (link->jump) {
        if ((size_t)(code->host - link->page) >= PAGE_SIZE_BYTES)
            return;
        patch_rel32(link->jump, link->host_flags ? code->entry_host : code->entry_saved);
    } else {
        link->code = executable_of(j, code->entry_saved);
        link->epoch = j->e->link_epoch[link_half(code->rip)];
        link_remember(j->e, code->rip);
    }
    if (!link->listed) {
        link->listed = true;
        link->next = code->incoming;
        code->incoming = link;
    }
}

/* What still leads to a dropped translation goes on to the one that replaces it. */
static void forward(struct jit_code *dropped, const struct jit_code *code)
{
    if (!dropped->dropped || dropped == code || dropped->rip != code->rip || dropped->key != code->key ||
        dropped->host != code->host)
        return;
    put_jump_at(dropped->entry_host, code->entry_host);
    put_jump_at(dropped->entry_saved, code->entry_saved);
}

/* Makes the target known to indirect branches, and to the jump that was looking for it. */
static void announce(struct jit *j, struct jit_code *code)
{
    if (code->super && !code->super->closed)
        code = code->super;
    remember_target(j, code);
    if (j->pending && j->pending->rip == code->rip)
        connect(j, j->pending, code);
    if (j->left_closed)
        forward(j->left_closed, code);
    j->pending = NULL;
    j->left_closed = NULL;
}

/* ---- translations ---- */

/* What it was made to is the end of what was made. */
static void dump(struct jit *j, const struct jit_code *code)
{
    char name[64];
    const uint8_t *at = code->closed_host;
    snprintf(name, sizeof(name), "guest_%" PRIx64 "%s%s", code->rip, code->part_count ? "_super" : "",
             (code->key & KEY_CONTEXT) == TLB_USER ? "_user" : "");
    jitdump_add(j->dump, name, (uint64_t)(uintptr_t)executable_of(j, at), at,
                (size_t)(j->writable + j->used - at));
}

/* The run's limit leaves room for it. */
static bool fits(const struct emu *e, const struct jit_code *code)
{
    return e->limit - e->position >= code->steps + JIT_DEAD_STEPS;
}

/* A translation of the block for rip and key that can be entered, or NULL; *any: there is one that cannot. */
static struct jit_code *code_of(const struct jit *j, const struct block *b, uint64_t rip, unsigned key,
                                bool *any)
{
    *any = false;
    if (b->code_generation != j->generation)
        return NULL;
    for (struct jit_code *code = b->code; code; code = code->next) {
        if (code->rip != rip || code->key != key || code->dropped)
            continue;
        *any = true;
        if (!code->closed && fits(j->e, code))
            return code;
    }
    return NULL;
}

static void claim(const struct jit *j, struct block *b)
{
    if (b->code_generation == j->generation)
        return;
    b->code_generation = j->generation;
    b->code = NULL;
    b->parts = NULL;
}

static void list_part(struct jit *j, struct jit_part *part)
{
    struct jit_part **list = jit_page_list(j, part->rip);
    part->page_next = *list;
    *list = part;
}

void jit_publish(struct jit *j, struct jit_code *code)
{
    struct block *b = code->block;
    claim(j, b);
    code->next = b->code;
    b->code = code;
    code->only = (struct jit_part){.code = code, .block = b, .rip = code->rip};
    if (!code->part_count)
        list_part(j, &code->only);
    for (unsigned i = 0; i < code->part_count; i++) {
        struct jit_part *part = &code->part[i];
        claim(j, part->block);
        part->code = code;
        part->next = part->block->parts;
        part->block->parts = part;
        list_part(j, part);
    }
    if (unlikely(j->dump != NULL))
        dump(j, code);
}

static struct jit_code *translate(struct jit *j, struct block *b, unsigned key)
{
    bool full = false;
    uint64_t rip = j->e->cpu.rip, start = emu_profile_now_ns(j->e);
    struct jit_code *code = jit_translate(j, b, rip, key, &full);
    if (full) {
        jit_drop_everything(j);
        j->profile.recycles++;
        code = jit_translate(j, b, rip, key, &full);
    }
    j->e->translate_ns += emu_profile_now_ns(j->e) - start;
    if (!code) {
        b->heat = HEAT_NEVER;
        return NULL;
    }
    jit_publish(j, code);
    return code;
}

static struct jit_code **recent(struct jit *j, uint64_t rip, unsigned key)
{
    return &j->recent[(rip ^ rip >> 16 ^ (uint64_t)key << 7) & (RECENT - 1)];
}

static void note_mapped(struct emu *e, struct jit_code *code)
{
    code->entry_epoch = e->link_epoch[link_half(code->rip)];
    link_remember(e, code->rip);
}

/*
 * The bytes that it starts with are what is to be executed at its address. (A superblock asks for its other pages itself.) The key says
 * for which kind of access the TLB was asked.
 */
static bool is_mapped(struct emu *e, struct jit_code *code)
{
    uint64_t rip = code->rip;
    if (likely(code->entry_epoch == e->link_epoch[link_half(rip)]))
        return true;
    const struct tlb_entry *t = &e->tlb[(rip >> PAGE_SHIFT) & (TLB_ENTRIES - 1)];
    if (t->exec != (rip & ~PAGE_MASK) || code->host != t->host + (rip & PAGE_MASK))
        return false;
    note_mapped(e, code);
    return true;
}

const struct jit_code *jit_find_recent(struct emu *e)
{
    struct jit *j = e->jit;
    uint64_t rip = e->cpu.rip;
    unsigned key = jit_current_key(e);
    struct jit_code *code = *recent(j, rip, key);
    if (!code || code->rip != rip || code->key != key || code->closed || j->flushed ||
        !vcpu_in_64bit_code(&e->cpu) || j->recording.head || !fits(e, code) || !is_mapped(e, code) ||
        superblock_wanted(j, code))
        return NULL;
    announce(j, code);
    return code;
}

const struct jit_code *jit_find(struct emu *e, struct block *b)
{
    struct jit *j = e->jit;
    if (b->code_size != 8 || b->host2 || b->heat == HEAT_NEVER || j->recording.head)
        return NULL;
    if (j->flushed)
        jit_drop_everything(j);
    unsigned key = jit_current_key(e);
    bool any;
    struct jit_code *code = code_of(j, b, e->cpu.rip, key, &any);
    if (unlikely(!code)) {
        if (any || ++b->heat < j->threshold || jit_must_look(j, e->cpu.rip, b->bytes))
            return NULL;
        b->heat = (uint16_t)j->threshold;
        code = translate(j, b, key);
    }
    if (!code || superblock_wanted(j, code))
        return NULL;
    note_mapped(e, code); /* that is how the block was found */
    *recent(j, code->rip, key) = code->super && !code->super->closed ? code->super : code;
    announce(j, code);
    return code;
}
