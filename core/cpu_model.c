/*
 * The CPU model's leaves, as AMD's manual volume 3, appendix E and the SDM volume 2, CPUID describe them. Why each
 * choice was made is told in docs/cpu-model.md.
 */
#include "core/cpu_model.h"

#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/vcpu_state.h"

#define BIT(n) ((uint32_t)1 << (n))

#define FAMILY_17H_MODEL_31H                                                                                 \
    0x00830f10u /* extended family 8, extended model 3, family 15, model 1, stepping 0 */
#define CLFLUSH_64_BYTES   (8u << 8)
#define ONE_LOGICAL_CPU    (1u << 16)
#define LEAF1_ECX_OSXSAVE  BIT(27)
#define XSAVE_LEGACY_BYTES 576u /* FXSAVE image and header */
#define XSAVE_AVX_BYTES    256u
#define XCR0_AVX           ((uint64_t)1 << 2)
#define PHYSICAL_BITS      40u
#define LINEAR_BITS        48u

enum feature_support {
    NATIVE,   /* the emulator lets the host CPU execute these instructions */
    EMULATED, /* done in C: needs nothing from the host */
};

enum feature_profiles { IN_BOTH, EMU_ONLY, APIC_ONLY /* cpu_model_add_local_apic */ };

struct feature {
    uint16_t id; /* enum cpu_feature + bit */
    uint8_t support;
    uint8_t profiles;
    const char *name;
};

#define L1C(n)  (CPU_FEATURE_LEAF1_ECX + (n))
#define L1D(n)  (CPU_FEATURE_LEAF1_EDX + (n))
#define L7B(n)  (CPU_FEATURE_LEAF7_EBX + (n))
#define L7C(n)  (CPU_FEATURE_LEAF7_ECX + (n))
#define E1C(n)  (CPU_FEATURE_EXT1_ECX + (n))
#define E1D(n)  (CPU_FEATURE_EXT1_EDX + (n))
#define LXSA(n) (CPU_FEATURE_XSAVE_EAX + (n))

