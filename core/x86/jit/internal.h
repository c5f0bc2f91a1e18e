/*
 * What the files of stage 2 share.
 *
 * Registers in translated code:
 *   RAX RCX RDX RBX RBP RSI RDI R8 R9 R12 R13 R14   the guest's own
 *   R15            the guest's RSP
 *   RSP            the host's; points to struct jit_frame
 *   R10 R11        scratch. The guest's R10, R11 and R15 are in the frame: memory that is addressed through a register is
 *                  about as fast as a register on CPUs that rename memory, and signals leave what is above RSP alone.
 *   status flags   the guest's, or in the frame, or made anew from registers: translate_flags.c
 *   XMM0..15       the guest's where a block uses them, from their first use in the block to its end
 *   x87, MMX       the guest's, in blocks that use them (e->x87_live); FIP and the like are in cpu.fpu wherever a block is left
 *
 * Steps are counted at block entry: frame.left goes down by the block's instructions, and the block is not entered when it
 * would become negative. position == slice_end - left at block boundaries.
 */
#ifndef DEJAVM_CORE_X86_JIT_INTERNAL_H
#define DEJAVM_CORE_X86_JIT_INTERNAL_H

#include "core/x86/jit/emitter.h"
#include "core/x86/jit/jit.h"
#include "core/x86/jit/jitdump.h"
#include "core/x86/stub.h"

#define SCRATCH_A  GPR_R10
#define SCRATCH_B  GPR_R11
#define HOST_OF_SP GPR_R15

/* A block whose first instructions overwrite the status flags unseen does so within this many steps. */
#define JIT_DEAD_STEPS 8u

struct jit_frame {
    int32_t left;    /* steps until the slice ends */
    uint32_t flags;  /* saved status flags: LAHF in bits 8..15, OF in bit 0 */
    uint64_t gpr[3]; /* the guest's R10, R11, R15 */
    uint64_t temp[3];
    uint32_t mxcsr;        /* the host's, while mxcsr_loaded */
    uint32_t mxcsr_loaded; /* the guest's MXCSR is the host's */
    uint64_t page[16];     /* translate_group.c: host addresses of pages that were checked */
};

/* Index into jit_frame.gpr of a guest register that has no host register; -1 for all others. */
static inline int frame_slot(unsigned guest)
{
    return guest == GPR_R10 ? 0 : guest == GPR_R11 ? 1 : guest == GPR_R15 ? 2 : -1;
}

#define FRAME(field) mem_at(GPR_RSP, (int32_t)offsetof(struct jit_frame, field))

/* What a translation depends on beside bytes and linear address. */
enum jit_key {
    KEY_CONTEXT = 3, /* enum tlb_context */
    KEY_SSE = 4,     /* SSE instructions raise no #UD and no #NM */
    KEY_AVX = 8,
    KEY_MASKED = 16, /* all SIMD exceptions are masked */
    KEY_CPL0 = 32,   /* the contexts of the kernel are those of CPL 1 and 2 too */
    KEY_X87 = 64,    /* x87 and MMX instructions raise no #UD and no #NM, and all x87 exceptions are masked */
    KEYS = 128
};

/* One instruction that may be done by its handler: what jit_step has to know. Lies in the code arena. */
struct jit_site {
    const struct plan *plan;
    struct jit_code *code;
    uint64_t rip;
    int32_t back;         /* the block's steps not done yet, this one included */
    uint8_t last;         /* ends the block: translated code is left in any case */
    uint8_t memory;       /* its operand was not plain RAM that the TLB has */
    uint8_t groups;       /* what was found in the TLB is used further on (translate_group.c) */
    uint8_t group_failed; /* the lookup for a group did not succeed: the block is left */
    uint8_t string;       /* STEP_LEAVE says no more than that it is done */
    uint8_t key;          /* enum jit_key, before it */
    uint8_t shadow;       /* the instruction before it was an STI that set IF */
};

/* What exit code returns: the address of a jit_link, or that of the jit_code that is next, with the reason in the low bits. */
enum link_kind {
    LINK_JUMP,       /* a jit_link */
    LINK_LIMIT,      /* the slice ends before the translation */
    LINK_LIMIT_DEAD, /* the same, and the status flags were not kept: jit_run's *again */
    LINK_CLOSED,     /* the translation can no longer be entered */
    LINK_STALE,      /* a superblock whose pages may be others now */
    LINK_STALE_DEAD, /* the same, as LINK_LIMIT_DEAD */
    LINK_KINDS = 7
};

/* A block that a translation was made of, in low memory. */
struct jit_part {
    struct jit_part *next;      /* of the same block: of superblocks only */
    struct jit_part *page_next; /* in the list of its linear page */
    struct jit_code *code;
    struct block *block;
    uint64_t rip;
};

