/* The canonical encoding of the vCPU state: trace-format/SPEC.md, "vCPU state, version 1". */
#include "core/vcpu_state.h"

#include <errno.h>
#include <string.h>

static void put_segment(struct buffer *out, const struct segment *s)
{
    buffer_put_u64(out, s->base);
    buffer_put_u32(out, s->limit);
    buffer_put_u16(out, s->selector);
    buffer_put_u16(out, s->rights);
}

static void get_segment(struct reader *in, struct segment *s)
{
    s->base = reader_u64(in);
    s->limit = reader_u32(in);
    s->selector = reader_u16(in);
    s->rights = reader_u16(in);
}

static void put_table(struct buffer *out, const struct descriptor_table *t)
{
    buffer_put_u64(out, t->base);
    buffer_put_u16(out, t->limit);
}

static void get_table(struct reader *in, struct descriptor_table *t)
{
    t->base = reader_u64(in);
    t->limit = reader_u16(in);
}

/* The 64-bit registers that follow the descriptor tables, in encoding order. */
#define SYSTEM_REGISTERS(X)                                                                                  \
    X(cr0)                                                                                                   \
    X(cr2)                                                                                                   \
    X(cr3)                                                                                                   \
    X(cr4) X(cr8) X(xcr0) X(dr[0]) X(dr[1]) X(dr[2]) X(dr[3]) X(dr6) X(dr7) X(efer) X(star) X(lstar)         \
        X(cstar) X(sfmask) X(kernel_gs_base) X(sysenter_cs) X(sysenter_esp) X(sysenter_eip) X(tsc_aux)       \
            X(pat) X(apic_base) X(misc_enable)

void vcpu_state_encode(const struct vcpu_state *s, struct buffer *out)
{
    buffer_put_u32(out, VCPU_STATE_VERSION);
    for (unsigned i = 0; i < GPR_COUNT; i++)
        buffer_put_u64(out, s->gpr[i]);
    buffer_put_u64(out, s->rip);
    buffer_put_u64(out, s->rflags);
    for (unsigned i = 0; i < SEG_COUNT; i++)
        put_segment(out, &s->seg[i]);
    put_segment(out, &s->ldtr);
    put_segment(out, &s->tr);
    put_table(out, &s->gdtr);
    put_table(out, &s->idtr);
#define PUT(field) buffer_put_u64(out, s->field);
    SYSTEM_REGISTERS(PUT)
#undef PUT
    const struct fpu_state *f = &s->fpu;
    buffer_put(out, f->ymm, sizeof(f->ymm));
    for (unsigned i = 0; i < 8; i++)
        buffer_put(out, f->st[i], 10);
    buffer_put_u16(out, f->fcw);
    buffer_put_u16(out, f->fsw);
    buffer_put_u8(out, f->ftw);
    buffer_put_u16(out, f->fop);
    buffer_put_u16(out, f->fcs);
    buffer_put_u16(out, f->fds);
    buffer_put_u64(out, f->fip);
    buffer_put_u64(out, f->fdp);
    buffer_put_u32(out, f->mxcsr);
    buffer_put_u8(out, s->shadow);
    buffer_put_u8(out, s->nmi_blocked);
    buffer_put_u8(out, s->activity);
    buffer_put_u8(out, s->pending_debug);
}

static int check_decoded(const struct vcpu_state *s, struct error *err)
{
    if (s->shadow > SHADOW_MOV_SS || s->nmi_blocked > 1 || s->activity > ACTIVITY_SHUTDOWN ||
        (s->pending_debug & ~0x4f))
        return error_set_kind(
            err, ERROR_DAMAGED, -EINVAL,
            "vCPU state: shadow %u, NMI blocking %u, activity %u or pending debug 0x%x is out of range",
            s->shadow, s->nmi_blocked, s->activity, s->pending_debug);
    return 0;
}

