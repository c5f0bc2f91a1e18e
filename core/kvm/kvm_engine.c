#include "core/kvm/kvm_engine.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/kvm/kvm_internal.h"
#include "core/x86/inspect.h"

#define SLOT_LOW  0
#define SLOT_HIGH 1

static struct kvm_engine *kvm_of(const struct engine *engine)
{
    return (struct kvm_engine *)(uintptr_t)engine;
}

uint64_t kvm_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void set_immediate_exit(struct kvm_engine *e, uint8_t value)
{
    __atomic_store_n(&e->vm.run->immediate_exit, value, __ATOMIC_SEQ_CST);
}

int kvm_enter(struct kvm_engine *e, struct error *err)
{
    uint64_t start = kvm_now_ns();
    int result = kvm_ioctl_value(e->vm.vcpu_fd, KVM_RUN, 0);
    e->statistics.time_in_kvm_ns += kvm_now_ns() - start;
    e->completion_pending = false;
    e->state_valid = false;
    e->run_fields_valid = true;
    if (result == -EINTR || result == -EAGAIN)
        return 0;
    if (result < 0)
        return error_errno(err, result, "run the guest (KVM_RUN)");
    return KVM_GO_ON;
}

int kvm_complete(struct kvm_engine *e, struct error *err)
{
    if (!e->completion_pending || e->exit_unanswered)
        return 0;
    set_immediate_exit(e, 1);
    int result = kvm_enter(e, err);
    if (result == KVM_GO_ON && e->vm.run->exit_reason != KVM_EXIT_INTR)
        e->exit_unanswered = true;
    return result < 0 ? result : 0;
}

/* STI is a single byte, so what stands before RIP tells the two shadows apart. */
static void resolve_shadow(struct kvm_engine *e)
{
    struct vcpu_state *s = &e->state;
    if (s->shadow != (SHADOW_STI | SHADOW_MOV_SS))
        return;
    gva_t before = (vcpu_in_64bit_code(s) ? 0 : s->seg[SEG_CS].base) + s->rip - 1;
    uint8_t byte = 0;
    bool is_sti = x86_read_virtual(e->engine.ram, s, before, &byte, 1) == 1 && byte == 0xfb;
    s->shadow = is_sti ? SHADOW_STI : SHADOW_MOV_SS;
}

int kvm_fetch_state(struct kvm_engine *e, struct error *err)
{
    int result = kvm_complete(e, err);
    if (result == 0 && !e->state_valid) {
        result = kvm_state_get(&e->vm, &e->options, &e->state, err);
        e->state_valid = result == 0;
        resolve_shadow(e);
    }
    return result;
}

int kvm_put_state(struct kvm_engine *e, const struct vcpu_state *state, struct error *err)
{
    int result = kvm_state_set(&e->vm, &e->options, state, err);
    e->state = *state;
    e->state_valid = false; /* what KVM made of it is to be seen */
    e->run_fields_valid = false;
    e->after_crossing = false;
    return result;
}

/* An ioctl failed in a function that cannot say so: the next one that can, does. */
static void note_broken(struct kvm_engine *e, const struct error *err)
{
    if (!e->broken)
        e->error = *err;
    e->broken = true;
}

static int check_usable(const struct kvm_engine *e, struct error *err)
{
    if (e->broken) {
        if (err)
            *err = e->error;
        return e->error.code;
    }
    if (e->failed)
        return error_set(err, -EIO, "the vCPU stopped in an instruction that could not be completed");
    return 0;
}

/* ---- settled, interrupts ---- */

static bool settled(struct kvm_engine *e, struct kvm_vcpu_events *events)
{
    struct error err;
    int result = kvm_complete(e, &err);
    if (result == 0 && e->exit_unanswered)
        return false;
    if (result == 0) {
        result = kvm_ioctl(e->vm.vcpu_fd, KVM_GET_VCPU_EVENTS, events);
        if (result < 0)
            error_errno(&err, result, "KVM_GET_VCPU_EVENTS");
    }
    if (result < 0) {
        note_broken(e, &err);
        return false;
    }
    if (events->exception.injected || events->exception.pending || events->interrupt.injected ||
        events->nmi.injected || events->nmi.pending)
        return false;
    /* A software interrupt that waits to be delivered again is not shown, except in this way. */
    const struct kvm_run *run = e->vm.run;
    bool blocked = !run->if_flag || events->interrupt.shadow;
    return !e->run_fields_valid || blocked || run->ready_for_interrupt_injection;
}

