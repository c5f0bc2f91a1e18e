/* Line number programs written by hand: what compilers seldom emit, and what none should. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "core/base/buffer.h"
#include "core/dwarf_lines.h"

/*
 * The programs here have line_base -3, line_range 12, opcode_base 13: the special opcode for (advance, line
 * delta).
 */
#define SPECIAL(advance, delta) ((uint8_t)((delta) + 3 + 12 * (advance) + 13))
#define CONST_ADD_PC_ADVANCE    ((255 - 13) / 12)

enum {
    COPY = 1,
    ADVANCE_PC,
    ADVANCE_LINE,
    SET_FILE,
    SET_COLUMN,
    NEGATE_STMT,
    BASIC_BLOCK,
    CONST_ADD_PC,
    FIXED_ADVANCE
};

struct program {
    struct buffer code;
    struct buffer section;
};

static void set_address(struct program *p, uint64_t address)
{
    static const uint8_t start[] = {0, 9, 2};
    buffer_put(&p->code, start, sizeof(start));
    buffer_put_u64(&p->code, address);
}

static void end_sequence(struct program *p)
{
    static const uint8_t bytes[] = {0, 1, 1};
    buffer_put(&p->code, bytes, sizeof(bytes));
}

static void op(struct program *p, uint8_t opcode)
{
    buffer_put_u8(&p->code, opcode);
}

static void put_header_start(struct buffer *h, unsigned version)
{
    static const uint8_t operands[12] = {0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1};
    buffer_put_u8(h, 1); /* minimum instruction length */
    if (version >= 4)
        buffer_put_u8(h, 1);
    buffer_put_u8(h, 1);
    buffer_put_u8(h, (uint8_t)-3);
    buffer_put_u8(h, 12);
    buffer_put_u8(h, 13);
    buffer_put(h, operands, sizeof(operands));
}

static void put_files(struct buffer *h, unsigned version)
{
    if (version < 5) {
        buffer_put(h, "/usr/src\0", 10); /* one folder and the end of the list */
        buffer_put(h, "first.c\0\1\0\0", 11);
        buffer_put(h, "dir/second.c\0\0\0\0", 16);
        buffer_put_u8(h, 0);
        return;
    }
    buffer_put(h, "\1\1\x08\1/usr/src", 13); /* folders: a path, as a string; one of them */
    buffer_put(h, "\2\1\x08\2\x0b\3", 6);    /* files: a path and a folder; three of them */
    buffer_put(h, "zero.c\0\0first.c\0\0dir/second.c\0\0", 31);
}

/* Makes the code a unit of this version, at the end of the section. */
static void finish_unit(struct program *p, unsigned version, bool dwarf64)
{
    struct buffer header = {0}, body = {0};
    put_header_start(&header, version);
    put_files(&header, version);
    buffer_put_u16(&body, (uint16_t)version);
    if (version >= 5)
        buffer_put(&body, "\x08", 2);
    if (dwarf64)
        buffer_put_u64(&body, header.length);
    else
        buffer_put_u32(&body, (uint32_t)header.length);
    buffer_put(&body, header.data, header.length);
    buffer_put(&body, p->code.data, p->code.length);
    if (dwarf64) {
        buffer_put_u32(&p->section, UINT32_MAX);
        buffer_put_u64(&p->section, body.length);
    } else {
        buffer_put_u32(&p->section, (uint32_t)body.length);
    }
    buffer_put(&p->section, body.data, body.length);
    buffer_free(&header);
    buffer_free(&body);
    buffer_clear(&p->code);
}

static struct dwarf_lines *load(struct program *p)
{
    struct dwarf_section none = {0};
    /* A copy without slack: the sanitizer sees reads past the end. */
    uint8_t *copy = malloc(p->section.length);
    assert_non_null(copy);
    memcpy(copy, p->section.data, p->section.length);
    struct dwarf_lines *lines =
        dwarf_lines_create((struct dwarf_section){.data = copy, .length = p->section.length}, none, none);
    free(copy);
    buffer_free(&p->code);
    buffer_free(&p->section);
    return lines;
}

static void expect(const struct dwarf_lines *lines, gva_t address, const char *file, unsigned line)
{
    const char *found_file = "";
    unsigned found_line = 0;
    assert_int_equal(dwarf_lines_find(lines, address, &found_file, &found_line), file != NULL);
    if (file) {
        assert_string_equal(found_file, file);
        assert_int_equal(found_line, line);
    }
}

