/* The local APIC: priorities, EOI, the PIC behind LINT0, messages, the timer in its three modes, what the vCPU has of it. */
#include "tests/devices/fixture.h"

#include "core/vcpu_state.h"

#define APIC ((gpa_t)0xfee00000)
enum {
    ID = 0x20,
    VERSION = 0x30,
    TPR = 0x80,
    PPR = 0xa0,
    EOI = 0xb0,
    LDR = 0xd0,
    DFR = 0xe0,
    SVR = 0xf0,
    ISR = 0x100,
    TMR = 0x180,
    IRR = 0x200,
    ESR = 0x280,
    ICR_LOW = 0x300,
    ICR_HIGH = 0x310,
    LVT_TIMER = 0x320,
    LVT_LINT0 = 0x350,
    LVT_ERROR = 0x370,
    INITIAL = 0x380,
    CURRENT = 0x390,
    DIVIDE = 0x3e0,
};
#define MASKED       0x10000u
#define PERIODIC     0x20000u
#define TSC_DEADLINE 0x40000u
#define DIVIDE_BY_1  0xbu
#define MSR_DEADLINE 0x6e0u
#define TO_SELF      0x40000u

struct rig {
    struct machine *m;
    struct vcpu_state vcpu;
    uint8_t served[8]; /* vectors whose end of interrupt was broadcast */
    unsigned served_count;
};

static const struct vcpu_state *vcpu_of(void *context)
{
    return &((struct rig *)context)->vcpu;
}

static void note_end_of_interrupt(void *device, uint8_t vector)
{
    struct rig *r = device;
    assert_in_range(r->served_count, 0, ARRAY_LEN(r->served) - 1);
    r->served[r->served_count++] = vector;
}

static int setup(void **state)
{
    struct rig *r = calloc(1, sizeof(*r));
    struct error err;
    assert_non_null(r);
    vcpu_state_reset(&r->vcpu);
    r->vcpu.apic_base |= APIC_BASE_ENABLE;
    struct machine_host host = {.vcpu = vcpu_of, .context = r};
    assert_int_equal(machine_create(&r->m, NULL, &host, &err), 0);
    assert_int_equal(pic_attach(r->m, &err), 0);
    assert_int_equal(local_apic_attach(r->m, &err), 0);
    machine_set_io_apic(r->m,
                        &(struct io_apic_interface){.end_of_interrupt = note_end_of_interrupt, .device = r});
    machine_set_clock_ns(r->m, 1000000);
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct rig *r = *state;
    machine_destroy(r->m);
    free(r);
    return 0;
}

static uint32_t get(struct rig *r, unsigned reg)
{
    return (uint32_t)machine_mmio_read(r->m, APIC + reg, 4);
}

static void set(struct rig *r, unsigned reg, uint32_t value)
{
    if (reg == TPR) /* as the vCPU does it */
        r->vcpu.cr8 = value >> 4 & 0xf;
    machine_mmio_write(r->m, APIC + reg, 4, value);
}

static void message(struct rig *r, uint8_t vector, bool level)
{
    machine_send_msi(r->m, APIC, vector | (level ? 0x8000u : 0));
}

/* The vector that the vCPU gets, or -1. */
static int take(struct rig *r)
{
    return machine_interrupt_pending(r->m) ? machine_interrupt_acknowledge(r->m) : -1;
}

static void run_to(struct rig *r, uint64_t ns)
{
    uint64_t next;
    while ((next = machine_next_deadline_ns(r->m)) <= ns) {
        machine_set_clock_ns(r->m, next);
        machine_run_timers(r->m);
    }
    machine_set_clock_ns(r->m, ns);
}

static void it_starts_in_virtual_wire_mode(void **state)
{
    struct rig *r = *state;
    assert_int_equal(get(r, ID), 0);
    assert_int_equal(get(r, VERSION), 0x50014);
    assert_int_equal(get(r, SVR), 0x1ff);
    assert_int_equal(get(r, LVT_LINT0), 0x700);
    machine_port_write(r->m, 0x21, 1, 0);
    machine_set_irq(r->m, 3, true);
    assert_int_equal(machine_interrupt_priority(r->m), MACHINE_PRIORITY_EXTINT);
    r->vcpu.cr8 = 15; /* does not matter to the PIC */
    assert_int_equal(take(r), 8 + 3);
    machine_set_irq(r->m, 5, true);
    machine_port_write(r->m, 0x20, 1, 0x20);
    set(r, LVT_LINT0, 0x700 | MASKED);
    assert_int_equal(take(r), -1);
    set(r, LVT_LINT0, 0x700);
    set(r, SVR, 0xff); /* software-disabled: the LVT is masked */
    assert_int_equal(get(r, LVT_LINT0), 0x700 | MASKED);
    assert_int_equal(take(r), -1);
}

