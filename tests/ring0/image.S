/* The image of all guests: event handlers, then the cases. One section, so that addresses are differences. */
#include "tests/ring0/cases.h"

        .section .ring0_table, "aw"
        .globl ring0_table
ring0_table:
        .section .rodata
        .globl ring0_image, ring0_image_end
        .balign 4096
ring0_image:
image:

/* ---- entry points: 16 bytes per vector ---- */

        .code64
stubs64:
        .set v, 0
        .rept 256
        .balign 16
        .byte 0x68
        .long v
        .byte 0xe9
        .long common64 - . - 4
        .set v, v + 1
        .endr

        .code32
        .balign 4096
stubs32:
        .set v, 0
        .rept 256
        .balign 16
        .byte 0x68
        .long v
        .byte 0xe9
        .long common32 - . - 4
        .set v, v + 1
        .endr

/* Through 16-bit gates, in a segment based at the image: on to the flat one. */
        .balign 4096
stubs32_gate16:
        .set v, 0
        .rept 256
        .balign 16
        .byte 0x68
        .long v + 0x100         /* so that the log tells them apart */
        .byte 0xe9
        .long from_gate16 - . - 4
        .set v, v + 1
        .endr

        .code16
        .balign 4096
stubs16:
        .set v, 0
        .rept 256
        .balign 16
        .byte 0x68
        .word v
        .byte 0xe9
        .word common16 - . - 2
        .set v, v + 1
        .endr

/* ---- 64 bit ---- */

        .balign 16
        .code64
common64:                       /* the vector, then what the processor pushed */
        pushfq
        push %rbx
        push %rax
        mov LOG_COUNT, %eax
        cmp $LOG_MAX, %eax
        jae stop64
        imul $LOG_BYTES, %eax, %ebx
        add $LOG_RECORDS, %ebx
        incl LOG_COUNT
        movb $64, (%rbx)
        mov 24(%rsp), %rax
        mov %rax, 8(%rbx)
        lea 32(%rsp), %rax
        mov %rax, 16(%rbx)
        mov %cs, %eax
        mov %rax, 24(%rbx)
        mov %ss, %eax
        mov %rax, 32(%rbx)
        mov 16(%rsp), %rax
        mov %rax, 40(%rbx)
        testb $3, 24(%rbx)
        jnz 1f
        mov %cr2, %rax
        mov %rax, 48(%rbx)
        mov %dr6, %rax
        mov %rax, 56(%rbx)
1:      .irp n, 0, 8, 16, 24, 32, 40, 48, 56
        mov 32+\n(%rsp), %rax
        mov %rax, 64+\n(%rbx)
        .endr
        mov (%rsp), %rax
        mov %rax, 128(%rbx)
        mov %rcx, 136(%rbx)
        mov %rdx, 144(%rbx)
        mov 8(%rsp), %rax
        mov %rax, 152(%rbx)
        mov %rbp, 168(%rbx)
        mov %rsi, 176(%rbx)
        mov %rdi, 184(%rbx)
        mov %r8, 192(%rbx)
        mov %r9, 200(%rbx)
        mov %r10, 208(%rbx)
        mov %r11, 216(%rbx)
        mov %r12, 224(%rbx)
        mov %r13, 232(%rbx)
        mov %r14, 240(%rbx)
        mov %r15, 248(%rbx)
        mov %ds, %eax
        mov %rax, 256(%rbx)
        mov %es, %eax
        mov %rax, 264(%rbx)
        mov %fs, %eax
        mov %rax, 272(%rbx)
        mov %gs, %eax
        mov %rax, 280(%rbx)
        xor %eax, %eax
        mov 24(%rsp), %ebx
        mov ACTIONS(%rbx), %bl
        test $ACTION_CONTINUE, %bl
        jz stop64
        lea 32(%rsp), %rax      /* what IRET takes */
        test $ACTION_DROP_ERROR, %bl
        jz 2f
        add $8, %rax
2:      test $ACTION_RESUME, %bl
        jz 3f
        push %rcx
        mov LOG_RESUME, %rcx
        mov %rcx, (%rax)
        pop %rcx
3:      mov (%rsp), %rbx
        mov %rbx, -8(%rax)
        mov 8(%rsp), %rbx
        lea -8(%rax), %rsp
        pop %rax
        iretq
stop64: hlt
        jmp stop64

/* ---- 32 bit ---- */

        .code32
        .balign 16
from_gate16:
        ljmp $KCODE32, $A(common32)
common32:
        pushfl
        pushal
        push %ds
        push %es
        cld
        mov $UDATA, %eax
        mov %ax, %ds
        mov %ax, %es
        mov LOG_COUNT, %eax
        cmp $LOG_MAX, %eax
        jae stop32
        imul $LOG_BYTES, %eax, %ebx
        add $LOG_RECORDS, %ebx
        incl LOG_COUNT
        movb $32, (%ebx)
        mov 44(%esp), %eax
        mov %eax, 8(%ebx)
        lea 48(%esp), %eax
        mov %eax, 16(%ebx)
        mov %cs, %eax
        mov %ax, 24(%ebx)
        mov %ss, %eax
        mov %ax, 32(%ebx)
        mov 40(%esp), %eax
        mov %eax, 40(%ebx)
        testb $3, 24(%ebx)
        jnz 1f
        mov %cr2, %eax
        mov %eax, 48(%ebx)
        mov %dr6, %eax
        mov %eax, 56(%ebx)
