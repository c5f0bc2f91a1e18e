/* The figures of one work: a table with ratios, and JSON. */
#include <math.h>
#include <string.h>

#include "core/base/types.h"
#include "tools/bench/bench_linux.h"

static const char *const column_names[COLUMN_COUNT] = {"plain", "record", "replay", "seal", "verify"};

static void row_name(unsigned row, char *out, size_t size)
{
    if (row < ROW_DEJAVM)
        snprintf(out, size, "%s", linux_machines[row].name);
    else if (row < ROW_HOST)
        snprintf(out, size, "dejavm %s", linux_dejavm_machines[row - ROW_DEJAVM]);
    else
        snprintf(out, size, "this host itself");
}

static double cell_median(const struct cell *c, const double *values)
{
    double copy[RUNS_MAX];
    memcpy(copy, values, c->count * sizeof(*copy));
    return sample_median(copy, c->count);
}

static double shown(const struct bench_linux *b, const struct cell *c)
{
    return cell_median(c, b->cpu ? c->cpu : c->wall);
}

/* The best median of some rows in one of the columns. */
static double best_of(const struct bench_linux *b, const struct result *r, unsigned from, unsigned to,
                      enum column column)
{
    double best = NAN;
    for (unsigned i = from; i < to; i++)
        best = fmin(best, shown(b, &r->cell[i][column])); /* fmin: a number rather than NAN */
    return best;
}

static void print_ratio(const char *what, double a, double b)
{
    if (!isnan(a) && !isnan(b) && b > 0)
        printf("    %-62s %8.2f\n", what, a / b);
}

static void print_ratios(const struct bench_linux *b, const struct work *work, const struct result *r)
{
    const struct cell *d = r->cell[ROW_DEJAVM];
    double record = best_of(b, r, ROW_DEJAVM, ROW_HOST, RECORD);
    double replay = best_of(b, r, ROW_DEJAVM, ROW_HOST, REPLAY);
    double host = shown(b, &r->cell[ROW_HOST][PLAIN]);
    print_ratio("QEMU's best rr=record / dejavm's best record", best_of(b, r, 0, ROW_DEJAVM, RECORD), record);
    print_ratio("QEMU's best rr=replay / dejavm's best replay", best_of(b, r, 0, ROW_DEJAVM, REPLAY), replay);
    print_ratio("QEMU's best plain run / dejavm's best record", best_of(b, r, 0, ROW_DEJAVM, PLAIN), record);
    print_ratio("dejavm's best record / the host itself", record, host);
    print_ratio("dejavm's best replay / the host itself", replay, host);
    double whole = cell_median(&d[REPLAY], b->cpu ? d[REPLAY].whole_cpu : d[REPLAY].whole_wall);
    if (work->boot) {
        print_ratio("minimal: sealing / replay, both from start to exit", shown(b, &d[SEAL]), whole);
        print_ratio("minimal: verifying / replay, both from start to exit", shown(b, &d[VERIFY]), whole);
    }
}

static void print_row(const struct bench_linux *b, const struct result *r, unsigned row)
{
    char name[64];
    row_name(row, name, sizeof(name));
    printf("    %-24s", name);
    for (unsigned i = 0; i < COLUMN_COUNT; i++) {
        const struct cell *c = &r->cell[row][i];
        if (c->count)
            printf(" %8.3f", shown(b, c));
        else
            printf(" %8s", c->failed ? "failed" : "");
    }
    printf("\n");
    for (unsigned i = 0; i < COLUMN_COUNT; i++)
        if (r->cell[row][i].failed)
            printf("      %s failed %u times: %s\n", column_names[i], r->cell[row][i].failed,
                   r->cell[row][i].why);
}

