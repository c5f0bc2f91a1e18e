/*
 * The 8254 programmable interval timer (Intel data sheet 231164) at ports 0x40..0x43, and the system control
 * port B (0x61) that gates its channel 2. Channel 0's OUT is IRQ 0; channels 0 and 1 have their gates tied
 * high.
 *
 * Nothing counts here: a channel remembers the tick at which its counter was loaded, and count and OUT follow
 * from the machine's clock in exact integer arithmetic, so no error accumulates. Tick n of the common
 * 1.193182 MHz input happens at n / 1193182 s.
 *
 * When the host is late by one or several periods of channel 0, IRQ 0 has one edge, as the latch of the 8259A
 * would hold no more than one: lost ticks stay lost, and the next edge is on the same grid as before. The
 * line stays high from one rising edge to just before the next, in mode 3 too, where OUT is low for half of
 * the period: a late host must not make the request vanish before the guest had a chance to see it.
 *
 * At the start channel 0 runs as PC firmware leaves it: mode 3, count 0 (65536), 18.2 Hz.
 */
#include "devices/devices.h"
#include "devices/device.h"

#include <errno.h>

#define PIT_PORT      0x40
#define PIT_HZ        1193182u
#define PIT_CONTROL   3
#define CHANNEL_COUNT 3
#define SPEAKER       2
#define PIT_IRQ       0
#define NEVER         INT64_MAX

/*
 * A periodic channel 0 wakes the host no more often than this (20 us). Counts below it make more edges than
 * any handler could take; those in between coalesce.
 */
#define MIN_WAKE_TICKS 24

enum system_control_b {
    CONTROL_B_PORT = 0x61,
    CONTROL_B_GATE2 = 0x01,
    CONTROL_B_SPEAKER = 0x02,
    CONTROL_B_WRITABLE = 0x0f, /* bits 2 and 3 mask parity and channel check NMIs, which never come */
    CONTROL_B_REFRESH = 0x10,  /* toggles with each refresh request, one per 18 ticks (15 us) */
    CONTROL_B_OUT2 = 0x20,
};
#define REFRESH_TICKS 18

/* Control word: SC1 SC0 RW1 RW0 M2 M1 M0 BCD */
enum pit_control_word {
    CONTROL_BCD = 0x01,
    CONTROL_RW_SHIFT = 4,
    CONTROL_SELECT_SHIFT = 6,
    SELECT_READ_BACK = 3,
    /* Read-back command: 1 1 /COUNT /STATUS CNT2 CNT1 CNT0 0 */
    READ_BACK_NO_COUNT = 0x20,
    READ_BACK_NO_STATUS = 0x10,
};
enum pit_access { ACCESS_LATCH = 0, ACCESS_LOW = 1, ACCESS_HIGH = 2, ACCESS_LOW_HIGH = 3 };
enum pit_status { STATUS_OUT = 0x80, STATUS_NULL_COUNT = 0x40 };

enum pit_mode {
    MODE_TERMINAL_COUNT = 0,
    MODE_ONE_SHOT = 1,
    MODE_RATE = 2,
    MODE_SQUARE_WAVE = 3,
    MODE_SOFTWARE_STROBE = 4,
    MODE_HARDWARE_STROBE = 5,
};

struct pit_channel {
    uint8_t control; /* the last control word's bits 5..0 */
    uint8_t mode;
    bool gate;

    /* CR, the count register: what the guest wrote, on its way into the counter */
    uint32_t reload; /* 1..65536 (BCD: 1..10000 for well-formed counts) */
    bool written;    /* a whole count was written since the control word */
    bool pending;    /* not yet in the counter: the status's null count */
    int64_t load_at; /* with pending: tick at which it is loaded; NEVER while it waits for a trigger */

    /* CE, the counting element */
    bool loaded;
    uint32_t count;  /* what it was loaded with */
    int64_t start;   /* the tick at which it held count; meaningful while it runs */
    int64_t stopped; /* while the gate stops it: ticks counted so far; -1 while it runs */

