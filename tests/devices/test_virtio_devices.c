/* The virtio block device, console and source of random numbers, as their drivers see them. */
#include "tests/devices/virtio_rig.h"

#include <stdio.h>
#include <unistd.h>

enum { BLK_F_RO = 5, BLK_F_FLUSH = 9, BLK_F_DISCARD = 13, BLK_F_WRITE_ZEROES = 14 };
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK, S_IOERR, S_UNSUPP };
#define DISK_SECTORS 4096u

struct disk {
    struct rig *r;
    struct vdev v;
    struct ring q;
    char path[64];
    gpa_t data, header, status;
};

/* Each sector holds its number, in every 32-bit word. */
static void make_disk(struct disk *d)
{
    uint32_t words[128];
    strcpy(d->path, "/tmp/dejavm-virtio-disk-with-a-long-name-XXXXXX");
    int fd = mkstemp(d->path);
    assert_true(fd >= 0);
    for (uint32_t i = 0; i < DISK_SECTORS; i++) {
        for (unsigned k = 0; k < 128; k++)
            words[k] = i;
        assert_int_equal(write(fd, words, sizeof(words)), sizeof(words));
    }
    close(fd);
}

static int setup(void **state)
{
    struct disk *d = calloc(1, sizeof(*d));
    assert_non_null(d);
    make_disk(d);
    d->r = rig_create();
    *state = d;
    return 0;
}

static int teardown(void **state)
{
    struct disk *d = *state;
    rig_destroy(d->r);
    unlink(d->path);
    free(d);
    return 0;
}

static void attach(struct disk *d, bool read_only, bool write_through, uint64_t features)
{
    struct error err;
    const struct board_disk disk = {.path = d->path, .read_only = read_only, .write_through = write_through};
    assert_int_equal(virtio_block_attach(d->r->m, d->r->bus, &disk, &err), 0);
    vdev_find(d->r, VIRTIO_ID_BLOCK, &d->v);
    assert_int_equal(vdev_negotiate(&d->v, BIT(F_VERSION_1) | features), ACKNOWLEDGE | DRIVER | FEATURES_OK);
    ring_setup(&d->v, 0, 16, &d->q);
    vdev_driver_ok(&d->v);
    d->data = rig_alloc(d->r, 20 << 20);
    d->header = rig_alloc(d->r, 16);
    d->status = rig_alloc(d->r, 1);
}

/* A request with its data in one buffer; returns the status, and the used length by written. */
static unsigned request(struct disk *d, uint32_t type, uint64_t sector, uint32_t length, bool device_writes,
                        uint32_t *written)
{
    uint32_t head, used;
    const struct buffer_spec buffers[] = {
        {d->header, 16, false}, {d->data, length, device_writes}, {d->status, 1, true}};
    rig_put(d->r, d->header, 4, type);
    rig_put(d->r, d->header + 8, 8, sector);
    rig_put(d->r, d->status, 1, 0xff);
    uint16_t mine = ring_add(&d->q, buffers, 3);
    vdev_notify(&d->v, 0);
    assert_true(ring_used(&d->q, &head, &used));
    assert_int_equal(head, mine);
    if (written)
        *written = used;
    return (unsigned)rig_get(d->r, d->status, 1);
}

/* Of the data. */
static gpa_t at_sector(const struct disk *d, uint32_t index)
{
    return d->data + (gpa_t)512 * index;
}

static void assert_sectors(struct disk *d, uint32_t first, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(rig_get(d->r, at_sector(d, i), 4), first + i);
        assert_int_equal(rig_get(d->r, at_sector(d, i) + 508, 4), first + i);
    }
}

static uint32_t file_word(struct disk *d, uint32_t sector)
{
    uint32_t word = 0;
    FILE *f = fopen(d->path, "r");
    assert_non_null(f);
    assert_int_equal(fseek(f, 512 * (long)sector, SEEK_SET), 0);
    assert_int_equal(fread(&word, 4, 1, f), 1);
    fclose(f);
    return word;
}

