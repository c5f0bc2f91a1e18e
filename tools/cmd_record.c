/* dejavm record */
#include "tools/commands.h"
#include "tools/console.h"
#include "tools/interrupt.h"
#include "tools/record_devices.h"
#include "tools/record_report.h"
#include "tools/session.h"
#include "tools/status.h"
#include "tools/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEFAULT_RAM_MIB = 128 };

/* One run of the command. */
struct recording {
    struct record_options options;
    struct record_devices devices;
    const char *serial; /* "stdio", "null" or a file's name */
    bool exit_code, seal, engine_auto;
    char *default_path;
    int serial_file; /* -1: none */
    struct console console;
    struct progress progress;
    struct terminal *terminal;
    unsigned interrupts; /* signals that came while it ran: those after it are meant for the sealing */
};

static bool parse_engine(const char *text, enum record_engine *out)
{
    static const char *const names[] = {
        [RECORD_ENGINE_AUTO] = "auto", [RECORD_ENGINE_KVM] = "kvm", [RECORD_ENGINE_EMU] = "emu"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(text, names[i]) == 0) {
            *out = (enum record_engine)i;
            return true;
        }
    }
    return false;
}

static int parse_numbers(const struct arguments *a, struct record_options *o)
{
    const char *memory = argument_value(a, "memory", NULL);
    const char *timeout = argument_value(a, "timeout", NULL);
    const char *steps = argument_value(a, "max-steps", NULL);
    o->ram_bytes = (uint64_t)DEFAULT_RAM_MIB << 20;
    if (memory && !size_parse(memory, &o->ram_bytes))
        return usage_error(a->command, "--memory: '%.100s' is not a size such as 64M or 1G", memory);
    if (o->ram_bytes < RAM_MIN_BYTES || o->ram_bytes > RAM_MAX_BYTES || o->ram_bytes % PAGE_SIZE_BYTES)
        return usage_error(a->command, "--memory: '%.100s' is not from 1M to 64G in steps of 4K", memory);
    if (timeout && (!seconds_parse(timeout, &o->timeout_ns) || o->timeout_ns == 0))
        return usage_error(a->command, "--timeout: '%.100s' is not a number of seconds above 0", timeout);
    if (steps && (!number_parse(steps, &o->max_steps) || o->max_steps == 0 || o->max_steps == UINT64_MAX))
        return usage_error(a->command, "--max-steps: '%.100s' is not a number above 0", steps);
    return STATUS_OK;
}

/* The guest's file name with ".dvm", in the current directory. */
static int choose_trace_path(struct recording *r)
{
    const char *slash = strrchr(r->options.guest_path, '/');
    const char *name = slash ? slash + 1 : r->options.guest_path;
    size_t size = strlen(name) + sizeof(".dvm");
    r->default_path = malloc(size);
    if (!r->default_path) {
        message("out of memory");
        return STATUS_FAILURE;
    }
    snprintf(r->default_path, size, "%s.dvm", name);
    r->options.trace_path = r->default_path;
    return STATUS_OK;
}

static int parse(struct recording *r, const struct arguments *a)
{
    struct record_options *o = &r->options;
    const char *engine = argument_value(a, "engine", "auto");
    o->guest_path = a->operand[0];
    o->trace_path = argument_value(a, "output", NULL);
    o->initrd_path = argument_value(a, "initrd", NULL);
    o->command_line = argument_value(a, "append", "");
    o->overwrite = argument_flag(a, "force");
    o->serial_in = -1;
    r->serial = argument_value(a, "serial", "stdio");
    r->exit_code = argument_flag(a, "exit-code");
    r->seal = !argument_flag(a, "no-seal");
    if (!parse_engine(engine, &o->engine))
        return usage_error(a->command, "--engine: '%.100s' is none of auto, kvm, emu", engine);
    r->engine_auto = o->engine == RECORD_ENGINE_AUTO;
    if ((o->trace_path && !o->trace_path[0]) || !r->serial[0] || !o->guest_path[0])
        return usage_error(a->command, "a file name is empty");
    int status = parse_numbers(a, o);
    if (status == STATUS_OK)
        status = record_devices_parse(&r->devices, a, &o->board);
    if (status == STATUS_OK && o->max_steps && o->engine == RECORD_ENGINE_KVM)
        return usage_error(a->command, "--max-steps needs --engine emu: KVM cannot count instructions");
    if (status == STATUS_OK && !o->trace_path)
        status = choose_trace_path(r);
    return status;
}

