#include "core/dwarf_lines.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/buffer.h"

#define FILE_NAME_MAX_BYTES 255

enum line_standard_opcode { /* DWARF 5, 6.2.5.2 */
                            DW_LNS_COPY = 1,
                            DW_LNS_ADVANCE_PC = 2,
                            DW_LNS_ADVANCE_LINE = 3,
                            DW_LNS_SET_FILE = 4,
                            DW_LNS_CONST_ADD_PC = 8,
                            DW_LNS_FIXED_ADVANCE_PC = 9,
};
enum line_extended_opcode { DW_LNE_END_SEQUENCE = 1, DW_LNE_SET_ADDRESS = 2 }; /* 6.2.5.3 */
enum line_content { DW_LNCT_PATH = 1 };                                        /* 6.2.4.1 */
enum dwarf_form {                                                              /* 7.5.6 */
                  DW_FORM_DATA2 = 0x05,
                  DW_FORM_DATA4 = 0x06,
                  DW_FORM_DATA8 = 0x07,
                  DW_FORM_STRING = 0x08,
                  DW_FORM_BLOCK = 0x09,
                  DW_FORM_DATA1 = 0x0b,
                  DW_FORM_STRP = 0x0e,
                  DW_FORM_UDATA = 0x0f,
                  DW_FORM_DATA16 = 0x1e,
                  DW_FORM_LINE_STRP = 0x1f,
};

struct line_row {
    gva_t address;
    uint32_t line; /* 0: the end of a sequence: nothing is known from here on */
    uint32_t file; /* offset of the name in names */
};

struct dwarf_lines {
    struct line_row *rows; /* ascending addresses */
    size_t count, capacity;
    struct buffer names; /* NUL-terminated; offset 0 is "?" */
};

struct line_file {
    const char *path; /* in one of the sections; terminated */
    uint32_t name;    /* its offset in names, 0 as long as no row uses it */
};

/* One unit of .debug_line: its header, and the files that it names. */
struct line_unit {
    struct reader program;
    uint16_t version;
    bool dwarf64;
    uint8_t minimum_instruction_length;
    int8_t line_base;
    uint8_t line_range;
    uint8_t opcode_base;
    const uint8_t *operand_counts; /* of standard opcodes 1..opcode_base-1 */
    struct line_file *files;       /* index 0 is unused before version 5 */
    size_t file_count, file_capacity;
};

struct sections {
    struct dwarf_section line, line_str, str;
};

/* ---- reading ---- */

static const char *read_string(struct reader *r)
{
    const uint8_t *start = r->data + r->offset;
    const uint8_t *end = reader_left(r) ? memchr(start, 0, reader_left(r)) : NULL;
    if (!end) {
        r->failed = true;
        return "";
    }
    r->offset += (size_t)(end - start) + 1;
    return (const char *)start;
}

static int64_t read_sleb128(struct reader *r)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t byte = reader_u8(r);
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) {
            if ((byte & 0x40) && shift + 7 < 64)
                value |= UINT64_MAX << (shift + 7);
            return (int64_t)value;
        }
    }
    r->failed = true;
    return 0;
}

static uint64_t read_offset(struct reader *r, bool dwarf64)
{
    return dwarf64 ? reader_u64(r) : reader_u32(r);
}

static const char *section_string(const struct dwarf_section *section, uint64_t offset)
{
    if (!section->data || offset >= section->length)
        return "";
    const uint8_t *start = section->data + offset;
    return memchr(start, 0, section->length - (size_t)offset) ? (const char *)start : "";
}

/* ---- header ---- */

static bool unit_add_file(struct line_unit *u, const char *path)
{
    if (u->file_count == u->file_capacity) {
        size_t wanted = u->file_capacity ? u->file_capacity * 2 : 64;
        struct line_file *files = reallocarray(u->files, wanted, sizeof(*files));
        if (!files)
            return false;
        u->files = files;
        u->file_capacity = wanted;
    }
    u->files[u->file_count++] = (struct line_file){.path = path};
    return true;
}

