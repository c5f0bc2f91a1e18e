/* Segmentation: limits and types in each mode, loading of segment registers, the stack, branches. */
#include "tests/machine/rig.h"

#include <string.h>

/* ---- loading: SDM 2, MOV; SDM 3, 5.5 to 5.7, written down a second time ---- */

struct load_case {
    unsigned type, dpl, rpl, cpl;
    bool segment, present;
};

/* 0: loads; else the vector. */
static unsigned expected_load(const struct load_case *c, bool ss)
{
    bool code = c->segment && c->type >= 8;
    if (ss) {
        bool writable_data = c->segment && (c->type == 2 || c->type == 3 || c->type == 6 || c->type == 7);
        if (!writable_data || c->rpl != c->cpl || c->dpl != c->cpl)
            return VEC_GP;
        return c->present ? 0 : VEC_SS;
    }
    bool readable_code = code && (c->type & 2), conforming = code && (c->type & 4);
    if (!c->segment || (code && !readable_code))
        return VEC_GP;
    if (!conforming && (c->dpl < c->rpl || c->dpl < c->cpl))
        return VEC_GP;
    return c->present ? 0 : VEC_NP;
}

static void check_load(struct rig *r, const struct load_case *c, unsigned seg, bool ldt)
{
    struct vcpu_state *s = &r->e->cpu;
    uint8_t access = (uint8_t)(c->type | (c->segment ? 0x10u : 0) | c->dpl << 5 | (c->present ? 0x80u : 0));
    uint16_t base_selector = (uint16_t)(ldt ? 0x24 : SEL_SCRATCH),
             selector = (uint16_t)(base_selector | c->rpl);
    rig_descriptor(r, base_selector, 0x12345678, 0xfedcb, access, 0xc);
    s->seg[SEG_SS].rights = (uint16_t)((s->seg[SEG_SS].rights & 0xff9fu) | c->cpl << SEGMENT_DPL_SHIFT);
    struct vcpu_state before = *s;
    enum step step = segment_load(r->e, seg, selector);
    unsigned vector = expected_load(c, seg == SEG_SS);
    uint8_t in_memory = *(uint8_t *)rig_at(r, (ldt ? RIG_LDT : RIG_GDT) + (base_selector & 0xfff8u) + 5);
    if (vector) {
        rig_assert_fault(r, step, vector, base_selector);
        assert_memory_equal(s, &before, sizeof(before));
        assert_int_equal(in_memory, access);
    } else {
        assert_int_equal(step, STEP_NEXT);
        assert_int_equal(in_memory, access | 1);
        assert_int_equal(s->seg[seg].selector, selector);
        assert_int_equal(s->seg[seg].base, 0x12345678);
        assert_int_equal(s->seg[seg].limit, 0xfedcbfff);
        assert_int_equal(s->seg[seg].rights, 0xc000 | access | 1);
    }
    *s = before;
}

static void loads_check_type_privilege_and_presence(void **state)
{
    struct rig *r = *state;
    rig_protected(r, 0);
    for (unsigned i = 0; i < 16 * 2 * 4 * 4 * 4 * 2; i++) {
        struct load_case c = {i & 15, (i >> 5) & 3, (i >> 7) & 3, (i >> 9) & 3, (i >> 4) & 1, (i >> 11) & 1};
        check_load(r, &c, SEG_SS, i % 3 == 0);
        check_load(r, &c, SEG_DS, i % 3 == 0);
        check_load(r, &c, SEG_GS, false);
    }
}

static void selectors_outside_their_table_fault(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    rig_protected(r, 0);
    s->gdtr.limit = SEL_DATA + 6; /* one byte short */
    rig_assert_fault(r, segment_load(r->e, SEG_DS, SEL_DATA | 3), VEC_GP, SEL_DATA);
    s->gdtr.limit = SEL_DATA + 7;
    assert_int_equal(segment_load(r->e, SEG_DS, SEL_DATA), STEP_NEXT);
    s->ldtr = segment_null(0, 0);
    rig_assert_fault(r, segment_load(r->e, SEG_DS, 0x0f), VEC_GP, 0x0c);
}