static void without_the_apic_the_pic_is_the_vcpus(void **state)
{
    struct rig *r = *state;
    set(r, LVT_LINT0, MASKED);
    set(r, LVT_TIMER, 0x40);
    set(r, INITIAL, 1000000);
    message(r, 0x55, false);
    machine_port_write(r->m, 0x21, 1, 0);
    machine_set_irq(r->m, 3, true);
    r->vcpu.apic_base &= ~APIC_BASE_ENABLE;
    assert_int_equal(take(r), 8 + 3);
    assert_int_equal(get(r, VERSION), 0xffffffff);
    assert_true(machine_next_deadline_ns(r->m) == UINT64_MAX);
    r->vcpu.apic_base |= APIC_BASE_ENABLE; /* as after power up */
    assert_int_equal(get(r, SVR), 0xff);
    assert_int_equal(get(r, IRR + 0x20), 0);
    assert_int_equal(take(r), -1);
    r->vcpu.apic_base += 0x100000; /* moved: it does not answer at the old place */
    assert_int_equal(get(r, VERSION), 0xffffffff);
}

static void the_higher_class_interrupts_the_lower(void **state)
{
    struct rig *r = *state;
    message(r, 0x41, false);
    message(r, 0x43, false);
    message(r, 0x85, false);
    message(r, 0x43, false); /* once more is the same */
    assert_int_equal(get(r, IRR + 0x20), 0xau);
    assert_int_equal(get(r, IRR + 0x40), 0x20u);
    assert_int_equal(machine_interrupt_priority(r->m), 8);
    assert_int_equal(take(r), 0x85);
    assert_int_equal(get(r, ISR + 0x40), 0x20u);
    assert_int_equal(get(r, PPR), 0x80);
    assert_int_equal(take(r), -1);
    message(r, 0x8f, false); /* the same class has to wait */
    assert_int_equal(take(r), -1);
    message(r, 0x90, false);
    assert_int_equal(take(r), 0x90);
    set(r, EOI, 0);
    assert_int_equal(take(r), -1);
    set(r, EOI, 0);
    assert_int_equal(take(r), 0x8f);
    set(r, EOI, 0);
    assert_int_equal(take(r), 0x43);
    set(r, EOI, 0);
    assert_int_equal(take(r), 0x41);
    set(r, EOI, 0);
    set(r, EOI, 0); /* with nothing in service */
    assert_int_equal(get(r, PPR), 0);
}

static void cr8_and_tpr_hold_interrupts_back(void **state)
{
    struct rig *r = *state;
    set(r, TPR, 0x53);
    assert_int_equal(get(r, TPR), 0x53);
    assert_int_equal(get(r, PPR), 0x53);
    message(r, 0x5f, false);
    assert_int_equal(machine_interrupt_priority(r->m), 5);
    assert_int_equal(take(r), -1);
    r->vcpu.cr8 = 4; /* mov cr8 */
    assert_int_equal(get(r, TPR), 0x40);
    assert_int_equal(take(r), 0x5f);
    assert_int_equal(get(r, PPR), 0x50);
    r->vcpu.cr8 = 0xf;
    assert_int_equal(get(r, PPR), 0xf0);
}

static void level_interrupts_are_told_when_they_are_served(void **state)
{
    struct rig *r = *state;
    message(r, 0x61, true);
    message(r, 0x51, false);
    assert_int_equal(get(r, TMR + 0x30), 2);
    assert_int_equal(take(r), 0x61);
    set(r, EOI, 0);
    assert_int_equal(take(r), 0x51);
    set(r, EOI, 0);
    assert_int_equal(r->served_count, 1);
    assert_int_equal(r->served[0], 0x61);
    message(r, 0x61, false); /* edge now */
    assert_int_equal(take(r), 0x61);
    set(r, EOI, 0);
    assert_int_equal(r->served_count, 1);
}

static void messages_find_their_destination(void **state)
{
    struct rig *r = *state;
    const struct {
        uint64_t address;
        bool arrives;
    } physical[] = {{0xfee00000, true}, {0xfeeff000, true}, {0xfee01000, false}, {0xfed00000, false}};
    for (unsigned i = 0; i < ARRAY_LEN(physical); i++) {
        machine_send_msi(r->m, physical[i].address, 0x70);
        assert_int_equal(take(r), physical[i].arrives ? 0x70 : -1);
        set(r, EOI, 0);
    }
    set(r, LDR, 0x04000000);
    machine_send_msi(r->m, 0xfee0c004, 0x71); /* logical, flat: bit 2 of 1100b */
    assert_int_equal(take(r), 0x71);
    set(r, EOI, 0);
    machine_send_msi(r->m, 0xfee08004, 0x71);
    assert_int_equal(take(r), -1);
    set(r, DFR, 0);
    set(r, LDR, 0x32000000); /* cluster 3, member bit 1 */
    machine_send_msi(r->m, 0xfee3a004, 0x72);
    assert_int_equal(take(r), 0x72);
    set(r, EOI, 0);
    machine_send_msi(r->m, 0xfee4a004, 0x72);
    assert_int_equal(take(r), -1);
    machine_send_msi(r->m, 0xfee00000, 0x173); /* lowest priority is the same with one vCPU */
    assert_int_equal(take(r), 0x73);
    machine_send_msi(r->m, 0xfee00000, 0x402); /* NMI: not delivered */
    machine_send_msi(r->m, 0xfee00000, 0x500); /* INIT */
    assert_int_equal(take(r), -1);
}

