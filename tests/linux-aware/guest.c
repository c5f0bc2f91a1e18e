/*
 * What runs in the guest, and tells on the console what the debugger should find:
 *   threads          a process with two threads besides, all asleep
 *   ps               all tasks, from /proc
 *   kallsyms         how many symbols the kernel itself has, and a sum over their addresses and names
 *   pair             two processes that call getpriority(2) in turns, nobody else does
 *   spin             counts in user mode for a while
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TURNS = 4 };

static int ready[2];

static void *sleeper(void *name)
{
    prctl(PR_SET_NAME, name);
    printf("thread %s %ld\n", (const char *)name, syscall(SYS_gettid));
    fflush(stdout);
    if (write(ready[1], "x", 1) != 1)
        exit(1);
    for (;;)
        pause();
}

static int threads(void)
{
    pthread_t thread;
    char bytes[2];
    if (pipe(ready) || fork()) /* the parent waits until all are asleep, or nearly */
        return read(ready[0], bytes, 1) == 1 && read(ready[0], bytes, 1) == 1 ? 0 : 1;
    prctl(PR_SET_NAME, "threaded");
    if (pthread_create(&thread, NULL, sleeper, "first") || pthread_create(&thread, NULL, sleeper, "second"))
        return 1;
    for (;;)
        pause();
}

static void show_task(const char *process, const char *task)
{
    char path[600], line[600] = "";
    unsigned parent = 0;
    char state = '?';
    snprintf(path, sizeof(path), "/proc/%s/task/%s/stat", process, task);
    FILE *f = fopen(path, "r");
    if (!f)
        return;
    if (fgets(line, sizeof(line), f)) {
        char *open = strchr(line, '('), *close = strrchr(line, ')');
        if (open && close && sscanf(close + 1, " %c %u", &state, &parent) == 2) {
            *close = '\0';
            printf("task %s %s %u %c %s\n", task, process, parent, state, open + 1);
        }
    }
    fclose(f);
}

static int ps(void)
{
    DIR *all = opendir("/proc");
    struct dirent *process, *task;
    while (all && (process = readdir(all))) {
        char path[300];
        snprintf(path, sizeof(path), "/proc/%s/task", process->d_name);
        DIR *tasks = strspn(process->d_name, "0123456789") == strlen(process->d_name) ? opendir(path) : NULL;
        while (tasks && (task = readdir(tasks)))
            if (task->d_name[0] != '.')
                show_task(process->d_name, task->d_name);
        if (tasks)
            closedir(tasks);
    }
    return 0;
}

static int kallsyms(void)
{
    FILE *f = fopen("/proc/kallsyms", "r");
    char line[2048];
    unsigned long count = 0;
    uint64_t sum = 0;
    while (f && fgets(line, sizeof(line), f)) {
        uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
        if (strchr(line, '['))
            continue;
        line[strcspn(line, "\n")] = '\0';
        memmove(line + 16, line + 18, strlen(line + 18) + 1); /* without the type */
        for (const char *c = line; *c; c++)
            hash = (hash ^ (uint8_t)*c) * 0x100000001b3u;
        sum += hash;
        count++;
    }
    printf("kallsyms %lu %016lx\n", count, sum);
    return 0;
}

static void take_turns(int from, int to)
{
    char byte;
    for (int i = 0; i < TURNS; i++)
        if (read(from, &byte, 1) != 1 || syscall(SYS_getpriority, PRIO_PROCESS, 0) < 0 ||
            write(to, "x", 1) != 1)
            exit(1);
    exit(0);
}

static int pair(void)
{
    int ping[2], pong[2];
    if (pipe(ping) || pipe(pong))
        return 1;
    pid_t a = fork();
    if (a == 0) {
        prctl(PR_SET_NAME, "ping");
        take_turns(ping[0], pong[1]);
    }
    pid_t b = fork();
    if (b == 0) {
        prctl(PR_SET_NAME, "pong");
        take_turns(pong[0], ping[1]);
    }
    usleep(20000); /* both run, have their names and wait */
    printf("PAIR %d %d\n", a, b);
    fflush(stdout);
    if (write(ping[1], "x", 1) != 1)
        return 1;
    while (wait(NULL) > 0)
        ;
    return 0;
}

static int spin(void)
{
    printf("SPIN %d\n", getpid());
    fflush(stdout);
    for (volatile unsigned i = 0; i < 5000000; i++)
        ;
    return 0;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(void);
    } all[] = {{"threads", threads}, {"ps", ps}, {"kallsyms", kallsyms}, {"pair", pair}, {"spin", spin}};
    for (unsigned i = 0; argc == 2 && i < sizeof(all) / sizeof(all[0]); i++)
        if (strcmp(argv[1], all[i].name) == 0)
            return all[i].run();
    return 2;
}
