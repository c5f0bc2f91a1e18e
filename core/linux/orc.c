/*
 * ORC, the kernel's own unwinding tables (Documentation/arch/x86/orc-unwinder.rst): for each piece of code, where the caller's stack
 * pointer and RBP are.
 */
#include "core/linux/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- tables ---- */

void orc_format_find(struct orc_format *out, const struct btf *btf)
{
    struct btf_bits all;
    *out = (struct orc_format){0};
    out->known = btf_member(btf, "orc_entry", "", &all) && all.size % 8 == 0 && all.size <= 64 &&
                 btf_member(btf, "orc_entry", "sp_offset", &out->sp_offset) &&
                 btf_member(btf, "orc_entry", "bp_offset", &out->bp_offset) &&
                 btf_member(btf, "orc_entry", "sp_reg", &out->sp_reg) &&
                 btf_member(btf, "orc_entry", "bp_reg", &out->bp_reg) &&
                 btf_member(btf, "orc_entry", "type", &out->type);
    if (!out->known)
        return;
    out->bytes = all.size / 8;
    out->with_end = btf_member(btf, "orc_entry", "end", &out->end);
    out->five_types = out->type.size >= 3;
    const struct btf_bits parts[] = {out->sp_offset, out->bp_offset, out->sp_reg,
                                     out->bp_reg,    out->type,      out->end};
    for (size_t i = 0; i < ARRAY_LEN(parts); i++)
        if (parts[i].offset > all.size || parts[i].size > all.size - parts[i].offset || parts[i].size > 16)
            out->known = false;
}

static uint32_t get_bits(uint64_t entry, struct btf_bits bits)
{
    return bits.size ? (uint32_t)(entry >> bits.offset & ((1u << bits.size) - 1)) : 0;
}

static int32_t get_signed(uint64_t entry, struct btf_bits bits)
{
    uint32_t value = get_bits(entry, bits);
    return bits.size && value >> (bits.size - 1) ? (int32_t)value - (1 << bits.size) : (int32_t)value;
}

static uint8_t entry_type(const struct orc_format *f, uint64_t entry)
{
    static const uint8_t of_three[] = {ORC_CALL, ORC_REGS, ORC_REGS_PARTIAL};
    uint32_t type = get_bits(entry, f->type);
    if (f->five_types)
        return type <= ORC_REGS_PARTIAL ? (uint8_t)type : ORC_NONE;
    if (get_bits(entry, f->sp_reg) == ORC_UNDEFINED)
        return get_bits(entry, f->end) ? ORC_END : ORC_NONE;
    return type < ARRAY_LEN(of_three) ? of_three[type] : ORC_NONE;
}

static int compare_rows(const void *a, const void *b)
{
    const struct orc_row *x = a, *y = b;
    return x->start < y->start ? -1 : x->start > y->start;
}

void orc_table_create(struct orc_table *out, const struct orc_format *format, gva_t ip_address,
                      const uint8_t *ips, const uint8_t *entries, size_t count)
{
    bool ascending = true;
    *out = (struct orc_table){.rows = reallocarray(NULL, count, sizeof(*out->rows)), .count = count};
    if (!out->rows) {
        out->count = 0;
        return;
    }
    for (size_t i = 0; i < count; i++) {
        int32_t offset;
        uint64_t entry = 0;
        memcpy(&offset, ips + 4 * i, sizeof(offset));
        memcpy(&entry, entries + i * format->bytes, format->bytes);
        struct orc_row *row = &out->rows[i];
        *row = (struct orc_row){.start = ip_address + 4 * i + (uint64_t)(int64_t)offset,
                                .sp_offset = get_signed(entry, format->sp_offset),
                                .bp_offset = get_signed(entry, format->bp_offset),
                                .sp_reg = (uint8_t)get_bits(entry, format->sp_reg),
                                .bp_reg = (uint8_t)get_bits(entry, format->bp_reg),
                                .type = entry_type(format, entry)};
        ascending = ascending && (i == 0 || row->start >= row[-1].start);
    }
    if (!ascending)
        qsort(out->rows, count, sizeof(*out->rows), compare_rows);
}

