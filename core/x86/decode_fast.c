#include "core/x86/decode_fast.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PLANS_LOG2        13
#define INSNS_LOG2        12
#define OPERANDS_KEPT     6u
#define HEAD_MAX          7u
#define KEY_LENGTH_SHIFT  56
#define KEY_HAS_IMMEDIATE ((uint64_t)1 << 63)

/*
 * A shape: the bytes before displacement and immediate in bits 0..55, how many in bits 56..58. With KEY_HAS_IMMEDIATE the immediate
 * belongs to it. 0 is none.
 */
struct shape {
    uint64_t key, immediate;
};

/* The values in an instruction. */
struct values {
    struct plan_layout layout;
    uint64_t disp, imm; /* zero-extended */
};

struct plan_entry {
    struct shape shape;
    struct plan plan;
    bool immediate_matters; /* there is no plan here: look for the shape with the immediate */
    bool immediate_signed;
};

struct insn_entry {
    struct shape shape;
    ZydisDecodedInstruction z;
    ZydisDecodedOperand op[OPERANDS_KEPT];
    int8_t disp_operand, imm_operand; /* index into op, or -1 */
};

struct decode_cache {
    uint64_t generation; /* of the plans' stubs */
    struct plan_entry plans[1u << PLANS_LOG2];
    struct insn_entry insns[1u << INSNS_LOG2];
    ZydisDecoder decoder;
    ZydisDecodedInstruction z; /* of an instruction that is not kept */
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
};

