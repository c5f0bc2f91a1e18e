#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/x86/emu.h"
#include "replay/internal.h"

/* ---- the stream ---- */

static void remember(struct replay *r, const struct event *event, position_t position)
{
    r->history[r->history_count % REPLAY_HISTORY] = (struct past_event){.type = event->type,
                                                                        .position = position,
                                                                        .address = event->address,
                                                                        .value = event->value,
                                                                        .vector = event->vector};
    r->history_count++;
}

static int note_position(struct replay *r, position_t position, struct error *err)
{
    uint64_t index = r->totals.events++;
    r->last_event_position = position;
    if (r->note_positions)
        return trace_reader_note_position(r->reader, index, position, err);
    return r->seal ? trace_seal_position(r->seal, position, err) : 0;
}

/* Counted from the event before, which is the last one that was done. */
static int place_by_steps(struct replay *r, struct error *err)
{
    struct event *e = &r->next;
    if (e->place != PLACE_STEPS || e->position != POSITION_UNKNOWN)
        return 0;
    if (__builtin_add_overflow(r->last_event_position, e->steps, &e->position) ||
        e->position == POSITION_UNKNOWN)
        return error_set_kind(err, ERROR_DAMAGED, -EBADMSG,
                              "event %" PRIu64 " is placed %" PRIu64 " steps after position %" PRIu64,
                              r->totals.events, e->steps, r->last_event_position);
    return 0;
}

static bool is_annotation(const struct event *event)
{
    return event->type == EVENT_CONSOLE || event->type == EVENT_MARK;
}

static void give_annotation(struct replay *r)
{
    if (r->next.type != EVENT_CONSOLE)
        return;
    r->totals.console_bytes += r->next.data_length;
    /* A run that stops at this event goes back to before it. */
    bool stops = r->points && r->points->is_wanted;
    if (r->hooks.console && !stops)
        r->hooks.console(r->hooks.context, r->next.source, r->next.data, r->next.data_length);
}

static int read_event(struct replay *r, struct error *err)
{
    uint64_t start = replay_profile_now_ns(r);
    int n = trace_cursor_next(r->cursor, &r->next, err);
    r->profile.reading_ns += replay_profile_now_ns(r) - start;
    return n;
}

int replay_fetch(struct replay *r, struct error *err)
{
    for (;;) {
        int n = read_event(r, err);
        if (n < 0)
            return n;
        r->have_next = n == 1;
        if (!r->have_next)
            return 0;
        int status = place_by_steps(r, err);
        if (status < 0)
            return status;
        points_ask(r);
        if (!is_annotation(&r->next)) {
            landmark_prepare(r);
            return 0;
        }
        give_annotation(r);
        status = note_position(r, r->last_event_position, err);
        if (status < 0)
            return status;
    }
}

int replay_consume(struct replay *r, position_t position, struct error *err)
{
    remember(r, &r->next, position);
    int status = note_position(r, position, err);
    return status < 0 ? status : replay_fetch(r, err);
}

/* ---- applying events that the guest does not make itself ---- */

/* RFLAGS.RF in the saved flags of an interrupt is the recording CPU's choice (SDM 3, 18.3.1.1). */
static int take_resume_flag(struct replay *r, struct error *err)
{
    const struct vcpu_state *now = r->engine->ops->state(r->engine);
    if (r->next.flag == ((now->rflags & RFLAGS_RF) != 0))
        return 0;
    struct vcpu_state state = *now;
    state.rflags ^= RFLAGS_RF;
    return r->engine->ops->set_state(r->engine, &state, err);
}

/* What a delivery came to: it may have crossed the boundary (an IDT or stack in MMIO space) and not found the trace agreeing. */
static int delivered(struct replay *r, int status, struct error *err)
{
    if (r->ran_out)
        return 0;
    if (status < 0 && r->failed) {
        *err = r->error;
        return r->error.code;
    }
    return status;
}

