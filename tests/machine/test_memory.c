/* Accesses through the MMU: page crossing, MMIO at the boundary, data breakpoints, alignment checks. */
#include "tests/machine/rig.h"

#include <string.h>

#define TABLE 0x200000u /* page table of the first 2 MiB */

/* 64-bit mode with 4 KiB pages for the first 2 MiB. */
static struct rig *paged(void **state, unsigned cpl)
{
    struct rig *r = *state;
    rig_long(r, cpl);
    rig_put64(r, RIG_TABLES + 0x2000, TABLE | 7);
    for (uint64_t i = 0; i < 512; i++)
        rig_put64(r, TABLE + 8 * i, i << 12 | 7);
    tlb_flush(r->e);
    return r;
}

static void map_page(struct rig *r, gva_t linear, uint64_t entry)
{
    rig_put64(r, TABLE + 8 * (linear >> 12), entry);
    tlb_flush(r->e);
}

static void accesses_cross_pages_that_are_not_neighbours(void **state)
{
    struct rig *r = paged(state, 0);
    uint8_t data[512], back[512];
    map_page(r, 0x11000, 0x30000 | 7);
    for (unsigned i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 7);
    assert_int_equal(mem_write(r->e, 0x11000 - 200, data, sizeof(data)), STEP_NEXT);
    assert_memory_equal(rig_at(r, 0x11000 - 200), data, 200);
    assert_memory_equal(rig_at(r, 0x30000), data + 200, sizeof(data) - 200);
    assert_int_equal(mem_read(r->e, 0x11000 - 200, back, sizeof(back)), STEP_NEXT);
    assert_memory_equal(back, data, sizeof(data));
}

static void nothing_is_written_when_the_second_page_faults(void **state)
{
    struct rig *r = paged(state, 0);
    struct mem_map map;
    uint64_t value = UINT64_MAX;
    map_page(r, 0x11000, 0);
    rig_assert_fault(r, mem_write(r->e, 0x10ffc, &value, 8), VEC_PF, 2);
    assert_int_equal(r->e->fault.cr2, 0x11000);
    assert_int_equal(rig_u32(r, 0x10ffc), 0);
    rig_assert_fault(r, mem_read(r->e, 0x10ffc, &value, 8), VEC_PF, 0);
    rig_assert_fault(r, mem_map(r->e, 0x10ffc, 8, PLAN_MEM_RMW, &map), VEC_PF, 2);
    rig_assert_fault(r, mem_check_write(r->e, 0x10ffc, 8), VEC_PF, 2);
    /* Read-only second page: a read is fine, a write is not. */
    map_page(r, 0x11000, 0x30000 | 5);
    assert_int_equal(mem_read(r->e, 0x10ffc, &value, 8), STEP_NEXT);
    rig_assert_fault(r, mem_write(r->e, 0x10ffc, &value, 8), VEC_PF, 3);
}

static void linear_addresses_wrap_at_4_gib_outside_64_bit_mode(void **state)
{
    struct rig *r = *state;
    uint64_t value = 0x8877665544332211;
    rig_protected(r, 0);
    assert_int_equal(mem_write(r->e, 0xfffffffc, &value, 8), STEP_NEXT);
    assert_int_equal(rig_u32(r, 0), 0x88776655);
    assert_int_equal(r->crossings, 4); /* the other half is MMIO, byte by byte */
}

