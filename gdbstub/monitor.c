/* qRcmd: `monitor COMMAND`, which the target obeys, but for one command that is the server's own. */
#include <errno.h>
#include <string.h>

#include "gdbstub/internal.h"

static const char help_text[] =
    "description [auto|i386:x86-64|i386|i8086]\n"
    "    the machine that GDB is told of when it connects next; auto: by the vCPU's mode then\n";

static int set_description(struct gdb_server *s, const char *name, struct buffer *out, struct error *err)
{
    for (size_t i = 0; name[0] && i < GDB_DESCRIPTION_COUNT; i++) {
        if (strcmp(name, description_names[i]) != 0)
            continue;
        s->wanted_description = (enum gdb_description)i;
        put_text(out, "From the next connection on; disconnect, and connect again.\n");
        return 0;
    }
    if (name[0])
        return error_set(err, -EINVAL, "description is auto, i386:x86-64, i386 or i8086, not \"%.40s\"",
                         name);
    put_text(out, "now: ");
    put_text(out, description_names[s->described]);
    put_text(out, "; next: ");
    put_text(out, description_names[s->wanted_description]);
    put_text(out, "\n");
    return 0;
}

/*
 * On Ctrl-C during a monitor command GDB forgets the command, and says nothing: the next packet shows it. Anything that we
 * still said about the command would be taken for the answer to that packet.
 */
static bool given_up(void *context)
{
    struct gdb_server *s = context;
    if (server_interrupted(s))
        return true;
    s->silent = s->source == GDB_FROM_FD && input_packet_begun(&s->in);
    return s->silent;
}

static int obey(struct gdb_server *s, const char *command, struct buffer *out, struct error *err)
{
    static const char own[] = "description";
    size_t length = sizeof(own) - 1;
    if (strncmp(command, own, length) == 0 && (command[length] == ' ' || command[length] == '\0'))
        return set_description(s, command + length + strspn(command + length, " "), out, err);
    bool moved = false;
    int r = s->target->ops->monitor(s->target, command, out, &moved, given_up, s, err);
    if (moved)
        s->stop = (struct debug_stop){.reason = DEBUG_STOP_NONE};
    if (r >= 0 && strcmp(command, "help") == 0)
        put_text(out, help_text);
    return r;
}

/*
 * The output goes out in console packets, however long it is. GDB 13 shows no text with an error, so a message is
 * output too.
 */
void monitor_command(struct gdb_server *s, struct text *t)
{
    char command[GDB_PACKET_BYTES / 2 + 1];
    size_t length = text_left(t) / 2;
    if (text_left(t) % 2 || !text_bytes(t, (uint8_t *)command, length) || memchr(command, '\0', length)) {
        reply_error(s, -EINVAL);
        return;
    }
    command[length] = '\0';
    struct buffer out = {0};
    struct error err = {0};
    s->running = true;
    int r = obey(s, command, &out, &err);
    if (!out.failed && !s->silent)
        output_console(s, out.data, out.length);
    if (r < 0 && !s->silent) {
        output_console(s, err.message, strlen(err.message));
        output_console(s, "\n", 1);
    }
    s->running = false;
    if (out.failed)
        reply_error(s, -ENOMEM);
    else
        reply_ok(s);
    buffer_free(&out);
}
