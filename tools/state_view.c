#include "tools/state_view.h"
#include "core/x86/inspect.h"

#include <inttypes.h>
#include <string.h>

static const char *const gpr_names[GPR_COUNT] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                                 "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
static const char *const segment_names[SEG_COUNT] = {"es", "cs", "ss", "ds", "fs", "gs"};
static const char *const activity_names[] = {"running", "halted", "shutdown"};
static const char *const shadow_names[] = {"none", "sti", "mov-ss"};

static const struct {
    uint64_t bit;
    const char *name;
} flag_names[] = {
    {RFLAGS_ID, "ID"}, {RFLAGS_VIP, "VIP"}, {RFLAGS_VIF, "VIF"}, {RFLAGS_AC, "AC"},
    {RFLAGS_VM, "VM"}, {RFLAGS_RF, "RF"},   {RFLAGS_NT, "NT"},   {RFLAGS_OF, "OF"},
    {RFLAGS_DF, "DF"}, {RFLAGS_IF, "IF"},   {RFLAGS_TF, "TF"},   {RFLAGS_SF, "SF"},
    {RFLAGS_ZF, "ZF"}, {RFLAGS_AF, "AF"},   {RFLAGS_PF, "PF"},   {RFLAGS_CF, "CF"},
};

static const char *name_of(const char *const *names, size_t count, unsigned index)
{
    return index < count ? names[index] : "unknown";
}

const char *state_mode_name(const struct vcpu_state *s)
{
    if (!(s->cr0 & CR0_PE))
        return "16-bit real mode";
    if (s->rflags & RFLAGS_VM)
        return "virtual-8086 mode";
    if (vcpu_in_64bit_code(s))
        return "64-bit mode";
    if (vcpu_in_long_mode(s))
        return "compatibility mode";
    return s->seg[SEG_CS].rights & SEGMENT_DB ? "32-bit protected mode" : "16-bit protected mode";
}

static gva_t linear_rip(const struct vcpu_state *s)
{
    uint64_t base = vcpu_in_64bit_code(s) ? 0 : s->seg[SEG_CS].base;
    return vcpu_in_64bit_code(s) ? s->rip : (uint32_t)(base + s->rip);
}

static void flags_text(uint64_t rflags, char *out, size_t size)
{
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = 0; i < ARRAY_LEN(flag_names); i++)
        if (rflags & flag_names[i].bit && used < size)
            used += (size_t)snprintf(out + used, size - used, "%s%s", used ? " " : "", flag_names[i].name);
    if (rflags & RFLAGS_IOPL && used < size)
        snprintf(out + used, size - used, "%sIOPL=%u", used ? " " : "", (unsigned)(rflags >> 12 & 3));
}

static void print_segment(const char *name, const struct segment *s, FILE *out)
{
    fprintf(out, "%-4s %04x  base %016" PRIx64 "  limit %08" PRIx32 "  ", name, s->selector, s->base,
            s->limit);
    if (!(s->rights & SEGMENT_P)) {
        fputs("not present\n", out);
        return;
    }
    fprintf(out, "dpl %u  ", (unsigned)(s->rights & SEGMENT_DPL) >> SEGMENT_DPL_SHIFT);
    if (!(s->rights & SEGMENT_S))
        fprintf(out, "system type %u", (unsigned)(s->rights & SEGMENT_TYPE));
    else if (s->rights & 8)
        fprintf(out, "code %s", s->rights & SEGMENT_L ? "64" : s->rights & SEGMENT_DB ? "32" : "16");
    else
        fprintf(out, "data %s", s->rights & SEGMENT_DB ? "32" : "16");
    fprintf(out, "  rights %04x\n", s->rights);
}

static void print_vectors(const struct fpu_state *f, FILE *out)
{
    fprintf(out,
            "fcw %04x  fsw %04x  ftw %02x  fop %03x  fip %016" PRIx64 "  fdp %016" PRIx64 "  mxcsr %08" PRIx32
            "\n",
            f->fcw, f->fsw, f->ftw, f->fop, f->fip, f->fdp, f->mxcsr);
    for (size_t i = 0; i < 8; i++) {
        fprintf(out, "st%zu  ", i);
        for (size_t k = 10; k-- > 0;)
            fprintf(out, "%02x", f->st[i][k]);
        fputs(i % 2 ? "\n" : "   ", out);
    }
    for (size_t i = 0; i < 16; i++) {
        fprintf(out, "ymm%-2zu ", i);
        for (size_t k = 32; k-- > 0;)
            fprintf(out, "%02x%s", f->ymm[i][k], k && k % 8 == 0 ? "_" : "");
        putc('\n', out);
    }
}

