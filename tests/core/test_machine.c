/* The machine: dispatch of ports and MMIO, clock and timers, lines, end, input, ownership. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "core/machine.h"

/* A device that remembers its last accesses and reads as its own offsets. */
struct probe {
    unsigned reads, writes;
    uint64_t offset[8];
    unsigned size[8];
    uint64_t value[8];
};

static uint64_t probe_read(void *device, uint64_t offset, unsigned size)
{
    struct probe *p = device;
    p->offset[p->reads % 8] = offset;
    p->size[p->reads++ % 8] = size;
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= (0x10 + offset + i) << (8 * i);
    return size < 8 ? value | (uint64_t)0xaa << 56 : value; /* rubbish above size is not to be seen */
}

static void probe_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct probe *p = device;
    p->offset[p->writes % 8] = offset;
    p->size[p->writes % 8] = size;
    p->value[p->writes++ % 8] = value;
}

static struct io_range range_of(struct probe *p, uint64_t start, uint64_t length, unsigned max_access_bytes)
{
    return (struct io_range){.start = start,
                             .length = length,
                             .read = probe_read,
                             .write = probe_write,
                             .device = p,
                             .name = "probe",
                             .max_access_bytes = max_access_bytes};
}

static void add_ports(struct machine *m, struct probe *p, uint64_t start, uint64_t length,
                      unsigned max_access_bytes)
{
    struct io_range range = range_of(p, start, length, max_access_bytes);
    struct error err;
    assert_int_equal(machine_add_ports(m, &range, &err), 0);
}

static int setup(void **state)
{
    struct machine *m;
    struct error err;
    if (machine_create(&m, NULL, NULL, &err))
        return -1;
    *state = m;
    return 0;
}

static int teardown(void **state)
{
    machine_destroy(*state);
    return 0;
}

static void accesses_reach_the_range_that_covers_them(void **state)
{
    struct machine *m = *state;
    struct probe p[40] = {0};
    /* Added in an order that is not theirs, with holes of four ports between them. */
    for (unsigned i = 0; i < 40; i++) {
        unsigned n = i * 7 % 40;
        add_ports(m, &p[n], 0x100 + n * 8, 4, 0);
    }
    for (unsigned n = 0; n < 40; n++) {
        uint16_t base = (uint16_t)(0x100 + n * 8);
        assert_int_equal(machine_port_read(m, base, 4), 0x13121110);
        assert_int_equal(machine_port_read(m, (uint16_t)(base + 3), 1), 0x13);
        assert_int_equal(machine_port_read(m, (uint16_t)(base + 4), 4), 0xffffffff);
        machine_port_write(m, (uint16_t)(base + 2), 2, 0x12345678);
        assert_int_equal(p[n].reads, 2);
        assert_int_equal(p[n].writes, 1);
        assert_int_equal(p[n].offset[0], 2);
        assert_int_equal(p[n].size[0], 2);
        assert_int_equal(p[n].value[0], 0x5678);
    }
}

static void accesses_that_cross_ranges_are_split_into_bytes(void **state)
{
    struct machine *m = *state;
    struct probe a = {0}, b = {0};
    const struct unclaimed *list;
    add_ports(m, &a, 0x200, 2, 0);
    add_ports(m, &b, 0x202, 1, 0);
    assert_int_equal(machine_port_read(m, 0x201, 4), 0xffff1011);
    assert_int_equal(a.reads, 1);
    assert_int_equal(b.reads, 1);
    assert_int_equal(machine_unclaimed_ports(m, &list), 2);
    assert_int_equal(list[0].address, 0x203);
    assert_int_equal(list[1].address, 0x204);
    machine_port_write(m, 0x1ff, 4, 0x44332211);
    assert_int_equal(a.writes, 2);
    assert_int_equal(a.value[0], 0x22);
    assert_int_equal(a.value[1], 0x33);
    assert_int_equal(b.value[0], 0x44);
    assert_int_equal(machine_unclaimed_ports(m, &list), 3);
    assert_int_equal(list[2].address, 0x1ff);
    assert_int_equal(list[2].writes, 1);
}