static bool same_file(const char *a, const struct stat *b)
{
    struct stat s;
    return a && stat(a, &s) == 0 && s.st_dev == b->st_dev && s.st_ino == b->st_ino;
}

static bool is_a_disk(const struct record_devices *d, const struct stat *s)
{
    for (size_t i = 0; i < d->disk_count; i++)
        if (same_file(d->disks[i].path, s))
            return true;
    return false;
}

/* The trace must not be the guest, and an existing file is only replaced when that was asked for. */
static bool trace_path_is_free(const struct recording *r)
{
    const struct record_options *o = &r->options;
    struct stat s;
    if (lstat(o->trace_path, &s))
        return true; /* any other problem shows when the file is created */
    if (stat(o->trace_path, &s) == 0 && (same_file(o->guest_path, &s) || same_file(o->initrd_path, &s) ||
                                         same_file(r->serial, &s) || is_a_disk(&r->devices, &s))) {
        message("%s: the trace cannot have the name of one of its inputs; choose another with -o FILE",
                o->trace_path);
        return false;
    }
    if (o->overwrite)
        return true;
    message("%s: exists already; use --force to replace it, or choose another name with -o FILE",
            o->trace_path);
    return false;
}

/* Where the guest's serial line comes from and goes to. */
static int connect_console(struct recording *r, struct error *err)
{
    if (strcmp(r->serial, "null") == 0) {
        console_begin(&r->console, -1, -1);
        return 0;
    }
    if (strcmp(r->serial, "stdio") != 0) {
        r->serial_file = open(r->serial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0666);
        if (r->serial_file < 0)
            return error_errno(err, -errno, "--serial: %s", r->serial);
        console_begin(&r->console, r->serial_file, STDOUT_FILENO);
        return 0;
    }
    console_begin(&r->console, STDOUT_FILENO, STDOUT_FILENO);
    if (terminal_usable())
        return terminal_begin(&r->terminal, &r->options.serial_in, err);
    if (!isatty(STDIN_FILENO) && fcntl(STDIN_FILENO, F_GETFD) >= 0)
        r->options.serial_in = STDIN_FILENO;
    return 0;
}

static void record_console(void *context, unsigned channel, const uint8_t *data, size_t length)
{
    struct recording *r = context;
    console_write(&r->console, channel, data, length);
}

static void record_progress(void *context, uint64_t elapsed_ns, position_t position, uint64_t trace_bytes)
{
    struct recording *r = context;
    struct number_text time, bytes, steps;
    char text[128];
    if (position == POSITION_UNKNOWN)
        snprintf(text, sizeof(text), "%s, trace %s", duration_format(elapsed_ns, &time),
                 bytes_format(trace_bytes, &bytes));
    else
        snprintf(text, sizeof(text), "%s, %s steps, trace %s", duration_format(elapsed_ns, &time),
                 number_format(position, &steps), bytes_format(trace_bytes, &bytes));
    progress_text(&r->progress, text);
}

/*
 * From the first signal on the recording is stopped; the terminal is put back before anything is reported. The recording counts
 * as made once the recorder was created: what fails after that leaves a trace of what went before.
 */
