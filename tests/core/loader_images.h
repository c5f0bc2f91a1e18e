/*
 * Guest images made up by the loaders' tests, and guests to load them into.
 */
#ifndef DEJAVM_TESTS_CORE_LOADER_IMAGES_H
#define DEJAVM_TESTS_CORE_LOADER_IMAGES_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <elf.h>

#include "core/loader.h"

#define MIB              ((uint64_t)1 << 20)
#define GIB              ((uint64_t)1 << 30)
#define IMAGE_BYTES      4096
#define CODE_OFFSET      512 /* in the file: bytes 1, 2, 3, ... */
#define CODE_BYTES       64
#define LOAD_AT          0x100000u
#define MULTIBOOT_OFFSET 256
#define INITRD_BYTES     47 /* not whole pages */
#define ACPI_AT          0xe0000u
#define ACPI_LENGTH      0x4000u
#define RSDP_AT          0xe0040u

extern const uint8_t initrd[INITRD_BYTES];

struct image {
    uint8_t bytes[IMAGE_BYTES];
    size_t length;
};

/* Good images: two segments, code and as many zeros at 1 MiB, zeros at 2 MiB; one segment; no ELF at all. */
struct image elf64_image(void);
struct image elf32_image(void);
struct image kludge_image(void);

void put_code(struct image *m);
/* address: the five words after the checksum, or NULL. */
void put_multiboot(struct image *m, uint32_t flags, const uint32_t address[5]);

/* Where their headers are. */
Elf64_Ehdr *ehdr64(struct image *m);
Elf64_Phdr *phdr64(struct image *m, unsigned n);
Elf32_Ehdr *ehdr32(struct image *m);
Elf32_Phdr *phdr32(struct image *m, unsigned n);

struct guest {
    struct guest_ram *ram;
    struct loader_result result;
    struct error err;
};

/* One at a time; its RAM is the caller's to destroy. */
struct guest *guest_create(uint64_t ram_bytes);
int load(struct guest *g, const struct image *m, const char *command_line, bool with_initrd);
void assert_loads(struct guest *g, const struct image *m, const char *command_line, bool with_initrd);
/* Loading into a guest with that much RAM fails with code, and with message as part of what is said. */
void assert_fails(const struct image *m, uint64_t ram_bytes, int code, const char *message);

void read_guest(const struct guest *g, gpa_t gpa, void *out, size_t length);
uint32_t read32(const struct guest *g, gpa_t gpa);
void assert_string(const struct guest *g, gpa_t gpa, const char *expected);
/* The code is there, and zeros after it. */
void assert_code_loaded(const struct guest *g, gpa_t at);
/* Segments, descriptor tables and flags as both boot protocols have them; registers and GDT agree. */
void assert_segments(const struct guest *g, uint16_t code_rights);

#endif
