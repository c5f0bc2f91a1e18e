/*
 * The table that describes a subcommand. From it are made: parsing, --help, the man page and the shell completion.
 */
#ifndef DEJAVM_TOOLS_COMMAND_H
#define DEJAVM_TOOLS_COMMAND_H

#include "core/base/types.h"

#include <stdio.h>

struct option_spec {
    const char *name;    /* without the dashes; NULL ends a list */
    char letter;         /* 'o' for -o, or 0 */
    const char *value;   /* what its value is called in the help; NULL: it takes none */
    const char *choices; /* "a b c" for the completion, or NULL */
    bool repeatable;
    const char *text;
};

struct operand_spec {
    const char *name; /* NULL ends a list */
    bool optional;
    const char *text;
};

struct example_spec {
    const char *line; /* NULL ends a list */
    const char *text;
};

#define ARGUMENTS_MAX_OPTIONS  64
#define ARGUMENTS_MAX_OPERANDS 4

struct command;

/* A parsed command line; points into argv. */
struct arguments {
    const struct command *command;
    size_t option_count;
    struct {
        const struct option_spec *spec;
        const char *value; /* NULL for a flag */
    } option[ARGUMENTS_MAX_OPTIONS];
    size_t operand_count;
    const char *operand[ARGUMENTS_MAX_OPERANDS];
    size_t rest_count; /* of a command that hands arguments on: those after "--" */
    char **rest;
};

struct command {
    const char *name;
    const char *summary;           /* one line without a full stop */
    const char *const *paragraphs; /* ends with NULL; "- text" is a list item */
    const struct option_spec *options;
    const struct operand_spec *operands;
    const struct operand_spec
        *rest; /* what comes after "--" is for somebody else; NULL: "--" ends the options */
    const struct example_spec *examples;
    int (*run)(const struct arguments *arguments); /* returns the exit status */
};

/* All subcommands, in the order in which the help lists them; ends with NULL. */
extern const struct command *const commands[];
const struct command *command_find(const char *name); /* NULL: there is none */

/* The options that every subcommand has. Ends with a NULL name. */
extern const struct option_spec common_options[];

enum parse_result {
    PARSE_RUN,
    PARSE_HELP,  /* --help was given */
    PARSE_USAGE, /* the message is on stderr */
};

/* argv[0] is the subcommand's name. Options may stand before and after operands; "--" ends them. */
enum parse_result command_parse(const struct command *command, int argc, char **argv, struct arguments *out);

bool argument_flag(const struct arguments *arguments, const char *name);
/* The last value given, or fallback. */
const char *argument_value(const struct arguments *arguments, const char *name, const char *fallback);

/* Prints "dejavm: record: text" and the hint to --help; returns the usage exit status. */
int usage_error(const struct command *command, const char *format, ...) format_printf(2, 3);

/* The known name (of commands, or of a command's options) that a mistyped one probably meant, or NULL. */
const char *command_suggest(const char *mistyped);
const char *option_suggest(const struct command *command, const char *mistyped);

/* Help on a terminal, 79 columns. command NULL: the overview. */
void help_print(const struct command *command, FILE *out);
/* Manual page, man(7). command NULL: dejavm(1). */
void man_print(const struct command *command, FILE *out);
void completion_print(FILE *out);

/* What exit statuses mean; the text of help, man pages. Ends with a NULL text. */
struct status_text {
    const char *status;
    const char *text;
};
extern const struct status_text status_texts[];

#endif
