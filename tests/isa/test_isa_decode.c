/* Decoding: nothing of the CPU model is lacking, what it does not have is #UD, lengths, and the arena when it is full. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/x86/allow_list.h"
#include "core/x86/code_arena.h"
#include "core/x86/emu.h"
#include "core/x86/stub.h"
#include "tests/isa/isa.h"

struct bench {
    struct guest_ram *ram;
    struct cpu_model model;
    struct boundary boundary;
    struct engine *engine;
    struct emu *e;
};

#define RANDOM_INSTRUCTIONS 1000000u

static void bench_open(struct bench *b, enum cpu_profile profile)
{
    struct error err = {0};
    memset(b, 0, sizeof *b);
    cpu_model_init(&b->model, profile);
    assert_int_equal(ram_create(&b->ram, 1 << 20, &err), 0);
    assert_int_equal(emu_create(&b->engine, b->ram, &b->boundary, &b->model, &err), 0);
    b->e = container_of(b->engine, struct emu, engine);
}

static void bench_close(struct bench *b)
{
    b->engine->ops->destroy(b->engine);
    ram_destroy(b->ram);
}

/* Every opcode with random operands, in the three code sizes: bytes in a fixed order for a seed. */
static void random_bytes(struct isa_random *r, unsigned opcode, uint8_t out[15])
{
    static const uint8_t mandatory[4] = {0, 0x66, 0xf3, 0xf2};
    unsigned map = opcode >> 10 & 3, prefix = opcode >> 8 & 3, n = 0;
    for (unsigned i = 0; i < 15; i++)
        out[i] = (uint8_t)isa_random(r);
    if (opcode >> 12) {
        out[n++] = 0xc4;
        out[n++] = (uint8_t)(0xe0 | (map + 1));
        out[n++] = (uint8_t)((isa_random(r) & 0x84) | 0x78 | prefix);
    } else {
        if (prefix)
            out[n++] = mandatory[prefix];
        if (map)
            out[n++] = 0x0f;
        if (map > 1)
            out[n++] = map == 2 ? 0x38 : 0x3a;
    }
    out[n] = (uint8_t)opcode;
}

static void nothing_that_the_model_has_is_lacking(void **state)
{
    (void)state;
    struct bench b;
    struct isa_random r = {.s = 1};
    static uint8_t seen[ZYDIS_MNEMONIC_MAX_VALUE + 1];
    unsigned lacking = 0, decoded = 0, mnemonics = 0;
    bench_open(&b, CPU_PROFILE_EMU);
    for (unsigned opcode = 0; opcode < 0x2000; opcode++) {
        for (unsigned i = 0; i < 24; i++) {
            uint8_t bytes[15];
            struct plan p;
            random_bytes(&r, opcode, bytes);
            assert_int_equal(plan_decode(b.e, bytes, sizeof bytes, 2u << (i % 3), &p), 1);
            assert_in_range(p.length, 1, 15);
            decoded++;
            mnemonics += p.fn != exec_undefined && !seen[p.mnemonic];
            seen[p.mnemonic] |= p.fn != exec_undefined;
            if (p.fn != exec_unsupported || seen[p.mnemonic] == 2)
                continue;
            seen[p.mnemonic] = 2;
            lacking++;
            printf("%u-bit code lacks %s\n", 8 * p.code_size,
                   ZydisMnemonicGetString((ZydisMnemonic)p.mnemonic));
        }
    }
    printf("%u decoded, %u mnemonics, %u lacking, %zu bytes of stubs\n", decoded, mnemonics, lacking,
           code_arena_used(b.e->arena));
    bench_close(&b);
    assert_true(mnemonics > 700);
    assert_int_equal(lacking, 0);
}

static void the_length_of_what_is_defined_is_what_the_decoder_says(void **state)
{
    (void)state;
    struct bench b;
    struct isa_random r = {.s = 2};
    bench_open(&b, CPU_PROFILE_EMU);
    for (unsigned i = 0; i < 0x2000 * 24; i++) {
        uint8_t bytes[15];
        struct plan p;
        random_bytes(&r, i / 24, bytes);
        unsigned size = 2u << (i % 3);
        assert_int_equal(plan_decode(b.e, bytes, sizeof bytes, size, &p), 1);
        if (p.fn == exec_undefined || p.fn == exec_too_long)
            continue;
        for (size_t n = 0; n <= sizeof bytes; n++) {
            size_t length = plan_instruction_length(bytes, n, size);
            assert_true(n < p.length ? length > n : length == p.length);
        }
    }
    bench_close(&b);
}

