/* Exceptions and interrupts: raising, delivery through IVT and IDT, double and triple fault (SDM 3, chapter 6). */
#include "core/x86/protect.h"

enum step raise_exception(struct emu *e, unsigned vector)
{
    e->fault = (struct fault){.vector = (uint8_t)vector};
    return STEP_FAULT;
}

enum step raise_exception_code(struct emu *e, unsigned vector, uint32_t code)
{
    e->fault = (struct fault){.vector = (uint8_t)vector, .has_error_code = true, .error_code = code};
    return STEP_FAULT;
}

enum step raise_page_fault(struct emu *e, gva_t address, uint32_t code)
{
    e->fault = (struct fault){.vector = VEC_PF, .has_error_code = true, .error_code = code, .cr2 = address};
    return STEP_FAULT;
}

/* What is being delivered. */
struct event {
    unsigned vector;
    enum event_class class;
    bool has_error_code;
    uint32_t error_code;
    uint64_t return_rip;
};

/* An IDT gate, either width. */
struct gate {
    unsigned type, dpl, ist;
    bool present;
    uint16_t selector;
    uint64_t offset;
};

/* The code segment and stack that the handler gets. */
struct handler {
    struct descriptor cs, ss;
    uint16_t cs_selector, ss_selector;
    unsigned cpl;
    bool inner;     /* a more privileged level: the stack comes from the TSS */
    bool new_stack; /* inner, or an IST entry */
};

static bool is_software(const struct event *v)
{
    return v->class == EVENT_SOFTWARE_INT || v->class == EVENT_INT3_INTO;
}

static enum step gate_fault(struct emu *e, const struct event *v, unsigned vector)
{
    return raise_exception_code(e, vector, v->vector * 8 + 2);
}

static enum step gate_read(struct emu *e, const struct event *v, struct gate *out)
{
    bool wide = vcpu_in_long_mode(&e->cpu);
    uint32_t bytes = wide ? 16 : 8;
    uint32_t raw[4] = {0};
    if (v->vector * bytes + bytes - 1 > e->cpu.idtr.limit)
        return gate_fault(e, v, VEC_GP);
    gva_t linear = e->cpu.idtr.base + v->vector * bytes;
    enum step step = mem_read_system(e, wide ? linear : (uint32_t)linear, raw, bytes);
    if (step != STEP_NEXT)
        return step;
    *out = (struct gate){
        .type = (raw[1] >> 8) & 0x1f, /* with S, which must be 0 */
        .dpl = (raw[1] >> 13) & 3,
        .ist = wide ? raw[1] & 7 : 0,
        .present = (raw[1] & 0x8000) != 0,
        .selector = (uint16_t)(raw[0] >> 16),
        .offset = (raw[0] & 0xffff) | (raw[1] & 0xffff0000) | (uint64_t)raw[2] << 32,
    };
    bool known = out->type == DESCRIPTOR_INT || out->type == DESCRIPTOR_TRAP ||
                 (!wide && (out->type == DESCRIPTOR_INT16 || out->type == DESCRIPTOR_TRAP16 ||
                            out->type == DESCRIPTOR_TASK_GATE));
    if (!known || (is_software(v) && out->dpl < vcpu_cpl(&e->cpu)))
        return gate_fault(e, v, VEC_GP);
    if (!out->present)
        return gate_fault(e, v, VEC_NP);
    if (out->type == DESCRIPTOR_INT16 || out->type == DESCRIPTOR_TRAP16)
        out->offset &= 0xffff;
    return STEP_NEXT;
}

