#include "tools/session.h"
#include "tools/interrupt.h"
#include "tools/status.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct sealing {
    struct progress progress;
    uint64_t events; /* of the whole trace */
    unsigned interrupts_before;
};

static bool sealing_progress(void *context, position_t position, uint64_t events)
{
    struct sealing *s = context;
    (void)position;
    progress_update(&s->progress, events, s->events);
    return interrupt_count() > s->interrupts_before;
}

/* What the trace says of itself. */
static int read_info(const char *path, struct trace_info *out, struct error *err)
{
    struct trace_reader *reader;
    int code = trace_reader_open(&reader, path, err);
    if (code)
        return code;
    *out = *trace_reader_info(reader);
    memset(&out->meta, 0, sizeof(out->meta)); /* its strings end with the reader */
    trace_reader_close(reader);
    return 0;
}

int session_seal_after(const char *path, unsigned interrupts_before, struct replay_totals *totals,
                       struct error *err)
{
    struct trace_info info;
    struct sealing sealing = {.interrupts_before = interrupts_before};
    struct replay_hooks hooks = {.progress = sealing_progress, .context = &sealing};
    int code = read_info(path, &info, err);
    if (code)
        return code;
    interrupt_catch();
    sealing.events = info.events;
    progress_begin(&sealing.progress, "sealing", false);
    code = replay_seal(path, &hooks, totals, err);
    progress_end(&sealing.progress);
    return code;
}

int session_seal(const char *path, struct replay_totals *totals, struct error *err)
{
    return session_seal_after(path, interrupt_count(), totals, err);
}

int session_seal_on_demand(const char *path, struct replay_totals *totals, struct error *err)
{
    struct trace_info info;
    int code = read_info(path, &info, err);
    if (code)
        return code;
    if (info.sealed)
        return SEAL_WAS_SEALED;
    if (access(path, W_OK)) {
        message("%s: not sealed, and sealing it is not possible: %s\n"
                "Going on without: each command replays it from the start.",
                path, strerror(errno));
        return SEAL_NOT_DONE;
    }
    struct error *why = calloc(1, sizeof(*why));
    if (!why)
        return error_set(err, -ENOMEM, "out of memory");
    code = session_seal(path, totals, why);
    if (code == 0) {
        free(why);
        return SEAL_DONE;
    }
    if (code == -EINTR || why->kind == ERROR_DAMAGED) {
        *err = *why;
    } else {
        if (why->kind != ERROR_DIVERGENCE)
            message("%s: could not be sealed: %s\nGoing on without: each command replays it from the start.",
                    path, why->message);
        code = SEAL_NOT_DONE;
    }
    free(why);
    return code;
}

static bool session_progress(void *context, position_t position, uint64_t events)
{
    struct session *s = context;
    (void)events;
    if (!s->quiet)
        progress_update(&s->progress, position, s->target == POSITION_UNKNOWN ? 0 : s->target);
    return interrupt_count() > 0;
}

static void session_console(void *context, unsigned channel, const uint8_t *data, size_t length)
{
    struct session *s = context;
    if (s->console)
        s->console(s->context, channel, data, length);
}

int session_stages(enum emu_stages *out, struct error *err)
{
    const char *text = getenv("DEJAVM_EMU_STAGES");
    if (!emu_stages_parse(text, out))
        return error_set(err, -EINVAL, "DEJAVM_EMU_STAGES is '%s': it can be 1, 2 or mixed", text);
    return 0;
}

static int stages_from_environment(struct replay *replay, struct error *err)
{
    enum emu_stages stages;
    int code = session_stages(&stages, err);
    if (code == 0)
        replay_set_stages(replay, stages);
    return code;
}

int session_open(struct session *s, const char *path, struct error *err)
{
    struct replay_hooks hooks = {.console = session_console, .progress = session_progress, .context = s};
    int code = s->as_it_is ? 0 : session_seal_on_demand(path, NULL, err);
    s->path = path;
    s->replay = NULL;
    s->end = s->target = POSITION_UNKNOWN;
    if (code < 0)
        return code;
    interrupt_catch();
    code = replay_open(&s->replay, path, &hooks, err);
    if (code == 0)
        code = stages_from_environment(s->replay, err);
    if (code)
        return code;
    const struct trace_info *info = trace_reader_info(replay_reader(s->replay));
    s->sealed = info->sealed;
    if (s->sealed)
        s->end = info->seal.end_position;
    return 0;
}

