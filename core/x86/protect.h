/*
 * What the files that define the machine (mmu, segment, exception, far transfers, system instructions) share
 * among themselves: memory accesses with other rights than the current CPL's, descriptors, stack frames.
 */
#ifndef DEJAVM_CORE_X86_PROTECT_H
#define DEJAVM_CORE_X86_PROTECT_H

#include "core/x86/internal.h"

/*
 * Whose rights an access has (SDM 3, 4.6.1). Implicit: descriptor tables and TSS, supervisor accesses whatever the
 * CPL, to which SMAP applies with AC ignored.
 */
enum rights { RIGHTS_USER, RIGHTS_KERNEL, RIGHTS_IMPLICIT };

static inline enum rights rights_of_cpl(unsigned cpl)
{
    return cpl == 3 ? RIGHTS_USER : RIGHTS_KERNEL;
}

/* ---- mmu_walk.c ---- */

/* The page that a successful walk found. */
struct translation {
    gpa_t page;          /* guest physical address of its 4 KiB */
    bool user, writable; /* U/S and R/W of all levels together */
    bool no_execute;     /* NX of any level */
    bool dirty;          /* the leaf has D set (true without paging) */
    unsigned tables;     /* page-table entries used: their RAM pages */
    gpa_t entry[4];
    unsigned level;      /* of the last entry: 1 for a 4 KiB page */
    unsigned table_bits; /* log2 of the linear range of a table of level 1 */
};

/*
 * Walks the page tables for an access with the given rights, checks permissions, and sets A and D bits when (and only
 * when) the access is allowed (SDM 3, 4.3 to 4.8). STEP_NEXT or STEP_FAULT.
 */
enum step mmu_walk(struct emu *e, gva_t linear, enum access access, enum rights rights,
                   struct translation *out);

/* True when the walk's page may be written / read / executed with these rights. */
bool mmu_permits(const struct emu *e, const struct translation *t, enum access access, enum rights rights);

/* Legacy PAE: the four PDPTEs at cr3 have no reserved bit set (SDM 3, 4.4.1). */
bool mmu_pdptes_valid(const struct emu *e, uint64_t cr3);

/* ---- tlb.c ---- */

enum tlb_context tlb_context_of(const struct emu *e, enum rights rights);
/* Enters what the walk for this access has shown to be allowed. offset: of the page in RAM's mapping. */
void tlb_fill(struct emu *e, gva_t linear, enum access access, enum rights rights,
              const struct translation *t, uint64_t offset);
/* Before data is written at offset of RAM, to a page with RAM_PAGE_TABLE. */
void table_written(struct emu *e, uint64_t offset, const void *data, size_t length);

/* ---- mmu.c ---- */

/* mem_read, mem_write and mem_check_write with the rights given (buffer NULL: check only). */
enum step mem_access(struct emu *e, gva_t linear, void *buffer, size_t length, enum access access,
                     enum rights rights);
/* Stores to RAM that is known to be there, with everything that follows from it. */
void ram_store(struct emu *e, uint64_t offset, const void *data, size_t length);

/* Which accesses (enum engine_access) to some bytes of the page a data breakpoint (DR7) or a debugger watches. */
unsigned watch_in_page(const struct emu *e, gva_t page);

/* ---- segment.c ---- */

/* Checks of a segment that is not (yet) the loaded one; stack: violations are #SS, else #GP, with this error code. */
enum step segment_check(struct emu *e, const struct segment *s, uint64_t offset, size_t length,
                        enum access access, bool stack, uint16_t code);

/* ---- descriptor.c ---- */

struct descriptor {
    uint32_t low, high;
    gva_t linear; /* where it was read */
};

enum {
    DESCRIPTOR_TSS16 = 1,
    DESCRIPTOR_LDT = 2,
    DESCRIPTOR_TSS16_BUSY = 3,
    DESCRIPTOR_CALL16 = 4,
    DESCRIPTOR_TASK_GATE = 5,
    DESCRIPTOR_INT16 = 6,
    DESCRIPTOR_TRAP16 = 7,
    DESCRIPTOR_TSS = 9,
    DESCRIPTOR_TSS_BUSY = 11,
    DESCRIPTOR_CALL = 12,
    DESCRIPTOR_INT = 14,
    DESCRIPTOR_TRAP = 15,
};

