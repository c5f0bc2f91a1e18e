/* Delivery of exceptions and interrupts: frames, privilege changes, and faults on the way (SDM 3, chapter 6). */
#include "tests/machine/rig.h"

#include <string.h>

#define FLAGS (RFLAGS_FIXED | RFLAGS_IF | RFLAGS_TF | RFLAGS_NT | RFLAGS_CF | RFLAGS_AC)

static void real_mode_pushes_flags_cs_ip(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    s->seg[SEG_SS] = (struct segment){.base = 0x10000, .limit = 0xffff, .selector = 0x1000, .rights = 0x93};
    s->seg[SEG_CS] = (struct segment){.base = 0x5550, .limit = 0xffff, .selector = 0x555, .rights = 0x9b};
    s->gpr[GPR_RSP] = 0xaaaa0002; /* the second push wraps */
    s->rip = 0x1234;
    s->rflags = FLAGS;
    rig_put32(r, 0x21 * 4, 0x20000100);
    assert_int_equal(deliver_event(r->e, 0x21, EVENT_EXTERNAL, false, 0, s->rip), STEP_NEXT);
    assert_int_equal(rig_u16(r, 0x10000), FLAGS & 0xffff);
    assert_int_equal(rig_u16(r, 0x1fffe), 0x555);
    assert_int_equal(rig_u16(r, 0x1fffc), 0x1234);
    assert_int_equal(s->gpr[GPR_RSP], 0xaaaafffc);
    assert_int_equal(s->seg[SEG_CS].selector, 0x2000);
    assert_int_equal(s->seg[SEG_CS].base, 0x20000);
    assert_int_equal(s->rip, 0x100);
    assert_int_equal(s->rflags, FLAGS & ~(RFLAGS_IF | RFLAGS_TF | RFLAGS_AC));
    /* An error code is not pushed. */
    raise_exception_code(r->e, VEC_GP, 0);
    rig_put32(r, VEC_GP * 4, 0x20000200);
    assert_int_equal(deliver_fault(r->e), STEP_NEXT);
    assert_int_equal(s->gpr[GPR_RSP], 0xaaaafff6);
    /* IRET goes back; a second time to where it all began. */
    assert_int_equal(rig_exec(r, "\xcf", 1), STEP_JUMP);
    assert_int_equal(s->rip, 0x100);
    assert_int_equal(rig_exec(r, "\xcf", 1), STEP_JUMP);
    assert_int_equal(s->rip, 0x1234);
    assert_int_equal(s->seg[SEG_CS].base, 0x5550);
    assert_int_equal(s->gpr[GPR_RSP], 0xaaaa0002);
}

static void real_mode_idt_limit_leads_to_shutdown(void **state)
{
    struct rig *r = *state;
    r->e->cpu.idtr.limit = 0;
    raise_exception(r->e, VEC_UD);
    assert_int_equal(deliver_fault(r->e), STEP_NEXT);
    assert_int_equal(r->e->cpu.activity, ACTIVITY_SHUTDOWN);
}

static void protected_mode_same_level(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    for (unsigned wide = 0; wide < 2; wide++) {
        for (unsigned trap = 0; trap < 2; trap++) {
            rig_protected(r, 0);
            s->rflags = FLAGS;
            rig_gate(r, 0x30, (wide ? 0xe : 0x6) | trap, 0, SEL_CODE32, 0x12346789, 0);
            assert_int_equal(deliver_event(r->e, 0x30, EVENT_FAULT, true, 0xabcd, 0x5000), STEP_NEXT);
            assert_int_equal(s->gpr[GPR_RSP], wide ? 0x8000 - 16 : 0x8000 - 8);
            assert_int_equal(s->rip, wide ? 0x12346789 : 0x6789);
            /* A fault: RF in the image. */
            if (wide) {
                assert_int_equal(rig_u32(r, 0x8000 - 4), FLAGS | RFLAGS_RF);
                assert_int_equal(rig_u32(r, 0x8000 - 8), SEL_CODE32);
                assert_int_equal(rig_u32(r, 0x8000 - 12), 0x5000);
                assert_int_equal(rig_u32(r, 0x8000 - 16), 0xabcd);
            } else {
                assert_int_equal(rig_u16(r, 0x8000 - 2), FLAGS & 0xffff);
                assert_int_equal(rig_u16(r, 0x8000 - 8), 0xabcd);
            }
            assert_int_equal(s->rflags, (FLAGS & ~(RFLAGS_TF | RFLAGS_NT)) & ~(trap ? 0 : RFLAGS_IF));
        }
    }
}

