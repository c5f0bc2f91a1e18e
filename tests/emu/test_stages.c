/*
 * Stage 2 against stage 1: programs that need what translated code does in ways of its own run in two guests, one for each stage, which
 * are stopped at the same random positions and have to be equal in every register and in RAM.
 */
#include "tests/emu/vm.h"

#include <string.h>

#define DECLARE(name) extern const uint8_t stages_##name[], stages_##name##_end[]
DECLARE(gs);
DECLARE(frame);
DECLARE(modify);
DECLARE(remap);
DECLARE(table);
DECLARE(flags);
DECLARE(paths);
DECLARE(patched);
DECLARE(returns);
extern const uint8_t stages_patched_byte[];
DECLARE(strings);
DECLARE(vectors);
DECLARE(x87);
DECLARE(x87_faults);
DECLARE(divide);
DECLARE(bits);
DECLARE(registers);
extern const uint8_t stages_x87_error[], stages_x87_missing[], stages_divide_error[];

#define DATA 0x190000u

typedef void (*prepare_fn)(struct vm *vm, struct vcpu_state *s);

static struct vm *start(const uint8_t *code, const uint8_t *end, enum emu_stages stages, prepare_fn prepare)
{
    struct vm *vm = vm_create(code, end);
    emu_set_stages(vm->engine, stages);
    uint64_t random = 1, *data = vm_at(vm, DATA);
    for (unsigned i = 0; i < 1024; i++)
        data[i] = vm_random(&random);
    struct vcpu_state s = *vm_state(vm);
    s.gpr[GPR_RDI] = DATA;
    prepare(vm, &s);
    emu_ram_reset(vm->engine);
    vm_set_state(vm, &s);
    return vm;
}

static void check(const uint8_t *code, const uint8_t *end, prepare_fn prepare)
{
    uint64_t random = 3;
    for (unsigned slice = 100; slice <= 10000; slice *= 10) {
        struct vm *one = start(code, end, EMU_STAGE_1_ONLY, prepare);
        struct vm *two = start(code, end, EMU_STAGE_2_ONLY, prepare);
        int stop = ENGINE_STOP_LIMIT;
        while (stop == ENGINE_STOP_LIMIT) {
            position_t limit = vm_position(one) + 1 + vm_random(&random) % slice;
            stop = vm_run(one, limit);
            assert_int_equal(vm_run(two, limit), stop);
            assert_int_equal(vm_position(two), vm_position(one));
            vm_assert_same(one, two);
        }
        assert_int_equal(stop, ENGINE_STOP_HALT);
        const struct emu_profile *profile = emu_profile(two->engine);
        if (profile && slice >= 1000)
            assert_true(profile->steps_translated > vm_position(two) / 4);
        vm_destroy(one);
        vm_destroy(two);
    }
}

/* The same with a break address; the last run of stage 2 has to have made superblocks. */
static void check_superblocks(const uint8_t *code, const uint8_t *end, prepare_fn prepare, gva_t address)
{
    check(code, end, prepare);
    uint64_t random = 4;
    for (unsigned i = 0; i < 2; i++) {
        const struct engine_points points = {.breaks = &address, .break_count = i};
        struct vm *one = start(code, end, EMU_STAGE_1_ONLY, prepare);
        struct vm *two = start(code, end, EMU_STAGE_2_ONLY, prepare);
        int stop = ENGINE_STOP_LIMIT;
        while (stop != ENGINE_STOP_HALT) {
            /* Points come and go while there are superblocks. */
            bool looks = vm_random(&random) % 3 != 0;
            one->engine->ops->set_points(one->engine, looks ? &points : NULL);
            two->engine->ops->set_points(two->engine, looks ? &points : NULL);
            position_t limit = vm_position(one) + 1 + vm_random(&random) % 700;
            stop = vm_run(one, limit);
            assert_int_equal(vm_run(two, limit), stop);
            assert_int_equal(vm_position(two), vm_position(one));
            vm_assert_same(one, two);
        }
        const struct emu_profile *profile = emu_profile(two->engine);
        assert_true(!profile || profile->superblocks > 0);
        vm_destroy(one);
        vm_destroy(two);
    }
}