bool kvm_engine_settled(struct engine *engine)
{
    struct kvm_vcpu_events events;
    return settled(kvm_of(engine), &events);
}

static bool can_interrupt(struct engine *engine)
{
    struct kvm_engine *e = kvm_of(engine);
    struct kvm_vcpu_events events;
    if (e->failed || e->broken || e->state.activity == ACTIVITY_SHUTDOWN || !settled(e, &events) ||
        events.interrupt.shadow)
        return false;
    if (e->run_fields_valid)
        return e->vm.run->if_flag != 0;
    struct error err;
    if (kvm_fetch_state(e, &err) < 0) {
        note_broken(e, &err);
        return false;
    }
    return (e->state.rflags & RFLAGS_IF) != 0;
}

static int after_injection(struct kvm_engine *e, int result, const char *what, struct error *err)
{
    if (result < 0)
        return error_errno(err, result, "%s", what);
    e->state.activity = ACTIVITY_RUNNING;
    e->state_valid = false;
    e->run_fields_valid = false;
    e->after_crossing = false;
    e->statistics.interrupts++;
    return 0;
}

/* KVM delivers at its next entry to the guest, before any instruction. */
static int interrupt(struct engine *engine, uint8_t vector, struct error *err)
{
    struct kvm_engine *e = kvm_of(engine);
    int result = check_usable(e, err);
    if (result == 0)
        result = kvm_complete(e, err);
    if (result < 0)
        return result;
    if (e->exit_unanswered)
        return error_set(err, -EBUSY, "an interrupt in the middle of an instruction");
    struct kvm_interrupt irq = {.irq = vector};
    return after_injection(e, kvm_ioctl(e->vm.vcpu_fd, KVM_INTERRUPT, &irq),
                           "inject an interrupt (KVM_INTERRUPT)", err);
}

static int nmi(struct engine *engine, struct error *err)
{
    struct kvm_engine *e = kvm_of(engine);
    int result = check_usable(e, err);
    if (result == 0)
        result = kvm_complete(e, err);
    if (result < 0)
        return result;
    if (e->exit_unanswered)
        return error_set(err, -EBUSY, "an NMI in the middle of an instruction");
    return after_injection(e, kvm_ioctl_value(e->vm.vcpu_fd, KVM_NMI, 0), "inject an NMI (KVM_NMI)", err);
}

/* ---- kicks ---- */

/*
 * No kick is lost. In this order: attention, immediate_exit, signal. The vCPU's thread clears immediate_exit, then reads
 * attention, then enters KVM_RUN.
 *   - It reads attention = 1: it stops.
 *   - It reads 0: so attention was set later, hence immediate_exit too, later than the clearing. If KVM_RUN has not
 *     read immediate_exit yet, it will see 1; if it has, the signal comes later and ends it.
 *   - thread is 0: run() has not stored it yet, so it reads attention after it was set.
 */
static void kick(struct engine *engine)
{
    struct kvm_engine *e = kvm_of(engine);
    int saved = errno;
    atomic_store(&e->attention, 1);
    set_immediate_exit(e, 1);
    int thread = atomic_load(&e->thread);
    if (thread)
        syscall(SYS_tgkill, getpid(), thread, KVM_KICK_SIGNAL);
    errno = saved;
}

static void thread_enters(struct kvm_engine *e)
{
    int thread = (int)syscall(SYS_gettid);
    if (thread != e->unblocked_thread) {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, KVM_KICK_SIGNAL);
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
        e->unblocked_thread = thread;
    }
    atomic_store(&e->thread, thread);
}

/* ---- running ---- */

