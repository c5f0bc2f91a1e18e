#include "tests/ring0/rig.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/kvm/kvm_engine.h"
#include "core/x86/emu.h"
#include "tests/stages.h"

#define STEPS_MAX  ((position_t)3000000)
#define TIMEOUT_NS 1500000000u

extern const uint8_t ring0_stubs64[], ring0_stubs32[], ring0_stubs32_gate16[], ring0_stubs16[];

/* ---- boundary ---- */

static struct ring0_guest *guest_of(struct boundary *b)
{
    return container_of(b, struct ring0_guest, boundary);
}

static int on_pio_read(struct boundary *b, position_t p, uint16_t port, unsigned size, uint32_t *value)
{
    (void)p, (void)port;
    *value = (uint32_t)guest_of(b)->answers++ & (size == 4 ? 0xffffffff : (1u << 8 * size) - 1);
    return BOUNDARY_OK;
}

static int on_pio_write(struct boundary *b, position_t p, uint16_t port, unsigned size, uint32_t value)
{
    (void)p, (void)size;
    struct ring0_guest *g = guest_of(b);
    if (port == PORT_IRQ)
        g->irq = (int)(value & 0xff);
    else if (port == PORT_NMI)
        g->nmis++;
    return port == PORT_IRQ || port == PORT_NMI ? BOUNDARY_STOP : BOUNDARY_OK;
}

static int on_mmio_read(struct boundary *b, position_t p, gpa_t gpa, unsigned size, uint64_t *value)
{
    (void)b, (void)p, (void)gpa;
    *value = size == 8 ? ~0ull : (1ull << 8 * size) - 1;
    return BOUNDARY_OK;
}

static int on_mmio_write(struct boundary *b, position_t p, gpa_t gpa, unsigned size, uint64_t value)
{
    (void)b, (void)p, (void)gpa, (void)size, (void)value;
    return BOUNDARY_OK;
}

static int on_cpu_read(struct boundary *b, position_t p, enum boundary_source source, uint32_t argument,
                       uint64_t *value, bool *valid)
{
    (void)p, (void)source, (void)argument;
    *value = guest_of(b)->answers++;
    *valid = true;
    return BOUNDARY_OK;
}

static int on_msr_read(struct boundary *b, position_t p, uint32_t index, uint64_t *value, bool *known)
{
    (void)b, (void)p, (void)index;
    *value = 0;
    *known = false;
    return BOUNDARY_OK;
}

static int on_msr_write(struct boundary *b, position_t p, uint32_t index, uint64_t value, bool *known)
{
    (void)b, (void)p, (void)index, (void)value;
    *known = false;
    return BOUNDARY_OK;
}

static int on_halted(struct boundary *b, position_t p)
{
    (void)b, (void)p;
    return BOUNDARY_OK;
}

static const struct boundary_ops boundary_ops = {
    .pio_read = on_pio_read,
    .pio_write = on_pio_write,
    .mmio_read = on_mmio_read,
    .mmio_write = on_mmio_write,
    .cpu_read = on_cpu_read,
    .msr_read = on_msr_read,
    .msr_write = on_msr_write,
    .halted = on_halted,
};

/* ---- what RAM starts as ---- */

static void put(struct guest_ram *ram, gpa_t gpa, uint64_t value, size_t length)
{
    assert_int_equal(ram_write(ram, gpa, &value, length), 0);
}

static void put_descriptor(struct guest_ram *ram, unsigned selector, uint64_t base, uint32_t limit,
                           unsigned access, unsigned flags)
{
    uint64_t low = (limit & 0xffff) | (base & 0xffffff) << 16 | (uint64_t)access << 40 |
                   (uint64_t)(limit & 0xf0000) << 32 | (uint64_t)flags << 52 | (base & 0xff000000) << 32;
    put(ram, GDT + (selector & 0xfff8u), low, 8);
}

enum { G = 8, DB = 4, L = 2 };