/* At 4 GiB: 64-bit code goes on, compatibility code starts over, and system tables go on for both. */
static void long_mode_wraps_by_the_code_segment(void **state)
{
    struct rig *r = *state;
    uint64_t value;
    rig_long(r, 0);
    rig_put64(r, RIG_TABLES + 0x1000 + 8 * 3, 0x87); /* 3 GiB and 4 GiB: 1 GiB pages of frame 0 */
    rig_put64(r, RIG_TABLES + 0x1000 + 8 * 4, 0x87);
    rig_put64(r, RIG_TABLES + 0x2000, 0x200087); /* linear 0 is elsewhere */
    rig_put64(r, RIG_TABLES + 0x2000 + 8 * 511, 0x87);
    rig_put64(r, RIG_TABLES + 0x1000 + 8 * 3, (RIG_TABLES + 0x2000) | 7);
    rig_put64(r, 0x1ffff8, 0x4444444411111111);
    rig_put64(r, 0, 0x22222222);
    rig_put64(r, 0x200000, 0x33333333);
    tlb_flush(r->e);
    assert_int_equal(mem_read(r->e, 0xfffffffc, &value, 8), STEP_NEXT);
    assert_int_equal(value, 0x2222222244444444);
    r->e->cpu.seg[SEG_CS].rights &= (uint16_t)~SEGMENT_L;
    assert_int_equal(mem_read(r->e, 0xfffffffc, &value, 8), STEP_NEXT);
    assert_int_equal(value, 0x3333333344444444);
    assert_int_equal(mem_read_system(r->e, 0xfffffffc, &value, 8), STEP_NEXT);
    assert_int_equal(value, 0x2222222244444444);
}

static void effective_addresses(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    s->rip = 0x1000;
    s->gpr[GPR_RBX] = 0xffffffff00000010;
    s->gpr[GPR_R12] = 0x100;
    struct plan p = {.disp = -4, .base = GPR_RBX, .index = GPR_R12, .scale = 8, .addr_size = 8, .length = 7};
    assert_int_equal(plan_offset(r->e, &p), 0xffffffff0000080c);
    p.addr_size = 4;
    assert_int_equal(plan_offset(r->e, &p), 0x80c);
    p.base = PLAN_REG_RIP;
    p.index = PLAN_NO_REG;
    assert_int_equal(plan_offset(r->e, &p), 0x1003);
    p.base = PLAN_NO_REG;
    p.addr_size = 2;
    assert_int_equal(plan_offset(r->e, &p), 0xfffc);
}

static void assert_crossing(const struct rig *r, unsigned i, char kind, uint64_t address, unsigned size,
                            uint64_t value)
{
    assert_true(i < r->crossings);
    assert_int_equal(r->crossing[i].kind, kind);
    assert_int_equal(r->crossing[i].address, address);
    assert_int_equal(r->crossing[i].size, size);
    assert_int_equal(r->crossing[i].value, value);
}

static void mmio_crosses_whole_when_aligned_and_in_bytes_otherwise(void **state)
{
    struct rig *r = paged(state, 0);
    uint8_t data[16] = {0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17};
    uint64_t value = 0;
    assert_int_equal(mem_read(r->e, RIG_MMIO + 8, &value, 8), STEP_NEXT);
    assert_int_equal(value, 0x0f0e0d0c0b0a0908);
    assert_int_equal(r->crossings, 1);
    assert_crossing(r, 0, 'r', RIG_MMIO + 8, 8, 0x0f0e0d0c0b0a0908);
    value = 0;
    assert_int_equal(mem_read(r->e, RIG_MMIO + 2, &value, 4), STEP_NEXT);
    assert_int_equal(value, 0x05040302);
    assert_int_equal(r->crossings, 5);
    assert_crossing(r, 4, 'r', RIG_MMIO + 5, 1, 5);
    r->crossings = 0;
    assert_int_equal(mem_write(r->e, RIG_MMIO, data, 16), STEP_NEXT);
    assert_int_equal(r->crossings, 16);
    assert_crossing(r, 7, 'w', RIG_MMIO + 7, 1, 0x17);
    r->crossings = 0;
    assert_int_equal(mem_write(r->e, RIG_MMIO + 6, data, 2), STEP_NEXT);
    assert_int_equal(r->crossings, 1);
    assert_crossing(r, 0, 'w', RIG_MMIO + 6, 2, 0x1110);
}

