/*
 * State conversion. The canonical form has one way to say each thing, KVM several: fixed bits, segments that are null,
 * register state that is "initial" (XSTATE_BV). The comments say what is made of them.
 */
#include "core/kvm/kvm_state.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define DR6_CHANGEABLE ((uint64_t)0xe00f)     /* B0..B3, BD, BS, BT; no RTM, no bus-lock bit in this CPU */
#define DR7_CHANGEABLE ((uint64_t)0xffff23ff) /* L0..G3, LE, GE, GD, R/W and LEN */


/* ---- segments ---- */

static struct segment segment_from_kvm(const struct kvm_segment *k)
{
    struct segment s = {.base = k->base, .limit = k->limit, .selector = k->selector};
    s.rights =
        (uint16_t)((k->type & 0xfu) | (k->s ? SEGMENT_S : 0) | (unsigned)(k->dpl & 3) << SEGMENT_DPL_SHIFT |
                   (k->present ? SEGMENT_P : 0) | (k->avl ? SEGMENT_AVL : 0) | (k->l ? SEGMENT_L : 0) |
                   (k->db ? SEGMENT_DB : 0) | (k->g ? SEGMENT_G : 0));
    if (k->unusable)
        s.rights &= (uint16_t)~SEGMENT_P;
    return s;
}

/* A null segment: what hardware leaves in the hidden part differs, and cannot be seen by the guest. */
static void make_null(struct segment *s, unsigned dpl, bool keep_base)
{
    s->limit = 0;
    s->rights = (uint16_t)(dpl << SEGMENT_DPL_SHIFT);
    if (!keep_base)
        s->base = 0;
}

static void canonical_segments(struct vcpu_state *s)
{
    bool protected_mode = (s->cr0 & CR0_PE) && !(s->rflags & RFLAGS_VM);
    if (!protected_mode)
        return;
    bool code64 = vcpu_in_64bit_code(s);
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        struct segment *seg = &s->seg[i];
        bool null_selector = (seg->selector & ~3u) == 0;
        if (i == SEG_SS) {
            unsigned cpl = (unsigned)(seg->rights & SEGMENT_DPL) >> SEGMENT_DPL_SHIFT;
            /* KVM's instruction emulator makes a flat data segment of a null SS in 64-bit mode. */
            if (!(seg->rights & SEGMENT_P) || (code64 && null_selector))
                make_null(seg, cpl, false);
        } else if (i != SEG_CS && !(seg->rights & SEGMENT_P)) {
            /* The FS and GS bases are registers of their own in long mode (their MSRs). */
            make_null(seg, 0, i >= SEG_FS && vcpu_in_long_mode(s));
        }
    }
    if (!(s->ldtr.rights & SEGMENT_P))
        make_null(&s->ldtr, 0, false);
}

static struct kvm_segment segment_to_kvm(const struct segment *s)
{
    return (struct kvm_segment){
        .base = s->base,
        .limit = s->limit,
        .selector = s->selector,
        .type = s->rights & SEGMENT_TYPE,
        .present = (s->rights & SEGMENT_P) != 0,
        .dpl = (uint8_t)((s->rights & SEGMENT_DPL) >> SEGMENT_DPL_SHIFT),
        .db = (s->rights & SEGMENT_DB) != 0,
        .s = (s->rights & SEGMENT_S) != 0,
        .l = (s->rights & SEGMENT_L) != 0,
        .g = (s->rights & SEGMENT_G) != 0,
        .avl = (s->rights & SEGMENT_AVL) != 0,
        .unusable = !(s->rights & SEGMENT_P),
    };
}

/* struct kvm_regs is in no order that an array could follow. */
#define FOR_EACH_GPR(X)                                                                                      \
    X(GPR_RAX, rax)                                                                                          \
    X(GPR_RCX, rcx)                                                                                          \
    X(GPR_RDX, rdx)                                                                                          \
    X(GPR_RBX, rbx)                                                                                          \
    X(GPR_RSP, rsp)                                                                                          \
    X(GPR_RBP, rbp)                                                                                          \
    X(GPR_RSI, rsi) X(GPR_RDI, rdi) X(GPR_R8, r8) X(GPR_R9, r9) X(GPR_R10, r10) X(GPR_R11, r11)              \
        X(GPR_R12, r12) X(GPR_R13, r13) X(GPR_R14, r14) X(GPR_R15, r15)

