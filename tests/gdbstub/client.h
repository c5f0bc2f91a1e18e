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

/* A client, and a server for it on a walk through the program below; endless: jmp to itself. */
struct fixture {
    struct client client; /* first: tests that need no more take it for a struct client */
    struct walk *walk;
};

/*
 * 0x100000: mov [0x180000], eax; 0x100007: inc dword [0x180002]; 0x10000e: mov ebx, [0x180000]; 0x100015: nop;
 * 0x100016: hlt
 */
int client_setup(void **state);
int client_setup_live(void **state);
int client_setup_live_32(void **state);
int client_setup_endless(void **state); /* live */
int client_teardown(void **state);

#define CLIENT_TEST(test, setup) cmocka_unit_test_setup_teardown(test, setup, client_teardown)

#define assert_answer(c, question, answer) assert_string_equal(client_ask((c), (question)), (answer))

#endif
