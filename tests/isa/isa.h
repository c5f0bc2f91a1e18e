/*
 * Differential test of single instructions: the same bytes at the same address with the same registers and memory, once
 * natively on this CPU and once in the emulator, at CPL 3 in 64-bit and in compatibility mode.
 */
#ifndef DEJAVM_TESTS_ISA_H
#define DEJAVM_TESTS_ISA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/vcpu_state.h"

/* Mapped at the same addresses natively and in the guest. */
#define ISA_CODE       0x10000000ull /* two pages */
#define ISA_CODE_BYTES 0x2000u
#define ISA_DATA       0x20000000ull /* two pages read-write, one read-only, then nothing */
#define ISA_DATA_BYTES 0x3000u
#define ISA_DATA_RW    0x2000u

/* How one instruction ended. */
struct isa_result {
    struct vcpu_state state; /* GPRs, RIP, RFLAGS and fpu are valid */
    int vector;              /* -1: completed, else the exception */
    uint32_t error_code;     /* of #PF (bits 0..2) */
    uint64_t cr2;            /* of #PF */
};

/* ---- native.c ---- */

bool native_init(void);
uint8_t *native_code(void);
uint8_t *native_data(void); /* writable view of all ISA_DATA_BYTES */
void native_run(const struct vcpu_state *in, struct isa_result *out);

/* ---- guest.c ---- */

struct guest;
struct guest *guest_create(void);
void guest_destroy(struct guest *g);
uint8_t *guest_code(struct guest *g);
uint8_t *guest_data(struct guest *g);
/* CPL 3, in 64-bit or (compatibility mode) 32-bit code. */
void guest_base_state(bool long_mode, struct vcpu_state *out);
/* Executes the instruction at RIP to its end. False: the engine failed, with a message. */
bool guest_run(struct guest *g, const struct vcpu_state *in, struct isa_result *out, char *message,
               size_t size);

/* ---- generate.c ---- */

struct isa_random {
    uint64_t s;
};
uint64_t isa_random(struct isa_random *r);

struct isa_case {
    uint8_t bytes[15];
    unsigned length; /* what was generated; the instruction may be shorter */
    bool valid;      /* Zydis knows it */
    unsigned mnemonic;
    uint64_t form; /* a hash of mnemonic and operand kinds */
    bool memory;
    struct vcpu_state in;
};

/* The opcode space is numbered: 0 .. isa_opcode_count()-1. */
unsigned isa_opcode_count(void);
/* How much oftener than others it should be tried: opcodes whose ModRM selects among many instructions. */
unsigned isa_opcode_weight(unsigned opcode);
/* False: nothing to test (control transfer, privileged, not in the CPU model). */
bool isa_generate(struct isa_random *r, unsigned opcode, const struct vcpu_state *base, struct isa_case *out);

#endif
