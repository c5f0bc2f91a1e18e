/* Single-stepping, breakpoints, interrupt shadows, NMIs (SDM 3, 6.8 and chapter 17). */

.macro TRACE_ON
        pushfq
        orl $0x100, (%rsp)
        popfq
.endm
.macro TRACE_OFF
        pushfq
11:     andl $~0x100, (%rsp)
12:     popfq
13:
.endm
/* The traps of TRACE_OFF itself. */
.macro EXPECT_TRACE_OFF
        EXPECT 1, rip=11b, flags=0x102
        EXPECT 1, rip=12b
        EXPECT 1, rip=13b
.endm

        CASE "TF traps after each instruction", ENV_LONG
        movb $ACTION_CONTINUE, ACTIONS+1
        TRACE_ON
        nop
1:      mov $5, %ecx
2:      TRACE_OFF
        DONE
        EXPECT 1, rip=1b, flags=0x102, dr6=0xffff4ff0
        EXPECT 1, rip=2b, flags=0x102
        EXPECT_TRACE_OFF

        CASE "MOV SS puts the trap off by one instruction", ENV_LONG
        movb $ACTION_CONTINUE, ACTIONS+1
        mov %ss, %eax
        TRACE_ON
        mov %eax, %ss
        nop
1:      TRACE_OFF
        DONE
        EXPECT 1, rip=1b, dr6=0xffff4ff0
        EXPECT_TRACE_OFF

        CASE "POP SS is traced like MOV SS", ENV_PROT32
        movb $ACTION_CONTINUE, ACTIONS+1
        push %ss
        pushfl
        orl $0x100, (%esp)
        popfl
        pop %ss
        nop
1:      pushfl
2:      andl $~0x100, (%esp)
3:      popfl
4:      DONE
        EXPECT 1, rip=1b
        EXPECT 1, rip=2b
        EXPECT 1, rip=3b
        EXPECT 1, rip=4b

        CASE "an INT n is not trapped by TF, what follows its handler is", ENV_LONG
        movb $ACTION_CONTINUE, ACTIONS+1
        movb $ACTION_CONTINUE, ACTIONS+0x30
        TRACE_ON
        int $0x30
1:      nop
2:      TRACE_OFF
        DONE
        EXPECT 0x30, rip=1b, flags=0x102
        EXPECT 1, rip=2b
        EXPECT_TRACE_OFF

        CASE "an INT3 is not trapped by TF", ENV_LONG
        movb $ACTION_CONTINUE, ACTIONS+1
        movb $ACTION_CONTINUE, ACTIONS+3
        TRACE_ON
        int3
1:      nop
2:      TRACE_OFF
        DONE
        EXPECT 3, rip=1b, flags=0x102
        EXPECT 1, rip=2b
        EXPECT_TRACE_OFF

        CASE "an exception goes before the trap", ENV_LONG
        TRACE_ON
1:      ud2
        EXPECT 6, rip=1b, flags=0x10102

        CASE "IRET that sets TF is not trapped, the next instruction is", ENV_LONG
        IRET_FRAME KDATA, KSTACK, 0x102, KCODE64, A(1f)
        iretq
1:      nop
2:      nop
        EXPECT 1, rip=2b, flags=0x102

        CASE "IRET that clears TF is trapped", ENV_LONG
        IRET_FRAME KDATA, KSTACK, 2, KCODE64, A(1f)
        TRACE_ON
        iretq
1:      nop
        EXPECT 1, rip=1b, flags=2

        CASE "SYSCALL that masks TF is not trapped", ENV_LONG
        SYSCALL_MSRS 0x100
        TRACE_ON
        syscall
8:      nop
9:      int3
1:      EXPECT 3, rip=1b, flags=0x86

        CASE "SYSCALL that leaves TF is trapped", ENV_LONG
        SYSCALL_MSRS 0
        TRACE_ON
        syscall
        ud2
8:      nop
9:      EXPECT 1, rip=8b, flags=0x186

        CASE "TF traps after each iteration of REP", ENV_LONG
        movb $ACTION_CONTINUE, ACTIONS+1
        mov $RESULT, %esi
        mov $RESULT+16, %edi
        mov $3, %ecx
        TRACE_ON
1:      rep movsb
2:      TRACE_OFF
        DONE
        EXPECT 1, rip=1b
        EXPECT 1, rip=1b
        EXPECT 1, rip=2b
        EXPECT_TRACE_OFF
        VALUE LOG_RECORDS+136, 8, 2
        VALUE LOG_RECORDS+LOG_BYTES+136, 8, 1

        CASE "TF traps after STI, which holds interrupts only", ENV_LONG
        TRACE_ON
        sti
