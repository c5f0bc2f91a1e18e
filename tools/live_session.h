/* A guest that is recorded to be debugged: what `dejavm gdbserver --live` and `dejavm debug --live` have beyond a trace. */
#ifndef DEJAVM_TOOLS_LIVE_SESSION_H
#define DEJAVM_TOOLS_LIVE_SESSION_H

#include "tools/live_target.h"
#include "tools/recording.h"

struct gdb_server;

struct live_session {
    struct recording recording;
    void (*console)(void *context, unsigned channel, const uint8_t *data,
                    size_t length); /* the recording's */
    bool console_in_gdb;
    struct recorder *recorder;
    struct live_target *target;
    struct gdb_server *server; /* NULL: nobody to show anything to */
    bool detached;             /* the last client left the guest running */
    bool killed;               /* the last client asked for its end */
};

/* Looks at the options, without doing anything. Returns an exit status; STATUS_OK: go on. */
int live_options_check(const struct arguments *arguments);

/* Loads the guest; it has not run yet. */
int live_session_open(struct live_session **out, const struct arguments *arguments,
                      struct error *err) must_check;
/* Where the guest's console goes that is to appear in the debugger; NULL: nowhere any more. */
void live_session_show_in(struct live_session *s, struct gdb_server *server);

/* While no client is there: runs the guest if it was left running, until one comes (listen_fd) or stop_fd is readable. */
int live_session_wait(struct live_session *s, int listen_fd, int stop_fd, struct error *err) must_check;

/* Finishes the recording, says how it ended, and seals it. Returns an exit status. NULL: STATUS_OK. */
int live_session_close(struct live_session *s);

/* What a guest prints, in the GDB that the server serves. */
void guest_text_to_gdb(struct gdb_server *server, const uint8_t *data, size_t length);

#endif
