/*
 * Instructions that belong together: what random ones hardly ever make. Operands lie where memory can be written, mostly, so that loops
 * of them run to their end.
 */
#include "tests/fuzz-programs/maker.h"

#define REX_W 0x48u
#define REX_R 0x04u
#define REX_B 0x01u

/* Behind the loop counters, across a page's end at ISA_DATA + 0x1000. */
static uint32_t data_address(struct maker *m)
{
    return (uint32_t)ISA_DATA + 0x80 + (one_in(m, 8) ? 0xf60 + below(m, 0x40) : 8 * below(m, 0x300));
}

/* Not RSP, and not RCX where a loop counts in it. */
static unsigned any_register(struct maker *m)
{
    static const uint8_t legacy[] = {GPR_RAX, GPR_RDX, GPR_RBX, GPR_RBP, GPR_RSI, GPR_RDI};
    bool extended = m->p->long_mode && one_in(m, 3);
    return extended ? 8 + below(m, 8) : legacy[below(m, sizeof legacy)];
}

/* opcode(s) with [address] as ModRM operand and reg as its other field; no REX. */
static struct item *add_absolute(struct maker *m, unsigned escape, unsigned opcode, unsigned reg,
                                 uint32_t address)
{
    struct item *i;
    uint8_t modrm = (uint8_t)((reg & 7) << 3 | 4);
    if (escape)
        i = ADD(m, (uint8_t)escape, (uint8_t)opcode, modrm, 0x25, 0, 0, 0, 0);
    else
        i = ADD(m, (uint8_t)opcode, modrm, 0x25, 0, 0, 0, 0);
    put(i, i->length - 4u, address, 4);
    i->tested = true;
    return i;
}

/* A REX prefix in 64-bit code, or nothing. Returns the bytes. */
static unsigned put_rex(struct maker *m, uint8_t *out, unsigned reg, unsigned base, unsigned wide)
{
    uint8_t rex = (uint8_t)(0x40 | (wide ? 8 : 0) | (reg > 7 ? REX_R : 0) | (base > 7 ? REX_B : 0));
    if (!m->p->long_mode)
        return 0;
    *out = rex;
    return 1;
}

/* opcode with two registers, 32 or 64 bits. */
static void add_registers(struct maker *m, unsigned escape, unsigned opcode, unsigned reg, unsigned rm)
{
    uint8_t bytes[ITEM_BYTES];
    unsigned n = put_rex(m, bytes, reg, rm, one_in(m, 2));
    if (escape)
        bytes[n++] = (uint8_t)escape;
    bytes[n++] = (uint8_t)opcode;
    bytes[n++] = (uint8_t)(0xc0 | (reg & 7) << 3 | (rm & 7));
    add(m, bytes, n)->tested = true;
}

/* ---- memory by one base register ---- */

struct access {
    uint8_t prefix, escape, opcode;
    int8_t digit; /* of the opcode, -1: a register */
};

static const struct access accesses[] = {
    {0, 0, 0x8b, -1},       {0, 0, 0x89, -1},       {0, 0, 0x88, -1},    {0, 0, 0x03, -1},
    {0, 0, 0x01, -1},       {0, 0, 0x39, -1},       {0, 0, 0x2b, -1},    {0, 0x0f, 0xb6, -1},
    {0, 0x0f, 0xbf, -1},    {0x66, 0, 0x89, -1},    {0, 0, 0xff, 0},     {0xf0, 0, 0x01, -1},
    {0xf0, 0x0f, 0xc1, -1}, {0, 0x0f, 0x10, -1},    {0, 0x0f, 0x11, -1}, {0x66, 0x0f, 0x6f, -1},
    {0xf2, 0x0f, 0x58, -1}, {0xf0, 0x0f, 0xb1, -1}, {0, 0, 0xff, 6},     {0, 0, 0x8f, 0},
};

