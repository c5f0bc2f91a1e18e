/* ELF64 guests: what they find when they start, and what is said about those that cannot be loaded. */
#include "tests/core/loader_images.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <string.h>

static void elf64_is_loaded_at_its_physical_addresses(void **unused)
{
    (void)unused;
    struct guest *g = guest_create(16 * MIB);
    struct image m = elf64_image();
    phdr64(&m, 0)->p_vaddr = 0xffffffff80000000u;
    phdr64(&m, 1)->p_filesz = CODE_BYTES;
    phdr64(&m, 1)->p_offset = CODE_OFFSET;
    assert_loads(g, &m, "", false);
    assert_int_equal(g->result.format, GUEST_ELF64);
    assert_code_loaded(g, LOAD_AT);
    assert_code_loaded(g, 2 * LOAD_AT);
    assert_int_equal(g->result.state.rip, LOAD_AT + 16);
    ram_destroy(g->ram);
}

static void elf64_starts_in_long_mode(void **unused)
{
    (void)unused;
    struct guest *g = guest_create(16 * MIB);
    struct image m = elf64_image();
    assert_loads(g, &m, "", false);
    const struct vcpu_state *s = &g->result.state;
    assert_segments(g, 0xa09b);
    assert_true(vcpu_in_64bit_code(s));
    assert_int_equal(s->cr0 & (CR0_PE | CR0_PG | CR0_ET), CR0_PE | CR0_PG | CR0_ET);
    assert_int_equal(s->cr0 & (CR0_EM | CR0_TS | CR0_CD | CR0_NW), 0);
    assert_int_equal(s->cr4 & CR4_PAE, CR4_PAE);
    assert_int_equal(s->efer, EFER_LME | EFER_LMA);
    /* A page of stack is there, and not in anything else's way. */
    assert_int_equal(s->gpr[GPR_RSP] % 16, 0);
    gpa_t stack = s->gpr[GPR_RSP] - 4096;
    assert_true(stack >= 0x1000 && s->gpr[GPR_RSP] <= 0x9fc00);
    assert_true(s->gpr[GPR_RSI] + 4096 <= stack || s->gpr[GPR_RSI] >= s->gpr[GPR_RSP]);
    ram_destroy(g->ram);
}

static void elf64_zero_page_is_filled_in(void **unused)
{
    (void)unused;
    struct guest *g = guest_create(4 * GIB + 512 * MIB);
    struct image m = elf64_image();
    struct boot_params p;
    char loaded[INITRD_BYTES];
    assert_loads(g, &m, "console=ttyS0 a b", true);
    read_guest(g, g->result.state.gpr[GPR_RSI], &p, sizeof(p));
    assert_int_equal(p.hdr.boot_flag, 0xaa55);
    assert_memory_equal(&p.hdr.header, "HdrS", 4);
    assert_int_equal(p.hdr.type_of_loader, 0xff);
    assert_int_equal(p.acpi_rsdp_addr, RSDP_AT);
    assert_string(g, p.hdr.cmd_line_ptr, "console=ttyS0 a b");
    assert_int_equal(p.hdr.ramdisk_size, INITRD_BYTES);
    assert_int_equal(p.hdr.ramdisk_image % 4096, 0);
    read_guest(g, p.hdr.ramdisk_image, loaded, sizeof(loaded));
    assert_memory_equal(loaded, initrd, INITRD_BYTES);

    static const struct boot_e820_entry expected[] = {
        {0, 0x9fc00, 1},
        {0x9fc00, 0x60400, 2},
        {0x100000, 3 * GIB - 0x100000, 1},
        {4 * GIB, GIB + 512 * MIB, 1},
    };
    assert_int_equal(p.e820_entries, ARRAY_LEN(expected));
    assert_memory_equal(p.e820_table, expected, sizeof(expected));
    ram_destroy(g->ram);
}

/* Walks the guest's page tables as the CPU would; 2 MiB pages only. */
static bool walk(const struct guest *g, gva_t address, gpa_t *gpa)
{
    uint64_t entry = g->result.state.cr3 | 1;
    for (unsigned shift = 39; shift >= 21; shift -= 9) {
        read_guest(g, (entry & 0x000ffffffffff000u) + (address >> shift & 511) * 8, &entry, 8);
        if ((entry & 3) != 3)
            return false;
    }
    *gpa = (entry & 0x000fffffffe00000u) | (address & 0x1fffff);
    return (entry & 0x80) != 0;
}

