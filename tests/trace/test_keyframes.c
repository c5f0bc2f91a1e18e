/* Keyframes: each one loads as the RAM that it was made of, from few others; equal pages are stored once. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/trace/support.h"
#include "trace-format/frame_map.h"
#include "trace-format/page_store.h"

/* The model: RAM's content as one number per page, kept for every keyframe. Number 0 is the page of zeros. */
struct model {
    uint16_t content[TEST_RAM_PAGES];
};

static void fill_page(uint8_t *page, uint16_t content)
{
    memset(page, 0, 4096);
    struct random r = {content};
    for (unsigned i = 0; content && i < 4096; i += 37)
        page[i] = (uint8_t)random_u64(&r);
    if (content) {
        page[1] = (uint8_t)content;
        page[2] = (uint8_t)(content >> 8);
        page[3] = 1;
    }
}

static const uint8_t *model_page(void *context, gfn_t gfn)
{
    struct model *m = context;
    static _Thread_local uint8_t page[4096];
    for (unsigned half = 0; half < 2; half++) {
        unsigned first = half * TEST_RAM_PAGES / 2;
        if (gfn >= test_frame(first) && gfn - test_frame(first) < TEST_RAM_PAGES / 2)
            fill_page(page, m->content[gfn - test_frame(first) + first]);
    }
    return page;
}

struct loaded {
    struct test_ram ram;
    uint8_t placed[TEST_RAM_PAGES];
    unsigned places;
};

static uint8_t *place_once(void *context, gfn_t gfn)
{
    struct loaded *l = context;
    uint8_t *page = test_ram_place(&l->ram, gfn);
    assert_non_null(page);
    size_t number = (size_t)(page - l->ram.bytes) / 4096;
    assert_int_equal(l->placed[number]++, 0);
    l->places++;
    return page;
}

static void check_keyframe(struct trace_reader *r, uint64_t index, const struct model *m, struct loaded *l)
{
    struct error err;
    struct buffer state = {0};
    char expected[32];
    snprintf(expected, sizeof(expected), "state %llu", (unsigned long long)index);
    memset(l->ram.bytes, 0, (size_t)TEST_RAM_PAGES * 4096);
    memset(l->placed, 0, sizeof(l->placed));
    l->places = 0;
    must(trace_reader_load_keyframe(r, index, &state, place_once, l, &err), &err);
    assert_int_equal(state.length, strlen(expected));
    assert_memory_equal(state.data, expected, state.length);
    buffer_free(&state);
    unsigned used = 0;
    for (unsigned i = 0; i < TEST_RAM_PAGES; i++) {
        const uint8_t *page = l->ram.bytes + (size_t)i * 4096;
        used += m->content[i] != 0;
        if ((page[1] | page[2] << 8) != m->content[i])
            fail_msg("keyframe %llu, page %u: content %d, expected %u", (unsigned long long)index, i,
                     page[1] | page[2] << 8, m->content[i]);
        if (!m->content[i] && !page_is_zero(page))
            fail_msg("keyframe %llu, page %u: not zero", (unsigned long long)index, i);
    }
    assert_int_equal(l->places, used);
    uint8_t whole[4096];
    for (unsigned i = 0; i < TEST_RAM_PAGES; i += 97) {
        fill_page(whole, m->content[i]);
        assert_memory_equal(whole, l->ram.bytes + (size_t)i * 4096, 4096);
    }
}

/* Changes some pages; returns how many frames of changed are used. Some "changes" leave the page as it was. */
static size_t change(struct random *r, struct model *m, gfn_t *changed, bool first)
{
    size_t count = 0;
    unsigned percent = first ? 40 : (unsigned)random_below(r, 12);
    for (unsigned i = 0; i < TEST_RAM_PAGES; i++) {
        if (random_below(r, 100) >= percent)
            continue;
        if (first || random_below(r, 10))
            m->content[i] =
                random_below(r, 4) ? (uint16_t)random_below(r, 65536) : (uint16_t)random_below(r, 3);
        changed[count++] = test_frame(i);
    }
    return count;
}

static void put_keyframe(struct trace_writer *w, struct model *m, uint64_t index, const gfn_t *changed,
                         size_t count)
{
    struct error err;
    char state[32];
    snprintf(state, sizeof(state), "state %llu", (unsigned long long)index);
    struct trace_keyframe_input k = {
        .position = index * 1000,
        .console_bytes_before = index * 7,
        .state = (const uint8_t *)state,
        .state_length = strlen(state),
        .ram_digest = {index, ~index},
        .changed = changed,
        .changed_count = count,
        .page = model_page,
        .context = m,
    };
    must(trace_writer_keyframe(w, &k, &err), &err);
}