static void the_disk_is_described(void **state)
{
    struct disk *d = *state;
    attach(d, false, false, 0);
    assert_int_equal(vdev_config(&d->v, 0, 8), DISK_SECTORS);
    assert_int_equal(vdev_config(&d->v, 20, 4), 512);
    assert_int_equal(vdev_config(&d->v, 12, 4), 254);
    assert_int_equal(vdev_config(&d->v, 8, 4), 65536);
    assert_int_equal(vdev_config(&d->v, 36, 4),
                     vdev_config(&d->v, 48, 4)); /* discard, write zeroes: sectors */
    assert_int_equal(vdev_config(&d->v, 56, 1), 1);
    assert_int_equal(vdev_offered(&d->v) & 0xffffff, BIT(1) | BIT(2) | BIT(6) | BIT(BLK_F_FLUSH) |
                                                         BIT(BLK_F_DISCARD) | BIT(BLK_F_WRITE_ZEROES));
}

static void sectors_are_read(void **state)
{
    struct disk *d = *state;
    uint32_t written;
    attach(d, false, false, 0);
    assert_int_equal(request(d, T_IN, 17, 8 * 512, true, &written), S_OK);
    assert_int_equal(written, 8 * 512 + 1);
    assert_sectors(d, 17, 8);
    /* Two events for the data of 1.5 MiB (each holds 1 MiB); the status, and the ring: the entry and the index. */
    d->r->writes = 0;
    assert_int_equal(request(d, T_IN, 5, 3072 * 512, true, &written), S_OK);
    assert_int_equal(d->r->writes, 2 + 3);
    assert_sectors(d, 5, 3072);
    assert_int_equal(request(d, T_IN, 3, 0, true, &written), S_OK);
    assert_int_equal(written, 1);
    assert_int_equal(d->r->mark_count, 0);
}

static void writes_are_read_back_and_the_file_stays(void **state)
{
    struct disk *d = *state;
    attach(d, false, false, BIT(BLK_F_FLUSH));
    for (unsigned i = 0; i < 3072; i++)
        rig_put(d->r, at_sector(d, i), 4, 70000 + i);
    assert_int_equal(request(d, T_OUT, 9, 3072 * 512, false, NULL), S_OK);
    assert_int_equal(request(d, T_FLUSH, 0, 0, false, NULL), S_OK);
    for (unsigned i = 0; i < 3074; i++)
        rig_put(d->r, at_sector(d, i), 4, 0);
    assert_int_equal(request(d, T_IN, 8, 3074 * 512, true, NULL), S_OK);
    assert_int_equal(rig_get(d->r, d->data, 4), 8);
    for (unsigned i = 0; i < 3072; i++)
        assert_int_equal(rig_get(d->r, at_sector(d, i + 1), 4), 70000 + i);
    assert_int_equal(rig_get(d->r, at_sector(d, 3073), 4), 9 + 3072);
    assert_int_equal(file_word(d, 9), 9);
}

static void write_through_reaches_the_file(void **state)
{
    struct disk *d = *state;
    attach(d, false, true, BIT(BLK_F_FLUSH) | BIT(BLK_F_WRITE_ZEROES) | BIT(BLK_F_DISCARD));
    rig_put(d->r, d->data, 4, 4711);
    assert_int_equal(request(d, T_OUT, 9, 512, false, NULL), S_OK);
    assert_int_equal(file_word(d, 9), 4711);
    assert_int_equal(request(d, T_FLUSH, 0, 0, false, NULL), S_OK);
    rig_put(d->r, d->data, 8, 16);
    rig_put(d->r, d->data + 8, 4, 5);
    rig_put(d->r, d->data + 12, 4, 0);
    assert_int_equal(request(d, T_WRITE_ZEROES, 0, 16, false, NULL), S_OK);
    assert_int_equal(file_word(d, 15), 15);
    assert_int_equal(file_word(d, 16), 0);
    assert_int_equal(file_word(d, 20), 0);
    assert_int_equal(file_word(d, 21), 21);
    assert_int_equal(request(d, T_DISCARD, 0, 16, false, NULL), S_OK);
}

