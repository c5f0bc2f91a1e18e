/* The emulator against this CPU: every opcode, random operands, all registers and memory compared. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include <Zydis/Zydis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/isa/isa.h"

#define SHARDS         2u
#define DEFAULT_ROUNDS 20u
#define FORMS_MAX      16384u
#define REPORTS_MAX    40u
#define INT3           0xcc
#define MXCSR_OE_UE    0x18u
#define MXCSR_PE       0x20u

struct report {
    char text[1024];
};

/* What a child tells its parent. */
struct shard {
    uint64_t cases, faults, undefined, memory_cases, mismatches, lacking;
    uint32_t form_count;
    uint64_t forms[FORMS_MAX];
    uint8_t mnemonics[ZYDIS_MNEMONIC_MAX_VALUE + 1];
    uint8_t failed_mnemonics[ZYDIS_MNEMONIC_MAX_VALUE + 1];
    uint32_t report_count;
    struct report reports[REPORTS_MAX];
    bool finished;
    struct isa_case last;
};

static struct shard *shards;
static unsigned rounds = DEFAULT_ROUNDS;
static uint64_t seed = 20261120;

static void note_form(struct shard *s, uint64_t form)
{
    for (uint64_t i = form % FORMS_MAX;; i = (i + 1) % FORMS_MAX) {
        if (s->forms[i] == form || s->form_count == FORMS_MAX - 1)
            return;
        if (s->forms[i] == 0) {
            s->forms[i] = form;
            s->form_count++;
            return;
        }
    }
}

static void append(char *text, size_t size, const char *format, ...)
{
    size_t n = strlen(text);
    va_list list;
    va_start(list, format);
    vsnprintf(text + n, size - n, format, list);
    va_end(list);
}

/*
 * What this host does that another need not do, and that the emulator does differently on purpose.
 */
static bool accesses_several(unsigned mnemonic)
{
    static const ZydisMnemonic list[] = {
        ZYDIS_MNEMONIC_CMPSB,   ZYDIS_MNEMONIC_CMPSW,     ZYDIS_MNEMONIC_CMPSD,  ZYDIS_MNEMONIC_CMPSQ,
        ZYDIS_MNEMONIC_FNSTENV, ZYDIS_MNEMONIC_FNSAVE,    ZYDIS_MNEMONIC_FXSAVE, ZYDIS_MNEMONIC_FXSAVE64,
        ZYDIS_MNEMONIC_FXRSTOR, ZYDIS_MNEMONIC_FXRSTOR64, ZYDIS_MNEMONIC_FLDENV, ZYDIS_MNEMONIC_FRSTOR,
        ZYDIS_MNEMONIC_PUSHA,   ZYDIS_MNEMONIC_PUSHAD};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if ((unsigned)list[i] == mnemonic)
            return true;
    return false;
}

/* They raise their exceptions step by step. */
static bool is_dot_product(unsigned mnemonic)
{
    return mnemonic == ZYDIS_MNEMONIC_DPPS || mnemonic == ZYDIS_MNEMONIC_DPPD ||
           mnemonic == ZYDIS_MNEMONIC_VDPPS || mnemonic == ZYDIS_MNEMONIC_VDPPD;
}

