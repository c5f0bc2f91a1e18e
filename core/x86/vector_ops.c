/* SSE/AVX instructions whose memory accesses are decided element by element, and those that only clear registers. */
#include <string.h>

#include "core/x86/stub.h"

#define ELEMENTS_MAX 32u

/* Accesses the elements of a masked operand: only those that the mask selects can fault. */
struct masked {
    unsigned count, size; /* elements, bytes of each */
    bool selected[ELEMENTS_MAX];
};

static enum step element_linear(struct emu *e, const struct plan *p, uint64_t offset, unsigned size,
                                enum access access, gva_t *linear)
{
    return segment_linear(e, p->seg, truncate_to(offset, p->addr_size), size, access, linear);
}

/* Elements are not subject to alignment checks (SDM 2, VMASKMOV, VGATHER): misaligned ones are accessed as bytes. */
static enum step element_read(struct emu *e, gva_t linear, uint8_t *out, unsigned size)
{
    uint8_t value[8];
    unsigned piece = linear & (size - 1) ? 1 : size;
    enum step step = STEP_NEXT;
    for (unsigned i = 0; i < size && step == STEP_NEXT; i += piece)
        step = mem_read(e, linear + i, value + i, piece);
    if (step == STEP_NEXT)
        memcpy(out, value, size);
    return step;
}

/* The first byte, and the first of the next page. */
static enum step element_check_write(struct emu *e, gva_t linear, unsigned size)
{
    if (!(linear & (size - 1)))
        return mem_check_write(e, linear, size);
    gva_t next = (linear | PAGE_MASK) + 1;
    enum step step = mem_check_write(e, linear, 1);
    return step == STEP_NEXT && next - linear < size ? mem_check_write(e, next, 1) : step;
}

static enum step element_write(struct emu *e, gva_t linear, const uint8_t *data, unsigned size)
{
    unsigned piece = linear & (size - 1) ? 1 : size;
    enum step step = STEP_NEXT;
    for (unsigned i = 0; i < size && step == STEP_NEXT; i += piece)
        step = mem_write(e, linear + i, data + i, piece);
    return step;
}

static enum step masked_load(struct emu *e, const struct plan *p, const struct masked *m, uint64_t offset,
                             uint8_t *out)
{
    enum step step = STEP_NEXT;
    for (unsigned i = 0; i < m->count && step == STEP_NEXT; i++) {
        gva_t linear;
        memset(out + i * m->size, 0, m->size);
        if (!m->selected[i])
            continue;
        step = element_linear(e, p, offset + i * m->size, m->size, ACCESS_READ, &linear);
        if (step == STEP_NEXT)
            step = element_read(e, linear, out + i * m->size, m->size);
    }
    return step;
}

static enum step masked_store(struct emu *e, const struct plan *p, const struct masked *m, uint64_t offset,
                              const uint8_t *data)
{
    gva_t linear[ELEMENTS_MAX];
    enum step step = STEP_NEXT;
    for (unsigned i = 0; i < m->count && step == STEP_NEXT; i++) {
        if (!m->selected[i])
            continue;
        step = element_linear(e, p, offset + i * m->size, m->size, ACCESS_WRITE, &linear[i]);
        if (step == STEP_NEXT)
            step = element_check_write(e, linear[i], m->size);
    }
    for (unsigned i = 0; i < m->count && step == STEP_NEXT; i++)
        if (m->selected[i])
            step = element_write(e, linear[i], data + i * m->size, m->size);
    return step;
}

/* The top bit of each element of the mask register selects it. */
static struct masked mask_of(const uint8_t *mask, unsigned bytes, unsigned size)
{
    struct masked m = {.count = bytes / size, .size = size};
    for (unsigned i = 0; i < m.count; i++)
        m.selected[i] = mask[i * size + size - 1] >> 7;
    return m;
}

