/*
 * The architectural state of the vCPU, in one canonical form that every engine can load and store at any
 * instruction boundary. Names are the SDM's (volume 3, chapter 2; volume 1, chapters 3, 8, 10, 13).
 *
 * Everything here is inside the line around CPU + RAM: two states that compare equal, with equal RAM, have
 * the same future.
 */
#ifndef DEJAVM_CORE_VCPU_STATE_H
#define DEJAVM_CORE_VCPU_STATE_H

#include "core/base/buffer.h"
#include "core/base/error.h"
#include "core/base/hash.h"
#include "core/base/types.h"

enum gpr {
    GPR_RAX,
    GPR_RCX,
    GPR_RDX,
    GPR_RBX,
    GPR_RSP,
    GPR_RBP,
    GPR_RSI,
    GPR_RDI,
    GPR_R8,
    GPR_R9,
    GPR_R10,
    GPR_R11,
    GPR_R12,
    GPR_R13,
    GPR_R14,
    GPR_R15,
    GPR_COUNT
};

enum segment_register { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_COUNT };

/* Access rights, laid out as bits 8..23 of a descriptor's high dword (SDM 3, 3.4.5), shifted down by 8. */
enum segment_rights {
    SEGMENT_TYPE = 0x000f,
    SEGMENT_S = 0x0010, /* code or data */
    SEGMENT_DPL = 0x0060,
    SEGMENT_P = 0x0080,
    SEGMENT_AVL = 0x1000,
    SEGMENT_L = 0x2000,
    SEGMENT_DB = 0x4000,
    SEGMENT_G = 0x8000,
};
#define SEGMENT_DPL_SHIFT 5

struct segment {
    uint64_t base;
    uint32_t limit; /* in bytes: already scaled by G */
    uint16_t selector;
    uint16_t rights; /* enum segment_rights; bits 8..11 are zero. A null (unusable) segment has P clear */
};

struct descriptor_table {
    uint64_t base;
    uint16_t limit;
};

#define RFLAGS_CF     ((uint64_t)1 << 0)
#define RFLAGS_FIXED  ((uint64_t)1 << 1)
#define RFLAGS_PF     ((uint64_t)1 << 2)
#define RFLAGS_AF     ((uint64_t)1 << 4)
#define RFLAGS_ZF     ((uint64_t)1 << 6)
#define RFLAGS_SF     ((uint64_t)1 << 7)
#define RFLAGS_TF     ((uint64_t)1 << 8)
#define RFLAGS_IF     ((uint64_t)1 << 9)
#define RFLAGS_DF     ((uint64_t)1 << 10)
#define RFLAGS_OF     ((uint64_t)1 << 11)
#define RFLAGS_IOPL   ((uint64_t)3 << 12)
#define RFLAGS_NT     ((uint64_t)1 << 14)
#define RFLAGS_RF     ((uint64_t)1 << 16)
#define RFLAGS_VM     ((uint64_t)1 << 17)
#define RFLAGS_AC     ((uint64_t)1 << 18)
#define RFLAGS_VIF    ((uint64_t)1 << 19)
#define RFLAGS_VIP    ((uint64_t)1 << 20)
#define RFLAGS_ID     ((uint64_t)1 << 21)
#define RFLAGS_STATUS (RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF | RFLAGS_OF)

#define CR0_PE ((uint64_t)1 << 0)
#define CR0_MP ((uint64_t)1 << 1)
#define CR0_EM ((uint64_t)1 << 2)
#define CR0_TS ((uint64_t)1 << 3)
#define CR0_ET ((uint64_t)1 << 4)
#define CR0_NE ((uint64_t)1 << 5)
#define CR0_WP ((uint64_t)1 << 16)
#define CR0_AM ((uint64_t)1 << 18)
#define CR0_NW ((uint64_t)1 << 29)
#define CR0_CD ((uint64_t)1 << 30)
#define CR0_PG ((uint64_t)1 << 31)

