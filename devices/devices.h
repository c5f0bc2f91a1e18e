/*
 * The device models. Each attach function creates the device, registers its ports, lines and timers with
 * the machine, which owns it from then on. One file per device.
 */
#ifndef DEJAVM_DEVICES_DEVICES_H
#define DEJAVM_DEVICES_DEVICES_H

#include "core/machine.h"

int pic_attach(struct machine *m, struct error *err) must_check; /* two 8259A, ports 20 21 a0 a1 4d0 4d1 */
int pit_attach(struct machine *m, struct error *err) must_check; /* 8254, ports 40..43 and 61, IRQ 0 */
int serial_attach(struct machine *m,
                  struct error *err) must_check; /* 16550A, ports 3f8..3ff, IRQ 4, console channel 0 */
int rtc_cmos_attach(struct machine *m, struct error *err) must_check; /* MC146818, ports 70 71, IRQ 8 */
int keyboard_controller_attach(struct machine *m,
                               struct error *err) must_check; /* 8042 reset only, ports 60 64, 92 */
int acpi_pm_timer_attach(struct machine *m,
                         struct error *err) must_check;                 /* 24 bit, 3.579545 MHz, port 608 */
int x87_error_attach(struct machine *m, struct error *err) must_check;  /* port f0, IRQ 13 */
int debug_exit_attach(struct machine *m, struct error *err) must_check; /* isa-debug-exit, port f4 */
int debug_console_attach(struct machine *m, struct error *err) must_check; /* port e9, console channel 1 */

int local_apic_attach(struct machine *m,
                      struct error *err) must_check; /* fee00000; before the first interrupt */
int io_apic_attach(struct machine *m, struct error *err) must_check; /* fec00000, 24 pins */
int acpi_pm_attach(struct machine *m, struct error *err) must_check; /* ports 600..607, IRQ 9 */
int pvpanic_attach(struct machine *m, struct error *err) must_check; /* port 505 */

/* A disk of the guest: raw or qcow2, told by what is in the file. */
struct board_disk {
    const char *path;
    bool read_only; /* the guest is told that it cannot write */
    bool
        write_through; /* guest writes go to the file; otherwise to a copy that is gone after the recording */
};

#define BOARD_SHARE_TAG_MAX 64 /* characters */

/* A folder of the host that the guest can mount, by its tag. */
struct board_share {
    const char *path;
    const char *tag;
    bool read_only;
};

/* A network card behind a user-mode network. */
struct board_net {
    bool present;
    const char *const *
        forwards; /* "tcp:127.0.0.1:8080-:80": host address and port to guest address and port, see net_forward.h */
    size_t forward_count;
};

enum board_kind {
    BOARD_PC,      /* with PCI, ACPI, virtio devices, and APICs if options say so */
    BOARD_MINIMAL, /* the devices of the ISA bus only: the least that an operating system can start with */
};

struct board_options {
    enum board_kind kind;
    bool apics; /* BOARD_PC: with a local APIC, which the CPU model must have too, and an I/O APIC */
    const struct board_disk *disks; /* virtio block devices, in this order */
    size_t disk_count;
    const struct board_share *shares;
    size_t share_count;
    struct board_net net;
};

/* The whole board. What options points to is read in this call only. */
int board_attach(struct machine *m, const struct board_options *options, struct error *err) must_check;

#endif
