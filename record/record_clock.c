#include "record/record_clock.h"

static uint64_t saturating_mul_add(uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t sum;
    return __builtin_mul_overflow(a, b, &sum) || __builtin_add_overflow(sum, c, &sum) ? UINT64_MAX : sum;
}

uint64_t record_clock_read(struct record_clock *c, uint64_t host_ns, position_t position)
{
    uint64_t steps = position - c->position;
    c->position = position;
    if (c->is_virtual) {
        c->now_ns = saturating_mul_add(steps, CLOCK_VIRTUAL_NS_PER_STEP, c->now_ns);
        return c->now_ns;
    }
    uint64_t lag = host_ns - c->now_ns, times = lag > CLOCK_FAR_BEHIND_NS ? CLOCK_FAST : 1;
    uint64_t room = saturating_mul_add(steps, CLOCK_NS_PER_STEP * times, CLOCK_NS_PER_READING * times);
    c->now_ns += room < lag ? room : lag;
    return c->now_ns;
}

void record_clock_access(struct record_clock *c)
{
    if (c->is_virtual)
        c->now_ns += CLOCK_VIRTUAL_NS_PER_ACCESS;
}

void record_clock_tsc(struct record_clock *c, position_t position)
{
    if (!c->is_virtual)
        return;
    bool spins = position - c->tsc_position <= CLOCK_VIRTUAL_SPIN_STEPS;
    c->tsc_ns = spins ? c->tsc_ns * 2 : CLOCK_VIRTUAL_NS_PER_TSC;
    if (c->tsc_ns > CLOCK_VIRTUAL_SPIN_NS)
        c->tsc_ns = CLOCK_VIRTUAL_SPIN_NS;
    c->tsc_position = position;
    c->now_ns += c->tsc_ns;
}

void record_clock_catch_up(struct record_clock *c, uint64_t host_ns, position_t position)
{
    c->now_ns = host_ns;
    c->position = position;
}

void record_clock_sleep(struct record_clock *c, uint64_t host_ns, uint64_t deadline_ns, position_t position)
{
    uint64_t until = c->is_virtual || deadline_ns < host_ns ? deadline_ns : host_ns;
    record_clock_read(c, host_ns, position);
    if (until != UINT64_MAX && until > c->now_ns)
        c->now_ns = until;
}

uint64_t record_clock_steps_until(const struct record_clock *c, uint64_t deadline_ns)
{
    unsigned ns_per_step = c->is_virtual ? CLOCK_VIRTUAL_NS_PER_STEP : CLOCK_NS_PER_STEP;
    return deadline_ns > c->now_ns ? (deadline_ns - c->now_ns - 1) / ns_per_step + 1 : 0;
}
