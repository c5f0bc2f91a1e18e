/* Which loader an image is for, and what to say when it is for none. */
#include "core/loader_internal.h"

#include <errno.h>
#include <string.h>

#define SUPPORTED                                                                                            \
    "dejavm loads Linux bzImages, x86-64 ELF executables (by their PVH note, or the 64-bit entry of the "    \
    "Linux boot protocol) "                                                                                  \
    "and Multiboot 1 kernels"

const char *guest_format_name(enum guest_format format)
{
    switch (format) {
    case GUEST_ELF64:
        return "ELF64";
    case GUEST_MULTIBOOT:
        return "Multiboot 1";
    case GUEST_LINUX_BZIMAGE:
        return "Linux bzImage";
    case GUEST_PVH:
        return "PVH";
    case GUEST_UNKNOWN:
        break;
    }
    return "unknown";
}

/* Multiboot2 Specification 2.0, 3.1: 8-byte aligned in the first 32 KiB, four words with a checksum. */
static bool is_multiboot2(const uint8_t *image, size_t length)
{
    size_t search = length < 32768 ? length : 32768;
    for (size_t at = 0; at + 16 <= search; at += 8) {
        uint32_t word[4];
        memcpy(word, image + at, sizeof(word));
        if (word[0] == 0xe85250d6u && word[0] + word[1] + word[2] + word[3] == 0)
            return true;
    }
    return false;
}

static bool has_bytes(const uint8_t *image, size_t length, size_t offset, const char *bytes, size_t count)
{
    return length >= offset && length - offset >= count && memcmp(image + offset, bytes, count) == 0;
}

/* What the image is, if it is not something that is loaded. */
static const char *describe_other(const uint8_t *image, size_t length)
{
    static const struct {
        size_t offset;
        const char *bytes;
        size_t count;
        const char *what;
    } known[] = {
        {0, "MZ", 2, "a PE (EFI or Windows) program"},
        {0, "\x1f\x8b", 2, "gzip-compressed; decompress it first"},
        {0,
         "\xfd"
         "7zXZ",
         5, "xz-compressed; decompress it first"},
        {0, "\x28\xb5\x2f\xfd", 4, "zstd-compressed; decompress it first"},
        {0, "BZh", 3, "bzip2-compressed; decompress it first"},
        {0, "\x04\x22\x4d\x18", 4, "LZ4-compressed; decompress it first"},
        {0, "\xcf\xfa\xed\xfe", 4, "a Mach-O file"},
        {0, "070701", 6, "a cpio archive (an initrd?)"},
        {0, "QFI\xfb", 4, "a qcow2 disk image"},
        {0x8001, "CD001", 5, "an ISO 9660 disk image"},
        {0, "#!", 2, "a script"},
        {510, "\x55\xaa", 2, "a boot sector or disk image"},
    };
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        if (has_bytes(image, length, known[i].offset, known[i].bytes, known[i].count))
            return known[i].what;
    return NULL;
}

static int load(struct guest_ram *ram, const struct loader_input *input, struct loader_result *out,
                struct error *err)
{
    const uint8_t *image = input->image;
    size_t length = input->image_length;
    if (length == 0)
        return error_set(err, -EINVAL, "the file is empty; " SUPPORTED);
    if (loader_is_multiboot(image, length)) {
        out->format = GUEST_MULTIBOOT;
        return loader_load_multiboot(ram, input, &out->state, err);
    }
    if (is_multiboot2(image, length))
        return error_set(err, -ENOTSUP,
                         "the file is a Multiboot 2 kernel, which is not supported; " SUPPORTED);
    if (loader_is_pvh(image, length)) {
        out->format = GUEST_PVH;
        return loader_load_pvh(ram, input, &out->state, err);
    }
    if (elf_is_elf(image, length)) {
        out->format = GUEST_ELF64;
        int rc = loader_load_elf64(ram, input, &out->state, err);
        if (rc == -ENOTSUP && err)
            error_prefix(err, SUPPORTED);
        return rc;
    }
    if (loader_is_bzimage(image, length)) { /* which may be a PE file too, for EFI */
        out->format = GUEST_LINUX_BZIMAGE;
        return loader_load_linux(ram, input, &out->state, err);
    }
    const char *what = describe_other(image, length);
    if (what)
        return error_set(err, -ENOTSUP, "the file is %s, which is not supported; " SUPPORTED, what);
    return error_set(err, -ENOTSUP, "the file's format is unknown; " SUPPORTED);
}

int loader_load(struct guest_ram *ram, const struct loader_input *input, struct loader_result *out,
                struct error *err)
{
    memset(out, 0, sizeof(*out));
    int rc = load(ram, input, out, err);
    if (rc) {
        out->format = GUEST_UNKNOWN;
        error_prefix(err, "%s", input->image_name);
    }
    return rc;
}