static void null_selectors(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    rig_protected(r, 0);
    gva_t linear;
    assert_int_equal(segment_load(r->e, SEG_FS, 2), STEP_NEXT);
    assert_int_equal(s->seg[SEG_FS].selector, 2);
    assert_false(s->seg[SEG_FS].rights & SEGMENT_P);
    rig_assert_fault(r, segment_linear(r->e, SEG_FS, 0, 1, ACCESS_READ, &linear), VEC_GP, 0);
    rig_assert_fault(r, segment_load(r->e, SEG_SS, 0), VEC_GP, 0);
    /* 64-bit mode: SS too, below CPL 3 and with RPL = CPL; CPL stays. */
    rig_long(r, 0);
    rig_assert_fault(r, segment_load(r->e, SEG_SS, 1), VEC_GP, 0);
    assert_int_equal(segment_load(r->e, SEG_SS, 0), STEP_NEXT);
    assert_int_equal(vcpu_cpl(s), 0);
    assert_int_equal(segment_linear(r->e, SEG_SS, 0x1000, 8, ACCESS_WRITE, &linear), STEP_NEXT);
    rig_long(r, 3);
    rig_assert_fault(r, segment_load(r->e, SEG_SS, 3), VEC_GP, 0);
}

static void real_mode_keeps_limits(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    gva_t linear;
    assert_int_equal(segment_load(r->e, SEG_DS, 0x1234), STEP_NEXT);
    assert_int_equal(s->seg[SEG_DS].base, 0x12340);
    assert_int_equal(segment_linear(r->e, SEG_DS, 0xffff, 1, ACCESS_WRITE, &linear), STEP_NEXT);
    assert_int_equal(linear, 0x2233f);
    rig_assert_fault(r, segment_linear(r->e, SEG_DS, 0xffff, 2, ACCESS_READ, &linear), VEC_GP, 0);
    rig_assert_fault(r, segment_linear(r->e, SEG_SS, 0x10000, 1, ACCESS_READ, &linear), VEC_SS, 0);
    s->seg[SEG_DS].limit = 0xffffffff; /* loaded in protected mode */
    assert_int_equal(segment_load(r->e, SEG_DS, 0x10), STEP_NEXT);
    assert_int_equal(segment_linear(r->e, SEG_DS, 0xabcdef, 4, ACCESS_READ, &linear), STEP_NEXT);
    assert_int_equal(linear, 0xabcdef + 0x100);
    /* CS can be written in real mode. */
    assert_int_equal(segment_linear(r->e, SEG_CS, 0, 1, ACCESS_WRITE, &linear), STEP_NEXT);
}

/* ---- limits and types ---- */

