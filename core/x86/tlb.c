/* The software TLB, and the tracking of the page tables that it was made from (internal.h says why). */
#include <string.h>

#include "core/x86/protect.h"

/* After so many writes to table pages that changed no translation, the marks are dropped: the pages may have been freed. */
#define TABLE_IDLE_WRITES_MAX 256u

static void entry_clear(struct tlb_entry *t)
{
    t->read = t->write = t->exec = TLB_INVALID;
}

void tlb_flush(struct emu *e)
{
    for (unsigned c = 0; c < TLB_CONTEXTS; c++)
        for (unsigned i = 0; i < TLB_ENTRIES; i++)
            entry_clear(&e->tlb_sets[c][i]);
    e->dirty_generation = e->ram->dirty_generation;
}

void tlb_flush_page(struct emu *e, gva_t page)
{
    for (unsigned c = 0; c < TLB_CONTEXTS; c++)
        entry_clear(&e->tlb_sets[c][(page >> PAGE_SHIFT) & (TLB_ENTRIES - 1)]);
}

void tlb_flush_writes(struct emu *e)
{
    for (unsigned c = 0; c < TLB_CONTEXTS; c++)
        for (unsigned i = 0; i < TLB_ENTRIES; i++)
            e->tlb_sets[c][i].write = TLB_INVALID;
    e->dirty_generation = e->ram->dirty_generation;
}

void tlb_forbid_write(struct emu *e, uint64_t ram_page)
{
    uintptr_t host = (uintptr_t)e->ram->host + (uintptr_t)(ram_page << PAGE_SHIFT);
    for (unsigned c = 0; c < TLB_CONTEXTS; c++)
        for (unsigned i = 0; i < TLB_ENTRIES; i++) {
            struct tlb_entry *t = &e->tlb_sets[c][i];
            if (t->write != TLB_INVALID && t->write + t->addend == host)
                t->write = TLB_INVALID;
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

static void table_forget_all(struct emu *e)
{
    for (unsigned i = 0; i < e->table_page_count; i++)
        e->ram->page_flags[e->table_pages[i]] &= (uint8_t)~RAM_PAGE_TABLE;
    e->table_page_count = 0;
    e->table_idle_writes = 0;
    tlb_flush(e);
}

static void table_mark(struct emu *e, gpa_t entry)
{
    uint64_t offset = ram_offset(e->ram, entry);
    if (offset == RAM_NO_OFFSET)
        return;
    uint64_t page = offset >> PAGE_SHIFT;
    if (e->ram->page_flags[page] & RAM_PAGE_TABLE)
        return;
    e->ram->page_flags[page] |= RAM_PAGE_TABLE;
    e->table_pages[e->table_page_count++] = (uint32_t)page;
    tlb_forbid_write(e, page);
}

void table_written(struct emu *e, uint64_t offset, const void *data, size_t length)
{
    /* Every format has P in bit 0 of its entry; an entry that was not present is in no translation. */
    uint64_t entry_bytes = e->cpu.cr4 & CR4_PAE ? 8 : 4;
    for (uint64_t at = offset & ~(entry_bytes - 1); at < offset + length; at += entry_bytes) {
        uint64_t from = at < offset ? offset : at;
        uint64_t to = at + entry_bytes < offset + length ? at + entry_bytes : offset + length;
        if (!(e->ram->host[at] & 1))
            continue;
        if (memcmp(e->ram->host + from, (const uint8_t *)data + (from - offset), to - from) == 0)
            continue;
        table_forget_all(e);
        e->block_gone = true; /* the code being executed may have been mapped elsewhere by it */
        return;
    }
    if (++e->table_idle_writes >= TABLE_IDLE_WRITES_MAX)
        table_forget_all(e);
}

/* The slot for a page: other pages' tags are dropped from it. */
static struct tlb_entry *slot_take(struct emu *e, enum tlb_context context, gva_t page, uintptr_t addend)
{
    struct tlb_entry *t = &e->tlb_sets[context][(page >> PAGE_SHIFT) & (TLB_ENTRIES - 1)];
    if (t->read != page)
        t->read = TLB_INVALID;
    if (t->write != page)
        t->write = TLB_INVALID;
    if (t->exec != page)
        t->exec = TLB_INVALID;
    t->addend = addend;
    return t;
}

void tlb_fill(struct emu *e, gva_t linear, enum access access, enum rights rights,
              const struct translation *t, uint64_t offset)
{
    enum tlb_context context = tlb_context_of(e, rights);
    gva_t page = linear & ~PAGE_MASK;
    uint64_t ram_page = offset >> PAGE_SHIFT;
    if (access != ACCESS_EXEC && (context == TLB_ALIGNED || watch_in_page(e, page)))
        return;
    if (e->table_page_count + t->tables > TABLE_PAGES_MAX)
        table_forget_all(e);
    for (unsigned i = 0; i < t->tables; i++)
        table_mark(e, t->entry[i]);
    struct tlb_entry *slot =
        slot_take(e, context, page, (uintptr_t)e->ram->host + (uintptr_t)(offset & ~PAGE_MASK) - page);
    if (access == ACCESS_EXEC) {
        slot->exec = page;
        return;
    }
    slot->read = page;
    uint8_t flags = e->ram->page_flags[ram_page];
    if (access == ACCESS_WRITE && !(flags & RAM_PAGE_DIRTY)) {
        ram_mark_dirty(e->ram, ram_page);
        flags |= RAM_PAGE_DIRTY;
    }
    if (t->dirty && mmu_permits(e, t, ACCESS_WRITE, rights) &&
        (flags & (RAM_PAGE_DIRTY | RAM_PAGE_CODE | RAM_PAGE_TABLE)) == RAM_PAGE_DIRTY)
        slot->write = page;
}
