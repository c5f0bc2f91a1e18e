/* Block device, virtio 5.2. */
#include "devices/virtio/devices.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "devices/block_backend.h"
#include "devices/device.h"
#include "devices/virtio/virtio.h"

enum block_feature { /* bit numbers, virtio 5.2.3 */
                     VIRTIO_BLK_F_SIZE_MAX = 1,
                     VIRTIO_BLK_F_SEG_MAX = 2,
                     VIRTIO_BLK_F_RO = 5,
                     VIRTIO_BLK_F_BLK_SIZE = 6,
                     VIRTIO_BLK_F_FLUSH = 9,
                     VIRTIO_BLK_F_DISCARD = 13,
                     VIRTIO_BLK_F_WRITE_ZEROES = 14,
};

enum block_request { /* virtio 5.2.6 */
                     VIRTIO_BLK_T_IN = 0,
                     VIRTIO_BLK_T_OUT = 1,
                     VIRTIO_BLK_T_FLUSH = 4,
                     VIRTIO_BLK_T_GET_ID = 8,
                     VIRTIO_BLK_T_DISCARD = 11,
                     VIRTIO_BLK_T_WRITE_ZEROES = 13,
};

enum block_status { VIRTIO_BLK_S_OK, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_UNSUPP };

struct block_config {  /* struct virtio_blk_config, virtio 5.2.4; little-endian, as the host is */
    uint64_t capacity; /* sectors of 512 bytes */
    uint32_t size_max, seg_max;
    uint8_t geometry[4];
    uint32_t blk_size;
    uint8_t topology[8];
    uint8_t writeback, unused0;
    uint16_t num_queues;
    uint32_t max_discard_sectors, max_discard_seg, discard_sector_alignment;
    uint32_t max_write_zeroes_sectors, max_write_zeroes_seg;
    uint8_t write_zeroes_may_unmap, unused1[3];
};
_Static_assert(sizeof(struct block_config) == 64 &&
                   offsetof(struct block_config, write_zeroes_may_unmap) == 56,
               "as virtio 5.2.4 has it");
#define CONFIG_BYTES 60u

struct block_header { /* of a request, virtio 5.2.6 */
    uint32_t type, reserved;
    uint64_t sector;
};

struct block_range { /* of DISCARD and WRITE_ZEROES */
    uint64_t sector;
    uint32_t sectors, flags;
};
#define RANGE_F_UNMAP 1u

#define SEGMENT_MAX_BYTES 65536u
#define SEGMENTS_MAX      (VIRTIO_QUEUE_SIZE - 2) /* and the header and the status */
#define REQUEST_MAX_BYTES (SEGMENT_MAX_BYTES * SEGMENTS_MAX)
#define RANGES_MAX        16u
#define RANGE_MAX_SECTORS 131072u /* 64 MiB */
#define ID_BYTES          20u
#define BUFFER_BYTES      ((size_t)1 << 20)
#define BATCH_BYTES       ((uint64_t)64 << 20) /* handled between two instructions of the guest, at most */

struct block {
    struct virtio_device *virtio;
    struct block_backend *backend;
    bool read_only;
    char id[ID_BYTES]; /* not terminated when it is that long */
    struct block_config config;
    struct virtio_chain chain; /* the request that is handled */
    uint64_t cleared_bytes;    /* by it */
    uint8_t buffer[BUFFER_BYTES];
};

/* ---- requests ---- */

/* The host's failure is the guest's I/O error; the trace keeps the reason. */
static enum block_status backend_status(struct block *b, int status, const char *what, uint64_t offset)
{
    if (status == 0)
        return VIRTIO_BLK_S_OK;
    virtio_note(b->virtio, "%s at byte %" PRIu64 " of the disk failed: %s", what, offset, strerror(-status));
    return VIRTIO_BLK_S_IOERR;
}

static bool within_disk(const struct block *b, uint64_t sector, uint64_t bytes)
{
    return bytes % BLOCK_SECTOR_BYTES == 0 && sector <= b->config.capacity &&
           bytes / BLOCK_SECTOR_BYTES <= b->config.capacity - sector;
}

/* What virtio 5.2.6.1 asks of a driver's reads and writes; else the request fails. */
static bool transfer_is_good(struct block *b, const char *what, uint64_t sector, uint32_t bytes)
{
    if (!within_disk(b, sector, bytes))
        virtio_note(b->virtio,
                    "a %s of %" PRIu32 " bytes at sector %" PRIu64 " is not whole sectors of the disk", what,
                    bytes, sector);
    else if (bytes > REQUEST_MAX_BYTES)
        virtio_note(b->virtio, "a %s of %" PRIu32 " bytes is longer than size_max and seg_max allow", what,
                    bytes);
    else
        return true;
    return false;
}

