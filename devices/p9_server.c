#include "devices/p9_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VERSION        "9P2000.L"
#define MSIZE_MIN      4096u
#define WALK_NAMES_MAX 16u   /* MAXWELEM, walk(5) */
#define CLIMB_MAX      4096u /* folders between a file and the root: more do not fit into a path */
#define RLERROR_BYTES  (P9_HEADER_BYTES + 4)

_Static_assert(RLERROR_BYTES == P9_ANSWER_MIN, "an error fits into the least room");

/* ---- fids ---- */

static struct p9_fid **fid_link(struct p9_server *s, uint32_t number)
{
    struct p9_fid **link = &s->fid[number % P9_FID_BUCKETS];
    while (*link && (*link)->number != number)
        link = &(*link)->next;
    return link;
}

struct p9_fid *p9_fid_find(struct p9_server *s, uint32_t number)
{
    return *fid_link(s, number);
}

int p9_get_fid(struct p9_server *s, struct p9_reader *in, struct p9_fid **out)
{
    uint32_t number = (uint32_t)p9_get(in, 4);
    *out = in->failed ? NULL : p9_fid_find(s, number);
    return in->failed ? -EPROTO : *out ? 0 : -EBADF;
}

/* fd becomes the fid's, or is closed. */
static int fid_add(struct p9_server *s, uint32_t number, int fd)
{
    struct p9_fid *f = s->fid_count < P9_FIDS_MAX ? calloc(1, sizeof(*f)) : NULL;
    if (!f) {
        close(fd);
        return s->fid_count < P9_FIDS_MAX ? -ENOMEM : -ENFILE;
    }
    *f = (struct p9_fid){.number = number, .fd = fd};
    *fid_link(s, number) = f;
    s->fid_count++;
    return 0;
}

static void fid_remove(struct p9_server *s, uint32_t number)
{
    struct p9_fid **link = fid_link(s, number), *f = *link;
    *link = f->next;
    close(f->fd);
    free(f);
    s->fid_count--;
}

void p9_server_reset(struct p9_server *s)
{
    for (size_t i = 0; i < P9_FID_BUCKETS; i++)
        while (s->fid[i])
            fid_remove(s, s->fid[i]->number);
    s->msize = 0;
}

struct p9_proc_path p9_proc_path(int fd)
{
    struct p9_proc_path path;
    snprintf(path.text, sizeof(path.text), "/proc/self/fd/%d", fd);
    return path;
}

static int copy_descriptor(int fd)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    return copy < 0 ? -errno : copy;
}

/* ---- requests ---- */

static int version(struct p9_server *s, struct p9_reader *in, struct p9_writer *out)
{
    char text[PATH_MAX];
    uint32_t msize = (uint32_t)p9_get(in, 4);
    int status = p9_get_path(in, text);
    if (status < 0)
        return status;
    if (msize < MSIZE_MIN)
        return -EMSGSIZE;
    bool known = strcmp(text, VERSION) == 0;
    p9_server_reset(s);
    if (msize > P9_MESSAGE_MAX)
        msize = P9_MESSAGE_MAX;
    s->msize = known ? msize : 0;
    p9_put(out, 4, msize);
    p9_put_string(out, known ? VERSION : "unknown", strlen(known ? VERSION : "unknown"));
    return 0;
}

static int attach(struct p9_server *s, struct p9_reader *in, struct p9_writer *out)
{
    char user[PATH_MAX], tree[PATH_MAX];
    struct stat st;
    uint32_t number = (uint32_t)p9_get(in, 4);
    p9_get(in, 4); /* afid: there is nothing to prove */
    int user_status = p9_get_path(in, user);
    int tree_status = p9_get_path(in, tree);
    p9_get(in, 4); /* n_uname: all is done with the rights of this process */
    if (in->failed || (user_status < 0 && user_status != -ENOENT))
        return -EPROTO;
    if (tree_status != -ENOENT && (tree_status < 0 || strcmp(tree, "/") != 0))
        return -ENOENT;
    if (p9_fid_find(s, number))
        return -EBADF;
    if (fstat(s->root, &st))
        return -errno;
    int fd = copy_descriptor(s->root);
    if (fd < 0)
        return fd;
    p9_put_qid(s, out, &st);
    return fid_add(s, number, fd);
}

