/*
 * What an unmasked overflow or underflow leaves in MXCSR. The host runs such instructions with all exceptions masked, and then an
 * overflow always counts as inexact. Unmasked, PE says whether the result would be inexact with an unbounded exponent
 * (SDM 1, 4.9.1.5 and 4.9.1.6). That depends on no rounding mode: a number is exact when its significant bits fit.
 * DPPS and DPPD are several operations, the first of which to raise an unmasked exception ends the instruction.
 */
#include <string.h>

#include "core/x86/stub.h"

__extension__ typedef unsigned __int128 uint128;

#define TOO_WIDE (((uint128)1 << 120) + 1) /* a mantissa that fits no format */

#define MXCSR_OE  0x08u
#define MXCSR_PE  0x20u
#define MXCSR_DAZ 0x40u

/* mantissa * 2^exponent; finite is false for infinities and NaNs. */
struct number {
    bool negative, finite;
    uint128 mantissa;
    int exponent;
};

/* A format: bits of the significand, the exponents of the smallest and of the largest finite number's last and first bit. */
struct format {
    unsigned precision;
    int lowest, highest;
};

static const struct format single = {24, -149, 127}, precise = {53, -1074, 1023}, half = {11, -24, 15};

static struct number number_of(uint64_t bits, bool wide, uint32_t mxcsr)
{
    unsigned fraction_bits = wide ? 52 : 23, exponent_bits = wide ? 11 : 8;
    unsigned biased = (unsigned)(bits >> fraction_bits) & ((1u << exponent_bits) - 1);
    uint64_t fraction = bits & ((1ull << fraction_bits) - 1);
    if (biased == 0 && (mxcsr & MXCSR_DAZ))
        fraction = 0;
    int lowest = wide ? precise.lowest : single.lowest;
    return (struct number){
        .negative = bits >> (wide ? 63 : 31) & 1,
        .finite = biased != (1u << exponent_bits) - 1,
        .mantissa = biased ? fraction | 1ull << fraction_bits : fraction,
        .exponent = biased ? lowest + (int)biased - 1 : lowest,
    };
}

static unsigned width(uint128 m)
{
    uint64_t high = (uint64_t)(m >> 64), low = (uint64_t)m;
    if (high)
        return 128 - (unsigned)__builtin_clzll(high);
    return low ? 64 - (unsigned)__builtin_clzll(low) : 0;
}

/* Makes the mantissa odd. */
static struct number strip(struct number x)
{
    while (x.mantissa && !(x.mantissa & 1)) {
        x.mantissa >>= 1;
        x.exponent++;
    }
    return x;
}

/* PE, for an exact value: what of it a format cannot hold, where that is not reported by an unmasked OE or UE instead. */
static bool is_inexact(struct number exact, const struct format *f, uint32_t mxcsr)
{
    struct number x = strip(exact);
    if (!x.finite || x.mantissa == 0)
        return false;
    int first = x.exponent + (int)width(x.mantissa) - 1;
    if (width(x.mantissa) > f->precision)
        return true;
    bool masked_overflow = mxcsr & MXCSR_OE << MXCSR_MASK_SHIFT,
         masked_underflow = mxcsr & MXCSR_UE << MXCSR_MASK_SHIFT;
    bool tiny = first < f->lowest + (int)f->precision - 1;
    bool flushed = (mxcsr & MXCSR_FTZ) && f->precision != half.precision;
    return (first > f->highest && masked_overflow) ||
           (tiny && masked_underflow && (flushed || x.exponent < f->lowest));
}

static struct number product(struct number a, struct number b)
{
    return (struct number){a.negative != b.negative, a.finite && b.finite, a.mantissa * b.mantissa,
                           a.exponent + b.exponent};
}

/* A quotient that is not a binary fraction gets a mantissa too wide for any format. */
static struct number quotient(struct number a, struct number b)
{
    a = strip(a);
    b = strip(b);
    struct number q = {a.negative != b.negative, a.finite && b.finite && b.mantissa, 0,
                       a.exponent - b.exponent};
    if (q.finite)
        q.mantissa = a.mantissa % b.mantissa == 0 ? a.mantissa / b.mantissa : TOO_WIDE;
    return q;
}

