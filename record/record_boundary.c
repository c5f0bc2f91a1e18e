#include "record/internal.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "core/platform_msrs.h"

static struct recorder *recorder_of(struct boundary *b)
{
    return container_of(b, struct recorder, boundary);
}

/* The debugger may want to be stopped by it. */
static void catch_event(struct recorder *r, const struct event *event)
{
    const struct recorder_request *q = r->debug.request;
    if (!q || !q->want_event || r->debug.stop.reason != RECORDER_STOP_NONE ||
        !q->want_event(q->event_context, event))
        return;
    r->debug.stop = (struct recorder_stop){.reason = RECORDER_STOP_EVENT, .event = *event};
    r->debug.stop.event.data = NULL;
    r->debug.stop.event.data_length = 0;
    r->debug.stop.event.landmark = NULL;
}

/* The count of a vCPU that was moved into the emulator is not its position. */
static int write_counted(struct recorder *r, const struct event *event)
{
    struct event written = *event;
    if (event->place != PLACE_PREVIOUS)
        r->place_position = event->position;
    written.position = POSITION_UNKNOWN;
    return trace_writer_event(r->writer, &written, &r->error);
}

int record_event(struct recorder *r, const struct event *event)
{
    if (r->failed)
        return r->error.code;
    int status =
        recorder_in_emulator(r) ? write_counted(r, event) : trace_writer_event(r->writer, event, &r->error);
    if (status < 0)
        r->failed = true;
    catch_event(r, event);
    r->last_place_ns = machine_clock_ns(r->machine);
    return status;
}

static void watch_for_crash(struct recorder *r, unsigned channel, const uint8_t *data, size_t length)
{
    for (size_t done = 0, taken; done < length; done += taken)
        if (crash_watch_feed(&r->crash_watch, channel, data + done, length - done, &taken))
            record_crash(r, r->crash_watch.text);
}

void record_console_output(void *context, unsigned channel, const uint8_t *data, size_t length)
{
    struct recorder *r = context;
    struct event event = {.type = EVENT_CONSOLE,
                          .place = PLACE_PREVIOUS,
                          .position = POSITION_UNKNOWN,
                          .source = (uint8_t)channel,
                          .data = data,
                          .data_length = length};
    record_event(r, &event);
    watch_for_crash(r, channel, data, length);
    if (r->options.console)
        r->options.console(r->options.context, channel, data, length);
}

void record_offer_input(struct recorder *r)
{
    uint8_t bytes[64];
    size_t length =
        record_host_input_waits(r->host) ? record_host_input_peek(r->host, bytes, sizeof(bytes)) : 0;
    if (length)
        record_host_input_taken(r->host, machine_input(r->machine, bytes, length));
}

void record_watch(void *context, const struct pollfd *fds, size_t count, void (*ready)(void *device),
                  void *device)
{
    struct recorder *r = context;
    r->watch_ready = ready;
    r->watch_device = device;
    record_host_watch(r->host, fds, count);
}

static uint64_t guest_clock_at(struct recorder *r, uint64_t host_ns)
{
    return r->is_kvm ? host_ns : record_clock_read(&r->clock, host_ns, r->engine->ops->position(r->engine));
}

uint64_t record_guest_clock_ns(struct recorder *r)
{
    return guest_clock_at(r, record_host_now_ns(r->host));
}

static bool deadline_by_steps_at(const struct recorder *r, uint64_t deadline_ns, uint64_t host_ns)
{
    if (r->is_kvm || deadline_ns == UINT64_MAX)
        return false;
    return r->clock.is_virtual || (deadline_ns > machine_clock_ns(r->machine) && deadline_ns <= host_ns);
}

bool record_deadline_by_steps(const struct recorder *r, uint64_t deadline_ns)
{
    return deadline_by_steps_at(r, deadline_ns, record_host_now_ns(r->host));
}

