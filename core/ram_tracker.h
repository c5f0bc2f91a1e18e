/*
 * Keeps the digest of RAM up to date from the dirty list, and collects which pages changed.
 *
 * The engine's collect_dirty() must have been called before ram_tracker_update().
 */
#ifndef DEJAVM_CORE_RAM_TRACKER_H
#define DEJAVM_CORE_RAM_TRACKER_H

#include "core/ram.h"

struct ram_tracker {
    struct guest_ram *ram;
    struct hash128 digest; /* as of the last update */
    struct hash128 *terms; /* one per page, as of the last update; untouched pages cost no memory */
    uint8_t *is_changed;   /* one per page: on the changed list */
    uint32_t *changed;     /* page numbers (offset / 4096), in order of discovery */
    size_t changed_count;
};

/* ram is taken to be all zero; follow with ram_tracker_update() for what has been marked dirty in it. */
int ram_tracker_create(struct ram_tracker *t, struct guest_ram *ram, struct error *err) must_check;
void ram_tracker_destroy(struct ram_tracker *t);

/* Takes every page of ram's dirty list into the digest and onto the changed list, and clears the dirty list. */
void ram_tracker_update(struct ram_tracker *t);

/* Empties the changed list. */
void ram_tracker_clear_changed(struct ram_tracker *t);

/* Sorts the changed list by page number. */
void ram_tracker_sort_changed(struct ram_tracker *t);

/* Back to all-zero RAM, nothing changed (after ram_reset). */
int ram_tracker_reset(struct ram_tracker *t, struct error *err) must_check;

#endif
