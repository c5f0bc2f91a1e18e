/*
 * The recorder's own state, and what its files call of each other. Private to record.
 *
 *   record.c           creates and destroys: loads the guest, picks the engine, starts the trace
 *   record_session.c   the run: who runs when, interrupts, deadlines; where a debugger wants it to stop
 *   record_move.c      the vCPU moves between KVM and the emulator
 *   record_finish.c    the end
 *   record_boundary.c  the boundary: asks devices, clock and host, writes the answer to the trace
 *   crash_watch.c      notices what a crashing guest prints
 *   record_events.c    events that the guest does not make itself: interrupts, digests, landmarks, the end
 *   record_clock.c     the guest's clock
 *   record_host.c      timer thread and serial input
 */
#ifndef DEJAVM_RECORD_INTERNAL_H
#define DEJAVM_RECORD_INTERNAL_H

#include <stdatomic.h>

#include "core/cpu_model.h"
#include "core/engine.h"
#include "core/ram_tracker.h"
#include "core/symbols.h"
#include "record/crash_watch.h"
#include "record/record.h"
#include "record/record_clock.h"
#include "record/record_host.h"

/* How the run ended, once it has. */
struct record_ending {
    bool ended;
    enum trace_end end;
    uint32_t status;
};

/* recorder_resume: what is asked, and how far it is. Counts are those of the emulator. */
struct record_debug {
    const struct recorder_request *request; /* NULL: none is under way */
    position_t start, limit;
    uint64_t last_poll_ns;
    struct recorder_stop stop;
};

struct recorder {
    struct boundary boundary;
    struct record_options options; /* strings are read in recorder_create only */
    struct guest_ram *ram;
    struct machine *machine;
    struct cpu_model model;
    struct engine *engine;         /* the one that the vCPU is in */
    struct engine *kvm, *emulator; /* NULL: not there */
    bool is_kvm;                   /* engine is kvm */
    bool positions;                /* of the trace: in the emulator from the start */
    position_t
        place_position; /* a vCPU that was moved into the emulator: its count at the last event that has a place */
    _Atomic(struct engine *) kicked;
    char engine_reason[512];
    struct trace_writer *writer;
    struct buffer image; /* the guest's file: in use as long as writer is */
    struct ram_tracker tracker;
    struct record_host *host;
    void (*watch_ready)(void *device); /* called when a watched descriptor is ready; NULL: none is watched */
    void *watch_device;
    struct symbols *symbols;
    atomic_bool stop_requested;

    struct error error; /* first failure inside the boundary */
    bool failed;
    struct record_ending ending;
    struct error run_error; /* code 0: none. Why the run ended with TRACE_END_ERROR */
    struct record_debug debug;
    unsigned window_priority; /* of the interrupt that the vCPU stops for as soon as it takes it; 0: none */
    bool halted;
    struct record_clock clock;
    uint64_t random;           /* state of the guest's random numbers, if they are seeded */
    uint64_t step_deadline_ns; /* what the current run's limit of steps was made for, see next_limit */
    uint64_t last_tsc;         /* before tsc_adjust */
    position_t spin_position;  /* the last reading of the TSC, while the guest does nothing but read it ... */
    uint64_t spin_since_ns;    /* ... since then; 0: it does something else */
    uint64_t tsc_adjust;       /* IA32_TSC_ADJUST: two's complement */
    uint64_t last_place_ns;    /* when the last placed event or crossing was written */
    uint64_t last_digest_ns, last_flush_ns, last_progress_ns;
    position_t last_digest_position;
    uint64_t interrupts;
    bool
        dma_placed; /* under kvm: work that runs now has written RAM already, at a place that the trace knows */
    uint64_t dma_bytes;
    uint64_t time_in_devices_ns, time_halted_ns;
    struct landmark_page *landmark_pages; /* LANDMARK_MAX_PAGES */
    struct crash_watch crash_watch;
    unsigned crash_marks;
    uint64_t
        masked_since_ns; /* an interrupt waits since then for a vCPU that does not take any; UINT64_MAX: none does */
};

/* record_boundary.c */
/* machine_host.entropy and .vcpu of the recording; context is the recorder. */
void record_entropy(void *context, void *out, size_t length);
const struct vcpu_state *record_vcpu(void *context);
extern const struct boundary_ops record_boundary_ops;
/* machine_host.console_output of the recording; context is the recorder. */
void record_console_output(void *context, unsigned channel, const uint8_t *data, size_t length);
/* Gives the serial port what it has room for of the input that waits. */
void record_offer_input(struct recorder *r);
/* machine_host.watch of the recording; context is the recorder. Only while it runs. */
void record_watch(void *context, const struct pollfd *fds, size_t count, void (*ready)(void *device),
                  void *device);
/* Writes an event; a failure is kept in r->error, and makes it return negative. */
int record_event(struct recorder *r, const struct event *event);

/* The guest's clock now. The machine's clock is set to it before anything asks a device. */
uint64_t record_guest_clock_ns(struct recorder *r);
/*
 * A deadline on the guest's clock that is still to come there, but is past on the host's: no host timer, only a limit of steps can
 * stop the vCPU then.
 */
bool record_deadline_by_steps(const struct recorder *r, uint64_t deadline_ns);

/* record_move.c */
/* Both: nothing if it is there already, or (to KVM) was never there. The vCPU stands at a boundary that can be named. */
int record_move_to_emulator(struct recorder *r, struct error *err) must_check;
int record_move_to_kvm(struct recorder *r, struct error *err) must_check;

/* record_events.c */
/* Takes the waiting interrupt from the controller, writes it at the vCPU's place, and delivers it. */
int record_interrupt(struct recorder *r, struct error *err) must_check;
/* machine_host.dma_write of the recording; context is the recorder. The vCPU stands at a boundary that can be named. */
void record_dma(void *context, gpa_t gpa, const void *data, size_t length);
/* machine_host.mark of the recording; context is the recorder. */
void record_mark(void *context, const char *text);
/* Writes a digest of registers and RAM at the vCPU's place. */
int record_digest(struct recorder *r, struct error *err) must_check;
/* True when it is time for the next digest. */
bool record_digest_due(const struct recorder *r);
/* Notes and the last events of the trace. */
int record_end(struct recorder *r, enum trace_end end, uint32_t status, const char *message,
               struct error *err) must_check;

/*
 * Marks in the trace that the guest has crashed: "crash: " and text. At most RECORD_CRASH_MARKS in a recording: one crash leads to
 * the next.
 */
void record_crash(struct recorder *r, const char *text);
#define RECORD_CRASH_MARKS 16

/* Digests at least this often. */
#define RECORD_DIGEST_STEPS    50000000u
#define RECORD_DIGEST_EMU_NS   1000000000u
#define RECORD_DIGEST_KVM_NS   250000000u
#define RECORD_FLUSH_NS        200000000u
#define RECORD_HOUSEKEEPING_NS 100000000u
#define RECORD_TSC_HZ          1000000000u /* the guest's TSC counts nanoseconds */

#endif
