/* Linux kernels: bzImages by the 64-bit boot protocol, and ELF files with a PVH note. */
#include "tests/core/loader_images.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <string.h>

/* ---- bzImage ---- */

#define SETUP_BYTES  1024 /* one sector of setup code */
#define KERNEL_BYTES 2048
#define PREFERRED    0x1000000u
#define ALIGNMENT    0x200000u

static struct setup_header *setup_header(struct image *m)
{
    return (struct setup_header *)(void *)(m->bytes + 0x1f1);
}

static uint8_t kernel_byte(size_t i)
{
    return (uint8_t)(i * 7 + 1);
}

static struct image bzimage(void)
{
    struct image m = {.length = SETUP_BYTES + KERNEL_BYTES};
    memcpy(m.bytes, "MZ", 2); /* an EFI stub, as real ones have it */
    for (size_t i = 0; i < KERNEL_BYTES; i++)
        m.bytes[SETUP_BYTES + i] = kernel_byte(i);
    *setup_header(&m) = (struct setup_header){.setup_sects = 1,
                                              .syssize = KERNEL_BYTES / 16,
                                              .boot_flag = 0xaa55,
                                              .jump = 0x6aeb,
                                              .header = 0x53726448,
                                              .version = 0x020f,
                                              .loadflags = LOADED_HIGH,
                                              .initrd_addr_max = 0x7fffffff,
                                              .kernel_alignment = ALIGNMENT,
                                              .relocatable_kernel = 1,
                                              .xloadflags = XLF_KERNEL_64 | XLF_CAN_BE_LOADED_ABOVE_4G,
                                              .cmdline_size = 2047,
                                              .payload_offset = 0x2cc,
                                              .pref_address = PREFERRED,
                                              .init_size = 0x400000};
    return m;
}

static void assert_kernel_at(const struct guest *g, gpa_t at)
{
    uint8_t kernel[KERNEL_BYTES];
    read_guest(g, at, kernel, sizeof(kernel));
    for (size_t i = 0; i < sizeof(kernel); i++)
        assert_int_equal(kernel[i], kernel_byte(i));
    assert_int_equal(g->result.state.rip, at + 0x200); /* the 64-bit entry */
}

static struct boot_params zero_page(const struct guest *g)
{
    struct boot_params p;
    read_guest(g, g->result.state.gpr[GPR_RSI], &p, sizeof(p));
    return p;
}

static void bzimage_is_loaded_where_it_prefers(void **unused)
{
    (void)unused;
    struct guest *g = guest_create(64 * MIB);
    struct image m = bzimage();
    assert_loads(g, &m, "console=ttyS0 quiet", true);
    assert_int_equal(g->result.format, GUEST_LINUX_BZIMAGE);
    assert_kernel_at(g, PREFERRED);
    assert_segments(g, 0xa09b);
    assert_true(vcpu_in_64bit_code(&g->result.state));

    struct boot_params p = zero_page(g);
    assert_memory_equal(&p.hdr.header, "HdrS", 4);
    assert_int_equal(p.hdr.type_of_loader, 0xff);
    assert_int_equal(p.hdr.payload_offset, 0x2cc); /* what the kernel said of itself is there */
    assert_int_equal(p.hdr.init_size, 0x400000);
    assert_int_equal(p.sentinel, 0);
    assert_string(g, p.hdr.cmd_line_ptr, "console=ttyS0 quiet");
    assert_int_equal(p.hdr.ramdisk_size, INITRD_BYTES);
    uint8_t loaded[INITRD_BYTES];
    read_guest(g, p.hdr.ramdisk_image, loaded, sizeof(loaded));
    assert_memory_equal(loaded, initrd, INITRD_BYTES);
    assert_true(p.hdr.ramdisk_image >= PREFERRED + 0x400000); /* clear of what the kernel needs at first */
    assert_int_equal(p.e820_entries, 3);
    assert_int_equal(p.e820_table[2].addr + p.e820_table[2].size, 64 * MIB);
    ram_destroy(g->ram);
}

