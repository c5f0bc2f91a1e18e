/*
 * The machine outside the line: port and MMIO space, interrupt lines, the clock and timers that devices use.
 * Replay needs none of it.
 *
 * Threads: everything here is called on the vCPU thread, while the vCPU is stopped.
 */
#ifndef DEJAVM_CORE_MACHINE_H
#define DEJAVM_CORE_MACHINE_H

#include <poll.h>

#include "core/base/error.h"
#include "core/base/types.h"
#include "core/ram.h"

struct machine;
struct vcpu_state;

/* How the run shall end, asked for by a device (exit port, reset). */
enum machine_end {
    MACHINE_END_NONE = 0,
    MACHINE_END_DEBUG_EXIT, /* status = the value written to the exit port */
    MACHINE_END_RESET,      /* keyboard controller or other reset */
    MACHINE_END_POWEROFF,
};

/* Offset is relative to the start of the registered range. size: 1, 2, 4 (ports), also 8 (MMIO). */
typedef uint64_t (*io_read_fn)(void *device, uint64_t offset, unsigned size);
typedef void (*io_write_fn)(void *device, uint64_t offset, unsigned size, uint64_t value);

struct io_range {
    uint64_t start, length;
    io_read_fn read;   /* NULL: reads give all ones */
    io_write_fn write; /* NULL: writes are dropped */
    void *device;
    const char *name;
    /*
     * The widest access the device takes; a wider one is split, lowest address first, as an 8-bit ISA
     * device's is by the chipset. 0: every access that lies within the range is passed on whole.
     */
    unsigned max_access_bytes;
};

/* A one-shot timer of a device. Embedded in the device; armed and disarmed by the functions below. */
struct machine_timer {
    uint64_t deadline_ns; /* machine clock; only valid while armed */
    bool armed;
    void (*fire)(void *device, uint64_t now_ns);
    void *device;
    struct machine_timer *next;
};

/*
 * Work of a device that cannot be done inside a guest's access, because it writes RAM: the session has it done at the next boundary
 * between two instructions. Embedded in the device.
 */
struct machine_work {
    void (*run)(void *device);
    void *device;
    bool queued;
    struct machine_work *next;
};

/* The guest's consoles. */
enum machine_console {
    CONSOLE_SERIAL, /* the first serial port */
    CONSOLE_DEBUG,  /* port 0xe9 */
    CONSOLE_VIRTIO, /* hvc0 of a Linux guest */
    CONSOLE_COUNT
};

#define MACHINE_WATCH_MAX 1024u

/* What devices use to make the outside know: host back-ends, all optional (NULL function = discarded). */
struct machine_host {
    /* Bytes the guest printed. channel: enum machine_console. */
    void (*console_output)(void *context, unsigned channel, const uint8_t *data, size_t length);
    /*
     * A device is about to write RAM (machine_dma_write), between two instructions: writes the event, and then RAM. The range is
     * RAM. NULL: the machine writes RAM itself (a machine without a recorder).
     */
    void (*dma_write)(void *context, gpa_t gpa, const void *data, size_t length);
    /* machine_mark: one line of text. */
    void (*mark)(void *context, const char *text);
    /* machine_entropy. NULL: the host's own random numbers. */
    void (*entropy)(void *context, void *out, size_t length);
    /*
     * The descriptors that a device's back-end waits for from now on, instead of those of the call before (copied; at most
     * MACHINE_WATCH_MAX): when one is ready, ready(device) is called, once for each call. There is one device that watches. To be
     * called from work only.
     */
    void (*watch)(void *context, const struct pollfd *fds, size_t count, void (*ready)(void *device),
                  void *device);
    /*
     * The vCPU as it is now, for the local APIC: IA32_APIC_BASE and CR8 are registers of the vCPU. NULL: enabled at its usual
     * address, and CR8 is 0.
     */
    const struct vcpu_state *(*vcpu)(void *context);
    /* Seconds since 1970-01-01 UTC at machine clock 0 (asked once, when the RTC is attached). */
    int64_t start_time_s;
    void *context;
};

/*
 * The interrupt controllers register themselves here, so that devices and the session need not know which there are.
 *
 *     irq 0..15 ----+---- PIC ------ ExtINT ----+
 *                   |                           local APIC ---- vCPU
 *     irq 0..23 ----+---- I/O APIC -- message --+
 *     MSI ---------------------------- message --+
 *
 * On a board without a local APIC the PIC is connected to the vCPU.
 */
struct interrupt_controller {                                 /* the PIC */
    void (*set_line)(void *device, unsigned irq, bool level); /* irq 0..15 */
    bool (*pending)(void *device);        /* an interrupt waits for the vCPU (INTR high) */
    uint8_t (*acknowledge)(void *device); /* INTA: takes the vector */
    void *device;
};

