/* The 8254: every mode by count and OUT, exact rates, late hosts. Times are in ticks of 1193182 Hz. */
#include "tests/devices/fixture.h"

#define PIT_HZ 1193182

enum { GATE_LOW = 0, GATE_HIGH = 1 };

static uint64_t ns_of_tick(uint64_t tick)
{
    return (tick * SECOND_NS + PIT_HZ - 1) / PIT_HZ;
}

static void to_tick(struct fixture *f, uint64_t tick)
{
    run_to_ns(f, ns_of_tick(tick));
}

static bool out2(struct fixture *f)
{
    return in8(f, 0x61) & 0x20;
}

/* Channel 2: control word for lo/hi access, then the count. */
static void program2(struct fixture *f, unsigned mode, unsigned count)
{
    out8(f, 0x43, 0xb0 | mode << 1);
    out8(f, 0x42, count & 0xff);
    out8(f, 0x42, count >> 8);
}

static void program0(struct fixture *f, unsigned mode, unsigned count)
{
    out8(f, 0x43, 0x30 | mode << 1);
    out8(f, 0x40, count & 0xff);
    out8(f, 0x40, count >> 8);
}

static unsigned count2(struct fixture *f)
{
    out8(f, 0x43, 0x80);
    unsigned low = in8(f, 0x42);
    return low | (unsigned)in8(f, 0x42) << 8;
}

static void gate2(struct fixture *f, unsigned level)
{
    out8(f, 0x61, level);
}

static void mode_0_counts_down_once(void **state)
{
    struct fixture *f = *state;
    gate2(f, GATE_HIGH);
    to_tick(f, 1000);
    program2(f, 0, 100);
    assert_false(out2(f));
    to_tick(f, 1001); /* loaded */
    assert_int_equal(count2(f), 100);
    to_tick(f, 1051);
    assert_int_equal(count2(f), 50);
    to_tick(f, 1100);
    assert_int_equal(count2(f), 1);
    assert_false(out2(f));
    to_tick(f, 1101);
    assert_int_equal(count2(f), 0);
    assert_true(out2(f));
    to_tick(f, 1102);
    assert_int_equal(count2(f), 0xffff);
    assert_true(out2(f));
    to_tick(f, 1001 + 65536 + 40);
    assert_int_equal(count2(f), 60);
    assert_true(out2(f));
}

static void mode_0_stops_at_the_first_byte_and_while_the_gate_is_low(void **state)
{
    struct fixture *f = *state;
    gate2(f, GATE_HIGH);
    to_tick(f, 10);
    program2(f, 0, 100);
    to_tick(f, 31);
    gate2(f, GATE_LOW);
    to_tick(f, 500);
    assert_int_equal(count2(f), 80);
    gate2(f, GATE_HIGH);
    to_tick(f, 579);
    assert_false(out2(f));
    to_tick(f, 580);
    assert_true(out2(f));
    out8(f, 0x42, 20); /* the low byte of a new count */
    assert_false(out2(f));
    to_tick(f, 2000);
    assert_false(out2(f));
    out8(f, 0x42, 0);
    to_tick(f, 2020);
    assert_false(out2(f));
    to_tick(f, 2021);
    assert_true(out2(f));
}

static void mode_1_is_a_retriggerable_one_shot(void **state)
{
    struct fixture *f = *state;
    program2(f, 1, 50);
    to_tick(f, 1000);
    assert_true(out2(f));
    gate2(f, GATE_HIGH);
    to_tick(f, 1001);
    assert_false(out2(f));
    gate2(f, GATE_LOW); /* the level does not matter */
    to_tick(f, 1031);
    assert_int_equal(count2(f), 20);
    gate2(f, GATE_HIGH); /* again */
    to_tick(f, 1081);
    assert_false(out2(f));
    to_tick(f, 1082);
    assert_true(out2(f));
    /* A count written now waits for the next trigger. */
    out8(f, 0x42, 10);
    out8(f, 0x42, 0);
    to_tick(f, 1200);
    assert_true(out2(f));
    gate2(f, GATE_LOW);
    gate2(f, GATE_HIGH);
    to_tick(f, 1210);
    assert_false(out2(f));
    to_tick(f, 1211);
    assert_true(out2(f));
    /* ... unless the trigger came just now, and has not yet loaded the counter. */
    gate2(f, GATE_LOW);
    to_tick(f, 1300);
    gate2(f, GATE_HIGH);
    out8(f, 0x42, 20);
    out8(f, 0x42, 0);
    to_tick(f, 1301);
    assert_int_equal(count2(f), 20);
    to_tick(f, 1321);
    assert_true(out2(f));
}

