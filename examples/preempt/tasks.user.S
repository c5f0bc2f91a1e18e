/*
 * The ring-3 tasks of preempt.c. Each is a loop that a recorder of interrupts could get wrong in its own way: what
 * changes from one turn to the next is only a register, only memory, only a vector register, or nothing.
 *
 * System calls: INT 4, RDI = a number for the kernel's checksum.
 */
        .set    SYSTEM_CALL, 4          /* VECTOR_SYSTEM_CALL in cpu.h */
        .set    STRING_WORDS, 131072    /* 1 MiB, more than most second-level caches */
        .set    RECURSION_DEPTH, 22

        .text

/* Registers only. */
        .globl task_registers
task_registers:
        mov     $1, %edi
        int     $SYSTEM_CALL
        mov     $0x9e3779b97f4a7c15, %rbx
        mov     $1, %eax
1:      imul    %rbx, %rax
        add     %rax, %rcx
        rol     $13, %rcx
        xor     %rcx, %rdx
        lea     (%rdx, %rax, 4), %r8
        adc     %r8, %r9
        bswap   %r9
        jmp     1b

/* Memory only: no register ever changes. */
        .globl task_memory
task_memory:
        mov     $2, %edi
        int     $SYSTEM_CALL
1:      incq    memory_counter(%rip)
        jmp     1b

/* Vector registers only. */
        .globl task_sse
task_sse:
        mov     $3, %edi
        int     $SYSTEM_CALL
        mov     $0x3ff0000000000001, %rax  /* a little more than 1.0 */
        movq    %rax, %xmm1
        unpcklpd %xmm1, %xmm1
        movapd  %xmm1, %xmm2
        movapd  %xmm1, %xmm5
1:      paddq   %xmm1, %xmm0
        pxor    %xmm0, %xmm3
        psllq   $1, %xmm3
        mulpd   %xmm5, %xmm2
        addpd   %xmm2, %xmm4
        pshufd  $0x1b, %xmm4, %xmm6
        jmp     1b

/* Nothing at all. */
        .globl task_nothing
task_nothing:
        mov     $4, %edi
        int     $SYSTEM_CALL
        jmp     .

/*
 * Long string instructions, forwards and backwards. The long one goes backwards: forwards, CPUs move many words at once,
 * and a millisecond would be tens of millions of steps.
 */
        .globl task_string
task_string:
        mov     $5, %edi
        int     $SYSTEM_CALL
1:      inc     %rbx
        imul    $0x10001, %rbx, %rax
        lea     string_a(%rip), %rdi
        mov     $STRING_WORDS / 8, %ecx
        rep stosq
        lea     string_a(%rip), %rsi
        lea     string_b(%rip), %rdi
        mov     $STRING_WORDS / 8, %ecx
        rep movsq
        std
        lea     string_b + 8 * (STRING_WORDS - 2)(%rip), %rsi
        lea     string_a + 8 * (STRING_WORDS - 1)(%rip), %rdi
        mov     $STRING_WORDS - 8, %ecx
        rep movsq
        cld
        mov     %ebx, %ecx
        and     $1023, %ecx
        lea     string_b + 3(%rip), %rdi
        rep stosb
        jmp     1b

/* Calls, returns, and a stack that goes up and down: Fibonacci the slow way. */
        .globl task_recursion
task_recursion:
        mov     $6, %edi
1:      int     $SYSTEM_CALL
        mov     $RECURSION_DEPTH, %edi
        call    fibonacci
        mov     %rax, recursion_result(%rip)
        mov     %rax, %rdi
        jmp     1b

        .globl fibonacci
fibonacci:
        push    %rbp
        mov     %rsp, %rbp
        cmp     $2, %rdi
        jb      1f
        push    %rdi
        dec     %rdi
        call    fibonacci
        pop     %rdi
        push    %rax
        sub     $2, %rdi
        call    fibonacci
        pop     %rdx
        add     %rdx, %rax
        leave
        ret
1:      mov     %rdi, %rax
        leave
        ret

        .data
        .balign 64
        .globl memory_counter, recursion_result
memory_counter:
        .quad   0, 0, 0, 0
recursion_result:
        .quad   0, 0, 0, 0

        .bss
        .balign 4096
        .globl string_a, string_b, task_stacks
string_a:
        .skip   8 * STRING_WORDS
string_b:
        .skip   8 * STRING_WORDS
task_stacks:                            /* 4 KiB each, TASK_MAX in preempt.c */
        .skip   6 * 4096

        .section .note.GNU-stack, "", @progbits
