/*
 * Translated code for `perf`: a jitdump file, from which `perf inject --jit` takes names and bytes of the code that samples fell
 * into. The format is that of tools/perf/Documentation/jitdump-specification.txt in Linux.
 */
#ifndef DEJAVM_CORE_X86_JIT_JITDUMP_H
#define DEJAVM_CORE_X86_JIT_JITDUMP_H

#include "core/base/error.h"
#include "core/base/types.h"

struct jitdump;

/* Creates FOLDER/jit-PID.dump, the name that perf looks for; one for each process. -errno of open, mmap or write. */
int jitdump_create(struct jitdump **out, const char *folder, struct error *err) must_check;
/* size bytes of host code that execute at address, for the guest code at rip. A file that cannot be written to ends there. */
void jitdump_add(struct jitdump *d, const char *name, uint64_t address, const void *bytes, size_t size);
void jitdump_close(struct jitdump *d); /* NULL is fine */

#endif
