/*
 * The ring-3 part: accesses that ring 3 may not make, and one it may. The page-fault handler skips to the address in
 * R15; INT 4 with RAX = number of the step tells the kernel how far it came.
 */
        .text
        .globl user_probe
        .set    SYSTEM_CALL, 4          /* VECTOR_SYSTEM_CALL in cpu.h */
        .set    FORBIDDEN, 0x50000000   /* SUPERVISOR_PAGE in paging.c */
user_probe:
        lea     1f(%rip), %r15
        mov     FORBIDDEN, %rax
        ud2                             /* not reached */
1:      lea     2f(%rip), %r15
        movq    $1, FORBIDDEN
        ud2
2:      lea     3f(%rip), %r15
        mov     $FORBIDDEN, %eax
        jmp     *%rax
3:      incq    counter(%rip)           /* its own memory is fine */
        mov     counter(%rip), %rdi
        int     $SYSTEM_CALL
        jmp     .

        .data
        .balign 8
counter:
        .quad   41

        .section .note.GNU-stack, "", @progbits
