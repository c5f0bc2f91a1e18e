/*
 * The page store: every distinct page content is written once, in PAGES chunks, and referred to by the chunk's file
 * offset and the page's index in it. The writer finds duplicates with a hash table of bounded size: when that is full,
 * new entries replace old ones, and a page may then be stored twice. Internal to trace-format.
 */
#ifndef DEJAVM_TRACE_FORMAT_PAGE_STORE_H
#define DEJAVM_TRACE_FORMAT_PAGE_STORE_H

#include "core/base/hash.h"
#include "trace-format/chunk.h"

#define PAGE_STORE_DEFAULT_BUDGET_BYTES ((size_t)128 << 20)

/* offset 0: the page of zeros, which is never stored. */
struct page_ref {
    uint64_t offset;
    uint32_t index;
};

struct page_store_entry {
    struct hash128 hash;
    struct page_ref ref; /* offset 0: free */
};

struct page_store {
    struct page_store_entry *entries;
    size_t slots;     /* power of two, or 0 */
    size_t max_slots; /* power of two */
    size_t used;
    unsigned pending; /* pages collected for the next chunk */
    struct hash128 pending_hash[PAGES_MAX_COUNT];
    struct buffer pages; /* their bytes */
    struct buffer payload;
};

/* budget_bytes bounds the hash table; at least one slot row is always there. */
void page_store_init(struct page_store *s, size_t budget_bytes);
void page_store_free(struct page_store *s);

/*
 * Where page (4096 bytes) is or will be. Until page_store_flush, no other chunk may be appended to the sink.
 */
int page_store_put(struct page_store *s, struct chunk_sink *sink, const uint8_t *page, struct page_ref *ref,
                   struct error *err) must_check;
int page_store_flush(struct page_store *s, struct chunk_sink *sink, struct error *err) must_check;

/* Makes a page known that is in the file already. */
int page_store_learn(struct page_store *s, struct hash128 hash, struct page_ref ref) must_check;

#endif
