/* dejavm crash */
#include "tools/commands.h"
#include "tools/crash_report.h"
#include "tools/debug_session.h"
#include "tools/interrupt.h"
#include "tools/session.h"
#include "tools/status.h"

#include <errno.h>
#include <stdlib.h>

static int report(struct trace_target *t, const struct arguments *arguments, struct error *err)
{
    const struct timeline_interrupt interrupt = {debug_signal_came, NULL};
    const char *path = arguments->operand[0];
    struct crash_report *r = calloc(1, sizeof(*r));
    if (!r)
        return error_set(err, -ENOMEM, "out of memory");
    int code = crash_report_make(r, t, &interrupt, err);
    if (code == 0 && argument_flag(arguments, "json"))
        crash_report_json(r, path, stdout);
    else if (code == 0 && r->site.kind == CRASH_NONE)
        puts("no crash: the guest told of none, and the recording did not end with one");
    else if (code == 0)
        crash_report_print(r, path, stdout);
    crash_report_free(r);
    free(r);
    return code;
}

static int run(const struct arguments *arguments)
{
    struct trace_target *t = NULL;
    struct error err = {0};
    int code = session_seal(arguments->operand[0], NULL, &err);
    if (code == 0) {
        interrupt_catch();
        code = trace_target_open(&t, arguments->operand[0], 0, &err);
    }
    if (code == 0)
        code = debug_read_symbols(t, arguments, &err);
    if (code == 0)
        code = report(t, arguments, &err);
    trace_target_close(t);
    return code < 0 ? session_fail(&err) : finish_output(STATUS_OK);
}

static const char *const paragraphs[] = {
    "Tells what is known of a guest's crash: what happened and where, the registers, the stack with symbols, "
    "the "
    "task, the last interrupts, and the last lines of the console.",
    "If it was a bad pointer, it is followed backwards: where the instruction got it from, and who wrote it "
    "there, with the stack of "
    "each write.",
    "Of a Linux guest nothing is needed but the trace: the kernel's own symbols are found in its memory. A "
    "crash is what the "
    "guest printed as a panic, an oops, a BUG or a lockup, what it told the pvpanic device, interrupts that "
    "it did not take for "
    "10 seconds, or a recording that ended with a triple fault or a bad exit status. The first one counts.",
    NULL,
};
static const struct option_spec options[] = {
    {.name = "symbols",
     .value = "ELF",
     .repeatable = true,
     .text = "Symbols from this file as well. May be given several times."},
    {.name = "json", .text = "Print JSON."},
    {0},
};
static const struct operand_spec operands[] = {{.name = "TRACE", .text = "The trace file."}, {0}};
static const struct example_spec examples[] = {
    {"dejavm crash boot.dvm", "Why did it crash?"},
    {0},
};

const struct command command_crash = {
    .name = "crash",
    .summary = "report why and where the guest crashed",
    .paragraphs = paragraphs,
    .options = options,
    .operands = operands,
    .examples = examples,
    .run = run,
};
