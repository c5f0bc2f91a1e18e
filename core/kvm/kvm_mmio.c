/*
 * MMIO. KVM brings an access that crosses a page, or is longer than 8 bytes, in several exits, and says nowhere that they
 * belong together; at the boundary such an access is one of single bytes (core/boundary.h). So the pieces are
 * recognised here: those of a write by completing the instruction, which brings the next piece at once; those of a read
 * by the size of the instruction's memory operand.
 */
#include <Zydis/Zydis.h>
#include <errno.h>
#include <string.h>

#include "core/kvm/kvm_internal.h"
#include "core/x86/inspect.h"

#define PIECE_BYTES     8
#define PIECES_MAX      (512 / PIECE_BYTES + 2) /* FXSAVE across two pages */
#define INSTRUCTION_MAX 15

struct piece {
    gpa_t gpa;
    unsigned length;
    uint8_t data[PIECE_BYTES];
};

static struct piece piece_of(const struct kvm_run *run)
{
    struct piece p = {.gpa = run->mmio.phys_addr, .length = run->mmio.len};
    if (p.length > PIECE_BYTES)
        p.length = PIECE_BYTES;
    memcpy(p.data, run->mmio.data, p.length);
    return p;
}

/* Only these can be followed by another piece. */
static bool may_continue(const struct piece *p)
{
    return p->length == PIECE_BYTES || ((p->gpa + p->length) & PAGE_MASK) == 0;
}

static bool is_aligned(const struct piece *p)
{
    return p->length && (p->length & (p->length - 1)) == 0 && p->gpa % p->length == 0;
}

static int cross(struct kvm_engine *e, gpa_t gpa, uint8_t *data, unsigned size, bool is_write)
{
    struct boundary *b = e->engine.boundary;
    uint64_t value = 0;
    int result;
    if (is_write) {
        memcpy(&value, data, size);
        result = b->ops->mmio_write(b, POSITION_UNKNOWN, gpa, size, value);
    } else {
        result = b->ops->mmio_read(b, POSITION_UNKNOWN, gpa, size, &value);
        memcpy(data, &value, size);
    }
    return kvm_crossed(e, result);
}

static int cross_piece(struct kvm_engine *e, struct piece *p, bool whole, bool is_write)
{
    unsigned size = whole ? p->length : 1;
    for (unsigned i = 0; i < p->length; i += size)
        if (cross(e, p->gpa + i, p->data + i, size, is_write) != KVM_GO_ON)
            return ENGINE_STOP_BOUNDARY;
    return KVM_GO_ON;
}

static bool next_is_mmio_write(const struct kvm_engine *e)
{
    const struct kvm_run *run = e->vm.run;
    return e->exit_unanswered && run->exit_reason == KVM_EXIT_MMIO && run->mmio.is_write;
}

static int handle_write(struct kvm_engine *e, struct error *err)
{
    struct piece pieces[PIECES_MAX];
    unsigned count = 0;
    pieces[count++] = piece_of(e->vm.run);
    e->completion_pending = true;
    while (may_continue(&pieces[count - 1])) {
        int result = kvm_complete(e, err);
        if (result < 0)
            return result;
        if (!next_is_mmio_write(e) || count == PIECES_MAX)
            break;
        e->exit_unanswered = false;
        e->completion_pending = true;
        pieces[count++] = piece_of(e->vm.run);
    }
    bool whole = count == 1 && is_aligned(&pieces[0]);
    for (unsigned i = 0; i < count; i++)
        if (cross_piece(e, &pieces[i], whole, true) != KVM_GO_ON)
            return ENGINE_STOP_BOUNDARY;
    return e->stop_wanted ? ENGINE_STOP_BOUNDARY : KVM_GO_ON;
}

static ZydisMachineMode machine_mode(const struct vcpu_state *s, ZydisStackWidth *width)
{
    if (vcpu_in_64bit_code(s)) {
        *width = ZYDIS_STACK_WIDTH_64;
        return ZYDIS_MACHINE_MODE_LONG_64;
    }
    bool is_32bit = (s->seg[SEG_CS].rights & SEGMENT_DB) != 0;
    *width = is_32bit ? ZYDIS_STACK_WIDTH_32 : ZYDIS_STACK_WIDTH_16;
    return is_32bit ? ZYDIS_MACHINE_MODE_LEGACY_32 : ZYDIS_MACHINE_MODE_LEGACY_16;
}

/* Bytes of the largest memory operand of the instruction that waits for its answer; 0 if that cannot be told. */
static unsigned operand_bytes(struct kvm_engine *e)
{
    struct vcpu_state s = e->state;
    struct error ignored;
    uint8_t bytes[INSTRUCTION_MAX];
    if (kvm_state_get(&e->vm, &e->options, &s, &ignored) < 0)
        return 0;
    ZydisStackWidth width;
    ZydisMachineMode mode = machine_mode(&s, &width);
    gva_t linear = mode == ZYDIS_MACHINE_MODE_LONG_64 ? s.rip : (uint32_t)(s.seg[SEG_CS].base + s.rip);
    size_t length = x86_read_virtual(e->engine.ram, &s, linear, bytes, sizeof(bytes));
    ZydisDecoder decoder;
    ZydisDecodedInstruction instruction;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    if (ZYAN_FAILED(ZydisDecoderInit(&decoder, mode, width)) ||
        ZYAN_FAILED(ZydisDecoderDecodeFull(&decoder, bytes, length, &instruction, operands)))
        return 0;
    unsigned largest = 0;
    for (unsigned i = 0; i < instruction.operand_count; i++)
        if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY && operands[i].size / 8 > largest)
            largest = operands[i].size / 8;
    return largest;
}

static int handle_read(struct kvm_engine *e)
{
    struct piece p = piece_of(e->vm.run);
    bool is_later_piece = e->mmio_bytes_left >= p.length;
    if (!is_later_piece && may_continue(&p)) {
        unsigned size = operand_bytes(e);
        e->mmio_bytes_left = size > p.length ? size : 0;
    }
    bool in_pieces = e->mmio_bytes_left >= p.length;
    int stop = cross_piece(e, &p, !in_pieces && is_aligned(&p), false);
    e->mmio_bytes_left = in_pieces ? e->mmio_bytes_left - p.length : 0;
    if (stop != KVM_GO_ON)
        return stop;
    memcpy(e->vm.run->mmio.data, p.data, p.length);
    e->completion_pending = true;
    return e->stop_wanted ? ENGINE_STOP_BOUNDARY : KVM_GO_ON;
}

int kvm_handle_mmio(struct kvm_engine *e, struct error *err)
{
    return e->vm.run->mmio.is_write ? handle_write(e, err) : handle_read(e);
}
