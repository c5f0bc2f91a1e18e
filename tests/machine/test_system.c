/* Control, debug and model-specific registers, and the other system instructions. */
#include "core/x86/code_arena.h"
#include "tests/machine/rig.h"

#include <errno.h>
#include <string.h>

#define GP0(step) rig_assert_fault(r, step, VEC_GP, 0)

static void cr0_checks_and_mode_switches(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    GP0(write_cr0(r->e, CR0_PG));
    GP0(write_cr0(r->e, CR0_PE | CR0_NW));
    GP0(write_cr0(r->e, CR0_PE | (uint64_t)1 << 32));
    assert_int_equal(write_cr0(r->e, 0x1ffaffc0 | CR0_PE),
                     STEP_NEXT); /* unknown bits are dropped, ET stays */
    assert_int_equal(s->cr0, CR0_PE | CR0_ET);
    /* Long mode: LME, PAE, then PG. */
    s->efer = EFER_LME;
    GP0(write_cr0(r->e, CR0_PE | CR0_PG));
    s->cr4 = CR4_PAE;
    s->seg[SEG_CS].rights |= SEGMENT_L;
    GP0(write_cr0(r->e, CR0_PE | CR0_PG));
    s->seg[SEG_CS].rights &= (uint16_t)~SEGMENT_L;
    s->tr.rights = 0x83;
    GP0(write_cr0(r->e, CR0_PE | CR0_PG));
    s->tr.rights = 0x8b;
    assert_int_equal(s->efer, EFER_LME);
    assert_int_equal(write_cr0(r->e, CR0_PE | CR0_PG), STEP_NEXT);
    assert_int_equal(s->efer, EFER_LME | EFER_LMA);
    GP0(write_cr4(r->e, 0));
    /* And out again, from compatibility mode only. */
    s->seg[SEG_CS].rights |= SEGMENT_L;
    GP0(write_cr0(r->e, CR0_PE));
    s->seg[SEG_CS].rights &= (uint16_t)~SEGMENT_L;
    s->cr4 |= CR4_PCIDE;
    GP0(write_cr0(r->e, CR0_PE));
    s->cr4 &= ~CR4_PCIDE;
    assert_int_equal(write_cr0(r->e, CR0_PE), STEP_NEXT);
    assert_int_equal(s->efer, EFER_LME);
}

static void wp_smap_and_paging_change_what_the_tlb_allows(void **state)
{
    struct rig *r = *state;
    uint64_t value = 0;
    rig_long(r, 0);
    rig_put64(r, RIG_TABLES + 0x2000, 0x85); /* read-only, user */
    assert_int_equal(write_cr0(r->e, r->e->cpu.cr0 & ~CR0_WP), STEP_NEXT);
    assert_int_equal(mem_write(r->e, 0x100000, &value, 8), STEP_NEXT);
    assert_int_equal(write_cr0(r->e, r->e->cpu.cr0 | CR0_WP), STEP_NEXT);
    rig_assert_fault(r, mem_write(r->e, 0x100000, &value, 8), VEC_PF, 3);
    assert_int_equal(mem_read(r->e, 0x100000, &value, 8), STEP_NEXT);
    assert_int_equal(write_cr4(r->e, r->e->cpu.cr4 | CR4_SMAP), STEP_NEXT);
    rig_assert_fault(r, mem_read(r->e, 0x100000, &value, 8), VEC_PF, 1);
    set_rflags(r->e, RFLAGS_AC, RFLAGS_AC);
    assert_int_equal(mem_read(r->e, 0x100000, &value, 8), STEP_NEXT);
    rig_assert_fault(r, mem_read_system(r->e, 0x100000, &value, 8), VEC_PF, 1);
    set_rflags(r->e, 0, RFLAGS_AC);
    rig_assert_fault(r, mem_read(r->e, 0x100000, &value, 8), VEC_PF, 1);
}

