/*
 * Ports, the interrupt flag, HLT, and the instructions whose result comes from the CPU and not from the guest's
 * state: those go through the boundary.
 */
#include "core/x86/io.h"

#include <string.h>

/* ---- permission ---- */

#define TSS_IO_MAP_BASE 102u

enum step io_permitted(struct emu *e, uint16_t port, unsigned size)
{
    const struct vcpu_state *s = &e->cpu;
    if (!(s->cr0 & CR0_PE))
        return STEP_NEXT;
    bool v86 = s->rflags & RFLAGS_VM;
    if (!v86 && vcpu_cpl(s) <= (s->rflags & RFLAGS_IOPL) >> 12)
        return STEP_NEXT;
    /* Only a 32-bit or 64-bit TSS has a bitmap: types 9 and 11. */
    bool has_map =
        (s->tr.rights & SEGMENT_P) && (s->tr.rights & 0xd) == 9 && s->tr.limit >= TSS_IO_MAP_BASE + 1;
    if (!has_map)
        return raise_exception_code(e, VEC_GP, 0);
    uint16_t base = 0, bits = 0;
    enum step step = mem_read_system(e, s->tr.base + TSS_IO_MAP_BASE, &base, sizeof(base));
    if (step != STEP_NEXT)
        return step;
    /* Two bytes are always read, so the map ends with a byte of ones (SDM 1, 19.5.2). */
    uint32_t offset = base + port / 8u;
    if (offset + 1 > s->tr.limit)
        return raise_exception_code(e, VEC_GP, 0);
    step = mem_read_system(e, s->tr.base + offset, &bits, sizeof(bits));
    if (step != STEP_NEXT)
        return step;
    unsigned mask = ((1u << size) - 1) << (port & 7);
    return bits & mask ? raise_exception_code(e, VEC_GP, 0) : STEP_NEXT;
}

/* ---- the boundary ---- */

/* The boundary's answer to a crossing, as a step. */
static enum step crossed(struct emu *e, int result)
{
    if (result < 0)
        return STEP_STOP;
    if (result == BOUNDARY_STOP)
        e->boundary_stop = true;
    return STEP_NEXT;
}

enum step io_read(struct emu *e, uint16_t port, unsigned size, uint32_t *value)
{
    *value = 0;
    x87_sync(e);
    return crossed(e, e->boundary->ops->pio_read(e->boundary, e->position, port, size, value));
}

enum step io_write(struct emu *e, uint16_t port, unsigned size, uint32_t value)
{
    x87_sync(e);
    return crossed(e, e->boundary->ops->pio_write(e->boundary, e->position, port, size,
                                                  (uint32_t)truncate_to(value, size)));
}

enum step io_cpu_read(struct emu *e, enum boundary_source source, uint32_t argument, uint64_t *value,
                      bool *valid)
{
    *value = 0;
    *valid = true;
    x87_sync(e);
    return crossed(e, e->boundary->ops->cpu_read(e->boundary, e->position, source, argument, value, valid));
}

/* ---- IN, OUT ---- */

/* flags: the port is in imm, else in DX. */
static uint16_t port_of(const struct emu *e, const struct plan *p)
{
    return p->flags ? (uint16_t)(p->imm & 0xff) : (uint16_t)e->cpu.gpr[GPR_RDX];
}

static enum step do_in(struct emu *e, const struct plan *p)
{
    uint16_t port = port_of(e, p);
    uint32_t value;
    enum step step = io_permitted(e, port, p->op_size);
    if (step == STEP_NEXT)
        step = io_read(e, port, p->op_size, &value);
    if (step == STEP_NEXT)
        gpr_write(e, GPR_RAX, p->op_size, value);
    return step;
}

static enum step do_out(struct emu *e, const struct plan *p)
{
    uint16_t port = port_of(e, p);
    enum step step = io_permitted(e, port, p->op_size);
    if (step == STEP_NEXT)
        step = io_write(e, port, p->op_size, (uint32_t)e->cpu.gpr[GPR_RAX]);
    return step;
}

static bool setup_port(struct plan *p, const ZydisDecodedInstruction *insn,
                       const ZydisDecodedOperand *operands)
{
    (void)operands;
    unsigned size = insn->operand_width / 8u;
    p->op_size = (uint8_t)(size > 4 ? 4 : size);
    p->flags = !(insn->opcode & 8); /* E4..E7 have an immediate port, EC..EF use DX */
    return true;
}

