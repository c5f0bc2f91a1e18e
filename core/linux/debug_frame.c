/* .debug_frame (DWARF 4, 6.4) from ORC rows. */
#include "core/linux/internal.h"

#include <string.h>

enum {
    DW_CFA_advance_loc1 = 0x02,
    DW_CFA_advance_loc2 = 0x03,
    DW_CFA_advance_loc4 = 0x04,
    DW_CFA_undefined = 0x07,
    DW_CFA_same_value = 0x08,
    DW_CFA_def_cfa = 0x0c,
    DW_CFA_def_cfa_expression = 0x0f,
    DW_CFA_expression = 0x10,
    DW_CFA_offset_extended_sf = 0x11,
    DW_CFA_def_cfa_sf = 0x12,
    DW_CFA_val_offset_sf = 0x15,
    DW_OP_deref = 0x06,
    DW_OP_breg0 = 0x70,
};

/* Numbers of the x86-64 psABI. */
enum dwarf_register { DW_RAX, DW_RDX, DW_RCX, DW_RBX, DW_RSI, DW_RDI, DW_RBP, DW_RSP, DW_R8, DW_RIP = 16 };

#define DATA_ALIGN     (-8)
#define ROWS_PER_FRAME 32 /* a debugger executes a description from its start */

/* In which order struct pt_regs has the registers (asm/ptrace.h), as DWARF numbers; -1: none. */
static const int8_t pt_regs[] = {15,     14, 13,     12,     DW_RBP,         DW_RBX, 11,
                                 10,     9,  8,      DW_RAX, DW_RCX,         DW_RDX, DW_RSI,
                                 DW_RDI, -1, DW_RIP, -1,     -1 /* flags */, DW_RSP, -1};
#define PT_RIP_INDEX 16

static void put_uleb(struct buffer *out, uint64_t value)
{
    buffer_put_varint(out, value);
}

static void put_sleb(struct buffer *out, int64_t value)
{
    for (;;) {
        uint8_t byte = value & 0x7f;
        value >>= 7;
        if ((value == 0 && !(byte & 0x40)) || (value == -1 && byte & 0x40)) {
            buffer_put_u8(out, byte);
            return;
        }
        buffer_put_u8(out, byte | 0x80);
    }
}

static void patch_length(struct buffer *out, size_t start)
{
    while (!out->failed && (out->length - start - 4) % 8)
        buffer_put_u8(out, 0); /* DW_CFA_nop */
    uint32_t length = (uint32_t)(out->length - start - 4);
    if (!out->failed)
        memcpy(out->data + start, &length, sizeof(length));
}

/* Two common entries: of frames that called, and of frames that were interrupted ("S": their RIP is exact). */
static size_t put_cie(struct buffer *out, const char *augmentation)
{
    size_t start = out->length;
    buffer_put_u32(out, 0);
    buffer_put_u32(out, UINT32_MAX);
    buffer_put_u8(out, 1); /* version */
    buffer_put(out, augmentation, strlen(augmentation) + 1);
    put_uleb(out, 1); /* code alignment */
    put_sleb(out, DATA_ALIGN);
    put_uleb(out, DW_RIP);
    patch_length(out, start);
    return start;
}

static void put_saved(struct buffer *out, unsigned reg, int64_t offset)
{
    buffer_put_u8(out, DW_CFA_offset_extended_sf);
    put_uleb(out, reg);
    put_sleb(out, offset / DATA_ALIGN);
}

static int base_register(uint8_t orc)
{
    switch (orc) {
    case ORC_SP:
    case ORC_SP_INDIRECT:
        return DW_RSP;
    case ORC_BP:
    case ORC_BP_INDIRECT:
        return DW_RBP;
    case ORC_DX:
        return DW_RDX;
    case ORC_DI:
        return DW_RDI;
    case ORC_R10:
        return 10;
    case ORC_R13:
        return 13;
    default:
        return -1;
    }
}

/* The CFA: what ORC calls the caller's stack pointer; for frames with pt_regs, where those are. */
static void put_cfa(struct buffer *out, const struct orc_row *row)
{
    struct buffer expression = {0};
    int reg = base_register(row->sp_reg);
    if (row->sp_reg != ORC_SP_INDIRECT && row->sp_reg != ORC_BP_INDIRECT) {
        buffer_put_u8(out, row->sp_offset < 0 ? DW_CFA_def_cfa_sf : DW_CFA_def_cfa);
        put_uleb(out, (uint64_t)reg);
        if (row->sp_offset < 0)
            put_sleb(out, row->sp_offset / DATA_ALIGN);
        else
            put_uleb(out, (uint64_t)row->sp_offset);
        return;
    }
    bool after = row->sp_reg == ORC_SP_INDIRECT;
    buffer_put_u8(&expression, (uint8_t)(DW_OP_breg0 + reg));
    put_sleb(&expression, after ? 0 : row->sp_offset);
    buffer_put_u8(&expression, DW_OP_deref);
    if (after) {
        enum { DW_OP_consts = 0x11, DW_OP_plus = 0x22 };
        buffer_put_u8(&expression, DW_OP_consts);
        put_sleb(&expression, row->sp_offset);
        buffer_put_u8(&expression, DW_OP_plus);
    }
    buffer_put_u8(out, DW_CFA_def_cfa_expression);
    put_uleb(out, expression.length);
    buffer_put(out, expression.data, expression.length);
    buffer_free(&expression);
}

