/*
 * ELF kernels with a PVH entry (Xen's x86/HVM direct boot ABI, docs/misc/pvh.pandoc, and <xen/arch-x86/hvm/start_info.h>): an
 * uncompressed vmlinux among them. The note XEN_ELFNOTE_PHYS32_ENTRY holds the physical address of a 32-bit entry without
 * paging; EBX points at the start information.
 *
 *     page 0     GDT, start information, module list, memory map
 *     page 1     command line
 *     page 2     stack, ESP at its end (the ABI promises none)
 */
#include "core/loader_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define NOTE_OWNER        "Xen"
#define NOTE_PHYS32_ENTRY 18
#define START_MAGIC       0x336ec578u
#define START_VERSION     1 /* with a memory map */
#define AREA_LOWEST       ((gpa_t)0x1000)

enum boot_area_page { AREA_START, AREA_COMMAND_LINE, AREA_STACK, AREA_PAGES };

struct start_info { /* struct hvm_start_info */
    uint32_t magic, version, flags, module_count;
    uint64_t modules, command_line, rsdp;
    uint64_t memory_map; /* version 1 */
    uint32_t memory_map_entries, reserved;
};

struct module_entry { /* struct hvm_modlist_entry */
    uint64_t start, bytes, command_line, reserved;
};

struct memory_entry { /* struct hvm_memmap_table_entry; types as E820 has them */
    uint64_t start, bytes;
    uint32_t type, reserved;
};

struct start_page {
    uint8_t gdt[GDT_BYTES];
    struct start_info info;
    struct module_entry module;
    struct memory_entry memory[MEMORY_REGION_MAX];
};

static const uint8_t *find_note(const uint8_t *image, size_t length, uint32_t *bytes)
{
    return elf_find_note(image, length, NOTE_OWNER, NOTE_PHYS32_ENTRY, bytes);
}

bool loader_is_pvh(const uint8_t *image, size_t length)
{
    uint32_t bytes;
    return find_note(image, length, &bytes) != NULL;
}

/* The note's value has the width of the ELF class in Linux; either width is accepted in both. */
static int read_entry(const struct loader_input *input, const struct elf_image *elf, uint32_t *entry,
                      struct error *err)
{
    uint64_t value = 0;
    uint32_t bytes = 0;
    const uint8_t *note = find_note(input->image, input->image_length, &bytes);
    if (!note || (bytes != 4 && bytes != 8))
        return error_set(err, -EINVAL, "the PVH entry note has %u bytes instead of 4 or 8", bytes);
    memcpy(&value, note, bytes);
    if (value > UINT32_MAX || !elf_has_physical(elf, value))
        return error_set(err, -EINVAL, "the PVH entry point %#" PRIx64 " is outside of all loadable segments",
                         value);
    *entry = (uint32_t)value;
    return 0;
}

static int load_module(struct load_map *map, const struct loader_input *input, struct start_page *page,
                       gpa_t area, struct error *err)
{
    gpa_t at;
    if (!input->initrd || input->initrd_length == 0)
        return 0;
    int rc = load_map_place(map, EXTENDED_START, RAM_LOW_MAX_BYTES, input->initrd_length, true, "the initrd",
                            &at, err);
    if (rc)
        return rc;
    rc = ram_write(map->ram, at, input->initrd, input->initrd_length);
    page->module = (struct module_entry){.start = at, .bytes = input->initrd_length};
    page->info.module_count = 1;
    page->info.modules = area + offsetof(struct start_page, module);
    return rc ? error_errno(err, rc, "loading the initrd") : 0;
}

static void fill_memory_map(struct start_page *page, gpa_t area, const struct guest_ram *ram)
{
    struct memory_region region[MEMORY_REGION_MAX];
    unsigned count = memory_map(ram, region);
    for (unsigned i = 0; i < count; i++)
        page->memory[i] = (struct memory_entry){
            .start = region[i].start, .bytes = region[i].length, .type = region[i].type};
    page->info.memory_map = area + offsetof(struct start_page, memory);
    page->info.memory_map_entries = count;
}

static int write_area(struct load_map *map, const struct loader_input *input, gpa_t area, struct error *err)
{
    struct start_page page = {.info = {.magic = START_MAGIC,
                                       .version = START_VERSION,
                                       .rsdp = input->acpi_rsdp,
                                       .command_line = area + AREA_COMMAND_LINE * PAGE_SIZE_BYTES}};
    fill_memory_map(&page, area, map->ram);
    int rc = load_module(map, input, &page, area, err);
    if (rc)
        return rc;
    rc = ram_write(map->ram, area, &page, sizeof(page));
    if (!rc)
        rc =
            ram_write(map->ram, page.info.command_line, input->command_line, strlen(input->command_line) + 1);
    return rc ? error_errno(err, rc, "writing the PVH start information") : 0;
}

int loader_load_pvh(struct guest_ram *ram, const struct loader_input *input, struct vcpu_state *state,
                    struct error *err)
{
    struct load_map map;
    struct elf_image elf;
    uint32_t entry;
    gpa_t area;

    int rc = check_command_line(input, err);
    if (!rc)
        rc = load_map_begin(&map, ram, input, err);
    if (!rc)
        rc = elf_parse(&elf, input->image, input->image_length, err);
    if (!rc)
        rc = read_entry(input, &elf, &entry, err);
    if (!rc)
        rc = elf_load(&elf, input->image, &map, err);
    if (!rc)
        rc = load_map_place(&map, AREA_LOWEST, CONVENTIONAL_END, AREA_PAGES * PAGE_SIZE_BYTES, false,
                            "the boot area (GDT, start information, stack)", &area, err);
    if (!rc)
        rc = write_area(&map, input, area, err);
    if (!rc)
        rc = boot_state_init(state, ram, area + offsetof(struct start_page, gdt), RIGHTS_CODE32, err);
    if (rc)
        return rc;
    state->rip = entry;
    state->gpr[GPR_RBX] = area + offsetof(struct start_page, info);
    state->gpr[GPR_RSP] = area + AREA_PAGES * PAGE_SIZE_BYTES;
    state->cr0 = CR0_PE | CR0_ET;
    state->cr3 = 0;
    state->cr4 = 0;
    state->efer = 0;
    return 0;
}
