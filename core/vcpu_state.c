#include "core/vcpu_state.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const gpr_names[GPR_COUNT] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                                 "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
static const char *const segment_names[SEG_COUNT] = {"es", "cs", "ss", "ds", "fs", "gs"};

void vcpu_state_reset(struct vcpu_state *s)
{
    memset(s, 0, sizeof(*s));
    s->rip = 0xfff0;
    s->rflags = RFLAGS_FIXED;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        s->seg[i] = (struct segment){.limit = 0xffff, .rights = SEGMENT_P | SEGMENT_S | 3};
    s->seg[SEG_CS] = (struct segment){
        .selector = 0xf000, .base = 0xffff0000, .limit = 0xffff, .rights = SEGMENT_P | SEGMENT_S | 0xb};
    s->ldtr = (struct segment){.limit = 0xffff, .rights = SEGMENT_P | 2};
    s->tr = (struct segment){.limit = 0xffff, .rights = SEGMENT_P | 0xb};
    s->gdtr.limit = 0xffff;
    s->idtr.limit = 0xffff;
    s->cr0 = CR0_CD | CR0_NW | CR0_ET;
    s->xcr0 = 1;
    s->dr6 = DR6_FIXED;
    s->dr7 = DR7_FIXED;
    s->pat = 0x0007040600070406;
    s->apic_base = 0xfee00100; /* BSP, disabled: the machine has no local APIC */
    s->fpu.fcw = FCW_DEFAULT;
    s->fpu.mxcsr = MXCSR_DEFAULT;
}

/*
 * Every register once, by name, as 64-bit words: what equality, difference and formatting agree on.
 * Long values (vector registers) are several words.
 */
#define WORD_NAME_BYTES 16

struct word {
    char name[WORD_NAME_BYTES];
    uint64_t value;
};

#define STATE_WORDS 192

struct words {
    size_t count;
    struct word word[STATE_WORDS];
};

static void add(struct words *w, uint64_t value, const char *format, ...) format_printf(3, 4);
static void add(struct words *w, uint64_t value, const char *format, ...)
{
    if (w->count == STATE_WORDS)
        return;
    struct word *word = &w->word[w->count++];
    va_list args;
    va_start(args, format);
    vsnprintf(word->name, sizeof(word->name), format, args);
    va_end(args);
    word->value = value;
}

static void add_segment(struct words *w, const char *name, const struct segment *s)
{
    add(w, s->selector, "%s", name);
    add(w, s->base, "%s.base", name);
    add(w, s->limit, "%s.limit", name);
    add(w, s->rights, "%s.rights", name);
}

static void add_fpu(struct words *w, const struct fpu_state *f)
{
    for (unsigned i = 0; i < 16; i++) {
        for (unsigned j = 0; j < 4; j++) {
            uint64_t v;
            memcpy(&v, f->ymm[i] + 8 * j, 8);
            add(w, v, "ymm%u[%u]", i, j);
        }
    }
    for (unsigned i = 0; i < 8; i++) {
        uint64_t low;
        uint16_t high;
        memcpy(&low, f->st[i], 8);
        memcpy(&high, f->st[i] + 8, 2);
        add(w, low, "st%u.low", i);
        add(w, high, "st%u.high", i);
    }
    add(w, f->fcw, "fcw");
    add(w, f->fsw, "fsw");
    add(w, f->ftw, "ftw");
    add(w, f->fop, "fop");
    add(w, f->fcs, "fcs");
    add(w, f->fds, "fds");
    add(w, f->fip, "fip");
    add(w, f->fdp, "fdp");
    add(w, f->mxcsr, "mxcsr");
}

