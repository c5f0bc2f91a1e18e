/* The JSON writer: what it writes is JSON whatever it is given. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "tools/json.h"

struct output {
    char *text;
    size_t length;
    FILE *file;
    struct json json;
};

static void begin(struct output *o)
{
    o->file = open_memstream(&o->text, &o->length);
    assert_non_null(o->file);
    json_begin(&o->json, o->file);
}

static void expect(struct output *o, const char *text)
{
    json_end(&o->json);
    fclose(o->file);
    assert_string_equal(o->text, text);
    free(o->text);
}

static void numbers_are_exact(void **state)
{
    struct output o;
    (void)state;
    begin(&o);
    json_u64(&o.json, "most", UINT64_MAX);
    json_i64(&o.json, "least", INT64_MIN);
    json_position(&o.json, "unknown", POSITION_UNKNOWN);
    json_position(&o.json, "known", 5);
    expect(&o, "{\n  \"most\": 18446744073709551615,\n  \"least\": -9223372036854775808,\n"
               "  \"unknown\": null,\n  \"known\": 5\n}\n");
}

static void nesting_is_closed_and_separated(void **state)
{
    struct output o;
    (void)state;
    begin(&o);
    json_array(&o.json, "empty");
    json_close_array(&o.json);
    json_array(&o.json, "list");
    json_object_line(&o.json, NULL);
    json_bool(&o.json, "a", true);
    json_array_line(&o.json, "b");
    json_u64(&o.json, NULL, 1);
    json_u64(&o.json, NULL, 2);
    json_close_array(&o.json);
    json_close_object(&o.json);
    json_null(&o.json, NULL);
    json_close_array(&o.json);
    expect(&o, "{\n  \"empty\": [],\n  \"list\": [\n    {\"a\": true, \"b\": [1, 2]},\n    null\n  ]\n}\n");
}

static void any_bytes_make_a_string(void **state)
{
    static const struct {
        const char *bytes;
        size_t length;
        const char *json;
    } cases[] = {
        {"a\"b\\c", 5, "a\\\"b\\\\c"},
        {"\n\t\x1b\x7f", 4, "\\n\\u0009\\u001b\\u007f"},
        {"a\0b", 3, "a\\u0000b"},
        {"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 9, "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"},
        {"\xc3", 1, "\\ufffd"},                                  /* cut off */
        {"\xff\x80", 2, "\\ufffd\\ufffd"},                       /* never in UTF-8 */
        {"\xc0\xaf", 2, "\\ufffd\\ufffd"},                       /* overlong */
        {"\xe0\x80\xaf", 3, "\\ufffd\\ufffd\\ufffd"},            /* overlong */
        {"\xed\xa0\x80", 3, "\\ufffd\\ufffd\\ufffd"},            /* surrogate */
        {"\xf4\x90\x80\x80", 4, "\\ufffd\\ufffd\\ufffd\\ufffd"}, /* above U+10FFFF */
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct output o;
        char wanted[256];
        begin(&o);
        json_text(&o.json, "t", (const uint8_t *)cases[i].bytes, cases[i].length);
        snprintf(wanted, sizeof(wanted), "{\n  \"t\": \"%s\"\n}\n", cases[i].json);
        expect(&o, wanted);
    }
}

static void bytes_are_hexadecimal(void **state)
{
    static const uint8_t bytes[] = {0x00, 0x0f, 0xff};
    struct output o;
    (void)state;
    begin(&o);
    json_hex(&o.json, "h", bytes, sizeof(bytes));
    json_hex(&o.json, "none", bytes, 0);
    expect(&o, "{\n  \"h\": \"000fff\",\n  \"none\": \"\"\n}\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_exact),
        cmocka_unit_test(nesting_is_closed_and_separated),
        cmocka_unit_test(any_bytes_make_a_string),
        cmocka_unit_test(bytes_are_hexadecimal),
    };
    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
