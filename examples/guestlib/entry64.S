/*
 * Entry of 64-bit guests, as the Linux 64-bit boot protocol has it: long mode, flat segments, identity-mapped
 * memory, interrupts off, RSI = zero page.
 */
        .section .text.entry, "ax"
        .globl guest_entry
        .type guest_entry, @function
guest_entry:
        lea     guest_stack_end(%rip), %rsp
        xor     %ebp, %ebp              /* ends stack traces */
        push    %rbp
        push    %rbp
        cld
        mov     %rsi, %rdi
        call    boot_information_set
        call    guest_main
        xor     %edi, %edi
        call    guest_exit
        .size guest_entry, . - guest_entry

        .bss
        .balign 4096
        .globl guest_stack, guest_stack_end
guest_stack:
        .skip   65536
guest_stack_end:

        .section .note.GNU-stack, "", @progbits
