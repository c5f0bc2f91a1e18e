/*
 * The vCPU's local APIC (SDM 3, chapter 10, "Advanced Programmable Interrupt Controller"), in xAPIC mode, with the timer's TSC-deadline
 * mode. Registers are at fee00000, 32 bits every 16 bytes.
 *
 * Two of its registers are the vCPU's. IA32_APIC_BASE says whether it is enabled; it is looked at whenever the APIC is used, and an
 * APIC that was disabled meanwhile starts afresh. The task priority is CR8 (10.8.6.1): the vCPU itself writes CR8 when the guest
 * writes TPR here, so that replay, which has no APIC, does the same, and MOV to CR8 crosses nothing. The lower four bits of TPR,
 * which CR8 does not have and which have no effect, are kept here.
 *
 * At the start it is as firmware leaves it for the boot processor: enabled, in virtual wire mode (the PIC's interrupts go through
 * LINT0). What is not there: moving the registers elsewhere, NMI, SMI and INIT messages (one vCPU sends none to itself), a PIC
 * behind LINT0 in another mode than ExtINT.
 */
#include "devices/devices.h"
#include "devices/device.h"

#include <errno.h>
#include <string.h>

#include "core/vcpu_state.h"

#define APIC_ADDRESS ((gpa_t)0xfee00000)
#define APIC_BYTES   4096u
#define VERSION      0x00050014u /* the highest LVT entry is 5 */

#define BASE_ADDRESS_MASK (~PAGE_MASK)
_Static_assert(PAGE_SIZE_BYTES == APIC_BYTES, "the registers fill a page");

enum apic_register {
    REG_ID = 0x020,
    REG_VERSION = 0x030,
    REG_TPR = APIC_TPR_OFFSET,
    REG_APR = 0x090,
    REG_PPR = 0x0a0,
    REG_EOI = 0x0b0,
    REG_LDR = 0x0d0,
    REG_DFR = 0x0e0,
    REG_SVR = 0x0f0,
    REG_ISR = 0x100, /* eight each */
    REG_TMR = 0x180,
    REG_IRR = 0x200,
    REG_ESR = 0x280,
    REG_ICR_LOW = 0x300,
    REG_ICR_HIGH = 0x310,
    REG_LVT_TIMER = 0x320, /* six, to 370 */
    REG_TIMER_INITIAL = 0x380,
    REG_TIMER_CURRENT = 0x390,
    REG_TIMER_DIVIDE = 0x3e0,
};

enum lvt_entry { LVT_TIMER, LVT_THERMAL, LVT_PERFORMANCE, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };

#define VECTOR_MASK         0xffu
#define DELIVERY_MODE(v)    ((v) >> 8 & 7)
#define LVT_MASKED          0x10000u
#define LVT_TIMER_MODE(v)   ((v) >> 17 & 3)
#define DELIVERY_STATUS     0x1000u /* read-only; always idle here */
#define SVR_ENABLE          0x100u
#define SVR_WRITABLE        0x1ffu
#define TIMER_DIVIDE_MASK   0xbu
#define FIRST_LEGAL_VECTOR  16u
#define ICR_WRITABLE        0x000ccfffu
#define SHORTHAND(icr)      ((icr) >> 18 & 3)
#define ICR_LOGICAL         0x800u
#define ICR_LEVEL_TRIGGERED 0x8000u
#define MSI_LOGICAL         0x4u
#define BROADCAST           0xffu

enum delivery_mode { DELIVER_FIXED = 0, DELIVER_LOWEST = 1, DELIVER_NMI = 4, DELIVER_EXTINT = 7 };
enum timer_mode { TIMER_ONE_SHOT = 0, TIMER_PERIODIC = 1, TIMER_TSC_DEADLINE = 2 };
enum shorthand { TO_DESTINATION, TO_SELF, TO_ALL, TO_OTHERS };
enum error_bit { ERROR_SEND_VECTOR = 0x20, ERROR_RECEIVE_VECTOR = 0x40, ERROR_REGISTER = 0x80 };

#define MSR_TSC_DEADLINE 0x6e0u

/* A periodic timer wakes the host no more often than this; a shorter period counts as this one. */
#define MIN_PERIOD_NS 20000u

static const uint32_t lvt_writable[LVT_COUNT] = {
    [LVT_TIMER] = 0x700ff, [LVT_THERMAL] = 0x107ff, [LVT_PERFORMANCE] = 0x107ff,
    [LVT_LINT0] = 0x1a7ff, [LVT_LINT1] = 0x1a7ff,   [LVT_ERROR] = 0x100ff,
};

