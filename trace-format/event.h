/* What a trace's event stream holds. The encoding is in trace-format/SPEC.md. */
#ifndef DEJAVM_TRACE_FORMAT_EVENT_H
#define DEJAVM_TRACE_FORMAT_EVENT_H

#include "core/base/buffer.h"
#include "core/base/error.h"
#include "core/base/hash.h"
#include "core/base/types.h"

enum event_type {
    EVENT_PIO_READ = 1, /* address = port, size, value */
    EVENT_PIO_WRITE,    /* output check: address = port, size, value */
    EVENT_MMIO_READ,    /* address = gpa, size, value */
    EVENT_MMIO_WRITE,   /* output check */
    EVENT_CPU_READ,     /* source = enum boundary_source, argument in address, value, flag = valid */
    EVENT_MSR_READ,     /* address = MSR index, value, flag = known */
    EVENT_MSR_WRITE,    /* output check: address, value; flag = known (an input) */
    EVENT_HALT,         /* HLT executed */
    EVENT_INTERRUPT,    /* external interrupt delivered: vector */
    EVENT_NMI,          /* NMI delivered */
    EVENT_DMA,          /* a device wrote RAM: address = gpa, data */
    EVENT_DIGEST,       /* check: value = register digest, digest = RAM digest, data = encoded vCPU state */
    EVENT_CONSOLE,      /* annotation: channel in source, data = the bytes that the last output printed */
    EVENT_MARK,         /* annotation: data = UTF-8 text */
    EVENT_END,          /* the last event: source = enum trace_end, value = status, data = message */
    EVENT_TYPE_COUNT
};

/*
 * Where in the guest's execution an event belongs.
 *   PLACE_CROSSING  made by the guest's own instruction: reads, writes, HLT. Found by executing.
 *   PLACE_POSITION  at position (known while recording under emu)
 *   PLACE_AFTER     at the boundary right after the instruction (REP iteration) of the crossing before it in the stream
 *   PLACE_LANDMARK  at the boundary that landmark describes
 *   PLACE_PREVIOUS  with the event before it: the guest executes nothing in between (annotations; digests taken there; what a
 *                   device writes in several pieces)
 *   PLACE_STEPS     so many transitions after the position of the event before it (a recording under KVM, while the vCPU is in
 *                   the emulator); only in traces written with trace_writer_options.steps
 * In a sealed trace every event has a position as well, whatever its place.
 */
enum event_place { PLACE_CROSSING, PLACE_POSITION, PLACE_AFTER, PLACE_LANDMARK, PLACE_PREVIOUS, PLACE_STEPS };

enum trace_end {
    TRACE_END_DEBUG_EXIT = 1, /* status: the value written */
    TRACE_END_SHUTDOWN,       /* triple fault */
    TRACE_END_HALTED,         /* HLT with interrupts off */
    TRACE_END_TIMEOUT,
    TRACE_END_MAX_STEPS,
    TRACE_END_STOPPED, /* by the user */
    TRACE_END_RESET,
    TRACE_END_POWEROFF,
    TRACE_END_ERROR, /* the recorder failed: message */
};

#define LANDMARK_MAX_WITNESSES 8
#define LANDMARK_MAX_ENTRIES   32
#define LANDMARK_MAX_PAGES     65536u
#define LANDMARK_ALL_OF_RAM    UINT64_MAX        /* as a gfn: the low half of the digest of RAM */
#define EVENT_MAX_DATA         ((size_t)1 << 20) /* DMA and console data; writers split longer ones */

struct landmark_page {
    gfn_t gfn;
    uint64_t digest; /* low half of the page's RAM digest term (core/base/hash.h) */
};

/*
 * A landmark names an instruction boundary by the machine's state there (docs/determinism.md). Pages: those dirtied
 * since the previous landmark of the trace, all of them: otherwise two boundaries could agree in everything listed and
 * still not be the same state. Where that are more than fit there is one, LANDMARK_ALL_OF_RAM.
 */
struct landmark {
    uint64_t rip, rflags;
    uint64_t gpr[16];
    uint64_t fpu_hash;
    uint64_t
        elapsed_ns; /* host time in the recording since the event before: bounds the search for the boundary */
    unsigned witness_count;
    struct {
        gva_t address;
        uint64_t value;
    } witness[LANDMARK_MAX_WITNESSES];
    /*
     * Page-table entries that the next instruction uses, as they were. The processor may have set A and D bits in them for an
     * instruction that it had begun and did not complete: these bits are an input, and replay sets them here.
     */
    unsigned entry_count;
    struct {
        gpa_t gpa;
        uint64_t value;
    } entry[LANDMARK_MAX_ENTRIES];
    size_t page_count; /* at most LANDMARK_MAX_PAGES */
    const struct landmark_page *pages;
};

struct event {
    enum event_type type;
    enum event_place place;
    position_t position; /* before the transition that the event causes or belongs to; or POSITION_UNKNOWN */
    uint64_t address;
    uint64_t value;
    uint8_t size;
    uint8_t vector;
    uint8_t source;
    bool flag; /* EVENT_INTERRUPT, EVENT_NMI: RFLAGS.RF in the saved flags */
    struct hash128 digest;
    const uint8_t *data;
    size_t data_length;
    const struct landmark *landmark; /* with PLACE_LANDMARK */
    uint64_t steps;                  /* with PLACE_STEPS */
};

/* A mark of the guest's crash is EVENT_MARK with this and text. */
#define EVENT_CRASH_PREFIX "crash: "
/* The text of such a mark, not terminated, and its length; NULL for any other event, and where there is no text. */
const uint8_t *event_crash_text(const struct event *event, size_t *length);

const char *event_type_name(enum event_type type); /* "pio-read"; "unknown" for anything else */
const char *trace_end_name(enum trace_end end);    /* "debug-exit" */

#endif
