/* dejavm info */
#include "tools/commands.h"
#include "tools/interrupt.h"
#include "tools/json.h"
#include "tools/session.h"
#include "tools/status.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MARKS_MAX = 64, MARK_BYTES = 240 };

/* What a pass over the events finds. */
struct census {
    uint64_t by_type[EVENT_TYPE_COUNT];
    uint64_t by_type_total;
    uint64_t landmarks;
    uint64_t console_bytes;
    char crash[MARK_BYTES]; /* the first that the guest or a device told of, or "" */
    position_t crash_position;
    uint64_t marks;
    char mark[MARKS_MAX][MARK_BYTES];
    size_t mark_count;
    bool have_end;
    enum trace_end end;
    uint32_t status;
    char end_message[512];
    position_t last_position;
};

static void copy_text(char *out, size_t size, const uint8_t *data, size_t length)
{
    size_t count = length < size - 1 ? length : size - 1;
    if (count)
        memcpy(out, data, count);
    out[count] = '\0';
}

static void note_crash(struct census *c, const struct event *e)
{
    size_t length;
    const uint8_t *text = event_crash_text(e, &length);
    if (c->crash[0] || !text)
        return;
    copy_text(c->crash, sizeof(c->crash), text, length);
    c->crash_position = e->position;
}

static void count_event(struct census *c, const struct event *e)
{
    if (e->type > 0 && e->type < EVENT_TYPE_COUNT)
        c->by_type[e->type]++;
    c->by_type_total++;
    c->landmarks += e->place == PLACE_LANDMARK;
    if (e->position != POSITION_UNKNOWN)
        c->last_position = e->position;
    if (e->type == EVENT_CONSOLE)
        c->console_bytes += e->data_length;
    if (e->type == EVENT_MARK) {
        c->marks++;
        note_crash(c, e);
        if (c->mark_count < MARKS_MAX)
            copy_text(c->mark[c->mark_count++], MARK_BYTES, e->data, e->data_length);
    }
    if (e->type == EVENT_END) {
        c->have_end = true;
        c->end = (enum trace_end)e->source;
        c->status = (uint32_t)e->value;
        copy_text(c->end_message, sizeof(c->end_message), e->data, e->data_length);
    }
}

static int take_census(struct trace_reader *reader, struct census *c, struct error *err)
{
    struct trace_cursor *cursor;
    struct event event;
    struct progress progress;
    uint64_t total = trace_reader_info(reader)->events;
    int code = trace_cursor_open(&cursor, reader, 0, err);
    if (code)
        return code;
    interrupt_catch();
    progress_begin(&progress, "counting events", false);
    while ((code = trace_cursor_next(cursor, &event, err)) == 1) {
        count_event(c, &event);
        if (c->by_type_total % 65536 == 0) {
            progress_update(&progress, c->by_type_total, total);
            if (interrupt_count() > 0) {
                code = error_set(err, -EINTR, "interrupted");
                break;
            }
        }
    }
    progress_end(&progress);
    trace_cursor_close(cursor);
    return code;
}

static const char *start_time(int64_t seconds, char *out, size_t size)
{
    struct tm tm;
    time_t t = (time_t)seconds;
    if (!gmtime_r(&t, &tm) || !strftime(out, size, "%Y-%m-%d %H:%M:%S UTC", &tm))
        snprintf(out, size, "%" PRId64 " s since 1970", seconds);
    return out;
}

static void put_field(const char *name, const char *value)
{
    printf("%-14s ", name);
    put_printable(stdout, (const uint8_t *)value, strlen(value));
    putchar('\n');
}

static void print_recording(const struct trace_info *info, const char *path)
{
    char time_text[64];
    struct number_text ram, image;
    put_field("trace", path);
    put_field("guest", info->meta.guest_path);
    printf("%-14s ", "guest format");
    put_printable(stdout, (const uint8_t *)info->meta.guest_format, strlen(info->meta.guest_format));
    printf(", %s\n", bytes_format(info->image_length, &image));
    if (info->meta.command_line[0])
        put_field("command line", info->meta.command_line);
    if (info->meta.initrd_path[0])
        put_field("initrd", info->meta.initrd_path);
    printf("%-14s %s\n", "memory", bytes_format(info->meta.ram_bytes, &ram));
    put_field("recorded", start_time(info->meta.start_time_s, time_text, sizeof(time_text)));
    put_field("engine", info->meta.engine);
    put_field("host CPU", info->meta.host_cpu);
    put_field("host system", info->meta.host_system);
    put_field("written by", info->meta.writer);
    printf("%-14s %" PRIu32 "\n", "trace format", info->format_version);
}

