/* See loops.h. Each loop lies between bench_NAME and bench_NAME_end, and falls out at its end. */
        .intel_syntax noprefix
        .section .rodata
        .altmacro

.macro  LOOP name
        .globl  bench_\name
        .hidden bench_\name
        .balign 64
bench_\name:
.endm

.macro  LOOP_END name
        .globl  bench_\name\()_end
        .hidden bench_\name\()_end
bench_\name\()_end:
.endm

/* Arithmetic, logic and shifts between registers. */
LOOP integer
1:      lea     r8, [rax + rdx * 4]
        xor     rax, r8
        rol     rax, 7
        add     rdx, 0x1234567
        sub     r9, rax
        and     r10, r9
        shr     r11, 3
        or      r11, rdx
        dec     rcx
        jnz     1b
LOOP_END integer

/* Loads, stores and a read-modify-write, within 32 KiB. */
LOOP memory
1:      mov     rax, [rdi + rdx]
        add     rax, [rdi + rdx + 8]
        mov     [rdi + rdx + 16], rax
        add     qword ptr [rdi + rdx + 24], 1
        movzx   r8d, byte ptr [rdi + rdx + 1]
        mov     [rdi + rdx + 40], r8w
        add     edx, 64
        and     edx, 0x7fff
        dec     rcx
        jnz     1b
LOOP_END memory

/* Three branches that depend on a random number, of which the processor can foresee little. */
LOOP branch
        mov     rax, 88172645463325252
1:      mov     rdx, rax
        shl     rdx, 13
        xor     rax, rdx
        mov     rdx, rax
        shr     rdx, 7
        xor     rax, rdx
        test    al, 1
        jz      2f
        inc     r8
2:      test    al, 2
        jnz     3f
        inc     r9
3:      test    al, 4
        jz      4f
        dec     r10
4:      dec     rcx
        jnz     1b
LOOP_END branch

/* Two calls, one inside the other, with a frame. */
LOOP call
        jmp     3f
1:      push    rbp
        mov     rbp, rsp
        add     rax, rcx
        call    2f
        pop     rbp
        ret
2:      inc     rdx
        ret
3:      call    1b
        dec     rcx
        jnz     3b
LOOP_END call

/* Packed and scalar floating point and integers in XMM registers. */
LOOP sse
        pxor    xmm0, xmm0
        pxor    xmm1, xmm1
        cvtsi2sd xmm2, rcx
        movapd  xmm3, xmm2
1:      addsd   xmm0, xmm2
        mulsd   xmm3, xmm2
        addpd   xmm1, xmm0
        sqrtsd  xmm4, xmm0
        paddd   xmm5, xmm1
        pshufd  xmm6, xmm5, 0x1b
        pxor    xmm5, xmm6
        movups  [rdi], xmm5
        dec     rcx
        jnz     1b
LOOP_END sse

LOOP x87
        fninit
        fld1
        fldpi
1:      fld     st(0)
        fmul    st(0), st(2)
        fadd    st(0), st(1)
        fstp    qword ptr [rdi]
        fld     qword ptr [rdi]
        fsqrt
        fstp    st(0)
        dec     rcx
        jnz     1b
        fninit
LOOP_END x87

/* Divisions of 32 and 64 bits, with and without sign, as compilers write them. */
LOOP divide
        mov     r8d, 7
        mov     r9d, 1000003
        mov     dword ptr [rdi], 11
1:      mov     eax, ecx
        xor     edx, edx
        div     r8d
        mov     eax, ecx
        cdq
        idiv    dword ptr [rdi]
        mov     rax, rcx
        xor     edx, edx
        div     r9
        mov     rax, rcx
        cqo
        idiv    r8
        dec     rcx
        jnz     1b
LOOP_END divide

/* Bit strings: a set of 32 Ki bits. */
LOOP bits
1:      mov     eax, ecx
        and     eax, 0x7fff
        bts     [rdi], rax
        adc     r8d, 0
        add     eax, 77
        btr     dword ptr [rdi], eax
        bt      [rdi + 64], rax
        adc     r8d, 0
        dec     rcx
        jnz     1b
LOOP_END bits

/* A block of 4 KiB is copied, and one is filled. */
LOOP string
1:      mov     r8, rcx
        mov     r9, rdi
        lea     rsi, [rdi + 0x4000]
        mov     ecx, 512
        rep movsq
        mov     ecx, 4096
        rep stosb
        mov     rdi, r9
        mov     rcx, r8
        dec     rcx
        jnz     1b
