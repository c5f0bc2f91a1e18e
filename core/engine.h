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
    ENGINE_STOP_HALT,      /* activity is ACTIVITY_HALTED: by HLT, or by an x87 error (IGNNE_WAIT) */
    ENGINE_STOP_SHUTDOWN,  /* triple fault */
    ENGINE_STOP_BOUNDARY,  /* the boundary said stop, or failed */
    ENGINE_STOP_BREAK,     /* points: the next instruction is at a break address; it was not executed */
    ENGINE_STOP_WATCH,     /* points: the transition just made accessed a watched range (engine_ops.hit) */
    ENGINE_STOP_CATCH,     /* points: the transition just made is one of those to catch (engine_ops.hit) */
};

/*
 * Looks for a landmark. Before each instruction (and each REP iteration) whose RIP is rip and whose GPRs equal
 * gpr and whose RFLAGS equal rflags except in the bits of rflags_ignore, the engine calls accept; true stops with
 * ENGINE_STOP_MATCH. Also tried at the boundary where run() starts.
 */
struct
    engine_match_miss { /* boundaries with that RIP but other registers: for the report of a search that fails */
    uint64_t count;
    uint64_t gpr[GPR_COUNT], rflags; /* of the last one */
};

struct engine_match {
    uint64_t rip;
    uint64_t gpr[GPR_COUNT];
    uint64_t rflags, rflags_ignore;
    bool (*accept)(void *context, const struct vcpu_state *state);
    void *context;
    struct engine_match_miss *miss; /* or NULL */
};

enum engine_access { ENGINE_ACCESS_READ = 1, ENGINE_ACCESS_WRITE = 2 };

/* A watched range of linear addresses. Accesses by instructions count, at any privilege level; not code fetches or page walks. */
struct engine_watch {
    gva_t address;
    uint64_t length;  /* at least 1; address + length does not overflow */
    uint8_t accesses; /* enum engine_access bits */
};

enum engine_catch {
    ENGINE_CATCH_SYSCALL = 1, /* SYSCALL, SYSENTER, and INT n from CPL 3 */
    ENGINE_CATCH_CR3 = 2,     /* MOV to CR3 */
};

/*
 * What a debugger wants to be stopped at. Belongs to the caller, unchanged while it is set. Never visible to the guest, and free of cost where it is empty.
 */
struct engine_points {
    const gva_t *breaks; /* linear addresses of instructions, ascending, no duplicates */
    size_t break_count;
    const struct engine_watch *watches;
    size_t watch_count;
    uint64_t exceptions; /* bit v: stop after the delivery of exception v (0..31) */
    uint32_t catches;    /* enum engine_catch bits */
};

/* Details of the last ENGINE_STOP_WATCH or ENGINE_STOP_CATCH. */
struct engine_hit {
    size_t watch;     /* index into watches */
    gva_t address;    /* of the access: its first byte inside the watched range */
    uint8_t access;   /* enum engine_access: what it did; both for a read-modify-write */
    uint8_t vector;   /* exception or software interrupt */
    uint32_t catches; /* the enum engine_catch that was met, 0 for an exception */
};

struct engine_request {
    position_t limit;                 /* stop when position reaches it; POSITION_UNKNOWN = none */
    bool want_window;                 /* stop as soon as engine_can_interrupt() would be true */
    uint8_t window_priority;          /* ... and CR8 is below this; 0: whatever CR8 is */
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
    /*
     * What to stop at from now on; NULL: nothing. Stays the caller's. A break address is not looked at where run() starts, so
     * that one can go on from it. An interrupt delivered by interrupt() or nmi() counts: the next run() returns at once then.
     * Both functions are NULL in an engine that has no points (KVM).
     */
    void (*set_points)(struct engine *e, const struct engine_points *points);
    /* After ENGINE_STOP_WATCH or ENGINE_STOP_CATCH. */
    const struct engine_hit *(*hit)(const struct engine *e);
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
