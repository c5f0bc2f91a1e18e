#include "tests/gdbstub/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/gdbstub/client.h"

static const char *const words[] = {
    "?",
    "g",
    "G",
    "p",
    "P",
    "m",
    "M",
    "X",
    "vCont?",
    "vCont;",
    "vCont;c",
    "vCont;s:1",
    "vCont;r",
    "vKill;1",
    "vMustReplyEmpty",
    "bc",
    "bs",
    "c",
    "C05",
    "s",
    "S05;",
    "Z0,",
    "Z1,",
    "Z2,",
    "Z3,",
    "Z4,",
    "z0,",
    "z1,",
    "z2,",
    "z3,",
    "z4,",
    "Hg",
    "Hc-1",
    "T",
    "D",
    "k",
    "qSupported",
    "qSupported:swbreak+;hwbreak+",
    "QStartNoAckMode",
    "qXfer:features:read:target.xml:",
    "qXfer:memory-map:read::",
    "qC",
    "qfThreadInfo",
    "qsThreadInfo",
    "qThreadExtraInfo,",
    "qAttached",
    "qSymbol::",
    "qRcmd,",
    "Qqemu.PhyMemMode:",
    "qqemu.PhyMemMode",
    "qqemu.Supported",
};

static const char *const commands[] = {"help", "when", "goto ", "long ", "description ", "description i386",
                                       "x"};

static uint64_t below(uint64_t *seed, uint64_t n)
{
    return vm_random(seed) % n;
}

/* Addresses and lengths that mean something, and their neighbours. */
static uint64_t interesting(uint64_t *seed)
{
    static const uint64_t values[] = {
        0,      1,         0x1000,     0x100000,       0x180000,   0x2000,
        0x4000, 0x1000000, 0xffffffff, 0x7fffffffffff, UINT64_MAX, 0x8000000000000000u,
        0x3fff};
    uint64_t value = values[below(seed, ARRAY_LEN(values))];
    switch (below(seed, 4)) {
    case 0:
        return value + below(seed, 64);
    case 1:
        return value - below(seed, 64);
    case 2:
        return vm_random(seed) >> below(seed, 64);
    default:
        return value;
    }
}

static void put_number(struct buffer *out, uint64_t value)
{
    char digits[20];
    buffer_put(out, digits, (size_t)snprintf(digits, sizeof(digits), "%llx", (unsigned long long)value));
}

static void put_hex_bytes(struct buffer *out, uint64_t *seed, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char digits[3];
        snprintf(digits, sizeof(digits), "%02x", (unsigned)(vm_random(seed) & 0xff));
        buffer_put(out, digits, 2);
    }
}

static void put_monitor(struct buffer *out, uint64_t *seed)
{
    char command[64];
    snprintf(command, sizeof(command), "%s%llu", commands[below(seed, ARRAY_LEN(commands))],
             (unsigned long long)below(seed, 2000));
    for (size_t i = 0; command[i]; i++) {
        char digits[3];
        snprintf(digits, sizeof(digits), "%02x", (unsigned)(unsigned char)command[i]);
        buffer_put(out, digits, 2);
    }
}

/* Random bytes, some of which need the escape that they get, mostly. */
static void put_binary(struct buffer *out, uint64_t *seed, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint8_t c = (uint8_t)vm_random(seed);
        bool special = c == '#' || c == '$' || c == '}';
        if (special && below(seed, 50)) {
            buffer_put_u8(out, '}');
            c ^= 0x20;
        }
        buffer_put_u8(out, c);
    }
}

static void put_arguments(struct buffer *out, uint64_t *seed, char letter)
{
    uint64_t length = below(seed, 3) ? below(seed, 40) : interesting(seed);
    put_number(out, letter == 'p' || letter == 'P' ? below(seed, 90) : interesting(seed));
    if (letter == 'p')
        return;
    if (letter == 'P') {
        static const size_t sizes[] = {4, 8, 10, 16};
        buffer_put(out, "=", 1);
        put_hex_bytes(out, seed, sizes[below(seed, 4)]);
        return;
    }
    buffer_put(out, ",", 1);
    put_number(out, length);
    if (letter != 'M' && letter != 'X')
        return;
    buffer_put(out, ":", 1);
    size_t given = length < 4000 ? (size_t)length : 4000;
    if (letter == 'M')
        put_hex_bytes(out, seed, given);
    else
        put_binary(out, seed, given);
}

/* A few bytes changed, taken out or doubled. */
static void damage(struct buffer *out, size_t start, uint64_t *seed)
{
    for (uint64_t n = below(seed, 4) + 1; n > 0 && out->length > start; n--) {
        size_t at = start + (size_t)below(seed, out->length - start);
        switch (below(seed, 4)) {
        case 0:
            out->data[at] = (uint8_t)vm_random(seed);
            break;
        case 1:
            memmove(out->data + at, out->data + at + 1, out->length - at - 1);
            out->length--;
            break;
        case 2:
            out->data[at] = (uint8_t) "0123456789abcdef,;:=}*\x03"[below(seed, 23)];
            break;
        default:
            buffer_put_u8(out, out->data[at]);
            break;
        }
    }
}

void fuzz_content(struct buffer *out, uint64_t *seed)
{
    const char *word = words[below(seed, ARRAY_LEN(words))];
    size_t start = out->length;
    /* Good-byes less often, so that sessions last. */
    if (strchr("Dk", word[0]) || strncmp(word, "vKill", 5) == 0)
        word = below(seed, 20) ? "m" : word;
    buffer_put(out, word, strlen(word));
    if (strcmp(word, "G") == 0)
        put_hex_bytes(out, seed, (size_t)(below(seed, 3) ? 868 : below(seed, 2000)));
    else if (strcmp(word, "qRcmd,") == 0)
        put_monitor(out, seed);
    else if (strchr("pPmMX", word[0]) || strchr(",:", word[strlen(word) - 1]) || strcmp(word, "vCont;r") == 0)
        put_arguments(out, seed, word[0]);
    else if (below(seed, 8) == 0)
        put_number(out, interesting(seed));
    if (below(seed, 6) == 0)
        damage(out, start, seed);
}

void fuzz_packet(struct buffer *out, uint64_t *seed)
{
    struct buffer content = {0};
    fuzz_content(&content, seed);
    size_t start = out->length;
    client_frame(out, content.data, content.length);
    buffer_free(&content);
    uint64_t how = below(seed, 1000);
    if (how == 0)
        damage(out, start, seed);
    else if (how == 1)
        out->length = start + (size_t)below(seed, out->length - start);
    else if (how == 2)
        put_binary(out, seed, (size_t)below(seed, 8));
    else if (how < 20)
        buffer_put(out, "-", 1);
    else if (how < 50)
        buffer_put(out, "\x03", 1);
    else
        buffer_put(out, "+", 1);
}
