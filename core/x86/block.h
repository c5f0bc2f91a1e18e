/*
 * Decoded code: straight runs of plans, found by the physical address of their first byte.
 *
 * A block holds consecutive instructions of one RAM page and one code size, up to a control transfer, the end of the
 * page or BLOCK_MAX_PLANS. An instruction that lies on two pages is a block of its own, which is only valid for
 * that pair of pages. Nothing else of the vCPU's state enters a block, so it is shared by all virtual addresses,
 * address spaces and privilege levels; whether the code may be fetched at all is asked of the TLB on each entry, or known from a link.
 *
 * A write to a page with RAM_PAGE_CODE drops the blocks that hold a written byte. Dropped blocks stay readable until
 * the next block_lookup that decodes, so the instruction that made the write can finish.
 */
#ifndef DEJAVM_CORE_X86_BLOCK_H
#define DEJAVM_CORE_X86_BLOCK_H

#include "core/x86/internal.h"

#define BLOCK_MAX_PLANS 32u

/*
 * Where a block of 64-bit code went on: valid while no translation was taken back (link_epoch) and for the same kind of access
 * (TLB set), so that neither TLB nor hash need to be asked.
 */
struct block_link {
    uint64_t rip;
    const struct tlb_entry *tlb;
    uint64_t epoch;
    struct block *to;
};

struct block {
    const uint8_t *host;  /* first byte, in the RAM mapping: the key, with code_size */
    const uint8_t *host2; /* of an instruction on two pages: start of the second page; else NULL */
    struct block *hash_next;
    struct block *page_next[2]; /* lists of the page(s) that hold the code */
    uint16_t bytes;
    uint8_t code_size;
    uint8_t count;
    bool dropped;
    uint8_t link_turn;    /* the link to be replaced next */
    bool ungrouped;       /* it is translated without groups (jit/translate_group.c) */
    bool super_ungrouped; /* superblocks that start with it are */
    uint8_t super_drops;  /* of these that were dropped */
    uint16_t heat;        /* executions by stage 1, until it is translated */
    uint32_t code_generation;
    struct jit_code *code;  /* translations, valid for jit.generation == code_generation (jit/internal.h) */
    struct jit_part *parts; /* superblocks that it is in; the same */
    struct block_link link[2];
    struct plan plan[];
};

#define BLOCK_RECENT_ENTRIES 8192u

struct block_cache {
    struct block *recent[BLOCK_RECENT_ENTRIES]; /* last block found for a hash of its address */
    struct block **heads;
    struct code_page **pages; /* by RAM page number; NULL where no code was decoded */
    struct code_page *page_list;
    struct code_page *page_free;
    uint64_t page_count;
    uint8_t *memory;
    size_t used;
    uint64_t generation; /* grows with each flush: a block under construction is void then */
};

static inline size_t block_hash(const uint8_t *host)
{
    uintptr_t h = (uintptr_t)host;
    return (size_t)(h ^ (h >> 13));
}

/*
 * The block that starts at CS:RIP: STEP_NEXT and *out; STEP_FAULT where the fetch faults, STEP_STOP with e->error
 * when memory for decoded code is not to be had. A block whose bytes reach beyond the code segment's limit is
 * cut by the caller through block_usable().
 */
enum step block_find(struct emu *e, struct block **out);

/* block_find without its fast path. */
enum step block_find_slow(struct emu *e, uint64_t linear, unsigned size, struct block **out);

#endif