void session_close(struct session *s)
{
    replay_close(s->replay);
    s->replay = NULL;
}

/* A second replay looks for the end, so that the first one and its console stay where they are. */
int session_end(struct session *s, position_t *end, struct error *err)
{
    struct replay *scout;
    struct session looking = {.target = POSITION_UNKNOWN, .quiet = s->quiet};
    struct replay_hooks hooks = {.progress = session_progress, .context = &looking};
    if (s->end == POSITION_UNKNOWN) {
        int code = replay_open(&scout, s->path, &hooks, err);
        if (code)
            return code;
        progress_begin(&looking.progress, "looking for the end", s->quiet);
        code = replay_run(scout, POSITION_UNKNOWN, err);
        progress_end(&looking.progress);
        s->end = replay_position(scout);
        replay_close(scout);
        if (code) {
            s->end = POSITION_UNKNOWN;
            return code;
        }
    }
    *end = s->end;
    return 0;
}

int session_resolve(struct session *s, const struct position_argument *argument, position_t *out,
                    struct error *err)
{
    position_t end;
    if (argument->kind == POSITION_IS_NUMBER && s->end == POSITION_UNKNOWN) {
        *out = argument->number; /* whether it is beyond the end shows when we get there */
        return 0;
    }
    int code = session_end(s, &end, err);
    if (code)
        return code;
    *out = position_resolve(argument, end);
    if (*out > end)
        return error_set(err, -ERANGE,
                         "%s: position %" PRIu64 " is beyond the end of the trace, which is at %" PRIu64,
                         s->path, *out, end);
    return 0;
}

int session_run(struct session *s, position_t position, struct error *err)
{
    s->target = position == POSITION_UNKNOWN ? s->end : position;
    progress_begin(&s->progress, "replaying", s->quiet);
    int code = replay_run(s->replay, position, err);
    progress_end(&s->progress);
    return code;
}

int session_seek(struct session *s, position_t position, struct error *err)
{
    s->target = position;
    progress_begin(&s->progress, "replaying", s->quiet);
    int code = replay_seek(s->replay, position, err);
    progress_end(&s->progress);
    return code;
}

int session_fail(const struct error *err)
{
    if (err->code == -EINTR && interrupt_count() > 0) {
        fflush(stdout);
        interrupt_die();
    }
    return fail(err);
}

bool session_position_option(const struct arguments *arguments, const char *option,
                             struct position_argument *out)
{
    const char *text = argument_value(arguments, option, NULL);
    if (!text || position_parse(text, out))
        return true;
    usage_error(arguments->command,
                "--%s: '%.100s' is not a position (a number such as 1_000_000, \"end\", or a percentage)",
                option, text);
    return false;
}

void trace_end_describe(enum trace_end end, uint32_t status, const char *text, char *out, size_t size)
{
    switch (end) {
    case TRACE_END_DEBUG_EXIT:
        snprintf(out, size, "debug-exit status %" PRIu32, status);
        return;
    case TRACE_END_SHUTDOWN:
        snprintf(out, size, "triple fault");
        return;
    case TRACE_END_HALTED:
        snprintf(out, size, "halted with interrupts off");
        return;
    case TRACE_END_TIMEOUT:
        snprintf(out, size, "timeout");
        return;
    case TRACE_END_MAX_STEPS:
        snprintf(out, size, "limit of steps reached");
        return;
    case TRACE_END_STOPPED:
        snprintf(out, size, "stopped by the user");
        return;
    case TRACE_END_RESET:
        snprintf(out, size, "reset");
        return;
    case TRACE_END_POWEROFF:
        snprintf(out, size, "power off");
        return;
    case TRACE_END_ERROR:
        snprintf(out, size, "error: %s", text && *text ? text : "unknown");
        return;
    }
    snprintf(out, size, "cut short: the recording has no end");
}

void put_printable(FILE *out, const uint8_t *data, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (data[i] == '\n')
            fputs("\\n", out);
        else if (data[i] == '\r')
            fputs("\\r", out);
        else if (data[i] < 0x20 || data[i] >= 0x7f)
            fprintf(out, "\\x%02x", data[i]);
        else
            putc(data[i], out);
    }
}
