/* What `dejavm debug` and `dejavm gdbserver` share: a trace, opened at a place, and a GDB server for it. */
#ifndef DEJAVM_TOOLS_DEBUG_SESSION_H
#define DEJAVM_TOOLS_DEBUG_SESSION_H

#include "gdbstub/server.h"
#include "tools/command.h"
#include "tools/trace_target.h"

struct debug_session {
    struct trace_target *target;
    struct gdb_server *server;
    int wake_fd; /* an eventfd: readable after a signal */
};

/* The options of both commands that need no trace to be checked. Returns an exit status; STATUS_OK: go on. */
int debug_options_check(const struct arguments *arguments);

/*
 * Seals the trace if need be, opens it, goes to --at, looks for a Linux kernel, and reads the --symbols. From here on SIGINT, SIGTERM and SIGHUP stop the
 * server.
 */
int debug_session_open(struct debug_session *s, const struct arguments *arguments,
                       struct error *err) must_check;
void debug_session_close(struct debug_session *s);

/* Serves one client after the other until stop_fd is readable or a signal came (both: 0). */
int debug_session_serve(struct debug_session *s, int listen_fd, int stop_fd, struct error *err) must_check;

/*
 * The commands that make GDB more at home in a trace. Written by `dejavm debug`, and printed by `dejavm gdbserver
 * --print-commands` for those who start GDB themselves.
 */
extern const char debug_script[];

#endif
