/* Registers, memory, points, running and monitor commands, packet by packet, on a recorded program. */
#include "tests/gdbstub/client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * 0x100000: mov [0x180000], eax; 0x100007: inc dword [0x180002]; 0x10000e: mov ebx, [0x180000]; 0x100015: nop;
 * 0x100016: hlt
 */
static const uint8_t program[] = {0x89, 0x04, 0x25, 0x00, 0x00, 0x18, 0x00, 0xff, 0x04, 0x25, 0x02, 0x00,
                                  0x18, 0x00, 0x8b, 0x1c, 0x25, 0x00, 0x00, 0x18, 0x00, 0x90, 0xf4};
/* jmp to itself */
static const uint8_t endless[] = {0xeb, 0xfe};

struct fixture {
    struct client client; /* first */
    struct walk *walk;
};

static struct fixture *create(const uint8_t *code, size_t length, enum walk_mode mode, bool live)
{
    struct fixture *f = calloc(1, sizeof(*f));
    f->walk = walk_create(code, length, mode, live);
    client_open(&f->client, f->walk);
    return f;
}

static int setup(void **state)
{
    *state = create(program, sizeof(program), WALK_64, false);
    return 0;
}

static int setup_live(void **state)
{
    *state = create(program, sizeof(program), WALK_64, true);
    return 0;
}

static int setup_32(void **state)
{
    *state = create(program, sizeof(program), WALK_32, true);
    return 0;
}

static int setup_endless(void **state)
{
    *state = create(endless, sizeof(endless), WALK_64, true);
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    client_close(&f->client);
    walk_destroy(f->walk);
    free(f);
    return 0;
}

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

/* ---- running ---- */

/* A stop reply: the reason, and RBP, RSP and RIP. */
#define STOP(reason, rip) "T05thread:1;" reason "6:0000000000000000;7:00f01f0000000000;10:" rip ";"

static void steps_go_in_both_directions(void **state)
{
    struct client *c = *state;
    assert_answer(c, "?", STOP("", "0000100000000000"));
    assert_answer(c, "vCont?", "vCont;c;C;s;S;r");
    assert_answer(c, "s", STOP("", "0700100000000000"));
    assert_answer(c, "vCont;s:1;c", STOP("", "0e00100000000000"));
    assert_answer(c, "S05", STOP("", "1500100000000000"));
    assert_answer(c, "?", STOP("", "1500100000000000"));
    assert_answer(c, "bs", STOP("", "0e00100000000000"));
    assert_answer(c, "vCont;S05:p1.-1", STOP("", "1500100000000000"));
}

static void history_ends_on_both_sides(void **state)
{
    struct client *c = *state;
    static const char begin[] = STOP("replaylog:begin;", "0000100000000000");
    static const char end[] = STOP("replaylog:end;", "1700100000000000");
    assert_answer(c, "bc", begin);
    assert_answer(c, "bs", begin);
    assert_answer(c, "vCont;c", end);
    assert_answer(c, "?", end);
    assert_answer(c, "c", end);
    assert_answer(c, "s", end);
    assert_answer(c, "bc", begin);
    assert_answer(c, "C05", end);
}

static void breakpoints_stop_with_the_reason_that_the_client_knows(void **state)
{
    struct client *c = *state;
    static const char plain[] = STOP("", "0e00100000000000");
    assert_answer(c, "Z0,10000e,1", "OK");
    assert_answer(c, "c", plain);
    client_ask(c, "qSupported:swbreak+");
    assert_answer(c, "bc", STOP("replaylog:begin;", "0000100000000000"));
    assert_answer(c, "c", STOP("swbreak:;", "0e00100000000000"));
    assert_answer(c, "z0,10000e,1", "OK");
    assert_answer(c, "Z1,10000e,1", "OK");
    client_ask(c, "c");
    assert_answer(c, "bc", plain);
    client_ask(c, "qSupported:swbreak+;hwbreak+");
    client_ask(c, "c");
    assert_answer(c, "bc", STOP("hwbreak:;", "0e00100000000000"));
}

static void watchpoints_stop_after_the_access_or_before_it_backwards(void **state)
{
    struct client *c = *state;
    /* Bytes 2..5 are incremented by the second instruction, 0..3 read by the third. */
    assert_answer(c, "Z2,180004,1", "OK");
    assert_answer(c, "c", STOP("watch:180004;", "0e00100000000000"));
    assert_answer(c, "bc", STOP("watch:180004;", "0700100000000000"));
    assert_answer(c, "bc", STOP("replaylog:begin;", "0000100000000000"));
    assert_answer(c, "z2,180004,1", "OK");
    assert_answer(c, "Z3,180000,2", "OK");
    assert_answer(c, "vCont;c", STOP("rwatch:180000;", "1500100000000000"));
    assert_answer(c, "z3,180000,2", "OK");
    assert_answer(c, "Z4,180000,2", "OK");
    assert_answer(c, "bs", STOP("awatch:180000;", "0e00100000000000"));
    assert_answer(c, "bc", STOP("awatch:180000;", "0000100000000000"));
}

