#include "tests/devices/p9_fuzz.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* xorshift64* */
uint64_t fuzz_random(uint64_t *seed)
{
    *seed ^= *seed >> 12;
    *seed ^= *seed << 25;
    *seed ^= *seed >> 27;
    return *seed * 0x2545f4914f6cdd1du;
}

static unsigned below(uint64_t *seed, unsigned limit)
{
    return (unsigned)(fuzz_random(seed) >> 33) % limit;
}

static unsigned fid(uint64_t *seed)
{
    return below(seed, 200) ? 1 + below(seed, 7) : (unsigned)fuzz_random(seed);
}

/* Of a folder, more often than not. */
static unsigned folder(uint64_t *seed)
{
    return below(seed, 2) ? ROOT : fid(seed);
}

/* Mostly one of a few, so that they are there when they are asked for. */
static const char *name(uint64_t *seed)
{
    static char longest[300];
    static const char *const odd[] = {"..",          ".",       "",         "a/b",   "../secret",
                                      "/etc/passwd", "a/../..", "\xff\xfe", "secret"};
    static const char *const usual[] = {"a", "b", "c", "d", "e"};
    if (below(seed, 12))
        return usual[below(seed, ARRAY_LEN(usual))];
    if (below(seed, 6))
        return odd[below(seed, ARRAY_LEN(odd))];
    memset(longest, 'n', sizeof(longest));
    longest[250 + below(seed, 10)] = 0;
    return longest;
}

static const char *link_target(const struct client *c, uint64_t *seed)
{
    static const char *const targets[] = {"..", "../secret", "a", "../share/b", "."};
    return below(seed, 4) ? targets[below(seed, ARRAY_LEN(targets))] : client_path(c, "../secret");
}

static uint64_t number(uint64_t *seed)
{
    static const uint64_t edges[] = {0, 1, 4096, INT64_MAX, UINT64_MAX, (uint64_t)1 << 40};
    return below(seed, 4) ? below(seed, 5000) : edges[below(seed, ARRAY_LEN(edges))];
}

static unsigned flags(uint64_t *seed)
{
    static const unsigned bits[] = {O_WRONLY, O_RDWR,      O_CREAT,    O_EXCL, O_TRUNC,
                                    O_APPEND, O_DIRECTORY, O_NOFOLLOW, O_PATH, O_TMPFILE};
    unsigned value = below(seed, 3);
    while (below(seed, 3) == 0)
        value |= bits[below(seed, ARRAY_LEN(bits))];
    return value;
}

static unsigned mode(uint64_t *seed)
{
    static const unsigned kinds[] = {S_IFREG, S_IFREG, S_IFREG, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK, 0};
    return kinds[below(seed, ARRAY_LEN(kinds))] | 0600 | below(seed, 010000);
}

static void compose_walk(struct client *c, uint64_t *seed)
{
    struct buffer names = {0};
    unsigned count = below(seed, 20) ? below(seed, 3) : below(seed, 20);
    for (unsigned i = 0; i < count; i++) {
        const char *text = name(seed);
        buffer_put_u16(&names, (uint16_t)strlen(text));
        buffer_put(&names, text, strlen(text));
    }
    client_compose(c, TWALK, "ddwB", below(seed, 3) ? ROOT : fid(seed), fid(seed), count,
                   (const void *)names.data, names.length);
    buffer_free(&names);
}

static void compose_write(struct client *c, uint64_t *seed)
{
    uint8_t data[600];
    unsigned count = below(seed, sizeof(data));
    memset(data, (int)count, sizeof(data));
    client_compose(c, TWRITE, "dqdB", fid(seed), number(seed), count, (const void *)data, (size_t)count);
}

