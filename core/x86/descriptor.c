/* Descriptors and selectors (SDM 3, 3.4), and the stack of an inner privilege level. */
#include <string.h>

#include "core/x86/protect.h"

/* Linear address of the selector's descriptor, or false where its table does not reach so far. */
static bool descriptor_address(const struct emu *e, uint16_t selector, unsigned bytes, gva_t *linear)
{
    uint32_t first = selector & 0xfff8u;
    uint64_t base = e->cpu.gdtr.base;
    uint32_t limit = e->cpu.gdtr.limit;
    if (selector & 4) {
        if (!(e->cpu.ldtr.rights & SEGMENT_P))
            return false;
        base = e->cpu.ldtr.base;
        limit = e->cpu.ldtr.limit;
    }
    *linear = base + first;
    if (!vcpu_in_long_mode(&e->cpu))
        *linear = (uint32_t)*linear;
    return first + bytes - 1 <= limit;
}

enum step descriptor_probe(struct emu *e, uint16_t selector, struct descriptor *out, bool *found)
{
    uint32_t raw[2];
    *found = descriptor_address(e, selector, 8, &out->linear);
    if (!*found)
        return STEP_NEXT;
    enum step step = mem_read_system(e, out->linear, raw, sizeof(raw));
    out->low = raw[0];
    out->high = raw[1];
    return step;
}

enum step descriptor_read(struct emu *e, uint16_t selector, unsigned vector, struct descriptor *out)
{
    bool found;
    enum step step = descriptor_probe(e, selector, out, &found);
    if (step == STEP_NEXT && !found)
        return raise_exception_code(e, vector, selector_error(selector));
    return step;
}

enum step descriptor_read_upper(struct emu *e, uint16_t selector, const struct descriptor *d, uint32_t out[2])
{
    gva_t linear;
    if (!descriptor_address(e, selector, 16, &linear))
        return raise_exception_code(e, VEC_GP, selector_error(selector));
    return mem_read_system(e, d->linear + 8, out, 8);
}

enum step descriptor_set_accessed(struct emu *e, struct descriptor *d)
{
    if (descriptor_type(d) & TYPE_ACCESSED)
        return STEP_NEXT;
    uint8_t type = (uint8_t)(((d->high >> 8) & 0xff) | TYPE_ACCESSED);
    enum step step = mem_write_system(e, d->linear + 5, &type, 1);
    if (step == STEP_NEXT)
        d->high |= (uint32_t)TYPE_ACCESSED << 8;
    return step;
}

struct segment segment_of(const struct descriptor *d, uint16_t selector)
{
    return (struct segment){
        .base = descriptor_base(d),
        .limit = descriptor_limit(d),
        .selector = selector,
        .rights = (uint16_t)((d->high >> 8) & 0xf0ff),
    };
}

struct segment segment_null(uint16_t selector, unsigned dpl)
{
    return (struct segment){.selector = selector, .rights = (uint16_t)(dpl << SEGMENT_DPL_SHIFT)};
}

enum step stack_descriptor(struct emu *e, uint16_t selector, unsigned cpl, unsigned vector,
                           struct descriptor *out)
{
    enum step step = descriptor_read(e, selector, vector, out);
    if (step != STEP_NEXT)
        return step;
    if (selector_rpl(selector) != cpl || descriptor_dpl(out) != cpl || !descriptor_is_writable_data(out))
        return raise_exception_code(e, vector, selector_error(selector));
    if (!descriptor_present(out))
        return raise_exception_code(e, VEC_SS, selector_error(selector));
    return STEP_NEXT;
}

static enum step tss_read(struct emu *e, uint32_t offset, void *out, uint32_t length)
{
    const struct segment *tr = &e->cpu.tr;
    if (offset + length - 1 > tr->limit)
        return raise_exception_code(e, VEC_TS, selector_error(tr->selector));
    gva_t linear = tr->base + offset;
    return mem_read_system(e, vcpu_in_long_mode(&e->cpu) ? linear : (uint32_t)linear, out, length);
}

enum step tss_stack(struct emu *e, unsigned dpl, unsigned ist, uint16_t *ss, uint64_t *sp)
{
    enum step step;
    *sp = 0;
    if (vcpu_in_long_mode(&e->cpu)) {
        *ss = (uint16_t)dpl;
        step = tss_read(e, ist ? 0x24 + 8 * (ist - 1) : 4 + 8 * dpl, sp, 8);
        if (step == STEP_NEXT && !is_canonical(*sp))
            return raise_exception_code(e, VEC_SS, 0);
        return step;
    }
    bool wide = (e->cpu.tr.rights & 8) != 0; /* 32-bit TSS: types 9 and 11 */
    uint32_t width = wide ? 4 : 2;
    uint32_t at = wide ? 4 + 8 * dpl : 2 + 4 * dpl;
    uint8_t raw[6] = {0};
    step = tss_read(e, at, raw, width + 2);
    if (step == STEP_NEXT) {
        memcpy(sp, raw, width);
        memcpy(ss, raw + width, 2);
    }
    return step;
}