static void interrupts_to_oneself(void **state)
{
    struct rig *r = *state;
    set(r, ICR_LOW, TO_SELF | 0x80);
    assert_int_equal(get(r, ICR_LOW) & 0x1000, 0); /* delivered */
    assert_int_equal(take(r), 0x80);
    set(r, EOI, 0);
    set(r, ICR_LOW, 0x80000 | 0x81); /* all including self */
    assert_int_equal(take(r), 0x81);
    set(r, EOI, 0);
    set(r, ICR_LOW, 0xc0000 | 0x82); /* all others */
    assert_int_equal(take(r), -1);
    set(r, ICR_HIGH, 0);
    set(r, ICR_LOW, 0x83);
    assert_int_equal(take(r), 0x83);
    set(r, EOI, 0);
    set(r, ICR_HIGH, 0x05000000);
    set(r, ICR_LOW, 0x84);
    assert_int_equal(take(r), -1);
}

static void illegal_vectors_are_errors(void **state)
{
    struct rig *r = *state;
    set(r, LVT_ERROR, 0xfe);
    set(r, ICR_LOW, TO_SELF | 0x05);
    message(r, 0x0f, false);
    assert_int_equal(get(r, ESR), 0); /* shown after a write */
    set(r, ESR, 0);
    assert_int_equal(get(r, ESR), 0x60);
    set(r, ESR, 0);
    assert_int_equal(get(r, ESR), 0);
    assert_int_equal(take(r), 0xfe);
    set(r, EOI, 0);
    set(r, LVT_ERROR, 0x03); /* an error of the error's own does no harm */
    message(r, 0x02, false);
    assert_int_equal(take(r), -1);
}

static void a_one_shot_counts_down_once(void **state)
{
    struct rig *r = *state;
    uint64_t start = machine_clock_ns(r->m);
    set(r, LVT_TIMER, 0x40);
    set(r, DIVIDE, 0x3); /* by 16 */
    set(r, INITIAL, 1000);
    run_to(r, start + 1600);
    assert_int_equal(get(r, CURRENT), 900);
    run_to(r, start + 15999);
    assert_int_equal(take(r), -1);
    run_to(r, start + 16000);
    assert_int_equal(take(r), 0x40);
    set(r, EOI, 0);
    assert_int_equal(get(r, CURRENT), 0);
    assert_int_equal(get(r, INITIAL), 1000);
    run_to(r, start + 1000000);
    assert_int_equal(take(r), -1);
    set(r, LVT_TIMER, 0x40 | MASKED);
    set(r, INITIAL, 10);
    run_to(r, start + 2000000);
    assert_int_equal(take(r), -1);
    set(r, INITIAL, 10);
    set(r, INITIAL, 0); /* stops */
    assert_true(machine_next_deadline_ns(r->m) == UINT64_MAX);
}

static void a_periodic_timer_keeps_its_beat(void **state)
{
    struct rig *r = *state;
    uint64_t start = machine_clock_ns(r->m);
    set(r, LVT_TIMER, 0x40 | PERIODIC);
    set(r, DIVIDE, DIVIDE_BY_1);
    set(r, INITIAL, 1000000);
    for (unsigned i = 1; i <= 20; i++) {
        run_to(r, start + i * 1000000 - 1);
        assert_int_equal(take(r), -1);
        run_to(r, start + i * 1000000);
        assert_int_equal(take(r), 0x40);
        set(r, EOI, 0);
    }
    machine_set_clock_ns(r->m, start + 25300000); /* late: what was missed is gone, the beat is not */
    machine_run_timers(r->m);
    assert_int_equal(take(r), 0x40);
    set(r, EOI, 0);
    assert_int_equal(get(r, CURRENT), 700000);
    assert_int_equal(machine_next_deadline_ns(r->m), start + 26000000);
}

