/*
 * The page walk: 32-bit, PAE and 4-level paging (SDM 3, chapter 4).
 *
 * Legacy PAE: Intel processors load the four PDPTEs into registers when CR3 is written; AMD processors under
 * nested paging read them on each walk. This CPU is of the AMD kind here, so that there is no hidden state.
 * Tables outside RAM read all ones.
 */
#include <string.h>

#include "core/x86/protect.h"

#define PTE_P       ((uint64_t)1 << 0)
#define PTE_W       ((uint64_t)1 << 1)
#define PTE_U       ((uint64_t)1 << 2)
#define PTE_A       ((uint64_t)1 << 5)
#define PTE_D       ((uint64_t)1 << 6)
#define PTE_PS      ((uint64_t)1 << 7)
#define PTE_NX      ((uint64_t)1 << 63)
#define PTE_ADDRESS ((uint64_t)0x000ffffffffff000)

#define PF_P    1u
#define PF_W    2u
#define PF_U    4u
#define PF_RSVD 8u
#define PF_ID   16u

#define PDPTE_RESERVED_LOW ((uint64_t)0x1e6) /* bits 2:1 and 8:5 */

/* Bits low..high, both included. */
static uint64_t bits(unsigned low, unsigned high)
{
    return (~(uint64_t)0 >> (63 - high)) & (~(uint64_t)0 << low);
}

struct format {
    unsigned levels;
    unsigned entry_bytes;
    unsigned index_bits;
    bool pae; /* legacy PAE: level 3 is a PDPTE */
    bool long_mode;
};

static struct format paging_format(const struct emu *e)
{
    if (e->cpu.efer & EFER_LMA)
        return (struct format){.levels = 4, .entry_bytes = 8, .index_bits = 9, .long_mode = true};
    if (e->cpu.cr4 & CR4_PAE)
        return (struct format){.levels = 3, .entry_bytes = 8, .index_bits = 9, .pae = true};
    return (struct format){.levels = 2, .entry_bytes = 4, .index_bits = 10};
}

static uint64_t entry_read(const struct emu *e, gpa_t gpa, unsigned bytes)
{
    uint64_t value = 0;
    uint64_t offset = ram_offset(e->ram, gpa);
    if (offset == RAM_NO_OFFSET)
        return truncate_to(~(uint64_t)0, bytes);
    memcpy(&value, e->ram->host + offset, bytes);
    return value;
}

/* Setting A or D invalidates no translation, so RAM_PAGE_TABLE does not matter here. */
static void entry_write(struct emu *e, gpa_t gpa, uint64_t value, unsigned bytes)
{
    uint64_t offset = ram_offset(e->ram, gpa);
    if (offset == RAM_NO_OFFSET)
        return;
    if (e->ram->page_flags[offset >> PAGE_SHIFT] & RAM_PAGE_CODE)
        block_invalidate(e, offset, bytes);
    ram_mark_dirty(e->ram, offset >> PAGE_SHIFT);
    memcpy(e->ram->host + offset, &value, bytes);
}

static bool is_leaf(const struct emu *e, const struct format *f, unsigned level, uint64_t entry)
{
    if (level == 1)
        return true;
    if (!(entry & PTE_PS))
        return false;
    if (f->levels == 2)
        return (e->cpu.cr4 & CR4_PSE) != 0;
    if (level == 2)
        return true;
    return level == 3 && f->long_mode && cpu_model_has(e->model, CPU_FEATURE_EXT1_EDX + 26);
}

/* Bits that must be zero in a present entry (SDM 3, tables 4-4 to 4-20). */
static uint64_t reserved_bits(const struct emu *e, const struct format *f, unsigned level, bool leaf)
{
    if (f->levels == 2) /* PSE-36 is not offered */
        return leaf && level == 2 ? bits(13, 21) : 0;
    uint64_t reserved = bits(e->physical_bits, 51);
    if (f->pae && level == 3)
        return reserved | bits(52, 63) | PDPTE_RESERVED_LOW;
    if (f->pae)
        reserved |= bits(52, 62);
    if (!(e->cpu.efer & EFER_NXE))
        reserved |= PTE_NX;
    if (leaf && level == 2)
        reserved |= bits(13, 20);
    else if (leaf && level == 3)
        reserved |= bits(13, 29);
    else if (level >= 3)
        reserved |= PTE_PS;
    return reserved;
}

