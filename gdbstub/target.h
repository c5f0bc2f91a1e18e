/*
 * The debug target: what the GDB server drives. Replay's timeline and the live machine implement it; tests implement
 * it too. The server knows nothing of traces, engines or devices.
 *
 * All functions are called on one thread. Addresses are linear addresses in the guest's current address space.
 */
#ifndef DEJAVM_GDBSTUB_TARGET_H
#define DEJAVM_GDBSTUB_TARGET_H

#include "core/base/buffer.h"
#include "core/base/error.h"
#include "core/vcpu_state.h"

enum debug_stop_reason {
    DEBUG_STOP_NONE,  /* nothing has run yet */
    DEBUG_STOP_STEP,  /* a step is done */
    DEBUG_STOP_BREAK, /* at a breakpoint, the instruction there not executed */
    DEBUG_STOP_WATCH, /* a watched range was accessed by the transition just made (forwards), or is about to be
                                 accessed by the next one (backwards) */
    DEBUG_STOP_CATCH,         /* something asked for with `monitor catch`; text says what */
    DEBUG_STOP_INTERRUPTED,   /* the client asked (Ctrl-C) */
    DEBUG_STOP_HISTORY_BEGIN, /* backwards: nothing before this */
    DEBUG_STOP_HISTORY_END,   /* forwards: the end of the recording */
};

enum debug_direction { DEBUG_FORWARDS, DEBUG_BACKWARDS };

/* GDB's Z packets 0..4, in their order. */
enum debug_point_kind {
    DEBUG_BREAK_SOFTWARE,
    DEBUG_BREAK_HARDWARE,
    DEBUG_WATCH_WRITE,
    DEBUG_WATCH_READ,
    DEBUG_WATCH_ACCESS
};

struct debug_stop {
    enum debug_stop_reason reason;
    enum debug_point_kind point; /* with BREAK and WATCH */
    gva_t address;  /* with WATCH: the watched address as the client gave it, or inside its range */
    char text[160]; /* with CATCH: what; else "" */
};

struct debug_target;

struct debug_target_ops {
    /* The registers now; valid until the next call. */
    const struct vcpu_state *(*state)(struct debug_target *t);
    /* -EROFS with a message where history cannot be changed. */
    int (*set_state)(struct debug_target *t, const struct vcpu_state *state, struct error *err);

    /* Reads what can be read from the start of the range; returns how many bytes (0: none of it is mapped). */
    size_t (*read)(struct debug_target *t, gva_t address, void *out, size_t length);
    size_t (*read_physical)(struct debug_target *t, gpa_t address, void *out, size_t length);
    int (*write)(struct debug_target *t, gva_t address, const void *data, size_t length, struct error *err);
    int (*write_physical)(struct debug_target *t, gpa_t address, const void *data, size_t length,
                          struct error *err);

    /* length: bytes watched (any, any alignment); for breakpoints ignored. Inserting twice is one point. */
    int (*insert_point)(struct debug_target *t, enum debug_point_kind kind, gva_t address, uint64_t length,
                        struct error *err);
    int (*remove_point)(struct debug_target *t, enum debug_point_kind kind, gva_t address, uint64_t length,
                        struct error *err);

    /*
     * Runs until something stops it. step: exactly one transition in that direction. A breakpoint at the place where it starts
     * does not stop it. interrupted(context) is asked at least every 50 ms; true ends the run with INTERRUPTED.
     */
    int (*resume)(struct debug_target *t, enum debug_direction direction, bool step,
                  bool (*interrupted)(void *context), void *context, struct debug_stop *stop,
                  struct error *err);

    /*
     * `monitor COMMAND`: appends text to out. An unknown or wrong command is an error whose message is shown. Sets *moved when
     * the target now stands somewhere else, so that the client has to look again.
     */
    int (*monitor)(struct debug_target *t, const char *command, struct buffer *out, bool *moved,
                   bool (*interrupted)(void *context), void *context, struct error *err);

    /* Reverse execution is offered. */
    bool (*can_reverse)(struct debug_target *t);

    /*
     * Threads: what the vCPU divides its time between, where the target knows. All of these are NULL where it does not: then there
     * is one, number 1. Ids are from 1 to INT32_MAX.
     */
    uint64_t (*thread_current)(struct debug_target *t); /* cheap: asked at every stop */
    /* Appends the ids, a uint64_t each. */
    void (*thread_list)(struct debug_target *t, struct buffer *out);
    /* What the client shows besides the id. False: there is no such thread. */
    bool (*thread_text)(struct debug_target *t, uint64_t id, char *out, size_t size);
    /* Its registers, those that were saved where it does not run. False: not known. */
    bool (*thread_state)(struct debug_target *t, uint64_t id, struct vcpu_state *out);
    /* As read, in the address space of that state. */
    size_t (*read_in)(struct debug_target *t, const struct vcpu_state *state, gva_t address, void *out,
                      size_t length);
};

struct debug_target {
    const struct debug_target_ops *ops;
};

#endif