struct io_apic_interface {
    void (*set_pin)(void *device, unsigned pin, bool level); /* pin 0..MACHINE_IRQS - 1 */
    void (*end_of_interrupt)(void *device, uint8_t vector);  /* of a level-triggered interrupt */
    void *device;
};

struct local_apic_interface {
    unsigned (*priority)(void *device); /* see machine_interrupt_priority */
    uint8_t (*acknowledge)(void *device);
    void (*message)(void *device, uint64_t address, uint32_t data); /* see machine_send_msi */
    bool (*msr_read)(void *device, uint32_t index, uint64_t *value);
    bool (*msr_write)(void *device, uint32_t index, uint64_t value);
    void (*tsc_moved)(void *device); /* machine_tsc_offset has changed */
    void *device;
};

/* What the board makes of x87 errors. */
struct ferr_interface {
    bool (*set_ferr)(void *device, bool asserted); /* see machine_set_ferr */
    void *device;
};

#define MACHINE_IRQS 24u

/* Frees what a device allocated; called in reverse order of registration. */
typedef void (*device_destroy_fn)(void *device);

int machine_create(struct machine **out, struct guest_ram *ram, const struct machine_host *host,
                   struct error *err) must_check;
void machine_destroy(struct machine *m); /* destroys the devices too; NULL is fine */

struct guest_ram *machine_ram(struct machine *m);
const struct machine_host *machine_host(struct machine *m);

/* Overlap with a registered range is an error (-EEXIST) that names both. range->name must live on. */
int machine_add_ports(struct machine *m, const struct io_range *range, struct error *err) must_check;
int machine_add_mmio(struct machine *m, const struct io_range *range, struct error *err) must_check;
/* Takes away the range that starts there, for a device that the guest moves. Nothing if there is none. */
void machine_remove_mmio(struct machine *m, gpa_t start);
int machine_on_destroy(struct machine *m, device_destroy_fn destroy, void *device,
                       struct error *err) must_check;
void machine_set_interrupt_controller(struct machine *m, const struct interrupt_controller *pic);
void machine_set_io_apic(struct machine *m, const struct io_apic_interface *io_apic);
void machine_set_local_apic(struct machine *m, const struct local_apic_interface *local_apic);
void machine_set_ferr_interface(struct machine *m, const struct ferr_interface *ferr);

/*
 * Dispatch. An access that no range covers reads all ones and is counted; one that is only partly covered, or
 * crosses ranges, is split into bytes, lowest address first. One that runs over the end of the address space
 * is unclaimed as a whole. size is 1 to 8; bits of value above it are ignored, and are zero in what a read
 * returns.
 */
uint64_t machine_port_read(struct machine *m, uint16_t port, unsigned size);
void machine_port_write(struct machine *m, uint16_t port, unsigned size, uint64_t value);
uint64_t machine_mmio_read(struct machine *m, gpa_t gpa, unsigned size);
void machine_mmio_write(struct machine *m, gpa_t gpa, unsigned size, uint64_t value);

/*
 * One entry per unclaimed port / 4 KiB frame, in order of first access, at most MACHINE_UNCLAIMED_MAX; the
 * addresses that come after those are counted under the last entry. An access wider than a byte counts once,
 * at its first address.
 */
#define MACHINE_UNCLAIMED_MAX 64
struct unclaimed {
    uint64_t address; /* port, or gpa of the frame */
    uint64_t reads, writes;
};
size_t machine_unclaimed_ports(const struct machine *m, const struct unclaimed **list);
size_t machine_unclaimed_mmio(const struct machine *m, const struct unclaimed **list);

/*
 * The machine clock: nanoseconds since the start of the recording, never backwards. The session sets it
 * before it calls into devices; devices only read it, so one device access sees one time. It ends at 2^62
 * (146 years).
 */
uint64_t machine_clock_ns(const struct machine *m);
void machine_set_clock_ns(struct machine *m, uint64_t now_ns); /* ignored if it would go backwards */

void machine_timer_init(struct machine_timer *t, void (*fire)(void *device, uint64_t now_ns), void *device);
void machine_timer_arm(struct machine *m, struct machine_timer *t,
                       uint64_t deadline_ns); /* re-arms if armed */
void machine_timer_disarm(struct machine *m, struct machine_timer *t);
uint64_t machine_next_deadline_ns(const struct machine *m); /* UINT64_MAX: none */
/*
 * Fires every timer whose deadline is <= the clock, earliest first (equal deadlines in the order they were
 * armed). A fired timer may arm itself again; a deadline armed meanwhile that is not in the future waits for
 * a later clock, so one call always ends. fire gets the clock, which may be later than the deadline: how much
 * of the delay to make up for is the device's decision.
 */
void machine_run_timers(struct machine *m);

