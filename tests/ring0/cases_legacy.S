/* 32-bit and 16-bit protected mode: gates, IRET, call gates, segments, stacks, legacy instructions. */

/* To CPL 3 at the label, from 32-bit code. */
.macro USER32 label, cs=UCODE32, flags=0x202
        push $UDATA
        push $USTACK
        push $\flags
        push $\cs
        push $A(\label)
        iretl
.endm

/* ---- events ---- */

        CASE "32-bit gate, same level", ENV_PROT32
        stc
        int $0x30
1:      EXPECT 0x30, rip=1b, cs=KCODE32, flags=3, hcs=KCODE32, hss=KDATA, hsp=KSTACK-12

        CASE "32-bit gate, inner level", ENV_PROT32_3
        int $0x30
1:      EXPECT 0x30, rip=1b, cs=UCODE32, ss=UDATA, sp=USTACK, flags=0x202, hcs=KCODE32, hss=KDATA, hsp=RSP0-20

        CASE "32-bit exception with an error code", ENV_PROT32_3
1:      hlt
        EXPECT 13, error=0, rip=1b, cs=UCODE32, ss=UDATA, sp=USTACK, flags=0x10202, hsp=RSP0-24

        CASE "16-bit gate, same level", ENV_PROT32
        movw $stubs32_gate16-image+0x200, IDT32+8*0x20
        movw $KCODE32I, IDT32+8*0x20+2
        movb $0x86, IDT32+8*0x20+5
        movw $0xffff, IDT32+8*0x20+6    /* not part of a 16-bit gate */
        stc
        int $0x20
1:      EXPECT 0x120, cs=KCODE32, flags=3, hsp=KSTACK-6

        CASE "16-bit gate, inner level", ENV_PROT32
        movw $stubs32_gate16-image+0x200, IDT32+8*0x20
        movw $KCODE32I, IDT32+8*0x20+2
        movw $0xe700, IDT32+8*0x20+4
        USER32 1f
1:      int $0x20
        EXPECT 0x120, cs=UCODE32, ss=UDATA, sp=USTACK&0xffff, hss=KDATA, hsp=RSP0-10

        CASE "trap gate", ENV_PROT32
        movb $0x8f, IDT32+8*0x20+5
        sti
        nop
        int $0x20
1:      EXPECT 0x20, rip=1b, flags=0x202
        VALUE LOG_RECORDS+41, 1, 2

        CASE "32-bit gate without privilege", ENV_PROT32_3
1:      int $0x20
        EXPECT 13, error=0x20*8+2, rip=1b, cs=UCODE32

        CASE "32-bit gate that is not present", ENV_PROT32
        movb $0x0e, IDT32+8*0x20+5
1:      int $0x20
        EXPECT 11, error=0x20*8+2, rip=1b

        CASE "32-bit gate of a wrong type", ENV_PROT32
        movb $0x8c, IDT32+8*0x20+5
1:      int $0x20
        EXPECT 13, error=0x20*8+2, rip=1b

        CASE "32-bit gate with a null selector", ENV_PROT32
        movw $0, IDT32+8*0x20+2
1:      int $0x20
        EXPECT 13, error=0, rip=1b

        CASE "32-bit gate beyond the segment's limit", ENV_PROT32
        movw $0, GDT+SLOT0              /* 32-bit code of 1 byte */
        movl $0x00409b00, GDT+SLOT0+4
        movw $SLOT0, IDT32+8*0x20+2
1:      int $0x20
        EXPECT 13, error=0, rip=1b

        CASE "an inner stack with a null SS", ENV_PROT32
        movw $0, TSS32+8
        USER32 1f
1:      int $0x30
        SHUTDOWN                        /* every handler needs that stack */

        CASE "an inner stack of another level", ENV_PROT32
        movw $DATA1-1, TSS32+8
        movw $CODE1-1, IDT32+8*10+2     /* #TS goes to level 1 */
        USER32 1f