/* The handler's code segment (SDM 3, 6.12.1; 6.14 for long mode). */
static enum step handler_code(struct emu *e, const struct gate *g, struct handler *h)
{
    if (selector_is_null(g->selector))
        return raise_exception_code(e, VEC_GP, 0);
    enum step step = descriptor_read(e, g->selector, VEC_GP, &h->cs);
    if (step != STEP_NEXT)
        return step;
    unsigned cpl = vcpu_cpl(&e->cpu);
    bool long_ok =
        !vcpu_in_long_mode(&e->cpu) || (descriptor_is_long_code(&h->cs) && !descriptor_is_big(&h->cs));
    if (!descriptor_is_code(&h->cs) || descriptor_dpl(&h->cs) > cpl || !long_ok)
        return raise_exception_code(e, VEC_GP, selector_error(g->selector));
    bool v86 = e->cpu.rflags & RFLAGS_VM; /* is only left for level 0 */
    if (v86 && (descriptor_is_conforming(&h->cs) || descriptor_dpl(&h->cs) != 0))
        return raise_exception_code(e, VEC_GP, selector_error(g->selector));
    if (!descriptor_present(&h->cs))
        return raise_exception_code(e, VEC_NP, selector_error(g->selector));
    h->cpl = descriptor_is_conforming(&h->cs) ? cpl : descriptor_dpl(&h->cs);
    h->inner = h->cpl < cpl;
    h->cs_selector = (uint16_t)((g->selector & 0xfffc) | h->cpl);
    return STEP_NEXT;
}

/* The stack it runs on: the current one, or one from the TSS. */
static enum step handler_stack(struct emu *e, const struct gate *g, struct handler *h, struct frame *f)
{
    bool long_mode = vcpu_in_long_mode(&e->cpu);
    f->long_mode = long_mode;
    f->rights = rights_of_cpl(h->cpl);
    f->ss = e->cpu.seg[SEG_SS];
    f->sp = e->cpu.gpr[GPR_RSP];
    h->new_stack = h->inner || g->ist;
    if (h->new_stack) {
        uint16_t selector = 0;
        enum step step = tss_stack(e, h->cpl, g->ist, &selector, &f->sp);
        if (step != STEP_NEXT)
            return step;
        h->ss_selector = selector;
        if (!long_mode) {
            if (selector_is_null(selector))
                return raise_exception_code(e, VEC_TS, 0);
            step = stack_descriptor(e, selector, h->cpl, VEC_TS, &h->ss);
            if (step != STEP_NEXT)
                return step;
            f->ss = segment_of(&h->ss, selector);
            f->ss_error = (uint16_t)selector_error(selector);
        }
    }
    if (long_mode) {
        f->sp &= ~(uint64_t)0xf;
        f->sp_mask = ~(uint64_t)0;
    } else {
        f->sp_mask = f->ss.rights & SEGMENT_DB ? 0xffffffff : 0xffff;
        f->sp &= f->sp_mask;
    }
    return STEP_NEXT;
}

/*
 * RF is pushed set for faults; not for #DB (an instruction breakpoint's handler sets it itself, SDM 3, 17.3.1.1) and
 * not for the abort #DF.
 */
static uint64_t pushed_flags(const struct emu *e, const struct event *v)
{
    uint64_t flags = e->cpu.rflags;
    if (v->class == EVENT_FAULT && v->vector != VEC_DB && v->vector != VEC_DF)
        flags |= RFLAGS_RF;
    return flags;
}

/* What every successful delivery leaves behind, whatever the mode. */
static void delivered(struct emu *e, const struct event *v)
{
    e->cpu.shadow = SHADOW_NONE;
    e->cpu.activity = ACTIVITY_RUNNING;
    if (v->class == EVENT_NMI_CLASS && v->vector == VEC_NMI)
        e->cpu.nmi_blocked = 1;
    if (v->vector == VEC_DB && v->class != EVENT_SOFTWARE_INT && v->class != EVENT_EXTERNAL)
        e->cpu.dr7 &= ~DR7_GD;
    tlb_select(e);
}

/* The data segments of virtual-8086 mode are saved on the stack (SDM 3, 21.3.1.1), in this order. */
static const uint8_t v86_pushes[] = {SEG_GS, SEG_FS, SEG_DS, SEG_ES};