/* [base + displacement] or [base + index * scale + displacement] */
static void add_access(struct maker *m, unsigned base, int index)
{
    const struct access *a = &accesses[below(m, sizeof accesses / sizeof *accesses)];
    unsigned reg = a->digit >= 0 ? (unsigned)a->digit : any_register(m), n = 0;
    if ((reg == base || (int)reg == index) && a->digit < 0)
        reg = GPR_RAX;
    uint8_t bytes[ITEM_BYTES];
    if (a->prefix)
        bytes[n++] = a->prefix;
    n += put_rex(m, bytes + n, reg, base, one_in(m, 2));
    if (a->escape)
        bytes[n++] = a->escape;
    bytes[n++] = a->opcode;
    bytes[n++] = (uint8_t)(0x40 | (reg & 7) << 3 | (index >= 0 ? 4 : base & 7));
    if (index >= 0)
        bytes[n++] = (uint8_t)(below(m, 4) << 6 | (unsigned)index << 3 | (base & 7));
    bytes[n++] = (uint8_t)(16 * below(m, 16));
    add(m, bytes, n)->tested = true;
}

static void fields(struct maker *m)
{
    static const uint8_t bases[] = {GPR_RBX, GPR_RBP, GPR_RSI, GPR_RDI, 9, 14};
    unsigned base = bases[below(m, m->p->long_mode ? 6 : 4)];
    int index = one_in(m, 3) ? GPR_RDX : -1;
    add_set_register(m, base, (data_address(m) & ~15u) + 0x80);
    if (index >= 0)
        add_set_register(m, GPR_RDX, 16 * below(m, 8));
    for (unsigned k = 2 + below(m, 5); k > 0; k--)
        add_access(m, base, index);
}

/* ---- flags that are read late ---- */

static void add_producer(struct maker *m)
{
    static const uint8_t opcodes[][2] = {{0, 0x01},    {0, 0x29},    {0, 0x39},    {0, 0x21},    {0, 0x31},
                                         {0, 0x11},    {0, 0x19},    {0x0f, 0xaf}, {0x0f, 0xa3}, {0x0f, 0xbc},
                                         {0x0f, 0xa4}, {0x0f, 0xbd}, {0, 0x85}};
    unsigned k = below(m, sizeof opcodes / sizeof *opcodes + 4);
    switch (k) {
    case 0:
        ADD(m, 0xff, (uint8_t)(0xc0 | below(m, 2) << 3))->tested = true; /* inc, dec eax */
        return;
    case 1:
        ADD(m, 0xd1, (uint8_t)(0xc0 | below(m, 8) << 3 | below(m, 4)))->tested = true; /* shifts by 1 */
        return;
    case 2:
        ADD(m, 0xc1, (uint8_t)(0xc0 | below(m, 8) << 3 | below(m, 4)), (uint8_t)below(m, 35))->tested = true;
        return;
    case 3:
        ADD(m, 0xf7, (uint8_t)(0xd8 | below(m, 3) << 3 | below(m, 4)))->tested = true; /* neg, mul, imul */
        return;
    default:
        break;
    }
    k -= 4;
    if (opcodes[k][1] == 0xa4)
        ADD(m, 0x0f, 0xa4, (uint8_t)(0xc0 | below(m, 4) << 3 | below(m, 4)), (uint8_t)below(m, 35))->tested =
            true;
    else
        add_registers(m, opcodes[k][0], opcodes[k][1], any_register(m), any_register(m));
}

/* Leaves the flags alone. */
static void add_filler(struct maker *m)
{
    switch (below(m, 6)) {
    case 0:
        add_absolute(m, 0, 0x8b, below(m, 4), data_address(m));
        break;
    case 1:
        add_absolute(m, 0, 0x89, below(m, 4), data_address(m));
        break;
    case 2:
        ADD(m, 0x8d, 0x44, 0x1a, (uint8_t)below(m, 256))->tested = true; /* lea eax, [edx + ebx + n] */
        break;
    case 3:
        ADD(m, 0x0f, 0x28, (uint8_t)(0xc0 | below(m, 64)))->tested = true; /* movaps */
        break;
    case 4:
        add_registers(m, 0x0f, 0xb7, any_register(m), any_register(m)); /* movzx */
        break;
    default:
        add_registers(m, 0, 0x89, any_register(m), any_register(m));
        break;
    }
}

