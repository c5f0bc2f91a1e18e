/*
 * Instructions that KVM's own instruction emulator lacks end in an internal error with the vCPU standing before them.
 * dejavm's emulator executes them: the state moves over, one transition is made, and the state moves back.
 */
#include <errno.h>

#include "core/kvm/kvm_internal.h"
#include "core/x86/emu.h"

/*
 * The emulator counts positions, KVM cannot; so the emulator gets a boundary of its own, which passes every crossing
 * on as one at an unknown position.
 */
static struct kvm_engine *engine_of(struct boundary *b)
{
    return container_of(b, struct kvm_engine, assist);
}

static int assist_pio_read(struct boundary *b, position_t position, uint16_t port, unsigned size,
                           uint32_t *value)
{
    struct kvm_engine *e = engine_of(b);
    (void)position;
    e->after_crossing = true;
    return e->engine.boundary->ops->pio_read(e->engine.boundary, POSITION_UNKNOWN, port, size, value);
}

static int assist_pio_write(struct boundary *b, position_t position, uint16_t port, unsigned size,
                            uint32_t value)
{
    struct kvm_engine *e = engine_of(b);
    (void)position;
    e->after_crossing = true;
    return e->engine.boundary->ops->pio_write(e->engine.boundary, POSITION_UNKNOWN, port, size, value);
}

static int assist_mmio_read(struct boundary *b, position_t position, gpa_t gpa, unsigned size,
                            uint64_t *value)
{
    struct kvm_engine *e = engine_of(b);
    (void)position;
    e->after_crossing = true;
    return e->engine.boundary->ops->mmio_read(e->engine.boundary, POSITION_UNKNOWN, gpa, size, value);
}

static int assist_mmio_write(struct boundary *b, position_t position, gpa_t gpa, unsigned size,
                             uint64_t value)
{
    struct kvm_engine *e = engine_of(b);
    (void)position;
    e->after_crossing = true;
    return e->engine.boundary->ops->mmio_write(e->engine.boundary, POSITION_UNKNOWN, gpa, size, value);
}

static int assist_cpu_read(struct boundary *b, position_t position, enum boundary_source source,
                           uint32_t argument, uint64_t *value, bool *valid)
{
    struct kvm_engine *e = engine_of(b);
    (void)position;
    if (source == SOURCE_IGNNE) { /* as KVM does it, which crosses nothing */
        *value = IGNNE_NATIVE;
        *valid = true;
        return BOUNDARY_OK;
    }
    e->after_crossing = true;
    return e->engine.boundary->ops->cpu_read(e->engine.boundary, POSITION_UNKNOWN, source, argument, value,
                                             valid);
}

static int assist_msr_read(struct boundary *b, position_t position, uint32_t index, uint64_t *value,
                           bool *known)
{
    struct kvm_engine *e = engine_of(b);
    (void)position;
    e->after_crossing = true;
    return e->engine.boundary->ops->msr_read(e->engine.boundary, POSITION_UNKNOWN, index, value, known);
}

static int assist_msr_write(struct boundary *b, position_t position, uint32_t index, uint64_t value,
                            bool *known)
{
    struct kvm_engine *e = engine_of(b);
    (void)position;
    e->after_crossing = true;
    return e->engine.boundary->ops->msr_write(e->engine.boundary, POSITION_UNKNOWN, index, value, known);
}

static int assist_halted(struct boundary *b, position_t position)
{
    struct kvm_engine *e = engine_of(b);
    (void)position;
    e->after_crossing = true;
    return e->engine.boundary->ops->halted(e->engine.boundary, POSITION_UNKNOWN);
}

static const struct boundary_ops assist_ops = {
    .pio_read = assist_pio_read,
    .pio_write = assist_pio_write,
    .mmio_read = assist_mmio_read,
    .mmio_write = assist_mmio_write,
    .cpu_read = assist_cpu_read,
    .msr_read = assist_msr_read,
    .msr_write = assist_msr_write,
    .halted = assist_halted,
};

static int step_emulator(struct kvm_engine *e, struct error *err)
{
    if (!e->emulator) {
        e->assist.ops = &assist_ops;
        int result = emu_create(&e->emulator, e->engine.ram, &e->assist, e->model, err);
        if (result < 0)
            return result;
    }
    struct engine *emulator = e->emulator;
    emu_ram_reset(emulator); /* KVM's guest wrote RAM since, unseen */
    int result = emulator->ops->set_state(emulator, &e->state, err);
    if (result < 0)
        return result;
    emulator->ops->set_position(emulator, 0);
    const struct engine_request request = {.limit = 1};
    return emulator->ops->run(emulator, &request, err);
}

int kvm_emulate_instruction(struct kvm_engine *e, struct error *err)
{
    uint64_t start = kvm_now_ns();
    int result = kvm_fetch_state(e, err);
    if (result < 0)
        return result;
    e->after_crossing = false;
    int stop = step_emulator(e, err);
    if (stop < 0)
        return error_prefix(err, "an instruction that KVM does not execute, at 0x%llx",
                            (unsigned long long)e->state.rip);
    bool crossed = e->after_crossing;
    /* Writing the whole state also drops the #UD that older kernels queue along with the internal error. */
    result = kvm_put_state(e, e->emulator->ops->state(e->emulator), err);
    if (result < 0)
        return result;
    bool stepped = e->emulator->ops->position(e->emulator) == 1;
    e->after_crossing = crossed && stepped;
    e->statistics.emulated_steps += stepped;
    e->statistics.time_in_emulator_ns += kvm_now_ns() - start;
    if (stop == ENGINE_STOP_BOUNDARY && !stepped)
        e->failed = true;
    if (stop == ENGINE_STOP_LIMIT)
        return KVM_GO_ON;
    return stop;
}
