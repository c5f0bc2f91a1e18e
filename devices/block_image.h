/* A disk's own file, by its format: what block_backend.c reads from and writes through to. */
#ifndef DEJAVM_DEVICES_BLOCK_IMAGE_H
#define DEJAVM_DEVICES_BLOCK_IMAGE_H

#include "core/base/error.h"
#include "core/base/types.h"

struct block_image;

/* As in block_backend.h. An image that was not opened for writing has only read called. */
struct block_image_ops {
    int (*read)(struct block_image *i, uint64_t offset, void *out, size_t length);
    int (*write)(struct block_image *i, uint64_t offset, const void *data, size_t length);
    int (*zero)(struct block_image *i, uint64_t offset, uint64_t length, bool may_unmap);
    int (*discard)(struct block_image *i, uint64_t offset, uint64_t length);
    int (*flush)(struct block_image *i);
    void (*close)(struct block_image *i);
};

struct block_image {
    const struct block_image_ops *ops;
    uint64_t bytes;
};

/* fd, of a regular file or a block device, becomes the image's, also on failure. */
int block_raw_open(struct block_image **out, int fd, const char *path, bool writable,
                   struct error *err) must_check;

bool block_qcow2_recognise(const uint8_t *start, size_t length); /* by the file's first bytes */
int block_qcow2_open(struct block_image **out, const char *path, bool writable, struct error *err) must_check;

#endif
