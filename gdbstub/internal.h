/*
 * The parts of the server, for its own files. Bytes go in through input.c, packets are handled by the commands (commands.c
 * and what its table names), answers go out through output.c.
 */
#ifndef DEJAVM_GDBSTUB_INTERNAL_H
#define DEJAVM_GDBSTUB_INTERNAL_H

#include <stdatomic.h>

#include "gdbstub/server.h"

/* The longest packet in either direction, as told to the client; framing not counted. */
#define GDB_PACKET_BYTES ((size_t)16384)
/* What a client may send ahead of being served: some packets. More is a flood. */
#define GDB_INPUT_BYTES (4 * GDB_PACKET_BYTES)
/* Packets in a row with a wrong checksum, and requests in a row to send again. */
#define GDB_RETRIES_MAX 8
#define GDB_POINTS_MAX  ((size_t)65536)

/* ---- text.c: reading and writing the protocol's notation ---- */

/* What is left of a packet. */
struct text {
    const uint8_t *at, *end;
};

static inline size_t text_left(const struct text *t)
{
    return (size_t)(t->end - t->at);
}

bool text_skip(struct text *t, char c);                /* takes c if it is next */
bool text_skip_word(struct text *t, const char *word); /* takes word if it is next */
bool text_is(const struct text *t, const char *word);  /* all that is left is word */
bool text_number(struct text *t, uint64_t *value);     /* 1 to 16 hex digits, most significant first */
bool text_thread(struct text *t, uint64_t *id);        /* a thread's id, or one of these: */
#define THREAD_ANY  0u
#define THREAD_NONE (UINT64_MAX - 1) /* of a process that there is not */
#define THREAD_ALL  UINT64_MAX
bool text_bytes(struct text *t, uint8_t *out, size_t length); /* 2 * length hex digits */

void put_text(struct buffer *b, const char *text);
void put_hex(struct buffer *b, const void *data, size_t length);
void put_number(struct buffer *b, uint64_t value); /* hex, most significant first, no leading zeros */
void put_escaped(struct buffer *b, const void *data, size_t length); /* binary, as replies escape it */

/* ---- the server ---- */

enum gdb_source { GDB_FROM_MEMORY, GDB_FROM_FD };

struct gdb_input {
    uint8_t bytes[GDB_INPUT_BYTES];
    size_t start, end;   /* of what is not yet handled */
    size_t searched;     /* there is no '#' in the packet at the start before this */
    const uint8_t *more; /* GDB_FROM_MEMORY: bytes not yet taken over */
    size_t more_length;
};

struct gdb_point {
    enum debug_point_kind kind;
    gva_t address;
    uint64_t length;
};

struct gdb_server {
    struct debug_target *target;
    atomic_int stop_asked;
    int stop_fd; /* an eventfd, readable once stop was asked for */
    unsigned write_timeout_ms, packet_timeout_ms;
    enum gdb_description wanted_description;

    /* The description, made when a client connects. */
    enum gdb_description described;
    struct buffer description;

    /* The connection. */
    enum gdb_source source;
    int in_fd, out_fd;
    struct gdb_input in;
    uint8_t packet[GDB_PACKET_BYTES]; /* the one being handled */
    struct buffer out;                /* not sent yet */
    struct buffer reply;              /* the answer under construction, unframed */
    struct buffer last_sent;          /* for a client that asks for it again */
    bool no_ack;
    bool connected;   /* GDB_FROM_MEMORY: this client has sent something before */
    bool silent;      /* the packet being handled gets no answer */
    uint64_t handled; /* correct packets */
    bool gone;        /* the connection is of no use any more */
    bool left;        /* the client said good-bye */
    bool running;     /* a resume or monitor command is under way: console packets may be sent */
    unsigned bad_packets, resends;
    enum gdb_end end;
    struct error failure; /* of ours, with code != 0 */

