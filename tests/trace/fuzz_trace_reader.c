/*
 * libFuzzer target (cmake -DDEJAVM_FUZZERS=ON with clang): the whole public reader on arbitrary bytes. Its mutator
 * keeps checksums right, so that mutations get past them; the corpus starts with traces of any kind.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/trace/mutate.h"
#include "tests/trace/support.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    struct error err = {0};
    uint64_t events;
    int r = walk_trace(fd, &events, &err);
    close(fd);
    if (r < 0 && !err.message[0])
        abort();
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    size_t length = 0;
    uint8_t *mutated = size < 64 || seed % 16 == 0 ? NULL : trace_mutate(data, size, seed, &length);
    if (!mutated || length > max_size || length == 0) {
        free(mutated);
        return LLVMFuzzerMutate(data, size, max_size);
    }
    memcpy(data, mutated, length);
    free(mutated);
    return length;
}
