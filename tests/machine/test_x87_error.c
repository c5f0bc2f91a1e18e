/* Unmasked x87 exceptions with CR0.NE = 0: FERR#, IGNNE#, and waiting for the interrupt (SDM 3, 2.5; SDM 1, appendix D). */
#include "tests/machine/rig.h"

#include <string.h>

#define OPERAND     0x6000u
#define HANDLER     0x7000u
#define FCW_ZE      0x037bu /* zero divide unmasked */
#define FSW_ZE_DONE 0x8084u /* ... and pending: B, ES, ZE */
#define FSW_IE      0x0001u
#define FSW_SF      0x0040u
#define FCW_IE_ZE   0x037au
#define VECTOR_IRQ  0x2d

struct code {
    const char *name;
    const char *bytes;
    uint8_t length;
};
#define CODE(name, bytes)                                                                                    \
    {                                                                                                        \
        name, bytes, sizeof(bytes) - 1                                                                       \
    }

/* Memory operands are [0x6000], by a 32-bit displacement in 32-bit code. */
#define AT "\x00\x60\x00\x00"

static const struct code waiting[] = {
    CODE("fwait", "\x9b"),          CODE("fld1", "\xd9\xe8"),       CODE("fnop", "\xd9\xd0"),
    CODE("fld m64", "\xdd\x05" AT), CODE("fst m32", "\xd9\x15" AT), CODE("fldcw", "\xd9\x2d" AT),
    CODE("fldenv", "\xd9\x25" AT),  CODE("frstor", "\xdd\x25" AT),  CODE("movq mm0, mm1", "\x0f\x6f\xc1"),
    CODE("emms", "\x0f\x77"),
};

static const struct code not_waiting[] = {
    CODE("fnstsw ax", "\xdf\xe0"),     CODE("fnstcw", "\xd9\x3d" AT),      CODE("fnclex", "\xdb\xe2"),
    CODE("fninit", "\xdb\xe3"),        CODE("fnsave", "\xdd\x35" AT),      CODE("fnstenv", "\xd9\x35" AT),
    CODE("fxsave", "\x0f\xae\x05" AT), CODE("fxrstor", "\x0f\xae\x0d" AT),
};

/* Those after which no exception is pending, with an operand of zeros or of what FNSAVE leaves. */
static const struct code ending[] = {
    CODE("fnclex", "\xdb\xe2"),     CODE("fninit", "\xdb\xe3"),         CODE("fnsave", "\xdd\x35" AT),
    CODE("fnstenv", "\xd9\x35" AT), CODE("fxrstor", "\x0f\xae\x0d" AT), CODE("xrstor", "\x0f\xae\x2d" AT),
    CODE("fldcw", "\xd9\x2d" AT),   CODE("fldenv", "\xd9\x25" AT),      CODE("frstor", "\xdd\x25" AT),
};

/* 32-bit code, CR0.NE = 0, and a zero divide is pending. */
static struct vcpu_state *pending_error(struct rig *r)
{
    struct vcpu_state *s = &r->e->cpu;
    rig_protected(r, 0);
    s->cr0 &= ~CR0_NE;
    s->cr4 |= CR4_OSFXSR | CR4_OSXSAVE;
    s->xcr0 = 7;
    s->gpr[GPR_RAX] = 7;
    s->gpr[GPR_RDX] = 0;
    x87_sync(r->e);
    memset(&s->fpu, 0, sizeof s->fpu);
    s->fpu.fcw = FCW_ZE;
    s->fpu.fsw = FSW_ZE_DONE;
    s->fpu.mxcsr = MXCSR_DEFAULT;
    memset(rig_at(r, OPERAND), 0, 1024);
    r->crossings = 0;
    return s;
}

static enum step exec(struct rig *r, const struct code *c)
{
    enum step step = rig_exec(r, c->bytes, c->length);
    x87_sync(r->e);
    return step;
}

/* How many crossings of that kind there were. */
static unsigned crossings(const struct rig *r, char kind)
{
    unsigned n = 0;
    for (unsigned i = 0; i < r->crossings; i++)
        n += r->crossing[i].kind == kind;
    return n;
}

static void waiting_instructions_ask_and_wait(void **state)
{
    struct rig *r = *state;
    for (unsigned i = 0; i < ARRAY_LEN(waiting); i++) {
        struct vcpu_state before = *pending_error(r);
        assert_int_equal(exec(r, &waiting[i]), STEP_FAULT);
        assert_true(r->e->fault.waits);
        assert_int_equal(r->crossings, 1);
        assert_int_equal(crossings(r, 'x'), 1);
        assert_memory_equal(&r->e->cpu, &before, sizeof before);
    }
}

