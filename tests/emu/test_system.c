/*
 * System instructions in translated code, interrupts at its boundaries, and address spaces: stage 2 against stage 1, stopped at the
 * same random positions, with and without an interrupt that waits; all registers and RAM have to be equal.
 */
#include "tests/emu/vm.h"

#include <string.h>

#define DECLARE(name) extern const uint8_t system_##name[], system_##name##_end[], system_##name##_handler[]
DECLARE(interrupts);
DECLARE(flags);
DECLARE(smap);
DECLARE(registers);
DECLARE(user);
DECLARE(spaces);
extern const uint8_t system_undefined_handler[];
extern const uint8_t system_function_one[], system_function_two[], system_function_three[],
    system_functions_end[];

#define DATA     0x190000u
#define ABSENT   0x198000u
#define FUNCTION 0x1a0000u /* linear; also a page of RAM, as the next ones are */
#define VECTOR   0x40u

enum { PRESENT_WRITABLE = 3, ALL_ALLOWED = 7 };

struct program {
    const uint8_t *code, *end;
    void (*prepare)(struct vm *vm, struct vcpu_state *s);
    bool interrupts; /* it is interrupted where it can be */
    bool fresh;      /* compared with a run that forgets all translations of addresses after each step */
};

static struct vm *start(const struct program *program, enum emu_stages stages)
{
    struct vm *vm = vm_create(program->code, program->end);
    emu_set_stages(vm->engine, stages);
    uint64_t random = 1, *data = vm_at(vm, DATA);
    for (unsigned i = 0; i < 1024; i++)
        data[i] = vm_random(&random);
    struct vcpu_state s = *vm_state(vm);
    s.gpr[GPR_RDI] = DATA;
    program->prepare(vm, &s);
    emu_ram_reset(vm->engine);
    vm_set_state(vm, &s);
    return vm;
}

/* Up to the limit; interrupts are delivered where the engine says that they can be. */
static int run(struct vm *vm, position_t limit, bool interrupts)
{
    int stop = vm_run_request(vm, &(struct engine_request){.limit = limit, .want_window = interrupts});
    if (stop == ENGINE_STOP_WINDOW)
        vm_interrupt(vm, VECTOR);
    return stop;
}

static int run_fresh(struct vm *vm, position_t limit)
{
    int stop = ENGINE_STOP_LIMIT;
    while (stop == ENGINE_STOP_LIMIT && vm_position(vm) < limit) {
        stop = vm_run(vm, vm_position(vm) + 1);
        emu_ram_reset(vm->engine);
    }
    return stop;
}

static void check(const struct program *program)
{
    uint64_t random = 3;
    for (unsigned slice = 10; slice <= 10000; slice *= 10) {
        struct vm *one = start(program, EMU_STAGE_1_ONLY), *two = start(program, EMU_STAGE_2_ONLY);
        int stop = ENGINE_STOP_LIMIT;
        unsigned windows = 0;
        while (stop != ENGINE_STOP_HALT) {
            position_t limit = vm_position(one) + 1 + vm_random(&random) % slice;
            bool interrupts = program->interrupts && vm_random(&random) % 2;
            stop = program->fresh ? run_fresh(one, limit) : run(one, limit, interrupts);
            assert_int_equal(run(two, limit, interrupts), stop);
            assert_int_equal(vm_position(two), vm_position(one));
            vm_assert_same(one, two);
            windows += stop == ENGINE_STOP_WINDOW;
            assert_true(stop == ENGINE_STOP_LIMIT || stop == ENGINE_STOP_HALT || stop == ENGINE_STOP_WINDOW);
        }
        assert_true(!program->interrupts || slice > 100 || windows > 0);
        const struct emu_profile *profile = emu_profile(two->engine);
        if (profile && slice >= 1000 && !program->interrupts)
            assert_true(profile->steps_translated > vm_position(two) / 4);
        vm_destroy(one);
        vm_destroy(two);
    }
}

static uint64_t address_of(const uint8_t *label, const uint8_t *program)
{
    return VM_CODE + (uint64_t)(label - program);
}

/* ---- IF ---- */

static void prepare_interrupts(struct vm *vm, struct vcpu_state *s)
{
    vm_set_gate(vm, VECTOR, address_of(system_interrupts_handler, system_interrupts));
    /* add qword ptr [rsp + 8], 3; add rsp, 8; iretq */
    static const uint8_t skip[] = {0x48, 0x83, 0x44, 0x24, 0x08, 0x03, 0x48, 0x83, 0xc4, 0x08, 0x48, 0xcf};
    memcpy(vm_at(vm, VM_CODE + 0x1000), skip, sizeof(skip));
    vm_set_gate(vm, VEC_PF, VM_CODE + 0x1000);
    vm_set_page(vm, ABSENT, 0);
    s->gpr[GPR_R8] = ABSENT;
    s->gpr[GPR_R9] = VM_DS;
}