static void protected_mode_inner_level_and_back(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    rig_protected(r, 3);
    s->rflags = RFLAGS_FIXED | RFLAGS_IF | RFLAGS_ZF;
    rig_gate(r, 0x80, 0xe, 3, SEL_CODE32, 0x6000, 0);
    struct vcpu_state before = *s;
    assert_int_equal(rig_exec(r, "\xcd\x80", 2), STEP_JUMP);
    assert_int_equal(vcpu_cpl(s), 0);
    assert_int_equal(s->seg[SEG_SS].selector, SEL_DATA);
    assert_int_equal(s->seg[SEG_CS].selector, SEL_CODE32);
    assert_int_equal(s->gpr[GPR_RSP], 0x9000 - 20);
    assert_int_equal(rig_u32(r, 0x9000 - 4), SEL_USER_DATA | 3);
    assert_int_equal(rig_u32(r, 0x9000 - 8), 0x8000);
    assert_int_equal(rig_u32(r, 0x9000 - 12), before.rflags);
    assert_int_equal(rig_u32(r, 0x9000 - 16), SEL_USER_CODE32 | 3);
    assert_int_equal(rig_u32(r, 0x9000 - 20), 0x5002);
    assert_ptr_equal(r->e->tlb, r->e->tlb_sets[TLB_KERNEL_AC]);
    /* Kernel data in DS is taken away on the way back; user data stays. */
    assert_int_equal(segment_load(r->e, SEG_DS, SEL_DATA), STEP_NEXT);
    assert_int_equal(rig_exec(r, "\xcf", 1), STEP_JUMP);
    assert_false(s->seg[SEG_DS].rights & SEGMENT_P);
    assert_ptr_equal(r->e->tlb, r->e->tlb_sets[TLB_USER]);
    s->seg[SEG_DS] = before.seg[SEG_DS];
    before.rip += 2;
    assert_memory_equal(s, &before, sizeof(before));
}

static void long_mode_frames(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    for (unsigned cpl = 0; cpl <= 3; cpl += 3) {
        for (unsigned ist = 0; ist < 8; ist++) {
            rig_long(r, cpl);
            for (unsigned i = 1; i < 8; i++)
                rig_put64(r, RIG_TSS + 0x24 + 8 * (i - 1), 0x20000 + i * 0x1000);
            s->rflags = FLAGS;
            s->gpr[GPR_RSP] = 0x8007;
            rig_gate(r, 0xff, 0xe, 0, SEL_CODE64, 0xffff800012345678, ist);
            struct segment old_ss = s->seg[SEG_SS];
            uint16_t old_cs = s->seg[SEG_CS].selector;
            uint64_t top = ist ? 0x20000 + ist * 0x1000 : cpl ? 0x9000 : 0x8000;
            rig_put64(r, top - 56, 0x5a5a5a5a);
            rig_put64(r, top, 0x6b6b6b6b);
            assert_int_equal(deliver_event(r->e, 0xff, EVENT_FAULT, true, 0x1f, 0x5000), STEP_NEXT);
            assert_int_equal(s->gpr[GPR_RSP], top - 48);
            assert_int_equal(rig_u64(r, top - 56), 0x5a5a5a5a); /* nothing beside the frame */
            assert_int_equal(rig_u64(r, top), 0x6b6b6b6b);
            assert_int_equal(rig_u64(r, top - 8), old_ss.selector);
            assert_int_equal(rig_u64(r, top - 16), 0x8007);
            assert_int_equal(rig_u64(r, top - 24), FLAGS | RFLAGS_RF);
            assert_int_equal(rig_u64(r, top - 32), old_cs);
            assert_int_equal(rig_u64(r, top - 40), 0x5000);
            assert_int_equal(rig_u64(r, top - 48), 0x1f);
            assert_int_equal(s->rip, 0xffff800012345678);
            assert_int_equal(s->seg[SEG_CS].selector, SEL_CODE64);
            assert_int_equal(vcpu_cpl(s), 0);
            if (cpl == 0)
                assert_memory_equal(&s->seg[SEG_SS], &old_ss, sizeof(old_ss));
            else
                assert_int_equal(s->seg[SEG_SS].selector | (s->seg[SEG_SS].rights & SEGMENT_P), 0);
            assert_int_equal(s->rflags, FLAGS & ~(RFLAGS_TF | RFLAGS_NT | RFLAGS_IF));
        }
    }
}

