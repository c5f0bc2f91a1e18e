/* From a form, an opcode or bytes to a case: an encoding of it, and a state that makes it interesting. */
#include <string.h>

#include "tests/isa/aim.h"

/* ---- bytes ---- */

struct bytes {
    uint8_t *out;
    unsigned n;
};

static void put(struct bytes *b, unsigned byte)
{
    if (b->n < ISA_BYTES_MAX)
        b->out[b->n++] = (uint8_t)byte;
}

/* Prefixes that the form needs, those that say something about its operand, and now and then some that say nothing. */
static void put_prefixes(struct isa_random *r, struct bytes *b, const struct isa_template *t, bool long_mode)
{
    static const uint8_t segments[] = {0x64, 0x65, 0x64, 0x65, 0x2e, 0x36, 0x3e, 0x26};
    static const uint8_t any[] = {0x66, 0x67, 0xf2, 0xf3, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, 0xf0};
    uint8_t list[24];
    unsigned n = 0;
    if (t->p67)
        list[n++] = 0x67;
    if (!t->vex && t->p66)
        list[n++] = 0x66;
    if (!t->vex && t->lock)
        list[n++] = 0xf0;
    if (!t->vex && t->prefix)
        list[n++] = t->prefix;
    if (isa_one_in(r, 4))
        list[n++] = segments[isa_below(r, sizeof segments)];
    if (!t->vex && isa_one_in(r, 24))
        list[n++] = any[isa_below(r, sizeof any)];
    if (n && isa_one_in(r, 24))
        list[n] = list[isa_below(r, n)], n++;
    if (long_mode && !t->vex && isa_one_in(r, 48))
        list[n++] = (uint8_t)(0x40 | isa_below(r, 16)); /* not in front of the opcode: ignored */
    if (!t->vex && isa_one_in(r, 200))
        while (n < 13)
            list[n++] = isa_one_in(r, 2) ? 0x66 : 0x2e;
    for (unsigned i = n; i > 1; i--) {
        unsigned k = isa_below(r, i);
        uint8_t swap = list[i - 1];
        list[i - 1] = list[k];
        list[k] = swap;
    }
    /* A REX prefix that ended up last would count. */
    if (n && (list[n - 1] & 0xf0) == 0x40 && long_mode)
        n--;
    for (unsigned i = 0; i < n; i++)
        put(b, list[i]);
}

static void put_legacy_opcode(struct isa_random *r, struct bytes *b, const struct isa_template *t,
                              bool long_mode)
{
    if (long_mode && (t->w || t->b || isa_one_in(r, 2)))
        put(b, 0x40 | (t->w ? 8 : 0) | (t->b ? 1 : 0) | isa_below(r, 8));
    if (t->map)
        put(b, 0x0f);
    if (t->map > 1)
        put(b, t->map == 2 ? 0x38 : 0x3a);
    put(b, t->opcode);
}

/* Two bytes where they are enough. Outside 64-bit mode the bits that name registers 8 to 15 are set: else it is LES. */
static void put_vex_opcode(struct isa_random *r, struct bytes *b, const struct isa_template *t,
                           bool long_mode)
{
    unsigned rxb = long_mode ? isa_below(r, 8) : 7;
    unsigned vvvv = isa_one_in(r, 2) ? 15 : isa_below(r, 16);
    if (!long_mode)
        vvvv |= 8;
    if (t->map == 1 && !t->w && (rxb & 3) == 3 && isa_one_in(r, 2)) {
        put(b, 0xc5);
        put(b, (rxb & 4) << 5 | vvvv << 3 | (t->l ? 4 : 0) | t->prefix);
    } else {
        put(b, 0xc4);
        put(b, rxb << 5 | t->map);
        put(b, (t->w ? 0x80 : 0) | vvvv << 3 | (t->l ? 4 : 0) | t->prefix);
    }
    put(b, t->opcode);
}

static void put_operands(struct isa_random *r, struct bytes *b, const struct isa_template *t)
{
    if (t->has_modrm) {
        unsigned reg = t->group ? t->modrm >> 3 & 7 : isa_below(r, 8);
        unsigned mod = t->modrm >> 6 == 3 ? 3 : isa_below(r, 3);
        unsigned rm = t->fixed_rm && mod == 3 ? t->modrm & 7 : isa_below(r, 8);
        put(b, mod << 6 | reg << 3 | rm);
    }
    for (unsigned i = 0; i < 10; i++)
        put(b, isa_below(r, 256));
}

