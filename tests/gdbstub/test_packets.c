/* The protocol below the commands: framing, acknowledgements, run-length encoding, and what gets a client dropped. */
#include "tests/gdbstub/client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void assert_sent(struct client *c, const char *bytes, const char *answer)
{
    client_send(c, bytes, strlen(bytes));
    assert_string_equal((const char *)c->raw.data, answer);
}

static void a_packet_is_acknowledged_and_answered(void **state)
{
    struct client *c = *state;
    assert_sent(c, "$qC#b4", "+$QC1#c5");
    assert_sent(c, "+$qC#B4", "+$QC1#c5");
    assert_true(c->alive);
}

static void an_unknown_packet_has_an_empty_answer(void **state)
{
    static const char *const unknown[] = {"vMustReplyEmpty",
                                          "!",
                                          "vCont",
                                          "qTStatus",
                                          "qOffsets",
                                          "qL1200",
                                          "R00",
                                          "jThreads",
                                          "QNonStop:1",
                                          "Z5,0,1",
                                          "QCatchSyscalls:1",
                                          "qCx",
                                          "gg",
                                          "",
                                          "qXfer:auxv:read::0,10",
                                          "vFile:open:0,0,0",
                                          "QStartNoAckModes"};
    struct client *c = *state;
    assert_sent(c, "$foo#44", "+$#00");
    for (size_t i = 0; i < ARRAY_LEN(unknown); i++)
        assert_answer(c, unknown[i], "");
}

static void packets_that_come_byte_by_byte_are_answered_as_if_they_came_at_once(void **state)
{
    static const char bytes[] = "+$qC#b4+$qfThreadInfo#bb+$foo#44";
    struct client *c = *state;
    static const char answers[] = "+$QC1#c5+$m1#9e+$#00";
    struct buffer got = {0};
    for (size_t i = 0; bytes[i]; i++) {
        client_send(c, bytes + i, 1);
        buffer_put(&got, c->raw.data, c->raw.length);
    }
    assert_int_equal(got.length, sizeof(answers) - 1);
    assert_memory_equal(got.data, answers, got.length);
    buffer_free(&got);
    assert_sent(c, bytes, answers);
}

static void a_damaged_packet_is_asked_for_again_but_not_for_ever(void **state)
{
    struct client *c = *state;
    assert_sent(c, "$qC#b5", "-");
    assert_sent(c, "$qC#zz", "-");
    assert_sent(c, "$qC#b4", "+$QC1#c5");
    for (int i = 0; i < 8; i++) {
        assert_sent(c, "$qC#00", "-");
        assert_true(c->alive);
    }
    client_send(c, "$qC#00", 6);
    assert_false(c->alive);
}

static void the_last_answer_is_sent_again_on_demand_but_not_for_ever(void **state)
{
    struct client *c = *state;
    assert_sent(c, "$qC#b4", "+$QC1#c5");
    for (int i = 0; i < 8; i++) {
        assert_sent(c, "-", "$QC1#c5");
        assert_true(c->alive);
    }
    client_send(c, "-", 1);
    assert_false(c->alive);
}

static void without_acknowledgements_none_are_sent_or_expected(void **state)
{
    struct client *c = *state;
    assert_sent(c, "$QStartNoAckMode#b0", "+$OK#9a");
    assert_sent(c, "+$qC#b4", "$QC1#c5");
    assert_sent(c, "-", "");
    assert_true(c->alive);
    client_send(c, "$qC#b5", 6);
    assert_false(c->alive);
}

static void bytes_between_packets_get_the_client_dropped(void **state)
{
    static const char *const garbage[] = {"GET / HTTP/1.1\r\n", "\n", "#00", "*", "qC#b4", "\x80",
                                          "$qC#b4 $qC#b4"};
    struct client *c = *state;
    for (size_t i = 0; i < ARRAY_LEN(garbage); i++) {
        client_send(c, garbage[i], strlen(garbage[i]));
        assert_false(c->alive);
        /* The next one is served, and starts from the beginning. */
        assert_sent(c, "$QStartNoAckMode#b0", "+$OK#9a");
        assert_true(c->alive);
    }
}

static void a_packet_longer_than_was_agreed_gets_the_client_dropped(void **state)
{
    struct client *c = *state;
    struct buffer packet = {0};
    uint8_t *content = malloc(16385);
    memset(content, 'q', 16385);
    client_frame(&packet, content, 16384);
    client_send(c, packet.data, packet.length);
    assert_string_equal((const char *)c->raw.data, "+$#00");
    assert_true(c->alive);

    buffer_clear(&packet);
    client_frame(&packet, content, 16385);
    client_send(c, packet.data, packet.length);
    assert_false(c->alive);

    /* Without an end, too: as soon as it is too long. */
    client_send(c, "$", 1);
    for (int i = 0; i < 16384 + 3; i++) {
        assert_true(c->alive);
        client_send(c, "q", 1);
    }
    assert_false(c->alive);
    buffer_free(&packet);
    free(content);
}

static void runs_are_shortened(void **state)
{
    struct client *c = *state;
    assert_answer(c, "m0,0", "");
    /* Zeros in memory: the count is a printable character, never '#' or '$'. */
    static const char *const examples[][2] = {{"m400000,1", "+$00#60"},
                                              {"m400000,2", "+$0* #7a"},
                                              {"m400000,4", "+$0*\"00#dc"},
                                              {"m400000,40", "+$0*~0*:#6c"}};
    for (size_t i = 0; i < ARRAY_LEN(examples); i++) {
        client_ask(c, examples[i][0]);
        assert_string_equal((const char *)c->raw.data, examples[i][1]);
    }
    for (unsigned n = 1; n < 600; n++) {
        char question[32];
        snprintf(question, sizeof(question), "m400000,%x", n);
        size_t length = strlen(client_ask(c, question));
        assert_int_equal(length, 2 * n);
        assert_int_equal(strspn((const char *)c->reply.data, "0"), length);
    }
}

