/* Register values: between struct vcpu_state and the bytes of g, G, p and P. */
#include <errno.h>
#include <string.h>

#include "gdbstub/internal.h"

/* The bits of RFLAGS that exist (SDM 1, 3.4.3). VM belongs to the mode. */
#define RFLAGS_SETTABLE                                                                                      \
    (RFLAGS_STATUS | RFLAGS_TF | RFLAGS_IF | RFLAGS_DF | RFLAGS_IOPL | RFLAGS_NT | RFLAGS_RF | RFLAGS_AC |   \
     RFLAGS_VIF | RFLAGS_VIP | RFLAGS_ID)

/* Registers of up to 64 bits. */
static uint64_t get_integer(const struct vcpu_state *state, const struct register_info *info)
{
    switch (info->class) {
    case REGISTER_GPR:
        return state->gpr[info->index];
    case REGISTER_RIP:
        return state->rip;
    case REGISTER_FLAGS:
        return state->rflags;
    case REGISTER_SELECTOR:
        return state->seg[info->index].selector;
    case REGISTER_BASE:
        return state->seg[info->index].base;
    case REGISTER_KERNEL_GS:
        return state->kernel_gs_base;
    case REGISTER_CONTROL:
        switch (info->index) {
        case 0:
            return state->cr0;
        case 2:
            return state->cr2;
        case 3:
            return state->cr3;
        case 4:
            return state->cr4;
        default:
            return state->cr8;
        }
    case REGISTER_EFER:
        return state->efer;
    case REGISTER_FPU_CONTROL:
        return fpu_control_get(state, (enum fpu_control)info->index);
    case REGISTER_MXCSR:
        return state->fpu.mxcsr;
    case REGISTER_ST:
    case REGISTER_XMM:
    case REGISTER_YMM_HIGH:
        break;
    }
    return 0;
}

/* Where a register of more than 64 bits lies in the state. */
static size_t wide_offset(const struct register_info *info)
{
    size_t i = info->index;
    switch (info->class) {
    case REGISTER_ST:
        return offsetof(struct vcpu_state, fpu.st) + 16 * i;
    case REGISTER_XMM:
        return offsetof(struct vcpu_state, fpu.ymm) + 32 * i;
    case REGISTER_YMM_HIGH:
        return offsetof(struct vcpu_state, fpu.ymm) + 32 * i + 16;
    default:
        return 0;
    }
}

void register_get(const struct vcpu_state *state, const struct register_info *info, uint8_t *out)
{
    if (info->bytes > 8) {
        memcpy(out, (const uint8_t *)state + wide_offset(info), info->bytes);
        return;
    }
    uint64_t value = get_integer(state, info);
    for (unsigned i = 0; i < info->bytes; i++)
        out[i] = (uint8_t)(value >> (8 * i));
}

static bool canonical(uint64_t address)
{
    return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}

static int set_address(uint64_t *to, uint64_t value, const struct register_info *info, struct error *err)
{
    if (!canonical(value))
        return error_set(err, -EINVAL, "%s: %#llx is not a canonical address", info->name,
                         (unsigned long long)value);
    *to = value;
    return 0;
}

static int set_control(struct vcpu_state *state, const struct register_info *info, uint64_t value,
                       struct error *err)
{
    switch (info->index) {
    case 2:
        state->cr2 = value;
        return 0;
    case 3:
        if (value >> 52)
            return error_set(err, -EINVAL, "cr3: bits 52..63 must be 0");
        state->cr3 = value;
        return 0;
    case 8:
        if (value > 15)
            return error_set(err, -EINVAL, "cr8: only 0..15");
        state->cr8 = value;
        return 0;
    default:
        return error_set(err, -EPERM, "%s: the mode of the vCPU cannot be changed by a debugger", info->name);
    }
}

static int set_integer(struct vcpu_state *state, const struct register_info *info, uint64_t value,
                       struct error *err)
{
    switch (info->class) {
    case REGISTER_GPR:
        state->gpr[info->index] = value;
        return 0;
    case REGISTER_RIP:
        return set_address(&state->rip, value, info, err);
    case REGISTER_FLAGS:
        state->rflags = (state->rflags & ~RFLAGS_SETTABLE) | (value & RFLAGS_SETTABLE);
        return 0;
    case REGISTER_SELECTOR:
        return error_set(err, -EPERM, "%s: segment registers cannot be changed by a debugger", info->name);
    case REGISTER_BASE:
        return set_address(&state->seg[info->index].base, value, info, err);
    case REGISTER_KERNEL_GS:
        return set_address(&state->kernel_gs_base, value, info, err);
    case REGISTER_CONTROL:
        return set_control(state, info, value, err);
    case REGISTER_EFER:
        return error_set(err, -EPERM, "efer: the mode of the vCPU cannot be changed by a debugger");
    case REGISTER_FPU_CONTROL:
        fpu_control_set(state, (enum fpu_control)info->index, (uint32_t)value);
        return 0;
    case REGISTER_MXCSR:
        state->fpu.mxcsr = value & 0xffff;
        return 0;
    case REGISTER_ST:
    case REGISTER_XMM:
    case REGISTER_YMM_HIGH:
        break;
    }
    return 0;
}

