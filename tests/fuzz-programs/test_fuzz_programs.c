/*
 * Random programs on the host CPU, in both stages of the emulator (whole, and cut at random limits) and in KVM: all must end alike. A
 * program that does not is cut down to the instructions that it takes, and printed.
 *
 *     test_fuzz_programs [programs [first seed]]
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

#include "tests/fuzz-programs/program.h"

#define SHARDS        2u
#define REPORTS_MAX   8u
#define REPORT_BYTES  32768u
#define VECTORS       32u
#define DATA_SHIFT    6u  /* programs that share the initial memory */
#define ALARM_S       60u /* for as many programs */
#define DEFUSINGS_MAX 16u

enum verdict { SAME, DIFFERENT, DISCARDED };

/* What a child tells its parent. */
struct shard {
    uint64_t programs, compared, discarded, instructions, steps, kvm, completed, different;
    uint64_t faults[VECTORS];
    char kvm_message[256];
    unsigned report_count;
    char report[REPORTS_MAX][REPORT_BYTES];
    bool finished;
    struct program current;
};

struct child {
    struct shard *shard;
    const struct isa_forms *forms[2]; /* of 32-bit and of 64-bit code */
    struct host *host;
    struct side *emu, *kvm; /* kvm: NULL where there is none */
    bool kvm_runs_32bit;
    uint8_t data[ISA_DATA_BYTES];
    uint8_t emu_data[ISA_DATA_BYTES], emu_code[ISA_CODE_BYTES];
    struct isa_result emu_result;
    uint64_t emu_steps;
};

static struct shard *shards;
#ifdef __SANITIZE_ADDRESS__
/* The sanitizer's own memory lies where programs with odd pointers come by: the host is left out. */
#define WITH_HOST     false
#define PROGRAM_COUNT 1000
#else
#define WITH_HOST     true
#define PROGRAM_COUNT 12000
#endif

static uint64_t program_count = PROGRAM_COUNT, first_seed = 1;

/* ---- running one program on each side ---- */

/*
 * A REP string instruction that overwrites itself: the emulator makes each iteration a step, and fetches it anew; CPUs may
 * go on with the instruction that they have.
 */
static bool overwrites_repetition(const struct child *c, const struct program *p)
{
    for (unsigned i = 0; i < p->count; i++) {
        size_t at = (size_t)(p->item_address[i] - ISA_CODE);
        const uint8_t *bytes = p->items[i].bytes;
        bool rep = bytes[0] == 0xf2 || bytes[0] == 0xf3 || bytes[1] == 0xf2 || bytes[1] == 0xf3;
        if (rep && !p->items[i].removed && memcmp(p->code + at, c->emu_code + at, p->items[i].length) != 0)
            return true;
    }
    return false;
}

/*
 * A program that made itself an instruction of which the host says something else: SGDT, SIDT, SLDT, STR and SMSW, for which
 * the host's kernel answers in place of the CPU (UMIP), and what is undefined in the CPU model only.
 */
static bool ends_at_host_specific(const struct child *c, const struct program *p)
{
    uint64_t at = c->emu_result.state.rip - ISA_CODE;
    ZydisDecoder decoder;
    ZydisDecodedInstruction insn;
    if (at >= ISA_CODE_BYTES)
        return false;
    if (c->emu_result.vector == VEC_UD)
        return !isa_undefined_is_compared(c->emu_code + at, (unsigned)(ISA_CODE_BYTES - at));
    isa_init_decoder(&decoder, p->long_mode);
    if (c->emu_result.vector != VEC_GP || !ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(
                                              &decoder, NULL, c->emu_code + at, ISA_CODE_BYTES - at, &insn)))
        return false;
    switch (insn.mnemonic) {
    case ZYDIS_MNEMONIC_SGDT:
    case ZYDIS_MNEMONIC_SIDT:
    case ZYDIS_MNEMONIC_SLDT:
    case ZYDIS_MNEMONIC_STR:
    case ZYDIS_MNEMONIC_SMSW:
        return true;
    default:
        return false;
    }
}

/* The emulator comes first: it tells whether the program ends. */
static enum verdict run_emulator(struct child *c, const struct program *p, char *text, size_t size)
{
    char message[512] = "";
    side_load(c->emu, p->code, c->data);
    enum side_end end =
        side_run(c->emu, &p->in, NULL, &c->emu_result, &c->emu_steps, message, sizeof message);
    if (end == SIDE_ENDLESS)
        return DISCARDED;
    memcpy(c->emu_data, side_data(c->emu), ISA_DATA_BYTES);
    memcpy(c->emu_code, side_code(c->emu), ISA_CODE_BYTES);
    if (end == SIDE_ENDED)
        return overwrites_repetition(c, p) || ends_at_host_specific(c, p) ? DISCARDED : SAME;
    append_text(text, size, "the emulator: %s\n", message);
    return DIFFERENT;
}

