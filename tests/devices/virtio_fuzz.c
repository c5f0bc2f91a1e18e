#include "tests/devices/virtio_fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/machine.h"
#include "devices/pci.h"
#include "devices/virtio/devices.h"

#define RAM_BYTES ((uint64_t)4 << 20)
#define DEVICES   4u /* on the bus from number 1 on: console, rng, disk, read-only disk */
#define QUEUES    2u
/* What one run of all devices' work may write: a little more than two batches of a disk. */
#define RUN_MAX_BYTES ((uint64_t)200 << 20)
#define MARKS_MAX     (DEVICES * 32)

enum { CONSOLE = 1, RNG, DISK, READ_ONLY_DISK };
enum { COMMON, ISR, CONFIG, NOTIFY }; /* the pages of BAR 0 */
enum { STATUS = 0x14, QUEUE_SELECT = 0x16, QUEUE_SIZE = 0x18, QUEUE_ENABLE = 0x1c, QUEUE_DESC = 0x20 };
enum { F_NEXT = 1, F_WRITE = 2, F_INDIRECT = 4 };

struct ring {
    uint64_t desc, avail, used;
    uint16_t size, offered;
};

struct fuzz {
    struct choices *c;
    struct machine *m;
    struct guest_ram *ram;
    struct pci_bus *bus;
    struct ring ring[DEVICES + 1][QUEUES];
    bool in_work, may_write; /* some device is running, and a master of the bus */
    uint64_t written, printed;
    unsigned marks;
};

#define check(f, condition) check_that((condition), #condition, __LINE__)

static void check_that(bool holds, const char *text, int line)
{
    if (holds)
        return;
    fprintf(stderr, "virtio_fuzz.c:%d: does not hold: %s\n", line, text);
    abort();
}

/* ---- choices ---- */

static uint64_t any(struct fuzz *f)
{
    struct choices *c = f->c;
    if (c->bytes) { /* a few bytes a choice: the fuzzer can aim */
        uint64_t value = 0;
        size_t n = c->left < 2 ? c->left : 2;
        memcpy(&value, c->bytes, n);
        c->bytes += n;
        c->left -= n;
        c->seed = (c->seed ^ value) * 0x9e3779b97f4a7c15u + 1;
        return value | (c->seed & ~0xffffu);
    }
    c->seed ^= c->seed << 13;
    c->seed ^= c->seed >> 7;
    c->seed ^= c->seed << 17;
    return c->seed;
}

static unsigned pick(struct fuzz *f, unsigned n)
{
    return (unsigned)((any(f) & 0xffff) % n);
}

static bool one_in(struct fuzz *f, unsigned n)
{
    return pick(f, n) == 0;
}

static uint64_t some_address(struct fuzz *f)
{
    switch (pick(f, 16)) {
    case 0:
        return any(f);
    case 1:
        return RAM_BYTES - pick(f, 64);
    case 2:
        return UINT64_MAX - pick(f, 64);
    case 3: /* a ring of its own */
        return f->ring[1 + pick(f, DEVICES)][pick(f, QUEUES)].avail + pick(f, 8);
    default:
        return 16 * (uint64_t)pick(f, RAM_BYTES / 16 / 4) * 4;
    }
}

static uint32_t some_length(struct fuzz *f)
{
    switch (pick(f, 32)) {
    case 0:
        return (uint32_t)any(f);
    case 1:
        return UINT32_MAX - pick(f, 16);
    case 2:
        return (uint32_t)RAM_BYTES - pick(f, 4096);
    case 3:
        return 0;
    case 4:
    case 5:
        return 512 * pick(f, 2000);
    case 6:
        return 65536;
    default:
        return pick(f, 3) ? 16 : 512 * (1 + pick(f, 8));
    }
}

/* ---- the machine ---- */

static void take_write(void *context, gpa_t gpa, const void *data, size_t length)
{
    struct fuzz *f = context;
    check(f, f->in_work && f->may_write);
    check(f, ram_write(f->ram, gpa, data, length) == 0);
    f->written += length;
}

static void take_print(void *context, unsigned channel, const uint8_t *data, size_t length)
{
    struct fuzz *f = context;
    check(f, channel == CONSOLE_VIRTIO);
    for (size_t i = 0; i < length; i++) /* so that a sanitizer sees what was handed over */
        f->printed += data[i] | 1u;
}

static void take_mark(void *context, const char *text)
{
    struct fuzz *f = context;
    check(f, strlen(text) < 512);
    f->marks++;
}

static void take_message(void *device, uint64_t address, uint32_t data)
{
    (void)device, (void)address, (void)data;
}

