/*
 * The MC146818A real-time clock and its CMOS RAM (Motorola data sheet ADI-1050; the PC's use of the RAM as in
 * IBM's PC/AT Technical Reference and in Ralf Brown's CMOS list): index at port 0x70, data at 0x71, IRQ 8.
 *
 * Time is a number of seconds that holds at one moment of the machine's clock; what the registers show
 * follows from the clock. While SET (or a divider reset) stops the updates, the time registers are plain
 * memory, and are taken over when it ends. Flags of register C are computed when somebody looks; a timer runs
 * only for the next event that would raise the interrupt line. Not modelled: daylight saving (DSE) and the
 * square-wave pin.
 */
#include "devices/devices.h"
#include "devices/device.h"
#include "devices/rtc_calendar.h"

#include <errno.h>

#define RTC_PORT      0x70
#define RTC_IRQ       8
#define RTC_HZ        32768u
#define RTC_BYTES     128
#define NS_PER_S      1000000000
#define SECONDS_LIMIT ((int64_t)253402300799) /* end of the year 9999 */

/* An update makes time unreadable for 1984 us, and is announced 244 us ahead (data sheet, "Update cycle"). */
#define UIP_NS ((244 + 1984) * 1000)

enum rtc_register {
    RTC_SECONDS = 0,
    RTC_SECONDS_ALARM = 1,
    RTC_MINUTES = 2,
    RTC_MINUTES_ALARM = 3,
    RTC_HOURS = 4,
    RTC_HOURS_ALARM = 5,
    RTC_WEEKDAY = 6,
    RTC_DAY = 7,
    RTC_MONTH = 8,
    RTC_YEAR = 9,
    RTC_A = 10,
    RTC_B = 11,
    RTC_C = 12,
    RTC_D = 13,
    CMOS_EQUIPMENT = 0x14,
    CMOS_BASE_KB = 0x15,     /* two bytes, low first, as all sizes here */
    CMOS_EXTENDED_KB = 0x17, /* above 1 MiB, at most 65535 KiB */
    CMOS_CHECKSUM_FIRST = 0x10,
    CMOS_CHECKSUM_LAST = 0x2d,
    CMOS_CHECKSUM = 0x2e,      /* high byte first */
    CMOS_EXTENDED_KB_2 = 0x30, /* the same as CMOS_EXTENDED_KB, as found by the memory test */
    RTC_CENTURY = 0x32,
    CMOS_ABOVE_16M_64KB = 0x34, /* from 16 MiB up to 4 GiB, in 64 KiB */
    CMOS_ABOVE_4G_64KB = 0x5b,  /* three bytes */
};

enum rtc_a {
    A_RATE = 0x0f,
    A_DIVIDER = 0x70,
    A_DIVIDER_32KHZ = 0x20, /* the crystal's; above: divider chain in reset */
    A_UIP = 0x80,
};
enum rtc_b {
    B_24H = 0x02,
    B_BINARY = 0x04,
    B_UIE = 0x10,
    B_AIE = 0x20,
    B_PIE = 0x40,
    B_SET = 0x80,
};
enum rtc_c {
    C_UF = 0x10,
    C_AF = 0x20,
    C_PF = 0x40,
    C_IRQF = 0x80
}; /* UF, AF, PF stand where B has UIE, AIE, PIE */
enum rtc_d { D_VRT = 0x80 };

#define HOUR_PM          0x80
#define ALARM_DONT_CARE  0xc0
#define INDEX_NMI_MASKED 0x80
#define EQUIPMENT_FPU    0x02

struct rtc_state {
    uint8_t ram[RTC_BYTES]; /* time: valid while updates are stopped; A: without UIP; C: without IRQF */
    uint8_t index;          /* as written to port 0x70: bit 7 masks NMI */
    int64_t base_s;         /* the time (seconds since 1970 on the guest's calendar) ... */
    int64_t base_ns;        /* ... at this moment of the machine's clock; may be negative */
    int weekday_offset;     /* 0..6: what the guest made of the weekday, against the calendar's */
    uint64_t seen_ns;       /* events up to here are in register C */
};

