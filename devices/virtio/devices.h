/* The virtio devices. Each attach function puts one on the bus; the machine owns it. One file per device. */
#ifndef DEJAVM_DEVICES_VIRTIO_DEVICES_H
#define DEJAVM_DEVICES_VIRTIO_DEVICES_H

#include "devices/devices.h"
#include "devices/pci.h"

/* Opens the disk's file. What is wrong with it is an error that names it. */
int virtio_block_attach(struct machine *m, struct pci_bus *bus, const struct board_disk *disk,
                        struct error *err) must_check;
int virtio_console_attach(struct machine *m, struct pci_bus *bus,
                          struct error *err) must_check; /* one port, CONSOLE_VIRTIO */
int virtio_rng_attach(struct machine *m, struct pci_bus *bus,
                      struct error *err) must_check; /* machine_entropy */
/* With its user-mode network. */
int virtio_net_attach(struct machine *m, struct pci_bus *bus, const struct board_net *net,
                      struct error *err) must_check;
/* Opens the folder. */
int virtio_p9_attach(struct machine *m, struct pci_bus *bus, const struct board_share *share,
                     struct error *err) must_check;

#endif
