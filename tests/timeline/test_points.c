/* Break, watch and catch points of the emulator: what is a hit and what is not, and that the guest does not notice. */
#include "tests/emu/vm.h"

#include <stdlib.h>
#include <string.h>

#include "tests/emu/programs.h"

#define WATCHED   (VM_DATA + 4) /* four bytes */
#define FAR_AWAY  (VM_DATA + 0x3000)
#define READ      ENGINE_ACCESS_READ
#define WRITE     ENGINE_ACCESS_WRITE
#define BOTH      (ENGINE_ACCESS_READ | ENGINE_ACCESS_WRITE)
#define NO_ACCESS 0

#define CODE(name) extern const char code_##name[], code_##name##_end[];
#define WATCH_CASES(X)                                                                                       \
    X(store4, WRITE, 4, 1)                                                                                   \
    X(store_before, NO_ACCESS, 0, 0)                                                                         \
    X(store_behind, NO_ACCESS, 0, 0)                                                                         \
    X(store_last, WRITE, 7, 1)                                                                               \
    X(store8, WRITE, 4, 1)                                                                                   \
    X(load4, READ, 4, 1)                                                                                     \
    X(load_before, NO_ACCESS, 0, 0)                                                                          \
    X(load16, READ, 4, 1)                                                                                    \
    X(store16, WRITE, 4, 1)                                                                                  \
    X(add_to, BOTH, 4, 1)                                                                                    \
    X(compare, READ, 4, 1)                                                                                   \
    X(negate, BOTH, 4, 1)                                                                                    \
    X(exchange, BOTH, 4, 1)                                                                                  \
    X(exchange_add, BOTH, 4, 1)                                                                              \
    X(compare_exchange, BOTH, 4, 1)                                                                          \
    X(bit_set, BOTH, 4, 1)                                                                                   \
    X(push, WRITE, 4, 1)                                                                                     \
    X(pop, READ, 4, 1)                                                                                       \
    X(call, WRITE, 4, 1)                                                                                     \
    X(return, READ, 4, 1)                                                                                    \
    X(lods, READ, 4, 1)                                                                                      \
    X(cmps, READ, 4, 1)                                                                                      \
    X(scas, READ, 4, 1)                                                                                      \
    X(rep_movs, WRITE, 4, 5)                                                                                 \
    X(rep_stos, WRITE, 4, 5)                                                                                 \
    X(save_fpu, WRITE, 4, 1)                                                                                 \
    X(load_fpu, READ, 4, 1)                                                                                  \
    X(store_fpu, WRITE, 4, 1)                                                                                \
    X(store_gdtr, WRITE, 4, 1)                                                                               \
    X(address, NO_ACCESS, 0, 0)                                                                              \
    X(fetch_ahead, NO_ACCESS, 0, 0)                                                                          \
    X(set_if, WRITE, 5, 1)                                                                                   \
    X(move_if, READ, 4, 1)                                                                                   \
    X(multiply, READ, 4, 1)                                                                                  \
    X(port_in, WRITE, 4, 1)                                                                                  \
    X(port_out, READ, 4, 1)

#define DECLARE(name, access, offset, steps) CODE(name)
WATCH_CASES(DECLARE)
CODE(divide_by_zero)
CODE(undefined)
CODE(software_interrupt)
CODE(breakpoint)
CODE(load_cr3)

struct watch_case {
    const char *name, *code, *end;
    uint8_t access;   /* that is made to the watched bytes */
    uint8_t offset;   /* from VM_DATA: where */
    position_t steps; /* after which it has been made */
};

#define ROW(name, access, offset, steps) {#name, code_##name, code_##name##_end, access, offset, steps},
static const struct watch_case watch_cases[] = {WATCH_CASES(ROW)};

static bool is(const struct watch_case *c, const char *name)
{
    return strcmp(c->name, name) == 0;
}

