/* Code for test_stages.c: each starts at VM_CODE in 64-bit mode at CPL 0, and ends with HLT. */
    .intel_syntax noprefix
    .section .rodata

    .macro program name
    .global stages_\name
stages_\name:
    .endm
    .macro program_end name
    .global stages_\name\()_end
stages_\name\()_end:
    .endm

/* GS-relative operands with RIP as base, and with an index. RBX: 8, an index. */
program gs
    mov ecx, 300
1:  mov rax, gs:[rip + 0x1000]
    add rdx, rax
    inc dword ptr gs:[rip + 0x1000]
    adc rdx, gs:[0x40]
    add rdx, gs:[0x1040]
    mov gs:[0x1048], rdx
    mov gs:[rbx * 2 + 0x80], rdx
    add dword ptr gs:[rbx + 0x20], 3
    dec ecx
    jnz 1b
    hlt
program_end gs

/* A stack frame that lies on two pages: RSP is set by the test. */
program frame
    mov ecx, 400
1:  push rcx
    push rdx
    mov [rsp - 24], rcx
    mov [rsp - 32], rdx
    add [rsp - 28], ecx
    mov rax, [rsp - 30]
    xor rdx, rax
    pop rax
    add rdx, rax
    pop rcx
    lea rdx, [rdx + rcx * 4]
    dec ecx
    jnz 1b
    hlt
program_end frame

/* A store that changes the block's own code: the immediate of the last ADD. RDI: VM_CODE, RSI: data. */
program modify
    mov ecx, 200
1:  mov [rsi], rcx
    mov byte ptr [rdi + modify_last_byte], cl
    mov [rsi + 8], rcx
    mov rax, [rsi + 4]
    .byte 0x48, 0x81, 0xc0, 0, 0, 0, 0x11   /* add rax, 0x11000000 */
2:  add rdx, rax
    dec ecx
    jnz 1b
    hlt
    .set modify_last_byte, 2b - stages_modify - 1
program_end modify

/* A store through a group to the page table entry that maps its page: what was looked up is void. RDI: data, RSI: its entry. */
program remap
    mov ecx, 200
1:  mov rax, [rdi + 8]
    mov r8, [rsi]
    xor r8, 0x2000          /* another page */
    mov [rsi], r8
    mov rbx, [rdi + 16]
    add [rdi + 24], rcx
    add rdx, rbx
    add rdx, rax
    dec ecx
    jnz 1b
    hlt
program_end remap

/*
 * A page that becomes a page table between two stores of a group: the second changes a translation that was just used.
 * RDI: the page, RSI: linear address that its first entry maps, R8, R9: entries, R10: 0.
 */
program table
    mov [rdi + 16], r9
    jmp 1f
1:  mov [rdi + 24], r9
    mov rbx, [rsi]
    mov [rdi], r8
    mov rdx, [rsi + r10]
    hlt
program_end table

/* Flags that are kept across memory accesses, in all the ways there are. */
program flags
    mov ecx, 300
1:  mov rax, [rdi]
    add rax, rcx
    mov [rdi], rax
    adc rdx, [rdi + 8]
    cmp rax, rdx
    mov rbx, [rdi + 16]
    mov rax, [rdi + 24]
    cmovb rbx, rax
    sub rbx, rcx
    mov [rdi + 16], rbx
    jnc 2f
    add qword ptr [rdi + 24], 5
2:  ror rdx, 3
    mov [rdi + 32], rdx
    rcl dword ptr [rdi + 33], 1
    setc [rdi + 40]
    setp [rdi + 41]
    xor eax, ebx
    mov r10, [rdi + 40]
    lahf
    mov [rdi + 48], rax
    test r10, r11
    mov r15, [rdi + 32]
    jz 3f
    inc r11
3:  shl r15, cl
    mov r11, [rdi + 8]
    pushfq
    pop r12
    and r12d, 0x8d5
    add [rdi + 56], r12
    lea r10, [r10 + r15 * 2 + 7]
    xchg r10, [rdi + 8]
    neg r10
    mov [rdi + 64], r10
    jo 4f
    imul r13, r10, 0x12345
    mov [rdi + 72], r13
    jo 4f
    not r15
4:  dec rcx
    jnz 1b
    hlt
program_end flags

