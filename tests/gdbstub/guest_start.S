/* The entry point, first in the image. GUEST_LIVE: counts for ever instead. */
        .section .text.start, "ax"
        .globl  guest_start
guest_start:
#ifdef GUEST_LIVE
        .globl  guest_loop
guest_loop:
        incl    live_counter
        jmp     guest_loop
        .data
        .globl  live_counter
        .balign 8
live_counter:
        .quad   0
#else
        call    guest_main
#endif
        .section .note.GNU-stack, "", @progbits
