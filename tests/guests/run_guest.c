/*
 * Runs a guest image with one of the engines and the real devices; no trace, no replay. A test of the loaders, the
 * engines and the board together.
 *
 *   run_guest --engine emu|kvm [-m MIB] [--timeout SECONDS] [--input TEXT] [--initrd TEXT] IMAGE [COMMAND LINE]
 *
 * The console goes to standard output; how it ended to standard error, as its last line "end: ...". Exit status: 0
 * whatever the guest did, 1 for a failure of ours, 77 where this host has no KVM.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/kvm/kvm_engine.h"
#include "core/kvm/kvm_probe.h"
#include "core/loader.h"
#include "core/machine.h"
#include "core/x86/emu.h"
#include "devices/devices.h"
#include "tests/stages.h"

#define HOUSEKEEPING_NS 20000000u
#define SECOND_NS       1000000000u
#define EXIT_SKIP       77

struct options {
    bool kvm;
    uint64_t ram_bytes, timeout_ns;
    const char *input, *initrd, *image, *command_line;
};

struct runner {
    struct boundary boundary; /* first */
    struct options options;
    struct guest_ram *ram;
    struct machine *machine;
    struct engine *engine;
    struct cpu_model model;
    timer_t timer;
    bool have_timer;
    uint64_t started_ns, interrupts, random;
    size_t input_taken;
};

static struct runner *runner_of(struct boundary *b)
{
    return container_of(b, struct runner, boundary);
}

static uint64_t host_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND_NS + (uint64_t)t.tv_nsec;
}

static void set_clock(struct runner *r)
{
    machine_set_clock_ns(r->machine, host_ns() - r->started_ns);
}

/* ---- boundary: straight to the devices ---- */

/* The main loop has something to do. */
static int after_access(struct runner *r)
{
    uint32_t status;
    bool stop = machine_end(r->machine, &status) != MACHINE_END_NONE || machine_interrupt_pending(r->machine);
    return stop ? BOUNDARY_STOP : BOUNDARY_OK;
}

static int pio_read(struct boundary *b, position_t position, uint16_t port, unsigned size, uint32_t *value)
{
    (void)position;
    struct runner *r = runner_of(b);
    set_clock(r);
    *value = (uint32_t)machine_port_read(r->machine, port, size);
    return after_access(r);
}

static int pio_write(struct boundary *b, position_t position, uint16_t port, unsigned size, uint32_t value)
{
    (void)position;
    struct runner *r = runner_of(b);
    set_clock(r);
    machine_port_write(r->machine, port, size, value);
    return after_access(r);
}

static int mmio_read(struct boundary *b, position_t position, gpa_t gpa, unsigned size, uint64_t *value)
{
    (void)position;
    struct runner *r = runner_of(b);
    set_clock(r);
    *value = machine_mmio_read(r->machine, gpa, size);
    return after_access(r);
}

static int mmio_write(struct boundary *b, position_t position, gpa_t gpa, unsigned size, uint64_t value)
{
    (void)position;
    struct runner *r = runner_of(b);
    set_clock(r);
    machine_mmio_write(r->machine, gpa, size, value);
    return after_access(r);
}

static int cpu_read(struct boundary *b, position_t position, enum boundary_source source, uint32_t argument,
                    uint64_t *value, bool *valid)
{
    (void)position, (void)argument;
    struct runner *r = runner_of(b);
    *valid = true;
    if (source == SOURCE_IGNNE) {
        *value = machine_set_ferr(r->machine, true) ? IGNNE_IGNORE : IGNNE_WAIT;
        return after_access(r);
    }
    if (source == SOURCE_RDTSC || source == SOURCE_RDTSCP)
        *value = host_ns() - r->started_ns;
    else
        *value = r->random = r->random * 6364136223846793005u + 1442695040888963407u;
    return BOUNDARY_OK;
}

static int msr_read(struct boundary *b, position_t position, uint32_t index, uint64_t *value, bool *known)
{
    (void)b, (void)position, (void)index;
    *value = 0;
    *known = false;
    return BOUNDARY_OK;
}

static int msr_write(struct boundary *b, position_t position, uint32_t index, uint64_t value, bool *known)
{
    (void)b, (void)position, (void)index, (void)value;
    *known = false;
    return BOUNDARY_OK;
}

static int halted(struct boundary *b, position_t position)
{
    (void)b, (void)position;
    return BOUNDARY_OK;
}

static void ferr_deasserted(struct boundary *b)
{
    machine_set_ferr(runner_of(b)->machine, false);
}