static void a_range_is_stepped_through(void **state)
{
    struct client *c = *state;
    assert_answer(c, "vCont;r100000,10000e:1;c", STOP("", "0e00100000000000"));
    assert_answer(c, "vCont;r0,1", STOP("", "1500100000000000"));
    client_ask(c, "bc");
    assert_answer(c, "Z0,100007,1", "OK");
    client_ask(c, "qSupported:swbreak+");
    assert_answer(c, "vCont;r100000,100010", STOP("swbreak:;", "0700100000000000"));
    assert_answer(c, "vCont;r0,ffffffffffffffff", STOP("replaylog:end;", "1700100000000000"));
    client_ask(c, "bc");
    assert_answer(c, "vCont;r100000,100000", STOP("", "0e00100000000000"));
}

static void wrong_ways_to_run_are_refused(void **state)
{
    static const char *const wrong[] = {"vCont;",      "vCont;x", "vCont;c:", "vCont;c:2",  "vCont;r1",
                                        "vCont;r1,2,", "vCont;C", "vCont;c;", "vCont;s:1x", "cx",
                                        "C",           "C05;",    "S05;zz",   "vCont;t:1",  "c100000 "};
    struct fixture *f = *state;
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        const char *answer = client_ask(&f->client, wrong[i]);
        if (strcmp(wrong[i], "C05;") != 0)
            assert_string_equal(answer, "E16");
    }
    assert_answer(&f->client, "bx", "");
}

static void going_on_elsewhere_needs_a_target_that_can_be_changed(void **state)
{
    struct client *c = *state;
    assert_answer(c, "s100015", "E.a recording cannot be changed");
    assert_answer(c, "s100000", STOP("", "0700100000000000"));
}

static void a_live_target_goes_on_elsewhere_and_only_forwards(void **state)
{
    struct client *c = *state;
    assert_answer(c, "s100015", STOP("", "1600100000000000"));
    assert_answer(c, "S05;100015", STOP("", "1600100000000000"));
    assert_answer(c, "bs", "");
    assert_answer(c, "bc", "");
    assert_null(strstr(client_ask(c, "qSupported"), "Reverse"));
}

static void ctrl_c_ends_a_run(void **state)
{
    struct client *c = *state;
    struct buffer bytes = {0};
    client_frame(&bytes, "vCont;c", 7);
    buffer_put(&bytes, "\x03", 1);
    client_send(c, bytes.data, bytes.length);
    assert_non_null(strstr((const char *)c->raw.data, "$T02thread:1;6:"));
    /* Behind a packet that waits, whose own 0x03 is data. */
    bytes.length--;
    client_frame(&bytes, "X200000,1:\x03", 11);
    client_frame(&bytes, "m200000,1", 9);
    buffer_put(&bytes, "\x03", 1);
    client_send(c, bytes.data, bytes.length);
    const char *raw = (const char *)c->raw.data;
    assert_non_null(strstr(raw, "$T02"));
    assert_non_null(strstr(raw, "+$OK#9a+$03#63"));
    /* Too late. */
    client_send(c, "\x03", 1);
    assert_string_equal((const char *)c->raw.data, "");
    assert_answer(c, "s", STOP("", "0000100000000000"));
    assert_true(c->alive);
    buffer_free(&bytes);
}

static void ctrl_c_ends_stepping_through_a_range(void **state)
{
    struct client *c = *state;
    struct buffer bytes = {0};
    client_frame(&bytes, "vCont;r100000,100002", 20);
    buffer_put(&bytes, "\x03", 1);
    client_send(c, bytes.data, bytes.length);
    assert_non_null(strstr((const char *)c->raw.data, "$T02thread:1;6:"));
    buffer_free(&bytes);
}

static void a_flood_during_a_run_gets_the_client_dropped(void **state)
{
    struct client *c = *state;
    struct buffer bytes = {0};
    client_frame(&bytes, "vCont;c", 7);
    while (bytes.length < 100000)
        client_frame(&bytes, "g", 1);
    client_send(c, bytes.data, bytes.length);
    assert_false(c->alive);
    assert_string_equal((const char *)c->raw.data, "+");
    /* Acknowledgements are no flood. */
    buffer_clear(&bytes);
    client_frame(&bytes, "vCont;c", 7);
    memset(buffer_extend(&bytes, 200000), '+', 200000);
    buffer_put(&bytes, "\x03", 1);
    client_send(c, bytes.data, bytes.length);
    assert_true(c->alive);
    buffer_free(&bytes);
}

static void a_failed_run_stops_and_says_why(void **state)
{
    struct fixture *f = *state;
    struct client *c = &f->client;
    f->walk->fail = true;
    assert_answer(c, "c", STOP("", "0000100000000000"));
    assert_string_equal((const char *)c->text.data, "the recording is damaged\n");
}

static void greet(struct walk *w)
{
    gdb_server_console(w->server, "hello, *#}$\n", 12);
}

