/* Numbers on the command line, and numbers for people. */
#ifndef DEJAVM_TOOLS_NUMBER_H
#define DEJAVM_TOOLS_NUMBER_H

#include "core/base/types.h"

/* Decimal or 0x; '_' and ',' between digits are skipped. The whole of text must be the number. */
bool number_parse(const char *text, uint64_t *out) must_check;
/* As number_parse, with K, M, G or T (powers of 1024; also KiB, MB, ...) behind it. */
bool size_parse(const char *text, uint64_t *bytes) must_check;
/* Seconds, with a decimal fraction if wanted; at most 10^9. */
bool seconds_parse(const char *text, uint64_t *ns) must_check;

/* POS: a number, "end", or a percentage of the trace ("12.5%"). */
struct position_argument {
    enum { POSITION_IS_NUMBER, POSITION_IS_END, POSITION_IS_PERCENT } kind;
    position_t number;
    double percent; /* 0 to 100 */
};
bool position_parse(const char *text, struct position_argument *out) must_check;
/* What the argument means in a trace that ends at end. */
position_t position_resolve(const struct position_argument *argument, position_t end);

/* Each fills and returns a small buffer of the caller's. */
struct number_text {
    char text[32];
};
const char *number_format(uint64_t value, struct number_text *buffer); /* 1,234,567 */
const char *bytes_format(uint64_t bytes, struct number_text *buffer);  /* 12.3 MiB */
const char *duration_format(uint64_t ns, struct number_text *buffer);  /* 1.23 s, 2 min 05 s */

#endif