/* Where the registers must point for the case to touch the watched bytes. */
static void set_registers(struct vm *vm, const struct watch_case *c)
{
    struct vcpu_state s = *vm_state(vm);
    s.rip = VM_CODE;
    s.gpr[GPR_RBX] = VM_DATA;
    s.gpr[GPR_RSI] = is(c, "rep_movs") ? FAR_AWAY : WATCHED;
    s.gpr[GPR_RDI] = is(c, "cmps") || is(c, "lods") ? FAR_AWAY : WATCHED;
    s.gpr[GPR_RCX] = 16;
    s.gpr[GPR_RAX] = 40; /* bit 40 is in the second four bytes */
    s.gpr[GPR_RSP] = is(c, "push") ? VM_DATA + 12 : is(c, "call") ? VM_DATA + 8 : VM_DATA;
    if (is(c, "rep_movs") || is(c, "rep_stos"))
        s.gpr[GPR_RDI] = VM_DATA;
    vm_set_state(vm, &s);
    vm->engine->ops->set_position(vm->engine, 0);
}

static void watch_for(const struct watch_case *c, uint8_t accesses, bool warm)
{
    struct engine_watch watches[2] = {{FAR_AWAY + 0x1000, 100, BOTH}, {WATCHED, 4, accesses}};
    struct engine_points points = {.watches = watches, .watch_count = 2};
    struct vm *vm = vm_create(c->code, c->end), *plain = vm_create(c->code, c->end);
    const struct engine_ops *ops = vm->engine->ops;
    position_t last = is(c, "rep_movs") || is(c, "rep_stos") ? 16 : 1;
    if (warm) { /* the TLB gives plain access to the page already */
        set_registers(vm, c);
        vm_run(vm, last);
        set_registers(plain, c);
        vm_run(plain, last);
    }
    set_registers(vm, c);
    set_registers(plain, c);
    vm->next_input = plain->next_input;
    ops->set_points(vm->engine, &points);
    int stop = vm_run(vm, last);
    if (c->access & accesses) {
        if (stop != ENGINE_STOP_WATCH)
            fail_msg("%s: not seen by a watch for accesses %u", c->name, accesses);
        const struct engine_hit *hit = ops->hit(vm->engine);
        if (hit->watch != 1 || hit->address != VM_DATA + c->offset || hit->access != (c->access & accesses) ||
            vm_position(vm) != c->steps)
            fail_msg("%s: watch %zu, address %llx, access %u, after %llu steps", c->name, hit->watch,
                     (unsigned long long)hit->address, hit->access, (unsigned long long)vm_position(vm));
        ops->set_points(vm->engine, NULL);
        assert_int_equal(vm_run(vm, last), ENGINE_STOP_LIMIT);
    } else if (stop != ENGINE_STOP_LIMIT) {
        fail_msg("%s: stop %d, though there is nothing to see for accesses %u", c->name, stop, accesses);
    }
    assert_int_equal(vm_run(plain, last), ENGINE_STOP_LIMIT);
    vm_assert_same(vm, plain);
    vm_destroy(vm);
    vm_destroy(plain);
}

static void accesses_are_seen(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(watch_cases); i++)
        for (uint8_t accesses = READ; accesses <= BOTH; accesses++)
            for (unsigned warm = 0; warm < 2; warm++)
                watch_for(&watch_cases[i], accesses, warm);
}

static void an_access_across_pages_is_seen(void **state)
{
    (void)state;
    for (unsigned second = 0; second < 2; second++) {
        struct engine_watch watch = {VM_DATA + 0xfff + second, 1, WRITE};
        struct engine_points points = {.watches = &watch, .watch_count = 1};
        struct vm *vm = vm_create(code_store8, code_store8_end);
        vm_set_gpr(vm, GPR_RBX, VM_DATA + 0xffc);
        vm->engine->ops->set_points(vm->engine, &points);
        assert_int_equal(vm_run(vm, 10), ENGINE_STOP_WATCH);
        assert_int_equal(vm->engine->ops->hit(vm->engine)->address, VM_DATA + 0xfff + second);
        vm_destroy(vm);
    }
}