/* Devices see one time per access. Returns the host's: asking for it takes as long as the rest of a crossing. */
static uint64_t enter_devices(struct recorder *r)
{
    uint64_t host_ns = record_host_now_ns(r->host);
    machine_set_clock_ns(r->machine, guest_clock_at(r, host_ns));
    record_clock_access(&r->clock);
    r->spin_since_ns = 0;
    return host_ns;
}

/* A device's next deadline may be nearer now; true: the session has to see to it. */
static bool watch_deadline(struct recorder *r, uint64_t host_ns)
{
    uint64_t deadline = machine_next_deadline_ns(r->machine);
    if (deadline_by_steps_at(r, deadline, host_ns))
        return deadline < r->step_deadline_ns || r->clock.is_virtual; /* the crossing has taken some time */
    record_host_arm(r->host, deadline);
    return false;
}

/* What an access changed: room for input; for the session, a nearer deadline, a waiting interrupt, the end of the run. */
static int leave_devices(struct recorder *r, uint64_t entered_ns)
{
    record_offer_input(r);
    bool nearer = watch_deadline(r, entered_ns);
    if (r->is_kvm) /* who tells where the time of such a recording went */
        r->time_in_devices_ns += record_host_now_ns(r->host) - entered_ns;
    if (r->failed)
        return r->error.code;
    if (nearer || r->debug.stop.reason != RECORDER_STOP_NONE || machine_work_waits(r->machine) ||
        machine_end(r->machine, NULL) != MACHINE_END_NONE)
        return BOUNDARY_STOP;
    if (machine_interrupt_priority(r->machine) > r->window_priority)
        return BOUNDARY_STOP;
    return BOUNDARY_OK;
}

static struct event crossing(enum event_type type, position_t position, uint64_t address, unsigned size,
                             uint64_t value)
{
    return (struct event){.type = type,
                          .place = PLACE_CROSSING,
                          .position = position,
                          .address = address,
                          .size = (uint8_t)size,
                          .value = value};
}

static int pio_read(struct boundary *b, position_t position, uint16_t port, unsigned size, uint32_t *value)
{
    struct recorder *r = recorder_of(b);
    uint64_t entered = enter_devices(r);
    *value = (uint32_t)machine_port_read(r->machine, port, size);
    struct event event = crossing(EVENT_PIO_READ, position, port, size, *value);
    record_event(r, &event);
    return leave_devices(r, entered);
}

static int pio_write(struct boundary *b, position_t position, uint16_t port, unsigned size, uint32_t value)
{
    struct recorder *r = recorder_of(b);
    uint64_t entered = enter_devices(r);
    struct event event = crossing(EVENT_PIO_WRITE, position, port, size, value);
    int status = record_event(r, &event);
    if (status < 0)
        return status;
    machine_port_write(r->machine, port, size, value);
    return leave_devices(r, entered);
}

static int mmio_read(struct boundary *b, position_t position, gpa_t gpa, unsigned size, uint64_t *value)
{
    struct recorder *r = recorder_of(b);
    uint64_t entered = enter_devices(r);
    *value = machine_mmio_read(r->machine, gpa, size);
    struct event event = crossing(EVENT_MMIO_READ, position, gpa, size, *value);
    record_event(r, &event);
    return leave_devices(r, entered);
}

static int mmio_write(struct boundary *b, position_t position, gpa_t gpa, unsigned size, uint64_t value)
{
    struct recorder *r = recorder_of(b);
    uint64_t entered = enter_devices(r);
    struct event event = crossing(EVENT_MMIO_WRITE, position, gpa, size, value);
    int status = record_event(r, &event);
    if (status < 0)
        return status;
    machine_mmio_write(r->machine, gpa, size, value);
    return leave_devices(r, entered);
}

/* A crossing that no device has to do with. A virtual clock has moved: the next deadline may be nearer. */
static int crossed(const struct recorder *r, int status)
{
    bool nearer = r->clock.is_virtual && machine_next_deadline_ns(r->machine) != UINT64_MAX;
    return status == 0 && (nearer || r->debug.stop.reason != RECORDER_STOP_NONE) ? BOUNDARY_STOP : status;
}

