#include <errno.h>
#include <inttypes.h>

#include "replay/internal.h"

static struct replay *replay_of(struct boundary *b)
{
    return container_of(b, struct replay, boundary);
}

static int fail(struct replay *r)
{
    r->failed = true;
    return r->error.code < 0 ? r->error.code : -EIO;
}

static bool is_crossing(const struct event *event)
{
    return event->place == PLACE_CROSSING && event->type != EVENT_END;
}

static int not_expected(struct replay *r, enum event_type type, position_t position, uint64_t address,
                        uint64_t value)
{
    char expected[128], actual[128];
    struct event happened = {.type = type, .address = address, .value = value};
    replay_describe_event(&r->next, expected, sizeof(expected));
    replay_describe_event(&happened, actual, sizeof(actual));
    const char *hint = "";
    if (type == EVENT_CPU_READ && !trace_reader_info(r->reader)->meta.positions)
        hint = "\n  RDTSC, RDRAND and their kind cannot be recorded under KVM: record this guest with "
               "--engine emu";
    char how[1200];
    if (r->next.place == PLACE_LANDMARK && r->next.position == POSITION_UNKNOWN)
        replay_diverged(r, &r->error, "the guest did %s, but before that the recording has %s at a %s%s",
                        actual, expected, landmark_describe_search(r, how, sizeof(how)), hint);
    else if (r->next.position != POSITION_UNKNOWN && r->next.position != position)
        replay_diverged(r, &r->error,
                        "the guest did %s; the recording has %s next, at position %" PRIu64 "%s", actual,
                        expected, r->next.position, hint);
    else
        replay_diverged(r, &r->error, "the guest did %s; the recording has %s here%s", actual, expected,
                        hint);
    return fail(r);
}

/* The next event must be this crossing. */
static int expect(struct replay *r, enum event_type type, position_t position, uint64_t address,
                  unsigned size, uint64_t value)
{
    r->crossing_since_ns = replay_profile_now_ns(r);
    if (!r->have_next) { /* a trace that was cut short ends here */
        r->ran_out = true;
        return -ENODATA;
    }
    const struct event *next = &r->next;
    if (!is_crossing(next) || next->type != type || next->address != address || next->size != size ||
        (next->position != POSITION_UNKNOWN && next->position != position))
        return not_expected(r, type, position, address, value);
    return 0;
}

/* An output must carry the recorded value. */
static int expect_output(struct replay *r, enum event_type type, position_t position, uint64_t address,
                         unsigned size, uint64_t value)
{
    int status = expect(r, type, position, address, size, value);
    if (status == 0 && r->next.value != value)
        return not_expected(r, type, position, address, value);
    r->totals.outputs_checked++;
    return status;
}

/* Takes the event; the engine has to stop if the one after it comes at once. */
static int take(struct replay *r, position_t position)
{
    uint64_t reading = r->profile.reading_ns;
    if (replay_consume(r, position, &r->error) < 0)
        return fail(r);
    r->profile.crossings++;
    r->profile.boundary_ns +=
        replay_profile_now_ns(r) - r->crossing_since_ns - (r->profile.reading_ns - reading);
    if (!r->have_next || r->next.place == PLACE_AFTER || r->next.place == PLACE_PREVIOUS ||
        r->next.place == PLACE_STEPS)
        return BOUNDARY_STOP;
    return r->next.place == PLACE_LANDMARK && r->next.position == POSITION_UNKNOWN ? BOUNDARY_STOP
                                                                                   : BOUNDARY_OK;
}

static uint64_t value_of_size(uint64_t value, unsigned size)
{
    return size >= 8 ? value : value & ((1ull << (8 * size)) - 1);
}

static int pio_read(struct boundary *b, position_t position, uint16_t port, unsigned size, uint32_t *value)
{
    struct replay *r = replay_of(b);
    int status = expect(r, EVENT_PIO_READ, position, port, size, 0);
    if (status < 0)
        return status;
    *value = (uint32_t)value_of_size(r->next.value, size);
    return take(r, position);
}

static int pio_write(struct boundary *b, position_t position, uint16_t port, unsigned size, uint32_t value)
{
    struct replay *r = replay_of(b);
    int status = expect_output(r, EVENT_PIO_WRITE, position, port, size, value);
    return status < 0 ? status : take(r, position);
}

static int mmio_read(struct boundary *b, position_t position, gpa_t gpa, unsigned size, uint64_t *value)
{
    struct replay *r = replay_of(b);
    int status = expect(r, EVENT_MMIO_READ, position, gpa, size, 0);
    if (status < 0)
        return status;
    *value = value_of_size(r->next.value, size);
    return take(r, position);
}

static int mmio_write(struct boundary *b, position_t position, gpa_t gpa, unsigned size, uint64_t value)
{
    struct replay *r = replay_of(b);
    int status = expect_output(r, EVENT_MMIO_WRITE, position, gpa, size, value);
    return status < 0 ? status : take(r, position);
}

static int cpu_read(struct boundary *b, position_t position, enum boundary_source source, uint32_t argument,
                    uint64_t *value, bool *valid)
{
    struct replay *r = replay_of(b);
    if (source == SOURCE_IGNNE && !trace_reader_info(r->reader)->meta.positions) {
        *value = IGNNE_NATIVE; /* recorded under KVM: no crossing */
        return BOUNDARY_OK;
    }
    int status = expect(r, EVENT_CPU_READ, position, argument, 0, 0);
    if (status < 0)
        return status;
    if (r->next.source != (uint8_t)source)
        return not_expected(r, EVENT_CPU_READ, position, argument, 0);
    *value = r->next.value;
    *valid = r->next.flag;
    return take(r, position);
}

static int msr_read(struct boundary *b, position_t position, uint32_t index, uint64_t *value, bool *known)
{
    struct replay *r = replay_of(b);
    int status = expect(r, EVENT_MSR_READ, position, index, 0, 0);
    if (status < 0)
        return status;
    *value = r->next.value;
    *known = r->next.flag;
    return take(r, position);
}

static int msr_write(struct boundary *b, position_t position, uint32_t index, uint64_t value, bool *known)
{
    struct replay *r = replay_of(b);
    int status = expect_output(r, EVENT_MSR_WRITE, position, index, 0, value);
    if (status < 0)
        return status;
    *known = r->next.flag;
    return take(r, position);
}

static int halted(struct boundary *b, position_t position)
{
    struct replay *r = replay_of(b);
    int status = expect(r, EVENT_HALT, position, 0, 0, 0);
    return status < 0 ? status : take(r, position);
}

const struct boundary_ops replay_boundary_ops = {
    .pio_read = pio_read,
    .pio_write = pio_write,
    .mmio_read = mmio_read,
    .mmio_write = mmio_write,
    .cpu_read = cpu_read,
    .msr_read = msr_read,
    .msr_write = msr_write,
    .halted = halted,
};
