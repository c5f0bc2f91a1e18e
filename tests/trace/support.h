/* What the trace tests share: random numbers, a scratch file, a model of a recording, a walk over a whole trace. */
#ifndef DEJAVM_TESTS_TRACE_SUPPORT_H
#define DEJAVM_TESTS_TRACE_SUPPORT_H

#include "trace-format/trace_reader.h"
#include "trace-format/trace_writer.h"

struct random {
    uint64_t state;
};
uint64_t random_u64(struct random *r);
/* 0 <= result < bound */
uint64_t random_below(struct random *r, uint64_t bound);
/* All magnitudes are equally likely. */
uint64_t random_magnitude(struct random *r);

/* A name in $TMPDIR or /tmp that nobody uses; free() it. */
char *scratch_path(void);
uint8_t *read_whole_file(const char *path, size_t *length);
void write_whole_file(const char *path, const uint8_t *data, size_t length);

/* Prints err and ends the test program when code is negative. */
void must(int code, const struct error *err);

extern const struct trace_meta test_meta; /* 4 MiB of RAM, 2 of them low; no positions */

/* Creates path (overwriting it) with some CPUID bytes and an image of image_length bytes. */
struct trace_writer *create_trace(const char *path, bool positions, size_t image_length);
/* steps: in format version 2, where events may be placed by steps. */
struct trace_writer *create_trace_with_steps(const char *path, bool positions, size_t image_length,
                                             bool steps);

/* A random correct event; data and landmark point into the store, until its next use. */
struct event_store {
    uint8_t *data;
    struct landmark landmark;
    struct landmark_page pages[64];
    position_t position; /* grows */
    bool positions;      /* of the trace */
    bool steps;          /* PLACE_STEPS may occur */
};
void random_event(struct random *r, struct event_store *s, struct event *out);
void event_store_free(struct event_store *s);
/* NULL, or which part differs. Positions are compared as well. */
const char *event_difference(const struct event *a, const struct event *b);
/* The data and landmark of a copy are its own. */
struct event event_copy(const struct event *e);
void event_free(struct event *e);

/* RAM of a recording, as a plain array. */
#define TEST_RAM_PAGES 1024u
struct test_ram {
    uint8_t *bytes; /* TEST_RAM_PAGES pages */
};
gfn_t test_frame(unsigned page);                    /* of test_meta's layout */
const uint8_t *test_ram_page(void *ram, gfn_t gfn); /* for trace_keyframe_input.page */
uint8_t *test_ram_place(void *ram, gfn_t gfn);      /* for trace_reader_load_keyframe */

#define SMALL_TRACE_FLUSH 25 /* events per chunk */
struct small_trace {
    uint64_t events, keyframes;
};
/*
 * A trace (with an odd seed and without positions: of format version 2) with all kinds of events, several chunks, and if sealed, positions and keyframes. With end: EVENT_END is
 * there and the trace is finished; without, the writer is dropped after a flush.
 */
struct small_trace make_small_trace(const char *path, uint64_t seed, bool positions, bool end, bool seal);
/* Seals with keyframes after every n-th event. */
void seal_small_trace(const char *path, uint64_t seed, unsigned keyframes);

/*
 * Reads everything that a trace has, by every public function. 0, or the first error; *events = how many were read
 * in order. Ends the program if the reader breaks its contract.
 */
int walk_trace(int fd, uint64_t *events, struct error *err);

#endif