    /* What the client knows and has asked for. */
    bool client_swbreak, client_hwbreak;
    bool physical; /* memory packets mean physical addresses */
    struct debug_stop stop;
    struct gdb_point *points; /* sorted by kind, address, length */
    size_t point_count, point_capacity;
    uint64_t vcpu_thread;           /* the thread that is the vCPU, as far as the client knows (threads.c) */
    uint64_t thread;                /* that register and memory packets are about; 0: the vCPU's */
    struct vcpu_state thread_state; /* of thread, when it is another one */
    struct buffer threads;          /* ids, while the client asks for them; thread_at: how far it got */
    size_t thread_at;
};

/* ---- server.c ---- */

/* Forgets the last client: nothing negotiated, no points, description made anew. */
int server_reset(struct gdb_server *s, struct error *err) must_check;
/* Handles every whole packet that is in the input. */
void server_process(struct gdb_server *s);
/* To be given to the target: true when the client wants the run to end, or is gone. */
bool server_interrupted(void *context);

/* ---- input.c ---- */

enum input_found {
    INPUT_NOTHING,   /* no whole packet yet */
    INPUT_PACKET,    /* with a correct checksum */
    INPUT_BAD,       /* a packet with a wrong checksum */
    INPUT_RESEND,    /* '-' */
    INPUT_INTERRUPT, /* Ctrl-C outside of a packet */
    INPUT_GARBAGE,   /* nothing that a client sends */
};

/* Takes the next thing from the input. The content of a packet is valid until bytes are added. */
enum input_found input_next(struct gdb_input *in, struct text *content);
/* Where bytes can be added, and how many; then how many were. */
uint8_t *input_room(struct gdb_input *in, size_t *length);
void input_added(struct gdb_input *in, size_t length);
/* Takes over more bytes of GDB_FROM_MEMORY. Returns false when there are none, or no room. */
bool input_refill(struct gdb_input *in);
/* Looks for a Ctrl-C behind whole packets that wait, and takes it out. */
bool input_take_interrupt(struct gdb_input *in);
/* Something has begun that is not complete. */
bool input_partial(const struct gdb_input *in);
/* There is a packet, or the beginning of one. */
bool input_packet_begun(const struct gdb_input *in);
/* Takes out what is said there about earlier packets of ours. */
void input_drop_acknowledgements(struct gdb_input *in);
/* Undoes the escapes of binary data in place; returns the new length, or SIZE_MAX when the last escape is cut off. */
size_t input_unescape(uint8_t *data, size_t length);

/* ---- output.c ---- */

/* Appends '$' content '#' checksum, run-length encoded. */
void output_frame(struct buffer *out, const uint8_t *content, size_t length);
void output_reply(struct gdb_server *s); /* frames s->reply */
void output_resend(struct gdb_server *s);
/* Text for the user, as console packets. Only while running. */
void output_console(struct gdb_server *s, const void *text, size_t length);

void reply_ok(struct gdb_server *s);
void reply_error(struct gdb_server *s, int code);                        /* "E16" */
void reply_message(struct gdb_server *s, int code, const char *message); /* "E.message" */

/* ---- connection.c ---- */

/* Reads what is there without waiting. GDB_FROM_FD only; sets gone. */
void connection_poll(struct gdb_server *s);
/* Sends s->out, waiting at most write_timeout_ms for progress; sets gone. Nothing for GDB_FROM_MEMORY. */
void connection_flush(struct gdb_server *s);

/* ---- commands ---- */

void command_dispatch(struct gdb_server *s, struct text *packet);

void registers_read_all(struct gdb_server *s, struct text *t);
void registers_write_all(struct gdb_server *s, struct text *t);
void registers_read_one(struct gdb_server *s, struct text *t);
void registers_write_one(struct gdb_server *s, struct text *t);
void registers_expedite(struct gdb_server *s); /* PC, SP, FP for a stop reply */

void memory_read(struct gdb_server *s, struct text *t);
void memory_write_hex(struct gdb_server *s, struct text *t);
void memory_write_binary(struct gdb_server *s, struct text *t);
void memory_set_physical(struct gdb_server *s, struct text *t);
void memory_get_physical(struct gdb_server *s, struct text *t);

