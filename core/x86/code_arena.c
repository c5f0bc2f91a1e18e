#include "core/x86/code_arena.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base/hash.h"

#define CODE_ALIGN     16u
#define CODE_MAX_BYTES ((size_t)1 << 30)
#define INDEX_ENTRIES  (1u << 16)
#define INDEX_PROBES   8u

/* Where equal code may already lie. length 0: free. */
struct code_index {
    uint64_t hash;
    uint32_t offset;
    uint32_t length;
};

struct code_arena {
    uint8_t *writable;
    const uint8_t *executable; /* the same memory */
    size_t size;
    size_t used;
    uint64_t generation;
    struct code_index index[INDEX_ENTRIES];
};

static int map_views(struct code_arena *a, struct error *err)
{
    int fd = memfd_create("dejavm-code", MFD_CLOEXEC);
    if (fd < 0)
        return error_errno(err, -errno, "memfd for generated code");
    int result = 0;
    if (ftruncate(fd, (off_t)a->size) != 0) {
        result = error_errno(err, -errno, "generated code: %zu bytes", a->size);
        goto out;
    }
    void *writable = mmap(NULL, a->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (writable == MAP_FAILED) {
        result = error_errno(err, -errno, "mapping generated code for writing");
        goto out;
    }
    void *executable = mmap(NULL, a->size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    if (executable == MAP_FAILED) {
        result = error_errno(err, -errno, "mapping generated code for execution");
        munmap(writable, a->size);
        goto out;
    }
    a->writable = writable;
    a->executable = executable;
out:
    close(fd);
    return result;
}

int code_arena_create(struct code_arena **out, size_t size, struct error *err)
{
    if (size == 0 || size % PAGE_SIZE_BYTES != 0 || size > CODE_MAX_BYTES)
        return error_set(err, -EINVAL, "code arena of %zu bytes: not a multiple of 4096 up to 1 GiB", size);
    struct code_arena *a = calloc(1, sizeof *a);
    if (!a)
        return error_set(err, -ENOMEM, "out of memory for the code arena");
    a->size = size;
    int result = map_views(a, err);
    if (result < 0) {
        free(a);
        return result;
    }
    *out = a;
    return 0;
}

void code_arena_destroy(struct code_arena *a)
{
    if (!a)
        return;
    munmap(a->writable, a->size);
    munmap((void *)(uintptr_t)a->executable, a->size);
    free(a);
}

const void *code_arena_put(struct code_arena *a, const uint8_t *code, size_t length)
{
    uint64_t hash = hash64(code, length);
    struct code_index *slot = NULL;
    for (unsigned i = 0; i < INDEX_PROBES; i++) {
        struct code_index *x = &a->index[(hash + i) % INDEX_ENTRIES];
        if (x->length == 0) {
            slot = x;
            break;
        }
        if (x->hash == hash && x->length == length && memcmp(a->writable + x->offset, code, length) == 0)
            return a->executable + x->offset;
    }
    size_t offset = (a->used + CODE_ALIGN - 1) & ~(size_t)(CODE_ALIGN - 1);
    if (length > a->size || offset > a->size - length)
        return NULL;
    memcpy(a->writable + offset, code, length);
    a->used = offset + length;
    if (slot)
        *slot = (struct code_index){.hash = hash, .offset = (uint32_t)offset, .length = (uint32_t)length};
    return a->executable + offset;
}

void code_arena_recycle(struct code_arena *a)
{
    a->used = 0;
    a->generation++;
    memset(a->index, 0, sizeof a->index);
}

uint64_t code_arena_generation(const struct code_arena *a)
{
    return a->generation;
}

size_t code_arena_used(const struct code_arena *a)
{
    return a->used;
}

uint8_t *code_arena_writable(const struct code_arena *a)
{
    return a->writable;
}

const uint8_t *code_arena_executable(const struct code_arena *a)
{
    return a->executable;
}

size_t code_arena_size(const struct code_arena *a)
{
    return a->size;
}
