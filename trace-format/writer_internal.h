/* What the files of the writer share. Internal to trace-format. */
#ifndef DEJAVM_TRACE_FORMAT_WRITER_INTERNAL_H
#define DEJAVM_TRACE_FORMAT_WRITER_INTERNAL_H

#include "trace-format/background.h"
#include "trace-format/event_codec.h"
#include "trace-format/frame_map.h"
#include "trace-format/trace_index.h"
#include "trace-format/trace_reader.h"

/* Sealing: what is being put into the POSITIONS chunk that goes with one EVENTS chunk. */
struct sealing {
    struct trace_reader *raw;
    struct trace_cursor *cursor; /* trace with positions: the events to compare with */
    uint64_t raw_end;
    uint64_t events; /* that have a position so far */
    position_t last;
    struct index_record chunk;        /* the EVENTS chunk at hand; its extra is 0 */
    uint64_t chunk_number, chunk_end; /* chunk_end: number of the first event after it; 0: none at hand */
    struct buffer positions;
    uint64_t positions_chunks;
    bool finished;
};

/* A keyframe to be written: copies of what its input points to. */
struct keyframe_job {
    struct trace_keyframe_input input;
    struct buffer state, frames, pages;
    bool copied; /* else the pages are still the caller's */
};

/*
 * What takes time (compressing pages) is done in the background. Its jobs use sink, the tables, store and frames: everyone
 * else calls writer_settle() before.
 */
struct trace_writer {
    struct chunk_sink sink;
    struct background *background;
    struct keyframe_job job;
    uint64_t bytes_before_job, learn_end;
    const uint8_t *image; /* still to be written; the caller's */
    size_t image_length;

    bool named;     /* the file is to be seen under its name */
    bool overwrite; /* it may replace another then */
    bool positions; /* trace_meta.positions */
    bool steps;     /* trace_writer_options.steps */
    struct ram_layout layout;

    struct event_context context;
    struct buffer events;
    uint64_t event_count, chunk_first;
    position_t chunk_position; /* of the first event in events */
    position_t previous, last_known;
    bool ended;

    struct index_array event_table, keyframe_table;
    struct page_store store;
    struct frame_map frames;
    struct sealing *sealing; /* NULL while recording */
};

/* Waits for the background; what has not been written of the preamble is. The sticky error, if there is one. */
int writer_settle(struct trace_writer *w, struct error *err) must_check;
/* The guest file, which goes before the first keyframe. */
int writer_write_image(struct trace_writer *w, struct error *err) must_check;
void writer_free_job(struct trace_writer *w);

/* Opens, locks and checks a file to write to. Returns the descriptor. */
int trace_open_locked(const char *path, int flags, struct error *err) must_check;

/* INDEX chunks of the events given and of the writer's keyframes, then the trailer. */
int trace_write_index(struct trace_writer *w, struct trailer *trailer, uint64_t events, index_source get,
                      void *context, struct error *err) must_check;
int trace_index_from_array(void *context, uint64_t n, struct index_record *out, struct error *err);
int trace_sync(struct trace_writer *w, struct error *err) must_check;

/* Frees all but sealing. */
void trace_writer_free(struct trace_writer *w);
void trace_sealing_destroy(struct trace_writer *w);

#endif