static const struct feature features[] = {
    {L1C(0), NATIVE, IN_BOTH, "SSE3"},          {L1C(1), NATIVE, EMU_ONLY, "PCLMULQDQ"},
    {L1C(9), NATIVE, IN_BOTH, "SSSE3"},         {L1C(12), NATIVE, EMU_ONLY, "FMA"},
    {L1C(13), NATIVE, IN_BOTH, "CMPXCHG16B"},   {L1C(17), EMULATED, EMU_ONLY, "PCID"},
    {L1C(19), NATIVE, IN_BOTH, "SSE4.1"},       {L1C(20), NATIVE, IN_BOTH, "SSE4.2"},
    {L1C(22), NATIVE, EMU_ONLY, "MOVBE"},       {L1C(23), NATIVE, IN_BOTH, "POPCNT"},
    {L1C(25), NATIVE, EMU_ONLY, "AES"},         {L1C(26), EMULATED, EMU_ONLY, "XSAVE"},
    {L1C(28), NATIVE, EMU_ONLY, "AVX"},         {L1C(29), NATIVE, EMU_ONLY, "F16C"},
    {L1C(30), EMULATED, EMU_ONLY, "RDRAND"},    {L1D(0), NATIVE, IN_BOTH, "FPU"},
    {L1D(2), EMULATED, IN_BOTH, "DE"},          {L1D(3), EMULATED, IN_BOTH, "PSE"},
    {L1D(4), EMULATED, EMU_ONLY, "TSC"},        {L1D(5), EMULATED, IN_BOTH, "MSR"},
    {L1D(6), EMULATED, IN_BOTH, "PAE"},         {L1D(8), NATIVE, IN_BOTH, "CMPXCHG8B"},
    {L1D(11), EMULATED, IN_BOTH, "SYSENTER"},   {L1D(13), EMULATED, IN_BOTH, "PGE"},
    {L1D(15), NATIVE, IN_BOTH, "CMOV"},         {L1D(16), EMULATED, IN_BOTH, "PAT"},
    {L1D(19), EMULATED, IN_BOTH, "CLFLUSH"},    {L1D(23), NATIVE, IN_BOTH, "MMX"},
    {L1D(24), EMULATED, IN_BOTH, "FXSR"},       {L1D(25), NATIVE, IN_BOTH, "SSE"},
    {L1D(26), NATIVE, IN_BOTH, "SSE2"},         {L7B(0), EMULATED, EMU_ONLY, "FSGSBASE"},
    {L7B(1), EMULATED, EMU_ONLY, "TSC_ADJUST"}, {L7B(3), NATIVE, EMU_ONLY, "BMI1"},
    {L7B(5), NATIVE, EMU_ONLY, "AVX2"},         {L7B(7), EMULATED, EMU_ONLY, "SMEP"},
    {L7B(8), NATIVE, EMU_ONLY, "BMI2"},         {L7B(10), EMULATED, EMU_ONLY, "INVPCID"},
    {L7B(18), EMULATED, EMU_ONLY, "RDSEED"},    {L7B(19), NATIVE, EMU_ONLY, "ADX"},
    {L7B(20), EMULATED, EMU_ONLY, "SMAP"},      {L7B(23), EMULATED, EMU_ONLY, "CLFLUSHOPT"},
    {L7B(24), EMULATED, EMU_ONLY, "CLWB"},      {L7B(29), NATIVE, EMU_ONLY, "SHA"},
    {L7C(2), EMULATED, EMU_ONLY, "UMIP"},       {E1C(0), NATIVE, IN_BOTH, "LAHF"},
    {E1C(5), NATIVE, EMU_ONLY, "LZCNT"},        {E1D(11), EMULATED, IN_BOTH, "SYSCALL"},
    {E1D(20), EMULATED, IN_BOTH, "NX"},         {E1D(26), EMULATED, EMU_ONLY, "PDPE1GB"},
    {E1D(27), EMULATED, EMU_ONLY, "RDTSCP"},    {E1D(29), EMULATED, IN_BOTH, "LM"},
    {LXSA(0), EMULATED, EMU_ONLY, "XSAVEOPT"},  {LXSA(1), EMULATED, EMU_ONLY, "XSAVEC"},
    {LXSA(2), EMULATED, EMU_ONLY, "XGETBV1"},   {L1C(24), EMULATED, APIC_ONLY, "TSC_DEADLINE"},
    {L1D(9), EMULATED, APIC_ONLY, "APIC"},      {L1C(31), EMULATED, EMU_ONLY, "HYPERVISOR"},
};

/* Bits of leaf 1 EDX that AMD's leaf 0x80000001 EDX repeats: 0..10, 12..17, 23, 24. */
#define EXT1_EDX_COPIES 0x0183f7ffu

struct feature_register {
    uint32_t leaf, subleaf;
    unsigned index; /* EAX, EBX, ECX, EDX = 0..3 */
};

static const struct feature_register feature_registers[] = {
    {1, CPUID_NO_SUBLEAF, 2},          {1, CPUID_NO_SUBLEAF, 3},          {7, 0, 1},   {7, 0, 2},
    {0x80000001, CPUID_NO_SUBLEAF, 2}, {0x80000001, CPUID_NO_SUBLEAF, 3}, {0xd, 1, 0},
};

static uint32_t profile_bits(enum cpu_profile profile, unsigned base)
{
    uint32_t bits = 0;
    for (size_t i = 0; i < ARRAY_LEN(features); i++) {
        bool included = features[i].profiles == IN_BOTH ||
                        (features[i].profiles == EMU_ONLY && profile == CPU_PROFILE_EMU);
        if (included && (features[i].id & ~31u) == base)
            bits |= BIT(features[i].id & 31);
    }
    return bits;
}

static void add(struct cpu_model *model, uint32_t leaf, uint32_t subleaf, uint32_t eax, uint32_t ebx,
                uint32_t ecx, uint32_t edx)
{
    model->entry[model->count++] = (struct cpuid_entry){
        .leaf = leaf, .subleaf = subleaf, .eax = eax, .ebx = ebx, .ecx = ecx, .edx = edx};
}

