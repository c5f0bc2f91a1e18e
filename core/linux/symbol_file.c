#include "core/linux/symbol_file.h"
#include "core/linux/internal.h"

#include <errno.h>
#include <gelf.h>
#include <libelf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SECTIONS_MAX     ((size_t)32768) /* section numbers have 15 good bits */
#define SECTION_KINDS    8
#define MODULE_NAME_ROOM (LINUX_MODULE_NAME_BYTES + 72)

/* A range of the guest's memory, as a section without contents. */
struct part {
    gva_t start, end;
    uint32_t name; /* in section_names */
    uint64_t flags;
};

struct file {
    const struct linux_guest *g;
    const struct linux_symbol_file *what;
    struct part *parts;
    size_t part_count, part_room;
    struct buffer section_names, names, symbols, frames;
    size_t locals; /* symbols of the binding that ELF has first */
    struct linux_symbol_file_totals totals;
};

static uint32_t put_name(struct buffer *names, const char *name)
{
    uint32_t at = (uint32_t)names->length;
    buffer_put(names, name, strlen(name) + 1);
    return at;
}

/* ---- sections ---- */

static bool add_part(struct file *f, gva_t start, gva_t end, const char *name, uint64_t flags)
{
    if (end <= start || f->part_count == SECTIONS_MAX)
        return true;
    if (f->part_count == f->part_room) {
        size_t room = f->part_room ? 2 * f->part_room : 64;
        struct part *parts = reallocarray(f->parts, room, sizeof(*parts));
        if (!parts)
            return false;
        f->parts = parts;
        f->part_room = room;
    }
    f->parts[f->part_count++] = (struct part){start, end, put_name(&f->section_names, name), flags};
    return true;
}

/* Parts of the kernel, by the symbols of its linker script (vmlinux.lds.S). */
static const struct {
    const char *name, *start, *end;
    uint64_t flags;
} kernel_parts[] = {
    {".text", "_text", "_etext", SHF_ALLOC | SHF_EXECINSTR},
    {".rodata", "__start_rodata", "__end_rodata", SHF_ALLOC},
    {".data", "_sdata", "_edata", SHF_ALLOC | SHF_WRITE},
    {".init.text", "_sinittext", "_einittext", SHF_ALLOC | SHF_EXECINSTR},
    {".bss", "__bss_start", "__bss_stop", SHF_ALLOC | SHF_WRITE},
};

static bool add_kernel_parts(struct file *f)
{
    for (size_t i = 0; i < ARRAY_LEN(kernel_parts); i++) {
        gva_t start, end;
        if (linux_symbol_address(f->g, kernel_parts[i].start, &start) &&
            linux_symbol_address(f->g, kernel_parts[i].end, &end) && start >= f->g->base &&
            end <= f->g->end && !add_part(f, start, end, kernel_parts[i].name, kernel_parts[i].flags))
            return false;
    }
    return true;
}

static int compare_sections(const void *a, const void *b)
{
    const struct linux_section *x = a, *y = b;
    return x->address < y->address ? -1 : x->address > y->address;
}

static uint64_t flags_of(const char *section)
{
    if (strstr(section, "text"))
        return SHF_ALLOC | SHF_EXECINSTR;
    if (strstr(section, "rodata") || strncmp(section, ".note", 5) == 0 || strncmp(section, ".orc", 4) == 0)
        return SHF_ALLOC;
    return SHF_ALLOC | SHF_WRITE;
}

/* The sections of a module have addresses, and end where the next one begins. What was there during its start is gone. */
static bool add_module_parts(struct file *f, const struct linux_module *module)
{
    char name[MODULE_NAME_ROOM];
    size_t count = module->section_count;
    struct linux_section *sorted = reallocarray(NULL, count ? count : 1, sizeof(*sorted));
    if (!sorted)
        return false;
    if (count)
        memcpy(sorted, module->sections, count * sizeof(*sorted));
    qsort(sorted, count, sizeof(*sorted), compare_sections);
    bool good = true;
    for (size_t r = 0; r < module->range_count; r++) {
        gva_t start = module->ranges[r].start, end = start + module->ranges[r].size;
        bool any = false;
        for (size_t i = 0; good && i < count; i++) {
            if (sorted[i].address < start || sorted[i].address >= end)
                continue;
            gva_t next = i + 1 < count && sorted[i + 1].address < end ? sorted[i + 1].address : end;
            snprintf(name, sizeof(name), "%s:%s", module->name, sorted[i].name);
            good = add_part(f, sorted[i].address, next, name, flags_of(sorted[i].name));
            any = true;
        }
        snprintf(name, sizeof(name), "%s:%zu", module->name, r);
        if (good && !any)
            good = add_part(f, start, end, name, SHF_ALLOC | SHF_EXECINSTR);
    }
    free(sorted);
    return good;
}