/* Measured with an AMD CPU: with so many prefixes in front that there are 15 bytes they are #UD, with one more #GP. */
static void an_undefined_instruction_has_a_length_too(void **state)
{
    (void)state;
    static const struct {
        uint8_t code_size, length, bytes[8];
    } cases[] = {
        {8, 1, {0x06}},
        {8, 7, {0x82, 0x05}},
        {8, 4, {0x82, 0x04, 0x24}},
        {8, 6, {0xc7, 0xe6}},
        {8, 5, {0x66, 0xc7, 0xe6}},
        {8, 7, {0x9a}},
        {8, 2, {0x0f, 0x04}},
        {8, 2, {0x0f, 0xff, 0x05}},
        {8, 3, {0x0f, 0x20, 0x0d}},
        {8, 8, {0x66, 0x0f, 0x78, 0x44, 0x24, 0x00}},
        {8, 5, {0xc4, 0xe0, 0x78, 0x00, 0xc0}},
        {8, 6, {0xc4, 0xe3, 0x78, 0x00, 0xc0}},
        {8, 3, {0x48, 0xc4, 0xe1, 0x78, 0x58, 0xc0}},
        {8, 7, {0xf0, 0x0f, 0x80}},
        {4, 4, {0xf0, 0x67, 0x02, 0xf8}},
        {4, 6, {0xf0, 0x67, 0x02, 0x06}},
        {4, 8, {0xf0, 0xea}},
        {2, 5, {0xf0, 0x02, 0x06}},
    };
    struct bench b;
    bench_open(&b, CPU_PROFILE_EMU);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        size_t expected = cases[i].length;
        for (size_t n = 0; n + expected <= 16; n++) {
            uint8_t bytes[24] = {0};
            struct plan p;
            memset(bytes, 0x3e, n);
            memcpy(bytes + n, cases[i].bytes, sizeof cases[i].bytes);
            assert_int_equal(plan_instruction_length(bytes, 15, cases[i].code_size), n + expected);
            assert_int_equal(plan_decode(b.e, bytes, 15, cases[i].code_size, &p), 1);
            assert_ptr_equal(p.fn, n + expected > 15 ? exec_too_long : exec_undefined);
            if (n + expected < 15)
                assert_int_equal(plan_decode(b.e, bytes, n + expected - 1, cases[i].code_size, &p), 0);
        }
    }
    bench_close(&b);
}

/* Prefixes, opcodes of all maps and of VEX, and what follows, at random. */
static void random_instruction(struct isa_random *r, uint8_t *bytes)
{
    static const uint8_t prefixes[] = {0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x36, 0x64, 0x48, 0x41};
    unsigned n = 0;
    for (unsigned i = 0; i < 15; i++)
        bytes[i] = (uint8_t)isa_random(r);
    while (n < 4 && !isa_one_in(r, 3))
        bytes[n++] = prefixes[isa_below(r, sizeof prefixes)];
    switch (isa_below(r, 6)) {
    case 0:
        break;
    case 1:
    case 2:
        bytes[n] = 0x0f;
        break;
    case 3:
        bytes[n] = 0x0f;
        bytes[n + 1] = isa_one_in(r, 2) ? 0x38 : 0x3a;
        break;
    case 4:
        bytes[n] = 0xc5;
        break;
    default:
        bytes[n] = 0xc4;
        bytes[n + 1] = (uint8_t)((bytes[n + 1] & 0xe0) | (1 + isa_below(r, 3)));
        break;
    }
}

