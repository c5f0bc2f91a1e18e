/*
 * MOVS, STOS, LODS, CMPS, SCAS, INS, OUTS (SDM 2; SDM 1, 7.3.9).
 *
 * Every iteration of a REP is a transition of its own. A call of the handler makes as many iterations as it may: up to the
 * run's limit, up to the iteration that a landmark is looked for at, one at a break address, and at most
 * REP_MAX_ITERATIONS so that a kick is seen. It counts all but the last, which the run loop counts as it does any
 * instruction. Iterations whose operands lie in pages that the TLB gives plain access to are done in bulk, with the
 * result that doing them one by one has; all others are done one by one.
 */
#include "core/x86/io.h"

#include <string.h>

#define REP_MAX_ITERATIONS 8192u

/* plan.flags */
enum { USES_SOURCE = 1, USES_DESTINATION = 2, COMPARES = 4 };

/* Flags of a - b, as CMP sets them. */
static uint64_t compare_flags(uint64_t flags, uint64_t a, uint64_t b, unsigned size)
{
    uint64_t result = truncate_to(a - b, size), sign = 1ull << (size * 8 - 1);
    uint64_t f = 0;
    if (a < b)
        f |= RFLAGS_CF;
    if (!(__builtin_popcount((unsigned)(result & 0xff)) & 1))
        f |= RFLAGS_PF;
    if ((a ^ b ^ result) & 0x10)
        f |= RFLAGS_AF;
    if (!result)
        f |= RFLAGS_ZF;
    if (result & sign)
        f |= RFLAGS_SF;
    if ((a ^ b) & (a ^ result) & sign)
        f |= RFLAGS_OF;
    return (flags & ~RFLAGS_STATUS) | f;
}

static inline uint64_t load(const uint8_t *from, unsigned size)
{
    uint64_t value = 0;
    memcpy(&value, from, size);
    return value;
}

static inline uint64_t index_of(const struct emu *e, const struct plan *p, unsigned gpr)
{
    return truncate_to(e->cpu.gpr[gpr], p->addr_size);
}

/* Moves RSI and RDI (those that the instruction uses) by count elements. */
static void advance(struct emu *e, const struct plan *p, uint64_t count)
{
    uint64_t bytes = count * p->op_size;
    if (e->cpu.rflags & RFLAGS_DF)
        bytes = 0 - bytes;
    if (p->flags & USES_SOURCE)
        gpr_write(e, GPR_RSI, p->addr_size, truncate_to(e->cpu.gpr[GPR_RSI] + bytes, p->addr_size));
    if (p->flags & USES_DESTINATION)
        gpr_write(e, GPR_RDI, p->addr_size, truncate_to(e->cpu.gpr[GPR_RDI] + bytes, p->addr_size));
}

/* ---- one iteration ---- */

static enum step source_linear(struct emu *e, const struct plan *p, gva_t *linear)
{
    return segment_linear(e, p->seg, index_of(e, p, GPR_RSI), p->op_size, ACCESS_READ, linear);
}

static enum step destination_linear(struct emu *e, const struct plan *p, enum access access, gva_t *linear)
{
    return segment_linear(e, SEG_ES, index_of(e, p, GPR_RDI), p->op_size, access, linear);
}

static enum step read_source(struct emu *e, const struct plan *p, uint64_t *value)
{
    gva_t linear;
    *value = 0;
    enum step step = source_linear(e, p, &linear);
    return step == STEP_NEXT ? mem_read(e, linear, value, p->op_size) : step;
}

static enum step read_destination(struct emu *e, const struct plan *p, uint64_t *value)
{
    gva_t linear;
    *value = 0;
    enum step step = destination_linear(e, p, ACCESS_READ, &linear);
    return step == STEP_NEXT ? mem_read(e, linear, value, p->op_size) : step;
}

static enum step write_destination(struct emu *e, const struct plan *p, uint64_t value)
{
    gva_t linear;
    enum step step = destination_linear(e, p, ACCESS_WRITE, &linear);
    return step == STEP_NEXT ? mem_write(e, linear, &value, p->op_size) : step;
}

