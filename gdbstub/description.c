/*
 * The target description: which registers there are, in which order they travel, and how GDB shows them (GDB manual,
 * appendix G). GDB knows the features org.gnu.gdb.i386.*; their registers have fixed names. What it does not know it shows as
 * described.
 */
#include <stdio.h>

#include "gdbstub/internal.h"

#define FLAG(name, bit) "<field name=\"" name "\" start=\"" #bit "\" end=\"" #bit "\" type=\"bool\"/>"

static const char core_types[] = "<flags id=\"i386_eflags\" size=\"4\">" FLAG("CF", 0) FLAG("", 1)
    FLAG("PF", 2) FLAG("AF", 4) FLAG("ZF", 6) FLAG("SF", 7) FLAG("TF", 8) FLAG("IF", 9) FLAG("DF", 10)
        FLAG("OF", 11) "<field name=\"IOPL\" start=\"12\" end=\"13\" type=\"uint32\"/>" FLAG("NT", 14)
            FLAG("RF", 16) FLAG("VM", 17) FLAG("AC", 18) FLAG("VIF", 19) FLAG("VIP", 20)
                FLAG("ID", 21) "</flags>";

static const char sse_types[] =
    "<vector id=\"v8bf16\" type=\"bfloat16\" count=\"8\"/>"
    "<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/>"
    "<vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>"
    "<vector id=\"v16i8\" type=\"int8\" count=\"16\"/>"
    "<vector id=\"v8i16\" type=\"int16\" count=\"8\"/>"
    "<vector id=\"v4i32\" type=\"int32\" count=\"4\"/>"
    "<vector id=\"v2i64\" type=\"int64\" count=\"2\"/>"
    "<union id=\"vec128\">"
    "<field name=\"v8_bfloat16\" type=\"v8bf16\"/>"
    "<field name=\"v4_float\" type=\"v4f\"/>"
    "<field name=\"v2_double\" type=\"v2d\"/>"
    "<field name=\"v16_int8\" type=\"v16i8\"/>"
    "<field name=\"v8_int16\" type=\"v8i16\"/>"
    "<field name=\"v4_int32\" type=\"v4i32\"/>"
    "<field name=\"v2_int64\" type=\"v2i64\"/>"
    "<field name=\"uint128\" type=\"uint128\"/>"
    "</union>"
    "<flags id=\"i386_mxcsr\" size=\"4\">" FLAG("IE", 0) FLAG("DE", 1) FLAG("ZE", 2) FLAG("OE", 3)
        FLAG("UE", 4) FLAG("PE", 5) FLAG("DAZ", 6) FLAG("IM", 7) FLAG("DM", 8) FLAG("ZM", 9) FLAG("OM", 10)
            FLAG("UM", 11) FLAG("PM", 12) "<field name=\"RC\" start=\"13\" end=\"14\" type=\"uint32\"/>" FLAG(
                "FZ", 15) "</flags>";

/* The bits of SDM 3, 2.5 and 2.2.1. */
#define CR0_FIELDS                                                                                           \
    FLAG("PE", 0)                                                                                            \
    FLAG("MP", 1)                                                                                            \
    FLAG("EM", 2)                                                                                            \
    FLAG("TS", 3)                                                                                            \
    FLAG("ET", 4) FLAG("NE", 5) FLAG("WP", 16) FLAG("AM", 18) FLAG("NW", 29) FLAG("CD", 30) FLAG("PG", 31)
#define CR4_FIELDS                                                                                           \
    FLAG("VME", 0)                                                                                           \
    FLAG("PVI", 1)                                                                                           \
    FLAG("TSD", 2)                                                                                           \
    FLAG("DE", 3)                                                                                            \
    FLAG("PSE", 4)                                                                                           \
    FLAG("PAE", 5) FLAG("MCE", 6) FLAG("PGE", 7) FLAG("PCE", 8) FLAG("OSFXSR", 9) FLAG("OSXMMEXCPT", 10)     \
        FLAG("UMIP", 11) FLAG("FSGSBASE", 16) FLAG("PCIDE", 17) FLAG("OSXSAVE", 18) FLAG("SMEP", 20)         \
            FLAG("SMAP", 21)
#define EFER_FIELDS FLAG("SCE", 0) FLAG("LME", 8) FLAG("LMA", 10) FLAG("NXE", 11)

#define SYSTEM_TYPES(size)                                                                                   \
    "<flags id=\"x86_cr0\" size=\"" size "\">" CR0_FIELDS "</flags><flags id=\"x86_cr4\" size=\"" size       \
    "\">" CR4_FIELDS "</flags><flags id=\"x86_efer\" size=\"" size "\">" EFER_FIELDS "</flags>"

