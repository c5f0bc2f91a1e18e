/*
 * Writes ACPI Machine Language (ACPI specification 6.5, chapter 20) and resource descriptors (section 6.4). Names of functions are
 * those of ASL.
 */
#ifndef DEJAVM_DEVICES_AML_H
#define DEJAVM_DEVICES_AML_H

#include "core/base/buffer.h"
#include "core/base/types.h"

/* A block whose length is known at its end: aml_end takes what its begin returned. */
size_t aml_begin_scope(struct buffer *b, const char *name);
size_t aml_begin_device(struct buffer *b, const char *name);
size_t aml_begin_package(struct buffer *b, uint8_t elements);
void aml_end(struct buffer *b, size_t begin);

/* Name (name, ...): what follows is its value. name has four letters, or "\" and four letters. */
void aml_name(struct buffer *b, const char *name);
void aml_integer(struct buffer *b, uint32_t value);
void aml_string(struct buffer *b, const char *text);
/* "PNP0501" as the integer that stands for it. */
void aml_eisa_id(struct buffer *b, const char *id);

/* ResourceTemplate: begin, descriptors, end. */
size_t aml_begin_resources(struct buffer *b);
void aml_end_resources(struct buffer *b, size_t begin);
void aml_io(struct buffer *b, uint16_t first, uint8_t count);
void aml_irq(struct buffer *b, unsigned irq); /* edge triggered, active high */
/* What a bridge passes on. */
void aml_word_bus_number(struct buffer *b, uint16_t first, uint16_t last);
void aml_word_io(struct buffer *b, uint16_t first, uint16_t last);
void aml_dword_memory(struct buffer *b, uint32_t first, uint32_t last);

#endif
