#include "record/record_host.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S          1000000000ull
#define INPUT_QUEUE_BYTES 4096u
#define NO_DEADLINE       UINT64_MAX

struct record_host {
    _Atomic uint64_t start_ns;  /* later by as much as it was paused */
    _Atomic uint64_t paused_ns; /* since when it is; 0: it is not */
    int input_fd;
    int thread_event;  /* wakes the helper thread: new deadline, room in the queue, end */
    int session_event; /* wakes the session */
    void (*kick)(void *context);
    void *context;
    pthread_t thread;
    bool thread_runs;
    atomic_bool ending;
    _Atomic uint64_t deadline_ns;
    pthread_mutex_t lock; /* of the queue and of what is watched */
    uint8_t queue[INPUT_QUEUE_BYTES];
    size_t queue_length;
    atomic_bool input_waits; /* the queue is not empty */
    bool input_ended;
    bool input_is_file; /* never waits: it is read by the session, when the queue has room */
    struct pollfd watched[MACHINE_WATCH_MAX];
    size_t watched_count;
    bool watching; /* false once one was ready */
    atomic_bool watch_fired;
};

static uint64_t monotonic_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

uint64_t record_host_now_ns(const struct record_host *h)
{
    uint64_t paused = atomic_load(&h->paused_ns);
    return (paused ? paused : monotonic_ns()) - atomic_load(&h->start_ns);
}

static void event_signal(int fd)
{
    uint64_t one = 1;
    ssize_t n = write(fd, &one, sizeof(one));
    (void)n; /* EAGAIN: the counter is not zero, so the reader wakes anyway */
}

static void event_drain(int fd)
{
    uint64_t count;
    ssize_t n = read(fd, &count, sizeof(count));
    (void)n;
}

static struct timespec time_until(uint64_t deadline_ns, uint64_t now_ns)
{
    uint64_t left = deadline_ns > now_ns ? deadline_ns - now_ns : 0;
    return (struct timespec){.tv_sec = (time_t)(left / NS_PER_S), .tv_nsec = (long)(left % NS_PER_S)};
}

/* Reads what fits into the queue. */
static void read_input(struct record_host *h)
{
    uint8_t bytes[INPUT_QUEUE_BYTES];
    pthread_mutex_lock(&h->lock);
    size_t room = sizeof(h->queue) - h->queue_length;
    pthread_mutex_unlock(&h->lock);
    ssize_t n = room ? read(h->input_fd, bytes, room) : 0;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    pthread_mutex_lock(&h->lock);
    if (n > 0) {
        memcpy(h->queue + h->queue_length, bytes, (size_t)n);
        h->queue_length += (size_t)n;
        atomic_store(&h->input_waits, true);
    } else if (room) {
        h->input_ended = true;
    }
    pthread_mutex_unlock(&h->lock);
}

static bool wants_input(struct record_host *h)
{
    pthread_mutex_lock(&h->lock);
    bool wants =
        h->input_fd >= 0 && !h->input_is_file && !h->input_ended && h->queue_length < sizeof(h->queue);
    pthread_mutex_unlock(&h->lock);
    return wants;
}

static void notify_session(struct record_host *h)
{
    h->kick(h->context);
    event_signal(h->session_event);
}

/* Copies what is watched; returns how many. */
static nfds_t copy_watched(struct record_host *h, struct pollfd *fds)
{
    pthread_mutex_lock(&h->lock);
    size_t count = h->watching ? h->watched_count : 0;
    memcpy(fds, h->watched, count * sizeof(*fds));
    pthread_mutex_unlock(&h->lock);
    return (nfds_t)count;
}

static bool any_ready(const struct pollfd *fds, nfds_t count)
{
    for (nfds_t i = 0; i < count; i++)
        if (fds[i].revents)
            return true;
    return false;
}

/* fds was ready. Nothing if something else is watched by now. */
static void fire_watch(struct record_host *h, const struct pollfd *fds, nfds_t count)
{
    pthread_mutex_lock(&h->lock);
    bool current = h->watching && h->watched_count == count;
    for (nfds_t i = 0; i < count && current; i++)
        current = h->watched[i].fd == fds[i].fd && h->watched[i].events == fds[i].events;
    if (current)
        h->watching = false;
    pthread_mutex_unlock(&h->lock);
    if (!current)
        return;
    atomic_store(&h->watch_fired, true);
    notify_session(h);
}

static void *host_thread(void *argument)
{
    struct record_host *h = argument;
    struct pollfd fds[2 + MACHINE_WATCH_MAX];
    while (!atomic_load(&h->ending)) {
        uint64_t deadline = atomic_load(&h->deadline_ns);
        uint64_t now = record_host_now_ns(h);
        if (deadline <= now) {
            atomic_compare_exchange_strong(&h->deadline_ns, &deadline, NO_DEADLINE);
            notify_session(h);
            continue;
        }
        fds[0] = (struct pollfd){.fd = h->thread_event, .events = POLLIN};
        fds[1] = (struct pollfd){.fd = wants_input(h) ? h->input_fd : -1, .events = POLLIN};
        nfds_t watched = copy_watched(h, fds + 2);
        struct timespec wait = time_until(deadline, now);
        int n = ppoll(fds, 2 + watched, deadline == NO_DEADLINE ? NULL : &wait, NULL);
        if (n <= 0)
            continue;
        if (fds[0].revents)
            event_drain(h->thread_event);
        if (fds[1].revents) {
            read_input(h);
            notify_session(h);
        }
        if (any_ready(fds + 2, watched))
            fire_watch(h, fds + 2, watched);
    }
    return NULL;
}