/* The division reads the watched divisor and then faults: it was not completed, only its fault was delivered. */
static void what_faults_is_no_access(void **state)
{
    (void)state;
    struct engine_watch watches[2] = {{WATCHED, 4, READ}, {VM_STACK - 8, 8, WRITE}};
    struct engine_points points = {.watches = watches, .watch_count = 1};
    struct vm *vm = vm_create(code_divide_by_zero, code_divide_by_zero_end);
    vm_set_gate(vm, VEC_DE, VM_CODE + 0x100);
    vm_set_gpr(vm, GPR_RBX, VM_DATA);
    vm->engine->ops->set_points(vm->engine, &points);
    assert_int_equal(vm_run(vm, 1), ENGINE_STOP_LIMIT);
    assert_int_equal(vm_state(vm)->rip, VM_CODE + 0x100);
    vm_destroy(vm);
    /* And the delivery's push is one. */
    points.watch_count = 2;
    vm = vm_create(code_divide_by_zero, code_divide_by_zero_end);
    vm_set_gate(vm, VEC_DE, VM_CODE + 0x100);
    vm_set_gpr(vm, GPR_RBX, VM_DATA);
    vm->engine->ops->set_points(vm->engine, &points);
    assert_int_equal(vm_run(vm, 1), ENGINE_STOP_WATCH);
    assert_int_equal(vm->engine->ops->hit(vm->engine)->watch, 1);
    vm_destroy(vm);
}

static void an_interrupts_pushes_are_seen(void **state)
{
    (void)state;
    struct engine_watch watch = {VM_STACK - 24, 8, WRITE};
    struct engine_points points = {.watches = &watch, .watch_count = 1};
    struct vm *vm = vm_create(program_nops, program_nops_end);
    struct vcpu_state s = *vm_state(vm);
    s.rflags |= RFLAGS_IF;
    vm_set_state(vm, &s);
    vm_set_gate(vm, 0x50, VM_CODE + 0x100);
    vm->engine->ops->set_points(vm->engine, &points);
    vm_interrupt(vm, 0x50);
    assert_int_equal(vm_position(vm), 1);
    assert_int_equal(vm_run(vm, 1), ENGINE_STOP_WATCH);
    assert_int_equal(vm_position(vm), 1);
    assert_int_equal(vm_run(vm, 1), ENGINE_STOP_LIMIT);
    vm_destroy(vm);
}

/* ---- breaks ---- */

#define STEPS_MAX 4096

static struct vm *create_mixed(void)
{
    struct vm *vm = vm_create(program_mixed, program_mixed_end);
    vm_set_gate(vm, 0x40, VM_CODE + (uint64_t)(program_mixed_handler - program_mixed));
    return vm;
}

static int by_address(const void *a, const void *b)
{
    gva_t x = *(const gva_t *)a, y = *(const gva_t *)b;
    return (x > y) - (x < y);
}

/* REP iterations included, of which each is a stop. */
static void a_run_stops_at_every_break(void **state)
{
    (void)state;
    static gva_t rip[STEPS_MAX];
    position_t end = 0;
    struct vm *single = create_mixed();
    do
        rip[end++] = vm_state(single)->rip;
    while (end < STEPS_MAX && vm_run(single, end) == ENGINE_STOP_LIMIT);
    assert_true(end < STEPS_MAX && end > 300);
    for (uint64_t seed = 1; seed <= 200; seed++) {
        struct vm *vm = create_mixed();
        gva_t breaks[8];
        uint64_t random = seed;
        size_t count = 0;
        for (unsigned i = 0; i < 1 + seed % 8; i++)
            breaks[i] = rip[vm_random(&random) % end] + (i == 7); /* that is inside an instruction, perhaps */
        qsort(breaks, 1 + seed % 8, sizeof(breaks[0]), by_address);
        for (unsigned i = 0; i < 1 + seed % 8; i++)
            if (!count || breaks[count - 1] != breaks[i])
                breaks[count++] = breaks[i];
        struct engine_points points = {.breaks = breaks, .break_count = count};
        vm->engine->ops->set_points(vm->engine, &points);
        int stop = ENGINE_STOP_LIMIT;
        for (position_t p = 1; p < end - 1; p++) {
            if (!bsearch(&rip[p], breaks, count, sizeof(gva_t), by_address))
                continue;
            stop = vm_run(vm, POSITION_UNKNOWN);
            if (stop != ENGINE_STOP_BREAK || vm_position(vm) != p)
                fail_msg("seed %d: stop %d at position %d instead of a break at %d", (int)seed, stop,
                         (int)vm_position(vm), (int)p);
            assert_int_equal(vm_state(vm)->rip, rip[p]);
        }
        while (vm_run(vm, POSITION_UNKNOWN) == ENGINE_STOP_BREAK)
            assert_true(vm_position(vm) >= end - 1);
        assert_int_equal(vm_state(vm)->activity, ACTIVITY_HALTED);
        vm_assert_same(vm, single);
        vm_destroy(vm);
    }
    vm_destroy(single);
}

