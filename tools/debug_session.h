/* What `dejavm debug` and `dejavm gdbserver` share: a trace, opened at a place, or a live guest, and a GDB server for it. */
#ifndef DEJAVM_TOOLS_DEBUG_SESSION_H
#define DEJAVM_TOOLS_DEBUG_SESSION_H

#include "gdbstub/server.h"
#include "tools/command.h"
#include "tools/live_session.h"
#include "tools/trace_target.h"

struct debug_session {
    struct live_session *live;   /* NULL: a trace that is complete */
    struct trace_target *target; /* of a live guest: its history */
    struct gdb_server *server;
    int wake_fd; /* an eventfd: readable after a signal */
};

/* timeline_interrupt.interrupted: a signal came. */
bool debug_signal_came(void *context);
/* All --symbols of the command line. */
int debug_read_symbols(struct trace_target *t, const struct arguments *arguments,
                       struct error *err) must_check;
/* The options of both commands that need no trace to be checked. Returns an exit status; STATUS_OK: go on. */
int debug_options_check(const struct arguments *arguments);

/*
 * Seals the trace if need be, opens it, goes to --at, looks for a Linux kernel, and reads the --symbols. From here on SIGINT, SIGTERM and SIGHUP stop the
 * server.
 */
int debug_session_open(struct debug_session *s, const struct arguments *arguments,
                       struct error *err) must_check;
/* A live guest's recording is finished and sealed. Returns an exit status. */
int debug_session_close(struct debug_session *s);

/*
 * Serves one client after the other until stop_fd is readable or a signal came (both: 0). With a live guest also until the recording
 * is over and nobody looks at it any more, or a client kills it; it runs on after a client that detached, and stands after one that
 * vanished.
 */
int debug_session_serve(struct debug_session *s, int listen_fd, int stop_fd, struct error *err) must_check;

/*
 * The commands that make GDB more at home in a trace. Written by `dejavm debug`, and printed by `dejavm gdbserver
 * --print-commands` for those who start GDB themselves.
 */
extern const char debug_script[];

#endif
