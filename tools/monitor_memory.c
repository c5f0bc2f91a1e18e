/* monitor: page tables, physical memory, and who wrote something last. */
#include "core/x86/inspect.h"
#include "tools/monitor.h"
#include "tools/number.h"
#include "tools/state_view.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define PHYS_SHOWN        64
#define PHYS_SHOWN_MAX    ((uint64_t)64 << 10)
#define WRITTEN_BYTES     8
#define WRITTEN_BYTES_MAX ((uint64_t)1 << 20)
#define VALUE_SHOWN       32 /* bytes of an old and a new value that are not an integer */

static int run_last_write(struct monitor *m, const struct monitor_words *words, struct error *err);
static int run_walk(struct monitor *m, const struct monitor_words *words, struct error *err);
static int run_phys(struct monitor *m, const struct monitor_words *words, struct error *err);

enum { LAST_WRITE, WALK, PHYS };
const struct monitor_command monitor_memory_commands[] = {
    [LAST_WRITE] =
        {"last-write", "ADDR [LEN]",
         "find the last write to LEN bytes (8) at ADDR before here, and go to where it is about to happen",
         run_last_write},
    [WALK] = {"walk", "ADDR", "the page tables' way from a linear address to a physical one", run_walk},
    [PHYS] = {"phys", "ADDR [LEN]", "LEN bytes (64) of physical memory", run_phys},
    {0},
};

/* ---- walk ---- */

static const struct {
    uint64_t bit;
    const char *name;
    bool leaf_only, large_only;
} entry_flags[] = {
    {1ull << 1, "writable", false, false}, {1ull << 2, "user", false, false},
    {1ull << 3, "PWT", false, false},      {1ull << 4, "PCD", false, false},
    {1ull << 5, "accessed", false, false}, {1ull << 6, "dirty", true, false},
    {1ull << 7, "large", false, true},     {1ull << 8, "global", true, false},
};

static const char *level_name(unsigned level)
{
    static const char *const names[] = {"?", "PTE", "PDE", "PDPTE", "PML4E"};
    return level < ARRAY_LEN(names) ? names[level] : "?";
}

static void print_step(struct monitor *m, const struct vcpu_state *s, const struct x86_walk_step *step,
                       bool leaf)
{
    fprintf(m->out, "%-5s at 0x%09" PRIx64 ": 0x%0*" PRIx64 " ", level_name(step->level), step->entry,
            step->bytes * 2, step->value);
    if (!(step->value & 1)) {
        fputs(" not present\n", m->out);
        return;
    }
    fputs(" present", m->out);
    for (size_t i = 0; i < ARRAY_LEN(entry_flags); i++) {
        bool applies =
            (!entry_flags[i].leaf_only || leaf) && (!entry_flags[i].large_only || (step->level > 1 && leaf));
        if (applies && step->value & entry_flags[i].bit)
            fprintf(m->out, " %s", entry_flags[i].name);
    }
    if (step->bytes == 8 && step->value >> 63)
        fputs(s->efer & EFER_NXE ? " no-execute" : " bit-63", m->out);
    putc('\n', m->out);
}

static const char *paging_name(const struct vcpu_state *s)
{
    if (!(s->cr0 & CR0_PG))
        return "paging is off";
    if (vcpu_in_long_mode(s))
        return "4-level paging";
    return s->cr4 & CR4_PAE ? "PAE paging" : "32-bit paging";
}

static int run_walk(struct monitor *m, const struct monitor_words *words, struct error *err)
{
    const struct vcpu_state *s = trace_target_state(m->target);
    struct x86_walk walk;
    struct number_text size;
    gva_t address;
    if (words->count != 1)
        return monitor_usage(&monitor_memory_commands[WALK], err);
    int code = monitor_address(m, words->word[0], &address, err);
    if (code)
        return code;
    x86_walk(trace_target_ram(m->target), s, address, &walk);
    fprintf(m->out, "0x%" PRIx64 ": %s, CR3 0x%" PRIx64 "\n", address, paging_name(s), s->cr3);
    for (unsigned i = 0; i < walk.count; i++)
        print_step(m, s, &walk.step[i], walk.mapped && i + 1 == walk.count);
    if (!walk.mapped)
        fputs(walk.count || !vcpu_in_long_mode(s) ? "not mapped\n" : "not mapped: not canonical\n", m->out);
    else if (walk.count == 0)
        fprintf(m->out, "physical 0x%" PRIx64 "\n", walk.gpa);
    else
        fprintf(m->out, "physical 0x%" PRIx64 ", in a page of %s%s\n", walk.gpa,
                bytes_format(1ull << walk.page_shift, &size),
                ram_offset(trace_target_ram(m->target), walk.gpa) == RAM_NO_OFFSET ? ", not RAM" : "");
    return 0;
}

