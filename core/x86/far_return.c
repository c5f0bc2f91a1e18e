/* Far RET and IRET in all their forms (SDM 2, RET and IRET). */
#include "core/x86/protect.h"

/* What a return takes from the stack, and where it goes. */
struct far_return {
    uint64_t rip, rflags, rsp;
    uint16_t cs, ss;
    bool has_stack;   /* SS:RSP came from the stack */
    uint64_t sp_left; /* the current stack pointer after all pops, for a return without SS:RSP */
    unsigned release; /* RET n: bytes of parameters */
};

/* Reads values of the stack without moving RSP. */
struct stack_reader {
    uint64_t sp;
    unsigned width; /* of the stack pointer */
    unsigned size;  /* of a value */
};

static struct stack_reader reader_here(const struct emu *e, unsigned size)
{
    unsigned width = stack_width(e);
    return (struct stack_reader){.sp = truncate_to(e->cpu.gpr[GPR_RSP], width), .width = width, .size = size};
}

static enum step stack_next(struct emu *e, struct stack_reader *r, uint64_t *value)
{
    gva_t linear;
    *value = 0;
    enum step step = segment_linear(e, SEG_SS, r->sp, r->size, ACCESS_READ, &linear);
    if (step == STEP_NEXT)
        step = mem_read(e, linear, value, r->size);
    r->sp = truncate_to(r->sp + r->size, r->width);
    return step;
}

static enum step stack_next_selector(struct emu *e, struct stack_reader *r, uint16_t *selector)
{
    uint64_t value;
    enum step step = stack_next(e, r, &value);
    *selector = (uint16_t)value;
    return step;
}

