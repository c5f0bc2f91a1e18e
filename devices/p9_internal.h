/*
 * The file server's own. Private to its files.
 *
 *   p9_wire.c      integers and strings of messages
 *   p9_server.c    dispatch; version, attach, walk, clunk: what a fid stands for
 *   p9_open.c      open files: create, read, write, directories
 *   p9_tree.c      attributes, names, links
 */
#ifndef DEJAVM_DEVICES_P9_INTERNAL_H
#define DEJAVM_DEVICES_P9_INTERNAL_H

#include <limits.h>
#include <sys/stat.h>

#include "devices/p9_server.h"

/* Requests; an answer has the type of its request + 1 */
enum p9_type {
    P9_RLERROR = 7,
    P9_TSTATFS = 8,
    P9_TLOPEN = 12,
    P9_TLCREATE = 14,
    P9_TSYMLINK = 16,
    P9_TMKNOD = 18,
    P9_TREADLINK = 22,
    P9_TGETATTR = 24,
    P9_TSETATTR = 26,
    P9_TREADDIR = 40,
    P9_TFSYNC = 50,
    P9_TLOCK = 52,
    P9_TGETLOCK = 54,
    P9_TLINK = 70,
    P9_TMKDIR = 72,
    P9_TRENAMEAT = 74,
    P9_TUNLINKAT = 76,
    P9_TVERSION = 100,
    P9_TATTACH = 104,
    P9_TFLUSH = 108,
    P9_TWALK = 110,
    P9_TREAD = 116,
    P9_TWRITE = 118,
    P9_TCLUNK = 120,
    P9_TREMOVE = 122,
};

#define P9_HEADER_BYTES 7u /* size[4] type[1] tag[2] */
#define P9_QID_BYTES    13u

#define P9_FID_BUCKETS 1024u

/* What the client named by a number: a file, or once it is opened, an open file. */
struct p9_fid {
    uint32_t number;
    int fd;    /* O_PATH until it is opened */
    bool open; /* then access and type cannot change */
    int access;
    struct p9_fid *next;
};

struct p9_server {
    int root; /* O_PATH */
    dev_t root_dev;
    ino_t root_ino;
    bool read_only;
    uint32_t msize; /* 0: no version was agreed on yet */
    unsigned fid_count;
    struct p9_fid *fid[P9_FID_BUCKETS];
};

/* ---- p9_wire.c ---- */

/* What is left of a request. Reading beyond its end gives zeros, from then on, and is remembered. */
struct p9_reader {
    const uint8_t *at, *end;
    bool failed;
};

uint64_t p9_get(struct p9_reader *r, unsigned bytes); /* 1 to 8, little-endian */
/*
 * A string of at most PATH_MAX - 1 bytes. -EPROTO, -ENAMETOOLONG, -EINVAL (it has a NUL), -ENOENT (it is empty).
 */
int p9_get_path(struct p9_reader *r, char out[PATH_MAX]) must_check;
/* A name in a folder: moreover without '/', at most NAME_MAX bytes; "." and ".." are -EINVAL. */
int p9_get_name(struct p9_reader *r, char out[NAME_MAX + 1]) must_check;
/* The count bytes that come next; NULL when there are fewer. */
const uint8_t *p9_get_bytes(struct p9_reader *r, size_t count);

/* The answer. Writing beyond its end writes nothing, and is remembered. */
struct p9_writer {
    uint8_t *start, *at, *end;
    bool failed;
};

void p9_put(struct p9_writer *w, unsigned bytes, uint64_t value);
void p9_put_string(struct p9_writer *w, const char *text, size_t length); /* length is cut to 65535 */
void p9_put_qid(const struct p9_server *s, struct p9_writer *w, const struct stat *st);
/* A qid where no more than this is known. */
void p9_put_entry_qid(const struct p9_server *s, struct p9_writer *w, dev_t dev, ino_t ino,
                      unsigned char d_type);
size_t p9_room(const struct p9_writer *w);

/* ---- p9_server.c ---- */

struct p9_fid *p9_fid_find(struct p9_server *s, uint32_t number); /* NULL: there is none */
/* The fid whose number comes next in the request. -EBADF. */
int p9_get_fid(struct p9_server *s, struct p9_reader *in, struct p9_fid **out) must_check;

/* A descriptor's name in /proc, for the calls that take names only; it leads to that very file, link or not. */
struct p9_proc_path {
    char text[32];
};
struct p9_proc_path p9_proc_path(int fd);

/* Answers to requests: 0, or a negative errno, whatever is in out then. */
typedef int (*p9_handler)(struct p9_server *s, struct p9_reader *in, struct p9_writer *out);

/* ---- p9_open.c ---- */
int p9_lopen(struct p9_server *s, struct p9_reader *in, struct p9_writer *out);
int p9_lcreate(struct p9_server *s, struct p9_reader *in, struct p9_writer *out);
int p9_read(struct p9_server *s, struct p9_reader *in, struct p9_writer *out);
int p9_write(struct p9_server *s, struct p9_reader *in, struct p9_writer *out);
int p9_readdir(struct p9_server *s, struct p9_reader *in, struct p9_writer *out);
int p9_fsync(struct p9_server *s, struct p9_reader *in, struct p9_writer *out);
int p9_lock(struct p9_server *s, struct p9_reader *in, struct p9_writer *out);
int p9_getlock(struct p9_server *s, struct p9_reader *in, struct p9_writer *out);

/* ---- p9_tree.c ---- */
int p9_statfs(struct p9_server *s, struct p9_reader *in, struct p9_writer *out);
int p9_getattr(struct p9_server *s, struct p9_reader *in, struct p9_writer *out);
int p9_setattr(struct p9_server *s, struct p9_reader *in, struct p9_writer *out);
int p9_readlink(struct p9_server *s, struct p9_reader *in, struct p9_writer *out);
int p9_symlink(struct p9_server *s, struct p9_reader *in, struct p9_writer *out);
int p9_mknod(struct p9_server *s, struct p9_reader *in, struct p9_writer *out);
int p9_mkdir(struct p9_server *s, struct p9_reader *in, struct p9_writer *out);
int p9_link(struct p9_server *s, struct p9_reader *in, struct p9_writer *out);
int p9_renameat(struct p9_server *s, struct p9_reader *in, struct p9_writer *out);
int p9_unlinkat(struct p9_server *s, struct p9_reader *in, struct p9_writer *out);

#endif
