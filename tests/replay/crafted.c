#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/cpu_model.h"
#include "core/ram_tracker.h"
#include "tests/replay/crafted.h"
#include "trace-format/trace_writer.h"

static void must(int status, const struct error *err)
{
    if (status < 0)
        fail_msg("%s", err->message);
}

struct vcpu_state crafted_real_mode(void)
{
    struct vcpu_state state;
    vcpu_state_reset(&state);
    state.seg[SEG_CS].selector = 0;
    state.seg[SEG_CS].base = 0;
    state.rip = CRAFTED_CODE;
    return state;
}

static const uint8_t *frame_of_ram(void *context, gfn_t gfn)
{
    return ram_frame(context, gfn);
}

static void write_machine(struct trace_writer *writer, const struct vcpu_state *state, const uint8_t *code,
                          size_t length)
{
    struct error err = {0};
    struct guest_ram *ram;
    struct ram_tracker tracker;
    struct buffer encoded = {0};
    const gfn_t frame = CRAFTED_CODE >> PAGE_SHIFT;
    must(ram_create(&ram, RAM_MIN_BYTES, &err), &err);
    must(ram_tracker_create(&tracker, ram, &err), &err);
    assert_int_equal(ram_write(ram, CRAFTED_CODE, code, length), 0);
    ram_tracker_update(&tracker);
    vcpu_state_encode(state, &encoded);
    struct trace_keyframe_input keyframe = {.state = encoded.data,
                                            .state_length = encoded.length,
                                            .ram_digest = tracker.digest,
                                            .changed = &frame,
                                            .changed_count = 1,
                                            .page = frame_of_ram,
                                            .context = ram};
    must(trace_writer_keyframe(writer, &keyframe, &err), &err);
    buffer_free(&encoded);
    ram_tracker_destroy(&tracker);
    ram_destroy(ram);
}

void crafted_trace(const char *path, bool positions, const struct vcpu_state *state, const uint8_t *code,
                   size_t length, const struct event *events, size_t count)
{
    struct error err = {0};
    struct trace_writer *writer;
    struct buffer cpuid = {0};
    struct cpu_model model;
    cpu_model_init(&model, CPU_PROFILE_KVM);
    cpu_model_encode(&model, &cpuid);
    struct trace_meta meta = {.writer = "test",
                              .engine = positions ? "emu" : "kvm",
                              .host_cpu = "",
                              .host_system = "",
                              .guest_path = "",
                              .guest_format = "",
                              .command_line = "",
                              .initrd_path = "",
                              .ram_bytes = RAM_MIN_BYTES,
                              .ram_low_bytes = RAM_MIN_BYTES,
                              .positions = positions};
    struct trace_writer_options options = {.overwrite = true};
    must(trace_writer_create(&writer, path, &options, &meta, &cpuid, (const uint8_t *)"", 0, &err), &err);
    write_machine(writer, state, code, length);
    for (size_t i = 0; i < count; i++)
        must(trace_writer_event(writer, &events[i], &err), &err);
    must(trace_writer_finish(writer, &err), &err);
    buffer_free(&cpuid);
}