/* SEGMENT_TYPE bits of code and data segments (SDM 3, 3.4.5.1). */
enum {
    TYPE_ACCESSED = 1,
    TYPE_WRITABLE = 2 /* data */,
    TYPE_READABLE = 2 /* code */,
    TYPE_EXPAND_DOWN = 4 /* data */,
    TYPE_CONFORMING = 4 /* code */,
    TYPE_CODE = 8,
};

static inline bool selector_is_null(uint16_t selector)
{
    return (selector & 0xfffc) == 0;
}

static inline unsigned selector_rpl(uint16_t selector)
{
    return selector & 3u;
}

static inline unsigned descriptor_dpl(const struct descriptor *d)
{
    return (d->high >> 13) & 3;
}

static inline bool descriptor_present(const struct descriptor *d)
{
    return (d->high & 0x8000) != 0;
}

static inline unsigned descriptor_type(const struct descriptor *d)
{
    return (d->high >> 8) & 0xf;
}

/* Code or data (S = 1). */
static inline bool descriptor_is_segment(const struct descriptor *d)
{
    return (d->high & 0x1000) != 0;
}

static inline bool descriptor_is_code(const struct descriptor *d)
{
    return descriptor_is_segment(d) && (descriptor_type(d) & TYPE_CODE);
}

static inline bool descriptor_is_writable_data(const struct descriptor *d)
{
    return descriptor_is_segment(d) && (descriptor_type(d) & (TYPE_CODE | TYPE_WRITABLE)) == TYPE_WRITABLE;
}

static inline bool descriptor_is_conforming(const struct descriptor *d)
{
    return (descriptor_type(d) & TYPE_CONFORMING) != 0;
}

static inline bool descriptor_is_long_code(const struct descriptor *d)
{
    return (d->high & 0x200000) != 0;
}

static inline bool descriptor_is_big(const struct descriptor *d)
{
    return (d->high & 0x400000) != 0;
}

static inline uint32_t descriptor_base(const struct descriptor *d)
{
    return (d->low >> 16) | ((d->high & 0xff) << 16) | (d->high & 0xff000000);
}

static inline uint32_t descriptor_limit(const struct descriptor *d)
{
    uint32_t limit = (d->low & 0xffff) | (d->high & 0xf0000);
    return d->high & 0x800000 ? (limit << 12) | 0xfff : limit;
}

/*
 * Reads a descriptor. Outside its table, or in a null LDT: vector with the selector as its error code. A null selector
 * must have been dealt with by the caller.
 */
enum step descriptor_read(struct emu *e, uint16_t selector, unsigned vector, struct descriptor *out);
/* The same without an exception for a bad selector: *found says whether there is one. */
enum step descriptor_probe(struct emu *e, uint16_t selector, struct descriptor *out, bool *found);
/* The second half of a 16-byte descriptor; its dwords 2 and 3. #GP(selector) where the table ends before it. */
enum step descriptor_read_upper(struct emu *e, uint16_t selector, const struct descriptor *d,
                                uint32_t out[2]);
/* Sets the accessed bit in memory and in *d, where it is not yet. */
enum step descriptor_set_accessed(struct emu *e, struct descriptor *d);
/* The segment register's content. */
struct segment segment_of(const struct descriptor *d, uint16_t selector);
/* An unusable segment: selector kept, P clear, DPL kept for SS. */
struct segment segment_null(uint16_t selector, unsigned dpl);

static inline uint32_t selector_error(uint16_t selector)
{
    return selector & 0xfffcu;
}

/* ---- frame.c ---- */

/* A stack under construction: what an event or a far call pushes, written only when all of it can be. */
struct frame {
    struct segment ss;
    uint64_t sp;      /* before the pushes */
    uint64_t sp_mask; /* 0xffff, 0xffffffff or all ones */
    enum rights rights;
    uint16_t ss_error; /* error code of #SS */
    bool long_mode;    /* no segmentation: canonical checks only */
    unsigned width;    /* bytes of a value */
    unsigned count;
    uint64_t value[40]; /* in the order of the pushes */
};

static inline void frame_push(struct frame *f, uint64_t value)
{
    f->value[f->count++] = value;
}

