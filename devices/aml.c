#include "devices/aml.h"

#include <string.h>

enum aml_op {
    OP_ZERO = 0x00,
    OP_ONE = 0x01,
    OP_NAME = 0x08,
    OP_BYTE = 0x0a,
    OP_WORD = 0x0b,
    OP_DWORD = 0x0c,
    OP_STRING = 0x0d,
    OP_SCOPE = 0x10,
    OP_BUFFER = 0x11,
    OP_PACKAGE = 0x12,
    OP_EXTENDED = 0x5b,
    OP_EXTENDED_DEVICE = 0x82,
};

/* 6.4: tags of resource descriptors, with the length of the short ones in them. */
enum resource_tag {
    TAG_IRQ = 0x22,
    TAG_IO = 0x47,
    TAG_END = 0x79,
    TAG_DWORD_SPACE = 0x87,
    TAG_WORD_SPACE = 0x88,
};
enum space_type { SPACE_MEMORY = 0, SPACE_IO = 1, SPACE_BUS_NUMBER = 2 };

#define IO_DECODES_16_BITS   1
#define SPACE_FIXED_PRODUCER 0x0c /* both ends are fixed; what the bridge passes on */
#define MEMORY_READ_WRITE    1
#define IO_ENTIRE_RANGE      3

/* A package length of three bytes, filled in at the end (20.2.4): 4 bits of it in the first, 8 in each other. */
#define LENGTH_BYTES       3u
#define LENGTH_THREE_BYTES 0x80

static size_t begin_length(struct buffer *b)
{
    size_t at = b->length;
    buffer_extend(b, LENGTH_BYTES);
    return at;
}

void aml_end(struct buffer *b, size_t begin)
{
    if (b->failed)
        return;
    size_t length = b->length - begin;
    b->data[begin] = (uint8_t)(LENGTH_THREE_BYTES | (length & 0xf));
    b->data[begin + 1] = (uint8_t)(length >> 4);
    b->data[begin + 2] = (uint8_t)(length >> 12);
}

static void put_name(struct buffer *b, const char *name)
{
    buffer_put(b, name, strlen(name));
}

size_t aml_begin_scope(struct buffer *b, const char *name)
{
    buffer_put_u8(b, OP_SCOPE);
    size_t begin = begin_length(b);
    put_name(b, name);
    return begin;
}

size_t aml_begin_device(struct buffer *b, const char *name)
{
    buffer_put_u8(b, OP_EXTENDED);
    buffer_put_u8(b, OP_EXTENDED_DEVICE);
    size_t begin = begin_length(b);
    put_name(b, name);
    return begin;
}

size_t aml_begin_package(struct buffer *b, uint8_t elements)
{
    buffer_put_u8(b, OP_PACKAGE);
    size_t begin = begin_length(b);
    buffer_put_u8(b, elements);
    return begin;
}

void aml_name(struct buffer *b, const char *name)
{
    buffer_put_u8(b, OP_NAME);
    put_name(b, name);
}

void aml_integer(struct buffer *b, uint32_t value)
{
    if (value <= 1) {
        buffer_put_u8(b, value ? OP_ONE : OP_ZERO);
    } else if (value <= UINT8_MAX) {
        buffer_put_u8(b, OP_BYTE);
        buffer_put_u8(b, (uint8_t)value);
    } else {
        buffer_put_u8(b, OP_DWORD);
        buffer_put_u32(b, value);
    }
}

void aml_string(struct buffer *b, const char *text)
{
    buffer_put_u8(b, OP_STRING);
    buffer_put(b, text, strlen(text) + 1);
}

static uint32_t hex_digit(char c)
{
    return (uint32_t)(c <= '9' ? c - '0' : c - 'A' + 10);
}

/* 19.3.4: three letters of 5 bits and four hexadecimal digits, most significant byte first. */
void aml_eisa_id(struct buffer *b, const char *id)
{
    uint32_t letters = 0, digits = 0;
    for (unsigned i = 0; i < 3; i++)
        letters = letters << 5 | (uint32_t)(id[i] - '@');
    for (unsigned i = 3; i < 7; i++)
        digits = digits << 4 | hex_digit(id[i]);
    buffer_put_u8(b, OP_DWORD);
    buffer_put_u32(b, __builtin_bswap32(letters << 16 | digits));
}

size_t aml_begin_resources(struct buffer *b)
{
    buffer_put_u8(b, OP_BUFFER);
    size_t begin = begin_length(b);
    buffer_put_u8(b, OP_WORD);
    buffer_put_u16(b, 0); /* the buffer's size */
    return begin;
}

void aml_end_resources(struct buffer *b, size_t begin)
{
    size_t size_at = begin + LENGTH_BYTES + 1;
    buffer_put_u8(b, TAG_END);
    buffer_put_u8(b, 0); /* no checksum */
    if (b->failed)
        return;
    uint16_t size = (uint16_t)(b->length - (size_at + 2));
    memcpy(b->data + size_at, &size, sizeof(size));
    aml_end(b, begin);
}

void aml_io(struct buffer *b, uint16_t first, uint8_t count)
{
    buffer_put_u8(b, TAG_IO);
    buffer_put_u8(b, IO_DECODES_16_BITS);
    buffer_put_u16(b, first);
    buffer_put_u16(b, first);
    buffer_put_u8(b, 1); /* alignment */
    buffer_put_u8(b, count);
}

void aml_irq(struct buffer *b, unsigned irq)
{
    buffer_put_u8(b, TAG_IRQ);
    buffer_put_u16(b, (uint16_t)(1u << irq));
}

static void word_space(struct buffer *b, enum space_type type, uint8_t flags, uint16_t first, uint16_t last)
{
    const uint16_t fields[] = {0, first, last, 0, (uint16_t)(last - first + 1)};
    buffer_put_u8(b, TAG_WORD_SPACE);
    buffer_put_u16(b, 3 + sizeof(fields));
    buffer_put_u8(b, (uint8_t)type);
    buffer_put_u8(b, SPACE_FIXED_PRODUCER);
    buffer_put_u8(b, flags);
    for (unsigned i = 0; i < ARRAY_LEN(fields); i++)
        buffer_put_u16(b, fields[i]);
}

void aml_word_bus_number(struct buffer *b, uint16_t first, uint16_t last)
{
    word_space(b, SPACE_BUS_NUMBER, 0, first, last);
}

void aml_word_io(struct buffer *b, uint16_t first, uint16_t last)
{
    word_space(b, SPACE_IO, IO_ENTIRE_RANGE, first, last);
}

void aml_dword_memory(struct buffer *b, uint32_t first, uint32_t last)
{
    const uint32_t fields[] = {0, first, last, 0, last - first + 1};
    buffer_put_u8(b, TAG_DWORD_SPACE);
    buffer_put_u16(b, 3 + sizeof(fields));
    buffer_put_u8(b, SPACE_MEMORY);
    buffer_put_u8(b, SPACE_FIXED_PRODUCER);
    buffer_put_u8(b, MEMORY_READ_WRITE);
    for (unsigned i = 0; i < ARRAY_LEN(fields); i++)
        buffer_put_u32(b, fields[i]);
}
