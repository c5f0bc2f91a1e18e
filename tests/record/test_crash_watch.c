/* What is recognised in the words that a guest prints. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "record/crash_watch.h"

static unsigned feed(struct crash_watch *w, unsigned channel, const char *text)
{
    unsigned found = 0;
    for (size_t done = 0, taken; done < strlen(text); done += taken)
        found += crash_watch_feed(w, channel, (const uint8_t *)text + done, strlen(text) - done, &taken);
    return found;
}

static void reports_are_recognised(void **state)
{
    (void)state;
    static const struct {
        const char *printed, *text;
    } cases[] = {
        {"[    8.695966] general protection fault, probably for non-canonical address 0x6e20: 0000 [#1]\r\n",
         "general protection fault, probably for non-canonical address 0x6e20: 0000 [#1]"},
        {"[   12.1] BUG: kernel NULL pointer dereference, address: 0000000000000000\n",
         "BUG: kernel NULL pointer dereference, address: 0000000000000000"},
        {"[    1.0][    T1] Kernel panic - not syncing: VFS: Unable to mount root fs\n",
         "Kernel panic - not syncing: VFS: Unable to mount root fs"},
        {"<0>[    1.0] watchdog: BUG: soft lockup - CPU#0 stuck for 26s!\n",
         "watchdog: BUG: soft lockup - CPU#0 stuck for 26s!"},
        {"panic: list broken\n", "panic: list broken"},
        {"kernel BUG at mm/slub.c:305!\n", "kernel BUG at mm/slub.c:305!"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct crash_watch w = {0};
        assert_int_equal(feed(&w, 0, cases[i].printed), 1);
        assert_string_equal(w.text, cases[i].text);
    }
}

static void talk_of_crashes_is_none(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "grep: BUG: in log\n",
        "[    3.0] traps: sh[12] general protection fault ip:40 sp:7ff\n",
        "the last report was: Kernel panic - not syncing\n",
        "[    0.5] RCU: no BUG\n",
        "[",
        "[ 1.0\n",
        "panicking\n",
    };
    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        struct crash_watch w = {0};
        assert_int_equal(feed(&w, 0, lines[i]), 0);
    }
}

static void lines_come_in_pieces_and_on_several_channels(void **state)
{
    (void)state;
    struct crash_watch w = {0};
    assert_int_equal(feed(&w, 0, "[ 1.0] Oo"), 0);
    assert_int_equal(feed(&w, 1, "hello\n"), 0);
    assert_int_equal(feed(&w, 0, "ps: 0002 [#1]"), 0);
    assert_int_equal(feed(&w, 0, "\nBUG: one\nfine\nBUG: two\n"), 3);
    assert_string_equal(w.text, "BUG: two");
    assert_int_equal(feed(&w, CRASH_CHANNELS, "BUG: nowhere\n"), 0);
}

static void long_and_binary_lines_are_cut(void **state)
{
    (void)state;
    struct crash_watch w = {0};
    char line[1000];
    memset(line, 'x', sizeof(line) - 1);
    line[sizeof(line) - 1] = '\0';
    memcpy(line, "BUG: \x01\xff", 7);
    assert_int_equal(feed(&w, 0, line), 0);
    assert_int_equal(feed(&w, 0, "\n"), 1);
    assert_int_equal(strlen(w.text), CRASH_LINE_BYTES - 1);
    assert_int_equal(strncmp(w.text, "BUG: xxx", 8), 0);
    assert_int_equal(feed(&w, 0, "BUG: next\n"), 1);
    assert_string_equal(w.text, "BUG: next");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reports_are_recognised),
        cmocka_unit_test(talk_of_crashes_is_none),
        cmocka_unit_test(lines_come_in_pieces_and_on_several_channels),
        cmocka_unit_test(long_and_binary_lines_are_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
