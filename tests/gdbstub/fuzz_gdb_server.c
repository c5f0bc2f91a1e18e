/*
 * libFuzzer target (cmake -DDEJAVM_FUZZERS=ON -DDEJAVM_SANITIZE=ON with clang): a client's bytes, fed to a server on a recorded
 * target. Its mutator works on whole packets and keeps their checksums right, most of the time:
 *
 *     fuzz_gdb_server -max_len=20000 CORPUS
 */
#include <stdlib.h>
#include <string.h>

#include "tests/gdbstub/client.h"
#include "tests/gdbstub/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

static const uint8_t program[] = {0xff, 0x04, 0x25, 0x02, 0x00, 0x18, 0x00, 0x8b,
                                  0x1c, 0x25, 0x00, 0x00, 0x18, 0x00, 0x90, 0xf4};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct walk *w; /* made once: it stays as it is, but for where it stands */
    struct error err = {0};
    struct gdb_server *server;
    struct buffer out = {0};
    if (!w)
        w = walk_create(program, sizeof(program), WALK_64, false);
    walk_goto(w, 0);
    if (gdb_server_create(&server, &w->target, &err) != 0)
        abort();
    (void)gdb_server_feed(server, data, size, &out);
    gdb_server_destroy(server);
    w->point_count = 0;
    buffer_free(&out);
    return 0;
}

/* The bytes of the packet that at lies in: from its '$' to behind its checksum. */
static void find_packet(const uint8_t *data, size_t size, size_t at, size_t *start, size_t *end)
{
    while (at > 0 && data[at] != '$')
        at--;
    *start = at;
    while (at < size && data[at] != '#')
        at++;
    *end = at + 3 < size ? at + 3 : size;
}

static size_t replace(uint8_t *data, size_t size, size_t max_size, size_t start, size_t end,
                      const struct buffer *with)
{
    if (size - (end - start) + with->length > max_size)
        return size;
    memmove(data + start + with->length, data + end, size - end);
    memcpy(data + start, with->data, with->length);
    return size - (end - start) + with->length;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    uint64_t s = seed;
    struct buffer packet = {0};
    size_t start = 0, end = 0;
    if (seed % 16 == 0)
        return LLVMFuzzerMutate(data, size, max_size);
    if (size > 0)
        find_packet(data, size, (size_t)(vm_random(&s) % size), &start, &end);
    if (seed % 3 == 0 || end - start < 5) {
        fuzz_packet(&packet, &s);
        end = seed & 1 ? start : end; /* put in before, or instead */
    } else {
        uint8_t content[512];
        size_t length = end - start - 4 < sizeof(content) ? end - start - 4 : sizeof(content);
        memcpy(content, data + start + 1, length);
        length = LLVMFuzzerMutate(content, length, sizeof(content));
        client_frame(&packet, content, length);
    }
    size = replace(data, size, max_size, start, end, &packet);
    buffer_free(&packet);
    return size;
}
