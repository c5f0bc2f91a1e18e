/*
 * dejavm-bench: what dejavm's speed is measured with.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tools/bench/commands.h"

int bench_bad_usage(const char *format, const char *value)
{
    fprintf(stderr, "dejavm-bench: ");
    fprintf(stderr, format, value);
    fputc('\n', stderr);
    return BENCH_USAGE;
}

bool bench_parse_number(const char *text, unsigned max, unsigned *out)
{
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (errno || *end || end == text || value < 1 || value > max)
        return false;
    *out = (unsigned)value;
    return true;
}

void bench_host_cpu_name(char *out, size_t size)
{
    char line[256];
    snprintf(out, size, "unknown");
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof(line), f)) {
        char *value = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && value) {
            value[strcspn(value, "\n")] = '\0';
            snprintf(out, size, "%s", value + 2);
            break;
        }
    }
    if (f)
        fclose(f);
}

void bench_dejavm_path(char *out, size_t size)
{
    char self[4000];
    ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
    self[length < 0 ? 0 : length] = '\0';
    char *slash = strrchr(self, '/');
    if (slash)
        *slash = '\0';
    snprintf(out, size, "%s/dejavm", slash ? self : ".");
}

void bench_date(char *out, size_t size)
{
    struct tm tm;
    time_t now = time(NULL);
    if (!gmtime_r(&now, &tm) || !strftime(out, size, "%Y-%m-%d", &tm))
        snprintf(out, size, "unknown");
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "linux") == 0)
        return bench_linux_command(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "growth") == 0)
        return bench_growth_command(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "points") == 0)
        return bench_points_command(argc - 1, argv + 1);
    return bench_loops_command(argc, argv);
}
