/*
 * Threads (GDB manual, E.2 and E.3): H, T, qC, qfThreadInfo, qThreadExtraInfo, and which of them the vCPU is.
 *
 * The client was told one thread when the guest stopped. To it that thread is the vCPU until it hears of another stop, also
 * where a monitor command went somewhere else meanwhile: its id is no more than the vCPU's name then. A single step keeps the
 * name as well, since a client that steps a thread expects that one to have made the step; what the vCPU works on may change with it.
 */
#include <errno.h>
#include <string.h>

#include "gdbstub/internal.h"

#define ONLY_THREAD 1u

static uint64_t current(struct gdb_server *s)
{
    return s->target->ops->thread_current ? s->target->ops->thread_current(s->target) : ONLY_THREAD;
}

static bool target_has(struct gdb_server *s, uint64_t id)
{
    char text[8];
    if (!s->target->ops->thread_text)
        return id == ONLY_THREAD;
    return s->target->ops->thread_text(s->target, id, text, sizeof(text));
}

void threads_stopped(struct gdb_server *s, bool stepped)
{
    uint64_t now = current(s);
    if (!stepped || (now != s->vcpu_thread && !target_has(s, s->vcpu_thread)))
        s->vcpu_thread = now;
}

bool threads_exist(struct gdb_server *s, uint64_t id)
{
    return id == THREAD_ANY || id == THREAD_ALL || id == s->vcpu_thread || target_has(s, id);
}

/* The thread that register and memory packets are about is another one than the vCPU's. */
bool threads_other(const struct gdb_server *s)
{
    return s->thread != 0 && s->thread != s->vcpu_thread;
}

const struct vcpu_state *threads_state(struct gdb_server *s)
{
    if (threads_other(s) && s->target->ops->thread_state &&
        s->target->ops->thread_state(s->target, s->thread, &s->thread_state))
        return &s->thread_state;
    return s->target->ops->state(s->target);
}

size_t threads_read_memory(struct gdb_server *s, gva_t address, void *out, size_t length)
{
    struct debug_target *target = s->target;
    const struct vcpu_state *state = threads_state(s);
    if (state == &s->thread_state && target->ops->read_in)
        return target->ops->read_in(target, state, address, out, length);
    return target->ops->read(target, address, out, length);
}

/* ---- the packets ---- */

void threads_current(struct gdb_server *s, struct text *t)
{
    (void)t;
    put_text(&s->reply, "QC");
    put_number(&s->reply, s->vcpu_thread);
}

static void put_ids(struct gdb_server *s)
{
    enum { ID_DIGITS = 17 };
    const char *separator = "m";
    if (s->thread_at == s->threads.length)
        put_text(&s->reply, "l");
    while (s->thread_at < s->threads.length && s->reply.length + ID_DIGITS < GDB_PACKET_BYTES) {
        uint64_t id;
        memcpy(&id, s->threads.data + s->thread_at, sizeof(id));
        s->thread_at += sizeof(id);
        put_text(&s->reply, separator);
        put_number(&s->reply, id);
        separator = ",";
    }
}

static bool listed(const struct buffer *ids, uint64_t id)
{
    for (size_t at = 0; at < ids->length; at += sizeof(id))
        if (memcmp(ids->data + at, &id, sizeof(id)) == 0)
            return true;
    return false;
}

void threads_first(struct gdb_server *s, struct text *t)
{
    (void)t;
    buffer_clear(&s->threads);
    s->threads.failed = false;
    s->thread_at = 0;
    if (s->target->ops->thread_list)
        s->target->ops->thread_list(s->target, &s->threads);
    if (!listed(&s->threads, s->vcpu_thread))
        buffer_put(&s->threads, &s->vcpu_thread, sizeof(s->vcpu_thread));
    if (s->threads.failed)
        buffer_clear(&s->threads);
    put_ids(s);
}

void threads_more(struct gdb_server *s, struct text *t)
{
    (void)t;
    put_ids(s);
}

static bool one_thread(struct gdb_server *s, struct text *t, uint64_t *id)
{
    return text_thread(t, id) && text_left(t) == 0 && threads_exist(s, *id);
}

/* For a thread that the target has no words for: what the vCPU does. */
static const char *vcpu_text(struct gdb_server *s)
{
    switch (s->target->ops->state(s->target)->activity) {
    case ACTIVITY_HALTED:
        return "vCPU, halted";
    case ACTIVITY_SHUTDOWN:
        return "vCPU, shut down";
    default:
        return "vCPU";
    }
}

void threads_text(struct gdb_server *s, struct text *t)
{
    enum { TEXT_BYTES = 128 };
    char text[TEXT_BYTES] = "";
    uint64_t id;
    if (!one_thread(s, t, &id)) {
        reply_error(s, -EINVAL);
        return;
    }
    bool known =
        s->target->ops->thread_text && s->target->ops->thread_text(s->target, id, text, sizeof(text));
    const char *shown = known ? text : vcpu_text(s);
    put_hex(&s->reply, shown, strlen(shown));
}

void threads_alive(struct gdb_server *s, struct text *t)
{
    uint64_t id;
    if (!one_thread(s, t, &id))
        reply_error(s, -EINVAL);
    else
        reply_ok(s);
}

/* "g" for registers and memory; "c", for running, changes nothing: what runs is the vCPU. */
void threads_set(struct gdb_server *s, struct text *t)
{
    bool general = text_skip(t, 'g');
    uint64_t id;
    if (!general && !text_skip(t, 'c'))
        return;
    if (!one_thread(s, t, &id)) {
        if (general)
            s->thread = 0;
        reply_error(s, -EINVAL);
        return;
    }
    if (general)
        s->thread = id == THREAD_ALL ? 0 : id;
    reply_ok(s);
}
