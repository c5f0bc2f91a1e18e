/*
 * Multiboot Specification version 0.6.96 ("Multiboot 1"): ELF32 and ELF64 files, and any file whose header has the address
 * fields ("a.out kludge"). The guest starts in 32-bit protected mode with paging off, EAX = magic, EBX = information.
 *
 * What the guest finds besides its image is one block in conventional memory ("boot area"):
 *
 *     page 0     GDT, information structure, memory map, module list, loader's name
 *     page 1     command line
 *     page 2     string of the module
 *     page 3-6   stack, ESP at its end (the specification promises none)
 */
#include "core/loader_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define HEADER_MAGIC     0x1badb002u
#define BOOTLOADER_MAGIC 0x2badb002u
#define HEADER_SEARCH    8192 /* bytes: the header lies completely within them, 4-byte aligned */

enum header_flag {
    HEADER_PAGE_ALIGN = 1u << 0,  /* modules on page boundaries: always so here */
    HEADER_MEMORY_INFO = 1u << 1, /* always given */
    HEADER_VIDEO = 1u << 2,       /* ignored: there is no display */
    HEADER_ADDRESSES = 1u << 16,
};
#define HEADER_REQUIRED_KNOWN (HEADER_PAGE_ALIGN | HEADER_MEMORY_INFO | HEADER_VIDEO)

struct header { /* 3.1.1, without the video fields */
    uint32_t magic, flags, checksum;
    uint32_t header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr; /* with HEADER_ADDRESSES */
};
#define HEADER_MIN_BYTES 12

enum info_flag {
    INFO_MEMORY = 1u << 0,
    INFO_COMMAND_LINE = 1u << 2,
    INFO_MODULES = 1u << 3,
    INFO_MEMORY_MAP = 1u << 6,
    INFO_LOADER_NAME = 1u << 9,
};

struct info { /* 3.3 */
    uint32_t flags;
    uint32_t mem_lower, mem_upper; /* KiB below 1 MiB, and from 1 MiB up to the first hole */
    uint32_t boot_device;
    uint32_t cmdline;
    uint32_t mods_count, mods_addr;
    uint32_t syms[4];
    uint32_t mmap_length, mmap_addr;
    uint32_t drives_length, drives_addr;
    uint32_t config_table;
    uint32_t boot_loader_name;
    uint32_t apm_table;
    uint32_t vbe[4];
};

struct __attribute__((packed)) memory_map_entry {
    uint32_t size; /* of the rest of the entry */
    uint64_t base, length;
    uint32_t type;
};

struct module {
    uint32_t mod_start, mod_end, string, reserved;
};

struct info_page {
    uint8_t gdt[GDT_BYTES];
    struct info info;
    struct module module;
    struct memory_map_entry map[MEMORY_REGION_MAX];
    char loader_name[16];
};

enum boot_area_page { AREA_INFO, AREA_COMMAND_LINE, AREA_MODULE_STRING, AREA_STACK, AREA_PAGES = 7 };

#define AREA_LOWEST ((gpa_t)0x1000)

static gpa_t area_page(gpa_t area, unsigned page)
{
    return area + page * PAGE_SIZE_BYTES;
}

/* Finds the header; copies what is there of it, the rest zero. Returns its offset, or SIZE_MAX. */
static size_t find_header(const uint8_t *image, size_t length, struct header *out)
{
    size_t search = length < HEADER_SEARCH ? length : HEADER_SEARCH;
    for (size_t at = 0; at + HEADER_MIN_BYTES <= search; at += 4) {
        memset(out, 0, sizeof(*out));
        memcpy(out, image + at, HEADER_MIN_BYTES);
        if (out->magic != HEADER_MAGIC || out->magic + out->flags + out->checksum != 0)
            continue;
        if (length - at >= sizeof(*out))
            memcpy(out, image + at, sizeof(*out));
        return at;
    }
    return SIZE_MAX;
}

bool loader_is_multiboot(const uint8_t *image, size_t length)
{
    struct header header;
    return find_header(image, length, &header) != SIZE_MAX;
}