void points_insert(struct gdb_server *s, struct text *t);
void points_remove(struct gdb_server *s, struct text *t);
void points_remove_all(struct gdb_server *s);
bool points_break_at(const struct gdb_server *s, gva_t address);

void resume_vcont(struct gdb_server *s, struct text *t);
void resume_vcont_query(struct gdb_server *s, struct text *t);
void resume_old(struct gdb_server *s, struct text *t, char action); /* c C s S */
void resume_c_backwards(struct gdb_server *s, struct text *t);      /* bc */
void resume_s_backwards(struct gdb_server *s, struct text *t);      /* bs */
void resume_reply(struct gdb_server *s);                            /* the stop reply */

void monitor_command(struct gdb_server *s, struct text *t);

/* The target has stopped, by a step that ended as such, or somehow. */
void threads_stopped(struct gdb_server *s, bool stepped);
/* There is this thread; THREAD_ANY and THREAD_ALL always are. */
bool threads_exist(struct gdb_server *s, uint64_t id);
/* Whether register and memory packets are about another thread than the vCPU's; the registers and memory that they are about. */
bool threads_other(const struct gdb_server *s);
const struct vcpu_state *threads_state(struct gdb_server *s);
size_t threads_read_memory(struct gdb_server *s, gva_t address, void *out, size_t length);
void threads_current(struct gdb_server *s, struct text *t); /* qC */
void threads_first(struct gdb_server *s, struct text *t);   /* qfThreadInfo */
void threads_more(struct gdb_server *s, struct text *t);    /* qsThreadInfo */
void threads_text(struct gdb_server *s, struct text *t);    /* qThreadExtraInfo */
void threads_alive(struct gdb_server *s, struct text *t);   /* T */
void threads_set(struct gdb_server *s, struct text *t);     /* H */

/* ---- description.c and the register table ---- */

enum register_class {
    REGISTER_GPR,
    REGISTER_RIP,
    REGISTER_FLAGS,
    REGISTER_SELECTOR,
    REGISTER_BASE, /* of FS or GS: index is the segment */
    REGISTER_KERNEL_GS,
    REGISTER_CONTROL, /* index is the number of CR */
    REGISTER_EFER,
    REGISTER_ST,
    REGISTER_FPU_CONTROL, /* index is enum fpu_control */
    REGISTER_XMM,
    REGISTER_MXCSR,
    REGISTER_YMM_HIGH,
};

/* In GDB's order. */
enum fpu_control { FPU_FCTRL, FPU_FSTAT, FPU_FTAG, FPU_FISEG, FPU_FIOFF, FPU_FOSEG, FPU_FOOFF, FPU_FOP };

struct register_info {
    const char *name;
    enum register_class class;
    uint8_t index;
    uint8_t bytes;
    const char *type, *group; /* group may be NULL */
};

#define REGISTER_COUNT_MAX 96

struct register_feature {
    const char *name;
    const char *types; /* XML of the types that its registers use */
    const struct register_info *registers;
    size_t count;
};

/* The features of a description (not GDB_DESCRIPTION_AUTO), in register order; ends with a NULL name. */
const struct register_feature *register_features(enum gdb_description description);
/* Which registers register number n is; NULL beyond the last one. */
const struct register_info *register_find(enum gdb_description description, uint64_t n);
#define GDB_DESCRIPTION_COUNT 4
extern const char *const description_names[GDB_DESCRIPTION_COUNT]; /* GDB's names of the architectures */
void description_write(enum gdb_description description, struct buffer *out);
extern const char gdb_memory_map[];

#define REGISTER_BYTES_MAX 16

/* The value as it goes over the wire, little-endian, info->bytes long. */
void register_get(const struct vcpu_state *state, const struct register_info *info, uint8_t *out);
/* Changes state. Negative with a message where a debugger cannot change that register so. */
int register_set(struct vcpu_state *state, const struct register_info *info, const uint8_t *value,
                 struct error *err) must_check;
uint32_t fpu_control_get(const struct vcpu_state *state, enum fpu_control which);
void fpu_control_set(struct vcpu_state *state, enum fpu_control which, uint32_t value);

#endif
