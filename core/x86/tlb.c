/* The software TLB, and the tracking of the page tables that it was made from (internal.h says why). */
#include <string.h>

#include "core/x86/jit/jit.h"
#include "core/x86/protect.h"

/* After so many writes to a page table its mark is dropped: the page may have been freed and hold data now. */
#define TABLE_WRITES_MAX 256u

/* Bits of CR3 that are the address of a table of 4 KiB, where they can be those of RAM (SDM 3, 4.5). */
#define ROOT_ADDRESS ((uint64_t)0x000ffffffffff000)

static bool entry_has(const struct emu *e, unsigned context, gva_t page)
{
    const struct tlb_entry *t = &e->tlb_sets[context][(page >> PAGE_SHIFT) & (TLB_ENTRIES - 1)];
    return t->read == page || t->write == page || t->exec == page;
}

static void entry_clear(struct emu *e, unsigned context, unsigned index)
{
    struct tlb_entry *t = &e->tlb_sets[context][index];
    t->read = t->write = t->exec = tlb_no_page(index);
}

void link_forget(struct emu *e, unsigned half)
{
    e->link_epoch[half]++;
    memset(e->link_pages[half], 0, sizeof e->link_pages[half]);
    jit_links_forgotten(e, half);
}

void tlb_flush(struct emu *e)
{
    e->tlb_removals++;
    link_forget(e, 0);
    link_forget(e, 1);
    for (unsigned c = 0; c < TLB_SETS; c++) {
        e->low_count[c] = 0;
        for (unsigned i = 0; i < TLB_ENTRIES && !e->tlb_clean[c]; i++)
            entry_clear(e, c, i);
        e->tlb_clean[c] = true;
    }
    e->dirty_generation = e->ram->dirty_generation;
}

void tlb_flush_page(struct emu *e, gva_t linear)
{
    gva_t page = linear & ~PAGE_MASK;
    e->tlb_removals++;
    uint64_t bit, *word = link_page_word(e, page, &bit);
    if (*word & bit)
        link_forget(e, link_half(page));
    for (unsigned c = 0; c < TLB_SETS; c++)
        if (entry_has(e, c, page))
            entry_clear(e, c, (page >> PAGE_SHIFT) & (TLB_ENTRIES - 1));
}

void tlb_flush_writes(struct emu *e)
{
    e->tlb_removals++;
    for (unsigned c = 0; c < TLB_SETS; c++)
        for (unsigned i = 0; i < TLB_ENTRIES && !e->tlb_clean[c]; i++)
            e->tlb_sets[c][i].write = tlb_no_page(i);
    e->dirty_generation = e->ram->dirty_generation;
}

void tlb_forbid_write(struct emu *e, uint64_t ram_page)
{
    const uint8_t *host = e->ram->host + (ram_page << PAGE_SHIFT);
    e->tlb_removals++;
    for (unsigned c = 0; c < TLB_SETS; c++)
        for (unsigned i = 0; i < TLB_ENTRIES && !e->tlb_clean[c]; i++) {
            struct tlb_entry *t = &e->tlb_sets[c][i];
            if (t->host == host)
                t->write = tlb_no_page(i);
        }
}

/* CR0.AM and AC act at CPL 3 only (SDM 3, 2.5). */
enum tlb_context tlb_context_of(const struct emu *e, enum rights rights)
{
    const struct vcpu_state *s = &e->cpu;
    if (rights == RIGHTS_USER)
        return (s->cr0 & CR0_AM) && (s->rflags & RFLAGS_AC) && vcpu_cpl(s) == 3 ? TLB_ALIGNED : TLB_USER;
    if (!(s->cr4 & CR4_SMAP))
        return TLB_KERNEL_AC;
    return rights == RIGHTS_KERNEL && (s->rflags & RFLAGS_AC) ? TLB_KERNEL_AC : TLB_KERNEL;
}

void tlb_select(struct emu *e)
{
    e->tlb = e->tlb_sets[tlb_context_of(e, rights_of_cpl(vcpu_cpl(&e->cpu)))];
}

/* ---- the lower half ---- */

static void clear_if_low(struct emu *e, unsigned context, unsigned index)
{
    const struct tlb_entry *t = &e->tlb_sets[context][index];
    if (!link_half(t->read | t->write | t->exec))
        entry_clear(e, context, index);
}

static void flush_low(struct emu *e)
{
    e->tlb_removals++;
    link_forget(e, 0);
    for (unsigned c = 0; c < TLB_SETS; c++) {
        bool all = e->low_count[c] == TLB_LOW_LOG;
        for (unsigned i = 0; i < (all ? TLB_ENTRIES : e->low_count[c]); i++)
            clear_if_low(e, c, all ? i : e->low_log[c][i]);
        e->low_count[c] = 0;
    }
}

/* ---- page tables in use ---- */

/* The slot of a page, or the free one where it would go. */
static struct table_page *table_slot(struct emu *e, uint64_t page)
{
    size_t i = (size_t)(page * 0x9e3779b97f4a7c15u >> 32);
    for (;; i++) {
        struct table_page *t = &e->tables[i & (TABLE_SLOTS - 1)];
        if (!t->used || t->page == page)
            return t;
    }
}

