/* Far jumps, calls and returns, call gates, IRET, and the fast system calls. */
#include "tests/machine/rig.h"

#include <string.h>

/* jmp/call far [rbx] or [ebx] with this offset and selector; 32-bit operand. */
static enum step far_indirect(struct rig *r, bool call, uint32_t offset, uint16_t selector)
{
    rig_put32(r, 0x100000, offset);
    rig_put16(r, 0x100004, selector);
    r->e->cpu.gpr[GPR_RBX] = 0x100000;
    return rig_exec(r, call ? "\xff\x1b" : "\xff\x2b", 2);
}

static void far_jump_checks_its_code_segment(void **state)
{
    static const struct {
        uint8_t access, flags, rpl;
        uint32_t offset;
        unsigned vector; /* 0: goes there */
        bool code_zero;  /* error code 0, not the selector */
    } cases[] = {
        /* CPL 0 */
        {0x9b, 0xc, 0, 0x6000, 0, false},      {0x9b, 0xc, 3, 0x6000, VEC_GP, false},
        {0xfb, 0xc, 0, 0x6000, VEC_GP, false}, {0x9f, 0xc, 3, 0x6000, 0, false},
        {0xdf, 0xc, 0, 0x6000, VEC_GP, false}, {0x1b, 0xc, 0, 0x6000, VEC_NP, false},
        {0x93, 0xc, 0, 0x6000, VEC_GP, false}, {0x9b, 0x4, 0, 0x100000, VEC_GP, true},
        {0x9b, 0x4, 0, 0xfffff, 0, false},     {0x82, 0x0, 0, 0, VEC_GP, false},
    };
    struct rig *r = *state;
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        rig_protected(r, 0);
        rig_descriptor(r, SEL_SCRATCH, 0, 0xfffff, cases[i].access, cases[i].flags);
        struct vcpu_state before = r->e->cpu;
        before.gpr[GPR_RBX] = 0x100000;
        enum step step = far_indirect(r, false, cases[i].offset, (uint16_t)(SEL_SCRATCH | cases[i].rpl));
        if (cases[i].vector) {
            rig_assert_fault(r, step, cases[i].vector, cases[i].code_zero ? 0 : SEL_SCRATCH);
            assert_memory_equal(&before, &r->e->cpu, sizeof(before));
        } else {
            assert_int_equal(step, STEP_JUMP);
            assert_int_equal(r->e->cpu.rip, cases[i].offset);
            assert_int_equal(r->e->cpu.seg[SEG_CS].selector, SEL_SCRATCH);
        }
    }
    rig_assert_fault(r, far_indirect(r, false, 0x6000, 3), VEC_GP, 0);
}

static void far_call_and_return_at_the_same_level(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    rig_protected(r, 0);
    struct vcpu_state before = *s;
    /* call far 0x38:0x1234 (a 16-bit segment) */
    assert_int_equal(rig_exec(r, "\x9a\x34\x12\x00\x00\x38\x00", 7), STEP_JUMP);
    assert_int_equal(s->seg[SEG_CS].selector, SEL_CODE16);
    assert_int_equal(s->seg[SEG_CS].base, 0x100000);
    assert_int_equal(s->rip, 0x1234);
    assert_int_equal(s->gpr[GPR_RSP], 0x7ff8);
    assert_int_equal(rig_u32(r, 0x7ffc), SEL_CODE32);
    assert_int_equal(rig_u32(r, 0x7ff8), 0x5007);
    assert_int_equal(code_size(r->e), 2);
    /* The 16-bit code returns with a 32-bit operand size. */
    assert_int_equal(rig_exec(r, "\x66\xca\x10\x00", 4), STEP_JUMP); /* retfd 16 */
    before.rip = 0x5007;
    before.gpr[GPR_RSP] += 16;
    assert_memory_equal(s, &before, sizeof(before));
}

