/* Stack frames of events and far calls: checked as a whole, then written. */
#include "core/x86/protect.h"

/* Linear address of the value at sp, which is already masked. */
static enum step frame_address(struct emu *e, const struct frame *f, uint64_t sp, gva_t *linear)
{
    if (f->long_mode) {
        *linear = sp;
        if (!is_canonical(sp) || !is_canonical(sp + f->width - 1))
            return raise_exception_code(e, VEC_SS, f->ss_error);
        return STEP_NEXT;
    }
    enum step step = segment_check(e, &f->ss, sp, f->width, ACCESS_WRITE, true, f->ss_error);
    *linear = (uint32_t)(f->ss.base + sp);
    return step;
}

enum step frame_check(struct emu *e, const struct frame *f)
{
    uint64_t sp = f->sp;
    for (unsigned i = 0; i < f->count; i++) {
        gva_t linear;
        sp = (sp - f->width) & f->sp_mask;
        enum step step = frame_address(e, f, sp, &linear);
        if (step == STEP_NEXT)
            step = mem_access(e, linear, NULL, f->width, ACCESS_WRITE, f->rights);
        if (step != STEP_NEXT)
            return step;
    }
    return STEP_NEXT;
}

enum step frame_write(struct emu *e, const struct frame *f)
{
    uint64_t sp = f->sp;
    for (unsigned i = 0; i < f->count; i++) {
        gva_t linear;
        uint64_t value = f->value[i];
        sp = (sp - f->width) & f->sp_mask;
        enum step step = frame_address(e, f, sp, &linear);
        if (step == STEP_NEXT)
            step = mem_access(e, linear, &value, f->width, ACCESS_WRITE, f->rights);
        if (step != STEP_NEXT)
            return step;
        points_note_access(e, linear, f->width,
                           true); /* a debugger's watch sees it, a data breakpoint does not */
    }
    return STEP_NEXT;
}

uint64_t frame_sp(const struct frame *f, uint64_t rsp)
{
    uint64_t sp = (f->sp - (uint64_t)f->width * f->count) & f->sp_mask;
    return f->sp_mask == 0xffff ? (rsp & ~(uint64_t)0xffff) | sp : sp;
}