static void mode_2_is_low_for_one_tick_of_the_period(void **state)
{
    struct fixture *f = *state;
    gate2(f, GATE_HIGH);
    to_tick(f, 99);
    program2(f, 2, 10); /* periods begin at 100, 110, ... */
    for (uint64_t tick = 100; tick < 150; tick++) {
        to_tick(f, tick);
        assert_int_equal(count2(f), 10 - tick % 10);
        assert_int_equal(out2(f), tick % 10 != 9);
    }
    /* A new count waits for the end of the period. */
    to_tick(f, 153);
    out8(f, 0x42, 20);
    out8(f, 0x42, 0);
    to_tick(f, 155);
    assert_int_equal(count2(f), 5);
    to_tick(f, 160);
    assert_int_equal(count2(f), 20);
    /* The gate stops it, with OUT high, and starts a period when it rises. */
    to_tick(f, 179);
    assert_false(out2(f));
    gate2(f, GATE_LOW);
    assert_true(out2(f));
    to_tick(f, 300);
    assert_true(out2(f));
    gate2(f, GATE_HIGH);
    to_tick(f, 301);
    assert_int_equal(count2(f), 20);
    to_tick(f, 320);
    assert_false(out2(f));
}

static void mode_3_is_a_square_wave(void **state)
{
    struct fixture *f = *state;
    gate2(f, GATE_HIGH);
    to_tick(f, 99);
    program2(f, 3, 10);
    for (uint64_t tick = 100; tick < 140; tick++) {
        to_tick(f, tick);
        assert_int_equal(out2(f), tick % 10 < 5);
        assert_int_equal(count2(f), 10 - 2 * (tick % 5));
    }
    /* A new count is taken at the end of the half: the high one ends at 145. Odd: high 4 ticks, low 3. */
    to_tick(f, 142);
    out8(f, 0x42, 7);
    out8(f, 0x42, 0);
    static const unsigned counts[] = {6, 4, 2, 6, 4, 2, 0, 6, 4, 2};
    static const bool outs[] = {false, false, false, true, true, true, true, false, false, false};
    to_tick(f, 144);
    assert_true(out2(f));
    for (unsigned i = 0; i < 10; i++) {
        to_tick(f, 145 + i);
        assert_int_equal(out2(f), outs[i]);
        assert_int_equal(count2(f), counts[i]);
    }
}

static void mode_4_strobes_once(void **state)
{
    struct fixture *f = *state;
    gate2(f, GATE_HIGH);
    to_tick(f, 100);
    program2(f, 4, 30);
    to_tick(f, 130);
    assert_true(out2(f));
    to_tick(f, 131);
    assert_false(out2(f));
    assert_int_equal(count2(f), 0);
    to_tick(f, 132);
    assert_true(out2(f));
    assert_int_equal(count2(f), 0xffff);
    /* The gate holds it. */
    program2(f, 4, 30);
    to_tick(f, 143);
    gate2(f, GATE_LOW);
    to_tick(f, 243);
    assert_int_equal(count2(f), 20);
    gate2(f, GATE_HIGH);
    to_tick(f, 263);
    assert_false(out2(f));
    to_tick(f, 264);
    assert_true(out2(f));
}

static void mode_5_strobes_when_triggered(void **state)
{
    struct fixture *f = *state;
    program2(f, 5, 30);
    to_tick(f, 500);
    assert_true(out2(f));
    gate2(f, GATE_HIGH);
    to_tick(f, 520);
    gate2(f, GATE_LOW);
    gate2(f, GATE_HIGH);
    to_tick(f, 550);
    assert_true(out2(f));
    to_tick(f, 551);
    assert_false(out2(f));
    to_tick(f, 552);
    assert_true(out2(f));
}

static void bcd_counts_in_decimal(void **state)
{
    struct fixture *f = *state;
    gate2(f, GATE_HIGH);
    to_tick(f, 10);
    out8(f, 0x43, 0xb1);
    out8(f, 0x42, 0x34);
    out8(f, 0x42, 0x12); /* 1234 */
    to_tick(f, 11 + 35);
    assert_int_equal(count2(f), 0x1199);
    to_tick(f, 11 + 1235);
    assert_int_equal(count2(f), 0x9999);
    out8(f, 0x42, 0);
    out8(f, 0x42, 0); /* 10000 */
    to_tick(f, 1247);
    assert_int_equal(count2(f), 0);
    to_tick(f, 1247 + 1);
    assert_int_equal(count2(f), 0x9999);
    to_tick(f, 1247 + 9999);
    assert_false(out2(f));
    to_tick(f, 1247 + 10000);
    assert_true(out2(f));
}

