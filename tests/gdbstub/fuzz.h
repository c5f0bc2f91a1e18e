/* Sessions of a client that is out to do harm, for the fuzzers: mostly correct packets, wrong in one place or another. */
#ifndef DEJAVM_TESTS_GDBSTUB_FUZZ_H
#define DEJAVM_TESTS_GDBSTUB_FUZZ_H

#include "tests/gdbstub/walk.h"

/* The content of one packet, made from seed. */
void fuzz_content(struct buffer *out, uint64_t *seed);
/* What a client sends: the packet, mostly framed right, and what else may be between packets. */
void fuzz_packet(struct buffer *out, uint64_t *seed);

#endif