static void a_fault_in_a_far_call_changes_nothing(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    rig_protected(r, 0);
    s->seg[SEG_SS].limit = 0x7ffd; /* the first push would fit nowhere */
    struct vcpu_state before = *s;
    rig_assert_fault(r, rig_exec(r, "\x9a\x34\x12\x00\x00\x38\x00", 7), VEC_SS, 0);
    assert_memory_equal(s, &before, sizeof(before));
}

/* ---- call gates ---- */

static void call_gate(struct rig *r, unsigned type, unsigned dpl, uint16_t selector, uint64_t offset,
                      unsigned count)
{
    rig_put32(r, RIG_GDT + SEL_SCRATCH, (uint32_t)selector << 16 | (offset & 0xffff));
    rig_put32(r, RIG_GDT + SEL_SCRATCH + 4,
              (uint32_t)((offset & 0xffff0000) | 0x8000 | dpl << 13 | type << 8 | count));
    rig_put64(r, RIG_GDT + SEL_SCRATCH + 8, offset >> 32);
}

static void call_gate_to_an_inner_level_copies_parameters(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    rig_protected(r, 3);
    call_gate(r, DESCRIPTOR_CALL, 3, SEL_CODE32, 0x12345678, 2);
    rig_put32(r, 0x8000, 0x11111111);
    rig_put32(r, 0x8004, 0x22222222);
    struct vcpu_state before = *s;
    assert_int_equal(far_indirect(r, true, 0xffffffff, SEL_SCRATCH | 3), STEP_JUMP);
    assert_int_equal(s->rip, 0x12345678);
    assert_int_equal(vcpu_cpl(s), 0);
    assert_int_equal(s->gpr[GPR_RSP], 0x9000 - 24);
    static const uint32_t frame[] = {0x5002, SEL_USER_CODE32 | 3, 0x11111111, 0x22222222,
                                     0x8000, SEL_USER_DATA | 3};
    assert_memory_equal(rig_at(r, 0x9000 - 24), frame, sizeof(frame));
    /* RETF 8 drops them on both stacks. */
    assert_int_equal(rig_exec(r, "\xca\x08\x00", 3), STEP_JUMP);
    before.rip = 0x5002;
    before.gpr[GPR_RSP] = 0x8008;
    before.gpr[GPR_RBX] = 0x100000;
    assert_memory_equal(s, &before, sizeof(before));
    /* Privilege: the gate's DPL against CPL and RPL. */
    call_gate(r, DESCRIPTOR_CALL, 2, SEL_CODE32, 0x12345678, 0);
    rig_assert_fault(r, far_indirect(r, true, 0, SEL_SCRATCH), VEC_GP, SEL_SCRATCH);
    /* A jump through a gate stays at its level. */
    call_gate(r, DESCRIPTOR_CALL, 3, SEL_CODE32, 0x12345678, 0);
    rig_assert_fault(r, far_indirect(r, false, 0, SEL_SCRATCH), VEC_GP, SEL_CODE32);
    call_gate(r, DESCRIPTOR_CALL16, 3, SEL_USER_CODE32, 0x12345678, 0);
    assert_int_equal(far_indirect(r, false, 0, SEL_SCRATCH), STEP_JUMP);
    assert_int_equal(s->rip, 0x5678);
}