static enum step one_movs(struct emu *e, const struct plan *p)
{
    uint64_t value;
    enum step step = read_source(e, p, &value);
    return step == STEP_NEXT ? write_destination(e, p, value) : step;
}

static enum step one_stos(struct emu *e, const struct plan *p)
{
    return write_destination(e, p, gpr_read(e, GPR_RAX, p->op_size));
}

static enum step one_lods(struct emu *e, const struct plan *p)
{
    uint64_t value;
    enum step step = read_source(e, p, &value);
    if (step == STEP_NEXT)
        gpr_write(e, GPR_RAX, p->op_size, value);
    return step;
}

static enum step one_cmps(struct emu *e, const struct plan *p)
{
    uint64_t a, b;
    /* The order decides which of two faults is raised; this is AMD's, where REPE CMPSB is apart from the others. */
    bool source_first = p->rep == PLAN_REP && p->op_size == 1;
    enum step step = source_first ? read_source(e, p, &a) : read_destination(e, p, &b);
    if (step == STEP_NEXT)
        step = source_first ? read_destination(e, p, &b) : read_source(e, p, &a);
    if (step == STEP_NEXT)
        e->cpu.rflags = compare_flags(e->cpu.rflags, a, b, p->op_size);
    return step;
}

static enum step one_scas(struct emu *e, const struct plan *p)
{
    uint64_t b;
    enum step step = read_destination(e, p, &b);
    if (step == STEP_NEXT)
        e->cpu.rflags = compare_flags(e->cpu.rflags, gpr_read(e, GPR_RAX, p->op_size), b, p->op_size);
    return step;
}

/* The destination is checked before the port is read: a read has effects outside that a restart would repeat. */
static enum step one_ins(struct emu *e, const struct plan *p)
{
    uint16_t port = (uint16_t)e->cpu.gpr[GPR_RDX];
    gva_t linear;
    uint32_t value;
    enum step step = io_permitted(e, port, p->op_size);
    if (step == STEP_NEXT)
        step = destination_linear(e, p, ACCESS_WRITE, &linear);
    if (step == STEP_NEXT)
        step = mem_check_write(e, linear, p->op_size);
    if (step == STEP_NEXT)
        step = io_read(e, port, p->op_size, &value);
    return step == STEP_NEXT ? mem_write(e, linear, &value, p->op_size) : step;
}

static enum step one_outs(struct emu *e, const struct plan *p)
{
    uint16_t port = (uint16_t)e->cpu.gpr[GPR_RDX];
    uint64_t value;
    enum step step = io_permitted(e, port, p->op_size);
    if (step == STEP_NEXT)
        step = read_source(e, p, &value);
    return step == STEP_NEXT ? io_write(e, port, p->op_size, (uint32_t)value) : step;
}

static enum step one_iteration(struct emu *e, const struct plan *p)
{
    enum step step;
    switch (p->extra) {
    case ZYDIS_MNEMONIC_MOVSB:
        step = one_movs(e, p);
        break;
    case ZYDIS_MNEMONIC_STOSB:
        step = one_stos(e, p);
        break;
    case ZYDIS_MNEMONIC_LODSB:
        step = one_lods(e, p);
        break;
    case ZYDIS_MNEMONIC_CMPSB:
        step = one_cmps(e, p);
        break;
    case ZYDIS_MNEMONIC_SCASB:
        step = one_scas(e, p);
        break;
    case ZYDIS_MNEMONIC_INSB:
        step = one_ins(e, p);
        break;
    default:
        step = one_outs(e, p);
        break;
    }
    if (step == STEP_NEXT)
        advance(e, p, 1);
    return step;
}

/* ---- many iterations ---- */

/* One operand of a bulk run: its elements are host[0 .. count*size), walked upwards or downwards. */
struct run {
    uint8_t *first; /* the element of the first iteration */
    uint8_t *low;   /* the lowest byte of all */
};

/* How many of count elements at linear lie in its page, walking in the direction of DF. */
static uint64_t elements_in_page(gva_t linear, unsigned size, bool down, uint64_t count)
{
    uint64_t in_page = linear & PAGE_MASK;
    if (in_page + size > PAGE_SIZE_BYTES)
        return 0;
    uint64_t fit = down ? in_page / size + 1 : (PAGE_SIZE_BYTES - in_page) / size;
    return fit < count ? fit : count;
}