static enum block_status read_sectors(struct block *b, uint64_t sector, uint32_t bytes)
{
    enum block_status status = VIRTIO_BLK_S_OK;
    if (!transfer_is_good(b, "read", sector, bytes))
        return VIRTIO_BLK_S_IOERR;
    for (uint32_t done = 0; done < bytes && status == VIRTIO_BLK_S_OK;) {
        uint32_t now = bytes - done < BUFFER_BYTES ? bytes - done : (uint32_t)BUFFER_BYTES;
        uint64_t offset = sector * BLOCK_SECTOR_BYTES + done;
        status = backend_status(b, block_backend_read(b->backend, offset, b->buffer, now), "reading", offset);
        if (status == VIRTIO_BLK_S_OK)
            virtio_chain_write(b->virtio, &b->chain, done, b->buffer, now);
        done += now;
    }
    return status;
}

static enum block_status flush(struct block *b)
{
    return b->read_only ? VIRTIO_BLK_S_OK : backend_status(b, block_backend_flush(b->backend), "flushing", 0);
}

static enum block_status write_sectors(struct block *b, uint64_t sector, uint32_t bytes)
{
    enum block_status status = VIRTIO_BLK_S_OK;
    if (b->read_only || !transfer_is_good(b, "write", sector, bytes))
        return VIRTIO_BLK_S_IOERR;
    for (uint32_t done = 0; done < bytes && status == VIRTIO_BLK_S_OK;) {
        uint32_t now = bytes - done < BUFFER_BYTES ? bytes - done : (uint32_t)BUFFER_BYTES;
        uint64_t offset = sector * BLOCK_SECTOR_BYTES + done;
        virtio_chain_read(b->virtio, &b->chain, (uint32_t)sizeof(struct block_header) + done, b->buffer, now);
        status =
            backend_status(b, block_backend_write(b->backend, offset, b->buffer, now), "writing", offset);
        done += now;
    }
    /* A driver that cannot flush expects what was written to be safe (virtio 5.2.6.2). */
    if (status == VIRTIO_BLK_S_OK && !virtio_has_feature(b->virtio, VIRTIO_BLK_F_FLUSH))
        status = flush(b);
    return status;
}

static enum block_status clear_range(struct block *b, bool discard, const struct block_range *r)
{
    uint64_t bytes = (uint64_t)r->sectors * BLOCK_SECTOR_BYTES, offset = r->sector * BLOCK_SECTOR_BYTES;
    if (r->flags & ~(discard ? 0 : RANGE_F_UNMAP)) /* virtio 5.2.6.2 */
        return VIRTIO_BLK_S_UNSUPP;
    if (!within_disk(b, r->sector, bytes) || r->sectors > RANGE_MAX_SECTORS) {
        virtio_note(b->virtio, "a range of %" PRIu32 " sectors from %" PRIu64 " on cannot be cleared",
                    r->sectors, r->sector);
        return VIRTIO_BLK_S_IOERR;
    }
    b->cleared_bytes += bytes;
    return backend_status(b,
                          discard ? block_backend_discard(b->backend, offset, bytes)
                                  : block_backend_zero(b->backend, offset, bytes, r->flags & RANGE_F_UNMAP),
                          "clearing", offset);
}

static enum block_status clear_ranges(struct block *b, bool discard, uint32_t bytes)
{
    struct block_range range[RANGES_MAX];
    enum block_status status = VIRTIO_BLK_S_OK;
    if (!virtio_has_feature(b->virtio, discard ? VIRTIO_BLK_F_DISCARD : VIRTIO_BLK_F_WRITE_ZEROES))
        return VIRTIO_BLK_S_UNSUPP;
    if (b->read_only || bytes == 0 || bytes % sizeof(range[0]) || bytes > sizeof(range))
        return VIRTIO_BLK_S_IOERR;
    virtio_chain_read(b->virtio, &b->chain, sizeof(struct block_header), range, bytes);
    for (size_t i = 0; i < bytes / sizeof(range[0]) && status == VIRTIO_BLK_S_OK; i++)
        status = clear_range(b, discard, &range[i]);
    return status;
}

static enum block_status get_id(struct block *b, uint32_t bytes)
{
    virtio_chain_write(b->virtio, &b->chain, 0, b->id, bytes < ID_BYTES ? bytes : ID_BYTES);
    return VIRTIO_BLK_S_OK;
}