struct rtc {
    struct rtc_state s;
    struct machine *m;
    struct machine_timer timer;
};

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

static bool rtc_updates(const struct rtc *r)
{
    return !(r->s.ram[RTC_B] & B_SET) && (r->s.ram[RTC_A] & A_DIVIDER) <= A_DIVIDER_32KHZ;
}

static bool rtc_divider_runs(const struct rtc *r)
{
    return (r->s.ram[RTC_A] & A_DIVIDER) <= A_DIVIDER_32KHZ;
}

static int64_t rtc_seconds(const struct rtc *r, uint64_t now_ns)
{
    return r->s.base_s + floor_div((int64_t)now_ns - r->s.base_ns, NS_PER_S);
}

/* The moment at which the time becomes seconds; UINT64_MAX when that is beyond the end of the clock. */
static uint64_t rtc_moment(const struct rtc *r, int64_t seconds)
{
    int64_t ns;
    if (__builtin_mul_overflow(seconds - r->s.base_s, (int64_t)NS_PER_S, &ns) ||
        __builtin_add_overflow(ns, r->s.base_ns, &ns))
        return UINT64_MAX;
    return ns < 0 ? 0 : (uint64_t)ns;
}

/* ---- encoding of the time registers ---- */

static uint8_t rtc_encode(const struct rtc *r, int value)
{
    return (uint8_t)(r->s.ram[RTC_B] & B_BINARY ? value : value / 10 << 4 | value % 10);
}

static int rtc_decode(const struct rtc *r, uint8_t byte)
{
    return r->s.ram[RTC_B] & B_BINARY ? byte : (byte >> 4) * 10 + (byte & 15);
}

static uint8_t rtc_encode_hour(const struct rtc *r, int hour)
{
    if (r->s.ram[RTC_B] & B_24H)
        return rtc_encode(r, hour);
    return (uint8_t)(rtc_encode(r, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0));
}

static int rtc_decode_hour(const struct rtc *r, uint8_t byte)
{
    if (r->s.ram[RTC_B] & B_24H)
        return rtc_decode(r, byte);
    return rtc_decode(r, (uint8_t)(byte & ~HOUR_PM)) % 12 + (byte & HOUR_PM ? 12 : 0);
}

/* Time into the registers ... */
static void rtc_store_time(struct rtc *r, int64_t seconds)
{
    struct calendar c;
    calendar_from_seconds(seconds, &c);
    uint8_t *ram = r->s.ram;
    ram[RTC_SECONDS] = rtc_encode(r, c.second);
    ram[RTC_MINUTES] = rtc_encode(r, c.minute);
    ram[RTC_HOURS] = rtc_encode_hour(r, c.hour);
    ram[RTC_WEEKDAY] = rtc_encode(r, (c.weekday - 1 + r->s.weekday_offset) % 7 + 1);
    ram[RTC_DAY] = rtc_encode(r, c.day);
    ram[RTC_MONTH] = rtc_encode(r, c.month);
    int year = c.year < 0 ? 0 : c.year;
    ram[RTC_YEAR] = rtc_encode(r, year % 100);
    /* The century is a RAM byte that firmware and kernels keep in BCD, whatever DM says. */
    ram[RTC_CENTURY] = (uint8_t)(year / 1000 % 10 << 4 | year / 100 % 10);
}

/* ... and back; whatever the guest left there gives some time. */
static int64_t rtc_load_time(struct rtc *r)
{
    const uint8_t *ram = r->s.ram;
    int century = (ram[RTC_CENTURY] >> 4) * 10 + (ram[RTC_CENTURY] & 15);
    struct calendar c = {
        .second = rtc_decode(r, ram[RTC_SECONDS]),
        .minute = rtc_decode(r, ram[RTC_MINUTES]),
        .hour = rtc_decode_hour(r, ram[RTC_HOURS]),
        .day = rtc_decode(r, ram[RTC_DAY]),
        .month = rtc_decode(r, ram[RTC_MONTH]),
        .year = century * 100 + rtc_decode(r, ram[RTC_YEAR]),
    };
    int64_t seconds = calendar_to_seconds(&c);
    calendar_from_seconds(seconds, &c);
    int weekday = rtc_decode(r, ram[RTC_WEEKDAY]);
    r->s.weekday_offset = ((weekday - c.weekday) % 7 + 7) % 7;
    return seconds;
}

