/*
 * The page walk against the SDM's rules (volume 3, 4.1.3, 4.6, 4.7, 4.8), written down here a second time, over every
 * combination of entry bits and control bits.
 */
#include "tests/machine/rig.h"

#include <string.h>

#define TABLES 0x200000u
#define TARGET 0x400000u /* first byte of the frame that the tests map */

/* A paging mode and page size: levels from the top. */
struct layout {
    const char *name;
    unsigned levels;   /* entries on the walk */
    unsigned shift[4]; /* where the index of each starts */
    unsigned index_bits[4];
    unsigned entry_bytes;
    bool pae, long_mode, large;
    bool top_is_pdpte; /* PAE's PDPTE: no R/W, U/S, NX, A */
};

static const struct layout layouts[] = {
    {"32-bit, 4K", 2, {22, 12}, {10, 10}, 4, false, false, false, false},
    {"32-bit, 4M", 1, {22}, {10}, 4, false, false, true, false},
    {"PAE, 4K", 3, {30, 21, 12}, {2, 9, 9}, 8, true, false, false, true},
    {"PAE, 2M", 2, {30, 21}, {2, 9}, 8, true, false, true, true},
    {"4-level, 4K", 4, {39, 30, 21, 12}, {9, 9, 9, 9}, 8, true, true, false, false},
    {"4-level, 2M", 3, {39, 30, 21}, {9, 9, 9}, 8, true, true, true, false},
    {"4-level, 1G", 2, {39, 30}, {9, 9}, 8, true, true, true, false},
};

enum { BIT_P = 1, BIT_W = 2, BIT_U = 4, BIT_A = 0x20, BIT_D = 0x40, BIT_PS = 0x80 };
#define BIT_NX ((uint64_t)1 << 63)

static gpa_t entry_gpa(const struct layout *l, gva_t linear, unsigned level)
{
    gpa_t index = (linear >> l->shift[level]) & ((1u << l->index_bits[level]) - 1);
    return TABLES + level * 0x1000 + index * l->entry_bytes;
}

static uint64_t entry_get(struct rig *r, const struct layout *l, gva_t linear, unsigned level)
{
    gpa_t at = entry_gpa(l, linear, level);
    return l->entry_bytes == 8 ? rig_u64(r, at) : rig_u32(r, at);
}

static void entry_put(struct rig *r, const struct layout *l, gva_t linear, unsigned level, uint64_t value)
{
    gpa_t at = entry_gpa(l, linear, level);
    if (l->entry_bytes == 8)
        rig_put64(r, at, value);
    else
        rig_put32(r, at, (uint32_t)value);
}

static uint64_t page_bytes(const struct layout *l)
{
    return (uint64_t)1 << l->shift[l->levels - 1];
}

/* Address bits of the entry; the leaf maps the page that holds TARGET. */
static uint64_t entry_address(const struct layout *l, unsigned level)
{
    if (level + 1 < l->levels)
        return TABLES + (level + 1) * 0x1000;
    return (TARGET & ~(page_bytes(l) - 1)) | (l->large ? BIT_PS : 0);
}

static void set_mode(struct rig *r, const struct layout *l)
{
    struct vcpu_state *s = &r->e->cpu;
    s->cr0 = CR0_PE | CR0_PG | CR0_ET;
    s->cr3 = TABLES;
    s->cr4 = l->pae ? CR4_PAE : CR4_PSE;
    s->efer = l->long_mode ? EFER_LME | EFER_LMA : 0;
}

/* What the SDM says of an access, from the entries as they are. */
struct verdict {
    bool fault;
    uint32_t code;
};

enum { KIND_USER, KIND_KERNEL, KIND_IMPLICIT };

static struct verdict expected(const struct vcpu_state *s, const struct layout *l, const uint64_t *entry,
                               enum access access, int kind)
{
    bool nxe = (s->efer & EFER_NXE) && l->pae;
    uint32_t code = (access == ACCESS_WRITE ? 2u : 0) | (kind == KIND_USER ? 4u : 0);
    if (access == ACCESS_EXEC && (nxe || (s->cr4 & CR4_SMEP)))
        code |= 16;
    bool user_page = true, writable = true, executable = true;
    for (unsigned i = 0; i < l->levels; i++) {
        if (!(entry[i] & BIT_P))
            return (struct verdict){true, code};
        if ((entry[i] & BIT_NX) && l->entry_bytes == 8 && (!nxe || (i == 0 && l->top_is_pdpte)))
            return (struct verdict){true, code | 8 | 1};
        if (i == 0 && l->top_is_pdpte)
            continue;
        user_page = user_page && (entry[i] & BIT_U);
        writable = writable && (entry[i] & BIT_W);
        executable = executable && !(entry[i] & BIT_NX);
    }
    bool allowed;
    if (kind == KIND_USER) {
        allowed = user_page && (access != ACCESS_WRITE || writable) && (access != ACCESS_EXEC || executable);
    } else if (access == ACCESS_EXEC) {
        allowed = executable && !(user_page && (s->cr4 & CR4_SMEP));
    } else {
        bool ac = (s->rflags & RFLAGS_AC) && kind == KIND_KERNEL;
        allowed = !(user_page && (s->cr4 & CR4_SMAP) && !ac);
        if (access == ACCESS_WRITE)
            allowed = allowed && (writable || !(s->cr0 & CR0_WP));
    }
    return (struct verdict){!allowed, code | 1};
}

