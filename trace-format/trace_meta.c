#include "trace-format/trace_meta.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum meta_key {
    META_WRITER = 1,
    META_ENGINE,
    META_HOST_CPU,
    META_HOST_SYSTEM,
    META_GUEST_PATH,
    META_GUEST_FORMAT,
    META_COMMAND_LINE,
    META_INITRD_PATH,
    META_FIRST_NUMBER = 32,
    META_START_TIME = META_FIRST_NUMBER,
    META_RAM_BYTES,
    META_RAM_LOW_BYTES,
    META_POSITIONS,
    META_IMAGE_LENGTH,
    META_END_NUMBER,
    META_KEY_COUNT = 64, /* keys from here on are unknown, and skipped */
};

static const struct {
    enum meta_key key;
    size_t offset;
} texts[] = {
    {META_WRITER, offsetof(struct trace_meta, writer)},
    {META_ENGINE, offsetof(struct trace_meta, engine)},
    {META_HOST_CPU, offsetof(struct trace_meta, host_cpu)},
    {META_HOST_SYSTEM, offsetof(struct trace_meta, host_system)},
    {META_GUEST_PATH, offsetof(struct trace_meta, guest_path)},
    {META_GUEST_FORMAT, offsetof(struct trace_meta, guest_format)},
    {META_COMMAND_LINE, offsetof(struct trace_meta, command_line)},
    {META_INITRD_PATH, offsetof(struct trace_meta, initrd_path)},
};

static const char **text_of(struct trace_meta *meta, size_t i)
{
    return (const char **)(void *)((char *)meta + texts[i].offset);
}

static const char *wrong_ram(const struct trace_meta *meta)
{
    if (meta->ram_bytes > TRACE_MAX_RAM_BYTES || meta->ram_bytes % PAGE_SIZE_BYTES)
        return "RAM size that is not a multiple of 4096 up to 64 GiB";
    if (meta->ram_low_bytes > meta->ram_bytes || meta->ram_low_bytes > RAM_HIGH_FRAME << PAGE_SHIFT ||
        meta->ram_low_bytes % PAGE_SIZE_BYTES)
        return "low part of RAM that is not a multiple of 4096, or longer than RAM or 4 GiB";
    return NULL;
}

static void put_number(struct buffer *out, enum meta_key key, uint64_t value)
{
    buffer_put_u8(out, (uint8_t)key);
    buffer_put_varint(out, sizeof(value));
    buffer_put_u64(out, value);
}

int trace_meta_encode(const struct trace_meta *meta, uint64_t image_length, struct buffer *out,
                      struct error *err)
{
    const char *why = wrong_ram(meta);
    if (why)
        return error_set(err, -EINVAL, "%s", why);
    struct trace_meta copy = *meta;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        const char *text = *text_of(&copy, i) ? *text_of(&copy, i) : "";
        buffer_put_u8(out, (uint8_t)texts[i].key);
        buffer_put_varint(out, strlen(text));
        buffer_put(out, text, strlen(text));
    }
    put_number(out, META_START_TIME, (uint64_t)meta->start_time_s);
    put_number(out, META_RAM_BYTES, meta->ram_bytes);
    put_number(out, META_RAM_LOW_BYTES, meta->ram_low_bytes);
    put_number(out, META_POSITIONS, meta->positions);
    put_number(out, META_IMAGE_LENGTH, image_length);
    if (out->failed)
        return error_set(err, -ENOMEM, "no memory for the description of the recording");
    if (out->length > META_MAX_BYTES)
        return error_set(err, -EINVAL,
                         "the texts that describe the recording have %zu bytes; at most %zu fit", out->length,
                         META_MAX_BYTES);
    return 0;
}

struct meta_fields {
    const uint8_t *text[ARRAY_LEN(texts)];
    size_t text_length[ARRAY_LEN(texts)];
    uint64_t number[META_END_NUMBER - META_FIRST_NUMBER];
    bool seen[META_KEY_COUNT];
};

static const char *read_field(struct reader *in, struct meta_fields *f)
{
    uint8_t key = reader_u8(in);
    uint64_t length = reader_varint(in);
    const uint8_t *value = length <= reader_left(in) ? reader_take(in, (size_t)length) : NULL;
    if (in->failed || !value)
        return "field that is cut off";
    if (key >= META_KEY_COUNT)
        return NULL;
    if (f->seen[key])
        return "field that is there twice";
    f->seen[key] = true;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        if (texts[i].key != key)
            continue;
        if (memchr(value, 0, (size_t)length))
            return "text with a zero byte in it";
        f->text[i] = value;
        f->text_length[i] = (size_t)length;
    }
    if (key >= META_FIRST_NUMBER && key < META_END_NUMBER) {
        if (length != sizeof(uint64_t))
            return "number that is not 8 bytes long";
        struct reader number = reader_of(value, sizeof(uint64_t));
        f->number[key - META_FIRST_NUMBER] = reader_u64(&number);
    }
    return NULL;
}

int trace_meta_decode(struct trace_meta *meta, uint64_t *image_length, char **strings, const uint8_t *data,
                      size_t length, const char **why)
{
    struct meta_fields f = {0};
    struct reader in = reader_of(data, length);
    *why = NULL;
    while (!*why && reader_left(&in))
        *why = read_field(&in, &f);
    for (int key = META_RAM_BYTES; key < META_END_NUMBER && !*why; key++)
        if (!f.seen[key])
            *why = "size of RAM, positions or image length missing";
    if (*why)
        return -EBADMSG;

    *meta = (struct trace_meta){
        .start_time_s = (int64_t)f.number[META_START_TIME - META_FIRST_NUMBER],
        .ram_bytes = f.number[META_RAM_BYTES - META_FIRST_NUMBER],
        .ram_low_bytes = f.number[META_RAM_LOW_BYTES - META_FIRST_NUMBER],
        .positions = f.number[META_POSITIONS - META_FIRST_NUMBER] != 0,
    };
    *image_length = f.number[META_IMAGE_LENGTH - META_FIRST_NUMBER];
    *why = wrong_ram(meta);
    if (!*why && *image_length > IMAGE_MAX_BYTES)
        *why = "guest image of more than 1 GiB";
    if (*why)
        return -EBADMSG;

    char *place = malloc(length + ARRAY_LEN(texts));
    if (!place)
        return -ENOMEM;
    *strings = place;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        *text_of(meta, i) = place;
        if (f.text_length[i])
            memcpy(place, f.text[i], f.text_length[i]);
        place[f.text_length[i]] = 0;
        place += f.text_length[i] + 1;
    }
    return 0;
}
