#include "core/linux/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SYMBOLS_MAX = 1 << 18,
    STRINGS_MAX_BYTES = 16 << 20,
    NAME_MAX_BYTES = 512,
    SECTIONS_MAX = 256,
    SECTION_NAME_BYTES = 64,
    USERS_MAX = 1024,
    ELF_SYMBOL_BYTES = 24,
    ORC_MAX = 1 << 20
};

/* Of all modules together: so that many modules cannot claim a lot each. */
struct budget {
    size_t symbols, string_bytes, orc_rows;
};

#define ALL_SYMBOLS_MAX       ((size_t)1 << 21)
#define ALL_STRINGS_MAX_BYTES ((size_t)64 << 20)

/* What modules are made of, looked up once per list. Members of size 0 are not there in this kernel. */
struct layout {
    struct place list, name, state, references, users, user_link, user_module;
    struct place kallsyms, symbols, symbol_count, strings, types; /* struct mod_kallsyms */
    struct place core_base, core_size;                            /* up to 6.3: struct module_layout */
    struct place memory, memory_base, memory_size; /* since 6.4: an array of struct module_memory */
    uint32_t memory_bytes;
    struct place sections, section_count, section_list, section_address, section_name;
    uint32_t section_bytes;
    struct place orc_count, orc_ip, orc;
};

static void find_layout(struct layout *l, const struct linux_guest *g)
{
    *l = (struct layout){
        .list = g->field[MODULE_LIST],
        .name = g->field[MODULE_NAME],
        .state = g->field[MODULE_STATE],
        .references = place_of(g, "module", "refcnt"),
        .users = place_of(g, "module", "source_list"),
        .user_link = place_of(g, "module_use", "source_list"),
        .user_module = place_of(g, "module_use", "source"),
        .kallsyms = place_of(g, "module", "kallsyms"),
        .symbols = place_of(g, "mod_kallsyms", "symtab"),
        .symbol_count = place_of(g, "mod_kallsyms", "num_symtab"),
        .strings = place_of(g, "mod_kallsyms", "strtab"),
        .types = place_of(g, "mod_kallsyms", "typetab"),
        .core_base = place_of(g, "module", "core_layout.base"),
        .core_size = place_of(g, "module", "core_layout.size"),
        .memory = place_of(g, "module", "mem"),
        .memory_base = place_of(g, "module_memory", "base"),
        .memory_size = place_of(g, "module_memory", "size"),
        .memory_bytes = place_of(g, "module_memory", "").size,
        .sections = place_of(g, "module", "sect_attrs"),
        .section_count = place_of(g, "module_sect_attrs", "nsections"),
        .section_list = place_of(g, "module_sect_attrs", "attrs"),
        .section_address = place_of(g, "module_sect_attr", "address"),
        .section_name = place_of(g, "module_sect_attr", "battr.attr.name"),
        .section_bytes = place_of(g, "module_sect_attr", "").size,
        .orc_count = place_of(g, "module", "arch.num_orcs"),
        .orc_ip = place_of(g, "module", "arch.orc_unwind_ip"),
        .orc = place_of(g, "module", "arch.orc_unwind"),
    };
    if (l->section_name.size == 0) /* some kernels of 5.10 to 6.13 have the name besides */
        l->section_name = place_of(g, "module_sect_attr", "name");
}

/* ---- one module ---- */

static void copy_printable(char *out, const char *text, size_t size)
{
    size_t i = 0;
    for (; i + 1 < size && text[i]; i++)
        out[i] = text[i] > ' ' && text[i] < 0x7f ? text[i] : '?';
    out[i] = '\0';
}

static void add_range(struct linux_module *out, gva_t start, uint64_t size)
{
    if (size == 0 || size > UINT32_MAX || start + size < start || out->range_count == LINUX_MODULE_RANGES_MAX)
        return;
    out->ranges[out->range_count].start = start;
    out->ranges[out->range_count++].size = size;
    out->size += size;
}

static void read_ranges(struct linux_module *out, const struct layout *l, const struct memory *m)
{
    uint64_t base, size;
    if (l->core_base.size > 0 && memory_member(m, out->address, l->core_base, &base) &&
        memory_member(m, out->address, l->core_size, &size))
        add_range(out, base, size);
    if (l->memory.size > 0 && l->memory_bytes > 0)
        for (uint32_t i = 0; i < l->memory.size / l->memory_bytes && i < LINUX_MODULE_RANGES_MAX; i++) {
            gva_t part = out->address + l->memory.offset + i * l->memory_bytes;
            if (memory_member(m, part, l->memory_base, &base) &&
                memory_member(m, part, l->memory_size, &size))
                add_range(out, base, size);
        }
    out->base = out->range_count ? out->ranges[0].start : 0;
}

