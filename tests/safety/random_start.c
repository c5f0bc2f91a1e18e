/* Random vCPU states in every mode, and random code. */
#include <stdlib.h>
#include <string.h>

#include "tests/safety/safety.h"

enum {
    GDT = 0x1000,
    IDT = 0x2000,
    TSS = 0x3000,
    PML4 = 0x4000,
    PDPT = 0x5000,
    PD = 0x6000,
    PT = 0x7000,
    PD_PSE = 0x8000,
    PDPT_PAE = 0x9000,
    STACK = 0x30000,
};

#define PTE_PW  3u
#define PTE_PWU 7u
#define PTE_PS  0x80u

static uint64_t below(struct isa_random *r, uint64_t n)
{
    return isa_random(r) % n;
}

static bool one_in(struct isa_random *r, unsigned n)
{
    return below(r, n) == 0;
}

const char *start_mode_name(enum start_mode mode)
{
    static const char *const names[MODE_COUNT] = {"real mode",
                                                  "unreal mode",
                                                  "virtual-8086 mode",
                                                  "16-bit code",
                                                  "32-bit code without paging",
                                                  "32-bit code",
                                                  "32-bit code with PAE",
                                                  "compatibility mode",
                                                  "64-bit code"};
    return names[mode];
}

/* ---- code ---- */

/* Valid instructions, made once: making one takes longer than a start. */
#define POOL_COUNT 16384u

struct start_pool {
    uint8_t length[2][POOL_COUNT]; /* of instructions for [long mode] */
    uint8_t bytes[2][POOL_COUNT][15];
};

struct start_pool *start_pool_create(void)
{
    struct start_pool *pool = calloc(1, sizeof *pool);
    struct isa_random r = {.s = 20261120};
    for (unsigned mode = 0; pool && mode < 2; mode++) {
        struct isa_forms *forms = isa_forms_create(mode == 1);
        struct vcpu_state base;
        struct isa_case c;
        if (!forms) {
            free(pool);
            return NULL;
        }
        guest_base_state(mode == 1, &base);
        for (unsigned i = 0; i < POOL_COUNT; i++) {
            unsigned form = isa_below(&r, forms->count);
            if (!isa_generate(&r, forms, form, PLACE_RANDOM, &base, &c) ||
                c.length > sizeof pool->bytes[0][0])
                c.length = isa_template_bytes(&forms->form[form].how, mode == 1, c.bytes);
            pool->length[mode][i] = (uint8_t)c.length;
            memcpy(pool->bytes[mode][i], c.bytes, c.length);
        }
        isa_forms_destroy(forms);
    }
    return pool;
}

static unsigned put_valid(struct isa_random *r, const struct start_pool *pool, bool long_mode, uint8_t *out)
{
    uint64_t k = below(r, POOL_COUNT);
    unsigned length = pool->length[long_mode][k];
    memcpy(out, pool->bytes[long_mode][k], length);
    return length;
}

/* Beginnings of what a random byte string seldom is. */
static unsigned put_system(struct isa_random *r, uint8_t *out)
{
    static const uint8_t opcodes[][3] = {
        {1, 0x05}, {1, 0x07}, {1, 0x34}, {1, 0x35}, {1, 0x30}, {1, 0x32}, {1, 0x33}, {1, 0x31}, {1, 0xa2},
        {1, 0x01}, {1, 0x00}, {1, 0x20}, {1, 0x22}, {1, 0x21}, {1, 0x23}, {1, 0xae}, {1, 0xc7}, {1, 0x09},
        {1, 0x08}, {1, 0x0b}, {1, 0xb9}, {1, 0xff}, {1, 0x06}, {1, 0x02}, {1, 0x03}, {1, 0xb2}, {1, 0xa0},
        {0, 0xcd}, {0, 0xcc}, {0, 0xce}, {0, 0xcf}, {0, 0xf4}, {0, 0xfa}, {0, 0xfb}, {0, 0xe4}, {0, 0xe7},
        {0, 0xec}, {0, 0xef}, {0, 0x6c}, {0, 0x6f}, {0, 0x9a}, {0, 0xea}, {0, 0xca}, {0, 0xcb}, {0, 0x8e},
        {0, 0x9d}, {0, 0xc4}, {0, 0xc5}, {0, 0x62}, {0, 0xff}, {0, 0xc8}, {0, 0xa4}, {0, 0xab}, {0, 0xd9},
        {0, 0xdb}, {0, 0xdd}, {0, 0xdf}, {0, 0xf1}, {0, 0x9b}, {0, 0xc3}, {0, 0xe8}, {0, 0xe2}, {0, 0xd7},
    };
    unsigned k = (unsigned)below(r, sizeof opcodes / sizeof *opcodes), n = 0;
    static const uint8_t prefixes[] = {0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e,
                                       0x36, 0x26, 0x64, 0x65, 0x48, 0x41};
    while (one_in(r, 3) && n < 4)
        out[n++] = prefixes[below(r, sizeof prefixes)];
    if (opcodes[k][0])
        out[n++] = 0x0f;
    out[n++] = opcodes[k][1];
    for (uint64_t rest = below(r, 7); rest > 0; rest--)
        out[n++] = (uint8_t)isa_random(r);
    return n;
}

