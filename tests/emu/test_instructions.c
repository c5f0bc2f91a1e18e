/* Stack, control flow, ports and MMIO instructions. */
#include "tests/emu/vm.h"

#include <string.h>

#include "tests/emu/programs.h"

/* Each condition code with each combination of the five flags it can look at. */
static void conditional_jumps_follow_the_flags(void **state)
{
    (void)state;
    static const uint64_t bits[5] = {RFLAGS_CF, RFLAGS_PF, RFLAGS_ZF, RFLAGS_SF, RFLAGS_OF};
    static const uint8_t code[] = {0x70, 0x01, 0xf4, 0x90, 0xf4}; /* jcc +1; hlt; nop; hlt */
    struct vm *vm = vm_create(code, code + sizeof(code));
    struct vcpu_state s = *vm_state(vm);
    for (unsigned condition = 0; condition < 16; condition++) {
        *(uint8_t *)vm_at(vm, VM_CODE) = (uint8_t)(0x70 + condition);
        emu_ram_changed(vm->engine, VM_CODE, 1);
        for (unsigned combination = 0; combination < 32; combination++) {
            s.rflags = RFLAGS_FIXED;
            for (unsigned i = 0; i < 5; i++)
                s.rflags |= combination >> i & 1 ? bits[i] : 0;
            bool cf = s.rflags & RFLAGS_CF, pf = s.rflags & RFLAGS_PF, zf = s.rflags & RFLAGS_ZF;
            bool sf = s.rflags & RFLAGS_SF, of = s.rflags & RFLAGS_OF;
            const bool base[8] = {of, cf, zf, cf || zf, sf, pf, sf != of, zf || sf != of};
            bool taken = base[condition >> 1] != (condition & 1);
            vm_set_state(vm, &s);
            vm_run_to_halt(vm);
            assert_int_equal(vm_state(vm)->rip, VM_CODE + (taken ? 5 : 3));
            assert_int_equal(vm_state(vm)->rflags, s.rflags);
        }
    }
    vm_destroy(vm);
}

static void the_stack_behaves_in_its_corner_cases(void **state)
{
    (void)state;
    struct vm *vm = vm_create(program_stack, program_stack_end);
    struct vcpu_state s = *vm_state(vm);
    s.gpr[GPR_RSP] = VM_STACK - 8;
    vm_set_state(vm, &s);
    vm_run_to_halt(vm);
    const uint64_t *gpr = vm_state(vm)->gpr;
    assert_int_equal(gpr[GPR_RAX], VM_STACK - 8); /* PUSH RSP stores the old value */
    assert_int_equal(gpr[GPR_RCX], 0);            /* LOOP and JRCXZ saw it through */
    assert_int_equal(gpr[GPR_R11], 5);
    assert_int_equal(gpr[GPR_RSI], (uint64_t)-5);
    assert_int_equal(gpr[GPR_R10], 0); /* CALL pushed the address behind it */
    assert_int_equal(gpr[GPR_RSP], VM_STACK - 8);
    assert_int_equal(vm_read64(vm, VM_STACK - 8), 7); /* POP [RSP+8] used RSP as it is after the pop */
    vm_destroy(vm);
}

static void compatibility_code_uses_32_bit_stacks(void **state)
{
    (void)state;
    struct vm *vm = vm_create(program_legacy, program_legacy_end);
    struct vcpu_state s = *vm_state(vm);
    s.rip = VM_CODE + (uint64_t)(program_legacy_code32 - program_legacy);
    s.seg[SEG_CS].selector = VM_CS32;
    s.seg[SEG_CS].rights = 0xc09b;
    vm_set_state(vm, &s);
    vm_run_to_halt(vm);
    const uint64_t *gpr = vm_state(vm)->gpr;
    /* PUSHAD stored ESP as it was before: 32 above the new top. Then POPF took 0x20, kept the fixed bit. */
    assert_int_equal(gpr[GPR_RAX], 33);
    assert_int_equal(gpr[GPR_RBX], 2);
    assert_int_equal(gpr[GPR_RCX], 0);
    assert_int_equal(gpr[GPR_RSP], VM_STACK - 32);
    vm_destroy(vm);
}