/* The helper thread takes no signals: they are the vCPU thread's and the command line's. */
static int start_thread(struct record_host *h)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int r = pthread_create(&h->thread, NULL, host_thread, h);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    h->thread_runs = r == 0;
    return -r;
}

int record_host_create(struct record_host **out, int input_fd, void (*kick)(void *context), void *context,
                       struct error *err)
{
    struct record_host *h = calloc(1, sizeof(*h));
    if (!h)
        return error_set(err, -ENOMEM, "out of memory");
    *h = (struct record_host){.input_fd = input_fd, .kick = kick, .context = context};
    uint64_t now = monotonic_ns();
    atomic_store(&h->start_ns, now);
    atomic_store(&h->paused_ns, now);
    atomic_store(&h->deadline_ns, NO_DEADLINE);
    pthread_mutex_init(&h->lock, NULL);
    h->thread_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    h->session_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct stat input;
    h->input_is_file = input_fd >= 0 && fstat(input_fd, &input) == 0 && S_ISREG(input.st_mode);
    if (h->input_is_file)
        read_input(h);
    int r = h->thread_event < 0 || h->session_event < 0 ? -errno : start_thread(h);
    if (r < 0) {
        record_host_destroy(h);
        return error_errno(err, r, "start the recorder's timer thread");
    }
    *out = h;
    return 0;
}

void record_host_destroy(struct record_host *h)
{
    if (!h)
        return;
    if (h->thread_runs) {
        atomic_store(&h->ending, true);
        event_signal(h->thread_event);
        pthread_join(h->thread, NULL);
    }
    if (h->thread_event >= 0)
        close(h->thread_event);
    if (h->session_event >= 0)
        close(h->session_event);
    pthread_mutex_destroy(&h->lock);
    free(h);
}

void record_host_pause(struct record_host *h)
{
    record_host_disarm(h);
    if (!atomic_load(&h->paused_ns))
        atomic_store(&h->paused_ns, monotonic_ns());
}

void record_host_continue(struct record_host *h)
{
    uint64_t paused = atomic_load(&h->paused_ns);
    if (!paused)
        return;
    atomic_fetch_add(&h->start_ns, monotonic_ns() - paused);
    atomic_store(&h->paused_ns, 0);
}

void record_host_arm(struct record_host *h, uint64_t deadline_ns)
{
    uint64_t armed = atomic_load(&h->deadline_ns);
    while (deadline_ns < armed) {
        if (atomic_compare_exchange_weak(&h->deadline_ns, &armed, deadline_ns)) {
            event_signal(h->thread_event);
            return;
        }
    }
}

void record_host_disarm(struct record_host *h)
{
    atomic_store(&h->deadline_ns, NO_DEADLINE);
}

void record_host_sleep(struct record_host *h, uint64_t deadline_ns)
{
    struct pollfd fd = {.fd = h->session_event, .events = POLLIN};
    struct timespec wait = time_until(deadline_ns, record_host_now_ns(h));
    if (ppoll(&fd, 1, deadline_ns == NO_DEADLINE ? NULL : &wait, NULL) > 0)
        event_drain(h->session_event);
}

void record_host_watch(struct record_host *h, const struct pollfd *fds, size_t count)
{
    if (count > MACHINE_WATCH_MAX)
        count = MACHINE_WATCH_MAX;
    pthread_mutex_lock(&h->lock);
    bool same = h->watching == (count > 0) && h->watched_count == count;
    for (size_t i = 0; i < count && same; i++)
        same = h->watched[i].fd == fds[i].fd && h->watched[i].events == fds[i].events;
    if (!same && count)
        memcpy(h->watched, fds, count * sizeof(*fds));
    h->watched_count = count;
    h->watching = count > 0;
    pthread_mutex_unlock(&h->lock);
    if (!same)
        event_signal(h->thread_event);
}

bool record_host_watch_fired(struct record_host *h)
{
    return atomic_load_explicit(&h->watch_fired, memory_order_relaxed) &&
           atomic_exchange(&h->watch_fired, false);
}

void record_host_wake(struct record_host *h)
{
    event_signal(h->session_event);
}

bool record_host_input_waits(const struct record_host *h)
{
    return atomic_load_explicit(&h->input_waits, memory_order_relaxed);
}

size_t record_host_input_peek(struct record_host *h, uint8_t *out, size_t length)
{
    pthread_mutex_lock(&h->lock);
    size_t n = h->queue_length < length ? h->queue_length : length;
    memcpy(out, h->queue, n);
    pthread_mutex_unlock(&h->lock);
    return n;
}

void record_host_input_taken(struct record_host *h, size_t length)
{
    pthread_mutex_lock(&h->lock);
    bool was_full = h->queue_length == sizeof(h->queue);
    memmove(h->queue, h->queue + length, h->queue_length - length);
    h->queue_length -= length;
    atomic_store(&h->input_waits, h->queue_length > 0);
    bool refill = h->input_is_file && !h->input_ended && h->queue_length < sizeof(h->queue) / 2;
    pthread_mutex_unlock(&h->lock);
    if (refill)
        read_input(h);
    if (was_full && length)
        event_signal(h->thread_event);
}