static void enter_handler(struct emu *e, const struct event *v, const struct gate *g, const struct handler *h,
                          const struct frame *f)
{
    struct vcpu_state *s = &e->cpu;
    s->gpr[GPR_RSP] = frame_sp(f, s->gpr[GPR_RSP]);
    s->seg[SEG_CS] = segment_of(&h->cs, h->cs_selector);
    /* A conforming handler runs at the old CPL; CPL is in SS, so CS keeps its own DPL. */
    if (h->inner)
        s->seg[SEG_SS] =
            f->long_mode ? segment_null(h->ss_selector, h->cpl) : segment_of(&h->ss, h->ss_selector);
    if (s->rflags & RFLAGS_VM)
        for (unsigned i = 0; i < ARRAY_LEN(v86_pushes); i++)
            s->seg[v86_pushes[i]] = segment_null(0, 0);
    s->rip = g->offset;
    s->rflags &= ~(RFLAGS_TF | RFLAGS_NT | RFLAGS_RF | RFLAGS_VM);
    if (!(g->type & 1))
        s->rflags &= ~RFLAGS_IF;
    delivered(e, v);
}

/* Through a task gate: the error code goes onto the new task's stack, as wide as its TSS (SDM 3, 6.12.2). */
static enum step deliver_to_task(struct emu *e, const struct event *v, uint16_t selector)
{
    enum step step = task_switch(e, selector, TASK_EVENT, v->return_rip, pushed_flags(e, v));
    if (step == STEP_JUMP && v->has_error_code) {
        step = stack_push(e, v->error_code, e->cpu.tr.rights & 8 ? 4 : 2);
        step = step == STEP_NEXT ? STEP_JUMP : step;
    }
    if (step != STEP_JUMP)
        return step;
    delivered(e, v);
    return STEP_NEXT;
}

static enum step deliver_protected(struct emu *e, const struct event *v)
{
    struct gate g = {0};
    struct handler h = {0};
    struct frame f = {0};
    bool v86 = e->cpu.rflags & RFLAGS_VM;
    if (v86 && v->class == EVENT_SOFTWARE_INT && (e->cpu.rflags & RFLAGS_IOPL) != RFLAGS_IOPL)
        return raise_exception_code(e, VEC_GP, 0);
    enum step step = gate_read(e, v, &g);
    if (step == STEP_NEXT && g.type == DESCRIPTOR_TASK_GATE)
        return deliver_to_task(e, v, g.selector);
    if (step == STEP_NEXT)
        step = handler_code(e, &g, &h);
    if (step == STEP_NEXT)
        step = handler_stack(e, &g, &h, &f);
    if (step != STEP_NEXT)
        return step;

    f.width = f.long_mode ? 8 : (g.type & 8) ? 4 : 2;
    for (unsigned i = 0; v86 && i < ARRAY_LEN(v86_pushes); i++)
        frame_push(&f, e->cpu.seg[v86_pushes[i]].selector);
    if (h.inner || f.long_mode) {
        frame_push(&f, e->cpu.seg[SEG_SS].selector);
        frame_push(&f, e->cpu.gpr[GPR_RSP]);
    }
    frame_push(&f, pushed_flags(e, v));
    frame_push(&f, e->cpu.seg[SEG_CS].selector);
    frame_push(&f, v->return_rip);
    if (v->has_error_code)
        frame_push(&f, v->error_code);

    step = frame_check(e, &f);
    if (step == STEP_NEXT)
        step = code_offset_check(e, &h.cs, g.offset);
    if (step == STEP_NEXT)
        step = descriptor_set_accessed(e, &h.cs);
    if (step == STEP_NEXT && h.inner && !f.long_mode)
        step = descriptor_set_accessed(e, &h.ss);
    if (step == STEP_NEXT)
        step = frame_write(e, &f);
    if (step == STEP_NEXT)
        enter_handler(e, v, &g, &h, &f);
    return step;
}

