/* The run loop: positions, limits, interrupts, landmarks, single-step, kicks. */
#include "tests/emu/vm.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "tests/emu/programs.h"

static struct vm *create(const char *code, const char *end)
{
    return vm_create(code, end);
}

static void a_loop_takes_exactly_its_steps(void **state)
{
    (void)state;
    struct vm *vm = create(program_fibonacci, program_fibonacci_end);
    vm_run_to_halt(vm);
    assert_int_equal(vm_position(vm), 3 + 90 * 5 + 1);
    assert_int_equal(vm_state(vm)->gpr[GPR_RAX], 2880067194370816120);
    assert_int_equal(vm_state(vm)->activity, ACTIVITY_HALTED);
    assert_int_equal(vm->crossings, 1);
    assert_int_equal(vm->crossing[0].position, 453);
    assert_int_equal(vm_run(vm, POSITION_UNKNOWN), ENGINE_STOP_HALT);
    assert_int_equal(vm_position(vm), 454);
    vm_destroy(vm);
}

static void a_run_stops_at_every_limit(void **state)
{
    (void)state;
    struct vm *vm = create(program_fibonacci, program_fibonacci_end);
    for (position_t limit = 1; limit <= 453; limit++) {
        assert_int_equal(vm_run(vm, limit), ENGINE_STOP_LIMIT);
        assert_int_equal(vm_position(vm), limit);
        /* Position 3 + 5n is at the top of the loop with n turns done. */
        if (limit >= 3)
            assert_int_equal(90 - vm_state(vm)->gpr[GPR_RCX], (limit - 2) / 5);
    }
    vm_destroy(vm);
}

static struct vm *create_mixed(void)
{
    struct vm *vm = create(program_mixed, program_mixed_end);
    vm_set_gate(vm, 0x40, VM_CODE + (uint64_t)(program_mixed_handler - program_mixed));
    return vm;
}

static void slices_of_any_length_give_the_same_run(void **state)
{
    (void)state;
    struct vm *whole = create_mixed();
    vm_run_to_halt(whole);
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct vm *sliced = create_mixed();
        uint64_t random = seed;
        int stop = ENGINE_STOP_LIMIT;
        while (stop == ENGINE_STOP_LIMIT) {
            stop = vm_run(sliced, vm_position(sliced) + 1 + vm_random(&random) % (seed * 3));
            if (vm_random(&random) % 4 == 0) {
                struct vcpu_state copy = *vm_state(sliced);
                vm_set_state(sliced, &copy);
            }
        }
        assert_int_equal(stop, ENGINE_STOP_HALT);
        assert_int_equal(vm_position(sliced), vm_position(whole));
        vm_assert_same(sliced, whole);
        vm_destroy(sliced);
    }
    vm_destroy(whole);
}

/* What the handler leaves behind: its counter, its frame below RSP, and accessed bits of the pages it used. */
static void forget_interrupt(struct vm *vm)
{
    memset(vm_at(vm, 0x17f000), 0, 8);
    memset(vm_at(vm, VM_STACK - 256), 0, 256);
    memset(vm_at(vm, 0x10000), 0, 0x5000);
}

static struct vm *create_interruptible(void)
{
    struct vm *vm = create_mixed();
    struct vcpu_state s = *vm_state(vm);
    s.rflags |= RFLAGS_IF;
    vm_set_state(vm, &s);
    return vm;
}

static void an_interrupt_at_any_position_changes_nothing(void **state)
{
    (void)state;
    struct vm *whole = create_interruptible();
    vm_run_to_halt(whole);
    position_t end = vm_position(whole);
    forget_interrupt(whole);
    assert_in_range(end, 500, 5000);
    /* The last two instructions are CLI and HLT. */
    for (position_t at = 0; at <= end - 2; at++) {
        struct vm *vm = create_interruptible();
        if (at)
            assert_int_equal(vm_run(vm, at), ENGINE_STOP_LIMIT);
        vm_interrupt(vm, 0x40);
        assert_int_equal(vm_position(vm), at + 1);
        vm_run_to_halt(vm);
        assert_int_equal(vm_position(vm), end + 6);
        assert_int_equal(vm_read64(vm, 0x17f000), 1);
        forget_interrupt(vm);
        vm_assert_same(vm, whole);
        vm_destroy(vm);
    }
    vm_destroy(whole);
}

