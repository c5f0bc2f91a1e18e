/*
 * Checkpoints in memory: where a replay stood, and what RAM held there. Private to replay.
 *
 * They are kept by position. Each is linked to the one before it by its *delta*: the pages that differ between the
 * two, with their contents at both. Replay is deterministic, so a delta stays true however the timeline is walked. A
 * *base* has no delta: the RAM there can be had from a keyframe of the trace. So RAM of a checkpoint can be had from that of
 * any other to which it is linked, by copying the pages of the deltas between.
 *
 * The *anchor* is the checkpoint that RAM was at last: RAM is the anchor's plus what has been written since. A page's
 * content at the anchor is copied just before the first write to it, if it is not known from a delta already.
 */
#ifndef DEJAVM_REPLAY_CHECKPOINT_H
#define DEJAVM_REPLAY_CHECKPOINT_H

#include "core/ram_tracker.h"
#include "replay/checkpoint_pages.h"
#include "replay/internal.h"

#define NO_KEYFRAME UINT64_MAX

struct delta_page {
    uint32_t page; /* number in RAM */
    struct page_content *before, *after;
};

/* Pages ascending. */
struct delta {
    struct delta_page *pages;
    size_t count;
};

struct checkpoint {
    struct replay_place place;
    uint64_t keyframe; /* the keyframe of the trace at this very position, or NO_KEYFRAME */
    bool base;
    struct delta delta; /* from the checkpoint before to this one; empty in a base */
};

struct checkpoints {
    struct guest_ram *ram;
    struct ram_tracker *tracker; /* its changed list is: what has been written since the anchor */
    uint64_t budget_bytes;
    /* RAM's bytes [offset, offset+length) are being changed by a restore. */
    void (*ram_changed)(void *context, uint64_t offset, size_t length);
    void *context;

    struct page_contents contents;
    struct checkpoint **list; /* ascending by position */
    size_t count, capacity;
    uint64_t delta_bytes;      /* of all deltas */
    struct checkpoint *anchor; /* NULL: RAM belongs to no checkpoint */

    struct page_content **known; /* by page: content at the anchor, NULL where it was not needed yet */
    uint32_t *known_list;
    size_t known_count;
    struct page_content **want; /* by page, while restoring */
    uint32_t *want_list;
    uint64_t writing; /* page whose first write is being announced; UINT64_MAX otherwise */
    uint64_t restores;
};

int checkpoints_create(struct checkpoints **out, struct guest_ram *ram, struct ram_tracker *tracker,
                       uint64_t budget_bytes, void (*ram_changed)(void *, uint64_t, size_t), void *context,
                       struct error *err) must_check;
void checkpoints_destroy(struct checkpoints *c); /* NULL is fine */

/* RAM is about to be replaced: it belongs to no checkpoint until checkpoints_at_keyframe(). */
void checkpoints_detach(struct checkpoints *c);

/* RAM and the tracker hold keyframe number keyframe of the trace, which is at place. */
int checkpoints_at_keyframe(struct checkpoints *c, const struct replay_place *place, uint64_t keyframe,
                            struct error *err) must_check;

/*
 * Makes the present state a checkpoint, or the anchor if there is one at this position. keyframe: the trace's keyframe at this
 * position, or NO_KEYFRAME. Must be called whenever the replay has come to the position of an existing checkpoint, and
 * before it goes beyond it. When memory is short nothing is kept, which is no failure. -EILSEQ: the checkpoint that exists has
 * another state.
 */
int checkpoints_take(struct checkpoints *c, const struct replay_place *place, uint64_t keyframe,
                     struct error *err) must_check;

/* The last one at or before position; NULL if there is none. Valid until the next call that takes or restores. */
const struct checkpoint *checkpoints_find(const struct checkpoints *c, position_t position);
/* The position of the first one after position; POSITION_UNKNOWN if there is none. */
position_t checkpoints_next_position(const struct checkpoints *c, position_t position);
/* Can RAM be turned into that of target, and with how many pages to be looked at? */
bool checkpoints_reachable(const struct checkpoints *c, const struct checkpoint *target, size_t *pages);
/* Makes RAM that of target, which is reachable. The rest of its place is the caller's. */
void checkpoints_restore(struct checkpoints *c, const struct checkpoint *target);

uint64_t checkpoints_bytes(const struct checkpoints *c); /* counted against the budget */

/* checkpoint_delta.c */
void delta_free(struct page_contents *contents, struct delta *d);
struct delta_page *delta_find(const struct delta *d, uint32_t page);
/* second := first, then second. first is used up. False without memory: nothing is changed. */
bool delta_join(struct page_contents *contents, struct delta *first, struct delta *second);
/* whole := what is left of it after first. False without memory: nothing is changed. */
bool delta_cut_front(struct page_contents *contents, const struct delta *first, struct delta *whole);

#endif
