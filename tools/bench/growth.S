/*
 * The guest of dejavm-bench growth: 64-bit, at CPL 0, identity-mapped. It computes, adds to pages picked at random, and reads the
 * time stamp counter now and then. The parameters in front are filled in before it is made an ELF file.
 */
        .intel_syntax noprefix
        .section .rodata
        .globl  growth_guest, growth_guest_entry, growth_guest_end
        .hidden growth_guest, growth_guest_entry, growth_guest_end
        .balign 64
growth_guest:
iterations:
        .quad   0
page_mask:                      /* number of pages it writes to, a power of two, less one */
        .quad   0
event_mask:                     /* an event each time that this of the iterations left is 0 */
        .quad   0
growth_guest_entry:
        mov     rcx, [rip + iterations]
        mov     rbx, [rip + page_mask]
        mov     rbp, [rip + event_mask]
        mov     edi, 0x1000000
        xor     eax, eax
1:      imul    eax, eax, 1664525
        add     eax, 1013904223
        mov     edx, eax
        shr     edx, 8
        and     rdx, rbx
        shl     rdx, 12
        add     [rdi + rdx], rax
        lea     r8, [rax + rdx * 4]
        xor     r9, r8
        rol     r9, 7
        sub     r10, r9
        and     r11, r10
        or      r11, rdx
        test    rcx, rbp
        jnz     2f
        mov     r9d, eax
        rdtsc
        mov     eax, r9d
2:      dec     rcx
        jnz     1b
        xor     eax, eax
        mov     edx, 0xf4       /* debug exit */
        out     dx, al
3:      hlt
        jmp     3b
growth_guest_end:
        .section .note.GNU-stack, "", @progbits
