/* Guest memory while an image is loaded: who has what, what is free, and what the guest is told. */
#include "core/loader_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

static bool overlaps(const struct load_range *r, gpa_t start, uint64_t length)
{
    return start < r->start + r->length && r->start < start + length;
}

static const struct load_range *find_overlap(const struct load_map *map, gpa_t start, uint64_t length)
{
    for (unsigned i = 0; i < map->count; i++)
        if (overlaps(&map->range[i], start, length))
            return &map->range[i];
    return NULL;
}

/* All of [start, start+length) is RAM; the caller knows that the sum does not overflow. */
static bool is_ram(const struct guest_ram *ram, gpa_t start, uint64_t length)
{
    if (start < ram->low_bytes)
        return length <= ram->low_bytes - start;
    uint64_t high_bytes = ram->size_bytes - ram->low_bytes;
    return start >= RAM_HIGH_GPA && start - RAM_HIGH_GPA < high_bytes &&
           length <= high_bytes - (start - RAM_HIGH_GPA);
}

static int not_ram(const struct guest_ram *ram, gpa_t start, uint64_t end, const char *what,
                   struct error *err)
{
    const uint64_t mib = (uint64_t)1 << 20;
    if (start < RAM_HIGH_GPA && end > RAM_LOW_MAX_BYTES)
        return error_set(err, -ENOMEM,
                         "%s is to be loaded at %#" PRIx64 "..%#" PRIx64
                         ", but there is never RAM between 3 GiB and 4 GiB",
                         what, start, end - 1);
    uint64_t needed = start >= RAM_HIGH_GPA ? end - RAM_HIGH_GPA + RAM_LOW_MAX_BYTES : end;
    if (needed > RAM_MAX_BYTES)
        return error_set(err, -ENOMEM,
                         "%s is to be loaded at %#" PRIx64 "..%#" PRIx64 ", beyond the largest RAM", what,
                         start, end - 1);
    return error_set(err, -ENOMEM,
                     "%s is to be loaded at %#" PRIx64 "..%#" PRIx64 ", which needs %" PRIu64
                     " MiB of RAM; the guest has %" PRIu64 " MiB",
                     what, start, end - 1, (needed + mib - 1) / mib, ram->size_bytes / mib);
}

static int remember(struct load_map *map, gpa_t start, uint64_t length, const char *what, struct error *err)
{
    if (map->count == LOAD_MAP_MAX)
        return error_set(err, -EINVAL, "%s: more than %d parts to load", what, LOAD_MAP_MAX);
    map->range[map->count++] = (struct load_range){.start = start, .length = length, .what = what};
    return 0;
}

int load_map_take(struct load_map *map, gpa_t start, uint64_t length, const char *what, struct error *err)
{
    uint64_t end;
    if (length == 0)
        return 0;
    if (__builtin_add_overflow(start, length, &end))
        return error_set(err, -EINVAL,
                         "%s: %#" PRIx64 " bytes at %#" PRIx64 " go around the end of the address space",
                         what, length, start);
    if (!is_ram(map->ram, start, length))
        return not_ram(map->ram, start, end, what, err);
    const struct load_range *other = find_overlap(map, start, length);
    if (other)
        return error_set(err, -EINVAL,
                         "%s at %#" PRIx64 "..%#" PRIx64 " overlaps %s at %#" PRIx64 "..%#" PRIx64, what,
                         start, end - 1, other->what, other->start, other->start + other->length - 1);
    return remember(map, start, length, what, err);
}

int load_map_begin(struct load_map *map, struct guest_ram *ram, const struct loader_input *input,
                   struct error *err)
{
    map->ram = ram;
    map->count = 0;
    return load_map_take(map, input->acpi_start, input->acpi_bytes, "the ACPI tables", err);
}

