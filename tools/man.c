/* Manual pages in man(7) macros, made from the commands' tables. */
#include "tools/command.h"
#include "tools/version.h"

#include <ctype.h>
#include <string.h>

/* Text of a man page: what roff would take as its own is escaped. at_start: at the start of a line. */
static void put_text(FILE *out, const char *text, bool at_start)
{
    if (at_start && (*text == '.' || *text == '\''))
        fputs("\\&", out);
    for (; *text; text++) {
        if (*text == '\\')
            fputs("\\e", out);
        else if (*text == '-')
            fputs("\\-", out);
        else if (*text == '\'')
            fputs("\\(aq", out);
        else if (*text == '"')
            fputs("\\(dq", out);
        else if (*text == '`')
            fputs("\\(ga", out);
        else if (*text == '^')
            fputs("\\(ha", out);
        else if (*text == '~')
            fputs("\\(ti", out);
        else
            putc(*text, out);
    }
}

static void put_line(FILE *out, const char *text)
{
    put_text(out, text, true);
    putc('\n', out);
}

static void put_header(FILE *out, const struct command *command)
{
    char name[64];
    snprintf(name, sizeof(name), "dejavm%s%s", command ? "-" : "", command ? command->name : "");
    fputs(".TH \"", out);
    for (const char *p = name; *p; p++) {
        if (*p == '-')
            fputs("\\-", out);
        else
            putc(toupper((unsigned char)*p), out);
    }
    fprintf(out, "\" \"1\" \"\" \"dejavm %s\" \"dejavm manual\"\n.nh\n.ad l\n.SH NAME\n", DEJAVM_VERSION);
    put_text(out, name, true);
    fputs(" \\- ", out);
    put_line(out, command ? command->summary : "deterministic record and replay of x86-64 guests");
}

static void put_options(FILE *out, const struct option_spec *list)
{
    for (; list->name; list++) {
        fputs(".TP\n", out);
        if (list->letter)
            fprintf(out, "\\fB\\-%c\\fR, ", list->letter);
        fputs("\\fB\\-\\-", out);
        put_text(out, list->name, false);
        fputs("\\fR", out);
        if (list->value) {
            fputs(" \\fI", out);
            put_text(out, list->value, false);
            fputs("\\fR", out);
        }
        putc('\n', out);
        put_line(out, list->text);
    }
}

static void put_entry(FILE *out, const char *head, const char *text)
{
    fputs(".TP\n\\fB", out);
    put_text(out, head, false);
    fputs("\\fR\n", out);
    put_line(out, text);
}

static void put_statuses(FILE *out)
{
    fputs(".SH EXIT STATUS\n", out);
    for (const struct status_text *s = status_texts; s->text; s++)
        put_entry(out, s->status, s->text);
}

static void put_see_also(FILE *out, const struct command *except)
{
    fputs(".SH SEE ALSO\n", out);
    if (except)
        fputs("\\fBdejavm\\fR(1)", out);
    bool first = !except;
    for (size_t i = 0; commands[i]; i++) {
        if (commands[i] == except || strcmp(commands[i]->name, "help") == 0)
            continue;
        fprintf(out, "%s\\fBdejavm\\-%s\\fR(1)", first ? "" : ",\n", commands[i]->name);
        first = false;
    }
    putc('\n', out);
}

static void print_overview(FILE *out)
{
    put_header(out, NULL);
    fputs(".SH SYNOPSIS\n\\fBdejavm\\fR \\fICOMMAND\\fR [\\fIOPTION\\fR]... [\\fIARGUMENT\\fR]...\n.SH "
          "DESCRIPTION\n",
          out);
    put_line(
        out,
        "A guest (a bare-metal program, a kernel) runs once, live, and everything that was not determined by "
        "its own instructions goes into one trace file. The trace then replays exactly, instruction for "
        "instruction, on any x86-64 Linux host, without the guest image, without /dev/kvm and without root.");
    fputs(".PP\n", out);
    put_line(
        out,
        "A place in a trace is a position: the number of transitions (instructions, iterations of repeated "
        "string instructions, deliveries of faults and interrupts) completed since the start.");
    fputs(".SH COMMANDS\n", out);
    for (size_t i = 0; commands[i]; i++)
        put_entry(out, commands[i]->name, commands[i]->summary);
    fputs(".SH OPTIONS\n", out);
    put_entry(out, "-h, --help", "Print an overview and exit.");
    put_entry(out, "-V, --version", "Print the versions of dejavm and of its libraries, and exit.");
    put_statuses(out);
    put_see_also(out, NULL);
}

void man_print(const struct command *command, FILE *out)
{
    if (!command) {
        print_overview(out);
        return;
    }
    put_header(out, command);
    fprintf(out, ".SH SYNOPSIS\n\\fBdejavm %s\\fR%s", command->name,
            command->options->name ? " [\\fIOPTION\\fR]..." : "");
    for (const struct operand_spec *o = command->operands; o->name; o++)
        fprintf(out, o->optional ? " [\\fI%s\\fR]" : " \\fI%s\\fR", o->name);
    if (command->rest)
        fprintf(out, " [\\-\\- \\fI%s\\fR...]", command->rest->name);
    fputs("\n.SH DESCRIPTION\n", out);
    for (const char *const *p = command->paragraphs; *p; p++) {
        bool item = strncmp(*p, "- ", 2) == 0;
        if (item)
            fputs(".IP \\(bu 2\n", out);
        else if (p != command->paragraphs)
            fputs(".PP\n", out);
        put_line(out, item ? *p + 2 : *p);
    }
    if (command->operands->name)
        fputs(".SH ARGUMENTS\n", out);
    for (const struct operand_spec *o = command->operands; o->name; o++)
        put_entry(out, o->name, o->text);
    if (command->rest)
        put_entry(out, command->rest->name, command->rest->text);
    fputs(".SH OPTIONS\n", out);
    put_options(out, command->options);
    put_options(out, common_options);
    if (command->examples->line)
        fputs(".SH EXAMPLES\n", out);
    for (const struct example_spec *e = command->examples; e->line; e++)
        put_entry(out, e->line, e->text);
    put_statuses(out);
    put_see_also(out, command);
}
