/* Programs that once ended differently, cut down to what it took. */
#include <string.h>

#include "tests/fuzz-programs/program.h"

#define MXCSR_INVALID_UNMASKED   0x1f00u
#define MXCSR_UNDERFLOW_UNMASKED 0x1780u

struct regression {
    const char *what;
    uint64_t rdi;
    uint32_t mxcsr; /* 0: the default */
    uint8_t length;
    uint8_t code[16];
};

static const struct regression regressions[] = {
    {"x87 registers after #XM of a later instruction",
     0,
     MXCSR_INVALID_UNMASKED,
     7,
     {0xd9, 0xe8, 0xd9, 0xeb, 0x0f, 0x5e, 0xc0}}, /* fld1; fldpi; divps xmm0, xmm0 */
    {"MMX registers after #XM of a later instruction",
     0,
     MXCSR_INVALID_UNMASKED,
     6,
     {0x0f, 0x76, 0xc0, 0x0f, 0x5e, 0xc0}}, /* pcmpeqd mm0, mm0; divps xmm0, xmm0 */
    {"MASKMOVDQU that selects nothing, absent page", 0x50000000, 0, 4, {0x66, 0x0f, 0xf7, 0xc1}},
    {"MASKMOVDQU that selects nothing, into a read-only page",
     ISA_DATA + ISA_DATA_RO - 3,
     0,
     4,
     {0x66, 0x0f, 0xf7, 0xc1}},
    {"MASKMOVDQU that selects nothing, not canonical", 0x900000000000, 0, 4, {0x66, 0x0f, 0xf7, 0xc1}},
    {"MASKMOVDQU across the end of canonical addresses", 0x7ffffffffff7, 0, 4, {0x66, 0x0f, 0xf7, 0xc1}},
    {"MASKMOVQ that faults, after x87 instructions", 0x50000000, 0, 5, {0xd9, 0xe8, 0x0f, 0xf7, 0xc1}},
    {"MASKMOVQ that is not canonical, after x87 instructions",
     0x900000000000,
     0,
     5,
     {0xd9, 0xe8, 0x0f, 0xf7, 0xc1}},
    {"VCVTPS2PH of a number that is tiny, and exact", /* movd xmm0, edi; vcvtps2ph xmm1, xmm0, 0 */
     0x37800000,
     MXCSR_UNDERFLOW_UNMASKED,
     10,
     {0x66, 0x0f, 0x6e, 0xc7, 0xc4, 0xe3, 0x79, 0x1d, 0xc1, 0x00}},
    /* bsf r11d, edi; bsr r15, rdi; bsf r10d, edi */
    {"BSF and BSR of 0 leave their destination as it is",
     0,
     0,
     12,
     {0x44, 0x0f, 0xbc, 0xdf, 0x4c, 0x0f, 0xbd, 0xff, 0x44, 0x0f, 0xbc, 0xd7}},
};

const char *program_regression(struct program *p, unsigned number)
{
    if (number >= sizeof regressions / sizeof *regressions)
        return NULL;
    const struct regression *r = &regressions[number];
    *p = (struct program){.seed = number, .long_mode = true, .start = ISA_CODE, .count = 1};
    side_base_state(true, &p->in);
    p->in.rip = p->start;
    p->in.gpr[GPR_RSP] = ISA_DATA + 0x1800;
    p->in.gpr[GPR_RDI] = r->rdi;
    for (unsigned i = GPR_R8; i <= GPR_R15; i++)
        p->in.gpr[i] = i * 0x1111111111111111u;
    if (r->mxcsr)
        p->in.fpu.mxcsr = r->mxcsr;
    p->items[0].length = r->length;
    memcpy(p->items[0].bytes, r->code, r->length);
    program_layout(p);
    return r->what;
}
