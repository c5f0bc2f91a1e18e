/* Hardware tasks (SDM 3, chapter 8) and virtual-8086 mode (SDM 3, chapter 21). */

/* The other 32-bit task, to start at the label. */
.macro TASK label, cs=KCODE32, ss=KDATA, ds=UDATA, flags=2
        movl $A(\label), TSS32_OTHER+0x20
        movl $\flags, TSS32_OTHER+0x24
        movl $0x1111, TSS32_OTHER+0x28  /* EAX */
        movl $STACK1, TSS32_OTHER+0x38
        movl $0x7777, TSS32_OTHER+0x44  /* EDI */
        movl $UDATA, TSS32_OTHER+0x48
        movl $\cs, TSS32_OTHER+0x4c
        movl $\ss, TSS32_OTHER+0x50
        movl $\ds, TSS32_OTHER+0x54
        movl $UDATA, TSS32_OTHER+0x58
        movl $0, TSS32_OTHER+0x5c
        movl $SEL_LDT, TSS32_OTHER+0x60
.endm

        CASE "JMP to a task", ENV_PROT32
        TASK 1f
        mov $0x55, %ecx
        stc
        ljmp $SEL_TSS32_OTHER, $0
2:      ud2
1:      str %ebx
        mov %cr0, %ecx
        sldt %edx
        ud2
        EXPECT 6, cs=KCODE32, ss=KDATA, sp=STACK1, flags=0x10002
        VALUE LOG_RECORDS+128, 4, 0x1111
        VALUE LOG_RECORDS+136, 4, 0x1003b
        VALUE LOG_RECORDS+144, 4, SEL_LDT
        VALUE LOG_RECORDS+152, 4, SEL_TSS32_OTHER
        VALUE LOG_RECORDS+184, 4, 0x7777
        VALUE LOG_RECORDS+272, 2, UDATA
        VALUE TSS32+0x20, 4, 2b-image+IMAGE_BASE
        VALUE TSS32+0x24, 4, 3
        VALUE TSS32+0x2c, 4, 0x55
        VALUE TSS32+0x38, 4, KSTACK
        VALUE TSS32+0x4c, 4, KCODE32
        VALUE TSS32_OTHER, 4, 0
        VALUE GDT+SEL_TSS32+5, 1, 0x89
        VALUE GDT+SEL_TSS32_OTHER+5, 1, 0x8b

        CASE "CALL to a task, and IRET back", ENV_PROT32
        TASK 1f
        mov $0x66, %esi
        lcall $SEL_TSS32_OTHER, $0
2:      str %ebx
        clts
        ud2
1:      pushfl
        pop %eax
        mov %eax, RESULT
        movzwl TSS32_OTHER, %eax
        mov %eax, RESULT+4
        mov $0x67, %esi
        mov $0x3333, %eax
        iretl
3:
        EXPECT 6, cs=KCODE32, sp=KSTACK, flags=0x10002
        VALUE LOG_RECORDS+152, 4, SEL_TSS32
        VALUE LOG_RECORDS+176, 4, 0x66
        VALUE RESULT, 8, 0x0000006800004002
        VALUE TSS32_OTHER+0x20, 4, 3b-image+IMAGE_BASE
        VALUE TSS32_OTHER+0x24, 4, 2
        VALUE TSS32_OTHER+0x28, 4, 0x3333
        VALUE GDT+SEL_TSS32+5, 1, 0x8b
        VALUE GDT+SEL_TSS32_OTHER+5, 1, 0x89

        CASE "an exception through a task gate", ENV_PROT32
        TASK 1f
        movw $SEL_TSS32_OTHER, IDT32+8*13+2
        movw $0x8500, IDT32+8*13+4
        mov $0x1000, %eax
2:      mov %eax, %es
1:      pop %eax
        mov %eax, RESULT
        mov TSS32+0x20, %eax
        mov %eax, RESULT+4
        mov TSS32+0x24, %eax
        mov %eax, RESULT+8
        str RESULT+12
        DONE
        VALUE RESULT, 4, 0x1000
        VALUE RESULT+4, 4, 2b-image+IMAGE_BASE
        VALUE RESULT+8, 4, 0x10002
        VALUE RESULT+12, 2, SEL_TSS32_OTHER

        CASE "a double fault through a task gate finds a stack", ENV_PROT32
        TASK 1f
        movw $SEL_TSS32_OTHER, IDT32+8*8+2
        movw $0x8500, IDT32+8*8+4
        mov $LIMITED, %eax
        mov %eax, %ss
        mov $8, %esp
        ud2