static int run_recorder(struct recording *r, struct record_result *result, bool *made, struct error *err)
{
    struct recorder *recorder;
    int code = connect_console(r, err);
    if (code == 0)
        code = recorder_create(&recorder, &r->options, err);
    if (code == 0) {
        *made = true;
        if (r->options.timeout_ns)
            r->console.deadline_ns = monotonic_ns() + r->options.timeout_ns;
        progress_begin(&r->progress, "recording", r->console.fd[0] == STDOUT_FILENO && isatty(STDOUT_FILENO));
        interrupt_stops_recorder(recorder);
        code = recorder_run(recorder, result, err);
        interrupt_stops_recorder(NULL);
        r->interrupts = interrupt_count();
        progress_end(&r->progress);
        recorder_destroy(recorder);
    }
    terminal_end(r->terminal);
    r->terminal = NULL;
    if (r->serial_file >= 0 && close(r->serial_file) && !r->console.failed)
        r->console.failed = -errno;
    r->serial_file = -1;
    if (!r->console.fresh_line && isatty(STDOUT_FILENO) && isatty(STDERR_FILENO))
        fputc('\n', stderr);
    return code;
}

/* The trace is good whether or not this works; what went wrong is told. */
static int seal(const struct recording *r)
{
    struct error err = {0};
    struct replay_totals totals = {0};
    const char *path = r->options.trace_path;
    uint64_t start = monotonic_ns();
    if (!r->seal || interrupt_count() > 1) {
        message("%s is not sealed: the first command that replays it does so", path);
        return STATUS_OK;
    }
    int code = session_seal_after(path, r->interrupts, &totals, &err);
    if (code == -EINTR) {
        message("sealing was interrupted: %s is good, and the first command that replays it seals it", path);
        return STATUS_OK;
    }
    if (code) {
        message("sealing %s failed:", path);
        return fail(&err);
    }
    record_report_seal(&totals, monotonic_ns() - start);
    return STATUS_OK;
}

static int record(struct recording *r)
{
    struct error err = {0};
    struct record_result result = {.position = POSITION_UNKNOWN};
    bool made = false;
    int code = run_recorder(r, &result, &made, &err);
    if (code) {
        int status = fail(&err);
        if (made)
            message("%s holds what was recorded up to there", r->options.trace_path);
        return status;
    }
    record_report(&result, r->options.trace_path, r->engine_auto);
    if (r->console.failed == -EPIPE)
        message("standard output was closed by its reader; the trace has all of the guest's output");
    else if (r->console.failed)
        message("writing the guest's output: %s; the trace has all of it", strerror(-r->console.failed));
    int status = seal(r);
    if (status != STATUS_OK)
        return status;
    if (result.end == TRACE_END_ERROR)
        return STATUS_FAILURE;
    if (r->console.failed && r->console.failed != -EPIPE)
        return STATUS_FAILURE;
    return r->exit_code ? record_guest_status(&result) : STATUS_OK;
}

static int run(const struct arguments *arguments)
{
    struct recording r = {.serial_file = -1};
    int status = parse(&r, arguments);
    if (status == STATUS_OK) {
        r.options.console = record_console;
        r.options.progress = record_progress;
        r.options.context = &r;
        interrupt_catch();
        status = trace_path_is_free(&r) ? record(&r) : STATUS_FAILURE;
    }
    free(r.default_path);
    record_devices_free(&r.devices);
    return status;
}

