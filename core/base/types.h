/* Integer types and small macros that every room shares. */
#ifndef DEJAVM_CORE_BASE_TYPES_H
#define DEJAVM_CORE_BASE_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint64_t gpa_t;      /* guest physical address */
typedef uint64_t gva_t;      /* guest virtual (linear) address */
typedef uint64_t gfn_t;      /* guest frame number: gpa / 4096 */
typedef uint64_t position_t; /* transitions completed since the start of the recording; docs/positions.md */

#define POSITION_UNKNOWN UINT64_MAX

#define PAGE_SHIFT      12
#define PAGE_SIZE_BYTES ((size_t)4096)
#define PAGE_MASK       ((uint64_t)0xfff)

#define ARRAY_LEN(a)        (sizeof(a) / sizeof((a)[0]))
#define must_check          __attribute__((warn_unused_result))
#define format_printf(f, a) __attribute__((format(printf, f, a)))
#define likely(x)           __builtin_expect(!!(x), 1)
#define unlikely(x)         __builtin_expect(!!(x), 0)

#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#endif
