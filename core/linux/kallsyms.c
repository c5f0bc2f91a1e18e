/*
 * The tables that scripts/kallsyms puts into a kernel, recognised by their structure. One after the other, each on a multiple of 8:
 *
 *   up to 6.3   offsets, relative_base, num_syms, names, markers, (seqs_of_names,) token_table, token_index
 *   since 6.4   num_syms, names, markers, token_table, token_index, offsets, relative_base, (seqs_of_names)
 *
 * names has for each symbol, by ascending address, a length (one byte; since 6.1 two where bit 7 of the first is set) and that
 * many bytes, each the number of a token: a piece of text. The first character is the symbol's type. token_index has the 256 tokens'
 * places in token_table, markers the place in names of every 256th symbol. offsets has 32-bit addresses relative to relative_base; with
 * per-CPU symbols that are absolute (up to 6.14), those are the values that are not negative, and the others mean
 * relative_base - 1 - value.
 */
#include "core/linux/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    TOKENS = 256,
    INDEX_BYTES = 2 * TOKENS,
    ALIGNMENT = 8,
    TOKEN_MAX_BYTES = 512,
    SYMBOLS_MIN = 256,
    SYMBOLS_MAX = 4 << 20,
    MARKER_EVERY = 256,
    PROBED_NAMES = 32,
    NAME_MAX_BYTES = 1024,
    /* So often is looked closer at what may be an index, all tokens, the start of names, all names. */
    INDEX_CANDIDATES_MAX = 256,
    TOKEN_TABLES_MAX = 16,
    PROBES_MAX = 1 << 16,
    WALKS_MAX = 16
};

struct budget {
    unsigned indices, tables, probes, walks;
};

static bool spend(unsigned *left)
{
    if (*left == 0)
        return false;
    --*left;
    return true;
}

#define NAMES_MAX_BYTES ((size_t)64 << 20)

struct tokens {
    const uint8_t *text[TOKENS];
    uint16_t length[TOKENS];
    size_t table, end; /* offsets in the image: of token_table, and behind token_index */
};

/* All but the addresses: offsets in the image. */
struct names {
    size_t num_syms, names, end; /* end: of names */
    size_t count;
};