1:      nop
        EXPECT 1, rip=1b, flags=0x302

        CASE "TF at CPL 3", ENV_LONG
        USER64 1f, UCODE64, 0x302
1:      nop
2:      nop
        EXPECT 1, rip=2b, cs=UCODE64, flags=0x302, dr6=0xffff4ff0

        CASE "TF traps after a jump", ENV_LONG
        TRACE_ON
        jmp 1f
        ud2
1:      nop
        EXPECT 1, rip=1b

        CASE "an untaken trap of HLT wakes it", ENV_LONG
        TRACE_ON
        hlt
1:      nop
        EXPECT 1, rip=1b

/* ---- debug registers ---- */

.macro BREAK_ON register, address, dr7
        mov $\address, %eax
        mov %rax, %\register
        mov $\dr7, %eax
        mov %rax, %dr7
.endm

        CASE "an instruction breakpoint is a fault", ENV_LONG
        BREAK_ON dr0, A(1f), 0x401
        nop
1:      nop
        EXPECT 1, rip=1b, flags=2, dr6=0xffff0ff1

        CASE "a global instruction breakpoint in DR3", ENV_LONG
        BREAK_ON dr3, A(1f), 0x480
1:      ud2
        EXPECT 1, rip=1b, dr6=0xffff0ff8

        CASE "RF lets one instruction pass", ENV_LONG
        BREAK_ON dr0, A(1f), 0x401
        IRET_FRAME KDATA, KSTACK, 0x10002, KCODE64, A(1f)
        iretq
1:      int3
2:      EXPECT 3, rip=2b, flags=2

        CASE "RF is gone after one instruction", ENV_LONG
        BREAK_ON dr0, A(2f), 0x401
        IRET_FRAME KDATA, KSTACK, 0x10002, KCODE64, A(1f)
        iretq
1:      nop
2:      nop
        EXPECT 1, rip=2b, dr6=0xffff0ff1

        CASE "a breakpoint after MOV SS is not seen", ENV_LONG
        BREAK_ON dr0, A(1f), 0x401
        mov %ss, %eax
        mov %eax, %ss
1:      nop
        DONE

        CASE "a data breakpoint is a trap", ENV_LONG
        BREAK_ON dr0, DATA, 0xd0401
        mov DATA+4, %eax
        movl $1, DATA
1:      nop
        EXPECT 1, rip=1b, flags=2, dr6=0xffff0ff1
        VALUE DATA, 4, 1

        CASE "a write breakpoint lets reads pass", ENV_LONG
        BREAK_ON dr1, DATA, 0xd00404
        mov DATA, %eax
        movb $1, DATA+3
1:      nop
        EXPECT 1, rip=1b, dr6=0xffff0ff2

        CASE "a read or write breakpoint", ENV_LONG
        BREAK_ON dr2, DATA+8, 0xb000420
        movb $1, DATA+7
        mov DATA+8, %al
1:      nop
        EXPECT 1, rip=1b, dr6=0xffff0ff4

        CASE "an access that only touches the breakpoint", ENV_LONG
        BREAK_ON dr0, DATA+4, 0xd0401
        movq $1, DATA+1
1:      nop
        EXPECT 1, rip=1b, dr6=0xffff0ff1

        CASE "two breakpoints at once", ENV_LONG
        mov $DATA, %eax
        mov %rax, %dr3
        BREAK_ON dr0, DATA, 0xd00d0481
        movl $1, DATA
1:      nop
        EXPECT 1, rip=1b, dr6=0xffff0ff9

        CASE "a data breakpoint and TF together", ENV_LONG
        BREAK_ON dr0, DATA, 0xd0401
        TRACE_ON
        movl $1, DATA
1:      nop
        EXPECT 1, rip=1b, dr6=0xffff4ff1

        CASE "a data breakpoint in REP", ENV_LONG
        BREAK_ON dr0, DATA+2, 0x10401
        mov $DATA, %edi
        mov $5, %ecx
        cld
1:      rep stosb
        EXPECT 1, rip=1b, dr6=0xffff0ff1
        VALUE LOG_RECORDS+136, 8, 2

        CASE "a data breakpoint on what MOV SS reads", ENV_LONG
        BREAK_ON dr0, DATA, 0x70401
        movw $KDATA, RESULT
        mov $RESULT, %eax
        mov %rax, %dr0
        mov RESULT+4, %ecx
        mov RESULT, %ss
        nop
1:      nop
        EXPECT 1, rip=1b, dr6=0xffff0ff1

        CASE "an instruction that faults drops its data breakpoint", ENV_LONG
        BREAK_ON dr0, DATA, 0xf0401
        mov $DATA, %ebx
        movl $KCODE64, 4(%rbx)
        mov $0x600000, %edi
        mov %ebx, %esi
