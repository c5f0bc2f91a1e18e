/* dejavm doctor */
#include "core/cpu_model.h"
#include "core/kvm/kvm_probe.h"
#include "core/x86/emu.h"
#include "tools/commands.h"
#include "tools/json.h"
#include "tools/session.h"
#include "tools/status.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

struct findings {
    char cpu[128];
    char kernel[256];
    bool memory, emulator, features, kvm;
    struct error memory_why, emulator_why, features_why, kvm_why;
    struct kvm_probe probe[KVM_PROBE_MAX];
    unsigned probe_count;
    struct error probe_why;
};

static int try_halted(struct boundary *b, position_t position)
{
    (void)b;
    (void)position;
    return BOUNDARY_OK;
}

/*
 * A guest of three instructions in real mode: mov ax, 0x1200; add ax, 0x34; hlt. The ADD runs as a host stub, so
 * this also shows that the host lets us have executable memory.
 */
static int run_in_emulator(struct guest_ram *ram, const struct cpu_model *model, struct error *err)
{
    static const uint8_t code[] = {0xb8, 0x00, 0x12, 0x05, 0x34, 0x00, 0xf4};
    static const struct boundary_ops ops = {.halted = try_halted};
    struct boundary boundary = {.ops = &ops};
    struct engine_request request = {.limit = 100};
    struct vcpu_state state;
    struct engine *emu;
    int result = ram_write(ram, 0x1000, code, sizeof(code));
    if (result)
        return error_errno(err, result, "writing the guest");
    result = emu_create(&emu, ram, &boundary, model, err);
    if (result)
        return result;
    vcpu_state_reset(&state);
    state.seg[SEG_CS].base = 0;
    state.seg[SEG_CS].selector = 0;
    state.rip = 0x1000;
    result = emu->ops->set_state(emu, &state, err);
    if (result == 0)
        result = emu->ops->run(emu, &request, err);
    if (result >= 0) {
        uint64_t ax = emu->ops->state(emu)->gpr[GPR_RAX] & 0xffff;
        bool good = result == ENGINE_STOP_HALT && ax == 0x1234;
        result = good ? 0
                      : error_set(err, -EIO, "the test guest ended with stop %d and AX = 0x%x", result,
                                  (unsigned)ax);
    }
    emu->ops->destroy(emu);
    return result;
}

static void examine(struct findings *f)
{
    struct utsname system;
    struct cpu_model model;
    struct guest_ram *ram;
    cpu_host_description(f->cpu, sizeof(f->cpu));
    if (uname(&system) == 0)
        snprintf(f->kernel, sizeof(f->kernel), "%.60s %.60s %.60s", system.sysname, system.release,
                 system.machine);
    cpu_model_init(&model, CPU_PROFILE_EMU);
    f->features = cpu_model_check_host(&model, &f->features_why) == 0;
    f->memory = ram_create(&ram, (uint64_t)128 << 20, &f->memory_why) == 0;
    if (f->memory) {
        f->emulator = run_in_emulator(ram, &model, &f->emulator_why) == 0;
        ram_destroy(ram);
    } else {
        error_set(&f->emulator_why, -ENOMEM, "not tried: there is no guest memory");
    }
    f->probe_count = kvm_probe_all(f->probe, &f->probe_why);
    if (f->probe_count > KVM_PROBE_MAX)
        f->probe_count = KVM_PROBE_MAX;
    f->kvm = kvm_probe_usable(&f->kvm_why) == 0;
}

static const char *result_name(enum probe_result result)
{
    return result == PROBE_YES ? "yes" : result == PROBE_NO ? "no" : "unknown";
}

static void print_check(const char *title, bool good, const char *why)
{
    printf("  %-7s  %s", good ? "yes" : "no", title);
    if (!good && why[0]) {
        fputs(": ", stdout);
        put_printable(stdout, (const uint8_t *)why, strlen(why));
    }
    putchar('\n');
}

static void print_text(const struct findings *f)
{
    printf("CPU     %s\nkernel  %s\n\n", f->cpu, f->kernel);
    printf("Replaying, and recording in dejavm's own emulator (--engine emu):\n");
    print_check("128 MiB of guest memory", f->memory, f->memory_why.message);
    print_check("the emulator runs a test guest", f->emulator, f->emulator_why.message);
    print_check("the CPU has every feature of the emulator's CPU model", f->features,
                f->features_why.message);
    printf("\nRecording under KVM (--engine kvm):\n");
    if (f->probe_count == 0)
        print_check("/dev/kvm", false, f->probe_why.message);
    for (unsigned i = 0; i < f->probe_count; i++) {
        const struct kvm_probe *p = &f->probe[i];
        printf("  %-7s  %s%s%s%s\n", result_name(p->result), p->title, p->needed ? " (needed)" : "",
               p->detail[0] ? ": " : "", p->detail);
    }
    putchar('\n');
    if (f->kvm)
        puts("'dejavm record' will use KVM here.");
    else if (f->emulator)
        printf("'dejavm record' will use the emulator here. KVM cannot be used: %s\n", f->kvm_why.message);
    else
        puts("dejavm cannot work on this host.");
}

static void check_json(struct json *j, const char *name, bool good, const char *why)
{
    json_object_line(j, name);
    json_bool(j, "works", good);
    json_string(j, "reason", good ? "" : why);
    json_close_object(j);
}

static void print_json(const struct findings *f)
{
    struct json j;
    json_begin(&j, stdout);
    json_string(&j, "cpu", f->cpu);
    json_string(&j, "kernel", f->kernel);
    check_json(&j, "memory", f->memory, f->memory_why.message);
    check_json(&j, "emulator", f->emulator, f->emulator_why.message);
    check_json(&j, "cpu_features", f->features, f->features_why.message);
    check_json(&j, "kvm", f->kvm, f->kvm_why.message);
    json_array(&j, "kvm_probes");
    for (unsigned i = 0; i < f->probe_count; i++) {
        const struct kvm_probe *p = &f->probe[i];
        json_object_line(&j, NULL);
        json_string(&j, "name", p->name);
        json_string(&j, "title", p->title);
        json_string(&j, "result", result_name(p->result));
        json_bool(&j, "needed", p->needed);
        json_string(&j, "detail", p->detail);
        json_close_object(&j);
    }
    json_close_array(&j);
    json_string(&j, "engine", f->kvm ? "kvm" : f->emulator ? "emu" : "none");
    json_end(&j);
}

static int run(const struct arguments *arguments)
{
    struct findings *f = calloc(1, sizeof(*f));
    if (!f) {
        message("out of memory");
        return STATUS_FAILURE;
    }
    examine(f);
    if (argument_flag(arguments, "json"))
        print_json(f);
    else
        print_text(f);
    int status = finish_output(f->kvm || f->emulator ? STATUS_OK : STATUS_FAILURE);
    free(f);
    return status;
}

static const char *const paragraphs[] = {
    "Shows what dejavm can do on this host. Nothing is taken from version numbers or names: each line is "
    "found out by "
    "trying it, most of them with a tiny guest.",
    "Exit status 0 when guests can be recorded and replayed in at least one way.",
    NULL,
};
static const struct option_spec options[] = {{.name = "json", .text = "Print JSON."}, {0}};
static const struct operand_spec operands[] = {{0}};
static const struct example_spec examples[] = {
    {"dejavm doctor", "Why is KVM not used here?"},
    {0},
};

const struct command command_doctor = {
    .name = "doctor",
    .summary = "find out what this host can do",
    .paragraphs = paragraphs,
    .options = options,
    .operands = operands,
    .examples = examples,
    .run = run,
};
