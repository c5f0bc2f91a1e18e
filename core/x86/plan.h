/*
 * A plan: one decoded guest instruction, ready to be executed many times. Decoding depends on the bytes and on
 * the code size (16, 32, 64) only, never on other state of the vCPU.
 */
#ifndef DEJAVM_CORE_X86_PLAN_H
#define DEJAVM_CORE_X86_PLAN_H

#include <Zydis/Zydis.h>

#include "core/base/types.h"
#include "core/vcpu_state.h"

struct emu;
struct plan;

/* What a handler says about the step it was asked to make. */
enum step {
    STEP_NEXT = 0, /* done; the run loop advances RIP by the length and goes on in the block */
    STEP_JUMP,     /* done; the handler has set RIP itself; the block is left */
    STEP_AGAIN, /* a REP iteration is done, RIP stays; position was already counted by the handler or is 1 step:
                      the run loop counts 1 */
    STEP_FAULT, /* not done: emu->fault says what to deliver; architectural state is unchanged */
    STEP_STOP,  /* not done: the boundary failed; state unchanged, the run ends */
    STEP_EXIT, /* done, RIP advanced by the run loop as for STEP_NEXT, then the run ends with emu->stop_reason */
    STEP_LEAVE, /* done, RIP advanced as for STEP_NEXT, then the block is left: something that the rest of the
                      block was decoded or chained under has changed (mode, segment, paging, shadow, IF, TF) */
};

typedef enum step (*plan_fn)(struct emu *e, const struct plan *p);

#define PLAN_NO_REG  0xff
#define PLAN_REG_RIP 0xfe /* base: address of the next instruction */

/* GPR operand: 0..15; with PLAN_REG_HIGH AH, CH, DH, BH are 0..3 | PLAN_REG_HIGH. */
#define PLAN_REG_HIGH 0x20

enum plan_mem_access { PLAN_MEM_NONE = 0, PLAN_MEM_READ = 1, PLAN_MEM_WRITE = 2, PLAN_MEM_RMW = 3 };

enum plan_rep { PLAN_REP_NONE = 0, PLAN_REP = 1 /* F3: REP, REPE */, PLAN_REPNE = 2 /* F2 */ };

struct plan {
    plan_fn fn;
    const void *stub; /* generated code, for instructions that the host CPU executes */
    int64_t disp;     /* memory operand's displacement, sign-extended */
    uint64_t
        imm; /* first immediate, sign-extended as the instruction has it; a relative branch: the offset */
    uint32_t imm2;      /* ENTER's level; far pointers: the selector */
    uint16_t mnemonic;  /* ZydisMnemonic */
    uint8_t length;     /* bytes, 1..15 */
    uint8_t code_size;  /* 2, 4, 8: bytes; what it was decoded for */
    uint8_t op_size;    /* operand size in bytes: 1, 2, 4, 8 (vector: unused) */
    uint8_t addr_size;  /* 2, 4, 8 */
    uint8_t mem_access; /* enum plan_mem_access: the explicit memory operand */
    uint8_t mem_bytes_log2;
    uint16_t mem_bytes;         /* size of the memory operand, 0..512 (0: address only, as in LEA, INVLPG) */
    uint8_t seg;                /* enum segment_register that the memory operand uses */
    uint8_t base, index, scale; /* GPR number or PLAN_NO_REG / PLAN_REG_RIP; scale 1, 2, 4, 8 */
    uint8_t reg[3];        /* explicit register operands in order of appearance (GPR, sreg, CR, DR number) */
    uint8_t reg_is_memory; /* bit i: explicit operand i is the memory operand */
    uint8_t operand_count; /* explicit operands */
    uint8_t operand_bytes[3]; /* their sizes */
    uint8_t rep;              /* enum plan_rep */
    uint8_t lock;             /* LOCK prefix present */
    uint8_t condition;        /* Jcc/SETcc/CMOVcc/LOOPcc: low nibble of the opcode */
    uint8_t opcode;           /* last opcode byte */
    uint8_t modrm;
    uint8_t flags;     /* handler's own */
    uint64_t extra;    /* handler's own */
    uint8_t bytes[15]; /* the instruction, for errors and disassembly */
};

/*
 * Handlers written in C: one table per file. setup (optional) runs at decode time, after the common fields are
 * filled in; it may choose another fn. Returning false means that this form is #UD.
 */
struct plan_handler {
    ZydisMnemonic mnemonic;
    plan_fn fn;
    bool (*setup)(struct plan *p, const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands);
};

struct plan_handlers {
    const struct plan_handler *list;
    size_t count;
};

extern const struct plan_handlers near_handlers;   /* near.c: jumps, calls, LOOP, stack */
extern const struct plan_handlers string_handlers; /* string.c: MOVS .. OUTS */
extern const struct plan_handlers io_handlers;     /* io.c: IN, OUT, RDTSC, RDRAND, HLT, CLI, STI, ... */
extern const struct plan_handlers far_handlers;    /* far.c: far transfers, INT n, IRET, SYSCALL, ... */
extern const struct plan_handlers
    segment_handlers; /* segment_ops.c: MOV Sreg, LDS, LAR, LSL, VERR, ARPL, ... */
extern const struct plan_handlers system_handlers; /* system.c: MOV CR/DR, LGDT, MSRs, CPUID, INVLPG, ... */
extern const struct plan_handlers fpu_handlers;    /* fpu_state.c: FXSAVE, XSAVE, XGETBV, ... */

/*
 * Decodes the instruction in bytes[0..length). Returns:
 *   1  plan filled in
 *   0  more bytes are needed than length (the instruction continues on the next page); length < 15
 * An undefined instruction gives a plan whose handler raises #UD (or #GP for more than 15 bytes); one that hardware has
 * and the emulator lacks a plan whose handler ends the run with an error naming its bytes and text.
 */
int plan_decode(struct emu *e, const uint8_t *bytes, size_t length, unsigned code_size,
                struct plan *out) must_check;
/* The same by Zydis, whether the shape is known (decode_fast.h) or not. */
int plan_decode_anew(struct emu *e, const uint8_t *bytes, size_t length, unsigned code_size,
                     struct plan *out) must_check;

/*
 * length.c: the bytes that the instruction takes, defined or not, be they more than 15. A result above available says that there
 * are more than available, not how many.
 */
size_t plan_instruction_length(const uint8_t *bytes, size_t available, unsigned code_size);

/* Where the parts of an instruction lie whose values decide nothing else; they are the last ones. */
struct plan_layout {
    uint8_t length; /* of all of it, 1..15 */
    uint8_t disp_at, disp_bytes;
    uint8_t imm_at, imm_bytes; /* all immediates */
};

/* False: more bytes are needed than available, or the instruction is undefined. available is at most 15. length.c */
bool plan_find_layout(const uint8_t *bytes, size_t available, unsigned code_size, struct plan_layout *out);

/* enum segment_register of a segment register; DS for none. */
static inline uint8_t plan_segment(ZydisRegister reg)
{
    switch (reg) {
    case ZYDIS_REGISTER_ES:
        return SEG_ES;
    case ZYDIS_REGISTER_CS:
        return SEG_CS;
    case ZYDIS_REGISTER_SS:
        return SEG_SS;
    case ZYDIS_REGISTER_FS:
        return SEG_FS;
    case ZYDIS_REGISTER_GS:
        return SEG_GS;
    default:
        return SEG_DS;
    }
}

#endif
