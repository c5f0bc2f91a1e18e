#include "tools/debug_symbols.h"
#include "core/linux/symbol_file.h"

#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <inttypes.h>
#include <libelf.h>
#include <string.h>
#include <unistd.h>

/* ---- the files that the user names ---- */

static bool is_kernel(const struct symbols *table)
{
    gva_t address;
    return symbols_find(table, "linux_banner", &address);
}

bool debug_symbols_in_image(const struct trace_target *t)
{
    return is_kernel(replay_symbols(timeline_replay(t->timeline)));
}

bool debug_symbols_have_kernel(const struct trace_target *t)
{
    bool have = debug_symbols_in_image(t);
    for (size_t i = 0; i < t->table_count; i++)
        have = have || is_kernel(t->tables[i]);
    return have;
}

/* A file that is not linked yet (ET_REL), as modules are. */
struct object_file {
    int fd;
    Elf *elf;
    size_t names; /* section with the names of sections */
    char module[LINUX_MODULE_NAME_BYTES + 1];
};

static const char *section_name(const struct object_file *f, Elf_Scn *section, GElf_Shdr *header)
{
    return gelf_getshdr(section, header) ? elf_strptr(f->elf, f->names, header->sh_name) : NULL;
}

/* The name that .modinfo says: strings "KEY=VALUE". */
static void find_module_name(struct object_file *f)
{
    static const char key[] = "name=";
    Elf_Scn *section = NULL;
    GElf_Shdr header;
    while ((section = elf_nextscn(f->elf, section)) != NULL) {
        const char *name = section_name(f, section, &header);
        Elf_Data *data = name && strcmp(name, ".modinfo") == 0 ? elf_getdata(section, NULL) : NULL;
        if (!data || !data->d_buf)
            continue;
        const char *text = data->d_buf;
        for (size_t at = 0; at < data->d_size; at += strnlen(text + at, data->d_size - at) + 1) {
            size_t length = strnlen(text + at, data->d_size - at);
            if (length < sizeof(key) || length - sizeof(key) + 1 >= sizeof(f->module) ||
                strncmp(text + at, key, sizeof(key) - 1) != 0)
                continue;
            memcpy(f->module, text + at + sizeof(key) - 1, length - sizeof(key) + 1);
            return;
        }
    }
}

static void object_close(struct object_file *f)
{
    if (f->elf)
        elf_end(f->elf);
    if (f->fd >= 0)
        close(f->fd);
}

/* False: not a module. */
static bool object_open(struct object_file *f, const char *path)
{
    GElf_Ehdr header;
    *f = (struct object_file){.fd = open(path, O_RDONLY | O_CLOEXEC)};
    if (f->fd >= 0 && elf_version(EV_CURRENT) != EV_NONE)
        f->elf = elf_begin(f->fd, ELF_C_READ, NULL);
    if (f->elf && elf_kind(f->elf) == ELF_K_ELF && gelf_getehdr(f->elf, &header) && header.e_type == ET_REL &&
        elf_getshdrstrndx(f->elf, &f->names) == 0)
        find_module_name(f);
    if (f->module[0])
        return true;
    object_close(f);
    return false;
}

/* ---- GDB's commands ---- */

int debug_symbols_put_quoted(FILE *out, const char *command, const char *path, struct error *err)
{
    if (strchr(path, '\n'))
        return error_set(err, -EINVAL, "--symbols: a path with a line feed in it");
    fprintf(out, "%s \"", command);
    for (; *path; path++) {
        if (*path == '"' || *path == '\\')
            putc('\\', out);
        putc(*path, out);
    }
    fputs("\"", out);
    return 0;
}

static const struct linux_section *loaded_section(const struct linux_module *module, const char *name)
{
    for (size_t i = 0; i < module->section_count; i++) {
        gva_t address = module->sections[i].address;
        if (strcmp(module->sections[i].name, name) != 0)
            continue;
        /* What is outside of the module's memory was given back after its start. */
        for (size_t r = 0; r < module->range_count; r++)
            if (address >= module->ranges[r].start &&
                address - module->ranges[r].start < module->ranges[r].size)
                return &module->sections[i];
    }
    return NULL;
}

static bool plain_name(const char *name)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    return *name && strspn(name, plain) == strlen(name);
}

static int put_module(FILE *out, const struct trace_target *t, struct object_file *f, const char *path,
                      struct error *err)
{
    const struct linux_modules *modules = trace_linux_modules(t);
    const struct linux_module *module = NULL;
    Elf_Scn *section = NULL;
    GElf_Shdr header;
    for (size_t i = 0; modules && i < modules->count; i++)
        if (strcmp(modules->list[i].name, f->module) == 0)
            module = &modules->list[i];
    if (!module)
        return error_set(err, -ENOENT,
                         "%s: the guest has not loaded the module %s at this position (--at names another)",
                         path, f->module);
    int code = debug_symbols_put_quoted(out, "add-symbol-file", path, err);
    while (code == 0 && (section = elf_nextscn(f->elf, section)) != NULL) {
        const char *name = section_name(f, section, &header);
        const struct linux_section *loaded =
            name && header.sh_flags & SHF_ALLOC && plain_name(name) ? loaded_section(module, name) : NULL;
        if (loaded)
            fprintf(out, " -s %s 0x%" PRIx64, name, loaded->address);
    }
    putc('\n', out);
    return code;
}

/* The i-th of the --symbols is the i-th table of the target. */
static int put_file(FILE *out, const struct trace_target *t, size_t i, const char *path, bool have_program,
                    struct error *err)
{
    struct object_file object;
    if (t->kernel->guest && object_open(&object, path)) {
        int code = put_module(out, t, &object, path, err);
        object_close(&object);
        return code;
    }
    uint64_t offset = i < t->table_count ? t->table_offsets[i] : 0;
    const char *program = offset ? "symbol-file" : "file";
    int code = debug_symbols_put_quoted(out, have_program ? "add-symbol-file" : program, path, err);
    if (offset)
        fprintf(out, " -o 0x%" PRIx64, offset);
    putc('\n', out);
    return code;
}

int debug_symbols_put(FILE *out, const struct trace_target *t, const struct arguments *arguments,
                      bool have_program, struct error *err)
{
    size_t n = 0;
    for (size_t i = 0; i < arguments->option_count; i++) {
        if (strcmp(arguments->option[i].spec->name, "symbols") != 0)
            continue;
        int code = put_file(out, t, n++, arguments->option[i].value, have_program, err);
        if (code)
            return code;
        have_program = true;
    }
    return 0;
}

/* ---- what the guest's memory has ---- */

static bool has_file(void *context, const struct linux_module *module)
{
    const struct arguments *arguments = context;
    bool found = false;
    for (size_t i = 0; !found && i < arguments->option_count; i++) {
        struct object_file object;
        if (strcmp(arguments->option[i].spec->name, "symbols") != 0 ||
            !object_open(&object, arguments->option[i].value))
            continue;
        found = strcmp(object.module, module->name) == 0;
        object_close(&object);
    }
    return found;
}

int debug_symbols_write(const struct trace_target *t, const struct arguments *arguments, const char *path,
                        struct error *err)
{
    struct arguments own = *arguments;
    const struct linux_symbol_file what = {.without_kernel = debug_symbols_have_kernel(t),
                                           .modules = trace_linux_modules(t),
                                           .skip = has_file,
                                           .context = &own};
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_errno(err, -errno, "%s", path);
    int code = linux_symbol_file_write(t->kernel->guest, &what, fd, NULL, err);
    if (close(fd) && code == 0)
        code = error_errno(err, -errno, "%s", path);
    return code;
}
