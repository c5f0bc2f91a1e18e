/*
 * Header and entry of 32-bit guests: Multiboot Specification 0.6.96. Protected mode, flat segments, paging and
 * interrupts off, EAX = magic, EBX = information.
 */
        .set    MAGIC, 0x1badb002
        .set    FLAGS, 3                /* modules on page boundaries, memory information */

        .section .multiboot, "a"
        .balign 4
        .long   MAGIC, FLAGS, -(MAGIC + FLAGS)

        .section .text.entry, "ax"
        .globl guest_entry
        .type guest_entry, @function
guest_entry:
        mov     $guest_stack_end, %esp
        xor     %ebp, %ebp              /* ends stack traces */
        push    %ebp
        push    %ebp
        cld
        cmp     $0x2badb002, %eax
        jne     1f
        push    %ebx
        call    boot_information_set
        call    guest_main
        push    $0
        call    guest_exit
1:      cli
        hlt
        jmp     1b
        .size guest_entry, . - guest_entry

        .bss
        .balign 4096
        .globl guest_stack, guest_stack_end
guest_stack:
        .skip   65536
guest_stack_end:

        .section .note.GNU-stack, "", @progbits
