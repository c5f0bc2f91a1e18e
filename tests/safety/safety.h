/*
 * Whatever bytes a guest executes, in whatever state: the emulator makes no system call, raises no signal and touches no
 * memory but the guest's RAM and its own. One start is a random vCPU state and some random code, run for a few steps.
 */
#ifndef DEJAVM_TESTS_SAFETY_H
#define DEJAVM_TESTS_SAFETY_H

#include "core/x86/emu.h"
#include "tests/isa/isa.h"

#define SAFETY_RAM_BYTES ((uint64_t)1 << 20)
#define SAFETY_CODE      0x20000u /* two pages */
#define START_CODE_MAX   64u
#define START_STEPS_MAX  20u

enum start_mode {
    MODE_REAL,
    MODE_UNREAL, /* real mode with the limits of protected mode */
    MODE_VIRTUAL_8086,
    MODE_16BIT,
    MODE_32BIT,
    MODE_32BIT_PSE,
    MODE_32BIT_PAE,
    MODE_COMPATIBILITY,
    MODE_64BIT,
    MODE_COUNT
};

struct start {
    uint64_t seed;
    enum start_mode mode;
    struct vcpu_state state;
    uint8_t code[START_CODE_MAX];
    unsigned code_length;
    uint64_t code_offset; /* in RAM */
    unsigned steps;
};

/* ---- random_start.c ---- */

const char *start_mode_name(enum start_mode mode);
/* The valid instructions that starts are made of; to be freed. */
struct start_pool;
struct start_pool *start_pool_create(void);
/* Everything but RAM is decided by the seed. mxcsr_mask: what the CPU model has. */
void start_generate(struct start *s, const struct start_pool *pool, uint64_t seed, uint32_t mxcsr_mask);
/* Descriptor and page tables, with some random entries, and the code, into RAM of SAFETY_RAM_BYTES. */
void start_place(const struct start *s, uint8_t *ram);

/* ---- guard.c ---- */

/* What ended the process, if it was a signal. */
struct caught {
    int signal;
    uint64_t host_rip, host_address;
    uint8_t host_code[16]; /* at host_rip */
};

/* From now on a host signal is written to *out, and ends the process. */
bool guard_signals(struct caught *out);
/* From now on any system call but exit_group kills the process with SIGSYS. */
bool guard_system_calls(void);
/* Between these, what aligned_alloc and calloc give has inaccessible memory around. */
void guard_allocations_begin(void);
void guard_allocations_end(void);
unsigned guard_allocation_count(void);
/* Mappings of a process that are writable and executable, and those that are executable and shared; -1: cannot be read. */
int guard_count_mappings(int pid, unsigned *writable_executable, unsigned *shared_executable);

#endif