static int get_regs(const struct kvm_vm *vm, struct vcpu_state *s, struct error *err)
{
    struct kvm_regs regs;
    int result = kvm_ioctl(vm->vcpu_fd, KVM_GET_REGS, &regs);
    if (result < 0)
        return error_errno(err, result, "KVM_GET_REGS");
#define GET(index, name) s->gpr[index] = regs.name;
    FOR_EACH_GPR(GET)
#undef GET
    s->rip = regs.rip;
    s->rflags = regs.rflags;
    return 0;
}

static int set_regs(struct kvm_vm *vm, const struct vcpu_state *s, struct error *err)
{
    struct kvm_regs regs = {.rip = s->rip, .rflags = s->rflags};
#define SET(index, name) regs.name = s->gpr[index];
    FOR_EACH_GPR(SET)
#undef SET
    int result = kvm_ioctl(vm->vcpu_fd, KVM_SET_REGS, &regs);
    return result < 0 ? error_errno(err, result, "KVM_SET_REGS") : 0;
}

static int get_sregs(const struct kvm_vm *vm, struct vcpu_state *s, struct error *err)
{
    struct kvm_sregs k;
    int result = kvm_ioctl(vm->vcpu_fd, KVM_GET_SREGS, &k);
    if (result < 0)
        return error_errno(err, result, "KVM_GET_SREGS");
    const struct kvm_segment *const segments[SEG_COUNT] = {&k.es, &k.cs, &k.ss, &k.ds, &k.fs, &k.gs};
    for (unsigned i = 0; i < SEG_COUNT; i++)
        s->seg[i] = segment_from_kvm(segments[i]);
    s->ldtr = segment_from_kvm(&k.ldt);
    s->tr = segment_from_kvm(&k.tr);
    s->gdtr = (struct descriptor_table){k.gdt.base, k.gdt.limit};
    s->idtr = (struct descriptor_table){k.idt.base, k.idt.limit};
    s->cr0 = k.cr0 | CR0_ET;
    s->cr2 = k.cr2;
    s->cr3 = k.cr3;
    s->cr4 = k.cr4;
    s->cr8 = k.cr8;
    s->efer = k.efer;
    return 0;
}

static int set_sregs(struct kvm_vm *vm, const struct vcpu_state *s, struct error *err)
{
    struct kvm_sregs k = {
        .cr0 = s->cr0,
        .cr2 = s->cr2,
        .cr3 = s->cr3,
        .cr4 = s->cr4,
        .cr8 = s->cr8,
        .efer = s->efer,
        /* KVM shows an APIC in CPUID while this bit is set, whatever KVM_SET_CPUID2 said. There is none. */
        .apic_base = s->apic_base & ~APIC_BASE_ENABLE,
        .ldt = segment_to_kvm(&s->ldtr),
        .tr = segment_to_kvm(&s->tr),
        .gdt = {.base = s->gdtr.base, .limit = s->gdtr.limit},
        .idt = {.base = s->idtr.base, .limit = s->idtr.limit},
    };
    struct kvm_segment *const segments[SEG_COUNT] = {&k.es, &k.cs, &k.ss, &k.ds, &k.fs, &k.gs};
    for (unsigned i = 0; i < SEG_COUNT; i++)
        *segments[i] = segment_to_kvm(&s->seg[i]);
    if (!(s->efer & EFER_LMA)) /* an ignored bit outside long mode, and KVM refuses it */
        k.cs.l = 0;
    int result = kvm_ioctl(vm->vcpu_fd, KVM_SET_SREGS, &k);
    if (result < 0)
        return error_errno(err, result,
                           "KVM refuses these control or segment registers (cr0 0x%" PRIx64 ", cr3 0x%" PRIx64
                           ", cr4 0x%" PRIx64 ", efer 0x%" PRIx64 ")",
                           s->cr0, s->cr3, s->cr4, s->efer);
    vm->run->cr8 = s->cr8; /* without an APIC in the kernel, KVM_RUN takes CR8 from here */
    return 0;
}

/* ---- debug registers ---- */

static int get_debugregs(const struct kvm_vm *vm, struct vcpu_state *s, struct error *err)
{
    struct kvm_debugregs d;
    int result = kvm_ioctl(vm->vcpu_fd, KVM_GET_DEBUGREGS, &d);
    if (result < 0)
        return error_errno(err, result, "KVM_GET_DEBUGREGS");
    memcpy(s->dr, d.db, sizeof(s->dr));
    s->dr6 = (d.dr6 & DR6_CHANGEABLE) | DR6_FIXED;
    s->dr7 = (d.dr7 & DR7_CHANGEABLE) | DR7_FIXED;
    return 0;
}

