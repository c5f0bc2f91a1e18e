/*
 * The `kvm` engine: the whole guest runs in /dev/kvm; interrupt controller and timers are in user space, so that
 * every interrupt is injected, and recorded, by dejavm. Works on any stock KVM (kvm_intel, kvm_amd, kvm_pvm).
 */
#ifndef DEJAVM_CORE_KVM_KVM_ENGINE_H
#define DEJAVM_CORE_KVM_KVM_ENGINE_H

#include "core/cpu_model.h"
#include "core/engine.h"

/* What went by, for the recording's report. Times in nanoseconds of CLOCK_MONOTONIC. */
struct kvm_statistics {
    uint64_t exits_pio, exits_mmio, exits_hlt, exits_msr, exits_window, exits_kick, exits_internal,
        exits_other;
    uint64_t emulated_steps; /* instructions that dejavm's emulator executed for KVM */
    uint64_t interrupts;
    uint64_t time_in_kvm_ns; /* inside ioctl(KVM_RUN): guest and KVM */
    uint64_t time_in_emulator_ns;
};

/*
 * model's CPUID is given to the vCPU. -ENODEV, -EACCES, -ENOTSUP with a message that says what is missing and what
 * to do. position() is always POSITION_UNKNOWN; request.limit and request.match are not supported (-EINVAL).
 */
int kvm_engine_create(struct engine **out, struct guest_ram *ram, struct boundary *boundary,
                      const struct cpu_model *model, struct error *err) must_check;

/*
 * Fills model->shown with what KVM shows the guest, if that is not what was asked of it (kvm_pvm puts features of the host
 * into some leaves). Before the guest runs.
 */
int kvm_engine_shown_cpuid(struct engine *e, struct cpu_model *model, struct error *err) must_check;

const struct kvm_statistics *kvm_engine_statistics(const struct engine *e);

/*
 * RAM was written by others than the vCPU, page tables perhaps among it: what KVM has derived from them (shadow page tables,
 * TLB) is forgotten. The vCPU is not in run().
 */
int kvm_engine_ram_changed(struct engine *e, struct error *err) must_check;

/*
 * True when the vCPU stands right after the guest instruction that made the last crossing of the boundary, with
 * nothing executed since: that boundary needs no landmark.
 */
bool kvm_engine_after_crossing(const struct engine *e);

/*
 * True when nothing is on its way into the guest: no queued interrupt or NMI, no exception that waits for delivery. Only
 * then does state() show a boundary that an exact engine passes as well.
 */
bool kvm_engine_settled(struct engine *e);

#endif
