/*
 * What a debugging session knows of a Linux guest: the kernel, and where it stands now its modules and its tasks, which are GDB's
 * threads. A thread's id is the task's pid; the idle task, pid 0, is LINUX_IDLE_THREAD.
 */
#ifndef DEJAVM_TOOLS_LINUX_SESSION_H
#define DEJAVM_TOOLS_LINUX_SESSION_H

#include "core/base/buffer.h"
#include "core/linux/linux_guest.h"

/* No pid is as high (include/linux/threads.h: PID_MAX_LIMIT). */
#define LINUX_IDLE_THREAD ((uint64_t)4 << 20)

struct linux_session {
    struct linux_guest *guest; /* NULL: not a Linux guest, or not known */
    /* Copies, good while moment is the same. */
    struct linux_modules *modules;
    struct linux_task *tasks; /* ascending pids */
    size_t task_count;
    uint64_t modules_moment, tasks_moment;
    bool have_tasks;
};

void linux_session_close(struct linux_session *s);

/*
 * moment: names the state that view shows, as a position does. The list is good until the next call with another moment. NULL: none are
 * known.
 */
const struct linux_modules *linux_session_modules(struct linux_session *s, const struct linux_view *view,
                                                  uint64_t moment);

/* Names for addresses of the kernel and its modules; as symbols_describe and symbols_find. */
const char *linux_session_describe(struct linux_session *s, const struct linux_view *view, uint64_t moment,
                                   gva_t address, char *out, size_t size);
bool linux_session_symbol(struct linux_session *s, const struct linux_view *view, uint64_t moment,
                          const char *name, gva_t *address);

/* gdbstub's thread operations. */
uint64_t linux_session_thread(const struct linux_session *s, const struct linux_view *view);
void linux_session_threads(struct linux_session *s, const struct linux_view *view, uint64_t moment,
                           struct buffer *out);
bool linux_session_thread_text(struct linux_session *s, const struct linux_view *view, uint64_t moment,
                               uint64_t id, char *out, size_t size);
bool linux_session_thread_state(struct linux_session *s, const struct linux_view *view, uint64_t moment,
                                uint64_t id, struct vcpu_state *out);

/* A task's name without what a terminal would obey. Returns out. */
const char *linux_session_comm(const struct linux_task *task, char out[LINUX_COMM_BYTES + 1]);

#endif
