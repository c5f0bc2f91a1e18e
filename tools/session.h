/* What the commands that read traces share: sealing on demand, opening, positions, progress and Ctrl-C. */
#ifndef DEJAVM_TOOLS_SESSION_H
#define DEJAVM_TOOLS_SESSION_H

#include "replay/replay.h"
#include "tools/command.h"
#include "tools/number.h"
#include "tools/progress.h"

/* Seals the trace, with a progress line. -EINTR after Ctrl-C: the trace is unsealed, and good. */
int session_seal(const char *path, struct replay_totals *totals, struct error *err) must_check;
/* The same; signals beyond the first interrupts_before (interrupt_count() some time ago) end it. */
int session_seal_after(const char *path, unsigned interrupts_before, struct replay_totals *totals,
                       struct error *err) must_check;

enum seal_outcome {
    SEAL_WAS_SEALED,
    SEAL_DONE,     /* just now */
    SEAL_NOT_DONE, /* not possible here (a warning was printed): work without */
};
/*
 * Makes sure that the trace is sealed, if that is possible. Negative only where nothing can be done with the file at all, and with
 * -EINTR. A divergence is not an error here: who replays the trace will meet it.
 */
int session_seal_on_demand(const char *path, struct replay_totals *totals, struct error *err) must_check;

struct session {
    const char *path;
    struct replay *replay;
    bool sealed;
    position_t end;    /* POSITION_UNKNOWN while unsealed and not yet looked for */
    position_t target; /* for the progress line */
    bool quiet;        /* no progress line */
    bool as_it_is;     /* do not seal on demand */
    struct progress progress;
    void (*console)(void *context, unsigned channel, const uint8_t *data, size_t length);
    void *context;
};

/* Seals on demand and opens. Set quiet, as_it_is, console and context before, or leave them 0. */
int session_open(struct session *s, const char *path, struct error *err) must_check;
void session_close(struct session *s);
/* Where the trace ends; in an unsealed trace found by replaying it once. */
int session_end(struct session *s, position_t *end, struct error *err) must_check;
/* The position that the argument means; -ERANGE with a message when it is beyond the end. */
int session_resolve(struct session *s, const struct position_argument *argument, position_t *out,
                    struct error *err) must_check;
int session_run(struct session *s, position_t position, struct error *err) must_check;
int session_seek(struct session *s, position_t position, struct error *err) must_check;

/* What DEJAVM_EMU_STAGES says: for who looks for a fault in the emulator, or compares its stages. */
int session_stages(enum emu_stages *out, struct error *err) must_check;

/* Prints err, returns the exit status; after Ctrl-C ends the process as that would. */
int session_fail(const struct error *err);

/* Parses the option's value as a position; false and a message if it is none. text NULL leaves *out alone. */
bool session_position_option(const struct arguments *arguments, const char *option,
                             struct position_argument *out);

/* The plain words for how a recording ended; status and text as in the trace. */
void trace_end_describe(enum trace_end end, uint32_t status, const char *text, char *out, size_t size);

/* Text of a trace for a terminal: control characters and bytes that are not ASCII as \xNN. */
void put_printable(FILE *out, const uint8_t *data, size_t length);

#endif
