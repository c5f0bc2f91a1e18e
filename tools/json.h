/*
 * Writes JSON (RFC 8259), indented, as it goes: nothing is kept but the nesting. key is NULL inside arrays.
 * 64-bit values are numbers, written exactly.
 */
#ifndef DEJAVM_TOOLS_JSON_H
#define DEJAVM_TOOLS_JSON_H

#include "core/base/types.h"

#include <stdio.h>

#define JSON_MAX_DEPTH 16

struct json {
    FILE *out;
    unsigned depth;
    bool has_members[JSON_MAX_DEPTH];
    bool inline_from[JSON_MAX_DEPTH]; /* this level is written on one line */
};

void json_begin(struct json *j, FILE *out); /* and opens the outermost object */
void json_end(struct json *j);              /* closes it, with a newline */

void json_object(struct json *j, const char *key);
void json_array(struct json *j, const char *key);
void json_object_line(struct json *j, const char *key); /* with its members on one line */
void json_array_line(struct json *j, const char *key);
void json_close_object(struct json *j);
void json_close_array(struct json *j);

void json_u64(struct json *j, const char *key, uint64_t value);
void json_i64(struct json *j, const char *key, int64_t value);
void json_bool(struct json *j, const char *key, bool value);
void json_null(struct json *j, const char *key);
void json_string(struct json *j, const char *key, const char *value);
/* Any bytes: what is not UTF-8 becomes U+FFFD. */
void json_text(struct json *j, const char *key, const uint8_t *data, size_t length);
void json_hex(struct json *j, const char *key, const uint8_t *data, size_t length); /* "0a1b" */
/* value, or null for POSITION_UNKNOWN. */
void json_position(struct json *j, const char *key, position_t value);

#endif
