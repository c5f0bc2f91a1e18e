#include "tools/live_session.h"
#include "gdbstub/server.h"
#include "tools/interrupt.h"
#include "tools/monitor.h"
#include "tools/session.h"
#include "tools/status.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Standard input and output are the guest's, not the debugger's. */
static bool owns_output(const struct arguments *arguments)
{
    return strcmp(arguments->command->name, "debug") != 0 && !argument_flag(arguments, "stdio");
}

int live_options_check(const struct arguments *arguments)
{
    struct recording r;
    const char *serial = argument_value(arguments, "serial", "");
    if (argument_value(arguments, "at", NULL))
        return usage_error(arguments->command, "--at: a live guest stands at its start");
    if (!arguments->operand[0])
        return usage_error(arguments->command, "GUEST is missing");
    if (!owns_output(arguments) && strcmp(serial, "stdio") == 0)
        return usage_error(arguments->command,
                           "--serial stdio: standard output is in use by the debugger; name a file");
    int status = recording_parse(&r, arguments, "null");
    if (status == STATUS_OK && !recording_path_is_free(&r))
        status = STATUS_FAILURE;
    recording_free(&r);
    return status;
}

void guest_text_to_gdb(struct gdb_server *server, const uint8_t *data, size_t length)
{
    char *text = NULL;
    size_t text_length = 0;
    FILE *out = open_memstream(&text, &text_length);
    if (!out)
        return;
    put_guest_text(out, data, length);
    if (fclose(out) == 0)
        gdb_server_console(server, text, text_length);
    free(text);
}

static void console(void *context, unsigned channel, const uint8_t *data, size_t length)
{
    struct live_session *s = context;
    if (!s->console_in_gdb)
        s->console(&s->recording, channel, data, length);
    else if (s->server)
        guest_text_to_gdb(s->server, data, length);
}

static void ended(void *context)
{
    struct live_session *s = context;
    char end[640], text[1024];
    const struct record_result *r = &s->target->result;
    trace_end_describe(r->end, r->status, r->message, end, sizeof(end));
    int n = snprintf(text, sizeof(text), "The guest ended: %s, at %s\n", end, r->last_rip);
    if (s->server)
        gdb_server_console(s->server, text, n > 0 ? strlen(text) : 0);
}

void live_session_show_in(struct live_session *s, struct gdb_server *server)
{
    s->server = server;
}

/* Without --serial a debugger that has the terminal shows what the guest prints, and nothing is typed for the guest. */
static int connect_console(struct live_session *s, const struct arguments *arguments, struct error *err)
{
    s->console_in_gdb = !owns_output(arguments) && !argument_value(arguments, "serial", NULL);
    int code = recording_connect(&s->recording, err);
    for (size_t i = 0; code == 0 && !owns_output(arguments) && i < CONSOLE_CHANNELS; i++)
        if (s->recording.console.fd[i] == STDOUT_FILENO)
            s->recording.console.fd[i] = -1;
    return code;
}

int live_session_open(struct live_session **out, const struct arguments *arguments, struct error *err)
{
    struct live_session *s = calloc(1, sizeof(*s));
    *out = NULL;
    if (!s)
        return error_set(err, -ENOMEM, "out of memory");
    if (recording_parse(&s->recording, arguments, owns_output(arguments) ? "stdio" : "null") != STATUS_OK) {
        free(s);
        return error_set(err, -EINVAL, "the options were good a moment ago");
    }
    struct record_options *o = &s->recording.options;
    s->console = o->console;
    o->console = console;
    o->progress = NULL;
    o->context = s;
    o->debugged = true;
    int code = connect_console(s, arguments, err);
    if (code == 0)
        code = recorder_create(&s->recorder, o, err);
    if (code == 0)
        code = live_target_open(&s->target, s->recorder, o->trace_path, 0, err);
    if (code) {
        recording_disconnect(&s->recording);
        recorder_destroy(s->recorder);
        recording_free(&s->recording);
        free(s);
        return code;
    }
    s->target->ended = ended;
    s->target->context = s;
    *out = s;
    return 0;
}

static bool somebody_waits(void *context)
{
    struct pollfd *fds = context;
    return poll(fds, 2, 0) > 0;
}

int live_session_wait(struct live_session *s, int listen_fd, int stop_fd, struct error *err)
{
    struct pollfd fds[2] = {{.fd = listen_fd, .events = POLLIN}, {.fd = stop_fd, .events = POLLIN}};
    if (!s->detached || s->target->over)
        return 0;
    return live_target_run_on(s->target, somebody_waits, fds, err);
}

int live_session_close(struct live_session *s)
{
    if (!s)
        return STATUS_OK;
    int status;
    live_target_finish(s->target);
    s->recording.interrupts = interrupt_count();
    recording_disconnect(&s->recording);
    if (s->target->failed) {
        status = fail(&s->target->error);
        message("%s holds what was recorded up to there", s->recording.options.trace_path);
    } else {
        struct record_result result = s->target->result;
        live_target_close(s->target); /* its memory is of use to the sealing */
        s->target = NULL;
        status = recording_report(&s->recording, &result);
    }
    live_target_close(s->target);
    recorder_destroy(s->recorder);
    recording_free(&s->recording);
    free(s);
    return status;
}