static void a_halted_vcpu_is_woken_by_an_interrupt(void **state)
{
    (void)state;
    struct vm *vm = create(program_nops, program_nops_end);
    vm_set_gate(vm, 0x20, VM_CODE + (uint64_t)(program_nops_handler - program_nops));
    struct vcpu_state s = *vm_state(vm);
    s.rflags |= RFLAGS_IF;
    vm_set_state(vm, &s);
    vm_run_to_halt(vm);
    assert_int_equal(vm_position(vm), 41);
    vm_interrupt(vm, 0x20);
    assert_int_equal(vm_state(vm)->activity, ACTIVITY_RUNNING);
    assert_int_equal(vm_run(vm, 44), ENGINE_STOP_LIMIT);
    assert_int_equal(vm_state(vm)->gpr[GPR_RAX], 1);
    assert_int_equal(vm_state(vm)->rip, VM_CODE + 41);
    vm_destroy(vm);
}

static void sti_holds_interrupts_off_for_one_instruction(void **state)
{
    (void)state;
    struct vm *vm = create(program_sti, program_sti_end);
    struct engine_request request = {.limit = POSITION_UNKNOWN, .want_window = true};
    assert_int_equal(vm_run(vm, 1), ENGINE_STOP_LIMIT);
    assert_int_equal(vm_state(vm)->shadow, SHADOW_STI);
    assert_false(vm->engine->ops->can_interrupt(vm->engine));
    assert_int_equal(vm_run_request(vm, &request), ENGINE_STOP_WINDOW);
    assert_int_equal(vm_position(vm), 2);
    assert_int_equal(vm_state(vm)->shadow, SHADOW_NONE);
    vm_destroy(vm);
}

/* mov eax, 5; mov cr8, rax; sti; nop; nop; nop; xor eax, eax; mov cr8, rax; nop; nop */
static const uint8_t program_cr8[] = {0xb8, 5,    0,    0,    0,    0x44, 0x0f, 0x22, 0xc0, 0xfb, 0x90,
                                      0x90, 0x90, 0x31, 0xc0, 0x44, 0x0f, 0x22, 0xc0, 0x90, 0x90};

static void a_window_opens_when_cr8_is_below_its_priority(void **state)
{
    (void)state;
    static const struct {
        uint8_t priority;
        position_t position;
    } expected[] = {{0, 4}, {6, 4}, {16, 4}, {5, 8}, {1, 8}};
    for (size_t i = 0; i < ARRAY_LEN(expected); i++) {
        struct vm *vm = vm_create(program_cr8, program_cr8 + sizeof(program_cr8));
        struct engine_request request = {
            .limit = 10, .want_window = true, .window_priority = expected[i].priority};
        assert_int_equal(vm_run_request(vm, &request), ENGINE_STOP_WINDOW);
        assert_int_equal(vm_position(vm), expected[i].position);
        vm_destroy(vm);
    }
}

static void mov_ss_puts_a_single_step_trap_off(void **state)
{
    (void)state;
    struct vm *vm = create(program_mov_ss, program_mov_ss_end);
    vm_set_gate(vm, VEC_DB, VM_CODE + 0x800);
    assert_int_equal(vm_run(vm, 1), ENGINE_STOP_LIMIT);
    struct vcpu_state s = *vm_state(vm);
    s.rflags |= RFLAGS_TF;
    vm_set_state(vm, &s);
    assert_int_equal(vm_run(vm, 2), ENGINE_STOP_LIMIT);
    assert_int_equal(vm_state(vm)->shadow, SHADOW_MOV_SS);
    assert_int_equal(vm_run(vm, 3), ENGINE_STOP_LIMIT);
    assert_int_equal(vm_state(vm)->rip, VM_CODE + 8);
    assert_int_equal(vm_run(vm, 4), ENGINE_STOP_LIMIT);
    assert_int_equal(vm_state(vm)->rip, VM_CODE + 0x800);
    assert_int_equal(vm_read64(vm, vm_state(vm)->gpr[GPR_RSP]), VM_CODE + 8);
    vm_destroy(vm);
}

/* ---- single-step ---- */

