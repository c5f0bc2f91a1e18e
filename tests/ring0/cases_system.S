/* Control registers, MSRs, privilege, FPU availability, alignment, page faults, descriptor queries in long mode. */

.macro CR_SET register, bits
        mov %\register, %rax
        or $\bits, %rax
        mov %rax, %\register
.endm
.macro CR_CLEAR register, bits
        mov %\register, %rax
        and $~(\bits), %rax
        mov %rax, %\register
.endm

/* ---- what CR0, CR3, CR4, EFER refuse ---- */

        CASE "CR0.PG without PE", ENV_LONG
        mov %cr0, %rax
        and $~1, %eax
1:      mov %rax, %cr0
        EXPECT 13, error=0, rip=1b

        CASE "CR0.PG cannot be cleared in 64-bit code", ENV_LONG
        mov %cr0, %rax
        btr $31, %rax
1:      mov %rax, %cr0
        EXPECT 13, error=0, rip=1b

        CASE "CR0.NW without CD", ENV_LONG
        mov %cr0, %rax
        bts $29, %rax
1:      mov %rax, %cr0
        EXPECT 13, error=0, rip=1b

        CASE "the upper half of CR0", ENV_LONG
        mov %cr0, %rax
        bts $32, %rax
1:      mov %rax, %cr0
        EXPECT 13, error=0, rip=1b

        CASE "CR4.PAE cannot be cleared in long mode", ENV_LONG
        mov %cr4, %rax
        btr $5, %rax
1:      mov %rax, %cr4
        EXPECT 13, error=0, rip=1b

        CASE "a reserved bit of CR4", ENV_LONG
        mov %cr4, %rax
        bts $15, %rax
1:      mov %rax, %cr4
        EXPECT 13, error=0, rip=1b

        CASE "the upper half of CR4", ENV_LONG
        mov %cr4, %rax
        bts $40, %rax
1:      mov %rax, %cr4
        EXPECT 13, error=0, rip=1b

        CASE "CR4.PCIDE needs CR3 11:0 to be zero", ENV_LONG, FLAG_EMU_ONLY
        mov $PML4+8, %eax
        mov %rax, %cr3
        mov %cr4, %rax
        bts $17, %rax
1:      mov %rax, %cr4
        EXPECT 13, error=0, rip=1b

        CASE "CR3 bits above the physical address", ENV_LONG
        mov %cr3, %rax
        bts $50, %rax
1:      mov %rax, %cr3
        EXPECT 13, error=0, rip=1b

        CASE "CR8 has four bits", ENV_LONG
        mov $15, %eax
        mov %rax, %cr8
        inc %eax
1:      mov %rax, %cr8
        EXPECT 13, error=0, rip=1b

        CASE "CR1 does not exist", ENV_LONG
1:      .byte 0x0f, 0x20, 0xc8
        EXPECT 6, rip=1b

        CASE "CR5 does not exist", ENV_LONG
1:      .byte 0x0f, 0x22, 0xe8
        EXPECT 6, rip=1b

        CASE "EFER.LME cannot change with paging", ENV_LONG
        mov $0xc0000080, %ecx
        rdmsr
        and $~0x100, %eax
1:      wrmsr
        EXPECT 13, error=0, rip=1b

        CASE "a reserved bit of EFER", ENV_LONG
        mov $0xc0000080, %ecx
        rdmsr
        or $2, %eax
1:      wrmsr
        EXPECT 13, error=0, rip=1b

        CASE "a write to EFER.LMA is ignored", ENV_LONG
        mov $0xc0000080, %ecx
        rdmsr
        mov %eax, RESULT
        and $~0x400, %eax
        wrmsr
        rdmsr
        mov %eax, RESULT+4
        DONE
        VALUE RESULT, 8, 0xd0100000d01

        CASE "LSTAR must be canonical", ENV_LONG
        mov $0xc0000082, %ecx
        xor %eax, %eax
        mov $0x8000, %edx
1:      wrmsr
        EXPECT 13, error=0, rip=1b

        CASE "an MSR that does not exist", ENV_LONG
        mov $0x12345678, %ecx
1:      rdmsr
        EXPECT 13, error=0, rip=1b

/* ---- privilege ---- */

.macro PRIVILEGED name, instruction:vararg
        CASE "\name is privileged", ENV_LONG3
