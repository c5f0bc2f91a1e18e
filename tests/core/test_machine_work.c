/* Deferred work of devices, and direct memory access. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "core/machine.h"

struct log {
    struct machine *m;
    struct machine_work a, b;
    char order[16];
    gpa_t written_at;
    size_t written;
};

static void note(struct log *log, const char *what)
{
    strncat(log->order, what, sizeof(log->order) - strlen(log->order) - 1);
}

static void run_a(void *device)
{
    struct log *log = device;
    note(log, "a");
    machine_queue_work(log->m, &log->a);
}

static void run_b(void *device)
{
    note(device, "b");
}

static void take_write(void *context, gpa_t gpa, const void *data, size_t length)
{
    struct log *log = context;
    assert_memory_equal(data, "data", 4);
    log->written_at = gpa;
    log->written += length;
}

static void test_work_runs_in_order_once(void **state)
{
    (void)state;
    struct log log = {0};
    struct error err;
    assert_int_equal(machine_create(&log.m, NULL, NULL, &err), 0);
    machine_work_init(&log.a, run_a, &log);
    machine_work_init(&log.b, run_b, &log);
    assert_false(machine_work_waits(log.m));
    machine_run_work(log.m);
    machine_queue_work(log.m, &log.b);
    machine_queue_work(log.m, &log.a);
    machine_queue_work(log.m, &log.b);
    assert_true(machine_work_waits(log.m));
    machine_run_work(log.m);
    assert_string_equal(log.order, "ba");
    assert_true(machine_work_waits(log.m)); /* a has queued itself again: for the next time */
    machine_run_work(log.m);
    assert_string_equal(log.order, "baa");
    machine_destroy(log.m);
}

static void test_dma_goes_through_the_recorder(void **state)
{
    (void)state;
    struct log log = {0};
    struct error err;
    struct guest_ram *ram;
    char out[4] = "";
    assert_int_equal(ram_create(&ram, RAM_MIN_BYTES, &err), 0);
    struct machine_host host = {.dma_write = take_write, .context = &log};
    assert_int_equal(machine_create(&log.m, ram, &host, &err), 0);
    assert_int_equal(machine_dma_write(log.m, 0x1000, "data", 4), 0);
    assert_int_equal(log.written_at, 0x1000);
    assert_int_equal(log.written, 4);
    assert_int_equal(machine_dma_write(log.m, RAM_MIN_BYTES - 3, "data", 4), -EFAULT);
    assert_int_equal(machine_dma_write(log.m, UINT64_MAX - 1, "data", 4), -EFAULT);
    assert_int_equal(log.written, 4);
    assert_int_equal(machine_dma_read(log.m, RAM_MIN_BYTES - 4, out, 4), 0);
    assert_int_equal(machine_dma_read(log.m, RAM_MIN_BYTES - 3, out, 4), -EFAULT);
    machine_destroy(log.m);
    ram_destroy(ram);
}

static void test_dma_without_a_recorder_writes_ram(void **state)
{
    (void)state;
    struct error err;
    struct guest_ram *ram;
    struct machine *m;
    char out[4] = "";
    assert_int_equal(ram_create(&ram, RAM_MIN_BYTES, &err), 0);
    assert_int_equal(machine_create(&m, ram, NULL, &err), 0);
    assert_int_equal(machine_dma_write(m, 0x1ffe, "data", 4), 0);
    assert_int_equal(machine_dma_read(m, 0x1ffe, out, 4), 0);
    assert_memory_equal(out, "data", 4);
    assert_true(ram->page_flags[1] & RAM_PAGE_DIRTY);
    assert_true(ram->page_flags[2] & RAM_PAGE_DIRTY);
    machine_destroy(m);
    ram_destroy(ram);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_work_runs_in_order_once),
        cmocka_unit_test(test_dma_goes_through_the_recorder),
        cmocka_unit_test(test_dma_without_a_recorder_writes_ram),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