static bool in_module(const struct linux_module *module, gva_t address)
{
    for (size_t i = 0; i < module->range_count; i++)
        if (address >= module->ranges[i].start && address - module->ranges[i].start < module->ranges[i].size)
            return true;
    return false;
}

static bool read_head(struct linux_module *out, const struct layout *l, const struct memory *m, gva_t address)
{
    char name[LINUX_MODULE_NAME_BYTES + 1] = {0};
    uint64_t state, references = 0;
    size_t length = l->name.size < LINUX_MODULE_NAME_BYTES ? l->name.size : LINUX_MODULE_NAME_BYTES;
    *out = (struct linux_module){.address = address};
    if (kernel_read(m, address + l->name.offset, name, length) != length ||
        !memory_member(m, address, l->state, &state))
        return false;
    copy_printable(out->name, name, sizeof(out->name));
    out->state = (uint32_t)state;
    /* The list itself holds one reference (MODULE_REF_BASE). */
    if (memory_member(m, address, l->references, &references))
        out->references = (int64_t)(int32_t)references - 1;
    read_ranges(out, l, m);
    return true;
}

/* ---- symbols and sections ---- */

static int compare_symbols(const void *a, const void *b)
{
    const struct linux_symbol *x = a, *y = b;
    if (x->address != y->address)
        return x->address < y->address ? -1 : 1;
    return x->name < y->name ? -1 : x->name > y->name;
}

static bool printable_name(const char *name)
{
    size_t length = 0;
    for (; name[length]; length++)
        if (name[length] <= ' ' || name[length] >= 0x7f || length == NAME_MAX_BYTES)
            return false;
    return length > 0;
}

/* Reads strings up to where they end: behind the last symbol's name. Ended by a NUL. */
static char *read_strings(const struct memory *m, gva_t address, const uint8_t *symbols, size_t count,
                          struct budget *budget, uint32_t *last)
{
    *last = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t name;
        memcpy(&name, symbols + i * ELF_SYMBOL_BYTES, sizeof(name));
        if (name < STRINGS_MAX_BYTES && name > *last)
            *last = name;
    }
    if (*last >= budget->string_bytes)
        *last = 0;
    budget->string_bytes -= *last;
    char *strings = calloc(1, *last + NAME_MAX_BYTES + 1);
    if (strings)
        (void)kernel_read(m, address, strings, *last + NAME_MAX_BYTES);
    return strings;
}

/* Elf64_Sym: name, info, other, shndx, value, size. Values are addresses once the module is loaded. */
static void take_symbols(struct linux_module *out, const uint8_t *symbols, const uint8_t *types, size_t count,
                         uint32_t last_name)
{
    for (size_t i = 0; i < count; i++) {
        const uint8_t *p = symbols + i * ELF_SYMBOL_BYTES;
        uint32_t name;
        uint64_t value;
        memcpy(&name, p, sizeof(name));
        memcpy(&value, p + 8, sizeof(value));
        if (name > last_name || !in_module(out, value) || !printable_name(out->names + name))
            continue;
        char type = types[i] > ' ' && types[i] < 0x7f ? (char)types[i] : '?';
        out->symbols[out->symbol_count++] = (struct linux_symbol){value, out->names + name, type};
    }
    qsort(out->symbols, out->symbol_count, sizeof(*out->symbols), compare_symbols);
}

static bool read_symbols(struct linux_module *out, const struct layout *l, const struct memory *m,
                         struct budget *budget)
{
    uint32_t last_name;
    uint64_t kallsyms, symbols, count, strings, types = 0;
    if (!memory_member(m, out->address, l->kallsyms, &kallsyms) || kallsyms == 0 ||
        !memory_member(m, kallsyms, l->symbols, &symbols) ||
        !memory_member(m, kallsyms, l->symbol_count, &count) ||
        !memory_member(m, kallsyms, l->strings, &strings) || count == 0 || count > SYMBOLS_MAX ||
        count > budget->symbols)
        return true;
    budget->symbols -= (size_t)count;
    uint8_t *raw = malloc((size_t)count * ELF_SYMBOL_BYTES);
    uint8_t *type = calloc(1, (size_t)count);
    out->symbols = reallocarray(NULL, (size_t)count, sizeof(*out->symbols));
    bool memory = raw && type && out->symbols;
    if (memory) {
        count = kernel_read(m, symbols, raw, (size_t)count * ELF_SYMBOL_BYTES) / ELF_SYMBOL_BYTES;
        if (memory_member(m, kallsyms, l->types, &types))
            (void)kernel_read(m, types, type, (size_t)count);
        out->names = read_strings(m, strings, raw, (size_t)count, budget, &last_name);
        memory = out->names != NULL;
        if (memory)
            take_symbols(out, raw, type, (size_t)count, last_name);
    }
    free(raw);
    free(type);
    return memory;
}