static void list_words(const struct vcpu_state *s, struct words *w)
{
    w->count = 0;
    for (unsigned i = 0; i < GPR_COUNT; i++)
        add(w, s->gpr[i], "%s", gpr_names[i]);
    add(w, s->rip, "rip");
    add(w, s->rflags, "rflags");
    for (unsigned i = 0; i < SEG_COUNT; i++)
        add_segment(w, segment_names[i], &s->seg[i]);
    add_segment(w, "ldtr", &s->ldtr);
    add_segment(w, "tr", &s->tr);
    add(w, s->gdtr.base, "gdtr.base");
    add(w, s->gdtr.limit, "gdtr.limit");
    add(w, s->idtr.base, "idtr.base");
    add(w, s->idtr.limit, "idtr.limit");
    add(w, s->cr0, "cr0");
    add(w, s->cr2, "cr2");
    add(w, s->cr3, "cr3");
    add(w, s->cr4, "cr4");
    add(w, s->cr8, "cr8");
    add(w, s->xcr0, "xcr0");
    for (unsigned i = 0; i < 4; i++)
        add(w, s->dr[i], "dr%u", i);
    add(w, s->dr6, "dr6");
    add(w, s->dr7, "dr7");
    add(w, s->efer, "efer");
    add(w, s->star, "star");
    add(w, s->lstar, "lstar");
    add(w, s->cstar, "cstar");
    add(w, s->sfmask, "sfmask");
    add(w, s->kernel_gs_base, "kernel_gs_base");
    add(w, s->sysenter_cs, "sysenter_cs");
    add(w, s->sysenter_esp, "sysenter_esp");
    add(w, s->sysenter_eip, "sysenter_eip");
    add(w, s->tsc_aux, "tsc_aux");
    add(w, s->pat, "pat");
    add(w, s->apic_base, "apic_base");
    add(w, s->misc_enable, "misc_enable");
    add(w, s->shadow, "shadow");
    add(w, s->nmi_blocked, "nmi_blocked");
    add(w, s->activity, "activity");
    add(w, s->pending_debug, "pending_debug");
    add_fpu(w, &s->fpu);
}

bool vcpu_state_equal(const struct vcpu_state *a, const struct vcpu_state *b)
{
    return vcpu_state_diff(a, b, NULL, 0) == 0;
}

unsigned vcpu_state_diff(const struct vcpu_state *a, const struct vcpu_state *b, char *out, size_t size)
{
    struct words wa, wb;
    list_words(a, &wa);
    list_words(b, &wb);
    unsigned differences = 0;
    size_t used = 0;
    if (size)
        out[0] = '\0';
    for (size_t i = 0; i < wa.count; i++) {
        if (wa.word[i].value == wb.word[i].value)
            continue;
        differences++;
        if (used < size) {
            int n = snprintf(out + used, size - used, "%s: 0x%" PRIx64 " / 0x%" PRIx64 "\n", wa.word[i].name,
                             wa.word[i].value, wb.word[i].value);
            used += n > 0 ? (size_t)n : 0;
        }
    }
    return differences;
}

struct text {
    char *out;
    size_t size, used;
};

static void put(struct text *t, const char *format, ...) format_printf(2, 3);
static void put(struct text *t, const char *format, ...)
{
    if (t->used >= t->size)
        return;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(t->out + t->used, t->size - t->used, format, args);
    va_end(args);
    t->used += n > 0 ? (size_t)n : 0;
}

static void format_rflags(struct text *t, uint64_t rflags)
{
    static const struct {
        uint64_t bit;
        const char *name;
    } bits[] = {{RFLAGS_CF, "CF"}, {RFLAGS_PF, "PF"}, {RFLAGS_AF, "AF"}, {RFLAGS_ZF, "ZF"}, {RFLAGS_SF, "SF"},
                {RFLAGS_TF, "TF"}, {RFLAGS_IF, "IF"}, {RFLAGS_DF, "DF"}, {RFLAGS_OF, "OF"}, {RFLAGS_NT, "NT"},
                {RFLAGS_RF, "RF"}, {RFLAGS_VM, "VM"}, {RFLAGS_AC, "AC"}, {RFLAGS_ID, "ID"}};
    put(t, "rflags %016" PRIx64 " [", rflags);
    const char *space = "";
    for (size_t i = 0; i < ARRAY_LEN(bits); i++) {
        if (rflags & bits[i].bit) {
            put(t, "%s%s", space, bits[i].name);
            space = " ";
        }
    }
    put(t, "] iopl %u\n", (unsigned)((rflags & RFLAGS_IOPL) >> 12));
}

