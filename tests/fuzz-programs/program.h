/*
 * Random user-mode programs of 5 to 50 instructions, run natively, in the emulator and in KVM, and compared where
 * they end: at their INT3 or at a fault. The instructions are those of the single-instruction test's generator; what is
 * added here is what only programs have: jumps, calls, loops, code that changes itself, and instructions that belong together.
 */
#ifndef DEJAVM_TESTS_PROGRAM_H
#define DEJAVM_TESTS_PROGRAM_H

#include "tests/isa/isa.h"

#define PROGRAM_MAX_ITEMS    176u
#define ITEM_BYTES           16u /* one more than an instruction can have */
#define PROGRAM_MAX_LITERALS 8u
#define PROGRAM_MAX_BYTES    (ISA_CODE_BYTES / 2 - 0x200)
/* Constants for vector registers, at the end of the code. */
#define PROGRAM_LITERALS (ISA_CODE + ISA_CODE_BYTES - 32u * PROGRAM_MAX_LITERALS)

enum item_kind {
    ITEM_PLAIN,
    ITEM_RIP,     /* the 4 bytes at field are the distance to address */
    ITEM_BRANCH,  /* the field_bytes at field are the distance to item target */
    ITEM_ADDRESS, /* the field_bytes at field are the address of item target */
};

/* One instruction of a program. Items can be removed and addresses follow. */
struct item {
    uint8_t bytes[ITEM_BYTES];
    uint8_t length;
    uint8_t kind; /* enum item_kind */
    uint8_t field, field_bytes;
    uint16_t target;
    bool removed;
    bool needs_target; /* goes when its target goes */
    bool tested;       /* one of the 5 to 50; not there to set a register for another */
    uint64_t address;
};

struct program {
    uint64_t seed;
    bool long_mode;
    bool for_kvm;   /* nothing that the kvm profile of the CPU model lacks */
    uint64_t start; /* of the first item */
    unsigned count;
    struct item items[PROGRAM_MAX_ITEMS];
    unsigned literal_count;
    uint8_t literals[PROGRAM_MAX_LITERALS][32];
    struct vcpu_state in; /* RIP is start */
    /* Made of the items by program_layout. */
    uint64_t item_address[PROGRAM_MAX_ITEMS + 1];
    uint8_t code[ISA_CODE_BYTES];
};

/* Everything is decided by the seed. forms: of 32-bit and of 64-bit code. */
void program_generate(struct program *p, const struct isa_forms *const forms[2], uint64_t seed);
void program_layout(struct program *p);
/* Takes an item out and leaves NOPs in its place, until the next program_layout. */
void program_remove(struct program *p, unsigned item);
/* The item at an address, or -1. */
int program_item_at(const struct program *p, uint64_t address);
unsigned program_instructions(const struct program *p); /* not removed, without the INT3 at the end */
/* As a test case: addresses, bytes, text. */
void program_print(const struct program *p, char *text, size_t size);

/* ---- regressions.c ---- */

/* The program and what it is about; NULL: there are no more. */
const char *program_regression(struct program *p, unsigned number);

/* ---- side.c: the same guest on either engine ---- */

struct side;
/* ENDLESS: too long, or it left user mode in another way than by an exception. */
enum side_end { SIDE_ENDED, SIDE_ENDLESS, SIDE_FAILED };

/* low: the data is at ISA_LOW, too. NULL with a message. */
struct side *side_create(bool kvm, bool low, char *message, size_t size);
void side_destroy(struct side *s);
/* What is at ISA_CODE and ISA_DATA. */
void side_load(struct side *s, const uint8_t *code, const uint8_t *data);
const uint8_t *side_code(const struct side *s);
const uint8_t *side_data(const struct side *s);
/* A CPL 3 state for programs. */
void side_base_state(bool long_mode, struct vcpu_state *out);
/*
 * Runs to the INT3 or the fault. r: NULL, or the run is cut at random limits. steps: transitions made, the delivery included
 * (emulator only).
 */
enum side_end side_run(struct side *s, const struct vcpu_state *in, struct isa_random *r,
                       struct isa_result *out, uint64_t *steps, char *message, size_t size);
/* Stage 1 or stage 2 of the emulator for the next runs, unless DEJAVM_EMU_STAGES says which. */
void side_choose_stage(struct side *s, bool translate);
/* Makes a run that hangs end; async-signal-safe. */
void side_kick(struct side *s);

/* ---- host.c: the host CPU ---- */

struct host;

/* Before any side is created. NULL: it cannot be had. */
struct host *host_create(void);
bool host_has_low(const struct host *h);
/* False: the process that ran it is gone. */
bool host_run(struct host *h, const struct vcpu_state *in, const uint8_t *code, const uint8_t *data,
              struct isa_result *out);
/* As the program left them. */
const uint8_t *host_code(const struct host *h);
const uint8_t *host_data(const struct host *h);

/* ---- compare.c ---- */

/* Who made it. KVM: without the upper halves of the vectors. Only the emulator is sure to have the x87's pointers. */
enum maker_of_result { FROM_HOST, FROM_KVM, FROM_EMULATOR };

/* Adds a line to text for each difference between a, by who, and b, which the emulator made; returns their number. */
unsigned compare_results(char *text, size_t size, const struct isa_result *a, const struct isa_result *b,
                         enum maker_of_result who);
void append_text(char *text, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
