/*
 * The cases of the image: each against what the SDM says of it, in the emulator with both profiles of the CPU model,
 * cut into pieces in every way, and in the host's KVM.
 *
 *   test_ring0 [PATTERN]    only the cases whose name contains PATTERN, and says what KVM does
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "core/kvm/kvm_probe.h"
#include "tests/ring0/deviations.h"
#include "tests/ring0/rig.h"

static const char *pattern = "";

static bool wanted(const struct ring0_record *c)
{
    return strstr(c->start.name, pattern) != NULL && !(c->start.flags & FLAG_PAGING);
}

static bool run_and_check(enum ring0_engine engine, const struct ring0_record *c, char *text, size_t size)
{
    struct ring0_guest g;
    struct error err = {0};
    ring0_create(&g, engine, c);
    int end = ring0_run(&g, RING0_WHOLE, 0, &err);
    bool ok;
    if (end < 0) {
        snprintf(text, size, "  %s\n", err.message);
        ok = false;
    } else {
        ok = ring0_as_expected(&g, c, end, text, size);
    }
    ring0_destroy(&g);
    return ok;
}

static void every_case(enum ring0_engine engine)
{
    char text[8192];
    unsigned cases = 0, failures = 0;
    for (const struct ring0_record *c = ring0_table; c < ring0_table_end; c = ring0_next_case(c)) {
        if (!wanted(c) || (engine == RING0_EMU_AS_KVM && (c->start.flags & FLAG_EMU_ONLY)))
            continue;
        cases++;
        if (!run_and_check(engine, c, text, sizeof(text))) {
            failures++;
            printf("%s:\n%s", c->start.name, text);
        }
    }
    printf("%u cases, %u failures\n", cases, failures);
    assert_int_equal(failures, 0);
    assert_true(cases > 0);
}

static void every_case_ends_as_the_sdm_says(void **state)
{
    (void)state;
    every_case(RING0_EMU);
}

static void the_kvm_profile_makes_no_difference(void **state)
{
    (void)state;
    every_case(RING0_EMU_AS_KVM);
}

static void check_cut(struct ring0_guest *whole, const struct ring0_record *c, enum ring0_cut cut,
                      uint64_t seed)
{
    struct ring0_guest g;
    struct error err = {0};
    char text[4096];
    ring0_create(&g, RING0_EMU, c);
    if (ring0_run(&g, cut, seed, &err) < 0)
        fail_msg("%s: %s", c->start.name, err.message);
    if (!ring0_same(whole, &g, true, text, sizeof(text)))
        fail_msg("%s, cut %d, seed %u: whole / in pieces\n%s", c->start.name, (int)cut, (unsigned)seed, text);
    assert_int_equal(whole->engine->ops->position(whole->engine), g.engine->ops->position(g.engine));
    ring0_destroy(&g);
}

static void pieces_add_up_to_the_same(void **state)
{
    (void)state;
    for (const struct ring0_record *c = ring0_table; c < ring0_table_end; c = ring0_next_case(c)) {
        struct ring0_guest whole;
        struct error err = {0};
        if (!wanted(c))
            continue;
        ring0_create(&whole, RING0_EMU, c);
        if (ring0_run(&whole, RING0_WHOLE, 0, &err) < 0)
            fail_msg("%s: %s", c->start.name, err.message);
        check_cut(&whole, c, RING0_STEPS, 0);
        check_cut(&whole, c, RING0_SLICES, 1);
        check_cut(&whole, c, RING0_MOVES, 2);
        ring0_destroy(&whole);
    }
}

/* The reason why this host's KVM may differ from the SDM in this case, or NULL. */
static const char *deviation_of(const char *name)
{
    for (size_t i = 0; i < ring0_deviation_count; i++)
        if (strcmp(ring0_deviations[i].name, name) == 0)
            return ring0_deviations[i].reason;
    return NULL;
}

struct tally {
    unsigned same, deviating, failures, skipped;
};

/* In KVM the case ends as the SDM says, and with the registers and RAM that it has in the emulator. */
static void compare_with_kvm(struct ring0_guest *kvm, const struct ring0_record *c, struct tally *t)
{
    struct ring0_guest emu;
    struct error err = {0};
    char text[8192] = "";
    const char *reason = deviation_of(c->start.name);
    if (kvm->engine && !ring0_restart(kvm, c))
        ring0_destroy(kvm);
    if (!kvm->engine)
        ring0_create(kvm, RING0_KVM, c);
    ring0_create(&emu, RING0_EMU_AS_KVM, c);
    int end = ring0_run(kvm, RING0_WHOLE, 0, &err);
    bool ok = end >= 0 && ring0_as_expected(kvm, c, end, text, sizeof(text));
    if (end < 0)
        snprintf(text, sizeof(text), "  %s\n", err.message);
    if (ok && end != ENGINE_STOP_SHUTDOWN) {
        assert_true(ring0_run(&emu, RING0_WHOLE, 0, &err) >= 0);
        ok = ring0_same(kvm, &emu, false, text, sizeof(text));
    }
    t->same += ok;
    if (!ok && reason) {
        t->deviating++;
        printf("deviates: %s: %s\n%s", c->start.name, reason, *pattern ? text : "");
    } else if (!ok) {
        t->failures++;
        printf("%s: in KVM:\n%s", c->start.name, text);
    } else if (reason) {
        printf("does as the SDM says here: %s\n", c->start.name);
    }
    ring0_destroy(&emu);
}

static void kvm_does_the_same(void **state)
{
    (void)state;
    struct error err = {0};
    struct tally t = {0};
    struct ring0_guest kvm = {.engine = NULL};
    if (kvm_probe_usable(&err) < 0) {
        printf("not compared with KVM: %s\n", err.message);
        skip();
    }
    for (const struct ring0_record *c = ring0_table; c < ring0_table_end; c = ring0_next_case(c)) {
        if (!wanted(c))
            continue;
        if (c->start.flags & FLAG_EMU_ONLY)
            t.skipped++;
        else
            compare_with_kvm(&kvm, c, &t);
    }
    if (kvm.engine)
        ring0_destroy(&kvm);
    printf("in KVM: %u as the SDM says, %u deviate for a known reason, %u need features that the CPU model "
           "hides from "
           "KVM, %u failures\n",
           t.same, t.deviating, t.skipped, t.failures);
    assert_int_equal(t.failures, 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_case_ends_as_the_sdm_says),
        cmocka_unit_test(the_kvm_profile_makes_no_difference),
        cmocka_unit_test(pieces_add_up_to_the_same),
        cmocka_unit_test(kvm_does_the_same),
    };
    if (argc > 1)
        pattern = argv[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
