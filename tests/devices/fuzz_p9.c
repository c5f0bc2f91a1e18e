/*
 * libFuzzer target (cmake -DDEJAVM_FUZZERS=ON -DDEJAVM_SANITIZE=ON with clang): the input is requests, one after the other, each as
 * long as its first four bytes say. Its mutator adds requests of tests/devices/p9_fuzz.h.
 *
 *     fuzz_p9 -max_len=4000 CORPUS
 */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/devices/p9_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    umask(0);
    struct client *c = client_create(false);
    for (size_t at = 0; at + 4 <= size;) {
        size_t length = data[at] | (size_t)data[at + 1] << 8;
        if (length < 4 || length > size - at)
            length = size - at;
        memcpy(c->request, data + at, length);
        c->request_length = length;
        (void)client_send(c);
        at += length;
    }
    client_destroy(c);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    static struct client *c; /* only composes */
    uint64_t random = (uint64_t)seed * 0x9e3779b97f4a7c15u + 1;
    if (fuzz_random(&random) % 4 == 0)
        return LLVMFuzzerMutate(data, size, max_size);
    if (!c)
        c = client_create(false);
    p9_fuzz_compose(c, &random);
    if (c->request_length > max_size - size)
        return LLVMFuzzerMutate(data, size, max_size);
    memcpy(data + size, c->request, c->request_length);
    return size + c->request_length;
}