struct decode_cache *decode_cache_create(void)
{
    struct decode_cache *c = calloc(1, sizeof(*c));
    if (c)
        ZydisDecoderInit(&c->decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    return c;
}

void decode_cache_destroy(struct decode_cache *c)
{
    free(c);
}

/* ---- shapes and values ---- */

/* size bytes, at most 8, of length. */
static uint64_t load_value(const uint8_t *bytes, size_t length, unsigned size)
{
    uint64_t value = 0;
    if (likely(length >= sizeof value)) {
        memcpy(&value, bytes, sizeof value);
        return size >= sizeof value ? value : value & (((uint64_t)1 << (8 * size)) - 1);
    }
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

static uint64_t sign_extended(uint64_t value, unsigned size)
{
    unsigned shift = 64 - 8 * size;
    return size ? (uint64_t)((int64_t)(value << shift) >> shift) : 0;
}

/* The shape without the immediate. False: it has none that could be kept. */
static bool find_shape(const uint8_t *bytes, size_t length, struct shape *shape, struct values *v)
{
    if (!plan_find_layout(bytes, length, 8, &v->layout) || v->layout.imm_bytes > 8)
        return false;
    const struct plan_layout *l = &v->layout;
    unsigned head = (unsigned)(l->length - l->disp_bytes - l->imm_bytes);
    if (head > HEAD_MAX)
        return false;
    v->disp = l->disp_bytes ? load_value(bytes + l->disp_at, length - l->disp_at, l->disp_bytes) : 0;
    v->imm = l->imm_bytes ? load_value(bytes + l->imm_at, length - l->imm_at, l->imm_bytes) : 0;
    *shape = (struct shape){.key = load_value(bytes, length, head) | (uint64_t)head << KEY_LENGTH_SHIFT};
    return true;
}

static void add_immediate(struct shape *shape, const struct values *v)
{
    shape->key |= KEY_HAS_IMMEDIATE;
    shape->immediate = v->imm;
}

static bool same_shape(const struct shape *a, const struct shape *b)
{
    return a->key == b->key && a->immediate == b->immediate;
}

static size_t hash_shape(const struct shape *shape, unsigned log2)
{
    return (size_t)(((shape->key ^ shape->immediate << 24) * 0x9e3779b97f4a7c15) >> (64 - log2));
}

/* Zydis has the values where length.c has them. */
static bool layout_agrees(const ZydisDecodedInstruction *insn, const struct plan_layout *l)
{
    return insn->length == l->length && insn->raw.disp.size == 8 * l->disp_bytes &&
           insn->raw.imm[0].size == 8 * l->imm_bytes && insn->raw.imm[1].size == 0 &&
           (!l->disp_bytes || insn->raw.disp.offset == l->disp_at) &&
           (!l->imm_bytes || insn->raw.imm[0].offset == l->imm_at);
}

/* The one operand that holds the displacement, or the immediate; -1: there is none, or more. */
static int find_operand(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands,
                        ZydisOperandType type)
{
    int found = -1;
    for (unsigned i = 0; i < insn->operand_count; i++) {
        if (operands[i].type != type)
            continue;
        if (found >= 0 || i >= insn->operand_count_visible)
            return -1;
        found = (int)i;
    }
    return found;
}

static uint64_t immediate_value(const ZydisDecodedOperand *o, const struct values *v)
{
    return o->imm.is_signed ? sign_extended(v->imm, v->layout.imm_bytes) : v->imm;
}

/* ---- plans ---- */

static struct plan_entry *plan_entry(struct decode_cache *c, const struct shape *shape)
{
    return &c->plans[hash_shape(shape, PLANS_LOG2)];
}

int decode_cache_find_plan(struct decode_cache *c, const uint8_t *bytes, size_t length, uint64_t generation,
                           struct plan *out)
{
    struct shape shape;
    struct values v;
    if (unlikely(c->generation != generation)) {
        memset(c->plans, 0, sizeof c->plans);
        c->generation = generation;
    }
    if (!find_shape(bytes, length, &shape, &v))
        return v.layout.length > length && length < ZYDIS_MAX_INSTRUCTION_LENGTH ? 0 : -ENOENT;
    const struct plan_entry *entry = plan_entry(c, &shape);
    if (!same_shape(&entry->shape, &shape))
        return -ENOENT;
    const struct plan_layout *l = &v.layout;
    if (entry->immediate_matters) {
        add_immediate(&shape, &v);
        entry = plan_entry(c, &shape);
        if (!same_shape(&entry->shape, &shape))
            return -ENOENT;
    }
    *out = entry->plan;
    if (l->disp_bytes)
        out->disp = (int64_t)sign_extended(v.disp, l->disp_bytes);
    if (l->imm_bytes)
        out->imm = entry->immediate_signed ? sign_extended(v.imm, l->imm_bytes) : v.imm;
    unsigned tail = (unsigned)(l->disp_bytes + l->imm_bytes), head = l->length - tail;
    for (unsigned i = 0; i < tail; i++)
        out->bytes[head + i] = bytes[head + i];
    return 1;
}

void decode_cache_keep_plan(struct decode_cache *c, const struct plan *p, const ZydisDecodedInstruction *insn,
                            const ZydisDecodedOperand *operands, bool free_immediate)
{
    struct shape shape;
    struct values v;
    bool immediate_signed = false;
    if (!find_shape(p->bytes, p->length, &shape, &v) || !layout_agrees(insn, &v.layout))
        return;
    if (v.layout.disp_bytes && (find_operand(insn, operands, ZYDIS_OPERAND_TYPE_MEMORY) < 0 ||
                                p->disp != (int64_t)sign_extended(v.disp, v.layout.disp_bytes)))
        return;
    if (v.layout.imm_bytes) {
        int i = find_operand(insn, operands, ZYDIS_OPERAND_TYPE_IMMEDIATE);
        if (i < 0 || p->imm != immediate_value(&operands[i], &v) || p->imm2)
            return;
        immediate_signed = operands[i].imm.is_signed;
        if (!free_immediate) {
            *plan_entry(c, &shape) = (struct plan_entry){.shape = shape, .immediate_matters = true};
            add_immediate(&shape, &v);
        }
    }
    *plan_entry(c, &shape) =
        (struct plan_entry){.shape = shape, .plan = *p, .immediate_signed = immediate_signed};
}

/* ---- Zydis' own form ---- */

static struct insn_entry *insn_entry(struct decode_cache *c, const struct shape *shape)
{
    return &c->insns[hash_shape(shape, INSNS_LOG2)];
}

static void put_values(struct insn_entry *entry, const struct values *v)
{
    if (entry->disp_operand >= 0) {
        int64_t disp = (int64_t)sign_extended(v->disp, v->layout.disp_bytes);
        entry->z.raw.disp.value = entry->op[entry->disp_operand].mem.disp.value = disp;
    }
    if (entry->imm_operand >= 0) {
        ZydisDecodedOperand *o = &entry->op[entry->imm_operand];
        entry->z.raw.imm[0].value.u = o->imm.value.u = immediate_value(o, v);
    }
}

/* The entry that is to hold c->z, c->op; NULL if it cannot be kept. */
static struct insn_entry *keep_insn(struct decode_cache *c, struct shape *shape, const struct values *v)
{
    const ZydisDecodedInstruction *z = &c->z;
    const ZydisDecodedOperand *op = c->op;
    int disp = -1, imm = -1;
    if (z->operand_count > OPERANDS_KEPT || !layout_agrees(z, &v->layout))
        return NULL;
    if (v->layout.disp_bytes) {
        int64_t value = (int64_t)sign_extended(v->disp, v->layout.disp_bytes);
        disp = find_operand(z, op, ZYDIS_OPERAND_TYPE_MEMORY);
        if (disp < 0 || !op[disp].mem.disp.has_displacement || op[disp].mem.disp.value != value ||
            z->raw.disp.value != value)
            return NULL;
    }
    if (v->layout.imm_bytes) {
        imm = find_operand(z, op, ZYDIS_OPERAND_TYPE_IMMEDIATE);
        if (imm < 0 || op[imm].imm.value.u != immediate_value(&op[imm], v) ||
            z->raw.imm[0].value.u != op[imm].imm.value.u)
            return NULL;
    }
    struct insn_entry *entry = insn_entry(c, shape);
    entry->shape = *shape;
    entry->z = *z;
    memcpy(entry->op, op, z->operand_count * sizeof op[0]);
    entry->disp_operand = (int8_t)disp;
    entry->imm_operand = (int8_t)imm;
    return entry;
}

bool decode_cache_decode(struct decode_cache *c, const uint8_t *bytes, size_t length, struct decoded *out)
{
    struct shape shape;
    struct values v;
    bool shaped = find_shape(bytes, length, &shape, &v);
    struct insn_entry *entry = shaped ? insn_entry(c, &shape) : NULL;
    if (entry && same_shape(&entry->shape, &shape)) {
        put_values(entry, &v);
    } else {
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&c->decoder, bytes, length, &c->z, c->op)))
            return false;
        entry = shaped ? keep_insn(c, &shape, &v) : NULL;
    }
    *out = entry ? (struct decoded){&entry->z, entry->op} : (struct decoded){&c->z, c->op};
    return true;
}
