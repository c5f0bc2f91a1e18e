/*
 * Stubs: generated host code that executes one guest instruction on the host CPU. Also the plans and tables that
 * decode.c, stub.c and exec_stub.c share. Private to core/x86.
 *
 * A stub is called as uint32_t stub(struct emu *e, void *data, uint32_t flags):
 *   data   the memory operand, for instructions that have one
 *   flags  the guest's status flags as stub_pack_flags makes them, where the instruction reads or writes any
 * and returns the status flags in the same form. It loads the registers that the instruction uses from e->cpu, executes the
 * instruction with the memory operand as [data], and stores what was written.
 */
#ifndef DEJAVM_CORE_X86_STUB_H
#define DEJAVM_CORE_X86_STUB_H

#include "core/x86/internal.h"

/* General registers of all sizes, AH to BH among them, and the number of the whole one. */
static inline bool is_gpr(ZydisRegister reg)
{
    ZydisRegisterClass class = ZydisRegisterGetClass(reg);
    return class == ZYDIS_REGCLASS_GPR8 || class == ZYDIS_REGCLASS_GPR16 || class == ZYDIS_REGCLASS_GPR32 ||
           class == ZYDIS_REGCLASS_GPR64;
}

static inline unsigned gpr_number(ZydisRegister reg)
{
    ZydisRegister full = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
    return (unsigned)ZydisRegisterGetId(full) & 15;
}

typedef uint32_t (*stub_fn)(struct emu *e, void *data, uint32_t flags);

/* plan.flags of an instruction that has a stub. */
enum exec_flags {
    EXEC_FLAGS = 0x01,  /* reads or writes status flags */
    EXEC_SSE = 0x02,    /* checks of legacy SSE */
    EXEC_AVX = 0x04,    /* checks of AVX */
    EXEC_MXCSR = 0x08,  /* may raise SIMD floating-point exceptions */
    EXEC_X87 = 0x10,    /* checks of x87 */
    EXEC_MMX = 0x20,    /* checks of MMX */
    EXEC_WAIT = 0x40,   /* a pending x87 exception comes first */
    EXEC_ALIGNED = 0x80 /* memory operand must be aligned to its size */
};

/* plan.extra of an instruction that has a stub. */
enum exec_extra {
    EXEC_FOP_MASK = 0x07ff,    /* x87: FOP */
    EXEC_X87_CONTROL = 0x0800, /* x87: leaves FIP, FDP and FOP alone */
    /* With EXEC_ALIGNED: what an operand that is not aligned does. Neither: #GP(0), unless MXCSR.MM is set. */
    EXEC_ALIGN_ALWAYS = 0x1000, /* #GP(0) */
    EXEC_ALIGN_NEVER = 0x2000,  /* nothing (AMD: the SHA instructions); the host may see it differently */
};

/* e->host_scratch[] */
enum { SCRATCH_HOST_MXCSR = 0 };

/*
 * Generates the stub of a decoded instruction. On 0 *stub is callable; -ENOSPC: the arena is full; -ENOTSUP: no stub can be made
 * (it is not on the allow-list, or would not decode back to the same instruction).
 */
int stub_generate(struct code_arena *arena, const ZydisDecodedInstruction *insn,
                  const ZydisDecodedOperand *operands, const uint8_t *bytes, const void **stub) must_check;

/* Chooses the handler (plan.fn) and plan.flags of an instruction that has a stub. exec_stub.c */
void exec_stub_setup(struct plan *p, const ZydisDecodedInstruction *insn,
                     const ZydisDecodedOperand *operands);

/* The same for x87 instructions. exec_x87.c */
bool exec_is_x87(const ZydisDecodedInstruction *insn);
void exec_x87_setup(struct plan *p, const ZydisDecodedInstruction *insn);

