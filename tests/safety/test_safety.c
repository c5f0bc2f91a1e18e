/*
 * Random code in random states, in a process that a system call or a signal ends.
 *
 *     test_safety [starts [first seed]]
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include <Zydis/Zydis.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/machine.h"
#include "tests/safety/safety.h"
#include "tests/stages.h"

#define SHARDS         2u
#define NEIGHBOUR_BYTE 0x5a
#define HANG_S         30 /* of the CPU, for one start */

/* What a child tells its parent. */
struct shard {
    struct start current;
    struct caught caught;
    uint64_t starts, steps, stops[16], known_gaps, lacking, modes[MODE_COUNT], shut_down[MODE_COUNT];
    bool ready, finished, neighbour_changed;
    char lacking_text[256], message[256];
};

static struct shard *shards;
#ifdef __SANITIZE_ADDRESS__
static uint64_t start_count = 5000;
#else
static uint64_t start_count = 200000;
#endif
static uint64_t first_seed = 1;

/* ---- the world outside: answers anything ---- */

struct outside {
    struct boundary boundary;
    struct isa_random r;
};

static int answer(struct boundary *b, uint64_t *value)
{
    struct outside *o = container_of(b, struct outside, boundary);
    *value = isa_random(&o->r);
    switch (*value >> 59) {
    case 0:
        return -EIO;
    case 1:
        return BOUNDARY_STOP;
    default:
        return BOUNDARY_OK;
    }
}

static int pio_read(struct boundary *b, position_t at, uint16_t port, unsigned size, uint32_t *value)
{
    uint64_t v;
    (void)at, (void)port;
    int result = answer(b, &v);
    *value = (uint32_t)(v & (0xffffffffu >> (32 - 8 * size)));
    return result;
}

static int pio_write(struct boundary *b, position_t at, uint16_t port, unsigned size, uint32_t value)
{
    uint64_t v;
    (void)at, (void)port, (void)size, (void)value;
    return answer(b, &v);
}

static int mmio_read(struct boundary *b, position_t at, gpa_t gpa, unsigned size, uint64_t *value)
{
    (void)at, (void)gpa;
    int result = answer(b, value);
    *value &= ~0ull >> (64 - 8 * size);
    return result;
}

static int mmio_write(struct boundary *b, position_t at, gpa_t gpa, unsigned size, uint64_t value)
{
    uint64_t v;
    (void)at, (void)gpa, (void)size, (void)value;
    return answer(b, &v);
}

static int cpu_read(struct boundary *b, position_t at, enum boundary_source source, uint32_t argument,
                    uint64_t *value, bool *valid)
{
    (void)at, (void)argument;
    *valid = true;
    int result = answer(b, value);
    if (source == SOURCE_IGNNE)
        *value &= 3; /* enum boundary_ignne, and one that is not */
    return result;
}

static int msr_read(struct boundary *b, position_t at, uint32_t index, uint64_t *value, bool *known)
{
    (void)at;
    *known = index & 1;
    return answer(b, value);
}

static int msr_write(struct boundary *b, position_t at, uint32_t index, uint64_t value, bool *known)
{
    uint64_t v;
    (void)at, (void)value;
    *known = index & 1;
    return answer(b, &v);
}

static int halted(struct boundary *b, position_t at)
{
    uint64_t v;
    (void)at;
    return answer(b, &v);
}

static const struct boundary_ops operations = {
    .pio_read = pio_read,
    .pio_write = pio_write,
    .mmio_read = mmio_read,
    .mmio_write = mmio_write,
    .cpu_read = cpu_read,
    .msr_read = msr_read,
    .msr_write = msr_write,
    .halted = halted,
};

/* ---- the child ---- */

