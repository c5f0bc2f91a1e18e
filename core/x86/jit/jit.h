/*
 * Stage 2: blocks of guest code as host code (docs/emulator.md, "Stage 2"). What the rest of core/x86 calls.
 *
 * A translation is made of a block (block.h) that was executed often enough, for one linear address and one jit_key. While
 * translated code runs, the guest's registers are the host's, memory goes through the TLB by inline code, and translations
 * jump to each other directly. Whatever is not plain (TLB misses, faults, system instructions) is done by the plan's handler of
 * stage 1 with the vCPU's state in struct emu, exact in every register, flag and position.
 *
 * Stage 1 is complete without this; an engine that cannot have it (no BMI2, no memory below 2 GiB) has e->jit == NULL.
 */
#ifndef DEJAVM_CORE_X86_JIT_JIT_H
#define DEJAVM_CORE_X86_JIT_JIT_H

#include "core/x86/block.h"
#include "core/x86/emu.h"

struct jit;
struct jit_code; /* a translation */

/*
 * Memory that generated code can address with 32 bits, zeroed, with an inaccessible page on either side; NULL when there is none.
 * bytes is rounded up to pages.
 */
void *jit_low_memory(size_t bytes);
void jit_low_memory_free(void *memory, size_t bytes); /* NULL is fine */

/* e must lie in low memory. NULL: this host or process cannot have stage 2. */
struct jit *jit_create(struct emu *e);
void jit_destroy(struct jit *j); /* NULL is fine */

void jit_set_stages(struct emu *e, enum emu_stages stages);
/* There is a stage 2, and it is not switched off. */
bool jit_wanted(const struct emu *e);

/*
 * Before a run: e->match and e->points are final. Translations that contain an address at which the run loop has to look (a break
 * address, the landmark's RIP) are closed, and those that need not be any longer are opened.
 */
void jit_begin_run(struct emu *e);

/*
 * The translation that may be entered now for the block found at CS:RIP, or NULL: stage 1 executes the block. Counts
 * executions, and translates.
 */
const struct jit_code *jit_find(struct emu *e, struct block *b);
/* The same for CS:RIP without asking for the block; NULL: jit_find has to. */
const struct jit_code *jit_find_recent(struct emu *e);

/*
 * Runs translated code from CS:RIP on, for at most JIT_SLICE_STEPS and up to a little before the run's limit. Returns what execute() of
 * the run loop would for the last step. *again: the block at CS:RIP has to be executed by stage 1 before anything is looked
 * at, because RFLAGS are not those of this boundary; its first instructions cannot fault, and set all of them.
 */
enum step jit_run(struct emu *e, const struct jit_code *code, bool *again);

/* Stage 1 is to execute the next blocks, and to tell jit_record of each. */
bool jit_records(const struct emu *e);
/* Stage 1 executed all of a block that was entered at rip; step is what its last instruction said. */
void jit_record(struct emu *e, struct block *b, uint64_t rip, enum step step);
/* It did something else. */
void jit_record_end(struct emu *e);

/* The block's bytes change: its translations can no longer be entered. */
void jit_block_dropped(struct emu *e, struct block *b);
/* After e->points changed. */
void jit_points_changed(struct emu *e);
/* The links to half of the address space are void (link_forget). */
void jit_links_forgotten(struct emu *e, unsigned half);
/* All blocks are gone. */
void jit_blocks_flushed(struct emu *e);

/* See emu_jitdump(). */
int jit_dump_to(struct jit *j, const char *folder, struct error *err) must_check;

/* e->jit is not NULL. */
const struct emu_profile *jit_profile(const struct emu *e);

#endif
