/*
 * The encoding of events in EVENTS chunks (SPEC.md, "Events"). Both directions keep the same small context, which
 * starts anew with every chunk. Internal to trace-format.
 */
#ifndef DEJAVM_TRACE_FORMAT_EVENT_CODEC_H
#define DEJAVM_TRACE_FORMAT_EVENT_CODEC_H

#include "trace-format/event.h"

#define EVENT_SOURCE_COUNT 128

struct event_context {
    position_t base;     /* the last position that was written out; deltas count from here */
    position_t previous; /* of the event before, or POSITION_UNKNOWN */
    uint64_t cpu_value[EVENT_SOURCE_COUNT];
    uint64_t landmark[18]; /* RIP, RFLAGS, GPRs of the last landmark */
};

/* first: the position of the chunk's first event, or POSITION_UNKNOWN. */
void event_context_start(struct event_context *c, position_t first);

/* Everything that may not be written: -EINVAL, or -EMSGSIZE for data that is too long. */
int event_check(const struct event *e, struct error *err) must_check;

/* No encoded event is longer than this. */
size_t event_encoded_bound(const struct event *e);

/* An event that passed event_check. Its position is resolved by event_resolve_position. */
void event_encode(struct event_context *c, struct buffer *out, const struct event *e);

/* The position that a reader will see for e after an event at previous. */
position_t event_resolve_position(const struct event *e, position_t previous);

struct event_decoder {
    struct event_context context;
    struct landmark landmark;
    struct landmark_page *pages;
    size_t page_capacity;
    bool steps; /* PLACE_STEPS may occur */
};
void event_decoder_free(struct event_decoder *d);

/*
 * Decodes the next event; it points into in's memory and into the decoder. Returns 0, -ENOMEM, or -EBADMSG with *why
 * saying what is wrong.
 */
int event_decode(struct event_decoder *d, struct reader *in, struct event *e, const char **why) must_check;

#endif
