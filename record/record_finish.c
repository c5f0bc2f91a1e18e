/* The end of a recording: the last events, and the report. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "record/internal.h"

static void copy_unclaimed(struct unclaimed *to, size_t room, size_t *count, const struct unclaimed *from,
                           size_t n)
{
    *count = n < room ? n : room;
    memcpy(to, from, *count * sizeof(*to));
}

static void fill_result(struct recorder *r, struct record_result *result)
{
    result->engine = r->kvm ? r->kvm->ops->name : r->engine->ops->name;
    snprintf(result->engine_reason, sizeof(result->engine_reason), "%s", r->engine_reason);
    result->end = r->ending.end;
    result->status = r->ending.status;
    result->elapsed_ns = record_host_now_ns(r->host);
    result->position = r->positions ? r->engine->ops->position(r->engine) : POSITION_UNKNOWN;
    result->interrupts = r->interrupts;
    result->time_in_devices_ns = r->time_in_devices_ns;
    result->time_halted_ns = r->time_halted_ns;
    result->have_kvm = r->kvm != NULL;
    if (r->kvm)
        result->kvm = *kvm_engine_statistics(r->kvm);
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

/* The last events. Where the engine failed, and the trace did not, they say why. */
static int write_end(struct recorder *r, struct record_result *result, struct error *err)
{
    if (r->run_error.code == 0)
        return record_end(r, r->ending.end, r->ending.status, "", err);
    *err = r->run_error;
    if (r->failed)
        return r->run_error.code;
    struct error ignored;
    r->ending = (struct record_ending){true, TRACE_END_ERROR, 0};
    snprintf(result->message, sizeof(result->message), "%.500s", r->run_error.message);
    if (record_end(r, TRACE_END_ERROR, 0, result->message, &ignored) < 0)
        r->failed = true;
    return r->run_error.code;
}

int recorder_finish(struct recorder *r, struct record_result *result, struct error *err)
{
    memset(result, 0, sizeof(*result));
    if (!r->ending.ended)
        r->ending = (struct record_ending){true, TRACE_END_STOPPED, 0};
    int status = write_end(r, result, err);
    fill_result(r, result);
    result->events = trace_writer_event_count(r->writer);
    result->trace_bytes = trace_writer_bytes(r->writer);
    struct error finish_error;
    int finished = trace_writer_finish(r->writer, &finish_error);
    r->writer = NULL;
    if (status == 0 && finished < 0) {
        *err = finish_error;
        status = finished;
    }
    return status;
}

int recorder_run(struct recorder *r, struct record_result *result, struct error *err)
{
    const struct recorder_request to_the_end = {0};
    struct recorder_stop stop;
    struct error ignored; /* recorder_finish tells it */
    (void)!recorder_resume(r, &to_the_end, &stop, &ignored);
    return recorder_finish(r, result, err);
}
