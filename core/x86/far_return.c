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

/*
 * Reads values of the stack without moving RSP. Faults come in the order in which AMD's CPUs read a frame: the flags or, without
 * them, CS first.
 */
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

static uint64_t slot(const struct stack_reader *r, unsigned index)
{
    return truncate_to(r->sp + (uint64_t)index * r->size, r->width);
}

static enum step read_slot(struct emu *e, const struct stack_reader *r, unsigned index, uint64_t *value)
{
    gva_t linear;
    *value = 0;
    enum step step = segment_linear(e, SEG_SS, slot(r, index), r->size, ACCESS_READ, &linear);
    return step == STEP_NEXT ? mem_read(e, linear, value, r->size) : step;
}

static enum step read_selector(struct emu *e, const struct stack_reader *r, unsigned index,
                               uint16_t *selector)
{
    uint64_t value;
    enum step step = read_slot(e, r, index, &value);
    *selector = (uint16_t)value;
    return step;
}

/* SS:RSP, from slot index on. */
static enum step read_stack_pointer(struct emu *e, const struct stack_reader *r, unsigned index,
                                    struct far_return *out)
{
    enum step step = read_selector(e, r, index + 1, &out->ss);
    return step == STEP_NEXT ? read_slot(e, r, index, &out->rsp) : step;
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

    enum step step = code_offset_check(e, &cs, r->rip);
    if (step == STEP_NEXT && r->has_stack)
        step = return_stack(e, r, &cs, &ss, &stack);
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
    enum step step = read_selector(e, &reader, 1, &r.cs);
    if (step == STEP_NEXT)
        step = read_slot(e, &reader, 0, &r.rip);
    if (step != STEP_NEXT)
        return step;
    r.sp_left = slot(&reader, 2);
    if (!protected_mode(e)) {
        step = return_real(e, r.cs, r.rip);
        if (step == STEP_JUMP)
            gpr_write(e, GPR_RSP, reader.width, truncate_to(r.sp_left + r.release, reader.width));
        return step;
    }
    /* Read before CS is checked. */
    if (selector_rpl(r.cs) != vcpu_cpl(&e->cpu)) {
        r.has_stack = true;
        reader.sp = truncate_to(reader.sp + r.release, reader.width);
        step = read_stack_pointer(e, &reader, 2, &r);
    }
    if (step == STEP_NEXT)
        step = check_return_cs(e, r.cs, &cs);
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
    if (e->cpu.rflags & RFLAGS_VM) /* at CPL 3 in fact */
        mask &= ~RFLAGS_IOPL;
    set_rflags(e, r->rflags, mask);
    e->cpu.nmi_blocked = 0;
    return step;
}

/* IRET with NT: to the task that the back link of this one names (SDM 3, 8.4). */
static enum step return_to_task(struct emu *e)
{
    uint16_t link = 0;
    gva_t linear = (uint32_t)e->cpu.tr.base;
    enum step step = mem_read_system(e, linear, &link, sizeof(link));
    if (step == STEP_NEXT)
        step = task_switch(e, link, TASK_RETURN, e->next_rip, e->cpu.rflags);
    if (step == STEP_JUMP)
        e->cpu.nmi_blocked = 0;
    return step;
}

/* From CPL 0 to virtual-8086 mode: ESP, SS, ES, DS, FS and GS follow (SDM 3, 21.2.5). */
static enum step return_to_v86(struct emu *e, const struct far_return *r, const struct stack_reader *reader)
{
    static const uint8_t order[] = {SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    struct vcpu_state *s = &e->cpu;
    uint16_t selector[ARRAY_LEN(order)];
    uint64_t rsp;
    enum step step = read_slot(e, reader, 3, &rsp);
    for (unsigned i = 0; i < ARRAY_LEN(order) && step == STEP_NEXT; i++)
        step = read_selector(e, reader, 4 + i, &selector[i]);
    if (step == STEP_NEXT && r->rip > 0xffff)
        step = raise_exception_code(e, VEC_GP, 0);
    if (step != STEP_NEXT)
        return step;
    set_rflags(e, r->rflags, iret_flags_mask(e, 4) | RFLAGS_VM);
    v86_load_segment(e, SEG_CS, r->cs);
    for (unsigned i = 0; i < ARRAY_LEN(order); i++)
        v86_load_segment(e, order[i], selector[i]);
    s->gpr[GPR_RSP] = rsp;
    s->rip = r->rip;
    s->nmi_blocked = 0;
    tlb_select(e);
    return STEP_JUMP;
}

enum step op_iret(struct emu *e, const struct plan *p)
{
    struct vcpu_state *s = &e->cpu;
    struct stack_reader reader = reader_here(e, p->op_size);
    struct far_return r = {0};
    struct descriptor cs = {0};
    if ((s->rflags & RFLAGS_VM) && (s->rflags & RFLAGS_IOPL) != RFLAGS_IOPL)
        return raise_exception_code(e, VEC_GP, 0);
    if (protected_mode(e) && (s->rflags & RFLAGS_NT)) {
        if (vcpu_in_long_mode(s))
            return raise_exception_code(e, VEC_GP, 0);
        return return_to_task(e);
    }
    enum step step = read_slot(e, &reader, 2, &r.rflags);
    if (step == STEP_NEXT)
        step = read_selector(e, &reader, 1, &r.cs);
    if (step == STEP_NEXT)
        step = read_slot(e, &reader, 0, &r.rip);
    if (step == STEP_NEXT && vcpu_in_64bit_code(s))
        step = read_stack_pointer(e, &reader, 3, &r);
    if (step != STEP_NEXT)
        return step;
    r.sp_left = slot(&reader, 3);
    if (!protected_mode(e))
        return iret_real(e, &r, p->op_size, reader.width);
    if (!vcpu_in_long_mode(s) && (r.rflags & RFLAGS_VM) && p->op_size == 4 && vcpu_cpl(s) == 0)
        return return_to_v86(e, &r, &reader);

    r.has_stack = vcpu_in_64bit_code(s) || selector_rpl(r.cs) != vcpu_cpl(s);
    if (r.has_stack && !vcpu_in_64bit_code(s))
        step = read_stack_pointer(e, &reader, 3, &r);
    if (step == STEP_NEXT)
        step = check_return_cs(e, r.cs, &cs);
    uint64_t mask = iret_flags_mask(e, p->op_size);
    if (step == STEP_NEXT)
        step = return_to(e, &r, &cs);
    if (step != STEP_JUMP)
        return step;
    set_rflags(e, r.rflags, mask);
    s->nmi_blocked = 0;
    return step;
}