static bool read_section(struct linux_section *out, const struct layout *l, const struct memory *m,
                         gva_t attribute)
{
    char text[SECTION_NAME_BYTES] = {0};
    uint64_t name;
    if (!memory_member(m, attribute, l->section_address, &out->address) ||
        !memory_member(m, attribute, l->section_name, &name) ||
        kernel_read(m, name, text, sizeof(text) - 1) == 0 || !printable_name(text))
        return true;
    out->name = strdup(text);
    return out->name != NULL;
}

static bool read_sections(struct linux_module *out, const struct layout *l, const struct memory *m)
{
    uint64_t sections, count;
    if (l->section_bytes == 0 || !memory_member(m, out->address, l->sections, &sections) || sections == 0 ||
        !memory_member(m, sections, l->section_count, &count) || count == 0 || count > SECTIONS_MAX)
        return true;
    out->sections = calloc((size_t)count, sizeof(*out->sections));
    if (!out->sections)
        return false;
    for (size_t i = 0; i < count; i++) {
        struct linux_section *section = &out->sections[out->section_count];
        if (!read_section(section, l, m, sections + l->section_list.offset + i * l->section_bytes))
            return false;
        out->section_count += section->name != NULL;
    }
    return true;
}

/* ---- unwinding ---- */

/* Of code that is still there: what a module runs only once is given back, and its addresses may be another's now. */
static void keep_own_rows(struct orc_table *table, const struct linux_module *module)
{
    size_t kept = 0;
    for (size_t i = 0; i < table->count; i++)
        if (in_module(module, table->rows[i].start))
            table->rows[kept++] = table->rows[i];
    table->count = kept;
}

static void read_orc(struct orc_table *out, const struct linux_guest *g, const struct layout *l,
                     const struct memory *m, const struct linux_module *module, size_t max)
{
    uint64_t count, ip_address, address;
    if (!memory_member(m, module->address, l->orc_count, &count) ||
        !memory_member(m, module->address, l->orc_ip, &ip_address) ||
        !memory_member(m, module->address, l->orc, &address) || count == 0 || count > max ||
        !g->orc_format.known)
        return;
    uint8_t *ips = malloc((size_t)count * 4), *entries = malloc((size_t)count * g->orc_format.bytes);
    if (ips && entries && kernel_read(m, ip_address, ips, (size_t)count * 4) == count * 4 &&
        kernel_read(m, address, entries, (size_t)count * g->orc_format.bytes) == count * g->orc_format.bytes)
        orc_table_create(out, &g->orc_format, ip_address, ips, entries, (size_t)count);
    keep_own_rows(out, module);
    free(ips);
    free(entries);
}

static bool read_unwind(struct linux_module *out, const struct linux_guest *g, const struct layout *l,
                        const struct memory *m, struct budget *budget)
{
    out->unwind = calloc(1, sizeof(*out->unwind));
    if (!out->unwind)
        return false;
    read_orc(&out->unwind->table, g, l, m, out, budget->orc_rows);
    budget->orc_rows -= out->unwind->table.count;
    return true;
}

/* ---- the list ---- */

static bool read_users(struct linux_modules *list, struct linux_module *module, const struct layout *l,
                       const struct memory *m)
{
    uint64_t node, user;
    gva_t head = module->address + l->users.offset;
    if (l->users.size == 0 || l->user_link.size == 0 || !memory_u64(m, head, &node))
        return true;
    module->users = calloc(USERS_MAX, sizeof(*module->users));
    if (!module->users)
        return false;
    for (size_t n = 0; node != head && n < USERS_MAX; n++) {
        if (!memory_member(m, node - l->user_link.offset, l->user_module, &user))
            break;
        for (size_t i = 0; i < list->count; i++)
            if (list->list[i].address == user)
                module->users[module->user_count++] = (uint16_t)i;
        if (module->user_count >= USERS_MAX - 1 || !memory_u64(m, node, &node))
            break;
    }
    return true;
}

static bool seen(const struct linux_modules *list, gva_t address)
{
    for (size_t i = 0; i < list->count; i++)
        if (list->list[i].address == address)
            return true;
    return false;
}

