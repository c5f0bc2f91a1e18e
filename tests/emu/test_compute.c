/*
 * Compiled C in a guest against the same C on the host: a few hundred million steps of what compilers make, at
 * several optimisation levels. With an argument: the speed of the emulator, printed.
 */
#include "tests/emu/vm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/loader.h"
#include "tests/emu/programs.h"

uint64_t compute_o0(unsigned turns);
uint64_t compute_o2(unsigned turns);
uint64_t compute_v3(unsigned turns);

static uint8_t *read_file(const char *name, size_t *length)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", GUEST_DIR, name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    uint8_t *data = malloc(1 << 22);
    assert_non_null(data);
    *length = fread(data, 1, 1 << 22, f);
    fclose(f);
    return data;
}

static struct vm *load(const char *name, unsigned turns)
{
    static const uint8_t nothing[1];
    struct vm *vm = vm_create(nothing, nothing + 1);
    struct error err = {0};
    struct loader_result loaded;
    size_t length;
    uint8_t *image = read_file(name, &length);
    struct loader_input input = {
        .image = image, .image_length = length, .image_name = name, .command_line = ""};
    if (loader_load(vm->ram, &input, &loaded, &err) != 0)
        fail_msg("%s: %s", name, err.message);
    free(image);
    emu_ram_reset(vm->engine);
    loaded.state.gpr[GPR_R15] = turns;
    vm_set_state(vm, &loaded.state);
    return vm;
}

static uint64_t run_guest(const char *name, unsigned turns, unsigned slice)
{
    struct vm *vm = load(name, turns);
    int stop = ENGINE_STOP_LIMIT;
    uint64_t random = slice;
    while (stop == ENGINE_STOP_LIMIT)
        stop = vm_run(vm, slice ? vm_position(vm) + 1 + vm_random(&random) % slice : POSITION_UNKNOWN);
    assert_int_equal(stop, ENGINE_STOP_HALT);
    uint64_t result = vm_state(vm)->gpr[GPR_RAX];
    vm_destroy(vm);
    return result;
}

static void unoptimised_code_computes_what_the_host_computes(void **state)
{
    (void)state;
    assert_int_equal(run_guest("compute_guest_o0", 3, 0), compute_o0(3));
}

static void optimised_code_computes_what_the_host_computes(void **state)
{
    (void)state;
    assert_int_equal(run_guest("compute_guest_o2", 10, 0), compute_o2(10));
}

static void optimised_code_in_slices_computes_the_same(void **state)
{
    (void)state;
    assert_int_equal(run_guest("compute_guest_o2", 1, 1000), compute_o2(1));
    assert_int_equal(run_guest("compute_guest_o2", 1, 7), compute_o2(1));
}

static void vectorised_code_computes_what_the_host_computes(void **state)
{
    (void)state;
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("bmi2") || !__builtin_cpu_supports("fma"))
        skip();
    assert_int_equal(run_guest("compute_guest_v3", 10, 0), compute_v3(10));
}

/* ---- speed ---- */

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void print_speed(const char *what, struct vm *vm)
{
    double start = seconds();
    position_t from = vm_position(vm);
    assert_int_equal(vm_run(vm, POSITION_UNKNOWN), ENGINE_STOP_HALT);
    double took = seconds() - start;
    print_message("%-24s %8.1f M steps/s\n", what, (double)(vm_position(vm) - from) / took / 1e6);
    vm_destroy(vm);
}

static void measure_speed(void **state)
{
    (void)state;
    struct vm *vm = vm_create(program_speed, program_speed_end);
    vm_set_gpr(vm, GPR_RCX, 4000000);
    print_speed("tight loop", vm);
    print_speed("compiled, -O0", load("compute_guest_o0", 40));
    print_speed("compiled, -O2", load("compute_guest_o2", 100));
    print_speed("compiled, -O3 AVX2", load("compute_guest_v3", 100));
    static const uint8_t rep[] = {0xb9, 0,    0, 0x80, 0,    0xbe, 0,    0,    0x20, 0,    0xbf, 0,
                                  0,    0x60, 0, 0xf3, 0x48, 0xa5, 0xff, 0xcb, 0x75, 0xea, 0xf4};
    vm = vm_create(rep, rep + sizeof(rep));
    uint32_t count = 0x80000;
    memcpy(vm_at(vm, VM_CODE + 1), &count, sizeof(count));
    vm_set_gpr(vm, GPR_RBX, 300);
    print_speed("REP MOVSQ", vm);
}

int main(int argc, char **argv)
{
    (void)argv;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unoptimised_code_computes_what_the_host_computes),
        cmocka_unit_test(optimised_code_computes_what_the_host_computes),
        cmocka_unit_test(optimised_code_in_slices_computes_the_same),
        cmocka_unit_test(vectorised_code_computes_what_the_host_computes),
    };
    const struct CMUnitTest speed[] = {cmocka_unit_test(measure_speed)};
    return argc > 1 ? cmocka_run_group_tests(speed, NULL, NULL) : cmocka_run_group_tests(tests, NULL, NULL);
}
