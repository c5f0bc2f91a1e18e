#include "tools/interrupt.h"
#include "gdbstub/server.h"
#include "record/record.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

static _Atomic(struct recorder *) recorder_to_stop;
static _Atomic(struct gdb_server *) server_to_stop;
static atomic_int server_wake_fd;
static atomic_uint count;
static atomic_int last_signal;

static void stop_server(void)
{
    struct gdb_server *server = atomic_load(&server_to_stop);
    const uint64_t one = 1;
    if (!server)
        return;
    gdb_server_stop(server);
    ssize_t ignored = write(atomic_load(&server_wake_fd), &one, sizeof(one));
    (void)ignored;
}

static void on_signal(int number)
{
    int saved_errno = errno;
    struct recorder *recorder = atomic_load(&recorder_to_stop);
    atomic_fetch_add(&count, 1);
    atomic_store(&last_signal, number);
    if (recorder)
        recorder_stop(recorder);
    stop_server();
    errno = saved_errno;
}

void interrupt_setup(void)
{
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
}

void interrupt_catch(void)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        struct sigaction old, action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
        sigemptyset(&action.sa_mask);
        /* Ignored by the parent (nohup): stays so. SIGINT is ignored in a shell's background jobs too. */
        if (sigaction(numbers[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            sigaction(numbers[i], &action, NULL);
    }
}

unsigned interrupt_count(void)
{
    return atomic_load(&count);
}

int interrupt_signal(void)
{
    return atomic_load(&last_signal);
}

void interrupt_stops_recorder(struct recorder *recorder)
{
    atomic_store(&recorder_to_stop, recorder);
    /* A signal that came just before, while there was nothing to stop, counts too. */
    if (recorder && atomic_load(&count) > 0)
        recorder_stop(recorder);
}

void interrupt_stops_server(struct gdb_server *server, int wake_fd)
{
    atomic_store(&server_wake_fd, wake_fd);
    atomic_store(&server_to_stop, server);
    if (server && atomic_load(&count) > 0)
        stop_server();
}

void interrupt_die(void)
{
    int number = interrupt_signal();
    signal(number, SIG_DFL);
    raise(number);
    _Exit(1);
}
