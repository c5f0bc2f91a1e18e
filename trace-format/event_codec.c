#include "trace-format/event_codec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    TAG_TYPE = 0x0f,
    TAG_PLACE_SHIFT = 4,
    TAG_PLACE = 0x70,
    TAG_POSITION = 0x80,
    SOURCE_FLAG = 0x80, /* CPU_READ: event.flag, next to the source */
};

/* All of an event but data and landmark pages; a landmark's registers, witnesses and entries included. */
#define ENCODED_FIXED_MAX ((size_t)2048)
#define PAGE_ENCODED_MAX  ((size_t)18)
#define PAGE_ENCODED_MIN  ((size_t)9)

void event_context_start(struct event_context *c, position_t first)
{
    *c = (struct event_context){.base = first == POSITION_UNKNOWN ? 0 : first, .previous = first};
}

static bool has_data(enum event_type type)
{
    return type == EVENT_DMA || type == EVENT_DIGEST || type == EVENT_CONSOLE || type == EVENT_MARK ||
           type == EVENT_END;
}

static bool is_port(enum event_type type)
{
    return type == EVENT_PIO_READ || type == EVENT_PIO_WRITE;
}

static bool is_mmio(enum event_type type)
{
    return type == EVENT_MMIO_READ || type == EVENT_MMIO_WRITE;
}

static bool is_msr(enum event_type type)
{
    return type == EVENT_MSR_READ || type == EVENT_MSR_WRITE;
}

/* What holds for an event whoever made it; NULL if nothing is wrong. */
static const char *wrong_fields(const struct event *e)
{
    bool power_of_two = e->size && !(e->size & (e->size - 1));
    if (is_port(e->type) && (!power_of_two || e->size > 4))
        return "port access whose size is not 1, 2 or 4";
    if (is_mmio(e->type) && (!power_of_two || e->size > 8))
        return "MMIO access whose size is not 1, 2, 4 or 8";
    if (is_port(e->type) && e->address > UINT16_MAX)
        return "port number above 65535";
    if (is_msr(e->type) && e->address > UINT32_MAX)
        return "MSR index above 32 bits";
    if (e->type == EVENT_CPU_READ && e->source >= EVENT_SOURCE_COUNT)
        return "source of a CPU value above 127";
    uint64_t end;
    if (e->type == EVENT_DMA && __builtin_add_overflow(e->address, e->data_length, &end))
        return "DMA beyond the end of the address space";
    return NULL;
}

int event_check(const struct event *e, struct error *err)
{
    if (e->type < EVENT_PIO_READ || e->type >= EVENT_TYPE_COUNT || (unsigned)e->place > PLACE_STEPS)
        return error_set(err, -EINVAL, "event of type %d at place %d does not exist", (int)e->type,
                         (int)e->place);
    if (has_data(e->type) && e->data_length > EVENT_MAX_DATA)
        return error_set(err, -EMSGSIZE, "%s event with %zu bytes of data; at most %zu fit",
                         event_type_name(e->type), e->data_length, EVENT_MAX_DATA);
    const char *why = wrong_fields(e);
    if (why)
        return error_set(err, -EINVAL, "%s event: %s", event_type_name(e->type), why);
    if ((e->place == PLACE_LANDMARK) != (e->landmark != NULL))
        return error_set(err, -EINVAL, "%s event: a landmark goes with the place of that name",
                         event_type_name(e->type));
    const struct landmark *l = e->landmark;
    if (l && (l->witness_count > LANDMARK_MAX_WITNESSES || l->entry_count > LANDMARK_MAX_ENTRIES ||
              l->page_count > LANDMARK_MAX_PAGES))
        return error_set(err, -EMSGSIZE,
                         "landmark with %u witnesses, %u page-table entries, %zu pages; %u, %u, %u fit",
                         l->witness_count, l->entry_count, l->page_count, LANDMARK_MAX_WITNESSES,
                         LANDMARK_MAX_ENTRIES, LANDMARK_MAX_PAGES);
    return 0;
}

size_t event_encoded_bound(const struct event *e)
{
    size_t bound = ENCODED_FIXED_MAX;
    if (has_data(e->type))
        bound += e->data_length;
    if (e->landmark)
        bound += e->landmark->page_count * PAGE_ENCODED_MAX;
    return bound;
}

position_t event_resolve_position(const struct event *e, position_t previous)
{
    if (e->position == POSITION_UNKNOWN && e->place == PLACE_PREVIOUS)
        return previous;
    return e->position;
}

static void put_difference(struct buffer *out, uint64_t value, uint64_t *last)
{
    buffer_put_svarint(out, (int64_t)(value - *last));
    *last = value;
}

