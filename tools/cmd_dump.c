/* dejavm dump */
#include "tools/commands.h"
#include "tools/event_view.h"
#include "tools/interrupt.h"
#include "tools/json.h"
#include "tools/session.h"
#include "tools/status.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

static const char *const place_names[] = {"crossing", "position", "after", "landmark", "previous"};

static const char *place_name(enum event_place place)
{
    return (size_t)place < ARRAY_LEN(place_names) ? place_names[place] : "unknown";
}

static void details_json(struct json *j, const struct event *e)
{
    char text[33];
    switch (e->type) {
    case EVENT_PIO_READ:
    case EVENT_PIO_WRITE:
    case EVENT_MMIO_READ:
    case EVENT_MMIO_WRITE:
        json_u64(j, "address", e->address);
        json_u64(j, "size", e->size);
        json_u64(j, "value", e->value);
        break;
    case EVENT_CPU_READ:
        json_string(j, "source", event_source_name(e->source));
        json_u64(j, "value", e->value);
        json_bool(j, "valid", e->flag);
        break;
    case EVENT_MSR_READ:
    case EVENT_MSR_WRITE:
        json_u64(j, "address", e->address);
        json_u64(j, "value", e->value);
        json_bool(j, "known", e->flag);
        break;
    case EVENT_INTERRUPT:
        json_u64(j, "vector", e->vector);
        break;
    case EVENT_DMA:
        json_u64(j, "address", e->address);
        json_hex(j, "data", e->data, e->data_length);
        break;
    case EVENT_DIGEST:
        json_u64(j, "registers", e->value);
        snprintf(text, sizeof(text), "%016" PRIx64 "%016" PRIx64, e->digest.high, e->digest.low);
        json_string(j, "ram", text);
        break;
    case EVENT_CONSOLE:
        json_u64(j, "channel", e->source);
        json_text(j, "text", e->data, e->data_length);
        json_hex(j, "data", e->data, e->data_length);
        break;
    case EVENT_MARK:
        json_text(j, "text", e->data, e->data_length);
        break;
    case EVENT_END:
        json_string(j, "end", trace_end_name((enum trace_end)e->source));
        json_u64(j, "status", e->value);
        json_text(j, "message", e->data, e->data_length);
        break;
    case EVENT_HALT:
    case EVENT_NMI:
    case EVENT_TYPE_COUNT:
        break;
    }
}

static void event_json(struct json *j, uint64_t index, const struct event *e)
{
    json_object_line(j, NULL);
    json_u64(j, "index", index);
    json_position(j, "position", e->position);
    json_string(j, "type", event_type_name(e->type));
    json_string(j, "place", place_name(e->place));
    details_json(j, e);
    if (e->place == PLACE_LANDMARK && e->landmark) {
        json_object_line(j, "landmark");
        json_u64(j, "rip", e->landmark->rip);
        json_u64(j, "rflags", e->landmark->rflags);
        json_u64(j, "pages", e->landmark->page_count);
        json_u64(j, "witnesses", e->landmark->witness_count);
        json_close_object(j);
    }
    json_close_object(j);
}

struct range {
    struct position_argument from, to;
    bool have_from, have_to;
    position_t first, last; /* resolved */
};

/* Positions are known in sealed traces, and in those that the emulator recorded. */
static int resolve(struct range *r, struct trace_reader *reader, uint64_t *first_event, struct error *err)
{
    const struct trace_info *info = trace_reader_info(reader);
    bool by_end = (r->have_from && r->from.kind != POSITION_IS_NUMBER) ||
                  (r->have_to && r->to.kind == POSITION_IS_PERCENT);
    *first_event = 0;
    if ((r->have_from || r->have_to) && !info->sealed && (by_end || !info->meta.positions))
        return error_set(
            err, -ENOTSUP,
            "the trace is not sealed, so its events have no positions: leave out --from and --to");
    position_t end = info->sealed ? info->seal.end_position : POSITION_UNKNOWN;
    r->first = r->have_from ? position_resolve(&r->from, end) : 0;
    r->last = r->have_to ? position_resolve(&r->to, end) : POSITION_UNKNOWN;
    return r->have_from ? trace_reader_find_event(reader, r->first, first_event, err) : 0;
}

static int print_events(struct trace_reader *reader, struct range *range, struct json *j, struct error *err)
{
    struct trace_cursor *cursor;
    struct event event;
    uint64_t index;
    int code = resolve(range, reader, &index, err);
    if (code)
        return code;
    code = trace_cursor_open(&cursor, reader, index, err);
    if (code)
        return code;
    if (!j)
        event_print_heading(stdout);
    while ((code = trace_cursor_next(cursor, &event, err)) == 1) {
        bool known = event.position != POSITION_UNKNOWN;
        if (range->have_to && known && event.position > range->last) {
            code = 0;
            break;
        }
        if (j)
            event_json(j, index, &event);
        else
            event_print(index, &event, stdout);
        index++;
        if (ferror(stdout) || interrupt_count() > 0) {
            code = 0;
            break;
        }
    }
    trace_cursor_close(cursor);
    return code;
}

/* The JSON is closed also after an error: what is there stays readable, and the exit status tells. */
static int dump(const char *path, struct range *range, bool as_json)
{
    struct error err = {0};
    struct trace_reader *reader;
    struct json json;
    if (session_seal_on_demand(path, NULL, &err) < 0 || trace_reader_open(&reader, path, &err))
        return session_fail(&err);
    if (as_json) {
        json_begin(&json, stdout);
        json_string(&json, "trace", path);
        json_array(&json, "events");
    }
    int code = print_events(reader, range, as_json ? &json : NULL, &err);
    if (as_json) {
        json_close_array(&json);
        json_end(&json);
    }
    trace_reader_close(reader);
    int status = finish_output(STATUS_OK);
    if (interrupt_count() > 0)
        interrupt_die();
    return code < 0 ? fail(&err) : status;
}

static int run(const struct arguments *arguments)
{
    struct range range = {0};
    if (!session_position_option(arguments, "from", &range.from) ||
        !session_position_option(arguments, "to", &range.to))
        return STATUS_USAGE;
    range.have_from = argument_value(arguments, "from", NULL) != NULL;
    range.have_to = argument_value(arguments, "to", NULL) != NULL;
    return dump(arguments->operand[0], &range, argument_flag(arguments, "json"));
}

static const char *const paragraphs[] = {
    "Prints the events of a trace, one per line: number, position, type, and what it carries. Inputs are "
    "what the guest "
    "read from outside and the interrupts it got; writes and digests are what replay checks.",
    NULL,
};
static const struct option_spec options[] = {
    {.name = "from", .value = "POS", .text = "Start with the first event at or after this position."},
    {.name = "to", .value = "POS", .text = "End with the last event at or before this position."},
    {.name = "json", .text = "Print JSON."},
    {0},
};
static const struct operand_spec operands[] = {{.name = "TRACE", .text = "The trace file."}, {0}};
static const struct example_spec examples[] = {
    {"dejavm dump kernel.dvm | grep interrupt", "When did interrupts arrive?"},
    {"dejavm dump kernel.dvm --from 99%", "What happened last."},
    {0},
};

const struct command command_dump = {
    .name = "dump",
    .summary = "list the events of a trace",
    .paragraphs = paragraphs,
    .options = options,
    .operands = operands,
    .examples = examples,
    .run = run,
};
