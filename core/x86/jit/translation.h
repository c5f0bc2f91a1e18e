/* A translation being made: what the translate_*.c files share. */
#ifndef DEJAVM_CORE_X86_JIT_TRANSLATION_H
#define DEJAVM_CORE_X86_JIT_TRANSLATION_H

#include "core/x86/jit/internal.h"

enum insn_kind {
    KIND_HANDLER, /* stage 1 does it */
    KIND_NATIVE,  /* the instruction itself, with other registers */
    KIND_NOTHING,
    KIND_LEA,
    KIND_EXCHANGE,
    KIND_PUSH,
    KIND_POP,
    KIND_LEAVE,
    KIND_DIVIDE,
    KIND_BIT_TEST, /* BT, BTS, BTR, BTC on a string of bits in memory */
    KIND_FLDCW,
    KIND_VZEROUPPER,
    KIND_SYSTEM, /* translate_system.c */
    KIND_JUMP,   /* these end the block: */
    KIND_CONDITIONAL,
    KIND_CALL,
    KIND_RETURN,
    KIND_JUMP_INDIRECT,
    KIND_CALL_INDIRECT
};

/* How status flags can be had again from registers, as long as these stay what they are. */
enum remat {
    REMAT_NONE,
    REMAT_REPEAT, /* CMP, TEST: once more */
    REMAT_TEST,   /* AND, OR, XOR: from the result */
    REMAT_ADD,    /* result - source + source */
    REMAT_SUB     /* result + source - source */
};

struct insn {
    const struct plan *plan;
    uint64_t rip;
    uint8_t kind;     /* enum insn_kind */
    uint8_t remat;    /* enum remat */
    bool leaves;      /* can leave the translation: memory access, handler */
    bool memory;      /* explicit memory operand that is accessed */
    bool reads_flags; /* looks at status flags */
    bool keeps_flags; /* leaves some as they are, and sets others */
    bool sets_flags, sets_all;
    bool flags_needed; /* somebody may look at the flags that it leaves */
    bool whole;        /* writes all of its destination vector register without reading it */
    bool wide;         /* VEX: vector registers have 256 bits */
    bool mxcsr;
    bool x87;       /* x87 or MMX */
    bool high_byte; /* names AH, CH, DH or BH */
    bool aligned;   /* the memory operand has to be aligned to its size */
    bool inner;     /* the last of a block of a superblock, and not of all of it: goes on at next */
    uint64_t next;
    int8_t group;         /* index into groups, or NO_GROUP */
    int32_t group_offset; /* of the access, from what the register was at the first member */
    int32_t group_moved;  /* what was added to the register since */
    uint16_t gpr_named;   /* explicit register operands */
    uint16_t gpr_read;    /* of these, those whose old value matters */
    uint16_t gpr_written; /* explicit and implicit */
    uint16_t remat_gpr;   /* that remat needs */
    uint16_t vector_used, vector_written;
    ZydisDecodedInstruction z;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
};

/* Where the guest's status flags are. Several can be true; none: nobody will look at them. */
struct flags_state {
    bool host, saved;
    uint8_t remat;       /* enum remat */
    uint8_t remat_index; /* the instruction that set them */
};

/*
 * x87 instructions whose effect on FIP, FCS and FOP, and that of the last one with a memory operand on FDS, is not in cpu.fpu
 * yet; NULL: none. FDP is always there.
 */
struct x87_pointers {
    const struct insn *last, *last_memory;
};

#define NO_GROUP   (-1)
#define GROUPS_MAX ARRAY_LEN(((struct jit_frame *)0)->page)

/* Memory accesses through the same register: translate_group.c. */
struct group {
    int64_t low, high; /* the bytes accessed, from what the register was at the first member */
    bool write;
    bool moves; /* members are apart by what was added to a register between them */
    bool open;  /* code for the lookup is there, and jit_frame.page has the host address of low */
    unsigned members;
};

#define SLOW_JUMPS 8u

