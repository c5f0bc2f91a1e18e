/* dejavm replay */
#include "tools/commands.h"
#include "tools/console.h"
#include "tools/profile_view.h"
#include "tools/session.h"
#include "tools/status.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

static void report(const struct session *s, position_t until, uint64_t elapsed_ns)
{
    const struct replay_totals *t = replay_totals(s->replay);
    struct number_text position, events, interrupts, checks, time;
    char end[640];
    number_format(t->position, &position);
    message("replayed to position %s in %s: %s events, %s interrupts, %s outputs and digests checked, exact",
            position.text, duration_format(elapsed_ns, &time), number_format(t->events, &events),
            number_format(t->interrupts, &interrupts),
            number_format(t->outputs_checked + t->digests_checked, &checks));
    if (t->at_end) {
        trace_end_describe(t->end, t->status, t->end_message, end, sizeof(end));
        message("end of the recording: %s", end);
    }
    if (until != POSITION_UNKNOWN && t->position < until)
        message("position %" PRIu64 " is beyond the end of the trace", until);
}

struct replaying {
    struct session session;
    struct position_argument until;
    bool quiet, profile, json;
    uint64_t open_ns;
    struct console console;
};

static void show_profile(const struct replaying *p)
{
    if (p->profile && p->json)
        profile_json_replay(p->session.replay, p->open_ns);
    else if (p->profile)
        profile_print_replay(p->session.replay, p->open_ns);
}

static int replay_to(struct replaying *p)
{
    struct session *s = &p->session;
    struct console *console = &p->console;
    struct error err = {0};
    position_t until = POSITION_UNKNOWN;
    uint64_t start = monotonic_ns();
    if (p->until.kind != POSITION_IS_END && session_resolve(s, &p->until, &until, &err))
        return session_fail(&err);
    int code = session_run(s, until, &err);
    if (!console->fresh_line && isatty(STDOUT_FILENO) && isatty(STDERR_FILENO))
        fputc('\n', stderr);
    if (code)
        return session_fail(&err);
    if (!p->quiet)
        report(s, until, monotonic_ns() - start);
    show_profile(p);
    if (console->failed && console->failed != -EPIPE) {
        message("standard output: %s; what was printed is incomplete", strerror(-console->failed));
        return STATUS_FAILURE;
    }
    bool beyond = until != POSITION_UNKNOWN && replay_position(s->replay) < until;
    return beyond ? STATUS_FAILURE : STATUS_OK;
}

static int run(const struct arguments *arguments)
{
    struct error err = {0};
    struct replaying p = {.until = {.kind = POSITION_IS_END},
                          .quiet = argument_flag(arguments, "quiet"),
                          .profile = argument_flag(arguments, "profile"),
                          .json = argument_flag(arguments, "json")};
    if (p.json && !p.profile)
        return usage_error(arguments->command, "--json goes with --profile");
    p.quiet = p.quiet || p.json;
    if (!session_position_option(arguments, "until", &p.until))
        return STATUS_USAGE;
    console_begin(&p.console, p.quiet ? -1 : STDOUT_FILENO, p.quiet ? -1 : STDOUT_FILENO);
    /* The guest's output and a progress line on the same terminal would mix. */
    p.session = (struct session){
        .quiet = !p.quiet && isatty(STDOUT_FILENO), .console = console_write, .context = &p.console};
    uint64_t start = monotonic_ns();
    int status = session_open(&p.session, arguments->operand[0], &err) ? session_fail(&err) : STATUS_OK;
    p.open_ns = monotonic_ns() - start;
    const char *dump = argument_value(arguments, "jitdump", NULL);
    if (status == STATUS_OK && dump && replay_jitdump(p.session.replay, dump, &err))
        status = session_fail(&err);
    if (status == STATUS_OK && p.profile)
        replay_start_profile(p.session.replay);
    if (status == STATUS_OK)
        status = replay_to(&p);
    session_close(&p.session);
    return p.json ? finish_output(status) : status;
}

static const char *const paragraphs[] = {
    "Replays a trace from its start. What the guest printed comes out on standard output again, byte for "
    "byte. Every "
    "output, event and digest is checked against the recording: the replay is exact, or it stops with a "
    "report and exit "
    "status 3.",
    "Needs neither the guest's image nor /dev/kvm nor root: the trace holds all of it. A trace that is not "
    "sealed yet is "
    "sealed first, if its file can be written.",
    NULL,
};
static const struct option_spec options[] = {
    {.name = "until",
     .value = "POS",
     .text = "Stop exactly at this position: a number (1000000, 1_000_000, 0xf4240), "
             "\"end\", or a percentage of the trace (50%). Default: end."},
    {.name = "quiet", .letter = 'q', .text = "Print neither the guest's output nor the summary."},
    {.name = "profile",
     .text = "Print where the time went: executing, answering the guest, reading the trace, digests."},
    {.name = "jitdump",
     .value = "FOLDER",
     .text = "Describe translated code in FOLDER/jit-PID.dump, for perf: "
             "'perf record -k mono', then 'perf inject --jit'."},
    {.name = "json", .text = "With --profile: print it as JSON, and nothing else."},
    {0},
};
static const struct operand_spec operands[] = {{.name = "TRACE", .text = "The trace file."}, {0}};
static const struct example_spec examples[] = {
    {"dejavm replay kernel.dvm", "Show the run again."},
    {"dejavm replay kernel.dvm --until 50% >first-half.log",
     "Keep what the guest printed in the first half."},
    {0},
};

const struct command command_replay = {
    .name = "replay",
    .summary = "replay a trace, with the guest's output",
    .paragraphs = paragraphs,
    .options = options,
    .operands = operands,
    .examples = examples,
    .run = run,
};
