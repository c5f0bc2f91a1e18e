#include "core/kvm/kvm_probe.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/kvm/kvm_probe_guest.h"

#define CODE(...) ((const uint8_t[]){__VA_ARGS__}), sizeof((const uint8_t[]){__VA_ARGS__})

#define VECTOR_IRQ 0x40

static void report(struct kvm_probe *p, enum probe_result result, const char *format, ...)
    format_printf(3, 4);
static void report(struct kvm_probe *p, enum probe_result result, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    p->result = result;
    vsnprintf(p->detail, sizeof(p->detail), format, args);
    va_end(args);
}

static void report_error(struct kvm_probe *p, const struct error *err)
{
    report(p, PROBE_NO, "%.*s", (int)sizeof(p->detail) - 1, err->message);
}

static void report_exit(struct kvm_probe *p, int exit)
{
    if (exit == -ETIME)
        report(p, PROBE_NO, "the guest did not get there in time");
    else if (exit < 0)
        report(p, PROBE_NO, "KVM_RUN: %s", strerror(-exit));
    else
        report(p, PROBE_NO, "unexpected exit, reason %d", exit);
}

/* Creates and starts a guest, or reports why not. */
static bool start(struct kvm_probe *p, struct probe_guest *guest, enum probe_mode mode, const uint8_t *code,
                  size_t length)
{
    struct error err;
    int result = probe_guest_create(guest, mode, code, length, &err);
    if (result == 0) {
        result = probe_guest_start(guest, &err);
        if (result < 0)
            probe_guest_destroy(guest);
    }
    if (result < 0)
        report_error(p, &err);
    return result == 0;
}

static unsigned guest_cpl(const struct probe_guest *guest)
{
    struct kvm_sregs sregs;
    return kvm_ioctl(guest->vm.vcpu_fd, KVM_GET_SREGS, &sregs) < 0 ? 4 : sregs.ss.dpl;
}

static double elapsed_us(const struct timespec *since)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - since->tv_sec) * 1e6 + (double)(now.tv_nsec - since->tv_nsec) / 1e3;
}

/* ---- the probes ---- */

static void probe_real_mode(struct kvm_probe *p)
{
    struct probe_guest guest;
    /* mov byte [0x800], 0x5a; hlt */
    if (!start(p, &guest, PROBE_REAL_MODE, CODE(0xc6, 0x06, 0x00, 0x08, 0x5a, 0xf4)))
        return;
    int exit = probe_guest_run(&guest, false);
    if (exit != KVM_EXIT_HLT)
        report_exit(p, exit);
    else
        report(p, guest.ram[0x800] == 0x5a ? PROBE_YES : PROBE_NO, "memory written, HLT seen");
    probe_guest_destroy(&guest);
}

static void probe_kernel(struct kvm_probe *p)
{
    struct probe_guest guest;
    /* mov rbx, 0x20000; mov [rbx], rbx; hlt */
    if (!start(p, &guest, PROBE_KERNEL, CODE(0x48, 0xc7, 0xc3, 0, 0, 2, 0, 0x48, 0x89, 0x1b, 0xf4)))
        return;
    int exit = probe_guest_run(&guest, false);
    if (exit != KVM_EXIT_HLT)
        report_exit(p, exit);
    else
        report(p, guest.ram[PROBE_DATA + 2] == 2 ? PROBE_YES : PROBE_NO, "memory written, HLT seen");
    probe_guest_destroy(&guest);
}

static void probe_user(struct kvm_probe *p)
{
    struct probe_guest guest;
    if (!start(p, &guest, PROBE_USER, CODE(0xcc)))
        return;
    int exit = probe_guest_run(&guest, false);
    if (exit != KVM_EXIT_HLT)
        report_exit(p, exit);
    else if (probe_guest_vector(&guest) == VEC_BP && guest_cpl(&guest) == 0)
        report(p, PROBE_YES, "INT3 reaches its handler at CPL 0");
    else
        report(p, PROBE_NO, "INT3 went to vector %d at CPL %u", probe_guest_vector(&guest),
               guest_cpl(&guest));
    probe_guest_destroy(&guest);
}

