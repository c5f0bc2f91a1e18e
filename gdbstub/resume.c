/* Running: vCont, c, s, bc, bs, and the answer when the target has stopped (GDB manual, E.3). */
#include <errno.h>
#include <string.h>

#include "gdbstub/internal.h"

enum { SIGNAL_INT = 2, SIGNAL_TRAP = 5 };

static void put_word(struct gdb_server *s, const char *name, const char *value)
{
    put_text(&s->reply, name);
    put_text(&s->reply, ":");
    put_text(&s->reply, value);
    put_text(&s->reply, ";");
}

static void put_watch(struct gdb_server *s)
{
    static const char *const names[] = {
        [DEBUG_WATCH_WRITE] = "watch", [DEBUG_WATCH_READ] = "rwatch", [DEBUG_WATCH_ACCESS] = "awatch"};
    enum debug_point_kind point = s->stop.point;
    put_text(&s->reply, point >= DEBUG_WATCH_WRITE && point <= DEBUG_WATCH_ACCESS ? names[point] : "watch");
    put_text(&s->reply, ":");
    put_number(&s->reply, s->stop.address);
    put_text(&s->reply, ";");
}

static gva_t next_instruction(struct gdb_server *s)
{
    const struct vcpu_state *state = s->target->ops->state(s->target);
    if (vcpu_in_64bit_code(state))
        return state->rip;
    return (uint32_t)(state->seg[SEG_CS].base + state->rip);
}

/*
 * GDB takes RIP for an address. Where CS has a base it is none, and GDB would find no breakpoint of its own there and go on: so
 * such a stop is just a trap.
 */
static void put_break(struct gdb_server *s)
{
    if (s->target->ops->state(s->target)->rip != next_instruction(s))
        return;
    if (s->stop.point == DEBUG_BREAK_SOFTWARE && s->client_swbreak)
        put_word(s, "swbreak", "");
    if (s->stop.point == DEBUG_BREAK_HARDWARE && s->client_hwbreak)
        put_word(s, "hwbreak", "");
}

void resume_reply(struct gdb_server *s)
{
    uint8_t signal = s->stop.reason == DEBUG_STOP_INTERRUPTED ? SIGNAL_INT : SIGNAL_TRAP;
    put_text(&s->reply, "T");
    put_hex(&s->reply, &signal, 1);
    put_text(&s->reply, "thread:");
    put_number(&s->reply, s->vcpu_thread);
    put_text(&s->reply, ";");
    switch (s->stop.reason) {
    case DEBUG_STOP_BREAK:
        put_break(s);
        break;
    case DEBUG_STOP_WATCH:
        put_watch(s);
        break;
    case DEBUG_STOP_HISTORY_BEGIN:
        put_word(s, "replaylog", "begin");
        break;
    case DEBUG_STOP_HISTORY_END:
        put_word(s, "replaylog", "end");
        break;
    case DEBUG_STOP_NONE:
    case DEBUG_STOP_STEP:
    case DEBUG_STOP_CATCH:
    case DEBUG_STOP_INTERRUPTED:
        break;
    }
    registers_expedite(s);
}

/* ---- running ---- */

static int resume_once(struct gdb_server *s, enum debug_direction direction, bool step, struct error *err)
{
    s->stop = (struct debug_stop){.reason = DEBUG_STOP_NONE};
    return s->target->ops->resume(s->target, direction, step, server_interrupted, s, &s->stop, err);
}

/* Steps while RIP is in [first, end), at least once. */
static int resume_in_range(struct gdb_server *s, uint64_t first, uint64_t end, struct error *err)
{
    for (;;) {
        int r = resume_once(s, DEBUG_FORWARDS, true, err);
        if (r < 0 || s->stop.reason != DEBUG_STOP_STEP)
            return r;
        uint64_t rip = s->target->ops->state(s->target)->rip;
        if (rip < first || rip >= end)
            return 0;
        gva_t next = next_instruction(s);
        if (points_break_at(s, next)) {
            s->stop = (struct debug_stop){DEBUG_STOP_BREAK, DEBUG_BREAK_SOFTWARE, next, ""};
            return 0;
        }
        if (server_interrupted(s)) {
            s->stop.reason = DEBUG_STOP_INTERRUPTED;
            return 0;
        }
    }
}

static void say(struct gdb_server *s, const char *text)
{
    output_console(s, text, strlen(text));
    output_console(s, "\n", 1);
}