static void add_brand_string(struct cpu_model *model)
{
    char brand[48] = "dejavm virtual CPU";
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t r[4];
        memcpy(r, brand + i * sizeof(r), sizeof(r));
        add(model, 0x80000002 + i, CPUID_NO_SUBLEAF, r[0], r[1], r[2], r[3]);
    }
}

void cpu_model_init(struct cpu_model *model, enum cpu_profile profile)
{
    bool emu = profile == CPU_PROFILE_EMU;
    const uint32_t auth = 0x68747541, enti = 0x69746e65, camd = 0x444d4163; /* "AuthenticAMD" */
    uint32_t leaf1_edx = profile_bits(profile, CPU_FEATURE_LEAF1_EDX);
    memset(model, 0, sizeof(*model));
    model->mxcsr_mask = emu ? MXCSR_MASK_PLAIN : cpu_host_mxcsr_mask();

    add(model, 0, CPUID_NO_SUBLEAF, emu ? 0xd : 7, auth, camd, enti);
    add(model, 1, CPUID_NO_SUBLEAF, FAMILY_17H_MODEL_31H, CLFLUSH_64_BYTES | ONE_LOGICAL_CPU,
        profile_bits(profile, CPU_FEATURE_LEAF1_ECX), leaf1_edx);
    add(model, 7, 0, 0, profile_bits(profile, CPU_FEATURE_LEAF7_EBX),
        profile_bits(profile, CPU_FEATURE_LEAF7_ECX), 0);
    if (emu) {
        uint32_t full = XSAVE_LEGACY_BYTES + XSAVE_AVX_BYTES;
        /* EBX of subleaves 0 and 1 follows XCR0: cpu_model_cpuid. */
        add(model, 0xd, 0, 7, XSAVE_LEGACY_BYTES, full, 0);
        add(model, 0xd, 1, profile_bits(profile, CPU_FEATURE_XSAVE_EAX), XSAVE_LEGACY_BYTES, 0, 0);
        add(model, 0xd, 2, XSAVE_AVX_BYTES, XSAVE_LEGACY_BYTES, 0, 0);
    }
    add(model, 0x80000000, CPUID_NO_SUBLEAF, 0x80000021, auth, camd, enti);
    add(model, 0x80000001, CPUID_NO_SUBLEAF, FAMILY_17H_MODEL_31H, 0,
        profile_bits(profile, CPU_FEATURE_EXT1_ECX),
        profile_bits(profile, CPU_FEATURE_EXT1_EDX) | (leaf1_edx & EXT1_EDX_COPIES));
    add_brand_string(model);
    /* Size in KiB, associativity, lines per tag, line size: L1D and L1I 32 KiB 8-way, L2 512 KiB 8-way. */
    add(model, 0x80000005, CPUID_NO_SUBLEAF, 0, 0, 0x20080140, 0x20080140);
    add(model, 0x80000006, CPUID_NO_SUBLEAF, 0, 0, 0x02006140, 0);
    add(model, 0x80000007, CPUID_NO_SUBLEAF, 0, 0, 0, emu ? BIT(8) : 0); /* invariant TSC */
    /* SSB_NO, BTC_NO; and with the emulator RstrFpErrPtrs: FXSAVE always stores the x87 pointers. */
    add(model, 0x80000008, CPUID_NO_SUBLEAF, PHYSICAL_BITS | LINEAR_BITS << 8,
        BIT(26) | BIT(29) | (emu ? BIT(2) : 0), 0, 0);
    /* LFENCE serializes, a null selector clears the base, SRSO_NO. */
    add(model, 0x80000021, CPUID_NO_SUBLEAF, BIT(2) | BIT(6) | BIT(29), 0, 0, 0);
}

void cpu_model_add_local_apic(struct cpu_model *model)
{
    for (unsigned i = 0; i < model->count; i++) {
        struct cpuid_entry *entry = &model->entry[i];
        if (entry->leaf == 1 || entry->leaf == 0x80000001)
            entry->edx |= BIT(L1D(9) & 31);
        if (entry->leaf == 1)
            entry->ecx |= BIT(L1C(24) & 31);
    }
}