/* One access of one kind: step, error code, address, and A and D bits afterwards. */
static void check_access(struct rig *r, const struct layout *l, gva_t linear, enum access access, int kind)
{
    struct emu *e = r->e;
    uint64_t before[4];
    for (unsigned i = 0; i < l->levels; i++)
        before[i] = entry_get(r, l, linear, i);
    struct verdict want = expected(&e->cpu, l, before, access, kind);
    e->cpu.seg[SEG_SS].rights = kind == KIND_USER ? 0xf3 : 0x93;
    tlb_select(e);
    gpa_t gpa = 0;
    enum step step = mmu_translate(e, linear, access, kind == KIND_IMPLICIT, &gpa);
    if (want.fault) {
        rig_assert_fault(r, step, VEC_PF, want.code);
        assert_int_equal(e->fault.cr2, linear);
    } else {
        assert_int_equal(step, STEP_NEXT);
        assert_int_equal(gpa, (TARGET & ~(page_bytes(l) - 1)) | (linear & (page_bytes(l) - 1)));
    }
    for (unsigned i = 0; i < l->levels; i++) {
        uint64_t after = before[i];
        if (!want.fault && !(i == 0 && l->top_is_pdpte))
            after |= BIT_A;
        if (!want.fault && i + 1 == l->levels && access == ACCESS_WRITE)
            after |= BIT_D;
        assert_int_equal(entry_get(r, l, linear, i), after);
    }
    /* What the processor can see of the TLB: nothing. A fast-path hit needs the same permission as the walk. */
    if (kind != KIND_IMPLICIT && access != ACCESS_EXEC) {
        uint8_t *host = tlb_host(e, linear, 1, access == ACCESS_WRITE ? PLAN_MEM_WRITE : PLAN_MEM_READ);
        assert_true(!(want.fault && host));
        if (host)
            assert_ptr_equal(host, rig_at(r, gpa));
    }
}

/* Two entries vary in P, W, U and NX: the leaf and the one above it; all others allow everything. */
static void set_entries(struct rig *r, const struct layout *l, gva_t linear, unsigned leaf, unsigned above)
{
    for (unsigned i = 0; i < l->levels; i++) {
        unsigned bits = i + 1 == l->levels ? leaf : i + 2 == l->levels ? above : 7;
        uint64_t value = entry_address(l, i) | (bits & 7);
        if (i == 0 && l->top_is_pdpte)
            value = entry_address(l, i) | (bits & 1);
        if ((bits & 8) && l->entry_bytes == 8)
            value |= BIT_NX;
        entry_put(r, l, linear, i, value);
    }
}

static void check_controls(struct rig *r, const struct layout *l, gva_t linear, unsigned leaf, unsigned above)
{
    struct vcpu_state *s = &r->e->cpu;
    for (unsigned controls = 0; controls < 32; controls++) {
        set_mode(r, l);
        s->cr0 |= controls & 1 ? CR0_WP : 0;
        s->cr4 |= (controls & 2 ? CR4_SMEP : 0) | (controls & 4 ? CR4_SMAP : 0);
        s->rflags = RFLAGS_FIXED | (controls & 8 ? RFLAGS_AC : 0);
        s->efer |= controls & 16 ? EFER_NXE : 0;
        set_entries(r, l, linear, leaf, above);
        tlb_flush_page(r->e, linear);
        /* One after the other without a flush: what one access entered into the TLB must not help another. */
        for (int kind = KIND_USER; kind <= KIND_IMPLICIT; kind++)
            for (int access = ACCESS_READ; access <= ACCESS_EXEC; access++)
                check_access(r, l, linear, (enum access)access, kind);
    }
}