/* A frame that does not fit is not begun. */
static void a_frame_is_pushed_whole_or_not_at_all(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    rig_long(r, 0);
    rig_put64(r, RIG_TABLES + 0x2000 + 8 * 4, 0x30007);
    rig_put64(r, 0x30000 + 8, 0x100007); /* 0x801000 is mapped, 0x800000 is not */
    rig_gate(r, 0x40, 0xe, 0, SEL_CODE64, 0x6000, 0);
    s->gpr[GPR_RSP] = 0x801010;
    rig_assert_fault(r, deliver_event(r->e, 0x40, EVENT_EXTERNAL, false, 0, 0x5000), VEC_PF, 2);
    assert_int_equal(r->e->fault.cr2, 0x800ff8);
    assert_int_equal(rig_u64(r, 0x100000) | rig_u64(r, 0x100008), 0);
    /* The stack ends where canonical addresses end. */
    s->gpr[GPR_RSP] = 0xffff800000000000;
    rig_assert_fault(r, deliver_event(r->e, 0x40, EVENT_EXTERNAL, false, 0, 0x5000), VEC_SS, 1);
    /* A read-only stack, and what stays on it. */
    rig_put64(r, 0x30000, 0x101005);
    tlb_flush(r->e);
    s->gpr[GPR_RSP] = 0x801010;
    rig_assert_fault(r, deliver_event(r->e, 0x40, EVENT_EXTERNAL, false, 0, 0x5000), VEC_PF, 3);
    assert_int_equal(rig_u64(r, 0x100000) | rig_u64(r, 0x100008), 0);
    /* 32-bit: ESP is below the frame. */
    rig_protected(r, 0);
    rig_gate(r, 0x40, 0xe, 0, SEL_CODE32, 0x6000, 0);
    s->seg[SEG_SS].limit = 0x8007;
    s->gpr[GPR_RSP] = 8;
    rig_put32(r, 4, 0xdddd);
    rig_assert_fault(r, deliver_event(r->e, 0x40, EVENT_EXTERNAL, false, 0, 0x5000), VEC_SS, 1);
    assert_int_equal(rig_u32(r, 4), 0xdddd);
}

/* SSn:ESPn for each level, and those of a 16-bit TSS. */
static void inner_stacks_come_from_the_tss(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    for (unsigned level = 0; level < 3; level++) {
        for (unsigned wide = 0; wide < 2; wide++) {
            rig_protected(r, 3);
            uint8_t dpl = (uint8_t)(level << 5);
            rig_descriptor(r, SEL_SCRATCH, 0, 0xfffff, (uint8_t)(0x9b | dpl), 0xc);
            rig_descriptor(r, SEL_SCRATCH + 8, 0, 0xfffff, (uint8_t)(0x93 | dpl), 0x8); /* 16-bit stack */
            uint16_t ss = (uint16_t)((SEL_SCRATCH + 8) | level);
            if (wide) {
                rig_put32(r, RIG_TSS + 4 + 8 * level, 0x9100);
                rig_put32(r, RIG_TSS + 8 + 8 * level, ss);
                s->tr.limit = 8 + 8 * level + 1;
            } else {
                s->tr.rights = 0x83;
                rig_put16(r, RIG_TSS + 2 + 4 * level, 0x9100);
                rig_put16(r, RIG_TSS + 4 + 4 * level, ss);
                s->tr.limit = 4 + 4 * level + 1;
            }
            rig_gate(r, 0x40, 0xe, 3, SEL_SCRATCH, 0x6000, 0);
            s->gpr[GPR_RSP] = 0x12348000;
            assert_int_equal(deliver_event(r->e, 0x40, EVENT_EXTERNAL, false, 0, 0x5000), STEP_NEXT);
            assert_int_equal(vcpu_cpl(s), level);
            assert_int_equal(s->seg[SEG_SS].selector, ss);
            assert_int_equal(s->seg[SEG_CS].selector, SEL_SCRATCH | level);
            /* SP only: the upper half of ESP stays. */
            assert_int_equal(s->gpr[GPR_RSP], 0x12340000 | (0x9100 - 20));
            assert_int_equal(rig_u32(r, 0x9100 - 8), 0x12348000);
        }
    }
}

