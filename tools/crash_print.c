/* The crash report, for people and as JSON. */
#include <inttypes.h>
#include <string.h>

#include "tools/crash_report.h"
#include "tools/json.h"
#include "tools/number.h"
#include "tools/session.h"
#include "tools/state_view.h"

#define CONSOLE_LINES 12
#define PAGE_FAULT    14u

static const char *const register_names[GPR_COUNT] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                                      "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

const char *crash_exception_text(const struct crash_site *site, char *out, size_t size)
{
    char name[64];
    exception_describe(site->vector, name, sizeof(name));
    if (site->vector == PAGE_FAULT)
        snprintf(out, size, "%s, %s 0x%" PRIx64 "%s", name,
                 site->error_code & 16  ? "fetching code from"
                 : site->error_code & 2 ? "writing"
                                        : "reading",
                 site->cr2, site->error_code & 1 ? "" : ", which is not mapped");
    else if (site->has_error_code)
        snprintf(out, size, "%s, error code 0x%x", name, site->error_code);
    else
        snprintf(out, size, "%s", name);
    return out;
}

static void put_text(const char *text, FILE *out)
{
    put_printable(out, (const uint8_t *)text, strlen(text));
}

static void print_task(const struct report_actor *a, FILE *out)
{
    if (!a->have_task)
        return;
    put_text(a->task.comm, out);
    fprintf(out, " (%" PRIu32 "%s)", a->task.pid, a->task.kernel ? ", kernel thread" : "");
}

static void print_frames(const struct report_actor *a, FILE *out)
{
    for (size_t i = 0; i < a->count; i++) {
        const struct report_frame *f = &a->frames[i];
        fprintf(out, "%-12s #%-2zu 0x%016" PRIx64 " ", i == 0 ? "stack" : "", i, f->rip);
        put_text(f->name, out);
        fprintf(out, "%s%s\n", f->interrupted && i > 0 ? "  <- interrupted here" : "",
                f->uncertain ? "  ?" : "");
    }
}

static void print_registers(const struct vcpu_state *s, FILE *out)
{
    for (unsigned i = 0; i < GPR_COUNT; i++)
        fprintf(out, "%-12s %3s %016" PRIx64 "%s", i % 4 == 0 ? (i ? "" : "registers") : "",
                register_names[i], s->gpr[i], i % 4 == 3 ? "\n" : "");
    fprintf(out, "%-12s rip %016" PRIx64 "   rflags %08" PRIx64 "   cr3 %016" PRIx64 "   cpl %u\n", "",
            s->rip, s->rflags, s->cr3, vcpu_cpl(s));
}

/* A value as text, where it is that: a pointer that was overwritten by a string tells so. */
static void print_value(uint64_t value, unsigned bytes, FILE *out)
{
    char text[9] = "";
    unsigned count = 0;
    fprintf(out, "0x%" PRIx64, value);
    while (count < bytes && (uint8_t)(value >> (8 * count)) >= 0x20 &&
           (uint8_t)(value >> (8 * count)) < 0x7f) {
        text[count] = (char)(value >> (8 * count));
        count++;
    }
    if (count == bytes && bytes >= 4)
        fprintf(out, " (the text \"%s\")", text);
}

static void print_callers(const struct report_actor *a, FILE *out)
{
    for (size_t i = 0; i < a->count && i < REPORT_CALLERS_MAX; i++) {
        fputs(i ? " < " : "", out);
        if (a->frames[i].name[0])
            put_text(a->frames[i].name, out);
        else
            fprintf(out, "0x%" PRIx64, a->frames[i].rip);
    }
}

static void print_write(const struct crash_report *r, unsigned i, FILE *out)
{
    const struct pointer_write *w = &r->pointer.writes[i];
    struct number_text position;
    fprintf(out, "%-12s %s  ", "", number_format(w->position, &position));
    print_value(w->old_value, r->pointer.bytes, out);
    fputs(" -> ", out);
    print_value(w->new_value, r->pointer.bytes, out);
    if (r->written_names[i][0]) {
        fputs(" ", out);
        put_text(r->written_names[i], out);
    }
    fprintf(out, "\n%-12s     by ", "");
    if (w->by_device) {
        fputs("a device", out);
    } else {
        print_task(&r->writers[i], out);
        fputs(r->writers[i].have_task ? " in " : "", out);
        print_callers(&r->writers[i], out);
    }
    fputc('\n', out);
}

