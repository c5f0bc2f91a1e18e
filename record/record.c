#include "record/record.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>

#include "core/base/file.h"
#include "core/kvm/kvm_probe.h"
#include "core/loader.h"
#include "core/x86/emu.h"
#include "devices/acpi_tables.h"
#include "devices/devices.h"
#include "record/internal.h"

#define IMAGE_MAX_BYTES ((size_t)1 << 30)

/* The guest's files, while the recorder is being created. */
struct guest_files {
    struct buffer image, initrd;
};

static void kick_engine(void *context)
{
    struct recorder *r = context;
    struct engine *engine = atomic_load(&r->kicked);
    engine->ops->kick(engine);
}

/*
 * Why KVM is not the engine to choose for a Linux guest; there is always a reason. The second one: Linux reads the time stamp
 * counter a few thousand times even where CPUID has none, and no KVM lets user space answer.
 */
static void explain_linux_engine(struct recorder *r)
{
    struct kvm_probe syscall;
    if (kvm_probe_one("syscall", &syscall) && syscall.result == PROBE_NO)
        snprintf(r->engine_reason, sizeof(r->engine_reason), "%s on this host's KVM", syscall.detail);
    else
        snprintf(r->engine_reason, sizeof(r->engine_reason),
                 "Linux reads the time stamp counter, which KVM cannot record");
}

static int choose_engine(struct recorder *r, enum guest_format format, struct error *err)
{
    r->is_kvm = r->options.engine == RECORD_ENGINE_KVM;
    if (r->options.engine == RECORD_ENGINE_AUTO) {
        struct error reason;
        if (r->options.max_steps || r->options.clock == RECORD_CLOCK_VIRTUAL)
            snprintf(r->engine_reason, sizeof(r->engine_reason), "only the emulator can count steps");
        else if (kvm_probe_usable(&reason) < 0)
            snprintf(r->engine_reason, sizeof(r->engine_reason), "%.500s", reason.message);
        else if (format == GUEST_LINUX_BZIMAGE || format == GUEST_PVH)
            explain_linux_engine(r);
        else
            r->is_kvm = true;
    }
    if (r->is_kvm && r->options.max_steps)
        return error_set(err, -ENOTSUP,
                         "a limit of steps needs the emulator, which counts them: use --engine emu");
    if (r->is_kvm && r->options.clock == RECORD_CLOCK_VIRTUAL)
        return error_set(err, -ENOTSUP,
                         "a virtual clock needs the emulator, which counts steps: use --engine emu");
    return 0;
}

static int create_engine(struct recorder *r, const struct vcpu_state *state, struct error *err)
{
    cpu_model_init(&r->model, r->is_kvm ? CPU_PROFILE_KVM : CPU_PROFILE_EMU);
    if (r->options.board.apics)
        cpu_model_add_local_apic(&r->model);
    int status = cpu_model_check_host(&r->model, err);
    if (status < 0)
        return status;
    status = r->is_kvm ? kvm_engine_create(&r->kvm, r->ram, &r->boundary, &r->model, err)
                       : emu_create(&r->emulator, r->ram, &r->boundary, &r->model, err);
    r->engine = r->is_kvm ? r->kvm : r->emulator;
    r->positions = !r->is_kvm;
    atomic_store(&r->kicked, r->engine);
    if (status == 0 && r->is_kvm)
        status = kvm_engine_shown_cpuid(r->engine, &r->model, err);
    if (status < 0)
        return status;
    return r->engine->ops->set_state(r->engine, state, err);
}

static const uint8_t *frame_of_ram(void *context, gfn_t gfn)
{
    return ram_frame(context, gfn);
}

/* Writing a first keyframe of up to so many pages takes no time that anyone would notice. */
#define SMALL_GUEST_PAGES 1024u

/*
 * The machine as it starts: every page that is not zero, and the vCPU. A small guest's trace has its name before the guest starts; that
 * of a large one is written while the guest runs, and named by the first flush after that.
 */