/* ---- symbols ---- */

/* Among the parts from first up to last, which are those of the kernel or of one module. SHN_ABS: in none. */
static uint16_t part_index(const struct file *f, size_t first, size_t last, gva_t address)
{
    for (size_t i = first; i < last; i++)
        if (address >= f->parts[i].start && address < f->parts[i].end)
            return (uint16_t)(i + 1);
    return SHN_ABS;
}

static void put_symbol(struct file *f, const struct linux_symbol *s, gva_t next, uint16_t section)
{
    bool code = section != SHN_ABS && f->parts[section - 1].flags & SHF_EXECINSTR;
    bool weak = s->type == 'W' || s->type == 'w' || s->type == 'V' || s->type == 'v';
    bool local = s->type >= 'a' && s->type <= 'z' && !weak;
    gva_t end = section == SHN_ABS ? s->address : f->parts[section - 1].end;
    if (next < end)
        end = next;
    if (end < s->address)
        end = s->address;
    const Elf64_Sym out = {
        .st_name = put_name(&f->names, s->name),
        .st_info = (unsigned char)ELF64_ST_INFO(local  ? STB_LOCAL
                                                : weak ? STB_WEAK
                                                       : STB_GLOBAL,
                                                code ? STT_FUNC : STT_OBJECT),
        .st_shndx = section,
        .st_value = s->address,
        .st_size = end - s->address,
    };
    buffer_put(&f->symbols, &out, sizeof(out));
    f->totals.symbols++;
}

static bool is_local(const struct linux_symbol *s)
{
    return s->type >= 'a' && s->type <= 'z' && s->type != 'w' && s->type != 'v';
}

static void put_kernel_symbols(struct file *f, size_t parts, bool locals)
{
    size_t count = linux_symbol_count(f->g), next = 0;
    for (size_t i = 0; i < count; i++) {
        struct linux_symbol s = linux_symbol_at(f->g, i);
        if (next <= i)
            next = i + 1;
        while (next < count && linux_symbol_at(f->g, next).address == s.address)
            next++;
        gva_t end = next < count ? linux_symbol_at(f->g, next).address : f->g->end;
        if (is_local(&s) == locals)
            put_symbol(f, &s, end, part_index(f, 0, parts, s.address));
    }
}

static void put_module_symbols(struct file *f, const struct linux_module *module, size_t first, size_t last,
                               bool locals)
{
    for (size_t i = 0; i < module->symbol_count; i++) {
        const struct linux_symbol *s = &module->symbols[i];
        size_t next = i + 1;
        while (next < module->symbol_count && module->symbols[next].address == s->address)
            next++;
        gva_t end = next < module->symbol_count ? module->symbols[next].address : UINT64_MAX;
        if (is_local(s) == locals)
            put_symbol(f, s, end, part_index(f, first, last, s->address));
    }
}

static bool wanted(const struct file *f, size_t i)
{
    return !f->what->skip || !f->what->skip(f->what->context, &f->what->modules->list[i]);
}

/* Sections of all, then symbols: local ones first, as ELF wants them. */
static int collect(struct file *f, struct error *err)
{
    const struct linux_modules *modules = f->what->modules;
    size_t first[LINUX_MODULES_MAX + 1] = {0};
    const Elf64_Sym none = {0};
    bool good = f->what->without_kernel || add_kernel_parts(f);
    first[0] = f->part_count;
    for (size_t i = 0; good && modules && i < modules->count; i++) {
        if (wanted(f, i)) {
            good = add_module_parts(f, &modules->list[i]);
            f->totals.modules++;
        }
        first[i + 1] = f->part_count;
    }
    if (!good)
        return error_set(err, -ENOMEM, "no memory for sections");
    buffer_put(&f->symbols, &none, sizeof(none));
    for (unsigned pass = 0; pass < 2; pass++) {
        if (!f->what->without_kernel)
            put_kernel_symbols(f, first[0], pass == 0);
        for (size_t i = 0; modules && i < modules->count; i++)
            if (wanted(f, i))
                put_module_symbols(f, &modules->list[i], first[i], first[i + 1], pass == 0);
        if (pass == 0)
            f->locals = f->symbols.length / sizeof(none);
    }
    if (!f->what->without_kernel && f->g->orc.count > 0)
        f->totals.frames = debug_frame_write(&f->frames, &f->g->orc, f->g->end);
    for (size_t i = 0; modules && i < modules->count; i++) {
        const struct linux_module *module = &modules->list[i];
        if (wanted(f, i) && module->unwind && module->unwind->table.count > 0)
            f->totals.frames +=
                debug_frame_write(&f->frames, &module->unwind->table, module->base + module->ranges[0].size);
    }
    return 0;
}