static void tf_traps_after_each_instruction(void **state)
{
    (void)state;
    struct vm *vm = create(program_popf_tf, program_popf_tf_end);
    /* The handler: inc rax; iretq. */
    static const uint8_t handler[] = {0x48, 0xff, 0xc0, 0x48, 0xcf};
    memcpy(vm_at(vm, VM_CODE + 0x800), handler, sizeof(handler));
    vm_set_gate(vm, VEC_DB, VM_CODE + 0x800);
    vm_run_to_halt(vm);
    /* nop, inc, pushfq, and, popfq are stepped: five traps, each 3 steps (delivery, inc, iretq). */
    assert_int_equal(vm_state(vm)->gpr[GPR_RAX], 5);
    assert_int_equal(vm_position(vm), 10 + 5 * 3);
    assert_int_equal(vm_state(vm)->dr6 & DR6_BS, DR6_BS);
    assert_int_equal(vm_state(vm)->rflags & RFLAGS_TF, 0);
    vm_destroy(vm);
}

static void tf_traps_after_each_iteration_of_rep(void **state)
{
    (void)state;
    struct vm *vm = create(program_rep_stos, program_rep_stos_end);
    static const uint8_t handler[] = {0x49, 0xff, 0xc0, 0x48, 0xcf}; /* inc r8; iretq */
    memcpy(vm_at(vm, VM_CODE + 0x800), handler, sizeof(handler));
    vm_set_gate(vm, VEC_DB, VM_CODE + 0x800);
    assert_int_equal(vm_run(vm, 3), ENGINE_STOP_LIMIT);
    struct vcpu_state s = *vm_state(vm);
    s.rflags |= RFLAGS_TF;
    vm_set_state(vm, &s);
    assert_int_equal(vm_run(vm, 3 + 100 * 4), ENGINE_STOP_LIMIT);
    assert_int_equal(vm_state(vm)->gpr[GPR_R8], 100);
    assert_int_equal(vm_state(vm)->gpr[GPR_RCX], 0);
    vm_destroy(vm);
}

static void an_instruction_breakpoint_faults_once(void **state)
{
    (void)state;
    struct vm *vm = create(program_nops, program_nops_end);
    static const uint8_t handler[] = {0x48, 0x81, 0x4c, 0x24, 0x10, 0, 0, 1, 0, /* or qword [rsp+16], RF */
                                      0x48, 0xff, 0xc0, 0x48, 0xcf};            /* inc rax; iretq */
    memcpy(vm_at(vm, VM_CODE + 0x800), handler, sizeof(handler));
    vm_set_gate(vm, VEC_DB, VM_CODE + 0x800);
    struct vcpu_state s = *vm_state(vm);
    s.dr[2] = VM_CODE + 7;
    s.dr7 = DR7_FIXED | 0x20;
    vm_set_state(vm, &s);
    assert_int_equal(vm_run(vm, 8), ENGINE_STOP_LIMIT);
    assert_int_equal(vm_state(vm)->rip, VM_CODE + 0x800);
    assert_int_equal(vm_state(vm)->dr6 & 0xf, 4);
    vm_run_to_halt(vm);
    assert_int_equal(vm_state(vm)->gpr[GPR_RAX], 1);
    assert_int_equal(vm_position(vm), 41 + 4);
    assert_int_equal(vm_state(vm)->rflags & RFLAGS_RF, 0);
    vm_destroy(vm);
}

/* ---- landmarks ---- */

struct wanted {
    uint64_t address, value;
    unsigned asked;
};

static bool accept_memory(void *context, const struct vcpu_state *s)
{
    struct wanted *w = context;
    const struct vm *vm = (const struct vm *)(uintptr_t)w->address;
    uint64_t value;
    (void)s;
    w->asked++;
    memcpy(&value, vm->ram->host + VM_DATA, sizeof(value));
    return value == w->value;
}

static void a_loop_that_only_counts_in_memory_is_matched(void **state)
{
    (void)state;
    struct vm *vm = create(program_count_memory, program_count_memory_end);
    struct wanted wanted = {.address = (uint64_t)(uintptr_t)vm, .value = 123456};
    struct engine_match match = {.accept = accept_memory, .context = &wanted, .rflags_ignore = ~0ull};
    assert_int_equal(vm_run(vm, 2), ENGINE_STOP_LIMIT);
    memcpy(match.gpr, vm_state(vm)->gpr, sizeof(match.gpr));
    match.rip = vm_state(vm)->rip;
    struct engine_request request = {.limit = 10000000, .match = &match};
    assert_int_equal(vm_run_request(vm, &request), ENGINE_STOP_MATCH);
    assert_int_equal(vm_position(vm), 2 + 2 * (123456 - 1));
    assert_int_equal(vm_state(vm)->rip, match.rip);
    assert_int_equal(wanted.asked, 123456);
    vm_destroy(vm);
}

