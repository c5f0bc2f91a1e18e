/*
 * x87, SSE control and FXSAVE. The guest's x87 registers live in the host's while e->x87_live (C code for x86-64 does not touch
 * them). FCW's exception masks and the bits ES and B of FSW are kept current in cpu.fpu all the same, so that a pending exception is
 * seen before the host could raise it. (Translated code runs x87 instructions with all exceptions masked only, and leaves them so.)
 */
#include <errno.h>
#include <string.h>

#include "core/x86/io.h"
#include "core/x86/stub.h"

#define FSW_B          0x8000u
#define FSW_EXCEPTIONS 0x3fu
#define FSW_SF         0x40u
#define FCW_WRITABLE   0x1f3fu
#define FCW_FIXED      0x0040u
#define FTW_SPECIAL    2u
#define FTW_EMPTY      3u

/* FXSAVE image, 512 bytes (SDM 1, 10.5.1). */
enum {
    FX_FCW = 0,
    FX_FSW = 2,
    FX_FTW = 4,
    FX_FOP = 6,
    FX_FIP = 8,
    FX_FCS = 12,
    FX_FDP = 16,
    FX_FDS = 20,
    FX_MXCSR = 24,
    FX_MXCSR_MASK = 28,
    FX_ST = 32,
    FX_XMM = 160,
    FX_END_OF_MXCSR = 32,
};

struct fx_image {
    uint8_t bytes[512];
} __attribute__((aligned(16)));

static void put16(uint8_t *p, uint64_t v)
{
    memcpy(p, &(uint16_t){(uint16_t)v}, 2);
}

static void put32(uint8_t *p, uint64_t v)
{
    memcpy(p, &(uint32_t){(uint32_t)v}, 4);
}

static void put64(uint8_t *p, uint64_t v)
{
    memcpy(p, &v, 8);
}

static uint16_t get16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}

static uint32_t get32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

static uint64_t get64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

/* ---- between the host's registers and cpu.fpu ---- */

/*
 * FXRSTOR loads the XMM registers and MXCSR too: the image is first filled with what they are, and the compiler is told.
 */
#define XMM_CLOBBERS                                                                                         \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",        \
        "xmm12", "xmm13", "xmm14", "xmm15"

void x87_load(struct emu *e)
{
    if (e->x87_live)
        return;
    const struct fpu_state *f = &e->cpu.fpu;
    struct fx_image image;
    __asm__ volatile("fxsave64 %0" : "=m"(image)::"memory");
    put16(image.bytes + FX_FCW, f->fcw);
    put16(image.bytes + FX_FSW, f->fsw);
    put16(image.bytes + FX_FTW, f->ftw);
    put16(image.bytes + FX_FOP, 0);
    memset(image.bytes + FX_FIP, 0, 16);
    memcpy(image.bytes + FX_ST, f->st, sizeof f->st);
    __asm__ volatile("fxrstor64 %0" ::"m"(image) : "memory", XMM_CLOBBERS);
    e->x87_live = true;
}

void x87_sync(struct emu *e)
{
    if (!e->x87_live)
        return;
    struct fpu_state *f = &e->cpu.fpu;
    struct fx_image image;
    /* FNINIT leaves the host without a pending exception. */
    __asm__ volatile("fxsave64 %0\n\tfninit" : "=m"(image)::"memory");
    f->fcw = get16(image.bytes + FX_FCW);
    f->fsw = get16(image.bytes + FX_FSW);
    f->ftw = image.bytes[FX_FTW];
    for (unsigned i = 0; i < 8; i++) {
        memcpy(f->st[i], image.bytes + FX_ST + 16 * i, 10);
        memset(f->st[i] + 10, 0, 6);
    }
    e->x87_live = false;
}

enum step mxcsr_check(struct emu *e, uint32_t value)
{
    if (value & ~e->model->mxcsr_mask)
        return raise_exception_code(e, VEC_GP, 0);
    if (!(value & ~cpu_host_mxcsr_mask()))
        return STEP_NEXT;
    e->stop_reason =
        error_set(&e->error, -ENOTSUP,
                  "the guest loads MXCSR with %#x at RIP %#llx, which this host's CPU cannot execute with",
                  value, (unsigned long long)e->cpu.rip);
    return STEP_STOP;
}

