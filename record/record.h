/*
 * Recording: runs a guest live, under KVM or in the emulator, and writes a raw trace. Sealing is replay's.
 */
#ifndef DEJAVM_RECORD_RECORD_H
#define DEJAVM_RECORD_RECORD_H

#include "core/base/error.h"
#include "core/kvm/kvm_engine.h"
#include "core/machine.h"
#include "core/x86/emu.h"
#include "devices/devices.h"
#include "trace-format/trace_writer.h"

enum record_clock_kind {
    RECORD_CLOCK_HOST, /* the guest's clock follows the host's */
    RECORD_CLOCK_VIRTUAL, /* it follows from what the guest does: record_clock.h. Only under emu (-ENOTSUP under kvm) */
};

/* Under RECORD_CLOCK_VIRTUAL every guest starts at 2026-01-01 00:00:00 UTC. */
#define RECORD_VIRTUAL_START_S ((int64_t)1767225600)

enum record_engine { RECORD_ENGINE_AUTO, RECORD_ENGINE_KVM, RECORD_ENGINE_EMU };

struct record_options {
    const char *guest_path;
    const char *trace_path;
    const char *initrd_path;    /* NULL: none */
    const char *command_line;   /* "" if none */
    struct board_options board; /* what it points to is read in recorder_create only */
    enum record_engine engine;
    enum record_clock_kind clock;
    bool
        seeded; /* the guest's random numbers follow from seed; otherwise they are the host's. Always so with a virtual clock */
    uint64_t seed;
    uint64_t ram_bytes;
    uint64_t timeout_ns;        /* of host time; 0: none */
    uint64_t max_steps;         /* 0: none; only under emu (-ENOTSUP under kvm) */
    enum machine_console input; /* the guest's console that input goes to */
    int serial_in;              /* file descriptor read for the guest's serial input, -1: none */
    bool overwrite;
    bool debugged;         /* recorder_resume will be used: under KVM the trace has format version 2 then */
    size_t landmark_pages; /* most pages that a landmark lists, at most LANDMARK_MAX_PAGES; 0: that many */
    /* What the guest prints, as it prints it. May be NULL. */
    void (*console)(void *context, unsigned channel, const uint8_t *data, size_t length);
    /* The size of the terminal that the guest's consoles are shown on, asked for a few times a second; false: unknown. May be NULL. */
    bool (*terminal_size)(void *context, unsigned *columns, unsigned *rows);
    /* Called about four times a second. May be NULL. */
    void (*progress)(void *context, uint64_t elapsed_ns, position_t position, uint64_t trace_bytes);
    void *context;
};

struct record_result {
    const char *engine;      /* "kvm" or "emu" */
    char engine_reason[512]; /* auto: why it is not kvm; "" otherwise */
    enum trace_end end;
    uint32_t status;
    char message[512]; /* with TRACE_END_ERROR */
    uint64_t elapsed_ns;
    position_t position; /* POSITION_UNKNOWN under kvm */
    uint64_t events;
    uint64_t trace_bytes;
    uint64_t interrupts;
    uint64_t time_in_devices_ns;
    uint64_t time_halted_ns; /* the vCPU slept in HLT */
    bool have_kvm;
    struct kvm_statistics kvm;
    struct unclaimed unclaimed_ports[16], unclaimed_mmio[16];
    size_t unclaimed_port_count, unclaimed_mmio_count;
    char last_rip[160]; /* where the vCPU stood at the end, with symbol */
};

struct recorder;

/* Loads the guest and creates the trace; nothing runs yet. */
int recorder_create(struct recorder **out, const struct record_options *options,
                    struct error *err) must_check;
/*
 * Runs to the end and finishes the trace. 0 also when the guest ended badly: that is in result. A failure of the recorder itself
 * (disk full, engine) is negative; the trace holds everything up to there.
 */
int recorder_run(struct recorder *r, struct record_result *result, struct error *err) must_check;
/*
 * The same in pieces, for a debugger: recorder_resume() as often as one likes, then recorder_finish(). Between two of them the
 * guest's clock stands still, and state and RAM can be looked at.
 */
enum recorder_stop_reason {
    RECORDER_STOP_NONE,
    RECORDER_STOP_END,         /* the guest or the recording ended; nothing runs any more */
    RECORDER_STOP_INTERRUPTED, /* request.interrupted said so */
    RECORDER_STOP_STEPS,
    RECORDER_STOP_BREAK, /* at a break address, the instruction not executed */
    RECORDER_STOP_WATCH, /* the transition just made did what hit says */
    RECORDER_STOP_CATCH,
    RECORDER_STOP_EVENT, /* the event was just recorded, and its transition made */
};

struct recorder_stop {
    enum recorder_stop_reason reason;
    struct engine_hit hit; /* WATCH, CATCH */
    struct event event;    /* EVENT; without what it points to */
    uint64_t steps;        /* transitions made; only where the vCPU ran in the emulator */
};

/*
 * With any of points, want_event and steps the vCPU runs in the emulator; a recording under KVM, whose options must have debugged,
 * moves it there, and back to KVM as soon as there is none of them.
 */
struct recorder_request {
    const struct engine_points *points;                           /* NULL: none */
    bool (*want_event)(void *context, const struct event *event); /* NULL: no event stops it */
    void *event_context;
    uint64_t steps; /* at most so many transitions (a device's writes to RAM may add some); 0: no limit */
    bool break_at_start;    /* a break address where the vCPU stands counts too */
    bool instruction_first; /* after BREAK: the instruction is executed before an interrupt is delivered */
    bool (*interrupted)(void *context); /* asked about every 10 ms; true ends the run; NULL: never */
    void *context;                      /* of interrupted */
};

/* After a failure, but for one of moving the vCPU, the recorder can only be finished, which fails in the same way. */
int recorder_resume(struct recorder *r, const struct recorder_request *request, struct recorder_stop *stop,
                    struct error *err) must_check;
/* Writes a digest of the present state, and all that was recorded to the file. */
int recorder_sync(struct recorder *r, struct error *err) must_check;
/* Ends the trace (stopped by the user, if it did not end by itself). Only recorder_destroy may follow, and questions. */
int recorder_finish(struct recorder *r, struct record_result *result, struct error *err) must_check;

const struct vcpu_state *recorder_state(struct recorder *r);
const struct guest_ram *recorder_ram(const struct recorder *r);
/* The position where the vCPU stands; POSITION_UNKNOWN in a recording under KVM. */
position_t recorder_position(const struct recorder *r);
/* The vCPU of a recording under KVM is in the emulator now. */
bool recorder_in_emulator(const struct recorder *r);
/* What executes the guest, for its own counters. */
const struct engine *recorder_engine(const struct recorder *r);
/* See emu_set_stages() and emu_jitdump(): of a recording in the emulator. Under KVM the first does nothing, the second is -ENOTSUP. */
void recorder_set_stages(struct recorder *r, enum emu_stages stages);
int recorder_jitdump(struct recorder *r, const char *folder, struct error *err) must_check;

/* Ends the run soon, in order. Async-signal-safe. */
void recorder_stop(struct recorder *r);
void recorder_destroy(struct recorder *r);

#endif