static void features_are_negotiated(void **state)
{
    struct client *c = *state;
    assert_answer(c, "qSupported",
                  "PacketSize=4000;QStartNoAckMode+;vContSupported+;qXfer:features:read+;"
                  "qXfer:memory-map:read+;ReverseStep+;ReverseContinue+");
    assert_answer(c, "qSupported:multiprocess+;swbreak+;hwbreak+;qRelocInsn+;xmlRegisters=i386",
                  "PacketSize=4000;QStartNoAckMode+;vContSupported+;qXfer:features:read+;"
                  "qXfer:memory-map:read+;swbreak+;hwbreak+;ReverseStep+;ReverseContinue+");
}

static void a_document_is_read_in_parts(void **state)
{
    struct client *c = *state;
    char all[65536] = "", question[64];
    size_t length = 0;
    for (;;) {
        snprintf(question, sizeof(question), "qXfer:features:read:target.xml:%zx,37", length);
        const char *part = client_ask(c, question);
        assert_true(part[0] == 'm' || part[0] == 'l');
        assert_true(strlen(part) - 1 <= 0x37);
        snprintf(all + length, sizeof(all) - length, "%s", part + 1);
        length += strlen(part) - 1;
        if (part[0] == 'l')
            break;
    }
    assert_non_null(strstr(all, "<architecture>i386:x86-64</architecture>"));
    assert_string_equal(all + length - 10, "</target>\n");
    snprintf(question, sizeof(question), "qXfer:features:read:target.xml:%zx,10", length);
    assert_answer(c, question, "l");
    snprintf(question, sizeof(question), "qXfer:features:read:target.xml:%zx,10", length + 1);
    assert_answer(c, question, "E16");
    assert_answer(c, "qXfer:features:read:other.xml:0,10", "E02");
    assert_answer(c, "qXfer:features:read:target.xml:0", "E16");
    assert_answer(c, "qXfer:features:read:target.xml:0,10x", "E16");
    assert_int_equal(strlen(client_ask(c, "qXfer:features:read:target.xml:0,ffffffffffffffff")), 8192);
    assert_int_equal(client_ask(c, "qXfer:memory-map:read::0,1000")[0], 'l');
}

static void there_is_one_thread(void **state)
{
    struct client *c = *state;
    assert_answer(c, "qC", "QC1");
    assert_answer(c, "qfThreadInfo", "m1");
    assert_answer(c, "qsThreadInfo", "l");
    assert_answer(c, "qAttached", "1");
    assert_answer(c, "qAttached:1", "1");
    assert_answer(c, "qThreadExtraInfo,1", "76435055");
    assert_answer(c, "qThreadExtraInfo,2", "E16");
    assert_answer(c, "T1", "OK");
    assert_answer(c, "T2", "E16");
    assert_answer(c, "Hg0", "OK");
    assert_answer(c, "Hc-1", "OK");
    assert_answer(c, "Hgp1.1", "OK");
    assert_answer(c, "Hgp1.2", "E16");
    assert_answer(c, "Hg", "E16");
    assert_answer(c, "Hx0", "");
    assert_answer(c, "qSymbol::", "OK");
}

static void a_client_leaves(void **state)
{
    struct client *c = *state;
    assert_answer(c, "D", "OK");
    assert_false(c->alive);
    assert_answer(c, "D;1", "OK");
    assert_false(c->alive);
    assert_answer(c, "vKill;1", "OK");
    assert_false(c->alive);
    assert_sent(c, "$k#6b", "+");
    assert_false(c->alive);
    assert_answer(c, "qC", "QC1");
    assert_true(c->alive);
}

static void points_of_a_client_go_with_it(void **state)
{
    struct fixture *f = *state;
    struct client *c = &f->client;
    for (int how = 0; how < 2; how++) {
        assert_answer(c, "Z0,100001,1", "OK");
        assert_answer(c, "Z2,100,8", "OK");
        assert_int_equal(f->walk->point_count, 2);
        if (how == 0)
            client_ask(c, "D");
        else
            client_send(c, "x", 1);
        assert_int_equal(f->walk->point_count, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CLIENT_TEST(a_packet_is_acknowledged_and_answered, client_setup),
        CLIENT_TEST(an_unknown_packet_has_an_empty_answer, client_setup),
        CLIENT_TEST(packets_that_come_byte_by_byte_are_answered_as_if_they_came_at_once, client_setup),
        CLIENT_TEST(a_damaged_packet_is_asked_for_again_but_not_for_ever, client_setup),
        CLIENT_TEST(the_last_answer_is_sent_again_on_demand_but_not_for_ever, client_setup),
        CLIENT_TEST(without_acknowledgements_none_are_sent_or_expected, client_setup),
        CLIENT_TEST(bytes_between_packets_get_the_client_dropped, client_setup),
        CLIENT_TEST(a_packet_longer_than_was_agreed_gets_the_client_dropped, client_setup),
        CLIENT_TEST(runs_are_shortened, client_setup),
        CLIENT_TEST(features_are_negotiated, client_setup),
        CLIENT_TEST(a_document_is_read_in_parts, client_setup),
        CLIENT_TEST(there_is_one_thread, client_setup),
        CLIENT_TEST(a_client_leaves, client_setup),
        CLIENT_TEST(points_of_a_client_go_with_it, client_setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