/* Versions 2 to 4: folders, then files with folder, time and length; an empty name ends each list. */
static bool read_file_list(struct line_unit *u, struct reader *r)
{
    while (!r->failed && *read_string(r)) {
    }
    if (!unit_add_file(u, ""))
        return false;
    while (!r->failed) {
        const char *path = read_string(r);
        if (!*path)
            break;
        for (unsigned i = 0; i < 3; i++)
            reader_varint(r);
        if (!unit_add_file(u, path))
            return false;
    }
    return !r->failed;
}

/*
 * Reads one value; *path is set if it is a string. Each form takes at least one byte, so no count can keep us
 * busy.
 */
static void read_form(struct reader *r, uint64_t form, bool dwarf64, const struct sections *s,
                      const char **path)
{
    switch (form) {
    case DW_FORM_STRING:
        *path = read_string(r);
        break;
    case DW_FORM_LINE_STRP:
        *path = section_string(&s->line_str, read_offset(r, dwarf64));
        break;
    case DW_FORM_STRP:
        *path = section_string(&s->str, read_offset(r, dwarf64));
        break;
    case DW_FORM_UDATA:
        reader_varint(r);
        break;
    case DW_FORM_DATA1:
        reader_u8(r);
        break;
    case DW_FORM_DATA2:
        reader_u16(r);
        break;
    case DW_FORM_DATA4:
        reader_u32(r);
        break;
    case DW_FORM_DATA8:
        reader_u64(r);
        break;
    case DW_FORM_DATA16:
        reader_take(r, 16);
        break;
    case DW_FORM_BLOCK: {
        uint64_t length = reader_varint(r);
        if (length > reader_left(r))
            r->failed = true;
        else
            reader_take(r, (size_t)length);
        break;
    }
    default:
        r->failed = true;
        break;
    }
}

/* Version 5: a description of an entry's fields, then the entries. */
static bool read_entry_table(struct line_unit *u, struct reader *r, const struct sections *s, bool files)
{
    uint64_t content[255], form[255];
    unsigned fields = reader_u8(r);
    for (unsigned i = 0; i < fields; i++) {
        content[i] = reader_varint(r);
        form[i] = reader_varint(r);
    }
    uint64_t count = reader_varint(r);
    if (count && !fields)
        return false;
    for (uint64_t n = 0; n < count && !r->failed; n++) {
        const char *path = "";
        for (unsigned i = 0; i < fields && !r->failed; i++) {
            const char *text = "";
            read_form(r, form[i], u->dwarf64, s, &text);
            if (content[i] == DW_LNCT_PATH)
                path = text;
        }
        if (files && !r->failed && !unit_add_file(u, path))
            return false;
    }
    return !r->failed;
}

/* r: the unit after its length. */
static bool read_header(struct line_unit *u, struct reader *r, const struct sections *s)
{
    u->version = reader_u16(r);
    if (u->version < 2 || u->version > 5)
        return false;
    if (u->version >= 5)
        reader_take(r, 2); /* sizes of addresses and segment selectors */
    uint64_t header_length = read_offset(r, u->dwarf64);
    if (r->failed || header_length > reader_left(r))
        return false;
    u->program = *r;
    reader_take(&u->program, (size_t)header_length);

    struct reader header = {.data = r->data, .length = u->program.offset, .offset = r->offset};
    u->minimum_instruction_length = reader_u8(&header);
    if (u->version >= 4)
        reader_u8(&header); /* operations per VLIW instruction: 1 on x86 */
    reader_u8(&header);     /* default_is_stmt: every row is taken */
    u->line_base = (int8_t)reader_u8(&header);
    u->line_range = reader_u8(&header);
    u->opcode_base = reader_u8(&header);
    if (header.failed || u->opcode_base == 0 || u->line_range == 0)
        return false;
    u->operand_counts = reader_take(&header, u->opcode_base - 1u);
    if (header.failed)
        return false;
    if (u->version < 5)
        return read_file_list(u, &header);
    return read_entry_table(u, &header, s, false) && read_entry_table(u, &header, s, true);
}

