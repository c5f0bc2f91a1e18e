/*
 * Where things lie in the guests of these tests; for C and for the assembler.
 *
 * The image (image.S) is at IMAGE_BASE. With paging the first 2 MiB are mapped twice: to themselves, for the
 * supervisor, and at ALIAS for user code.
 */
#ifndef DEJAVM_TESTS_RING0_MAP_H
#define DEJAVM_TESTS_RING0_MAP_H

/* clang-format off */
/* Not macros: the preprocessor would put blanks around an operator, where an argument of an assembler's macro ends. */
#ifdef __ASSEMBLER__
#define MAP(name, value) .set name, value
        .set NO_ERROR_CODE, 0x100000000
        .set ANY, -1
        .set PAGING_LINEAR, 0x8000033000
#else
#define MAP(name, value) name = (value),
#define NO_ERROR_CODE    0x100000000
#define ANY              UINT64_MAX
#define PAGING_LINEAR    (0x8000000000 + PAGING_PAGE)
enum ring0_map {
#endif

MAP(IDT64, 0x1000)
MAP(IDT32, 0x2000)
MAP(GDT, 0x3000)
MAP(GDT_LIMIT, 0x1ff)
MAP(TSS64, 0x4000)
MAP(TSS32, 0x4200) /* with the I/O permission bitmap at its end */
MAP(TSS16, 0x4800)
MAP(TSS32_OTHER, 0x4a00) /* a second task */
MAP(TSS16_OTHER, 0x4c00)
MAP(LDT, 0x5000)
MAP(PML4, 0x6000)
MAP(PDPT, 0x7000)
MAP(PD, 0x8000)
MAP(PT_LOW, 0x9000) /* linear 0..2 MiB */
MAP(PT_ALIAS, 0xd000) /* linear 2..4 MiB */
MAP(PD32, 0xa000)
MAP(PT32, 0xb000) /* linear 0..4 MiB */
MAP(PDPT_PAE, 0xc000)
MAP(TABLES_END, 0xe000)

MAP(KSTACK_BOTTOM, 0x10000)
MAP(KSTACK, 0x11000) /* tops of stacks */
MAP(STACK1, 0x12000)
MAP(STACK2, 0x13000)
MAP(USTACK, 0x14000)
MAP(IST1, 0x15000)
MAP(IST2, 0x16000)
MAP(RSP0, 0x17000)

MAP(LOG_COUNT, 0x18000)
MAP(LOG_RESUME, 0x18008)
MAP(ACTIONS, 0x18100) /* one byte per vector */
MAP(LOG_RECORDS, 0x18200)
MAP(LOG_BYTES, 0x140)
MAP(LOG_MAX, 40)
MAP(RESULT, 0x1d000) /* a case's own results */
MAP(DATA, 0x20000) /* 64 KiB for data of the cases */
MAP(IMAGE_BASE, 0x40000)
MAP(IMAGE_MAX, 0x40000)
MAP(RAM_BYTES_USED, 0x100000)
MAP(ALIAS, 0x200000)

/* What a handler does after it has made its record, by vector: halt, or a combination of these. */
MAP(ACTION_HALT, 0)
MAP(ACTION_CONTINUE, 1) /* IRET */
MAP(ACTION_DROP_ERROR, 2) /* takes the error code off the stack before */
MAP(ACTION_RESUME, 4) /* at LOG_RESUME instead of the saved RIP */

MAP(KCODE64, 0x08)
MAP(KDATA, 0x10)
MAP(UCODE32, 0x1b)
MAP(UDATA, 0x23)
MAP(UCODE64, 0x2b)
MAP(KCODE32, 0x30)
MAP(KCODE16, 0x38) /* its base is the case's start */
MAP(KDATA16, 0x40)
MAP(UCODE16, 0x4b)
MAP(UDATA16, 0x53)
MAP(SEL_TSS64, 0x58)
MAP(SEL_TSS32, 0x68)
MAP(SEL_TSS16, 0x70)
MAP(SEL_LDT, 0x78)
MAP(CODE1, 0x89) /* privilege level 1, 32 bit */
MAP(DATA1, 0x91)
MAP(CODE1_64, 0x99)
MAP(CONF32, 0xa0) /* conforming, DPL 0 */
MAP(CONF64, 0xa8)
MAP(NPCODE64, 0xb0) /* not present */
MAP(NPDATA, 0xb8)
MAP(EXECONLY, 0xc0)
MAP(RODATA, 0xc8)
MAP(DOWN32, 0xd0) /* expand-down: offsets above 0xfff */
MAP(DOWN16, 0xd8)
MAP(LIMITED, 0xe0) /* base DATA, 256 bytes */
MAP(BADCODE, 0xe8) /* both L and D */
MAP(KCODE32I, 0xf0) /* 32 bit, base IMAGE_BASE */
MAP(SLOT0, 0x100) /* the case's own: 8 bytes each (a call gate of long mode takes two) */
MAP(SLOT1, 0x110)
MAP(SLOT2, 0x120)
MAP(SLOT3, 0x130)
MAP(CODE2, 0x142) /* privilege level 2, 32 bit */
MAP(DATA2, 0x14a)
MAP(NPCODE32, 0x150)
MAP(KDATA16I, 0x158) /* 16 bit stack, base KSTACK_BOTTOM */
MAP(SEL_TSS32_OTHER, 0x160)
MAP(SEL_TSS16_OTHER, 0x168)
MAP(LDT_DATA, 0x04) /* in the LDT */
MAP(LDT_CODE, 0x0c)

/* Ports of the test: an interrupt or an NMI is wanted as soon as it can be delivered. */
MAP(PORT_IRQ, 0x80) /* AL: vector */
MAP(PORT_NMI, 0x81)

/* How a case starts. */
MAP(ENV_LONG, 1) /* 64 bit, CPL 0 */
MAP(ENV_LONG3, 2)
MAP(ENV_COMPAT, 3) /* 32 bit under long mode, CPL 0 */
MAP(ENV_COMPAT3, 4)
MAP(ENV_PROT32, 5) /* 32 bit, no paging */
MAP(ENV_PROT32_3, 6)
MAP(ENV_PROT16, 7)
MAP(ENV_REAL, 8)
MAP(ENV_PAGED32, 9)
MAP(ENV_PAGED32_3, 10)

MAP(FLAG_EMU_ONLY, 1) /* needs a feature that the kvm profile of the CPU model lacks */
MAP(FLAG_PAGING, 2) /* the page permission guest, which test_paging runs and checks */

/* The page permission guest (paging.S). */
MAP(PAGING_MASK, 0x1d008) /* index bits that are wanted; in RESULT's page */
MAP(PAGING_TABLES, 0x30000) /* three pages: PDPT, PD, PT */
MAP(PAGING_PAGE, 0x33000)
MAP(PAGING_RESULTS, 0x80000)
MAP(PAGING_COUNT, 0x8000)

MAP(TAG_CASE, 1)
MAP(TAG_EXPECT, 2)
MAP(TAG_VALUE, 3)
MAP(TAG_DONE, 4)
MAP(TAG_SHUTDOWN, 5)

#ifndef __ASSEMBLER__
};
#endif
#undef MAP

#endif