static void put_gdt(struct guest_ram *ram, uint64_t start)
{
    const struct {
        unsigned selector;
        uint64_t base;
        uint32_t limit;
        unsigned access, flags;
    } list[] = {
        {KCODE64, 0, 0xfffff, 0x9b, G | L},
        {KDATA, 0, 0xfffff, 0x93, G | DB},
        {UCODE32, 0, 0xfffff, 0xfb, G | DB},
        {UDATA, 0, 0xfffff, 0xf3, G | DB},
        {UCODE64, 0, 0xfffff, 0xfb, G | L},
        {KCODE32, 0, 0xfffff, 0x9b, G | DB},
        {KCODE16, start, 0xffff, 0x9b, 0},
        {KDATA16, 0, 0xffff, 0x93, 0},
        {UCODE16, start, 0xffff, 0xfb, 0},
        {UDATA16, 0, 0xffff, 0xf3, 0},
        {SEL_TSS64, TSS64, 0x67, 0x8b, 0},
        {SEL_TSS32, TSS32, 0x200, 0x8b, 0},
        {SEL_TSS16, TSS16, 0x2b, 0x81, 0},
        {SEL_LDT, LDT, 0xff, 0x82, 0},
        {CODE1, 0, 0xfffff, 0xbb, G | DB},
        {DATA1, 0, 0xfffff, 0xb3, G | DB},
        {CODE1_64, 0, 0xfffff, 0xbb, G | L},
        {CONF32, 0, 0xfffff, 0x9f, G | DB},
        {CONF64, 0, 0xfffff, 0x9f, G | L},
        {NPCODE64, 0, 0xfffff, 0x1b, G | L},
        {NPDATA, 0, 0xfffff, 0x13, G | DB},
        {EXECONLY, 0, 0xfffff, 0x99, G | DB},
        {RODATA, 0, 0xfffff, 0x91, G | DB},
        {DOWN32, 0, 0, 0x97, G | DB},
        {DOWN16, 0, 0xfff, 0x97, 0},
        {LIMITED, DATA, 0xff, 0x93, DB},
        {BADCODE, 0, 0xfffff, 0x9b, G | DB | L},
        {KCODE32I, IMAGE_BASE, 0xfffff, 0x9b, G | DB},
        {CODE2, 0, 0xfffff, 0xdb, G | DB},
        {DATA2, 0, 0xfffff, 0xd3, G | DB},
        {NPCODE32, 0, 0xfffff, 0x1b, G | DB},
        {KDATA16I, KSTACK_BOTTOM, 0xffff, 0x93, 0},
        {SEL_TSS32_OTHER, TSS32_OTHER, 0x67, 0x89, 0},
        {SEL_TSS16_OTHER, TSS16_OTHER, 0x2b, 0x81, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(list); i++)
        put_descriptor(ram, list[i].selector, list[i].base, list[i].limit, list[i].access, list[i].flags);
    put(ram, LDT + (LDT_DATA & 0xf8), 0x00cf93000000ffff, 8);
    put(ram, LDT + (LDT_CODE & 0xf8), 0x00af9b000000ffff, 8);
}

static uint64_t in_image(const uint8_t *at)
{
    return IMAGE_BASE + (uint64_t)(at - ring0_image);
}

/* Software may call 3, 4 and everything from 0x30 on from any level. */
static unsigned gate_dpl(unsigned vector)
{
    return vector == 3 || vector == 4 || vector >= 0x30 ? 3 : 0;
}

static void put_idts(struct guest_ram *ram)
{
    for (unsigned v = 0; v < 256; v++) {
        uint64_t to = in_image(ring0_stubs64) + 16 * v;
        uint64_t access = 0x8e | gate_dpl(v) << 5;
        put(ram, IDT64 + 16 * v, (to & 0xffff) | KCODE64 << 16 | access << 40 | (to >> 16 & 0xffff) << 48, 8);
        to = in_image(ring0_stubs32) + 16 * v;
        put(ram, IDT32 + 8 * v, (to & 0xffff) | KCODE32 << 16 | access << 40 | (to >> 16 & 0xffff) << 48, 8);
        put(ram, 4 * v, (uint64_t)(in_image(ring0_stubs16) >> 4) << 16 | 16 * v, 4);
    }
}

static void put_tss(struct guest_ram *ram)
{
    put(ram, TSS64 + 4, RSP0, 8);
    put(ram, TSS64 + 12, STACK1, 8);
    put(ram, TSS64 + 20, STACK2, 8);
    put(ram, TSS64 + 0x24, IST1, 8);
    put(ram, TSS64 + 0x2c, IST2, 8);
    put(ram, TSS64 + 0x66, 0x68, 2);
    const uint32_t stacks[] = {RSP0, KDATA, STACK1, DATA1, STACK2, DATA2};
    for (unsigned i = 0; i < ARRAY_LEN(stacks); i++)
        put(ram, TSS32 + 4 + 4 * i, stacks[i], 4);
    put(ram, TSS32 + 0x66, 0x68, 2);
    for (unsigned i = 0x68; i <= 0x200; i++)
        put(ram, TSS32 + i, 0xff, 1);
    put(ram, TSS16 + 2, RSP0 - KSTACK_BOTTOM, 2);
    put(ram, TSS16 + 4, KDATA16I, 2);
}

/* The pages around the first 2 MiB: their own address for the supervisor, ALIAS for everybody. */
static void put_page_tables(struct guest_ram *ram)
{
    put(ram, PML4, PDPT | 7, 8);
    put(ram, PDPT, PD | 7, 8);
    put(ram, PDPT_PAE, PD | 1, 8);
    put(ram, PD, PT_LOW | 7, 8);
    put(ram, PD + 8, PT_ALIAS | 7, 8);
    put(ram, PD32, PT32 | 7, 4);
    for (uint64_t i = 0; i < 512; i++) {
        put(ram, PT_LOW + 8 * i, i << 12 | 3, 8);
        put(ram, PT_ALIAS + 8 * i, i << 12 | 7, 8);
        put(ram, PT32 + 4 * i, i << 12 | 3, 4);
        put(ram, PT32 + 4 * (512 + i), i << 12 | 7, 4);
    }
}

static void fill_ram(struct guest_ram *ram, const struct ring0_record *c)
{
    size_t length = (size_t)(ring0_image_end - ring0_image);
    assert_true(length <= IMAGE_MAX);
    put_gdt(ram, c->start.start);
    put_idts(ram);
    put_tss(ram);
    put_page_tables(ram);
    assert_int_equal(ram_write(ram, IMAGE_BASE, ring0_image, length), 0);
}

/* ---- what the registers start as ---- */

static struct segment segment_from_gdt(const struct guest_ram *ram, unsigned selector)
{
    uint64_t d = 0;
    assert_int_equal(ram_read(ram, GDT + (selector & 0xfff8u), &d, 8), 0);
    uint32_t limit = (uint32_t)((d & 0xffff) | (d >> 32 & 0xf0000));
    bool pages = d >> 55 & 1;
    return (struct segment){
        .base = (d >> 16 & 0xffffff) | (d >> 32 & 0xff000000),
        .limit = pages ? limit << 12 | 0xfff : limit,
        .selector = (uint16_t)selector,
        .rights = (uint16_t)(d >> 40 & 0xf0ff),
    };
}

static void set_segments(struct vcpu_state *s, const struct guest_ram *ram, unsigned code, unsigned data)
{
    for (unsigned i = 0; i < SEG_COUNT; i++)
        s->seg[i] = segment_from_gdt(ram, i == SEG_CS ? code : data);
}

static struct vcpu_state real_mode_state(uint64_t start)
{
    struct vcpu_state s;
    vcpu_state_reset(&s);
    s.seg[SEG_CS].selector = (uint16_t)(start >> 4);
    s.seg[SEG_CS].base = start;
    s.seg[SEG_SS].selector = KSTACK_BOTTOM >> 4;
    s.seg[SEG_SS].base = KSTACK_BOTTOM;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        if (i != SEG_CS && i != SEG_SS) {
            s.seg[i].selector = RESULT >> 4;
            s.seg[i].base = RESULT;
        }
    s.idtr = (struct descriptor_table){0, 0x3ff};
    s.gpr[GPR_RSP] = KSTACK - KSTACK_BOTTOM;
    s.rip = 0;
    return s;
}

static struct vcpu_state start_state(const struct guest_ram *ram, const struct ring0_record *c)
{
    static const struct {
        uint16_t code, data;
        bool user, long_mode, paging;
    } envs[] = {
        [ENV_LONG] = {KCODE64, KDATA, false, true, true},
        [ENV_LONG3] = {UCODE64, UDATA, true, true, true},
        [ENV_COMPAT] = {KCODE32, KDATA, false, true, true},
        [ENV_COMPAT3] = {UCODE32, UDATA, true, true, true},
        [ENV_PROT32] = {KCODE32, KDATA, false, false, false},
        [ENV_PROT32_3] = {UCODE32, UDATA, true, false, false},
        [ENV_PROT16] = {KCODE16, KDATA16, false, false, false},
        [ENV_PAGED32] = {KCODE32, KDATA, false, false, true},
        [ENV_PAGED32_3] = {UCODE32, UDATA, true, false, true},
    };
    uint64_t env = c->start.env, start = c->start.start;
    if (env == ENV_REAL)
        return real_mode_state(start);
    struct vcpu_state s;
    vcpu_state_reset(&s);
    set_segments(&s, ram, envs[env].code, envs[env].data);
    s.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | (envs[env].paging ? CR0_PG : 0);
    s.cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT | (envs[env].long_mode ? CR4_PAE : CR4_PSE);
    s.cr3 = envs[env].long_mode ? PML4 : PD32;
    s.efer = EFER_NXE | EFER_SCE | (envs[env].long_mode ? EFER_LME | EFER_LMA : 0);
    s.gdtr = (struct descriptor_table){GDT, GDT_LIMIT};
    s.idtr = envs[env].long_mode ? (struct descriptor_table){IDT64, 0xfff}
                                 : (struct descriptor_table){IDT32, 0x7ff};
    s.tr = segment_from_gdt(ram, envs[env].long_mode ? SEL_TSS64 : SEL_TSS32);
    s.ldtr = segment_from_gdt(ram, SEL_LDT);
    s.rip = env == ENV_PROT16 ? 0 : start;
    s.gpr[GPR_RSP] = KSTACK;
    if (env == ENV_PROT16)
        s.seg[SEG_SS] = segment_from_gdt(ram, KDATA16I), s.gpr[GPR_RSP] -= KSTACK_BOTTOM;
    if (envs[env].user) {
        uint64_t alias = envs[env].paging ? ALIAS : 0;
        s.rip += alias;
        s.gpr[GPR_RSP] = USTACK + alias;
        s.rflags |= RFLAGS_IF; /* as a kernel leaves it */
    }
    return s;
}

/* ---- life ---- */

static void create_engine(struct ring0_guest *g, enum ring0_engine engine)
{
    struct error err = {0};
    int rc = (engine == RING0_KVM ? kvm_engine_create : emu_create)(&g->engine, g->ram, &g->boundary,
                                                                    &g->model, &err);
    if (rc < 0)
        fail_msg("%s", err.message);
    stages_from_environment(g->engine);
}

static void start(struct ring0_guest *g, const struct ring0_record *c)
{
    struct error err = {0};
    struct vcpu_state s = start_state(g->ram, c);
    g->irq = -1;
    g->nmis = 0;
    g->answers = 0x1234567;
    if (g->engine->ops->set_state(g->engine, &s, &err) < 0)
        fail_msg("%s: %s", c->start.name, err.message);
}

void ring0_create(struct ring0_guest *g, enum ring0_engine engine, const struct ring0_record *c)
{
    struct error err = {0};
    *g = (struct ring0_guest){.boundary.ops = &boundary_ops};
    cpu_model_init(&g->model, engine == RING0_EMU ? CPU_PROFILE_EMU : CPU_PROFILE_KVM);
    if (ram_create(&g->ram, RAM_BYTES_USED, &err) < 0)
        fail_msg("%s", err.message);
    fill_ram(g->ram, c);
    memcpy(g->page_tables, g->ram->host + PML4, sizeof(g->page_tables));
    create_engine(g, engine);
    start(g, c);
}

void ring0_destroy(struct ring0_guest *g)
{
    g->engine->ops->destroy(g->engine);
    ram_destroy(g->ram);
    g->engine = NULL;
}

/* True when the page tables are as they were made, but for A and D bits. */
static bool page_tables_unchanged(const struct ring0_guest *g)
{
    for (gpa_t gpa = 0; gpa < TABLES_END - PML4; gpa += 4) {
        uint32_t a, b;
        memcpy(&a, g->ram->host + PML4 + gpa, 4);
        memcpy(&b, g->page_tables + gpa, 4);
        if ((a ^ b) & ~0x60u)
            return false;
    }
    return true;
}

bool ring0_restart(struct ring0_guest *g, const struct ring0_record *c)
{
    if (g->engine->ops->state(g->engine)->activity != ACTIVITY_HALTED || !page_tables_unchanged(g))
        return false;
    memset(g->ram->host, 0, RAM_BYTES_USED);
    fill_ram(g->ram, c);
    start(g, c);
    return true;
}

/* The same guest in an engine and RAM that know nothing of what came before. */
static void move(struct ring0_guest *g)
{
    struct error err = {0};
    struct vcpu_state s = *g->engine->ops->state(g->engine);
    position_t position = g->engine->ops->position(g->engine);
    struct guest_ram *old = g->ram;
    if (ram_create(&g->ram, RAM_BYTES_USED, &err) < 0)
        fail_msg("%s", err.message);
    g->engine->ops->destroy(g->engine);
    memcpy(g->ram->host, old->host, RAM_BYTES_USED);
    ram_destroy(old);
    create_engine(g, RING0_EMU);
    if (g->engine->ops->set_state(g->engine, &s, &err) < 0)
        fail_msg("%s", err.message);
    g->engine->ops->set_position(g->engine, position);
}

/* ---- running ---- */

static uint64_t next_random(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return *seed >> 33;
}

static void on_timer(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)context;
    struct engine *engine = info->si_value.sival_ptr;
    engine->ops->kick(engine);
}