static unsigned compare_memory(char *text, size_t size, const char *name, const uint8_t *a, const uint8_t *b,
                               size_t bytes)
{
    unsigned shown = 0;
    if (memcmp(a, b, bytes) == 0)
        return 0;
    for (size_t i = 0; i < bytes && shown < 16; i++)
        if (a[i] != b[i]) {
            append_text(text, size, "  %s+%#zx %02x / %02x\n", name, i, a[i], b[i]);
            shown++;
        }
    return 1;
}

/* A result and memory against the emulator's. */
static bool is_same(const struct child *c, const char *name, const struct isa_result *result,
                    const uint8_t *code, const uint8_t *data, enum maker_of_result who, char *text,
                    size_t size)
{
    char differences[REPORT_BYTES / 2] = "";
    unsigned n = compare_results(differences, sizeof differences, result, &c->emu_result, who);
    n += compare_memory(differences, sizeof differences, "data", data, c->emu_data, ISA_DATA_BYTES);
    n += compare_memory(differences, sizeof differences, "code", code, c->emu_code, ISA_CODE_BYTES);
    if (n)
        append_text(text, size, "%s / emulator:\n%s", name, differences);
    return n == 0;
}

/* One of the two runs is made by stage 1, the other by stage 2. */
static bool whole_is_translated(const struct program *p)
{
    return p->seed % 4 == 0;
}

static enum verdict run_sliced(struct child *c, const struct program *p, char *text, size_t size)
{
    struct isa_result result;
    struct isa_random r = {.s = p->seed};
    uint64_t steps;
    char message[512] = "";
    side_choose_stage(c->emu, !whole_is_translated(p));
    side_load(c->emu, p->code, c->data);
    enum side_end end = side_run(c->emu, &p->in, &r, &result, &steps, message, sizeof message);
    if (end != SIDE_ENDED) {
        append_text(text, size, "cut into slices it does not end: %s\n", message);
        return DIFFERENT;
    }
    if (steps != c->emu_steps) {
        append_text(text, size, "cut into slices it makes %llu steps instead of %llu\n",
                    (unsigned long long)steps, (unsigned long long)c->emu_steps);
        return DIFFERENT;
    }
    bool same =
        is_same(c, "in slices", &result, side_code(c->emu), side_data(c->emu), FROM_EMULATOR, text, size);
    return same ? SAME : DIFFERENT;
}

static enum verdict run_native(struct child *c, const struct program *p, char *text, size_t size)
{
    struct isa_result result;
    if (!host_run(c->host, &p->in, p->code, c->data, &result))
        _exit(1);
    bool same = is_same(c, "host", &result, host_code(c->host), host_data(c->host), FROM_HOST, text, size);
    return same ? SAME : DIFFERENT;
}

/*
 * At the first access to a page kvm_pvm may emulate the instruction, and raise #UD for one that its emulator does not know.
 * The second time the page is there.
 */
static enum side_end run_in_kvm(struct child *c, const struct program *p, struct isa_result *result,
                                char *message, size_t size)
{
    enum side_end end = SIDE_ENDED;
    uint64_t steps;
    for (unsigned i = 0; i < 2 && end == SIDE_ENDED; i++) {
        side_load(c->kvm, p->code, c->data);
        end = side_run(c->kvm, &p->in, NULL, result, &steps, message, size);
        if (result->vector != VEC_UD || c->emu_result.vector == VEC_UD)
            break;
    }
    return end;
}

static enum verdict run_kvm(struct child *c, const struct program *p, char *text, size_t size)
{
    struct isa_result result;
    char message[512] = "";
    if (run_in_kvm(c, p, &result, message, sizeof message) != SIDE_ENDED) {
        append_text(text, size, "kvm: %s\n", message);
        return DIFFERENT;
    }
    bool same = is_same(c, "kvm", &result, side_code(c->kvm), side_data(c->kvm), FROM_KVM, text, size);
    return same ? SAME : DIFFERENT;
}

static bool is_for_kvm(const struct child *c, const struct program *p)
{
    return c->kvm && p->for_kvm && (p->long_mode || c->kvm_runs_32bit);
}