static void one_byte_access(void **state)
{
    struct fixture *f = *state;
    gate2(f, GATE_HIGH);
    to_tick(f, 10);
    out8(f, 0x43, 0x90); /* low byte only, mode 0 */
    out8(f, 0x42, 200);
    to_tick(f, 11);
    assert_int_equal(in8(f, 0x42), 200);
    assert_int_equal(in8(f, 0x42), 200);
    to_tick(f, 16);
    out8(f, 0x43, 0x80);
    to_tick(f, 17);
    assert_int_equal(in8(f, 0x42), 195);
    assert_int_equal(in8(f, 0x42), 194);
    out8(f, 0x43, 0xa0); /* high byte only: 0x200 from tick 18 on */
    out8(f, 0x42, 2);
    to_tick(f, 18);
    assert_int_equal(in8(f, 0x42), 2);
    to_tick(f, 18 + 0x100);
    assert_int_equal(in8(f, 0x42), 1);
    to_tick(f, 18 + 0x101);
    assert_int_equal(in8(f, 0x42), 0);
}

static void a_latched_count_waits_to_be_read(void **state)
{
    struct fixture *f = *state;
    gate2(f, GATE_HIGH);
    to_tick(f, 9);
    program2(f, 2, 0x8000);
    to_tick(f, 10 + 0x123);
    out8(f, 0x43, 0x80);
    to_tick(f, 10 + 0x1000);
    out8(f, 0x43, 0x80);                  /* not latched again before it was read */
    assert_int_equal(in8(f, 0x42), 0xdd); /* 0x8000 - 0x123 = 0x7edd */
    to_tick(f, 10 + 0x2000);
    assert_int_equal(in8(f, 0x42), 0x7e);
    assert_int_equal(in8(f, 0x42), 0x00); /* live: 0x6000 */
    assert_int_equal(in8(f, 0x42), 0x60);
}

/* Low byte, then high byte. */
static unsigned in16_twice(struct fixture *f, uint16_t port)
{
    unsigned low = (unsigned)in8(f, port);
    return low | (unsigned)in8(f, port) << 8;
}

static void read_back_latches_status_and_count(void **state)
{
    struct fixture *f = *state;
    gate2(f, GATE_HIGH);
    to_tick(f, 10);
    out8(f, 0x43, 0xb0);
    out8(f, 0x43, 0xe8);                  /* status of channel 2 */
    assert_int_equal(in8(f, 0x42), 0x70); /* OUT low, null count, lo/hi, mode 0 */
    out8(f, 0x42, 100);
    out8(f, 0x42, 0);
    to_tick(f, 21);
    out8(f, 0x43, 0xc8); /* status and count */
    to_tick(f, 200);
    assert_int_equal(in8(f, 0x42), 0x30);
    assert_int_equal(in8(f, 0x42), 90);
    assert_int_equal(in8(f, 0x42), 0);
    out8(f, 0x43, 0xe8);
    assert_int_equal(in8(f, 0x42), 0xb0); /* OUT is high now */
    /* Count and status of channel 0 in one command, others untouched. */
    program0(f, 2, 1000);
    to_tick(f, 201 + 300);
    out8(f, 0x43, 0xc2);
    assert_int_equal(in8(f, 0x40), 0xb4);
    assert_int_equal(in16_twice(f, 0x40), 700);
    out8(f, 0x43, 0xfe); /* neither, for all */
    program2(f, 3, 5000);
    to_tick(f, 601);
    out8(f, 0x43, 0xdc); /* count of channels 2 and 1 */
    assert_int_equal(in16_twice(f, 0x42), 5000 - 2 * 99);
}

static void reading_the_control_port_gives_nothing(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(in8(f, 0x43), 0xff);
}

static void refresh_bit_toggles(void **state)
{
    struct fixture *f = *state;
    unsigned toggles = 0, last = in8(f, 0x61) & 0x10;
    for (uint64_t tick = 1; tick <= 18000; tick++) {
        to_tick(f, tick);
        unsigned now = in8(f, 0x61) & 0x10;
        toggles += now != last;
        last = now;
    }
    assert_int_equal(toggles, 1000);
    out8(f, 0x61, 0xff);
    assert_int_equal(in8(f, 0x61) & 0xcf, 0x0f);
}

