/*
 * Kernel symbol tables in guest memory, in each layout that scripts/kallsyms has had since 5.10: laid out here as that does, behind page
 * tables, at an address that a randomised kernel could have.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/buffer.h"
#include "core/linux/linux_guest.h"

#define RAM_BYTES    ((uint64_t)32 << 20)
#define IMAGE_START  0xffffffffa3600000ull
#define IMAGE_GPA    ((gpa_t)4 << 20)
#define IMAGE_BYTES  ((uint64_t)8 << 20)
#define TABLES_GPA   ((gpa_t)1 << 20)
#define BANNER_PLACE 0x2000
#define TABLE_PLACE  0x3000
#define SYMBOLS      1000u
#define LONG_SYMBOL  700u /* its name has more than 127 tokens */

static const char banner[] = "Linux version 6.99-test (x@y) #1\n";

struct layout {
    bool offsets_behind;  /* since 6.4 */
    bool absolute_percpu; /* up to 6.14 */
    bool sequence_table;  /* 6.2 and later: something between, or behind */
};

struct kernel {
    struct guest_ram *ram;
    struct vcpu_state state;
    struct buffer tables;
    char names[SYMBOLS][256];
    uint64_t addresses[SYMBOLS];
    size_t num_syms, names_at, names_end, markers, token_table, token_index, offsets;
};

static void align(struct buffer *b)
{
    while (b->length % 8)
        buffer_put_u8(b, 0);
}

/* Token i is the character i, but for some which stand for more: as after the tool's search for common pieces. */
static const char *token(unsigned i, char out[8])
{
    static const char *const pieces[] = {"ab", "_x", "sys_", "sys_ab"};
    if (i >= 'a' && i <= 'z')
        snprintf(out, 8, "%c", (char)i);
    else if (i >= 1 && i <= 4)
        return pieces[i - 1];
    else
        snprintf(out, 8, "%c%02x", 'T', i);
    return out;
}

static void name_symbol(struct kernel *k, unsigned i, struct buffer *compressed)
{
    char text[8];
    buffer_put_u8(compressed, 't');
    strcpy(k->names[i], "");
    if (i == 1) { /* the banner is found by its name, spelt out */
        static const char name[] = "linuxXbanner";
        for (const char *c = name; *c; c++)
            buffer_put_u8(compressed, *c == 'X' ? 250 : (uint8_t)*c);
        strcpy(k->names[i], "linux_banner");
        return;
    }
    if (i == 0) {
        static const char tail[] = "text";
        buffer_put_u8(compressed, 250);
        buffer_put(compressed, tail, 4);
        strcpy(k->names[i], "_text");
        return;
    }
    unsigned length = i == LONG_SYMBOL ? 150 : 2 + i % 5;
    for (unsigned j = 0; j < length; j++) {
        uint8_t code = (uint8_t)(j == 0 ? 1 + i % 4 : 'a' + (i * 7 + j) % 26);
        buffer_put_u8(compressed, code);
        strcat(k->names[i], token(code, text));
    }
}

static void put_names(struct kernel *k, uint32_t markers[])
{
    align(&k->tables);
    k->num_syms = k->tables.length;
    buffer_put_u32(&k->tables, SYMBOLS);
    align(&k->tables);
    k->names_at = k->tables.length;
    for (unsigned i = 0; i < SYMBOLS; i++) {
        struct buffer name = {0};
        name_symbol(k, i, &name);
        if (i % 256 == 0)
            markers[i / 256] = (uint32_t)(k->tables.length - k->names_at);
        if (name.length > 127) {
            buffer_put_u8(&k->tables, (uint8_t)(0x80 | (name.length & 0x7f)));
            buffer_put_u8(&k->tables, (uint8_t)(name.length >> 7));
        } else {
            buffer_put_u8(&k->tables, (uint8_t)name.length);
        }
        buffer_put(&k->tables, name.data, name.length);
        buffer_free(&name);
    }
    k->names_end = k->tables.length;
    align(&k->tables);
    k->markers = k->tables.length;
    for (unsigned i = 0; i < (SYMBOLS + 255) / 256; i++)
        buffer_put_u32(&k->tables, markers[i]);
    align(&k->tables);
}

static void put_tokens(struct kernel *k)
{
    uint16_t index[256];
    k->token_table = k->tables.length;
    for (unsigned i = 0; i < 256; i++) {
        char text[8];
        const char *t = i == 250 ? "_" : token(i, text);
        index[i] = (uint16_t)(k->tables.length - k->token_table);
        buffer_put(&k->tables, t, strlen(t) + 1);
    }
    align(&k->tables);
    k->token_index = k->tables.length;
    for (unsigned i = 0; i < 256; i++)
        buffer_put_u16(&k->tables, index[i]);
    align(&k->tables);
}