static void make_code(struct isa_random *r, const struct start_pool *pool, struct start *s)
{
    unsigned n = 0;
    while (n + 16 <= START_CODE_MAX) {
        uint8_t *out = s->code + n;
        unsigned length;
        switch (below(r, 4)) {
        case 0:
            length = 1 + (unsigned)below(r, 15);
            for (unsigned i = 0; i < length; i++)
                out[i] = (uint8_t)isa_random(r);
            break;
        case 1:
            length = put_system(r, out);
            break;
        default:
            length = put_valid(r, pool, s->mode == MODE_64BIT, out);
            for (uint64_t flips = below(r, 3); flips > 0; flips--)
                out[below(r, length)] ^= (uint8_t)(1u << below(r, 8));
            break;
        }
        n += length;
    }
    s->code_length = n;
    s->code_offset = SAFETY_CODE + below(r, 0x1000);
    if (one_in(r, 16)) /* where RAM ends, and the guard begins */
        s->code_offset = SAFETY_RAM_BYTES - 1 - below(r, START_CODE_MAX);
}

/* ---- state ---- */

static uint64_t random_pointer(struct isa_random *r)
{
    switch (below(r, 8)) {
    case 0:
        return isa_random(r);
    case 1:
        return SAFETY_RAM_BYTES - 64 + below(r, 128);
    case 2:
        return below(r, 64);
    case 3:
        return (uint64_t)0 - below(r, 128);
    case 4:
        return 0x00007fffffffff80ull + below(r, 256);
    case 5:
        return 0x40000 + 0x1000 * below(r, 16) - below(r, 32);
    default:
        return below(r, SAFETY_RAM_BYTES);
    }
}

static uint64_t canonical(uint64_t address)
{
    return (uint64_t)((int64_t)(address << 16) >> 16);
}

static void random_fpu(struct isa_random *r, struct fpu_state *f, uint32_t mxcsr_mask)
{
    for (unsigned i = 0; i < sizeof f->ymm / 8; i++) {
        uint64_t v = isa_random(r);
        memcpy((uint8_t *)f->ymm + 8 * i, &v, 8);
    }
    for (unsigned i = 0; i < 8; i++) {
        uint64_t v = isa_random(r);
        memcpy(f->st[i], &v, 8);
        v = isa_random(r);
        memcpy(f->st[i] + 8, &v, 2);
    }
    f->fcw = one_in(r, 2) ? FCW_DEFAULT : (uint16_t)isa_random(r);
    f->fsw = one_in(r, 2) ? 0 : (uint16_t)isa_random(r);
    f->ftw = (uint8_t)isa_random(r);
    f->fop = (uint16_t)isa_random(r) & 0x7ff;
    f->fip = isa_random(r);
    f->fdp = isa_random(r);
    f->mxcsr = one_in(r, 2) ? MXCSR_DEFAULT : (uint32_t)isa_random(r) & mxcsr_mask;
}

