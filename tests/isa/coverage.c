#include "tests/isa/coverage.h"

#include <stdio.h>
#include <string.h>

void isa_table_add(struct isa_table *t, const struct isa_counts *c)
{
    for (unsigned i = 0; i < ISA_FORMS_MAX; i++)
        t->counts.cases[i] += c->cases[i];
    for (unsigned i = 0; i <= ISA_FORMS_MAX; i++)
        t->counts.mismatches[i] += c->mismatches[i];
}

/* Of one mnemonic, or of all (0). */
static struct isa_totals totals_of(const struct isa_table *t, unsigned mnemonic)
{
    static uint8_t seen[ZYDIS_MNEMONIC_MAX_VALUE + 1];
    struct isa_totals sum = {0};
    memset(seen, 0, sizeof seen);
    for (unsigned i = 0; i < t->forms->count; i++) {
        const struct isa_form *f = &t->forms->form[i];
        if (mnemonic && f->mnemonic != mnemonic)
            continue;
        sum.forms++;
        sum.mnemonics += !seen[f->mnemonic];
        seen[f->mnemonic] = 1;
        sum.compared += t->counts.cases[i] != 0;
        sum.elsewhere += f->reason != ISA_COMPARED;
        sum.missing += f->reason == ISA_COMPARED && t->counts.cases[i] == 0;
        sum.cases += t->counts.cases[i];
        sum.mismatches += t->counts.mismatches[i];
    }
    return sum;
}

struct isa_totals isa_table_totals(const struct isa_table *t)
{
    return totals_of(t, 0);
}

static const char *mode_name(const struct isa_table *t)
{
    return t->forms->long_mode ? "64-bit" : "32-bit";
}

void isa_print_missing(const struct isa_table *t)
{
    char text[128];
    for (unsigned i = 0; i < t->forms->count; i++) {
        if (t->forms->form[i].reason != ISA_COMPARED || t->counts.cases[i])
            continue;
        isa_form_describe(t->forms, i, text, sizeof text);
        printf("%s code, not compared: %s\n", mode_name(t), text);
    }
}

/* ---- the document ---- */

static const char preface[] =
    "# Which instructions are compared with the host's CPU\n"
    "\n"
    "This file is written by the test itself: `build/tests/test_isa_host --coverage docs/isa-coverage.md`, "
    "with a number\n"
    "of cases and a seed after it where others than the default are wanted.\n"
    "\n"
    "`tests/isa` executes single instructions at CPL 3, in 64-bit and in 32-bit (compatibility mode) code, "
    "once natively\n"
    "in a child process and once in the emulator (by turns by stage 1 and by stage 2), and compares all that "
    "an "
    "instruction can change: general registers,\n"
    "RIP, RFLAGS with the flags that manuals leave undefined, selectors and bases of segments, x87 "
    "registers, tags,\n"
    "control and status words (and pointers while an exception is pending), MXCSR, YMM registers, memory; "
    "and of an\n"
    "exception the vector, error code, CR2 and that nothing else has changed.\n"
    "\n"
    "A *form* is a mnemonic with the kinds, sizes and encodings of its operands, its operand and address "
    "size, VEX.W and\n"
    "VEX.L, and LOCK, REP or REPNE. The forms are read off Zydis' decoder by walking the opcode space "
    "(`forms.c`): all maps,\n"
    "mandatory prefixes, operand and address size prefixes, REX.W, LOCK, REP, VEX.W and VEX.L, all of ModRM "
    "that can\n"
    "select. A million random instructions (`test_isa_decode`) must have no form that the walk missed.\n"
    "\n"
    "Each form with a memory operand is tried with the operand aligned, unaligned, across two pages that can "
    "be written,\n"
    "across into a read-only page, read-only, across read-only and absent pages, across into an absent page, "
    "out of\n"
    "an absent page, absent, in the supervisor's memory, not canonical, and across the end of canonical "
    "addresses; where\n"
    "the host found an absent page, the guest runs again with a supervisor's page in that place. Random "
    "besides: all\n"
    "registers in all places, SIB, RIP-relative and 16-bit addresses, FS and GS with bases, other segments "
    "from an LDT\n"
    "(with limits, expanding down, read-only, null), prefixes in any order, repeated and without meaning, "
    "more than 15\n"
    "bytes, code across pages and into an absent page, the status flags, DF and AC (alignment checks), "
    "rounding and\n"
    "masks of the FPU, boundary values of integers and of all floating-point formats.\n"
    "\n"
    "Jumps go into code, into data that may not be executed, into absent pages and to addresses that are not "
    "canonical.\n"
    "Privileged instructions are compared as what they are at CPL 3. CPUID, RDTSC, RDTSCP, XGETBV, RDRAND "
    "and RDSEED\n"
    "are compared but for the value that they answer.\n"
    "\n"
    "The reference is an AMD CPU, as the CPU model is. Where CPUs differ the emulator does what AMD's do: "
    "which of\n"
    "two faults comes first, what was written before it (PUSHA, POPA, far CALL), 66 in front of near "
    "branches\n"
    "in 64-bit code, REP in front of LOOPE and LOOPNE, REX.W in front of far pointers, canonical offsets "
    "before the base of FS and GS\n"
    "is added.\n";

