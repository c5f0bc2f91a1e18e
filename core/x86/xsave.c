/*
 * XSAVE, XSAVEOPT, XSAVEC, XRSTOR, XGETBV, XSETBV (SDM 1, chapter 13). What the hardware tracks is replaced by one rule: a
 * component is in use (XINUSE) exactly when it is not in its initial configuration, and "modified" is never assumed.
 */
#include <string.h>

#include "core/x86/stub.h"

#define XCR0_X87 1u
#define XCR0_SSE 2u
#define XCR0_AVX 4u
#define XCR0_ALL (XCR0_X87 | XCR0_SSE | XCR0_AVX)

#define XSAVE_HEADER    512u
#define XSAVE_XCOMP_BV  520u
#define XSAVE_AVX       576u
#define XSAVE_AVX_BYTES 256u
#define XSAVE_END       (XSAVE_AVX + XSAVE_AVX_BYTES)
#define XCOMP_COMPACTED ((uint64_t)1 << 63)
#define FX_MXCSR        24u
#define FX_ST           32u
#define FX_XMM          160u

#define FEATURE_XGETBV1 (CPU_FEATURE_XSAVE_EAX + 2)

static bool is_zero(const void *data, size_t length)
{
    const uint8_t *p = data;
    for (size_t i = 0; i < length; i++)
        if (p[i])
            return false;
    return true;
}

static bool x87_in_use(const struct fpu_state *f)
{
    return f->fcw != FCW_DEFAULT || f->fsw || f->ftw || f->fop || f->fip || f->fdp || f->fcs || f->fds ||
           !is_zero(f->st, sizeof f->st);
}

static bool any_vector_half(const struct fpu_state *f, unsigned count, unsigned offset)
{
    for (unsigned i = 0; i < count; i++)
        if (!is_zero(f->ymm[i] + offset, 16))
            return true;
    return false;
}

static uint64_t components_in_use(const struct emu *e)
{
    const struct fpu_state *f = &e->cpu.fpu;
    unsigned count = vcpu_in_64bit_code(&e->cpu) ? 16 : 8;
    return (x87_in_use(f) ? XCR0_X87 : 0) | (any_vector_half(f, count, 0) ? XCR0_SSE : 0) |
           (any_vector_half(f, count, 16) ? XCR0_AVX : 0);
}

/* RFBM: the components that the instruction is about. */
static uint64_t requested(const struct emu *e)
{
    return e->cpu.xcr0 & ((e->cpu.gpr[GPR_RDX] << 32) | (uint32_t)e->cpu.gpr[GPR_RAX]);
}

static enum step check(struct emu *e, const struct plan *p, enum access access, gva_t *linear)
{
    if (!(e->cpu.cr4 & CR4_OSXSAVE))
        return raise_exception(e, VEC_UD);
    if (e->cpu.cr0 & CR0_TS)
        return raise_exception(e, VEC_NM);
    if (unchecked_linear(e, p) & 63)
        return raise_exception_code(e, VEC_GP, 0);
    enum step step = image_probe(e, p, 0, 1, access);
    return step == STEP_NEXT ? plan_linear(e, p, XSAVE_AVX, access, linear) : step;
}

/* All pages that the area can touch are checked before anything is written. */
static enum step check_area(struct emu *e, gva_t linear, size_t length)
{
    enum step step = STEP_NEXT;
    for (size_t at = 0; step == STEP_NEXT && at < length; at += 256)
        step = mem_check_write(e, linear + at, length - at < 256 ? length - at : 256);
    return step;
}

static unsigned vector_count(const struct plan *p)
{
    return p->code_size == 8 ? 16 : 8;
}

static enum step save_x87(struct emu *e, const struct plan *p, gva_t linear)
{
    uint8_t *image = e->fpu_image;
    fx_store_x87(e, p, image);
    enum step step = mem_write(e, linear, image, FX_MXCSR);
    return step == STEP_NEXT ? mem_write(e, linear + FX_ST, image + FX_ST, FX_XMM - FX_ST) : step;
}

static enum step save_mxcsr(struct emu *e, gva_t linear)
{
    uint32_t pair[2] = {e->cpu.fpu.mxcsr, e->model->mxcsr_mask};
    return mem_write(e, linear + FX_MXCSR, pair, sizeof pair);
}

static enum step save_avx(struct emu *e, const struct plan *p, gva_t linear)
{
    uint8_t upper[XSAVE_AVX_BYTES];
    for (unsigned i = 0; i < 16; i++)
        memcpy(upper + 16 * i, e->cpu.fpu.ymm[i] + 16, 16);
    return mem_write(e, linear + XSAVE_AVX, upper, 16 * (size_t)vector_count(p));
}

