/* The same guests in KVM and in the emulator: the same crossings, and equal states and RAM at each of them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "core/kvm/kvm_engine.h"
#include "tests/kvm/kvm_test.h"

#define DECLARE_PROGRAM(name) extern const uint8_t program_##name[], program_##name##_end[]
DECLARE_PROGRAM(handler);
DECLARE_PROGRAM(arithmetic);
DECLARE_PROGRAM(segments);
DECLARE_PROGRAM(strings);
DECLARE_PROGRAM(mmio);
DECLARE_PROGRAM(rare);
DECLARE_PROGRAM(user);
DECLARE_PROGRAM(boot);
#define PROGRAM(name) program_##name, (size_t)(program_##name##_end - program_##name)

#define GUEST_REAL 0x7000

struct pair {
    struct test_vm kvm, emu;
};

/* Handlers of all vectors: mov ecx, vector; jmp to the common part. */
static void put_handlers(struct guest_ram *ram)
{
    const uint32_t common = GUEST_HANDLERS + 256 * 16;
    for (uint32_t v = 0; v < 256; v++) {
        uint32_t at = GUEST_HANDLERS + 16 * v, distance = common - (at + 10);
        uint8_t code[10] = {0xb9, (uint8_t)v, 0, 0, 0, 0xe9};
        memcpy(code + 6, &distance, 4);
        test_ram_put(ram, at, code, sizeof(code));
        test_set_gate(ram, v, at, 3);
    }
    test_ram_put(ram, common, program_handler, (size_t)(program_handler_end - program_handler));
}

static void create_pair(struct pair *p, const uint8_t *code, size_t length, const struct vcpu_state *state)
{
    test_vm_create(&p->kvm, code, length, state);
    test_vm_create_emu(&p->emu, code, length, state);
    put_handlers(p->kvm.ram);
    put_handlers(p->emu.ram);
}

static void destroy_pair(struct pair *p)
{
    test_vm_destroy(&p->kvm);
    test_vm_destroy(&p->emu);
}

static void expect_same_crossings(const struct test_boundary *a, const struct test_boundary *b)
{
    for (unsigned i = 0; i < a->count && i < b->count; i++) {
        const struct crossing *x = &a->crossing[i], *y = &b->crossing[i];
        if (x->kind != y->kind || x->address != y->address || x->size != y->size || x->value != y->value)
            fail_msg("crossing %u: kvm %d 0x%llx.%u=0x%llx, emu %d 0x%llx.%u=0x%llx", i, (int)x->kind,
                     (unsigned long long)x->address, x->size, (unsigned long long)x->value, (int)y->kind,
                     (unsigned long long)y->address, y->size, (unsigned long long)y->value);
    }
    assert_int_equal(a->count, b->count);
}

/* In page tables processors may set A and D bits early or late. */
static uint64_t ignored_bits(uint64_t gpa)
{
    return gpa >= GUEST_PAGE_TABLES && gpa < GUEST_PAGE_TABLES + 0x3000 ? 0x60 : 0;
}

static void expect_same_ram(const struct guest_ram *a, const struct guest_ram *b)
{
    for (uint64_t gpa = 0; gpa < a->size_bytes; gpa += 8) {
        uint64_t x, y;
        memcpy(&x, a->host + gpa, 8);
        memcpy(&y, b->host + gpa, 8);
        if ((x ^ y) & ~ignored_bits(gpa))
            fail_msg("RAM at 0x%llx: kvm 0x%llx, emu 0x%llx", (unsigned long long)gpa, (unsigned long long)x,
                     (unsigned long long)y);
    }
}

static struct vcpu_state comparable(struct engine *engine)
{
    struct vcpu_state s = *engine->ops->state(engine);
    /* The last x87 instruction: some processors only keep it when it raised an exception. */
    s.fpu.fip = s.fpu.fdp = s.fpu.fop = s.fpu.fcs = s.fpu.fds = 0;
    return s;
}

/* Runs both from one write to ports 0x80..0x8f to the next, until the guest halts or max times. Returns how often. */
static unsigned compare(struct pair *p, unsigned max)
{
    p->kvm.boundary.stop_at_ports = p->emu.boundary.stop_at_ports = true;
    for (unsigned n = 1; n <= max; n++) {
        int kvm = test_run(p->kvm.engine, false), emu = test_run(p->emu.engine, false);
        expect_same_crossings(&p->kvm.boundary, &p->emu.boundary);
        assert_int_equal(kvm, emu);
        char text[4096];
        struct vcpu_state a = comparable(p->kvm.engine), b = comparable(p->emu.engine);
        if (vcpu_state_diff(&a, &b, text, sizeof(text)))
            fail_msg("stop %u, rip 0x%llx: kvm / emu\n%s", n, (unsigned long long)b.rip, text);
        expect_same_ram(p->kvm.ram, p->emu.ram);
        if (a.activity == ACTIVITY_HALTED)
            return n;
    }
    return max;
}

static struct vcpu_state start_state(unsigned cpl)
{
    struct vcpu_state s = test_state(cpl, false);
    s.gpr[GPR_RBX] = GUEST_DATA;
    return s;
}

static void arithmetic_is_the_same(void **unused)
{
    (void)unused;
    struct pair p;
    struct vcpu_state s = start_state(0);
    create_pair(&p, PROGRAM(arithmetic), &s);
    assert_true(compare(&p, 100) < 100);
    destroy_pair(&p);
}

