#include "core/x86/block.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/x86/jit/jit.h"

#define BLOCK_MEMORY_BYTES ((size_t)64 << 20)
#define BLOCK_HEADS        ((size_t)1 << 16)
#define LINE_SHIFT         6

/* The blocks of one RAM page, and which of its 64-byte lines they touch. */
struct code_page {
    uint64_t page;
    uint64_t lines;
    struct block *blocks;   /* linked by page_next[0] */
    struct block *spanning; /* blocks whose second page this is, linked by page_next[1] */
    struct code_page *next;
};

struct block_cache *block_cache_create(const struct guest_ram *ram)
{
    struct block_cache *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->page_count = ram_page_count(ram);
    c->heads = calloc(BLOCK_HEADS, sizeof(struct block *));
    c->pages = calloc(c->page_count, sizeof(struct code_page *));
    c->memory = mmap(NULL, BLOCK_MEMORY_BYTES, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (c->memory == MAP_FAILED)
        c->memory = NULL;
    else
        (void)madvise(c->memory, BLOCK_MEMORY_BYTES,
                      MADV_HUGEPAGE); /* fewer faults; it is filled from its start */
    if (!c->heads || !c->pages || !c->memory) {
        block_cache_destroy(c);
        return NULL;
    }
    return c;
}

static void free_page_list(struct code_page *list)
{
    while (list) {
        struct code_page *next = list->next;
        free(list);
        list = next;
    }
}

void block_cache_destroy(struct block_cache *c)
{
    if (!c)
        return;
    free_page_list(c->page_list);
    free_page_list(c->page_free);
    if (c->memory)
        munmap(c->memory, BLOCK_MEMORY_BYTES);
    free(c->heads);
    free(c->pages);
    free(c);
}

void block_cache_flush(struct emu *e)
{
    struct block_cache *c = e->blocks;
    while (c->page_list) {
        struct code_page *page = c->page_list;
        c->page_list = page->next;
        c->pages[page->page] = NULL;
        e->ram->page_flags[page->page] &= (uint8_t)~RAM_PAGE_CODE;
        page->next = c->page_free;
        c->page_free = page;
    }
    memset(c->recent, 0, sizeof(c->recent));
    memset(c->heads, 0, BLOCK_HEADS * sizeof(struct block *));
    c->used = 0;
    c->generation++;
    e->last_block = NULL;
    link_forget(e, 0);
    link_forget(e, 1);
    e->block_gone = true;
    jit_blocks_flushed(e);
}

/* ---- dropping ---- */

/* The lines that [from, to) of a page touches. */
static uint64_t line_mask(size_t from, size_t to)
{
    unsigned first = (unsigned)(from >> LINE_SHIFT), last = (unsigned)((to - 1) >> LINE_SHIFT);
    return (~0ull << first) & (~0ull >> (63 - last));
}

/* Where block b lies on its first (which = 0) or second page. */
static void block_extent(const struct block *b, unsigned which, size_t *from, size_t *to)
{
    size_t start = (uintptr_t)b->host & PAGE_MASK;
    *from = which ? 0 : start;
    *to = which ? start + b->bytes - PAGE_SIZE_BYTES : start + b->bytes;
    if (*to > PAGE_SIZE_BYTES)
        *to = PAGE_SIZE_BYTES;
}

static void unhash(struct emu *e, struct block *b)
{
    struct block_cache *c = e->blocks;
    size_t hash = block_hash(b->host);
    struct block **link = &c->heads[hash & (BLOCK_HEADS - 1)];
    while (*link && *link != b)
        link = &(*link)->hash_next;
    if (*link)
        *link = b->hash_next;
    if (c->recent[hash & (BLOCK_RECENT_ENTRIES - 1)] == b)
        c->recent[hash & (BLOCK_RECENT_ENTRIES - 1)] = NULL;
    b->dropped = true;
    jit_block_dropped(e, b);
}

/* Drops the blocks of one list that overlap [from, to), and those already dropped; returns the others' lines. */
static uint64_t sweep(struct emu *e, struct block **link, unsigned which, size_t from, size_t to)
{
    uint64_t lines = 0;
    while (*link) {
        struct block *b = *link;
        size_t start, end;
        block_extent(b, which, &start, &end);
        if (!b->dropped && start < to && from < end) {
            unhash(e, b);
            e->block_gone = true;
        }
        if (b->dropped) {
            *link = b->page_next[which];
        } else {
            lines |= line_mask(start, end);
            link = &b->page_next[which];
        }
    }
    return lines;
}

static void forget_page(struct emu *e, struct code_page *page)
{
    struct block_cache *c = e->blocks;
    struct code_page **link = &c->page_list;
    while (*link != page)
        link = &(*link)->next;
    *link = page->next;
    c->pages[page->page] = NULL;
    e->ram->page_flags[page->page] &= (uint8_t)~RAM_PAGE_CODE;
    page->next = c->page_free;
    c->page_free = page;
}

static void invalidate_in_page(struct emu *e, uint64_t page_number, size_t from, size_t to)
{
    struct code_page *page = e->blocks->pages[page_number];
    if (!page || !(page->lines & line_mask(from, to)))
        return;
    page->lines = sweep(e, &page->blocks, 0, from, to);
    page->lines |= sweep(e, &page->spanning, 1, from, to);
    if (!page->lines)
        forget_page(e, page);
}

void block_invalidate(struct emu *e, uint64_t offset, size_t length)
{
    while (length) {
        size_t from = offset & PAGE_MASK;
        size_t part = PAGE_SIZE_BYTES - from < length ? PAGE_SIZE_BYTES - from : length;
        uint64_t page = offset >> PAGE_SHIFT;
        if (page >= e->blocks->page_count)
            return;
        invalidate_in_page(e, page, from, from + part);
        offset += part;
        length -= part;
    }
}

/* ---- building ---- */

static struct code_page *page_get(struct emu *e, uint64_t number)
{
    struct block_cache *c = e->blocks;
    struct code_page *page = c->pages[number];
    if (page)
        return page;
    page = c->page_free;
    if (page)
        c->page_free = page->next;
    else
        page = malloc(sizeof(*page));
    if (!page)
        return NULL;
    *page = (struct code_page){.page = number, .next = c->page_list};
    c->page_list = page;
    c->pages[number] = page;
    e->ram->page_flags[number] |= RAM_PAGE_CODE;
    tlb_forbid_write(e, number);
    return page;
}

/* After these the next instruction in memory is rarely the next one executed. */
static bool ends_block(const struct plan *p)
{
    switch (p->mnemonic) {
    case ZYDIS_MNEMONIC_JMP:
    case ZYDIS_MNEMONIC_CALL:
    case ZYDIS_MNEMONIC_RET:
    case ZYDIS_MNEMONIC_JB:
    case ZYDIS_MNEMONIC_JBE:
    case ZYDIS_MNEMONIC_JCXZ:
    case ZYDIS_MNEMONIC_JECXZ:
    case ZYDIS_MNEMONIC_JL:
    case ZYDIS_MNEMONIC_JLE:
    case ZYDIS_MNEMONIC_JNB:
    case ZYDIS_MNEMONIC_JNBE:
    case ZYDIS_MNEMONIC_JNL:
    case ZYDIS_MNEMONIC_JNLE:
    case ZYDIS_MNEMONIC_JNO:
    case ZYDIS_MNEMONIC_JNP:
    case ZYDIS_MNEMONIC_JNS:
    case ZYDIS_MNEMONIC_JNZ:
    case ZYDIS_MNEMONIC_JO:
    case ZYDIS_MNEMONIC_JP:
    case ZYDIS_MNEMONIC_JRCXZ:
    case ZYDIS_MNEMONIC_JS:
    case ZYDIS_MNEMONIC_JZ:
    case ZYDIS_MNEMONIC_LOOP:
    case ZYDIS_MNEMONIC_LOOPE:
    case ZYDIS_MNEMONIC_LOOPNE:
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
    case ZYDIS_MNEMONIC_INT:
    case ZYDIS_MNEMONIC_INT1:
    case ZYDIS_MNEMONIC_INT3:
    case ZYDIS_MNEMONIC_SYSCALL:
    case ZYDIS_MNEMONIC_SYSRET:
    case ZYDIS_MNEMONIC_SYSENTER:
    case ZYDIS_MNEMONIC_SYSEXIT:
    case ZYDIS_MNEMONIC_HLT:
    case ZYDIS_MNEMONIC_UD0:
    case ZYDIS_MNEMONIC_UD1:
    case ZYDIS_MNEMONIC_UD2:
    case ZYDIS_MNEMONIC_INVALID:
        return true;
    default:
        return false;
    }
}

static enum step no_memory(struct emu *e)
{
    error_set(&e->error, -ENOMEM, "no memory for decoded guest code");
    return STEP_STOP;
}

/* Where the next block will be built; room for a full one. */
static struct block *block_space(struct emu *e)
{
    if (BLOCK_MEMORY_BYTES - e->blocks->used < sizeof(struct block) + BLOCK_MAX_PLANS * sizeof(struct plan))
        block_cache_flush(e);
    return (struct block *)(void *)(e->blocks->memory + e->blocks->used);
}

/* Enters a finished block into the hash and the lists of its pages. */
static enum step publish(struct emu *e, struct block *b, uint64_t ram_page, uint64_t ram_page2)
{
    struct block_cache *c = e->blocks;
    struct code_page *first = page_get(e, ram_page);
    struct code_page *second = b->host2 ? page_get(e, ram_page2) : NULL;
    if (!first || (b->host2 && !second))
        return no_memory(e);
    size_t from, to;
    block_extent(b, 0, &from, &to);
    first->lines |= line_mask(from, to);
    b->page_next[0] = first->blocks;
    first->blocks = b;
    if (second) {
        block_extent(b, 1, &from, &to);
        second->lines |= line_mask(from, to);
        b->page_next[1] = second->spanning;
        second->spanning = b;
    }
    e->insns_decoded += b->count;
    struct block **head = &c->heads[block_hash(b->host) & (BLOCK_HEADS - 1)];
    b->hash_next = *head;
    *head = b;
    size_t bytes = sizeof(*b) + b->count * sizeof(struct plan);
    c->used += (bytes + 63) & ~(size_t)63;
    return STEP_NEXT;
}

/*
 * Decodes the block at host. False: its first instruction continues on the next page. Decoding may have to empty the
 * cache (when host code runs out of room); then what was decoded so far refers to code that is gone, and all starts anew.
 */
static bool decode_block(struct emu *e, const uint8_t *host, unsigned size, struct block **out)
{
    size_t room = PAGE_SIZE_BYTES - ((uintptr_t)host & PAGE_MASK);
    for (;;) {
        struct block *b = block_space(e);
        uint64_t generation = e->blocks->generation;
        *b = (struct block){.host = host, .code_size = (uint8_t)size};
        while (b->count < BLOCK_MAX_PLANS && b->bytes < room) {
            struct plan *p = &b->plan[b->count];
            if (!plan_decode(e, host + b->bytes, room - b->bytes, size, p))
                break;
            if (e->blocks->generation != generation)
                break;
            b->bytes = (uint16_t)(b->bytes + p->length);
            b->count++;
            if (ends_block(p))
                break;
        }
        if (e->blocks->generation != generation)
            continue;
        *out = b;
        return b->count > 0;
    }
}

/* Decodes the instruction that starts at host and continues at host2. */
static struct block *decode_spanning(struct emu *e, const uint8_t *host, const uint8_t *host2, unsigned size)
{
    uint8_t bytes[15];
    size_t room = PAGE_SIZE_BYTES - ((uintptr_t)host & PAGE_MASK);
    memcpy(bytes, host, room);
    memcpy(bytes + room, host2, sizeof(bytes) - room);
    for (;;) {
        struct block *b = block_space(e);
        uint64_t generation = e->blocks->generation;
        *b = (struct block){.host = host, .host2 = host2, .code_size = (uint8_t)size, .count = 1};
        int decoded = plan_decode(e, bytes, sizeof(bytes), size, &b->plan[0]);
        if (e->blocks->generation != generation)
            continue;
        b->bytes = b->plan[0].length;
        return decoded == 1 ? b : NULL;
    }
}

/* ---- finding ---- */

static struct block *hashed(struct emu *e, const uint8_t *host, const uint8_t *host2, unsigned size)
{
    struct block *b = e->blocks->heads[block_hash(host) & (BLOCK_HEADS - 1)];
    while (b && (b->host != host || b->code_size != size || b->host2 != host2))
        b = b->hash_next;
    return b;
}

/* Code outside RAM cannot be executed: there are no bytes that a replay could have. */
static enum step fetch(struct emu *e, gva_t linear, uint64_t *ram_page, const uint8_t **host)
{
    return mmu_fetch_page(e, linear, ram_page, host);
}

static enum step find_spanning(struct emu *e, uint64_t linear, unsigned size, uint64_t ram_page,
                               const uint8_t *host, struct block **out)
{
    uint64_t next = (linear & ~PAGE_MASK) + PAGE_SIZE_BYTES, ram_page2;
    if (size != 8)
        next = (uint32_t)next;
    else if (!is_canonical(next))
        return raise_exception_code(e, VEC_GP, 0);
    const uint8_t *host2;
    enum step step = fetch(e, next, &ram_page2, &host2);
    if (step != STEP_NEXT)
        return step;
    *out = hashed(e, host, host2, size);
    if (*out)
        return STEP_NEXT;
    uint64_t start = emu_profile_now_ns(e);
    *out = decode_spanning(e, host, host2, size);
    e->decode_ns += emu_profile_now_ns(e) - start;
    if (!*out) {
        error_set(&e->error, -EINVAL, "the instruction at linear address %#llx could not be decoded",
                  (unsigned long long)linear);
        return STEP_STOP;
    }
    return publish(e, *out, ram_page, ram_page2);
}

enum step block_find_slow(struct emu *e, uint64_t linear, unsigned size, struct block **out)
{
    if (size == 8 && !is_canonical(linear))
        return raise_exception_code(e, VEC_GP, 0);
    uint64_t ram_page;
    const uint8_t *page;
    enum step step = fetch(e, linear, &ram_page, &page);
    if (step != STEP_NEXT)
        return step;
    const uint8_t *host = page + (linear & PAGE_MASK);
    struct block *b = hashed(e, host, NULL, size);
    if (!b) {
        uint64_t start = emu_profile_now_ns(e);
        bool whole = decode_block(e, host, size, &b);
        e->decode_ns += emu_profile_now_ns(e) - start;
        if (!whole)
            return find_spanning(e, linear, size, ram_page, host, out);
        step = publish(e, b, ram_page, 0);
        if (step != STEP_NEXT)
            return step;
    }
    e->blocks->recent[block_hash(host) & (BLOCK_RECENT_ENTRIES - 1)] = b;
    *out = b;
    return STEP_NEXT;
}

/* The block that followed the last one here before, or NULL. */
static struct block *follow_link(const struct emu *e)
{
    const struct block *from = e->last_block;
    if (unlikely(!from))
        return NULL;
    for (unsigned i = 0; i < ARRAY_LEN(from->link); i++) {
        const struct block_link *l = &from->link[i];
        if (l->rip == e->cpu.rip && l->tlb == e->tlb && l->epoch == e->link_epoch[link_half(l->rip)] &&
            !l->to->dropped)
            return l->to;
    }
    return NULL;
}

static void make_link(struct emu *e, struct block *to)
{
    struct block *from = e->last_block;
    if (!from)
        return;
    link_remember(e, e->cpu.rip);
    from->link[from->link_turn++ % ARRAY_LEN(from->link)] = (struct block_link){
        .rip = e->cpu.rip, .tlb = e->tlb, .epoch = e->link_epoch[link_half(e->cpu.rip)], .to = to};
}

static enum step find(struct emu *e, unsigned size, struct block **out)
{
    uint64_t linear = e->cpu.rip;
    if (size != 8)
        linear = (uint32_t)(e->cpu.seg[SEG_CS].base + linear);
    const struct tlb_entry *t = &e->tlb[(linear >> PAGE_SHIFT) & (TLB_ENTRIES - 1)];
    if (likely(t->exec == (linear & ~PAGE_MASK))) {
        const uint8_t *host = t->host + (linear & PAGE_MASK);
        struct block *b = e->blocks->recent[block_hash(host) & (BLOCK_RECENT_ENTRIES - 1)];
        if (likely(b && b->host == host && b->code_size == size)) {
            *out = b;
            return STEP_NEXT;
        }
    }
    return block_find_slow(e, linear, size, out);
}

enum step block_find(struct emu *e, struct block **out)
{
    unsigned size = code_size(e);
    if (likely(size == 8)) {
        *out = follow_link(e);
        if (likely(*out && (*out)->code_size == 8)) {
            e->last_block = *out;
            return STEP_NEXT;
        }
    }
    enum step step = find(e, size, out);
    if (step != STEP_NEXT)
        return step;
    if (size == 8)
        make_link(e, *out);
    e->last_block = *out;
    return STEP_NEXT;
}
