/* Which packet is handled where, and the packets that need no more than a line or two. */
#include <errno.h>
#include <string.h>

#include "gdbstub/internal.h"

static void unsupported(struct gdb_server *s, struct text *t)
{
    (void)s;
    (void)t;
}

static void answer_ok(struct gdb_server *s, struct text *t)
{
    (void)t;
    reply_ok(s);
}

static void stop_reason(struct gdb_server *s, struct text *t)
{
    (void)t;
    threads_stopped(s, false);
    resume_reply(s);
}

/* ---- what both sides can do ---- */

/* "NAME+;NAME=VALUE;...": what the client supports; of that, two things matter. */
static void note_client_features(struct gdb_server *s, struct text *t)
{
    s->client_swbreak = s->client_hwbreak = false;
    if (!text_skip(t, ':'))
        return;
    while (t->at < t->end) {
        const uint8_t *semicolon = memchr(t->at, ';', text_left(t));
        struct text feature = {t->at, semicolon ? semicolon : t->end};
        s->client_swbreak |= text_is(&feature, "swbreak+");
        s->client_hwbreak |= text_is(&feature, "hwbreak+");
        t->at = semicolon ? semicolon + 1 : t->end;
    }
}

static void supported(struct gdb_server *s, struct text *t)
{
    note_client_features(s, t);
    put_text(&s->reply, "PacketSize=");
    put_number(&s->reply, GDB_PACKET_BYTES);
    put_text(&s->reply, ";QStartNoAckMode+;vContSupported+;qXfer:features:read+;qXfer:memory-map:read+");
    if (s->client_swbreak)
        put_text(&s->reply, ";swbreak+");
    if (s->client_hwbreak)
        put_text(&s->reply, ";hwbreak+");
    if (s->target->ops->can_reverse(s->target))
        put_text(&s->reply, ";ReverseStep+;ReverseContinue+");
}

static void start_no_ack(struct gdb_server *s, struct text *t)
{
    (void)t;
    s->no_ack = true;
    reply_ok(s);
}

/* "OFFSET,LENGTH" of a document, which the reply may cut shorter. */
static void transfer(struct gdb_server *s, struct text *t, const void *document, size_t size)
{
    uint64_t offset, length;
    if (!text_number(t, &offset) || !text_skip(t, ',') || !text_number(t, &length) || text_left(t) > 0 ||
        offset > size) {
        reply_error(s, -EINVAL);
        return;
    }
    /* Half a packet, since every byte may need an escape. */
    size_t most = GDB_PACKET_BYTES / 2 - 1;
    size_t n = size - (size_t)offset;
    if (n > length)
        n = (size_t)length;
    if (n > most)
        n = most;
    put_text(&s->reply, offset + n == size ? "l" : "m");
    put_escaped(&s->reply, (const uint8_t *)document + offset, n);
}

static void read_features(struct gdb_server *s, struct text *t)
{
    if (!text_skip_word(t, "target.xml:"))
        reply_error(s, -ENOENT);
    else
        transfer(s, t, s->description.data, s->description.length);
}

static void read_memory_map(struct gdb_server *s, struct text *t)
{
    transfer(s, t, gdb_memory_map, strlen(gdb_memory_map));
}

static void qemu_supported(struct gdb_server *s, struct text *t)
{
    (void)t;
    put_text(&s->reply, "PhyMemMode");
}

static void attached(struct gdb_server *s, struct text *t)
{
    (void)t;
    put_text(&s->reply, "1"); /* so that GDB's quit detaches, and does not kill */
}

/* ---- leaving ---- */

static void detach(struct gdb_server *s, struct text *t)
{
    (void)t;
    s->left = true;
    s->end = GDB_END_DETACHED;
    reply_ok(s);
}

static void kill_target(struct gdb_server *s, struct text *t)
{
    detach(s, t);
    s->end = GDB_END_KILLED;
}

static void kill_silently(struct gdb_server *s, struct text *t)
{
    kill_target(s, t);
    s->silent = true;
}

/* ---- the table ---- */

static void resume_c(struct gdb_server *s, struct text *t)
{
    resume_old(s, t, 'c');
}

static void resume_with_signal(struct gdb_server *s, struct text *t)
{
    resume_old(s, t, 'C');
}

static void resume_s(struct gdb_server *s, struct text *t)
{
    resume_old(s, t, 's');
}

static void step_with_signal(struct gdb_server *s, struct text *t)
{
    resume_old(s, t, 'S');
}

/* What follows the name in the packet: nothing; ':', ';' or ',' or nothing; or anything. */
enum rest { REST_NONE, REST_LIST, REST_ANY };

struct command {
    const char *name;
    enum rest rest;
    void (*handle)(struct gdb_server *s, struct text *t);
};

static const struct command commands[] = {
    {"?", REST_NONE, stop_reason},
    {"g", REST_NONE, registers_read_all},
    {"G", REST_ANY, registers_write_all},
    {"p", REST_ANY, registers_read_one},
    {"P", REST_ANY, registers_write_one},
    {"m", REST_ANY, memory_read},
    {"M", REST_ANY, memory_write_hex},
    {"X", REST_ANY, memory_write_binary},
    {"vCont?", REST_NONE, resume_vcont_query},
    {"vCont;", REST_ANY, resume_vcont},
    {"vKill", REST_LIST, kill_target},
    {"vMustReplyEmpty", REST_NONE, unsupported},
    {"bc", REST_NONE, resume_c_backwards},
    {"bs", REST_NONE, resume_s_backwards},
    {"c", REST_ANY, resume_c},
    {"C", REST_ANY, resume_with_signal},
    {"s", REST_ANY, resume_s},
    {"S", REST_ANY, step_with_signal},
    {"Z", REST_ANY, points_insert},
    {"z", REST_ANY, points_remove},
    {"H", REST_ANY, threads_set},
    {"T", REST_ANY, threads_alive},
    {"D", REST_LIST, detach},
    {"k", REST_NONE, kill_silently},
    {"qSupported", REST_LIST, supported},
    {"QStartNoAckMode", REST_NONE, start_no_ack},
    {"qXfer:features:read:", REST_ANY, read_features},
    {"qXfer:memory-map:read::", REST_ANY, read_memory_map},
    {"qC", REST_NONE, threads_current},
    {"qfThreadInfo", REST_NONE, threads_first},
    {"qsThreadInfo", REST_NONE, threads_more},
    {"qThreadExtraInfo,", REST_ANY, threads_text},
    {"qAttached", REST_LIST, attached},
    {"qSymbol:", REST_ANY, answer_ok},
    {"qRcmd,", REST_ANY, monitor_command},
    {"Qqemu.PhyMemMode:", REST_ANY, memory_set_physical},
    {"qqemu.PhyMemMode", REST_NONE, memory_get_physical},
    {"qqemu.Supported", REST_LIST, qemu_supported},
};

static bool rest_fits(const struct text *t, enum rest rest)
{
    if (rest == REST_ANY || text_left(t) == 0)
        return true;
    return rest == REST_LIST && strchr(":;,", *t->at) && *t->at;
}

/* A packet that is not known gets the empty answer (GDB manual, E.1). */
void command_dispatch(struct gdb_server *s, struct text *packet)
{
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        struct text t = *packet;
        if (text_skip_word(&t, commands[i].name) && rest_fits(&t, commands[i].rest)) {
            commands[i].handle(s, &t);
            return;
        }
    }
}
