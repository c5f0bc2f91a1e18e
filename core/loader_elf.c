/* ELF executables, both classes (System V gABI, chapters 4 and 5): headers checked, segments loaded. */
#include "core/loader_internal.h"

#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

bool elf_is_elf(const uint8_t *image, size_t length)
{
    return length >= EI_NIDENT && memcmp(image, ELFMAG, SELFMAG) == 0;
}

/* The fields of either class's file header that matter here. */
struct header {
    uint16_t type, machine, phentsize, phnum;
    uint64_t entry, phoff;
};

static int read_header(struct header *h, bool is_64bit, const uint8_t *image, size_t length,
                       struct error *err)
{
    size_t size = is_64bit ? sizeof(Elf64_Ehdr) : sizeof(Elf32_Ehdr);
    if (length < size)
        return error_set(err, -EINVAL, "ELF file is cut short: %zu bytes, its header alone takes %zu", length,
                         size);
    if (is_64bit) {
        Elf64_Ehdr e;
        memcpy(&e, image, sizeof(e));
        *h = (struct header){e.e_type, e.e_machine, e.e_phentsize, e.e_phnum, e.e_entry, e.e_phoff};
    } else {
        Elf32_Ehdr e;
        memcpy(&e, image, sizeof(e));
        *h = (struct header){e.e_type, e.e_machine, e.e_phentsize, e.e_phnum, e.e_entry, e.e_phoff};
    }
    return 0;
}

/* Both classes' program headers as an Elf64_Phdr. */
static Elf64_Phdr read_program_header(bool is_64bit, const uint8_t *from)
{
    Elf64_Phdr p;
    if (is_64bit) {
        memcpy(&p, from, sizeof(p));
        return p;
    }
    Elf32_Phdr q;
    memcpy(&q, from, sizeof(q));
    return (Elf64_Phdr){.p_type = q.p_type,
                        .p_flags = q.p_flags,
                        .p_offset = q.p_offset,
                        .p_vaddr = q.p_vaddr,
                        .p_paddr = q.p_paddr,
                        .p_filesz = q.p_filesz,
                        .p_memsz = q.p_memsz,
                        .p_align = q.p_align};
}

static int check_kind(const struct header *h, bool is_64bit, struct error *err)
{
    if (h->machine != EM_X86_64 && h->machine != EM_386)
        return error_set(err, -ENOTSUP, "ELF file for machine %u; only x86-64 (62) and i386 (3) run here",
                         h->machine);
    if (is_64bit && h->machine == EM_386)
        return error_set(err, -EINVAL, "ELF file is 64-bit but says it is for i386");
    if (h->type == ET_DYN)
        return error_set(err, -ENOTSUP,
                         "ELF file is a shared object or position-independent executable; link the guest "
                         "with -static -no-pie at a fixed address");
    if (h->type == ET_REL)
        return error_set(err, -ENOTSUP, "ELF file is an object file that was not linked yet");
    if (h->type != ET_EXEC)
        return error_set(err, -ENOTSUP, "ELF file has type %u; only executables (2) can be loaded", h->type);
    return 0;
}

static int add_segment(struct elf_image *elf, const Elf64_Phdr *p, unsigned number, size_t image_length,
                       struct error *err)
{
    uint64_t end;
    if (p->p_filesz > p->p_memsz)
        return error_set(err, -EINVAL,
                         "program header %u: %" PRIu64 " bytes in the file but only %" PRIu64 " in memory",
                         number, p->p_filesz, p->p_memsz);
    if (p->p_memsz == 0)
        return 0;
    if (__builtin_add_overflow(p->p_offset, p->p_filesz, &end) || end > image_length)
        return error_set(err, -EINVAL,
                         "program header %u: %" PRIu64 " bytes at offset %#" PRIx64
                         " are not in the file of %zu bytes",
                         number, p->p_filesz, p->p_offset, image_length);
    if (__builtin_add_overflow(p->p_paddr, p->p_memsz - 1, &end) ||
        __builtin_add_overflow(p->p_vaddr, p->p_memsz - 1, &end))
        return error_set(err, -EINVAL,
                         "program header %u: %#" PRIx64 " bytes go around the end of the address space",
                         number, p->p_memsz);
    if (elf->count == ELF_SEGMENT_MAX)
        return error_set(err, -EINVAL, "ELF file has more than %d loadable segments", ELF_SEGMENT_MAX);
    struct elf_segment *s = &elf->segment[elf->count++];
    *s = (struct elf_segment){.offset = p->p_offset,
                              .file_bytes = p->p_filesz,
                              .start = p->p_paddr,
                              .address = p->p_vaddr,
                              .memory_bytes = p->p_memsz};
    snprintf(s->name, sizeof(s->name), "segment %u", number);
    return 0;
}

