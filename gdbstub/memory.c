/* Memory: m, M, X, and QEMU's switch between linear and physical addresses. */
#include <errno.h>

#include "gdbstub/internal.h"

const char gdb_memory_map[] =
    "<?xml version=\"1.0\"?>\n"
    "<!DOCTYPE memory-map PUBLIC \"+//IDN gnu.org//DTD GDB Memory Map V1.0//EN\"\n"
    "  \"http://sourceware.org/gdb/gdb-memory-map.dtd\">\n"
    /*
     * GDB touches nothing that lies outside the map, and what is mapped changes with the guest's page tables: so all of it,
     * in halves because a length of 2^64 cannot be written.
     */
    "<memory-map>\n"
    "<memory type=\"ram\" start=\"0x0\" length=\"0x8000000000000000\"/>\n"
    "<memory type=\"ram\" start=\"0x8000000000000000\" length=\"0x8000000000000000\"/>\n"
    "</memory-map>\n";

/* "ADDRESS,LENGTH" */
static bool range(struct text *t, uint64_t *address, uint64_t *length)
{
    return text_number(t, address) && text_skip(t, ',') && text_number(t, length);
}

void memory_read(struct gdb_server *s, struct text *t)
{
    uint64_t address, length;
    uint8_t bytes[GDB_PACKET_BYTES / 2];
    if (!range(t, &address, &length) || text_left(t) > 0) {
        reply_error(s, -EINVAL);
        return;
    }
    if (length > sizeof(bytes))
        length = sizeof(bytes);
    if (address != 0 && length > -address) /* up to the end of the address space */
        length = -address;
    struct debug_target *target = s->target;
    size_t n = s->physical ? target->ops->read_physical(target, address, bytes, (size_t)length)
                           : threads_read_memory(s, address, bytes, (size_t)length);
    if (n == 0 && length > 0)
        reply_error(s, -EFAULT);
    else
        put_hex(&s->reply, bytes, n < length ? n : (size_t)length);
}

static void write_bytes(struct gdb_server *s, uint64_t address, const uint8_t *data, size_t length)
{
    struct debug_target *target = s->target;
    struct error err = {0};
    int r = 0;
    if (address != 0 && length > -address)
        r = error_set(&err, -EFAULT, "the address space ends within the range");
    else if (length > 0)
        r = s->physical ? target->ops->write_physical(target, address, data, length, &err)
                        : target->ops->write(target, address, data, length, &err);
    if (r < 0)
        reply_message(s, r, err.message);
    else
        reply_ok(s);
}

void memory_write_hex(struct gdb_server *s, struct text *t)
{
    uint64_t address, length;
    uint8_t bytes[GDB_PACKET_BYTES / 2];
    if (!range(t, &address, &length) || !text_skip(t, ':') || length > sizeof(bytes) ||
        text_left(t) != 2 * length || !text_bytes(t, bytes, (size_t)length))
        reply_error(s, -EINVAL);
    else
        write_bytes(s, address, bytes, (size_t)length);
}

/* The client finds out whether X is understood by writing no bytes at all. */
void memory_write_binary(struct gdb_server *s, struct text *t)
{
    uint64_t address, length;
    if (!range(t, &address, &length) || !text_skip(t, ':')) {
        reply_error(s, -EINVAL);
        return;
    }
    uint8_t *data = s->packet + (t->at - s->packet);
    if (input_unescape(data, text_left(t)) != length)
        reply_error(s, -EINVAL);
    else
        write_bytes(s, address, data, (size_t)length);
}

void memory_set_physical(struct gdb_server *s, struct text *t)
{
    if (!text_is(t, "0") && !text_is(t, "1")) {
        reply_error(s, -EINVAL);
        return;
    }
    s->physical = text_is(t, "1");
    reply_ok(s);
}

void memory_get_physical(struct gdb_server *s, struct text *t)
{
    (void)t;
    put_text(&s->reply, s->physical ? "1" : "0");
}
