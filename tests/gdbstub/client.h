/* The client's side of the protocol, for tests: asks one thing, gets the answer's content. */
#ifndef DEJAVM_TESTS_GDBSTUB_CLIENT_H
#define DEJAVM_TESTS_GDBSTUB_CLIENT_H

#include "tests/gdbstub/walk.h"

struct client {
    struct gdb_server *server;
    bool alive;          /* what the last feed said */
    struct buffer raw;   /* what the server sent, as it was */
    struct buffer reply; /* NUL-terminated content of the last packet, runs expanded */
    struct buffer text;  /* NUL-terminated; what the console packets before it said */
};

void client_open(struct client *c, struct walk *w);
void client_close(struct client *c);

/* Sends bytes as they are; raw is what came back, NUL-terminated. */
void client_send(struct client *c, const void *data, size_t length);
/* Sends one packet of that content, and takes the answer apart, checksums checked. Returns the last packet's content. */
const char *client_ask_bytes(struct client *c, const void *content, size_t length);
const char *client_ask(struct client *c, const char *content);

/* '$' content '#' checksum */
void client_frame(struct buffer *out, const void *content, size_t length);

#define assert_answer(c, question, answer) assert_string_equal(client_ask((c), (question)), (answer))

#endif
