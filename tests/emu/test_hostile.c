/*
 * Guests made of random code, random page tables and random states. The emulator must survive them all, and what
 * they do must depend on registers and RAM alone: however a run is cut, and whether one engine makes it or several that
 * hand their state on, it ends the same.
 */
#include "tests/emu/vm.h"
#include "tests/stages.h"

#include <stdlib.h>
#include <string.h>

#define CODE_BYTES 0x8000u
#define STEPS      4000u

/* Beginnings of instructions that make interesting things happen; random bytes follow. */
static const struct {
    uint8_t length, bytes[6];
} beginnings[] = {
    {1, {0x50}},
    {1, {0x58}},
    {1, {0xc3}},
    {1, {0xcf}},
    {2, {0x48, 0xcf}},
    {1, {0x9c}},
    {1, {0x9d}},
    {2, {0xf3, 0xa4}},
    {3, {0xf3, 0x48, 0xab}},
    {2, {0xf2, 0xae}},
    {2, {0xf3, 0x6c}},
    {1, {0xa5}},
    {1, {0xe8}},
    {1, {0xeb}},
    {1, {0x75}},
    {1, {0xe2}},
    {2, {0xff, 0x03}},
    {2, {0xff, 0x24}},
    {2, {0x0f, 0x20}},
    {2, {0x0f, 0x22}},
    {2, {0x0f, 0x30}},
    {2, {0x0f, 0x32}},
    {2, {0x0f, 0x01}},
    {2, {0x0f, 0x00}},
    {2, {0x0f, 0x23}},
    {2, {0x0f, 0xa2}},
    {1, {0x8e}},
    {1, {0x8c}},
    {2, {0x0f, 0x05}},
    {3, {0x48, 0x0f, 0x07}},
    {2, {0x0f, 0x34}},
    {2, {0x0f, 0x35}},
    {1, {0xcd}},
    {1, {0xcc}},
    {1, {0xf4}},
    {1, {0xfb}},
    {1, {0xfa}},
    {2, {0xff, 0x2d}},
    {2, {0xff, 0x1f}},
    {1, {0xca}},
    {1, {0xcb}},
    {3, {0x0f, 0xc7, 0x0b}},
    {3, {0xf0, 0x0f, 0xb1}},
    {2, {0x0f, 0xae}},
    {1, {0xd9}},
    {1, {0xdb}},
    {1, {0xdd}},
    {3, {0xf2, 0x0f, 0x58}},
    {3, {0x66, 0x0f, 0xfe}},
    {2, {0xc5, 0xf9}},
    {3, {0xc4, 0xe2, 0x7d}},
    {1, {0xc8}},
    {1, {0xc9}},
    {2, {0x0f, 0x31}},
    {3, {0x0f, 0xc7, 0xf0}},
    {1, {0xe4}},
    {1, {0xef}},
    {2, {0x89, 0x07}},
    {2, {0x8b, 0x06}},
    {2, {0x87, 0x02}},
    {2, {0xf7, 0x33}},
    {2, {0xc6, 0x07}},
    {2, {0x0f, 0xb9}},
    {2, {0x0f, 0x02}},
    {2, {0x0f, 0x03}},
    {1, {0x62}},
    {1, {0x63}},
    {2, {0x0f, 0xb2}},
    {1, {0x9a}},
    {1, {0xea}},
    {1, {0x60}},
    {1, {0x61}},
    {1, {0xd7}},
    {1, {0xf1}},
};

static void random_code(uint8_t *code, size_t length, uint64_t *seed)
{
    size_t at = 0;
    for (size_t i = 0; i < length; i++)
        code[i] = (uint8_t)vm_random(seed);
    while (at + 16 < length) {
        unsigned k = (unsigned)(vm_random(seed) % ARRAY_LEN(beginnings));
        memcpy(code + at, beginnings[k].bytes, beginnings[k].length);
        at += beginnings[k].length + vm_random(seed) % 5;
        /* Harmless filling, so that not every other instruction faults. */
        for (uint64_t n = vm_random(seed) % 4; n > 0; n--)
            code[at++] = 0x90;
    }
}

