#include "replay/timeline.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "core/x86/emu.h"
#include "replay/timeline_internal.h"

#define DEFAULT_BUDGET_BYTES ((uint64_t)1 << 30)

/* Until something was measured. */
#define FIRST_NS_PER_STEP 20.0
#define FIRST_NS_PER_LOAD 20e6

static void give_console(void *context, unsigned channel, const uint8_t *data, size_t length)
{
    const struct timeline *t = context;
    if (t->give_console && t->options.console)
        t->options.console(t->options.context, channel, data, length);
}

static void tell_engine(void *context, uint64_t offset, size_t length)
{
    struct timeline *t = context;
    emu_ram_changed(t->replay->engine, offset, length);
}

static int open_replay(struct timeline *t, const char *path, struct error *err)
{
    struct replay_hooks hooks = {.console = give_console, .context = t};
    int status = t->options.growing ? 0 : replay_seal(path, NULL, NULL, err);
    if (status == 0)
        status = replay_open(&t->replay, path, &hooks, err);
    if (status < 0)
        return status;
    const struct trace_info *info = trace_reader_info(replay_reader(t->replay));
    t->end = t->options.growing ? 0 : info->seal.end_position;
    status = checkpoints_create(&t->checkpoints, t->replay->ram, &t->replay->tracker,
                                t->options.memory_budget_bytes, tell_engine, t, err);
    struct replay_place place;
    replay_save_place(t->replay, &place);
    return status < 0 ? status : checkpoints_at_keyframe(t->checkpoints, &place, 0, err);
}

int timeline_open(struct timeline **out, const char *path, const struct timeline_options *options,
                  struct error *err)
{
    *out = NULL;
    struct timeline *t = calloc(1, sizeof(*t));
    if (!t)
        return error_set(err, -ENOMEM, "out of memory");
    if (options)
        t->options = *options;
    if (!t->options.memory_budget_bytes)
        t->options.memory_budget_bytes = DEFAULT_BUDGET_BYTES;
    t->ns_per_step = FIRST_NS_PER_STEP;
    t->ns_per_load = FIRST_NS_PER_LOAD;
    int status = open_replay(t, path, err);
    if (status < 0) {
        timeline_close(t);
        return status;
    }
    *out = t;
    return 0;
}

void timeline_close(struct timeline *t)
{
    if (!t)
        return;
    timeline_hits_free(&t->hits);
    checkpoints_destroy(t->checkpoints);
    replay_close(t->replay);
    free(t);
}

position_t timeline_position(const struct timeline *t)
{
    return replay_position(t->replay);
}

position_t timeline_end(const struct timeline *t)
{
    return t->end;
}

struct replay *timeline_replay(struct timeline *t)
{
    return t->replay;
}

int timeline_goto(struct timeline *t, position_t position, const struct timeline_interrupt *interrupt,
                  struct error *err)
{
    position_t start = replay_position(t->replay);
    if (position > t->end)
        return error_set(err, -ERANGE, "position %" PRIu64 " is beyond the end of the trace, %" PRIu64,
                         position, t->end);
    int status = timeline_travel(t, position, interrupt, err);
    if (status != -EINTR)
        return status;
    status = timeline_travel(t, start, NULL, err);
    return status < 0 ? status
                      : error_set(err, -EINTR, "interrupted on the way to position %" PRIu64, position);
}

int timeline_extend(struct timeline *t, const struct timeline_interrupt *interrupt, struct error *err)
{
    struct replay_stop stop;
    if (!t->options.growing)
        return error_set(err, -EINVAL, "the trace is complete");
    int status = timeline_travel(t, t->end, NULL, err);
    if (status == 0)
        status = replay_refresh(t->replay, err);
    if (status == 0)
        status = timeline_run(t, POSITION_UNKNOWN, SPACING_EVEN, interrupt, &stop, err);
    if (status < 0 && status != -EINTR)
        return status;
    t->end = replay_position(t->replay);
    /* What belongs to the end itself has been done: back to before it, as everywhere. */
    int back = timeline_travel(t, t->end, NULL, err);
    return back < 0 ? back : status;
}

void timeline_statistics(const struct timeline *t, struct timeline_statistics *out)
{
    *out = (struct timeline_statistics){.checkpoints = t->checkpoints->count,
                                        .checkpoint_bytes = checkpoints_bytes(t->checkpoints),
                                        .restores = t->checkpoints->restores,
                                        .keyframe_loads = t->keyframe_loads,
                                        .steps_executed = t->steps_executed};
}
