#include "replay/lockstep.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct lockstep {
    struct replay *one, *two; /* by stage 1, by stage 2 */
    struct lockstep_totals *totals;
    position_t equal;     /* the last stop at which registers were equal */
    position_t ram_equal; /* the last at which RAM was, too */
};

static int open_both(struct lockstep *l, const char *path, const struct replay_hooks *hooks,
                     struct error *err)
{
    int status = replay_open(&l->one, path, NULL, err);
    if (status == 0)
        status = replay_open(&l->two, path, hooks, err);
    if (status < 0)
        return status;
    replay_set_stages(l->one, EMU_STAGE_1_ONLY);
    replay_set_stages(l->two, EMU_STAGE_2_ONLY);
    return 0;
}

static int run_both(struct lockstep *l, position_t position, struct error *err)
{
    int status = replay_run(l->one, position, err);
    return status < 0 ? status : replay_run(l->two, position, err);
}

static int seek_both(struct lockstep *l, position_t position, struct error *err)
{
    int status = replay_seek(l->one, position, err);
    return status < 0 ? status : replay_seek(l->two, position, err);
}

static bool registers_equal(struct lockstep *l)
{
    return replay_position(l->one) == replay_position(l->two) &&
           vcpu_state_equal(replay_state(l->one), replay_state(l->two));
}

static int ram_equal(struct lockstep *l, bool *equal, struct error *err)
{
    struct hash128 one, two;
    int status = replay_ram_digest(l->one, &one, err);
    if (status == 0)
        status = replay_ram_digest(l->two, &two, err);
    *equal = status == 0 && memcmp(&one, &two, sizeof one) == 0;
    l->totals->ram_compared++;
    return status;
}

static int both_equal(struct lockstep *l, bool *equal, struct error *err)
{
    *equal = registers_equal(l);
    return *equal ? ram_equal(l, equal, err) : 0;
}

/* ---- where they part ---- */

/*
 * Stands both at the first stop that shows a difference, between good (equal) and bad (different): each stop is a run of its own to
 * there. Stage 2 leaves the last steps before a stop to stage 1, so that what it does wrong shows a little later.
 */
static int find_stop(struct lockstep *l, position_t good, position_t bad, struct error *err)
{
    const position_t start = good;
    while (bad - good > 1) {
        position_t middle = good + (bad - good) / 2;
        bool equal = false;
        int status = seek_both(l, start, err);
        if (status == 0)
            status = run_both(l, middle, err);
        if (status == 0)
            status = both_equal(l, &equal, err);
        if (status < 0)
            return status;
        if (equal)
            good = middle;
        else
            bad = middle;
    }
    int status = seek_both(l, start, err);
    return status < 0 ? status : run_both(l, bad, err);
}

static uint64_t first_different_page(const struct lockstep *l, bool *found)
{
    const struct guest_ram *one = replay_ram(l->one), *two = replay_ram(l->two);
    *found = false;
    for (uint64_t at = 0; at < one->size_bytes && at < two->size_bytes; at += PAGE_SIZE_BYTES) {
        if (memcmp(one->host + at, two->host + at, PAGE_SIZE_BYTES) != 0) {
            *found = true;
            return ram_gpa_of_offset(one, at);
        }
    }
    return 0;
}

/* What is different where both stand. */
struct difference {
    position_t position;
    uint64_t rip;
    char text[2048 + 64];
};

static void describe(struct lockstep *l, struct difference *d)
{
    bool found;
    *d = (struct difference){.position = replay_position(l->two), .rip = replay_state(l->one)->rip};
    vcpu_state_diff(replay_state(l->one), replay_state(l->two), d->text, 2048);
    uint64_t gpa = first_different_page(l, &found);
    if (found) {
        size_t used = strlen(d->text);
        snprintf(d->text + used, sizeof d->text - used, "RAM differs in the page at %#" PRIx64 "\n", gpa);
    }
}

/* Going back may not bring the difference again, for blocks are cut in other places then: what was seen first is told instead. */
static int report(struct lockstep *l, struct error *err)
{
    struct difference first, nearest;
    position_t equal = l->equal, start = l->ram_equal;
    describe(l, &first);
    int status = find_stop(l, start, first.position, err);
    if (status < 0)
        return status;
    describe(l, &nearest);
    const struct difference *d = nearest.text[0] ? &nearest : &first;
    return error_set_kind(err, ERROR_DIVERGENCE, -EILSEQ,
                          "stage 1 and stage 2 differ at position %" PRIu64 ", RIP %#" PRIx64
                          "; the last stop at which registers were equal was %" PRIu64
                          " (stage 1 / stage 2):\n%s",
                          d->position, d->rip, equal, d->text);
}

/* ---- the way to there ---- */

/* Between half and one and a half of the distance: so that blocks are cut in different places. */
static position_t next_stop(uint64_t *random, position_t every)
{
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    return every / 2 + 1 + (*random >> 33) % every;
}

static int compare_here(struct lockstep *l, bool ram, struct error *err)
{
    position_t here = replay_position(l->two);
    bool equal = registers_equal(l);
    int status = 0;
    l->totals->stops++;
    if (!equal)
        return report(l, err);
    l->equal = here;
    if (ram)
        status = ram_equal(l, &equal, err);
    if (status == 0 && !equal)
        return report(l, err);
    if (status == 0 && ram)
        l->ram_equal = here;
    return status;
}

static int run_to_end(struct lockstep *l, const struct lockstep_options *options, struct error *err)
{
    position_t every = options && options->stop_every ? options->stop_every : LOCKSTEP_STOP_EVERY;
    uint64_t ram_every = options && options->ram_every ? options->ram_every : LOCKSTEP_RAM_EVERY, random = 1;
    for (;;) {
        position_t before = replay_position(l->two);
        int status = run_both(l, before + next_stop(&random, every), err);
        bool end = replay_totals(l->two)->at_end || replay_position(l->two) == before;
        if (status == 0)
            status = compare_here(l, end || l->totals->stops % ram_every == 0, err);
        if (status < 0 || end)
            return status;
    }
}

int replay_lockstep(const char *path, const struct replay_hooks *hooks,
                    const struct lockstep_options *options, struct lockstep_totals *totals, struct error *err)
{
    struct lockstep l = {.totals = totals};
    *totals = (struct lockstep_totals){0};
    int status = open_both(&l, path, hooks, err);
    if (status == 0)
        status = run_to_end(&l, options, err);
    if (l.two)
        totals->position = replay_position(l.two);
    replay_close(l.one);
    replay_close(l.two);
    return status;
}
