/* IRET, far jumps, calls and returns, call gates, SYSCALL and SYSRET in long mode. */

/* ---- IRET ---- */

        CASE "IRETQ to the same level pops SS:RSP", ENV_LONG
        IRET_FRAME KDATA, STACK2, 0x8d7, KCODE64, A(1f)
        iretq
1:      ud2
        EXPECT 6, rip=1b, cs=KCODE64, ss=KDATA, sp=STACK2, flags=0x108d7

        CASE "IRETQ to CPL 3", ENV_LONG
        USER64 1f
1:      ud2
        EXPECT 6, rip=1b, cs=UCODE64, ss=UDATA, sp=USTACK+ALIAS, flags=0x10202

        CASE "IRETQ nulls the data segments of the inner level", ENV_LONG
        mov $KDATA, %eax
        mov %eax, %fs
        mov $UDATA, %eax
        mov %eax, %gs
        mov $CONF32, %eax
        mov %eax, %es
        USER64 1f
1:      ud2
        EXPECT 6, rip=1b
        VALUE LOG_RECORDS+256, 2, 0
        VALUE LOG_RECORDS+264, 2, CONF32
        VALUE LOG_RECORDS+272, 2, 0
        VALUE LOG_RECORDS+280, 2, UDATA

        CASE "IRETQ to 32-bit code at CPL 3", ENV_LONG
        USER64 1f, UCODE32
        .code32
1:      ud2
        EXPECT 6, rip=1b, cs=UCODE32, ss=UDATA, sp=USTACK+ALIAS
        .code64

/* With a 16-bit SS only SP is loaded: bits 31:16 keep the kernel's (what Linux's espfix exists for). */
        CASE "IRETQ to 16-bit code at CPL 3", ENV_LONG
        IRET_FRAME UDATA16, 0x1ff0, 0x202, UCODE16, R(1f)
        addb $ALIAS>>16, GDT+UCODE16-3+4
        movl $0xffff, GDT+UDATA16-3
        iretq
1:      .byte 0x0f, 0x0b
        EXPECT 6, cs=UCODE16, ss=UDATA16, sp=0x11ff0

        CASE "IRETQ to 32-bit code at CPL 0", ENV_LONG
        IRET_FRAME KDATA, STACK2, 2, KCODE32, A(1f)
        iretq
1:      .byte 0x0f, 0x0b
        EXPECT 6, rip=1b, cs=KCODE32, ss=KDATA, sp=STACK2

        CASE "IRETD in 64-bit code pops 32-bit values", ENV_LONG
        sub $24, %rsp
        movl $A(1f), (%rsp)
        movl $KCODE64, 4(%rsp)
        movl $0x13, 8(%rsp)
        movl $STACK2, 12(%rsp)
        movl $KDATA, 16(%rsp)
        iretl
1:      ud2
        EXPECT 6, rip=1b, cs=KCODE64, ss=KDATA, sp=STACK2, flags=0x10013

        CASE "IRETQ to a null CS", ENV_LONG
        IRET_FRAME KDATA, STACK2, 2, 3, A(1f)
1:      iretq
        EXPECT 13, error=0, rip=1b, sp=KSTACK-40

        CASE "IRETQ to a CS beyond the GDT", ENV_LONG
        IRET_FRAME KDATA, STACK2, 2, 0x1008, A(1f)
1:      iretq
        EXPECT 13, error=0x1008, rip=1b, sp=KSTACK-40

        CASE "IRETQ to a data segment", ENV_LONG
        IRET_FRAME KDATA, STACK2, 2, KDATA, A(1f)
1:      iretq
        EXPECT 13, error=KDATA, rip=1b

        CASE "IRETQ to a segment that is not present", ENV_LONG
        IRET_FRAME KDATA, STACK2, 2, NPCODE64, A(1f)
1:      iretq
        EXPECT 11, error=NPCODE64, rip=1b

        CASE "IRETQ to a segment with L and D", ENV_LONG
        IRET_FRAME KDATA, STACK2, 2, BADCODE, A(1f)
