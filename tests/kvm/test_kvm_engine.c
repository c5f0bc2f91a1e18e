/* The kvm engine: state, crossings of the boundary, interrupts, kicks, the dirty log. Needs /dev/kvm. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/kvm/kvm_engine.h"
#include "core/kvm/kvm_probe.h"
#include "tests/kvm/kvm_test.h"

/* ---- state ---- */

static struct vcpu_state full_state(void)
{
    struct vcpu_state s = test_state(3, true);
    for (unsigned i = 0; i < GPR_COUNT; i++)
        s.gpr[i] = 0x0101010101010101u * (i + 1);
    s.rflags |= RFLAGS_CF | RFLAGS_OF | RFLAGS_DF | RFLAGS_AC;
    s.seg[SEG_FS].base = 0x00007f0012345678;
    s.seg[SEG_GS].base = 0xffff800012345678;
    s.seg[SEG_DS] = (struct segment){0};
    s.seg[SEG_ES] = (struct segment){.selector = 3};
    s.ldtr = (struct segment){.base = 0x5000, .limit = 0xff, .selector = 0x30, .rights = SEGMENT_P | 2};
    s.cr2 = 0xffff8000deadbeef;
    s.cr4 |= CR4_PGE | CR4_DE | CR4_TSD;
    s.cr8 = 5;
    s.dr[0] = 0x1111;
    s.dr[3] = 0x3333;
    s.dr6 = DR6_FIXED | DR6_BS | 1;
    s.dr7 = DR7_FIXED | 0x300;
    s.efer |= EFER_NXE;
    s.star = 0x0010000800000000;
    s.lstar = 0xffff800000001000;
    s.cstar = 0xffff800000002000;
    s.sfmask = 0x47700;
    s.kernel_gs_base = 0xffff900000000000;
    s.sysenter_cs = 8;
    s.sysenter_esp = 0xffff800000003000;
    s.sysenter_eip = 0xffff800000004000;
    s.pat = 0x0007040600070406;
    s.tsc_aux = 7;
    s.misc_enable = 1;
    for (unsigned i = 0; i < 16; i++)
        memset(s.fpu.ymm[i], (int)(0xa0 + i), 16);
    for (unsigned i = 0; i < 8; i++)
        memset(s.fpu.st[i], (int)(0x40 + i), 10);
    s.fpu.fcw = 0x27f;
    s.fpu.fsw = 0x1840;
    s.fpu.ftw = 0xa5;
    s.fpu.fop = 0x123;
    s.fpu.mxcsr = 0x9fc0;
    return s;
}

static void state_comes_back_as_it_was_set(void **unused)
{
    (void)unused;
    struct test_vm vm;
    struct error err;
    struct vcpu_state full = full_state(), user = test_state(3, true), kernel = test_state(0, false), reset;
    struct vcpu_state shadow = test_state(0, true);
    vcpu_state_reset(&reset);
    shadow.shadow = SHADOW_MOV_SS;
    shadow.nmi_blocked = 1;
    const struct vcpu_state *const states[] = {&reset, &kernel, &user, &full, &shadow, &reset, &full};
    test_vm_create(&vm, CODE(0xf4), &reset);
    for (size_t i = 0; i < ARRAY_LEN(states); i++) {
        if (vm.engine->ops->set_state(vm.engine, states[i], &err) < 0)
            fail_msg("state %zu: %s", i, err.message);
        test_expect_equal_states(vm.engine->ops->state(vm.engine), states[i]);
    }
    test_vm_destroy(&vm);
}

static void pending_debug_trap_comes_back_and_is_delivered(void **unused)
{
    (void)unused;
    struct test_vm vm;
    struct vcpu_state s = test_state(0, false);
    s.pending_debug = 0x40;
    test_vm_create(&vm, CODE(0x90, 0xf4), &s);
    test_expect_equal_states(vm.engine->ops->state(vm.engine), &s);
    test_set_gate(vm.ram, VEC_DB, GUEST_HANDLERS, 0);
    test_ram_put(vm.ram, GUEST_HANDLERS, CODE(0xf4));
    assert_int_equal(test_run(vm.engine, false), ENGINE_STOP_HALT);
    const struct vcpu_state *after = vm.engine->ops->state(vm.engine);
    assert_int_equal(after->rip, GUEST_HANDLERS + 1);
    assert_true(after->dr6 & DR6_BS);
    uint64_t saved_rip;
    assert_int_equal(ram_read(vm.ram, after->gpr[GPR_RSP], &saved_rip, 8), 0);
    assert_int_equal(saved_rip, GUEST_CODE);
    test_vm_destroy(&vm);
}

