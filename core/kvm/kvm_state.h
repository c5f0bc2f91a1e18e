/* struct vcpu_state to and from a KVM vCPU. Private to core/kvm. */
#ifndef DEJAVM_CORE_KVM_KVM_STATE_H
#define DEJAVM_CORE_KVM_KVM_STATE_H

#include "core/kvm/kvm_vm.h"
#include "core/vcpu_state.h"

struct kvm_state_options {
    bool has_xsave;   /* the CPU model lets the guest change XCR0 */
    bool has_payload; /* KVM_CAP_EXCEPTION_PAYLOAD is enabled */
};

/*
 * Reads everything that KVM holds; tsc_aux, apic_base, misc_enable, sysenter_esp, sysenter_eip and activity (and xcr0
 * without XSAVE), which dejavm holds for KVM, keep their values in s. kvm_amd cannot tell the two interrupt shadows apart:
 * s->shadow is SHADOW_STI | SHADOW_MOV_SS then.
 */
int kvm_state_get(const struct kvm_vm *vm, const struct kvm_state_options *options, struct vcpu_state *s,
                  struct error *err) must_check;

/* -EINVAL with a message that names what KVM did not take. */
int kvm_state_set(struct kvm_vm *vm, const struct kvm_state_options *options, const struct vcpu_state *s,
                  struct error *err) must_check;

/* Only the MSRs that are not in KVM's other structures. */
int kvm_state_set_msrs(struct kvm_vm *vm, const struct vcpu_state *s, struct error *err) must_check;

#endif