1:      iretq
        EXPECT 13, error=BADCODE, rip=1b

        CASE "IRETQ with an RPL that the segment has not", ENV_LONG
        IRET_FRAME UDATA, STACK2, 2, KCODE64+3, A(1f)
1:      iretq
        EXPECT 13, error=KCODE64, rip=1b

        CASE "IRETQ to user code with RPL 0", ENV_LONG
        IRET_FRAME KDATA, STACK2, 2, UCODE64-3, A(1f)
1:      iretq
        EXPECT 13, error=UCODE64-3, rip=1b

        CASE "IRETQ to conforming code at CPL 3", ENV_LONG
        USER64 1f, CONF64+3
1:      ud2
        EXPECT 6, rip=1b, cs=CONF64+3

        CASE "IRETQ to an inner level", ENV_LONG3
        IRET_FRAME KDATA, STACK2, 2, KCODE64, A(1f)
1:      iretq
        EXPECT 13, error=KCODE64, rip=1b, cs=UCODE64

        CASE "IRETQ to CPL 3 with a null SS", ENV_LONG
        IRET_FRAME 3, STACK2, 2, UCODE64, A(1f)
1:      iretq
        EXPECT 13, error=0, rip=1b

        CASE "IRETQ to CPL 0 with a null SS", ENV_LONG
        IRET_FRAME 0, STACK2, 2, KCODE64, A(1f)
        iretq
1:      ud2
        EXPECT 6, rip=1b, ss=0, sp=STACK2

        CASE "IRETQ with a null SS whose RPL is not the level", ENV_LONG
        IRET_FRAME 1, STACK2, 2, KCODE64, A(1f)
1:      iretq
        EXPECT 13, error=0, rip=1b

        CASE "IRETQ to 32-bit code with a null SS", ENV_LONG
        IRET_FRAME 0, STACK2, 2, KCODE32, A(1f)
1:      iretq
        EXPECT 13, error=0, rip=1b

        CASE "IRETQ to CPL 3 with a stack of level 0", ENV_LONG
        IRET_FRAME KDATA, STACK2, 2, UCODE64, A(1f)
1:      iretq
        EXPECT 13, error=KDATA, rip=1b

        CASE "IRETQ with a read-only stack", ENV_LONG
        IRET_FRAME RODATA, STACK2, 2, KCODE64, A(1f)
1:      iretq
        EXPECT 13, error=RODATA, rip=1b

        CASE "IRETQ with a stack that is not present", ENV_LONG
        IRET_FRAME NPDATA, STACK2, 2, KCODE64, A(1f)
1:      iretq
        EXPECT 12, error=NPDATA, rip=1b

        CASE "IRETQ to a non-canonical address", ENV_LONG
        IRET_FRAME KDATA, STACK2, 2, KCODE64, 0
        movabs $0x800000000000, %rax
        mov %rax, (%rsp)
1:      iretq
        EXPECT 13, error=0, rip=1b

        CASE "IRETQ to a high address in 32-bit code", ENV_LONG
        IRET_FRAME KDATA, STACK2, 2, KCODE32, 0
        movb $1, 4(%rsp)
1:      iretq
        EXPECT 13, error=0, rip=1b

        CASE "IRETQ with NT", ENV_LONG
        IRET_FRAME KDATA, STACK2, 2, KCODE64, A(1f)
        pushq $0x4002
        popfq
1:      iretq
        EXPECT 13, error=0, rip=1b, flags=0x14002

        CASE "IRETQ from a non-canonical stack", ENV_LONG
        movb $1, IDT64+16*12+4
        movabs $0x800000000000, %rsp
1:      iretq
        EXPECT 12, error=0, rip=1b

        CASE "IRETQ whose frame crosses into an absent page", ENV_LONG
        movb $1, IDT64+16*14+4
        movb $0, PT_LOW+8*0x21
        movq $A(1f), DATA+0xff0
        movq $KCODE64, DATA+0xff8
        mov $DATA+0xff0, %esp
