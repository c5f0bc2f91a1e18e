#include "core/x86/allow_list.h"

#include <string.h>

#define ECX1(bit) (CPU_FEATURE_LEAF1_ECX + (bit))
#define EDX1(bit) (CPU_FEATURE_LEAF1_EDX + (bit))
#define EBX7(bit) (CPU_FEATURE_LEAF7_EBX + (bit))
#define ECX7(bit) (CPU_FEATURE_LEAF7_ECX + (bit))

#define XSAV(bit) (CPU_FEATURE_XSAVE_EAX + (bit))

#define FEATURE_BMI1   EBX7(3)
#define FEATURE_LAHF64 (CPU_FEATURE_EXT1_ECX + 0)
#define FEATURE_LZCNT  (CPU_FEATURE_EXT1_ECX + 5)

struct isa_feature {
    ZydisISASet isa_set;
    bool always;      /* part of every x86-64 CPU, or its handler decides by itself */
    uint16_t feature; /* CPUID bit */
};

/* SDM 2, CPUID, tables of feature flags. A set that is not listed is never advertised. */
static const struct isa_feature isa_features[] = {
    {ZYDIS_ISA_SET_I86, true, 0},
    {ZYDIS_ISA_SET_I186, true, 0},
    {ZYDIS_ISA_SET_I286REAL, true, 0},
    {ZYDIS_ISA_SET_I286PROTECTED, true, 0},
    {ZYDIS_ISA_SET_I386, true, 0},
    {ZYDIS_ISA_SET_I486, true, 0},
    {ZYDIS_ISA_SET_I486REAL, true, 0},
    {ZYDIS_ISA_SET_PENTIUMREAL, true, 0},
    {ZYDIS_ISA_SET_PPRO, true, 0},
    {ZYDIS_ISA_SET_LONGMODE, true, 0},
    {ZYDIS_ISA_SET_AMD, true, 0},
    {ZYDIS_ISA_SET_CMOV, false, EDX1(15)},
    {ZYDIS_ISA_SET_FAT_NOP, true, 0},
    {ZYDIS_ISA_SET_PAUSE, true, 0},
    {ZYDIS_ISA_SET_PREFETCH_NOP, true, 0},
    {ZYDIS_ISA_SET_RDPMC, true, 0},
    {ZYDIS_ISA_SET_X87, false, EDX1(0)},
    {ZYDIS_ISA_SET_FCMOV, false, EDX1(15)},
    {ZYDIS_ISA_SET_CLFSH, false, EDX1(19)},
    {ZYDIS_ISA_SET_PENTIUMMMX, false, EDX1(23)},
    {ZYDIS_ISA_SET_FXSAVE, false, EDX1(24)},
    {ZYDIS_ISA_SET_FXSAVE64, false, EDX1(24)},
    {ZYDIS_ISA_SET_SSE, false, EDX1(25)},
    {ZYDIS_ISA_SET_SSEMXCSR, false, EDX1(25)},
    {ZYDIS_ISA_SET_SSE_PREFETCH, false, EDX1(25)},
    {ZYDIS_ISA_SET_SSE2, false, EDX1(26)},
    {ZYDIS_ISA_SET_SSE2MMX, false, EDX1(26)},
    {ZYDIS_ISA_SET_SSE3, false, ECX1(0)},
    {ZYDIS_ISA_SET_SSE3X87, false, ECX1(0)},
    {ZYDIS_ISA_SET_PCLMULQDQ, false, ECX1(1)},
    {ZYDIS_ISA_SET_MONITOR, false, ECX1(3)},
    {ZYDIS_ISA_SET_SSSE3, false, ECX1(9)},
    {ZYDIS_ISA_SET_SSSE3MMX, false, ECX1(9)},
    {ZYDIS_ISA_SET_FMA, false, ECX1(12)},
    {ZYDIS_ISA_SET_CMPXCHG16B, false, ECX1(13)},
    {ZYDIS_ISA_SET_SSE4, false, ECX1(19)},
    {ZYDIS_ISA_SET_SSE42, false, ECX1(20)},
    {ZYDIS_ISA_SET_MOVBE, false, ECX1(22)},
    {ZYDIS_ISA_SET_POPCNT, false, ECX1(23)},
    {ZYDIS_ISA_SET_AES, false, ECX1(25)},
    {ZYDIS_ISA_SET_AVXAES, false, ECX1(25)},
    {ZYDIS_ISA_SET_XSAVE, false, ECX1(26)},
    {ZYDIS_ISA_SET_AVX, false, ECX1(28)},
    {ZYDIS_ISA_SET_F16C, false, ECX1(29)},

    {ZYDIS_ISA_SET_RDWRFSGS, false, EBX7(0)},
    {ZYDIS_ISA_SET_BMI1, false, FEATURE_BMI1},
    {ZYDIS_ISA_SET_AVX2, false, EBX7(5)},
    {ZYDIS_ISA_SET_AVX2GATHER, false, EBX7(5)},
    {ZYDIS_ISA_SET_BMI2, false, EBX7(8)},
    {ZYDIS_ISA_SET_INVPCID, false, EBX7(10)},

    {ZYDIS_ISA_SET_ADOX_ADCX, false, EBX7(19)},
    {ZYDIS_ISA_SET_SMAP, false, EBX7(20)},
    {ZYDIS_ISA_SET_CLFLUSHOPT, false, EBX7(23)},
    {ZYDIS_ISA_SET_CLWB, false, EBX7(24)},
    {ZYDIS_ISA_SET_SHA, false, EBX7(29)},
    {ZYDIS_ISA_SET_RDPID, false, ECX7(22)},

    {ZYDIS_ISA_SET_XSAVEOPT, false, XSAV(0)},
    {ZYDIS_ISA_SET_XSAVEC, false, XSAV(1)},
    {ZYDIS_ISA_SET_XSAVES, false, XSAV(3)},
};

