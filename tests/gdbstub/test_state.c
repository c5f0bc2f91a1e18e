/* Registers, memory and points, packet by packet. */
#include "tests/gdbstub/client.h"

#include <stdio.h>
#include <string.h>

/* ---- registers ---- */

/* A different value in every byte of every register that is shown. */
static void fill(struct vcpu_state *s)
{
    for (unsigned i = 0; i < GPR_COUNT; i++)
        s->gpr[i] = 0x1011121314151600u + i;
    s->rflags = 0x246;
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        s->seg[i].selector = (uint16_t)(0xa000 + i);
        s->seg[i].base = 0x7fff00000000u + i;
    }
    s->kernel_gs_base = 0xffff800000001234u;
    s->cr2 = 0xffff800000005678u;
    s->cr8 = 9;
    struct fpu_state *f = &s->fpu;
    for (unsigned i = 0; i < 8; i++)
        for (unsigned j = 0; j < 10; j++)
            f->st[i][j] = (uint8_t)(i * 16 + j);
    for (unsigned i = 0; i < 16; i++)
        for (unsigned j = 0; j < 32; j++)
            f->ymm[i][j] = (uint8_t)(i * 16 ^ j * 5);
    f->fcw = 0x37f;
    f->fsw = 0x3000; /* TOP = 6: ST(0) is register 6 */
    f->ftw = 0xc1;   /* registers 0, 6, 7: ST(2), ST(0), ST(1) */
    memset(f->st[0], 0, 10);
    memset(f->st[1], 0, 10);
    f->st[1][7] = 0x80;
    f->st[1][9] = 0x3f;
    memset(f->st[2], 0xff, 10); /* a NaN */
    f->fop = 0x5bc;
    f->fip = 0x0000123456789abc;
    f->fdp = 0x0000cba987654321;
    f->mxcsr = 0x1fa5;
}

static void put_little(char **to, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        *to += sprintf(*to, "%02x", (unsigned)(value >> (8 * i) & 0xff));
}

/* What g answers, built here by the list in the GDB manual's appendix G and gdb/features/i386. */
static void expected_registers(const struct vcpu_state *s, char *to)
{
    static const enum gpr order[] = {GPR_RAX, GPR_RBX, GPR_RCX, GPR_RDX, GPR_RSI, GPR_RDI, GPR_RBP, GPR_RSP};
    static const enum segment_register segments[] = {SEG_CS, SEG_SS, SEG_DS, SEG_ES, SEG_FS, SEG_GS};
    for (unsigned i = 0; i < 16; i++)
        put_little(&to, s->gpr[i < 8 ? order[i] : i], 8);
    put_little(&to, s->rip, 8);
    put_little(&to, s->rflags, 4);
    for (unsigned i = 0; i < 6; i++)
        put_little(&to, s->seg[segments[i]].selector, 4);
    for (unsigned i = 0; i < 8; i++)
        for (unsigned j = 0; j < 10; j++)
            put_little(&to, s->fpu.st[i][j], 1);
    put_little(&to, 0x37f, 4);
    put_little(&to, 0x3000, 4);
    put_little(&to, 0x1ffe, 4); /* tags: 7 valid, 6 zero, 5..1 empty, 0 special */
    put_little(&to, 0x1234, 4);
    put_little(&to, 0x56789abc, 4);
    put_little(&to, 0xcba9, 4);
    put_little(&to, 0x87654321, 4);
    put_little(&to, 0x5bc, 4);
    for (unsigned i = 0; i < 16; i++)
        for (unsigned j = 0; j < 16; j++)
            put_little(&to, s->fpu.ymm[i][j], 1);
    put_little(&to, s->fpu.mxcsr, 4);
    put_little(&to, s->seg[SEG_FS].base, 8);
    put_little(&to, s->seg[SEG_GS].base, 8);
    for (unsigned i = 0; i < 16; i++)
        for (unsigned j = 16; j < 32; j++)
            put_little(&to, s->fpu.ymm[i][j], 1);
    put_little(&to, s->kernel_gs_base, 8);
    put_little(&to, s->cr0, 8);
    put_little(&to, s->cr2, 8);
    put_little(&to, s->cr3, 8);
    put_little(&to, s->cr4, 8);
    put_little(&to, s->cr8, 8);
    put_little(&to, s->efer, 8);
}

