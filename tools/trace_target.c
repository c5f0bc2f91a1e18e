#include "tools/trace_target.h"
#include "core/x86/inspect.h"
#include "tools/monitor.h"
#include "tools/session.h"
#include "tools/trace_linux.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SYMBOL_FILE_MAX_BYTES ((off_t)2 << 30)

static struct trace_target *of(struct debug_target *target)
{
    return container_of(target, struct trace_target, target);
}

/* ---- looking ---- */

static const struct vcpu_state *target_state(struct debug_target *target)
{
    return trace_target_state(of(target));
}

static size_t target_read(struct debug_target *target, gva_t address, void *out, size_t length)
{
    struct trace_target *t = of(target);
    return x86_read_virtual(trace_target_ram(t), trace_target_state(t), address, out, length);
}

size_t debug_read_physical(const struct guest_ram *ram, gpa_t address, void *out, size_t length)
{
    size_t done = 0;
    while (done < length) {
        gpa_t at = address + done;
        size_t part = PAGE_SIZE_BYTES - (at & PAGE_MASK);
        if (part > length - done)
            part = length - done;
        if (at < address || ram_read(ram, at, (uint8_t *)out + done, part) != 0)
            break;
        done += part;
    }
    return done;
}

static size_t target_read_physical(struct debug_target *target, gpa_t address, void *out, size_t length)
{
    return debug_read_physical(trace_target_ram(of(target)), address, out, length);
}

/* ---- history cannot be changed ---- */

static int read_only(const char *what, struct error *err)
{
    return error_set(err, -EROFS, "this is a recording: %s can be read, but not changed", what);
}

static int target_set_state(struct debug_target *target, const struct vcpu_state *state, struct error *err)
{
    (void)target;
    (void)state;
    return read_only("registers", err);
}

static int target_write(struct debug_target *target, gva_t address, const void *data, size_t length,
                        struct error *err)
{
    (void)target;
    (void)address;
    (void)data;
    (void)length;
    return read_only("memory", err);
}

/* ---- moving ---- */

static int target_insert(struct debug_target *target, enum debug_point_kind kind, gva_t address,
                         uint64_t length, struct error *err)
{
    return trace_points_insert(&of(target)->points, kind, address, length, err);
}

static int target_remove(struct debug_target *target, enum debug_point_kind kind, gva_t address,
                         uint64_t length, struct error *err)
{
    (void)err;
    trace_points_remove(&of(target)->points, kind, address, length);
    return 0;
}

static void report_break(const struct trace_target *t, struct debug_stop *stop)
{
    const struct trace_point *point = trace_points_break_at(&t->points, trace_target_pc(t));
    stop->reason = DEBUG_STOP_BREAK;
    stop->point = point ? point->kind : DEBUG_BREAK_SOFTWARE;
    stop->address = trace_target_pc(t);
}

/* The address that was accessed: GDB finds all of its watchpoints that it lies in. */
static void report_watch(const struct trace_point *point, gva_t address, struct debug_stop *stop)
{
    stop->reason = DEBUG_STOP_WATCH;
    stop->point = point ? point->kind : DEBUG_WATCH_WRITE;
    stop->address = address;
}

static void report_catch(const struct timeline_stop *at, bool backwards, struct debug_stop *stop)
{
    char what[80];
    const char *state = backwards ? "about to happen" : "happened";
    trace_catch_describe_hit(&at->hit, what, sizeof(what));
    stop->reason = DEBUG_STOP_CATCH;
    snprintf(stop->text, sizeof(stop->text), "caught: %s, %s (position %" PRIu64 ")", what, state,
             at->position);
}

static void report_caught_event(const struct timeline_stop *at, struct debug_stop *stop)
{
    char what[80];
    trace_catch_describe_event(&at->event, what, sizeof(what));
    stop->reason = DEBUG_STOP_CATCH;
    snprintf(stop->text, sizeof(stop->text), "caught: %s, about to happen (position %" PRIu64 ")", what,
             at->position);
}

static void report(const struct trace_target *t, const struct timeline_stop *at, bool backwards, bool stepped,
                   struct debug_stop *stop)
{
    switch (at->reason) {
    case TIMELINE_STOP_BREAK:
        report_break(t, stop);
        return;
    case TIMELINE_STOP_WATCH:
        report_watch(trace_points_watch_hit(&t->points, &at->hit), at->hit.address, stop);
        return;
    case TIMELINE_STOP_CATCH:
        report_catch(at, backwards, stop);
        return;
    case TIMELINE_STOP_EVENT:
        report_caught_event(at, stop);
        return;
    case TIMELINE_STOP_INTERRUPTED:
        stop->reason = DEBUG_STOP_INTERRUPTED;
        return;
    case TIMELINE_STOP_BEGIN:
        stop->reason = stepped ? DEBUG_STOP_STEP : DEBUG_STOP_HISTORY_BEGIN;
        return;
    case TIMELINE_STOP_END:
        stop->reason = stepped ? DEBUG_STOP_STEP : DEBUG_STOP_HISTORY_END;
        return;
    case TIMELINE_STOP_TARGET:
        break;
    }
    stop->reason = DEBUG_STOP_STEP;
}