static int write_first_keyframe(struct recorder *r, struct error *err)
{
    int status = r->engine->ops->collect_dirty(r->engine, err);
    if (status < 0)
        return status;
    ram_tracker_update(&r->tracker);
    ram_tracker_sort_changed(&r->tracker);
    size_t count = r->tracker.changed_count;
    gfn_t *frames = malloc((count + 1) * sizeof(*frames));
    struct buffer state = {0};
    vcpu_state_encode(r->engine->ops->state(r->engine), &state);
    if (!frames || state.failed) {
        free(frames);
        buffer_free(&state);
        return error_set(err, -ENOMEM, "out of memory for the list of %zu pages", count);
    }
    for (size_t i = 0; i < count; i++)
        frames[i] = ram_gfn_of_page(r->ram, r->tracker.changed[i]);
    struct trace_keyframe_input keyframe = {.position = 0,
                                            .state = state.data,
                                            .state_length = state.length,
                                            .ram_digest = r->tracker.digest,
                                            .changed = frames,
                                            .changed_count = count,
                                            .page = frame_of_ram,
                                            .context = r->ram};
    status = trace_writer_keyframe(r->writer, &keyframe, err);
    ram_tracker_clear_changed(&r->tracker);
    free(frames);
    buffer_free(&state);
    return status == 0 && count <= SMALL_GUEST_PAGES ? trace_writer_flush(r->writer, err) : status;
}

static int create_trace(struct recorder *r, const struct guest_files *files, enum guest_format format,
                        int64_t start_time_s, struct error *err)
{
    char host_cpu[128], host_system[512];
    struct utsname name;
    cpu_host_description(host_cpu, sizeof(host_cpu));
    uname(&name);
    snprintf(host_system, sizeof(host_system), "%s %s %s", name.sysname, name.release, name.machine);
    struct trace_meta meta = {.writer = "dejavm " DEJAVM_VERSION,
                              .engine = r->engine->ops->name,
                              .host_cpu = host_cpu,
                              .host_system = host_system,
                              .guest_path = r->options.guest_path,
                              .guest_format = guest_format_name(format),
                              .command_line = r->options.command_line,
                              .initrd_path = r->options.initrd_path ? r->options.initrd_path : "",
                              .start_time_s = start_time_s,
                              .ram_bytes = r->ram->size_bytes,
                              .ram_low_bytes = r->ram->low_bytes,
                              .positions = r->positions};
    struct trace_writer_options options = {.overwrite = r->options.overwrite,
                                           .steps = r->is_kvm && r->options.debugged};
    struct buffer cpuid = {0};
    cpu_model_encode(&r->model, &cpuid);
    int status = cpuid.failed ? error_set(err, -ENOMEM, "out of memory")
                              : trace_writer_create(&r->writer, r->options.trace_path, &options, &meta,
                                                    &cpuid, files->image.data, files->image.length, err);
    buffer_free(&cpuid);
    return status < 0 ? status : write_first_keyframe(r, err);
}

static int read_guest(struct recorder *r, struct guest_files *files, struct error *err)
{
    int status = file_read(r->options.guest_path, IMAGE_MAX_BYTES, &files->image, err);
    if (status == 0 && r->options.initrd_path)
        status = file_read(r->options.initrd_path, IMAGE_MAX_BYTES, &files->initrd, err);
    return status;
}

static int load_guest(struct recorder *r, const struct guest_files *files, struct loader_result *loaded,
                      struct error *err)
{
    int status = ram_create(&r->ram, r->options.ram_bytes, err);
    if (status == 0)
        status = ram_tracker_create(&r->tracker, r->ram, err);
    if (status < 0)
        return status;
    struct loader_input input = {.image = files->image.data,
                                 .image_length = files->image.length,
                                 .image_name = r->options.guest_path,
                                 .initrd = r->options.initrd_path ? files->initrd.data : NULL,
                                 .initrd_length = files->initrd.length,
                                 .initrd_name = r->options.initrd_path,
                                 .command_line = r->options.command_line};
    if (r->options.board.kind == BOARD_PC) {
        input.acpi_start = ACPI_AREA_START;
        input.acpi_bytes = ACPI_AREA_BYTES;
        input.acpi_rsdp = ACPI_RSDP;
    }
    status = loader_load(r->ram, &input, loaded, err);
    if (status < 0)
        return status;
    return symbols_create(&r->symbols, files->image.data, files->image.length, err);
}

