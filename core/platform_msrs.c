/* Names and meaning: AMD64 APM volume 2, appendix A, and the Processor Programming Reference for family 17h model 31h, 2.1.14. */
#include "core/platform_msrs.h"

#define MSR_PATCH_LEVEL    0x8bu
#define MSR_PERF_EVT_SEL0  0xc0010000u /* four of them, then four counters */
#define MSR_PERF_CTR3      0xc0010007u
#define MSR_SYSCFG         0xc0010010u
#define MSR_HWCR           0xc0010015u
#define MSR_TOP_MEM        0xc001001au
#define MSR_TOP_MEM2       0xc001001du
#define MSR_NB_CFG         0xc001001fu
#define MSR_PATCH_LOADER   0xc0010020u
#define MSR_MMIO_CONF_BASE 0xc0010058u
#define MSR_SMM_ADDR       0xc0010112u
#define MSR_SMM_MASK       0xc0010113u
#define MSR_LS_CFG         0xc0011020u
#define MSR_IC_CFG         0xc0011021u
#define MSR_DC_CFG         0xc0011022u
#define MSR_DE_CFG         0xc0011029u
#define MSR_CU_CFG2        0xc001102au
#define MSR_BP_CFG         0xc001102eu
#define MSR_CHICKEN_BITS   0xc00110e3u /* no official name; Linux sets a bit of it on this family */

/*
 * Family 17h model 31h, and a revision after all that were published: no operating system has to work around an erratum that an
 * update cures, or looks for an update.
 */
#define PATCH_LEVEL_LATEST    0x083010ffu
#define HWCR_TSC_FREQ_SEL     ((uint64_t)1 << 24) /* the TSC counts at its nominal frequency in every P-state */
#define DE_CFG_LFENCE_SERIAL  ((uint64_t)1 << 1) /* what CPUID 0x80000021 says, too */
#define SYSCFG_TOM2_ENABLED   ((uint64_t)1 << 21)
#define SYSCFG_TOM2_WRITEBACK ((uint64_t)1 << 22)
#define MEMORY_GRANULE        ((uint64_t)8 << 20) /* TOP_MEM and TOP_MEM2 have bits 22..0 zero */

enum platform_access { READ_ONLY, WRITES_DROPPED };

static const struct {
    uint32_t index;
    uint8_t access;
    uint64_t value;
} constants[] = {
    {MSR_PATCH_LEVEL, READ_ONLY, PATCH_LEVEL_LATEST},
    {MSR_HWCR, WRITES_DROPPED, HWCR_TSC_FREQ_SEL},
    {MSR_NB_CFG, WRITES_DROPPED, 0},         /* no extended configuration space by port 0xcf8 */
    {MSR_PATCH_LOADER, WRITES_DROPPED, 0},   /* patches are not applied: PATCH_LEVEL stays */
    {MSR_MMIO_CONF_BASE, WRITES_DROPPED, 0}, /* no memory-mapped configuration space */
    {MSR_SMM_ADDR, READ_ONLY, 0},            /* no system management mode */
    {MSR_SMM_MASK, READ_ONLY, 0},
    {MSR_LS_CFG, WRITES_DROPPED, 0}, /* speculation and caches: nothing of them can be seen here */
    {MSR_IC_CFG, WRITES_DROPPED, 0},
    {MSR_DC_CFG, WRITES_DROPPED, 0},
    {MSR_DE_CFG, WRITES_DROPPED, DE_CFG_LFENCE_SERIAL},
    {MSR_CU_CFG2, WRITES_DROPPED, 0},
    {MSR_BP_CFG, WRITES_DROPPED, 0},
    {MSR_CHICKEN_BITS, WRITES_DROPPED, 0},
};

static uint64_t round_up(uint64_t bytes)
{
    return (bytes + MEMORY_GRANULE - 1) & ~(MEMORY_GRANULE - 1);
}

/* Where memory ends, below and above 4 GiB. */
static uint64_t top_of_memory2(const struct guest_ram *ram)
{
    return ram->size_bytes > ram->low_bytes ? round_up(RAM_HIGH_GPA + ram->size_bytes - ram->low_bytes) : 0;
}

/* The counters have no feature bit. They do not count: RDPMC gives zeros as well. */
static bool is_performance_counter(uint32_t index)
{
    return index >= MSR_PERF_EVT_SEL0 && index <= MSR_PERF_CTR3;
}

bool platform_msr_read(const struct guest_ram *ram, uint32_t index, uint64_t *value)
{
    *value = 0;
    switch (index) {
    case MSR_TOP_MEM:
        *value = round_up(ram->low_bytes);
        return true;
    case MSR_TOP_MEM2:
        *value = top_of_memory2(ram);
        return true;
    case MSR_SYSCFG:
        *value = top_of_memory2(ram) ? SYSCFG_TOM2_ENABLED | SYSCFG_TOM2_WRITEBACK : 0;
        return true;
    default:
        break;
    }
    for (size_t i = 0; i < ARRAY_LEN(constants); i++) {
        if (constants[i].index == index) {
            *value = constants[i].value;
            return true;
        }
    }
    return is_performance_counter(index);
}

bool platform_msr_write(uint32_t index)
{
    for (size_t i = 0; i < ARRAY_LEN(constants); i++)
        if (constants[i].index == index)
            return constants[i].access == WRITES_DROPPED;
    return is_performance_counter(index) || index == MSR_SYSCFG;
}