/* ---- program ---- */

/* The offset of a file's name (without its folder) in names, 0 ("?") where there is no room. */
static uint32_t intern_file(struct dwarf_lines *lines, struct line_unit *u, uint64_t index)
{
    if (index >= u->file_count)
        return 0;
    struct line_file *file = &u->files[index];
    if (file->name || !*file->path)
        return file->name;
    const char *slash = strrchr(file->path, '/');
    const char *base = slash ? slash + 1 : file->path;
    size_t length = strnlen(base, FILE_NAME_MAX_BYTES);
    if (lines->names.length + length + 1 > DWARF_LINES_MAX_NAME_BYTES)
        return 0;
    size_t offset = lines->names.length;
    buffer_put(&lines->names, base, length);
    buffer_put_u8(&lines->names, 0);
    if (lines->names.failed)
        return 0;
    file->name = (uint32_t)offset;
    return file->name;
}

struct line_registers { /* the state machine's, DWARF 5, 6.2.2 */
    uint64_t address, file;
    uint32_t line;
    size_t sequence_start; /* index of the sequence's first row */
    uint64_t first_address;
};

static bool add_row(struct dwarf_lines *lines, struct line_unit *u, struct line_registers *g, bool end)
{
    struct line_row row = {.address = g->address, .line = end ? 0 : g->line};
    if (!end)
        row.file = intern_file(lines, u, g->file);
    if (lines->count == g->sequence_start)
        g->first_address = g->address;
    /* Of several rows for one address the last one counts. */
    if (lines->count > g->sequence_start && lines->rows[lines->count - 1].address == g->address)
        lines->count--;
    if (lines->count == lines->capacity) {
        size_t wanted = lines->capacity ? lines->capacity * 2 : 1024;
        struct line_row *rows = reallocarray(lines->rows, wanted, sizeof(*rows));
        if (!rows || wanted > DWARF_LINES_MAX_ROWS) {
            lines->rows = rows ? rows : lines->rows;
            return false;
        }
        lines->rows = rows;
        lines->capacity = wanted;
    }
    lines->rows[lines->count++] = row;
    return true;
}

static struct line_registers sequence_begin(const struct dwarf_lines *lines)
{
    return (struct line_registers){.file = 1, .line = 1, .sequence_start = lines->count};
}

static bool run_extended(struct dwarf_lines *lines, struct line_unit *u, struct line_registers *g)
{
    struct reader *r = &u->program;
    uint64_t length = reader_varint(r);
    if (r->failed || length == 0 || length > reader_left(r))
        return false;
    struct reader body = reader_of(r->data + r->offset, (size_t)length);
    reader_take(r, (size_t)length);
    switch (reader_u8(&body)) {
    case DW_LNE_END_SEQUENCE:
        if (!add_row(lines, u, g, true))
            return false;
        /* Linkers leave the lines of discarded functions at address 0. */
        if (g->first_address == 0)
            lines->count = g->sequence_start;
        *g = sequence_begin(lines);
        break;
    case DW_LNE_SET_ADDRESS:
        g->address = length - 1 == 4 ? reader_u32(&body) : reader_u64(&body);
        return !body.failed;
    default:
        break;
    }
    return true;
}

static bool run_standard(struct dwarf_lines *lines, struct line_unit *u, struct line_registers *g,
                         uint8_t opcode)
{
    struct reader *r = &u->program;
    switch (opcode) {
    case DW_LNS_COPY:
        return add_row(lines, u, g, false);
    case DW_LNS_ADVANCE_PC:
        g->address += reader_varint(r) * u->minimum_instruction_length;
        break;
    case DW_LNS_ADVANCE_LINE:
        g->line += (uint32_t)read_sleb128(r);
        break;
    case DW_LNS_SET_FILE:
        g->file = reader_varint(r);
        break;
    case DW_LNS_CONST_ADD_PC:
        g->address += (uint64_t)((255 - u->opcode_base) / u->line_range) * u->minimum_instruction_length;
        break;
    case DW_LNS_FIXED_ADVANCE_PC:
        g->address += reader_u16(r);
        break;
    default: /* no effect on what is kept here, or unknown: skip its operands */
        for (unsigned i = 0; i < u->operand_counts[opcode - 1] && !r->failed; i++)
            reader_varint(r);
        break;
    }
    return true;
}