static unsigned template_variant(struct isa_random *r, const struct isa_template *t, bool long_mode,
                                 uint8_t *out)
{
    struct bytes b = {.out = out};
    put_prefixes(r, &b, t, long_mode);
    if (t->vex)
        put_vex_opcode(r, &b, t, long_mode);
    else
        put_legacy_opcode(r, &b, t, long_mode);
    put_operands(r, &b, t);
    return b.n;
}

/* ---- the state ---- */

static uint16_t data_selector(struct isa_random *r)
{
    static const uint16_t list[] = {ISA_SEL_DATA,  ISA_SEL_DATA, ISA_SEL_DOWN, ISA_SEL_READ_ONLY, 0,
                                    ISA_SEL_CODE32};
    uint16_t selector = list[isa_below(r, 6)];
    return (selector & 4) && !native_has_ldt() ? ISA_SEL_FLAT : selector;
}

static void fill_segments(struct isa_random *r, struct vcpu_state *s, bool long_mode)
{
    static const uint64_t bases[] = {0, ISA_LDT_BASE, 0x1fff1234, 0x00007ffffffff000, 0xffff800000000000};
    for (unsigned i = SEG_ES; i <= SEG_GS; i++) {
        if (i == SEG_CS || i == SEG_SS)
            continue;
        uint16_t selector = ISA_SEL_FLAT;
        if (isa_one_in(r, i >= SEG_FS ? 2 : 8))
            selector = data_selector(r);
        if (long_mode && i >= SEG_FS)
            selector = 0;
        s->seg[i] = guest_segment(selector);
        if (i >= SEG_FS && (long_mode || selector == ISA_SEL_FLAT))
            s->seg[i].base = bases[isa_below(r, long_mode ? 5 : 3)];
    }
}

static void fill_state(struct isa_random *r, struct isa_case *c, const struct vcpu_state *base)
{
    bool long_mode = base->seg[SEG_CS].rights & SEGMENT_L;
    c->in = *base;
    for (unsigned i = 0; i < GPR_COUNT; i++)
        c->in.gpr[i] = long_mode ? isa_integer(r) : (uint32_t)isa_integer(r);
    c->in.rflags |= (isa_random(r) & RFLAGS_STATUS) | (isa_one_in(r, 8) ? RFLAGS_DF : 0);
    c->in.rflags |= isa_one_in(r, 12) ? RFLAGS_AC : 0;
    isa_fill_fpu(r, &c->in.fpu);
    fill_segments(r, &c->in, long_mode);
}

/* Not the instructions on mask registers, nor VPERMQ and VPERMPD with W = 0, which AMD's CPUs execute. */
static bool vex_is_compared(const uint8_t *b, unsigned n)
{
    bool long_form = b[0] == 0xc4;
    unsigned map = long_form ? b[1] & 31 : 1, opcode = b[long_form ? 3 : 2];
    if (n < 4)
        return false;
    if (map == 1)
        return (opcode & 0xf0) != 0x40 && (opcode & 0xf0) != 0x90;
    return map != 3 || (opcode > 1 && (opcode & 0xfc) != 0x30);
}

bool isa_undefined_is_compared(const uint8_t *b, unsigned n)
{
    unsigned i = 0;
    while (i < n && (b[i] == 0x66 || b[i] == 0x67 || (b[i] & 0xfe) == 0xf2 || b[i] == 0xf0 ||
                     (b[i] & 0xe7) == 0x26 || (b[i] & 0xfe) == 0x64))
        i++;
    if (i < n && (b[i] & 0xf0) == 0x40)
        i++;
    if (i >= n || b[i] == 0x62)
        return false;
    if (b[i] == 0xc4 || b[i] == 0xc5)
        return vex_is_compared(b + i, n - i);
    if (b[i] != 0x0f || i + 1 >= n)
        return true;
    unsigned next = b[i + 1];
    bool enters_kernel = next == 0x05 || next == 0x07 || next == 0x34 || next == 0x35;
    return !(next <= 1 || next == 0x0f || next == 0x24 || next == 0x26 || (next & 0xfc) == 0x20 ||
             enters_kernel);
}