struct local_apic_state {
    bool enabled; /* IA32_APIC_BASE when the APIC was last looked at */
    uint8_t id;
    uint8_t tpr; /* as the guest wrote it; its class counts only while it is CR8's */
    uint32_t ldr, dfr, svr, icr_low, icr_high, esr, errors;
    uint32_t isr[8], tmr[8], irr[8];
    uint32_t lvt[LVT_COUNT];
    uint32_t timer_initial, timer_divide;
    uint64_t timer_start_ns; /* when timer_initial was written, or the last period began */
    uint64_t tsc_deadline;   /* 0: not armed */
};

struct local_apic {
    struct local_apic_state s;
    struct machine *m;
    struct machine_timer timer;
};

/* The timer counts nanoseconds, divided (10.5.4, figure 10-10): 0 means divide by 2, ... 6 by 128, 7 by 1. */
static unsigned divide_shift(const struct local_apic *a)
{
    unsigned code = (a->s.timer_divide & 3) | (a->s.timer_divide >> 1 & 4);
    return (code + 1) & 7;
}

/* ---- sets of 256 vectors ---- */

static bool set_has(const uint32_t set[8], unsigned vector)
{
    return set[vector / 32] >> (vector % 32) & 1;
}

static void set_put(uint32_t set[8], unsigned vector, bool in)
{
    uint32_t bit = (uint32_t)1 << (vector % 32);
    set[vector / 32] = in ? set[vector / 32] | bit : set[vector / 32] & ~bit;
}

/* The highest vector in the set, 0 if it is empty: there is never one below 16 in it. */
static unsigned set_highest(const uint32_t set[8])
{
    for (unsigned i = 8; i-- > 0;)
        if (set[i])
            return i * 32 + 31 - (unsigned)__builtin_clz(set[i]);
    return 0;
}

/* ---- power up, the vCPU's registers ---- */

static void reset(struct local_apic *a)
{
    uint8_t id = a->s.id;
    machine_timer_disarm(a->m, &a->timer);
    a->s = (struct local_apic_state){.id = id, .dfr = UINT32_MAX, .svr = 0xff};
    for (unsigned i = 0; i < LVT_COUNT; i++)
        a->s.lvt[i] = LVT_MASKED;
}

/* What the MultiProcessor Specification 1.4, 3.6.2.2, calls virtual wire mode. */
static void virtual_wire(struct local_apic *a)
{
    a->s.svr = SVR_ENABLE | 0xff;
    a->s.lvt[LVT_LINT0] = DELIVER_EXTINT << 8;
    a->s.lvt[LVT_LINT1] = DELIVER_NMI << 8;
}

/* Follows IA32_APIC_BASE. True: the APIC is there. */
static bool look_at_base(struct local_apic *a)
{
    const struct vcpu_state *vcpu = machine_vcpu(a->m);
    bool enabled = !vcpu || (vcpu->apic_base & APIC_BASE_ENABLE);
    if (a->s.enabled && !enabled)
        reset(a);
    a->s.enabled = enabled;
    return enabled;
}

static bool registers_are_here(struct local_apic *a)
{
    const struct vcpu_state *vcpu = machine_vcpu(a->m);
    return look_at_base(a) && (!vcpu || (vcpu->apic_base & BASE_ADDRESS_MASK) == APIC_ADDRESS);
}

static bool software_enabled(const struct local_apic *a)
{
    return a->s.svr & SVR_ENABLE;
}

static uint32_t task_priority(const struct local_apic *a)
{
    const struct vcpu_state *vcpu = machine_vcpu(a->m);
    if (!vcpu || vcpu->cr8 == a->s.tpr >> 4)
        return a->s.tpr;
    return (uint32_t)vcpu->cr8 << 4; /* MOV to CR8 clears the lower bits */
}

static uint32_t processor_priority(const struct local_apic *a)
{
    uint32_t task = task_priority(a), service = set_highest(a->s.isr) & 0xf0;
    return task >> 4 >= service >> 4 ? task : service;
}

/* ---- accepting interrupts ---- */

static void accept(struct local_apic *a, unsigned vector, bool level);

