#include "trace-format/background.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

struct background {
    pthread_t thread;
    bool thread_runs;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    atomic_bool busy; /* written with the lock held */
    bool ending;
    void (*job)(void *context);
    void *context;
};

static void *work(void *argument)
{
    struct background *b = argument;
    pthread_mutex_lock(&b->lock);
    for (;;) {
        while (!atomic_load(&b->busy) && !b->ending)
            pthread_cond_wait(&b->changed, &b->lock);
        if (!atomic_load(&b->busy))
            break;
        pthread_mutex_unlock(&b->lock);
        b->job(b->context);
        pthread_mutex_lock(&b->lock);
        atomic_store(&b->busy, false);
        pthread_cond_signal(&b->changed);
    }
    pthread_mutex_unlock(&b->lock);
    return NULL;
}

struct background *background_create(void)
{
    struct background *b = calloc(1, sizeof(*b));
    if (!b)
        return NULL;
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->changed, NULL);
    return b;
}

static void start_thread(struct background *b)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    b->thread_runs = pthread_create(&b->thread, NULL, work, b) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void background_wait(struct background *b)
{
    if (!b || !b->thread_runs)
        return;
    pthread_mutex_lock(&b->lock);
    while (atomic_load(&b->busy))
        pthread_cond_wait(&b->changed, &b->lock);
    pthread_mutex_unlock(&b->lock);
}

void background_start(struct background *b, void (*job)(void *context), void *context)
{
    background_wait(b);
    if (b && !b->thread_runs)
        start_thread(b);
    if (!b || !b->thread_runs) {
        job(context);
        return;
    }
    pthread_mutex_lock(&b->lock);
    b->job = job;
    b->context = context;
    atomic_store(&b->busy, true);
    pthread_cond_signal(&b->changed);
    pthread_mutex_unlock(&b->lock);
}

bool background_is_busy(const struct background *b)
{
    return b && atomic_load(&b->busy);
}

void background_destroy(struct background *b)
{
    if (!b)
        return;
    background_wait(b);
    if (b->thread_runs) {
        pthread_mutex_lock(&b->lock);
        b->ending = true;
        pthread_cond_signal(&b->changed);
        pthread_mutex_unlock(&b->lock);
        pthread_join(b->thread, NULL);
    }
    pthread_cond_destroy(&b->changed);
    pthread_mutex_destroy(&b->lock);
    free(b);
}
