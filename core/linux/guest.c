#include "core/linux/internal.h"
#include "core/x86/inspect.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where x86-64 kernels are linked: __START_KERNEL_map + CONFIG_PHYSICAL_START, which is 16 MiB in all distributions. */
#define LINKED_BASE 0xffffffff81000000ull

/* Page table isolation: the page tables of user mode lie one page behind those of the kernel (asm/pgtable.h). */
#define CR3_USER_TABLES ((uint64_t)1 << PAGE_SHIFT)

/* ---- memory ---- */

static const char not_up[] = "the Linux kernel does not run yet at this position, or no more";

static bool banner_is_there(const struct linux_guest *g, const struct linux_view *view)
{
    char text[64];
    size_t length = strnlen(g->banner, sizeof(text));
    return x86_read_virtual(view->ram, view->state, g->banner_address, text, length) == length &&
           memcmp(text, g->banner, length) == 0;
}

int memory_begin(struct memory *m, const struct linux_guest *g, const struct linux_view *view,
                 struct error *err)
{
    m->ram = view->ram;
    m->state = view->state;
    if (!vcpu_in_long_mode(view->state) || !(view->state->cr0 & CR0_PG))
        return error_set(err, -ENOENT, "%s", not_up);
    if (banner_is_there(g, view))
        return 0;
    m->own = *view->state;
    m->own.cr3 &= ~CR3_USER_TABLES;
    m->state = &m->own;
    if (view->state->cr3 & CR3_USER_TABLES && banner_is_there(g, &(struct linux_view){view->ram, &m->own}))
        return 0;
    return error_set(err, -ENOENT, "%s", not_up);
}

size_t kernel_read(const struct memory *m, gva_t address, void *out, size_t length)
{
    return x86_read_virtual(m->ram, m->state, address, out, length);
}

bool memory_u64(const struct memory *m, gva_t address, uint64_t *out)
{
    return kernel_read(m, address, out, sizeof(*out)) == sizeof(*out);
}

bool memory_member(const struct memory *m, gva_t object, struct place place, uint64_t *out)
{
    uint8_t bytes[8] = {0};
    if (place.size == 0 || place.size > sizeof(bytes) ||
        kernel_read(m, object + place.offset, bytes, place.size) != place.size)
        return false;
    memcpy(out, bytes, sizeof(*out));
    return true;
}

size_t linux_read(const struct linux_guest *g, const struct linux_view *view, gva_t address, void *out,
                  size_t length)
{
    struct memory m;
    return memory_begin(&m, g, view, NULL) ? 0 : kernel_read(&m, address, out, length);
}

bool linux_guest_is_up(const struct linux_guest *g, const struct linux_view *view)
{
    struct memory m;
    return memory_begin(&m, g, view, NULL) == 0;
}

int fields_need(const struct linux_guest *g, enum field first, enum field end, const char *what,
                struct error *err)
{
    if (!g->btf)
        return error_set(err, -ENOTSUP,
                         "this kernel carries no BTF (CONFIG_DEBUG_INFO_BTF): %s cannot be found", what);
    for (unsigned i = first; i < end; i++)
        if (g->field[i].size == 0)
            return error_set(err, -ENOTSUP,
                             "the structures of this kernel are not those that are known: %s cannot be found",
                             what);
    return 0;
}

bool linux_member(const struct linux_guest *g, const char *structure, const char *member, uint32_t *offset,
                  uint32_t *size)
{
    struct place place = place_of(g, structure, member);
    *offset = place.offset;
    if (size)
        *size = place.size;
    return place.size > 0;
}

/* ---- opening ---- */

static void copy_banner(struct linux_guest *g, const struct image *image)
{
    size_t length = 0;
    const uint8_t *text;
    while (length < sizeof(g->banner) - 1 && (text = image_at(image, g->banner_address + length, 1)) &&
           *text >= ' ' && *text < 0x7f)
        g->banner[length++] = (char)*text;
}

static const uint8_t *between(const struct linux_guest *g, const struct image *image, const char *start,
                              const char *stop, gva_t *address, size_t *length)
{
    gva_t end;
    if (!linux_symbol_address(g, start, address) || !linux_symbol_address(g, stop, &end) || end <= *address)
        return NULL;
    *length = (size_t)(end - *address);
    return image_at(image, *address, end - *address);
}

static void read_btf(struct linux_guest *g, const struct image *image)
{
    gva_t address;
    size_t length;
    const uint8_t *data = between(g, image, "__start_BTF", "__stop_BTF", &address, &length);
    if (data)
        g->btf = btf_create(data, length);
    fields_find(g->field, g->btf);
}

