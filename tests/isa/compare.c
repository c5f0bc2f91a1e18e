#include "tests/isa/compare.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define FSW_ES 0x80u
#define PF_P   1u

typedef unsigned long long ull;

static void append(char *text, size_t size, const char *format, ...)
{
    size_t n = strlen(text);
    va_list list;
    va_start(list, format);
    vsnprintf(text + n, size - n, format, list);
    va_end(list);
}

/* x87 pointers have the 57 bits that a linear address can have. */
static uint64_t pointer(uint64_t value)
{
    return (uint64_t)((int64_t)(value << 7) >> 7);
}

/* Linux says of every address that is not the user's that it is present. The guest's kernel has 4 MiB. */
static bool is_foreign_kernel(uint64_t address)
{
    return address >= 0x00007ffffffff000 && address - (ISA_KERNEL - 0x200000) >= 0x400000;
}

void isa_forgive(const struct isa_case *c, struct isa_result *native, struct isa_result *guest)
{
    native->state.fpu.fip = pointer(native->state.fpu.fip);
    native->state.fpu.fdp = pointer(native->state.fpu.fdp);
    guest->state.fpu.fip = pointer(guest->state.fpu.fip);
    guest->state.fpu.fdp = pointer(guest->state.fpu.fdp);
    if (native->vector == VEC_PF && guest->vector == VEC_PF && is_foreign_kernel(native->cr2))
        native->error_code = (native->error_code & ~PF_P) | (guest->error_code & PF_P);
    /* The host's kernel returns to its user in between, which makes null selectors 0. */
    for (unsigned i = 0; i < SEG_COUNT; i++)
        if (native->state.seg[i].selector == 0 && guest->state.seg[i].selector < 4)
            guest->state.seg[i].selector = 0;
    /* A frame pushed by 32-bit code has no upper half of RSP. */
    if (native->state.seg[SEG_CS].selector == ISA_SEL_CODE32)
        guest->state.gpr[GPR_RSP] = (uint32_t)guest->state.gpr[GPR_RSP];
    /* KVM on AMD's CPUs takes #UD and emulates an Intel CPU's SYSEXIT. */
    if (c->mnemonic == ZYDIS_MNEMONIC_SYSEXIT && native->vector == VEC_GP)
        native->vector = VEC_UD;
    /* Everything but the answer itself; RDRAND and RDSEED may find nothing. */
    uint64_t answer = c->answer_bits == 64 ? ~0ull : (1ull << c->answer_bits) - 1;
    for (unsigned i = 0; i < GPR_COUNT && native->state.rip != c->in.rip; i++)
        if (c->answers >> i & 1)
            native->state.gpr[i] = (native->state.gpr[i] & ~answer) | (guest->state.gpr[i] & answer);
    if (c->mnemonic == ZYDIS_MNEMONIC_RDRAND || c->mnemonic == ZYDIS_MNEMONIC_RDSEED)
        native->state.rflags |= guest->state.rflags & RFLAGS_CF;
    /* What INT3 pushes after IRET set RF is the INT3's. */
    if (native->vector < 0 && guest->vector < 0)
        guest->state.rflags &= ~RFLAGS_RF;
    /* Under a hypervisor that emulates INT1, RIP stays where it was; a trap's is after the instruction (SDM 2, INT1). */
    if (c->mnemonic == ZYDIS_MNEMONIC_INT1 && native->vector == VEC_DB && native->state.rip == c->in.rip)
        native->state.rip += c->length;
}

static unsigned fpu_differences(char *text, size_t size, const struct isa_case *c, const struct fpu_state *a,
                                const struct fpu_state *b)
{
    unsigned n = 0;
    for (unsigned i = 0; i < 16; i++)
        if (memcmp(a->ymm[i], b->ymm[i], 32) != 0) {
            uint64_t x[4], y[4];
            memcpy(x, a->ymm[i], 32);
            memcpy(y, b->ymm[i], 32);
            append(text, size, "  ymm%u %llx %llx %llx %llx/%llx %llx %llx %llx\n", i, (ull)x[0], (ull)x[1],
                   (ull)x[2], (ull)x[3], (ull)y[0], (ull)y[1], (ull)y[2], (ull)y[3]);
            n++;
        }
    for (unsigned i = 0; i < 8; i++)
        if (memcmp(a->st[i], b->st[i], 10) != 0) {
            uint64_t x, y;
            memcpy(&x, a->st[i], 8);
            memcpy(&y, b->st[i], 8);
            append(text, size, "  st%u %02x%02x %llx/%02x%02x %llx\n", i, a->st[i][9], a->st[i][8], (ull)x,
                   b->st[i][9], b->st[i][8], (ull)y);
            n++;
        }
    if (a->fcw != b->fcw || a->fsw != b->fsw || a->ftw != b->ftw || a->mxcsr != b->mxcsr) {
        const struct fpu_state *was = &c->in.fpu;
        append(text, size, "  fcw %x/%x fsw %x/%x ftw %x/%x mxcsr %x/%x (was %x %x %x %x)\n", a->fcw, b->fcw,
               a->fsw, b->fsw, a->ftw, b->ftw, a->mxcsr, b->mxcsr, was->fcw, was->fsw, was->ftw, was->mxcsr);
        n++;
    }
    /* AMD's CPUs save the pointers of the frame only with a pending exception. */
    if ((a->fsw & FSW_ES) && (a->fip != b->fip || a->fdp != b->fdp || a->fop != b->fop)) {
        append(text, size, "  fip %llx/%llx fdp %llx/%llx fop %x/%x\n", (ull)a->fip, (ull)b->fip, (ull)a->fdp,
               (ull)b->fdp, a->fop, b->fop);
        n++;
    }
    return n;
}

