/* Instructions that once went wrong; each is run again in many random states with its operand in every place. */
#include "tests/isa/isa.h"

const struct isa_regression isa_regressions[] = {
    {true, 2, {0x9b, 0x90}, "FWAIT"},
};

const size_t isa_regression_count = sizeof isa_regressions / sizeof *isa_regressions;
