/* monitor: the trace's events, and what the guest printed. */
#include "tools/console.h"
#include "tools/event_view.h"
#include "tools/monitor.h"
#include "tools/number.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define EVENTS_SHOWN       10
#define EVENTS_SHOWN_MAX   1000
#define CONSOLE_SHOWN      ((size_t)64 << 10)
#define INTERRUPT_INTERVAL 4096 /* events between two looks at Ctrl-C */
#define SEARCH_MAX         256

static int run_events(struct monitor *m, const struct monitor_words *words, struct error *err);
static int run_console(struct monitor *m, const struct monitor_words *words, struct error *err);

enum { EVENTS, CONSOLE };
const struct monitor_command monitor_event_commands[] = {
    [EVENTS] = {"events", "[N]", "the N events around here (10); => is the first one that is still to come",
                run_events},
    [CONSOLE] = {"console", "", "what the guest has printed so far (the last 64 KiB)", run_console},
    {0},
};

/* Calls each for every event from index on, until it returns false or the trace ends. */
static int for_events(struct monitor *m, uint64_t index,
                      bool (*each)(void *context, uint64_t index, const struct event *event), void *context,
                      struct error *err)
{
    struct trace_cursor *cursor;
    struct event event;
    uint64_t count = 0;
    int code = trace_target_events(m->target, index, &cursor, err);
    if (code)
        return code;
    while ((code = trace_cursor_next(cursor, &event, err)) == 1) {
        if (!each(context, index++, &event)) {
            code = 0;
            break;
        }
        if (++count % INTERRUPT_INTERVAL == 0 && monitor_interrupted(m)) {
            code = monitor_was_interrupted(m, err);
            break;
        }
    }
    trace_cursor_close(cursor);
    return code < 0 ? code : 0;
}

/* ---- events ---- */

struct listing {
    struct monitor *m;
    uint64_t here; /* index of the first event to come */
    uint64_t end;
};

static bool list_event(void *context, uint64_t index, const struct event *event)
{
    struct listing *l = context;
    if (index >= l->end)
        return false;
    fputs(index == l->here ? "=>" : "  ", l->m->out);
    event_print(index, event, l->m->out);
    return true;
}

static int run_events(struct monitor *m, const struct monitor_words *words, struct error *err)
{
    struct listing l = {.m = m};
    uint64_t count = EVENTS_SHOWN;
    if (words->count > 1)
        return monitor_usage(&monitor_event_commands[EVENTS], err);
    int code = words->count ? monitor_length(words->word[0], EVENTS_SHOWN_MAX, &count, err) : 0;
    if (code == 0)
        code =
            trace_reader_find_event(m->target->reader, timeline_position(m->target->timeline), &l.here, err);
    if (code)
        return code;
    uint64_t events = trace_reader_info(m->target->reader)->events;
    uint64_t start = l.here > count / 2 ? l.here - count / 2 : 0;
    if (events >= count && start > events - count)
        start = events - count;
    l.end = start + count;
    fputs("  ", m->out);
    event_print_heading(m->out);
    return for_events(m, start, list_event, &l, err);
}

/* ---- console ---- */

struct collection {
    position_t here;
    struct buffer text; /* the last of it */
    uint64_t dropped;
};

static void drop_front(struct collection *c, size_t keep)
{
    size_t drop = c->text.length - keep;
    memmove(c->text.data, c->text.data + drop, keep);
    c->text.length = keep;
    c->dropped += drop;
}

static bool collect(void *context, uint64_t index, const struct event *event)
{
    struct collection *c = context;
    (void)index;
    if (event->position != POSITION_UNKNOWN && event->position >= c->here)
        return false;
    if (event->type == EVENT_CONSOLE && event->data_length > 0) {
        buffer_put(&c->text, event->data, event->data_length);
        if (c->text.length > 2 * CONSOLE_SHOWN)
            drop_front(c, CONSOLE_SHOWN);
    }
    return !c->text.failed;
}

static int run_console(struct monitor *m, const struct monitor_words *words, struct error *err)
{
    struct collection c = {.here = timeline_position(m->target->timeline)};
    if (words->count > 0)
        return monitor_usage(&monitor_event_commands[CONSOLE], err);
    int code = for_events(m, 0, collect, &c, err);
    if (code == 0 && c.text.failed)
        code = error_set(err, -ENOMEM, "no memory for the console's text");
    if (code == 0 && c.text.length > CONSOLE_SHOWN)
        drop_front(&c, CONSOLE_SHOWN);
    if (code == 0) {
        if (c.dropped)
            fprintf(m->out, "[%" PRIu64 " bytes before this]\n", c.dropped);
        put_guest_text(m->out, c.text.data, c.text.length);
        if (c.text.length == 0)
            fputs("[nothing printed so far]\n", m->out);
        else if (c.text.data[c.text.length - 1] != '\n')
            fputs("\n[no line feed yet]\n", m->out);
    }
    buffer_free(&c.text);
    return code;
}

