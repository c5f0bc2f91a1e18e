/*
 * Chunks: the unit of a trace file. A header of fixed size, its own checksum, then the payload, stored as it is or
 * compressed by zstd, with a checksum of the stored bytes. Internal to trace-format; layouts are in SPEC.md.
 */
#ifndef DEJAVM_TRACE_FORMAT_CHUNK_H
#define DEJAVM_TRACE_FORMAT_CHUNK_H

#include "core/base/buffer.h"
#include "core/base/error.h"
#include "core/base/types.h"

#define TRACE_FORMAT_VERSION       1u
#define TRACE_FORMAT_VERSION_STEPS 2u /* with events placed by steps */
#define TRACE_FILE_HEADER_BYTES    ((size_t)64)

#define CHUNK_MAGIC          0x434d5644u /* "DVMC" */
#define CHUNK_HEADER_BYTES   ((size_t)56)
#define CHUNK_MAX_RAW_BYTES  ((size_t)16 << 20)
#define CHUNK_TYPE_ANCILLARY 128 /* types from here on may be skipped by a reader that does not know them */
#define CHUNK_FLAG_END       1   /* EVENTS: the last event is EVENT_END */
#define CHUNK_FLAG_KEYFRAMES 1   /* INDEX: of the keyframe table */

#define EVENTS_TARGET_RAW_BYTES  ((size_t)256 << 10)
#define EVENTS_MAX_RAW_BYTES     ((size_t)4 << 20)
#define EVENTS_MAX_COUNT         ((uint64_t)1 << 18)
#define PAGES_MAX_COUNT          64u
#define PAGES_ENTRY_BYTES        (16 + PAGE_SIZE_BYTES)
#define KEYFRAME_PAGES_MAX_COUNT 65536u
#define IMAGE_CHUNK_BYTES        ((size_t)1 << 20)
#define IMAGE_MAX_BYTES          ((uint64_t)1 << 30)
#define META_MAX_BYTES           ((size_t)1 << 20)
#define CPUID_MAX_BYTES          ((size_t)1 << 20)
#define STATE_MAX_BYTES          ((size_t)1 << 20)
#define TRACE_MAX_RAM_BYTES      ((uint64_t)64 << 30)

enum chunk_type {
    CHUNK_META = 1,
    CHUNK_CPUID,
    CHUNK_IMAGE,
    CHUNK_PAGES,
    CHUNK_KEYFRAME_PAGES,
    CHUNK_KEYFRAME,
    CHUNK_EVENTS,
    CHUNK_POSITIONS,
    CHUNK_SEAL,
    CHUNK_INDEX,
    CHUNK_TRAILER,
    CHUNK_TYPE_COUNT
};

enum chunk_compression { CHUNK_STORED = 0, CHUNK_ZSTD = 1 };

struct chunk_header {
    uint8_t type;
    uint8_t compression;
    uint8_t flags;
    uint32_t stored_length;
    uint32_t raw_length;
    uint64_t first; /* number of the first thing in it: event, keyframe, image byte, index record */
    uint64_t count; /* how many things are in it; KEYFRAME: the events before it */
    uint64_t position;
    uint64_t payload_checksum;
};

const char *chunk_type_name(uint8_t type); /* "EVENTS"; "unknown" for anything else */

static inline uint64_t chunk_file_bytes(const struct chunk_header *h)
{
    return CHUNK_HEADER_BYTES + (uint64_t)h->stored_length;
}

/* What is counted over all chunks, for trace_info. */
struct chunk_statistics {
    uint64_t chunks;
    uint64_t stored_pages;
    uint64_t bytes_events, bytes_pages, bytes_keyframes, bytes_positions, bytes_image, bytes_other;
};
void chunk_statistics_add(struct chunk_statistics *s, const struct chunk_header *h);

/* Writing. One sink per file; the first failure sticks, and leaves the file cut back to its last whole chunk. */
struct ZSTD_CCtx_s;
struct chunk_sink {
    int fd;
    char *path;
    uint64_t end; /* of the last whole chunk: where the next one goes */
    int level;
    struct ZSTD_CCtx_s *compressor;
    struct buffer out;
    struct chunk_statistics statistics;
    bool failed;
    struct error failure;
};

/* Takes over fd (also on failure); copies path. */
int chunk_sink_open(struct chunk_sink *s, int fd, const char *path, int level, struct error *err) must_check;
void chunk_sink_close(struct chunk_sink *s);
/* The sticky error, if there is one; else 0. */
int chunk_sink_check(const struct chunk_sink *s, struct error *err) must_check;
/* Makes an error sticky and cuts the file back to end. Returns code. */
int chunk_sink_fail(struct chunk_sink *s, int code, const char *what, struct error *err);
/* Appends bytes as they are (the file header); counted as written when all of them are. */
int chunk_sink_write(struct chunk_sink *s, const void *data, size_t length, struct error *err) must_check;
/*
 * Appends a chunk: of h, type, flags, first, count and position are used. payload is compressed when that makes it
 * smaller and compress is true. *offset (may be NULL) = where the chunk begins.
 */
int chunk_append(struct chunk_sink *s, const struct chunk_header *h, const uint8_t *payload, size_t length,
                 bool compress, uint64_t *offset, struct error *err) must_check;

/* Reading. */
struct chunk_source {
    int fd;
    const char *path; /* for messages */
    uint64_t size;    /* of the file when it was opened */
};

struct ZSTD_DCtx_s;
struct chunk_decoder {
    struct ZSTD_DCtx_s *decompressor;
    struct buffer stored, raw;
};
void chunk_decoder_free(struct chunk_decoder *d);

/* A chunk in memory; raw is the decoder's, until it decodes the next one. */
struct chunk {
    struct chunk_header header;
    uint64_t offset;
    const uint8_t *raw;
};

/* "PATH: damaged at offset N: ..." Returns -EBADMSG. */
int trace_damaged(const struct chunk_source *s, uint64_t offset, struct error *err, const char *format, ...)
    format_printf(4, 5);

/* Exactly length bytes; fewer (the file shrank) is damage. */
int chunk_source_read(const struct chunk_source *s, uint64_t offset, void *out, size_t length,
                      struct error *err) must_check;

enum { CHUNK_CUT = 1 };
/*
 * Header at offset, checked. CHUNK_CUT: the file ends before the chunk does, or continues with a header's length of
 * zeros (a file system after a power failure).
 */
int chunk_read_header(const struct chunk_source *s, uint64_t offset, struct chunk_header *h,
                      struct error *err) must_check;
/* Header and payload; of that type, or it is damage. */
int chunk_read(const struct chunk_source *s, uint64_t offset, enum chunk_type type, struct chunk_decoder *d,
               struct chunk *out, struct error *err) must_check;

/* As chunk_read, but it is not decompressed: out->raw stays NULL. */
int chunk_check(const struct chunk_source *s, uint64_t offset, enum chunk_type type, struct chunk_decoder *d,
                struct chunk *out, struct error *err) must_check;

/* The longest payload that a type may have. */
size_t chunk_max_raw(uint8_t type);

#endif