1:      iretq
        EXPECT 14, error=0, rip=1b, cr2=DATA+0x1000, sp=DATA+0xff0

        CASE "IRET at CPL 3 may not change IF and IOPL", ENV_LONG3
        IRET_FRAME UDATA, USTACK+ALIAS-64, 0x3cd7, UCODE64, 0
        lea 1f(%rip), %rax
        mov %rax, (%rsp)
        iretq
1:      ud2
        EXPECT 6, rip=1b, flags=0x10ed7

        CASE "IRET at CPL 0 changes every flag", ENV_LONG
        IRET_FRAME KDATA, KSTACK, 0x247ed7, KCODE64, A(1f)
        iretq
1:      ud2
        EXPECT 6, rip=1b, flags=0x257ed7

        CASE "IRETW keeps the upper half of RFLAGS", ENV_LONG
        pushq $0x200002
        popfq
        sub $10, %rsp
        movw $R(1f), (%rsp)
        movw $KCODE16, 2(%rsp)
        movw $0xd7, 4(%rsp)
        movw $0x1f0, 6(%rsp)
        movw $KDATA, 8(%rsp)
        iretw
1:      .byte 0x0f, 0x0b
        EXPECT 6, rip=1b, cs=KCODE16, sp=0x1f0, ss=KDATA, flags=0x2100d7

/* ---- far JMP, CALL, RET ---- */

        CASE "far JMP to 32-bit code and back", ENV_LONG
        movl $A(1f), RESULT
        movw $KCODE32, RESULT+4
        ljmp *RESULT
1:      .code32
        mov %esp, %ebx
        ljmp $KCODE64, $A(1f)
1:      .code64
        DONE

        CASE "far CALL to 32-bit code pushes 32 bits, and RETF comes back", ENV_LONG
        movl $A(2f), RESULT
        movw $KCODE32, RESULT+4
        lcall *RESULT
1:      mov %rsp, RESULT+0x20
        DONE
        .code32
2:      mov %esp, RESULT+0x10
        mov (%esp), %eax
        mov %eax, RESULT+0x14
        lretl
        .code64
        VALUE RESULT+0x10, 4, KSTACK-8
        VALUE RESULT+0x14, 4, 1b-image+IMAGE_BASE
        VALUE RESULT+0x20, 8, KSTACK

        CASE "far RET of 64 bits", ENV_LONG
        push $KCODE64
        push $A(1f)
        lretq $24
        ud2
1:      mov %rsp, RESULT
        DONE
        VALUE RESULT, 8, KSTACK+24

        CASE "far RET to CPL 3", ENV_LONG
        push $UDATA
        push $USTACK+ALIAS
        sub $16, %rsp
        push $UCODE64
        push $A(1f)+ALIAS
        lretq $16
1:      ud2
        EXPECT 6, rip=1b, cs=UCODE64, ss=UDATA, sp=USTACK+ALIAS+16

        CASE "far RET to an inner level", ENV_LONG3
        push $KCODE64
        push $0
1:      lretq
        EXPECT 13, error=KCODE64, rip=1b, cs=UCODE64, sp=USTACK+ALIAS-16

        CASE "far JMP to a null selector", ENV_LONG
        movl $A(1f), RESULT
1:      ljmp *RESULT
        EXPECT 13, error=0, rip=1b

        CASE "far JMP to another level", ENV_LONG
        movl $A(1f), RESULT
        movw $UCODE64, RESULT+4
1:      ljmp *RESULT
        EXPECT 13, error=UCODE64-3, rip=1b

        CASE "far JMP to a data segment", ENV_LONG
        movw $KDATA, RESULT+4
1:      ljmp *RESULT
        EXPECT 13, error=KDATA, rip=1b

        CASE "far JMP to a TSS in long mode", ENV_LONG
        movw $SEL_TSS64, RESULT+4
1:      ljmp *RESULT
        EXPECT 13, error=SEL_TSS64, rip=1b

        CASE "far JMP to an LDT", ENV_LONG
        movw $SEL_LDT, RESULT+4