static void ports_and_counters_cross_the_boundary(void **state)
{
    (void)state;
    struct vm *vm = vm_create(program_ports, program_ports_end);
    vm_run_to_halt(vm);
    static const struct crossing expected[] = {
        {1, 'i', 0x3f8, 0x11, 1},     {2, 'i', 0x60, 0x1312, 2},     {3, 'i', 0x3f8, 0x16151413, 4},
        {4, 'o', 0x3f8, 0x13, 1},     {5, 'o', 0x80, 0x1413, 2},     {6, 'o', 0x3f8, 0x16151413, 4},
        {7, 'c', SOURCE_RDTSC, 0, 0}, {8, 'c', SOURCE_RDTSCP, 0, 0}, {9, 'c', SOURCE_RDRAND, 0, 8},
        {10, 'h', 0, 0, 0},
    };
    assert_int_equal(vm->crossings, ARRAY_LEN(expected));
    for (size_t i = 0; i < ARRAY_LEN(expected); i++) {
        assert_int_equal(vm->crossing[i].position, expected[i].position);
        assert_int_equal(vm->crossing[i].kind, expected[i].kind);
        assert_int_equal(vm->crossing[i].address, expected[i].address);
        assert_int_equal(vm->crossing[i].size, expected[i].size);
        if (expected[i].kind != 'c')
            assert_int_equal(vm->crossing[i].value, expected[i].value);
    }
    assert_int_equal(vm_state(vm)->gpr[GPR_RBX], vm->crossing[8].value);
    assert_int_equal(vm_state(vm)->rflags & RFLAGS_STATUS, RFLAGS_CF);
    vm_destroy(vm);
}

static void memory_mapped_registers_are_reached(void **state)
{
    (void)state;
    struct vm *vm = vm_create(program_mmio, program_mmio_end);
    vm_run_to_halt(vm);
    /* A 4-byte read, an 8-byte write, an unaligned word as two bytes, a read and a write, HLT. */
    static const struct crossing expected[] = {
        {1, 'r', 0x40000000, 0, 4}, {2, 'w', 0x40000008, 0, 8}, {3, 'r', 0x40000001, 0, 1},
        {3, 'r', 0x40000002, 0, 1}, {4, 'r', 0x40000010, 0, 4}, {4, 'w', 0x40000010, 0, 4},
        {5, 'h', 0, 0, 0},
    };
    assert_int_equal(vm->crossings, ARRAY_LEN(expected));
    for (size_t i = 0; i < ARRAY_LEN(expected); i++) {
        assert_int_equal(vm->crossing[i].position, expected[i].position);
        assert_int_equal(vm->crossing[i].kind, expected[i].kind);
        assert_int_equal(vm->crossing[i].address, expected[i].address);
        assert_int_equal(vm->crossing[i].size, expected[i].size);
    }
    assert_int_equal(vm->crossing[1].value, 0x14131211);
    assert_int_equal(vm->crossing[5].value, (uint32_t)vm->crossing[4].value + 5);
    vm_destroy(vm);
}

/* MMX registers live in the host's while the boundary's code runs in between. */
static void mmx_operands_may_be_memory_mapped(void **state)
{
    (void)state;
    static const uint8_t code[] = {
        0xbb, 0,    0,    0,    0x02, /* mov ebx, 0x2000000 */
        0x0f, 0x6f, 0x03,             /* movq mm0, [rbx] */
        0x0f, 0xd4, 0x43, 0x08,       /* paddq mm0, [rbx + 8] */
        0x0f, 0x7f, 0x43, 0x10,       /* movq [rbx + 16], mm0 */
        0x0f, 0x7f, 0x07,             /* movq [rdi], mm0 */
        0xf4,
    };
    struct vm *vm = vm_create(code, code + sizeof(code));
    vm_set_gpr(vm, GPR_RDI, VM_DATA);
    vm_run_to_halt(vm);
    assert_int_equal(vm->crossings, 4);
    uint64_t sum = vm->crossing[0].value + vm->crossing[1].value;
    assert_int_equal(vm->crossing[2].value, sum);
    assert_int_equal(vm_read64(vm, VM_DATA), sum);
    vm_destroy(vm);
}

