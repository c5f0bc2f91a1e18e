/* Images of other formats, and images with random changes. */
#include "tests/core/loader_images.h"

#include <errno.h>
#include <string.h>

static void other_formats_are_named(void **unused)
{
    (void)unused;
    static const struct {
        size_t offset;
        const char *bytes;
        size_t length;
        const char *message;
    } cases[] = {
        {0, "MZ", 2, "a PE"},
        {0, "\x1f\x8b\x08", 3, "gzip"},
        {0, "\xd6\x50\x52\xe8\0\0\0\0\x10\0\0\0\x1a\xaf\xad\x17", 16, "a Multiboot 2 kernel"},
        {510, "\x55\xaa", 2, "a boot sector"},
        {0, "#!/bin/sh", 9, "a script"},
        {0, "nothing in particular", 21, "format is unknown"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct image m = {.length = IMAGE_BYTES};
        memcpy(m.bytes + cases[i].offset, cases[i].bytes, cases[i].length);
        assert_fails(&m, 16 * MIB, -ENOTSUP, cases[i].message);
        assert_fails(&m, 16 * MIB, -ENOTSUP, "Multiboot 1 kernels"); /* what would be supported */
    }
    struct image elf32 = elf32_image();
    assert_fails(&elf32, 16 * MIB, -ENOTSUP, "no Multiboot 1 header");
    struct image empty = {.length = 0};
    assert_fails(&empty, 16 * MIB, -EINVAL, "empty");
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Numbers that are more likely to hurt than random ones. */
static uint64_t nasty_number(uint64_t *random)
{
    static const uint64_t nasty[] = {
        0,       1,          0xfff,      0x1000,    0xffff,    0x100000,   0xffffffff,
        1 << 20, 0x80000000, 0xc0000000, INT64_MAX, 1ul << 63, UINT64_MAX, UINT64_MAX - 0xfff};
    uint64_t n = next_random(random);
    return n & 1 ? nasty[(n >> 1) % ARRAY_LEN(nasty)] + (n >> 32) % 3 - 1 : n;
}

static void mutate(struct image *m, uint64_t *random)
{
    unsigned changes = 1 + (unsigned)(next_random(random) % 4);
    for (unsigned i = 0; i < changes; i++) {
        uint64_t value = nasty_number(random);
        size_t size = (size_t)1 << next_random(random) % 4;
        size_t at = next_random(random) % 320 & ~(size - 1); /* the headers */
        memcpy(m->bytes + at, &value, size);
    }
    if (next_random(random) % 8 == 0)
        m->length = next_random(random) % (m->length + 1);
}

/* A loaded image's vCPU state points into RAM, whatever the image was. */
static void assert_state_in_ram(const struct guest *g)
{
    const struct vcpu_state *s = &g->result.state;
    assert_true(ram_offset(g->ram, s->rip) != RAM_NO_OFFSET);
    assert_true(ram_offset(g->ram, s->gpr[GPR_RSP] - 1) != RAM_NO_OFFSET);
    assert_true(ram_offset(g->ram, s->cr3) != RAM_NO_OFFSET);
    assert_true(ram_offset(g->ram, s->gdtr.base + s->gdtr.limit) != RAM_NO_OFFSET);
}

static void mutated_images_load_or_are_refused(void **unused)
{
    (void)unused;
    struct guest *g = guest_create(16 * MIB);
    uint64_t random = 0x6a09e667f3bcc908;
    unsigned loaded = 0;
    const unsigned total = 40000;
    for (unsigned i = 0; i < total; i++) {
        struct image m = i % 4 == 0 ? elf64_image() : i % 4 == 1 ? elf32_image() : kludge_image();
        if (i % 4 == 1)
            put_multiboot(&m, 3, NULL);
        if (i % 4 == 3) {
            m = elf64_image();
            put_multiboot(&m, 3, NULL);
        }
        mutate(&m, &random);
        /* A copy of just its length, so that AddressSanitizer sees a read beyond it. */
        uint8_t *copy = test_malloc(m.length + 1);
        memcpy(copy, m.bytes, m.length);
        const struct loader_input input = {
            .image = copy, .image_length = m.length, .image_name = "image", .command_line = ""};
        g->err.message[0] = '\0';
        int rc = loader_load(g->ram, &input, &g->result, &g->err);
        test_free(copy);
        if (rc == 0) {
            loaded++;
            assert_state_in_ram(g);
        } else {
            assert_true(rc == -EINVAL || rc == -ENOTSUP || rc == -ENOMEM);
            assert_true(strlen(g->err.message) > 10);
        }
    }
    assert_in_range(loaded, total / 20, total - total / 20); /* else the mutations are useless */
    ram_destroy(g->ram);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(other_formats_are_named),
        cmocka_unit_test(mutated_images_load_or_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
