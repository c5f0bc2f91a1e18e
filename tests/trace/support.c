#include "tests/trace/support.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

uint64_t random_u64(struct random *r)
{
    /* SplitMix64 */
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t random_below(struct random *r, uint64_t bound)
{
    return random_u64(r) % bound;
}

uint64_t random_magnitude(struct random *r)
{
    return random_u64(r) >> random_below(r, 64);
}

static void fatal(const char *what)
{
    fprintf(stderr, "test support: %s: %s\n", what, strerror(errno));
    abort();
}

char *scratch_path(void)
{
    const char *dir = getenv("TMPDIR");
    char *path = NULL;
    if (asprintf(&path, "%s/dejavm-trace-XXXXXX", dir ? dir : "/tmp") < 0)
        fatal("asprintf");
    int fd = mkstemp(path);
    if (fd < 0)
        fatal(path);
    close(fd);
    return path;
}

uint8_t *read_whole_file(const char *path, size_t *length)
{
    FILE *f = fopen(path, "rb");
    struct stat st;
    if (!f || fstat(fileno(f), &st) < 0)
        fatal(path);
    *length = (size_t)st.st_size;
    uint8_t *data = malloc(*length + 1);
    if (!data || fread(data, 1, *length, f) != *length)
        fatal(path);
    fclose(f);
    return data;
}

void write_whole_file(const char *path, const uint8_t *data, size_t length)
{
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, length, f) != length || fclose(f) != 0)
        fatal(path);
}

void must(int code, const struct error *err)
{
    if (code >= 0)
        return;
    fprintf(stderr, "unexpected failure %d: %s\n", code, err->message);
    abort();
}

const struct trace_meta test_meta = {
    .writer = "test 1",
    .engine = "kvm",
    .host_cpu = "GenuineTest family 6",
    .host_system = "Linux",
    .guest_path = "/guest/\xc3\xa4",
    .guest_format = "elf64",
    .command_line = "a=b c",
    .initrd_path = "",
    .start_time_s = -1234567890123,
    .ram_bytes = (uint64_t)TEST_RAM_PAGES * 4096,
    .ram_low_bytes = (uint64_t)TEST_RAM_PAGES * 2048,
};

struct trace_writer *create_trace(const char *path, bool positions, size_t image_length)
{
    return create_trace_with_steps(path, positions, image_length, false);
}

struct trace_writer *create_trace_with_steps(const char *path, bool positions, size_t image_length,
                                             bool steps)
{
    struct error err;
    struct trace_writer *w;
    struct trace_meta meta = test_meta;
    meta.positions = positions;
    uint8_t leaves[] = "cpuid leaves";
    struct buffer cpuid = {.data = leaves, .length = sizeof(leaves)};
    static uint8_t image[8 << 20]; /* in use as long as the writer may be */
    if (image_length > sizeof(image))
        abort();
    struct random r = {image_length};
    for (size_t i = 0; i < image_length; i++)
        image[i] = (uint8_t)(random_u64(&r) & 0x33);
    struct trace_writer_options options = {.overwrite = true, .steps = steps};
    must(trace_writer_create(&w, path, &options, &meta, &cpuid, image, image_length, &err), &err);
    return w;
}

static void random_data(struct random *r, struct event_store *s, struct event *e)
{
    size_t length = random_below(r, 300) == 0 ? (size_t)random_below(r, 70000) : (size_t)random_below(r, 40);
    free(s->data);
    s->data = malloc(length + 1);
    for (size_t i = 0; i < length; i++)
        s->data[i] = (uint8_t)random_u64(r);
    e->data = s->data;
    e->data_length = length;
}

