/* Giving an instruction operands that mean something: addresses, targets, selectors, images. Part of generate.c. */
#ifndef DEJAVM_TESTS_ISA_AIM_H
#define DEJAVM_TESTS_ISA_AIM_H

#include "tests/isa/isa.h"

struct aim {
    struct isa_random *r;
    struct isa_case *c;
    bool long_mode;
    enum isa_place place;
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    uint64_t operand; /* linear address of the explicit memory operand */
};

/* False: it cannot be done with this encoding. */
bool aim_operands(struct aim *a);
/* What lies in memory, and in the registers, before: pointers, selectors, images. */
void aim_contents(struct aim *a);

uint64_t aim_place(struct isa_random *r, enum isa_place place, bool long_mode, unsigned bytes);
int aim_gpr(ZydisRegister reg);
void aim_poke(struct aim *a, uint64_t linear, const void *bytes, unsigned length);
/* Where code goes on: in the code pages and away from the instruction, or somewhere that faults. */
uint64_t aim_target(struct aim *a);
uint16_t aim_selector(struct isa_random *r);

#endif