static void build(struct fuzz *f, const char *path)
{
    struct error err;
    struct machine_host host = {
        .console_output = take_print, .mark = take_mark, .dma_write = take_write, .context = f};
    const struct board_disk disks[] = {{.path = path}, {.path = path, .read_only = true}};
    check(f, ram_create(&f->ram, RAM_BYTES, &err) == 0);
    check(f, machine_create(&f->m, f->ram, &host, &err) == 0);
    machine_set_local_apic(f->m, &(struct local_apic_interface){.message = take_message, .device = f});
    check(f, pci_bus_attach(f->m, &f->bus, &err) == 0);
    check(f, virtio_console_attach(f->m, f->bus, &err) == 0);
    check(f, virtio_rng_attach(f->m, f->bus, &err) == 0);
    check(f, virtio_block_attach(f->m, f->bus, &disks[0], &err) == 0);
    check(f, virtio_block_attach(f->m, f->bus, &disks[1], &err) == 0);
    machine_select_input(f->m, CONSOLE_VIRTIO);
}

/* ---- registers ---- */

static uint32_t config_read(struct fuzz *f, unsigned device, unsigned offset, unsigned size)
{
    machine_port_write(f->m, 0xcf8, 4, 0x80000000u | device << 11 | (offset & 0xfc));
    return (uint32_t)machine_port_read(f->m, (uint16_t)(0xcfc + (offset & 3)), size);
}

static void config_write(struct fuzz *f, unsigned device, unsigned offset, unsigned size, uint32_t value)
{
    machine_port_write(f->m, 0xcf8, 4, 0x80000000u | device << 11 | (offset & 0xfc));
    machine_port_write(f->m, (uint16_t)(0xcfc + (offset & 3)), size, value);
}

static uint64_t bar(struct fuzz *f, unsigned device)
{
    return config_read(f, device, 0x10, 4) & ~0xfu;
}

static uint64_t common_get(struct fuzz *f, unsigned device, unsigned offset, unsigned size)
{
    return machine_mmio_read(f->m, bar(f, device) + offset, size);
}

static void common_set(struct fuzz *f, unsigned device, unsigned offset, unsigned size, uint64_t value)
{
    machine_mmio_write(f->m, bar(f, device) + offset, size, value);
}

/* Memory decoding and mastering on, base addresses apart: a guest may have moved them onto each other. */
static void enable(struct fuzz *f, unsigned device)
{
    config_write(f, device, 0x04, 2, 0);
    config_write(f, device, 0x10, 4, 0xe1000000u + device * 0x10000);
    config_write(f, device, 0x14, 4, 0xe1000000u + device * 0x10000 + 0x8000);
    config_write(f, device, 0x04, 2, 0x6);
}

static void run_work(struct fuzz *f)
{
    uint64_t before = f->written;
    f->may_write = false;
    for (unsigned d = 1; d <= DEVICES; d++) {
        uint32_t command = config_read(f, d, 0x04, 2);
        config_write(f, d, 0x04, 2, command | 0x2); /* to see the status */
        f->may_write |= (command & 0x4) && (common_get(f, d, STATUS, 1) & 0x44) == 0x4;
        config_write(f, d, 0x04, 2, command);
    }
    f->in_work = true;
    machine_run_work(f->m);
    f->in_work = false;
    check(f, f->written - before <= RUN_MAX_BYTES);
}

/* ---- what a driver does ---- */

static void put(struct fuzz *f, uint64_t gpa, unsigned size, uint64_t value)
{
    int status = ram_write(f->ram, gpa, &value, size);
    (void)status; /* rings may lie anywhere */
}

static void notify(struct fuzz *f, unsigned d, unsigned q)
{
    machine_mmio_write(f->m, bar(f, d) + (uint64_t)NOTIFY * 0x1000 + (uint64_t)4 * q, 2, q);
}

static void start(struct fuzz *f, unsigned d, bool honest)
{
    unsigned queues = d == CONSOLE ? 2 : 1;
    common_set(f, d, STATUS, 1, 0);
    common_set(f, d, STATUS, 1, 3);
    uint64_t offered = 0;
    for (unsigned half = 0; half < 2; half++) {
        common_set(f, d, 0x00, 4, half);
        offered |= common_get(f, d, 0x04, 4) << (32 * half);
    }
    uint64_t accepted = offered & (any(f) | (uint64_t)1 << 32);
    if (!honest && one_in(f, 16))
        accepted = any(f);
    for (unsigned half = 0; half < 2; half++) {
        common_set(f, d, 0x08, 4, half);
        common_set(f, d, 0x0c, 4, accepted >> (32 * half) & 0xffffffff);
    }
    common_set(f, d, STATUS, 1, 0xb);
    for (unsigned q = 0; q < queues; q++) {
        struct ring *r = &f->ring[d][q];
        r->size = (uint16_t)(1u << pick(f, 9));
        if (!honest && one_in(f, 32))
            r->size = (uint16_t)any(f);
        uint64_t at = 0x10000 * (uint64_t)(2 * d + q + 1);
        r->desc = !honest && one_in(f, 16) ? some_address(f) : at;
        r->avail = !honest && one_in(f, 16) ? some_address(f) : at + 0x4000;
        r->used = !honest && one_in(f, 16) ? some_address(f) : at + 0x8000;
        r->offered = 0;
        put(f, r->avail, 4, 0);
        put(f, r->used, 4, 0);
        common_set(f, d, QUEUE_SELECT, 2, q);
        common_set(f, d, QUEUE_SIZE, 2, r->size);
        common_set(f, d, QUEUE_DESC, 8, r->desc);
        common_set(f, d, QUEUE_DESC + 8, 8, r->avail);
        common_set(f, d, QUEUE_DESC + 16, 8, r->used);
        common_set(f, d, 0x1a, 2, pick(f, 4));
        common_set(f, d, QUEUE_ENABLE, 2, 1);
    }
    common_set(f, d, STATUS, 1, 0xf);
}