static void put_plain_sequence(struct program *p, uint64_t address)
{
    set_address(p, address);
    op(p, ADVANCE_LINE);
    op(p, 9); /* line 10 */
    op(p, COPY);
    op(p, SPECIAL(4, 2)); /* +4: line 12 */
    op(p, SET_FILE);
    op(p, 2);
    op(p, ADVANCE_LINE);
    op(p, 0x7b); /* -5 */
    op(p, ADVANCE_PC);
    op(p, 6);
    op(p, COPY); /* +10: line 7 of the other file */
    op(p, CONST_ADD_PC);
    op(p, SPECIAL(0, 1)); /* line 8 */
    op(p, FIXED_ADVANCE);
    buffer_put_u16(&p->code, 0x100);
    end_sequence(p);
}

static void expect_plain_sequence(const struct dwarf_lines *lines, uint64_t address)
{
    uint64_t last = address + 10 + CONST_ADD_PC_ADVANCE;
    expect(lines, address - 1, NULL, 0);
    expect(lines, address, "first.c", 10);
    expect(lines, address + 3, "first.c", 10);
    expect(lines, address + 4, "first.c", 12);
    expect(lines, address + 9, "first.c", 12);
    expect(lines, address + 10, "second.c", 7);
    expect(lines, last - 1, "second.c", 7);
    expect(lines, last, "second.c", 8);
    expect(lines, last + 0xff, "second.c", 8);
    expect(lines, last + 0x100, NULL, 0);
}

static void all_versions_and_both_formats_are_read(void **state)
{
    (void)state;
    for (unsigned version = 2; version <= 5; version++) {
        for (unsigned dwarf64 = 0; dwarf64 < 2; dwarf64++) {
            struct program p = {0};
            put_plain_sequence(&p, 0xffffffff81000000);
            finish_unit(&p, version, dwarf64);
            put_plain_sequence(&p, 0x100000); /* a second unit, with lower addresses */
            finish_unit(&p, version, dwarf64);
            struct dwarf_lines *lines = load(&p);
            expect_plain_sequence(lines, 0x100000);
            expect_plain_sequence(lines, 0xffffffff81000000);
            dwarf_lines_destroy(lines);
        }
    }
}

static void the_last_row_of_an_address_counts(void **state)
{
    struct program p = {0};
    (void)state;
    set_address(&p, 0x1000);
    op(&p, SPECIAL(0, 8));  /* 9 */
    op(&p, SPECIAL(0, -3)); /* 6 */
    op(&p, SPECIAL(2, 1));
    op(&p, SPECIAL(0, -1)); /* 6 again */
    op(&p, ADVANCE_PC);
    op(&p, 2);
    end_sequence(&p);
    finish_unit(&p, 5, false);
    struct dwarf_lines *lines = load(&p);
    expect(lines, 0x1000, "first.c", 6);
    expect(lines, 0x1002, "first.c", 6);
    expect(lines, 0x1004, NULL, 0);
    dwarf_lines_destroy(lines);
}

static void a_sequence_may_begin_where_another_ends(void **state)
{
    struct program p = {0};
    (void)state;
    for (unsigned i = 2; i-- > 0;) {
        set_address(&p, 0x2000 + 0x10 * i);
        op(&p, SPECIAL(0, (int)i + 1));
        op(&p, ADVANCE_PC);
        op(&p, 0x10);
        end_sequence(&p);
    }
    finish_unit(&p, 4, false);
    struct dwarf_lines *lines = load(&p);
    expect(lines, 0x200f, "first.c", 2);
    expect(lines, 0x2010, "first.c", 3);
    expect(lines, 0x2020, NULL, 0);
    dwarf_lines_destroy(lines);
}

static void discarded_and_unfinished_sequences_are_left_out(void **state)
{
    struct program p = {0};
    (void)state;
    put_plain_sequence(&p, 0); /* as a linker leaves a function that it dropped */
    put_plain_sequence(&p, 0x3000);
    set_address(&p, 0x4000);
    op(&p, COPY); /* and no end */
    finish_unit(&p, 5, false);
    struct dwarf_lines *lines = load(&p);
    expect(lines, 4, NULL, 0);
    expect_plain_sequence(lines, 0x3000);
    expect(lines, 0x4000, NULL, 0);
    dwarf_lines_destroy(lines);
}