static void state_that_the_cpu_cannot_have_is_refused(void **unused)
{
    (void)unused;
    struct test_vm vm;
    struct error err = {0};
    struct vcpu_state s = test_state(0, false);
    test_vm_create(&vm, CODE(0xf4), &s);
    s.cr4 &= ~CR4_PAE; /* long mode needs it */
    assert_int_equal(vm.engine->ops->set_state(vm.engine, &s, &err), -EINVAL);
    s = test_state(0, false);
    s.fpu.ymm[3][20] = 1;
    assert_int_equal(vm.engine->ops->set_state(vm.engine, &s, &err), -EINVAL);
    test_vm_destroy(&vm);
}

/* ---- crossings ---- */

static void port_accesses_of_all_sizes_cross(void **unused)
{
    (void)unused;
    struct test_vm vm;
    struct vcpu_state s = test_state(0, false);
    s.gpr[GPR_RDX] = 0x3f8;
    s.gpr[GPR_RAX] = 0xa1b2c3d4;
    /* out 0x80, al; out dx, ax; out dx, eax; in al, dx; mov ebx, eax; in ax, dx; mov ecx, eax; in eax, dx; hlt */
    test_vm_create(
        &vm, CODE(0xe6, 0x80, 0x66, 0xef, 0xef, 0xec, 0x89, 0xc3, 0x66, 0xed, 0x89, 0xc1, 0xed, 0xf4), &s);
    assert_int_equal(test_run(vm.engine, false), ENGINE_STOP_HALT);
    const struct test_boundary *b = &vm.boundary;
    assert_int_equal(b->count, 7);
    test_expect_crossing(b, 0, PIO_WRITE, 0x80, 1, 0xd4);
    test_expect_crossing(b, 1, PIO_WRITE, 0x3f8, 2, 0xc3d4);
    test_expect_crossing(b, 2, PIO_WRITE, 0x3f8, 4, 0xa1b2c3d4);
    test_expect_crossing(b, 3, PIO_READ, 0x3f8, 1, 0x88);
    test_expect_crossing(b, 4, PIO_READ, 0x3f8, 2, 0x7789);
    test_expect_crossing(b, 5, PIO_READ, 0x3f8, 4, 0x5566778a);
    test_expect_crossing(b, 6, HALTED, 0, 0, 0);
    const struct vcpu_state *after = vm.engine->ops->state(vm.engine);
    assert_int_equal(after->gpr[GPR_RBX], 0xa1b2c388);
    assert_int_equal(after->gpr[GPR_RCX], 0xa1b27789);
    assert_int_equal(after->gpr[GPR_RAX], 0x5566778a);
    assert_int_equal(after->activity, ACTIVITY_HALTED);
    assert_int_equal(after->rip, GUEST_CODE + 14);
    assert_true(kvm_engine_after_crossing(vm.engine));
    test_vm_destroy(&vm);
}

static void each_item_of_a_string_instruction_crosses_once(void **unused)
{
    (void)unused;
    struct test_vm vm;
    struct vcpu_state s = test_state(0, false);
    s.gpr[GPR_RDX] = 0x1f0;
    s.gpr[GPR_RCX] = 5;
    s.gpr[GPR_RSI] = GUEST_DATA;
    s.gpr[GPR_RDI] = GUEST_DATA + 0x100;
    /* rep outsw; mov ecx, 6; rep insb; hlt */
    test_vm_create(&vm, CODE(0xf3, 0x66, 0x6f, 0xb9, 6, 0, 0, 0, 0xf3, 0x6c, 0xf4), &s);
    for (uint16_t i = 0; i < 5; i++) {
        uint16_t word = (uint16_t)(0x1000 + i);
        test_ram_put(vm.ram, GUEST_DATA + 2u * i, &word, 2);
    }
    assert_int_equal(test_run(vm.engine, false), ENGINE_STOP_HALT);
    assert_int_equal(vm.boundary.count, 12);
    for (unsigned i = 0; i < 5; i++)
        test_expect_crossing(&vm.boundary, i, PIO_WRITE, 0x1f0, 2, 0x1000 + i);
    uint8_t in[7];
    assert_int_equal(ram_read(vm.ram, GUEST_DATA + 0x100, in, sizeof(in)), 0);
    for (unsigned i = 0; i < 6; i++) {
        test_expect_crossing(&vm.boundary, 5 + i, PIO_READ, 0x1f0, 1, 0x88 + i);
        assert_int_equal(in[i], 0x88 + i);
    }
    assert_int_equal(in[6], 0);
    const struct vcpu_state *after = vm.engine->ops->state(vm.engine);
    assert_int_equal(after->gpr[GPR_RCX], 0);
    assert_int_equal(after->gpr[GPR_RDI], GUEST_DATA + 0x106);
    test_vm_destroy(&vm);
}

