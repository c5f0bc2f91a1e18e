#include "trace-format/frame_map.h"

#include <errno.h>
#include <stdlib.h>

enum { AREA_PAGES = 512 };

struct frame_area {
    uint32_t newest; /* the highest keyframe in it: an untouched area is skipped at once */
    struct frame_change page[AREA_PAGES];
};

int frame_map_init(struct frame_map *m, struct ram_layout layout)
{
    size_t count = (size_t)((layout.pages + AREA_PAGES - 1) / AREA_PAGES);
    *m = (struct frame_map){.layout = layout, .area_count = count};
    m->areas = calloc(count ? count : 1, sizeof(struct frame_area *));
    return m->areas ? 0 : -ENOMEM;
}

void frame_map_free(struct frame_map *m)
{
    for (size_t i = 0; m->areas && i < m->area_count; i++)
        free(m->areas[i]);
    free(m->areas);
    *m = (struct frame_map){0};
}

int frame_map_set(struct frame_map *m, uint64_t page, struct page_ref ref, uint32_t keyframe)
{
    struct frame_area **area = &m->areas[page / AREA_PAGES];
    if (!*area)
        *area = calloc(1, sizeof(**area));
    if (!*area)
        return -ENOMEM;
    (*area)->newest = keyframe;
    (*area)->page[page % AREA_PAGES] =
        (struct frame_change){.offset = ref.offset, .index = (uint16_t)ref.index, .keyframe = keyframe};
    return 0;
}

int frame_map_visit(const struct frame_map *m, uint32_t after,
                    int (*visit)(void *context, gfn_t gfn, struct page_ref ref), void *context)
{
    for (size_t i = 0; i < m->area_count; i++) {
        const struct frame_area *area = m->areas[i];
        if (!area || area->newest <= after)
            continue;
        for (unsigned j = 0; j < AREA_PAGES; j++) {
            const struct frame_change *c = &area->page[j];
            if (c->keyframe <= after)
                continue;
            struct page_ref ref = {.offset = c->offset, .index = c->index};
            int r = visit(context, ram_layout_frame(&m->layout, (uint64_t)i * AREA_PAGES + j), ref);
            if (r < 0)
                return r;
        }
    }
    return 0;
}