/* ---- events ---- */

/* A set of alarm values, or all of them; false if the register holds no time (such an alarm never comes). */
static bool rtc_alarm_field(int value, uint8_t byte, int limit, int *field)
{
    *field = byte >= ALARM_DONT_CARE ? -1 : value;
    return *field < limit;
}

/* The first second after seconds at which the alarm registers match; INT64_MAX if never. */
static int64_t rtc_next_alarm(const struct rtc *r, int64_t seconds)
{
    const uint8_t *ram = r->s.ram;
    int hour, minute, second;
    if (!rtc_alarm_field(rtc_decode_hour(r, ram[RTC_HOURS_ALARM]), ram[RTC_HOURS_ALARM], 24, &hour) ||
        !rtc_alarm_field(rtc_decode(r, ram[RTC_MINUTES_ALARM]), ram[RTC_MINUTES_ALARM], 60, &minute) ||
        !rtc_alarm_field(rtc_decode(r, ram[RTC_SECONDS_ALARM]), ram[RTC_SECONDS_ALARM], 60, &second))
        return INT64_MAX;
    /* Skips whole hours and minutes that do not match: a few hundred rounds at most. */
    int64_t t = seconds + 1;
    for (;;) {
        int64_t of_day = t - floor_div(t, 86400) * 86400;
        if (hour >= 0 && of_day / 3600 != hour)
            t += 3600 - of_day % 3600;
        else if (minute >= 0 && of_day / 60 % 60 != minute)
            t += 60 - of_day % 60;
        else if (second >= 0 && of_day % 60 != second)
            t++;
        else
            return t;
    }
}

/* Period of PF in ticks of the 32768 Hz crystal; 0 = none (data sheet, table 5). */
static int64_t rtc_period_ticks(const struct rtc *r)
{
    unsigned rate = r->s.ram[RTC_A] & A_RATE;
    if (rate == 0 || !rtc_divider_runs(r))
        return 0;
    return (int64_t)1 << (rate <= 2 ? rate + 6 : rate - 1);
}

static uint64_t rtc_next_period_ns(const struct rtc *r, uint64_t after_ns)
{
    int64_t period = rtc_period_ticks(r);
    if (!period)
        return UINT64_MAX;
    int64_t ticks = device_ticks_of_ns(after_ns, RTC_HZ);
    return device_ns_of_ticks((ticks / period + 1) * period, RTC_HZ);
}

static uint64_t rtc_next_update_ns(const struct rtc *r, uint64_t after_ns)
{
    return rtc_updates(r) ? rtc_moment(r, rtc_seconds(r, after_ns) + 1) : UINT64_MAX;
}

static uint64_t rtc_next_alarm_ns(const struct rtc *r, uint64_t after_ns)
{
    if (!rtc_updates(r))
        return UINT64_MAX;
    int64_t seconds = rtc_next_alarm(r, rtc_seconds(r, after_ns));
    return seconds == INT64_MAX ? UINT64_MAX : rtc_moment(r, seconds);
}

static uint8_t rtc_flags(const struct rtc *r)
{
    uint8_t flags = r->s.ram[RTC_C];
    return (uint8_t)(flags | (flags & r->s.ram[RTC_B] & (B_UIE | B_AIE | B_PIE) ? C_IRQF : 0));
}

