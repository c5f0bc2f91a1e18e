/* Events of a trace for people: one line each. */
#ifndef DEJAVM_TOOLS_EVENT_VIEW_H
#define DEJAVM_TOOLS_EVENT_VIEW_H

#include "trace-format/event.h"

#include <stdio.h>

void event_print_heading(FILE *out);
/* Number, position, type and details, and a line feed. */
void event_print(uint64_t index, const struct event *e, FILE *out);
/* What it carries: "vector 0x20". */
void event_print_details(const struct event *e, FILE *out);

/* "rdtsc", of enum boundary_source. */
const char *event_source_name(uint8_t source);

#endif
