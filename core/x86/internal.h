/*
 * The emulator's own state, and what its files call of each other. Private to core/x86.
 *
 *   decode.c stub.c code_arena.c exec_stub.c fpu_state.c   plans, host code, x87/SSE/AVX state
 *   mmu.c segment.c exception.c far.c segment_ops.c system.c msr.c   what defines the machine
 *   emu.c block.c points.c near.c string.c io.c inspect.c   run loop, decoded code, control flow, string, I/O
 */
#ifndef DEJAVM_CORE_X86_INTERNAL_H
#define DEJAVM_CORE_X86_INTERNAL_H

#include <stdatomic.h>
#include <string.h>

#include "core/cpu_model.h"
#include "core/engine.h"
#include "core/x86/plan.h"

/*
 * Software TLB, direct-mapped by linear page number, one set per context. A tag equals the linear address of
 * the page when that kind of access may go straight to host memory; otherwise it is tlb_no_page() of the entry, the address
 * of a page that belongs to another entry: so an address and the tag of its entry never differ in the low 12 bits
 * alone unless the tag is that of its page, which is what translated code asks (jit/translate_memory.c).
 *   - write is only set for pages already marked dirty and without decoded code;
 *   - exec and read are set on their own, so that A bits and permissions are exact;
 *   - MMIO is never entered, nor are data accesses to a page with a data breakpoint.
 *
 * A TLB is hidden state: a guest that changes a page table without INVLPG would go one way with an old entry and
 * another way after a checkpoint was restored. So entries are never stale: a write to a page table that an entry was
 * made from (RAM_PAGE_TABLE) flushes. Flushing at any time is therefore invisible to the guest.
 */
#define TLB_ENTRIES 2048u

struct tlb_entry {
    uint64_t read, write, exec;
    uint8_t *host; /* the page's first byte */
};

static inline uint64_t tlb_no_page(unsigned index)
{
    return index == 0 ? PAGE_SIZE_BYTES : 0;
}

#define TLB_LOW_LOG 512u

enum tlb_context {
    TLB_USER,      /* CPL 3 */
    TLB_KERNEL,    /* CPL 0..2, user pages not accessible for data (SMAP on and AC = 0) */
    TLB_KERNEL_AC, /* CPL 0..2, user pages accessible (SMAP off or AC = 1) */
    TLB_ALIGNED,   /* CPL 3 with alignment checks (CR0.AM, AC): no data access is ever entered */
    TLB_CONTEXTS,
    TLB_HIDDEN =
        TLB_CONTEXTS, /* added to a context: its pages that are watched; only mmu.c looks there, and so at the watch */
    TLB_SETS = 2 * TLB_CONTEXTS
};

enum access { ACCESS_READ, ACCESS_WRITE, ACCESS_EXEC };

/* An exception to deliver. */
struct fault {
    uint8_t vector;
    bool has_error_code;
    bool
        waits; /* no exception: the vCPU waits at the instruction for an interrupt (IGNNE_WAIT). The rest is 0 */
    uint32_t error_code;
    uint64_t cr2; /* with VEC_PF */
};

#define TABLE_PAGES_MAX 1024u
#define TABLE_SLOTS     2048u /* a power of two, more than TABLE_PAGES_MAX */

/* What a page table was used for since it was marked. */
enum table_role {
    TABLE_LOWEST, /* level 1, for one linear range */
    TABLE_LOWER,  /* above that, for addresses of the lower half */
    TABLE_ROOT,   /* level 4, in long mode */
    TABLE_ANY     /* several of these, or something else */
};

/* A page table that TLB entries were made from. */
struct table_page {
    uint32_t page;   /* RAM page number */
    uint16_t writes; /* to it, since it was marked */
    bool used;
    uint8_t role; /* enum table_role */
    gva_t base;   /* TABLE_LOWEST: of the linear range */
};

#define LINK_PAGE_WORDS 512u

struct block; /* block.h */
struct block_cache;
struct code_arena; /* code_arena.h */

struct emu {
    struct vcpu_state cpu; /* first: generated code addresses GPRs and vector registers from here */

    uint64_t host_scratch[8]; /* for stubs: saved host MXCSR, ... */
    struct tlb_entry *tlb;    /* tlb of the current context: tlb_sets[context] */
    position_t position;      /* transitions completed */
    position_t limit;         /* of the current run */
    uint64_t next_rip;        /* valid while a handler runs: RIP + length; 32 bits outside 64-bit code */
    struct fault fault;       /* with STEP_FAULT */
    int stop_reason;          /* enum engine_stop, with STEP_EXIT / STEP_STOP */
    atomic_int attention;     /* engine_kick */
    bool block_gone;    /* the code being executed was written: leave the block after this instruction */
    bool boundary_stop; /* the boundary said BOUNDARY_STOP: the run ends after this instruction */
    bool x87_live;      /* the guest's x87 state is in the host's registers, cpu.fpu is stale */
    uint8_t x87_held;   /* exception flags that are not in fsw while x87_hold is in effect */

