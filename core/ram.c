#include "core/ram.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Reserves the address range with its guard areas; only the part that is RAM becomes accessible. */
static int map_ram(struct guest_ram *ram, struct error *err)
{
    size_t size = (size_t)ram->size_bytes;
    size_t reserved = size + 2 * RAM_GUARD_BYTES;
    uint8_t *area = mmap(NULL, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area == MAP_FAILED)
        return error_errno(err, -errno, "reserve %zu bytes of address space for guest RAM", reserved);
    void *host = mmap(area + RAM_GUARD_BYTES, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    if (host == MAP_FAILED) {
        int code = -errno;
        munmap(area, reserved);
        return error_errno(err, code, "map %zu bytes of guest RAM", size);
    }
    ram->host = host;
    /* A core file of this process should not carry the guest's memory along. Nothing depends on it. */
    (void)madvise(host, size, MADV_DONTDUMP);
    return 0;
}

int ram_create(struct guest_ram **out, uint64_t size_bytes, struct error *err)
{
    if (size_bytes < RAM_MIN_BYTES || size_bytes > RAM_MAX_BYTES || (size_bytes & PAGE_MASK))
        return error_set(err, -EINVAL,
                         "guest RAM of %llu bytes: must be from 1 MiB to 64 GiB and a multiple of 4096",
                         (unsigned long long)size_bytes);
    struct guest_ram *ram = calloc(1, sizeof(*ram));
    if (!ram)
        return error_set(err, -ENOMEM, "out of memory for guest RAM");
    ram->size_bytes = size_bytes;
    ram->low_bytes = size_bytes < RAM_LOW_MAX_BYTES ? size_bytes : RAM_LOW_MAX_BYTES;
    int result;
    size_t pages = (size_t)ram_page_count(ram);
    ram->page_flags = calloc(pages, sizeof(*ram->page_flags));
    ram->dirty_list = calloc(pages, sizeof(*ram->dirty_list));
    if (!ram->page_flags || !ram->dirty_list) {
        result = error_set(err, -ENOMEM, "out of memory for the page flags of guest RAM");
        goto fail;
    }
    result = map_ram(ram, err);
    if (result < 0)
        goto fail;
    *out = ram;
    return 0;
fail:
    ram_destroy(ram);
    return result;
}

void ram_destroy(struct guest_ram *ram)
{
    if (!ram)
        return;
    if (ram->host)
        munmap(ram->host - RAM_GUARD_BYTES, (size_t)ram->size_bytes + 2 * RAM_GUARD_BYTES);
    free(ram->page_flags);
    free(ram->dirty_list);
    free(ram);
}

void ram_clear_dirty(struct guest_ram *ram)
{
    if (!ram->dirty_count) /* nobody can have cached that a page is dirty */
        return;
    for (size_t i = 0; i < ram->dirty_count; i++)
        ram->page_flags[ram->dirty_list[i]] &= (uint8_t)~RAM_PAGE_DIRTY;
    ram->dirty_count = 0;
    ram->dirty_generation++;
}

/*
 * The offset of gpa when [gpa, gpa+length) is RAM without a gap, else RAM_NO_OFFSET. The low part ends
 * below the hole and the high part ends the mapping, so a range lies wholly in one of them or has a gap.
 */
static uint64_t range_offset(const struct guest_ram *ram, gpa_t gpa, size_t length)
{
    uint64_t offset = ram_offset(ram, gpa);
    if (offset == RAM_NO_OFFSET)
        return RAM_NO_OFFSET;
    uint64_t end = offset < ram->low_bytes ? ram->low_bytes : ram->size_bytes;
    return length <= end - offset ? offset : RAM_NO_OFFSET;
}

bool ram_covers(const struct guest_ram *ram, gpa_t gpa, size_t length)
{
    return length == 0 || range_offset(ram, gpa, length) != RAM_NO_OFFSET;
}

int ram_read(const struct guest_ram *ram, gpa_t gpa, void *out, size_t length)
{
    if (length == 0)
        return 0;
    uint64_t offset = range_offset(ram, gpa, length);
    if (offset == RAM_NO_OFFSET)
        return -EFAULT;
    memcpy(out, ram->host + offset, length);
    return 0;
}

int ram_write(struct guest_ram *ram, gpa_t gpa, const void *data, size_t length)
{
    if (length == 0)
        return 0;
    uint64_t offset = range_offset(ram, gpa, length);
    if (offset == RAM_NO_OFFSET)
        return -EFAULT;
    for (uint64_t page = offset >> PAGE_SHIFT; page <= (offset + length - 1) >> PAGE_SHIFT; page++)
        ram_mark_dirty(ram, page);
    memcpy(ram->host + offset, data, length);
    return 0;
}

struct hash128 ram_digest(const struct guest_ram *ram)
{
    struct hash128 digest = {0, 0};
    for (uint64_t page = 0; page < ram_page_count(ram); page++)
        ram_digest_add(&digest,
                       ram_digest_term(ram->host + (page << PAGE_SHIFT), ram_gfn_of_page(ram, page)));
    return digest;
}

int ram_reset(struct guest_ram *ram, struct error *err)
{
    if (madvise(ram->host, (size_t)ram->size_bytes, MADV_DONTNEED) < 0)
        return error_errno(err, -errno, "give the pages of guest RAM back");
    ram_clear_dirty(ram);
    return 0;
}