static const struct cpuid_entry *find_in(const struct cpuid_entry *list, unsigned count, uint32_t leaf,
                                         uint32_t subleaf)
{
    for (unsigned i = 0; i < count; i++) {
        const struct cpuid_entry *entry = &list[i];
        if (entry->leaf == leaf && (entry->subleaf == CPUID_NO_SUBLEAF || entry->subleaf == subleaf))
            return entry;
    }
    return NULL;
}

static const struct cpuid_entry *find(const struct cpu_model *model, uint32_t leaf, uint32_t subleaf)
{
    return find_in(model->entry, model->count, leaf, subleaf);
}

void cpu_model_cpuid(const struct cpu_model *model, uint32_t leaf, uint32_t subleaf, uint64_t cr4,
                     uint64_t xcr0, uint32_t out[4])
{
    memset(out, 0, 4 * sizeof(*out));
    const struct cpuid_entry *entry = model->shown_count
                                          ? find_in(model->shown, model->shown_count, leaf, subleaf)
                                          : find(model, leaf, subleaf);
    if (!entry)
        return;
    out[0] = entry->eax;
    out[1] = entry->ebx;
    out[2] = entry->ecx;
    out[3] = entry->edx;
    if (leaf == 1)
        out[2] = (out[2] & ~LEAF1_ECX_OSXSAVE) | (cr4 & CR4_OSXSAVE ? LEAF1_ECX_OSXSAVE : 0);
    if (leaf == 0xd && subleaf <= 1)
        out[1] = XSAVE_LEGACY_BYTES + (xcr0 & XCR0_AVX ? XSAVE_AVX_BYTES : 0);
}

bool cpu_model_has(const struct cpu_model *model, unsigned feature)
{
    if (feature / 32 >= ARRAY_LEN(feature_registers))
        return false;
    const struct feature_register *r = &feature_registers[feature / 32];
    const struct cpuid_entry *entry = find(model, r->leaf, r->subleaf);
    if (!entry)
        return false;
    const uint32_t value[4] = {entry->eax, entry->ebx, entry->ecx, entry->edx};
    return (value[r->index] & BIT(feature % 32)) != 0;
}

bool cpu_model_hides_features(const struct cpu_model *model)
{
    return !cpu_model_has(model, L1D(4));
}

static const struct feature *find_feature(unsigned id)
{
    for (size_t i = 0; i < ARRAY_LEN(features); i++)
        if (features[i].id == id)
            return &features[i];
    return NULL;
}

static bool host_has_register_state_avx(void)
{
    uint32_t eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & LEAF1_ECX_OSXSAVE))
        return false;
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & 6) == 6;
}

static bool host_has(unsigned id)
{
    const struct feature_register *r = &feature_registers[id / 32];
    uint32_t v[4];
    uint32_t subleaf = r->subleaf == CPUID_NO_SUBLEAF ? 0 : r->subleaf;
    if (!__get_cpuid_count(r->leaf, subleaf, &v[0], &v[1], &v[2], &v[3]) || !(v[r->index] & BIT(id % 32)))
        return false;
    /* The instructions with VEX prefixes also need an operating system that keeps their registers. */
    bool is_vex =
        id == L1C(12) || id == L1C(28) || id == L1C(29) || id == L7B(3) || id == L7B(5) || id == L7B(8);
    return !is_vex || host_has_register_state_avx();
}

struct name_list {
    char text[512];
    size_t length;
};

static void append_name(struct name_list *list, const char *name)
{
    int n = snprintf(list->text + list->length, sizeof(list->text) - list->length, "%s%s",
                     list->length ? ", " : "", name);
    size_t left = sizeof(list->text) - list->length - 1;
    list->length += n < 0 ? 0 : (size_t)n < left ? (size_t)n : left;
}