static void elf64_memory_is_identity_mapped(void **unused)
{
    (void)unused;
    static const struct {
        uint64_t ram, mapped;
    } cases[] = {
        {16 * MIB, 4 * GIB},  {3 * GIB, 4 * GIB},        {3 * GIB + 1 * MIB, 5 * GIB},
        {10 * GIB, 11 * GIB}, {RAM_MAX_BYTES, 65 * GIB},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct guest *g = guest_create(cases[i].ram);
        struct image m = elf64_image();
        gpa_t gpa;
        assert_loads(g, &m, "", false);
        for (gva_t a = 12345; a < cases[i].mapped; a += 2 * MIB) {
            assert_true(walk(g, a, &gpa));
            assert_int_equal(gpa, a);
        }
        assert_false(walk(g, cases[i].mapped, &gpa));
        ram_destroy(g->ram);
    }
}

static void boot_area_and_initrd_keep_clear_of_the_image(void **unused)
{
    (void)unused;
    struct guest *g = guest_create(4 * MIB);
    struct image m = elf64_image();
    struct boot_params p;
    phdr64(&m, 0)->p_paddr = 0x1000; /* where the boot area would go */
    phdr64(&m, 0)->p_memsz = 0x8000;
    phdr64(&m, 1)->p_paddr = 4 * MIB - 0x1000; /* where the initrd would go */
    ehdr64(&m)->e_entry = 0x1000;
    assert_loads(g, &m, "", true);
    assert_code_loaded(g, 0x1000);
    assert_true(g->result.state.cr3 >= 0x9000);
    assert_true(g->result.state.gdtr.base >= 0x9000);
    read_guest(g, g->result.state.gpr[GPR_RSI], &p, sizeof(p));
    assert_int_equal(p.hdr.ramdisk_image, 4 * MIB - 0x2000);
    ram_destroy(g->ram);

    phdr64(&m, 0)->p_memsz = 0x9f000; /* nothing left below 640 KiB */
    assert_fails(&m, 4 * MIB, -ENOMEM, "no room for the boot area");
    phdr64(&m, 0)->p_memsz = 0x8000;
    phdr64(&m, 1)->p_paddr = 0x100000;
    phdr64(&m, 1)->p_memsz = 3 * MIB;
    assert_fails(&m, 4 * MIB, -ENOMEM, "no room for the initrd");
}

static void elf64_entry_must_be_identity_mapped(void **unused)
{
    (void)unused;
    struct image m = elf64_image();
    phdr64(&m, 0)->p_vaddr = 0xffffffff80100000u;
    ehdr64(&m)->e_entry = 0xffffffff80100010u;
    assert_fails(&m, 16 * MIB, -ENOTSUP, "not identity-mapped");
    ehdr64(&m)->e_entry = 0x300000;
    assert_fails(&m, 16 * MIB, -EINVAL, "outside of all loadable segments");
    ehdr64(&m)->e_entry = LOAD_AT + 2 * CODE_BYTES; /* one too far */
    assert_fails(&m, 16 * MIB, -EINVAL, "outside of all loadable segments");
}