/* The table that the comparison with the host takes its forms from lacks nothing that random bytes come upon. */
static void every_form_that_random_bytes_have_is_in_the_table(void **state)
{
    (void)state;
    struct cpu_model model;
    struct isa_random r = {.s = 3};
    unsigned defined = 0, missed = 0;
    cpu_model_init(&model, CPU_PROFILE_EMU);
    for (unsigned long_mode = 0; long_mode < 2; long_mode++) {
        struct isa_forms *forms = isa_forms_create(long_mode);
        ZydisDecoder decoder;
        ZydisDecodedInstruction insn;
        ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
        assert_non_null(forms);
        isa_init_decoder(&decoder, long_mode);
        for (unsigned i = 0; i < RANDOM_INSTRUCTIONS; i++) {
            uint8_t bytes[15];
            random_instruction(&r, bytes);
            if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, sizeof bytes, &insn, operands)) ||
                !allow_list_model_has(&model, &insn))
                continue;
            defined++;
            if (isa_forms_find(forms, &insn, operands) >= 0)
                continue;
            ZydisDisassembledInstruction d;
            bool good = ZYAN_SUCCESS(ZydisDisassembleIntel(decoder.machine_mode, 0, bytes, sizeof bytes, &d));
            if (missed++ < 20)
                printf("%u-bit code: %s (%02x %02x %02x %02x %02x %02x %02x %02x) is in no form\n",
                       32 << long_mode, good ? d.text : "?", bytes[0], bytes[1], bytes[2], bytes[3], bytes[4],
                       bytes[5], bytes[6], bytes[7]);
        }
        isa_forms_destroy(forms);
    }
    printf("%u random instructions, %u of them in no form\n", defined, missed);
    assert_true(defined > RANDOM_INSTRUCTIONS / 2);
    assert_int_equal(missed, 0);
}

static void an_extension_that_is_not_advertised_is_undefined(void **state)
{
    (void)state;
    static const uint8_t vaddps[] = {0xc5, 0xf0, 0x58, 0xc1}, evex[] = {0x62, 0xf1, 0x74, 0x48, 0x58, 0xc1};
    static const uint8_t xsave[] = {0x0f, 0xae, 0x20}, andn[] = {0xc4, 0xe2, 0x70, 0xf2, 0xc1};
    static const uint8_t vex_tzcnt[] = {0xc4, 0x21, 0x7a, 0xbc, 0xe8}; /* only Knights Corner had it */
    static const uint8_t addps[] = {0x0f, 0x58, 0xc1}, gf2p8mulb[] = {0x66, 0x0f, 0x38, 0xcf, 0xc1};
    struct bench b;
    struct plan p;
    bench_open(&b, CPU_PROFILE_KVM);
    const struct {
        const uint8_t *bytes;
        size_t length;
        bool defined;
    } cases[] = {{vaddps, sizeof vaddps, false},      {evex, sizeof evex, false},
                 {xsave, sizeof xsave, false},        {andn, sizeof andn, false},
                 {addps, sizeof addps, true},         {vex_tzcnt, sizeof vex_tzcnt, false},
                 {gf2p8mulb, sizeof gf2p8mulb, false}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_int_equal(plan_decode(b.e, cases[i].bytes, cases[i].length, 8, &p), 1);
        assert_true((p.fn != exec_undefined) == cases[i].defined);
    }
    bench_close(&b);
}

static void an_instruction_that_goes_on_needs_more_bytes(void **state)
{
    (void)state;
    static const uint8_t bytes[] = {0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8};
    uint8_t prefixes[16];
    struct bench b;
    struct plan p;
    bench_open(&b, CPU_PROFILE_EMU);
    for (size_t n = 0; n < sizeof bytes; n++)
        assert_int_equal(plan_decode(b.e, bytes, n, 8, &p), 0);
    assert_int_equal(plan_decode(b.e, bytes, sizeof bytes, 8, &p), 1);
    assert_int_equal(p.length, sizeof bytes);
    assert_int_equal(p.imm, 0x0807060504030201);
    memset(prefixes, 0x66, sizeof prefixes);
    assert_int_equal(plan_decode(b.e, prefixes, 14, 8, &p), 0);
    assert_int_equal(plan_decode(b.e, prefixes, sizeof prefixes, 8, &p), 1);
    assert_ptr_equal(p.fn, exec_too_long);
    bench_close(&b);
}