static void wide_accesses_to_narrow_devices_are_split(void **state)
{
    struct machine *m = *state;
    struct probe byte = {0}, word = {0};
    add_ports(m, &byte, 0x300, 8, 1);
    add_ports(m, &word, 0x310, 8, 2);
    assert_int_equal(machine_port_read(m, 0x302, 4), 0x15141312);
    assert_int_equal(byte.reads, 4);
    assert_int_equal(byte.size[3], 1);
    assert_int_equal(byte.offset[3], 5);
    machine_port_write(m, 0x311, 4, 0x44332211);
    assert_int_equal(word.writes, 2);
    assert_int_equal(word.value[0], 0x2211);
    assert_int_equal(word.value[1], 0x4433);
    assert_int_equal(word.offset[1], 3);
    /* A byte device at the edge of its range: the claimed bytes only. */
    machine_port_write(m, 0x307, 2, 0xbbaa);
    assert_int_equal(byte.writes, 1);
    assert_int_equal(byte.value[0], 0xaa);
}

static void the_ends_of_the_spaces_are_no_trap(void **state)
{
    struct machine *m = *state;
    struct probe p = {0};
    struct error err;
    const struct unclaimed *list;
    add_ports(m, &p, 0xfffe, 2, 0);
    assert_int_equal(machine_port_read(m, 0xfffe, 2), 0x1110);
    assert_int_equal(machine_port_read(m, 0xffff, 1), 0x11);
    assert_int_equal(machine_port_read(m, 0xffff, 4), 0xffffffff);
    assert_int_equal(machine_unclaimed_ports(m, &list), 1);
    struct io_range last = range_of(&p, UINT64_MAX - 7, 8, 0);
    assert_int_equal(machine_add_mmio(m, &last, &err), 0);
    assert_int_equal(machine_mmio_read(m, UINT64_MAX - 7, 8), 0x1716151413121110);
    assert_int_equal(machine_mmio_read(m, UINT64_MAX, 1), 0x17);
    assert_int_equal(machine_mmio_read(m, UINT64_MAX, 8), UINT64_MAX);
    machine_mmio_write(m, UINT64_MAX - 3, 8, 0);
    assert_int_equal(p.writes, 0);
    assert_int_equal(machine_unclaimed_mmio(m, &list), 1);
    assert_int_equal(list[0].address, UINT64_MAX & ~PAGE_MASK);
    assert_int_equal(list[0].reads, 1);
    assert_int_equal(list[0].writes, 1);
}

static void overlapping_and_impossible_ranges_are_refused(void **state)
{
    static const struct {
        uint64_t start, length;
        int result;
    } cases[] = {
        {0x400, 8, -EEXIST},
        {0x3f9, 8, -EEXIST},
        {0x407, 1, -EEXIST},
        {0x3ff, 10, -EEXIST},
        {0x404, 1, -EEXIST},
        {0x3f8, 8, 0},
        {0x408, 8, 0},
        {0x500, 0, -EINVAL},
        {0x10000, 1, -EINVAL},
        {0xfff0, 0x11, -EINVAL},
        {0xfff0, 0x10, 0},
        {0, 0x10001, -EINVAL},
        {1, UINT64_MAX, -EINVAL},
        {UINT64_MAX, 1, -EINVAL},
        {0, 0x10000, -EEXIST},
    };
    struct machine *m = *state;
    struct probe p = {0};
    add_ports(m, &p, 0x400, 8, 0);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct io_range range = range_of(&p, cases[i].start, cases[i].length, 0);
        struct error err = {0};
        range.name = "intruder";
        assert_int_equal(machine_add_ports(m, &range, &err), cases[i].result);
        if (cases[i].result)
            assert_non_null(strstr(err.message, "intruder"));
        if (cases[i].result == -EEXIST && cases[i].start == 0x404)
            assert_non_null(strstr(err.message, "probe"));
    }
}