static void call_gate_in_long_mode(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    rig_long(r, 3);
    call_gate(r, DESCRIPTOR_CALL, 3, SEL_CODE64, 0xffff800012345678, 5);
    assert_int_equal(far_indirect(r, true, 0, SEL_SCRATCH | 3), STEP_JUMP);
    assert_int_equal(s->rip, 0xffff800012345678);
    assert_int_equal(vcpu_cpl(s), 0);
    assert_false(s->seg[SEG_SS].rights & SEGMENT_P);
    assert_int_equal(s->gpr[GPR_RSP], 0x9000 - 32);
    static const uint64_t frame[] = {0x5002, SEL_USER_CODE64 | 3, 0x8000, SEL_USER_DATA | 3};
    assert_memory_equal(rig_at(r, 0x9000 - 32), frame, sizeof(frame));
    assert_int_equal(rig_exec(r, "\x48\xcb", 2), STEP_JUMP); /* retfq */
    assert_int_equal(vcpu_cpl(s), 3);
    assert_int_equal(s->rip, 0x5002);
    assert_int_equal(s->gpr[GPR_RSP], 0x8000);
    call_gate(r, DESCRIPTOR_CALL, 3, SEL_CODE32, 0x6000, 0); /* not 64-bit code */
    rig_assert_fault(r, far_indirect(r, true, 0, SEL_SCRATCH | 3), VEC_GP, SEL_CODE32);
    call_gate(r, DESCRIPTOR_CALL16, 3, SEL_CODE64, 0x6000, 0);
    rig_assert_fault(r, far_indirect(r, true, 0, SEL_SCRATCH | 3), VEC_GP, SEL_SCRATCH);
}

/* ---- IRET ---- */

/* The five values of an IRETQ frame at RSP. */
static void iret_frame(struct rig *r, uint64_t rip, uint16_t cs, uint64_t rflags, uint64_t rsp, uint16_t ss)
{
    const uint64_t frame[] = {rip, cs, rflags, rsp, ss};
    memcpy(rig_at(r, r->e->cpu.gpr[GPR_RSP]), frame, sizeof(frame));
}

static enum step iretq(struct rig *r)
{
    return rig_exec(r, "\x48\xcf", 2);
}

static void iret_in_long_mode_goes_everywhere(void **state)
{
    static const struct {
        uint16_t cs, ss;
        uint64_t rip;
        unsigned vector;
        int64_t code;
        unsigned size, cpl;
    } cases[] = {
        {SEL_USER_CODE64 | 3, SEL_USER_DATA | 3, 0x7fffffffffff, 0, 0, 8, 3},
        {SEL_USER_CODE32 | 3, SEL_USER_DATA | 3, 0x12345678, 0, 0, 4, 3},
        {SEL_CODE64, SEL_DATA, 0xffff800000000000, 0, 0, 8, 0},
        {SEL_CODE64, 0, 0x6000, 0, 0, 8, 0},
        {SEL_CODE32, SEL_DATA, 0x6000, 0, 0, 4, 0},
        {SEL_CODE32, 0, 0x6000, VEC_GP, 0, 0, 0},
        {SEL_USER_CODE64 | 3, 3, 0x6000, VEC_GP, 0, 0, 0},
        {SEL_USER_CODE64 | 3, SEL_DATA, 0x6000, VEC_GP, SEL_DATA, 0, 0},
        {SEL_USER_CODE64, SEL_USER_DATA | 3, 0x6000, VEC_GP, SEL_USER_CODE64, 0, 0},
        {SEL_CODE64 | 3, SEL_USER_DATA | 3, 0x6000, VEC_GP, SEL_CODE64, 0, 0},
        {SEL_USER_DATA | 3, SEL_USER_DATA | 3, 0x6000, VEC_GP, SEL_USER_DATA, 0, 0},
        {0, SEL_USER_DATA | 3, 0x6000, VEC_GP, 0, 0, 0},
        {SEL_USER_CODE64 | 3, SEL_USER_DATA | 3, 0x800000000000, VEC_GP, 0, 0, 0},
        {SEL_USER_CODE32 | 3, SEL_USER_DATA | 3, 0x100000000, VEC_GP, 0, 0, 0},
        {0x2003, SEL_USER_DATA | 3, 0x6000, VEC_GP, 0x2000, 0, 0},
    };
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        rig_long(r, 0);
        s->nmi_blocked = 1;
        iret_frame(r, cases[i].rip, cases[i].cs, RFLAGS_FIXED | RFLAGS_IF | RFLAGS_ZF, 0x123456789a,
                   cases[i].ss);
        struct vcpu_state before = *s;
        enum step step = iretq(r);
        if (cases[i].vector) {
            rig_assert_fault(r, step, cases[i].vector, cases[i].code);
            assert_memory_equal(&before, s, sizeof(before));
            continue;
        }
        assert_int_equal(step, STEP_JUMP);
        assert_int_equal(s->rip, cases[i].rip);
        assert_int_equal(vcpu_cpl(s), cases[i].cpl);
        assert_int_equal(code_size(r->e), cases[i].size);
        assert_int_equal(s->gpr[GPR_RSP], cases[i].size == 8 ? 0x123456789a : 0x3456789a);
        assert_int_equal(s->rflags, RFLAGS_FIXED | RFLAGS_IF | RFLAGS_ZF);
        assert_int_equal(s->seg[SEG_SS].selector, cases[i].ss);
        assert_int_equal(s->nmi_blocked, 0);
        /* Kernel data segments do not survive a return to CPL 3. */
        assert_int_equal((s->seg[SEG_DS].rights & SEGMENT_P) != 0, cases[i].cpl == 0);
        assert_ptr_equal(r->e->tlb, r->e->tlb_sets[cases[i].cpl ? TLB_USER : TLB_KERNEL_AC]);
    }
}