static void a_failing_boundary_stops_before_ram_changes(void **state)
{
    struct rig *r = paged(state, 0);
    uint64_t value = UINT64_MAX;
    /* RAM page, then an MMIO page. */
    map_page(r, 0x11000, RIG_MMIO | 7);
    r->fail_at = 0;
    r->answer = -5;
    assert_int_equal(mem_write(r->e, 0x10ffc, &value, 8), STEP_STOP);
    assert_int_equal(r->e->stop_reason, ENGINE_STOP_BOUNDARY);
    assert_int_equal(rig_u32(r, 0x10ffc), 0);
    r->crossings = 0;
    r->answer = BOUNDARY_STOP;
    assert_false(r->e->boundary_stop);
    assert_int_equal(mem_write(r->e, 0x10ffc, &value, 8), STEP_NEXT);
    assert_true(r->e->boundary_stop);
    assert_int_equal(rig_u32(r, 0x10ffc), UINT32_MAX);
}

static void operands_are_bounced_where_they_cannot_be_used_in_place(void **state)
{
    struct rig *r = paged(state, 0);
    struct mem_map map;
    uint64_t value;
    /* Inside a page: in place, also the first time. */
    rig_put64(r, 0x100100, 5);
    assert_int_equal(mem_map(r->e, 0x100100, 8, PLAN_MEM_RMW, &map), STEP_NEXT);
    assert_ptr_equal(map.data, rig_at(r, 0x100100));
    assert_false(map.bounced);
    assert_true(r->ram->page_flags[0x100] & RAM_PAGE_DIRTY);
    /* Across pages. */
    map_page(r, 0x11000, 0x30000 | 7);
    rig_put32(r, 0x10ffc, 0x44332211);
    rig_put32(r, 0x30000, 0x88776655);
    assert_int_equal(mem_map(r->e, 0x10ffc, 8, PLAN_MEM_RMW, &map), STEP_NEXT);
    assert_true(map.bounced);
    memcpy(&value, map.data, 8);
    assert_int_equal(value, 0x8877665544332211);
    value++;
    memcpy(map.data, &value, 8);
    assert_int_equal(rig_u32(r, 0x10ffc), 0x44332211);
    assert_int_equal(mem_unmap(r->e, &map), STEP_NEXT);
    assert_int_equal(rig_u32(r, 0x10ffc), 0x44332212);
    /* MMIO: read when mapped, written when unmapped. */
    assert_int_equal(mem_map(r->e, RIG_MMIO, 4, PLAN_MEM_RMW, &map), STEP_NEXT);
    assert_int_equal(r->crossings, 1);
    assert_int_equal(mem_unmap(r->e, &map), STEP_NEXT);
    assert_int_equal(r->crossings, 2);
    assert_crossing(r, 1, 'w', RIG_MMIO, 4, 0x03020100);
    r->fail_at = 2;
    r->answer = -5;
    assert_int_equal(mem_map(r->e, RIG_MMIO, 4, PLAN_MEM_READ, &map), STEP_STOP);
    /* Written only: nothing is read. */
    r->crossings = 3;
    assert_int_equal(mem_map(r->e, RIG_MMIO, 4, PLAN_MEM_WRITE, &map), STEP_NEXT);
    assert_int_equal(r->crossings, 3);
    /* A page with decoded code. */
    r->ram->page_flags[0x100] |= RAM_PAGE_CODE;
    tlb_flush(r->e);
    assert_int_equal(mem_map(r->e, 0x100100, 8, PLAN_MEM_RMW, &map), STEP_NEXT);
    assert_true(map.bounced);
    r->ram->page_flags[0x100] &= (uint8_t)~RAM_PAGE_CODE;
}

/* DR7 for breakpoint i: enabled locally, with R/W and LEN. */
static uint64_t dr7_of(unsigned i, unsigned rw, unsigned len)
{
    return DR7_FIXED | (uint64_t)1 << (2 * i) | (uint64_t)(rw | len << 2) << (16 + 4 * i);
}