enum step fpu_check(struct emu *e, enum fpu_class class)
{
    const struct vcpu_state *s = &e->cpu;
    switch (class) {
    case FPU_X87:
        return s->cr0 & (CR0_EM | CR0_TS) ? raise_exception(e, VEC_NM) : STEP_NEXT;
    case FPU_WAIT:
        return (s->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS) ? raise_exception(e, VEC_NM) : STEP_NEXT;
    case FPU_MMX:
        if (s->cr0 & CR0_EM)
            return raise_exception(e, VEC_UD);
        break;
    case FPU_SSE:
        if ((s->cr0 & CR0_EM) || !(s->cr4 & CR4_OSFXSR))
            return raise_exception(e, VEC_UD);
        break;
    case FPU_AVX:
        if (!(s->cr0 & CR0_PE) || (s->rflags & RFLAGS_VM) || !(s->cr4 & CR4_OSXSAVE) || (s->xcr0 & 6) != 6)
            return raise_exception(e, VEC_UD);
        break;
    }
    return s->cr0 & CR0_TS ? raise_exception(e, VEC_NM) : STEP_NEXT;
}

/* The summary bits follow from the flags and masks (SDM 1, 8.1.3.3). */
static void update_summary(struct fpu_state *f)
{
    f->fsw &= (uint16_t) ~(FSW_ES | FSW_B);
    if (f->fsw & ~f->fcw & FSW_EXCEPTIONS)
        f->fsw |= FSW_ES | FSW_B;
}

void x87_settle(struct fpu_state *f)
{
    f->fcw = (uint16_t)((f->fcw & FCW_WRITABLE) | FCW_FIXED);
    f->fop &= EXEC_FOP_MASK;
    update_summary(f);
}

/* ---- errors ---- */

enum step x87_check_pending(struct emu *e)
{
    uint64_t ignne = IGNNE_NATIVE;
    bool valid;
    if (likely(!x87_pending(e)))
        return STEP_NEXT;
    if (!(e->cpu.cr0 & CR0_NE)) {
        enum step step = io_cpu_read(e, SOURCE_IGNNE, 0, &ignne, &valid);
        if (step != STEP_NEXT || ignne == IGNNE_IGNORE)
            return step;
    }
    if (ignne == IGNNE_NATIVE)
        return raise_exception(e, VEC_MF);
    e->fault = (struct fault){.waits = true};
    return STEP_FAULT;
}

void x87_hold(struct emu *e)
{
    x87_sync(e);
    e->x87_held = e->cpu.fpu.fsw & (FSW_EXCEPTIONS | FSW_SF);
    e->cpu.fpu.fsw &= (uint16_t) ~(FSW_EXCEPTIONS | FSW_SF | FSW_ES | FSW_B);
}

void x87_release(struct emu *e)
{
    x87_sync(e);
    e->cpu.fpu.fsw |= e->x87_held;
    e->x87_held = 0;
    update_summary(&e->cpu.fpu);
}

void x87_note_end(struct emu *e, bool pending)
{
    if (unlikely(pending) && !x87_pending(e) && e->boundary->ops->ferr_deasserted)
        e->boundary->ops->ferr_deasserted(e->boundary);
}

/* SDM 2, CPUID.7.0:EBX[13]: FCS and FDS are deprecated and read as zero. */
static bool selectors_are_stored(const struct emu *e)
{
    return !cpu_model_has(e->model, CPU_FEATURE_LEAF7_EBX + 13);
}

/* ---- FXSAVE, FXRSTOR ---- */

static unsigned xmm_count(const struct plan *p)
{
    return p->code_size == 8 ? 16 : 8;
}

static bool is_wide(const struct plan *p)
{
    return p->code_size == 8 && p->op_size == 8;
}

/*
 * What FXSAVE says of FIP, FDP, FOP and the selectors differs between CPUs: some leave them zero without a pending exception,
 * some know no selectors. So the host writes the image. The guest's state must be in cpu.fpu.
 */
