/* The x87 control registers as GDB numbers them: as FNSTENV stores them (SDM 1, 8.1.10), each in 32 bits. */
#include <string.h>

#include "gdbstub/internal.h"

enum { TAG_VALID = 0, TAG_ZERO = 1, TAG_SPECIAL = 2, TAG_EMPTY = 3 };
enum { EXPONENT_MAX = 0x7fff };

static unsigned top(const struct fpu_state *f)
{
    return f->fsw >> 11 & 7;
}

/* SDM 1, 8.1.7. */
static unsigned classify(const uint8_t st[16])
{
    uint64_t significand;
    memcpy(&significand, st, sizeof(significand));
    unsigned exponent = (unsigned)(st[8] | (st[9] & 0x7f) << 8);
    bool integer_bit = significand >> 63;
    if (exponent == 0 && significand == 0)
        return TAG_ZERO;
    return exponent == 0 || exponent == EXPONENT_MAX || !integer_bit ? TAG_SPECIAL : TAG_VALID;
}

/* Two bits for each physical register, register 0 lowest. */
static uint32_t tag_word(const struct fpu_state *f)
{
    uint32_t tags = 0;
    for (unsigned r = 0; r < 8; r++) {
        unsigned tag = f->ftw >> r & 1 ? classify(f->st[(r - top(f)) & 7]) : TAG_EMPTY;
        tags |= (uint32_t)tag << (2 * r);
    }
    return tags;
}

static uint8_t abridged(uint32_t tags)
{
    unsigned ftw = 0;
    for (unsigned r = 0; r < 8; r++)
        ftw |= (unsigned)((tags >> (2 * r) & 3) != TAG_EMPTY) << r;
    return (uint8_t)ftw;
}

/* In 64-bit code the pointers have 64 bits and no selector, and GDB's selector is bits 32..47, as in FXSAVE64's image. */
static uint32_t pointer_selector(const struct vcpu_state *state, uint64_t pointer, uint16_t selector)
{
    return vcpu_in_64bit_code(state) ? (uint32_t)(pointer >> 32 & 0xffff) : selector;
}

uint32_t fpu_control_get(const struct vcpu_state *state, enum fpu_control which)
{
    const struct fpu_state *f = &state->fpu;
    switch (which) {
    case FPU_FCTRL:
        return f->fcw;
    case FPU_FSTAT:
        return f->fsw;
    case FPU_FTAG:
        return tag_word(f);
    case FPU_FISEG:
        return pointer_selector(state, f->fip, f->fcs);
    case FPU_FIOFF:
        return (uint32_t)f->fip;
    case FPU_FOSEG:
        return pointer_selector(state, f->fdp, f->fds);
    case FPU_FOOFF:
        return (uint32_t)f->fdp;
    case FPU_FOP:
        return f->fop;
    }
    return 0;
}

static void set_selector(const struct vcpu_state *state, uint64_t *pointer, uint16_t *selector,
                         uint32_t value)
{
    if (vcpu_in_64bit_code(state))
        *pointer = (*pointer & ~((uint64_t)0xffff << 32)) | (uint64_t)(value & 0xffff) << 32;
    else
        *selector = (uint16_t)value;
}

void fpu_control_set(struct vcpu_state *state, enum fpu_control which, uint32_t value)
{
    struct fpu_state *f = &state->fpu;
    switch (which) {
    case FPU_FCTRL:
        f->fcw = (uint16_t)((value & 0x1f7f) | 0x40);
        break;
    case FPU_FSTAT:
        f->fsw = (uint16_t)value;
        break;
    case FPU_FTAG:
        f->ftw = abridged(value);
        break;
    case FPU_FISEG:
        set_selector(state, &f->fip, &f->fcs, value);
        break;
    case FPU_FIOFF:
        f->fip = (f->fip & ~(uint64_t)UINT32_MAX) | value;
        break;
    case FPU_FOSEG:
        set_selector(state, &f->fdp, &f->fds, value);
        break;
    case FPU_FOOFF:
        f->fdp = (f->fdp & ~(uint64_t)UINT32_MAX) | value;
        break;
    case FPU_FOP:
        f->fop = value & 0x7ff;
        break;
    }
}