/* Plain handlers that decode.c sets by itself. exec_stub.c */
enum step exec_undefined(struct emu *e, const struct plan *p);   /* #UD */
enum step exec_too_long(struct emu *e, const struct plan *p);    /* #GP(0) */
enum step exec_unsupported(struct emu *e, const struct plan *p); /* ends the run with an error */
enum step exec_arena_full(struct emu *e,
                          const struct plan *p); /* drops all code, decodes anew and executes */

extern const struct plan_handlers
    compute_handlers;                              /* compute_ops.c: LEA, XCHG, XLAT, BCD, NOP, fences, ... */
extern const struct plan_handlers vector_handlers; /* vector_ops.c: masked moves, gathers, VZEROUPPER */
extern const struct plan_handlers xsave_handlers;  /* xsave.c */

/* Moves the guest's x87 state into the host's registers. fpu_state.c */
void x87_load(struct emu *e);
/* What the CPU makes of loaded control and status words: bits that do not exist are dropped, ES and B follow. fpu_state.c */
void x87_settle(struct fpu_state *f);
/*
 * What a waiting instruction does about a pending unmasked x87 exception: #MF, or with CR0.NE = 0 what IGNNE# says. STEP_NEXT when
 * there is none, and also, with ES still set, when it is ignored: the host may execute the instruction under x87_hold only.
 */
enum step x87_check_pending(struct emu *e);
/* From x87_hold to x87_release fsw is without the pending exceptions, so that the host does not raise them. */
void x87_hold(struct emu *e);
void x87_release(struct emu *e);
/* After an instruction that can end an error: tells the boundary when FERR# falls. pending: what x87_pending said before it. */
void x87_note_end(struct emu *e, bool pending);

#define FSW_ES 0x0080u

/* An unmasked exception is pending. */
static inline bool x87_pending(const struct emu *e)
{
    return e->cpu.fpu.fsw & FSW_ES;
}
/*
 * Before the guest loads MXCSR: STEP_NEXT; #GP(0) for bits that its CPU model lacks; STEP_STOP with e->error for
 * bits that only this host's CPU lacks.
 */
enum step mxcsr_check(struct emu *e, uint32_t value);

/* What every MMX instruction does to the x87 state: TOP = 0, all registers valid (SDM 1, 9.5.1). vector_ops.c */
void mmx_enter(struct fpu_state *f);
/*
 * Whether length bytes (at most 4) of the memory operand, from byte at on, can be accessed: which part of a large image is looked at
 * first decides which fault is raised. Callers have the order of AMD's CPUs. fpu_state.c
 */
enum step image_probe(struct emu *e, const struct plan *p, unsigned at, size_t length, enum access access);
/* The parts of the FXSAVE image, which XSAVE shares; p tells the format. fpu_state.c */
void fx_store_x87(const struct emu *e, const struct plan *p, uint8_t *image);
void fx_load_x87(struct emu *e, const struct plan *p, const uint8_t *image);
void fx_store_xmm(const struct emu *e, const struct plan *p, uint8_t *image);
void fx_load_xmm(struct emu *e, const struct plan *p, const uint8_t *image);

#define MXCSR_EXCEPTIONS 0x3fu
#define MXCSR_MASK_SHIFT 7
#define MXCSR_MASKS      (MXCSR_EXCEPTIONS << MXCSR_MASK_SHIFT)
#define MXCSR_PRE        0x07u /* IE, DE, ZE: found before computing */
#define MXCSR_UE         0x10u
#define MXCSR_FTZ        0x8000u

/*
 * The flags that an instruction with an unmasked exception sets. found: those that it sets with all exceptions masked (UE for
 * every tiny result when UE is unmasked). Registers are as they were before it; memory: its memory operand. simd_flags.c
 */
uint32_t simd_unmasked_flags(const struct emu *e, const struct plan *p, const uint8_t *memory, uint32_t mxcsr,
                             uint32_t found);