static void probe_kick(struct kvm_probe *p, enum probe_mode mode)
{
    struct probe_guest guest;
    if (!start(p, &guest, mode, CODE(0xeb, 0xfe)))
        return;
    int exit = probe_guest_run(&guest, true);
    struct kvm_regs regs;
    if (exit != KVM_EXIT_INTR)
        report_exit(p, exit);
    else if (kvm_ioctl(guest.vm.vcpu_fd, KVM_GET_REGS, &regs) == 0 && regs.rip == PROBE_CODE)
        report(p, PROBE_YES, "a signal ends KVM_RUN at an instruction boundary");
    else
        report(p, PROBE_NO, "RIP is 0x%llx after the signal", (unsigned long long)regs.rip);
    probe_guest_destroy(&guest);
}

static void probe_kick_kernel(struct kvm_probe *p)
{
    probe_kick(p, PROBE_KERNEL);
}

static void probe_kick_user(struct kvm_probe *p)
{
    probe_kick(p, PROBE_USER);
}

static void probe_interrupt(struct kvm_probe *p)
{
    struct probe_guest guest;
    if (!start(p, &guest, PROBE_KERNEL, CODE(0xfb, 0x90, 0xeb, 0xfe))) /* sti; nop; jmp . */
        return;
    guest.vm.run->request_interrupt_window = 1;
    int exit = probe_guest_run(&guest, false);
    struct kvm_interrupt irq = {.irq = VECTOR_IRQ};
    if (exit != KVM_EXIT_IRQ_WINDOW_OPEN) {
        report_exit(p, exit);
    } else if (kvm_ioctl(guest.vm.vcpu_fd, KVM_INTERRUPT, &irq) < 0) {
        report(p, PROBE_NO, "KVM_INTERRUPT: %s", strerror(errno));
    } else {
        guest.vm.run->request_interrupt_window = 0;
        exit = probe_guest_run(&guest, false);
        if (exit != KVM_EXIT_HLT)
            report_exit(p, exit);
        else
            report(p, probe_guest_vector(&guest) == VECTOR_IRQ ? PROBE_YES : PROBE_NO,
                   "window seen, vector %d delivered", probe_guest_vector(&guest));
    }
    probe_guest_destroy(&guest);
}

static void probe_dirty_log(struct kvm_probe *p)
{
    struct probe_guest guest;
    /* mov rbx, 0x20000; mov [rbx], rbx; hlt */
    if (!start(p, &guest, PROBE_KERNEL, CODE(0x48, 0xc7, 0xc3, 0, 0, 2, 0, 0x48, 0x89, 0x1b, 0xf4)))
        return;
    uint64_t bitmap[PROBE_RAM_BYTES / 4096 / 64] = {0};
    struct kvm_dirty_log log = {.slot = 0, .dirty_bitmap = bitmap};
    int exit = probe_guest_run(&guest, false);
    int result = kvm_ioctl(guest.vm.vm_fd, KVM_GET_DIRTY_LOG, &log);
    unsigned page = PROBE_DATA / 4096, other = page + 1;
    if (exit != KVM_EXIT_HLT)
        report_exit(p, exit);
    else if (result < 0)
        report(p, PROBE_NO, "KVM_GET_DIRTY_LOG: %s", strerror(-result));
    else if (!(bitmap[page / 64] >> page % 64 & 1) || (bitmap[other / 64] >> other % 64 & 1))
        report(p, PROBE_NO, "it does not say which page was written");
    else
        report(p, PROBE_YES, "the written page is in it, its neighbour is not");
    probe_guest_destroy(&guest);
}

