#include "core/kvm/kvm_probe_guest.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TIME_LIMIT_NS  300000000u
#define KICK_PERIOD_NS 3000000u

enum {
    IDT = 0x1000,
    GDT = 0x2000,
    TSS = 0x3000,
    PAGE_TABLES = 0x4000,
    KERNEL_STACK_TOP = 0xa000,
    USER_STACK_TOP = 0xb000,
    KERNEL_CODE = 0x08,
    KERNEL_DATA = 0x10,
    USER_DATA = 0x20 | 3, /* the order that SYSRET wants: data, then code */
    USER_CODE = 0x28 | 3,
    TSS_SELECTOR = 0x30,
    VECTORS = 256,
    HANDLER_BYTES = 16,
};

static void put_u64(struct probe_guest *guest, uint64_t gpa, uint64_t value)
{
    memcpy(guest->ram + gpa, &value, sizeof(value));
}

static void fill_memory(struct probe_guest *guest)
{
    static const uint64_t gdt[] = {
        0,
        0x00af9b000000ffff, /* kernel code, 64 bit */
        0x00cf93000000ffff, /* kernel data */
        0,
        0x00cff3000000ffff,                       /* user data */
        0x00affb000000ffff,                       /* user code, 64 bit */
        0x00008b0000000067 | (uint64_t)TSS << 16, /* TSS, busy */
        0,
    };
    memcpy(guest->ram + GDT, gdt, sizeof(gdt));
    put_u64(guest, TSS + 4, KERNEL_STACK_TOP); /* RSP0 */
    put_u64(guest, PAGE_TABLES, (PAGE_TABLES + 0x1000) | 7);
    put_u64(guest, PAGE_TABLES + 0x1000, (PAGE_TABLES + 0x2000) | 7);
    for (uint64_t i = 0; i < 512; i++)
        put_u64(guest, PAGE_TABLES + 0x2000 + 8 * i, i << 21 | 0x87);
    for (unsigned v = 0; v < VECTORS; v++) {
        uint64_t handler = PROBE_HANDLERS + HANDLER_BYTES * v;
        const uint8_t code[] = {0xb0, (uint8_t)v, 0xf4}; /* mov al, v; hlt */
        memcpy(guest->ram + handler, code, sizeof(code));
        /* 64-bit interrupt gate, DPL 3 (SDM 3, 6.14.1). */
        put_u64(guest, IDT + 16 * v, handler | (uint64_t)KERNEL_CODE << 16 | (uint64_t)0xee << 40);
    }
}

static struct segment flat(uint16_t selector, unsigned type, unsigned dpl, unsigned extra)
{
    unsigned rights = type | SEGMENT_S | dpl << SEGMENT_DPL_SHIFT | SEGMENT_P | SEGMENT_G | extra;
    return (struct segment){.limit = 0xffffffff, .selector = selector, .rights = (uint16_t)rights};
}

static void long_mode(struct vcpu_state *s, unsigned cpl)
{
    for (unsigned i = 0; i < SEG_COUNT; i++)
        s->seg[i] = flat(cpl ? USER_DATA : KERNEL_DATA, 3, cpl, SEGMENT_DB);
    s->seg[SEG_CS] = flat(cpl ? USER_CODE : KERNEL_CODE, 11, cpl, SEGMENT_L);
    s->tr = (struct segment){.base = TSS, .limit = 0x67, .selector = TSS_SELECTOR, .rights = SEGMENT_P | 11};
    s->ldtr = (struct segment){0};
    s->gdtr = (struct descriptor_table){GDT, 0x3f};
    s->idtr = (struct descriptor_table){IDT, 16 * VECTORS - 1};
    s->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    s->cr3 = PAGE_TABLES;
    s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    s->efer = EFER_LME | EFER_LMA | EFER_SCE;
    s->star = (uint64_t)(USER_DATA - 8) << 48 | (uint64_t)KERNEL_CODE << 32;
    s->lstar = PROBE_SYSCALL_ENTRY;
    s->gpr[GPR_RSP] = cpl ? USER_STACK_TOP : KERNEL_STACK_TOP;
    s->rip = PROBE_CODE;
}

