/* Work that compilers turn into all sorts of instructions; run natively and in a guest, the results must be equal. */
#ifndef DEJAVM_TESTS_EMU_COMPUTE_H
#define DEJAVM_TESTS_EMU_COMPUTE_H

#include <stdint.h>

/* A checksum over everything computed. turns scales the amount of work. */
uint64_t COMPUTE(unsigned turns);

#endif