static int apply_interrupt(struct replay *r, struct error *err)
{
    if (!r->engine->ops->can_interrupt(r->engine))
        return replay_diverged(
            r, err, "the recording delivers interrupt vector 0x%x here, but the vCPU cannot take it",
            r->next.vector);
    int status = take_resume_flag(r, err);
    if (status < 0)
        return status;
    uint8_t vector = r->next.vector;
    position_t position = replay_position(r);
    r->totals.interrupts++;
    /* The event first: what delivering crosses the boundary for comes after it in the trace. */
    status = replay_consume(r, position, err);
    return status < 0 ? status : delivered(r, r->engine->ops->interrupt(r->engine, vector, err), err);
}

static int apply_nmi(struct replay *r, struct error *err)
{
    int status = take_resume_flag(r, err);
    if (status < 0)
        return status;
    status = replay_consume(r, replay_position(r), err);
    return status < 0 ? status : delivered(r, r->engine->ops->nmi(r->engine, err), err);
}

static int apply_dma(struct replay *r, struct error *err)
{
    const struct event *e = &r->next;
    position_t position = replay_position(r);
    points_note_dma(r, e);
    if (ram_write(r->ram, e->address, e->data, e->data_length) < 0)
        return error_set_kind(err, ERROR_DAMAGED, -EINVAL,
                              "the trace writes %zu bytes at guest physical 0x%" PRIx64
                              ", where there is no RAM",
                              e->data_length, e->address);
    emu_ram_changed(r->engine, ram_offset(r->ram, e->address), e->data_length);
    r->engine->ops->set_position(r->engine, position + 1);
    return replay_consume(r, position, err);
}

/* The registers that differ from those stored with the digest, one per line, indented. */
static void describe_difference(struct replay *r, const struct event *digest, char *out, size_t size)
{
    struct vcpu_state recorded;
    char lines[1024];
    size_t used = 0;
    out[0] = '\0';
    if (vcpu_state_decode(&recorded, digest->data, digest->data_length, NULL) < 0)
        return;
    struct vcpu_state now = *r->engine->ops->state(r->engine);
    vcpu_state_without_hidden(&recorded);
    vcpu_state_without_hidden(&now);
    vcpu_state_diff(&recorded, &now, lines, sizeof(lines));
    for (char *line = lines, *end; (end = strchr(line, '\n')) && used < size; line = end + 1)
        used += (size_t)snprintf(out + used, size - used, "\n    %.*s", (int)(end - line), line);
}

/* RAM's digest now, with its time taken. */
static int take_digest(struct replay *r, struct hash128 *ram, struct error *err)
{
    uint64_t start = replay_profile_now_ns(r);
    r->profile.page_count += r->ram->dirty_count;
    r->profile.digests++;
    int status = replay_ram_digest(r, ram, err);
    r->profile.digest_ns += replay_profile_now_ns(r) - start;
    return status;
}

static int apply_digest(struct replay *r, struct error *err)
{
    struct hash128 ram;
    int status = take_digest(r, &ram, err);
    if (status < 0)
        return status;
    uint64_t registers = vcpu_state_digest(r->engine->ops->state(r->engine));
    bool ram_equal = hash128_equal(ram, r->next.digest), registers_equal = registers == r->next.value;
    if (!registers_equal) {
        char difference[1200];
        describe_difference(r, &r->next, difference, sizeof(difference));
        return replay_diverged(r, err, "the registers%s differ from the recording's (recorded / replayed):%s",
                               ram_equal ? "" : " and RAM", difference);
    }
    if (!ram_equal)
        return replay_diverged(
            r, err, "the contents of RAM differ from the recording's; %" PRIu64 " digests before agreed",
            r->totals.digests_checked);
    r->totals.digests_checked++;
    r->done_here = replay_position(r);
    return replay_consume(r, replay_position(r), err);
}

