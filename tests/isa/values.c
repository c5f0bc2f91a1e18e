/* Values that make instructions interesting. */
#include <string.h>

#include "tests/isa/isa.h"

uint64_t isa_random(struct isa_random *r)
{
    uint64_t z = (r->s += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

uint64_t isa_integer(struct isa_random *r)
{
    static const uint64_t edges[] = {0,
                                     1,
                                     2,
                                     0x7f,
                                     0x80,
                                     0xff,
                                     0x7fff,
                                     0x8000,
                                     0xffff,
                                     0x7fffffff,
                                     0x80000000,
                                     0xffffffff,
                                     0x100000000,
                                     0x7fffffffffffffff,
                                     0x8000000000000000,
                                     0xffffffffffffffff,
                                     0xfffffffffffffffe,
                                     0xaaaaaaaaaaaaaaaa};
    switch (isa_below(r, 4)) {
    case 0:
        return edges[isa_below(r, sizeof edges / sizeof *edges)];
    case 1:
        return isa_below(r, 70);
    case 2:
        return 1ull << isa_below(r, 64);
    default:
        return isa_random(r);
    }
}

static uint64_t interesting_double(struct isa_random *r)
{
    static const uint64_t values[] = {0,
                                      0x8000000000000000,
                                      0x3ff0000000000000,
                                      0xbff0000000000000,
                                      0x7ff0000000000000,
                                      0xfff0000000000000,
                                      0x7ff8000000000000,
                                      0x7ff0000000000001,
                                      0xfff8000000000001,
                                      0x0000000000000001,
                                      0x000fffffffffffff,
                                      0x0010000000000000,
                                      0x7fefffffffffffff,
                                      0x3fe0000000000000,
                                      0x4000000000000000,
                                      0x41dfffffffc00000,
                                      0x41e0000000000000,
                                      0xc1e0000000000000,
                                      0x43e0000000000000,
                                      0x3ff8000000000000,
                                      0x400921fb54442d18};
    if (isa_one_in(r, 3))
        return (isa_random(r) & 0x800fffffffffffff) | (uint64_t)(1000 + isa_below(r, 50)) << 52;
    return values[isa_below(r, sizeof values / sizeof *values)];
}

static uint32_t interesting_float(struct isa_random *r)
{
    static const uint32_t values[] = {0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000,
                                      0x7fc00000, 0x7f800001, 0xffc00001, 0x00000001, 0x007fffff, 0x00800000,
                                      0x7f7fffff, 0x3f000000, 0x40000000, 0x4effffff, 0x4f000000, 0xcf000000};
    if (isa_one_in(r, 3))
        return (uint32_t)(isa_random(r) & 0x807fffff) | (100 + isa_below(r, 50)) << 23;
    return values[isa_below(r, sizeof values / sizeof *values)];
}

void isa_fill_vector(struct isa_random *r, uint8_t *out, size_t bytes)
{
    unsigned kind = isa_below(r, 4);
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t v = isa_random(r);
        if (kind == 0)
            v = interesting_double(r);
        else if (kind == 1)
            v = interesting_float(r) | (uint64_t)interesting_float(r) << 32;
        else if (kind == 2)
            v = isa_integer(r);
        memcpy(out + i, &v, bytes - i < 8 ? bytes - i : 8);
    }
}

/* An 80-bit value; sometimes an encoding that the x87 does not support. */
static void fill_st(struct isa_random *r, uint8_t out[16])
{
    static const uint16_t exponents[] = {0,      1,      0x3fff, 0x3ffe, 0x4000,
                                         0x401e, 0x403e, 0x403f, 0x7ffe, 0x7fff};
    uint64_t significand = isa_random(r) | 1ull << 63;
    uint16_t exponent = (uint16_t)(0x3fff - 40 + isa_below(r, 80));
    if (isa_one_in(r, 2))
        exponent = exponents[isa_below(r, 10)];
    if (isa_one_in(r, 4))
        significand = isa_one_in(r, 2) ? 1ull << 63 : isa_integer(r);
    if (isa_one_in(r, 8)) {
        significand = 0;
        exponent = 0;
    }
    exponent |= (uint16_t)(isa_one_in(r, 3) ? 0x8000 : 0);
    memset(out, 0, 16);
    memcpy(out, &significand, 8);
    memcpy(out + 8, &exponent, 2);
}

void isa_fill_fpu(struct isa_random *r, struct fpu_state *f)
{
    for (unsigned i = 0; i < 16; i++)
        isa_fill_vector(r, f->ymm[i], 32);
    for (unsigned i = 0; i < 8; i++)
        fill_st(r, f->st[i]);
    f->ftw = isa_one_in(r, 4) ? (uint8_t)isa_random(r) : isa_one_in(r, 2) ? 0xff : 0;
    f->fsw = (uint16_t)(isa_random(r) & 0x7f00);
    f->fcw = FCW_DEFAULT;
    if (isa_one_in(r, 3))
        f->fcw = (uint16_t)((isa_below(r, 4) << 10) | ((isa_below(r, 3) + 1) << 8 & 0x300) | 0x7f);
    if (isa_one_in(r, 4))
        f->fcw = (uint16_t)(f->fcw & ~isa_below(r, 64));
    if (isa_one_in(r, 4))
        f->fsw |= (uint16_t)isa_below(r, 128);
    if (f->fsw & ~f->fcw & 0x3f) {
        if (isa_one_in(r, 8))
            f->fsw |= 0x8080;
        else
            f->fsw &= (uint16_t)~0x3f;
    }
    f->fop = f->fcs = f->fds = 0;
    f->fip = f->fdp = 0;
    f->mxcsr =
        MXCSR_DEFAULT | (isa_one_in(r, 3) ? isa_below(r, 4) << 13 | (isa_one_in(r, 2) ? 0x8000 : 0) : 0);
    f->mxcsr |= isa_one_in(r, 4) ? 0x40 : 0;
    f->mxcsr |= isa_one_in(r, 4) ? isa_below(r, 64) : 0;
    if (isa_one_in(r, 8))
        f->mxcsr &= ~(isa_below(r, 64) << 7);
}