static const char system_types_64[] = SYSTEM_TYPES("8");
static const char system_types_32[] = SYSTEM_TYPES("4");

/* ---- registers ---- */

#define INTEGER(n, reg, bytes, type)                                                                         \
    {                                                                                                        \
        n, REGISTER_GPR, reg, bytes, type, NULL                                                              \
    }
#define SELECTOR(n, seg)                                                                                     \
    {                                                                                                        \
        n, REGISTER_SELECTOR, seg, 4, "int32", NULL                                                          \
    }
#define ST(n)                                                                                                \
    {                                                                                                        \
        "st" #n, REGISTER_ST, n, 10, "i387_ext", NULL                                                        \
    }
#define FPU(n, which)                                                                                        \
    {                                                                                                        \
        n, REGISTER_FPU_CONTROL, which, 4, "int", "float"                                                    \
    }
#define XMM(n)                                                                                               \
    {                                                                                                        \
        "xmm" #n, REGISTER_XMM, n, 16, "vec128", NULL                                                        \
    }
#define YMM(n)                                                                                               \
    {                                                                                                        \
        "ymm" #n "h", REGISTER_YMM_HIGH, n, 16, "uint128", NULL                                              \
    }
#define MXCSR                                                                                                \
    {                                                                                                        \
        "mxcsr", REGISTER_MXCSR, 0, 4, "i386_mxcsr", "vector"                                                \
    }
#define CONTROL(n, bytes, type)                                                                              \
    {                                                                                                        \
        "cr" #n, REGISTER_CONTROL, n, bytes, type, NULL                                                      \
    }

#define SELECTORS                                                                                            \
    SELECTOR("cs", SEG_CS), SELECTOR("ss", SEG_SS), SELECTOR("ds", SEG_DS), SELECTOR("es", SEG_ES),          \
        SELECTOR("fs", SEG_FS), SELECTOR("gs", SEG_GS)
#define X87                                                                                                  \
    ST(0), ST(1), ST(2), ST(3), ST(4), ST(5), ST(6), ST(7), FPU("fctrl", FPU_FCTRL),                         \
        FPU("fstat", FPU_FSTAT), FPU("ftag", FPU_FTAG), FPU("fiseg", FPU_FISEG), FPU("fioff", FPU_FIOFF),    \
        FPU("foseg", FPU_FOSEG), FPU("fooff", FPU_FOOFF), FPU("fop", FPU_FOP)
#define EIGHT(R)  R(0), R(1), R(2), R(3), R(4), R(5), R(6), R(7)
#define EIGHT2(R) R(8), R(9), R(10), R(11), R(12), R(13), R(14), R(15)

static const struct register_info core_64[] = {
    INTEGER("rax", GPR_RAX, 8, "int64"),
    INTEGER("rbx", GPR_RBX, 8, "int64"),
    INTEGER("rcx", GPR_RCX, 8, "int64"),
    INTEGER("rdx", GPR_RDX, 8, "int64"),
    INTEGER("rsi", GPR_RSI, 8, "int64"),
    INTEGER("rdi", GPR_RDI, 8, "int64"),
    INTEGER("rbp", GPR_RBP, 8, "data_ptr"),
    INTEGER("rsp", GPR_RSP, 8, "data_ptr"),
    INTEGER("r8", GPR_R8, 8, "int64"),
    INTEGER("r9", GPR_R9, 8, "int64"),
    INTEGER("r10", GPR_R10, 8, "int64"),
    INTEGER("r11", GPR_R11, 8, "int64"),
    INTEGER("r12", GPR_R12, 8, "int64"),
    INTEGER("r13", GPR_R13, 8, "int64"),
    INTEGER("r14", GPR_R14, 8, "int64"),
    INTEGER("r15", GPR_R15, 8, "int64"),
    {"rip", REGISTER_RIP, 0, 8, "code_ptr", NULL},
    {"eflags", REGISTER_FLAGS, 0, 4, "i386_eflags", NULL},
    SELECTORS,
    X87,
};

static const struct register_info core_32[] = {
    INTEGER("eax", GPR_RAX, 4, "int32"),
    INTEGER("ecx", GPR_RCX, 4, "int32"),
    INTEGER("edx", GPR_RDX, 4, "int32"),
    INTEGER("ebx", GPR_RBX, 4, "int32"),
    INTEGER("esp", GPR_RSP, 4, "data_ptr"),
    INTEGER("ebp", GPR_RBP, 4, "data_ptr"),
    INTEGER("esi", GPR_RSI, 4, "int32"),
    INTEGER("edi", GPR_RDI, 4, "int32"),
    {"eip", REGISTER_RIP, 0, 4, "code_ptr", NULL},
    {"eflags", REGISTER_FLAGS, 0, 4, "i386_eflags", NULL},
    SELECTORS,
    X87,
};