static void forgive(const struct isa_case *c, struct isa_result *native, const struct isa_result *guest)
{
    /* Which of several accesses faults first is not architectural. */
    if (native->vector >= 0 && guest->vector >= 0 && accesses_several(c->mnemonic)) {
        native->vector = guest->vector;
        native->cr2 = guest->cr2;
        native->error_code = guest->error_code;
    }
    /* A hypervisor may report a read-only page as absent before it has looked; the host's kernel has pages of its own. */
    if (native->vector == VEC_PF && guest->vector == VEC_PF && (native->error_code == 6 || native->cr2 >> 63))
        native->error_code = (native->error_code & ~1u) | (guest->error_code & 1);
    /* Addresses that are not canonical are kept with 57 bits. */
    if (c->mnemonic == ZYDIS_MNEMONIC_FXRSTOR64) {
        native->state.fpu.fip = guest->state.fpu.fip;
        native->state.fpu.fdp = guest->state.fpu.fdp;
    }
    /* POPA may have loaded some registers when a later one faults. */
    bool popa = c->mnemonic == ZYDIS_MNEMONIC_POPA || c->mnemonic == ZYDIS_MNEMONIC_POPAD;
    if (popa && native->vector >= 0)
        memcpy(native->state.gpr, guest->state.gpr, sizeof native->state.gpr);
    if (native->vector != VEC_XM || guest->vector != VEC_XM)
        return;
    /* PE beside an unmasked overflow or underflow would have to be that of a result with an unbounded exponent. */
    uint32_t host = native->state.fpu.mxcsr, own = guest->state.fpu.mxcsr;
    if (host & MXCSR_OE_UE)
        native->state.fpu.mxcsr = (host & ~MXCSR_PE) | (own & MXCSR_PE);
    if (is_dot_product(c->mnemonic))
        native->state.fpu.mxcsr = own;
}

static unsigned differing(char *text, size_t size, const struct isa_case *c, const struct isa_result *native,
                          const struct isa_result *guest)
{
    const struct vcpu_state *a = &native->state, *b = &guest->state;
    unsigned n = 0;
    if (native->vector != guest->vector || native->error_code != guest->error_code ||
        native->cr2 != guest->cr2) {
        append(text, size, "  vector %d/%d error %x/%x cr2 %llx/%llx\n", native->vector, guest->vector,
               native->error_code, guest->error_code, (unsigned long long)native->cr2,
               (unsigned long long)guest->cr2);
        n++;
    }
    for (unsigned i = 0; i < GPR_COUNT; i++) {
        if (a->gpr[i] != b->gpr[i]) {
            append(text, size, "  gpr%u %llx/%llx (was %llx)\n", i, (unsigned long long)a->gpr[i],
                   (unsigned long long)b->gpr[i], (unsigned long long)c->in.gpr[i]);
            n++;
        }
    }
    uint64_t flags = RFLAGS_STATUS | RFLAGS_DF;
    if (a->rip != b->rip || (a->rflags & flags) != (b->rflags & flags)) {
        append(text, size, "  rip %llx/%llx flags %llx/%llx (was %llx)\n", (unsigned long long)a->rip,
               (unsigned long long)b->rip, (unsigned long long)(a->rflags & flags),
               (unsigned long long)(b->rflags & flags), (unsigned long long)(c->in.rflags & flags));
        n++;
    }
    for (unsigned i = 0; i < 16; i++)
        if (memcmp(a->fpu.ymm[i], b->fpu.ymm[i], 32) != 0) {
            uint64_t x[4], y[4];
            memcpy(x, a->fpu.ymm[i], 32);
            memcpy(y, b->fpu.ymm[i], 32);
            append(text, size, "  ymm%u %llx %llx %llx %llx/%llx %llx %llx %llx\n", i,
                   (unsigned long long)x[0], (unsigned long long)x[1], (unsigned long long)x[2],
                   (unsigned long long)x[3], (unsigned long long)y[0], (unsigned long long)y[1],
                   (unsigned long long)y[2], (unsigned long long)y[3]);
            n++;
        }
    for (unsigned i = 0; i < 8; i++)
        if (memcmp(a->fpu.st[i], b->fpu.st[i], 10) != 0) {
            append(text, size, "  st%u\n", i);
            n++;
        }
    if (a->fpu.fcw != b->fpu.fcw || a->fpu.fsw != b->fpu.fsw || a->fpu.ftw != b->fpu.ftw ||
        a->fpu.mxcsr != b->fpu.mxcsr) {
        append(text, size, "  fcw %x/%x fsw %x/%x ftw %x/%x mxcsr %x/%x (was %x %x %x %x)\n", a->fpu.fcw,
               b->fpu.fcw, a->fpu.fsw, b->fpu.fsw, a->fpu.ftw, b->fpu.ftw, a->fpu.mxcsr, b->fpu.mxcsr,
               c->in.fpu.fcw, c->in.fpu.fsw, c->in.fpu.ftw, c->in.fpu.mxcsr);
        n++;
    }
    /* AMD's CPUs save the pointers of the frame only with a pending exception. */
    if ((a->fpu.fsw & 0x80) &&
        (a->fpu.fip != b->fpu.fip || a->fpu.fdp != b->fpu.fdp || a->fpu.fop != b->fpu.fop)) {
        append(text, size, "  fip %llx/%llx fdp %llx/%llx fop %x/%x\n", (unsigned long long)a->fpu.fip,
               (unsigned long long)b->fpu.fip, (unsigned long long)a->fpu.fdp, (unsigned long long)b->fpu.fdp,
               a->fpu.fop, b->fpu.fop);
        n++;
    }
    return n;
}