static void add_consumer(struct maker *m)
{
    switch (below(m, 7)) {
    case 0:
        add_absolute(m, 0x0f, 0x90 | below(m, 16), 0, data_address(m)); /* setcc */
        break;
    case 1:
        ADD(m, 0x0f, (uint8_t)(0x90 | below(m, 16)), (uint8_t)(0xc0 | below(m, 4)))->tested = true;
        break;
    case 2:
        add_registers(m, 0x0f, 0x40 | below(m, 16), any_register(m), any_register(m)); /* cmovcc */
        break;
    case 3:
        add_registers(m, 0, one_in(m, 2) ? 0x11 : 0x19, any_register(m), any_register(m)); /* adc, sbb */
        break;
    case 4:
        ADD(m, 0xd1, (uint8_t)(0xd0 | below(m, 2) << 3 | below(m, 4)))->tested = true; /* rcl, rcr */
        break;
    case 5:
        ADD(m, 0x9f)->tested = true; /* lahf */
        break;
    default:
        ADD(m, 0xf5)->tested = true; /* cmc */
        break;
    }
}

static void flags(struct maker *m)
{
    add_producer(m);
    for (unsigned k = below(m, 5); k > 0; k--)
        add_filler(m);
    for (unsigned k = 1 + below(m, 2); k > 0; k--)
        add_consumer(m);
}

/* ---- x87, MMX ---- */

static void add_x87(struct maker *m)
{
    static const uint8_t stack[][2] = {
        {0xd9, 0xe8}, {0xd9, 0xeb}, {0xd9, 0xee}, {0xd9, 0xc0}, {0xd9, 0xc1}, {0xd9, 0xc9}, {0xd8, 0xc1},
        {0xd8, 0xc9}, {0xd8, 0xf1}, {0xde, 0xc1}, {0xde, 0xc9}, {0xde, 0xf9}, {0xde, 0xe9}, {0xd9, 0xfa},
        {0xd9, 0xe0}, {0xd9, 0xe1}, {0xd9, 0xfc}, {0xdd, 0xd8}, {0xdd, 0xd9}, {0xdb, 0xf1}, {0xdf, 0xf1},
        {0xd9, 0xe5}, {0xdf, 0xe0}, {0xd9, 0xf7}, {0xd9, 0xf6}, {0xdd, 0xc0}, {0xda, 0xe9}, {0xd9, 0xfd},
        {0xda, 0xc1}, {0xd9, 0xf8}, {0xdb, 0xe2}, {0x9b, 0x90},
    };
    static const uint8_t memory[][2] = {{0xd9, 0}, {0xdd, 0}, {0xdb, 0}, {0xdf, 0}, {0xdf, 5}, {0xdb, 5},
                                        {0xd9, 3}, {0xdd, 3}, {0xdb, 3}, {0xdf, 7}, {0xdb, 7}, {0xd8, 0},
                                        {0xdc, 1}, {0xda, 6}, {0xde, 4}, {0xdd, 1}, {0xd9, 2}, {0xdc, 6}};
    unsigned k = below(m, sizeof stack / sizeof *stack + sizeof memory / sizeof *memory);
    if (k < sizeof stack / sizeof *stack) {
        add(m, stack[k], 2)->tested = true;
        return;
    }
    k -= (unsigned)(sizeof stack / sizeof *stack);
    add_absolute(m, 0, memory[k][0], memory[k][1], data_address(m));
}

