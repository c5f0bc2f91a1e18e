#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/kvm/kvm_engine.h"
#include "core/kvm/kvm_probe.h"
#include "core/x86/emu.h"
#include "tests/kvm/kvm_test.h"
#include "tests/stages.h"

#define TEST_RAM_BYTES ((uint64_t)4 << 20)

/* ---- boundary ---- */

static int note(struct boundary *boundary, enum crossing_kind kind, uint64_t address, unsigned size,
                uint64_t value)
{
    struct test_boundary *b = container_of(boundary, struct test_boundary, boundary);
    if (b->forget && b->count == MAX_CROSSINGS)
        b->count = 0;
    assert_true(b->count < MAX_CROSSINGS);
    b->crossing[b->count++] = (struct crossing){kind, address, size, value};
    if (b->fail_after == b->count)
        return -EIO;
    bool at_port = b->stop_at_ports && kind == PIO_WRITE && address >> 4 == 8;
    return at_port || b->stop_after == b->count ? BOUNDARY_STOP : BOUNDARY_OK;
}

static uint64_t answer(struct boundary *boundary, unsigned size)
{
    struct test_boundary *b = container_of(boundary, struct test_boundary, boundary);
    uint64_t value = b->next_value++;
    return size >= 8 ? value : value & ((1ull << (8 * size)) - 1);
}

static int on_pio_read(struct boundary *b, position_t p, uint16_t port, unsigned size, uint32_t *value)
{
    (void)p;
    *value = (uint32_t)answer(b, size);
    return note(b, PIO_READ, port, size, *value);
}

static int on_pio_write(struct boundary *b, position_t p, uint16_t port, unsigned size, uint32_t value)
{
    (void)p;
    return note(b, PIO_WRITE, port, size, value);
}

static int on_mmio_read(struct boundary *b, position_t p, gpa_t gpa, unsigned size, uint64_t *value)
{
    (void)p;
    *value = answer(b, size);
    return note(b, MMIO_READ, gpa, size, *value);
}

static int on_mmio_write(struct boundary *b, position_t p, gpa_t gpa, unsigned size, uint64_t value)
{
    (void)p;
    return note(b, MMIO_WRITE, gpa, size, value);
}

static int on_cpu_read(struct boundary *b, position_t p, enum boundary_source source, uint32_t argument,
                       uint64_t *value, bool *valid)
{
    (void)p;
    (void)argument;
    *valid = true;
    *value = answer(b, 8);
    return note(b, CPU_READ, source, 8, *value);
}

static int on_msr_read(struct boundary *b, position_t p, uint32_t index, uint64_t *value, bool *known)
{
    (void)p;
    *known = index != 0x999;
    *value = answer(b, 8);
    return note(b, MSR_READ, index, 8, *value);
}

static int on_msr_write(struct boundary *b, position_t p, uint32_t index, uint64_t value, bool *known)
{
    (void)p;
    *known = index != 0x999;
    return note(b, MSR_WRITE, index, 8, value);
}

static int on_halted(struct boundary *b, position_t p)
{
    (void)p;
    return note(b, HALTED, 0, 0, 0);
}

void test_boundary_init(struct test_boundary *b)
{
    static const struct boundary_ops ops = {
        .pio_read = on_pio_read,
        .pio_write = on_pio_write,
        .mmio_read = on_mmio_read,
        .mmio_write = on_mmio_write,
        .cpu_read = on_cpu_read,
        .msr_read = on_msr_read,
        .msr_write = on_msr_write,
        .halted = on_halted,
    };
    memset(b, 0, sizeof(*b));
    b->boundary.ops = &ops;
    b->next_value = 0x1122334455667788;
}

void test_expect_crossing(const struct test_boundary *b, unsigned index, enum crossing_kind kind,
                          uint64_t address, unsigned size, uint64_t value)
{
    assert_true(index < b->count);
    const struct crossing *c = &b->crossing[index];
    assert_int_equal(c->kind, kind);
    assert_int_equal(c->address, address);
    assert_int_equal(c->size, size);
    assert_int_equal(c->value, value);
}

/* ---- guest memory ---- */

void test_ram_put(struct guest_ram *ram, uint64_t gpa, const void *data, size_t length)
{
    assert_int_equal(ram_write(ram, gpa, data, length), 0);
}

static void put_u64(struct guest_ram *ram, uint64_t gpa, uint64_t value)
{
    test_ram_put(ram, gpa, &value, sizeof(value));
}

void test_set_gate(struct guest_ram *ram, unsigned vector, uint64_t handler, unsigned dpl)
{
    const uint64_t interrupt_gate = 0x8e, selector = SEL_KERNEL_CODE;
    put_u64(ram, GUEST_IDT + 16 * vector,
            (handler & 0xffff) | selector << 16 | (interrupt_gate | dpl << 5) << 40 |
                (handler >> 16 & 0xffff) << 48);
    put_u64(ram, GUEST_IDT + 16 * vector + 8, handler >> 32);
}