static void a_refused_crossing_leaves_the_state_before_it(void **state)
{
    (void)state;
    const struct {
        const char *code, *end;
        position_t at;
    } refused[] = {{program_ports, program_ports_end, 2},
                   {program_ports, program_ports_end, 5},
                   {program_ports, program_ports_end, 9},
                   {program_mmio, program_mmio_end, 2},
                   {program_mmio, program_mmio_end, 4}};
    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        struct vm *vm = vm_create(refused[i].code, refused[i].end);
        assert_int_equal(vm_run(vm, refused[i].at), ENGINE_STOP_LIMIT);
        struct vcpu_state before = *vm_state(vm);
        vm->answer_at = refused[i].at;
        vm->boundary_result = -5;
        assert_int_equal(vm_run(vm, POSITION_UNKNOWN), ENGINE_STOP_BOUNDARY);
        assert_int_equal(vm_position(vm), refused[i].at);
        assert_true(vcpu_state_equal(vm_state(vm), &before));
        vm_destroy(vm);
    }
}

static void the_boundary_can_stop_after_any_instruction(void **state)
{
    (void)state;
    for (position_t at = 1; at <= 10; at++) {
        struct vm *vm = vm_create(program_ports, program_ports_end);
        vm->answer_at = at;
        vm->boundary_result = BOUNDARY_STOP;
        assert_int_equal(vm_run(vm, POSITION_UNKNOWN), ENGINE_STOP_BOUNDARY);
        assert_int_equal(vm_position(vm), at + 1);
        vm_run_to_halt(vm);
        assert_int_equal(vm_position(vm), 11);
        vm_destroy(vm);
    }
}

/* ---- I/O permission ---- */

static void make_user(struct vm *vm)
{
    struct vcpu_state s = *vm_state(vm);
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        s.seg[i].selector = VM_USER_DS;
        s.seg[i].rights = 0xc0f3;
    }
    s.seg[SEG_CS].selector = VM_USER_CS;
    s.seg[SEG_CS].rights = 0xa0fb;
    s.tr.limit = 104 + 8192;
    vm_set_state(vm, &s);
}

static void user_code_needs_the_io_permission_bitmap(void **state)
{
    (void)state;
    /* mov edx, 0x3f8; in eax, dx */
    static const uint8_t code[] = {0xba, 0xf8, 0x03, 0, 0, 0xed};
    for (unsigned forbidden = 0; forbidden < 5; forbidden++) {
        struct vm *vm = vm_create(code, code + sizeof(code));
        vm_set_gate(vm, VEC_GP, VM_CODE + 0x800);
        if (forbidden < 4)
            *(uint8_t *)vm_at(vm, VM_TSS + 104 + 0x3f8 / 8) = (uint8_t)(1u << forbidden);
        make_user(vm);
        assert_int_equal(vm_run(vm, 2), ENGINE_STOP_LIMIT);
        if (forbidden < 4) {
            assert_int_equal(vm_state(vm)->rip, VM_CODE + 0x800);
            assert_int_equal(vm->crossings, 0);
        } else {
            assert_int_equal(vm_state(vm)->rip, VM_CODE + 6);
            assert_int_equal(vm->crossings, 1);
        }
        vm_destroy(vm);
    }
}

static void user_code_may_not_touch_the_interrupt_flag(void **state)
{
    (void)state;
    static const uint8_t opcodes[] = {0xfa, 0xfb, 0xf4}; /* cli, sti, hlt */
    for (size_t i = 0; i < sizeof(opcodes); i++) {
        struct vm *vm = vm_create(&opcodes[i], &opcodes[i] + 1);
        vm_set_gate(vm, VEC_GP, VM_CODE + 0x800);
        make_user(vm);
        assert_int_equal(vm_run(vm, 1), ENGINE_STOP_LIMIT);
        assert_int_equal(vm_state(vm)->rip, VM_CODE + 0x800);
        assert_int_equal(vcpu_cpl(vm_state(vm)), 0);
        vm_destroy(vm);
    }
}

