/* Configuration MSRs of the machine: which exist, what they hold, which can be written. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/platform_msrs.h"

#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)

static uint64_t value_with(uint64_t ram_bytes, uint32_t index)
{
    struct guest_ram *ram;
    uint64_t value = UINT64_MAX;
    assert_int_equal(ram_create(&ram, ram_bytes, NULL), 0);
    assert_true(platform_msr_read(ram, index, &value));
    ram_destroy(ram);
    return value;
}

static void what_an_amd_kernel_looks_at_is_there(void **unused)
{
    (void)unused;
    assert_int_equal(value_with(MIB, 0x8b) >> 8, 0x083010);     /* family and model of CPUID leaf 1 */
    assert_true(value_with(MIB, 0x8b) >= 0x0830107a);           /* Zenbleed is cured */
    assert_int_equal(value_with(MIB, 0xc0010015) >> 24 & 1, 1); /* TscFreqSel */
    assert_int_equal(value_with(MIB, 0xc0011029) & 2, 2);       /* LFENCE serializes */
    assert_int_equal(value_with(MIB, 0xc001001f), 0);
    assert_int_equal(value_with(MIB, 0xc0010007), 0);
}

static void top_of_memory_follows_ram(void **unused)
{
    (void)unused;
    assert_int_equal(value_with(128 * MIB, 0xc001001a), 128 * MIB);
    assert_int_equal(value_with(130 * MIB, 0xc001001a), 136 * MIB); /* in steps of 8 MiB */
    assert_int_equal(value_with(128 * MIB, 0xc001001d), 0);
    assert_int_equal(value_with(128 * MIB, 0xc0010010), 0);
    assert_int_equal(value_with(4 * GIB, 0xc001001a), 3 * GIB);
    assert_int_equal(value_with(4 * GIB, 0xc001001d), 5 * GIB);
    assert_int_equal(value_with(4 * GIB, 0xc0010010) >> 21 & 1, 1); /* TOP_MEM2 is in force */
}

static void others_do_not_exist(void **unused)
{
    (void)unused;
    static const uint32_t absent[] = {0,          0x17,       0xce,       0x179,     0x2ff,
                                      0xc0010008, 0xc000ffff, 0xc0011030, UINT32_MAX};
    struct guest_ram *ram;
    uint64_t value;
    assert_int_equal(ram_create(&ram, MIB, NULL), 0);
    for (size_t i = 0; i < ARRAY_LEN(absent); i++) {
        assert_false(platform_msr_read(ram, absent[i], &value));
        assert_false(platform_msr_write(absent[i]));
    }
    ram_destroy(ram);
}

static void writes_are_taken_where_the_cpu_takes_them(void **unused)
{
    (void)unused;
    assert_true(platform_msr_write(0xc001001f));
    assert_true(platform_msr_write(0xc0011029));
    assert_true(platform_msr_write(0xc0010000));
    assert_false(platform_msr_write(0x8b));
    assert_false(platform_msr_write(0xc001001a)); /* firmware locks memory's layout */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_an_amd_kernel_looks_at_is_there),
        cmocka_unit_test(top_of_memory_follows_ram),
        cmocka_unit_test(others_do_not_exist),
        cmocka_unit_test(writes_are_taken_where_the_cpu_takes_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
