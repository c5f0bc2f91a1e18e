#include "tests/gdbstub/walk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <Zydis/Zydis.h>

#include "core/base/file.h"
#include "core/x86/inspect.h"

/* Programs write only to the lowest 2 MiB. */
enum { STEPS_MAX = 200000, WRITABLE_BYTES = 2 << 20 };

static struct walk *walk_of(struct debug_target *t)
{
    return container_of(t, struct walk, target);
}

struct vcpu_state *walk_state(struct walk *w)
{
    return &w->steps[w->at].state;
}

/* ---- what an instruction accesses ---- */

static ZydisMachineMode machine_mode(const struct vcpu_state *s)
{
    if (vcpu_in_64bit_code(s))
        return ZYDIS_MACHINE_MODE_LONG_64;
    return s->seg[SEG_CS].rights & SEGMENT_DB ? ZYDIS_MACHINE_MODE_LEGACY_32 : ZYDIS_MACHINE_MODE_LEGACY_16;
}

static gva_t linear_rip(const struct vcpu_state *s)
{
    return vcpu_in_64bit_code(s) ? s->rip : (uint32_t)(s->seg[SEG_CS].base + s->rip);
}

static uint64_t register_value(const struct vcpu_state *s, ZydisRegister reg)
{
    ZydisRegister wide = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
    if (wide >= ZYDIS_REGISTER_RAX && wide <= ZYDIS_REGISTER_R15)
        return s->gpr[wide - ZYDIS_REGISTER_RAX];
    return 0;
}

static gva_t operand_address(const struct vcpu_state *s, const ZydisDecodedInstruction *i,
                             const ZydisDecodedOperand *o)
{
    uint64_t a = (uint64_t)o->mem.disp.value;
    if (o->mem.base == ZYDIS_REGISTER_RIP || o->mem.base == ZYDIS_REGISTER_EIP)
        a += s->rip + i->length;
    else
        a += register_value(s, o->mem.base);
    a += register_value(s, o->mem.index) * o->mem.scale;
    /* A push goes below the stack pointer that the operand names. */
    if (o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN && o->actions & ZYDIS_OPERAND_ACTION_WRITE &&
        (i->mnemonic == ZYDIS_MNEMONIC_PUSH || i->mnemonic == ZYDIS_MNEMONIC_CALL))
        a -= o->size / 8u;
    if (i->address_width < 64)
        a &= ((uint64_t)1 << i->address_width) - 1;
    if (o->mem.segment >= ZYDIS_REGISTER_ES && o->mem.segment <= ZYDIS_REGISTER_GS)
        a += s->seg[o->mem.segment - ZYDIS_REGISTER_ES].base;
    return a;
}

static void note_accesses(struct walk *w, struct walk_step *step)
{
    const struct vcpu_state *s = &step->state;
    uint8_t code[ZYDIS_MAX_INSTRUCTION_LENGTH];
    size_t length = x86_read_virtual(w->vm->ram, s, linear_rip(s), code, sizeof(code));
    ZydisDecoder decoder;
    ZydisDecodedInstruction instruction;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    ZydisMachineMode mode = machine_mode(s);
    ZydisDecoderInit(&decoder, mode,
                     mode == ZYDIS_MACHINE_MODE_LONG_64     ? ZYDIS_STACK_WIDTH_64
                     : mode == ZYDIS_MACHINE_MODE_LEGACY_32 ? ZYDIS_STACK_WIDTH_32
                                                            : ZYDIS_STACK_WIDTH_16);
    memset(step->access, 0, sizeof(step->access));
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code, length, &instruction, operands)))
        return;
    for (unsigned i = 0, n = 0; i < instruction.operand_count && n < 2; i++) {
        const ZydisDecodedOperand *o = &operands[i];
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.type == ZYDIS_MEMOP_TYPE_MEM)
            step->access[n++] = (struct walk_access){
                operand_address(s, &instruction, o), (uint8_t)(o->size / 8),
                o->actions & ZYDIS_OPERAND_ACTION_MASK_READ, o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE};
    }
}

/* ---- recording ---- */

static void note_changes(struct walk *w, uint8_t *shadow, size_t *capacity)
{
    struct guest_ram *ram = w->vm->ram;
    for (size_t i = 0; i < ram->dirty_count; i++) {
        size_t start = (size_t)ram->dirty_list[i] << PAGE_SHIFT;
        assert_true(start < WRITABLE_BYTES);
        for (size_t at = start; at < start + PAGE_SIZE_BYTES; at++) {
            if (shadow[at] == ram->host[at])
                continue;
            if (w->change_count == *capacity) {
                *capacity = *capacity ? *capacity * 2 : 1024;
                w->changes = realloc(w->changes, *capacity * sizeof(*w->changes));
                assert_non_null(w->changes);
            }
            w->changes[w->change_count++] = (struct walk_change){(uint32_t)at, shadow[at], ram->host[at]};
            shadow[at] = ram->host[at];
        }
    }
    ram_clear_dirty(ram);
}

