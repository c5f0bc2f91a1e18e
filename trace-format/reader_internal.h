/* What the files of the reader share. Internal to trace-format. */
#ifndef DEJAVM_TRACE_FORMAT_READER_INTERNAL_H
#define DEJAVM_TRACE_FORMAT_READER_INTERNAL_H

#include "trace-format/frame_map.h"
#include "trace-format/trace_index.h"
#include "trace-format/trace_reader.h"

struct trace_reader {
    struct chunk_source source;
    char *path;
    char *strings;
    struct trace_info info;
    struct chunk_statistics statistics;
    struct index_table events, keyframes;
    struct chunk_decoder decoder;
    uint64_t after_meta; /* where the chunk behind META begins */
    uint64_t raw_end;    /* end of the first TRAILER, or 0 */
    uint64_t whole_end;  /* end of the last whole chunk that counts */
    bool damaged;        /* by the scan: the stream may go on where it cannot be read */
    struct error damage;
    position_t *noted; /* trace_reader_note_position: of the first events */
    size_t noted_count, noted_capacity;
};

/* path is for messages. Takes over fd, also on failure. */
int trace_reader_open_named(struct trace_reader **out, int fd, const char *path,
                            struct error *err) must_check;

/* As index_table_get and index_table_search; an index that turns out to be damaged is rebuilt. */
int reader_record(struct trace_reader *r, struct index_table *t, uint64_t n, struct index_record *out,
                  struct error *err) must_check;
int reader_search(struct trace_reader *r, struct index_table *t, enum index_key key, uint64_t value,
                  bool strict, uint64_t *n, struct error *err) must_check;

#endif
