/*
 * Hardware task switches (SDM 3, chapter 8), in protected mode outside long mode; and the segments of virtual-8086
 * mode (SDM 3, 21.2), which a task may start in.
 */
#include <string.h>

#include "core/x86/protect.h"

enum {
    TSS_BACK_LINK = 0,
    TSS32_CR3 = 0x1c,
    TSS32_STATE = 0x20, /* EIP, EFLAGS, 8 GPRs, 6 selectors: written by a switch away */
    TSS32_LDT = 0x60,
    TSS32_DEBUG = 0x64, /* bit 0: T */
    TSS32_BYTES = 0x68,
    TSS16_STATE = 0x0e, /* IP, FLAGS, 8 GPRs, ES, CS, SS, DS */
    TSS16_LDT = 0x2a,
    TSS16_BYTES = 0x2c,
};

/* What a TSS says of a task, of either width. */
struct task_state {
    bool wide;
    uint32_t cr3, rip, flags, gpr[8];
    uint16_t selector[SEG_COUNT], ldt;
    bool debug_trap;
};

static uint32_t take(const uint8_t *at, unsigned bytes)
{
    uint32_t value = 0;
    memcpy(&value, at, bytes);
    return value;
}

static struct task_state decode(const uint8_t *tss, bool wide)
{
    struct task_state t = {.wide = wide};
    unsigned width = wide ? 4 : 2;
    const uint8_t *at = tss + (wide ? TSS32_STATE : TSS16_STATE);
    t.rip = take(at, width);
    t.flags = take(at + width, width);
    for (unsigned i = 0; i < 8; i++)
        t.gpr[i] = take(at + (2 + i) * width, width);
    for (unsigned i = 0; i < (wide ? SEG_COUNT : SEG_FS); i++)
        t.selector[i] = (uint16_t)take(at + (10 + i) * width, 2);
    t.ldt = (uint16_t)take(tss + (wide ? TSS32_LDT : TSS16_LDT), 2);
    if (wide) {
        t.cr3 = take(tss + TSS32_CR3, 4);
        t.debug_trap = tss[TSS32_DEBUG] & 1;
    }
    return t;
}

static gva_t in_tss(const struct segment *tr, uint32_t offset)
{
    return (uint32_t)(tr->base + offset);
}

/* The outgoing task's registers as its TSS has them; *offset and the length say where. */
static uint32_t encode(const struct emu *e, uint64_t rip, uint64_t flags, uint8_t out[64], uint32_t *offset)
{
    bool wide = (e->cpu.tr.rights & 8) != 0;
    unsigned width = wide ? 4 : 2, count = wide ? SEG_COUNT : SEG_FS;
    memset(out, 0, 64);
    memcpy(out, &rip, width);
    memcpy(out + width, &flags, width);
    for (unsigned i = 0; i < 8; i++)
        memcpy(out + (2 + i) * width, &e->cpu.gpr[i], width);
    for (unsigned i = 0; i < count; i++)
        memcpy(out + (10 + i) * width, &e->cpu.seg[i].selector, 2);
    *offset = wide ? TSS32_STATE : TSS16_STATE;
    return (10 + count) * width;
}

/* ---- virtual-8086 mode ---- */

void v86_load_segment(struct emu *e, unsigned seg, uint16_t selector)
{
    e->cpu.seg[seg] = (struct segment){
        .base = (uint32_t)selector << 4,
        .limit = 0xffff,
        .selector = selector,
        .rights = SEGMENT_P | SEGMENT_S | SEGMENT_DPL | TYPE_WRITABLE | TYPE_ACCESSED,
    };
}

/* ---- the incoming task's segments: faults belong to it ---- */

static enum step invalid(struct emu *e, uint16_t selector)
{
    return raise_exception_code(e, VEC_TS, selector_error(selector));
}

static enum step load_ldt(struct emu *e, uint16_t selector)
{
    struct descriptor d = {0};
    if (selector_is_null(selector))
        return STEP_NEXT;
    if (selector & 4)
        return invalid(e, selector);
    enum step step = descriptor_read(e, selector, VEC_TS, &d);
    if (step != STEP_NEXT)
        return step;
    if (descriptor_is_segment(&d) || descriptor_type(&d) != DESCRIPTOR_LDT || !descriptor_present(&d))
        return invalid(e, selector);
    e->cpu.ldtr = segment_of(&d, selector);
    return STEP_NEXT;
}