static void a_read_only_disk_is_not_written(void **state)
{
    struct disk *d = *state;
    attach(d, true, false, BIT(BLK_F_RO));
    assert_int_equal(vdev_offered(&d->v) & 0xffffff, BIT(1) | BIT(2) | BIT(6) | BIT(BLK_F_RO));
    rig_put(d->r, d->data, 4, 4711);
    assert_int_equal(request(d, T_OUT, 9, 512, false, NULL), S_IOERR);
    assert_int_equal(request(d, T_FLUSH, 0, 0, false, NULL), S_OK);
    assert_int_equal(request(d, T_WRITE_ZEROES, 0, 16, false, NULL), S_UNSUPP);
    assert_int_equal(request(d, T_IN, 9, 512, true, NULL), S_OK);
    assert_sectors(d, 9, 1);
    assert_int_equal(file_word(d, 9), 9);
    assert_int_equal(d->r->mark_count, 0); /* the file was not even asked */
}

static void ranges_are_cleared(void **state)
{
    struct disk *d = *state;
    attach(d, false, false, BIT(BLK_F_DISCARD) | BIT(BLK_F_WRITE_ZEROES));
    static const struct {
        uint32_t type;
        uint64_t sector;
        uint32_t sectors, flags, length;
        unsigned status;
    } cases[] = {
        {T_WRITE_ZEROES, 100, 10, 0, 16, S_OK},
        {T_WRITE_ZEROES, 120, 10, 1, 16, S_OK},
        {T_DISCARD, 140, 10, 0, 16, S_OK},
        {T_DISCARD, 160, 10, 1, 16, S_UNSUPP}, /* unmap says nothing here */
        {T_WRITE_ZEROES, 160, 10, 2, 16, S_UNSUPP},
        {T_WRITE_ZEROES, DISK_SECTORS - 5, 6, 0, 16, S_IOERR},
        {T_WRITE_ZEROES, UINT64_MAX - 2, 6, 0, 16, S_IOERR},
        {T_DISCARD, (uint64_t)1 << 55, 1, 0, 16, S_IOERR},
        {T_WRITE_ZEROES, 0, UINT32_MAX, 0, 16, S_IOERR},
        {T_WRITE_ZEROES, 160, 10, 0, 15, S_IOERR},
        {T_WRITE_ZEROES, 160, 10, 0, 0, S_IOERR},
        {T_WRITE_ZEROES, 160, 10, 0, 16 * 17, S_IOERR},
        {T_WRITE_ZEROES, DISK_SECTORS - 5, 5, 0, 16, S_OK},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        rig_put(d->r, d->data, 8, cases[i].sector);
        rig_put(d->r, d->data + 8, 4, cases[i].sectors);
        rig_put(d->r, d->data + 12, 4, cases[i].flags);
        assert_int_equal(request(d, cases[i].type, 0, cases[i].length, false, NULL), cases[i].status);
    }
    assert_int_equal(request(d, T_IN, 0, DISK_SECTORS * 512, true, NULL), S_OK);
    for (uint32_t i = 0; i < DISK_SECTORS; i++) {
        bool cleared =
            (i >= 100 && i < 110) || (i >= 120 && i < 130) || (i >= 140 && i < 150) || i >= DISK_SECTORS - 5;
        assert_int_equal(rig_get(d->r, at_sector(d, i), 4), cleared ? 0 : i);
    }
}

/* As long as the device says; a range is done between two instructions of the guest. */
static void ranges_are_bounded(void **state)
{
    struct disk *d = *state;
    assert_int_equal(truncate(d->path, (off_t)1 << 30), 0);
    attach(d, false, false, BIT(BLK_F_WRITE_ZEROES));
    uint32_t most = (uint32_t)vdev_config(&d->v, 48, 4);
    rig_put(d->r, d->data + 8, 4, most);
    assert_int_equal(request(d, T_WRITE_ZEROES, 0, 16, false, NULL), S_OK);
    rig_put(d->r, d->data + 8, 4, most + 1);
    assert_int_equal(request(d, T_WRITE_ZEROES, 0, 16, false, NULL), S_IOERR);
    /* Three of the longest, offered together: one after the other. */
    rig_put(d->r, d->data + 8, 4, most);
    const struct buffer_spec buffers[] = {{d->header, 16, false}, {d->data, 16, false}, {d->status, 1, true}};
    for (unsigned i = 0; i < 3; i++)
        ring_add(&d->q, buffers, 3);
    machine_mmio_write(d->r->m, d->v.notify, 2, 0);
    uint16_t before = d->q.seen;
    for (unsigned i = 1; i <= 3; i++) {
        machine_run_work(d->r->m);
        assert_int_equal(rig_get(d->r, d->q.used + 2, 2), before + i);
    }
}