/* ---- catches ---- */

/* Runs the one instruction, at that CPL, and gives what was caught, or NULL. */
static const struct engine_hit *catch_in(struct vm **out, const char *code, const char *end, unsigned vector,
                                         bool user, uint64_t exceptions, uint32_t catches)
{
    static struct engine_hit hit;
    struct engine_points points = {.exceptions = exceptions, .catches = catches};
    struct vm *vm = vm_create(code, end);
    vm_set_gate(vm, vector, VM_CODE + 0x100);
    *(uint8_t *)vm_at(vm, 0x2000 + vector * 16 + 5) |= 0x60; /* DPL 3 */
    struct vcpu_state s = *vm_state(vm);
    s.gpr[GPR_RAX] = s.cr3;
    if (user) {
        s.seg[SEG_CS].selector = VM_USER_CS;
        s.seg[SEG_CS].rights = 0xa0fb;
        s.seg[SEG_SS].selector = VM_USER_DS;
        s.seg[SEG_SS].rights = 0xc0f3;
    }
    vm_set_state(vm, &s);
    vm->engine->ops->set_points(vm->engine, &points);
    int stop = vm_run(vm, 1);
    assert_int_equal(vm_position(vm), 1);
    assert_true(stop == ENGINE_STOP_CATCH || stop == ENGINE_STOP_LIMIT);
    hit = *vm->engine->ops->hit(vm->engine);
    vm->engine->ops->set_points(vm->engine, NULL);
    *out = vm;
    return stop == ENGINE_STOP_CATCH ? &hit : NULL;
}

#define CATCH(name, vector, user, exceptions, catches)                                                       \
    catch_in(&vm, code_##name, code_##name##_end, vector, user, exceptions, catches)

static void instructions_and_exceptions_are_caught(void **state)
{
    (void)state;
    struct vm *vm;
    const struct engine_hit *hit = CATCH(software_interrupt, 0x40, true, 0, ENGINE_CATCH_SYSCALL);
    assert_non_null(hit);
    assert_int_equal(hit->catches, ENGINE_CATCH_SYSCALL);
    assert_int_equal(hit->vector, 0x40);
    vm_destroy(vm);
    assert_null(CATCH(software_interrupt, 0x40, false, 0, ENGINE_CATCH_SYSCALL)); /* not from CPL 3 */
    vm_destroy(vm);
    assert_null(CATCH(software_interrupt, 0x40, true, UINT32_MAX, ENGINE_CATCH_CR3));
    vm_destroy(vm);
    hit = CATCH(load_cr3, 0x40, false, 0, ENGINE_CATCH_CR3 | ENGINE_CATCH_SYSCALL);
    assert_non_null(hit);
    assert_int_equal(hit->catches, ENGINE_CATCH_CR3);
    vm_destroy(vm);
    hit = CATCH(undefined, VEC_UD, true, 1u << VEC_UD, 0);
    assert_non_null(hit);
    assert_int_equal(hit->vector, VEC_UD);
    assert_int_equal(hit->catches, 0);
    vm_destroy(vm);
    assert_null(CATCH(undefined, VEC_UD, true, ~(1ull << VEC_UD), 0));
    vm_destroy(vm);
    hit = CATCH(breakpoint, VEC_BP, true, 1u << VEC_BP, 0);
    assert_non_null(hit);
    assert_int_equal(hit->vector, VEC_BP);
    vm_destroy(vm);
    assert_null(CATCH(breakpoint, VEC_BP, true, 1u << VEC_DB, ENGINE_CATCH_SYSCALL));
    vm_destroy(vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accesses_are_seen),
        cmocka_unit_test(an_access_across_pages_is_seen),
        cmocka_unit_test(what_faults_is_no_access),
        cmocka_unit_test(an_interrupts_pushes_are_seen),
        cmocka_unit_test(a_run_stops_at_every_break),
        cmocka_unit_test(instructions_and_exceptions_are_caught),
    };
    return cmocka_run_group_tests_name("points", tests, NULL, NULL);
}
