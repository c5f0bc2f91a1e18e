/*
 * The PC16550D UART (National Semiconductor data sheet TL/C/8652) as COM1: ports 0x3f8..0x3ff, IRQ 4, console
 * channel 0.
 *
 * The transmitter takes no time: a byte written to THR has left when the write returns, so THR is always
 * empty, and the transmitter's interrupt comes back at once. The receiver's FIFO fills as the host offers
 * bytes; only its time-out interrupt depends on the line's speed. Breaks and parity are not modelled; DMA
 * mode has no pins here.
 *
 * On a PC the interrupt reaches the bus through a buffer that OUT2 opens. Loopback holds the OUT2 pin
 * inactive, so the interrupts of loopback can be seen in IIR only.
 */
#include "devices/devices.h"
#include "devices/device.h"

#include <errno.h>
#include <string.h>

#define SERIAL_PORT    0x3f8
#define SERIAL_IRQ     4
#define SERIAL_CHANNEL 0
#define FIFO_BYTES     16

enum serial_register {
    REG_RBR_THR = 0, /* DLAB=1: divisor, low byte */
    REG_IER = 1,     /* DLAB=1: divisor, high byte */
    REG_IIR_FCR = 2,
    REG_LCR = 3,
    REG_MCR = 4,
    REG_LSR = 5,
    REG_MSR = 6,
    REG_SCR = 7,
};

enum serial_ier { IER_RDA = 0x01, IER_THRE = 0x02, IER_RLS = 0x04, IER_MODEM = 0x08, IER_MASK = 0x0f };

/* In order of priority, highest first: RLS, RDA and time-out, THRE, modem status. */
enum serial_iir {
    IIR_NONE = 0x01,
    IIR_MODEM = 0x00,
    IIR_THRE = 0x02,
    IIR_RDA = 0x04,
    IIR_RLS = 0x06,
    IIR_TIMEOUT = 0x0c,
    IIR_FIFO_ENABLED = 0xc0,
};

enum serial_fcr { FCR_ENABLE = 0x01, FCR_CLEAR_RX = 0x02, FCR_TRIGGER_SHIFT = 6 };
enum serial_lcr { LCR_WORD_LENGTH = 0x03, LCR_STOP = 0x04, LCR_PARITY = 0x08, LCR_DLAB = 0x80 };
enum serial_mcr {
    MCR_DTR = 0x01,
    MCR_RTS = 0x02,
    MCR_OUT1 = 0x04,
    MCR_OUT2 = 0x08,
    MCR_LOOP = 0x10,
    MCR_MASK = 0x1f
};
enum serial_lsr { LSR_DR = 0x01, LSR_OE = 0x02, LSR_THRE = 0x20, LSR_TEMT = 0x40 };
enum serial_msr {
    MSR_DCTS = 0x01,
    MSR_DDSR = 0x02,
    MSR_TERI = 0x04, /* RI went from active to inactive */
    MSR_DDCD = 0x08,
    MSR_CTS = 0x10,
    MSR_DSR = 0x20,
    MSR_RI = 0x40,
    MSR_DCD = 0x80,
    MSR_DELTAS = 0x0f,
};

#define BAUD_BASE          115200u /* divisor 1 of the PC's 1.8432 MHz crystal */
#define TIMEOUT_CHARACTERS 4

struct serial_state {
    uint8_t ier, lcr, mcr, msr, scr;
    uint16_t divisor;
    bool fifo_enabled;
    uint8_t trigger; /* bytes */
    uint8_t fifo[FIFO_BYTES];
    uint8_t fifo_head, fifo_count; /* without FIFO mode: at most one byte */
    bool overrun;
    bool thre_pending; /* the transmitter's interrupt was not yet seen in IIR */
    bool timeout_pending;
};

struct serial {
    struct serial_state s;
    struct machine *m;
    struct machine_timer timeout;
};

static unsigned serial_capacity(const struct serial *u)
{
    return u->s.fifo_enabled ? FIFO_BYTES : 1;
}

/* The identification of the highest-priority interrupt, without the FIFO bits. */
static uint8_t serial_interrupt(const struct serial *u)
{
    const struct serial_state *s = &u->s;
    if ((s->ier & IER_RLS) && s->overrun)
        return IIR_RLS;
    if ((s->ier & IER_RDA) && s->fifo_count >= (s->fifo_enabled ? s->trigger : 1))
        return IIR_RDA;
    if ((s->ier & IER_RDA) && s->timeout_pending)
        return IIR_TIMEOUT;
    if ((s->ier & IER_THRE) && s->thre_pending)
        return IIR_THRE;
    if ((s->ier & IER_MODEM) && (s->msr & MSR_DELTAS))
        return IIR_MODEM;
    return IIR_NONE;
}

