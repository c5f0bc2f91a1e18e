/* XSAVE and its family by the emulator's one rule, pending x87 exceptions, and the checks before FPU instructions. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "tests/isa/isa.h"

#define AREA (ISA_DATA + 0x400)

static struct guest *guest;

static uint8_t *area(void)
{
    return guest_data(guest) + (AREA - ISA_DATA);
}

/* Executes one instruction; out->vector is the fault or -1. */
static struct isa_result run(const struct vcpu_state *in, const uint8_t *bytes, size_t length)
{
    struct isa_result out;
    char message[256] = "";
    memset(guest_code(guest), 0xcc, 64);
    memcpy(guest_code(guest), bytes, length);
    if (!guest_run(guest, in, &out, message, sizeof message))
        fail_msg("%s", message);
    return out;
}

#define RUN(state, ...) run((state), (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

#define XSAVE64    0x48, 0x0f, 0xae, 0x23 /* [rbx] */
#define XRSTOR64   0x48, 0x0f, 0xae, 0x2b
#define XSAVEOPT64 0x48, 0x0f, 0xae, 0x33
#define XSAVEC64   0x48, 0x0f, 0xc7, 0x23
#define XGETBV     0x0f, 0x01, 0xd0

static struct vcpu_state initial(void)
{
    struct vcpu_state s;
    guest_base_state(true, &s);
    s.rip = ISA_CODE;
    s.gpr[GPR_RBX] = AREA;
    s.gpr[GPR_RAX] = s.gpr[GPR_RDX] = 0xffffffff;
    memset(area(), 0, 1024);
    return s;
}

static struct vcpu_state busy(void)
{
    struct vcpu_state s = initial();
    for (unsigned i = 0; i < 16; i++)
        memset(s.fpu.ymm[i], (int)i + 1, 32);
    for (unsigned i = 0; i < 8; i++)
        memset(s.fpu.st[i], (int)(0x40 + i), 10);
    s.fpu.ftw = 0x3c;
    s.fpu.fsw = 0x1800;
    s.fpu.mxcsr = 0x3f80;
    return s;
}

static uint64_t header(unsigned field)
{
    uint64_t value;
    memcpy(&value, area() + 512 + 8 * field, 8);
    return value;
}

static void xrstor_brings_back_what_xsave_stored(void **state)
{
    (void)state;
    struct vcpu_state s = busy();
    struct isa_result r = RUN(&s, XSAVE64);
    assert_int_equal(r.vector, -1);
    assert_int_equal(header(0), 7);
    struct vcpu_state other = initial();
    memset(other.fpu.ymm, 0xee, sizeof other.fpu.ymm);
    memcpy(area() + 416, "untouched", 9);
    RUN(&s, XSAVE64);
    assert_memory_equal(area() + 416, "untouched", 9);
    r = RUN(&other, XRSTOR64);
    assert_int_equal(r.vector, -1);
    assert_memory_equal(r.state.fpu.ymm, s.fpu.ymm, sizeof s.fpu.ymm);
    assert_memory_equal(r.state.fpu.st, s.fpu.st, sizeof s.fpu.st);
    assert_int_equal(r.state.fpu.fsw, s.fpu.fsw);
    assert_int_equal(r.state.fpu.ftw, s.fpu.ftw);
    assert_int_equal(r.state.fpu.mxcsr, s.fpu.mxcsr);
}

static void a_component_is_in_use_when_it_is_not_initial(void **state)
{
    (void)state;
    struct vcpu_state s = initial();
    RUN(&s, XSAVE64);
    assert_int_equal(header(0), 0);
    s = initial();
    s.fpu.ymm[3][0] = 1;
    RUN(&s, XSAVE64);
    assert_int_equal(header(0), 2);
    s = initial();
    s.fpu.ymm[15][31] = 1;
    RUN(&s, XSAVE64);
    assert_int_equal(header(0), 4);
    s = initial();
    s.fpu.ftw = 1;
    s.gpr[GPR_RCX] = 1;
    struct isa_result r = RUN(&s, XGETBV);
    assert_int_equal(r.state.gpr[GPR_RAX], 1);
}

static void xsaveopt_leaves_initial_components_unwritten(void **state)
{
    (void)state;
    struct vcpu_state s = initial();
    memset(area() + 576, 0x55, 256);
    memset(area() + 160, 0x66, 256);
    s.fpu.ymm[0][0] = 9;
    RUN(&s, XSAVEOPT64);
    assert_int_equal(header(0), 2);
    assert_int_equal(area()[160], 9);
    assert_int_equal(area()[576], 0x55);
}

static void xsavec_writes_the_compacted_header(void **state)
{
    (void)state;
    struct vcpu_state s = busy();
    s.gpr[GPR_RAX] = 6;
    RUN(&s, XSAVEC64);
    assert_int_equal(header(0), 6);
    assert_int_equal(header(1), 0x8000000000000006);
    struct vcpu_state other = initial();
    struct isa_result r = RUN(&other, XRSTOR64);
    assert_int_equal(r.vector, -1);
    /* initial() cleared the area: XRSTOR of an empty standard header gives the initial state. */
    assert_int_equal(r.state.fpu.ymm[1][0], 0);
    RUN(&s, XSAVEC64);
    other.gpr[GPR_RAX] = 6;
    r = RUN(&other, XRSTOR64);
    assert_memory_equal(r.state.fpu.ymm, s.fpu.ymm, sizeof s.fpu.ymm);
    assert_int_equal(r.state.fpu.ftw, 0);
}