static void cr3_and_cr4_checks(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    rig_long(r, 0);
    uint64_t cr3 = s->cr3;
    GP0(write_cr3(r->e, (uint64_t)1 << r->e->physical_bits));
    GP0(write_cr3(r->e, (uint64_t)1 << 63));
    assert_int_equal(s->cr3, cr3);
    assert_int_equal(write_cr3(r->e, cr3 | 0x18), STEP_NEXT); /* PWT, PCD */
    /* CR4 bit and the CPUID feature it comes with (SDM 3, 2.5). */
    static const struct {
        unsigned bit, feature;
    } features[] = {
        {0, CPU_FEATURE_LEAF1_EDX + 1},   {1, CPU_FEATURE_LEAF1_EDX + 1},  {2, CPU_FEATURE_LEAF1_EDX + 2},
        {3, CPU_FEATURE_LEAF1_EDX + 3},   {4, CPU_FEATURE_LEAF1_EDX + 4},  {5, CPU_FEATURE_LEAF1_EDX + 6},
        {6, CPU_FEATURE_LEAF1_EDX + 7},   {7, CPU_FEATURE_LEAF1_EDX + 13}, {9, CPU_FEATURE_LEAF1_EDX + 24},
        {10, CPU_FEATURE_LEAF1_EDX + 25}, {11, CPU_FEATURE_LEAF7_ECX + 2}, {16, CPU_FEATURE_LEAF7_EBX + 0},
        {18, CPU_FEATURE_LEAF1_ECX + 26}, {20, CPU_FEATURE_LEAF7_EBX + 7}, {21, CPU_FEATURE_LEAF7_EBX + 20},
    };
    for (unsigned bit = 0; bit < 64; bit++) {
        struct vcpu_state before = *s;
        bool offered = bit == 8; /* PCE has no bit of its own */
        for (unsigned i = 0; i < ARRAY_LEN(features); i++)
            offered = offered || (features[i].bit == bit && cpu_model_has(&r->model, features[i].feature));
        enum step step = write_cr4(r->e, s->cr4 | (uint64_t)1 << bit);
        if (bit != 17) /* PCIDE: below */
            assert_int_equal(step, offered ? STEP_NEXT : STEP_FAULT);
        *s = before;
    }
    tlb_select(r->e);
    if (cpu_model_has(&r->model, CPU_FEATURE_LEAF1_ECX + 17)) {
        GP0(write_cr4(r->e, s->cr4 | CR4_PCIDE)); /* CR3 has low bits set */
        assert_int_equal(write_cr3(r->e, cr3), STEP_NEXT);
        assert_int_equal(write_cr4(r->e, s->cr4 | CR4_PCIDE), STEP_NEXT);
        assert_int_equal(write_cr3(r->e, cr3 | 5 | (uint64_t)1 << 63), STEP_NEXT);
        assert_int_equal(s->cr3, cr3 | 5);
    }
}

/* Under KVM nothing hides what the CPU has: there these bits can be set, whatever CPUID says. */
static void a_model_that_only_hides_features_has_the_cr4_bits_of_every_cpu(void **state)
{
    struct rig *r = *state;
    rig_long(r, 0);
    uint64_t cr4 = r->e->cpu.cr4;
    GP0(write_cr4(r->e, cr4 | CR4_MCE));
    GP0(write_cr4(r->e, cr4 | CR4_VME));
    GP0(write_cr4(r->e, cr4 | CR4_PVI));
    cpu_model_init(&r->model, CPU_PROFILE_KVM);
    assert_int_equal(write_cr4(r->e, cr4 | CR4_MCE | CR4_TSD), STEP_NEXT);
    GP0(write_cr4(r->e, cr4 | CR4_UMIP));
}

/* What was decoded for the other model is forgotten with the stubs. */
static void forget_feature(struct rig *r, uint32_t leaf, unsigned index, unsigned bit)
{
    code_arena_recycle(r->e->arena);
    for (unsigned i = 0; i < r->model.count; i++) {
        struct cpuid_entry *x = &r->model.entry[i];
        uint32_t *const out[] = {&x->eax, &x->ebx, &x->ecx, &x->edx};
        if (x->leaf == leaf)
            *out[index] &= ~(1u << bit);
    }
}