static void print_ending(const struct trace_info *info, const struct census *c)
{
    struct number_text number, keyframes;
    char end[640];
    trace_end_describe(c->have_end ? c->end : 0, c->status, c->end_message, end, sizeof(end));
    put_field("end", end);
    if (c->crash[0])
        put_field("crash", c->crash);
    if (c->crash[0] && c->crash_position != POSITION_UNKNOWN)
        printf("%-14s at position %s; 'dejavm crash' tells more\n", "",
               number_format(c->crash_position, &number));
    printf("%-14s %s\n", "cut short", info->cut_short ? "yes: what was written replays up to there" : "no");
    if (info->sealed)
        printf("%-14s yes: %s steps, %s keyframes, RAM digest at the end %016" PRIx64 "%016" PRIx64 "\n",
               "sealed", number_format(info->seal.end_position, &number),
               number_format(info->keyframes, &keyframes), info->seal.end_ram_digest.high,
               info->seal.end_ram_digest.low);
    else
        printf("%-14s no: the first command that replays it does so\n", "sealed");
}

static void print_counts(const struct trace_info *info, const struct census *c)
{
    struct number_text a, b;
    printf("%-14s %s\n", "events", number_format(info->events, &a));
    for (int type = 1; type < EVENT_TYPE_COUNT; type++)
        if (c->by_type[type])
            printf("  %-12s %15s\n", event_type_name((enum event_type)type),
                   number_format(c->by_type[type], &a));
    if (c->landmarks)
        printf("%-14s %s\n", "landmarks", number_format(c->landmarks, &a));
    printf("%-14s %s\n", "console", bytes_format(c->console_bytes, &a));
    printf("%-14s %s in %s chunks, %" PRIu64 " stored pages\n", "file size",
           bytes_format(info->file_bytes, &a), number_format(info->chunks, &b), info->stored_pages);
    const struct {
        const char *name;
        uint64_t bytes;
    } sizes[] = {{"events", info->bytes_events},       {"pages", info->bytes_pages},
                 {"keyframes", info->bytes_keyframes}, {"positions", info->bytes_positions},
                 {"guest image", info->bytes_image},   {"other", info->bytes_other}};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
        printf("  %-12s %15s\n", sizes[i].name, bytes_format(sizes[i].bytes, &a));
    for (size_t i = 0; i < c->mark_count; i++)
        put_field(i == 0 ? "notes" : "", c->mark[i]);
    if (c->marks > c->mark_count)
        printf("%-14s and %" PRIu64 " more; 'dejavm dump' shows all\n", "", c->marks - c->mark_count);
}

static void recording_json(struct json *j, const struct trace_info *info)
{
    json_object(j, "recording");
    json_string(j, "guest", info->meta.guest_path);
    json_string(j, "guest_format", info->meta.guest_format);
    json_u64(j, "guest_bytes", info->image_length);
    json_string(j, "command_line", info->meta.command_line);
    json_string(j, "initrd", info->meta.initrd_path);
    json_u64(j, "ram_bytes", info->meta.ram_bytes);
    json_i64(j, "start_time", info->meta.start_time_s);
    json_string(j, "engine", info->meta.engine);
    json_string(j, "host_cpu", info->meta.host_cpu);
    json_string(j, "host_system", info->meta.host_system);
    json_string(j, "writer", info->meta.writer);
    json_close_object(j);
}