static void table_forget_all(struct emu *e)
{
    for (unsigned i = 0; i < TABLE_SLOTS; i++) {
        if (e->tables[i].used)
            e->ram->page_flags[e->tables[i].page] &= (uint8_t)~RAM_PAGE_TABLE;
        e->tables[i].used = false;
    }
    e->table_count = 0;
    tlb_flush(e);
}

/* The page lies in the lower half of the address space only. */
static bool is_lower(enum table_role role, gva_t base)
{
    return role == TABLE_LOWER || (role == TABLE_LOWEST && !link_half(base));
}

static void table_mark(struct emu *e, gpa_t entry, enum table_role role, gva_t base)
{
    uint64_t offset = ram_offset(e->ram, entry);
    if (offset == RAM_NO_OFFSET)
        return;
    uint64_t page = offset >> PAGE_SHIFT;
    struct table_page *t = table_slot(e, page);
    bool marked = t->used && (e->ram->page_flags[page] & RAM_PAGE_TABLE);
    e->table_count += !t->used;
    if (!marked)
        *t = (struct table_page){.page = (uint32_t)page, .used = true, .role = (uint8_t)role, .base = base};
    else if (t->role != role || (role == TABLE_LOWEST && t->base != base))
        t->role = is_lower(role, base) && is_lower(t->role, t->base) ? TABLE_LOWER : TABLE_ANY;
    if (!(e->ram->page_flags[page] & RAM_PAGE_TABLE)) {
        e->ram->page_flags[page] |= RAM_PAGE_TABLE;
        tlb_forbid_write(e, page);
    }
}

static enum table_role role_of(const struct emu *e, gva_t linear, const struct translation *t, unsigned index)
{
    if (index + 1 == t->tables && t->level == 1)
        return TABLE_LOWEST;
    if (!vcpu_in_long_mode(&e->cpu))
        return TABLE_ANY;
    return index == 0 ? TABLE_ROOT : link_half(linear) ? TABLE_ANY : TABLE_LOWER;
}

static void mark_tables(struct emu *e, gva_t linear, const struct translation *t)
{
    if (e->table_count + t->tables > TABLE_PAGES_MAX)
        table_forget_all(e);
    gva_t base = linear & (~(gva_t)0 << t->table_bits);
    for (unsigned i = 0; i < t->tables; i++)
        table_mark(e, t->entry[i], role_of(e, linear, t, i), base);
}

static uint64_t entry_size(const struct emu *e)
{
    return e->cpu.cr4 & CR4_PAE ? 8 : 4;
}

static gva_t code_linear(const struct emu *e)
{
    return vcpu_in_64bit_code(&e->cpu) ? e->cpu.rip : (uint32_t)(e->cpu.seg[SEG_CS].base + e->cpu.rip);
}

/* What is in the TLB was found through the present root, or stayed because that one says the same (tlb_switch_tables). */
static bool is_present_root(const struct emu *e, const struct table_page *t)
{
    return ram_offset(e->ram, e->cpu.cr3 & ROOT_ADDRESS) >> PAGE_SHIFT == t->page;
}

/* The entry at offset changes: false when all of the TLB has to go. */
static bool drop_translation(struct emu *e, const struct table_page *t, uint64_t offset, uint64_t entry_bytes)
{
    if (t->role == TABLE_LOWEST) {
        gva_t page = t->base + ((offset & PAGE_MASK) / entry_bytes << PAGE_SHIFT);
        tlb_flush_page(e, page);
        if (((page ^ code_linear(e)) & ~PAGE_MASK) == 0)
            e->block_gone = true; /* the code being executed was mapped by it */
        return true;
    }
    if (t->role == TABLE_ROOT && !is_present_root(e, t))
        return true;
    e->block_gone = true;
    bool lower =
        t->role == TABLE_LOWER || (t->role == TABLE_ROOT && (offset & PAGE_MASK) < PAGE_SIZE_BYTES / 2);
    if (lower)
        flush_low(e);
    return lower;
}

static void flush_range_of(struct emu *e, const struct table_page *t)
{
    uint64_t bytes = PAGE_SIZE_BYTES / entry_size(e) * PAGE_SIZE_BYTES;
    for (gva_t page = t->base; page - t->base < bytes; page += PAGE_SIZE_BYTES)
        tlb_flush_page(e, page);
    if (code_linear(e) - t->base < bytes)
        e->block_gone = true;
}

/* The page is no page table any longer, as far as is known. False when all of the TLB has to go. */
static bool table_forget(struct emu *e, struct table_page *t)
{
    t->writes = 0;
    if (t->role == TABLE_ANY)
        return false;
    if (t->role == TABLE_ROOT && is_present_root(e, t))
        return true;
    if (t->role == TABLE_LOWEST)
        flush_range_of(e, t);
    if (t->role == TABLE_LOWER) {
        flush_low(e);
        e->block_gone = true;
    }
    e->ram->page_flags[t->page] &= (uint8_t)~RAM_PAGE_TABLE;
    return true;
}