static void instructions_come_with_their_cpuid_bits(void **state)
{
    struct rig *r = *state;
    static const struct {
        uint32_t leaf;
        unsigned index, bit, length;
        const char *bytes;
    } cases[] = {
        {1, 2, 30, 3, "\x0f\xc7\xf0"},          /* RDRAND */
        {7, 1, 18, 3, "\x0f\xc7\xf8"},          /* RDSEED */
        {0x80000001, 3, 27, 3, "\x0f\x01\xf9"}, /* RDTSCP */
        {0x80000001, 2, 0, 1, "\x9f"},          /* LAHF in 64-bit mode */
        {1, 3, 15, 3, "\x0f\x44\xc3"},          /* CMOVZ */
    };
    rig_long(r, 0);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_int_equal(rig_exec(r, cases[i].bytes, cases[i].length), STEP_NEXT);
        forget_feature(r, cases[i].leaf, cases[i].index, cases[i].bit);
        rig_assert_fault(r, rig_exec(r, cases[i].bytes, cases[i].length), VEC_UD, -1);
    }
    /* Without LZCNT and BMI1, F3 in front of BSR and BSF means nothing. */
    static const char lzcnt[] = "\xf3\x0f\xbd\xc3", tzcnt[] = "\xf3\x0f\xbc\xc3", load[] = "\xf3\x0f\xbd\x03";
    uint64_t *gpr = r->e->cpu.gpr;
    gpr[GPR_RBX] = 0;
    assert_int_equal(rig_exec(r, tzcnt, 4), STEP_NEXT);
    assert_int_equal(gpr[GPR_RAX], 32);
    gpr[GPR_RBX] = 0x100000;
    rig_put32(r, 0x100000, 0x100000);
    assert_int_equal(rig_exec(r, lzcnt, 4), STEP_NEXT);
    assert_int_equal(gpr[GPR_RAX], 11);
    forget_feature(r, 0x80000001, 2, 5);
    forget_feature(r, 7, 1, 3);
    assert_int_equal(rig_exec(r, lzcnt, 4), STEP_NEXT);
    assert_int_equal(gpr[GPR_RAX], 20);
    gpr[GPR_RAX] = 0;
    assert_int_equal(rig_exec(r, load, 4), STEP_NEXT);
    assert_int_equal(gpr[GPR_RAX], 20);
    gpr[GPR_RBX] = 0;
    gpr[GPR_RAX] = 77;
    assert_int_equal(rig_exec(r, tzcnt, 4), STEP_NEXT);
    assert_int_equal(gpr[GPR_RAX], 77); /* BSF of 0 leaves the destination */
    assert_true(r->e->cpu.rflags & RFLAGS_ZF);
    /* What KVM cannot hide is there all the same. */
    cpu_model_init(&r->model, CPU_PROFILE_KVM);
    code_arena_recycle(r->e->arena);
    assert_int_equal(rig_exec(r, tzcnt, 4), STEP_NEXT);
    assert_int_equal(gpr[GPR_RAX], 32);
    assert_int_equal(rig_exec(r, cases[0].bytes, cases[0].length), STEP_NEXT);
}

static void pae_checks_its_pdptes(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    rig_protected(r, 0);
    s->cr4 = CR4_PAE;
    s->cr3 = 0x20000;
    rig_put64(r, 0x20000 + 8, 0x21000 | 3); /* R/W is reserved here */
    GP0(write_cr0(r->e, s->cr0 | CR0_PG));
    rig_put64(r, 0x20000 + 8, 0x21000 | 2); /* not present: ignored */
    assert_int_equal(write_cr0(r->e, s->cr0 | CR0_PG), STEP_NEXT);
    rig_put64(r, 0x20020, 0x21000 | (uint64_t)1 << 63 | 1);
    GP0(write_cr3(r->e, 0x20020));
    rig_put64(r, 0x20020, 0x21000 | 1);
    assert_int_equal(write_cr3(r->e, 0x20020), STEP_NEXT);
    s->cr0 &= ~CR0_PG;
}