/* The sign of the sum is left open. One of the two may have up to 106 bits, the other up to 53. */
static struct number sum(struct number a, struct number b)
{
    if (!a.finite || !b.finite)
        return (struct number){.finite = false};
    a = strip(a);
    b = strip(b);
    if (a.mantissa == 0 || b.mantissa == 0)
        return a.mantissa ? a : b;
    struct number high = a.exponent > b.exponent ? a : b, low = a.exponent > b.exponent ? b : a;
    int shift = high.exponent - low.exponent, reach = (int)width(high.mantissa) + shift;
    /* Too far apart for the first bit to cancel, and the last bit is there: all between them is needed. */
    bool far_apart = shift > 0 && reach >= (int)width(low.mantissa) + 2 && reach > 100;
    if (far_apart)
        return (struct number){.finite = true, .mantissa = TOO_WIDE, .exponent = low.exponent};
    uint128 x = high.mantissa << shift, y = low.mantissa;
    uint128 difference = x > y ? x - y : y - x;
    return (struct number){.finite = true,
                           .mantissa = high.negative == low.negative ? x + y : difference,
                           .exponent = low.exponent};
}

static struct number negated(struct number x, bool really)
{
    x.negative ^= really;
    return x;
}

/* ---- which operation ---- */

enum operation { OTHER, ADD, SUB, MUL, DIV, ADDSUB, HADD, HSUB, NARROW, TO_HALF, FMA, DOT };

struct description {
    uint8_t operation;                /* enum operation */
    bool wide, scalar;                /* of the operands: doubles; only the lowest element */
    bool subtract, negate, alternate; /* FMA: FMSUB..., FNM..., FMADDSUB and FMSUBADD */
    uint8_t order[3];                 /* FMA: the operands that are the factors, and the one that is added */
};

/* What comes after F: [n]m{add,sub,addsub,subadd}{132,213,231}. The name tells all. */
static void describe_fma(const char *name, struct description *d)
{
    d->operation = FMA;
    d->negate = *name == 'n';
    name += d->negate ? 2 : 1;
    d->alternate = strncmp(name, "addsub", 6) == 0 || strncmp(name, "subadd", 6) == 0;
    d->subtract = *name == 's';
    name += d->alternate ? 6 : 3;
    for (unsigned i = 0; i < 3; i++)
        d->order[i] = (uint8_t)(name[i] - '1');
}

static struct description describe(const struct plan *p)
{
    static const struct {
        const char *name;
        uint8_t operation;
    } names[] = {
        {"addsub", ADDSUB},   {"add", ADD},         {"sub", SUB},          {"mul", MUL},
        {"div", DIV},         {"hadd", HADD},       {"hsub", HSUB},        {"dpp", DOT},
        {"cvtsd2ss", NARROW}, {"cvtpd2ps", NARROW}, {"cvtps2ph", TO_HALF},
    };
    const char *name = ZydisMnemonicGetString((ZydisMnemonic)p->mnemonic);
    name += *name == 'v';
    size_t n = strlen(name);
    struct description d = {.operation = OTHER, .wide = name[n - 1] == 'd', .scalar = name[n - 2] == 's'};
    if (strncmp(name, "fm", 2) == 0 || strncmp(name, "fnm", 3) == 0)
        describe_fma(name + 1, &d);
    for (size_t i = 0; i < ARRAY_LEN(names) && d.operation == OTHER; i++)
        if (strncmp(name, names[i].name, strlen(names[i].name)) == 0)
            d.operation = names[i].operation;
    if (d.operation == NARROW || d.operation == TO_HALF) {
        d.wide = d.operation == NARROW;
        d.scalar = name[3] == 's';
    }
    return d;
}

static const struct format *result_format(const struct description *d)
{
    return d->operation == TO_HALF ? &half : d->wide && d->operation != NARROW ? &precise : &single;
}

/* ---- its operands ---- */

struct operands {
    const uint8_t *source[3]; /* the explicit ones in order, the result included; NULL: not there */
    const uint8_t *a, *b;     /* the last two */
    unsigned count;           /* elements */
};