/* However short the period, and whatever is written, the host is not woken more often than each 20 us. */
static void a_rapid_timer_is_slowed_down(void **state)
{
    struct rig *r = *state;
    set(r, LVT_TIMER, 0x40 | PERIODIC);
    set(r, DIVIDE, DIVIDE_BY_1);
    set(r, INITIAL, 1);
    unsigned fired = 0;
    uint64_t end = machine_clock_ns(r->m) + 1000000;
    while (machine_next_deadline_ns(r->m) <= end) {
        machine_set_clock_ns(r->m, machine_next_deadline_ns(r->m));
        machine_run_timers(r->m);
        fired++;
    }
    assert_in_range(fired, 40, 51);
}

static void a_deadline_is_a_time_of_the_tsc(void **state)
{
    struct rig *r = *state;
    uint64_t start = machine_clock_ns(r->m), value = 1;
    assert_true(machine_msr_write(r->m, MSR_DEADLINE, start + 500)); /* not in this mode: ignored */
    assert_true(machine_msr_read(r->m, MSR_DEADLINE, &value));
    assert_int_equal(value, 0);
    set(r, LVT_TIMER, 0x40 | TSC_DEADLINE);
    set(r, INITIAL, 1000); /* the other way round */
    assert_int_equal(get(r, INITIAL), 0);
    machine_set_tsc_offset(r->m, (uint64_t)-5000); /* the guest has set its TSC back */
    machine_msr_write(r->m, MSR_DEADLINE, start - 5000 + 2000);
    machine_msr_read(r->m, MSR_DEADLINE, &value);
    assert_int_equal(value, start - 3000);
    run_to(r, start + 1999);
    assert_int_equal(take(r), -1);
    run_to(r, start + 2000);
    assert_int_equal(take(r), 0x40);
    set(r, EOI, 0);
    machine_msr_read(r->m, MSR_DEADLINE, &value);
    assert_int_equal(value, 0);               /* disarmed */
    machine_msr_write(r->m, MSR_DEADLINE, 1); /* past: at once */
    assert_int_equal(take(r), 0x40);
    set(r, EOI, 0);
    machine_msr_write(r->m, MSR_DEADLINE, start + 100000);
    machine_set_tsc_offset(r->m, 200000); /* the TSC leaps over it */
    assert_int_equal(take(r), 0x40);
    set(r, EOI, 0);
    machine_msr_write(r->m, MSR_DEADLINE, UINT64_MAX);
    assert_true(machine_next_deadline_ns(r->m) != UINT64_MAX);
    machine_msr_write(r->m, MSR_DEADLINE, 0);
    assert_true(machine_next_deadline_ns(r->m) == UINT64_MAX);
    machine_msr_write(r->m, MSR_DEADLINE, UINT64_MAX);
    set(r, LVT_TIMER, 0x40); /* another mode disarms */
    assert_true(machine_next_deadline_ns(r->m) == UINT64_MAX);
    assert_false(machine_msr_read(r->m, 0x802, &value)); /* no x2APIC */
    assert_false(machine_msr_write(r->m, 0x808, 0));
}

static void only_aligned_words_are_registers(void **state)
{
    struct rig *r = *state;
    assert_int_equal(machine_mmio_read(r->m, APIC + VERSION, 1), 0);
    assert_int_equal(machine_mmio_read(r->m, APIC + VERSION + 4, 4), 0);
    machine_mmio_write(r->m, APIC + SVR, 2, 0);
    machine_mmio_write(r->m, APIC + SVR + 8, 4, 0);
    assert_int_equal(get(r, SVR), 0x1ff);
    set(r, VERSION, 0);
    set(r, IRR + 0x20, 0xff);
    set(r, ISR + 0x20, 0xff);
    assert_int_equal(get(r, VERSION), 0x50014);
    assert_int_equal(get(r, IRR + 0x20) | get(r, ISR + 0x20), 0);
}

static void an_acknowledge_without_a_request_is_spurious(void **state)
{
    struct rig *r = *state;
    set(r, SVR, 0x1e7);
    assert_int_equal(machine_interrupt_acknowledge(r->m), 0xe7);
    assert_int_equal(get(r, ISR + 0x70), 0);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(it_starts_in_virtual_wire_mode),
        T(without_the_apic_the_pic_is_the_vcpus),
        T(the_higher_class_interrupts_the_lower),
        T(cr8_and_tpr_hold_interrupts_back),
        T(level_interrupts_are_told_when_they_are_served),
        T(messages_find_their_destination),
        T(interrupts_to_oneself),
        T(illegal_vectors_are_errors),
        T(a_one_shot_counts_down_once),
        T(a_periodic_timer_keeps_its_beat),
        T(a_rapid_timer_is_slowed_down),
        T(a_deadline_is_a_time_of_the_tsc),
        T(only_aligned_words_are_registers),
        T(an_acknowledge_without_a_request_is_spurious),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