static void memory_without_ram_crosses(void **unused)
{
    (void)unused;
    struct test_vm vm;
    struct vcpu_state s = test_state(0, false);
    s.gpr[GPR_RBX] = GUEST_MMIO;
    s.gpr[GPR_RAX] = 0x8877665544332211;
    test_vm_create(&vm,
                   CODE(0x88, 0x03,                    /* mov [rbx], al */
                        0x66, 0x89, 0x43, 0x02,        /* mov [rbx+2], ax */
                        0x89, 0x43, 0x04,              /* mov [rbx+4], eax */
                        0x48, 0x89, 0x43, 0x08,        /* mov [rbx+8], rax */
                        0x89, 0x43, 0x12,              /* mov [rbx+0x12], eax: not aligned */
                        0x48, 0x8b, 0x4b, 0x08,        /* mov rcx, [rbx+8] */
                        0x66, 0x8b, 0x53, 0x01,        /* mov dx, [rbx+1]: not aligned */
                        0x83, 0x43, 0x04, 0x01, 0xf4), /* add dword [rbx+4], 1; hlt */
                   &s);
    assert_int_equal(test_run(vm.engine, false), ENGINE_STOP_HALT);
    const struct test_boundary *b = &vm.boundary;
    test_expect_crossing(b, 0, MMIO_WRITE, GUEST_MMIO, 1, 0x11);
    test_expect_crossing(b, 1, MMIO_WRITE, GUEST_MMIO + 2, 2, 0x2211);
    test_expect_crossing(b, 2, MMIO_WRITE, GUEST_MMIO + 4, 4, 0x44332211);
    test_expect_crossing(b, 3, MMIO_WRITE, GUEST_MMIO + 8, 8, 0x8877665544332211);
    for (unsigned i = 0; i < 4; i++)
        test_expect_crossing(b, 4 + i, MMIO_WRITE, GUEST_MMIO + 0x12 + i, 1, 0x11 * (i + 1));
    test_expect_crossing(b, 8, MMIO_READ, GUEST_MMIO + 8, 8, 0x1122334455667788);
    test_expect_crossing(b, 9, MMIO_READ, GUEST_MMIO + 1, 1, 0x89);
    test_expect_crossing(b, 10, MMIO_READ, GUEST_MMIO + 2, 1, 0x8a);
    test_expect_crossing(b, 11, MMIO_READ, GUEST_MMIO + 4, 4, 0x5566778b);
    test_expect_crossing(b, 12, MMIO_WRITE, GUEST_MMIO + 4, 4, 0x5566778c);
    assert_int_equal(b->count, 14);
    const struct vcpu_state *after = vm.engine->ops->state(vm.engine);
    assert_int_equal(after->gpr[GPR_RCX], 0x1122334455667788);
    assert_int_equal(after->gpr[GPR_RDX] & 0xffff, 0x8a89);
    test_vm_destroy(&vm);
}

static void msrs_outside_the_state_cross(void **unused)
{
    (void)unused;
    struct test_vm vm;
    struct vcpu_state s = test_state(0, false);
    s.gpr[GPR_RCX] = 0x10;
    /* rdmsr; mov rbx, rax; mov ecx, 0x8b; wrmsr; mov ecx, 0x1b; rdmsr; mov esi, eax; mov ecx, 0xc0000082; wrmsr;
     * mov ecx, 0x999; rdmsr (#GP) */
    test_vm_create(&vm,
                   CODE(0x0f, 0x32, 0x48, 0x89, 0xc3, 0xb9, 0x8b, 0, 0, 0, 0x0f, 0x30, 0xb9, 0x1b, 0, 0, 0,
                        0x0f, 0x32, 0x89, 0xc6, 0xb9, 0x82, 0, 0, 0xc0, 0x0f, 0x30, 0xb9, 0x99, 9, 0, 0, 0x0f,
                        0x32),
                   &s);
    test_set_gate(vm.ram, VEC_GP, GUEST_HANDLERS, 0);
    test_ram_put(vm.ram, GUEST_HANDLERS, CODE(0xf4));
    assert_int_equal(test_run(vm.engine, false), ENGINE_STOP_HALT);
    const struct test_boundary *b = &vm.boundary;
    assert_int_equal(b->count, 4);
    test_expect_crossing(b, 0, CPU_READ, SOURCE_RDTSC, 8, 0x1122334455667788);
    test_expect_crossing(b, 1, MSR_WRITE, 0x8b, 8, 0x1122334455667788);
    test_expect_crossing(b, 2, MSR_READ, 0x999, 8, 0x1122334455667789);
    const struct vcpu_state *after = vm.engine->ops->state(vm.engine);
    assert_int_equal(after->rip, GUEST_HANDLERS + 1);
    assert_int_equal(after->gpr[GPR_RBX], 0x55667788);
    assert_int_equal(after->gpr[GPR_RSI], s.apic_base);
    assert_int_equal(after->lstar, s.apic_base); /* EDX:EAX of the RDMSR before */
    test_vm_destroy(&vm);
}