static void nothing(struct vm *vm, struct vcpu_state *s)
{
    (void)vm;
    (void)s;
}

static void flags_survive_memory_accesses(void **state)
{
    (void)state;
    check(stages_flags, stages_flags_end, nothing);
}

static void prepare_gs(struct vm *vm, struct vcpu_state *s)
{
    (void)vm;
    s->seg[SEG_GS].base = DATA - VM_CODE;
    s->gpr[GPR_RBX] = 8;
}

static void gs_operands_have_the_base_added(void **state)
{
    (void)state;
    check(stages_gs, stages_gs_end, prepare_gs);
}

/* The second page is not the next one in RAM. */
static void prepare_frame(struct vm *vm, struct vcpu_state *s)
{
    enum { PRESENT_WRITABLE = 3 };
    vm_set_page(vm, DATA + PAGE_SIZE_BYTES, (DATA + 5 * PAGE_SIZE_BYTES) | PRESENT_WRITABLE);
    s->gpr[GPR_RSP] = DATA + PAGE_SIZE_BYTES + 20;
}

static void a_stack_frame_may_lie_on_two_pages(void **state)
{
    (void)state;
    check(stages_frame, stages_frame_end, prepare_frame);
}

static void prepare_modify(struct vm *vm, struct vcpu_state *s)
{
    (void)vm;
    s->gpr[GPR_RDI] = VM_CODE;
    s->gpr[GPR_RSI] = DATA;
}

static void code_that_is_overwritten_by_its_own_block_is_executed_as_written(void **state)
{
    (void)state;
    check(stages_modify, stages_modify_end, prepare_modify);
}

static void prepare_remap(struct vm *vm, struct vcpu_state *s)
{
    (void)vm;
    s->gpr[GPR_RSI] = VM_PT_LOW + DATA / PAGE_SIZE_BYTES * 8;
}

static void a_page_that_is_mapped_elsewhere_is_found_there_at_once(void **state)
{
    (void)state;
    check(stages_remap, stages_remap_end, prepare_remap);
}

/* The page table of 2 to 4 MiB is a page of data until it is used. */
static void prepare_table(struct vm *vm, struct vcpu_state *s)
{
    enum { PRESENT_WRITABLE = 3, TABLE = DATA + 0x2000, ONE = DATA + 0x3000, TWO = DATA + 0x4000 };
    memcpy(vm_at(vm, VM_PD_LOW + 8), &(uint64_t){TABLE | PRESENT_WRITABLE}, 8);
    memcpy(vm_at(vm, TABLE), &(uint64_t){ONE | PRESENT_WRITABLE}, 8);
    memcpy(vm_at(vm, ONE), &(uint64_t){1}, 8);
    memcpy(vm_at(vm, TWO), &(uint64_t){2}, 8);
    s->gpr[GPR_RDI] = TABLE;
    s->gpr[GPR_RSI] = 0x200000;
    s->gpr[GPR_R8] = TWO | PRESENT_WRITABLE;
    s->gpr[GPR_R9] = ONE | PRESENT_WRITABLE;
}

static void a_page_that_becomes_a_page_table_is_known_as_one_at_once(void **state)
{
    (void)state;
    check(stages_table, stages_table_end, prepare_table);
}

static void prepare_strings(struct vm *vm, struct vcpu_state *s)
{
    (void)vm;
    s->gpr[GPR_RDX] = 60;
}

static void string_instructions_do_the_same(void **state)
{
    (void)state;
    check(stages_strings, stages_strings_end, prepare_strings);
}

static void prepare_vectors(struct vm *vm, struct vcpu_state *s)
{
    double third = 1.0 / 3;
    memcpy(vm_at(vm, DATA + 8), &third, sizeof third);
    for (unsigned i = 0; i < 8; i++)
        memcpy(vm_at(vm, DATA + 32 + 8 * i), &third, sizeof third);
    s->cr4 |= CR4_OSXSAVE;
    s->xcr0 = 7;
    memcpy(vm_at(vm, DATA + 136), &(uint32_t){200}, 4);
}

