/* Running in both directions, and monitor commands, packet by packet. */
#include "tests/gdbstub/client.h"

#include <stdio.h>
#include <string.h>

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        CLIENT_TEST(steps_go_in_both_directions, client_setup),
        CLIENT_TEST(history_ends_on_both_sides, client_setup),
        CLIENT_TEST(breakpoints_stop_with_the_reason_that_the_client_knows, client_setup),
        CLIENT_TEST(watchpoints_stop_after_the_access_or_before_it_backwards, client_setup),
        CLIENT_TEST(a_range_is_stepped_through, client_setup),
        CLIENT_TEST(wrong_ways_to_run_are_refused, client_setup),
        CLIENT_TEST(going_on_elsewhere_needs_a_target_that_can_be_changed, client_setup),
        CLIENT_TEST(a_live_target_goes_on_elsewhere_and_only_forwards, client_setup_live),
        CLIENT_TEST(ctrl_c_ends_a_run, client_setup_endless),
        CLIENT_TEST(ctrl_c_ends_stepping_through_a_range, client_setup_endless),
        CLIENT_TEST(a_flood_during_a_run_gets_the_client_dropped, client_setup_endless),
        CLIENT_TEST(a_failed_run_stops_and_says_why, client_setup),
        CLIENT_TEST(what_the_guest_prints_is_shown_while_it_runs, client_setup),
        CLIENT_TEST(monitor_commands_are_obeyed, client_setup),
        CLIENT_TEST(the_description_can_be_chosen, client_setup),
        CLIENT_TEST(ctrl_c_ends_a_monitor_command, client_setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
