/* Guest RAM: its two parts, bounds, the dirty list, and the digest of what is in it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "core/ram.h"

#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)

static struct guest_ram *create(uint64_t size)
{
    struct guest_ram *ram = NULL;
    struct error err = {0};
    if (ram_create(&ram, size, &err) < 0)
        fail_msg("%s", err.message);
    return ram;
}

static void sizes_out_of_range_are_refused(void **state)
{
    (void)state;
    static const uint64_t bad[] = {
        0, 4096, MIB - 4096, MIB + 1, 64 * GIB + 4096, UINT64_MAX, UINT64_MAX & ~PAGE_MASK};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct guest_ram *ram = NULL;
        struct error err = {0};
        assert_int_equal(ram_create(&ram, bad[i], &err), -EINVAL);
        assert_null(ram);
        assert_true(err.message[0] != '\0');
    }
}

static void ram_above_3_gib_is_found_at_4_gib(void **state)
{
    (void)state;
    struct guest_ram *ram = create(5 * GIB);
    uint64_t in = 0x1122334455667788, out = 0;
    assert_int_equal(ram_offset(ram, 3 * GIB - 1), 3 * GIB - 1);
    assert_int_equal(ram_offset(ram, 3 * GIB), RAM_NO_OFFSET);
    assert_int_equal(ram_offset(ram, 4 * GIB - 1), RAM_NO_OFFSET);
    assert_int_equal(ram_offset(ram, 4 * GIB), 3 * GIB);
    assert_int_equal(ram_offset(ram, 6 * GIB), RAM_NO_OFFSET);
    assert_int_equal(ram_gpa_of_offset(ram, 3 * GIB), 4 * GIB);
    assert_int_equal(ram_write(ram, 6 * GIB - 8, &in, 8), 0);
    assert_int_equal(ram_read(ram, 6 * GIB - 8, &out, 8), 0);
    assert_int_equal(out, in);
    assert_memory_equal(ram->host + 5 * GIB - 8, &in, 8);
    /* The last bytes of the low part are followed by the hole, although the mapping goes on. */
    assert_int_equal(ram_write(ram, 3 * GIB - 4, &in, 8), -EFAULT);
    assert_int_equal(ram_read(ram, 3 * GIB - 4, &out, 8), -EFAULT);
    assert_int_equal(ram_read(ram, 6 * GIB - 4, &out, 8), -EFAULT);
    ram_destroy(ram);
}

static void accesses_that_leave_ram_copy_nothing(void **state)
{
    (void)state;
    struct guest_ram *ram = create(MIB);
    uint8_t data[16];
    memset(data, 0xaa, sizeof(data));
    assert_int_equal(ram_write(ram, MIB - 8, data, 16), -EFAULT);
    assert_int_equal(ram->host[MIB - 8], 0);
    assert_int_equal(ram_write(ram, UINT64_MAX, data, 16), -EFAULT);
    assert_int_equal(ram_write(ram, MIB - 8, data, SIZE_MAX), -EFAULT);
    assert_int_equal(ram_read(ram, MIB, data, 1), -EFAULT);
    assert_int_equal(data[0], 0xaa);
    assert_int_equal(ram->dirty_count, 0);
    assert_int_equal(ram_write(ram, MIB, data, 0), 0);
    ram_destroy(ram);
}

static void writes_mark_each_page_dirty_once(void **state)
{
    (void)state;
    struct guest_ram *ram = create(MIB);
    uint8_t data[4098] = {1};
    assert_int_equal(ram_write(ram, 0x1fff, data, sizeof(data)),
                     0); /* last byte of page 1, page 2, one of 3 */
    assert_int_equal(ram_write(ram, 0x2000, data, 1), 0);
    assert_int_equal(ram->dirty_count, 3);
    assert_int_equal(ram->dirty_list[0], 1);
    assert_int_equal(ram->dirty_list[1], 2);
    assert_int_equal(ram->dirty_list[2], 3);
    uint64_t generation = ram->dirty_generation;
    ram->page_flags[2] |= RAM_PAGE_CODE;
    ram_clear_dirty(ram);
    assert_int_equal(ram->dirty_count, 0);
    assert_int_equal(ram->page_flags[1], 0);
    assert_int_equal(ram->page_flags[2], RAM_PAGE_CODE);
    assert_true(ram->dirty_generation > generation);
    ram_destroy(ram);
}

static void digest_is_the_sum_of_all_pages_terms(void **state)
{
    (void)state;
    struct guest_ram *ram = create(4 * GIB); /* one GiB of it at 4 GiB */
    struct hash128 digest, expected = {0, 0};
    digest = ram_digest(ram);
    assert_true(hash128_equal(digest, expected));

    static const gpa_t where[] = {0, 0x5123, 3 * GIB - 1, 4 * GIB, 5 * GIB - 1};
    for (size_t i = 0; i < ARRAY_LEN(where); i++) {
        uint8_t byte = (uint8_t)(i + 1);
        assert_int_equal(ram_write(ram, where[i], &byte, 1), 0);
        ram_digest_add(&expected, ram_digest_term(ram_frame(ram, where[i] >> 12), where[i] >> 12));
    }
    /* A page that was only read has memory behind it now, and still counts as zero. */
    uint8_t byte;
    assert_int_equal(ram_read(ram, 0x100000, &byte, 1), 0);
    digest = ram_digest(ram);
    assert_true(hash128_equal(digest, expected));
    assert_true(digest.low != 0);

    assert_int_equal(ram_reset(ram, NULL), 0);
    digest = ram_digest(ram);
    assert_int_equal(digest.low, 0);
    assert_int_equal(digest.high, 0);
    assert_int_equal(ram->dirty_count, 0);
    assert_int_equal(ram_read(ram, 0x5123, &byte, 1), 0);
    assert_int_equal(byte, 0);
    ram_destroy(ram);
}

/* The kernel reads the byte for us: it answers EFAULT where we would get SIGSEGV. */
static bool is_readable(const uint8_t *address)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    bool readable = write(ends[1], address, 1) == 1;
    assert_true(readable || errno == EFAULT);
    close(ends[0]);
    close(ends[1]);
    return readable;
}

static void memory_around_ram_is_not_accessible(void **state)
{
    (void)state;
    struct guest_ram *ram = create(2 * MIB);
    assert_true(is_readable(ram->host));
    assert_true(is_readable(ram->host + 2 * MIB - 1));
    assert_false(is_readable(ram->host - 1));
    assert_false(is_readable(ram->host + 2 * MIB));
    assert_false(is_readable(ram->host + 2 * MIB + RAM_GUARD_BYTES - 1));
    ram_destroy(ram);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_out_of_range_are_refused),
        cmocka_unit_test(ram_above_3_gib_is_found_at_4_gib),
        cmocka_unit_test(accesses_that_leave_ram_copy_nothing),
        cmocka_unit_test(writes_mark_each_page_dirty_once),
        cmocka_unit_test(digest_is_the_sum_of_all_pages_terms),
        cmocka_unit_test(memory_around_ram_is_not_accessible),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