static void compose_any(struct client *c, uint64_t *seed)
{
    switch (below(seed, 29)) {
    case 0:
        client_compose(c, TSTATFS, "d", fid(seed));
        break;
    case 1:
    case 2:
        client_compose(c, TLOPEN, "dd", fid(seed), flags(seed));
        break;
    case 3:
    case 4:
        client_compose(c, TLCREATE, "dsddd", fid(seed), name(seed), flags(seed), mode(seed), 0u);
        break;
    case 5:
        client_compose(c, TSYMLINK, "dssd", folder(seed), name(seed), link_target(c, seed), 0u);
        break;
    case 6:
        client_compose(c, TMKNOD, "dsdddd", folder(seed), name(seed), mode(seed), 1u, 3u, 0u);
        break;
    case 7:
        client_compose(c, TREADLINK, "d", fid(seed));
        break;
    case 8:
        client_compose(c, TGETATTR, "dq", fid(seed), number(seed));
        break;
    case 9:
        client_compose(c, TSETATTR, "dddddqqqqq", fid(seed), below(seed, 0x200), mode(seed),
                       (unsigned)getuid(), (unsigned)getgid(), number(seed), number(seed), number(seed),
                       number(seed), number(seed));
        break;
    case 10:
        client_compose(c, TREADDIR, "dqd", fid(seed), below(seed, 3) ? 0 : number(seed),
                       (unsigned)number(seed));
        break;
    case 11:
        client_compose(c, TFSYNC, "dd", fid(seed), below(seed, 2));
        break;
    case 12:
        client_compose(c, TGETLOCK, "dbqqds", fid(seed), 1u, number(seed), number(seed), 7u, name(seed));
        break;
    case 13:
        client_compose(c, TLINK, "dds", folder(seed), fid(seed), name(seed));
        break;
    case 14:
    case 15:
        client_compose(c, TMKDIR, "dsdd", folder(seed), name(seed), mode(seed), 0u);
        break;
    case 16:
        client_compose(c, TRENAMEAT, "dsds", folder(seed), name(seed), folder(seed), name(seed));
        break;
    case 17:
        client_compose(c, TUNLINKAT, "dsd", folder(seed), name(seed),
                       below(seed, 3) ? 0u : (unsigned)AT_REMOVEDIR);
        break;
    case 18:
        client_compose(c, TREAD, "dqd", fid(seed), number(seed), (unsigned)number(seed));
        break;
    case 19:
        compose_write(c, seed);
        break;
    case 20:
    case 21:
    case 22:
    case 23:
        client_compose(c, below(seed, 20) ? TCLUNK : TREMOVE, "d", fid(seed));
        break;
    default:
        compose_walk(c, seed);
    }
}

/* Makes it wrong in one place. */
static void damage(struct client *c, uint64_t *seed)
{
    switch (below(seed, 4)) {
    case 0:
        c->request[below(seed, (unsigned)c->request_length)] ^= (uint8_t)(1u << below(seed, 8));
        break;
    case 1:
        c->request[below(seed, (unsigned)c->request_length)] = (uint8_t)fuzz_random(seed);
        break;
    case 2:
        c->request_length = below(seed, (unsigned)c->request_length + 1);
        break;
    default: /* cut, and says so */
        c->request_length = 7 + below(seed, (unsigned)c->request_length - 6);
        c->request[0] = (uint8_t)c->request_length;
        c->request[1] = (uint8_t)(c->request_length >> 8);
    }
}

void p9_fuzz_compose(struct client *c, uint64_t *seed)
{
    unsigned rare = below(seed, 1500);
    if (rare == 0)
        client_compose(c, TVERSION, "ds", below(seed, 2) ? 65536u : (unsigned)fuzz_random(seed), "9P2000.L");
    else if (rare < 10)
        client_compose(c, TATTACH, "ddssd", fid(seed), NOFID, "u", "", 0u);
    else
        compose_any(c, seed);
    if (below(seed, 10) == 0)
        damage(c, seed);
    c->room = below(seed, 20) ? sizeof(c->answer) : P9_ANSWER_MIN + below(seed, 300);
}

void p9_fuzz_host(struct client *c, uint64_t *seed)
{
    static const char *const names[] = {"a", "b", "c"};
    const char *path = client_path(c, names[below(seed, 3)]), *other = client_path(c, names[below(seed, 3)]);
    switch (below(seed, 4)) {
    case 0: /* a file or folder becomes a way out */
        (void)rename(path, client_path(c, "d"));
        (void)!symlink("..", path);
        break;
    case 1:
        (void)unlink(path);
        (void)!mkfifo(path, 0600);
        break;
    case 2:
        (void)rename(path, other);
        break;
    default:
        (void)unlink(path);
        (void)!symlink("../secret", path);
    }
}