static void data_breakpoints_become_pending(void **state)
{
    struct rig *r = paged(state, 0);
    struct vcpu_state *s = &r->e->cpu;
    struct mem_map map;
    uint64_t value = 0;
    /* Everything is in the TLB before the breakpoint is armed by MOV DR7. */
    assert_int_equal(mem_write(r->e, 0x100100, &value, 8), STEP_NEXT);
    s->dr[2] = 0x100104;
    s->gpr[GPR_RAX] = dr7_of(2, 1, 3);
    assert_int_equal(rig_exec(r, "\x0f\x23\xf8", 3), STEP_LEAVE); /* mov dr7, rax */
    static const struct {
        gva_t linear;
        unsigned length;
        bool write, hit;
    } cases[] = {
        {0x100104, 4, true, true}, {0x100104, 4, false, false}, {0x100100, 4, true, false},
        {0x100100, 8, true, true}, {0x100107, 1, true, true},   {0x100108, 8, true, false},
        {0x100101, 4, true, true}, {0x100900, 8, true, false},  {0x100000, 512, true, true},
    };
    uint8_t data[512] = {0};
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        s->pending_debug = 0;
        enum step step = cases[i].write ? mem_write(r->e, cases[i].linear, data, cases[i].length)
                                        : mem_read(r->e, cases[i].linear, data, cases[i].length);
        assert_int_equal(step, STEP_NEXT);
        assert_int_equal(s->pending_debug, cases[i].hit ? 4 : 0);
    }
    s->pending_debug = 0;
    assert_int_equal(mem_map(r->e, 0x100104, 4, PLAN_MEM_RMW, &map), STEP_NEXT);
    assert_int_equal(mem_unmap(r->e, &map), STEP_NEXT);
    assert_int_equal(s->pending_debug, 4);
    /* R/W of 3 sees reads too; LEN of 2 is 8 bytes. */
    s->gpr[GPR_RAX] = dr7_of(2, 3, 2);
    assert_int_equal(rig_exec(r, "\x0f\x23\xf8", 3), STEP_LEAVE);
    s->pending_debug = 0;
    assert_int_equal(mem_read(r->e, 0x100100, data, 1), STEP_NEXT);
    assert_int_equal(s->pending_debug, 4);
    /* An instruction that faults in the end does not trap. */
    rig_gate(r, VEC_GP, 0xe, 0, SEL_CODE64, 0x6000, 0);
    raise_exception_code(r->e, VEC_GP, 0);
    assert_int_equal(deliver_fault(r->e), STEP_NEXT);
    assert_int_equal(s->pending_debug, 0);
    /* Disarmed: the fast path is back. */
    s->gpr[GPR_RAX] = 0;
    assert_int_equal(rig_exec(r, "\x0f\x23\xf8", 3), STEP_LEAVE);
    assert_int_equal(mem_write(r->e, 0x100104, data, 4), STEP_NEXT);
    assert_non_null(tlb_host(r->e, 0x100104, 4, PLAN_MEM_WRITE));
    assert_int_equal(s->pending_debug, 0);
}

static void alignment_is_checked_at_cpl_3_with_am_and_ac(void **state)
{
    for (unsigned i = 0; i < 8; i++) {
        struct rig *r = rig_create();
        void *fresh = r;
        bool am = i & 1, ac = i & 2, user = i & 4;
        uint64_t value = 0;
        struct mem_map map;
        paged(&fresh, user ? 3 : 0);
        r->e->cpu.cr0 |= am ? CR0_AM : 0;
        assert_int_equal(mem_write(r->e, 0x100101, &value, 8), STEP_NEXT); /* fills the TLB */
        set_rflags(r->e, ac ? RFLAGS_AC : 0, RFLAGS_AC);
        enum step step = mem_write(r->e, 0x100101, &value, 8);
        if (am && ac && user) {
            rig_assert_fault(r, step, VEC_AC, 0);
            rig_assert_fault(r, mem_map(r->e, 0x100102, 4, PLAN_MEM_READ, &map), VEC_AC, 0);
            rig_assert_fault(r, mem_read(r->e, 0x100101, &value, 2), VEC_AC, 0);
        } else {
            assert_int_equal(step, STEP_NEXT);
        }
        assert_int_equal(mem_write(r->e, 0x100108, &value, 8), STEP_NEXT);
        assert_int_equal(mem_read(r->e, 0x100103, &value, 1), STEP_NEXT);
        rig_destroy(r);
    }
    (void)state;
}

