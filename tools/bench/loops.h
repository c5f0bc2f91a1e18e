/*
 * The loops that dejavm-bench measures: position-independent 64-bit code that runs in the guest and on the host alike.
 *
 * At the start RCX is the number of iterations, RDI the data (BENCH_DATA_BYTES, 4096-aligned), RDX zero. Free to
 * use: RAX, RCX, RDX, RSI, RDI, R8 to R11, the x87 registers, XMM0 to XMM6, the stack. DF is 0.
 */
#ifndef DEJAVM_TOOLS_BENCH_LOOPS_H
#define DEJAVM_TOOLS_BENCH_LOOPS_H

#include <stddef.h>
#include <stdint.h>

#define BENCH_DATA_BYTES ((size_t)16 << 20)

struct bench_loop {
    const char *name;
    const char *what;
    const uint8_t *code, *end;
};

extern const struct bench_loop bench_loops[];
extern const size_t bench_loop_count;

#endif
