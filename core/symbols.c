#include "core/symbols.h"

#include <errno.h>
#include <gelf.h>
#include <inttypes.h>
#include <libelf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/dwarf_lines.h"

/* How many symbols before an address are looked at for one that encloses it. */
#define ENCLOSING_MAX 16

/* Decompressed debug sections beyond this are left alone. */
#define DECOMPRESSED_MAX_BYTES ((size_t)256 << 20)

struct symbol {
    gva_t address;
    gva_t end;     /* exclusive; of a symbol without size: the next symbol, or the end of its section */
    uint32_t name; /* offset in names */
    uint8_t rank;  /* the lower, the better a name it is */
    bool sized;
};

struct symbols {
    struct symbol *table; /* ascending addresses; for one address the best rank last */
    size_t count;
    char *names;
    struct dwarf_lines *lines;
};

/* ---- building ---- */

static int compare_symbols(const void *a, const void *b)
{
    const struct symbol *x = a, *y = b;
    if (x->address != y->address)
        return x->address < y->address ? -1 : 1;
    if (x->rank != y->rank)
        return x->rank > y->rank ? -1 : 1;
    return x->name < y->name ? -1 : x->name > y->name;
}

/* Functions before objects before labels, global before weak before local. 255: not a name for an address. */
static uint8_t symbol_rank(const GElf_Sym *sym)
{
    static const uint8_t of_binding[3] = {[STB_LOCAL] = 2, [STB_GLOBAL] = 0, [STB_WEAK] = 1};
    unsigned binding = GELF_ST_BIND(sym->st_info);
    uint8_t rank = binding < 3 ? of_binding[binding] : 2;
    if (sym->st_shndx == SHN_UNDEF || sym->st_shndx == SHN_COMMON)
        return UINT8_MAX;
    switch (GELF_ST_TYPE(sym->st_info)) {
    case STT_FUNC:
        return rank;
    case STT_OBJECT:
        return (uint8_t)(rank + 3);
    case STT_NOTYPE: /* an absolute one is a constant of the linker script more often than an address */
        return sym->st_shndx == SHN_ABS ? UINT8_MAX : (uint8_t)(rank + 6);
    default:
        return UINT8_MAX;
    }
}

/* Where a symbol ends for lack of a size: at the end of its section. */
static gva_t section_end(Elf *elf, const GElf_Sym *sym)
{
    GElf_Shdr header;
    gva_t end;
    Elf_Scn *section = sym->st_shndx < SHN_LORESERVE ? elf_getscn(elf, sym->st_shndx) : NULL;
    if (!section || !gelf_getshdr(section, &header) || sym->st_value < header.sh_addr ||
        __builtin_add_overflow(header.sh_addr, header.sh_size, &end) || end <= sym->st_value)
        return sym->st_value == UINT64_MAX ? sym->st_value : sym->st_value + 1;
    return end;
}

static void add_symbol(struct symbols *s, Elf *elf, const GElf_Sym *sym, size_t names_length)
{
    struct symbol *out = &s->table[s->count];
    uint8_t rank = symbol_rank(sym);
    if (rank == UINT8_MAX || sym->st_name >= names_length || s->names[sym->st_name] == '\0')
        return;
    *out =
        (struct symbol){.address = sym->st_value, .name = sym->st_name, .rank = rank, .sized = sym->st_size};
    if (!sym->st_size)
        out->end = section_end(elf, sym);
    else if (__builtin_add_overflow(sym->st_value, sym->st_size, &out->end))
        out->end = UINT64_MAX;
    s->count++;
}

/* A symbol without a size ends where the next one begins. */
static void clip_unsized(struct symbols *s)
{
    gva_t next = UINT64_MAX;
    for (size_t i = s->count; i-- > 0;) {
        struct symbol *sym = &s->table[i];
        if (i + 1 < s->count && s->table[i + 1].address > sym->address)
            next = s->table[i + 1].address;
        if (!sym->sized && sym->end > next)
            sym->end = next;
    }
}

static int read_symbols(struct symbols *s, Elf *elf, Elf_Scn *section, const GElf_Shdr *header,
                        struct error *err)
{
    Elf_Data *data = elf_getdata(section, NULL);
    Elf_Scn *names_section = elf_getscn(elf, header->sh_link);
    Elf_Data *names = names_section ? elf_getdata(names_section, NULL) : NULL;
    size_t entry = gelf_fsize(elf, ELF_T_SYM, 1, EV_CURRENT);
    if (!data || !data->d_buf || !names || !names->d_buf || !entry || names->d_size >= UINT32_MAX)
        return 0;
    size_t count = data->d_size / entry;
    if (count > INT32_MAX || count == 0)
        return 0;
    /*
     * All names at once: symbols may share them, and a copy per symbol could be made to grow without bound.
     */
    s->names = malloc(names->d_size + 1);
    s->table = reallocarray(NULL, count, sizeof(*s->table));
    if (!s->names || !s->table)
        return error_set(err, -ENOMEM, "no memory for %zu symbols of the guest's image", count);
    memcpy(s->names, names->d_buf, names->d_size);
    s->names[names->d_size] = '\0';
    for (size_t i = 0; i < count; i++) {
        GElf_Sym sym;
        if (gelf_getsym(data, (int)i, &sym))
            add_symbol(s, elf, &sym, names->d_size);
    }
    qsort(s->table, s->count, sizeof(*s->table), compare_symbols);
    clip_unsized(s);
    return 0;
}