static void random_registers(struct vcpu_state *s, uint64_t *seed)
{
    for (unsigned i = 0; i < GPR_COUNT; i++) {
        uint64_t kind = vm_random(seed) % 4;
        s->gpr[i] = kind == 0 ? vm_random(seed) : VM_DATA + vm_random(seed) % 0x20000;
        if (kind == 1)
            s->gpr[i] = VM_CODE + vm_random(seed) % CODE_BYTES;
    }
    s->gpr[GPR_RCX] = vm_random(seed) % 3 ? vm_random(seed) % 5000 : vm_random(seed);
    s->gpr[GPR_RSP] = VM_STACK - vm_random(seed) % 4096;
    s->rip = VM_CODE + vm_random(seed) % 64;
    s->rflags = RFLAGS_FIXED | (vm_random(seed) & (RFLAGS_STATUS | RFLAGS_IF | RFLAGS_DF | RFLAGS_NT));
    if (vm_random(seed) % 8 == 0)
        s->rflags |= RFLAGS_TF;
    for (unsigned i = 0; i < 4; i++)
        s->dr[i] = VM_DATA + vm_random(seed) % 0x10000;
    if (vm_random(seed) % 8 == 0)
        s->dr7 = DR7_FIXED | (vm_random(seed) & 0xffff03ff);
    memset(s->fpu.ymm, (int)(vm_random(seed) & 0xff), sizeof(s->fpu.ymm));
}

static void flat_segments(struct vcpu_state *s, uint16_t code_rights, uint16_t data_rights, bool user)
{
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        s->seg[i].rights = data_rights;
        s->seg[i].selector = user ? VM_USER_DS : VM_DS;
    }
    s->seg[SEG_CS].rights = code_rights;
    s->seg[SEG_CS].selector = user ? VM_USER_CS : VM_CS;
}

/* Real mode, 16 and 32-bit protected mode without paging, compatibility and 64-bit code at CPL 0 and 3. */
static void random_mode(struct vcpu_state *s, uint64_t *seed)
{
    switch (vm_random(seed) % 8) {
    case 0:
        s->cr0 = CR0_ET | CR0_NE;
        s->efer = 0;
        s->cr4 = CR4_OSFXSR;
        for (unsigned i = 0; i < SEG_COUNT; i++)
            s->seg[i] =
                (struct segment){.base = 0xf000u * 16, .limit = 0xffff, .selector = 0xf000, .rights = 0x93};
        s->rip = VM_CODE - 0xf0000u;
        s->idtr = (struct descriptor_table){0x2000, 0x3ff};
        break;
    case 1:
        s->cr0 &= ~CR0_PG;
        s->efer = 0;
        flat_segments(s, vm_random(seed) & 1 ? 0xc09b : 0x809b, 0xc093, false);
        break;
    case 2:
        flat_segments(s, 0xc09b, 0xc093, false);
        s->seg[SEG_CS].selector = VM_CS32;
        break;
    case 3:
    case 4:
    case 5:
        flat_segments(s, 0xa0fb, 0xc0f3, true);
        break;
    default:
        break;
    }
    s->cr4 |= vm_random(seed) &
              (CR4_TSD | CR4_DE | CR4_PGE | CR4_PCE | CR4_UMIP | CR4_FSGSBASE | CR4_SMEP | CR4_SMAP);
    if (vm_random(seed) & 1) {
        s->cr4 |= CR4_OSXSAVE;
        s->xcr0 = 7;
    }
}

static void random_tables(struct vm *vm, uint64_t *seed)
{
    for (unsigned vector = 0; vector < 256; vector++) {
        vm_set_gate(vm, vector, VM_CODE + vm_random(seed) % CODE_BYTES);
        if (vm_random(seed) % 4 == 0)
            *(uint8_t *)vm_at(vm, 0x2000 + vector * 16u + 5) |= 0x60; /* DPL 3 */
    }
    for (unsigned i = 0; i < 20; i++) {
        uint64_t linear = vm_random(seed) % 0x200 << 12;
        bool vital =
            linear < 0x20000 || (linear >= VM_CODE && linear < VM_CODE + CODE_BYTES) || linear >= 0x1e0000;
        if (!vital || vm_random(seed) % 16 == 0)
            vm_set_page(vm, linear,
                        vm_random(seed) % 3 ? (vm_random(seed) % 0x400 << 12 | (vm_random(seed) & 0xff))
                                            : vm_random(seed));
    }
}