static void vector_registers_and_rounding_are_kept(void **state)
{
    (void)state;
    if (!__builtin_cpu_supports("avx2"))
        skip();
    check(stages_vectors, stages_vectors_end, prepare_vectors);
}

static void prepare_x87(struct vm *vm, struct vcpu_state *s)
{
    (void)vm;
    s->seg[SEG_SS].selector = VM_DS + 0x100; /* FDS tells DS and SS apart */
}

static void x87_and_mmx_leave_the_same_and_tell_where_they_were(void **state)
{
    (void)state;
    check(stages_x87, stages_x87_end, prepare_x87);
}

static void prepare_x87_faults(struct vm *vm, struct vcpu_state *s)
{
    (void)s;
    vm_set_gate(vm, 16, VM_CODE + (uint64_t)(stages_x87_error - stages_x87_faults));
    vm_set_gate(vm, 7, VM_CODE + (uint64_t)(stages_x87_missing - stages_x87_faults));
}

static void x87_exceptions_may_be_unmasked_and_the_unit_switched_off_between_instructions(void **state)
{
    (void)state;
    check(stages_x87_faults, stages_x87_faults_end, prepare_x87_faults);
}

__extension__ typedef unsigned __int128 uint128;

#define DIVISIONS 500u

/* Dividends whose quotient is about the largest, and the smallest, that fits. */
static uint128 dividend_at_limit(uint64_t *random, unsigned bits, uint64_t divisor)
{
    uint128 by = (uint128)divisor, limit = (uint128)1 << bits;
    int64_t sign_extended = (int64_t)(divisor << (64 - bits)) >> (64 - bits);
    uint64_t near = vm_random(random) % 5;
    switch (vm_random(random) % 5) {
    case 0:
        return by * limit - 2 + near;
    case 1:
        return (uint128)sign_extended * (limit / 2) - 2 + near;
    case 2:
        return (uint128)sign_extended * (limit / 2 - 1) + (uint128)sign_extended - 2 + near;
    case 3:
        return -((uint128)sign_extended * (limit / 2)) - 2 + near;
    default:
        return (uint128)(int64_t)(vm_random(random) << (64 - bits)) >> (64 - bits);
    }
}

static void prepare_divide(struct vm *vm, struct vcpu_state *s)
{
    enum { TABLE = DATA + 0x2000 };
    static const uint64_t divisors[] = {0, 1, 2, 3, 7, 0x7f, 0x80, 0x81};
    uint64_t random = 5, *entry = vm_at(vm, TABLE);
    for (unsigned i = 0; i < DIVISIONS; i++, entry += 3) {
        unsigned bits = 8u << vm_random(&random) % 4, shift = vm_random(&random) % 2 ? 0 : bits - 8;
        uint64_t divisor = divisors[vm_random(&random) % ARRAY_LEN(divisors)] << shift;
        switch (vm_random(&random) % 4) {
        case 0:
            divisor = vm_random(&random);
            break;
        case 1:
            divisor = -divisor;
            break;
        default:
            break;
        }
        uint64_t mask = bits == 64 ? UINT64_MAX : ((uint64_t)1 << bits) - 1;
        uint128 dividend = dividend_at_limit(&random, bits, divisor & mask);
        uint64_t high = (uint64_t)(dividend >> bits), low = (uint64_t)dividend;
        entry[0] = (high & mask) | (vm_random(&random) & ~mask);
        entry[1] = bits == 8 ? low : (low & mask) | (vm_random(&random) & ~mask);
        entry[2] = (divisor & mask) | (vm_random(&random) & ~mask);
    }
    s->gpr[GPR_RSI] = TABLE;
    s->gpr[GPR_RCX] = DIVISIONS;
    vm_set_gate(vm, 0, VM_CODE + (uint64_t)(stages_divide_error - stages_divide));
}

static void divisions_fault_exactly_where_the_quotient_does_not_fit(void **state)
{
    (void)state;
    check(stages_divide, stages_divide_end, prepare_divide);
}

static void bit_strings_reach_beyond_their_operand(void **state)
{
    (void)state;
    check(stages_bits, stages_bits_end, nothing);
}

static void registers_in_the_frame_and_high_bytes_are_like_all_others(void **state)
{
    (void)state;
    check(stages_registers, stages_registers_end, nothing);
}

