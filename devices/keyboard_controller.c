/*
 * The 8042 keyboard controller (Intel UPI-41/42 with IBM's PS/2 firmware; IBM PS/2 Hardware Interface
 * Technical Reference, "Keyboard and auxiliary device controller") at ports 0x60 and 0x64, with nothing
 * plugged in, and system control port A (0x92). Both of its ports work; a byte sent to a device is answered
 * at once the way the controller reports an absent one: 0xfe with the time-out bit. So drivers find no
 * keyboard and no mouse, and do not wait. Its reset line ends the run. A20 is always on.
 */
#include "devices/devices.h"
#include "devices/device.h"

#include <errno.h>

enum keyboard_port {
    KBC_DATA = 0x60,
    KBC_COMMAND = 0x64, /* read: status */
    SYSTEM_CONTROL_A = 0x92,
};

enum keyboard_status {
    STATUS_OBF = 0x01,         /* a byte waits at 0x60 */
    STATUS_SYSTEM_FLAG = 0x04, /* bit 2 of the command byte: self-test passed */
    STATUS_COMMAND = 0x08,     /* the last write went to 0x64 */
    STATUS_NOT_LOCKED = 0x10,
    STATUS_AUX = 0x20,     /* the byte at 0x60 is the auxiliary device's */
    STATUS_TIMEOUT = 0x40, /* the device did not answer */
};

enum keyboard_command {
    CMD_READ_RAM = 0x20,  /* 0x20..0x3f; 0x20 is the command byte */
    CMD_WRITE_RAM = 0x60, /* 0x60..0x7f */
    CMD_AUX_DISABLE = 0xa7,
    CMD_AUX_ENABLE = 0xa8,
    CMD_AUX_TEST = 0xa9,
    CMD_SELF_TEST = 0xaa,
    CMD_KEYBOARD_TEST = 0xab,
    CMD_KEYBOARD_DISABLE = 0xad,
    CMD_KEYBOARD_ENABLE = 0xae,
    CMD_READ_INPUT_PORT = 0xc0,
    CMD_READ_OUTPUT_PORT = 0xd0,
    CMD_WRITE_OUTPUT_PORT = 0xd1,
    CMD_WRITE_KEYBOARD_BUFFER = 0xd2, /* the next byte comes back as if a keyboard had sent it */
    CMD_WRITE_AUX_BUFFER = 0xd3,
    CMD_WRITE_AUX = 0xd4,
    CMD_READ_TEST_INPUTS = 0xe0,
    CMD_PULSE = 0xf0, /* 0xf0..0xff: output port bits 0..3 go low for 6 us where the command's bit is 0 */
};

enum keyboard_command_byte {
    COMMAND_BYTE_IRQ1 = 0x01,
    COMMAND_BYTE_IRQ12 = 0x02,
    COMMAND_BYTE_SYSTEM_FLAG = 0x04,
    COMMAND_BYTE_KEYBOARD_OFF = 0x10,
    COMMAND_BYTE_AUX_OFF = 0x20,
};

enum keyboard_output_port {
    OUTPUT_NOT_RESET = 0x01, /* low resets the CPU */
    OUTPUT_A20 = 0x02,
    OUTPUT_IRQ1 = 0x10,
    OUTPUT_IRQ12 = 0x20,
};

enum {
    SELF_TEST_PASSED = 0x55,
    INTERFACE_TEST_PASSED = 0x00,
    REPLY_RESEND = 0xfe,
    INPUT_PORT_NOT_LOCKED = 0x80
};
enum { CONTROL_A_RESET = 0x01, CONTROL_A_A20 = 0x02 };
enum { IRQ_KEYBOARD = 1, IRQ_AUX = 12 };

struct keyboard_state {
    uint8_t ram[32]; /* [0] is the command byte */
    uint8_t output;  /* what 0x60 reads */
    uint8_t flags;   /* STATUS_OBF, STATUS_AUX, STATUS_TIMEOUT, STATUS_COMMAND */
    uint8_t command; /* waits for its data byte; 0: none does */
};

struct keyboard {
    struct keyboard_state s;
    struct machine *m;
};

static void keyboard_update_irq(struct keyboard *k)
{
    bool full = k->s.flags & STATUS_OBF, aux = k->s.flags & STATUS_AUX;
    machine_set_irq(k->m, IRQ_KEYBOARD, full && !aux && (k->s.ram[0] & COMMAND_BYTE_IRQ1));
    machine_set_irq(k->m, IRQ_AUX, full && aux && (k->s.ram[0] & COMMAND_BYTE_IRQ12));
}

/* from: STATUS_AUX or 0, with STATUS_TIMEOUT where the byte stands for an absent device. */
static void keyboard_reply(struct keyboard *k, uint8_t byte, uint8_t from)
{
    /* An unread byte is replaced. The lines go low in between: each byte is an edge of its own. */
    k->s.flags = (uint8_t)(k->s.flags & STATUS_COMMAND);
    keyboard_update_irq(k);
    k->s.output = byte;
    k->s.flags = (uint8_t)(k->s.flags | STATUS_OBF | from);
    keyboard_update_irq(k);
}

static void keyboard_reset_cpu(struct keyboard *k)
{
    machine_request_end(k->m, MACHINE_END_RESET, 0);
}

static uint8_t keyboard_output_port(const struct keyboard *k)
{
    uint8_t value = OUTPUT_NOT_RESET | OUTPUT_A20;
    if (k->s.flags & STATUS_OBF)
        value |= k->s.flags & STATUS_AUX ? OUTPUT_IRQ12 : OUTPUT_IRQ1;
    return value;
}