1:      ljmp *RESULT
        EXPECT 13, error=SEL_LDT, rip=1b

        CASE "far JMP to code that is not present", ENV_LONG
        movw $NPCODE64, RESULT+4
1:      ljmp *RESULT
        EXPECT 11, error=NPCODE64, rip=1b

        CASE "far JMP to conforming code keeps the level", ENV_LONG
        movl $A(1f), RESULT
        movw $CONF64+3, RESULT+4
        ljmp *RESULT
1:      ud2
        EXPECT 6, rip=1b, cs=CONF64

        CASE "far CALL sets the accessed bit", ENV_LONG
        movb $0x9a, GDT+KCODE64+5
        movl $A(1f), RESULT
        movw $KCODE64, RESULT+4
        lcall *RESULT
1:      DONE
        VALUE GDT+KCODE64+5, 1, 0x9b

        CASE "far CALL with a stack that is not mapped changes nothing", ENV_LONG
        movb $1, IDT64+16*14+4
        movb $0x9a, GDT+CONF64+5
        movl $A(1f), RESULT
        movw $KCODE64, RESULT+4
        mov $0x500004, %esp
1:      lcall *RESULT
        EXPECT 14, error=2, rip=1b, sp=0x500004, cs=KCODE64

/* ---- call gates of 64 bits ---- */

.macro CALL_GATE slot, access, selector, target, upper=0
        movw $\target-image, GDT+\slot
        movw $\selector, GDT+\slot+2
        movb $0, GDT+\slot+4
        movb $\access, GDT+\slot+5
        movw $IMAGE_BASE>>16, GDT+\slot+6
        movl $0, GDT+\slot+8
        movl $\upper, GDT+\slot+12
.endm

        CASE "a call gate at the same level", ENV_LONG
        CALL_GATE SLOT0, 0x8c, KCODE64, 1f
        movw $SLOT0, RESULT+4
        lcall *RESULT
2:      DONE
1:      mov (%rsp), %rax
        mov %rax, RESULT+0x10
        mov 8(%rsp), %rax
        mov %rax, RESULT+0x18
        mov %rsp, RESULT+0x20
        lretq
        VALUE RESULT+0x10, 8, 2b-image+IMAGE_BASE
        VALUE RESULT+0x18, 8, KCODE64
        VALUE RESULT+0x20, 8, KSTACK-16

        CASE "a call gate from CPL 3 to CPL 0 and back", ENV_LONG
        CALL_GATE SLOT0, 0xec, KCODE64, 1f
        movw $SLOT0+3, RESULT+4
        USER64 2f
2:      lcall *RESULT+ALIAS
3:      ud2
1:      mov (%rsp), %rax
        mov %rax, RESULT+0x10
        mov 8(%rsp), %rax
        mov %rax, RESULT+0x18
        mov 16(%rsp), %rax
        mov %rax, RESULT+0x20
        mov 24(%rsp), %rax
        mov %rax, RESULT+0x28
        mov %rsp, RESULT+0x30
        mov %ss, %eax
        mov %rax, RESULT+0x38
        lretq
        EXPECT 6, rip=3b, cs=UCODE64, ss=UDATA, sp=USTACK+ALIAS
        VALUE RESULT+0x10, 8, 3b-image+IMAGE_BASE+ALIAS
        VALUE RESULT+0x18, 8, UCODE64
        VALUE RESULT+0x20, 8, USTACK+ALIAS
        VALUE RESULT+0x28, 8, UDATA
        VALUE RESULT+0x30, 8, RSP0-32
        VALUE RESULT+0x38, 8, 0

        CASE "a call gate to level 1 takes RSP1", ENV_LONG
        CALL_GATE SLOT0, 0xec, CODE1_64, 1f
        movw $SLOT0+3, RESULT+4
        USER64 2f