/* ---- flags ---- */

static unsigned iopl(const struct emu *e)
{
    return (unsigned)((e->cpu.rflags & RFLAGS_IOPL) >> 12);
}

static bool protected_mode(const struct emu *e)
{
    return (e->cpu.cr0 & CR0_PE) != 0;
}

enum interrupt_flag { FLAG_IF, FLAG_VIF, FLAG_FAULT };

/* Which flag CLI and STI work on (SDM 2, CLI, table of actions). */
static enum interrupt_flag interrupt_flag(const struct emu *e)
{
    const struct vcpu_state *s = &e->cpu;
    if (!protected_mode(e))
        return FLAG_IF;
    if (s->rflags & RFLAGS_VM)
        return iopl(e) == 3 ? FLAG_IF : s->cr4 & CR4_VME ? FLAG_VIF : FLAG_FAULT;
    if (vcpu_cpl(s) <= iopl(e))
        return FLAG_IF;
    return vcpu_cpl(s) == 3 && (s->cr4 & CR4_PVI) ? FLAG_VIF : FLAG_FAULT;
}

static enum step do_cli(struct emu *e, const struct plan *p)
{
    (void)p;
    enum interrupt_flag flag = interrupt_flag(e);
    if (flag == FLAG_FAULT)
        return raise_exception_code(e, VEC_GP, 0);
    e->cpu.rflags &= flag == FLAG_IF ? ~RFLAGS_IF : ~RFLAGS_VIF;
    return STEP_NEXT;
}

static enum step do_sti(struct emu *e, const struct plan *p)
{
    (void)p;
    enum interrupt_flag flag = interrupt_flag(e);
    if (flag == FLAG_FAULT || (flag == FLAG_VIF && (e->cpu.rflags & RFLAGS_VIP)))
        return raise_exception_code(e, VEC_GP, 0);
    if (flag == FLAG_VIF) {
        e->cpu.rflags |= RFLAGS_VIF;
        return STEP_NEXT;
    }
    /* Only an STI that sets IF holds interrupts off for one more instruction. */
    if (!(e->cpu.rflags & RFLAGS_IF))
        e->cpu.shadow = SHADOW_STI;
    e->cpu.rflags |= RFLAGS_IF;
    return STEP_LEAVE;
}

static enum step do_flag(struct emu *e, const struct plan *p)
{
    switch (p->mnemonic) {
    case ZYDIS_MNEMONIC_CLC:
        e->cpu.rflags &= ~RFLAGS_CF;
        break;
    case ZYDIS_MNEMONIC_STC:
        e->cpu.rflags |= RFLAGS_CF;
        break;
    case ZYDIS_MNEMONIC_CMC:
        e->cpu.rflags ^= RFLAGS_CF;
        break;
    case ZYDIS_MNEMONIC_CLD:
        e->cpu.rflags &= ~RFLAGS_DF;
        break;
    default:
        e->cpu.rflags |= RFLAGS_DF;
        break;
    }
    return STEP_NEXT;
}

#define AH_FLAGS (RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF)

static enum step do_lahf(struct emu *e, const struct plan *p)
{
    (void)p;
    gpr_write(e, GPR_RAX | PLAN_REG_HIGH, 1, (e->cpu.rflags & AH_FLAGS) | RFLAGS_FIXED);
    return STEP_NEXT;
}

static enum step do_sahf(struct emu *e, const struct plan *p)
{
    (void)p;
    uint64_t ah = gpr_read(e, GPR_RAX | PLAN_REG_HIGH, 1);
    e->cpu.rflags = (e->cpu.rflags & ~AH_FLAGS) | (ah & AH_FLAGS);
    return STEP_NEXT;
}

/* ---- HLT ---- */

static enum step do_hlt(struct emu *e, const struct plan *p)
{
    (void)p;
    if (vcpu_cpl(&e->cpu) != 0)
        return raise_exception_code(e, VEC_GP, 0);
    x87_sync(e);
    enum step step = crossed(e, e->boundary->ops->halted(e->boundary, e->position));
    if (step != STEP_NEXT)
        return step;
    e->cpu.activity = ACTIVITY_HALTED;
    e->stop_reason = ENGINE_STOP_HALT;
    return STEP_EXIT;
}

/* ---- time, performance counters, random numbers ---- */

