/*
 * A thin wrapper over the KVM API (Linux, Documentation/virt/kvm/api.rst): one VM with one vCPU, without interrupt
 * controllers and timers in the kernel. Private to core/kvm.
 */
#ifndef DEJAVM_CORE_KVM_KVM_VM_H
#define DEJAVM_CORE_KVM_KVM_VM_H

#include <linux/kvm.h>
#include <signal.h>

#include "core/base/error.h"
#include "core/cpu_model.h"

struct kvm_vm {
    int kvm_fd, vm_fd, vcpu_fd; /* -1: not open */
    struct kvm_run *run;        /* shared with the kernel */
    size_t run_bytes;
};

/* ioctl that returns its result or a negative errno. */
int kvm_ioctl(int fd, unsigned long request, void *argument);
int kvm_ioctl_value(int fd, unsigned long request, unsigned long argument);

/*
 * The signal that gets a vCPU's thread out of KVM_RUN. Its handler does nothing, and stays installed for the life of the
 * process. Not a real-time signal: those queue, and a queue can be full.
 */
#define KVM_KICK_SIGNAL SIGUSR1
int kvm_install_kick_handler(struct error *err) must_check;

/* Opens /dev/kvm and checks its API version. -ENODEV, -EACCES, -ENOTSUP with a message that says what to do. */
int kvm_open(int *fd, struct error *err) must_check;

/* The capability's value, 0 where the host does not have it. */
int kvm_capability(const struct kvm_vm *vm, unsigned capability);

/*
 * Creates the VM. On failure everything is undone. The vCPU follows with kvm_vm_create_vcpu, after what has to be
 * set up before it (capabilities, MSR filter).
 */
int kvm_vm_create(struct kvm_vm *vm, struct error *err) must_check;
/* -ENOTSUP naming the first capability that dejavm cannot do without and this host's KVM does not have. */
int kvm_vm_check(const struct kvm_vm *vm, struct error *err) must_check;
int kvm_vm_create_vcpu(struct kvm_vm *vm, struct error *err) must_check;
void kvm_vm_destroy(
    struct kvm_vm *vm); /* also of one that was never created but initialised with KVM_VM_NONE */

#define KVM_VM_NONE ((struct kvm_vm){.kvm_fd = -1, .vm_fd = -1, .vcpu_fd = -1})

int kvm_vm_enable(struct kvm_vm *vm, uint32_t capability, uint64_t argument);

/* Guest physical [gpa, gpa+bytes) is host memory from now on. */
int kvm_vm_map(struct kvm_vm *vm, uint32_t slot, gpa_t gpa, void *host, uint64_t bytes, bool log_dirty,
               struct error *err) must_check;

/* struct kvm_cpuid2 ends in an array of any length: room for it with KVM_CPUID_ENTRIES. */
#define KVM_CPUID_ENTRIES 128
struct kvm_cpuid_buffer {
    _Alignas(
        8) uint8_t bytes[sizeof(struct kvm_cpuid2) + KVM_CPUID_ENTRIES * sizeof(struct kvm_cpuid_entry2)];
};

static inline struct kvm_cpuid2 *kvm_cpuid_of(struct kvm_cpuid_buffer *buffer)
{
    return (struct kvm_cpuid2 *)(void *)buffer->bytes;
}

int kvm_vm_set_cpuid(struct kvm_vm *vm, const struct cpu_model *model, struct error *err) must_check;

/* What KVM shows the guest, into model->shown; model->shown_count is 0 where it is what was asked for. */
int kvm_vm_get_cpuid(struct kvm_vm *vm, struct cpu_model *model, struct error *err) must_check;

/*
 * Lets only those MSRs through to KVM that are deterministic there and part of struct vcpu_state; all others make
 * KVM_EXIT_X86_RDMSR and KVM_EXIT_X86_WRMSR, and so do invalid values for the former.
 */
int kvm_vm_filter_msrs(struct kvm_vm *vm, struct error *err) must_check;
bool kvm_msr_is_let_through(uint32_t index);

#endif
