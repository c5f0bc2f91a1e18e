/*
 * qcow2 images, by QEMU's own code: qemu-nbd serves the image on a socket that only this process has, libnbd speaks to it. The
 * server ends with the connection.
 */
#include "devices/block_image.h"

#include <errno.h>
#include <fcntl.h> /* O_CLOEXEC */
#include <libnbd.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PIECE_BYTES ((uint64_t)16 << 20) /* of one NBD request; servers take 32 MiB */

struct qcow2 {
    struct block_image image;
    struct nbd_handle *nbd;
};

bool block_qcow2_recognise(const uint8_t *start, size_t length)
{
    return length >= 4 && memcmp(start, "QFI\xfb", 4) == 0;
}

/* ---- access ---- */

static struct qcow2 *qcow2_of(struct block_image *i)
{
    return container_of(i, struct qcow2, image);
}

static int nbd_status(int result)
{
    int code = nbd_get_errno();
    return result >= 0 ? 0 : code > 0 ? -code : -EIO;
}

static int qcow2_read(struct block_image *i, uint64_t offset, void *out, size_t length)
{
    int status = 0;
    for (size_t done = 0; done < length && status == 0; done += PIECE_BYTES) {
        size_t now = length - done < PIECE_BYTES ? length - done : PIECE_BYTES;
        status = nbd_status(nbd_pread(qcow2_of(i)->nbd, (char *)out + done, now, offset + done, 0));
    }
    return status;
}

static int qcow2_write(struct block_image *i, uint64_t offset, const void *data, size_t length)
{
    int status = 0;
    for (size_t done = 0; done < length && status == 0; done += PIECE_BYTES) {
        size_t now = length - done < PIECE_BYTES ? length - done : PIECE_BYTES;
        status = nbd_status(nbd_pwrite(qcow2_of(i)->nbd, (const char *)data + done, now, offset + done, 0));
    }
    return status;
}

static int qcow2_zero(struct block_image *i, uint64_t offset, uint64_t length, bool may_unmap)
{
    uint32_t flags = may_unmap ? 0 : LIBNBD_CMD_FLAG_NO_HOLE;
    int status = 0;
    for (uint64_t done = 0; done < length && status == 0; done += PIECE_BYTES) {
        uint64_t now = length - done < PIECE_BYTES ? length - done : PIECE_BYTES;
        status = nbd_status(nbd_zero(qcow2_of(i)->nbd, now, offset + done, flags));
    }
    return status;
}

static int qcow2_discard(struct block_image *i, uint64_t offset, uint64_t length)
{
    int status = 0;
    if (nbd_can_trim(qcow2_of(i)->nbd) != 1)
        return 0;
    for (uint64_t done = 0; done < length && status == 0; done += PIECE_BYTES) {
        uint64_t now = length - done < PIECE_BYTES ? length - done : PIECE_BYTES;
        status = nbd_status(nbd_trim(qcow2_of(i)->nbd, now, offset + done, 0));
    }
    return status;
}

static int qcow2_flush(struct block_image *i)
{
    if (nbd_can_flush(qcow2_of(i)->nbd) != 1)
        return 0;
    return nbd_status(nbd_flush(qcow2_of(i)->nbd, 0));
}

static void qcow2_close(struct block_image *i)
{
    struct qcow2 *q = qcow2_of(i);
    nbd_shutdown(q->nbd, 0); /* qemu-nbd writes what it has not written yet, and ends */
    nbd_close(q->nbd);
    free(q);
}

static const struct block_image_ops qcow2_ops = {
    .read = qcow2_read,
    .write = qcow2_write,
    .zero = qcow2_zero,
    .discard = qcow2_discard,
    .flush = qcow2_flush,
    .close = qcow2_close,
};

/* ---- opening ---- */

static bool in_path(const char *program)
{
    const char *path = getenv("PATH");
    char *copy = strdup(path ? path : "/usr/bin:/bin"), *rest = copy, *folder;
    bool found = false;
    while (copy && !found && (folder = strsep(&rest, ":"))) {
        char name[4096];
        int n = snprintf(name, sizeof(name), "%s/%s", *folder ? folder : ".", program);
        found = n > 0 && (size_t)n < sizeof(name) && access(name, X_OK) == 0;
    }
    free(copy);
    return found;
}

static int need_program(const char *program, const char *path, struct error *err)
{
    if (in_path(program))
        return 0;
    return error_set(err, -ENOENT,
                     "disk %s is a qcow2 image: that needs the program %s (Debian: package qemu-utils)", path,
                     program);
}

/*
 * QEMU's option syntax for the file: a comma in its name is written twice. Naming driver and file apart keeps a name such as "nbd:x"
 * from being taken for something else.
 */
