/*
 * From bytes to packets (GDB manual, E.1): '$' content '#' and two digits of checksum; between packets '+', '-' and 0x03 (Ctrl-C).
 * Nothing else is ever sent by a client; on a socket there is no line noise to forgive.
 */
#include <string.h>

#include "gdbstub/internal.h"

uint8_t *input_room(struct gdb_input *in, size_t *length)
{
    if (in->start > 0) {
        memmove(in->bytes, in->bytes + in->start, in->end - in->start);
        in->end -= in->start;
        in->start = 0;
    }
    *length = sizeof(in->bytes) - in->end;
    return in->bytes + in->end;
}

void input_added(struct gdb_input *in, size_t length)
{
    in->end += length;
}

bool input_refill(struct gdb_input *in)
{
    size_t room;
    if (in->more_length == 0)
        return false;
    uint8_t *to = input_room(in, &room);
    size_t taken = room < in->more_length ? room : in->more_length;
    if (taken == 0)
        return false;
    memcpy(to, in->more, taken);
    in->more += taken;
    in->more_length -= taken;
    input_added(in, taken);
    return true;
}

bool input_partial(const struct gdb_input *in)
{
    return in->end > in->start;
}

bool input_packet_begun(const struct gdb_input *in)
{
    return memchr(in->bytes + in->start, '$', in->end - in->start) != NULL;
}

void input_drop_acknowledgements(struct gdb_input *in)
{
    while (in->start < in->end && (in->bytes[in->start] == '+' || in->bytes[in->start] == '-'))
        in->start++;
    in->searched = 0;
}

static void skip_acknowledgements(struct gdb_input *in)
{
    while (in->start < in->end && in->bytes[in->start] == '+')
        in->start++;
}

/* The length of the packet that starts at place with '$', its framing included; 0 when it is not complete. */
static size_t packet_length(const struct gdb_input *in, size_t place, size_t searched)
{
    const uint8_t *at = in->bytes + place;
    size_t length = in->end - place;
    const uint8_t *hash = searched < length ? memchr(at + searched, '#', length - searched) : NULL;
    if (!hash || (size_t)(hash - at) + 3 > length)
        return 0;
    return (size_t)(hash - at) + 3;
}

/* The packet at the start, which is '$'. */
static enum input_found next_packet(struct gdb_input *in, struct text *content)
{
    size_t length = packet_length(in, in->start, in->searched);
    if (length == 0) {
        size_t have = in->end - in->start;
        /* The '#' may be there already, and its digits not. */
        in->searched = have > 3 ? have - 3 : 0;
        return have > GDB_PACKET_BYTES + 3 ? INPUT_GARBAGE : INPUT_NOTHING;
    }
    const uint8_t *at = in->bytes + in->start;
    in->start += length;
    in->searched = 0;
    if (length > GDB_PACKET_BYTES + 4)
        return INPUT_GARBAGE;
    struct text digits = {at + length - 2, at + length};
    *content = (struct text){at + 1, at + length - 3};
    uint8_t sum = 0, expected;
    for (const uint8_t *p = content->at; p < content->end; p++)
        sum = (uint8_t)(sum + *p);
    return text_bytes(&digits, &expected, 1) && expected == sum ? INPUT_PACKET : INPUT_BAD;
}

enum input_found input_next(struct gdb_input *in, struct text *content)
{
    skip_acknowledgements(in);
    if (in->start == in->end)
        return INPUT_NOTHING;
    switch (in->bytes[in->start]) {
    case '$':
        return next_packet(in, content);
    case '-':
        in->start++;
        return INPUT_RESEND;
    case 0x03:
        in->start++;
        return INPUT_INTERRUPT;
    default:
        return INPUT_GARBAGE;
    }
}

bool input_take_interrupt(struct gdb_input *in)
{
    skip_acknowledgements(in);
    for (size_t place = in->start; place < in->end;) {
        uint8_t c = in->bytes[place];
        if (c == 0x03) {
            memmove(in->bytes + place, in->bytes + place + 1, in->end - place - 1);
            in->end--;
            return true;
        }
        size_t length = c == '$' ? packet_length(in, place, 0) : c == '+' || c == '-';
        if (length == 0)
            return false;
        place += length;
    }
    return false;
}

size_t input_unescape(uint8_t *data, size_t length)
{
    size_t out = 0;
    for (size_t i = 0; i < length; i++) {
        if (data[i] != '}') {
            data[out++] = data[i];
            continue;
        }
        if (++i == length)
            return SIZE_MAX;
        data[out++] = data[i] ^ 0x20;
    }
    return out;
}
