#include "tools/bench/process.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TAIL_BYTES     400u /* of standard error that are kept for a message */
#define NO_SUCH_STATUS 127

extern char **environ;

struct watch {
    pid_t pid;
    int out, err; /* read ends */
    double start_s;
    char line[64]; /* the start of the line at hand */
    size_t line_length;
    char tail[TAIL_BYTES];
    size_t tail_length;
    struct process_times *times;
};

static double seconds(clockid_t clock)
{
    struct timespec t;
    if (clock_gettime(clock, &t) != 0)
        return NAN;
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static struct moment moment_now(const struct watch *w)
{
    clockid_t clock;
    struct moment m = {.wall_s = seconds(CLOCK_MONOTONIC) - w->start_s, .cpu_s = NAN};
    if (clock_getcpuclockid(w->pid, &clock) == 0)
        m.cpu_s = seconds(clock);
    return m;
}

bool process_exists(const char *name)
{
    char path[512];
    const char *list = getenv("PATH");
    if (strchr(name, '/'))
        return access(name, X_OK) == 0;
    while (list && *list) {
        size_t length = strcspn(list, ":");
        snprintf(path, sizeof(path), "%.*s/%s", (int)length, list, name);
        if (access(path, X_OK) == 0)
            return true;
        list += length + (list[length] == ':');
    }
    return false;
}

/* ---- the child ---- */

static void use_one_cpu(void)
{
    cpu_set_t all, one;
    CPU_ZERO(&one);
    if (sched_getaffinity(0, sizeof(all), &all) != 0)
        return;
    size_t last = CPU_SETSIZE - 1;
    while (last > 0 && !CPU_ISSET(last, &all))
        last--;
    CPU_SET(last, &one);
    (void)sched_setaffinity(0, sizeof(one), &one);
}

static void become(const struct process *p, int out, int err)
{
    int null = open("/dev/null", O_RDONLY);
    if (null < 0 || dup2(null, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0)
        _exit(NO_SUCH_STATUS);
    if (p->one_cpu)
        use_one_cpu();
    setpgid(0, 0);
    if (p->environment)
        environ = (char **)(uintptr_t)p->environment;
    execvp(p->arguments[0], (char *const *)(uintptr_t)p->arguments);
    _exit(NO_SUCH_STATUS);
}

static int start(const struct process *p, struct watch *w, struct error *err)
{
    int out[2], errors[2];
    if (pipe2(out, O_CLOEXEC) < 0)
        return error_errno(err, -errno, "make a pipe");
    if (pipe2(errors, O_CLOEXEC) < 0) {
        close(out[0]), close(out[1]);
        return error_errno(err, -errno, "make a pipe");
    }
    w->start_s = seconds(CLOCK_MONOTONIC);
    w->pid = fork();
    if (w->pid == 0)
        become(p, out[1], errors[1]);
    int failure = errno;
    close(out[1]), close(errors[1]);
    w->out = out[0];
    w->err = errors[0];
    if (w->pid > 0) {
        (void)setpgid(w->pid, w->pid);
        return 0;
    }
    close(out[0]), close(errors[0]);
    return error_errno(err, -failure, "start %s", p->arguments[0]);
}

/* ---- what it prints ---- */

static void line_is_complete(struct watch *w)
{
    w->line[w->line_length] = '\0';
    w->line_length = 0;
    if (strcmp(w->line, MARK_BEGIN) == 0)
        w->times->begin = moment_now(w);
    else if (strcmp(w->line, MARK_END) == 0)
        w->times->end = moment_now(w);
}

static void take_output(struct watch *w, const char *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (bytes[i] == '\n')
            line_is_complete(w);
        else if (bytes[i] != '\r' && w->line_length + 1 < sizeof(w->line))
            w->line[w->line_length++] = bytes[i];
    }
}

static void take_errors(struct watch *w, const char *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (w->tail_length + 1 == sizeof(w->tail)) {
            memmove(w->tail, w->tail + sizeof(w->tail) / 2, sizeof(w->tail) / 2);
            w->tail_length -= sizeof(w->tail) / 2;
        }
        w->tail[w->tail_length++] = bytes[i];
    }
    w->tail[w->tail_length] = '\0';
}

/* Reads until both pipes are closed. False when the time is over. */
static bool read_all(struct watch *w, unsigned timeout_s)
{
    char bytes[16384];
    struct pollfd fds[2] = {{.fd = w->out, .events = POLLIN}, {.fd = w->err, .events = POLLIN}};
    while (fds[0].fd >= 0 || fds[1].fd >= 0) {
        double left = (double)timeout_s - (seconds(CLOCK_MONOTONIC) - w->start_s);
        if (left <= 0)
            return false;
        if (poll(fds, 2, (int)(left * 1e3) + 1) < 0 && errno != EINTR)
            return false;
        for (unsigned i = 0; i < 2; i++) {
            if (fds[i].fd < 0 || !fds[i].revents)
                continue;
            ssize_t n = read(fds[i].fd, bytes, sizeof(bytes));
            if (n <= 0)
                fds[i].fd = -1;
            else if (i == 0)
                take_output(w, bytes, (size_t)n);
            else
                take_errors(w, bytes, (size_t)n);
        }
    }
    return true;
}

int process_run(const struct process *p, struct process_times *out, struct error *err)
{
    static const struct moment never = {NAN, NAN};
    struct watch w = {.times = out};
    struct rusage usage;
    int status = 0;
    *out = (struct process_times){never, never, never};
    int result = start(p, &w, err);
    if (result < 0)
        return result;
    bool in_time = read_all(&w, p->timeout_s);
    if (!in_time)
        kill(-w.pid, SIGKILL);
    pid_t ended;
    do
        ended = wait4(w.pid, &status, 0, &usage);
    while (ended < 0 && errno == EINTR);
    out->total.wall_s = seconds(CLOCK_MONOTONIC) - w.start_s;
    out->total.cpu_s = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    close(w.out), close(w.err);
    if (!in_time)
        return error_set(err, -ETIMEDOUT, "%s did not end within %u s", p->arguments[0], p->timeout_s);
    if (ended == w.pid && WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == NO_SUCH_STATUS)
        return error_set(err, -ENOENT, "%s: cannot be run", p->arguments[0]);
    return error_set(err, -EIO, "%s failed (wait status 0x%x): %s", p->arguments[0], (unsigned)status,
                     w.tail);
}