static void run_program(struct dwarf_lines *lines, struct line_unit *u)
{
    struct reader *r = &u->program;
    struct line_registers g = sequence_begin(lines);
    bool ok = true;
    while (ok && !r->failed && reader_left(r)) {
        uint8_t opcode = reader_u8(r);
        if (opcode >= u->opcode_base) { /* special opcodes, DWARF 5, 6.2.5.1 */
            unsigned adjusted = (unsigned)opcode - u->opcode_base;
            g.address += (uint64_t)(adjusted / u->line_range) * u->minimum_instruction_length;
            g.line += (uint32_t)(u->line_base + (int)(adjusted % u->line_range));
            ok = add_row(lines, u, &g, false);
        } else if (opcode == 0) {
            ok = run_extended(lines, u, &g);
        } else {
            ok = run_standard(lines, u, &g, opcode);
        }
    }
    lines->count = g.sequence_start; /* a sequence without its end is not to be trusted */
}

/* ---- all units ---- */

static int compare_rows(const void *a, const void *b)
{
    const struct line_row *x = a, *y = b;
    if (x->address != y->address)
        return x->address < y->address ? -1 : 1;
    /* The end of one sequence comes before the begin of the next. */
    if (x->line != y->line)
        return x->line < y->line ? -1 : 1;
    return x->file < y->file ? -1 : x->file > y->file;
}

static void read_units(struct dwarf_lines *lines, const struct sections *s)
{
    struct reader all = reader_of(s->line.data, s->line.length);
    while (reader_left(&all)) {
        struct line_unit unit = {0};
        uint64_t length = reader_u32(&all);
        if (length == UINT32_MAX) {
            unit.dwarf64 = true;
            length = reader_u64(&all);
        }
        if (all.failed || length > reader_left(&all))
            break;
        struct reader r = reader_of(all.data + all.offset, (size_t)length);
        reader_take(&all, (size_t)length);
        if (read_header(&unit, &r, s))
            run_program(lines, &unit);
        free(unit.files);
    }
}

struct dwarf_lines *dwarf_lines_create(struct dwarf_section debug_line, struct dwarf_section debug_line_str,
                                       struct dwarf_section debug_str)
{
    if (!debug_line.data || debug_line.length > DWARF_LINES_MAX_SECTION_BYTES)
        return NULL;
    struct dwarf_lines *lines = calloc(1, sizeof(*lines));
    if (!lines)
        return NULL;
    struct sections s = {.line = debug_line, .line_str = debug_line_str, .str = debug_str};
    buffer_put(&lines->names, "?", 2);
    read_units(lines, &s);
    if (lines->count == 0 || lines->names.failed) {
        dwarf_lines_destroy(lines);
        return NULL;
    }
    qsort(lines->rows, lines->count, sizeof(*lines->rows), compare_rows);
    return lines;
}

void dwarf_lines_destroy(struct dwarf_lines *lines)
{
    if (!lines)
        return;
    buffer_free(&lines->names);
    free(lines->rows);
    free(lines);
}

bool dwarf_lines_find(const struct dwarf_lines *lines, gva_t address, const char **file, unsigned *line)
{
    if (!lines)
        return false;
    size_t low = 0, high = lines->count; /* the last row at or below address */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (lines->rows[middle].address <= address)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0 || lines->rows[low - 1].line == 0)
        return false;
    *file = (const char *)lines->names.data + lines->rows[low - 1].file;
    *line = lines->rows[low - 1].line;
    return true;
}
