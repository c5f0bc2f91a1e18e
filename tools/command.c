#include "tools/command.h"
#include "tools/status.h"

#include <assert.h>
#include <stdarg.h>
#include <string.h>

const struct option_spec common_options[] = {
    {.name = "help", .letter = 'h', .text = "Print help on this command and exit."},
    {0},
};

const struct command *command_find(const char *name)
{
    for (size_t i = 0; commands[i]; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

/* Edit distance of two short words, or a large number for long ones. */
static unsigned word_distance(const char *a, const char *b)
{
    enum { LONGEST = 24, FAR = 100 };
    size_t a_length = strlen(a), b_length = strlen(b);
    unsigned row[LONGEST + 1];
    if (a_length > LONGEST || b_length > LONGEST)
        return FAR;
    for (size_t i = 0; i <= b_length; i++)
        row[i] = (unsigned)i;
    for (size_t i = 1; i <= a_length; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t k = 1; k <= b_length; k++) {
            unsigned best = diagonal + (a[i - 1] != b[k - 1]);
            diagonal = row[k];
            if (row[k] + 1 < best)
                best = row[k] + 1;
            if (row[k - 1] + 1 < best)
                best = row[k - 1] + 1;
            row[k] = best;
        }
    }
    return row[b_length];
}

static void consider(const char *mistyped, const char *name, unsigned *distance, const char **best)
{
    size_t length = strlen(mistyped);
    bool prefix = length >= 2 && strncmp(name, mistyped, length) == 0;
    unsigned d = prefix ? 0 : word_distance(mistyped, name);
    if (d < *distance) {
        *distance = d;
        *best = name;
    }
}

const char *command_suggest(const char *mistyped)
{
    const char *best = NULL;
    unsigned distance = 3;
    for (size_t i = 0; commands[i]; i++)
        consider(mistyped, commands[i]->name, &distance, &best);
    return best;
}

const char *option_suggest(const struct command *command, const char *mistyped)
{
    const char *best = NULL;
    unsigned distance = 3;
    for (const struct option_spec *o = command->options; o->name; o++)
        consider(mistyped, o->name, &distance, &best);
    return best;
}

int usage_error(const struct command *command, const char *format, ...)
{
    char text[1024];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof(text), format, list);
    va_end(list);
    message("%s: %s\nTry 'dejavm %s --help'.", command->name, text, command->name);
    return STATUS_USAGE;
}

static const struct option_spec *find_in(const struct option_spec *list, const char *name, size_t length,
                                         char letter)
{
    for (; list->name; list++) {
        if (name ? strlen(list->name) == length && memcmp(list->name, name, length) == 0
                 : list->letter && list->letter == letter)
            return list;
    }
    return NULL;
}

static const struct option_spec *find_option(const struct command *command, const char *name, size_t length,
                                             char letter)
{
    const struct option_spec *spec = find_in(command->options, name, length, letter);
    return spec ? spec : find_in(common_options, name, length, letter);
}

struct parser {
    const struct command *command;
    int argc, next;
    char **argv;
    struct arguments *out;
};

static enum parse_result store(struct parser *p, const struct option_spec *spec, const char *value)
{
    struct arguments *out = p->out;
    if (spec == common_options)
        return PARSE_HELP;
    if (out->option_count == ARGUMENTS_MAX_OPTIONS) {
        usage_error(p->command, "more than %d options", ARGUMENTS_MAX_OPTIONS);
        return PARSE_USAGE;
    }
    out->option[out->option_count].spec = spec;
    out->option[out->option_count++].value = value;
    return PARSE_RUN;
}