/* ---- goto console ---- */

enum which_match { MATCH_FIRST, MATCH_LAST, MATCH_NEXT, MATCH_PREVIOUS };

/* Finds a text in what one channel prints, however it was cut into events: Knuth, Morris and Pratt's automaton. */
struct search {
    const uint8_t *text;
    size_t length;
    size_t fallback[SEARCH_MAX]; /* the longest border of text[0..i] */
    struct {
        size_t matched;
        uint64_t seen;
        position_t printed[SEARCH_MAX]; /* when the last bytes were, by number modulo length */
    } channel[CONSOLE_CHANNELS];
    enum which_match which;
    position_t here, found;
};

static void search_begin(struct search *s, const char *text, size_t length)
{
    s->text = (const uint8_t *)text;
    s->length = length;
    s->found = POSITION_UNKNOWN;
    for (size_t i = 1, k = 0; i < length; i++) {
        while (k > 0 && s->text[i] != s->text[k])
            k = s->fallback[k - 1];
        k += s->text[i] == s->text[k];
        s->fallback[i] = k;
    }
}

/* True when the byte completes the text; *start is when the text's first byte was printed. */
static bool search_byte(struct search *s, unsigned channel, uint8_t byte, position_t position,
                        position_t *start)
{
    size_t k = s->channel[channel].matched;
    uint64_t number = s->channel[channel].seen++;
    s->channel[channel].printed[number % s->length] = position;
    while (k > 0 && byte != s->text[k])
        k = s->fallback[k - 1];
    k += byte == s->text[k];
    s->channel[channel].matched = k;
    if (k < s->length)
        return false;
    *start = s->channel[channel].printed[(number + 1) % s->length];
    s->channel[channel].matched = s->fallback[k - 1];
    return true;
}

/* False when the search is over. */
static bool search_take(struct search *s, position_t start)
{
    switch (s->which) {
    case MATCH_FIRST:
        s->found = start;
        return false;
    case MATCH_LAST:
        s->found = start;
        return true;
    case MATCH_NEXT:
        if (start <= s->here)
            return true;
        s->found = start;
        return false;
    case MATCH_PREVIOUS:
        if (start >= s->here)
            return false;
        s->found = start;
        return true;
    }
    return false;
}

static bool search_event(void *context, uint64_t index, const struct event *event)
{
    struct search *s = context;
    position_t start;
    (void)index;
    if (event->type != EVENT_CONSOLE || event->source >= CONSOLE_CHANNELS)
        return true;
    for (size_t i = 0; i < event->data_length; i++)
        if (search_byte(s, event->source, event->data[i], event->position, &start) && !search_take(s, start))
            return false;
    return true;
}

static bool parse_which(const char *text, enum which_match *out)
{
    static const char *const names[] = {
        [MATCH_FIRST] = "first", [MATCH_LAST] = "last", [MATCH_NEXT] = "next", [MATCH_PREVIOUS] = "previous"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(text, names[i]) == 0) {
            *out = (enum which_match)i;
            return true;
        }
    }
    return false;
}

int monitor_goto_console(struct monitor *m, const char *text, const char *which, struct error *err)
{
    size_t length = strlen(text);
    enum which_match match;
    if (length == 0 || length > SEARCH_MAX)
        return error_set(err, -EINVAL, "the text to look for has 1 to %d characters", SEARCH_MAX);
    if (!parse_which(which, &match))
        return error_set(err, -EINVAL, "\"%.60s\": first, last, next or previous", which);
    struct search *s = calloc(1, sizeof(*s));
    if (!s)
        return error_set(err, -ENOMEM, "out of memory");
    s->which = match;
    s->here = timeline_position(m->target->timeline);
    search_begin(s, text, length);
    int code = for_events(m, 0, search_event, s, err);
    position_t found = s->found;
    free(s);
    if (code)
        return code;
    if (found == POSITION_UNKNOWN)
        return error_set(err, -ENODATA, "the guest does not print that%s",
                         match == MATCH_NEXT       ? " after here"
                         : match == MATCH_PREVIOUS ? " before here"
                                                   : "");
    return monitor_goto(m, found, err);
}
