#include "tests/emu/vm.h"
#include "tests/stages.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- boundary ---- */

static struct vm *vm_of(struct boundary *b)
{
    return container_of(b, struct vm, boundary);
}

static int note(struct boundary *b, position_t position, char kind, uint64_t address, unsigned size,
                uint64_t value)
{
    struct vm *vm = vm_of(b);
    int result = position == vm->answer_at ? vm->boundary_result : BOUNDARY_OK;
    if (result >= 0) {
        if (vm->crossings < VM_CROSSINGS_MAX)
            vm->crossing[vm->crossings] = (struct crossing){position, kind, address, value, size};
        vm->crossings++;
    }
    return result;
}

static uint64_t input(struct boundary *b, unsigned size)
{
    struct vm *vm = vm_of(b);
    uint64_t value = vm->next_input;
    vm->next_input += 0x0101010101010101u;
    return size == 8 ? value : value & ((1ull << (size * 8)) - 1);
}

static int pio_read(struct boundary *b, position_t position, uint16_t port, unsigned size, uint32_t *value)
{
    *value = (uint32_t)input(b, size);
    return note(b, position, 'i', port, size, *value);
}

static int pio_write(struct boundary *b, position_t position, uint16_t port, unsigned size, uint32_t value)
{
    return note(b, position, 'o', port, size, value);
}

static int mmio_read(struct boundary *b, position_t position, gpa_t gpa, unsigned size, uint64_t *value)
{
    *value = input(b, size);
    return note(b, position, 'r', gpa, size, *value);
}

static int mmio_write(struct boundary *b, position_t position, gpa_t gpa, unsigned size, uint64_t value)
{
    return note(b, position, 'w', gpa, size, value);
}

static int cpu_read(struct boundary *b, position_t position, enum boundary_source source, uint32_t argument,
                    uint64_t *value, bool *valid)
{
    *value = input(b, 8);
    *valid = true;
    return note(b, position, 'c', (uint64_t)source, argument, *value);
}

static int msr_read(struct boundary *b, position_t position, uint32_t index, uint64_t *value, bool *known)
{
    (void)b, (void)position, (void)index;
    *value = 0;
    *known = false;
    return BOUNDARY_OK;
}

static int msr_write(struct boundary *b, position_t position, uint32_t index, uint64_t value, bool *known)
{
    (void)b, (void)position, (void)index, (void)value;
    *known = false;
    return BOUNDARY_OK;
}

static int halted(struct boundary *b, position_t position)
{
    return note(b, position, 'h', 0, 0, 0);
}

static const struct boundary_ops boundary_ops = {
    .pio_read = pio_read,
    .pio_write = pio_write,
    .mmio_read = mmio_read,
    .mmio_write = mmio_write,
    .cpu_read = cpu_read,
    .msr_read = msr_read,
    .msr_write = msr_write,
    .halted = halted,
};

/* ---- memory ---- */

void *vm_at(struct vm *vm, uint64_t gpa)
{
    assert_true(gpa < VM_RAM_BYTES);
    return vm->ram->host + gpa;
}

static void put64(struct vm *vm, uint64_t gpa, uint64_t value)
{
    memcpy(vm_at(vm, gpa), &value, sizeof(value));
}

uint64_t vm_read64(struct vm *vm, uint64_t gpa)
{
    uint64_t value;
    memcpy(&value, vm_at(vm, gpa), sizeof(value));
    return value;
}

void vm_set_page(struct vm *vm, uint64_t linear, uint64_t entry)
{
    uint64_t table = linear >= VM_ALIAS ? VM_PT_LOW + 0x1000 : VM_PT_LOW;
    uint64_t offset = table + ((linear >> 12) & 511) * 8;
    put64(vm, offset, entry);
    emu_ram_changed(vm->engine, offset, 8);
}

void vm_set_gate(struct vm *vm, unsigned vector, uint64_t offset)
{
    uint64_t low =
        (offset & 0xffff) | (uint64_t)VM_CS << 16 | 0x8e0000000000u | (offset >> 16 & 0xffff) << 48;
    put64(vm, 0x2000 + vector * 16, low);
    put64(vm, 0x2000 + vector * 16 + 8, offset >> 32);
}

/* Present, writable, user; bit 7 makes it a large page. */
static void build_page_tables(struct vm *vm)
{
    put64(vm, 0x10000, 0x11000 | 7);
    put64(vm, 0x11000, 0x12000 | 7);
    for (uint64_t i = 1; i < 8; i++)
        put64(vm, 0x12000 + i * 8, i << 21 | 0x87);
    put64(vm, 0x12000, VM_PT_LOW | 7);
    put64(vm, 0x12000 + 8 * 8, (VM_PT_LOW + 0x1000) | 7);
    put64(vm, 0x12000 + 16 * 8, 0x40000000u | 0x87); /* linear 32 MiB: no RAM, MMIO */
    for (uint64_t i = 0; i < 512; i++) {
        put64(vm, VM_PT_LOW + i * 8, i << 12 | 7);
        put64(vm, VM_PT_LOW + 0x1000 + i * 8, i << 12 | 7);
    }
}

