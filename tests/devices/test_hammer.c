/*
 * A hostile guest at the ports: millions of random accesses with random steps of the clock. Nothing may crash
 * (run it under the sanitizers), run timers without end, or wake the host more often than a bound.
 */
#include "tests/devices/fixture.h"

#include <time.h>

#include "core/vcpu_state.h"
#include "devices/pci.h"

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

/* ---- the PC: configuration space, BARs, APICs, ACPI, virtio, MSRs ---- */

#define PC_RAM_BYTES ((uint64_t)1 << 20)

struct pc {
    struct machine *m;
    struct guest_ram *ram;
    struct vcpu_state vcpu;
};

static const struct vcpu_state *pc_vcpu(void *context)
{
    return &((struct pc *)context)->vcpu;
}

static void pc_entropy(void *context, void *out, size_t length)
{
    (void)context;
    memset(out, 0x5a, length);
}

static struct pc *pc_create(void)
{
    struct pc *pc = calloc(1, sizeof(*pc));
    struct error err;
    assert_non_null(pc);
    vcpu_state_reset(&pc->vcpu);
    pc->vcpu.apic_base |= APIC_BASE_ENABLE;
    struct machine_host host = {.vcpu = pc_vcpu, .entropy = pc_entropy, .context = pc};
    assert_int_equal(ram_create(&pc->ram, PC_RAM_BYTES, &err), 0);
    assert_int_equal(machine_create(&pc->m, pc->ram, &host, &err), 0);
    assert_int_equal(board_attach(pc->m, &(struct board_options){.kind = BOARD_PC, .apics = true}, &err), 0);
    return pc;
}

static void pc_destroy(struct pc *pc)
{
    machine_destroy(pc->m);
    ram_destroy(pc->ram);
    free(pc);
}

/* A register of configuration space: mostly of a function that is there. Now and then BARs come to lie anywhere. */
static uint64_t pc_config(struct pc *pc, uint64_t r)
{
    uint16_t data = (uint16_t)(0xcfc + (r >> 8 & 3));
    unsigned size = 1u << (r >> 10 & 3);
    uint32_t address = 0x80000000u | (uint32_t)(r >> 12 & 3) << 11 | (uint32_t)(r >> 16 & 0xfc);
    machine_port_write(pc->m, 0xcf8, r >> 24 & 31 ? 4 : size, r >> 30 & 15 ? address : (uint32_t)(r >> 32));
    if (r & 1)
        return machine_port_read(pc->m, data, size);
    uint64_t value = r >> 34 & 3 ? (r >> 36) & 7 : r >> 32;
    machine_port_write(pc->m, data, size, value);
    return 0;
}

static uint64_t pc_port(struct pc *pc, uint64_t r)
{
    static const uint16_t ports[] = {0x600, 0x601, 0x602, 0x603, 0x604, 0x605,
                                     0x608, 0x505, 0xcf9, 0x20,  0x21};
    uint16_t port = ports[(r >> 8) % ARRAY_LEN(ports)];
    unsigned size = 1u << (r >> 16 & 1);
    if (r & 1)
        return machine_port_read(pc->m, port, size);
    machine_port_write(pc->m, port, size, r >> 32);
    return 0;
}

static uint64_t pc_mmio(struct pc *pc, uint64_t r)
{
    static const gpa_t bases[] = {0xfee00000, 0xfec00000, PCI_WINDOW_START, PCI_WINDOW_START + 0x8000,
                                  0xfee00000};
    gpa_t gpa = bases[(r >> 8) % ARRAY_LEN(bases)] + (r >> 16 & (r >> 30 & 1 ? 0x7fff : 0x3f0));
    unsigned size = r >> 31 & 3 ? 4 : 1u << (r >> 33 & 3);
    if ((r >> 35 & 63) == 0)
        gpa = r;
    if (r & 1)
        return machine_mmio_read(pc->m, gpa, size);
    machine_mmio_write(pc->m, gpa, size, r >> 41 & 1 ? r >> 42 & 0xff : r >> 32);
    return 0;
}

