/*
 * The ACPI tables of the board (ACPI specification 6.5, section 5.2), in the BIOS area of memory, where an operating system finds
 * them by the signature of the RSDP or by the pointer that the boot protocol hands over.
 */
#ifndef DEJAVM_DEVICES_ACPI_TABLES_H
#define DEJAVM_DEVICES_ACPI_TABLES_H

#include "core/base/error.h"
#include "core/ram.h"

/* The loaders keep this area free of anything else. It is reserved in the memory map. */
#define ACPI_AREA_START ((gpa_t)0xe0000)
#define ACPI_AREA_BYTES 0x4000u
#define ACPI_RSDP       ACPI_AREA_START

/* What the tables describe; the devices use the same. */
#define ACPI_PM1_PORT     0x600
#define ACPI_PM_TMR_PORT  0x608
#define ACPI_PVPANIC_PORT 0x505
#define ACPI_SCI_IRQ      9
#define ACPI_S5_TYPE      5u /* SLP_TYP that means power off */

/* apics: the board has a local APIC and an I/O APIC; otherwise there is no MADT. -EFAULT when the RAM is too small. */
int acpi_tables_write(struct guest_ram *ram, bool apics, struct error *err) must_check;

#endif