/* REP MOVS and REP STOS: short, empty, overlapping, downwards, across pages. RDI: data. */
program strings
    mov ebp, 100
    mov r8, rdi
1:  mov rdi, r8
    lea rsi, [r8 + 64]
    mov ecx, 24
    rep movsb
    mov al, 0x5a
    mov ecx, ebp
    rep stosb
    xor ecx, ecx
    rep stosq
    lea rsi, [r8 + 3]
    lea rdi, [r8 + 8]
    mov ecx, 40
    rep movsw
    std
    lea rsi, [r8 + 256]
    lea rdi, [r8 + 250]
    mov ecx, 20
    rep movsd
    cld
    lea rdi, [r8 + 4090]
    mov ecx, 3
    rep stosq
    imul ebp, ebp, 7
    and ebp, 127
    jnz 2f
    mov ebp, 1
2:  dec edx
    jnz 1b
    hlt
program_end strings

/* Vector registers in a block with legacy SSE and VEX, around a call of a handler and a conversion that rounds. */
program vectors
    mov ecx, 200
1:  cvtsi2sd xmm0, rcx
    movsd [rdi], xmm0
    divsd xmm0, [rdi + 8]
    addsd xmm1, xmm0
    vaddpd ymm2, ymm1, [rdi + 32]
    vmovupd [rdi + 64], ymm2
    vpsubq ymm8, ymm8, ymm2
    vzeroupper
    vpaddq ymm9, ymm2, [rdi + 64]
    vpaddq ymm8, ymm8, [rdi + 64]
    movq rax, xmm1
    cpuid
    paddq xmm3, xmm2
    vpxor ymm7, ymm9, ymm8  /* YMM8 and YMM9 are only read in this block */
    vzeroupper
    stmxcsr [rdi + 128]
    xor dword ptr [rdi + 128], 0x6000
    ldmxcsr [rdi + 128]
    sqrtsd xmm4, xmm1
    vpxor ymm5, ymm4, ymm3
    mov ecx, [rdi + 136]
    dec ecx
    mov [rdi + 136], ecx
    jnz 1b
    hlt
program_end vectors

/* x87 and MMX: FIP, FDP, FOP and the selectors are stored right behind native instructions, and long after them. RDI: data. */
program x87
    mov ecx, 300
    fninit
1:  fild dword ptr [rdi + rcx]
    fmul qword ptr [rdi + rcx + 8]
    fstp tbyte ptr [rdi + 0x300]
    fnstenv [rdi + 0x200]
    mov eax, ecx
    shl eax, 8
    and eax, 0xc00          /* rounding; the precision is another each time, too */
    mov edx, ecx
    shl edx, 5
    and edx, 0x200
    lea eax, [rax + rdx + 0x7f]
    mov [rdi + 0x280], ax
    fldcw [rdi + 0x280]
    fnstcw [rdi + 0x282]
    lea r10, [rdi + 0x20]
    mov r11d, 8
    fld qword ptr [r10 + r11 * 4 + 4]
    fxsave [rdi + 0x800]
    fild word ptr [rdi + 2]
    fdivp st(1), st
    fsqrt
    fist dword ptr [rdi + 0x290]
    fldpi
    fcomi st, st(1)
    fcmovb st, st(1)
    adc r8, 0
    fcomip st, st(1)
    setp [rdi + 0x2a0]
    pushfq
    pop r9
    xor r8, r9
    rol r8, 5
    fnstsw ax
    mov [rdi + 0x2a2], ax
    fstp st(0)
    fld dword ptr [rsp - 8]
    fnstenv [rdi + 0x220]
    fldenv [rdi + 0x220]
    fstp dword ptr [edi + 0x2b0]
    fnsave [rdi + 0x400]
    frstor [rdi + 0x400]
    movq mm0, [rdi + 0x100]
    paddb mm0, [rdi + 0x108]
    paddd mm1, mm0
    movq [rdi + 0x110], mm0
    movq2dq xmm1, mm1
    movq r9, mm1
    add r8, r9
    fxsave [rdi + 0xa00]
    emms
    fclex
    fld1
    fst qword ptr [rdi + rcx + 0x500]
    fstp st(0)
    .rept 50
    add rdx, r8
    rol rdx, 3
    .endr
    dec ecx
    jnz 1b
    hlt
program_end x87