static void mov_cr_and_dr(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    rig_long(r, 0);
    s->cr2 = 0x1122334455667788;
    assert_int_equal(rig_exec(r, "\x0f\x20\xd0", 3), STEP_NEXT); /* mov rax, cr2 */
    assert_int_equal(s->gpr[GPR_RAX], 0x1122334455667788);
    s->gpr[GPR_RAX] = 0xf;
    assert_int_equal(rig_exec(r, "\x44\x0f\x22\xc0", 4), STEP_LEAVE); /* mov cr8, rax */
    assert_int_equal(s->cr8, 0xf);
    s->gpr[GPR_RAX] = 0x10;
    GP0(rig_exec(r, "\x44\x0f\x22\xc0", 4));
    rig_assert_fault(r, rig_exec(r, "\x0f\x20\xc8", 3), VEC_UD, -1); /* mov rax, cr1 */
    s->gpr[GPR_RAX] = 0xffffffff;
    assert_int_equal(rig_exec(r, "\x0f\x23\xf0", 3), STEP_LEAVE); /* mov dr6, rax */
    assert_int_equal(s->dr6, 0xffffefff);
    assert_int_equal(rig_exec(r, "\x0f\x23\xe8", 3), STEP_LEAVE); /* mov dr5 = dr7 */
    assert_int_equal(s->dr7, 0xffff27ff);
    s->dr7 = DR7_FIXED;
    s->cr4 |= CR4_DE;
    rig_assert_fault(r, rig_exec(r, "\x0f\x23\xe8", 3), VEC_UD, -1);
    s->gpr[GPR_RAX] = 0x100000000;
    GP0(rig_exec(r, "\x0f\x23\xf8", 3));
    assert_int_equal(rig_exec(r, "\x0f\x23\xd8", 3), STEP_LEAVE); /* mov dr3, rax */
    assert_int_equal(s->dr[3], 0x100000000);
    s->cr0 |= CR0_TS;
    assert_int_equal(rig_exec(r, "\x0f\x06", 2), STEP_LEAVE); /* clts */
    assert_false(s->cr0 & CR0_TS);
    s->gpr[GPR_RAX] = 0xe; /* lmsw sets MP, EM, TS; PE stays */
    assert_int_equal(rig_exec(r, "\x0f\x01\xf0", 3), STEP_LEAVE);
    assert_int_equal(s->cr0 & 0xf, 0xf);
}

static void clac_and_stac_are_for_the_supervisor(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    assert_int_equal(rig_exec(r, "\x0f\x01\xcb", 3), STEP_LEAVE); /* stac, in real mode */
    assert_true(s->rflags & RFLAGS_AC);
    rig_long(r, 0);
    s->cr4 |= CR4_SMAP;
    s->rflags &= ~RFLAGS_AC;
    assert_int_equal(rig_exec(r, "\x0f\x01\xcb", 3), STEP_LEAVE);
    assert_true(s->rflags & RFLAGS_AC);
    assert_int_equal(rig_exec(r, "\x0f\x01\xca", 3), STEP_LEAVE); /* clac */
    assert_false(s->rflags & RFLAGS_AC);
    rig_long(r, 3);
    rig_assert_fault(r, rig_exec(r, "\x0f\x01\xcb", 3), VEC_UD, -1);
    rig_assert_fault(r, rig_exec(r, "\x0f\x01\xca", 3), VEC_UD, -1);
    assert_false(s->rflags & RFLAGS_AC);
}

static void privileged_instructions_fault_at_cpl_3(void **state)
{
    static const struct {
        const char *bytes;
        unsigned length;
    } list[] = {
        {"\x0f\x20\xc0", 3},
        {"\x0f\x22\xc0", 3},
        {"\x0f\x21\xc0", 3},
        {"\x0f\x23\xc0", 3},
        {"\x0f\x06", 2},
        {"\x0f\x01\x38", 3},
        {"\x0f\x09", 2},
        {"\x0f\x08", 2},
        {"\x0f\x32", 2},
        {"\x0f\x30", 2},
        {"\x0f\x01\xf8", 3},
        {"\x0f\x01\x10", 3},
        {"\x0f\x01\x18", 3},
        {"\x0f\x00\xd0", 3},
        {"\x0f\x00\xd8", 3},
        {"\x0f\x01\xf0", 3},
        {"\x66\x0f\x38\x82\x00", 5},
        {"\x44\x0f\x20\xc0", 4},
    };
    struct rig *r = *state;
    rig_long(r, 3);
    r->e->cpu.gpr[GPR_RAX] = 0x100000;
    for (unsigned i = 0; i < ARRAY_LEN(list); i++) {
        struct vcpu_state before = r->e->cpu;
        bool invpcid = list[i].length == 5;
        enum step step = rig_exec(r, list[i].bytes, list[i].length);
        if (invpcid && !cpu_model_has(&r->model, CPU_FEATURE_LEAF7_EBX + 10))
            rig_assert_fault(r, step, VEC_UD, -1);
        else
            GP0(step);
        assert_memory_equal(&before, &r->e->cpu, sizeof(before));
    }
}