static void limits_and_types_in_protected_mode(void **state)
{
    static const struct {
        uint8_t access, flags;
        uint32_t limit20, offset;
        unsigned length;
        enum access kind;
        bool ok;
    } cases[] = {
        {0x93, 0, 0xfff, 0xfff, 1, ACCESS_WRITE, true},
        {0x93, 0, 0xfff, 0xfff, 2, ACCESS_WRITE, false},
        {0x93, 0, 0xfff, 0x1000, 1, ACCESS_READ, false},
        {0x93, 8, 0, 0xffc, 4, ACCESS_READ, true},
        {0x93, 8, 0, 0xffd, 4, ACCESS_READ, false},
        {0x91, 0, 0xfff, 0, 1, ACCESS_READ, true},
        {0x91, 0, 0xfff, 0, 1, ACCESS_WRITE, false},
        {0x99, 0, 0xfff, 0, 1, ACCESS_READ, false},
        {0x9b, 0, 0xfff, 0, 1, ACCESS_READ, true},
        {0x9b, 0, 0xfff, 0, 1, ACCESS_WRITE, false},
        {0x99, 0, 0xfff, 0, 1, ACCESS_EXEC, true},
        {0x93, 0, 0xfff, 0, 1, ACCESS_EXEC, false},
        /* Expand-down: above the limit, up to 64 KiB or 4 GiB by B. */
        {0x97, 0, 0xfff, 0xfff, 1, ACCESS_READ, false},
        {0x97, 0, 0xfff, 0x1000, 1, ACCESS_READ, true},
        {0x97, 0, 0xfff, 0xffff, 1, ACCESS_READ, true},
        {0x97, 0, 0xfff, 0xffff, 2, ACCESS_READ, false},
        {0x97, 0, 0xfff, 0x10000, 1, ACCESS_READ, false},
        {0x97, 4, 0xfff, 0x10000, 1, ACCESS_READ, true},
        {0x97, 4, 0xfff, 0xfffffffc, 4, ACCESS_READ, true},
        {0x97, 4, 0xfff, 0xfffffffd, 4, ACCESS_READ, false},
        {0x95, 4, 0xfff, 0x10000, 1, ACCESS_WRITE, false},
        /* A conforming code segment is not an expand-down one. */
        {0x9f, 0, 0xfff, 0, 1, ACCESS_READ, true},
        {0x93, 8, 0xfffff, 0xffffffff, 4, ACCESS_READ, true},
    };
    struct rig *r = *state;
    rig_protected(r, 0);
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        gva_t linear;
        rig_descriptor(r, SEL_SCRATCH, 0x1000, cases[i].limit20, cases[i].access, cases[i].flags);
        struct descriptor d = {.low = rig_u32(r, RIG_GDT + SEL_SCRATCH),
                               .high = rig_u32(r, RIG_GDT + SEL_SCRATCH + 4)};
        for (unsigned seg = SEG_SS; seg <= SEG_DS; seg++) {
            r->e->cpu.seg[seg] = segment_of(&d, SEL_SCRATCH);
            enum step step =
                segment_linear(r->e, seg, cases[i].offset, cases[i].length, cases[i].kind, &linear);
            if (cases[i].ok)
                assert_int_equal(step, STEP_NEXT);
            else
                rig_assert_fault(r, step, seg == SEG_SS ? VEC_SS : VEC_GP, 0);
            if (cases[i].ok)
                assert_int_equal(linear, (uint32_t)(cases[i].offset + 0x1000));
        }
    }
}

static void long_mode_checks_canonical_addresses_only(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    gva_t linear;
    rig_long(r, 3);
    s->seg[SEG_DS].limit = 0;
    s->seg[SEG_DS].base = 0x1000;
    assert_int_equal(segment_linear(r->e, SEG_DS, 0x7fffffffffff, 1, ACCESS_WRITE, &linear), STEP_NEXT);
    assert_int_equal(linear, 0x7fffffffffff);
    rig_assert_fault(r, segment_linear(r->e, SEG_DS, 0x7fffffffffff, 2, ACCESS_READ, &linear), VEC_GP, 0);
    rig_assert_fault(r, segment_linear(r->e, SEG_SS, 0x800000000000, 1, ACCESS_READ, &linear), VEC_SS, 0);
    s->seg[SEG_GS].base = 0xffff800000000000;
    assert_int_equal(segment_linear(r->e, SEG_GS, 0x10, 8, ACCESS_READ, &linear), STEP_NEXT);
    assert_int_equal(linear, 0xffff800000000010);
    rig_assert_fault(r, segment_linear(r->e, SEG_GS, (uint64_t)-1, 1, ACCESS_READ, &linear), VEC_GP, 0);
}

/* ---- stack and branches ---- */

