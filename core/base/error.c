#include "core/base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static int set(struct error *err, enum error_kind kind, int code, const char *format, va_list args)
{
    if (err) {
        err->code = code;
        err->kind = kind;
        vsnprintf(err->message, sizeof(err->message), format, args);
    }
    return code;
}

int(error_set)(struct error *err, int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    set(err, ERROR_FAILURE, code, format, args);
    va_end(args);
    return code;
}

int(error_set_kind)(struct error *err, enum error_kind kind, int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    set(err, kind, code, format, args);
    va_end(args);
    return code;
}

int(error_errno)(struct error *err, int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    set(err, ERROR_FAILURE, code, format, args);
    va_end(args);
    if (err) {
        size_t used = strlen(err->message);
        snprintf(err->message + used, sizeof(err->message) - used, ": %s", strerror(-code));
    }
    return code;
}

int error_prefix(struct error *err, const char *format, ...)
{
    if (!err)
        return -1;
    char rest[ERROR_MESSAGE_BYTES];
    memcpy(rest, err->message, sizeof(rest));
    va_list args;
    va_start(args, format);
    int n = vsnprintf(err->message, sizeof(err->message), format, args);
    va_end(args);
    size_t used = n < 0 ? 0 : (size_t)n;
    if (used >= sizeof(err->message))
        used = sizeof(err->message) - 1;
    size_t room = sizeof(err->message) - used;
    snprintf(err->message + used, room, ": %.*s", room > 3 ? (int)(room - 3) : 0, rest);
    return err->code;
}