/* Before KVM_RUN: a reason not to enter the guest, or KVM_GO_ON. */
static int check_before_entry(struct kvm_engine *e, const struct engine_request *request)
{
    if (request->want_window && can_interrupt(&e->engine))
        return ENGINE_STOP_WINDOW;
    if (e->exit_unanswered)
        return KVM_GO_ON;
    set_immediate_exit(e, 0);
    if (atomic_exchange(&e->attention, 0)) {
        e->statistics.exits_kick++;
        return ENGINE_STOP_ATTENTION;
    }
    if (e->state.activity == ACTIVITY_SHUTDOWN)
        return ENGINE_STOP_SHUTDOWN;
    if (e->state.activity == ACTIVITY_HALTED)
        return ENGINE_STOP_HALT;
    return KVM_GO_ON;
}

static int turn(struct kvm_engine *e, const struct engine_request *request, struct error *err)
{
    int stop = check_before_entry(e, request);
    if (stop != KVM_GO_ON)
        return stop;
    if (!e->exit_unanswered) {
        e->vm.run->request_interrupt_window = request->want_window;
        e->after_crossing = false;
        int result = kvm_enter(e, err);
        if (result <= 0)
            return result < 0 ? result : KVM_GO_ON;
    }
    e->exit_unanswered = false;
    return kvm_handle_exit(e, err);
}

static uint64_t truncate_rip(const struct vcpu_state *s, uint64_t rip)
{
    return vcpu_in_64bit_code(s) ? rip : (uint32_t)rip;
}

/*
 * KVM's instruction emulator can be left after the last iteration of a REP, before it moves RIP on: a boundary that
 * no exact engine has (there the last iteration completes the instruction). What is left of it is done here.
 */
static int finish_rep(struct kvm_engine *e, struct error *err)
{
    bool after_crossing = e->after_crossing;
    int result = kvm_fetch_state(e, err);
    if (result < 0 || e->exit_unanswered || e->state.activity != ACTIVITY_RUNNING ||
        (e->state.rflags & RFLAGS_TF))
        return result;
    unsigned length = x86_finished_rep(e->engine.ram, &e->state);
    if (!length)
        return 0;
    struct vcpu_state moved = e->state;
    moved.rip = truncate_rip(&moved, moved.rip + length);
    moved.rflags &= ~RFLAGS_RF;
    result = kvm_put_state(e, &moved, err);
    e->after_crossing = after_crossing;
    return result;
}

/*
 * KVM makes up to 1024 iterations of a REP before it enters the guest again, and where these read from outside it stands
 * in the middle of the instruction until then. Who kicks wants a boundary: the iterations left are made first.
 */
#define REP_ITERATIONS_MAX 4096

static int leave_rep(struct kvm_engine *e, int stop, struct error *err)
{
    int result = kvm_complete(e, err);
    for (unsigned i = 0; i < REP_ITERATIONS_MAX && result == 0 && e->exit_unanswered; i++) {
        if (stop != ENGINE_STOP_ATTENTION)
            return stop;
        e->exit_unanswered = false;
        int next = kvm_handle_exit(e, err);
        if (next < 0 || e->failed)
            return next;
        if (next != KVM_GO_ON)
            stop = next;
        result = kvm_complete(e, err);
    }
    return result < 0 ? result : stop;
}

static int run(struct engine *engine, const struct engine_request *request, struct error *err)
{
    struct kvm_engine *e = kvm_of(engine);
    if (request->limit != POSITION_UNKNOWN || request->match)
        return error_set(err, -EINVAL, "the kvm engine cannot count or match positions");
    int stop = check_usable(e, err);
    if (stop < 0)
        return stop;
    e->stop_wanted = false;
    thread_enters(e);
    do {
        stop = turn(e, request, err);
    } while (stop == KVM_GO_ON && !e->broken);
    atomic_store(&e->thread, 0);
    if (stop >= 0 && !e->failed) {
        stop = leave_rep(e, stop, err);
        bool stands = stop >= 0 && !e->failed && stop != ENGINE_STOP_SHUTDOWN && stop != ENGINE_STOP_HALT;
        int result = stands ? finish_rep(e, err) : 0;
        if (result < 0)
            stop = result;
    }
    if (e->broken && stop >= 0)
        return check_usable(e, err);
    return stop;
}

/* ---- state, dirty log ---- */

