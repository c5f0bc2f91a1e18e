/*
 * States come from trace files too: what no vCPU of this model can be in is refused here, so that the rest need not expect it.
 * Not asked is what the emulator takes as it comes: RIP, limits and types of segments, CR2.
 */
#include "core/x86/protect.h"

/* RFLAGS bits that exist. */
#define RFLAGS_KNOWN                                                                                         \
    (RFLAGS_STATUS | RFLAGS_FIXED | RFLAGS_TF | RFLAGS_IF | RFLAGS_DF | RFLAGS_IOPL | RFLAGS_NT |            \
     RFLAGS_RF | RFLAGS_VM | RFLAGS_AC | RFLAGS_VIF | RFLAGS_VIP | RFLAGS_ID)
#define EFER_KNOWN      (EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE)
#define SEGMENT_UNKNOWN 0x0f00u
#define PENDING_KNOWN   0x4fu
#define CR8_MAX         15u
#define XCR0_X87        1u
#define XCR0_SSE        2u
#define XCR0_AVX        4u
#define CPUID_XSAVE     0xdu

static bool rights_have_unknown_bits(const struct vcpu_state *s)
{
    unsigned rights = s->ldtr.rights | s->tr.rights;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        rights |= s->seg[i].rights;
    return rights & SEGMENT_UNKNOWN;
}

static bool bases_are_canonical(const struct vcpu_state *s)
{
    const uint64_t list[] = {s->seg[SEG_FS].base, s->seg[SEG_GS].base, s->kernel_gs_base, s->ldtr.base,
                             s->tr.base,          s->gdtr.base,        s->idtr.base};
    for (size_t i = 0; i < ARRAY_LEN(list); i++)
        if (!is_canonical(list[i]))
            return false;
    return true;
}

static bool entries_are_canonical(const struct vcpu_state *s)
{
    return is_canonical(s->lstar) && is_canonical(s->cstar) && is_canonical(s->sysenter_esp) &&
           is_canonical(s->sysenter_eip);
}

/* CPUID leaf 0xd says which state components there are; x87 there is always. */
static bool xcr0_is_possible(const struct cpu_model *model, uint64_t xcr0)
{
    uint32_t out[4];
    cpu_model_cpuid(model, CPUID_XSAVE, 0, 0, 0, out);
    uint64_t known = (out[0] & (XCR0_SSE | XCR0_AVX)) | XCR0_X87;
    return !(xcr0 & ~known) && (xcr0 & XCR0_X87) && (!(xcr0 & XCR0_AVX) || (xcr0 & XCR0_SSE));
}

const char *state_impossible(const struct emu *e, const struct vcpu_state *s)
{
    bool paging = s->cr0 & CR0_PG, long_active = paging && (s->efer & EFER_LME);
    const struct {
        bool wrong;
        const char *why;
    } checks[] = {
        {(s->rflags & ~RFLAGS_KNOWN) || !(s->rflags & RFLAGS_FIXED), "RFLAGS has reserved bits set"},
        {s->cr0 & ~CR0_KNOWN, "CR0 has reserved bits set"},
        {paging && !(s->cr0 & CR0_PE), "CR0.PG is set without PE"},
        {(s->cr0 & CR0_NW) && !(s->cr0 & CR0_CD), "CR0.NW is set without CD"},
        {s->cr3 >> e->physical_bits, "CR3 is beyond the CPU model's physical addresses"},
        {s->cr4 & ~cr4_implemented(), "CR4 has bits set that the emulator does not know"},
        {(s->cr4 & CR4_PCIDE) && !long_active, "CR4.PCIDE is set outside of long mode"},
        {s->cr8 > CR8_MAX, "CR8 has reserved bits set"},
        {s->efer & ~EFER_KNOWN, "EFER has bits set that the CPU model lacks"},
        {long_active != ((s->efer & EFER_LMA) != 0), "EFER.LMA does not agree with EFER.LME and CR0.PG"},
        {long_active && !(s->cr4 & CR4_PAE), "long mode without CR4.PAE"},
        {(s->rflags & RFLAGS_VM) && (long_active || !(s->cr0 & CR0_PE)),
         "RFLAGS.VM is set outside of protected mode"},
        {!xcr0_is_possible(e->model, s->xcr0), "XCR0 names state components that the CPU model lacks"},
        {s->fpu.mxcsr & ~(e->model->mxcsr_mask & cpu_host_mxcsr_mask()),
         "MXCSR has bits set that the CPU model or this host's CPU lacks"},
        {(s->dr6 & ~(DR6_WRITABLE | DR6_FIXED)) || (s->dr7 & ~(DR7_WRITABLE | DR7_FIXED)),
         "DR6 or DR7 has reserved bits set"},
        {rights_have_unknown_bits(s), "the rights of a segment have bits that do not exist"},
        {long_active && (s->seg[SEG_CS].rights & SEGMENT_L) && (s->seg[SEG_CS].rights & SEGMENT_DB),
         "CS has both L and D set"},
        {!bases_are_canonical(s), "the base of a segment or a descriptor table is not canonical"},
        {!entries_are_canonical(s), "an MSR that holds an entry point is not canonical"},
        {s->sfmask >> 32 || s->sysenter_cs >> 32 || s->tsc_aux >> 32, "an MSR of 32 bits has more"},
        {!pat_is_valid(s->pat), "PAT holds a memory type that does not exist"},
        {!apic_base_is_valid(e, s->apic_base), "APIC_BASE has reserved bits set"},
        {s->shadow > SHADOW_MOV_SS || s->nmi_blocked > 1 || s->activity > ACTIVITY_SHUTDOWN ||
             (s->pending_debug & ~PENDING_KNOWN),
         "an interruptibility or activity field is out of range"},
    };
    for (size_t i = 0; i < ARRAY_LEN(checks); i++)
        if (checks[i].wrong)
            return checks[i].why;
    return NULL;
}