static void all_registers_are_read_in_gdbs_order(void **state)
{
    struct fixture *f = *state;
    char expected[4096];
    fill(walk_state(f->walk));
    expected_registers(walk_state(f->walk), expected);
    assert_answer(&f->client, "g", expected);
}

static void one_register_is_read_as_it_is_among_all(void **state)
{
    struct fixture *f = *state;
    struct client *c = &f->client;
    char all[4096], question[16];
    fill(walk_state(f->walk));
    snprintf(all, sizeof(all), "%s", client_ask(c, "g"));
    size_t at = 0;
    unsigned n = 0;
    for (; all[at]; n++) {
        snprintf(question, sizeof(question), "p%x", n);
        const char *one = client_ask(c, question);
        assert_int_equal(strncmp(all + at, one, strlen(one)), 0);
        assert_true(strlen(one) >= 8);
        at += strlen(one);
    }
    assert_int_equal(n, 24 + 16 + 17 + 2 + 16 + 7);
    snprintf(question, sizeof(question), "p%x", n);
    assert_answer(c, question, "E16");
    assert_answer(c, "p", "E16");
    assert_answer(c, "p0x", "E16");
    assert_answer(c, "p10000000000000000", "E16");
}

static void registers_of_a_recording_cannot_be_written(void **state)
{
    struct client *c = *state;
    char question[4096];
    assert_answer(c, "P0=0100000000000000", "E.a recording cannot be changed");
    snprintf(question, sizeof(question), "G01%s", client_ask(c, "g") + 2);
    assert_answer(c, question, "E.a recording cannot be changed");
    /* Nothing would change. */
    assert_answer(c, "P0=0000000000000000", "OK");
}

static void registers_of_a_live_target_are_written(void **state)
{
    static const char *const writes[][3] = {
        {"P0=8877665544332211", "p0", "8877665544332211"},
        {"P10=0500100000000000", "p10", "0500100000000000"},
        {"P11=d70a0000", "p11", "d70a0000"},
        {"P11=00000000", "p11", "02000000"}, /* bit 1 is always 1 */
        {"P18=0102030405060708090a", "p18", "0102030405060708090a"},
        {"P22=fcff0000", "p22", "feff0000"}, /* register 0 is not empty, and special, not valid */
        {"P20=7f030000", "p20", "7f030000"},
        {"P28=000102030405060708090a0b0c0d0e0f", "p28", "000102030405060708090a0b0c0d0e0f"},
        {"P38=801f0000", "p38", "801f0000"},
        {"P39=000000000000ffff", "p39", "E.fs_base: 0xffff000000000000 is not a canonical address"},
        {"P39=0000000000800000", "p39", "E.fs_base: 0x800000000000 is not a canonical address"},
        {"P39=00f0ffffffffffff", "p39", "00f0ffffffffffff"},
        {"P3b=101112131415161718191a1b1c1d1e1f", "p3b", "101112131415161718191a1b1c1d1e1f"},
        {"P4b=0000000000000080", NULL, "E.k_gs_base: 0x8000000000000000 is not a canonical address"},
    };
    struct client *c = *state;
    for (size_t i = 0; i < ARRAY_LEN(writes); i++) {
        const char *answer = client_ask(c, writes[i][0]);
        if (strncmp(writes[i][2], "E.", 2) == 0) {
            assert_string_equal(answer, writes[i][2]);
            continue;
        }
        assert_string_equal(answer, "OK");
        assert_answer(c, writes[i][1], writes[i][2]);
    }
    char question[4096];
    snprintf(question, sizeof(question), "G%s", client_ask(c, "g"));
    memcpy(question + 1, "1122334455667788", 16);
    assert_answer(c, question, "OK");
    assert_answer(c, "p0", "1122334455667788");
    question[1] = '9';
    question[strlen(question) - 1] = '\0';
    assert_answer(c, question, "E16");
    question[strlen(question) - 1] = '\0';
    assert_answer(c, question, "E16");
    assert_answer(c, "p0", "1122334455667788");
}

