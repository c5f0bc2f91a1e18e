/* The META chunk: facts about the recording as key, length, value. Internal to trace-format. */
#ifndef DEJAVM_TRACE_FORMAT_TRACE_META_H
#define DEJAVM_TRACE_FORMAT_TRACE_META_H

#include "trace-format/chunk.h"
#include "trace-format/frame_map.h"
#include "trace-format/trace_writer.h"

/* -EINVAL for sizes of RAM that the format does not have, or texts that are too long. */
int trace_meta_encode(const struct trace_meta *meta, uint64_t image_length, struct buffer *out,
                      struct error *err) must_check;

/* *strings holds the texts (free it with the reader). 0, -ENOMEM, or -EBADMSG with *why. */
int trace_meta_decode(struct trace_meta *meta, uint64_t *image_length, char **strings, const uint8_t *data,
                      size_t length, const char **why) must_check;

static inline struct ram_layout trace_meta_layout(const struct trace_meta *meta)
{
    return (struct ram_layout){meta->ram_bytes >> PAGE_SHIFT, meta->ram_low_bytes >> PAGE_SHIFT};
}

#endif