static void print_pointer(const struct crash_report *r, FILE *out)
{
    const struct pointer_origin *p = &r->pointer;
    struct number_text position;
    if (!r->have_pointer)
        return;
    fprintf(out, "%-12s %s = ", "pointer", register_names[p->reg]);
    print_value(p->value, 8, out);
    fputc('\n', out);
    if (!p->loaded)
        return;
    fprintf(out, "%-12s loaded from 0x%" PRIx64 "%s", "", p->address, r->address_name[0] ? " " : "");
    put_text(r->address_name, out);
    fprintf(out, " at position %s\n", number_format(p->position, &position));
    fprintf(out, "last writes  there, latest first\n");
    for (unsigned i = 0; i < p->write_count; i++)
        print_write(r, i, out);
    if (p->from_image)
        fprintf(out, "%-12s nothing wrote there before: it is as the guest was loaded\n", "");
}

static void print_interrupts(const struct crash_report *r, FILE *out)
{
    for (size_t i = 0; i < r->interrupt_count; i++) {
        struct number_text at, distance;
        fprintf(out, "%-12s ", i ? "" : "interrupts");
        if (r->interrupts[i].nmi)
            fputs("NMI        ", out);
        else
            fprintf(out, "vector 0x%02x", r->interrupts[i].vector);
        fprintf(out, " at %s, %s transitions before\n", number_format(r->interrupts[i].position, &at),
                number_format(r->site.position - r->interrupts[i].position, &distance));
    }
}

/* Where the last lines begin. */
static size_t last_lines(const struct buffer *console, unsigned lines)
{
    size_t at = console->length;
    while (at > 0 && console->data[at - 1] == '\n')
        at--;
    for (; at > 0; at--)
        if (console->data[at - 1] == '\n' && --lines == 0)
            break;
    return at;
}

static void print_console(const struct crash_report *r, FILE *out)
{
    size_t at = last_lines(&r->console, CONSOLE_LINES);
    bool first = true;
    while (at < r->console.length) {
        const uint8_t *line = r->console.data + at;
        const uint8_t *end = memchr(line, '\n', r->console.length - at);
        size_t length = end ? (size_t)(end - line) : r->console.length - at;
        at += length + 1;
        if (length && line[length - 1] == '\r')
            length--;
        fprintf(out, "%-12s ", first ? "console" : "");
        put_printable(out, line, length);
        fputc('\n', out);
        first = false;
    }
}

void crash_report_print(const struct crash_report *r, const char *trace, FILE *out)
{
    const struct crash_site *site = &r->site;
    struct number_text position, end, told;
    char exception[160];
    fprintf(out, "%-12s ", "crash");
    put_text(site->text, out);
    fprintf(out, "\n%-12s %s of %s", "position", number_format(site->position, &position),
            number_format(r->end, &end));
    if (site->told != POSITION_UNKNOWN && site->kind != CRASH_TOLD)
        fprintf(out, "; the guest told of it at %s", number_format(site->told, &told));
    fputc('\n', out);
    if (site->kind == CRASH_EXCEPTION)
        fprintf(out, "%-12s %s\n", "exception", crash_exception_text(site, exception, sizeof(exception)));
    fprintf(out, "%-12s 0x%" PRIx64 " ", "instruction", r->state.rip);
    put_text(r->actor.count ? r->actor.frames[0].name : "", out);
    fputs(": ", out);
    put_text(r->instruction, out);
    fputc('\n', out);
    if (r->actor.have_task) {
        fprintf(out, "%-12s ", "task");
        print_task(&r->actor, out);
        fputc('\n', out);
    }
    if (r->banner[0]) {
        fprintf(out, "%-12s ", "kernel");
        put_text(r->banner, out);
        fputc('\n', out);
    }
    fputc('\n', out);
    print_registers(&r->state, out);
    print_frames(&r->actor, out);
    print_pointer(r, out);
    print_interrupts(r, out);
    print_console(r, out);
    fprintf(out, "\ndejavm debug %s stands there\n", trace);
}

