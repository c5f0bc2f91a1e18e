/*
 * Differential test of single instructions: the same bytes at the same address with the same registers and memory, once
 * natively on this CPU and once in the emulator, at CPL 3 in 64-bit and in compatibility mode.
 */
#ifndef DEJAVM_TESTS_ISA_H
#define DEJAVM_TESTS_ISA_H

#include <Zydis/Zydis.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/vcpu_state.h"

/* Mapped at the same addresses natively and in the guest. */
#define ISA_CODE       0x10000000ull /* two pages, then nothing */
#define ISA_CODE_BYTES 0x2000u
#define ISA_DATA       0x20000000ull /* nothing, then these pages, then nothing */
#define ISA_DATA_BYTES 0x5000u
#define ISA_DATA_RO    0x2000u /* the page that is read-only; the two before it can be written */
#define ISA_DATA_GAP   0x3000u /* the page that is absent; the one after it can be written */
#define ISA_LOW                                                                                              \
    0x8000u /* the data pages again, where 16-bit addresses reach them; only if native_has_low() */
#define ISA_KERNEL 0xffff800000200000ull /* present for the supervisor only; not outside 64-bit code */

/* Selectors of the local descriptor table: data segments from ISA_LDT_BASE, so that the data is at 0x4000. */
#define ISA_LDT_BASE      (ISA_DATA - 0x4000)
#define ISA_SEL_DATA      0x07 /* limit 0xffff */
#define ISA_SEL_DOWN      0x0f /* expands down: offsets above 0x4fff */
#define ISA_SEL_READ_ONLY 0x17 /* limit 0x4fff */
#define ISA_SEL_ABSENT    0x1f /* P clear */
#define ISA_LDT_COUNT     4u
#define ISA_SEL_CODE32    0x23
#define ISA_SEL_FLAT      0x2b
#define ISA_SEL_CODE64    0x33

/* How one instruction ended. */
struct isa_result {
    struct vcpu_state state; /* GPRs, RIP, RFLAGS, selectors, bases of FS and GS, and fpu are valid */
    int vector;              /* -1: completed, else the exception */
    uint32_t error_code;     /* of the exceptions that have one */
    uint64_t cr2;            /* of #PF */
};

/* ---- native.c ---- */

bool native_init(void);
bool native_has_low(void);
bool native_has_ldt(void);
uint8_t *native_code(void);
uint8_t *native_data(void); /* writable view of all ISA_DATA_BYTES */
/* length: of the instruction at RIP. */
void native_run(const struct vcpu_state *in, unsigned length, struct isa_result *out);

/* ---- guest.c ---- */

struct guest;
/* low, ldt: what the native side has. */
struct guest *guest_create(bool low, bool ldt);
void guest_destroy(struct guest *g);
uint8_t *guest_code(struct guest *g);
uint8_t *guest_data(struct guest *g);
/* CPL 3, in 64-bit or (compatibility mode) 32-bit code. */
void guest_base_state(bool long_mode, struct vcpu_state *out);
/* What a segment register holds after a valid data or code selector was loaded. */
struct segment guest_segment(uint16_t selector);
/* Makes the pages that are absent present for the supervisor, or absent again. */
void guest_set_supervisor(struct guest *g, bool present);
/*
 * Executes the instruction at RIP to its end, and after a jump out of the code page the fetch there. False: the
 * engine failed, with a message. By stage 1 of the emulator, unless DEJAVM_EMU_STAGES says otherwise.
 */
bool guest_run(struct guest *g, const struct vcpu_state *in, struct isa_result *out, char *message,
               size_t size);
/* The same in one run on to the INT3 that follows (or to the fault), by stage 2. length: of the instruction. */
bool guest_run_to_end(struct guest *g, const struct vcpu_state *in, unsigned length, struct isa_result *out,
                      char *message, size_t size);

/* ---- forms.c: every form of every instruction of the CPU model ---- */

/* Why a form cannot be compared natively. */
enum isa_reason {
    ISA_COMPARED,
    ISA_ENTERS_KERNEL, /* it is the host kernel's own entry */
    ISA_UMIP,          /* the host's kernel answers in place of the CPU */
    ISA_REASONS
};

/* How bytes of this form are made. */
struct isa_template {
    bool vex, w, l, p66, p67, lock, has_modrm, group; /* group: ModRM.reg selects the instruction */
    bool fixed_rm;                                    /* ModRM.rm selects it too */
    bool b;                                           /* REX.B selects it (90) */
    uint8_t map, opcode, modrm;
    uint8_t prefix; /* 0, F3, F2; VEX: pp */
};

struct isa_form {
    uint64_t key;
    struct isa_template how;
    uint16_t mnemonic;
    uint8_t reason;
    bool memory; /* has a memory operand, explicit or not */
};

#define ISA_FORMS_MAX 32768u

struct isa_forms {
    bool long_mode;
    unsigned count;
    struct isa_form form[ISA_FORMS_MAX];
    uint16_t slot[2 * ISA_FORMS_MAX]; /* hash of keys: index + 1 */
};