/* MOV word [address], value; FLDCW [address]. Mostly all masked, with other precision and rounding. */
static void add_control_word(struct maker *m)
{
    uint32_t address = data_address(m);
    unsigned masks = one_in(m, 6) ? below(m, 64) : 0x3f;
    struct item *i = ADD(m, 0x66, 0xc7, 0x04, 0x25, 0, 0, 0, 0, 0, 0);
    put(i, 4, address, 4);
    put(i, 8, below(m, 16) << 8 | 0x40 | masks, 2);
    add_absolute(m, 0, 0xd9, 5, address);
}

static void x87(struct maker *m)
{
    if (one_in(m, 4))
        add_control_word(m);
    if (one_in(m, 4))
        ADD(m, 0xdb, 0xe3)->tested = true; /* fninit */
    for (unsigned k = 2 + below(m, 8); k > 0; k--)
        add_x87(m);
    if (one_in(m, 3)) {
        ADD(m, 0xdf, 0xe0)->tested = true; /* fnstsw ax */
        ADD(m, 0x9e)->tested = true;       /* sahf */
    }
}

static void mmx(struct maker *m)
{
    static const uint8_t opcodes[] = {0xfc, 0xfd, 0xd5, 0xef, 0xdb, 0x60, 0x74, 0xe4, 0xf4, 0x6b};
    add_absolute(m, 0x0f, 0x6f, below(m, 8), data_address(m)); /* movq mm, m */
    for (unsigned k = 1 + below(m, 4); k > 0; k--) {
        uint8_t opcode = opcodes[below(m, sizeof opcodes)];
        if (one_in(m, 3))
            add_absolute(m, 0x0f, opcode, below(m, 8), data_address(m));
        else
            ADD(m, 0x0f, opcode, (uint8_t)(0xc0 | below(m, 64)))->tested = true;
    }
    add_absolute(m, 0x0f, 0x7f, below(m, 8), data_address(m));
    if (!one_in(m, 4))
        ADD(m, 0x0f, 0x77)->tested = true; /* emms */
}

/* ---- division at the edge of what fits ---- */

static void division(struct maker *m)
{
    static const uint8_t divisors[] = {GPR_RBX, GPR_RBP, GPR_RSI, GPR_RDI, 8, 15};
    unsigned by = divisors[below(m, m->p->long_mode ? 6 : 4)], digit = 6 + below(m, 2);
    bool wide = m->p->long_mode && one_in(m, 2);
    uint64_t sign = wide ? (uint64_t)1 << 63 : 0x80000000u;
    uint64_t divisor = one_in(m, 3) ? below(m, 5) + 1 : isa_random(&m->r) >> (wide ? below(m, 63) : 32);
    divisor = one_in(m, 4) ? 0 - divisor : divisor;
    /* The quotient fits where high < divisor; signed, where the magnitude is half of that. */
    uint64_t high = digit == 6 ? divisor - below(m, 3) : one_in(m, 2) ? 0 : ~0ull;
    uint64_t low = digit == 6 ? isa_random(&m->r) : sign + below(m, 3) - 1;
    if (digit == 7 && one_in(m, 3))
        high = (divisor >> 1) - below(m, 2);
    if (one_in(m, 2))
        high = below(m, 2);
    add_set_register(m, by, divisor);
    add_set_register(m, GPR_RDX, high);
    add_set_register(m, GPR_RAX, low);
    if (one_in(m, 4)) {
        uint32_t address = data_address(m);
        add_absolute(m, 0, 0x89, by & 3, address); /* some register or other */
        add_absolute(m, 0, 0xf7, digit, address);
        return;
    }
    uint8_t bytes[4];
    unsigned n = put_rex(m, bytes, 0, by, wide);
    bytes[n++] = 0xf7;
    bytes[n++] = (uint8_t)(0xc0 | digit << 3 | (by & 7));
    add(m, bytes, n)->tested = true;
}

/* ---- bit strings ---- */