static void random_landmark(struct random *r, struct event_store *s, struct event *e)
{
    struct landmark *l = &s->landmark;
    *l = (struct landmark){
        .rip = random_magnitude(r), .rflags = random_magnitude(r), .fpu_hash = random_u64(r)};
    for (unsigned i = 0; i < 16; i++)
        l->gpr[i] = random_magnitude(r);
    l->witness_count = (unsigned)random_below(r, LANDMARK_MAX_WITNESSES + 1);
    for (unsigned i = 0; i < l->witness_count; i++) {
        l->witness[i].address = random_u64(r);
        l->witness[i].value = random_magnitude(r);
    }
    l->elapsed_ns = random_magnitude(r);
    l->entry_count = (unsigned)random_below(r, LANDMARK_MAX_ENTRIES + 1);
    for (unsigned i = 0; i < l->entry_count; i++) {
        l->entry[i].gpa = random_magnitude(r);
        l->entry[i].value = random_u64(r);
    }
    l->page_count = random_below(r, ARRAY_LEN(s->pages));
    for (size_t i = 0; i < l->page_count; i++)
        s->pages[i] = (struct landmark_page){random_magnitude(r), random_u64(r)};
    l->pages = s->pages;
    e->landmark = l;
}

static void random_access(struct random *r, struct event *e)
{
    e->value = random_magnitude(r);
    switch (e->type) {
    case EVENT_PIO_READ:
    case EVENT_PIO_WRITE:
        e->size = (uint8_t)(1u << random_below(r, 3));
        e->address = random_below(r, 65536);
        break;
    case EVENT_MMIO_READ:
    case EVENT_MMIO_WRITE:
        e->size = (uint8_t)(1u << random_below(r, 4));
        e->address = random_magnitude(r);
        break;
    default:
        e->address = random_below(r, (uint64_t)1 << 32);
        e->flag = random_below(r, 2);
    }
}

static void random_fields(struct random *r, struct event_store *s, struct event *e)
{
    switch (e->type) {
    case EVENT_PIO_READ:
    case EVENT_PIO_WRITE:
    case EVENT_MMIO_READ:
    case EVENT_MMIO_WRITE:
    case EVENT_MSR_READ:
    case EVENT_MSR_WRITE:
        random_access(r, e);
        break;
    case EVENT_CPU_READ:
        random_access(r, e);
        e->source = (uint8_t)random_below(r, 5);
        break;
    case EVENT_INTERRUPT:
        e->vector = (uint8_t)random_u64(r);
        e->flag = random_below(r, 2);
        break;
    case EVENT_NMI:
        e->flag = random_below(r, 2);
        break;
    case EVENT_DMA:
        e->address = random_u64(r) >> 12;
        random_data(r, s, e);
        break;
    case EVENT_DIGEST:
        e->value = random_u64(r);
        e->digest = (struct hash128){random_u64(r), random_u64(r)};
        random_data(r, s, e);
        break;
    case EVENT_CONSOLE:
        e->source = (uint8_t)random_u64(r);
        random_data(r, s, e);
        break;
    case EVENT_MARK:
        random_data(r, s, e);
        break;
    case EVENT_END:
        e->source = (uint8_t)random_u64(r);
        e->value = random_magnitude(r);
        random_data(r, s, e);
        break;
    case EVENT_HALT:
    case EVENT_TYPE_COUNT:
        break;
    }
}

void random_event(struct random *r, struct event_store *s, struct event *e)
{
    *e = (struct event){.type = (enum event_type)(1 + random_below(r, EVENT_END - 1)),
                        .place =
                            (enum event_place)random_below(r, (s->steps ? PLACE_STEPS : PLACE_PREVIOUS) + 1u),
                        .position = POSITION_UNKNOWN};
    random_fields(r, s, e);
    if (e->place == PLACE_LANDMARK)
        random_landmark(r, s, e);
    if (e->place == PLACE_STEPS)
        e->steps = random_magnitude(r);
    if (s->positions || e->place == PLACE_POSITION) {
        s->position += e->place == PLACE_PREVIOUS ? 0 : random_magnitude(r) >> 24;
        e->position = s->position;
    }
}

void event_store_free(struct event_store *s)
{
    free(s->data);
    s->data = NULL;
}

struct event event_copy(const struct event *e)
{
    struct event copy = *e;
    if (e->data_length) {
        uint8_t *data = malloc(e->data_length);
        memcpy(data, e->data, e->data_length);
        copy.data = data;
    }
    if (e->landmark) {
        struct landmark *l = malloc(sizeof(*l));
        *l = *e->landmark;
        struct landmark_page *pages = malloc((l->page_count + 1) * sizeof(*pages));
        if (l->page_count)
            memcpy(pages, l->pages, l->page_count * sizeof(*pages));
        l->pages = pages;
        copy.landmark = l;
    }
    return copy;
}