1:      \instruction
        EXPECT 13, error=0, rip=1b, cs=UCODE64, ss=UDATA, flags=0x10202
.endm

        PRIVILEGED "MOV from CR0", mov %cr0, %rax
        PRIVILEGED "MOV to CR3", mov %rax, %cr3
        PRIVILEGED "MOV to CR8", mov %rax, %cr8
        PRIVILEGED "RDMSR", rdmsr
        PRIVILEGED "WRMSR", wrmsr
        PRIVILEGED "LGDT", lgdt (%rsp)
        PRIVILEGED "LIDT", lidt (%rsp)
        PRIVILEGED "LLDT", lldt %ax
        PRIVILEGED "LTR", ltr %ax
        PRIVILEGED "LMSW", lmsw %ax
        PRIVILEGED "CLTS", clts
        PRIVILEGED "INVLPG", invlpg (%rsp)
        PRIVILEGED "WBINVD", wbinvd
        PRIVILEGED "INVD", invd
        PRIVILEGED "CLI", cli
        PRIVILEGED "STI", sti
        PRIVILEGED "SWAPGS", swapgs
        PRIVILEGED "IN", in $0x80, %al
        PRIVILEGED "OUT", out %al, $0x90
        PRIVILEGED "INSB", insb

        CASE "IOPL 3 lets CPL 3 do ports and CLI", ENV_LONG
        USER64 1f, UCODE64, 0x3202
1:      cli
        sti
        in $0x90, %al
        out %al, $0x90
2:      ud2
        EXPECT 6, rip=2b, cs=UCODE64, flags=0x13202

        CASE "RDTSC at CPL 3 with CR4.TSD", ENV_LONG, FLAG_EMU_ONLY
        CR_SET cr4, 4
        USER64 1f
1:      rdtsc
        EXPECT 13, error=0, rip=1b

        CASE "SGDT with UMIP at CPL 3", ENV_LONG, FLAG_EMU_ONLY
        CR_SET cr4, 0x800
        sgdt RESULT
        sidt RESULT
        sldt %eax
        str %eax
        smsw %eax
        USER64 1f
1:      sgdt (%rsp)
        EXPECT 13, error=0, rip=1b

        CASE "SIDT with UMIP at CPL 3", ENV_LONG, FLAG_EMU_ONLY
        CR_SET cr4, 0x800
        USER64 1f
1:      sidt (%rsp)
        EXPECT 13, error=0, rip=1b

        CASE "SLDT with UMIP at CPL 3", ENV_LONG, FLAG_EMU_ONLY
        CR_SET cr4, 0x800
        USER64 1f
1:      sldt %eax
        EXPECT 13, error=0, rip=1b

        CASE "STR with UMIP at CPL 3", ENV_LONG, FLAG_EMU_ONLY
        CR_SET cr4, 0x800
        USER64 1f
1:      str %eax
        EXPECT 13, error=0, rip=1b

        CASE "SMSW with UMIP at CPL 3", ENV_LONG, FLAG_EMU_ONLY
        CR_SET cr4, 0x800
        USER64 1f
1:      smsw (%rsp)
        EXPECT 13, error=0, rip=1b

        CASE "without UMIP everybody may look", ENV_LONG, FLAG_EMU_ONLY
        USER64 1f
1:      sgdt RESULT+ALIAS
        sidt RESULT+ALIAS+16
        sldt RESULT+ALIAS+32
        str RESULT+ALIAS+34
        smsw RESULT+ALIAS+36
2:      ud2
        EXPECT 6, rip=2b
        VALUE RESULT, 2, GDT_LIMIT
        VALUE RESULT+2, 8, GDT
        VALUE RESULT+16, 2, 0xfff
        VALUE RESULT+18, 8, IDT64
        VALUE RESULT+32, 2, SEL_LDT
        VALUE RESULT+34, 2, SEL_TSS64
        VALUE RESULT+36, 2, 0x33

/* ---- x87, MMX and SSE: are they there? ---- */

        CASE "x87 with CR0.TS", ENV_LONG
        CR_SET cr0, 8
1:      fnop
        EXPECT 7, rip=1b

        CASE "MMX with CR0.TS", ENV_LONG
        CR_SET cr0, 8
