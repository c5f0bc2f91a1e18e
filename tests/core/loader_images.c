/* Guest images made up by the loaders' tests, and guests to load them into. */
#include "tests/core/loader_images.h"

#include <string.h>

/* ---- images ---- */

Elf64_Ehdr *ehdr64(struct image *m)
{
    return (Elf64_Ehdr *)(void *)m->bytes;
}

Elf64_Phdr *phdr64(struct image *m, unsigned n)
{
    return (Elf64_Phdr *)(void *)(m->bytes + sizeof(Elf64_Ehdr)) + n;
}

Elf32_Ehdr *ehdr32(struct image *m)
{
    return (Elf32_Ehdr *)(void *)m->bytes;
}

Elf32_Phdr *phdr32(struct image *m, unsigned n)
{
    return (Elf32_Phdr *)(void *)(m->bytes + sizeof(Elf32_Ehdr)) + n;
}

void put_code(struct image *m)
{
    for (size_t i = 0; i < CODE_BYTES; i++)
        m->bytes[CODE_OFFSET + i] = (uint8_t)(i + 1);
    m->length = CODE_OFFSET + CODE_BYTES;
}

/* Two segments: 64 bytes of code and as many of zeros at 1 MiB, and only zeros at 2 MiB. */
struct image elf64_image(void)
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

struct image elf32_image(void)
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

/* Words after the magic, the flags and the checksum. */
void put_multiboot(struct image *m, uint32_t flags, const uint32_t address[5])
{
    uint32_t header[8] = {0x1badb002, flags, 0 - (0x1badb002 + flags)};
    if (address)
        memcpy(header + 3, address, 5 * sizeof(uint32_t));
    memcpy(m->bytes + MULTIBOOT_OFFSET, header, sizeof(header));
}

/* No ELF at all: the whole file from the header on is loaded at 1 MiB. */
struct image kludge_image(void)
{
    struct image m = {.length = 0};
    const uint32_t address[5] = {LOAD_AT, LOAD_AT, 0, LOAD_AT + 0x3000,
                                 LOAD_AT + CODE_OFFSET - MULTIBOOT_OFFSET};
    put_code(&m);
    put_multiboot(&m, 0x10003, address);
    return m;
}

/* ---- loading ---- */

const uint8_t initrd[INITRD_BYTES] = "an initrd that is not a multiple of a page long";

struct guest *guest_create(uint64_t ram_bytes)
{
    static struct guest g; /* one at a time; struct error is large */
    memset(&g, 0, sizeof(g));
    assert_int_equal(ram_create(&g.ram, ram_bytes, &g.err), 0);
    return &g;
}

int load(struct guest *g, const struct image *m, const char *command_line, bool with_initrd)
{
    const struct loader_input input = {.image = m->bytes,
                                       .image_length = m->length,
                                       .image_name = "image",
                                       .initrd = with_initrd ? initrd : NULL,
                                       .initrd_length = with_initrd ? INITRD_BYTES : 0,
                                       .initrd_name = "the-initrd",
                                       .command_line = command_line,
                                       .acpi_start = ACPI_AT,
                                       .acpi_bytes = ACPI_LENGTH,
                                       .acpi_rsdp = RSDP_AT};
    return loader_load(g->ram, &input, &g->result, &g->err);
}

void assert_fails(const struct image *m, uint64_t ram_bytes, int code, const char *message)
{
    struct guest *g = guest_create(ram_bytes);
    int rc = load(g, m, "", true);
    if (rc != code || !strstr(g->err.message, message))
        fail_msg("got %d \"%s\", expected %d \"...%s...\"", rc, g->err.message, code, message);
    assert_int_equal(g->result.format, GUEST_UNKNOWN);
    ram_destroy(g->ram);
}

void assert_loads(struct guest *g, const struct image *m, const char *command_line, bool with_initrd)
{
    if (load(g, m, command_line, with_initrd))
        fail_msg("%s", g->err.message);
}

void read_guest(const struct guest *g, gpa_t gpa, void *out, size_t length)
{
    assert_int_equal(ram_read(g->ram, gpa, out, length), 0);
}

uint32_t read32(const struct guest *g, gpa_t gpa)
{
    uint32_t value;
    read_guest(g, gpa, &value, sizeof(value));
    return value;
}

void assert_string(const struct guest *g, gpa_t gpa, const char *expected)
{
    char text[64];
    read_guest(g, gpa, text, strlen(expected) + 1);
    assert_string_equal(text, expected);
}

void assert_code_loaded(const struct guest *g, gpa_t at)
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

void assert_segments(const struct guest *g, uint16_t code_rights)
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
