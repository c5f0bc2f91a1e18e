/*
 * The store of checkpoints against a model: a "guest" whose write at each position is known, so that RAM at any position can
 * be computed from nothing.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "replay/checkpoint.h"

#define RAM_BYTES      RAM_MIN_BYTES
#define END            6000u
#define KEYFRAME_STEPS 700u

static uint64_t mix(uint64_t x)
{
    x = (x + 0x9e3779b97f4a7c15u) * 0xbf58476d1ce4e5b9u;
    x ^= x >> 31;
    return x * 0x94d049bb133111ebu >> 7;
}

/* The write of the transition at p. Few pages often, all of them sometimes; zeros and old values come again. */
static void write_of(position_t p, gpa_t *gpa, uint64_t *value)
{
    uint64_t pages = mix(p) % 4 ? 7 : RAM_BYTES / PAGE_SIZE_BYTES;
    *gpa = mix(p * 3) % pages * PAGE_SIZE_BYTES + mix(p * 5) % 3 * 8;
    *value = mix(p * 7) % 3 ? mix(p) % 4 : mix(p * 11);
}

struct world {
    struct guest_ram *ram;
    struct ram_tracker tracker;
    struct checkpoints *checkpoints;
    position_t position;
    uint8_t *model;  /* RAM as it should be */
    uint8_t *before; /* a restore */
    uint8_t *told;   /* bytes that the restore said it changes */
    uint64_t seed;
    unsigned restores, loads;
};

static uint64_t pick(struct world *w, uint64_t bound)
{
    w->seed++;
    return mix(w->seed) % bound;
}

static void compute_model(struct world *w, position_t position)
{
    memset(w->model, 0, RAM_BYTES);
    for (position_t p = 0; p < position; p++) {
        gpa_t gpa;
        uint64_t value;
        write_of(p, &gpa, &value);
        memcpy(w->model + gpa, &value, sizeof(value));
    }
}

static void check(struct world *w)
{
    struct hash128 full;
    compute_model(w, w->position);
    assert_memory_equal(w->ram->host, w->model, RAM_BYTES);
    ram_tracker_update(&w->tracker);
    full = ram_digest(w->ram);
    assert_true(hash128_equal(full, w->tracker.digest));
    assert_true(checkpoints_bytes(w->checkpoints) <= w->checkpoints->budget_bytes);
}

static void note_told(void *context, uint64_t offset, size_t length)
{
    struct world *w = context;
    assert_true(length && offset + length <= RAM_BYTES);
    memset(w->told + offset, 1, length);
}

static struct replay_place place_of(position_t position)
{
    struct replay_place place = {.position = position, .events = position / 3};
    place.state.gpr[GPR_RAX] = position;
    return place;
}

static uint64_t keyframe_of(position_t position)
{
    return position % KEYFRAME_STEPS ? NO_KEYFRAME : position / KEYFRAME_STEPS;
}

static void take(struct world *w)
{
    struct replay_place place = place_of(w->position);
    assert_int_equal(checkpoints_take(w->checkpoints, &place, keyframe_of(w->position), NULL), 0);
}

/* Forwards, through every checkpoint and keyframe on the way. */
static void run(struct world *w, position_t target)
{
    position_t next = checkpoints_next_position(w->checkpoints, w->position);
    while (w->position < target) {
        gpa_t gpa;
        uint64_t value;
        write_of(w->position, &gpa, &value);
        assert_int_equal(ram_write(w->ram, gpa, &value, sizeof(value)), 0);
        w->position++;
        if (w->position == next || keyframe_of(w->position) != NO_KEYFRAME) {
            take(w);
            next = checkpoints_next_position(w->checkpoints, w->position);
        }
        if (pick(w, 300) == 0) /* as a check of a digest does */
            ram_tracker_update(&w->tracker);
    }
}

static void load_keyframe(struct world *w, uint64_t keyframe)
{
    w->position = keyframe * KEYFRAME_STEPS;
    checkpoints_detach(w->checkpoints);
    compute_model(w, w->position);
    assert_int_equal(ram_reset(w->ram, NULL), 0);
    assert_int_equal(ram_tracker_reset(&w->tracker, NULL), 0);
    for (gpa_t at = 0; at < RAM_BYTES; at += PAGE_SIZE_BYTES)
        if (!page_is_zero(w->model + at))
            assert_int_equal(ram_write(w->ram, at, w->model + at, PAGE_SIZE_BYTES), 0);
    ram_tracker_update(&w->tracker);
    ram_tracker_clear_changed(&w->tracker);
    struct replay_place place = place_of(w->position);
    assert_int_equal(checkpoints_at_keyframe(w->checkpoints, &place, keyframe, NULL), 0);
    w->loads++;
}

