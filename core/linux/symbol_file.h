/*
 * An ELF file for debuggers with what was found in a guest's memory: symbols of the kernel and its modules at the addresses that they
 * have in the guest, sections without contents around them, and .debug_frame from the kernel's ORC tables, by which a
 * debugger walks the stack.
 */
#ifndef DEJAVM_CORE_LINUX_SYMBOL_FILE_H
#define DEJAVM_CORE_LINUX_SYMBOL_FILE_H

#include "core/linux/linux_guest.h"

struct linux_symbol_file {
    bool without_kernel;                                            /* modules only */
    const struct linux_modules *modules;                            /* or NULL */
    bool (*skip)(void *context, const struct linux_module *module); /* leaves modules out; or NULL */
    void *context;
};

struct linux_symbol_file_totals {
    size_t symbols, modules, frames; /* frames: descriptions of stack frames */
};

/* Writes to an empty file. totals may be NULL. */
int linux_symbol_file_write(const struct linux_guest *g, const struct linux_symbol_file *what, int fd,
                            struct linux_symbol_file_totals *totals, struct error *err) must_check;

#endif
