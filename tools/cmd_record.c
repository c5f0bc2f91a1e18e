/* dejavm record */
#include "tools/commands.h"
#include "tools/interrupt.h"
#include "tools/profile_view.h"
#include "tools/record_report.h"
#include "tools/recording.h"
#include "tools/session.h"
#include "tools/status.h"

#include <unistd.h>

struct record_flags {
    bool exit_code, profile;
    const char *jitdump; /* or NULL */
};

static int prepare_emulator(struct recorder *recorder, const struct record_flags *flags,
                            enum emu_stages stages, struct error *err)
{
    recorder_set_stages(recorder, stages);
    return flags->jitdump ? recorder_jitdump(recorder, flags->jitdump, err) : 0;
}

static int run_created(struct recording *r, struct recorder *recorder, struct record_result *result,
                       struct error *err)
{
    if (r->options.timeout_ns)
        r->console.deadline_ns = monotonic_ns() + r->options.timeout_ns;
    progress_begin(&r->progress, "recording", r->console.fd[0] == STDOUT_FILENO && isatty(STDOUT_FILENO));
    interrupt_stops_recorder(recorder);
    int code = recorder_run(recorder, result, err);
    interrupt_stops_recorder(NULL);
    r->interrupts = interrupt_count();
    progress_end(&r->progress);
    return code;
}

/*
 * From the first signal on the recording is stopped; the terminal is put back before anything is reported. The recording counts
 * as made once the recorder was created: what fails after that leaves a trace of what went before.
 */
static int run_recorder(struct recording *r, const struct record_flags *flags, struct record_result *result,
                        bool *made, struct error *err)
{
    struct recorder *recorder = NULL;
    enum emu_stages stages;
    int code = session_stages(&stages, err);
    if (code < 0)
        return code;
    code = recording_connect(r, err);
    if (code == 0)
        code = recorder_create(&recorder, &r->options, err);
    if (code == 0)
        code = prepare_emulator(recorder, flags, stages, err);
    if (code == 0) {
        *made = true;
        code = run_created(r, recorder, result, err);
        if (code == 0 && flags->profile)
            profile_print_record(result, recorder_engine(recorder));
    }
    recorder_destroy(recorder);
    recording_disconnect(r);
    return code;
}

static int record(struct recording *r, const struct record_flags *flags)
{
    struct error err = {0};
    struct record_result result = {.position = POSITION_UNKNOWN};
    bool made = false;
    int code = run_recorder(r, flags, &result, &made, &err);
    if (code) {
        int status = fail(&err);
        if (made)
            message("%s holds what was recorded up to there", r->options.trace_path);
        return status;
    }
    int status = recording_report(r, &result);
    return status == STATUS_OK && flags->exit_code ? record_guest_status(&result) : status;
}

static int run(const struct arguments *arguments)
{
    struct recording r;
    int status = recording_parse(&r, arguments, "stdio");
    if (status == STATUS_OK) {
        interrupt_catch();
        struct record_flags flags = {.exit_code = argument_flag(arguments, "exit-code"),
                                     .profile = argument_flag(arguments, "profile"),
                                     .jitdump = argument_value(arguments, "jitdump", NULL)};
        status = recording_path_is_free(&r) ? record(&r, &flags) : STATUS_FAILURE;
    }
    recording_free(&r);
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
    RECORDING_OPTIONS,
    {.name = "memory",
     .letter = 'm',
     .value = "SIZE",
     .text = "Guest memory, 1M to 64G. Suffixes K, M, G. Default: 128M."},
    {.name = "exit-code", .text = "Exit with the guest's status; see above."},
    {.name = "profile", .text = "Print where the time went, and what the emulator did."},
    {.name = "jitdump",
     .value = "FOLDER",
     .text = "With the emulator: describe translated code in FOLDER/jit-PID.dump, as 'dejavm replay' does."},
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
