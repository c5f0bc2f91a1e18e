/*
 * SPEC.md is enough to write a reader from: the one in spec_reader.py, written from it, finds in a trace what this
 * library finds. Argument: its path.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/trace/mutate.h"
#include "tests/trace/support.h"

static const char *script;

/* Runs the script; its output goes to out. Returns its exit status. */
static int run_script(const char *path, char *out, size_t size)
{
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(pipes[1], STDOUT_FILENO);
        if (!out)
            dup2(pipes[1], STDERR_FILENO);
        close(pipes[0]);
        execlp("python3", "python3", script, path, (char *)NULL);
        _exit(127);
    }
    close(pipes[1]);
    size_t length = 0;
    char rest[512];
    ssize_t n;
    while ((n = out && length + 1 < size ? read(pipes[0], out + length, size - 1 - length)
                                         : read(pipes[0], rest, sizeof(rest))) > 0)
        length += out && length + 1 < size ? (size_t)n : 0;
    if (out)
        out[length] = 0;
    close(pipes[0]);
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static uint64_t chain(uint64_t before, const void *data, size_t length)
{
    struct buffer b = {0};
    buffer_put_u64(&b, before);
    buffer_put(&b, data, length);
    uint64_t h = hash64(b.data, b.length);
    buffer_free(&b);
    return h;
}

/* The number that stands for an event's fields in the summary. */
static uint64_t number_of(const struct event *e)
{
    uint64_t n = e->address + e->value + e->size + e->vector + e->source +
                 (e->landmark ? e->landmark->rip : 0) + e->steps;
    if (e->type == EVENT_CPU_READ)
        return n + (e->flag ? 128 : 0);
    return n + e->flag + e->digest.low + e->digest.high;
}

static void summarise_events(struct trace_reader *r, FILE *out)
{
    struct error err;
    struct trace_cursor *c;
    struct event e;
    uint64_t counts[EVENT_TYPE_COUNT] = {0}, order = 0, data = 0;
    int got;
    must(trace_cursor_open(&c, r, 0, &err), &err);
    while ((got = trace_cursor_next(c, &e, &err)) > 0) {
        counts[e.type]++;
        order = order * 31 + (uint64_t)e.type * 8 + (uint64_t)e.place + e.position + number_of(&e);
        data = chain(data, e.data, e.data_length);
    }
    must(got, &err);
    trace_cursor_close(c);
    for (unsigned type = 1; type < EVENT_TYPE_COUNT; type++)
        fprintf(out, "%s %llu\n", event_type_name((enum event_type)type), (unsigned long long)counts[type]);
    fprintf(out, "order %016llx\ndata %016llx\n", (unsigned long long)order, (unsigned long long)data);
}

static void summarise_keyframes(struct trace_reader *r, FILE *out)
{
    struct error err;
    struct test_ram ram = {malloc((size_t)TEST_RAM_PAGES * 4096)};
    struct buffer state = {0};
    for (uint64_t k = 0; k < trace_reader_info(r)->keyframes; k++) {
        struct trace_keyframe_info info;
        struct hash128 digest = {0, 0};
        memset(ram.bytes, 0, (size_t)TEST_RAM_PAGES * 4096);
        must(trace_reader_keyframe_info(r, k, &info, &err), &err);
        must(trace_reader_load_keyframe(r, k, &state, test_ram_place, &ram, &err), &err);
        for (unsigned i = 0; i < TEST_RAM_PAGES; i++)
            ram_digest_add(&digest, ram_digest_term(ram.bytes + (size_t)i * 4096, test_frame(i)));
        fprintf(out, "keyframe %llu %llu %016llx%016llx\n", (unsigned long long)k,
                (unsigned long long)info.position, (unsigned long long)digest.high,
                (unsigned long long)digest.low);
    }
    buffer_free(&state);
    free(ram.bytes);
}

static void summarise(const char *path, char *out, size_t size)
{
    struct error err;
    struct trace_reader *r;
    struct buffer image = {0};
    FILE *f = fmemopen(out, size, "w");
    must(trace_reader_open(&r, path, &err), &err);
    const struct trace_info *info = trace_reader_info(r);
    must(trace_reader_image(r, &image, &err), &err);
    fprintf(f, "engine %s\nsealed %d\ncut %d\nimage %016llx\nevents %llu\n", info->meta.engine, info->sealed,
            info->cut_short, (unsigned long long)hash64(image.data, image.length),
            (unsigned long long)info->events);
    summarise_events(r, f);
    summarise_keyframes(r, f);
    fclose(f);
    buffer_free(&image);
    trace_reader_close(r);
}

static void compare_readers(uint64_t seed, bool positions, bool end, bool seal)
{
    enum { SIZE = 8192 };
    char *path = scratch_path();
    char *ours = calloc(1, SIZE), *theirs = calloc(1, SIZE);
    make_small_trace(path, seed, positions, end, seal);
    summarise(path, ours, SIZE);
    assert_int_equal(run_script(path, theirs, SIZE), 0);
    assert_string_equal(ours, theirs);
    free(ours);
    free(theirs);
    unlink(path);
    free(path);
}

static void the_reader_from_the_specification_finds_the_same(void **state)
{
    (void)state;
    compare_readers(60, false, true, true);
    compare_readers(61, true, true, true);
    compare_readers(62, false, false, false);
    compare_readers(63, false, false, true);
    compare_readers(64, true, true, false);
}

static void the_reader_from_the_specification_sees_damage(void **state)
{
    (void)state;
    char *path = scratch_path();
    make_small_trace(path, 65, false, true, true);
    size_t length;
    uint8_t *bytes = read_whole_file(path, &length);
    for (unsigned i = 1; i < 4; i++) {
        bytes[length * i / 4] ^= 1;
        write_whole_file(path, bytes, length);
        assert_int_equal(run_script(path, NULL, 0), 1);
        bytes[length * i / 4] ^= 1;
    }
    free(bytes);
    unlink(path);
    free(path);
}

int main(int argc, char **argv)
{
    if (argc != 2 || system("python3 -c 'import ctypes' >/dev/null 2>&1") != 0) {
        fprintf(stderr, "usage: test_trace_spec spec_reader.py (needs python3)\n");
        return argc == 2 ? 77 : 2;
    }
    script = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_reader_from_the_specification_finds_the_same),
        cmocka_unit_test(the_reader_from_the_specification_sees_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