1:      int $0x30
        EXPECT 10, error=DATA1-1, rip=1b, cs=UCODE32, hcs=CODE1, hss=DATA1, hsp=STACK1-24
        SHUTDOWN                        /* its HLT is #GP */

        CASE "an inner stack that is not present", ENV_PROT32
        movw $NPDATA, TSS32+8
        movw $CODE1-1, IDT32+8*12+2
        USER32 1f
1:      int $0x30
        EXPECT 12, error=NPDATA, rip=1b, cs=UCODE32, hcs=CODE1
        SHUTDOWN

        CASE "a TSS that is too short for the stack", ENV_PROT32
        movw $8, GDT+SEL_TSS32
        movb $0x89, GDT+SEL_TSS32+5
        mov $SEL_TSS32, %eax
        ltr %ax
        movw $CONF32, IDT32+8*10+2
        movl $1f-image+IMAGE_BASE, LOG_RESUME
        USER32 1f
1:      int $0x30
        EXPECT 10, error=SEL_TSS32, rip=1b, cs=UCODE32, hcs=CONF32+3
        SHUTDOWN

        CASE "no room on the stack", ENV_PROT32
        mov $LIMITED, %eax
        mov %eax, %ss
        mov $8, %esp
        movb $0x86, IDT32+8*12+5
1:      int $0x30
        SHUTDOWN

        CASE "INTO", ENV_PROT32
        into
        mov $0x7fffffff, %eax
        inc %eax
        into
1:      EXPECT 4, rip=1b

        CASE "INTO at CPL 3", ENV_PROT32_3
        mov $0x7fffffff, %eax
        inc %eax
        into
1:      EXPECT 4, rip=1b, cs=UCODE32

        CASE "BOUND", ENV_PROT32
        movl $-2, DATA
        movl $5, DATA+4
        mov $-2, %eax
        bound %eax, DATA
        mov $5, %eax
        bound %eax, DATA
        inc %eax
1:      bound %eax, DATA
        EXPECT 5, rip=1b

        CASE "AAM by zero", ENV_PROT32
1:      aam $0
        EXPECT 0, rip=1b

        CASE "SALC and the BCD instructions", ENV_PROT32
        mov $0x1f, %eax
        aaa
        mov %eax, DATA
        mov $0x9b, %al
        daa
        mov %al, DATA+4
        stc
        .byte 0xd6
        mov %al, DATA+5
        DONE
        VALUE DATA, 8, 0xff0100000105

/* ---- IRET ---- */

.macro IRET32 vector, code, cs, ss, flags=2
        push $\ss
        push $STACK2
        push $\flags
        push $\cs
        push $A(1f)
1:      iretl
        EXPECT \vector, error=\code, rip=1b, cs=KCODE32, sp=KSTACK-20
.endm

        CASE "IRET to the same level leaves SS:ESP", ENV_PROT32
        push $0x8d7
        push $KCODE32
        push $A(1f)
        iretl
1:      ud2
        EXPECT 6, rip=1b, cs=KCODE32, sp=KSTACK, flags=0x108d7

        CASE "IRET to the outer level", ENV_PROT32
        USER32 1f
1:      ud2
        EXPECT 6, rip=1b, cs=UCODE32, ss=UDATA, sp=USTACK
        VALUE LOG_RECORDS+256, 2, 0
        VALUE LOG_RECORDS+272, 2, 0

        CASE "IRET to level 1", ENV_PROT32
        push $DATA1
        push $USTACK
        push $0x1202
        push $CODE1
        push $A(1f)
        iretl