static void opcodes_without_effect_are_skipped(void **state)
{
    struct program p = {0};
    (void)state;
    op(&p, SET_COLUMN);
    op(&p, 0xff);
    op(&p, 0x01);
    op(&p, NEGATE_STMT);
    op(&p, BASIC_BLOCK);
    op(&p, 12); /* set_isa, with its operand */
    op(&p, COPY);
    buffer_put(&p.code,
               "\0\4\x80"
               "abc",
               6); /* an extended opcode of some vendor */
    put_plain_sequence(&p, 0x5000);
    finish_unit(&p, 3, false);
    struct dwarf_lines *lines = load(&p);
    expect_plain_sequence(lines, 0x5000);
    dwarf_lines_destroy(lines);
}

static void a_file_that_is_not_in_the_table_has_no_name(void **state)
{
    struct program p = {0};
    (void)state;
    op(&p, SET_FILE);
    op(&p, 100);
    set_address(&p, 0x1000);
    op(&p, SPECIAL(0, 1));
    op(&p, SPECIAL(8, 1));
    end_sequence(&p);
    finish_unit(&p, 5, false);
    struct dwarf_lines *lines = load(&p);
    expect(lines, 0x1001, "?", 2);
    dwarf_lines_destroy(lines);
}

/*
 * A unit that cannot be read does not take the next one with it; one that claims to be longer than the
 * section ends it.
 */
static void damaged_units_are_passed_over(void **state)
{
    struct program p = {0};
    (void)state;
    buffer_put(&p.section, "\6\0\0\0\x63\0abcd", 10); /* version 99 */
    buffer_put(&p.section, "\0\0\0\0", 4);            /* empty */
    put_plain_sequence(&p, 0x6000);
    finish_unit(&p, 5, false);
    buffer_put(&p.section, "\xff\xff\0\0\5\0", 6);
    struct dwarf_lines *lines = load(&p);
    expect_plain_sequence(lines, 0x6000);
    dwarf_lines_destroy(lines);
}

/* Tables that promise 2^63 entries of no bytes must not keep anyone busy. */
static void endless_tables_are_refused(void **state)
{
    static const char *const tables[] = {
        "\0\xff\xff\xff\xff\xff\xff\xff\xff\x7f",         /* entries without fields */
        "\1\1\x0b\xff\xff\xff\xff\xff\xff\xff\xff\x7f",   /* entries of a byte each, few of which are there */
        "\1\1\x09\x7f\xff\xff\xff\xff\xff\xff\xff\xff\1", /* blocks as long as can be */
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(tables); i++) {
        struct buffer header = {0}, body = {0};
        struct program p = {0};
        put_header_start(&header, 5);
        buffer_put(&header, tables[i], strlen(tables[i] + 1) + 1);
        buffer_put(&body, "\5\0\x08", 4);
        buffer_put_u32(&body, (uint32_t)header.length);
        buffer_put(&body, header.data, header.length);
        buffer_put_u32(&p.section, (uint32_t)body.length);
        buffer_put(&p.section, body.data, body.length);
        assert_null(load(&p));
        buffer_free(&header);
        buffer_free(&body);
    }
}

static void nothing_gives_nothing(void **state)
{
    struct dwarf_section none = {0};
    const char *file;
    unsigned line;
    (void)state;
    assert_null(dwarf_lines_create(none, none, none));
    assert_null(
        dwarf_lines_create((struct dwarf_section){.data = (const uint8_t *)"", .length = 0}, none, none));
    assert_false(dwarf_lines_find(NULL, 0x1000, &file, &line));
    dwarf_lines_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_versions_and_both_formats_are_read),
        cmocka_unit_test(the_last_row_of_an_address_counts),
        cmocka_unit_test(a_sequence_may_begin_where_another_ends),
        cmocka_unit_test(discarded_and_unfinished_sequences_are_left_out),
        cmocka_unit_test(opcodes_without_effect_are_skipped),
        cmocka_unit_test(a_file_that_is_not_in_the_table_has_no_name),
        cmocka_unit_test(damaged_units_are_passed_over),
        cmocka_unit_test(endless_tables_are_refused),
        cmocka_unit_test(nothing_gives_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
