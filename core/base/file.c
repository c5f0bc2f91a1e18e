#include "core/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static int read_all(int fd, const char *path, size_t length, struct buffer *out, struct error *err)
{
    uint8_t *data = buffer_extend(out, length);
    if (!data && length)
        return error_set(err, -ENOMEM, "%s: no memory for %zu bytes", path, length);
    for (size_t done = 0; done < length;) {
        ssize_t n = read(fd, data + done, length - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_errno(err, -errno, "read %s", path);
        if (n == 0)
            return error_set(err, -EIO, "%s became shorter while it was read", path);
        done += (size_t)n;
    }
    return 0;
}

int file_read(const char *path, size_t max_bytes, struct buffer *out, struct error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return error_errno(err, -errno, "open %s", path);
    struct stat st;
    int status = 0;
    if (fstat(fd, &st) < 0)
        status = error_errno(err, -errno, "stat %s", path);
    else if (!S_ISREG(st.st_mode))
        status = error_set(err, -EINVAL, "%s is not a regular file", path);
    else if ((uint64_t)st.st_size > max_bytes)
        status = error_set(err, -EFBIG, "%s has %lld bytes; at most %zu are possible", path,
                           (long long)st.st_size, max_bytes);
    else
        status = read_all(fd, path, (size_t)st.st_size, out, err);
    close(fd);
    if (status < 0)
        buffer_free(out);
    return status;
}