1:      cli
        ud2
        EXPECT 6, cs=CODE1, ss=DATA1, sp=USTACK, flags=0x11002

        CASE "32-bit IRET to a null CS", ENV_PROT32
        IRET32 13, 0, 0, UDATA
        CASE "32-bit IRET to a data segment", ENV_PROT32
        IRET32 13, UDATA-3, UDATA, UDATA
        CASE "32-bit IRET to a segment that is not present", ENV_PROT32
        IRET32 11, NPCODE32, NPCODE32, KDATA
        CASE "32-bit IRET with the wrong RPL", ENV_PROT32
        IRET32 13, KCODE32, KCODE32+3, UDATA
        CASE "32-bit IRET with a null SS", ENV_PROT32
        IRET32 13, 0, UCODE32, 0
        CASE "32-bit IRET with SS of another level", ENV_PROT32
        IRET32 13, KDATA, UCODE32, KDATA
        CASE "32-bit IRET with SS beyond the GDT", ENV_PROT32
        IRET32 13, 0x1008, UCODE32, 0x100b

        CASE "16-bit IRET", ENV_PROT32
        sub $6, %esp
        movw $R(1f), (%esp)
        movw $KCODE16, 2(%esp)
        movw $0xd7, 4(%esp)
        iretw
1:      .byte 0x0f, 0x0b
        EXPECT 6, rip=1b, cs=KCODE16, sp=KSTACK, flags=0x100d7

        CASE "POPF at CPL 3 keeps IF and IOPL without a fault", ENV_PROT32_3
        push $0x3000
        popfl
1:      ud2
        EXPECT 6, rip=1b, flags=0x10202

/* ---- far transfers ---- */

.macro CALL_GATE32 slot, access, selector, target, parameters=0
        movw $\target-image, GDT+\slot
        movw $\selector, GDT+\slot+2
        movb $\parameters, GDT+\slot+4
        movb $\access, GDT+\slot+5
        movw $IMAGE_BASE>>16, GDT+\slot+6
.endm

        CASE "a 32-bit call gate with parameters, and back", ENV_PROT32
        CALL_GATE32 SLOT0, 0xec, KCODE32, 1f, 2
        USER32 2f
2:      push $0x1111
        push $0x2222
        lcall $SLOT0+3, $0
3:      ud2
1:      .irp n, 0, 4, 8, 12, 16, 20
        mov \n(%esp), %eax
        mov %eax, %ss:DATA+\n
        .endr
        mov %esp, %ss:DATA+24
        lretl $8
        EXPECT 6, rip=3b, cs=UCODE32, ss=UDATA, sp=USTACK
        VALUE DATA, 4, 3b-image+IMAGE_BASE
        VALUE DATA+4, 4, UCODE32
        VALUE DATA+8, 8, 0x111100002222
        VALUE DATA+16, 4, USTACK-8
        VALUE DATA+20, 4, UDATA
        VALUE DATA+24, 4, RSP0-24

        CASE "a call gate to level 2", ENV_PROT32
        CALL_GATE32 SLOT0, 0xec, CODE2, 1f, 0
        USER32 2f
2:      lcall $SLOT0+3, $0
1:      ud2
        EXPECT 6, rip=1b, cs=CODE2, ss=DATA2, sp=STACK2-16

        CASE "a call gate to conforming code keeps the level", ENV_PROT32
        CALL_GATE32 SLOT0, 0xec, CONF32, 1f, 3
        USER32 2f
2:      lcall $SLOT0+3, $0
1:      ud2
        EXPECT 6, rip=1b, cs=CONF32+3, ss=UDATA, sp=USTACK-8

        CASE "a 16-bit call gate", ENV_PROT32
        CALL_GATE32 SLOT0, 0x84, KCODE16, 1f
        movw $R(1f), GDT+SLOT0
        lcall $SLOT0, $0
2:      nop
1:      .byte 0x0f, 0x0b
        EXPECT 6, rip=1b, cs=KCODE16, sp=KSTACK-4

        CASE "a call gate beyond the segment's limit", ENV_PROT32
        CALL_GATE32 SLOT0, 0x8c, KCODE16, 1f
1:      lcall $SLOT0, $0
        EXPECT 13, error=0, rip=1b

        CASE "a far CALL within the level", ENV_PROT32
        lcall $KCODE32, $A(1f)
2:      DONE
1:      mov (%esp), %eax
        mov 4(%esp), %ebx
        mov %eax, DATA
        mov %ebx, DATA+4
        lretl
        VALUE DATA, 4, 2b-image+IMAGE_BASE
        VALUE DATA+4, 4, KCODE32

        CASE "a far JMP beyond the segment's limit", ENV_PROT32