1:      .irp n, 0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60
        mov 48+\n(%esp), %eax
        mov %eax, 64+\n(%ebx)
        .endr
        mov 36(%esp), %eax
        mov %eax, 128(%ebx)
        mov %ecx, 136(%ebx)
        mov %edx, 144(%ebx)
        mov 24(%esp), %eax
        mov %eax, 152(%ebx)
        mov %ebp, 168(%ebx)
        mov %esi, 176(%ebx)
        mov %edi, 184(%ebx)
        mov 4(%esp), %eax
        mov %ax, 256(%ebx)
        mov (%esp), %eax
        mov %ax, 264(%ebx)
        mov %fs, %eax
        mov %ax, 272(%ebx)
        mov %gs, %eax
        mov %ax, 280(%ebx)
        xor %eax, %eax
        movzbl 44(%esp), %ebx
        movzbl ACTIONS(%ebx), %ebx
        test $ACTION_CONTINUE, %bl
        jz stop32
        test $ACTION_DROP_ERROR, %bl
        jnz 4f
        test $ACTION_RESUME, %bl
        jz 3f
        mov LOG_RESUME, %eax
        mov %eax, 48(%esp)
3:      pop %es
        pop %ds
        popal
        lea 8(%esp), %esp
        iretl
4:      test $ACTION_RESUME, %bl
        jz 5f
        mov LOG_RESUME, %eax
        mov %eax, 52(%esp)
5:      pop %es
        pop %ds
        popal
        lea 12(%esp), %esp
        iretl
stop32: hlt
        jmp stop32

/* ---- real mode ---- */

        .code16
        .balign 16
common16:
        pushfl
        pushal
        push %ds
        push %es
        cld
        mov $(LOG_COUNT >> 4), %ax
        mov %ax, %ds
        mov %ax, %es
        movzwl %sp, %ebp
        mov LOG_COUNT & 15, %eax
        cmp $LOG_MAX, %eax
        jae stop16
        imul $LOG_BYTES, %eax, %ebx
        add $(LOG_RECORDS - LOG_COUNT), %ebx
        incl LOG_COUNT & 15
        movb $16, (%bx)
        mov 40(%bp), %ax
        mov %ax, 8(%bx)
        lea 42(%bp), %ax
        mov %ax, 16(%bx)
        mov %cs, %ax
        mov %ax, 24(%bx)
        mov %ss, %ax
        mov %ax, 32(%bx)
        mov 36(%bp), %eax
        mov %eax, 40(%bx)
        mov %dr6, %eax
        mov %eax, 56(%bx)
        .irp n, 0, 2, 4, 6, 8, 10, 12, 14
        mov 42+\n(%bp), %ax
        mov %ax, 64+\n(%bx)
        .endr
        mov 32(%bp), %eax
        mov %eax, 128(%bx)
        mov %ecx, 136(%bx)
        mov %edx, 144(%bx)
        mov 20(%bp), %eax
        mov %eax, 152(%bx)
        mov 12(%bp), %eax
        mov %eax, 168(%bx)
        mov %esi, 176(%bx)
        mov %edi, 184(%bx)
        mov 2(%bp), %ax
        mov %ax, 256(%bx)
        mov 0(%bp), %ax
        mov %ax, 264(%bx)
        mov 40(%bp), %di
        mov ACTIONS-LOG_COUNT(%di), %bl
        test $ACTION_CONTINUE, %bl
        jz stop16
        test $ACTION_RESUME, %bl
        jz 3f
        mov LOG_RESUME & 15, %ax
        mov %ax, 42(%bp)
3:      pop %es
        pop %ds
        popal
        add $6, %sp
        iret
stop16: hlt
        jmp stop16

        .balign 16
        .globl ring0_stubs64, ring0_stubs32, ring0_stubs32_gate16, ring0_stubs16
        .set ring0_stubs64, stubs64
        .set ring0_stubs32, stubs32
        .set ring0_stubs32_gate16, stubs32_gate16
        .set ring0_stubs16, stubs16

/* ---- cases ---- */

#include "tests/ring0/cases_events.S"
#include "tests/ring0/cases_transfers.S"
#include "tests/ring0/cases_debug.S"
#include "tests/ring0/cases_system.S"
#include "tests/ring0/cases_code.S"
#include "tests/ring0/cases_legacy.S"
#include "tests/ring0/cases_modes.S"
#include "tests/ring0/cases_tasks.S"
#include "tests/ring0/paging.S"

        .balign 16
ring0_image_end:
        .section .ring0_table, "aw"
        .globl ring0_table_end
ring0_table_end:
        .section .note.GNU-stack, "", @progbits