bool mmu_pdptes_valid(const struct emu *e, uint64_t cr3)
{
    struct format f = {.levels = 3, .entry_bytes = 8, .index_bits = 9, .pae = true};
    for (unsigned i = 0; i < 4; i++) {
        uint64_t entry = entry_read(e, (cr3 & 0xffffffe0) + i * 8, 8);
        if ((entry & PTE_P) && (entry & reserved_bits(e, &f, 3, false)))
            return false;
    }
    return true;
}

bool mmu_permits(const struct emu *e, const struct translation *t, enum access access, enum rights rights)
{
    const struct vcpu_state *s = &e->cpu;
    if (!(s->cr0 & CR0_PG))
        return true;
    if (access == ACCESS_EXEC) {
        if (t->no_execute)
            return false;
        return rights == RIGHTS_USER ? t->user : !(t->user && (s->cr4 & CR4_SMEP));
    }
    if (rights == RIGHTS_USER)
        return t->user && (access == ACCESS_READ || t->writable);
    if (t->user && (s->cr4 & CR4_SMAP) && (rights == RIGHTS_IMPLICIT || !(s->rflags & RFLAGS_AC)))
        return false;
    return access == ACCESS_READ || t->writable || !(s->cr0 & CR0_WP);
}

/* Error code of a page fault (SDM 3, 4.7). */
static uint32_t fault_code(const struct emu *e, enum access access, enum rights rights)
{
    uint32_t code = rights == RIGHTS_USER ? PF_U : 0;
    if (access == ACCESS_WRITE)
        code |= PF_W;
    bool nx_in_use = (e->cpu.efer & EFER_NXE) && (e->cpu.cr4 & CR4_PAE);
    if (access == ACCESS_EXEC && (nx_in_use || (e->cpu.cr4 & CR4_SMEP)))
        code |= PF_ID;
    return code;
}

enum step mmu_walk(struct emu *e, gva_t linear, enum access access, enum rights rights,
                   struct translation *out)
{
    *out = (struct translation){.page = linear & ~PAGE_MASK, .user = true, .writable = true, .dirty = true};
    if (!(e->cpu.cr0 & CR0_PG))
        return STEP_NEXT;
    struct format f = paging_format(e);
    uint32_t code = fault_code(e, access, rights);
    uint64_t value[4];
    gpa_t table = f.long_mode ? e->cpu.cr3 & PTE_ADDRESS : e->cpu.cr3 & (f.pae ? 0xffffffe0 : 0xfffff000);
    unsigned level = f.levels;
    bool leaf;
    for (;; level--) {
        unsigned shift = PAGE_SHIFT + f.index_bits * (level - 1);
        unsigned index_mask = f.pae && level == 3 ? 3 : (1u << f.index_bits) - 1;
        gpa_t gpa = table + ((linear >> shift) & index_mask) * f.entry_bytes;
        uint64_t entry = entry_read(e, gpa, f.entry_bytes);
        if (!(entry & PTE_P))
            return raise_page_fault(e, linear, code);
        leaf = is_leaf(e, &f, level, entry);
        if (entry & reserved_bits(e, &f, level, leaf))
            return raise_page_fault(e, linear, code | PF_P | PF_RSVD);
        out->entry[out->tables] = gpa;
        value[out->tables++] = entry;
        if (!(f.pae && level == 3)) {
            out->user = out->user && (entry & PTE_U);
            out->writable = out->writable && (entry & PTE_W);
            out->no_execute = out->no_execute || (entry & PTE_NX);
        }
        table = entry & PTE_ADDRESS;
        if (leaf)
            break;
    }
    if (!mmu_permits(e, out, access, rights))
        return raise_page_fault(e, linear, code | PF_P);

    out->level = level;
    out->table_bits = PAGE_SHIFT + f.index_bits;
    uint64_t in_page = bits(0, PAGE_SHIFT + f.index_bits * (level - 1) - 1);
    out->page = ((table & ~in_page) | (linear & in_page)) & ~PAGE_MASK;
    for (unsigned i = 0; i < out->tables; i++) {
        uint64_t wanted = value[i] | PTE_A;
        if (f.pae && i == 0)
            continue;
        if (i + 1 == out->tables && access == ACCESS_WRITE)
            wanted |= PTE_D;
        if (wanted != value[i])
            entry_write(e, out->entry[i], wanted, f.entry_bytes);
        out->dirty = (wanted & PTE_D) != 0;
    }
    return STEP_NEXT;
}