static void run_start(struct shard *s, const struct start_pool *pool, struct engine *engine,
                      struct outside *o, uint64_t seed, uint32_t mxcsr_mask)
{
    const struct engine_ops *ops = engine->ops;
    struct start *start = &s->current;
    struct error err = {0};
    start_generate(start, pool, seed, mxcsr_mask);
    start_place(start, engine->ram->host);
    emu_ram_changed(engine, 0, SAFETY_RAM_BYTES);
    o->r.s = seed;
    if (ops->set_state(engine, &start->state, &err) != 0) {
        memcpy(s->message, err.message, sizeof s->message - 1);
        _exit(3);
    }
    position_t before = ops->position(engine);
    struct engine_request request = {.limit = before + start->steps};
    int stop = ops->run(engine, &request, &err);
    s->starts++;
    s->modes[start->mode]++;
    s->steps += ops->position(engine) - before;
    if (stop >= 0) {
        s->stops[stop & 15]++;
        s->shut_down[start->mode] += stop == ENGINE_STOP_SHUTDOWN;
    } else if (strstr(err.message, "CR0.NE")) {
        s->known_gaps++;
    } else {
        s->lacking++;
        if (!s->lacking_text[0])
            memcpy(s->lacking_text, err.message, sizeof s->lacking_text - 1);
    }
}

/* RAM that no engine knows, beside it: nothing may change there. */
static struct guest_ram *make_neighbour(void)
{
    struct guest_ram *ram = NULL;
    if (ram_create(&ram, RAM_MIN_BYTES, NULL) != 0)
        _exit(1);
    memset(ram->host, NEIGHBOUR_BYTE, RAM_MIN_BYTES);
    return ram;
}

static bool is_untouched(const struct guest_ram *ram)
{
    for (size_t i = 0; i < RAM_MIN_BYTES; i++)
        if (ram->host[i] != NEIGHBOUR_BYTE)
            return false;
    return true;
}

static void run_shard(unsigned number)
{
    struct shard *s = &shards[number];
    struct outside o = {.boundary.ops = &operations};
    struct cpu_model model;
    struct guest_ram *ram;
    struct engine *engine;
    struct error err = {0};
    cpu_model_init(&model, CPU_PROFILE_EMU);
    model.mxcsr_mask = cpu_host_mxcsr_mask();
    struct start_pool *pool = start_pool_create();
    struct guest_ram *below = make_neighbour();
    guard_allocations_begin();
    bool good = ram_create(&ram, SAFETY_RAM_BYTES, &err) == 0 &&
                emu_create(&engine, ram, &o.boundary, &model, &err) == 0;
    guard_allocations_end();
    struct guest_ram *above = make_neighbour();
    if (good)
        stages_from_environment(engine);
    if (!good || !pool || guard_allocation_count() < 5 || !guard_signals(&s->caught) || !guard_system_calls())
        _exit(1);
    s->ready = true;
    for (uint64_t i = number; i < start_count; i += SHARDS)
        run_start(s, pool, engine, &o, first_seed + i, model.mxcsr_mask);
    s->neighbour_changed = !is_untouched(below) || !is_untouched(above);
    s->finished = true;
    _exit(0);
}

/* ---- the parent ---- */

static void print_bytes(const uint8_t *bytes, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        printf(" %02x", bytes[i]);
    printf("\n");
}

