#include "tools/number.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static int digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* Reads a number from the start of text; *end is what follows it. */
static bool number_prefix(const char *text, uint64_t *out, const char **end)
{
    unsigned base = 10;
    if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
        base = 16;
        text += 2;
    }
    uint64_t value = 0;
    bool digit_before = false;
    for (;; text++) {
        int digit = digit_value(*text);
        if (digit >= 0 && (unsigned)digit < base) {
            if (__builtin_mul_overflow(value, base, &value) ||
                __builtin_add_overflow(value, (unsigned)digit, &value))
                return false;
            digit_before = true;
        } else if ((*text == '_' || *text == ',') && digit_before) {
            digit_before = false; /* a separator stands between two digits */
        } else {
            break;
        }
    }
    *out = value;
    *end = text;
    return digit_before;
}

bool number_parse(const char *text, uint64_t *out)
{
    const char *end;
    return number_prefix(text, out, &end) && *end == '\0';
}

bool size_parse(const char *text, uint64_t *bytes)
{
    static const char units[] = "KMGT";
    const char *end;
    if (!number_prefix(text, bytes, &end))
        return false;
    if (*end == '\0')
        return true;
    char upper = *end >= 'a' && *end <= 'z' ? (char)(*end - 'a' + 'A') : *end;
    const char *unit = strchr(units, upper);
    if (!unit || !upper)
        return false;
    end++;
    if (strcmp(end, "") != 0 && strcmp(end, "B") != 0 && strcmp(end, "iB") != 0)
        return false;
    unsigned shift = 10 * (unsigned)(unit - units + 1);
    if (*bytes > UINT64_MAX >> shift)
        return false;
    *bytes <<= shift;
    return true;
}

bool seconds_parse(const char *text, uint64_t *ns)
{
    const uint64_t second = 1000000000;
    uint64_t whole = 0, fraction = 0;
    const char *p = text;
    if (digit_value(*p) < 0 || digit_value(*p) > 9)
        return false;
    for (; *p >= '0' && *p <= '9'; p++) {
        whole = whole * 10 + (uint64_t)(*p - '0');
        if (whole > second)
            return false;
    }
    if (*p == '.') {
        uint64_t unit = second / 10;
        if (p[1] < '0' || p[1] > '9')
            return false;
        for (p++; *p >= '0' && *p <= '9'; p++, unit /= 10)
            fraction += (uint64_t)(*p - '0') * unit;
    }
    if (*p == 's' && p[1] == '\0')
        p++;
    *ns = whole * second + fraction;
    return *p == '\0';
}

bool position_parse(const char *text, struct position_argument *out)
{
    *out = (struct position_argument){.kind = POSITION_IS_NUMBER};
    if (strcmp(text, "end") == 0) {
        out->kind = POSITION_IS_END;
        return true;
    }
    size_t length = strlen(text);
    if (length > 0 && text[length - 1] == '%') {
        char number[24];
        uint64_t billionths; /* "12.5" has the form of a number of seconds */
        if (length >= sizeof(number))
            return false;
        memcpy(number, text, length - 1);
        number[length - 1] = '\0';
        if (strchr(number, 's') || !seconds_parse(number, &billionths) || billionths > 100000000000)
            return false;
        out->kind = POSITION_IS_PERCENT;
        out->percent = (double)billionths / 1e9;
        return true;
    }
    return number_parse(text, &out->number) && out->number != POSITION_UNKNOWN;
}

position_t position_resolve(const struct position_argument *argument, position_t end)
{
    switch (argument->kind) {
    case POSITION_IS_END:
        return end;
    case POSITION_IS_PERCENT: {
        if (argument->percent >= 100)
            return end;
        position_t at = (position_t)((long double)end * (long double)argument->percent / 100.0L);
        return at < end ? at : end;
    }
    case POSITION_IS_NUMBER:
        break;
    }
    return argument->number;
}

const char *number_format(uint64_t value, struct number_text *buffer)
{
    char digits[24];
    int count = snprintf(digits, sizeof(digits), "%" PRIu64, value);
    char *out = buffer->text;
    for (int i = 0; i < count; i++) {
        if (i > 0 && (count - i) % 3 == 0)
            *out++ = ',';
        *out++ = digits[i];
    }
    *out = '\0';
    return buffer->text;
}

const char *bytes_format(uint64_t bytes, struct number_text *buffer)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    if (bytes < 1024) {
        snprintf(buffer->text, sizeof(buffer->text), "%" PRIu64 " bytes", bytes);
        return buffer->text;
    }
    double value = (double)bytes / 1024;
    size_t unit = 0;
    while (value >= 1023.95 && unit + 1 < ARRAY_LEN(units)) {
        value /= 1024;
        unit++;
    }
    snprintf(buffer->text, sizeof(buffer->text), "%.1f %s", value, units[unit]);
    return buffer->text;
}

const char *duration_format(uint64_t ns, struct number_text *buffer)
{
    uint64_t seconds = ns / 1000000000;
    if (ns < 1000000)
        snprintf(buffer->text, sizeof(buffer->text), "%.0f us", (double)ns / 1e3);
    else if (ns < 1000000000)
        snprintf(buffer->text, sizeof(buffer->text), "%.0f ms", (double)ns / 1e6);
    else if (seconds < 120)
        snprintf(buffer->text, sizeof(buffer->text), "%.2f s", (double)ns / 1e9);
    else if (seconds < 7200)
        snprintf(buffer->text, sizeof(buffer->text), "%" PRIu64 " min %02" PRIu64 " s", seconds / 60,
                 seconds % 60);
    else
        snprintf(buffer->text, sizeof(buffer->text), "%" PRIu64 " h %02" PRIu64 " min", seconds / 3600,
                 seconds / 60 % 60);
    return buffer->text;
}
