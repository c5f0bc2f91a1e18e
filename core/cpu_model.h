/*
 * The CPU that the guest sees: one fixed model, independent of the host, in two profiles. docs/cpu-model.md
 * documents it; the leaves are stored in each trace.
 */
#ifndef DEJAVM_CORE_CPU_MODEL_H
#define DEJAVM_CORE_CPU_MODEL_H

#include "core/base/buffer.h"
#include "core/base/error.h"
#include "core/base/types.h"

enum cpu_profile {
    CPU_PROFILE_KVM, /* only what is deterministic under stock KVM: no TSC, RDRAND, XSAVE, AVX, ... */
    CPU_PROFILE_EMU, /* x86-64-v3 with XSAVE and the extensions that the emulator implements */
};

#define CPUID_MAX_ENTRIES 64
#define CPUID_NO_SUBLEAF  UINT32_MAX

struct cpuid_entry {
    uint32_t leaf;
    uint32_t subleaf; /* CPUID_NO_SUBLEAF where ECX does not matter */
    uint32_t eax, ebx, ecx, edx;
};

struct cpu_model {
    unsigned count;
    struct cpuid_entry entry[CPUID_MAX_ENTRIES];
    /*
     * The MXCSR bits that exist, as FXSAVE shows them (SDM 1, 11.6.6). Under KVM it is the recording host's: AMD has bit 17
     * (misaligned operands), Intel has not, and CPUID does not hide it.
     */
    uint32_t mxcsr_mask;
    /*
     * Where KVM does not show the guest what it was asked to: what the CPUID instruction gives instead of entry. It changes
     * nothing about which instructions the model has. 0: as in entry.
     */
    unsigned shown_count;
    struct cpuid_entry shown[CPUID_MAX_ENTRIES];
};

#define MXCSR_MASK_PLAIN 0xffffu

/* The host CPU's own. */
uint32_t cpu_host_mxcsr_mask(void);

/*
 * Feature bits that follow the vCPU's state (OSXSAVE, XSAVE size) are filled in by cpu_model_cpuid. The result is the same
 * on every host; cpu_model_check_host says whether this host can run it.
 */
void cpu_model_init(struct cpu_model *model, enum cpu_profile profile);

/* Adds the local APIC and its timer's TSC-deadline mode. A profile has neither. */
void cpu_model_add_local_apic(struct cpu_model *model);

/* What CPUID returns, out[] = EAX, EBX, ECX, EDX; unknown leaves give zeros. cr4 and xcr0: the vCPU's. */
void cpu_model_cpuid(const struct cpu_model *model, uint32_t leaf, uint32_t subleaf, uint64_t cr4,
                     uint64_t xcr0, uint32_t out[4]);

enum cpu_feature { /* register of leaf 1, 7.0, 0x80000001, 0xd.1 in bits 5..7 and bit number in 0..4 */
                   CPU_FEATURE_LEAF1_ECX = 0 << 5,
                   CPU_FEATURE_LEAF1_EDX = 1 << 5,
                   CPU_FEATURE_LEAF7_EBX = 2 << 5,
                   CPU_FEATURE_LEAF7_ECX = 3 << 5,
                   CPU_FEATURE_EXT1_ECX = 4 << 5,
                   CPU_FEATURE_EXT1_EDX = 5 << 5,
                   CPU_FEATURE_XSAVE_EAX = 6 << 5,
};
/* feature: one of the above plus a bit number, e.g. CPU_FEATURE_LEAF1_ECX + 30 (RDRAND). */
bool cpu_model_has(const struct cpu_model *model, unsigned feature);

/*
 * True for a model of hardware that has more than CPUID says (profile kvm): nothing keeps a guest from executing RDRAND, LZCNT
 * or TZCNT, or from setting CR4.MCE. Told by the TSC, which no 64-bit CPU lacks.
 */
bool cpu_model_hides_features(const struct cpu_model *model);

/* -ENOTSUP and a message naming each feature the host CPU lacks but the emulator executes natively. */
int cpu_model_check_host(const struct cpu_model *model, struct error *err) must_check;

void cpu_model_encode(const struct cpu_model *model, struct buffer *out);
int cpu_model_decode(struct cpu_model *model, const uint8_t *data, size_t length,
                     struct error *err) must_check;

/* "AuthenticAMD family 25 model 17 stepping 1" of the host, from CPUID. */
void cpu_host_description(char *out, size_t size);

#endif
