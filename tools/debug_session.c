#include "tools/debug_session.h"
#include "tools/interrupt.h"
#include "tools/monitor.h"
#include "tools/session.h"
#include "tools/status.h"
#include "tools/trace_linux.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

int debug_options_check(const struct arguments *arguments)
{
    uint64_t budget;
    const char *at = argument_value(arguments, "at", NULL);
    const char *memory = argument_value(arguments, "memory", NULL);
    if (argument_flag(arguments, "live"))
        return live_options_check(arguments);
    const char *recording = recording_option_given(arguments);
    if (recording)
        return usage_error(arguments->command, "--%s is for recording: it needs --live GUEST", recording);
    if (at && (*at == '+' || *at == '-' || !trace_position_well_formed(at)))
        return usage_error(arguments->command,
                           "--at: '%.100s' is not a position (a number, \"start\", \"end\", \"crash\", a "
                           "percentage, or \"event N\")",
                           at);
    if (memory && (!size_parse(memory, &budget) || budget == 0))
        return usage_error(arguments->command, "--memory: '%.100s' is not a size, such as 512M", memory);
    return STATUS_OK;
}

bool debug_signal_came(void *context)
{
    (void)context;
    return interrupt_count() > 0;
}

static void show_console(void *context, const uint8_t *data, size_t length)
{
    guest_text_to_gdb(context, data, length);
}

int debug_read_symbols(struct trace_target *t, const struct arguments *arguments, struct error *err)
{
    int code = 0;
    for (size_t i = 0; code == 0 && i < arguments->option_count; i++)
        if (strcmp(arguments->option[i].spec->name, "symbols") == 0)
            code = trace_target_add_symbols(t, arguments->option[i].value, err);
    return code;
}

/* Of a guest that is no Linux, or that is one which cannot be read, everything else works. */
static int find_linux(struct trace_target *t, struct error *err)
{
    const struct timeline_interrupt interrupt = {debug_signal_came, NULL};
    struct error why = {0};
    int code = trace_linux_find(t, &interrupt, &why);
    if (code == -ENOTSUP)
        message("Linux guest: %s", why.message);
    if (code == 0 || code == -ENOENT || code == -ENOTSUP)
        return 0;
    *err = why;
    return code;
}

/* Without --at: the crash if there is one, else the end. */
static int go_to_start(struct trace_target *t, const struct arguments *arguments, struct error *err)
{
    const struct timeline_interrupt interrupt = {debug_signal_came, NULL};
    position_t position;
    const char *at = argument_value(arguments, "at", NULL);
    int code = trace_target_where(t, at ? at : "crash", &position, err);
    if (!at && code == -ENODATA)
        code = trace_target_where(t, "end", &position, err);
    return code ? code : trace_target_goto(t, position, &interrupt, err);
}

static int open_live(struct debug_session *s, const struct arguments *arguments, struct error *err)
{
    interrupt_catch();
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->wake_fd < 0)
        return error_errno(err, -errno, "create an eventfd");
    int code = live_session_open(&s->live, arguments, err);
    if (code)
        return code;
    s->target = s->live->target->history;
    code = debug_read_symbols(s->target, arguments, err);
    if (code == 0)
        code = gdb_server_create(&s->server, &s->live->target->target, err);
    if (code == 0) {
        live_session_show_in(s->live, s->server);
        s->target->console = show_console;
        s->target->console_context = s->server;
        interrupt_stops_server(s->server, s->wake_fd);
    }
    return code;
}

int debug_session_open(struct debug_session *s, const struct arguments *arguments, struct error *err)
{
    const char *path = arguments->operand[0];
    uint64_t budget = 0;
    const char *memory = argument_value(arguments, "memory", NULL);
    *s = (struct debug_session){.wake_fd = -1};
    if (argument_flag(arguments, "live"))
        return open_live(s, arguments, err);
    if (memory && !size_parse(memory, &budget))
        return error_set(err, -EINVAL, "--memory: %s", memory);
    int code = session_seal(path, NULL, err);
    if (code)
        return code;
    interrupt_catch();
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->wake_fd < 0)
        return error_errno(err, -errno, "create an eventfd");
    code = trace_target_open(&s->target, path, budget, err);
    if (code == 0)
        code = go_to_start(s->target, arguments, err);
    if (code == 0)
        code = find_linux(s->target, err);
    if (code == 0)
        code = debug_read_symbols(s->target, arguments, err);
    if (code == 0)
        code = gdb_server_create(&s->server, &s->target->target, err);
    if (code == 0) {
        s->target->console = show_console;
        s->target->console_context = s->server;
        interrupt_stops_server(s->server, s->wake_fd);
    }
    return code;
}

int debug_session_close(struct debug_session *s)
{
    int status = STATUS_OK;
    interrupt_stops_server(NULL, -1);
    if (s->target)
        s->target->console = NULL;
    if (s->live)
        live_session_show_in(s->live, NULL);
    gdb_server_destroy(s->server);
    if (s->live)
        status = live_session_close(s->live);
    else
        trace_target_close(s->target);
    if (s->wake_fd >= 0)
        close(s->wake_fd);
    *s = (struct debug_session){.wake_fd = -1};
    return status;
}

/* A client that acknowledges packets still has to send that for the last one: to a socket that is open. */
static void linger(int fd)
{
    enum { LINGER_MS = 1000 };
    char byte[64];
    struct pollfd readable = {.fd = fd, .events = POLLIN};
    if (shutdown(fd, SHUT_WR))
        return;
    while (poll(&readable, 1, LINGER_MS) == 1 && read(fd, byte, sizeof(byte)) > 0)
        ;
}

/* Nobody will look at it any more. */
static bool live_is_done(const struct live_session *s)
{
    return s->killed || (s->detached && s->target->over);
}

int debug_session_serve(struct debug_session *s, int listen_fd, int stop_fd, struct error *err)
{
    for (;;) {
        enum gdb_end end;
        if (s->live && (live_session_wait(s->live, listen_fd, stop_fd, err) < 0 || live_is_done(s->live)))
            return 0; /* a failure is told when the session is closed */
        int fd = gdb_accept(listen_fd, stop_fd, err);
        if (fd < 0)
            return fd == -EINTR ? 0 : fd;
        int code = gdb_server_serve(s->server, fd, fd, &end, err);
        if (code == 0 && (end == GDB_END_DETACHED || end == GDB_END_KILLED))
            linger(fd);
        close(fd);
        if (s->live) {
            s->live->detached = end == GDB_END_DETACHED;
            s->live->killed = end == GDB_END_KILLED;
        }
        if (code < 0 || end == GDB_END_STOPPED)
            return code < 0 ? code : 0;
    }
}