static uint64_t pc_msr(struct pc *pc, uint64_t r)
{
    uint64_t value = 0;
    uint32_t index = r >> 8 & 3 ? 0x6e0 : 0x800 + (r >> 12 & 0xff);
    if (r & 1)
        machine_msr_read(pc->m, index, &value);
    else
        machine_msr_write(pc->m, index, machine_clock_ns(pc->m) + machine_tsc_offset(pc->m) + (r >> 40));
    if ((r >> 32 & 0xff) == 0)
        machine_set_tsc_offset(pc->m, r * r);
    return value;
}

static uint64_t pc_access(struct pc *pc, uint64_t r)
{
    uint64_t (*const kinds[])(struct pc *, uint64_t) = {pc_config, pc_port, pc_mmio, pc_mmio, pc_msr};
    uint64_t value = kinds[(r >> 1) % ARRAY_LEN(kinds)](pc, r >> 3 | (r & 1));
    if ((r >> 50 & 0xff) == 0)
        pc->vcpu.cr8 = r >> 58 & 0xf;
    if ((r >> 50 & 0xfff) == 1)
        pc->vcpu.apic_base ^= APIC_BASE_ENABLE;
    return value;
}

/* What a session does between two instructions. Work that queues itself again has to wait for the next time. */
static void pc_turn(struct pc *pc)
{
    machine_run_timers(pc->m);
    assert_true(machine_next_deadline_ns(pc->m) > machine_clock_ns(pc->m));
    machine_run_work(pc->m);
    for (unsigned i = 0; i < 300 && machine_interrupt_pending(pc->m); i++)
        machine_interrupt_acknowledge(pc->m);
}

static void random_accesses_to_a_pc_do_no_harm(void **state)
{
    (void)state;
    for (uint64_t round = 1; round <= 20; round++) {
        struct pc *pc = pc_create();
        uint64_t seed = round * 0x9e3779b97f4a7c15;
        for (unsigned i = 0; i < 50000; i++) {
            machine_set_clock_ns(pc->m, machine_clock_ns(pc->m) + random_step_ns(&seed));
            pc_access(pc, next_random(&seed));
            if (i % 16 == 0)
                pc_turn(pc);
        }
        pc_destroy(pc);
    }
}

static void no_programming_of_a_pc_floods_the_host_with_timers(void **state)
{
    uint64_t seed = 88172645463325252;
    (void)state;
    for (unsigned round = 0; round < 100; round++) {
        struct pc *pc = pc_create();
        for (unsigned i = 0; i < 1000; i++)
            pc_access(pc, next_random(&seed) & ~(uint64_t)1);
        uint64_t fired = 0, end = machine_clock_ns(pc->m) + SECOND_NS / 10;
        while (machine_next_deadline_ns(pc->m) <= end) {
            machine_set_clock_ns(pc->m, machine_next_deadline_ns(pc->m));
            machine_run_timers(pc->m);
            fired++;
        }
        assert_in_range(fired, 0, 11000);
        pc_destroy(pc);
    }
}

static void a_pc_is_deterministic(void **state)
{
    (void)state;
    struct pc *both[2] = {pc_create(), pc_create()};
    uint64_t seed = 0x123456789abcdef;
    for (unsigned i = 0; i < 100000; i++) {
        uint64_t r = next_random(&seed), step = random_step_ns(&seed), value[2];
        for (unsigned n = 0; n < 2; n++) {
            machine_set_clock_ns(both[n]->m, machine_clock_ns(both[n]->m) + step);
            value[n] = pc_access(both[n], r);
            if (i % 16 == 0)
                pc_turn(both[n]);
        }
        assert_int_equal(value[0], value[1]);
        assert_int_equal(machine_interrupt_priority(both[0]->m), machine_interrupt_priority(both[1]->m));
        assert_int_equal(machine_next_deadline_ns(both[0]->m), machine_next_deadline_ns(both[1]->m));
    }
    assert_memory_equal(both[0]->ram->host, both[1]->ram->host, PC_RAM_BYTES);
    pc_destroy(both[0]);
    pc_destroy(both[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_accesses_do_no_harm),
        cmocka_unit_test(no_programming_floods_the_host_with_timers),
        cmocka_unit_test(the_board_is_deterministic),
        cmocka_unit_test(random_accesses_to_a_pc_do_no_harm),
        cmocka_unit_test(no_programming_of_a_pc_floods_the_host_with_timers),
        cmocka_unit_test(a_pc_is_deterministic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
