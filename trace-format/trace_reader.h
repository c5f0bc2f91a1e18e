/*
 * Reading a trace. Trusts nothing in the file; memory use is bounded whatever the file says and however long
 * it is (a few chunks and 32 bytes per chunk at most; the index of a finished trace is searched in the file). A missing or damaged index is
 * rebuilt by a scan. Damage gives ERROR_DAMAGED with the file offset and what was expected.
 */
#ifndef DEJAVM_TRACE_FORMAT_TRACE_READER_H
#define DEJAVM_TRACE_FORMAT_TRACE_READER_H

#include "trace-format/trace_writer.h"

struct trace_reader;

struct trace_info {
    struct trace_meta meta; /* strings live as long as the reader */
    uint32_t format_version;
    uint64_t file_bytes;
    uint64_t events; /* in the stream */
    bool complete;   /* the recording ended in order: EVENT_END is there */
    bool cut_short;  /* bytes at the end did not form a whole chunk, or no EVENT_END */
    bool sealed;
    struct trace_seal_summary seal; /* when sealed */
    uint64_t keyframes;
    uint64_t chunks;
    uint64_t stored_pages; /* unique pages in the page store */
    uint64_t bytes_events, bytes_pages, bytes_keyframes, bytes_positions, bytes_image, bytes_other;
    uint64_t image_length;
};

int trace_reader_open(struct trace_reader **out, const char *path, struct error *err) must_check;
/* From a file descriptor (kept open by the reader, a duplicate): for fuzzers and tests. */
int trace_reader_open_fd(struct trace_reader **out, int fd, struct error *err) must_check;
void trace_reader_close(struct trace_reader *r); /* NULL is fine */

const struct trace_info *trace_reader_info(const struct trace_reader *r);
int trace_reader_cpuid(struct trace_reader *r, struct buffer *out, struct error *err) must_check;
int trace_reader_image(struct trace_reader *r, struct buffer *out, struct error *err) must_check;
/* Reads the image's chunks and checks their checksums, without decompressing them. */
int trace_reader_check_image(struct trace_reader *r, struct error *err) must_check;

/*
 * A trace that is still being written, by this process: sees what has been added since. The writer must have been flushed, and
 * not be at work. Cursors that were at the end go on.
 */
int trace_reader_refresh(struct trace_reader *r, struct error *err) must_check;
/*
 * The position of an event of an unsealed trace without positions, as a replay found it; in order, each at least once. Cursors
 * give it from then on, and trace_reader_find_event finds events by it.
 */
int trace_reader_note_position(struct trace_reader *r, uint64_t event_index, position_t position,
                               struct error *err) must_check;

/* Events in order. An event and what it points to stay valid until the next call on the cursor. */
struct trace_cursor;
int trace_cursor_open(struct trace_cursor **out, struct trace_reader *r, uint64_t event_index,
                      struct error *err) must_check;
void trace_cursor_close(struct trace_cursor *c);
/* 1: *event filled in (with its position, if the trace is sealed or recorded with positions); 0: end. */
int trace_cursor_next(struct trace_cursor *c, struct event *event, struct error *err) must_check;
uint64_t trace_cursor_index(const struct trace_cursor *c); /* of the event that next() returns next */
/* Makes event_index the next one. Cheap inside the chunk at hand, in both directions; otherwise as a new cursor. */
int trace_cursor_seek(struct trace_cursor *c, uint64_t event_index, struct error *err) must_check;

/* Index of the first event whose position is >= position (sealed, or recorded with positions). */
int trace_reader_find_event(struct trace_reader *r, position_t position, uint64_t *event_index,
                            struct error *err) must_check;

struct trace_keyframe_info {
    uint64_t index;
    position_t position;
    uint64_t events_before;
    uint64_t console_bytes_before;
    struct hash128 ram_digest;
};
/* The last keyframe at or before position. There is always one at 0, or the trace is damaged. */
int trace_reader_find_keyframe(struct trace_reader *r, position_t position, struct trace_keyframe_info *out,
                               struct error *err) must_check;
int trace_reader_keyframe_info(struct trace_reader *r, uint64_t index, struct trace_keyframe_info *out,
                               struct error *err) must_check;
/*
 * Loads one: the encoded state into *state; and place(context, gfn) for every frame that is not zero there gives where its
 * 4096 bytes go (NULL: the frame is outside RAM, which is damage). Every frame is asked for at most once. Pages not
 * asked for are zero. The content hash of each page is checked.
 */
int trace_reader_load_keyframe(struct trace_reader *r, uint64_t index, struct buffer *state,
                               uint8_t *(*place)(void *context, gfn_t gfn), void *context,
                               struct error *err) must_check;

#endif
