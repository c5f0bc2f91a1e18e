# Guest programs of the emulator's tests. They are copied to VM_CODE (0x100000) of a guest, so they use no
# addresses of their own but relative ones; 0x180000 is VM_DATA.
        .intel_syntax noprefix
        .section .rodata
        .code64

        .macro program name
        .balign 16
        .global \name
\name:
        .endm
        .macro done name
        .global \name\()_end
\name\()_end:
        .byte 0
        .endm
        .macro point name
        .global \name
\name:
        .endm

# fib(90) by a loop: 3 + 90 * 5 + 1 steps.
        program program_fibonacci
        xor     eax, eax
        mov     edx, 1
        mov     ecx, 90
1:      lea     rbx, [rax + rdx]
        mov     rax, rdx
        mov     rdx, rbx
        dec     ecx
        jnz     1b
        hlt
        done    program_fibonacci

# A bit of everything that keeps state: calls, stack, string instructions, SSE, x87, flags, read-modify-write.
# An interrupt handler that must not leave a trace but a count at 0x17f000.
        program program_mixed
        mov     rsp, 0x1ff000
        mov     ebx, 20
        mov     edi, 0x180000
        fninit
        fldz
1:      push    rbx
        call    3f
        pop     rbx
        mov     [rdi], rax
        add     [rdi + 8], rbx
        adc     qword ptr [rdi + 16], 3
        mov     esi, edi
        mov     ecx, 7
        push    rdi
        add     edi, 24
        rep     movsq
        pop     rdi
        cvtsi2sd xmm0, rbx
        addsd   xmm1, xmm0
        sqrtsd  xmm2, xmm1
        movq    [rdi + 512], xmm2
        fld1
        faddp
        push    rax
        mov     al, 0x5a
        mov     ecx, 9
        push    rdi
        add     edi, 1024
        rep     stosb
        std
        mov     ecx, 5
        mov     al, 0x5b
        repne   scasb
        cld
        pop     rdi
        pop     rax
        xadd    [rdi + 32], rax
        pushfq
        pop     rdx
        xor     [rdi + 40], rdx
        add     edi, 64
        dec     ebx
        jnz     1b
        fstp    qword ptr [rdi]
        cli
        hlt
3:      lea     rax, [rbx + rbx * 4]
        imul    rax, rax, 37
        cmp     rax, 600
        jb      4f
        neg     rax
4:      ret
        point   program_mixed_handler
        push    rax
        mov     eax, 0x17f000
        inc     qword ptr [rax]
        pop     rax
        iretq
        done    program_mixed

# 1 + 1 + 1 + 100 + 1 steps.
        program program_rep_stos
        mov     edi, 0x180ff0
        mov     ecx, 100
        mov     eax, 0xab
        rep     stosb
        hlt
        done    program_rep_stos

# Replaces the instruction right after the writing one: nop (90) becomes inc eax's second byte pair.
        program program_patch_next
        lea     rdi, [rip + 1f]
        mov     byte ptr [rdi + 1], 2
1:      mov     al, 1
        hlt
        done    program_patch_next

# The same through another linear address of the same page.
        program program_patch_alias
        lea     rdi, [rip + 1f]
        add     rdi, 0x1000000
        mov     byte ptr [rdi + 1], 2
1:      mov     al, 1
        hlt
        done    program_patch_alias

# An instruction across a page boundary (mov ebx, imm32 with its immediate on the second page), patched, run again.
        program program_spanning
        mov     ecx, 2
        jmp     1f
        .org    program_spanning + 0xffe
1:      mov     ebx, 0x11111111
        add     eax, ebx
        mov     dword ptr [rip + 1b + 1], 0x22222222
        dec     ecx
        jnz     1b
        hlt
        done    program_spanning

# Changes the immediate of an instruction in its own loop each time round: eax = 1 + 2 + ... + 100.
        program program_patch_loop
        xor     eax, eax
        mov     ecx, 100
1:      mov     [rip + 2f + 1], ecx
2:      mov     edx, 0
        add     eax, edx
        dec     ecx
        jnz     1b
        hlt
        done    program_patch_loop

# A REP STOSB that overwrites the code right behind itself, and then itself (F3 AA becomes AA AA by its first byte).
        program program_patch_rep
        lea     rdi, [rip + 1f]
        mov     ecx, 6
        mov     al, 0x90
        mov     ebx, 0
        rep     stosb
1:      inc     ebx
        inc     ebx
        inc     ebx
        hlt
        done    program_patch_rep

        program program_count_memory
        mov     edi, 0x180000
1:      inc     qword ptr [rdi]
        jmp     1b
        done    program_count_memory

        program program_jump_self
        sti
        nop
