#include "devices/block_backend.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/block_image.h"

#define BLOCK_BYTES 4096u /* what the copy keeps track of */

struct block_backend {
    struct block_image *image;
    struct block_image
        *copy;        /* the temporary file with the guest's writes, at the same offsets; NULL: none */
    uint64_t *copied; /* a bit for each block that is in it */
};

/* ---- the copy ---- */

static bool is_copied(const struct block_backend *b, uint64_t block)
{
    return b->copied[block / 64] >> (block % 64) & 1;
}

static void set_copied(struct block_backend *b, uint64_t block)
{
    b->copied[block / 64] |= (uint64_t)1 << (block % 64);
}

static int copy_read(struct block_backend *b, uint64_t offset, uint8_t *out, uint64_t length)
{
    int status = 0;
    while (length > 0 && status == 0) { /* as long as blocks lie in the same place */
        bool copied = is_copied(b, offset / BLOCK_BYTES);
        uint64_t run = BLOCK_BYTES - offset % BLOCK_BYTES;
        while (run < length && is_copied(b, (offset + run) / BLOCK_BYTES) == copied)
            run += BLOCK_BYTES;
        run = run < length ? run : length;
        struct block_image *from = copied ? b->copy : b->image;
        status = from->ops->read(from, offset, out, run);
        offset += run;
        out += run;
        length -= run;
    }
    return status;
}

/* A block that is only partly written: the rest of it is the disk's. */
static int copy_block(struct block_backend *b, uint64_t block)
{
    uint8_t bytes[BLOCK_BYTES];
    uint64_t start = block * BLOCK_BYTES;
    uint64_t left = b->image->bytes - start;
    size_t length = left < BLOCK_BYTES ? (size_t)left : BLOCK_BYTES;
    if (is_copied(b, block))
        return 0;
    int status = b->image->ops->read(b->image, start, bytes, length);
    if (status == 0)
        status = b->copy->ops->write(b->copy, start, bytes, length);
    if (status == 0)
        set_copied(b, block);
    return status;
}

static int copy_edges(struct block_backend *b, uint64_t offset, uint64_t length)
{
    uint64_t end = offset + length;
    int status = 0;
    if (offset % BLOCK_BYTES)
        status = copy_block(b, offset / BLOCK_BYTES);
    if (status == 0 && end % BLOCK_BYTES && end < b->image->bytes)
        status = copy_block(b, end / BLOCK_BYTES);
    return status;
}

static void set_range_copied(struct block_backend *b, uint64_t offset, uint64_t length)
{
    for (uint64_t block = offset / BLOCK_BYTES; block <= (offset + length - 1) / BLOCK_BYTES; block++)
        set_copied(b, block);
}

static int copy_write(struct block_backend *b, uint64_t offset, const void *data, size_t length)
{
    int status = copy_edges(b, offset, length);
    if (status == 0)
        status = b->copy->ops->write(b->copy, offset, data, length);
    if (status == 0)
        set_range_copied(b, offset, length);
    return status;
}

static int copy_zero(struct block_backend *b, uint64_t offset, uint64_t length)
{
    int status = copy_edges(b, offset, length);
    if (status == 0)
        status = b->copy->ops->zero(b->copy, offset, length, true);
    if (status == 0)
        set_range_copied(b, offset, length);
    return status;
}

static int open_temporary(const char *folder)
{
    char name[4096];
    int fd = open(folder, O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR))
        return fd < 0 ? -errno : fd;
    /* A file system without files that have no name. */
    int n = snprintf(name, sizeof(name), "%s/dejavm-disk-XXXXXX", folder);
    if (n < 0 || (size_t)n >= sizeof(name))
        return -ENAMETOOLONG;
    fd = mkostemp(name, O_CLOEXEC);
    if (fd < 0)
        return -errno;
    unlink(name);
    return fd;
}