/* After a failure the target stands somewhere all the same: the user is told both. */
static void finish(struct gdb_server *s, int result, const struct error *err)
{
    if (result < 0) {
        s->stop = (struct debug_stop){.reason = DEBUG_STOP_NONE};
        say(s, err->message[0] ? err->message : "the target cannot run");
    } else if (s->stop.reason == DEBUG_STOP_CATCH) {
        s->stop.text[sizeof(s->stop.text) - 1] = '\0';
        say(s, s->stop.text);
    }
    s->running = false;
    threads_stopped(s, s->stop.reason == DEBUG_STOP_STEP);
    s->thread = 0; /* the client takes the thread that stopped for the one chosen */
    resume_reply(s);
}

static void run(struct gdb_server *s, enum debug_direction direction, bool step)
{
    struct error err = {0};
    s->running = true;
    finish(s, resume_once(s, direction, step, &err), &err);
}

static void run_in_range(struct gdb_server *s, uint64_t first, uint64_t end)
{
    struct error err = {0};
    s->running = true;
    finish(s, resume_in_range(s, first, end, &err), &err);
}

/* ---- the packets ---- */

void resume_c_backwards(struct gdb_server *s, struct text *t)
{
    (void)t;
    if (s->target->ops->can_reverse(s->target))
        run(s, DEBUG_BACKWARDS, false);
}

void resume_s_backwards(struct gdb_server *s, struct text *t)
{
    (void)t;
    if (s->target->ops->can_reverse(s->target))
        run(s, DEBUG_BACKWARDS, true);
}

void resume_vcont_query(struct gdb_server *s, struct text *t)
{
    (void)t;
    put_text(&s->reply, "vCont;c;C;s;S;r");
}

struct action {
    char letter;
    uint64_t first, end; /* of 'r' */
};

/* "c", "CSIGNAL", "s", "SSIGNAL" or "rFIRST,END". A guest has no signals to be given: they are not looked at. */
static bool parse_action(struct text *t, struct action *action)
{
    static const char letters[] = "cCsSr";
    uint64_t signal;
    for (size_t i = 0; letters[i]; i++) {
        if (!text_skip(t, letters[i]))
            continue;
        action->letter = letters[i];
        if (letters[i] == 'C' || letters[i] == 'S')
            return text_number(t, &signal);
        if (letters[i] == 'r')
            return text_number(t, &action->first) && text_skip(t, ',') && text_number(t, &action->end);
        return true;
    }
    return false;
}

/*
 * "ACTION[:THREAD][;ACTION[:THREAD]]...": the leftmost that is for the vCPU's thread by name counts, or else the leftmost one:
 * whatever thread the client steps, what runs is the vCPU.
 */
void resume_vcont(struct gdb_server *s, struct text *t)
{
    struct action chosen = {0};
    bool named = false;
    do {
        struct action action = {0};
        uint64_t thread = THREAD_ALL;
        if (!parse_action(t, &action) || (text_skip(t, ':') && !text_thread(t, &thread))) {
            reply_error(s, -EINVAL);
            return;
        }
        bool ours = thread == s->vcpu_thread;
        if (threads_exist(s, thread) && (!chosen.letter || (ours && !named)))
            chosen = action;
        named = named || ours;
    } while (text_skip(t, ';'));
    if (text_left(t) > 0 || !chosen.letter)
        reply_error(s, -EINVAL);
    else if (chosen.letter == 'r')
        run_in_range(s, chosen.first, chosen.end);
    else
        run(s, DEBUG_FORWARDS, chosen.letter == 's' || chosen.letter == 'S');
}

/* Goes on from address instead of from where the target stands. */
static int jump(struct gdb_server *s, uint64_t address, struct error *err)
{
    struct vcpu_state state = *s->target->ops->state(s->target);
    if (state.rip == address)
        return 0;
    state.rip = address;
    return s->target->ops->set_state(s->target, &state, err);
}

/* "c[ADDRESS]", "CSIGNAL[;ADDRESS]" and the same with s and S. */
void resume_old(struct gdb_server *s, struct text *t, char action)
{
    uint64_t signal, address;
    bool with_signal = action == 'C' || action == 'S';
    struct error err = {0};
    if (with_signal && (!text_number(t, &signal) || (text_left(t) > 0 && !text_skip(t, ';')))) {
        reply_error(s, -EINVAL);
        return;
    }
    if (text_left(t) > 0) {
        if (!text_number(t, &address) || text_left(t) > 0) {
            reply_error(s, -EINVAL);
            return;
        }
        int r = jump(s, address, &err);
        if (r < 0) {
            reply_message(s, r, err.message);
            return;
        }
    }
    run(s, DEBUG_FORWARDS, action == 's' || action == 'S');
}