static enum step save_parts(struct emu *e, const struct plan *p, gva_t linear, uint64_t parts)
{
    enum step step = STEP_NEXT;
    if (parts & XCR0_X87)
        step = save_x87(e, p, linear);
    if (step == STEP_NEXT && (parts & XCR0_SSE)) {
        fx_store_xmm(e, p, e->fpu_image);
        step = mem_write(e, linear + FX_XMM, e->fpu_image + FX_XMM, 16 * (size_t)vector_count(p));
    }
    if (step == STEP_NEXT && (parts & XCR0_AVX))
        step = save_avx(e, p, linear);
    return step;
}

static enum step do_xsave(struct emu *e, const struct plan *p)
{
    bool compacted = p->mnemonic == ZYDIS_MNEMONIC_XSAVEC || p->mnemonic == ZYDIS_MNEMONIC_XSAVEC64;
    bool optimized = p->mnemonic == ZYDIS_MNEMONIC_XSAVEOPT || p->mnemonic == ZYDIS_MNEMONIC_XSAVEOPT64;
    gva_t linear;
    uint64_t header[2] = {0, 0};
    enum step step = check(e, p, ACCESS_WRITE, &linear);
    if (step != STEP_NEXT)
        return step;
    x87_sync(e);
    uint64_t rfbm = requested(e), in_use = components_in_use(e);
    if (compacted && e->cpu.fpu.mxcsr != MXCSR_DEFAULT)
        in_use |= XCR0_SSE;
    step = image_probe(e, p, (rfbm & XCR0_AVX ? XSAVE_END : XSAVE_AVX) - 1, 1, ACCESS_WRITE);
    if (step == STEP_NEXT)
        step = check_area(e, linear, rfbm & XCR0_AVX ? XSAVE_END : XSAVE_AVX);
    if (step == STEP_NEXT && !compacted)
        step = mem_read(e, linear + XSAVE_HEADER, header, sizeof header[0]);
    if (step != STEP_NEXT)
        return step;

    bool mxcsr = compacted ? rfbm & in_use & XCR0_SSE : (rfbm & (XCR0_SSE | XCR0_AVX)) != 0;
    step = save_parts(e, p, linear, compacted || optimized ? rfbm & in_use : rfbm);
    if (step == STEP_NEXT && mxcsr)
        step = save_mxcsr(e, linear);
    if (step != STEP_NEXT)
        return step;
    header[0] = compacted ? rfbm & in_use : (header[0] & ~rfbm) | (rfbm & in_use);
    header[1] = rfbm | XCOMP_COMPACTED;
    return mem_write(e, linear + XSAVE_HEADER, header, compacted ? 16 : 8);
}

/* SDM 1, 13.8.1 and 13.8.2: what the header may say. */
static bool header_is_valid(const struct emu *e, const uint64_t header[8])
{
    if (header[1] & XCOMP_COMPACTED) {
        if (!cpu_model_has(e->model, CPU_FEATURE_XSAVE_EAX + 1) ||
            (header[1] & ~XCOMP_COMPACTED & ~e->cpu.xcr0) || (header[0] & ~header[1]) ||
            (header[0] & XCOMP_COMPACTED))
            return false;
        return is_zero(header + 2, 48);
    }
    return !(header[0] & ~e->cpu.xcr0) && is_zero(header + 1, 16);
}

static void x87_reset(struct fpu_state *f)
{
    memset(f->st, 0, sizeof f->st);
    f->fcw = FCW_DEFAULT;
    f->fsw = 0;
    f->ftw = 0;
    f->fop = f->fcs = f->fds = 0;
    f->fip = f->fdp = 0;
}