static int apply_end(struct replay *r, struct error *err)
{
    struct replay_totals *t = &r->totals;
    t->at_end = true;
    t->end = (enum trace_end)r->next.source;
    t->status = (uint32_t)r->next.value;
    size_t n =
        r->next.data_length < sizeof(t->end_message) ? r->next.data_length : sizeof(t->end_message) - 1;
    if (n)
        memcpy(t->end_message, r->next.data, n);
    t->end_message[n] = '\0';
    return note_position(r, replay_position(r), err);
}

static int apply_one(struct replay *r, struct error *err)
{
    landmark_apply_entries(r);
    switch (r->next.type) {
    case EVENT_INTERRUPT:
        return apply_interrupt(r, err);
    case EVENT_NMI:
        return apply_nmi(r, err);
    case EVENT_DMA:
        return apply_dma(r, err);
    case EVENT_DIGEST:
        return apply_digest(r, err);
    case EVENT_END:
        return apply_end(r, err);
    default:
        return error_set_kind(err, ERROR_DAMAGED, -EINVAL,
                              "the trace places an event of type %s outside a crossing",
                              event_type_name(r->next.type));
    }
}

static int apply(struct replay *r, struct error *err)
{
    bool delivers = r->next.type == EVENT_INTERRUPT || r->next.type == EVENT_NMI;
    bool profiled = delivers || r->next.type == EVENT_DMA;
    uint64_t start = replay_profile_now_ns(r), reading = r->profile.reading_ns;
    int status = apply_one(r, err);
    if (profiled) {
        r->profile.deliveries++;
        r->profile.delivery_ns += replay_profile_now_ns(r) - start - (r->profile.reading_ns - reading);
    }
    return status == 0 && delivers ? points_poll(r, err) : status;
}

/* ---- the run ---- */

static bool comes_by_itself(const struct event *event)
{
    return event->place == PLACE_CROSSING;
}

static bool is_due(const struct replay *r, bool matched)
{
    const struct event *e = &r->next;
    if (comes_by_itself(e))
        return false;
    if (e->position != POSITION_UNKNOWN)
        return e->position == replay_position(r);
    return e->place == PLACE_AFTER || e->place == PLACE_PREVIOUS || (e->place == PLACE_LANDMARK && matched);
}

bool replay_event_is_due(const struct replay *r)
{
    return r->have_next && is_due(r, false);
}

static bool is_overdue(const struct replay *r)
{
    const struct event *e = &r->next;
    return e->position != POSITION_UNKNOWN && e->position < replay_position(r);
}

static position_t limit_of(const struct replay *r, position_t target)
{
    position_t limit = target, now = replay_position(r);
    const struct event *e = &r->next;
    if (e->position != POSITION_UNKNOWN) {
        position_t stop = comes_by_itself(e) ? e->position + 1 : e->position;
        if (stop < limit)
            limit = stop;
    }
    if (r->seal && r->next_keyframe < limit)
        limit = r->next_keyframe;
    limit = points_limit(r, limit);
    if (limit - now > REPLAY_SLICE_STEPS)
        limit = now + REPLAY_SLICE_STEPS;
    return limit;
}

static int unexpected_stop(struct replay *r, const char *what, struct error *err)
{
    char expected[128];
    return replay_diverged(r, err, "the guest %s; the recording has %s next", what,
                           replay_describe_event(&r->next, expected, sizeof(expected)));
}

/*
 * Where no position says when the next crossing is due: a recorder under KVM writes a digest four times a second, and this
 * is more than a host executes in twice that time, REP iterations included.
 */
#define SILENT_STEPS_MAX ((uint64_t)1 << 35)

static int check_silence(struct replay *r, struct error *err)
{
    position_t silent = replay_position(r) - r->last_event_position;
    if (!r->have_next || r->next.position != POSITION_UNKNOWN || !comes_by_itself(&r->next) ||
        silent <= SILENT_STEPS_MAX)
        return 0;
    char expected[128];
    return replay_diverged(
        r, err, "the guest ran for %" PRIu64 " steps and did not do what the recording has next: %s", silent,
        replay_describe_event(&r->next, expected, sizeof(expected)));
}