static void random_registers(struct isa_random *r, struct start *s, uint32_t mxcsr_mask)
{
    struct vcpu_state *v = &s->state;
    for (unsigned i = 0; i < GPR_COUNT; i++)
        v->gpr[i] = random_pointer(r);
    if (one_in(r, 2))
        v->gpr[GPR_RCX] = below(r, 40);
    if (!one_in(r, 8))
        v->gpr[GPR_RSP] = STACK + below(r, 0x1000);
    v->rflags = RFLAGS_FIXED | (isa_random(r) & (RFLAGS_STATUS | RFLAGS_IF | RFLAGS_DF | RFLAGS_IOPL |
                                                 RFLAGS_NT | RFLAGS_AC | RFLAGS_RF | RFLAGS_ID));
    if (one_in(r, 16))
        v->rflags |= RFLAGS_TF;
    for (unsigned i = 0; i < 4; i++)
        v->dr[i] = one_in(r, 2) ? random_pointer(r) : s->code_offset + below(r, 16);
    if (one_in(r, 16))
        v->dr7 = DR7_FIXED | (isa_random(r) & 0xffff23ff);
    random_fpu(r, &v->fpu, mxcsr_mask);
    v->gdtr = (struct descriptor_table){GDT, one_in(r, 8) ? (uint16_t)isa_random(r) : 0xff};
    v->idtr = (struct descriptor_table){IDT, one_in(r, 8) ? (uint16_t)isa_random(r) : 0xfff};
    if (one_in(r, 16))
        v->idtr.base = canonical(random_pointer(r));
    if (one_in(r, 16))
        v->gdtr.base = canonical(random_pointer(r));
    v->tr = (struct segment){
        .selector = 0x40, .base = TSS, .limit = one_in(r, 4) ? 0x2067 : 0x67, .rights = 0x8b};
    v->lstar = v->cstar = SAFETY_CODE + below(r, 64);
    v->star = (0x1bull << 48 | 0x08ull << 32) ^ (one_in(r, 8) ? isa_random(r) : 0);
    v->sfmask = (uint32_t)isa_random(r);
    v->sysenter_cs = one_in(r, 4) ? 0 : 8;
    v->sysenter_esp = canonical(random_pointer(r));
    v->sysenter_eip = SAFETY_CODE + below(r, 64);
    v->kernel_gs_base = below(r, SAFETY_RAM_BYTES);
    v->shadow = one_in(r, 16) ? (uint8_t)below(r, 3) : SHADOW_NONE;
    v->nmi_blocked = one_in(r, 16);
    v->pending_debug = one_in(r, 64) ? (uint8_t)(isa_random(r) & 0x4f) : 0;
}

/* A data segment: mostly flat, sometimes anything that a descriptor can say. */
static void random_data_segment(struct isa_random *r, struct segment *s, unsigned cpl)
{
    *s =
        (struct segment){.selector = cpl ? 0x2b : 0x10, .limit = 0xffffffff, .rights = cpl ? 0xc0f3 : 0xc093};
    if (!one_in(r, 6))
        return;
    s->base = (uint32_t)random_pointer(r);
    s->limit = one_in(r, 2) ? (uint32_t)random_pointer(r) : (uint32_t)below(r, 0x10000);
    s->rights = (uint16_t)((isa_random(r) & 0xc09f) | 0x10);
}

static void protected_segments(struct isa_random *r, struct start *s)
{
    struct vcpu_state *v = &s->state;
    unsigned cpl = one_in(r, 2) ? 3 : 0;
    bool wide = s->mode == MODE_64BIT;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        random_data_segment(r, &v->seg[i], cpl);
    for (unsigned i = SEG_FS; i <= SEG_GS && (wide || s->mode == MODE_COMPATIBILITY); i++)
        v->seg[i].base = one_in(r, 2) ? 0 : canonical(random_pointer(r));
    uint16_t type = one_in(r, 4) ? 0xf : 0xb;
    uint16_t size = wide ? 0xa000 : s->mode == MODE_16BIT ? 0x8000 : 0xc000;
    v->seg[SEG_CS] = (struct segment){.selector = cpl ? 0x33 : 0x08,
                                      .limit = 0xffffffff,
                                      .rights = (uint16_t)(size | 0x90 | type | cpl << 5)};
    if (!wide && one_in(r, 8))
        v->seg[SEG_CS].limit = (uint32_t)(s->code_offset + below(r, START_CODE_MAX));
    uint16_t stack_size = one_in(r, 4) ? 0x8000 : 0xc000;
    v->seg[SEG_SS] =
        (struct segment){.selector = cpl ? 0x2b : 0x10,
                         .limit = wide || !one_in(r, 8) ? 0xffffffff : (uint32_t)below(r, 0x40000),
                         .rights = (uint16_t)(stack_size | 0x93 | cpl << 5)};
    v->rip = s->code_offset;
}

