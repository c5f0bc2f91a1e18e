/*
 * A GDB remote serial protocol server for one debug target (GDB manual, appendix E). One client at a time, and
 * another after it has left. A client that sends garbage, floods, or goes away in the middle of a packet is dropped; the server
 * and the target live on.
 */
#ifndef DEJAVM_GDBSTUB_SERVER_H
#define DEJAVM_GDBSTUB_SERVER_H

#include "gdbstub/target.h"

struct gdb_server;

/* What the client asked for when it left. */
enum gdb_end { GDB_END_DETACHED, GDB_END_KILLED, GDB_END_DISCONNECTED, GDB_END_STOPPED };

/*
 * GDB takes the machine's architecture from the server once, when it connects, and refuses to work when it is not that of
 * the program's ELF file. I8086 has the registers of I386 and disassembles as 16-bit code; GDB's `set architecture i386` changes
 * that, while nothing leads from I386 to I8086. AUTO: by the mode of the vCPU as the client connects.
 */
enum gdb_description {
    GDB_DESCRIPTION_AUTO,
    GDB_DESCRIPTION_X86_64,
    GDB_DESCRIPTION_I386,
    GDB_DESCRIPTION_I8086,
};

/* The target must outlive the server. */
int gdb_server_create(struct gdb_server **out, struct debug_target *target, struct error *err) must_check;
void gdb_server_destroy(struct gdb_server *s); /* NULL is fine */

/* For the clients that connect from now on. */
void gdb_server_describe(struct gdb_server *s, enum gdb_description description);

/*
 * How long a client may take to accept what is sent to it, and to complete a packet that it began (its first one: to
 * begin). 10 s both, unless told otherwise.
 */
void gdb_server_set_timeouts(struct gdb_server *s, unsigned write_ms, unsigned packet_ms);

/* Text that the client shows to its user at once. While the target neither runs nor obeys a monitor command it is dropped. */
void gdb_server_console(struct gdb_server *s, const void *text, size_t length);

/*
 * Serves one client on descriptors (both may be the same socket) until it leaves. Negative: a failure of ours, with a message;
 * what the client does wrong is never one.
 */
int gdb_server_serve(struct gdb_server *s, int in_fd, int out_fd, enum gdb_end *end,
                     struct error *err) must_check;

/* Ends gdb_server_serve soon with GDB_END_STOPPED, and every later one at once. Async-signal-safe. */
void gdb_server_stop(struct gdb_server *s);

/*
 * A listening socket. address: "HOST:PORT" (HOST empty = 127.0.0.1; PORT 0 = any free one), or "unix:PATH". The address as a
 * client needs it ("127.0.0.1:1234") is stored in name.
 */
int gdb_listen(const char *address, char *name, size_t name_size, struct error *err) must_check;
/* Waits for a client; stop_fd: readable = give up (-EINTR). Returns its socket. */
int gdb_accept(int listen_fd, int stop_fd, struct error *err) must_check;

/*
 * Takes bytes as a client would send them and appends what the server answers: the whole protocol without
 * descriptors, for tests and fuzzers. Returns false when the client would be dropped or has left.
 */
bool gdb_server_feed(struct gdb_server *s, const uint8_t *data, size_t length, struct buffer *out);

#endif