void isa_init_decoder(ZydisDecoder *decoder, bool long_mode);
/* Walks the opcode space. NULL: no memory, or more forms than ISA_FORMS_MAX. */
struct isa_forms *isa_forms_create(bool long_mode);
void isa_forms_destroy(struct isa_forms *forms);
/* -1: not in the table. */
int isa_forms_find(const struct isa_forms *forms, const ZydisDecodedInstruction *insn,
                   const ZydisDecodedOperand *operands);
/* A text like "LOCK add r/m32[67]" for a form. */
void isa_form_describe(const struct isa_forms *forms, unsigned index, char *out, size_t size);
/* Bytes of the plain encoding; returns the length (padded, the instruction may be shorter). */
unsigned isa_template_bytes(const struct isa_template *t, bool long_mode, uint8_t out[15]);

/* ---- generate.c ---- */

struct isa_random {
    uint64_t s;
};
uint64_t isa_random(struct isa_random *r);

/* Where a memory operand lies. */
enum isa_place {
    PLACE_ALIGNED,
    PLACE_UNALIGNED,
    PLACE_ACROSS,           /* two pages that can be written */
    PLACE_ACROSS_READ_ONLY, /* the second is read-only */
    PLACE_READ_ONLY,
    PLACE_READ_ONLY_ABSENT, /* across: a read-only page, then an absent one */
    PLACE_ACROSS_ABSENT,    /* across: the second is absent */
    PLACE_FROM_ABSENT,      /* across: the first is absent */
    PLACE_ABSENT,
    PLACE_SUPERVISOR,    /* 32-bit code: near the end of 4 GiB; beyond it Linux is silent (K8 erratum 100) */
    PLACE_NOT_CANONICAL, /* 32-bit code: beyond a segment's limit, where it has one */
    PLACE_ACROSS_CANONICAL,
    PLACE_COUNT,
    PLACE_RANDOM
};

#define ISA_BYTES_MAX 24u /* more than an instruction can have */

struct isa_case {
    uint8_t bytes[ISA_BYTES_MAX];
    unsigned length; /* what is placed in the code page */
    bool valid;      /* Zydis knows it */
    unsigned mnemonic;
    int form; /* index, or -1 */
    bool memory;
    bool branch;         /* RIP may end up anywhere */
    uint16_t answers;    /* GPRs (a bit each) that the CPU model or the boundary gives values to */
    uint8_t answer_bits; /* so many of their low bits */
    enum isa_place place;
    uint64_t operand; /* linear address of the explicit memory operand, or of a hidden one */
    struct vcpu_state in;
    struct { /* bytes of the data before */
        uint32_t offset;
        uint8_t length;
        uint8_t bytes[64];
    } poke[2];
    unsigned pokes;
};

/* A case of this form. False: nothing came out that could be compared. */
bool isa_generate(struct isa_random *r, const struct isa_forms *forms, unsigned form, enum isa_place place,
                  const struct vcpu_state *base, struct isa_case *out);
/* Random operand bytes after opcode number opcode (0..ISA_OPCODES-1), as they come. */
#define ISA_OPCODES (7u * 4u * 256u)
bool isa_generate_opcode(struct isa_random *r, const struct isa_forms *forms, unsigned opcode,
                         const struct vcpu_state *base, struct isa_case *out);
/* These bytes, in a random state. */
bool isa_generate_bytes(struct isa_random *r, const struct isa_forms *forms, const uint8_t *bytes,
                        unsigned length, enum isa_place place, const struct vcpu_state *base,
                        struct isa_case *out);
/*
 * Bytes that are undefined can be compared, but for what other models of CPUs have there: LOCK MOV CR0 (AMD), the
 * system groups 0F 00 and 0F 01, AVX-512 with its mask registers, and 3DNow; and for the entries of the host's kernel.
 */
bool isa_undefined_is_compared(const uint8_t *bytes, unsigned length);
void isa_fill_memory(struct isa_random *r, uint8_t *data, size_t length);

/* ---- regressions.c: instructions that once went wrong ---- */

struct isa_regression {
    bool long_mode;
    uint8_t length;
    uint8_t bytes[15];
    const char *why;
};
extern const struct isa_regression isa_regressions[];
extern const size_t isa_regression_count;

/* ---- values.c ---- */

uint64_t isa_integer(struct isa_random *r);
/* Random x87, SSE and AVX state: MXCSR and the control word have exceptions unmasked now and then. */
void isa_fill_fpu(struct isa_random *r, struct fpu_state *f);
void isa_fill_vector(struct isa_random *r, uint8_t *out, size_t bytes);

static inline unsigned isa_below(struct isa_random *r, unsigned n)
{
    return (unsigned)(isa_random(r) % n);
}

static inline bool isa_one_in(struct isa_random *r, unsigned n)
{
    return isa_below(r, n) == 0;
}

#endif