static void a_conforming_handler_keeps_the_level(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    rig_protected(r, 3);
    rig_descriptor(r, SEL_SCRATCH, 0, 0xfffff, 0x9e, 0xc);
    rig_gate(r, 0x40, 0xf, 3, SEL_SCRATCH, 0x6000, 0);
    assert_int_equal(deliver_event(r->e, 0x40, EVENT_EXTERNAL, false, 0, 0x5000), STEP_NEXT);
    assert_int_equal(vcpu_cpl(s), 3);
    assert_int_equal(s->seg[SEG_CS].selector, SEL_SCRATCH | 3);
    assert_int_equal(s->gpr[GPR_RSP], 0x8000 - 12);
    assert_int_equal(rig_u32(r, RIG_GDT + SEL_SCRATCH + 4) >> 8 & 0xff, 0x9f); /* accessed */
    /* The stack of CPL 3 with alignment checks: #AC again and again would never end. */
    s->cr0 |= CR0_AM;
    set_rflags(r->e, RFLAGS_AC, RFLAGS_AC);
    s->gpr[GPR_RSP] = 0x8001;
    rig_gate(r, VEC_AC, 0xf, 3, SEL_SCRATCH, 0x6000, 0);
    raise_exception_code(r->e, VEC_AC, 0);
    assert_int_equal(deliver_fault(r->e), STEP_NEXT);
    assert_int_equal(s->activity, ACTIVITY_SHUTDOWN);
    /* Nor would #GP and #AC in turn: #GP's handler has that stack, and #AC's gate is none. */
    s->activity = ACTIVITY_RUNNING;
    rig_gate(r, VEC_GP, 0xf, 3, SEL_SCRATCH, 0x6000, 0);
    rig_gate(r, VEC_AC, 0, 3, SEL_SCRATCH, 0x6000, 0);
    raise_exception_code(r->e, VEC_GP, 0);
    assert_int_equal(deliver_fault(r->e), STEP_NEXT);
    assert_int_equal(s->activity, ACTIVITY_SHUTDOWN);
}

static void rf_is_pushed_for_faults_only(void **state)
{
    static const struct {
        unsigned vector;
        enum event_class class;
        bool rf;
    } cases[] = {
        {VEC_PF, EVENT_FAULT, true},       {VEC_UD, EVENT_FAULT, true},
        {VEC_DB, EVENT_FAULT, false},      {VEC_DF, EVENT_FAULT, false},
        {0x20, EVENT_EXTERNAL, false},     {VEC_NMI, EVENT_NMI_CLASS, false},
        {0x80, EVENT_SOFTWARE_INT, false}, {VEC_BP, EVENT_INT3_INTO, false},
        {VEC_DB, EVENT_INT1, false},
    };
    struct rig *r = *state;
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        rig_long(r, 0);
        r->e->cpu.nmi_blocked = 0;
        r->e->cpu.shadow = SHADOW_STI;
        rig_gate(r, cases[i].vector, 0xe, 0, SEL_CODE64, 0x6000, 0);
        assert_int_equal(deliver_event(r->e, cases[i].vector, cases[i].class, false, 0, 0x5000), STEP_NEXT);
        assert_int_equal((rig_u64(r, 0x8000 - 24) & RFLAGS_RF) != 0, cases[i].rf);
        assert_int_equal(r->e->cpu.nmi_blocked, cases[i].class == EVENT_NMI_CLASS);
        assert_int_equal(r->e->cpu.shadow, SHADOW_NONE);
    }
}

/* What goes wrong on the way, by the vector and error code that come of it. */
struct broken {
    const char *what;
    void (*breaks)(struct rig *r);
    unsigned vector;
    uint32_t code; /* without EXT */
};

static void idt_limit(struct rig *r)
{
    r->e->cpu.idtr.limit = vcpu_in_long_mode(&r->e->cpu) ? 0x40 * 16 + 14 : 0x40 * 8 + 6;
}

static void gate_type(struct rig *r)
{
    rig_gate(r, 0x40, 0xc, 3, vcpu_in_long_mode(&r->e->cpu) ? SEL_CODE64 : SEL_CODE32, 0x6000, 0);
}

static void gate_absent(struct rig *r)
{
    gpa_t at = RIG_IDT + 0x40 * (vcpu_in_long_mode(&r->e->cpu) ? 16u : 8u) + 4;
    rig_put32(r, at, rig_u32(r, at) & ~0x8000u);
}

