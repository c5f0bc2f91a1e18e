/*
 * Which instructions the emulated CPU has, and which of them may run on the host CPU. Private to core/x86.
 */
#ifndef DEJAVM_CORE_X86_ALLOW_LIST_H
#define DEJAVM_CORE_X86_ALLOW_LIST_H

#include <Zydis/Zydis.h>

#include "core/cpu_model.h"

/* False: the CPU model does not advertise the instruction's extension, so it is #UD. */
bool allow_list_model_has(const struct cpu_model *model, const ZydisDecodedInstruction *insn);

/* Whether F3 in front of BSR and BSF makes them LZCNT and TZCNT; else it means nothing. */
bool allow_list_has_lzcnt(const struct cpu_model *model);
bool allow_list_has_tzcnt(const struct cpu_model *model);

/*
 * True when the host CPU may execute this instruction inside a stub: it computes on general, x87, MMX, SSE or AVX registers
 * and at most one explicit memory operand, and does nothing else. Operands are all operands, hidden ones included.
 */
bool allow_list_may_execute(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands);

/* SSE/AVX instructions that may read or set MXCSR (an overestimate). */
bool allow_list_uses_mxcsr(const ZydisDecodedInstruction *insn);

#endif
