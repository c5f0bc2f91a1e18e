#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "core/x86/emu.h"
#include "replay/internal.h"

/*
 * How far apart keyframes are. A page in one costs about 10 us of CPU time (copying, hashing and compressing it), a step about 2 ns: so
 * keyframes are a tenth of sealing at most. The more pages, the later the next keyframe. Counted in steps, so that sealing gives the
 * same bytes each time.
 */
#define KEYFRAME_STEPS_MIN      32000000u
#define KEYFRAME_STEPS_PER_PAGE 50000u
#define KEYFRAME_STEPS_MAX      1000000000u

static position_t steps_to_next_keyframe(size_t pages)
{
    uint64_t steps = (uint64_t)pages * KEYFRAME_STEPS_PER_PAGE;
    if (steps < KEYFRAME_STEPS_MIN)
        return KEYFRAME_STEPS_MIN;
    return steps < KEYFRAME_STEPS_MAX ? steps : KEYFRAME_STEPS_MAX;
}

/* A page of the keyframe goes straight to its place in RAM. */
static uint8_t *place_frame(void *context, gfn_t gfn)
{
    struct replay *r = context;
    uint8_t *bytes = ram_frame(r->ram, gfn);
    if (bytes)
        ram_mark_dirty(r->ram, (uint64_t)(bytes - r->ram->host) >> PAGE_SHIFT);
    return bytes;
}

static int restore_ram(struct replay *r, uint64_t index, struct buffer *state, struct error *err)
{
    int status = ram_reset(r->ram, err);
    if (status == 0)
        status = ram_tracker_reset(&r->tracker, err);
    if (status == 0)
        status = trace_reader_load_keyframe(r->reader, index, state, place_frame, r, err);
    if (status < 0)
        return status;
    ram_tracker_update(&r->tracker);
    ram_tracker_clear_changed(&r->tracker);
    emu_ram_reset(r->engine);
    return 0;
}

static int restore_stream(struct replay *r, const struct trace_keyframe_info *info, struct error *err)
{
    trace_cursor_close(r->cursor);
    r->cursor = NULL;
    int status = trace_cursor_open(&r->cursor, r->reader, info->events_before, err);
    if (status < 0)
        return status;
    r->totals = (struct replay_totals){.position = info->position,
                                       .events = info->events_before,
                                       .console_bytes = info->console_bytes_before};
    r->last_event_position = info->position;
    r->done_here = POSITION_UNKNOWN;
    r->history_count = 0;
    r->ran_out = r->failed = false;
    return replay_fetch(r, err);
}

int replay_load_keyframe(struct replay *r, uint64_t index, struct error *err)
{
    struct trace_keyframe_info info;
    struct buffer bytes = {0};
    struct vcpu_state state;
    int status = trace_reader_keyframe_info(r->reader, index, &info, err);
    if (status == 0)
        status = restore_ram(r, index, &bytes, err);
    if (status == 0)
        status = vcpu_state_decode(&state, bytes.data, bytes.length, err);
    buffer_free(&bytes);
    if (status == 0 && !hash128_equal(r->tracker.digest, info.ram_digest))
        status = error_set_kind(err, ERROR_DAMAGED, -EINVAL,
                                "keyframe %" PRIu64 " at position %" PRIu64
                                ": its pages do not have its RAM digest",
                                index, info.position);
    if (status == 0)
        status = r->engine->ops->set_state(r->engine, &state, err);
    if (status < 0)
        return status;
    r->engine->ops->set_position(r->engine, info.position);
    return restore_stream(r, &info, err);
}

void replay_save_place(struct replay *r, struct replay_place *place)
{
    const struct replay_totals *t = &r->totals;
    *place = (struct replay_place){.position = replay_position(r),
                                   .events = t->events,
                                   .interrupts = t->interrupts,
                                   .digests_checked = t->digests_checked,
                                   .outputs_checked = t->outputs_checked,
                                   .console_bytes = t->console_bytes,
                                   .last_event_position = r->last_event_position,
                                   .state = *r->engine->ops->state(r->engine)};
}

int replay_restore_place(struct replay *r, const struct replay_place *place, struct error *err)
{
    int status = r->engine->ops->set_state(r->engine, &place->state, err);
    if (status == 0)
        status = trace_cursor_seek(r->cursor, place->events, err);
    if (status < 0)
        return status;
    r->engine->ops->set_position(r->engine, place->position);
    r->totals = (struct replay_totals){.position = place->position,
                                       .events = place->events,
                                       .interrupts = place->interrupts,
                                       .digests_checked = place->digests_checked,
                                       .outputs_checked = place->outputs_checked,
                                       .console_bytes = place->console_bytes};
    r->last_event_position = place->last_event_position;
    r->done_here = POSITION_UNKNOWN;
    r->history_count = 0;
    r->ran_out = r->failed = false;
    return replay_fetch(r, err);
}

static const uint8_t *frame_of_ram(void *context, gfn_t gfn)
{
    return ram_frame(context, gfn);
}

int replay_write_keyframe(struct replay *r, struct error *err)
{
    int status = r->engine->ops->collect_dirty(r->engine, err);
    if (status < 0)
        return status;
    ram_tracker_update(&r->tracker);
    ram_tracker_sort_changed(&r->tracker);
    size_t count = r->tracker.changed_count;
    gfn_t *frames = malloc((count + 1) * sizeof(*frames));
    struct buffer state = {0};
    vcpu_state_encode(r->engine->ops->state(r->engine), &state);
    if (!frames || state.failed) {
        free(frames);
        buffer_free(&state);
        return error_set(err, -ENOMEM, "out of memory for a keyframe of %zu pages", count);
    }
    for (size_t i = 0; i < count; i++)
        frames[i] = ram_gfn_of_page(r->ram, r->tracker.changed[i]);
    struct trace_keyframe_input keyframe = {.position = replay_position(r),
                                            .events_before = r->totals.events,
                                            .console_bytes_before = r->totals.console_bytes,
                                            .state = state.data,
                                            .state_length = state.length,
                                            .ram_digest = r->tracker.digest,
                                            .changed = frames,
                                            .changed_count = count,
                                            .page = frame_of_ram,
                                            .context = r->ram};
    status = trace_writer_keyframe(r->seal, &keyframe, err);
    ram_tracker_clear_changed(&r->tracker);
    free(frames);
    buffer_free(&state);
    r->next_keyframe = replay_position(r) + steps_to_next_keyframe(count);
    return status;
}

int replay_seek(struct replay *r, position_t position, struct error *err)
{
    const struct trace_info *info = trace_reader_info(r->reader);
    if (info->sealed && position > info->seal.end_position)
        return error_set(err, -ERANGE, "position %" PRIu64 " is beyond the end of the trace, %" PRIu64,
                         position, info->seal.end_position);
    struct trace_keyframe_info keyframe;
    int status = trace_reader_find_keyframe(r->reader, position, &keyframe, err);
    if (status < 0)
        return status;
    position_t now = replay_position(r);
    if (now > position || keyframe.position > now)
        status = replay_load_keyframe(r, keyframe.index, err);
    if (status == 0)
        status = replay_run(r, position, err);
    if (status == 0 && replay_position(r) < position)
        return error_set(err, -ERANGE, "position %" PRIu64 " is beyond the end of the trace, %" PRIu64,
                         position, replay_position(r));
    return status;
}
