/* Handlers of the plans that run a stub: operands, checks, and the exceptions that must not happen on the host. */
#include <errno.h>
#include <string.h>

#include "core/x86/allow_list.h"
#include "core/x86/code_arena.h"
#include "core/x86/stub.h"

#define MXCSR_MM 0x20000u /* AMD: misaligned SSE operands are fine */

enum step exec_undefined(struct emu *e, const struct plan *p)
{
    (void)p;
    return raise_exception(e, VEC_UD);
}

enum step exec_too_long(struct emu *e, const struct plan *p)
{
    (void)p;
    return raise_exception_code(e, VEC_GP, 0);
}

static void format_bytes(const struct plan *p, char *out, size_t size)
{
    static const char digits[] = "0123456789abcdef";
    size_t n = 0;
    for (unsigned i = 0; i < p->length && n + 4 <= size; i++) {
        out[n++] = digits[p->bytes[i] >> 4];
        out[n++] = digits[p->bytes[i] & 15];
        out[n++] = ' ';
    }
    out[n ? n - 1 : 0] = '\0';
}

enum step exec_unsupported(struct emu *e, const struct plan *p)
{
    char bytes[64], text[128] = "?";
    ZydisDisassembledInstruction d;
    ZydisMachineMode mode = p->code_size == 8   ? ZYDIS_MACHINE_MODE_LONG_64
                            : p->code_size == 4 ? ZYDIS_MACHINE_MODE_LEGACY_32
                                                : ZYDIS_MACHINE_MODE_LEGACY_16;
    format_bytes(p, bytes, sizeof bytes);
    if (ZYAN_SUCCESS(ZydisDisassembleIntel(mode, e->cpu.rip, p->bytes, p->length, &d)))
        memcpy(text, d.text, sizeof text < sizeof d.text ? sizeof text : sizeof d.text);
    text[sizeof text - 1] = '\0';
    e->stop_reason =
        error_set(&e->error, -ENOTSUP, "the emulator lacks the instruction at RIP %#llx: %s (%s)",
                  (unsigned long long)e->cpu.rip, text, bytes);
    return STEP_STOP;
}

/* The plan that could not get a stub: everything that points into the arena is dropped, then it is decoded anew. */
enum step exec_arena_full(struct emu *e, const struct plan *p)
{
    struct plan again;
    uint8_t bytes[sizeof p->bytes];
    unsigned length = p->length, size = p->code_size;
    memcpy(bytes, p->bytes, sizeof bytes);
    block_cache_flush(e);
    e->block_gone = true;
    code_arena_recycle(e->arena);
    if (plan_decode(e, bytes, length, size, &again) != 1 || again.fn == exec_arena_full) {
        e->stop_reason = error_set(&e->error, -ENOSPC, "no room for generated code");
        return STEP_STOP;
    }
    return again.fn(e, &again);
}

/* ---- general instructions ---- */

static enum step exec_registers(struct emu *e, const struct plan *p)
{
    stub_call(e, p, NULL, 0);
    return STEP_NEXT;
}

static enum step exec_registers_flags(struct emu *e, const struct plan *p)
{
    uint32_t flags = stub_call(e, p, NULL, stub_pack_flags(e->cpu.rflags));
    e->cpu.rflags = stub_unpack_flags(e->cpu.rflags, flags);
    return STEP_NEXT;
}

/* Runs the stub on an operand that is not plain RAM within one page. A failed write undoes the registers. */
static enum step exec_mapped(struct emu *e, const struct plan *p, gva_t linear)
{
    struct mem_map map;
    enum step step = mem_map(e, linear, p->mem_bytes, p->mem_access, &map);
    if (step != STEP_NEXT)
        return step;
    uint64_t gpr[GPR_COUNT], rflags = e->cpu.rflags;
    memcpy(gpr, e->cpu.gpr, sizeof gpr);
    call_with_flags(e, p, map.data);
    step = mem_unmap(e, &map);
    if (step != STEP_NEXT) {
        memcpy(e->cpu.gpr, gpr, sizeof gpr);
        e->cpu.rflags = rflags;
    }
    return step;
}