#define CR4_VME        ((uint64_t)1 << 0)
#define CR4_PVI        ((uint64_t)1 << 1)
#define CR4_TSD        ((uint64_t)1 << 2)
#define CR4_DE         ((uint64_t)1 << 3)
#define CR4_PSE        ((uint64_t)1 << 4)
#define CR4_PAE        ((uint64_t)1 << 5)
#define CR4_MCE        ((uint64_t)1 << 6)
#define CR4_PGE        ((uint64_t)1 << 7)
#define CR4_PCE        ((uint64_t)1 << 8)
#define CR4_OSFXSR     ((uint64_t)1 << 9)
#define CR4_OSXMMEXCPT ((uint64_t)1 << 10)
#define CR4_UMIP       ((uint64_t)1 << 11)
#define CR4_FSGSBASE   ((uint64_t)1 << 16)
#define CR4_PCIDE      ((uint64_t)1 << 17)
#define CR4_OSXSAVE    ((uint64_t)1 << 18)
#define CR4_SMEP       ((uint64_t)1 << 20)
#define CR4_SMAP       ((uint64_t)1 << 21)

#define EFER_SCE ((uint64_t)1 << 0)
#define EFER_LME ((uint64_t)1 << 8)
#define EFER_LMA ((uint64_t)1 << 10)
#define EFER_NXE ((uint64_t)1 << 11)

/* IA32_APIC_BASE (SDM 3, 10.4.4), and where in the local APIC's page the task priority register is */
#define APIC_BASE_ENABLE ((uint64_t)1 << 11)
#define APIC_TPR_OFFSET  0x80u

#define DR6_FIXED ((uint64_t)0xffff0ff0)
#define DR6_BD    ((uint64_t)1 << 13)
#define DR6_BS    ((uint64_t)1 << 14)
#define DR6_BT    ((uint64_t)1 << 15)
#define DR7_FIXED ((uint64_t)0x400)
#define DR7_GD    ((uint64_t)1 << 13)

enum exception_vector {
    VEC_DE = 0,
    VEC_DB = 1,
    VEC_NMI = 2,
    VEC_BP = 3,
    VEC_OF = 4,
    VEC_BR = 5,
    VEC_UD = 6,
    VEC_NM = 7,
    VEC_DF = 8,
    VEC_TS = 10,
    VEC_NP = 11,
    VEC_SS = 12,
    VEC_GP = 13,
    VEC_PF = 14,
    VEC_MF = 16,
    VEC_AC = 17,
    VEC_MC = 18,
    VEC_XM = 19,
};

enum interrupt_shadow {
    SHADOW_NONE = 0,
    SHADOW_STI = 1,    /* the instruction after STI: no external interrupt before it */
    SHADOW_MOV_SS = 2, /* the instruction after MOV SS/POP SS: no interrupt, no NMI, no debug trap either */
};

enum activity {
    ACTIVITY_RUNNING = 0,
    ACTIVITY_HALTED = 1,   /* HLT executed, waiting for an interrupt; RIP is after the HLT. Or an x87
                                instruction, at RIP, waits for one (enum boundary_ignne) */
    ACTIVITY_SHUTDOWN = 2, /* triple fault: only the end follows */
};

#define MXCSR_DEFAULT 0x1f80u
#define FCW_DEFAULT   0x037fu

/*
 * x87, SSE and AVX. The vector registers are kept whole (YMM with XMM as their low half).
 * ftw is the abridged tag word of FXSAVE: bit i set = *physical* register i is not empty.
 * st[i] is ST(i) relative to TOP (as in the FXSAVE image), 80 bits used.
 */
struct fpu_state {
    uint8_t ymm[16][32];
    uint8_t st[8][16];
    uint16_t fcw, fsw;
    uint8_t ftw;
    uint16_t fop;      /* 11 bits */
    uint16_t fcs, fds; /* selectors of the 32-bit formats of FNSTENV */
    uint64_t fip, fdp;
    uint32_t mxcsr;
};