/* The contents of a debug section, decompressed where need be (in memory of elf). */
static struct dwarf_section debug_section(Elf_Scn *section)
{
    GElf_Shdr header;
    if (!gelf_getshdr(section, &header))
        return (struct dwarf_section){0};
    if (header.sh_flags & SHF_COMPRESSED) {
        GElf_Chdr compressed;
        if (!gelf_getchdr(section, &compressed) || compressed.ch_size > DECOMPRESSED_MAX_BYTES ||
            elf_compress(section, 0, 0) < 0)
            return (struct dwarf_section){0};
    }
    Elf_Data *data = elf_getdata(section, NULL);
    if (!data || !data->d_buf)
        return (struct dwarf_section){0};
    return (struct dwarf_section){.data = data->d_buf, .length = data->d_size};
}

struct elf_sections {
    Elf_Scn *symbols; /* .symtab, else .dynsym */
    GElf_Shdr symbols_header;
    Elf_Scn *debug_line, *debug_line_str, *debug_str;
};

static void find_sections(Elf *elf, struct elf_sections *out)
{
    size_t names_index;
    bool have_names = elf_getshdrstrndx(elf, &names_index) == 0;
    Elf_Scn *section = NULL;
    *out = (struct elf_sections){0};
    while ((section = elf_nextscn(elf, section)) != NULL) {
        GElf_Shdr header;
        if (!gelf_getshdr(section, &header))
            continue;
        if (header.sh_type == SHT_SYMTAB || (header.sh_type == SHT_DYNSYM && !out->symbols)) {
            out->symbols = section;
            out->symbols_header = header;
        }
        const char *name = have_names ? elf_strptr(elf, names_index, header.sh_name) : NULL;
        if (!name || header.sh_type == SHT_NOBITS)
            continue;
        if (strcmp(name, ".debug_line") == 0)
            out->debug_line = section;
        else if (strcmp(name, ".debug_line_str") == 0)
            out->debug_line_str = section;
        else if (strcmp(name, ".debug_str") == 0)
            out->debug_str = section;
    }
}

static int read_image(struct symbols *s, Elf *elf, struct error *err)
{
    GElf_Ehdr header;
    if (elf_kind(elf) != ELF_K_ELF || !gelf_getehdr(elf, &header))
        return 0;
    if ((header.e_machine != EM_X86_64 && header.e_machine != EM_386) ||
        (header.e_type != ET_EXEC && header.e_type != ET_DYN))
        return 0;
    struct elf_sections found;
    find_sections(elf, &found);
    if (found.symbols) {
        int rc = read_symbols(s, elf, found.symbols, &found.symbols_header, err);
        if (rc)
            return rc;
    }
    if (found.debug_line) {
        const struct dwarf_section none = {0};
        s->lines = dwarf_lines_create(debug_section(found.debug_line),
                                      found.debug_line_str ? debug_section(found.debug_line_str) : none,
                                      found.debug_str ? debug_section(found.debug_str) : none);
    }
    return 0;
}

int symbols_create(struct symbols **out, const uint8_t *image, size_t length, struct error *err)
{
    *out = NULL;
    struct symbols *s = calloc(1, sizeof(*s));
    if (!s)
        return error_set(err, -ENOMEM, "no memory for a symbol table");
    int rc = 0;
    /* libelf takes a char pointer, but only reads an image that was opened with elf_memory. */
    Elf *elf = NULL;
    if (image && length && elf_version(EV_CURRENT) != EV_NONE)
        elf = elf_memory((char *)(uintptr_t)image, length);
    if (elf) {
        rc = read_image(s, elf, err);
        elf_end(elf);
    }
    if (rc) {
        symbols_destroy(s);
        return rc;
    }
    *out = s;
    return 0;
}

void symbols_destroy(struct symbols *s)
{
    if (!s)
        return;
    dwarf_lines_destroy(s->lines);
    free(s->table);
    free(s->names);
    free(s);
}

/* ---- looking up ---- */

/* The function or object around address, or else the nearest label before it; NULL if none. */
static const struct symbol *find_symbol(const struct symbols *s, gva_t address)
{
    size_t low = 0, high = s->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (s->table[middle].address <= address)
            low = middle + 1;
        else
            high = middle;
    }
    const struct symbol *label = NULL;
    for (size_t tried = 0; tried < ENCLOSING_MAX && low > 0; tried++) {
        const struct symbol *sym = &s->table[--low];
        if (address >= sym->end)
            continue;
        if (sym->sized)
            return sym;
        if (!label)
            label = sym;
    }
    return label;
}

const char *symbols_describe(const struct symbols *s, gva_t address, char *out, size_t size)
{
    if (size == 0)
        return out;
    out[0] = '\0';
    if (!s)
        return out;
    const struct symbol *sym = find_symbol(s, address);
    int used = 0;
    if (sym && sym->address == address)
        used = snprintf(out, size, "%s", s->names + sym->name);
    else if (sym)
        used = snprintf(out, size, "%s+0x%" PRIx64, s->names + sym->name, address - sym->address);
    const char *file;
    unsigned line;
    if (used >= 0 && (size_t)used < size && dwarf_lines_find(s->lines, address, &file, &line))
        snprintf(out + used, size - (size_t)used, "%s(%s:%u)", used ? " " : "", file, line);
    return out;
}

bool symbols_find(const struct symbols *s, const char *name, gva_t *address)
{
    const struct symbol *best = NULL;
    for (size_t i = 0; s && i < s->count; i++) {
        const struct symbol *sym = &s->table[i];
        if ((!best || sym->rank < best->rank) && strcmp(s->names + sym->name, name) == 0)
            best = sym;
    }
    if (best)
        *address = best->address;
    return best != NULL;
}
