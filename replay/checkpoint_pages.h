/*
 * The contents of pages that checkpoints hold: each content of a frame is kept once, however many checkpoints share it.
 * Private to replay.
 *
 * A content is known by its term of the RAM digest (core/base/hash.h): so restoring a page needs no hashing. The page of
 * zeros costs nothing.
 */
#ifndef DEJAVM_REPLAY_CHECKPOINT_PAGES_H
#define DEJAVM_REPLAY_CHECKPOINT_PAGES_H

#include "core/base/error.h"
#include "core/base/hash.h"
#include "core/base/types.h"

struct page_content {
    struct hash128 term;
    const uint8_t *bytes; /* PAGE_SIZE_BYTES */
    struct page_content *next;
    uint32_t references;
};

struct page_slab;

struct page_contents {
    struct page_content **heads; /* hash table by term */
    size_t head_count;           /* a power of two */
    size_t count;                /* contents in it */
    struct page_content *free;   /* slots */
    struct page_slab *slabs;
    struct page_content zero;
};

/* What one content costs. */
#define PAGE_CONTENT_BYTES (PAGE_SIZE_BYTES + sizeof(struct page_content))

int page_contents_create(struct page_contents *c, struct error *err) must_check;
void page_contents_destroy(struct page_contents *c);
uint64_t page_contents_bytes(const struct page_contents *c);

/* A reference to the content of bytes, whose digest term is term. NULL without memory. */
struct page_content *page_contents_put(struct page_contents *c, struct hash128 term, const uint8_t *bytes);
/* One more reference; p may be NULL. Returns p. */
struct page_content *page_content_take(struct page_content *p);
/* One less; p may be NULL. */
void page_contents_drop(struct page_contents *c, struct page_content *p);

#endif
