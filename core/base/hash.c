#include "core/base/hash.h"

#include <string.h>
#include <xxhash.h>

uint64_t hash64(const void *data, size_t length)
{
    return XXH3_64bits(data, length);
}

uint64_t hash64_seeded(const void *data, size_t length, uint64_t seed)
{
    return XXH3_64bits_withSeed(data, length, seed);
}

struct hash128 hash128(const void *data, size_t length)
{
    XXH128_hash_t h = XXH3_128bits(data, length);
    return (struct hash128){h.low64, h.high64};
}

struct hash128 hash128_seeded(const void *data, size_t length, uint64_t seed)
{
    XXH128_hash_t h = XXH3_128bits_withSeed(data, length, seed);
    return (struct hash128){h.low64, h.high64};
}

bool page_is_zero(const void *page)
{
    const uint8_t *bytes = page;
    uint64_t first;
    memcpy(&first, bytes, sizeof(first));
    /* Equal to itself shifted by eight bytes: all eight-byte words are equal. */
    return first == 0 && memcmp(bytes, bytes + 8, PAGE_SIZE_BYTES - 8) == 0;
}

struct hash128 ram_digest_term(const void *page, gfn_t gfn)
{
    if (page_is_zero(page))
        return (struct hash128){0, 0};
    return hash128_seeded(page, PAGE_SIZE_BYTES, gfn);
}