static void permissions_follow_the_sdm_in_every_mode(void **state)
{
    struct rig *r = *state;
    for (unsigned i = 0; i < ARRAY_LEN(layouts); i++) {
        const struct layout *l = &layouts[i];
        gva_t linear = l->long_mode ? 0x7fc012345678 : 0xc0345678;
        for (unsigned leaf = 0; leaf < 16; leaf++)
            for (unsigned above = 0; above < (l->levels > 1 ? 16u : 1u); above++)
                check_controls(r, l, linear, leaf, above);
    }
}

/* Reserved bits, by the tables of SDM 3, 4.3 to 4.5, for MAXPHYADDR = physical_bits. */
static bool is_reserved(const struct layout *l, unsigned level, unsigned bit, unsigned maxphyaddr, bool nxe)
{
    bool leaf = level + 1 == l->levels;
    if (l->entry_bytes == 4)
        return leaf && l->large && bit >= 13 && bit <= 21;
    if (l->top_is_pdpte && level == 0)
        return bit == 1 || bit == 2 || (bit >= 5 && bit <= 8) || bit >= maxphyaddr;
    if (bit == 63)
        return !nxe;
    if (bit >= 52)
        return !l->long_mode;
    if (bit >= maxphyaddr)
        return true;
    if (leaf && l->large)
        return bit >= 13 && bit < l->shift[level];
    return l->shift[level] >= 39 && bit == 7;
}

static void reserved_bits_fault_and_others_do_not(void **state)
{
    struct rig *r = *state;
    struct emu *e = r->e;
    for (unsigned i = 0; i < ARRAY_LEN(layouts) * 2; i++) {
        const struct layout *l = &layouts[i / 2];
        gva_t linear = l->long_mode ? 0x7fc012345678 : 0xc0345678;
        bool nxe = i & 1;
        set_mode(r, l);
        e->cpu.efer |= nxe ? EFER_NXE : 0;
        e->cpu.rflags = RFLAGS_FIXED;
        e->cpu.seg[SEG_SS].rights = 0x93;
        tlb_select(e);
        for (unsigned level = 0; level < l->levels; level++) {
            for (unsigned bit = 0; bit < l->entry_bytes * 8; bit++) {
                gpa_t gpa;
                bool address = bit >= 12 && !is_reserved(l, level, bit, e->physical_bits, nxe) && bit < 52;
                bool size =
                    bit == 7 && !(l->top_is_pdpte && level == 0) && !is_reserved(l, level, 7, 52, nxe);
                if (bit == 0 || address || size)
                    continue; /* another table or page: not what is asked here */
                set_entries(r, l, linear, 7, 7);
                entry_put(r, l, linear, level, entry_get(r, l, linear, level) ^ (uint64_t)1 << bit);
                tlb_flush_page(e, linear);
                enum step step = mmu_translate(e, linear, ACCESS_READ, false, &gpa);
                if (is_reserved(l, level, bit, e->physical_bits, nxe))
                    rig_assert_fault(r, step, VEC_PF, 9);
                else
                    assert_int_equal(step, STEP_NEXT);
            }
        }
    }
}

static void ps_is_ignored_without_pse(void **state)
{
    struct rig *r = *state;
    const struct layout *l = &layouts[0];
    gpa_t gpa;
    set_mode(r, l);
    r->e->cpu.cr4 = 0;
    set_entries(r, l, 0xc0345678, 7, 7);
    entry_put(r, l, 0xc0345678, 0, entry_get(r, l, 0xc0345678, 0) | BIT_PS);
    tlb_flush(r->e);
    assert_int_equal(mmu_translate(r->e, 0xc0345678, ACCESS_READ, false, &gpa), STEP_NEXT);
    assert_int_equal(gpa, TARGET | 0x678);
}

/* A model without the feature: PS is reserved in a PDPTE. */
static void pages_of_1_gib_need_their_cpuid_feature(void **state)
{
    struct rig *r = *state;
    const struct layout *l = &layouts[6];
    gva_t linear = 0x7fc012345678;
    gpa_t gpa;
    set_mode(r, l);
    set_entries(r, l, linear, 7, 7);
    tlb_flush(r->e);
    assert_int_equal(mmu_translate(r->e, linear, ACCESS_READ, false, &gpa), STEP_NEXT);
    cpu_model_init(&r->model, CPU_PROFILE_KVM);
    assert_false(cpu_model_has(&r->model, CPU_FEATURE_EXT1_EDX + 26));
    tlb_flush(r->e);
    rig_assert_fault(r, mmu_translate(r->e, linear, ACCESS_READ, false, &gpa), VEC_PF, 9);
}