void table_written(struct emu *e, uint64_t offset, const void *data, size_t length)
{
    struct table_page *t = table_slot(e, offset >> PAGE_SHIFT);
    if (!t->used) { /* a mark of an earlier engine on this RAM */
        e->ram->page_flags[offset >> PAGE_SHIFT] &= (uint8_t)~RAM_PAGE_TABLE;
        return;
    }
    bool forget = false;
    /* Every format has P in bit 0 of its entry; an entry that was not present is in no translation. */
    uint64_t entry_bytes = entry_size(e);
    for (uint64_t at = offset & ~(entry_bytes - 1); at < offset + length && !forget; at += entry_bytes) {
        uint64_t from = at < offset ? offset : at;
        uint64_t to = at + entry_bytes < offset + length ? at + entry_bytes : offset + length;
        bool present = e->ram->host[at] & 1;
        if (present && memcmp(e->ram->host + from, (const uint8_t *)data + (from - offset), to - from) != 0)
            forget = !drop_translation(e, t, at, entry_bytes);
    }
    if (!forget && ++t->writes >= TABLE_WRITES_MAX)
        forget = !table_forget(e, t);
    if (forget)
        table_forget_all(e);
}

/* ---- another table ---- */

void tlb_switch_tables(struct emu *e, uint64_t old_cr3)
{
    const uint64_t root = ROOT_ADDRESS, upper = PAGE_SIZE_BYTES / 2;
    uint64_t old = ram_offset(e->ram, old_cr3 & root), new = ram_offset(e->ram, e->cpu.cr3 & root);
    bool paging = (e->cpu.cr0 & CR0_PG) && vcpu_in_long_mode(&e->cpu);
    if (!paging || old == RAM_NO_OFFSET || new == RAM_NO_OFFSET || e->table_count >= TABLE_PAGES_MAX ||
        memcmp(e->ram->host + old + upper, e->ram->host + new + upper, upper) != 0) {
        tlb_flush(e);
        return;
    }
    /* The same entries, A bits included, lead to the same pages: what stays depends on the new table now. */
    flush_low(e);
    table_mark(e, e->cpu.cr3 & root, TABLE_ROOT, 0);
}

/* ---- filling ---- */

/* The slot for a page: other pages' tags are dropped from it. */
static struct tlb_entry *slot_take(struct emu *e, unsigned set, gva_t page, uint8_t *host)
{
    unsigned index = (page >> PAGE_SHIFT) & (TLB_ENTRIES - 1);
    struct tlb_entry *t = &e->tlb_sets[set][index];
    e->tlb_clean[set] = false;
    if (!link_half(page) && e->low_count[set] < TLB_LOW_LOG)
        e->low_log[set][e->low_count[set]++] = (uint16_t)index;
    if (t->read != page)
        t->read = tlb_no_page(index);
    if (t->write != page)
        t->write = tlb_no_page(index);
    if (t->exec != page)
        t->exec = tlb_no_page(index);
    t->host = host;
    return t;
}

/*
 * A page with something watched in it is entered where only mmu.c looks, so that each access is told to the watch without a walk. As
 * long as only writes are watched, reads need not be told.
 */
static void enter_data(struct emu *e, enum tlb_context context, gva_t page, uint8_t *host, bool writable)
{
    unsigned watched = watch_in_page(e, page);
    if (unlikely(watched)) {
        struct tlb_entry *hidden = slot_take(e, TLB_HIDDEN + context, page, host);
        hidden->read = page;
        if (writable)
            hidden->write = page;
    }
    if (watched & ENGINE_ACCESS_READ)
        return;
    struct tlb_entry *slot = slot_take(e, context, page, host);
    slot->read = page;
    if (writable && !watched)
        slot->write = page;
}

void tlb_fill(struct emu *e, gva_t linear, enum access access, enum rights rights,
              const struct translation *t, uint64_t offset)
{
    enum tlb_context context = tlb_context_of(e, rights);
    gva_t page = linear & ~PAGE_MASK;
    uint64_t ram_page = offset >> PAGE_SHIFT;
    uint8_t *host = e->ram->host + (offset & ~PAGE_MASK);
    if (access != ACCESS_EXEC && context == TLB_ALIGNED)
        return;
    mark_tables(e, linear, t);
    if (access == ACCESS_EXEC) {
        slot_take(e, context, page, host)->exec = page;
        return;
    }
    uint8_t flags = e->ram->page_flags[ram_page];
    if (access == ACCESS_WRITE && !(flags & RAM_PAGE_DIRTY)) {
        ram_mark_dirty(e->ram, ram_page);
        flags |= RAM_PAGE_DIRTY;
    }
    enter_data(e, context, page, host,
               t->dirty && mmu_permits(e, t, ACCESS_WRITE, rights) &&
                   (flags & (RAM_PAGE_DIRTY | RAM_PAGE_CODE | RAM_PAGE_TABLE)) == RAM_PAGE_DIRTY);
}
