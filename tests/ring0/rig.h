/*
 * Guests in ring 0: the image of cases (cases.h says what a case is), the machine they start in, and running them in
 * one engine or another.
 */
#ifndef DEJAVM_TESTS_RING0_RIG_H
#define DEJAVM_TESTS_RING0_RIG_H

#include "core/cpu_model.h"
#include "core/engine.h"
#include "tests/ring0/map.h"

/* One record of the table, as cases.h lays it out. */
struct ring0_record {
    uint64_t tag;
    union {
        struct {
            uint64_t start, env, flags;
            char name[96];
        } start;
        struct {
            uint64_t vector, error, rip, cs, ss, sp, flags, cr2, dr6, handler_cs, handler_ss, handler_sp,
                unused[3];
        } expect;
        struct {
            uint64_t address, size, value, unused[12];
        } value;
        struct {
            uint64_t rip, unused[14];
        } done;
    };
};

extern const struct ring0_record ring0_table[], ring0_table_end[];
extern const uint8_t ring0_image[], ring0_image_end[];

struct ring0_guest {
    struct boundary boundary; /* first */
    struct guest_ram *ram;
    struct cpu_model model;
    struct engine *engine;
    int irq;           /* the interrupt that waits, or -1 */
    unsigned nmis;     /* that wait */
    unsigned patience; /* how many times longer than others it may run in KVM; 0: as others */
    uint64_t answers;  /* what reads from outside give */
    uint8_t page_tables[TABLES_END - PML4]; /* as they were at the start */
};

enum ring0_engine { RING0_EMU, RING0_EMU_AS_KVM /* with the kvm profile */, RING0_KVM };

/* A guest at the start of a case (its first record), with fresh RAM. */
void ring0_create(struct ring0_guest *g, enum ring0_engine engine, const struct ring0_record *c);
void ring0_destroy(struct ring0_guest *g);

/*
 * Puts a guest that has ended at the start of another case, in the engine it has: to take a KVM down takes long. False:
 * that would not be the same, because KVM may know page tables that the guest has changed; destroy it then.
 */
bool ring0_restart(struct ring0_guest *g, const struct ring0_record *c);

/* How a run is cut into pieces. */
enum ring0_cut {
    RING0_WHOLE,
    RING0_SLICES, /* of random lengths */
    RING0_STEPS,  /* of one transition */
    RING0_MOVES,  /* slices, and after each the guest goes on in an engine and RAM made anew */
};

/* Runs to the end: ENGINE_STOP_HALT, ENGINE_STOP_SHUTDOWN, or negative with a message. */
int ring0_run(struct ring0_guest *g, enum ring0_cut cut, uint64_t seed, struct error *err);

/* The case that starts after this one, or ring0_table_end. */
const struct ring0_record *ring0_next_case(const struct ring0_record *c);

/*
 * Compares what came of it (end: of ring0_run) with what the case expects. False: what differs is in text, a line
 * each.
 */
bool ring0_as_expected(struct ring0_guest *g, const struct ring0_record *c, int end, char *text, size_t size);

/* Equal registers and RAM; but for A and D bits of page tables if so wanted. */
bool ring0_same(struct ring0_guest *a, struct ring0_guest *b, bool exact, char *text, size_t size);

#endif