static void encode_landmark(struct event_context *c, struct buffer *out, const struct landmark *l)
{
    put_difference(out, l->rip, &c->landmark[0]);
    put_difference(out, l->rflags, &c->landmark[1]);
    for (unsigned i = 0; i < 16; i++)
        put_difference(out, l->gpr[i], &c->landmark[2 + i]);
    buffer_put_u64(out, l->fpu_hash);
    buffer_put_varint(out, l->elapsed_ns);
    buffer_put_u8(out, (uint8_t)l->witness_count);
    uint64_t last = l->rip;
    for (unsigned i = 0; i < l->witness_count; i++) {
        put_difference(out, l->witness[i].address, &last);
        buffer_put_varint(out, l->witness[i].value);
    }
    buffer_put_u8(out, (uint8_t)l->entry_count);
    last = 0;
    for (unsigned i = 0; i < l->entry_count; i++) {
        put_difference(out, l->entry[i].gpa, &last);
        buffer_put_varint(out, l->entry[i].value);
    }
    buffer_put_varint(out, l->page_count);
    last = 0;
    for (size_t i = 0; i < l->page_count; i++) {
        put_difference(out, l->pages[i].gfn, &last);
        buffer_put_u64(out, l->pages[i].digest);
    }
}

static void encode_data(struct buffer *out, const struct event *e)
{
    buffer_put_varint(out, e->data_length);
    buffer_put(out, e->data, e->data_length);
}

static void encode_body(struct event_context *c, struct buffer *out, const struct event *e)
{
    switch (e->type) {
    case EVENT_PIO_READ:
    case EVENT_PIO_WRITE:
    case EVENT_MMIO_READ:
    case EVENT_MMIO_WRITE:
        buffer_put_u8(out, e->size);
        buffer_put_varint(out, e->address);
        buffer_put_varint(out, e->value);
        break;
    case EVENT_CPU_READ:
        buffer_put_u8(out, (uint8_t)(e->source | (e->flag ? SOURCE_FLAG : 0)));
        buffer_put_varint(out, e->address);
        put_difference(out, e->value, &c->cpu_value[e->source]);
        break;
    case EVENT_MSR_READ:
    case EVENT_MSR_WRITE:
        buffer_put_u8(out, e->flag);
        buffer_put_varint(out, e->address);
        buffer_put_varint(out, e->value);
        break;
    case EVENT_INTERRUPT:
        buffer_put_u8(out, e->vector);
        buffer_put_u8(out, e->flag);
        break;
    case EVENT_NMI:
        buffer_put_u8(out, e->flag);
        break;
    case EVENT_DMA:
        buffer_put_varint(out, e->address);
        encode_data(out, e);
        break;
    case EVENT_DIGEST:
        buffer_put_u64(out, e->value);
        buffer_put_u64(out, e->digest.low);
        buffer_put_u64(out, e->digest.high);
        encode_data(out, e);
        break;
    case EVENT_CONSOLE:
        buffer_put_u8(out, e->source);
        encode_data(out, e);
        break;
    case EVENT_MARK:
        encode_data(out, e);
        break;
    case EVENT_END:
        buffer_put_u8(out, e->source);
        buffer_put_varint(out, e->value);
        encode_data(out, e);
        break;
    case EVENT_HALT:
    case EVENT_TYPE_COUNT:
        break;
    }
}

void event_encode(struct event_context *c, struct buffer *out, const struct event *e)
{
    position_t position = event_resolve_position(e, c->previous);
    bool implied = e->place == PLACE_PREVIOUS && position == c->previous;
    bool with_position = position != POSITION_UNKNOWN && !implied;
    buffer_put_u8(out, (uint8_t)((unsigned)e->type | (unsigned)e->place << TAG_PLACE_SHIFT |
                                 (with_position ? TAG_POSITION : 0u)));
    if (with_position) {
        buffer_put_varint(out, position - c->base);
        c->base = position;
    }
    c->previous = position;
    if (e->place == PLACE_LANDMARK)
        encode_landmark(c, out, e->landmark);
    if (e->place == PLACE_STEPS)
        buffer_put_varint(out, e->steps);
    encode_body(c, out, e);
}

void event_decoder_free(struct event_decoder *d)
{
    free(d->pages);
    *d = (struct event_decoder){0};
}

static uint64_t get_difference(struct reader *in, uint64_t *last)
{
    *last += (uint64_t)reader_svarint(in);
    return *last;
}

static int decode_landmark(struct event_decoder *d, struct reader *in, const char **why)
{
    struct landmark *l = &d->landmark;
    uint64_t *context = d->context.landmark;
    *l = (struct landmark){0};
    l->rip = get_difference(in, &context[0]);
    l->rflags = get_difference(in, &context[1]);
    for (unsigned i = 0; i < 16; i++)
        l->gpr[i] = get_difference(in, &context[2 + i]);
    l->fpu_hash = reader_u64(in);
    l->elapsed_ns = reader_varint(in);
    l->witness_count = reader_u8(in);
    if (l->witness_count > LANDMARK_MAX_WITNESSES) {
        *why = "landmark with more witnesses than allowed";
        return -EBADMSG;
    }
    uint64_t last = l->rip;
    for (unsigned i = 0; i < l->witness_count; i++) {
        l->witness[i].address = get_difference(in, &last);
        l->witness[i].value = reader_varint(in);
    }
    l->entry_count = reader_u8(in);
    if (l->entry_count > LANDMARK_MAX_ENTRIES) {
        *why = "landmark with more page-table entries than allowed";
        return -EBADMSG;
    }
    last = 0;
    for (unsigned i = 0; i < l->entry_count; i++) {
        l->entry[i].gpa = get_difference(in, &last);
        l->entry[i].value = reader_varint(in);
    }
    uint64_t count = reader_varint(in);
    if (count > LANDMARK_MAX_PAGES || count > reader_left(in) / PAGE_ENCODED_MIN) {
        *why = "landmark with more pages than allowed, or than there are bytes for";
        return -EBADMSG;
    }
    if (count > d->page_capacity) {
        struct landmark_page *pages = realloc(d->pages, (size_t)count * sizeof(*pages));
        if (!pages)
            return -ENOMEM;
        d->pages = pages;
        d->page_capacity = (size_t)count;
    }
    last = 0;
    for (size_t i = 0; i < count; i++) {
        d->pages[i].gfn = get_difference(in, &last);
        d->pages[i].digest = reader_u64(in);
    }
    l->page_count = (size_t)count;
    l->pages = d->pages;
    return 0;
}