/* A guest that has spun for SPIN_PATIENCE_NS is slowed down to a reading each SPIN_SLEEP_NS, and what the host adds to that. */
#define SPIN_STEPS        100u
#define SPIN_PATIENCE_NS  50000u
#define SPIN_SLEEP_NS     20000u
#define SPIN_OVERSLEPT_NS 200000u

/*
 * A guest that does nothing but read the TSC waits for a time to come, as Linux does for up to 20 ms at a time while it starts. The
 * host has better things to do meanwhile, and the trace need not have hundreds of thousands of readings.
 */
static void wait_with_guest(struct recorder *r)
{
    uint64_t now = r->clock.now_ns;
    position_t position = r->clock.position;
    if (r->is_kvm || r->clock.is_virtual)
        return;
    if (!r->spin_since_ns || position - r->spin_position > SPIN_STEPS)
        r->spin_since_ns = now;
    r->spin_position = position;
    if (now - r->spin_since_ns < SPIN_PATIENCE_NS ||
        machine_next_deadline_ns(r->machine) < now + SPIN_SLEEP_NS)
        return;
    nanosleep(&(struct timespec){.tv_nsec = SPIN_SLEEP_NS}, NULL);
    uint64_t host = record_host_now_ns(r->host), most = now + SPIN_OVERSLEPT_NS;
    record_clock_catch_up(&r->clock, host < most ? host : most, position);
}

/* Never the same twice, so that a guest that measures its own speed does not divide by zero. */
static uint64_t next_tsc(struct recorder *r)
{
    uint64_t tsc = record_guest_clock_ns(r);
    wait_with_guest(r);
    if (!r->is_kvm)
        tsc = r->clock.now_ns;
    record_clock_tsc(&r->clock, r->clock.position);
    r->last_tsc = tsc > r->last_tsc ? tsc : r->last_tsc + 1;
    return r->last_tsc + r->tsc_adjust;
}

#define MSR_TSC        0x10u
#define MSR_TSC_ADJUST 0x3bu

/* Whoever writes the counter moves it, and IA32_TSC_ADJUST says by how much (SDM 3, 18.17.3). */
static bool write_tsc_msr(struct recorder *r, uint32_t index, uint64_t value)
{
    if (index == MSR_TSC && cpu_model_has(&r->model, CPU_FEATURE_LEAF1_EDX + 4))
        r->tsc_adjust += value - next_tsc(r);
    else if (index == MSR_TSC_ADJUST && cpu_model_has(&r->model, CPU_FEATURE_LEAF7_EBX + 1))
        r->tsc_adjust = value;
    else
        return false;
    machine_set_tsc_offset(r->machine, r->tsc_adjust);
    return true;
}

static bool read_tsc_adjust(const struct recorder *r, uint32_t index, uint64_t *value)
{
    if (index != MSR_TSC_ADJUST || !cpu_model_has(&r->model, CPU_FEATURE_LEAF7_EBX + 1))
        return false;
    *value = r->tsc_adjust;
    return true;
}

/* SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014). */
static uint64_t next_random(struct recorder *r)
{
    uint64_t z = r->random += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static bool host_random(uint8_t *out, size_t length)
{
    for (size_t done = 0; done < length;) {
        ssize_t n = getrandom(out + done, length - done, 0);
        if (n > 0)
            done += (size_t)n;
        else if (errno != EINTR)
            return false;
    }
    return true;
}

/* False: the host has none; out is undefined. */
static bool random_bytes(struct recorder *r, uint8_t *out, size_t length)
{
    if (!r->options.seeded)
        return host_random(out, length);
    for (size_t done = 0; done < length; done += 8) {
        uint64_t word = next_random(r);
        memcpy(out + done, &word, length - done < 8 ? length - done : 8);
    }
    return true;
}

void record_entropy(void *context, void *out, size_t length)
{
    if (!random_bytes(context, out, length))
        memset(out, 0, length);
}

const struct vcpu_state *record_vcpu(void *context)
{
    struct recorder *r = context;
    return r->engine ? r->engine->ops->state(r->engine) : NULL;
}

/* A recording under KVM whose vCPU is in the emulator for a debugger: as KVM does it, which crosses nothing. */
static int read_ignne(struct recorder *r, position_t position, uint64_t *value)
{
    *value = IGNNE_NATIVE;
    if (!r->positions)
        return BOUNDARY_OK;
    uint64_t entered = enter_devices(r);
    *value = machine_set_ferr(r->machine, true) ? IGNNE_IGNORE : IGNNE_WAIT;
    struct event event = crossing(EVENT_CPU_READ, position, 0, 0, *value);
    event.source = SOURCE_IGNNE;
    event.flag = true;
    record_event(r, &event);
    return leave_devices(r, entered);
}

static int cpu_read(struct boundary *b, position_t position, enum boundary_source source, uint32_t argument,
                    uint64_t *value, bool *valid)
{
    struct recorder *r = recorder_of(b);
    *value = 0;
    *valid = true;
    switch (source) {
    case SOURCE_RDTSC:
    case SOURCE_RDTSCP:
        *value = next_tsc(r);
        break;
    case SOURCE_RDRAND:
    case SOURCE_RDSEED:
        *valid = random_bytes(r, (uint8_t *)value, argument <= 8 ? argument : 8);
        if (!*valid)
            *value = 0;
        break;
    case SOURCE_RDPMC: /* there are no counters: they stand at 0 */
        break;
    case SOURCE_IGNNE:
        return read_ignne(r, position, value);
    }
    struct event event = crossing(EVENT_CPU_READ, position, argument, 0, *value);
    event.source = (uint8_t)source;
    event.flag = *valid;
    return crossed(r, record_event(r, &event));
}

/*
 * Beyond the vCPU's state there are, but for the TSC's and the local APIC's, only MSRs that stand still; for any other the guest gets
 * #GP, as a CPU does it.
 */
static int msr_read(struct boundary *b, position_t position, uint32_t index, uint64_t *value, bool *known)
{
    struct recorder *r = recorder_of(b);
    uint64_t entered = enter_devices(r);
    *known = read_tsc_adjust(r, index, value) || machine_msr_read(r->machine, index, value) ||
             platform_msr_read(r->ram, index, value);
    struct event event = crossing(EVENT_MSR_READ, position, index, 0, *value);
    event.flag = *known;
    record_event(r, &event);
    return leave_devices(r, entered);
}

static int msr_write(struct boundary *b, position_t position, uint32_t index, uint64_t value, bool *known)
{
    struct recorder *r = recorder_of(b);
    uint64_t entered = enter_devices(r);
    *known = write_tsc_msr(r, index, value) || machine_msr_write(r->machine, index, value) ||
             platform_msr_write(index);
    struct event event = crossing(EVENT_MSR_WRITE, position, index, 0, value);
    event.flag = *known;
    record_event(r, &event);
    return leave_devices(r, entered);
}

static int halted(struct boundary *b, position_t position)
{
    struct event event = crossing(EVENT_HALT, position, 0, 0, 0);
    return record_event(recorder_of(b), &event);
}

static void ferr_deasserted(struct boundary *b)
{
    machine_set_ferr(recorder_of(b)->machine, false);
}

const struct boundary_ops record_boundary_ops = {
    .pio_read = pio_read,
    .pio_write = pio_write,
    .mmio_read = mmio_read,
    .mmio_write = mmio_write,
    .cpu_read = cpu_read,
    .msr_read = msr_read,
    .msr_write = msr_write,
    .halted = halted,
    .ferr_deasserted = ferr_deasserted,
};
