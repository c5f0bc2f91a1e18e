/*
 * ELF64 executables, entered as the Linux x86 boot protocol's 64-bit entry (Documentation/arch/x86/boot.rst, "64-bit
 * Boot Protocol").
 */
#include "core/loader_internal.h"

#include <asm/bootparam.h>
#include <elf.h>
#include <errno.h>
#include <inttypes.h>

#define INITRD_HIGHEST   0x7fffffffu /* initrd_addr_max of x86 kernels */
#define BOOT_FLAG        0xaa55      /* setup_header.boot_flag */
#define HEADER_MAGIC     0x53726448  /* "HdrS" */
#define PROTOCOL_VERSION 0x020f      /* 2.15 */

static int check_entry(const struct elf_image *elf, struct error *err)
{
    if (elf_has_physical(elf, elf->entry))
        return 0;
    const struct elf_segment *s = elf_find_virtual(elf, elf->entry);
    if (s)
        return error_set(
            err, -ENOTSUP,
            "the entry point %#" PRIx64 " is not identity-mapped: it is in %s, loaded at %#" PRIx64
            " for the address %#" PRIx64
            ". Guests start with physical = virtual, so the entry point must be a physical address, and "
            "the code there must set up its own page tables",
            elf->entry, s->name, s->start, s->address);
    return error_set(err, -EINVAL, "the entry point %#" PRIx64 " is outside of all loadable segments",
                     elf->entry);
}

/* The file has no setup header: one with only what a loader can know by itself. */
static struct setup_header made_up_header(void)
{
    return (struct setup_header){.boot_flag = BOOT_FLAG,
                                 .header = HEADER_MAGIC,
                                 .version = PROTOCOL_VERSION,
                                 .loadflags = LOADED_HIGH, /* protected-mode code at 1 MiB or above */
                                 .kernel_alignment = 0x1000000,
                                 .initrd_addr_max = INITRD_HIGHEST,
                                 .cmdline_size = COMMAND_LINE_MAX};
}

int loader_load_elf64(struct guest_ram *ram, const struct loader_input *input, struct vcpu_state *state,
                      struct error *err)
{
    struct elf_image elf;
    struct load_map map;

    int rc = check_command_line(input, err);
    if (!rc)
        rc = load_map_begin(&map, ram, input, err);
    if (!rc)
        rc = elf_parse(&elf, input->image, input->image_length, err);
    if (rc)
        return rc;
    if (!elf.is_64bit || elf.machine != EM_X86_64)
        return error_set(err, -ENOTSUP, "ELF file is 32-bit and has no Multiboot 1 header");
    rc = check_entry(&elf, err);
    if (!rc)
        rc = elf_load(&elf, input->image, &map, err);
    struct setup_header header = made_up_header();
    return rc ? rc : boot64_finish(&map, input, &header, elf.entry, state, err);
}