/*
 * True when the instruction has a tiny result that is exact, which raises an unmasked underflow, and that no flag shows, with FTZ or
 * without: VCVTPS2PH, which FTZ is nothing to (SDM 2, VCVTPS2PH). Registers are as they were before it. simd_flags.c
 */
bool simd_hides_tiny(const struct emu *e, const struct plan *p, uint32_t mxcsr);

/* AH as LAHF has it, and bit 3 of AL for OF: what the stub's ADD AL, 0x78 and SAHF take. */
static inline uint32_t stub_pack_flags(uint64_t rflags)
{
    return (uint32_t)((rflags & 0xff) << 8 | ((rflags >> 8) & 8));
}

/* From LAHF in AH and SETO in AL. */
static inline uint64_t stub_unpack_flags(uint64_t rflags, uint32_t packed)
{
    return (rflags & ~RFLAGS_STATUS) | ((packed >> 8) & 0xd5) | ((uint64_t)(packed & 1) << 11);
}

/* A writable data segment that covers all of 4 GiB: no access can fail its checks. */
static inline bool segment_is_flat(const struct segment *s)
{
    enum { ASKED = SEGMENT_P | SEGMENT_S | 0xe, FLAT = SEGMENT_P | SEGMENT_S | 0x2 };
    return s->base == 0 && s->limit == UINT32_MAX && (s->rights & ASKED) == FLAT;
}

/*
 * The memory operand where the TLB has it and segmentation has nothing to say, or NULL. In 64-bit code a TLB hit means that the
 * address is canonical.
 */
static inline uint8_t *operand_host(struct emu *e, const struct plan *p, unsigned access)
{
    uint64_t address = (uint64_t)p->disp;
    if (likely(p->base < GPR_COUNT))
        address += e->cpu.gpr[p->base];
    else if (p->base == PLAN_REG_RIP)
        address += e->next_rip;
    if (p->index < GPR_COUNT)
        address += e->cpu.gpr[p->index] * p->scale;
    if (likely(p->code_size == 8 && p->addr_size == 8)) {
        if (unlikely(p->seg >= SEG_FS)) {
            if (unlikely(!is_canonical(address)))
                return NULL;
            address += e->cpu.seg[p->seg].base;
        }
    } else {
        if (p->code_size != 4 || p->addr_size != 4 || !segment_is_flat(&e->cpu.seg[p->seg]))
            return NULL;
        address = (uint32_t)address;
    }
    return tlb_host(e, address, p->mem_bytes, access);
}

/*
 * A handler in C for a frequent, simple form (moves, adds, logic, comparisons); NULL for all others. Such a plan needs no
 * stub. fast_ops.c
 */
plan_fn fast_select(const struct plan *p, const ZydisDecodedInstruction *insn,
                    const ZydisDecodedOperand *operands);

static inline uint32_t stub_call(struct emu *e, const struct plan *p, void *data, uint32_t flags)
{
    union {
        const void *code;
        stub_fn fn;
    } stub = {.code = p->stub};
    return stub.fn(e, data, flags);
}

/* Runs the stub, with the status flags where it uses them. */
static inline void call_with_flags(struct emu *e, const struct plan *p, void *data)
{
    if (p->flags & EXEC_FLAGS) {
        uint32_t flags = stub_call(e, p, data, stub_pack_flags(e->cpu.rflags));
        e->cpu.rflags = stub_unpack_flags(e->cpu.rflags, flags);
    } else {
        stub_call(e, p, data, 0);
    }
}

/* The access that segmentation is asked for. */
static inline enum access segment_access(const struct plan *p)
{
    return p->mem_access & PLAN_MEM_WRITE ? ACCESS_WRITE : ACCESS_READ;
}

/* For alignment, which is looked at before the segment is. */
static inline uint64_t unchecked_linear(const struct emu *e, const struct plan *p)
{
    bool flat = p->code_size == 8 && p->seg < SEG_FS;
    return plan_offset(e, p) + (flat ? 0 : e->cpu.seg[p->seg].base);
}

#endif