static void tables_outside_ram_read_all_ones(void **state)
{
    struct rig *r = *state;
    gpa_t gpa;
    set_mode(r, &layouts[4]);
    r->e->cpu.cr3 = RIG_MMIO;
    tlb_flush(r->e);
    rig_assert_fault(r, mmu_translate(r->e, 0x1000, ACCESS_READ, false, &gpa), VEC_PF, 9);
    /* 32-bit, no PSE: all ones is a present entry, of the table at 0xfffff000, and then of the page there. */
    set_mode(r, &layouts[0]);
    r->e->cpu.cr4 = 0;
    r->e->cpu.cr3 = RIG_MMIO;
    tlb_flush(r->e);
    assert_int_equal(mmu_translate(r->e, 0x1234, ACCESS_READ, false, &gpa), STEP_NEXT);
    assert_int_equal(gpa, 0xfffff234);
    assert_int_equal(r->crossings, 0);
}

static void linear_is_physical_without_paging(void **state)
{
    struct rig *r = *state;
    gpa_t gpa;
    r->e->cpu.cr0 = CR0_PE;
    tlb_flush(r->e);
    for (int access = ACCESS_READ; access <= ACCESS_EXEC; access++) {
        assert_int_equal(mmu_translate(r->e, 0x123456, (enum access)access, false, &gpa), STEP_NEXT);
        assert_int_equal(gpa, 0x123456);
    }
    tlb_select(r->e);
    assert_non_null(tlb_host(r->e, 0x123456, 8, PLAN_MEM_WRITE));
}

/* ---- the TLB must not be visible ---- */

#define LINEAR 0x7fc012345000

static void map_long_4k(struct rig *r)
{
    rig_long(r, 0);
    set_mode(r, &layouts[4]);
    r->e->cpu.cr0 |= CR0_WP;
    set_entries(r, &layouts[4], LINEAR, 7, 7);
    /* The tables themselves, mapped at LINEAR + 0x1000. */
    rig_put64(r, entry_gpa(&layouts[4], LINEAR + 0x1000, 3), (TABLES + 0x3000) | 7);
    tlb_flush(r->e);
    tlb_select(r->e);
}

static void changed_page_table_needs_no_invlpg(void **state)
{
    struct rig *r = *state;
    map_long_4k(r);
    gva_t table = LINEAR + 0x1000;
    gva_t pte = table + (entry_gpa(&layouts[4], LINEAR, 3) & 0xfff);
    uint64_t value = 0x1111, zero = 0, moved = (TARGET + 0x1000) | 7;
    /* A write tag for the table's page exists before the walk makes it a table. */
    assert_int_equal(mem_write(r->e, table + 0xff8, &zero, 8), STEP_NEXT);
    assert_int_equal(mem_write(r->e, LINEAR, &value, 8), STEP_NEXT);
    assert_int_equal(mem_write(r->e, pte, &moved, 8), STEP_NEXT);
    value = 0x2222;
    assert_int_equal(mem_write(r->e, LINEAR, &value, 8), STEP_NEXT);
    assert_int_equal(rig_u64(r, TARGET), 0x1111);
    assert_int_equal(rig_u64(r, TARGET + 0x1000), 0x2222);
    /* A cleared A bit is set again by the next access, as if nothing were cached. */
    moved = rig_u64(r, entry_gpa(&layouts[4], LINEAR, 3)) & ~(uint64_t)(BIT_A | BIT_D);
    assert_int_equal(mem_write(r->e, pte, &moved, 8), STEP_NEXT);
    assert_int_equal(mem_read(r->e, LINEAR, &value, 8), STEP_NEXT);
    assert_int_equal(entry_get(r, &layouts[4], LINEAR, 3), moved | BIT_A);
    assert_int_equal(mem_write(r->e, LINEAR, &value, 8), STEP_NEXT);
    assert_int_equal(entry_get(r, &layouts[4], LINEAR, 3), moved | BIT_A | BIT_D);
    /* Made not present: the next access faults. One byte of the entry is enough. */
    assert_int_equal(mem_write(r->e, pte, &zero, 1), STEP_NEXT);
    rig_assert_fault(r, mem_read(r->e, LINEAR, &value, 8), VEC_PF, 0);
}

