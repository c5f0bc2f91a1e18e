/* What `dejavm record` prints at the end. */
#ifndef DEJAVM_TOOLS_RECORD_REPORT_H
#define DEJAVM_TOOLS_RECORD_REPORT_H

#include "record/record.h"
#include "replay/replay.h"

/* On stderr. trace_path and engine as asked for: "auto" explains its choice. */
void record_report(const struct record_result *result, const char *trace_path, bool engine_was_auto);
void record_report_seal(const struct replay_totals *totals, uint64_t elapsed_ns);

/* The exit status of --exit-code. */
int record_guest_status(const struct record_result *result);

#endif
