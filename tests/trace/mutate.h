/*
 * A mutator that knows the trace format: it changes chunks, their headers and their order, and puts every length,
 * offset and checksum right again, so that the change itself reaches the code behind the checks. Some mutations are
 * plain damage (flipped bytes, a cut-off end). Deterministic: the same bytes and seed give the same result.
 */
#ifndef DEJAVM_TESTS_TRACE_MUTATE_H
#define DEJAVM_TESTS_TRACE_MUTATE_H

#include <stddef.h>
#include <stdint.h>

/* A mutated copy of a correct trace; free() it. NULL without memory. */
uint8_t *trace_mutate(const uint8_t *trace, size_t length, uint64_t seed, size_t *mutated_length);

#endif