/* VMASKMOVPS/PD, VPMASKMOVD/Q: load dest, mask, mem; store mem, mask, source. */
static enum step do_vmaskmov(struct emu *e, const struct plan *p)
{
    enum step step = fpu_check(e, FPU_AVX);
    if (step != STEP_NEXT)
        return step;
    bool wide = p->mnemonic == ZYDIS_MNEMONIC_VMASKMOVPD || p->mnemonic == ZYDIS_MNEMONIC_VPMASKMOVQ;
    bool store = p->reg_is_memory & 1;
    unsigned bytes = p->operand_bytes[store ? 1 : 0];
    uint8_t(*ymm)[32] = e->cpu.fpu.ymm;
    struct masked m = mask_of(ymm[p->reg[store ? 0 : 1]], bytes, wide ? 8 : 4);
    if (store)
        return masked_store(e, p, &m, plan_offset(e, p), ymm[p->reg[1]]);
    uint8_t result[32] = {0};
    step = masked_load(e, p, &m, plan_offset(e, p), result);
    if (step == STEP_NEXT)
        memcpy(ymm[p->reg[0]], result, sizeof result);
    return step;
}

/*
 * MASKMOVQ, MASKMOVDQU: all of each quadword has to be writable, whatever the mask selects. The SDM leaves that to the model;
 * AMD's CPUs do it so.
 */
static enum step byte_masked_store(struct emu *e, const struct plan *p, const uint8_t *mask, unsigned bytes,
                                   const uint8_t *data)
{
    uint64_t offset = e->cpu.gpr[GPR_RDI];
    for (unsigned i = 0; i < bytes; i += 8) {
        gva_t linear;
        enum step step = element_linear(e, p, offset + i, 8, ACCESS_WRITE, &linear);
        if (step == STEP_NEXT)
            step = mem_check_write(e, linear, 8);
        if (step != STEP_NEXT)
            return step;
    }
    struct masked m = mask_of(mask, bytes, 1);
    return masked_store(e, p, &m, offset, data);
}

static enum step do_maskmovdqu(struct emu *e, const struct plan *p)
{
    enum step step = fpu_check(e, p->mnemonic == ZYDIS_MNEMONIC_VMASKMOVDQU ? FPU_AVX : FPU_SSE);
    if (step != STEP_NEXT)
        return step;
    return byte_masked_store(e, p, e->cpu.fpu.ymm[p->reg[1]], 16, e->cpu.fpu.ymm[p->reg[0]]);
}

void mmx_enter(struct fpu_state *f)
{
    uint8_t st[8][16];
    unsigned top = (f->fsw >> 11) & 7;
    memcpy(st, f->st, sizeof st);
    for (unsigned i = 0; i < 8; i++)
        memcpy(f->st[i], st[(i - top) & 7], 16);
    f->fsw &= (uint16_t)~0x3800u;
    f->ftw = 0xff;
}

/* The x87 state has become that of MMX when the store faults, too. */
static enum step do_maskmovq(struct emu *e, const struct plan *p)
{
    enum step step = fpu_check(e, FPU_MMX);
    if (step == STEP_NEXT)
        step = x87_check_pending(e);
    if (step != STEP_NEXT)
        return step;
    x87_sync(e);
    struct fpu_state before = e->cpu.fpu, *f = &e->cpu.fpu;
    mmx_enter(f);
    step = byte_masked_store(e, p, f->st[p->reg[1]], 8, f->st[p->reg[0]]);
    if (step == STEP_STOP)
        *f = before;
    return step;
}

/* ---- gathers (SDM 2, VGATHERDPS and following) ---- */

struct gather {
    unsigned count, data_bytes, index_bytes;
};

static struct gather gather_shape(const struct plan *p)
{
    struct gather g = {.data_bytes = 4, .index_bytes = 4};
    switch (p->mnemonic) {
    case ZYDIS_MNEMONIC_VGATHERDPD:
    case ZYDIS_MNEMONIC_VPGATHERDQ:
        g.data_bytes = 8;
        break;
    case ZYDIS_MNEMONIC_VGATHERQPS:
    case ZYDIS_MNEMONIC_VPGATHERQD:
        g.index_bytes = 8;
        break;
    case ZYDIS_MNEMONIC_VGATHERQPD:
    case ZYDIS_MNEMONIC_VPGATHERQQ:
        g.data_bytes = g.index_bytes = 8;
        break;
    default:
        break;
    }
    g.count = (unsigned)p->extra / (g.data_bytes > g.index_bytes ? g.data_bytes : g.index_bytes);
    return g;
}

static uint64_t gather_offset(const struct emu *e, const struct plan *p, const struct gather *g, unsigned i)
{
    int64_t index;
    if (g->index_bytes == 8) {
        memcpy(&index, e->cpu.fpu.ymm[p->index] + 8 * i, 8);
    } else {
        int32_t narrow;
        memcpy(&narrow, e->cpu.fpu.ymm[p->index] + 4 * i, 4);
        index = narrow;
    }
    uint64_t base = p->base == PLAN_NO_REG ? 0 : e->cpu.gpr[p->base];
    return base + (uint64_t)index * p->scale + (uint64_t)p->disp;
}