static void restore(struct world *w, position_t position)
{
    size_t pages;
    const struct checkpoint *c = checkpoints_find(w->checkpoints, position);
    if (!c || !checkpoints_reachable(w->checkpoints, c, &pages)) {
        load_keyframe(w, position / KEYFRAME_STEPS);
        c = checkpoints_find(w->checkpoints, position);
        if (!c || c->place.position < w->position || !checkpoints_reachable(w->checkpoints, c, &pages))
            return;
    }
    memcpy(w->before, w->ram->host, RAM_BYTES);
    memset(w->told, 0, RAM_BYTES);
    checkpoints_restore(w->checkpoints, c);
    w->position = c->place.state.gpr[GPR_RAX];
    w->restores++;
    for (size_t i = 0; i < RAM_BYTES; i++)
        if (w->before[i] != w->ram->host[i] && !w->told[i])
            fail_msg("byte %zu changed and nobody was told", i);
}

static struct world *create(uint64_t budget, uint64_t seed)
{
    struct world *w = calloc(1, sizeof(*w));
    assert_non_null(w);
    w->seed = seed;
    w->model = calloc(3, RAM_BYTES);
    assert_non_null(w->model);
    w->before = w->model + RAM_BYTES;
    w->told = w->before + RAM_BYTES;
    assert_int_equal(ram_create(&w->ram, RAM_BYTES, NULL), 0);
    assert_int_equal(ram_tracker_create(&w->tracker, w->ram, NULL), 0);
    assert_int_equal(checkpoints_create(&w->checkpoints, w->ram, &w->tracker, budget, note_told, w, NULL), 0);
    load_keyframe(w, 0);
    return w;
}

static void destroy(struct world *w)
{
    /* When none is left, nothing that they held may be left. */
    w->checkpoints->budget_bytes = 0;
    load_keyframe(w, 0);
    run(w, 1);
    assert_int_equal(w->checkpoints->count, 0);
    assert_int_equal(checkpoints_bytes(w->checkpoints), 0);
    checkpoints_destroy(w->checkpoints);
    ram_tracker_destroy(&w->tracker);
    ram_destroy(w->ram);
    free(w->model);
    free(w);
}

static void wander(uint64_t budget, uint64_t seed)
{
    struct world *w = create(budget, seed);
    for (unsigned i = 0; i < 250; i++) {
        switch (pick(w, 5)) {
        case 0:
            restore(w, pick(w, END));
            break;
        case 1:
            restore(w, w->position ? w->position - 1 - pick(w, w->position < 50 ? w->position : 50) : 0);
            break;
        case 2:
            run(w, w->position + pick(w, 20));
            take(w);
            break;
        default:
            run(w, w->position + pick(w, i % 10 == 0 ? 1500 : 40));
            break;
        }
        if (w->position > END)
            restore(w, 0);
        check(w);
    }
    if (budget > 1 << 20)
        assert_true(w->restores > 60);
    else
        assert_true(w->loads > 5);
    destroy(w);
}

static void with_room(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 2; seed++)
        wander((uint64_t)64 << 20, seed * 1000);
}

static void with_little_room(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 2; seed++)
        wander(400 << 10, seed * 1000);
}

static void with_hardly_any_room(void **state)
{
    (void)state;
    wander(30 << 10, 5);
    wander(9 << 10, 6);
    wander(0, 7);
}

static void equal_contents_are_kept_once(void **state)
{
    (void)state;
    struct world *w = create((uint64_t)64 << 20, 0);
    static const uint64_t values[2] = {1, 2};
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(ram_write(w->ram, 0x5000, &values[i % 2], 8), 0);
        w->position++;
        take(w);
    }
    assert_int_equal(w->checkpoints->count, 101);
    assert_int_equal(w->checkpoints->contents.count, 2); /* and the zeros before */
    destroy(w);
}

/* Near here they are dense; twice as far away there are half as many. */
static void thinned_with_distance(void **state)
{
    (void)state;
    struct world *w = create((uint64_t)64 << 20, 0);
    const struct checkpoints *c = w->checkpoints;
    for (unsigned i = 0; i < 40000; i++) {
        struct replay_place place = place_of(++w->position);
        assert_int_equal(checkpoints_take(w->checkpoints, &place, NO_KEYFRAME, NULL), 0);
    }
    size_t in_last[5] = {0};
    for (size_t i = 0; i < c->count; i++) {
        position_t distance = w->position - c->list[i]->place.position;
        for (unsigned k = 0; k < 5; k++)
            in_last[k] += distance >= (20000u >> (k + 1)) && distance < (20000u >> k);
    }
    assert_true(c->count <= 2048);
    for (unsigned k = 0; k < 5; k++) /* each octave of distance has about as many */
        assert_in_range(in_last[k], 60, 600);
    destroy(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(with_room),
        cmocka_unit_test(with_little_room),
        cmocka_unit_test(with_hardly_any_room),
        cmocka_unit_test(equal_contents_are_kept_once),
        cmocka_unit_test(thinned_with_distance),
    };
    return cmocka_run_group_tests_name("the store of checkpoints", tests, NULL, NULL);
}