static void bits(struct maker *m)
{
    unsigned reg = below(m, 2) ? GPR_RAX : GPR_RDX;
    int offset = (int)below(m, 0x4000) - 0x1000;
    uint32_t address = (uint32_t)ISA_DATA + 0x400 + 4 * below(m, 0x200);
    add_set_register(m, reg, (uint64_t)(int64_t)offset);
    for (unsigned k = 1 + below(m, 3); k > 0; k--) {
        unsigned which = below(m, 4); /* bt, bts, btr, btc */
        if (one_in(m, 4)) {
            struct item *i = ADD(m, 0x0f, 0xba, (uint8_t)((4 | which) << 3 | 4), 0x25, 0, 0, 0, 0, 0);
            put(i, 4, address, 4);
            i->bytes[8] = (uint8_t)below(m, 256);
            i->tested = true;
        } else {
            add_absolute(m, 0x0f, 0xa3 + 8 * which, reg, address);
        }
        ADD(m, 0x0f, (uint8_t)(0x92 | below(m, 2)), 0xc3)->tested = true; /* setc, setnc bl */
    }
}

/* ---- strings ---- */

static bool rcx_is_free(const struct maker *m)
{
    return m->depth == 0 || !m->loop[0].in_rcx;
}

static void strings(struct maker *m)
{
    static const uint8_t opcodes[] = {0xa4, 0xa5, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf};
    uint8_t opcode = opcodes[below(m, sizeof opcodes)];
    bool down = one_in(m, 4), repeats = rcx_is_free(m) && !one_in(m, 4);
    unsigned count = one_in(m, 4) ? 200 + below(m, 200) : below(m, 40), size = opcode & 1 ? 8 : 1;
    uint32_t room = 8 * count * (size / 8) + 0x80;
    uint32_t from = (uint32_t)ISA_DATA + 0x80 + below(m, 0x1000) + (down ? room : 0);
    uint32_t to = one_in(m, 2) ? from + below(m, 17) : (uint32_t)ISA_DATA + 0x80 + below(m, 0x1000);
    if (down)
        ADD(m, 0xfd);
    add_set_register(m, GPR_RSI, from);
    add_set_register(m, GPR_RDI, to);
    if (repeats)
        add_set_register(m, GPR_RCX, count);
    uint8_t bytes[4];
    unsigned n = 0;
    if (repeats)
        bytes[n++] = (uint8_t)(0xf2 | below(m, 2));
    n += put_rex(m, bytes + n, 0, 0, one_in(m, 2));
    bytes[n++] = opcode;
    for (unsigned k = 1 + below(m, 2); k > 0; k--)
        add(m, bytes, n)->tested = true;
    if (down && !one_in(m, 16))
        ADD(m, 0xfc);
}

/* ---- the stack ---- */

/* Pushes and pops about a page's end. */
static void stack(struct maker *m)
{
    uint32_t edge = (uint32_t)ISA_DATA + (one_in(m, 16) ? 0x2000 : 0x1000);
    if (one_in(m, 2))
        add_set_register(m, GPR_RSP, edge + 24 - 4 * below(m, 12) - (one_in(m, 8) ? below(m, 4) : 0));
    for (unsigned k = 2 + below(m, 8); k > 0; k--) {
        unsigned reg = any_register(m) & 7;
        switch (below(m, 8)) {
        case 0:
        case 1:
        case 2:
            ADD(m, (uint8_t)(0x50 | reg))->tested = true;
            break;
        case 3:
        case 4:
            ADD(m, (uint8_t)(0x58 | reg))->tested = true;
            break;
        case 5:
            ADD(m, 0x6a, (uint8_t)below(m, 256))->tested = true; /* push imm8 */
            break;
        case 6:
            add_absolute(m, 0, one_in(m, 2) ? 0xff : 0x8f, 0, data_address(m)); /* inc or pop m */
            break;
        default:
            ADD(m, 0x8d, 0x64, 0x24, (uint8_t)(8 * below(m, 5) - 16))->tested = true; /* lea esp, [esp + n] */
            break;
        }
    }
}