/* Runs to time_ns, acknowledging every IRQ 0. */
static uint64_t count_irq0(struct fixture *f, uint64_t time_ns, uint64_t *last_ns)
{
    uint64_t count = 0;
    for (;;) {
        uint64_t next = machine_next_deadline_ns(f->m);
        bool last = next > time_ns;
        machine_set_clock_ns(f->m, last ? time_ns : next);
        machine_run_timers(f->m);
        for (int vector; (vector = take_interrupt(f)) >= 0; count++) {
            assert_int_equal(vector, 0x20);
            out8(f, 0x20, 0x20);
            *last_ns = machine_clock_ns(f->m);
        }
        if (last)
            return count;
    }
}

static void sixty_seconds_have_exactly_as_many_interrupts_as_on_hardware(void **state)
{
    struct fixture *f = *state;
    uint64_t last_ns = 0;
    /* 60 s are 71590920 ticks; the first period begins at tick 1. */
    pic_program(f, 0xfe, 0xff, 0x01);
    program0(f, 2, 1193);
    assert_int_equal(count_irq0(f, 60 * SECOND_NS, &last_ns), (71590920 - 1) / 1193);
    assert_int_equal(last_ns, ns_of_tick(1 + 60009ull * 1193));

    uint64_t start = 71590920 + 1;
    program0(f, 3, 0);
    assert_int_equal(count_irq0(f, 120 * SECOND_NS, &last_ns), (71590920 - 1) / 65536);
    assert_int_equal(last_ns, ns_of_tick(start + 1092ull * 65536));
}

static void firmware_tick_runs_from_the_start(void **state)
{
    struct fixture *f = *state;
    uint64_t last_ns = 0;
    pic_program(f, 0xfe, 0xff, 0x01);
    assert_int_equal(count_irq0(f, 10 * SECOND_NS, &last_ns), 182);
}

static void a_late_host_delivers_one_interrupt_and_keeps_the_grid(void **state)
{
    struct fixture *f = *state;
    pic_program(f, 0xfe, 0xff, 0x01);
    program0(f, 2, 1000);
    for (uint64_t late = 2; late < 50; late += 7) {
        /* In the middle of a period, after `late` of them went by. */
        uint64_t tick = (machine_clock_ns(f->m) * PIT_HZ / SECOND_NS / 1000 + late) * 1000 + 501;
        machine_set_clock_ns(f->m, ns_of_tick(tick));
        machine_run_timers(f->m);
        assert_int_equal(take_interrupt(f), 0x20);
        out8(f, 0x20, 0x20);
        assert_int_equal(take_interrupt(f), -1);
        assert_int_equal(machine_next_deadline_ns(f->m), ns_of_tick(tick + 500));
    }
}

/*
 * The request may wait for the guest longer than the high half of mode 3 lasts, but is one however long it
 * waits.
 */
static void an_unhandled_interrupt_is_held_and_not_counted(void **state)
{
    struct fixture *f = *state;
    pic_program(f, 0xfe, 0xff, 0x01);
    program0(f, 3, 1000);
    to_tick(f, 1 + 1000 + 900);
    assert_true(machine_interrupt_pending(f->m));
    to_tick(f, 1 + 10 * 1000 + 900);
    assert_int_equal(take_interrupt(f), 0x20);
    out8(f, 0x20, 0x20);
    assert_int_equal(take_interrupt(f), -1);
    to_tick(f, 1 + 11 * 1000);
    assert_int_equal(take_interrupt(f), 0x20);
}

static void one_shot_modes_interrupt_once(void **state)
{
    struct fixture *f = *state;
    uint64_t last_ns = 0;
    pic_program(f, 0xfe, 0xff, 0x01);
    program0(f, 0, 5000);
    assert_int_equal(count_irq0(f, SECOND_NS, &last_ns), 1);
    assert_int_equal(last_ns, ns_of_tick(5001));
    assert_int_equal(machine_next_deadline_ns(f->m), UINT64_MAX);
    out8(f, 0x40, 100); /* a new count starts it again */
    out8(f, 0x40, 0);
    assert_int_equal(count_irq0(f, 2 * SECOND_NS, &last_ns), 1);
    assert_int_equal(last_ns, ns_of_tick(PIT_HZ + 1 + 100));

    /* Mode 4: OUT is high at once, which is an edge after mode 0's low, then strobes. */
    out8(f, 0x43, 0x30);
    program0(f, 4, 777);
    assert_int_equal(take_interrupt(f), 0x20);
    out8(f, 0x20, 0x20);
    assert_int_equal(count_irq0(f, 3 * SECOND_NS, &last_ns), 1);
    assert_int_equal(last_ns, ns_of_tick(2 * PIT_HZ + 1 + 777 + 1));
}