static void stack_uses_its_own_width(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    uint64_t value;
    rig_protected(r, 0);
    s->seg[SEG_SS].base = 0x100000;
    s->seg[SEG_SS].limit = 0xffff;
    s->seg[SEG_SS].rights = 0x93;
    s->gpr[GPR_RSP] = 0xabcd0002;
    assert_int_equal(stack_push(r->e, 0x11112222, 4), STEP_FAULT); /* wraps to FFFE: 4 bytes do not fit */
    assert_int_equal(s->gpr[GPR_RSP], 0xabcd0002);
    assert_int_equal(stack_push(r->e, 0x1111, 2), STEP_NEXT);
    assert_int_equal(stack_push(r->e, 0x2222, 2), STEP_NEXT);
    assert_int_equal(s->gpr[GPR_RSP], 0xabcdfffe);
    assert_int_equal(rig_u16(r, 0x10fffe), 0x2222);
    assert_int_equal(stack_pop(r->e, &value, 2), STEP_NEXT);
    assert_int_equal(value, 0x2222);
    assert_int_equal(s->gpr[GPR_RSP], 0xabcd0000);
    rig_long(r, 0);
    s->gpr[GPR_RSP] = 0x100010;
    assert_int_equal(stack_push(r->e, 0x1122334455667788, 8), STEP_NEXT);
    assert_int_equal(rig_u64(r, 0x100008), 0x1122334455667788);
    s->gpr[GPR_RSP] = 0x800000000000;
    assert_int_equal(stack_pop(r->e, &value, 8), STEP_FAULT);
    assert_int_equal(s->gpr[GPR_RSP], 0x800000000000);
}

static void near_branches_check_their_target(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    rig_protected(r, 0);
    s->seg[SEG_CS].limit = 0xffff;
    assert_int_equal(near_branch(r->e, 0xffff, 4), STEP_JUMP);
    assert_int_equal(s->rip, 0xffff);
    rig_assert_fault(r, near_branch(r->e, 0x10000, 4), VEC_GP, 0);
    assert_int_equal(s->rip, 0xffff);
    assert_int_equal(near_branch(r->e, 0x12345, 2), STEP_JUMP);
    assert_int_equal(s->rip, 0x2345);
    rig_long(r, 0);
    assert_int_equal(near_branch(r->e, 0xffff800000000000, 8), STEP_JUMP);
    rig_assert_fault(r, near_branch(r->e, 0x800000000000, 8), VEC_GP, 0);
}

/* ---- instructions ---- */

static void mov_and_pop_ss_set_the_shadow_and_lss_does_not(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    rig_protected(r, 0);
    s->gpr[GPR_RAX] = SEL_DATA;
    assert_int_equal(rig_exec(r, "\x8e\xd0", 2), STEP_LEAVE); /* mov ss, ax */
    assert_int_equal(s->shadow, SHADOW_MOV_SS);
    s->shadow = 0;
    assert_int_equal(rig_exec(r, "\x8e\xd8", 2), STEP_NEXT); /* mov ds, ax */
    assert_int_equal(s->shadow, SHADOW_NONE);
    rig_put32(r, 0x8000, SEL_DATA);
    assert_int_equal(rig_exec(r, "\x17", 1), STEP_LEAVE); /* pop ss */
    assert_int_equal(s->shadow, SHADOW_MOV_SS);
    assert_int_equal(s->gpr[GPR_RSP], 0x8004);
    s->shadow = 0;
    rig_put32(r, 0x100000, 0xdeadbeef);
    rig_put16(r, 0x100004, SEL_DATA);
    s->gpr[GPR_RBX] = 0x100000;
    assert_int_equal(rig_exec(r, "\x0f\xb2\x0b", 3), STEP_LEAVE); /* lss ecx, [ebx] */
    assert_int_equal(s->shadow, SHADOW_NONE);
    assert_int_equal(s->gpr[GPR_RCX], 0xdeadbeef);
    /* A pop that faults leaves ESP alone. */
    s->gpr[GPR_RSP] = 0x8000;
    rig_put32(r, 0x8000, 0xff8);
    rig_assert_fault(r, rig_exec(r, "\x1f", 1), VEC_GP, 0xff8); /* pop ds */
    assert_int_equal(s->gpr[GPR_RSP], 0x8000);
}