static int after_stop(struct replay *r, int stop, bool *matched, struct error *err)
{
    switch (stop) {
    case ENGINE_STOP_MATCH:
        *matched = true;
        return 0;
    case ENGINE_STOP_HALT:
        return is_due(r, false) ? 0 : unexpected_stop(r, "halted", err);
    case ENGINE_STOP_SHUTDOWN:
        if (r->next.type == EVENT_END && r->next.source == TRACE_END_SHUTDOWN)
            return apply_end(r, err);
        return unexpected_stop(r, "shut down (triple fault)", err);
    case ENGINE_STOP_WATCH:
    case ENGINE_STOP_CATCH:
        points_take_hit(r, stop);
        return 0;
    case ENGINE_STOP_BOUNDARY:
        return points_poll(r, err);
    default:
        return 0;
    }
}

/* Executes up to the next event, the target or the end of a slice. */
static int execute(struct replay *r, position_t target, bool *matched, struct error *err)
{
    bool searching = r->next.place == PLACE_LANDMARK && r->next.position == POSITION_UNKNOWN;
    struct engine_request request = {.limit = limit_of(r, target), .match = searching ? &r->match : NULL};
    uint64_t start = replay_profile_now_ns(r), outside = r->profile.boundary_ns + r->profile.reading_ns;
    int stop = r->engine->ops->run(r->engine, &request, err);
    r->profile.engine_ns += replay_profile_now_ns(r) - start;
    r->profile.engine_ns -= r->profile.boundary_ns + r->profile.reading_ns - outside;
    if (r->failed) {
        *err = r->error;
        return r->error.code < 0 ? r->error.code : -EIO;
    }
    if (stop < 0)
        return error_prefix(err, "replay at position %" PRIu64, replay_position(r));
    if (r->ran_out)
        return 0;
    int status = after_stop(r, stop, matched, err);
    if (status == 0 && searching && !*matched && r->have_next && r->next.place == PLACE_LANDMARK)
        status = landmark_check_search(r, err);
    if (status == 0)
        status = check_silence(r, err);
    if (status == 0 && r->hooks.progress &&
        r->hooks.progress(r->hooks.context, replay_position(r), r->totals.events))
        status = error_set(err, -EINTR, "interrupted at position %" PRIu64, replay_position(r));
    return status;
}

static int overdue(struct replay *r, struct error *err)
{
    char expected[128];
    return replay_diverged(r, err, "the recording has %s at position %" PRIu64 ", which the guest did not do",
                           replay_describe_event(&r->next, expected, sizeof(expected)), r->next.position);
}

int replay_run_to(struct replay *r, position_t position, struct replay_stop *stop, struct error *err)
{
    bool matched = false;
    *stop = (struct replay_stop){.reason = REPLAY_STOP_TARGET};
    if (r->have_next)
        points_ask(r);
    while (!r->totals.at_end) {
        int status = 0;
        if (points_stop_here(r, stop))
            break;
        if (!r->have_next || r->ran_out)
            r->totals.at_end = true;
        else if (replay_position(r) >= position)
            break;
        else if (is_due(r, matched))
            status = apply(r, err), matched = false;
        else if (is_overdue(r))
            status = overdue(r, err);
        else
            status = execute(r, position, &matched, err);
        if (status == 0 && r->seal && replay_position(r) >= r->next_keyframe)
            status = replay_write_keyframe(r, err);
        if (status < 0)
            return status;
        r->totals.position = replay_position(r);
    }
    r->totals.position = replay_position(r);
    if (r->totals.at_end)
        stop->reason = REPLAY_STOP_END;
    stop->exact = r->done_here != replay_position(r);
    return 0;
}

int replay_run(struct replay *r, position_t position, struct error *err)
{
    struct replay_stop stop;
    uint64_t start = replay_profile_now_ns(r);
    int status = replay_run_to(r, position, &stop, err);
    r->profile.run_ns += replay_profile_now_ns(r) - start;
    return status;
}