static void boundary_stop_comes_after_the_instruction(void **unused)
{
    (void)unused;
    struct test_vm vm;
    struct vcpu_state s = test_state(0, false);
    s.gpr[GPR_RBX] = GUEST_MMIO;
    /* in al, 0x60; mov eax, [rbx]; hlt */
    test_vm_create(&vm, CODE(0xe4, 0x60, 0x8b, 0x03, 0xf4), &s);
    vm.boundary.stop_after = 1;
    assert_int_equal(test_run(vm.engine, false), ENGINE_STOP_BOUNDARY);
    assert_true(kvm_engine_after_crossing(vm.engine));
    assert_int_equal(vm.engine->ops->state(vm.engine)->rip, GUEST_CODE + 2);
    assert_int_equal(vm.engine->ops->state(vm.engine)->gpr[GPR_RAX], 0x88);
    vm.boundary.stop_after = 2;
    assert_int_equal(test_run(vm.engine, false), ENGINE_STOP_BOUNDARY);
    assert_int_equal(vm.engine->ops->state(vm.engine)->rip, GUEST_CODE + 4);
    assert_int_equal(vm.engine->ops->state(vm.engine)->gpr[GPR_RAX], 0x55667789);
    assert_int_equal(test_run(vm.engine, false), ENGINE_STOP_HALT);
    test_vm_destroy(&vm);
}

static void failing_boundary_leaves_the_state_before_the_instruction(void **unused)
{
    (void)unused;
    struct test_vm vm;
    struct error err;
    struct vcpu_state s = test_state(0, false);
    s.gpr[GPR_RAX] = 0x1234;
    test_vm_create(&vm, CODE(0x90, 0xe4, 0x60, 0xf4), &s); /* nop; in al, 0x60; hlt */
    vm.boundary.fail_after = 1;
    assert_int_equal(test_run(vm.engine, false), ENGINE_STOP_BOUNDARY);
    assert_int_equal(vm.engine->ops->state(vm.engine)->rip, GUEST_CODE + 1);
    assert_int_equal(vm.engine->ops->state(vm.engine)->gpr[GPR_RAX], 0x1234);
    assert_false(vm.engine->ops->can_interrupt(vm.engine));
    const struct engine_request request = {.limit = POSITION_UNKNOWN};
    assert_int_equal(vm.engine->ops->run(vm.engine, &request, &err), -EIO);
    test_vm_destroy(&vm);
}

static void state_can_be_replaced_in_the_middle_of_an_access(void **unused)
{
    (void)unused;
    struct test_vm vm;
    struct error err;
    struct vcpu_state s = test_state(0, false);
    s.gpr[GPR_RSI] = GUEST_MMIO;
    s.gpr[GPR_RDI] = GUEST_DATA;
    s.gpr[GPR_RCX] = 50;
    test_vm_create(&vm, CODE(0xf3, 0xa4, 0xf4), &s); /* rep movsb from MMIO */
    vm.boundary.stop_after = 1;
    assert_int_equal(test_run(vm.engine, false), ENGINE_STOP_BOUNDARY);
    assert_int_equal(vm.engine->ops->state(vm.engine)->gpr[GPR_RCX], 49);
    s.rip = GUEST_CODE + 2;
    assert_int_equal(vm.engine->ops->set_state(vm.engine, &s, &err), 0);
    test_expect_equal_states(vm.engine->ops->state(vm.engine), &s);
    assert_int_equal(test_run(vm.engine, false), ENGINE_STOP_HALT);
    assert_int_equal(vm.boundary.count, 2);
    test_vm_destroy(&vm);
}

static void triple_fault_is_a_shutdown(void **unused)
{
    (void)unused;
    struct test_vm vm;
    struct vcpu_state s = test_state(0, false);
    test_vm_create(&vm, CODE(0x0f, 0x0b), &s); /* ud2 with an empty IDT */
    assert_int_equal(test_run(vm.engine, false), ENGINE_STOP_SHUTDOWN);
    assert_int_equal(vm.engine->ops->state(vm.engine)->activity, ACTIVITY_SHUTDOWN);
    assert_int_equal(test_run(vm.engine, false), ENGINE_STOP_SHUTDOWN);
    test_vm_destroy(&vm);
}

/* kvm_pvm adds features of the host to some leaves; the probe tells. */
static bool kvm_keeps_cpuid(void)
{
    struct kvm_probe probes[KVM_PROBE_MAX];
    struct error err;
    unsigned count = kvm_probe_all(probes, &err);
    for (unsigned i = 0; i < count; i++)
        if (strcmp(probes[i].name, "cpuid") == 0)
            return probes[i].result == PROBE_YES;
    fail_msg("there is no probe of CPUID");
    return false;
}

