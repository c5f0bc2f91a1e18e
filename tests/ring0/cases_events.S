/* Exceptions and software interrupts in long mode (SDM 3, chapter 6). */

        CASE "UD2 is reported at itself, with RF", ENV_LONG
1:      ud2
        EXPECT 6, rip=1b, cs=KCODE64, ss=KDATA, sp=KSTACK, flags=0x10002, hcs=KCODE64, hss=KDATA, hsp=KSTACK-40

        CASE "the frame is aligned to 16 bytes", ENV_LONG
        sub $3, %rsp
1:      ud2
        EXPECT 6, rip=1b, sp=KSTACK-3, hsp=KSTACK-56

        CASE "INT3 is a trap", ENV_LONG
        int3
1:      EXPECT 3, rip=1b, flags=2

        CASE "INT n is a trap", ENV_LONG
        stc
        int $0x37
1:      EXPECT 0x37, rip=1b, flags=3

        CASE "INT 13 has no error code", ENV_LONG
        int $13
1:      EXPECT 13, rip=1b

        CASE "INT1 is a trap", ENV_LONG
        .byte 0xf1
1:      EXPECT 1, rip=1b, flags=2

        CASE "INTO does not exist in 64-bit mode", ENV_LONG
1:      .byte 0xce
        EXPECT 6, rip=1b

        CASE "division by zero is a fault", ENV_LONG
        xor %ecx, %ecx
1:      div %ecx
        EXPECT 0, rip=1b

        CASE "a trap gate leaves IF alone", ENV_LONG
        movb $0x8f, IDT64+16*0x20+5
        movb $ACTION_CONTINUE, ACTIONS+0x20
        sti
        nop
        int $0x20
        int $0x21
1:      EXPECT 0x20, flags=0x202
        EXPECT 0x21, flags=0x202, rip=1b
        VALUE LOG_RECORDS+41, 1, 0x02   /* IF is set in the first handler's RFLAGS */
        VALUE LOG_RECORDS+LOG_BYTES+41, 1, 0

/* ---- gates that are wrong ---- */

        CASE "a gate that is not present", ENV_LONG
        movb $0x0e, IDT64+16*0x20+5
1:      int $0x20
        EXPECT 11, error=0x20*8+2, rip=1b

        CASE "a gate that is not present, for an exception", ENV_LONG
        movb $0x0e, IDT64+16*6+5
1:      ud2
        EXPECT 11, error=6*8+3, rip=1b

        CASE "a 32-bit data segment is no gate", ENV_LONG
        movb $0x93, IDT64+16*0x20+5
1:      int $0x20
        EXPECT 13, error=0x20*8+2, rip=1b

        CASE "a 16-bit gate is none in long mode", ENV_LONG
        movb $0x86, IDT64+16*0x20+5
1:      int $0x20
        EXPECT 13, error=0x20*8+2, rip=1b

        CASE "a task gate is none in long mode", ENV_LONG
        movb $0x85, IDT64+16*0x20+5
1:      int $0x20
        EXPECT 13, error=0x20*8+2, rip=1b

        CASE "a gate beyond the limit of the IDT", ENV_LONG
        movw $16*0x20+14, RESULT
        movq $IDT64, RESULT+2
        lidt RESULT
1:      int $0x20
        EXPECT 13, error=0x20*8+2, rip=1b

        CASE "a gate with a null selector", ENV_LONG
        movw $3, IDT64+16*0x20+2
1:      int $0x20
        EXPECT 13, error=0, rip=1b

        CASE "a gate with a null selector, for an exception", ENV_LONG
        movw $0, IDT64+16*6+2
1:      ud2
        EXPECT 13, error=1, rip=1b

        CASE "a gate to a data segment", ENV_LONG
        movw $KDATA, IDT64+16*0x20+2
1:      int $0x20
        EXPECT 13, error=KDATA, rip=1b

        CASE "a gate to 32-bit code in long mode", ENV_LONG
        movw $KCODE32, IDT64+16*0x20+2