/* Sets the flags of everything that happened since the last look. Must come before any register changes. */
static void rtc_catch_up(struct rtc *r)
{
    uint64_t now = machine_clock_ns(r->m), seen = r->s.seen_ns;
    if (now == seen)
        return;
    if (rtc_next_period_ns(r, seen) <= now)
        r->s.ram[RTC_C] |= C_PF;
    if (rtc_next_update_ns(r, seen) <= now)
        r->s.ram[RTC_C] |= C_UF;
    if (rtc_next_alarm_ns(r, seen) <= now)
        r->s.ram[RTC_C] |= C_AF;
    r->s.seen_ns = now;
}

/* Sets the interrupt line, and the timer for the next event that would raise it. */
static void rtc_follow(struct rtc *r)
{
    uint8_t flags = rtc_flags(r);
    uint8_t enabled = r->s.ram[RTC_B];
    machine_set_irq(r->m, RTC_IRQ, flags & C_IRQF);
    machine_timer_disarm(r->m, &r->timer);
    if (flags & C_IRQF) /* the line stays high until C is read: nothing more can happen */
        return;
    uint64_t next = UINT64_MAX, at;
    if ((enabled & B_PIE) && (at = rtc_next_period_ns(r, r->s.seen_ns)) < next)
        next = at;
    if ((enabled & B_UIE) && (at = rtc_next_update_ns(r, r->s.seen_ns)) < next)
        next = at;
    if ((enabled & B_AIE) && (at = rtc_next_alarm_ns(r, r->s.seen_ns)) < next)
        next = at;
    if (next != UINT64_MAX)
        machine_timer_arm(r->m, &r->timer, next);
}

static void rtc_fire(void *device, uint64_t now_ns)
{
    struct rtc *r = device;
    (void)now_ns;
    rtc_catch_up(r);
    rtc_follow(r);
}

/* ---- registers ---- */

static bool is_time_register(unsigned index)
{
    switch (index) {
    case RTC_SECONDS:
    case RTC_MINUTES:
    case RTC_HOURS:
    case RTC_WEEKDAY:
    case RTC_DAY:
    case RTC_MONTH:
    case RTC_YEAR:
    case RTC_CENTURY:
        return true;
    default:
        return false;
    }
}

static void rtc_write_time(struct rtc *r, unsigned index, uint8_t byte)
{
    if (!rtc_updates(r)) {
        r->s.ram[index] = byte;
        return;
    }
    int64_t before = rtc_seconds(r, r->s.seen_ns);
    rtc_store_time(r, before);
    r->s.ram[index] = byte;
    r->s.base_s += rtc_load_time(r) - before;
}

/* A or B changes: time stops or goes on. */
static void rtc_write_control(struct rtc *r, unsigned index, uint8_t byte)
{
    bool ran = rtc_updates(r), divided = rtc_divider_runs(r);
    int64_t now = (int64_t)r->s.seen_ns;
    if (ran)
        rtc_store_time(r, rtc_seconds(r, r->s.seen_ns));
    if (index == RTC_A) {
        r->s.ram[RTC_A] = (uint8_t)(byte & ~A_UIP);
    } else {
        r->s.ram[RTC_B] = (uint8_t)(byte & B_SET ? byte & ~B_UIE : byte); /* SET clears UIE */
        if (ran)
            rtc_store_time(r, rtc_seconds(r, r->s.seen_ns)); /* in the mode that B now asks for */
    }
    /* Out of the divider's reset the first update comes half a second later. */
    if (!divided && rtc_divider_runs(r))
        r->s.base_ns = now - NS_PER_S / 2;
    if (!ran && rtc_updates(r)) {
        int64_t phase_seconds = floor_div(now - r->s.base_ns, NS_PER_S);
        r->s.base_s = rtc_load_time(r) - phase_seconds;
    }
}

static void rtc_write_register(struct rtc *r, unsigned index, uint8_t byte)
{
    if (is_time_register(index))
        rtc_write_time(r, index, byte);
    else if (index == RTC_A || index == RTC_B)
        rtc_write_control(r, index, byte);
    else if (index != RTC_C && index != RTC_D)
        r->s.ram[index] = byte;
}

