/* Exits of KVM_RUN (Documentation/virt/kvm/api.rst, section 5) turned into crossings of the boundary. */
#include <errno.h>
#include <string.h>

#include "core/kvm/kvm_internal.h"

#define MSR_TSC          0x10u
#define MSR_APIC_BASE    0x1bu
#define MSR_SYSENTER_ESP 0x175u
#define MSR_SYSENTER_EIP 0x176u
#define MSR_MISC_ENABLE  0x1a0u
#define MSR_TSC_AUX      0xc0000103u

/* APIC_BASE: BSP (8), enable (11) and the address may be written. */
#define APIC_BASE_WRITABLE_LOW ((uint64_t)0x900)

int kvm_crossed(struct kvm_engine *e, int result)
{
    e->after_crossing = true;
    if (result < 0) {
        /* The exit stays unanswered for good: state() shows the instruction as not executed. */
        e->failed = true;
        e->completion_pending = false;
        return ENGINE_STOP_BOUNDARY;
    }
    if (result == BOUNDARY_STOP)
        e->stop_wanted = true;
    return KVM_GO_ON;
}

static int after_answer(struct kvm_engine *e)
{
    e->completion_pending = true;
    return e->stop_wanted ? ENGINE_STOP_BOUNDARY : KVM_GO_ON;
}

/* A string instruction may bring several items in one exit; each is a crossing of its own. */
static int handle_pio(struct kvm_engine *e)
{
    struct kvm_run *run = e->vm.run;
    struct boundary *b = e->engine.boundary;
    unsigned size = run->io.size;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    for (uint32_t i = 0; i < run->io.count; i++, data += size) {
        uint32_t value = 0;
        int result;
        if (run->io.direction == KVM_EXIT_IO_OUT) {
            memcpy(&value, data, size);
            result = b->ops->pio_write(b, POSITION_UNKNOWN, run->io.port, size, value);
        } else {
            result = b->ops->pio_read(b, POSITION_UNKNOWN, run->io.port, size, &value);
            memcpy(data, &value, size);
        }
        if (kvm_crossed(e, result) != KVM_GO_ON)
            return ENGINE_STOP_BOUNDARY;
    }
    return after_answer(e);
}

/* The MSRs of struct vcpu_state that dejavm holds for KVM; they behave as in the emulator. */
static uint64_t *held_msr(struct kvm_engine *e, uint32_t index)
{
    switch (index) {
    case MSR_APIC_BASE:
        return &e->state.apic_base;
    case MSR_SYSENTER_ESP:
        return &e->state.sysenter_esp;
    case MSR_SYSENTER_EIP:
        return &e->state.sysenter_eip;
    case MSR_MISC_ENABLE:
        return &e->state.misc_enable;
    case MSR_TSC_AUX:
        return &e->state.tsc_aux;
    default:
        return NULL;
    }
}

static bool is_canonical(uint64_t address)
{
    return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}

static bool apic_base_is_valid(const struct kvm_engine *e, uint64_t value)
{
    uint32_t r[4];
    cpu_model_cpuid(e->model, 0x80000008, 0, 0, 1, r);
    unsigned physical_bits = r[0] & 0x3f;
    return !(value >> physical_bits) && !(value & PAGE_MASK & ~APIC_BASE_WRITABLE_LOW);
}

static int handle_rdmsr(struct kvm_engine *e)
{
    struct kvm_run *run = e->vm.run;
    struct boundary *b = e->engine.boundary;
    uint32_t index = run->msr.index;
    const uint64_t *held = held_msr(e, index);
    uint64_t value = 0;
    bool known = true;
    if (held) {
        value = *held;
    } else if (kvm_msr_is_let_through(index)) {
        known = false; /* KVM itself refused it */
    } else {
        int result = index == MSR_TSC ? b->ops->cpu_read(b, POSITION_UNKNOWN, SOURCE_RDTSC, 0, &value, &known)
                                      : b->ops->msr_read(b, POSITION_UNKNOWN, index, &value, &known);
        if (kvm_crossed(e, result) != KVM_GO_ON)
            return ENGINE_STOP_BOUNDARY;
    }
    run->msr.error = !known;
    run->msr.data = known ? value : 0;
    return after_answer(e);
}