struct guest_ram *test_ram_create(void)
{
    struct guest_ram *ram = NULL;
    struct error err;
    if (ram_create(&ram, TEST_RAM_BYTES, &err) < 0)
        fail_msg("%s", err.message);
    static const uint64_t gdt[] = {
        0,
        0x00af9b000000ffff,                             /* kernel code, 64 bit */
        0x00cf93000000ffff,                             /* kernel data */
        0x00affb000000ffff,                             /* user code, 64 bit */
        0x00cff3000000ffff,                             /* user data */
        0x00008b0000000067 | (uint64_t)GUEST_TSS << 16, /* TSS, busy */
        0,
    };
    test_ram_put(ram, GUEST_GDT, gdt, sizeof(gdt));
    put_u64(ram, GUEST_TSS + 4, GUEST_KERNEL_STACK_TOP); /* RSP0 */
    put_u64(ram, GUEST_PAGE_TABLES, (GUEST_PAGE_TABLES + 0x1000) | 7);
    put_u64(ram, GUEST_PAGE_TABLES + 0x1000, (GUEST_PAGE_TABLES + 0x2000) | 7);
    for (uint64_t i = 0; i < 512; i++)
        put_u64(ram, GUEST_PAGE_TABLES + 0x2000 + 8 * i, i << 21 | 0x87);
    return ram;
}

static struct segment flat(uint16_t selector, unsigned type, unsigned dpl, unsigned extra)
{
    return (struct segment){
        .limit = 0xffffffff,
        .selector = selector,
        .rights = (uint16_t)(type | SEGMENT_S | dpl << SEGMENT_DPL_SHIFT | SEGMENT_P | SEGMENT_G | extra)};
}

struct vcpu_state test_state(unsigned cpl, bool interrupts)
{
    struct vcpu_state s;
    vcpu_state_reset(&s);
    for (unsigned i = 0; i < SEG_COUNT; i++)
        s.seg[i] = flat(cpl ? SEL_USER_DATA : SEL_KERNEL_DATA, 3, cpl, SEGMENT_DB);
    s.seg[SEG_CS] = flat(cpl ? SEL_USER_CODE : SEL_KERNEL_CODE, 11, cpl, SEGMENT_L);
    s.tr = (struct segment){.base = GUEST_TSS, .limit = 0x67, .selector = SEL_TSS, .rights = SEGMENT_P | 11};
    s.ldtr = (struct segment){0};
    s.gdtr = (struct descriptor_table){GUEST_GDT, 0x37};
    s.idtr = (struct descriptor_table){GUEST_IDT, 0xfff};
    s.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    s.cr3 = GUEST_PAGE_TABLES;
    s.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    s.efer = EFER_LME | EFER_LMA | EFER_SCE;
    s.rip = GUEST_CODE;
    s.gpr[GPR_RSP] = cpl ? GUEST_USER_STACK_TOP : GUEST_KERNEL_STACK_TOP;
    if (interrupts)
        s.rflags |= RFLAGS_IF;
    return s;
}

struct vcpu_state test_real_mode_state(uint16_t rip)
{
    struct vcpu_state s;
    vcpu_state_reset(&s);
    s.seg[SEG_CS].selector = 0;
    s.seg[SEG_CS].base = 0;
    s.rip = rip;
    s.gpr[GPR_RSP] = 0x9000;
    return s;
}

/* ---- vm ---- */

static void prepare(struct test_vm *vm, const void *code, size_t length)
{
    memset(vm, 0, sizeof(*vm));
    vm->ram = test_ram_create();
    test_ram_put(vm->ram, GUEST_CODE, code, length);
    cpu_model_init(&vm->model, CPU_PROFILE_KVM);
    test_boundary_init(&vm->boundary);
}

static void start(struct test_vm *vm, int created, const struct vcpu_state *state, struct error *err)
{
    if (created < 0 || vm->engine->ops->set_state(vm->engine, state, err) < 0)
        fail_msg("%s", err->message);
}

void test_vm_create(struct test_vm *vm, const void *code, size_t length, const struct vcpu_state *state)
{
    struct error err = {0};
    prepare(vm, code, length);
    start(vm, kvm_engine_create(&vm->engine, vm->ram, &vm->boundary.boundary, &vm->model, &err), state, &err);
}

void test_vm_create_emu(struct test_vm *vm, const void *code, size_t length, const struct vcpu_state *state)
{
    struct error err = {0};
    prepare(vm, code, length);
    int result = emu_create(&vm->engine, vm->ram, &vm->boundary.boundary, &vm->model, &err);
    if (result == 0)
        stages_from_environment(vm->engine);
    start(vm, result, state, &err);
}

void test_vm_destroy(struct test_vm *vm)
{
    vm->engine->ops->destroy(vm->engine);
    ram_destroy(vm->ram);
}

int test_run(struct engine *engine, bool want_window)
{
    struct error err = {0};
    const struct engine_request request = {.limit = POSITION_UNKNOWN, .want_window = want_window};
    int stop = engine->ops->run(engine, &request, &err);
    if (stop < 0)
        fail_msg("%s", err.message);
    return stop;
}

void test_expect_equal_states(const struct vcpu_state *a, const struct vcpu_state *b)
{
    char text[4096];
    if (vcpu_state_diff(a, b, text, sizeof(text)))
        fail_msg("states differ:\n%s", text);
}

bool test_kvm_is_usable(void)
{
    struct error err = {0};
    if (kvm_probe_usable(&err) == 0)
        return true;
    printf("skipped: %s\n", err.message);
    return false;
}