    bool write_high_next, read_high_next;
    uint8_t write_low;
    bool count_latched, latch_high_next, status_latched;
    uint16_t latched_count;
    uint8_t latched_status;
};

struct pit_state {
    struct pit_channel channel[CHANNEL_COUNT];
    uint8_t control_b;
    bool irq_level;
    int64_t seen; /* channel 0's edges up to this tick have been signalled */
};

struct pit {
    struct pit_state s;
    struct machine *m;
    struct machine_timer timer; /* channel 0's next rising edge */
};

static int64_t pit_now(const struct pit *pit)
{
    return device_ticks_of_ns(machine_clock_ns(pit->m), PIT_HZ);
}

/* ---- one channel: count and OUT as functions of the tick ---- */

static bool mode_is_periodic(uint8_t mode)
{
    return mode == MODE_RATE || mode == MODE_SQUARE_WAVE;
}

static bool mode_is_triggered(uint8_t mode)
{
    return mode == MODE_ONE_SHOT || mode == MODE_HARDWARE_STROBE;
}

/* Ticks since the counter was loaded. */
static int64_t channel_elapsed(const struct pit_channel *c, int64_t tick)
{
    if (c->stopped >= 0)
        return c->stopped;
    return tick > c->start ? tick - c->start : 0;
}

/* Mode 3: OUT is high for this part of the period, one tick longer than low when the count is odd. */
static uint32_t square_high_ticks(uint32_t count)
{
    return (count + 1) / 2;
}

static bool channel_out(const struct pit_channel *c, int64_t tick)
{
    if (!c->loaded)
        return c->mode != MODE_TERMINAL_COUNT;
    int64_t elapsed = channel_elapsed(c, tick);
    switch (c->mode) {
    case MODE_TERMINAL_COUNT:
    case MODE_ONE_SHOT:
        return elapsed >= c->count;
    case MODE_RATE:
        return c->stopped >= 0 || c->count - elapsed % c->count != 1;
    case MODE_SQUARE_WAVE:
        return c->stopped >= 0 || elapsed % c->count < square_high_ticks(c->count);
    default:
        return elapsed != c->count;
    }
}

/* The counter as a number; after 0 it goes on at its largest value, in the modes that do not reload. */
static uint32_t channel_count(const struct pit_channel *c, int64_t tick)
{
    if (!c->loaded)
        return c->count;
    int64_t elapsed = channel_elapsed(c, tick);
    if (c->mode == MODE_RATE)
        return (uint32_t)(c->count - elapsed % c->count);
    if (c->mode == MODE_SQUARE_WAVE) {
        int64_t phase = elapsed % c->count;
        int64_t high = square_high_ticks(c->count);
        return (uint32_t)((c->count & ~1u) - 2 * (phase < high ? phase : phase - high));
    }
    int64_t modulus = c->control & CONTROL_BCD ? 10000 : 65536;
    return (uint32_t)(((c->count - elapsed) % modulus + modulus) % modulus);
}

static uint16_t channel_read_value(const struct pit_channel *c, int64_t tick)
{
    uint32_t n = channel_count(c, tick);
    if (!(c->control & CONTROL_BCD))
        return (uint16_t)n;
    n %= 10000;
    return (uint16_t)(n / 1000 << 12 | n / 100 % 10 << 8 | n / 10 % 10 << 4 | n % 10);
}

/* Moves the count register into the counter, at load_at. */
static void channel_load(struct pit_channel *c)
{
    int64_t start = c->load_at;
    /*
     * Mode 3 takes a new count at the end of either half: when it is the high one, the low half comes next.
     */
    if (c->mode == MODE_SQUARE_WAVE && c->loaded && c->stopped < 0 && channel_out(c, start - 1) &&
        c->start < start)
        start -= square_high_ticks(c->reload);
    c->count = c->reload;
    c->start = start;
    if (c->stopped >= 0)
        c->stopped = 0;
    c->loaded = true;
    c->pending = false;
}