static void report_error(struct local_apic *a, uint32_t error)
{
    uint32_t entry = a->s.lvt[LVT_ERROR];
    a->s.errors |= error;
    if (!(entry & LVT_MASKED) && (entry & VECTOR_MASK) >= FIRST_LEGAL_VECTOR)
        accept(a, entry & VECTOR_MASK, false);
}

static void accept(struct local_apic *a, unsigned vector, bool level)
{
    if (!software_enabled(a))
        return;
    if (vector < FIRST_LEGAL_VECTOR) {
        report_error(a, ERROR_RECEIVE_VECTOR);
        return;
    }
    set_put(a->s.irr, vector, true);
    set_put(a->s.tmr, vector, level);
}

static void local_interrupt(struct local_apic *a, enum lvt_entry which)
{
    uint32_t entry = a->s.lvt[which];
    if (!(entry & LVT_MASKED))
        accept(a, entry & VECTOR_MASK, false);
}

/* 10.6.2: physical, flat or cluster destination. */
static bool addressed(const struct local_apic *a, uint8_t destination, bool logical)
{
    uint8_t ldr = (uint8_t)(a->s.ldr >> 24);
    if (!logical)
        return destination == a->s.id || destination == BROADCAST;
    if (a->s.dfr >> 28 == 0xf)
        return destination & ldr;
    return (destination >> 4 == ldr >> 4 || destination >> 4 == 0xf) && (destination & ldr & 0xf);
}

static void deliver(struct local_apic *a, unsigned mode, unsigned vector, bool level)
{
    if (mode == DELIVER_FIXED || mode == DELIVER_LOWEST)
        accept(a, vector, level);
}

static void apic_message(void *device, uint64_t address, uint32_t data)
{
    struct local_apic *a = device;
    if (look_at_base(a) && addressed(a, (uint8_t)(address >> 12), address & MSI_LOGICAL))
        deliver(a, DELIVERY_MODE(data), data & VECTOR_MASK, data & ICR_LEVEL_TRIGGERED);
}

static void send_interprocessor(struct local_apic *a)
{
    uint32_t icr = a->s.icr_low;
    unsigned to = SHORTHAND(icr), mode = DELIVERY_MODE(icr), vector = icr & VECTOR_MASK;
    bool self = to == TO_SELF || to == TO_ALL ||
                (to == TO_DESTINATION && addressed(a, (uint8_t)(a->s.icr_high >> 24), icr & ICR_LOGICAL));
    if (mode <= DELIVER_LOWEST && vector < FIRST_LEGAL_VECTOR)
        report_error(a, ERROR_SEND_VECTOR);
    else if (self)
        deliver(a, mode, vector, false);
}

static bool extint(struct local_apic *a)
{
    if (!look_at_base(a))
        return machine_pic_pending(a->m);
    uint32_t entry = a->s.lvt[LVT_LINT0];
    return software_enabled(a) && !(entry & LVT_MASKED) && DELIVERY_MODE(entry) == DELIVER_EXTINT &&
           machine_pic_pending(a->m);
}

static unsigned apic_priority(void *device)
{
    struct local_apic *a = device;
    if (extint(a))
        return MACHINE_PRIORITY_EXTINT;
    unsigned request = set_highest(a->s.irr) >> 4;
    return request > set_highest(a->s.isr) >> 4 ? request : 0;
}

static uint8_t apic_acknowledge(void *device)
{
    struct local_apic *a = device;
    if (extint(a))
        return machine_pic_acknowledge(a->m);
    unsigned vector = set_highest(a->s.irr);
    if (vector >> 4 <= set_highest(a->s.isr) >> 4)
        return (uint8_t)(a->s.svr & VECTOR_MASK); /* spurious (10.9) */
    set_put(a->s.irr, vector, false);
    set_put(a->s.isr, vector, true);
    return (uint8_t)vector;
}

static void end_of_interrupt(struct local_apic *a)
{
    unsigned vector = set_highest(a->s.isr);
    if (!vector)
        return;
    set_put(a->s.isr, vector, false);
    if (set_has(a->s.tmr, vector))
        machine_end_of_interrupt(a->m, (uint8_t)vector);
}

/* ---- the timer ---- */

static unsigned timer_mode(const struct local_apic *a)
{
    return LVT_TIMER_MODE(a->s.lvt[LVT_TIMER]);
}

static uint64_t timer_period_ns(const struct local_apic *a)
{
    return (uint64_t)a->s.timer_initial << divide_shift(a);
}