static void ranges_without_functions_read_ones_and_drop_writes(void **state)
{
    struct machine *m = *state;
    const struct unclaimed *list;
    struct error err;
    struct io_range silent = {.start = 0x80, .length = 1, .name = "silent"};
    assert_int_equal(machine_add_ports(m, &silent, &err), 0);
    assert_int_equal(machine_port_read(m, 0x80, 1), 0xff);
    machine_port_write(m, 0x80, 1, 1);
    assert_int_equal(machine_unclaimed_ports(m, &list), 0);
}

static void unclaimed_accesses_are_counted_in_a_bounded_list(void **state)
{
    struct machine *m = *state;
    const struct unclaimed *list;
    for (unsigned round = 0; round < 2; round++)
        for (unsigned port = 0; port < 1000; port++) {
            assert_int_equal(machine_port_read(m, (uint16_t)port, 2), 0xffff);
            machine_port_write(m, (uint16_t)port, 1, 0);
        }
    assert_int_equal(machine_unclaimed_ports(m, &list), MACHINE_UNCLAIMED_MAX);
    for (unsigned i = 0; i < MACHINE_UNCLAIMED_MAX - 1; i++) {
        assert_int_equal(list[i].address, i);
        assert_int_equal(list[i].reads, 2);
        assert_int_equal(list[i].writes, 2);
    }
    assert_int_equal(list[MACHINE_UNCLAIMED_MAX - 1].reads, 2 * (1000 - (MACHINE_UNCLAIMED_MAX - 1)));
    /* MMIO by frame */
    machine_mmio_read(m, 0xfee00020, 4);
    machine_mmio_read(m, 0xfee00fff, 1);
    machine_mmio_write(m, 0xfee01000, 8, 0);
    assert_int_equal(machine_unclaimed_mmio(m, &list), 2);
    assert_int_equal(list[0].address, 0xfee00000);
    assert_int_equal(list[0].reads, 2);
    assert_int_equal(list[1].address, 0xfee01000);
    assert_int_equal(list[1].writes, 1);
}

static void the_clock_never_goes_backwards(void **state)
{
    struct machine *m = *state;
    machine_set_clock_ns(m, 100);
    machine_set_clock_ns(m, 99);
    assert_int_equal(machine_clock_ns(m), 100);
    machine_set_clock_ns(m, UINT64_MAX);
    assert_int_equal(machine_clock_ns(m), (uint64_t)1 << 62);
}

struct ticker {
    struct machine *m;
    struct machine_timer timer;
    struct ticker *other;
    unsigned id, fired;
    uint64_t period_ns, now_ns;
    unsigned *order, *order_count;
};

static void tick(void *device, uint64_t now_ns)
{
    struct ticker *t = device;
    t->fired++;
    t->now_ns = now_ns;
    if (t->order && *t->order_count < 16)
        t->order[(*t->order_count)++] = t->id;
    if (t->period_ns)
        machine_timer_arm(t->m, &t->timer, t->timer.deadline_ns + t->period_ns);
    if (t->other)
        machine_timer_disarm(t->m, &t->other->timer);
}

static void timers_fire_in_order_of_their_deadlines(void **state)
{
    struct machine *m = *state;
    static const uint64_t deadlines[5] = {50, 10, 30, 10, 1000};
    unsigned order[16], count = 0;
    struct ticker t[5] = {0};
    assert_int_equal(machine_next_deadline_ns(m), UINT64_MAX);
    for (unsigned i = 0; i < 5; i++) {
        t[i] = (struct ticker){.m = m, .id = i, .order = order, .order_count = &count};
        machine_timer_init(&t[i].timer, tick, &t[i]);
        machine_timer_arm(m, &t[i].timer, 7);
        machine_timer_arm(m, &t[i].timer, deadlines[i]); /* again: only the last one counts */
    }
    assert_int_equal(machine_next_deadline_ns(m), 10);
    machine_set_clock_ns(m, 9);
    machine_run_timers(m);
    assert_int_equal(count, 0);
    machine_set_clock_ns(m, 60);
    machine_run_timers(m);
    static const unsigned expected[] = {1, 3, 2, 0};
    assert_int_equal(count, 4);
    assert_memory_equal(order, expected, sizeof(expected));
    assert_int_equal(t[1].now_ns, 60);
    assert_int_equal(machine_next_deadline_ns(m), 1000);
    assert_true(t[4].timer.armed);
    assert_false(t[0].timer.armed);
    machine_timer_disarm(m, &t[4].timer);
    machine_timer_disarm(m, &t[4].timer);
    assert_int_equal(machine_next_deadline_ns(m), UINT64_MAX);
}