static unsigned compare_memory(char *text, size_t size, struct guest *g)
{
    uint8_t *a = native_data(), *b = guest_data(g);
    if (memcmp(a, b, ISA_DATA_BYTES) == 0)
        return 0;
    unsigned shown = 0;
    for (unsigned i = 0; i < ISA_DATA_BYTES && shown < 8; i++)
        if (a[i] != b[i]) {
            append(text, size, "  memory +%x %02x/%02x\n", i, a[i], b[i]);
            shown++;
        }
    memcpy(b, a, ISA_DATA_BYTES);
    return 1;
}

static bool is_long_mode(const struct isa_case *c)
{
    return c->in.seg[SEG_CS].rights & SEGMENT_L;
}

static void describe(char *text, size_t size, const struct isa_case *c)
{
    ZydisDisassembledInstruction d;
    bool good = ZYAN_SUCCESS(ZydisDisassembleIntel(is_long_mode(c) ? ZYDIS_MACHINE_MODE_LONG_64
                                                                   : ZYDIS_MACHINE_MODE_LONG_COMPAT_32,
                                                   c->in.rip, c->bytes, c->length, &d));
    append(text, size, "%s:", good ? d.text : "(invalid)");
    for (unsigned i = 0; i < c->length; i++)
        append(text, size, " %02x", c->bytes[i]);
    append(text, size, "\n");
}

static void set_code(const struct isa_case *c, struct guest *g)
{
    uint8_t *targets[2] = {native_code(), guest_code(g)};
    size_t at = (size_t)(c->in.rip - ISA_CODE);
    for (unsigned i = 0; i < 2; i++) {
        memset(targets[i] + at, INT3, 32);
        memcpy(targets[i] + at, c->bytes, c->length);
    }
}

static void refill_memory(struct isa_random *r, struct guest *g)
{
    uint8_t *data = native_data();
    struct vcpu_state ignored = {0};
    struct isa_case c;
    for (unsigned i = 0; i < ISA_DATA_BYTES; i += 512) {
        isa_generate(r, 0, &ignored, &c);
        memcpy(data + i, c.in.fpu.ymm, 512);
    }
    memcpy(guest_data(g), data, ISA_DATA_BYTES);
}

static void run_case(struct shard *s, struct guest *g, const struct isa_case *c)
{
    struct isa_result native, guest;
    char text[sizeof s->reports[0].text] = "", message[256] = "";
    s->last = *c;
    set_code(c, g);
    native_run(&c->in, &native);
    s->cases++;
    s->faults += native.vector >= 0;
    s->undefined += native.vector == VEC_UD;
    s->memory_cases += c->memory;
    s->mnemonics[c->mnemonic] = 1;
    note_form(s, c->form);
    describe(text, sizeof text, c);
    size_t length = strlen(text);
    unsigned bad;
    if (!guest_run(g, &c->in, &guest, message, sizeof message)) {
        append(text, sizeof text, "  native vector %d; %s\n", native.vector, message);
        s->lacking++;
        bad = 1;
        compare_memory(text, sizeof text, g);
    } else {
        forgive(c, &native, &guest);
        bad = differing(text + length, sizeof text - length, c, &native, &guest);
        bad += compare_memory(text, sizeof text, g);
    }
    if (!bad)
        return;
    s->mismatches++;
    if (s->report_count < REPORTS_MAX && !s->failed_mnemonics[c->mnemonic])
        memcpy(s->reports[s->report_count++].text, text, sizeof text);
    s->failed_mnemonics[c->mnemonic] = 1;
}