static void decode_data(struct reader *in, struct event *e)
{
    uint64_t length = reader_varint(in);
    if (length > EVENT_MAX_DATA) {
        in->failed = true;
        return;
    }
    e->data_length = (size_t)length;
    e->data = reader_take(in, e->data_length);
}

static bool decode_flag(struct reader *in)
{
    uint8_t flag = reader_u8(in);
    if (flag > 1)
        in->failed = true;
    return flag != 0;
}

static void decode_body(struct event_context *c, struct reader *in, struct event *e)
{
    switch (e->type) {
    case EVENT_PIO_READ:
    case EVENT_PIO_WRITE:
    case EVENT_MMIO_READ:
    case EVENT_MMIO_WRITE:
        e->size = reader_u8(in);
        e->address = reader_varint(in);
        e->value = reader_varint(in);
        break;
    case EVENT_CPU_READ:
        e->source = reader_u8(in);
        e->flag = (e->source & SOURCE_FLAG) != 0;
        e->source &= (uint8_t)~SOURCE_FLAG;
        e->address = reader_varint(in);
        e->value = get_difference(in, &c->cpu_value[e->source]);
        break;
    case EVENT_MSR_READ:
    case EVENT_MSR_WRITE:
        e->flag = decode_flag(in);
        e->address = reader_varint(in);
        e->value = reader_varint(in);
        break;
    case EVENT_INTERRUPT:
        e->vector = reader_u8(in);
        e->flag = decode_flag(in);
        break;
    case EVENT_NMI:
        e->flag = decode_flag(in);
        break;
    case EVENT_DMA:
        e->address = reader_varint(in);
        decode_data(in, e);
        break;
    case EVENT_DIGEST:
        e->value = reader_u64(in);
        e->digest.low = reader_u64(in);
        e->digest.high = reader_u64(in);
        decode_data(in, e);
        break;
    case EVENT_CONSOLE:
        e->source = reader_u8(in);
        decode_data(in, e);
        break;
    case EVENT_MARK:
        decode_data(in, e);
        break;
    case EVENT_END:
        e->source = reader_u8(in);
        e->value = reader_varint(in);
        decode_data(in, e);
        break;
    case EVENT_HALT:
    case EVENT_TYPE_COUNT:
        break;
    }
}

/* The position of the event whose tag was just read; false when it cannot be right. */
static bool decode_position(struct event_context *c, struct reader *in, uint8_t tag, struct event *e)
{
    if (tag & TAG_POSITION) {
        if (__builtin_add_overflow(c->base, reader_varint(in), &e->position) ||
            e->position == POSITION_UNKNOWN)
            return false;
        c->base = e->position;
    } else {
        e->position = e->place == PLACE_PREVIOUS ? c->previous : POSITION_UNKNOWN;
    }
    c->previous = e->position;
    return true;
}

int event_decode(struct event_decoder *d, struct reader *in, struct event *e, const char **why)
{
    *e = (struct event){0};
    uint8_t tag = reader_u8(in);
    unsigned type = tag & TAG_TYPE;
    unsigned place = (unsigned)(tag & TAG_PLACE) >> TAG_PLACE_SHIFT;
    unsigned last_place = d->steps ? PLACE_STEPS : PLACE_PREVIOUS;
    if (!type || type >= EVENT_TYPE_COUNT || place > last_place) {
        *why = in->failed ? "the chunk ends inside an event" : "event type or place that does not exist";
        return -EBADMSG;
    }
    e->type = (enum event_type)type;
    e->place = (enum event_place)place;
    if (!decode_position(&d->context, in, tag, e)) {
        *why = "event position beyond 64 bits";
        return -EBADMSG;
    }
    if (e->place == PLACE_LANDMARK) {
        int r = decode_landmark(d, in, why);
        if (r < 0)
            return r;
        e->landmark = &d->landmark;
    }
    if (e->place == PLACE_STEPS)
        e->steps = reader_varint(in);
    decode_body(&d->context, in, e);
    *why = in->failed ? "event that is cut off, or whose fields are out of range" : wrong_fields(e);
    return *why ? -EBADMSG : 0;
}
