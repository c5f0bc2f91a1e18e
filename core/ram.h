/*
 * Guest RAM: one anonymous mapping, lazily backed by the host, with guard areas around it. No huge pages are asked for: a guest that
 * touches bytes far apart would get much more memory than it uses, and where the host is a virtual machine that gives its free
 * memory back, each huge page that comes again costs more than the faults that it saves.
 *
 * Layout in guest physical space: the first low_bytes are at 0, the rest (if any) at 4 GiB; low_bytes is
 * min(size, 3 GiB). "Offset" below is an offset into the mapping; frame numbers are guest physical.
 *
 * Every writer other than a KVM vCPU (the emulator, devices, loaders) marks the page dirty *before* it writes.
 */
#ifndef DEJAVM_CORE_RAM_H
#define DEJAVM_CORE_RAM_H

#include "core/base/error.h"
#include "core/base/hash.h"
#include "core/base/types.h"

#define RAM_MIN_BYTES     ((uint64_t)1 << 20)
#define RAM_MAX_BYTES     ((uint64_t)64 << 30)
#define RAM_LOW_MAX_BYTES ((uint64_t)3 << 30)
#define RAM_HIGH_GPA      ((gpa_t)4 << 30)
#define RAM_NO_OFFSET     UINT64_MAX
#define RAM_GUARD_BYTES   ((size_t)1 << 30)

enum ram_page_flag {
    RAM_PAGE_DIRTY = 1, /* on the dirty list */
    RAM_PAGE_CODE = 2,  /* the emulator holds decoded code of this page; only core/x86 touches this bit */
    RAM_PAGE_TABLE =
        4, /* the emulator's TLB depends on this page as a page table; only core/x86 touches this bit */
};

struct guest_ram {
    uint8_t *host;       /* start of the mapping, page aligned; size_bytes long */
    uint64_t size_bytes; /* multiple of 4096 */
    uint64_t low_bytes;
    uint8_t *page_flags;  /* one per page, by offset / 4096 */
    uint32_t *dirty_list; /* page numbers (offset / 4096) with RAM_PAGE_DIRTY, in order of first write */
    size_t dirty_count;
    uint64_t
        dirty_generation; /* grows when the dirty list is cleared: cached "already dirty" is stale then */
    /* Called for a page that is about to be marked dirty, while it still has its old content. Or NULL. */
    void (*before_dirty)(void *context, uint64_t page);
    void *before_dirty_context;
};

/* size_bytes: 1 MiB to 64 GiB, a multiple of 4096. All zero at first. */
int ram_create(struct guest_ram **out, uint64_t size_bytes, struct error *err) must_check;
void ram_destroy(struct guest_ram *ram); /* NULL is fine */

/* Offset of a guest physical address, or RAM_NO_OFFSET where there is no RAM. */
static inline uint64_t ram_offset(const struct guest_ram *ram, gpa_t gpa)
{
    if (gpa < ram->low_bytes)
        return gpa;
    if (gpa >= RAM_HIGH_GPA && gpa - RAM_HIGH_GPA < ram->size_bytes - ram->low_bytes)
        return gpa - RAM_HIGH_GPA + ram->low_bytes;
    return RAM_NO_OFFSET;
}

static inline gpa_t ram_gpa_of_offset(const struct guest_ram *ram, uint64_t offset)
{
    return offset < ram->low_bytes ? offset : offset - ram->low_bytes + RAM_HIGH_GPA;
}

static inline gfn_t ram_gfn_of_page(const struct guest_ram *ram, uint64_t page)
{
    return ram_gpa_of_offset(ram, page << PAGE_SHIFT) >> PAGE_SHIFT;
}

static inline uint64_t ram_page_count(const struct guest_ram *ram)
{
    return ram->size_bytes >> PAGE_SHIFT;
}

/* Host address of the 4096 bytes of a frame, or NULL where there is no RAM. */
static inline uint8_t *ram_frame(const struct guest_ram *ram, gfn_t gfn)
{
    uint64_t offset = gfn >> (64 - PAGE_SHIFT) ? RAM_NO_OFFSET : ram_offset(ram, gfn << PAGE_SHIFT);
    return offset == RAM_NO_OFFSET ? NULL : ram->host + offset;
}

static inline void ram_mark_dirty(struct guest_ram *ram, uint64_t page)
{
    if (!(ram->page_flags[page] & RAM_PAGE_DIRTY)) {
        if (ram->before_dirty)
            ram->before_dirty(ram->before_dirty_context, page);
        ram->page_flags[page] |= RAM_PAGE_DIRTY;
        ram->dirty_list[ram->dirty_count++] = (uint32_t)page;
    }
}

/* Empties the dirty list (after the caller has read it). */
void ram_clear_dirty(struct guest_ram *ram);

/* True when every byte of [gpa, gpa+length) is RAM. */
bool ram_covers(const struct guest_ram *ram, gpa_t gpa, size_t length);

/* Copies; -EFAULT (nothing copied) when any byte of [gpa, gpa+length) is not RAM. Writes mark dirty. */
int ram_read(const struct guest_ram *ram, gpa_t gpa, void *out, size_t length) must_check;
int ram_write(struct guest_ram *ram, gpa_t gpa, const void *data, size_t length) must_check;

/* The digest of all of RAM (core/base/hash.h), computed in full: reads every page. */
struct hash128 ram_digest(const struct guest_ram *ram);

/* Gives all pages back to the host and makes them zero and clean. */
int ram_reset(struct guest_ram *ram, struct error *err) must_check;

#endif
