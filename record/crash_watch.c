#include "record/crash_watch.h"

#include <string.h>

/* How reports begin. Linux: kernel/panic.c, arch/x86/kernel/{dumpstack,traps}.c, arch/x86/mm/fault.c, kernel/{watchdog,hung_task}.c */
static const char *const crash_words[] = {
    "Kernel panic - not syncing",
    "BUG: ",
    "kernel BUG at ",
    "Oops: ",
    "general protection fault, ",
    "general protection fault: ",
    "invalid opcode: ",
    "divide error: ",
    "stack segment: ",
    "double fault: ",
    "traps: PANIC: ",
    "PANIC: ",
    "panic: ",
    "watchdog: BUG: ",
    "watchdog: Watchdog detected hard LOCKUP",
    "NMI watchdog: ",
    "rcu: INFO: rcu_preempt self-detected stall",
    "rcu: INFO: rcu_sched self-detected stall",
};

/* Linux writes "[   12.345678] " or "<4>[   12.345678] " before each line, and "[   12.345678][ T123] " where that is built in. */
static const char *skip_prefix(const char *line)
{
    if (line[0] == '<' && line[1] >= '0' && line[1] <= '9' && line[2] == '>')
        line += 3;
    while (*line == '[') {
        const char *end = line + 1 + strspn(line + 1, " .0123456789TC");
        if (*end != ']')
            break;
        line = end + 1;
    }
    return line + strspn(line, " ");
}

static bool tells_of_crash(const char *text)
{
    for (size_t i = 0; i < ARRAY_LEN(crash_words); i++)
        if (strncmp(text, crash_words[i], strlen(crash_words[i])) == 0)
            return true;
    return false;
}

static bool line_complete(struct crash_watch *w, unsigned channel)
{
    char *line = w->channel[channel].line;
    line[w->channel[channel].length] = '\0';
    w->channel[channel].length = 0;
    const char *text = skip_prefix(line);
    if (!tells_of_crash(text))
        return false;
    memmove(w->text, text, strlen(text) + 1);
    return true;
}

bool crash_watch_feed(struct crash_watch *w, unsigned channel, const uint8_t *data, size_t length,
                      size_t *taken)
{
    *taken = length;
    if (channel >= CRASH_CHANNELS)
        return false;
    for (size_t i = 0; i < length; i++) {
        size_t *used = &w->channel[channel].length;
        if (data[i] == '\n' && line_complete(w, channel)) {
            *taken = i + 1;
            return true;
        }
        if (data[i] >= 0x20 && data[i] < 0x7f && *used < CRASH_LINE_BYTES - 1)
            w->channel[channel].line[(*used)++] = (char)data[i];
    }
    return false;
}
