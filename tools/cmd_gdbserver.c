/* dejavm gdbserver */
#include "tools/commands.h"
#include "tools/debug_session.h"
#include "tools/interrupt.h"
#include "tools/session.h"
#include "tools/status.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

enum { NAME_BYTES = 320 };

static void print_invitation(const struct debug_session *s, const char *name)
{
    struct number_text position;
    const struct trace_meta *meta = &trace_reader_info(s->target->reader)->meta;
    if (s->live)
        printf("%s waits at its start, to be recorded under %s into %s. Connect with\n    gdb -ex 'target "
               "remote "
               "%s'\n",
               meta->guest_path, meta->engine, s->live->recording.options.trace_path, name);
    else
        printf("At position %s. Connect with\n    gdb -ex 'target remote %s'\n",
               number_format(timeline_position(s->target->timeline), &position), name);
    fflush(stdout);
}

static int listen_and_serve(struct debug_session *s, const char *address, struct error *err)
{
    char name[NAME_BYTES];
    int fd = gdb_listen(address, name, sizeof(name), err);
    if (fd < 0)
        return fd;
    print_invitation(s, name);
    int code = debug_session_serve(s, fd, s->wake_fd, err);
    close(fd);
    if (strncmp(address, "unix:", 5) == 0)
        unlink(address + 5);
    return code;
}

static int serve_stdio(struct debug_session *s, struct error *err)
{
    enum gdb_end end;
    return gdb_server_serve(s->server, STDIN_FILENO, STDOUT_FILENO, &end, err);
}

static int run(const struct arguments *arguments)
{
    struct error err = {0};
    struct debug_session session;
    bool stdio = argument_flag(arguments, "stdio");
    const char *address = argument_value(arguments, "listen", NULL);
    if (argument_flag(arguments, "print-commands")) {
        fputs(debug_script, stdout);
        return finish_output(STATUS_OK);
    }
    int status = debug_options_check(arguments);
    if (status != STATUS_OK)
        return status;
    if (!arguments->operand[0])
        return usage_error(arguments->command, "TRACE is missing");
    if (stdio && address)
        return usage_error(arguments->command, "--stdio and --listen exclude each other");
    int code = debug_session_open(&session, arguments, &err);
    bool opened = code == 0;
    if (opened)
        code = stdio ? serve_stdio(&session, &err)
                     : listen_and_serve(&session, address ? address : "127.0.0.1:1234", &err);
    if (code && !opened)
        status = session_fail(&err);
    else if (code)
        status = fail(&err);
    int closed = debug_session_close(&session);
    if (status != STATUS_OK || closed != STATUS_OK)
        return status != STATUS_OK ? status : closed;
    return stdio ? STATUS_OK : finish_output(STATUS_OK);
}

static const char *const paragraphs[] = {
    "Lets a debugger that speaks GDB's remote protocol look at a trace and move through it, in both "
    "directions. "
    "One client at a time; when it leaves, the next one can come. Ctrl-C ends the server.",
    "With --live it is a guest that is recorded while GDB holds it; backwards leads into what was recorded "
    "so "
    "far, and forwards out of it again. The guest stands at its start until GDB connects. When GDB detaches "
    "it runs on; 'kill' in GDB, or Ctrl-C here, "
    "ends the recording, which is then sealed.",
    "'dejavm debug' starts GDB as well, and is simpler where GDB runs on the same machine. Of a Linux guest, "
    "'dejavm symbols' writes the file that GDB needs.",
    "Who can connect can read all of the recording: listen on other addresses than 127.0.0.1 only in "
    "networks that you "
    "trust.",
    NULL,
};
static const struct option_spec options[] = {
    {.name = "listen",
     .value = "ADDRESS",
     .text = "HOST:PORT, or unix:PATH. Port 0 takes a free one. Default: 127.0.0.1:1234."},
    {.name = "stdio",
     .text =
         "Speak on standard input and output, for GDB's 'target remote | dejavm gdbserver --stdio TRACE'."},
    {.name = "at",
     .value = "POS",
     .text = "Where to stand: a number, \"start\", \"end\", \"crash\", a percentage of the trace (50%), or "
             "\"event "
             "N\". Default: the crash if there is one, else the end."},
    {.name = "symbols",
     .value = "ELF",
     .repeatable = true,
     .text = "A file with more symbols for the monitor commands. May be given several times."},
    {.name = "memory", .value = "SIZE", .text = "The most memory that checkpoints may take. Default: 1G."},
    {.name = "print-commands",
     .text =
         "Print GDB commands (goto, when, last-write, ...) to be sourced by a GDB that connects, and exit."},
    {.name = "live",
     .text = "Debug GUEST while it is being recorded. Takes the options of 'dejavm record'; --memory is the "
             "guest's then."},
    RECORDING_OPTIONS,
    {0},
};
static const struct operand_spec operands[] = {
    {.name = "TRACE", .optional = true, .text = "The trace file; with --live the guest's image."}, {0}};
static const struct example_spec examples[] = {
    {"dejavm gdbserver kernel.dvm", "Wait for GDB on port 1234."},
    {"dejavm gdbserver --live -o run.dvm kernel.elf", "Record a guest that GDB holds by the reins."},
    {"dejavm gdbserver --listen unix:/tmp/gdb kernel.dvm", "Wait for GDB on a socket in the file system."},
    {0},
};

const struct command command_gdbserver = {
    .name = "gdbserver",
    .summary = "let GDB connect to a trace",
    .paragraphs = paragraphs,
    .options = options,
    .operands = operands,
    .examples = examples,
    .run = run,
};