static enum step exec_at(struct emu *e, const struct plan *p, gva_t linear)
{
    uint8_t *data = tlb_host(e, linear, p->mem_bytes, p->mem_access);
    if (unlikely(!data))
        return exec_mapped(e, p, linear);
    call_with_flags(e, p, data);
    return STEP_NEXT;
}

static enum step exec_memory(struct emu *e, const struct plan *p)
{
    gva_t linear;
    uint8_t *data = operand_host(e, p, p->mem_access);
    if (likely(data != NULL)) {
        call_with_flags(e, p, data);
        return STEP_NEXT;
    }
    enum step step = plan_linear(e, p, p->mem_bytes, segment_access(p), &linear);
    return unlikely(step != STEP_NEXT) ? step : exec_at(e, p, linear);
}

static enum step exec_memory_aligned(struct emu *e, const struct plan *p)
{
    gva_t linear;
    if (unchecked_linear(e, p) & (p->mem_bytes - 1u))
        return raise_exception_code(e, VEC_GP, 0);
    enum step step = plan_linear(e, p, p->mem_bytes, segment_access(p), &linear);
    return step == STEP_NEXT ? exec_at(e, p, linear) : step;
}

/* ---- division ---- */

static uint64_t load_operand(const void *data, unsigned bytes)
{
    uint64_t value = 0;
    memcpy(&value, data, bytes);
    return value;
}

static int64_t sign_extend(uint64_t value, unsigned bytes)
{
    unsigned shift = 64 - bytes * 8;
    return (int64_t)(value << shift) >> shift;
}

static bool divide_overflows(const struct emu *e, unsigned size, uint64_t divisor)
{
    uint64_t high = size == 1 ? gpr_read(e, GPR_RAX, 2) >> 8 : gpr_read(e, GPR_RDX, size);
    return divisor == 0 || high >= divisor;
}

__extension__ typedef __int128 int128;
__extension__ typedef unsigned __int128 uint128;

/* The quotient of IDIV does not fit: worked out with magnitudes, so that nothing can overflow here. */
static bool signed_divide_overflows(const struct emu *e, unsigned size, uint64_t divisor)
{
    if (divisor == 0)
        return true;
    int128 dividend;
    if (size == 1)
        dividend = (int16_t)e->cpu.gpr[GPR_RAX];
    else if (size == 8)
        dividend = (int128)((uint128)e->cpu.gpr[GPR_RDX] << 64 | e->cpu.gpr[GPR_RAX]);
    else
        dividend =
            sign_extend(gpr_read(e, GPR_RDX, size) << (size * 8) | gpr_read(e, GPR_RAX, size), size * 2);
    int64_t by = sign_extend(divisor, size);
    uint128 magnitude = dividend < 0 ? -(uint128)dividend : (uint128)dividend;
    uint64_t by_magnitude = by < 0 ? -(uint64_t)by : (uint64_t)by;
    bool negative = (dividend < 0) != (by < 0);
    uint64_t limit = ((uint64_t)1 << (size * 8 - 1)) - (negative ? 0 : 1);
    return magnitude / by_magnitude > limit;
}

static enum step divide(struct emu *e, const struct plan *p, void *data, uint64_t divisor)
{
    bool overflow = p->mnemonic == ZYDIS_MNEMONIC_DIV ? divide_overflows(e, p->op_size, divisor)
                                                      : signed_divide_overflows(e, p->op_size, divisor);
    if (overflow)
        return raise_exception(e, VEC_DE);
    call_with_flags(e, p, data);
    return STEP_NEXT;
}