static uint16_t get_u16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static uint32_t get_u32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static uint64_t get_u64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static size_t aligned(size_t offset)
{
    return (offset + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
}

/* ---- tokens ---- */

static bool looks_like_index(const uint8_t *p)
{
    if (get_u16(p) != 0)
        return false;
    for (unsigned i = 1; i < TOKENS; i++) {
        int step = get_u16(p + 2 * i) - get_u16(p + 2 * (i - 1));
        if (step < 1 || step > TOKEN_MAX_BYTES)
            return false;
    }
    return true;
}

/* The 256 texts at table, each ended by a NUL, and nothing but zeros from there to the index. */
static bool take_tokens(struct tokens *t, const struct image *image, size_t table, size_t index)
{
    const uint8_t *texts = image->data + table;
    size_t length = index - table;
    for (unsigned i = 0; i < TOKENS; i++) {
        size_t start = get_u16(image->data + index + 2 * i);
        const uint8_t *nul = start < length ? memchr(texts + start, 0, length - start) : NULL;
        if (!nul)
            return false;
        size_t end = (size_t)(nul - texts);
        if (i + 1 < TOKENS && end + 1 != get_u16(image->data + index + 2 * (i + 1)))
            return false;
        if (i + 1 == TOKENS && aligned(table + end + 1) != index)
            return false;
        for (size_t c = start; c < end; c++)
            if (texts[c] <= ' ' || texts[c] >= 0x7f)
                return false;
        t->text[i] = texts + start;
        t->length[i] = (uint16_t)(end - start);
    }
    t->table = table;
    t->end = index + INDEX_BYTES;
    return true;
}

/* Looks from *from on for the index, and the table in front of it. */
static bool find_tokens(struct tokens *t, const struct image *image, size_t *from, struct budget *budget)
{
    for (size_t index = *from; index + INDEX_BYTES <= image->length; index += ALIGNMENT) {
        const uint8_t *p = image->data + index;
        if (get_u16(p) != 0 || !looks_like_index(p))
            continue;
        if (!spend(&budget->indices))
            return false;
        size_t last = get_u16(p + 2 * (TOKENS - 1)); /* the table is a little longer than that */
        for (size_t back = aligned(last + 1); back <= last + TOKEN_MAX_BYTES && back <= index;
             back += ALIGNMENT)
            if (take_tokens(t, image, index - back, index)) {
                *from = index + ALIGNMENT;
                return spend(&budget->tables);
            }
    }
    return false;
}

/* ---- names ---- */

/* The bytes of the name at *at, which moves on; NULL behind limit. */
static const uint8_t *next_name(const struct image *image, size_t *at, size_t limit, size_t *length)
{
    if (*at >= limit)
        return NULL;
    size_t n = image->data[(*at)++];
    if (n & 0x80) {
        if (*at >= limit)
            return NULL;
        n = (n & 0x7f) | (size_t)image->data[(*at)++] << 7;
    }
    if (n == 0 || n > limit - *at)
        return NULL;
    *length = n;
    *at += n;
    return image->data + *at - n;
}

static bool is_type(uint8_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '?';
}

/* Cut at NAME_MAX_BYTES; the type is out[0]. Returns the length. */
static size_t expand(const struct tokens *t, const uint8_t *name, size_t length, char out[NAME_MAX_BYTES])
{
    size_t used = 0;
    for (size_t i = 0; i < length && used < NAME_MAX_BYTES; i++) {
        size_t n = t->length[name[i]];
        if (n > NAME_MAX_BYTES - used)
            n = NAME_MAX_BYTES - used;
        memcpy(out + used, t->text[name[i]], n);
        used += n;
    }
    return used;
}

static bool first_names_good(const struct tokens *t, const struct image *image, size_t names)
{
    char text[NAME_MAX_BYTES];
    size_t length;
    for (unsigned i = 0; i < PROBED_NAMES; i++) {
        const uint8_t *name = next_name(image, &names, t->table, &length);
        if (!name || length > NAME_MAX_BYTES)
            return false;
        size_t n = expand(t, name, length, text);
        if (n < 2 || !is_type((uint8_t)text[0]))
            return false;
    }
    return true;
}

/* Walks all names, and compares where each 256th begins with the markers behind them. */
static bool markers_agree(const struct tokens *t, const struct image *image, struct names *n)
{
    size_t at = n->names, length;
    for (size_t i = 0; i < n->count; i++)
        if (!next_name(image, &at, t->table, &length))
            return false;
    n->end = at;
    size_t markers = aligned(at);
    if (n->count / MARKER_EVERY * 4 + 4 > t->table - n->end || markers > t->table)
        return false;
    at = n->names;
    for (size_t i = 0; i < n->count; i++) {
        size_t marker = markers + i / MARKER_EVERY * 4;
        if (i % MARKER_EVERY == 0 &&
            (marker + 4 > t->table || get_u32(image->data + marker) != at - n->names))
            return false;
        if (!next_name(image, &at, t->table, &length))
            return false;
    }
    return true;
}

static bool find_names(struct names *out, const struct tokens *t, const struct image *image,
                       struct budget *budget)
{
    for (size_t at = t->table; at >= ALIGNMENT;) {
        at -= ALIGNMENT;
        uint64_t count = get_u64(image->data + at);
        size_t names = at + ALIGNMENT;
        if (count < SYMBOLS_MIN || count > SYMBOLS_MAX || 2 * count > t->table - names)
            continue;
        if (!spend(&budget->probes))
            return false;
        if (!first_names_good(t, image, names))
            continue;
        if (!spend(&budget->walks))
            return false;
        *out = (struct names){.num_syms = at, .names = names, .count = (size_t)count};
        if (markers_agree(t, image, out))
            return true;
    }
    return false;
}

/* ---- addresses ---- */

static int decode_names(struct kallsyms *k, const struct tokens *t, const struct names *n,
                        const struct image *image, struct error *err)
{
    struct buffer names = {0};
    char text[NAME_MAX_BYTES];
    size_t at = n->names, length;
    k->table = reallocarray(NULL, n->count, sizeof(*k->table));
    if (!k->table)
        return error_set(err, -ENOMEM, "no memory for %zu symbols", n->count);
    for (size_t i = 0; i < n->count; i++) {
        const uint8_t *name = next_name(image, &at, t->table, &length);
        size_t used = name ? expand(t, name, length, text) : 0;
        if (used == 0 || names.length > NAMES_MAX_BYTES)
            break;
        k->table[k->count++] = (struct kallsym){.name = (uint32_t)names.length, .type = text[0]};
        buffer_put(&names, text + 1, used - 1);
        buffer_put_u8(&names, 0);
    }
    k->names = (char *)names.data;
    if (names.failed)
        return error_set(err, -ENOMEM, "no memory for the names of symbols");
    if (k->count != n->count)
        return error_set(err, -ENOTSUP, "the kernel's symbol table is malformed");
    return 0;
}

static int compare_addresses(const void *a, const void *b)
{
    const struct kallsym *x = a, *y = b;
    if (x->address != y->address)
        return x->address < y->address ? -1 : 1;
    return x->name < y->name ? -1 : x->name > y->name;
}

static bool place_symbols(struct kallsyms *k, const struct image *image, size_t offsets)
{
    size_t base_at = aligned(offsets + 4 * k->count);
    bool absolute_percpu = false, ascending = true;
    if (base_at > image->length || image->length - base_at < 8)
        return false;
    uint64_t base = get_u64(image->data + base_at);
    if (base & PAGE_MASK || !image_at(image, base, 1))
        return false;
    const uint8_t *values = image->data + offsets;
    for (size_t i = 0; i < k->count; i++)
        absolute_percpu = absolute_percpu || get_u32(values + 4 * i) >> 31;
    for (size_t i = 0; i < k->count; i++) {
        uint32_t value = get_u32(values + 4 * i);
        if (!absolute_percpu)
            k->table[i].address = base + value;
        else if (value >> 31)
            k->table[i].address = base - 1 + (0x100000000ull - value);
        else
            k->table[i].address = value;
        ascending = ascending && (i == 0 || k->table[i].address >= k->table[i - 1].address);
    }
    if (!ascending)
        qsort(k->table, k->count, sizeof(*k->table), compare_addresses);
    return true;
}

/* The banner is where the symbols say. */
static bool symbols_agree(const struct kallsyms *k, const struct image *image)
{
    static const char banner[] = "Linux version ";
    const struct kallsym *symbol = kallsyms_find(k, "linux_banner");
    const uint8_t *text = symbol ? image_at(image, symbol->address, sizeof(banner)) : NULL;
    return text && memcmp(text, banner, sizeof(banner) - 1) == 0;
}

static bool find_addresses(struct kallsyms *k, const struct tokens *t, const struct names *n,
                           const struct image *image)
{
    size_t before = aligned(4 * n->count) + 8;
    if (n->num_syms >= before && place_symbols(k, image, n->num_syms - before) && symbols_agree(k, image))
        return true;
    if (image->length - t->end < before || !place_symbols(k, image, aligned(t->end)))
        return false;
    return symbols_agree(k, image);
}

int kallsyms_read(struct kallsyms *out, const struct image *image, struct error *err)
{
    struct budget budget = {INDEX_CANDIDATES_MAX, TOKEN_TABLES_MAX, PROBES_MAX, WALKS_MAX};
    size_t from = 0;
    struct tokens tokens;
    struct names names;
    *out = (struct kallsyms){0};
    while (find_tokens(&tokens, image, &from, &budget)) {
        if (!find_names(&names, &tokens, image, &budget))
            continue;
        int code = decode_names(out, &tokens, &names, image, err);
        if (code == 0 && find_addresses(out, &tokens, &names, image))
            return 0;
        kallsyms_free(out);
        if (code == -ENOMEM)
            return code;
    }
    return error_set(err, -ENOTSUP,
                     "the kernel's symbol table was not found (CONFIG_KALLSYMS and "
                     "CONFIG_KALLSYMS_BASE_RELATIVE are needed)");
}

void kallsyms_free(struct kallsyms *k)
{
    free(k->table);
    free(k->names);
    *k = (struct kallsyms){0};
}

const struct kallsym *kallsyms_find(const struct kallsyms *k, const char *name)
{
    for (size_t i = 0; i < k->count; i++)
        if (strcmp(k->names + k->table[i].name, name) == 0)
            return &k->table[i];
    return NULL;
}
