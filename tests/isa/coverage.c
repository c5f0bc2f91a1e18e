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

static const char *const reasons[ISA_REASONS] = {
    [ISA_ENTERS_KERNEL] = "natively it enters the host's kernel",
    [ISA_UMIP] = "natively the host's kernel answers in place of the CPU (UMIP)",
};

static void print_total(const struct isa_table *t)
{
    struct isa_totals sum = totals_of(t, 0);
    printf("| %s code | %u | %u | %u | %.2f %% | %llu | %llu |\n", mode_name(t), sum.mnemonics, sum.forms,
           sum.compared, 100.0 * sum.compared / sum.forms, (unsigned long long)sum.cases,
           (unsigned long long)sum.mismatches);
}

static void print_elsewhere(const struct isa_table *t)
{
    char text[128];
    for (unsigned i = 0; i < t->forms->count; i++) {
        const struct isa_form *f = &t->forms->form[i];
        if (f->reason == ISA_COMPARED)
            continue;
        isa_form_describe(t->forms, i, text, sizeof text);
        printf("| %s | `%s` | %s |\n", mode_name(t), text, reasons[f->reason]);
    }
}

static void print_cell(const struct isa_totals *sum)
{
    if (sum->forms)
        printf(" %u/%u | %llu | %llu |", sum->compared, sum->forms, (unsigned long long)sum->cases,
               (unsigned long long)sum->mismatches);
    else
        printf(" | | |");
}

void isa_print_coverage(const struct isa_table tables[2])
{
    printf("| code | mnemonics | forms | compared | | cases | mismatches |\n"
           "| --- | --- | --- | --- | --- | --- | --- |\n");
    print_total(&tables[0]);
    print_total(&tables[1]);
    printf("\n## Forms that are not compared\n\n| code | form | reason |\n| --- | --- | --- |\n");
    print_elsewhere(&tables[0]);
    print_elsewhere(&tables[1]);
    printf(
        "\n## By mnemonic\n\n"
        "| mnemonic | 64-bit code: forms | cases | mismatches | 32-bit code: forms | cases | mismatches |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n");
    for (unsigned m = 1; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++) {
        struct isa_totals wide = totals_of(&tables[0], m), narrow = totals_of(&tables[1], m);
        if (!wide.forms && !narrow.forms)
            continue;
        printf("| %s |", ZydisMnemonicGetString((ZydisMnemonic)m));
        print_cell(&wide);
        print_cell(&narrow);
        printf("\n");
    }
}
