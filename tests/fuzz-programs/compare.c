/* What two runs of a program must have in common. */
#include <string.h>

#include "tests/fuzz-programs/program.h"

#define LAST_USER_PAGE 0x00007ffffffff000ull

/*
 * Linux says of every address above its users' that it is present. An operand that wraps round at 4 GiB in 32-bit code exceeds the segment on some CPUs only (SDM 3, 5.3).
 */
static void forgive(struct isa_result *native, const struct isa_result *guest)
{
    if (native->vector == VEC_PF && guest->vector == VEC_PF && native->cr2 >= LAST_USER_PAGE)
        native->error_code = (native->error_code & ~1u) | (guest->error_code & 1);
    uint64_t from_end = (1ull << 32) - guest->cr2;
    bool wraps = native->vector == VEC_GP || native->vector == VEC_SS;
    if (wraps && guest->vector == VEC_PF && from_end - 1 < 31)
        *native = (struct isa_result){native->state, VEC_PF, guest->error_code, guest->cr2};
    /* Under a hypervisor that emulates INT1, RIP stays where it was; a trap's is after the instruction (SDM 2, INT1). */
    uint64_t ahead = guest->state.rip - native->state.rip;
    if (native->vector == VEC_DB && guest->vector == VEC_DB && ahead <= ITEM_BYTES)
        native->state.rip = guest->state.rip;
}

static void show_bytes(char *text, size_t size, const uint8_t *bytes, unsigned n)
{
    for (unsigned i = n; i > 0; i--)
        append_text(text, size, "%02x", bytes[i - 1]);
}

static unsigned compare_fpu(char *text, size_t size, const struct fpu_state *a, const struct fpu_state *b,
                            bool xmm_only)
{
    unsigned n = 0, bytes = xmm_only ? 16 : 32;
    for (unsigned i = 0; i < 16; i++)
        if (memcmp(a->ymm[i], b->ymm[i], bytes) != 0) {
            append_text(text, size, "  ymm%u ", i);
            show_bytes(text, size, a->ymm[i], bytes);
            append_text(text, size, " / ");
            show_bytes(text, size, b->ymm[i], bytes);
            append_text(text, size, "\n");
            n++;
        }
    for (unsigned i = 0; i < 8; i++)
        if (memcmp(a->st[i], b->st[i], 10) != 0) {
            append_text(text, size, "  st%u ", i);
            show_bytes(text, size, a->st[i], 10);
            append_text(text, size, " / ");
            show_bytes(text, size, b->st[i], 10);
            append_text(text, size, "\n");
            n++;
        }
    if (a->fcw != b->fcw || a->fsw != b->fsw || a->ftw != b->ftw || a->mxcsr != b->mxcsr) {
        append_text(text, size, "  fcw %#x / %#x, fsw %#x / %#x, ftw %#x / %#x, mxcsr %#x / %#x\n", a->fcw,
                    b->fcw, a->fsw, b->fsw, a->ftw, b->ftw, a->mxcsr, b->mxcsr);
        n++;
    }
    return n;
}

static unsigned compare_x87_pointers(char *text, size_t size, const struct fpu_state *a,
                                     const struct fpu_state *b)
{
    if (a->fip == b->fip && a->fdp == b->fdp && a->fop == b->fop && a->fcs == b->fcs && a->fds == b->fds)
        return 0;
    append_text(text, size,
                "  fip %#llx / %#llx, fdp %#llx / %#llx, fop %#x / %#x, fcs %#x / %#x, fds %#x / %#x\n",
                (unsigned long long)a->fip, (unsigned long long)b->fip, (unsigned long long)a->fdp,
                (unsigned long long)b->fdp, a->fop, b->fop, a->fcs, b->fcs, a->fds, b->fds);
    return 1;
}

/*
 * KVM may look at an instruction whose #GP it was told of, in order to emulate it, and raise what its emulator finds: kvm_pvm makes
 * it #UD for misaligned SSE operands, #SS where a prefix names SS, #PF at the last canonical address. The same
 * can happen at the first #PF of a page. What the exception should be, the host has said. What error code an address in the upper half has depends on where KVM itself is.
 */
static void forgive_kvm(struct isa_result *kvm, const struct isa_result *emulator)
{
    bool other_fault = (kvm->vector >= 0 && emulator->vector == VEC_GP) ||
                       (kvm->vector == VEC_UD && emulator->vector == VEC_PF);
    bool upper_half = kvm->vector == VEC_PF && emulator->vector == VEC_PF && kvm->cr2 >> 63;
    if (other_fault || upper_half) {
        kvm->vector = emulator->vector;
        kvm->error_code = emulator->error_code;
    }
    if (other_fault)
        kvm->cr2 = emulator->cr2;
    /* To emulate an MMX instruction it reads its registers: TOP becomes 0, and all are valid (SDM 1, 9.5.1). */
    if (emulator->vector == VEC_GP) {
        const uint16_t top = 7 << 11;
        memcpy(kvm->state.fpu.st, emulator->state.fpu.st, sizeof kvm->state.fpu.st);
        kvm->state.fpu.fsw = (uint16_t)((kvm->state.fpu.fsw & ~top) | (emulator->state.fpu.fsw & top));
        kvm->state.fpu.ftw = emulator->state.fpu.ftw;
    }
}

unsigned compare_results(char *text, size_t size, const struct isa_result *a, const struct isa_result *b,
                         enum maker_of_result who)
{
    struct isa_result forgiven = *a;
    if (who != FROM_EMULATOR)
        forgive(&forgiven, b);
    if (who == FROM_KVM)
        forgive_kvm(&forgiven, b);
    a = &forgiven;
    const uint64_t flags = RFLAGS_STATUS | RFLAGS_DF;
    const struct vcpu_state *x = &a->state, *y = &b->state;
    unsigned n = 0;
    if (a->vector != b->vector || a->error_code != b->error_code || a->cr2 != b->cr2) {
        append_text(text, size, "  vector %d / %d, error code %#x / %#x, cr2 %#llx / %#llx\n", a->vector,
                    b->vector, a->error_code, b->error_code, (unsigned long long)a->cr2,
                    (unsigned long long)b->cr2);
        n++;
    }
    if (x->rip != y->rip || ((x->rflags ^ y->rflags) & flags)) {
        append_text(text, size, "  rip %#llx / %#llx, flags %#llx / %#llx\n", (unsigned long long)x->rip,
                    (unsigned long long)y->rip, (unsigned long long)(x->rflags & flags),
                    (unsigned long long)(y->rflags & flags));
        n++;
    }
    for (unsigned i = 0; i < GPR_COUNT; i++)
        if (x->gpr[i] != y->gpr[i]) {
            append_text(text, size, "  gpr%u %#llx / %#llx\n", i, (unsigned long long)x->gpr[i],
                        (unsigned long long)y->gpr[i]);
            n++;
        }
    if (who == FROM_EMULATOR)
        n += compare_x87_pointers(text, size, &x->fpu, &y->fpu);
    return n + compare_fpu(text, size, &x->fpu, &y->fpu, who == FROM_KVM);
}
