/* Names and lines of real ELF images, compared with libdw; and images that are damaged. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <elfutils/libdw.h>
#include <gelf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/symbols.h"

/* SYMBOLS_GUEST_SOURCE, SYMBOLS_GUEST_64 and SYMBOLS_GUEST_32 come from the build. */
static const char *const guests[] = {SYMBOLS_GUEST_64, SYMBOLS_GUEST_32};

struct image {
    uint8_t *data;
    size_t length;
};

static struct image read_file(const char *path)
{
    struct image image = {0};
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    image.length = (size_t)ftell(file);
    rewind(file);
    image.data = malloc(image.length + 1);
    assert_non_null(image.data);
    assert_int_equal(fread(image.data, 1, image.length, file), image.length);
    image.data[image.length] = '\0';
    fclose(file);
    return image;
}

static struct symbols *load(const char *path)
{
    struct image image = read_file(path);
    struct symbols *s;
    struct error err;
    assert_int_equal(symbols_create(&s, image.data, image.length, &err), 0);
    free(image.data); /* the table must not need it any more */
    return s;
}

/* The line of the guest's source that holds text. */
static unsigned line_of(const char *text)
{
    struct image source = read_file(SYMBOLS_GUEST_SOURCE);
    char *found = strstr((char *)source.data, text);
    assert_non_null(found);
    unsigned line = 1;
    for (char *c = (char *)source.data; c < found; c++)
        line += *c == '\n';
    free(source.data);
    return line;
}

static gva_t address_of(const struct symbols *s, const char *name)
{
    gva_t address = 0;
    assert_true(symbols_find(s, name, &address));
    return address;
}

static void finds_addresses_by_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(guests); i++) {
        struct symbols *s = load(guests[i]);
        gva_t address;
        assert_true(address_of(s, "branch") > 0);
        assert_int_not_equal(address_of(s, "leaf"), address_of(s, "branch"));
        assert_int_not_equal(address_of(s, "global_counter"), address_of(s, "local_table"));
        assert_int_equal(address_of(s, "outer"), address_of(s, "bare_label") + 2);
        assert_false(symbols_find(s, "no_such_name", &address));
        assert_false(symbols_find(s, "", &address));
        assert_false(symbols_find(s, "an_absolute_constant", &address));
        symbols_destroy(s);
    }
}

static void describes_with_offset_and_line(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(guests); i++) {
        struct symbols *s = load(guests[i]);
        char text[100], expected[100];
        gva_t branch = address_of(s, "branch");
        unsigned mark = line_of("MARK branch"), found = 0;
        assert_int_equal(
            strncmp(symbols_describe(s, branch, text, sizeof(text)), "branch (symbols_guest.c:", 24), 0);
        for (unsigned offset = 1; offset < 40; offset++) {
            snprintf(expected, sizeof(expected), "branch+0x%x (symbols_guest.c:%u)", offset, mark);
            found += strcmp(symbols_describe(s, branch + offset, text, sizeof(text)), expected) == 0;
        }
        assert_true(found > 2);
        /* Data has no lines. */
        gva_t table = address_of(s, "local_table");
        assert_string_equal(symbols_describe(s, table, text, sizeof(text)), "local_table");
        assert_string_equal(symbols_describe(s, table + 63, text, sizeof(text)), "local_table+0x3f");
        symbols_destroy(s);
    }
}

static void labels_count_where_no_function_is_around(void **state)
{
    struct symbols *s = load(SYMBOLS_GUEST_64);
    char text[100];
    gva_t bare = address_of(s, "bare_label");
    (void)state;
    assert_string_equal(symbols_describe(s, bare, text, sizeof(text)), "bare_label");
    assert_string_equal(symbols_describe(s, bare + 1, text, sizeof(text)), "bare_label+0x1");
    assert_string_equal(symbols_describe(s, bare + 2, text, sizeof(text)), "outer");
    assert_string_equal(symbols_describe(s, bare + 3, text, sizeof(text)), "outer+0x1");
    assert_string_equal(symbols_describe(s, bare + 4, text, sizeof(text)), "outer+0x2");
    symbols_destroy(s);
}

