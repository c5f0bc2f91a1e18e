/*
 * Errors: a function that can fail returns 0 (or a pointer, or a count) when it succeeds and a negative
 * errno value (or NULL) when it does not, and leaves a message in the struct error it was given.
 * Only tools/ prints messages and exits.
 */
#ifndef DEJAVM_CORE_BASE_ERROR_H
#define DEJAVM_CORE_BASE_ERROR_H

#include "core/base/types.h"

/* What kind of failure, for the caller's exit status. */
enum error_kind {
    ERROR_FAILURE = 0, /* anything that is neither of the two below */
    ERROR_DIVERGENCE,  /* a replay did something else than its recording */
    ERROR_DAMAGED,     /* a trace file is not what its format says */
};

#define ERROR_MESSAGE_BYTES 4096

struct error {
    int code; /* negative errno, 0 = none */
    enum error_kind kind;
    char message[ERROR_MESSAGE_BYTES]; /* one line or several, no newline at its end */
};

/* Stores the message and returns code (negative errno). err may be NULL. Never fails. */
int error_set(struct error *err, int code, const char *format, ...) format_printf(3, 4);

/* As error_set, with a kind. */
int error_set_kind(struct error *err, enum error_kind kind, int code, const char *format, ...)
    format_printf(4, 5);

/* Like error_set, and appends ": " and the text of -code, e.g. "open x.dvm: No such file or directory". */
int error_errno(struct error *err, int code, const char *format, ...) format_printf(3, 4);

/* Puts "text: " in front of an existing message; keeps code and kind, returns the code. */
int error_prefix(struct error *err, const char *format, ...) format_printf(2, 3);

/*
 * So that a compiler sees, without looking into error.c, that the code that went in comes out: else it warns of paths that
 * cannot be taken.
 */
#define error_set(err, code, ...)                                                                            \
    __extension__({                                                                                          \
        int error_set_code = (code);                                                                         \
        (void)(error_set)((err), error_set_code, __VA_ARGS__);                                               \
        error_set_code;                                                                                      \
    })
#define error_errno(err, code, ...)                                                                          \
    __extension__({                                                                                          \
        int error_errno_code = (code);                                                                       \
        (void)(error_errno)((err), error_errno_code, __VA_ARGS__);                                           \
        error_errno_code;                                                                                    \
    })
#define error_set_kind(err, kind, code, ...)                                                                 \
    __extension__({                                                                                          \
        int error_set_kind_code = (code);                                                                    \
        (void)(error_set_kind)((err), (kind), error_set_kind_code, __VA_ARGS__);                             \
        error_set_kind_code;                                                                                 \
    })

#endif