static bool accept_always(void *context, const struct vcpu_state *s)
{
    unsigned *asked = context;
    (void)s;
    return ++*asked == 1;
}

static void a_match_is_tried_where_the_run_starts_and_inside_blocks(void **state)
{
    (void)state;
    for (position_t at = 0; at < 454; at += 7) {
        struct vm *vm = create(program_fibonacci, program_fibonacci_end);
        unsigned asked = 0;
        if (at)
            assert_int_equal(vm_run(vm, at), ENGINE_STOP_LIMIT);
        struct engine_match match = {.rip = vm_state(vm)->rip,
                                     .rflags = vm_state(vm)->rflags,
                                     .accept = accept_always,
                                     .context = &asked};
        memcpy(match.gpr, vm_state(vm)->gpr, sizeof(match.gpr));
        vm_destroy(vm);

        vm = create(program_fibonacci, program_fibonacci_end);
        struct engine_request request = {.limit = 1000, .match = &match};
        assert_int_equal(vm_run_request(vm, &request), ENGINE_STOP_MATCH);
        assert_int_equal(vm_position(vm), at);
        assert_int_equal(asked, 1);
        vm_destroy(vm);
    }
}

static void an_iteration_of_rep_is_matched(void **state)
{
    (void)state;
    struct vm *vm = create(program_rep_movs, program_rep_movs_end);
    unsigned asked = 0;
    assert_int_equal(vm_run(vm, 3), ENGINE_STOP_LIMIT);
    struct engine_match match = {
        .rip = vm_state(vm)->rip, .accept = accept_always, .context = &asked, .rflags_ignore = ~0ull};
    memcpy(match.gpr, vm_state(vm)->gpr, sizeof(match.gpr));
    match.gpr[GPR_RCX] -= 33333;
    match.gpr[GPR_RSI] += 33333;
    match.gpr[GPR_RDI] += 33333;
    assert_int_equal(match.rip, VM_CODE + (uint64_t)(program_rep_movs_rep - program_rep_movs));
    struct engine_request request = {.limit = 1000000, .match = &match};
    assert_int_equal(vm_run_request(vm, &request), ENGINE_STOP_MATCH);
    assert_int_equal(vm_position(vm), 3 + 33333);
    assert_int_equal(vm_state(vm)->gpr[GPR_RCX], 50000 - 33333);
    vm_destroy(vm);
}

static bool accept_xmm(void *context, const struct vcpu_state *s)
{
    uint64_t low;
    memcpy(&low, s->fpu.ymm[0], sizeof(low));
    return low == *(uint64_t *)context;
}

static void a_loop_that_only_changes_a_vector_register_is_matched(void **state)
{
    (void)state;
    struct vm *vm = create(program_sse_loop, program_sse_loop_end);
    uint64_t wanted = 70001;
    assert_int_equal(vm_run(vm, 3), ENGINE_STOP_LIMIT);
    struct engine_match match = {
        .rip = vm_state(vm)->rip, .rflags = vm_state(vm)->rflags, .accept = accept_xmm, .context = &wanted};
    memcpy(match.gpr, vm_state(vm)->gpr, sizeof(match.gpr));
    struct engine_request request = {.limit = POSITION_UNKNOWN, .match = &match};
    assert_int_equal(vm_run_request(vm, &request), ENGINE_STOP_MATCH);
    assert_int_equal(vm_position(vm), 3 + 2 * (70001 - 1));
    vm_destroy(vm);
}

static void a_jump_to_itself_counts_and_can_be_interrupted(void **state)
{
    (void)state;
    struct vm *vm = create(program_jump_self, program_jump_self_end);
    vm_set_gate(vm, 0x20, VM_CODE + (uint64_t)(program_jump_self_handler - program_jump_self));
    for (unsigned i = 1; i <= 50; i++) {
        assert_int_equal(vm_run(vm, 1000 * i), ENGINE_STOP_LIMIT);
        assert_int_equal(vm_state(vm)->rip, VM_CODE + 2);
        vm_interrupt(vm, 0x20);
        assert_int_equal(vm_run(vm, 1000 * i + 3), ENGINE_STOP_LIMIT);
        assert_int_equal(vm_state(vm)->gpr[GPR_RAX], i);
        assert_int_equal(vm_state(vm)->rip, VM_CODE + 2);
    }
    vm_destroy(vm);
}

/* ---- kicks and endless loops ---- */

static void *kicker(void *context)
{
    struct vm *vm = context;
    vm->engine->ops->kick(vm->engine);
    return NULL;
}