static void the_disk_has_a_name(void **state)
{
    struct disk *d = *state;
    char id[21] = "";
    uint32_t written;
    attach(d, false, false, 0);
    assert_int_equal(request(d, T_GET_ID, 0, 20, true, &written), S_OK);
    assert_int_equal(written, 21);
    assert_int_equal(ram_read(d->r->ram, d->data, id, 20), 0);
    assert_string_equal(id, "dejavm-virtio-disk-w");
    rig_put(d->r, d->data + 4, 8, 0x1122334455667788);
    assert_int_equal(request(d, T_GET_ID, 0, 4, true, NULL), S_OK);
    assert_int_equal(rig_get(d->r, d->data + 4, 8), 0x1122334455667788);
    assert_int_equal(request(d, T_GET_ID, 0, 24, true, &written), S_OK);
    assert_int_equal(written, 0); /* four bytes were not written */
}

static void requests_that_cannot_be_fail(void **state)
{
    struct disk *d = *state;
    attach(d, false, false, 0);
    static const struct {
        uint32_t type;
        uint64_t sector;
        uint32_t length;
        unsigned status;
    } cases[] = {
        {T_IN, DISK_SECTORS, 512, S_IOERR},
        {T_IN, DISK_SECTORS - 1, 1024, S_IOERR},
        {T_IN, UINT64_MAX, 512, S_IOERR},
        {T_IN, (uint64_t)1 << 55, 512, S_IOERR},
        {T_IN, 0, 511, S_IOERR},
        {T_IN, 0, 17 << 20, S_IOERR},
        {T_OUT, DISK_SECTORS, 512, S_IOERR},
        {T_OUT, UINT64_MAX - 1, 1024, S_IOERR},
        {T_OUT, 0, 100, S_IOERR},
        {T_DISCARD, 0, 16, S_UNSUPP}, /* not negotiated */
        {2, 0, 512, S_UNSUPP},
        {0xffffffff, 0, 512, S_UNSUPP},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        uint32_t written;
        assert_int_equal(
            request(d, cases[i].type, cases[i].sector, cases[i].length, cases[i].type == T_IN, &written),
            cases[i].status);
        assert_int_equal(written, cases[i].type == T_IN ? 0 : 1);
    }
    assert_true(
        rig_marked(d->r, "virtio-blk: a read of 512 bytes at sector 4096 is not whole sectors of the disk"));
    assert_int_equal(request(d, T_IN, DISK_SECTORS - 1, 512, true, NULL), S_OK);
    assert_sectors(d, DISK_SECTORS - 1, 1);
}

/* virtio 2.7.4.1: nothing may be concluded from how a request is cut into buffers. */
static void framing_does_not_matter(void **state)
{
    struct disk *d = *state;
    uint32_t head, used;
    attach(d, false, false, 0);
    rig_put(d->r, d->header, 8, T_IN);
    rig_put(d->r, d->header + 8, 8, 33);
    const struct buffer_spec pieces[] = {{d->header, 3, false},      {d->header + 3, 9, false},
                                         {d->header + 12, 4, false}, {d->data, 100, true},
                                         {d->data + 100, 300, true}, {d->data + 400, 624 + 1, true}};
    ring_add(&d->q, pieces, 6);
    rig_put(d->r, d->data + 1024, 1, 0xff);
    vdev_notify(&d->v, 0);
    assert_true(ring_used(&d->q, &head, &used));
    assert_int_equal(used, 1025);
    assert_sectors(d, 33, 2);
    assert_int_equal(rig_get(d->r, d->data + 1024, 1), S_OK);
}