struct vcpu_state {
    uint64_t gpr[GPR_COUNT]; /* enum gpr order; must stay first: generated code addresses it */
    uint64_t rip;
    uint64_t rflags;
    struct segment seg[SEG_COUNT]; /* enum segment_register order; FS and GS bases are their MSRs */
    struct segment ldtr, tr;
    struct descriptor_table gdtr, idtr;
    uint64_t cr0, cr2, cr3, cr4, cr8, xcr0;
    uint64_t dr[4], dr6, dr7;
    uint64_t efer, star, lstar, cstar, sfmask, kernel_gs_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t tsc_aux, pat, apic_base, misc_enable;
    struct fpu_state fpu;
    uint8_t shadow;        /* enum interrupt_shadow */
    uint8_t nmi_blocked;   /* 0 or 1: between an NMI and the next IRET */
    uint8_t activity;      /* enum activity */
    uint8_t pending_debug; /* bits 0..3 = B0..B3, 0x40 = BS: a #DB trap to deliver at this boundary */
};

/* Power-on state (SDM 3, table 10-1), real mode at F000:FFF0. */
void vcpu_state_reset(struct vcpu_state *s);

/* Everything equal, RFLAGS included. */
bool vcpu_state_equal(const struct vcpu_state *a, const struct vcpu_state *b);

/*
 * One line per difference, "name: a / b\n", into out (always NUL-terminated, at most size bytes).
 * Returns the number of differing registers.
 */
unsigned vcpu_state_diff(const struct vcpu_state *a, const struct vcpu_state *b, char *out, size_t size);

/* All registers as readable text, several lines, each ending in a newline. */
void vcpu_state_format(const struct vcpu_state *s, char *out, size_t size);

/* XXH3-64 of the canonical encoding (below). */
uint64_t vcpu_state_hash(const struct vcpu_state *s);

/*
 * The register digest of a trace: as vcpu_state_hash, with RFLAGS.RF and the x87 pointers (FIP, FDP, FOP, FCS, FDS)
 * taken as 0. Hosts differ in these between instructions (AMD saves the pointers only with a pending exception; RF between
 * the iterations of a REP is the processor's choice). In 64-bit code, where ES, DS, FS and GS have no effect but for the
 * bases of FS and GS, the rest of them is left out too: IRET to an outer level clears them (SDM 3, 6.14.3), and not every KVM
 * does so.
 */
uint64_t vcpu_state_digest(const struct vcpu_state *s);
/* Sets what the digest leaves out to 0. */
void vcpu_state_without_hidden(struct vcpu_state *s);

/* XXH3-64 of x87 control/status/tag, MXCSR, ST0..7 and YMM0..15; without FIP, FDP and FOP. */
uint64_t fpu_state_hash(const struct fpu_state *f);

/* Canonical encoding, format "vcpu state, version 1" of trace-format/SPEC.md; fixed length. */
#define VCPU_STATE_VERSION 1
void vcpu_state_encode(const struct vcpu_state *s, struct buffer *out);
int vcpu_state_decode(struct vcpu_state *s, const uint8_t *data, size_t length, struct error *err) must_check;

/* CPL is the DPL of SS (SDM 3, 5.5). */
static inline unsigned vcpu_cpl(const struct vcpu_state *s)
{
    return (unsigned)(s->seg[SEG_SS].rights & SEGMENT_DPL) >> SEGMENT_DPL_SHIFT;
}

static inline bool vcpu_in_long_mode(const struct vcpu_state *s)
{
    return (s->efer & EFER_LMA) != 0;
}

static inline bool vcpu_in_64bit_code(const struct vcpu_state *s)
{
    return (s->efer & EFER_LMA) && (s->seg[SEG_CS].rights & SEGMENT_L);
}

#endif