static enum step commit(struct emu *e, unsigned seg, uint16_t selector, struct descriptor *d)
{
    enum step step = descriptor_set_accessed(e, d);
    if (step == STEP_NEXT)
        e->cpu.seg[seg] = segment_of(d, selector);
    return step;
}

static enum step load_code_and_stack(struct emu *e, uint16_t cs_selector, uint16_t ss_selector)
{
    struct descriptor cs = {0}, ss = {0};
    unsigned cpl = selector_rpl(cs_selector);
    if (selector_is_null(cs_selector))
        return invalid(e, cs_selector);
    enum step step = descriptor_read(e, cs_selector, VEC_TS, &cs);
    if (step != STEP_NEXT)
        return step;
    bool level = descriptor_is_conforming(&cs) ? descriptor_dpl(&cs) <= cpl : descriptor_dpl(&cs) == cpl;
    if (!descriptor_is_code(&cs) || !level)
        return invalid(e, cs_selector);
    if (!descriptor_present(&cs))
        return raise_exception_code(e, VEC_NP, selector_error(cs_selector));
    if (selector_is_null(ss_selector))
        return invalid(e, ss_selector);
    step = stack_descriptor(e, ss_selector, cpl, VEC_TS, &ss);
    if (step == STEP_NEXT)
        step = commit(e, SEG_CS, cs_selector, &cs);
    if (step == STEP_NEXT)
        step = commit(e, SEG_SS, ss_selector, &ss);
    return step;
}

static enum step load_data(struct emu *e, unsigned seg, uint16_t selector)
{
    struct descriptor d = {0};
    if (selector_is_null(selector))
        return STEP_NEXT;
    enum step step = descriptor_read(e, selector, VEC_TS, &d);
    if (step != STEP_NEXT)
        return step;
    unsigned type = descriptor_type(&d), dpl = descriptor_dpl(&d);
    bool readable = descriptor_is_segment(&d) && (!(type & TYPE_CODE) || (type & TYPE_READABLE));
    bool conforming = descriptor_is_code(&d) && descriptor_is_conforming(&d);
    if (!readable || (!conforming && (selector_rpl(selector) > dpl || vcpu_cpl(&e->cpu) > dpl)))
        return invalid(e, selector);
    if (!descriptor_present(&d))
        return raise_exception_code(e, VEC_NP, selector_error(selector));
    return commit(e, seg, selector, &d);
}

static enum step load_segments(struct emu *e, const struct task_state *t)
{
    static const uint8_t data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    enum step step = load_ldt(e, t->ldt);
    if (e->cpu.rflags & RFLAGS_VM)
        return step;
    if (step == STEP_NEXT)
        step = load_code_and_stack(e, t->selector[SEG_CS], t->selector[SEG_SS]);
    tlb_select(e);
    for (unsigned i = 0; i < ARRAY_LEN(data) && step == STEP_NEXT; i++)
        step = load_data(e, data[i], t->selector[data[i]]);
    if (step == STEP_NEXT && t->rip > e->cpu.seg[SEG_CS].limit)
        step = raise_exception_code(e, VEC_GP, 0);
    return step;
}

/* ---- the switch ---- */

/* EFLAGS that a TSS can set. */
#define TASK_FLAGS                                                                                           \
    (RFLAGS_STATUS | RFLAGS_TF | RFLAGS_IF | RFLAGS_DF | RFLAGS_IOPL | RFLAGS_NT | RFLAGS_RF | RFLAGS_VM |   \
     RFLAGS_AC | RFLAGS_VIF | RFLAGS_VIP | RFLAGS_ID)

#define DR7_LOCAL ((uint64_t)0x155) /* L0 to L3, LE */

/* Everything that cannot fault. Selectors are visible before their descriptors are: what is not loaded is unusable. */
static void load_registers(struct emu *e, const struct task_state *t)
{
    struct vcpu_state *s = &e->cpu;
    bool v86 = t->flags & RFLAGS_VM;
    s->rip = t->rip;
    s->rflags = (t->flags & TASK_FLAGS) | RFLAGS_FIXED;
    for (unsigned i = 0; i < 8; i++)
        s->gpr[i] = t->gpr[i];
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        if (v86)
            v86_load_segment(e, i, t->selector[i]);
        else
            s->seg[i] = segment_null(t->selector[i], i == SEG_SS ? selector_rpl(t->selector[SEG_CS]) : 0);
    }
    s->ldtr = segment_null(t->ldt, 0);
    s->cr0 |= CR0_TS;
    s->dr7 &= ~DR7_LOCAL;
    tlb_select(e);
}