static enum step do_xrstor(struct emu *e, const struct plan *p)
{
    bool pending = x87_pending(e);
    uint64_t header[8];
    uint8_t upper[XSAVE_AVX_BYTES] = {0};
    uint8_t *image = e->fpu_image;
    gva_t linear;
    enum step step = check(e, p, ACCESS_READ, &linear);
    if (step == STEP_NEXT)
        step = mem_read(e, linear + XSAVE_HEADER, header, sizeof header);
    if (step == STEP_NEXT)
        step = mem_read(e, linear, image, XSAVE_HEADER);
    if (step != STEP_NEXT)
        return step;
    if (!header_is_valid(e, header))
        return raise_exception_code(e, VEC_GP, 0);
    bool compacted = header[1] & XCOMP_COMPACTED;
    uint64_t rfbm = requested(e), load = rfbm & header[0];
    if (load & XCR0_AVX)
        step = plan_linear(e, p, XSAVE_END, ACCESS_READ, &linear);
    if (step == STEP_NEXT && (load & XCR0_AVX))
        step = mem_read(e, linear + XSAVE_AVX, upper, 16 * (size_t)vector_count(p));
    if (step != STEP_NEXT)
        return step;
    uint32_t mxcsr = e->cpu.fpu.mxcsr;
    if (compacted ? load & XCR0_SSE : rfbm & (XCR0_SSE | XCR0_AVX))
        memcpy(&mxcsr, image + FX_MXCSR, 4);
    else if (compacted && (rfbm & XCR0_SSE))
        mxcsr = MXCSR_DEFAULT;
    step = mxcsr_check(e, mxcsr);
    if (step != STEP_NEXT)
        return step;

    x87_sync(e);
    e->cpu.fpu.mxcsr = mxcsr;
    if (load & XCR0_X87)
        fx_load_x87(e, p, image);
    else if (rfbm & XCR0_X87)
        x87_reset(&e->cpu.fpu);
    if ((rfbm & XCR0_SSE) && !(load & XCR0_SSE))
        memset(image + FX_XMM, 0, 256);
    if (rfbm & XCR0_SSE)
        fx_load_xmm(e, p, image);
    for (unsigned i = 0; (rfbm & XCR0_AVX) && i < vector_count(p); i++)
        memcpy(e->cpu.fpu.ymm[i] + 16, upper + 16 * i, 16);
    x87_note_end(e, pending);
    return STEP_NEXT;
}

static enum step do_xgetbv(struct emu *e, const struct plan *p)
{
    (void)p;
    uint32_t index = (uint32_t)e->cpu.gpr[GPR_RCX];
    uint64_t value = e->cpu.xcr0;
    if (!(e->cpu.cr4 & CR4_OSXSAVE))
        return raise_exception(e, VEC_UD);
    if (index > 1 || (index == 1 && !cpu_model_has(e->model, FEATURE_XGETBV1)))
        return raise_exception_code(e, VEC_GP, 0);
    if (index == 1) {
        x87_sync(e);
        value &= components_in_use(e);
    }
    gpr_write(e, GPR_RAX, 4, (uint32_t)value);
    gpr_write(e, GPR_RDX, 4, value >> 32);
    return STEP_NEXT;
}

static enum step do_xsetbv(struct emu *e, const struct plan *p)
{
    (void)p;
    if (!(e->cpu.cr4 & CR4_OSXSAVE))
        return raise_exception(e, VEC_UD);
    uint64_t value = (e->cpu.gpr[GPR_RDX] << 32) | (uint32_t)e->cpu.gpr[GPR_RAX];
    bool bad = (uint32_t)e->cpu.gpr[GPR_RCX] != 0 || vcpu_cpl(&e->cpu) != 0 || !(value & XCR0_X87) ||
               (value & ~(uint64_t)XCR0_ALL) || ((value & XCR0_AVX) && !(value & XCR0_SSE)) ||
               ((value & XCR0_AVX) && !cpu_model_has(e->model, CPU_FEATURE_LEAF1_ECX + 28));
    if (bad)
        return raise_exception_code(e, VEC_GP, 0);
    e->cpu.xcr0 = value;
    return STEP_NEXT;
}

static const struct plan_handler list[] = {
    {ZYDIS_MNEMONIC_XSAVE, do_xsave, NULL},    {ZYDIS_MNEMONIC_XSAVE64, do_xsave, NULL},
    {ZYDIS_MNEMONIC_XSAVEOPT, do_xsave, NULL}, {ZYDIS_MNEMONIC_XSAVEOPT64, do_xsave, NULL},
    {ZYDIS_MNEMONIC_XSAVEC, do_xsave, NULL},   {ZYDIS_MNEMONIC_XSAVEC64, do_xsave, NULL},
    {ZYDIS_MNEMONIC_XRSTOR, do_xrstor, NULL},  {ZYDIS_MNEMONIC_XRSTOR64, do_xrstor, NULL},
    {ZYDIS_MNEMONIC_XGETBV, do_xgetbv, NULL},  {ZYDIS_MNEMONIC_XSETBV, do_xsetbv, NULL},
};

const struct plan_handlers xsave_handlers = {list, ARRAY_LEN(list)};
