#include "tools/bench/loops.h"

#define LOOPS(X)                                                                                             \
    X(integer, 0, "arithmetic, logic and shifts between registers")                                          \
    X(memory, 0, "loads, stores and read-modify-write within 32 KiB")                                        \
    X(branch, 0, "branches that depend on random numbers")                                                   \
    X(call, 0, "calls and returns with a frame")                                                             \
    X(indirect, 0, "jumps to one of four places, picked by random numbers")                                  \
    X(sse, 0, "scalar and packed SSE2")                                                                      \
    X(avx2, 0, "packed AVX2")                                                                                \
    X(x87, 0, "x87 arithmetic")                                                                              \
    X(divide, 0, "DIV and IDIV of 32 and 64 bits")                                                           \
    X(bits, 0, "BT, BTS, BTR on a string of bits in memory")                                                 \
    X(string, 0, "REP MOVSQ and REP STOSB of 4 KiB")                                                         \
    X(page_walk, 0, "each load from another of 4096 pages: misses the TLB")                                  \
    X(page_fault, LOOP_GUEST_ONLY, "a load that faults, and a handler that skips it")                        \
    X(syscall, LOOP_USER, "SYSCALL and SYSRET")                                                              \
    X(interrupt, LOOP_GUEST_ONLY, "INT n and IRET")                                                          \
    X(self_modifying, 0, "an instruction is written, then executed")                                         \
    X(mixed, 0, "a hash table: multiplications, loads, stores, branches, calls")

#define DECLARE(name, flags, what) extern const uint8_t bench_##name[], bench_##name##_end[];
#define ENTRY(name, flags, what)   {#name, what, flags, bench_##name, bench_##name##_end},

LOOPS(DECLARE)

const struct bench_loop bench_loops[] = {LOOPS(ENTRY)};
const size_t bench_loop_count = sizeof bench_loops / sizeof *bench_loops;
