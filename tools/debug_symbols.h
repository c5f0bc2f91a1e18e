/*
 * Symbols for the GDB that `dejavm debug` starts: of the files that the user names, put where the guest has loaded them, and of a
 * Linux guest those that are found in its memory.
 */
#ifndef DEJAVM_TOOLS_DEBUG_SYMBOLS_H
#define DEJAVM_TOOLS_DEBUG_SYMBOLS_H

#include "tools/command.h"
#include "tools/trace_linux.h"

/* The guest's image in the trace is an ELF file with the kernel's symbols. */
bool debug_symbols_in_image(const struct trace_target *t);
/* The guest's image in the trace, or one of the --symbols, is an ELF file with the kernel's symbols. */
bool debug_symbols_have_kernel(const struct trace_target *t);

/*
 * Writes the symbols in the guest's memory to a new file: of the kernel unless debug_symbols_have_kernel, and of modules without a
 * file among the --symbols.
 */
int debug_symbols_write(const struct trace_target *t, const struct arguments *arguments, const char *path,
                        struct error *err) must_check;

/*
 * GDB's commands for the --symbols. The first file is the program when there is none yet. A module (.ko) has to be loaded in the guest where
 * it stands now.
 */
int debug_symbols_put(FILE *out, const struct trace_target *t, const struct arguments *arguments,
                      bool have_program, struct error *err) must_check;
/* "COMMAND "PATH"", escaped for GDB. */
int debug_symbols_put_quoted(FILE *out, const char *command, const char *path, struct error *err) must_check;

#endif