static void interrupts_wait_for_the_instruction_after_sti(void **state)
{
    (void)state;
    check(&(struct program){.code = system_interrupts,
                            .end = system_interrupts_end,
                            .prepare = prepare_interrupts,
                            .interrupts = true});
}

static void the_shadow_of_sti_is_there_where_a_run_ends_in_it(void **state)
{
    (void)state;
    check(&(struct program){
        .code = system_interrupts, .end = system_interrupts_end, .prepare = prepare_interrupts});
}

static void nothing(struct vm *vm, struct vcpu_state *s)
{
    (void)vm;
    (void)s;
}

static void flags_are_pushed_and_popped_whole(void **state)
{
    (void)state;
    check(&(struct program){.code = system_flags, .end = system_flags_end, .prepare = nothing});
}

/* ---- privilege ---- */

/* All that is not the user's is the supervisor's: with SMAP the descriptor tables and the stack have to be. */
static void prepare_smap(struct vm *vm, struct vcpu_state *s)
{
    for (uint64_t page = 0; page < 0x200000; page += PAGE_SIZE_BYTES)
        vm_set_page(vm, page, page | (page == DATA ? ALL_ALLOWED : PRESENT_WRITABLE));
    vm_set_gate(vm, VEC_PF, address_of(system_smap_handler, system_smap));
    s->gpr[GPR_RSI] = DATA + PAGE_SIZE_BYTES;
    s->cr4 |= CR4_SMAP;
}

static void prepare_without_smap(struct vm *vm, struct vcpu_state *s)
{
    prepare_smap(vm, s);
    s->cr4 &= ~CR4_SMAP;
}

static void ac_opens_user_pages_with_smap(void **state)
{
    (void)state;
    check(&(struct program){
        .code = system_smap, .end = system_smap_end, .prepare = prepare_smap, .fresh = true});
    check(&(struct program){.code = system_smap, .end = system_smap_end, .prepare = prepare_without_smap});
}

static void prepare_registers(struct vm *vm, struct vcpu_state *s)
{
    (void)vm;
    s->seg[SEG_GS].base = DATA;
    s->kernel_gs_base = DATA + 0x100;
}

static void system_registers_are_read_and_exchanged(void **state)
{
    (void)state;
    check(&(struct program){
        .code = system_registers, .end = system_registers_end, .prepare = prepare_registers});
}

/* cpl: 1 and 2 have the TLB of CPL 0, but not its rights. */
static void prepare_cpl(struct vm *vm, struct vcpu_state *s, unsigned cpl)
{
    vm_set_gate(vm, VEC_GP, address_of(system_user_handler, system_user));
    vm_set_gate(vm, VEC_UD, address_of(system_undefined_handler, system_user));
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        s->seg[i].selector = (uint16_t)((s->seg[i].selector & ~3u) | cpl);
        s->seg[i].rights |= (uint16_t)(cpl << SEGMENT_DPL_SHIFT);
    }
    /* What IRET loads: descriptors of that privilege level in the place of the user's. */
    uint64_t code = (0x00af9b000000ffffu | (uint64_t)cpl << 45),
             data = 0x00cf93000000ffffu | (uint64_t)cpl << 45;
    memcpy(vm_at(vm, 0x1000 + (VM_USER_CS & ~7u)), &code, 8);
    memcpy(vm_at(vm, 0x1000 + (VM_USER_DS & ~7u)), &data, 8);
    s->seg[SEG_CS].selector = (uint16_t)((VM_USER_CS & ~3u) | cpl);
    s->seg[SEG_SS].selector = (uint16_t)((VM_USER_DS & ~3u) | cpl);
    /* SWAPGS is looked for in GS. */
    s->kernel_gs_base = 0x1234;
}

static void prepare_cpl1(struct vm *vm, struct vcpu_state *s)
{
    prepare_cpl(vm, s, 1);
}

static void prepare_cpl3(struct vm *vm, struct vcpu_state *s)
{
    prepare_cpl(vm, s, 3);
}