static void every_keyframe_loads_as_the_ram_it_was_made_of(void **state)
{
    (void)state;
    enum { KEYFRAMES = 330 };
    struct error err;
    struct random r = {11};
    char *path = scratch_path();
    struct model *models = calloc(KEYFRAMES, sizeof(*models));
    gfn_t *changed = calloc(TEST_RAM_PAGES, sizeof(*changed));
    struct trace_writer *w = create_trace(path, false, 100);
    size_t count = change(&r, &models[0], changed, true);
    put_keyframe(w, &models[0], 0, changed, count);
    must(trace_writer_finish(w, &err), &err);
    must(trace_seal_open(&w, path, &err), &err);
    for (uint64_t i = 1; i < KEYFRAMES; i++) {
        models[i] = models[i - 1];
        count = change(&r, &models[i], changed, false);
        put_keyframe(w, &models[i], i, changed, count);
    }
    const struct trace_seal_summary summary = {.end_position = KEYFRAMES * 1000};
    must(trace_seal_finish(w, &summary, &err), &err);

    struct trace_reader *reader;
    must(trace_reader_open(&reader, path, &err), &err);
    const struct trace_info *info = trace_reader_info(reader);
    assert_true(info->sealed);
    assert_int_equal(info->keyframes, KEYFRAMES);
    struct loaded l = {{calloc(TEST_RAM_PAGES, 4096)}, {0}, 0};
    for (uint64_t i = 0; i < KEYFRAMES; i++) {
        struct trace_keyframe_info k;
        must(trace_reader_find_keyframe(reader, i * 1000 + random_below(&r, 1000), &k, &err), &err);
        assert_int_equal(k.index, i);
        assert_int_equal(k.position, i * 1000);
        assert_int_equal(k.console_bytes_before, i * 7);
        assert_int_equal(k.ram_digest.low, i);
        assert_int_equal(k.ram_digest.high, ~i);
        check_keyframe(reader, i, &models[i], &l);
    }
    trace_reader_close(reader);
    free(l.ram.bytes);
    free(models);
    free(changed);
    unlink(path);
    free(path);
}

static void wrong_keyframes_are_refused(void **state)
{
    (void)state;
    struct error err;
    char *path = scratch_path();
    struct model *m = calloc(1, sizeof(*m));
    struct trace_writer *w = create_trace(path, false, 0);
    struct trace_keyframe_input k = {.page = model_page, .context = m};
    const gfn_t descending[] = {5, 5}, outside[] = {test_frame(TEST_RAM_PAGES - 1) + 1};
    k.position = 1;
    assert_int_equal(trace_writer_keyframe(w, &k, &err), -EINVAL);
    k.position = 0;
    k.changed = descending;
    k.changed_count = 2;
    assert_int_equal(trace_writer_keyframe(w, &k, &err), -EINVAL);
    k.changed = outside;
    k.changed_count = 1;
    assert_int_equal(trace_writer_keyframe(w, &k, &err), -EINVAL);
    k.changed_count = 0;
    must(trace_writer_keyframe(w, &k, &err), &err);
    assert_int_equal(trace_writer_keyframe(w, &k, &err), -EINVAL);
    must(trace_writer_finish(w, &err), &err);
    must(trace_seal_open(&w, path, &err), &err);
    assert_int_equal(trace_writer_keyframe(w, &k, &err), -EINVAL);
    trace_writer_destroy(w);
    free(m);
    unlink(path);
    free(path);
}

static void equal_pages_are_stored_once(void **state)
{
    (void)state;
    struct error err;
    char *path = scratch_path();
    struct model *m = calloc(1, sizeof(*m));
    gfn_t changed[1000];
    for (unsigned i = 0; i < ARRAY_LEN(changed); i++) {
        changed[i] = test_frame(i);
        m->content[i] = (uint16_t)(1 + i % 10);
    }
    struct trace_writer *w = create_trace(path, false, 0);
    put_keyframe(w, m, 0, changed, ARRAY_LEN(changed));
    must(trace_writer_finish(w, &err), &err);
    must(trace_seal_open(&w, path, &err), &err);
    for (unsigned i = 0; i < ARRAY_LEN(changed); i++)
        m->content[i] = (uint16_t)(1 + i % 12); /* ten of them are in the raw part */
    put_keyframe(w, m, 1, changed, ARRAY_LEN(changed));
    const struct trace_seal_summary summary = {.end_position = 1000};
    must(trace_seal_finish(w, &summary, &err), &err);
    struct trace_reader *reader;
    must(trace_reader_open(&reader, path, &err), &err);
    assert_int_equal(trace_reader_info(reader)->stored_pages, 12);
    struct loaded l = {{calloc(TEST_RAM_PAGES, 4096)}, {0}, 0};
    check_keyframe(reader, 1, m, &l);
    trace_reader_close(reader);
    free(l.ram.bytes);
    free(m);
    unlink(path);
    free(path);
}