/* What the emulator does for WRMSR to these. */
static int write_held_msr(struct kvm_engine *e, uint32_t index, uint64_t value, bool *known,
                          struct error *err)
{
    struct vcpu_state *s = &e->state;
    switch (index) {
    case MSR_APIC_BASE:
        *known = apic_base_is_valid(e, value);
        break;
    case MSR_SYSENTER_ESP:
    case MSR_SYSENTER_EIP:
        *known = is_canonical(value);
        break;
    case MSR_TSC_AUX:
        value = (uint32_t)value;
        break;
    default:
        break;
    }
    if (!*known)
        return 0;
    if (index != MSR_SYSENTER_ESP && index != MSR_SYSENTER_EIP) {
        *held_msr(e, index) = value;
        return 0;
    }
    /* KVM needs these as well, and the others of the list go along: they have to be current. */
    int result = kvm_state_get(&e->vm, &e->options, s, err);
    if (result < 0)
        return result;
    *held_msr(e, index) = value;
    return kvm_state_set_msrs(&e->vm, s, err);
}

static int handle_wrmsr(struct kvm_engine *e, struct error *err)
{
    struct kvm_run *run = e->vm.run;
    struct boundary *b = e->engine.boundary;
    uint32_t index = run->msr.index;
    bool known = true;
    if (held_msr(e, index)) {
        int result = write_held_msr(e, index, run->msr.data, &known, err);
        if (result < 0)
            return result;
    } else if (kvm_msr_is_let_through(index)) {
        known = false;
    } else {
        int result = b->ops->msr_write(b, POSITION_UNKNOWN, index, run->msr.data, &known);
        if (kvm_crossed(e, result) != KVM_GO_ON)
            return ENGINE_STOP_BOUNDARY;
    }
    run->msr.error = !known;
    return after_answer(e);
}

static int handle_hlt(struct kvm_engine *e)
{
    struct boundary *b = e->engine.boundary;
    int stop = kvm_crossed(e, b->ops->halted(b, POSITION_UNKNOWN));
    if (stop != KVM_GO_ON)
        return stop;
    e->state.activity = ACTIVITY_HALTED;
    return e->stop_wanted ? ENGINE_STOP_BOUNDARY : ENGINE_STOP_HALT;
}

static int handle_internal_error(struct kvm_engine *e, struct error *err)
{
    const struct kvm_run *run = e->vm.run;
    if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION)
        return kvm_emulate_instruction(e, err);
    struct error ignored;
    unsigned long long rip = kvm_fetch_state(e, &ignored) == 0 ? e->state.rip : 0;
    return error_set(
        err, -EIO, "KVM reports an internal error (suberror %u, first datum 0x%llx) at RIP 0x%llx",
        run->internal.suberror, run->internal.ndata ? (unsigned long long)run->internal.data[0] : 0ull, rip);
}

int kvm_handle_exit(struct kvm_engine *e, struct error *err)
{
    const struct kvm_run *run = e->vm.run;
    struct kvm_statistics *statistics = &e->statistics;
    if (run->exit_reason != KVM_EXIT_MMIO)
        e->mmio_bytes_left = 0;
    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        statistics->exits_pio++;
        return handle_pio(e);
    case KVM_EXIT_MMIO:
        statistics->exits_mmio++;
        return kvm_handle_mmio(e, err);
    case KVM_EXIT_X86_RDMSR:
        statistics->exits_msr++;
        return handle_rdmsr(e);
    case KVM_EXIT_X86_WRMSR:
        statistics->exits_msr++;
        return handle_wrmsr(e, err);
    case KVM_EXIT_HLT:
        statistics->exits_hlt++;
        return handle_hlt(e);
    case KVM_EXIT_IRQ_WINDOW_OPEN:
        statistics->exits_window++;
        return KVM_GO_ON; /* the run loop looks whether it is open */
    case KVM_EXIT_SHUTDOWN:
        e->state.activity = ACTIVITY_SHUTDOWN;
        return ENGINE_STOP_SHUTDOWN;
    case KVM_EXIT_INTERNAL_ERROR:
        statistics->exits_internal++;
        return handle_internal_error(e, err);
    case KVM_EXIT_INTR:
    case KVM_EXIT_SET_TPR: /* CR8 was lowered; no interrupt controller here listens to it */
        statistics->exits_other++;
        return KVM_GO_ON;
    case KVM_EXIT_FAIL_ENTRY:
        return error_set(
            err, -EIO,
            "the CPU refused to enter the guest (KVM_EXIT_FAIL_ENTRY, hardware reason 0x%llx): the "
            "guest's state is one that this host's KVM cannot run; record with --engine emu",
            (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
    case KVM_EXIT_UNKNOWN:
        return error_set(err, -EIO, "KVM does not know why the guest exited (hardware reason 0x%llx)",
                         (unsigned long long)run->hw.hardware_exit_reason);
    default:
        return error_set(err, -EIO, "KVM made an exit that dejavm does not expect (reason %u)",
                         run->exit_reason);
    }
}
