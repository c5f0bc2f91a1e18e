#include "core/linux/btf.h"

#include <stdlib.h>
#include <string.h>

enum {
    BTF_MAGIC = 0xeb9f,
    BTF_HEADER_BYTES = 24,
    BTF_TYPE_BYTES = 12,
    BTF_MEMBER_BYTES = 12,
    PATH_NAME_BYTES = 64,
    MODIFIERS_MAX = 32, /* typedefs, const, ... in a row, and arrays in arrays */
    ANONYMOUS_DEPTH_MAX = 8,
    MEMBERS_MAX = 1 << 18 /* looked at for one name */
};

enum btf_kind {
    KIND_INT = 1,
    KIND_PTR,
    KIND_ARRAY,
    KIND_STRUCT,
    KIND_UNION,
    KIND_ENUM,
    KIND_FWD,
    KIND_TYPEDEF,
    KIND_VOLATILE,
    KIND_CONST,
    KIND_RESTRICT,
    KIND_FUNC,
    KIND_FUNC_PROTO,
    KIND_VAR,
    KIND_DATASEC,
    KIND_FLOAT,
    KIND_DECL_TAG,
    KIND_TYPE_TAG,
    KIND_ENUM64
};

struct btf {
    uint8_t *data;
    const uint8_t *types;
    const char *strings; /* ends with a NUL */
    uint32_t strings_length;
    uint32_t *offset; /* of type i + 1, in types */
    uint32_t count;
};

struct type {
    const uint8_t *extra; /* what follows the three words */
    uint32_t name, size;  /* size, or the type that it refers to */
    uint16_t count;
    uint8_t kind;
    bool flag;
};

static uint32_t get_u32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static size_t extra_bytes(unsigned kind, size_t count)
{
    switch (kind) {
    case KIND_INT:
    case KIND_VAR:
    case KIND_DECL_TAG:
        return 4;
    case KIND_ARRAY:
        return 12;
    case KIND_STRUCT:
    case KIND_UNION:
    case KIND_DATASEC:
    case KIND_ENUM64:
        return 12 * count;
    case KIND_ENUM:
    case KIND_FUNC_PROTO:
        return 8 * count;
    case KIND_PTR:
    case KIND_FWD:
    case KIND_TYPEDEF:
    case KIND_VOLATILE:
    case KIND_CONST:
    case KIND_RESTRICT:
    case KIND_FUNC:
    case KIND_FLOAT:
    case KIND_TYPE_TAG:
        return 0;
    default:
        return SIZE_MAX;
    }
}

static struct type type_at(const uint8_t *p)
{
    uint32_t info = get_u32(p + 4);
    return (struct type){.extra = p + BTF_TYPE_BYTES,
                         .name = get_u32(p),
                         .size = get_u32(p + 8),
                         .count = (uint16_t)info,
                         .kind = info >> 24 & 0x1f,
                         .flag = info >> 31 & 1};
}

/* Type 0 is void. */
static bool type_get(const struct btf *b, uint32_t id, struct type *out)
{
    if (id == 0 || id > b->count)
        return false;
    *out = type_at(b->types + b->offset[id - 1]);
    return true;
}

static const char *string_at(const struct btf *b, uint32_t offset)
{
    return offset < b->strings_length ? b->strings + offset : "";
}

/* Notes where each type begins; what comes after a kind that is not known is left out. */
static bool index_types(struct btf *b, size_t length)
{
    b->offset = reallocarray(NULL, length / BTF_TYPE_BYTES + 1, sizeof(*b->offset));
    if (!b->offset)
        return false;
    for (size_t at = 0; length - at >= BTF_TYPE_BYTES;) {
        struct type t = type_at(b->types + at);
        size_t extra = extra_bytes(t.kind, t.count);
        if (extra > length - at - BTF_TYPE_BYTES)
            break;
        b->offset[b->count++] = (uint32_t)at;
        at += BTF_TYPE_BYTES + extra;
    }
    return b->count > 0;
}

static bool read_header(struct btf *b, size_t length, size_t *types_length)
{
    uint16_t magic;
    if (length < BTF_HEADER_BYTES)
        return false;
    memcpy(&magic, b->data, sizeof(magic));
    uint32_t header = get_u32(b->data + 4), type_offset = get_u32(b->data + 8),
             type_length = get_u32(b->data + 12), string_offset = get_u32(b->data + 16),
             string_length = get_u32(b->data + 20);
    if (magic != BTF_MAGIC || header > length)
        return false;
    size_t rest = length - header;
    if (type_offset > rest || type_length > rest - type_offset || string_offset > rest ||
        string_length > rest - string_offset || string_length == 0)
        return false;
    b->types = b->data + header + type_offset;
    b->strings = (const char *)b->data + header + string_offset;
    b->strings_length = string_length;
    b->data[header + string_offset + string_length - 1] = '\0';
    *types_length = type_length;
    return true;
}