/* With a hash table much too small, pages may be stored twice, and references stay right. */
static void a_page_store_within_a_tiny_budget_is_still_correct(void **state)
{
    (void)state;
    enum { PAGES = 3000 };
    struct error err;
    char *path = scratch_path();
    struct chunk_sink sink;
    struct page_store store;
    int fd = open(path, O_RDWR | O_TRUNC);
    must(chunk_sink_open(&sink, fd, path, 1, &err), &err);
    must(chunk_sink_write(&sink, "head", 4, &err), &err);
    page_store_init(&store, 1000);
    assert_true(store.max_slots * sizeof(struct page_store_entry) <= 1000);
    struct page_ref *refs = calloc(PAGES, sizeof(*refs));
    struct random r = {21};
    uint16_t *content = calloc(PAGES, sizeof(*content));
    uint8_t page[4096];
    for (unsigned i = 0; i < PAGES; i++) {
        content[i] = (uint16_t)random_below(&r, 200);
        fill_page(page, content[i]);
        must(page_store_put(&store, &sink, page, &refs[i], &err), &err);
    }
    must(page_store_flush(&store, &sink, &err), &err);
    struct chunk_source source = {.fd = fd, .path = path, .size = sink.end};
    struct chunk_decoder decoder = {0};
    for (unsigned i = 0; i < PAGES; i++) {
        if (refs[i].offset == 0) {
            assert_int_equal(content[i], 0);
            continue;
        }
        struct chunk c;
        must(chunk_read(&source, refs[i].offset, CHUNK_PAGES, &decoder, &c, &err), &err);
        fill_page(page, content[i]);
        assert_memory_equal(c.raw + c.header.count * 16 + (size_t)refs[i].index * 4096, page, 4096);
    }
    chunk_decoder_free(&decoder);
    page_store_free(&store);
    chunk_sink_close(&sink);
    free(refs);
    free(content);
    unlink(path);
    free(path);
}

static int count_frame(void *context, gfn_t gfn, struct page_ref ref)
{
    uint64_t *seen = context;
    assert_true(gfn >= seen[1]);
    assert_int_equal(ref.offset, gfn + 1);
    seen[0]++;
    seen[1] = gfn + 1;
    return 0;
}

static void the_map_of_a_large_ram_takes_memory_for_touched_frames_only(void **state)
{
    (void)state;
    struct frame_map m;
    const struct ram_layout layout = {.pages = (uint64_t)64 << 18, .low_pages = (uint64_t)3 << 18};
    assert_int_equal(frame_map_init(&m, layout), 0);
    for (uint64_t page = 0; page < layout.pages; page += layout.pages / 64) {
        struct page_ref ref = {ram_layout_frame(&layout, page) + 1, 3};
        assert_int_equal(ram_layout_page(&layout, ram_layout_frame(&layout, page)), page);
        assert_int_equal(frame_map_set(&m, page, ref, 7), 0);
    }
    size_t areas = 0;
    for (size_t i = 0; i < m.area_count; i++)
        areas += m.areas[i] != NULL;
    assert_int_equal(areas, 64);
    uint64_t seen[2] = {0, 0};
    assert_int_equal(frame_map_visit(&m, 6, count_frame, seen), 0);
    assert_int_equal(seen[0], 64);
    seen[0] = seen[1] = 0;
    assert_int_equal(frame_map_visit(&m, 7, count_frame, seen), 0);
    assert_int_equal(seen[0], 0);
    frame_map_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_keyframe_loads_as_the_ram_it_was_made_of),
        cmocka_unit_test(wrong_keyframes_are_refused),
        cmocka_unit_test(equal_pages_are_stored_once),
        cmocka_unit_test(a_page_store_within_a_tiny_budget_is_still_correct),
        cmocka_unit_test(the_map_of_a_large_ram_takes_memory_for_touched_frames_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