/* The first symbols are per-CPU where those are absolute; two are where the kernel has them. */
static void choose_addresses(struct kernel *k, const struct layout *layout)
{
    for (unsigned i = 0; i < SYMBOLS; i++)
        k->addresses[i] = IMAGE_START + BANNER_PLACE + 0x40 * (uint64_t)i;
    k->addresses[0] = IMAGE_START;
    k->addresses[1] = IMAGE_START + BANNER_PLACE;
    if (layout->absolute_percpu)
        for (unsigned i = 900; i < SYMBOLS; i++)
            k->addresses[i] = 0x1000 + i;
}

static void put_offsets(struct kernel *k, const struct layout *layout)
{
    align(&k->tables);
    k->offsets = k->tables.length;
    for (unsigned i = 0; i < SYMBOLS; i++) {
        uint64_t a = k->addresses[i];
        uint64_t relative = a < IMAGE_START           ? a
                            : layout->absolute_percpu ? IMAGE_START - 1 - a
                                                      : a - IMAGE_START;
        buffer_put_u32(&k->tables, (uint32_t)relative);
    }
    align(&k->tables);
    buffer_put_u64(&k->tables, IMAGE_START);
}

static void put_sequences(struct kernel *k)
{
    for (unsigned i = 0; i < SYMBOLS; i++)
        buffer_put(&k->tables, "\1\2\3", 3);
    align(&k->tables);
}

static void put_entry(struct kernel *k, gpa_t table, unsigned index, uint64_t value)
{
    assert_int_equal(ram_write(k->ram, table + 8 * index, &value, sizeof(value)), 0);
}

/* 2 MiB pages for the image, from the page directory pointer table on. */
static void map_image(struct kernel *k)
{
    enum { PRESENT = 1, WRITABLE = 2, LARGE = 0x80 };
    gpa_t pml4 = TABLES_GPA, pdpt = pml4 + 0x1000, pd = pdpt + 0x1000;
    put_entry(k, pml4, 511, pdpt | PRESENT | WRITABLE);
    put_entry(k, pdpt, 510, pd | PRESENT | WRITABLE);
    for (unsigned i = 0; i < IMAGE_BYTES >> 21; i++)
        put_entry(k, pd, (unsigned)(IMAGE_START >> 21 & 511) + i,
                  (IMAGE_GPA + ((uint64_t)i << 21)) | PRESENT | WRITABLE | LARGE);
    vcpu_state_reset(&k->state);
    k->state.cr0 |= CR0_PE | CR0_PG;
    k->state.cr4 |= CR4_PAE;
    k->state.efer = EFER_LME | EFER_LMA;
    k->state.cr3 = pml4;
}

static void write_image(struct kernel *k)
{
    assert_false(k->tables.failed);
    assert_int_equal(ram_write(k->ram, IMAGE_GPA + BANNER_PLACE, banner, sizeof(banner)), 0);
    assert_int_equal(ram_write(k->ram, IMAGE_GPA + TABLE_PLACE, k->tables.data, k->tables.length), 0);
}

static struct kernel *kernel_make(const struct layout *layout)
{
    struct kernel *k = calloc(1, sizeof(*k));
    uint32_t markers[(SYMBOLS + 255) / 256];
    assert_non_null(k);
    assert_int_equal(ram_create(&k->ram, RAM_BYTES, NULL), 0);
    choose_addresses(k, layout);
    if (!layout->offsets_behind)
        put_offsets(k, layout);
    put_names(k, markers);
    if (layout->sequence_table && !layout->offsets_behind)
        put_sequences(k);
    put_tokens(k);
    if (layout->offsets_behind)
        put_offsets(k, layout);
    if (layout->sequence_table && layout->offsets_behind)
        put_sequences(k);
    map_image(k);
    write_image(k);
    return k;
}

static void kernel_free(struct kernel *k)
{
    ram_destroy(k->ram);
    buffer_free(&k->tables);
    free(k);
}

static int open_guest(struct kernel *k, struct linux_guest **guest, struct error *err)
{
    const struct linux_view view = {k->ram, &k->state};
    return linux_guest_open(guest, &view, err);
}

static void expect_symbols(struct kernel *k)
{
    struct linux_guest *g;
    struct error err = {0};
    char text[512];
    if (open_guest(k, &g, &err))
        fail_msg("%s", err.message);
    assert_int_equal(linux_symbol_count(g), SYMBOLS);
    assert_int_equal(linux_guest_base(g), IMAGE_START);
    assert_int_equal(linux_guest_kaslr_offset(g), IMAGE_START - 0xffffffff81000000ull);
    assert_string_equal(linux_guest_banner(g), "Linux version 6.99-test (x@y) #1");
    for (unsigned i = 0; i < SYMBOLS; i++) {
        gva_t address;
        assert_true(linux_symbol_address(g, k->names[i], &address));
        bool same = false; /* short names come more than once */
        for (unsigned j = 0; j < SYMBOLS; j++)
            same = same || (address == k->addresses[j] && strcmp(k->names[i], k->names[j]) == 0);
        assert_true(same);
        if (k->addresses[i] < IMAGE_START)
            continue;
        assert_string_equal(linux_describe(g, k->addresses[i], text, sizeof(text)), k->names[i]);
        linux_describe(g, k->addresses[i] + 5, text, sizeof(text));
        size_t length = strlen(k->names[i]);
        assert_memory_equal(text, k->names[i], length);
        assert_string_equal(text + length, "+0x5");
    }
    assert_string_equal(linux_describe(g, IMAGE_START - 1, text, sizeof(text)), "");
    linux_guest_close(g);
}

