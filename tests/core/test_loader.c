/* The loaders: what a guest finds when it starts, and what is said about images that cannot be loaded. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <asm/bootparam.h>
#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/loader.h"

#define MIB         ((uint64_t)1 << 20)
#define GIB         ((uint64_t)1 << 30)
#define IMAGE_BYTES 4096
#define CODE_OFFSET 512
#define CODE_BYTES  64
#define LOAD_AT     0x100000u

/* ---- images ---- */

struct image {
    uint8_t bytes[IMAGE_BYTES];
    size_t length;
};

static Elf64_Ehdr *ehdr64(struct image *m)
{
    return (Elf64_Ehdr *)(void *)m->bytes;
}

static Elf64_Phdr *phdr64(struct image *m, unsigned n)
{
    return (Elf64_Phdr *)(void *)(m->bytes + sizeof(Elf64_Ehdr)) + n;
}

static Elf32_Ehdr *ehdr32(struct image *m)
{
    return (Elf32_Ehdr *)(void *)m->bytes;
}

static Elf32_Phdr *phdr32(struct image *m, unsigned n)
{
    return (Elf32_Phdr *)(void *)(m->bytes + sizeof(Elf32_Ehdr)) + n;
}

static void put_code(struct image *m)
{
    for (size_t i = 0; i < CODE_BYTES; i++)
        m->bytes[CODE_OFFSET + i] = (uint8_t)(i + 1);
    m->length = CODE_OFFSET + CODE_BYTES;
}

/* Two segments: 64 bytes of code and as many of zeros at 1 MiB, and only zeros at 2 MiB. */
static struct image elf64_image(void)
{
    struct image m = {.length = 0};
    put_code(&m);
    *ehdr64(&m) = (Elf64_Ehdr){.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
                               .e_type = ET_EXEC,
                               .e_machine = EM_X86_64,
                               .e_version = EV_CURRENT,
                               .e_entry = LOAD_AT + 16,
                               .e_phoff = sizeof(Elf64_Ehdr),
                               .e_ehsize = sizeof(Elf64_Ehdr),
                               .e_phentsize = sizeof(Elf64_Phdr),
                               .e_phnum = 2};
    *phdr64(&m, 0) = (Elf64_Phdr){.p_type = PT_LOAD,
                                  .p_offset = CODE_OFFSET,
                                  .p_vaddr = LOAD_AT,
                                  .p_paddr = LOAD_AT,
                                  .p_filesz = CODE_BYTES,
                                  .p_memsz = 2 * CODE_BYTES};
    *phdr64(&m, 1) =
        (Elf64_Phdr){.p_type = PT_LOAD, .p_vaddr = 2 * LOAD_AT, .p_paddr = 2 * LOAD_AT, .p_memsz = 0x1000};
    return m;
}

static struct image elf32_image(void)
{
    struct image m = {.length = 0};
    put_code(&m);
    *ehdr32(&m) = (Elf32_Ehdr){.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, EV_CURRENT},
                               .e_type = ET_EXEC,
                               .e_machine = EM_386,
                               .e_version = EV_CURRENT,
                               .e_entry = LOAD_AT + 16,
                               .e_phoff = sizeof(Elf32_Ehdr),
                               .e_ehsize = sizeof(Elf32_Ehdr),
                               .e_phentsize = sizeof(Elf32_Phdr),
                               .e_phnum = 1};
    *phdr32(&m, 0) = (Elf32_Phdr){.p_type = PT_LOAD,
                                  .p_offset = CODE_OFFSET,
                                  .p_vaddr = LOAD_AT,
                                  .p_paddr = LOAD_AT,
                                  .p_filesz = CODE_BYTES,
                                  .p_memsz = CODE_BYTES};
    return m;
}

#define MULTIBOOT_OFFSET 256

/* Words after the magic, the flags and the checksum. */
static void put_multiboot(struct image *m, uint32_t flags, const uint32_t address[5])
{
    uint32_t header[8] = {0x1badb002, flags, 0 - (0x1badb002 + flags)};
    if (address)
        memcpy(header + 3, address, 5 * sizeof(uint32_t));
    memcpy(m->bytes + MULTIBOOT_OFFSET, header, sizeof(header));
}

/* No ELF at all: the whole file from the header on is loaded at 1 MiB. */
static struct image kludge_image(void)
{
    struct image m = {.length = 0};
    const uint32_t address[5] = {LOAD_AT, LOAD_AT, 0, LOAD_AT + 0x3000,
                                 LOAD_AT + CODE_OFFSET - MULTIBOOT_OFFSET};
    put_code(&m);
    put_multiboot(&m, 0x10003, address);
    return m;
}