static void probe_msr_filter(struct kvm_probe *p)
{
    struct probe_guest guest;
    if (!start(p, &guest, PROBE_KERNEL,
               CODE(0xb9, 0x10, 0, 0, 0, 0x0f, 0x32, 0xf4))) /* mov ecx, 0x10; rdmsr; hlt */
        return;
    int exit = probe_guest_run(&guest, false);
    if (exit == KVM_EXIT_X86_RDMSR && guest.vm.run->msr.index == 0x10)
        report(p, PROBE_YES, "RDMSR of the time-stamp counter comes out");
    else
        report_exit(p, exit);
    probe_guest_destroy(&guest);
}

static void probe_fpu(struct kvm_probe *p)
{
    struct probe_guest guest;
    /* movdqa xmm1, xmm0; paddb xmm1, xmm0; hlt */
    if (!start(p, &guest, PROBE_KERNEL, CODE(0x66, 0x0f, 0x6f, 0xc8, 0x66, 0x0f, 0xfc, 0xc8, 0xf4)))
        return;
    struct vcpu_state after = guest.state;
    struct error err;
    memset(guest.state.fpu.ymm[0], 0x21, 16);
    guest.state.fpu.fcw = 0x27f;
    int exit = KVM_EXIT_UNKNOWN;
    if (probe_guest_start(&guest, &err) < 0) {
        report_error(p, &err);
    } else if ((exit = probe_guest_run(&guest, false)) != KVM_EXIT_HLT) {
        /* KVM's own emulator may lack these instructions; setting and getting is what counts. */
        if (kvm_state_get(&guest.vm, &guest.options, &after, &err) < 0)
            report_error(p, &err);
        else
            report(p, after.fpu.ymm[0][0] == 0x21 && after.fpu.fcw == 0x27f ? PROBE_YES : PROBE_NO,
                   "registers come back; the SSE instruction itself made exit %d", exit);
    } else if (kvm_state_get(&guest.vm, &guest.options, &after, &err) < 0) {
        report_error(p, &err);
    } else {
        report(p, after.fpu.ymm[1][0] == 0x42 && after.fpu.fcw == 0x27f ? PROBE_YES : PROBE_NO,
               "x87 and SSE registers are set, used and read back");
    }
    probe_guest_destroy(&guest);
}

/* Dynamic bits of CPUID, which KVM keeps: OSXSAVE and APIC of leaf 1. */
static bool same_leaf(const struct kvm_cpuid_entry2 *k, const struct cpuid_entry *m)
{
    uint32_t ecx = 0, edx = 0;
    if (m->leaf == 1) {
        ecx = (uint32_t)1 << 27;
        edx = (uint32_t)1 << 9;
    }
    return k->eax == m->eax && k->ebx == m->ebx && (k->ecx | ecx) == (m->ecx | ecx) &&
           (k->edx | edx) == (m->edx | edx);
}

/* Kernels do not all set nent to the number of entries that they filled in; the rest is zeros. */
static const struct kvm_cpuid_entry2 *find_leaf(const struct kvm_cpuid2 *seen, const struct cpuid_entry *m)
{
    for (uint32_t i = 0; i < seen->nent && i < KVM_CPUID_ENTRIES; i++) {
        const struct kvm_cpuid_entry2 *k = &seen->entries[i];
        if (k->function == m->leaf && (m->subleaf == CPUID_NO_SUBLEAF || k->index == m->subleaf))
            return k;
    }
    return NULL;
}