1:      ljmp $KCODE16, $0x12345
        EXPECT 13, error=0, rip=1b

        CASE "a far JMP to a segment that is not present", ENV_PROT32
1:      ljmp $NPCODE32, $0
        EXPECT 11, error=NPCODE32, rip=1b

        CASE "SYSENTER and SYSEXIT", ENV_PROT32
        mov $0x174, %ecx
        mov $KCODE32-0x28, %eax         /* 8; SYSEXIT: + 16, + 24 */
        xor %edx, %edx
        wrmsr
        inc %ecx
        mov $STACK1, %eax
        wrmsr
        inc %ecx
        mov $A(2f), %eax
        wrmsr
        movl $0x00cf9b00, GDT+KCODE32-0x28+4
        mov $A(1f), %edx
        mov $USTACK, %ecx
        sysexit
1:      mov %cs, %eax
        mov %ss, %ebx
        mov %esp, %ecx
        sysenter
2:      mov %cs, %edx
        mov %ss, %esi
        mov %esp, %edi
        ud2
        EXPECT 6, cs=8, ss=KDATA
        VALUE LOG_RECORDS+128, 8, 0x1b
        VALUE LOG_RECORDS+136, 8, USTACK
        VALUE LOG_RECORDS+144, 8, 8
        VALUE LOG_RECORDS+152, 8, 0x23
        VALUE LOG_RECORDS+176, 8, KDATA
        VALUE LOG_RECORDS+184, 8, STACK1

        CASE "SYSENTER without its CS", ENV_PROT32
1:      sysenter
        EXPECT 13, error=0, rip=1b

        CASE "SYSEXIT at CPL 3", ENV_PROT32_3
1:      sysexit
        EXPECT 13, error=0, rip=1b

/* ---- segments ---- */

        CASE "the last byte of a segment", ENV_PROT32
        mov $LIMITED, %eax
        mov %eax, %es
        movb $1, %es:0xff
        movl $2, %es:0xfc
1:      movw $3, %es:0xff
        EXPECT 13, error=0, rip=1b
        VALUE DATA+0xfc, 4, 2

        CASE "beyond a stack segment", ENV_PROT32
        mov $LIMITED, %eax
        mov %eax, %ss
        mov $0x80, %esp
        mov $0xfd, %ebp
1:      mov (%ebp), %eax
        EXPECT 12, error=0, rip=1b, ss=LIMITED, sp=0x80

        CASE "below an expand-down segment", ENV_PROT32
        mov $DOWN32, %eax
        mov %eax, %es
        movb $1, %es:0x1000
1:      movb $1, %es:0xfff
        EXPECT 13, error=0, rip=1b
        VALUE 0x1000, 1, 1

        CASE "above a 16-bit expand-down segment", ENV_PROT32
        mov $DOWN16, %eax
        mov %eax, %es
        movw $1, %es:0xfffe
1:      movw $1, %es:0xffff
        EXPECT 13, error=0, rip=1b

        CASE "a read-only segment", ENV_PROT32
        mov $RODATA, %eax
        mov %eax, %es
        mov %es:DATA, %eax
1:      mov %eax, %es:DATA
        EXPECT 13, error=0, rip=1b

        CASE "a code segment cannot be written", ENV_PROT32
        mov %cs:DATA, %eax
1:      mov %eax, %cs:DATA
        EXPECT 13, error=0, rip=1b

        CASE "an execute-only segment cannot be read", ENV_PROT32
        ljmp $EXECONLY, $A(2f)
2:
1:      mov %cs:DATA, %eax
        EXPECT 13, error=0, rip=1b

        CASE "a null segment register", ENV_PROT32
        xor %eax, %eax
        mov %eax, %es
1:      mov %es:DATA, %al
        EXPECT 13, error=0, rip=1b

        CASE "code runs up to its limit", ENV_PROT32
        movw $1f-99b, GDT+KCODE16       /* the first byte of the NOP is the last one */
        movb $0x40, GDT+KCODE16+6
        ljmp $KCODE16, $R(2f)