/* x87 exceptions that are unmasked in the middle, and CR0.TS. The handlers count in R8 and R9. */
program x87_faults
    mov ecx, 200
1:  fninit
    fld1
    fldz
    mov word ptr [rdi + 0x280], 0x37b       /* ZM = 0 */
    mov word ptr [rdi + 0x282], 0x37f
    fldcw [rdi + 0x280]
    fdivp st(1), st
    mov edx, ecx
    fld1                                    /* #MF */
    fldcw [rdi + 0x282]
    fldz
    fdivp st(1), st
    fldcw [rdi + 0x280]
    add rdx, rdx
    wait                                    /* #MF */
    fldcw [rdi + 0x282]
    fstp st(0)
    fldz
    fld1
    fdivrp st(1), st
    fldcw [rdi + 0x280]
    movq mm0, [rdi]                         /* #MF */
    paddw mm0, mm0
    movq [rdi + 8], mm0
    emms
    fldcw [rdi + 0x282]
    mov rax, cr0
    or rax, 8
    mov cr0, rax
    add edx, 5
    fld qword ptr [rdi + 16]                /* #NM */
    fstp qword ptr [rdi + 24]
    mov cr0, rax
    movq mm1, mm0                           /* #NM */
    mov cr0, rax
    wait                                    /* #NM */
    emms
    fninit
    fnstenv [rdi + 0x200]
    dec ecx
    jnz 1b
    hlt
    .global stages_x87_error, stages_x87_missing
stages_x87_error:
    inc r8
    fnstsw [rdi + 0x240]
    fnstenv [rdi + 0x260]
    fnclex
    iretq
stages_x87_missing:
    inc r9
    clts
    iretq
program_end x87_faults

/* DIV and IDIV of all sizes. RSI: triples of RDX, RAX and divisor, ECX of them. The handler of #DE goes on at R12. */
    .macro divide_one insn:vararg
    mov rdx, [rsi]
    mov rax, [rsi + 8]
    lea r12, [rip + 9f]
    cmp rcx, rax
    \insn
9:  pushfq
    pop r14
    xor rbp, rax
    rol rbp, 7
    add rbp, rdx
    rol rbp, 7
    xor rbp, r14
    .endm
program divide
1:  mov rbx, [rsi + 16]
    mov r10, rbx
    mov r15, rbx
    mov r9, rbx
    .irp insn, div, idiv
    divide_one \insn bl
    divide_one \insn bh
    divide_one \insn r15b
    divide_one \insn byte ptr [rsi + 16]
    divide_one \insn bx
    divide_one \insn r10w
    divide_one \insn word ptr [rsi + 16]
    divide_one \insn ebx
    divide_one \insn r15d
    divide_one \insn dword ptr [rsi + 16]
    divide_one \insn r9
    divide_one \insn r10
    divide_one \insn qword ptr [rsi + 16]
    divide_one \insn rdx
    .endr
    mov [rdi], rbp
    add rsi, 24
    dec ecx
    jnz 1b
    hlt
    .global stages_divide_error
stages_divide_error:
    inc r8
    mov [rsp], r12
    iretq
program_end divide

/* Bit strings at offsets of both signs, and CMPXCHG16B. */
program bits
    mov ecx, 400
    mov r15, 77
1:  mov rax, [rdi + rcx * 8]
    movsx rdx, ax
    lea r8, [rdx * 4]
    lea rbx, [rdi + 0x8000]
    lea r10, [rbx + 0x80]
    mov r11d, 3
    add r9, rax
    bts [rbx + 5], r8
    adc r9, 0
    lock btc [rbx], r8
    adc r9, 0
    btr dword ptr [rbx + 4], edx
    rcl r9, 1
    bt word ptr [rbx - 2], dx
    pushfq
    pop rsi
    xor r9, rsi
    bts [rbx], dx
    rcl r9, 1
    btr [rbx + r11 * 8], r8
    lock bts [r10], rdx
    rcl r9, 1
    btc [rbx], r15
    bt dword ptr [ebx - 64], edx
    adc r9, 0
    bt dword ptr [rip], edx
    adc r9, 0
    btc [rbx], rsp
    mov esi, -16
    lea edx, [rcx + (0x190000 + 16) * 8]
    bts dword ptr [esi], edx    /* wraps round to RDI */
    adc r9, 0
    imul r15, r15, -5
    movsx r15, r15w
    mov rsi, rax
    mov rax, [rdi + 0x3000]
    mov rdx, [rdi + 0x3008]
    test ecx, 3
    jz 2f
    add rax, rcx