1:      pxor %mm0, %mm0
        EXPECT 7, rip=1b

        CASE "SSE with CR0.TS", ENV_LONG
        CR_SET cr0, 8
1:      xorps %xmm0, %xmm0
        EXPECT 7, rip=1b

        CASE "FXSAVE with CR0.TS", ENV_LONG
        CR_SET cr0, 8
1:      fxsave DATA
        EXPECT 7, rip=1b

        CASE "FWAIT with TS and MP", ENV_LONG
        CR_SET cr0, 10
1:      fwait
        EXPECT 7, rip=1b

        CASE "FWAIT with TS, without MP", ENV_LONG
        CR_CLEAR cr0, 2
        CR_SET cr0, 8
        fwait
        DONE

        CASE "CLTS", ENV_LONG
        CR_SET cr0, 8
        clts
        fnop
        xorps %xmm0, %xmm0
        mov %cr0, %rax
        mov %eax, RESULT
        DONE
        VALUE RESULT, 4, 0x80010033

        CASE "x87 with CR0.EM", ENV_LONG
        CR_SET cr0, 4
1:      fnop
        EXPECT 7, rip=1b

        CASE "FWAIT with CR0.EM", ENV_LONG
        CR_SET cr0, 4
        fwait
        DONE

        CASE "MMX with CR0.EM", ENV_LONG
        CR_SET cr0, 4
1:      pxor %mm0, %mm0
        EXPECT 6, rip=1b

        CASE "SSE with CR0.EM", ENV_LONG
        CR_SET cr0, 4
1:      xorps %xmm0, %xmm0
        EXPECT 6, rip=1b

        CASE "SSE with EM and TS", ENV_LONG
        CR_SET cr0, 12
1:      xorps %xmm0, %xmm0
        EXPECT 6, rip=1b

        CASE "SSE without OSFXSR", ENV_LONG
        CR_CLEAR cr4, 0x200
1:      xorps %xmm0, %xmm0
        EXPECT 6, rip=1b

        CASE "AVX without OSXSAVE", ENV_LONG, FLAG_EMU_ONLY
1:      vxorps %ymm0, %ymm0, %ymm0
        EXPECT 6, rip=1b

        CASE "XGETBV without OSXSAVE", ENV_LONG, FLAG_EMU_ONLY
1:      xgetbv
        EXPECT 6, rip=1b

        CASE "AVX without its bit in XCR0", ENV_LONG, FLAG_EMU_ONLY
        CR_SET cr4, 0x40000
1:      vxorps %ymm0, %ymm0, %ymm0
        EXPECT 6, rip=1b

        CASE "XSETBV refuses AVX without SSE", ENV_LONG, FLAG_EMU_ONLY
        CR_SET cr4, 0x40000
        xor %ecx, %ecx
        xor %edx, %edx
        mov $5, %eax
1:      xsetbv
        EXPECT 13, error=0, rip=1b

        CASE "XSETBV refuses to leave x87 out", ENV_LONG, FLAG_EMU_ONLY
        CR_SET cr4, 0x40000
        xor %ecx, %ecx
        xor %edx, %edx
        mov $2, %eax
1:      xsetbv
        EXPECT 13, error=0, rip=1b

        CASE "AVX with CR0.TS", ENV_LONG, FLAG_EMU_ONLY
        CR_SET cr4, 0x40000
        xor %ecx, %ecx
        xor %edx, %edx
        mov $7, %eax
        xsetbv
        CR_SET cr0, 8
1:      vxorps %ymm0, %ymm0, %ymm0
        EXPECT 7, rip=1b

        CASE "an unmasked x87 exception comes with the next instruction", ENV_LONG
        fninit
        movw $0x33b, RESULT
        fldcw RESULT
        fld1
        fldz
        fdivrp
        nop
1:      fwait
        EXPECT 16, rip=1b

        CASE "an unmasked SSE exception", ENV_LONG
        movl $0x1d80, RESULT
        ldmxcsr RESULT
        movl $0x3f800000, RESULT
        movss RESULT, %xmm0
        xorps %xmm1, %xmm1
1:      divss %xmm1, %xmm0
        EXPECT 19, rip=1b

        CASE "an unmasked SSE exception without OSXMMEXCPT", ENV_LONG
        CR_CLEAR cr4, 0x400
        movl $0x1d80, RESULT
        ldmxcsr RESULT
        movl $0x3f800000, RESULT
        movss RESULT, %xmm0
        xorps %xmm1, %xmm1