void event_free(struct event *e)
{
    if (e->data_length)
        free((void *)(uintptr_t)e->data);
    if (e->landmark)
        free((void *)(uintptr_t)e->landmark->pages);
    free((void *)(uintptr_t)e->landmark);
}

static const char *landmark_difference(const struct landmark *a, const struct landmark *b)
{
    if (a->rip != b->rip || a->rflags != b->rflags || memcmp(a->gpr, b->gpr, sizeof(a->gpr)) != 0 ||
        a->fpu_hash != b->fpu_hash || a->elapsed_ns != b->elapsed_ns)
        return "landmark registers or time";
    if (a->witness_count != b->witness_count)
        return "witness count";
    for (unsigned i = 0; i < a->witness_count; i++)
        if (a->witness[i].address != b->witness[i].address || a->witness[i].value != b->witness[i].value)
            return "witness";
    if (a->entry_count != b->entry_count)
        return "page-table entry count";
    for (unsigned i = 0; i < a->entry_count; i++)
        if (a->entry[i].gpa != b->entry[i].gpa || a->entry[i].value != b->entry[i].value)
            return "page-table entry";
    if (a->page_count != b->page_count)
        return "landmark page count";
    for (size_t i = 0; i < a->page_count; i++)
        if (a->pages[i].gfn != b->pages[i].gfn || a->pages[i].digest != b->pages[i].digest)
            return "landmark page";
    return NULL;
}

const char *event_difference(const struct event *a, const struct event *b)
{
    if (a->type != b->type)
        return "type";
    if (a->place != b->place)
        return "place";
    if (a->position != b->position)
        return "position";
    if (a->steps != b->steps)
        return "steps";
    if (a->address != b->address || a->value != b->value || a->size != b->size)
        return "address, value or size";
    if (a->vector != b->vector || a->source != b->source || a->flag != b->flag)
        return "vector, source or flag";
    if (!hash128_equal(a->digest, b->digest))
        return "digest";
    if (a->data_length != b->data_length || (a->data_length && memcmp(a->data, b->data, a->data_length) != 0))
        return "data";
    if (!a->landmark != !b->landmark)
        return "landmark";
    return a->landmark ? landmark_difference(a->landmark, b->landmark) : NULL;
}

gfn_t test_frame(unsigned page)
{
    unsigned low = (unsigned)(test_meta.ram_low_bytes / 4096);
    return page < low ? page : page - low + ((gfn_t)1 << 20);
}

static uint8_t *ram_at(struct test_ram *ram, gfn_t gfn)
{
    for (unsigned half = 0; half < 2; half++) {
        unsigned first = half * TEST_RAM_PAGES / 2;
        if (gfn >= test_frame(first) && gfn - test_frame(first) < TEST_RAM_PAGES / 2)
            return ram->bytes + (size_t)(gfn - test_frame(first) + first) * 4096;
    }
    return NULL;
}

const uint8_t *test_ram_page(void *ram, gfn_t gfn)
{
    return ram_at(ram, gfn);
}

uint8_t *test_ram_place(void *ram, gfn_t gfn)
{
    return ram_at(ram, gfn);
}

static void write_first_keyframe(struct trace_writer *w, struct test_ram *ram, struct random *r)
{
    struct error err;
    gfn_t changed[80];
    for (unsigned i = 0; i < ARRAY_LEN(changed); i++) {
        changed[i] = test_frame(i * 10);
        uint8_t *page = ram_at(ram, changed[i]);
        for (unsigned j = 0; j < 64; j++)
            page[random_below(r, 4096)] = (uint8_t)random_u64(r);
    }
    struct trace_keyframe_input k = {
        .state = (const uint8_t *)"state 0",
        .state_length = 7,
        .changed = changed,
        .changed_count = ARRAY_LEN(changed),
        .page = test_ram_page,
        .context = ram,
    };
    must(trace_writer_keyframe(w, &k, &err), &err);
}

