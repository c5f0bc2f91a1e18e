/*
 * Notices in what a guest prints that it has crashed. The words are those of Linux' reports (panic, oops, BUG, lockup), and the
 * general "panic:" that many small kernels print. Only a line that begins with them counts (after the time and the level that Linux
 * puts before it), so that somebody who prints a log does not seem to crash.
 */
#ifndef DEJAVM_RECORD_CRASH_WATCH_H
#define DEJAVM_RECORD_CRASH_WATCH_H

#include "core/base/types.h"

#define CRASH_LINE_BYTES 160 /* what is longer is cut */
#define CRASH_CHANNELS   4

struct crash_watch {
    struct {
        char line[CRASH_LINE_BYTES];
        size_t length;
    } channel[CRASH_CHANNELS];
    char text[CRASH_LINE_BYTES]; /* the line that was recognised, without time and level, printable */
};

/*
 * Takes what was printed. True: a line is complete that tells of a crash, which is in w->text. length: at most one such line is
 * looked for; *taken says how much of data was looked at, and the rest is to be offered again.
 */
bool crash_watch_feed(struct crash_watch *w, unsigned channel, const uint8_t *data, size_t length,
                      size_t *taken);

#endif