static void system_instructions_are_refused_outside_cpl_0(void **state)
{
    (void)state;
    check(&(struct program){.code = system_user, .end = system_user_end, .prepare = prepare_cpl1});
    check(&(struct program){.code = system_user, .end = system_user_end, .prepare = prepare_cpl3});
}

/* ---- address spaces ---- */

#define ROOT  0x20000u /* of the second address space; its other tables follow */
#define TABLE 0x23000u
#define OTHER 0x24000u /* tables of each level that take the place of the second's */

static void put64(struct vm *vm, uint64_t gpa, uint64_t value)
{
    memcpy(vm_at(vm, gpa), &value, sizeof(value));
}

static void put_function(struct vm *vm, uint64_t gpa, const uint8_t *from, const uint8_t *to)
{
    memcpy(vm_at(vm, gpa), from, (size_t)(to - from));
}

/* Four levels of tables from at on; the function and the data of the first 2 MiB lie in other pages of RAM. */
static void build_space(struct vm *vm, uint64_t at, uint64_t function, uint64_t data)
{
    for (unsigned level = 0; level < 4; level++)
        memcpy(vm_at(vm, at + level * 0x1000), vm_at(vm, 0x10000 + level * 0x1000), PAGE_SIZE_BYTES);
    for (unsigned level = 0; level < 3; level++)
        put64(vm, at + level * 0x1000, (at + (level + 1) * 0x1000) | ALL_ALLOWED);
    uint64_t table = at + 0x3000;
    put64(vm, table + FUNCTION / PAGE_SIZE_BYTES * 8, function | ALL_ALLOWED);
    put64(vm, table + DATA / PAGE_SIZE_BYTES * 8, data | ALL_ALLOWED);
}

static void prepare_spaces(struct vm *vm, struct vcpu_state *s)
{
    put_function(vm, FUNCTION, system_function_one, system_function_two);
    put_function(vm, FUNCTION + 0x1000, system_function_two, system_function_three);
    put_function(vm, FUNCTION + 0x2000, system_function_three, system_functions_end);
    put64(vm, DATA + 0x1000, 77);
    put64(vm, DATA + 0x2000, 99);
    build_space(vm, ROOT, FUNCTION + 0x1000, DATA + 0x1000);
    build_space(vm, OTHER, FUNCTION + 0x2000, DATA + 0x2000);
    s->gpr[GPR_RSI] = s->cr3;
    s->gpr[GPR_R8] = ROOT;
    s->gpr[GPR_R9] = FUNCTION;
}

/* The entry of the second address space that leads to a table of the other one by turns. */
static void prepare_level(struct vm *vm, struct vcpu_state *s, unsigned level)
{
    prepare_spaces(vm, s);
    s->gpr[GPR_R10] = ROOT + (4 - level) * 0x1000;
    s->gpr[GPR_R11] = (ROOT + (5 - level) * 0x1000) ^ (OTHER + (5 - level) * 0x1000);
}

static void prepare_level1(struct vm *vm, struct vcpu_state *s)
{
    prepare_spaces(vm, s);
    s->gpr[GPR_R10] = TABLE + FUNCTION / PAGE_SIZE_BYTES * 8;
    s->gpr[GPR_R11] = (FUNCTION + 0x1000) ^ (FUNCTION + 0x2000);
}

static void prepare_level2(struct vm *vm, struct vcpu_state *s)
{
    prepare_level(vm, s, 2);
}

static void prepare_level3(struct vm *vm, struct vcpu_state *s)
{
    prepare_level(vm, s, 3);
}

static void prepare_level4(struct vm *vm, struct vcpu_state *s)
{
    prepare_level(vm, s, 4);
}

static void address_spaces_have_their_own_code_and_data(void **state)
{
    (void)state;
    void (*const prepare[])(struct vm *, struct vcpu_state *) = {prepare_level1, prepare_level2,
                                                                 prepare_level3, prepare_level4};
    for (size_t i = 0; i < ARRAY_LEN(prepare); i++)
        check(&(struct program){
            .code = system_spaces, .end = system_spaces_end, .prepare = prepare[i], .fresh = true});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(interrupts_wait_for_the_instruction_after_sti),
        cmocka_unit_test(the_shadow_of_sti_is_there_where_a_run_ends_in_it),
        cmocka_unit_test(flags_are_pushed_and_popped_whole),
        cmocka_unit_test(ac_opens_user_pages_with_smap),
        cmocka_unit_test(system_registers_are_read_and_exchanged),
        cmocka_unit_test(system_instructions_are_refused_outside_cpl_0),
        cmocka_unit_test(address_spaces_have_their_own_code_and_data),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
