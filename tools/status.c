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

/*
 * In as few writes as can be: a write for each byte would fill the pipe of somebody who does not read while we work (GDB, of its
 * "target remote | ..."), since each takes the room of a packet there.
 */
static void put_lines(const char *text)
{
    char out[4096] = "dejavm: ";
    size_t used = strlen(out);
    for (const char *p = text; *p; p++) {
        unsigned char c = (unsigned char)*p;
        if (sizeof(out) - used < 16) {
            fwrite(out, 1, used, stderr);
            used = 0;
        }
        if (c == '\n')
            used += (size_t)sprintf(out + used, "\ndejavm: ");
        else if ((c < 0x20 && c != '\t') || c == 0x7f)
            used += (size_t)sprintf(out + used, "\\x%02x", c);
        else
            out[used++] = (char)c;
    }
    out[used++] = '\n';
    fwrite(out, 1, used, stderr);
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