/* A way out of a translation, in low memory. Generated code reads code and epoch where the target is on another page. */
struct jit_link {
    const void *code; /* the target's entry with flags saved */
    uint64_t epoch;   /* e->link_epoch under which code is valid; 0: never */
    uint64_t rip;
    struct jit_code *owner;
    uint8_t *
        jump; /* the 32-bit distance (writable view) of a jump to a target on a page that the owner is on; else NULL */
    const uint8_t *page;   /* with jump: that page in the RAM mapping */
    bool host_flags;       /* the guest's flags are the host's there */
    uint8_t key;           /* enum jit_key of the target */
    bool listed;           /* in the incoming ones of a translation */
    struct jit_link *next; /* in that list */
};

/* A translation, in low memory. */
struct jit_code {
    struct jit_code *next; /* of the same block */
    struct block *block;   /* the first, and only one but for superblocks */
    struct jit_part only;  /* what it was made of, but for superblocks */
    struct jit_part *part; /* of a superblock: part_count of them */
    uint64_t
        epoch; /* e->link_epoch under which the pages of its blocks are known; only if these are several */
    struct jit_code *plain;    /* of a superblock: the translation of its first block */
    struct jit_code *super;    /* the superblock that starts where this does */
    struct jit_link *incoming; /* that were made to lead here */
    uint64_t failures_since;   /* position */
    uint32_t failures;         /* of lookups for groups */
    const uint8_t *host;       /* the block's first byte, in the RAM mapping */
    uint64_t rip;
    uint8_t *entry_host, *entry_saved;   /* writable view: flags in the host's register, flags in the frame */
    uint8_t *closed_host, *closed_saved; /* where the entries lead when closed */
    uint8_t opening[2][5];               /* their first bytes when open */
    uint8_t key, slot;                   /* slot: of key, in jit.targets */
    uint64_t entry_epoch;                /* e->link_epoch under which rip is known to lead to host */
    bool closed;
    bool dropped;    /* closed for good */
    bool dead;       /* flags are overwritten before anybody looks: at its entry they may be anything */
    uint8_t samples; /* times that a slice ended here (superblock.c) */
    uint8_t part_count;
    uint16_t steps; /* counted at its entry */
    uint32_t bytes; /* of the first block's guest code */
};

/* Where an indirect branch to rip goes. */
struct jit_target {
    uint64_t rip;
    const void *code;
};

/*
 * Targets known for one key, found by the lower bits of their address and its highest one, so that the halves of the address
 * space do not share entries. They are forgotten together with the links to their half (link_forget).
 */
#define TARGETS_LOG2  14
#define TARGETS       (1u << TARGETS_LOG2)
#define TARGETS_KNOWN 1024u
#define KEY_SLOTS     16u
#define PAGE_LISTS    4096u
#define RECENT        65536u

struct jit_targets {
    struct jit_target entry[TARGETS];
    uint16_t known[2][TARGETS_KNOWN]; /* indices of the entries of each half */
    unsigned known_count[2];          /* TARGETS_KNOWN: known does not hold all */
};

#define SUPERBLOCK_DROPS 4u /* so many were in vain: no more from this block */
#define SUPERBLOCK_PARTS 32u
#define SUPERBLOCK_STEPS 96u /* a signed byte has room for them */

/* The blocks that follow each other from a hot one on, as stage 1 executes them: superblock.c. */
struct jit_recording {
    struct jit_code *head; /* NULL: nothing is recorded */
    unsigned count, steps;
    struct jit_part part[SUPERBLOCK_PARTS];
};

struct jit {
    struct jit_targets targets[KEY_SLOTS];
    uint8_t key_of_slot[KEY_SLOTS];
    unsigned key_slots;
    struct emu *e;
    struct code_arena *arena;
    uint8_t *writable; /* the arena's views */
    const uint8_t *executable;
    size_t used, thunks_end; /* bytes of the arena */
    uint8_t *pool;           /* links and translations, in low memory */
    size_t pool_used;
    void (*enter)(const void *code, int32_t left, uint32_t flags);
    const uint8_t *exit_host, *exit_saved, *call_step, *load_x87; /* writable view */
    position_t slice_end;
    enum step step;                  /* of the last step before translated code was left */
    bool again;                      /* see jit_run */
    struct jit_code *recent[RECENT]; /* by hash of RIP and key: translations entered last */
    struct jit_code *left_closed;    /* the translation that could not be entered */
    struct jit_link *pending;        /* a link that would like to know its target */
    bool flushed;                    /* the blocks are gone */
    uint32_t generation;             /* of the arena's content; never 0 */
    unsigned threshold;              /* executions before a block is translated */
    enum emu_stages stages;
    unsigned sets_all;                  /* enum flag_probe */
    struct jit_part *pages[PAGE_LISTS]; /* by hash of the linear page */
    uint64_t match_rip;                 /* the landmark's RIP that translations are closed for */
    bool match;
    const struct engine_points *points;
    struct emu_profile profile;
    struct jit_recording recording;
    struct translation_state *translation;
    struct jitdump *dump; /* or NULL */
};