/* RBP of the caller, relative to this frame's own. */
static void put_rbp_at_rbp(struct buffer *out, int32_t offset)
{
    struct buffer expression = {0};
    buffer_put_u8(&expression, DW_OP_breg0 + DW_RBP);
    put_sleb(&expression, offset);
    buffer_put_u8(out, DW_CFA_expression);
    put_uleb(out, DW_RBP);
    put_uleb(out, expression.length);
    buffer_put(out, expression.data, expression.length);
    buffer_free(&expression);
}

static void put_call_row(struct buffer *out, const struct orc_row *row)
{
    put_cfa(out, row);
    put_saved(out, DW_RIP, -8);
    if (row->bp_reg == ORC_PREV_SP)
        put_saved(out, DW_RBP, row->bp_offset);
    else if (row->bp_reg == ORC_BP)
        put_rbp_at_rbp(out, row->bp_offset);
    else {
        buffer_put_u8(out, DW_CFA_same_value);
        put_uleb(out, DW_RBP);
    }
}

static void put_regs_row(struct buffer *out, const struct orc_row *row)
{
    bool partial = row->type == ORC_REGS_PARTIAL;
    unsigned first = partial ? PT_RIP_INDEX : 0;
    put_cfa(out, row);
    for (unsigned i = first; i < ARRAY_LEN(pt_regs); i++)
        if (pt_regs[i] >= 0)
            put_saved(out, (unsigned)pt_regs[i], 8 * (int64_t)(i - first));
}

/* The outermost frame: it has no caller. */
static void put_end_row(struct buffer *out)
{
    buffer_put_u8(out, DW_CFA_def_cfa);
    put_uleb(out, DW_RSP);
    put_uleb(out, 8);
    buffer_put_u8(out, DW_CFA_undefined);
    put_uleb(out, DW_RIP);
}

static void put_advance(struct buffer *out, uint64_t distance)
{
    if (distance <= UINT8_MAX) {
        buffer_put_u8(out, DW_CFA_advance_loc1);
        buffer_put_u8(out, (uint8_t)distance);
    } else if (distance <= UINT16_MAX) {
        buffer_put_u8(out, DW_CFA_advance_loc2);
        buffer_put_u16(out, (uint16_t)distance);
    } else {
        buffer_put_u8(out, DW_CFA_advance_loc4);
        buffer_put_u32(out, (uint32_t)distance);
    }
}

static bool is_regs(const struct orc_row *row)
{
    return row->type == ORC_REGS || row->type == ORC_REGS_PARTIAL;
}

static bool usable(const struct orc_row *row)
{
    if (row->type == ORC_END)
        return true;
    return row->type != ORC_NONE && base_register(row->sp_reg) >= 0 && row->sp_offset % 8 == 0 &&
           row->bp_offset % 8 == 0;
}

/* Rows of one kind, next to each other. Partial ones on their own: they leave registers as they are. */
static bool same_frame(const struct orc_row *a, const struct orc_row *b)
{
    return usable(b) && a->type == b->type && a->type != ORC_REGS_PARTIAL &&
           b->start - a->start <= UINT32_MAX;
}

static void put_frame(struct buffer *out, const struct orc_row *rows, size_t count, gva_t end, size_t cie)
{
    size_t start = out->length;
    buffer_put_u32(out, 0);
    buffer_put_u32(out, (uint32_t)cie);
    buffer_put_u64(out, rows[0].start);
    buffer_put_u64(out, end - rows[0].start);
    for (size_t i = 0; i < count; i++) {
        if (i > 0)
            put_advance(out, rows[i].start - rows[i - 1].start);
        if (rows[i].type == ORC_END)
            put_end_row(out);
        else if (is_regs(&rows[i]))
            put_regs_row(out, &rows[i]);
        else
            put_call_row(out, &rows[i]);
    }
    patch_length(out, start);
}

size_t debug_frame_write(struct buffer *out, const struct orc_table *table, gva_t end)
{
    size_t frames = 0;
    size_t call = put_cie(out, ""), interrupted = put_cie(out, "S");
    for (size_t i = 0; i < table->count;) {
        size_t n = 1;
        const struct orc_row *rows = &table->rows[i];
        while (i + n < table->count && n < ROWS_PER_FRAME && same_frame(rows, &rows[n]))
            n++;
        gva_t stop = i + n < table->count ? rows[n].start : end;
        if (usable(rows) && stop > rows->start) {
            put_frame(out, rows, n, stop, is_regs(rows) ? interrupted : call);
            frames++;
        }
        i += n;
    }
    return frames;
}
