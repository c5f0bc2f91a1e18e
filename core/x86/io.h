/* Port access, shared by IN/OUT and INS/OUTS. Private to core/x86. */
#ifndef DEJAVM_CORE_X86_IO_H
#define DEJAVM_CORE_X86_IO_H

#include "core/x86/internal.h"

/* CPL against IOPL, and the I/O permission bitmap of the TSS (SDM 1, 19.5): STEP_NEXT, #GP(0), or what reading it gave. */
enum step io_permitted(struct emu *e, uint16_t port, unsigned size);

/* One access through the boundary, at e->position. STEP_NEXT (boundary_stop may be set) or STEP_STOP. */
enum step io_read(struct emu *e, uint16_t port, unsigned size, uint32_t *value);
enum step io_write(struct emu *e, uint16_t port, unsigned size, uint32_t value);
/* As boundary_ops.cpu_read. */
enum step io_cpu_read(struct emu *e, enum boundary_source source, uint32_t argument, uint64_t *value,
                      bool *valid);

#endif