static void an_answer_that_does_not_exist_is_to_wait(void **state)
{
    struct rig *r = *state;
    pending_error(r);
    r->ignne = 3;
    assert_int_equal(exec(r, &waiting[0]), STEP_FAULT);
    assert_true(r->e->fault.waits);
}

static void without_an_error_nobody_asks(void **state)
{
    struct rig *r = *state;
    for (unsigned i = 0; i < ARRAY_LEN(waiting); i++) {
        struct vcpu_state *s = pending_error(r);
        s->fpu.fcw = FCW_DEFAULT; /* masked */
        s->fpu.fsw = 0x0004;
        assert_int_equal(exec(r, &waiting[i]), STEP_NEXT);
        assert_int_equal(r->crossings, 0);
    }
}

static void other_instructions_do_not_ask(void **state)
{
    struct rig *r = *state;
    for (unsigned i = 0; i < ARRAY_LEN(not_waiting); i++) {
        pending_error(r);
        assert_int_equal(exec(r, &not_waiting[i]), STEP_NEXT);
        assert_int_equal(crossings(r, 'x'), 0);
    }
}

static void with_ne_it_is_mf(void **state)
{
    struct rig *r = *state;
    for (unsigned i = 0; i < ARRAY_LEN(waiting); i++) {
        pending_error(r)->cr0 |= CR0_NE;
        rig_assert_fault(r, exec(r, &waiting[i]), VEC_MF, -1);
        assert_false(r->e->fault.waits);
        assert_int_equal(r->crossings, 0);
    }
}

static void the_boundary_can_have_it_reported_as_mf(void **state)
{
    struct rig *r = *state;
    pending_error(r);
    r->ignne = IGNNE_NATIVE;
    rig_assert_fault(r, exec(r, &waiting[0]), VEC_MF, -1);
}

static void a_boundary_that_fails_leaves_all_as_it_was(void **state)
{
    struct rig *r = *state;
    for (unsigned i = 0; i < ARRAY_LEN(waiting); i++) {
        struct vcpu_state before = *pending_error(r);
        r->fail_at = 0;
        r->answer = -5;
        assert_int_equal(exec(r, &waiting[i]), STEP_STOP);
        assert_memory_equal(&r->e->cpu, &before, sizeof before);
    }
}

static void the_fall_of_ferr_is_told_once(void **state)
{
    struct rig *r = *state;
    r->ignne = IGNNE_IGNORE;
    for (unsigned i = 0; i < ARRAY_LEN(ending); i++) {
        for (unsigned ne = 0; ne < 2; ne++) {
            bool waits = strncmp(ending[i].name, "fld", 3) == 0 || strcmp(ending[i].name, "frstor") == 0;
            if (waits && ne)
                continue; /* #MF */
            struct vcpu_state *s = pending_error(r);
            s->cr0 |= ne ? CR0_NE : 0;
            memcpy(rig_at(r, OPERAND), &(uint16_t){FCW_DEFAULT}, 2);
            *(uint8_t *)rig_at(r, OPERAND + 25) = 0x1f; /* MXCSR */
            assert_int_equal(exec(r, &ending[i]), STEP_NEXT);
            assert_int_equal(s->fpu.fsw & 0x8080, 0);
            assert_int_equal(crossings(r, 'f'), 1);
            assert_int_equal(exec(r, &not_waiting[2]), STEP_NEXT); /* there is nothing left to end */
            assert_int_equal(crossings(r, 'f'), 1);
        }
    }
}

static void an_error_that_stays_is_not_told_to_have_gone(void **state)
{
    struct rig *r = *state;
    pending_error(r);
    exec(r, &not_waiting[0]);
    exec(r, &not_waiting[1]);
    memcpy(rig_at(r, OPERAND), &(uint16_t){FCW_ZE}, 2); /* FXRSTOR of another error */
    memcpy(rig_at(r, OPERAND + 2), &(uint16_t){0x0004}, 2);
    *(uint8_t *)rig_at(r, OPERAND + 25) = 0x1f;
    exec(r, &not_waiting[7]);
    assert_int_equal(r->e->cpu.fpu.fsw, FSW_ZE_DONE);
    assert_int_equal(r->crossings, 0);
}

/* ---- IGNNE# asserted ---- */

