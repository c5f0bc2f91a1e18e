#include "devices/p9_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

_Static_assert(O_CREAT == 0100 && O_EXCL == 0200 && O_TRUNC == 01000 && O_APPEND == 02000 &&
                   O_DSYNC == 010000,
               "the protocol's flags (P9_DOTL_...) are those of x86 Linux");

#define FLAGS_TAKEN (O_ACCMODE | O_TRUNC | O_APPEND | O_DSYNC)
/* Whatever is there by now: does not wait, and does not become a terminal of ours. */
#define FLAGS_ALWAYS (O_NONBLOCK | O_NOCTTY | O_CLOEXEC)

#define MODE_MASK 0777u

static int check_flags(const struct p9_server *s, unsigned flags)
{
    if ((flags & O_ACCMODE) == O_ACCMODE)
        return -EINVAL;
    if (s->read_only && ((flags & O_ACCMODE) != O_RDONLY || flags & O_TRUNC))
        return -EROFS;
    return 0;
}

/* Opens what path (O_PATH) stands for. Only regular files and folders: to open others has effects. */
static int open_again(int path, unsigned flags)
{
    struct stat st;
    int fd;
    if (fstat(path, &st))
        return -errno;
    if (S_ISDIR(st.st_mode))
        fd = (flags & (O_ACCMODE | O_TRUNC)) == O_RDONLY
                 ? openat(path, ".", O_RDONLY | O_DIRECTORY | FLAGS_ALWAYS)
                 : (errno = EISDIR, -1);
    else if (S_ISREG(st.st_mode))
        fd = open(p9_proc_path(path).text, (int)(flags & FLAGS_TAKEN) | FLAGS_ALWAYS);
    else
        return S_ISLNK(st.st_mode) ? -ELOOP : -EACCES;
    return fd < 0 ? -errno : fd;
}

/* fd, open, takes the place of what the fid was; the answer is its qid and iounit (0: whatever fits into a message). */
static int now_open(struct p9_server *s, struct p9_fid *f, int fd, unsigned flags, struct p9_writer *out)
{
    struct stat st;
    if (fstat(fd, &st)) {
        int status = -errno;
        close(fd);
        return status;
    }
    close(f->fd);
    f->fd = fd;
    f->open = true;
    f->access = (int)(flags & O_ACCMODE);
    p9_put_qid(s, out, &st);
    p9_put(out, 4, 0);
    return 0;
}

int p9_lopen(struct p9_server *s, struct p9_reader *in, struct p9_writer *out)
{
    struct p9_fid *f;
    int status = p9_get_fid(s, in, &f);
    unsigned flags = (unsigned)p9_get(in, 4);
    if (in->failed)
        return -EPROTO;
    if (status < 0)
        return status;
    if (f->open)
        return -EBADF;
    status = check_flags(s, flags);
    if (status < 0)
        return status;
    int fd = open_again(f->fd, flags);
    return fd < 0 ? fd : now_open(s, f, fd, flags, out);
}