1:      pop %eax
        DONE
        VALUE TSS32+0x38, 4, 8
        VALUE TSS32+0x50, 2, LIMITED

        CASE "a task gate in the GDT, from CPL 3", ENV_PROT32
        TASK 1f
        movw $SEL_TSS32_OTHER, GDT+SLOT0+2
        movw $0xe500, GDT+SLOT0+4
        USER32 2f
2:      lcall $SLOT0+3, $0
3:      ud2
1:      iretl
        EXPECT 6, rip=3b, cs=UCODE32, ss=UDATA, sp=USTACK

        CASE "a TSS that CPL 3 may not use", ENV_PROT32_3
1:      ljmp $SEL_TSS32_OTHER+3, $0
        EXPECT 13, error=SEL_TSS32_OTHER, rip=1b, cs=UCODE32

        CASE "a task that is busy", ENV_PROT32
1:      ljmp $SEL_TSS32, $0
        EXPECT 13, error=SEL_TSS32, rip=1b

        CASE "a task that is not present", ENV_PROT32
        movb $0x09, GDT+SEL_TSS32_OTHER+5
1:      ljmp $SEL_TSS32_OTHER, $0
        EXPECT 11, error=SEL_TSS32_OTHER, rip=1b

        CASE "a TSS that is too short", ENV_PROT32
        movw $0x66, GDT+SEL_TSS32_OTHER
1:      lcall $SEL_TSS32_OTHER, $0
        EXPECT 10, error=SEL_TSS32_OTHER, rip=1b

        CASE "a task with a bad DS faults in itself", ENV_PROT32
        TASK 1f, KCODE32, KDATA, SEL_TSS32
        ljmp $SEL_TSS32_OTHER, $0
1:      ud2
        EXPECT 10, error=SEL_TSS32, rip=1b, cs=KCODE32, sp=STACK1
        VALUE GDT+SEL_TSS32_OTHER+5, 1, 0x8b

        CASE "a task with an FS that is not present", ENV_PROT32
        TASK 1f
        movl $NPDATA, TSS32_OTHER+0x58
        ljmp $SEL_TSS32_OTHER, $0
1:      ud2
        EXPECT 11, error=NPDATA, rip=1b, cs=KCODE32, sp=STACK1

        CASE "a task without a usable stack", ENV_PROT32
        TASK 1f, KCODE32, RODATA
        ljmp $SEL_TSS32_OTHER, $0
1:      ud2
        SHUTDOWN

        CASE "a task at CPL 3", ENV_PROT32
        TASK 1f, UCODE32, UDATA
        ljmp $SEL_TSS32_OTHER, $0
1:      mov %ss, %eax
        hlt
        SHUTDOWN                        /* its TSS has no stack for level 0 */

        CASE "IRET with NT and a back link to nowhere", ENV_PROT32
        pushl $0x4002
        popfl
1:      iretl
        EXPECT 10, error=0, rip=1b, flags=0x14002

        CASE "IRET with NT to a task that is not busy", ENV_PROT32
        movw $SEL_TSS32_OTHER, TSS32
        pushl $0x4002
        popfl
1:      iretl
        EXPECT 10, error=SEL_TSS32_OTHER, rip=1b

        CASE "the debug trap of a task", ENV_PROT32
        TASK 1f
        movb $1, TSS32_OTHER+0x64
        ljmp $SEL_TSS32_OTHER, $0
1:      ud2
        EXPECT 1, rip=1b, sp=STACK1, dr6=0xffff8ff0

        CASE "a task switch clears the local breakpoints", ENV_PROT32
        TASK 1f
        mov $A(1f), %eax
        mov %eax, %dr0
        mov $0x401, %eax
        mov %eax, %dr7
        ljmp $SEL_TSS32_OTHER, $0