static void real_mode(struct vcpu_state *s)
{
    s->seg[SEG_CS].selector = PROBE_CODE >> 4;
    s->seg[SEG_CS].base = PROBE_CODE;
    s->rip = 0;
    s->gpr[GPR_RSP] = 0x8000;
}

/* A periodic signal to this thread: KVM_RUN always comes back. */
static int start_timer(struct probe_guest *guest, struct error *err)
{
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = KVM_KICK_SIGNAL};
    event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    const struct itimerspec period = {{0, KICK_PERIOD_NS}, {0, KICK_PERIOD_NS}};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, KVM_KICK_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    int result = kvm_install_kick_handler(err);
    if (result < 0)
        return result;
    if (timer_create(CLOCK_MONOTONIC, &event, &guest->timer) < 0)
        return error_errno(err, -errno, "create a timer");
    guest->has_timer = true;
    if (timer_settime(guest->timer, 0, &period, NULL) < 0)
        return error_errno(err, -errno, "start a timer");
    return 0;
}

int probe_guest_create(struct probe_guest *guest, enum probe_mode mode, const uint8_t *code, size_t length,
                       struct error *err)
{
    memset(guest, 0, sizeof(*guest));
    guest->vm = KVM_VM_NONE;
    void *ram = mmap(NULL, PROBE_RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ram == MAP_FAILED)
        return error_errno(err, -errno, "map memory for a tiny guest");
    guest->ram = ram;
    fill_memory(guest);
    memcpy(guest->ram + PROBE_CODE, code, length);
    vcpu_state_reset(&guest->state);
    if (mode == PROBE_REAL_MODE)
        real_mode(&guest->state);
    else
        long_mode(&guest->state, mode == PROBE_USER ? 3 : 0);
    cpu_model_init(&guest->model, CPU_PROFILE_KVM);
    int result = kvm_vm_create(&guest->vm, err);
    if (result == 0)
        result = kvm_vm_check(&guest->vm, err);
    if (result == 0)
        result = kvm_vm_filter_msrs(&guest->vm, err);
    if (result == 0)
        result = kvm_vm_map(&guest->vm, 0, 0, guest->ram, PROBE_RAM_BYTES, true, err);
    if (result == 0)
        result = kvm_vm_create_vcpu(&guest->vm, err);
    if (result == 0)
        result = kvm_vm_set_cpuid(&guest->vm, &guest->model, err);
    if (result == 0)
        result = start_timer(guest, err);
    if (result < 0)
        probe_guest_destroy(guest);
    return result;
}

void probe_guest_destroy(struct probe_guest *guest)
{
    if (guest->has_timer)
        timer_delete(guest->timer);
    guest->has_timer = false;
    kvm_vm_destroy(&guest->vm);
    if (guest->ram)
        munmap(guest->ram, PROBE_RAM_BYTES);
    guest->ram = NULL;
}

int probe_guest_start(struct probe_guest *guest, struct error *err)
{
    return kvm_state_set(&guest->vm, &guest->options, &guest->state, err);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int probe_guest_run(struct probe_guest *guest, bool stop_at_kick)
{
    uint64_t limit = now_ns() + TIME_LIMIT_NS;
    for (;;) {
        int result = kvm_ioctl_value(guest->vm.vcpu_fd, KVM_RUN, 0);
        if (result == 0)
            return (int)guest->vm.run->exit_reason;
        if (result != -EINTR && result != -EAGAIN)
            return result;
        if (stop_at_kick)
            return KVM_EXIT_INTR;
        if (now_ns() > limit)
            return -ETIME;
    }
}

int probe_guest_vector(struct probe_guest *guest)
{
    struct kvm_regs regs;
    if (kvm_ioctl(guest->vm.vcpu_fd, KVM_GET_REGS, &regs) < 0 || regs.rip < PROBE_HANDLERS)
        return -1;
    uint64_t vector = (regs.rip - PROBE_HANDLERS) / HANDLER_BYTES;
    return vector < VECTORS && vector == (regs.rax & 0xff) ? (int)vector : -1;
}