1:      divss %xmm1, %xmm0
        EXPECT 6, rip=1b

        CASE "reserved bits of MXCSR", ENV_LONG
        movl $0x80000000, RESULT
1:      ldmxcsr RESULT
        EXPECT 13, error=0, rip=1b

/* ---- alignment ---- */

        CASE "an aligned SSE operand that is not", ENV_LONG
1:      movaps DATA+8, %xmm0
        EXPECT 13, error=0, rip=1b

        CASE "FXSAVE that is not aligned", ENV_LONG
1:      fxsave DATA+8
        EXPECT 13, error=0, rip=1b

        CASE "CMPXCHG16B that is not aligned", ENV_LONG
1:      cmpxchg16b DATA+8
        EXPECT 13, error=0, rip=1b

        CASE "#AC at CPL 3", ENV_LONG
        CR_SET cr0, 0x40000
        USER64 1f, UCODE64, 0x40202
1:      mov DATA+ALIAS+1, %eax
        EXPECT 17, error=0, rip=1b, cs=UCODE64, flags=0x50202

        CASE "#AC needs CR0.AM", ENV_LONG
        USER64 1f, UCODE64, 0x40202
1:      mov DATA+ALIAS+1, %eax
2:      ud2
        EXPECT 6, rip=2b

        CASE "#AC needs RFLAGS.AC", ENV_LONG
        CR_SET cr0, 0x40000
        USER64 1f
1:      mov DATA+ALIAS+1, %eax
2:      ud2
        EXPECT 6, rip=2b

        CASE "no #AC at CPL 0", ENV_LONG
        CR_SET cr0, 0x40000
        pushq $0x40002
        popfq
        mov DATA+1, %rax
        DONE

        CASE "#AC of a write", ENV_LONG
        CR_SET cr0, 0x40000
        USER64 1f, UCODE64, 0x40202
1:      movw $-1, DATA+ALIAS+3
        EXPECT 17, error=0, rip=1b
        VALUE DATA, 8, 0

        CASE "#AC of the stack", ENV_LONG
        CR_SET cr0, 0x40000
        USER64 1f, UCODE64, 0x40202
1:      lea -4(%rsp), %rsp
2:      push %rax
        EXPECT 17, error=0, rip=2b, sp=USTACK+ALIAS-4

        CASE "bytes and aligned operands raise no #AC", ENV_LONG
        CR_SET cr0, 0x40000
        USER64 1f, UCODE64, 0x40202
1:      movb $1, DATA+ALIAS+1
        movw $1, DATA+ALIAS+2
        movl $1, DATA+ALIAS+4
        movq $1, DATA+ALIAS+8
2:      ud2
        EXPECT 6, rip=2b

/* ---- pages ---- */

.macro PTE address, value
        movq $\value, PT_LOW+8*((\address)>>12)
        invlpg \address
.endm

        CASE "a write across into an absent page writes nothing", ENV_LONG
        PTE DATA+0x1000, 0
        mov $-1, %rax
1:      mov %rax, DATA+0xffb
        EXPECT 14, error=2, rip=1b, cr2=DATA+0x1000
        VALUE DATA+0xff8, 8, 0

        CASE "a write across from an absent page writes nothing", ENV_LONG
        PTE DATA, 0
        mov $-1, %rax
1:      mov %rax, DATA+0xffb
        EXPECT 14, error=2, rip=1b, cr2=DATA+0xffb
        VALUE DATA+0x1000, 8, 0

        CASE "a write across into a read-only page writes nothing", ENV_LONG
        PTE DATA+0x1000, DATA+0x1001
        mov $-1, %rax
1:      mov %rax, DATA+0xffb
        EXPECT 14, error=3, rip=1b, cr2=DATA+0x1000
        VALUE DATA+0xff8, 8, 0

        CASE "a read-modify-write across into a read-only page", ENV_LONG
        PTE DATA+0x1000, DATA+0x1001
1:      lock incl DATA+0xffe
        EXPECT 14, error=3, rip=1b, cr2=DATA+0x1000
        VALUE DATA+0xff8, 8, 0

        CASE "a read across into an absent page", ENV_LONG
        PTE DATA+0x1000, 0
        mov $0x77, %ebx
