/* String instructions: against the host CPU, and in their slices, faults and port forms. */
#include "tests/emu/vm.h"

#include <string.h>
#include <sys/mman.h>

#include "tests/emu/programs.h"

#define AREA_BYTES 0x4000u

/* The registers that a string instruction uses. */
struct string_registers {
    uint64_t rax, rcx, rsi, rdi, flags;
};

/* Runs code (ending in RET) on the host with these registers. */
static void run_native(void *code, struct string_registers *r)
{
    __asm__ volatile("lea -128(%%rsp), %%rsp\n\t" /* the red zone */
                     "mov 0(%%rbx), %%rax\n\t"
                     "mov 8(%%rbx), %%rcx\n\t"
                     "mov 16(%%rbx), %%rsi\n\t"
                     "mov 24(%%rbx), %%rdi\n\t"
                     "push 32(%%rbx)\n\t"
                     "popfq\n\t"
                     "call *%%rdx\n\t"
                     "pushfq\n\t"
                     "pop 32(%%rbx)\n\t"
                     "cld\n\t"
                     "mov %%rax, 0(%%rbx)\n\t"
                     "mov %%rcx, 8(%%rbx)\n\t"
                     "mov %%rsi, 16(%%rbx)\n\t"
                     "mov %%rdi, 24(%%rbx)\n\t"
                     "lea 128(%%rsp), %%rsp\n\t"
                     :
                     : "b"(r), "d"(code)
                     : "rax", "rcx", "rsi", "rdi", "memory", "cc");
}

struct string_case {
    uint8_t code[8];
    size_t length;
    unsigned size;
    bool rep;
};

/* MOVS, CMPS, STOS, LODS, SCAS of a random size and with a random prefix. */
static struct string_case random_case(uint64_t *seed)
{
    static const uint8_t opcode[] = {0xa4, 0xa6, 0xaa, 0xac, 0xae};
    struct string_case c = {.size = 1u << (vm_random(seed) & 3)};
    uint64_t prefix = vm_random(seed) % 4;
    if (prefix >= 1)
        c.code[c.length++] = prefix == 3 ? 0xf2 : 0xf3;
    c.rep = prefix >= 1;
    if (c.size == 2)
        c.code[c.length++] = 0x66;
    if (c.size == 8)
        c.code[c.length++] = 0x48;
    c.code[c.length++] = (uint8_t)(opcode[vm_random(seed) % 5] + (c.size > 1));
    return c;
}

static void fill(uint8_t *area, uint64_t *seed)
{
    /* Few different bytes, in runs, so that compares go on for a while. */
    uint8_t byte = 0;
    for (size_t i = 0; i < AREA_BYTES; i++) {
        if (vm_random(seed) % 97 == 0)
            byte = (uint8_t)(vm_random(seed) & 3);
        area[i] = byte;
    }
}

static uint64_t place(uint64_t *seed, uint64_t span, bool down)
{
    uint64_t at = vm_random(seed) % (AREA_BYTES - span);
    return down ? at + span - 8 : at;
}

static void check_case(struct vm *vm, void *native_code, uint8_t *native, uint64_t seed)
{
    uint64_t random = seed;
    struct string_case c = random_case(&random);
    bool down = vm_random(&random) & 1;
    uint64_t count = c.rep ? vm_random(&random) % (seed % 5 ? 40 : 900) : 1;
    uint64_t span = (count + 1) * c.size + 8, source = place(&random, span, down), destination;
    /* Half of them overlap closely. */
    destination = vm_random(&random) & 1 ? place(&random, span, down) : source + vm_random(&random) % 9;
    if (destination + 8 > AREA_BYTES || (!down && destination + span > AREA_BYTES))
        destination = source;
    uint64_t rax = vm_random(&random) & 0x0303030303030303u;
    uint64_t flags = RFLAGS_FIXED | (down ? RFLAGS_DF : 0) | (vm_random(&random) & RFLAGS_STATUS);

    fill(native, &random);
    memcpy(vm_at(vm, VM_DATA), native, AREA_BYTES);
    memcpy(vm_at(vm, VM_CODE), c.code, c.length);
    memset(vm_at(vm, VM_CODE + c.length), 0xf4, 1);
    emu_ram_changed(vm->engine, VM_CODE, 16);
    struct vcpu_state s = *vm_state(vm);
    s.activity = ACTIVITY_RUNNING;
    s.rip = VM_CODE;
    s.rflags = flags;
    s.gpr[GPR_RAX] = rax;
    s.gpr[GPR_RCX] = count;
    s.gpr[GPR_RSI] = VM_DATA + source;
    s.gpr[GPR_RDI] = VM_DATA + destination;
    vm_set_state(vm, &s);
    position_t start = vm_position(vm);
    vm->crossings = 0;
    int stop = ENGINE_STOP_LIMIT;
    while (stop == ENGINE_STOP_LIMIT)
        stop = vm_run(vm, vm_position(vm) + (seed & 1 ? 100000 : 1 + vm_random(&random) % 50));
    assert_int_equal(stop, ENGINE_STOP_HALT);

    struct string_registers r = {rax, count, (uint64_t)(uintptr_t)native + source,
                                 (uint64_t)(uintptr_t)native + destination, flags};
    memcpy(native_code, c.code, c.length);
    memset((uint8_t *)native_code + c.length, 0xc3, 1);
    run_native(native_code, &r);
    const struct vcpu_state *e = vm_state(vm);
    uint64_t shift = (uint64_t)(uintptr_t)native - VM_DATA;
    bool same = e->gpr[GPR_RAX] == r.rax && e->gpr[GPR_RCX] == r.rcx && e->gpr[GPR_RSI] + shift == r.rsi &&
                e->gpr[GPR_RDI] + shift == r.rdi && !((e->rflags ^ r.flags) & (RFLAGS_STATUS | RFLAGS_DF)) &&
                memcmp(vm_at(vm, VM_DATA), native, AREA_BYTES) == 0;
    uint64_t steps = c.rep && count ? count - e->gpr[GPR_RCX] : 1;
    if (!same || vm_position(vm) - start != steps + 1)
        fail_msg("seed %llu, opcode %02x, size %u, count %llu, down %d: differs from the host",
                 (unsigned long long)seed, c.code[c.length - 1], c.size, (unsigned long long)count, down);
}