static void bzimage_is_relocated_when_ram_is_short(void **unused)
{
    (void)unused;
    struct guest *g = guest_create(16 * MIB);
    struct image m = bzimage();
    assert_loads(g, &m, "", false);
    assert_kernel_at(g, ALIGNMENT);
    assert_int_equal(zero_page(g).hdr.ramdisk_image, 0);
    ram_destroy(g->ram);
    setup_header(&m)->relocatable_kernel = 0;
    assert_fails(&m, 16 * MIB, -ENOMEM, "cannot be relocated) is to be loaded at 0x1000000");
    m = bzimage();
    setup_header(&m)->init_size = 0x2000000;
    assert_fails(&m, 16 * MIB, -ENOMEM, "the kernel is to be loaded at 0x200000");
    m = bzimage();
    setup_header(&m)->init_size = 0xfffffff0;
    assert_fails(&m, 16 * MIB, -ENOMEM, "never RAM between 3 GiB and 4 GiB");
}

static void initrd_stays_below_the_kernels_limit(void **unused)
{
    (void)unused;
    struct guest *g = guest_create(256 * MIB);
    struct image m = bzimage();
    setup_header(&m)->initrd_addr_max = 0x37fffff;
    assert_loads(g, &m, "", true);
    struct boot_params p = zero_page(g);
    assert_true(p.hdr.ramdisk_image + INITRD_BYTES <= 0x3800000);
    assert_true(p.hdr.ramdisk_image >= 0x37ff000);
    ram_destroy(g->ram);
}

static void bzimages_that_cannot_start_are_refused(void **unused)
{
    (void)unused;
    struct image m = bzimage();
    m.length--;
    assert_fails(&m, 64 * MIB, -EINVAL, "cut short: it has 3071 bytes, and its kernel takes 2048");
    m.length = 700;
    assert_fails(&m, 64 * MIB, -EINVAL, "cut short");
    m.length = 0x230;
    assert_fails(&m, 64 * MIB, -EINVAL, "setup header ends at offset 0x26c of 0x230 bytes");
    m = bzimage();
    setup_header(&m)->jump = 0x00eb;
    assert_fails(&m, 64 * MIB, -EINVAL, "setup header ends at offset 0x202");
    m = bzimage();
    setup_header(&m)->version = 0x0209;
    assert_fails(&m, 64 * MIB, -ENOTSUP, "boot protocol 2.09");
    m = bzimage();
    setup_header(&m)->xloadflags = 0;
    assert_fails(&m, 64 * MIB, -ENOTSUP, "32-bit kernel");
    m = bzimage();
    setup_header(&m)->loadflags = 0;
    assert_fails(&m, 64 * MIB, -ENOTSUP, "zImage");
    m = bzimage();
    setup_header(&m)->syssize = 0;
    assert_fails(&m, 64 * MIB, -EINVAL, "its kernel has 0 bytes");
    m = bzimage();
    setup_header(&m)->kernel_alignment = 0x300000;
    assert_fails(&m, 64 * MIB, -EINVAL, "0x300000 is not a power of two");
}

static void command_line_has_the_kernels_limit(void **unused)
{
    (void)unused;
    struct guest *g = guest_create(64 * MIB);
    struct image m = bzimage();
    char text[32] = "12345678901234567890";
    setup_header(&m)->cmdline_size = 19;
    assert_int_equal(load(g, &m, text, false), -EINVAL);
    assert_non_null(strstr(g->err.message, "has 20 bytes; this kernel takes 19"));
    text[19] = '\0';
    assert_loads(g, &m, text, false);
    ram_destroy(g->ram);
}

/* ---- PVH ---- */

#define NOTE_OFFSET 256

/* The start information as the ABI has it. */
struct start_info {
    uint32_t magic, version, flags, module_count;
    uint64_t modules, command_line, rsdp, memory_map;
    uint32_t memory_map_entries, reserved;
};