static struct vm *create_random(uint64_t seed)
{
    uint8_t *code = malloc(CODE_BYTES);
    assert_non_null(code);
    uint64_t random = seed;
    random_code(code, CODE_BYTES, &random);
    struct vm *vm = vm_create(code, code + CODE_BYTES);
    free(code);
    random_tables(vm, &random);
    emu_ram_reset(vm->engine);
    struct vcpu_state s = *vm_state(vm);
    random_registers(&s, &random);
    random_mode(&s, &random);
    vm_set_state(vm, &s);
    return vm;
}

/* Runs on to the limit, through halts (an interrupt wakes the vCPU). Returns what ended it. */
static int run_on(struct vm *vm, position_t limit, struct error *err)
{
    for (;;) {
        struct engine_request request = {.limit = limit};
        vm->crossings = 0;
        int stop = vm->engine->ops->run(vm->engine, &request, err);
        bool wake = stop == ENGINE_STOP_HALT && vm->engine->ops->can_interrupt(vm->engine);
        if (!wake)
            return stop;
        if (vm_position(vm) >= limit)
            return ENGINE_STOP_LIMIT;
        stop = vm->engine->ops->interrupt(vm->engine, 0x20, err);
        if (stop < 0)
            return stop;
    }
}

/* A new engine over the same RAM, with the state that the old one has. */
static void change_engine(struct vm *vm)
{
    struct error err = {0};
    struct engine *old = vm->engine;
    struct vcpu_state s = *vm_state(vm);
    position_t position = vm_position(vm);
    assert_int_equal(emu_create(&vm->engine, vm->ram, &vm->boundary, &vm->model, &err), 0);
    stages_from_environment(vm->engine);
    old->ops->destroy(old);
    vm_set_state(vm, &s);
    vm->engine->ops->set_position(vm->engine, position);
}

static void check_seed(uint64_t seed)
{
    struct error first = {0}, second = {0};
    struct vm *whole = create_random(seed), *cut = create_random(seed);
    uint64_t random = seed * 77;
    int end = run_on(whole, STEPS, &first), stop = ENGINE_STOP_LIMIT;
    while (stop == ENGINE_STOP_LIMIT && vm_position(cut) < STEPS) {
        uint64_t slice = 1 + vm_random(&random) % (vm_random(&random) & 1 ? 5 : 300);
        position_t limit = vm_position(cut) + slice;
        stop = run_on(cut, limit < STEPS ? limit : STEPS, &second);
        if (vm_random(&random) % 16 == 0)
            change_engine(cut);
        if (vm_random(&random) % 16 == 0)
            ram_clear_dirty(cut->ram);
    }
    if (stop != end || vm_position(cut) != vm_position(whole))
        fail_msg("seed %llu: the whole run ends with %d at %llu (%s), the cut one with %d at %llu (%s)",
                 (unsigned long long)seed, end, (unsigned long long)vm_position(whole), first.message, stop,
                 (unsigned long long)vm_position(cut), second.message);
    char text[4096];
    if (!vcpu_state_equal(vm_state(whole), vm_state(cut))) {
        vcpu_state_diff(vm_state(whole), vm_state(cut), text, sizeof(text));
        fail_msg("seed %llu: registers differ at %llu:\n%s", (unsigned long long)seed,
                 (unsigned long long)vm_position(cut), text);
    }
    for (uint64_t i = 0; i < VM_RAM_BYTES; i += PAGE_SIZE_BYTES)
        if (memcmp(whole->ram->host + i, cut->ram->host + i, PAGE_SIZE_BYTES) != 0)
            fail_msg("seed %llu: RAM differs in the page at %#llx", (unsigned long long)seed,
                     (unsigned long long)i);
    vm_destroy(whole);
    vm_destroy(cut);
}

static uint64_t first_seed = 1, last_seed = 60;

static void random_guests_end_the_same_however_they_are_run(void **state)
{
    (void)state;
    for (uint64_t seed = first_seed; seed <= last_seed; seed++)
        check_seed(seed);
}

/* Arguments: the first and the last seed, for a longer search. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_guests_end_the_same_however_they_are_run)};
    if (argc == 3) {
        first_seed = strtoull(argv[1], NULL, 0);
        last_seed = strtoull(argv[2], NULL, 0);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
