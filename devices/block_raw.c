/* Raw disks: a file, or a block device of the host. */
#include "devices/block_image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

struct raw {
    struct block_image image;
    int fd;
};

static struct raw *raw_of(struct block_image *i)
{
    return container_of(i, struct raw, image);
}

static int raw_read(struct block_image *i, uint64_t offset, void *out, size_t length)
{
    for (size_t done = 0; done < length;) {
        ssize_t n = pread(raw_of(i)->fd, (char *)out + done, length - done, (off_t)(offset + done));
        if (n > 0)
            done += (size_t)n;
        else if (n == 0)
            return -EIO; /* the file has become shorter */
        else if (errno != EINTR)
            return -errno;
    }
    return 0;
}

static int raw_write(struct block_image *i, uint64_t offset, const void *data, size_t length)
{
    for (size_t done = 0; done < length;) {
        ssize_t n = pwrite(raw_of(i)->fd, (const char *)data + done, length - done, (off_t)(offset + done));
        if (n >= 0)
            done += (size_t)n;
        else if (errno != EINTR)
            return -errno;
    }
    return 0;
}

static int raw_allocate(struct block_image *i, int mode, uint64_t offset, uint64_t length)
{
    while (fallocate(raw_of(i)->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length))
        if (errno != EINTR)
            return -errno;
    return 0;
}

static int raw_zero(struct block_image *i, uint64_t offset, uint64_t length, bool may_unmap)
{
    static const uint8_t zeros[65536];
    int status = raw_allocate(i, may_unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE, offset, length);
    if (status != -EOPNOTSUPP && status != -ENOSYS && status != -EINVAL)
        return status;
    /* A file system that cannot: byte by byte. */
    status = 0;
    for (uint64_t done = 0; done < length && status == 0; done += sizeof(zeros)) {
        size_t now = length - done < sizeof(zeros) ? (size_t)(length - done) : sizeof(zeros);
        status = raw_write(i, offset + done, zeros, now);
    }
    return status;
}

static int raw_discard(struct block_image *i, uint64_t offset, uint64_t length)
{
    int status = raw_allocate(i, FALLOC_FL_PUNCH_HOLE, offset, length);
    return status == -EOPNOTSUPP || status == -ENOSYS || status == -EINVAL ? 0 : status;
}

static int raw_flush(struct block_image *i)
{
    return fdatasync(raw_of(i)->fd) ? -errno : 0;
}

static void raw_close(struct block_image *i)
{
    close(raw_of(i)->fd); /* and the lock goes with it */
    free(raw_of(i));
}

static const struct block_image_ops raw_ops = {
    .read = raw_read,
    .write = raw_write,
    .zero = raw_zero,
    .discard = raw_discard,
    .flush = raw_flush,
    .close = raw_close,
};

/* Readers share the file, a writer has it alone. File systems without locks do without. */
static int lock(int fd, const char *path, bool writable, struct error *err)
{
    struct flock whole = {.l_type = writable ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_OFD_SETLK, &whole) == 0 || (errno != EAGAIN && errno != EACCES))
        return 0;
    return error_set(err, -EBUSY, "disk %s is in use: %s", path,
                     writable ? "write-through needs it alone"
                              : "another program, or another disk, writes to it");
}

int block_raw_open(struct block_image **out, int fd, const char *path, bool writable, struct error *err)
{
    struct raw *r = NULL;
    int status = lock(fd, path, writable, err);
    off_t end = lseek(fd, 0, SEEK_END);
    if (status == 0 && end < 0)
        status = error_errno(err, -errno, "disk %s: find its size", path);
    if (status == 0 && !(r = calloc(1, sizeof(*r))))
        status = error_set(err, -ENOMEM, "disk %s: out of memory", path);
    if (status || !r) {
        close(fd);
        return status;
    }
    *r = (struct raw){.image = {.ops = &raw_ops, .bytes = (uint64_t)end}, .fd = fd};
    *out = &r->image;
    return 0;
}