static inline const uint8_t *executable_of(const struct jit *j, const uint8_t *writable)
{
    return j->executable + (writable - j->writable);
}

/* ---- thunks.c ---- */

/* Generates enter, exit_host, exit_saved, call_step and load_x87 at the start of the arena. */
void jit_make_thunks(struct jit *j);
/*
 * What call_step and the exits call (step.c). JIT_STAY: translated code goes on where it was. JIT_DISPATCH: at the address in
 * frame->temp[0]. JIT_LEAVE: back to jit_run; j->step and j->again are what that returns.
 */
enum jit_way { JIT_STAY, JIT_LEAVE, JIT_DISPATCH };
uint32_t jit_step(struct emu *e, const struct jit_site *site, struct jit_frame *frame);
/* way: enum link_kind and its object. Never JIT_STAY. */
uint32_t jit_exit(struct emu *e, uintptr_t way, struct jit_frame *frame);

/* ---- strings.c ---- */

/*
 * A string instruction with REP. True: it was a simple one and is done to its end, and all iterations but the last are counted.
 * False: the iterations that were done, if any, are counted, and stage 1 can go on.
 */
bool jit_string(struct emu *e, const struct plan *p);

/* ---- runtime.c ---- */

/* Zeroed memory of the pool, or NULL when it is full. */
void *jit_pool_take(struct jit *j, size_t bytes);
/* All translations go. Not to be called while translated code waits for a handler. */
void jit_drop_everything(struct jit *j);
/* The run loop has to look at some boundary of the code at rip. */
bool jit_must_look(const struct jit *j, uint64_t rip, uint64_t bytes);
/* The same for blocks. */
bool jit_must_look_at(const struct jit *j, const struct jit_part *parts, unsigned count);
/* The translations of the linear page of rip, linked by page_next. */
struct jit_part **jit_page_list(struct jit *j, uint64_t rip);
/* The translation cannot be entered any longer. */
void jit_code_drop(struct jit *j, struct jit_code *code);

/* ---- find.c ---- */

/* Makes a translation known to its blocks and its page. */
void jit_publish(struct jit *j, struct jit_code *code);
/* Links that were made to lead to from lead to to, which is for the same address and key. */
void jit_redirect(struct jit *j, struct jit_code *from, struct jit_code *to);
/* enum jit_key of the vCPU's state. */
unsigned jit_current_key(const struct emu *e);
/* Index into j->targets. */
unsigned jit_key_slot(struct jit *j, unsigned key);
static inline uint32_t jit_pack_flags(uint64_t rflags)
{
    return (uint32_t)((rflags & 0xff) << 8 | (rflags >> 11 & 1));
}

/* ---- superblock.c ---- */

/* The slice ended before this translation: it is probably one that runs often. */
void superblock_sample(struct jit *j, struct jit_code *code);
/*
 * The translation was found and could be entered: where stage 2 is to do all that it can, that is a sample, too. True: stage 1 is
 * to execute it, and its path will be recorded.
 */
bool superblock_wanted(struct jit *j, struct jit_code *code);
/*
 * Whether its blocks are where they were, which is noted; if they are elsewhere it is dropped. The TLB alone is asked, for the page
 * tables would have A bits set: false may also mean that nobody knows.
 */
bool superblock_check(struct jit *j, struct jit_code *code);

/* ---- probe.c ---- */

/* Instructions that set all status flags, whatever these were, though the SDM calls some undefined. */
enum flag_probe { PROBE_LOGIC = 1, PROBE_SHIFT = 2, PROBE_IMUL = 4, PROBE_COUNT = 8, PROBE_BMI = 16 };
unsigned jit_probe_flags(void);

/* ---- translate.c ---- */

/* NULL: no room (*full), or nothing to be had from a translation. */
struct jit_code *jit_translate(struct jit *j, struct block *b, uint64_t rip, unsigned key, bool *full);
/* The blocks of a path as one translation; as many of them as can be, 2 at least. NULL: it cannot be done, or there is no room. */
struct jit_code *jit_translate_superblock(struct jit *j, const struct jit_recording *r);
struct translation_state *jit_translation_create(void);
void jit_translation_destroy(struct translation_state *t);

#endif