static int set_debugregs(struct kvm_vm *vm, const struct vcpu_state *s, struct error *err)
{
    struct kvm_debugregs d = {.dr6 = s->dr6, .dr7 = s->dr7};
    memcpy(d.db, s->dr, sizeof(s->dr));
    int result = kvm_ioctl(vm->vcpu_fd, KVM_SET_DEBUGREGS, &d);
    return result < 0 ? error_errno(err, result, "KVM_SET_DEBUGREGS") : 0;
}

/* ---- x87, SSE, AVX: the standard format of the XSAVE area (SDM 1, 13.4) ---- */

enum xsave_layout {
    XSAVE_FCW = 0,
    XSAVE_FSW = 2,
    XSAVE_FTW = 4,
    XSAVE_FOP = 6,
    XSAVE_FIP = 8,
    XSAVE_FDP = 16,
    XSAVE_MXCSR = 24,
    XSAVE_ST = 32,
    XSAVE_XMM = 160,
    XSAVE_XSTATE_BV = 512,
    XSAVE_YMM_HIGH = 576,
};

#define XSTATE_X87 ((uint64_t)1)
#define XSTATE_SSE ((uint64_t)2)
#define XSTATE_AVX ((uint64_t)4)

/* A component whose bit in XSTATE_BV is clear is in its initial state, whatever the area holds for it. */
static void fpu_from_xsave(const uint8_t *area, struct fpu_state *f)
{
    uint64_t present;
    memset(f, 0, sizeof(*f));
    f->fcw = FCW_DEFAULT;
    f->mxcsr = MXCSR_DEFAULT;
    memcpy(&present, area + XSAVE_XSTATE_BV, sizeof(present));
    if (present & XSTATE_X87) {
        memcpy(&f->fcw, area + XSAVE_FCW, 2);
        memcpy(&f->fsw, area + XSAVE_FSW, 2);
        memcpy(&f->ftw, area + XSAVE_FTW, 1);
        memcpy(&f->fop, area + XSAVE_FOP, 2);
        f->fop &= 0x7ff;
        memcpy(&f->fip, area + XSAVE_FIP, 8);
        memcpy(&f->fdp, area + XSAVE_FDP, 8);
        for (unsigned i = 0; i < 8; i++)
            memcpy(f->st[i], area + XSAVE_ST + 16 * i, 10);
    }
    if (present & (XSTATE_SSE | XSTATE_AVX))
        memcpy(&f->mxcsr, area + XSAVE_MXCSR, 4);
    for (unsigned i = 0; i < 16; i++) {
        if (present & XSTATE_SSE)
            memcpy(f->ymm[i], area + XSAVE_XMM + 16 * i, 16);
        if (present & XSTATE_AVX)
            memcpy(f->ymm[i] + 16, area + XSAVE_YMM_HIGH + 16 * i, 16);
    }
}

static void fpu_to_xsave(const struct fpu_state *f, bool with_avx, uint8_t *area)
{
    uint64_t present = XSTATE_X87 | XSTATE_SSE | (with_avx ? XSTATE_AVX : 0);
    memcpy(area + XSAVE_XSTATE_BV, &present, sizeof(present));
    memcpy(area + XSAVE_FCW, &f->fcw, 2);
    memcpy(area + XSAVE_FSW, &f->fsw, 2);
    memcpy(area + XSAVE_FTW, &f->ftw, 1);
    memcpy(area + XSAVE_FOP, &f->fop, 2);
    memcpy(area + XSAVE_FIP, &f->fip, 8);
    memcpy(area + XSAVE_FDP, &f->fdp, 8);
    memcpy(area + XSAVE_MXCSR, &f->mxcsr, 4);
    for (unsigned i = 0; i < 8; i++)
        memcpy(area + XSAVE_ST + 16 * i, f->st[i], 10);
    for (unsigned i = 0; i < 16; i++) {
        memcpy(area + XSAVE_XMM + 16 * i, f->ymm[i], 16);
        if (with_avx)
            memcpy(area + XSAVE_YMM_HIGH + 16 * i, f->ymm[i] + 16, 16);
    }
}

static bool uses_high_ymm(const struct fpu_state *f)
{
    uint8_t used = 0;
    for (unsigned i = 0; i < 16; i++)
        for (unsigned j = 16; j < 32; j++)
            used |= f->ymm[i][j];
    return used != 0;
}

