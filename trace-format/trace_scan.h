/* Finding out what is in a trace without its index: one pass over the chunk headers. Internal to trace-format. */
#ifndef DEJAVM_TRACE_FORMAT_TRACE_SCAN_H
#define DEJAVM_TRACE_FORMAT_TRACE_SCAN_H

#include "trace-format/trace_index.h"

struct trace_scan {
    struct index_array events, keyframes; /* 32 bytes per EVENTS or KEYFRAME chunk */
    struct chunk_statistics statistics;
    uint64_t event_count;
    bool complete;        /* EVENT_END is there */
    bool cut;             /* the file ends inside a chunk */
    uint64_t raw_end;     /* end of the first TRAILER; 0 if there is none */
    uint64_t whole_end;   /* end of the last whole chunk of what counts */
    uint64_t seal_offset; /* 0: unsealed, and any sealing data is left out of all of the above */
    struct seal seal;
    bool damaged; /* the event stream may go on behind a damaged chunk header: damage says where */
    struct error damage;
};

/* Negative only when the file cannot be read, or without memory; free the result in any case. */
int trace_scan(struct trace_scan *scan, const struct chunk_source *s, struct chunk_decoder *d,
               struct error *err) must_check;
void trace_scan_free(struct trace_scan *scan);

#endif
