/* What the loader says: the zero page of the Linux boot protocol (64-bit), or Multiboot information (32-bit). */
#include "guest.h"

static const uint8_t *boot_information;

void boot_information_set(const void *information)
{
    boot_information = information;
}

static uint32_t field32(unsigned offset)
{
    uint32_t value;
    memcpy(&value, boot_information + offset, sizeof(value));
    return value;
}

#ifdef __x86_64__

/* Offsets into struct boot_params: Documentation/arch/x86/zero-page.rst and boot.rst. */
enum zero_page {
    ZERO_PAGE_E820_ENTRIES = 0x1e8, /* one byte */
    ZERO_PAGE_RAMDISK_IMAGE = 0x218,
    ZERO_PAGE_RAMDISK_SIZE = 0x21c,
    ZERO_PAGE_CMD_LINE_PTR = 0x228,
    ZERO_PAGE_E820_TABLE = 0x2d0,
};
#define E820_ENTRY_BYTES 20 /* 64-bit start, 64-bit length, 32-bit type */

const char *command_line(void)
{
    return (const char *)(uintptr_t)field32(ZERO_PAGE_CMD_LINE_PTR);
}

unsigned memory_regions(struct memory_region *out, unsigned max)
{
    unsigned count = boot_information[ZERO_PAGE_E820_ENTRIES];
    if (count > max)
        count = max;
    for (unsigned i = 0; i < count; i++)
        memcpy(&out[i], boot_information + ZERO_PAGE_E820_TABLE + i * E820_ENTRY_BYTES, E820_ENTRY_BYTES);
    return count;
}

unsigned boot_modules(struct boot_module *out, unsigned max)
{
    uint32_t start = field32(ZERO_PAGE_RAMDISK_IMAGE), length = field32(ZERO_PAGE_RAMDISK_SIZE);
    if (length == 0 || max == 0)
        return 0;
    out[0] = (struct boot_module){start, (uintptr_t)start + length, ""};
    return 1;
}

#else

/* Multiboot Specification 0.6.96, 3.3. */
enum multiboot_information {
    INFO_FLAGS = 0,
    INFO_CMDLINE = 16,
    INFO_MODS_COUNT = 20,
    INFO_MODS_ADDR = 24,
    INFO_MMAP_LENGTH = 44,
    INFO_MMAP_ADDR = 48,
};
enum information_flag { HAS_CMDLINE = 1 << 2, HAS_MODULES = 1 << 3, HAS_MEMORY_MAP = 1 << 6 };

const char *command_line(void)
{
    return field32(INFO_FLAGS) & HAS_CMDLINE ? (const char *)field32(INFO_CMDLINE) : "";
}

unsigned memory_regions(struct memory_region *out, unsigned max)
{
    if (!(field32(INFO_FLAGS) & HAS_MEMORY_MAP))
        return 0;
    const uint8_t *at = (const uint8_t *)field32(INFO_MMAP_ADDR), *end = at + field32(INFO_MMAP_LENGTH);
    unsigned count = 0;
    while (at < end && count < max) {
        uint32_t size; /* of what follows it */
        memcpy(&size, at, sizeof(size));
        memcpy(&out[count].start, at + 4, 8);
        memcpy(&out[count].length, at + 12, 8);
        memcpy(&out[count].type, at + 20, 4);
        count++;
        at += size + sizeof(size);
    }
    return count;
}

unsigned boot_modules(struct boot_module *out, unsigned max)
{
    if (!(field32(INFO_FLAGS) & HAS_MODULES))
        return 0;
    unsigned count = field32(INFO_MODS_COUNT) < max ? field32(INFO_MODS_COUNT) : max;
    const uint32_t *module = (const uint32_t *)field32(INFO_MODS_ADDR);
    for (unsigned i = 0; i < count; i++, module += 4)
        out[i] = (struct boot_module){module[0], module[1], (const char *)module[2]};
    return count;
}

#endif

/* The value of an option ("" where it has none), and in *length how long it is; NULL if it is not there. */
static const char *find_option(const char *name, size_t *length)
{
    size_t name_length = strlen(name);
    const char *word = command_line();
    while (*word) {
        size_t word_length = 0;
        while (word[word_length] && word[word_length] != ' ')
            word_length++;
        if (word_length >= name_length && strncmp(word, name, name_length) == 0) {
            if (word_length == name_length) {
                *length = 0;
                return "";
            }
            if (word[name_length] == '=') {
                *length = word_length - name_length - 1;
                return word + name_length + 1;
            }
        }
        word += word_length;
        while (*word == ' ')
            word++;
    }
    return NULL;
}

bool option_present(const char *name)
{
    size_t length;
    return find_option(name, &length) != NULL;
}

bool option_string(const char *name, char *out, size_t size)
{
    size_t length;
    const char *value = find_option(name, &length);
    out[0] = '\0';
    if (!value)
        return false;
    if (length > size - 1)
        length = size - 1;
    memcpy(out, value, length);
    out[length] = '\0';
    return true;
}

static int digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return 255;
}

uint64_t option_number(const char *name, uint64_t otherwise)
{
    size_t length;
    const char *s = find_option(name, &length);
    if (!s || length == 0)
        return otherwise;
    int base = 10;
    if (length > 2 && s[0] == '0' && s[1] == 'x') {
        base = 16;
        s += 2;
        length -= 2;
    }
    uint64_t value = 0;
    for (size_t i = 0; i < length; i++) {
        if (digit_value(s[i]) >= base)
            return otherwise;
        value = value * (uint64_t)base + (uint64_t)digit_value(s[i]);
    }
    return value;
}