static void print_start(const struct shard *s, int status)
{
    char text[8192];
    const struct start *start = &s->current;
    printf("the emulator's process ended with status %#x%s%s\n", (unsigned)status, s->message[0] ? ": " : "",
           s->message);
    if (s->caught.signal) {
        printf("signal %d at host RIP %#llx, address %#llx, code there:", s->caught.signal,
               (unsigned long long)s->caught.host_rip, (unsigned long long)s->caught.host_address);
        print_bytes(s->caught.host_code, sizeof s->caught.host_code);
    }
    printf("seed %llu, %s, %u steps, code at %#llx:", (unsigned long long)start->seed,
           start_mode_name(start->mode), start->steps, (unsigned long long)start->code_offset);
    print_bytes(start->code, start->code_length);
    vcpu_state_format(&start->state, text, sizeof text);
    printf("%s", text);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* What the parent sees of a child while it runs. */
struct watch {
    pid_t pid;
    bool ended;
    int status;
    unsigned looks, writable_executable, code;
    uint64_t last_starts;
    double since; /* CPU time at the last progress, seconds */
};

/* The time that a process has had on a CPU: a busy or suspended machine does not count. */
static double cpu_time(pid_t pid)
{
    clockid_t clock;
    struct timespec t;
    if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &t) != 0)
        return 0;
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* One look at a child: its mappings, and whether it gets on. */
static void look(struct watch *w, const struct shard *s)
{
    unsigned writable, shared;
    if (waitpid(w->pid, &w->status, WNOHANG) != 0) {
        w->ended = true;
        return;
    }
    if (s->ready && guard_count_mappings(w->pid, &writable, &shared) == 0) {
        w->looks++;
        w->writable_executable += writable;
        w->code += shared;
    }
    if (s->starts != w->last_starts) {
        w->last_starts = s->starts;
        w->since = cpu_time(w->pid);
    } else if (cpu_time(w->pid) - w->since > HANG_S) {
        printf("a start does not end\n");
        kill(w->pid, SIGKILL);
    }
}

static bool is_good(const struct watch *w, const struct shard *s)
{
    bool good = WIFEXITED(w->status) && WEXITSTATUS(w->status) == 0 && s->finished;
    if (!good)
        print_start(s, w->status);
    if (s->neighbour_changed)
        printf("memory outside of guest RAM changed\n");
    if (w->writable_executable)
        printf("%u writable and executable mappings\n", w->writable_executable);
    if (good && (w->looks == 0 || w->code == 0))
        printf("the mappings were never seen while code ran\n");
    return good && !w->writable_executable && !s->neighbour_changed && w->looks && w->code;
}

static void print_summary(double seconds)
{
    uint64_t starts = 0, steps = 0, lacking = 0, gaps = 0, stops[16] = {0};
    for (unsigned i = 0; i < SHARDS; i++) {
        starts += shards[i].starts;
        steps += shards[i].steps;
        lacking += shards[i].lacking;
        gaps += shards[i].known_gaps;
        for (unsigned k = 0; k < 16; k++)
            stops[k] += shards[i].stops[k];
        if (shards[i].lacking_text[0])
            printf("an error, for example: %s\n", shards[i].lacking_text);
    }
    printf("%llu starts in %.1f s (%.0f/s), %.1f steps each; ended at the limit %llu, halted %llu, shut down "
           "%llu, at the "
           "boundary %llu, with x87 errors by IRQ 13 %llu, with another "
           "error %llu\n",
           (unsigned long long)starts, seconds, (double)starts / seconds,
           (double)steps / (double)(starts ? starts : 1), (unsigned long long)stops[ENGINE_STOP_LIMIT],
           (unsigned long long)stops[ENGINE_STOP_HALT], (unsigned long long)stops[ENGINE_STOP_SHUTDOWN],
           (unsigned long long)stops[ENGINE_STOP_BOUNDARY], (unsigned long long)gaps,
           (unsigned long long)lacking);
    for (unsigned m = 0; m < MODE_COUNT; m++)
        printf("%s%s %llu (%llu shut down)", m ? ", " : "", start_mode_name((enum start_mode)m),
               (unsigned long long)(shards[0].modes[m] + shards[1].modes[m]),
               (unsigned long long)(shards[0].shut_down[m] + shards[1].shut_down[m]));
    printf("\n");
}