/* What hardware executes whatever CPUID says. That a replay knows what it read, the boundary sees to. */
static const struct isa_feature unhideable[] = {
    {ZYDIS_ISA_SET_RDRAND, false, ECX1(30)},
    {ZYDIS_ISA_SET_RDSEED, false, EBX7(18)},
    {ZYDIS_ISA_SET_RDTSCP, false, CPU_FEATURE_EXT1_EDX + 27},
    {ZYDIS_ISA_SET_LZCNT, false, FEATURE_LZCNT},
};

bool allow_list_has_lzcnt(const struct cpu_model *model)
{
    return cpu_model_hides_features(model) || cpu_model_has(model, FEATURE_LZCNT);
}

bool allow_list_has_tzcnt(const struct cpu_model *model)
{
    return cpu_model_hides_features(model) || cpu_model_has(model, FEATURE_BMI1);
}

bool allow_list_model_has(const struct cpu_model *model, const ZydisDecodedInstruction *insn)
{
    if (insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
        insn->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
        return insn->encoding == ZYDIS_INSTRUCTION_ENCODING_3DNOW &&
               insn->meta.category == ZYDIS_CATEGORY_PREFETCH;
    bool legacy = insn->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY;
    if ((legacy && insn->meta.category == ZYDIS_CATEGORY_PREFETCH) || insn->mnemonic == ZYDIS_MNEMONIC_UD0 ||
        insn->mnemonic == ZYDIS_MNEMONIC_UD1)
        return true;
    if (legacy && insn->mnemonic == ZYDIS_MNEMONIC_TZCNT)
        return allow_list_has_tzcnt(model);
    if (insn->meta.isa_set == ZYDIS_ISA_SET_LAHF)
        return insn->machine_mode != ZYDIS_MACHINE_MODE_LONG_64 || cpu_model_has(model, FEATURE_LAHF64);
    for (size_t i = 0; i < ARRAY_LEN(unhideable); i++)
        if (unhideable[i].isa_set == insn->meta.isa_set)
            return cpu_model_hides_features(model) || cpu_model_has(model, unhideable[i].feature);
    /* VEX forms of AES and PCLMULQDQ need AVX as well. */
    if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX && insn->meta.isa_set != ZYDIS_ISA_SET_BMI1 &&
        insn->meta.isa_set != ZYDIS_ISA_SET_BMI2 && !cpu_model_has(model, ECX1(28)))
        return false;
    for (size_t i = 0; i < ARRAY_LEN(isa_features); i++) {
        const struct isa_feature *f = &isa_features[i];
        if (f->isa_set == insn->meta.isa_set)
            return f->always || cpu_model_has(model, f->feature);
    }
    return false;
}

