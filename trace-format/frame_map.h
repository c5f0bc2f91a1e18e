/*
 * For each frame of RAM that sealing has seen change: at which keyframe last, and where its content is. Memory is
 * proportional to the 2 MiB areas touched. Internal to trace-format.
 */
#ifndef DEJAVM_TRACE_FORMAT_FRAME_MAP_H
#define DEJAVM_TRACE_FORMAT_FRAME_MAP_H

#include "trace-format/page_store.h"

#define RAM_HIGH_FRAME ((gfn_t)1 << 20) /* 4 GiB: where the part of RAM above ram_low_bytes begins */
#define NO_PAGE        UINT64_MAX

/* The n-th page of RAM is frame n below ram_low_bytes, and continues at 4 GiB. */
struct ram_layout {
    uint64_t pages, low_pages;
};

static inline uint64_t ram_layout_page(const struct ram_layout *l, gfn_t gfn)
{
    if (gfn < l->low_pages)
        return gfn;
    if (gfn >= RAM_HIGH_FRAME && gfn - RAM_HIGH_FRAME < l->pages - l->low_pages)
        return gfn - RAM_HIGH_FRAME + l->low_pages;
    return NO_PAGE;
}

static inline gfn_t ram_layout_frame(const struct ram_layout *l, uint64_t page)
{
    return page < l->low_pages ? page : page - l->low_pages + RAM_HIGH_FRAME;
}

struct frame_change {
    uint64_t offset; /* page_ref */
    uint16_t index;
    uint32_t keyframe; /* 0: not seen */
};

struct frame_area;

struct frame_map {
    struct ram_layout layout;
    struct frame_area **areas;
    size_t area_count;
};

int frame_map_init(struct frame_map *m, struct ram_layout layout) must_check; /* -ENOMEM */
void frame_map_free(struct frame_map *m);
/* page < layout.pages; keyframe > 0 and not lower than any before. -ENOMEM */
int frame_map_set(struct frame_map *m, uint64_t page, struct page_ref ref, uint32_t keyframe) must_check;
/* Calls visit for every page that changed last after keyframe `after`, in ascending order; stops at its first error. */
int frame_map_visit(const struct frame_map *m, uint32_t after,
                    int (*visit)(void *context, gfn_t gfn, struct page_ref ref), void *context) must_check;

#endif
