/* Deltas: the pages that differ between two states of RAM, with both contents. */
#include <stdlib.h>

#include "replay/checkpoint.h"

void delta_free(struct page_contents *contents, struct delta *d)
{
    for (size_t i = 0; i < d->count; i++) {
        page_contents_drop(contents, d->pages[i].before);
        page_contents_drop(contents, d->pages[i].after);
    }
    free(d->pages);
    *d = (struct delta){0};
}

struct delta_page *delta_find(const struct delta *d, uint32_t page)
{
    size_t low = 0, high = d->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (d->pages[middle].page < page)
            low = middle + 1;
        else
            high = middle;
    }
    return low < d->count && d->pages[low].page == page ? &d->pages[low] : NULL;
}

/* Adds an entry that takes over the two references; nothing is added when both contents are the same. */
static void add(struct page_contents *contents, struct delta *d, uint32_t page, struct page_content *before,
                struct page_content *after)
{
    if (before == after) {
        page_contents_drop(contents, before);
        page_contents_drop(contents, after);
        return;
    }
    d->pages[d->count++] = (struct delta_page){.page = page, .before = before, .after = after};
}

static bool make_room(struct delta *d, size_t count)
{
    *d = (struct delta){.pages = malloc((count + 1) * sizeof(*d->pages))};
    return d->pages != NULL;
}

bool delta_join(struct page_contents *contents, struct delta *first, struct delta *second)
{
    struct delta joined;
    if (!make_room(&joined, first->count + second->count))
        return false;
    size_t i = 0, j = 0;
    while (i < first->count || j < second->count) {
        struct delta_page *a = i < first->count ? &first->pages[i] : NULL;
        struct delta_page *b = j < second->count ? &second->pages[j] : NULL;
        if (a && b && a->page == b->page) {
            page_contents_drop(contents, a->after);
            page_contents_drop(contents, b->before);
            add(contents, &joined, a->page, a->before, b->after);
            i++, j++;
        } else if (!b || (a && a->page < b->page)) {
            joined.pages[joined.count++] = *a;
            i++;
        } else {
            joined.pages[joined.count++] = *b;
            j++;
        }
    }
    free(first->pages);
    free(second->pages);
    *first = (struct delta){0};
    *second = joined;
    return true;
}

bool delta_cut_front(struct page_contents *contents, const struct delta *first, struct delta *whole)
{
    struct delta rest;
    if (!make_room(&rest, first->count + whole->count))
        return false;
    size_t i = 0, j = 0;
    while (i < first->count || j < whole->count) {
        const struct delta_page *a = i < first->count ? &first->pages[i] : NULL;
        struct delta_page *b = j < whole->count ? &whole->pages[j] : NULL;
        if (a && b && a->page == b->page) { /* changed in the first part, perhaps again in the rest */
            page_contents_drop(contents, b->before);
            add(contents, &rest, a->page, page_content_take(a->after), b->after);
            i++, j++;
        } else if (!b || (a && a->page < b->page)) { /* changed, and later changed back */
            add(contents, &rest, a->page, page_content_take(a->after), page_content_take(a->before));
            i++;
        } else {
            rest.pages[rest.count++] = *b;
            j++;
        }
    }
    free(whole->pages);
    *whole = rest;
    return true;
}
