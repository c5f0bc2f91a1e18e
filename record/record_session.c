#include "record/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

/* How long a vCPU that stands where no event can be placed is let run on. */
#define WORK_RETRY_NS 1000000u

/* A vCPU that leaves an interrupt waiting for that long is taken for hung. Linux' own watchdog waits as long for one that loops. */
#define HUNG_NS 10000000000u

/* How often it is asked whether a resume is to end. */
#define POLL_NS 10000000u

static void end_run(struct recorder *r, enum trace_end end, uint32_t status)
{
    if (!r->ending.ended)
        r->ending = (struct record_ending){true, end, status};
}

static position_t count(const struct recorder *r)
{
    return r->engine->ops->position(r->engine);
}

static void follow_terminal(struct recorder *r)
{
    unsigned columns, rows;
    if (r->options.terminal_size && r->options.terminal_size(r->options.context, &columns, &rows))
        machine_resize(r->machine, columns, rows);
}

/* What has to happen now and then whatever the guest does. */
static int housekeeping(struct recorder *r, struct error *err)
{
    uint64_t now = record_host_now_ns(r->host);
    if (atomic_load(&r->stop_requested))
        end_run(r, TRACE_END_STOPPED, 0);
    if (r->options.timeout_ns && now >= r->options.timeout_ns)
        end_run(r, TRACE_END_TIMEOUT, 0);
    if (now - r->last_flush_ns >= RECORD_FLUSH_NS && !trace_writer_is_busy(r->writer)) {
        r->last_flush_ns = now;
        follow_terminal(r);
        int status = trace_writer_flush(r->writer, err);
        if (status < 0)
            return status;
        buffer_free(&r->image); /* it is in the trace now */
    }
    if (r->options.progress && now - r->last_progress_ns >= RECORD_FLUSH_NS) {
        r->last_progress_ns = now;
        r->options.progress(r->options.context, now, r->positions ? count(r) : POSITION_UNKNOWN,
                            trace_writer_bytes(r->writer));
    }
    return 0;
}

/* Under KVM an injected event may still be on its way into the guest: such a place has no name. */
static bool can_name_place(const struct recorder *r)
{
    return !r->is_kvm || kvm_engine_settled(r->engine);
}

/* A debugger was told that the next transition is the instruction: then it is. */
static bool instruction_comes_first(const struct recorder *r)
{
    return r->debug.request && r->debug.request->instruction_first && !r->is_kvm &&
           count(r) == r->debug.start;
}

/* Brings the devices up to the present. */
static int service(struct recorder *r, struct error *err)
{
    uint64_t entered = record_host_now_ns(r->host);
    if (r->halted &&
        !machine_interrupt_pending(r->machine)) /* what waits already ends the sleep before it began */
        record_clock_sleep(&r->clock, entered, machine_next_deadline_ns(r->machine),
                           r->engine->ops->position(r->engine));
    machine_set_clock_ns(r->machine, record_guest_clock_ns(r));
    machine_run_timers(r->machine);
    record_offer_input(r);
    if (record_host_watch_fired(r->host) && r->watch_ready)
        r->watch_ready(r->watch_device);
    if (machine_work_waits(r->machine) && can_name_place(r) && !instruction_comes_first(r)) {
        r->dma_placed = false;
        machine_run_work(r->machine);
    }
    r->time_in_devices_ns += record_host_now_ns(r->host) - entered;
    if (r->failed) {
        *err = r->error;
        return r->error.code;
    }
    return housekeeping(r, err);
}

