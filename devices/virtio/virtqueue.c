/* Split virtqueues, virtio 2.7. */
#include "devices/virtio/internal.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#define DESC_BYTES      16u /* struct virtq_desc, virtio 2.7.5 */
#define DESC_F_NEXT     1u
#define DESC_F_WRITE    2u
#define DESC_F_INDIRECT 4u

#define AVAIL_F_NO_INTERRUPT 1u /* virtio 2.7.6 */

/* Both rings start with flags and the index, 16 bits each. */
#define RING_INDEX_OFFSET 2u
#define RING_ENTRIES      4u

_Static_assert(sizeof(struct virtq_used_elem) == 8, "as it lies in RAM");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rings are little-endian");

/* ---- set-up ---- */

static bool area_is_good(struct virtio_device *d, unsigned queue, const char *name, gpa_t gpa,
                         unsigned alignment, size_t bytes)
{
    if (gpa % alignment) {
        virtio_broken(d, "the %s of queue %u is at 0x%" PRIx64 ", which is not a multiple of %u", name, queue,
                      gpa, alignment);
        return false;
    }
    if (!ram_covers(machine_ram(d->machine), gpa, bytes)) {
        virtio_broken(d, "the %s of queue %u, %zu bytes at 0x%" PRIx64 ", is not all in RAM", name, queue,
                      bytes, gpa);
        return false;
    }
    return true;
}

bool virtqueue_check(struct virtio_device *d, unsigned queue)
{
    const struct virtqueue *q = &d->queue[queue];
    if (q->size == 0 || q->size > VIRTIO_QUEUE_SIZE || (q->size & (q->size - 1))) {
        virtio_broken(d, "queue %u was enabled with a size of %u: not a power of two up to %u", queue,
                      q->size, VIRTIO_QUEUE_SIZE);
        return false;
    }
    /* Each ring has one more 16-bit field at its end, for VIRTIO_F_EVENT_IDX. */
    size_t event_bytes = virtio_has_feature(d, VIRTIO_F_EVENT_IDX) ? 2 : 0;
    size_t avail_bytes = RING_ENTRIES + 2u * q->size + event_bytes;
    size_t used_bytes = RING_ENTRIES + sizeof(struct virtq_used_elem) * q->size + event_bytes;
    return area_is_good(d, queue, "descriptor table", q->desc, 16, (size_t)DESC_BYTES * q->size) &&
           area_is_good(d, queue, "available ring", q->avail, 2, avail_bytes) &&
           area_is_good(d, queue, "used ring", q->used, 4, used_bytes);
}

/* The areas of a queue that is enabled are RAM, and RAM does not go away. */
static uint16_t get_u16(struct virtio_device *d, gpa_t gpa)
{
    uint8_t bytes[2];
    int status = machine_dma_read(d->machine, gpa, bytes, sizeof(bytes));
    assert(status == 0);
    return (uint16_t)virtio_get(bytes, sizeof(bytes));
}

static void put(struct virtio_device *d, gpa_t gpa, const void *data, size_t length)
{
    int status = machine_dma_write(d->machine, gpa, data, length);
    assert(status == 0);
}

/* ---- taking requests ---- */

struct descriptor {
    gpa_t gpa;
    uint32_t length;
    uint16_t flags, next;
};

/* Where descriptors are read from: the queue's table, or an indirect one (virtio 2.7.5.3). */
struct table {
    gpa_t gpa;
    unsigned entries;
    bool indirect;
};

static struct descriptor get_descriptor(struct virtio_device *d, const struct table *table, unsigned index)
{
    uint8_t bytes[DESC_BYTES];
    int status = machine_dma_read(d->machine, table->gpa + (gpa_t)index * DESC_BYTES, bytes, sizeof(bytes));
    assert(status == 0);
    return (struct descriptor){.gpa = virtio_get(bytes, 8),
                               .length = (uint32_t)virtio_get(bytes + 8, 4),
                               .flags = (uint16_t)virtio_get(bytes + 12, 2),
                               .next = (uint16_t)virtio_get(bytes + 14, 2)};
}

/* Which descriptor it is about, for messages. */
struct place {
    unsigned queue, index;
    bool indirect;
};

#define PLACE_FORMAT    "descriptor %u of %squeue %u"
#define PLACE_VALUES(p) (p).index, (p).indirect ? "an indirect table of " : "", (p).queue