1:      mov %dr7, %eax
        mov %eax, RESULT
        DONE
        VALUE RESULT, 4, 0x400

        CASE "a 16-bit task, and back", ENV_PROT32
        movw $R(1f), TSS16_OTHER+0x0e
        movw $2, TSS16_OTHER+0x10
        movw $0x1234, TSS16_OTHER+0x12  /* AX */
        movw $0x100, TSS16_OTHER+0x1a   /* SP */
        movw $KDATA16I, TSS16_OTHER+0x26
        movw $KCODE16, TSS16_OTHER+0x24
        movw $LIMITED, TSS16_OTHER+0x22
        movw $LIMITED, TSS16_OTHER+0x28
        mov $0x12345678, %ebx
        lcall $SEL_TSS16_OTHER, $0
2:      mov %eax, RESULT
        DONE
        .code16
1:      mov %ax, 0
        mov %sp, 2
        push %ax
        pushf
        pop 4
        iret
        VALUE DATA, 4, 0x1001234
        VALUE DATA+4, 2, 0x4002
        VALUE TSS16_OTHER, 2, SEL_TSS32
        VALUE TSS16_OTHER+0x1a, 2, 0xfe
        VALUE GDT+SEL_TSS16_OTHER+5, 1, 0x81

        CASE "a task with page tables of its own", ENV_PAGED32
        TASK 1f
        movl $PT32+7, DATA              /* another page directory */
        movl $0x00000083, DATA+4
        movl $DATA, TSS32_OTHER+0x1c
        ljmp $SEL_TSS32_OTHER, $0
1:      mov %cr3, %eax
        mov %eax, RESULT
        movb $0x77, 0x400000+RESULT+4
        DONE
        VALUE RESULT, 4, DATA
        VALUE RESULT+4, 1, 0x77

/* ---- virtual-8086 mode ---- */

/* To virtual-8086 mode at the label. */
.macro V86 label, flags=0x20202
        push $0x4321                    /* GS, FS, DS, ES */
        push $0x3210
        push $RESULT>>4
        push $DATA>>4
        push $KSTACK_BOTTOM>>4
        push $0x800
        push $\flags
        mov $A(99b), %eax
        shr $4, %eax
        push %eax
        push $R(\label)
        iretl
        .code16
.endm

        CASE "to virtual-8086 mode and out by an exception", ENV_PROT32
        V86 1f
1:      mov %cs, %ax
        mov %ax, 0
        mov %ss, 2
        mov %gs, 4
        mov %sp, 6
2:      hlt
        EXPECT 13, error=0, rip=2b, ss=KSTACK_BOTTOM>>4, sp=0x800, flags=0x30202, hcs=KCODE32, hss=KDATA, hsp=RSP0-40
        VALUE RESULT+2, 2, KSTACK_BOTTOM>>4
        VALUE RESULT+4, 4, 0x8004321
        VALUE LOG_RECORDS+256, 2, 0
        VALUE LOG_RECORDS+272, 2, 0
        VALUE LOG_RECORDS+280, 2, 0
        VALUE RSP0-16, 8, 0x1d0000002000
        VALUE RSP0-8, 8, 0x432100003210

        CASE "virtual-8086 mode: INT n needs IOPL 3", ENV_PROT32
        V86 1f
1:      int $0x30
        EXPECT 13, error=0, rip=1b, flags=0x30202

        CASE "virtual-8086 mode: INT n with IOPL 3, and back", ENV_PROT32
        movb $ACTION_CONTINUE, ACTIONS+0x30
        V86 1f, 0x23202
1:      int $0x30
2:      mov %ds, 0
3:      ud2
        EXPECT 0x30, rip=2b, flags=0x23202
        EXPECT 6, rip=3b, flags=0x33202
        VALUE RESULT, 2, RESULT>>4

        CASE "virtual-8086 mode: INT3", ENV_PROT32
        V86 1f
1:      int3
2:      EXPECT 3, rip=2b, flags=0x20202

        CASE "virtual-8086 mode: a gate of level 0", ENV_PROT32
        V86 1f, 0x23202
1:      int $0x20
        EXPECT 13, error=0x20*8+2, rip=1b

        CASE "virtual-8086 mode: a conforming handler is refused", ENV_PROT32
        movw $CONF32, IDT32+8*6+2
        V86 1f