/* Not every KVM can run 32-bit code under a 64-bit kernel: kvm_pvm raises #UD at its first instruction. */
static bool probe_32bit(struct child *c)
{
    struct program *p = &c->shard->current;
    struct isa_result result;
    uint64_t steps;
    char message[512] = "";
    *p = (struct program){.start = ISA_CODE, .for_kvm = true};
    side_base_state(false, &p->in);
    p->in.rip = p->start;
    p->in.gpr[GPR_RSP] = ISA_DATA + 0x1800;
    program_layout(p);
    side_load(c->kvm, p->code, c->data);
    return side_run(c->kvm, &p->in, NULL, &result, &steps, message, sizeof message) == SIDE_ENDED &&
           result.vector < 0;
}

static enum verdict check(struct child *c, const struct program *p, char *text, size_t size)
{
    side_choose_stage(c->emu, whole_is_translated(p));
    enum verdict v = run_emulator(c, p, text, size);
    if (v == SAME)
        v = run_sliced(c, p, text, size);
    if (v == SAME && WITH_HOST)
        v = run_native(c, p, text, size);
    if (v == SAME && is_for_kvm(c, p))
        v = run_kvm(c, p, text, size);
    return v;
}

/* ---- making and shrinking ---- */

/* What makes an endless program so: some branch backwards. -1: there is none. */
static int backward_branch(const struct program *p)
{
    for (unsigned i = 0; i < p->count; i++)
        if (p->items[i].kind == ITEM_BRANCH && !p->items[i].removed && p->items[i].target <= i)
            return (int)i;
    return -1;
}

/*
 * Most instructions that fault are taken out again, or hardly a program would get far; so are loops without end. What is
 * left is the program that the seed stands for.
 */
static void defuse(struct child *c, struct program *p)
{
    struct isa_random r = {.s = ~p->seed};
    side_choose_stage(c->emu, false);
    for (unsigned i = 0; i < DEFUSINGS_MAX && isa_random(&r) % 16; i++) {
        char text[1024] = "";
        enum verdict v = run_emulator(c, p, text, sizeof text);
        if (v == DIFFERENT)
            break;
        int item = v == DISCARDED ? backward_branch(p) : program_item_at(p, c->emu_result.state.rip);
        bool at_end = item >= 0 && p->items[item].bytes[0] == 0xcc;
        if (item < 0 || at_end || program_instructions(p) <= 5)
            break;
        program_remove(p, (unsigned)item);
    }
    program_layout(p);
}

static void shrink(struct child *c, struct program *p)
{
    static char text[REPORT_BYTES];
    bool progress = true;
    while (progress) {
        progress = false;
        for (unsigned i = p->count; i-- > 0;) {
            if (p->items[i].removed)
                continue;
            p->items[i].removed = true;
            program_layout(p);
            text[0] = 0;
            if (check(c, p, text, sizeof text) == DIFFERENT)
                progress = true;
            else
                p->items[i].removed = false;
        }
        program_layout(p);
    }
}

static void fill_data(struct child *c, uint64_t group)
{
    struct isa_random r = {.s = ~group};
    r.s = isa_random(&r);
    isa_fill_memory(&r, c->data, sizeof c->data);
}

/* first: the differences that were found. They may not come again: then the program stays whole. */
static void report(struct child *c, struct program *p, const char *first)
{
    struct shard *s = c->shard;
    s->different++;
    if (s->report_count == REPORTS_MAX)
        return;
    shrink(c, p);
    char *text = s->report[s->report_count++];
    program_print(p, text, REPORT_BYTES);
    if (check(c, p, text, REPORT_BYTES) != DIFFERENT)
        append_text(text, REPORT_BYTES, "not again, but before: %s", first);
}

static void run_program(struct child *c, uint64_t seed)
{
    struct shard *s = c->shard;
    struct program *p = &s->current;
    static char text[REPORT_BYTES];
    program_generate(p, c->forms, seed);
    defuse(c, p);
    text[0] = 0;
    enum verdict v = check(c, p, text, sizeof text);
    s->programs++;
    if (v == DISCARDED) {
        s->discarded++;
        return;
    }
    s->compared++;
    s->instructions += program_instructions(p);
    s->steps += c->emu_steps;
    s->kvm += is_for_kvm(c, p) ? 1u : 0u;
    if (c->emu_result.vector < 0)
        s->completed++;
    else
        s->faults[(unsigned)c->emu_result.vector % VECTORS]++;
    if (v == DIFFERENT)
        report(c, p, text);
}

/* ---- children ---- */

static void prepare(struct child *c, struct shard *shard)
{
    char message[256] = "";
    c->shard = shard;
    c->host = host_create();
    if (!c->host)
        _exit(1);
    c->forms[0] = isa_forms_create(false);
    c->forms[1] = isa_forms_create(true);
    c->emu = side_create(false, host_has_low(c->host), message, sizeof message);
    c->kvm = side_create(true, host_has_low(c->host), c->shard->kvm_message, sizeof c->shard->kvm_message);
    if (!c->forms[0] || !c->forms[1] || !c->emu)
        _exit(1);
    c->kvm_runs_32bit = c->kvm && probe_32bit(c);
}