static void what_decides_the_mode_cannot_be_written(void **state)
{
    struct client *c = *state;
    assert_answer(c, "P12=10000000", "E.cs: segment registers cannot be changed by a debugger");
    assert_answer(c, "P4c=0000000000000000", "E.cr0: the mode of the vCPU cannot be changed by a debugger");
    assert_answer(c, "P51=0000000000000000", "E.efer: the mode of the vCPU cannot be changed by a debugger");
    assert_answer(c, "P50=1000000000000000", "E.cr8: only 0..15");
    assert_answer(c, "P52=00", "E16");
    assert_answer(c, "P0=00", "E16");
    assert_answer(c, "P0=000000000000000000", "E16");
    assert_answer(c, "P0", "E16");
}

static void in_32_bit_code_registers_have_32_bits(void **state)
{
    struct fixture *f = *state;
    struct client *c = &f->client;
    assert_non_null(strstr(client_ask(c, "qXfer:features:read:target.xml:0,100"), "<architecture>i386<"));
    assert_answer(c, "p8", "00001000");
    assert_answer(c, "P0=04030201", "OK");
    assert_answer(c, "p0", "04030201");
    assert_int_equal(vm_state(f->walk->vm)->gpr[GPR_RAX], 0x01020304);
    assert_answer(c, "p4", "00f01f00");
    assert_answer(c, "?", "T05thread:1;4:00f01f00;5:00000000;8:00001000;");
}

/* ---- memory ---- */

static void memory_is_read(void **state)
{
    struct client *c = *state;
    assert_answer(c, "m100000,4", "89042500");
    assert_answer(c, "m100000,0", "");
    assert_answer(c, "m100000", "E16");
    assert_answer(c, "m100000,4,", "E16");
    assert_answer(c, "m,4", "E16");
    assert_answer(c, "m10000000000000000,4", "E16");
    /* Not mapped; the mapped part of a range; the end of the address space. */
    assert_answer(c, "m7fffffffff00,4", "E0e");
    assert_int_equal(strlen(client_ask(c, "m11ffffe,4")), 4);
    assert_answer(c, "mffffffffffffffff,4", "E0e");
    /* No more than fits into a packet. */
    assert_int_equal(strlen(client_ask(c, "m100000,ffffffffffffffff")), 16384);
}

static void memory_of_a_recording_cannot_be_written(void **state)
{
    struct client *c = *state;
    assert_answer(c, "M100000,1:90", "E.a recording cannot be changed");
    assert_answer(c, "X100000,1:\x90", "E.a recording cannot be changed");
    assert_answer(c, "X100000,0:", "OK"); /* can X be used? */
    assert_answer(c, "m100000,1", "89");
}

static void memory_of_a_live_target_is_written(void **state)
{
    static const char binary[] = "X180010,6:\x00}\x03}\x04}]}\x0a\xff";
    struct client *c = *state;
    assert_answer(c, "M180000,3:a0B1c2", "OK");
    assert_answer(c, "m180000,4", "a0b1c200");
    assert_string_equal(client_ask_bytes(c, binary, sizeof(binary) - 1), "OK");
    assert_answer(c, "m180010,7", "0023247d2aff00");
    assert_answer(c, "M180000,3:a0b1", "E16");
    assert_answer(c, "M180000,3:a0b1c2d3", "E16");
    assert_answer(c, "M180000,3:a0b1cx", "E16");
    assert_answer(c, "X180000,2:a", "E16");
    assert_answer(c, "X180000,1:}", "E16");
    assert_answer(c, "X180000,1", "E16");
    assert_answer(c, "M7fffffffff00,1:00", "E.0x7fffffffff00 is not mapped");
    assert_answer(c, "Mffffffffffffffff,2:0000", "E.the address space ends within the range");
}

