/*
 * A driver for a virtio disk, as small as one can be: finds the device on the PCI bus, reads the whole disk, writes to it, and reads
 * that back. Sleeps in HLT until the device's interrupt says that a request is done. The specification is virtio 1.2; sections are its.
 *
 *     dejavm record --disk FILE disk
 */
#include "cpu.h"

/* ---- PCI, configuration mechanism 1 ---- */

static uint32_t config_read(unsigned device, unsigned offset)
{
    out32(0xcf8, 0x80000000u | device << 11 | (offset & 0xfc));
    return in32(0xcfc) >> (8 * (offset & 3));
}

static void config_write16(unsigned device, unsigned offset, uint16_t value)
{
    out32(0xcf8, 0x80000000u | device << 11 | (offset & 0xfc));
    out16((uint16_t)(0xcfc + (offset & 2)), value);
}

#define PCI_COMMAND        0x04
#define COMMAND_MEMORY     0x2
#define COMMAND_MASTER     0x4
#define PCI_BAR0           0x10
#define PCI_CAPABILITIES   0x34
#define PCI_INTERRUPT_LINE 0x3c
#define VIRTIO_BLOCK_ID    0x10421af4u /* device ID 0x1040 + 2 (4.1.2), vendor */

/* ---- the device's registers ---- */

struct common_cfg { /* 4.1.4.3 */
    uint32_t device_feature_select, device_feature, driver_feature_select, driver_feature;
    uint16_t config_msix_vector, num_queues;
    uint8_t device_status, config_generation;
    uint16_t queue_select, queue_size, queue_msix_vector, queue_enable, queue_notify_off;
    uint32_t queue_desc[2], queue_driver[2], queue_device[2];
};

enum { CFG_COMMON = 1, CFG_NOTIFY = 2, CFG_ISR = 3, CFG_DEVICE = 4 }; /* 4.1.4 */
enum { STATUS_ACKNOWLEDGE = 1, STATUS_DRIVER = 2, STATUS_DRIVER_OK = 4, STATUS_FEATURES_OK = 8 };
#define FEATURE_VERSION_1 32

static unsigned device;
static volatile struct common_cfg *common;
static volatile uint16_t *notify;
static volatile uint8_t *isr;
static volatile uint32_t *config;

/* ---- the queue, 2.7 ---- */

#define QUEUE_SIZE 8

struct descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
};
enum { DESC_NEXT = 1, DESC_WRITE = 2 };

static struct descriptor descriptors[QUEUE_SIZE] __attribute__((aligned(16)));
static struct {
    uint16_t flags, index, ring[QUEUE_SIZE];
} available __attribute__((aligned(2)));
static volatile struct {
    uint16_t flags, index;
    struct {
        uint32_t id, length;
    } ring[QUEUE_SIZE];
} used __attribute__((aligned(4)));

enum { REQUEST_IN = 0, REQUEST_OUT = 1, REQUEST_GET_ID = 8 }; /* 5.2.6 */

static struct {
    uint32_t type, reserved;
    uint64_t sector;
} header;
static volatile uint8_t status;
static volatile bool interrupted;

static uint8_t buffer[65536] __attribute__((aligned(4096)));

/* ---- set-up ---- */

static void *structure(unsigned capability)
{
    unsigned bar = config_read(device, capability + 4) & 0xff;
    uintptr_t base = config_read(device, PCI_BAR0 + 4 * bar) & ~0xfu;
    return (void *)(base + config_read(device, capability + 8));
}

static void find_structures(void)
{
    for (unsigned at = config_read(device, PCI_CAPABILITIES) & 0xff; at;
         at = config_read(device, at + 1) & 0xff) {
        if ((config_read(device, at) & 0xff) != 0x09) /* vendor specific */
            continue;
        switch (config_read(device, at + 3) & 0xff) {
        case CFG_COMMON:
            common = structure(at);
            break;
        case CFG_NOTIFY: /* of queue 0, whose queue_notify_off is 0 */
            notify = structure(at);
            break;
        case CFG_ISR:
            isr = structure(at);
            break;
        case CFG_DEVICE:
            config = structure(at);
            break;
        }
    }
    if (!common || !notify || !isr || !config)
        panic("the device lacks a structure");
}

static void set_address(volatile uint32_t *field, const volatile void *address)
{
    field[0] = (uint32_t)(uintptr_t)address;
    field[1] = 0;
}

