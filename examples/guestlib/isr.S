/*
 * Interrupt entry: 256 stubs that bring the stack to the shape of struct interrupt_frame (cpu.h), and the way back.
 */
        .text
        .globl interrupt_stubs
        .balign 16
interrupt_stubs:                        /* stub n is at interrupt_stubs + 16 * n */
        .set    vector, 0
        .rept   256
        .balign 16
        /* #DF #TS #NP #SS #GP #PF #AC push an error code; give the others a zero */
        .if (vector != 8) && ((vector < 10) || (vector > 14)) && (vector != 17)
        push    $0
        .endif
        push    $vector
        jmp     interrupt_entry
        .set    vector, vector + 1
        .endr

        .type interrupt_entry, @function
interrupt_entry:
        push    %rax
        push    %rbx
        push    %rcx
        push    %rdx
        push    %rsi
        push    %rdi
        push    %rbp
        push    %r8
        push    %r9
        push    %r10
        push    %r11
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        cld
        mov     %rsp, %rdi
        mov     %rsp, %rbx
        and     $-16, %rsp
        call    interrupt_dispatch
        mov     %rbx, %rdi
        /* fall through: go on with the frame as the handler left it */

        .globl interrupt_return
        .type interrupt_return, @function
interrupt_return:
        mov     %rdi, %rsp
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %r11
        pop     %r10
        pop     %r9
        pop     %r8
        pop     %rbp
        pop     %rdi
        pop     %rsi
        pop     %rdx
        pop     %rcx
        pop     %rbx
        pop     %rax
        add     $16, %rsp               /* vector and error code */
        iretq

        .section .note.GNU-stack, "", @progbits