static int target_resume(struct debug_target *target, enum debug_direction direction, bool step,
                         bool (*interrupted)(void *context), void *context, struct debug_stop *stop,
                         struct error *err)
{
    struct trace_target *t = of(target);
    const struct timeline_interrupt interrupt = {interrupted, context};
    struct timeline_stop at = {0};
    position_t start = timeline_position(t->timeline);
    bool backwards = direction == DEBUG_BACKWARDS;
    *stop = (struct debug_stop){0};
    if (backwards ? start == 0 : start >= t->end) {
        stop->reason = backwards ? DEBUG_STOP_HISTORY_BEGIN : DEBUG_STOP_HISTORY_END;
        return 0;
    }
    int code = trace_points_prepare(&t->points, step, err);
    if (code)
        return code;
    if (backwards)
        code =
            timeline_backward(t->timeline, &t->points.prepared, step ? start - 1 : 0, &interrupt, &at, err);
    else
        code = timeline_forward(t->timeline, &t->points.prepared, step ? start + 1 : POSITION_UNKNOWN,
                                &interrupt, &at, err);
    if (code == 0)
        report(t, &at, backwards, step && timeline_position(t->timeline) != start, stop);
    if (code == -EINTR) {
        stop->reason = DEBUG_STOP_INTERRUPTED;
        code = 0;
    }
    return code;
}

static bool target_can_reverse(struct debug_target *target)
{
    (void)target;
    return true;
}

static int target_monitor(struct debug_target *target, const char *command, struct buffer *out, bool *moved,
                          bool (*interrupted)(void *context), void *context, struct error *err)
{
    return monitor_run(of(target), command, out, moved, (struct timeline_interrupt){interrupted, context},
                       err);
}

static const struct debug_target_ops target_ops = {
    .state = target_state,
    .set_state = target_set_state,
    .read = target_read,
    .read_physical = target_read_physical,
    .write = target_write,
    .write_physical = target_write,
    .insert_point = target_insert,
    .remove_point = target_remove,
    .resume = target_resume,
    .monitor = target_monitor,
    .can_reverse = target_can_reverse,
    .thread_current = trace_linux_thread_current,
    .thread_list = trace_linux_thread_list,
    .thread_text = trace_linux_thread_text,
    .thread_state = trace_linux_thread_state,
    .read_in = trace_linux_read_in,
};

/* ---- opening ---- */

static void print_console(void *context, unsigned channel, const uint8_t *data, size_t length)
{
    struct trace_target *t = context;
    (void)channel;
    if (t->console)
        t->console(t->console_context, data, length);
}

/* How the recording ended. */
static int read_end(struct trace_target *t, struct error *err)
{
    const struct trace_info *info = trace_reader_info(t->reader);
    struct trace_cursor *cursor;
    if (!info->complete || info->events == 0)
        return 0;
    int code = trace_cursor_open(&cursor, t->reader, info->events - 1, err);
    if (code)
        return code;
    code = trace_cursor_next(cursor, &t->end_event, err);
    if (code != 1 || t->end_event.type != EVENT_END)
        t->end_event = (struct event){0};
    t->end_event.data = NULL;
    t->end_event.data_length = 0;
    trace_cursor_close(cursor);
    return code < 0 ? code : 0;
}

static int open_target(struct trace_target **out, const char *path, uint64_t memory_budget_bytes,
                       bool growing, struct error *err)
{
    struct trace_target *t = calloc(1, sizeof(*t));
    *out = NULL;
    if (!t)
        return error_set(err, -ENOMEM, "out of memory");
    const struct timeline_options options = {.memory_budget_bytes = memory_budget_bytes,
                                             .console = print_console,
                                             .context = t,
                                             .growing = growing};
    t->target.ops = &target_ops;
    t->path = strdup(path);
    t->kernel = calloc(1, sizeof(*t->kernel));
    int code = t->path && t->kernel ? timeline_open(&t->timeline, path, &options, err)
                                    : error_set(err, -ENOMEM, "out of memory");
    if (code == 0 && growing)
        t->reader = replay_reader(timeline_replay(t->timeline)); /* which learns the events' positions */
    else if (code == 0)
        code = trace_reader_open(&t->own_reader, path, err);
    if (code == 0 && t->own_reader)
        t->reader = t->own_reader;
    if (code == 0)
        code = read_end(t, err);
    if (code) {
        trace_target_close(t);
        return code;
    }
    t->end = timeline_end(t->timeline);
    *out = t;
    return 0;
}