static void prepare_paths(struct vm *vm, struct vcpu_state *s)
{
    (void)vm;
    s->gpr[GPR_R8] = VM_CODE + PAGE_SIZE_BYTES;
    s->gpr[GPR_RSI] = VM_PT_LOW + s->gpr[GPR_R8] / PAGE_SIZE_BYTES * 8;
}

static void a_path_over_pages_is_left_when_one_is_mapped_elsewhere(void **state)
{
    (void)state;
    /* In the middle of a block, and at the starts of two. */
    check_superblocks(stages_paths, stages_paths_end, prepare_paths, VM_CODE + PAGE_SIZE_BYTES + 4);
    check_superblocks(stages_paths, stages_paths_end, prepare_paths, VM_CODE + PAGE_SIZE_BYTES);
    check_superblocks(stages_paths, stages_paths_end, prepare_paths, VM_CODE + 2 * PAGE_SIZE_BYTES + 0x800);
}

static void prepare_patched(struct vm *vm, struct vcpu_state *s)
{
    (void)vm;
    s->gpr[GPR_R8] = VM_CODE + (uint64_t)(stages_patched_byte - stages_patched) - 3;
}

static void a_path_ends_where_its_code_is_patched(void **state)
{
    (void)state;
    check_superblocks(stages_patched, stages_patched_end, prepare_patched,
                      VM_CODE + (uint64_t)(stages_patched_byte - stages_patched));
}

static void a_path_ends_at_a_return_to_elsewhere(void **state)
{
    (void)state;
    check_superblocks(stages_returns, stages_returns_end, nothing, VM_CODE + 5);
}

static bool accept(void *context, const struct vcpu_state *s)
{
    (void)context;
    (void)s;
    return true;
}

/* Superblocks are made while a landmark is searched for, of code that has its RIP and is passed often. */
static void a_landmark_is_found_on_a_path(void **state)
{
    (void)state;
    for (position_t at = 500; at < 4000; at += 33) {
        struct vm *one = start(stages_returns, stages_returns_end, EMU_STAGE_1_ONLY, nothing);
        struct vm *two = start(stages_returns, stages_returns_end, EMU_STAGE_2_ONLY, nothing);
        vm_run(one, at);
        struct engine_match match = {
            .rip = vm_state(one)->rip, .rflags = vm_state(one)->rflags, .accept = accept};
        memcpy(match.gpr, vm_state(one)->gpr, sizeof(match.gpr));
        struct engine_request request = {.limit = 100000, .match = &match};
        assert_int_equal(vm_run_request(two, &request), ENGINE_STOP_MATCH);
        assert_int_equal(vm_position(two), at);
        vm_destroy(one);
        vm_destroy(two);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flags_survive_memory_accesses),
        cmocka_unit_test(gs_operands_have_the_base_added),
        cmocka_unit_test(a_stack_frame_may_lie_on_two_pages),
        cmocka_unit_test(code_that_is_overwritten_by_its_own_block_is_executed_as_written),
        cmocka_unit_test(a_page_that_is_mapped_elsewhere_is_found_there_at_once),
        cmocka_unit_test(a_page_that_becomes_a_page_table_is_known_as_one_at_once),
        cmocka_unit_test(string_instructions_do_the_same),
        cmocka_unit_test(vector_registers_and_rounding_are_kept),
        cmocka_unit_test(x87_and_mmx_leave_the_same_and_tell_where_they_were),
        cmocka_unit_test(x87_exceptions_may_be_unmasked_and_the_unit_switched_off_between_instructions),
        cmocka_unit_test(divisions_fault_exactly_where_the_quotient_does_not_fit),
        cmocka_unit_test(bit_strings_reach_beyond_their_operand),
        cmocka_unit_test(a_path_over_pages_is_left_when_one_is_mapped_elsewhere),
        cmocka_unit_test(a_path_ends_where_its_code_is_patched),
        cmocka_unit_test(a_path_ends_at_a_return_to_elsewhere),
        cmocka_unit_test(a_landmark_is_found_on_a_path),
        cmocka_unit_test(registers_in_the_frame_and_high_bytes_are_like_all_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