static void cpuid_at_cpl_0_is_the_models(void **unused)
{
    (void)unused;
    bool all_leaves = kvm_keeps_cpuid();
    struct test_vm vm;
    struct vcpu_state s = test_state(0, false);
    static const uint32_t leaves[] = {0,          0x80000000, 0x80000001, 0x80000002, 0x80000008,
                                      0x40000000, 1,          7,          0xd};
    test_vm_create(&vm, CODE(0x0f, 0xa2, 0xf4), &s); /* cpuid; hlt */
    for (size_t i = 0; i < ARRAY_LEN(leaves) - (all_leaves ? 0 : 3); i++) {
        struct error err;
        uint32_t expected[4];
        s.gpr[GPR_RAX] = leaves[i];
        s.gpr[GPR_RCX] = 0;
        assert_int_equal(vm.engine->ops->set_state(vm.engine, &s, &err), 0);
        assert_int_equal(test_run(vm.engine, false), ENGINE_STOP_HALT);
        const struct vcpu_state *after = vm.engine->ops->state(vm.engine);
        cpu_model_cpuid(&vm.model, leaves[i], 0, s.cr4, s.xcr0, expected);
        assert_int_equal(after->gpr[GPR_RAX], expected[0]);
        assert_int_equal(after->gpr[GPR_RBX], expected[1]);
        assert_int_equal(after->gpr[GPR_RCX], expected[2]);
        assert_int_equal(after->gpr[GPR_RDX], expected[3]);
    }
    test_vm_destroy(&vm);
}

/* ---- interrupts ---- */

static void halted_vcpu_is_woken_by_an_interrupt(void **unused)
{
    (void)unused;
    struct test_vm vm;
    struct error err;
    struct vcpu_state s = test_state(0, false);
    /* cli; hlt; sti; hlt; inc ebx; hlt */
    test_vm_create(&vm, CODE(0xfa, 0xf4, 0xfb, 0xf4, 0xff, 0xc3, 0xf4), &s);
    test_set_gate(vm.ram, 0x21, GUEST_HANDLERS, 0);
    test_ram_put(vm.ram, GUEST_HANDLERS, CODE(0xff, 0xc1, 0x48, 0xcf)); /* inc ecx; iretq */
    assert_int_equal(test_run(vm.engine, false), ENGINE_STOP_HALT);
    assert_false(vm.engine->ops->can_interrupt(vm.engine));
    assert_int_equal(test_run(vm.engine, true), ENGINE_STOP_HALT); /* stays halted */
    assert_int_equal(vm.engine->ops->state(vm.engine)->rip, GUEST_CODE + 2);
    s.rip = GUEST_CODE + 2;
    assert_int_equal(vm.engine->ops->set_state(vm.engine, &s, &err), 0);
    assert_int_equal(test_run(vm.engine, false), ENGINE_STOP_HALT);
    assert_int_equal(vm.engine->ops->state(vm.engine)->rip, GUEST_CODE + 4);
    assert_true(vm.engine->ops->can_interrupt(vm.engine));
    assert_int_equal(test_run(vm.engine, true), ENGINE_STOP_WINDOW);
    assert_true(kvm_engine_after_crossing(vm.engine));
    assert_int_equal(vm.engine->ops->interrupt(vm.engine, 0x21, &err), 0);
    assert_false(vm.engine->ops->can_interrupt(vm.engine));
    assert_false(kvm_engine_settled(vm.engine));
    assert_false(kvm_engine_after_crossing(vm.engine));
    assert_int_equal(test_run(vm.engine, false), ENGINE_STOP_HALT);
    const struct vcpu_state *after = vm.engine->ops->state(vm.engine);
    assert_int_equal(after->gpr[GPR_RCX], 1);
    assert_int_equal(after->gpr[GPR_RBX], 1);
    assert_int_equal(after->rip, GUEST_CODE + 7);
    assert_true(kvm_engine_settled(vm.engine));
    test_vm_destroy(&vm);
}

static void nmi_blocks_nmis_until_iret(void **unused)
{
    (void)unused;
    struct test_vm vm;
    struct error err;
    struct vcpu_state s = test_state(0, false);
    test_vm_create(&vm, CODE(0xf4, 0xf4), &s);
    test_set_gate(vm.ram, VEC_NMI, GUEST_HANDLERS, 0);
    test_ram_put(vm.ram, GUEST_HANDLERS, CODE(0xe6, 0x80, 0x48, 0xcf)); /* out 0x80, al; iretq */
    assert_int_equal(test_run(vm.engine, false), ENGINE_STOP_HALT);
    assert_int_equal(vm.engine->ops->nmi(vm.engine, &err), 0);
    vm.boundary.stop_after = 2;
    assert_int_equal(test_run(vm.engine, false), ENGINE_STOP_BOUNDARY);
    assert_int_equal(vm.engine->ops->state(vm.engine)->rip, GUEST_HANDLERS + 2);
    assert_int_equal(vm.engine->ops->state(vm.engine)->nmi_blocked, 1);
    assert_int_equal(test_run(vm.engine, false), ENGINE_STOP_HALT);
    assert_int_equal(vm.engine->ops->state(vm.engine)->nmi_blocked, 0);
    test_vm_destroy(&vm);
}

