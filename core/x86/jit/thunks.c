/* The code that leads into translated code and out of it, generated once for each engine. */
#include "core/x86/jit/internal.h"

/* After six pushes this keeps the stack aligned to 16 bytes at calls. */
#define FRAME_BYTES ((sizeof(struct jit_frame) + 15) / 16 * 16 + 8)

static const uint8_t callee_saved[6] = {GPR_RBX, GPR_RBP, GPR_R12, GPR_R13, GPR_R14, GPR_R15};

static struct mem guest_gpr(struct jit *j, unsigned guest)
{
    return mem_absolute(&j->e->cpu.gpr[guest]);
}

static unsigned host_of(unsigned guest)
{
    return guest == GPR_RSP ? HOST_OF_SP : guest;
}

/* LDMXCSR is 0F AE /2, STMXCSR /3. */
static void put_mxcsr(struct emitter *m, bool store, struct mem mem)
{
    put_rm(m, 0, 0x0fae, store ? 3 : 2, mem);
}

static void put_load_guest(struct jit *j, struct emitter *m)
{
    for (unsigned r = 0; r < GPR_COUNT; r++)
        if (frame_slot(r) < 0)
            put_load(m, host_of(r), guest_gpr(j, r));
}

static void put_store_guest(struct jit *j, struct emitter *m)
{
    for (unsigned r = 0; r < GPR_COUNT; r++)
        if (frame_slot(r) < 0)
            put_store(m, host_of(r), guest_gpr(j, r));
}

/* The guest's MXCSR goes back where it belongs, if it is loaded. depth: bytes pushed since translated code. */
static void put_unload_mxcsr(struct jit *j, struct emitter *m, int32_t depth)
{
    struct mem loaded = mem_at(GPR_RSP, depth + (int32_t)offsetof(struct jit_frame, mxcsr_loaded));
    put_rm(m, 0, 0x83, 7, loaded); /* cmp dword [loaded], 0 */
    put8(m, 0);
    uint8_t *skip = put_jump(m, COND_E);
    put_mxcsr(m, true, mem_absolute(&j->e->cpu.fpu.mxcsr));
    put_mxcsr(m, false, mem_at(GPR_RSP, depth + (int32_t)offsetof(struct jit_frame, mxcsr)));
    put_rm(m, 0, 0xc7, 0, loaded);
    put32(m, 0);
    patch_rel32(skip, m->at);
}

/* enter(code, left, flags) */
static void make_enter(struct jit *j, struct emitter *m)
{
    for (unsigned i = 0; i < ARRAY_LEN(callee_saved); i++) {
        put_prefixes(m, 0, NO_REG, NO_REG, callee_saved[i]);
        put8(m, 0x50 | (callee_saved[i] & 7));
    }
    put_rr(m, FORM_W, 0x81, 5, GPR_RSP); /* sub */
    put32(m, FRAME_BYTES);
    put_rm(m, 0, 0x89, GPR_RSI, FRAME(left));
    put_rm(m, 0, 0x89, GPR_RDX, FRAME(flags));
    put_rm(m, 0, 0xc7, 0, FRAME(mxcsr_loaded));
    put32(m, 0);
    put_store(m, GPR_RDI, FRAME(temp[0]));
    for (unsigned r = 0; r < GPR_COUNT; r++) {
        if (frame_slot(r) < 0)
            continue;
        put_load(m, GPR_RAX, guest_gpr(j, r));
        put_store(m, GPR_RAX, FRAME(gpr[frame_slot(r)]));
    }
    put_load_guest(j, m);
    put_rm(m, 0, 0xff, 4, FRAME(temp[0])); /* jmp */
}

/* Back to the caller of enter; the guest's state is in struct emu. */
static void put_leave(struct emitter *m)
{
    put_rr(m, FORM_W, 0x81, 0, GPR_RSP); /* add */
    put32(m, FRAME_BYTES);
    for (unsigned i = ARRAY_LEN(callee_saved); i-- > 0;) {
        put_prefixes(m, 0, NO_REG, NO_REG, callee_saved[i]);
        put8(m, 0x58 | (callee_saved[i] & 7));
    }
    put8(m, 0xc3);
}

/*
 * fn(e, R11, frame) in C: R11 is left behind with all of the guest's state in struct emu but for what is in the frame. depth: bytes
 * pushed since translated code. EAX: enum jit_way.
 */