/* One field of a good image changed. */
static void elf64_fields_are_checked(void **unused)
{
    (void)unused;
    const struct image good = elf64_image();
    struct image m;
#define REJECTS(field, value, code, message)                                                                 \
    do {                                                                                                     \
        m = good;                                                                                            \
        field = value;                                                                                       \
        assert_fails(&m, 16 * MIB, code, message);                                                           \
    } while (0)
    REJECTS(ehdr64(&m)->e_ident[EI_CLASS], 3, -EINVAL, "class 3");
    REJECTS(ehdr64(&m)->e_ident[EI_DATA], ELFDATA2MSB, -ENOTSUP, "little-endian");
    REJECTS(ehdr64(&m)->e_ident[EI_VERSION], 2, -EINVAL, "version 2");
    REJECTS(ehdr64(&m)->e_machine, EM_AARCH64, -ENOTSUP, "machine 183");
    REJECTS(ehdr64(&m)->e_machine, EM_386, -EINVAL, "i386");
    REJECTS(ehdr64(&m)->e_type, ET_DYN, -ENOTSUP, "-no-pie");
    REJECTS(ehdr64(&m)->e_type, ET_REL, -ENOTSUP, "object file");
    REJECTS(ehdr64(&m)->e_type, ET_CORE, -ENOTSUP, "type 4");
    REJECTS(ehdr64(&m)->e_phnum, 0, -EINVAL, "no program headers");
    REJECTS(ehdr64(&m)->e_phnum, 10, -EINVAL, "not in the file");
    REJECTS(ehdr64(&m)->e_phentsize, 32, -EINVAL, "32 bytes each");
    REJECTS(ehdr64(&m)->e_phoff, UINT64_MAX - 60, -EINVAL, "not in the file");
    REJECTS(ehdr64(&m)->e_phoff, IMAGE_BYTES, -EINVAL, "not in the file");
    REJECTS(phdr64(&m, 0)->p_filesz, 2 * CODE_BYTES + 1, -EINVAL, "only 128 in memory");
    REJECTS(phdr64(&m, 0)->p_filesz, CODE_BYTES + 1, -EINVAL, "not in the file");
    REJECTS(phdr64(&m, 0)->p_offset, UINT64_MAX, -EINVAL, "not in the file");
    REJECTS(phdr64(&m, 0)->p_paddr, UINT64_MAX - 20, -EINVAL, "end of the address space");
    REJECTS(phdr64(&m, 0)->p_vaddr, UINT64_MAX - 20, -EINVAL, "end of the address space");
    REJECTS(phdr64(&m, 1)->p_memsz, UINT64_MAX, -EINVAL, "end of the address space");
    REJECTS(phdr64(&m, 1)->p_paddr, LOAD_AT + 2 * CODE_BYTES - 1, -EINVAL, "overlaps segment 0");
    REJECTS(phdr64(&m, 0)->p_type, PT_INTERP, -ENOTSUP, "operating system");
    REJECTS(m.length, sizeof(Elf64_Ehdr) - 1, -EINVAL, "cut short");
    m = good;
    phdr64(&m, 0)->p_type = phdr64(&m, 1)->p_type = PT_NOTE;
    assert_fails(&m, 16 * MIB, -EINVAL, "no loadable segment");
#undef REJECTS
}

static void nothing_is_loaded_over_the_acpi_tables(void **unused)
{
    (void)unused;
    struct image m = elf64_image();
    phdr64(&m, 1)->p_paddr = ACPI_AT + ACPI_LENGTH - 1;
    assert_fails(&m, 16 * MIB, -EINVAL, "overlaps the ACPI tables");
    phdr64(&m, 1)->p_paddr = ACPI_AT + ACPI_LENGTH;
    struct guest *g = guest_create(16 * MIB);
    assert_loads(g, &m, "", true);
    ram_destroy(g->ram);
}

static void missing_ram_is_named(void **unused)
{
    (void)unused;
    struct image m = elf64_image();
    phdr64(&m, 1)->p_memsz = 30 * MIB;
    assert_fails(&m, 16 * MIB, -ENOMEM, "needs 32 MiB of RAM; the guest has 16 MiB");
    phdr64(&m, 1)->p_paddr = 3 * GIB;
    assert_fails(&m, 4 * GIB, -ENOMEM, "never RAM between 3 GiB and 4 GiB");
    phdr64(&m, 1)->p_paddr = 4 * GIB;
    assert_fails(&m, 3 * GIB, -ENOMEM, "needs 3102 MiB of RAM; the guest has 3072 MiB");
    phdr64(&m, 1)->p_paddr = 100 * GIB;
    assert_fails(&m, 16 * MIB, -ENOMEM, "beyond the largest RAM");

    struct guest *g = guest_create(4 * GIB);
    phdr64(&m, 1)->p_paddr = 5 * GIB - 30 * MIB;
    assert_loads(g, &m, "", false);
    ram_destroy(g->ram);
}

static void long_command_line_is_refused(void **unused)
{
    (void)unused;
    static char line[4097];
    struct guest *g = guest_create(16 * MIB);
    struct image m = elf64_image();
    memset(line, 'x', 4096);
    assert_int_equal(load(g, &m, line, false), -EINVAL);
    assert_non_null(strstr(g->err.message, "4096 bytes"));
    line[4095] = '\0';
    assert_loads(g, &m, line, false);
    ram_destroy(g->ram);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(elf64_is_loaded_at_its_physical_addresses),
        cmocka_unit_test(elf64_starts_in_long_mode),
        cmocka_unit_test(elf64_zero_page_is_filled_in),
        cmocka_unit_test(elf64_memory_is_identity_mapped),
        cmocka_unit_test(boot_area_and_initrd_keep_clear_of_the_image),
        cmocka_unit_test(elf64_entry_must_be_identity_mapped),
        cmocka_unit_test(elf64_fields_are_checked),
        cmocka_unit_test(nothing_is_loaded_over_the_acpi_tables),
        cmocka_unit_test(missing_ram_is_named),
        cmocka_unit_test(long_command_line_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