void orc_table_free(struct orc_table *table)
{
    free(table->rows);
    *table = (struct orc_table){0};
}

const struct orc_row *orc_find(const struct orc_table *table, gva_t ip)
{
    size_t low = 0, high = table->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (table->rows[middle].start <= ip)
            low = middle + 1;
        else
            high = middle;
    }
    return low ? &table->rows[low - 1] : NULL;
}

/* ---- walking ---- */

/* Where struct pt_regs has what (asm/ptrace.h, 64-bit: part of the ABI of ptrace). */
enum {
    PT_R15 = 0,
    PT_R14 = 8,
    PT_R13 = 16,
    PT_R12 = 24,
    PT_RBP = 32,
    PT_RBX = 40,
    PT_R10 = 56,
    PT_RDX = 96,
    PT_RDI = 112,
    PT_RIP = 128,
    PT_CS = 136,
    PT_RSP = 152
};

struct walker {
    const struct linux_guest *g;
    struct memory memory;
    gva_t rip, rsp, rbp;
    uint64_t rdx, rdi, r10, r13; /* while all_known */
    bool all_known;              /* this frame was interrupted, or is the innermost: RIP is exact too */
    struct orc_table module;     /* that of [module_start, module_end) */
    gva_t module_start, module_end;
};

static const struct orc_row *find_row(struct walker *w)
{
    /* A return address may be behind the function's end, when the call does not return. */
    gva_t ip = w->all_known ? w->rip : w->rip - 1;
    if (ip >= w->g->base && ip < w->g->end)
        return orc_find(&w->g->orc, ip);
    if (ip < w->module_start || ip >= w->module_end) {
        orc_table_free(&w->module);
        w->module_start = w->module_end = 0;
        module_orc_table(&w->module, w->g, &w->memory, ip, &w->module_start, &w->module_end);
    }
    return orc_find(&w->module, ip);
}

/* The caller's stack pointer, as far as this frame knows it. */
static bool caller_sp(const struct walker *w, const struct orc_row *row, gva_t *out)
{
    uint64_t base;
    switch (row->sp_reg) {
    case ORC_SP:
        base = w->rsp;
        break;
    case ORC_BP:
        base = w->rbp;
        break;
    case ORC_SP_INDIRECT:
        if (!memory_u64(&w->memory, w->rsp, &base))
            return false;
        break;
    case ORC_BP_INDIRECT:
        return memory_u64(&w->memory, w->rbp + (uint64_t)(int64_t)row->sp_offset, out);
    case ORC_DX:
        base = w->rdx;
        break;
    case ORC_DI:
        base = w->rdi;
        break;
    case ORC_R10:
        base = w->r10;
        break;
    case ORC_R13:
        base = w->r13;
        break;
    default:
        return false;
    }
    if (row->sp_reg != ORC_SP && row->sp_reg != ORC_BP && row->sp_reg != ORC_SP_INDIRECT && !w->all_known)
        return false;
    *out = base + (uint64_t)(int64_t)row->sp_offset;
    return true;
}

static bool get(const struct walker *w, gva_t regs, unsigned place, uint64_t *out)
{
    return memory_u64(&w->memory, regs + place, out);
}

/* A frame that was interrupted: its registers lie at regs. */
static bool step_regs(struct walker *w, gva_t regs, bool partial, struct linux_frame *out)
{
    uint64_t cs, rip, rsp;
    if (partial)
        regs -= PT_RIP; /* only what the processor pushed is there */
    if (!get(w, regs, PT_RIP, &rip) || !get(w, regs, PT_CS, &cs) || !get(w, regs, PT_RSP, &rsp))
        return false;
    if (!partial &&
        (!get(w, regs, PT_RBP, &w->rbp) || !get(w, regs, PT_RDX, &w->rdx) || !get(w, regs, PT_RDI, &w->rdi) ||
         !get(w, regs, PT_R10, &w->r10) || !get(w, regs, PT_R13, &w->r13)))
        return false;
    w->rip = rip;
    w->rsp = rsp;
    w->all_known = true;
    *out = (struct linux_frame){.rip = rip, .rsp = rsp, .entry = true, .user = (cs & 3) != 0};
    return true;
}