void fx_store_x87(const struct emu *e, const struct plan *p, uint8_t *image)
{
    const struct fpu_state *f = &e->cpu.fpu;
    struct fx_image in, out;
    __asm__ volatile("fxsave64 %0" : "=m"(in)::"memory");
    put16(in.bytes + FX_FCW, f->fcw);
    put16(in.bytes + FX_FSW, f->fsw);
    put16(in.bytes + FX_FTW, f->ftw);
    put16(in.bytes + FX_FOP, f->fop);
    put64(in.bytes + FX_FIP, f->fip);
    put64(in.bytes + FX_FDP, f->fdp);
    memcpy(in.bytes + FX_ST, f->st, sizeof f->st);
    if (is_wide(p)) {
        __asm__ volatile("fxrstor64 %1\n\tfxsave64 %0\n\tfninit"
                         : "=m"(out)
                         : "m"(in)
                         : "memory", XMM_CLOBBERS);
    } else {
        put32(in.bytes + FX_FCS, f->fcs);
        put32(in.bytes + FX_FDS, f->fds);
        __asm__ volatile("fxrstor %1\n\tfxsave %0\n\tfninit" : "=m"(out) : "m"(in) : "memory", XMM_CLOBBERS);
    }
    memcpy(image, out.bytes, FX_MXCSR);
    memcpy(image + FX_ST, out.bytes + FX_ST, sizeof f->st);
}

void fx_load_x87(struct emu *e, const struct plan *p, const uint8_t *image)
{
    struct fpu_state *f = &e->cpu.fpu;
    f->fcw = get16(image + FX_FCW);
    f->fsw = get16(image + FX_FSW);
    f->ftw = image[FX_FTW];
    f->fop = get16(image + FX_FOP);
    f->fip = is_wide(p) ? get64(image + FX_FIP) : get32(image + FX_FIP);
    f->fdp = is_wide(p) ? get64(image + FX_FDP) : get32(image + FX_FDP);
    f->fcs = is_wide(p) ? 0 : get16(image + FX_FCS);
    f->fds = is_wide(p) ? 0 : get16(image + FX_FDS);
    for (unsigned i = 0; i < 8; i++) {
        memcpy(f->st[i], image + FX_ST + 16 * i, 10);
        memset(f->st[i] + 10, 0, 6);
    }
    x87_settle(f);
}

void fx_store_xmm(const struct emu *e, const struct plan *p, uint8_t *image)
{
    for (unsigned i = 0; i < xmm_count(p); i++)
        memcpy(image + FX_XMM + 16 * i, e->cpu.fpu.ymm[i], 16);
}

void fx_load_xmm(struct emu *e, const struct plan *p, const uint8_t *image)
{
    for (unsigned i = 0; i < xmm_count(p); i++)
        memcpy(e->cpu.fpu.ymm[i], image + FX_XMM + 16 * i, 16);
}

enum step image_probe(struct emu *e, const struct plan *p, unsigned at, size_t length, enum access access)
{
    uint32_t value;
    gva_t linear;
    uint64_t offset = truncate_to(plan_offset(e, p) + at, p->addr_size);
    enum step step = segment_linear(e, p->seg, offset, length, access, &linear);
    if (step != STEP_NEXT)
        return step;
    return access == ACCESS_WRITE ? mem_check_write(e, linear, length) : mem_read(e, linear, &value, length);
}

static enum step fx_check(struct emu *e, const struct plan *p, enum access access, gva_t *linear)
{
    bool alignment_checked = e->tlb == e->tlb_sets[TLB_ALIGNED];
    uint64_t unchecked = unchecked_linear(e, p);
    enum step step = fpu_check(e, FPU_X87);
    /* #GP(0) for the alignment comes before what segmentation says, #AC after what it says of the first bytes. */
    if (step == STEP_NEXT && (unchecked & 15) && !(alignment_checked && (unchecked & 3)))
        step = raise_exception_code(e, VEC_GP, 0);
    if (step == STEP_NEXT)
        step = plan_linear(e, p, 4, ACCESS_READ, linear);
    if (step == STEP_NEXT && (unchecked & 15))
        step = raise_exception_code(e, VEC_AC, 0);
    if (step == STEP_NEXT)
        step = plan_linear(e, p, 512, access, linear);
    return step == STEP_NEXT ? image_probe(e, p, 511, 1, access) : step;
}

/* Bytes 416..511 are not written: the image starts as what is there. */
static enum step do_fxsave(struct emu *e, const struct plan *p)
{
    gva_t linear;
    enum step step = fx_check(e, p, ACCESS_WRITE, &linear);
    uint8_t *image = e->fpu_image;
    if (step != STEP_NEXT)
        return step;
    x87_sync(e);
    fx_store_x87(e, p, image);
    put32(image + FX_MXCSR, e->cpu.fpu.mxcsr);
    put32(image + FX_MXCSR_MASK, e->model->mxcsr_mask);
    fx_store_xmm(e, p, image);
    size_t length = FX_XMM + 16 * (size_t)xmm_count(p);
    step = mem_check_write(e, linear, 512);
    return step == STEP_NEXT ? mem_write(e, linear, image, length) : step;
}