1:      int $0x20
        EXPECT 13, error=KCODE32, rip=1b

        CASE "a gate to a segment with L and D", ENV_LONG
        movw $BADCODE, IDT64+16*0x20+2
1:      int $0x20
        EXPECT 13, error=BADCODE, rip=1b

        CASE "a gate to an outer level", ENV_LONG
        movw $UCODE64, IDT64+16*0x20+2
1:      int $0x20
        EXPECT 13, error=UCODE64-3, rip=1b

        CASE "a gate to a segment that is not present", ENV_LONG
        movw $NPCODE64, IDT64+16*0x20+2
1:      int $0x20
        EXPECT 11, error=NPCODE64, rip=1b

        CASE "a gate to a segment beyond the GDT", ENV_LONG
        movw $0x1008, IDT64+16*0x20+2
1:      int $0x20
        EXPECT 13, error=0x1008, rip=1b

        CASE "a gate to the LDT", ENV_LONG
        movb $ACTION_CONTINUE, ACTIONS+0x20
        movw $LDT_CODE, IDT64+16*0x20+2
        int $0x20
1:      EXPECT 0x20, rip=1b, hcs=LDT_CODE
        DONE
        VALUE LDT+8+5, 1, 0x9b

        CASE "a gate to a non-canonical address", ENV_LONG
        movl $0x8000, IDT64+16*0x20+8
1:      int $0x20
        EXPECT 13, error=0, rip=1b

        CASE "a gate without privilege", ENV_LONG3
1:      int $0x20
        EXPECT 13, error=0x20*8+2, rip=1b, cs=UCODE64, ss=UDATA

        CASE "INT n at CPL 3", ENV_LONG3
        int $0x30
1:      EXPECT 0x30, rip=1b, cs=UCODE64, ss=UDATA, sp=USTACK+ALIAS, flags=0x202, hcs=KCODE64, hss=0, hsp=RSP0-40

        CASE "INT3 at CPL 3", ENV_LONG3
        int3
1:      EXPECT 3, rip=1b, cs=UCODE64, ss=UDATA, sp=USTACK+ALIAS, hcs=KCODE64, hss=0, hsp=RSP0-40

        CASE "an exception at CPL 3", ENV_LONG3
1:      ud2
        EXPECT 6, rip=1b, cs=UCODE64, ss=UDATA, sp=USTACK+ALIAS, flags=0x10202, hss=0, hsp=RSP0-40

        CASE "a privileged instruction at CPL 3", ENV_LONG3
1:      hlt
        EXPECT 13, error=0, rip=1b, cs=UCODE64, hsp=RSP0-48

        CASE "a conforming handler stays at CPL 3", ENV_LONG
        movw $CONF64, IDT64+16*0x30+2
        movw $A(2f)-IMAGE_BASE, IDT64+16*0x30
        movw $(IMAGE_BASE+ALIAS)>>16, IDT64+16*0x30+6
        USER64 1f
1:      int $0x30
2:      mov %cs, %eax
        hlt
        EXPECT 13, error=0, cs=CONF64+3, ss=UDATA, sp=USTACK+ALIAS-40
        VALUE LOG_RECORDS+128, 4, CONF64+3

        CASE "a conforming handler is found at CPL 0", ENV_LONG
        movw $CONF64, IDT64+16*0x20+2
        int $0x20
1:      EXPECT 0x20, rip=1b, hcs=CONF64, hss=KDATA

/* ---- stacks ---- */

        CASE "IST switches the stack at the same level", ENV_LONG
        movb $1, IDT64+16*6+4
1:      ud2
        EXPECT 6, rip=1b, ss=KDATA, sp=KSTACK, hss=KDATA, hsp=IST1-40

        CASE "IST from CPL 3", ENV_LONG
        movb $2, IDT64+16*6+4
        movq $IST2-7, TSS64+0x2c
        USER64 2f