static void virtualization_and_smm_do_not_exist(void **state)
{
    static const struct {
        const char *bytes;
        unsigned length;
    } list[] = {
        {"\x0f\x01\xc1", 3},   {"\x0f\x01\xd9", 3}, {"\x0f\x01\xc2", 3}, {"\x0f\xaa", 2}, {"\x0f\x01\xd8", 3},
        {"\x0f\x78\xc0\0", 5}, {"\x0f\x01\xdc", 3}, {"\x0f\xc7\x30", 3}, {"\x0f\x37", 2},
    };
    struct rig *r = *state;
    rig_long(r, 0);
    for (unsigned i = 0; i < ARRAY_LEN(list); i++)
        rig_assert_fault(r, rig_exec(r, list[i].bytes, list[i].length), VEC_UD, -1);
}

static void invlpg_never_faults(void **state)
{
    struct rig *r = *state;
    rig_long(r, 0);
    r->e->cpu.gpr[GPR_RAX] = 0x800000000000;
    assert_int_equal(rig_exec(r, "\x0f\x01\x38", 3), STEP_NEXT);
    r->e->cpu.gpr[GPR_RAX] = 0x7fff00000000;
    assert_int_equal(rig_exec(r, "\x0f\x01\x38", 3), STEP_NEXT);
}

static void cpuid_swapgs_and_segment_bases(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    uint32_t want[4];
    rig_long(r, 0);
    cpu_model_cpuid(&r->model, 1, 0, s->cr4, s->xcr0, want);
    s->gpr[GPR_RAX] = 0xffffffff00000001;
    s->gpr[GPR_RBX] = UINT64_MAX;
    s->gpr[GPR_RCX] = 0;
    assert_int_equal(rig_exec(r, "\x0f\xa2", 2), STEP_NEXT);
    assert_int_equal(s->gpr[GPR_RAX], want[0]);
    assert_int_equal(s->gpr[GPR_RBX], want[1]);
    assert_int_equal(s->gpr[GPR_RCX], want[2]);
    assert_int_equal(s->gpr[GPR_RDX], want[3]);
    s->seg[SEG_GS].base = 0x1111;
    s->kernel_gs_base = 0xffff800000002222;
    assert_int_equal(rig_exec(r, "\x0f\x01\xf8", 3), STEP_NEXT);
    assert_int_equal(s->seg[SEG_GS].base, 0xffff800000002222);
    assert_int_equal(s->kernel_gs_base, 0x1111);
    rig_assert_fault(r, rig_exec(r, "\xf3\x48\x0f\xae\xc8", 5), VEC_UD,
                     -1); /* rdgsbase rax, CR4.FSGSBASE = 0 */
    s->cr4 |= CR4_FSGSBASE;
    assert_int_equal(rig_exec(r, "\xf3\x48\x0f\xae\xc8", 5), STEP_NEXT);
    assert_int_equal(s->gpr[GPR_RAX], 0xffff800000002222);
    assert_int_equal(rig_exec(r, "\xf3\x0f\xae\xd0", 4), STEP_NEXT); /* wrfsbase eax */
    assert_int_equal(s->seg[SEG_FS].base, 0x2222);
    s->gpr[GPR_RAX] = 0x800000000000;
    GP0(rig_exec(r, "\xf3\x48\x0f\xae\xd0", 5));
    assert_int_equal(s->seg[SEG_FS].base, 0x2222);
}

/* ---- MSRs ---- */