static void keyboard_write_command(struct keyboard *k, uint8_t command)
{
    k->s.command = 0;
    k->s.flags |= STATUS_COMMAND;
    if (command >= CMD_PULSE) {
        if (!(command & OUTPUT_NOT_RESET))
            keyboard_reset_cpu(k);
        return;
    }
    if (command >= CMD_READ_RAM && command < CMD_READ_RAM + sizeof(k->s.ram)) {
        keyboard_reply(k, k->s.ram[command - CMD_READ_RAM], 0);
        return;
    }
    if (command >= CMD_WRITE_RAM && command < CMD_WRITE_RAM + sizeof(k->s.ram)) {
        k->s.command = command;
        return;
    }
    switch (command) {
    case CMD_AUX_DISABLE:
        k->s.ram[0] |= COMMAND_BYTE_AUX_OFF;
        break;
    case CMD_AUX_ENABLE:
        k->s.ram[0] = (uint8_t)(k->s.ram[0] & ~COMMAND_BYTE_AUX_OFF);
        break;
    case CMD_KEYBOARD_DISABLE:
        k->s.ram[0] |= COMMAND_BYTE_KEYBOARD_OFF;
        break;
    case CMD_KEYBOARD_ENABLE:
        k->s.ram[0] = (uint8_t)(k->s.ram[0] & ~COMMAND_BYTE_KEYBOARD_OFF);
        break;
    case CMD_AUX_TEST:
    case CMD_KEYBOARD_TEST:
        keyboard_reply(k, INTERFACE_TEST_PASSED, 0);
        break;
    case CMD_SELF_TEST:
        k->s.ram[0] |= COMMAND_BYTE_SYSTEM_FLAG;
        keyboard_reply(k, SELF_TEST_PASSED, 0);
        break;
    case CMD_READ_INPUT_PORT:
        keyboard_reply(k, INPUT_PORT_NOT_LOCKED, 0);
        break;
    case CMD_READ_OUTPUT_PORT:
        keyboard_reply(k, keyboard_output_port(k), 0);
        break;
    case CMD_READ_TEST_INPUTS:
        keyboard_reply(k, 0, 0);
        break;
    case CMD_WRITE_OUTPUT_PORT:
    case CMD_WRITE_KEYBOARD_BUFFER:
    case CMD_WRITE_AUX_BUFFER:
    case CMD_WRITE_AUX:
        k->s.command = command;
        break;
    default:
        break;
    }
}

static void keyboard_write_data(struct keyboard *k, uint8_t byte)
{
    uint8_t command = k->s.command;
    k->s.command = 0;
    k->s.flags = (uint8_t)(k->s.flags & ~STATUS_COMMAND);
    if (command >= CMD_WRITE_RAM && command < CMD_WRITE_RAM + sizeof(k->s.ram)) {
        k->s.ram[command - CMD_WRITE_RAM] = byte;
        keyboard_update_irq(k);
        return;
    }
    switch (command) {
    case CMD_WRITE_OUTPUT_PORT:
        if (!(byte & OUTPUT_NOT_RESET))
            keyboard_reset_cpu(k);
        break;
    case CMD_WRITE_KEYBOARD_BUFFER:
        keyboard_reply(k, byte, 0);
        break;
    case CMD_WRITE_AUX_BUFFER:
        keyboard_reply(k, byte, STATUS_AUX);
        break;
    case CMD_WRITE_AUX:
        keyboard_reply(k, REPLY_RESEND, STATUS_AUX | STATUS_TIMEOUT);
        break;
    default:
        keyboard_reply(k, REPLY_RESEND, STATUS_TIMEOUT);
        break;
    }
}

static uint64_t keyboard_data_read(void *device, uint64_t offset, unsigned size)
{
    struct keyboard *k = device;
    (void)offset;
    (void)size;
    k->s.flags = (uint8_t)(k->s.flags & STATUS_COMMAND);
    keyboard_update_irq(k);
    return k->s.output;
}

static void keyboard_data_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    (void)offset;
    (void)size;
    keyboard_write_data(device, (uint8_t)value);
}

static uint64_t keyboard_status_read(void *device, uint64_t offset, unsigned size)
{
    struct keyboard *k = device;
    (void)offset;
    (void)size;
    return k->s.flags | STATUS_NOT_LOCKED | (k->s.ram[0] & STATUS_SYSTEM_FLAG);
}

static void keyboard_command_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    (void)offset;
    (void)size;
    keyboard_write_command(device, (uint8_t)value);
}

static uint64_t control_a_read(void *device, uint64_t offset, unsigned size)
{
    (void)device;
    (void)offset;
    (void)size;
    return CONTROL_A_A20;
}

static void control_a_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    (void)offset;
    (void)size;
    if (value & CONTROL_A_RESET)
        keyboard_reset_cpu(device);
}

int keyboard_controller_attach(struct machine *m, struct error *err)
{
    static const char name[] = "keyboard controller";
    struct keyboard *k = device_create(m, sizeof(*k), name, err);
    if (!k)
        return -ENOMEM;
    k->m = m;
    k->s.ram[0] = COMMAND_BYTE_SYSTEM_FLAG;
    int rc = device_add_byte_ports(m, KBC_DATA, 1, keyboard_data_read, keyboard_data_write, k, name, err);
    if (!rc)
        rc = device_add_byte_ports(m, KBC_COMMAND, 1, keyboard_status_read, keyboard_command_write, k, name,
                                   err);
    if (!rc)
        rc = device_add_byte_ports(m, SYSTEM_CONTROL_A, 1, control_a_read, control_a_write, k,
                                   "system control port A", err);
    return rc;
}
