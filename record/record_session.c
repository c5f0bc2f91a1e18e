#include "record/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/x86/inspect.h"

/* How long a vCPU that stands where no event can be placed is let run on. */
#define WORK_RETRY_NS 1000000u

/* A vCPU that leaves an interrupt waiting for that long is taken for hung. Linux' own watchdog waits as long for one that loops. */
#define HUNG_NS 10000000000u

/* How the run ended, once it has. */
struct ending {
    bool ended;
    enum trace_end end;
    uint32_t status;
};

static void end_run(struct ending *ending, enum trace_end end, uint32_t status)
{
    if (!ending->ended)
        *ending = (struct ending){true, end, status};
}

/* What has to happen now and then whatever the guest does. */
static int housekeeping(struct recorder *r, struct ending *ending, struct error *err)
{
    uint64_t now = record_host_now_ns(r->host);
    if (atomic_load(&r->stop_requested))
        end_run(ending, TRACE_END_STOPPED, 0);
    if (r->options.timeout_ns && now >= r->options.timeout_ns)
        end_run(ending, TRACE_END_TIMEOUT, 0);
    if (now - r->last_flush_ns >= RECORD_FLUSH_NS && !trace_writer_is_busy(r->writer)) {
        r->last_flush_ns = now;
        int status = trace_writer_flush(r->writer, err);
        if (status < 0)
            return status;
    }
    if (r->options.progress && now - r->last_progress_ns >= RECORD_FLUSH_NS) {
        r->last_progress_ns = now;
        r->options.progress(r->options.context, now, r->engine->ops->position(r->engine),
                            trace_writer_bytes(r->writer));
    }
    return 0;
}

/* Under KVM an injected event may still be on its way into the guest: such a place has no name. */
static bool can_name_place(const struct recorder *r)
{
    return !r->is_kvm || kvm_engine_settled(r->engine);
}

/* Brings the devices up to the present. */
static int service(struct recorder *r, struct ending *ending, struct error *err)
{
    uint64_t entered = record_host_now_ns(r->host);
    if (r->halted)
        record_clock_catch_up(&r->clock, entered, r->engine->ops->position(r->engine));
    machine_set_clock_ns(r->machine, record_guest_clock_ns(r));
    machine_run_timers(r->machine);
    record_offer_input(r);
    if (record_host_watch_fired(r->host) && r->watch_ready)
        r->watch_ready(r->watch_device);
    if (machine_work_waits(r->machine) && can_name_place(r)) {
        r->dma_placed = false;
        machine_run_work(r->machine);
    }
    r->time_in_devices_ns += record_host_now_ns(r->host) - entered;
    if (r->failed) {
        *err = r->error;
        return r->error.code;
    }
    return housekeeping(r, ending, err);
}

/* When the helper thread has to kick the vCPU, on the host's clock. */
static uint64_t next_deadline(const struct recorder *r)
{
    uint64_t deadline = record_host_now_ns(r->host) + RECORD_HOUSEKEEPING_NS;
    uint64_t device = machine_next_deadline_ns(r->machine);
    if (r->last_flush_ns + RECORD_FLUSH_NS < deadline && !trace_writer_is_busy(r->writer))
        deadline = r->last_flush_ns + RECORD_FLUSH_NS;
    if (device < deadline && !record_deadline_by_steps(r, device))
        deadline = device;
    if (machine_work_waits(r->machine)) /* the vCPU has to get on a little first */
        deadline = record_host_now_ns(r->host) + WORK_RETRY_NS;
    if (r->options.timeout_ns && r->options.timeout_ns < deadline)
        deadline = r->options.timeout_ns;
    return deadline;
}

static void take_end_of_machine(const struct recorder *r, struct ending *ending)
{
    uint32_t status;
    switch (machine_end(r->machine, &status)) {
    case MACHINE_END_NONE:
        break;
    case MACHINE_END_DEBUG_EXIT:
        end_run(ending, TRACE_END_DEBUG_EXIT, status);
        break;
    case MACHINE_END_RESET:
        end_run(ending, TRACE_END_RESET, status);
        break;
    case MACHINE_END_POWEROFF:
        end_run(ending, TRACE_END_POWEROFF, status);
        break;
    }
}

/* The position of the next reason for the emulator to come back; KVM cannot count. */
static position_t next_limit(struct recorder *r)
{
    if (r->is_kvm)
        return POSITION_UNKNOWN;
    position_t limit = r->last_digest_position + RECORD_DIGEST_STEPS;
    if (r->options.max_steps && r->options.max_steps < limit)
        limit = r->options.max_steps;
    uint64_t device = machine_next_deadline_ns(r->machine);
    r->step_deadline_ns = UINT64_MAX;
    if (record_deadline_by_steps(r, device)) {
        position_t due = r->engine->ops->position(r->engine) + record_clock_steps_until(&r->clock, device);
        r->step_deadline_ns = device;
        limit = due < limit ? due : limit;
    }
    return limit;
}

static int run_vcpu(struct recorder *r, struct ending *ending, struct error *err)
{
    r->window_wanted = machine_interrupt_pending(r->machine);
    struct engine_request request = {.limit = next_limit(r), .want_window = r->window_wanted};
    record_host_arm(r->host, next_deadline(r));
    int stop = r->engine->ops->run(r->engine, &request, err);
    if (r->failed) {
        *err = r->error;
        return r->error.code;
    }
    if (stop < 0)
        return stop;
    take_end_of_machine(r, ending);
    if (stop ==
        ENGINE_STOP_SHUTDOWN) /* even where something else ends the run: there is no state to describe */
        *ending = (struct ending){true, TRACE_END_SHUTDOWN, 0};
    if (stop == ENGINE_STOP_HALT) {
        r->halted = true;
        if (!(r->engine->ops->state(r->engine)->rflags & RFLAGS_IF))
            end_run(ending, TRACE_END_HALTED, 0);
    }
    if (r->options.max_steps && r->engine->ops->position(r->engine) >= r->options.max_steps)
        end_run(ending, TRACE_END_MAX_STEPS, 0);
    return 0;
}

