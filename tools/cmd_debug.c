/* dejavm debug */
#include "tools/commands.h"
#include "tools/debug_session.h"
#include "tools/debug_symbols.h"
#include "tools/interrupt.h"
#include "tools/session.h"
#include "tools/status.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* A socket's path has room for 107 characters: what is longer than this before our own names is not used. */
enum { FOLDER_BYTES = 96, PATH_BYTES = 160, IMAGE_NAME_BYTES = 48 };

/* The private folder of a session: socket, script, and the guest's image. */
struct folder {
    char path[FOLDER_BYTES];
    char socket[PATH_BYTES], script[PATH_BYTES], image[PATH_BYTES], modules[PATH_BYTES]; /* "": not there */
};

static int folder_create(struct folder *f, struct error *err)
{
    static const char pattern[] = "dejavm-XXXXXX";
    const char *parent = getenv("TMPDIR");
    *f = (struct folder){0};
    if (!parent || parent[0] != '/' || strlen(parent) + sizeof(pattern) >= FOLDER_BYTES - 1)
        parent = "/tmp";
    snprintf(f->path, sizeof(f->path), "%s/%s", parent, pattern);
    if (mkdtemp(f->path))
        return 0;
    int code = error_errno(err, -errno, "create a folder in %s", parent);
    f->path[0] = '\0';
    return code;
}

static void folder_remove(struct folder *f)
{
    const char *const files[] = {f->socket, f->script, f->image, f->modules};
    for (size_t i = 0; i < ARRAY_LEN(files); i++)
        if (files[i][0])
            unlink(files[i]);
    if (f->path[0])
        rmdir(f->path);
}

static int write_file(const char *path, const void *data, size_t length, struct error *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_errno(err, -errno, "%s", path);
    int code = 0;
    for (size_t done = 0; code == 0 && done < length;) {
        ssize_t n = write(fd, (const uint8_t *)data + done, length - done);
        if (n >= 0)
            done += (size_t)n;
        else if (errno != EINTR)
            code = error_errno(err, -errno, "%s", path);
    }
    if (close(fd) && code == 0)
        code = error_errno(err, -errno, "%s", path);
    return code;
}

/* ---- the guest's image ---- */

static bool is_elf(const struct buffer *image)
{
    return image->length > 5 && memcmp(image->data, "\177ELF", 4) == 0;
}

/* The guest's file name as the trace has it, without what a file name of ours should not have. */
static void image_name(const char *guest_path, char out[IMAGE_NAME_BYTES])
{
    const char *slash = strrchr(guest_path, '/');
    size_t used = 0;
    for (const char *p = slash ? slash + 1 : guest_path; *p && used < IMAGE_NAME_BYTES - 1; p++) {
        bool good = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') ||
                    *p == '_' || (used > 0 && (*p == '.' || *p == '-'));
        out[used++] = good ? *p : '_';
    }
    out[used] = '\0';
    if (used == 0 || strcmp(out, "gdb") == 0 || strcmp(out, "commands") == 0 || strcmp(out, "modules") == 0)
        snprintf(out, IMAGE_NAME_BYTES, "guest");
}

/* GDB takes the machine from the ELF file: the server has to say the same, whatever mode the vCPU is in. */
static void describe_as(struct gdb_server *server, const struct buffer *image)
{
    enum { CLASS = 4, CLASS_64 = 2 };
    if (image->data[CLASS] == CLASS_64)
        gdb_server_describe(server, GDB_DESCRIPTION_X86_64);
}

static int store_image(struct folder *f, const struct debug_session *s, struct error *err)
{
    struct buffer image = {0};
    char name[IMAGE_NAME_BYTES];
    int code = trace_reader_image(s->target->reader, &image, err);
    bool kernel = s->target->kernel->guest != NULL;
    bool of_use = !kernel || debug_symbols_in_image(s->target);
    if (code == 0 && of_use && is_elf(&image)) {
        image_name(trace_reader_info(s->target->reader)->meta.guest_path, name);
        snprintf(f->image, sizeof(f->image), "%s/%s", f->path, name);
        code = write_file(f->image, image.data, image.length, err);
        describe_as(s->server, &image);
    }
    buffer_free(&image);
    return code;
}

/* Of a Linux guest, the symbols in its memory: they are the program unless there is a better one. */
static int store_symbols(struct folder *f, const struct debug_session *s, const struct arguments *arguments,
                         struct error *err)
{
    if (!s->target->kernel->guest)
        return 0;
    bool with_kernel = !debug_symbols_have_kernel(s->target);
    char *path = with_kernel ? f->image : f->modules;
    snprintf(path, PATH_BYTES, "%s/%s", f->path, with_kernel ? "kernel" : "modules");
    gdb_server_describe(s->server, GDB_DESCRIPTION_X86_64);
    return debug_symbols_write(s->target, arguments, path, err);
}

