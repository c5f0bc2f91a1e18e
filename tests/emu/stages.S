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
    mov byte ptr [rdi + 2f - stages_modify - 1], cl
    mov [rsi + 8], rcx
    mov rax, [rsi + 4]
    .byte 0x48, 0x81, 0xc0, 0, 0, 0, 0x11   /* add rax, 0x11000000 */
2:  add rdx, rax
    dec ecx
    jnz 1b
    hlt
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
    movq rax, xmm1
    cpuid
    paddq xmm3, xmm2
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

    .section .note.GNU-stack, "", @progbits