/* 3.1.1 */
static void start_device(void)
{
    common->device_status = 0;
    common->device_status = STATUS_ACKNOWLEDGE | STATUS_DRIVER;
    common->driver_feature_select = 0;
    common->driver_feature = 0;
    common->driver_feature_select = 1;
    common->driver_feature = 1u << (FEATURE_VERSION_1 - 32);
    common->device_status = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK;
    if (!(common->device_status & STATUS_FEATURES_OK))
        panic("the device does not take our features");
    common->queue_select = 0;
    common->queue_size = QUEUE_SIZE;
    set_address(common->queue_desc, descriptors);
    set_address(common->queue_driver, &available);
    set_address(common->queue_device, &used);
    common->queue_enable = 1;
    common->device_status = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK;
}

/* Reading the ISR lets the line go (4.1.4.5). */
static void disk_interrupt(struct interrupt_frame *frame)
{
    if (*isr & 1)
        interrupted = true;
    pic_end_of_interrupt((unsigned)frame->vector - VECTOR_IRQ0);
}

static void find_disk(void)
{
    for (device = 1; device < 32 && config_read(device, 0) != VIRTIO_BLOCK_ID;)
        device++;
    if (device == 32) {
        print("there is no virtio disk: record with --disk FILE\n");
        guest_exit(2);
    }
    unsigned irq = config_read(device, PCI_INTERRUPT_LINE) & 0xff;
    interrupt_set_handler(VECTOR_IRQ0 + irq, disk_interrupt);
    pic_enable(irq);
    config_write16(device, PCI_COMMAND, COMMAND_MEMORY | COMMAND_MASTER);
    find_structures();
    start_device();
}

/* ---- requests ---- */

/* Header, data, status (5.2.6): three descriptors. Returns the status: 0 is good. */
static unsigned request(uint32_t type, uint64_t sector, uint32_t length)
{
    header.type = type;
    header.sector = sector;
    status = 0xff;
    descriptors[0] = (struct descriptor){(uintptr_t)&header, sizeof(header), DESC_NEXT, 1};
    descriptors[1] = (struct descriptor){(uintptr_t)buffer, length,
                                         (uint16_t)(DESC_NEXT | (type == REQUEST_OUT ? 0 : DESC_WRITE)), 2};
    descriptors[2] = (struct descriptor){(uintptr_t)&status, 1, DESC_WRITE, 0};
    available.ring[available.index % QUEUE_SIZE] = 0;
    __asm__ volatile("" : : : "memory");
    available.index++;
    __asm__ volatile("" : : : "memory");
    interrupts_disable(); /* so that none comes between a look at the flag and the sleep */
    interrupted = false;
    *notify = 0;
    while (!interrupted) {
        wait_for_interrupt();
        interrupts_disable();
    }
    if (used.index != available.index)
        panic("an interrupt, and the request is not done");
    return status;
}

/* FNV-1a, of 64-bit words. */
static uint64_t add_up(uint64_t sum, size_t length)
{
    const uint64_t *word = (const uint64_t *)(const void *)buffer;
    for (size_t i = 0; i < length / sizeof(*word); i++)
        sum = (sum ^ word[i]) * 0x100000001b3u;
    return sum;
}

static uint64_t read_disk(uint64_t sectors)
{
    uint64_t sum = 0xcbf29ce484222325u, most = sizeof(buffer) / 512;
    for (uint64_t sector = 0; sector < sectors;) {
        uint64_t now = sectors - sector < most ? sectors - sector : most;
        if (request(REQUEST_IN, sector, (uint32_t)now * 512))
            panic("reading at sector %lu fails", sector);
        sum = add_up(sum, now * 512);
        sector += now;
    }
    return sum;
}

void guest_main(void)
{
    gdt_init();
    idt_init();
    pic_init();
    find_disk();
    uint64_t sectors = config[0] | (uint64_t)config[1] << 32;
    if (request(REQUEST_GET_ID, 0, 20))
        panic("the disk has no name");
    buffer[20] = 0;
    print("disk %s: %lu sectors\n", (const char *)buffer, sectors);
    print("checksum %016lx\n", read_disk(sectors));

    memset(buffer, 0x5a, 512);
    unsigned written = request(REQUEST_OUT, sectors - 1, 512);
    print("writing the last sector: status %u\n", written);
    print("checksum %016lx\n", read_disk(sectors));
    print("beyond the end: status %u\n", request(REQUEST_IN, sectors, 512));
    guest_exit(written ? 1 : 0);
}
