#include "tools/status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int status_of_error(const struct error *err)
{
    switch (err->kind) {
    case ERROR_DIVERGENCE:
        return STATUS_DIVERGENCE;
    case ERROR_DAMAGED:
        return STATUS_DAMAGED;
    case ERROR_FAILURE:
        break;
    }
    return STATUS_FAILURE;
}

static void put_lines(const char *text)
{
    fputs("dejavm: ", stderr);
    for (const char *p = text; *p; p++) {
        unsigned char c = (unsigned char)*p;
        if (c == '\n')
            fputs("\ndejavm: ", stderr);
        else if ((c < 0x20 && c != '\t') || c == 0x7f)
            fprintf(stderr, "\\x%02x", c);
        else
            putc(c, stderr);
    }
    putc('\n', stderr);
}

void message(const char *format, ...)
{
    char text[ERROR_MESSAGE_BYTES + 512];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof(text), format, list);
    va_end(list);
    put_lines(text);
}

int fail(const struct error *err)
{
    put_lines(err->message[0] ? err->message : "failed, and nothing is known about the reason");
    return status_of_error(err);
}

int finish_output(int status)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return status;
    if (errno == EPIPE)
        return status; /* the reader has seen enough, as with "| head" */
    message("standard output: %s; what was printed is incomplete", errno ? strerror(errno) : "write error");
    return STATUS_FAILURE;
}