static char *image_options(const char *path)
{
    static const char prefix[] = "driver=qcow2,file.driver=file,file.filename=";
    char *options = malloc(sizeof(prefix) + 2 * strlen(path));
    if (!options)
        return NULL;
    char *at = stpcpy(options, prefix);
    for (const char *p = path; *p; p++) {
        if (*p == ',')
            *at++ = ',';
        *at++ = *p;
    }
    *at = 0;
    return options;
}

/* The start of what a program says, on one line; reads to its end so that it never blocks. */
static void read_text(int fd, char *text, size_t size)
{
    size_t length = 0;
    char bytes[512];
    ssize_t n;
    while ((n = read(fd, bytes, sizeof(bytes))) > 0 || (n < 0 && errno == EINTR))
        for (ssize_t i = 0; i < n && length < size - 1; i++)
            text[length++] = bytes[i] == '\n' ? ' ' : bytes[i];
    while (length > 0 && text[length - 1] == ' ')
        length--;
    text[length] = 0;
}

/* Runs a program to its end; its exit status, or negative errno. */
static int run_program(char *const *arguments, char *text, size_t size)
{
    int pipe_fd[2];
    pid_t pid;
    if (pipe2(pipe_fd, O_CLOEXEC))
        return -errno;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, pipe_fd[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, pipe_fd[1], STDERR_FILENO);
    int status = posix_spawnp(&pid, arguments[0], &actions, NULL, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(pipe_fd[1]);
    if (status == 0)
        read_text(pipe_fd[0], text, size);
    close(pipe_fd[0]);
    if (status)
        return -status;
    int ended;
    while (waitpid(pid, &ended, 0) < 0)
        if (errno != EINTR)
            return -errno;
    return WIFEXITED(ended) ? WEXITSTATUS(ended) : -EIO;
}

/*
 * qemu-nbd would read zeros where a cut image has lost its data, so its tables are checked first. Status 3: clusters that nobody uses,
 * which is no harm.
 */
static int check_image(const char *path, char *options, struct error *err)
{
    char text[400] = "";
    char *const arguments[] = {"qemu-img", "check", "-q", "-U", "--image-opts", options, NULL};
    int status = run_program(arguments, text, sizeof(text));
    if (status == 0 || status == 3)
        return 0;
    return error_set(err, status < 0 ? status : -EINVAL, "disk %s: a damaged qcow2 image: %s", path, text);
}

/*
 * The server does not hear the terminal's signals, which stop a recording in order: the guest's disk is there until its end. What is
 * blocked stays so in a program that is started.
 */
static int start_server(struct nbd_handle *nbd, char *const *arguments)
{
    sigset_t terminal, old;
    sigemptyset(&terminal);
    sigaddset(&terminal, SIGINT);
    sigaddset(&terminal, SIGQUIT);
    sigaddset(&terminal, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &terminal, &old);
    int status = nbd_connect_systemd_socket_activation(nbd, (char **)arguments);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return status;
}

static int connect_server(struct qcow2 *q, const char *path, char *options, bool writable, struct error *err)
{
    char *const reading[] = {"qemu-nbd", "--read-only", "--image-opts", options, NULL};
    char *const writing[] = {"qemu-nbd", "--discard=unmap", "--image-opts", options, NULL};
    q->nbd = nbd_create();
    if (!q->nbd)
        return error_set(err, -ENOMEM, "disk %s: %s", path, nbd_get_error());
    if (start_server(q->nbd, writable ? writing : reading))
        return error_set(err, -EIO, "disk %s: qemu-nbd does not serve it: %s", path, nbd_get_error());
    int64_t bytes = nbd_get_size(q->nbd);
    if (bytes < 0)
        return error_set(err, -EIO, "disk %s: qemu-nbd: %s", path, nbd_get_error());
    q->image.bytes = (uint64_t)bytes;
    return 0;
}

int block_qcow2_open(struct block_image **out, const char *path, bool writable, struct error *err)
{
    int status = need_program("qemu-nbd", path, err);
    if (status == 0)
        status = need_program("qemu-img", path, err);
    if (status < 0)
        return status;
    char *options = image_options(path);
    struct qcow2 *q = calloc(1, sizeof(*q));
    if (!q || !options)
        status = error_set(err, -ENOMEM, "disk %s: out of memory", path);
    if (status == 0)
        status = check_image(path, options, err);
    if (status == 0)
        status = connect_server(q, path, options, writable, err);
    free(options);
    if (status || !q) {
        if (q && q->nbd)
            nbd_close(q->nbd);
        free(q);
        return status;
    }
    q->image.ops = &qcow2_ops;
    *out = &q->image;
    return 0;
}