struct btf *btf_create(const uint8_t *data, size_t length)
{
    size_t types_length;
    struct btf *b = length <= BTF_MAX_BYTES ? calloc(1, sizeof(*b)) : NULL;
    if (!b)
        return NULL;
    b->data = malloc(length ? length : 1);
    if (b->data) {
        memcpy(b->data, data, length);
        if (read_header(b, length, &types_length) && index_types(b, types_length))
            return b;
    }
    btf_destroy(b);
    return NULL;
}

void btf_destroy(struct btf *b)
{
    if (!b)
        return;
    free(b->offset);
    free(b->data);
    free(b);
}

/* ---- members ---- */

/* Through typedefs and qualifiers. */
static bool resolve(const struct btf *b, uint32_t id, struct type *out)
{
    for (unsigned i = 0; i < MODIFIERS_MAX; i++) {
        if (!type_get(b, id, out))
            return false;
        switch (out->kind) {
        case KIND_TYPEDEF:
        case KIND_VOLATILE:
        case KIND_CONST:
        case KIND_RESTRICT:
        case KIND_TYPE_TAG:
            id = out->size;
            break;
        default:
            return true;
        }
    }
    return false;
}

/* In bits; 0: not known. */
static uint32_t type_bits(const struct btf *b, uint32_t id)
{
    uint64_t times = 8;
    struct type t;
    for (unsigned i = 0; i < MODIFIERS_MAX && resolve(b, id, &t); i++) {
        if (t.kind == KIND_PTR)
            return times * 8 <= UINT32_MAX ? (uint32_t)times * 8 : 0;
        if (t.kind != KIND_ARRAY) {
            bool sized = t.kind == KIND_INT || t.kind == KIND_STRUCT || t.kind == KIND_UNION ||
                         t.kind == KIND_ENUM || t.kind == KIND_FLOAT || t.kind == KIND_ENUM64;
            return sized && times * t.size <= UINT32_MAX ? (uint32_t)(times * t.size) : 0;
        }
        id = get_u32(t.extra);
        times *= get_u32(t.extra + 8);
        if (times > UINT32_MAX)
            return 0;
    }
    return 0;
}

struct found {
    struct btf_bits bits;
    uint32_t type;
};

static bool find_member(const struct btf *b, const struct type *structure, const char *name, unsigned depth,
                        unsigned *budget, struct found *out)
{
    for (size_t i = 0; i < structure->count; i++) {
        const uint8_t *p = structure->extra + i * BTF_MEMBER_BYTES;
        const char *own = string_at(b, get_u32(p));
        uint32_t type = get_u32(p + 4), place = get_u32(p + 8);
        uint32_t bits = structure->flag ? place >> 24 : 0;
        uint32_t offset = structure->flag ? place & 0xffffff : place;
        struct type inner;
        if (*budget == 0)
            return false;
        --*budget;
        if (*own) {
            if (strcmp(own, name) != 0)
                continue;
            *out = (struct found){{offset, bits ? bits : type_bits(b, type)}, type};
            return true;
        }
        if (depth < ANONYMOUS_DEPTH_MAX && resolve(b, type, &inner) &&
            (inner.kind == KIND_STRUCT || inner.kind == KIND_UNION) &&
            find_member(b, &inner, name, depth + 1, budget, out))
            return !__builtin_add_overflow(out->bits.offset, offset, &out->bits.offset);
    }
    return false;
}

static uint32_t find_structure(const struct btf *b, const char *name)
{
    for (uint32_t i = 0; i < b->count; i++) {
        struct type t = type_at(b->types + b->offset[i]);
        if ((t.kind == KIND_STRUCT || t.kind == KIND_UNION) && strcmp(string_at(b, t.name), name) == 0)
            return i + 1;
    }
    return 0;
}

bool btf_member(const struct btf *b, const char *structure, const char *path, struct btf_bits *out)
{
    uint32_t id = b ? find_structure(b, structure) : 0;
    if (id == 0)
        return false;
    struct found at = {{0, type_bits(b, id)}, id};
    while (*path) {
        char name[PATH_NAME_BYTES];
        struct type t;
        struct found next;
        unsigned budget = MEMBERS_MAX;
        size_t length = strcspn(path, ".");
        if (length == 0 || length >= sizeof(name) || !resolve(b, at.type, &t) ||
            (t.kind != KIND_STRUCT && t.kind != KIND_UNION))
            return false;
        memcpy(name, path, length);
        name[length] = '\0';
        if (!find_member(b, &t, name, 0, &budget, &next) ||
            __builtin_add_overflow(at.bits.offset, next.bits.offset, &next.bits.offset))
            return false;
        at = next;
        path += length + (path[length] == '.');
    }
    *out = at.bits;
    return true;
}
