/* Code that is written while it runs, from inside and outside, under every address it has. */
#include "tests/emu/vm.h"

#include <string.h>

#include "tests/emu/programs.h"

static uint64_t result_of(const char *code, const char *end, enum gpr reg, position_t *steps)
{
    struct vm *vm = vm_create(code, end);
    vm_run_to_halt(vm);
    uint64_t value = vm_state(vm)->gpr[reg];
    *steps = vm_position(vm);
    vm_destroy(vm);
    return value;
}

static void the_next_instruction_is_the_written_one(void **state)
{
    (void)state;
    position_t steps;
    assert_int_equal(result_of(program_patch_next, program_patch_next_end, GPR_RAX, &steps), 2);
    assert_int_equal(steps, 4);
}

static void a_write_through_an_alias_counts(void **state)
{
    (void)state;
    position_t steps;
    assert_int_equal(result_of(program_patch_alias, program_patch_alias_end, GPR_RAX, &steps), 2);
    assert_int_equal(steps, 5);
}

static void an_instruction_on_two_pages_is_seen_to_change(void **state)
{
    (void)state;
    position_t steps;
    uint64_t rax = result_of(program_spanning, program_spanning_end, GPR_RAX, &steps);
    assert_int_equal(rax, 0x33333333);
    assert_int_equal(steps, 2 + 2 * 5 + 1);
}

/* Only bytes of the second page are written, through ordinary stores and from outside. */
static void an_instruction_is_dropped_with_its_second_page(void **state)
{
    (void)state;
    struct vm *vm = vm_create(program_spanning, program_spanning_end);
    struct vcpu_state s = *vm_state(vm);
    s.rip = VM_CODE + 0xffe;
    vm_set_state(vm, &s);
    assert_int_equal(vm_run(vm, 1), ENGINE_STOP_LIMIT);
    assert_int_equal(vm_state(vm)->gpr[GPR_RBX], 0x11111111);
    /* mov byte ptr [rdi], 0x55 */
    static const uint8_t store[] = {0xc6, 0x07, 0x55};
    memcpy(vm_at(vm, VM_DATA), store, sizeof(store));
    s.gpr[GPR_RDI] = VM_CODE + 0x1002;
    s.rip = VM_DATA;
    vm_set_state(vm, &s);
    assert_int_equal(vm_run(vm, 2), ENGINE_STOP_LIMIT);
    s.rip = VM_CODE + 0xffe;
    vm_set_state(vm, &s);
    assert_int_equal(vm_run(vm, 3), ENGINE_STOP_LIMIT);
    assert_int_equal(vm_state(vm)->gpr[GPR_RBX], 0x55111111);
    *(uint8_t *)vm_at(vm, VM_CODE + 0x1000) = 0x66;
    emu_ram_changed(vm->engine, VM_CODE + 0x1000, 1);
    vm_set_state(vm, &s);
    assert_int_equal(vm_run(vm, 4), ENGINE_STOP_LIMIT);
    assert_int_equal(vm_state(vm)->gpr[GPR_RBX], 0x55116611);
    vm_destroy(vm);
}

static void an_instruction_on_two_pages_follows_its_second_page(void **state)
{
    (void)state;
    struct vm *vm = vm_create(program_spanning, program_spanning_end);
    assert_int_equal(vm_run(vm, 3), ENGINE_STOP_LIMIT);
    assert_int_equal(vm_state(vm)->gpr[GPR_RBX], 0x11111111);
    /* Another physical page holds the rest of the instruction now. */
    memcpy(vm_at(vm, 0x150000), vm_at(vm, VM_CODE + 0x1000), 0x1000);
    memset(vm_at(vm, 0x150000), 0x44, 3);
    vm_set_page(vm, VM_CODE + 0x1000, 0x150000 | 7);
    struct vcpu_state s = *vm_state(vm);
    s.rip = VM_CODE + 0xffe;
    vm_set_state(vm, &s);
    assert_int_equal(vm_run(vm, 4), ENGINE_STOP_LIMIT);
    assert_int_equal(vm_state(vm)->gpr[GPR_RBX], 0x44444411);
    /* And back. */
    vm_set_page(vm, VM_CODE + 0x1000, (VM_CODE + 0x1000) | 7);
    vm_set_state(vm, &s);
    assert_int_equal(vm_run(vm, 5), ENGINE_STOP_LIMIT);
    assert_int_equal(vm_state(vm)->gpr[GPR_RBX], 0x11111111);
    vm_destroy(vm);
}