static int create_copy(struct block_backend *b, const char *path, struct error *err)
{
    const char *folder = getenv("TMPDIR");
    folder = folder && *folder ? folder : "/var/tmp";
    uint64_t blocks = (b->image->bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
    b->copied = calloc((size_t)(blocks / 64 + 1), sizeof(*b->copied));
    if (!b->copied)
        return error_set(err, -ENOMEM, "disk %s: out of memory", path);
    int fd = open_temporary(folder);
    if (fd < 0)
        return error_errno(err, fd, "disk %s: a temporary file for the guest's writes, in %s (TMPDIR)", path,
                           folder);
    if (ftruncate(fd, (off_t)b->image->bytes)) {
        int code = -errno;
        close(fd);
        return error_errno(err, code, "disk %s: %" PRIu64 " bytes for the guest's writes, in %s (TMPDIR)",
                           path, b->image->bytes, folder);
    }
    return block_raw_open(&b->copy, fd, path, true, err);
}

/* ---- opening ---- */

/* NULL when it is something that can be a disk. */
static const char *wrong_kind(const struct stat *s)
{
    switch (s->st_mode & S_IFMT) {
    case S_IFREG:
    case S_IFBLK:
        return NULL;
    case S_IFDIR:
        return "a directory";
    case S_IFCHR:
        return "a character device";
    default:
        return "neither a file nor a block device";
    }
}

static int open_image(struct block_backend *b, const char *path, bool writable, struct error *err)
{
    struct stat s;
    uint8_t start[8];
    /* O_NONBLOCK: not to wait for the other end of a pipe. */
    int fd = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 && errno == EISDIR)
        return error_set(err, -EISDIR, "disk %s is a directory", path);
    if (fd < 0)
        return error_errno(err, -errno, "disk %s", path);
    const char *wrong = fstat(fd, &s) ? "not to be looked at" : wrong_kind(&s);
    if (wrong) {
        close(fd);
        return error_set(err, -EINVAL, "disk %s is %s", path, wrong);
    }
    ssize_t length = pread(fd, start, sizeof(start), 0);
    if (length < 0) {
        int code = -errno;
        close(fd);
        return error_errno(err, code, "disk %s: read it", path);
    }
    if (!block_qcow2_recognise(start, (size_t)length))
        return block_raw_open(&b->image, fd, path, writable, err);
    close(fd);
    return block_qcow2_open(&b->image, path, writable, err);
}

static int check_size(uint64_t bytes, const char *path, struct error *err)
{
    if (bytes == 0)
        return error_set(err, -EINVAL, "disk %s is empty", path);
    if (bytes % BLOCK_SECTOR_BYTES)
        return error_set(err, -EINVAL,
                         "disk %s has %" PRIu64 " bytes, which is not a multiple of %u: is it cut short?",
                         path, bytes, BLOCK_SECTOR_BYTES);
    if (bytes > BLOCK_DISK_MAX_BYTES)
        return error_set(err, -EFBIG, "disk %s has %" PRIu64 " bytes, more than 16 TiB", path, bytes);
    return 0;
}

int block_backend_open(struct block_backend **out, const struct board_disk *disk, struct error *err)
{
    struct block_backend *b = calloc(1, sizeof(*b));
    if (!b)
        return error_set(err, -ENOMEM, "disk %s: out of memory", disk->path);
    int status = open_image(b, disk->path, disk->write_through && !disk->read_only, err);
    assert(status < 0 || b->image);
    if (status == 0)
        status = check_size(b->image->bytes, disk->path, err);
    if (status == 0 && !disk->read_only && !disk->write_through)
        status = create_copy(b, disk->path, err);
    if (status) {
        block_backend_close(b);
        return status;
    }
    *out = b;
    return 0;
}

void block_backend_close(struct block_backend *b)
{
    if (!b)
        return;
    if (b->image)
        b->image->ops->close(b->image);
    if (b->copy)
        b->copy->ops->close(b->copy);
    free(b->copied);
    free(b);
}

/* ---- access ---- */

uint64_t block_backend_bytes(const struct block_backend *b)
{
    return b->image->bytes;
}

int block_backend_read(struct block_backend *b, uint64_t offset, void *out, size_t length)
{
    return b->copy ? copy_read(b, offset, out, length) : b->image->ops->read(b->image, offset, out, length);
}

int block_backend_write(struct block_backend *b, uint64_t offset, const void *data, size_t length)
{
    if (length == 0)
        return 0;
    return b->copy ? copy_write(b, offset, data, length)
                   : b->image->ops->write(b->image, offset, data, length);
}

int block_backend_zero(struct block_backend *b, uint64_t offset, uint64_t length, bool may_unmap)
{
    if (length == 0)
        return 0;
    return b->copy ? copy_zero(b, offset, length) : b->image->ops->zero(b->image, offset, length, may_unmap);
}

int block_backend_discard(struct block_backend *b, uint64_t offset, uint64_t length)
{
    if (length == 0)
        return 0;
    return b->copy ? copy_zero(b, offset, length) : b->image->ops->discard(b->image, offset, length);
}

int block_backend_flush(struct block_backend *b)
{
    return b->copy ? 0 : b->image->ops->flush(b->image);
}