static void channel_sync(struct pit_channel *c, int64_t now)
{
    if (c->pending && c->load_at <= now)
        channel_load(c);
}

/* The first tick after from at which OUT rises, if nothing is written; a pending load is not looked at. */
static int64_t channel_next_rise_loaded(const struct pit_channel *c, int64_t from)
{
    if (!c->loaded || c->stopped >= 0)
        return NEVER;
    int64_t n = c->count, rise;
    if (mode_is_periodic(c->mode)) {
        if (n < 2) /* not allowed by the data sheet; OUT does not move */
            return NEVER;
        int64_t periods = from > c->start ? (from - c->start) / n : 0;
        return c->start + (periods + 1) * n;
    }
    rise = c->start + n + (c->mode >= MODE_SOFTWARE_STROBE ? 1 : 0);
    return rise > from ? rise : NEVER;
}

static int64_t channel_next_rise(const struct pit_channel *c, int64_t from)
{
    if (!c->pending || c->load_at == NEVER)
        return channel_next_rise_loaded(c, from);
    int64_t rise = channel_next_rise_loaded(c, from);
    if (rise < c->load_at)
        return rise;
    struct pit_channel after = *c;
    channel_load(&after);
    if (!channel_out(c, c->load_at - 1) && channel_out(&after, c->load_at))
        return c->load_at;
    return channel_next_rise_loaded(&after, from > c->load_at ? from : c->load_at);
}

/* ---- IRQ 0 ---- */

static void pit_set_irq(struct pit *pit, bool level)
{
    pit->s.irq_level = level;
    machine_set_irq(pit->m, PIT_IRQ, level);
}

/*
 * Signals an edge that channel 0 made since the last look, brings all channels up to now, and sets the timer.
 */
static void pit_update(struct pit *pit)
{
    int64_t now = pit_now(pit);
    struct pit_channel *c = &pit->s.channel[0];
    bool rose = channel_next_rise(c, pit->s.seen) <= now;
    for (unsigned i = 0; i < CHANNEL_COUNT; i++)
        channel_sync(&pit->s.channel[i], now);
    pit->s.seen = now;
    if (rose) {
        pit_set_irq(pit, false);
        pit_set_irq(pit, true);
    }
    bool rapid = mode_is_periodic(c->mode) && c->count < MIN_WAKE_TICKS;
    int64_t next = channel_next_rise(c, rapid ? now + MIN_WAKE_TICKS - 1 : now);
    if (next == NEVER)
        machine_timer_disarm(pit->m, &pit->timer);
    else
        machine_timer_arm(pit->m, &pit->timer, device_ns_of_ticks(next, PIT_HZ));
}

static void pit_fire(void *device, uint64_t now_ns)
{
    (void)now_ns;
    pit_update(device);
}

/* Programming channel 0 may move OUT at once. */
static void pit_follow_out(struct pit *pit)
{
    const struct pit_channel *c = &pit->s.channel[0];
    bool out = channel_out(c, pit->s.seen);
    if (!out && !c->loaded)
        pit_set_irq(pit, false);
    else if (out && !pit->s.irq_level)
        pit_set_irq(pit, true);
}

/* ---- programming ---- */

static void channel_write_control(struct pit_channel *c, uint8_t control, int64_t now)
{
    static const uint8_t modes[8] = {0, 1, 2, 3, 4, 5, 2, 3};
    c->count = channel_count(c, now);
    c->control = control & 0x3f;
    c->mode = modes[control >> 1 & 7];
    c->written = false;
    c->pending = true;
    c->load_at = NEVER;
    c->loaded = false;
    c->stopped = c->gate || mode_is_triggered(c->mode) ? -1 : 0;
    c->write_high_next = c->read_high_next = false;
    c->count_latched = c->status_latched = c->latch_high_next = false;
}

