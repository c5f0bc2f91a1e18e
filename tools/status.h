/* Exit statuses of the program, and messages on stderr. */
#ifndef DEJAVM_TOOLS_STATUS_H
#define DEJAVM_TOOLS_STATUS_H

#include "core/base/error.h"

enum exit_status {
    STATUS_OK = 0,
    STATUS_FAILURE = 1,
    STATUS_USAGE = 2,
    STATUS_DIVERGENCE = 3,
    STATUS_DAMAGED = 4,
};

int status_of_error(const struct error *err);

/*
 * One message on stderr, each of its lines with "dejavm: " in front. Control characters (they may come from a trace) are
 * shown as \xNN.
 */
void message(const char *format, ...) format_printf(1, 2);

/* The message of err; returns its exit status. */
int fail(const struct error *err);

/*
 * Ends a command that wrote to stdout: flushes it. status if all of it was taken, or nobody reads any more;
 * STATUS_FAILURE and a message when writing failed.
 */
int finish_output(int status);

#endif