1:      mov DATA+0xffd, %ebx
        EXPECT 14, error=0, rip=1b, cr2=DATA+0x1000
        VALUE LOG_RECORDS+152, 8, 0x77

        CASE "a vector across into an absent page", ENV_LONG
        PTE DATA+0x1000, 0
1:      movups %xmm0, DATA+0xff1
        EXPECT 14, error=2, rip=1b, cr2=DATA+0x1000

        CASE "PUSH across into an absent page moves nothing", ENV_LONG
        movb $1, IDT64+16*14+4
        PTE DATA, 0
        mov $DATA+0x1004, %esp
1:      push %rax
        EXPECT 14, error=2, rip=1b, cr2=DATA+0xffc, sp=DATA+0x1004
        VALUE DATA+0x1000, 4, 0

        CASE "MOVS whose destination is absent keeps its registers", ENV_LONG
        PTE DATA+0x1000, 0
        mov $RESULT, %esi
        mov $DATA+0xff8, %edi
        mov $5, %ecx
1:      rep movsl
        EXPECT 14, error=2, rip=1b, cr2=DATA+0x1000
        VALUE LOG_RECORDS+136, 8, 3
        VALUE LOG_RECORDS+176, 8, RESULT+8
        VALUE LOG_RECORDS+184, 8, DATA+0x1000

        CASE "code that continues on an absent page", ENV_LONG
        movb $0xb8, DATA+0xffe
        PTE DATA+0x1000, 0
        mov $DATA+0xffe, %eax
        jmp *%rax
        EXPECT 14, error=0x10, cr2=DATA+0x1000

        CASE "code on a page with NX", ENV_LONG
        movabs $DATA|3|(1<<63), %rax
        mov %rax, PT_LOW+8*(DATA>>12)
        mov $DATA, %eax
        invlpg (%rax)
        jmp *%rax
        EXPECT 14, error=0x11, cr2=DATA

        CASE "NX is reserved without EFER.NXE", ENV_LONG
        mov $0xc0000080, %ecx
        rdmsr
        and $~0x800, %eax
        wrmsr
        movabs $DATA|3|(1<<63), %rax
        mov %rax, PT_LOW+8*(DATA>>12)
        invlpg DATA
1:      mov DATA, %al
        EXPECT 14, error=9, rip=1b, cr2=DATA

        CASE "a reserved address bit", ENV_LONG
        movabs $DATA|3|(1<<50), %rax
        mov %rax, PT_LOW+8*(DATA>>12)
        invlpg DATA
1:      mov %al, DATA
        EXPECT 14, error=0xb, rip=1b, cr2=DATA

        CASE "WP off: the supervisor writes to read-only pages", ENV_LONG
        PTE DATA, DATA+1
        CR_CLEAR cr0, 0x10000
        movb $1, DATA
        DONE
        VALUE DATA, 1, 1
        VALUE PT_LOW+8*(DATA>>12), 1, 0x61

        CASE "WP on: it does not", ENV_LONG
        PTE DATA, DATA+1
1:      movb $1, DATA
        EXPECT 14, error=3, rip=1b, cr2=DATA
        VALUE PT_LOW+8*(DATA>>12), 1, 1

        CASE "CPL 3 on a supervisor page", ENV_LONG3
1:      mov DATA, %al
        EXPECT 14, error=5, rip=1b, cr2=DATA, cs=UCODE64

        CASE "CPL 3 jumps to a supervisor page", ENV_LONG3
        mov $DATA, %eax
        jmp *%rax
        EXPECT 14, error=0x15, cr2=DATA, cs=UCODE64

        CASE "SMAP", ENV_LONG, FLAG_EMU_ONLY
        CR_SET cr4, 0x200000
1:      mov DATA+ALIAS, %al
        EXPECT 14, error=1, rip=1b, cr2=DATA+ALIAS

        CASE "SMAP with AC", ENV_LONG, FLAG_EMU_ONLY
        CR_SET cr4, 0x200000
        stac
        movb $1, DATA+ALIAS
        clac