static bool add_segment(struct virtio_device *d, struct virtio_chain *c, const struct descriptor *desc,
                        struct place at)
{
    bool writable = desc->flags & DESC_F_WRITE;
    unsigned count = c->readable_count + c->writable_count;
    uint32_t *bytes = writable ? &c->writable_bytes : &c->readable_bytes;
    if (desc->length == 0)
        return true;
    if (!writable && c->writable_count)
        virtio_broken(d, PLACE_FORMAT " is for the device to read, and comes after one that it writes",
                      PLACE_VALUES(at));
    else if (!ram_covers(machine_ram(d->machine), desc->gpa, desc->length))
        virtio_broken(d, PLACE_FORMAT " has %" PRIu32 " bytes at 0x%" PRIx64 ", where there is no RAM",
                      PLACE_VALUES(at), desc->length, desc->gpa);
    else if (desc->length > UINT32_MAX - *bytes)
        virtio_broken(d, PLACE_FORMAT " makes the chain longer than 2^32 bytes", PLACE_VALUES(at));
    else {
        struct virtio_segment *last = count ? &c->segment[count - 1] : NULL;
        bool same_kind = writable ? c->writable_count > 0 : count > 0;
        *bytes += desc->length;
        if (same_kind && last->gpa + last->length == desc->gpa) {
            last->length += desc->length;
            return true;
        }
        if (count < VIRTIO_SEGMENTS_MAX) {
            c->segment[count] = (struct virtio_segment){desc->gpa, desc->length};
            ++*(writable ? &c->writable_count : &c->readable_count);
            return true;
        }
        virtio_broken(d, "a chain of queue %u has more than %u buffers", at.queue, VIRTIO_SEGMENTS_MAX);
    }
    return false;
}

static bool enter_indirect(struct virtio_device *d, struct table *table, const struct descriptor *desc,
                           struct place at)
{
    unsigned entries = desc->length / DESC_BYTES;
    if (!virtio_has_feature(d, VIRTIO_F_INDIRECT_DESC))
        virtio_broken(d, PLACE_FORMAT " is indirect, which was not negotiated", PLACE_VALUES(at));
    else if (table->indirect || desc->flags & DESC_F_NEXT)
        virtio_broken(d, PLACE_FORMAT " is indirect, and %s", PLACE_VALUES(at),
                      table->indirect ? "so is its table" : "has a next one");
    else if (entries == 0 || entries > VIRTIO_SEGMENTS_MAX || desc->length % DESC_BYTES)
        virtio_broken(d, PLACE_FORMAT " is an indirect table of %" PRIu32 " bytes: not 1 to %u descriptors",
                      PLACE_VALUES(at), desc->length, VIRTIO_SEGMENTS_MAX);
    else if (!ram_covers(machine_ram(d->machine), desc->gpa, desc->length))
        virtio_broken(d, PLACE_FORMAT " is an indirect table at 0x%" PRIx64 ", where there is no RAM",
                      PLACE_VALUES(at), desc->gpa);
    else {
        *table = (struct table){.gpa = desc->gpa, .entries = entries, .indirect = true};
        return true;
    }
    return false;
}

/* Follows the chain from its head. At most one visit to each entry of a table: a chain that has more is a loop. */
static bool walk(struct virtio_device *d, unsigned queue, struct virtio_chain *c)
{
    const struct virtqueue *q = &d->queue[queue];
    struct table table = {.gpa = q->desc, .entries = q->size};
    unsigned visited = 0;
    struct place at = {.queue = queue, .index = c->head};
    for (;;) {
        if (visited++ == table.entries) {
            virtio_broken(d, "the chain that starts at descriptor %u of queue %u is a loop", c->head, queue);
            return false;
        }
        struct descriptor desc = get_descriptor(d, &table, at.index);
        if (desc.flags & DESC_F_INDIRECT) {
            if (!enter_indirect(d, &table, &desc, at))
                return false;
            at.index = 0;
            at.indirect = true;
            visited = 0;
            continue;
        }
        if (!add_segment(d, c, &desc, at))
            return false;
        if (!(desc.flags & DESC_F_NEXT))
            return true;
        if (desc.next >= table.entries) {
            virtio_broken(d, PLACE_FORMAT " goes on at %u, and there are only %u", PLACE_VALUES(at),
                          desc.next, table.entries);
            return false;
        }
        at.index = desc.next;
    }
}

int virtqueue_pop(struct virtio_device *d, unsigned queue, struct virtio_chain *out)
{
    assert(queue < d->instance.type->queues);
    struct virtqueue *q = &d->queue[queue];
    if (!virtio_running(d) || !q->enabled)
        return 0;
    uint16_t index = get_u16(d, q->avail + RING_INDEX_OFFSET);
    uint16_t waiting = (uint16_t)(index - q->next_avail);
    if (waiting == 0) {
        q->seen_empty = true;
        q->empty_at = q->next_avail;
        return 0;
    }
    if (waiting > q->size) {
        virtio_broken(d, "the available index of queue %u went from %u to %u, with %u descriptors", queue,
                      q->next_avail, index, q->size);
        return 0;
    }
    if (q->budget == 0) { /* the device may be writing its own available ring: later */
        q->notified = true;
        return 0;
    }
    uint16_t head = get_u16(d, q->avail + RING_ENTRIES + (gpa_t)2 * (q->next_avail & (q->size - 1u)));
    if (head >= q->size) {
        virtio_broken(d, "the available ring of queue %u offers descriptor %u, and there are only %u", queue,
                      head, q->size);
        return 0;
    }
    out->head = head;
    out->readable_count = out->writable_count = 0;
    out->readable_bytes = out->writable_bytes = 0;
    if (!walk(d, queue, out))
        return 0;
    q->budget--;
    q->next_avail++;
    return 1;
}

