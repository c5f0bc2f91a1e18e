/*
 * libFuzzer target (cmake -DDEJAVM_FUZZERS=ON -DDEJAVM_SANITIZE=ON with clang): the whole public reader on arbitrary
 * bytes. Its mutator keeps checksums right, so that mutations get past them, and makes correct traces to start from:
 *
 *     fuzz_trace_reader -max_len=300000 CORPUS
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

/* One of several correct traces. */
static size_t fresh_trace(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    size_t length;
    char *path = scratch_path();
    make_small_trace(path, seed % 64, seed & 1, seed & 2, seed & 4);
    uint8_t *trace = read_whole_file(path, &length);
    if (length <= max_size) {
        memcpy(data, trace, length);
        size = length;
    }
    free(trace);
    unlink(path);
    free(path);
    return size;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    if (size < 64)
        return fresh_trace(data, size, max_size, seed);
    size_t length = 0;
    uint8_t *mutated = seed % 16 == 0 ? NULL : trace_mutate(data, size, seed, &length);
    if (!mutated || length > max_size || length == 0) {
        free(mutated);
        return LLVMFuzzerMutate(data, size, max_size);
    }
    memcpy(data, mutated, length);
    free(mutated);
    return length;
}
