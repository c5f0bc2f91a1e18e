/* A progress line on stderr, if that is a terminal; nothing otherwise. */
#ifndef DEJAVM_TOOLS_PROGRESS_H
#define DEJAVM_TOOLS_PROGRESS_H

#include "core/base/types.h"

struct progress {
    const char *label;
    bool enabled, drawn;
    uint64_t start_ns, last_draw_ns;
};

/* quiet: never draw. */
void progress_begin(struct progress *p, const char *label, bool quiet);
/* done of total (0: unknown). Cheap to call often: draws at most ten times a second, and not in the first 300 ms. */
void progress_update(struct progress *p, uint64_t done, uint64_t total);
void progress_text(struct progress *p, const char *text); /* the same with a text of its own */
void progress_end(struct progress *p);                    /* clears the line */

uint64_t monotonic_ns(void);

#endif
