/*
 * Looking at a guest without touching it: address translation that sets no A/D bit and raises no fault, reading guest
 * virtual memory, disassembly, and the witness words of a landmark. For debuggers, landmarks and reports.
 */
#ifndef DEJAVM_CORE_X86_INSPECT_H
#define DEJAVM_CORE_X86_INSPECT_H

#include "core/ram.h"
#include "core/vcpu_state.h"

/* Translates with the page tables of state (permissions are not checked). -EFAULT where nothing is mapped. */
int x86_translate(const struct guest_ram *ram, const struct vcpu_state *state, gva_t gva,
                  gpa_t *gpa) must_check;

/* Copies up to length bytes of guest virtual memory; returns how many could be read from the start. */
size_t x86_read_virtual(const struct guest_ram *ram, const struct vcpu_state *state, gva_t gva, void *out,
                        size_t length);

/* "mov rax, [rbx+8]" of the instruction at CS:RIP, or its bytes where it cannot be decoded. */
void x86_disassemble(const struct guest_ram *ram, const struct vcpu_state *state, char *out, size_t size);

struct x86_witness {
    gva_t address;
    uint64_t value; /* the 8 bytes there, little-endian; missing bytes are 0 */
};

#define X86_WITNESS_MAX 8

/*
 * The witness words at this boundary: the top of the stack and the memory operands of the instructions about to
 * run (up to eight, direct jumps followed). Addresses are computed from the registers as they are now. Returns the count.
 */
unsigned x86_witnesses(const struct guest_ram *ram, const struct vcpu_state *state,
                       struct x86_witness out[X86_WITNESS_MAX]);

/* The eight bytes at address, as x86_witnesses stores them. */
uint64_t x86_witness_value(const struct guest_ram *ram, const struct vcpu_state *state, gva_t address);

#endif