static void ignored_the_instruction_is_executed_and_the_error_stays(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = pending_error(r);
    r->ignne = IGNNE_IGNORE;
    assert_int_equal(exec(r, &waiting[0]), STEP_NEXT); /* FWAIT */
    assert_int_equal(exec(r, &waiting[1]), STEP_NEXT); /* FLD1 */
    assert_int_equal(s->fpu.fsw, FSW_ZE_DONE | 7 << 11);
    assert_memory_equal(s->fpu.st[0], "\0\0\0\0\0\0\0\x80\xff\x3f", 10);
    assert_int_equal(exec(r, &(struct code)CODE("fst m64", "\xdd\x15" AT)), STEP_NEXT);
    assert_true(rig_u64(r, OPERAND) == 0x3ff0000000000000);
    assert_int_equal(exec(r, &waiting[8]), STEP_NEXT); /* MOVQ MM0, MM1 */
    assert_int_equal(s->fpu.fsw, FSW_ZE_DONE);
    assert_int_equal(s->fpu.ftw, 0xff);
    assert_int_equal(crossings(r, 'x'), 4);
    assert_int_equal(crossings(r, 'f'), 0);
}

/* FLD1; FSQRT of -1: a second unmasked exception, whose result is not stored; then an empty register: SF and C1 too. */
static void ignored_further_exceptions_add_up(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = pending_error(r);
    r->ignne = IGNNE_IGNORE;
    s->fpu.fcw = FCW_IE_ZE;
    exec(r, &waiting[1]);
    assert_int_equal(exec(r, &(struct code)CODE("fchs", "\xd9\xe0")), STEP_NEXT);
    assert_int_equal(exec(r, &(struct code)CODE("fsqrt", "\xd9\xfa")), STEP_NEXT);
    assert_int_equal(s->fpu.fsw, FSW_ZE_DONE | FSW_IE | 7 << 11);
    assert_memory_equal(s->fpu.st[0], "\0\0\0\0\0\0\0\x80\xff\xbf", 10);
    assert_int_equal(exec(r, &(struct code)CODE("fadd st, st1", "\xd8\xc1")), STEP_NEXT);
    assert_int_equal(s->fpu.fsw & ~0x4700, FSW_ZE_DONE | FSW_IE | FSW_SF | 7 << 11);
    s->fpu.fsw &= (uint16_t)~FSW_IE;
    assert_int_equal(exec(r, &waiting[1]), STEP_NEXT);
    assert_true(s->fpu.fsw & FSW_SF); /* sticky like the others */
}

static void ignored_and_masked_the_error_is_gone_but_not_its_flag(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = pending_error(r);
    r->ignne = IGNNE_IGNORE;
    memcpy(rig_at(r, OPERAND), &(uint16_t){FCW_DEFAULT}, 2);
    assert_int_equal(exec(r, &waiting[5]), STEP_NEXT); /* FLDCW */
    assert_int_equal(s->fpu.fsw, 0x0004);
    assert_int_equal(crossings(r, 'f'), 1);
}

/* A fault of the operand comes after the answer, and the error is pending as before. */
static void ignored_an_operand_can_fault(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = pending_error(r);
    r->ignne = IGNNE_IGNORE;
    s->seg[SEG_DS].limit = OPERAND - 1;
    struct vcpu_state before = *s;
    rig_assert_fault(r, exec(r, &waiting[3]), VEC_GP, 0);
    assert_memory_equal(s, &before, sizeof before);
    assert_int_equal(crossings(r, 'f'), 0);
}

/* ---- waiting, in the run loop ---- */

static int run_one(struct rig *r)
{
    struct engine_request request = {.limit = r->engine->ops->position(r->engine) + 10};
    struct error err;
    return r->engine->ops->run(r->engine, &request, &err);
}

static void put_code(struct rig *r, const char *bytes, size_t length)
{
    memcpy(rig_at(r, r->e->cpu.rip), bytes, length);
    rig_gate(r, VECTOR_IRQ, 14, 0, SEL_CODE32, HANDLER, 0);
    rig_gate(r, VEC_DB, 14, 0, SEL_CODE32, HANDLER + 0x100, 0);
    *(uint8_t *)rig_at(r, HANDLER) = 0xf4; /* HLT */
}

