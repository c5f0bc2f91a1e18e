/* A flat 64-bit guest at CPL 0 that runs one loop in the emulator, and the host doing the same. */
#ifndef DEJAVM_TOOLS_BENCH_GUEST_H
#define DEJAVM_TOOLS_BENCH_GUEST_H

#include "core/base/error.h"
#include "tools/bench/loops.h"

struct bench_guest;

/* Of the emulator: the interpreter of plans only, or translated code as well. */
enum bench_stage { STAGE_1, STAGE_2, STAGE_COUNT };

int bench_guest_create(struct bench_guest **out, struct error *err) must_check;
void bench_guest_destroy(struct bench_guest *g); /* NULL is fine */

/* Runs the loop; *steps is what it took. Negative errno with a message. */
int bench_guest_run(struct bench_guest *g, const struct bench_loop *loop, enum bench_stage stage,
                    uint64_t iterations, uint64_t *steps, struct error *err) must_check;

struct bench_host;

int bench_host_create(struct bench_host **out, struct error *err) must_check;
void bench_host_destroy(struct bench_host *h); /* NULL is fine */
int bench_host_run(struct bench_host *h, const struct bench_loop *loop, uint64_t iterations,
                   struct error *err) must_check;

#endif
