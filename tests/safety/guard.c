/* Signals, system calls, and memory around the emulator's own. */
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "tests/safety/safety.h"

/* ---- signals ---- */

static struct caught *caught;

static void on_signal(int number, siginfo_t *info, void *context)
{
    const ucontext_t *uc = context;
    caught->signal = number;
    caught->host_rip = (uint64_t)uc->uc_mcontext.gregs[REG_RIP];
    caught->host_address = (uint64_t)(uintptr_t)info->si_addr;
    /* The code that was executed can be read, unless that was the fault. */
    if (number != SIGSEGV || caught->host_rip != caught->host_address)
        memcpy(caught->host_code, (const void *)(uintptr_t)caught->host_rip, sizeof caught->host_code);
    _exit(2);
}

bool guard_signals(struct caught *out)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
    static uint8_t stack[65536];
    stack_t alternative = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction action = {.sa_sigaction = on_signal,
                               .sa_flags = (int)(SA_SIGINFO | SA_ONSTACK | SA_RESETHAND)};
    caught = out;
    sigfillset(&action.sa_mask);
    bool good = sigaltstack(&alternative, NULL) == 0;
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        good = good && sigaction(signals[i], &action, NULL) == 0;
    return good;
}

/* ---- system calls ---- */

#ifdef __SANITIZE_ADDRESS__
/* The sanitizers make system calls of their own. */
bool guard_system_calls(void)
{
    return true;
}
#else
bool guard_system_calls(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_exit_group, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog program = {.len = sizeof code / sizeof *code, .filter = code};
    /* The few small allocations that running code makes come from memory that the process already has. */
    mallopt(M_TOP_PAD, 64 << 20);
    mallopt(M_TRIM_THRESHOLD, 128 << 20);
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    void *first = malloc(100000);
    free(first);
    return first && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}
#endif

/* ---- allocations ---- */

#define GUARD_BYTES ((size_t)1 << 20)

static bool guarding;
static unsigned guarded;

void *__real_aligned_alloc(size_t alignment, size_t size);
void *__real_calloc(size_t count, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
void *__wrap_calloc(size_t count, size_t size);

/* Zeroed, ends (but for the alignment) where accessible memory ends. Never freed: the process is short-lived. */
static void *guarded_alloc(size_t alignment, size_t size)
{
    size_t inner = (size + 4095) & ~(size_t)4095;
    uint8_t *area =
        mmap(NULL, inner + 2 * GUARD_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area == MAP_FAILED || mprotect(area + GUARD_BYTES, inner, PROT_READ | PROT_WRITE) != 0)
        return NULL;
    guarded++;
    return area + GUARD_BYTES + ((inner - size) & ~(alignment - 1));
}

void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
    return guarding ? guarded_alloc(alignment, size) : __real_aligned_alloc(alignment, size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    size_t bytes;
    if (!guarding)
        return __real_calloc(count, size);
    return __builtin_mul_overflow(count, size, &bytes) ? NULL : guarded_alloc(64, bytes);
}

void guard_allocations_begin(void)
{
    guarding = true;
}

void guard_allocations_end(void)
{
    guarding = false;
}

unsigned guard_allocation_count(void)
{
    return guarded;
}

/* ---- mappings ---- */

int guard_count_mappings(int pid, unsigned *writable_executable, unsigned *shared_executable)
{
    char path[64], line[512];
    snprintf(path, sizeof path, "/proc/%d/maps", pid);
    FILE *maps = fopen(path, "r");
    if (!maps)
        return -1;
    int lines = 0;
    *writable_executable = *shared_executable = 0;
    while (fgets(line, sizeof line, maps)) {
        char mode[5] = "";
        if (sscanf(line, "%*[0-9a-f-] %4s", mode) != 1)
            continue;
        lines++;
        *writable_executable += mode[1] == 'w' && mode[2] == 'x';
        *shared_executable += mode[2] == 'x' && mode[3] == 's';
    }
    fclose(maps);
    return lines ? 0 : -1;
}
