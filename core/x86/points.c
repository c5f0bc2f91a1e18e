/* Break points, watch points and catch points of a debugger. The guest sees nothing of them. */
#include "core/x86/internal.h"

static void stop_for(struct emu *e, int stop)
{
    e->hit_stop = stop;
    e->block_gone = true; /* so that the step being made is the last */
}

/* The first watch hit in a transition is the one that is told, with all kinds of access made to it. */
void points_note_access(struct emu *e, gva_t linear, size_t length, bool write)
{
    if (likely(!e->points))
        return;
    uint8_t access = write ? ENGINE_ACCESS_WRITE : ENGINE_ACCESS_READ;
    for (size_t i = 0; i < e->points->watch_count; i++) {
        const struct engine_watch *w = &e->points->watches[i];
        bool overlaps = w->address - linear < length || linear - w->address < w->length;
        if (!overlaps || !(w->accesses & access))
            continue;
        if (e->hit_stop == ENGINE_STOP_WATCH) {
            if (e->hit.watch == i)
                e->hit.access |= access;
            continue;
        }
        gva_t inside = linear - w->address < w->length ? linear : w->address;
        e->hit = (struct engine_hit){.watch = i, .address = inside, .access = access};
        stop_for(e, ENGINE_STOP_WATCH);
    }
}

unsigned points_watch_page(const struct emu *e, gva_t page)
{
    unsigned accesses = 0;
    if (likely(!e->points))
        return 0;
    for (size_t i = 0; i < e->points->watch_count; i++) {
        const struct engine_watch *w = &e->points->watches[i];
        if (w->address - page < PAGE_SIZE_BYTES || page - w->address < w->length)
            accesses |= w->accesses;
    }
    return accesses;
}

static bool is_system_call(const struct plan *p, unsigned cpl)
{
    return p->mnemonic == ZYDIS_MNEMONIC_SYSCALL || p->mnemonic == ZYDIS_MNEMONIC_SYSENTER ||
           (p->mnemonic == ZYDIS_MNEMONIC_INT && cpl == 3);
}

static bool is_write_of_cr3(const struct plan *p)
{
    const uint8_t opcode_mov_to_cr = 0x22;
    return p->mnemonic == ZYDIS_MNEMONIC_MOV && p->opcode == opcode_mov_to_cr && p->reg[0] == 3;
}

/* INT1, INT3 and INTO, when they were taken, are exceptions that their instructions deliver themselves. */
static unsigned software_exception(const struct plan *p)
{
    switch (p->mnemonic) {
    case ZYDIS_MNEMONIC_INT1:
        return VEC_DB;
    case ZYDIS_MNEMONIC_INT3:
        return VEC_BP;
    case ZYDIS_MNEMONIC_INTO:
        return VEC_OF;
    default:
        return 32;
    }
}

void points_note_instruction(struct emu *e, const struct plan *p, unsigned cpl)
{
    points_note_exception(e, software_exception(p));
    if (e->hit_stop)
        return;
    uint32_t met = 0;
    if (is_system_call(p, cpl))
        met |= ENGINE_CATCH_SYSCALL;
    if (is_write_of_cr3(p))
        met |= ENGINE_CATCH_CR3;
    met &= e->points->catches;
    if (!met)
        return;
    uint8_t vector = p->mnemonic == ZYDIS_MNEMONIC_INT ? (uint8_t)p->imm : 0;
    e->hit = (struct engine_hit){.catches = met, .vector = vector};
    stop_for(e, ENGINE_STOP_CATCH);
}

void points_note_exception(struct emu *e, unsigned vector)
{
    if (likely(!e->points) || e->hit_stop || vector >= 32 || !(e->points->exceptions >> vector & 1))
        return;
    e->hit = (struct engine_hit){.vector = (uint8_t)vector};
    stop_for(e, ENGINE_STOP_CATCH);
}

static gva_t linear_rip(const struct emu *e)
{
    return code_size(e) == 8 ? e->cpu.rip : (uint32_t)(e->cpu.rip + e->cpu.seg[SEG_CS].base);
}

/* Index of the first break address that is not below address. */
static size_t lower_bound(const struct engine_points *points, gva_t address)
{
    size_t low = 0, high = points->break_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (points->breaks[middle] < address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool points_break_here(const struct emu *e)
{
    if (!e->points || !e->points->break_count)
        return false;
    gva_t rip = linear_rip(e);
    size_t i = lower_bound(e->points, rip);
    return i < e->points->break_count && e->points->breaks[i] == rip;
}

uint64_t points_break_distance(const struct emu *e)
{
    if (!e->points || !e->points->break_count)
        return UINT64_MAX;
    gva_t rip = linear_rip(e);
    size_t i = lower_bound(e->points, rip + 1);
    return i < e->points->break_count ? e->points->breaks[i] - rip : UINT64_MAX;
}