    struct engine engine;
    struct guest_ram *ram;
    struct boundary *boundary;
    const struct cpu_model *model;
    uint64_t dirty_generation; /* ram->dirty_generation that the TLB's write tags were made under */
    struct tlb_entry tlb_sets[TLB_SETS][TLB_ENTRIES];
    struct block_cache *blocks;
    struct block *last_block; /* the block found last, or NULL */
    /*
     * Grow when a translation of an address that code was executed from is taken back, each for half of the address space: links
     * to code there are void then. link_pages remembers by a hash which pages that are.
     */
    uint64_t link_epoch[2];
    uint64_t link_pages[2][LINK_PAGE_WORDS];
    struct code_arena *arena;
    struct decode_cache *decoded;       /* decode_fast.h */
    struct error error;                 /* message of a run that fails */
    uint8_t *bounce;                    /* 1024 bytes, 64-aligned: operands that cannot be used in place */
    const struct engine_match *match;   /* of the current run, or NULL */
    const struct engine_points *points; /* of a debugger, or NULL (points.c) */
    struct engine_hit hit;
    int hit_stop; /* ENGINE_STOP_WATCH, ENGINE_STOP_CATCH: the run has to end; 0: nothing was hit */
    position_t run_start;
    bool want_window; /* of the current run, as engine_request has it */
    uint8_t window_priority;
    uint64_t steps_stage1; /* made by the run loop from plans */
    bool profiles;         /* emu_start_profile() */
    /* See struct emu_profile. */
    uint64_t insns_decoded, insns_decoded_anew, decode_ns, translate_ns;
    unsigned physical_bits;                /* MAXPHYADDR of the CPU model */
    bool has_local_apic;                   /* as the CPU model has it */
    struct table_page tables[TABLE_SLOTS]; /* hash by page: RAM pages with RAM_PAGE_TABLE (tlb.c) */
    unsigned table_count;
    uint64_t tlb_removals; /* grows whenever something is taken out of the TLB other than for want of room */
    bool tlb_clean[TLB_SETS];                /* nothing entered since the last flush */
    unsigned low_count[TLB_SETS];            /* of low_log; TLB_LOW_LOG: it did not hold all */
    uint16_t low_log[TLB_SETS][TLB_LOW_LOG]; /* entries that got pages of the lower half since */
    struct jit *jit;                         /* stage 2 (jit/jit.h), or NULL */
    bool translates;                         /* stage 2 is there and in use */
    bool low; /* this struct lies in low memory, where translated code can address it */
    uint8_t fpu_image[512] __attribute__((aligned(64)));
};

/* ---- exception.c ---- */

/* Fill in e->fault and return STEP_FAULT. */
enum step raise_exception(struct emu *e, unsigned vector); /* no error code */
enum step raise_exception_code(struct emu *e, unsigned vector, uint32_t code);
enum step raise_page_fault(struct emu *e, gva_t address, uint32_t code);
/*
 * Delivers e->fault through the IDT or IVT, escalating to #DF and shutdown (activity = ACTIVITY_SHUTDOWN). RIP is
 * that of the faulting instruction. Sets RF in the saved flags for fault-class exceptions. Does not count position.
 * Returns 0, or STEP_STOP when the boundary failed (an IDT in MMIO space). fault.waits: activity becomes ACTIVITY_HALTED, no more.
 */
enum step deliver_fault(struct emu *e);
enum event_class {
    EVENT_EXTERNAL,
    EVENT_NMI_CLASS,
    EVENT_SOFTWARE_INT,
    EVENT_INT3_INTO,
    EVENT_INT1,
    EVENT_FAULT
};
/*
 * One delivery attempt (SDM 3, chapter 6). For software interrupts return_rip is after the instruction.
 * STEP_NEXT when delivered; STEP_FAULT with e->fault set and state unchanged when the delivery itself faults.
 */
enum step deliver_event(struct emu *e, unsigned vector, enum event_class event, bool has_error_code,
                        uint32_t error_code, uint64_t return_rip);

/* ---- mmu.c ---- */

void tlb_flush(struct emu *e); /* all contexts, global pages included */
void tlb_flush_page(struct emu *e, gva_t linear);
/* CR3 changed: the lower half, and the upper one too unless both tables say the same of it. */
void tlb_switch_tables(struct emu *e, uint64_t old_cr3);
void tlb_flush_writes(struct emu *e); /* write tags only: after the dirty list was cleared */
void tlb_forbid_write(struct emu *e,
                      uint64_t ram_page); /* write tags of one RAM page: it now holds decoded code */
void tlb_select(struct emu *e);           /* e->tlb after a change of CPL, AC, CR4.SMAP */

