/* Segmentation: effective and linear addresses, loading segment registers, the stack (SDM 3, chapters 3 and 5). */
#include "core/x86/protect.h"

uint64_t plan_offset(const struct emu *e, const struct plan *p)
{
    uint64_t offset = (uint64_t)p->disp;
    if (p->base == PLAN_REG_RIP)
        offset += e->cpu.rip + p->length;
    else if (p->base != PLAN_NO_REG)
        offset += e->cpu.gpr[p->base & 0xf];
    if (p->index != PLAN_NO_REG)
        offset += e->cpu.gpr[p->index & 0xf] * p->scale;
    return truncate_to(offset, p->addr_size);
}

/* Type checks apply in protected mode only: in real mode CS can be written (SDM 3, 20.1.1). */
static bool type_allows(const struct emu *e, const struct segment *s, enum access access)
{
    if (!(e->cpu.cr0 & CR0_PE))
        return true;
    if (!(s->rights & SEGMENT_P))
        return false;
    unsigned type = s->rights & SEGMENT_TYPE;
    if (access == ACCESS_EXEC)
        return (type & TYPE_CODE) != 0;
    if (access == ACCESS_WRITE)
        return (type & (TYPE_CODE | TYPE_WRITABLE)) == TYPE_WRITABLE;
    return !(type & TYPE_CODE) || (type & TYPE_READABLE);
}

static bool limit_allows(const struct segment *s, uint64_t offset, size_t length)
{
    uint64_t last = offset + length - 1;
    bool down = (s->rights & (TYPE_CODE | TYPE_EXPAND_DOWN)) == TYPE_EXPAND_DOWN && (s->rights & SEGMENT_S);
    if (down)
        return offset > s->limit && last <= (s->rights & SEGMENT_DB ? 0xffffffff : 0xffff);
    /* With a 4 GiB limit an operand may wrap round (SDM 3, 5.3: implementation-specific; hardware lets it). */
    return last <= s->limit || s->limit == 0xffffffff;
}

enum step segment_check(struct emu *e, const struct segment *s, uint64_t offset, size_t length,
                        enum access access, bool stack, uint16_t code)
{
    if (length && (!type_allows(e, s, access) || !limit_allows(s, offset, length)))
        return raise_exception_code(e, stack ? VEC_SS : VEC_GP, code);
    return STEP_NEXT;
}

enum step segment_linear(struct emu *e, unsigned seg, uint64_t offset, size_t length, enum access access,
                         gva_t *linear)
{
    const struct segment *s = &e->cpu.seg[seg];
    if (vcpu_in_64bit_code(&e->cpu)) {
        *linear = seg >= SEG_FS ? s->base + offset : offset;
        /* AMD's CPUs ask the offset too, before the base of FS or GS is added. */
        if (length && !(is_canonical(offset) && is_canonical(*linear) && is_canonical(*linear + length - 1)))
            return raise_exception_code(e, seg == SEG_SS ? VEC_SS : VEC_GP, 0);
        return STEP_NEXT;
    }
    *linear = (uint32_t)(s->base + offset);
    return segment_check(e, s, offset, length, access, seg == SEG_SS, 0);
}

enum step plan_linear(struct emu *e, const struct plan *p, size_t length, enum access access, gva_t *linear)
{
    return segment_linear(e, p->seg, plan_offset(e, p), length, access, linear);
}

/* Two accesses, each with its own checks. */
enum step plan_far_pointer(struct emu *e, const struct plan *p, uint64_t *offset, uint16_t *selector)
{
    gva_t linear;
    *offset = 0;
    *selector = 0;
    enum step step = plan_linear(e, p, p->op_size, ACCESS_READ, &linear);
    if (step == STEP_NEXT)
        step = mem_read(e, linear, offset, p->op_size);
    if (step == STEP_NEXT)
        step = segment_linear(e, p->seg, truncate_to(plan_offset(e, p) + p->op_size, p->addr_size), 2,
                              ACCESS_READ, &linear);
    return step == STEP_NEXT ? mem_read(e, linear, selector, 2) : step;
}

/* ---- loading ---- */

