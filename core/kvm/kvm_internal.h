/*
 * The kvm engine's own state, and what its files call of each other. Private to core/kvm.
 *
 *   kvm_vm.c kvm_state.c     the KVM API: VM, vCPU, CPUID, MSR filter; state conversion
 *   kvm_engine.c             the run loop, kicks, interrupts, dirty log
 *   kvm_exit.c kvm_mmio.c kvm_assist.c   exits, and what KVM cannot execute
 */
#ifndef DEJAVM_CORE_KVM_KVM_INTERNAL_H
#define DEJAVM_CORE_KVM_KVM_INTERNAL_H

#include <stdatomic.h>

#include "core/kvm/kvm_engine.h"
#include "core/kvm/kvm_state.h"

/*
 * An exit for I/O is a conversation: KVM asks, the answer is put into vm.run, and the *next* KVM_RUN makes the instruction
 * complete with it. With immediate_exit set that KVM_RUN does nothing else, which is how the vCPU gets to the
 * boundary after the instruction without going beyond it. Completing can lead to the next question at once (an access
 * in several pieces, the next iteration of a REP): that exit is then kept as exit_unanswered.
 */
struct kvm_engine {
    struct engine engine;
    struct kvm_vm vm;
    const struct cpu_model *model;
    struct kvm_state_options options;
    struct vcpu_state state;  /* activity and the MSRs that KVM does not hold are always current here */
    bool state_valid;         /* the rest of it is, too */
    bool completion_pending;  /* the last exit is answered, KVM has not taken the answer yet */
    bool exit_unanswered;     /* vm.run holds an exit that was not handled yet */
    bool run_fields_valid;    /* vm.run's if_flag and ready_for_interrupt_injection are current */
    unsigned mmio_bytes_left; /* of a read that comes in pieces */
    bool after_crossing;      /* kvm_engine_after_crossing() */
    bool stop_wanted;         /* the boundary said BOUNDARY_STOP */
    bool failed;              /* an exit could not be answered: the vCPU cannot go on */
    bool broken;              /* an ioctl failed where no error can be returned: error has the reason */
    struct error error;

    atomic_int attention;
    atomic_int thread;    /* that is inside run(), or 0 */
    int unblocked_thread; /* that has the kick signal unblocked */

    struct engine *emulator; /* created when it is needed first */
    struct boundary assist;  /* what the emulator is given as its boundary */
    uint64_t *dirty_bitmap;
    struct kvm_statistics statistics;
};

/* Beside enum engine_stop: nothing to stop for. */
#define KVM_GO_ON 1000

/* ---- kvm_engine.c ---- */

/* One KVM_RUN: KVM_GO_ON after an exit was taken into vm.run, 0 when it was interrupted, or a negative errno. */
int kvm_enter(struct kvm_engine *e, struct error *err) must_check;
/* Makes KVM take the answer to the last exit, see above. */
int kvm_complete(struct kvm_engine *e, struct error *err) must_check;
/* The whole state, as set_state and the emulator give it. */
int kvm_put_state(struct kvm_engine *e, const struct vcpu_state *state, struct error *err) must_check;
int kvm_fetch_state(struct kvm_engine *e, struct error *err) must_check;
uint64_t kvm_now_ns(void);

/* ---- kvm_exit.c ---- */

/* Answers the exit in vm.run: KVM_GO_ON, enum engine_stop, or a negative errno. */
int kvm_handle_exit(struct kvm_engine *e, struct error *err) must_check;
/* What follows from a boundary function's result: KVM_GO_ON, or ENGINE_STOP_BOUNDARY. */
int kvm_crossed(struct kvm_engine *e, int result);

/* ---- kvm_mmio.c ---- */

int kvm_handle_mmio(struct kvm_engine *e, struct error *err) must_check;

/* ---- kvm_assist.c ---- */

/* Executes the next instruction in dejavm's emulator. As kvm_handle_exit. */
int kvm_emulate_instruction(struct kvm_engine *e, struct error *err) must_check;

#endif