static void probe_cpuid(struct kvm_probe *p)
{
    struct probe_guest guest;
    if (!start(p, &guest, PROBE_KERNEL, CODE(0xf4)))
        return;
    struct kvm_cpuid_buffer buffer = {0};
    struct kvm_cpuid2 *seen = kvm_cpuid_of(&buffer);
    seen->nent = KVM_CPUID_ENTRIES;
    int result = kvm_ioctl(guest.vm.vcpu_fd, KVM_GET_CPUID2, seen);
    char changed[80] = "";
    size_t used = 0;
    for (unsigned i = 0; result == 0 && i < guest.model.count; i++) {
        const struct cpuid_entry *m = &guest.model.entry[i];
        const struct kvm_cpuid_entry2 *k = find_leaf(seen, m);
        if (k && same_leaf(k, m))
            continue;
        int n = snprintf(changed + used, sizeof(changed) - used, " 0x%x", m->leaf);
        used += n > 0 && (size_t)n < sizeof(changed) - used ? (size_t)n : 0;
    }
    if (result < 0)
        report(p, PROBE_UNKNOWN, "KVM_GET_CPUID2: %s", strerror(-result));
    else if (used)
        report(p, PROBE_NO, "KVM changes leaves%s: a guest that asks does not see the documented CPU",
               changed);
    else
        report(p, PROBE_YES, "the guest sees the documented CPU");
    probe_guest_destroy(&guest);
}

static void probe_debug(struct kvm_probe *p, enum probe_mode mode, uint32_t control, uint64_t expected_rip)
{
    struct probe_guest guest;
    /* nop; nop; nop; int3 */
    if (!start(p, &guest, mode, CODE(0x90, 0x90, 0x90, 0xcc)))
        return;
    struct kvm_guest_debug debug = {.control = KVM_GUESTDBG_ENABLE | control};
    debug.arch.debugreg[0] = PROBE_CODE + 2;
    debug.arch.debugreg[7] = 0x402 | 1;
    int result = kvm_ioctl(guest.vm.vcpu_fd, KVM_SET_GUEST_DEBUG, &debug);
    if (result < 0) {
        report(p, PROBE_NO, "KVM_SET_GUEST_DEBUG: %s", strerror(-result));
    } else {
        int exit = probe_guest_run(&guest, false);
        struct kvm_regs regs = {.rip = 0};
        (void)kvm_ioctl(guest.vm.vcpu_fd, KVM_GET_REGS, &regs);
        if (exit == KVM_EXIT_DEBUG)
            report(p, regs.rip == expected_rip ? PROBE_YES : PROBE_NO, "stops at %+lld",
                   (long long)(regs.rip - PROBE_CODE));
        else if (exit == KVM_EXIT_HLT)
            report(p, PROBE_NO, "not seen: the guest ran on to its handler of vector %d",
                   probe_guest_vector(&guest));
        else
            report_exit(p, exit);
    }
    probe_guest_destroy(&guest);
}

static void probe_step_kernel(struct kvm_probe *p)
{
    probe_debug(p, PROBE_KERNEL, KVM_GUESTDBG_SINGLESTEP, PROBE_CODE + 1);
}

static void probe_step_user(struct kvm_probe *p)
{
    probe_debug(p, PROBE_USER, KVM_GUESTDBG_SINGLESTEP, PROBE_CODE + 1);
}

static void probe_breakpoint_kernel(struct kvm_probe *p)
{
    probe_debug(p, PROBE_KERNEL, KVM_GUESTDBG_USE_HW_BP, PROBE_CODE + 2);
}

static void probe_breakpoint_user(struct kvm_probe *p)
{
    probe_debug(p, PROBE_USER, KVM_GUESTDBG_USE_HW_BP, PROBE_CODE + 2);
}

static void probe_syscall(struct kvm_probe *p)
{
    struct probe_guest guest;
    if (!start(p, &guest, PROBE_USER, CODE(0x0f, 0x05)))
        return;
    guest.ram[PROBE_SYSCALL_ENTRY] = 0xf4; /* HLT: a fault at CPL 3 */
    int exit = probe_guest_run(&guest, false);
    struct kvm_regs regs = {.rip = 0};
    (void)kvm_ioctl(guest.vm.vcpu_fd, KVM_GET_REGS, &regs);
    if (exit != KVM_EXIT_HLT)
        report_exit(p, exit);
    else if (regs.rip == PROBE_SYSCALL_ENTRY + 1 && guest_cpl(&guest) == 0)
        report(p, PROBE_YES, "SYSCALL reaches LSTAR at CPL 0");
    else
        report(p, PROBE_NO,
               "SYSCALL does not arrive at CPL 0 (vector %d instead): Linux user space cannot run",
               probe_guest_vector(&guest));
    probe_guest_destroy(&guest);
}

