/*
 * Accesses that may fault. Each returns true if it went well; the page-fault handler goes to probe_failed with the
 * stack as it was at the start.
 *
 *     bool probe_read(uint64_t address);
 *     bool probe_write(uint64_t address);
 *     bool probe_call(uint64_t address);      calls a function there
 */
        .text
        .globl probe_read, probe_write, probe_call, probe_failed
probe_read:
        mov     %rsp, probe_stack(%rip)
        mov     (%rdi), %rax
        jmp     done
probe_write:
        mov     %rsp, probe_stack(%rip)
        movq    $42, (%rdi)
        jmp     done
probe_call:
        mov     %rsp, probe_stack(%rip)
        call    *%rdi
done:
        movq    $0, probe_stack(%rip)
        mov     $1, %eax
        ret
probe_failed:
        movq    $0, probe_stack(%rip)
        xor     %eax, %eax
        ret

        .bss
        .balign 8
        .globl probe_stack              /* not 0 while an access may fault */
probe_stack:
        .skip   8

        .section .note.GNU-stack, "", @progbits
