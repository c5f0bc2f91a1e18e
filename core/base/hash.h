/* The hashes of the project: XXH3 (https://xxhash.com), 64 and 128 bits, and the digest of RAM. */
#ifndef DEJAVM_CORE_BASE_HASH_H
#define DEJAVM_CORE_BASE_HASH_H

#include "core/base/types.h"

struct hash128 {
    uint64_t low, high;
};

uint64_t hash64(const void *data, size_t length);
uint64_t hash64_seeded(const void *data, size_t length, uint64_t seed);
struct hash128 hash128(const void *data, size_t length);
struct hash128 hash128_seeded(const void *data, size_t length, uint64_t seed);

static inline bool hash128_equal(struct hash128 a, struct hash128 b)
{
    return a.low == b.low && a.high == b.high;
}

/* True when all 4096 bytes are zero. */
bool page_is_zero(const void *page);

/*
 * RAM digest. A page's term is XXH3-128 of its 4096 bytes with its frame number as the seed, and (0,0) for an
 * all-zero page. The digest of RAM is the sum of all pages' terms, each half modulo 2^64 on its own: so it
 * is kept up to date by taking out a changed page's old term and adding the new one.
 */
struct hash128 ram_digest_term(const void *page, gfn_t gfn);

static inline void ram_digest_add(struct hash128 *digest, struct hash128 term)
{
    digest->low += term.low;
    digest->high += term.high;
}

static inline void ram_digest_remove(struct hash128 *digest, struct hash128 term)
{
    digest->low -= term.low;
    digest->high -= term.high;
}

#endif
