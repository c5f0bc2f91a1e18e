/*
 * Linear memory as instructions see it: RAM through the TLB, everything else through the boundary, accesses that
 * cross a page, data breakpoints and alignment checks.
 */
#include <errno.h>
#include <string.h>

#include "core/x86/protect.h"
#include "core/x86/stub.h"

#define BOUNCE_BYTES 1024u

/* Where one page of an access lies. */
struct target {
    gpa_t gpa;
    uint64_t offset; /* in RAM's mapping, or RAM_NO_OFFSET */
};

static bool tag_matches(const struct tlb_entry *t, enum access access, gva_t page)
{
    uint64_t tag = access == ACCESS_READ ? t->read : access == ACCESS_WRITE ? t->write : t->exec;
    return tag == page;
}

static enum step translate(struct emu *e, gva_t linear, enum access access, enum rights rights,
                           struct target *out)
{
    enum tlb_context context = tlb_context_of(e, rights);
    const struct tlb_entry *t = &e->tlb_sets[context][(linear >> PAGE_SHIFT) & (TLB_ENTRIES - 1)];
    bool known = tag_matches(t, access, linear & ~PAGE_MASK);
    if (!known && unlikely(!e->tlb_clean[TLB_HIDDEN + context])) {
        t += TLB_HIDDEN * TLB_ENTRIES;
        known = tag_matches(t, access, linear & ~PAGE_MASK);
    }
    if (known) {
        out->offset = (uint64_t)(t->host - e->ram->host) + (linear & PAGE_MASK);
        out->gpa = ram_gpa_of_offset(e->ram, out->offset);
        return STEP_NEXT;
    }
    struct translation found = {0};
    enum step step = mmu_walk(e, linear, access, rights, &found);
    if (step != STEP_NEXT)
        return step;
    out->gpa = found.page | (linear & PAGE_MASK);
    out->offset = ram_offset(e->ram, out->gpa);
    if (out->offset != RAM_NO_OFFSET)
        tlb_fill(e, linear, access, rights, &found, out->offset);
    return STEP_NEXT;
}

enum step mmu_translate(struct emu *e, gva_t linear, enum access access, bool supervisor, gpa_t *gpa)
{
    struct target t = {0};
    enum rights rights = supervisor ? RIGHTS_IMPLICIT : rights_of_cpl(vcpu_cpl(&e->cpu));
    enum step step = translate(e, linear, access, rights, &t);
    *gpa = t.gpa;
    return step;
}

enum step mmu_fetch_page(struct emu *e, gva_t linear, uint64_t *ram_page, const uint8_t **host)
{
    struct target t = {0};
    /* SYSRET and task-independent RIP loads of this CPU leave the canonical check to the fetch. */
    if (vcpu_in_long_mode(&e->cpu) && !is_canonical(linear))
        return raise_exception_code(e, VEC_GP, 0);
    enum step step = translate(e, linear, ACCESS_EXEC, rights_of_cpl(vcpu_cpl(&e->cpu)), &t);
    if (step != STEP_NEXT)
        return step;
    /* Nothing answers there, so the bus reads all ones; FF FF is no instruction. */
    if (t.offset == RAM_NO_OFFSET)
        return raise_exception(e, VEC_UD);
    *ram_page = t.offset >> PAGE_SHIFT;
    *host = e->ram->host + (t.offset & ~PAGE_MASK);
    return STEP_NEXT;
}

/* ---- data breakpoints (SDM 3, 17.2.4) ---- */

static uint64_t watch_length(uint64_t dr7, unsigned i)
{
    static const uint8_t length[4] = {1, 2, 8, 4};
    return length[(dr7 >> (18 + 4 * i)) & 3];
}

/* R/W is 01 (writes) or 11 (reads and writes), and L or G is set. */
static bool watch_armed(uint64_t dr7, unsigned i)
{
    return ((dr7 >> (2 * i)) & 3) && ((dr7 >> (16 + 4 * i)) & 1);
}