static void print_place(const struct state_view *view, FILE *out)
{
    const struct vcpu_state *s = view->state;
    char symbol[256], code[256];
    symbols_describe(view->symbols, linear_rip(s), symbol, sizeof(symbol));
    x86_disassemble(view->ram, s, code, sizeof(code));
    fprintf(out, "rip  %016" PRIx64 "  %s\n", s->rip, symbol);
    fprintf(out, "  => %s\n", code);
}

void state_print(const struct state_view *view, FILE *out)
{
    const struct vcpu_state *s = view->state;
    char flags[128];
    flags_text(s->rflags, flags, sizeof(flags));
    print_place(view, out);
    for (size_t i = 0; i < GPR_COUNT; i++)
        fprintf(out, "%-4s %016" PRIx64 "%s", gpr_names[i], s->gpr[i],
                i % 3 == 2 || i + 1 == GPR_COUNT ? "\n" : "   ");
    fprintf(out, "rflags %016" PRIx64 "  [%s]\n", s->rflags, flags);
    fprintf(out, "%s, CPL %u, %s; interrupt shadow: %s; NMIs %s; pending #DB: %02x\n", state_mode_name(s),
            vcpu_cpl(s), name_of(activity_names, ARRAY_LEN(activity_names), s->activity),
            name_of(shadow_names, ARRAY_LEN(shadow_names), s->shadow), s->nmi_blocked ? "blocked" : "open",
            s->pending_debug);
    for (size_t i = 0; i < SEG_COUNT; i++)
        print_segment(segment_names[i], &s->seg[i], out);
    print_segment("ldtr", &s->ldtr, out);
    print_segment("tr", &s->tr, out);
    fprintf(out, "gdtr       base %016" PRIx64 "  limit %08x\n", s->gdtr.base, s->gdtr.limit);
    fprintf(out, "idtr       base %016" PRIx64 "  limit %08x\n", s->idtr.base, s->idtr.limit);
    fprintf(out, "cr0 %016" PRIx64 "  cr2 %016" PRIx64 "  cr3 %016" PRIx64 "\n", s->cr0, s->cr2, s->cr3);
    fprintf(out, "cr4 %016" PRIx64 "  cr8 %016" PRIx64 "  xcr0 %016" PRIx64 "\n", s->cr4, s->cr8, s->xcr0);
    fprintf(out, "dr0 %016" PRIx64 "  dr1 %016" PRIx64 "  dr2 %016" PRIx64 "\n", s->dr[0], s->dr[1],
            s->dr[2]);
    fprintf(out, "dr3 %016" PRIx64 "  dr6 %016" PRIx64 "  dr7 %016" PRIx64 "\n", s->dr[3], s->dr6, s->dr7);
    fprintf(out, "efer %016" PRIx64 "  star %016" PRIx64 "  lstar %016" PRIx64 "\n", s->efer, s->star,
            s->lstar);
    fprintf(out, "cstar %016" PRIx64 "  sfmask %016" PRIx64 "  kernel_gs_base %016" PRIx64 "\n", s->cstar,
            s->sfmask, s->kernel_gs_base);
    fprintf(out, "sysenter: cs %" PRIx64 "  esp %016" PRIx64 "  eip %016" PRIx64 "\n", s->sysenter_cs,
            s->sysenter_esp, s->sysenter_eip);
    fprintf(out, "tsc_aux %" PRIx64 "  pat %016" PRIx64 "  apic_base %" PRIx64 "  misc_enable %" PRIx64 "\n",
            s->tsc_aux, s->pat, s->apic_base, s->misc_enable);
    print_vectors(&s->fpu, out);
}

static void segment_json(struct json *j, const char *name, const struct segment *s)
{
    json_object_line(j, name);
    json_u64(j, "selector", s->selector);
    json_u64(j, "base", s->base);
    json_u64(j, "limit", s->limit);
    json_u64(j, "rights", s->rights);
    json_close_object(j);
}