2:      nop
1:      nop
        nop
        EXPECT 13, error=0, cs=KCODE16

        CASE "a 16-bit stack uses SP", ENV_PROT32
        mov $KDATA16I, %eax
        mov $0x12340010, %ebx
        mov %eax, %ss
        mov %ebx, %esp
        push $0x55667788
        mov %esp, DATA
        call 1f
1:      pop %eax
        pop %eax
        mov %esp, DATA+4
        mov %eax, DATA+8
        mov $0, %esp
        push %eax
        mov %esp, DATA+12
        DONE
        VALUE DATA, 8, 0x123400101234000c
        VALUE DATA+8, 4, 0x55667788
        VALUE DATA+12, 4, 0xfffc
        VALUE KSTACK_BOTTOM+0xc, 4, 0x55667788

        CASE "LDS, LES, LFS, LGS, LSS", ENV_PROT32
        movl $0x12345678, DATA
        movw $UDATA, DATA+4
        les DATA, %eax
        lfs DATA, %ebx
        lgs DATA, %ecx
        lds DATA, %edx
        movw $KDATA, DATA+4
        lss DATA, %esp
        mov %ds, %esi
        mov %es, %edi
        mov $STACK2, %esp
        ud2
        EXPECT 6, ss=KDATA, sp=STACK2
        VALUE LOG_RECORDS+128, 8, 0x12345678
        VALUE LOG_RECORDS+136, 8, 0x12345678
        VALUE LOG_RECORDS+144, 8, 0x12345678
        VALUE LOG_RECORDS+176, 8, UDATA
        VALUE LOG_RECORDS+184, 8, UDATA

        CASE "ARPL", ENV_PROT32
        mov $KDATA, %eax
        mov $UDATA, %ebx
        arpl %bx, %ax
        setz DATA
        mov %eax, DATA+4
        arpl %ax, %bx
        setz DATA+1
        movw $1, DATA+2
        arpl %ax, DATA+2
        DONE
        VALUE DATA, 8, 0x1300030001

        CASE "LAR and LSL of what only legacy mode has", ENV_PROT32
        QUERY 0, lar, SEL_TSS16
        QUERY 8, lsl, SEL_TSS16
        QUERY 16, lar, LDT_DATA
        QUERY 24, lsl, DOWN16
        DONE
        VALUE RESULT, 8, 0x810000000001
        VALUE RESULT+8, 8, 0x2b00000001
        VALUE RESULT+16, 8, 0xcf930000000001
        VALUE RESULT+24, 8, 0xfff00000001

/* ---- stack instructions ---- */

        CASE "PUSHA and POPA", ENV_PROT32
        mov $1, %eax
        mov $2, %ecx
        mov $3, %edx
        mov $4, %ebx
        mov $6, %ebp
        mov $7, %esi
        mov $8, %edi
        pushal
        mov 12(%esp), %eax
        mov %eax, DATA
        movl $99, 12(%esp)
        movl $77, 28(%esp)
        popal
        mov %eax, DATA+4
        mov %esp, DATA+8
        pushaw
        mov %esp, DATA+12
        DONE
        VALUE DATA, 8, 0x4d00011000
        VALUE DATA+8, 8, 0x10ff000011000

        CASE "ENTER and LEAVE", ENV_PROT32
        mov $KSTACK-0x100, %ebp
        movl $0x1234, -4(%ebp)
        enter $32, $0
        mov %ebp, DATA
        mov %esp, DATA+4
        leave
        mov %ebp, DATA+8
        enter $16, $2
        mov %ebp, DATA+12
        mov %esp, DATA+16
        mov -4(%ebp), %eax
        mov %eax, DATA+20
        mov -8(%ebp), %eax
        mov %eax, DATA+24
        DONE
        VALUE DATA, 8, 0x10fdc00010ffc
        VALUE DATA+8, 8, 0x10ffc00010f00
        VALUE DATA+16, 8, 0x123400010fe4
        VALUE DATA+24, 4, 0x10ffc

