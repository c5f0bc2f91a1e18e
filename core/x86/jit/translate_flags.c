/*
 * Where the guest's status flags are while its instructions go by. They have to be exact wherever translated code can be left,
 * and checks of memory operands overwrite the host's. So they are kept in the frame from the first such check on; or not
 * kept, where they can be had again from registers; or not looked after, where they are overwritten before anybody sees them.
 */
#include "core/x86/jit/translation.h"

void put_save_flags(struct emitter *m)
{
    put_move(m, SCRATCH_B, GPR_RAX);
    put8(m, 0x9f);                            /* lahf */
    put_rr(m, FORM_BYTE, 0x0f90, 0, GPR_RAX); /* seto al */
    put_rm(m, 0, 0x89, GPR_RAX, FRAME(flags));
    put_move(m, GPR_RAX, SCRATCH_B);
}

void put_restore_flags(struct emitter *m)
{
    put_move(m, SCRATCH_B, GPR_RAX);
    put_rm(m, 0, 0x8b, GPR_RAX, FRAME(flags));
    put8(m, 0x04); /* add al, 0x7f: OF */
    put8(m, 0x7f);
    put8(m, 0x9e); /* sahf */
    put_move(m, GPR_RAX, SCRATCH_B);
}

static unsigned operand_number(const ZydisDecodedOperand *o)
{
    return host_gpr((unsigned)ZydisRegisterGetId(
                        ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, o->reg.value)) &
                    15);
}

static void put_repeat(struct translation_state *t, const struct insn *insn)
{
    uint8_t map[GPR_COUNT], code[16];
    for (unsigned i = 0; i < GPR_COUNT; i++)
        map[i] = (uint8_t)host_gpr(i);
    size_t length = jit_reencode(t, insn, map, NULL, code);
    if (!length)
        t->failed = true;
    put_bytes(&t->m, code, length);
}

/* opcode for r/m, r (ADD 01, SUB 29) with R11 and the source operand. */
static void put_with_source(struct emitter *m, unsigned form, bool subtract,
                            const ZydisDecodedOperand *source)
{
    if (source->type == ZYDIS_OPERAND_TYPE_REGISTER) {
        put_rr(m, form, subtract ? 0x29 : 0x01, operand_number(source), SCRATCH_B);
    } else {
        put_rr(m, form, 0x81, subtract ? 5 : 0, SCRATCH_B);
        put32(m, (uint32_t)source->imm.value.u);
    }
}

void put_remat(struct translation_state *t, const struct flags_state *flags)
{
    const struct insn *insn = &t->insn[flags->remat_index];
    const ZydisDecodedOperand *to = &insn->op[0];
    struct emitter *m = &t->m;
    unsigned form = to->size == 64 ? FORM_W : to->size == 16 ? FORM_66 : to->size == 8 ? FORM_BYTE : 0;
    bool add = flags->remat == REMAT_ADD;
    switch (flags->remat) {
    case REMAT_REPEAT:
        put_repeat(t, insn);
        break;
    case REMAT_TEST:
        put_rr(m, form, to->size == 8 ? 0x84 : 0x85, operand_number(to), operand_number(to));
        break;
    default:
        put_rr(m, form, 0x89, operand_number(to), SCRATCH_B);
        put_with_source(m, form, add, &insn->op[1]);
        put_with_source(m, form, !add, &insn->op[1]);
        break;
    }
}

void flags_protect(struct translation_state *t)
{
    if (t->flags.host && !t->flags.saved && t->flags.remat == REMAT_NONE) {
        put_save_flags(&t->m);
        t->flags.saved = true;
    }
    t->flags.host = false;
}

void flags_to_host(struct translation_state *t)
{
    if (t->flags.host)
        return;
    if (t->flags.remat != REMAT_NONE)
        put_remat(t, &t->flags);
    else if (t->flags.saved)
        put_restore_flags(&t->m);
    t->flags.host = true;
}

void flags_to_frame(struct translation_state *t)
{
    if (t->flags.saved)
        return;
    if (!t->flags.host && t->flags.remat == REMAT_NONE)
        return;
    flags_to_host(t);
    put_save_flags(&t->m);
    t->flags.saved = true;
}

void flags_before(struct translation_state *t, const struct insn *insn)
{
    bool loses = t->flags.remat != REMAT_NONE && !t->flags.host && !t->flags.saved && !insn->sets_all &&
                 insn->flags_needed && (insn->gpr_written & t->insn[t->flags.remat_index].remat_gpr);
    if (insn->reads_flags || (insn->keeps_flags && insn->flags_needed) || loses)
        flags_to_host(t);
}

void flags_after(struct translation_state *t, const struct insn *insn)
{
    if (insn->sets_flags) {
        t->flags = (struct flags_state){.host = true, .remat = insn->remat};
        t->flags.remat_index = (uint8_t)(insn - t->insn);
    } else if (t->flags.remat != REMAT_NONE &&
               (insn->gpr_written & t->insn[t->flags.remat_index].remat_gpr)) {
        t->flags.remat = REMAT_NONE;
    }
}