/*
 * Translates one linear address for an access, with all permission checks, setting A/D; TLB filled in for RAM. supervisor: an
 * implicit system access (descriptor tables, TSS), done as CPL 0 and with AC ignored. STEP_NEXT or STEP_FAULT.
 */
enum step mmu_translate(struct emu *e, gva_t linear, enum access access, bool supervisor, gpa_t *gpa);

/*
 * Linear memory at the current CPL, any alignment, up to 512 bytes, across a page too: both pages are
 * checked before anything is read or written. MMIO goes through the boundary. STEP_NEXT, STEP_FAULT or STEP_STOP.
 */
enum step mem_read(struct emu *e, gva_t linear, void *out, size_t length);
enum step mem_write(struct emu *e, gva_t linear, const void *data, size_t length);
enum step mem_check_write(struct emu *e, gva_t linear, size_t length); /* as mem_write, writes nothing */
/* The same with supervisor rights. */
enum step mem_read_system(struct emu *e, gva_t linear, void *out, size_t length);
enum step mem_write_system(struct emu *e, gva_t linear, const void *data, size_t length);

/*
 * An operand for host code. data is the operand itself in guest RAM, or a bounce buffer (page-crossing, MMIO, page with
 * decoded code) already filled in when it is read. After the host code ran, mem_unmap writes a bounced
 * operand back. mem_unmap can only end in STEP_NEXT, or STEP_STOP for MMIO; a mapped operand may be abandoned.
 */
struct mem_map {
    void *data;
    gva_t linear;
    size_t length;
    uint8_t access; /* enum plan_mem_access */
    bool bounced;
};
enum step mem_map(struct emu *e, gva_t linear, size_t length, unsigned access, struct mem_map *out);
enum step mem_unmap(struct emu *e, const struct mem_map *map);

/* Fast path of mem_read/mem_write/mem_map for an operand inside one page: the host address, or NULL. */
static inline uint8_t *tlb_host(struct emu *e, gva_t linear, size_t length, unsigned access)
{
    struct tlb_entry *t = &e->tlb[(linear >> PAGE_SHIFT) & (TLB_ENTRIES - 1)];
    uint64_t page = linear & ~PAGE_MASK;
    if (unlikely((linear & PAGE_MASK) + length > PAGE_SIZE_BYTES))
        return NULL;
    if (unlikely((access & PLAN_MEM_WRITE) && t->write != page))
        return NULL;
    if (unlikely((access & PLAN_MEM_READ) && t->read != page))
        return NULL;
    return t->host + (linear & PAGE_MASK);
}

/* Host bytes of the page that holds code at linear (TLB exec access), for the block cache. */
enum step mmu_fetch_page(struct emu *e, gva_t linear, uint64_t *ram_page, const uint8_t **host);

/* ---- segment.c ---- */

/* Effective address (offset) of the plan's memory operand, truncated to the address size. */
uint64_t plan_offset(const struct emu *e, const struct plan *p);
/*
 * seg:offset to linear, with limit, type and canonical checks for length bytes (SDM 3, 5.3 and 5.5): #GP(0), #SS(0).
 * access: ACCESS_*. The linear address is truncated to 32 bits outside 64-bit mode.
 */
enum step segment_linear(struct emu *e, unsigned seg, uint64_t offset, size_t length, enum access access,
                         gva_t *linear);
/* The plan's memory operand: plan_offset and segment_linear in one. */
enum step plan_linear(struct emu *e, const struct plan *p, size_t length, enum access access, gva_t *linear);
/* The plan's memory operand read as m16:16 or m16:32, by its operand size. */
enum step plan_far_pointer(struct emu *e, const struct plan *p, uint64_t *offset, uint16_t *selector);

/* Loads a segment register as MOV/POP/LDS do, with all checks; CS is not allowed here. */
enum step segment_load(struct emu *e, unsigned seg, uint16_t selector);
/* Code size in bytes (2, 4, 8) by CS and EFER; stack width by SS. */
unsigned code_size(const struct emu *e);
unsigned stack_width(const struct emu *e);

/* Stack, at the current stack width; size 2, 4, 8 is what RSP moves by. RSP changes only on STEP_NEXT. */
enum step stack_push(struct emu *e, uint64_t value, unsigned size);
enum step stack_pop(struct emu *e, uint64_t *value, unsigned size);
/* Sets RIP after a near branch: checks limit or canonicality (#GP(0)). Truncates to op_size. STEP_JUMP or STEP_FAULT. */
enum step near_branch(struct emu *e, uint64_t target, unsigned op_size);

/* ---- system.c, msr.c ---- */