static void timer_fire(void *device, uint64_t now_ns)
{
    struct local_apic *a = device;
    a->s.tsc_deadline = 0;
    if (timer_mode(a) == TIMER_PERIODIC && a->s.timer_initial) {
        uint64_t period = timer_period_ns(a), behind = now_ns - a->s.timer_start_ns;
        a->s.timer_start_ns += behind - behind % period;
        uint64_t next = a->s.timer_start_ns + period;
        machine_timer_arm(a->m, &a->timer, next > now_ns + MIN_PERIOD_NS ? next : now_ns + MIN_PERIOD_NS);
    }
    local_interrupt(a, LVT_TIMER);
}

/* Counting starts anew: the initial count, the divider or the mode was written. */
static void timer_start(struct local_apic *a)
{
    uint64_t now = machine_clock_ns(a->m);
    machine_timer_disarm(a->m, &a->timer);
    a->s.timer_start_ns = now;
    if (timer_mode(a) > TIMER_PERIODIC || !a->s.timer_initial)
        return;
    uint64_t period = timer_period_ns(a);
    bool rapid = timer_mode(a) == TIMER_PERIODIC && period < MIN_PERIOD_NS;
    machine_timer_arm(a->m, &a->timer, now + (rapid ? MIN_PERIOD_NS : period));
}

static uint32_t timer_current(const struct local_apic *a)
{
    if (timer_mode(a) > TIMER_PERIODIC || !a->timer.armed)
        return 0;
    uint64_t period = timer_period_ns(a), elapsed = machine_clock_ns(a->m) - a->s.timer_start_ns;
    if (timer_mode(a) == TIMER_PERIODIC)
        elapsed %= period;
    return elapsed >= period
               ? 0
               : (uint32_t)((period - elapsed + ((uint64_t)1 << divide_shift(a)) - 1) >> divide_shift(a));
}

/* The deadline is a time of the TSC, which may have moved; one that is past interrupts at once (10.5.4.1). */
static void deadline_start(struct local_apic *a)
{
    uint64_t now = machine_clock_ns(a->m), tsc = now + machine_tsc_offset(a->m), deadline;
    machine_timer_disarm(a->m, &a->timer);
    if (!a->s.tsc_deadline)
        return;
    if (a->s.tsc_deadline <= tsc) {
        timer_fire(a, now);
        return;
    }
    if (__builtin_add_overflow(now, a->s.tsc_deadline - tsc, &deadline))
        deadline = UINT64_MAX - 1;
    machine_timer_arm(a->m, &a->timer, deadline);
}

static void apic_tsc_moved(void *device)
{
    struct local_apic *a = device;
    if (a->s.tsc_deadline)
        deadline_start(a);
}

static bool apic_msr_read(void *device, uint32_t index, uint64_t *value)
{
    struct local_apic *a = device;
    *value = index == MSR_TSC_DEADLINE && look_at_base(a) ? a->s.tsc_deadline : 0;
    return index == MSR_TSC_DEADLINE;
}

static bool apic_msr_write(void *device, uint32_t index, uint64_t value)
{
    struct local_apic *a = device;
    if (index != MSR_TSC_DEADLINE)
        return false;
    if (look_at_base(a) && timer_mode(a) == TIMER_TSC_DEADLINE) {
        a->s.tsc_deadline = value;
        deadline_start(a);
    }
    return true;
}

/* ---- registers ---- */

static void write_lvt(struct local_apic *a, unsigned which, uint32_t value)
{
    unsigned old_mode = timer_mode(a);
    a->s.lvt[which] = value & lvt_writable[which];
    if (!software_enabled(a))
        a->s.lvt[which] |= LVT_MASKED;
    if (which != LVT_TIMER || timer_mode(a) == old_mode)
        return;
    /* To and from TSC-deadline mode disarms (10.5.4.1). */
    if (old_mode == TIMER_TSC_DEADLINE || timer_mode(a) == TIMER_TSC_DEADLINE) {
        a->s.tsc_deadline = 0;
        a->s.timer_initial = 0;
    }
    if (a->timer.armed)
        timer_start(a);
}

static void write_svr(struct local_apic *a, uint32_t value)
{
    a->s.svr = value & SVR_WRITABLE;
    for (unsigned i = 0; i < LVT_COUNT && !software_enabled(a); i++)
        a->s.lvt[i] |= LVT_MASKED;
}