static void popf_changes_only_what_the_privilege_allows(void **state)
{
    (void)state;
    /* push imm32; popfq */
    static const uint8_t code[] = {0x68, 0xff, 0x3e,
                                   0x24, 0x00, 0x9d}; /* all of CF..IF less TF, IOPL, AC, ID */
    for (unsigned user = 0; user < 2; user++) {
        struct vm *vm = vm_create(code, code + sizeof(code));
        if (user)
            make_user(vm);
        assert_int_equal(vm_run(vm, 2), ENGINE_STOP_LIMIT);
        uint64_t always = RFLAGS_STATUS | RFLAGS_DF | RFLAGS_AC | RFLAGS_ID | RFLAGS_FIXED;
        assert_int_equal(vm_state(vm)->rflags, user ? always : always | RFLAGS_IF | RFLAGS_IOPL);
        vm_destroy(vm);
    }
}

/* ---- faults leave everything as it was ---- */

static void faulting_instructions_change_nothing(void **state)
{
    (void)state;
    static const struct {
        uint8_t code[8];
        uint8_t vector;
    } cases[] = {
        {{0x50}, VEC_PF},                /* push rax */
        {{0x8f, 0x03}, VEC_PF},          /* pop [rbx]: the stack is fine, rbx is not */
        {{0xff, 0xd1}, VEC_GP},          /* call rcx, not canonical */
        {{0xff, 0xe1}, VEC_GP},          /* jmp rcx */
        {{0xe8, 0, 0, 0, 0}, VEC_PF},    /* call: the push faults */
        {{0xc8, 0x10, 0, 0x03}, VEC_PF}, /* enter 16, 3 */
        {{0xc9}, VEC_PF},                /* leave, RBP bad */
        {{0xff, 0x13}, VEC_PF},          /* call [rbx] */
        {{0x9c}, VEC_PF},                /* pushfq */
        {{0x48, 0xa5}, VEC_PF},          /* movsq */
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct vm *vm = vm_create(cases[i].code, cases[i].code + sizeof(cases[i].code));
        uint64_t ist = VM_STACK - 0x8000;
        vm_set_gate(vm, cases[i].vector, VM_CODE + 0x800);
        *(uint8_t *)vm_at(vm, 0x2000 + cases[i].vector * 16u + 4) = 1;
        memcpy(vm_at(vm, VM_TSS + 36), &ist, sizeof(ist));
        vm_set_page(vm, 0x190000, 0);
        struct vcpu_state s = *vm_state(vm);
        bool pops = cases[i].code[0] == 0x8f || cases[i].code[0] == 0xff;
        s.gpr[GPR_RSP] = pops && cases[i].code[1] != 0x13 ? VM_STACK - 64 : 0x191000;
        s.gpr[GPR_RBP] = 0x190100;
        s.gpr[GPR_RBX] = 0x190200;
        s.gpr[GPR_RCX] = 0x8000000000000000u;
        s.gpr[GPR_RSI] = VM_DATA;
        s.gpr[GPR_RDI] = 0x190300;
        vm_set_state(vm, &s);
        assert_int_equal(vm_run(vm, 1), ENGINE_STOP_LIMIT);
        struct vcpu_state after = *vm_state(vm);
        assert_int_equal(after.rip, VM_CODE + 0x800);
        assert_int_equal(after.gpr[GPR_RSP], ist - 48);
        assert_int_equal(vm_read64(vm, ist - 40), VM_CODE);
        assert_int_equal(vm_read64(vm, ist - 16), s.gpr[GPR_RSP]);
        after.gpr[GPR_RSP] = s.gpr[GPR_RSP];
        assert_memory_equal(after.gpr, s.gpr, sizeof(s.gpr));
        vm_destroy(vm);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(conditional_jumps_follow_the_flags),
        cmocka_unit_test(the_stack_behaves_in_its_corner_cases),
        cmocka_unit_test(compatibility_code_uses_32_bit_stacks),
        cmocka_unit_test(ports_and_counters_cross_the_boundary),
        cmocka_unit_test(memory_mapped_registers_are_reached),
        cmocka_unit_test(mmx_operands_may_be_memory_mapped),
        cmocka_unit_test(a_refused_crossing_leaves_the_state_before_it),
        cmocka_unit_test(the_boundary_can_stop_after_any_instruction),
        cmocka_unit_test(user_code_needs_the_io_permission_bitmap),
        cmocka_unit_test(user_code_may_not_touch_the_interrupt_flag),
        cmocka_unit_test(popf_changes_only_what_the_privilege_allows),
        cmocka_unit_test(faulting_instructions_change_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