/* So that it lies across a page of code, or across the end of the code. */
static void put_across(struct isa_random *r, struct isa_case *c, unsigned length)
{
    c->in.rip = ISA_CODE + (isa_one_in(r, 2) ? 0x1000 : ISA_CODE_BYTES) - isa_below(r, length) - 1;
}

static bool finish(struct isa_random *r, const struct isa_forms *forms, enum isa_place place,
                   const struct vcpu_state *base, struct isa_case *c)
{
    struct aim a = {.r = r, .c = c, .long_mode = forms->long_mode, .place = place};
    ZydisDecoder decoder;
    isa_init_decoder(&decoder, forms->long_mode);
    fill_state(r, c, base);
    c->form = -1;
    c->place = place;
    c->in.rip = ISA_CODE + 16 * (uint64_t)isa_below(r, 64);
    ZyanStatus status = ZydisDecoderDecodeFull(&decoder, c->bytes, c->length, &a.insn, a.operands);
    c->valid = ZYAN_SUCCESS(status);
    if (!c->valid) {
        if (isa_one_in(r, 8))
            put_across(r, c, 15);
        return isa_undefined_is_compared(c->bytes, c->length);
    }
    c->length = a.insn.length;
    c->mnemonic = (unsigned)a.insn.mnemonic;
    c->form = isa_forms_find(forms, &a.insn, a.operands);
    if (c->form < 0 || forms->form[c->form].reason != ISA_COMPARED)
        return false;
    if (isa_one_in(r, 32))
        put_across(r, c, a.insn.length);
    if (!aim_operands(&a))
        return false;
    for (unsigned i = 0; i < GPR_COUNT && !forms->long_mode; i++)
        c->in.gpr[i] = (uint32_t)c->in.gpr[i];
    return true;
}

bool isa_generate(struct isa_random *r, const struct isa_forms *forms, unsigned form, enum isa_place place,
                  const struct vcpu_state *base, struct isa_case *c)
{
    const struct isa_template *t = &forms->form[form].how;
    if (forms->form[form].reason != ISA_COMPARED)
        return false;
    bool good = false;
    for (unsigned i = 0; i < 16; i++) {
        memset(c, 0, sizeof *c);
        c->length = template_variant(r, t, forms->long_mode, c->bytes);
        good = finish(r, forms, place, base, c);
        if (good && c->form == (int)form)
            return true;
        /* What came out instead is worth a try as well, now and then. */
        if (good && isa_one_in(r, 8))
            return true;
    }
    return good;
}

bool isa_generate_bytes(struct isa_random *r, const struct isa_forms *forms, const uint8_t *bytes,
                        unsigned length, enum isa_place place, const struct vcpu_state *base,
                        struct isa_case *c)
{
    memset(c, 0, sizeof *c);
    memcpy(c->bytes, bytes, length);
    c->length = length;
    return finish(r, forms, place, base, c);
}

/* Legacy: map (4) x prefix (4) x opcode. VEX: map (3) x pp (4) x opcode. REX, W, L, registers are random. */
bool isa_generate_opcode(struct isa_random *r, const struct isa_forms *forms, unsigned opcode,
                         const struct vcpu_state *base, struct isa_case *c)
{
    static const uint8_t mandatory[4] = {0, 0x66, 0xf3, 0xf2};
    unsigned map = opcode >> 10, pp = opcode >> 8 & 3;
    struct isa_template t = {.vex = map > 3,
                             .opcode = (uint8_t)opcode,
                             .has_modrm = true,
                             .w = isa_one_in(r, 2),
                             .l = isa_one_in(r, 2),
                             .lock = isa_one_in(r, 24),
                             .p67 = isa_one_in(r, 12),
                             .modrm = isa_one_in(r, 3) ? 0xc0 : 0};
    t.map = (uint8_t)(t.vex ? map - 3 : map);
    t.prefix = (uint8_t)(t.vex ? pp : mandatory[pp] == 0x66 ? 0 : mandatory[pp]);
    t.p66 = !t.vex && mandatory[pp] == 0x66;
    memset(c, 0, sizeof *c);
    c->length = template_variant(r, &t, forms->long_mode, c->bytes);
    return finish(r, forms, PLACE_RANDOM, base, c);
}

void isa_fill_memory(struct isa_random *r, uint8_t *data, size_t length)
{
    for (size_t i = 0; i < length; i += 64)
        isa_fill_vector(r, data + i, 64);
}
