/* monitor: where the target stands, and going elsewhere. */
#include "core/x86/inspect.h"
#include "tools/event_view.h"
#include "tools/monitor.h"
#include "tools/number.h"
#include "tools/session.h"
#include "tools/state_view.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

void monitor_print_here(struct monitor *m)
{
    struct trace_target *t = m->target;
    position_t here = timeline_position(t->timeline);
    gva_t pc = trace_target_pc(t);
    char symbol[256], instruction[128];
    struct number_text a, b;
    trace_target_describe(t, pc, symbol, sizeof(symbol));
    x86_disassemble(trace_target_ram(t), trace_target_state(t), instruction, sizeof(instruction));
    fprintf(m->out, "position %s of %s (%.2f%%)\nrip 0x%" PRIx64 "%s%s: %s\n", number_format(here, &a),
            number_format(t->end, &b), t->end ? 100.0 * (double)here / (double)t->end : 100.0, pc,
            symbol[0] ? " " : "", symbol, instruction);
}

static int run_when(struct monitor *m, const struct monitor_words *words, struct error *err);
static int run_goto(struct monitor *m, const struct monitor_words *words, struct error *err);
static int run_mark(struct monitor *m, const struct monitor_words *words, struct error *err);
static int run_marks(struct monitor *m, const struct monitor_words *words, struct error *err);
static int run_info(struct monitor *m, const struct monitor_words *words, struct error *err);

enum { WHEN, GOTO, MARK, MARKS, INFO };
const struct monitor_command monitor_position_commands[] = {
    [WHEN] = {"when", "", "where we stand: position, instruction, and the next event", run_when},
    [GOTO] = {"goto", "POS|start|end|crash|event N|N%|+N|-N|NAME|console \"TEXT\" [first|last|next|previous]",
              "go there; console: to where the guest prints the text", run_goto},
    [MARK] = {"mark", "NAME", "give this position a name, for goto", run_mark},
    [MARKS] = {"marks", "", "list the names given", run_marks},
    [INFO] = {"info", "", "the trace, its end, the vCPU's mode, what is caught, and memory used", run_info},
    {0},
};

static int print_next_event(struct monitor *m, struct error *err)
{
    struct trace_target *t = m->target;
    struct trace_cursor *cursor;
    struct event event;
    uint64_t index;
    struct number_text position;
    int code = trace_reader_find_event(t->reader, timeline_position(t->timeline), &index, err);
    if (code == 0)
        code = trace_target_events(t, index, &cursor, err);
    if (code)
        return code;
    code = trace_cursor_next(cursor, &event, err);
    if (code == 1) {
        fprintf(m->out, "next event: %" PRIu64 " at %s, %s ", index,
                event.position == POSITION_UNKNOWN ? "?" : number_format(event.position, &position),
                event_type_name(event.type));
        event_print_details(&event, m->out);
        putc('\n', m->out);
    }
    trace_cursor_close(cursor);
    return code < 0 ? code : 0;
}

static int run_when(struct monitor *m, const struct monitor_words *words, struct error *err)
{
    if (words->count > 0)
        return monitor_usage(&monitor_position_commands[WHEN], err);
    monitor_print_here(m);
    return print_next_event(m, err);
}

static int run_goto(struct monitor *m, const struct monitor_words *words, struct error *err)
{
    char text[MONITOR_WORD_BYTES + 16];
    position_t position;
    bool event = words->count == 2 && strcmp(words->word[0], "event") == 0;
    if (words->count >= 2 && words->count <= 3 && strcmp(words->word[0], "console") == 0) {
        int code = monitor_goto_console(m, words->word[1], words->count == 3 ? words->word[2] : "first", err);
        if (code == 0)
            monitor_print_here(m);
        return code;
    }
    if (words->count != 1 && !event)
        return monitor_usage(&monitor_position_commands[GOTO], err);
    snprintf(text, sizeof(text), "%s%s", event ? "event " : "", words->word[words->count - 1]);
    int code = trace_target_where(m->target, text, &position, err);
    if (code == 0)
        code = monitor_goto(m, position, err);
    if (code == 0)
        monitor_print_here(m);
    return code;
}

/* ---- marks ---- */

static bool name_is_good(const char *name)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.";
    size_t length = strspn(name, letters);
    return length > 0 && name[length] == '\0' && length < MARK_NAME_BYTES &&
           !trace_position_well_formed(name);
}