static void record(struct walk *w)
{
    size_t capacity = 0;
    uint8_t *shadow = malloc(WRITABLE_BYTES);
    w->steps = malloc((STEPS_MAX + 1) * sizeof(*w->steps));
    assert_true(shadow && w->steps);
    ram_clear_dirty(w->vm->ram);
    memcpy(shadow, w->vm->ram->host, WRITABLE_BYTES);
    for (w->count = 0;; w->count++) {
        struct walk_step *step = &w->steps[w->count];
        step->state = *vm_state(w->vm);
        step->first_change = w->change_count;
        note_accesses(w, step);
        if (step->state.activity != ACTIVITY_RUNNING)
            break;
        assert_true(w->count < STEPS_MAX);
        vm_run(w->vm, vm_position(w->vm) + 1);
        note_changes(w, shadow, &capacity);
    }
    free(shadow);
    w->at = w->count;
    walk_goto(w, 0);
}

static size_t end_of_changes(const struct walk *w, size_t step)
{
    return step < w->count ? w->steps[step + 1].first_change : w->change_count;
}

static void forth(struct walk *w)
{
    for (size_t i = w->steps[w->at].first_change; i < end_of_changes(w, w->at); i++)
        w->vm->ram->host[w->changes[i].offset] = w->changes[i].after;
    w->at++;
}

static void back(struct walk *w)
{
    w->at--;
    for (size_t i = end_of_changes(w, w->at); i > w->steps[w->at].first_change; i--)
        w->vm->ram->host[w->changes[i - 1].offset] = w->changes[i - 1].before;
}

void walk_goto(struct walk *w, size_t at)
{
    assert_true(at <= w->count);
    while (w->at < at)
        forth(w);
    while (w->at > at)
        back(w);
}

/* ---- the target: registers and memory ---- */

static const struct vcpu_state *op_state(struct debug_target *t)
{
    struct walk *w = walk_of(t);
    return w->live ? vm_state(w->vm) : walk_state(w);
}

static int read_only(struct error *err)
{
    return error_set(err, -EROFS, "a recording cannot be changed");
}

static int op_set_state(struct debug_target *t, const struct vcpu_state *state, struct error *err)
{
    struct walk *w = walk_of(t);
    if (!w->live)
        return read_only(err);
    return w->vm->engine->ops->set_state(w->vm->engine, state, err);
}

static size_t op_read(struct debug_target *t, gva_t address, void *out, size_t length)
{
    return x86_read_virtual(walk_of(t)->vm->ram, op_state(t), address, out, length);
}

static size_t op_read_physical(struct debug_target *t, gpa_t address, void *out, size_t length)
{
    struct guest_ram *ram = walk_of(t)->vm->ram;
    size_t n = 0;
    while (n < length && ram_read(ram, address + n, (uint8_t *)out + n, 1) == 0)
        n++;
    return n;
}

static int op_write_physical(struct debug_target *t, gpa_t address, const void *data, size_t length,
                             struct error *err)
{
    struct walk *w = walk_of(t);
    if (!w->live)
        return read_only(err);
    if (ram_write(w->vm->ram, address, data, length) < 0)
        return error_set(err, -EFAULT, "there is no RAM at physical address %#llx",
                         (unsigned long long)address);
    emu_ram_reset(w->vm->engine);
    return 0;
}