/* ---- loading ---- */

struct guest {
    struct guest_ram *ram;
    struct loader_result result;
    struct error err;
};

static const uint8_t initrd[] = "an initrd that is not a multiple of a page long";

static struct guest *guest_create(uint64_t ram_bytes)
{
    static struct guest g; /* one at a time; struct error is large */
    memset(&g, 0, sizeof(g));
    assert_int_equal(ram_create(&g.ram, ram_bytes, &g.err), 0);
    return &g;
}

static int load(struct guest *g, const struct image *m, const char *command_line, bool with_initrd)
{
    const struct loader_input input = {.image = m->bytes,
                                       .image_length = m->length,
                                       .image_name = "image",
                                       .initrd = with_initrd ? initrd : NULL,
                                       .initrd_length = with_initrd ? sizeof(initrd) : 0,
                                       .initrd_name = "the-initrd",
                                       .command_line = command_line};
    return loader_load(g->ram, &input, &g->result, &g->err);
}

static void assert_fails(const struct image *m, uint64_t ram_bytes, int code, const char *message)
{
    struct guest *g = guest_create(ram_bytes);
    int rc = load(g, m, "", true);
    if (rc != code || !strstr(g->err.message, message))
        fail_msg("got %d \"%s\", expected %d \"...%s...\"", rc, g->err.message, code, message);
    assert_int_equal(g->result.format, GUEST_UNKNOWN);
    ram_destroy(g->ram);
}

static void assert_loads(struct guest *g, const struct image *m, const char *command_line, bool with_initrd)
{
    if (load(g, m, command_line, with_initrd))
        fail_msg("%s", g->err.message);
}

static void read_guest(const struct guest *g, gpa_t gpa, void *out, size_t length)
{
    assert_int_equal(ram_read(g->ram, gpa, out, length), 0);
}

static uint32_t read32(const struct guest *g, gpa_t gpa)
{
    uint32_t value;
    read_guest(g, gpa, &value, sizeof(value));
    return value;
}

static void assert_string(const struct guest *g, gpa_t gpa, const char *expected)
{
    char text[64];
    read_guest(g, gpa, text, strlen(expected) + 1);
    assert_string_equal(text, expected);
}

static void assert_code_loaded(const struct guest *g, gpa_t at)
{
    uint8_t code[2 * CODE_BYTES];
    read_guest(g, at, code, sizeof(code));
    for (size_t i = 0; i < sizeof(code); i++)
        assert_int_equal(code[i], i < CODE_BYTES ? i + 1 : 0);
}

/* The descriptor in the GDT says what the hidden part of the segment register says. */
static void assert_segment_from_gdt(const struct guest *g, const struct segment *s)
{
    const struct vcpu_state *state = &g->result.state;
    uint64_t d;
    assert_true(s->selector + 7u <= state->gdtr.limit);
    read_guest(g, state->gdtr.base + s->selector, &d, sizeof(d));
    assert_int_equal(d >> 40 & 0xf0ff, s->rights);
    uint32_t limit = (uint32_t)((d & 0xffff) | (d >> 32 & 0xf0000));
    assert_int_equal(limit << 12 | 0xfff, s->limit);
    assert_int_equal((d >> 16 & 0xffffff) | (d >> 56) << 24, s->base);
}

static void assert_segments(const struct guest *g, uint16_t code_rights)
{
    const struct vcpu_state *s = &g->result.state;
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        assert_int_equal(s->seg[i].selector, i == SEG_CS ? 0x10 : 0x18);
        assert_int_equal(s->seg[i].rights, i == SEG_CS ? code_rights : 0xc093);
        assert_segment_from_gdt(g, &s->seg[i]);
    }
    assert_int_equal(s->tr.rights, SEGMENT_P | 0xb); /* a busy TSS: VM entry insists on it */
    assert_int_equal(s->tr.limit, 0x67);
    assert_int_equal(s->ldtr.rights & SEGMENT_P, 0);
    assert_int_equal(s->idtr.limit, 0);
    assert_int_equal(s->rflags, RFLAGS_FIXED);
    assert_int_equal(s->fpu.fcw, 0x37f);
    assert_int_equal(s->fpu.mxcsr, 0x1f80);
}