/* --name, --name=value, --name value */
static enum parse_result parse_long(struct parser *p, const char *text)
{
    const char *equals = strchr(text, '=');
    size_t length = equals ? (size_t)(equals - text) : strlen(text);
    const struct option_spec *spec = find_option(p->command, text, length, 0);
    if (!spec) {
        char name[64];
        snprintf(name, sizeof(name), "%.*s", (int)(length < 60 ? length : 60), text);
        const char *suggestion = option_suggest(p->command, name);
        usage_error(p->command, "unknown option '--%s'%s%s%s", name, suggestion ? " (did you mean '--" : "",
                    suggestion ? suggestion : "", suggestion ? "'?)" : "");
        return PARSE_USAGE;
    }
    if (!spec->value) {
        if (!equals)
            return store(p, spec, NULL);
        usage_error(p->command, "option '--%s' takes no value", spec->name);
        return PARSE_USAGE;
    }
    if (equals)
        return store(p, spec, equals + 1);
    if (p->next >= p->argc) {
        usage_error(p->command, "option '--%s' needs a value: --%s %s", spec->name, spec->name, spec->value);
        return PARSE_USAGE;
    }
    return store(p, spec, p->argv[p->next++]);
}

/* -o value, -ovalue, and flags in one word */
static enum parse_result parse_letters(struct parser *p, const char *text)
{
    for (; *text; text++) {
        const struct option_spec *spec = find_option(p->command, NULL, 0, *text);
        const char *value = NULL;
        if (!spec) {
            usage_error(p->command, "unknown option '-%c'", *text);
            return PARSE_USAGE;
        }
        if (spec->value) {
            if (text[1]) {
                value = text + 1;
            } else if (p->next < p->argc) {
                value = p->argv[p->next++];
            } else {
                usage_error(p->command, "option '-%c' needs a value: -%c %s", *text, *text, spec->value);
                return PARSE_USAGE;
            }
        }
        enum parse_result result = store(p, spec, value);
        if (result != PARSE_RUN || value)
            return result;
    }
    return PARSE_RUN;
}

static enum parse_result parse_operand(struct parser *p, const char *text)
{
    size_t most = 0;
    while (p->command->operands[most].name)
        most++;
    assert(most <= ARGUMENTS_MAX_OPERANDS);
    if (p->out->operand_count == most) {
        usage_error(p->command, "unexpected argument '%.200s'", text);
        return PARSE_USAGE;
    }
    p->out->operand[p->out->operand_count++] = text;
    return PARSE_RUN;
}

enum parse_result command_parse(const struct command *command, int argc, char **argv, struct arguments *out)
{
    struct parser p = {.command = command, .argc = argc, .next = 1, .argv = argv, .out = out};
    bool options_end = false, rest = false;
    *out = (struct arguments){.command = command};
    while (p.next < argc && !rest) {
        const char *text = argv[p.next++];
        enum parse_result result;
        if (options_end || text[0] != '-' || text[1] == '\0')
            result = parse_operand(&p, text);
        else if (strcmp(text, "--") == 0)
            options_end = true, rest = command->rest != NULL, result = PARSE_RUN;
        else if (text[1] == '-')
            result = parse_long(&p, text + 2);
        else
            result = parse_letters(&p, text + 1);
        if (result != PARSE_RUN)
            return result;
    }
    out->rest = argv + p.next;
    out->rest_count = (size_t)(argc - p.next);
    const struct operand_spec *missing = &command->operands[out->operand_count];
    if (missing->name && !missing->optional) {
        usage_error(command, "%s is missing", missing->name);
        return PARSE_USAGE;
    }
    return PARSE_RUN;
}

bool argument_flag(const struct arguments *arguments, const char *name)
{
    for (size_t i = 0; i < arguments->option_count; i++)
        if (strcmp(arguments->option[i].spec->name, name) == 0)
            return true;
    return false;
}

const char *argument_value(const struct arguments *arguments, const char *name, const char *fallback)
{
    const char *value = fallback;
    for (size_t i = 0; i < arguments->option_count; i++)
        if (strcmp(arguments->option[i].spec->name, name) == 0)
            value = arguments->option[i].value;
    return value;
}
