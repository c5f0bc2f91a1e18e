/*
 * An engine runs the vCPU. Who drives it (record's or replay's session) decides when interrupts are delivered;
 * the engine only executes, calls the boundary for every crossing, and stops when asked.
 */
#ifndef DEJAVM_CORE_ENGINE_H
#define DEJAVM_CORE_ENGINE_H

#include "core/base/error.h"
#include "core/base/types.h"
#include "core/boundary.h"
#include "core/ram.h"
#include "core/vcpu_state.h"

enum engine_stop {
    ENGINE_STOP_LIMIT,     /* position == request.limit */
    ENGINE_STOP_ATTENTION, /* engine_kick was called; at an instruction boundary */
    ENGINE_STOP_WINDOW,    /* request.want_window, and an external interrupt can be delivered now */
    ENGINE_STOP_MATCH,     /* request.match matched: the instruction at this boundary was not yet executed */
    ENGINE_STOP_HALT,      /* HLT was executed, activity is ACTIVITY_HALTED */
    ENGINE_STOP_SHUTDOWN,  /* triple fault */
    ENGINE_STOP_BOUNDARY,  /* the boundary said stop, or failed */
};

/*
 * Looks for a landmark. Before each instruction (and each REP iteration) whose RIP is rip and whose GPRs equal
 * gpr and whose RFLAGS equal rflags except in the bits of rflags_ignore, the engine calls accept; true stops with
 * ENGINE_STOP_MATCH. Also tried at the boundary where run() starts.
 */
struct engine_match {
    uint64_t rip;
    uint64_t gpr[GPR_COUNT];
    uint64_t rflags, rflags_ignore;
    bool (*accept)(void *context, const struct vcpu_state *state);
    void *context;
};

struct engine_request {
    position_t limit;                 /* stop when position reaches it; POSITION_UNKNOWN = none */
    bool want_window;                 /* stop as soon as engine_can_interrupt() would be true */
    const struct engine_match *match; /* or NULL */
};

struct engine;

struct engine_ops {
    const char *name; /* "emu", "kvm" */
    void (*destroy)(struct engine *e);
    /* Runs until a stop (>= 0, enum engine_stop) or a failure (negative errno with a message). */
    int (*run)(struct engine *e, const struct engine_request *request, struct error *err);
    /* Delivers an external interrupt / NMI now: one transition. The caller checked engine_can_interrupt(). */
    int (*interrupt)(struct engine *e, uint8_t vector, struct error *err);
    int (*nmi)(struct engine *e, struct error *err);
    /* IF=1, no shadow, nothing half delivered (a HALTED vCPU with IF=1 can be interrupted). */
    bool (*can_interrupt)(struct engine *e);
    /* The canonical state; the pointer stays valid and current until the next call into the engine. */
    const struct vcpu_state *(*state)(struct engine *e);
    int (*set_state)(struct engine *e, const struct vcpu_state *state, struct error *err);
    /* Makes run() return ENGINE_STOP_ATTENTION soon. Async-signal-safe, callable from any thread; sticky. */
    void (*kick)(struct engine *e);
    /* Transitions completed; POSITION_UNKNOWN if the engine cannot count. */
    position_t (*position)(const struct engine *e);
    void (*set_position)(struct engine *e, position_t position);
    /*
     * Marks in ram's dirty list every page that the vCPU wrote since the last call (the emulator has done so as
     * it went; KVM fetches its dirty log).
     */
    int (*collect_dirty)(struct engine *e, struct error *err);
};

struct engine {
    const struct engine_ops *ops;
    struct guest_ram *ram;
    struct boundary *boundary;
};

#endif