static void build_tables(struct vm *vm)
{
    put64(vm, 0x1000 + VM_CS, 0x00af9b000000ffffu);
    put64(vm, 0x1000 + VM_DS, 0x00cf93000000ffffu);
    put64(vm, 0x1000 + (VM_USER_CS & ~7u), 0x00affb000000ffffu);
    put64(vm, 0x1000 + (VM_USER_DS & ~7u), 0x00cff3000000ffffu);
    put64(vm, 0x1000 + VM_TR, 0x00008b0000000067u | (uint64_t)VM_TSS << 16);
    put64(vm, 0x1000 + VM_CS32, 0x00cf9b000000ffffu);
    put64(vm, VM_TSS + 4, VM_STACK - 0x1000); /* RSP0 */
    uint16_t no_io_map = 104;
    memcpy(vm_at(vm, VM_TSS + 102), &no_io_map, sizeof(no_io_map));
}

static struct segment flat(uint16_t selector, uint16_t rights)
{
    return (struct segment){.limit = 0xffffffff, .selector = selector, .rights = rights};
}

static void first_state(struct vcpu_state *s)
{
    vcpu_state_reset(s);
    memset(s->gpr, 0, sizeof(s->gpr));
    s->gpr[GPR_RSP] = VM_STACK;
    s->rip = VM_CODE;
    s->rflags = RFLAGS_FIXED;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        s->seg[i] = flat(VM_DS, 0xc093);
    s->seg[SEG_CS] = flat(VM_CS, 0xa09b);
    s->tr = (struct segment){.base = VM_TSS, .limit = 0x67, .selector = VM_TR, .rights = 0x8b};
    s->ldtr = (struct segment){0};
    s->gdtr = (struct descriptor_table){0x1000, 0x3f};
    s->idtr = (struct descriptor_table){0x2000, 0xfff};
    s->cr0 = CR0_PE | CR0_PG | CR0_NE | CR0_ET | CR0_MP | CR0_WP;
    s->cr3 = 0x10000;
    s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    s->efer = EFER_LME | EFER_LMA | EFER_NXE;
}

struct vm *vm_create(const void *code, const void *code_end)
{
    struct vm *vm = calloc(1, sizeof(*vm));
    struct error err = {0};
    assert_non_null(vm);
    vm->boundary.ops = &boundary_ops;
    vm->answer_at = POSITION_UNKNOWN;
    vm->next_input = 0x1817161514131211u;
    assert_int_equal(ram_create(&vm->ram, VM_RAM_BYTES, &err), 0);
    cpu_model_init(&vm->model, CPU_PROFILE_EMU);
    assert_int_equal(emu_create(&vm->engine, vm->ram, &vm->boundary, &vm->model, &err), 0);
    stages_from_environment(vm->engine);
    build_page_tables(vm);
    build_tables(vm);
    memcpy(vm_at(vm, VM_CODE), code, (size_t)((const char *)code_end - (const char *)code));
    emu_ram_reset(vm->engine);
    struct vcpu_state s;
    first_state(&s);
    vm_set_state(vm, &s);
    return vm;
}

void vm_destroy(struct vm *vm)
{
    vm->engine->ops->destroy(vm->engine);
    ram_destroy(vm->ram);
    free(vm);
}

/* ---- running ---- */

const struct vcpu_state *vm_state(struct vm *vm)
{
    return vm->engine->ops->state(vm->engine);
}

position_t vm_position(struct vm *vm)
{
    return vm->engine->ops->position(vm->engine);
}

void vm_set_state(struct vm *vm, const struct vcpu_state *state)
{
    struct error err = {0};
    if (vm->engine->ops->set_state(vm->engine, state, &err) != 0)
        fail_msg("%s", err.message);
}

void vm_set_gpr(struct vm *vm, enum gpr reg, uint64_t value)
{
    struct vcpu_state s = *vm_state(vm);
    s.gpr[reg] = value;
    vm_set_state(vm, &s);
}

int vm_run_request(struct vm *vm, const struct engine_request *request)
{
    struct error err = {0};
    int stop = vm->engine->ops->run(vm->engine, request, &err);
    if (stop < 0)
        fail_msg("run: %s", err.message);
    return stop;
}

int vm_run(struct vm *vm, position_t limit)
{
    return vm_run_request(vm, &(struct engine_request){.limit = limit});
}

void vm_run_to_halt(struct vm *vm)
{
    assert_int_equal(vm_run(vm, vm_position(vm) + 200000000), ENGINE_STOP_HALT);
}

void vm_interrupt(struct vm *vm, uint8_t vector)
{
    struct error err = {0};
    assert_true(vm->engine->ops->can_interrupt(vm->engine));
    if (vm->engine->ops->interrupt(vm->engine, vector, &err) != 0)
        fail_msg("interrupt: %s", err.message);
}

/* The engine marks each page that it writes. */
static void assert_dirty_pages_same(struct vm *a, struct vm *b)
{
    for (size_t i = 0; i < a->ram->dirty_count; i++) {
        uint64_t at = (uint64_t)a->ram->dirty_list[i] << PAGE_SHIFT;
        if (memcmp(a->ram->host + at, b->ram->host + at, PAGE_SIZE_BYTES) != 0)
            fail_msg("RAM differs in the page at %#llx", (unsigned long long)at);
    }
}

void vm_assert_same(struct vm *a, struct vm *b)
{
    char text[4096];
    if (!vcpu_state_equal(vm_state(a), vm_state(b))) {
        vcpu_state_diff(vm_state(a), vm_state(b), text, sizeof(text));
        fail_msg("registers differ at position %llu / %llu:\n%s", (unsigned long long)vm_position(a),
                 (unsigned long long)vm_position(b), text);
    }
    assert_dirty_pages_same(a, b);
    assert_dirty_pages_same(b, a);
}

uint64_t vm_random(uint64_t *seed)
{
    uint64_t x = (*seed += 0x9e3779b97f4a7c15u);
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}
