/*
 * PCI bus 0 behind configuration mechanism 1 (PCI Local Bus Specification 3.0, 3.2.2.3.2). All functions are function 0 of a
 * device of their own, with a type 0 header, memory BARs only, one legacy interrupt pin (INTA#), and MSI-X if they ask for it.
 *
 * Base addresses are assigned when a function is created, in the order of creation, from the window below the I/O APIC, and memory
 * decoding is off until the guest turns it on, as firmware would leave it; the guest may move them anywhere outside RAM.
 */
#ifndef DEJAVM_DEVICES_PCI_H
#define DEJAVM_DEVICES_PCI_H

#include "core/machine.h"

#define PCI_WINDOW_START ((gpa_t)0xe0000000u) /* guest physical, above RAM's low part (at most 3 GiB) */
#define PCI_WINDOW_END   ((gpa_t)0xfec00000u)

#define PCI_BARS         6u
#define PCI_CONFIG_BYTES 256u
#define PCI_MSIX_MAX     64u

struct pci_bus;
struct pci_function;

struct pci_identity {
    uint16_t vendor, device, subsystem_vendor, subsystem;
    uint32_t class_code; /* 24 bits: class, subclass, programming interface */
    uint8_t revision;
};

/*
 * Creates the bus and its host bridge (00:00.0), and claims ports cf8 to cff: the configuration mechanism, and the reset control
 * register at cf9. The machine owns it.
 */
int pci_bus_attach(struct machine *m, struct pci_bus **out, struct error *err) must_check;

/*
 * A new device on the bus, with the next free device number. device is handed to the BARs' read and write functions. The machine
 * owns the function. -ENOSPC when there are 31 already.
 */
int pci_function_create(struct pci_bus *bus, const struct pci_identity *identity, const char *name,
                        void *device, struct pci_function **out, struct error *err) must_check;

/*
 * A 32-bit memory BAR. bytes: a power of two from 4096 to 16 MiB. Offsets given to read and write are relative to the BAR;
 * size is 1, 2, 4 or 8. They are called only while the guest has memory decoding on.
 */
int pci_add_memory_bar(struct pci_function *f, unsigned bar, uint32_t bytes, io_read_fn read,
                       io_write_fn write, struct error *err) must_check;

/*
 * A capability: id, and length bytes of what follows the id and next-pointer bytes. Read-only for the guest, except for the bits in
 * writable (length bytes, or NULL: none). *offset is its place in configuration space. -ENOSPC when it is full.
 */
int pci_add_capability(struct pci_function *f, uint8_t id, const uint8_t *data, const uint8_t *writable,
                       size_t length, unsigned *offset, struct error *err) must_check;

/* Adds MSI-X with that many vectors (1..PCI_MSIX_MAX), its table and pending bits in a 4 KiB BAR of their own. */
int pci_add_msix(struct pci_function *f, unsigned bar, unsigned vectors, struct error *err) must_check;

/* A word of configuration space as the guest sees it, for devices that look at what the guest wrote. size: 1, 2, 4. */
uint32_t pci_config_read(const struct pci_function *f, unsigned offset, unsigned size);

/*
 * Called when the guest reads or writes configuration space inside [offset, offset + length) of the device's own capability, for
 * capabilities with side effects (virtio's PCI configuration access). before the read, after the write. One window a function.
 */
struct pci_config_hook {
    unsigned offset, length;
    void (*before_read)(void *device);
    void (*after_write)(void *device);
};
void pci_set_config_hook(struct pci_function *f, const struct pci_config_hook *hook);
/* Stores into configuration space, past what is writable for the guest. */
void pci_config_store(struct pci_function *f, unsigned offset, unsigned size, uint32_t value);

/* The command register's Bus Master Enable: a device must not touch RAM without. */
bool pci_may_master(const struct pci_function *f);

/* The interrupt line (machine_set_irq) that INTA# of that device number is wired to: the same with the PIC and with the I/O APIC. */
unsigned pci_line_of_device(unsigned number);

/* The level of INTA#. Not seen by the guest while MSI-X is enabled or Interrupt Disable is set. */
void pci_set_interrupt(struct pci_function *f, bool level);

/* True while the guest has MSI-X enabled. */
bool pci_msix_enabled(const struct pci_function *f);
/* Sends the vector's message, or sets its pending bit while it is masked. Nothing while MSI-X is off, and for vectors out of range. */
void pci_msix_send(struct pci_function *f, unsigned vector);

struct machine *pci_machine(const struct pci_function *f);

#endif