static void a_request_without_header_or_status_breaks_the_device(void **state)
{
    struct disk *d = *state;
    attach(d, false, false, 0);
    ring_add(&d->q, &(struct buffer_spec){d->header, 16, false}, 1);
    vdev_notify(&d->v, 0);
    assert_true(rig_marked(
        d->r,
        "virtio-blk: a request of 16 bytes to read and 0 to write has no room for its header and status"));
    vdev_negotiate(&d->v, BIT(F_VERSION_1));
    ring_setup(&d->v, 0, 16, &d->q);
    vdev_driver_ok(&d->v);
    const struct buffer_spec pieces[] = {{d->header, 15, false}, {d->status, 1, true}};
    ring_add(&d->q, pieces, 2);
    vdev_notify(&d->v, 0);
    assert_int_equal(vdev_get(&d->v, DEVICE_STATUS, 1) & NEEDS_RESET, NEEDS_RESET);
}

/* A gigabyte in one go would keep the vCPU, and Ctrl-C, waiting. */
static void many_requests_are_done_in_portions(void **state)
{
    struct disk *d = *state;
    uint32_t head, used;
    attach(d, false, false, 0);
    vdev_negotiate(&d->v, BIT(F_VERSION_1) | BIT(F_INDIRECT_DESC));
    ring_setup(&d->v, 0, 64, &d->q);
    vdev_driver_ok(&d->v);
    rig_put(d->r, d->header, 8, T_IN);
    rig_put(d->r, d->header + 8, 8, 0);
    gpa_t table = rig_alloc(d->r, 48);
    struct ring q = d->q;
    q.desc = table;
    ring_desc(&q, 0, d->header, 16, D_NEXT, 1);
    ring_desc(&q, 1, d->data, 2 << 20, D_WRITE | D_NEXT, 2);
    ring_desc(&q, 2, d->status, 1, D_WRITE, 0);
    for (unsigned i = 0; i < 64; i++) {
        ring_desc(&d->q, i, table, 48, D_INDIRECT, 0);
        ring_offer(&d->q, (uint16_t)i);
    }
    machine_mmio_write(d->r->m, d->v.notify, 2, 0);
    for (unsigned i = 0; i < 2; i++) {
        assert_true(machine_work_waits(d->r->m));
        machine_run_work(d->r->m);
        unsigned done = 0;
        while (ring_used(&d->q, &head, &used))
            done++;
        assert_int_equal(done, 32);
    }
    machine_run_work(d->r->m);
    assert_false(machine_work_waits(d->r->m));
}

static void the_hosts_errors_are_the_guests(void **state)
{
    struct disk *d = *state;
    uint32_t written;
    attach(d, false, false, 0);
    assert_int_equal(truncate(d->path, 51200), 0);
    assert_int_equal(request(d, T_IN, 99, 512, true, NULL), S_OK);
    assert_int_equal(request(d, T_IN, 99, 1024, true, &written), S_IOERR);
    assert_int_equal(written, 0);
    assert_true(rig_marked(d->r, "virtio-blk: reading at byte 50688 of the disk failed: Input/output error"));
}

/* ---- console ---- */

struct console {
    struct rig *r;
    struct vdev v;
    struct ring in, out;
};

static int console_setup(void **state)
{
    struct console *c = calloc(1, sizeof(*c));
    struct error err;
    assert_non_null(c);
    c->r = rig_create();
    assert_int_equal(virtio_console_attach(c->r->m, c->r->bus, &err), 0);
    vdev_find(c->r, VIRTIO_ID_CONSOLE, &c->v);
    machine_select_input(c->r->m, CONSOLE_VIRTIO);
    *state = c;
    return 0;
}

static int console_teardown(void **state)
{
    struct console *c = *state;
    rig_destroy(c->r);
    free(c);
    return 0;
}

