/* dejavm symbols */
#include "core/linux/symbol_file.h"
#include "tools/commands.h"
#include "tools/interrupt.h"
#include "tools/session.h"
#include "tools/status.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Writes to a name next to the file's, which then takes its place: no half of a file is left behind. */
static int write_symbols(const struct linux_guest *g, const struct linux_symbol_file *what, const char *path,
                         struct linux_symbol_file_totals *totals, struct error *err)
{
    char *part = NULL;
    if (asprintf(&part, "%s.XXXXXX", path) < 0)
        return error_set(err, -ENOMEM, "out of memory");
    int fd = mkostemp(part, O_CLOEXEC);
    int code = fd < 0 ? error_errno(err, -errno, "%s", path) : 0;
    if (code == 0)
        code = linux_symbol_file_write(g, what, fd, totals, err);
    mode_t mask = umask(0);
    umask(mask);
    if (code == 0 && fchmod(fd, 0666 & ~mask))
        code = error_errno(err, -errno, "%s", path);
    if (fd >= 0 && close(fd) && code == 0)
        code = error_errno(err, -errno, "%s", path);
    if (code == 0 && rename(part, path))
        code = error_errno(err, -errno, "%s", path);
    if (code && fd >= 0)
        unlink(part);
    free(part);
    return code;
}

static void print_result(const struct linux_guest *g, const struct linux_symbol_file_totals *totals,
                         const char *path)
{
    struct number_text symbols;
    printf("%s\n", linux_guest_banner(g));
    printf("base 0x%" PRIx64 ", KASLR offset 0x%" PRIx64 "\n", linux_guest_base(g),
           linux_guest_kaslr_offset(g));
    printf("%s: %s symbols of the kernel and %zu module%s%s\n", path,
           number_format(totals->symbols, &symbols), totals->modules, totals->modules == 1 ? "" : "s",
           totals->frames ? ", with .debug_frame" : "");
}

/* Modules are left out where they cannot be found: the kernel's symbols are of use without them. */
static int extract(const struct linux_view *view, const char *path, struct error *err)
{
    struct linux_guest *guest;
    struct linux_modules *modules = NULL;
    struct linux_symbol_file_totals totals;
    struct error why = {0};
    int code = linux_guest_open(&guest, view, err);
    if (code)
        return code;
    if (linux_modules_read(&modules, guest, view, &why))
        message("without modules: %s", why.message);
    const struct linux_symbol_file what = {.modules = modules};
    code = write_symbols(guest, &what, path, &totals, err);
    if (code == 0)
        print_result(guest, &totals, path);
    linux_modules_free(modules);
    linux_guest_close(guest);
    return code;
}

static int run(const struct arguments *arguments)
{
    struct error err = {0};
    struct session session = {0};
    struct position_argument at = {.kind = POSITION_IS_END};
    const char *path = argument_value(arguments, "output", "vmlinux.sym");
    position_t position;
    if (!session_position_option(arguments, "at", &at))
        return STATUS_USAGE;
    int code = session_open(&session, arguments->operand[0], &err);
    if (code == 0)
        code = session_resolve(&session, &at, &position, &err);
    if (code == 0)
        code = session_seek(&session, position, &err);
    if (code == 0) {
        const struct linux_view view = {replay_ram(session.replay), replay_state(session.replay)};
        code = extract(&view, path, &err);
    }
    session_close(&session);
    return code ? session_fail(&err) : finish_output(STATUS_OK);
}

static const char *const paragraphs[] = {
    "Recovers the symbols of a Linux kernel and its modules from the guest's memory, without any debug "
    "package: "
    "the kernel's own table (kallsyms), at the addresses where this recording has them. Writes an ELF file "
    "for "
    "GDB ('symbol-file', or 'file') and other tools.",
    "The file also describes how to walk the kernel's stack, from the kernel's ORC tables.",
    "'dejavm debug' does this by itself. Modules are those that are loaded at the position.",
    NULL,
};
static const struct option_spec options[] = {
    {.name = "at", .value = "POS", .text = "Look at the guest there. Default: the end."},
    {.name = "output", .letter = 'o', .value = "FILE", .text = "The file to write. Default: vmlinux.sym."},
    {0},
};
static const struct operand_spec operands[] = {{.name = "TRACE", .text = "The trace file."}, {0}};
static const struct example_spec examples[] = {
    {"dejavm symbols boot.dvm -o vmlinux.sym", "Then: gdb vmlinux.sym -ex 'target remote ...'"},
    {0},
};

const struct command command_symbols = {
    .name = "symbols",
    .summary = "recover a Linux guest's symbols from its memory",
    .paragraphs = paragraphs,
    .options = options,
    .operands = operands,
    .examples = examples,
    .run = run,
};