static void write_register(struct local_apic *a, unsigned reg, uint32_t value)
{
    switch (reg) {
    case REG_ID:
        a->s.id = (uint8_t)(value >> 24);
        break;
    case REG_TPR: /* the vCPU has put the class into CR8 */
        a->s.tpr = (uint8_t)value;
        break;
    case REG_EOI:
        end_of_interrupt(a);
        break;
    case REG_LDR:
        a->s.ldr = value & 0xff000000;
        break;
    case REG_DFR:
        a->s.dfr = value | 0x0fffffff;
        break;
    case REG_SVR:
        write_svr(a, value);
        break;
    case REG_ESR:
        a->s.esr = a->s.errors;
        a->s.errors = 0;
        break;
    case REG_ICR_LOW:
        a->s.icr_low = value & ICR_WRITABLE;
        send_interprocessor(a);
        break;
    case REG_ICR_HIGH:
        a->s.icr_high = value & 0xff000000;
        break;
    case REG_TIMER_INITIAL:
        if (timer_mode(a) != TIMER_TSC_DEADLINE) {
            a->s.timer_initial = value;
            timer_start(a);
        }
        break;
    case REG_TIMER_DIVIDE:
        a->s.timer_divide = value & TIMER_DIVIDE_MASK;
        if (a->timer.armed && timer_mode(a) != TIMER_TSC_DEADLINE)
            timer_start(a);
        break;
    default:
        if (reg >= REG_LVT_TIMER && reg < REG_TIMER_INITIAL)
            write_lvt(a, (reg - REG_LVT_TIMER) >> 4, value);
        break;
    }
}

static uint32_t read_register(struct local_apic *a, unsigned reg)
{
    if (reg >= REG_ISR && reg < REG_ESR) {
        const uint32_t *set = reg < REG_TMR ? a->s.isr : reg < REG_IRR ? a->s.tmr : a->s.irr;
        return set[reg >> 4 & 7];
    }
    if (reg >= REG_LVT_TIMER && reg < REG_TIMER_INITIAL)
        return a->s.lvt[(reg - REG_LVT_TIMER) >> 4];
    switch (reg) {
    case REG_ID:
        return (uint32_t)a->s.id << 24;
    case REG_VERSION:
        return VERSION;
    case REG_TPR:
        return task_priority(a);
    case REG_APR: /* arbitration with others, of which there are none */
    case REG_PPR:
        return processor_priority(a);
    case REG_LDR:
        return a->s.ldr;
    case REG_DFR:
        return a->s.dfr;
    case REG_SVR:
        return a->s.svr;
    case REG_ESR:
        return a->s.esr;
    case REG_ICR_LOW:
        return a->s.icr_low;
    case REG_ICR_HIGH:
        return a->s.icr_high;
    case REG_TIMER_INITIAL:
        return a->s.timer_initial;
    case REG_TIMER_CURRENT:
        return timer_current(a);
    case REG_TIMER_DIVIDE:
        return a->s.timer_divide;
    default:
        return 0;
    }
}

/* Only aligned accesses of 32 bits are defined (10.4.1). */
static uint64_t apic_read(void *device, uint64_t offset, unsigned size)
{
    struct local_apic *a = device;
    if (!registers_are_here(a))
        return UINT64_MAX;
    return offset % 16 || size != 4 ? 0 : read_register(a, (unsigned)offset);
}

static void apic_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct local_apic *a = device;
    if (registers_are_here(a) && offset % 16 == 0 && size == 4)
        write_register(a, (unsigned)offset, (uint32_t)value);
}

int local_apic_attach(struct machine *m, struct error *err)
{
    struct local_apic *a = device_create(m, sizeof(*a), "local APIC", err);
    if (!a)
        return -ENOMEM;
    a->m = m;
    machine_timer_init(&a->timer, timer_fire, a);
    reset(a);
    a->s.enabled = true;
    virtual_wire(a);
    machine_set_local_apic(m, &(struct local_apic_interface){.priority = apic_priority,
                                                             .acknowledge = apic_acknowledge,
                                                             .message = apic_message,
                                                             .msr_read = apic_msr_read,
                                                             .msr_write = apic_msr_write,
                                                             .tsc_moved = apic_tsc_moved,
                                                             .device = a});
    const struct io_range range = {.start = APIC_ADDRESS,
                                   .length = APIC_BYTES,
                                   .read = apic_read,
                                   .write = apic_write,
                                   .device = a,
                                   .name = "local APIC"};
    return machine_add_mmio(m, &range, err);
}
