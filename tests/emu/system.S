/* Code for test_system.c: each starts at VM_CODE in 64-bit mode, and ends with HLT at CPL 0. */
    .intel_syntax noprefix
    .section .rodata

    .macro program name
    .global system_\name
system_\name:
    .endm
    .macro program_end name
    .global system_\name\()_end
system_\name\()_end:
    .endm
    .macro handler name
    .global system_\name\()_handler
system_\name\()_handler:
    .endm

/* What follows an STI in its shadow. RDI: data, R8: an address that faults, R9: selector for SS. */
program interrupts
    mov ecx, 200
1:  cli
    pushfq
    pop rax
    add rdx, rax
    sti
    call 3f
    cli
    sti
    add rdx, [rdi]
    cli
    sti
    mov rbx, [r8]           # 3 bytes: the handler of #PF goes on after it
    cli
    sti
    sti
    add rdx, rbx
    cli
    sti
    mov ss, r9d
    mov eax, ss
    add rdx, rax
    cli
    sti
    jc 2f
    xor rdx, rcx
2:  cli
    sti
    pushfq
    pop rax
    xor rdx, rax
    push rcx
    mov ecx, 5
    cli
    sti
    rep stosb
    sub rdi, 5
    pop rcx
    dec ecx
    jnz 1b
    cli
    hlt
3:  cli
    sti
    ret
handler interrupts
    inc r12
    iretq
program_end interrupts

/* PUSHFQ and POPFQ with flags of all kinds, CLI and CLD beside live status flags. */
program flags
    mov ecx, 300
    mov r8, 0x240cd5        # ID, AC, OF, DF, and the others
1:  add rax, rcx
    pushfq
    pop rbx
    add rdx, rbx
    cmp rcx, 150
    cli
    adc rdx, 1
    pushfq
    xor [rsp], r8
    popfq
    pushfq
    pop rbx
    cld
    adc rdx, rbx
    seto al
    mov [rdi], rax
    inc byte ptr [rdi + 1]
    pushfq
    pop rbx
    xor rdx, rbx
    dec ecx
    jnz 1b
    hlt
program_end flags

/* STAC and CLAC with SMAP. RDI: a user's page, RSI: the supervisor's. */
program smap
    mov ecx, 200
1:  stac
    mov rax, [rdi]
    add [rdi + 8], rax
    clac
    mov rbx, [rsi]
    test cl, 7
    jnz 2f
    mov rbx, [rdi]          # 3 bytes: #PF
2:  add rdx, rbx
    stac
    mov rbx, [rdi + 8]
    stac
    add rdx, [rdi + 16]
    clac
    add rdx, [rsi + 8]
    clac
    mov rbx, [rdi]          # 3 bytes: #PF, though the page was looked up before
    pushfq
    pop rax
    add rdx, rax
    stac
    add rdx, rbx
    dec ecx
    jnz 1b
    clac
    hlt
handler smap
    inc r12
    add qword ptr [rsp + 8], 3
    add rsp, 8
    iretq
program_end smap

/* POP RSP, SWAPGS, reads of segment and control registers. RDI: data, RSI: a user's page for FS with SMAP off. */
program registers
    mov ecx, 300
1:  lea rax, [rsp - 64]
    push rcx
    push rax
    pop rsp
    push rdx
    swapgs
    add rdx, gs:[0x40]
    mov rax, cr3
    xor rdx, rax
    swapgs
    add rdx, gs:[0x40]
    mov rax, cr4
    mov r8, cr2
    add rdx, rax
    mov eax, cs
    mov rbx, ss
    mov r9w, ds
    mov r10, es
    lea rdx, [rdx + rax + 3]
    add rdx, r9
    add rdx, r10
    pop rax
    xor rdx, rax
    add rsp, 64 - 8
    pop rcx
    dec ecx
    jnz 1b
    hlt
program_end registers

/* At CPL 3: what is refused. R8: length of the instruction, for the handler. */
program user
    mov ecx, 100
1:  mov r8d, 3
    swapgs
    mov r8d, 1
    cli
    sti
    mov r8d, 3
    mov rax, cr3
    stac
    pushfq
    pop rax
    add rdx, rax
    mov eax, cs
    add rdx, rax
    dec ecx
    jnz 1b
    mov r8d, 0
    hlt
handler user
    inc r12
    test r8d, r8d
    jz 2f
    add [rsp + 8], r8
    add rsp, 8
    iretq
2:  hlt
handler undefined
    inc r13
    add [rsp], r8
    iretq
program_end user

/*
 * Two address spaces with other code and data at the same addresses: RSI and R8 are their CR3, RDI the data, R9 the code. R10 and R11
 * change an entry of a page table of the second: the entry's address, and what is to be flipped.
 */
#define FUNCTION (system_spaces + 0xa0000)
program spaces
    mov ecx, 300
1:  mov cr3, rsi
    call r9
    add rdx, [rdi]
    mov cr3, r8
    call r9
    call FUNCTION
    add rdx, [rdi]
    test cl, 7
    jnz 2f
    xor [r10], r11
    add rdx, [rdi]
    call FUNCTION
    call r9
2:  dec ecx
    jnz 1b
    hlt
program_end spaces
.global system_function_one, system_function_two, system_function_three
system_function_one:
    add rdx, 3
    ret
system_function_two:
    rol rdx, 5
    ret
system_function_three:
    xor rdx, rcx
    add rdx, 0x1234567
    ret
.global system_functions_end
system_functions_end:

    .section .note.GNU-stack, "", @progbits