static enum step wrmsr(struct rig *r, uint32_t index, uint64_t value)
{
    r->e->cpu.gpr[GPR_RCX] = index | 0xabcd00000000;
    r->e->cpu.gpr[GPR_RAX] = (uint32_t)value | 0xdead00000000;
    r->e->cpu.gpr[GPR_RDX] = value >> 32;
    return rig_exec(r, "\x0f\x30", 2);
}

static enum step rdmsr(struct rig *r, uint32_t index, uint64_t *value)
{
    r->e->cpu.gpr[GPR_RCX] = index;
    enum step step = rig_exec(r, "\x0f\x32", 2);
    *value = r->e->cpu.gpr[GPR_RDX] << 32 | r->e->cpu.gpr[GPR_RAX];
    return step;
}

static void msrs_of_the_state_check_and_keep(void **state)
{
    static const struct {
        uint32_t index;
        uint64_t value;
        bool ok;
        uint64_t reads; /* with ok */
    } cases[] = {
        {0xc0000081, UINT64_MAX, true, UINT64_MAX},
        {0xc0000082, 0xffff800000000000, true, 0xffff800000000000},
        {0xc0000082, 0x800000000000, false, 0},
        {0xc0000083, 0x800000000000, false, 0},
        {0xc0000084, 0xffffffff00000300, true, 0x300},
        {0xc0000100, 0x7fffffffffff, true, 0x7fffffffffff},
        {0xc0000100, 0xffff7fffffffffff, false, 0},
        {0xc0000101, 0x1234, true, 0x1234},
        {0xc0000102, 0x800000000000, false, 0},
        {0xc0000103, 0x7700000007, true, 7},
        {0x174, 0x100000008, true, 8},
        {0x175, 0xffff800000000000, true, 0xffff800000000000},
        {0x176, 0x800000000000, false, 0},
        {0x277, 0x0007040600070406, true, 0x0007040600070406},
        {0x277, 0x0007040600070402, false, 0},
        {0x277, 0x0807040600070406, false, 0},
        {0x1b, 0xfee00900, true, 0xfee00900},
        {0x1b, 0xfee00901, false, 0},
        {0xc0000080, EFER_LME | EFER_SCE, true, EFER_LME | EFER_LMA | EFER_SCE},
        {0xc0000080, EFER_SCE, false, 0},
        {0xc0000080, EFER_LME | 0x1000, false, 0},
    };
    struct rig *r = *state;
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        uint64_t before, after;
        rig_long(r, 0);
        assert_int_equal(rdmsr(r, cases[i].index, &before), STEP_NEXT);
        enum step step = wrmsr(r, cases[i].index, cases[i].value);
        if (cases[i].ok)
            assert_int_equal(step, STEP_LEAVE);
        else
            GP0(step);
        assert_int_equal(rdmsr(r, cases[i].index, &after), STEP_NEXT);
        assert_int_equal(after, cases[i].ok ? cases[i].reads : before);
    }
    assert_int_equal(r->crossings, 0);
}

static void other_msrs_cross_the_boundary(void **state)
{
    struct rig *r = *state;
    uint64_t value;
    rig_long(r, 0);
    assert_int_equal(rdmsr(r, 0x10, &value), STEP_NEXT);
    assert_int_equal(value, 0x1122334455667788);
    assert_int_equal(r->crossing[0].kind, 't');
    assert_int_equal(r->crossing[0].address, SOURCE_RDTSC);
    assert_int_equal(rdmsr(r, 0xc0010015, &value), STEP_NEXT);
    assert_int_equal(value, 0xaabbccddc0010015);
    assert_int_equal(wrmsr(r, 0x10, 0x1234), STEP_LEAVE);
    assert_int_equal(r->crossing[2].kind, 'M');
    assert_int_equal(r->crossing[2].address, 0x10);
    assert_int_equal(r->crossing[2].value, 0x1234);
    r->msr_known = false;
    struct vcpu_state before = r->e->cpu;
    r->e->cpu.gpr[GPR_RCX] = before.gpr[GPR_RCX] = 0xc0010015;
    GP0(rig_exec(r, "\x0f\x32", 2));
    assert_memory_equal(&before, &r->e->cpu, sizeof(before));
    GP0(rig_exec(r, "\x0f\x30", 2));
    r->msr_known = true;
    r->fail_at = r->crossings;
    r->answer = -5;
    assert_int_equal(rig_exec(r, "\x0f\x32", 2), STEP_STOP);
    assert_memory_equal(&before, &r->e->cpu, sizeof(before));
    assert_int_equal(r->e->stop_reason, ENGINE_STOP_BOUNDARY);
    r->fail_at = r->crossings;
    r->answer = BOUNDARY_STOP;
    assert_int_equal(rig_exec(r, "\x0f\x32", 2), STEP_NEXT);
    assert_true(r->e->boundary_stop);
}