/* General-purpose instructions, by name: most of what the base sets hold is not computation. */
static const ZydisMnemonic general_mnemonics[] = {
    ZYDIS_MNEMONIC_ADC,     ZYDIS_MNEMONIC_ADD,        ZYDIS_MNEMONIC_AND,       ZYDIS_MNEMONIC_BSF,
    ZYDIS_MNEMONIC_BSR,     ZYDIS_MNEMONIC_BSWAP,      ZYDIS_MNEMONIC_BT,        ZYDIS_MNEMONIC_BTC,
    ZYDIS_MNEMONIC_BTR,     ZYDIS_MNEMONIC_BTS,        ZYDIS_MNEMONIC_CBW,       ZYDIS_MNEMONIC_CDQ,
    ZYDIS_MNEMONIC_CDQE,    ZYDIS_MNEMONIC_CLC,        ZYDIS_MNEMONIC_CMC,       ZYDIS_MNEMONIC_CMP,
    ZYDIS_MNEMONIC_CMPXCHG, ZYDIS_MNEMONIC_CMPXCHG16B, ZYDIS_MNEMONIC_CMPXCHG8B, ZYDIS_MNEMONIC_CQO,
    ZYDIS_MNEMONIC_CWD,     ZYDIS_MNEMONIC_CWDE,       ZYDIS_MNEMONIC_DEC,       ZYDIS_MNEMONIC_DIV,
    ZYDIS_MNEMONIC_FCOMI,   ZYDIS_MNEMONIC_FCOMIP,     ZYDIS_MNEMONIC_FUCOMI,    ZYDIS_MNEMONIC_FUCOMIP,
    ZYDIS_MNEMONIC_IDIV,    ZYDIS_MNEMONIC_IMUL,       ZYDIS_MNEMONIC_INC,       ZYDIS_MNEMONIC_LAHF,
    ZYDIS_MNEMONIC_LZCNT,   ZYDIS_MNEMONIC_MOV,        ZYDIS_MNEMONIC_MOVBE,     ZYDIS_MNEMONIC_MOVSX,
    ZYDIS_MNEMONIC_MOVSXD,  ZYDIS_MNEMONIC_MOVZX,      ZYDIS_MNEMONIC_MUL,       ZYDIS_MNEMONIC_NEG,
    ZYDIS_MNEMONIC_NOT,     ZYDIS_MNEMONIC_OR,         ZYDIS_MNEMONIC_POPCNT,    ZYDIS_MNEMONIC_RCL,
    ZYDIS_MNEMONIC_RCR,     ZYDIS_MNEMONIC_ROL,        ZYDIS_MNEMONIC_ROR,       ZYDIS_MNEMONIC_SAHF,
    ZYDIS_MNEMONIC_SAR,     ZYDIS_MNEMONIC_SBB,        ZYDIS_MNEMONIC_SHL,       ZYDIS_MNEMONIC_SHLD,
    ZYDIS_MNEMONIC_SHR,     ZYDIS_MNEMONIC_SHRD,       ZYDIS_MNEMONIC_STC,       ZYDIS_MNEMONIC_SUB,
    ZYDIS_MNEMONIC_TEST,    ZYDIS_MNEMONIC_TZCNT,      ZYDIS_MNEMONIC_XADD,      ZYDIS_MNEMONIC_XOR,
};

/* Instruction sets that hold nothing but computation, apart from what has a handler in C. */
static const ZydisISASet compute_sets[] = {
    ZYDIS_ISA_SET_ADOX_ADCX, ZYDIS_ISA_SET_AES,      ZYDIS_ISA_SET_AVX,       ZYDIS_ISA_SET_AVX2,
    ZYDIS_ISA_SET_AVXAES,    ZYDIS_ISA_SET_BMI1,     ZYDIS_ISA_SET_BMI2,      ZYDIS_ISA_SET_F16C,
    ZYDIS_ISA_SET_FCMOV,     ZYDIS_ISA_SET_FMA,      ZYDIS_ISA_SET_PCLMULQDQ, ZYDIS_ISA_SET_PENTIUMMMX,
    ZYDIS_ISA_SET_SHA,       ZYDIS_ISA_SET_SSE,      ZYDIS_ISA_SET_SSE2,      ZYDIS_ISA_SET_SSE2MMX,
    ZYDIS_ISA_SET_SSE3,      ZYDIS_ISA_SET_SSE3X87,  ZYDIS_ISA_SET_SSE4,      ZYDIS_ISA_SET_SSE42,
    ZYDIS_ISA_SET_SSSE3,     ZYDIS_ISA_SET_SSSE3MMX, ZYDIS_ISA_SET_X87,
};