/* ---- the script ---- */

static int store_script(struct folder *f, const struct debug_session *s, const struct arguments *arguments,
                        struct error *err)
{
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    if (!out)
        return error_set(err, -ENOMEM, "out of memory");
    fputs(debug_script, out);
    int code = debug_symbols_put(out, s->target, arguments, f->image[0] != '\0', err);
    if (f->modules[0])
        fprintf(out, "add-symbol-file %s -o 0\n", f->modules);
    fprintf(out,
            "echo %s registers and memory can be read, not changed. \"help goto\" and "
            "\"monitor "
            "help\" say how to move.\\n\n"
            "target remote %s\n",
            s->live ? "This guest is being recorded:" : "This is a recording:", f->socket);
    if (fclose(out) && code == 0)
        code = error_set(err, -ENOMEM, "out of memory");
    snprintf(f->script, sizeof(f->script), "%s/commands", f->path);
    if (code == 0)
        code = write_file(f->script, text, length, err);
    free(text);
    return code;
}

/* ---- GDB ---- */

static int gdb_spawn(pid_t *pid, const char *program, const struct folder *f,
                     const struct arguments *arguments, struct error *err)
{
    posix_spawnattr_t attributes;
    sigset_t defaults;
    char *const first[] = {(char *)(uintptr_t)program, (char *)"-q", (char *)"-x",
                           (char *)(uintptr_t)f->script};
    char **argv = calloc(ARRAY_LEN(first) + arguments->rest_count + 2, sizeof(*argv));
    if (!argv)
        return error_set(err, -ENOMEM, "out of memory");
    size_t count = ARRAY_LEN(first);
    memcpy(argv, first, sizeof(first));
    for (size_t i = 0; i < arguments->rest_count; i++)
        argv[count++] = arguments->rest[i];
    if (f->image[0])
        argv[count++] = (char *)(uintptr_t)f->image;
    /* What we ignore or catch, GDB has to get. */
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGINT);
    sigaddset(&defaults, SIGPIPE);
    sigaddset(&defaults, SIGXFSZ);
    int code = posix_spawnattr_init(&attributes);
    if (code == 0) {
        posix_spawnattr_setsigdefault(&attributes, &defaults);
        posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
        code = posix_spawnp(pid, program, NULL, &attributes, argv, environ);
        posix_spawnattr_destroy(&attributes);
    }
    free(argv);
    return code
               ? error_errno(err, -code,
                             "start %s (install GDB, name another one with --gdb, or use 'dejavm gdbserver')",
                             program)
               : 0;
}

/* Readable when GDB has ended, or a signal came. */
static int watch_end(pid_t pid, int wake_fd, struct error *err)
{
    struct epoll_event event = {.events = EPOLLIN};
    int pid_fd = (int)syscall(SYS_pidfd_open, pid, 0);
    int fd = pid_fd < 0 ? -1 : epoll_create1(EPOLL_CLOEXEC);
    bool good = fd >= 0 && epoll_ctl(fd, EPOLL_CTL_ADD, pid_fd, &event) == 0 &&
                epoll_ctl(fd, EPOLL_CTL_ADD, wake_fd, &event) == 0;
    if (good)
        return fd; /* pid_fd stays open as long as this process lives: closing it would take it out of the set */
    int code = error_errno(err, -errno, "watch for the end of GDB");
    if (pid_fd >= 0)
        close(pid_fd);
    if (fd >= 0)
        close(fd);
    return code;
}

