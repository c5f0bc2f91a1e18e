/* Help for terminals, and shell completion, made from the commands' tables. */
#include "tools/command.h"
#include "tools/version.h"

#include <string.h>

enum { WIDTH = 79 };

const struct status_text status_texts[] = {
    {"0", "It worked. For replay and verify: the replay was exact."},
    {"1", "Failure; the message says what failed, where, and what to do."},
    {"2", "Wrong usage."},
    {"3", "Divergence: the replay did something else than the recording. The report says where and what."},
    {"4", "The trace is damaged: it is not what the format says. The message gives the place in the file."},
    {NULL, NULL},
};

/* Puts text at column, wrapped at WIDTH; the cursor stands at column already. */
static void put_wrapped(FILE *out, const char *text, int column)
{
    int at = column;
    while (*text) {
        int word = (int)strcspn(text, " ");
        if (at > column && at + 1 + word > WIDTH) {
            fprintf(out, "\n%*s", column, "");
            at = column;
        } else if (at > column) {
            putc(' ', out);
            at++;
        }
        fwrite(text, 1, (size_t)word, out);
        at += word;
        text += word;
        text += strspn(text, " ");
    }
    putc('\n', out);
}

static void put_entry(FILE *out, const char *head, const char *text, int column)
{
    int used = fprintf(out, "  %s", head);
    if (used + 2 > column)
        fprintf(out, "\n%*s", column, "");
    else
        fprintf(out, "%*s", column - used, "");
    put_wrapped(out, text, column);
}

static void put_options(FILE *out, const struct option_spec *list)
{
    for (; list->name; list++) {
        char head[80];
        char letter[8] = "    ";
        if (list->letter)
            snprintf(letter, sizeof(letter), "-%c, ", list->letter);
        snprintf(head, sizeof(head), "%s--%s%s%s", letter, list->name, list->value ? " " : "",
                 list->value ? list->value : "");
        put_entry(out, head, list->text, 26);
    }
}

static void put_statuses(FILE *out)
{
    fputs("\nExit status:\n", out);
    for (const struct status_text *s = status_texts; s->text; s++)
        put_entry(out, s->status, s->text, 6);
}

static void put_overview(FILE *out)
{
    fputs("usage: dejavm COMMAND [OPTION]... [ARGUMENT]...\n\n", out);
    put_wrapped(
        out,
        "Records a guest (a bare-metal program, a kernel) once, live; replays it exactly, instruction for "
        "instruction, anywhere, as often as wanted.",
        0);
    fputs("\nCommands:\n", out);
    for (size_t i = 0; commands[i]; i++)
        put_entry(out, commands[i]->name, commands[i]->summary, 12);
    fputs("\nOptions:\n", out);
    put_entry(out, "-h, --help", "Print this help and exit.", 18);
    put_entry(out, "-V, --version", "Print the versions of dejavm and its libraries, and exit.", 18);
    put_statuses(out);
    fputs("\nTry 'dejavm COMMAND --help' or 'man dejavm-COMMAND'.\n", out);
}

void help_print(const struct command *command, FILE *out)
{
    if (!command) {
        put_overview(out);
        return;
    }
    fprintf(out, "usage: dejavm %s%s", command->name, command->options->name ? " [OPTION]..." : "");
    for (const struct operand_spec *o = command->operands; o->name; o++)
        fprintf(out, o->optional ? " [%s]" : " %s", o->name);
    if (command->rest)
        fprintf(out, " [-- %s...]", command->rest->name);
    fputs("\n", out);
    for (const char *const *p = command->paragraphs; *p; p++) {
        bool item = strncmp(*p, "- ", 2) == 0;
        if (!item)
            putc('\n', out);
        fputs(item ? "  - " : "", out);
        put_wrapped(out, item ? *p + 2 : *p, item ? 4 : 0);
    }
    if (command->operands->name)
        fputs("\nArguments:\n", out);
    for (const struct operand_spec *o = command->operands; o->name; o++)
        put_entry(out, o->name, o->text, 12);
    if (command->rest)
        put_entry(out, command->rest->name, command->rest->text, 12);
    fputs("\nOptions:\n", out);
    put_options(out, command->options);
    put_options(out, common_options);
    if (command->examples->line)
        fputs("\nExamples:\n", out);
    for (const struct example_spec *e = command->examples; e->line; e++) {
        fprintf(out, "  %s\n      ", e->line);
        put_wrapped(out, e->text, 6);
    }
    put_statuses(out);
}

/* Words of one command's options, for compgen -W. */
static void put_option_words(FILE *out, const struct option_spec *list)
{
    for (; list->name; list++)
        fprintf(out, "--%s ", list->name);
}

void completion_print(FILE *out)
{
    fputs("# bash completion for dejavm\n_dejavm()\n{\n"
          "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words=\n"
          "    COMPREPLY=()\n    if [[ $COMP_CWORD -eq 1 ]]; then\n        words=\"--help --version",
          out);
    for (size_t i = 0; commands[i]; i++)
        fprintf(out, " %s", commands[i]->name);
    fputs("\"\n    else\n        case ${COMP_WORDS[1]},$prev in\n", out);
    for (size_t i = 0; commands[i]; i++)
        for (const struct option_spec *o = commands[i]->options; o->name; o++)
            if (o->choices)
                fprintf(out, "            %s,--%s) words=\"%s\" ;;\n", commands[i]->name, o->name,
                        o->choices);
    fputs("        esac\n        if [[ -z $words && $cur == -* ]]; then\n            case ${COMP_WORDS[1]} "
          "in\n",
          out);
    for (size_t i = 0; commands[i]; i++) {
        fprintf(out, "                %s) words=\"", commands[i]->name);
        put_option_words(out, commands[i]->options);
        fputs("--help\" ;;\n", out);
    }
    fputs(
        "            esac\n        fi\n    fi\n"
        "    if [[ -n $words ]]; then\n        mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n"
        "    else\n        mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n    fi\n}\n"
        "complete -o filenames -F _dejavm dejavm\n",
        out);
}