static enum step exec_divide(struct emu *e, const struct plan *p)
{
    if (!p->mem_access)
        return divide(e, p, NULL, gpr_read(e, p->reg[0], p->op_size));
    gva_t linear;
    struct mem_map map;
    enum step step = plan_linear(e, p, p->mem_bytes, ACCESS_READ, &linear);
    if (step == STEP_NEXT)
        step = mem_map(e, linear, p->mem_bytes, PLAN_MEM_READ, &map);
    if (step == STEP_NEXT)
        step = divide(e, p, map.data, load_operand(map.data, p->op_size));
    return step;
}

/* ---- SSE, AVX ---- */

static enum step check_vector(struct emu *e, const struct plan *p)
{
    enum step step = STEP_NEXT;
    if (p->flags & EXEC_AVX)
        step = fpu_check(e, FPU_AVX);
    else if (p->flags & EXEC_SSE)
        step = fpu_check(e, FPU_SSE);
    /*
     * Converting from memory into an XMM register may be an MMX instruction or not: the host decides, with the
     * guest's x87 state in place. With an exception pending it is not.
     */
    if (unlikely(p->mnemonic == ZYDIS_MNEMONIC_CVTPI2PS) && step == STEP_NEXT && p->mem_access) {
        if (x87_pending(e))
            x87_sync(e);
        else
            x87_load(e);
    }
    if (step == STEP_NEXT && (p->flags & EXEC_MMX)) {
        step = fpu_check(e, FPU_MMX);
        if (step == STEP_NEXT)
            step = x87_check_pending(e);
        if (step == STEP_NEXT && unlikely(x87_pending(e)))
            x87_hold(e);
        if (step == STEP_NEXT)
            x87_load(e);
    }
    return step;
}

/* Undoes what a stub did to registers. MMX registers are the host's while they are in use: those come back too. */
static void restore(struct emu *e, const struct vcpu_state *before)
{
    x87_sync(e);
    e->cpu = *before;
}

static void run_quietly(struct emu *e, const struct plan *p, void *operand, uint32_t mxcsr, bool x87)
{
    e->cpu.fpu.mxcsr = mxcsr;
    if (x87)
        x87_load(e);
    call_with_flags(e, p, operand);
}

/*
 * Some SIMD exception is unmasked: the instruction runs with all masked, on copies, and what it would have raised
 * decides (SDM 1, 11.5). With FTZ the host sets UE for every tiny result, exact ones too, which is what raises an
 * unmasked underflow.
 */
static enum step exec_unmasked(struct emu *e, const struct plan *p, gva_t linear)
{
    uint8_t operand[64] __attribute__((aligned(64))) = {0};
    enum step step = STEP_NEXT;
    if (p->mem_access & PLAN_MEM_READ)
        step = mem_read(e, linear, operand, p->mem_bytes);
    if (step == STEP_NEXT && (p->mem_access & PLAN_MEM_WRITE))
        step = mem_check_write(e, linear, p->mem_bytes);
    if (step != STEP_NEXT)
        return step;

    /* The copy has to hold the x87 registers as well; an instruction that uses them has had them loaded. */
    bool x87 = e->x87_live;
    x87_sync(e);
    struct vcpu_state before = e->cpu;
    uint32_t mxcsr = before.fpu.mxcsr, unmasked = ~(mxcsr >> MXCSR_MASK_SHIFT) & MXCSR_EXCEPTIONS;
    uint32_t quiet = (mxcsr & ~MXCSR_EXCEPTIONS) | MXCSR_MASKS;
    bool tiny = false;
    if (unmasked & MXCSR_UE) {
        run_quietly(e, p, operand, quiet | MXCSR_FTZ, x87);
        tiny = (e->cpu.fpu.mxcsr & MXCSR_UE) != 0;
        restore(e, &before);
        tiny |= simd_hides_tiny(e, p, mxcsr);
    }
    /* An unmasked underflow makes FTZ ineffective. */
    run_quietly(e, p, operand, unmasked & MXCSR_UE ? quiet & ~MXCSR_FTZ : quiet, x87);
    uint32_t found = (e->cpu.fpu.mxcsr & MXCSR_EXCEPTIONS) | (tiny ? MXCSR_UE : 0);
    if (found & unmasked & MXCSR_PRE)
        found &= MXCSR_PRE;
    if (found & unmasked) {
        restore(e, &before);
        e->cpu.fpu.mxcsr = mxcsr | simd_unmasked_flags(e, p, operand, mxcsr, found);
        if (p->flags & EXEC_MMX)
            mmx_enter(&e->cpu.fpu);
        return raise_exception(e, e->cpu.cr4 & CR4_OSXMMEXCPT ? VEC_XM : VEC_UD);
    }
    e->cpu.fpu.mxcsr = mxcsr | found;
    if (p->mem_access & PLAN_MEM_WRITE) {
        step = mem_write(e, linear, operand, p->mem_bytes);
        if (step != STEP_NEXT)
            restore(e, &before);
    }
    return step;
}