static void fetch_outside_ram_is_undefined_and_non_canonical_faults(void **state)
{
    struct rig *r = paged(state, 0);
    uint64_t page;
    const uint8_t *host;
    assert_int_equal(mmu_fetch_page(r->e, 0x100123, &page, &host), STEP_NEXT);
    assert_int_equal(page, 0x100);
    assert_ptr_equal(host, rig_at(r, 0x100000));
    rig_assert_fault(r, mmu_fetch_page(r->e, RIG_MMIO, &page, &host), VEC_UD, -1);
    assert_int_equal(r->crossings, 0);
    rig_assert_fault(r, mmu_fetch_page(r->e, 0x800000000000, &page, &host), VEC_GP, 0);
}

/* The significand and the rest of an 80-bit operand are two accesses, and each wraps round at the address size. */
static void an_80_bit_operand_wraps_between_its_two_accesses(void **state)
{
    struct rig *r = *state;
    rig_protected(r, 0);
    r->e->cpu.seg[SEG_DS].base = 0x100000;
    r->e->cpu.gpr[GPR_RBX] = 0xfff8;
    assert_int_equal(rig_exec(r, "\xd9\xe8", 2), STEP_NEXT);     /* fld1 */
    assert_int_equal(rig_exec(r, "\x67\xdb\x3f", 3), STEP_NEXT); /* fstp tbyte [bx] */
    assert_int_equal(rig_u64(r, 0x10fff8), 1ull << 63);
    assert_int_equal(rig_u16(r, 0x100000), 0x3fff);
    assert_int_equal(rig_u16(r, 0x110000), 0);
    rig_put16(r, 0x100000, 0xc000);
    assert_int_equal(rig_exec(r, "\x67\xdb\x2f", 3), STEP_NEXT);         /* fld tbyte [bx] */
    assert_int_equal(rig_exec(r, "\xdd\x1d\0\x20\x10\0", 6), STEP_NEXT); /* fstp qword [0x102000] */
    assert_int_equal(rig_u64(r, 0x202000), 0xc000000000000000);
    /* With 32-bit addresses nothing wraps here, and one byte further nothing does either. */
    assert_int_equal(rig_exec(r, "\xd9\xe8", 2), STEP_NEXT);
    assert_int_equal(rig_exec(r, "\xdb\x3b", 2), STEP_NEXT); /* fstp tbyte [ebx] */
    assert_int_equal(rig_u16(r, 0x110000), 0x3fff);
    assert_int_equal(rig_u16(r, 0x100000), 0xc000);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
    const struct CMUnitTest tests[] = {
        TEST(accesses_cross_pages_that_are_not_neighbours),
        TEST(nothing_is_written_when_the_second_page_faults),
        TEST(linear_addresses_wrap_at_4_gib_outside_64_bit_mode),
        TEST(long_mode_wraps_by_the_code_segment),
        TEST(effective_addresses),
        TEST(mmio_crosses_whole_when_aligned_and_in_bytes_otherwise),
        TEST(a_failing_boundary_stops_before_ram_changes),
        TEST(operands_are_bounced_where_they_cannot_be_used_in_place),
        TEST(data_breakpoints_become_pending),
        TEST(an_80_bit_operand_wraps_between_its_two_accesses),
        TEST(alignment_is_checked_at_cpl_3_with_am_and_ac),
        TEST(fetch_outside_ram_is_undefined_and_non_canonical_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