/* A block that always goes on at the same address finds other code there as soon as a page table says so, without INVLPG. */
static void a_call_follows_the_page_table(void **state)
{
    (void)state;
    static const uint8_t loop[] = {
        0xb9, 10,   0,    0, 0, /* mov ecx, 10 */
        0xff, 0xd2,             /* 1: call rdx */
        0x48, 0x31, 0x37,       /* xor [rdi], rsi: the page table entry */
        0xff, 0xc9,             /* dec ecx */
        0x75, 0xf7,             /* jnz 1b */
        0xf4,                   /* hlt */
    };
    static const uint8_t add_1[] = {0x83, 0xc3, 1, 0xc3}, add_100[] = {0x83, 0xc3, 100, 0xc3};
    const uint64_t function = 0x140000, other = 0x150000;
    struct vm *vm = vm_create(loop, loop + sizeof(loop));
    memcpy(vm_at(vm, function), add_1, sizeof(add_1));
    memcpy(vm_at(vm, other), add_100, sizeof(add_100));
    vm_set_gpr(vm, GPR_RBX, 0);
    vm_set_gpr(vm, GPR_RDX, function);
    vm_set_gpr(vm, GPR_RDI, VM_PT_LOW + (function >> 12) * 8);
    vm_set_gpr(vm, GPR_RSI, function ^ other);
    vm_run_to_halt(vm);
    assert_int_equal(vm_state(vm)->gpr[GPR_RBX], 505);
    vm_destroy(vm);
}

static void the_second_page_of_an_instruction_can_fault(void **state)
{
    (void)state;
    struct vm *vm = vm_create(program_spanning, program_spanning_end);
    vm_set_gate(vm, VEC_PF, VM_CODE + 0x800);
    vm_set_page(vm, VM_CODE + 0x1000, 0);
    assert_int_equal(vm_run(vm, 3), ENGINE_STOP_LIMIT);
    assert_int_equal(vm_state(vm)->rip, VM_CODE + 0x800);
    assert_int_equal(vm_state(vm)->cr2, VM_CODE + 0x1000);
    assert_int_equal(vm_read64(vm, vm_state(vm)->gpr[GPR_RSP] + 8), VM_CODE + 0xffe);
    vm_destroy(vm);
}

static void a_loop_may_rewrite_itself(void **state)
{
    (void)state;
    position_t steps;
    assert_int_equal(result_of(program_patch_loop, program_patch_loop_end, GPR_RAX, &steps), 5050);
    assert_int_equal(steps, 2 + 100 * 5 + 1);
}

static void rep_stos_over_the_following_code(void **state)
{
    (void)state;
    position_t steps;
    assert_int_equal(result_of(program_patch_rep, program_patch_rep_end, GPR_RBX, &steps), 0);
    assert_int_equal(steps, 4 + 6 + 6 + 1);
}

/* The REP instruction itself is overwritten by its own iterations: the changed instruction goes on. */
static void rep_stos_over_itself(void **state)
{
    (void)state;
    static const uint8_t code[] = {0xf3, 0xaa, 0x90, 0x90, 0xf4};
    struct vm *vm = vm_create(code, code + sizeof(code));
    struct vcpu_state s = *vm_state(vm);
    s.gpr[GPR_RDI] = VM_CODE;
    s.gpr[GPR_RCX] = 5;
    s.gpr[GPR_RAX] = 0x90;
    vm_set_state(vm, &s);
    /* One iteration makes it "nop; stosb": two steps, then what is left of it: nop nop hlt. */
    vm_run_to_halt(vm);
    assert_int_equal(vm_state(vm)->gpr[GPR_RCX], 4);
    assert_int_equal(vm_state(vm)->gpr[GPR_RDI], VM_CODE + 2);
    assert_int_equal(vm_position(vm), 1 + 2 + 2 + 1);
    vm_destroy(vm);
}

static void data_beside_code_does_not_disturb_it(void **state)
{
    (void)state;
    /* inc qword [rip + 250] (the same page); dec ecx; jnz; hlt */
    static const uint8_t code[] = {0x48, 0xff, 0x05, 0xf3, 0, 0, 0, 0xff, 0xc9, 0x75, 0xf5, 0xf4};
    struct vm *vm = vm_create(code, code + sizeof(code));
    vm_set_gpr(vm, GPR_RCX, 100000);
    vm_run_to_halt(vm);
    assert_int_equal(vm_read64(vm, VM_CODE + 7 + 0xf3), 100000);
    assert_int_equal(vm_position(vm), 300001);
    vm_destroy(vm);
}

static void code_written_from_outside_is_seen(void **state)
{
    (void)state;
    struct vm *vm = vm_create(program_nops, program_nops_end);
    struct vcpu_state s = *vm_state(vm);
    vm_run_to_halt(vm);
    static const uint8_t inc[] = {0x48, 0xff, 0xc0};
    memcpy(vm_at(vm, VM_CODE + 5), inc, sizeof(inc));
    emu_ram_changed(vm->engine, VM_CODE + 5, sizeof(inc));
    vm_set_state(vm, &s);
    vm_run_to_halt(vm);
    assert_int_equal(vm_state(vm)->gpr[GPR_RAX], 1);
    memset(vm_at(vm, VM_CODE + 5), 0x90, 3);
    emu_ram_reset(vm->engine);
    vm_set_state(vm, &s);
    vm_run_to_halt(vm);
    assert_int_equal(vm_state(vm)->gpr[GPR_RAX], 0);
    vm_destroy(vm);
}