static void iret_keeps_what_the_level_may_not_change(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    uint64_t all = RFLAGS_STATUS | RFLAGS_TF | RFLAGS_IF | RFLAGS_DF | RFLAGS_IOPL | RFLAGS_RF | RFLAGS_AC |
                   RFLAGS_ID | RFLAGS_VIF | RFLAGS_VIP | RFLAGS_FIXED;
    for (unsigned iopl = 0; iopl < 4; iopl += 3) {
        for (unsigned cpl = 0; cpl < 4; cpl += 3) {
            rig_long(r, cpl);
            s->rflags = RFLAGS_FIXED | (uint64_t)iopl << 12;
            iret_frame(r, 0x6000, s->seg[SEG_CS].selector, all, 0x8000, s->seg[SEG_SS].selector);
            assert_int_equal(iretq(r), STEP_JUMP);
            uint64_t want = all;
            if (cpl == 3)
                want = (want & ~(RFLAGS_IOPL | RFLAGS_VIF | RFLAGS_VIP)) | (uint64_t)iopl << 12;
            if (cpl > iopl)
                want &= ~RFLAGS_IF;
            assert_int_equal(s->rflags, want);
        }
    }
    /* A 16-bit IRET leaves the upper half. */
    rig_long(r, 0);
    s->rflags = RFLAGS_FIXED | RFLAGS_AC;
    const uint16_t frame[] = {0x6000, SEL_CODE64, RFLAGS_FIXED | RFLAGS_CF, 0x7000, SEL_DATA};
    memcpy(rig_at(r, 0x8000), frame, sizeof(frame));
    assert_int_equal(rig_exec(r, "\x66\xcf", 2), STEP_JUMP);
    assert_int_equal(s->rflags, RFLAGS_FIXED | RFLAGS_AC | RFLAGS_CF);
    assert_int_equal(s->gpr[GPR_RSP], 0x7000);
    /* NT: a task return, which long mode does not have. */
    s->rflags |= RFLAGS_NT;
    rig_assert_fault(r, iretq(r), VEC_GP, 0);
    rig_protected(r, 0);
    s->rflags |= RFLAGS_NT;
    rig_assert_fault(r, rig_exec(r, "\xcf", 1), VEC_TS, 0); /* the back link is null */
}

