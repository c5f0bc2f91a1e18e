/*
 * Two 8259A interrupt controllers (Intel data sheet 231468), cascaded on IR2 as in the PC/AT, with the
 * edge/level control registers of later chipsets (Intel 82371SB data sheet, ELCR1 and ELCR2).
 *
 * At the start they are as PC firmware leaves them: vectors 0x08 and 0x70, IRQ 0, 1 and 2 unmasked. The
 * MCS-80 mode (CALL instructions instead of vectors) and buffered mode have no meaning here: their bits are
 * ignored.
 */
#include "devices/devices.h"
#include "devices/device.h"

#include <errno.h>

enum pic_port { PIC_MASTER = 0x20, PIC_SLAVE = 0xa0, PIC_ELCR = 0x4d0 };

/* A0 = 0, D4 = 1: starts the initialisation sequence. */
enum pic_icw1 {
    ICW1_IC4 = 0x01,  /* ICW4 follows */
    ICW1_SNGL = 0x02, /* no cascade: no ICW3 */
    ICW1_LTIM = 0x08, /* all inputs level triggered */
    ICW1 = 0x10,
};
#define ICW2_VECTOR 0xf8
enum pic_icw4 { ICW4_AEOI = 0x02, ICW4_SFNM = 0x10 };

/* A0 = 0, D4 = 0, D3 = 0. Bits 0..2: level. */
enum pic_ocw2 { OCW2_EOI = 0x20, OCW2_SL = 0x40, OCW2_R = 0x80, OCW2_LEVEL = 0x07 };
/* A0 = 0, D4 = 0, D3 = 1 */
enum pic_ocw3 {
    OCW3_RIS = 0x01,
    OCW3_RR = 0x02,
    OCW3_POLL = 0x04,
    OCW3 = 0x08,
    OCW3_SMM = 0x20,
    OCW3_ESMM = 0x40,
};

#define POLL_INTERRUPT 0x80
#define CASCADE_IR     2
#define SPURIOUS_IR    7
#define NO_IR          8u

/* IRQ 0, 1, 2, 8 and 13 are always edge triggered. */
#define ELCR_MASTER_MASK 0xf8
#define ELCR_SLAVE_MASK  0xde

enum pic_init_step { INIT_DONE, INIT_ICW2, INIT_ICW3, INIT_ICW4 };

struct pic_chip {
    uint8_t lines;      /* levels of the inputs */
    uint8_t edge_latch; /* inputs that rose, are still high, and were not acknowledged */
    uint8_t isr, imr;
    uint8_t elcr;
    uint8_t vector_base;
    uint8_t lowest;       /* the level with the lowest priority; the next one has the highest */
    uint8_t init_step;    /* enum pic_init_step */
    bool level_triggered; /* ICW1.LTIM */
    bool single, needs_icw4;
    bool auto_eoi, rotate_on_auto_eoi;
    bool special_mask, special_fully_nested;
    bool read_isr, poll;
};

struct pic_state {
    struct pic_chip chip[2]; /* master, slave */
};

struct pic_half {
    struct pic *pic;
    unsigned index;
};

struct pic {
    struct pic_state s;
    struct pic_half half[2]; /* what a port knows: its chip */
};

static uint8_t bit(unsigned level)
{
    return (uint8_t)(1u << level);
}

static uint8_t chip_irr(const struct pic_chip *c)
{
    uint8_t level = c->level_triggered ? 0xff : c->elcr;
    return (uint8_t)((c->edge_latch & ~level) | (c->lines & level));
}

/* The highest-priority level of set, or NO_IR. */
static unsigned chip_highest(const struct pic_chip *c, uint8_t set)
{
    for (unsigned i = 1; i <= 8; i++) {
        unsigned level = (c->lowest + i) & 7;
        if (set & bit(level))
            return level;
    }
    return NO_IR;
}

/* Place in the priority order: 0 is the highest. NO_IR comes after all. */
static unsigned chip_rank(const struct pic_chip *c, unsigned level)
{
    return level == NO_IR ? 8 : (level + 7u - c->lowest) & 7;
}

/* The request that INT signals, or NO_IR: unmasked, and of higher priority than what is in service. */
static unsigned chip_request(const struct pic_chip *c, bool master)
{
    if (c->init_step != INIT_DONE)
        return NO_IR;
    uint8_t in_service = c->isr;
    if (c->special_mask)
        in_service = (uint8_t)(in_service & ~c->imr);
    unsigned level = chip_highest(c, (uint8_t)(chip_irr(c) & ~c->imr));
    unsigned serving = chip_highest(c, in_service);
    /*
     * Special fully nested mode: the slave may interrupt its own service routine (it sorts its priorities
     * itself).
     */
    if (master && c->special_fully_nested && level == CASCADE_IR && serving == CASCADE_IR)
        return level;
    return chip_rank(c, level) < chip_rank(c, serving) ? level : NO_IR;
}

