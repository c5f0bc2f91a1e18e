/* Tiny guests for the probes: a VM with 1 MiB of memory, an IDT whose handlers say their vector, and a time limit. */
#ifndef DEJAVM_CORE_KVM_KVM_PROBE_GUEST_H
#define DEJAVM_CORE_KVM_KVM_PROBE_GUEST_H

#include <time.h>

#include "core/kvm/kvm_state.h"

enum probe_mode { PROBE_REAL_MODE, PROBE_KERNEL, PROBE_USER };

enum probe_guest_map {
    PROBE_CODE = 0x10000,
    PROBE_DATA = 0x20000,
    PROBE_SYSCALL_ENTRY = 0xd000,
    PROBE_HANDLERS = 0xc000, /* 16 bytes per vector: mov al, vector; hlt */
    PROBE_RAM_BYTES = 0x100000,
};

struct probe_guest {
    struct kvm_vm vm;
    struct kvm_state_options options;
    struct cpu_model model;
    struct vcpu_state state; /* what it starts with; probe_guest_start sets it */
    uint8_t *ram;
    timer_t timer;
    bool has_timer;
};

/* Everything but the start: the probe may change guest->state and memory. The code goes to PROBE_CODE. */
int probe_guest_create(struct probe_guest *guest, enum probe_mode mode, const uint8_t *code, size_t length,
                       struct error *err) must_check;
void probe_guest_destroy(struct probe_guest *guest);
int probe_guest_start(struct probe_guest *guest, struct error *err) must_check;

/*
 * KVM_RUN until an exit: its KVM_EXIT_ reason; KVM_EXIT_INTR when stop_at_kick and a kick came; -ETIME after 300 ms;
 * another negative errno when KVM_RUN fails.
 */
int probe_guest_run(struct probe_guest *guest, bool stop_at_kick);

/* After a HLT in a handler: the vector. -1: the guest does not stand there. */
int probe_guest_vector(struct probe_guest *guest);

#endif