static void what_the_guest_prints_is_shown_while_it_runs(void **state)
{
    struct fixture *f = *state;
    struct client *c = &f->client;
    f->walk->server = c->server;
    f->walk->on_run = greet;
    greet(f->walk);
    client_ask(c, "c");
    assert_string_equal((const char *)c->text.data, "hello, *#}$\n");
    greet(f->walk);
    client_ask(c, "?");
    assert_string_equal((const char *)c->text.data, "");
}

/* ---- monitor ---- */

static const char *monitor(struct client *c, const char *command)
{
    char question[256] = "qRcmd,";
    for (size_t i = 0; command[i]; i++)
        sprintf(question + 6 + 2 * i, "%02x", (unsigned char)command[i]);
    assert_string_equal(client_ask(c, question), "OK");
    return (const char *)c->text.data;
}

static void monitor_commands_are_obeyed(void **state)
{
    struct fixture *f = *state;
    struct client *c = &f->client;
    assert_string_equal(monitor(c, "when"), "step 0 of 5\n");
    assert_string_equal(monitor(c, "goto 3"), "step 3 of 5\n");
    assert_answer(c, "?", STOP("", "1500100000000000"));
    assert_string_equal(monitor(c, "goto 9"), "there is no step 9\n");
    assert_string_equal(monitor(c, "dance"), "there is no command \"dance\"\n");
    assert_int_equal(strlen(monitor(c, "long 100000")), 100000);
    assert_int_equal(c->text.data[99999], 'a' + 99999 % 26);
    assert_int_equal(strlen(monitor(c, "long 0")), 0);
    assert_answer(c, "qRcmd,6", "E16");
    assert_answer(c, "qRcmd,6g", "E16");
    assert_answer(c, "qRcmd,7700", "E16");
}

static void the_description_can_be_chosen(void **state)
{
    struct client *c = *state;
    assert_non_null(strstr(monitor(c, "help"), "description [auto|"));
    assert_string_equal(monitor(c, "description"), "now: i386:x86-64; next: auto\n");
    monitor(c, "description i386");
    assert_non_null(
        strstr(client_ask(c, "qXfer:features:read:target.xml:0,100"), "<architecture>i386:x86-64<"));
    client_ask(c, "D");
    assert_non_null(strstr(client_ask(c, "qXfer:features:read:target.xml:0,100"), "<architecture>i386<"));
    assert_int_equal(strlen(client_ask(c, "p0")), 8);
    assert_string_equal(monitor(c, "description i8086"),
                        "From the next connection on; disconnect, and connect again.\n");
    client_ask(c, "D");
    assert_string_equal(monitor(c, "description"), "now: i8086; next: i8086\n");
    assert_non_null(strstr(monitor(c, "description arm"), "not \"arm\""));
}

static void ctrl_c_ends_a_monitor_command(void **state)
{
    struct client *c = *state;
    struct buffer bytes = {0};
    client_frame(&bytes, "qRcmd,7370696e", 14);
    buffer_put(&bytes, "\x03", 1);
    client_send(c, bytes.data, bytes.length);
    assert_string_equal((const char *)c->raw.data, "+$OK#9a");
    buffer_free(&bytes);
}

#define TEST(f, s) cmocka_unit_test_setup_teardown(f, s, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(all_registers_are_read_in_gdbs_order, setup),
        TEST(one_register_is_read_as_it_is_among_all, setup),
        TEST(registers_of_a_recording_cannot_be_written, setup),
        TEST(registers_of_a_live_target_are_written, setup_live),
        TEST(what_decides_the_mode_cannot_be_written, setup_live),
        TEST(in_32_bit_code_registers_have_32_bits, setup_32),
        TEST(memory_is_read, setup),
        TEST(memory_of_a_recording_cannot_be_written, setup),
        TEST(memory_of_a_live_target_is_written, setup_live),
        TEST(memory_packets_can_mean_physical_memory, setup_live),
        TEST(points_are_inserted_once_and_removed, setup),
        TEST(wrong_points_are_refused, setup),
        TEST(steps_go_in_both_directions, setup),
        TEST(history_ends_on_both_sides, setup),
        TEST(breakpoints_stop_with_the_reason_that_the_client_knows, setup),
        TEST(watchpoints_stop_after_the_access_or_before_it_backwards, setup),
        TEST(a_range_is_stepped_through, setup),
        TEST(wrong_ways_to_run_are_refused, setup),
        TEST(going_on_elsewhere_needs_a_target_that_can_be_changed, setup),
        TEST(a_live_target_goes_on_elsewhere_and_only_forwards, setup_live),
        TEST(ctrl_c_ends_a_run, setup_endless),
        TEST(ctrl_c_ends_stepping_through_a_range, setup_endless),
        TEST(a_flood_during_a_run_gets_the_client_dropped, setup_endless),
        TEST(a_failed_run_stops_and_says_why, setup),
        TEST(what_the_guest_prints_is_shown_while_it_runs, setup),
        TEST(monitor_commands_are_obeyed, setup),
        TEST(the_description_can_be_chosen, setup),
        TEST(ctrl_c_ends_a_monitor_command, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
