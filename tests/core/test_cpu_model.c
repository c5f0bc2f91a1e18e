/* The CPU model: what the two profiles show, what follows the vCPU's state, and the check against the host. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "core/cpu_model.h"
#include "core/vcpu_state.h"

enum {
    OSXSAVE = CPU_FEATURE_LEAF1_ECX + 27,
    XSAVE = CPU_FEATURE_LEAF1_ECX + 26,
    AVX = CPU_FEATURE_LEAF1_ECX + 28,
    RDRAND = CPU_FEATURE_LEAF1_ECX + 30,
    CX16 = CPU_FEATURE_LEAF1_ECX + 13,
    TSC = CPU_FEATURE_LEAF1_EDX + 4,
    APIC = CPU_FEATURE_LEAF1_EDX + 9,
    BMI1 = CPU_FEATURE_LEAF7_EBX + 3,
    RDSEED = CPU_FEATURE_LEAF7_EBX + 18,
    AVX512F = CPU_FEATURE_LEAF7_EBX + 16,
    LZCNT = CPU_FEATURE_EXT1_ECX + 5,
    RDTSCP = CPU_FEATURE_EXT1_EDX + 27,
    LONG_MODE = CPU_FEATURE_EXT1_EDX + 29,
    XSAVES = CPU_FEATURE_XSAVE_EAX + 3,
    XSAVEC = CPU_FEATURE_XSAVE_EAX + 1,
};

static void kvm_profile_hides_what_is_not_deterministic_there(void **state)
{
    (void)state;
    static const unsigned hidden[] = {XSAVE, OSXSAVE, AVX,   RDRAND, TSC,    APIC,
                                      BMI1,  RDSEED,  LZCNT, RDTSCP, XSAVES, XSAVEC};
    struct cpu_model kvm, emu;
    cpu_model_init(&kvm, CPU_PROFILE_KVM);
    cpu_model_init(&emu, CPU_PROFILE_EMU);
    for (size_t i = 0; i < ARRAY_LEN(hidden); i++)
        assert_false(cpu_model_has(&kvm, hidden[i]));
    assert_true(cpu_model_has(&kvm, CX16));
    assert_true(cpu_model_has(&kvm, LONG_MODE));
    static const unsigned shown[] = {XSAVE, AVX,    RDRAND, TSC,  BMI1,     RDSEED,
                                     LZCNT, RDTSCP, XSAVEC, CX16, LONG_MODE};
    for (size_t i = 0; i < ARRAY_LEN(shown); i++)
        assert_true(cpu_model_has(&emu, shown[i]));
    assert_false(cpu_model_has(&emu, APIC));
    assert_false(cpu_model_has(&emu, XSAVES));
    assert_false(cpu_model_has(&emu, 7 << 5));
}

static void every_feature_of_the_kvm_profile_is_in_the_emu_profile(void **state)
{
    (void)state;
    struct cpu_model kvm, emu;
    cpu_model_init(&kvm, CPU_PROFILE_KVM);
    cpu_model_init(&emu, CPU_PROFILE_EMU);
    for (unsigned f = 0; f < 7 << 5; f++)
        assert_true(!cpu_model_has(&kvm, f) || cpu_model_has(&emu, f));
}

static void cpuid_follows_cr4_and_xcr0(void **state)
{
    (void)state;
    struct cpu_model model;
    uint32_t r[4];
    cpu_model_init(&model, CPU_PROFILE_EMU);
    cpu_model_cpuid(&model, 1, 0, 0, 1, r);
    assert_false(r[2] & (1u << 27));
    cpu_model_cpuid(&model, 1, 0, CR4_OSXSAVE, 1, r);
    assert_true(r[2] & (1u << 27));
    cpu_model_cpuid(&model, 0xd, 0, CR4_OSXSAVE, 3, r);
    assert_int_equal(r[1], 576);
    assert_int_equal(r[2], 832);
    cpu_model_cpuid(&model, 0xd, 0, CR4_OSXSAVE, 7, r);
    assert_int_equal(r[1], 832);
    cpu_model_cpuid(&model, 0xd, 2, CR4_OSXSAVE, 7, r);
    assert_int_equal(r[0], 256);
    assert_int_equal(r[1], 576);
}

static void names_and_unknown_leaves(void **state)
{
    (void)state;
    struct cpu_model model;
    uint32_t r[4];
    cpu_model_init(&model, CPU_PROFILE_EMU);
    cpu_model_cpuid(&model, 0, 99, 0, 1, r);
    const uint32_t vendor[3] = {r[1], r[3], r[2]};
    assert_memory_equal(vendor, "AuthenticAMD", 12);
    char brand[49] = {0};
    for (uint32_t i = 0; i < 3; i++) {
        cpu_model_cpuid(&model, 0x80000002 + i, 0, 0, 1, r);
        memcpy(brand + 16 * i, r, 16);
    }
    assert_string_equal(brand, "dejavm virtual CPU");
    static const uint32_t unknown[][2] = {{2, 0},   {4, 0},          {7, 1},         {0xb, 0},
                                          {0xd, 3}, {0x40000000, 0}, {0x80000022, 0}};
    for (size_t i = 0; i < ARRAY_LEN(unknown); i++) {
        cpu_model_cpuid(&model, unknown[i][0], unknown[i][1], 0, 1, r);
        assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
    }
}

static void host_check_accepts_the_kvm_profile_and_names_what_is_missing(void **state)
{
    (void)state;
    struct cpu_model model;
    struct error err = {0};
    cpu_model_init(&model, CPU_PROFILE_KVM);
    if (cpu_model_check_host(&model, &err) < 0)
        fail_msg("%s", err.message);
    for (unsigned i = 0; i < model.count; i++)
        if (model.entry[i].leaf == 7)
            model.entry[i].ebx |= 1u << (AVX512F & 31);
    assert_int_equal(cpu_model_check_host(&model, &err), -ENOTSUP);
    assert_non_null(strstr(err.message, "7.EBX bit 16"));
}

static void host_check_agrees_with_the_compilers_view_of_the_host(void **state)
{
    (void)state;
    struct cpu_model model;
    struct error err = {0};
    cpu_model_init(&model, CPU_PROFILE_EMU);
    int result = cpu_model_check_host(&model, &err);
    __builtin_cpu_init();
    bool has_avx2 = __builtin_cpu_supports("avx2"), has_fma = __builtin_cpu_supports("fma");
    assert_int_equal(result < 0 && strstr(err.message, "AVX2") != NULL, !has_avx2);
    assert_int_equal(result < 0 && strstr(err.message, "FMA") != NULL, !has_fma);
}

static void encoding_round_trips_and_damage_is_refused(void **state)
{
    (void)state;
    struct cpu_model model, copy;
    struct buffer b = {0};
    struct error err = {0};
    cpu_model_init(&model, CPU_PROFILE_EMU);
    cpu_model_encode(&model, &b);
    assert_false(b.failed);
    assert_int_equal(cpu_model_decode(&copy, b.data, b.length, &err), 0);
    assert_memory_equal(&copy, &model, sizeof(model));
    for (size_t length = 0; length < b.length; length++)
        assert_true(cpu_model_decode(&copy, b.data, length, &err) < 0);
    assert_int_equal(err.kind, ERROR_DAMAGED);
    buffer_put_u8(&b, 0);
    assert_true(cpu_model_decode(&copy, b.data, b.length, &err) < 0);
    memset(b.data, 0xff, 4);
    assert_true(cpu_model_decode(&copy, b.data, b.length, &err) < 0);
    buffer_free(&b);
}

static void host_description_fits_its_buffer(void **state)
{
    (void)state;
    char text[128], small[8];
    cpu_host_description(text, sizeof(text));
    assert_non_null(strstr(text, " family "));
    memset(small, 'x', sizeof(small));
    cpu_host_description(small, sizeof(small));
    assert_int_equal(strlen(small), sizeof(small) - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kvm_profile_hides_what_is_not_deterministic_there),
        cmocka_unit_test(every_feature_of_the_kvm_profile_is_in_the_emu_profile),
        cmocka_unit_test(cpuid_follows_cr4_and_xcr0),
        cmocka_unit_test(names_and_unknown_leaves),
        cmocka_unit_test(host_check_accepts_the_kvm_profile_and_names_what_is_missing),
        cmocka_unit_test(host_check_agrees_with_the_compilers_view_of_the_host),
        cmocka_unit_test(encoding_round_trips_and_damage_is_refused),
        cmocka_unit_test(host_description_fits_its_buffer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