static const struct boundary_ops boundary_ops = {
    .pio_read = pio_read,
    .pio_write = pio_write,
    .mmio_read = mmio_read,
    .mmio_write = mmio_write,
    .cpu_read = cpu_read,
    .msr_read = msr_read,
    .msr_write = msr_write,
    .halted = halted,
    .ferr_deasserted = ferr_deasserted,
};

/* ---- running ---- */

static void on_timer(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)context;
    struct engine *engine = info->si_value.sival_ptr;
    engine->ops->kick(engine);
}

static int create_timer(struct runner *r, struct error *err)
{
    struct sigaction action = {.sa_sigaction = on_timer, .sa_flags = SA_SIGINFO | SA_RESTART};
    struct sigevent event = {
        .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2, .sigev_value.sival_ptr = r->engine};
    if (sigaction(SIGUSR2, &action, NULL) < 0 || timer_create(CLOCK_MONOTONIC, &event, &r->timer) < 0)
        return error_errno(err, -errno, "making the timer");
    r->have_timer = true;
    return 0;
}

/* Kicks the vCPU at that time of the machine clock. */
static void arm_timer(struct runner *r, uint64_t deadline_ns)
{
    uint64_t at = r->started_ns + deadline_ns;
    struct itimerspec t = {.it_value = {(time_t)(at / SECOND_NS), (long)(at % SECOND_NS)}};
    timer_settime(r->timer, TIMER_ABSTIME, &t, NULL);
}

static uint64_t next_deadline(const struct runner *r)
{
    uint64_t deadline = machine_clock_ns(r->machine) + HOUSEKEEPING_NS;
    uint64_t device = machine_next_deadline_ns(r->machine);
    return device < deadline ? device : deadline;
}