static void window_opens_after_the_shadow_of_sti(void **unused)
{
    (void)unused;
    struct test_vm vm;
    struct vcpu_state s = test_state(0, false);
    /* out 0x80, al; sti; jmp . */
    test_vm_create(&vm, CODE(0xe6, 0x80, 0xfb, 0xeb, 0xfe), &s);
    assert_false(vm.engine->ops->can_interrupt(vm.engine));
    assert_int_equal(test_run(vm.engine, true), ENGINE_STOP_WINDOW);
    assert_int_equal(vm.boundary.count, 1);
    assert_true(vm.engine->ops->can_interrupt(vm.engine));
    const struct vcpu_state *at = vm.engine->ops->state(vm.engine);
    assert_int_equal(at->rip, GUEST_CODE + 3);
    assert_int_equal(at->shadow, SHADOW_NONE);
    assert_false(kvm_engine_after_crossing(vm.engine));
    /* Asked again, nothing is executed. */
    struct vcpu_state before = *at;
    assert_int_equal(test_run(vm.engine, true), ENGINE_STOP_WINDOW);
    test_expect_equal_states(vm.engine->ops->state(vm.engine), &before);
    test_vm_destroy(&vm);
}

static void shadow_of_sti_at_a_crossing_ends_with_it(void **unused)
{
    (void)unused;
    struct test_vm vm;
    struct vcpu_state s = test_state(0, false);
    test_vm_create(&vm, CODE(0xfb, 0xe4, 0x60, 0x90, 0xf4), &s); /* sti; in al, 0x60; nop; hlt */
    assert_int_equal(test_run(vm.engine, true), ENGINE_STOP_WINDOW);
    assert_int_equal(vm.engine->ops->state(vm.engine)->rip, GUEST_CODE + 3);
    assert_true(kvm_engine_after_crossing(vm.engine));
    test_vm_destroy(&vm);
}

/* ---- kicks ---- */

/* Kicks come one at a time; on a busy machine fewer than wanted fit into the time. */
#define KICK_TIME_S 4

struct kicker {
    struct engine *engine;
    unsigned wanted;
    atomic_uint kicks, seen;
    atomic_bool done;
};

static void *kick_repeatedly(void *context)
{
    struct kicker *k = context;
    time_t end = time(NULL) + KICK_TIME_S;
    for (unsigned i = 1; i <= k->wanted && time(NULL) <= end; i++) {
        /* At a different moment of the other thread's way into the guest each time. */
        for (unsigned spins = 0; spins < i * 7 % 499; spins++)
            __builtin_ia32_pause();
        atomic_store(&k->kicks, i);
        k->engine->ops->kick(k->engine);
        while (atomic_load(&k->seen) != i)
            sched_yield();
    }
    atomic_store(&k->done, true);
    k->engine->ops->kick(k->engine);
    return NULL;
}

/* A lost kick would leave this thread in the guest for ever: the test's time limit ends it. */
static void no_kick_is_lost(struct engine *engine, unsigned wanted)
{
    struct kicker k = {.engine = engine, .wanted = wanted};
    pthread_t thread;
    unsigned seen = 0;
    assert_int_equal(pthread_create(&thread, NULL, kick_repeatedly, &k), 0);
    for (;;) {
        assert_int_equal(test_run(engine, false), ENGINE_STOP_ATTENTION);
        if (atomic_load(&k.done))
            break;
        assert_int_equal(atomic_load(&k.kicks), ++seen);
        atomic_store(&k.seen, seen);
    }
    pthread_join(thread, NULL);
    assert_true(seen >= 10);
    printf("%u kicks, none lost\n", seen);
}

static void no_kick_is_lost_at_cpl_3(void **unused)
{
    (void)unused;
    struct test_vm vm;
    struct vcpu_state s = test_state(3, true);
    test_vm_create(&vm, CODE(0xeb, 0xfe), &s); /* jmp . */
    no_kick_is_lost(vm.engine, 10000);
    assert_int_equal(vm.engine->ops->state(vm.engine)->rip, GUEST_CODE);
    test_vm_destroy(&vm);
}