2:      lcall *RESULT+ALIAS
1:      ud2
        EXPECT 6, rip=1b, cs=CODE1_64, ss=1, sp=STACK1-32

        CASE "a call gate that CPL 3 may not use", ENV_LONG
        CALL_GATE SLOT0, 0x8c, KCODE64, 1f
        movw $SLOT0+3, RESULT+4
        USER64 1f
1:      lcall *RESULT+ALIAS
        EXPECT 13, error=SLOT0, rip=1b, cs=UCODE64

        CASE "a call gate with an RPL above its DPL", ENV_LONG
        CALL_GATE SLOT0, 0x8c, KCODE64, 1f
        movw $SLOT0+1, RESULT+4
1:      lcall *RESULT
        EXPECT 13, error=SLOT0, rip=1b

        CASE "a call gate that is not present", ENV_LONG
        CALL_GATE SLOT0, 0x0c, KCODE64, 1f
        movw $SLOT0, RESULT+4
1:      lcall *RESULT
        EXPECT 11, error=SLOT0, rip=1b

        CASE "a call gate with a type in its upper half", ENV_LONG
        CALL_GATE SLOT0, 0x8c, KCODE64, 1f, 0x0c00
        movw $SLOT0, RESULT+4
1:      lcall *RESULT
        EXPECT 13, error=SLOT0, rip=1b

        CASE "a call gate to 32-bit code", ENV_LONG
        CALL_GATE SLOT0, 0x8c, KCODE32, 1f
        movw $SLOT0, RESULT+4
1:      lcall *RESULT
        EXPECT 13, error=KCODE32, rip=1b

        CASE "a call gate to a null selector", ENV_LONG
        CALL_GATE SLOT0, 0x8c, 0, 1f
        movw $SLOT0, RESULT+4
1:      lcall *RESULT
        EXPECT 13, error=0, rip=1b

        CASE "a call gate to code that is not present", ENV_LONG
        CALL_GATE SLOT0, 0x8c, NPCODE64, 1f
        movw $SLOT0, RESULT+4
1:      lcall *RESULT
        EXPECT 11, error=NPCODE64, rip=1b

        CASE "a 16-bit call gate is none in long mode", ENV_LONG
        CALL_GATE SLOT0, 0x84, KCODE64, 1f
        movw $SLOT0, RESULT+4
1:      lcall *RESULT
        EXPECT 13, error=SLOT0, rip=1b

        CASE "a call gate to a non-canonical address", ENV_LONG
        CALL_GATE SLOT0, 0x8c, KCODE64, 1f
        movl $0x8000, GDT+SLOT0+8
        movw $SLOT0, RESULT+4
1:      lcall *RESULT
        EXPECT 13, error=0, rip=1b

        CASE "a far JMP through a call gate", ENV_LONG
        CALL_GATE SLOT0, 0x8c, KCODE64, 1f
        movw $SLOT0, RESULT+4
        ljmp *RESULT
1:      ud2
        EXPECT 6, rip=1b, cs=KCODE64, sp=KSTACK

        CASE "a far JMP through a call gate to an inner level", ENV_LONG
        CALL_GATE SLOT0, 0xec, KCODE64, 1f
        movw $SLOT0+3, RESULT+4
        USER64 1f
1:      ljmp *RESULT+ALIAS
        EXPECT 13, error=KCODE64, rip=1b, cs=UCODE64

        CASE "a call gate whose inner stack is not mapped", ENV_LONG
        CALL_GATE SLOT0, 0xec, KCODE64, 1f
        movq $0x500000, TSS64+4
        movb $1, IDT64+16*14+4
        movw $SLOT0+3, RESULT+4
        USER64 1f
1:      lcall *RESULT+ALIAS
        EXPECT 14, error=2, rip=1b, cs=UCODE64, cr2=0x4ffff8

        CASE "a call gate whose inner stack is not canonical", ENV_LONG
        CALL_GATE SLOT0, 0xec, KCODE64, 1f
        movw $0x8000, TSS64+8
        movb $1, IDT64+16*12+4
        movw $SLOT0+3, RESULT+4
        USER64 1f
1:      lcall *RESULT+ALIAS
        EXPECT 12, error=0, rip=1b, cs=UCODE64

