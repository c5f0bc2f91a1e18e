/* Which forms were compared how often. Part of test_isa_host. */
#ifndef DEJAVM_TESTS_ISA_COVERAGE_H
#define DEJAVM_TESTS_ISA_COVERAGE_H

#include <stdio.h>

#include "tests/isa/isa.h"

/* By form; the last of mismatches is for bytes that are no instruction. */
struct isa_counts {
    uint32_t cases[ISA_FORMS_MAX];
    uint32_t mismatches[ISA_FORMS_MAX + 1];
};

struct isa_table {
    struct isa_forms *forms;
    struct isa_counts counts;
};

struct isa_totals {
    unsigned forms, mnemonics;
    unsigned compared;  /* forms with at least one case */
    unsigned elsewhere; /* forms that cannot be compared natively */
    unsigned missing;   /* forms that could be, and were not */
    uint64_t cases, mismatches;
};

void isa_table_add(struct isa_table *t, const struct isa_counts *c);
struct isa_totals isa_table_totals(const struct isa_table *t);
void isa_print_missing(const struct isa_table *t);
/* docs/isa-coverage.md. tables: 64-bit code, 32-bit code. */
void isa_print_coverage(FILE *out, const struct isa_table tables[2]);

#endif
