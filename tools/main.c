/* dejavm: finds the subcommand and runs it. */
#include "tools/command.h"
#include "tools/commands.h"
#include "tools/interrupt.h"
#include "tools/status.h"
#include "tools/version.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

#include <Zydis/Zydis.h>

const struct command *const commands[] = {
    &command_record,
    &command_replay,
    &command_verify,
    &command_debug,
    &command_gdbserver,
    &command_symbols,
    &command_crash,
    &command_state,
    &command_info,
    &command_dump,
    &command_doctor,
    &command_help,
    NULL,
};

static void print_version(void)
{
    ZyanU64 zydis = ZydisGetVersion();
    printf("dejavm %s%s%s%s\n", DEJAVM_VERSION, DEJAVM_GIT[0] ? " (" : "", DEJAVM_GIT,
           DEJAVM_GIT[0] ? ")" : "");
    printf("zstd %s\n", ZSTD_versionString());
    printf("Zydis %u.%u.%u\n", (unsigned)ZYDIS_VERSION_MAJOR(zydis), (unsigned)ZYDIS_VERSION_MINOR(zydis),
           (unsigned)ZYDIS_VERSION_PATCH(zydis));
}

static int unknown_command(const char *name)
{
    const char *suggestion = command_suggest(name);
    message("there is no command '%.100s'%s%s%s\nTry 'dejavm --help'.", name,
            suggestion ? " (did you mean '" : "", suggestion ? suggestion : "", suggestion ? "'?)" : "");
    return STATUS_USAGE;
}

/* The options in front of the command. --man and --completion are for the build. */
static int run_global_option(int argc, char **argv)
{
    const char *option = argv[1];
    if (strcmp(option, "--help") == 0 || strcmp(option, "-h") == 0) {
        help_print(NULL, stdout);
    } else if (strcmp(option, "--version") == 0 || strcmp(option, "-V") == 0) {
        print_version();
    } else if (strcmp(option, "--man") == 0) {
        const struct command *command = argc > 2 ? command_find(argv[2]) : NULL;
        if (argc > 2 && !command)
            return unknown_command(argv[2]);
        man_print(command, stdout);
    } else if (strcmp(option, "--completion") == 0) {
        completion_print(stdout);
    } else {
        message("unknown option '%.100s'\nTry 'dejavm --help'.", option);
        return STATUS_USAGE;
    }
    return finish_output(STATUS_OK);
}

/* A file that is opened must not get the number of a standard stream that the caller closed: messages would go into it. */
static bool standard_streams_exist(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
            return false;
    return true;
}

int main(int argc, char **argv)
{
    interrupt_setup();
    if (!standard_streams_exist()) {
        message("a standard stream is closed, and /dev/null cannot take its place");
        return STATUS_FAILURE;
    }
    if (argc < 2) {
        message("which command?\nTry 'dejavm --help'.");
        return STATUS_USAGE;
    }
    if (argv[1][0] == '-')
        return run_global_option(argc, argv);
    const struct command *command = command_find(argv[1]);
    if (!command)
        return unknown_command(argv[1]);

    struct arguments arguments;
    switch (command_parse(command, argc - 1, argv + 1, &arguments)) {
    case PARSE_HELP:
        help_print(command, stdout);
        return finish_output(STATUS_OK);
    case PARSE_USAGE:
        return STATUS_USAGE;
    case PARSE_RUN:
        break;
    }
    return command->run(&arguments);
}
