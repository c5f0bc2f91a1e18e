/* What the files that make programs share. */
#ifndef DEJAVM_TESTS_MAKER_H
#define DEJAVM_TESTS_MAKER_H

#include "tests/fuzz-programs/program.h"

#define LOOP_DEPTH      2u
#define LOOP_COUNTERS   ISA_DATA /* LOOP_DEPTH times 4 of them, of 8 bytes */
#define IDIOM_MAX_ITEMS 16u

struct open_loop {
    unsigned head, left;  /* its first item; instructions until its end */
    unsigned iterations;  /* all in all, with the loop outside it */
    uint64_t counter;     /* where it is, unless in_rcx */
    bool in_rcx, by_loop; /* by_loop: LOOP, LOOPE or LOOPNE */
};

struct maker {
    struct isa_random r;
    const struct isa_forms *forms;
    struct program *p;
    struct vcpu_state base;
    ZydisDecoder decoder;
    unsigned tested;
    unsigned depth; /* open loops */
    struct open_loop loop[LOOP_DEPTH];
};

unsigned below(struct maker *m, unsigned n);
bool one_in(struct maker *m, unsigned n);

/* An item of these bytes; it stays at its place. */
struct item *add(struct maker *m, const uint8_t *bytes, unsigned length);
#define ADD(m, ...) add((m), (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))
void put(struct item *i, unsigned at, uint64_t value, unsigned bytes);
struct item *add_set_register(struct maker *m, unsigned reg, uint64_t value); /* MOV reg, value */
/* An instruction of the single-instruction generator, with what it needs before it. */
void add_generated(struct maker *m);

bool may_patch(struct maker *m); /* code that is executed here can be written without taking too long */

/* ---- idioms.c ---- */

/* Some instructions that have to do with each other, as compilers and people write them; at most IDIOM_MAX_ITEMS. */
void add_idiom(struct maker *m);

#endif
