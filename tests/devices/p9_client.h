/* A 9P2000.L client for tests, with its own encoder: one call is one message and its answer. */
#ifndef DEJAVM_TESTS_DEVICES_P9_CLIENT_H
#define DEJAVM_TESTS_DEVICES_P9_CLIENT_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/buffer.h"
#include "devices/p9_server.h"

enum {
    TSTATFS = 8,
    TLOPEN = 12,
    TLCREATE = 14,
    TSYMLINK = 16,
    TMKNOD = 18,
    TRENAME = 20,
    TREADLINK = 22,
    TGETATTR = 24,
    TSETATTR = 26,
    TXATTRWALK = 30,
    TREADDIR = 40,
    TFSYNC = 50,
    TLOCK = 52,
    TGETLOCK = 54,
    TLINK = 70,
    TMKDIR = 72,
    TRENAMEAT = 74,
    TUNLINKAT = 76,
    TVERSION = 100,
    TAUTH = 102,
    TATTACH = 104,
    TFLUSH = 108,
    TWALK = 110,
    TREAD = 116,
    TWRITE = 118,
    TCLUNK = 120,
    TREMOVE = 122,
};

#define ROOT  0u /* the fid that client_create attaches */
#define NOFID UINT32_MAX

struct client {
    struct p9_server *server;
    char folder[64];  /* what is served, a new empty folder inside of ... */
    char outside[64]; /* ... this one, which holds a file "secret" too */
    size_t room;      /* for answers */
    uint8_t request[P9_MESSAGE_MAX];
    size_t request_length;
    uint8_t answer[P9_MESSAGE_MAX];
    const uint8_t *at, *end; /* what is left of the body of the answer */
};

#define SECRET "not for the guest"

/* Makes the folders, a server, and a session with the root attached. */
struct client *client_create(bool read_only);
void client_destroy(struct client *c); /* and the folders */

/* "folder/name", valid until the next call but three. */
const char *client_path(const struct client *c, const char *name);

/*
 * The message into c->request, without sending it. One letter of format an argument: b w d q for 1, 2, 4 (unsigned) and 8 bytes
 * (uint64_t), s for a string, B for a pointer and a size_t.
 */
void client_compose(struct client *c, unsigned type, const char *format, ...);
void client_compose_list(struct client *c, unsigned type, const char *format, va_list arguments);
/* Sends it. 0, or the errno of the answer; the answer is checked to be well-formed. */
int client_send(struct client *c);
/* Both. */
int call(struct client *c, unsigned type, const char *format, ...);

/* Takes the next bytes of the answer. */
uint64_t take(struct client *c, unsigned bytes);

/* The fid is the file of that path below the root ("" is the root); 0 or errno. At most 16 names. */
int walk_to(struct client *c, uint32_t fid, const char *path);

#endif