static void chip_set_line(struct pic_chip *c, unsigned level, bool high)
{
    uint8_t mask = bit(level);
    if (!high) {
        /* An input has to stay high until it is acknowledged, or the request is gone. */
        c->lines = (uint8_t)(c->lines & ~mask);
        c->edge_latch = (uint8_t)(c->edge_latch & ~mask);
    } else if (!(c->lines & mask)) {
        c->lines |= mask;
        c->edge_latch |= mask;
    }
}

static void chip_end_of_interrupt(struct pic_chip *c, unsigned level, bool rotate)
{
    c->isr = (uint8_t)(c->isr & ~bit(level));
    if (rotate)
        c->lowest = (uint8_t)level;
}

/* The effect of INTA (or of the read after a poll command) on level. */
static void chip_acknowledge(struct pic_chip *c, unsigned level)
{
    c->edge_latch = (uint8_t)(c->edge_latch & ~bit(level));
    c->isr |= bit(level);
    if (c->auto_eoi)
        chip_end_of_interrupt(c, level, c->rotate_on_auto_eoi);
}

/* The slave's INT output is the master's IR2. */
static void pic_update_cascade(struct pic *pic)
{
    chip_set_line(&pic->s.chip[0], CASCADE_IR, chip_request(&pic->s.chip[1], false) != NO_IR);
}

static void pic_acknowledge_slave(struct pic *pic, unsigned level)
{
    chip_acknowledge(&pic->s.chip[1], level);
    /* INT falls with each acknowledge, so a further request of the slave is a new edge for the master. */
    chip_set_line(&pic->s.chip[0], CASCADE_IR, false);
    pic_update_cascade(pic);
}

static void pic_set_line(void *device, unsigned irq, bool level)
{
    struct pic *pic = device;
    if (irq == CASCADE_IR || irq > 15)
        return;
    chip_set_line(&pic->s.chip[irq >> 3], irq & 7, level);
    pic_update_cascade(pic);
}

static bool pic_pending(void *device)
{
    const struct pic *pic = device;
    return chip_request(&pic->s.chip[0], true) != NO_IR;
}

static uint8_t pic_acknowledge(void *device)
{
    struct pic *pic = device;
    struct pic_chip *master = &pic->s.chip[0], *slave = &pic->s.chip[1];
    unsigned level = chip_request(master, true);
    /* A request that went away between INTR and INTA: vector of IR7, nothing in service. */
    if (level == NO_IR)
        return (uint8_t)(master->vector_base + SPURIOUS_IR);
    chip_acknowledge(master, level);
    if (level != CASCADE_IR || master->single)
        return (uint8_t)(master->vector_base + level);
    unsigned slave_level = chip_request(slave, false);
    if (slave_level == NO_IR)
        return (uint8_t)(slave->vector_base + SPURIOUS_IR);
    pic_acknowledge_slave(pic, slave_level);
    return (uint8_t)(slave->vector_base + slave_level);
}

static void chip_write_icw1(struct pic_chip *c, uint8_t value)
{
    c->edge_latch = 0;
    c->isr = 0;
    c->imr = 0;
    c->lowest = 7;
    c->special_mask = false;
    c->read_isr = false;
    c->poll = false;
    c->rotate_on_auto_eoi = false;
    c->auto_eoi = false;
    c->special_fully_nested = false;
    c->level_triggered = value & ICW1_LTIM;
    c->single = value & ICW1_SNGL;
    c->needs_icw4 = value & ICW1_IC4;
    c->init_step = INIT_ICW2;
}

static void chip_write_ocw2(struct pic_chip *c, uint8_t value)
{
    bool rotate = value & OCW2_R;
    unsigned level = value & OCW2_LEVEL;
    switch (value & (OCW2_EOI | OCW2_SL)) {
    case OCW2_EOI: /* non-specific: the highest in service; in special mask mode only an unmasked one */
        level = chip_highest(c, (uint8_t)(c->special_mask ? c->isr & ~c->imr : c->isr));
        if (level != NO_IR)
            chip_end_of_interrupt(c, level, rotate);
        break;
    case OCW2_EOI | OCW2_SL:
        chip_end_of_interrupt(c, level, rotate);
        break;
    case OCW2_SL: /* with R: set priority; without: no operation */
        if (rotate)
            c->lowest = (uint8_t)level;
        break;
    default:
        c->rotate_on_auto_eoi = rotate;
        break;
    }
}

