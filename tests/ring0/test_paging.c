/*
 * Every combination of page permissions, controls, privilege level, kind of access and page size, tried by a guest
 * (paging.S), against the rules of SDM 3, 4.6 to 4.8; in the emulator, and as far as the CPU model goes in KVM.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/kvm/kvm_probe.h"
#include "tests/ring0/rig.h"

enum { READ, WRITE, EXECUTE };
enum { LEAF_A = 1 << 24, LEAF_D = 1 << 25, ABOVE_A = 1 << 26 };
#define CR2_RIGHT ((uint64_t)1 << 32)
#define TRIED     ((uint64_t)1 << 33)

/* Index bits of what the kvm profile has: no SMEP and SMAP, no 1 GiB pages. */
#define MASK_KVM 0x33ffu
#define MASK_EMU 0x7fffu

struct combination {
    unsigned access, size;
    bool user_mode, wp, smep, smap, ac;
    bool present, writable, user, no_execute; /* of both entries together; present: the leaf */
};

static struct combination combination_of(unsigned index)
{
    unsigned above = index >> 7 & 3;
    return (struct combination){
        .access = index & 3,
        .user_mode = index >> 2 & 1,
        .present = index >> 3 & 1,
        .writable = (index >> 4 & 1) && above != 1,
        .user = (index >> 5 & 1) && above != 2,
        .no_execute = (index >> 6 & 1) || above == 3,
        .wp = index >> 9 & 1,
        .smep = index >> 10 & 1,
        .smap = index >> 11 & 1,
        .ac = index >> 12 & 1,
        .size = index >> 13,
    };
}

static bool allowed(const struct combination *c)
{
    if (c->user_mode)
        return c->user && (c->access != WRITE || c->writable) && (c->access != EXECUTE || !c->no_execute);
    if (c->access == EXECUTE)
        return !c->no_execute && !(c->user && c->smep);
    if (c->user && c->smap && !c->ac)
        return false;
    return c->access == READ || c->writable || !c->wp;
}

static uint64_t expected(const struct combination *c)
{
    uint64_t accessed = LEAF_A | ABOVE_A | (c->access == WRITE ? LEAF_D : 0);
    if (c->present && allowed(c))
        return TRIED | accessed;
    uint64_t code = (c->present ? 1u : 0) | (c->access == WRITE ? 2u : 0) | (c->user_mode ? 4u : 0) |
                    (c->access == EXECUTE ? 16u : 0);
    return TRIED | CR2_RIGHT | VEC_PF | code << 8;
}

/* A processor may set A in upper entries before it finds that the access is not allowed (SDM 3, 4.8). */
static uint64_t compared(uint64_t result)
{
    return (result & 0xff) ? result & ~(uint64_t)(LEAF_A | ABOVE_A) : result;
}

static const struct ring0_record *find_case(void)
{
    const struct ring0_record *c = ring0_table;
    while (c < ring0_table_end && !(c->start.flags & FLAG_PAGING))
        c = ring0_next_case(c);
    assert_true(c < ring0_table_end);
    return c;
}

static void try_all(enum ring0_engine engine, uint32_t mask, enum ring0_cut cut)
{
    struct ring0_guest g;
    struct error err = {0};
    char text[4096];
    const struct ring0_record *c = find_case();
    unsigned tried = 0, failures = 0;
    ring0_create(&g, engine, c);
    g.patience = 20;
    assert_int_equal(ram_write(g.ram, PAGING_MASK, &mask, sizeof(mask)), 0);
    int end = ring0_run(&g, cut, 1, &err);
    if (end < 0)
        fail_msg("%s", err.message);
    if (!ring0_as_expected(&g, c, end, text, sizeof(text)))
        fail_msg("%s", text);
    for (unsigned i = 0; i < PAGING_COUNT; i++) {
        uint64_t got = 0;
        struct combination combination = combination_of(i);
        bool wanted = combination.access <= EXECUTE && combination.size <= 2 && !(i & ~mask);
        assert_int_equal(ram_read(g.ram, PAGING_RESULTS + 8 * i, &got, 8), 0);
        uint64_t want = wanted ? expected(&combination) : 0;
        tried += wanted;
        if (compared(got) != want && ++failures < 10)
            printf("combination %#x: %#" PRIx64 ", expected %#" PRIx64 "\n", i, got, want);
    }
    printf("%u combinations, %u failures\n", tried, failures);
    assert_int_equal(failures, 0);
    ring0_destroy(&g);
}

static void the_emulator_follows_the_sdm(void **state)
{
    (void)state;
    try_all(RING0_EMU, MASK_EMU, RING0_WHOLE);
    try_all(RING0_EMU_AS_KVM, MASK_KVM, RING0_WHOLE);
}

static void and_does_so_in_pieces(void **state)
{
    (void)state;
    try_all(RING0_EMU, MASK_KVM, RING0_SLICES);
}

static void kvm_does_the_same(void **state)
{
    (void)state;
    struct error err = {0};
    if (kvm_probe_usable(&err) < 0) {
        printf("not compared with KVM: %s\n", err.message);
        skip();
    }
    try_all(RING0_KVM, MASK_KVM, RING0_WHOLE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_emulator_follows_the_sdm),
        cmocka_unit_test(and_does_so_in_pieces),
        cmocka_unit_test(kvm_does_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
