/*
 * Linux bzImages, by the 64-bit boot protocol (Documentation/arch/x86/boot.rst). The file is
 *
 *     0                          boot sector, with the setup header from 0x1f1 on
 *     512                        setup_sects sectors of real-mode code, which is not used
 *     512 * (setup_sects + 1)    the protected-mode kernel, syssize * 16 bytes
 *
 * The last is loaded where the kernel prefers it (or at the next place that is free, if it can be relocated), and entered 0x200
 * behind its start. It decompresses itself, and chooses an address by KASLR with what RDRAND and RDTSC give it: inputs like
 * any other.
 */
#include "core/loader_internal.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#define HEADER_OFFSET       0x1f1
#define MAGIC_OFFSET        0x202
#define JUMP_OFFSET         0x201 /* the displacement of the jump over the header says where that ends */
#define SECTOR_BYTES        512
#define DEFAULT_SETUP_SECTS 4 /* what 0 means */
#define ENTRY64_OFFSET      0x200
#define OLDEST_64BIT        0x020c /* xloadflags came with 2.12 */

bool loader_is_bzimage(const uint8_t *image, size_t length)
{
    return length >= MAGIC_OFFSET + 4 && memcmp(image + MAGIC_OFFSET, "HdrS", 4) == 0;
}

/* Fields beyond the end of an older kernel's header are zero. */
static int read_setup_header(const struct loader_input *input, struct setup_header *header, struct error *err)
{
    size_t end = MAGIC_OFFSET + input->image[JUMP_OFFSET];
    size_t bytes = end - HEADER_OFFSET;
    if (bytes > sizeof(*header))
        bytes = sizeof(*header);
    if (bytes < offsetof(struct setup_header, version) + sizeof(header->version) || end > input->image_length)
        return error_set(err, -EINVAL, "the bzImage's setup header ends at offset %#zx of %#zx bytes", end,
                         input->image_length);
    memset(header, 0, sizeof(*header));
    memcpy(header, input->image + HEADER_OFFSET, bytes);
    if (header->version < OLDEST_64BIT)
        return error_set(err, -ENOTSUP,
                         "the bzImage has boot protocol %u.%02u; 2.12 (Linux 3.8) and later can be started",
                         header->version >> 8, header->version & 0xff);
    if (!(header->xloadflags & XLF_KERNEL_64))
        return error_set(err, -ENOTSUP, "the bzImage is a 32-bit kernel; x86-64 kernels can be started");
    if (!(header->loadflags & LOADED_HIGH))
        return error_set(err, -ENOTSUP, "the file is a Linux zImage; only a bzImage can be started");
    return 0;
}

/* The command line's limit is the kernel's own. */
static int check_limits(const struct loader_input *input, const struct setup_header *header,
                        struct error *err)
{
    size_t length = strlen(input->command_line);
    if (length > header->cmdline_size)
        return error_set(err, -EINVAL, "the kernel's command line has %zu bytes; this kernel takes %u",
                         length, header->cmdline_size);
    if (!header->kernel_alignment || (header->kernel_alignment & (header->kernel_alignment - 1)))
        return error_set(err, -EINVAL, "the bzImage's kernel_alignment %#x is not a power of two",
                         header->kernel_alignment);
    return check_command_line(input, err);
}

/* Takes the memory that the kernel needs until it has looked at the memory map (init_size), from its first byte on. */
static int place_kernel(struct load_map *map, const struct setup_header *header, uint64_t kernel_bytes,
                        gpa_t *at, struct error *err)
{
    uint64_t needed = header->init_size > kernel_bytes ? header->init_size : kernel_bytes;
    uint64_t alignment =
        header->kernel_alignment > PAGE_SIZE_BYTES ? header->kernel_alignment : PAGE_SIZE_BYTES;
    *at = header->pref_address;
    if (*at >= EXTENDED_START && *at < map->ram->low_bytes && needed <= map->ram->low_bytes - *at)
        return load_map_take(map, *at, needed, "the kernel", err);
    if (!header->relocatable_kernel)
        return load_map_take(map, *at, needed, "the kernel (which cannot be relocated)", err);
    *at = (EXTENDED_START + alignment - 1) & ~(alignment - 1);
    return load_map_take(map, *at, needed, "the kernel", err);
}

int loader_load_linux(struct guest_ram *ram, const struct loader_input *input, struct vcpu_state *state,
                      struct error *err)
{
    struct load_map map;
    struct setup_header header;
    gpa_t at;

    if (!loader_is_bzimage(input->image, input->image_length))
        return error_set(err, -EINVAL, "the file is not a bzImage");
    int rc = load_map_begin(&map, ram, input, err);
    if (!rc)
        rc = read_setup_header(input, &header, err);
    if (!rc)
        rc = check_limits(input, &header, err);
    if (rc)
        return rc;
    unsigned sectors = header.setup_sects ? header.setup_sects : DEFAULT_SETUP_SECTS;
    size_t from = ((size_t)sectors + 1) * SECTOR_BYTES;
    uint64_t kernel_bytes = (uint64_t)header.syssize * 16;
    if (kernel_bytes <= ENTRY64_OFFSET)
        return error_set(err, -EINVAL, "the bzImage says that its kernel has %" PRIu64 " bytes",
                         kernel_bytes);
    if (from > input->image_length || kernel_bytes > input->image_length - from)
        return error_set(err, -EINVAL,
                         "the bzImage is cut short: it has %zu bytes, and its kernel takes %" PRIu64
                         " from offset %#zx on",
                         input->image_length, kernel_bytes, from);
    rc = place_kernel(&map, &header, kernel_bytes, &at, err);
    if (rc)
        return rc;
    rc = ram_write(ram, at, input->image + from, (size_t)kernel_bytes);
    if (rc)
        return error_errno(err, rc, "loading the kernel");
    return boot64_finish(&map, input, &header, at + ENTRY64_OFFSET, state, err);
}