static void kick_while_running(const char *code, const char *end, void (*prepare)(struct vm *))
{
    struct vm *vm = create(code, end);
    pthread_t thread;
    if (prepare)
        prepare(vm);
    assert_int_equal(pthread_create(&thread, NULL, kicker, vm), 0);
    assert_int_equal(vm_run(vm, POSITION_UNKNOWN), ENGINE_STOP_ATTENTION);
    pthread_join(thread, NULL);
    position_t at = vm_position(vm);
    assert_int_equal(vm_run(vm, at + 1000), ENGINE_STOP_LIMIT);
    assert_int_equal(vm_position(vm), at + 1000);
    vm_destroy(vm);
}

static void endless_undefined(struct vm *vm)
{
    struct vcpu_state s = *vm_state(vm);
    vm_set_gate(vm, VEC_UD, VM_CODE);
    /* Every delivery goes to the same stack: IST 1. */
    *(uint8_t *)vm_at(vm, 0x2000 + VEC_UD * 16 + 4) = 1;
    uint64_t stack = VM_STACK;
    memcpy(vm_at(vm, VM_TSS + 36), &stack, sizeof(stack));
    vm_set_state(vm, &s);
}

static void endless_rep(struct vm *vm)
{
    /* rep stosb; mov ecx, 0x10000; mov edi, VM_DATA; jmp to the start */
    static const uint8_t code[] = {0xf3, 0xaa, 0xb9, 0, 0, 1, 0, 0xbf, 0, 0, 0x18, 0, 0xeb, 0xf2};
    memcpy(vm_at(vm, VM_CODE), code, sizeof(code));
}

static void a_kick_stops_endless_loops(void **state)
{
    (void)state;
    kick_while_running(program_count_memory, program_count_memory_end, NULL);
    kick_while_running(program_jump_self, program_jump_self_end, NULL);
    kick_while_running(program_undefined, program_undefined_end, endless_undefined);
    kick_while_running(program_count_memory, program_count_memory_end, endless_rep);
}

static void each_exception_delivery_is_a_position(void **state)
{
    (void)state;
    struct vm *vm = create(program_undefined, program_undefined_end);
    endless_undefined(vm);
    for (position_t i = 1; i < 100; i++) {
        assert_int_equal(vm_run(vm, i), ENGINE_STOP_LIMIT);
        assert_int_equal(vm_position(vm), i);
        assert_int_equal(vm_read64(vm, VM_STACK - 40), VM_CODE);
    }
    vm_destroy(vm);
}

static void a_triple_fault_ends_the_run(void **state)
{
    (void)state;
    struct vm *vm = create(program_undefined, program_undefined_end);
    assert_int_equal(vm_run(vm, 100), ENGINE_STOP_SHUTDOWN);
    assert_int_equal(vm_position(vm), 1);
    assert_int_equal(vm_state(vm)->activity, ACTIVITY_SHUTDOWN);
    assert_int_equal(vm_run(vm, 100), ENGINE_STOP_SHUTDOWN);
    vm_destroy(vm);
}

#define AT(field) offsetof(struct vcpu_state, field)

/* What is wrong when these bits of a good state are flipped, and what the message must name. */
static const struct {
    size_t at;
    uint64_t flip;
    const char *names;
} impossible[] = {
    {AT(rflags), 1ull << 40, "RFLAGS"},
    {AT(rflags), RFLAGS_FIXED, "RFLAGS"},
    {AT(rflags), RFLAGS_VM, "RFLAGS.VM"},
    {AT(cr0), 1 << 6, "CR0"},
    {AT(cr0), 1ull << 32, "CR0"},
    {AT(cr0), CR0_NW, "CR0.NW"},
    {AT(cr3), 1ull << 40, "CR3"},
    {AT(cr4), 1 << 12, "CR4"}, /* LA57 */
    {AT(cr4), 1 << 22, "CR4"}, /* PKE */
    {AT(cr4), 1ull << 32, "CR4"},
    {AT(cr4), CR4_PAE, "PAE"},
    {AT(cr8), 16, "CR8"},
    {AT(xcr0), 1, "XCR0"},    /* without x87 */
    {AT(xcr0), 4, "XCR0"},    /* AVX without SSE */
    {AT(xcr0), 8, "XCR0"},    /* MPX */
    {AT(xcr0), 0xe0, "XCR0"}, /* AVX-512 */
    {AT(xcr0), 1ull << 63, "XCR0"},
    {AT(efer), EFER_LMA, "EFER.LMA"},
    {AT(efer), 1 << 12, "EFER"}, /* SVME */
    {AT(dr6), 1ull << 32, "DR6"},
    {AT(dr7), 1 << 14, "DR7"},
    {AT(seg[SEG_FS].base), 1ull << 47, "base"},
    {AT(gdtr.base), 1ull << 50, "base"},
    {AT(tr.base), 1ull << 63, "base"},
    {AT(kernel_gs_base), 1ull << 48, "base"},
    {AT(lstar), 1ull << 47, "entry point"},
    {AT(sysenter_eip), 1ull << 47, "entry point"},
    {AT(sfmask), 1ull << 32, "32 bits"},
    {AT(tsc_aux), 1ull << 32, "32 bits"},
    {AT(pat), 5, "PAT"}, /* memory type 3 */
    {AT(apic_base), 1, "APIC_BASE"},
};