static bool watch_overlaps(const struct emu *e, unsigned i, gva_t from, uint64_t length)
{
    uint64_t watched = watch_length(e->cpu.dr7, i);
    gva_t start = e->cpu.dr[i] & ~(watched - 1);
    return start - from < length || from - start < watched;
}

/* R/W = 11: reads as well. */
static bool watch_has_reads(uint64_t dr7, unsigned i)
{
    return (dr7 >> (17 + 4 * i)) & 1;
}

unsigned watch_in_page(const struct emu *e, gva_t page)
{
    unsigned accesses = points_watch_page(e, page);
    if (likely(!(e->cpu.dr7 & 0xff)))
        return accesses;
    for (unsigned i = 0; i < 4; i++)
        if (watch_armed(e->cpu.dr7, i) && watch_overlaps(e, i, page, PAGE_SIZE_BYTES))
            accesses |=
                ENGINE_ACCESS_WRITE | (watch_has_reads(e->cpu.dr7, i) ? (unsigned)ENGINE_ACCESS_READ : 0);
    return accesses;
}

/* After an access that was done: the breakpoints it hit become pending. A fault of the instruction drops them. */
static void watch_note(struct emu *e, gva_t linear, size_t length, bool write)
{
    points_note_access(e, linear, length, write);
    if (likely(!(e->cpu.dr7 & 0xff)))
        return;
    for (unsigned i = 0; i < 4; i++) {
        if (watch_armed(e->cpu.dr7, i) && (write || watch_has_reads(e->cpu.dr7, i)) &&
            watch_overlaps(e, i, linear, length))
            e->cpu.pending_debug |= (uint8_t)(1u << i);
    }
}

/* ---- RAM and MMIO ---- */

void ram_store(struct emu *e, uint64_t offset, const void *data, size_t length)
{
    uint64_t page = offset >> PAGE_SHIFT;
    uint8_t flags = e->ram->page_flags[page];
    if (flags & RAM_PAGE_CODE)
        block_invalidate(e, offset, length);
    if (flags & RAM_PAGE_TABLE)
        table_written(e, offset, data, length);
    ram_mark_dirty(e->ram, page);
    memcpy(e->ram->host + offset, data, length);
}

static enum step boundary_failed(struct emu *e)
{
    e->stop_reason = ENGINE_STOP_BOUNDARY;
    return STEP_STOP;
}

/*
 * CR8 and the local APIC's TPR are one register (SDM 3, 10.8.6.1): a write to TPR is a write to CR8. The vCPU does it itself, and so
 * in a replay too.
 */
static bool is_task_priority(const struct emu *e, gpa_t gpa, unsigned size)
{
    return e->has_local_apic && (e->cpu.apic_base & APIC_BASE_ENABLE) && size == 4 &&
           gpa == (e->cpu.apic_base & ~PAGE_MASK) + APIC_TPR_OFFSET;
}

static enum step mmio_piece(struct emu *e, gpa_t gpa, uint8_t *data, unsigned size, bool write)
{
    const struct boundary_ops *ops = e->boundary->ops;
    uint64_t value = 0;
    int result;
    /* The boundary's code may use the host's x87 registers; the instruction (MMX) needs the guest's in them. */
    bool live = e->x87_live;
    x87_sync(e);
    uint64_t cr8 = e->cpu.cr8;
    if (write) {
        memcpy(&value, data, size);
        if (unlikely(is_task_priority(e, gpa, size)))
            e->cpu.cr8 = value >> 4 & 0xf;
        result = ops->mmio_write(e->boundary, e->position, gpa, size, value);
    } else {
        result = ops->mmio_read(e->boundary, e->position, gpa, size, &value);
    }
    if (live)
        x87_load(e);
    if (result < 0) {
        e->cpu.cr8 = cr8;
        return boundary_failed(e);
    }
    if (result == BOUNDARY_STOP)
        e->boundary_stop = true;
    if (!write)
        memcpy(data, &value, size);
    return STEP_NEXT;
}