static int create_machine(struct recorder *r, int64_t start_time_s, struct error *err)
{
    struct machine_host host = {.console_output = record_console_output,
                                .dma_write = record_dma,
                                .watch = record_watch,
                                .mark = record_mark,
                                .entropy = record_entropy,
                                .vcpu = record_vcpu,
                                .start_time_s = start_time_s,
                                .context = r};
    /* Under KVM the guest has the PIC alone: its CPUID and its CR8 are KVM's, which has no APIC. */
    r->options.board.apics = r->options.board.kind == BOARD_PC && !r->is_kvm;
    int status = machine_create(&r->machine, r->ram, &host, err);
    if (status < 0)
        return status;
    machine_select_input(r->machine, r->options.input);
    return board_attach(r->machine, &r->options.board, err);
}

static int set_up(struct recorder *r, struct guest_files *files, struct error *err)
{
    struct loader_result loaded;
    bool is_virtual = r->options.clock == RECORD_CLOCK_VIRTUAL;
    int64_t start_time_s = is_virtual ? RECORD_VIRTUAL_START_S : (int64_t)time(NULL);
    int status = read_guest(r, files, err);
    if (status == 0)
        status = load_guest(r, files, &loaded, err);
    if (status == 0)
        status = choose_engine(r, loaded.format, err);
    if (status == 0)
        status = create_machine(r, start_time_s, err);
    if (status == 0 && r->options.board.apics)
        loaded.state.apic_base |= APIC_BASE_ENABLE;
    if (status == 0)
        status = create_engine(r, &loaded.state, err);
    if (status == 0)
        status = create_trace(r, files, loaded.format, start_time_s, err);
    if (status == 0)
        status = record_host_create(&r->host, r->options.serial_in, kick_engine, r, err);
    return status;
}

int recorder_create(struct recorder **out, const struct record_options *options, struct error *err)
{
    struct recorder *r = calloc(1, sizeof(*r));
    if (!r)
        return error_set(err, -ENOMEM, "out of memory");
    r->boundary.ops = &record_boundary_ops;
    r->debug.limit = POSITION_UNKNOWN;
    r->options = *options;
    r->clock.is_virtual = options->clock == RECORD_CLOCK_VIRTUAL;
    r->options.seeded |= r->clock.is_virtual;
    r->random = options->seed;
    r->masked_since_ns = UINT64_MAX;
    if (!r->options.landmark_pages || r->options.landmark_pages > LANDMARK_MAX_PAGES)
        r->options.landmark_pages = LANDMARK_MAX_PAGES;
    r->landmark_pages = malloc(LANDMARK_MAX_PAGES * sizeof(*r->landmark_pages));
    struct guest_files files = {0};
    int status = r->landmark_pages ? set_up(r, &files, err) : error_set(err, -ENOMEM, "out of memory");
    r->image = files.image; /* the trace's writer still reads it */
    buffer_free(&files.initrd);
    if (status < 0) {
        recorder_destroy(r);
        return status;
    }
    *out = r;
    return 0;
}

void recorder_stop(struct recorder *r)
{
    atomic_store(&r->stop_requested, true);
    kick_engine(r);
    record_host_wake(r->host);
}

const struct vcpu_state *recorder_state(struct recorder *r)
{
    return r->engine->ops->state(r->engine);
}

const struct guest_ram *recorder_ram(const struct recorder *r)
{
    return r->ram;
}

position_t recorder_position(const struct recorder *r)
{
    return r->positions ? r->engine->ops->position(r->engine) : POSITION_UNKNOWN;
}

const struct engine *recorder_engine(const struct recorder *r)
{
    return r->engine;
}

void recorder_set_stages(struct recorder *r, enum emu_stages stages)
{
    emu_set_stages(r->engine, stages);
}

int recorder_jitdump(struct recorder *r, const char *folder, struct error *err)
{
    return emu_jitdump(r->engine, folder, err);
}

bool recorder_in_emulator(const struct recorder *r)
{
    return r->kvm && !r->is_kvm;
}

void recorder_destroy(struct recorder *r)
{
    if (!r)
        return;
    record_host_destroy(r->host);
    if (r->writer)
        trace_writer_destroy(r->writer);
    if (r->kvm)
        r->kvm->ops->destroy(r->kvm);
    if (r->emulator)
        r->emulator->ops->destroy(r->emulator);
    machine_destroy(r->machine);
    symbols_destroy(r->symbols);
    ram_tracker_destroy(&r->tracker);
    ram_destroy(r->ram);
    buffer_free(&r->image);
    free(r->landmark_pages);
    free(r);
}