static enum step set_busy(struct emu *e, const struct descriptor *d, bool busy)
{
    uint8_t type = (uint8_t)(d->high >> 8);
    type = busy ? type | 2 : type & (uint8_t)~2;
    return mem_write_system(e, d->linear + 5, &type, 1);
}

/* The incoming task's descriptor: #GP or, for a return, #TS; #NP; #TS where it is too short. */
static enum step incoming(struct emu *e, uint16_t selector, enum task_cause cause, struct descriptor *d)
{
    unsigned vector = cause == TASK_RETURN ? VEC_TS : VEC_GP;
    if ((selector & 4) || selector_is_null(selector))
        return raise_exception_code(e, vector, selector_error(selector));
    enum step step = descriptor_read(e, selector, vector, d);
    if (step != STEP_NEXT)
        return step;
    unsigned type = descriptor_type(d), busy = cause == TASK_RETURN ? 2 : 0;
    if (descriptor_is_segment(d) || (type & 7) != (1 | busy))
        return raise_exception_code(e, vector, selector_error(selector));
    if (!descriptor_present(d))
        return raise_exception_code(e, VEC_NP, selector_error(selector));
    if (descriptor_limit(d) + 1ull < (type & 8 ? TSS32_BYTES : TSS16_BYTES))
        return invalid(e, selector);
    return STEP_NEXT;
}

/* Saves the outgoing task; after the checks of the incoming one, still as the outgoing one. */
static enum step save(struct emu *e, enum task_cause cause, uint64_t rip, uint64_t flags)
{
    uint8_t image[64];
    uint32_t offset, length;
    struct descriptor d = {0};
    bool found = false;
    if (cause == TASK_RETURN)
        flags &= ~RFLAGS_NT;
    length = encode(e, rip, flags, image, &offset);
    gva_t linear = in_tss(&e->cpu.tr, offset);
    enum step step = mem_access(e, linear, NULL, length, ACCESS_WRITE, RIGHTS_IMPLICIT);
    if (step == STEP_NEXT && (cause == TASK_JUMP || cause == TASK_RETURN))
        step = descriptor_probe(e, e->cpu.tr.selector, &d, &found);
    if (step == STEP_NEXT && found)
        step = set_busy(e, &d, false);
    return step == STEP_NEXT ? mem_write_system(e, linear, image, length) : step;
}

/* CR3 of the incoming task, where there is paging. */
static enum step load_cr3(struct emu *e, const struct task_state *t)
{
    if (!t->wide || !(e->cpu.cr0 & CR0_PG))
        return STEP_NEXT;
    if (write_cr3(e, t->cr3) == STEP_NEXT)
        return STEP_NEXT;
    return raise_exception_code(e, VEC_TS, selector_error(e->cpu.tr.selector));
}

enum step task_switch(struct emu *e, uint16_t selector, enum task_cause cause, uint64_t rip, uint64_t flags)
{
    struct descriptor d = {0};
    uint8_t raw[TSS32_BYTES] = {0};
    uint16_t old = e->cpu.tr.selector;
    enum step step = incoming(e, selector, cause, &d);
    if (step != STEP_NEXT)
        return step;
    struct segment tr = segment_of(&d, selector);
    bool wide = (tr.rights & 8) != 0, nested = cause == TASK_CALL || cause == TASK_EVENT;
    step = mem_read_system(e, in_tss(&tr, 0), raw, wide ? TSS32_BYTES : TSS16_BYTES);
    if (step == STEP_NEXT && nested)
        step = mem_access(e, in_tss(&tr, TSS_BACK_LINK), NULL, 2, ACCESS_WRITE, RIGHTS_IMPLICIT);
    if (step == STEP_NEXT)
        step = save(e, cause, rip, flags);
    if (step == STEP_NEXT && nested)
        step = mem_write_system(e, in_tss(&tr, TSS_BACK_LINK), &old, 2);
    if (step == STEP_NEXT)
        step = set_busy(e, &d, true);
    if (step != STEP_NEXT)
        return step;

    struct task_state t = decode(raw, wide);
    if (nested)
        t.flags |= (uint32_t)RFLAGS_NT;
    tr.rights |= 2;
    e->cpu.tr = tr;
    step = load_cr3(e, &t);
    load_registers(e, &t);
    if (step == STEP_NEXT)
        step = load_segments(e, &t);
    if (step == STEP_NEXT && t.debug_trap) {
        e->cpu.dr6 |= DR6_BT;
        step = raise_exception(e, VEC_DB);
    }
    return step == STEP_NEXT ? STEP_JUMP : step;
}
