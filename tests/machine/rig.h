/*
 * An emulator without its run loop: tests call the functions that define the machine, or single handlers, on a
 * vCPU whose registers and tables they set by hand.
 *
 *   0x001000 GDT   0x002000 IDT   0x003000 TSS   0x004000 LDT   0x010000.. page tables   0x100000.. free
 */
#ifndef DEJAVM_TESTS_MACHINE_RIG_H
#define DEJAVM_TESTS_MACHINE_RIG_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/x86/protect.h"

#define RIG_RAM_BYTES ((uint64_t)16 << 20)
#define RIG_GDT       0x1000u
#define RIG_IDT       0x2000u
#define RIG_TSS       0x3000u
#define RIG_LDT       0x4000u
#define RIG_TABLES    0x10000u
#define RIG_MMIO      0x40000000u /* no RAM there */

/* Selectors of the GDT that rig_gdt makes. */
enum {
    SEL_CODE64 = 0x08,
    SEL_DATA = 0x10,
    SEL_USER_DATA = 0x18,
    SEL_USER_CODE64 = 0x20,
    SEL_CODE32 = 0x28,
    SEL_USER_CODE32 = 0x30,
    SEL_CODE16 = 0x38,
    SEL_DATA16 = 0x40,
    SEL_TSS = 0x48 /* and 0x50 */,
    SEL_LDT = 0x58,
    SEL_SCRATCH = 0x68, /* and 0x70: a test's own */
};

#define RIG_CROSSINGS_MAX 64

struct rig_crossing {
    char kind; /* 'r', 'w' MMIO; 'm', 'M' MSR read, write; 't' TSC; 'h' HLT; 'x' IGNNE#; 'f' FERR# falls */
    uint64_t address, value;
    unsigned size;
};

struct rig {
    struct boundary boundary; /* first */
    struct guest_ram *ram;
    struct cpu_model model;
    struct engine *engine;
    struct emu *e;
    struct rig_crossing crossing[RIG_CROSSINGS_MAX];
    unsigned crossings;
    int answer;       /* what the boundary returns */
    unsigned fail_at; /* the crossing that gets it; the others are BOUNDARY_OK */
    bool msr_known;
    uint64_t ignne; /* the answer to SOURCE_IGNNE */
};

struct rig *rig_create(void); /* real mode, as after reset */
void rig_destroy(struct rig *r);

int rig_setup(void **state); /* for cmocka: a fresh rig in *state */
int rig_teardown(void **state);

void *rig_at(struct rig *r, gpa_t gpa);
uint64_t rig_u64(struct rig *r, gpa_t gpa);
uint32_t rig_u32(struct rig *r, gpa_t gpa);
uint16_t rig_u16(struct rig *r, gpa_t gpa);
void rig_put64(struct rig *r, gpa_t gpa, uint64_t value);
void rig_put32(struct rig *r, gpa_t gpa, uint32_t value);
void rig_put16(struct rig *r, gpa_t gpa, uint16_t value);

/* Descriptor at selector of the GDT: access byte (P, DPL, S, type) and flags (G, DB, L, AVL in bits 3..0). */
void rig_descriptor(struct rig *r, uint16_t selector, uint32_t base, uint32_t limit20, uint8_t access,
                    uint8_t flags);

/* Flat 32-bit protected mode, no paging, CPL cpl; TSS with SS0:ESP0 = SEL_DATA:0x9000, LDT of one page. */
void rig_protected(struct rig *r, unsigned cpl);
/* 64-bit mode, identity map of 1 GiB by one 1 GiB page per entry, user and supervisor; RSP0 = 0x9000. */
void rig_long(struct rig *r, unsigned cpl);

/* A gate of the IDT, of the width that the mode has. */
void rig_gate(struct rig *r, unsigned vector, unsigned type, unsigned dpl, uint16_t selector, uint64_t offset,
              unsigned ist);

/* Decodes the instruction and runs its handler, as the run loop would: RIP moves on STEP_NEXT and STEP_LEAVE. */
enum step rig_exec(struct rig *r, const void *bytes, size_t length);

/* The step was a fault with this vector and error code (-1: none). */
void rig_assert_fault(const struct rig *r, enum step step, unsigned vector, int64_t code);

#endif
