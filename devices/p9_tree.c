#include "devices/p9_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/statfs.h>
#include <unistd.h>

#define MODE_MASK 01777u /* no set-user-ID, no set-group-ID */

#define NS_PER_S 1000000000u

/* ---- attributes ---- */

int p9_statfs(struct p9_server *s, struct p9_reader *in, struct p9_writer *out)
{
    struct p9_fid *f;
    struct statfs fs;
    uint64_t id;
    int status = p9_get_fid(s, in, &f);
    if (status < 0)
        return status;
    if (fstatfs(f->fd, &fs))
        return -errno;
    _Static_assert(sizeof(fs.f_fsid) == sizeof(id), "64 bits");
    memcpy(&id, &fs.f_fsid, sizeof(id));
    p9_put(out, 4, (uint64_t)fs.f_type);
    p9_put(out, 4, (uint64_t)fs.f_bsize);
    p9_put(out, 8, fs.f_blocks);
    p9_put(out, 8, fs.f_bfree);
    p9_put(out, 8, fs.f_bavail);
    p9_put(out, 8, fs.f_files);
    p9_put(out, 8, fs.f_ffree);
    p9_put(out, 8, id);
    p9_put(out, 4, (uint64_t)fs.f_namelen);
    return 0;
}

static void put_time(struct p9_writer *out, const struct timespec *t)
{
    p9_put(out, 8, (uint64_t)t->tv_sec);
    p9_put(out, 8, (uint64_t)t->tv_nsec);
}

#define GETATTR_BASIC 0x7ffu /* what stat(2) has */

int p9_getattr(struct p9_server *s, struct p9_reader *in, struct p9_writer *out)
{
    struct p9_fid *f;
    struct stat st;
    int status = p9_get_fid(s, in, &f);
    if (status < 0)
        return status;
    if (fstat(f->fd, &st))
        return -errno;
    p9_put(out, 8, GETATTR_BASIC);
    p9_put_qid(s, out, &st);
    p9_put(out, 4, st.st_mode);
    p9_put(out, 4, st.st_uid);
    p9_put(out, 4, st.st_gid);
    p9_put(out, 8, st.st_nlink);
    p9_put(out, 8, st.st_rdev);
    p9_put(out, 8, (uint64_t)st.st_size);
    p9_put(out, 8, (uint64_t)st.st_blksize);
    p9_put(out, 8, (uint64_t)st.st_blocks);
    put_time(out, &st.st_atim);
    put_time(out, &st.st_mtim);
    put_time(out, &st.st_ctim);
    put_time(out, &(struct timespec){0}); /* birth time, generation, data version: not among the valid ones */
    p9_put(out, 8, 0);
    p9_put(out, 8, 0);
    return 0;
}

enum setattr_valid {
    SETATTR_MODE = 0x1,
    SETATTR_UID = 0x2,
    SETATTR_GID = 0x4,
    SETATTR_SIZE = 0x8,
    SETATTR_ATIME = 0x10, /* now, or with the bit below, to the value given */
    SETATTR_MTIME = 0x20,
    SETATTR_ATIME_SET = 0x80,
    SETATTR_MTIME_SET = 0x100,
};

struct attributes {
    uint32_t valid, mode, uid, gid;
    uint64_t size;
    struct timespec time[2]; /* last access, last change */
};

/* One of the two times, as utimensat wants it. */
static int get_time(struct p9_reader *in, uint32_t valid, uint32_t change, uint32_t set, struct timespec *t)
{
    uint64_t seconds = p9_get(in, 8), ns = p9_get(in, 8);
    *t = (struct timespec){.tv_nsec = UTIME_OMIT};
    if (!(valid & change))
        return 0;
    t->tv_nsec = UTIME_NOW;
    if (!(valid & set))
        return 0;
    if (ns >= NS_PER_S)
        return -EINVAL;
    *t = (struct timespec){.tv_sec = (time_t)seconds, .tv_nsec = (long)ns};
    return 0;
}

static int get_attributes(struct p9_reader *in, struct attributes *a)
{
    a->valid = (uint32_t)p9_get(in, 4);
    a->mode = (uint32_t)p9_get(in, 4);
    a->uid = (uint32_t)p9_get(in, 4);
    a->gid = (uint32_t)p9_get(in, 4);
    a->size = p9_get(in, 8);
    int access = get_time(in, a->valid, SETATTR_ATIME, SETATTR_ATIME_SET, &a->time[0]);
    int change = get_time(in, a->valid, SETATTR_MTIME, SETATTR_MTIME_SET, &a->time[1]);
    return in->failed ? -EPROTO : access < 0 ? access : change;
}

static int set_size(const struct p9_fid *f, uint64_t size)
{
    if (size > INT64_MAX)
        return -EINVAL;
    if (f->open && f->access != O_RDONLY)
        return ftruncate(f->fd, (off_t)size) ? -errno : 0;
    return truncate(p9_proc_path(f->fd).text, (off_t)size) ? -errno : 0;
}

static int set_attributes(const struct p9_fid *f, const struct attributes *a)
{
    const struct p9_proc_path path = p9_proc_path(f->fd);
    struct stat st;
    if (fstat(f->fd, &st))
        return -errno;
    if ((a->valid & SETATTR_UID && a->uid != st.st_uid) || (a->valid & SETATTR_GID && a->gid != st.st_gid))
        return -EPERM;
    if (a->valid & SETATTR_SIZE && !S_ISREG(st.st_mode))
        return S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;
    if (a->valid & SETATTR_MODE && chmod(path.text, a->mode & MODE_MASK))
        return -errno;
    if (a->valid & SETATTR_SIZE) {
        int status = set_size(f, a->size);
        if (status < 0)
            return status;
    }
    if (a->valid & (SETATTR_ATIME | SETATTR_MTIME) && utimensat(AT_FDCWD, path.text, a->time, 0))
        return -errno;
    return 0;
}

