/* The native side: signals load a whole register state, and catch it again after the instruction. */
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "tests/isa/isa.h"

#define XSTATE_BV_OFFSET 512
#define XSAVE_AVX        576
#define FX_MXCSR         24
#define FX_SW_BYTES      464 /* struct _fpx_sw_bytes of the signal frame */
#define TRAP_BP          3
#define TRAP_PF          14

enum phase { IDLE, ENTER, RUN };

static struct {
    volatile enum phase phase;
    const struct vcpu_state *in;
    struct isa_result *out;
    gregset_t saved_gregs;
    uint8_t saved_fp[4096];
    size_t fp_bytes;
    uint8_t *data;
    uint8_t stack[65536];
} native;

static const int greg_of[GPR_COUNT] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                       REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                       REG_R12, REG_R13, REG_R14, REG_R15};

static size_t frame_bytes(const uint8_t *fp)
{
    uint32_t extended;
    memcpy(&extended, fp + FX_SW_BYTES + 4, 4);
    return extended > 832 && extended <= sizeof native.saved_fp ? extended : 832;
}

static void load(ucontext_t *uc)
{
    const struct vcpu_state *s = native.in;
    uint8_t *fp = (uint8_t *)uc->uc_mcontext.fpregs;
    greg_t *g = uc->uc_mcontext.gregs;
    for (int i = 0; i < GPR_COUNT; i++)
        g[greg_of[i]] = (greg_t)s->gpr[i];
    g[REG_RIP] = (greg_t)s->rip;
    g[REG_CSGSFS] = (g[REG_CSGSFS] & ~(greg_t)0xffff) | s->seg[SEG_CS].selector;
    g[REG_EFL] = (greg_t)((g[REG_EFL] & ~(greg_t)(RFLAGS_STATUS | RFLAGS_DF)) |
                          (greg_t)(s->rflags & (RFLAGS_STATUS | RFLAGS_DF)));
    const struct fpu_state *f = &s->fpu;
    memcpy(fp, &f->fcw, 2);
    memcpy(fp + 2, &f->fsw, 2);
    fp[4] = f->ftw;
    memcpy(fp + 6, &f->fop, 2);
    memcpy(fp + 8, &f->fip, 8);
    memcpy(fp + 16, &f->fdp, 8);
    memcpy(fp + FX_MXCSR, &f->mxcsr, 4);
    memcpy(fp + 32, f->st, sizeof f->st);
    uint64_t *bv = (uint64_t *)(void *)(fp + XSTATE_BV_OFFSET);
    *bv = 7;
    for (int i = 0; i < 16; i++) {
        memcpy(fp + 160 + 16 * i, f->ymm[i], 16);
        memcpy(fp + XSAVE_AVX + 16 * i, f->ymm[i] + 16, 16);
    }
}

static void store(const ucontext_t *uc)
{
    struct isa_result *r = native.out;
    const uint8_t *fp = (const uint8_t *)uc->uc_mcontext.fpregs;
    const greg_t *g = uc->uc_mcontext.gregs;
    memset(r, 0, sizeof *r);
    for (int i = 0; i < GPR_COUNT; i++)
        r->state.gpr[i] = (uint64_t)g[greg_of[i]];
    r->state.rip = (uint64_t)g[REG_RIP];
    r->state.rflags = (uint64_t)g[REG_EFL];
    r->vector = (int)g[REG_TRAPNO];
    if (r->vector == TRAP_BP) {
        r->vector = -1;
        r->state.rip--;
    }
    if (r->vector == TRAP_PF) {
        r->error_code = (uint32_t)g[REG_ERR] & 7;
        r->cr2 = (uint64_t)g[REG_CR2];
    }
    struct fpu_state *f = &r->state.fpu;
    uint64_t bv;
    memcpy(&bv, fp + XSTATE_BV_OFFSET, 8);
    f->fcw = FCW_DEFAULT;
    if (bv & 1) {
        memcpy(&f->fcw, fp, 2);
        memcpy(&f->fsw, fp + 2, 2);
        f->ftw = fp[4];
        memcpy(&f->fop, fp + 6, 2);
        memcpy(&f->fip, fp + 8, 8);
        memcpy(&f->fdp, fp + 16, 8);
        for (int i = 0; i < 8; i++)
            memcpy(f->st[i], fp + 32 + 16 * i, 10);
    }
    memcpy(&f->mxcsr, fp + FX_MXCSR, 4);
    for (int i = 0; i < 16; i++) {
        if (bv & 2)
            memcpy(f->ymm[i], fp + 160 + 16 * i, 16);
        if (bv & 4)
            memcpy(f->ymm[i] + 16, fp + XSAVE_AVX + 16 * i, 16);
    }
}