/* The part of an instruction that is out of line: jit_step does it. */
struct slow {
    uint8_t *jump[SLOW_JUMPS];
    unsigned jumps;
    unsigned index;
    bool group;      /* it is the lookup for a group that failed */
    uint8_t key;     /* enum jit_key */
    uint8_t *resume; /* NULL: the instruction ends the block */
    struct flags_state before, after;
    struct x87_pointers x87;
    uint16_t dirty_before, loaded_after;
};

/* A jump that is to be patched; initially it leads out of translated code. */
struct exit_stub {
    uint8_t *jump;
    struct jit_link *link;
    bool host_flags;
    bool far;       /* reached by a conditional jump: flags have to be saved, then the link's cell is asked */
    uint8_t undo;   /* steps that were counted and are not done */
    uint16_t dirty; /* vector registers to be stored */
    struct x87_pointers x87;
};

struct site_use {
    uint8_t *field; /* of the LEA that loads its address */
    struct jit_site site;
};

#define EXITS_MAX (SUPERBLOCK_PARTS + 4u)

struct translation_state {
    struct jit *j;
    struct emu *e;
    struct jit_code *code;
    struct emitter m;
    const struct tlb_entry *tlb;
    uint64_t rip;
    unsigned key, slot, count;
    const struct jit_code *plain; /* of a superblock: the translation of its first block; else NULL */
    const struct jit_part *part;  /* its blocks */
    unsigned part_count;
    bool several_pages;
    uint8_t *stale;       /* the jump that is taken when what was known of these is not known any longer */
    unsigned first_count; /* instructions of the first block */
    bool ungrouped;
    bool wide, mxcsr, uses_x87;
    struct x87_pointers x87;
    struct flags_state flags;
    uint16_t vector_loaded, vector_dirty;
    bool failed;
    unsigned slow_count, exit_count, site_count, group_count;
    struct group groups[GROUPS_MAX];
    int8_t held; /* the group whose address R10 has, or NO_GROUP */
    struct insn insn[SUPERBLOCK_STEPS];
    struct slow slow[SUPERBLOCK_STEPS];
    struct exit_stub exits[EXITS_MAX];
    struct site_use sites[2 * SUPERBLOCK_STEPS];
};

static inline bool in_frame(unsigned guest)
{
    return frame_slot(guest) >= 0;
}

static inline unsigned host_gpr(unsigned guest)
{
    return guest == GPR_RSP ? HOST_OF_SP : guest;
}

static inline struct mem frame_gpr(unsigned guest)
{
    return FRAME(gpr[frame_slot(guest)]);
}

/* ---- classify.c ---- */

/* Fills in insn from its plan and rip. */
void jit_classify(struct translation_state *t, struct insn *insn);

/* ---- reencode.c ---- */

/*
 * The instruction with guest register r as map[r] and its memory operand, if it has one, as *memory. Returns the number of
 * bytes, at most 15; 0 when it cannot be done, or the result would not decode to the very same instruction.
 */
size_t jit_reencode(struct translation_state *t, const struct insn *insn, const uint8_t map[GPR_COUNT],
                    const struct mem *memory, uint8_t out[16]);

/* ---- translate_flags.c ---- */

/* After this the host's flags may be overwritten. */
void flags_protect(struct translation_state *t);
/* After this they are the host's; clobbers R11. */
void flags_to_host(struct translation_state *t);
/* After this they are in the frame; clobbers R11. */
void flags_to_frame(struct translation_state *t);
/* To be called for each instruction after its checks and before its operation, and after it. */
void flags_before(struct translation_state *t, const struct insn *insn);
void flags_after(struct translation_state *t, const struct insn *insn);
void put_save_flags(struct emitter *m);
void put_restore_flags(struct emitter *m);
void put_remat(struct translation_state *t, const struct flags_state *flags);

/* ---- translate_memory.c ---- */

/* Starts the out-of-line part of the instruction being translated. */
struct slow *slow_begin(struct translation_state *t, const struct insn *insn);
/* resume: translated code goes on after the instruction. */
void slow_end(struct translation_state *t, struct slow *s, bool resume);
void slow_jump(struct translation_state *t, struct slow *s, enum condition condition);
/*
 * Code that checks the plan's memory operand and leaves its host address in R10 and *operand; clobbers R11 and flags.
 * bytes: size of the access.
 */