static struct operands find_operands(const struct emu *e, const struct plan *p, const struct description *d,
                                     const uint8_t *memory)
{
    struct operands o = {0};
    unsigned registers = 0;
    for (unsigned i = 0; i < 3 && i < p->operand_count; i++) {
        bool is_memory = p->reg_is_memory >> i & 1;
        bool is_register = !is_memory && registers < 3 && p->reg[registers] < 16;
        o.source[i] = is_memory ? memory : is_register ? e->cpu.fpu.ymm[p->reg[registers]] : NULL;
        registers += is_register;
    }
    o.a = o.source[2] ? o.source[1] : o.source[0];
    o.b = o.source[2] ? o.source[2] : o.source[1];
    bool converts = d->operation == NARROW || d->operation == TO_HALF;
    o.count = d->scalar ? 1 : p->operand_bytes[converts ? 1 : 0] / (d->wide ? 8u : 4u);
    return o;
}

static struct number element(const uint8_t *source, unsigned i, bool wide, uint32_t mxcsr)
{
    uint64_t bits = 0;
    size_t bytes = wide ? 8 : 4;
    memcpy(&bits, source + bytes * i, bytes);
    return number_of(bits, wide, mxcsr);
}

/* The exact result number i. Of HADD and HSUB, only which pairs there are matters, not where their results go. */
static struct number exact_result(const struct description *d, const struct operands *o, unsigned i,
                                  uint32_t mxcsr)
{
    bool wide = d->wide, odd = i & 1;
    switch (d->operation) {
    case ADD:
    case SUB:
    case ADDSUB: {
        bool minus = d->operation == SUB || (d->operation == ADDSUB && !odd);
        return sum(element(o->a, i, wide, mxcsr), negated(element(o->b, i, wide, mxcsr), minus));
    }
    case MUL:
        return product(element(o->a, i, wide, mxcsr), element(o->b, i, wide, mxcsr));
    case DIV:
        return quotient(element(o->a, i, wide, mxcsr), element(o->b, i, wide, mxcsr));
    case HADD:
    case HSUB: {
        const uint8_t *from = odd ? o->b : o->a;
        unsigned first = i & ~1u;
        return sum(element(from, first, wide, mxcsr),
                   negated(element(from, first + 1, wide, mxcsr), d->operation == HSUB));
    }
    case FMA: {
        bool minus = d->alternate ? odd == d->subtract : d->subtract;
        struct number factors = product(element(o->source[d->order[0]], i, wide, mxcsr),
                                        element(o->source[d->order[1]], i, wide, mxcsr));
        return sum(negated(factors, d->negate),
                   negated(element(o->source[d->order[2]], i, wide, mxcsr), minus));
    }
    default:
        return element(o->b, i, wide, mxcsr);
    }
}

/* The flags found with all exceptions masked, with PE as it is beside an unmasked OE or UE. */
static uint32_t correct_pe(const struct description *d, const struct operands *o, uint32_t mxcsr,
                           uint32_t found)
{
    uint32_t unmasked = ~(mxcsr >> MXCSR_MASK_SHIFT) & MXCSR_EXCEPTIONS;
    if (!(found & unmasked & (MXCSR_OE | MXCSR_UE)) || (found & unmasked & MXCSR_PRE))
        return found;
    found &= ~MXCSR_PE;
    for (unsigned i = 0; i < o->count; i++)
        if (is_inexact(exact_result(d, o, i, mxcsr), result_format(d), mxcsr))
            found |= MXCSR_PE;
    return found;
}

/* ---- DPPS, DPPD ---- */

/* 16 bytes of products or sums as the host makes them; returns the flags. */
static uint32_t host_operation(bool add, bool wide, const uint8_t *a, const uint8_t *b, uint32_t mxcsr,
                               uint8_t *out)
{
    typedef double vector __attribute__((vector_size(16)));
    vector x, y;
    uint32_t host, flags;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
#define RUN(operation)                                                                                       \
    __asm__ volatile("stmxcsr %1\n\tldmxcsr %4\n\t" operation " %3, %0\n\tstmxcsr %2\n\tldmxcsr %1"          \
                     : "+x"(x), "=m"(host), "=m"(flags)                                                      \
                     : "x"(y), "m"(mxcsr))
    if (add && wide)
        RUN("addpd");
    else if (add)
        RUN("addps");
    else if (wide)
        RUN("mulpd");
    else
        RUN("mulps");
#undef RUN
    memcpy(out, &x, sizeof x);
    return flags & MXCSR_EXCEPTIONS;
}