static void no_kick_is_lost_between_exits_at_cpl_0(void **unused)
{
    (void)unused;
    struct test_vm vm;
    struct vcpu_state s = test_state(0, true);
    test_vm_create(&vm, CODE(0xff, 0xc3, 0xe6, 0x80, 0xeb, 0xfa), &s); /* inc ebx; out 0x80, al; jmp */
    vm.boundary.forget = true;
    no_kick_is_lost(vm.engine, 1000);
    test_vm_destroy(&vm);
}

/* KVM stands in the middle of REP MOVS while that reads from outside; an interrupt or a digest needs a boundary. */
static void kick_into_a_rep_that_reads_stops_at_a_boundary(void **unused)
{
    (void)unused;
    struct test_vm vm;
    struct vcpu_state s = test_state(0, false);
    /* again: mov rsi, rbx; mov rdi, rbp; mov ecx, 1500; rep movsb; jmp again */
    s.gpr[GPR_RBX] = GUEST_MMIO;
    s.gpr[GPR_RBP] = GUEST_DATA;
    test_vm_create(
        &vm, CODE(0x48, 0x89, 0xde, 0x48, 0x89, 0xef, 0xb9, 0xdc, 0x05, 0, 0, 0xf3, 0xa4, 0xeb, 0xf1), &s);
    vm.boundary.forget = true;
    struct kicker k = {.engine = vm.engine, .wanted = 40};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, kick_repeatedly, &k), 0);
    for (unsigned seen = 0; !atomic_load(&k.done);) {
        assert_int_equal(test_run(vm.engine, false), ENGINE_STOP_ATTENTION);
        assert_true(kvm_engine_settled(vm.engine));
        atomic_store(&k.seen, ++seen);
    }
    pthread_join(thread, NULL);
    test_vm_destroy(&vm);
}

static void kick_before_run_is_kept(void **unused)
{
    (void)unused;
    struct test_vm vm;
    struct vcpu_state s = test_state(0, false);
    test_vm_create(&vm, CODE(0xe6, 0x80, 0xf4), &s);
    vm.engine->ops->kick(vm.engine);
    assert_int_equal(test_run(vm.engine, false), ENGINE_STOP_ATTENTION);
    assert_int_equal(vm.boundary.count, 0);
    assert_int_equal(vm.engine->ops->state(vm.engine)->rip, GUEST_CODE);
    assert_int_equal(test_run(vm.engine, false), ENGINE_STOP_HALT);
    test_vm_destroy(&vm);
}

/*
 * A loop at CPL 3 that keeps a sum of its counter in a register, in memory and in a vector register, which all have
 * to agree at every boundary; 200 interrupts are delivered where kicks happen to land.
 */
static void interrupts_into_native_code_keep_every_register(void **unused)
{
    (void)unused;
    struct test_vm vm;
    struct error err;
    struct vcpu_state s = test_state(3, true);
    static const uint8_t code[] = {
        0x48, 0xff, 0xc0,       /* 0: inc rax */
        0x66, 0x0f, 0xd4, 0xc1, /* 3: paddq xmm0, xmm1 */
        0x48, 0xff, 0x03,       /* 7: inc qword [rbx] */
        0x48, 0x8d, 0x52, 0x01, /* a: lea rdx, [rdx+1] */
        0xeb, 0xf0,             /* e: jmp 0 */
    };
    s.gpr[GPR_RBX] = GUEST_DATA;
    s.fpu.ymm[1][0] = 1;
    test_vm_create(&vm, code, sizeof(code), &s);
    test_set_gate(vm.ram, 0x40, GUEST_HANDLERS, 0);
    test_ram_put(vm.ram, GUEST_HANDLERS, CODE(0x48, 0xff, 0xc1, 0x48, 0xcf)); /* inc rcx; iretq */
    struct kicker k = {.engine = vm.engine, .wanted = 200};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, kick_repeatedly, &k), 0);
    for (unsigned i = 0;; i++) {
        assert_int_equal(test_run(vm.engine, false), ENGINE_STOP_ATTENTION);
        if (atomic_load(&k.done))
            break;
        if (!vm.engine->ops->can_interrupt(vm.engine))
            assert_int_equal(test_run(vm.engine, true), ENGINE_STOP_WINDOW);
        const struct vcpu_state *at = vm.engine->ops->state(vm.engine);
        assert_true(at->rip >= GUEST_CODE && at->rip <= GUEST_CODE + 14);
        uint64_t in_vector, in_memory, offset = at->rip - GUEST_CODE, count = at->gpr[GPR_RAX];
        memcpy(&in_vector, at->fpu.ymm[0], 8);
        assert_int_equal(ram_read(vm.ram, GUEST_DATA, &in_memory, 8), 0);
        assert_int_equal(in_vector, count - (offset == 3));
        assert_int_equal(in_memory, count - (offset == 3 || offset == 7));
        assert_int_equal(at->gpr[GPR_RDX], count - (offset == 3 || offset == 7 || offset == 10));
        assert_int_equal(at->gpr[GPR_RCX], i);
        assert_int_equal(vm.engine->ops->interrupt(vm.engine, 0x40, &err), 0);
        atomic_store(&k.seen, i + 1);
    }
    pthread_join(thread, NULL);
    assert_true(atomic_load(&k.kicks) >= 10);
    test_vm_destroy(&vm);
}