/* ---- the file ---- */

static Elf_Scn *add_section(Elf *elf, const GElf_Shdr *header, void *data, size_t length, Elf_Type type)
{
    Elf_Scn *section = elf_newscn(elf);
    Elf_Data *content = section ? elf_newdata(section) : NULL;
    if (!content)
        return NULL;
    *content = (Elf_Data){.d_buf = data,
                          .d_type = type,
                          .d_size = length,
                          .d_align = header->sh_addralign,
                          .d_version = EV_CURRENT};
    GElf_Shdr full = *header;
    full.sh_size = length;
    return gelf_update_shdr(section, &full) ? section : NULL;
}

static bool add_all(Elf *elf, struct file *f)
{
    GElf_Ehdr header = {.e_type = ET_EXEC, .e_machine = EM_X86_64, .e_version = EV_CURRENT};
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_entry = f->g->base;
    size_t sections = f->part_count + 1; /* the first is the null section */
    for (size_t i = 0; i < f->part_count; i++) {
        const struct part *p = &f->parts[i];
        const GElf_Shdr part = {.sh_name = p->name,
                                .sh_type = SHT_NOBITS,
                                .sh_flags = p->flags,
                                .sh_addr = p->start,
                                .sh_addralign = 1};
        if (!add_section(elf, &part, NULL, p->end - p->start, ELF_T_BYTE))
            return false;
    }
    const GElf_Shdr frames = {
        .sh_name = put_name(&f->section_names, ".debug_frame"), .sh_type = SHT_PROGBITS, .sh_addralign = 8};
    if (f->frames.length > 0) {
        if (!add_section(elf, &frames, f->frames.data, f->frames.length, ELF_T_BYTE))
            return false;
        sections++;
    }
    const GElf_Shdr symbols = {.sh_name = put_name(&f->section_names, ".symtab"),
                               .sh_type = SHT_SYMTAB,
                               .sh_link = (GElf_Word)(sections + 1),
                               .sh_info = (GElf_Word)f->locals,
                               .sh_entsize = sizeof(Elf64_Sym),
                               .sh_addralign = 8};
    const GElf_Shdr names = {
        .sh_name = put_name(&f->section_names, ".strtab"), .sh_type = SHT_STRTAB, .sh_addralign = 1};
    const GElf_Shdr section_names = {
        .sh_name = put_name(&f->section_names, ".shstrtab"), .sh_type = SHT_STRTAB, .sh_addralign = 1};
    header.e_shstrndx = (GElf_Half)(sections + 2);
    return !f->section_names.failed &&
           add_section(elf, &symbols, f->symbols.data, f->symbols.length, ELF_T_SYM) &&
           add_section(elf, &names, f->names.data, f->names.length, ELF_T_BYTE) &&
           add_section(elf, &section_names, f->section_names.data, f->section_names.length, ELF_T_BYTE) &&
           gelf_update_ehdr(elf, &header);
}

static int write_file(struct file *f, int fd, struct error *err)
{
    Elf *elf = elf_version(EV_CURRENT) == EV_NONE ? NULL : elf_begin(fd, ELF_C_WRITE, NULL);
    int code = 0;
    if (!elf || !gelf_newehdr(elf, ELFCLASS64) || !add_all(elf, f) || elf_update(elf, ELF_C_WRITE) < 0)
        code = error_set(err, -EIO, "write symbols: %s", elf_errmsg(-1));
    if (elf)
        elf_end(elf);
    return code;
}

int linux_symbol_file_write(const struct linux_guest *g, const struct linux_symbol_file *what, int fd,
                            struct linux_symbol_file_totals *totals, struct error *err)
{
    struct file f = {.g = g, .what = what};
    put_name(&f.section_names, "");
    put_name(&f.names, "");
    int code = collect(&f, err);
    if (code == 0 && (f.section_names.failed || f.names.failed || f.symbols.failed || f.frames.failed))
        code = error_set(err, -ENOMEM, "no memory for symbols");
    if (code == 0)
        code = write_file(&f, fd, err);
    if (totals)
        *totals = f.totals;
    free(f.parts);
    buffer_free(&f.section_names);
    buffer_free(&f.names);
    buffer_free(&f.symbols);
    buffer_free(&f.frames);
    return code;
}
