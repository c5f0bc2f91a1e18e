/* Looking at a guest from outside. */
#include "tests/emu/vm.h"

#include <errno.h>
#include <string.h>

#include "core/x86/inspect.h"
#include "tests/emu/programs.h"

static void addresses_are_translated_without_a_trace(void **state)
{
    (void)state;
    struct vm *vm = vm_create(program_nops, program_nops_end);
    const struct vcpu_state *s = vm_state(vm);
    gpa_t gpa = 0;
    uint64_t entry = vm_read64(vm, VM_PT_LOW + 8);
    assert_int_equal(x86_translate(vm->ram, s, 0x1234, &gpa), 0);
    assert_int_equal(gpa, 0x1234);
    assert_int_equal(vm_read64(vm, VM_PT_LOW + 8), entry);
    assert_int_equal(x86_translate(vm->ram, s, VM_ALIAS + 0x5678, &gpa), 0);
    assert_int_equal(gpa, 0x5678);
    assert_int_equal(x86_translate(vm->ram, s, 0x654321, &gpa), 0);
    assert_int_equal(gpa, 0x654321);
    assert_int_equal(x86_translate(vm->ram, s, 0x7fffffffffffu, &gpa), -EFAULT);
    assert_int_equal(x86_translate(vm->ram, s, 0x800000000000u, &gpa), -EFAULT);

    struct vcpu_state flat = *s;
    flat.cr0 &= ~CR0_PG;
    flat.efer = 0;
    assert_int_equal(x86_translate(vm->ram, &flat, 0x654321, &gpa), 0);
    assert_int_equal(gpa, 0x654321);
    vm_destroy(vm);
}

static void two_level_and_pae_tables_are_walked(void **state)
{
    (void)state;
    struct vm *vm = vm_create(program_nops, program_nops_end);
    struct vcpu_state s = *vm_state(vm);
    gpa_t gpa = 0;
    const uint32_t directory[2] = {0x201000 | 1,
                                   0x00800000 | 1u << 13 | 0x81}; /* a table; 4 MiB at 2^32 + 8 MiB */
    const uint32_t entry = 0x345000 | 1;
    memcpy(vm_at(vm, 0x200000), directory, sizeof(directory));
    memcpy(vm_at(vm, 0x201000 + 7 * 4), &entry, sizeof(entry));
    s.efer = 0;
    s.cr4 = CR4_PSE;
    s.cr3 = 0x200000;
    assert_int_equal(x86_translate(vm->ram, &s, 0x7123, &gpa), 0);
    assert_int_equal(gpa, 0x345123);
    assert_int_equal(x86_translate(vm->ram, &s, 0x401234, &gpa), 0);
    assert_int_equal(gpa, 0x100801234);

    const uint64_t pdpt[4] = {0, 0x203000 | 1, 0, 0}, large = 0x600000 | 0x81;
    memcpy(vm_at(vm, 0x202020), pdpt, sizeof(pdpt));
    memcpy(vm_at(vm, 0x203000 + 3 * 8), &large, sizeof(large));
    s.cr4 = CR4_PAE;
    s.cr3 = 0x202020;
    assert_int_equal(x86_translate(vm->ram, &s, 0x40000000 + 0x600000 + 0x4321, &gpa), 0);
    assert_int_equal(gpa, 0x604321);
    assert_int_equal(x86_translate(vm->ram, &s, 0x4321, &gpa), -EFAULT);
    vm_destroy(vm);
}

static void virtual_memory_is_read_up_to_where_it_ends(void **state)
{
    (void)state;
    struct vm *vm = vm_create(program_nops, program_nops_end);
    uint8_t out[64];
    memset(vm_at(vm, VM_DATA + 0xff0), 0x77, 16);
    vm_set_page(vm, VM_DATA + 0x1000, 0);
    assert_int_equal(x86_read_virtual(vm->ram, vm_state(vm), VM_DATA + 0xff0, out, sizeof(out)), 16);
    assert_int_equal(out[15], 0x77);
    assert_int_equal(x86_witness_value(vm->ram, vm_state(vm), VM_DATA + 0xffc), 0x77777777);
    vm_destroy(vm);
}

static void instructions_are_printed(void **state)
{
    (void)state;
    struct vm *vm = vm_create(program_count_memory, program_count_memory_end);
    char text[96];
    vm_run(vm, 1);
    x86_disassemble(vm->ram, vm_state(vm), text, sizeof(text));
    assert_string_equal(text, "inc qword ptr [rdi]");
    struct vcpu_state s = *vm_state(vm);
    s.rip = 0x7000000;
    x86_disassemble(vm->ram, &s, text, sizeof(text));
    assert_string_equal(text, "(not mapped)");
    memset(vm_at(vm, VM_DATA), 0x06, 15); /* PUSH ES: not in 64-bit mode */
    s.rip = VM_DATA;
    x86_disassemble(vm->ram, &s, text, sizeof(text));
    assert_memory_equal(text, "bytes: 06 06", 12);
    vm_destroy(vm);
}

static void witnesses_tell_iterations_of_a_memory_loop_apart(void **state)
{
    (void)state;
    struct vm *vm = vm_create(program_count_memory, program_count_memory_end);
    struct x86_witness first[X86_WITNESS_MAX], second[X86_WITNESS_MAX];
    for (position_t phase = 1; phase <= 2; phase++) {
        vm_run(vm, phase);
        unsigned count = x86_witnesses(vm->ram, vm_state(vm), first);
        assert_int_equal(count, 2);
        assert_int_equal(first[0].address, VM_STACK);
        assert_int_equal(first[1].address, VM_DATA);
    }
    vm_run(vm, 10);
    assert_int_equal(x86_witnesses(vm->ram, vm_state(vm), second), 2);
    assert_int_not_equal(first[1].value, second[1].value);
    assert_int_equal(second[1].value, vm_read64(vm, VM_DATA));
    vm_destroy(vm);
}

static void witnesses_include_what_string_instructions_touch(void **state)
{
    (void)state;
    struct vm *vm = vm_create(program_rep_movs, program_rep_movs_end);
    struct x86_witness w[X86_WITNESS_MAX];
    vm_run(vm, 10);
    unsigned count = x86_witnesses(vm->ram, vm_state(vm), w);
    bool source = false, destination = false;
    for (unsigned i = 0; i < count; i++) {
        source |= w[i].address == 0x180007;
        destination |= w[i].address == 0x1a000a;
    }
    assert_true(source && destination);
    vm_destroy(vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_are_translated_without_a_trace),
        cmocka_unit_test(two_level_and_pae_tables_are_walked),
        cmocka_unit_test(virtual_memory_is_read_up_to_where_it_ends),
        cmocka_unit_test(instructions_are_printed),
        cmocka_unit_test(witnesses_tell_iterations_of_a_memory_loop_apart),
        cmocka_unit_test(witnesses_include_what_string_instructions_touch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