static unsigned segment_differences(char *text, size_t size, const struct vcpu_state *a,
                                    const struct vcpu_state *b)
{
    static const char names[] = "ecsdfg";
    unsigned n = 0;
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        bool base = i >= SEG_FS && a->seg[i].base != b->seg[i].base;
        if (a->seg[i].selector == b->seg[i].selector && !base)
            continue;
        append(text, size, "  %cs %x/%x base %llx/%llx\n", names[i], a->seg[i].selector, b->seg[i].selector,
               (ull)a->seg[i].base, (ull)b->seg[i].base);
        n++;
    }
    return n;
}

unsigned isa_differences(char *text, size_t size, const struct isa_case *c, const struct isa_result *native,
                         const struct isa_result *guest)
{
    const struct vcpu_state *a = &native->state, *b = &guest->state;
    unsigned n = 0;
    if (native->vector != guest->vector || native->error_code != guest->error_code ||
        native->cr2 != guest->cr2) {
        append(text, size, "  vector %d/%d error %x/%x cr2 %llx/%llx\n", native->vector, guest->vector,
               native->error_code, guest->error_code, (ull)native->cr2, (ull)guest->cr2);
        n++;
    }
    for (unsigned i = 0; i < GPR_COUNT; i++) {
        if (a->gpr[i] == b->gpr[i])
            continue;
        append(text, size, "  gpr%u %llx/%llx (was %llx)\n", i, (ull)a->gpr[i], (ull)b->gpr[i],
               (ull)c->in.gpr[i]);
        n++;
    }
    if (a->rip != b->rip || a->rflags != b->rflags) {
        append(text, size, "  rip %llx/%llx (was %llx) flags %llx/%llx (was %llx)\n", (ull)a->rip,
               (ull)b->rip, (ull)c->in.rip, (ull)a->rflags, (ull)b->rflags, (ull)c->in.rflags);
        n++;
    }
    n += segment_differences(text, size, a, b);
    return n + fpu_differences(text, size, c, &a->fpu, &b->fpu);
}

unsigned isa_memory_differences(char *text, size_t size, const uint8_t *native, uint8_t *guest)
{
    if (memcmp(native, guest, ISA_DATA_BYTES) == 0)
        return 0;
    unsigned shown = 0;
    for (unsigned i = 0; i < ISA_DATA_BYTES && shown < 8; i++)
        if (native[i] != guest[i]) {
            append(text, size, "  memory +%x %02x/%02x\n", i, native[i], guest[i]);
            shown++;
        }
    memcpy(guest, native, ISA_DATA_BYTES);
    return 1;
}

void isa_describe(char *text, size_t size, const struct isa_case *c)
{
    static const char *const places[] = {"aligned",
                                         "unaligned",
                                         "across",
                                         "across, read-only",
                                         "read-only",
                                         "across read-only, absent",
                                         "across, absent",
                                         "from absent",
                                         "absent",
                                         "supervisor",
                                         "not canonical",
                                         "across canonical",
                                         "",
                                         "random"};
    ZydisDisassembledInstruction d;
    bool long_mode = c->in.seg[SEG_CS].rights & SEGMENT_L;
    bool good = ZYAN_SUCCESS(
        ZydisDisassembleIntel(long_mode ? ZYDIS_MACHINE_MODE_LONG_64 : ZYDIS_MACHINE_MODE_LONG_COMPAT_32,
                              c->in.rip, c->bytes, c->length, &d));
    append(text, size, "%u: %s:", long_mode ? 64 : 32, good ? d.text : "(invalid)");
    for (unsigned i = 0; i < c->length; i++)
        append(text, size, " %02x", c->bytes[i]);
    append(text, size, " (%s at %llx; rsp %llx ds %x es %x fs %llx gs %llx)\n", places[c->place],
           (ull)c->operand, (ull)c->in.gpr[GPR_RSP], c->in.seg[SEG_DS].selector, c->in.seg[SEG_ES].selector,
           (ull)c->in.seg[SEG_FS].base, (ull)c->in.seg[SEG_GS].base);
}
