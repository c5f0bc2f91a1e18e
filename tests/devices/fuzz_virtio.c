/*
 * libFuzzer target (cmake -DDEJAVM_FUZZERS=ON -DDEJAVM_SANITIZE=ON with clang): a driver's choices are the fuzzer's bytes.
 *
 *     fuzz_virtio -max_len=4000 CORPUS
 */
#include "tests/devices/virtio_fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[] = "/tmp/dejavm-virtio-fuzz-XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0 || ftruncate(fd, 262144))
        abort();
    close(fd);
    struct choices c = {.bytes = data, .left = size, .seed = 1};
    if (size)
        virtio_fuzz(&c, 2000, path);
    unlink(path);
    return 0;
}