void virtqueue_unpop(struct virtio_device *d, unsigned queue, unsigned count)
{
    assert(queue < d->instance.type->queues);
    struct virtqueue *q = &d->queue[queue];
    q->next_avail = (uint16_t)(q->next_avail - count);
    q->budget += count;
}

/* ---- their data ---- */

/* The direction of a copy; a NULL function leaves RAM alone. */
struct copy {
    uint8_t *out;
    const uint8_t *in;
};

/* Copies length bytes from offset on of the count segments; returns how many there were. */
static size_t copy_segments(struct virtio_device *d, const struct virtio_segment *segment, unsigned count,
                            uint32_t offset, struct copy copy, size_t length)
{
    size_t done = 0;
    for (unsigned i = 0; i < count && done < length; i++) {
        if (offset >= segment[i].length) {
            offset -= segment[i].length;
            continue;
        }
        size_t now = segment[i].length - offset;
        if (now > length - done)
            now = length - done;
        gpa_t gpa = segment[i].gpa + offset;
        int status = copy.out ? machine_dma_read(d->machine, gpa, copy.out + done, now)
                              : machine_dma_write(d->machine, gpa, copy.in + done, now);
        assert(status == 0);
        done += now;
        offset = 0;
    }
    return done;
}

size_t virtio_chain_read(struct virtio_device *d, const struct virtio_chain *c, uint32_t offset, void *out,
                         size_t length)
{
    return copy_segments(d, c->segment, c->readable_count, offset, (struct copy){.out = out}, length);
}

size_t virtio_chain_write(struct virtio_device *d, const struct virtio_chain *c, uint32_t offset,
                          const void *data, size_t length)
{
    if (!virtio_running(d))
        return 0;
    return copy_segments(d, c->segment + c->readable_count, c->writable_count, offset,
                         (struct copy){.in = data}, length);
}

/* ---- giving them back ---- */

void virtqueue_push(struct virtio_device *d, unsigned queue, const struct virtio_chain *c, uint32_t written)
{
    assert(queue < d->instance.type->queues);
    struct virtqueue *q = &d->queue[queue];
    if (!virtio_running(d) || !q->enabled)
        return;
    if ((uint16_t)(q->next_used - q->published) == q->size)
        virtqueue_flush(d, queue);
    q->pending[q->next_used & (q->size - 1u)] = (struct virtq_used_elem){c->head, written};
    q->next_used++;
}

/* Entries from..to-1 of the used ring, and its index: where the first entry is the first of the ring, they are one write. */
static void put_used(struct virtio_device *d, const struct virtqueue *q, uint16_t from, uint16_t to)
{
    uint8_t bytes[2 + sizeof(q->pending)];
    unsigned first = from & (q->size - 1u);
    unsigned count = (uint16_t)(to - from);
    unsigned until_wrap = count < q->size - first ? count : q->size - first;
    size_t entry = sizeof(struct virtq_used_elem);
    if (first != 0) {
        put(d, q->used + RING_ENTRIES + first * entry, &q->pending[first], until_wrap * entry);
        count -= until_wrap;
    }
    virtio_put(bytes, 2, to);
    memcpy(bytes + 2, q->pending, count * entry);
    put(d, q->used + RING_INDEX_OFFSET, bytes, 2 + count * entry);
}

/* virtio 2.7.7.1: the driver said which entry it waits for, or that it does not wait. */
static bool wants_interrupt(struct virtio_device *d, const struct virtqueue *q, uint16_t from, uint16_t to)
{
    if (!virtio_has_feature(d, VIRTIO_F_EVENT_IDX))
        return !(get_u16(d, q->avail) & AVAIL_F_NO_INTERRUPT);
    uint16_t used_event = get_u16(d, q->avail + RING_ENTRIES + (gpa_t)2 * q->size);
    return (uint16_t)(to - used_event - 1) < (uint16_t)(to - from);
}

void virtqueue_flush(struct virtio_device *d, unsigned queue)
{
    struct virtqueue *q = &d->queue[queue];
    if (!virtio_running(d) || !q->enabled)
        return;
    uint16_t from = q->published, to = q->next_used;
    if (from != to) {
        put_used(d, q, from, to);
        q->published = to;
    }
    if (q->seen_empty && virtio_has_feature(d, VIRTIO_F_EVENT_IDX) && q->avail_event != q->empty_at) {
        uint8_t bytes[2];
        virtio_put(bytes, 2, q->empty_at);
        put(d, q->used + RING_ENTRIES + sizeof(struct virtq_used_elem) * q->size, bytes, sizeof(bytes));
        q->avail_event = q->empty_at;
    }
    q->seen_empty = false;
    if (from != to && wants_interrupt(d, q, from, to))
        d->transport.interrupt_queue(d->transport.context, queue);
}