/* ES, DS, FS, GS after a return to an outer level: null where the new CPL may not use them. */
static void null_inner_segments(struct emu *e, unsigned cpl)
{
    static const uint8_t list[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    for (unsigned i = 0; i < ARRAY_LEN(list); i++) {
        struct segment *s = &e->cpu.seg[list[i]];
        bool conforming = (s->rights & (TYPE_CODE | TYPE_CONFORMING)) == (TYPE_CODE | TYPE_CONFORMING);
        unsigned dpl = (unsigned)(s->rights & SEGMENT_DPL) >> SEGMENT_DPL_SHIFT;
        if ((s->rights & SEGMENT_P) && !conforming && dpl < cpl)
            *s = segment_null(0, 0);
    }
}

/* The stack segment that the return loads; a null one is allowed in 64-bit code below CPL 3. */
static enum step return_stack(struct emu *e, const struct far_return *r, const struct descriptor *cs,
                              struct descriptor *ss, struct segment *out)
{
    unsigned cpl = selector_rpl(r->cs);
    if (selector_is_null(r->ss)) {
        bool allowed = vcpu_in_long_mode(&e->cpu) && descriptor_is_long_code(cs) && cpl != 3 &&
                       selector_rpl(r->ss) == cpl;
        *out = segment_null(r->ss, cpl);
        return allowed ? STEP_NEXT : raise_exception_code(e, VEC_GP, 0);
    }
    enum step step = stack_descriptor(e, r->ss, cpl, VEC_GP, ss);
    if (step == STEP_NEXT)
        step = descriptor_set_accessed(e, ss);
    if (step == STEP_NEXT)
        *out = segment_of(ss, r->ss);
    return step;
}

/* Goes there: all checks, then the state. Outer: CPL rises, and data segments of the inner level are dropped. */
static enum step return_to(struct emu *e, const struct far_return *r, const struct descriptor *cs_read)
{
    struct vcpu_state *s = &e->cpu;
    struct descriptor cs = *cs_read, ss = {0};
    struct segment stack = s->seg[SEG_SS];
    unsigned cpl = selector_rpl(r->cs);
    bool outer = cpl > vcpu_cpl(s);

    enum step step = r->has_stack ? return_stack(e, r, &cs, &ss, &stack) : STEP_NEXT;
    if (step == STEP_NEXT)
        step = code_offset_check(e, &cs, r->rip);
    if (step == STEP_NEXT)
        step = descriptor_set_accessed(e, &cs);
    if (step != STEP_NEXT)
        return step;

    unsigned old_width = stack_width(e);
    s->seg[SEG_CS] = segment_of(&cs, r->cs);
    s->seg[SEG_SS] = stack;
    s->rip = r->rip;
    if (r->has_stack) {
        /* A 16-bit stack takes SP only: the upper bits keep the inner level's value. */
        unsigned width = stack_width(e);
        gpr_write(e, GPR_RSP, width, truncate_to(r->rsp + r->release, width));
    } else {
        gpr_write(e, GPR_RSP, old_width, truncate_to(r->sp_left + r->release, old_width));
    }
    if (outer)
        null_inner_segments(e, cpl);
    tlb_select(e);
    return STEP_JUMP;
}

static enum step check_return_cs(struct emu *e, uint16_t selector, struct descriptor *cs)
{
    if (selector_is_null(selector))
        return raise_exception_code(e, VEC_GP, 0);
    if (selector_rpl(selector) < vcpu_cpl(&e->cpu))
        return raise_exception_code(e, VEC_GP, selector_error(selector));
    return code_descriptor(e, selector, true, cs);
}

/* Real mode: CS:IP only. */
static enum step return_real(struct emu *e, uint16_t selector, uint64_t rip)
{
    if (rip > e->cpu.seg[SEG_CS].limit)
        return raise_exception_code(e, VEC_GP, 0);
    e->cpu.seg[SEG_CS].selector = selector;
    e->cpu.seg[SEG_CS].base = (uint32_t)selector << 4;
    e->cpu.rip = rip;
    return STEP_JUMP;
}

enum step op_ret_far(struct emu *e, const struct plan *p)
{
    struct stack_reader reader = reader_here(e, p->op_size);
    struct far_return r = {.release = p->imm & 0xffff};
    struct descriptor cs = {0};
    enum step step = stack_next(e, &reader, &r.rip);
    if (step == STEP_NEXT)
        step = stack_next_selector(e, &reader, &r.cs);
    if (step != STEP_NEXT)
        return step;
    r.sp_left = reader.sp;
    if (!protected_mode(e)) {
        step = return_real(e, r.cs, r.rip);
        if (step == STEP_JUMP)
            gpr_write(e, GPR_RSP, reader.width, truncate_to(r.sp_left + r.release, reader.width));
        return step;
    }
    step = check_return_cs(e, r.cs, &cs);
    if (step == STEP_NEXT && selector_rpl(r.cs) > vcpu_cpl(&e->cpu)) {
        r.has_stack = true;
        reader.sp = truncate_to(reader.sp + r.release, reader.width);
        step = stack_next(e, &reader, &r.rsp);
        if (step == STEP_NEXT)
            step = stack_next_selector(e, &reader, &r.ss);
    }
    return step == STEP_NEXT ? return_to(e, &r, &cs) : step;
}

/* The flags that IRET may change at the CPL it was executed at. */
static uint64_t iret_flags_mask(const struct emu *e, unsigned op_size)
{
    unsigned cpl = protected_mode(e) ? vcpu_cpl(&e->cpu) : 0;
    uint64_t mask = RFLAGS_STATUS | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT | RFLAGS_RF | RFLAGS_AC | RFLAGS_ID;
    if (cpl <= (e->cpu.rflags & RFLAGS_IOPL) >> 12)
        mask |= RFLAGS_IF;
    if (cpl == 0)
        mask |= RFLAGS_IOPL | RFLAGS_VIF | RFLAGS_VIP;
    return op_size == 2 ? mask & 0xffff : mask;
}

static enum step iret_real(struct emu *e, const struct far_return *r, unsigned op_size, unsigned width)
{
    enum step step = return_real(e, r->cs, r->rip);
    if (step != STEP_JUMP)
        return step;
    gpr_write(e, GPR_RSP, width, r->sp_left);
    uint64_t mask = iret_flags_mask(e, op_size) & ~(RFLAGS_VIF | RFLAGS_VIP);
    set_rflags(e, r->rflags, mask);
    e->cpu.nmi_blocked = 0;
    return step;
}

enum step op_iret(struct emu *e, const struct plan *p)
{
    struct vcpu_state *s = &e->cpu;
    struct stack_reader reader = reader_here(e, p->op_size);
    struct far_return r = {0};
    struct descriptor cs = {0};
    if (s->rflags & RFLAGS_VM)
        return not_supported(e, "IRET in virtual-8086 mode");
    if (protected_mode(e) && (s->rflags & RFLAGS_NT)) {
        if (vcpu_in_long_mode(s))
            return raise_exception_code(e, VEC_GP, 0);
        return not_supported(e, "IRET with NT set (hardware task switch)");
    }
    enum step step = stack_next(e, &reader, &r.rip);
    if (step == STEP_NEXT)
        step = stack_next_selector(e, &reader, &r.cs);
    if (step == STEP_NEXT)
        step = stack_next(e, &reader, &r.rflags);
    if (step != STEP_NEXT)
        return step;
    r.sp_left = reader.sp;
    if (!protected_mode(e))
        return iret_real(e, &r, p->op_size, reader.width);
    if (!vcpu_in_long_mode(s) && (r.rflags & RFLAGS_VM) && p->op_size == 4 && vcpu_cpl(s) == 0)
        return not_supported(e, "IRET to virtual-8086 mode");

    step = check_return_cs(e, r.cs, &cs);
    r.has_stack = vcpu_in_64bit_code(s) || selector_rpl(r.cs) > vcpu_cpl(s);
    if (step == STEP_NEXT && r.has_stack) {
        step = stack_next(e, &reader, &r.rsp);
        if (step == STEP_NEXT)
            step = stack_next_selector(e, &reader, &r.ss);
    }
    uint64_t mask = iret_flags_mask(e, p->op_size);
    if (step == STEP_NEXT)
        step = return_to(e, &r, &cs);
    if (step != STEP_JUMP)
        return step;
    set_rflags(e, r.rflags, mask);
    s->nmi_blocked = 0;
    return step;
}
