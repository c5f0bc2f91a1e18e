#include "replay/checkpoint_pages.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define FIRST_HEADS ((size_t)1 << 12)
#define SLAB_PAGES  256u

/* Slots are never given back to the host one by one: the budget bounds how many there can be. */
struct page_slab {
    struct page_slab *next;
    uint8_t *pages; /* SLAB_PAGES pages */
    struct page_content slot[SLAB_PAGES];
};

static const uint8_t zero_page[PAGE_SIZE_BYTES];

int page_contents_create(struct page_contents *c, struct error *err)
{
    *c = (struct page_contents){.head_count = FIRST_HEADS, .zero = {.bytes = zero_page}};
    c->heads = calloc(c->head_count, sizeof(struct page_content *));
    return c->heads ? 0 : error_set(err, -ENOMEM, "no memory for checkpoints");
}

void page_contents_destroy(struct page_contents *c)
{
    while (c->slabs) {
        struct page_slab *slab = c->slabs;
        c->slabs = slab->next;
        munmap(slab->pages, SLAB_PAGES * PAGE_SIZE_BYTES);
        free(slab);
    }
    free(c->heads);
    *c = (struct page_contents){0};
}

uint64_t page_contents_bytes(const struct page_contents *c)
{
    return c->count * PAGE_CONTENT_BYTES;
}

static struct page_content **head_of(const struct page_contents *c, struct hash128 term)
{
    return &c->heads[term.low & (c->head_count - 1)];
}

/* Twice the heads. Without memory for them the lists just get longer. */
static void grow(struct page_contents *c)
{
    struct page_contents bigger = *c;
    bigger.head_count *= 2;
    bigger.heads = calloc(bigger.head_count, sizeof(struct page_content *));
    if (!bigger.heads)
        return;
    for (size_t i = 0; i < c->head_count; i++) {
        while (c->heads[i]) {
            struct page_content *p = c->heads[i], **head = head_of(&bigger, p->term);
            c->heads[i] = p->next;
            p->next = *head;
            *head = p;
        }
    }
    free(c->heads);
    c->heads = bigger.heads;
    c->head_count = bigger.head_count;
}

static bool add_slab(struct page_contents *c)
{
    struct page_slab *slab = malloc(sizeof(*slab));
    if (!slab)
        return false;
    void *pages =
        mmap(NULL, SLAB_PAGES * PAGE_SIZE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) {
        free(slab);
        return false;
    }
    slab->pages = pages;
    for (unsigned i = 0; i < SLAB_PAGES; i++) {
        slab->slot[i] = (struct page_content){.bytes = slab->pages + i * PAGE_SIZE_BYTES, .next = c->free};
        c->free = &slab->slot[i];
    }
    slab->next = c->slabs;
    c->slabs = slab;
    return true;
}

struct page_content *page_contents_put(struct page_contents *c, struct hash128 term, const uint8_t *bytes)
{
    if (!term.low && !term.high)
        return page_content_take(&c->zero);
    for (struct page_content *p = *head_of(c, term); p; p = p->next)
        if (hash128_equal(p->term, term))
            return page_content_take(p);
    if (!c->free && !add_slab(c))
        return NULL;
    if (c->count >= c->head_count)
        grow(c);
    struct page_content *p = c->free, **head = head_of(c, term);
    c->free = p->next;
    p->term = term;
    p->references = 1;
    p->next = *head;
    *head = p;
    memcpy((uint8_t *)(uintptr_t)p->bytes, bytes, PAGE_SIZE_BYTES);
    c->count++;
    return p;
}

struct page_content *page_content_take(struct page_content *p)
{
    if (p)
        p->references++;
    return p;
}

void page_contents_drop(struct page_contents *c, struct page_content *p)
{
    if (!p || --p->references || p == &c->zero)
        return;
    struct page_content **link = head_of(c, p->term);
    while (*link != p)
        link = &(*link)->next;
    *link = p->next;
    p->next = c->free;
    c->free = p;
    c->count--;
}