/* ---- JSON ---- */

static void actor_json(struct json *j, const struct report_actor *a)
{
    if (a->have_task) {
        json_object(j, "task");
        json_u64(j, "pid", a->task.pid);
        json_text(j, "name", (const uint8_t *)a->task.comm, strlen(a->task.comm));
        json_bool(j, "kernel_thread", a->task.kernel);
        json_close_object(j);
    } else {
        json_null(j, "task");
    }
    json_array(j, "stack");
    for (size_t i = 0; i < a->count; i++) {
        json_object_line(j, NULL);
        json_u64(j, "rip", a->frames[i].rip);
        json_string(j, "symbol", a->frames[i].name);
        json_bool(j, "interrupted", a->frames[i].interrupted);
        json_bool(j, "uncertain", a->frames[i].uncertain);
        json_close_object(j);
    }
    json_close_array(j);
}

static void pointer_json(struct json *j, const struct crash_report *r)
{
    const struct pointer_origin *p = &r->pointer;
    if (!r->have_pointer) {
        json_null(j, "pointer");
        return;
    }
    json_object(j, "pointer");
    json_string(j, "register", register_names[p->reg]);
    json_u64(j, "value", p->value);
    json_bool(j, "loaded", p->loaded);
    if (p->loaded) {
        json_u64(j, "position", p->position);
        json_u64(j, "address", p->address);
        json_u64(j, "bytes", p->bytes);
        json_string(j, "symbol", r->address_name);
        json_array(j, "writes");
        for (unsigned i = 0; i < p->write_count; i++) {
            json_object(j, NULL);
            json_u64(j, "position", p->writes[i].position);
            json_u64(j, "rip", p->writes[i].rip);
            json_bool(j, "by_device", p->writes[i].by_device);
            json_u64(j, "old", p->writes[i].old_value);
            json_u64(j, "new", p->writes[i].new_value);
            actor_json(j, &r->writers[i]);
            json_close_object(j);
        }
        json_close_array(j);
    }
    json_close_object(j);
}

static const char *kind_name(enum crash_kind kind)
{
    switch (kind) {
    case CRASH_TOLD:
        return "told";
    case CRASH_EXCEPTION:
        return "exception";
    case CRASH_CALL:
        return "panic";
    case CRASH_END:
        return "end";
    case CRASH_NONE:
        break;
    }
    return "none";
}

static void state_members(struct json *j, const struct vcpu_state *s)
{
    json_object(j, "registers");
    for (unsigned i = 0; i < GPR_COUNT; i++)
        json_u64(j, register_names[i], s->gpr[i]);
    json_u64(j, "rip", s->rip);
    json_u64(j, "rflags", s->rflags);
    json_u64(j, "cr2", s->cr2);
    json_u64(j, "cr3", s->cr3);
    json_close_object(j);
}

void crash_report_json(const struct crash_report *r, const char *trace, FILE *out)
{
    struct json j;
    json_begin(&j, out);
    json_string(&j, "trace", trace);
    json_string(&j, "crash", kind_name(r->site.kind));
    if (r->site.kind != CRASH_NONE) {
        json_string(&j, "text", r->site.text);
        json_u64(&j, "position", r->site.position);
        json_position(&j, "told", r->site.told);
        json_u64(&j, "end", r->end);
        if (r->site.kind == CRASH_EXCEPTION) {
            json_u64(&j, "vector", r->site.vector);
            json_u64(&j, "error_code", r->site.error_code);
            json_u64(&j, "cr2", r->site.cr2);
        }
        json_string(&j, "kernel", r->banner);
        json_string(&j, "instruction", r->instruction);
        state_members(&j, &r->state);
        actor_json(&j, &r->actor);
        pointer_json(&j, r);
        json_array(&j, "interrupts");
        for (size_t i = 0; i < r->interrupt_count; i++) {
            json_object_line(&j, NULL);
            json_u64(&j, "position", r->interrupts[i].position);
            json_u64(&j, "vector", r->interrupts[i].nmi ? 2 : r->interrupts[i].vector);
            json_close_object(&j);
        }
        json_close_array(&j);
        json_text(&j, "console", r->console.data, r->console.length);
    }
    json_end(&j);
}