static void table_json(struct json *j, const char *name, const struct descriptor_table *t)
{
    json_object_line(j, name);
    json_u64(j, "base", t->base);
    json_u64(j, "limit", t->limit);
    json_close_object(j);
}

static void segments_json(struct json *j, const struct vcpu_state *s)
{
    json_object(j, "segments");
    for (size_t i = 0; i < SEG_COUNT; i++)
        segment_json(j, segment_names[i], &s->seg[i]);
    segment_json(j, "ldtr", &s->ldtr);
    segment_json(j, "tr", &s->tr);
    table_json(j, "gdtr", &s->gdtr);
    table_json(j, "idtr", &s->idtr);
    json_close_object(j);
}

static void control_json(struct json *j, const struct vcpu_state *s)
{
    const struct {
        const char *name;
        uint64_t value;
    } control[] = {{"cr0", s->cr0},   {"cr2", s->cr2},   {"cr3", s->cr3},   {"cr4", s->cr4},
                   {"cr8", s->cr8},   {"xcr0", s->xcr0}, {"dr0", s->dr[0]}, {"dr1", s->dr[1]},
                   {"dr2", s->dr[2]}, {"dr3", s->dr[3]}, {"dr6", s->dr6},   {"dr7", s->dr7}},
      msr[] = {{"efer", s->efer},
               {"star", s->star},
               {"lstar", s->lstar},
               {"cstar", s->cstar},
               {"sfmask", s->sfmask},
               {"kernel_gs_base", s->kernel_gs_base},
               {"sysenter_cs", s->sysenter_cs},
               {"sysenter_esp", s->sysenter_esp},
               {"sysenter_eip", s->sysenter_eip},
               {"tsc_aux", s->tsc_aux},
               {"pat", s->pat},
               {"apic_base", s->apic_base},
               {"misc_enable", s->misc_enable}};
    json_object(j, "control");
    for (size_t i = 0; i < ARRAY_LEN(control); i++)
        json_u64(j, control[i].name, control[i].value);
    json_close_object(j);
    json_object(j, "msr");
    for (size_t i = 0; i < ARRAY_LEN(msr); i++)
        json_u64(j, msr[i].name, msr[i].value);
    json_close_object(j);
}

static void vectors_json(struct json *j, const struct fpu_state *f)
{
    json_object(j, "fpu");
    json_u64(j, "fcw", f->fcw);
    json_u64(j, "fsw", f->fsw);
    json_u64(j, "ftw", f->ftw);
    json_u64(j, "fop", f->fop);
    json_u64(j, "fcs", f->fcs);
    json_u64(j, "fds", f->fds);
    json_u64(j, "fip", f->fip);
    json_u64(j, "fdp", f->fdp);
    json_u64(j, "mxcsr", f->mxcsr);
    json_array(j, "st");
    for (size_t i = 0; i < 8; i++)
        json_hex(j, NULL, f->st[i], 10);
    json_close_array(j);
    json_array(j, "ymm");
    for (size_t i = 0; i < 16; i++)
        json_hex(j, NULL, f->ymm[i], 32);
    json_close_array(j);
    json_close_object(j);
}

void state_json(const struct state_view *view, struct json *j)
{
    const struct vcpu_state *s = view->state;
    char symbol[256], code[256];
    symbols_describe(view->symbols, linear_rip(s), symbol, sizeof(symbol));
    x86_disassemble(view->ram, s, code, sizeof(code));
    json_string(j, "symbol", symbol);
    json_string(j, "instruction", code);
    json_string(j, "mode", state_mode_name(s));
    json_u64(j, "cpl", vcpu_cpl(s));
    json_string(j, "activity", name_of(activity_names, ARRAY_LEN(activity_names), s->activity));
    json_string(j, "interrupt_shadow", name_of(shadow_names, ARRAY_LEN(shadow_names), s->shadow));
    json_bool(j, "nmi_blocked", s->nmi_blocked);
    json_u64(j, "pending_debug", s->pending_debug);
    json_object(j, "registers");
    json_u64(j, "rip", s->rip);
    json_u64(j, "rflags", s->rflags);
    for (size_t i = 0; i < GPR_COUNT; i++)
        json_u64(j, gpr_names[i], s->gpr[i]);
    json_close_object(j);
    segments_json(j, s);
    control_json(j, s);
    vectors_json(j, &s->fpu);
}
