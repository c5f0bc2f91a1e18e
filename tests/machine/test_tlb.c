/*
 * The TLB must be invisible: a vCPU with it and one whose TLB is emptied before every access must do the same, on
 * page tables that map each other and are rewritten all the time, through their own mappings, without any INVLPG.
 */
#include "tests/machine/rig.h"

#include <string.h>

#define TABLES      0x200000u
#define TABLE_PAGES 16u
#define STEPS       40000u

static uint64_t next(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed * 0x2545f4914f6cdd1d >> 16;
}

/* An entry: mostly present, of a table or (16 times fewer) a large page, with any permissions. */
static uint64_t random_entry(uint64_t *seed, bool wide)
{
    uint64_t r = next(seed);
    uint64_t entry = TABLES + ((r & (TABLE_PAGES - 1)) << 12);
    entry |= (r >> 8 & 0x66) | ((r >> 16 & 7) ? 1u : 0u) | ((r >> 19 & 3) ? 6u : 0u);
    if ((r >> 24 & 15) == 0)
        entry = (entry & 0x1ff) | 0x80 | (wide ? TABLES : 0); /* a 2 MiB or 4 MiB page over the tables */
    if (wide && (r >> 28 & 15) == 0)
        entry |= (uint64_t)1 << 63;
    return entry;
}

/* One of the linear addresses whose indexes are all below 4. */
static gva_t random_linear(uint64_t *seed, unsigned index_bits, unsigned levels)
{
    uint64_t r = next(seed);
    gva_t linear = 0;
    for (unsigned i = 0; i < levels; i++)
        linear |= (r >> (2 * i) & 3) << (12 + index_bits * i);
    /* Offsets where entries are, now and then across entries or pages. */
    uint64_t offset = (r >> 16 & 3) * 8;
    if ((r >> 18 & 7) == 0)
        offset += r >> 24 & 7;
    if ((r >> 32 & 15) == 0)
        offset = 0xffc;
    return linear | offset;
}

struct mode {
    uint64_t cr4, efer;
    unsigned index_bits, levels;
};

static void prepare(struct rig *r, const struct mode *m)
{
    uint64_t seed = 12345;
    struct vcpu_state *s = &r->e->cpu;
    rig_protected(r, 0);
    s->cr0 |= CR0_PG | CR0_WP;
    s->cr4 = m->cr4;
    s->efer = m->efer;
    s->cr3 = TABLES;
    s->seg[SEG_CS].rights = m->efer ? 0xa09b : 0xc09b;
    unsigned bytes = m->index_bits == 9 ? 8 : 4;
    for (unsigned page = 0; page < TABLE_PAGES; page++)
        for (unsigned i = 0; i < 8; i++) {
            uint64_t entry = random_entry(&seed, bytes == 8);
            memcpy(rig_at(r, TABLES + page * 0x1000 + i * bytes), &entry, bytes);
        }
    tlb_flush(r->e);
    tlb_select(r->e);
}

/* What a step shows to the guest. */
struct outcome {
    enum step step;
    struct fault fault;
    uint64_t value;
};

static struct outcome act(struct rig *r, const struct mode *m, uint64_t seed)
{
    static const uint8_t sizes[] = {8, 8, 8, 4, 4, 2, 1, 8};
    struct emu *e = r->e;
    struct outcome o = {STEP_NEXT, {0}, 0};
    uint64_t kind = next(&seed) % 16;
    gva_t linear = random_linear(&seed, m->index_bits, m->levels);
    size_t size = sizes[next(&seed) & 7];
    uint64_t entry = random_entry(&seed, m->index_bits == 9);
    struct mem_map map;
    const uint8_t *host = NULL;
    if (kind < 6) {
        o.step = mem_read(e, linear, &o.value, size);
    } else if (kind < 10) {
        o.step = mem_write(e, linear, &entry, size);
    } else if (kind == 10) {
        o.step = mem_map(e, linear, 8, PLAN_MEM_RMW, &map);
        if (o.step == STEP_NEXT) {
            memcpy(&o.value, map.data, 8);
            memcpy(map.data, &entry, 8);
            o.step = mem_unmap(e, &map);
        }
    } else if (kind == 11) {
        o.step = mmu_fetch_page(e, linear, &o.value, &host);
    } else if (kind == 12) {
        o.step = mem_read_system(e, linear, &o.value, size);
    } else if (kind == 13) {
        set_rflags(e, entry & 2 ? RFLAGS_AC : 0, RFLAGS_AC);
    } else if (kind == 14) {
        e->cpu.seg[SEG_SS].rights ^= SEGMENT_DPL;
        tlb_select(e);
    } else if (entry & 2) {
        o.step = write_cr3(e, TABLES + ((entry >> 12 & 3) << 12));
    } else {
        o.step = write_cr0(e, e->cpu.cr0 ^ CR0_WP);
    }
    if (o.step == STEP_FAULT)
        o.fault = e->fault;
    return o;
}