static void chip_write_ocw3(struct pic_chip *c, uint8_t value)
{
    if (value & OCW3_ESMM)
        c->special_mask = value & OCW3_SMM;
    if (value & OCW3_POLL)
        c->poll = true;
    else if (value & OCW3_RR)
        c->read_isr = value & OCW3_RIS;
}

/* A0 = 1: the rest of the initialisation sequence, or the mask (OCW1). */
static void chip_write_data(struct pic_chip *c, uint8_t value)
{
    switch (c->init_step) {
    case INIT_ICW2:
        c->vector_base = value & ICW2_VECTOR;
        c->init_step = !c->single ? INIT_ICW3 : c->needs_icw4 ? INIT_ICW4 : INIT_DONE;
        break;
    case INIT_ICW3: /* the wiring is fixed: the slave hangs on IR2 */
        c->init_step = c->needs_icw4 ? INIT_ICW4 : INIT_DONE;
        break;
    case INIT_ICW4:
        c->auto_eoi = value & ICW4_AEOI;
        c->special_fully_nested = value & ICW4_SFNM;
        c->init_step = INIT_DONE;
        break;
    default:
        c->imr = value;
        break;
    }
}

static void pic_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct pic_half *half = device;
    struct pic_chip *c = &half->pic->s.chip[half->index];
    uint8_t byte = (uint8_t)value;
    (void)size;
    if (offset == 1)
        chip_write_data(c, byte);
    else if (byte & ICW1)
        chip_write_icw1(c, byte);
    else if (byte & OCW3)
        chip_write_ocw3(c, byte);
    else
        chip_write_ocw2(c, byte);
    pic_update_cascade(half->pic);
}

/* The read after a poll command is an acknowledge that shows the level instead of a vector. */
static uint8_t pic_poll(struct pic_half *half)
{
    struct pic *pic = half->pic;
    struct pic_chip *c = &pic->s.chip[half->index];
    c->poll = false;
    unsigned level = chip_request(c, half->index == 0);
    if (level == NO_IR)
        return 0;
    if (half->index == 1)
        pic_acknowledge_slave(pic, level);
    else
        chip_acknowledge(c, level);
    return (uint8_t)(POLL_INTERRUPT | level);
}

static uint64_t pic_read(void *device, uint64_t offset, unsigned size)
{
    struct pic_half *half = device;
    const struct pic_chip *c = &half->pic->s.chip[half->index];
    (void)size;
    if (c->poll)
        return pic_poll(half);
    if (offset == 1)
        return c->imr;
    return c->read_isr ? c->isr : chip_irr(c);
}

static uint64_t elcr_read(void *device, uint64_t offset, unsigned size)
{
    const struct pic *pic = device;
    (void)size;
    return pic->s.chip[offset & 1].elcr;
}

static void elcr_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct pic *pic = device;
    (void)size;
    pic->s.chip[offset & 1].elcr = (uint8_t)(value & (offset & 1 ? ELCR_SLAVE_MASK : ELCR_MASTER_MASK));
    pic_update_cascade(pic);
}

int pic_attach(struct machine *m, struct error *err)
{
    struct pic *pic = device_create(m, sizeof(*pic), "8259A pair", err);
    if (!pic)
        return -ENOMEM;
    /* The timer's line is high, as it mostly is, and that edge has been served. */
    pic->s.chip[0] = (struct pic_chip){.vector_base = 0x08, .imr = 0xf8, .lowest = 7, .lines = 0x01};
    pic->s.chip[1] = (struct pic_chip){.vector_base = 0x70, .imr = 0xff, .lowest = 7};
    for (unsigned i = 0; i < 2; i++)
        pic->half[i] = (struct pic_half){.pic = pic, .index = i};
    int rc = device_add_byte_ports(m, PIC_MASTER, 2, pic_read, pic_write, &pic->half[0], "8259A master", err);
    if (!rc)
        rc = device_add_byte_ports(m, PIC_SLAVE, 2, pic_read, pic_write, &pic->half[1], "8259A slave", err);
    if (!rc)
        rc = device_add_byte_ports(m, PIC_ELCR, 2, elcr_read, elcr_write, pic, "8259A edge/level control",
                                   err);
    if (rc)
        return rc;
    machine_set_interrupt_controller(m, &(struct interrupt_controller){.set_line = pic_set_line,
                                                                       .pending = pic_pending,
                                                                       .acknowledge = pic_acknowledge,
                                                                       .device = pic});
    return 0;
}
