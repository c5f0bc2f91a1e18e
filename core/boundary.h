/*
 * The boundary: the line around CPU + RAM. An engine calls one of these functions whenever the vCPU's
 * execution crosses it. Record's boundary asks the devices and writes the answer to the trace; replay's takes
 * the answer from the trace and checks every output. An engine does not know which one it has.
 *
 * position is that of the instruction (or REP iteration) that makes the crossing, i.e. the number of
 * transitions completed before it; POSITION_UNKNOWN from an engine that cannot count (KVM).
 *
 * Return values:
 *   BOUNDARY_OK      go on
 *   BOUNDARY_STOP    complete this instruction, then return ENGINE_STOP_BOUNDARY
 *   negative errno   the instruction is not executed: state stays before it, and the engine returns
 *                    ENGINE_STOP_BOUNDARY as well. The boundary keeps the reason (its own struct error).
 *
 * size is 1, 2, 4 or 8 bytes (ports: 1, 2, 4). Values are zero-extended. An access that is not naturally
 * aligned, or longer than 8 bytes, is split by the engine into bytes, lowest address first, for MMIO; ports are
 * never split.
 */
#ifndef DEJAVM_CORE_BOUNDARY_H
#define DEJAVM_CORE_BOUNDARY_H

#include "core/base/types.h"

enum { BOUNDARY_OK = 0, BOUNDARY_STOP = 1 };

enum boundary_source {
    SOURCE_RDTSC,
    SOURCE_RDTSCP,
    SOURCE_RDPMC,
    SOURCE_RDRAND,
    SOURCE_RDSEED,
    SOURCE_IGNNE, /* enum boundary_ignne */
};

/*
 * A waiting x87 instruction finds an unmasked exception pending with CR0.NE = 0: FERR# is asserted, and what the pin IGNNE# says is
 * asked (SDM 3, 2.5, CR0.NE; SDM 1, appendix D). Asked again each time the instruction is tried. Any other value is IGNNE_WAIT.
 */
enum boundary_ignne {
    IGNNE_WAIT =
        0, /* deasserted: one transition makes the vCPU wait at the instruction, as HLT does, for an interrupt */
    IGNNE_IGNORE = 1, /* asserted: the instruction is executed, the exception stays pending */
    IGNNE_NATIVE =
        2, /* #MF as with CR0.NE = 1: what KVM makes of it (in VMX operation NE is 1: SDM 3, 23.8) */
};

struct boundary;

struct boundary_ops {
    int (*pio_read)(struct boundary *b, position_t position, uint16_t port, unsigned size, uint32_t *value);
    int (*pio_write)(struct boundary *b, position_t position, uint16_t port, unsigned size, uint32_t value);
    int (*mmio_read)(struct boundary *b, position_t position, gpa_t gpa, unsigned size, uint64_t *value);
    int (*mmio_write)(struct boundary *b, position_t position, gpa_t gpa, unsigned size, uint64_t value);
    /*
     * A value that comes from the CPU. argument: RDPMC's ECX; RDRAND/RDSEED's operand size in bytes; else 0.
     * valid: RDRAND/RDSEED's CF (false: value is 0); true for the others.
     */
    int (*cpu_read)(struct boundary *b, position_t position, enum boundary_source source, uint32_t argument,
                    uint64_t *value, bool *valid);
    /*
     * MSRs that are not part of vcpu_state. known=false: the guest gets #GP. The answer is an input.
     */
    int (*msr_read)(struct boundary *b, position_t position, uint32_t index, uint64_t *value, bool *known);
    int (*msr_write)(struct boundary *b, position_t position, uint32_t index, uint64_t value, bool *known);
    /* HLT is about to complete. (The engine returns ENGINE_STOP_HALT after it.) */
    int (*halted)(struct boundary *b, position_t position);
    /*
     * No unmasked x87 exception is pending any more: FERR# is deasserted, whatever CR0.NE is. Not an event: it follows from the
     * registers and answers nothing. NULL: nobody wants to know.
     */
    void (*ferr_deasserted)(struct boundary *b);
};

struct boundary {
    const struct boundary_ops *ops;
};

#endif