/* Section 3.1.3: header_addr is where the header itself ends up, so the file's place follows from its offset. */
static int load_by_addresses(const struct header *h, size_t header_offset, const struct loader_input *input,
                             struct load_map *map, uint32_t *entry, struct error *err)
{
    if (input->image_length - header_offset < sizeof(*h))
        return error_set(err, -EINVAL, "the Multiboot header's address fields are cut off");
    if (h->load_addr > h->header_addr || h->header_addr - h->load_addr > header_offset)
        return error_set(
            err, -EINVAL,
            "Multiboot load_addr %#x does not fit header_addr %#x of a header at file offset %#zx",
            h->load_addr, h->header_addr, header_offset);
    size_t from = header_offset - (h->header_addr - h->load_addr);
    uint64_t file_bytes = input->image_length - from;
    if (h->load_end_addr) {
        if (h->load_end_addr <= h->load_addr || h->load_end_addr - h->load_addr > file_bytes)
            return error_set(err, -EINVAL, "Multiboot load_end_addr %#x: %#x..%#x is not in the file",
                             h->load_end_addr, h->load_addr, h->load_end_addr);
        file_bytes = h->load_end_addr - h->load_addr;
    }
    uint64_t memory_bytes = file_bytes;
    if (h->bss_end_addr) {
        if (h->bss_end_addr < h->load_addr + file_bytes)
            return error_set(err, -EINVAL,
                             "Multiboot bss_end_addr %#x is below the end of the loaded data, %#" PRIx64,
                             h->bss_end_addr, h->load_addr + file_bytes);
        memory_bytes = h->bss_end_addr - h->load_addr;
    }
    if (h->entry_addr < h->load_addr || h->entry_addr - h->load_addr >= memory_bytes)
        return error_set(err, -EINVAL, "Multiboot entry_addr %#x is outside of the loaded image",
                         h->entry_addr);
    int rc = load_map_take(map, h->load_addr, memory_bytes, "the Multiboot image", err);
    if (rc)
        return rc;
    rc = ram_write(map->ram, h->load_addr, input->image + from, (size_t)file_bytes);
    *entry = h->entry_addr;
    return rc ? error_errno(err, rc, "loading the Multiboot image") : 0;
}

/* A higher-half kernel may name its entry by its virtual address: it is entered where that was loaded. */
static int elf_entry(const struct elf_image *elf, uint32_t *entry, struct error *err)
{
    uint64_t at = elf->entry;
    if (!elf_has_physical(elf, at)) {
        const struct elf_segment *s = elf_find_virtual(elf, at);
        if (!s)
            return error_set(err, -EINVAL, "the entry point %#" PRIx64 " is outside of all loadable segments",
                             at);
        at = at - s->address + s->start;
    }
    if (at > UINT32_MAX)
        return error_set(err, -EINVAL,
                         "the entry point %#" PRIx64 " is above 4 GiB, where 32-bit code cannot be", at);
    *entry = (uint32_t)at;
    return 0;
}

static int load_elf(const struct loader_input *input, struct load_map *map, uint32_t *entry,
                    struct error *err)
{
    struct elf_image elf;
    if (!elf_is_elf(input->image, input->image_length))
        return error_set(err, -EINVAL,
                         "the file is not ELF, and its Multiboot header has no address fields (flag 16)");
    int rc = elf_parse(&elf, input->image, input->image_length, err);
    if (!rc)
        rc = elf_entry(&elf, entry, err);
    return rc ? rc : elf_load(&elf, input->image, map, err);
}

static void fill_memory_map(struct info_page *page, gpa_t at, const struct guest_ram *ram)
{
    struct memory_region region[MEMORY_REGION_MAX];
    unsigned count = memory_map(ram, region);
    for (unsigned i = 0; i < count; i++)
        page->map[i] = (struct memory_map_entry){.size = sizeof(page->map[i]) - sizeof(page->map[i].size),
                                                 .base = region[i].start,
                                                 .length = region[i].length,
                                                 .type = region[i].type};
    page->info.flags |= INFO_MEMORY | INFO_MEMORY_MAP;
    page->info.mem_lower = (uint32_t)(CONVENTIONAL_END >> 10);
    page->info.mem_upper = (uint32_t)((ram->low_bytes - EXTENDED_START) >> 10);
    page->info.mmap_addr = (uint32_t)(at + offsetof(struct info_page, map));
    page->info.mmap_length = count * (uint32_t)sizeof(page->map[0]);
}