static void string_instructions_do_what_the_host_does(void **state)
{
    (void)state;
    static const uint8_t nothing[16];
    struct vm *vm = vm_create(nothing, nothing + sizeof(nothing));
    void *native_code =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint8_t *native = mmap(NULL, AREA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(native_code, MAP_FAILED);
    assert_ptr_not_equal(native, MAP_FAILED);
    for (uint64_t seed = 1; seed <= 6000; seed++)
        check_case(vm, native_code, native, seed);
    munmap(native_code, 4096);
    munmap(native, AREA_BYTES);
    vm_destroy(vm);
}

static void rep_stops_at_every_iteration(void **state)
{
    (void)state;
    struct vm *vm = vm_create(program_rep_stos, program_rep_stos_end);
    for (position_t limit = 3; limit <= 103; limit++) {
        assert_int_equal(vm_run(vm, limit), ENGINE_STOP_LIMIT);
        assert_int_equal(vm_position(vm), limit);
        assert_int_equal(vm_state(vm)->gpr[GPR_RCX], 103 - limit);
        assert_int_equal(vm_state(vm)->gpr[GPR_RDI], 0x180ff0 + limit - 3);
        assert_int_equal(vm_state(vm)->rip, limit < 103 ? VM_CODE + 15 : VM_CODE + 17);
        assert_int_equal(((uint8_t *)vm_at(vm, 0x180ff0))[limit - 3], 0);
    }
    vm_run_to_halt(vm);
    assert_int_equal(vm_position(vm), 104);
    vm_destroy(vm);
}

static void rep_of_zero_is_one_step(void **state)
{
    (void)state;
    struct vm *vm = vm_create(program_rep_stos, program_rep_stos_end);
    assert_int_equal(vm_run(vm, 3), ENGINE_STOP_LIMIT);
    vm_set_gpr(vm, GPR_RCX, 0);
    vm_run_to_halt(vm);
    assert_int_equal(vm_position(vm), 5);
    vm_destroy(vm);
}

static void a_fault_in_the_middle_of_rep_keeps_what_was_done(void **state)
{
    (void)state;
    struct vm *vm = vm_create(program_rep_movs, program_rep_movs_end);
    static const uint8_t handler[] = {0xf4};
    memcpy(vm_at(vm, VM_CODE + 0x800), handler, sizeof(handler));
    vm_set_gate(vm, VEC_PF, VM_CODE + 0x800);
    vm_set_page(vm, 0x1a2000, 0x1a2000 | 5); /* not writable; CR0.WP is set */
    vm_run_to_halt(vm);
    const struct vcpu_state *s = vm_state(vm);
    uint64_t done = 0x1a2000 - 0x1a0003;
    assert_int_equal(s->gpr[GPR_RCX], 50000 - done);
    assert_int_equal(s->gpr[GPR_RSI], 0x180000 + done);
    assert_int_equal(s->gpr[GPR_RDI], 0x1a2000);
    assert_int_equal(s->cr2, 0x1a2000);
    /* 3 instructions, the iterations, the delivery, HLT. */
    assert_int_equal(vm_position(vm), 3 + done + 1 + 1);
    assert_int_equal(vm_read64(vm, s->gpr[GPR_RSP] + 8), VM_CODE + 15);
    /* Writable now: IRETQ goes on with the rest. */
    static const uint8_t iretq[] = {0x48, 0x83, 0xc4, 0x08, 0x48, 0xcf};
    memcpy(vm_at(vm, VM_CODE + 0x801), iretq, sizeof(iretq));
    emu_ram_changed(vm->engine, VM_CODE + 0x801, sizeof(iretq));
    vm_set_page(vm, 0x1a2000, 0x1a2000 | 7);
    struct vcpu_state woken = *s;
    woken.activity = ACTIVITY_RUNNING;
    vm_set_state(vm, &woken);
    vm_run_to_halt(vm);
    assert_int_equal(vm_position(vm), 3 + 50000 + 1 + 1 + 2 + 1);
    assert_memory_equal(vm_at(vm, 0x1a0003), vm_at(vm, 0x180000), 50000);
    vm_destroy(vm);
}

static void an_element_across_a_fault_is_not_half_written(void **state)
{
    (void)state;
    static const uint8_t code[] = {0xf3, 0x48, 0xab, 0xf4}; /* rep stosq; hlt */
    struct vm *vm = vm_create(code, code + sizeof(code));
    memset(vm_at(vm, VM_CODE + 0x800), 0xf4, 1);
    vm_set_gate(vm, VEC_PF, VM_CODE + 0x800);
    vm_set_page(vm, 0x182000, 0);
    struct vcpu_state s = *vm_state(vm);
    s.gpr[GPR_RDI] = 0x181fdc;
    s.gpr[GPR_RCX] = 10;
    s.gpr[GPR_RAX] = ~0ull;
    vm_set_state(vm, &s);
    vm_run_to_halt(vm);
    assert_int_equal(vm_state(vm)->gpr[GPR_RCX], 6);
    assert_int_equal(vm_state(vm)->gpr[GPR_RDI], 0x181ffc);
    assert_int_equal(vm_state(vm)->cr2, 0x182000);
    assert_int_equal(vm_read64(vm, 0x181ff8), 0x00000000ffffffff);
    vm_destroy(vm);
}

static void ports_are_read_and_written_at_their_positions(void **state)
{
    (void)state;
    struct vm *vm = vm_create(program_string_ports, program_string_ports_end);
    vm_run_to_halt(vm);
    assert_int_equal(vm_position(vm), 3 + 5 + 2 + 3 + 1);
    assert_int_equal(vm->crossings, 9);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(vm->crossing[i].kind, 'i');
        assert_int_equal(vm->crossing[i].position, 3 + i);
        assert_int_equal(vm->crossing[i].size, 2);
        assert_int_equal(vm->crossing[i].address, 0x1f0);
    }
    for (unsigned i = 5; i < 8; i++) {
        assert_int_equal(vm->crossing[i].kind, 'o');
        assert_int_equal(vm->crossing[i].position, 10 + i - 5);
        assert_int_equal(vm->crossing[i].size, 4);
    }
    assert_int_equal(vm->crossing[5].value, 0x13121211);
    vm_destroy(vm);
}

