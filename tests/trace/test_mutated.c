/*
 * Mutated traces: the reader answers with events or with an error, and nothing else happens. Arguments: how many
 * mutations, and the first seed. A mutation that fails is found again by its seed.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/trace/mutate.h"
#include "tests/trace/support.h"

static uint64_t mutations = 1500, first_seed = 1;

/* Freed memory is kept from reuse only for a while: most of the time would go into fetching new pages. */
__attribute__((visibility("default"))) const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "quarantine_size_mb=4";
}

static void mutated_traces_give_events_or_an_error(void **state)
{
    (void)state;
    uint8_t *base[4];
    size_t base_length[ARRAY_LEN(base)];
    for (unsigned i = 0; i < ARRAY_LEN(base); i++) {
        char *path = scratch_path();
        make_small_trace(path, 40 + i, i & 1, true, i >= 2);
        base[i] = read_whole_file(path, &base_length[i]);
        unlink(path);
        free(path);
    }
    uint64_t read_well = 0, damaged = 0, with_events = 0;
    alarm((unsigned)(60 + mutations / 50)); /* a hang is a failure */
    for (uint64_t i = 0; i < mutations; i++) {
        uint64_t seed = first_seed + i, events;
        struct error err = {0};
        size_t length;
        uint8_t *mutated =
            trace_mutate(base[seed % ARRAY_LEN(base)], base_length[seed % ARRAY_LEN(base)], seed, &length);
        assert_non_null(mutated);
        int fd = memfd_create("mutated", MFD_CLOEXEC);
        assert_int_equal(write(fd, mutated, length), length);
        free(mutated);
        int r = walk_trace(fd, &events, &err);
        close(fd);
        if (r == 0)
            read_well++;
        else if (err.kind == ERROR_DAMAGED && err.message[0])
            damaged++;
        else
            fail_msg("seed %llu: error %d of kind %d: %s", (unsigned long long)seed, r, (int)err.kind,
                     err.message);
        with_events += events > 0;
    }
    alarm(0);
    print_message("%llu mutations: %llu read to the end, %llu reported damage; %llu gave events\n",
                  (unsigned long long)mutations, (unsigned long long)read_well, (unsigned long long)damaged,
                  (unsigned long long)with_events);
    assert_true(damaged > mutations / 3);
    assert_true(read_well > mutations / 50);
    assert_true(with_events > mutations / 3);
    for (unsigned i = 0; i < ARRAY_LEN(base); i++)
        free(base[i]);
}

/* The mutator must reach the code behind the checksums: without a change, its output is a correct trace. */
static void a_mutation_is_repeatable(void **state)
{
    (void)state;
    char *path = scratch_path();
    size_t length, a_length, b_length;
    make_small_trace(path, 50, false, true, true);
    uint8_t *base = read_whole_file(path, &length);
    for (uint64_t seed = 0; seed < 50; seed++) {
        uint8_t *a = trace_mutate(base, length, seed, &a_length);
        uint8_t *b = trace_mutate(base, length, seed, &b_length);
        assert_int_equal(a_length, b_length);
        assert_memory_equal(a, b, a_length);
        free(a);
        free(b);
    }
    free(base);
    unlink(path);
    free(path);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        mutations = strtoull(argv[1], NULL, 0);
    if (argc > 2)
        first_seed = strtoull(argv[2], NULL, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mutated_traces_give_events_or_an_error),
        cmocka_unit_test(a_mutation_is_repeatable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