static void unknown_addresses_have_no_description(void **state)
{
    static const gva_t nowhere[] = {0, 1, 0x1000, 0xffffffff80000000, UINT64_MAX};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(guests); i++) {
        struct symbols *s = load(guests[i]);
        char text[100];
        for (size_t n = 0; n < ARRAY_LEN(nowhere); n++)
            assert_string_equal(symbols_describe(s, nowhere[n], text, sizeof(text)), "");
        symbols_destroy(s);
    }
}

static void a_short_buffer_is_cut_and_terminated(void **state)
{
    struct symbols *s = load(SYMBOLS_GUEST_64);
    gva_t branch = address_of(s, "branch");
    char whole[100], text[100];
    (void)state;
    symbols_describe(s, branch + 5, whole, sizeof(whole));
    for (size_t size = 1; size < 40; size++) {
        memset(text, '#', sizeof(text));
        symbols_describe(s, branch + 5, text, size);
        assert_int_equal(text[size], '#');
        assert_true(strlen(text) < size);
        assert_int_equal(strncmp(text, whole, strlen(text)), 0);
    }
    text[0] = '#';
    symbols_describe(s, branch, text, 0);
    assert_int_equal(text[0], '#');
    assert_string_equal(symbols_describe(NULL, branch, text, sizeof(text)), "");
    symbols_destroy(s);
    symbols_destroy(NULL);
}

/* The compilation unit of an address, found without .debug_aranges, which clang leaves out. */
static bool unit_by_libdw(Dwarf *dwarf, gva_t address, Dwarf_Die *unit)
{
    Dwarf_Off offset = 0, next;
    size_t header_bytes;
    while (dwarf_nextcu(dwarf, offset, &next, &header_bytes, NULL, NULL, NULL) == 0) {
        if (dwarf_offdie(dwarf, offset + header_bytes, unit) && dwarf_haspc(unit, address) > 0)
            return true;
        offset = next;
    }
    return false;
}

/*
 * What libdw says about an address: "file:line"; "" where nothing is known, or the line is 0 (code of no
 * source line).
 */
static void line_by_libdw(Dwarf *dwarf, gva_t address, char *out, size_t size)
{
    Dwarf_Die unit;
    int line = 0;
    const char *file = NULL;
    out[0] = '\0';
    if (!unit_by_libdw(dwarf, address, &unit))
        return;
    Dwarf_Line *row = dwarf_getsrc_die(&unit, address);
    if (row && dwarf_lineno(row, &line) == 0 && line > 0 && (file = dwarf_linesrc(row, NULL, NULL)) != NULL)
        snprintf(out, size, "(%s:%d)", strrchr(file, '/') ? strrchr(file, '/') + 1 : file, line);
}

/* Every address of the text section of an image has the line that libdw gives it. */
static unsigned compare_lines(const char *path)
{
    struct image image = read_file(path);
    struct symbols *s = load(path);
    unsigned compared = 0;
    elf_version(EV_CURRENT);
    Elf *elf = elf_memory((char *)image.data, image.length);
    Dwarf *dwarf = dwarf_begin_elf(elf, DWARF_C_READ, NULL);
    size_t names;
    Elf_Scn *section = NULL;
    assert_non_null(dwarf);
    assert_int_equal(elf_getshdrstrndx(elf, &names), 0);
    while ((section = elf_nextscn(elf, section)) != NULL) {
        GElf_Shdr header;
        gelf_getshdr(section, &header);
        if (strcmp(elf_strptr(elf, names, header.sh_name), ".text") != 0)
            continue;
        for (gva_t a = header.sh_addr; a < header.sh_addr + header.sh_size; a++) {
            char expected[300], text[600];
            line_by_libdw(dwarf, a, expected, sizeof(expected));
            symbols_describe(s, a, text, sizeof(text));
            const char *line = strchr(text, '(');
            if (expected[0]) {
                assert_string_equal(line ? line : "none", expected);
                compared++;
            }
        }
    }
    dwarf_end(dwarf);
    elf_end(elf);
    symbols_destroy(s);
    free(image.data);
    return compared;
}