/* ---- phys ---- */

static int run_phys(struct monitor *m, const struct monitor_words *words, struct error *err)
{
    const struct state_view view = {.state = trace_target_state(m->target),
                                    .ram = trace_target_ram(m->target)};
    uint64_t address, length = PHYS_SHOWN;
    if (words->count < 1 || words->count > 2)
        return monitor_usage(&monitor_memory_commands[PHYS], err);
    int code = monitor_address(m, words->word[0], &address, err);
    if (code == 0 && words->count == 2)
        code = monitor_length(words->word[1], PHYS_SHOWN_MAX, &length, err);
    if (code)
        return code;
    const struct memory_range range = {.physical = true, .address = address, .length = (size_t)length};
    memory_print(&view, &range, m->out);
    return 0;
}

/* ---- last-write ---- */

struct written {
    gva_t address;
    uint64_t length;
    position_t before; /* where the search began */
    struct trace_points points;
    struct timeline_stop stop;
    gfn_t frames[WRITTEN_BYTES_MAX / PAGE_SIZE_BYTES + 1]; /* of its pages, where the search began */
    bool mapped[WRITTEN_BYTES_MAX / PAGE_SIZE_BYTES + 1];
};

static void locate(const struct trace_target *t, struct written *w)
{
    gva_t first = w->address >> PAGE_SHIFT, last = (w->address + (w->length - 1)) >> PAGE_SHIFT;
    for (size_t i = 0; i <= last - first; i++) {
        gpa_t gpa;
        w->mapped[i] =
            x86_translate(trace_target_ram(t), trace_target_state(t), (first + i) << PAGE_SHIFT, &gpa) == 0;
        w->frames[i] = gpa >> PAGE_SHIFT;
    }
}

/* A range's value in words: an integer, or bytes. */
static void value_text(struct monitor *m, const struct written *w, char *out, size_t size)
{
    uint8_t bytes[VALUE_SHOWN];
    size_t length = w->length < sizeof(bytes) ? (size_t)w->length : sizeof(bytes);
    uint64_t value = 0;
    if (x86_read_virtual(trace_target_ram(m->target), trace_target_state(m->target), w->address, bytes,
                         length) < length) {
        snprintf(out, size, "(not mapped)");
        return;
    }
    if (w->length == 1 || w->length == 2 || w->length == 4 || w->length == 8) {
        memcpy(&value, bytes, length); /* guest and host are little-endian */
        snprintf(out, size, "0x%0*" PRIx64, (int)length * 2, value);
        return;
    }
    size_t used = 0;
    for (size_t i = 0; i < length; i++)
        used += (size_t)snprintf(out + used, size - used, "%s%02x", i ? " " : "", bytes[i]);
    if (length < w->length)
        snprintf(out + used, size - used, " ...");
}

/* The same linear address may be other memory in another address space: that is not what was asked for. */
static bool is_the_same_memory(const struct trace_target *t, const struct written *w)
{
    gva_t at = w->stop.hit.address;
    gpa_t gpa;
    if (at < w->address || at - w->address >= w->length)
        return true;
    size_t page = (size_t)((at >> PAGE_SHIFT) - (w->address >> PAGE_SHIFT));
    return !w->mapped[page] || x86_translate(trace_target_ram(t), trace_target_state(t), at, &gpa) != 0 ||
           w->frames[page] == gpa >> PAGE_SHIFT;
}