int p9_setattr(struct p9_server *s, struct p9_reader *in, struct p9_writer *out)
{
    struct attributes a;
    struct p9_fid *f;
    (void)out;
    int status = p9_get_fid(s, in, &f);
    int attribute_status = get_attributes(in, &a);
    if (status < 0 || attribute_status < 0)
        return status < 0 ? status : attribute_status;
    return s->read_only ? -EROFS : set_attributes(f, &a);
}

/* ---- names ---- */

/* A folder and a name in it, which the request is to change. */
static int get_entry(struct p9_server *s, struct p9_reader *in, struct p9_fid **folder,
                     char name[NAME_MAX + 1])
{
    int status = p9_get_fid(s, in, folder);
    int name_status = p9_get_name(in, name);
    if (in->failed)
        return -EPROTO;
    if (status < 0 || name_status < 0)
        return status < 0 ? status : name_status;
    return s->read_only ? -EROFS : 0;
}

/* The answer to the making of something: its qid. */
static int put_made(const struct p9_server *s, struct p9_writer *out, const struct p9_fid *folder,
                    const char *name)
{
    struct stat st;
    if (fstatat(folder->fd, name, &st, AT_SYMLINK_NOFOLLOW))
        return -errno;
    p9_put_qid(s, out, &st);
    return 0;
}

int p9_readlink(struct p9_server *s, struct p9_reader *in, struct p9_writer *out)
{
    char target[PATH_MAX];
    struct p9_fid *f;
    int status = p9_get_fid(s, in, &f);
    if (status < 0)
        return status;
    ssize_t n = readlinkat(f->fd, "", target, sizeof(target));
    if (n < 0)
        return errno == ENOENT ? -EINVAL : -errno; /* ENOENT: it is no link */
    p9_put_string(out, target, (size_t)n);
    return 0;
}

int p9_symlink(struct p9_server *s, struct p9_reader *in, struct p9_writer *out)
{
    char name[NAME_MAX + 1], target[PATH_MAX];
    struct p9_fid *folder;
    int status = get_entry(s, in, &folder, name);
    int target_status = p9_get_path(in, target);
    if (status < 0 || target_status < 0)
        return status < 0 ? status : target_status;
    if (symlinkat(target, folder->fd, name))
        return -errno;
    return put_made(s, out, folder, name);
}

/* Regular files only: the host's devices are not the guest's, and a FIFO would have the host's programs wait. */
int p9_mknod(struct p9_server *s, struct p9_reader *in, struct p9_writer *out)
{
    char name[NAME_MAX + 1];
    struct p9_fid *folder;
    int status = get_entry(s, in, &folder, name);
    uint32_t mode = (uint32_t)p9_get(in, 4);
    if (status < 0)
        return status;
    if (!S_ISREG(mode))
        return -EPERM;
    if (mknodat(folder->fd, name, S_IFREG | (mode & MODE_MASK), 0))
        return -errno;
    return put_made(s, out, folder, name);
}

int p9_mkdir(struct p9_server *s, struct p9_reader *in, struct p9_writer *out)
{
    char name[NAME_MAX + 1];
    struct p9_fid *folder;
    int status = get_entry(s, in, &folder, name);
    uint32_t mode = (uint32_t)p9_get(in, 4);
    if (status < 0)
        return status;
    if (mkdirat(folder->fd, name, mode & MODE_MASK))
        return -errno;
    return put_made(s, out, folder, name);
}

int p9_link(struct p9_server *s, struct p9_reader *in, struct p9_writer *out)
{
    char name[NAME_MAX + 1];
    struct p9_fid *folder, *file;
    struct stat st;
    (void)out;
    int status = p9_get_fid(s, in, &folder);
    int file_status = p9_get_fid(s, in, &file);
    int name_status = p9_get_name(in, name);
    if (in->failed)
        return -EPROTO;
    if (status < 0 || file_status < 0 || name_status < 0)
        return status < 0 ? status : file_status < 0 ? file_status : name_status;
    if (s->read_only)
        return -EROFS;
    if (fstat(file->fd, &st))
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EPERM;
    if (linkat(AT_FDCWD, p9_proc_path(file->fd).text, folder->fd, name, AT_SYMLINK_FOLLOW))
        return -errno;
    return 0;
}

int p9_renameat(struct p9_server *s, struct p9_reader *in, struct p9_writer *out)
{
    char from_name[NAME_MAX + 1], to_name[NAME_MAX + 1];
    struct p9_fid *from, *to;
    (void)out;
    int from_status = get_entry(s, in, &from, from_name);
    int to_status = get_entry(s, in, &to, to_name);
    if (from_status < 0 || to_status < 0)
        return from_status < 0 ? from_status : to_status;
    return renameat(from->fd, from_name, to->fd, to_name) ? -errno : 0;
}

int p9_unlinkat(struct p9_server *s, struct p9_reader *in, struct p9_writer *out)
{
    char name[NAME_MAX + 1];
    struct p9_fid *folder;
    (void)out;
    int status = get_entry(s, in, &folder, name);
    uint32_t flags = (uint32_t)p9_get(in, 4);
    if (in->failed)
        return -EPROTO;
    if (status < 0)
        return status;
    return unlinkat(folder->fd, name, (int)flags) ? -errno : 0;
}