static const char exceptions[] =
    "\n"
    "## What is not compared, and why\n"
    "\n"
    "| what | why |\n"
    "| --- | --- |\n"
    "| FIP, FDP, FOP without a pending exception | AMD's CPUs do not save them then |\n"
    "| P in the error code of addresses above the user's, outside the guest's 4 MiB of kernel | Linux says P "
    "= 1 for all of them |\n"
    "| null selectors with an RPL | returning to user mode makes them 0 |\n"
    "| RFLAGS.RF after IRET that completed | it is the host's INT3 that pushes it |\n"
    "| bits 63..32 of RSP after a switch to 32-bit code | a frame pushed by 32-bit code does not have them "
    "|\n"
    "| RIP of INT1, vector of SYSEXIT | the hypervisor of the reference machines emulates them in another "
    "way |\n"
    "| operands across 4 GiB in 32-bit code | Linux retries the access for ever (a workaround of K8 erratum "
    "100) |\n"
    "| images of XSAVE and XRSTOR that wrap round at their address size | AMD's CPUs look at their parts in "
    "an order "
    "of their own |\n"
    "| VPERMQ, VPERMPD with VEX.W = 0 | undefined in the manuals, and in the emulator; AMD's CPUs execute "
    "them |\n"
    "| INT 0x80 | it is the host's system call |\n"
    "\n"
    "The forms named below are tested with expected values from the SDM in `tests/machine` (test_far.c: "
    "SYSCALL, SYSENTER;\n"
    "test_segment.c: SGDT, SIDT, SMSW, SLDT, STR, with and without CR4.UMIP).\n"
    "\n"
    "## Total\n"
    "\n";

static const char *const reasons[ISA_REASONS] = {
    [ISA_ENTERS_KERNEL] = "natively it enters the host's kernel",
    [ISA_UMIP] = "natively the host's kernel answers in place of the CPU (UMIP)",
};

static void print_total(FILE *out, const struct isa_table *t)
{
    struct isa_totals sum = totals_of(t, 0);
    fprintf(out, "| %s code | %u | %u | %u | %.2f %% | %llu | %llu |\n", mode_name(t), sum.mnemonics,
            sum.forms, sum.compared, 100.0 * sum.compared / sum.forms, (unsigned long long)sum.cases,
            (unsigned long long)sum.mismatches);
}

static void print_elsewhere(FILE *out, const struct isa_table *t)
{
    char text[128];
    for (unsigned i = 0; i < t->forms->count; i++) {
        const struct isa_form *f = &t->forms->form[i];
        if (f->reason == ISA_COMPARED)
            continue;
        isa_form_describe(t->forms, i, text, sizeof text);
        fprintf(out, "| %s | `%s` | %s |\n", mode_name(t), text, reasons[f->reason]);
    }
}

static void print_cell(FILE *out, const struct isa_totals *sum)
{
    if (sum->forms)
        fprintf(out, " %u/%u | %llu | %llu |", sum->compared, sum->forms, (unsigned long long)sum->cases,
                (unsigned long long)sum->mismatches);
    else
        fprintf(out, " | | |");
}

void isa_print_coverage(FILE *out, const struct isa_table tables[2])
{
    fputs(preface, out);
    fputs(exceptions, out);
    fprintf(out, "| code | mnemonics | forms | compared | part | cases | mismatches |\n"
                 "| --- | --- | --- | --- | --- | --- | --- |\n");
    print_total(out, &tables[0]);
    print_total(out, &tables[1]);
    fprintf(out, "\n## Forms that are not compared\n\n| code | form | reason |\n| --- | --- | --- |\n");
    print_elsewhere(out, &tables[0]);
    print_elsewhere(out, &tables[1]);
    fprintf(
        out,
        "\n## By mnemonic\n\n"
        "| mnemonic | 64-bit code: forms | cases | mismatches | 32-bit code: forms | cases | mismatches |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n");
    for (unsigned m = 1; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++) {
        struct isa_totals wide = totals_of(&tables[0], m), narrow = totals_of(&tables[1], m);
        if (!wide.forms && !narrow.forms)
            continue;
        fprintf(out, "| %s |", ZydisMnemonicGetString((ZydisMnemonic)m));
        print_cell(out, &wide);
        print_cell(out, &narrow);
        fprintf(out, "\n");
    }
}