/* An element that is done, or not wanted, has its mask cleared, so that the instruction can go on after a fault. */
static enum step do_gather(struct emu *e, const struct plan *p)
{
    enum step step = fpu_check(e, FPU_AVX);
    if (step != STEP_NEXT)
        return step;
    struct gather g = gather_shape(p);
    uint8_t *dest = e->cpu.fpu.ymm[p->reg[0]], *mask = e->cpu.fpu.ymm[p->reg[1]];
    size_t size = g.data_bytes, used = g.count * size;
    for (unsigned i = 0; i < g.count; i++) {
        gva_t linear;
        if (!(mask[i * size + size - 1] >> 7)) {
            memset(mask + i * size, 0, size);
            continue;
        }
        step = element_linear(e, p, gather_offset(e, p, &g, i), g.data_bytes, ACCESS_READ, &linear);
        if (step == STEP_NEXT)
            step = element_read(e, linear, dest + i * size, g.data_bytes);
        if (step != STEP_NEXT)
            return step;
        memset(mask + i * size, 0, size);
    }
    memset(dest + used, 0, 32 - used);
    memset(mask, 0, 32);
    return STEP_NEXT;
}

/* plan.extra: bytes of the vector that determines the element count (the wider of data and index). */
static bool setup_gather(struct plan *p, const ZydisDecodedInstruction *insn,
                         const ZydisDecodedOperand *operands)
{
    unsigned index = (unsigned)ZydisRegisterGetWidth(insn->machine_mode, operands[1].mem.index) / 8;
    p->extra = index > p->operand_bytes[0] ? index : p->operand_bytes[0];
    return p->reg[0] != p->reg[1] && p->reg[0] != p->index && p->reg[1] != p->index;
}

/* ---- VZEROUPPER, VZEROALL ---- */

static enum step do_vzero(struct emu *e, const struct plan *p)
{
    enum step step = fpu_check(e, FPU_AVX);
    if (step != STEP_NEXT)
        return step;
    unsigned from = p->mnemonic == ZYDIS_MNEMONIC_VZEROALL ? 0 : 16;
    for (unsigned i = 0; i < (p->code_size == 8 ? 16u : 8u); i++)
        memset(e->cpu.fpu.ymm[i] + from, 0, 32 - from);
    return STEP_NEXT;
}

static const struct plan_handler list[] = {
    {ZYDIS_MNEMONIC_VMASKMOVPS, do_vmaskmov, NULL},
    {ZYDIS_MNEMONIC_VMASKMOVPD, do_vmaskmov, NULL},
    {ZYDIS_MNEMONIC_VPMASKMOVD, do_vmaskmov, NULL},
    {ZYDIS_MNEMONIC_VPMASKMOVQ, do_vmaskmov, NULL},
    {ZYDIS_MNEMONIC_MASKMOVDQU, do_maskmovdqu, NULL},
    {ZYDIS_MNEMONIC_VMASKMOVDQU, do_maskmovdqu, NULL},
    {ZYDIS_MNEMONIC_MASKMOVQ, do_maskmovq, NULL},
    {ZYDIS_MNEMONIC_VGATHERDPS, do_gather, setup_gather},
    {ZYDIS_MNEMONIC_VGATHERDPD, do_gather, setup_gather},
    {ZYDIS_MNEMONIC_VGATHERQPS, do_gather, setup_gather},
    {ZYDIS_MNEMONIC_VGATHERQPD, do_gather, setup_gather},
    {ZYDIS_MNEMONIC_VPGATHERDD, do_gather, setup_gather},
    {ZYDIS_MNEMONIC_VPGATHERDQ, do_gather, setup_gather},
    {ZYDIS_MNEMONIC_VPGATHERQD, do_gather, setup_gather},
    {ZYDIS_MNEMONIC_VPGATHERQQ, do_gather, setup_gather},
    {ZYDIS_MNEMONIC_VZEROUPPER, do_vzero, NULL},
    {ZYDIS_MNEMONIC_VZEROALL, do_vzero, NULL},
};

const struct plan_handlers vector_handlers = {list, ARRAY_LEN(list)};