1:      ud2
        EXPECT 13, error=CONF32+1, rip=1b

        CASE "virtual-8086 mode: PUSHF needs IOPL 3", ENV_PROT32
        V86 1f
1:      pushf
        EXPECT 13, error=0, rip=1b, sp=0x800

        CASE "virtual-8086 mode: PUSHF and POPF", ENV_PROT32
        V86 1f, 0x23202
1:      pushf
        pop 0
        pushw $0x0cd7
        popf
2:      ud2
        EXPECT 6, rip=2b, flags=0x33cd7
        VALUE RESULT, 2, 0x3202

        CASE "virtual-8086 mode: CLI needs IOPL 3", ENV_PROT32
        V86 1f
1:      cli
        EXPECT 13, error=0, rip=1b

        CASE "virtual-8086 mode: IRET", ENV_PROT32
        V86 1f, 0x23202
1:      pushw $0x0003
        push %cs
        pushw $R(2f)
        iretw
        nop
2:      ud2
        EXPECT 6, rip=2b, sp=0x800, flags=0x33003

        CASE "virtual-8086 mode: IRET needs IOPL 3", ENV_PROT32
        V86 1f
1:      iretw
        EXPECT 13, error=0, rip=1b

        CASE "virtual-8086 mode: far CALL and segments", ENV_PROT32
        V86 1f
1:      push %cs
        call 3f
2:      ud2
3:      mov $DATA>>4, %ax
        mov %ax, %ds
        movw $0x1357, 0
        lret
        EXPECT 6, rip=2b, sp=0x800
        VALUE DATA, 2, 0x1357

        CASE "virtual-8086 mode: the end of a segment", ENV_PROT32
        V86 1f
1:      mov 0xffff, %ax
        EXPECT 13, error=0, rip=1b

        CASE "virtual-8086 mode: ports ask the bitmap", ENV_PROT32
        movb $0xfd, TSS32+0x68+(0x90>>3)
        V86 1f, 0x23202
1:      mov $0x91, %dx
        in %dx, %al
        inc %dx
2:      in %dx, %al
        EXPECT 13, error=0, rip=2b

.macro V86_REFUSES name, vector, error, instruction:vararg
        CASE "virtual-8086 mode: \name", ENV_PROT32
        V86 1f
1:      \instruction
        EXPECT \vector, error=\error, rip=1b
.endm

        V86_REFUSES "LGDT", 13, 0, lgdt 0
        V86_REFUSES "LMSW", 13, 0, lmsw %ax
        V86_REFUSES "MOV from CR0", 13, 0, mov %cr0, %eax
        V86_REFUSES "CLTS", 13, 0, clts
        V86_REFUSES "RDMSR", 13, 0, rdmsr
        V86_REFUSES "LLDT", 6, NO_ERROR_CODE, lldt %ax
        V86_REFUSES "STR", 6, NO_ERROR_CODE, str %ax
        V86_REFUSES "LAR", 6, NO_ERROR_CODE, lar %ax, %ax
        V86_REFUSES "VERR", 6, NO_ERROR_CODE, verr %ax

        CASE "a task in virtual-8086 mode", ENV_PROT32
        TASK 1f, 0, KSTACK_BOTTOM>>4, RESULT>>4, 0x20002
        movl $R(1f), TSS32_OTHER+0x20
        mov $A(99b), %eax
        shr $4, %eax
        mov %eax, TSS32_OTHER+0x4c
        movl $0x400, TSS32_OTHER+0x38
        movl $KDATA, TSS32_OTHER+8
        movl $RSP0, TSS32_OTHER+4
        ljmp $SEL_TSS32_OTHER, $0
        .code16
1:      movw $0x2468, 0
        ud2
        EXPECT 6, ss=KSTACK_BOTTOM>>4, sp=0x400, flags=0x30002, hsp=RSP0-36
        VALUE RESULT, 2, 0x2468

        CASE "IRET to virtual-8086 mode beyond 64 KiB", ENV_PROT32
        push $0
        push $0
        push $0
        push $0
        push $0x1000
        push $0x800
        push $0x20202
        push $0x4000
        push $0x10000
1:      iretl
        EXPECT 13, error=0, rip=1b, cs=KCODE32