static void format_segment(struct text *t, const char *name, const struct segment *s)
{
    put(t, "%-4s %04x base %016" PRIx64 " limit %08x rights %04x\n", name, s->selector, s->base, s->limit,
        s->rights);
}

static void format_fpu(struct text *t, const struct fpu_state *f)
{
    put(t, "fcw %04x fsw %04x ftw %02x fop %04x fip %016" PRIx64 " fdp %016" PRIx64 " mxcsr %08x\n", f->fcw,
        f->fsw, f->ftw, f->fop, f->fip, f->fdp, f->mxcsr);
    for (unsigned i = 0; i < 8; i++) {
        uint64_t low;
        uint16_t high;
        memcpy(&low, f->st[i], 8);
        memcpy(&high, f->st[i] + 8, 2);
        put(t, "st%u  %04x %016" PRIx64 "%s", i, high, low, i % 2 ? "\n" : "    ");
    }
    for (unsigned i = 0; i < 16; i++) {
        put(t, "ymm%-2u ", i);
        for (int j = 31; j >= 0; j--)
            put(t, "%02x%s", f->ymm[i][j], j && j % 8 == 0 ? "_" : "");
        put(t, "\n");
    }
}

void vcpu_state_format(const struct vcpu_state *s, char *out, size_t size)
{
    struct text t = {.out = out, .size = size};
    if (!size)
        return;
    out[0] = '\0';
    for (unsigned i = 0; i < GPR_COUNT; i++)
        put(&t, "%-3s %016" PRIx64 "%s", gpr_names[i], s->gpr[i], i % 4 == 3 ? "\n" : "  ");
    put(&t, "rip %016" PRIx64 "  ", s->rip);
    format_rflags(&t, s->rflags);
    for (unsigned i = 0; i < SEG_COUNT; i++)
        format_segment(&t, segment_names[i], &s->seg[i]);
    format_segment(&t, "ldtr", &s->ldtr);
    format_segment(&t, "tr", &s->tr);
    put(&t, "gdtr base %016" PRIx64 " limit %04x  idtr base %016" PRIx64 " limit %04x\n", s->gdtr.base,
        s->gdtr.limit, s->idtr.base, s->idtr.limit);
    put(&t, "cr0 %016" PRIx64 "  cr2 %016" PRIx64 "  cr3 %016" PRIx64 "  cr4 %016" PRIx64 "\n", s->cr0,
        s->cr2, s->cr3, s->cr4);
    put(&t, "cr8 %016" PRIx64 "  efer %016" PRIx64 "  xcr0 %016" PRIx64 "\n", s->cr8, s->efer, s->xcr0);
    put(&t, "dr0 %016" PRIx64 "  dr1 %016" PRIx64 "  dr2 %016" PRIx64 "  dr3 %016" PRIx64 "\n", s->dr[0],
        s->dr[1], s->dr[2], s->dr[3]);
    put(&t, "dr6 %016" PRIx64 "  dr7 %016" PRIx64 "\n", s->dr6, s->dr7);
    put(&t, "star %016" PRIx64 "  lstar %016" PRIx64 "  cstar %016" PRIx64 "  sfmask %016" PRIx64 "\n",
        s->star, s->lstar, s->cstar, s->sfmask);
    put(&t, "kernel_gs_base %016" PRIx64 "  sysenter cs %" PRIx64 " esp %" PRIx64 " eip %" PRIx64 "\n",
        s->kernel_gs_base, s->sysenter_cs, s->sysenter_esp, s->sysenter_eip);
    put(&t, "tsc_aux %" PRIx64 "  pat %016" PRIx64 "  apic_base %" PRIx64 "  misc_enable %" PRIx64 "\n",
        s->tsc_aux, s->pat, s->apic_base, s->misc_enable);
    format_fpu(&t, &s->fpu);
    put(&t, "shadow %u  nmi_blocked %u  activity %u  pending_debug %02x\n", s->shadow, s->nmi_blocked,
        s->activity, s->pending_debug);
}