static enum step do_fxrstor(struct emu *e, const struct plan *p)
{
    bool pending = x87_pending(e);
    gva_t linear;
    enum step step = fx_check(e, p, ACCESS_READ, &linear);
    if (step == STEP_NEXT)
        step = mem_read(e, linear, e->fpu_image, 512);
    if (step != STEP_NEXT)
        return step;
    const uint8_t *image = e->fpu_image;
    uint32_t mxcsr = get32(image + FX_MXCSR);
    step = mxcsr_check(e, mxcsr);
    if (step != STEP_NEXT)
        return step;
    x87_sync(e);
    fx_load_x87(e, p, image);
    e->cpu.fpu.mxcsr = mxcsr;
    fx_load_xmm(e, p, image);
    x87_note_end(e, pending);
    return STEP_NEXT;
}

/* ---- MXCSR ---- */

static enum step check_mxcsr_instruction(struct emu *e, const struct plan *p)
{
    bool vex = p->mnemonic == ZYDIS_MNEMONIC_VLDMXCSR || p->mnemonic == ZYDIS_MNEMONIC_VSTMXCSR;
    return fpu_check(e, vex ? FPU_AVX : FPU_SSE);
}

static enum step do_ldmxcsr(struct emu *e, const struct plan *p)
{
    gva_t linear;
    uint32_t value;
    enum step step = check_mxcsr_instruction(e, p);
    if (step == STEP_NEXT)
        step = plan_linear(e, p, 4, ACCESS_READ, &linear);
    if (step == STEP_NEXT)
        step = mem_read(e, linear, &value, 4);
    if (step != STEP_NEXT)
        return step;
    step = mxcsr_check(e, value);
    if (step != STEP_NEXT)
        return step;
    e->cpu.fpu.mxcsr = value;
    return STEP_NEXT;
}

static enum step do_stmxcsr(struct emu *e, const struct plan *p)
{
    gva_t linear;
    enum step step = check_mxcsr_instruction(e, p);
    if (step == STEP_NEXT)
        step = plan_linear(e, p, 4, ACCESS_WRITE, &linear);
    return step == STEP_NEXT ? mem_write(e, linear, &e->cpu.fpu.mxcsr, 4) : step;
}

/* ---- the x87 environment (SDM 1, 8.1.10) ---- */

static unsigned stack_top(const struct fpu_state *f)
{
    return (f->fsw >> 11) & 7;
}

/* The full tag word: valid, zero, special, empty for each physical register. */
static uint16_t full_tag_word(const struct fpu_state *f)
{
    unsigned tags = 0;
    for (unsigned i = 0; i < 8; i++) {
        const uint8_t *st = f->st[(i - stack_top(f)) & 7];
        unsigned exponent = get16(st + 8) & 0x7fff;
        uint64_t significand = get64(st);
        unsigned tag = 0;
        if (!(f->ftw & 1u << i))
            tag = FTW_EMPTY;
        else if (exponent == 0 && significand == 0)
            tag = 1;
        else if (exponent == 0x7fff || exponent == 0 || !(significand >> 63))
            tag = FTW_SPECIAL;
        tags |= tag << (2 * i);
    }
    return (uint16_t)tags;
}

static bool is_real_format(const struct emu *e)
{
    return !(e->cpu.cr0 & CR0_PE) || (e->cpu.rflags & RFLAGS_VM);
}

/* 28 bytes with a 32-bit operand size, 14 with 16 bits. */
static size_t environment_bytes(const struct plan *p)
{
    return p->op_size == 2 ? 14 : 28;
}