/* CR8 and the local APIC's TPR are one register (SDM 3, 10.8.6.1), where there is a local APIC that is on. */
static void a_write_to_tpr_is_a_write_to_cr8(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    cpu_model_add_local_apic(&r->model);
    r->e->has_local_apic = true;
    rig_protected(r, 0);
    s->apic_base = 0xfee00000 | APIC_BASE_ENABLE;
    s->gpr[GPR_RBX] = 0xfee00080;
    s->gpr[GPR_RAX] = 0x57;
    assert_int_equal(rig_exec(r, "\x89\x03", 2), STEP_NEXT); /* mov [ebx], eax */
    assert_int_equal(s->cr8, 5);
    assert_int_equal(r->crossing[0].value, 0x57);
    s->gpr[GPR_RAX] = 0x20;
    s->gpr[GPR_RBX] = 0xfee000b0; /* EOI */
    rig_exec(r, "\x89\x03", 2);
    s->gpr[GPR_RBX] = 0xfee00080;
    rig_exec(r, "\x88\x03", 2); /* mov [ebx], al: not an access of 32 bits */
    s->apic_base = 0xfee00000;
    rig_exec(r, "\x89\x03", 2); /* off */
    assert_int_equal(s->cr8, 5);
    s->apic_base = 0xfed00000 | APIC_BASE_ENABLE;
    rig_exec(r, "\x89\x03", 2); /* elsewhere */
    assert_int_equal(s->cr8, 5);
    s->gpr[GPR_RBX] = 0xfed00080;
    r->answer = -EIO;
    r->fail_at = r->crossings;
    assert_int_equal(rig_exec(r, "\x89\x03", 2), STEP_STOP); /* not executed */
    assert_int_equal(s->cr8, 5);
    rig_exec(r, "\x89\x03", 2);
    assert_int_equal(s->cr8, 2);
}

static void cpuid_shows_no_apic_while_it_is_off(void **state)
{
    struct rig *r = *state;
    struct vcpu_state *s = &r->e->cpu;
    cpu_model_add_local_apic(&r->model);
    for (unsigned i = 0; i < 4; i++) {
        uint32_t leaf = i & 1 ? 0x80000001 : 1;
        s->apic_base = 0xfee00100 | (i & 2 ? APIC_BASE_ENABLE : 0);
        s->gpr[GPR_RAX] = leaf;
        assert_int_equal(rig_exec(r, "\x0f\xa2", 2), STEP_NEXT); /* cpuid */
        assert_int_equal(s->gpr[GPR_RDX] >> 9 & 1, i >> 1);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_write_to_tpr_is_a_write_to_cr8),
        TEST(cpuid_shows_no_apic_while_it_is_off),
        TEST(cr0_checks_and_mode_switches),
        TEST(wp_smap_and_paging_change_what_the_tlb_allows),
        TEST(cr3_and_cr4_checks),
        TEST(a_model_that_only_hides_features_has_the_cr4_bits_of_every_cpu),
        TEST(instructions_come_with_their_cpuid_bits),
        TEST(pae_checks_its_pdptes),
        TEST(mov_cr_and_dr),
        TEST(clac_and_stac_are_for_the_supervisor),
        TEST(privileged_instructions_fault_at_cpl_3),
        TEST(virtualization_and_smm_do_not_exist),
        TEST(invlpg_never_faults),
        TEST(cpuid_swapgs_and_segment_bases),
        TEST(msrs_of_the_state_check_and_keep),
        TEST(other_msrs_cross_the_boundary),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
