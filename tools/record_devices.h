/* The options of record that say what devices the guest has. */
#ifndef DEJAVM_TOOLS_RECORD_DEVICES_H
#define DEJAVM_TOOLS_RECORD_DEVICES_H

#include "devices/devices.h"
#include "tools/command.h"

#define RECORD_DISKS_MAX    16u
#define RECORD_SHARES_MAX   8u
#define RECORD_FORWARDS_MAX 32u

struct record_devices {
    struct board_disk disks[RECORD_DISKS_MAX];
    char *disk_path[RECORD_DISKS_MAX]; /* what disks[].path points to */
    size_t disk_count;
    struct board_share shares[RECORD_SHARES_MAX];
    char *share_text[RECORD_SHARES_MAX];   /* the option's value, cut into what shares[] points to */
    char share_tag[RECORD_SHARES_MAX][16]; /* where none was given */
    size_t share_count;
    struct board_net net;
    char *net_text;
    const char *forwards[RECORD_FORWARDS_MAX]; /* parts of net_text */
};

/*
 * Reads the command line; options gets what it says, and points into devices and the arguments. Returns an exit status, after a
 * message.
 */
int record_devices_parse(struct record_devices *devices, const struct arguments *arguments,
                         struct board_options *options);
void record_devices_free(struct record_devices *devices);

#endif