static void an_impossible_state_is_refused(void **state)
{
    (void)state;
    struct vm *vm = create(program_nops, program_nops_end);
    const struct vcpu_state good = *vm_state(vm);
    const struct engine_ops *ops = vm->engine->ops;
    struct vcpu_state s;
    struct error err = {0};
    for (size_t i = 0; i < ARRAY_LEN(impossible); i++) {
        s = good;
        uint64_t value;
        memcpy(&value, (uint8_t *)&s + impossible[i].at, 8);
        value ^= impossible[i].flip;
        memcpy((uint8_t *)&s + impossible[i].at, &value, 8);
        assert_int_equal(ops->set_state(vm->engine, &s, &err), -EINVAL);
        assert_non_null(strstr(err.message, impossible[i].names));
        assert_true(vcpu_state_equal(ops->state(vm->engine), &good));
    }
    s = good;
    s.fpu.mxcsr = 0x80000000;
    assert_int_equal(ops->set_state(vm->engine, &s, &err), -EINVAL);
    s = good;
    s.seg[SEG_DS].rights |= 0x100;
    assert_int_equal(ops->set_state(vm->engine, &s, &err), -EINVAL);
    s = good;
    s.seg[SEG_CS].rights |= SEGMENT_DB;
    assert_int_equal(ops->set_state(vm->engine, &s, &err), -EINVAL);
    s = good;
    s.activity = ACTIVITY_SHUTDOWN + 1;
    assert_int_equal(ops->set_state(vm->engine, &s, &err), -EINVAL);
    /* AVX there is in this CPU model, and not in the one that KVM can show. */
    s = good;
    s.xcr0 = 7;
    assert_int_equal(ops->set_state(vm->engine, &s, &err), 0);
    cpu_model_init(&vm->model, CPU_PROFILE_KVM);
    assert_int_equal(ops->set_state(vm->engine, &s, &err), -EINVAL);
    assert_int_equal(ops->set_state(vm->engine, &good, &err), 0);
    vm_run_to_halt(vm);
    vm_destroy(vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_loop_takes_exactly_its_steps),
        cmocka_unit_test(a_run_stops_at_every_limit),
        cmocka_unit_test(slices_of_any_length_give_the_same_run),
        cmocka_unit_test(an_interrupt_at_any_position_changes_nothing),
        cmocka_unit_test(a_halted_vcpu_is_woken_by_an_interrupt),
        cmocka_unit_test(sti_holds_interrupts_off_for_one_instruction),
        cmocka_unit_test(a_window_opens_when_cr8_is_below_its_priority),
        cmocka_unit_test(mov_ss_puts_a_single_step_trap_off),
        cmocka_unit_test(tf_traps_after_each_instruction),
        cmocka_unit_test(tf_traps_after_each_iteration_of_rep),
        cmocka_unit_test(an_instruction_breakpoint_faults_once),
        cmocka_unit_test(a_loop_that_only_counts_in_memory_is_matched),
        cmocka_unit_test(a_match_is_tried_where_the_run_starts_and_inside_blocks),
        cmocka_unit_test(an_iteration_of_rep_is_matched),
        cmocka_unit_test(a_loop_that_only_changes_a_vector_register_is_matched),
        cmocka_unit_test(a_jump_to_itself_counts_and_can_be_interrupted),
        cmocka_unit_test(a_kick_stops_endless_loops),
        cmocka_unit_test(each_exception_delivery_is_a_position),
        cmocka_unit_test(a_triple_fault_ends_the_run),
        cmocka_unit_test(an_impossible_state_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
