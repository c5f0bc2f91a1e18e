#include "tools/bench/loops.h"

#define LOOPS(X)                                                                                             \
    X(integer, "arithmetic, logic and shifts between registers")                                             \
    X(memory, "loads, stores and read-modify-write within 32 KiB")                                           \
    X(branch, "branches that depend on random numbers")                                                      \
    X(call, "calls and returns with a frame")                                                                \
    X(sse, "scalar and packed SSE2")                                                                         \
    X(x87, "x87 arithmetic")                                                                                 \
    X(string, "REP MOVSQ and REP STOSB of 4 KiB")                                                            \
    X(page_walk, "each load from another of 4096 pages")                                                     \
    X(mixed, "a hash table: multiplications, loads, stores, branches, calls")

#define DECLARE(name, what) extern const uint8_t bench_##name[], bench_##name##_end[];
#define ENTRY(name, what)   {#name, what, bench_##name, bench_##name##_end},

LOOPS(DECLARE)

const struct bench_loop bench_loops[] = {LOOPS(ENTRY)};
const size_t bench_loop_count = sizeof bench_loops / sizeof *bench_loops;
