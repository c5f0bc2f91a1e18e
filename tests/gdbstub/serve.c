/*
 * serve LISTEN MODE IMAGE [live] [clients N] [timeout MS] [i386]: serves the tests' debug target to clients, one after the other.
 * LISTEN is what gdb_listen takes, or "-" for one client on standard input and output. Tells what happens on
 * standard output ("-": standard error), a line for each thing.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/gdbstub/walk.h"

struct serve {
    FILE *log;
    struct gdb_server *server;
    struct walk *walk;
};

/* For the signal handler, and for on_run, which has no context of its own. */
static struct serve serve;
static int stop_pipe[2];

static void say(const char *text)
{
    fprintf(serve.log, "%s\n", text);
    fflush(serve.log);
}

static void terminate(int signal)
{
    (void)signal;
    gdb_server_stop(serve.server);
    ssize_t ignored = write(stop_pipe[1], "", 1);
    (void)ignored;
}

static void on_run(struct walk *w)
{
    (void)w;
    say("running");
}

static enum walk_mode mode_of(const char *name)
{
    return strcmp(name, "16") == 0 ? WALK_16 : strcmp(name, "32") == 0 ? WALK_32 : WALK_64;
}

static void serve_one(int in_fd, int out_fd)
{
    static const char *const ends[] = {[GDB_END_DETACHED] = "end: detached",
                                       [GDB_END_KILLED] = "end: killed",
                                       [GDB_END_DISCONNECTED] = "end: disconnected",
                                       [GDB_END_STOPPED] = "end: stopped"};
    struct error err = {0};
    enum gdb_end end;
    if (gdb_server_serve(serve.server, in_fd, out_fd, &end, &err) != 0)
        say(err.message);
    else
        say(ends[end]);
    if (serve.walk->point_count > 0)
        say("it left points behind");
}

static int serve_socket(const char *address, unsigned long clients)
{
    struct error err = {0};
    char name[256];
    int listener = gdb_listen(address, name, sizeof(name), &err);
    if (listener < 0) {
        say(err.message);
        return 1;
    }
    fprintf(serve.log, "listening on %s\n", name);
    fflush(serve.log);
    for (unsigned long i = 0; i < clients; i++) {
        int fd = gdb_accept(listener, stop_pipe[0], &err);
        if (fd < 0) {
            say(err.message);
            break;
        }
        serve_one(fd, fd);
        close(fd);
    }
    close(listener);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    unsigned long clients = 1;
    unsigned timeout_ms = 0;
    bool live = false, spinning = false;
    enum gdb_description description = GDB_DESCRIPTION_AUTO;
    for (int i = 4; i < argc; i++) {
        if (strcmp(argv[i], "live") == 0)
            live = true;
        else if (strcmp(argv[i], "spin") == 0)
            spinning = true;
        else if (strcmp(argv[i], "i386") == 0)
            description = GDB_DESCRIPTION_I386;
        else if (strcmp(argv[i], "x86-64") == 0)
            description = GDB_DESCRIPTION_X86_64;
        else if (strcmp(argv[i], "clients") == 0 && i + 1 < argc)
            clients = strtoul(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "timeout") == 0 && i + 1 < argc)
            timeout_ms = (unsigned)strtoul(argv[++i], NULL, 10);
        else
            return 2;
    }
    bool standard = strcmp(argv[1], "-") == 0;
    serve.log = standard ? stderr : stdout;
    struct walk *w = walk_create_file(argv[3], mode_of(argv[2]), live);
    struct error err = {0};
    serve.walk = w;
    w->on_run = on_run;
    w->spin = spinning;
    if (pipe(stop_pipe) != 0 || gdb_server_create(&serve.server, &w->target, &err) != 0)
        return 1;
    gdb_server_describe(serve.server, description);
    if (timeout_ms)
        gdb_server_set_timeouts(serve.server, timeout_ms, timeout_ms);
    signal(SIGTERM, terminate);
    int status = 0;
    if (standard)
        serve_one(STDIN_FILENO, STDOUT_FILENO);
    else
        status = serve_socket(argv[1], clients);
    signal(SIGTERM, SIG_IGN);
    gdb_server_destroy(serve.server);
    walk_destroy(w);
    return status;
}