/* Goes to the write. -ENODATA when there is none; then, and after Ctrl-C, it stands where it stood. */
static int find_write(struct monitor *m, struct written *w, struct error *err)
{
    struct timeline *timeline = m->target->timeline;
    for (;;) {
        int code = timeline_position(timeline) == 0
                       ? 0
                       : timeline_backward(timeline, &w->points.prepared, 0, &m->interrupt, &w->stop, err);
        bool interrupted = code == -EINTR || (code == 0 && w->stop.reason == TIMELINE_STOP_INTERRUPTED);
        bool found =
            code == 0 && timeline_position(timeline) < w->before && w->stop.reason == TIMELINE_STOP_WATCH;
        if (found && !is_the_same_memory(m->target, w)) {
            w->stop.reason = TIMELINE_STOP_BEGIN;
            continue;
        }
        if (found || (code < 0 && !interrupted))
            return code;
        code = timeline_goto(timeline, w->before, NULL, err);
        if (code)
            return code;
        return interrupted ? monitor_was_interrupted(m, err)
                           : error_set(err, -ENODATA,
                                       "nothing has written to these %" PRIu64
                                       " bytes before here: they are as the guest was loaded",
                                       w->length);
    }
}

/* What transition it is that writes: asks the trace, then the engine. Stands after the transition then. */
static int step_over_write(struct monitor *m, char *what, size_t size, struct error *err)
{
    struct trace_target *t = m->target;
    position_t here = timeline_position(t->timeline);
    struct timeline_points points = {.engine.exceptions = 0xffffffff};
    struct timeline_stop stop = {0};
    struct trace_cursor *cursor;
    struct event event;
    uint64_t index;
    what[0] = '\0';
    int code = trace_reader_find_event(t->reader, here, &index, err);
    if (code == 0)
        code = trace_target_events(t, index, &cursor, err);
    if (code)
        return code;
    while ((code = trace_cursor_next(cursor, &event, err)) == 1 && event.position == here) {
        if (event.type == EVENT_INTERRUPT)
            snprintf(what, size, "the delivery of interrupt 0x%02x", event.vector);
        else if (event.type == EVENT_NMI)
            snprintf(what, size, "the delivery of an NMI");
        else if (event.type == EVENT_DMA)
            snprintf(what, size, "a device");
    }
    trace_cursor_close(cursor);
    if (code >= 0)
        code = timeline_forward(t->timeline, &points, here + 1, NULL, &stop, err);
    if (code == 0 && stop.reason == TIMELINE_STOP_CATCH && !what[0]) {
        char exception[64];
        exception_describe(stop.hit.vector, exception, sizeof(exception));
        snprintf(what, size, "the delivery of %s", exception);
    }
    return code;
}

static int report_write(struct monitor *m, struct written *w, struct error *err)
{
    struct trace_target *t = m->target;
    position_t at = timeline_position(t->timeline);
    char old_value[160], new_value[160], what[128], symbol[256];
    struct number_text distance;
    value_text(m, w, old_value, sizeof(old_value));
    int code = step_over_write(m, what, sizeof(what), err);
    if (code)
        return code;
    value_text(m, w, new_value, sizeof(new_value));
    code = timeline_goto(t->timeline, at, NULL, err);
    if (code)
        return code;
    monitor_print_here(m);
    if (what[0])
        fprintf(m->out, "written by %s\n", what);
    trace_target_describe(t, w->address, symbol, sizeof(symbol));
    fprintf(m->out, "%" PRIu64 " bytes at 0x%" PRIx64 "%s%s%s: old %s, new %s; %s transitions before\n",
            w->length, w->address, symbol[0] ? " (" : "", symbol, symbol[0] ? ")" : "", old_value, new_value,
            number_format(w->before - at, &distance));
    return 0;
}

static int last_write(struct monitor *m, struct written *w, struct error *err)
{
    int code = trace_points_insert(&w->points, DEBUG_WATCH_WRITE, w->address, w->length, err);
    if (code == 0)
        code = trace_points_prepare(&w->points, true, err);
    if (code)
        return code;
    locate(m->target, w);
    code = find_write(m, w, err);
    if (code)
        return code;
    m->moved = true;
    return report_write(m, w, err);
}

static int run_last_write(struct monitor *m, const struct monitor_words *words, struct error *err)
{
    if (words->count < 1 || words->count > 2)
        return monitor_usage(&monitor_memory_commands[LAST_WRITE], err);
    struct written *w = calloc(1, sizeof(*w));
    if (!w)
        return error_set(err, -ENOMEM, "out of memory");
    w->length = WRITTEN_BYTES;
    w->before = timeline_position(m->target->timeline);
    int code = monitor_address(m, words->word[0], &w->address, err);
    if (code == 0 && words->count == 2)
        code = monitor_length(words->word[1], WRITTEN_BYTES_MAX, &w->length, err);
    if (code == 0)
        code = last_write(m, w, err);
    trace_points_free(&w->points);
    free(w);
    return code;
}