static void ending_json(struct json *j, const struct trace_info *info, const struct census *c)
{
    char text[33];
    if (c->have_end) {
        json_object(j, "end");
        json_string(j, "kind", trace_end_name(c->end));
        json_u64(j, "status", c->status);
        json_string(j, "message", c->end_message);
        json_close_object(j);
    } else {
        json_null(j, "end");
    }
    if (c->crash[0]) {
        json_object(j, "crash");
        json_string(j, "text", c->crash);
        json_position(j, "position", c->crash_position);
        json_close_object(j);
    } else {
        json_null(j, "crash");
    }
    json_bool(j, "cut_short", info->cut_short);
    json_bool(j, "sealed", info->sealed);
    if (!info->sealed) {
        json_null(j, "seal");
        return;
    }
    json_object(j, "seal");
    json_u64(j, "end_position", info->seal.end_position);
    json_u64(j, "interrupts", info->seal.interrupts);
    json_u64(j, "console_bytes", info->seal.console_bytes);
    json_u64(j, "keyframes", info->keyframes);
    snprintf(text, sizeof(text), "%016" PRIx64 "%016" PRIx64, info->seal.end_ram_digest.high,
             info->seal.end_ram_digest.low);
    json_string(j, "end_ram_digest", text);
    json_close_object(j);
}

static void counts_json(struct json *j, const struct trace_info *info, const struct census *c)
{
    json_u64(j, "events", info->events);
    json_object(j, "events_by_type");
    for (int type = 1; type < EVENT_TYPE_COUNT; type++)
        json_u64(j, event_type_name((enum event_type)type), c->by_type[type]);
    json_close_object(j);
    json_u64(j, "landmarks", c->landmarks);
    json_u64(j, "console_bytes", c->console_bytes);
    json_object(j, "file");
    json_u64(j, "bytes", info->file_bytes);
    json_u64(j, "chunks", info->chunks);
    json_u64(j, "stored_pages", info->stored_pages);
    json_u64(j, "bytes_events", info->bytes_events);
    json_u64(j, "bytes_pages", info->bytes_pages);
    json_u64(j, "bytes_keyframes", info->bytes_keyframes);
    json_u64(j, "bytes_positions", info->bytes_positions);
    json_u64(j, "bytes_image", info->bytes_image);
    json_u64(j, "bytes_other", info->bytes_other);
    json_close_object(j);
    json_array(j, "marks");
    for (size_t i = 0; i < c->mark_count; i++)
        json_string(j, NULL, c->mark[i]);
    json_close_array(j);
    json_u64(j, "marks_total", c->marks);
}

static void print_json(const char *path, const struct trace_info *info, const struct census *c)
{
    struct json j;
    json_begin(&j, stdout);
    json_string(&j, "trace", path);
    json_u64(&j, "format_version", info->format_version);
    recording_json(&j, info);
    ending_json(&j, info, c);
    counts_json(&j, info, c);
    json_end(&j);
}

static int run(const struct arguments *arguments)
{
    struct error err = {0};
    struct trace_reader *reader = NULL;
    const char *path = arguments->operand[0];
    struct census *census = calloc(1, sizeof(*census));
    int status;
    if (!census) {
        message("out of memory");
        return STATUS_FAILURE;
    }
    if (trace_reader_open(&reader, path, &err) || take_census(reader, census, &err)) {
        status = session_fail(&err);
    } else {
        const struct trace_info *info = trace_reader_info(reader);
        if (argument_flag(arguments, "json")) {
            print_json(path, info, census);
        } else {
            print_recording(info, path);
            print_ending(info, census);
            print_counts(info, census);
        }
        status = finish_output(STATUS_OK);
    }
    trace_reader_close(reader);
    free(census);
    return status;
}

static const char *const paragraphs[] = {
    "Shows what a trace holds: the guest and how it was recorded, how it ended, whether the recording is "
    "whole and sealed, "
    "how many events of each kind there are, what takes how much room in the file, and the recorder's notes, "
    "among "
    "them accesses to ports and addresses where no device is.",
    "Only reads: the trace is not sealed by this.",
    NULL,
};
static const struct option_spec options[] = {{.name = "json", .text = "Print JSON."}, {0}};
static const struct operand_spec operands[] = {{.name = "TRACE", .text = "The trace file."}, {0}};
static const struct example_spec examples[] = {
    {"dejavm info kernel.dvm", "What is in this file?"},
    {0},
};

const struct command command_info = {
    .name = "info",
    .summary = "show what a trace holds and how it was recorded",
    .paragraphs = paragraphs,
    .options = options,
    .operands = operands,
    .examples = examples,
    .run = run,
};