static void a_fired_timer_may_disarm_another(void **state)
{
    struct machine *m = *state;
    struct ticker a = {.m = m}, b = {.m = m};
    a.other = &b;
    machine_timer_init(&a.timer, tick, &a);
    machine_timer_init(&b.timer, tick, &b);
    machine_timer_arm(m, &a.timer, 10);
    machine_timer_arm(m, &b.timer, 20);
    machine_set_clock_ns(m, 100);
    machine_run_timers(m);
    assert_int_equal(a.fired, 1);
    assert_int_equal(b.fired, 0);
}

static void a_timer_that_stays_behind_the_clock_does_not_spin(void **state)
{
    struct machine *m = *state;
    struct ticker t = {.m = m, .period_ns = 1};
    machine_timer_init(&t.timer, tick, &t);
    machine_timer_arm(m, &t.timer, 10);
    machine_set_clock_ns(m, 1000000000);
    machine_run_timers(m);
    assert_int_equal(t.fired, 1);
    assert_true(machine_next_deadline_ns(m) > machine_clock_ns(m));
}

static void without_a_controller_lines_go_nowhere(void **state)
{
    struct machine *m = *state;
    machine_set_irq(m, 3, true);
    assert_false(machine_interrupt_pending(m));
    assert_int_equal(machine_interrupt_acknowledge(m), 0xff);
}

static void the_first_end_stays(void **state)
{
    struct machine *m = *state;
    uint32_t status = 9;
    assert_int_equal(machine_end(m, &status), MACHINE_END_NONE);
    machine_request_end(m, MACHINE_END_DEBUG_EXIT, 42);
    machine_request_end(m, MACHINE_END_RESET, 7);
    assert_int_equal(machine_end(m, &status), MACHINE_END_DEBUG_EXIT);
    assert_int_equal(status, 42);
}

static size_t take_two(void *device, const uint8_t *data, size_t length)
{
    memcpy(device, data, length < 2 ? length : 2);
    return length < 2 ? length : 2;
}

static void input_goes_to_the_device_that_takes_it(void **state)
{
    struct machine *m = *state;
    char taken[3] = "";
    assert_int_equal(machine_input(m, (const uint8_t *)"abc", 3), 0);
    machine_set_input(m, take_two, taken);
    assert_int_equal(machine_input(m, (const uint8_t *)"abc", 3), 2);
    assert_string_equal(taken, "ab");
}

static void input_goes_to_the_console_that_was_selected(void **state)
{
    struct machine *m = *state;
    char serial[3] = "", virtio[3] = "";
    machine_set_input(m, take_two, serial);
    machine_select_input(m, CONSOLE_VIRTIO);
    assert_int_equal(machine_input(m, (const uint8_t *)"abc", 3), 0);
    machine_set_console_input(m, CONSOLE_VIRTIO, take_two, virtio);
    assert_int_equal(machine_input(m, (const uint8_t *)"abc", 3), 2);
    assert_string_equal(serial, "");
    assert_string_equal(virtio, "ab");
}

static void note_size(void *device, unsigned columns, unsigned rows)
{
    *(unsigned *)device = columns * 1000 + rows;
}

static void the_terminals_size_reaches_the_device_that_asks_for_it(void **state)
{
    struct machine *m = *state;
    unsigned size = 0;
    machine_resize(m, 80, 25);
    machine_set_resize(m, note_size, &size);
    machine_resize(m, 132, 43);
    assert_int_equal(size, 132043);
}

