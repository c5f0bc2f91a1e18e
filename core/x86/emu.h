/* The `emu` engine: dejavm's own x86-64 emulator. See docs/emulator.md. */
#ifndef DEJAVM_CORE_X86_EMU_H
#define DEJAVM_CORE_X86_EMU_H

#include "core/cpu_model.h"
#include "core/engine.h"

/*
 * ram, boundary and model must outlive the engine. The vCPU starts in its reset state, at position 0.
 * One engine may be run by one thread at a time; engine_ops.kick is the exception (see engine.h).
 */
int emu_create(struct engine **out, struct guest_ram *ram, struct boundary *boundary,
               const struct cpu_model *model, struct error *err) must_check;

/*
 * To be called after anyone but the engine has written RAM while the engine exists (devices, loaders, a checkpoint
 * being restored), and before the engine runs again: what it has decoded or translated from these bytes is stale. offset
 * and length are in RAM's mapping. Engines of another kind ignore it.
 */
void emu_ram_changed(struct engine *engine, uint64_t offset, size_t length);

/* The same for all of RAM. Also after ram_reset(). */
void emu_ram_reset(struct engine *engine);

#endif