static int run_mark(struct monitor *m, const struct monitor_words *words, struct error *err)
{
    struct trace_target *t = m->target;
    struct mark *mark = NULL;
    if (words->count != 1)
        return monitor_usage(&monitor_position_commands[MARK], err);
    const char *name = words->word[0];
    if (!name_is_good(name))
        return error_set(err, -EINVAL,
                         "\"%.60s\" cannot be a mark: up to %d letters, digits, '_', '-' and '.', and not a "
                         "position",
                         name, MARK_NAME_BYTES - 1);
    for (size_t i = 0; i < t->mark_count; i++)
        if (strcmp(t->marks[i].name, name) == 0)
            mark = &t->marks[i];
    if (!mark) {
        if (t->mark_count == MARKS_MAX)
            return error_set(err, -ENOSPC, "more than %zu marks", MARKS_MAX);
        struct mark *marks = reallocarray(t->marks, t->mark_count + 1, sizeof(*marks));
        if (!marks)
            return error_set(err, -ENOMEM, "no memory for a mark");
        t->marks = marks;
        mark = &marks[t->mark_count++];
        memcpy(mark->name, name, strlen(name) + 1);
    }
    mark->position = timeline_position(t->timeline);
    struct number_text position;
    fprintf(m->out, "%s is position %s\n", name, number_format(mark->position, &position));
    return 0;
}

static int run_marks(struct monitor *m, const struct monitor_words *words, struct error *err)
{
    const struct trace_target *t = m->target;
    if (words->count > 0)
        return monitor_usage(&monitor_position_commands[MARKS], err);
    if (t->mark_count == 0)
        fputs("no marks; \"monitor mark NAME\" sets one\n", m->out);
    for (size_t i = 0; i < t->mark_count; i++) {
        struct number_text position;
        fprintf(m->out, "%18s  %s\n", number_format(t->marks[i].position, &position), t->marks[i].name);
    }
    return 0;
}

/* ---- info ---- */

static void print_trace(struct monitor *m)
{
    const struct trace_target *t = m->target;
    const struct trace_info *info = trace_reader_info(t->reader);
    struct number_text ram, end, events;
    char why[128];
    bool crashed = trace_target_crashed(t, why, sizeof(why));
    if (!t->own_reader && !info->complete)
        snprintf(why, sizeof(why), "so far; it is being recorded");
    fprintf(m->out, "trace        ");
    put_printable(m->out, (const uint8_t *)t->path, strlen(t->path));
    fprintf(m->out, ", %s of memory, recorded under %s\nguest        ",
            bytes_format(info->meta.ram_bytes, &ram), info->meta.engine);
    put_printable(m->out, (const uint8_t *)info->meta.guest_path, strlen(info->meta.guest_path));
    fprintf(m->out, "\nend          position %s, %s events: %s%s\n", number_format(t->end, &end),
            number_format(info->events, &events), why, crashed ? " (a crash)" : "");
}

static void print_memory_use(struct monitor *m)
{
    struct timeline_statistics s;
    struct number_text count, bytes, restores, keyframes, steps;
    timeline_statistics(m->target->timeline, &s);
    fprintf(m->out, "checkpoints  %s in %s; %s restored, %s keyframes loaded, %s steps executed\n",
            number_format(s.checkpoints, &count), bytes_format(s.checkpoint_bytes, &bytes),
            number_format(s.restores, &restores), number_format(s.keyframe_loads, &keyframes),
            number_format(s.steps_executed, &steps));
}

static int run_info(struct monitor *m, const struct monitor_words *words, struct error *err)
{
    const struct vcpu_state *s = trace_target_state(m->target);
    static const char *const activities[] = {"running", "halted", "shut down"};
    if (words->count > 0)
        return monitor_usage(&monitor_position_commands[INFO], err);
    print_trace(m);
    monitor_print_here(m);
    fprintf(m->out, "vCPU         %s, ring %u, %s, interrupts %s, CR3 0x%" PRIx64 "\n", state_mode_name(s),
            vcpu_cpl(s), s->activity < ARRAY_LEN(activities) ? activities[s->activity] : "unknown",
            s->rflags & RFLAGS_IF ? "on" : "off", s->cr3);
    print_memory_use(m);
    return 0;
}