/* ---- ELF64 ---- */

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
    char loaded[sizeof(initrd)];
    assert_loads(g, &m, "console=ttyS0 a b", true);
    read_guest(g, g->result.state.gpr[GPR_RSI], &p, sizeof(p));
    assert_int_equal(p.hdr.boot_flag, 0xaa55);
    assert_memory_equal(&p.hdr.header, "HdrS", 4);
    assert_int_equal(p.hdr.type_of_loader, 0xff);
    assert_string(g, p.hdr.cmd_line_ptr, "console=ttyS0 a b");
    assert_int_equal(p.hdr.ramdisk_size, sizeof(initrd));
    assert_int_equal(p.hdr.ramdisk_image % 4096, 0);
    read_guest(g, p.hdr.ramdisk_image, loaded, sizeof(loaded));
    assert_memory_equal(loaded, initrd, sizeof(initrd));

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

/* ---- Multiboot ---- */

static void assert_multiboot_start(const struct guest *g, uint32_t entry)
{
    const struct vcpu_state *s = &g->result.state;
    assert_int_equal(g->result.format, GUEST_MULTIBOOT);
    assert_segments(g, 0xc09b);
    assert_int_equal(s->cr0 & (CR0_PE | CR0_PG), CR0_PE);
    assert_int_equal(s->efer, 0);
    assert_int_equal(s->gpr[GPR_RAX], 0x2badb002);
    assert_int_equal(s->rip, entry);
}

static void multiboot_elf32_gets_its_information(void **unused)
{
    (void)unused;
    struct guest *g = guest_create(5 * GIB);
    struct image m = elf32_image();
    put_multiboot(&m, 3, NULL);
    assert_loads(g, &m, "one two", true);
    assert_multiboot_start(g, LOAD_AT + 16);
    assert_code_loaded(g, LOAD_AT);

    gpa_t info = g->result.state.gpr[GPR_RBX];
    assert_int_equal(read32(g, info), 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9);
    assert_int_equal(read32(g, info + 4), 639);
    assert_int_equal(read32(g, info + 8), (3 * GIB - MIB) / 1024);
    assert_string(g, read32(g, info + 16), "one two");
    assert_string(g, read32(g, info + 64), "dejavm");

    assert_int_equal(read32(g, info + 20), 1);
    gpa_t module = read32(g, info + 24);
    gpa_t start = read32(g, module);
    char loaded[sizeof(initrd)];
    assert_int_equal(start % 4096, 0);
    assert_int_equal(read32(g, module + 4), start + sizeof(initrd));
    read_guest(g, start, loaded, sizeof(loaded));
    assert_memory_equal(loaded, initrd, sizeof(initrd));
    assert_string(g, read32(g, module + 8), "the-initrd");

    static const uint64_t expected[][3] = {
        {0, 0x9fc00, 1}, {0x9fc00, 0x60400, 2}, {MIB, 3 * GIB - MIB, 1}, {4 * GIB, 2 * GIB, 1}};
    gpa_t map = read32(g, info + 48);
    assert_int_equal(read32(g, info + 44), 24 * ARRAY_LEN(expected));
    for (size_t i = 0; i < ARRAY_LEN(expected); i++, map += 24) {
        assert_int_equal(read32(g, map), 20);
        for (unsigned j = 0; j < 2; j++)
            assert_int_equal(read32(g, map + 4 + 8 * j) | (uint64_t)read32(g, map + 8 + 8 * j) << 32,
                             expected[i][j]);
        assert_int_equal(read32(g, map + 20), expected[i][2]);
    }
    ram_destroy(g->ram);
}

static void multiboot_elf64_and_higher_half_entries(void **unused)
{
    (void)unused;
    struct guest *g = guest_create(16 * MIB);
    struct image m = elf64_image();
    put_multiboot(&m, 3, NULL);
    assert_loads(g, &m, "", false);
    assert_multiboot_start(g, LOAD_AT + 16);
    assert_int_equal(read32(g, g->result.state.gpr[GPR_RBX]) & 1 << 3, 0); /* no modules */
    ram_destroy(g->ram);

    g = guest_create(16 * MIB);
    phdr64(&m, 0)->p_vaddr = 0xffffffff80100000u;
    ehdr64(&m)->e_entry = 0xffffffff80100020u;
    assert_loads(g, &m, "", false);
    assert_multiboot_start(g, LOAD_AT + 32);
    ram_destroy(g->ram);

    ehdr64(&m)->e_entry = 0x700000;
    assert_fails(&m, 16 * MIB, -EINVAL, "outside of all loadable segments");
    phdr64(&m, 0)->p_paddr = 4 * GIB;
    ehdr64(&m)->e_entry = 4 * GIB;
    assert_fails(&m, 4 * GIB, -EINVAL, "above 4 GiB");
}

