/*
 * What is filled in for a known shape is what Zydis decodes: every opcode of the legacy maps and of VEX, with prefixes, all values of
 * REX and ModRM, and without prefixes of SIB, and displacements and immediates of either sign, each known from each other
 * one. By default a part of them; with the argument "all" every one.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/x86/code_arena.h"
#include "core/x86/decode_fast.h"
#include "core/x86/emu.h"
#include "core/x86/stub.h"
#include "tests/isa/isa.h"

#define LENGTH_MAX  15u
#define VARIANTS    4u
#define TRUNCATIONS 64u               /* one of so many shapes is also cut short */
#define ARENA_FULL  ((size_t)1 << 16) /* so that equal stubs are still found, and shared */

struct bench {
    struct guest_ram *ram;
    struct cpu_model model;
    struct boundary boundary;
    struct engine *engine;
    struct emu *e;
    struct isa_random random;
    unsigned skip; /* of so many shapes one is looked at, by chance */
    uint64_t shapes, plans, insns, cut;
};

/* Bytes before ModRM. */
struct head {
    uint8_t bytes[8];
    unsigned length;
    bool all_sibs; /* otherwise one for each ModRM, by chance */
};

static bool everything;

/* Displacement and immediate, byte by byte: nothing, all ones, both signs. */
static void fill_tail(struct bench *b, uint8_t *bytes, size_t from, unsigned variant)
{
    for (size_t i = from; i < LENGTH_MAX; i++) {
        switch (variant) {
        case 0:
            bytes[i] = 0;
            break;
        case 1:
            bytes[i] = 0xff;
            break;
        case 2:
            bytes[i] = (i - from) % 2 ? 0x7f : 0x80;
            break;
        default:
            bytes[i] = (uint8_t)isa_random(&b->random);
            break;
        }
    }
}

static void fail_for(const char *what, const uint8_t *bytes)
{
    printf("%s:", what);
    for (unsigned i = 0; i < LENGTH_MAX; i++)
        printf(" %02x", bytes[i]);
    printf("\n");
    fail();
}

static void check_plans(struct bench *b, uint8_t bytes[VARIANTS][LENGTH_MAX])
{
    struct plan expected[VARIANTS], found;
    for (unsigned k = 0; k < VARIANTS; k++)
        assert_int_equal(plan_decode_anew(b->e, bytes[k], LENGTH_MAX, 8, &expected[k]), 1);
    for (unsigned k = 0; k < VARIANTS; k++) {
        struct plan known;
        assert_int_equal(plan_decode_anew(b->e, bytes[k], LENGTH_MAX, 8, &known), 1);
        for (unsigned i = 0; i < VARIANTS; i++) {
            int result = decode_cache_find_plan(b->e->decoded, bytes[i], LENGTH_MAX,
                                                code_arena_generation(b->e->arena), &found);
            if (result != 1 && result != -ENOENT)
                fail_for("neither known nor unknown", bytes[i]);
            if (result == 1 && memcmp(&found, &expected[i], sizeof found) != 0)
                fail_for("another plan", bytes[i]);
            b->plans += result == 1;
        }
    }
}

static void check_insn(struct bench *b, const ZydisDecoder *decoder, const uint8_t *bytes)
{
    ZydisDecodedInstruction z;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    struct decoded found;
    bool valid = ZYAN_SUCCESS(ZydisDecoderDecodeFull(decoder, bytes, LENGTH_MAX, &z, op));
    if (decode_cache_decode(b->e->decoded, bytes, LENGTH_MAX, &found) != valid)
        fail_for("valid for one", bytes);
    if (!valid)
        return;
    if (memcmp(found.z, &z, sizeof z) != 0 || memcmp(found.op, op, z.operand_count * sizeof op[0]) != 0)
        fail_for("another instruction", bytes);
    b->insns++;
}

static void check_cut(struct bench *b, const uint8_t *bytes)
{
    for (size_t length = 0; length < LENGTH_MAX; length++) {
        struct plan expected, found;
        int result = plan_decode_anew(b->e, bytes, length, 8, &expected);
        assert_int_equal(plan_decode(b->e, bytes, length, 8, &found), result);
        if (result == 1 && memcmp(&found, &expected, sizeof found) != 0)
            fail_for("another plan when cut", bytes);
        b->cut++;
    }
}

static void check_shape(struct bench *b, const ZydisDecoder *decoder, const uint8_t *head, unsigned length)
{
    uint8_t bytes[VARIANTS][LENGTH_MAX];
    if (b->skip > 1 && isa_random(&b->random) % b->skip)
        return;
    for (unsigned k = 0; k < VARIANTS; k++) {
        memcpy(bytes[k], head, length);
        fill_tail(b, bytes[k], length, k);
    }
    check_plans(b, bytes);
    for (unsigned k = 0; k < VARIANTS; k++)
        check_insn(b, decoder, bytes[k]);
    if (b->shapes++ % TRUNCATIONS == 0)
        check_cut(b, bytes[b->shapes / TRUNCATIONS % VARIANTS]);
    if (code_arena_used(b->e->arena) > ARENA_FULL)
        code_arena_recycle(b->e->arena);
}

/* How many bytes come before displacement and immediate. */
static unsigned head_length(const uint8_t *bytes)
{
    struct plan_layout l;
    if (!plan_find_layout(bytes, LENGTH_MAX, 8, &l))
        return 0;
    return (unsigned)(l.length - l.disp_bytes - l.imm_bytes);
}

