#include "core/ram_tracker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static void *map_zero(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

int ram_tracker_create(struct ram_tracker *t, struct guest_ram *ram, struct error *err)
{
    size_t pages = ram_page_count(ram);
    *t = (struct ram_tracker){.ram = ram};
    t->terms = map_zero(pages * sizeof(*t->terms));
    t->is_changed = map_zero(pages);
    t->changed = map_zero(pages * sizeof(*t->changed));
    if (!t->terms || !t->is_changed || !t->changed) {
        ram_tracker_destroy(t);
        return error_set(err, -ENOMEM, "no address space to track %zu pages of guest RAM", pages);
    }
    return 0;
}

void ram_tracker_destroy(struct ram_tracker *t)
{
    if (!t->ram)
        return;
    size_t pages = ram_page_count(t->ram);
    if (t->terms)
        munmap(t->terms, pages * sizeof(*t->terms));
    if (t->is_changed)
        munmap(t->is_changed, pages);
    if (t->changed)
        munmap(t->changed, pages * sizeof(*t->changed));
    *t = (struct ram_tracker){0};
}

void ram_tracker_update(struct ram_tracker *t)
{
    struct guest_ram *ram = t->ram;
    for (size_t i = 0; i < ram->dirty_count; i++) {
        uint32_t page = ram->dirty_list[i];
        struct hash128 term =
            ram_digest_term(ram->host + ((uint64_t)page << PAGE_SHIFT), ram_gfn_of_page(ram, page));
        ram_digest_remove(&t->digest, t->terms[page]);
        ram_digest_add(&t->digest, term);
        t->terms[page] = term;
        if (!t->is_changed[page]) {
            t->is_changed[page] = 1;
            t->changed[t->changed_count++] = page;
        }
    }
    ram_clear_dirty(ram);
}

void ram_tracker_clear_changed(struct ram_tracker *t)
{
    for (size_t i = 0; i < t->changed_count; i++)
        t->is_changed[t->changed[i]] = 0;
    t->changed_count = 0;
}

static int compare_pages(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

void ram_tracker_sort_changed(struct ram_tracker *t)
{
    qsort(t->changed, t->changed_count, sizeof(*t->changed), compare_pages);
}

int ram_tracker_reset(struct ram_tracker *t, struct error *err)
{
    size_t bytes = ram_page_count(t->ram) * sizeof(*t->terms);
    ram_tracker_clear_changed(t);
    t->digest = (struct hash128){0, 0};
    if (madvise(t->terms, bytes, MADV_DONTNEED) != 0)
        return error_errno(err, -errno, "forget the page digests of guest RAM");
    return 0;
}