/* When a count written at tick now gets into the counter (data sheet, "Mode definitions"). */
static int64_t channel_load_tick(const struct pit_channel *c, int64_t now)
{
    if (mode_is_triggered(c->mode))
        return NEVER;
    if (!mode_is_periodic(c->mode) || !c->loaded || c->stopped >= 0)
        return now + 1;
    int64_t n = c->count, phase = channel_elapsed(c, now) % n;
    int64_t end = n;
    if (c->mode == MODE_SQUARE_WAVE && phase < square_high_ticks(c->count))
        end = square_high_ticks(c->count);
    return (now > c->start ? now : c->start) - phase + end;
}

static void channel_set_count(struct pit_channel *c, uint16_t value, int64_t now)
{
    uint32_t n = value;
    if (c->control & CONTROL_BCD)
        n = (value >> 12) * 1000u + (value >> 8 & 15) * 100u + (value >> 4 & 15) * 10u + (value & 15);
    if (n == 0)
        n = c->control & CONTROL_BCD ? 10000 : 65536;
    c->reload = n;
    c->written = true;
    /* A trigger that has not yet taken effect takes the new count along. */
    bool triggered = mode_is_triggered(c->mode) && c->pending && c->load_at != NEVER;
    if (!triggered)
        c->load_at = channel_load_tick(c, now);
    c->pending = true;
    if (c->mode == MODE_TERMINAL_COUNT) {
        c->count = channel_count(c, now);
        c->loaded = false; /* OUT goes low without waiting for the clock */
    }
}

static void channel_write(struct pit_channel *c, uint8_t byte, int64_t now)
{
    switch (c->control >> CONTROL_RW_SHIFT & 3) {
    case ACCESS_LOW:
        channel_set_count(c, byte, now);
        break;
    case ACCESS_HIGH:
        channel_set_count(c, (uint16_t)(byte << 8), now);
        break;
    default:
        if (!c->write_high_next) {
            c->write_low = byte;
            if (c->mode == MODE_TERMINAL_COUNT) { /* the first byte stops the counter */
                c->count = channel_count(c, now);
                c->loaded = false;
                c->load_at = NEVER;
            }
        } else {
            channel_set_count(c, (uint16_t)(byte << 8 | c->write_low), now);
        }
        c->write_high_next = !c->write_high_next;
        break;
    }
}

/* Of a two-byte value: the byte the access mode asks for; *high_next is the flip-flop of lo/hi access. */
static uint8_t channel_select_byte(const struct pit_channel *c, uint16_t value, bool *high_next)
{
    unsigned access = c->control >> CONTROL_RW_SHIFT & 3;
    bool high = access == ACCESS_HIGH || (access == ACCESS_LOW_HIGH && *high_next);
    *high_next = access == ACCESS_LOW_HIGH && !*high_next;
    return (uint8_t)(high ? value >> 8 : value);
}

static uint8_t channel_read(struct pit_channel *c, int64_t now)
{
    if (c->status_latched) {
        c->status_latched = false;
        return c->latched_status;
    }
    if (c->count_latched) {
        uint8_t byte = channel_select_byte(c, c->latched_count, &c->latch_high_next);
        c->count_latched = c->latch_high_next;
        return byte;
    }
    return channel_select_byte(c, channel_read_value(c, now), &c->read_high_next);
}

static void channel_latch_count(struct pit_channel *c, int64_t now)
{
    if (c->count_latched)
        return;
    c->count_latched = true;
    c->latch_high_next = false;
    c->latched_count = channel_read_value(c, now);
}

static void channel_latch_status(struct pit_channel *c, int64_t now)
{
    if (c->status_latched)
        return;
    c->status_latched = true;
    c->latched_status =
        (uint8_t)(c->control | (channel_out(c, now) ? STATUS_OUT : 0) | (c->pending ? STATUS_NULL_COUNT : 0));
}

/*
 * The gate: modes 0 and 4 count while it is high; 2 and 3 too, and start anew when it rises; 1 and 5 are
 * triggered.
 */