static const char *const paragraphs[] = {
    "Runs GUEST and records everything that its own instructions do not determine in a trace file. GUEST is "
    "a Linux "
    "kernel (bzImage, or an ELF file with a PVH note), an ELF file for Multiboot 1, or an ELF64 file that "
    "starts in 64-bit mode. What the guest prints comes out on "
    "standard output; how it "
    "ended, and the figures, on standard error.",
    "At the end the trace is sealed: one replay proves it exact, gives every event its position and stores "
    "keyframes, so "
    "that later commands open it at any place at once.",
    "When standard input is a terminal, what is typed goes to the guest's serial port. Ctrl-C, or Ctrl-A x, "
    "stops the "
    "recording in order and leaves a good trace, as SIGTERM does; a second Ctrl-C while it is sealed leaves "
    "it unsealed, "
    "and good. Ctrl-A c sends Ctrl-C to the guest, Ctrl-A Ctrl-A sends Ctrl-A.",
    "With --exit-code the exit status is the guest's:",
    "- the value written to the debug-exit port 0xf4 (255 for larger ones);",
    "- 0 for power off and reset;",
    "- 124 for --timeout and --max-steps, 130 when stopped by the user;",
    "- 125 for a triple fault or a halt with interrupts off, where the guest gave no status.",
    "A failure of dejavm's own (1 to 4, below) comes before the guest's status; it always has a message.",
    NULL,
};
static const struct option_spec options[] = {
    {.name = "output",
     .letter = 'o',
     .value = "FILE",
     .text = "The trace to write. Default: the guest's file name with .dvm, in the current directory."},
    {.name = "force", .letter = 'f', .text = "Replace FILE if it exists."},
    {.name = "engine",
     .value = "ENGINE",
     .choices = "auto kvm emu",
     .text = "What executes the guest: kvm, emu (dejavm's own emulator, needs nothing from the host), or "
             "auto: kvm "
             "where it works. Default: auto."},
    {.name = "memory",
     .letter = 'm',
     .value = "SIZE",
     .text = "Guest memory, 1M to 64G. Suffixes K, M, G. Default: 128M."},
    {.name = "initrd",
     .value = "FILE",
     .text = "A Linux guest's initial RAM disk; a Multiboot guest's first module."},
    {.name = "disk",
     .value = "FILE[,ro][,write-through]",
     .repeatable = true,
     .text = "A disk for the guest, at most 16 times: virtio, /dev/vda for the first in Linux. FILE is a "
             "raw image of whole 512-byte sectors, a block device, or a qcow2 image (that needs the package "
             "qemu-utils). What the guest writes goes to a temporary file in TMPDIR or /var/tmp, and is gone "
             "afterwards; FILE does not change. write-through: it goes to FILE, which nobody else may be "
             "using. ro: the guest is told that it cannot write. The trace replays without FILE."},
    {.name = "append", .value = "STRING", .text = "The guest's command line."},
    {.name = "net",
     .value = "user[,hostfwd=...]",
     .text = "A network card on a network of dejavm's own: DHCP gives the guest 10.0.2.15, the host is "
             "10.0.2.2 (what listens at "
             "127.0.0.1 is reached there), the name server 10.0.2.3. "
             "hostfwd=tcp:[HOSTADDR]:PORT-[GUESTADDR]:PORT, any number of times, or udp:..., forwards a port "
             "of the host to the "
             "guest; HOSTADDR is 127.0.0.1 unless given."},
    {.name = "share",
     .value = "DIR[,tag=NAME][,ro]",
     .repeatable = true,
     .text = "A folder of the host for the guest: mount -t 9p -o trans=virtio,version=9p2000.L NAME /mnt. "
             "NAME is share (share2, "
             "...) unless given; ro: the guest cannot change it."},
    {.name = "timeout",
     .value = "SECONDS",
     .text = "Stop after this much time on the host's clock; may have a fraction."},
    {.name = "max-steps", .value = "N", .text = "Stop after N steps; the emulator only."},
    {.name = "serial",
     .value = "WHERE",
     .choices = "stdio null",
     .text = "The guest's serial port: stdio, null, or a file for what it prints (the debug console at port "
             "0xe9 still goes to "
             "standard output then). Default: stdio."},
    {.name = "exit-code", .text = "Exit with the guest's status; see above."},
    {.name = "no-seal", .text = "Do not seal at the end; the first command that replays the trace does."},
    {0},
};
static const struct operand_spec operands[] = {{.name = "GUEST", .text = "The guest's image."}, {0}};
static const struct example_spec examples[] = {
    {"dejavm record kernel.elf", "Record into kernel.elf.dvm."},
    {"dejavm record -o ci.dvm --timeout 60 --exit-code --serial serial.log test-kernel",
     "Record a test run in CI."},
    {0},
};

const struct command command_record = {
    .name = "record",
    .summary = "run a guest and record it",
    .paragraphs = paragraphs,
    .options = options,
    .operands = operands,
    .examples = examples,
    .run = run,
};