static void probe_rdtsc(struct kvm_probe *p)
{
    struct probe_guest guest;
    struct error err;
    if (!start(p, &guest, PROBE_USER, CODE(0x0f, 0x31, 0xcc))) /* rdtsc; int3 */
        return;
    guest.state.cr4 |= CR4_TSD;
    if (probe_guest_start(&guest, &err) < 0) {
        report_error(p, &err);
    } else {
        int exit = probe_guest_run(&guest, false);
        if (exit != KVM_EXIT_HLT)
            report_exit(p, exit);
        else if (probe_guest_vector(&guest) == VEC_GP)
            report(p, PROBE_YES, "CR4.TSD makes RDTSC fault at CPL 3");
        else
            report(p, PROBE_NO, "CR4.TSD is not honoured at CPL 3");
    }
    probe_guest_destroy(&guest);
}

static void probe_cmpxchg16b(struct kvm_probe *p)
{
    struct probe_guest guest;
    /* mov rbx, 0x20000; cmpxchg16b [rbx]; hlt */
    if (!start(p, &guest, PROBE_KERNEL, CODE(0x48, 0xc7, 0xc3, 0, 0, 2, 0, 0x48, 0x0f, 0xc7, 0x0b, 0xf4)))
        return;
    int exit = probe_guest_run(&guest, false);
    if (exit == KVM_EXIT_HLT)
        report(p, PROBE_YES, "executed");
    else if (exit == KVM_EXIT_INTERNAL_ERROR)
        report(p, PROBE_NO, "KVM cannot: dejavm's emulator executes such instructions");
    else
        report_exit(p, exit);
    probe_guest_destroy(&guest);
}

/* Instructions per second of a counting loop at CPL 0; short, since KVM may emulate them. */
static void probe_speed(struct kvm_probe *p)
{
    struct probe_guest guest;
    const uint32_t loops = 50000;
    /* mov ecx, loops; 1: dec ecx; jnz 1b; hlt */
    const uint8_t code[] = {
        0xb9, loops & 0xff, loops >> 8 & 0xff, loops >> 16 & 0xff, 0, 0xff, 0xc9, 0x75, 0x100 - 4, 0xf4};
    if (!start(p, &guest, PROBE_KERNEL, code, sizeof(code)))
        return;
    struct timespec since;
    clock_gettime(CLOCK_MONOTONIC, &since);
    int exit = probe_guest_run(&guest, false);
    double us = elapsed_us(&since);
    if (exit != KVM_EXIT_HLT)
        report_exit(p, exit);
    else
        report(p, PROBE_YES, "%.1f million instructions/s%s", 2.0 * loops / us,
               2.0 * loops / us < 50 ? " (KVM emulates CPL 0 here)" : "");
    probe_guest_destroy(&guest);
}

static void probe_exit_time(struct kvm_probe *p)
{
    struct probe_guest guest;
    const unsigned exits = 500;
    if (!start(p, &guest, PROBE_KERNEL, CODE(0xe6, 0x80, 0xeb, 0xfc))) /* out 0x80, al; jmp */
        return;
    struct timespec since;
    clock_gettime(CLOCK_MONOTONIC, &since);
    int exit = KVM_EXIT_IO;
    for (unsigned i = 0; i < exits && exit == KVM_EXIT_IO; i++)
        exit = probe_guest_run(&guest, false);
    double us = elapsed_us(&since);
    if (exit != KVM_EXIT_IO)
        report_exit(p, exit);
    else
        report(p, PROBE_YES, "%.1f us for an OUT and back", us / exits);
    probe_guest_destroy(&guest);
}