static void mov_from_sreg_fills_registers_and_16_bits_of_memory(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    rig_long(r, 0);
    s->gpr[GPR_RAX] = s->gpr[GPR_RBX] = UINT64_MAX;
    assert_int_equal(rig_exec(r, "\x8c\xd8", 2), STEP_NEXT); /* mov eax, ds */
    assert_int_equal(s->gpr[GPR_RAX], SEL_DATA);
    assert_int_equal(rig_exec(r, "\x66\x8c\xdb", 3), STEP_NEXT); /* mov bx, ds */
    assert_int_equal(s->gpr[GPR_RBX], 0xffffffffffff0000 | SEL_DATA);
    s->gpr[GPR_RDI] = 0x100000;
    rig_put64(r, 0x100000, UINT64_MAX);
    assert_int_equal(rig_exec(r, "\x8c\x1f", 2), STEP_NEXT); /* mov [rdi], ds */
    assert_int_equal(rig_u64(r, 0x100000), 0xffffffffffff0000 | SEL_DATA);
    assert_int_equal(rig_exec(r, "\x0f\xa0", 2), STEP_NEXT); /* push fs */
    assert_int_equal(s->gpr[GPR_RSP], 0x7ff8);
    assert_int_equal(rig_u64(r, 0x7ff8), SEL_DATA);
    rig_assert_fault(r, rig_exec(r, "\x8e\xc8", 2), VEC_UD, -1); /* mov cs, ax */
}

static void lar_lsl_verr_verw_tell_without_faulting(void **state)
{
    static const struct {
        uint8_t access, rpl;
        bool lar, lsl, verr, verw;
    } cases[] = {
        /* CPL 3 in protected mode */
        {0xf3, 3, 1, 1, 1, 1}, {0xf1, 3, 1, 1, 1, 0}, {0xf9, 3, 1, 1, 0, 0}, {0xfb, 3, 1, 1, 1, 0},
        {0x93, 0, 0, 0, 0, 0}, {0x9f, 3, 1, 1, 1, 0}, {0x9b, 3, 0, 0, 0, 0}, {0xd3, 0, 0, 0, 0, 0},
        {0xe9, 0, 1, 1, 0, 0}, {0xec, 0, 1, 0, 0, 0}, {0xe5, 0, 1, 0, 0, 0}, {0xee, 0, 0, 0, 0, 0},
        {0xe2, 3, 1, 1, 0, 0}, {0xe0, 3, 0, 0, 0, 0}, {0xe8, 3, 0, 0, 0, 0}, {0x73, 3, 1, 1, 1, 1},
    };
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    rig_protected(r, 3);
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        rig_descriptor(r, SEL_SCRATCH, 0x12345678, 0x12345, cases[i].access, 0xd);
        s->gpr[GPR_RAX] = SEL_SCRATCH | (uint64_t)cases[i].rpl;
        s->gpr[GPR_RCX] = s->gpr[GPR_RDX] = 0x55555555;
        assert_int_equal(rig_exec(r, "\x0f\x02\xc8", 3), STEP_NEXT); /* lar ecx, eax */
        assert_int_equal((s->rflags & RFLAGS_ZF) != 0, cases[i].lar);
        assert_int_equal(s->gpr[GPR_RCX],
                         cases[i].lar ? 0xd10000u | (unsigned)cases[i].access << 8 : 0x55555555);
        assert_int_equal(rig_exec(r, "\x0f\x03\xd0", 3), STEP_NEXT); /* lsl edx, eax */
        assert_int_equal((s->rflags & RFLAGS_ZF) != 0, cases[i].lsl);
        assert_int_equal(s->gpr[GPR_RDX], cases[i].lsl ? 0x12345fff : 0x55555555);
        assert_int_equal(rig_exec(r, "\x0f\x00\xe0", 3), STEP_NEXT); /* verr ax */
        assert_int_equal((s->rflags & RFLAGS_ZF) != 0, cases[i].verr);
        assert_int_equal(rig_exec(r, "\x0f\x00\xe8", 3), STEP_NEXT); /* verw ax */
        assert_int_equal((s->rflags & RFLAGS_ZF) != 0, cases[i].verw);
    }
    s->gpr[GPR_RAX] = 0xfff8; /* outside the GDT */
    s->rflags |= RFLAGS_ZF;
    assert_int_equal(rig_exec(r, "\x0f\x02\xc8", 3), STEP_NEXT);
    assert_false(s->rflags & RFLAGS_ZF);
    s->gpr[GPR_RBX] = 0x1230;
    s->gpr[GPR_RAX] = 0x3;
    assert_int_equal(rig_exec(r, "\x63\xc3", 2), STEP_NEXT); /* arpl bx, ax */
    assert_int_equal(s->gpr[GPR_RBX], 0x1233);
    assert_true(s->rflags & RFLAGS_ZF);
    assert_int_equal(rig_exec(r, "\x63\xc3", 2), STEP_NEXT);
    assert_false(s->rflags & RFLAGS_ZF);
    s->gpr[GPR_RDI] = 0x100000;
    rig_put16(r, 0x100000, 0x5550);
    assert_int_equal(rig_exec(r, "\x63\x07", 2), STEP_NEXT); /* arpl [edi], ax */
    assert_int_equal(rig_u16(r, 0x100000), 0x5553);
}