static void page_tables_in_use_stay_bounded(void **state)
{
    struct rig *r = *state;
    struct emu *e = r->e;
    /* Every frame of RAM takes its turn as the top table; its other levels are those of LINEAR. */
    map_long_4k(r);
    uint64_t top = rig_u64(r, entry_gpa(&layouts[4], LINEAR, 0));
    for (gpa_t table = 0x300000; table < RIG_RAM_BYTES; table += 0x1000) {
        gpa_t gpa;
        rig_put64(r, table + 8 * ((LINEAR >> 39) & 511), top);
        assert_int_equal(write_cr3(e, table), STEP_NEXT);
        assert_int_equal(mmu_translate(e, LINEAR, ACCESS_READ, false, &gpa), STEP_NEXT);
        assert_in_range(e->table_count, 1, TABLE_PAGES_MAX);
    }
    /* Tables that are written as data lose their mark; the one that CR3 points to does not. */
    const uint64_t freed = 0xffe000, present = 0xfff000;
    uint64_t zero = 0;
    for (unsigned i = 0; i < 300; i++) {
        ram_store(e, freed + 8 * i, &zero, 8);
        ram_store(e, present + 2048 + 8 * (i % 256), &zero, 8);
    }
    assert_false(e->ram->page_flags[freed >> PAGE_SHIFT] & RAM_PAGE_TABLE);
    assert_true(e->ram->page_flags[present >> PAGE_SHIFT] & RAM_PAGE_TABLE);
}

static void write_access_waits_for_the_dirty_list(void **state)
{
    struct rig *r = *state;
    uint64_t value = 1, page = TARGET >> PAGE_SHIFT;
    map_long_4k(r);
    assert_int_equal(mem_read(r->e, LINEAR, &value, 8), STEP_NEXT);
    assert_false(r->ram->page_flags[page] & RAM_PAGE_DIRTY);
    assert_null(tlb_host(r->e, LINEAR, 8, PLAN_MEM_WRITE));
    assert_int_equal(mem_write(r->e, LINEAR, &value, 8), STEP_NEXT);
    assert_true(r->ram->page_flags[page] & RAM_PAGE_DIRTY);
    assert_non_null(tlb_host(r->e, LINEAR, 8, PLAN_MEM_WRITE));
    ram_clear_dirty(r->ram);
    tlb_flush_writes(r->e);
    assert_null(tlb_host(r->e, LINEAR, 8, PLAN_MEM_WRITE));
    assert_non_null(tlb_host(r->e, LINEAR, 8, PLAN_MEM_READ));
    tlb_flush(r->e);
    assert_int_equal(mem_write(r->e, LINEAR, &value, 8), STEP_NEXT);
    assert_true(r->ram->page_flags[page] & RAM_PAGE_DIRTY);
    /* The walk's own writes count too: A and D bits. */
    ram_clear_dirty(r->ram);
    entry_put(r, &layouts[4], LINEAR, 3, TARGET | 7);
    tlb_flush(r->e);
    assert_int_equal(mem_read(r->e, LINEAR, &value, 8), STEP_NEXT);
    assert_true(r->ram->page_flags[(TABLES + 0x3000) >> PAGE_SHIFT] & RAM_PAGE_DIRTY);
}

static void pages_with_code_get_no_write_tag(void **state)
{
    struct rig *r = *state;
    uint64_t value = 1;
    map_long_4k(r);
    assert_int_equal(mem_write(r->e, LINEAR, &value, 8), STEP_NEXT);
    assert_non_null(tlb_host(r->e, LINEAR, 8, PLAN_MEM_WRITE));
    r->ram->page_flags[TARGET >> PAGE_SHIFT] |= RAM_PAGE_CODE;
    tlb_forbid_write(r->e, TARGET >> PAGE_SHIFT);
    assert_null(tlb_host(r->e, LINEAR, 8, PLAN_MEM_WRITE));
    assert_non_null(tlb_host(r->e, LINEAR, 8, PLAN_MEM_READ));
    tlb_flush(r->e);
    assert_int_equal(mem_read(r->e, LINEAR, &value, 8), STEP_NEXT);
    assert_null(tlb_host(r->e, LINEAR, 8, PLAN_MEM_WRITE));
    r->ram->page_flags[TARGET >> PAGE_SHIFT] &= (uint8_t)~RAM_PAGE_CODE;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(permissions_follow_the_sdm_in_every_mode, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(reserved_bits_fault_and_others_do_not, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(ps_is_ignored_without_pse, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(pages_of_1_gib_need_their_cpuid_feature, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(tables_outside_ram_read_all_ones, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(linear_is_physical_without_paging, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(changed_page_table_needs_no_invlpg, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(page_tables_in_use_stay_bounded, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(write_access_waits_for_the_dirty_list, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(pages_with_code_get_no_write_tag, rig_setup, rig_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
