/*
 * Instructions of 64-bit code that were decoded before, by their shape: all bytes but displacement and immediate. Zydis decodes
 * each shape once; the values are then filled in from the bytes. What comes out is what Zydis would give:
 *
 *   - Displacement and immediate follow everything else (SDM 2, figure 2-1), so nothing that is decoded depends on them but
 *     their own values. Where a handler is chosen, or a stub made, by the immediate it is part of the shape.
 *   - Where they lie length.c says. A shape is only kept if Zydis says the same, finds the value there, and in one operand.
 *
 * The tables are of fixed size, whatever the guest's code is.
 */
#ifndef DEJAVM_CORE_X86_DECODE_FAST_H
#define DEJAVM_CORE_X86_DECODE_FAST_H

#include "core/x86/plan.h"

struct decode_cache;

struct decode_cache *decode_cache_create(void); /* NULL without memory */
void decode_cache_destroy(struct decode_cache *c);

/*
 * As plan_decode() for bytes[0..length) of 64-bit code, length at most 15; -ENOENT if the shape is not known. generation: of the
 * arena that stubs lie in; plans made under another one are forgotten.
 */
int decode_cache_find_plan(struct decode_cache *c, const uint8_t *bytes, size_t length, uint64_t generation,
                           struct plan *out) must_check;

/*
 * Keeps a plan that was made from insn for others of its shape. free_immediate: the immediate's value decides nothing
 * but plan.imm.
 */
void decode_cache_keep_plan(struct decode_cache *c, const struct plan *p, const ZydisDecodedInstruction *insn,
                            const ZydisDecodedOperand *operands, bool free_immediate);

/* An instruction as Zydis has it in its standard configuration. op: z->operand_count elements. Valid until the next call. */
struct decoded {
    const ZydisDecodedInstruction *z;
    const ZydisDecodedOperand *op;
};

/* Decodes bytes[0..length), length at most 15. False: it is no instruction, or a longer one. */
bool decode_cache_decode(struct decode_cache *c, const uint8_t *bytes, size_t length, struct decoded *out);

#endif