static void channel_0_without_a_trigger_or_a_count_is_silent(void **state)
{
    struct fixture *f = *state;
    uint64_t last_ns = 0;
    pic_program(f, 0xfe, 0xff, 0x01);
    program0(f, 1, 100);
    assert_int_equal(count_irq0(f, SECOND_NS, &last_ns), 0);
    out8(f, 0x43, 0x34);
    out8(f, 0x40, 10); /* only half of the count */
    assert_int_equal(count_irq0(f, 2 * SECOND_NS, &last_ns), 0);
    program0(f, 2, 1); /* not a legal count */
    assert_int_equal(count_irq0(f, 3 * SECOND_NS, &last_ns), 0);
}

/* 596 kHz of interrupts asked for: the host is woken at most every 20 us. */
static void a_tiny_count_does_not_flood_the_host(void **state)
{
    struct fixture *f = *state;
    uint64_t last_ns = 0;
    pic_program(f, 0xfe, 0xff, 0x01);
    program0(f, 2, 2);
    uint64_t count = count_irq0(f, SECOND_NS / 100, &last_ns);
    assert_in_range(count, 400, 510);
}

static void a_new_rate_keeps_to_the_period_it_interrupts(void **state)
{
    struct fixture *f = *state;
    uint64_t last_ns = 0;
    pic_program(f, 0xfe, 0xff, 0x01);
    program0(f, 2, 10000); /* from tick 1 */
    to_tick(f, 4000);
    out8(f, 0x40, 100 & 0xff);
    out8(f, 0x40, 0);
    assert_int_equal(count_irq0(f, ns_of_tick(10000), &last_ns), 0);
    assert_int_equal(count_irq0(f, ns_of_tick(10001), &last_ns), 1);
    assert_int_equal(count_irq0(f, ns_of_tick(10001 + 1000), &last_ns), 10);
}

static void speaker_channel_measures_as_kernels_calibrate_with_it(void **state)
{
    struct fixture *f = *state;
    out8(f, 0x61, (in8(f, 0x61) & ~0x02u) | 0x01);
    program2(f, 0, PIT_HZ / 100);
    uint64_t start = machine_clock_ns(f->m);
    while (!out2(f))
        run_for_ns(f, 1000);
    assert_in_range(machine_clock_ns(f->m) - start, 9998000, 10003000);
}

#define PIT_TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        PIT_TEST(mode_0_counts_down_once),
        PIT_TEST(mode_0_stops_at_the_first_byte_and_while_the_gate_is_low),
        PIT_TEST(mode_1_is_a_retriggerable_one_shot),
        PIT_TEST(mode_2_is_low_for_one_tick_of_the_period),
        PIT_TEST(mode_3_is_a_square_wave),
        PIT_TEST(mode_4_strobes_once),
        PIT_TEST(mode_5_strobes_when_triggered),
        PIT_TEST(bcd_counts_in_decimal),
        PIT_TEST(one_byte_access),
        PIT_TEST(a_latched_count_waits_to_be_read),
        PIT_TEST(read_back_latches_status_and_count),
        PIT_TEST(reading_the_control_port_gives_nothing),
        PIT_TEST(refresh_bit_toggles),
        PIT_TEST(sixty_seconds_have_exactly_as_many_interrupts_as_on_hardware),
        PIT_TEST(firmware_tick_runs_from_the_start),
        PIT_TEST(a_late_host_delivers_one_interrupt_and_keeps_the_grid),
        PIT_TEST(an_unhandled_interrupt_is_held_and_not_counted),
        PIT_TEST(one_shot_modes_interrupt_once),
        PIT_TEST(channel_0_without_a_trigger_or_a_count_is_silent),
        PIT_TEST(a_tiny_count_does_not_flood_the_host),
        PIT_TEST(a_new_rate_keeps_to_the_period_it_interrupts),
        PIT_TEST(speaker_channel_measures_as_kernels_calibrate_with_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