struct probe_entry {
    const char *name, *title;
    bool needed;
    void (*run)(struct kvm_probe *p);
};

static const struct probe_entry entries[] = {
    {"real-mode", "real mode at CPL 0, user memory, HLT", true, probe_real_mode},
    {"long-mode", "64-bit mode at CPL 0", true, probe_kernel},
    {"user-mode", "64-bit mode at CPL 3 and back through the IDT", true, probe_user},
    {"kick-kernel", "kick-out by a signal at CPL 0", true, probe_kick_kernel},
    {"kick-user", "kick-out by a signal at CPL 3", true, probe_kick_user},
    {"interrupt", "interrupt window and injection", true, probe_interrupt},
    {"dirty-log", "log of written pages", true, probe_dirty_log},
    {"msr-filter", "MSR accesses come out to user space", true, probe_msr_filter},
    {"fpu-state", "x87 and SSE state can be set and read", true, probe_fpu},
    {"cpuid", "CPUID shows the CPU that was asked for", false, probe_cpuid},
    {"syscall", "SYSCALL from CPL 3", false, probe_syscall},
    {"cmpxchg16b", "CMPXCHG16B at CPL 0", false, probe_cmpxchg16b},
    {"rdtsc-trap", "RDTSC at CPL 3 can be made to fault", false, probe_rdtsc},
    {"single-step-kernel", "single-step at CPL 0", false, probe_step_kernel},
    {"single-step-user", "single-step at CPL 3", false, probe_step_user},
    {"breakpoint-kernel", "hardware breakpoint at CPL 0", false, probe_breakpoint_kernel},
    {"breakpoint-user", "hardware breakpoint at CPL 3", false, probe_breakpoint_user},
    {"speed-kernel", "speed at CPL 0", false, probe_speed},
    {"exit-time", "time of an exit", false, probe_exit_time},
};
_Static_assert(ARRAY_LEN(entries) <= KVM_PROBE_MAX, "more probes than the caller has room for");

static void run_probe(const struct probe_entry *entry, struct kvm_probe *out)
{
    *out = (struct kvm_probe){
        .name = entry->name, .title = entry->title, .needed = entry->needed, .result = PROBE_UNKNOWN};
    entry->run(out);
}

unsigned kvm_probe_all(struct kvm_probe out[KVM_PROBE_MAX], struct error *err)
{
    struct kvm_vm vm;
    if (kvm_vm_create(&vm, err) < 0)
        return 0;
    kvm_vm_destroy(&vm);
    for (size_t i = 0; i < ARRAY_LEN(entries); i++)
        run_probe(&entries[i], &out[i]);
    return (unsigned)ARRAY_LEN(entries);
}

bool kvm_probe_one(const char *name, struct kvm_probe *out)
{
    for (size_t i = 0; i < ARRAY_LEN(entries); i++) {
        if (strcmp(entries[i].name, name) == 0) {
            run_probe(&entries[i], out);
            return true;
        }
    }
    return false;
}

int kvm_probe_usable(struct error *err)
{
    struct kvm_vm vm;
    int result = kvm_vm_create(&vm, err);
    if (result < 0)
        return result;
    result = kvm_vm_check(&vm, err);
    kvm_vm_destroy(&vm);
    if (result < 0)
        return result;
    for (size_t i = 0; i < ARRAY_LEN(entries); i++) {
        struct kvm_probe probe;
        if (!entries[i].needed)
            continue;
        run_probe(&entries[i], &probe);
        if (probe.result != PROBE_YES)
            return error_set(err, -ENOTSUP, "KVM on this host cannot do what recording needs: %s: %s",
                             probe.title, probe.detail);
    }
    return 0;
}