static const struct register_info sse_64[] = {EIGHT(XMM), EIGHT2(XMM), MXCSR};
static const struct register_info sse_32[] = {EIGHT(XMM), MXCSR};
static const struct register_info avx_64[] = {EIGHT(YMM), EIGHT2(YMM)};
static const struct register_info avx_32[] = {EIGHT(YMM)};

static const struct register_info segments_64[] = {
    {"fs_base", REGISTER_BASE, SEG_FS, 8, "int64", NULL},
    {"gs_base", REGISTER_BASE, SEG_GS, 8, "int64", NULL},
};

static const struct register_info system_64[] = {
    {"k_gs_base", REGISTER_KERNEL_GS, 0, 8, "int64", NULL},
    CONTROL(0, 8, "x86_cr0"),
    CONTROL(2, 8, "int64"),
    CONTROL(3, 8, "int64"),
    CONTROL(4, 8, "x86_cr4"),
    CONTROL(8, 8, "int64"),
    {"efer", REGISTER_EFER, 0, 8, "x86_efer", NULL},
};

static const struct register_info system_32[] = {
    {"fs_base", REGISTER_BASE, SEG_FS, 4, "int32", NULL},
    {"gs_base", REGISTER_BASE, SEG_GS, 4, "int32", NULL},
    CONTROL(0, 4, "x86_cr0"),
    CONTROL(2, 4, "int32"),
    CONTROL(3, 4, "int32"),
    CONTROL(4, 4, "x86_cr4"),
    {"efer", REGISTER_EFER, 0, 4, "x86_efer", NULL},
};

#define FEATURE(name, types, registers)                                                                      \
    {                                                                                                        \
        name, types, registers, ARRAY_LEN(registers)                                                         \
    }

static const struct register_feature features_64[] = {
    FEATURE("org.gnu.gdb.i386.core", core_types, core_64),
    FEATURE("org.gnu.gdb.i386.sse", sse_types, sse_64),
    FEATURE("org.gnu.gdb.i386.segments", "", segments_64),
    FEATURE("org.gnu.gdb.i386.avx", "", avx_64),
    FEATURE("org.dejavm.system", system_types_64, system_64),
    {0},
};

static const struct register_feature features_32[] = {
    FEATURE("org.gnu.gdb.i386.core", core_types, core_32),
    FEATURE("org.gnu.gdb.i386.sse", sse_types, sse_32),
    FEATURE("org.gnu.gdb.i386.avx", "", avx_32),
    FEATURE("org.dejavm.system", system_types_32, system_32),
    {0},
};

const struct register_feature *register_features(enum gdb_description description)
{
    return description == GDB_DESCRIPTION_X86_64 ? features_64 : features_32;
}

const struct register_info *register_find(enum gdb_description description, uint64_t n)
{
    for (const struct register_feature *f = register_features(description); f->name; f++) {
        if (n < f->count)
            return &f->registers[n];
        n -= f->count;
    }
    return NULL;
}

/* ---- the document ---- */

const char *const description_names[GDB_DESCRIPTION_COUNT] = {
    [GDB_DESCRIPTION_AUTO] = "auto",
    [GDB_DESCRIPTION_X86_64] = "i386:x86-64",
    [GDB_DESCRIPTION_I386] = "i386",
    [GDB_DESCRIPTION_I8086] = "i8086",
};

static void put_register(struct buffer *out, const struct register_info *r, unsigned number)
{
    char text[256];
    int n =
        snprintf(text, sizeof(text), "<reg name=\"%s\" bitsize=\"%u\" type=\"%s\" regnum=\"%u\"%s%s%s/>\n",
                 r->name, r->bytes * 8u, r->type, number, r->group ? " group=\"" : "",
                 r->group ? r->group : "", r->group ? "\"" : "");
    buffer_put(out, text, (size_t)n);
}

/*
 * No operating system is behind these registers, whatever GDB was configured for: with GNU/Linux it would look for signal frames
 * and a dynamic linker.
 */
void description_write(enum gdb_description description, struct buffer *out)
{
    unsigned number = 0;
    put_text(out, "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n"
                  "<target version=\"1.0\">\n<architecture>");
    put_text(out, description_names[description]);
    put_text(out, "</architecture>\n<osabi>none</osabi>\n");
    for (const struct register_feature *f = register_features(description); f->name; f++) {
        put_text(out, "<feature name=\"");
        put_text(out, f->name);
        put_text(out, "\">\n");
        put_text(out, f->types);
        for (size_t i = 0; i < f->count; i++)
            put_register(out, &f->registers[i], number++);
        put_text(out, "</feature>\n");
    }
    put_text(out, "</target>\n");
}