static void code_null(struct rig *r)
{
    rig_gate(r, 0x40, 0xe, 3, 3, 0x6000, 0);
}

static void code_outside(struct rig *r)
{
    rig_gate(r, 0x40, 0xe, 3, 0x2000, 0x6000, 0);
}

static void code_is_data(struct rig *r)
{
    rig_gate(r, 0x40, 0xe, 3, SEL_DATA, 0x6000, 0);
}

static void code_absent(struct rig *r)
{
    rig_descriptor(r, SEL_SCRATCH, 0, 0xfffff, 0x1b, 0xa);
    if (!vcpu_in_long_mode(&r->e->cpu))
        rig_descriptor(r, SEL_SCRATCH, 0, 0xfffff, 0x1b, 0xc);
    rig_gate(r, 0x40, 0xe, 3, SEL_SCRATCH, 0x6000, 0);
}

static void code_outer(struct rig *r)
{
    r->e->cpu.seg[SEG_SS].rights &= (uint16_t)~SEGMENT_DPL; /* CPL 0 */
    rig_gate(r, 0x40, 0xe, 3, vcpu_in_long_mode(&r->e->cpu) ? SEL_USER_CODE64 : SEL_USER_CODE32, 0x6000, 0);
}

static void tss_short(struct rig *r)
{
    r->e->cpu.tr.limit = vcpu_in_long_mode(&r->e->cpu) ? 4 + 6 : 4 + 4;
}

static void ip_outside(struct rig *r)
{
    if (vcpu_in_long_mode(&r->e->cpu)) {
        rig_gate(r, 0x40, 0xe, 3, SEL_CODE64, 0x800000000000, 0);
        return;
    }
    rig_descriptor(r, SEL_SCRATCH, 0, 0x5fff, 0x9b, 0x4);
    rig_gate(r, 0x40, 0xe, 3, SEL_SCRATCH, 0x6000, 0);
}

static void ss_null(struct rig *r)
{
    rig_put32(r, RIG_TSS + 8, 0);
}

static void ss_outside(struct rig *r)
{
    rig_put32(r, RIG_TSS + 8, 0x2000);
}

static void ss_wrong_rpl(struct rig *r)
{
    rig_put32(r, RIG_TSS + 8, SEL_DATA | 1);
}

static void ss_code(struct rig *r)
{
    rig_put32(r, RIG_TSS + 8, SEL_CODE32);
}

static void ss_absent(struct rig *r)
{
    rig_descriptor(r, SEL_SCRATCH, 0, 0xfffff, 0x13, 0xc);
    rig_put32(r, RIG_TSS + 8, SEL_SCRATCH);
}

static void ss_too_small(struct rig *r)
{
    rig_descriptor(r, SEL_SCRATCH, 0, 0x8fec, 0x93, 0x4); /* the lowest value needs 0x8fec..0x8fef */
    rig_put32(r, RIG_TSS + 8, SEL_SCRATCH);
}

static void code_not_long(struct rig *r)
{
    rig_gate(r, 0x40, 0xe, 3, SEL_CODE32, 0x6000, 0);
}

static void rsp_not_canonical(struct rig *r)
{
    rig_put64(r, RIG_TSS + 4, 0x800000000000);
}

static const struct broken broken_in_both[] = {
    {"IDT limit", idt_limit, VEC_GP, 0x202},
    {"gate type", gate_type, VEC_GP, 0x202},
    {"gate absent", gate_absent, VEC_NP, 0x202},
    {"null code", code_null, VEC_GP, 0},
    {"code outside", code_outside, VEC_GP, 0x2000},
    {"code is data", code_is_data, VEC_GP, SEL_DATA},
    {"code absent", code_absent, VEC_NP, SEL_SCRATCH},
    {"TSS too short", tss_short, VEC_TS, SEL_TSS},
    {"IP outside", ip_outside, VEC_GP, 0},
};

static const struct broken broken_in_protected_mode[] = {
    {"code outer", code_outer, VEC_GP, SEL_USER_CODE32}, {"null SS", ss_null, VEC_TS, 0},
    {"SS outside", ss_outside, VEC_TS, 0x2000},          {"SS RPL", ss_wrong_rpl, VEC_TS, SEL_DATA},
    {"SS is code", ss_code, VEC_TS, SEL_CODE32},         {"SS absent", ss_absent, VEC_SS, SEL_SCRATCH},
    {"SS too small", ss_too_small, VEC_SS, SEL_SCRATCH},
};

