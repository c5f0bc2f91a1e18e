/* A recording as the command line asks for it: what `dejavm record` and debugging a live guest share. */
#ifndef DEJAVM_TOOLS_RECORDING_H
#define DEJAVM_TOOLS_RECORDING_H

#include "record/record.h"
#include "tools/command.h"
#include "tools/console.h"
#include "tools/progress.h"
#include "tools/record_devices.h"
#include "tools/terminal.h"

struct recording {
    struct record_options options; /* with console and progress functions that a caller may replace */
    struct record_devices devices;
    const char *serial; /* "stdio", "null" or a file's name */
    bool seal, engine_auto;
    char *default_path;
    int serial_file; /* -1: none */
    struct console console;
    struct progress progress;
    struct terminal *terminal;
    unsigned interrupts; /* signals that came while it ran: those after it are meant for the sealing */
};

/* Part of a command's options: all but --memory, which means other things elsewhere. */
#define RECORDING_OPTIONS                                                                                    \
    {.name = "output",                                                                                       \
     .letter = 'o',                                                                                          \
     .value = "FILE",                                                                                        \
     .text = "The trace to write. Default: the guest's file name with .dvm, in the current directory."},     \
        {.name = "force", .letter = 'f', .text = "Replace FILE if it exists."},                              \
        {.name = "engine",                                                                                   \
         .value = "ENGINE",                                                                                  \
         .choices = "auto kvm emu",                                                                          \
         .text =                                                                                             \
             "What executes the guest: kvm, emu (dejavm's own emulator, needs nothing from the host), or "   \
             "auto: kvm "                                                                                    \
             "where it works. Default: auto."},                                                              \
        {.name = "machine",                                                                                  \
         .value = "MACHINE",                                                                                 \
         .choices = "pc minimal",                                                                            \
         .text = "The devices that the guest has: pc (PCI, ACPI, virtio and, in the emulator, APICs) or "    \
                 "minimal (none of these). "                                                                 \
                 "Default: pc."},                                                                            \
        {.name = "clock",                                                                                    \
         .value = "CLOCK",                                                                                   \
         .choices = "host virtual",                                                                          \
         .text = "Where the guest's time comes from: host (it follows the host's clock) or virtual (it "     \
                 "follows from what the guest "                                                              \
                 "does, an idle guest does not wait, and every recording of the same guest with the same "   \
                 "inputs is the same; the "                                                                  \
                 "emulator only). Default: host."},                                                          \
        {.name = "seed",                                                                                     \
         .value = "N",                                                                                       \
         .text = "The guest's random numbers follow from N. Default: they are the host's; with --clock "     \
                 "virtual, N is 0."},                                                                        \
        {.name = "initrd",                                                                                   \
         .value = "FILE",                                                                                    \
         .text = "A Linux guest's initial RAM disk; a Multiboot guest's first module."},                     \
        {.name = "disk",                                                                                     \
         .value = "FILE[,ro][,write-through]",                                                               \
         .repeatable = true,                                                                                 \
         .text =                                                                                             \
             "A disk for the guest, at most 16 times: virtio, /dev/vda for the first in Linux. FILE is a "   \
             "raw image of whole 512-byte sectors, a block device, or a qcow2 image (that needs the "        \
             "package "                                                                                      \
             "qemu-utils). What the guest writes goes to a temporary file in TMPDIR or /var/tmp, and is "    \
             "gone "                                                                                         \
             "afterwards; FILE does not change. write-through: it goes to FILE, which nobody else may be "   \
             "using. ro: the guest is told that it cannot write. The trace replays without FILE."},          \
        {.name = "append", .value = "STRING", .text = "The guest's command line."},                          \
        {.name = "net",                                                                                      \
         .value = "user[,hostfwd=...]",                                                                      \
         .text = "A network card on a network of dejavm's own: DHCP gives the guest 10.0.2.15, the host is " \
                 "10.0.2.2 (what listens at "                                                                \
                 "127.0.0.1 is reached there), the name server 10.0.2.3. "                                   \
                 "hostfwd=tcp:[HOSTADDR]:PORT-[GUESTADDR]:PORT, any number of times, or udp:..., forwards "  \
                 "a port "                                                                                   \
                 "of the host to the "                                                                       \
                 "guest; HOSTADDR is 127.0.0.1 unless given."},                                              \
        {.name = "share",                                                                                    \
         .value = "DIR[,tag=NAME][,ro]",                                                                     \
         .repeatable = true,                                                                                 \
         .text =                                                                                             \
             "A folder of the host for the guest: mount -t 9p -o trans=virtio,version=9p2000.L NAME /mnt. "  \
             "NAME is share (share2, "                                                                       \
             "...) unless given; ro: the guest cannot change it."},                                          \
        {.name = "timeout",                                                                                  \
         .value = "SECONDS",                                                                                 \
         .text = "Stop after this much time on the host's clock; may have a fraction."},                     \
        {.name = "max-steps", .value = "N", .text = "Stop after N steps; the emulator only."},               \
        {.name = "serial",                                                                                   \
         .value = "WHERE",                                                                                   \
         .choices = "stdio null",                                                                            \
         .text = "The guest's serial port: stdio, null (and nothing of the other consoles either), or a "    \
                 "file for what it prints (the debug console at port 0xe9 and the virtio console still go "  \
                 "to standard output then). Default: stdio."},                                               \
        {.name = "console",                                                                                  \
         .value = "CONSOLE",                                                                                 \
         .choices = "serial virtio",                                                                         \
         .text = "The guest's console that gets what is typed: serial (ttyS0 in Linux) or virtio (hvc0). "   \
                 "What either of them prints appears on standard output. Default: serial."},                 \
    {                                                                                                        \
        .name = "no-seal", .text = "Do not seal at the end; the first command that replays the trace does."  \
    }

/* The name of one of these options that was given, or NULL. */
const char *recording_option_given(const struct arguments *arguments);

/* The guest is the first operand. serial: where its serial port goes without --serial. Returns an exit status. */
int recording_parse(struct recording *r, const struct arguments *a, const char *serial);
void recording_free(struct recording *r);
/* The trace must not be the guest, and an existing file is only replaced when that was asked for. False: a message was printed. */
bool recording_path_is_free(const struct recording *r);
/* Where the guest's serial line comes from and goes to. */
int recording_connect(struct recording *r, struct error *err) must_check;
void recording_disconnect(struct recording *r);
/* Of a trace that is finished: says how it ended, and seals it if it is to be. Returns an exit status. */
int recording_report(const struct recording *r, const struct record_result *result);

#endif