int cpu_model_check_host(const struct cpu_model *model, struct error *err)
{
    static const char *const register_names[] = {"1.ECX",          "1.EDX",          "7.EBX",    "7.ECX",
                                                 "0x80000001.ECX", "0x80000001.EDX", "0xd.1.EAX"};
    struct name_list lacking = {{0}, 0}, unknown = {{0}, 0};
    for (unsigned id = 0; id < ARRAY_LEN(feature_registers) * 32; id++) {
        bool is_copy = (id & ~31u) == CPU_FEATURE_EXT1_EDX && (EXT1_EDX_COPIES & BIT(id % 32));
        if (is_copy || !cpu_model_has(model, id))
            continue;
        const struct feature *f = find_feature(id);
        char name[32];
        snprintf(name, sizeof(name), "%s bit %u", register_names[id / 32], id % 32);
        if (!f)
            append_name(&unknown, name);
        else if (f->support == NATIVE && !host_has(id))
            append_name(&lacking, f->name);
    }
    if (unknown.length)
        return error_set(err, -ENOTSUP,
                         "the guest's CPU has features that this version does not implement: CPUID %s",
                         unknown.text);
    if (lacking.length)
        return error_set(err, -ENOTSUP, "this host's CPU lacks features of the guest's CPU: %s",
                         lacking.text);
    return 0;
}

static void encode_entries(const struct cpuid_entry *list, unsigned count, struct buffer *out)
{
    buffer_put_u32(out, count);
    for (unsigned i = 0; i < count; i++) {
        const struct cpuid_entry *entry = &list[i];
        const uint32_t fields[] = {entry->leaf, entry->subleaf, entry->eax,
                                   entry->ebx,  entry->ecx,     entry->edx};
        for (size_t j = 0; j < ARRAY_LEN(fields); j++)
            buffer_put_u32(out, fields[j]);
    }
}

void cpu_model_encode(const struct cpu_model *model, struct buffer *out)
{
    encode_entries(model->entry, model->count, out);
    buffer_put_u32(out, model->mxcsr_mask);
    encode_entries(model->shown, model->shown_count, out);
}

static void decode_entries(struct reader *r, struct cpuid_entry *list, unsigned *count)
{
    uint32_t n = reader_u32(r);
    if (n > CPUID_MAX_ENTRIES)
        r->failed = true;
    for (uint32_t i = 0; i < n && !r->failed; i++) {
        list[i].leaf = reader_u32(r);
        list[i].subleaf = reader_u32(r);
        list[i].eax = reader_u32(r);
        list[i].ebx = reader_u32(r);
        list[i].ecx = reader_u32(r);
        list[i].edx = reader_u32(r);
    }
    *count = r->failed ? 0 : n;
}

int cpu_model_decode(struct cpu_model *model, const uint8_t *data, size_t length, struct error *err)
{
    struct reader r = reader_of(data, length);
    memset(model, 0, sizeof(*model));
    decode_entries(&r, model->entry, &model->count);
    model->mxcsr_mask = reader_u32(&r);
    decode_entries(&r, model->shown, &model->shown_count);
    if (r.failed || reader_left(&r) != 0)
        return error_set_kind(err, ERROR_DAMAGED, -EINVAL,
                              "CPU model: %zu bytes do not hold what they announce", length);
    return 0;
}

uint32_t cpu_host_mxcsr_mask(void)
{
    struct {
        uint8_t bytes[512];
    } __attribute__((aligned(16))) image;
    uint32_t mask;
    memset(&image, 0, sizeof(image));
    __asm__ volatile("fxsave64 %0" : "=m"(image)::"memory");
    memcpy(&mask, image.bytes + 28, sizeof(mask));
    return mask ? mask : 0xffbf;
}

void cpu_host_description(char *out, size_t size)
{
    uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
    char vendor[13] = "unknown";
    if (__get_cpuid(0, &eax, &ebx, &ecx, &edx)) {
        memcpy(vendor, &ebx, 4);
        memcpy(vendor + 4, &edx, 4);
        memcpy(vendor + 8, &ecx, 4);
        for (size_t i = 0; i < 12; i++)
            if (vendor[i] < ' ' || vendor[i] > '~')
                vendor[i] = '?';
    }
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx))
        eax = 0;
    uint32_t family = eax >> 8 & 0xf, model = eax >> 4 & 0xf;
    if (family == 6 || family == 15)
        model |= eax >> 12 & 0xf0;
    if (family == 15)
        family += eax >> 20 & 0xff;
    snprintf(out, size, "%s family %u model %u stepping %u", vendor, family, model, eax & 0xf);
}