static void on_signal(int number, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    (void)info;
    if (native.phase == ENTER) {
        native.phase = RUN;
        memcpy(native.saved_gregs, uc->uc_mcontext.gregs, sizeof native.saved_gregs);
        native.fp_bytes = frame_bytes((const uint8_t *)uc->uc_mcontext.fpregs);
        memcpy(native.saved_fp, uc->uc_mcontext.fpregs, native.fp_bytes);
        load(uc);
    } else if (native.phase == RUN) {
        native.phase = IDLE;
        store(uc);
        memcpy(uc->uc_mcontext.gregs, native.saved_gregs, sizeof native.saved_gregs);
        memcpy(uc->uc_mcontext.fpregs, native.saved_fp, native.fp_bytes);
    } else {
        signal(number, SIG_DFL);
    }
}

bool native_init(void)
{
    static const int signals[] = {SIGTRAP, SIGSEGV, SIGILL, SIGFPE, SIGBUS};
    int protection = PROT_READ | PROT_WRITE | PROT_EXEC;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    /* Room around, so that an address that is a little off hits nothing. */
    char *guard =
        mmap((void *)(uintptr_t)(ISA_DATA - (64 << 20)), 128 << 20, PROT_NONE, flags | MAP_NORESERVE, -1, 0);
    int fd = memfd_create("isa-data", 0);
    if (guard == MAP_FAILED || fd < 0 || ftruncate(fd, ISA_DATA_BYTES) != 0 ||
        mmap((void *)(uintptr_t)ISA_CODE, ISA_CODE_BYTES, protection, flags, -1, 0) == MAP_FAILED)
        return false;
    char *data = (char *)(uintptr_t)ISA_DATA;
    if (mmap(data, ISA_DATA_RW, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED ||
        mmap(data + ISA_DATA_RW, ISA_DATA_BYTES - ISA_DATA_RW, PROT_READ, MAP_SHARED | MAP_FIXED, fd,
             ISA_DATA_RW) == MAP_FAILED)
        return false;
    /* Present from the start: the error code of a page fault tells. */
    for (size_t i = 0; i < ISA_DATA_BYTES; i += 4096)
        (void)*(volatile char *)(data + i);
    native.data = mmap(NULL, ISA_DATA_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    stack_t stack = {.ss_sp = native.stack, .ss_size = sizeof native.stack};
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigfillset(&action.sa_mask);
    /* Linux starts processes with null selectors; 32-bit code needs data segments. */
    __asm__ volatile("mov %0, %%ds\n\tmov %0, %%es" : : "r"(0x2b));
    bool good = native.data != MAP_FAILED && sigaltstack(&stack, NULL) == 0;
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        good = good && sigaction(signals[i], &action, NULL) == 0;
    return good;
}

uint8_t *native_code(void)
{
    return (uint8_t *)(uintptr_t)ISA_CODE;
}

uint8_t *native_data(void)
{
    return native.data;
}

void native_run(const struct vcpu_state *in, struct isa_result *out)
{
    native.in = in;
    native.out = out;
    native.phase = ENTER;
    __asm__ volatile("int3" ::: "memory");
}
