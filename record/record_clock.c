#include "record/record_clock.h"

uint64_t record_clock_read(struct record_clock *c, uint64_t host_ns, position_t position)
{
    uint64_t lag = host_ns - c->now_ns, room;
    if (__builtin_mul_overflow(position - c->position, (uint64_t)CLOCK_NS_PER_STEP, &room) ||
        __builtin_add_overflow(room, (uint64_t)CLOCK_NS_PER_READING, &room))
        room = UINT64_MAX;
    if (lag > CLOCK_MAX_LAG_NS && room < lag - CLOCK_MAX_LAG_NS)
        room = lag - CLOCK_MAX_LAG_NS;
    c->now_ns += room < lag ? room : lag;
    c->position = position;
    return c->now_ns;
}

void record_clock_catch_up(struct record_clock *c, uint64_t host_ns, position_t position)
{
    c->now_ns = host_ns;
    c->position = position;
}

uint64_t record_clock_steps_until(const struct record_clock *c, uint64_t deadline_ns)
{
    return deadline_ns > c->now_ns ? (deadline_ns - c->now_ns - 1) / CLOCK_NS_PER_STEP + 1 : 0;
}
