/*
 * Which instructions set all status flags on this CPU, also those that the SDM leaves undefined, without looking at what they
 * were. Stage 1 executes everything with the guest's flags in place; translated code may only be without them where that
 * makes no difference.
 */
#include "core/x86/jit/internal.h"

/* The flags after an instruction that had all status flags clear (before = 0) or set (before = 0xd501) at its start. */
#define RUN(result, before, instruction, a, b)                                                               \
    do {                                                                                                     \
        uint64_t flags_ = (before), a_ = (a);                                                                \
        __asm__ volatile("addb $0x7f, %%al\n\tsahf\n\t" instruction "\n\tlahf\n\tseto %%al"                  \
                         : "+a"(flags_), "+d"(a_)                                                            \
                         : "c"((uint64_t)(b))                                                                \
                         : "cc", "rbx");                                                                     \
        (result) = (uint32_t)flags_ & 0xffff;                                                                \
    } while (0)

static const uint64_t values[] = {0,          1,          2,          3,          0x7f, 0x80,
                                  0x7fffffff, 0x80000000, 0xffffffff, 1ull << 63, ~0ull};

#define PROBE(name, instruction)                                                                             \
    static bool name(void)                                                                                   \
    {                                                                                                        \
        for (unsigned i = 0; i < ARRAY_LEN(values); i++)                                                     \
            for (unsigned k = 0; k < ARRAY_LEN(values); k++) {                                               \
                uint32_t clear, set;                                                                         \
                RUN(clear, 0, instruction, values[i], values[k]);                                            \
                RUN(set, 0xd501, instruction, values[i], values[k]);                                         \
                if (clear != set)                                                                            \
                    return false;                                                                            \
            }                                                                                                \
        return true;                                                                                         \
    }

PROBE(and_sets_all, "andq %%rcx, %%rdx")
PROBE(or_sets_all, "orl %%ecx, %%edx")
PROBE(xor_sets_all, "xorb %%cl, %%dl")
PROBE(test_sets_all, "testw %%cx, %%dx")
PROBE(shl_sets_all, "shlq $3, %%rdx")
PROBE(shl1_sets_all, "shll $1, %%edx")
PROBE(shr_sets_all, "shrl $7, %%edx")
PROBE(sar_sets_all, "sarw $2, %%dx")
PROBE(imul_sets_all, "imulq %%rcx, %%rdx")
PROBE(imul3_sets_all, "imull $77, %%ecx, %%edx")
PROBE(tzcnt_sets_all, "tzcntq %%rcx, %%rdx")
PROBE(lzcnt_sets_all, "lzcntl %%ecx, %%edx")
PROBE(andn_sets_all, "andnq %%rcx, %%rdx, %%rbx")
PROBE(blsr_sets_all, "blsrq %%rcx, %%rdx")

unsigned jit_probe_flags(void)
{
    unsigned found = 0;
    if (and_sets_all() && or_sets_all() && xor_sets_all() && test_sets_all())
        found |= PROBE_LOGIC;
    if (shl_sets_all() && shl1_sets_all() && shr_sets_all() && sar_sets_all())
        found |= PROBE_SHIFT;
    if (imul_sets_all() && imul3_sets_all())
        found |= PROBE_IMUL;
    if (tzcnt_sets_all() && lzcnt_sets_all())
        found |= PROBE_COUNT;
    if (andn_sets_all() && blsr_sets_all())
        found |= PROBE_BMI;
    return found;
}