/* One operation of a DPPS or DPPD on up to 32 bytes, with the flags it has by itself. */
static uint32_t dot_step(const struct description *d, bool add, const uint8_t *a, const uint8_t *b,
                         unsigned bytes, uint32_t mxcsr, uint8_t *out)
{
    uint32_t unmasked = ~(mxcsr >> MXCSR_MASK_SHIFT) & MXCSR_EXCEPTIONS, found = 0;
    uint32_t quiet = (mxcsr & ~MXCSR_EXCEPTIONS) | MXCSR_MASKS;
    uint8_t ignored[16];
    for (unsigned at = 0; at < bytes; at += 16) {
        if (unmasked & MXCSR_UE) /* every tiny result counts, exact ones too */
            found |= host_operation(add, d->wide, a + at, b + at, quiet | MXCSR_FTZ, ignored) & MXCSR_UE;
        uint32_t with = unmasked & MXCSR_UE ? quiet & ~MXCSR_FTZ : quiet;
        found |= host_operation(add, d->wide, a + at, b + at, with, out + at);
    }
    if (found & unmasked & MXCSR_PRE)
        return found & MXCSR_PRE;
    struct description step = {.operation = add ? ADD : MUL, .wide = d->wide};
    struct operands o = {.a = a, .b = b, .count = bytes / (d->wide ? 8 : 4)};
    return correct_pe(&step, &o, mxcsr, found);
}

/* out[i] = in[i ^ distance] */
static void exchange(const uint8_t *in, unsigned bytes, unsigned distance, bool wide, uint8_t *out)
{
    size_t each = wide ? 8 : 4;
    for (unsigned i = 0; i < bytes / each; i++)
        memcpy(out + each * i, in + each * (i ^ distance), each);
}

/* The products, then their sums in pairs, then (DPPS) the sum of these; SDM 2, DPPS. */
static uint32_t dot_flags(const struct description *d, const struct plan *p, const struct operands *o,
                          uint32_t mxcsr)
{
    uint32_t unmasked = ~(mxcsr >> MXCSR_MASK_SHIFT) & MXCSR_EXCEPTIONS;
    unsigned each = d->wide ? 8 : 4, bytes = o->count * each, in_lane = 16 / each;
    uint8_t a[32] = {0}, b[32] = {0}, result[32];
    for (unsigned i = 0; i < o->count; i++) {
        if (!(p->imm >> (4 + i % in_lane) & 1))
            continue;
        memcpy(a + each * i, o->a + each * i, each);
        memcpy(b + each * i, o->b + each * i, each);
    }
    uint32_t flags = dot_step(d, false, a, b, bytes, mxcsr, result);
    for (unsigned distance = 1; distance < in_lane && !(flags & unmasked); distance *= 2) {
        memcpy(a, result, bytes);
        exchange(a, bytes, distance, d->wide, b);
        flags |= dot_step(d, true, a, b, bytes, mxcsr, result);
    }
    return flags;
}

bool simd_hides_tiny(const struct emu *e, const struct plan *p, uint32_t mxcsr)
{
    if (p->mnemonic != ZYDIS_MNEMONIC_VCVTPS2PH)
        return false;
    struct description d = describe(p);
    struct operands o = find_operands(e, p, &d, NULL); /* its memory operand is the result */
    for (unsigned i = 0; i < o.count; i++) {
        struct number x = strip(element(o.b, i, false, mxcsr));
        int first = x.exponent + (int)width(x.mantissa) - 1;
        if (x.finite && x.mantissa && first < half.lowest + (int)half.precision - 1 &&
            x.exponent >= half.lowest)
            return true;
    }
    return false;
}

uint32_t simd_unmasked_flags(const struct emu *e, const struct plan *p, const uint8_t *memory, uint32_t mxcsr,
                             uint32_t found)
{
    struct description d = describe(p);
    if (d.operation == OTHER)
        return found;
    struct operands o = find_operands(e, p, &d, memory);
    return d.operation == DOT ? dot_flags(&d, p, &o, mxcsr) : correct_pe(&d, &o, mxcsr, found);
}
