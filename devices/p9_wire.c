#include "devices/p9_internal.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>

/* Types of a qid: intro(5) and Linux's P9_QT */
#define QID_DIRECTORY 0x80u
#define QID_SYMLINK   0x02u
#define QID_FILE      0x00u

const uint8_t *p9_get_bytes(struct p9_reader *r, size_t count)
{
    if (r->failed || count > (size_t)(r->end - r->at)) {
        r->failed = true;
        return NULL;
    }
    const uint8_t *bytes = r->at;
    r->at += count;
    return bytes;
}

uint64_t p9_get(struct p9_reader *r, unsigned bytes)
{
    const uint8_t *from = p9_get_bytes(r, bytes);
    uint64_t value = 0;
    for (unsigned i = 0; from && i < bytes; i++)
        value |= (uint64_t)from[i] << (8 * i);
    return value;
}

int p9_get_path(struct p9_reader *r, char out[PATH_MAX])
{
    size_t length = p9_get(r, 2);
    const uint8_t *bytes = p9_get_bytes(r, length);
    out[0] = 0;
    if (!bytes)
        return -EPROTO;
    if (length == 0)
        return -ENOENT;
    if (length >= PATH_MAX)
        return -ENAMETOOLONG;
    if (memchr(bytes, 0, length))
        return -EINVAL;
    memcpy(out, bytes, length);
    out[length] = 0;
    return 0;
}

int p9_get_name(struct p9_reader *r, char out[NAME_MAX + 1])
{
    char text[PATH_MAX];
    int status = p9_get_path(r, text);
    out[0] = 0;
    if (status < 0)
        return status;
    if (strlen(text) > NAME_MAX)
        return -ENAMETOOLONG;
    if (strchr(text, '/') || strcmp(text, ".") == 0 || strcmp(text, "..") == 0)
        return -EINVAL;
    strcpy(out, text);
    return 0;
}

size_t p9_room(const struct p9_writer *w)
{
    return (size_t)(w->end - w->at);
}

void p9_put(struct p9_writer *w, unsigned bytes, uint64_t value)
{
    if (p9_room(w) < bytes) {
        w->failed = true;
        return;
    }
    for (unsigned i = 0; i < bytes; i++)
        *w->at++ = (uint8_t)(value >> (8 * i));
}

void p9_put_string(struct p9_writer *w, const char *text, size_t length)
{
    if (length > UINT16_MAX)
        length = UINT16_MAX;
    p9_put(w, 2, length);
    if (p9_room(w) < length) {
        w->failed = true;
        return;
    }
    memcpy(w->at, text, length);
    w->at += length;
}

/* The client takes this for the inode number: the same on the folder's own file system, apart on others below it. */
static uint64_t qid_path(const struct p9_server *s, dev_t dev, ino_t ino)
{
    return dev == s->root_dev ? ino : ino ^ ((uint64_t)dev * 0x9e3779b97f4a7c15u);
}

static void put_qid(struct p9_writer *w, unsigned type, uint32_t version, uint64_t path)
{
    p9_put(w, 1, type);
    p9_put(w, 4, version);
    p9_put(w, 8, path);
}

void p9_put_qid(const struct p9_server *s, struct p9_writer *w, const struct stat *st)
{
    unsigned type = S_ISDIR(st->st_mode) ? QID_DIRECTORY : S_ISLNK(st->st_mode) ? QID_SYMLINK : QID_FILE;
    uint32_t version =
        (uint32_t)st->st_mtim.tv_sec * 1000003u ^ (uint32_t)st->st_mtim.tv_nsec ^ (uint32_t)st->st_size << 8;
    put_qid(w, type, version, qid_path(s, st->st_dev, st->st_ino));
}

void p9_put_entry_qid(const struct p9_server *s, struct p9_writer *w, dev_t dev, ino_t ino,
                      unsigned char d_type)
{
    unsigned type = d_type == DT_DIR ? QID_DIRECTORY : d_type == DT_LNK ? QID_SYMLINK : QID_FILE;
    put_qid(w, type, 0, qid_path(s, dev, ino));
}
