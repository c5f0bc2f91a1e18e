#include "tools/recording.h"
#include "tools/interrupt.h"
#include "tools/record_report.h"
#include "tools/session.h"
#include "tools/status.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEFAULT_RAM_MIB = 128 };

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

/* Of the terminal on standard output, where the guest's consoles appear. */
static bool terminal_size(void *context, unsigned *columns, unsigned *rows)
{
    (void)context;
    struct winsize size;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) || size.ws_col == 0 || size.ws_row == 0)
        return false;
    *columns = size.ws_col;
    *rows = size.ws_row;
    return true;
}

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

/* After the devices: some machines have none of them. */
static int parse_machine(const struct arguments *a, struct record_options *o)
{
    const char *machine = argument_value(a, "machine", "pc"), *clock = argument_value(a, "clock", "host");
    const char *seed = argument_value(a, "seed", NULL);
    if (strcmp(machine, "pc") != 0 && strcmp(machine, "minimal") != 0)
        return usage_error(a->command, "--machine: '%.100s' is none of pc, minimal", machine);
    if (strcmp(clock, "host") != 0 && strcmp(clock, "virtual") != 0)
        return usage_error(a->command, "--clock: '%.100s' is none of host, virtual", clock);
    if (seed && !number_parse(seed, &o->seed))
        return usage_error(a->command, "--seed: '%.100s' is not a number", seed);
    o->board.kind = strcmp(machine, "pc") == 0 ? BOARD_PC : BOARD_MINIMAL;
    o->clock = strcmp(clock, "host") == 0 ? RECORD_CLOCK_HOST : RECORD_CLOCK_VIRTUAL;
    o->seeded = seed != NULL;
    if (o->clock == RECORD_CLOCK_VIRTUAL && o->engine == RECORD_ENGINE_KVM)
        return usage_error(a->command, "--clock virtual needs --engine emu: KVM cannot count instructions");
    if (o->board.kind == BOARD_MINIMAL &&
        (o->board.disk_count || o->board.share_count || o->board.net.present))
        return usage_error(a->command, "--machine minimal has no disks, networks or shared folders");
    return STATUS_OK;
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

/* After parse_machine: without PCI there is no virtio. */
static int parse_console(const struct arguments *a, struct record_options *o)
{
    const char *console = argument_value(a, "console", "serial");
    if (strcmp(console, "virtio") == 0)
        o->input = CONSOLE_VIRTIO;
    else if (strcmp(console, "serial") != 0)
        return usage_error(a->command, "--console: '%.100s' is neither serial nor virtio", console);
    if (o->input == CONSOLE_VIRTIO && o->board.kind != BOARD_PC)
        return usage_error(a->command, "--console virtio needs --machine pc: others have no such console");
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

int recording_parse(struct recording *r, const struct arguments *a, const char *serial)
{
    struct record_options *o = &r->options;
    const char *engine = argument_value(a, "engine", "auto");
    *r = (struct recording){.serial_file = -1};
    o->guest_path = a->operand[0];
    o->trace_path = argument_value(a, "output", NULL);
    o->initrd_path = argument_value(a, "initrd", NULL);
    o->command_line = argument_value(a, "append", "");
    o->overwrite = argument_flag(a, "force");
    o->serial_in = -1;
    o->console = record_console;
    o->progress = record_progress;
    o->terminal_size = terminal_size;
    o->context = r;
    r->serial = argument_value(a, "serial", serial);
    r->seal = !argument_flag(a, "no-seal");
    if (!parse_engine(engine, &o->engine))
        return usage_error(a->command, "--engine: '%.100s' is none of auto, kvm, emu", engine);
    r->engine_auto = o->engine == RECORD_ENGINE_AUTO;
    if ((o->trace_path && !o->trace_path[0]) || !r->serial[0] || !o->guest_path[0])
        return usage_error(a->command, "a file name is empty");
    int status = parse_numbers(a, o);
    if (status == STATUS_OK)
        status = record_devices_parse(&r->devices, a, &o->board);
    if (status == STATUS_OK)
        status = parse_machine(a, o);
    if (status == STATUS_OK)
        status = parse_console(a, o);
    if (status == STATUS_OK && o->max_steps && o->engine == RECORD_ENGINE_KVM)
        return usage_error(a->command, "--max-steps needs --engine emu: KVM cannot count instructions");
    if (status == STATUS_OK && !o->trace_path)
        status = choose_trace_path(r);
    return status;
}

const char *recording_option_given(const struct arguments *arguments)
{
    static const struct option_spec options[] = {RECORDING_OPTIONS, {0}};
    for (size_t i = 0; i < arguments->option_count; i++)
        for (const struct option_spec *o = options; o->name; o++)
            if (strcmp(arguments->option[i].spec->name, o->name) == 0)
                return o->name;
    return NULL;
}

void recording_free(struct recording *r)
{
    free(r->default_path);
    record_devices_free(&r->devices);
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
bool recording_path_is_free(const struct recording *r)
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

/* Where the guest's consoles go to, and what is typed comes from. */
int recording_connect(struct recording *r, struct error *err)
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
        if (r->options.input == CONSOLE_SERIAL)
            return 0;
    } else {
        console_begin(&r->console, STDOUT_FILENO, STDOUT_FILENO);
    }
    if (terminal_usable())
        return terminal_begin(&r->terminal, &r->options.serial_in, err);
    if (!isatty(STDIN_FILENO) && fcntl(STDIN_FILENO, F_GETFD) >= 0)
        r->options.serial_in = STDIN_FILENO;
    return 0;
}

void recording_disconnect(struct recording *r)
{
    terminal_end(r->terminal);
    r->terminal = NULL;
    if (r->serial_file >= 0 && close(r->serial_file) && !r->console.failed)
        r->console.failed = -errno;
    r->serial_file = -1;
    if (!r->console.fresh_line && isatty(STDOUT_FILENO) && isatty(STDERR_FILENO))
        fputc('\n', stderr);
}

int recording_seal(const struct recording *r)
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

int recording_report(const struct recording *r, const struct record_result *result)
{
    record_report(result, r->options.trace_path, r->engine_auto);
    if (r->console.failed == -EPIPE)
        message("standard output was closed by its reader; the trace has all of the guest's output");
    else if (r->console.failed)
        message("writing the guest's output: %s; the trace has all of it", strerror(-r->console.failed));
    int status = recording_seal(r);
    if (status != STATUS_OK)
        return status;
    bool failed = result->end == TRACE_END_ERROR || (r->console.failed && r->console.failed != -EPIPE);
    return failed ? STATUS_FAILURE : STATUS_OK;
}