static void multiboot_address_fields_place_the_file(void **unused)
{
    (void)unused;
    struct guest *g = guest_create(16 * MIB);
    struct image m = kludge_image();
    assert_loads(g, &m, "", false);
    assert_multiboot_start(g, LOAD_AT + CODE_OFFSET - MULTIBOOT_OFFSET);
    assert_code_loaded(g, LOAD_AT + CODE_OFFSET - MULTIBOOT_OFFSET);
    assert_int_equal(read32(g, LOAD_AT), 0x1badb002);
    ram_destroy(g->ram);
}

static void multiboot_fields_are_checked(void **unused)
{
    (void)unused;
    static const struct {
        uint32_t flags, address[5];
        int code;
        const char *message;
    } cases[] = {
        {0x10008, {LOAD_AT, LOAD_AT, 0, 0, LOAD_AT}, -ENOTSUP, "flags 0x8"},
        {0x3, {0}, -EINVAL, "no address fields"},
        {0x10000, {LOAD_AT, LOAD_AT + 4, 0, 0, LOAD_AT}, -EINVAL, "load_addr"},
        {0x10000, {LOAD_AT, LOAD_AT - 257, 0, 0, LOAD_AT}, -EINVAL, "load_addr"},
        {0x10000, {LOAD_AT, LOAD_AT, LOAD_AT - 1, 0, LOAD_AT}, -EINVAL, "load_end_addr"},
        {0x10000, {LOAD_AT, LOAD_AT, LOAD_AT + 5000, 0, LOAD_AT}, -EINVAL, "load_end_addr"},
        {0x10000, {LOAD_AT, LOAD_AT, 0, LOAD_AT + 8, LOAD_AT}, -EINVAL, "bss_end_addr"},
        {0x10000, {LOAD_AT, LOAD_AT, 0, 0, LOAD_AT - 1}, -EINVAL, "entry_addr"},
        {0x10000, {LOAD_AT, LOAD_AT, 0, 0x2000000, LOAD_AT}, -ENOMEM, "needs 32 MiB"},
        {0x10000, {0xfffffff0, 0xfffffff0, 0, 0, 0xfffffff0}, -ENOMEM, "between 3 GiB and 4 GiB"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct image m = {.length = 0};
        put_code(&m);
        put_multiboot(&m, cases[i].flags, cases[i].address);
        assert_fails(&m, 16 * MIB, cases[i].code, cases[i].message);
    }
    struct image cut = kludge_image();
    cut.length = MULTIBOOT_OFFSET + 20;
    assert_fails(&cut, 16 * MIB, -EINVAL, "cut off");
}

static void multiboot_header_is_only_one_with_its_checksum_and_place(void **unused)
{
    (void)unused;
    static uint8_t large[8192 + 64];
    struct image m = kludge_image();
    assert_true(loader_is_multiboot(m.bytes, m.length));
    m.bytes[MULTIBOOT_OFFSET + 8] ^= 1;
    assert_false(loader_is_multiboot(m.bytes, m.length));
    assert_fails(&m, 16 * MIB, -ENOTSUP, "format is unknown");

    m = kludge_image();
    memcpy(large + 8192 - 12, m.bytes + MULTIBOOT_OFFSET, 12); /* completely within 8192 bytes */
    assert_true(loader_is_multiboot(large, sizeof(large)));
    memset(large, 0, sizeof(large));
    memcpy(large + 8192 - 8, m.bytes + MULTIBOOT_OFFSET, 12);
    assert_false(loader_is_multiboot(large, sizeof(large)));
    memset(large, 0, sizeof(large));
    memcpy(large + 6, m.bytes + MULTIBOOT_OFFSET, 12);
    assert_false(loader_is_multiboot(large, sizeof(large)));
}

/* ---- everything else ---- */

static void other_formats_are_named(void **unused)
{
    (void)unused;
    static const struct {
        size_t offset;
        const char *bytes;
        size_t length;
        const char *message;
    } cases[] = {
        {0, "MZ", 2, "a PE"},
        {0x202, "HdrS", 4, "a Linux bzImage"},
        {0, "\x1f\x8b\x08", 3, "gzip"},
        {0, "\xd6\x50\x52\xe8\0\0\0\0\x10\0\0\0\x1a\xaf\xad\x17", 16, "a Multiboot 2 kernel"},
        {510, "\x55\xaa", 2, "a boot sector"},
        {0, "#!/bin/sh", 9, "a script"},
        {0, "nothing in particular", 21, "format is unknown"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct image m = {.length = IMAGE_BYTES};
        memcpy(m.bytes + cases[i].offset, cases[i].bytes, cases[i].length);
        assert_fails(&m, 16 * MIB, -ENOTSUP, cases[i].message);
        assert_fails(&m, 16 * MIB, -ENOTSUP, "Multiboot 1 kernels"); /* what would be supported */
    }
    struct image bz = {.length = IMAGE_BYTES};
    memcpy(bz.bytes, "MZ", 2); /* with an EFI stub */
    memcpy(bz.bytes + 0x202, "HdrS", 4);
    assert_fails(&bz, 16 * MIB, -ENOTSUP, "a Linux bzImage");
    struct image elf32 = elf32_image();
    assert_fails(&elf32, 16 * MIB, -ENOTSUP, "no Multiboot 1 header");
    struct image empty = {.length = 0};
    assert_fails(&empty, 16 * MIB, -EINVAL, "empty");
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Numbers that are more likely to hurt than random ones. */
static uint64_t nasty_number(uint64_t *random)
{
    static const uint64_t nasty[] = {
        0,       1,          0xfff,      0x1000,    0xffff,    0x100000,   0xffffffff,
        1 << 20, 0x80000000, 0xc0000000, INT64_MAX, 1ul << 63, UINT64_MAX, UINT64_MAX - 0xfff};
    uint64_t n = next_random(random);
    return n & 1 ? nasty[(n >> 1) % ARRAY_LEN(nasty)] + (n >> 32) % 3 - 1 : n;
}

static void mutate(struct image *m, uint64_t *random)
{
    unsigned changes = 1 + (unsigned)(next_random(random) % 4);
    for (unsigned i = 0; i < changes; i++) {
        uint64_t value = nasty_number(random);
        size_t size = (size_t)1 << next_random(random) % 4;
        size_t at = next_random(random) % 320 & ~(size - 1); /* the headers */
        memcpy(m->bytes + at, &value, size);
    }
    if (next_random(random) % 8 == 0)
        m->length = next_random(random) % (m->length + 1);
}

/* A loaded image's vCPU state points into RAM, whatever the image was. */
static void assert_state_in_ram(const struct guest *g)
{
    const struct vcpu_state *s = &g->result.state;
    assert_true(ram_offset(g->ram, s->rip) != RAM_NO_OFFSET);
    assert_true(ram_offset(g->ram, s->gpr[GPR_RSP] - 1) != RAM_NO_OFFSET);
    assert_true(ram_offset(g->ram, s->cr3) != RAM_NO_OFFSET);
    assert_true(ram_offset(g->ram, s->gdtr.base + s->gdtr.limit) != RAM_NO_OFFSET);
}

static void mutated_images_load_or_are_refused(void **unused)
{
    (void)unused;
    struct guest *g = guest_create(16 * MIB);
    uint64_t random = 0x6a09e667f3bcc908;
    unsigned loaded = 0;
    const unsigned total = 40000;
    for (unsigned i = 0; i < total; i++) {
        struct image m = i % 4 == 0 ? elf64_image() : i % 4 == 1 ? elf32_image() : kludge_image();
        if (i % 4 == 1)
            put_multiboot(&m, 3, NULL);
        if (i % 4 == 3) {
            m = elf64_image();
            put_multiboot(&m, 3, NULL);
        }
        mutate(&m, &random);
        /* A copy of just its length, so that AddressSanitizer sees a read beyond it. */
        uint8_t *copy = test_malloc(m.length + 1);
        memcpy(copy, m.bytes, m.length);
        const struct loader_input input = {
            .image = copy, .image_length = m.length, .image_name = "image", .command_line = ""};
        g->err.message[0] = '\0';
        int rc = loader_load(g->ram, &input, &g->result, &g->err);
        test_free(copy);
        if (rc == 0) {
            loaded++;
            assert_state_in_ram(g);
        } else {
            assert_true(rc == -EINVAL || rc == -ENOTSUP || rc == -ENOMEM);
            assert_true(strlen(g->err.message) > 10);
        }
    }
    assert_in_range(loaded, total / 20, total - total / 20); /* else the mutations are useless */
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
        cmocka_unit_test(missing_ram_is_named),
        cmocka_unit_test(long_command_line_is_refused),
        cmocka_unit_test(multiboot_elf32_gets_its_information),
        cmocka_unit_test(multiboot_elf64_and_higher_half_entries),
        cmocka_unit_test(multiboot_address_fields_place_the_file),
        cmocka_unit_test(multiboot_fields_are_checked),
        cmocka_unit_test(multiboot_header_is_only_one_with_its_checksum_and_place),
        cmocka_unit_test(other_formats_are_named),
        cmocka_unit_test(mutated_images_load_or_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