/*
 * Linear address of the index register, and *count cut to what lies in its page and does not wrap. Zero when the elements
 * are not all inside the segment; that iteration is then made, and faults, on its own. Never leaves a fault.
 */
static gva_t run_linear(struct emu *e, const struct plan *p, unsigned seg, unsigned gpr, enum access access,
                        uint64_t *count)
{
    bool down = e->cpu.rflags & RFLAGS_DF;
    uint64_t offset = index_of(e, p, gpr), size = p->op_size;
    gva_t first, last;
    if (segment_linear(e, seg, offset, size, access, &first) != STEP_NEXT) {
        *count = 0;
        return 0;
    }
    *count = elements_in_page(first, p->op_size, down, *count);
    if (*count < 2)
        return first;
    uint64_t bytes = (*count - 1) * size;
    uint64_t end = truncate_to(down ? offset - bytes : offset + bytes, p->addr_size);
    bool wraps = down ? end > offset : end < offset;
    if (wraps || segment_linear(e, seg, end, size, access, &last) != STEP_NEXT ||
        last != (down ? first - bytes : first + bytes))
        *count = 0;
    return first;
}

/*
 * The operand's page may not be in the TLB, or have been displaced by the other operand's: it is walked then, as the
 * next iteration would. What stays out of the TLB (MMIO, decoded code, page tables) is not for bulk.
 */
static bool run_host(struct emu *e, const struct plan *p, gva_t linear, enum access access, uint64_t count,
                     struct run *run)
{
    bool down = e->cpu.rflags & RFLAGS_DF;
    unsigned mem = access == ACCESS_WRITE ? PLAN_MEM_WRITE : PLAN_MEM_READ;
    gpa_t gpa;
    run->first = tlb_host(e, linear, p->op_size, mem);
    if (!run->first && mmu_translate(e, linear, access, false, &gpa) == STEP_NEXT)
        run->first = tlb_host(e, linear, p->op_size, mem);
    run->low = down && run->first ? run->first - (count - 1) * p->op_size : run->first;
    return run->first != NULL;
}

static void bulk_movs(const struct run *source, const struct run *destination, uint64_t count, unsigned size,
                      bool down)
{
    size_t bytes = count * size;
    bool apart = destination->low + bytes <= source->low || source->low + bytes <= destination->low;
    /* Overlapping, but each source byte is read before it is written: as memmove does. */
    bool ahead = down ? destination->low >= source->low : destination->low <= source->low;
    if (apart || ahead) {
        memmove(destination->low, source->low, bytes);
        return;
    }
    ptrdiff_t stride = down ? -(ptrdiff_t)size : (ptrdiff_t)size;
    uint8_t *to = destination->first;
    const uint8_t *from = source->first;
    for (uint64_t i = 0; i < count; i++, to += stride, from += stride) {
        uint64_t value = load(from, size);
        memcpy(to, &value, size);
    }
}

/* memset and memcpy are as fast as memory, each in the way that suits the host; storing element by element is not. */
void string_fill(uint8_t *to, uint64_t value, uint64_t count, unsigned size)
{
    uint64_t bytes = count * size, byte = value & 0xff;
    if (truncate_to(value, size) == truncate_to(byte * 0x0101010101010101u, size)) {
        memset(to, (int)byte, bytes);
        return;
    }
    uint64_t done = size;
    memcpy(to, &value, size);
    while (done < bytes) {
        uint64_t part = done < bytes - done ? done : bytes - done;
        memcpy(to + done, to, part);
        done += part;
    }
}

/* CMPS and SCAS (source NULL: against a): how many iterations it took until the REP condition ended them, or count. */
static uint64_t bulk_compare(struct emu *e, const struct plan *p, const struct run *source, uint64_t a,
                             const struct run *destination, uint64_t count)
{
    ptrdiff_t stride = e->cpu.rflags & RFLAGS_DF ? -(ptrdiff_t)p->op_size : (ptrdiff_t)p->op_size;
    const uint8_t *to = destination->first, *from = source ? source->first : NULL;
    bool until_equal = p->rep == PLAN_REPNE;
    uint64_t b = 0, done = 0;
    while (done < count) {
        if (from)
            a = load(from, p->op_size);
        b = load(to, p->op_size);
        done++;
        if ((a == b) == until_equal)
            break;
        to += stride;
        from = from ? from + stride : NULL;
    }
    e->cpu.rflags = compare_flags(e->cpu.rflags, a, b, p->op_size);
    return done;
}

