/* Console device with one port, virtio 5.3: hvc0 of a Linux guest. */
#include "devices/virtio/devices.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "devices/device.h"
#include "devices/virtio/virtio.h"

enum console_feature { VIRTIO_CONSOLE_F_SIZE = 0, VIRTIO_CONSOLE_F_EMERG_WRITE = 2 };
enum console_queue { RECEIVEQ, TRANSMITQ };

struct console_config { /* struct virtio_console_config, virtio 5.3.4 */
    uint16_t cols, rows;
    uint32_t max_nr_ports;
    uint32_t emerg_wr;
};
_Static_assert(sizeof(struct console_config) == 12 && offsetof(struct console_config, emerg_wr) == 8,
               "as virtio 5.3.4 has it");

#define INPUT_BYTES      4096u
#define BUFFER_BYTES     4096u
#define OUTPUT_MAX_BYTES ((uint32_t)1 << 20) /* of one request */

struct console {
    struct virtio_device *virtio;
    struct machine *m;
    struct console_config config;
    bool size_told;             /* to this driver */
    uint8_t input[INPUT_BYTES]; /* from the host, not yet given to the driver */
    size_t input_length;
    uint8_t buffer[BUFFER_BYTES];
    struct virtio_chain chain;
};

static void print(struct console *c, const uint8_t *data, size_t length)
{
    const struct machine_host *host = machine_host(c->m);
    if (host->console_output)
        host->console_output(host->context, CONSOLE_VIRTIO, data, length);
}

static void transmit(struct console *c)
{
    uint32_t printed = 0; /* between two instructions of the guest */
    while (printed < OUTPUT_MAX_BYTES && virtqueue_pop(c->virtio, TRANSMITQ, &c->chain) > 0) {
        uint32_t length = c->chain.readable_bytes;
        if (length > OUTPUT_MAX_BYTES) {
            virtio_broken(c->virtio, "a request to print %" PRIu32 " bytes: more than %" PRIu32, length,
                          OUTPUT_MAX_BYTES);
            return;
        }
        for (uint32_t done = 0; done < length; done += BUFFER_BYTES)
            print(c, c->buffer, virtio_chain_read(c->virtio, &c->chain, done, c->buffer, BUFFER_BYTES));
        virtqueue_push(c->virtio, TRANSMITQ, &c->chain, 0);
        printed += length;
    }
    if (printed >= OUTPUT_MAX_BYTES)
        virtio_schedule(c->virtio, TRANSMITQ);
    /* Linux looks at the size only when it is told of a change, and it must have got as far as to have a terminal. */
    if (printed && !c->size_told) {
        c->size_told = true;
        virtio_config_changed(c->virtio);
    }
}

static void receive(struct console *c)
{
    size_t done = 0;
    while (done < c->input_length && virtqueue_pop(c->virtio, RECEIVEQ, &c->chain) > 0) {
        if (c->chain.writable_bytes == 0) {
            virtio_broken(c->virtio, "a receive buffer without room");
            return;
        }
        size_t now = virtio_chain_write(c->virtio, &c->chain, 0, c->input + done, c->input_length - done);
        virtqueue_push(c->virtio, RECEIVEQ, &c->chain, (uint32_t)now);
        done += now;
    }
    memmove(c->input, c->input + done, c->input_length - done);
    c->input_length -= done;
}

static void notify(void *device, unsigned queue)
{
    if (queue == TRANSMITQ)
        transmit(device);
    else
        receive(device);
}

static void reset(void *device)
{
    ((struct console *)device)->size_told = false;
}

/* Before there is a driver the host keeps what was typed. */
static size_t take_input(void *device, const uint8_t *data, size_t length)
{
    struct console *c = device;
    size_t room = virtio_running(c->virtio) ? sizeof(c->input) - c->input_length : 0;
    size_t now = length < room ? length : room;
    memcpy(c->input + c->input_length, data, now);
    c->input_length += now;
    if (now)
        virtio_schedule(c->virtio, RECEIVEQ);
    return now;
}

static void resize(void *device, unsigned columns, unsigned rows)
{
    struct console *c = device;
    if (columns == c->config.cols && rows == c->config.rows)
        return;
    c->config.cols = columns < UINT16_MAX ? (uint16_t)columns : UINT16_MAX;
    c->config.rows = rows < UINT16_MAX ? (uint16_t)rows : UINT16_MAX;
    virtio_config_changed(c->virtio);
}

/* emerg_wr: a character, also before there are queues. */
static void config_written(void *device, unsigned offset, unsigned size, uint64_t value)
{
    uint8_t byte = (uint8_t)value;
    if (offset == offsetof(struct console_config, emerg_wr) && size <= 4)
        print(device, &byte, 1);
}

static const struct virtio_type type = {
    .name = "virtio-console",
    .id = VIRTIO_ID_CONSOLE,
    .class_code = 0x078000, /* communication, other */
    .queues = 2,
    .notify = notify,
    .reset = reset,
    .config_written = config_written,
};

int virtio_console_attach(struct machine *m, struct pci_bus *bus, struct error *err)
{
    struct console *c = device_create(m, sizeof(*c), type.name, err);
    if (!c)
        return -ENOMEM;
    c->m = m;
    c->config = (struct console_config){.cols = 80, .rows = 25, .max_nr_ports = 1};
    struct virtio_instance instance = {.type = &type,
                                       .device = c,
                                       .features =
                                           1u << VIRTIO_CONSOLE_F_SIZE | 1u << VIRTIO_CONSOLE_F_EMERG_WRITE,
                                       .config = (const uint8_t *)&c->config,
                                       .config_bytes = sizeof(c->config)};
    int status = virtio_pci_attach(m, bus, &instance, &c->virtio, err);
    if (status < 0)
        return status;
    machine_set_console_input(m, CONSOLE_VIRTIO, take_input, c);
    machine_set_resize(m, resize, c);
    return 0;
}
