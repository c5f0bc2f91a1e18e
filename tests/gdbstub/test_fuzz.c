/*
 * test_gdbstub_fuzz [PACKETS [SEED]]: feeds packets of malicious clients until that many (default 20000) are answered, in pieces of any size, to a
 * recorded and to a live target. Whatever comes back is well-formed; after each client the next one is served.
 */
#include "tests/gdbstub/client.h"
#include "tests/gdbstub/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned long packets = 20000;
static uint64_t first_seed = 1;

static const uint8_t program[] = {0xb9, 0x40, 0x00, 0x00, 0x00,             /* mov ecx, 64 */
                                  0xff, 0x04, 0x25, 0x02, 0x00, 0x18, 0x00, /* again: inc dword [0x180002] */
                                  0x8b, 0x1c, 0x25, 0x00, 0x00, 0x18, 0x00, /* mov ebx, [0x180000] */
                                  0xff, 0xc9,                               /* dec ecx */
                                  0x75, 0xee,                               /* jnz again */
                                  0xf4};                                    /* hlt */

/* How many packets there are. Everything that the server sends is '+', '-' or a whole packet with a correct checksum and no stray special characters. */
static unsigned long count_well_formed(const uint8_t *data, size_t length)
{
    unsigned long count = 0;
    for (size_t i = 0; i < length; i++) {
        if (data[i] == '+' || data[i] == '-')
            continue;
        assert_int_equal(data[i], '$');
        uint8_t sum = 0;
        size_t start = ++i;
        while (i < length && data[i] != '#') {
            assert_int_not_equal(data[i], '$');
            sum = (uint8_t)(sum + data[i++]);
        }
        assert_true(i + 2 < length && i - start <= 16384);
        char digits[3] = {(char)data[i + 1], (char)data[i + 2], 0};
        assert_int_equal(strtoul(digits, NULL, 16), sum);
        i += 2;
        count++;
    }
    return count;
}

struct totals {
    unsigned long answers, clients;
};

/* One client, until it is dropped or has sent as much as it wants. */
static void session(struct gdb_server *server, uint64_t *seed, struct totals *totals)
{
    struct buffer bytes = {0}, out = {0};
    bool alive = true;
    unsigned long n = vm_random(seed) % 500 + 1;
    for (unsigned long i = 0; i < n; i++)
        fuzz_packet(&bytes, seed);
    for (size_t at = 0; alive && at < bytes.length;) {
        size_t piece = (size_t)(vm_random(seed) % (vm_random(seed) % 8 ? 60 : 20000) + 1);
        if (piece > bytes.length - at)
            piece = bytes.length - at;
        /* A copy of exactly this size: reading beyond it is found by AddressSanitizer. */
        uint8_t *copy = malloc(piece);
        assert_non_null(copy);
        memcpy(copy, bytes.data + at, piece);
        alive = gdb_server_feed(server, copy, piece, &out);
        free(copy);
        at += piece;
    }
    assert_false(out.failed);
    totals->answers += count_well_formed(out.data, out.length);
    totals->clients++;
    buffer_free(&bytes);
    buffer_free(&out);
}

/* Whatever the last client did: garbage ends it, and the next one is served. */
static void assert_next_is_served(struct gdb_server *server)
{
    struct buffer out = {0};
    /* In whatever packet it left off, this ends the packet, and is garbage then. */
    while (gdb_server_feed(server, (const uint8_t *)"##########", 10, &out))
        ;
    buffer_clear(&out);
    assert_true(gdb_server_feed(server, (const uint8_t *)"$qC#b4", 6, &out));
    assert_int_equal(out.length, 8);
    assert_memory_equal(out.data, "+$QC1#c5", 8);
    buffer_free(&out);
}

static void clients_do_what_they_want(bool live)
{
    struct walk *w = walk_create(program, sizeof(program), WALK_64, live);
    struct error err = {0};
    struct gdb_server *server;
    struct totals totals = {0};
    assert_int_equal(gdb_server_create(&server, &w->target, &err), 0);
    for (uint64_t seed = first_seed; totals.answers < packets / 2; seed++) {
        uint64_t s = seed;
        w->live_steps = 2000;
        session(server, &s, &totals);
        assert_next_is_served(server);
    }
    print_message("%lu packets of %lu clients answered\n", totals.answers, totals.clients);
    gdb_server_destroy(server);
    walk_destroy(w);
}

static void a_recorded_target_survives(void **state)
{
    (void)state;
    clients_do_what_they_want(false);
}

static void a_live_target_survives(void **state)
{
    (void)state;
    clients_do_what_they_want(true);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        packets = strtoul(argv[1], NULL, 10);
    if (argc > 2)
        first_seed = strtoull(argv[2], NULL, 10);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_recorded_target_survives),
        cmocka_unit_test(a_live_target_survives),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