/* Makes the file, or without O_EXCL opens the one that is there. */
static int create(int folder, const char *name, unsigned flags, unsigned mode)
{
    int fd = openat(folder, name, (int)(flags & FLAGS_TAKEN) | FLAGS_ALWAYS | O_CREAT | O_EXCL | O_NOFOLLOW,
                    mode & MODE_MASK);
    if (fd >= 0)
        return fd;
    if (errno != EEXIST || flags & O_EXCL)
        return -errno;
    int path = openat(folder, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (path < 0)
        return -errno;
    fd = open_again(path, flags);
    close(path);
    return fd;
}

int p9_lcreate(struct p9_server *s, struct p9_reader *in, struct p9_writer *out)
{
    char name[NAME_MAX + 1];
    struct p9_fid *f;
    int status = p9_get_fid(s, in, &f);
    int name_status = p9_get_name(in, name);
    unsigned flags = (unsigned)p9_get(in, 4), mode = (unsigned)p9_get(in, 4);
    p9_get(in, 4); /* gid: files belong to this process's user */
    if (in->failed)
        return -EPROTO;
    if (status < 0 || name_status < 0)
        return status < 0 ? status : name_status;
    if (f->open)
        return -EBADF;
    if (s->read_only)
        return -EROFS;
    status = check_flags(s, flags);
    if (status < 0)
        return status;
    int fd = create(f->fd, name, flags, mode);
    return fd < 0 ? fd : now_open(s, f, fd, flags, out);
}

/* The open file that a request is about, and where in it. */
static int get_place(struct p9_server *s, struct p9_reader *in, struct p9_fid **f, uint64_t *offset,
                     size_t *count)
{
    int status = p9_get_fid(s, in, f);
    *offset = p9_get(in, 8);
    *count = (size_t)p9_get(in, 4);
    if (in->failed)
        return -EPROTO;
    if (status == 0 && !(*f)->open)
        return -EBADF;
    return status;
}

int p9_read(struct p9_server *s, struct p9_reader *in, struct p9_writer *out)
{
    struct p9_fid *f;
    uint64_t offset;
    size_t count;
    int status = get_place(s, in, &f, &offset, &count);
    if (status < 0)
        return status;
    if (offset > INT64_MAX)
        return -EINVAL;
    uint8_t *count_at = out->at;
    p9_put(out, 4, 0);
    if (count > p9_room(out))
        count = p9_room(out);
    ssize_t n = pread(f->fd, out->at, count, (off_t)offset);
    if (n < 0)
        return -errno;
    struct p9_writer length = {.at = count_at, .end = out->at};
    p9_put(&length, 4, (uint64_t)n);
    out->at += n;
    return 0;
}

int p9_write(struct p9_server *s, struct p9_reader *in, struct p9_writer *out)
{
    struct p9_fid *f;
    uint64_t offset;
    size_t count;
    int status = get_place(s, in, &f, &offset, &count);
    const uint8_t *data = p9_get_bytes(in, count);
    if (!data)
        return -EPROTO;
    if (status < 0)
        return status;
    if (offset > INT64_MAX)
        return -EINVAL;
    ssize_t n = pwrite(f->fd, data, count, (off_t)offset);
    if (n < 0)
        return -errno;
    p9_put(out, 4, (uint64_t)n);
    return 0;
}

/* One entry: qid, offset of the next, type, name. False when it does not fit. */
static bool put_entry(const struct p9_server *s, struct p9_writer *out, dev_t dev,
                      const struct dirent64 *entry)
{
    size_t length = strlen(entry->d_name);
    if (p9_room(out) < P9_QID_BYTES + 8 + 1 + 2 + length)
        return false;
    p9_put_entry_qid(s, out, dev, entry->d_ino, entry->d_type);
    p9_put(out, 8, (uint64_t)entry->d_off);
    p9_put(out, 1, entry->d_type);
    p9_put_string(out, entry->d_name, length);
    return true;
}

/* Entries from where fd stands, until out is full or there are no more. */
static int put_entries(const struct p9_server *s, int fd, dev_t dev, struct p9_writer *out)
{
    union {
        struct dirent64 entry; /* for its alignment */
        char bytes[8192];
    } buffer;
    const uint8_t *first = out->at;
    ssize_t n;
    while ((n = getdents64(fd, &buffer, sizeof(buffer))) > 0) {
        for (ssize_t at = 0; at < n;) {
            const struct dirent64 *entry = (const struct dirent64 *)(const void *)(buffer.bytes + at);
            if (!put_entry(s, out, dev, entry))
                return out->at == first ? -EINVAL : 0;
            at += entry->d_reclen;
        }
    }
    /* What was found before an error is an answer; the error comes again. */
    return n < 0 && out->at == first ? -errno : 0;
}

int p9_readdir(struct p9_server *s, struct p9_reader *in, struct p9_writer *out)
{
    struct p9_fid *f;
    struct stat st;
    uint64_t offset;
    size_t count;
    int status = get_place(s, in, &f, &offset, &count);
    if (status < 0)
        return status;
    if (fstat(f->fd, &st))
        return -errno;
    if (!S_ISDIR(st.st_mode))
        return -ENOTDIR;
    if (lseek(f->fd, (off_t)offset, SEEK_SET) < 0)
        return -errno;
    uint8_t *count_at = out->at;
    p9_put(out, 4, 0);
    struct p9_writer entries = {.at = out->at, .end = count < p9_room(out) ? out->at + count : out->end};
    status = put_entries(s, f->fd, st.st_dev, &entries);
    struct p9_writer length = {.at = count_at, .end = out->at};
    p9_put(&length, 4, (uint64_t)(entries.at - out->at));
    out->at = entries.at;
    return status;
}

int p9_fsync(struct p9_server *s, struct p9_reader *in, struct p9_writer *out)
{
    struct p9_fid *f;
    (void)out;
    int status = p9_get_fid(s, in, &f);
    uint32_t data_only = (uint32_t)p9_get(in, 4);
    if (in->failed)
        return -EPROTO;
    if (status < 0)
        return status;
    if (!f->open)
        return -EBADF;
    return (data_only ? fdatasync(f->fd) : fsync(f->fd)) ? -errno : 0;
}

/* Locks: Linux's struct p9_flock */
#define LOCK_SUCCESS  0u
#define LOCK_UNLOCKED 2u /* F_UNLCK */

/* The client keeps the locks of its own processes; there is no other client. */
int p9_lock(struct p9_server *s, struct p9_reader *in, struct p9_writer *out)
{
    struct p9_fid *f;
    int status = p9_get_fid(s, in, &f);
    p9_put(out, 1, LOCK_SUCCESS);
    return status;
}

int p9_getlock(struct p9_server *s, struct p9_reader *in, struct p9_writer *out)
{
    char client[PATH_MAX];
    struct p9_fid *f;
    int status = p9_get_fid(s, in, &f);
    p9_get(in, 1);
    uint64_t start = p9_get(in, 8), length = p9_get(in, 8);
    uint32_t process = (uint32_t)p9_get(in, 4);
    int client_status = p9_get_path(in, client);
    if (in->failed)
        return -EPROTO;
    if (status < 0)
        return status;
    if (client_status < 0 && client_status != -ENOENT)
        return client_status;
    p9_put(out, 1, LOCK_UNLOCKED);
    p9_put(out, 8, start);
    p9_put(out, 8, length);
    p9_put(out, 4, process);
    p9_put_string(out, client, strlen(client));
    return 0;
}