static void read_orc(struct linux_guest *g, const struct image *image)
{
    gva_t ip_address = 0, address;
    size_t ip_bytes = 0, bytes = 0;
    orc_format_find(&g->orc_format, g->btf);
    const uint8_t *ips =
        between(g, image, "__start_orc_unwind_ip", "__stop_orc_unwind_ip", &ip_address, &ip_bytes);
    const uint8_t *entries = between(g, image, "__start_orc_unwind", "__stop_orc_unwind", &address, &bytes);
    if (ips && entries && g->orc_format.known && bytes / g->orc_format.bytes >= ip_bytes / 4)
        orc_table_create(&g->orc, &g->orc_format, ip_address, ips, entries, ip_bytes / 4);
}

static void find_current(struct linux_guest *g)
{
    gva_t address;
    if (linux_symbol_address(g, "pcpu_hot", &address)) /* 6.2 to 6.14 */
        g->current_task = address + place_of(g, "pcpu_hot", "current_task").offset;
    else if (linux_symbol_address(g, "current_task", &address))
        g->current_task = address;
    if (linux_symbol_address(g, "__per_cpu_offset", &address))
        g->per_cpu_offset = address;
}

static int read_all(struct linux_guest *g, const struct image *image, struct error *err)
{
    int code = kallsyms_read(&g->symbols, image, err);
    if (code)
        return code;
    if (!linux_symbol_address(g, "_text", &g->base) && !linux_symbol_address(g, "_stext", &g->base))
        return error_set(err, -ENOTSUP, "the kernel's symbol table has no _text");
    if (!linux_symbol_address(g, "_end", &g->end) || g->end <= g->base)
        g->end = image->start + image->length;
    if (!linux_symbol_address(g, "linux_banner", &g->banner_address))
        return error_set(err, -ENOTSUP, "the kernel's symbol table has no linux_banner");
    copy_banner(g, image);
    read_btf(g, image);
    find_current(g);
    read_orc(g, image);
    return 0;
}

int linux_guest_open(struct linux_guest **out, const struct linux_view *view, struct error *err)
{
    struct image image;
    struct vcpu_state kernel = *view->state;
    *out = NULL;
    int code = image_read(&image, view, err);
    if (code == -ENOENT && view->state->cr3 & CR3_USER_TABLES) {
        kernel.cr3 &= ~CR3_USER_TABLES;
        code = image_read(&image, &(struct linux_view){view->ram, &kernel}, err);
    }
    if (code)
        return code;
    struct linux_guest *g = calloc(1, sizeof(*g));
    code = g ? read_all(g, &image, err) : error_set(err, -ENOMEM, "out of memory");
    image_free(&image);
    if (code)
        linux_guest_close(g);
    else
        *out = g;
    return code;
}

void linux_guest_close(struct linux_guest *g)
{
    if (!g)
        return;
    kallsyms_free(&g->symbols);
    btf_destroy(g->btf);
    orc_table_free(&g->orc);
    free(g);
}

const char *linux_guest_banner(const struct linux_guest *g)
{
    return g->banner;
}

gva_t linux_guest_base(const struct linux_guest *g)
{
    return g->base;
}

uint64_t linux_guest_kaslr_offset(const struct linux_guest *g)
{
    return g->base - LINKED_BASE;
}

/* ---- symbols ---- */

size_t linux_symbol_count(const struct linux_guest *g)
{
    return g->symbols.count;
}

struct linux_symbol linux_symbol_at(const struct linux_guest *g, size_t index)
{
    const struct kallsym *s = &g->symbols.table[index];
    return (struct linux_symbol){s->address, g->symbols.names + s->name, s->type};
}

bool linux_symbol_address(const struct linux_guest *g, const char *name, gva_t *address)
{
    const struct kallsym *s = kallsyms_find(&g->symbols, name);
    if (s)
        *address = s->address;
    return s != NULL;
}

bool linux_symbol_of(const struct linux_guest *g, gva_t address, struct linux_symbol *out, gva_t *end)
{
    const struct kallsyms *k = &g->symbols;
    size_t low = 0, high = k->count;
    if (address < g->base || address >= g->end)
        return false;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (k->table[middle].address <= address)
            low = middle + 1;
        else
            high = middle;
    }
    if (end)
        *end = low < k->count && k->table[low].address < g->end ? k->table[low].address : g->end;
    if (low == 0 || k->table[low - 1].address < g->base)
        return false;
    /* Of names for one address the kernel takes the first: scripts/kallsyms puts the best one there. */
    for (low--; low > 0 && k->table[low - 1].address == k->table[low].address; low--)
        ;
    *out = linux_symbol_at(g, low);
    return true;
}

const char *linux_describe(const struct linux_guest *g, gva_t address, char *out, size_t size)
{
    struct linux_symbol symbol;
    if (size == 0)
        return out;
    out[0] = '\0';
    if (!linux_symbol_of(g, address, &symbol, NULL))
        return out;
    if (symbol.address == address)
        snprintf(out, size, "%s", symbol.name);
    else
        snprintf(out, size, "%s+0x%" PRIx64, symbol.name, address - symbol.address);
    return out;
}