/* Returns how many bytes the request moved or cleared. The last byte that the device may write is the status (virtio 5.2.6). */
static uint64_t handle(struct block *b)
{
    struct block_header header;
    const struct virtio_chain *c = &b->chain;
    if (c->readable_bytes < sizeof(header) || c->writable_bytes == 0) {
        virtio_broken(b->virtio,
                      "a request of %" PRIu32 " bytes to read and %" PRIu32
                      " to write has no room for its header and status",
                      c->readable_bytes, c->writable_bytes);
        return 0;
    }
    virtio_chain_read(b->virtio, c, 0, &header, sizeof(header));
    uint32_t in = c->writable_bytes - 1, out = c->readable_bytes - (uint32_t)sizeof(header);
    uint8_t status = VIRTIO_BLK_S_UNSUPP;
    b->cleared_bytes = 0;
    switch (header.type) {
    case VIRTIO_BLK_T_IN:
        status = (uint8_t)read_sectors(b, header.sector, in);
        break;
    case VIRTIO_BLK_T_OUT:
        status = (uint8_t)write_sectors(b, header.sector, out);
        break;
    case VIRTIO_BLK_T_FLUSH:
        status = (uint8_t)flush(b);
        break;
    case VIRTIO_BLK_T_GET_ID:
        status = (uint8_t)get_id(b, in);
        break;
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
        status = (uint8_t)clear_ranges(b, header.type == VIRTIO_BLK_T_DISCARD, out);
        break;
    default:
        break;
    }
    virtio_chain_write(b->virtio, c, in, &status, 1);
    /* Where the data before the status were not written, none of the length can be claimed (virtio 2.7.8.2). */
    bool filled = in == 0 || (header.type == VIRTIO_BLK_T_IN && status == VIRTIO_BLK_S_OK) ||
                  (header.type == VIRTIO_BLK_T_GET_ID && in <= ID_BYTES);
    virtqueue_push(b->virtio, 0, c, filled ? c->writable_bytes : 0);
    return (uint64_t)in + out + b->cleared_bytes;
}

static void notify(void *device, unsigned queue)
{
    struct block *b = device;
    uint64_t moved = 0;
    while (moved < BATCH_BYTES && virtqueue_pop(b->virtio, queue, &b->chain) > 0)
        moved += handle(b);
    if (moved >= BATCH_BYTES)
        virtio_schedule(b->virtio, queue);
}

/* ---- attaching ---- */

static const struct virtio_type type = {
    .name = "virtio-blk",
    .id = VIRTIO_ID_BLOCK,
    .class_code = 0x010000, /* mass storage, SCSI */
    .queues = 1,
    .notify = notify,
};

static void close_backend(void *device)
{
    struct block *b = device;
    block_backend_close(b->backend);
}

/* The start of the file's name, so that several disks can be told apart; as text that a driver can put anywhere. */
static void choose_id(struct block *b, const char *path)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    for (size_t i = 0; i < ID_BYTES && name[i]; i++) {
        char c = name[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
                     c == '-';
        b->id[i] = plain ? c : '_';
    }
}

static uint64_t features(const struct block *b)
{
    uint64_t common = 1u << VIRTIO_BLK_F_SIZE_MAX | 1u << VIRTIO_BLK_F_SEG_MAX | 1u << VIRTIO_BLK_F_BLK_SIZE;
    return common | (b->read_only ? 1u << VIRTIO_BLK_F_RO
                                  : 1u << VIRTIO_BLK_F_FLUSH | 1u << VIRTIO_BLK_F_DISCARD |
                                        1u << VIRTIO_BLK_F_WRITE_ZEROES);
}

int virtio_block_attach(struct machine *m, struct pci_bus *bus, const struct board_disk *disk,
                        struct error *err)
{
    struct block *b = device_create(m, sizeof(*b), type.name, err);
    if (!b)
        return -ENOMEM;
    int status = block_backend_open(&b->backend, disk, err);
    if (status < 0)
        return status;
    status = machine_on_destroy(m, close_backend, b, err);
    if (status < 0) {
        block_backend_close(b->backend);
        return status;
    }
    b->read_only = disk->read_only;
    choose_id(b, disk->path);
    b->config = (struct block_config){
        .capacity = block_backend_bytes(b->backend) / BLOCK_SECTOR_BYTES,
        .size_max = SEGMENT_MAX_BYTES,
        .seg_max = SEGMENTS_MAX,
        .blk_size = BLOCK_SECTOR_BYTES,
        .num_queues = 1,
        .max_discard_sectors = RANGE_MAX_SECTORS,
        .max_discard_seg = RANGES_MAX,
        .discard_sector_alignment = 8,
        .max_write_zeroes_sectors = RANGE_MAX_SECTORS,
        .max_write_zeroes_seg = RANGES_MAX,
        .write_zeroes_may_unmap = 1,
    };
    struct virtio_instance instance = {.type = &type,
                                       .device = b,
                                       .features = features(b),
                                       .config = (const uint8_t *)&b->config,
                                       .config_bytes = CONFIG_BYTES};
    return virtio_pci_attach(m, bus, &instance, &b->virtio, err);
}
