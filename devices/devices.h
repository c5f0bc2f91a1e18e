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
int debug_exit_attach(struct machine *m, struct error *err) must_check; /* isa-debug-exit, port f4 */
int debug_console_attach(struct machine *m, struct error *err) must_check; /* port e9, console channel 1 */

/* The whole board: all of the above, PIC first. */
int board_attach(struct machine *m, struct error *err) must_check;

#endif
