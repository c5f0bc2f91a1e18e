/*
 * The 64-bit entry of the Linux x86 boot protocol (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"; the zero page
 * is described in zero-page.rst, its C layout is <asm/bootparam.h>).
 *
 * What the guest finds besides its image is one block in conventional memory ("boot area"):
 *
 *     page 0     GDT: null, null, code 0x10, data 0x18
 *     page 1     zero page (struct boot_params), its address is in RSI
 *     page 2     command line
 *     page 3-6   stack, RSP at its end
 *     page 7     PML4
 *     page 8     page-directory-pointer table
 *     page 9-    page directories of 2 MiB pages: 4 GiB, and as much more as there is RAM
 */
#include "core/loader_internal.h"

#include <asm/bootparam.h>
#include <inttypes.h>
#include <string.h>

enum boot_area_page {
    AREA_GDT,
    AREA_ZERO_PAGE,
    AREA_COMMAND_LINE,
    AREA_STACK,
    AREA_PML4 = 7,
    AREA_PDPT,
    AREA_PD
};

#define AREA_LOWEST      ((gpa_t)0x1000) /* page 0 stays free, so that a null pointer shows */
#define LOADER_UNDEFINED 0xff            /* type_of_loader: none with a number of its own */

#define PTE_P         ((uint64_t)1 << 0)
#define PTE_RW        ((uint64_t)1 << 1)
#define PDE_PS        ((uint64_t)1 << 7)
#define TABLE_ENTRIES 512

static gpa_t area_page(gpa_t area, unsigned page)
{
    return area + page * PAGE_SIZE_BYTES;
}

/* How many GiB are identity-mapped. At most 65: RAM ends at 65 GiB. */
static unsigned mapped_gib(const struct guest_ram *ram)
{
    uint64_t high_bytes = ram->size_bytes - ram->low_bytes;
    return 4 + (unsigned)((high_bytes + ((uint64_t)1 << 30) - 1) >> 30);
}

static int write_table(struct guest_ram *ram, gpa_t at, const uint64_t table[TABLE_ENTRIES],
                       struct error *err)
{
    int rc = ram_write(ram, at, table, TABLE_ENTRIES * sizeof(table[0]));
    return rc ? error_errno(err, rc, "writing the guest's page table at %#" PRIx64, at) : 0;
}

static int write_page_tables(struct guest_ram *ram, gpa_t area, struct error *err)
{
    uint64_t table[TABLE_ENTRIES] = {area_page(area, AREA_PDPT) | PTE_P | PTE_RW};
    int rc = write_table(ram, area_page(area, AREA_PML4), table, err);

    unsigned gib = mapped_gib(ram);
    for (unsigned i = 0; i < gib; i++)
        table[i] = area_page(area, AREA_PD + i) | PTE_P | PTE_RW;
    if (!rc)
        rc = write_table(ram, area_page(area, AREA_PDPT), table, err);

    for (unsigned i = 0; i < gib && !rc; i++) {
        for (unsigned j = 0; j < TABLE_ENTRIES; j++)
            table[j] = ((uint64_t)(i * TABLE_ENTRIES + j) << 21) | PTE_P | PTE_RW | PDE_PS;
        rc = write_table(ram, area_page(area, AREA_PD + i), table, err);
    }
    return rc;
}

/*
 * The zero page: the setup header as the kernel has it (or as it is made up for a kernel without one), with the loader's fields
 * filled in, and the memory map. initrd is 0 if there is none.
 */
static int write_zero_page(struct guest_ram *ram, const struct loader_input *input,
                           const struct setup_header *header, gpa_t area, gpa_t initrd, struct error *err)
{
    struct boot_params p;
    memset(&p, 0, sizeof(p));
    p.hdr = *header;
    p.acpi_rsdp_addr = input->acpi_rsdp;
    p.hdr.type_of_loader = LOADER_UNDEFINED;
    p.hdr.cmd_line_ptr = (uint32_t)area_page(area, AREA_COMMAND_LINE);
    p.hdr.ramdisk_image = (uint32_t)initrd;
    p.hdr.ramdisk_size = initrd ? (uint32_t)input->initrd_length : 0;
    struct memory_region region[MEMORY_REGION_MAX];
    unsigned count = memory_map(ram, region);
    for (unsigned i = 0; i < count; i++) {
        p.e820_table[i].addr = region[i].start;
        p.e820_table[i].size = region[i].length;
        p.e820_table[i].type = region[i].type;
    }
    p.e820_entries = (uint8_t)count;
    int rc = ram_write(ram, area_page(area, AREA_ZERO_PAGE), &p, sizeof(p));
    return rc ? error_errno(err, rc, "writing the guest's zero page") : 0;
}

/* Puts the initrd as high as possible; *at is 0 without one. */
static int load_initrd(struct load_map *map, const struct loader_input *input, uint32_t highest, gpa_t *at,
                       struct error *err)
{
    *at = 0;
    if (!input->initrd || input->initrd_length == 0)
        return 0;
    int rc = load_map_place(map, EXTENDED_START, (gpa_t)highest + 1, input->initrd_length, true, "the initrd",
                            at, err);
    if (rc)
        return rc;
    rc = ram_write(map->ram, *at, input->initrd, input->initrd_length);
    return rc ? error_errno(err, rc, "loading the initrd") : 0;
}

static int set_state(struct vcpu_state *s, struct guest_ram *ram, gpa_t area, uint64_t entry,
                     struct error *err)
{
    int rc = boot_state_init(s, ram, area_page(area, AREA_GDT), RIGHTS_CODE64, err);
    if (rc)
        return rc;
    s->rip = entry;
    s->gpr[GPR_RSI] = area_page(area, AREA_ZERO_PAGE);
    s->gpr[GPR_RSP] = area_page(area, AREA_PML4); /* the stack's end */
    s->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    s->cr3 = area_page(area, AREA_PML4);
    /* SSE is on: x86-64 compilers use it from the first function on. */
    s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    s->efer = EFER_LME | EFER_LMA;
    return 0;
}

int boot64_finish(struct load_map *map, const struct loader_input *input, const struct setup_header *header,
                  gpa_t entry, struct vcpu_state *state, struct error *err)
{
    struct guest_ram *ram = map->ram;
    uint64_t area_bytes = area_page(0, AREA_PD + mapped_gib(ram));
    gpa_t area, initrd;

    int rc = load_map_place(map, AREA_LOWEST, CONVENTIONAL_END, area_bytes, false,
                            "the boot area (GDT, zero page, command line, stack, page tables)", &area, err);
    if (!rc)
        rc = load_initrd(map, input, header->initrd_addr_max, &initrd, err);
    if (!rc)
        rc = write_page_tables(ram, area, err);
    if (!rc)
        rc = write_zero_page(ram, input, header, area, initrd, err);
    if (rc)
        return rc;
    rc = ram_write(ram, area_page(area, AREA_COMMAND_LINE), input->command_line,
                   strlen(input->command_line) + 1);
    if (rc)
        return error_errno(err, rc, "writing the guest's command line");
    return set_state(state, ram, area, entry, err);
}