static void descriptor_tables_are_loaded_and_stored(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    rig_long(r, 0);
    s->gpr[GPR_RBX] = 0x100000;
    assert_int_equal(rig_exec(r, "\x0f\x01\x03", 3), STEP_NEXT); /* sgdt [rbx] */
    assert_int_equal(rig_u16(r, 0x100000), 0xfff);
    assert_int_equal(rig_u64(r, 0x100002), RIG_GDT);
    rig_put16(r, 0x100000, 0x7ff);
    rig_put64(r, 0x100002, 0xffff800000001000);
    assert_int_equal(rig_exec(r, "\x0f\x01\x1b", 3), STEP_NEXT); /* lidt [rbx] */
    assert_int_equal(s->idtr.limit, 0x7ff);
    assert_int_equal(s->idtr.base, 0xffff800000001000);
    rig_put64(r, 0x100002, 0x800000000000);
    rig_assert_fault(r, rig_exec(r, "\x0f\x01\x1b", 3), VEC_GP, 0);
    assert_int_equal(s->idtr.base, 0xffff800000001000);
    /* 32-bit: 4 bytes of base, 3 with a 16-bit operand. */
    rig_protected(r, 0);
    rig_put64(r, 0x100002, 0xffffffff87654321);
    assert_int_equal(rig_exec(r, "\x0f\x01\x1b", 3), STEP_NEXT);
    assert_int_equal(s->idtr.base, 0x87654321);
    assert_int_equal(rig_exec(r, "\x66\x0f\x01\x1b", 4), STEP_NEXT);
    assert_int_equal(s->idtr.base, 0x654321);
    rig_protected(r, 3);
    rig_assert_fault(r, rig_exec(r, "\x0f\x01\x1b", 3), VEC_GP, 0);
}

/* SDM 3, 2.5, UMIP: what reveals where system tables are is for the supervisor; without UMIP it is for everybody. */
static void umip_keeps_system_state_from_user_code(void **state)
{
    static const struct {
        const char *bytes;
        unsigned length, stored; /* bytes in memory; 0: in EAX */
        uint64_t value;
    } cases[] = {
        {"\x0f\x01\x03", 3, 6, (uint64_t)RIG_GDT << 16 | 0xfff}, /* sgdt [ebx] */
        {"\x0f\x01\x0b", 3, 6, (uint64_t)RIG_IDT << 16 | 0x7ff}, /* sidt [ebx] */
        {"\x0f\x00\x03", 3, 2, SEL_LDT},                         /* sldt [ebx] */
        {"\x0f\x00\xc0", 3, 0, SEL_LDT},                         /* sldt eax */
        {"\x0f\x00\x0b", 3, 2, SEL_TSS},                         /* str [ebx] */
        {"\x0f\x00\xc8", 3, 0, SEL_TSS},                         /* str eax */
        {"\x0f\x01\x23", 3, 2, CR0_PE | CR0_ET | CR0_NE},        /* smsw [ebx] */
        {"\x0f\x01\xe0", 3, 0, CR0_PE | CR0_ET | CR0_NE},        /* smsw eax */
    };
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    for (unsigned cpl = 0; cpl <= 3; cpl += 3)
        for (unsigned umip = 0; umip < 2; umip++)
            for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                rig_protected(r, cpl);
                s->cr0 = CR0_PE | CR0_ET | CR0_NE;
                s->cr4 = umip ? CR4_UMIP : 0;
                s->idtr = (struct descriptor_table){RIG_IDT, 0x7ff};
                s->ldtr.selector = SEL_LDT;
                s->tr.selector = SEL_TSS;
                s->gpr[GPR_RBX] = 0x100000;
                s->gpr[GPR_RAX] = ~0ull;
                rig_put64(r, 0x100000, ~0ull);
                enum step step = rig_exec(r, cases[i].bytes, cases[i].length);
                if (umip && cpl) {
                    rig_assert_fault(r, step, VEC_GP, 0);
                    assert_int_equal(rig_u64(r, 0x100000), ~0ull);
                    assert_int_equal(s->gpr[GPR_RAX], ~0ull);
                    continue;
                }
                assert_int_equal(step, STEP_NEXT);
                uint64_t beyond = cases[i].stored ? ~0ull << (8 * cases[i].stored) : 0;
                uint64_t got = cases[i].stored ? rig_u64(r, 0x100000) : s->gpr[GPR_RAX];
                assert_int_equal(got, cases[i].value | beyond);
            }
}