static void serial_update_irq(struct serial *u)
{
    bool gate = (u->s.mcr & MCR_OUT2) && !(u->s.mcr & MCR_LOOP);
    machine_set_irq(u->m, SERIAL_IRQ, gate && serial_interrupt(u) != IIR_NONE);
}

/* ---- receiver ---- */

static uint64_t serial_character_ns(const struct serial *u)
{
    unsigned word_bits = 5u + (u->s.lcr & LCR_WORD_LENGTH);
    unsigned half_bits = 2 * (1 + word_bits);
    if (u->s.lcr & LCR_PARITY)
        half_bits += 2;
    if (!(u->s.lcr & LCR_STOP))
        half_bits += 2;
    else
        half_bits += word_bits > 5 ? 4 : 3; /* five-bit words have one and a half stop bits */
    uint32_t divisor = u->s.divisor ? u->s.divisor : 65536;
    return (uint64_t)half_bits * divisor * 1000000000u / (2 * BAUD_BASE);
}

/* The time-out counts from the last byte that came or was read, as long as there is one to read. */
static void serial_restart_timeout(struct serial *u)
{
    u->s.timeout_pending = false;
    if (!u->s.fifo_enabled || u->s.fifo_count == 0)
        machine_timer_disarm(u->m, &u->timeout);
    else
        machine_timer_arm(u->m, &u->timeout,
                          machine_clock_ns(u->m) + TIMEOUT_CHARACTERS * serial_character_ns(u));
}

static void serial_timeout(void *device, uint64_t now_ns)
{
    struct serial *u = device;
    (void)now_ns;
    u->s.timeout_pending = u->s.fifo_enabled && u->s.fifo_count > 0;
    serial_update_irq(u);
}

static void serial_clear_receiver(struct serial *u)
{
    u->s.fifo_head = 0;
    u->s.fifo_count = 0;
    serial_restart_timeout(u);
}

static void serial_receive(struct serial *u, uint8_t byte)
{
    struct serial_state *s = &u->s;
    if (s->fifo_count == serial_capacity(u)) {
        s->overrun = true;
        /* With a FIFO the new byte is lost; without, it takes the old one's place. */
        if (!s->fifo_enabled)
            s->fifo[s->fifo_head] = byte;
        return;
    }
    s->fifo[(s->fifo_head + s->fifo_count) % FIFO_BYTES] = byte;
    s->fifo_count++;
    serial_restart_timeout(u);
}

static uint8_t serial_read_rbr(struct serial *u)
{
    struct serial_state *s = &u->s;
    uint8_t byte = s->fifo[s->fifo_head];
    if (s->fifo_count > 0) {
        s->fifo_count--;
        if (s->fifo_enabled)
            s->fifo_head = (uint8_t)((s->fifo_head + 1) % FIFO_BYTES);
        serial_restart_timeout(u);
    }
    return byte;
}

static size_t serial_take_input(void *device, const uint8_t *data, size_t length)
{
    struct serial *u = device;
    size_t taken = 0;
    if (u->s.mcr & MCR_LOOP) /* the receiver is off the line */
        return 0;
    while (taken < length && u->s.fifo_count < serial_capacity(u))
        serial_receive(u, data[taken++]);
    serial_update_irq(u);
    return taken;
}

/* ---- transmitter ---- */

static void serial_transmit(struct serial *u, uint8_t byte)
{
    const struct machine_host *host = machine_host(u->m);
    uint8_t word_mask = (uint8_t)(0xff >> (3 - (u->s.lcr & LCR_WORD_LENGTH)));
    u->s.thre_pending = false;
    serial_update_irq(u);
    if (u->s.mcr & MCR_LOOP)
        serial_receive(u, byte & word_mask);
    else if (host->console_output)
        host->console_output(host->context, SERIAL_CHANNEL, &byte, 1);
    u->s.thre_pending = true;
}

/* ---- modem lines ---- */

/* The inputs: a terminal that is always ready; in loopback the port's own outputs. */
static uint8_t serial_modem_inputs(uint8_t mcr)
{
    if (!(mcr & MCR_LOOP))
        return MSR_CTS | MSR_DSR | MSR_DCD;
    return (uint8_t)((mcr & MCR_RTS ? MSR_CTS : 0) | (mcr & MCR_DTR ? MSR_DSR : 0) |
                     (mcr & MCR_OUT1 ? MSR_RI : 0) | (mcr & MCR_OUT2 ? MSR_DCD : 0));
}

