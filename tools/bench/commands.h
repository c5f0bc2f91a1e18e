/* What dejavm-bench measures, one function per subcommand. Each parses its own options and returns the exit status. */
#ifndef DEJAVM_TOOLS_BENCH_COMMANDS_H
#define DEJAVM_TOOLS_BENCH_COMMANDS_H

#include <stdbool.h>
#include <stddef.h>

#define BENCH_USAGE 2

int bench_loops_command(int argc, char **argv);  /* bench_loops.c: small loops of machine code */
int bench_linux_command(int argc, char **argv);  /* bench_linux.c: a Linux guest, next to QEMU */
int bench_growth_command(int argc, char **argv); /* bench_growth.c: does time per step grow? */
int bench_points_command(int argc, char **argv); /* bench_points.c: what points cost that are not hit */

/* bench.c */
/* "dejavm-bench: ..." on standard error; format has one %s. Returns BENCH_USAGE. */
int bench_bad_usage(const char *format, const char *value);
/* A whole number from 1 to max. */
bool bench_parse_number(const char *text, unsigned max, unsigned *out);
void bench_host_cpu_name(char *out, size_t size);
/* The program dejavm that lies next to this one. */
void bench_dejavm_path(char *out, size_t size);
/* YYYY-MM-DD of today, UTC. */
void bench_date(char *out, size_t size);

#endif