/* ---- 32-bit paging ---- */

        CASE "32-bit paging: not present", ENV_PAGED32
1:      mov 0x600000, %al
        EXPECT 14, error=0, rip=1b, cr2=0x600000

        CASE "32-bit paging: read-only", ENV_PAGED32
        movl $DATA+1, PT32+4*(DATA>>12)
        invlpg DATA
1:      mov %al, DATA
        EXPECT 14, error=3, rip=1b, cr2=DATA

        CASE "32-bit paging: a supervisor page", ENV_PAGED32_3
1:      mov DATA, %al
        EXPECT 14, error=5, rip=1b, cr2=DATA

        CASE "32-bit paging: a fetch tells nothing of itself", ENV_PAGED32_3
        mov $DATA, %eax
        jmp *%eax
        EXPECT 14, error=5, cr2=DATA

        CASE "32-bit paging: 4 MiB pages", ENV_PAGED32
        movl $0xe7&~0x60, PD32+4
        movl $0x11223344, 0x400000+DATA
        DONE
        VALUE DATA, 4, 0x11223344
        VALUE PD32+4, 4, 0xe7

        CASE "32-bit paging: a reserved bit of a 4 MiB page", ENV_PAGED32
        movl $0x2087, PD32+4
1:      mov 0x400000, %al
        EXPECT 14, error=9, rip=1b, cr2=0x400000

        CASE "PAE: data, NX and a reserved bit", ENV_PROT32
        movb $ACTION_CONTINUE+ACTION_DROP_ERROR+ACTION_RESUME, ACTIONS+14
        mov %cr4, %eax
        or $0x20, %eax
        mov %eax, %cr4
        mov $PDPT_PAE, %eax
        mov %eax, %cr3
        mov %cr0, %eax
        bts $31, %eax
        mov %eax, %cr0
        movl $0x80000000, PT_LOW+8*(DATA>>12)+4
        movl $A(2f), LOG_RESUME
        mov $DATA, %eax
        jmp *%eax
2:      movl $0x00100000, PT_LOW+8*(DATA>>12)+4
        invlpg DATA
        movl $A(4f), LOG_RESUME
3:      mov DATA, %al
4:      DONE
        EXPECT 14, error=0x11, cr2=DATA
        EXPECT 14, error=9, rip=3b, cr2=DATA

        CASE "PAE: a reserved bit of a PDPTE", ENV_PROT32
        mov %cr4, %eax
        or $0x20, %eax
        mov %eax, %cr4
        mov $PDPT_PAE, %eax
        mov %eax, %cr3
        movl $PD+3, PDPT_PAE
        mov %cr0, %eax
        bts $31, %eax
1:      mov %eax, %cr0
        EXPECT 13, error=0, rip=1b

/* ---- 16-bit protected mode ---- */

        CASE "16-bit code: an exception", ENV_PROT16
1:      ud2
        EXPECT 6, rip=1b, cs=KCODE16, hcs=KCODE32

        CASE "16-bit code: CALL, RET, PUSHA, ENTER", ENV_PROT16
        mov $LIMITED, %ax
        mov %ax, %ds
        mov $0x1234, %bp
        call 1f
2:      mov %sp, 0
        pusha
        mov %sp, 2
        popa
        enter $4, $0
        mov %sp, 4
        leave
        mov %bp, 6
        DONE
1:      pop %ax
        mov %ax, 8
        push %ax
        ret
        VALUE DATA, 8, 0x12340ffa0ff01000
        VALUE DATA+8, 2, 2b-99b

        CASE "16-bit code: far CALL and RET", ENV_PROT16
        .byte 0x9a
        .word R(1f), KCODE16
        DONE
1:      lret

        CASE "16-bit code: BOUND", ENV_PROT16
        mov $LIMITED, %ax
        mov %ax, %ds
        movl $0x00050002, 0
        mov $6, %ax
1:      bound %ax, 0
        EXPECT 5, rip=1b
