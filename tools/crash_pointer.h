/*
 * The history of a bad pointer: where the instruction that crashed got it from, and who wrote it there.
 */
#ifndef DEJAVM_TOOLS_CRASH_POINTER_H
#define DEJAVM_TOOLS_CRASH_POINTER_H

#include "tools/trace_target.h"

#define POINTER_STEPS_MAX  512u /* instructions to go back to the load */
#define POINTER_WRITES_MAX 4u

struct pointer_write {
    position_t position; /* right before the transition that writes */
    gva_t rip;
    bool by_device; /* a device wrote, not the instruction at rip */
    uint64_t old_value, new_value;
};

struct pointer_origin {
    uint8_t reg; /* general register with the pointer at the crash */
    uint64_t value;
    bool loaded;         /* it was loaded from memory; the rest is only valid then */
    position_t position; /* of the instruction that loaded it */
    gva_t address;       /* where from */
    unsigned bytes;      /* 1 to 8 */
    unsigned write_count;
    struct pointer_write writes[POINTER_WRITES_MAX]; /* the last ones before the load, latest first */
    bool from_image; /* before the earliest of writes nobody wrote there: it is as the guest was loaded */
};

/*
 * Looks at the instruction at the target's position, which must use a general register to address memory (false if it does not, or
 * it cannot be decoded), and goes back from there. Stands at the same position again afterwards.
 */
int pointer_trace(struct trace_target *t, const struct timeline_interrupt *interrupt,
                  struct pointer_origin *out, bool *found, struct error *err) must_check;

#endif
