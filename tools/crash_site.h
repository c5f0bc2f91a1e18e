/*
 * Where a guest crashed: the transition that began it, not the words that were printed about it later.
 *
 * A recording marks what the guest printed of a crash, or a device was told ("crash: " and text). From there the way leads back: the
 * stack at that moment has the exception's frame in it, or a call of panic(), and the trace has the moment when it was made.
 */
#ifndef DEJAVM_TOOLS_CRASH_SITE_H
#define DEJAVM_TOOLS_CRASH_SITE_H

#include "tools/trace_target.h"

#define CRASH_TEXT_BYTES 256

enum crash_kind {
    CRASH_NONE,
    CRASH_TOLD,      /* position is where it was told of: nothing before it could be found out */
    CRASH_EXCEPTION, /* position is right before the exception's delivery, at the instruction that raised it */
    CRASH_CALL,      /* position is at the entry of panic() */
    CRASH_END,       /* the recording ended with it: position is its end */
};

struct crash_site {
    enum crash_kind kind;
    char text[CRASH_TEXT_BYTES]; /* what happened, in the guest's or the recorder's words; printable */
    position_t position;
    position_t told; /* where the guest or a device told of it; POSITION_UNKNOWN: it ended the recording */
    /* With CRASH_EXCEPTION. */
    uint8_t vector;
    bool has_error_code;
    uint32_t error_code;
    uint64_t cr2; /* with a page fault */
};

/*
 * The first mark of a crash in the trace; false when there is none. position: of the event before it, where the guest told of it.
 */
bool crash_first_mark(struct trace_target *t, position_t *position, char *text, size_t size,
                      struct error *err);

/*
 * Finds the first crash of the recording, and stands there. kind is CRASH_NONE when the guest did not crash: it stands where it
 * stood. -EINTR after an interruption. Of a Linux guest the target knows the kernel afterwards (trace_linux_find).
 */
int crash_find(struct trace_target *t, const struct timeline_interrupt *interrupt, struct crash_site *out,
               struct error *err) must_check;

/* Where crash_find stands then; the target stays where it is. -ENODATA: the guest did not crash. */
int crash_position(struct trace_target *t, const struct timeline_interrupt *interrupt, position_t *out,
                   struct error *err) must_check;

/* timeline_backward to the start of the trace, at the furthest; an interruption is -EINTR. */
int crash_backward(struct trace_target *t, const struct timeline_points *points,
                   const struct timeline_interrupt *interrupt, struct timeline_stop *stop,
                   struct error *err) must_check;

#endif
