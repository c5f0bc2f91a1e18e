/* dejavm verify */
#include "tools/commands.h"
#include "replay/lockstep.h"
#include "tools/interrupt.h"
#include "tools/session.h"
#include "tools/status.h"

#include <string.h>

static void report(const char *path, const struct replay_totals *t, bool sealed_now, uint64_t elapsed_ns)
{
    struct number_text position, events, interrupts, digests, outputs, time;
    char end[640];
    trace_end_describe(t->end, t->status, t->end_message, end, sizeof(end));
    put_printable(stdout, (const uint8_t *)path, strlen(path));
    printf(": exact: %s steps, %s events, %s interrupts, %s outputs and %s digests checked in %s; end: ",
           number_format(t->position, &position), number_format(t->events, &events),
           number_format(t->interrupts, &interrupts), number_format(t->outputs_checked, &outputs),
           number_format(t->digests_checked, &digests), duration_format(elapsed_ns, &time));
    put_printable(stdout, (const uint8_t *)end, strlen(end));
    printf("%s\n", sealed_now ? " (sealed now)" : "");
}

/* The totals are copied out, since they end with the replay. */
static int replay_all(const char *path, struct replay_totals *totals, struct error *err)
{
    struct session s = {.as_it_is = true};
    int code = session_open(&s, path, err);
    if (code == 0)
        code = session_run(&s, POSITION_UNKNOWN, err);
    if (code == 0)
        *totals = *replay_totals(s.replay);
    session_close(&s);
    return code;
}

/* Replaying needs no image, but who debugs with the trace later does. */
static int check_image(const char *path, struct error *err)
{
    struct trace_reader *reader;
    int code = trace_reader_open(&reader, path, err);
    if (code < 0)
        return code;
    code = trace_reader_check_image(reader, err);
    trace_reader_close(reader);
    return code;
}

static bool lockstep_progress(void *context, position_t position, uint64_t events)
{
    (void)context, (void)position, (void)events;
    return interrupt_count() > 0;
}

static int lockstep(const char *path)
{
    struct error err = {0};
    struct lockstep_totals totals;
    struct replay_hooks hooks = {.progress = lockstep_progress};
    struct number_text position, stops, ram, time;
    uint64_t start = monotonic_ns();
    interrupt_catch();
    if (replay_lockstep(path, &hooks, NULL, &totals, &err) < 0)
        return session_fail(&err);
    put_printable(stdout, (const uint8_t *)path, strlen(path));
    printf(": both stages of the emulator agree: %s steps, registers compared at %s positions, RAM at %s, in "
           "%s\n",
           number_format(totals.position, &position), number_format(totals.stops, &stops),
           number_format(totals.ram_compared, &ram), duration_format(monotonic_ns() - start, &time));
    return finish_output(STATUS_OK);
}

static int run(const struct arguments *arguments)
{
    if (argument_flag(arguments, "lockstep"))
        return lockstep(arguments->operand[0]);
    struct error err = {0};
    struct replay_totals totals = {0};
    const char *path = arguments->operand[0];
    uint64_t start = monotonic_ns();
    interrupt_catch();
    /* Sealing is a replay with every check: an unsealed trace needs no second one. */
    int code = session_seal_on_demand(path, &totals, &err);
    bool sealed_now = code == SEAL_DONE;
    if (code == SEAL_WAS_SEALED || code == SEAL_NOT_DONE)
        code = replay_all(path, &totals, &err);
    if (code >= 0)
        code = check_image(path, &err);
    if (code < 0)
        return session_fail(&err);
    report(path, &totals, sealed_now, monotonic_ns() - start);
    return finish_output(STATUS_OK);
}

static const char *const paragraphs[] = {
    "Replays the whole trace without printing what the guest printed, and checks every output, every event "
    "and every "
    "digest of registers and memory. Prints one line with what was checked.",
    NULL,
};
static const struct option_spec options[] = {{.name = "lockstep",
                                              .text =
                                                  "Replay with both stages of the emulator side by side, one "
                                                  "that translates guest code and one that does "
                                                  "not, and compare all registers every 2000 steps or so, "
                                                  "and memory now and then. Names the first position "
                                                  "that shows a difference. Takes several times as long."},
                                             {0}};
static const struct operand_spec operands[] = {{.name = "TRACE", .text = "The trace file."}, {0}};
static const struct example_spec examples[] = {
    {"dejavm verify kernel.dvm", "Prove that a trace copied from another machine replays here."},
    {0},
};

const struct command command_verify = {
    .name = "verify",
    .summary = "replay a trace and check every digest and output",
    .paragraphs = paragraphs,
    .options = options,
    .operands = operands,
    .examples = examples,
    .run = run,
};