void linux_print_result(const struct bench_linux *b, const struct work *work, const struct result *r)
{
    printf("%s: %s; %ss, medians of %u runs\n    %-24s", work->name, work->what, b->cpu ? "CPU " : "",
           b->runs, "");
    for (unsigned i = 0; i < COLUMN_COUNT; i++)
        printf(" %8s", column_names[i]);
    printf("\n");
    for (unsigned i = 0; i < ROW_COUNT; i++)
        if (i < ROW_DEJAVM ? b->have_qemu : i < ROW_HOST || !work->boot)
            print_row(b, r, i);
    print_ratios(b, work, r);
    for (unsigned i = 0; i < DEJAVM_MACHINE_COUNT; i++) {
        const struct trace_sizes *t = &r->trace[i];
        printf("    dejavm %s: %llu million steps; trace: events %.1f KiB, image %.1f MiB, as recorded %.1f "
               "MiB, "
               "sealed %.1f MiB\n",
               linux_dejavm_machines[i], (unsigned long long)(t->steps / 1000000),
               (double)t->event_bytes / 1024, (double)t->image_bytes / 1048576,
               (double)t->recorded_bytes / 1048576, (double)t->sealed_bytes / 1048576);
    }
    for (unsigned i = 0; b->have_qemu && i < MACHINE_COUNT; i++)
        printf("    log of %s: %.1f KiB\n", linux_machines[i].name, (double)r->rr_log_bytes[i] / 1024);
    fflush(stdout);
}

static void json_us(struct json *j, const char *key, double seconds)
{
    if (isnan(seconds))
        json_null(j, key);
    else
        json_u64(j, key, (uint64_t)(seconds * 1e6 + 0.5));
}

static void json_cell(struct json *j, unsigned row, unsigned column, const struct cell *c)
{
    char name[64];
    row_name(row, name, sizeof(name));
    json_object(j, NULL);
    json_string(j, "who", name);
    json_string(j, "run", column_names[column]);
    json_us(j, "wall_us", cell_median(c, c->wall));
    json_us(j, "cpu_us", cell_median(c, c->cpu));
    json_us(j, "whole_wall_us", cell_median(c, c->whole_wall));
    json_us(j, "whole_cpu_us", cell_median(c, c->whole_cpu));
    json_u64(j, "failed", c->failed);
    if (c->failed)
        json_text(j, "why", (const uint8_t *)c->why, strlen(c->why));
    json_array_line(j, "all_wall_us");
    for (unsigned i = 0; i < c->count; i++)
        json_us(j, NULL, c->wall[i]);
    json_close_array(j);
    json_close_object(j);
}

void linux_json_work(struct json *j, const struct work *work, const struct result *r)
{
    json_object(j, NULL);
    json_string(j, "name", work->name);
    json_string(j, "what", work->what);
    json_array(j, "traces");
    for (unsigned i = 0; i < DEJAVM_MACHINE_COUNT; i++) {
        const struct trace_sizes *t = &r->trace[i];
        json_object_line(j, NULL);
        json_string(j, "machine", linux_dejavm_machines[i]);
        json_u64(j, "steps", t->steps);
        json_u64(j, "recorded_bytes", t->recorded_bytes);
        json_u64(j, "sealed_bytes", t->sealed_bytes);
        json_u64(j, "event_bytes", t->event_bytes);
        json_u64(j, "image_bytes", t->image_bytes);
        json_close_object(j);
    }
    json_close_array(j);
    json_array(j, "runs");
    for (unsigned row = 0; row < ROW_COUNT; row++)
        for (unsigned column = 0; column < COLUMN_COUNT; column++)
            if (r->cell[row][column].count || r->cell[row][column].failed)
                json_cell(j, row, column, &r->cell[row][column]);
    json_close_array(j);
    json_array(j, "rr_logs");
    for (unsigned i = 0; i < MACHINE_COUNT; i++) {
        json_object_line(j, NULL);
        json_string(j, "who", linux_machines[i].name);
        json_u64(j, "bytes", r->rr_log_bytes[i]);
        json_close_object(j);
    }
    json_close_array(j);
    json_close_object(j);
}