2:  mov rbx, r9
    cmpxchg16b [rdi + 0x3000]
    setz [rdi + 0x3010]
    lock cmpxchg8b [rdi + 0x3020]
    adc rsi, rdx
    mov [rdi + 0x3018], rsi
    dec ecx
    jnz 1b
    hlt
program_end bits

/* Registers that translated code keeps in its frame, all sizes, and AH to BH beside memory. */
program registers
    mov ecx, 300
    lea rsi, [rdi + 0x100]
    mov r9, rsp
1:  xchg r10, rax
    mov r15, rdx
    xchg r11d, r15d
    add rbx, r11
    xchg ax, r10w
    xchg bl, r15b
    xchg rdx, rbx
    xchg eax, eax
    xchg [rdi + 8], r10
    xchg [rdi + 16], r11d
    xchg [rdi + 24], r15w
    xchg [rdi + 33], r10b
    xchg [rdi + 40], bl
    mov r11, rdi
    xchg [r11 + 48], r11
    mov r15d, 8
    xchg [rdi + r15 * 8], r15d
    mov ah, [rdi + 3]
    add ah, [rsi]
    adc [rsi + 1], dh
    cmp bh, [rdi + rcx + 7]
    mov [rsi + 2], bh
    sbb [rsi + rcx], ah
    mov byte ptr [rsi + 40], 9
    xadd [rsi + 41], dh
    lea ax, [rdi + rcx]
    lea r10w, [r11 + r15 * 2 + 7]
    lea r8w, [rip + 4]
    lea dx, [edi + ecx * 4 + 0x12345678]
    lea rbp, [rsp - 64]
    push rbp
    push rbx
    mov rbx, [rsp]
    add rsp, 8
    pop rsp
    push rdx
    mov rax, [rsp]
    pop rdx
    mov rsp, r9
    imul rdx, rdx, 1000003
    ror rdx, 7
    movzx r11d, cl
    and r11d, 0x18
    dec ecx
    jnz 1b
    hlt
program_end registers


/*
 * A path through three pages, of which the second is another one from time to time. RDI: data, RSI: its page-table entry, R8: its
 * address.
 */
program paths
paths_start:
    mov ecx, 600
    fldz
1:  call paths_start + 0x1000
    add rdx, rax
    test edx, 3
    jz 2f
    paddd xmm1, xmm0
    inc rbx
2:  fld1
    faddp st(1), st
    movq xmm0, rdx
    mov rax, [rdi + rcx * 8]
    add rax, [rdi + rcx * 8 + 8]
    adc r10, rax
    push r10
    pop r11
    mov eax, ecx
    and eax, 63
    cmp eax, 7
    jne 3f
    mov rax, [rsi]
    xor rax, 0x3000
    mov [rsi], rax
    invlpg [r8]
3:  jmp paths_start + 0x2800
    .org paths_start + 0x1000
    lea rax, [rcx + rcx * 2]
    add rax, [rdi + 16]
    ret
    .org paths_start + 0x2000
    lea rax, [rcx + rcx]
    sub rax, [rdi + 24]
    xor r9, rax
    ret
    .org paths_start + 0x2800
    dec ecx
    jnz 1b
    fistp qword ptr [rdi]
    hlt
program_end paths

/* A function that the loop has patched, and one that changes where it returns to. R8: the byte to patch. */
    .global stages_patched_byte
program patched
    mov ecx, 600
1:  call 4f
    add rdx, rax
    mov eax, ecx
    and eax, 31
    cmp eax, 5
    jne 2f
    mov [r8], cl
2:  dec ecx
    jnz 1b
    hlt
4:  mov eax, 0x01020304
stages_patched_byte:
    add rax, [rdi + rcx * 2]
    ret
program_end patched

/* A function that returns to the next instruction but one, from time to time. */
program returns
    mov ecx, 2000
1:  call 2f
    inc rbx
    dec ecx
    jnz 1b
    hlt
2:  xor eax, eax
    test ecx, 7
    setz al
    lea rax, [rax + rax * 2]
    add [rsp], rax
    ret
program_end returns

    .section .note.GNU-stack, "", @progbits