static int get_fpu(const struct kvm_vm *vm, const struct kvm_state_options *options, struct vcpu_state *s,
                   struct error *err)
{
    struct kvm_xsave xsave;
    int result = kvm_ioctl(vm->vcpu_fd, KVM_GET_XSAVE, &xsave);
    if (result < 0)
        return error_errno(err, result, "KVM_GET_XSAVE");
    fpu_from_xsave((const uint8_t *)xsave.region, &s->fpu);
    if (!options->has_xsave)
        return 0;
    struct kvm_xcrs xcrs;
    result = kvm_ioctl(vm->vcpu_fd, KVM_GET_XCRS, &xcrs);
    if (result < 0)
        return error_errno(err, result, "KVM_GET_XCRS");
    for (unsigned i = 0; i < xcrs.nr_xcrs && i < KVM_MAX_XCRS; i++)
        if (xcrs.xcrs[i].xcr == 0)
            s->xcr0 = xcrs.xcrs[i].value;
    return 0;
}

static int set_fpu(struct kvm_vm *vm, const struct kvm_state_options *options, const struct vcpu_state *s,
                   struct error *err)
{
    struct kvm_xsave xsave;
    if (!options->has_xsave && (s->xcr0 != 1 || uses_high_ymm(&s->fpu)))
        return error_set(err, -EINVAL, "the state uses AVX (XCR0 is 0x%" PRIx64 "), the guest's CPU has none",
                         s->xcr0);
    memset(&xsave, 0, sizeof(xsave));
    fpu_to_xsave(&s->fpu, options->has_xsave, (uint8_t *)xsave.region);
    int result = kvm_ioctl(vm->vcpu_fd, KVM_SET_XSAVE, &xsave);
    if (result < 0)
        return error_errno(err, result, "KVM_SET_XSAVE (mxcsr 0x%x)", s->fpu.mxcsr);
    if (!options->has_xsave)
        return 0;
    struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = s->xcr0}}};
    result = kvm_ioctl(vm->vcpu_fd, KVM_SET_XCRS, &xcrs);
    return result < 0 ? error_errno(err, result, "KVM_SET_XCRS (xcr0 0x%" PRIx64 ")", s->xcr0) : 0;
}

/* ---- MSRs that are not in struct kvm_sregs ---- */

struct msr_field {
    uint32_t index;
    size_t offset;
};

/*
 * kvm_amd forgets the upper halves of the last two (it knows that AMD's SYSENTER exists in 32-bit mode only), so dejavm holds
 * what the guest wrote, and KVM gets it for SYSENTER to work.
 */
#define WRITE_ONLY_MSRS 2

static const struct msr_field msr_fields[] = {
    {0x174, offsetof(struct vcpu_state, sysenter_cs)},
    {0x277, offsetof(struct vcpu_state, pat)},
    {0xc0000081, offsetof(struct vcpu_state, star)},
    {0xc0000082, offsetof(struct vcpu_state, lstar)},
    {0xc0000083, offsetof(struct vcpu_state, cstar)},
    {0xc0000084, offsetof(struct vcpu_state, sfmask)},
    {0xc0000102, offsetof(struct vcpu_state, kernel_gs_base)},
    {0x175, offsetof(struct vcpu_state, sysenter_esp)},
    {0x176, offsetof(struct vcpu_state, sysenter_eip)},
};

/* struct kvm_msrs ends in an array of any length. */
struct msr_list {
    _Alignas(8) uint8_t bytes[sizeof(struct kvm_msrs) + ARRAY_LEN(msr_fields) * sizeof(struct kvm_msr_entry)];
};

static struct kvm_msrs *msrs_of(struct msr_list *list)
{
    struct kvm_msrs *msrs = (struct kvm_msrs *)(void *)list->bytes;
    msrs->nmsrs = ARRAY_LEN(msr_fields);
    for (size_t i = 0; i < ARRAY_LEN(msr_fields); i++)
        msrs->entries[i].index = msr_fields[i].index;
    return msrs;
}

static int transfer_msrs(const struct kvm_vm *vm, unsigned long request, const char *verb,
                         struct kvm_msrs *msrs, struct error *err)
{
    int done = kvm_ioctl(vm->vcpu_fd, request, msrs);
    if (done < 0)
        return error_errno(err, done, "%s MSRs", verb);
    if ((size_t)done < ARRAY_LEN(msr_fields))
        return error_set(err, -EINVAL, "KVM does not %s MSR 0x%x (value 0x%" PRIx64 ")", verb,
                         msrs->entries[done].index, (uint64_t)msrs->entries[done].data);
    return 0;
}

