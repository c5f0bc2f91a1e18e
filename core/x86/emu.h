/* The `emu` engine: dejavm's own x86-64 emulator. See docs/emulator.md. */
#ifndef DEJAVM_CORE_X86_EMU_H
#define DEJAVM_CORE_X86_EMU_H

#include "core/cpu_model.h"
#include "core/engine.h"

/*
 * ram, boundary and model must outlive the engine; the model stays as it is. The vCPU starts in its reset state, at position 0.
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

/*
 * How guest code is executed (docs/emulator.md): instruction by instruction from plans (stage 1), or translated into host code
 * (stage 2). The guest cannot tell. EMU_STAGE_2_ONLY translates a block before its first execution; what cannot be translated
 * is done by stage 1 all the same.
 */
enum emu_stages { EMU_STAGES_MIXED, EMU_STAGE_1_ONLY, EMU_STAGE_2_ONLY };

/* To be called between runs. Engines of another kind, and hosts that cannot have stage 2, ignore it. */
void emu_set_stages(struct engine *engine, enum emu_stages stages);
/* "1", "2" or "mixed", as DEJAVM_EMU_STAGES has it; NULL is mixed. False: something else. */
bool emu_stages_parse(const char *text, enum emu_stages *out);

/*
 * From now on translated code is described in FOLDER/jit-PID.dump, for `perf inject --jit`. To be called between runs, once.
 * -ENOTSUP: not an emulator with stage 2; else as jitdump_create().
 */
int emu_jitdump(struct engine *engine, const char *folder, struct error *err) must_check;

/* What stage 2 did since the engine was created. */
struct emu_profile {
    uint64_t translations, guest_bytes, host_bytes; /* made, with the bytes of guest and of host code */
    uint64_t superblocks;                           /* of the translations */
    uint64_t recycles;                              /* times that all translations were dropped for room */
    uint64_t drops;   /* translations dropped because their bytes were written */
    uint64_t entries; /* into translated code, from the run loop */
    uint64_t exits_link, exits_limit, exits_closed, exits_step; /* why it was left; they add up to entries */
    uint64_t dispatches; /* ways out that led to another translation without the run loop */
    uint64_t links;      /* jumps that were made direct */
    uint64_t steps_translated, steps_stage1;
    uint64_t
        slow_memory; /* instructions done by stage 1 because of their operand: TLB misses, MMIO, watched pages, ... */
    uint64_t slow_branch;   /* indirect branches whose target was not known */
    uint64_t handler_calls; /* instructions that have no translation */
    uint64_t decoded;       /* instructions, into blocks of stage 1 */
    uint64_t decoded_anew;  /* of these, those that were left to Zydis */
    uint64_t decode_ns; /* of the host's clock, for making blocks of stage 1; 0 without emu_start_profile() */
    uint64_t translate_ns; /* the same for translations */
};

/* From now on time is measured as well, which costs some. Engines of another kind ignore it. */
void emu_start_profile(struct engine *engine);

/* NULL for an engine without stage 2. */
const struct emu_profile *emu_profile(const struct engine *engine);

#endif
