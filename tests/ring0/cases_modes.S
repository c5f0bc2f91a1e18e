/* Real mode, and the ways between the modes (SDM 3, 9.9 and chapter 20). */

        CASE "real mode: INT n", ENV_REAL
        stc
        int $0x30
1:      EXPECT 0x30, rip=1b, flags=3, hsp=0xffa

        CASE "real mode: an exception", ENV_REAL
1:      .byte 0xf0, 0x90
        EXPECT 6, rip=1b, flags=2, hsp=0xffa

        CASE "real mode: an operand at the end of the segment", ENV_REAL
        mov 0xfffe, %ax
1:      mov 0xffff, %ax
        EXPECT 13, rip=1b

        CASE "real mode: the stack at the end of the segment", ENV_REAL
        mov $0xffff, %bp
1:      mov (%bp), %ax
        EXPECT 12, rip=1b

        CASE "real mode: the stack wraps", ENV_REAL
        xor %sp, %sp
        push %ax
        mov %sp, 0
        pop %ax
        mov %sp, 2
        DONE
        VALUE RESULT, 4, 0xfffe

        CASE "real mode: division", ENV_REAL
        xor %cx, %cx
1:      div %cx
        EXPECT 0, rip=1b

        CASE "real mode: IRET takes the flags", ENV_REAL
        pushw $0x7cd7
        push %cs
        pushw $R(1f)
        iretw
1:      ud2
        EXPECT 6, rip=1b, flags=0x7cd7

        CASE "real mode: INTO, written through CS", ENV_REAL
        movb $0xce, %cs:R(1f)-1         /* a code segment can be written */
        into
        mov $0x7fff, %ax
        inc %ax
        nop
1:      EXPECT 4, rip=1b

        CASE "real mode: single steps", ENV_REAL
        pushf
        mov %sp, %bp
        orw $0x100, (%bp)
        popf
        nop
1:      nop
        EXPECT 1, rip=1b, flags=0x102, dr6=0xffff4ff0

        CASE "real mode: far CALL and RETF", ENV_REAL
        mov %cs, %ax
        mov %ax, 2
        movw $R(1f), 0
        lcall *0
        DONE
1:      lret

        CASE "real mode: the IVT may end early", ENV_REAL
        movw $0x30*4+2, 0
        movl $0, 2
        lidtw 0
1:      int $0x30
        EXPECT 13, rip=1b

        CASE "real mode: no selectors to look up", ENV_REAL
1:      sldt %ax
        EXPECT 6, rip=1b

        CASE "real mode: an interrupt after STI", ENV_REAL
        mov $0x40, %al
        out %al, $PORT_IRQ
        sti
        hlt
1:      EXPECT 0x40, rip=1b

        CASE "real mode: no paging without protection", ENV_REAL
        mov %cr0, %eax
        bts $31, %eax
1:      mov %eax, %cr0
        EXPECT 13, rip=1b

.macro LOAD_GDT
        movw $GDT_LIMIT, 0x100
        movl $GDT, 0x102
        lgdtl 0x100
.endm

        CASE "unreal mode: big limits stay", ENV_REAL
        LOAD_GDT
        mov %cr0, %eax
        or $1, %al
        mov %eax, %cr0
        mov $KDATA, %bx
        mov %bx, %es
        and $0xfe, %al
        mov %eax, %cr0
        mov $DATA, %ebx
        movl $0x55667788, %es:(%ebx)
        xor %ax, %ax
        mov %ax, %es
        movl $0x11223344, %es:4(%ebx)
        DONE
        VALUE DATA, 8, 0x1122334455667788

        CASE "real mode keeps its base until a selector is loaded", ENV_REAL
        LOAD_GDT
        mov %cr0, %eax
        or $1, %al
        mov %eax, %cr0
        movw $0x1234, 0x20
        and $0xfe, %al
        mov %eax, %cr0
        DONE
        VALUE RESULT+0x20, 2, 0x1234

        CASE "from real mode to long mode and back, by every mode", ENV_REAL
        LOAD_GDT
        mov %cs, %ax
        mov %ax, 0x40
        mov %cr0, %eax
        or $1, %al
        mov %eax, %cr0
        .byte 0xea                      /* 16-bit protected mode */
        .word R(1f), KCODE16
1:      mov $KDATA, %ax
        mov %ax, %ds
        mov %ax, %ss
        mov $KSTACK, %esp
        mov $RESULT, %ebx
        movb $1, (%ebx)
        .byte 0x66, 0xea                /* 32-bit protected mode */
        .long A(1f)
        .word KCODE32
        .code32
1:      movb $2, RESULT+1
        mov $0xc0000080, %ecx
        rdmsr
        or $0x100, %eax
        wrmsr
        mov %cr4, %eax
        or $0x20, %eax
        mov %eax, %cr4
        mov $PML4, %eax
        mov %eax, %cr3
        mov %cr0, %eax
        bts $31, %eax
        mov %eax, %cr0                  /* compatibility mode */
        movb $3, RESULT+2
        mov $0xc0000080, %ecx
        rdmsr
        mov %eax, RESULT+8
        ljmp $KCODE64, $A(1f)
        .code64
1:      mov $4, %al
        movabs %al, RESULT+3            /* 64-bit mode */
        mov $-1, %r15
        push $KCODE32
        push $A(1f)
        lretq
        .code32
1:      movb $5, RESULT+4               /* compatibility mode again */
        mov %cr0, %eax
        btr $31, %eax
        mov %eax, %cr0                  /* protected mode */
        mov $0xc0000080, %ecx
        rdmsr
        mov %eax, RESULT+12
        movb $6, RESULT+5
        ljmp $KCODE16, $R(1f)
        .code16
1:      mov $KDATA16, %ax
        mov %ax, %ds
        mov %ax, %ss
        mov %cr0, %eax
        and $0xfe, %al
        mov %eax, %cr0
        mov $RESULT>>4, %ax
        mov %ax, %ds
        pushw 0x40
        pushw $R(1f)
        lret
1:      movb $7, 6
        mov %cs, %ax
        cmp 0x40, %ax
        sete 7
        DONE
        VALUE RESULT, 8, 0x0107060504030201
        VALUE RESULT+8, 4, 0x500
        VALUE RESULT+12, 4, 0x100

        CASE "long mode needs PAE", ENV_PROT32
        mov $0xc0000080, %ecx
        rdmsr
        or $0x100, %eax
        wrmsr
        mov $PML4, %eax
        mov %eax, %cr3
        mov %cr0, %eax
        bts $31, %eax
1:      mov %eax, %cr0
        EXPECT 13, error=0, rip=1b

        CASE "long mode refuses a 16-bit TSS", ENV_PROT32
        mov $SEL_TSS16, %eax
        ltr %ax
        mov $0xc0000080, %ecx
        rdmsr
        or $0x100, %eax
        wrmsr
        mov %cr4, %eax
        or $0x20, %eax
        mov %eax, %cr4
        mov $PML4, %eax
        mov %eax, %cr3
        mov %cr0, %eax
        bts $31, %eax
1:      mov %eax, %cr0
        EXPECT 13, error=0, rip=1b

        CASE "LMSW sets PE and cannot clear it", ENV_PROT32
        xor %eax, %eax
        lmsw %ax
        mov %cr0, %eax
        mov %eax, DATA
        mov $8, %eax
        lmsw %ax
        mov %cr0, %eax
        mov %eax, DATA+4
        DONE
        VALUE DATA, 8, 0x1003900010031
