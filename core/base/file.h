/* Whole files in memory. */
#ifndef DEJAVM_CORE_BASE_FILE_H
#define DEJAVM_CORE_BASE_FILE_H

#include "core/base/buffer.h"
#include "core/base/error.h"

/* Reads a regular file of at most max_bytes into out (freed by the caller). Messages name the path. */
int file_read(const char *path, size_t max_bytes, struct buffer *out, struct error *err) must_check;

#endif
