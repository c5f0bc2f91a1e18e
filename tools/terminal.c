#include "tools/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

enum { KEY_CTRL_A = 1, KEY_CTRL_C = 3 };

struct terminal {
    pthread_t thread;
    int keys[2]; /* pipe: what is typed for the guest */
    int stop[2]; /* pipe: closed to end the thread */
    bool after_escape;
};

/* For the handler of deadly signals. */
static struct termios saved_settings;
static atomic_bool settings_changed;

static void restore_settings(void)
{
    if (atomic_exchange(&settings_changed, false))
        tcsetattr(STDIN_FILENO, TCSANOW, &saved_settings);
}

static void on_deadly_signal(int number)
{
    restore_settings();
    raise(number); /* SA_RESETHAND: with the default action now */
}

static void catch_deadly_signals(void)
{
    static const int numbers[] = {SIGSEGV, SIGBUS, SIGABRT, SIGILL, SIGFPE, SIGQUIT, SIGTRAP, SIGSYS};
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        struct sigaction action = {.sa_handler = on_deadly_signal};
        action.sa_flags = (int)(SA_RESETHAND | SA_NODEFER);
        sigemptyset(&action.sa_mask);
        sigaction(numbers[i], &action, NULL);
    }
}

bool terminal_usable(void)
{
    return isatty(STDIN_FILENO) && tcgetpgrp(STDIN_FILENO) == getpgrp();
}

/*
 * Keys at once, unechoed and untranslated. Signals by key stay, but only for Ctrl-C: Ctrl-Z and Ctrl-\ go to the guest.
 * Output processing stays, so that a guest that prints bare line feeds is readable.
 */
static int change_settings(struct error *err)
{
    struct termios raw;
    if (tcgetattr(STDIN_FILENO, &saved_settings))
        return error_errno(err, -errno, "terminal settings");
    raw = saved_settings;
    raw.c_iflag &= ~(tcflag_t)(ICRNL | INLCR | IGNCR | IXON | IXOFF | ISTRIP | BRKINT | INPCK);
    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO | IEXTEN);
    raw.c_lflag |= ISIG;
    raw.c_cc[VINTR] = KEY_CTRL_C;
    raw.c_cc[VQUIT] = _POSIX_VDISABLE;
    raw.c_cc[VSUSP] = _POSIX_VDISABLE;
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    catch_deadly_signals();
    atomic_store(&settings_changed, true);
    if (tcsetattr(STDIN_FILENO, TCSADRAIN, &raw)) {
        int code = -errno;
        atomic_store(&settings_changed, false);
        return error_errno(err, code, "terminal settings");
    }
    return 0;
}

/* A guest that does not read loses keys when the pipe is full, as on a real line. */
static void send_key(struct terminal *t, uint8_t key)
{
    ssize_t ignored = write(t->keys[1], &key, 1);
    (void)ignored;
}

static void handle_key(struct terminal *t, uint8_t key)
{
    if (!t->after_escape) {
        if (key == KEY_CTRL_A)
            t->after_escape = true;
        else
            send_key(t, key);
        return;
    }
    t->after_escape = false;
    if (key == 'x' || key == 'X')
        kill(getpid(), SIGINT);
    else if (key == 'c' || key == 'C')
        send_key(t, KEY_CTRL_C);
    else
        send_key(t, key);
}

static void *read_keys(void *context)
{
    struct terminal *t = context;
    struct pollfd wait[2] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = t->stop[0], .events = POLLIN}};
    for (;;) {
        uint8_t keys[256];
        if (poll(wait, 2, -1) < 0) {
            if (errno == EINTR)
                continue;
            return NULL;
        }
        if (wait[1].revents)
            return NULL;
        ssize_t count = read(STDIN_FILENO, keys, sizeof(keys));
        if (count == 0 || (count < 0 && errno != EINTR && errno != EAGAIN))
            return NULL; /* the terminal went away */
        for (ssize_t i = 0; i < count; i++)
            handle_key(t, keys[i]);
    }
}

static void close_pipe(int ends[2])
{
    for (int i = 0; i < 2; i++)
        if (ends[i] >= 0)
            close(ends[i]);
}

/* Signals are for the main thread: the recorder's stop and kick go there. */
static int start_thread(struct terminal *t)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int code = -pthread_create(&t->thread, NULL, read_keys, t);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return code;
}

int terminal_begin(struct terminal **out, int *input, struct error *err)
{
    struct terminal *t = calloc(1, sizeof(*t));
    int code;
    if (!t)
        return error_set(err, -ENOMEM, "terminal: out of memory");
    t->keys[0] = t->keys[1] = t->stop[0] = t->stop[1] = -1;
    if (pipe2(t->keys, O_CLOEXEC | O_NONBLOCK) || pipe2(t->stop, O_CLOEXEC)) {
        code = error_errno(err, -errno, "terminal: pipe");
        goto fail;
    }
    code = change_settings(err);
    if (code)
        goto fail;
    code = start_thread(t);
    if (code) {
        restore_settings();
        error_errno(err, code, "terminal: thread");
        goto fail;
    }
    *out = t;
    *input = t->keys[0];
    return 0;
fail:
    close_pipe(t->keys);
    close_pipe(t->stop);
    free(t);
    return code;
}

void terminal_end(struct terminal *t)
{
    if (!t)
        return;
    close(t->stop[1]);
    t->stop[1] = -1;
    pthread_join(t->thread, NULL);
    restore_settings();
    close_pipe(t->keys);
    close_pipe(t->stop);
    free(t);
}