struct small_trace make_small_trace(const char *path, uint64_t seed, bool positions, bool end, bool seal)
{
    enum { EVENTS = 200, FLUSH_EVERY = SMALL_TRACE_FLUSH, KEYFRAMES = 6 };
    struct error err;
    struct random r = {seed};
    struct test_ram ram = {calloc(TEST_RAM_PAGES, 4096)};
    bool steps = !positions && seed % 2;
    struct event_store store = {.positions = positions, .steps = steps};
    struct trace_writer *w = create_trace_with_steps(path, positions, 5000, steps);
    write_first_keyframe(w, &ram, &r);
    for (unsigned i = 0; i < EVENTS; i++) {
        struct event e;
        random_event(&r, &store, &e);
        if (end && i == EVENTS - 1)
            e = (struct event){
                .type = EVENT_END, .place = PLACE_PREVIOUS, .position = POSITION_UNKNOWN, .source = 1};
        must(trace_writer_event(w, &e, &err), &err);
        if (i % FLUSH_EVERY == FLUSH_EVERY - 1)
            must(trace_writer_flush(w, &err), &err);
    }
    if (end)
        must(trace_writer_finish(w, &err), &err);
    else
        trace_writer_destroy(w);
    if (seal)
        seal_small_trace(path, seed, KEYFRAMES);
    event_store_free(&store);
    free(ram.bytes);
    return (struct small_trace){.events = EVENTS, .keyframes = seal ? KEYFRAMES + 1 : 1};
}

static void seal_keyframe(struct trace_writer *w, struct random *r, struct test_ram *ram, position_t position,
                          uint64_t events)
{
    struct error err;
    gfn_t changed[20];
    for (unsigned j = 0; j < ARRAY_LEN(changed); j++) {
        changed[j] = test_frame((unsigned)random_below(r, 50) + j * 50);
        if (random_below(r, 8) == 0)
            memset(ram_at(ram, changed[j]), 0, 4096);
        else
            ram_at(ram, changed[j])[random_below(r, 4096)] = (uint8_t)random_u64(r);
    }
    struct trace_keyframe_input k = {
        .position = position,
        .events_before = events,
        .state = (const uint8_t *)"later state",
        .state_length = 11,
        .changed = changed,
        .changed_count = ARRAY_LEN(changed),
        .page = test_ram_page,
        .context = ram,
    };
    must(trace_writer_keyframe(w, &k, &err), &err);
}

void seal_small_trace(const char *path, uint64_t seed, unsigned keyframes)
{
    struct error err;
    struct random r = {seed};
    struct test_ram ram = {calloc(TEST_RAM_PAGES, 4096)};
    struct trace_reader *reader;
    struct trace_cursor *c;
    must(trace_reader_open(&reader, path, &err), &err);
    must(trace_cursor_open(&c, reader, 0, &err), &err);
    uint64_t events = trace_reader_info(reader)->events, done = 0;
    struct trace_writer *w;
    must(trace_seal_open(&w, path, &err), &err);
    position_t position = 1;
    for (unsigned i = 0; i <= keyframes; i++) {
        if (i)
            seal_keyframe(w, &r, &ram, position + i, done);
        for (; done < events * (i + 1) / (keyframes + 1); done++) {
            struct event e;
            int got = trace_cursor_next(c, &e, &err);
            must(got, &err);
            bool recorded = trace_reader_info(reader)->meta.positions && e.position != POSITION_UNKNOWN;
            position = recorded ? e.position : position + random_below(&r, 1000) + keyframes;
            must(trace_seal_position(w, position, &err), &err);
        }
    }
    struct trace_seal_summary summary = {.end_position = position + 1, .events = done};
    must(trace_seal_finish(w, &summary, &err), &err);
    trace_cursor_close(c);
    trace_reader_close(reader);
    free(ram.bytes);
}

struct walk_ram {
    uint8_t page[4096];
    gfn_t *frames; /* those that were asked for */
    size_t count, capacity;
};

static uint8_t *walk_place(void *context, gfn_t gfn)
{
    struct walk_ram *ram = context;
    if (ram->count == ram->capacity) {
        ram->capacity = ram->capacity ? ram->capacity * 2 : 256;
        ram->frames = realloc(ram->frames, ram->capacity * sizeof(*ram->frames));
    }
    ram->frames[ram->count++] = gfn;
    return ram->page;
}

static int compare_frames(const void *a, const void *b)
{
    gfn_t x = *(const gfn_t *)a, y = *(const gfn_t *)b;
    return (x > y) - (x < y);
}