/* Makes up to count iterations at once; returns how many, 0 when the next one is not a simple one. */
static uint64_t bulk(struct emu *e, const struct plan *p, uint64_t count)
{
    bool down = e->cpu.rflags & RFLAGS_DF;
    enum access access = p->flags & COMPARES ? ACCESS_READ : ACCESS_WRITE; /* of the destination */
    if (count < 2 || p->extra == ZYDIS_MNEMONIC_INSB || p->extra == ZYDIS_MNEMONIC_OUTSB)
        return 0;
    struct run source = {0}, destination = {0};
    gva_t from = 0, to = 0;
    if (p->flags & USES_SOURCE)
        from = run_linear(e, p, p->seg, GPR_RSI, ACCESS_READ, &count);
    if (count && (p->flags & USES_DESTINATION))
        to = run_linear(e, p, SEG_ES, GPR_RDI, access, &count);
    if (!count)
        return 0;
    if ((p->flags & USES_SOURCE) && !run_host(e, p, from, ACCESS_READ, count, &source))
        return 0;
    if ((p->flags & USES_DESTINATION) && !run_host(e, p, to, access, count, &destination))
        return 0;

    switch (p->extra) {
    case ZYDIS_MNEMONIC_MOVSB:
        bulk_movs(&source, &destination, count, p->op_size, down);
        break;
    case ZYDIS_MNEMONIC_STOSB:
        string_fill(destination.low, gpr_read(e, GPR_RAX, p->op_size), count, p->op_size);
        break;
    case ZYDIS_MNEMONIC_LODSB:
        gpr_write(e, GPR_RAX, p->op_size,
                  load(down ? source.low : source.first + (count - 1) * p->op_size, p->op_size));
        break;
    case ZYDIS_MNEMONIC_CMPSB:
        count = bulk_compare(e, p, &source, 0, &destination, count);
        break;
    default:
        count = bulk_compare(e, p, NULL, gpr_read(e, GPR_RAX, p->op_size), &destination, count);
        break;
    }
    advance(e, p, count);
    return count;
}

/* ---- REP ---- */

/* How many iterations this call may make, at least 1. */
static uint64_t iteration_budget(const struct emu *e, uint64_t rcx)
{
    uint64_t budget = rcx < REP_MAX_ITERATIONS ? rcx : REP_MAX_ITERATIONS;
    if (e->limit - e->position < budget)
        budget = e->limit - e->position;
    if (e->match && e->match->rip == e->cpu.rip && rcx > e->match->gpr[GPR_RCX] &&
        rcx - e->match->gpr[GPR_RCX] < budget)
        budget = rcx - e->match->gpr[GPR_RCX];
    return points_break_here(e) ? 1 : budget;
}

/* REPE and REPNE end when ZF is not as they ask. */
static bool condition_ends(const struct emu *e, const struct plan *p)
{
    if (!(p->flags & COMPARES))
        return false;
    bool zero = e->cpu.rflags & RFLAGS_ZF;
    return p->rep == PLAN_REPNE ? zero : !zero;
}

/* Nothing happens, but the right to use the port is asked for. */
static enum step rep_of_zero(struct emu *e, const struct plan *p)
{
    enum step step = STEP_NEXT;
    if (p->extra == ZYDIS_MNEMONIC_INSB || p->extra == ZYDIS_MNEMONIC_OUTSB)
        step = io_permitted(e, (uint16_t)e->cpu.gpr[GPR_RDX], p->op_size);
    return step == STEP_NEXT ? STEP_LEAVE : step;
}

