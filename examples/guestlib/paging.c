/* 4-level page tables: SDM 3, 4.5. Memory is identity-mapped, so that a table's address is its pointer. */
#include "cpu.h"

#define POOL_PAGES    64
#define TABLE_ENTRIES 512

static uint8_t pool[POOL_PAGES][PAGE_BYTES] __attribute__((aligned(4096)));
static unsigned pool_used;

void *page_allocate(void)
{
    if (pool_used == POOL_PAGES)
        panic("no page left of %d", POOL_PAGES);
    return pool[pool_used++]; /* .bss: zero */
}

/* Level 4 is the PML4, level 1 a page table. */
static unsigned table_index(uint64_t address, unsigned level)
{
    return address >> (12 + 9 * (level - 1)) & (TABLE_ENTRIES - 1);
}

static uint64_t *next_table(uint64_t entry)
{
    return (uint64_t *)(entry & PAGE_ADDRESS_MASK);
}

void page_map(uint64_t *root, uint64_t address, uint64_t physical, uint64_t flags)
{
    unsigned last = flags & PAGE_LARGE ? 2 : 1;
    uint64_t *table = root;
    for (unsigned level = 4; level > last; level--) {
        uint64_t *entry = &table[table_index(address, level)];
        if (!(*entry & PAGE_PRESENT))
            *entry = (uintptr_t)page_allocate() | PAGE_PRESENT | PAGE_WRITABLE | PAGE_USER;
        table = next_table(*entry);
    }
    table[table_index(address, last)] = physical | flags | PAGE_PRESENT;
}

uint64_t *page_entry(uint64_t *root, uint64_t address)
{
    uint64_t *table = root;
    for (unsigned level = 4;; level--) {
        uint64_t *entry = &table[table_index(address, level)];
        if (level == 1 || (level == 2 && (*entry & PAGE_LARGE)))
            return entry;
        if (!(*entry & PAGE_PRESENT))
            return NULL;
        table = next_table(*entry);
    }
}

/* The 2 MiB from address on in 4 KiB pages, ring 3 only let in where the user part of the image is. */
static void map_small_pages(uint64_t *root, uint64_t address, uint64_t flags)
{
    for (uint64_t page = address; page < address + LARGE_PAGE_BYTES; page += PAGE_BYTES) {
        bool user = page >= (uintptr_t)user_start && page < (uintptr_t)user_end;
        page_map(root, page, page, flags | PAGE_WRITABLE | (user ? PAGE_USER : 0));
    }
}

uint64_t *paging_init(uint64_t bytes, uint64_t flags)
{
    uint64_t user_low = (uintptr_t)user_start, user_high = (uintptr_t)user_end;
    uint64_t *root = page_allocate();
    for (uint64_t page = 0; page < bytes; page += LARGE_PAGE_BYTES) {
        if (user_low != user_high && page < user_high && page + LARGE_PAGE_BYTES > user_low)
            map_small_pages(root, page, flags);
        else
            page_map(root, page, page, flags | PAGE_WRITABLE | PAGE_LARGE);
    }
    write_cr3((uintptr_t)root);
    return root;
}