/* whole: the access is one that need not be split into bytes (boundary.h). */
static enum step mmio_access(struct emu *e, gpa_t gpa, uint8_t *data, size_t length, bool write, bool whole)
{
    size_t size = whole ? length : 1;
    enum step step = STEP_NEXT;
    for (size_t i = 0; i < length && step == STEP_NEXT; i += size)
        step = mmio_piece(e, gpa + i, data + i, (unsigned)size, write);
    return step;
}

/* The linear address of the next page; linear addresses have 32 bits outside 64-bit mode. */
static gva_t next_page(const struct emu *e, gva_t linear, enum rights rights)
{
    gva_t next = (linear & ~PAGE_MASK) + PAGE_SIZE_BYTES;
    bool wide = rights == RIGHTS_IMPLICIT ? vcpu_in_long_mode(&e->cpu) : vcpu_in_64bit_code(&e->cpu);
    return wide || linear >> 32 ? next : (uint32_t)next;
}

static bool misaligned(const struct emu *e, gva_t linear, size_t length, enum rights rights)
{
    if (rights != RIGHTS_USER || tlb_context_of(e, rights) != TLB_ALIGNED)
        return false;
    /* 80 bits are an access of 64 and one of 16; a YMM register is two of 128. */
    size_t natural = length == 10 ? 8 : length == 32 ? 16 : length;
    return natural > 1 && !(natural & (natural - 1)) && natural <= 16 && (linear & (natural - 1));
}

/* The one or two pages of an access, both checked. */
struct span {
    struct target target[2];
    size_t length[2]; /* [1] is 0 for an access inside one page */
};

static enum step span_translate(struct emu *e, gva_t linear, size_t length, enum access access,
                                enum rights rights, struct span *out)
{
    size_t room = PAGE_SIZE_BYTES - (linear & PAGE_MASK);
    out->length[0] = length < room ? length : room;
    out->length[1] = length - out->length[0];
    if (misaligned(e, linear, length, rights))
        return raise_exception_code(e, VEC_AC, 0);
    enum step step = translate(e, linear, access, rights, &out->target[0]);
    if (step != STEP_NEXT || !out->length[1])
        return step;
    return translate(e, next_page(e, linear, rights), access, rights, &out->target[1]);
}

static enum step span_access(struct emu *e, const struct span *s, uint8_t *data, enum access access)
{
    size_t length = s->length[0] + s->length[1];
    bool whole =
        !s->length[1] && length <= 8 && !(length & (length - 1)) && !(s->target[0].gpa & (length - 1));
    bool write = access == ACCESS_WRITE;
    /* MMIO first: if the boundary fails, RAM is still as it was. */
    for (unsigned i = 0; i < 2; i++) {
        if (!s->length[i] || s->target[i].offset != RAM_NO_OFFSET)
            continue;
        enum step step =
            mmio_access(e, s->target[i].gpa, data + (i ? s->length[0] : 0), s->length[i], write, whole);
        if (step != STEP_NEXT)
            return step;
    }
    for (unsigned i = 0; i < 2; i++) {
        if (!s->length[i] || s->target[i].offset == RAM_NO_OFFSET)
            continue;
        uint8_t *at = data + (i ? s->length[0] : 0);
        if (write)
            ram_store(e, s->target[i].offset, at, s->length[i]);
        else
            memcpy(at, e->ram->host + s->target[i].offset, s->length[i]);
    }
    return STEP_NEXT;
}

enum step mem_access(struct emu *e, gva_t linear, void *buffer, size_t length, enum access access,
                     enum rights rights)
{
    struct span span = {0};
    enum step step = span_translate(e, linear, length, access, rights, &span);
    if (step != STEP_NEXT || !buffer)
        return step;
    return span_access(e, &span, buffer, access);
}

static enum step mem_access_current(struct emu *e, gva_t linear, void *buffer, size_t length,
                                    enum access access)
{
    enum step step = mem_access(e, linear, buffer, length, access, rights_of_cpl(vcpu_cpl(&e->cpu)));
    if (step == STEP_NEXT && buffer)
        watch_note(e, linear, length, access == ACCESS_WRITE);
    return step;
}

