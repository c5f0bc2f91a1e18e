/*
 * The disk behind a virtio block device: a raw file, a host's block device, or a qcow2 image, and where the guest's writes go.
 *
 * Unless the disk is read-only or write-through, what the guest writes goes to a sparse temporary file without a name, in TMPDIR or
 * /var/tmp, 4 KiB blocks, at most as large as the disk: the disk's own file is opened for reading only.
 */
#ifndef DEJAVM_DEVICES_BLOCK_BACKEND_H
#define DEJAVM_DEVICES_BLOCK_BACKEND_H

#include "core/base/error.h"
#include "devices/devices.h"

#define BLOCK_SECTOR_BYTES   512u
#define BLOCK_DISK_MAX_BYTES ((uint64_t)1 << 44) /* 16 TiB */

struct block_backend;

/*
 * Told by its first bytes what the file is. The messages name the file: it does not exist, is a directory, is not a multiple of 512
 * bytes, is in use by another program, is a damaged image, or needs a package that is not installed.
 */
int block_backend_open(struct block_backend **out, const struct board_disk *disk,
                       struct error *err) must_check;
void block_backend_close(struct block_backend *b); /* NULL is fine */

uint64_t block_backend_bytes(const struct block_backend *b); /* a multiple of 512, not 0 */

/*
 * Offset and length are multiples of 512, and the range lies within the disk. Negative errno where the host fails: -ENOSPC,
 * -EIO, ... The last four are for disks that are not read-only.
 */
int block_backend_read(struct block_backend *b, uint64_t offset, void *out, size_t length) must_check;
int block_backend_write(struct block_backend *b, uint64_t offset, const void *data, size_t length) must_check;
/* Makes the range zero; may_unmap: and gives its space back if it can. */
int block_backend_zero(struct block_backend *b, uint64_t offset, uint64_t length, bool may_unmap) must_check;
/* The guest does not need the range's content any more. */
int block_backend_discard(struct block_backend *b, uint64_t offset, uint64_t length) must_check;
/* What was written is to survive the host's crash. */
int block_backend_flush(struct block_backend *b) must_check;

#endif
