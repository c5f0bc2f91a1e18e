/*
 * The loops that dejavm-bench measures: position-independent 64-bit code that runs in the guest and on the host alike.
 *
 * At the start RCX is the number of iterations, RDI the data (BENCH_DATA_BYTES, 4096-aligned), RDX zero. Free to
 * use: RAX, RCX, RDX, RSI, RDI, R8 to R11, the x87 registers, YMM0 to YMM6, the stack. DF is 0. The code may be written.
 */
#ifndef DEJAVM_TOOLS_BENCH_LOOPS_H
#define DEJAVM_TOOLS_BENCH_LOOPS_H

#include <stddef.h>
#include <stdint.h>

#define BENCH_DATA_BYTES ((size_t)16 << 20)

enum bench_loop_flag {
    LOOP_GUEST_ONLY = 1, /* no program of the host's can do this */
    LOOP_USER = 2,       /* at CPL 3 in the guest */
};

struct bench_loop {
    const char *name;
    const char *what;
    unsigned flags;
    const uint8_t *code, *end;
};

/* Code of the guest's kernel: the handler of #PF, and behind it those of INT 0x20 and SYSCALL. */
extern const uint8_t bench_handlers[], bench_handler_interrupt[], bench_handler_syscall[],
    bench_handlers_end[];

extern const struct bench_loop bench_loops[];
extern const size_t bench_loop_count;

#endif
