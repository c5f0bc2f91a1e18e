/*
 * The `monitor` commands of a trace: what GDB itself has no words for. Each handler prints to monitor.out, and returns 0 or a
 * negative errno with a message that is shown to the user. What takes long can be interrupted; what prints much is bounded.
 */
#ifndef DEJAVM_TOOLS_MONITOR_H
#define DEJAVM_TOOLS_MONITOR_H

#include "core/base/buffer.h"
#include "tools/trace_target.h"

#include <stdio.h>

/* gdbstub's monitor operation. */
int monitor_run(struct trace_target *t, const char *command, struct buffer *out, bool *moved,
                struct timeline_interrupt interrupt, struct error *err) must_check;

/* ---- for the commands ---- */

#define MONITOR_WORDS_MAX  8
#define MONITOR_WORD_BYTES 1024

/* What stands behind the command's name, split at spaces; "..." keeps them, with \" \\ \n in it. */
struct monitor_words {
    size_t count;
    char word[MONITOR_WORDS_MAX][MONITOR_WORD_BYTES];
};

struct monitor {
    struct trace_target *target;
    FILE *out;
    struct timeline_interrupt interrupt;
    bool moved;
};

struct monitor_command {
    const char *name; /* NULL ends a list */
    const char *arguments;
    const char *text;
    int (*run)(struct monitor *m, const struct monitor_words *words, struct error *err);
};

extern const struct monitor_command monitor_position_commands[], monitor_event_commands[],
    monitor_memory_commands[], monitor_catch_commands[], monitor_linux_commands[];

bool monitor_interrupted(const struct monitor *m);
/* The error of a command that was interrupted. */
int monitor_was_interrupted(const struct monitor *m, struct error *err);
/* -EINVAL, "usage: NAME ARGUMENTS" */
int monitor_usage(const struct monitor_command *command, struct error *err);

int monitor_goto(struct monitor *m, position_t position, struct error *err) must_check;
/* Where the target stands, one or two lines. */
void monitor_print_here(struct monitor *m);
/* Text of the guest: line feeds and tabs as they are, other control characters as \xNN. */
void put_guest_text(FILE *out, const uint8_t *data, size_t length);

/* A number, a register (rsp, $rsp), a symbol, or one of the latter two +N or -N. */
int monitor_address(const struct monitor *m, const char *text, uint64_t *out, struct error *err) must_check;
/* A number from 1 to max. */
int monitor_length(const char *text, uint64_t max, uint64_t *out, struct error *err) must_check;

/* "goto console TEXT [WHICH]"; words behind "console". */
int monitor_goto_console(struct monitor *m, const char *text, const char *which,
                         struct error *err) must_check;

#endif
