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

/* One level of a page walk: a page-table entry, and where it lies. */
struct x86_walk_step {
    gpa_t entry;
    uint64_t value;
    uint8_t level; /* 4 = PML4E, 3 = PDPTE, 2 = PDE, 1 = PTE */
    uint8_t bytes; /* of the entry: 4 or 8 */
};

#define X86_WALK_LEVELS 4

struct x86_walk {
    unsigned count; /* steps, from the top; 0 without paging */
    struct x86_walk_step step[X86_WALK_LEVELS];
    bool
        mapped; /* the last step maps a page (or paging is off); otherwise it is not present, or outside RAM */
    uint8_t page_shift; /* 12, 21, 22 or 30 */
    gpa_t gpa;
};

/* The page walk of one linear address. */
void x86_walk(const struct guest_ram *ram, const struct vcpu_state *state, gva_t gva, struct x86_walk *out);

#define X86_UPCOMING_MAX 32

/*
 * The page-table entries (8-byte formats only) that the instruction at CS:RIP uses: for its own bytes, its memory operands and
 * the top of the stack. A processor that was stopped while it worked on that instruction may have set A and D bits
 * in them already (SDM 3, 4.8). Returns the count; every entry appears once.
 */
unsigned x86_upcoming_entries(const struct guest_ram *ram, const struct vcpu_state *state,
                              struct x86_walk_step out[X86_UPCOMING_MAX]);

/* Copies up to length bytes of guest virtual memory; returns how many could be read from the start. */
size_t x86_read_virtual(const struct guest_ram *ram, const struct vcpu_state *state, gva_t gva, void *out,
                        size_t length);

/* "mov rax, [rbx+8]" of the instruction at CS:RIP, or its bytes where it cannot be decoded. */
void x86_disassemble(const struct guest_ram *ram, const struct vcpu_state *state, char *out, size_t size);

/*
 * The length of the instruction at CS:RIP if it is a REP string instruction whose count is 0: all that is left of it is
 * to move RIP on. Otherwise 0.
 */
unsigned x86_finished_rep(const struct guest_ram *ram, const struct vcpu_state *state);

#define X86_NO_REGISTER 0xffu

/* What the instruction at CS:RIP would do with general registers and memory: for following a value backwards. */
struct x86_effect {
    uint8_t length;  /* 0: it cannot be decoded */
    uint16_t writes; /* bit n: general register n, all of it or a part */
    /* The explicit memory operand. */
    bool has_memory, stores;
    uint8_t base, index; /* general registers, or X86_NO_REGISTER */
    gva_t address;       /* linear */
    uint16_t bytes;
    /* Where what it writes into target comes from: loads: the memory operand, or the top of the stack (POP); else a register. */
    uint8_t
        target; /* its first explicit operand, X86_NO_REGISTER if that is no general register that is written */
    bool loads;
    uint8_t source;
};

void x86_instruction_effect(const struct guest_ram *ram, const struct vcpu_state *state,
                            struct x86_effect *out);

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