/* Whether the CPU model has the instruction was decided when it was decoded. */
static enum step do_rdtsc(struct emu *e, const struct plan *p)
{
    bool scp = p->mnemonic == ZYDIS_MNEMONIC_RDTSCP, valid;
    if ((e->cpu.cr4 & CR4_TSD) && protected_mode(e) && vcpu_cpl(&e->cpu) != 0)
        return raise_exception_code(e, VEC_GP, 0);
    uint64_t value;
    enum step step = io_cpu_read(e, scp ? SOURCE_RDTSCP : SOURCE_RDTSC, 0, &value, &valid);
    if (step != STEP_NEXT)
        return step;
    gpr_write(e, GPR_RAX, 4, (uint32_t)value);
    gpr_write(e, GPR_RDX, 4, value >> 32);
    if (scp)
        gpr_write(e, GPR_RCX, 4, (uint32_t)e->cpu.tsc_aux);
    return STEP_NEXT;
}

static enum step do_rdpmc(struct emu *e, const struct plan *p)
{
    (void)p;
    bool valid;
    if (!(e->cpu.cr4 & CR4_PCE) && protected_mode(e) && vcpu_cpl(&e->cpu) != 0)
        return raise_exception_code(e, VEC_GP, 0);
    uint64_t value;
    enum step step = io_cpu_read(e, SOURCE_RDPMC, (uint32_t)e->cpu.gpr[GPR_RCX], &value, &valid);
    if (step != STEP_NEXT)
        return step;
    gpr_write(e, GPR_RAX, 4, (uint32_t)value);
    gpr_write(e, GPR_RDX, 4, value >> 32);
    return STEP_NEXT;
}

static enum step do_random(struct emu *e, const struct plan *p)
{
    uint64_t value;
    bool valid;
    enum boundary_source source = p->mnemonic == ZYDIS_MNEMONIC_RDRAND ? SOURCE_RDRAND : SOURCE_RDSEED;
    enum step step = io_cpu_read(e, source, p->op_size, &value, &valid);
    if (step != STEP_NEXT)
        return step;
    gpr_write(e, p->reg[0], p->op_size, valid ? truncate_to(value, p->op_size) : 0);
    e->cpu.rflags = (e->cpu.rflags & ~RFLAGS_STATUS) | (valid ? RFLAGS_CF : 0);
    return STEP_NEXT;
}

/* MONITOR, MWAIT and TSX are not in any profile of the CPU model. */
static enum step do_absent(struct emu *e, const struct plan *p)
{
    (void)p;
    return raise_exception(e, VEC_UD);
}

/* ---- the table ---- */

static const struct plan_handler handlers[] = {
    {ZYDIS_MNEMONIC_IN, do_in, setup_port},   {ZYDIS_MNEMONIC_OUT, do_out, setup_port},
    {ZYDIS_MNEMONIC_CLI, do_cli, NULL},       {ZYDIS_MNEMONIC_STI, do_sti, NULL},
    {ZYDIS_MNEMONIC_CLC, do_flag, NULL},      {ZYDIS_MNEMONIC_STC, do_flag, NULL},
    {ZYDIS_MNEMONIC_CMC, do_flag, NULL},      {ZYDIS_MNEMONIC_CLD, do_flag, NULL},
    {ZYDIS_MNEMONIC_STD, do_flag, NULL},      {ZYDIS_MNEMONIC_LAHF, do_lahf, NULL},
    {ZYDIS_MNEMONIC_SAHF, do_sahf, NULL},     {ZYDIS_MNEMONIC_HLT, do_hlt, NULL},
    {ZYDIS_MNEMONIC_RDTSC, do_rdtsc, NULL},   {ZYDIS_MNEMONIC_RDTSCP, do_rdtsc, NULL},
    {ZYDIS_MNEMONIC_RDPMC, do_rdpmc, NULL},   {ZYDIS_MNEMONIC_RDRAND, do_random, NULL},
    {ZYDIS_MNEMONIC_RDSEED, do_random, NULL}, {ZYDIS_MNEMONIC_MONITOR, do_absent, NULL},
    {ZYDIS_MNEMONIC_MWAIT, do_absent, NULL},  {ZYDIS_MNEMONIC_XBEGIN, do_absent, NULL},
    {ZYDIS_MNEMONIC_XEND, do_absent, NULL},   {ZYDIS_MNEMONIC_XABORT, do_absent, NULL},
    {ZYDIS_MNEMONIC_XTEST, do_absent, NULL},
};

const struct plan_handlers io_handlers = {.list = handlers, .count = ARRAY_LEN(handlers)};