static const struct vcpu_state *state(struct engine *engine)
{
    struct kvm_engine *e = kvm_of(engine);
    struct error err;
    if (kvm_fetch_state(e, &err) < 0)
        note_broken(e, &err);
    return &e->state;
}

/* Exits that nobody will answer any more, because the state is about to be replaced, get zeros. */
static int drain(struct kvm_engine *e, struct error *err)
{
    for (unsigned i = 0; i < 4096; i++) {
        int result = kvm_complete(e, err);
        if (result < 0)
            return result;
        if (!e->exit_unanswered)
            return 0;
        e->exit_unanswered = false;
        e->completion_pending = true;
    }
    return error_set(err, -EIO, "an instruction does not end, whatever it reads");
}

static int set_state(struct engine *engine, const struct vcpu_state *s, struct error *err)
{
    struct kvm_engine *e = kvm_of(engine);
    int result = check_usable(e, err);
    if (result == 0)
        result = drain(e, err);
    if (result == 0)
        result = kvm_put_state(e, s, err);
    return result;
}

static int collect_slot(struct kvm_engine *e, uint32_t slot, uint64_t first_page, uint64_t pages,
                        struct error *err)
{
    struct kvm_dirty_log log = {.slot = slot, .dirty_bitmap = e->dirty_bitmap};
    int result = kvm_ioctl(e->vm.vm_fd, KVM_GET_DIRTY_LOG, &log);
    if (result < 0)
        return error_errno(err, result, "KVM_GET_DIRTY_LOG");
    for (uint64_t word = 0; word < (pages + 63) / 64; word++) {
        for (uint64_t bits = e->dirty_bitmap[word]; bits; bits &= bits - 1) {
            uint64_t page = word * 64 + (unsigned)__builtin_ctzll(bits);
            if (page < pages)
                ram_mark_dirty(e->engine.ram, first_page + page);
        }
    }
    return 0;
}

static int collect_dirty(struct engine *engine, struct error *err)
{
    struct kvm_engine *e = kvm_of(engine);
    const struct guest_ram *ram = e->engine.ram;
    uint64_t low = ram->low_bytes >> PAGE_SHIFT, all = ram_page_count(ram);
    int result = e->failed ? 0 : kvm_complete(e, err);
    if (result == 0)
        result = collect_slot(e, SLOT_LOW, 0, low, err);
    if (result == 0 && all > low)
        result = collect_slot(e, SLOT_HIGH, low, all - low, err);
    return result;
}

static position_t position(const struct engine *engine)
{
    (void)engine;
    return POSITION_UNKNOWN;
}

static void set_position(struct engine *engine, position_t p)
{
    (void)engine;
    (void)p;
}

int kvm_engine_shown_cpuid(struct engine *engine, struct cpu_model *model, struct error *err)
{
    return kvm_vm_get_cpuid(&kvm_of(engine)->vm, model, err);
}

const struct kvm_statistics *kvm_engine_statistics(const struct engine *engine)
{
    return &kvm_of(engine)->statistics;
}

bool kvm_engine_after_crossing(const struct engine *engine)
{
    return kvm_of(engine)->after_crossing;
}

/* ---- creation ---- */

static void destroy(struct engine *engine)
{
    struct kvm_engine *e = kvm_of(engine);
    if (e->emulator)
        e->emulator->ops->destroy(e->emulator);
    kvm_vm_destroy(&e->vm);
    free(e->dirty_bitmap);
    free(e);
}

static const struct engine_ops kvm_ops = {
    .name = "kvm",
    .destroy = destroy,
    .run = run,
    .interrupt = interrupt,
    .nmi = nmi,
    .can_interrupt = can_interrupt,
    .state = state,
    .set_state = set_state,
    .kick = kick,
    .position = position,
    .set_position = set_position,
    .collect_dirty = collect_dirty,
};

