/* The subcommands, one file each. */
#ifndef DEJAVM_TOOLS_COMMANDS_H
#define DEJAVM_TOOLS_COMMANDS_H

#include "tools/command.h"

extern const struct command command_record, command_replay, command_verify, command_state, command_info,
    command_dump, command_debug, command_gdbserver, command_symbols, command_crash, command_doctor,
    command_help;

#endif