static const struct broken broken_in_long_mode[] = {
    {"code outer", code_outer, VEC_GP, SEL_USER_CODE64},
    {"code not long", code_not_long, VEC_GP, SEL_CODE32},
    {"RSP not canonical", rsp_not_canonical, VEC_SS, 0},
};

static void check_broken(const struct broken *list, unsigned count, bool long_mode)
{
    for (unsigned i = 0; i < count * 2; i++) {
        struct rig *r = rig_create();
        const struct broken *b = &list[i / 2];
        bool software = i & 1;
        if (long_mode)
            rig_long(r, 3);
        else
            rig_protected(r, 3);
        rig_gate(r, 0x40, 0xe, 3, long_mode ? SEL_CODE64 : SEL_CODE32, 0x6000, 0);
        b->breaks(r);
        struct vcpu_state before = r->e->cpu;
        enum event_class class = software ? EVENT_SOFTWARE_INT : EVENT_EXTERNAL;
        enum step step = deliver_event(r->e, 0x40, class, false, 0, 0x5000);
        if (step != STEP_FAULT)
            fail_msg("%s: no fault", b->what);
        rig_assert_fault(r, step, b->vector, b->code | !software);
        assert_memory_equal(&before, &r->e->cpu, sizeof(before));
        rig_destroy(r);
    }
}

static void faults_of_a_delivery_have_the_right_code_and_change_nothing(void **state)
{
    (void)state;
    check_broken(broken_in_both, ARRAY_LEN(broken_in_both), false);
    check_broken(broken_in_both, ARRAY_LEN(broken_in_both), true);
    check_broken(broken_in_protected_mode, ARRAY_LEN(broken_in_protected_mode), false);
    check_broken(broken_in_long_mode, ARRAY_LEN(broken_in_long_mode), true);
}

static void gate_dpl_guards_software_interrupts_only(void **state)
{
    struct rig *r = *state;
    static const struct {
        const char *bytes;
        unsigned vector, length;
        bool faults;
    } cases[] = {{"\xcd\x40", 0x40, 2, true}, {"\xcc", VEC_BP, 1, true}, {"\xf1", VEC_DB, 1, false}};
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        rig_long(r, 3);
        rig_gate(r, cases[i].vector, 0xe, 0, SEL_CODE64, 0x6000, 0);
        enum step step = rig_exec(r, cases[i].bytes, cases[i].length);
        if (cases[i].faults) {
            rig_assert_fault(r, step, VEC_GP, cases[i].vector * 8 + 2);
        } else {
            assert_int_equal(step, STEP_JUMP);
            assert_int_equal(rig_u64(r, 0x9000 - 40), 0x5001);
        }
        rig_long(r, 3);
        assert_int_equal(deliver_event(r->e, cases[i].vector, EVENT_EXTERNAL, false, 0, 0x5000), STEP_NEXT);
    }
}

/* ---- double and triple faults (SDM 3, tables 6-4 and 6-5) ---- */

static void double_faults(void **state)
{
    /* Classes: 0 benign, 1 contributory, 2 page fault. */
    static const struct {
        unsigned vector, class;
    } first[] = {{VEC_DE, 1}, {VEC_DB, 0}, {VEC_BP, 0}, {VEC_UD, 0}, {VEC_NM, 0}, {VEC_TS, 1}, {VEC_NP, 1},
                 {VEC_SS, 1}, {VEC_GP, 1}, {VEC_PF, 2}, {VEC_MF, 0}, {VEC_AC, 0}, {VEC_XM, 0}};
    for (unsigned i = 0; i < ARRAY_LEN(first); i++) {
        for (unsigned page_fault = 0; page_fault < 2; page_fault++) {
            struct rig *r = rig_create();
            struct vcpu_state *s = &r->e->cpu;
            rig_long(r, 0);
            rig_gate(r, VEC_DF, 0xe, 0, SEL_CODE64, 0x8888, 1);
            rig_gate(r, VEC_NP, 0xe, 0, SEL_CODE64, 0xb0b0, 1);
            rig_gate(r, VEC_PF, 0xe, 0, SEL_CODE64, 0xe0e0, 1);
            rig_put64(r, RIG_TSS + 0x24, 0x21000);
            /* The gate of the first is absent (#NP), or its stack is not mapped (#PF). */
            rig_gate(r, first[i].vector, 0xe, 0, SEL_CODE64, 0x6000, page_fault ? 2 : 0);
            rig_put64(r, RIG_TSS + 0x2c, 0x7fff00000000);
            if (!page_fault)
                rig_put32(r, RIG_IDT + first[i].vector * 16 + 4, 0x0e00);
            raise_exception(r->e, first[i].vector);
            r->e->fault.cr2 = 0x1111;
            assert_int_equal(deliver_fault(r->e), STEP_NEXT);
            bool doubled = first[i].class == 2 || (first[i].class == 1 && !page_fault);
            /* #NP and #PF through their own broken gates come back to themselves only as #DF. */
            uint64_t target = doubled ? 0x8888 : page_fault ? 0xe0e0 : 0xb0b0;
            assert_int_equal(s->rip, target);
            uint64_t code = rig_u64(r, 0x21000 - 48);
            assert_int_equal(code, doubled ? 0 : page_fault ? 2 : first[i].vector * 8 + 3);
            if (page_fault)
                assert_int_equal(s->cr2, 0x7ffefffffff8);
            else if (first[i].class == 2)
                assert_int_equal(s->cr2, 0x1111);
            rig_destroy(r);
        }
    }
    (void)state;
}

