/*
 * What the loaders share: who owns which part of guest memory while an image is loaded, the ELF program
 * headers of both classes, and the memory map that firmware would report. Private to the loader files.
 */
#ifndef DEJAVM_CORE_LOADER_INTERNAL_H
#define DEJAVM_CORE_LOADER_INTERNAL_H

#include "core/loader.h"

/* ---- loader_place.c: guest memory that is taken ---- */

#define LOAD_MAP_MAX 80

struct load_range {
    gpa_t start;
    uint64_t length;  /* not 0 */
    const char *what; /* "segment 2", "initrd": for messages; must live on */
};

struct load_map {
    struct guest_ram *ram;
    unsigned count;
    struct load_range range[LOAD_MAP_MAX];
};

/* An empty map; the memory that input sets aside is taken. */
int load_map_begin(struct load_map *map, struct guest_ram *ram, const struct loader_input *input,
                   struct error *err) must_check;

/*
 * Takes [start, start+length). -ENOMEM where it is not all RAM (the message says how much RAM it needs), -EINVAL where
 * it overlaps a range taken before (the message names both).
 */
int load_map_take(struct load_map *map, gpa_t start, uint64_t length, const char *what,
                  struct error *err) must_check;

/*
 * Takes length bytes, page aligned, wherever it is free inside [low, high) of RAM below 4 GiB: as low as possible, or
 * with from_top as high as possible. -ENOMEM when there is no such place.
 */
int load_map_place(struct load_map *map, gpa_t low, gpa_t high, uint64_t length, bool from_top,
                   const char *what, gpa_t *start, struct error *err) must_check;

/* The memory map of the machine, as firmware reports it. Types as in ACPI 6, table 15.6. */
enum memory_type { MEMORY_RAM = 1, MEMORY_RESERVED = 2 };

struct memory_region {
    gpa_t start;
    uint64_t length;
    enum memory_type type;
};

#define MEMORY_REGION_MAX 4
#define CONVENTIONAL_END  ((gpa_t)0x9fc00) /* 639 KiB: what PC firmware leaves below its data area */
#define EXTENDED_START    ((gpa_t)0x100000)

unsigned memory_map(const struct guest_ram *ram, struct memory_region out[MEMORY_REGION_MAX]);

#define COMMAND_LINE_MAX 4095 /* bytes, without the terminator */

/* -EINVAL for a command line that is too long. */
int check_command_line(const struct loader_input *input, struct error *err) must_check;

/* A flat GDT with code at 0x10 and data at 0x18, as GDT_BYTES bytes. */
#define GDT_BYTES       32
#define BOOT_CS         0x10
#define BOOT_DS         0x18
#define RIGHTS_CODE64   (SEGMENT_G | SEGMENT_L | SEGMENT_P | SEGMENT_S | 0xb) /* execute/read, accessed */
#define RIGHTS_CODE32   (SEGMENT_G | SEGMENT_DB | SEGMENT_P | SEGMENT_S | 0xb)
#define RIGHTS_DATA     (SEGMENT_G | SEGMENT_DB | SEGMENT_P | SEGMENT_S | 0x3) /* read/write, accessed */
#define RIGHTS_BUSY_TSS (SEGMENT_P | 0xb)

/*
 * The state both boot protocols share: reset state with flat segments, the GDT written at gdt, empty IDT, a busy
 * TSS that nothing uses, interrupts off, FPU as after FNINIT. Control registers are the caller's.
 */
int boot_state_init(struct vcpu_state *state, struct guest_ram *ram, gpa_t gdt, uint16_t code_rights,
                    struct error *err) must_check;

/* ---- loader_boot64.c: the 64-bit entry of the Linux boot protocol ---- */

struct setup_header; /* <asm/bootparam.h> */

/*
 * What follows once the image is in its place: initrd (not above header->initrd_addr_max), zero page with this setup header,
 * command line, page tables, and the state to enter at entry.
 */
int boot64_finish(struct load_map *map, const struct loader_input *input, const struct setup_header *header,
                  gpa_t entry, struct vcpu_state *state, struct error *err) must_check;

/* ---- loader_elf.c: ELF files ---- */

#define ELF_SEGMENT_MAX 64

struct elf_segment {
    uint64_t offset, file_bytes; /* inside the image: checked */
    gpa_t start;                 /* p_paddr */
    gva_t address;               /* p_vaddr */
    uint64_t memory_bytes;       /* >= file_bytes, not 0; start + and address + do not overflow */
    char name[16];               /* "segment 3": the program header's number */
};

struct elf_image {
    bool is_64bit;
    uint16_t machine; /* EM_386, EM_X86_64 */
    uint64_t entry;
    unsigned count;
    struct elf_segment segment[ELF_SEGMENT_MAX];
};

bool elf_is_elf(const uint8_t *image, size_t length);

/*
 * Reads the headers of a static x86 executable and checks every field. -EINVAL: damaged; -ENOTSUP: an ELF file of
 * another kind (the message says which).
 */
int elf_parse(struct elf_image *elf, const uint8_t *image, size_t length, struct error *err) must_check;

/* Takes the segments' memory in map and copies their bytes. The rest of a segment is zero because RAM is. */
int elf_load(const struct elf_image *elf, const uint8_t *image, struct load_map *map,
             struct error *err) must_check;

/* True if gpa is inside a segment where it is loaded. */
bool elf_has_physical(const struct elf_image *elf, gpa_t gpa);

/* The segment that has gva at its virtual address, or NULL. */
const struct elf_segment *elf_find_virtual(const struct elf_image *elf, gva_t gva);

/*
 * The descriptor of the first note of that owner and type in a PT_NOTE segment, or NULL. Notes that reach beyond the file, or
 * beyond their segment, are not looked at.
 */
const uint8_t *elf_find_note(const uint8_t *image, size_t length, const char *owner, uint32_t type,
                             uint32_t *descriptor_bytes);

#endif