static void random_code_stays_inside(void **state)
{
    (void)state;
    struct watch watches[SHARDS];
    bool good = true;
    unsigned running = SHARDS;
    double start = now();
    shards = mmap(NULL, SHARDS * sizeof *shards, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(shards != MAP_FAILED);
    fflush(NULL);
    for (unsigned i = 0; i < SHARDS; i++) {
        watches[i] = (struct watch){.pid = fork()};
        if (watches[i].pid == 0)
            run_shard(i);
    }
    while (running) {
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
        running = 0;
        for (unsigned i = 0; i < SHARDS; i++) {
            if (!watches[i].ended)
                look(&watches[i], &shards[i]);
            running += !watches[i].ended;
        }
    }
    for (unsigned i = 0; i < SHARDS; i++)
        good = is_good(&watches[i], &shards[i]) && good;
    print_summary(now() - start);
    for (unsigned i = 0; i < SHARDS; i++)
        good = good && shards[i].lacking == 0;
    munmap(shards, SHARDS * sizeof *shards);
    assert_true(good);
}

/* The host would raise what the guest's summary bit does not show: the bit follows from the flags and masks. */
static void pending_x87_exceptions_of_a_loaded_state_are_the_guests(void **state)
{
    (void)state;
    struct outside o = {.boundary.ops = &operations};
    struct cpu_model model;
    struct guest_ram *ram;
    struct engine *engine;
    struct start start;
    struct error err = {0};
    struct start_pool *pool = start_pool_create();
    assert_non_null(pool);
    cpu_model_init(&model, CPU_PROFILE_EMU);
    assert_int_equal(ram_create(&ram, SAFETY_RAM_BYTES, &err), 0);
    assert_int_equal(emu_create(&engine, ram, &o.boundary, &model, &err), 0);
    stages_from_environment(engine);
    do {
        start_generate(&start, pool, ++o.r.s, model.mxcsr_mask & cpu_host_mxcsr_mask());
    } while (start.mode != MODE_64BIT);
    start.state.fpu.fcw = 0xff7e; /* IM clear, and bits that do not exist */
    start.state.fpu.fsw = 0x0001; /* IE without ES */
    assert_int_equal(engine->ops->set_state(engine, &start.state, &err), 0);
    assert_int_equal(engine->ops->state(engine)->fpu.fsw, 0x8081);
    assert_int_equal(engine->ops->state(engine)->fpu.fcw, 0x1f7e);
    engine->ops->destroy(engine);
    ram_destroy(ram);
    free(pool);
}

/* ---- the guards themselves ---- */

static int status_of(void (*child)(void))
{
    int status = 0;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        child();
        _exit(0);
    }
    waitpid(pid, &status, 0);
    return status;
}

static struct caught seen;

#ifndef __SANITIZE_ADDRESS__
static void make_a_system_call(void)
{
    if (guard_signals(&seen) && guard_system_calls())
        syscall(SYS_getppid);
}
#endif

static void write_behind_an_allocation(void)
{
    guard_allocations_begin();
    volatile uint8_t *volatile p = calloc(1, 128);
    guard_allocations_end();
    if (p && guard_signals(&seen))
        p[128 + 63] = 1;
}

static void execute_undefined_code(void)
{
    if (guard_signals(&seen))
        __asm__ volatile("ud2");
}

static void what_must_not_happen_would_be_seen(void **state)
{
    (void)state;
#ifndef __SANITIZE_ADDRESS__
    int status = status_of(make_a_system_call);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
#endif
    status_of(write_behind_an_allocation);
    assert_int_equal(WEXITSTATUS(status_of(write_behind_an_allocation)), 2);
    assert_int_equal(WEXITSTATUS(status_of(execute_undefined_code)), 2);

    unsigned writable, shared;
    void *bad = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(bad != MAP_FAILED);
    assert_int_equal(guard_count_mappings(getpid(), &writable, &shared), 0);
    assert_int_equal(writable, 1);
    munmap(bad, 4096);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        start_count = strtoull(argv[1], NULL, 0);
    if (argc > 2)
        first_seed = strtoull(argv[2], NULL, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_must_not_happen_would_be_seen),
        cmocka_unit_test(pending_x87_exceptions_of_a_loaded_state_are_the_guests),
        cmocka_unit_test(random_code_stays_inside)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