static void console_start(struct console *c)
{
    vdev_negotiate(&c->v, BIT(F_VERSION_1) | BIT(0));
    ring_setup(&c->v, 0, 8, &c->in);
    ring_setup(&c->v, 1, 8, &c->out);
    vdev_driver_ok(&c->v);
}

static size_t type(struct console *c, const char *text)
{
    size_t taken = machine_input(c->r->m, (const uint8_t *)text, strlen(text));
    rig_work(c->r, 8);
    return taken;
}

static void what_the_guest_prints_arrives(void **state)
{
    struct console *c = *state;
    uint32_t head, used;
    console_start(c);
    gpa_t at = rig_alloc(c->r, 8192);
    assert_int_equal(ram_write(c->r->ram, at, "hello world", 11), 0);
    const struct buffer_spec pieces[] = {{at, 5, false}, {at + 5, 6, false}};
    ring_add(&c->out, pieces, 2);
    ring_add(&c->out, pieces, 1);
    vdev_notify(&c->v, 1);
    assert_string_equal(c->r->printed, "hello worldhello");
    assert_true(ring_used(&c->out, &head, &used));
    assert_int_equal(used, 0);
    assert_true(ring_used(&c->out, &head, &used));
    /* More than one buffer of the device's. */
    for (unsigned i = 0; i < 8192; i += 8)
        rig_put(c->r, at + i, 8, 0x6161616161616161);
    c->r->printed_length = 0;
    ring_add(&c->out, &(struct buffer_spec){at, 4000, false}, 1);
    vdev_notify(&c->v, 1);
    assert_int_equal(c->r->printed_length, 4000);
}

static void what_is_typed_arrives(void **state)
{
    struct console *c = *state;
    uint32_t head, used;
    char text[32] = "";
    assert_int_equal(type(c, "early"), 0); /* stays with the host */
    console_start(c);
    assert_int_equal(type(c, "typed"), 5); /* kept until there is a buffer */
    gpa_t at = rig_alloc(c->r, 64);
    ring_add(&c->in, &(struct buffer_spec){at, 3, true}, 1);
    vdev_notify(&c->v, 0);
    assert_true(ring_used(&c->in, &head, &used));
    assert_int_equal(used, 3);
    ring_add(&c->in, &(struct buffer_spec){at + 3, 32, true}, 1);
    vdev_notify(&c->v, 0);
    assert_true(ring_used(&c->in, &head, &used));
    assert_int_equal(used, 2);
    ring_add(&c->in, &(struct buffer_spec){at + 5, 32, true}, 1);
    vdev_notify(&c->v, 0);
    assert_false(ring_used(&c->in, &head, &used)); /* nothing to give */
    assert_int_equal(type(c, "!"), 1);
    assert_true(ring_used(&c->in, &head, &used));
    assert_int_equal(ram_read(c->r->ram, at, text, 31), 0);
    assert_string_equal(text, "typed!");
}

static void input_is_bounded(void **state)
{
    struct console *c = *state;
    size_t total = 0, taken;
    console_start(c);
    while ((taken = type(c, "0123456789abcdef0123456789abcdef0123456789")) > 0)
        total += taken;
    assert_int_equal(total, 4096);
    gpa_t at = rig_alloc(c->r, 4096);
    ring_add(&c->in, &(struct buffer_spec){at, 1000, true}, 1);
    vdev_notify(&c->v, 0);
    assert_int_equal(type(c, "x"), 1);
}

static void the_size_of_the_terminal_is_told(void **state)
{
    struct console *c = *state;
    console_start(c);
    assert_int_equal(vdev_config(&c->v, 0, 4), 25 << 16 | 80);
    for (unsigned i = 0; i < 2; i++) { /* with what a driver prints first it is told to look at the size */
        ring_add(&c->out, &(struct buffer_spec){0x1000, 8, false}, 1);
        vdev_notify(&c->v, 1);
        assert_int_equal(machine_mmio_read(c->r->m, c->v.isr, 1), i == 0 ? 3 : 1);
    }
    machine_resize(c->r->m, 132, 43);
    assert_int_equal(machine_mmio_read(c->r->m, c->v.isr, 1), 2);
    assert_int_equal(vdev_config(&c->v, 0, 2), 132);
    assert_int_equal(vdev_config(&c->v, 2, 2), 43);
    machine_resize(c->r->m, 132, 43);
    assert_int_equal(machine_mmio_read(c->r->m, c->v.isr, 1), 0);
}