static void lines_agree_with_libdw(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(guests); i++)
        assert_true(compare_lines(guests[i]) > 60);
}

static void images_that_are_not_elf_give_an_empty_table(void **state)
{
    static const char *const texts[] = {"", "\177", "\177ELF", "#!/bin/sh\n", "!<arch>\n"};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct symbols *s;
        struct error err;
        char text[50];
        gva_t address;
        assert_int_equal(symbols_create(&s, (const uint8_t *)texts[i], strlen(texts[i]), &err), 0);
        assert_string_equal(symbols_describe(s, 0x100000, text, sizeof(text)), "");
        assert_false(symbols_find(s, "main", &address));
        symbols_destroy(s);
    }
    struct symbols *s;
    assert_int_equal(symbols_create(&s, NULL, 0, NULL), 0);
    symbols_destroy(s);
}

static uint64_t next_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

/* Loads a damaged image and looks things up in whatever table comes out of it. */
static void use(const uint8_t *image, size_t length, uint64_t *seed)
{
    struct symbols *s;
    struct error err;
    char text[64];
    gva_t address = 0;
    if (symbols_create(&s, image, length, &err) != 0)
        return; /* no memory for what the image claims to hold */
    symbols_find(s, "branch", &address);
    for (unsigned i = 0; i < 20; i++)
        assert_true(strlen(symbols_describe(s, address + next_random(seed) % 256, text, sizeof(text))) <
                    sizeof(text));
    symbols_describe(s, next_random(seed), text, sizeof(text));
    symbols_destroy(s);
}

/*
 * Bytes changed anywhere, with a preference for headers and the debug sections near the end; and images cut
 * short.
 */
static void damaged_images_do_no_harm(void **state)
{
    static const uint8_t values[] = {0x00, 0xff, 0x7f, 0x80, 0x01, 0xfe};
    uint64_t seed = 0x2545f4914f6cdd1d;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(guests); i++) {
        struct image image = read_file(guests[i]);
        for (unsigned round = 0; round < SYMBOLS_DAMAGE_ROUNDS; round++) {
            uint8_t *copy = malloc(image.length); /* exactly as long: the sanitizer sees reads past the end */
            assert_non_null(copy);
            memcpy(copy, image.data, image.length);
            for (unsigned n = 1 + (unsigned)(next_random(&seed) % 8); n > 0; n--) {
                uint64_t r = next_random(&seed);
                size_t span = r % 3 == 0 ? 64 : r % 3 == 1 ? image.length : image.length / 3;
                size_t at = r % 3 == 2 ? image.length - 1 - (size_t)(r >> 8) % span : (size_t)(r >> 8) % span;
                copy[at] = r & 0x80 ? values[(r >> 48) % ARRAY_LEN(values)] : (uint8_t)(r >> 40);
            }
            use(copy, image.length, &seed);
            free(copy);
            size_t length = (size_t)(next_random(&seed) % image.length);
            copy = malloc(length + 1);
            assert_non_null(copy);
            memcpy(copy, image.data, length);
            use(copy, length, &seed);
            free(copy);
        }
        free(image.data);
    }
}

int main(int argc, char **argv)
{
    /* With the name of an image: compares that one, e.g. the release binary or a kernel. */
    if (argc > 1) {
        printf("%u addresses agree\n", compare_lines(argv[1]));
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_addresses_by_name),
        cmocka_unit_test(describes_with_offset_and_line),
        cmocka_unit_test(labels_count_where_no_function_is_around),
        cmocka_unit_test(unknown_addresses_have_no_description),
        cmocka_unit_test(a_short_buffer_is_cut_and_terminated),
        cmocka_unit_test(lines_agree_with_libdw),
        cmocka_unit_test(images_that_are_not_elf_give_an_empty_table),
        cmocka_unit_test(damaged_images_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