static int exit_status(int status)
{
    if (WIFEXITED(status))
        return WEXITSTATUS(status);
    message("GDB was ended by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    return STATUS_FAILURE;
}

/* Serves until GDB has ended. *status: its exit status. */
static int serve_gdb(struct debug_session *s, int listen_fd, pid_t pid, int *status, struct error *err)
{
    int end_fd = watch_end(pid, s->wake_fd, err);
    int code = end_fd < 0 ? end_fd : debug_session_serve(s, listen_fd, end_fd, err);
    if (end_fd >= 0)
        close(end_fd);
    if (code || interrupt_count() > 0)
        kill(pid, SIGTERM);
    int waited;
    while ((waited = waitpid(pid, status, 0)) < 0 && errno == EINTR)
        ;
    if (waited < 0 && code == 0)
        code = error_errno(err, -errno, "wait for GDB");
    return code;
}

static int run_gdb(struct debug_session *s, struct folder *f, const struct arguments *arguments, int *status,
                   struct error *err)
{
    char address[PATH_BYTES + 8], name[PATH_BYTES];
    pid_t pid;
    snprintf(f->socket, sizeof(f->socket), "%s/gdb", f->path);
    snprintf(address, sizeof(address), "unix:%s", f->socket);
    int fd = gdb_listen(address, name, sizeof(name), err);
    if (fd < 0)
        return fd;
    int code = store_image(f, s, err);
    if (code == 0)
        code = store_symbols(f, s, arguments, err);
    if (code == 0)
        code = store_script(f, s, arguments, err);
    /* Ctrl-C is for GDB, which tells the server: the terminal sends it to both of us. */
    signal(SIGINT, SIG_IGN);
    if (code == 0)
        code = gdb_spawn(&pid, argument_value(arguments, "gdb", "gdb"), f, arguments, err);
    if (code == 0)
        code = serve_gdb(s, fd, pid, status, err);
    close(fd);
    return code;
}

static int run(const struct arguments *arguments)
{
    struct error err = {0};
    struct debug_session session;
    struct folder folder = {0};
    int gdb_status = 0;
    int status = debug_options_check(arguments);
    if (status != STATUS_OK)
        return status;
    int code = debug_session_open(&session, arguments, &err);
    if (code == 0)
        code = folder_create(&folder, &err);
    if (code == 0)
        code = run_gdb(&session, &folder, arguments, &gdb_status, &err);
    folder_remove(&folder);
    if (code && !session.live)
        status = session_fail(&err);
    else if (code)
        status = fail(&err);
    if (session.live) { /* from here on Ctrl-C ends the sealing */
        signal(SIGINT, SIG_DFL);
        interrupt_catch();
    }
    int closed = debug_session_close(&session);
    if (status != STATUS_OK || closed != STATUS_OK)
        return status != STATUS_OK ? status : closed;
    if (interrupt_count() > 0)
        interrupt_die();
    return exit_status(gdb_status);
}

static const char *const paragraphs[] = {
    "Starts GDB on a trace, with the guest's symbols loaded, standing where it crashed. All of GDB's "
    "commands that "
    "look and move work, in both directions: reverse-continue, reverse-stepi, reverse-step, reverse-next, "
    "reverse-finish, watchpoints and breakpoints backwards. Registers and memory are those of the recording: "
    "they can be read, "
    "not changed.",
    "Besides, there are 'monitor' commands (see 'monitor help') to go to any position, to events of the "
    "recording, to where the "
    "guest printed a text, and to the last write of an address.",
    "The guest's program comes out of the trace; GDB finds its sources where they were when it was compiled "
    "(or see GDB's 'set "
    "substitute-path').",
    "With --live it is a guest that is recorded while GDB holds it, from its first instruction on; backwards "
    "leads into "
    "what was recorded so far, and forwards out of it again. The recording ends with GDB, and is sealed.",
    "The exit status is GDB's, once it was started.",
    NULL,
};
static const struct option_spec options[] = {
    {.name = "at",
     .value = "POS",
     .text = "Where to stand: a number, \"start\", \"end\", \"crash\", a percentage of the trace (50%), or "
             "\"event "
             "N\". Default: the crash if there is one, else the end."},
    {.name = "symbols",
     .value = "ELF",
     .repeatable = true,
     .text = "A file with more symbols: of modules, or of programs that the guest runs. May be given several "
             "times."},
    {.name = "memory", .value = "SIZE", .text = "The most memory that checkpoints may take. Default: 1G."},
    {.name = "gdb", .value = "PROGRAM", .text = "The debugger to start. Default: gdb."},
    {.name = "live",
     .text = "Debug GUEST while it is being recorded. Takes the options of 'dejavm record'; --memory is the "
             "guest's then."},
    RECORDING_OPTIONS,
    {0},
};
static const struct operand_spec operands[] = {
    {.name = "TRACE", .text = "The trace file; with --live the guest's image."}, {0}};
static const struct operand_spec gdb_arguments = {.name = "GDB-ARGUMENT",
                                                  .text = "Given to GDB as they are, after dejavm's own."};
static const struct example_spec examples[] = {
    {"dejavm debug kernel.dvm", "Why did it crash?"},
    {"dejavm debug --live kernel.elf", "Hold a guest from its first instruction on, and record it."},
    {"dejavm debug kernel.dvm -- -batch -ex bt", "Print the stack at the crash."},
    {0},
};

const struct command command_debug = {
    .name = "debug",
    .summary = "debug a trace with GDB, forwards and backwards",
    .paragraphs = paragraphs,
    .options = options,
    .operands = operands,
    .rest = &gdb_arguments,
    .examples = examples,
    .run = run,
};
