/* The probes of /dev/kvm: all answer, in bounded time, and what recording needs is there when they say it is usable. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/kvm/kvm_probe.h"
#include "tests/kvm/kvm_test.h"

static void every_probe_answers_quickly(void **unused)
{
    (void)unused;
    struct kvm_probe probes[KVM_PROBE_MAX];
    struct error err;
    time_t start = time(NULL);
    unsigned count = kvm_probe_all(probes, &err);
    assert_true(time(NULL) - start < 8);
    assert_true(count > 0 && count <= KVM_PROBE_MAX);
    for (unsigned i = 0; i < count; i++) {
        printf("%-20s %-7s %s\n", probes[i].name,
               probes[i].result == PROBE_YES  ? "yes"
               : probes[i].result == PROBE_NO ? "no"
                                              : "unknown",
               probes[i].detail);
        assert_true(probes[i].detail[0] != '\0');
        assert_true(!probes[i].needed || probes[i].result == PROBE_YES);
        for (unsigned j = 0; j < i; j++)
            assert_string_not_equal(probes[i].name, probes[j].name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_probe_answers_quickly)};
    if (!test_kvm_is_usable())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