static void run_shard(unsigned number, bool long_mode)
{
    struct shard *s = &shards[number];
    struct guest *g = guest_create();
    struct isa_random r = {.s = seed * SHARDS + number};
    if (!g || !native_init())
        _exit(1);
    struct vcpu_state base;
    guest_base_state(long_mode, &base);
    for (unsigned opcode = number; opcode < isa_opcode_count(); opcode += SHARDS) {
        if (opcode % 64 == number)
            refill_memory(&r, g);
        for (unsigned i = 0; i < rounds * isa_opcode_weight(opcode); i++) {
            struct isa_case c;
            if (isa_generate(&r, opcode, &base, &c))
                run_case(s, g, &c);
        }
    }
    guest_destroy(g);
    s->finished = true;
    _exit(0);
}

static bool wait_for(unsigned number, pid_t child)
{
    int status = 0;
    struct shard *s = &shards[number];
    waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && s->finished)
        return true;
    char text[1024] = "";
    describe(text, sizeof text, &s->last);
    printf("child %u ended with status %x after case %llu: %s", number, (unsigned)status,
           (unsigned long long)s->cases, text);
    return false;
}

static void print_summary(void)
{
    uint64_t cases = 0, faults = 0, undefined = 0, memory = 0, mismatches = 0;
    unsigned mnemonics = 0, forms = 0;
    struct shard *all = calloc(1, sizeof *all);
    assert_non_null(all);
    for (unsigned i = 0; i < SHARDS; i++) {
        cases += shards[i].cases;
        faults += shards[i].faults;
        undefined += shards[i].undefined;
        memory += shards[i].memory_cases;
        mismatches += shards[i].mismatches;
        for (unsigned k = 0; k < FORMS_MAX; k++)
            if (shards[i].forms[k])
                note_form(all, shards[i].forms[k]);
        for (unsigned k = 1; k <= ZYDIS_MNEMONIC_MAX_VALUE; k++)
            all->mnemonics[k] |= shards[i].mnemonics[k];
        for (unsigned k = 0; k < shards[i].report_count; k++)
            printf("%s", shards[i].reports[k].text);
    }
    for (unsigned k = 1; k <= ZYDIS_MNEMONIC_MAX_VALUE; k++)
        mnemonics += all->mnemonics[k];
    forms = all->form_count;
    free(all);
    printf("%llu cases (%llu with a memory operand, %llu faults, %llu of them #UD), %u mnemonics, %u forms, "
           "%llu mismatches\n",
           (unsigned long long)cases, (unsigned long long)memory, (unsigned long long)faults,
           (unsigned long long)undefined, mnemonics, forms, (unsigned long long)mismatches);
}

static void compare_with_host(bool long_mode)
{
    pid_t children[SHARDS];
    bool good = true;
    shards = mmap(NULL, SHARDS * sizeof *shards, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(shards != MAP_FAILED);
    fflush(NULL);
    for (unsigned i = 0; i < SHARDS; i++) {
        children[i] = fork();
        if (children[i] == 0)
            run_shard(i, long_mode);
    }
    for (unsigned i = 0; i < SHARDS; i++)
        good = wait_for(i, children[i]) && good;
    print_summary();
    for (unsigned i = 0; i < SHARDS; i++)
        good = good && shards[i].mismatches == 0 && shards[i].cases > 500 * rounds;
    munmap(shards, SHARDS * sizeof *shards);
    assert_true(good);
}

static void every_64bit_instruction_does_what_the_host_does(void **state)
{
    (void)state;
    compare_with_host(true);
}

static void every_32bit_instruction_does_what_the_host_does(void **state)
{
    (void)state;
    compare_with_host(false);
}

/* test_isa_host [rounds [seed]] */
int main(int argc, char **argv)
{
    if (argc > 1)
        rounds = (unsigned)strtoul(argv[1], NULL, 0);
    if (argc > 2)
        seed = strtoull(argv[2], NULL, 0);
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_64bit_instruction_does_what_the_host_does),
                                       cmocka_unit_test(every_32bit_instruction_does_what_the_host_does)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