static void segments_and_system_registers_are_the_same(void **unused)
{
    (void)unused;
    struct pair p;
    struct vcpu_state s = start_state(0);
    create_pair(&p, PROGRAM(segments), &s);
    assert_true(compare(&p, 100) < 100);
    destroy_pair(&p);
}

static void string_instructions_are_the_same(void **unused)
{
    (void)unused;
    struct pair p;
    struct vcpu_state s = start_state(0);
    create_pair(&p, PROGRAM(strings), &s);
    assert_true(compare(&p, 200) < 200);
    destroy_pair(&p);
}

static void mmio_in_pieces_is_the_same(void **unused)
{
    (void)unused;
    struct pair p;
    struct vcpu_state s = start_state(0);
    create_pair(&p, PROGRAM(mmio), &s);
    assert_true(compare(&p, 100) < 100);
    destroy_pair(&p);
}

static void what_kvm_cannot_execute_the_emulator_does(void **unused)
{
    (void)unused;
    struct pair p;
    struct vcpu_state s = start_state(0);
    create_pair(&p, PROGRAM(rare), &s);
    assert_true(compare(&p, 100) < 100);
    printf("instructions that were executed for KVM: %llu\n",
           (unsigned long long)kvm_engine_statistics(p.kvm.engine)->emulated_steps);
    destroy_pair(&p);
}

static void pages_written_for_kvm_are_collected(void **unused)
{
    (void)unused;
    struct test_vm vm;
    struct error err;
    struct vcpu_state s = start_state(0);
    s.gpr[GPR_RAX] = s.gpr[GPR_RDX] = 0;
    test_vm_create(&vm, CODE(0x48, 0x0f, 0xc7, 0x0b, 0xf4), &s); /* cmpxchg16b [rbx]; hlt */
    assert_int_equal(vm.engine->ops->collect_dirty(vm.engine, &err), 0);
    ram_clear_dirty(vm.ram);
    assert_int_equal(test_run(vm.engine, false), ENGINE_STOP_HALT);
    assert_int_equal(vm.engine->ops->collect_dirty(vm.engine, &err), 0);
    assert_true(vm.ram->page_flags[GUEST_DATA >> 12] & RAM_PAGE_DIRTY);
    uint64_t low;
    assert_int_equal(ram_read(vm.ram, GUEST_DATA, &low, 8), 0);
    assert_int_equal(low, GUEST_DATA); /* RBX */
    test_vm_destroy(&vm);
}

static void user_code_and_its_exceptions_are_the_same(void **unused)
{
    (void)unused;
    struct pair p;
    struct vcpu_state s = start_state(3);
    s.rflags |= RFLAGS_IF; /* as user code always has it: kvm_pvm shows it set at CPL 3 anyway */
    create_pair(&p, PROGRAM(user), &s);
    assert_int_equal(compare(&p, 12), 12);
    destroy_pair(&p);
}

static void boot_from_real_mode_is_the_same(void **unused)
{
    (void)unused;
    struct pair p;
    struct vcpu_state s = test_real_mode_state(GUEST_REAL);
    create_pair(&p, PROGRAM(boot), &s);
    test_ram_put(p.kvm.ram, GUEST_REAL, PROGRAM(boot));
    test_ram_put(p.emu.ram, GUEST_REAL, PROGRAM(boot));
    assert_true(compare(&p, 100) < 100);
    destroy_pair(&p);
}

/* Interrupts at the same places lead to the same states. */
static void interrupts_are_delivered_the_same(void **unused)
{
    (void)unused;
    struct pair p;
    struct error err;
    struct vcpu_state s = start_state(0);
    s.rflags |= RFLAGS_IF;
    create_pair(&p, CODE(0xe6, 0x80, 0x01, 0xc8, 0xeb, 0xfa), &s); /* out 0x80, al; add eax, ecx; jmp */
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(compare(&p, 1), 1); /* OUT of the loop */
        assert_true(p.kvm.engine->ops->can_interrupt(p.kvm.engine));
        assert_true(p.emu.engine->ops->can_interrupt(p.emu.engine));
        assert_int_equal(p.kvm.engine->ops->interrupt(p.kvm.engine, (uint8_t)(0x30 + i), &err), 0);
        assert_int_equal(p.emu.engine->ops->interrupt(p.emu.engine, (uint8_t)(0x30 + i), &err), 0);
        assert_int_equal(compare(&p, 2), 2); /* both of the handler */
        assert_int_equal(p.kvm.engine->ops->state(p.kvm.engine)->gpr[GPR_RCX], 0x30 + i);
    }
    destroy_pair(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arithmetic_is_the_same),
        cmocka_unit_test(segments_and_system_registers_are_the_same),
        cmocka_unit_test(string_instructions_are_the_same),
        cmocka_unit_test(mmio_in_pieces_is_the_same),
        cmocka_unit_test(what_kvm_cannot_execute_the_emulator_does),
        cmocka_unit_test(pages_written_for_kvm_are_collected),
        cmocka_unit_test(user_code_and_its_exceptions_are_the_same),
        cmocka_unit_test(boot_from_real_mode_is_the_same),
        cmocka_unit_test(interrupts_are_delivered_the_same),
    };
    if (!test_kvm_is_usable())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
