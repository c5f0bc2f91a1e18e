/*
 * A small machine for tests of the emulator: RAM, the `emu` engine, and a boundary that keeps what crossed it.
 *
 *   0x001000 GDT    0x002000 IDT    0x003000 TSS    0x010000.. page tables
 *   0x100000 code (VM_CODE)    0x180000 data (VM_DATA)    0x1ff000 stack top (VM_STACK)
 *
 * Linear 0..16 MiB is mapped to itself, and the first 2 MiB once more at 16 MiB (VM_ALIAS); 4 KiB pages, all for
 * user and supervisor, except that 2..16 MiB are 2 MiB pages.
 */
#ifndef DEJAVM_TESTS_EMU_VM_H
#define DEJAVM_TESTS_EMU_VM_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/cpu_model.h"
#include "core/engine.h"
#include "core/x86/emu.h"

#define VM_RAM_BYTES ((uint64_t)16 << 20)
#define VM_CODE      0x100000u
#define VM_DATA      0x180000u
#define VM_STACK     0x1ff000u
#define VM_ALIAS     0x1000000u
#define VM_TSS       0x3000u
#define VM_PD_LOW    0x12000u /* page directory of linear 0..1 GiB */
#define VM_PT_LOW    0x13000u /* page table of linear 0..2 MiB */

enum { VM_CS = 0x08, VM_DS = 0x10, VM_USER_CS = 0x1b, VM_USER_DS = 0x23, VM_TR = 0x28, VM_CS32 = 0x38 };

#define VM_CROSSINGS_MAX 4096

struct crossing {
    position_t position;
    char kind; /* 'i' port in, 'o' port out, 'r' mmio read, 'w' mmio write, 'c' cpu, 'h' halt */
    uint64_t address, value;
    unsigned size;
};

struct vm {
    struct boundary boundary; /* first */
    struct guest_ram *ram;
    struct cpu_model model;
    struct engine *engine;
    struct crossing crossing[VM_CROSSINGS_MAX];
    size_t crossings;    /* how many there were; only the first VM_CROSSINGS_MAX are kept */
    uint64_t next_input; /* every value read is this, then it grows by 0x0101010101010101 */
    int boundary_result; /* what the boundary answers at position answer_at */
    position_t answer_at;
};

/* In long mode at CPL 0 at VM_CODE, interrupts off. The code is copied there. */
struct vm *vm_create(const void *code, const void *code_end);
void vm_destroy(struct vm *vm);

void *vm_at(struct vm *vm, uint64_t gpa); /* host pointer */
uint64_t vm_read64(struct vm *vm, uint64_t gpa);
const struct vcpu_state *vm_state(struct vm *vm);
position_t vm_position(struct vm *vm);
/* Changes a copy of the state and loads it. */
void vm_set_state(struct vm *vm, const struct vcpu_state *state);
void vm_set_gpr(struct vm *vm, enum gpr reg, uint64_t value);
/* Long mode interrupt gate to offset (CPL 0 code segment). */
void vm_set_gate(struct vm *vm, unsigned vector, uint64_t offset);
/* Flags of the 4 KiB page table entry of a linear address below 2 MiB (or the alias of one). */
void vm_set_page(struct vm *vm, uint64_t linear, uint64_t entry);

/* Runs to limit (POSITION_UNKNOWN: none), returns the stop reason; a failure of the engine fails the test. */
int vm_run(struct vm *vm, position_t limit);
int vm_run_request(struct vm *vm, const struct engine_request *request);
/* Runs until HLT. */
void vm_run_to_halt(struct vm *vm);
void vm_interrupt(struct vm *vm, uint8_t vector);

/* Fails the test, showing the difference, unless registers and RAM are equal. */
void vm_assert_same(struct vm *a, struct vm *b);

/* Deterministic pseudo-random numbers. */
uint64_t vm_random(uint64_t *seed);

#endif