/* CR writes with every check and consequence (mode switches, TLB). STEP_NEXT or STEP_FAULT. */
enum step write_cr0(struct emu *e, uint64_t value);
enum step write_cr3(struct emu *e, uint64_t value);
enum step write_cr4(struct emu *e, uint64_t value);
/* RFLAGS as POPF/IRET write it: mask says which bits may change; TLB context (AC) is kept in step. */
void set_rflags(struct emu *e, uint64_t value, uint64_t mask);

/* ---- string.c ---- */

/* count times the low size (1, 2, 4, 8) bytes of value, one after the other. */
void string_fill(uint8_t *to, uint64_t value, uint64_t count, unsigned size);

/* ---- fpu_state.c ---- */

/* Moves the guest's x87 state out of the host's registers into cpu.fpu (nothing if it is there already). */
void x87_sync(struct emu *e);
/* #NM, #UD checks before an x87, MMX, SSE or AVX instruction, by CR0.EM/TS/MP, CR4.OSFXSR/OSXSAVE, XCR0. */
enum fpu_class { FPU_X87, FPU_WAIT, FPU_MMX, FPU_SSE, FPU_AVX };
enum step fpu_check(struct emu *e, enum fpu_class class);

/* ---- points.c: what a debugger wants to be stopped at ---- */

/* An access that was made, or is about to be; noted if it is watched. */
void points_note_access(struct emu *e, gva_t linear, size_t length, bool write);
/* Which accesses (enum engine_access) to some range in this page are watched: these must not go past points_note_access. */
unsigned points_watch_page(const struct emu *e, gva_t page);
/* An instruction that ends a block completed; it may be one to catch. cpl: before it. */
void points_note_instruction(struct emu *e, const struct plan *p, unsigned cpl);
/* An exception was delivered. */
void points_note_exception(struct emu *e, unsigned vector);
/* The instruction at CS:RIP is at a break address. */
bool points_break_here(const struct emu *e);
/* The linear distance from the instruction at CS:RIP to the next break address after it; UINT64_MAX: none. */
uint64_t points_break_distance(const struct emu *e);

/* ---- emu.c ---- */

/* Neither the run's end nor anything else but a break address or a landmark has to be looked at before the next instruction. */
bool run_goes_on(const struct emu *e);

/* ---- block.c ---- */

struct block_cache *block_cache_create(const struct guest_ram *ram); /* NULL without memory */
void block_cache_destroy(struct block_cache *c);
void block_cache_flush(struct emu *e);
/* Called before [offset, offset+length) of RAM (mapping offsets) is written, when its page has RAM_PAGE_CODE. */
void block_invalidate(struct emu *e, uint64_t offset, size_t length);

/* ---- emu.c ---- */

/* The host's clock while it is profiled; otherwise 0. */
uint64_t emu_profile_now_ns(const struct emu *e);

/* ---- links ---- */

/* The half of the address space that an address belongs to: index into link_epoch. */
static inline unsigned link_half(gva_t linear)
{
    return (unsigned)(linear >> 63);
}

static inline uint64_t *link_page_word(struct emu *e, gva_t linear, uint64_t *bit)
{
    uint64_t page = linear >> PAGE_SHIFT, hash = page ^ page >> 15;
    *bit = (uint64_t)1 << (hash & 63);
    return &e->link_pages[link_half(linear)][hash >> 6 & (LINK_PAGE_WORDS - 1)];
}

/* Somebody remembers that code may be fetched from linear, as long as link_epoch stays. */
static inline void link_remember(struct emu *e, gva_t linear)
{
    uint64_t bit, *word = link_page_word(e, linear, &bit);
    *word |= bit;
}

/* Nobody may go on believing it. tlb.c */
void link_forget(struct emu *e, unsigned half);

/* ---- small helpers ---- */

static inline uint64_t truncate_to(uint64_t value, unsigned bytes)
{
    return bytes >= 8 ? value : value & ((1ull << (bytes * 8)) - 1);
}

static inline uint64_t gpr_read(const struct emu *e, unsigned reg, unsigned bytes)
{
    if (reg & PLAN_REG_HIGH)
        return (e->cpu.gpr[reg & 0xf] >> 8) & 0xff;
    return truncate_to(e->cpu.gpr[reg], bytes);
}

/* Writes as hardware does: 4 bytes zero-extend, 1 and 2 bytes leave the rest. */
static inline void gpr_write(struct emu *e, unsigned reg, unsigned bytes, uint64_t value)
{
    uint64_t *r = &e->cpu.gpr[reg & 0xf];
    if (reg & PLAN_REG_HIGH)
        *r = (*r & ~0xff00ull) | ((value & 0xff) << 8);
    else if (bytes == 8)
        *r = value;
    else if (bytes == 4)
        *r = (uint32_t)value;
    else if (bytes == 2)
        *r = (*r & ~0xffffull) | (value & 0xffff);
    else
        *r = (*r & ~0xffull) | (value & 0xff);
}

static inline bool is_canonical(uint64_t address)
{
    return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}

#endif
