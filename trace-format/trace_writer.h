/*
 * Writing a trace: an append-only file of checksummed chunks (SPEC.md). What was handed over before a flush
 * survives the death of the process; a flush does not wait for the disk.
 *
 * An error (disk full, ...) is sticky: the file is cut back to its last whole chunk, and every later call returns the same error.
 */
#ifndef DEJAVM_TRACE_FORMAT_TRACE_WRITER_H
#define DEJAVM_TRACE_FORMAT_TRACE_WRITER_H

#include "trace-format/event.h"

/* Facts about the recording, one chunk at the start. Strings are UTF-8, never NULL. */
struct trace_meta {
    const char *writer;      /* "dejavm 0.1.0" */
    const char *engine;      /* "kvm", "emu" */
    const char *host_cpu;    /* vendor, family, model, stepping */
    const char *host_system; /* uname */
    const char *guest_path;
    const char *guest_format;
    const char *command_line;
    const char *initrd_path; /* "" if none */
    int64_t start_time_s;    /* UTC */
    uint64_t ram_bytes;
    uint64_t ram_low_bytes;
    bool positions; /* events carry positions from the start (engine emu) */
};

struct trace_writer_options {
    int level;      /* zstd level; 0 = default (1) */
    bool overwrite; /* replace an existing file; without it -EEXIST */
    bool steps;     /* events may have PLACE_STEPS: the file has format version 2 then */
};

struct trace_writer;

/*
 * Creates the file. meta and cpuid (opaque) go in at once; image (the guest file) is read until the first flush has
 * returned, or the writer is destroyed. The file gets its name (and replaces an old one) with the first flush: the caller writes the
 * first keyframe before that, and nobody ever sees a trace that cannot be replayed at all.
 */
int trace_writer_create(struct trace_writer **out, const char *path,
                        const struct trace_writer_options *options, const struct trace_meta *meta,
                        const struct buffer *cpuid, const uint8_t *image, size_t image_length,
                        struct error *err) must_check;

/*
 * Free without finishing: a recording stays as a trace that was cut short; sealing data is taken away again, and the
 * trace is as it was. NULL is fine.
 */
void trace_writer_destroy(struct trace_writer *w);

/*
 * A keyframe: the machine at a position, before the transition from it. state: encoded vcpu_state. changed: the frames
 * (ascending gfn) that may differ from the previous keyframe (for the first: all that are not zero); page(context, gfn) gives
 * their 4096 bytes. events_before: number of events of the stream that happened before. The first one, at position 0 and
 * before any event, is part of the raw trace; the others are written by sealing.
 * What it points to is copied, and written in the background: an error may be that of a later call.
 */
struct trace_keyframe_input {
    position_t position;
    uint64_t events_before;
    uint64_t console_bytes_before; /* of EVENT_CONSOLE data, all channels */
    const uint8_t *state;
    size_t state_length;
    struct hash128 ram_digest;
    const gfn_t *changed;
    size_t changed_count;
    const uint8_t *(*page)(void *context, gfn_t gfn);
    void *context;
};
int trace_writer_keyframe(struct trace_writer *w, const struct trace_keyframe_input *k,
                          struct error *err) must_check;

/*
 * Appends one event (copied). Positions, where known, must not decrease; in a trace with positions every event has one
 * (with PLACE_PREVIOUS it may be left out, and is that of the event before). An event that the format cannot hold is
 * -EINVAL or -EMSGSIZE, is not written, and does no harm to what follows.
 */
int trace_writer_event(struct trace_writer *w, const struct event *event, struct error *err) must_check;

/* Writes out what is buffered, as a chunk of its own; cheap when nothing is. Waits for the background. */
int trace_writer_flush(struct trace_writer *w, struct error *err) must_check;
/* Something is being written in the background: a flush would wait. */
bool trace_writer_is_busy(const struct trace_writer *w);

uint64_t trace_writer_event_count(const struct trace_writer *w);
uint64_t trace_writer_bytes(const struct trace_writer *w); /* written to the file so far */

/* Flushes, writes index and trailer, syncs, closes and frees (also when it fails). */
int trace_writer_finish(struct trace_writer *w, struct error *err) must_check;

/*
 * Sealing: appends positions and keyframes to a finished or cut-short trace. Takes an exclusive lock on the file (-EBUSY
 * with a message if another process seals it). Until trace_seal_finish returns 0 the trace counts as unsealed, and whatever
 * was appended is dropped by the next attempt; the raw part is never changed. A cut-short trace is cut back to its last whole chunk.
 * A trace that is sealed already: -EALREADY. A trace whose recording is damaged: ERROR_DAMAGED, and it is left alone.
 */
int trace_seal_open(struct trace_writer **out, const char *path, struct error *err) must_check;
/*
 * The position of the next event in the stream, in order, for every event (of a cut-short trace: for those that could be
 * replayed). In a trace with positions it is compared with the recorded one, except where the place is PLACE_PREVIOUS:
 * a difference is ERROR_DIVERGENCE.
 */
int trace_seal_position(struct trace_writer *w, position_t position, struct error *err) must_check;
struct trace_seal_summary {
    position_t end_position;
    uint64_t events;
    uint64_t interrupts;
    uint64_t console_bytes;
    struct hash128 end_ram_digest;
    uint64_t end_state_hash;
};
/* summary->events is the number of positions given. Frees the writer, also when it fails. */
int trace_seal_finish(struct trace_writer *w, const struct trace_seal_summary *summary,
                      struct error *err) must_check;

#endif
