#include "core/linux/internal.h"
#include "core/x86/inspect.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Kernel text may be anywhere in this range (KASLR moves it in steps of 2 MiB); without KASLR, modules come behind it. */
#define KERNEL_MAP_START 0xffffffff80000000ull
#define KERNEL_MAP_BYTES ((uint64_t)1 << 30)

#define SLOT_BYTES ((uint64_t)2 << 20) /* what a page directory entry maps */
#define SLOTS      (KERNEL_MAP_BYTES / SLOT_BYTES)
/* Memory of the image that was given back after the boot is no longer mapped. */
#define GAP_SLOTS_MAX   4
#define IMAGE_MAX_BYTES ((uint64_t)256 << 20)

static const char banner_start[] = "Linux version ";

/* Copies the frame that gva is mapped to, if it is RAM. */
static void copy_page(const struct linux_view *view, gpa_t gpa, uint8_t *out)
{
    const uint8_t *frame = ram_frame(view->ram, gpa >> PAGE_SHIFT);
    if (frame)
        memcpy(out, frame, PAGE_SIZE_BYTES);
}

static void copy_slot(const struct linux_view *view, gva_t slot, uint8_t *out)
{
    struct x86_walk walk;
    x86_walk(view->ram, view->state, slot, &walk);
    bool large = walk.mapped && walk.page_shift >= 21;
    for (uint64_t offset = 0; offset < SLOT_BYTES; offset += PAGE_SIZE_BYTES) {
        if (large) {
            copy_page(view, walk.gpa + offset, out + offset);
            continue;
        }
        gpa_t gpa;
        if (x86_translate(view->ram, view->state, slot + offset, &gpa) == 0)
            copy_page(view, gpa, out + offset);
    }
}

/* Anything may be mapped there: a large page, or a table. */
static bool slot_used(const struct linux_view *view, gva_t slot)
{
    struct x86_walk walk;
    x86_walk(view->ram, view->state, slot, &walk);
    return walk.mapped || (walk.count > 0 && walk.step[walk.count - 1].level == 1);
}

static bool has_banner(const uint8_t *data, size_t length)
{
    const size_t known = sizeof(banner_start) - 1;
    for (const uint8_t *at = data; (at = memmem(at, length - (size_t)(at - data), banner_start, known)); at++)
        if ((size_t)(at - data) + known < length && at[known] >= '1' && at[known] <= '9')
            return true;
    return false;
}

/* One run of slots. -ENOENT: not the kernel. */
static int read_run(struct image *out, const struct linux_view *view, unsigned first, unsigned last,
                    struct error *err)
{
    uint64_t length = (last - first + 1) * SLOT_BYTES;
    if (length > IMAGE_MAX_BYTES)
        length = IMAGE_MAX_BYTES;
    *out = (struct image){.start = KERNEL_MAP_START + first * SLOT_BYTES, .length = (size_t)length};
    out->data = calloc(1, (size_t)length);
    if (!out->data)
        return error_set(err, -ENOMEM, "no memory for a copy of the kernel");
    for (uint64_t offset = 0; offset < length; offset += SLOT_BYTES)
        copy_slot(view, out->start + offset, out->data + offset);
    if (has_banner(out->data, out->length))
        return 0;
    image_free(out);
    return -ENOENT;
}

int image_read(struct image *out, const struct linux_view *view, struct error *err)
{
    uint64_t budget = IMAGE_MAX_BYTES / SLOT_BYTES;
    *out = (struct image){0};
    if (!vcpu_in_long_mode(view->state) || !(view->state->cr0 & CR0_PG))
        return error_set(err, -ENOENT, "there is no 64-bit Linux kernel at this position");
    for (unsigned slot = 0; slot < SLOTS && budget > 0; slot++) {
        if (!slot_used(view, KERNEL_MAP_START + slot * SLOT_BYTES))
            continue;
        unsigned last = slot;
        for (unsigned next = slot + 1; next < SLOTS && next - last <= GAP_SLOTS_MAX; next++)
            if (slot_used(view, KERNEL_MAP_START + next * SLOT_BYTES))
                last = next;
        int code = read_run(out, view, slot, last, err);
        if (code != -ENOENT)
            return code;
        budget -= last - slot + 1 > budget ? budget : last - slot + 1;
        slot = last;
    }
    return error_set(err, -ENOENT, "there is no Linux kernel at this position, or not yet");
}

void image_free(struct image *image)
{
    free(image->data);
    *image = (struct image){0};
}