static int get_msrs(const struct kvm_vm *vm, struct vcpu_state *s, struct error *err)
{
    struct msr_list list = {0};
    struct kvm_msrs *msrs = msrs_of(&list);
    int result = transfer_msrs(vm, KVM_GET_MSRS, "read", msrs, err);
    for (size_t i = 0; result == 0 && i < ARRAY_LEN(msr_fields) - WRITE_ONLY_MSRS; i++)
        memcpy((uint8_t *)s + msr_fields[i].offset, &msrs->entries[i].data, sizeof(uint64_t));
    return result;
}

int kvm_state_set_msrs(struct kvm_vm *vm, const struct vcpu_state *s, struct error *err)
{
    struct msr_list list = {0};
    struct kvm_msrs *msrs = msrs_of(&list);
    for (size_t i = 0; i < ARRAY_LEN(msr_fields); i++)
        memcpy(&msrs->entries[i].data, (const uint8_t *)s + msr_fields[i].offset, sizeof(uint64_t));
    return transfer_msrs(vm, KVM_SET_MSRS, "write", msrs, err);
}

/* ---- events ---- */

static uint8_t shadow_from_kvm(uint8_t shadow)
{
    return (uint8_t)((shadow & KVM_X86_SHADOW_INT_STI ? SHADOW_STI : 0) |
                     (shadow & KVM_X86_SHADOW_INT_MOV_SS ? SHADOW_MOV_SS : 0));
}

static int get_events(const struct kvm_vm *vm, struct vcpu_state *s, struct error *err)
{
    struct kvm_vcpu_events events;
    int result = kvm_ioctl(vm->vcpu_fd, KVM_GET_VCPU_EVENTS, &events);
    if (result < 0)
        return error_errno(err, result, "KVM_GET_VCPU_EVENTS");
    s->shadow = shadow_from_kvm(events.interrupt.shadow);
    s->nmi_blocked = events.nmi.masked != 0;
    s->pending_debug = 0;
    if ((events.exception.pending || events.exception.injected) && events.exception.nr == VEC_DB) {
        /* Without a payload KVM has put the reason into DR6 already. */
        uint64_t reason = events.exception_has_payload ? events.exception_payload : s->dr6;
        s->pending_debug = (uint8_t)((reason & 0xf) | (reason & DR6_BS) >> 8);
    }
    return 0;
}

static int set_events(struct kvm_vm *vm, const struct kvm_state_options *options, const struct vcpu_state *s,
                      struct error *err)
{
    struct kvm_vcpu_events events = {.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW};
    if (options->has_payload)
        events.flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
    if (s->shadow == SHADOW_STI)
        events.interrupt.shadow = KVM_X86_SHADOW_INT_STI;
    else if (s->shadow == SHADOW_MOV_SS)
        events.interrupt.shadow = KVM_X86_SHADOW_INT_MOV_SS;
    events.nmi.masked = s->nmi_blocked;
    if (s->pending_debug) {
        events.exception.nr = VEC_DB;
        if (!options->has_payload)
            return error_set(err, -ENOTSUP, "a pending debug trap needs KVM_CAP_EXCEPTION_PAYLOAD");
        events.exception.pending = 1;
        events.exception_has_payload = 1;
        events.exception_payload = (s->pending_debug & 0xfu) | (uint64_t)(s->pending_debug & 0x40) << 8;
    }
    int result = kvm_ioctl(vm->vcpu_fd, KVM_SET_VCPU_EVENTS, &events);
    return result < 0 ? error_errno(err, result, "KVM_SET_VCPU_EVENTS") : 0;
}

int kvm_state_get(const struct kvm_vm *vm, const struct kvm_state_options *options, struct vcpu_state *s,
                  struct error *err)
{
    int result = get_regs(vm, s, err);
    if (result == 0)
        result = get_sregs(vm, s, err);
    if (result == 0)
        result = get_debugregs(vm, s, err);
    if (result == 0)
        result = get_fpu(vm, options, s, err);
    if (result == 0)
        result = get_msrs(vm, s, err);
    if (result == 0)
        result = get_events(vm, s, err);
    if (result == 0)
        canonical_segments(s);
    return result;
}

/* The order matters: control registers decide what KVM accepts afterwards, and KVM_SET_REGS drops exceptions. */
int kvm_state_set(struct kvm_vm *vm, const struct kvm_state_options *options, const struct vcpu_state *s,
                  struct error *err)
{
    int result = set_sregs(vm, s, err);
    if (result == 0)
        result = set_regs(vm, s, err);
    if (result == 0)
        result = set_debugregs(vm, s, err);
    if (result == 0)
        result = set_fpu(vm, options, s, err);
    if (result == 0)
        result = kvm_state_set_msrs(vm, s, err);
    if (result == 0)
        result = set_events(vm, options, s, err);
    return result;
}