static uint8_t rtc_read_register(struct rtc *r, unsigned index)
{
    uint8_t value;
    if (is_time_register(index) && rtc_updates(r))
        rtc_store_time(r, rtc_seconds(r, r->s.seen_ns));
    switch (index) {
    case RTC_A:
        value = r->s.ram[RTC_A];
        if (rtc_next_update_ns(r, r->s.seen_ns) - r->s.seen_ns <= UIP_NS)
            value |= A_UIP;
        return value;
    case RTC_C:
        value = rtc_flags(r);
        r->s.ram[RTC_C] = 0;
        return value;
    default:
        return r->s.ram[index];
    }
}

static uint64_t rtc_read(void *device, uint64_t offset, unsigned size)
{
    struct rtc *r = device;
    (void)size;
    if (offset == 0)
        return 0xff; /* the index is write-only */
    rtc_catch_up(r);
    uint8_t value = rtc_read_register(r, r->s.index & (RTC_BYTES - 1));
    rtc_follow(r);
    return value;
}

static void rtc_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct rtc *r = device;
    (void)size;
    if (offset == 0) {
        r->s.index = (uint8_t)value;
        return;
    }
    rtc_catch_up(r);
    rtc_write_register(r, r->s.index & (RTC_BYTES - 1), (uint8_t)value);
    rtc_follow(r);
}

/* ---- start ---- */

static void cmos_store(struct rtc *r, unsigned index, unsigned bytes, uint64_t value, uint64_t limit)
{
    if (value > limit)
        value = limit;
    for (unsigned i = 0; i < bytes; i++)
        r->s.ram[index + i] = (uint8_t)(value >> (8 * i));
}

static void cmos_describe_memory(struct rtc *r, const struct guest_ram *ram)
{
    uint64_t low = ram->low_bytes, high = ram->size_bytes - ram->low_bytes;
    uint64_t above_1m = low > 1 << 20 ? low - (1 << 20) : 0;
    uint64_t above_16m = low > 16 << 20 ? low - (16 << 20) : 0;
    cmos_store(r, CMOS_BASE_KB, 2, 640, 640);
    cmos_store(r, CMOS_EXTENDED_KB, 2, above_1m >> 10, 0xffff);
    cmos_store(r, CMOS_EXTENDED_KB_2, 2, above_1m >> 10, 0xffff);
    cmos_store(r, CMOS_ABOVE_16M_64KB, 2, above_16m >> 16, 0xffff);
    cmos_store(r, CMOS_ABOVE_4G_64KB, 3, high >> 16, 0xffffff);
    r->s.ram[CMOS_EQUIPMENT] = EQUIPMENT_FPU;
    unsigned sum = 0;
    for (unsigned i = CMOS_CHECKSUM_FIRST; i <= CMOS_CHECKSUM_LAST; i++)
        sum += r->s.ram[i];
    r->s.ram[CMOS_CHECKSUM] = (uint8_t)(sum >> 8);
    r->s.ram[CMOS_CHECKSUM + 1] = (uint8_t)sum;
}

int rtc_cmos_attach(struct machine *m, struct error *err)
{
    struct rtc *r = device_create(m, sizeof(*r), "real-time clock", err);
    if (!r)
        return -ENOMEM;
    int64_t start_s = machine_host(m)->start_time_s;
    r->m = m;
    r->s.base_s = start_s < 0 ? 0 : start_s > SECONDS_LIMIT ? SECONDS_LIMIT : start_s;
    r->s.seen_ns = machine_clock_ns(m);
    r->s.ram[RTC_A] = A_DIVIDER_32KHZ | 6; /* 1024 Hz, as firmware sets it */
    r->s.ram[RTC_B] = B_24H;
    r->s.ram[RTC_D] = D_VRT;
    if (machine_ram(m))
        cmos_describe_memory(r, machine_ram(m));
    machine_timer_init(&r->timer, rtc_fire, r);
    return device_add_byte_ports(m, RTC_PORT, 2, rtc_read, rtc_write, r, "real-time clock", err);
}