static void bad_areas_are_refused(void **state)
{
    (void)state;
    struct vcpu_state s = busy();
    s.gpr[GPR_RBX] += 16;
    assert_int_equal(RUN(&s, XSAVE64).vector, VEC_GP);
    s = busy();
    area()[512] = 8; /* XSTATE_BV beyond XCR0 */
    assert_int_equal(RUN(&s, XRSTOR64).vector, VEC_GP);
    s = busy();
    area()[528] = 1;
    assert_int_equal(RUN(&s, XRSTOR64).vector, VEC_GP);
    s = busy();
    area()[27] = 0x80; /* MXCSR bit 31 */
    assert_int_equal(RUN(&s, XRSTOR64).vector, VEC_GP);
    s = busy();
    s.gpr[GPR_RBX] = ISA_DATA + ISA_DATA_RO - 576; /* the AVX part would be read-only */
    struct isa_result r = RUN(&s, XSAVE64);
    assert_int_equal(r.vector, VEC_PF);
    /* The end of the area is looked at first. */
    assert_int_equal(r.cr2, ISA_DATA + ISA_DATA_RO - 576 + 831);
}

static void control_bits_are_asked_before_the_fpu_is_used(void **state)
{
    (void)state;
    struct vcpu_state s = initial();
    s.cr0 |= CR0_TS;
    assert_int_equal(RUN(&s, 0xd9, 0xe8).vector, VEC_NM);             /* fld1 */
    assert_int_equal(RUN(&s, 0x0f, 0x58, 0xc1).vector, VEC_NM);       /* addps */
    assert_int_equal(RUN(&s, 0xc5, 0xf0, 0x58, 0xc1).vector, VEC_NM); /* vaddps */
    assert_int_equal(RUN(&s, 0x9b).vector, VEC_NM);                   /* fwait */
    assert_int_equal(RUN(&s, 0x0f, 0xfc, 0xc1).vector, VEC_NM);       /* paddb mm */
    s = initial();
    s.cr0 |= CR0_EM;
    assert_int_equal(RUN(&s, 0xd9, 0xe8).vector, VEC_NM);
    assert_int_equal(RUN(&s, 0x0f, 0x58, 0xc1).vector, VEC_UD);
    assert_int_equal(RUN(&s, 0x0f, 0xfc, 0xc1).vector, VEC_UD);
    s = initial();
    s.cr4 &= ~CR4_OSFXSR;
    assert_int_equal(RUN(&s, 0x0f, 0x58, 0xc1).vector, VEC_UD);
    s = initial();
    s.cr4 &= ~CR4_OSXSAVE;
    assert_int_equal(RUN(&s, 0xc5, 0xf0, 0x58, 0xc1).vector, VEC_UD);
    assert_int_equal(RUN(&s, XSAVE64).vector, VEC_UD);
    s = initial();
    s.xcr0 = 3;
    assert_int_equal(RUN(&s, 0xc5, 0xf0, 0x58, 0xc1).vector, VEC_UD);
}

static void a_simd_exception_without_osxmmexcpt_is_undefined(void **state)
{
    (void)state;
    struct vcpu_state s = initial();
    s.fpu.mxcsr = MXCSR_DEFAULT & ~(4u << 7); /* ZM */
    memcpy(s.fpu.ymm[0], &(float){1}, 4);
    assert_int_equal(RUN(&s, 0xf3, 0x0f, 0x5e, 0xc1).vector, VEC_XM); /* divss xmm0, xmm1 */
    s.cr4 &= ~CR4_OSXMMEXCPT;
    struct isa_result r = RUN(&s, 0xf3, 0x0f, 0x5e, 0xc1);
    assert_int_equal(r.vector, VEC_UD);
    assert_memory_equal(r.state.fpu.ymm[0], s.fpu.ymm[0], 16);
    assert_int_equal(r.state.fpu.mxcsr & 0x3f, 4);
}

static int open_guest(void **state)
{
    (void)state;
    guest = guest_create(false, false);
    return guest ? 0 : -1;
}

static int close_guest(void **state)
{
    (void)state;
    guest_destroy(guest);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(xrstor_brings_back_what_xsave_stored),
        cmocka_unit_test(a_component_is_in_use_when_it_is_not_initial),
        cmocka_unit_test(xsaveopt_leaves_initial_components_unwritten),
        cmocka_unit_test(xsavec_writes_the_compacted_header),
        cmocka_unit_test(bad_areas_are_refused),
        cmocka_unit_test(control_bits_are_asked_before_the_fpu_is_used),
        cmocka_unit_test(a_simd_exception_without_osxmmexcpt_is_undefined),
    };
    return cmocka_run_group_tests(tests, open_guest, close_guest);
}
