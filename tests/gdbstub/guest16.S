/* Real mode, loaded at 0x10000, entered as 1000:0000 with SS = 0x2000. */
        .code16
        .text
        .globl  guest_start
guest_start:
        movw    $0x1234, %ax
        movw    %ax, 0x100
        pushw   %ax
        call    subroutine
        popw    %bx
        movw    $3, %cx
again:  incw    0x102
        loop    again
        .balign 32, 0x90
        hlt                     /* at 0x20 */
        .globl  subroutine
subroutine:
        addw    $1, %ax
        ret
        .section .note.GNU-stack, "", @progbits
