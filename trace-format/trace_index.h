/*
 * The two tables of a trace, of event chunks and of keyframes: records of 32 bytes in order. In the file they are INDEX
 * chunks of equal size, so that the n-th record's place follows from n; a rebuilt one is kept in memory. And the
 * trailer, which says where they are. Internal to trace-format.
 */
#ifndef DEJAVM_TRACE_FORMAT_TRACE_INDEX_H
#define DEJAVM_TRACE_FORMAT_TRACE_INDEX_H

#include "trace-format/chunk.h"
#include "trace-format/trace_writer.h"

#define INDEX_RECORD_BYTES  ((size_t)32)
#define INDEX_CHUNK_RECORDS 256u
#define INDEX_CHUNK_BYTES   (CHUNK_HEADER_BYTES + INDEX_CHUNK_RECORDS * INDEX_RECORD_BYTES)
#define TRAILER_RAW_BYTES   ((size_t)192)
#define TRAILER_BYTES       (CHUNK_HEADER_BYTES + TRAILER_RAW_BYTES)

struct index_record {
    uint64_t offset; /* of the EVENTS or KEYFRAME chunk */
    uint64_t first;  /* number of its first event, or of the keyframe */
    uint64_t position;
    uint64_t extra; /* offset of the POSITIONS chunk, 0 = none; events before the keyframe */
};

/* A table in memory. */
struct index_array {
    struct index_record *records;
    size_t count, capacity;
};
int index_array_add(struct index_array *a, struct index_record record) must_check; /* -ENOMEM */
void index_array_free(struct index_array *a);

/* A table, wherever it is. */
struct index_table {
    bool keyframes;
    bool in_memory;
    struct index_array array;
    uint64_t offset, count; /* in the file */
    struct chunk_decoder decoder;
    uint64_t leaf; /* number of the INDEX chunk in leaf_records, or UINT64_MAX */
    struct index_record leaf_records[INDEX_CHUNK_RECORDS];
};
void index_table_init_memory(struct index_table *t, bool keyframes); /* takes over nothing; array is empty */
void index_table_init_file(struct index_table *t, bool keyframes, uint64_t offset, uint64_t count);
void index_table_free(struct index_table *t);
uint64_t index_table_count(const struct index_table *t);
int index_table_get(struct index_table *t, const struct chunk_source *s, uint64_t n, struct index_record *out,
                    struct error *err) must_check;

enum index_key { INDEX_BY_FIRST, INDEX_BY_POSITION };
/* *n = how many records from the start have a key <= (or, if strict, <) value. */
int index_table_search(struct index_table *t, const struct chunk_source *s, enum index_key key,
                       uint64_t value, bool strict, uint64_t *n, struct error *err) must_check;

struct trailer {
    uint64_t file_length; /* offset of the end of the trailer itself */
    uint64_t raw_end;     /* offset of the end of the first trailer: sealing data begins there */
    uint64_t seal_offset; /* of the SEAL chunk, 0 = unsealed */
    uint64_t events;
    struct chunk_statistics statistics; /* of all chunks before the trailer */
    uint64_t events_offset, events_records;
    uint64_t keyframes_offset, keyframes_records;
    bool complete; /* the stream ends with EVENT_END */
};

/* One record after the other of a table to be written. */
typedef int (*index_source)(void *context, uint64_t n, struct index_record *out, struct error *err);

/* Writes count records as INDEX chunks; *offset = where they begin. */
int index_write(struct chunk_sink *sink, bool keyframes, uint64_t count, index_source get, void *context,
                uint64_t *offset, struct error *err) must_check;

/* Fills in file_length, raw_end (if 0) and statistics, and appends the trailer. */
int trailer_write(struct chunk_sink *sink, struct trailer *t, struct error *err) must_check;

/* The trailer at offset. Damage if it is not one, or contradicts itself or the file's length. */
int trailer_read(struct trailer *t, const struct chunk_source *s, uint64_t offset, struct chunk_decoder *d,
                 struct error *err) must_check;

#define SEAL_RAW_BYTES ((size_t)80)
struct seal {
    struct trace_seal_summary summary;
    uint64_t keyframes, positions_chunks;
    uint64_t raw_end;
};
int seal_write(struct chunk_sink *sink, const struct seal *seal, uint64_t *offset,
               struct error *err) must_check;
int seal_read(struct seal *seal, const struct chunk_source *s, uint64_t offset, struct chunk_decoder *d,
              struct error *err) must_check;

#endif
