/*
 * What the tests of the kvm engine share: a guest of a few instructions in 4 MiB of RAM, and a boundary that writes
 * down every crossing and answers from a list.
 */
#ifndef DEJAVM_TESTS_KVM_KVM_TEST_H
#define DEJAVM_TESTS_KVM_KVM_TEST_H

#include "core/cpu_model.h"
#include "core/engine.h"

enum crossing_kind { PIO_READ, PIO_WRITE, MMIO_READ, MMIO_WRITE, CPU_READ, MSR_READ, MSR_WRITE, HALTED };

struct crossing {
    enum crossing_kind kind;
    uint64_t address; /* port, gpa, source or MSR index */
    unsigned size;
    uint64_t value;
};

#define MAX_CROSSINGS 4096

struct test_boundary {
    struct boundary boundary;
    struct crossing crossing[MAX_CROSSINGS];
    unsigned count;
    unsigned stop_after; /* 0: never; else the result of crossing number stop_after is BOUNDARY_STOP */
    unsigned fail_after; /* likewise -EIO */
    bool stop_at_ports;  /* BOUNDARY_STOP at every write to ports 0x80 to 0x8f */
    uint64_t next_value; /* what reads give; grows by 1 */
    bool forget;         /* start over when the list is full */
};

struct test_vm {
    struct guest_ram *ram;
    struct cpu_model model;
    struct test_boundary boundary;
    struct engine *engine;
};

/* Guest memory map of the tests. */
enum {
    GUEST_IDT = 0x1000,
    GUEST_GDT = 0x2000,
    GUEST_TSS = 0x3000,
    GUEST_PAGE_TABLES = 0x4000, /* PML4, PDPT, PD */
    GUEST_KERNEL_STACK_TOP = 0xa000,
    GUEST_USER_STACK_TOP = 0xb000,
    GUEST_HANDLERS = 0xc000,
    GUEST_CODE = 0x10000,
    GUEST_DATA = 0x20000,
    GUEST_MMIO = 0x10000000, /* mapped, and no RAM there */
};

enum {
    SEL_KERNEL_CODE = 0x08,
    SEL_KERNEL_DATA = 0x10,
    SEL_USER_CODE = 0x18 | 3,
    SEL_USER_DATA = 0x20 | 3,
    SEL_TSS = 0x28
};

void test_boundary_init(struct test_boundary *b);

/* RAM with GDT, TSS, IDT (empty) and page tables that map the first GiB with 2 MiB pages, user and writable. */
struct guest_ram *test_ram_create(void);
void test_ram_put(struct guest_ram *ram, uint64_t gpa, const void *data, size_t length);
/* IDT gate: vector to the code at handler, at CPL 0; dpl is who may call it by INT. */
void test_set_gate(struct guest_ram *ram, unsigned vector, uint64_t handler, unsigned dpl);

/* 64-bit mode at CPL 0 or 3, RIP = GUEST_CODE, IF as given. */
struct vcpu_state test_state(unsigned cpl, bool interrupts);
/* Real mode at 0000:rip. */
struct vcpu_state test_real_mode_state(uint16_t rip);

/* A kvm engine with the code at GUEST_CODE; skips the test when there is no KVM. */
void test_vm_create(struct test_vm *vm, const void *code, size_t length, const struct vcpu_state *state);
/* The same with the emulator. */
void test_vm_create_emu(struct test_vm *vm, const void *code, size_t length, const struct vcpu_state *state);
void test_vm_destroy(struct test_vm *vm);
/* Runs; fails the test on an error. */
int test_run(struct engine *engine, bool want_window);
void test_expect_crossing(const struct test_boundary *b, unsigned index, enum crossing_kind kind,
                          uint64_t address, unsigned size, uint64_t value);
/* Fails the test with the differences if the two states are not equal. */
void test_expect_equal_states(const struct vcpu_state *a, const struct vcpu_state *b);

/* True when a guest can run in KVM here; the reason is printed otherwise. */
bool test_kvm_is_usable(void);

#define CODE(...) ((const uint8_t[]){__VA_ARGS__}), sizeof((const uint8_t[]){__VA_ARGS__})

#endif
