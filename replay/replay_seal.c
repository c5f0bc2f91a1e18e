#include <errno.h>

#include "replay/internal.h"

#define FIRST_KEYFRAME_STEPS 1000000u

static int finish(struct replay *r, struct trace_writer *seal, struct error *err)
{
    struct hash128 ram;
    int status = replay_ram_digest(r, &ram, err);
    if (status < 0)
        return status;
    struct trace_seal_summary summary = {.end_position = replay_position(r),
                                         .events = r->totals.events,
                                         .interrupts = r->totals.interrupts,
                                         .console_bytes = r->totals.console_bytes,
                                         .end_ram_digest = ram,
                                         .end_state_hash = vcpu_state_digest(replay_state(r))};
    return trace_seal_finish(seal, &summary, err);
}

static bool is_sealed(const char *path, struct error *err, int *status)
{
    struct trace_reader *reader;
    *status = trace_reader_open(&reader, path, err);
    if (*status < 0)
        return false;
    bool sealed = trace_reader_info(reader)->sealed;
    trace_reader_close(reader);
    return sealed;
}

int replay_seal(const char *path, const struct replay_hooks *hooks, struct replay_totals *totals,
                struct error *err)
{
    int status;
    if (is_sealed(path, err, &status) || status < 0)
        return status;
    struct trace_writer *seal;
    status = trace_seal_open(&seal, path, err);
    if (status < 0)
        return status;
    struct replay *r;
    status = replay_open(&r, path, hooks, err);
    if (status < 0) {
        trace_writer_destroy(seal);
        return status;
    }
    r->seal = seal;
    r->next_keyframe = FIRST_KEYFRAME_STEPS;
    status = replay_run(r, POSITION_UNKNOWN, err);
    if (totals)
        *totals = r->totals;
    if (status == 0)
        status = finish(r, seal, err); /* frees seal */
    else
        trace_writer_destroy(seal);
    replay_close(r);
    return status;
}