static void put_call_c(struct jit *j, struct emitter *m, uint64_t fn, int32_t depth)
{
    put_store_guest(j, m);
    put_unload_mxcsr(j, m, depth);
    put_constant(m, GPR_RDI, (uintptr_t)j->e);
    put_move(m, GPR_RSI, SCRATCH_B);
    put_lea(m, GPR_RDX, mem_at(GPR_RSP, depth));
    if (depth % 16)
        put_lea(m, GPR_RSP, mem_at(GPR_RSP, -8));
    put_constant(m, GPR_RAX, fn);
    put_rr(m, 0, 0xff, 2, GPR_RAX);
    if (depth % 16)
        put_lea(m, GPR_RSP, mem_at(GPR_RSP, 8));
}

/* EAX: JIT_LEAVE or JIT_DISPATCH. */
static void put_leave_or_dispatch(struct jit *j, struct emitter *m)
{
    put_rr(m, 0, 0x83, 7, GPR_RAX); /* cmp */
    put8(m, JIT_LEAVE);
    uint8_t *leave = put_jump(m, COND_E);
    put_load_guest(j, m);
    put_rm(m, 0, 0xff, 4, FRAME(temp[0])); /* jmp */
    patch_rel32(leave, m->at);
    put_leave(m);
}

/* R11: what jit_exit is told. */
static void make_exits(struct jit *j, struct emitter *m)
{
    union {
        uint32_t (*fn)(struct emu *, uintptr_t, struct jit_frame *);
        uint64_t address;
    } leave = {.fn = jit_exit};
    j->exit_host = m->at;
    put_store(m, SCRATCH_B, FRAME(temp[0]));
    put_move(m, SCRATCH_B, GPR_RAX);
    put8(m, 0x9f);                            /* lahf */
    put_rr(m, FORM_BYTE, 0x0f90, 0, GPR_RAX); /* seto al */
    put_rm(m, 0, 0x89, GPR_RAX, FRAME(flags));
    put_move(m, GPR_RAX, SCRATCH_B);
    put_load(m, SCRATCH_B, FRAME(temp[0]));
    j->exit_saved = m->at;
    put_call_c(j, m, leave.address, 0);
    put_leave_or_dispatch(j, m);
}

/* Called from translated code with a site in R11 and the flags in the frame. */
static void make_call_step(struct jit *j, struct emitter *m)
{
    union {
        uint32_t (*fn)(struct emu *, const struct jit_site *, struct jit_frame *);
        uint64_t address;
    } step = {.fn = jit_step};
    j->call_step = m->at;
    put_call_c(j, m, step.address, 8);
    put_rr(m, 0, 0x85, GPR_RAX, GPR_RAX); /* test */
    uint8_t *away = put_jump(m, COND_NE);
    put_load_guest(j, m);
    put8(m, 0xc3);
    patch_rel32(away, m->at);
    put_lea(m, GPR_RSP, mem_at(GPR_RSP, 8)); /* the return address into translated code */
    put_leave_or_dispatch(j, m);
}

/* Called from translated code with the flags in the frame, or of no use. */
static void make_load_x87(struct jit *j, struct emitter *m)
{
    union {
        void (*fn)(struct emu *);
        uint64_t address;
    } load = {.fn = x87_load};
    j->load_x87 = m->at;
    put_store_guest(j, m);
    put_constant(m, GPR_RDI, (uintptr_t)j->e);
    put_rr(m, FORM_W, 0x83, 5, GPR_RSP); /* sub rsp, 8 */
    put8(m, 8);
    put_constant(m, GPR_RAX, load.address);
    put_rr(m, 0, 0xff, 2, GPR_RAX);
    put_rr(m, FORM_W, 0x83, 0, GPR_RSP);
    put8(m, 8);
    put_load_guest(j, m);
    put8(m, 0xc3);
}

void jit_make_thunks(struct jit *j)
{
    struct emitter m = {.at = j->writable, .end = j->writable + 4096};
    make_enter(j, &m);
    make_exits(j, &m);
    make_call_step(j, &m);
    make_load_x87(j, &m);
    union {
        const void *code;
        void (*enter)(const void *, int32_t, uint32_t);
    } start = {.code = j->executable};
    j->enter = start.enter;
    j->thunks_end = j->used = 4096;
}