1:      movsl
        EXPECT 14, error=2, rip=1b, cr2=0x600000, dr6=0xffff0ff0

        CASE "DR7.GD guards the debug registers", ENV_LONG
        mov $0x2400, %eax
        mov %rax, %dr7
1:      mov %dr0, %rax
        EXPECT 1, rip=1b, dr6=0xffff2ff0

        CASE "DR4 is DR6 without CR4.DE", ENV_LONG
        mov $0xe00f, %eax
        mov %rax, %dr4
        mov %dr6, %rax
        mov %rax, RESULT
        mov %dr5, %rax
        mov %rax, RESULT+8
        DONE
        VALUE RESULT, 8, 0xffffefff
        VALUE RESULT+8, 8, 0x400

        CASE "DR4 does not exist with CR4.DE", ENV_LONG
        mov %cr4, %rax
        or $8, %eax
        mov %rax, %cr4
1:      mov %dr4, %rax
        EXPECT 6, rip=1b

        CASE "DR7 has 32 bits", ENV_LONG
        mov $1, %eax
        shl $32, %rax
1:      mov %rax, %dr7
        EXPECT 13, error=0, rip=1b

        CASE "debug registers at CPL 3", ENV_LONG3
1:      mov %dr0, %rax
        EXPECT 13, error=0, rip=1b, cs=UCODE64

/* ---- interrupts from outside ---- */

        CASE "an interrupt waits for IF, and one instruction after STI", ENV_LONG
        mov $0x40, %al
        out %al, $PORT_IRQ
        nop
        sti
        nop
1:      nop
        EXPECT 0x40, rip=1b, flags=0x202

        CASE "POPF opens at once", ENV_LONG
        mov $0x40, %al
        out %al, $PORT_IRQ
        pushq $0x202
        popfq
1:      nop
        EXPECT 0x40, rip=1b, flags=0x202

        CASE "STI and CLI let no interrupt in", ENV_LONG
        mov $0x40, %al
        out %al, $PORT_IRQ
        sti
        cli
        nop
        DONE

        CASE "STI and HLT let it in after HLT", ENV_LONG
        mov $0x40, %al
        out %al, $PORT_IRQ
        sti
        hlt
1:      nop
        EXPECT 0x40, rip=1b, flags=0x202

        CASE "only the first STI holds off", ENV_LONG
        mov $0x40, %al
        out %al, $PORT_IRQ
        sti
        sti
1:      nop
        EXPECT 0x40, rip=1b

        CASE "STI and MOV SS hold off twice", ENV_LONG
        mov $0x40, %al
        out %al, $PORT_IRQ
        mov %ss, %eax
        sti
        mov %eax, %ss
        nop
1:      nop
        EXPECT 0x40, rip=1b

        CASE "an interrupt right after the OUT", ENV_LONG
        sti
        nop
        mov $0x40, %al
        out %al, $PORT_IRQ
1:      nop
        EXPECT 0x40, rip=1b

        CASE "an interrupt through a gate that is not present", ENV_LONG
        movb $0x0e, IDT64+16*0x40+5
        mov $0x40, %al
        sti
        out %al, $PORT_IRQ
1:      nop
        EXPECT 11, error=0x40*8+3, rip=1b

        CASE "an interrupt at CPL 3", ENV_LONG
        mov $0x40, %al
        out %al, $PORT_IRQ
        USER64 1f
1:      nop
        EXPECT 0x40, rip=1b, cs=UCODE64, ss=UDATA, flags=0x202, hsp=RSP0-40

        CASE "an NMI needs no IF", ENV_LONG
        out %al, $PORT_NMI
1:      nop
        EXPECT 2, rip=1b, flags=2

        CASE "an NMI waits for the IRET of the one before", ENV_LONG
        movw $2f-image, IDT64+16*2
        movw $IMAGE_BASE>>16, IDT64+16*2+6
        out %al, $PORT_NMI
        nop
        nop
        DONE
2:      incl RESULT
        cmpl $1, RESULT
        jne 3f
        out %al, $PORT_NMI
        nop
        nop
        mov RESULT, %eax
        mov %eax, RESULT+4
3:      iretq
        VALUE RESULT, 4, 2
        VALUE RESULT+4, 4, 1
        VALUE LOG_COUNT, 4, 0


        CASE "an NMI goes before an interrupt", ENV_LONG
        movb $ACTION_CONTINUE, ACTIONS+2
        mov $0x40, %al
        out %al, $PORT_IRQ
        out %al, $PORT_NMI
1:      sti
        nop
2:      nop
        EXPECT 2, rip=1b
        EXPECT 0x40, rip=2b
