/* Handlers of the x87 plans that run a stub. The host must never see a waiting instruction with an exception pending. */
#include "core/x86/stub.h"

static void x87_track(struct emu *e, const struct plan *p)
{
    if (p->extra & EXEC_X87_CONTROL)
        return;
    struct fpu_state *f = &e->cpu.fpu;
    f->fip = e->cpu.rip;
    f->fcs = e->cpu.seg[SEG_CS].selector;
    f->fop = (uint16_t)(p->extra & EXEC_FOP_MASK);
    if (p->mem_access) {
        f->fdp = plan_offset(e, p);
        f->fds = e->cpu.seg[p->seg].selector;
    }
}

static void call_x87(struct emu *e, const struct plan *p, void *data)
{
    x87_load(e);
    call_with_flags(e, p, data);
    __asm__ volatile("fnstsw %0" : "=m"(e->cpu.fpu.fsw));
    if (p->extra & EXEC_X87_CONTROL)
        __asm__ volatile("fnstcw %0" : "=m"(e->cpu.fpu.fcw));
    x87_track(e, p);
}

/*
 * An operand that is not plain RAM within one page. A store that raises an unmasked exception leaves its operand as it was, so
 * a copy has to hold what is there.
 */
static enum step exec_x87_mapped(struct emu *e, const struct plan *p, gva_t linear)
{
    struct mem_map map;
    unsigned access = p->mem_access;
    if (access & PLAN_MEM_WRITE) {
        x87_sync(e);
        if (~e->cpu.fpu.fcw & 0x3f)
            access |= PLAN_MEM_READ;
    }
    enum step step = mem_map(e, linear, p->mem_bytes, access, &map);
    if (step != STEP_NEXT)
        return step;
    call_x87(e, p, map.data);
    return mem_unmap(e, &map);
}

/* 80 bits are two accesses: faults of the first come before those of the second. */
static enum step probe_significand(struct emu *e, const struct plan *p)
{
    gva_t linear;
    uint64_t value;
    enum step step = plan_linear(e, p, 8, segment_access(p), &linear);
    if (step != STEP_NEXT)
        return step;
    return p->mem_access & PLAN_MEM_WRITE ? mem_check_write(e, linear, 8) : mem_read(e, linear, &value, 8);
}

/* One of the two, for itself: reads it, or sees that it can be written. */
static enum step open_part(struct emu *e, const struct plan *p, uint64_t offset, uint8_t *data, size_t length,
                           gva_t *linear)
{
    bool write = p->mem_access & PLAN_MEM_WRITE;
    enum step step = segment_linear(e, p->seg, offset, length, segment_access(p), linear);
    if (step == STEP_NEXT && write)
        step = mem_check_write(e, *linear, length);
    /* A store that raises an unmasked exception leaves its operand as it was. */
    if (step == STEP_NEXT && (!write || (~e->cpu.fpu.fcw & 0x3f)))
        step = mem_read(e, *linear, data, length);
    return step;
}

/* The second one begins at offset 0: each wraps round at the address size. */
static enum step exec_x87_wrapped(struct emu *e, const struct plan *p, uint64_t offset)
{
    gva_t low, high;
    uint8_t data[16] = {0};
    x87_sync(e);
    enum step step = open_part(e, p, offset, data, 8, &low);
    if (step == STEP_NEXT)
        step = open_part(e, p, truncate_to(offset + 8, p->addr_size), data + 8, 2, &high);
    if (step != STEP_NEXT)
        return step;
    call_x87(e, p, data);
    if (p->mem_access & PLAN_MEM_WRITE) {
        step = mem_write(e, low, data, 8);
        if (step == STEP_NEXT)
            step = mem_write(e, high, data + 8, 2);
    }
    return step;
}

static bool second_access_wraps(const struct emu *e, const struct plan *p)
{
    uint64_t offset = plan_offset(e, p);
    return p->mem_bytes == 10 && p->addr_size < 8 && truncate_to(offset + 8, p->addr_size) < 8;
}

static enum step exec_x87_operand(struct emu *e, const struct plan *p)
{
    gva_t linear;
    uint8_t *data = NULL;
    enum step step = STEP_NEXT;
    if (p->mem_access)
        data = operand_host(e, p, p->mem_access);
    if (p->mem_access && !data) {
        if (second_access_wraps(e, p))
            return exec_x87_wrapped(e, p, plan_offset(e, p));
        step = p->mem_bytes == 10 ? probe_significand(e, p) : STEP_NEXT;
        if (step == STEP_NEXT)
            step = plan_linear(e, p, p->mem_bytes, segment_access(p), &linear);
        if (step == STEP_NEXT)
            data = tlb_host(e, linear, p->mem_bytes, p->mem_access);
        if (step != STEP_NEXT || !data)
            return step != STEP_NEXT ? step : exec_x87_mapped(e, p, linear);
    }
    call_x87(e, p, data);
    return STEP_NEXT;
}

/* With an exception pending: a waiting instruction goes on only if it is ignored; others may end it, as FLDCW may when it is. */
static enum step exec_x87_pending(struct emu *e, const struct plan *p)
{
    bool waits = p->flags & EXEC_WAIT;
    enum step step = waits ? x87_check_pending(e) : STEP_NEXT;
    if (step != STEP_NEXT)
        return step;
    if (waits)
        x87_hold(e);
    step = exec_x87_operand(e, p);
    if (waits)
        x87_release(e);
    x87_note_end(e, true);
    return step;
}

static enum step exec_x87(struct emu *e, const struct plan *p)
{
    enum step step = fpu_check(e, FPU_X87);
    if (unlikely(step != STEP_NEXT))
        return step;
    return unlikely(x87_pending(e)) ? exec_x87_pending(e, p) : exec_x87_operand(e, p);
}

static enum step exec_fninit(struct emu *e, const struct plan *p)
{
    enum step step = exec_x87(e, p);
    if (step == STEP_NEXT) {
        e->cpu.fpu.fip = e->cpu.fpu.fdp = 0;
        e->cpu.fpu.fop = e->cpu.fpu.fcs = e->cpu.fpu.fds = 0;
    }
    return step;
}

bool exec_is_x87(const ZydisDecodedInstruction *insn)
{
    return insn->meta.category == ZYDIS_CATEGORY_X87_ALU || insn->meta.isa_ext == ZYDIS_ISA_EXT_X87 ||
           insn->mnemonic == ZYDIS_MNEMONIC_FISTTP;
}

/* SDM 1, 8.1.8 and 8.6: what leaves the pointers alone, and what does not wait. */
void exec_x87_setup(struct plan *p, const ZydisDecodedInstruction *insn)
{
    p->extra = ((p->opcode & 7u) << 8 | p->modrm) & EXEC_FOP_MASK;
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_FNINIT:
    case ZYDIS_MNEMONIC_FNCLEX:
    case ZYDIS_MNEMONIC_FNSTCW:
    case ZYDIS_MNEMONIC_FNSTSW:
    case ZYDIS_MNEMONIC_FDISI8087_NOP:
    case ZYDIS_MNEMONIC_FENI8087_NOP:
    case ZYDIS_MNEMONIC_FSETPM287_NOP:
        p->extra |= EXEC_X87_CONTROL;
        break;
    case ZYDIS_MNEMONIC_FLDCW:
        p->extra |= EXEC_X87_CONTROL;
        p->flags |= EXEC_WAIT;
        break;
    default:
        p->flags |= EXEC_WAIT;
        break;
    }
    p->flags |= EXEC_X87;
    p->fn = insn->mnemonic == ZYDIS_MNEMONIC_FNINIT ? exec_fninit : exec_x87;
}
