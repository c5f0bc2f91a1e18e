/*
 * MSRs that are neither vCPU state nor inputs: configuration of an AMD family 17h processor, as its firmware leaves it. Operating
 * systems that see that family in CPUID read them without a feature bit that would say whether they exist.
 */
#ifndef DEJAVM_CORE_PLATFORM_MSRS_H
#define DEJAVM_CORE_PLATFORM_MSRS_H

#include "core/base/types.h"
#include "core/ram.h"

/* False: the machine has no such MSR, which means #GP. */
bool platform_msr_read(const struct guest_ram *ram, uint32_t index, uint64_t *value);

/* True: the write is taken, and changes nothing (no setting of these has an effect here). False: #GP. */
bool platform_msr_write(uint32_t index);

#endif