static void put_descriptor(struct fuzz *f, uint64_t table, unsigned index, uint64_t gpa, uint32_t length,
                           unsigned flags, unsigned next)
{
    uint64_t at = table + (uint64_t)16 * index;
    put(f, at, 8, gpa);
    put(f, at + 8, 4, length);
    put(f, at + 12, 2, flags);
    put(f, at + 14, 2, next);
}

static void offer(struct fuzz *f, struct ring *r, unsigned head)
{
    unsigned size = r->size ? r->size : 1;
    put(f, r->avail + 4 + (uint64_t)2 * (r->offered % size), 2, head);
    r->offered++;
    put(f, r->avail + 2, 2, r->offered);
}

/* A block request's header; for other devices it is data like any other. */
static void put_header(struct fuzz *f, uint64_t gpa)
{
    static const uint32_t types[] = {0, 1, 4, 8, 11, 13};
    put(f, gpa, 4, one_in(f, 16) ? any(f) : types[pick(f, 6)]);
    put(f, gpa + 8, 8, one_in(f, 16) ? any(f) : pick(f, 600));
}

/* A chain that is right but for a mistake now and then, in the queue's table or an indirect one. */
static void add_chain(struct fuzz *f, unsigned d, unsigned q)
{
    struct ring *r = &f->ring[d][q];
    unsigned size = r->size ? r->size : 1, first = pick(f, size), count = 1 + pick(f, one_in(f, 8) ? 300 : 5);
    uint64_t table = r->desc;
    unsigned entries = size, index = first, writable_from = pick(f, count + 1);
    if (one_in(f, 3)) {
        table = 16 * (uint64_t)pick(f, RAM_BYTES / 16 / 4) * 4;
        entries = count;
        index = 0;
        put_descriptor(f, r->desc, first, table, 16 * (one_in(f, 32) ? pick(f, 2000) : count),
                       F_INDIRECT | (one_in(f, 32) ? F_NEXT : 0), pick(f, size));
    }
    uint64_t header = some_address(f);
    put_header(f, header);
    for (unsigned i = 0; i < count; i++) {
        unsigned next = one_in(f, 64) ? (unsigned)any(f) & 0xffff : (index + 1) % entries;
        bool writes = i >= writable_from;
        unsigned flags = (writes ? F_WRITE : 0u) | (i + 1 < count ? F_NEXT : 0u);
        if (one_in(f, 128))
            flags ^= 1u << pick(f, 3);
        put_descriptor(f, table, index, i == 0 ? header : some_address(f),
                       i == 0 && !writes          ? 16
                       : i + 1 == count && writes ? 1 + pick(f, 2) * some_length(f)
                                                  : some_length(f),
                       flags, next);
        index = next % (entries ? entries : 1);
    }
    offer(f, r, one_in(f, 64) ? (unsigned)any(f) & 0xffff : first);
}

static void poke(struct fuzz *f, unsigned d)
{
    static const unsigned sizes[] = {1, 2, 4, 8};
    unsigned size = sizes[pick(f, 4)];
    uint64_t at = bar(f, d) + (one_in(f, 4) ? pick(f, 0x4000) : pick(f, 4) * 0x1000 + pick(f, 0x48));
    if (one_in(f, 2))
        machine_mmio_read(f->m, at, size);
    else
        machine_mmio_write(f->m, at, size, one_in(f, 2) ? any(f) : pick(f, 0x100));
}

static void poke_config(struct fuzz *f, unsigned d)
{
    static const unsigned sizes[] = {1, 2, 4};
    unsigned size = sizes[pick(f, 3)],
             offset = (one_in(f, 2) ? 0x40 + pick(f, 0xc0) : pick(f, 0x40)) & ~(size - 1);
    if (one_in(f, 2))
        config_read(f, d, offset, size);
    else
        config_write(f, d, offset, size, (uint32_t)any(f));
    if (one_in(f, 2))
        enable(f, d);
}