int register_set(struct vcpu_state *state, const struct register_info *info, const uint8_t *value,
                 struct error *err)
{
    uint8_t now[REGISTER_BYTES_MAX];
    register_get(state, info, now);
    if (memcmp(now, value, info->bytes) == 0)
        return 0;
    if (info->bytes > 8) {
        memcpy((uint8_t *)state + wide_offset(info), value, info->bytes);
        return 0;
    }
    /* What the description does not show of a register stays as it is. */
    uint64_t new = get_integer(state, info);
    for (unsigned i = 0; i < info->bytes; i++)
        new = (new & ~((uint64_t)0xff << (8 * i))) | (uint64_t)value[i] << (8 * i);
    return set_integer(state, info, new, err);
}

/* ---- the packets ---- */

void registers_read_all(struct gdb_server *s, struct text *t)
{
    const struct vcpu_state *state = threads_state(s);
    const struct register_info *info;
    (void)t;
    for (uint64_t n = 0; (info = register_find(s->described, n)); n++) {
        uint8_t value[REGISTER_BYTES_MAX];
        register_get(state, info, value);
        put_hex(&s->reply, value, info->bytes);
    }
}

static void store(struct gdb_server *s, int result, const struct vcpu_state *state, struct error *err)
{
    const struct vcpu_state *now = s->target->ops->state(s->target);
    if (result == 0 && threads_other(s))
        result = error_set(err, -EPERM, "only the registers of the thread that runs can be changed");
    if (result == 0 && !vcpu_state_equal(now, state))
        result = s->target->ops->set_state(s->target, state, err);
    if (result < 0)
        reply_message(s, result, err->message);
    else
        reply_ok(s);
}

void registers_write_all(struct gdb_server *s, struct text *t)
{
    struct vcpu_state state = *s->target->ops->state(s->target);
    struct error err = {0};
    const struct register_info *info;
    int result = 0;
    for (uint64_t n = 0; (info = register_find(s->described, n)); n++) {
        uint8_t value[REGISTER_BYTES_MAX];
        if (!text_bytes(t, value, info->bytes)) {
            reply_error(s, -EINVAL);
            return;
        }
        if (result == 0)
            result = register_set(&state, info, value, &err);
    }
    if (text_left(t) > 0)
        reply_error(s, -EINVAL);
    else
        store(s, result, &state, &err);
}

void registers_read_one(struct gdb_server *s, struct text *t)
{
    uint64_t n;
    uint8_t value[REGISTER_BYTES_MAX];
    const struct register_info *info = text_number(t, &n) ? register_find(s->described, n) : NULL;
    if (!info || text_left(t) > 0) {
        reply_error(s, -EINVAL);
        return;
    }
    register_get(threads_state(s), info, value);
    put_hex(&s->reply, value, info->bytes);
}

void registers_write_one(struct gdb_server *s, struct text *t)
{
    uint64_t n;
    uint8_t value[REGISTER_BYTES_MAX];
    struct error err = {0};
    const struct register_info *info = text_number(t, &n) ? register_find(s->described, n) : NULL;
    if (!info || !text_skip(t, '=') || !text_bytes(t, value, info->bytes) || text_left(t) > 0) {
        reply_error(s, -EINVAL);
        return;
    }
    struct vcpu_state state = *s->target->ops->state(s->target);
    int result = register_set(&state, info, value, &err);
    store(s, result, &state, &err);
}

/* The registers that GDB asks for after each stop: it need not then. */
void registers_expedite(struct gdb_server *s)
{
    const struct vcpu_state *state = s->target->ops->state(s->target);
    const struct register_info *info;
    for (uint64_t n = 0; (info = register_find(s->described, n)) && info->class != REGISTER_FLAGS; n++) {
        uint8_t value[REGISTER_BYTES_MAX];
        bool wanted = info->class == REGISTER_RIP ||
                      (info->class == REGISTER_GPR && (info->index == GPR_RSP || info->index == GPR_RBP));
        if (!wanted)
            continue;
        register_get(state, info, value);
        put_number(&s->reply, n);
        put_text(&s->reply, ":");
        put_hex(&s->reply, value, info->bytes);
        put_text(&s->reply, ";");
    }
}