void machine_work_init(struct machine_work *w, void (*run)(void *device), void *device);
/* Nothing if it is queued already. May be called at any time, also by work that runs: it is run again later then, not now. */
void machine_queue_work(struct machine *m, struct machine_work *w);
bool machine_work_waits(const struct machine *m);
void machine_run_work(struct machine *m); /* in the order in which it was queued */

/*
 * Direct memory access. Reading is possible at any time; writing only from machine_work. -EFAULT, and nothing is read or written,
 * when any byte of [gpa, gpa+length) is not RAM.
 */
int machine_dma_read(struct machine *m, gpa_t gpa, void *out, size_t length) must_check;
int machine_dma_write(struct machine *m, gpa_t gpa, const void *data, size_t length) must_check;

/*
 * An interrupt line. 0 to 15 are the ISA bus', and reach the PIC and the I/O APIC (irq 0 at its pin 2, as on all PCs); those above
 * are the I/O APIC's alone. level true: asserted, whatever the polarity that the guest believes the line to have.
 */
void machine_set_irq(struct machine *m, unsigned irq, bool level);
/*
 * A message signalled interrupt (SDM 3, 10.11): address 0xfeexxxxx with the destination, data with vector, delivery and trigger
 * mode. Any other address, and a board without a local APIC: nothing happens.
 */
void machine_send_msi(struct machine *m, uint64_t address, uint32_t data);
/* There is a local APIC, attached before the devices that ask: without one they have no MSI to offer. */
bool machine_takes_msi(const struct machine *m);
/* A level-triggered interrupt of that vector has been served: the local APIC's broadcast. */
void machine_end_of_interrupt(struct machine *m, uint8_t vector);

/*
 * The most urgent interrupt that waits: 0 for none, 1 to 15 for the priority class of its vector (SDM 3, 10.8.3.1), which must be
 * above CR8, and MACHINE_PRIORITY_EXTINT for the PIC's, to which CR8 does not matter.
 */
#define MACHINE_PRIORITY_EXTINT 16u
unsigned machine_interrupt_priority(const struct machine *m);
/* An interrupt waits that CR8 lets through. */
bool machine_interrupt_pending(const struct machine *m);
uint8_t machine_interrupt_acknowledge(struct machine *m);

/* The PIC's side of the line, for the local APIC. */
bool machine_pic_pending(const struct machine *m);
uint8_t machine_pic_acknowledge(struct machine *m);

/*
 * The vCPU's pin FERR#: an x87 instruction waits because of an unmasked exception, or none is pending any more (SDM 1, appendix D).
 * Returns whether IGNNE# is asserted then: never on a board that does nothing about x87 errors.
 */
bool machine_set_ferr(struct machine *m, bool asserted);

/* As machine_host.vcpu; NULL where there is none. */
const struct vcpu_state *machine_vcpu(const struct machine *m);

/*
 * The time stamp counter is the machine's clock in nanoseconds plus this offset (modulo 2^64), which changes when the guest writes
 * IA32_TSC or IA32_TSC_ADJUST.
 */
void machine_set_tsc_offset(struct machine *m, uint64_t offset);
uint64_t machine_tsc_offset(const struct machine *m);

/* The local APIC's MSRs: x2APIC and IA32_TSC_DEADLINE. False: there is no such MSR, the guest gets #GP. */
bool machine_msr_read(struct machine *m, uint32_t index, uint64_t *value);
bool machine_msr_write(struct machine *m, uint32_t index, uint64_t value);

/* The first request stays. */
void machine_request_end(struct machine *m, enum machine_end end, uint32_t status);
enum machine_end machine_end(const struct machine *m, uint32_t *status);

/* A remark that the trace keeps at this place: what a device has to tell of what the guest did wrong. At most 511 bytes. */
void machine_mark(struct machine *m, const char *format, ...) format_printf(2, 3);

/* Random bytes for the guest. What reaches it is an input like any other, and recorded where it crosses. */
void machine_entropy(struct machine *m, void *out, size_t length);

/*
 * Bytes for the guest's serial port, or another console that was selected, from the host. Returns how many were taken (the port has a FIFO); the
 * rest is to be offered again after the guest read some.
 */
typedef size_t (*input_fn)(void *device, const uint8_t *data, size_t length);
void machine_set_input(struct machine *m, input_fn take, void *device);
size_t machine_input(struct machine *m, const uint8_t *data, size_t length);
/* As machine_set_input, for any console. */
void machine_set_console_input(struct machine *m, enum machine_console console, input_fn take, void *device);
/* The console that machine_input's bytes go to; CONSOLE_SERIAL until this is called. */
void machine_select_input(struct machine *m, enum machine_console console);

/* The host's terminal has another size now. */
typedef void (*resize_fn)(void *device, unsigned columns, unsigned rows);
void machine_set_resize(struct machine *m, resize_fn resize, void *device);
void machine_resize(struct machine *m, unsigned columns, unsigned rows);

#endif