/* Real mode: four bytes IP, CS per vector (SDM 3, 20.1.4). Error codes are not pushed. */
static enum step deliver_real(struct emu *e, const struct event *v)
{
    struct vcpu_state *s = &e->cpu;
    uint16_t target[2];
    if (v->vector * 4 + 3 > s->idtr.limit)
        return raise_exception_code(e, VEC_GP, 0);
    enum step step = mem_read_system(e, s->idtr.base + v->vector * 4, target, sizeof(target));
    if (step != STEP_NEXT)
        return step;
    struct frame f = {
        .ss = s->seg[SEG_SS],
        .sp_mask = s->seg[SEG_SS].rights & SEGMENT_DB ? 0xffffffff : 0xffff,
        .rights = RIGHTS_KERNEL,
        .width = 2,
    };
    f.sp = s->gpr[GPR_RSP] & f.sp_mask;
    frame_push(&f, pushed_flags(e, v));
    frame_push(&f, s->seg[SEG_CS].selector);
    frame_push(&f, v->return_rip);
    step = frame_check(e, &f);
    if (step == STEP_NEXT && target[0] > s->seg[SEG_CS].limit)
        step = raise_exception_code(e, VEC_GP, 0);
    if (step == STEP_NEXT)
        step = frame_write(e, &f);
    if (step != STEP_NEXT)
        return step;
    s->gpr[GPR_RSP] = frame_sp(&f, s->gpr[GPR_RSP]);
    s->seg[SEG_CS].selector = target[1];
    s->seg[SEG_CS].base = (uint32_t)target[1] << 4;
    s->rip = target[0];
    s->rflags &= ~(RFLAGS_IF | RFLAGS_TF | RFLAGS_AC | RFLAGS_RF);
    delivered(e, v);
    return STEP_NEXT;
}

enum step deliver_event(struct emu *e, unsigned vector, enum event_class event, bool has_error_code,
                        uint32_t error_code, uint64_t return_rip)
{
    struct event v = {
        .vector = vector,
        .class = event,
        .has_error_code = has_error_code,
        .error_code = error_code,
        .return_rip = return_rip,
    };
    enum step step = e->cpu.cr0 & CR0_PE ? deliver_protected(e, &v) : deliver_real(e, &v);
    /* EXT: the fault came up while delivering an event that the program did not ask for (SDM 3, 6.13). */
    if (step == STEP_FAULT && !is_software(&v) && e->fault.has_error_code && e->fault.vector != VEC_PF)
        e->fault.error_code |= 1;
    return step;
}

/* Exception classes of SDM 3, table 6-4. */
static bool is_contributory(unsigned vector)
{
    return vector == VEC_DE || (vector >= VEC_TS && vector <= VEC_GP);
}

static bool makes_double_fault(unsigned first, unsigned second)
{
    if (is_contributory(first))
        return is_contributory(second);
    return first == VEC_PF && (second == VEC_PF || is_contributory(second));
}

/* CR2 is updated whenever a page fault is detected, also where a double fault comes of it (SDM 3, 6.15, #PF). */
static void note_page_fault(struct emu *e)
{
    if (e->fault.vector == VEC_PF)
        e->cpu.cr2 = e->fault.cr2;
}

enum step deliver_fault(struct emu *e)
{
    if (unlikely(e->fault.waits)) {
        e->cpu.activity = ACTIVITY_HALTED;
        return STEP_NEXT;
    }
    uint64_t cr2 = e->cpu.cr2;
    uint8_t pending = e->cpu.pending_debug;
    e->cpu.pending_debug = 0; /* data breakpoints of the instruction that was not completed */
    note_page_fault(e);
    bool misaligned = false;
    for (;;) {
        struct fault f = e->fault;
        enum step step = deliver_event(e, f.vector, EVENT_FAULT, f.has_error_code, f.error_code, e->cpu.rip);
        if (step == STEP_STOP) {
            e->cpu.cr2 = cr2;
            e->cpu.pending_debug = pending;
        }
        if (step != STEP_FAULT)
            return step;
        note_page_fault(e);
        /*
         * #AC is benign, so one that comes back, on the stack of a CPL 3 handler for it or for what came in between, would
         * go on for ever in the processor; nothing can end that.
         */
        misaligned |= f.vector == VEC_AC;
        bool endless = misaligned && e->fault.vector == VEC_AC;
        if (f.vector == VEC_DF || endless) {
            e->cpu.activity = ACTIVITY_SHUTDOWN;
            e->cpu.shadow = SHADOW_NONE;
            return STEP_NEXT;
        }
        if (makes_double_fault(f.vector, e->fault.vector))
            raise_exception_code(e, VEC_DF, 0);
    }
}