1:      mov DATA+ALIAS, %al
        EXPECT 14, error=1, rip=1b, cr2=DATA+ALIAS
        VALUE DATA, 1, 1

        CASE "SMAP and the implicit accesses: AC does not help", ENV_LONG, FLAG_EMU_ONLY
        CR_SET cr4, 0x200000
        stac
        movw $GDT_LIMIT, RESULT
        movq $GDT+ALIAS, RESULT+2
        lgdt RESULT
        mov $KDATA, %eax
        mov %eax, %es           /* and neither can any handler's CS be read */
        SHUTDOWN

        CASE "SMEP", ENV_LONG, FLAG_EMU_ONLY
        CR_SET cr4, 0x100000
        mov $A(1f)+ALIAS, %eax
        jmp *%rax
1:      EXPECT 14, error=0x11, rip=1b, cr2=1b-image+IMAGE_BASE+ALIAS

        CASE "without SMEP the supervisor runs user pages", ENV_LONG
        mov $A(1f)+ALIAS, %eax
        jmp *%rax
1:      DONE

/* ---- addresses that are not canonical ---- */

        CASE "a non-canonical operand", ENV_LONG
        movabs $0x800000000000, %rbx
1:      mov (%rbx), %eax
        EXPECT 13, error=0, rip=1b

        CASE "a non-canonical operand based on RSP", ENV_LONG
        movb $1, IDT64+16*12+4
        movabs $0x800000000000, %rsp
1:      mov (%rsp), %eax
        EXPECT 12, error=0, rip=1b

        CASE "a non-canonical operand based on RBP", ENV_LONG
        movabs $0x7ffffffffffc, %rbp
1:      mov %rax, (%rbp)
        EXPECT 12, error=0, rip=1b

        CASE "an operand that leaves the lower half", ENV_LONG
        movabs $0x7ffffffffffd, %rbx
1:      mov (%rbx), %eax
        EXPECT 13, error=0, rip=1b

        CASE "PUSH to a non-canonical stack", ENV_LONG
        movb $1, IDT64+16*12+4
        movabs $0x800000000010, %rsp
1:      push %rax
        EXPECT 12, error=0, rip=1b

        CASE "JMP to a non-canonical address", ENV_LONG
        movabs $0x800000000000, %rbx
1:      jmp *%rbx
        EXPECT 13, error=0, rip=1b

        CASE "CALL to a non-canonical address pushes nothing", ENV_LONG
        movabs $0x800000000000, %rbx
1:      call *%rbx
        EXPECT 13, error=0, rip=1b, sp=KSTACK

        CASE "RET to a non-canonical address pops nothing", ENV_LONG
        movabs $0x800000000000, %rbx
        push %rbx
1:      ret
        EXPECT 13, error=0, rip=1b, sp=KSTACK-8

        CASE "an instruction of 16 bytes", ENV_LONG
1:      .fill 15, 1, 0x66
        nop
        EXPECT 13, error=0, rip=1b

        CASE "an instruction of 15 bytes", ENV_LONG
        .fill 14, 1, 0x66
        nop
        DONE

        CASE "LOCK where it may not be", ENV_LONG
1:      .byte 0xf0, 0x8b, 0x03
        EXPECT 6, rip=1b

/* ---- descriptors ---- */

.macro QUERY at, instruction, selector
        mov $0x55, %eax
        mov $\selector, %ecx
        \instruction %ecx, %eax
        setz RESULT+\at
        mov %eax, RESULT+\at+4