static void check_asked_once(struct walk_ram *ram)
{
    if (ram->count)
        qsort(ram->frames, ram->count, sizeof(*ram->frames), compare_frames);
    for (size_t i = 1; i < ram->count; i++)
        if (ram->frames[i] == ram->frames[i - 1])
            fatal("a frame was asked for twice");
    ram->count = 0;
}

static int walk_keyframes(struct trace_reader *r, struct error *err)
{
    enum { AT_MOST = 8 };
    struct walk_ram ram = {.count = 0};
    struct buffer state = {0};
    struct trace_keyframe_info found = {0};
    uint64_t count = trace_reader_info(r)->keyframes;
    uint64_t step = count / AT_MOST + 1;
    int result = 0;
    for (uint64_t k = 0; k < count && result >= 0; k += step) {
        struct trace_keyframe_info info;
        result = trace_reader_keyframe_info(r, k, &info, err);
        if (result >= 0)
            result = trace_reader_find_keyframe(r, info.position, &found, err);
        if (result >= 0)
            result = trace_reader_load_keyframe(r, k, &state, walk_place, &ram, err);
        check_asked_once(&ram);
    }
    if (result >= 0 && count)
        result = trace_reader_find_keyframe(r, random_u64(&(struct random){count}), &found, err);
    buffer_free(&state);
    free(ram.frames);
    return result;
}

static int walk_events(struct trace_reader *r, uint64_t *events, struct error *err)
{
    struct trace_cursor *c;
    struct event e;
    *events = 0;
    int result = trace_cursor_open(&c, r, 0, err);
    if (result < 0)
        return result;
    while ((result = trace_cursor_next(c, &e, err)) > 0) {
        (*events)++;
        if (trace_cursor_index(c) != *events || *events > trace_reader_info(r)->events)
            fatal("a cursor lost count");
        volatile uint8_t touched = 0;
        for (size_t i = 0; i < e.data_length; i += 64)
            touched ^= e.data[i];
        for (size_t i = 0; e.landmark && i < e.landmark->page_count; i += 64)
            touched ^= (uint8_t)e.landmark->pages[i].digest;
        (void)touched;
    }
    if (result < 0 && trace_cursor_next(c, &e, NULL) != result)
        fatal("a cursor went on behind damage");
    trace_cursor_close(c);
    return result;
}

static int walk_seeks(struct trace_reader *r, struct error *err)
{
    const struct trace_info *info = trace_reader_info(r);
    struct random random = {info->events};
    int result = 0;
    for (unsigned i = 0; i < 4 && result >= 0 && info->events; i++) {
        struct trace_cursor *c;
        struct event e;
        uint64_t index = random_below(&random, info->events);
        result = trace_cursor_open(&c, r, index, err);
        if (result < 0)
            break;
        if (trace_cursor_index(c) != index)
            fatal("a cursor opened somewhere else");
        result = trace_cursor_next(c, &e, err);
        trace_cursor_close(c);
        if (result > 0 && (info->sealed || info->meta.positions)) {
            result = trace_reader_find_event(r, e.position, &index, err);
            if (result >= 0)
                result = trace_reader_find_event(r, random_magnitude(&random), &index, err);
            if (result >= 0 && index > info->events)
                fatal("an event beyond the end was found");
        }
    }
    return result;
}

static int keep_first(int result, int next, struct error *err, const struct error *next_error)
{
    if (result >= 0 && next < 0 && err)
        *err = *next_error;
    return result < 0 ? result : next;
}

int walk_trace(int fd, uint64_t *events, struct error *err)
{
    struct trace_reader *r;
    struct error e;
    *events = 0;
    int result = trace_reader_open_fd(&r, fd, err);
    if (result < 0)
        return result;
    struct buffer bytes = {0};
    result = walk_events(r, events, err);
    result = keep_first(result, walk_seeks(r, &e), err, &e);
    result = keep_first(result, walk_keyframes(r, &e), err, &e);
    result = keep_first(result, trace_reader_cpuid(r, &bytes, &e), err, &e);
    result = keep_first(result, trace_reader_image(r, &bytes, &e), err, &e);
    buffer_free(&bytes);
    trace_reader_close(r);
    return result < 0 ? result : 0;
}