static void the_boundary_can_stop_within_rep(void **state)
{
    (void)state;
    struct vm *vm = vm_create(program_string_ports, program_string_ports_end);
    vm->answer_at = 5;
    vm->boundary_result = BOUNDARY_STOP;
    assert_int_equal(vm_run(vm, POSITION_UNKNOWN), ENGINE_STOP_BOUNDARY);
    assert_int_equal(vm_position(vm), 6);
    assert_int_equal(vm_state(vm)->gpr[GPR_RCX], 2);
    vm->answer_at = 7;
    vm->boundary_result = -1;
    assert_int_equal(vm_run(vm, POSITION_UNKNOWN), ENGINE_STOP_BOUNDARY);
    assert_int_equal(vm_position(vm), 7);
    assert_int_equal(vm_state(vm)->gpr[GPR_RCX], 1);
    assert_int_equal(vm_run(vm, POSITION_UNKNOWN), ENGINE_STOP_BOUNDARY);
    assert_int_equal(vm_position(vm), 7);
    vm->boundary_result = 0;
    vm_run_to_halt(vm);
    assert_int_equal(vm_position(vm), 14);
    vm_destroy(vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(string_instructions_do_what_the_host_does),
        cmocka_unit_test(rep_stops_at_every_iteration),
        cmocka_unit_test(rep_of_zero_is_one_step),
        cmocka_unit_test(a_fault_in_the_middle_of_rep_keeps_what_was_done),
        cmocka_unit_test(an_element_across_a_fault_is_not_half_written),
        cmocka_unit_test(ports_are_read_and_written_at_their_positions),
        cmocka_unit_test(the_boundary_can_stop_within_rep),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