/* When the helper thread has to kick the vCPU, on the host's clock. */
static uint64_t next_deadline(const struct recorder *r)
{
    bool asked = r->debug.request && r->debug.request->interrupted;
    uint64_t deadline = record_host_now_ns(r->host) + (asked ? POLL_NS : RECORD_HOUSEKEEPING_NS);
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

static void take_end_of_machine(struct recorder *r)
{
    uint32_t status;
    switch (machine_end(r->machine, &status)) {
    case MACHINE_END_NONE:
        break;
    case MACHINE_END_DEBUG_EXIT:
        end_run(r, TRACE_END_DEBUG_EXIT, status);
        break;
    case MACHINE_END_RESET:
        end_run(r, TRACE_END_RESET, status);
        break;
    case MACHINE_END_POWEROFF:
        end_run(r, TRACE_END_POWEROFF, status);
        break;
    }
}

/* The position of the next reason for the emulator to come back; KVM cannot count. */
static position_t next_limit(struct recorder *r)
{
    if (r->is_kvm)
        return POSITION_UNKNOWN;
    position_t limit = r->last_digest_position + RECORD_DIGEST_STEPS;
    if (r->debug.limit < limit)
        limit = r->debug.limit;
    if (instruction_comes_first(r) && count(r) + 1 < limit)
        limit = count(r) + 1;
    if (r->debug.stop.reason == RECORDER_STOP_EVENT) /* what else the transition did is still to be seen */
        limit = count(r);
    if (r->options.max_steps && r->options.max_steps < limit)
        limit = r->options.max_steps;
    if (r->clock.is_virtual && r->masked_since_ns != UINT64_MAX) { /* see watch_for_hang */
        position_t hung = count(r) + record_clock_steps_until(&r->clock, r->masked_since_ns + HUNG_NS);
        limit = hung < limit ? hung : limit;
    }
    uint64_t device = machine_next_deadline_ns(r->machine);
    r->step_deadline_ns = UINT64_MAX;
    if (record_deadline_by_steps(r, device)) {
        position_t due = count(r) + record_clock_steps_until(&r->clock, device);
        r->step_deadline_ns = device;
        limit = due < limit ? due : limit;
    }
    return limit;
}

static void take_hit(struct recorder *r, int stop)
{
    if (stop != ENGINE_STOP_WATCH && stop != ENGINE_STOP_CATCH)
        return;
    r->debug.stop.reason = stop == ENGINE_STOP_WATCH ? RECORDER_STOP_WATCH : RECORDER_STOP_CATCH;
    r->debug.stop.hit = *r->engine->ops->hit(r->engine);
}

static int run_vcpu(struct recorder *r, struct error *err)
{
    r->window_priority = instruction_comes_first(r) ? 0 : machine_interrupt_priority(r->machine);
    struct engine_request request = {.limit = next_limit(r),
                                     .want_window = r->window_priority > 0,
                                     .window_priority = (uint8_t)r->window_priority};
    record_host_arm(r->host, next_deadline(r));
    int stop = r->engine->ops->run(r->engine, &request, err);
    if (stop == ENGINE_STOP_BOUNDARY && !r->failed && r->debug.request && r->debug.request->points) {
        request.limit =
            count(r); /* the transition that crossed the boundary may have hit something as well */
        stop = r->engine->ops->run(r->engine, &request, err);
    }
    if (r->failed) {
        *err = r->error;
        return r->error.code;
    }
    if (stop < 0)
        return stop;
    take_end_of_machine(r);
    if (stop ==
        ENGINE_STOP_SHUTDOWN) /* even where something else ends the run: there is no state to describe */
        r->ending = (struct record_ending){true, TRACE_END_SHUTDOWN, 0};
    if (stop == ENGINE_STOP_HALT) {
        r->halted = true;
        if (!(r->engine->ops->state(r->engine)->rflags & RFLAGS_IF))
            end_run(r, TRACE_END_HALTED, 0);
    }
    take_hit(r, stop);
    if (r->options.max_steps && count(r) >= r->options.max_steps)
        end_run(r, TRACE_END_MAX_STEPS, 0);
    return 0;
}

/*
 * A guest that hangs with interrupts off shows it by nothing but the interrupt that it does not take. One that has never taken any is
 * still starting: decompressing a kernel may take longer.
 */
static void watch_for_hang(struct recorder *r, bool waits)
{
    uint64_t now = machine_clock_ns(r->machine);
    if (!waits || r->interrupts == 0)
        r->masked_since_ns = UINT64_MAX;
    else if (r->masked_since_ns == UINT64_MAX)
        r->masked_since_ns = now;
    else if (now > r->masked_since_ns && now - r->masked_since_ns >= HUNG_NS) {
        record_crash(r, "hung: for 10 s the guest has taken no interrupt, though one waits");
        r->masked_since_ns = now;
    }
}

static int compare_address(const void *a, const void *b)
{
    gva_t x = *(const gva_t *)a, y = *(const gva_t *)b;
    return (x > y) - (x < y);
}

/* The vCPU stands at a break address, and its next transition is the instruction there. */
static bool at_break(const struct recorder *r)
{
    const struct recorder_request *q = r->debug.request;
    if (!q || !q->points || !q->points->break_count || r->is_kvm ||
        (count(r) == r->debug.start && !q->break_at_start))
        return false;
    const struct vcpu_state *s = r->engine->ops->state(r->engine);
    if (s->activity != ACTIVITY_RUNNING || (s->pending_debug && s->shadow != SHADOW_MOV_SS))
        return false;
    gva_t linear = vcpu_in_64bit_code(s) ? s->rip : (uint32_t)(s->rip + s->seg[SEG_CS].base);
    return bsearch(&linear, q->points->breaks, q->points->break_count, sizeof(linear), compare_address) !=
           NULL;
}

/* Is there something to stop at, here? */
static bool stop_reached(struct recorder *r)
{
    struct record_debug *d = &r->debug;
    if (d->stop.reason == RECORDER_STOP_NONE && !r->is_kvm && count(r) >= d->limit)
        d->stop.reason = RECORDER_STOP_STEPS;
    return d->stop.reason != RECORDER_STOP_NONE;
}

static void sleep_while_halted(struct recorder *r)
{
    if (r->clock.is_virtual && machine_next_deadline_ns(r->machine) != UINT64_MAX)
        return; /* it is there already */
    uint64_t start = record_host_now_ns(r->host);
    record_host_sleep(r->host, next_deadline(r));
    r->time_halted_ns += record_host_now_ns(r->host) - start;
}

/* One turn: devices, then an interrupt if one can be delivered, then the vCPU (or sleep while it is halted). */
static int turn(struct recorder *r, struct error *err)
{
    int status = service(r, err);
    if (status < 0 || r->ending.ended || stop_reached(r))
        return status;
    bool pending = machine_interrupt_pending(r->machine) && !instruction_comes_first(r);
    bool takes = pending && r->engine->ops->can_interrupt(r->engine);
    watch_for_hang(r, pending && !takes);
    if (takes) {
        status = record_interrupt(r, err);
    } else if (r->halted) {
        sleep_while_halted(r);
        return 0;
    } else if (at_break(r)) {
        r->debug.stop.reason = RECORDER_STOP_BREAK;
        return 0;
    } else if (record_digest_due(r) && can_name_place(r)) {
        status = record_digest(r, err);
    }
    return status < 0 ? status : run_vcpu(r, err);
}

/*
 * Under KVM an injected event may still be on its way into the guest when the run is to end: let the guest run on in
 * short slices until the vCPU stands at a boundary that can be named.
 */
static int settle(struct recorder *r, struct error *err)
{
    for (unsigned i = 0; i < 1000 && r->ending.end != TRACE_END_SHUTDOWN; i++) {
        if (can_name_place(r))
            return 0;
        machine_set_clock_ns(r->machine, record_guest_clock_ns(r));
        record_host_arm(r->host, record_host_now_ns(r->host) + WORK_RETRY_NS);
        int status = run_vcpu(r, err);
        if (status < 0)
            return status;
    }
    return 0;
}

static bool is_interrupted(struct recorder *r)
{
    struct record_debug *d = &r->debug;
    uint64_t now = record_host_now_ns(r->host);
    if (!d->request->interrupted || now - d->last_poll_ns < POLL_NS)
        return false;
    d->last_poll_ns = now;
    return d->request->interrupted(d->request->context);
}

static int run_on(struct recorder *r, struct error *err)
{
    int status = 0;
    while (status == 0 && !r->ending.ended && !stop_reached(r)) {
        status = turn(r, err);
        if (status == 0 && is_interrupted(r) && r->debug.stop.reason == RECORDER_STOP_NONE)
            r->debug.stop.reason = RECORDER_STOP_INTERRUPTED;
    }
    if (status == 0)
        status = settle(r, err);
    /* A landmark that is made here says how long ago the last event was. */
    machine_set_clock_ns(r->machine, record_guest_clock_ns(r));
    return status;
}

/* In the engine that can do what is asked for. */
static int begin(struct recorder *r, const struct recorder_request *request, struct error *err)
{
    struct record_debug *d = &r->debug;
    bool counts = request->points || request->want_event || request->steps;
    int status = counts ? record_move_to_emulator(r, err) : record_move_to_kvm(r, err);
    if (status < 0)
        return status;
    *d = (struct record_debug){.request = request,
                               .start = count(r),
                               .limit = POSITION_UNKNOWN,
                               .last_poll_ns = record_host_now_ns(r->host)};
    if (request->steps && __builtin_add_overflow(d->start, request->steps, &d->limit))
        d->limit = POSITION_UNKNOWN;
    if (r->engine->ops->set_points)
        r->engine->ops->set_points(r->engine, request->points);
    return 0;
}

int recorder_resume(struct recorder *r, const struct recorder_request *request, struct recorder_stop *stop,
                    struct error *err)
{
    *stop = (struct recorder_stop){.reason = RECORDER_STOP_END};
    if (r->ending.ended)
        return 0;
    record_host_continue(r->host);
    int status = begin(r, request, err);
    bool begun = status == 0;
    if (begun)
        status = run_on(r, err);
    if (r->engine->ops->set_points)
        r->engine->ops->set_points(r->engine, NULL);
    record_host_pause(r->host);
    if (status < 0 && (begun || r->failed)) {
        r->run_error = *err;
        r->run_error.code = status;
        r->ending = (struct record_ending){true, TRACE_END_ERROR, 0};
    }
    if (!r->ending.ended)
        *stop = begun ? r->debug.stop : (struct recorder_stop){.reason = RECORDER_STOP_NONE};
    stop->steps = begun && !r->is_kvm ? count(r) - r->debug.start : 0;
    r->debug = (struct record_debug){.limit = POSITION_UNKNOWN};
    return status;
}

int recorder_sync(struct recorder *r, struct error *err)
{
    if (!r->ending.ended && !can_name_place(r))
        return error_set(err, -EAGAIN, "the vCPU stands in the middle of something: let it go on a little");
    int status = r->ending.ended ? 0 : record_digest(r, err);
    return status < 0 ? status : trace_writer_flush(r->writer, err);
}