static enum step load_ss(struct emu *e, uint16_t selector)
{
    unsigned cpl = vcpu_cpl(&e->cpu);
    struct descriptor d = {0};
    if (selector_is_null(selector)) {
        if (!vcpu_in_64bit_code(&e->cpu) || cpl == 3 || selector_rpl(selector) != cpl)
            return raise_exception_code(e, VEC_GP, 0);
        e->cpu.seg[SEG_SS] = segment_null(selector, cpl);
        return STEP_NEXT;
    }
    enum step step = stack_descriptor(e, selector, cpl, VEC_GP, &d);
    if (step == STEP_NEXT)
        step = descriptor_set_accessed(e, &d);
    if (step == STEP_NEXT)
        e->cpu.seg[SEG_SS] = segment_of(&d, selector);
    return step;
}

static enum step load_data(struct emu *e, unsigned seg, uint16_t selector)
{
    struct descriptor d = {0};
    if (selector_is_null(selector)) {
        e->cpu.seg[seg] = segment_null(selector, 0);
        return STEP_NEXT;
    }
    enum step step = descriptor_read(e, selector, VEC_GP, &d);
    if (step != STEP_NEXT)
        return step;
    unsigned type = descriptor_type(&d);
    bool readable = descriptor_is_segment(&d) && (!(type & TYPE_CODE) || (type & TYPE_READABLE));
    bool conforming = descriptor_is_code(&d) && descriptor_is_conforming(&d);
    unsigned dpl = descriptor_dpl(&d);
    if (!readable || (!conforming && (selector_rpl(selector) > dpl || vcpu_cpl(&e->cpu) > dpl)))
        return raise_exception_code(e, VEC_GP, selector_error(selector));
    if (!descriptor_present(&d))
        return raise_exception_code(e, VEC_NP, selector_error(selector));
    step = descriptor_set_accessed(e, &d);
    if (step == STEP_NEXT)
        e->cpu.seg[seg] = segment_of(&d, selector);
    return step;
}

enum step segment_load(struct emu *e, unsigned seg, uint16_t selector)
{
    if (protected_mode(e))
        return seg == SEG_SS ? load_ss(e, selector) : load_data(e, seg, selector);
    /* Real mode: limit and rights stay what they were (a protected-mode limit too, "unreal mode"). */
    struct segment *s = &e->cpu.seg[seg];
    s->selector = selector;
    s->base = (uint32_t)selector << 4;
    if (!(s->rights & SEGMENT_P)) {
        s->rights = SEGMENT_P | SEGMENT_S | TYPE_WRITABLE | TYPE_ACCESSED;
        s->limit = 0xffff;
    }
    return STEP_NEXT;
}

/* ---- code and stack ---- */

unsigned code_size(const struct emu *e)
{
    if (vcpu_in_64bit_code(&e->cpu))
        return 8;
    return e->cpu.seg[SEG_CS].rights & SEGMENT_DB ? 4 : 2;
}

unsigned stack_width(const struct emu *e)
{
    if (vcpu_in_64bit_code(&e->cpu))
        return 8;
    return e->cpu.seg[SEG_SS].rights & SEGMENT_DB ? 4 : 2;
}

enum step stack_push(struct emu *e, uint64_t value, unsigned size)
{
    unsigned width = stack_width(e);
    uint64_t sp = truncate_to(e->cpu.gpr[GPR_RSP] - size, width);
    gva_t linear;
    enum step step = segment_linear(e, SEG_SS, sp, size, ACCESS_WRITE, &linear);
    if (step == STEP_NEXT)
        step = mem_write(e, linear, &value, size);
    if (step == STEP_NEXT)
        gpr_write(e, GPR_RSP, width, sp);
    return step;
}

enum step stack_pop(struct emu *e, uint64_t *value, unsigned size)
{
    unsigned width = stack_width(e);
    uint64_t sp = truncate_to(e->cpu.gpr[GPR_RSP], width);
    gva_t linear;
    *value = 0;
    enum step step = segment_linear(e, SEG_SS, sp, size, ACCESS_READ, &linear);
    if (step == STEP_NEXT)
        step = mem_read(e, linear, value, size);
    if (step == STEP_NEXT)
        gpr_write(e, GPR_RSP, width, sp + size);
    return step;
}

enum step near_branch(struct emu *e, uint64_t target, unsigned op_size)
{
    target = truncate_to(target, op_size);
    bool reachable = vcpu_in_64bit_code(&e->cpu) ? is_canonical(target) : target <= e->cpu.seg[SEG_CS].limit;
    if (!reachable)
        return raise_exception_code(e, VEC_GP, 0);
    e->cpu.rip = target;
    return STEP_JUMP;
}