static void sleep_until(const struct runner *r, uint64_t deadline_ns)
{
    uint64_t at = r->started_ns + deadline_ns;
    struct timespec t = {(time_t)(at / SECOND_NS), (long)(at % SECOND_NS)};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static void offer_input(struct runner *r)
{
    const char *rest = r->options.input + r->input_taken;
    r->input_taken += machine_input(r->machine, (const uint8_t *)rest, strlen(rest));
}

/* What the machine wants: "exit 3", "reset"; false while it only runs. */
static bool machine_ended(const struct runner *r, char *end, size_t size)
{
    uint32_t status;
    switch (machine_end(r->machine, &status)) {
    case MACHINE_END_NONE:
        return false;
    case MACHINE_END_DEBUG_EXIT:
        snprintf(end, size, "exit %" PRIu32, status);
        return true;
    case MACHINE_END_RESET:
        snprintf(end, size, "reset");
        return true;
    case MACHINE_END_POWEROFF:
        snprintf(end, size, "power off");
        return true;
    }
    return false;
}

/* Runs until the guest is done with; end says how. */
static int run(struct runner *r, char *end, size_t size, struct error *err)
{
    const struct engine_ops *ops = r->engine->ops;
    for (;;) {
        set_clock(r);
        machine_run_timers(r->machine);
        offer_input(r);
        if (machine_ended(r, end, size))
            return 0;
        if (machine_clock_ns(r->machine) >= r->options.timeout_ns) {
            snprintf(end, size, "timeout");
            return 0;
        }
        bool pending = machine_interrupt_pending(r->machine);
        const struct vcpu_state *state = ops->state(r->engine);
        if (pending && ops->can_interrupt(r->engine)) {
            int rc = ops->interrupt(r->engine, machine_interrupt_acknowledge(r->machine), err);
            if (rc)
                return rc;
            r->interrupts++;
            pending = machine_interrupt_pending(r->machine);
        } else if (state->activity == ACTIVITY_HALTED) {
            if (!(state->rflags & RFLAGS_IF)) {
                snprintf(end, size, "halted");
                return 0;
            }
            sleep_until(r, next_deadline(r));
            continue;
        }
        const struct engine_request request = {.limit = POSITION_UNKNOWN, .want_window = pending};
        arm_timer(r, next_deadline(r));
        int stop = ops->run(r->engine, &request, err);
        if (stop < 0)
            return stop;
        if (stop == ENGINE_STOP_SHUTDOWN) {
            snprintf(end, size, "shutdown");
            return 0;
        }
    }
}

/* ---- setting up ---- */

static void print_console(void *context, unsigned channel, const uint8_t *data, size_t length)
{
    (void)context, (void)channel;
    fwrite(data, 1, length, stdout);
}

static int load_image(struct runner *r, struct vcpu_state *state, struct error *err)
{
    const struct options *o = &r->options;
    struct stat st;
    int fd = open(o->image, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return error_errno(err, -errno, "%s", o->image);
    void *image = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (image == MAP_FAILED)
        return error_errno(err, -errno, "%s", o->image);
    struct loader_input input = {.image = image,
                                 .image_length = (size_t)st.st_size,
                                 .image_name = o->image,
                                 .initrd = (const uint8_t *)o->initrd,
                                 .initrd_length = o->initrd ? strlen(o->initrd) : 0,
                                 .initrd_name = "initrd",
                                 .command_line = o->command_line};
    struct loader_result result;
    int rc = loader_load(r->ram, &input, &result, err);
    munmap(image, (size_t)st.st_size);
    *state = result.state;
    return rc;
}

static int create(struct runner *r, struct error *err)
{
    const struct machine_host host = {.console_output = print_console};
    struct vcpu_state state;
    cpu_model_init(&r->model, r->options.kvm ? CPU_PROFILE_KVM : CPU_PROFILE_EMU);
    int rc = ram_create(&r->ram, r->options.ram_bytes, err);
    if (!rc)
        rc = machine_create(&r->machine, r->ram, &host, err);
    if (!rc)
        rc = board_attach(r->machine, &(struct board_options){.kind = BOARD_MINIMAL}, err);
    if (!rc)
        rc = load_image(r, &state, err);
    if (!rc)
        rc = (r->options.kvm ? kvm_engine_create : emu_create)(&r->engine, r->ram, &r->boundary, &r->model,
                                                               err);
    if (!rc)
        stages_from_environment(r->engine);
    if (!rc)
        rc = r->engine->ops->set_state(r->engine, &state, err);
    if (!rc)
        rc = create_timer(r, err);
    return rc;
}

static void destroy(struct runner *r)
{
    if (r->have_timer)
        timer_delete(r->timer);
    if (r->engine)
        r->engine->ops->destroy(r->engine);
    machine_destroy(r->machine);
    ram_destroy(r->ram);
}

static bool parse(struct options *o, int argc, char **argv)
{
    *o = (struct options){
        .ram_bytes = 64u << 20, .timeout_ns = 20ull * SECOND_NS, .input = "", .command_line = ""};
    int i = 1;
    for (; i + 1 < argc && argv[i][0] == '-'; i += 2) {
        const char *value = argv[i + 1];
        if (strcmp(argv[i], "--engine") == 0)
            o->kvm = strcmp(value, "kvm") == 0;
        else if (strcmp(argv[i], "-m") == 0)
            o->ram_bytes = strtoull(value, NULL, 10) << 20;
        else if (strcmp(argv[i], "--timeout") == 0)
            o->timeout_ns = (uint64_t)(strtod(value, NULL) * SECOND_NS);
        else if (strcmp(argv[i], "--input") == 0)
            o->input = value;
        else if (strcmp(argv[i], "--initrd") == 0)
            o->initrd = value;
        else
            return false;
    }
    if (i >= argc)
        return false;
    o->image = argv[i];
    if (i + 1 < argc)
        o->command_line = argv[i + 1];
    return true;
}

int main(int argc, char **argv)
{
    struct runner r = {.boundary.ops = &boundary_ops, .random = 1};
    struct error err = {.code = 0};
    char end[64];
    if (!parse(&r.options, argc, argv)) {
        fprintf(stderr,
                "usage: run_guest --engine emu|kvm [-m MIB] [--timeout S] [--input TEXT] [--initrd TEXT] "
                "IMAGE [COMMAND LINE]\n");
        return 2;
    }
    if (r.options.kvm && kvm_probe_usable(&err) < 0) {
        fprintf(stderr, "no KVM here: %s\n", err.message);
        return EXIT_SKIP;
    }
    int rc = create(&r, &err);
    if (!rc) {
        r.started_ns = host_ns();
        rc = run(&r, end, sizeof(end), &err);
    }
    fflush(stdout);
    if (rc)
        fprintf(stderr, "error: %s\n", err.message);
    else
        fprintf(stderr, "%" PRIu64 " interrupts, %.3f s, %" PRIu64 " steps\nend: %s\n", r.interrupts,
                (double)(host_ns() - r.started_ns) / SECOND_NS,
                r.engine->ops->position(r.engine) == POSITION_UNKNOWN ? 0 : r.engine->ops->position(r.engine),
                end);
    destroy(&r);
    return rc ? 1 : 0;
}