/* A fast path that the reference, with an empty TLB, does not have must be to the same byte with the same rights. */
static void check_mode(const struct mode *m, uint64_t seed)
{
    struct rig *with = rig_create(), *without = rig_create();
    unsigned good = 0, faults = 0;
    prepare(with, m);
    prepare(without, m);
    for (unsigned i = 0; i < STEPS; i++) {
        uint64_t step_seed = next(&seed);
        struct outcome a = act(with, m, step_seed);
        tlb_flush(without->e);
        struct outcome b = act(without, m, step_seed);
        if (a.step != b.step || a.value != b.value || memcmp(&a.fault, &b.fault, sizeof(a.fault)) != 0)
            fail_msg("step %u: %d/%d value %#llx/%#llx", i, a.step, b.step, (unsigned long long)a.value,
                     (unsigned long long)b.value);
        if (memcmp(rig_at(with, TABLES), rig_at(without, TABLES), TABLE_PAGES * 0x1000) != 0)
            fail_msg("step %u: memory differs", i);
        good += a.step == STEP_NEXT;
        faults += a.step == STEP_FAULT;
        if (i % 64 == 63) { /* else too little stays mapped */
            prepare(with, m);
            prepare(without, m);
        }
    }
    /* It did meet both kinds, often. */
    assert_in_range(good, STEPS / 10, STEPS);
    assert_in_range(faults, STEPS / 20, STEPS);
    rig_destroy(with);
    rig_destroy(without);
}

static void the_tlb_is_invisible_in_4_level_paging(void **state)
{
    (void)state;
    struct mode m = {CR4_PAE, EFER_LME | EFER_LMA | EFER_NXE, 9, 4};
    check_mode(&m, 1);
    m.cr4 |= CR4_SMAP | CR4_SMEP;
    check_mode(&m, 2);
}

static void the_tlb_is_invisible_in_32_bit_paging(void **state)
{
    (void)state;
    struct mode m = {CR4_PSE, 0, 10, 2};
    check_mode(&m, 3);
    m.cr4 |= CR4_SMAP;
    check_mode(&m, 4);
}

/* A table used for two linear ranges, and at two levels: a write through it must reach both. */
static void a_table_in_two_places_is_dropped_from_both(void **state)
{
    struct rig *r = *state;
    uint64_t value = 0;
    rig_long(r, 0);
    /* PD entries 4 and 5 share a page table at 0x30000, seen as data by the identity map. */
    rig_put64(r, RIG_TABLES + 0x2000 + 8 * 4, 0x30007);
    rig_put64(r, RIG_TABLES + 0x2000 + 8 * 5, 0x30007);
    rig_put64(r, 0x30000, 0x100007);
    tlb_flush(r->e);
    /* The table has a write tag as data before it is used as a table. */
    assert_int_equal(mem_write(r->e, 0x30008, &value, 8), STEP_NEXT);
    assert_non_null(tlb_host(r->e, 0x30008, 8, PLAN_MEM_WRITE));
    assert_int_equal(mem_read(r->e, 0x800000, &value, 8), STEP_NEXT);
    assert_null(tlb_host(r->e, 0x30008, 8, PLAN_MEM_WRITE));
    assert_int_equal(mem_read(r->e, 0xa00000, &value, 8), STEP_NEXT);
    r->e->block_gone = false;
    value = 0;
    assert_int_equal(mem_write(r->e, 0x30000, &value, 8), STEP_NEXT);
    assert_true(r->e->block_gone);
    rig_assert_fault(r, mem_read(r->e, 0x800000, &value, 8), VEC_PF, 0);
    rig_assert_fault(r, mem_read(r->e, 0xa00000, &value, 8), VEC_PF, 0);
}

/* What the design promises of its cost: a change of one entry leaves the other translations where they are. */
static void a_changed_entry_costs_one_translation(void **state)
{
    struct rig *r = *state;
    uint64_t value = 0;
    rig_long(r, 0);
    rig_put64(r, RIG_TABLES + 0x2000 + 8 * 4, 0x30007);
    for (uint64_t i = 0; i < 8; i++)
        rig_put64(r, 0x30000 + 8 * i, 0x100007 + i * 0x1000);
    tlb_flush(r->e);
    for (gva_t i = 0; i < 8; i++)
        assert_int_equal(mem_read(r->e, 0x800000 + i * 0x1000, &value, 8), STEP_NEXT);
    value = 0x200007;
    assert_int_equal(mem_write(r->e, 0x30000 + 8 * 3, &value, 8), STEP_NEXT);
    for (gva_t i = 0; i < 8; i++)
        assert_int_equal(tlb_host(r->e, 0x800000 + i * 0x1000, 8, PLAN_MEM_READ) != NULL, i != 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_tlb_is_invisible_in_4_level_paging),
        cmocka_unit_test(the_tlb_is_invisible_in_32_bit_paging),
        cmocka_unit_test_setup_teardown(a_table_in_two_places_is_dropped_from_both, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(a_changed_entry_costs_one_translation, rig_setup, rig_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
