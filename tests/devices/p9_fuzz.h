/* Requests of a client that is out to do harm, for the fuzzers: mostly correct ones, wrong in one place or another. */
#ifndef DEJAVM_TESTS_DEVICES_P9_FUZZ_H
#define DEJAVM_TESTS_DEVICES_P9_FUZZ_H

#include "tests/devices/p9_client.h"

/* The next number of the sequence. */
uint64_t fuzz_random(uint64_t *seed);

/* Leaves the next request in c->request. */
void p9_fuzz_compose(struct client *c, uint64_t *seed);
/* What somebody on the host may do to the folder meanwhile. */
void p9_fuzz_host(struct client *c, uint64_t *seed);

#endif
