/*
 * Loaders: put a guest image into RAM and give the vCPU its first state.
 *
 * Supported: Linux bzImages and ELF64 without a boot note (64-bit entry as the Linux x86 64-bit boot protocol has it), ELF with
 * a PVH note (vmlinux), and Multiboot 1 (ELF32 and ELF64 files, and the a.out kludge's address fields).
 */
#ifndef DEJAVM_CORE_LOADER_H
#define DEJAVM_CORE_LOADER_H

#include "core/base/error.h"
#include "core/ram.h"
#include "core/vcpu_state.h"

enum guest_format { GUEST_UNKNOWN, GUEST_ELF64, GUEST_MULTIBOOT, GUEST_LINUX_BZIMAGE, GUEST_PVH };

struct loader_input {
    const uint8_t *image;
    size_t image_length;
    const char *image_name; /* for messages and for Multiboot's boot_loader/module strings */
    const uint8_t *initrd;  /* or NULL */
    size_t initrd_length;
    const char *initrd_name;
    const char *command_line; /* "" if none */
    /* Where the board has its ACPI tables: nothing is loaded there, and the boot protocols that can hand the RSDP over. 0: none */
    gpa_t acpi_start, acpi_rsdp;
    uint64_t acpi_bytes;
};

struct loader_result {
    enum guest_format format;
    struct vcpu_state state;
};

const char *guest_format_name(enum guest_format format);

/*
 * Bad images give -EINVAL (or -ENOTSUP for a format not supported, naming what it is, if it can be told, and
 * what is supported), -ENOMEM when the guest's RAM is too small (naming how much it takes). RAM is undefined then.
 */
int loader_load(struct guest_ram *ram, const struct loader_input *input, struct loader_result *out,
                struct error *err) must_check;

/* The loaders, for loader.c and tests. */
bool loader_is_multiboot(const uint8_t *image, size_t length);
bool loader_is_bzimage(const uint8_t *image, size_t length);
bool loader_is_pvh(const uint8_t *image, size_t length); /* an ELF file with a PVH entry note */
int loader_load_elf64(struct guest_ram *ram, const struct loader_input *input, struct vcpu_state *state,
                      struct error *err) must_check;
int loader_load_multiboot(struct guest_ram *ram, const struct loader_input *input, struct vcpu_state *state,
                          struct error *err) must_check;
int loader_load_linux(struct guest_ram *ram, const struct loader_input *input, struct vcpu_state *state,
                      struct error *err) must_check;
int loader_load_pvh(struct guest_ram *ram, const struct loader_input *input, struct vcpu_state *state,
                    struct error *err) must_check;

#endif