1:      jmp     1b
        point   program_jump_self_handler
        inc     rax
        iretq
        done    program_jump_self

        program program_sse_loop
        mov     eax, 1
        movd    xmm1, eax
1:      paddq   xmm0, xmm1
        jmp     1b
        done    program_sse_loop

        program program_rep_movs
        mov     esi, 0x180000
        mov     edi, 0x1a0003
        mov     ecx, 50000
        point   program_rep_movs_rep
        rep     movsb
        hlt
        done    program_rep_movs

        program program_undefined
        ud2
        done    program_undefined

        program program_nops
        .rept   40
        nop
        .endr
        hlt
        point   program_nops_handler
        inc     rax
        iretq
        done    program_nops

        program program_sti
        sti
        nop
        nop
        hlt
        done    program_sti

        program program_mov_ss
        mov     eax, 0x10
        mov     ss, eax
        nop
        nop
        hlt
        done    program_mov_ss

        program program_ports
        mov     edx, 0x3f8
        in      al, dx
        in      ax, 0x60
        in      eax, dx
        out     dx, al
        out     0x80, ax
        out     dx, eax
        rdtsc
        rdtscp
        rdrand  rbx
        hlt
        done    program_ports

        program program_string_ports
        mov     edx, 0x1f0
        mov     edi, 0x180ffc
        mov     ecx, 5
        rep     insw
        mov     esi, 0x180ffc
        mov     ecx, 3
        rep     outsd
        hlt
        done    program_string_ports

# Stack instructions with their corner cases; results are checked against the same code run natively.
        program program_stack
        push    rsp
        pop     rax
        .byte   0x6a, 0xfb              # push -5, 64 bits
        .byte   0x66, 0x68, 0x34, 0x12  # push 0x1234, 16 bits
        pop     cx
        mov     qword ptr [rsp - 8], 7
        push    qword ptr [rsp - 8]
        pop     qword ptr [rsp + 8]
        pop     rsi
        mov     rbp, rsp
        enter   32, 0
        push    rbp
        enter   16, 3
        mov     r8, rbp
        leave
        pop     rdi
        leave
        pushfq
        pop     r9
        call    1f
1:      pop     r10
        lea     r11, [rip + 1b]
        sub     r10, r11
        lea     r11, [rip + 2f]
        push    r11
        push    r11
        push    r11
        ret     16
2:      xor     r11d, r11d
        mov     ecx, 5
3:      inc     r11
        loop    3b
        jrcxz   4f
        mov     r11, -1
4:      hlt
        done    program_stack

# Called at its 32-bit part in a compatibility code segment.
        program program_legacy
        hlt
        .code32
        point   program_legacy_code32
        mov     eax, 1
        mov     ecx, 2
        mov     edx, 3
        mov     ebx, 4
        mov     ebp, 6
        mov     esi, 7
        mov     edi, 8
        pushad
        mov     eax, [esp + 12]
        sub     eax, esp
        pushad
        popad
        push    eax
        popf
        pushf
        pop     ebx
        call    1f
1:      pop     edx
        inc     eax
        dec     ecx
        mov     cx, 3
2:      .byte   0x67, 0xe2, 0xfd         # loop 2b with CX
        hlt
        .code64
        done    program_legacy

# Linear 0x2000000 is not RAM.
        program program_mmio
        mov     ebx, 0x2000000
        mov     eax, [rbx]
        mov     [rbx + 8], rax
        mov     ax, [rbx + 1]
        add     dword ptr [rbx + 16], 5
        hlt
        done    program_mmio

        program program_popf_tf
        pushfq
        or      dword ptr [rsp], 0x100
        popfq
        nop
        inc     rbx
        pushfq
        and     dword ptr [rsp], ~0x100
        popfq
        nop
        hlt
        done    program_popf_tf

# 25 instructions per turn: loads, stores, arithmetic, a call.
        program program_speed
        mov     edi, 0x180000
1:      mov     rax, [rdi]
        add     rax, rcx
        mov     [rdi + 8], rax
        xor     rdx, rax
        shl     rdx, 3
        lea     rbx, [rax + rdx * 2 + 5]
        cmp     rbx, 77
        je      2f
        inc     r8
        add     r9, r8
2:      movzx   esi, bl
        test    esi, esi
        jz      3f
        sub     r10, rsi
3:      call    4f
        mov     [rdi], r10
        add     r11, 1
        and     r11, 0xffff
        dec     rcx
        jnz     1b
        hlt
4:      push    rbp
        mov     rbp, rsp
        pop     rbp
        ret
        done    program_speed

        .section .note.GNU-stack, "", @progbits