/* So that a KVM that goes astray ends too. */
static timer_t watchdog_start(struct engine *engine, uint64_t timeout_ns)
{
    struct sigaction action = {.sa_sigaction = on_timer, .sa_flags = SA_SIGINFO | SA_RESTART};
    struct sigevent event = {
        .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2, .sigev_value.sival_ptr = engine};
    const struct itimerspec t = {
        .it_value = {(time_t)(timeout_ns / 1000000000u), (long)(timeout_ns % 1000000000u)}};
    timer_t timer;
    assert_int_equal(sigaction(SIGUSR2, &action, NULL), 0);
    assert_int_equal(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
    timer_settime(timer, 0, &t, NULL);
    return timer;
}

/* Delivers what waits and can be delivered. */
static int deliver(struct ring0_guest *g, struct error *err)
{
    const struct engine_ops *ops = g->engine->ops;
    if (g->nmis) {
        struct error refused;
        int rc = ops->nmi(g->engine, &refused);
        if (rc == 0)
            g->nmis--;
        else if (rc != -EBUSY)
            return error_set(err, rc, "%s", refused.message);
    }
    if (g->irq >= 0 && ops->can_interrupt(g->engine)) {
        int rc = ops->interrupt(g->engine, (uint8_t)g->irq, err);
        if (rc < 0)
            return rc;
        g->irq = -1;
    }
    return 0;
}

static position_t next_limit(struct ring0_guest *g, enum ring0_cut cut, uint64_t *seed)
{
    position_t now = g->engine->ops->position(g->engine);
    if (now == POSITION_UNKNOWN)
        return POSITION_UNKNOWN;
    if (cut == RING0_STEPS || g->nmis)
        return now + 1;
    return cut == RING0_WHOLE ? STEPS_MAX : now + 1 + next_random(seed) % (cut == RING0_MOVES ? 97 : 13);
}

static int run_pieces(struct ring0_guest *g, enum ring0_cut cut, uint64_t seed, struct error *err)
{
    const struct engine_ops *ops = g->engine->ops;
    for (;;) {
        int rc = deliver(g, err);
        if (rc < 0)
            return rc;
        const struct engine_request request = {.limit = next_limit(g, cut, &seed),
                                               .want_window = g->irq >= 0};
        int stop = ops->run(g->engine, &request, err);
        if (stop < 0)
            return stop;
        if (stop == ENGINE_STOP_SHUTDOWN)
            return stop;
        if (stop == ENGINE_STOP_ATTENTION)
            return error_set(err, -ETIME, "the guest does not end");
        bool may_wake = g->nmis || (g->irq >= 0 && ops->can_interrupt(g->engine));
        if (stop == ENGINE_STOP_HALT && !may_wake)
            return stop;
        position_t position = ops->position(g->engine);
        if (position != POSITION_UNKNOWN && position >= STEPS_MAX)
            return error_set(err, -ETIME, "the guest does not end");
        if (cut == RING0_MOVES)
            move(g);
    }
}

int ring0_run(struct ring0_guest *g, enum ring0_cut cut, uint64_t seed, struct error *err)
{
    bool counts = g->engine->ops->position(g->engine) != POSITION_UNKNOWN;
    if (counts)
        return run_pieces(g, cut, seed, err);
    timer_t timer = watchdog_start(g->engine, (uint64_t)TIMEOUT_NS * (g->patience + 1));
    int stop = run_pieces(g, cut, seed, err);
    timer_delete(timer);
    return stop;
}

/* ---- checking ---- */

const struct ring0_record *ring0_next_case(const struct ring0_record *c)
{
    for (c++; c < ring0_table_end && c->tag != TAG_CASE; c++)
        ;
    return c;
}

struct report {
    char *text;
    size_t size, used;
};

static void format_printf(2, 3) differ(struct report *r, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (r->used < r->size) {
        int n = vsnprintf(r->text + r->used, r->size - r->used, format, args);
        r->used += n > 0 ? (size_t)n : 0;
    }
    va_end(args);
}

static void expect_equal(struct report *r, unsigned event, const char *what, uint64_t got, uint64_t want)
{
    if (want != ANY && got != want)
        differ(r, "  event %u: %s is %#" PRIx64 ", expected %#" PRIx64 "\n", event, what, got, want);
}

/* An event as the handlers logged it. */
struct event {
    uint64_t kind, vector, entry_sp, handler_cs, handler_ss, handler_flags, cr2, dr6;
    uint8_t stack[64];
    uint64_t gpr[16];
    uint64_t ds, es, fs, gs;
    uint64_t unused[4];
};

_Static_assert(sizeof(struct event) == LOG_BYTES, "the handlers write events of this size");

/* What the processor pushed, with its width; an IRET frame. */
struct pushed {
    uint64_t error, rip, cs, flags, sp, ss;
};

static struct pushed decode_frame(const struct event *v, bool has_error)
{
    struct pushed p = {.error = NO_ERROR_CODE};
    uint64_t value[6] = {0};
    bool gate16 = v->vector & 0x100;
    unsigned width = v->kind == 64 ? 8 : v->kind == 32 && !gate16 ? 4 : 2;
    for (unsigned i = 0; i < 6; i++)
        memcpy(&value[i], v->stack + i * width, width);
    unsigned i = 0;
    if (has_error)
        p.error = value[i++];
    p.rip = value[i], p.cs = value[i + 1] & 0xffff, p.flags = value[i + 2];
    bool has_stack =
        v->kind == 64 || (v->kind == 32 && (p.flags & RFLAGS_VM)) || (p.cs & 3) > (v->handler_cs & 3);
    if (has_stack && i + 4 < 6) {
        p.sp = value[i + 3], p.ss = value[i + 4] & 0xffff;
    } else {
        p.sp = v->entry_sp + (i + 3) * width;
        p.ss = v->handler_ss;
    }
    return p;
}

static uint64_t linear_rip(const struct ring0_record *c, const struct event *v, const struct pushed *p)
{
    unsigned selector = (unsigned)p->cs & 0xfff8;
    if (v->kind == 16 || (v->kind == 32 && (p->flags & RFLAGS_VM)))
        return (p->cs << 4) + p->rip;
    if (selector == KCODE16 || selector == (UCODE16 & 0xfff8))
        return p->rip + c->start.start;
    return p->rip & ~(uint64_t)ALIAS;
}

static void check_event(struct report *r, const struct ring0_record *c, unsigned n, const struct event *v,
                        const struct ring0_record *want)
{
    struct pushed p = decode_frame(v, want->expect.error != NO_ERROR_CODE);
    expect_equal(r, n, "vector", v->vector, want->expect.vector);
    expect_equal(r, n, "error code", p.error, want->expect.error);
    if (want->expect.rip != IMAGE_BASE)
        expect_equal(r, n, "address", linear_rip(c, v, &p), want->expect.rip);
    expect_equal(r, n, "CS", p.cs, want->expect.cs);
    expect_equal(r, n, "SS", p.ss, want->expect.ss);
    expect_equal(r, n, "SP", p.sp, want->expect.sp);
    expect_equal(r, n, "flags", p.flags, want->expect.flags);
    expect_equal(r, n, "CR2", v->cr2, want->expect.cr2);
    expect_equal(r, n, "DR6", v->dr6, want->expect.dr6);
    expect_equal(r, n, "handler's CS", v->handler_cs, want->expect.handler_cs);
    expect_equal(r, n, "handler's SS", v->handler_ss, want->expect.handler_ss);
    expect_equal(r, n, "handler's SP", v->entry_sp, want->expect.handler_sp);
}

static void check_value(struct report *r, const struct guest_ram *ram, const struct ring0_record *want)
{
    uint64_t got = 0;
    assert_true(want->value.size <= 8);
    assert_int_equal(ram_read(ram, want->value.address, &got, want->value.size), 0);
    if (got != want->value.value)
        differ(r, "  memory at %#" PRIx64 " is %#" PRIx64 ", expected %#" PRIx64 "\n", want->value.address,
               got, want->value.value);
}

static void check_end(struct report *r, struct ring0_guest *g, const struct ring0_record *c, int end,
                      int want, uint64_t rip)
{
    const struct vcpu_state *s = g->engine->ops->state(g->engine);
    uint64_t base = vcpu_in_64bit_code(s) ? 0 : s->seg[SEG_CS].base;
    if (end != want)
        differ(r, "  it ended with stop %d, expected %d, at %#" PRIx64 "\n", end, want,
               s->rip - c->start.start);
    else if (rip && ((s->rip + base) & ~(uint64_t)ALIAS) != rip)
        differ(r, "  it ended at %#" PRIx64 ", expected %#" PRIx64 " of the case\n",
               s->rip + base - c->start.start, rip - c->start.start);
}

static void show_events(struct report *r, const struct ring0_record *c, const struct guest_ram *ram,
                        uint64_t from, uint64_t count)
{
    for (uint64_t n = from; n < count && n < LOG_MAX; n++) {
        struct event v;
        assert_int_equal(ram_read(ram, LOG_RECORDS + n * LOG_BYTES, &v, sizeof(v)), 0);
        bool has_error = v.vector == 8 || (v.vector >= 10 && v.vector <= 14) || v.vector == 17;
        struct pushed p = decode_frame(&v, has_error);
        differ(r,
               "  logged %u: kind %u vector %u error %#" PRIx64 " cs:rip %#" PRIx64 ":%#" PRIx64
               " (case%+" PRId64 ") flags %#" PRIx64 " ss:sp %#" PRIx64 ":%#" PRIx64 " cr2 %#" PRIx64
               " dr6 %#" PRIx64 "\n",
               (unsigned)n, (unsigned)v.kind, (unsigned)v.vector, p.error, p.cs, p.rip,
               (int64_t)(linear_rip(c, &v, &p) - c->start.start), p.flags, p.ss, p.sp, v.cr2, v.dr6);
    }
}

bool ring0_as_expected(struct ring0_guest *g, const struct ring0_record *c, int end, char *text, size_t size)
{
    struct report r = {text, size, 0};
    const struct ring0_record *next = ring0_next_case(c);
    uint64_t logged = 0, rip = 0;
    unsigned n = 0;
    int want_end = ENGINE_STOP_HALT;
    assert_int_equal(ram_read(g->ram, LOG_COUNT, &logged, 8), 0);
    for (const struct ring0_record *w = c + 1; w < next; w++) {
        struct event v = {0};
        if (w->tag == TAG_EXPECT && n < logged && n < LOG_MAX) {
            assert_int_equal(ram_read(g->ram, LOG_RECORDS + n * LOG_BYTES, &v, sizeof(v)), 0);
            check_event(&r, c, n, &v, w);
        }
        n += w->tag == TAG_EXPECT;
        if (w->tag == TAG_VALUE)
            check_value(&r, g->ram, w);
        else if (w->tag == TAG_DONE)
            rip = w->done.rip;
        else if (w->tag == TAG_SHUTDOWN)
            want_end = ENGINE_STOP_SHUTDOWN;
    }
    if (n != logged)
        differ(&r, "  %u events were logged, expected %u\n", (unsigned)logged, n);
    check_end(&r, g, c, end, want_end, rip);
    if (r.used)
        show_events(&r, c, g->ram, 0, logged);
    return r.used == 0;
}

/*
 * A and D bits may be set early or late. Not every KVM nulls data segments on IRET to CPL 3, so ES to GS in the log are
 * left to the cases that expect something of them.
 */
static uint64_t not_compared(uint64_t gpa, bool exact)
{
    if (exact)
        return 0;
    if (gpa >= PML4 && gpa < TABLES_END)
        return 0x60 | (uint64_t)0x60 << 32;
    uint64_t in_record =
        gpa >= LOG_RECORDS && gpa < LOG_RECORDS + LOG_MAX * LOG_BYTES ? (gpa - LOG_RECORDS) % LOG_BYTES : 0;
    return in_record >= offsetof(struct event, ds) && in_record < offsetof(struct event, unused) ? ~0ull : 0;
}

bool ring0_same(struct ring0_guest *a, struct ring0_guest *b, bool exact, char *text, size_t size)
{
    struct vcpu_state x = *a->engine->ops->state(a->engine), y = *b->engine->ops->state(b->engine);
    if (!exact) {
        vcpu_state_without_hidden(&x);
        vcpu_state_without_hidden(&y);
    }
    if (vcpu_state_diff(&x, &y, text, size))
        return false;
    for (uint64_t gpa = 0; gpa < RAM_BYTES_USED; gpa += 8) {
        uint64_t p, q;
        memcpy(&p, a->ram->host + gpa, 8);
        memcpy(&q, b->ram->host + gpa, 8);
        if ((p ^ q) & ~not_compared(gpa, exact)) {
            snprintf(text, size, "RAM at %#" PRIx64 ": %#" PRIx64 " / %#" PRIx64 "\n", gpa, p, q);
            return false;
        }
    }
    return true;
}