static void serial_write_mcr(struct serial *u, uint8_t value)
{
    struct serial_state *s = &u->s;
    s->mcr = value & MCR_MASK;
    uint8_t inputs = serial_modem_inputs(s->mcr);
    uint8_t changed = inputs ^ (s->msr & (uint8_t)~MSR_DELTAS);
    uint8_t deltas = (uint8_t)((changed & (MSR_CTS | MSR_DSR | MSR_DCD)) >> 4);
    if ((changed & MSR_RI) && !(inputs & MSR_RI))
        deltas |= MSR_TERI;
    s->msr = (uint8_t)(inputs | (s->msr & MSR_DELTAS) | deltas);
}

/* ---- registers ---- */

static void serial_write_fcr(struct serial *u, uint8_t value)
{
    static const uint8_t triggers[4] = {1, 4, 8, 14};
    bool enable = value & FCR_ENABLE;
    if (enable != u->s.fifo_enabled) {
        u->s.fifo_enabled = enable;
        u->s.trigger = 1;
        serial_clear_receiver(u);
    }
    if (!enable) /* the other bits are not programmed without this one */
        return;
    u->s.trigger = triggers[value >> FCR_TRIGGER_SHIFT];
    if (value & FCR_CLEAR_RX)
        serial_clear_receiver(u);
}

static void serial_write_ier(struct serial *u, uint8_t value)
{
    /* Enabling the transmitter's interrupt while THR is empty raises it. */
    if ((value & IER_THRE) && !(u->s.ier & IER_THRE))
        u->s.thre_pending = true;
    u->s.ier = value & IER_MASK;
}

static void serial_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct serial *u = device;
    uint8_t byte = (uint8_t)value;
    bool dlab = u->s.lcr & LCR_DLAB;
    (void)size;
    switch (offset) {
    case REG_RBR_THR:
        if (dlab)
            u->s.divisor = (uint16_t)((u->s.divisor & 0xff00) | byte);
        else
            serial_transmit(u, byte);
        break;
    case REG_IER:
        if (dlab)
            u->s.divisor = (uint16_t)((u->s.divisor & 0x00ff) | byte << 8);
        else
            serial_write_ier(u, byte);
        break;
    case REG_IIR_FCR:
        serial_write_fcr(u, byte);
        break;
    case REG_LCR:
        u->s.lcr = byte;
        break;
    case REG_MCR:
        serial_write_mcr(u, byte);
        break;
    case REG_SCR:
        u->s.scr = byte;
        break;
    default: /* LSR and MSR: writes are for factory tests */
        break;
    }
    serial_update_irq(u);
}

static uint8_t serial_read_iir(struct serial *u)
{
    uint8_t iir = serial_interrupt(u);
    if (iir == IIR_THRE)
        u->s.thre_pending = false;
    return (uint8_t)(iir | (u->s.fifo_enabled ? IIR_FIFO_ENABLED : 0));
}

static uint8_t serial_read_lsr(struct serial *u)
{
    uint8_t lsr =
        (uint8_t)(LSR_THRE | LSR_TEMT | (u->s.fifo_count > 0 ? LSR_DR : 0) | (u->s.overrun ? LSR_OE : 0));
    u->s.overrun = false;
    return lsr;
}

static uint8_t serial_read_msr(struct serial *u)
{
    uint8_t msr = u->s.msr;
    u->s.msr = (uint8_t)(msr & ~MSR_DELTAS);
    return msr;
}

static uint8_t serial_read_register(struct serial *u, uint64_t offset)
{
    bool dlab = u->s.lcr & LCR_DLAB;
    switch (offset) {
    case REG_RBR_THR:
        return dlab ? (uint8_t)u->s.divisor : serial_read_rbr(u);
    case REG_IER:
        return dlab ? (uint8_t)(u->s.divisor >> 8) : u->s.ier;
    case REG_IIR_FCR:
        return serial_read_iir(u);
    case REG_LCR:
        return u->s.lcr;
    case REG_MCR:
        return u->s.mcr;
    case REG_LSR:
        return serial_read_lsr(u);
    case REG_MSR:
        return serial_read_msr(u);
    default:
        return u->s.scr;
    }
}

static uint64_t serial_read(void *device, uint64_t offset, unsigned size)
{
    struct serial *u = device;
    (void)size;
    uint8_t value = serial_read_register(u, offset);
    serial_update_irq(u);
    return value;
}

int serial_attach(struct machine *m, struct error *err)
{
    struct serial *u = device_create(m, sizeof(*u), "serial port", err);
    if (!u)
        return -ENOMEM;
    u->m = m;
    u->s.divisor = 12; /* firmware's 9600 baud */
    u->s.trigger = 1;
    u->s.msr = serial_modem_inputs(0);
    machine_timer_init(&u->timeout, serial_timeout, u);
    int rc = device_add_byte_ports(m, SERIAL_PORT, 8, serial_read, serial_write, u, "serial port", err);
    if (!rc)
        machine_set_input(m, serial_take_input, u);
    return rc;
}
