/*
 * The emulator against this CPU: every form of every instruction of the CPU model, with its memory operand in every place where
 * an access can end differently, and random states; all registers and memory compared.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/isa/compare.h"
#include "tests/isa/coverage.h"

#define SHARDS           2u
#define DEFAULT_CASES    100000u
#define REPORTS_MAX      200u
#define INT3             0xcc
#define REGRESSION_TRIES 8u

struct report {
    char text[1024];
};

/* What a child tells its parent. */
struct shard {
    struct isa_counts counts;
    uint64_t cases, faults, undefined, memory_cases, supervisor_cases, mismatches, lacking;
    uint8_t failed[ZYDIS_MNEMONIC_MAX_VALUE + 1];
    uint32_t report_count;
    struct report reports[REPORTS_MAX];
    bool finished;
    struct isa_case last;
};

struct runner {
    struct shard *shard;
    const struct isa_forms *forms;
    struct guest *guest;
    struct isa_random random;
    struct vcpu_state base;
    uint8_t data_before[ISA_DATA_BYTES]; /* the guest's, before the case: for running it once more */
};

static struct shard *shards;
static uint64_t cases_wanted = DEFAULT_CASES;
static uint64_t seed = 20261120;
static const char *coverage_path;
static struct isa_table tables[2];

static void poke_code(const struct isa_case *c, struct guest *g, bool present)
{
    uint8_t *targets[2] = {native_code(), guest_code(g)};
    size_t at = (size_t)(c->in.rip - ISA_CODE), room = ISA_CODE_BYTES - at;
    size_t length = c->length < room ? c->length : room;
    for (unsigned i = 0; i < 2; i++) {
        if (present)
            memcpy(targets[i] + at, c->bytes, length);
        else
            memset(targets[i] + at, INT3, length);
    }
}

static void poke_data(const struct isa_case *c, struct guest *g)
{
    for (unsigned i = 0; i < c->pokes; i++) {
        memcpy(native_data() + c->poke[i].offset, c->poke[i].bytes, c->poke[i].length);
        memcpy(guest_data(g) + c->poke[i].offset, c->poke[i].bytes, c->poke[i].length);
    }
}

static void refill(struct runner *r)
{
    isa_fill_memory(&r->random, native_data(), ISA_DATA_BYTES);
    memcpy(guest_data(r->guest), native_data(), ISA_DATA_BYTES);
}

static void report(struct shard *s, const struct isa_case *c, const char *text)
{
    s->mismatches++;
    s->counts.mismatches[c->form < 0 ? ISA_FORMS_MAX : (unsigned)c->form]++;
    if (s->report_count < REPORTS_MAX && s->failed[c->mnemonic] < 3)
        snprintf(s->reports[s->report_count++].text, sizeof s->reports[0].text, "%s", text);
    if (s->failed[c->mnemonic] < 3)
        s->failed[c->mnemonic]++;
}

/* Where hardware found an absent page of ours, it would find a supervisor's page just so. */
static void compare_supervisor(struct runner *r, const struct isa_case *c, struct isa_result *native,
                               char *text, size_t size)
{
    struct isa_result guest;
    char message[256] = "";
    size_t length = strlen(text);
    uint64_t page = (native->cr2 - ISA_DATA) >> 12;
    if (native->vector != VEC_PF || (page != ISA_DATA_GAP >> 12 && page != ISA_DATA_BYTES >> 12))
        return;
    /* What came before the fault may have written its own operand: CALL, whose target then is absent. */
    memcpy(guest_data(r->guest), r->data_before, ISA_DATA_BYTES);
    guest_set_supervisor(r->guest, true);
    bool good = guest_run(r->guest, &c->in, &guest, message, sizeof message);
    guest_set_supervisor(r->guest, false);
    r->shard->supervisor_cases++;
    native->error_code |= 1;
    if (!good)
        snprintf(text + length, size - length, "  supervisor: %s\n", message);
    else
        isa_forgive(c, native, &guest);
    if (!good || isa_differences(text, size, c, native, &guest) ||
        isa_memory_differences(text, size, native_data(), guest_data(r->guest))) {
        strncat(text, "  (supervisor page)\n", size - strlen(text) - 1);
        report(r->shard, c, text);
    }
}