static void store_environment(const struct emu *e, const struct plan *p, uint8_t *out)
{
    const struct fpu_state *f = &e->cpu.fpu;
    unsigned fcs = selectors_are_stored(e) ? f->fcs : 0, fds = selectors_are_stored(e) ? f->fds : 0;
    uint64_t ip = f->fip, dp = f->fdp;
    if (is_real_format(e)) { /* linear addresses */
        ip += (uint64_t)fcs << 4;
        dp += (uint64_t)fds << 4;
    }
    if (p->op_size == 2) {
        put16(out, f->fcw);
        put16(out + 2, f->fsw);
        put16(out + 4, full_tag_word(f));
        put16(out + 6, ip);
        put16(out + 8, is_real_format(e) ? (ip >> 4 & 0xf000) | f->fop : fcs);
        put16(out + 10, dp);
        put16(out + 12, is_real_format(e) ? dp >> 4 & 0xf000 : fds);
        return;
    }
    put32(out, 0xffff0000u | f->fcw);
    put32(out + 4, 0xffff0000u | f->fsw);
    put32(out + 8, 0xffff0000u | full_tag_word(f));
    if (is_real_format(e)) {
        put32(out + 12, 0xffff0000u | (ip & 0xffff));
        put32(out + 16, (ip >> 16 & 0xffff) << 12 | f->fop);
        put32(out + 20, 0xffff0000u | (dp & 0xffff));
        put32(out + 24, (dp >> 16 & 0xffff) << 12);
    } else {
        put32(out + 12, ip);
        put32(out + 16, (uint32_t)f->fop << 16 | fcs);
        put32(out + 20, dp);
        put32(out + 24, 0xffff0000u | fds);
    }
}

static void load_environment(struct emu *e, const struct plan *p, const uint8_t *in)
{
    struct fpu_state *f = &e->cpu.fpu;
    size_t w = p->op_size == 2 ? 2 : 4;
    f->fcw = (uint16_t)((get16(in) & FCW_WRITABLE) | FCW_FIXED);
    f->fsw = get16(in + w);
    uint16_t tags = get16(in + 2 * w);
    f->ftw = 0;
    for (unsigned i = 0; i < 8; i++)
        if ((tags >> (2 * i) & 3) != FTW_EMPTY)
            f->ftw |= (uint8_t)(1u << i);
    const uint8_t *ip = in + 3 * w, *cs = in + 4 * w, *dp = in + 5 * w, *ds = in + 6 * w;
    bool real = is_real_format(e);
    f->fcs = real ? 0 : get16(cs);
    f->fds = real ? 0 : get16(ds);
    if (w == 2) {
        f->fip = get16(ip) | (real ? (uint64_t)(get16(cs) & 0xf000) << 4 : 0);
        f->fdp = get16(dp) | (real ? (uint64_t)(get16(ds) & 0xf000) << 4 : 0);
        f->fop = real ? get16(cs) & 0x7ff : 0;
    } else if (real) {
        f->fip = get16(ip) | (get32(cs) >> 12 & 0xffff) << 16;
        f->fdp = get16(dp) | (get32(ds) >> 12 & 0xffff) << 16;
        f->fop = get16(cs) & 0x7ff;
    } else {
        f->fip = get32(ip);
        f->fdp = get32(dp);
        f->fop = get16(cs + 2) & 0x7ff;
    }
    update_summary(f);
}

/* The first element and the last byte are looked at before anything else is. */
static enum step environment_linear(struct emu *e, const struct plan *p, size_t length, enum access access,
                                    gva_t *linear)
{
    enum step step = image_probe(e, p, 0, p->op_size == 2 ? 2 : 4, access);
    if (step == STEP_NEXT)
        step = plan_linear(e, p, length, access, linear);
    return step == STEP_NEXT ? image_probe(e, p, (unsigned)length - 1, 1, access) : step;
}

static enum step do_fnstenv(struct emu *e, const struct plan *p)
{
    bool pending = x87_pending(e);
    uint8_t image[28];
    gva_t linear;
    size_t length = environment_bytes(p);
    enum step step = fpu_check(e, FPU_X87);
    if (step == STEP_NEXT)
        step = environment_linear(e, p, length, ACCESS_WRITE, &linear);
    if (step != STEP_NEXT)
        return step;
    x87_sync(e);
    store_environment(e, p, image);
    step = mem_write(e, linear, image, length);
    if (step == STEP_NEXT) {
        e->cpu.fpu.fcw |= FSW_EXCEPTIONS;
        update_summary(&e->cpu.fpu);
    }
    x87_note_end(e, pending);
    return step;
}

static enum step do_fldenv(struct emu *e, const struct plan *p)
{
    bool pending = x87_pending(e);
    uint8_t image[28];
    gva_t linear;
    size_t length = environment_bytes(p);
    enum step step = fpu_check(e, FPU_X87);
    if (step == STEP_NEXT)
        step = x87_check_pending(e);
    if (step == STEP_NEXT)
        step = environment_linear(e, p, length, ACCESS_READ, &linear);
    if (step == STEP_NEXT)
        step = mem_read(e, linear, image, length);
    if (step != STEP_NEXT)
        return step;
    x87_sync(e);
    unsigned old_top = stack_top(&e->cpu.fpu);
    load_environment(e, p, image);
    /* The registers stay where they are physically; st[] is relative to the new top. */
    uint8_t st[8][16];
    memcpy(st, e->cpu.fpu.st, sizeof st);
    for (unsigned i = 0; i < 8; i++)
        memcpy(e->cpu.fpu.st[i], st[(i + stack_top(&e->cpu.fpu) - old_top) & 7], 16);
    x87_note_end(e, pending);
    return STEP_NEXT;
}

