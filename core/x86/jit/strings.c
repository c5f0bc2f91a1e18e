/* REP MOVS and REP STOS as compilers use them: forwards, and each operand within one page that the TLB has. */
#include "core/x86/jit/internal.h"

static void store_elements(uint8_t *to, uint64_t value, uint64_t count, unsigned size)
{
    if (size == 1) {
        memset(to, (int)(value & 0xff), count);
        return;
    }
    for (uint64_t i = 0; i < count; i++, to += size)
        memcpy(to, &value, size);
}

bool jit_string(struct emu *e, const struct plan *p)
{
    uint64_t *gpr = e->cpu.gpr, count = gpr[GPR_RCX], size = p->op_size;
    bool move = p->extra == ZYDIS_MNEMONIC_MOVSB;
    if ((!move && p->extra != ZYDIS_MNEMONIC_STOSB) || p->rep == PLAN_REP_NONE || p->addr_size != 8 ||
        p->seg >= SEG_FS || (e->cpu.rflags & RFLAGS_DF) || count > PAGE_SIZE_BYTES ||
        e->limit - e->position < count)
        return false;
    if (count == 0)
        return true;
    uint64_t bytes = count * size;
    uint8_t *to = tlb_host(e, gpr[GPR_RDI], bytes, PLAN_MEM_WRITE);
    if (!to)
        return false;
    if (move) {
        const uint8_t *from = tlb_host(e, gpr[GPR_RSI], bytes, PLAN_MEM_READ);
        /* Element by element differs from memmove where the destination starts inside of the source. */
        if (!from || (to > from && to < from + bytes))
            return false;
        memmove(to, from, bytes);
        gpr[GPR_RSI] += bytes;
    } else {
        store_elements(to, gpr[GPR_RAX], count, (unsigned)size);
    }
    gpr[GPR_RDI] += bytes;
    gpr[GPR_RCX] = 0;
    e->position += count - 1;
    return true;
}
