/* What is compared, what is not, and how a difference is told. Part of test_isa_host. */
#ifndef DEJAVM_TESTS_ISA_COMPARE_H
#define DEJAVM_TESTS_ISA_COMPARE_H

#include "tests/isa/isa.h"

/* Takes out of both results what this host cannot be compared in. */
void isa_forgive(const struct isa_case *c, struct isa_result *native, struct isa_result *guest);
/* Number of differences, told in text (appended). */
unsigned isa_differences(char *text, size_t size, const struct isa_case *c, const struct isa_result *native,
                         const struct isa_result *guest);
/* The same for the data; a difference is then removed from the guest's. */
unsigned isa_memory_differences(char *text, size_t size, const uint8_t *native, uint8_t *guest);
/* The instruction and where its operand was to lie. */
void isa_describe(char *text, size_t size, const struct isa_case *c);

#endif