static void every_event_comes_back_to_where_it_was(void **state)
{
    struct rig *r = *state;
    for (unsigned i = 0; i < 16; i++) {
        bool user = i & 1, wide = i & 2, error = i & 4;
        unsigned ist = i & 8 ? 3 : 0;
        if (wide)
            rig_long(r, user ? 3 : 0);
        else
            rig_protected(r, user ? 3 : 0);
        struct vcpu_state *s = &r->e->cpu;
        rig_put64(r, RIG_TSS + 0x24 + 16, 0x21000);
        s->gpr[GPR_RSP] = 0x7ffc;
        for (unsigned seg = 0; user && seg < SEG_COUNT; seg++)
            if (seg != SEG_CS && seg != SEG_SS)
                s->seg[seg] = segment_null(0, 0);
        s->rflags = RFLAGS_FIXED | RFLAGS_IF | RFLAGS_CF | RFLAGS_TF;
        rig_gate(r, 0x44, 0xe, 0, wide ? SEL_CODE64 : SEL_CODE32, 0x6000, wide ? ist : 0);
        struct vcpu_state before = *s;
        assert_int_equal(deliver_event(r->e, 0x44, EVENT_EXTERNAL, error, 1, s->rip), STEP_NEXT);
        assert_true(s->rip == 0x6000);
        if (error)
            s->gpr[GPR_RSP] += wide ? 8 : 4;
        assert_int_equal(wide ? iretq(r) : rig_exec(r, "\xcf", 1), STEP_JUMP);
        assert_memory_equal(s, &before, sizeof(before));
    }
}

/* ---- fast system calls ---- */

static void syscall_and_sysret_64(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    rig_long(r, 3);
    s->star = (uint64_t)0x0013 << 48 | (uint64_t)SEL_CODE64 << 32;
    s->lstar = 0xffff800000001000;
    s->cstar = 0xffff800000002000;
    s->sfmask = RFLAGS_IF | RFLAGS_TF | RFLAGS_AC;
    s->rflags = RFLAGS_FIXED | RFLAGS_IF | RFLAGS_CF | RFLAGS_AC;
    assert_int_equal(rig_exec(r, "\x0f\x05", 2), STEP_JUMP);
    assert_int_equal(s->rip, s->lstar);
    assert_int_equal(s->gpr[GPR_RCX], 0x5002);
    assert_int_equal(s->gpr[GPR_R11], RFLAGS_FIXED | RFLAGS_IF | RFLAGS_CF | RFLAGS_AC);
    assert_int_equal(s->rflags, RFLAGS_FIXED | RFLAGS_CF);
    assert_int_equal(vcpu_cpl(s), 0);
    assert_int_equal(s->seg[SEG_CS].selector, SEL_CODE64);
    assert_int_equal(s->seg[SEG_SS].selector, SEL_CODE64 + 8);
    assert_int_equal(s->gpr[GPR_RSP], 0x8000);
    s->gpr[GPR_R11] = UINT64_MAX & ~RFLAGS_TF;
    assert_int_equal(rig_exec(r, "\x48\x0f\x07", 3), STEP_JUMP);
    assert_int_equal(s->rip, 0x5002);
    assert_int_equal(vcpu_cpl(s), 3);
    assert_int_equal(s->seg[SEG_CS].selector, 0x23);
    assert_int_equal(s->seg[SEG_SS].selector, 0x1b);
    assert_int_equal(s->rflags, (0x3c7fd7 & ~RFLAGS_TF) | RFLAGS_FIXED);
    assert_int_equal(code_size(r->e), 8);
    rig_assert_fault(r, rig_exec(r, "\x48\x0f\x07", 3), VEC_GP, 0);
    s->efer &= ~EFER_SCE;
    rig_assert_fault(r, rig_exec(r, "\x0f\x05", 2), VEC_UD, -1);
    /* To compatibility mode, and from there by CSTAR. */
    rig_long(r, 0);
    s->gpr[GPR_RCX] = 0x1234567890;
    s->gpr[GPR_R11] = RFLAGS_FIXED;
    assert_int_equal(rig_exec(r, "\x0f\x07", 2), STEP_JUMP);
    assert_int_equal(s->rip, 0x34567890);
    assert_int_equal(s->seg[SEG_CS].selector, 0x13);
    assert_int_equal(code_size(r->e), 4);
    assert_int_equal(rig_exec(r, "\x0f\x05", 2), STEP_JUMP);
    assert_int_equal(s->rip, s->cstar);
    assert_int_equal(code_size(r->e), 8);
}