static void waiting_is_one_transition_that_an_interrupt_ends(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = pending_error(r);
    struct error err;
    uint64_t rip = s->rip;
    put_code(r, "\x90\x9b\x90", 3); /* NOP; FWAIT; NOP */
    s->rflags |= RFLAGS_IF;
    position_t start = r->engine->ops->position(r->engine);
    assert_int_equal(run_one(r), ENGINE_STOP_HALT);
    assert_int_equal(r->engine->ops->position(r->engine), start + 2);
    assert_int_equal(s->activity, ACTIVITY_HALTED);
    assert_int_equal(s->rip, rip + 1);
    assert_int_equal(run_one(r), ENGINE_STOP_HALT); /* it is asked no more while it waits */
    assert_int_equal(crossings(r, 'x'), 1);
    assert_true(r->engine->ops->can_interrupt(r->engine));
    assert_int_equal(r->engine->ops->interrupt(r->engine, VECTOR_IRQ, &err), 0);
    assert_int_equal(s->rip, HANDLER);
    assert_int_equal(s->activity, ACTIVITY_RUNNING);
    assert_int_equal(rig_u32(r, s->gpr[GPR_RSP]), rip + 1);
    assert_int_equal(run_one(r), ENGINE_STOP_HALT);
    assert_int_equal(s->rip, HANDLER + 1);
    assert_int_equal(r->engine->ops->position(r->engine), start + 4);
}

/* It is tried again after the interrupt, and asks again. */
static void the_instruction_is_tried_again(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = pending_error(r);
    struct error err;
    uint64_t rip = s->rip;
    put_code(r, "\xd9\xe8\xf4", 3);        /* FLD1; HLT */
    *(uint8_t *)rig_at(r, HANDLER) = 0xcf; /* IRETD */
    s->rflags |= RFLAGS_IF;
    assert_int_equal(run_one(r), ENGINE_STOP_HALT);
    r->ignne = IGNNE_IGNORE;
    assert_int_equal(r->engine->ops->interrupt(r->engine, VECTOR_IRQ, &err), 0);
    assert_int_equal(run_one(r), ENGINE_STOP_HALT);
    assert_int_equal(s->rip, rip + 3);
    assert_int_equal(s->fpu.fsw, FSW_ZE_DONE | 7 << 11);
    assert_int_equal(crossings(r, 'x'), 2);
}

/* No single-step trap: no instruction was completed. RF stays for the time when it is tried again; an STI's shadow ends. */
static void waiting_completes_no_instruction(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = pending_error(r);
    uint64_t rip = s->rip;
    put_code(r, "\x9b", 1);
    s->rflags |= RFLAGS_TF | RFLAGS_RF | RFLAGS_IF;
    s->shadow = SHADOW_STI;
    assert_int_equal(run_one(r), ENGINE_STOP_HALT);
    assert_int_equal(s->rip, rip);
    assert_int_equal(s->activity, ACTIVITY_HALTED);
    assert_int_equal(s->pending_debug, 0);
    assert_true(s->rflags & RFLAGS_RF);
    assert_true(r->engine->ops->can_interrupt(r->engine));
}

static void a_debugger_of_exceptions_sees_none(void **state)
{
    struct rig *r = *state;
    pending_error(r);
    put_code(r, "\x9b", 1);
    struct engine_points points = {.exceptions = ~0ull};
    r->engine->ops->set_points(r->engine, &points);
    assert_int_equal(run_one(r), ENGINE_STOP_HALT);
    r->engine->ops->set_points(r->engine, NULL);
}

#define RIG_TEST(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        RIG_TEST(waiting_instructions_ask_and_wait),
        RIG_TEST(an_answer_that_does_not_exist_is_to_wait),
        RIG_TEST(without_an_error_nobody_asks),
        RIG_TEST(other_instructions_do_not_ask),
        RIG_TEST(with_ne_it_is_mf),
        RIG_TEST(the_boundary_can_have_it_reported_as_mf),
        RIG_TEST(a_boundary_that_fails_leaves_all_as_it_was),
        RIG_TEST(the_fall_of_ferr_is_told_once),
        RIG_TEST(an_error_that_stays_is_not_told_to_have_gone),
        RIG_TEST(ignored_the_instruction_is_executed_and_the_error_stays),
        RIG_TEST(ignored_further_exceptions_add_up),
        RIG_TEST(ignored_and_masked_the_error_is_gone_but_not_its_flag),
        RIG_TEST(ignored_an_operand_can_fault),
        RIG_TEST(waiting_is_one_transition_that_an_interrupt_ends),
        RIG_TEST(the_instruction_is_tried_again),
        RIG_TEST(waiting_completes_no_instruction),
        RIG_TEST(a_debugger_of_exceptions_sees_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
