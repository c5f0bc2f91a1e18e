#include "replay/replay.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

#include "core/x86/emu.h"
#include "replay/internal.h"

static int create_ram(struct replay *r, struct error *err)
{
    const struct trace_meta *meta = &trace_reader_info(r->reader)->meta;
    if (meta->ram_bytes < RAM_MIN_BYTES || meta->ram_bytes > RAM_MAX_BYTES ||
        meta->ram_bytes % PAGE_SIZE_BYTES)
        return error_set_kind(err, ERROR_DAMAGED, -EINVAL,
                              "the trace has %" PRIu64 " bytes of RAM, which is not possible",
                              meta->ram_bytes);
    int status = ram_create(&r->ram, meta->ram_bytes, err);
    if (status < 0)
        return status;
    if (r->ram->low_bytes != meta->ram_low_bytes)
        return error_set_kind(err, ERROR_DAMAGED, -EINVAL,
                              "the trace has %" PRIu64 " bytes of RAM below 4 GiB; it should be %" PRIu64,
                              meta->ram_low_bytes, r->ram->low_bytes);
    return ram_tracker_create(&r->tracker, r->ram, err);
}

static int create_cpu(struct replay *r, struct error *err)
{
    struct buffer cpuid = {0};
    int status = trace_reader_cpuid(r->reader, &cpuid, err);
    if (status == 0)
        status = cpu_model_decode(&r->model, cpuid.data, cpuid.length, err);
    buffer_free(&cpuid);
    if (status == 0)
        status = cpu_model_check_host(&r->model, err);
    return status < 0 ? status : emu_create(&r->engine, r->ram, &r->boundary, &r->model, err);
}

static int load_symbols(struct replay *r, struct error *err)
{
    struct buffer image = {0};
    int status = trace_reader_image(r->reader, &image, err);
    if (status == 0)
        status = symbols_create(&r->symbols, image.data, image.length, err);
    buffer_free(&image);
    return status;
}

int replay_open(struct replay **out, const char *path, const struct replay_hooks *hooks, struct error *err)
{
    struct replay *r = calloc(1, sizeof(*r));
    if (!r)
        return error_set(err, -ENOMEM, "out of memory");
    r->boundary.ops = &replay_boundary_ops;
    if (hooks)
        r->hooks = *hooks;
    int status = trace_reader_open(&r->reader, path, err);
    if (status == 0)
        status = create_ram(r, err);
    if (status == 0)
        status = create_cpu(r, err);
    if (status == 0)
        status = replay_load_keyframe(r, 0, err);
    if (status < 0) {
        replay_close(r);
        return status;
    }
    *out = r;
    return 0;
}

void replay_close(struct replay *r)
{
    if (!r)
        return;
    trace_cursor_close(r->cursor);
    if (r->engine)
        r->engine->ops->destroy(r->engine);
    symbols_destroy(r->symbols);
    ram_tracker_destroy(&r->tracker);
    ram_destroy(r->ram);
    trace_reader_close(r->reader);
    free(r);
}

void replay_start_profile(struct replay *r)
{
    r->profiles = true;
    emu_start_profile(r->engine);
}

const struct replay_profile *replay_profile(const struct replay *r)
{
    return r->profiles ? &r->profile : NULL;
}

void replay_set_stages(struct replay *r, enum emu_stages stages)
{
    emu_set_stages(r->engine, stages);
}

int replay_jitdump(struct replay *r, const char *folder, struct error *err)
{
    return emu_jitdump(r->engine, folder, err);
}

const struct engine *replay_engine(const struct replay *r)
{
    return r->engine;
}

uint64_t replay_profile_now_ns(const struct replay *r)
{
    struct timespec t;
    if (!r->profiles)
        return 0;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

const struct vcpu_state *replay_state(struct replay *r)
{
    return r->engine->ops->state(r->engine);
}

const struct guest_ram *replay_ram(const struct replay *r)
{
    return r->ram;
}

int replay_ram_digest(struct replay *r, struct hash128 *out, struct error *err)
{
    int status = r->engine->ops->collect_dirty(r->engine, err);
    if (status < 0)
        return status;
    ram_tracker_update(&r->tracker);
    *out = r->tracker.digest;
    return 0;
}

position_t replay_position(const struct replay *r)
{
    return r->engine->ops->position(r->engine);
}

const struct replay_totals *replay_totals(const struct replay *r)
{
    return &r->totals;
}

struct trace_reader *replay_reader(struct replay *r)
{
    return r->reader;
}

int replay_refresh(struct replay *r, struct error *err)
{
    r->note_positions = !trace_reader_info(r->reader)->meta.positions;
    int status = trace_reader_refresh(r->reader, err);
    if (status < 0 || r->have_next || r->totals.events == trace_reader_info(r->reader)->events)
        return status;
    r->totals.at_end = r->ran_out = false;
    return replay_fetch(r, err);
}

const struct symbols *replay_symbols(struct replay *r)
{
    struct error ignored;
    if (!r->symbols_wanted && load_symbols(r, &ignored) < 0)
        r->symbols = NULL;
    r->symbols_wanted = true;
    return r->symbols;
}