static bool step(struct walker *w, struct linux_frame *out)
{
    gva_t sp;
    uint64_t rbp = w->rbp;
    const struct orc_row *row = find_row(w);
    if (!row || row->type == ORC_NONE || row->type == ORC_END || !caller_sp(w, row, &sp))
        return false;
    if (row->type == ORC_REGS || row->type == ORC_REGS_PARTIAL)
        return step_regs(w, sp, row->type == ORC_REGS_PARTIAL, out);
    bool good = memory_u64(&w->memory, sp - 8, &w->rip);
    if (row->bp_reg == ORC_PREV_SP)
        good = good && memory_u64(&w->memory, sp + (uint64_t)(int64_t)row->bp_offset, &rbp);
    else if (row->bp_reg == ORC_BP)
        good = good && memory_u64(&w->memory, w->rbp + (uint64_t)(int64_t)row->bp_offset, &rbp);
    if (!good || sp <= w->rsp || w->rip == 0)
        return false;
    w->rbp = rbp;
    w->rsp = sp;
    w->all_known = false;
    *out = (struct linux_frame){.rip = w->rip, .rsp = sp};
    return true;
}

/* ---- without tables ---- */

enum { SCANNED_BYTES = 16384, SCANNED_FRAMES_MAX = 32 };

static bool is_code(const struct linux_guest *g, gva_t address)
{
    struct linux_symbol symbol;
    return linux_symbol_of(g, address, &symbol, NULL) && (symbol.type == 't' || symbol.type == 'T') &&
           address != symbol.address;
}

/* Return addresses, or what looks like them, from the stack pointer up. */
static size_t scan(const struct walker *w, struct linux_frame *out, size_t max)
{
    size_t count = 0;
    if (max > SCANNED_FRAMES_MAX)
        max = SCANNED_FRAMES_MAX;
    for (gva_t at = w->rsp & ~7ull; count < max && at - w->rsp < SCANNED_BYTES; at += 8) {
        uint64_t value;
        if (!memory_u64(&w->memory, at, &value))
            break;
        if (is_code(w->g, value))
            out[count++] = (struct linux_frame){.rip = value, .rsp = at + 8, .uncertain = true};
    }
    return count;
}

size_t linux_backtrace(const struct linux_guest *g, const struct linux_view *view,
                       const struct vcpu_state *state, struct linux_frame *out, size_t max)
{
    struct walker w = {.g = g,
                       .rip = state->rip,
                       .rsp = state->gpr[GPR_RSP],
                       .rbp = state->gpr[GPR_RBP],
                       .rdx = state->gpr[GPR_RDX],
                       .rdi = state->gpr[GPR_RDI],
                       .r10 = state->gpr[GPR_R10],
                       .r13 = state->gpr[GPR_R13],
                       .all_known = true};
    size_t count = 0;
    if (max == 0)
        return 0;
    out[count++] = (struct linux_frame){
        .rip = state->rip, .rsp = w.rsp, .entry = true, .user = (state->seg[SEG_CS].selector & 3) != 0};
    if (out[0].user || memory_begin(&w.memory, g, view, NULL))
        return count;
    if (max > LINUX_FRAMES_MAX)
        max = LINUX_FRAMES_MAX;
    while (count < max && step(&w, &out[count]))
        if (out[count++].user)
            break;
    if (count == 1 && g->orc.count == 0)
        count += scan(&w, out + count, max - count);
    orc_table_free(&w.module);
    return count;
}