enum step mem_read(struct emu *e, gva_t linear, void *out, size_t length)
{
    const uint8_t *host = tlb_host(e, linear, length, PLAN_MEM_READ);
    if (likely(host != NULL)) {
        memcpy(out, host, length);
        return STEP_NEXT;
    }
    return mem_access_current(e, linear, out, length, ACCESS_READ);
}

enum step mem_write(struct emu *e, gva_t linear, const void *data, size_t length)
{
    uint8_t *host = tlb_host(e, linear, length, PLAN_MEM_WRITE);
    if (likely(host != NULL)) {
        memcpy(host, data, length);
        return STEP_NEXT;
    }
    return mem_access_current(e, linear, (void *)(uintptr_t)data, length, ACCESS_WRITE);
}

enum step mem_check_write(struct emu *e, gva_t linear, size_t length)
{
    if (likely(tlb_host(e, linear, length, PLAN_MEM_WRITE) != NULL))
        return STEP_NEXT;
    return mem_access_current(e, linear, NULL, length, ACCESS_WRITE);
}

enum step mem_read_system(struct emu *e, gva_t linear, void *out, size_t length)
{
    return mem_access(e, linear, out, length, ACCESS_READ, RIGHTS_IMPLICIT);
}

/* A debugger's watch on a stack sees what event delivery pushes there; the guest's own data breakpoints do not. */
enum step mem_write_system(struct emu *e, gva_t linear, const void *data, size_t length)
{
    enum step step = mem_access(e, linear, (void *)(uintptr_t)data, length, ACCESS_WRITE, RIGHTS_IMPLICIT);
    if (step == STEP_NEXT)
        points_note_access(e, linear, length, true);
    return step;
}

/* ---- operands for host code ---- */

static void note_operand(struct emu *e, gva_t linear, size_t length, unsigned access)
{
    watch_note(e, linear, length, (access & PLAN_MEM_WRITE) != 0);
    if (access == PLAN_MEM_RMW)
        points_note_access(e, linear, length, false);
}

enum step mem_map(struct emu *e, gva_t linear, size_t length, unsigned access, struct mem_map *out)
{
    *out = (struct mem_map){.linear = linear, .length = length, .access = (uint8_t)access};
    out->data = tlb_host(e, linear, length, access);
    if (likely(out->data != NULL))
        return STEP_NEXT;

    bool write = (access & PLAN_MEM_WRITE) != 0;
    struct span span = {0};
    enum step step = span_translate(e, linear, length, write ? ACCESS_WRITE : ACCESS_READ,
                                    rights_of_cpl(vcpu_cpl(&e->cpu)), &span);
    if (step != STEP_NEXT)
        return step;
    uint64_t offset = span.target[0].offset;
    if (!span.length[1] && offset != RAM_NO_OFFSET) {
        uint64_t page = offset >> PAGE_SHIFT;
        bool in_place = !write || !(e->ram->page_flags[page] & (RAM_PAGE_CODE | RAM_PAGE_TABLE));
        if (in_place) {
            if (write)
                ram_mark_dirty(e->ram, page);
            note_operand(e, linear, length, access);
            out->data = e->ram->host + offset;
            return STEP_NEXT;
        }
    }
    if (length > BOUNCE_BYTES) {
        error_set(&e->error, -ENOTSUP, "a memory operand of %zu bytes is longer than the emulator can bounce",
                  length);
        return STEP_STOP;
    }
    out->data = e->bounce;
    out->bounced = true;
    if (access & PLAN_MEM_READ) {
        step = span_access(e, &span, e->bounce, ACCESS_READ);
        if (step != STEP_NEXT)
            return step;
    }
    note_operand(e, linear, length, access);
    return STEP_NEXT;
}

enum step mem_unmap(struct emu *e, const struct mem_map *map)
{
    if (!map->bounced || !(map->access & PLAN_MEM_WRITE))
        return STEP_NEXT;
    return mem_access_current(e, map->linear, map->data, map->length, ACCESS_WRITE);
}