static void without_a_host_random_numbers_are_the_systems(void **state)
{
    struct machine *m = *state;
    uint8_t bytes[1000] = {0}, zeros[64] = {0};
    machine_mark(m, "nobody %s", "listens");
    machine_entropy(m, bytes, sizeof(bytes) - 1);
    for (size_t i = 0; i + sizeof(zeros) < sizeof(bytes); i += sizeof(zeros))
        assert_memory_not_equal(bytes + i, zeros, sizeof(zeros));
    assert_int_equal(bytes[sizeof(bytes) - 1], 0);
}

static void take_mark(void *context, const char *text)
{
    strcpy(context, text);
}

static void count_up(void *context, void *out, size_t length)
{
    (void)context;
    for (size_t i = 0; i < length; i++)
        ((uint8_t *)out)[i] = (uint8_t)(i + 1);
}

static void marks_and_random_numbers_are_the_hosts_where_it_has_them(void **state)
{
    struct machine *m;
    struct error err;
    char mark[512], longer[1000];
    uint8_t bytes[3];
    (void)state;
    struct machine_host host = {.mark = take_mark, .entropy = count_up, .context = mark};
    assert_int_equal(machine_create(&m, NULL, &host, &err), 0);
    machine_mark(m, "descriptor %u", 7u);
    assert_string_equal(mark, "descriptor 7");
    memset(longer, 'x', sizeof(longer));
    longer[sizeof(longer) - 1] = 0;
    machine_mark(m, "%s", longer);
    assert_int_equal(strlen(mark), 511);
    machine_entropy(m, bytes, 3);
    assert_memory_equal(bytes, "\1\2\3", 3);
    machine_destroy(m);
}

static void note_destroyed(void *device)
{
    char **log = device;
    **log = 'a';
    (*log)++;
}

static void note_destroyed_b(void *device)
{
    char **log = device;
    **log = 'b';
    (*log)++;
}

static void devices_are_destroyed_last_one_first(void **state)
{
    struct machine *m;
    struct error err;
    char log[64] = "", *end = log;
    (void)state;
    assert_int_equal(machine_create(&m, NULL, NULL, &err), 0);
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(machine_on_destroy(m, i < 10 ? note_destroyed : note_destroyed_b, &end, &err), 0);
    machine_destroy(m);
    machine_destroy(NULL);
    assert_string_equal(log, "bbbbbbbbbbaaaaaaaaaa");
}

#define MACHINE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        MACHINE_TEST(accesses_reach_the_range_that_covers_them),
        MACHINE_TEST(accesses_that_cross_ranges_are_split_into_bytes),
        MACHINE_TEST(wide_accesses_to_narrow_devices_are_split),
        MACHINE_TEST(the_ends_of_the_spaces_are_no_trap),
        MACHINE_TEST(overlapping_and_impossible_ranges_are_refused),
        MACHINE_TEST(ranges_without_functions_read_ones_and_drop_writes),
        MACHINE_TEST(unclaimed_accesses_are_counted_in_a_bounded_list),
        MACHINE_TEST(the_clock_never_goes_backwards),
        MACHINE_TEST(timers_fire_in_order_of_their_deadlines),
        MACHINE_TEST(a_fired_timer_may_disarm_another),
        MACHINE_TEST(a_timer_that_stays_behind_the_clock_does_not_spin),
        MACHINE_TEST(without_a_controller_lines_go_nowhere),
        MACHINE_TEST(the_first_end_stays),
        MACHINE_TEST(input_goes_to_the_device_that_takes_it),
        MACHINE_TEST(input_goes_to_the_console_that_was_selected),
        MACHINE_TEST(the_terminals_size_reaches_the_device_that_asks_for_it),
        MACHINE_TEST(without_a_host_random_numbers_are_the_systems),
        cmocka_unit_test(marks_and_random_numbers_are_the_hosts_where_it_has_them),
        cmocka_unit_test(devices_are_destroyed_last_one_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
