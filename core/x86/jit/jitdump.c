#include "core/x86/jit/jitdump.h"

#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define JITDUMP_MAGIC   0x4a695444u
#define JITDUMP_VERSION 1u
#define RECORD_LOAD     0u

struct header {
    uint32_t magic, version, total_size, elf_machine, pad, pid;
    uint64_t timestamp, flags;
};

struct load_record {
    uint32_t id, total_size;
    uint64_t timestamp;
    uint32_t pid, tid;
    uint64_t vma, address, size, index;
};

struct jitdump {
    FILE *file;
    void *marker; /* perf finds the file by this mapping */
    size_t marker_size;
    uint64_t count;
    bool failed;
};

/* What perf calls it: CLOCK_MONOTONIC (perf record -k mono), in ns. */
static uint64_t timestamp(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int start(struct jitdump *d, const char *path, struct error *err)
{
    const struct header h = {.magic = JITDUMP_MAGIC,
                             .version = JITDUMP_VERSION,
                             .total_size = sizeof(h),
                             .elf_machine = EM_X86_64,
                             .pid = (uint32_t)getpid(),
                             .timestamp = timestamp()};
    d->file = fopen(path, "w+xe");
    if (!d->file)
        return error_set(err, -errno, "%s: %s", path, strerror(errno));
    if (fwrite(&h, sizeof(h), 1, d->file) != 1 || fflush(d->file) != 0)
        return error_set(err, -errno, "%s: %s", path, strerror(errno));
    d->marker_size = (size_t)sysconf(_SC_PAGESIZE);
    d->marker = mmap(NULL, d->marker_size, PROT_READ | PROT_EXEC, MAP_PRIVATE, fileno(d->file), 0);
    if (d->marker == MAP_FAILED) {
        d->marker = NULL;
        return error_set(err, -errno, "%s: cannot be mapped for perf: %s", path, strerror(errno));
    }
    return 0;
}

int jitdump_create(struct jitdump **out, const char *folder, struct error *err)
{
    char path[4096];
    struct jitdump *d = calloc(1, sizeof(*d));
    if (!d)
        return error_set(err, -ENOMEM, "no memory for the jitdump file");
    int length = snprintf(path, sizeof(path), "%s/jit-%ld.dump", folder, (long)getpid());
    int code = length < (int)sizeof(path) ? start(d, path, err)
                                          : error_set(err, -ENAMETOOLONG, "%s: name too long", folder);
    if (code) {
        jitdump_close(d);
        return code;
    }
    *out = d;
    return 0;
}

void jitdump_add(struct jitdump *d, const char *name, uint64_t address, const void *bytes, size_t size)
{
    const size_t name_size = strlen(name) + 1;
    const struct load_record r = {.id = RECORD_LOAD,
                                  .total_size = (uint32_t)(sizeof(r) + name_size + size),
                                  .timestamp = timestamp(),
                                  .pid = (uint32_t)getpid(),
                                  .tid = (uint32_t)gettid(),
                                  .vma = address,
                                  .address = address,
                                  .size = size,
                                  .index = d->count++};
    d->failed = d->failed || fwrite(&r, sizeof(r), 1, d->file) != 1 ||
                fwrite(name, name_size, 1, d->file) != 1 || fwrite(bytes, size, 1, d->file) != 1;
}

void jitdump_close(struct jitdump *d)
{
    if (!d)
        return;
    if (d->marker)
        munmap(d->marker, d->marker_size);
    if (d->file)
        fclose(d->file);
    free(d);
}