static int op_write(struct debug_target *t, gva_t address, const void *data, size_t length, struct error *err)
{
    struct walk *w = walk_of(t);
    gpa_t gpa;
    if (!w->live)
        return read_only(err);
    for (size_t i = 0; i < length; i++) {
        if (x86_translate(w->vm->ram, op_state(t), address + i, &gpa) < 0)
            return error_set(err, -EFAULT, "%#llx is not mapped", (unsigned long long)(address + i));
        int r = op_write_physical(t, gpa, (const uint8_t *)data + i, 1, err);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- the target: running ---- */

static bool same_point(const struct walk_point *p, enum debug_point_kind kind, gva_t address, uint64_t length)
{
    return p->kind == kind && p->address == address && (kind < DEBUG_WATCH_WRITE || p->length == length);
}

static int op_insert(struct debug_target *t, enum debug_point_kind kind, gva_t address, uint64_t length,
                     struct error *err)
{
    struct walk *w = walk_of(t);
    for (size_t i = 0; i < w->point_count; i++)
        if (same_point(&w->points[i], kind, address, length))
            return 0;
    if (w->point_count == WALK_POINTS)
        return error_set(err, -ENOSPC, "no room for more points");
    w->points[w->point_count++] = (struct walk_point){kind, address, length};
    return 0;
}

static int op_remove(struct debug_target *t, enum debug_point_kind kind, gva_t address, uint64_t length,
                     struct error *err)
{
    struct walk *w = walk_of(t);
    for (size_t i = 0; i < w->point_count; i++) {
        if (same_point(&w->points[i], kind, address, length)) {
            w->points[i] = w->points[--w->point_count];
            return 0;
        }
    }
    return error_set(err, -ENOENT, "no such point");
}

static bool accesses(const struct walk_step *step, const struct walk_point *p, gva_t *address)
{
    for (size_t i = 0; i < 2; i++) {
        const struct walk_access *a = &step->access[i];
        bool kind = p->kind == DEBUG_WATCH_WRITE  ? a->write
                    : p->kind == DEBUG_WATCH_READ ? a->read
                                                  : a->read || a->write;
        if (kind && a->length && a->address < p->address + p->length && p->address < a->address + a->length) {
            *address = a->address > p->address ? a->address : p->address;
            return true;
        }
    }
    return false;
}

static bool watch_hit(const struct walk *w, const struct walk_step *step, struct debug_stop *stop)
{
    for (size_t i = 0; i < w->point_count; i++) {
        const struct walk_point *p = &w->points[i];
        if (p->kind >= DEBUG_WATCH_WRITE && accesses(step, p, &stop->address)) {
            stop->reason = DEBUG_STOP_WATCH;
            stop->point = p->kind;
            return true;
        }
    }
    return false;
}

static bool break_hit(struct walk *w, struct debug_stop *stop)
{
    gva_t rip = linear_rip(op_state(&w->target));
    for (size_t i = 0; i < w->point_count; i++) {
        const struct walk_point *p = &w->points[i];
        if (p->kind < DEBUG_WATCH_WRITE && p->address == rip) {
            *stop = (struct debug_stop){DEBUG_STOP_BREAK, p->kind, rip, ""};
            return true;
        }
    }
    return false;
}

/* Makes one transition; the step that describes it, or NULL at the end of history. */
static const struct walk_step *move(struct walk *w, enum debug_direction direction)
{
    if (w->live) {
        if (w->live_steps == 0 || vm_state(w->vm)->activity != ACTIVITY_RUNNING)
            return NULL;
        w->live_steps--;
        w->steps[0].state = *vm_state(w->vm);
        note_accesses(w, &w->steps[0]);
        vm_run(w->vm, vm_position(w->vm) + 1);
        return &w->steps[0];
    }
    if (direction == DEBUG_FORWARDS) {
        if (w->at == w->count)
            return NULL;
        forth(w);
        return &w->steps[w->at - 1];
    }
    if (w->at == 0)
        return NULL;
    back(w);
    return &w->steps[w->at];
}

static void spin(bool (*interrupted)(void *context), void *context, struct debug_stop *stop)
{
    while (!interrupted(context))
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    stop->reason = DEBUG_STOP_INTERRUPTED;
}

static int op_resume(struct debug_target *t, enum debug_direction direction, bool step,
                     bool (*interrupted)(void *context), void *context, struct debug_stop *stop,
                     struct error *err)
{
    struct walk *w = walk_of(t);
    *stop = (struct debug_stop){.reason = DEBUG_STOP_NONE};
    if (w->on_run && !step)
        w->on_run(w);
    if (w->fail)
        return error_set(err, -EIO, "the recording is damaged");
    if (w->spin) {
        spin(interrupted, context, stop);
        return 0;
    }
    for (unsigned n = 1;; n++) {
        const struct walk_step *made = move(w, direction);
        if (!made) {
            stop->reason = direction == DEBUG_FORWARDS ? DEBUG_STOP_HISTORY_END : DEBUG_STOP_HISTORY_BEGIN;
            return 0;
        }
        if (watch_hit(w, made, stop))
            return 0;
        if (step) {
            stop->reason = DEBUG_STOP_STEP;
            return 0;
        }
        if (break_hit(w, stop))
            return 0;
        if (n % 256 == 0 && interrupted(context)) {
            stop->reason = DEBUG_STOP_INTERRUPTED;
            return 0;
        }
    }
}

static bool op_can_reverse(struct debug_target *t)
{
    return !walk_of(t)->live;
}

/* ---- the target: monitor ---- */

static void say(struct buffer *out, const char *text)
{
    buffer_put(out, text, strlen(text));
}

static void when(struct walk *w, struct buffer *out)
{
    char text[64];
    snprintf(text, sizeof(text), "step %zu of %zu\n", w->at, w->count);
    say(out, text);
}

static int op_monitor(struct debug_target *t, const char *command, struct buffer *out, bool *moved,
                      bool (*interrupted)(void *context), void *context, struct error *err)
{
    struct walk *w = walk_of(t);
    struct debug_stop stop;
    if (strcmp(command, "help") == 0) {
        say(out, "when, goto N, spin, long N\n");
    } else if (strcmp(command, "when") == 0) {
        when(w, out);
    } else if (strncmp(command, "goto ", 5) == 0) {
        unsigned long at = strtoul(command + 5, NULL, 10);
        if (w->live || at > w->count)
            return error_set(err, -ERANGE, "there is no step %lu", at);
        walk_goto(w, at);
        *moved = true;
        when(w, out);
    } else if (strcmp(command, "spin") == 0) {
        spin(interrupted, context, &stop);
    } else if (strncmp(command, "long ", 5) == 0) {
        unsigned long n = strtoul(command + 5, NULL, 10);
        for (unsigned long i = 0; i < n && i < 1000000; i++)
            buffer_put_u8(out, (uint8_t)('a' + i % 26));
    } else {
        return error_set(err, -EINVAL, "there is no command \"%.100s\"", command);
    }
    return 0;
}

static const struct debug_target_ops operations = {
    .state = op_state,
    .set_state = op_set_state,
    .read = op_read,
    .read_physical = op_read_physical,
    .write = op_write,
    .write_physical = op_write_physical,
    .insert_point = op_insert,
    .remove_point = op_remove,
    .resume = op_resume,
    .monitor = op_monitor,
    .can_reverse = op_can_reverse,
};

/* ---- life ---- */

static struct segment flat32(uint16_t selector, uint16_t rights)
{
    return (struct segment){.limit = 0xffffffff, .selector = selector, .rights = rights};
}

static struct segment real(uint16_t selector, uint16_t rights)
{
    return (struct segment){
        .base = (uint64_t)selector << 4, .limit = 0xffff, .selector = selector, .rights = rights};
}

/* vm_create has made a state for 64-bit code. */
static void set_mode(struct vm *vm, enum walk_mode mode)
{
    struct vcpu_state s = *vm_state(vm);
    if (mode == WALK_64)
        return;
    s.efer = 0;
    s.cr3 = 0;
    s.cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT;
    s.cr0 = mode == WALK_32 ? CR0_PE | CR0_ET | CR0_NE : CR0_ET;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        s.seg[i] = mode == WALK_32 ? flat32(VM_DS, 0xc093) : real(0x3000, 0x93);
    s.seg[SEG_CS] = mode == WALK_32 ? flat32(VM_CS32, 0xc09b) : real(0x1000, 0x9b);
    if (mode == WALK_16) {
        s.seg[SEG_SS] = real(0x2000, 0x93);
        s.rip = 0;
        s.gpr[GPR_RSP] = 0xfffe;
        s.idtr = (struct descriptor_table){0, 0x3ff};
    }
    vm_set_state(vm, &s);
}

struct walk *walk_create(const void *image, size_t length, enum walk_mode mode, bool live)
{
    struct walk *w = calloc(1, sizeof(*w));
    assert_non_null(w);
    w->target.ops = &operations;
    w->live = live;
    w->live_steps = SIZE_MAX;
    w->vm = vm_create(image, (const uint8_t *)image + length);
    if (mode == WALK_16)
        memcpy(vm_at(w->vm, WALK_CODE16), image, length);
    emu_ram_reset(w->vm->engine);
    set_mode(w->vm, mode);
    if (live) {
        w->steps = calloc(1, sizeof(*w->steps));
        assert_non_null(w->steps);
    } else {
        record(w);
    }
    return w;
}

struct walk *walk_create_file(const char *path, enum walk_mode mode, bool live)
{
    struct buffer image = {0};
    struct error err = {0};
    if (file_read(path, (size_t)1 << 19, &image, &err) != 0)
        fail_msg("%s", err.message);
    struct walk *w = walk_create(image.data, image.length, mode, live);
    buffer_free(&image);
    return w;
}

void walk_destroy(struct walk *w)
{
    if (!w)
        return;
    vm_destroy(w->vm);
    free(w->steps);
    free(w->changes);
    free(w);
}