static void expect_refused(struct kernel *k, int code)
{
    struct linux_guest *g;
    struct error err = {0};
    assert_int_equal(open_guest(k, &g, &err), code);
    assert_null(g);
    assert_true(err.message[0] != '\0');
}

/* ---- the tests ---- */

static void every_layout_is_read(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 8; i++) {
        const struct layout layout = {i & 1, i >> 1 & 1, i >> 2 & 1};
        struct kernel *k = kernel_make(&layout);
        expect_symbols(k);
        kernel_free(k);
    }
}

static void the_tables_of_user_mode_lead_to_those_of_the_kernel(void **state)
{
    (void)state;
    struct kernel *k = kernel_make(&(struct layout){0});
    uint64_t user[512] = {0};
    /* The kernel's page table on an even page, that of user mode, which has next to nothing, on the odd one behind it. */
    assert_int_equal(ram_write(k->ram, TABLES_GPA + 0x11000, user, sizeof(user)), 0);
    uint64_t kernel[512];
    assert_int_equal(ram_read(k->ram, TABLES_GPA, kernel, sizeof(kernel)), 0);
    assert_int_equal(ram_write(k->ram, TABLES_GPA + 0x10000, kernel, sizeof(kernel)), 0);
    k->state.cr3 = TABLES_GPA + 0x11000;
    expect_symbols(k);
    kernel_free(k);
}

static void a_guest_that_is_not_linux_is_told_from_one_that_is_not_readable(void **state)
{
    (void)state;
    struct kernel *k = kernel_make(&(struct layout){0});
    k->state.cr0 &= ~CR0_PG;
    expect_refused(k, -ENOENT);
    k->state.cr0 |= CR0_PG;
    uint8_t zero[64] = {0};
    assert_int_equal(ram_write(k->ram, IMAGE_GPA + TABLE_PLACE + k->token_index, zero, sizeof(zero)), 0);
    expect_refused(k, -ENOTSUP);
    assert_int_equal(ram_write(k->ram, IMAGE_GPA + BANNER_PLACE, zero, sizeof(zero)), 0);
    expect_refused(k, -ENOENT);
    kernel_free(k);
}

/* A number in a table that is wrong makes the table unreadable, whichever it is; nothing reads outside of the image. */
static void damaged_tables_are_refused(void **state)
{
    (void)state;
    for (unsigned which = 0; which < 6; which++) {
        struct kernel *k = kernel_make(&(struct layout){.offsets_behind = which & 1});
        const size_t places[] = {k->num_syms,    k->names_at,        k->names_end - 1,
                                 k->markers + 4, k->token_table + 3, k->token_index + 2};
        /* The last byte of names is in a name: the length in front of it is what counts, two tokens and the type. */
        size_t place = which == 2 ? places[2] - (2 + (SYMBOLS - 1) % 5) - 1 : places[which];
        k->tables.data[place] ^= 0x41;
        write_image(k);
        expect_refused(k, -ENOTSUP);
        kernel_free(k);
    }
}

static void a_kernel_that_goes_away_is_not_up(void **state)
{
    (void)state;
    struct kernel *k = kernel_make(&(struct layout){0});
    struct linux_guest *g;
    struct error err = {0};
    const struct linux_view view = {k->ram, &k->state};
    struct linux_task task;
    struct linux_modules *modules;
    assert_int_equal(open_guest(k, &g, &err), 0);
    assert_true(linux_guest_is_up(g, &view));
    /* This kernel has no BTF: what needs it says so. */
    assert_int_equal(linux_task_current(g, &view, &task, &err), -ENOTSUP);
    assert_non_null(strstr(err.message, "BTF"));
    assert_int_equal(linux_modules_read(&modules, g, &view, &err), -ENOTSUP);
    k->state.cr3 = 0;
    assert_false(linux_guest_is_up(g, &view));
    assert_int_equal(linux_read(g, &view, IMAGE_START, &task, 1), 0);
    linux_guest_close(g);
    kernel_free(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_layout_is_read),
        cmocka_unit_test(the_tables_of_user_mode_lead_to_those_of_the_kernel),
        cmocka_unit_test(a_guest_that_is_not_linux_is_told_from_one_that_is_not_readable),
        cmocka_unit_test(damaged_tables_are_refused),
        cmocka_unit_test(a_kernel_that_goes_away_is_not_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