LOOP_END string

/* Each access is to another of 4096 pages. */
LOOP page_walk
1:      add     rax, [rdi + rdx]
        add     edx, 4096 + 64
        and     edx, 0xffffff
        dec     rcx
        jnz     1b
LOOP_END page_walk

/* Jumps through a table of four, picked by a random number. */
LOOP indirect
        mov     rax, 88172645463325252
        lea     r10, [rip + 5f]
1:      mov     rdx, rax
        shl     rdx, 13
        xor     rax, rdx
        mov     rdx, rax
        shr     rdx, 7
        xor     rax, rdx
        mov     edx, eax
        and     edx, 3
        lea     r11, [r10 + rdx * 8]
        jmp     r11
        .balign 8
5:      inc     r8
        jmp     2f
        .balign 8
        inc     r9
        jmp     2f
        .balign 8
        dec     r8
        jmp     2f
        .balign 8
        dec     r9
2:      dec     rcx
        jnz     1b
LOOP_END indirect

/* Integers and floating point in YMM registers. */
LOOP avx2
        vpxor   ymm0, ymm0, ymm0
        vpcmpeqd ymm1, ymm1, ymm1
1:      vpaddd  ymm0, ymm0, ymm1
        vpslld  ymm2, ymm0, 3
        vpxor   ymm3, ymm2, ymm0
        vpmulld ymm4, ymm3, ymm2
        vpshufb ymm5, ymm4, ymm3
        vcvtdq2ps ymm6, ymm5
        vaddps  ymm6, ymm6, ymm6
        vmovdqu [rdi], ymm6
        dec     rcx
        jnz     1b
        vzeroupper
LOOP_END avx2

/* A load faults; the handler goes on behind it. The instruction's length is the handler's, bench_handlers. */
LOOP page_fault
        mov     esi, 0x40000000
1:      mov     rax, [rsi]
        dec     rcx
        jnz     1b
LOOP_END page_fault

/* From CPL 3 and back. 110 is getppid() on Linux; the guest's kernel goes back at once, but for 1. */
LOOP syscall
1:      mov     r8, rcx
        mov     eax, 110
        syscall
        mov     rcx, r8
        dec     rcx
        jnz     1b
LOOP_END syscall

/* Through the IDT to a handler that returns. */
LOOP interrupt
1:      int     0x20
        dec     rcx
        jnz     1b
LOOP_END interrupt

/* The immediate operand of an instruction ahead is written each time. */
LOOP self_modifying
1:      mov     dword ptr [rip + 2f + 1], ecx
        lea     r8, [r8 + rax]
2:      mov     eax, 0x12345678
        dec     rcx
        jnz     1b
LOOP_END self_modifying

/* A hash table with chains: what compiled code is like. */
LOOP mixed
        mov     r8d, 1
1:      imul    r8d, r8d, 1664525
        add     r8d, 1013904223
        mov     eax, r8d
        shr     eax, 20
        lea     r9, [rdi + rax * 8]
        mov     rdx, [r9]
        cmp     rdx, r8
        je      3f
        jb      2f
        mov     [r9], r8
        call    4f
        jmp     3f
2:      add     qword ptr [r9], 3
        setc    r10b
        movzx   r10d, r10b
        add     r11d, r10d
3:      sub     rcx, 1
        jne     1b
        jmp     5f
4:      push    rcx
        mov     rcx, [rsp + 8]
        xor     r11, rcx
        pop     rcx
        ret
5:
LOOP_END mixed

/* What the guest's IDT and LSTAR lead to: #PF, INT 0x20, SYSCALL. At CPL 3 the guest ends with SYSCALL 1. */
        .globl  bench_handlers, bench_handler_interrupt, bench_handler_syscall, bench_handlers_end
        .hidden bench_handlers, bench_handler_interrupt, bench_handler_syscall, bench_handlers_end
        .balign 64
bench_handlers:
        add     rsp, 8                  /* the error code */
        add     qword ptr [rsp], 3      /* the length of mov rax, [rsi] */
        iretq
bench_handler_interrupt:
        iretq
bench_handler_syscall:
        cmp     eax, 1
        je      1f
        sysretq
1:      hlt
        jmp     1b
bench_handlers_end:

        .section .note.GNU-stack, "", @progbits
