/* All that `dejavm crash` tells, gathered from a trace. */
#ifndef DEJAVM_TOOLS_CRASH_REPORT_H
#define DEJAVM_TOOLS_CRASH_REPORT_H

#include "core/base/buffer.h"
#include "core/linux/linux_guest.h"
#include "tools/crash_pointer.h"
#include "tools/crash_site.h"

#include <stdio.h>

#define REPORT_FRAMES_MAX     24
#define REPORT_CALLERS_MAX    4
#define REPORT_INTERRUPTS_MAX 5
#define REPORT_NAME_BYTES     160
#define REPORT_CONSOLE_BYTES  ((size_t)4096)

struct report_frame {
    gva_t rip;
    bool uncertain;               /* perhaps left over from an earlier call */
    bool interrupted;             /* an exception or an interrupt came here */
    char name[REPORT_NAME_BYTES]; /* "function+0x12 [module]", or "" */
};

/* Who did something. */
struct report_actor {
    bool have_task;
    struct linux_task task;
    size_t count; /* innermost first */
    struct report_frame frames[REPORT_FRAMES_MAX];
};

struct crash_report {
    struct crash_site site;
    position_t end;          /* of the trace */
    char banner[256];        /* of the Linux kernel; "" where there is none that is understood */
    struct vcpu_state state; /* at the crash */
    char instruction[128];
    struct report_actor actor; /* at the crash */
    bool have_pointer;
    struct pointer_origin pointer;
    char address_name[REPORT_NAME_BYTES]; /* of pointer.address */
    struct report_actor writers[POINTER_WRITES_MAX];
    char written_names[POINTER_WRITES_MAX][REPORT_NAME_BYTES]; /* of the values that were written */
    size_t interrupt_count; /* the last ones before the crash, latest first */
    struct {
        position_t position;
        uint8_t vector;
        bool nmi;
    } interrupts[REPORT_INTERRUPTS_MAX];
    struct buffer console; /* what was printed last, up to where the crash was told of */
};

/* The target is left standing at the crash. site.kind CRASH_NONE: there is none, and nothing else is filled in. */
int crash_report_make(struct crash_report *r, struct trace_target *t,
                      const struct timeline_interrupt *interrupt, struct error *err) must_check;
void crash_report_free(struct crash_report *r);

void crash_report_print(const struct crash_report *r, const char *trace, FILE *out);
void crash_report_json(const struct crash_report *r, const char *trace, FILE *out);

/* "page fault, writing 0x10" in words, of an exception at the crash. */
const char *crash_exception_text(const struct crash_site *site, char *out, size_t size);

#endif