/* An operand that the guest may misalign and the host may not: it is read into a copy. Such operands are never written. */
static enum step exec_realigned(struct emu *e, const struct plan *p, gva_t linear)
{
    uint8_t operand[64] __attribute__((aligned(64)));
    enum step step = mem_read(e, linear, operand, p->mem_bytes);
    if (step == STEP_NEXT)
        call_with_flags(e, p, operand);
    return step;
}

static bool misaligned_faults(const struct emu *e, const struct plan *p)
{
    return (p->extra & EXEC_ALIGN_ALWAYS) ||
           (!(p->extra & EXEC_ALIGN_NEVER) && !(e->cpu.fpu.mxcsr & MXCSR_MM));
}

static enum step exec_vector_slow(struct emu *e, const struct plan *p)
{
    gva_t linear = 0;
    bool realign = false;
    if (p->mem_access) {
        realign = (p->flags & EXEC_ALIGNED) && (unchecked_linear(e, p) & (p->mem_bytes - 1u));
        if (realign && misaligned_faults(e, p))
            return raise_exception_code(e, VEC_GP, 0);
        enum step step = plan_linear(e, p, p->mem_bytes, segment_access(p), &linear);
        if (step != STEP_NEXT)
            return step;
    }
    if ((p->flags & EXEC_MXCSR) && (e->cpu.fpu.mxcsr & MXCSR_MASKS) != MXCSR_MASKS)
        return exec_unmasked(e, p, linear);
    if (realign)
        return exec_realigned(e, p, linear);
    if (p->mem_access)
        return exec_at(e, p, linear);
    call_with_flags(e, p, NULL);
    return STEP_NEXT;
}

static enum step exec_vector(struct emu *e, const struct plan *p)
{
    uint8_t *data = NULL;
    enum step step = check_vector(e, p);
    if (unlikely(step != STEP_NEXT))
        return step;
    if (p->mem_access)
        data = operand_host(e, p, p->mem_access);
    bool aligned = !(p->flags & EXEC_ALIGNED) || !((uintptr_t)data & (p->mem_bytes - 1u));
    bool masked = !(p->flags & EXEC_MXCSR) || (e->cpu.fpu.mxcsr & MXCSR_MASKS) == MXCSR_MASKS;
    if (likely((data || !p->mem_access) && aligned && masked))
        call_with_flags(e, p, data);
    else
        step = exec_vector_slow(e, p);
    if ((p->flags & EXEC_MMX) && e->x87_live)
        __asm__ volatile("fnstsw %0" : "=m"(e->cpu.fpu.fsw));
    if (unlikely(e->x87_held))
        x87_release(e);
    return step;
}

/* ---- choosing ---- */

static bool legacy_sse_may_be_misaligned(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
    case ZYDIS_MNEMONIC_PCMPESTRI:
    case ZYDIS_MNEMONIC_PCMPESTRM:
    case ZYDIS_MNEMONIC_PCMPISTRI:
    case ZYDIS_MNEMONIC_PCMPISTRM:
        return true;
    default:
        return false;
    }
}