static void real_segments(struct isa_random *r, struct start *s)
{
    struct vcpu_state *v = &s->state;
    bool virtual_8086 = s->mode == MODE_VIRTUAL_8086;
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        uint16_t selector = (uint16_t)below(r, 0x10000);
        uint32_t limit = s->mode == MODE_UNREAL && one_in(r, 2) ? 0xffffffff : 0xffff;
        v->seg[i] = (struct segment){.selector = selector,
                                     .base = (uint64_t)selector << 4,
                                     .limit = limit,
                                     .rights = virtual_8086 ? 0xf3 : 0x93};
    }
    v->seg[SEG_CS].selector = (uint16_t)((s->code_offset & ~0xfffull) >> 4);
    v->seg[SEG_CS].base = s->code_offset & ~0xfffull;
    v->seg[SEG_SS].selector = STACK >> 4;
    v->seg[SEG_SS].base = STACK;
    v->rip = s->code_offset & 0xfff;
    if (virtual_8086)
        v->rflags |= RFLAGS_VM;
    if (one_in(r, 4) && !virtual_8086)
        v->idtr = (struct descriptor_table){0, 0x3ff};
}

static void control_registers(struct isa_random *r, struct start *s)
{
    struct vcpu_state *v = &s->state;
    bool protected_mode = s->mode > MODE_UNREAL, long_mode = s->mode >= MODE_COMPATIBILITY;
    bool paging = s->mode >= MODE_32BIT_PSE;
    v->cr0 = CR0_ET | (protected_mode ? CR0_PE : 0) | (paging ? CR0_PG : 0);
    v->cr0 |= isa_random(r) & (CR0_WP | CR0_AM | CR0_NE | CR0_MP);
    if (one_in(r, 16))
        v->cr0 |= isa_random(r) & (CR0_TS | CR0_EM);
    v->cr4 = isa_random(r) &
             (CR4_TSD | CR4_DE | CR4_PGE | CR4_PCE | CR4_UMIP | CR4_FSGSBASE | CR4_SMEP | CR4_SMAP);
    if (!one_in(r, 8))
        v->cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT;
    if (vcpu_cpl(v) == 3 && !one_in(r, 4)) /* handlers run on pages that are the user's */
        v->cr4 &= ~(CR4_SMEP | CR4_SMAP);
    v->xcr0 = 1;
    if (!one_in(r, 4)) {
        v->cr4 |= CR4_OSXSAVE;
        v->xcr0 = one_in(r, 4) ? 1 : 7;
    }
    if (s->mode == MODE_32BIT_PSE)
        v->cr4 |= CR4_PSE;
    if (s->mode == MODE_32BIT_PAE || long_mode)
        v->cr4 |= CR4_PAE;
    if (long_mode && one_in(r, 4))
        v->cr4 |= CR4_PCIDE;
    v->efer = (long_mode ? EFER_LME | EFER_LMA : 0) | (isa_random(r) & (EFER_SCE | EFER_NXE));
    v->cr3 = long_mode ? PML4 : s->mode == MODE_32BIT_PAE ? PDPT_PAE : PD_PSE;
    if (one_in(r, 64))
        v->cr3 = random_pointer(r) & 0xfffffff000;
}

void start_generate(struct start *s, const struct start_pool *pool, uint64_t seed, uint32_t mxcsr_mask)
{
    struct isa_random r = {.s = seed};
    r.s = isa_random(&r);
    memset(s, 0, sizeof *s);
    s->seed = seed;
    s->mode = (enum start_mode)below(&r, MODE_COUNT);
    s->steps = 1 + (unsigned)below(&r, START_STEPS_MAX);
    vcpu_state_reset(&s->state);
    make_code(&r, pool, s);
    random_registers(&r, s, mxcsr_mask);
    if (s->mode <= MODE_VIRTUAL_8086)
        real_segments(&r, s);
    else
        protected_segments(&r, s);
    control_registers(&r, s);
}

