/* Positions in a debugger's words. */
#include "tools/crash_site.h"
#include "tools/number.h"
#include "tools/trace_target.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum position_form {
    FORM_OTHER, /* a name, perhaps of a mark */
    FORM_START,
    FORM_CRASH,
    FORM_EVENT,
    FORM_FORWARDS,
    FORM_BACKWARDS,
    FORM_POSITION,
};

struct parsed_position {
    enum position_form form;
    uint64_t number;
    struct position_argument argument;
};

static bool parse(const char *text, struct parsed_position *out)
{
    static const char event[] = "event ";
    *out = (struct parsed_position){.form = FORM_POSITION};
    if (strcmp(text, "start") == 0)
        out->form = FORM_START;
    else if (strcmp(text, "crash") == 0)
        out->form = FORM_CRASH;
    else if (strncmp(text, event, sizeof(event) - 1) == 0)
        out->form = FORM_EVENT;
    else if (text[0] == '+' || text[0] == '-')
        out->form = text[0] == '+' ? FORM_FORWARDS : FORM_BACKWARDS;
    switch (out->form) {
    case FORM_EVENT:
        return number_parse(text + sizeof(event) - 1, &out->number);
    case FORM_FORWARDS:
    case FORM_BACKWARDS:
        return number_parse(text + 1, &out->number);
    case FORM_POSITION:
        if (!position_parse(text, &out->argument))
            out->form = FORM_OTHER;
        return out->form == FORM_POSITION;
    default:
        return true;
    }
}

bool trace_position_well_formed(const char *text)
{
    struct parsed_position parsed;
    return parse(text, &parsed);
}

static int position_of_event(struct trace_target *t, uint64_t index, position_t *out, struct error *err)
{
    struct trace_cursor *cursor;
    struct event event = {.position = POSITION_UNKNOWN};
    uint64_t events = trace_reader_info(t->reader)->events;
    if (index >= events)
        return error_set(err, -ERANGE, "there is no event %" PRIu64 ": the trace has %" PRIu64 ", from 0 on",
                         index, events);
    int code = trace_target_events(t, index, &cursor, err);
    if (code)
        return code;
    code = trace_cursor_next(cursor, &event, err);
    trace_cursor_close(cursor);
    if (code < 0)
        return code;
    *out = event.position;
    if (code == 0 || event.position == POSITION_UNKNOWN)
        return error_set(err, -ENODATA, "event %" PRIu64 " has no known position", index);
    return 0;
}

static int position_of_mark(const struct trace_target *t, const char *name, position_t *out,
                            struct error *err)
{
    for (size_t i = 0; i < t->mark_count; i++) {
        if (strcmp(t->marks[i].name, name) == 0) {
            *out = t->marks[i].position;
            return 0;
        }
    }
    return error_set(
        err, -EINVAL,
        "\"%.100s\" is not a position: a number, start, end, crash, event N, N%%, +N, -N, or the "
        "name of a mark",
        name);
}

static int beyond(const struct trace_target *t, const char *text, struct error *err)
{
    return error_set(err, -ERANGE, "%s is outside the trace, which goes from 0 to %" PRIu64, text, t->end);
}

int trace_target_where(struct trace_target *t, const char *text, position_t *out, struct error *err)
{
    struct parsed_position p;
    position_t here = timeline_position(t->timeline);
    int code = 0;
    if (!parse(text, &p))
        return position_of_mark(t, text, out, err);
    switch (p.form) {
    case FORM_START:
        *out = 0;
        break;
    case FORM_CRASH:
        code = crash_position(t, NULL, out, err);
        break;
    case FORM_EVENT:
        code = position_of_event(t, p.number, out, err);
        break;
    case FORM_FORWARDS:
        if (__builtin_add_overflow(here, p.number, out))
            return beyond(t, text, err);
        break;
    case FORM_BACKWARDS:
        if (__builtin_sub_overflow(here, p.number, out))
            return beyond(t, text, err);
        break;
    case FORM_POSITION:
    case FORM_OTHER:
        *out = position_resolve(&p.argument, t->end);
        break;
    }
    return code == 0 && *out > t->end ? beyond(t, text, err) : code;
}