struct note {
    uint32_t name_bytes, descriptor_bytes, type;
    char name[4];
    uint64_t entry;
};

static void put_note(struct image *m, size_t offset, const struct note *note)
{
    memcpy(m->bytes + offset, note, sizeof(*note));
}

static const struct note good_note = {4, 8, 18, "Xen", LOAD_AT + 32};

/* An ELF64 file whose second program header is a note segment: another owner's note, another type's, and the entry. */
static struct image pvh_image(void)
{
    static const struct note others[2] = {{4, 8, 18, "Xyz", 1}, {4, 6, 6, "Xen", 0x7878756e696c}};
    struct image m = elf64_image();
    put_note(&m, NOTE_OFFSET, &others[0]);
    put_note(&m, NOTE_OFFSET + sizeof(struct note), &others[1]);
    put_note(&m, NOTE_OFFSET + 2 * sizeof(struct note), &good_note);
    *phdr64(&m, 1) =
        (Elf64_Phdr){.p_type = PT_NOTE, .p_offset = NOTE_OFFSET, .p_filesz = 3 * sizeof(struct note)};
    ehdr64(&m)->e_entry = 0xffffffff81000000; /* PVH does not look at it */
    return m;
}

static void pvh_kernel_gets_its_start_information(void **unused)
{
    (void)unused;
    struct guest *g = guest_create(4 * GIB);
    struct image m = pvh_image();
    assert_loads(g, &m, "root=none", true);
    assert_int_equal(g->result.format, GUEST_PVH);
    assert_code_loaded(g, LOAD_AT);
    const struct vcpu_state *s = &g->result.state;
    assert_int_equal(s->rip, LOAD_AT + 32);
    assert_segments(g, 0xc09b);
    assert_int_equal(s->cr0 & (CR0_PE | CR0_PG), CR0_PE);
    assert_int_equal(s->cr4, 0);
    assert_int_equal(s->efer, 0);

    struct start_info info;
    read_guest(g, s->gpr[GPR_RBX], &info, sizeof(info));
    assert_int_equal(info.magic, 0x336ec578);
    assert_int_equal(info.version, 1);
    assert_int_equal(info.rsdp, RSDP_AT);
    assert_string(g, info.command_line, "root=none");
    assert_int_equal(info.module_count, 1);
    uint64_t module[4];
    uint8_t loaded[INITRD_BYTES];
    read_guest(g, info.modules, module, sizeof(module));
    assert_int_equal(module[1], INITRD_BYTES);
    read_guest(g, module[0], loaded, sizeof(loaded));
    assert_memory_equal(loaded, initrd, INITRD_BYTES);
    assert_int_equal(info.memory_map_entries, 4);
    static const uint64_t expected[4][3] = {
        {0, 0x9fc00, 1}, {0x9fc00, 0x60400, 2}, {0x100000, 3 * GIB - 0x100000, 1}, {4 * GIB, GIB, 1}};
    assert_memory_equal(g->ram->host + info.memory_map, expected, sizeof(expected));
    ram_destroy(g->ram);
}

static void pvh_note_of_32_bits_works(void **unused)
{
    (void)unused;
    struct guest *g = guest_create(16 * MIB);
    struct image m = pvh_image();
    struct note note = good_note;
    note.descriptor_bytes = 4;
    note.entry |= 0xdead00000000;
    put_note(&m, NOTE_OFFSET + 2 * sizeof(note), &note);
    phdr64(&m, 1)->p_filesz -= 4;
    assert_loads(g, &m, "", false);
    assert_int_equal(g->result.state.rip, LOAD_AT + 32);
    ram_destroy(g->ram);
}