int load_map_place(struct load_map *map, gpa_t low, gpa_t high, uint64_t length, bool from_top,
                   const char *what, gpa_t *start, struct error *err)
{
    const struct load_range *other;
    if (high > map->ram->low_bytes)
        high = map->ram->low_bytes;
    low = (low + PAGE_MASK) & ~PAGE_MASK;
    if (length <= high && low <= high - length) {
        gpa_t at = from_top ? (high - length) & ~PAGE_MASK : low;
        /* Each overlap moves the place past one range for good, so this ends after count moves at most. */
        while (at >= low && at <= high - length) {
            other = find_overlap(map, at, length);
            if (!other) {
                *start = at;
                return remember(map, at, length, what, err);
            }
            if (from_top && other->start < length)
                break;
            at = from_top ? (other->start - length) & ~PAGE_MASK
                          : (other->start + other->length + PAGE_MASK) & ~PAGE_MASK;
        }
    }
    return error_set(err, -ENOMEM,
                     "no room for %s: %" PRIu64 " bytes between %#" PRIx64 " and %#" PRIx64
                     " that the image leaves free; the guest has %" PRIu64 " MiB of RAM",
                     what, length, low, high, map->ram->size_bytes >> 20);
}

unsigned memory_map(const struct guest_ram *ram, struct memory_region out[MEMORY_REGION_MAX])
{
    unsigned n = 0;
    out[n++] = (struct memory_region){0, CONVENTIONAL_END, MEMORY_RAM};
    out[n++] = (struct memory_region){CONVENTIONAL_END, EXTENDED_START - CONVENTIONAL_END, MEMORY_RESERVED};
    if (ram->low_bytes > EXTENDED_START)
        out[n++] = (struct memory_region){EXTENDED_START, ram->low_bytes - EXTENDED_START, MEMORY_RAM};
    if (ram->size_bytes > ram->low_bytes)
        out[n++] = (struct memory_region){RAM_HIGH_GPA, ram->size_bytes - ram->low_bytes, MEMORY_RAM};
    return n;
}

int check_command_line(const struct loader_input *input, struct error *err)
{
    size_t length = strlen(input->command_line);
    if (length > COMMAND_LINE_MAX)
        return error_set(err, -EINVAL, "the guest's command line has %zu bytes; at most %d are possible",
                         length, COMMAND_LINE_MAX);
    return 0;
}

/* A flat descriptor, base 0, limit 4 GiB - 1 (SDM 3, figure 3-8). */
static uint64_t flat_descriptor(uint16_t rights)
{
    return 0x000f00000000ffffull | (uint64_t)(rights & 0xf0ff) << 40;
}

int boot_state_init(struct vcpu_state *s, struct guest_ram *ram, gpa_t gdt, uint16_t code_rights,
                    struct error *err)
{
    const uint64_t table[GDT_BYTES / 8] = {
        [BOOT_CS / 8] = flat_descriptor(code_rights),
        [BOOT_DS / 8] = flat_descriptor(RIGHTS_DATA),
    };
    int rc = ram_write(ram, gdt, table, sizeof(table));
    if (rc)
        return error_errno(err, rc, "writing the guest's GDT at %#" PRIx64, gdt);

    vcpu_state_reset(s);
    memset(s->gpr, 0, sizeof(s->gpr));
    for (unsigned i = 0; i < SEG_COUNT; i++)
        s->seg[i] = (struct segment){.limit = UINT32_MAX, .selector = BOOT_DS, .rights = RIGHTS_DATA};
    s->seg[SEG_CS] = (struct segment){.limit = UINT32_MAX, .selector = BOOT_CS, .rights = code_rights};
    s->tr = (struct segment){.limit = 0x67, .rights = RIGHTS_BUSY_TSS};
    s->ldtr = (struct segment){.rights = 0};
    s->gdtr = (struct descriptor_table){.base = gdt, .limit = GDT_BYTES - 1};
    s->idtr = (struct descriptor_table){.base = 0, .limit = 0};
    s->rflags = RFLAGS_FIXED;
    memset(&s->fpu, 0, sizeof(s->fpu));
    s->fpu.fcw = FCW_DEFAULT;
    s->fpu.mxcsr = MXCSR_DEFAULT;
    return 0;
}