int trace_target_open(struct trace_target **out, const char *path, uint64_t memory_budget_bytes,
                      struct error *err)
{
    return open_target(out, path, memory_budget_bytes, false, err);
}

int trace_target_open_growing(struct trace_target **out, const char *path, uint64_t memory_budget_bytes,
                              struct error *err)
{
    return open_target(out, path, memory_budget_bytes, true, err);
}

int trace_target_extend(struct trace_target *t, const struct timeline_interrupt *interrupt, struct error *err)
{
    int code = timeline_extend(t->timeline, interrupt, err);
    t->end = timeline_end(t->timeline);
    return code ? code : read_end(t, err);
}

void trace_target_close(struct trace_target *t)
{
    if (!t)
        return;
    for (size_t i = 0; i < t->table_count; i++)
        symbols_destroy(t->tables[i]);
    if (t->kernel)
        linux_session_close(t->kernel);
    free(t->kernel);
    trace_points_free(&t->points);
    trace_reader_close(t->own_reader);
    timeline_close(t->timeline);
    free(t->marks);
    free(t->path);
    free(t);
}

int trace_target_events(struct trace_target *t, uint64_t index, struct trace_cursor **out, struct error *err)
{
    return trace_cursor_open(out, t->reader, index, err);
}

bool trace_target_crashed(const struct trace_target *t, char *why, size_t size)
{
    const struct event *e = &t->end_event;
    bool crashed = e->type == EVENT_END &&
                   (e->source == TRACE_END_SHUTDOWN || (e->source == TRACE_END_DEBUG_EXIT && e->value != 0));
    trace_end_describe((enum trace_end)e->source, (uint32_t)e->value, NULL, why, size);
    return crashed;
}

int trace_target_goto(struct trace_target *t, position_t position, const struct timeline_interrupt *interrupt,
                      struct error *err)
{
    if (position > t->end)
        return error_set(err, -ERANGE,
                         "position %" PRIu64 " is beyond the end of the trace, which is at %" PRIu64,
                         position, t->end);
    return timeline_goto(t->timeline, position, interrupt, err);
}

gva_t trace_target_pc(const struct trace_target *t)
{
    const struct vcpu_state *s = trace_target_state(t);
    return vcpu_in_64bit_code(s) ? s->rip : (uint32_t)(s->seg[SEG_CS].base + s->rip);
}

/* ---- symbols ---- */

/* A kernel's own image has its symbols where it was linked, not where it was moved to. */
static uint64_t kernel_offset(const struct trace_target *t, const struct symbols *table)
{
    gva_t banner, text;
    bool kernel = t->kernel->guest && symbols_find(table, "linux_banner", &banner) &&
                  symbols_find(table, "_text", &text);
    return kernel ? linux_guest_base(t->kernel->guest) - text : 0;
}

int trace_target_add_symbols(struct trace_target *t, const char *path, struct error *err)
{
    struct stat st;
    if (t->table_count == SYMBOL_TABLES_MAX)
        return error_set(err, -ENOSPC, "more than %d files with symbols", SYMBOL_TABLES_MAX);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_errno(err, -errno, "%s", path);
    int code = fstat(fd, &st) ? error_errno(err, -errno, "%s", path) : 0;
    if (code == 0 && (!S_ISREG(st.st_mode) || st.st_size == 0 || st.st_size > SYMBOL_FILE_MAX_BYTES))
        code = error_set(err, -EINVAL, "%s: not a file with symbols", path);
    if (code == 0) {
        size_t length = (size_t)st.st_size;
        void *image = mmap(NULL, length, PROT_READ, MAP_PRIVATE, fd, 0);
        if (image == MAP_FAILED) {
            code = error_errno(err, -errno, "%s", path);
        } else {
            code = symbols_create(&t->tables[t->table_count], image, length, err);
            if (code == 0) {
                t->table_offsets[t->table_count] = kernel_offset(t, t->tables[t->table_count]);
                t->table_count++;
            }
            munmap(image, length);
        }
    }
    close(fd);
    return code;
}

const char *trace_target_describe(const struct trace_target *t, gva_t address, char *out, size_t size)
{
    symbols_describe(replay_symbols(timeline_replay(t->timeline)), address, out, size);
    for (size_t i = 0; !out[0] && i < t->table_count; i++)
        symbols_describe(t->tables[i], address - t->table_offsets[i], out, size);
    if (size > 0 && !out[0])
        trace_linux_describe(t, address, out, size);
    return out;
}

bool trace_target_find_symbol(const struct trace_target *t, const char *name, gva_t *address)
{
    if (symbols_find(replay_symbols(timeline_replay(t->timeline)), name, address))
        return true;
    for (size_t i = 0; i < t->table_count; i++)
        if (symbols_find(t->tables[i], name, address)) {
            *address += t->table_offsets[i];
            return true;
        }
    return trace_linux_symbol(t, name, address);
}