/* ---- dirty log ---- */

static bool is_dirty(const struct guest_ram *ram, uint64_t page)
{
    return (ram->page_flags[page] & RAM_PAGE_DIRTY) != 0;
}

static void pages_the_guest_writes_are_collected(void **unused)
{
    (void)unused;
    for (unsigned cpl = 0; cpl <= 3; cpl += 3) {
        struct test_vm vm;
        struct error err;
        struct vcpu_state s = test_state(cpl, false);
        s.gpr[GPR_RBX] = GUEST_DATA;
        /* inc dword [rbx]; inc dword [rbx+0x5000]; ud2 */
        test_vm_create(&vm, CODE(0xff, 0x03, 0xff, 0x83, 0, 0x50, 0, 0, 0x0f, 0x0b), &s);
        test_set_gate(vm.ram, VEC_UD, GUEST_HANDLERS, 0);
        test_ram_put(vm.ram, GUEST_HANDLERS, CODE(0xf4));
        uint64_t page = GUEST_DATA >> 12;
        assert_int_equal(vm.engine->ops->collect_dirty(vm.engine, &err), 0);
        ram_clear_dirty(vm.ram);
        assert_int_equal(test_run(vm.engine, false), ENGINE_STOP_HALT);
        assert_int_equal(vm.engine->ops->collect_dirty(vm.engine, &err), 0);
        assert_true(is_dirty(vm.ram, page));
        assert_true(is_dirty(vm.ram, page + 5));
        assert_true(is_dirty(vm.ram, (GUEST_KERNEL_STACK_TOP >> 12) - 1));
        assert_false(is_dirty(vm.ram, page + 1));
        ram_clear_dirty(vm.ram);
        assert_int_equal(vm.engine->ops->collect_dirty(vm.engine, &err), 0);
        assert_int_equal(vm.ram->dirty_count, 0);
        test_vm_destroy(&vm);
    }
}

static void requests_that_need_positions_are_refused(void **unused)
{
    (void)unused;
    struct test_vm vm;
    struct error err;
    struct vcpu_state s = test_state(0, false);
    test_vm_create(&vm, CODE(0xf4), &s);
    const struct engine_request request = {.limit = 5};
    assert_int_equal(vm.engine->ops->run(vm.engine, &request, &err), -EINVAL);
    assert_true(vm.engine->ops->position(vm.engine) == POSITION_UNKNOWN);
    test_vm_destroy(&vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(state_comes_back_as_it_was_set),
        cmocka_unit_test(pending_debug_trap_comes_back_and_is_delivered),
        cmocka_unit_test(state_that_the_cpu_cannot_have_is_refused),
        cmocka_unit_test(port_accesses_of_all_sizes_cross),
        cmocka_unit_test(each_item_of_a_string_instruction_crosses_once),
        cmocka_unit_test(memory_without_ram_crosses),
        cmocka_unit_test(msrs_outside_the_state_cross),
        cmocka_unit_test(boundary_stop_comes_after_the_instruction),
        cmocka_unit_test(failing_boundary_leaves_the_state_before_the_instruction),
        cmocka_unit_test(state_can_be_replaced_in_the_middle_of_an_access),
        cmocka_unit_test(triple_fault_is_a_shutdown),
        cmocka_unit_test(cpuid_at_cpl_0_is_the_models),
        cmocka_unit_test(halted_vcpu_is_woken_by_an_interrupt),
        cmocka_unit_test(nmi_blocks_nmis_until_iret),
        cmocka_unit_test(window_opens_after_the_shadow_of_sti),
        cmocka_unit_test(shadow_of_sti_at_a_crossing_ends_with_it),
        cmocka_unit_test(no_kick_is_lost_at_cpl_3),
        cmocka_unit_test(no_kick_is_lost_between_exits_at_cpl_0),
        cmocka_unit_test(kick_into_a_rep_that_reads_stops_at_a_boundary),
        cmocka_unit_test(kick_before_run_is_kept),
        cmocka_unit_test(interrupts_into_native_code_keep_every_register),
        cmocka_unit_test(pages_the_guest_writes_are_collected),
        cmocka_unit_test(requests_that_need_positions_are_refused),
    };
    if (!test_kvm_is_usable())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