/* The capability that reaches the BAR, with fields that make sense more often than not. */
static void poke_pci_cfg(struct fuzz *f, unsigned d)
{
    for (unsigned cap = config_read(f, d, 0x34, 1), i = 0; cap && i < 16; i++) {
        if (config_read(f, d, cap, 1) == 0x09 && config_read(f, d, cap + 3, 1) == 5) {
            config_write(f, d, cap + 4, 1, one_in(f, 8) ? (uint32_t)any(f) : 0);
            config_write(f, d, cap + 8, 4, one_in(f, 8) ? (uint32_t)any(f) : pick(f, 0x4000));
            config_write(f, d, cap + 12, 4, one_in(f, 8) ? (uint32_t)any(f) : 1u << pick(f, 3));
            config_read(f, d, cap + 16, 4);
            config_write(f, d, cap + 16, 4, (uint32_t)any(f));
        }
        cap = config_read(f, d, cap + 1, 1);
    }
}

static void scribble(struct fuzz *f, struct ring *r)
{
    const uint64_t areas[] = {r->desc, r->avail, r->used};
    put(f, areas[pick(f, 3)] + pick(f, 600), 1u << pick(f, 4), any(f));
}

static void type_something(struct fuzz *f)
{
    uint8_t bytes[300];
    memset(bytes, 'k', sizeof(bytes));
    machine_input(f->m, bytes, pick(f, sizeof(bytes)));
    machine_resize(f->m, pick(f, 300), pick(f, 300));
}

static void operate(struct fuzz *f)
{
    unsigned d = 1 + pick(f, DEVICES), q = d == CONSOLE ? pick(f, 2) : 0;
    switch (pick(f, 24)) {
    case 0:
        start(f, d, false);
        break;
    case 1:
    case 2:
        enable(f, d);
        start(f, d, true);
        break;
    case 3:
        poke(f, d);
        break;
    case 4:
        poke_config(f, d);
        break;
    case 5:
        poke_pci_cfg(f, d);
        break;
    case 6:
        scribble(f, &f->ring[d][q]);
        break;
    case 7:
        type_something(f);
        break;
    case 8: /* the available index alone */
        put(f, f->ring[d][q].avail + 2, 2, f->ring[d][q].offered += (uint16_t)pick(f, 300));
        break;
    case 9:
    case 10:
    case 11:
    case 12:
    case 13:
    case 14:
        notify(f, d, q);
        run_work(f);
        break;
    case 15:
        run_work(f);
        break;
    default:
        add_chain(f, d, q);
    }
}

/* ---- the end ---- */

/* Whatever was done to the device: after a reset, a correct request succeeds. */
static void check_works(struct fuzz *f, unsigned d)
{
    unsigned q = d == CONSOLE ? 1 : 0;
    struct ring *r = &f->ring[d][q];
    const uint64_t data = 0x200000, status = 0x300000;
    enable(f, d);
    start(f, d, true);
    check(f, common_get(f, d, STATUS, 1) == 0xf);
    uint64_t printed = f->printed;
    put(f, data, 8, 0);
    put(f, data + 8, 8, 3);
    put(f, status, 1, 0xff);
    if (d == DISK || d == READ_ONLY_DISK) { /* two descriptors, as a ring may have no more */
        if (r->size == 1)
            return;
        put_descriptor(f, r->desc, 0, data, 16, F_NEXT, 1);
        put_descriptor(f, r->desc, 1, status - 512, 513, F_WRITE, 0);
    } else
        put_descriptor(f, r->desc, 0, data, 16, d == RNG ? F_WRITE : 0, 0);
    offer(f, r, 0);
    notify(f, d, q);
    for (unsigned i = 0; i < 8; i++)
        run_work(f);
    uint16_t used = 0;
    uint8_t result = 0xff;
    check(f, ram_read(f->ram, r->used + 2, &used, 2) == 0 && ram_read(f->ram, status, &result, 1) == 0);
    check(f, used == 1);
    check(f, d != CONSOLE || f->printed > printed);
    check(f, d < DISK || result == 0);
}

void virtio_fuzz(struct choices *c, unsigned operations, const char *path)
{
    struct fuzz f = {.c = c};
    build(&f, path);
    for (unsigned d = 1; d <= DEVICES; d++) {
        enable(&f, d);
        start(&f, d, true);
    }
    for (unsigned i = 0; i < operations && (!c->bytes || c->left > 0); i++)
        operate(&f);
    for (unsigned d = 1; d <= DEVICES; d++) /* out of each other's way */
        config_write(&f, d, 0x04, 2, 0);
    for (unsigned d = 1; d <= DEVICES; d++)
        check_works(&f, d);
    check(&f, f.marks <= MARKS_MAX);
    machine_destroy(f.m);
    ram_destroy(f.ram);
}
