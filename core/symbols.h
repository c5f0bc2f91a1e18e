/*
 * Names for guest addresses, from the guest's ELF image (libelf; source lines by core/dwarf_lines.h where it
 * has DWARF).
 */
#ifndef DEJAVM_CORE_SYMBOLS_H
#define DEJAVM_CORE_SYMBOLS_H

#include "core/base/error.h"
#include "core/base/types.h"

struct symbols;

/*
 * Takes a copy of what it needs from the image. An image without symbols, or not ELF, gives an empty table.
 */
int symbols_create(struct symbols **out, const uint8_t *image, size_t length, struct error *err) must_check;
void symbols_destroy(struct symbols *s); /* NULL is fine */

/*
 * "name+0x12" or "name" and, where known, " (file.c:34)"; "" when nothing is known. s may be NULL. Always
 * terminated. Returns out.
 */
const char *symbols_describe(const struct symbols *s, gva_t address, char *out, size_t size);

/* The address of a function or object by its name; false if there is none. */
bool symbols_find(const struct symbols *s, const char *name, gva_t *address);

#endif