static void sysenter_is_for_legacy_mode(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    bool has = cpu_model_has(&r->model, CPU_FEATURE_LEAF1_EDX + 11);
    rig_protected(r, 3);
    s->sysenter_cs = SEL_CODE32;
    s->sysenter_eip = 0x6000;
    s->sysenter_esp = 0x7000;
    if (has) {
        assert_int_equal(rig_exec(r, "\x0f\x34", 2), STEP_JUMP);
        assert_int_equal(s->rip, 0x6000);
        assert_int_equal(s->gpr[GPR_RSP], 0x7000);
        assert_int_equal(vcpu_cpl(s), 0);
        s->gpr[GPR_RDX] = 0x1111;
        s->gpr[GPR_RCX] = 0x2222;
        assert_int_equal(rig_exec(r, "\x0f\x35", 2), STEP_JUMP);
        assert_int_equal(s->rip, 0x1111);
        assert_int_equal(s->gpr[GPR_RSP], 0x2222);
        assert_int_equal(vcpu_cpl(s), 3);
    } else {
        rig_assert_fault(r, rig_exec(r, "\x0f\x34", 2), VEC_UD, -1);
    }
    rig_long(r, 3);
    rig_assert_fault(r, rig_exec(r, "\x0f\x34", 2), VEC_UD, -1);
}

static void real_mode_far_transfers(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    s->seg[SEG_SS].base = 0;
    s->gpr[GPR_RSP] = 0x8000;
    s->seg[SEG_CS] = (struct segment){.base = 0, .limit = 0xffff, .selector = 0, .rights = 0x9b};
    s->rip = 0x100;
    assert_int_equal(rig_exec(r, "\x9a\x34\x12\x00\x20", 5), STEP_JUMP); /* call 2000:1234 */
    assert_int_equal(s->seg[SEG_CS].base, 0x20000);
    assert_int_equal(s->rip, 0x1234);
    assert_int_equal(rig_u32(r, 0x7ffc), 0x105);
    assert_int_equal(rig_exec(r, "\xcb", 1), STEP_JUMP);
    assert_int_equal(s->rip, 0x105);
    assert_int_equal(s->gpr[GPR_RSP], 0x8000);
    /* The way into protected mode: PE, then a far jump. */
    rig_descriptor(r, SEL_CODE32, 0, 0xfffff, 0x9a, 0xc);
    s->gdtr = (struct descriptor_table){RIG_GDT, 0xfff};
    assert_int_equal(write_cr0(r->e, CR0_PE), STEP_NEXT);
    assert_int_equal(rig_exec(r, "\x66\xea\x00\x60\x00\x00\x28\x00", 8), STEP_JUMP);
    assert_int_equal(code_size(r->e), 4);
    assert_int_equal(s->rip, 0x6000);
    assert_int_equal(rig_u32(r, RIG_GDT + SEL_CODE32 + 4) >> 8 & 0xff, 0x9b);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
    const struct CMUnitTest tests[] = {
        TEST(far_jump_checks_its_code_segment),
        TEST(far_call_and_return_at_the_same_level),
        TEST(a_fault_in_a_far_call_changes_nothing),
        TEST(call_gate_to_an_inner_level_copies_parameters),
        TEST(call_gate_in_long_mode),
        TEST(iret_in_long_mode_goes_everywhere),
        TEST(iret_keeps_what_the_level_may_not_change),
        TEST(every_event_comes_back_to_where_it_was),
        TEST(syscall_and_sysret_64),
        TEST(sysenter_is_for_legacy_mode),
        TEST(real_mode_far_transfers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