static enum step do_rep(struct emu *e, const struct plan *p)
{
    uint64_t rcx = index_of(e, p, GPR_RCX);
    if (rcx == 0)
        return rep_of_zero(e, p);
    uint64_t left = iteration_budget(e, rcx);
    for (;;) {
        uint64_t done = bulk(e, p, left);
        if (!done) {
            enum step step = one_iteration(e, p);
            if (step != STEP_NEXT)
                return step;
            done = 1;
        }
        rcx -= done;
        left -= done;
        gpr_write(e, GPR_RCX, p->addr_size, rcx);
        e->position += done;
        bool finished = rcx == 0 || condition_ends(e, p);
        if (finished || !left || e->block_gone || e->boundary_stop) {
            e->position--;
            return finished ? STEP_LEAVE : STEP_AGAIN;
        }
    }
}

static enum step do_once(struct emu *e, const struct plan *p)
{
    return one_iteration(e, p);
}

/* ---- the table ---- */

struct form {
    ZydisMnemonic base; /* the byte form: what the instruction does */
    unsigned size;
    unsigned flags;
};

static struct form form_of(ZydisMnemonic mnemonic)
{
    const unsigned move = USES_SOURCE | USES_DESTINATION;
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_MOVSB:
        return (struct form){ZYDIS_MNEMONIC_MOVSB, 1, move};
    case ZYDIS_MNEMONIC_MOVSW:
        return (struct form){ZYDIS_MNEMONIC_MOVSB, 2, move};
    case ZYDIS_MNEMONIC_MOVSD:
        return (struct form){ZYDIS_MNEMONIC_MOVSB, 4, move};
    case ZYDIS_MNEMONIC_MOVSQ:
        return (struct form){ZYDIS_MNEMONIC_MOVSB, 8, move};
    case ZYDIS_MNEMONIC_STOSB:
        return (struct form){ZYDIS_MNEMONIC_STOSB, 1, USES_DESTINATION};
    case ZYDIS_MNEMONIC_STOSW:
        return (struct form){ZYDIS_MNEMONIC_STOSB, 2, USES_DESTINATION};
    case ZYDIS_MNEMONIC_STOSD:
        return (struct form){ZYDIS_MNEMONIC_STOSB, 4, USES_DESTINATION};
    case ZYDIS_MNEMONIC_STOSQ:
        return (struct form){ZYDIS_MNEMONIC_STOSB, 8, USES_DESTINATION};
    case ZYDIS_MNEMONIC_LODSB:
        return (struct form){ZYDIS_MNEMONIC_LODSB, 1, USES_SOURCE};
    case ZYDIS_MNEMONIC_LODSW:
        return (struct form){ZYDIS_MNEMONIC_LODSB, 2, USES_SOURCE};
    case ZYDIS_MNEMONIC_LODSD:
        return (struct form){ZYDIS_MNEMONIC_LODSB, 4, USES_SOURCE};
    case ZYDIS_MNEMONIC_LODSQ:
        return (struct form){ZYDIS_MNEMONIC_LODSB, 8, USES_SOURCE};
    case ZYDIS_MNEMONIC_CMPSB:
        return (struct form){ZYDIS_MNEMONIC_CMPSB, 1, move | COMPARES};
    case ZYDIS_MNEMONIC_CMPSW:
        return (struct form){ZYDIS_MNEMONIC_CMPSB, 2, move | COMPARES};
    case ZYDIS_MNEMONIC_CMPSD:
        return (struct form){ZYDIS_MNEMONIC_CMPSB, 4, move | COMPARES};
    case ZYDIS_MNEMONIC_CMPSQ:
        return (struct form){ZYDIS_MNEMONIC_CMPSB, 8, move | COMPARES};
    case ZYDIS_MNEMONIC_SCASB:
        return (struct form){ZYDIS_MNEMONIC_SCASB, 1, USES_DESTINATION | COMPARES};
    case ZYDIS_MNEMONIC_SCASW:
        return (struct form){ZYDIS_MNEMONIC_SCASB, 2, USES_DESTINATION | COMPARES};
    case ZYDIS_MNEMONIC_SCASD:
        return (struct form){ZYDIS_MNEMONIC_SCASB, 4, USES_DESTINATION | COMPARES};
    case ZYDIS_MNEMONIC_SCASQ:
        return (struct form){ZYDIS_MNEMONIC_SCASB, 8, USES_DESTINATION | COMPARES};
    case ZYDIS_MNEMONIC_INSB:
        return (struct form){ZYDIS_MNEMONIC_INSB, 1, USES_DESTINATION};
    case ZYDIS_MNEMONIC_INSW:
        return (struct form){ZYDIS_MNEMONIC_INSB, 2, USES_DESTINATION};
    case ZYDIS_MNEMONIC_INSD:
        return (struct form){ZYDIS_MNEMONIC_INSB, 4, USES_DESTINATION};
    case ZYDIS_MNEMONIC_OUTSB:
        return (struct form){ZYDIS_MNEMONIC_OUTSB, 1, USES_SOURCE};
    case ZYDIS_MNEMONIC_OUTSW:
        return (struct form){ZYDIS_MNEMONIC_OUTSB, 2, USES_SOURCE};
    default:
        return (struct form){ZYDIS_MNEMONIC_OUTSB, 4, USES_SOURCE};
    }
}