static bool is_root(const struct p9_server *s, const struct stat *st)
{
    return st->st_dev == s->root_dev && st->st_ino == s->root_ino;
}

/* Whether fd, a folder, is the root or below it. Moved away by somebody on the host, it is not. */
static bool is_below_root(const struct p9_server *s, int fd)
{
    struct stat st, above;
    bool below = false;
    int at = copy_descriptor(fd);
    for (unsigned i = 0; i < CLIMB_MAX && at >= 0 && fstat(at, &st) == 0; i++) {
        below = is_root(s, &st);
        int up = below ? -1 : openat(at, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
        close(at);
        at = up;
        if (at >= 0 && fstat(at, &above) == 0 && above.st_dev == st.st_dev && above.st_ino == st.st_ino)
            break; /* the host's root is its own parent */
    }
    if (at >= 0)
        close(at);
    return below;
}

/* The parent of the folder fd; the root's is the root (walk(5)). */
static int open_parent(const struct p9_server *s, int fd)
{
    struct stat st;
    if (fstat(fd, &st))
        return -errno;
    if (is_root(s, &st))
        return copy_descriptor(s->root);
    int parent = openat(fd, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (parent < 0)
        return -errno;
    if (is_below_root(s, parent))
        return parent;
    close(parent);
    return -ENOENT;
}

/* The file of that name in the folder fd, itself if it is a link. */
static int open_name(const struct p9_server *s, int fd, const char *name)
{
    if (strcmp(name, "..") == 0)
        return open_parent(s, fd);
    if (strchr(name, '/') || strcmp(name, ".") == 0)
        return -ENOENT;
    int child = openat(fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    return child < 0 ? -errno : child;
}

/* Goes the way that in describes, from *fd, which is replaced; -errno only when not even the first step is possible. */
static int walk_names(struct p9_server *s, struct p9_reader *in, unsigned count, int *fd, unsigned *walked,
                      struct p9_writer *out)
{
    char name[PATH_MAX];
    struct stat st;
    for (*walked = 0; *walked < count; ++*walked) {
        int status = p9_get_path(in, name);
        int next = status < 0 ? status : open_name(s, *fd, name);
        if (next >= 0 && fstat(next, &st)) {
            status = -errno;
            close(next);
            next = status;
        }
        if (next < 0)
            return *walked ? 0 : next;
        close(*fd);
        *fd = next;
        p9_put_qid(s, out, &st);
    }
    return 0;
}

static int walk(struct p9_server *s, struct p9_reader *in, struct p9_writer *out)
{
    struct p9_fid *from;
    unsigned walked;
    int status = p9_get_fid(s, in, &from);
    uint32_t number = (uint32_t)p9_get(in, 4);
    unsigned count = (unsigned)p9_get(in, 2);
    if (in->failed || count > WALK_NAMES_MAX)
        return -EPROTO;
    if (status < 0)
        return status;
    if (from->open || (number != from->number && p9_fid_find(s, number)))
        return -EBADF;
    int fd = copy_descriptor(from->fd);
    if (fd < 0)
        return fd;
    uint8_t *walked_at = out->at;
    p9_put(out, 2, 0);
    status = walk_names(s, in, count, &fd, &walked, out);
    if (status < 0 || walked < count || out->failed) {
        close(fd);
    } else if (number == from->number) {
        close(from->fd);
        from->fd = fd;
    } else {
        status = fid_add(s, number, fd);
    }
    if (!out->failed)
        *walked_at = (uint8_t)walked;
    return status;
}

static int clunk(struct p9_server *s, struct p9_reader *in, struct p9_writer *out)
{
    struct p9_fid *f;
    (void)out;
    int status = p9_get_fid(s, in, &f);
    if (status == 0)
        fid_remove(s, f->number);
    return status;
}

/* A client of this dialect removes with Tunlinkat; even so, the fid is gone (remove(5)). */
static int remove_fid(struct p9_server *s, struct p9_reader *in, struct p9_writer *out)
{
    int status = clunk(s, in, out);
    return status < 0 ? status : -EOPNOTSUPP;
}

/* Each request is answered before the next is looked at: there is nothing to flush. */
static int flush(struct p9_server *s, struct p9_reader *in, struct p9_writer *out)
{
    (void)s;
    (void)in;
    (void)out;
    return 0;
}

/* ---- dispatch ---- */

static p9_handler handler_of(unsigned type)
{
    switch (type) {
    case P9_TSTATFS:
        return p9_statfs;
    case P9_TLOPEN:
        return p9_lopen;
    case P9_TLCREATE:
        return p9_lcreate;
    case P9_TSYMLINK:
        return p9_symlink;
    case P9_TMKNOD:
        return p9_mknod;
    case P9_TREADLINK:
        return p9_readlink;
    case P9_TGETATTR:
        return p9_getattr;
    case P9_TSETATTR:
        return p9_setattr;
    case P9_TREADDIR:
        return p9_readdir;
    case P9_TFSYNC:
        return p9_fsync;
    case P9_TLOCK:
        return p9_lock;
    case P9_TGETLOCK:
        return p9_getlock;
    case P9_TLINK:
        return p9_link;
    case P9_TMKDIR:
        return p9_mkdir;
    case P9_TRENAMEAT:
        return p9_renameat;
    case P9_TUNLINKAT:
        return p9_unlinkat;
    case P9_TVERSION:
        return version;
    case P9_TATTACH:
        return attach;
    case P9_TFLUSH:
        return flush;
    case P9_TWALK:
        return walk;
    case P9_TREAD:
        return p9_read;
    case P9_TWRITE:
        return p9_write;
    case P9_TCLUNK:
        return clunk;
    case P9_TREMOVE:
        return remove_fid;
    default:
        return NULL;
    }
}

static int answer_body(struct p9_server *s, unsigned type, struct p9_reader *in, struct p9_writer *out)
{
    p9_handler handler = handler_of(type);
    if (in->failed)
        return -EPROTO;
    if (!handler)
        return -EOPNOTSUPP;
    if (!s->msize && type != P9_TVERSION)
        return -EPROTO;
    int status = handler(s, in, out);
    return status == 0 && out->failed ? -EMSGSIZE : status;
}

size_t p9_server_answer(struct p9_server *s, const uint8_t *request, size_t length, uint8_t *answer,
                        size_t room)
{
    struct p9_reader in = {.at = request, .end = request + length};
    uint32_t size = (uint32_t)p9_get(&in, 4);
    unsigned type = (unsigned)p9_get(&in, 1), tag = (unsigned)p9_get(&in, 2);
    if (room < P9_ANSWER_MIN)
        return 0;
    if (size < P9_HEADER_BYTES || size > length)
        in.failed = true;
    else
        in.end = request + size;
    size_t most = s->msize && type != P9_TVERSION ? s->msize : P9_MESSAGE_MAX;
    struct p9_writer out = {.start = answer, .at = answer, .end = answer + (room < most ? room : most)};
    p9_put(&out, 4, 0);
    p9_put(&out, 1, type + 1);
    p9_put(&out, 2, tag);
    int status = answer_body(s, type, &in, &out);
    if (status < 0) {
        out.at = answer + 4;
        p9_put(&out, 1, P9_RLERROR);
        p9_put(&out, 2, tag);
        p9_put(&out, 4, (uint64_t)-status);
    }
    size_t done = (size_t)(out.at - answer);
    out.at = answer;
    p9_put(&out, 4, done);
    return done;
}

/* ---- creation ---- */

int p9_server_create(struct p9_server **out, const char *folder, bool read_only, struct error *err)
{
    struct stat st;
    struct p9_server *s = calloc(1, sizeof(*s));
    if (!s)
        return error_set(err, -ENOMEM, "no memory for the shared folder %s", folder);
    s->read_only = read_only;
    s->root = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int status = 0;
    if (s->root < 0 || fstat(s->root, &st))
        status = error_errno(err, -errno, "shared folder %s", folder);
    else if (access(p9_proc_path(s->root).text, R_OK | X_OK))
        status = error_errno(err, -errno, "shared folder %s (by way of /proc/self/fd)", folder);
    if (status < 0) {
        p9_server_destroy(s);
        return status;
    }
    s->root_dev = st.st_dev;
    s->root_ino = st.st_ino;
    *out = s;
    return 0;
}

void p9_server_destroy(struct p9_server *s)
{
    if (!s)
        return;
    p9_server_reset(s);
    if (s->root >= 0)
        close(s->root);
    free(s);
}