/* By turns alone in stage 1, and followed by the INT3 in stage 2. */
static bool run_guest(struct runner *r, const struct isa_case *c, struct isa_result *out, char *message,
                      size_t size)
{
    return r->shard->cases % 2 ? guest_run(r->guest, &c->in, out, message, size)
                               : guest_run_to_end(r->guest, &c->in, c->length, out, message, size);
}

static void run_case(struct runner *r, const struct isa_case *c)
{
    struct isa_result native, guest;
    struct shard *s = r->shard;
    char text[sizeof s->reports[0].text] = "", message[256] = "";
    s->last = *c;
    poke_code(c, r->guest, true);
    poke_data(c, r->guest);
    memcpy(r->data_before, guest_data(r->guest), ISA_DATA_BYTES);
    native_run(&c->in, c->length, &native);
    s->cases++;
    s->faults += native.vector >= 0;
    s->undefined += native.vector == VEC_UD;
    s->memory_cases += c->memory;
    if (c->form >= 0)
        s->counts.cases[c->form]++;
    unsigned bad = 0;
    struct isa_result kept = native;
    if (!run_guest(r, c, &guest, message, sizeof message)) {
        isa_describe(text, sizeof text, c);
        size_t n = strlen(text);
        snprintf(text + n, sizeof text - n, "  native vector %d; %s\n", native.vector, message);
        s->lacking++;
        bad = 1;
        isa_memory_differences(text, sizeof text, native_data(), guest_data(r->guest));
    } else {
        isa_forgive(c, &native, &guest);
        isa_describe(text, sizeof text, c);
        bad = isa_differences(text, sizeof text, c, &native, &guest);
        bad += isa_memory_differences(text, sizeof text, native_data(), guest_data(r->guest));
    }
    if (bad)
        report(s, c, text);
    else
        compare_supervisor(r, c, &kept, text, sizeof text);
    poke_code(c, r->guest, false);
}

/* ---- which cases ---- */

static void run_form(struct runner *r, unsigned form, enum isa_place place)
{
    struct isa_case c;
    if (isa_generate(&r->random, r->forms, form, place, &r->base, &c))
        run_case(r, &c);
}

/* Every form in every place once, then random ones. */
static void run_forms(struct runner *r, unsigned number)
{
    for (unsigned i = number; i < r->forms->count; i += SHARDS) {
        if (i / SHARDS % 64 == 0)
            refill(r);
        unsigned places = r->forms->form[i].memory ? PLACE_COUNT : 3;
        for (unsigned place = 0; place < places; place++)
            run_form(r, i, (enum isa_place)place);
    }
}

static void run_opcodes(struct runner *r, unsigned number)
{
    for (unsigned opcode = number; opcode < ISA_OPCODES; opcode += SHARDS) {
        struct isa_case c;
        if (isa_generate_opcode(&r->random, r->forms, opcode, &r->base, &c))
            run_case(r, &c);
    }
}

static void run_regressions(struct runner *r)
{
    for (size_t i = 0; i < isa_regression_count; i++) {
        const struct isa_regression *g = &isa_regressions[i];
        for (unsigned n = 0; n < REGRESSION_TRIES * PLACE_COUNT && g->long_mode == r->forms->long_mode; n++) {
            struct isa_case c;
            if (isa_generate_bytes(&r->random, r->forms, g->bytes, g->length,
                                   (enum isa_place)(n % PLACE_COUNT), &r->base, &c))
                run_case(r, &c);
        }
    }
}