void put_operand(struct translation_state *t, struct slow *s, const struct insn *insn, unsigned bytes,
                 enum access access, struct mem *operand);
/* The same for [guest register + disp], where the segment is flat. */
void put_stack(struct translation_state *t, struct slow *s, const struct insn *insn, unsigned guest,
               int32_t disp, enum access access, struct mem *operand);
/* The address of the plan's memory operand without segment base, in R10; clobbers R11, not flags. */
void put_address(struct translation_state *t, const struct insn *insn);
/* A memory operand whose address is known: *linear. */
bool constant_address(const struct insn *insn, uint64_t *linear);
/* R10: linear address of bytes bytes; becomes the host address. */
void put_lookup(struct translation_state *t, struct slow *s, unsigned bytes, enum access access);
/* Calls jit_step for an instruction; flags are in the frame. slow: it is the out-of-line part, else NULL. */
void put_call_step(struct translation_state *t, const struct insn *insn, const struct slow *slow);
void put_slow_parts(struct translation_state *t);

/* ---- translate_group.c ---- */

void find_groups(struct translation_state *t);
/* As put_operand, for a member of a group; false for all others. Members after the first need no slow part, and leave flags. */
bool put_group_operand(struct translation_state *t, struct slow *s, const struct insn *insn,
                       struct mem *operand);

/* R10 has the address of t->held still after the instruction; all others have to reset that. */
bool keeps_held(const struct insn *insn);

/* ---- translate_vector.c ---- */

void vector_load(struct translation_state *t, const struct insn *insn);
void vector_store(struct translation_state *t, uint16_t which);
void vector_reload(struct translation_state *t, uint16_t which);
/* MXCSR becomes the guest's; clobbers flags. */
void put_ensure_mxcsr(struct translation_state *t);

/* VZEROUPPER */
void translate_vzeroupper(struct translation_state *t);

/* ---- translate_x87.c ---- */

/* The x87 state is in the host's registers after this, if the translation needs it there; clobbers flags and R11. */
void put_ensure_x87(struct translation_state *t);
/* To be called after each x87 or MMX instruction: clobbers R10 and R11, not flags. */
void x87_after(struct translation_state *t, const struct insn *insn);
/* Stores what *pointers says; clobbers R11, not flags. */
void put_x87_pointers(struct translation_state *t, const struct x87_pointers *pointers);
/* To be called before the translation is left, or a handler called: the same for t->x87, which becomes empty. */
void x87_settle_pointers(struct translation_state *t);
void translate_fldcw(struct translation_state *t, const struct insn *insn);

/* ---- translate_divide.c, translate_bits.c ---- */

void translate_divide(struct translation_state *t, const struct insn *insn);
void translate_bit_test(struct translation_state *t, const struct insn *insn);

/* ---- translate.c ---- */

/* The instruction itself, and framed registers around it; operand: its memory operand, or NULL. Flags are where it wants them. */
void put_native(struct translation_state *t, const struct insn *insn, const struct mem *operand);

/* ---- translate_system.c ---- */

/* KIND_SYSTEM with all that jit_classify notes, or KIND_HANDLER. */
enum insn_kind jit_classify_system(const struct translation_state *t, struct insn *insn);
void translate_system(struct translation_state *t, const struct insn *insn);
/* The instruction before it is an STI that has just set IF. */
bool in_sti_shadow(const struct translation_state *t, const struct insn *insn);
/* After it other pages are accessible: t->tlb is not what it was. */
bool changes_context(const struct insn *insn);

/* ---- translate_branch.c ---- */

/* What a near return takes from the stack beside the address. */
static inline int32_t return_pops(const struct insn *insn)
{
    return insn->plan->operand_count ? (int32_t)(insn->plan->imm & 0xffff) : 0;
}

void translate_stack(struct translation_state *t, const struct insn *insn);
void translate_branch(struct translation_state *t, const struct insn *insn);
/* The same for one that does not end the translation: insn->inner. */
void translate_inner_branch(struct translation_state *t, const struct insn *insn);
/* Goes on at rip, which nothing but the end of the block leads to. */
void translate_fall_through(struct translation_state *t, uint64_t rip);
void put_exit_stubs(struct translation_state *t);

#endif