static void the_fields_of_a_plan_say_what_the_instruction_says(void **state)
{
    (void)state;
    static const uint8_t add[] = {0xf0, 0x64, 0x00, 0x7c, 0xb3, 0xf8}; /* lock add fs:[rbx+rsi*4-8], bh */
    static const uint8_t movs[] = {0xf3, 0x65, 0x48, 0xa5};            /* rep movsq es:[rdi], gs:[rsi] */
    static const uint8_t far_jump[] = {0xea, 0x44, 0x33, 0x22, 0x11, 0x08, 0x00};
    struct bench b;
    struct plan p;
    bench_open(&b, CPU_PROFILE_EMU);
    assert_int_equal(plan_decode(b.e, add, sizeof add, 8, &p), 1);
    assert_int_equal(p.lock, 1);
    assert_int_equal(p.seg, SEG_FS);
    assert_int_equal(p.base, GPR_RBX);
    assert_int_equal(p.index, GPR_RSI);
    assert_int_equal(p.scale, 4);
    assert_int_equal(p.disp, -8);
    assert_int_equal(p.reg[0], 3 | PLAN_REG_HIGH);
    assert_int_equal(p.op_size, 1);
    assert_int_equal(p.mem_bytes, 1);
    assert_int_equal(p.mem_access, PLAN_MEM_RMW);
    assert_int_equal(p.reg_is_memory, 1);
    assert_int_equal(plan_decode(b.e, movs, sizeof movs, 8, &p), 1);
    assert_int_equal(p.rep, PLAN_REP);
    assert_int_equal(p.seg, SEG_GS);
    assert_int_equal(p.op_size, 8);
    assert_int_equal(plan_decode(b.e, far_jump, sizeof far_jump, 4, &p), 1);
    assert_int_equal(p.imm, 0x11223344);
    assert_int_equal(p.imm2, 8);
    bench_close(&b);
}

/* More different instructions than the arena holds: RSP as the destination keeps them from having handlers in C. */
static void a_full_arena_is_recycled(void **state)
{
    (void)state;
    struct bench b;
    struct error err = {0};
    struct plan p = {0};
    bench_open(&b, CPU_PROFILE_EMU);
    code_arena_destroy(b.e->arena);
    assert_int_equal(code_arena_create(&b.e->arena, 4096, &err), 0);
    for (uint32_t i = 0; i < 200; i++) {
        uint8_t imul[7] = {0x48, 0x69, 0xc1, (uint8_t)i, (uint8_t)(i >> 8), 0, 0}; /* imul rax, rcx, i */
        assert_int_equal(plan_decode(b.e, imul, sizeof imul, 8, &p), 1);
        b.e->cpu.gpr[GPR_RCX] = 3;
        assert_int_equal(p.fn(b.e, &p), STEP_NEXT);
        assert_int_equal(b.e->cpu.gpr[GPR_RAX], 3 * i);
        assert_true(code_arena_used(b.e->arena) <= 4096);
    }
    assert_true(code_arena_generation(b.e->arena) > 1);
    bench_close(&b);
}

static void equal_code_is_shared(void **state)
{
    (void)state;
    struct code_arena *a;
    struct error err = {0};
    static const uint8_t one[] = {0xb8, 1, 0, 0, 0, 0xc3}, two[] = {0xb8, 2, 0, 0, 0, 0xc3};
    assert_int_equal(code_arena_create(&a, 4096, &err), 0);
    const void *first = code_arena_put(a, one, sizeof one);
    assert_ptr_equal(code_arena_put(a, one, sizeof one), first);
    assert_ptr_not_equal(code_arena_put(a, two, sizeof two), first);
    assert_int_equal(code_arena_create(&a, 4097, &err), -EINVAL);
    code_arena_destroy(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_that_the_model_has_is_lacking),
        cmocka_unit_test(the_length_of_what_is_defined_is_what_the_decoder_says),
        cmocka_unit_test(an_undefined_instruction_has_a_length_too),
        cmocka_unit_test(every_form_that_random_bytes_have_is_in_the_table),
        cmocka_unit_test(an_extension_that_is_not_advertised_is_undefined),
        cmocka_unit_test(an_instruction_that_goes_on_needs_more_bytes),
        cmocka_unit_test(the_fields_of_a_plan_say_what_the_instruction_says),
        cmocka_unit_test(a_full_arena_is_recycled),
        cmocka_unit_test(equal_code_is_shared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
