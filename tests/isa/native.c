/* The native side: signals load a whole register state, and catch it again after the instruction. */
#include <asm/ldt.h>
#include <signal.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "tests/isa/isa.h"

#define HWCAP2_FSGSBASE  2 /* <asm/hwcap2.h> of newer kernels */
#define XSTATE_BV_OFFSET 512
#define XSAVE_AVX        576
#define FX_MXCSR         24
#define FX_SW_BYTES      464 /* struct _fpx_sw_bytes of the signal frame */
#define SELECTOR_SHIFT   48  /* of SS in REG_CSGSFS */

enum phase { IDLE, ENTER, RUN };

static struct {
    volatile enum phase phase;
    const struct vcpu_state *in;
    struct isa_result *out;
    unsigned length;
    bool low, ldt;
    uint64_t fs_base, gs_base; /* this program's own */
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
    const uint64_t flags = RFLAGS_STATUS | RFLAGS_DF | RFLAGS_AC;
    g[REG_EFL] = (greg_t)(((uint64_t)g[REG_EFL] & ~flags) | (s->rflags & flags));
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

static bool has_error_code(int vector)
{
    return vector == VEC_TS || vector == VEC_NP || vector == VEC_SS || vector == VEC_GP || vector == VEC_PF ||
           vector == VEC_AC;
}

/* The INT3 that ended the run is not one of the instruction's own bytes. */
static void store_exception(struct isa_result *r, const greg_t *g)
{
    r->vector = (int)g[REG_TRAPNO];
    if (r->vector == VEC_BP && r->state.rip - 1 - native.in->rip >= native.length) {
        r->vector = -1;
        r->state.rip--;
    }
    if (has_error_code(r->vector))
        r->error_code = (uint32_t)g[REG_ERR];
    if (r->vector == VEC_PF)
        r->cr2 = (uint64_t)g[REG_CR2];
}

static void store(const ucontext_t *uc)
{
    struct isa_result *r = native.out;
    const uint8_t *fp = (const uint8_t *)uc->uc_mcontext.fpregs;
    const greg_t *g = uc->uc_mcontext.gregs;
    for (int i = 0; i < GPR_COUNT; i++)
        r->state.gpr[i] = (uint64_t)g[greg_of[i]];
    r->state.rip = (uint64_t)g[REG_RIP];
    r->state.rflags = (uint64_t)g[REG_EFL];
    r->state.seg[SEG_CS].selector = (uint16_t)g[REG_CSGSFS];
    r->state.seg[SEG_SS].selector = (uint16_t)((uint64_t)g[REG_CSGSFS] >> SELECTOR_SHIFT);
    store_exception(r, g);
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

/* Nothing here or below uses thread-local storage, nor misaligned data, until this is done. */
static void take_segments(struct vcpu_state *s)
{
    __asm__ volatile("lea -128(%%rsp), %%rsp\n\tpushfq\n\tandq %0, (%%rsp)\n\tpopfq\n\tlea 128(%%rsp), %%rsp"
                     :
                     : "i"(~(int)RFLAGS_AC)
                     : "memory", "cc");
    __asm__ volatile("mov %%ds, %0" : "=r"(s->seg[SEG_DS].selector));
    __asm__ volatile("mov %%es, %0" : "=r"(s->seg[SEG_ES].selector));
    __asm__ volatile("mov %%fs, %0" : "=r"(s->seg[SEG_FS].selector));
    __asm__ volatile("mov %%gs, %0" : "=r"(s->seg[SEG_GS].selector));
    __asm__ volatile("rdfsbase %0" : "=r"(s->seg[SEG_FS].base));
    __asm__ volatile("rdgsbase %0" : "=r"(s->seg[SEG_GS].base));
    __asm__ volatile("mov %0, %%fs" : : "r"(0));
    __asm__ volatile("mov %0, %%gs" : : "r"(0));
    __asm__ volatile("mov %0, %%ds\n\tmov %0, %%es" : : "r"(ISA_SEL_FLAT));
    __asm__ volatile("wrfsbase %0" : : "r"(native.fs_base));
    __asm__ volatile("wrgsbase %0" : : "r"(native.gs_base));
}

/* The last thing that happens before the instruction, but for the return from the signal. */
static void give_segments(const struct vcpu_state *s)
{
    __asm__ volatile("rdfsbase %0" : "=r"(native.fs_base));
    __asm__ volatile("rdgsbase %0" : "=r"(native.gs_base));
    __asm__ volatile("mov %0, %%ds" : : "r"(s->seg[SEG_DS].selector));
    __asm__ volatile("mov %0, %%es" : : "r"(s->seg[SEG_ES].selector));
    __asm__ volatile("mov %0, %%fs" : : "r"(s->seg[SEG_FS].selector));
    __asm__ volatile("mov %0, %%gs" : : "r"(s->seg[SEG_GS].selector));
    __asm__ volatile("wrfsbase %0" : : "r"(s->seg[SEG_FS].base));
    __asm__ volatile("wrgsbase %0" : : "r"(s->seg[SEG_GS].base));
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
        give_segments(native.in);
    } else if (native.phase == RUN) {
        take_segments(&native.out->state);
        native.phase = IDLE;
        store(uc);
        memcpy(uc->uc_mcontext.gregs, native.saved_gregs, sizeof native.saved_gregs);
        memcpy(uc->uc_mcontext.fpregs, native.saved_fp, native.fp_bytes);
    } else {
        signal(number, SIG_DFL);
    }
}

static bool map_data(uint64_t at, int fd, int extra)
{
    char *data = (char *)(uintptr_t)at;
    int both = PROT_READ | PROT_WRITE;
    return mmap(data, ISA_DATA_RO, both, MAP_SHARED | extra, fd, 0) == data &&
           mmap(data + ISA_DATA_RO, 4096, PROT_READ, MAP_SHARED | extra, fd, ISA_DATA_RO) ==
               data + ISA_DATA_RO &&
           mmap(data + ISA_DATA_GAP + 4096, 4096, both, MAP_SHARED | extra, fd, ISA_DATA_GAP + 4096) ==
               data + ISA_DATA_GAP + 4096;
}

static bool make_ldt(void)
{
    static const uint16_t selectors[ISA_LDT_COUNT] = {ISA_SEL_DATA, ISA_SEL_DOWN, ISA_SEL_READ_ONLY,
                                                      ISA_SEL_ABSENT};
    bool good = true;
    for (unsigned i = 0; i < ISA_LDT_COUNT; i++) {
        struct segment s = guest_segment(selectors[i]);
        unsigned contents = s.rights & 4 ? 1 : 0; /* expands down */
        struct user_desc d = {.entry_number = i,
                              .base_addr = (unsigned)s.base,
                              .limit = s.limit,
                              .seg_32bit = 1,
                              .contents = contents & 3,
                              .read_exec_only = !(s.rights & 2),
                              .useable = (s.rights & SEGMENT_AVL) != 0,
                              .seg_not_present = !(s.rights & SEGMENT_P)};
        good = good && syscall(SYS_modify_ldt, 1, &d, sizeof d) == 0;
    }
    return good;
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
        !(getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE) ||
        mmap((void *)(uintptr_t)ISA_CODE, ISA_CODE_BYTES, protection, flags, -1, 0) == MAP_FAILED ||
        !map_data(ISA_DATA, fd, MAP_FIXED))
        return false;
    native.low = map_data(ISA_LOW, fd, MAP_FIXED_NOREPLACE);
    native.ldt = make_ldt();
    memset(native_code(), 0xcc, ISA_CODE_BYTES);
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

bool native_has_low(void)
{
    return native.low;
}

bool native_has_ldt(void)
{
    return native.ldt;
}

/* The error code of a page fault says whether the page is present: it shall be. */
static void touch_pages(uint64_t at)
{
    for (uint64_t i = 0; i < ISA_DATA_BYTES; i += 4096)
        if (i != ISA_DATA_GAP)
            (void)*(volatile char *)(uintptr_t)(at + i);
}

void native_run(const struct vcpu_state *in, unsigned length, struct isa_result *out)
{
    memset(out, 0, sizeof *out);
    native.in = in;
    native.out = out;
    native.length = length;
    touch_pages(ISA_DATA);
    if (native.low)
        touch_pages(ISA_LOW);
    native.phase = ENTER;
    /* What a signal's return leaves as it is: NT and ID. */
    __asm__ volatile(
        "lea -128(%%rsp), %%rsp\n\tpushfq\n\tandq %0, (%%rsp)\n\tpopfq\n\tlea 128(%%rsp), %%rsp\n\tint3"
        :
        : "i"(~(int)(RFLAGS_NT | RFLAGS_ID | RFLAGS_AC | RFLAGS_DF))
        : "memory", "cc");
}