.endm

        CASE "LAR in long mode", ENV_LONG
        QUERY 0, lar, KCODE64
        QUERY 8, lar, 0
        QUERY 16, lar, SEL_TSS64
        QUERY 24, lar, SEL_TSS16
        QUERY 32, lar, 0x1000
        QUERY 40, lar, NPDATA
        QUERY 48, lar, KDATA+3
        QUERY 56, lar, CONF64+3
        DONE
        VALUE RESULT, 8, 0x00af9b0000000001
        VALUE RESULT+8, 8, 0x5500000000
        VALUE RESULT+16, 8, 0x00008b0000000001
        VALUE RESULT+24, 8, 0x5500000000
        VALUE RESULT+32, 8, 0x5500000000
        VALUE RESULT+40, 8, 0x00cf130000000001
        VALUE RESULT+48, 8, 0x5500000000
        VALUE RESULT+56, 8, 0x00af9f0000000001

        CASE "LSL in long mode", ENV_LONG
        QUERY 0, lsl, KDATA
        QUERY 8, lsl, LIMITED
        QUERY 16, lsl, SEL_TSS64
        QUERY 24, lsl, SEL_LDT
        QUERY 32, lsl, SEL_TSS16
        DONE
        VALUE RESULT, 8, 0xffffffff00000001
        VALUE RESULT+8, 8, 0xff00000001
        VALUE RESULT+16, 8, 0x6700000001
        VALUE RESULT+24, 8, 0xff00000001
        VALUE RESULT+32, 8, 0x5500000000

        CASE "VERR and VERW", ENV_LONG
        .set at, RESULT
        .irp selector, KDATA, RODATA, KCODE64, EXECONLY, KDATA+3, 0, SEL_TSS64, 0x1000
        mov $\selector, %ecx
        verr %cx
        setz at
        verw %cx
        setz at+1
        .set at, at+2
        .endr
        DONE
        VALUE RESULT, 8, 0x0000000100010101
        VALUE RESULT+8, 8, 0

        CASE "a segment register with a descriptor beyond the GDT", ENV_LONG
        mov $0x1008, %eax
1:      mov %eax, %ds
        EXPECT 13, error=0x1008, rip=1b

        CASE "DS with code that cannot be read", ENV_LONG
        mov $EXECONLY, %eax
1:      mov %eax, %ds
        EXPECT 13, error=EXECONLY, rip=1b

        CASE "DS that is not present", ENV_LONG
        mov $NPDATA, %eax
1:      mov %eax, %ds
        EXPECT 11, error=NPDATA, rip=1b

        CASE "SS that is not present", ENV_LONG
        mov $NPDATA, %eax
1:      mov %eax, %ss
        EXPECT 12, error=NPDATA, rip=1b

        CASE "SS of another level", ENV_LONG
        mov $UDATA, %eax
1:      mov %eax, %ss
        EXPECT 13, error=UDATA-3, rip=1b

        CASE "SS that is read-only", ENV_LONG
        mov $RODATA, %eax
1:      mov %eax, %ss
        EXPECT 13, error=RODATA, rip=1b

        CASE "SS null at CPL 3", ENV_LONG3
        xor %eax, %eax
1:      mov %eax, %ss
        EXPECT 13, error=0, rip=1b

        CASE "DS of an inner level", ENV_LONG3
        mov $KDATA, %eax
1:      mov %eax, %ds
        EXPECT 13, error=KDATA, rip=1b

        CASE "MOV to CS", ENV_LONG
1:      .byte 0x8e, 0xc8
        EXPECT 6, rip=1b

        CASE "a load sets the accessed bit", ENV_LONG
        movb $0x92, GDT+KDATA+5
        mov $KDATA, %eax
        mov %eax, %gs
        DONE
        VALUE GDT+KDATA+5, 1, 0x93

        CASE "LDT", ENV_LONG
        mov $LDT_DATA, %eax
        mov %eax, %gs
        xor %eax, %eax
        lldt %ax
        mov $LDT_DATA, %eax
1:      mov %eax, %fs
        EXPECT 13, error=LDT_DATA, rip=1b

        CASE "LLDT of something else", ENV_LONG
        mov $KDATA, %eax
1:      lldt %ax
        EXPECT 13, error=KDATA, rip=1b

        CASE "LTR of a busy TSS", ENV_LONG
        mov $SEL_TSS64, %eax
1:      ltr %ax
        EXPECT 13, error=SEL_TSS64, rip=1b

        CASE "LTR makes it busy", ENV_LONG
        movb $0x89, GDT+SEL_TSS64+5
        mov $SEL_TSS64, %eax
        ltr %ax
        DONE
        VALUE GDT+SEL_TSS64+5, 1, 0x8b

        CASE "LTR of a null selector", ENV_LONG
        xor %eax, %eax
1:      ltr %ax
        EXPECT 13, error=0, rip=1b

        CASE "LTR of one that is not present", ENV_LONG
        movb $0x09, GDT+SEL_TSS64+5
        mov $SEL_TSS64, %eax
1:      ltr %ax
        EXPECT 11, error=SEL_TSS64, rip=1b

        CASE "LGDT with a base that is not canonical", ENV_LONG
        movl $0x8000, RESULT+6 /* bits 63:32 */
1:      lgdt RESULT
        EXPECT 13, error=0, rip=1b