/* ---- SYSCALL and SYSRET ---- */

.macro SYSCALL_MSRS mask=0
        mov $0xc0000081, %ecx
        xor %eax, %eax
        mov $0x00180008, %edx           /* SYSRET: 0x18 + 16, + 8; SYSCALL: 0x08, + 8 */
        wrmsr
        inc %ecx
        mov $A(8f), %eax
        xor %edx, %edx
        wrmsr
        inc %ecx
        mov $A(9f), %eax
        wrmsr
        inc %ecx
        mov $\mask, %eax
        wrmsr
.endm

        CASE "SYSCALL at CPL 0", ENV_LONG
        SYSCALL_MSRS 0x4ff
        pushq $0x8d7
        popfq
        syscall
7:      ud2
8:      ud2
9:
        EXPECT 6, rip=8b, cs=KCODE64, ss=KDATA, sp=KSTACK, flags=0x10802
        VALUE LOG_RECORDS+136, 8, 7b-image+IMAGE_BASE
        VALUE LOG_RECORDS+216, 8, 0x8d7

        CASE "SYSCALL from CPL 3", ENV_LONG
        SYSCALL_MSRS 0x200
        USER64 1f
1:      syscall
7:      ud2
8:      ud2
9:
        EXPECT 6, rip=8b, cs=KCODE64, ss=KDATA, sp=USTACK+ALIAS, flags=0x10002
        VALUE LOG_RECORDS+136, 8, 7b-image+IMAGE_BASE+ALIAS
        VALUE LOG_RECORDS+216, 8, 0x202

        CASE "SYSCALL from 32-bit code at CPL 3 goes to CSTAR", ENV_LONG
        SYSCALL_MSRS 0x200
        USER64 1f, UCODE32
1:      syscall
7:      ud2
8:      ud2
9:      ud2
        EXPECT 6, rip=9b, cs=KCODE64, ss=KDATA, flags=0x10002
        VALUE LOG_RECORDS+136, 8, 7b-image+IMAGE_BASE+ALIAS

        CASE "SYSRET to 64-bit code", ENV_LONG
        SYSCALL_MSRS 0
8:
9:      mov $A(1f)+ALIAS, %ecx
        mov $0x2d7, %r11d
        mov $USTACK+ALIAS, %esp
        sysretq
1:      ud2
        EXPECT 6, rip=1b, cs=UCODE64, ss=UDATA, sp=USTACK+ALIAS, flags=0x102d7

        CASE "SYSRET to 32-bit code", ENV_LONG
        SYSCALL_MSRS 0
8:
9:      mov $A(1f)+ALIAS, %ecx
        mov $0x203, %r11d
        mov $USTACK+ALIAS, %esp
        sysretl
1:      ud2
        EXPECT 6, rip=1b, cs=UCODE32, ss=UDATA, flags=0x10203

        CASE "SYSRET at CPL 3", ENV_LONG3
1:      sysretq
        EXPECT 13, error=0, rip=1b

        CASE "SYSCALL without EFER.SCE", ENV_LONG
        mov $0xc0000080, %ecx
        rdmsr
        and $~1, %eax
        wrmsr
1:      syscall
        EXPECT 6, rip=1b

        CASE "SYSRET without EFER.SCE", ENV_LONG
        mov $0xc0000080, %ecx
        rdmsr
        and $~1, %eax
        wrmsr
1:      sysretq
        EXPECT 6, rip=1b

        CASE "SYSRET clears RF", ENV_LONG
        SYSCALL_MSRS 0
8:
9:      mov $A(1f)+ALIAS, %ecx
        mov $0x30202, %r11d
        sysretq
1:      int3
2:      EXPECT 3, rip=2b, flags=0x202

        CASE "SYSENTER does not exist in long mode", ENV_LONG
1:      sysenter
        EXPECT 6, rip=1b

        CASE "SYSEXIT does not exist in long mode", ENV_LONG
1:      sysexitl
        EXPECT 6, rip=1b
