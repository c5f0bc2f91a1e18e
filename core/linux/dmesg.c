/*
 * The lockless ring buffer of printk (kernel/printk/printk_ringbuffer.c; since 5.10): a ring of descriptors, one of what is known
 * of each message, and one of text.
 */
#include "core/linux/internal.h"

#include <errno.h>
#include <stdlib.h>

enum {
    DESC_BITS_MAX = 20, /* of the largest buffer, 32 MiB */
    DATA_BITS_MAX = 25,
    STATE_SHIFT = 62, /* in prb_desc.state_var: the state; below, the id */
    STATE_COMMITTED = 1,
    STATE_FINALIZED = 2,
    ID_BYTES = 8 /* in front of each text in the ring */
};

#define ID_MASK ((1ull << STATE_SHIFT) - 1)

/* Where neither begins nor ends any text: a message without one (DATALESS). */
#define LPOS_DATALESS 1u

struct ring {
    gva_t descs, infos, data;
    uint64_t head, tail;
    unsigned desc_bits, data_bits;
    uint32_t desc_bytes, info_bytes;
    struct btf_bits level;
};

static int open_ring(struct ring *r, const struct linux_guest *g, const struct memory *m, struct error *err)
{
    const struct place *f = g->field;
    gva_t variable, ring;
    uint64_t desc_bits, data_bits;
    if (!linux_symbol_address(g, "prb", &variable))
        return error_set(err, -ENOTSUP, "this kernel has no printk ring buffer of 5.10 and later");
    if (!memory_u64(m, variable, &ring) || !memory_member(m, ring, f[PRB_DESC_BITS], &desc_bits) ||
        !memory_member(m, ring, f[PRB_DATA_BITS], &data_bits) ||
        !memory_member(m, ring, f[PRB_DESCS], &r->descs) ||
        !memory_member(m, ring, f[PRB_INFOS], &r->infos) || !memory_member(m, ring, f[PRB_DATA], &r->data) ||
        !memory_member(m, ring, f[PRB_HEAD], &r->head) || !memory_member(m, ring, f[PRB_TAIL], &r->tail))
        return error_set(err, -EFAULT, "the kernel's messages cannot be read");
    r->desc_bytes = place_of(g, "prb_desc", "").size;
    r->info_bytes = place_of(g, "printk_info", "").size;
    if (desc_bits > DESC_BITS_MAX || data_bits > DATA_BITS_MAX || r->desc_bytes == 0 || r->info_bytes == 0)
        return error_set(err, -EINVAL, "the kernel's ring buffer of messages is damaged");
    r->desc_bits = (unsigned)desc_bits;
    r->data_bits = (unsigned)data_bits;
    if (!btf_member(g->btf, "printk_info", "level", &r->level))
        r->level.size = 0;
    return 0;
}

static uint8_t read_level(const struct ring *r, const struct memory *m, gva_t info)
{
    uint8_t byte;
    if (r->level.size == 0 || r->level.size > 8 || r->level.offset % 8 + r->level.size > 8 ||
        kernel_read(m, info + r->level.offset / 8, &byte, 1) != 1)
        return 0;
    return (uint8_t)((unsigned)byte >> r->level.offset % 8 & 0xffu >> (8 - r->level.size));
}

/* Where the text of [begin, next) lies in the data ring: one that would go over its end is at its start instead. */
static bool place_text(const struct ring *r, uint64_t begin, uint64_t next, uint64_t *offset, uint64_t *size)
{
    uint64_t mask = (1ull << r->data_bits) - 1;
    if (begin & LPOS_DATALESS || next & LPOS_DATALESS)
        return false;
    *offset = begin & mask;
    *size = next - begin;
    if (begin >> r->data_bits != next >> r->data_bits && (next & mask) != 0) {
        *offset = 0;
        *size = next & mask;
    }
    if (*size <= ID_BYTES || *size > mask + 1 - *offset)
        return false;
    *offset += ID_BYTES;
    *size -= ID_BYTES;
    return true;
}

struct message_reader {
    const struct ring *ring;
    const struct memory *memory;
    const struct place *field;
    uint8_t *text; /* 64 KiB: text_len has 16 bits */
};

static bool read_message(const struct message_reader *r, uint64_t id, struct linux_message *out)
{
    const struct memory *m = r->memory;
    const struct place *f = r->field;
    uint64_t slot = id & ((1ull << r->ring->desc_bits) - 1);
    gva_t desc = r->ring->descs + slot * r->ring->desc_bytes;
    gva_t info = r->ring->infos + slot * r->ring->info_bytes;
    uint64_t state, begin, next, length, facility, offset, size;
    if (!memory_member(m, desc, f[DESC_STATE], &state) || (state & ID_MASK) != id ||
        (state >> STATE_SHIFT != STATE_COMMITTED && state >> STATE_SHIFT != STATE_FINALIZED) ||
        !memory_member(m, desc, f[DESC_BEGIN], &begin) || !memory_member(m, desc, f[DESC_NEXT], &next) ||
        !memory_member(m, info, f[INFO_SEQUENCE], &out->sequence) ||
        !memory_member(m, info, f[INFO_TIME], &out->time_ns) ||
        !memory_member(m, info, f[INFO_LENGTH], &length) ||
        !memory_member(m, info, f[INFO_FACILITY], &facility))
        return false;
    out->level = read_level(r->ring, m, info);
    out->facility = (uint8_t)facility;
    out->text = r->text;
    out->length = 0;
    if (place_text(r->ring, begin, next, &offset, &size)) {
        if (length > size)
            length = size;
        if (length > UINT16_MAX)
            length = UINT16_MAX;
        out->length = kernel_read(m, r->ring->data + offset, r->text, (size_t)length);
    }
    return true;
}

int linux_dmesg(const struct linux_guest *g, const struct linux_view *view,
                bool (*visit)(void *context, const struct linux_message *message), void *context,
                struct error *err)
{
    struct memory m;
    struct ring ring;
    int code = fields_need(g, PRB_DESC_BITS, PRB_FIELDS_END, "its messages", err);
    if (code == 0)
        code = memory_begin(&m, g, view, err);
    if (code == 0)
        code = open_ring(&ring, g, &m, err);
    if (code)
        return code;
    struct message_reader reader = {&ring, &m, g->field, malloc(UINT16_MAX)};
    if (!reader.text)
        return error_set(err, -ENOMEM, "out of memory");
    uint64_t id = ring.tail & ID_MASK, head = ring.head & ID_MASK;
    for (uint64_t left = 1ull << ring.desc_bits; left > 0; left--) {
        struct linux_message message;
        if (read_message(&reader, id, &message) && !visit(context, &message))
            break;
        if (id == head)
            break;
        id = (id + 1) & ID_MASK;
    }
    free(reader.text);
    return 0;
}
