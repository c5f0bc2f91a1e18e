/*
 * A hostile guest at the ports: millions of random accesses with random steps of the clock. Nothing may crash
 * (run it under the sanitizers), run timers without end, or wake the host more often than a bound.
 */
#include "tests/devices/fixture.h"

#include <time.h>

static uint64_t next_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

/* Mostly the ports that have a device behind them. */
static uint16_t random_port(uint64_t *seed)
{
    static const uint16_t ports[] = {0x20, 0x21, 0xa0, 0xa1,  0x4d0, 0x4d1, 0x40,  0x41,  0x42,  0x43,  0x61,
                                     0x70, 0x71, 0x71, 0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3fe, 0x3ff,
                                     0x60, 0x64, 0x92, 0x608, 0x60b, 0xf4,  0xf7,  0xe9,  0x80};
    uint64_t r = next_random(seed);
    return r % 16 == 0 ? (uint16_t)(r >> 32) : ports[(r >> 8) % ARRAY_LEN(ports)];
}

static uint64_t random_step_ns(uint64_t *seed)
{
    uint64_t r = next_random(seed);
    switch (r % 64) {
    case 0:
        return (r >> 16) % (3600 * SECOND_NS);
    case 1:
    case 2:
        return (r >> 16) % SECOND_NS;
    default:
        return (r >> 16) % 2000;
    }
}

static void hammer(uint64_t seed, unsigned accesses)
{
    struct fixture *f = fixture_create(0, (int64_t)(seed % 4000000000u));
    for (unsigned i = 0; i < accesses; i++) {
        static const unsigned sizes[] = {1, 1, 1, 2, 4, 8};
        uint16_t port = random_port(&seed);
        uint64_t r = next_random(&seed);
        unsigned size = sizes[r % ARRAY_LEN(sizes)];
        machine_set_clock_ns(f->m, machine_clock_ns(f->m) + random_step_ns(&seed));
        if (r & 0x100) {
            uint64_t value = machine_port_read(f->m, port, size);
            assert_true(size == 8 || value >> (8 * size) == 0);
        } else {
            machine_port_write(f->m, port, size, r >> 16);
        }
        if (r & 0x600) {
            machine_run_timers(f->m);
            assert_true(machine_next_deadline_ns(f->m) > machine_clock_ns(f->m));
        }
        if ((r & 0x1800) == 0 && machine_interrupt_pending(f->m))
            machine_interrupt_acknowledge(f->m);
        if ((r & 0xe000) == 0)
            machine_input(f->m, (const uint8_t *)&r, 1 + r % 8);
        if ((r & 0xf0000) == 0)
            machine_set_irq(f->m, (unsigned)(r >> 20) % 20, r >> 40 & 1);
    }
    fixture_destroy(f);
}

static void random_accesses_do_no_harm(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++)
        hammer(seed * 0x9e3779b97f4a7c15, 100000);
}

/*
 * Nothing the guest programs makes the timers fire more often than 20 us (PIT), 122 us (RTC), a few
 * characters (UART).
 */
static void no_programming_floods_the_host_with_timers(void **state)
{
    uint64_t seed = 88172645463325252;
    (void)state;
    for (unsigned round = 0; round < 300; round++) {
        struct fixture *f = fixture_create(0, 0);
        for (unsigned i = 0; i < 300; i++)
            machine_port_write(f->m, random_port(&seed), 1, next_random(&seed) >> 20);
        machine_input(f->m, (const uint8_t *)"0123456789abcdef", 16);
        uint64_t fired = 0, end = machine_clock_ns(f->m) + SECOND_NS / 10, next;
        while ((next = machine_next_deadline_ns(f->m)) <= end) {
            machine_set_clock_ns(f->m, next);
            machine_run_timers(f->m);
            fired++;
            out8(f, 0x70, 0x0c); /* the worst a handler can do: ask for the next one at once */
            in8(f, 0x71);
        }
        assert_in_range(fired, 0, 6000);
        fixture_destroy(f);
    }
}

/* The same accesses at the same times give the same answers. */
static void the_board_is_deterministic(void **state)
{
    (void)state;
    struct fixture *a = fixture_create(0, 1700000000), *b = fixture_create(0, 1700000000);
    uint64_t seed = 0x123456789abcdef;
    for (unsigned i = 0; i < 100000; i++) {
        uint16_t port = random_port(&seed);
        uint64_t r = next_random(&seed), step = random_step_ns(&seed);
        struct fixture *both[2] = {a, b};
        uint64_t value[2] = {0};
        for (unsigned n = 0; n < 2; n++) {
            machine_set_clock_ns(both[n]->m, machine_clock_ns(both[n]->m) + step);
            machine_run_timers(both[n]->m);
            if (r & 1)
                value[n] = machine_port_read(both[n]->m, port, 1);
            else
                machine_port_write(both[n]->m, port, 1, r >> 8);
        }
        assert_int_equal(value[0], value[1]);
        assert_int_equal(machine_interrupt_pending(a->m), machine_interrupt_pending(b->m));
        assert_int_equal(machine_next_deadline_ns(a->m), machine_next_deadline_ns(b->m));
    }
    assert_string_equal(a->printed[0], b->printed[0]);
    fixture_destroy(a);
    fixture_destroy(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_accesses_do_no_harm),
        cmocka_unit_test(no_programming_floods_the_host_with_timers),
        cmocka_unit_test(the_board_is_deterministic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