static void run_shard(unsigned number)
{
    static struct child c;
    prepare(&c, &shards[number]);
    uint64_t group = UINT64_MAX;
    for (uint64_t i = number; i < program_count; i += SHARDS) {
        uint64_t seed = first_seed + i;
        if (seed >> DATA_SHIFT != group) {
            group = seed >> DATA_SHIFT;
            fill_data(&c, group);
            alarm(ALARM_S);
        }
        run_program(&c, seed);
    }
    side_destroy(c.emu);
    if (c.kvm)
        side_destroy(c.kvm);
    c.shard->finished = true;
    _exit(0);
}

static bool wait_for(unsigned number, pid_t pid)
{
    static char text[REPORT_BYTES];
    int status = 0;
    waitpid(pid, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && shards[number].finished)
        return true;
    text[0] = 0;
    program_print(&shards[number].current, text, sizeof text);
    printf("the process that ran programs ended with status %#x in\n%s", (unsigned)status, text);
    return false;
}

static bool print_summary(double seconds)
{
    struct shard sum = {0};
    for (unsigned i = 0; i < SHARDS; i++) {
        const struct shard *s = &shards[i];
        sum.programs += s->programs;
        sum.compared += s->compared;
        sum.discarded += s->discarded;
        sum.instructions += s->instructions;
        sum.steps += s->steps;
        sum.kvm += s->kvm;
        sum.completed += s->completed;
        sum.different += s->different;
        for (unsigned v = 0; v < VECTORS; v++)
            sum.faults[v] += s->faults[v];
        for (unsigned k = 0; k < s->report_count; k++)
            printf("%s\n", s->report[k]);
    }
    if (shards[0].kvm_message[0])
        printf("without KVM: %s\n", shards[0].kvm_message);
    printf("%llu programs in %.1f s (%.0f/s): %llu compared (%llu in KVM too), %llu endless; %.1f "
           "instructions and "
           "%.1f steps each; %llu completed",
           (unsigned long long)sum.programs, seconds, (double)sum.programs / seconds,
           (unsigned long long)sum.compared, (unsigned long long)sum.kvm, (unsigned long long)sum.discarded,
           (double)sum.instructions / (double)(sum.compared ? sum.compared : 1),
           (double)sum.steps / (double)(sum.compared ? sum.compared : 1), (unsigned long long)sum.completed);
    for (unsigned v = 0; v < VECTORS; v++)
        if (sum.faults[v])
            printf(", %llu with vector %u", (unsigned long long)sum.faults[v], v);
    printf("; %llu differ\n", (unsigned long long)sum.different);
    return sum.different == 0 && sum.compared * 10 >= program_count * 8;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void make_shards(void)
{
    shards = mmap(NULL, SHARDS * sizeof *shards, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(shards != MAP_FAILED);
    fflush(NULL);
}

/* Runs in a child: its exit status is the number of programs that differ. */
static void run_regressions(void)
{
    static struct child c;
    static char text[REPORT_BYTES];
    int different = 0;
    const char *what;
    prepare(&c, &shards[0]);
    fill_data(&c, 0);
    for (unsigned i = 0; (what = program_regression(&c.shard->current, i)); i++) {
        text[0] = 0;
        if (check(&c, &c.shard->current, text, sizeof text) == SAME)
            continue;
        different++;
        printf("%s:\n%s", what, text);
    }
    fflush(stdout);
    c.shard->finished = true;
    _exit(different);
}

static void what_once_differed_does_not_any_more(void **state)
{
    (void)state;
    make_shards();
    pid_t child = fork();
    if (child == 0)
        run_regressions();
    bool good = wait_for(0, child);
    munmap(shards, SHARDS * sizeof *shards);
    assert_true(good);
}

static void random_programs_end_alike_everywhere(void **state)
{
    (void)state;
    pid_t children[SHARDS];
    bool good = true;
    double start = now();
    make_shards();
    for (unsigned i = 0; i < SHARDS; i++) {
        children[i] = fork();
        if (children[i] == 0)
            run_shard(i);
    }
    for (unsigned i = 0; i < SHARDS; i++)
        good = wait_for(i, children[i]) && good;
    good = print_summary(now() - start) && good;
    munmap(shards, SHARDS * sizeof *shards);
    assert_true(good);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        program_count = strtoull(argv[1], NULL, 0);
    if (argc > 2)
        first_seed = strtoull(argv[2], NULL, 0);
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_once_differed_does_not_any_more),
                                       cmocka_unit_test(random_programs_end_alike_everywhere)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