static void channel_set_gate(struct pit_channel *c, bool gate, int64_t now)
{
    if (gate == c->gate)
        return;
    c->gate = gate;
    if (mode_is_triggered(c->mode) || (mode_is_periodic(c->mode) && gate)) {
        if (gate && c->written) {
            c->pending = true;
            c->load_at = now + 1;
        }
        if (gate && mode_is_periodic(c->mode)) {
            c->loaded = false; /* OUT stays high until then */
            c->stopped = -1;
        }
    } else if (!gate) {
        c->stopped = channel_elapsed(c, now);
    } else {
        c->start = now - c->stopped;
        c->stopped = -1;
    }
}

static void pit_write_control(struct pit *pit, uint8_t value)
{
    int64_t now = pit->s.seen;
    unsigned select = value >> CONTROL_SELECT_SHIFT;
    if (select == SELECT_READ_BACK) {
        for (unsigned i = 0; i < CHANNEL_COUNT; i++) {
            if (!(value & 2u << i))
                continue;
            if (!(value & READ_BACK_NO_COUNT))
                channel_latch_count(&pit->s.channel[i], now);
            if (!(value & READ_BACK_NO_STATUS))
                channel_latch_status(&pit->s.channel[i], now);
        }
    } else if ((value >> CONTROL_RW_SHIFT & 3) == ACCESS_LATCH) {
        channel_latch_count(&pit->s.channel[select], now);
    } else {
        channel_write_control(&pit->s.channel[select], value, now);
    }
}

static void pit_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct pit *pit = device;
    (void)size;
    pit_update(pit);
    if (offset == PIT_CONTROL)
        pit_write_control(pit, (uint8_t)value);
    else
        channel_write(&pit->s.channel[offset], (uint8_t)value, pit->s.seen);
    pit_follow_out(pit);
    pit_update(pit);
}

static uint64_t pit_read(void *device, uint64_t offset, unsigned size)
{
    struct pit *pit = device;
    (void)size;
    pit_update(pit);
    if (offset == PIT_CONTROL)
        return 0xff; /* write-only: the bus floats */
    return channel_read(&pit->s.channel[offset], pit->s.seen);
}

static uint64_t control_b_read(void *device, uint64_t offset, unsigned size)
{
    struct pit *pit = device;
    (void)offset;
    (void)size;
    pit_update(pit);
    uint8_t value = pit->s.control_b;
    if (pit->s.seen / REFRESH_TICKS & 1)
        value |= CONTROL_B_REFRESH;
    if (channel_out(&pit->s.channel[SPEAKER], pit->s.seen))
        value |= CONTROL_B_OUT2;
    return value;
}

static void control_b_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct pit *pit = device;
    (void)offset;
    (void)size;
    pit_update(pit);
    pit->s.control_b = value & CONTROL_B_WRITABLE;
    channel_set_gate(&pit->s.channel[SPEAKER], value & CONTROL_B_GATE2, pit->s.seen);
}

static void pit_power_on(struct pit *pit)
{
    static const uint8_t control[CHANNEL_COUNT] = {0x36, 0x14, 0x36};
    static const uint16_t count[CHANNEL_COUNT] = {0, REFRESH_TICKS, 0};
    for (unsigned i = 0; i < CHANNEL_COUNT; i++) {
        struct pit_channel *c = &pit->s.channel[i];
        c->stopped = -1;
        c->gate = i != SPEAKER;
        channel_write_control(c, control[i], 0);
        channel_set_count(c, count[i], -1);
    }
    pit_follow_out(pit);
    pit_update(pit);
}

int pit_attach(struct machine *m, struct error *err)
{
    struct pit *pit = device_create(m, sizeof(*pit), "8254", err);
    if (!pit)
        return -ENOMEM;
    pit->m = m;
    machine_timer_init(&pit->timer, pit_fire, pit);
    int rc = device_add_byte_ports(m, PIT_PORT, 4, pit_read, pit_write, pit, "8254", err);
    if (!rc)
        rc = device_add_byte_ports(m, CONTROL_B_PORT, 1, control_b_read, control_b_write, pit,
                                   "system control port B", err);
    if (!rc)
        pit_power_on(pit);
    return rc;
}