static void x87_initialise(struct fpu_state *f)
{
    f->fcw = FCW_DEFAULT;
    f->fop = f->fcs = f->fds = 0;
    f->fip = f->fdp = 0;
    f->ftw = 0;
    /* TOP becomes 0; the registers keep their contents, physically. */
    uint8_t st[8][16];
    unsigned top = stack_top(f);
    memcpy(st, f->st, sizeof st);
    for (unsigned i = 0; i < 8; i++)
        memcpy(f->st[i], st[(i - top) & 7], 16);
    f->fsw = 0;
}

static enum step do_fnsave(struct emu *e, const struct plan *p)
{
    bool pending = x87_pending(e);
    uint8_t image[108];
    gva_t linear;
    size_t environment = environment_bytes(p);
    enum step step = fpu_check(e, FPU_X87);
    if (step == STEP_NEXT)
        step = environment_linear(e, p, environment + 80, ACCESS_WRITE, &linear);
    if (step != STEP_NEXT)
        return step;
    x87_sync(e);
    store_environment(e, p, image);
    for (unsigned i = 0; i < 8; i++)
        memcpy(image + environment + 10 * (size_t)i, e->cpu.fpu.st[i], 10);
    step = mem_write(e, linear, image, environment + 80);
    if (step == STEP_NEXT)
        x87_initialise(&e->cpu.fpu);
    x87_note_end(e, pending);
    return step;
}

static enum step do_frstor(struct emu *e, const struct plan *p)
{
    bool pending = x87_pending(e);
    uint8_t image[108];
    gva_t linear;
    size_t environment = environment_bytes(p);
    enum step step = fpu_check(e, FPU_X87);
    if (step == STEP_NEXT)
        step = x87_check_pending(e);
    if (step == STEP_NEXT)
        step = environment_linear(e, p, environment + 80, ACCESS_READ, &linear);
    if (step == STEP_NEXT)
        step = mem_read(e, linear, image, environment + 80);
    if (step != STEP_NEXT)
        return step;
    x87_sync(e);
    load_environment(e, p, image);
    for (unsigned i = 0; i < 8; i++) {
        memcpy(e->cpu.fpu.st[i], image + environment + 10 * (size_t)i, 10);
        memset(e->cpu.fpu.st[i] + 10, 0, 6);
    }
    x87_note_end(e, pending);
    return STEP_NEXT;
}

static enum step do_fwait(struct emu *e, const struct plan *p)
{
    (void)p;
    enum step step = fpu_check(e, FPU_WAIT);
    return step == STEP_NEXT ? x87_check_pending(e) : step;
}

static const struct plan_handler list[] = {
    {ZYDIS_MNEMONIC_FXSAVE, do_fxsave, NULL},   {ZYDIS_MNEMONIC_FXSAVE64, do_fxsave, NULL},
    {ZYDIS_MNEMONIC_FXRSTOR, do_fxrstor, NULL}, {ZYDIS_MNEMONIC_FXRSTOR64, do_fxrstor, NULL},
    {ZYDIS_MNEMONIC_LDMXCSR, do_ldmxcsr, NULL}, {ZYDIS_MNEMONIC_VLDMXCSR, do_ldmxcsr, NULL},
    {ZYDIS_MNEMONIC_STMXCSR, do_stmxcsr, NULL}, {ZYDIS_MNEMONIC_VSTMXCSR, do_stmxcsr, NULL},
    {ZYDIS_MNEMONIC_FNSTENV, do_fnstenv, NULL}, {ZYDIS_MNEMONIC_FLDENV, do_fldenv, NULL},
    {ZYDIS_MNEMONIC_FNSAVE, do_fnsave, NULL},   {ZYDIS_MNEMONIC_FRSTOR, do_frstor, NULL},
    {ZYDIS_MNEMONIC_FWAIT, do_fwait, NULL},
};

const struct plan_handlers fpu_handlers = {list, ARRAY_LEN(list)};