/* More code than the cache holds, each piece run twice: old blocks make room, nothing else happens. */
static void more_code_than_the_cache_holds(void **state)
{
    (void)state;
    static const uint8_t turn[] = {0x48, 0xff, 0xc0, 0x90, 0x90, 0xc3}; /* inc rax; nop; nop; ret */
    static const uint8_t caller[] = {
        0xff, 0xd3, 0x48, 0x83, 0xc3, 0x08,
        0x48, 0x39, 0xcb, 0x72, 0xf5, 0xf4}; /* call rbx; add rbx, 8; cmp rbx, rcx; jb; hlt */
    struct vm *vm = vm_create(caller, caller + sizeof(caller));
    uint64_t from = 0x200000, to = 0x500000;
    for (uint64_t at = from; at < to; at += 8)
        memcpy(vm_at(vm, at), turn, sizeof(turn));
    emu_ram_reset(vm->engine);
    struct vcpu_state s = *vm_state(vm);
    s.gpr[GPR_RBX] = from;
    s.gpr[GPR_RCX] = to;
    vm_set_state(vm, &s);
    vm_run_to_halt(vm);
    assert_int_equal(vm_state(vm)->gpr[GPR_RAX], (to - from) / 8);
    assert_int_equal(vm_position(vm), (to - from) / 8 * 8 + 1);
    vm_destroy(vm);
}

static void fetching_needs_permission_each_time(void **state)
{
    (void)state;
    struct vm *vm = vm_create(program_nops, program_nops_end);
    struct vcpu_state s = *vm_state(vm);
    vm_set_gate(vm, VEC_PF, VM_CODE + 0x1000);
    memset(vm_at(vm, VM_CODE + 0x1000), 0xf4, 16);
    emu_ram_reset(vm->engine);
    vm_run_to_halt(vm);
    vm_set_page(vm, VM_CODE, VM_CODE | 7 | 1ull << 63);
    vm_set_state(vm, &s);
    assert_int_equal(vm_run(vm, vm_position(vm) + 1), ENGINE_STOP_LIMIT);
    assert_int_equal(vm_state(vm)->rip, VM_CODE + 0x1000);
    assert_int_equal(vm_state(vm)->cr2, VM_CODE);
    /* Present, instruction fetch. */
    assert_int_equal(vm_read64(vm, vm_state(vm)->gpr[GPR_RSP]), 0x11);
    vm_destroy(vm);
}

static void code_ends_at_the_segment_limit(void **state)
{
    (void)state;
    struct vm *vm = vm_create(program_nops, program_nops_end);
    struct vcpu_state s = *vm_state(vm);
    vm_set_gate(vm, VEC_GP, VM_CODE + 0x1000);
    memset(vm_at(vm, VM_CODE), 0x90, 64);
    memset(vm_at(vm, VM_CODE + 0x1000), 0xf4, 16);
    emu_ram_reset(vm->engine);
    s.seg[SEG_CS].rights = 0xc09b;
    s.seg[SEG_CS].limit = VM_CODE + 9;
    s.seg[SEG_CS].selector = VM_CS32;
    vm_set_state(vm, &s);
    assert_int_equal(vm_run(vm, 10), ENGINE_STOP_LIMIT);
    assert_int_equal(vm_state(vm)->rip, VM_CODE + 10);
    assert_int_equal(vm_run(vm, 11), ENGINE_STOP_LIMIT);
    assert_int_equal(vm_state(vm)->rip, VM_CODE + 0x1000);
    assert_int_equal(vm_read64(vm, vm_state(vm)->gpr[GPR_RSP] + 8), VM_CODE + 10);
    vm_destroy(vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_next_instruction_is_the_written_one),
        cmocka_unit_test(a_write_through_an_alias_counts),
        cmocka_unit_test(an_instruction_on_two_pages_is_seen_to_change),
        cmocka_unit_test(an_instruction_is_dropped_with_its_second_page),
        cmocka_unit_test(an_instruction_on_two_pages_follows_its_second_page),
        cmocka_unit_test(a_call_follows_the_page_table),
        cmocka_unit_test(the_second_page_of_an_instruction_can_fault),
        cmocka_unit_test(a_loop_may_rewrite_itself),
        cmocka_unit_test(rep_stos_over_the_following_code),
        cmocka_unit_test(rep_stos_over_itself),
        cmocka_unit_test(data_beside_code_does_not_disturb_it),
        cmocka_unit_test(code_written_from_outside_is_seen),
        cmocka_unit_test(more_code_than_the_cache_holds),
        cmocka_unit_test(fetching_needs_permission_each_time),
        cmocka_unit_test(code_ends_at_the_segment_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
