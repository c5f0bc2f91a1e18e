/* Multiboot guests: what they find when they start, and what is said about those that cannot be loaded. */
#include "tests/core/loader_images.h"

#include <errno.h>
#include <string.h>

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
    char loaded[INITRD_BYTES];
    assert_int_equal(start % 4096, 0);
    assert_int_equal(read32(g, module + 4), start + INITRD_BYTES);
    read_guest(g, start, loaded, sizeof(loaded));
    assert_memory_equal(loaded, initrd, INITRD_BYTES);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(multiboot_elf32_gets_its_information),
        cmocka_unit_test(multiboot_elf64_and_higher_half_entries),
        cmocka_unit_test(multiboot_address_fields_place_the_file),
        cmocka_unit_test(multiboot_fields_are_checked),
        cmocka_unit_test(multiboot_header_is_only_one_with_its_checksum_and_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