2:      ud2
        EXPECT 6, rip=2b, cs=UCODE64, ss=UDATA, hss=0, hsp=IST2-16-40

        CASE "a non-canonical stack in the IST", ENV_LONG
        movb $1, IDT64+16*6+4
        movl $0x8000, TSS64+0x24+4
1:      ud2
        EXPECT 12, error=1, rip=1b

        CASE "a non-canonical stack in the IST, for INT n", ENV_LONG
        movb $1, IDT64+16*0x20+4
        movl $0x8000, TSS64+0x24+4
1:      int $0x20
        EXPECT 12, error=0, rip=1b

        CASE "a TSS that ends before the IST", ENV_LONG
        movb $7, IDT64+16*0x20+4
        movw $0x5a, GDT+SEL_TSS64       /* IST7 ends at 0x5b */
        movb $0x89, GDT+SEL_TSS64+5
        mov $SEL_TSS64, %eax
        ltr %ax
1:      int $0x20
        EXPECT 10, error=SEL_TSS64, rip=1b

        CASE "a null SS is no hindrance at CPL 0", ENV_LONG
        xor %eax, %eax
        mov %eax, %ss
1:      ud2
        EXPECT 6, rip=1b, ss=0, sp=KSTACK, hss=0

        CASE "a stack that is not mapped", ENV_LONG
        movb $1, IDT64+16*8+4
        movb $1, IDT64+16*14+4
        mov $0x500000, %esp
1:      ud2
        EXPECT 14, error=2, rip=1b, cr2=0x4ffff8, sp=0x500000

        CASE "a stack that is half mapped: nothing is pushed", ENV_LONG
        movb $1, IDT64+16*14+4
        movb $0, PT_LOW+8*0x20          /* DATA is not present */
        invlpg DATA
        movq $-1, DATA+0x1000
        movq $-1, DATA+0x1008
        mov $DATA+0x1010, %esp
1:      ud2
        EXPECT 14, error=2, rip=1b, cr2=DATA+0xff8, sp=DATA+0x1010

/* ---- double and triple faults ---- */

        CASE "a page fault while a page fault is delivered", ENV_LONG
        movb $1, IDT64+16*8+4
        mov $0x500000, %esp
1:      mov 0x600000, %eax
        EXPECT 8, error=0, rip=1b, sp=0x500000, cr2=0x4ffff8

        CASE "a #GP while a #GP is delivered", ENV_LONG
        movb $0x93, IDT64+16*13+5
1:      mov 0x123456789abcdef0, %al
        EXPECT 8, error=0, rip=1b

        CASE "a #NP while a #UD is delivered is no double fault", ENV_LONG
        movb $0x0e, IDT64+16*6+5
1:      ud2
        EXPECT 11, error=6*8+3, rip=1b

        CASE "a #GP while a #PF is delivered", ENV_LONG
        movw $KDATA, IDT64+16*14+2
1:      mov 0x600000, %eax
        EXPECT 8, error=0, rip=1b, cr2=0x600000

        CASE "a #PF while a #GP is delivered is a #PF", ENV_LONG
        movb $1, IDT64+16*13+4
        movl $0x500000, TSS64+0x24
1:      mov 0x123456789abcdef0, %al
        EXPECT 14, error=2, rip=1b, cr2=0x4ffff8

        CASE "a fault in a double fault ends the run", ENV_LONG
        movb $0x93, IDT64+16*13+5
        movb $0x0e, IDT64+16*8+5
        mov 0x123456789abcdef0, %al
        SHUTDOWN

        CASE "no IDT at all ends the run", ENV_LONG
        movq $0, RESULT
        movq $0, RESULT+8
        lidt RESULT
        int3
        SHUTDOWN

        CASE "#DF pushes RF as it was", ENV_LONG
        movb $0x93, IDT64+16*13+5
1:      mov 0x123456789abcdef0, %al
        EXPECT 8, error=0, rip=1b, flags=2
