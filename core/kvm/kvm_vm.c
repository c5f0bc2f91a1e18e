#include "core/kvm/kvm_vm.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/*
 * Intel hosts without "unrestricted guest" run real mode with a TSS and an identity page table of KVM's own: four
 * pages of guest physical space that must not be RAM, below the reset vector.
 */
#define IDENTITY_MAP_GPA ((uint64_t)0xfffbc000)
#define TSS_GPA          0xfffbd000u

int kvm_ioctl(int fd, unsigned long request, void *argument)
{
    int result = ioctl(fd, request, argument);
    return result < 0 ? -errno : result;
}

int kvm_ioctl_value(int fd, unsigned long request, unsigned long argument)
{
    int result = ioctl(fd, request, argument);
    return result < 0 ? -errno : result;
}

static void ignore_signal(int number)
{
    (void)number;
}

int kvm_install_kick_handler(struct error *err)
{
    struct sigaction action = {.sa_handler = ignore_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    if (sigaction(KVM_KICK_SIGNAL, &action, NULL) < 0)
        return error_errno(err, -errno, "install the handler of the kick signal");
    return 0;
}

int kvm_open(int *fd, struct error *err)
{
    *fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (*fd < 0 && (errno == ENOENT || errno == ENODEV || errno == ENXIO))
        return error_set(
            err, -ENODEV,
            "there is no /dev/kvm: load the kernel's kvm_intel or kvm_amd module (virtualisation "
            "may have to be enabled in the firmware first), or record with --engine emu");
    if (*fd < 0 && (errno == EACCES || errno == EPERM))
        return error_set(err, -EACCES,
                         "no permission to open /dev/kvm: join its group (usually \"kvm\"), or record with "
                         "--engine emu");
    if (*fd < 0)
        return error_errno(err, -errno, "open /dev/kvm");
    int version = kvm_ioctl(*fd, KVM_GET_API_VERSION, NULL);
    if (version != KVM_API_VERSION) {
        close(*fd);
        *fd = -1;
        return error_set(err, -ENOTSUP, "/dev/kvm has API version %d, needed is %d", version,
                         KVM_API_VERSION);
    }
    return 0;
}

int kvm_capability(const struct kvm_vm *vm, unsigned capability)
{
    int fd = vm->vm_fd >= 0 ? vm->vm_fd : vm->kvm_fd;
    int value = kvm_ioctl_value(fd, KVM_CHECK_EXTENSION, capability);
    return value < 0 ? 0 : value;
}

int kvm_vm_create(struct kvm_vm *vm, struct error *err)
{
    *vm = KVM_VM_NONE;
    int result = kvm_open(&vm->kvm_fd, err);
    if (result < 0)
        return result;
    do {
        vm->vm_fd = kvm_ioctl_value(vm->kvm_fd, KVM_CREATE_VM, 0);
    } while (vm->vm_fd == -EINTR);
    if (vm->vm_fd < 0) {
        result = error_errno(err, vm->vm_fd, "create a virtual machine (KVM_CREATE_VM)");
        goto fail;
    }
    uint64_t identity_map = IDENTITY_MAP_GPA;
    if (kvm_capability(vm, KVM_CAP_SET_IDENTITY_MAP_ADDR)) {
        result = kvm_ioctl(vm->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map);
        if (result < 0) {
            error_errno(err, result, "KVM_SET_IDENTITY_MAP_ADDR");
            goto fail;
        }
    }
    if (kvm_capability(vm, KVM_CAP_SET_TSS_ADDR)) {
        result = kvm_ioctl_value(vm->vm_fd, KVM_SET_TSS_ADDR, TSS_GPA);
        if (result < 0) {
            error_errno(err, result, "KVM_SET_TSS_ADDR");
            goto fail;
        }
    }
    return 0;
fail:
    kvm_vm_destroy(vm);
    return result;
}

struct capability {
    unsigned number;
    const char *name;
};

int kvm_vm_check(const struct kvm_vm *vm, struct error *err)
{
    static const struct capability needed[] = {
        {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
        {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
        {KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS"},
        {KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS"},
        {KVM_CAP_XSAVE, "KVM_CAP_XSAVE"},
        {KVM_CAP_X86_USER_SPACE_MSR, "KVM_CAP_X86_USER_SPACE_MSR"},
        {KVM_CAP_X86_MSR_FILTER, "KVM_CAP_X86_MSR_FILTER"},
    };
    for (size_t i = 0; i < ARRAY_LEN(needed); i++)
        if (!kvm_capability(vm, needed[i].number))
            return error_set(err, -ENOTSUP,
                             "this host's KVM lacks %s (a Linux kernel of 5.10 or later has it); record with "
                             "--engine emu",
                             needed[i].name);
    return 0;
}

int kvm_vm_create_vcpu(struct kvm_vm *vm, struct error *err)
{
    vm->vcpu_fd = kvm_ioctl_value(vm->vm_fd, KVM_CREATE_VCPU, 0);
    if (vm->vcpu_fd < 0)
        return error_errno(err, vm->vcpu_fd, "create the vCPU (KVM_CREATE_VCPU)");
    int bytes = kvm_ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, NULL);
    if (bytes < (int)sizeof(struct kvm_run))
        return error_set(err, -ENOTSUP, "KVM_GET_VCPU_MMAP_SIZE gives %d, needed are %zu bytes", bytes,
                         sizeof(struct kvm_run));
    void *run = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu_fd, 0);
    if (run == MAP_FAILED)
        return error_errno(err, -errno, "map the vCPU's run structure");
    vm->run = run;
    vm->run_bytes = (size_t)bytes;
    return 0;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

void kvm_vm_destroy(struct kvm_vm *vm)
{
    if (vm->run)
        munmap(vm->run, vm->run_bytes);
    vm->run = NULL;
    close_fd(&vm->vcpu_fd);
    close_fd(&vm->vm_fd);
    close_fd(&vm->kvm_fd);
}

int kvm_vm_enable(struct kvm_vm *vm, uint32_t capability, uint64_t argument)
{
    struct kvm_enable_cap enable = {.cap = capability, .args = {argument}};
    return kvm_ioctl(vm->vm_fd, KVM_ENABLE_CAP, &enable);
}

int kvm_vm_map(struct kvm_vm *vm, uint32_t slot, gpa_t gpa, void *host, uint64_t bytes, bool log_dirty,
               struct error *err)
{
    struct kvm_userspace_memory_region region = {
        .slot = slot,
        .flags = log_dirty ? KVM_MEM_LOG_DIRTY_PAGES : 0,
        .guest_phys_addr = gpa,
        .memory_size = bytes,
        .userspace_addr = (uintptr_t)host,
    };
    int result = kvm_ioctl(vm->vm_fd, KVM_SET_USER_MEMORY_REGION, &region);
    if (result < 0)
        return error_errno(err, result, "give KVM %llu bytes of RAM at 0x%llx", (unsigned long long)bytes,
                           (unsigned long long)gpa);
    return 0;
}

int kvm_vm_set_cpuid(struct kvm_vm *vm, const struct cpu_model *model, struct error *err)
{
    struct kvm_cpuid_buffer buffer = {0};
    struct kvm_cpuid2 *cpuid = kvm_cpuid_of(&buffer);
    cpuid->nent = model->count;
    for (unsigned i = 0; i < model->count; i++) {
        const struct cpuid_entry *from = &model->entry[i];
        bool has_subleaf = from->subleaf != CPUID_NO_SUBLEAF;
        cpuid->entries[i] = (struct kvm_cpuid_entry2){
            .function = from->leaf,
            .index = has_subleaf ? from->subleaf : 0,
            .flags = has_subleaf ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
            .eax = from->eax,
            .ebx = from->ebx,
            .ecx = from->ecx,
            .edx = from->edx,
        };
    }
    int result = kvm_ioctl(vm->vcpu_fd, KVM_SET_CPUID2, cpuid);
    return result < 0 ? error_errno(err, result, "KVM_SET_CPUID2") : 0;
}

/* Kernels before 6.9 leave nent as it was: what they did not fill in is still zero. */
static uint32_t filled_entries(const struct kvm_cpuid2 *cpuid)
{
    static const struct kvm_cpuid_entry2 empty;
    uint32_t count = cpuid->nent < KVM_CPUID_ENTRIES ? cpuid->nent : KVM_CPUID_ENTRIES;
    while (count > 0 && memcmp(&cpuid->entries[count - 1], &empty, sizeof(empty)) == 0)
        count--;
    return count;
}

int kvm_vm_get_cpuid(struct kvm_vm *vm, struct cpu_model *model, struct error *err)
{
    struct kvm_cpuid_buffer buffer = {0};
    struct kvm_cpuid2 *cpuid = kvm_cpuid_of(&buffer);
    cpuid->nent = KVM_CPUID_ENTRIES;
    int result = kvm_ioctl(vm->vcpu_fd, KVM_GET_CPUID2, cpuid);
    if (result < 0)
        return error_errno(err, result, "KVM_GET_CPUID2");
    model->shown_count = 0;
    uint32_t count = filled_entries(cpuid);
    for (uint32_t i = 0; i < count; i++) {
        const struct kvm_cpuid_entry2 *from = &cpuid->entries[i];
        if (model->shown_count == CPUID_MAX_ENTRIES)
            return error_set(err, -E2BIG, "KVM shows the guest more than %d CPUID leaves", CPUID_MAX_ENTRIES);
        bool has_subleaf = from->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
        model->shown[model->shown_count++] =
            (struct cpuid_entry){.leaf = from->function,
                                 .subleaf = has_subleaf ? from->index : CPUID_NO_SUBLEAF,
                                 .eax = from->eax,
                                 .ebx = from->ebx,
                                 .ecx = from->ecx,
                                 .edx = from->edx};
    }
    bool as_asked = model->shown_count == model->count &&
                    memcmp(model->shown, model->entry, model->count * sizeof(model->entry[0])) == 0;
    if (as_asked)
        model->shown_count = 0;
    return 0;
}

struct msr_range {
    uint32_t first, count;
};

static const struct msr_range let_through[] = {
    {0x174, 1},      /* IA32_SYSENTER_CS */
    {0x277, 1},      /* IA32_PAT */
    {0xc0000080, 5}, /* EFER, STAR, LSTAR, CSTAR, SFMASK */
    {0xc0000100, 3}, /* FS_BASE, GS_BASE, KERNEL_GS_BASE */
};

bool kvm_msr_is_let_through(uint32_t index)
{
    for (size_t i = 0; i < ARRAY_LEN(let_through); i++)
        if (index - let_through[i].first < let_through[i].count)
            return true;
    return false;
}

int kvm_vm_filter_msrs(struct kvm_vm *vm, struct error *err)
{
    /* Any failing access exits, not only a filtered one: KVM refuses x2APIC MSRs on its own, past the filter. */
    int result =
        kvm_vm_enable(vm, KVM_CAP_X86_USER_SPACE_MSR,
                      KVM_MSR_EXIT_REASON_FILTER | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_INVAL);
    if (result < 0)
        return error_errno(err, result, "make MSR accesses exit (KVM_CAP_X86_USER_SPACE_MSR)");
    uint64_t all = UINT64_MAX;
    struct kvm_msr_filter filter = {.flags = KVM_MSR_FILTER_DEFAULT_DENY};
    for (size_t i = 0; i < ARRAY_LEN(let_through); i++)
        filter.ranges[i] = (struct kvm_msr_filter_range){
            .flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
            .base = let_through[i].first,
            .nmsrs = let_through[i].count,
            .bitmap = (uint8_t *)&all,
        };
    result = kvm_ioctl(vm->vm_fd, KVM_X86_SET_MSR_FILTER, &filter);
    return result < 0 ? error_errno(err, result, "KVM_X86_SET_MSR_FILTER") : 0;
}