/* ---- memory ---- */

static void put64(uint8_t *ram, uint64_t at, uint64_t value)
{
    memcpy(ram + at, &value, 8);
}

/* Pages are the user's where user code runs, or else (mostly) such that the supervisor may use them. */
static void place_page_tables(struct isa_random *r, const struct vcpu_state *v, uint8_t *ram)
{
    bool guarded = v->cr4 & (CR4_SMEP | CR4_SMAP);
    uint64_t rights = vcpu_cpl(v) == 3 || !guarded || one_in(r, 4) ? PTE_PWU : PTE_PW;
    memset(ram + PML4, 0, 0x6000);
    put64(ram, PML4, PDPT | PTE_PWU);
    put64(ram, PML4 + 8 * 511, PDPT | PTE_PWU);
    put64(ram, PDPT, PD | PTE_PWU);
    put64(ram, PDPT_PAE, PD | 1);
    put64(ram, PD, PT | PTE_PWU);
    put64(ram, PD + 8, rights | PTE_PS);
    for (unsigned i = 0; i < 512; i++)
        put64(ram, PT + 8 * i, (uint64_t)i << 12 | rights);
    for (unsigned i = 0; i < 512; i++)
        memcpy(ram + PD_PSE + 4 * i, &(uint32_t){i << 22 | (uint32_t)rights | PTE_PS}, 4);
    /* Absent, read-only, supervisor, elsewhere, with reserved bits. Code and tables are hit seldom. */
    for (uint64_t n = below(r, 24); n > 0; n--) {
        uint64_t page = below(r, 256);
        bool vital = page < 0x30;
        if (vital && !one_in(r, 16))
            continue;
        uint64_t entry =
            one_in(r, 4) ? isa_random(r) : below(r, 0x200) << 12 | (isa_random(r) & 0x8000000000000067);
        put64(ram, PT + 8 * page, entry);
    }
    if (one_in(r, 16))
        put64(ram, PDPT + 8 * below(r, 4), isa_random(r));
}

static void place_descriptors(struct isa_random *r, bool long_mode, bool real_mode, uint8_t *ram)
{
    static const uint64_t descriptors[] = {0,
                                           0x00af9b000000ffffull,
                                           0x00cf93000000ffffull,
                                           0x00cf9b000000ffffull,
                                           0x00cffb000000ffffull,
                                           0x00cff3000000ffffull,
                                           0x00affb000000ffffull,
                                           0x00009b000000ffffull};
    for (unsigned i = 0; i < 32; i++) {
        uint64_t d = isa_random(r);
        put64(ram, GDT + 8 * i, i < 8 ? descriptors[i] : d);
    }
    for (unsigned i = 0; i < 512; i++) {
        uint64_t handler = SAFETY_CODE + below(r, 64);
        uint64_t gate = (handler & 0xffff) | 0x08 << 16 | 0xee00ull << 32 | (handler >> 16) << 48;
        bool second_half = long_mode && i % 2;
        put64(ram, IDT + 8 * i, one_in(r, 64) ? isa_random(r) : second_half ? 0 : gate);
    }
    if (real_mode)
        for (unsigned i = 0; i < 256; i++)
            memcpy(ram + IDT + 4 * i, &(uint32_t){(SAFETY_CODE >> 4) << 16 | (uint32_t)below(r, 64)}, 4);
    /* ESP0, SS0 and following, or RSP0. */
    for (unsigned i = 4; i < 0x64; i += 8)
        put64(ram, TSS + i, (STACK + below(r, 0x2000)) | (long_mode ? 0 : 0x10ull << 32));
}

void start_place(const struct start *s, uint8_t *ram)
{
    struct isa_random r = {.s = ~s->seed};
    r.s = isa_random(&r);
    place_page_tables(&r, &s->state, ram);
    place_descriptors(&r, s->mode >= MODE_COMPATIBILITY, s->mode <= MODE_UNREAL, ram);
    uint64_t room = SAFETY_RAM_BYTES - s->code_offset;
    memcpy(ram + s->code_offset, s->code, s->code_length < room ? s->code_length : room);
}