/* Members of those sets that are state management, or whose memory accesses are not one plain operand. */
static const ZydisMnemonic refused_mnemonics[] = {
    ZYDIS_MNEMONIC_FLDENV,     ZYDIS_MNEMONIC_FNSAVE,     ZYDIS_MNEMONIC_FNSTENV,
    ZYDIS_MNEMONIC_FRSTOR,     ZYDIS_MNEMONIC_FWAIT,      ZYDIS_MNEMONIC_LDMXCSR,
    ZYDIS_MNEMONIC_STMXCSR,    ZYDIS_MNEMONIC_VLDMXCSR,   ZYDIS_MNEMONIC_VSTMXCSR,
    ZYDIS_MNEMONIC_MASKMOVDQU, ZYDIS_MNEMONIC_MASKMOVQ,   ZYDIS_MNEMONIC_VMASKMOVDQU,
    ZYDIS_MNEMONIC_VMASKMOVPD, ZYDIS_MNEMONIC_VMASKMOVPS, ZYDIS_MNEMONIC_VPMASKMOVD,
    ZYDIS_MNEMONIC_VPMASKMOVQ, ZYDIS_MNEMONIC_VZEROALL,   ZYDIS_MNEMONIC_VZEROUPPER,
};

static bool mnemonic_is_allowed(const ZydisDecodedInstruction *insn)
{
    if (insn->meta.category == ZYDIS_CATEGORY_SETCC || insn->meta.category == ZYDIS_CATEGORY_CMOV)
        return true;
    for (size_t i = 0; i < ARRAY_LEN(general_mnemonics); i++)
        if (general_mnemonics[i] == insn->mnemonic)
            return true;
    for (size_t i = 0; i < ARRAY_LEN(refused_mnemonics); i++)
        if (refused_mnemonics[i] == insn->mnemonic)
            return false;
    for (size_t i = 0; i < ARRAY_LEN(compute_sets); i++)
        if (compute_sets[i] == insn->meta.isa_set)
            return true;
    return false;
}

static bool register_is_allowed(ZydisRegister reg)
{
    switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_GPR8:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
    case ZYDIS_REGCLASS_X87:
    case ZYDIS_REGCLASS_MMX:
    case ZYDIS_REGCLASS_FLAGS:
        return true;
    case ZYDIS_REGCLASS_XMM:
    case ZYDIS_REGCLASS_YMM:
        return ZydisRegisterGetId(reg) < 16;
    default:
        return reg == ZYDIS_REGISTER_X87CONTROL || reg == ZYDIS_REGISTER_X87STATUS ||
               reg == ZYDIS_REGISTER_X87TAG;
    }
}

/* BT, BTS, BTR and BTC with a register as bit offset reach far beyond their memory operand. */
static bool is_bit_string(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
        return operands[0].type == ZYDIS_OPERAND_TYPE_MEMORY &&
               operands[1].type == ZYDIS_OPERAND_TYPE_REGISTER;
    default:
        return false;
    }
}

bool allow_list_may_execute(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands)
{
    if (insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
        insn->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
        return false;
    if ((insn->attributes & ZYDIS_ATTRIB_IS_PRIVILEGED) || insn->meta.branch_type != ZYDIS_BRANCH_TYPE_NONE ||
        !mnemonic_is_allowed(insn))
        return false;
    unsigned memory_operands = 0;
    for (unsigned i = 0; i < insn->operand_count; i++) {
        const ZydisDecodedOperand *o = &operands[i];
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            if (o->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT || o->mem.type != ZYDIS_MEMOP_TYPE_MEM)
                return false;
            memory_operands++;
        } else if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
            if (!register_is_allowed(o->reg.value))
                return false;
        } else if (o->type != ZYDIS_OPERAND_TYPE_IMMEDIATE || o->imm.is_relative) {
            return false;
        }
    }
    return memory_operands <= 1 && !is_bit_string(insn, operands);
}

/* Names that end like a floating-point instruction's but only move bits. */
static const char *const bit_movers[] = {"mov",       "and",  "or",   "xor",    "shuf",    "unpck",  "blend",
                                         "broadcast", "perm", "test", "insert", "extract", "maskmov"};

bool allow_list_uses_mxcsr(const ZydisDecodedInstruction *insn)
{
    const char *name = ZydisMnemonicGetString(insn->mnemonic);
    if (insn->meta.isa_ext == ZYDIS_ISA_EXT_BASE)
        return false;
    if (name[0] == 'v')
        name++;
    if (strncmp(name, "cvt", 3) == 0)
        return true;
    size_t n = strlen(name);
    if (n < 4)
        return false;
    const char *tail = name + n - 2;
    if (strcmp(tail, "ps") != 0 && strcmp(tail, "pd") != 0 && strcmp(tail, "ss") != 0 &&
        strcmp(tail, "sd") != 0)
        return false;
    for (size_t i = 0; i < ARRAY_LEN(bit_movers); i++)
        if (strncmp(name, bit_movers[i], strlen(bit_movers[i])) == 0)
            return false;
    return true;
}