static void a_driverless_guest_can_cry_out(void **state)
{
    struct console *c = *state;
    machine_mmio_write(c->r->m, c->v.config + 8, 4, 'O');
    machine_mmio_write(c->r->m, c->v.config + 8, 1, 'h');
    machine_mmio_write(c->r->m, c->v.config + 4, 4, 'x');
    assert_string_equal(c->r->printed, "Oh");
}

static void consoles_have_bounds(void **state)
{
    struct console *c = *state;
    console_start(c);
    ring_add(&c->out, &(struct buffer_spec){0, (1 << 20) + 1, false}, 1);
    vdev_notify(&c->v, 1);
    assert_true(rig_marked(c->r, "virtio-console: a request to print 1048577 bytes: more than 1048576"));
    assert_int_equal(c->r->printed_length, 0);
    console_start(c);
    ring_add(&c->in, &(struct buffer_spec){0x1000, 8, false}, 1);
    type(c, "x");
    assert_true(rig_marked(c->r, "virtio-console: a receive buffer without room"));
}

/* ---- random numbers ---- */

static void random_numbers_are_the_machines(void **state)
{
    (void)state;
    struct rig *r = rig_create();
    struct vdev v;
    struct ring q;
    struct error err;
    uint32_t head, used;
    assert_int_equal(virtio_rng_attach(r->m, r->bus, &err), 0);
    vdev_find(r, VIRTIO_ID_ENTROPY, &v);
    vdev_negotiate(&v, BIT(F_VERSION_1));
    ring_setup(&v, 0, 8, &q);
    vdev_driver_ok(&v);
    gpa_t at = rig_alloc(r, 1 << 20);
    ring_add(&q, &(struct buffer_spec){at, 64, true}, 1);
    ring_add(&q, &(struct buffer_spec){at + 64, 1 << 16, true}, 1);
    vdev_notify(&v, 0);
    assert_true(ring_used(&q, &head, &used));
    assert_int_equal(used, 64);
    assert_true(ring_used(&q, &head, &used));
    assert_int_equal(used, 4096); /* less than there was room for */
    for (unsigned i = 0; i < 4096; i += 16)
        assert_true(rig_get(r, at + i, 8) || rig_get(r, at + i + 8, 8));
    assert_int_equal(rig_get(r, at + 64 + 4096, 8), 0);
    rig_destroy(r);
}

#define DISK_TEST(name)    cmocka_unit_test_setup_teardown(name, setup, teardown)
#define CONSOLE_TEST(name) cmocka_unit_test_setup_teardown(name, console_setup, console_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        DISK_TEST(the_disk_is_described),
        DISK_TEST(sectors_are_read),
        DISK_TEST(writes_are_read_back_and_the_file_stays),
        DISK_TEST(write_through_reaches_the_file),
        DISK_TEST(a_read_only_disk_is_not_written),
        DISK_TEST(ranges_are_cleared),
        DISK_TEST(ranges_are_bounded),
        DISK_TEST(the_disk_has_a_name),
        DISK_TEST(requests_that_cannot_be_fail),
        DISK_TEST(framing_does_not_matter),
        DISK_TEST(a_request_without_header_or_status_breaks_the_device),
        DISK_TEST(many_requests_are_done_in_portions),
        DISK_TEST(the_hosts_errors_are_the_guests),
        CONSOLE_TEST(what_the_guest_prints_arrives),
        CONSOLE_TEST(what_is_typed_arrives),
        CONSOLE_TEST(input_is_bounded),
        CONSOLE_TEST(the_size_of_the_terminal_is_told),
        CONSOLE_TEST(a_driverless_guest_can_cry_out),
        CONSOLE_TEST(consoles_have_bounds),
        cmocka_unit_test(random_numbers_are_the_machines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