/* Checks that all values can be written: #SS or #PF. Writes nothing. */
enum step frame_check(struct emu *e, const struct frame *f);
/* Writes them after frame_check. STEP_NEXT, or STEP_STOP for a stack in MMIO space. */
enum step frame_write(struct emu *e, const struct frame *f);
/* SP after the pushes, merged into rsp as the stack's width has it. */
uint64_t frame_sp(const struct frame *f, uint64_t rsp);

/*
 * Stack pointer of an inner privilege level from the TSS (SDM 3, 7.2.1): #TS. Long mode: *ss is the null selector
 * with RPL = dpl; ist 1..7 takes that entry instead.
 */
enum step tss_stack(struct emu *e, unsigned dpl, unsigned ist, uint16_t *ss, uint64_t *sp);
/* Checks and reads the descriptor of a stack segment for privilege level cpl: vector (#TS or #GP), #SS where not present. */
enum step stack_descriptor(struct emu *e, uint16_t selector, unsigned cpl, unsigned vector,
                           struct descriptor *out);

/* ---- far_return.c, kernel_entry.c: handlers (far_handlers) ---- */

enum step op_ret_far(struct emu *e, const struct plan *p);
enum step op_iret(struct emu *e, const struct plan *p);
enum step op_int(struct emu *e, const struct plan *p);
enum step op_int3(struct emu *e, const struct plan *p);
enum step op_int1(struct emu *e, const struct plan *p);
enum step op_into(struct emu *e, const struct plan *p);
enum step op_syscall(struct emu *e, const struct plan *p);
enum step op_sysret(struct emu *e, const struct plan *p);
enum step op_sysenter(struct emu *e, const struct plan *p);
enum step op_sysexit(struct emu *e, const struct plan *p);

/* ---- far.c ---- */

/*
 * A code segment descriptor as the target of a direct far JMP or CALL, or of a RET or IRET to privilege level cpl
 * (is_return: the rules for returns). The selector must not be null. #GP(selector), #NP(selector).
 */
enum step code_descriptor(struct emu *e, uint16_t selector, bool is_return, struct descriptor *out);
/* The offset lies in the code segment, or is canonical where that is 64-bit code: #GP(0). */
enum step code_offset_check(struct emu *e, const struct descriptor *d, uint64_t offset);

/* ---- task.c ---- */

enum task_cause { TASK_JUMP, TASK_CALL, TASK_RETURN /* IRET with NT */, TASK_EVENT };

/*
 * Switches to the task of a TSS selector (SDM 3, 8.3), outside long mode; privilege was checked. rip and flags: what the
 * outgoing task goes on with. STEP_JUMP; or STEP_FAULT, before the switch with the state unchanged, or after it with the
 * fault being the incoming task's: RIP is its own then.
 */
enum step task_switch(struct emu *e, uint16_t selector, enum task_cause cause, uint64_t rip, uint64_t flags);
/* A segment register as virtual-8086 mode has it (SDM 3, 21.2.1). */
void v86_load_segment(struct emu *e, unsigned seg, uint16_t selector);

/* ---- control_registers.c, state_check.c ---- */

#define CR0_KNOWN                                                                                            \
    (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)
#define DR6_WRITABLE ((uint64_t)0xe00f)
#define DR7_WRITABLE ((uint64_t)0xffff23ff)

/* The bits of CR4 that mean something to the emulator, in whatever CPU model. */
uint64_t cr4_implemented(void);
/* Why no vCPU of the engine's model can be in this state, or NULL. */
const char *state_impossible(const struct emu *e, const struct vcpu_state *s);

/* ---- msr.c ---- */

bool pat_is_valid(uint64_t value);
bool apic_base_is_valid(const struct emu *e, uint64_t value);
enum step read_msr(struct emu *e, uint32_t index, uint64_t *value);
enum step write_msr(struct emu *e, uint32_t index, uint64_t value);
/* Handlers (system_handlers). */
enum step op_rdmsr(struct emu *e, const struct plan *p);
enum step op_wrmsr(struct emu *e, const struct plan *p);

/* True for protected mode without VM86. */
static inline bool protected_mode(const struct emu *e)
{
    return (e->cpu.cr0 & CR0_PE) && !(e->cpu.rflags & RFLAGS_VM);
}

#endif