static void ltr_and_lldt_check_and_load(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    rig_long(r, 0);
    s->gpr[GPR_RAX] = SEL_TSS;
    rig_assert_fault(r, rig_exec(r, "\x0f\x00\xd8", 3), VEC_GP, SEL_TSS); /* ltr ax: busy */
    rig_descriptor(r, SEL_TSS, RIG_TSS, 0x67, 0x89, 0);
    rig_put64(r, RIG_GDT + SEL_TSS + 8, 0xffff8000);
    assert_int_equal(rig_exec(r, "\x0f\x00\xd8", 3), STEP_NEXT);
    assert_int_equal(s->tr.base, 0xffff800000003000);
    assert_int_equal(s->tr.rights & 0xff, 0x8b);
    assert_int_equal(rig_u32(r, RIG_GDT + SEL_TSS + 4) >> 8 & 0xff, 0x8b);
    rig_descriptor(r, SEL_TSS, RIG_TSS, 0x67, 0x09, 0);
    rig_assert_fault(r, rig_exec(r, "\x0f\x00\xd8", 3), VEC_NP, SEL_TSS);
    s->gpr[GPR_RAX] = 0;
    rig_assert_fault(r, rig_exec(r, "\x0f\x00\xd8", 3), VEC_GP, 0);
    assert_int_equal(rig_exec(r, "\x0f\x00\xd0", 3), STEP_NEXT); /* lldt ax */
    assert_false(s->ldtr.rights & SEGMENT_P);
    s->gpr[GPR_RAX] = SEL_LDT;
    assert_int_equal(rig_exec(r, "\x0f\x00\xd0", 3), STEP_NEXT);
    assert_int_equal(s->ldtr.base, RIG_LDT);
    s->gpr[GPR_RAX] = SEL_DATA;
    rig_assert_fault(r, rig_exec(r, "\x0f\x00\xd0", 3), VEC_GP, SEL_DATA);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
    const struct CMUnitTest tests[] = {
        TEST(loads_check_type_privilege_and_presence),
        TEST(selectors_outside_their_table_fault),
        TEST(null_selectors),
        TEST(real_mode_keeps_limits),
        TEST(limits_and_types_in_protected_mode),
        TEST(long_mode_checks_canonical_addresses_only),
        TEST(stack_uses_its_own_width),
        TEST(near_branches_check_their_target),
        TEST(mov_and_pop_ss_set_the_shadow_and_lss_does_not),
        TEST(mov_from_sreg_fills_registers_and_16_bits_of_memory),
        TEST(lar_lsl_verr_verw_tell_without_faulting),
        TEST(descriptor_tables_are_loaded_and_stored),
        TEST(umip_keeps_system_state_from_user_code),
        TEST(ltr_and_lldt_check_and_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