int vcpu_state_decode(struct vcpu_state *s, const uint8_t *data, size_t length, struct error *err)
{
    struct reader in = reader_of(data, length);
    memset(s, 0, sizeof(*s));
    uint32_t version = reader_u32(&in);
    if (!in.failed && version != VCPU_STATE_VERSION)
        return error_set_kind(err, ERROR_DAMAGED, -EINVAL,
                              "vCPU state has version %u; this dejavm reads version %u", version,
                              VCPU_STATE_VERSION);
    for (unsigned i = 0; i < GPR_COUNT; i++)
        s->gpr[i] = reader_u64(&in);
    s->rip = reader_u64(&in);
    s->rflags = reader_u64(&in);
    for (unsigned i = 0; i < SEG_COUNT; i++)
        get_segment(&in, &s->seg[i]);
    get_segment(&in, &s->ldtr);
    get_segment(&in, &s->tr);
    get_table(&in, &s->gdtr);
    get_table(&in, &s->idtr);
#define GET(field) s->field = reader_u64(&in);
    SYSTEM_REGISTERS(GET)
#undef GET
    struct fpu_state *f = &s->fpu;
    reader_get(&in, f->ymm, sizeof(f->ymm));
    for (unsigned i = 0; i < 8; i++)
        reader_get(&in, f->st[i], 10);
    f->fcw = reader_u16(&in);
    f->fsw = reader_u16(&in);
    f->ftw = reader_u8(&in);
    f->fop = reader_u16(&in);
    f->fcs = reader_u16(&in);
    f->fds = reader_u16(&in);
    f->fip = reader_u64(&in);
    f->fdp = reader_u64(&in);
    f->mxcsr = reader_u32(&in);
    s->shadow = reader_u8(&in);
    s->nmi_blocked = reader_u8(&in);
    s->activity = reader_u8(&in);
    s->pending_debug = reader_u8(&in);
    if (in.failed || reader_left(&in) != 0)
        return error_set_kind(err, ERROR_DAMAGED, -EINVAL, "vCPU state of %zu bytes has the wrong length",
                              length);
    return check_decoded(s, err);
}

uint64_t vcpu_state_hash(const struct vcpu_state *s)
{
    struct buffer b = {0};
    vcpu_state_encode(s, &b);
    uint64_t h = b.failed ? 0 : hash64(b.data, b.length);
    buffer_free(&b);
    return h;
}

void vcpu_state_without_hidden(struct vcpu_state *s)
{
    s->rflags &= ~RFLAGS_RF;
    s->fpu.fip = s->fpu.fdp = 0;
    s->fpu.fop = s->fpu.fcs = s->fpu.fds = 0;
    if (!vcpu_in_64bit_code(s))
        return;
    static const uint8_t data_segments[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    for (size_t i = 0; i < ARRAY_LEN(data_segments); i++) {
        struct segment *segment = &s->seg[data_segments[i]];
        *segment = (struct segment){.base = segment->base};
    }
    s->seg[SEG_ES].base = s->seg[SEG_DS].base = 0;
}

uint64_t vcpu_state_digest(const struct vcpu_state *s)
{
    struct vcpu_state plain = *s;
    vcpu_state_without_hidden(&plain);
    return vcpu_state_hash(&plain);
}

uint64_t fpu_state_hash(const struct fpu_state *f)
{
    uint8_t bytes[sizeof(f->ymm) + 8 * 10 + 9];
    uint8_t *p = bytes;
    memcpy(p, f->ymm, sizeof(f->ymm));
    p += sizeof(f->ymm);
    for (unsigned i = 0; i < 8; i++, p += 10)
        memcpy(p, f->st[i], 10);
    memcpy(p, &f->fcw, 2);
    memcpy(p + 2, &f->fsw, 2);
    p[4] = f->ftw;
    memcpy(p + 5, &f->mxcsr, 4);
    return hash64(bytes, sizeof(bytes));
}