/* Optional, and where they exist they make KVM behave like the CPU. */
static void enable_capabilities(struct kvm_engine *e)
{
    struct kvm_vm *vm = &e->vm;
    e->options.has_payload =
        kvm_capability(vm, KVM_CAP_EXCEPTION_PAYLOAD) && kvm_vm_enable(vm, KVM_CAP_EXCEPTION_PAYLOAD, 1) == 0;
    if (kvm_capability(vm, KVM_CAP_EXIT_ON_EMULATION_FAILURE))
        (void)kvm_vm_enable(vm, KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1);
    if (kvm_capability(vm, KVM_CAP_PMU_CAPABILITY) & KVM_PMU_CAP_DISABLE)
        (void)kvm_vm_enable(vm, KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE);
    uint64_t quirks = KVM_X86_QUIRK_OUT_7E_INC_RIP | KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT |
                      KVM_X86_QUIRK_FIX_HYPERCALL_INSN | KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS;
    quirks &= (uint64_t)kvm_capability(vm, KVM_CAP_DISABLE_QUIRKS2);
    if (quirks)
        (void)kvm_vm_enable(vm, KVM_CAP_DISABLE_QUIRKS2, quirks);
}

static int map_ram(struct kvm_engine *e, struct error *err)
{
    struct guest_ram *ram = e->engine.ram;
    uint64_t high = ram->size_bytes - ram->low_bytes;
    int result = kvm_vm_map(&e->vm, SLOT_LOW, 0, ram->host, ram->low_bytes, true, err);
    if (result == 0 && high)
        result = kvm_vm_map(&e->vm, SLOT_HIGH, RAM_HIGH_GPA, ram->host + ram->low_bytes, high, true, err);
    return result;
}

static int unmap_ram(struct kvm_engine *e, struct error *err)
{
    const struct guest_ram *ram = e->engine.ram;
    int result = kvm_vm_map(&e->vm, SLOT_LOW, 0, ram->host, 0, false, err);
    if (result == 0 && ram->size_bytes > ram->low_bytes)
        result = kvm_vm_map(&e->vm, SLOT_HIGH, RAM_HIGH_GPA, ram->host + ram->low_bytes, 0, false, err);
    return result;
}

/* A memory slot that goes away takes with it all that was derived from what is in it; its dirty log too. */
int kvm_engine_ram_changed(struct engine *engine, struct error *err)
{
    struct kvm_engine *e = kvm_of(engine);
    int result = collect_dirty(engine, err);
    if (result == 0)
        result = unmap_ram(e, err);
    return result == 0 ? map_ram(e, err) : result;
}

static int set_up(struct kvm_engine *e, struct error *err)
{
    int result = kvm_vm_check(&e->vm, err);
    if (result < 0)
        return result;
    enable_capabilities(e);
    result = kvm_vm_filter_msrs(&e->vm, err);
    if (result == 0)
        result = map_ram(e, err);
    if (result == 0)
        result = kvm_vm_create_vcpu(&e->vm, err);
    if (result == 0)
        result = kvm_vm_set_cpuid(&e->vm, e->model, err);
    if (result == 0)
        result = kvm_install_kick_handler(err);
    if (result < 0)
        return result;
    e->options.has_xsave =
        cpu_model_has(e->model, CPU_FEATURE_LEAF1_ECX + 26) && kvm_capability(&e->vm, KVM_CAP_XCRS);
    struct vcpu_state reset;
    vcpu_state_reset(&reset);
    return kvm_put_state(e, &reset, err);
}

int kvm_engine_create(struct engine **out, struct guest_ram *ram, struct boundary *boundary,
                      const struct cpu_model *model, struct error *err)
{
    struct kvm_engine *e = calloc(1, sizeof(*e));
    if (!e)
        return error_set(err, -ENOMEM, "out of memory for the kvm engine");
    e->engine = (struct engine){.ops = &kvm_ops, .ram = ram, .boundary = boundary};
    e->vm = KVM_VM_NONE;
    e->model = model;
    /* One slot at a time, so as large as all of RAM is always enough. */
    e->dirty_bitmap = calloc((size_t)(ram_page_count(ram) + 63) / 64, sizeof(uint64_t));
    int result = e->dirty_bitmap ? kvm_vm_create(&e->vm, err)
                                 : error_set(err, -ENOMEM, "out of memory for the dirty log");
    if (result == 0)
        result = set_up(e, err);
    if (result < 0) {
        destroy(&e->engine);
        return result;
    }
    *out = &e->engine;
    return 0;
}
