/*
 * test_virtio_fuzz [OPERATIONS [SEED]]: hostile drivers for the virtio devices, 250 operations each, until that many (default 100000)
 * were done. A failure names the seed of its guest.
 */
#include "tests/devices/virtio_fuzz.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GUEST_OPERATIONS 250u
#define DISK_BYTES       262144

static uint64_t seed = 1;

static void tell_seed(int number)
{
    char text[64];
    int n = snprintf(text, sizeof(text), "the guest's seed: %llu\n", (unsigned long long)seed);
    if (write(STDERR_FILENO, text, (size_t)n) != n)
        _exit(2);
    signal(number, SIG_DFL);
    raise(number);
}

int main(int argc, char **argv)
{
    unsigned long operations = argc > 1 ? strtoul(argv[1], NULL, 0) : 100000;
    char path[] = "/tmp/dejavm-virtio-fuzz-XXXXXX";
    int fd = mkstemp(path);
    seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    if (fd < 0 || ftruncate(fd, DISK_BYTES))
        return 1;
    close(fd);
    signal(SIGABRT, tell_seed);
    signal(SIGSEGV, tell_seed);
    for (unsigned long done = 0; done < operations; done += GUEST_OPERATIONS, seed++) {
        struct choices c = {.seed = seed * 0x9e3779b97f4a7c15u | 1};
        virtio_fuzz(&c, GUEST_OPERATIONS, path);
    }
    unlink(path);
    printf("%lu operations\n", operations);
    return 0;
}
