/* REP MOVS and REP STOS as compilers use them: forwards, and on pages that the TLB has. */
#include "core/x86/jit/internal.h"

/* What is longer is left to stage 1, which looks at kicks now and then. */
#define ITERATIONS_MAX ((uint64_t)1 << 16)

static bool is_simple(const struct emu *e, const struct plan *p, uint64_t count)
{
    bool known = p->extra == ZYDIS_MNEMONIC_MOVSB || p->extra == ZYDIS_MNEMONIC_STOSB;
    return known && p->rep != PLAN_REP_NONE && p->addr_size == 8 && p->seg < SEG_FS &&
           !(e->cpu.rflags & RFLAGS_DF) && count <= ITERATIONS_MAX && e->limit - e->position >= count;
}

/* How many of count elements at linear lie in its page. */
static uint64_t elements_in_page(gva_t linear, uint64_t size, uint64_t count)
{
    uint64_t fit = (PAGE_SIZE_BYTES - (linear & PAGE_MASK)) / size;
    return fit < count ? fit : count;
}

/* As many iterations as lie in one page of each operand; 0: the next one is not a simple one. */
static uint64_t iterations(struct emu *e, const struct plan *p, uint64_t count)
{
    uint64_t *gpr = e->cpu.gpr, size = p->op_size;
    bool move = p->extra == ZYDIS_MNEMONIC_MOVSB;
    count = elements_in_page(gpr[GPR_RDI], size, count);
    if (move)
        count = elements_in_page(gpr[GPR_RSI], size, count);
    uint64_t bytes = count * size;
    uint8_t *to = count ? tlb_host(e, gpr[GPR_RDI], bytes, PLAN_MEM_WRITE) : NULL;
    if (!to)
        return 0;
    if (move) {
        const uint8_t *from = tlb_host(e, gpr[GPR_RSI], bytes, PLAN_MEM_READ);
        /* Element by element differs from memmove where the destination starts inside of the source. */
        if (!from || (to > from && to < from + bytes))
            return 0;
        memmove(to, from, bytes);
        gpr[GPR_RSI] += bytes;
    } else {
        string_fill(to, gpr[GPR_RAX], count, p->op_size);
    }
    gpr[GPR_RDI] += bytes;
    return count;
}

bool jit_string(struct emu *e, const struct plan *p)
{
    uint64_t count = e->cpu.gpr[GPR_RCX];
    if (!is_simple(e, p, count))
        return false;
    if (count == 0)
        return true;
    while (count) {
        uint64_t done = iterations(e, p, count);
        if (!done)
            return false;
        count -= done;
        e->cpu.gpr[GPR_RCX] = count;
        e->position += done;
    }
    e->position--;
    return true;
}
