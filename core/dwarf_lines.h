/*
 * Source lines from DWARF line number programs (DWARF 5 standard, section 6.2; versions 2 to 5). Reads
 * .debug_line alone, and takes nothing from the host's files. Bounded in time and memory by the size of the
 * section, whatever it holds; what is malformed is left out.
 */
#ifndef DEJAVM_CORE_DWARF_LINES_H
#define DEJAVM_CORE_DWARF_LINES_H

#include "core/base/types.h"

#define DWARF_LINES_MAX_SECTION_BYTES ((size_t)64 << 20)
#define DWARF_LINES_MAX_ROWS          ((size_t)8 << 20)
#define DWARF_LINES_MAX_NAME_BYTES    ((size_t)16 << 20) /* of all file names together */

struct dwarf_section {
    const uint8_t *data; /* NULL: the image has none */
    size_t length;
};

struct dwarf_lines;

/*
 * Copies what it needs. NULL when there are no lines (or no memory); beyond one of the limits above lines are
 * missing.
 */
struct dwarf_lines *dwarf_lines_create(struct dwarf_section debug_line, struct dwarf_section debug_line_str,
                                       struct dwarf_section debug_str);
void dwarf_lines_destroy(struct dwarf_lines *lines); /* NULL is fine */

/*
 * The line that the instruction at address belongs to. *file (without folder) lives as long as lines. lines
 * may be NULL.
 */
bool dwarf_lines_find(const struct dwarf_lines *lines, gva_t address, const char **file, unsigned *line);

#endif
