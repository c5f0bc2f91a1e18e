/*
 * One job at a time on a thread of its own. Its owner goes on meanwhile, and waits before it touches what the job works on:
 * so a trace's bytes do not depend on which of the two is faster. Internal to trace-format.
 */
#ifndef DEJAVM_TRACE_FORMAT_BACKGROUND_H
#define DEJAVM_TRACE_FORMAT_BACKGROUND_H

#include "core/base/types.h"

struct background;

/* NULL without memory for it; then, and where no thread can be had, background_start() does the job itself. */
struct background *background_create(void);
void background_destroy(struct background *b); /* waits for the job; NULL is fine */

/* Waits for the job before, then starts this one. The thread takes no signals. */
void background_start(struct background *b, void (*job)(void *context), void *context);
void background_wait(struct background *b);
bool background_is_busy(const struct background *b);

#endif