static void bad_pvh_notes_are_refused(void **unused)
{
    (void)unused;
    struct image m = pvh_image();
    struct note note = good_note;
    note.entry = LOAD_AT + 2 * CODE_BYTES;
    put_note(&m, NOTE_OFFSET + 2 * sizeof(note), &note);
    assert_fails(&m, 16 * MIB, -EINVAL, "the PVH entry point 0x100080 is outside");
    note.entry = good_note.entry | (uint64_t)1 << 32;
    put_note(&m, NOTE_OFFSET + 2 * sizeof(note), &note);
    assert_fails(&m, 16 * MIB, -EINVAL, "the PVH entry point 0x100100020 is outside");
    note.descriptor_bytes = 2;
    put_note(&m, NOTE_OFFSET + 2 * sizeof(note), &note);
    assert_fails(&m, 16 * MIB, -EINVAL, "2 bytes instead of 4 or 8");
    /* A note that leaves its segment is none; the ELF file's own entry counts then. */
    note.descriptor_bytes = 12;
    put_note(&m, NOTE_OFFSET + 2 * sizeof(note), &note);
    assert_fails(&m, 16 * MIB, -EINVAL, "the entry point 0xffffffff81000000 is outside");
}

/* ---- both ---- */

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Changes fields of the setup header, or of the ELF headers and the notes. */
static void mutate(struct image *m, bool bz, uint64_t *random)
{
    static const uint64_t nasty[] = {0,          1,          0xff,       0xfff,      0x1000,   0x100000,
                                     0xc0000000, 0x7fffffff, 0xffffffff, UINT64_MAX, 1ul << 63};
    unsigned changes = 1 + (unsigned)(next_random(random) % 3);
    for (unsigned i = 0; i < changes; i++) {
        uint64_t n = next_random(random), value = n & 1 ? nasty[(n >> 8) % ARRAY_LEN(nasty)] : n;
        size_t size = (size_t)1 << next_random(random) % 4;
        size_t at = bz ? 0x1f1 + next_random(random) % 0x7b : next_random(random) % 340;
        memcpy(m->bytes + at, &value, size);
    }
    if (next_random(random) % 8 == 0)
        m->length = next_random(random) % (m->length + 1);
}

static void mutated_kernels_load_or_are_refused(void **unused)
{
    (void)unused;
    struct guest *g = guest_create(32 * MIB);
    uint64_t random = 0xbb67ae8584caa73b;
    unsigned loaded[2] = {0};
    const unsigned total = 20000;
    for (unsigned i = 0; i < total; i++) {
        bool bz = i & 1;
        struct image m = bz ? bzimage() : pvh_image();
        mutate(&m, bz, &random);
        /* A copy of just its length, so that AddressSanitizer sees a read beyond it. */
        uint8_t *copy = test_malloc(m.length + 1);
        memcpy(copy, m.bytes, m.length);
        const struct loader_input input = {
            .image = copy, .image_length = m.length, .image_name = "image", .command_line = "quiet"};
        int rc = loader_load(g->ram, &input, &g->result, &g->err);
        test_free(copy);
        if (rc)
            assert_true(rc == -EINVAL || rc == -ENOTSUP || rc == -ENOMEM);
        else
            assert_true(ram_offset(g->ram, g->result.state.rip) != RAM_NO_OFFSET);
        loaded[bz] += rc == 0;
    }
    assert_in_range(loaded[0], total / 40, total / 2 - total / 40); /* else the mutations are useless */
    assert_in_range(loaded[1], total / 40, total / 2 - total / 40);
    ram_destroy(g->ram);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bzimage_is_loaded_where_it_prefers),
        cmocka_unit_test(bzimage_is_relocated_when_ram_is_short),
        cmocka_unit_test(initrd_stays_below_the_kernels_limit),
        cmocka_unit_test(bzimages_that_cannot_start_are_refused),
        cmocka_unit_test(command_line_has_the_kernels_limit),
        cmocka_unit_test(pvh_kernel_gets_its_start_information),
        cmocka_unit_test(pvh_note_of_32_bits_works),
        cmocka_unit_test(bad_pvh_notes_are_refused),
        cmocka_unit_test(mutated_kernels_load_or_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