/* Moves that are aligned in every encoding, whatever MXCSR.MM says. */
static bool is_aligned_move(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_MOVAPS:
    case ZYDIS_MNEMONIC_MOVAPD:
    case ZYDIS_MNEMONIC_MOVDQA:
    case ZYDIS_MNEMONIC_MOVNTPS:
    case ZYDIS_MNEMONIC_MOVNTPD:
    case ZYDIS_MNEMONIC_MOVNTDQ:
    case ZYDIS_MNEMONIC_MOVNTDQA:
    case ZYDIS_MNEMONIC_VMOVAPS:
    case ZYDIS_MNEMONIC_VMOVAPD:
    case ZYDIS_MNEMONIC_VMOVDQA:
    case ZYDIS_MNEMONIC_VMOVNTPS:
    case ZYDIS_MNEMONIC_VMOVNTPD:
    case ZYDIS_MNEMONIC_VMOVNTDQ:
    case ZYDIS_MNEMONIC_VMOVNTDQA:
        return true;
    default:
        return false;
    }
}

static void setup_vector(struct plan *p, const ZydisDecodedInstruction *insn, bool vector)
{
    bool vex = insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    if (vector)
        p->flags |= vex ? EXEC_AVX : EXEC_SSE;
    if (vector && allow_list_uses_mxcsr(insn))
        p->flags |= EXEC_MXCSR;
    bool aligned_move = is_aligned_move(insn->mnemonic);
    if (aligned_move ||
        (vector && !vex && p->mem_bytes == 16 && !legacy_sse_may_be_misaligned(insn->mnemonic)))
        p->flags |= EXEC_ALIGNED;
    p->extra = aligned_move ? EXEC_ALIGN_ALWAYS : 0;
    if (insn->meta.isa_set == ZYDIS_ISA_SET_SHA)
        p->extra = EXEC_ALIGN_NEVER;
    p->fn = exec_vector;
}

static void setup_general(struct plan *p, const ZydisDecodedInstruction *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
        p->fn = exec_divide;
        return;
    case ZYDIS_MNEMONIC_CMPXCHG16B:
        p->fn = exec_memory_aligned;
        return;
    default:
        break;
    }
    if (p->mem_access)
        p->fn = exec_memory;
    else
        p->fn = p->flags & EXEC_FLAGS ? exec_registers_flags : exec_registers;
}

/* #UD in real and virtual-8086 mode, as all of VEX (SDM 2, 2.4). */
static enum step exec_vex_general(struct emu *e, const struct plan *p)
{
    if (!(e->cpu.cr0 & CR0_PE) || (e->cpu.rflags & RFLAGS_VM))
        return raise_exception(e, VEC_UD);
    if (p->mem_access)
        return exec_memory(e, p);
    call_with_flags(e, p, NULL);
    return STEP_NEXT;
}

void exec_stub_setup(struct plan *p, const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands)
{
    bool vector = allow_list_uses_mxcsr(insn), mmx = insn->mnemonic == ZYDIS_MNEMONIC_EMMS;
    const ZydisAccessedFlags *f = insn->cpu_flags;
    if (f && ((f->tested | f->modified | f->set_0 | f->set_1 | f->undefined) & RFLAGS_STATUS))
        p->flags |= EXEC_FLAGS;
    for (unsigned i = 0; i < insn->operand_count; i++) {
        if (operands[i].type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        ZydisRegisterClass class = ZydisRegisterGetClass(operands[i].reg.value);
        vector |= class == ZYDIS_REGCLASS_XMM || class == ZYDIS_REGCLASS_YMM;
        mmx |= class == ZYDIS_REGCLASS_MMX;
    }
    if (mmx)
        p->flags |= EXEC_MMX;
    if (exec_is_x87(insn))
        exec_x87_setup(p, insn);
    else if (vector || mmx)
        setup_vector(p, insn, vector);
    else if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
        p->fn = exec_vex_general;
    else
        setup_general(p, insn);
}