/* All ModRM and SIB bytes behind the opcode, if it has any. */
static void check_opcode(struct bench *b, const ZydisDecoder *decoder, const struct head *h)
{
    uint8_t bytes[LENGTH_MAX] = {0};
    memcpy(bytes, h->bytes, h->length);
    if (head_length(bytes) <= h->length) {
        check_shape(b, decoder, bytes, h->length);
        return;
    }
    for (unsigned modrm = 0; modrm < 256; modrm++) {
        bytes[h->length] = (uint8_t)modrm;
        if (head_length(bytes) <= h->length + 1) {
            check_shape(b, decoder, bytes, h->length + 1);
            continue;
        }
        unsigned sib = h->all_sibs ? 0 : isa_random(&b->random) % 256, last = h->all_sibs ? 255 : sib;
        for (; sib <= last; sib++) {
            bytes[h->length + 1] = (uint8_t)sib;
            check_shape(b, decoder, bytes, h->length + 2);
        }
    }
}

static void put(struct head *h, unsigned byte)
{
    h->bytes[h->length++] = (uint8_t)byte;
}

static void check_legacy(struct bench *b, const ZydisDecoder *decoder, const char *prefixes, unsigned map)
{
    for (unsigned rex = 0x3f; rex <= 0x4f; rex++) {
        for (unsigned opcode = 0; opcode < 256; opcode++) {
            struct head h = {.all_sibs = everything && !*prefixes};
            for (const char *p = prefixes; *p; p++)
                put(&h, (uint8_t)*p);
            if (rex >= 0x40)
                put(&h, rex);
            if (map)
                put(&h, 0x0f);
            if (map > 1)
                put(&h, map == 2 ? 0x38 : 0x3a);
            put(&h, opcode);
            check_opcode(b, decoder, &h);
        }
    }
}

static void check_vex(struct bench *b, const ZydisDecoder *decoder)
{
    for (unsigned second = 0; second < 256; second++) {
        for (unsigned opcode = 0; opcode < 256; opcode++) {
            struct head h = {.bytes = {0xc5, (uint8_t)second, (uint8_t)opcode}, .length = 3};
            check_opcode(b, decoder, &h);
            h = (struct head){
                .bytes = {0xc4, (uint8_t)(0xe1 | (second & 2)), (uint8_t)second, (uint8_t)opcode},
                .length = 4};
            check_opcode(b, decoder, &h);
        }
    }
}

static void a_known_shape_gives_what_zydis_gives(void **state)
{
    (void)state;
    static const char *const prefixes[] = {"",     "\x66", "\xf2", "\xf3",     "\xf0",     "\x64",    "\x65",
                                           "\x2e", "\x3e", "\x67", "\x66\xf2", "\x66\x65", "\x65\xf0"};
    struct bench b = {.random = {.s = 7}, .skip = everything ? 1 : 96};
    struct error err = {0};
    ZydisDecoder decoder;
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    cpu_model_init(&b.model, CPU_PROFILE_EMU);
    assert_int_equal(ram_create(&b.ram, 1 << 20, &err), 0);
    assert_int_equal(emu_create(&b.engine, b.ram, &b.boundary, &b.model, &err), 0);
    b.e = container_of(b.engine, struct emu, engine);
    for (unsigned i = 0; i < ARRAY_LEN(prefixes); i++)
        for (unsigned map = 0; map < 4; map++)
            check_legacy(&b, &decoder, prefixes[i], map);
    check_vex(&b, &decoder);
    printf("%llu shapes, %llu plans and %llu instructions compared, %llu cut short\n",
           (unsigned long long)b.shapes, (unsigned long long)b.plans, (unsigned long long)b.insns,
           (unsigned long long)b.cut);
    assert_true(b.plans > 1000000 && b.insns > 500000);
    b.engine->ops->destroy(b.engine);
    ram_destroy(b.ram);
}

/* A stub's address is worth nothing once the arena was emptied. */
static void plans_of_an_emptied_arena_are_forgotten(void **state)
{
    (void)state;
    static const uint8_t rol[] = {0x48, 0xc1, 0xc0, 0x05};
    struct bench b = {0};
    struct error err = {0};
    struct plan p;
    cpu_model_init(&b.model, CPU_PROFILE_EMU);
    assert_int_equal(ram_create(&b.ram, 1 << 20, &err), 0);
    assert_int_equal(emu_create(&b.engine, b.ram, &b.boundary, &b.model, &err), 0);
    b.e = container_of(b.engine, struct emu, engine);
    assert_int_equal(plan_decode(b.e, rol, sizeof rol, 8, &p), 1);
    assert_non_null(p.stub);
    uint64_t generation = code_arena_generation(b.e->arena);
    assert_int_equal(decode_cache_find_plan(b.e->decoded, rol, sizeof rol, generation, &p), 1);
    code_arena_recycle(b.e->arena);
    generation = code_arena_generation(b.e->arena);
    assert_int_equal(decode_cache_find_plan(b.e->decoded, rol, sizeof rol, generation, &p), -ENOENT);
    b.engine->ops->destroy(b.engine);
    ram_destroy(b.ram);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plans_of_an_emptied_arena_are_forgotten),
        cmocka_unit_test(a_known_shape_gives_what_zydis_gives),
    };
    everything = argc > 1 && strcmp(argv[1], "all") == 0;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