/* A guest that hangs with interrupts off shows it by nothing but the interrupt that it does not take. */
static void watch_for_hang(struct recorder *r, bool waits)
{
    uint64_t now = machine_clock_ns(r->machine);
    if (!waits)
        r->masked_since_ns = UINT64_MAX;
    else if (r->masked_since_ns == UINT64_MAX)
        r->masked_since_ns = now;
    else if (now > r->masked_since_ns && now - r->masked_since_ns >= HUNG_NS) {
        record_crash(r, "hung: for 10 s the guest has taken no interrupt, though one waits");
        r->masked_since_ns = now;
    }
}

/* One turn: devices, then an interrupt if one can be delivered, then the vCPU (or sleep while it is halted). */
static int turn(struct recorder *r, struct ending *ending, struct error *err)
{
    int status = service(r, ending, err);
    if (status < 0 || ending->ended)
        return status;
    bool pending = machine_interrupt_pending(r->machine);
    bool takes = pending && r->engine->ops->can_interrupt(r->engine);
    watch_for_hang(r, pending && !takes);
    if (takes) {
        status = record_interrupt(r, err);
        if (status < 0)
            return status;
    } else if (r->halted) {
        uint64_t start = record_host_now_ns(r->host);
        record_host_sleep(r->host, next_deadline(r));
        r->time_halted_ns += record_host_now_ns(r->host) - start;
        return 0;
    } else if (record_digest_due(r) && can_name_place(r)) {
        status = record_digest(r, err);
        if (status < 0)
            return status;
    }
    return run_vcpu(r, ending, err);
}

/*
 * Under KVM an injected event may still be on its way into the guest when the run is to end: let the guest run on in
 * short slices until the vCPU stands at a boundary that can be named.
 */
static int settle(struct recorder *r, struct ending *ending, struct error *err)
{
    for (unsigned i = 0; i < 1000 && ending->end != TRACE_END_SHUTDOWN; i++) {
        if (can_name_place(r))
            return 0;
        machine_set_clock_ns(r->machine, record_guest_clock_ns(r));
        record_host_arm(r->host, record_host_now_ns(r->host) + WORK_RETRY_NS);
        int status = run_vcpu(r, ending, err);
        if (status < 0)
            return status;
    }
    return 0;
}

static void copy_unclaimed(struct unclaimed *to, size_t room, size_t *count, const struct unclaimed *from,
                           size_t n)
{
    *count = n < room ? n : room;
    memcpy(to, from, *count * sizeof(*to));
}

static void fill_result(struct recorder *r, const struct ending *ending, struct record_result *result)
{
    result->engine = r->engine->ops->name;
    snprintf(result->engine_reason, sizeof(result->engine_reason), "%s", r->engine_reason);
    result->end = ending->end;
    result->status = ending->status;
    result->elapsed_ns = record_host_now_ns(r->host);
    result->position = r->engine->ops->position(r->engine);
    result->interrupts = r->interrupts;
    result->time_in_devices_ns = r->time_in_devices_ns;
    result->time_halted_ns = r->time_halted_ns;
    result->have_kvm = r->is_kvm;
    if (r->is_kvm)
        result->kvm = *kvm_engine_statistics(r->engine);
    const struct unclaimed *list;
    size_t count = machine_unclaimed_ports(r->machine, &list);
    copy_unclaimed(result->unclaimed_ports, ARRAY_LEN(result->unclaimed_ports), &result->unclaimed_port_count,
                   list, count);
    count = machine_unclaimed_mmio(r->machine, &list);
    copy_unclaimed(result->unclaimed_mmio, ARRAY_LEN(result->unclaimed_mmio), &result->unclaimed_mmio_count,
                   list, count);
    const struct vcpu_state *state = r->engine->ops->state(r->engine);
    char name[128];
    snprintf(result->last_rip, sizeof(result->last_rip), "0x%" PRIx64 " %s", state->rip,
             symbols_describe(r->symbols, state->rip, name, sizeof(name)));
}

int recorder_run(struct recorder *r, struct record_result *result, struct error *err)
{
    struct ending ending = {0};
    memset(result, 0, sizeof(*result));
    int status = 0;
    while (status == 0 && !ending.ended)
        status = turn(r, &ending, err);
    if (status == 0)
        status = settle(r, &ending, err);
    if (status < 0 && !r->failed) {
        /* The engine failed, the trace did not: close it, saying why. */
        struct error ignored;
        ending = (struct ending){true, TRACE_END_ERROR, 0};
        snprintf(result->message, sizeof(result->message), "%.500s", err->message);
        if (record_end(r, TRACE_END_ERROR, 0, result->message, &ignored) < 0)
            r->failed = true;
    } else if (status == 0) {
        status = record_end(r, ending.end, ending.status, "", err);
    }
    fill_result(r, &ending, result);
    result->events = trace_writer_event_count(r->writer);
    struct error finish_error;
    result->trace_bytes = trace_writer_bytes(r->writer);
    int finished = trace_writer_finish(r->writer, &finish_error);
    r->writer = NULL;
    if (status == 0 && finished < 0) {
        *err = finish_error;
        status = finished;
    }
    return status;
}