/* ---- jumps through memory and by RET, whose target changes from one time round to the next ---- */

/* The address of some instruction that follows, in [address]. */
static void add_table_entry(struct maker *m, uint32_t address, unsigned ahead)
{
    struct item *i;
    if (m->p->long_mode)
        i = ADD(m, 0x48, 0xc7, 0x04, 0x25, 0, 0, 0, 0, 0, 0, 0, 0); /* mov qword [address], imm32 */
    else
        i = ADD(m, 0xc7, 0x04, 0x25, 0, 0, 0, 0, 0, 0, 0, 0);
    put(i, i->length - 8u, address, 4);
    i->kind = ITEM_ADDRESS;
    i->field = (uint8_t)(i->length - 4);
    i->field_bytes = 4;
    i->target = (uint16_t)(m->p->count + ahead);
}

static void jump_table(struct maker *m)
{
    uint32_t table = data_address(m) & ~7u;
    unsigned size = m->p->long_mode ? 8 : 4;
    bool counted = m->depth && !m->loop[m->depth - 1].in_rcx;
    for (unsigned k = 0; k < 4; k++)
        add_table_entry(m, table + size * k, 6 - k + below(m, 6));
    add_absolute(m, 0, 0x8b, GPR_RAX,
                 counted ? (uint32_t)m->loop[m->depth - 1].counter
                         : data_address(m));             /* mov eax, [counter] */
    ADD(m, 0x83, 0xe0, (uint8_t)(one_in(m, 2) ? 1 : 3)); /* and eax, n */
    uint8_t sib = (uint8_t)((size == 8 ? 0xc0 : 0x80) | GPR_RAX << 3 | 5);
    struct item *i;
    if (one_in(m, 3)) {
        i = ADD(m, 0xff, 0x34, sib, 0, 0, 0, 0); /* push [table + rax * size] */
        put(i, 3, table, 4);
        ADD(m, 0xc3)->tested = true; /* ret */
    } else {
        i = ADD(m, 0xff, one_in(m, 2) ? 0x24 : 0x14, sib, 0, 0, 0, 0); /* jmp or call */
        put(i, 3, table, 4);
    }
    i->tested = true;
}

/* An immediate of the loop's own code becomes another one each time round. */
static void patch(struct maker *m)
{
    bool counted = m->depth && !m->loop[m->depth - 1].in_rcx;
    bool before = one_in(m, 2);
    unsigned slot = m->p->count;
    if (before)
        ADD(m, 0x83, 0xc3, 1)->tested = true; /* add ebx, 1 */
    add_absolute(m, 0, 0x8b, GPR_RAX, counted ? (uint32_t)m->loop[m->depth - 1].counter : data_address(m));
    if (!before)
        slot = m->p->count + 1 + below(m, 2);
    struct item *i = ADD(m, 0x88, 0x04, 0x25, 0, 0, 0, 0); /* mov [slot + 2], al */
    i->kind = ITEM_ADDRESS;
    i->field = 3;
    i->field_bytes = 4;
    i->address = 2;
    i->needs_target = true;
    i->tested = true;
    i->target = (uint16_t)slot;
    if (before)
        return;
    if (m->p->count < slot)
        add_filler(m);
    ADD(m, 0x83, 0xc3, 1)->tested = true;
}

void add_idiom(struct maker *m)
{
    static void (*const all[])(struct maker *) = {fields,   fields, flags,   flags, x87,   x87,   mmx,
                                                  division, bits,   strings, stack, stack, patch, jump_table};
    void (*idiom)(struct maker *) = all[below(m, sizeof all / sizeof *all)];
    (idiom == patch && !may_patch(m) ? fields : idiom)(m);
}
