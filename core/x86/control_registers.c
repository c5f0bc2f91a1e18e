/* Writes to CR0, CR3, CR4 and RFLAGS, with the mode switches they make (SDM 3, 2.5, 4.1, 9.8; SDM 2, MOV CR). */
#include "core/x86/protect.h"

static enum step refused(struct emu *e)
{
    return raise_exception_code(e, VEC_GP, 0);
}

static bool legacy_pae(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
    return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & EFER_LMA);
}

/* Paging goes on with EFER.LME set: long mode becomes active. */
static bool long_mode_allowed(const struct vcpu_state *s)
{
    bool tss16 = (s->tr.rights & SEGMENT_P) && (s->tr.rights & SEGMENT_TYPE) == DESCRIPTOR_TSS16_BUSY;
    return (s->cr4 & CR4_PAE) && !(s->seg[SEG_CS].rights & SEGMENT_L) && !tss16;
}

enum step write_cr0(struct emu *e, uint64_t value)
{
    struct vcpu_state *s = &e->cpu;
    if (value >> 32)
        return refused(e);
    value = (value & CR0_KNOWN) | CR0_ET;
    if (((value & CR0_PG) && !(value & CR0_PE)) || ((value & CR0_NW) && !(value & CR0_CD)))
        return refused(e);
    bool on = (value & CR0_PG) && !(s->cr0 & CR0_PG);
    bool off = !(value & CR0_PG) && (s->cr0 & CR0_PG);
    uint64_t efer = s->efer;
    if (on && (efer & EFER_LME)) {
        if (!long_mode_allowed(s))
            return refused(e);
        efer |= EFER_LMA;
    }
    if (on && legacy_pae(value, s->cr4, efer) && !mmu_pdptes_valid(e, s->cr3))
        return refused(e);
    if (off && (vcpu_in_64bit_code(s) || (s->cr4 & CR4_PCIDE)))
        return refused(e);
    if (off)
        efer &= ~EFER_LMA;
    bool flush = (value ^ s->cr0) & (CR0_PG | CR0_WP | CR0_PE);
    s->cr0 = value;
    s->efer = efer;
    if (flush)
        tlb_flush(e);
    tlb_select(e);
    return STEP_NEXT;
}

enum step write_cr3(struct emu *e, uint64_t value)
{
    struct vcpu_state *s = &e->cpu;
    if (s->cr4 & CR4_PCIDE)
        value &= ~((uint64_t)1 << 63); /* "do not flush": a hint that need not be taken */
    if (value >> e->physical_bits)
        return refused(e);
    if (legacy_pae(s->cr0, s->cr4, s->efer) && !mmu_pdptes_valid(e, value))
        return refused(e);
    uint64_t old = s->cr3;
    s->cr3 = value;
    tlb_switch_tables(e, old);
    return STEP_NEXT;
}

/* What CPUID bit a bit of CR4 comes with (SDM 3, 2.5). */
static const struct {
    uint64_t bit;
    unsigned feature;
} cr4_features[] = {
    {CR4_VME, CPU_FEATURE_LEAF1_EDX + 1},     {CR4_PVI, CPU_FEATURE_LEAF1_EDX + 1},
    {CR4_DE, CPU_FEATURE_LEAF1_EDX + 2},      {CR4_PSE, CPU_FEATURE_LEAF1_EDX + 3},
    {CR4_TSD, CPU_FEATURE_LEAF1_EDX + 4},     {CR4_PAE, CPU_FEATURE_LEAF1_EDX + 6},
    {CR4_MCE, CPU_FEATURE_LEAF1_EDX + 7},     {CR4_PGE, CPU_FEATURE_LEAF1_EDX + 13},
    {CR4_OSFXSR, CPU_FEATURE_LEAF1_EDX + 24}, {CR4_OSXMMEXCPT, CPU_FEATURE_LEAF1_EDX + 25},
    {CR4_UMIP, CPU_FEATURE_LEAF7_ECX + 2},    {CR4_FSGSBASE, CPU_FEATURE_LEAF7_EBX + 0},
    {CR4_PCIDE, CPU_FEATURE_LEAF1_ECX + 17},  {CR4_OSXSAVE, CPU_FEATURE_LEAF1_ECX + 26},
    {CR4_SMEP, CPU_FEATURE_LEAF7_EBX + 7},    {CR4_SMAP, CPU_FEATURE_LEAF7_EBX + 20},
};

/* Bits of features that every 64-bit processor has, and that hardware cannot hide (core/cpu_model.h). */
#define CR4_ALWAYS                                                                                           \
    (CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_OSFXSR |             \
     CR4_OSXMMEXCPT)

uint64_t cr4_implemented(void)
{
    uint64_t bits = CR4_PCE;
    for (unsigned i = 0; i < ARRAY_LEN(cr4_features); i++)
        bits |= cr4_features[i].bit;
    return bits;
}

static uint64_t cr4_known(const struct emu *e)
{
    uint64_t known = CR4_PCE | (cpu_model_hides_features(e->model) ? CR4_ALWAYS : 0);
    for (unsigned i = 0; i < ARRAY_LEN(cr4_features); i++)
        if (cpu_model_has(e->model, cr4_features[i].feature))
            known |= cr4_features[i].bit;
    return known;
}

enum step write_cr4(struct emu *e, uint64_t value)
{
    struct vcpu_state *s = &e->cpu;
    uint64_t changed = value ^ s->cr4;
    /* Bits that the model lacks may only stay as they are (a state may have come in with them). */
    if (changed & value & ~cr4_known(e))
        return refused(e);
    if (vcpu_in_long_mode(s) && !(value & CR4_PAE))
        return refused(e);
    if ((changed & value & CR4_PCIDE) && (!vcpu_in_long_mode(s) || (s->cr3 & 0xfff)))
        return refused(e);
    bool reload = changed & (CR4_PAE | CR4_PSE | CR4_PGE | CR4_SMEP);
    if (reload && legacy_pae(s->cr0, value, s->efer) && !mmu_pdptes_valid(e, s->cr3))
        return refused(e);
    s->cr4 = value;
    if (changed & (CR4_PAE | CR4_PSE | CR4_PGE | CR4_SMEP | CR4_SMAP | CR4_PCIDE))
        tlb_flush(e);
    tlb_select(e);
    return STEP_NEXT;
}

void set_rflags(struct emu *e, uint64_t value, uint64_t mask)
{
    uint64_t old = e->cpu.rflags;
    e->cpu.rflags = (old & ~mask) | (value & mask) | RFLAGS_FIXED;
    if ((old ^ e->cpu.rflags) & RFLAGS_AC)
        tlb_select(e);
}