static void a_fault_in_the_double_fault_is_shutdown(void **state)
{
    struct rig *r = *state;
    rig_long(r, 0);
    struct vcpu_state before = r->e->cpu;
    raise_exception_code(r->e, VEC_GP, 0x10);
    assert_int_equal(deliver_fault(r->e), STEP_NEXT);
    assert_int_equal(r->e->cpu.activity, ACTIVITY_SHUTDOWN);
    before.activity = ACTIVITY_SHUTDOWN;
    assert_memory_equal(&before, &r->e->cpu, sizeof(before));
}

static void page_fault_sets_cr2_and_db_clears_gd(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    rig_long(r, 0);
    rig_gate(r, VEC_PF, 0xe, 0, SEL_CODE64, 0x6000, 0);
    rig_gate(r, VEC_DB, 0xf, 0, SEL_CODE64, 0x7000, 0);
    raise_page_fault(r->e, 0xdeadbeef000, 7);
    assert_int_equal(deliver_fault(r->e), STEP_NEXT);
    assert_int_equal(s->cr2, 0xdeadbeef000);
    assert_int_equal(rig_u64(r, s->gpr[GPR_RSP]), 7);
    s->dr7 = DR7_FIXED | DR7_GD;
    rig_assert_fault(r, rig_exec(r, "\x0f\x21\xc0", 3), VEC_DB, -1); /* mov rax, dr0 */
    assert_true(s->dr6 & DR6_BD);
    assert_int_equal(deliver_fault(r->e), STEP_NEXT);
    assert_int_equal(s->dr7, DR7_FIXED);
    assert_int_equal(s->rip, 0x7000);
}

static void a_double_fault_into_a_busy_task_is_shutdown(void **state)
{
    struct rig *r = *state;
    rig_protected(r, 3);
    rig_gate(r, 8, 5, 0, SEL_TSS, 0, 0); /* #DF through a task gate, as operating systems had it */
    *(uint8_t *)rig_at(r, RIG_GDT + SEL_TSS + 5) |= 2;
    raise_exception_code(r->e, VEC_DF, 0);
    assert_int_equal(deliver_fault(r->e), STEP_NEXT);
    assert_int_equal(r->e->cpu.activity, ACTIVITY_SHUTDOWN);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
    const struct CMUnitTest tests[] = {
        TEST(real_mode_pushes_flags_cs_ip),
        TEST(real_mode_idt_limit_leads_to_shutdown),
        TEST(protected_mode_same_level),
        TEST(protected_mode_inner_level_and_back),
        TEST(long_mode_frames),
        TEST(a_frame_is_pushed_whole_or_not_at_all),
        TEST(inner_stacks_come_from_the_tss),
        TEST(a_conforming_handler_keeps_the_level),
        TEST(rf_is_pushed_for_faults_only),
        TEST(faults_of_a_delivery_have_the_right_code_and_change_nothing),
        TEST(gate_dpl_guards_software_interrupts_only),
        TEST(double_faults),
        TEST(a_fault_in_the_double_fault_is_shutdown),
        TEST(page_fault_sets_cr2_and_db_clears_gd),
        TEST(a_double_fault_into_a_busy_task_is_shutdown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