static bool read_list(struct linux_modules *list, const struct linux_guest *g, const struct layout *l,
                      const struct memory *m, gva_t head)
{
    uint64_t node;
    struct budget budget = {ALL_SYMBOLS_MAX, ALL_STRINGS_MAX_BYTES, ORC_MAX};
    bool good = memory_u64(m, head, &node);
    while (good && node != head && list->count < LINUX_MODULES_MAX) {
        gva_t address = node - l->list.offset;
        struct linux_module *module = &list->list[list->count];
        good = !seen(list, address) && read_head(module, l, m, address);
        if (!good)
            break;
        list->count++;
        if (!read_symbols(module, l, m, &budget) || !read_sections(module, l, m) ||
            !read_unwind(module, g, l, m, &budget))
            return false;
        good = memory_u64(m, node, &node);
    }
    list->complete = good && node == head;
    for (size_t i = 0; i < list->count; i++)
        if (!read_users(list, &list->list[i], l, m))
            return false;
    return true;
}

int linux_modules_read(struct linux_modules **out, const struct linux_guest *g, const struct linux_view *view,
                       struct error *err)
{
    struct memory m;
    struct layout layout;
    gva_t head;
    *out = NULL;
    int code = fields_need(g, MODULE_LIST, MODULE_FIELDS_END, "modules", err);
    if (code == 0)
        code = memory_begin(&m, g, view, err);
    if (code)
        return code;
    if (!linux_symbol_address(g, "modules", &head))
        return error_set(err, -ENOTSUP, "this kernel has no modules (CONFIG_MODULES)");
    struct linux_modules *list = calloc(1, sizeof(*list));
    if (list)
        list->list = calloc(LINUX_MODULES_MAX, sizeof(*list->list));
    find_layout(&layout, g);
    if (!list || !list->list || !read_list(list, g, &layout, &m, head)) {
        linux_modules_free(list);
        return error_set(err, -ENOMEM, "no memory for the list of modules");
    }
    *out = list;
    return 0;
}

void linux_modules_free(struct linux_modules *m)
{
    if (!m)
        return;
    for (size_t i = 0; m->list && i < LINUX_MODULES_MAX; i++) {
        struct linux_module *module = &m->list[i];
        for (size_t j = 0; j < module->section_count; j++)
            free((char *)(uintptr_t)module->sections[j].name);
        if (module->unwind)
            orc_table_free(&module->unwind->table);
        free(module->unwind);
        free(module->sections);
        free(module->symbols);
        free(module->users);
        free(module->names);
    }
    free(m->list);
    free(m);
}

const char *linux_modules_describe(const struct linux_modules *m, gva_t address, char *out, size_t size)
{
    if (size > 0)
        out[0] = '\0';
    for (size_t i = 0; size > 0 && m && i < m->count; i++) {
        const struct linux_module *module = &m->list[i];
        const struct linux_symbol *best = NULL;
        if (!in_module(module, address))
            continue;
        for (size_t j = 0; j < module->symbol_count && module->symbols[j].address <= address; j++)
            if (!best || module->symbols[j].address > best->address)
                best = &module->symbols[j];
        if (!best)
            snprintf(out, size, "0x%" PRIx64 " [%s]", address, module->name);
        else if (best->address == address)
            snprintf(out, size, "%s [%s]", best->name, module->name);
        else
            snprintf(out, size, "%s+0x%" PRIx64 " [%s]", best->name, address - best->address, module->name);
        break;
    }
    return out;
}

bool linux_modules_symbol(const struct linux_modules *m, const char *name, gva_t *address)
{
    for (size_t i = 0; m && i < m->count; i++)
        for (size_t j = 0; j < m->list[i].symbol_count; j++)
            if (strcmp(m->list[i].symbols[j].name, name) == 0) {
                *address = m->list[i].symbols[j].address;
                return true;
            }
    return false;
}

/* ---- the module of an address ---- */

void module_orc_table(struct orc_table *out, const struct linux_guest *g, const struct memory *m, gva_t ip,
                      gva_t *start, gva_t *end)
{
    struct layout layout;
    gva_t head;
    uint64_t node;
    *out = (struct orc_table){0};
    if (!linux_symbol_address(g, "modules", &head) || g->field[MODULE_LIST].size == 0)
        return;
    find_layout(&layout, g);
    bool good = memory_u64(m, head, &node);
    for (unsigned n = 0; good && node != head && n < LINUX_MODULES_MAX; n++) {
        struct linux_module module;
        if (!read_head(&module, &layout, m, node - layout.list.offset))
            return;
        if (in_module(&module, ip)) {
            *start = module.ranges[0].start;
            *end = module.ranges[0].start + module.ranges[0].size;
            if (ip >= *start && ip < *end)
                read_orc(out, g, &layout, m, &module, ORC_MAX);
            return;
        }
        good = memory_u64(m, node, &node);
    }
}