static int read_segments(struct elf_image *elf, const struct header *h, const uint8_t *image, size_t length,
                         struct error *err)
{
    size_t size = elf->is_64bit ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
    uint64_t end;
    if (h->phnum == 0)
        return error_set(err, -EINVAL, "ELF file has no program headers, so nothing to load");
    if (h->phentsize != size)
        return error_set(err, -EINVAL, "ELF program headers have %u bytes each instead of %zu", h->phentsize,
                         size);
    if (__builtin_add_overflow(h->phoff, (uint64_t)h->phnum * size, &end) || end > length)
        return error_set(err, -EINVAL,
                         "ELF program headers (%u at offset %#" PRIx64 ") are not in the file of %zu bytes",
                         h->phnum, h->phoff, length);
    for (unsigned i = 0; i < h->phnum; i++) {
        Elf64_Phdr p = read_program_header(elf->is_64bit, image + h->phoff + i * size);
        if (p.p_type == PT_INTERP)
            return error_set(err, -ENOTSUP,
                             "ELF file asks for a dynamic linker: it is a program for an operating "
                             "system, not a bare-metal guest");
        int rc = p.p_type == PT_LOAD ? add_segment(elf, &p, i, length, err) : 0;
        if (rc)
            return rc;
    }
    if (elf->count == 0)
        return error_set(err, -EINVAL, "ELF file has no loadable segment");
    return 0;
}

int elf_parse(struct elf_image *elf, const uint8_t *image, size_t length, struct error *err)
{
    struct header h;
    memset(elf, 0, sizeof(*elf));
    if (!elf_is_elf(image, length))
        return error_set(err, -EINVAL, "not an ELF file");
    unsigned class = image[EI_CLASS];
    if (class != ELFCLASS32 && class != ELFCLASS64)
        return error_set(err, -EINVAL, "ELF file has class %u; 1 (32-bit) and 2 (64-bit) exist", class);
    if (image[EI_DATA] != ELFDATA2LSB)
        return error_set(err, -ENOTSUP, "ELF file is not little-endian");
    if (image[EI_VERSION] != EV_CURRENT)
        return error_set(err, -EINVAL, "ELF file has version %u; only 1 exists", image[EI_VERSION]);
    elf->is_64bit = class == ELFCLASS64;
    int rc = read_header(&h, elf->is_64bit, image, length, err);
    if (!rc)
        rc = check_kind(&h, elf->is_64bit, err);
    if (rc)
        return rc;
    elf->machine = h.machine;
    elf->entry = h.entry;
    return read_segments(elf, &h, image, length, err);
}

int elf_load(const struct elf_image *elf, const uint8_t *image, struct load_map *map, struct error *err)
{
    for (unsigned i = 0; i < elf->count; i++) {
        const struct elf_segment *s = &elf->segment[i];
        int rc = load_map_take(map, s->start, s->memory_bytes, s->name, err);
        if (rc)
            return rc;
        rc = ram_write(map->ram, s->start, image + s->offset, (size_t)s->file_bytes);
        if (rc)
            return error_errno(err, rc, "loading %s", s->name);
    }
    return 0;
}

bool elf_has_physical(const struct elf_image *elf, gpa_t gpa)
{
    for (unsigned i = 0; i < elf->count; i++)
        if (gpa >= elf->segment[i].start && gpa - elf->segment[i].start < elf->segment[i].memory_bytes)
            return true;
    return false;
}

const struct elf_segment *elf_find_virtual(const struct elf_image *elf, gva_t gva)
{
    for (unsigned i = 0; i < elf->count; i++)
        if (gva >= elf->segment[i].address && gva - elf->segment[i].address < elf->segment[i].memory_bytes)
            return &elf->segment[i];
    return NULL;
}

/* A size of n bytes in a note, where every part is padded to 4 (gABI, "Note Section"; GNU tools do so in both classes). */
static uint64_t note_part(uint32_t n)
{
    return ((uint64_t)n + 3) & ~(uint64_t)3;
}

/* The note in [at, end) of the image, which is inside of it. */
static const uint8_t *find_in_segment(const uint8_t *at, const uint8_t *end, const char *owner, uint32_t type,
                                      uint32_t *descriptor_bytes)
{
    size_t owner_bytes = strlen(owner) + 1;
    Elf64_Nhdr note; /* the same in both classes */
    while ((size_t)(end - at) >= sizeof(note)) {
        memcpy(&note, at, sizeof(note));
        at += sizeof(note);
        uint64_t total = note_part(note.n_namesz) + note_part(note.n_descsz);
        if (total > (size_t)(end - at))
            return NULL;
        if (note.n_type == type && note.n_namesz == owner_bytes && memcmp(at, owner, owner_bytes) == 0) {
            *descriptor_bytes = note.n_descsz;
            return at + note_part(note.n_namesz);
        }
        at += total;
    }
    return NULL;
}

const uint8_t *elf_find_note(const uint8_t *image, size_t length, const char *owner, uint32_t type,
                             uint32_t *descriptor_bytes)
{
    struct header h;
    uint64_t end;
    if (!elf_is_elf(image, length))
        return NULL;
    bool is_64bit = image[EI_CLASS] == ELFCLASS64;
    size_t size = is_64bit ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
    if (read_header(&h, is_64bit, image, length, NULL) || h.phentsize != size ||
        __builtin_add_overflow(h.phoff, (uint64_t)h.phnum * size, &end) || end > length)
        return NULL;
    for (unsigned i = 0; i < h.phnum; i++) {
        Elf64_Phdr p = read_program_header(is_64bit, image + h.phoff + i * size);
        if (p.p_type != PT_NOTE || __builtin_add_overflow(p.p_offset, p.p_filesz, &end) || end > length)
            continue;
        const uint8_t *found =
            find_in_segment(image + p.p_offset, image + end, owner, type, descriptor_bytes);
        if (found)
            return found;
    }
    return NULL;
}
