/* dejavm help */
#include "tools/commands.h"
#include "tools/status.h"

static int run(const struct arguments *arguments)
{
    const struct command *command = NULL;
    if (arguments->operand_count) {
        const char *name = arguments->operand[0];
        command = command_find(name);
        if (!command) {
            const char *suggestion = command_suggest(name);
            return usage_error(arguments->command, "there is no command '%.100s'%s%s%s", name,
                               suggestion ? " (did you mean '" : "", suggestion ? suggestion : "",
                               suggestion ? "'?)" : "");
        }
    }
    help_print(command, stdout);
    return finish_output(STATUS_OK);
}

static const char *const paragraphs[] = {
    "Prints help on a command, or the overview without one. 'dejavm COMMAND --help' prints the same.",
    NULL,
};
static const struct option_spec options[] = {{0}};
static const struct operand_spec operands[] = {
    {.name = "COMMAND", .optional = true, .text = "The command to explain."},
    {0},
};
static const struct example_spec examples[] = {{0}};

const struct command command_help = {
    .name = "help",
    .summary = "explain a command",
    .paragraphs = paragraphs,
    .options = options,
    .operands = operands,
    .examples = examples,
    .run = run,
};