static void run_shard(unsigned number, const struct isa_forms *forms)
{
    struct runner r = {.shard = &shards[number], .forms = forms};
    r.random.s = seed * SHARDS + number;
    alarm((unsigned)(cases_wanted / 1000) + 120);
    if (!native_init())
        _exit(1);
    r.guest = guest_create(native_has_low(), native_has_ldt());
    if (!r.guest)
        _exit(1);
    guest_base_state(forms->long_mode, &r.base);
    refill(&r);
    if (number == 0)
        run_regressions(&r);
    run_forms(&r, number);
    run_opcodes(&r, number);
    while (r.shard->cases < cases_wanted / 2 / SHARDS) {
        refill(&r);
        for (unsigned i = 0; i < 64; i++)
            run_form(&r, isa_below(&r.random, forms->count), PLACE_RANDOM);
    }
    guest_destroy(r.guest);
    r.shard->finished = true;
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
    isa_describe(text, sizeof text, &s->last);
    printf("child %u ended with status %x after case %llu: %s", number, (unsigned)status,
           (unsigned long long)s->cases, text);
    return false;
}

static double seconds_since(const struct timespec *from)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - from->tv_sec) + (double)(now.tv_nsec - from->tv_nsec) * 1e-9;
}

static uint64_t sum(size_t offset)
{
    uint64_t total = 0, value;
    for (unsigned i = 0; i < SHARDS; i++) {
        memcpy(&value, (const char *)&shards[i] + offset, 8);
        total += value;
    }
    return total;
}

#define SUM(field) ((unsigned long long)sum(offsetof(struct shard, field)))

static void print_summary(const struct isa_table *t, double seconds)
{
    struct isa_totals totals = isa_table_totals(t);
    for (unsigned i = 0; i < SHARDS; i++)
        for (unsigned k = 0; k < shards[i].report_count; k++)
            printf("%s", shards[i].reports[k].text);
    printf("%llu cases (%llu with a memory operand, %llu faults, %llu of them #UD, %llu again with "
           "supervisor pages), "
           "%.0f cases/s, %llu mismatches\n",
           SUM(cases), SUM(memory_cases), SUM(faults), SUM(undefined), SUM(supervisor_cases),
           (double)SUM(cases) / seconds, SUM(mismatches));
    printf("%u of %u forms of %u mnemonics compared (%.2f %%), %u of the others are compared elsewhere\n",
           totals.compared, totals.forms, totals.mnemonics, 100.0 * totals.compared / totals.forms,
           totals.elsewhere);
}

static void compare_with_host(bool long_mode)
{
    pid_t children[SHARDS];
    bool good = true;
    struct timespec start;
    struct isa_table *table = &tables[!long_mode];
    size_t bytes = SHARDS * sizeof *shards;
    table->forms = isa_forms_create(long_mode);
    assert_non_null(table->forms);
    shards = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(shards != MAP_FAILED);
    fflush(NULL);
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (unsigned i = 0; i < SHARDS; i++) {
        children[i] = fork();
        if (children[i] == 0)
            run_shard(i, table->forms);
    }
    for (unsigned i = 0; i < SHARDS; i++)
        good = wait_for(i, children[i]) && good;
    for (unsigned i = 0; i < SHARDS; i++)
        isa_table_add(table, &shards[i].counts);
    print_summary(table, seconds_since(&start));
    good = good && SUM(mismatches) == 0;
    munmap(shards, bytes);
    struct isa_totals totals = isa_table_totals(table);
    if (totals.missing)
        isa_print_missing(table);
    assert_true(good);
    assert_int_equal(totals.missing, 0);
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

static int write_coverage(void)
{
    FILE *out = fopen(coverage_path, "w");
    if (!out) {
        perror(coverage_path);
        return 1;
    }
    isa_print_coverage(out, tables);
    return fclose(out) == 0 ? 0 : 1;
}

/* test_isa_host [--coverage FILE] [cases [seed]] */
int main(int argc, char **argv)
{
    int at = 1;
    if (at + 1 < argc && strcmp(argv[at], "--coverage") == 0) {
        coverage_path = argv[at + 1];
        at += 2;
    }
    if (at < argc)
        cases_wanted = strtoull(argv[at++], NULL, 0);
    if (at < argc)
        seed = strtoull(argv[at], NULL, 0);
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_64bit_instruction_does_what_the_host_does),
                                       cmocka_unit_test(every_32bit_instruction_does_what_the_host_does)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (coverage_path && !failed)
        failed = write_coverage();
    isa_forms_destroy(tables[0].forms);
    isa_forms_destroy(tables[1].forms);
    return failed;
}