static int load_module(struct info_page *page, gpa_t area, struct load_map *map,
                       const struct loader_input *input, struct error *err)
{
    gpa_t at;
    if (!input->initrd || input->initrd_length == 0)
        return 0;
    const char *name = input->initrd_name ? input->initrd_name : "";
    size_t name_length =
        strnlen(name, PAGE_SIZE_BYTES - 1); /* a longer one is cut: the page ends in a zero */
    int rc = load_map_place(map, EXTENDED_START, RAM_LOW_MAX_BYTES, input->initrd_length, true,
                            "the initrd (module 0)", &at, err);
    if (rc)
        return rc;
    rc = ram_write(map->ram, at, input->initrd, input->initrd_length);
    if (!rc)
        rc = ram_write(map->ram, area_page(area, AREA_MODULE_STRING), name, name_length);
    page->module = (struct module){.mod_start = (uint32_t)at,
                                   .mod_end = (uint32_t)(at + input->initrd_length),
                                   .string = (uint32_t)area_page(area, AREA_MODULE_STRING)};
    page->info.flags |= INFO_MODULES;
    page->info.mods_count = 1;
    page->info.mods_addr = (uint32_t)(area + offsetof(struct info_page, module));
    return rc ? error_errno(err, rc, "loading the initrd") : 0;
}

static int write_info(struct load_map *map, gpa_t area, const struct loader_input *input, struct error *err)
{
    struct info_page page = {.loader_name = "dejavm"};
    fill_memory_map(&page, area, map->ram);
    page.info.flags |= INFO_COMMAND_LINE | INFO_LOADER_NAME;
    page.info.cmdline = (uint32_t)area_page(area, AREA_COMMAND_LINE);
    page.info.boot_loader_name = (uint32_t)(area + offsetof(struct info_page, loader_name));
    int rc = load_module(&page, area, map, input, err);
    if (rc)
        return rc;
    rc = ram_write(map->ram, area_page(area, AREA_INFO), &page, sizeof(page));
    if (!rc)
        rc = ram_write(map->ram, area_page(area, AREA_COMMAND_LINE), input->command_line,
                       strlen(input->command_line) + 1);
    return rc ? error_errno(err, rc, "writing the Multiboot information") : 0;
}

int loader_load_multiboot(struct guest_ram *ram, const struct loader_input *input, struct vcpu_state *state,
                          struct error *err)
{
    struct load_map map;
    struct header header;
    uint32_t entry;
    gpa_t area;

    int rc = check_command_line(input, err);
    if (!rc)
        rc = load_map_begin(&map, ram, input, err);
    if (rc)
        return rc;
    size_t offset = find_header(input->image, input->image_length, &header);
    if (offset == SIZE_MAX)
        return error_set(err, -EINVAL, "no Multiboot 1 header in the first %d bytes", HEADER_SEARCH);
    uint32_t unknown = header.flags & 0xffff & ~(uint32_t)HEADER_REQUIRED_KNOWN;
    if (unknown)
        return error_set(err, -ENOTSUP,
                         "the Multiboot header requires features that do not exist (flags %#x)", unknown);
    rc = header.flags & HEADER_ADDRESSES ? load_by_addresses(&header, offset, input, &map, &entry, err)
                                         : load_elf(input, &map, &entry, err);
    if (!rc)
        rc = load_map_place(&map, AREA_LOWEST, CONVENTIONAL_END, AREA_PAGES * PAGE_SIZE_BYTES, false,
                            "the boot area (GDT, Multiboot information, stack)", &area, err);
    if (!rc)
        rc = write_info(&map, area, input, err);
    if (!rc)
        rc = boot_state_init(state, ram, area + offsetof(struct info_page, gdt), RIGHTS_CODE32, err);
    if (rc)
        return rc;
    state->rip = entry;
    state->gpr[GPR_RAX] = BOOTLOADER_MAGIC;
    state->gpr[GPR_RBX] = area + offsetof(struct info_page, info);
    state->gpr[GPR_RSP] = area_page(area, AREA_PAGES);
    state->cr0 = CR0_PE | CR0_ET;
    state->cr3 = 0;
    state->cr4 = 0;
    state->efer = 0;
    return 0;
}