static void memory_packets_can_mean_physical_memory(void **state)
{
    struct client *c = *state;
    assert_answer(c, "qqemu.PhyMemMode", "0");
    assert_answer(c, "m1100000,4", "89042500"); /* the alias of the first 2 MiB */
    assert_answer(c, "Qqemu.PhyMemMode:1", "OK");
    assert_answer(c, "qqemu.PhyMemMode", "1");
    assert_answer(c, "m1100000,4", "E0e"); /* there is no RAM */
    assert_answer(c, "m100000,4", "89042500");
    assert_answer(c, "M1100000,1:00", "E.there is no RAM at physical address 0x1100000");
    assert_answer(c, "Qqemu.PhyMemMode:2", "E16");
    assert_answer(c, "Qqemu.PhyMemMode:0", "OK");
    assert_answer(c, "m1100000,4", "89042500");
    assert_answer(c, "qqemu.Supported:", "PhyMemMode");
}

/* ---- points ---- */

static void points_are_inserted_once_and_removed(void **state)
{
    struct fixture *f = *state;
    struct client *c = &f->client;
    static const char *const points[] = {"0,100007,1", "1,100007,1", "2,180000,3", "3,180000,3",
                                         "4,180001,100"};
    char question[32];
    for (int twice = 0; twice < 2; twice++) {
        for (size_t i = 0; i < ARRAY_LEN(points); i++) {
            snprintf(question, sizeof(question), "Z%s", points[i]);
            assert_answer(c, question, "OK");
        }
        assert_int_equal(f->walk->point_count, ARRAY_LEN(points));
    }
    assert_answer(c, "Z0,100007,4", "OK"); /* a breakpoint has no length */
    assert_answer(c, "Z2,180000,4", "OK"); /* this is another */
    assert_int_equal(f->walk->point_count, ARRAY_LEN(points) + 1);
    assert_answer(c, "z2,180000,4", "OK");
    for (size_t i = 0; i < ARRAY_LEN(points); i++) {
        snprintf(question, sizeof(question), "z%s", points[i]);
        assert_answer(c, question, "OK");
        assert_answer(c, question, "OK");
        assert_int_equal(f->walk->point_count, ARRAY_LEN(points) - 1 - i);
    }
}

static void wrong_points_are_refused(void **state)
{
    static const char *const wrong[] = {"Z",          "Z0",           "Z0,100000", "Z0,100000,",
                                        "Z0,,1",      "Z0,100000,1x", "Z2,100,0",  "Z2,ffffffffffffffff,2",
                                        "z3,100000,", "Z0,0,1;X1,0",  "Zx,0,1",    "Z2,1,ffffffffffffffff0"};
    struct fixture *f = *state;
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        assert_answer(&f->client, wrong[i], "E16");
    assert_answer(&f->client, "Z2,ffffffffffffffff,1", "OK");
    assert_answer(&f->client, "Z2,1,ffffffffffffffff", "OK");
    assert_answer(&f->client, "Z7,0,1", "");
    /* What the target refuses: it has room for 64. */
    char question[32];
    for (unsigned i = 2; i < WALK_POINTS; i++) {
        snprintf(question, sizeof(question), "Z1,%x,1", 0x1000 - i);
        assert_answer(&f->client, question, "OK");
    }
    assert_answer(&f->client, "Z1,5000,1", "E.no room for more points");
    assert_answer(&f->client, "Z1,ffe,1", "OK");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CLIENT_TEST(all_registers_are_read_in_gdbs_order, client_setup),
        CLIENT_TEST(one_register_is_read_as_it_is_among_all, client_setup),
        CLIENT_TEST(registers_of_a_recording_cannot_be_written, client_setup),
        CLIENT_TEST(registers_of_a_live_target_are_written, client_setup_live),
        CLIENT_TEST(what_decides_the_mode_cannot_be_written, client_setup_live),
        CLIENT_TEST(in_32_bit_code_registers_have_32_bits, client_setup_live_32),
        CLIENT_TEST(memory_is_read, client_setup),
        CLIENT_TEST(memory_of_a_recording_cannot_be_written, client_setup),
        CLIENT_TEST(memory_of_a_live_target_is_written, client_setup_live),
        CLIENT_TEST(memory_packets_can_mean_physical_memory, client_setup_live),
        CLIENT_TEST(points_are_inserted_once_and_removed, client_setup),
        CLIENT_TEST(wrong_points_are_refused, client_setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
