/*
 * BTF, the type information that a kernel carries (Documentation/bpf/btf.rst): where members of structures lie. Of any content:
 * what is malformed is not found.
 */
#ifndef DEJAVM_CORE_LINUX_BTF_H
#define DEJAVM_CORE_LINUX_BTF_H

#include "core/base/types.h"

#define BTF_MAX_BYTES ((size_t)64 << 20)

struct btf;

/* Copies the data. NULL: not BTF, or no memory. */
struct btf *btf_create(const uint8_t *data, size_t length);
void btf_destroy(struct btf *btf); /* NULL is fine */

struct btf_bits {
    uint32_t offset, size; /* in bits */
};

/*
 * The member of a structure (or union): "name", or a path "name.name"; anonymous members in between need no name. An empty path is
 * the structure itself. btf may be NULL.
 */
bool btf_member(const struct btf *btf, const char *structure, const char *path, struct btf_bits *out);

#endif
