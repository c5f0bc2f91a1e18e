/*
 * A debug target for tests: a program runs once in the emulator, all its states and memory changes are kept, and the
 * debugger walks through them in both directions. Or, live, it is run as the debugger goes, only forwards, and
 * everything can be changed.
 */
#ifndef DEJAVM_TESTS_GDBSTUB_WALK_H
#define DEJAVM_TESTS_GDBSTUB_WALK_H

#include "gdbstub/server.h"
#include "tests/emu/vm.h"

enum walk_mode { WALK_64, WALK_32, WALK_16 };

#define WALK_CODE   0x100000u
#define WALK_CODE16 0x10000u
#define WALK_POINTS 64

struct walk_access {
    gva_t address;
    uint8_t length; /* 0: none */
    bool read, write;
};

struct walk_change {
    uint32_t offset;
    uint8_t before, after;
};

struct walk_step {
    struct vcpu_state state;
    size_t first_change; /* of the transition from here to the next step; up to the next step's */
    struct walk_access access[2];
};

struct walk_point {
    enum debug_point_kind kind;
    gva_t address;
    uint64_t length;
};

struct walk {
    struct debug_target target; /* first */
    struct vm *vm;              /* its RAM is the memory at the place where the walk stands */
    struct walk_step *steps;    /* count + 1 */
    size_t count, at;
    struct walk_change *changes;
    size_t change_count;
    struct walk_point points[WALK_POINTS];
    size_t point_count;
    bool live;
    size_t live_steps;              /* so many more steps can a live target make */
    bool spin;                      /* runs go on until they are interrupted, without getting anywhere */
    bool fail;                      /* runs fail */
    void (*on_run)(struct walk *w); /* at the start of a run; may be NULL */
    struct gdb_server *server;      /* for text to the console while running; may be NULL */
};

/* The program's image is loaded for the mode and, unless live, run until HLT. Failures fail the test. */
struct walk *walk_create(const void *image, size_t length, enum walk_mode mode, bool live);
struct walk *walk_create_file(const char *path, enum walk_mode mode, bool live);
void walk_destroy(struct walk *w);

struct vcpu_state *walk_state(struct walk *w); /* may be changed by a test, of a walk that is not live */
void walk_goto(struct walk *w, size_t at);

#endif