/* F2 and F3 repeat all of these alike; only CMPS and SCAS look at which it is. */
static uint8_t rep_of(const ZydisDecodedInstruction *insn)
{
    if (insn->attributes & ZYDIS_ATTRIB_HAS_REPNE)
        return PLAN_REPNE;
    return insn->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE) ? PLAN_REP : PLAN_REP_NONE;
}

static bool setup(struct plan *p, const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands)
{
    struct form form = form_of(insn->mnemonic);
    p->op_size = (uint8_t)form.size;
    p->flags = (uint8_t)form.flags;
    p->extra = form.base;
    p->rep = rep_of(insn);
    p->seg = SEG_DS;
    for (unsigned i = 0; i < insn->operand_count; i++) {
        const ZydisDecodedOperand *o = &operands[i];
        if (o->type != ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
        bool source = o->mem.base == ZYDIS_REGISTER_RSI || o->mem.base == ZYDIS_REGISTER_ESI ||
                      o->mem.base == ZYDIS_REGISTER_SI;
        if (source)
            p->seg = plan_segment(o->mem.segment);
    }
    p->fn = p->rep == PLAN_REP_NONE ? do_once : do_rep;
    return true;
}

static const struct plan_handler handlers[] = {
    {ZYDIS_MNEMONIC_MOVSB, do_once, setup}, {ZYDIS_MNEMONIC_MOVSW, do_once, setup},
    {ZYDIS_MNEMONIC_MOVSD, do_once, setup}, {ZYDIS_MNEMONIC_MOVSQ, do_once, setup},
    {ZYDIS_MNEMONIC_STOSB, do_once, setup}, {ZYDIS_MNEMONIC_STOSW, do_once, setup},
    {ZYDIS_MNEMONIC_STOSD, do_once, setup}, {ZYDIS_MNEMONIC_STOSQ, do_once, setup},
    {ZYDIS_MNEMONIC_LODSB, do_once, setup}, {ZYDIS_MNEMONIC_LODSW, do_once, setup},
    {ZYDIS_MNEMONIC_LODSD, do_once, setup}, {ZYDIS_MNEMONIC_LODSQ, do_once, setup},
    {ZYDIS_MNEMONIC_CMPSB, do_once, setup}, {ZYDIS_MNEMONIC_CMPSW, do_once, setup},
    {ZYDIS_MNEMONIC_CMPSD, do_once, setup}, {ZYDIS_MNEMONIC_CMPSQ, do_once, setup},
    {ZYDIS_MNEMONIC_SCASB, do_once, setup}, {ZYDIS_MNEMONIC_SCASW, do_once, setup},
    {ZYDIS_MNEMONIC_SCASD, do_once, setup}, {ZYDIS_MNEMONIC_SCASQ, do_once, setup},
    {ZYDIS_MNEMONIC_INSB, do_once, setup},  {ZYDIS_MNEMONIC_INSW, do_once, setup},
    {ZYDIS_MNEMONIC_INSD, do_once, setup},  {ZYDIS_MNEMONIC_OUTSB, do_once, setup},
    {ZYDIS_MNEMONIC_OUTSW, do_once, setup}, {ZYDIS_MNEMONIC_OUTSD, do_once, setup},
};

const struct plan_handlers string_handlers = {.list = handlers, .count = ARRAY_LEN(handlers)};
