/*
 * A vCPU that was recorded under KVM moves into the emulator, where it can be stepped and stopped at points, and back.
 * In between, events are placed by the number of transitions since the event before.
 */
#include <errno.h>

#include "core/x86/emu.h"
#include "record/internal.h"

static void run_in(struct recorder *r, struct engine *engine)
{
    r->engine = engine;
    r->is_kvm = engine == r->kvm;
    atomic_store(&r->kicked, engine);
}

int record_move_to_emulator(struct recorder *r, struct error *err)
{
    if (!r->is_kvm)
        return 0;
    if (!kvm_engine_settled(r->kvm))
        return error_set(err, -EAGAIN, "the vCPU stands in KVM where it cannot be moved to the emulator");
    int status = r->emulator ? 0 : emu_create(&r->emulator, r->ram, &r->boundary, &r->model, err);
    if (status == 0)
        status = record_digest(r, err);
    if (status < 0)
        return status;
    emu_ram_reset(r->emulator); /* KVM's guest wrote RAM since, unseen */
    status = r->emulator->ops->set_state(r->emulator, r->kvm->ops->state(r->kvm), err);
    if (status < 0)
        return error_prefix(err, "moving the vCPU from KVM to the emulator");
    r->emulator->ops->set_position(r->emulator, 0);
    r->place_position = r->last_digest_position = 0;
    record_clock_catch_up(&r->clock, record_host_now_ns(r->host), 0);
    run_in(r, r->emulator);
    return 0;
}

int record_move_to_kvm(struct recorder *r, struct error *err)
{
    if (r->is_kvm || !r->kvm)
        return 0;
    int status = record_digest(r, err);
    if (status == 0)
        status = kvm_engine_ram_changed(r->kvm, err);
    if (status == 0)
        status = r->kvm->ops->set_state(r->kvm, r->emulator->ops->state(r->emulator), err);
    if (status < 0)
        return error_prefix(err, "moving the vCPU from the emulator to KVM");
    run_in(r, r->kvm);
    return 0;
}
