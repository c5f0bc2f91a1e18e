/*
 * Guests that run in KVM and in the emulator side by side. Each is loaded at GUEST_CODE (0x10000), crosses the boundary
 * at every OUT to port 0x80 (where the two states are compared), and ends with HLT. RBX is GUEST_DATA, the handler of
 * every vector at GUEST_HANDLERS reports itself (handler, below).
 */
        .section .rodata
        .intel_syntax noprefix

.macro program name
        .globl program_\name, program_\name\()_end
        .balign 16
program_\name:
.endm
.macro end_program name
program_\name\()_end:
.endm
.macro compare
        out 0x80, al
.endm

/* Each vector's entry pushes its number: mov ecx, vector is patched in by the test. Skips the two bytes of UD2. */
        .code64
program handler
        out 0x81, al
        mov r15, [rsp]          /* error code or RIP */
        mov r14, cr2
        cmp ecx, 14
        je 1f
        cmp ecx, 13
        jne 2f
1:      add rsp, 8
2:      out 0x82, al
        cmp r12, 0
        je 3f
        mov [rsp], r12          /* where the program wants to go on */
3:      iretq
end_program handler

program arithmetic
        mov rax, 0x123456789abcdef
        mov rcx, 0xfedcba9876543210
        add rax, rcx
        compare
        sbb rcx, rax
        imul rdx, rcx, 77
        compare
        shld rax, rdx, 13
        rcr rcx, 5
        bsf rsi, rcx
        compare
        xor r8d, r8d
        mov eax, 1000
1:      add r8, rax
        ror r8, 7
        dec eax
        jnz 1b
        compare
        mul r8
        mov r9, 12345
        xor edx, edx
        div r9
        compare
        bswap rax
        movsx r10, ax
        setc r11b
        cmovnz r11, rax
        lahf
        sahf
        pushfq
        pop r13
        compare
        push rax
        call 2f
        pop rdx
        compare
        hlt
2:      compare
        ret 0
end_program arithmetic

program segments
        xor eax, eax
        mov ds, eax
        mov es, eax
        compare
        mov ss, eax
        compare
        mov fs, eax
        mov gs, eax
        compare
        mov eax, 0x10
        mov ds, eax
        mov ss, eax
        compare
        mov eax, 3
        mov es, eax
        mov eax, 0x23
        mov gs, eax
        compare
        xor eax, eax
        lldt ax
        compare
        mov ecx, 0xc0000100
        mov eax, 0x12345678
        mov edx, 0x7f00
        wrmsr
        compare
        mov ecx, 0xc0000102
        wrmsr
        mov ecx, 0x175
        wrmsr
        mov ecx, 0x176
        mov edx, 0xffff8000
        wrmsr
        rdmsr
        compare
        swapgs
        compare
        sub rsp, 16
        mov word ptr [rsp], 0x7ff
        mov qword ptr [rsp+2], 0x1000
        lidt [rsp]
        sgdt [rsp]
        mov r8, [rsp]
        compare
        push 8
        lea rax, [rip+1f]
        push rax
        retfq
1:      compare
        mov rax, cr0
        mov r9, cr4
        mov r10, cr3
        mov cr3, r10
        str r11w
        sldt r12w
        smsw r13d
        compare
        mov ax, cs
        lar r14d, eax
        and r14d, 0xf0ff00      /* bits 16 to 19 are undefined */
        lsl r15d, eax
        compare
        mov eax, 0x1234
        mov dr0, rax
        mov rcx, dr6
        mov rdx, dr7
        compare
        hlt
end_program segments

program strings
        cld
        lea rdi, [rbx]
        mov eax, 0x55aa1234
        mov ecx, 700
        rep stosd
        compare
        mov rsi, rbx
        lea rdi, [rbx+0x2001]
        mov ecx, 1500
        rep movsb
        compare
        mov rsi, rbx
        lea rdi, [rbx+0x2001]
        mov ecx, 2000
        repe cmpsb
        compare
        mov al, 0
        mov rdi, rbx
        mov rcx, -1
        repne scasb
        compare
        mov edx, 0x70
        mov rdi, rbx
        mov ecx, 9
        rep insw
        compare
        std
        mov rsi, rbx
        mov ecx, 4
        rep outsb
        cld
        compare
        mov esi, 0x10000000
        mov rdi, rbx
        mov ecx, 5
        rep movsq
        compare
        mov rsi, rbx
        mov edi, 0x10000100
        mov ecx, 3
        rep movsw
        compare
        xor ecx, ecx
        rep lodsb
        compare
        hlt
end_program strings

/* Accesses that KVM brings in pieces. */
program mmio
        mov esi, 0x10000000
        mov rax, 0x1122334455667788
        movd xmm0, eax
        mov [rsi+0xffe], eax
        compare
        mov [rsi+0x1ffd], rax
        mov [rsi+0xffc], eax
        mov [rsi+0x1000], eax
        mov [rsi+0xff8], rax
        mov [rsi+0xff9], rax
        compare
        mov ecx, [rsi+0xffe]
        mov edx, [rsi+0x1000]
        mov r8w, [rsi+0x1fff]
        mov r9, [rsi+0x2000]
        mov r10, [rsi+0x2ff8]
        mov r11, [rsi+0x2ffb]
        compare
        movdqu [rsi+0x40], xmm0
        movdqu [rsi+0x48], xmm0
        movdqu [rsi+0x1ff8], xmm0
        compare
        movdqu xmm1, [rsi+0x80]
        mov r12, [rsi+0x90]
        movdqu xmm2, [rsi+0x2ff8]
        movdqu xmm3, [rsi+0x2ff1]
        compare
        add qword ptr [rsi+0x100], 5
        add dword ptr [rsi+0x1ffe], 5
        compare
        hlt
end_program mmio

/* What kvm_pvm's instruction emulator lacks at CPL 0, and KVM on hardware executes. */
program rare
        mov qword ptr [rbx], 1
        mov qword ptr [rbx+8], 2
        mov eax, 1
        mov edx, 2
        push rbx
        mov ecx, 7
        mov r8, rbx
        mov ebx, 9
        cmpxchg16b [r8]
        pop rbx
        compare
        cmpxchg16b [r8]
        compare
        popcnt rax, rax
        compare
        mov eax, 0x01020304
        movd xmm0, eax
        pshufd xmm1, xmm0, 0
        paddd xmm1, xmm0
        compare
        fld1
        fldpi
        fadd st, st(1)
        fstp qword ptr [rbx+16]
        compare
        stmxcsr [rbx+24]
        crc32 ecx, eax
        compare
        xadd [rbx], rax
        lock cmpxchg [rbx], rcx
        bts qword ptr [rbx], 40
        compare
        int 0x90
        compare
        /* The emulator executed this code before KVM's guest changes it. */
        lea r9, [rbx+64]
        mov qword ptr [r9], 3
        mov r10d, 2
1:      cmpxchg16b [r8]         /* 49 0f c7 08; becomes [r9], 49 0f c7 09 */
        compare
        mov byte ptr [rip+1b+3], 9
        dec r10d
        jnz 1b
        hlt
end_program rare

/* CPL 3. Only the handler may cross. */
program user
        mov eax, 0x01020304
        movd xmm0, eax
        pshufd xmm1, xmm0, 0x1b
        cvtdq2pd xmm2, xmm1
        sqrtpd xmm3, xmm2
        xor r12, r12
        int3
        fld1
        fldpi
        fpatan
        fstp qword ptr [rbx+16]
        lea r12, [rip+1f]
        ud2
1:      lea r12, [rip+2f]
        mov rax, 0x7fff00000000
        mov rax, [rax]
2:      lea r12, [rip+3f]
        hlt
3:      lea r12, [rip+4f]
        xor ecx, ecx
        div ecx
4:      pushfq
        pop rax
        mov ecx, 3000
6:      imul rax, rcx, 7
        add [rbx+rcx*8], rax
        loop 6b
        lea r12, [rip+7f]
        ud2
7:      jmp 7b
end_program user

/* From real mode at 0:GUEST_REAL to 64-bit mode, as boot code does it; loaded at 0x7000. */
        .code16
program boot
        cli
        out 0x80, al
        xor ax, ax
        mov ds, ax
        mov ax, 0x700
        mov es, ax
        mov ss, ax
        mov sp, 0x800
        push es
        pop fs
        out 0x80, al
        .byte 0x66, 0x0f, 0x01, 0x16 /* lgdtd [gdtr] */
        .word 0x7000 + 10f - program_boot
        mov eax, cr0
        or al, 1
        mov cr0, eax
        out 0x80, al
        .byte 0xea /* jmp 0x18:1f */
        .word 0x7000 + 1f - program_boot
        .word 0x18
        .code32
1:      mov ax, 0x10
        mov ds, ax
        mov es, ax
        mov ss, ax
        out 0x80, al
        mov eax, cr4
        or eax, 0x220
        mov cr4, eax
        mov eax, 0x4000
        mov cr3, eax
        mov ecx, 0xc0000080
        rdmsr
        or eax, 0x100
        wrmsr
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        out 0x80, al
        .byte 0xea /* jmp 0x08:2f */
        .long 0x7000 + 2f - program_boot
        .word 0x08
        .code64
2:      out 0x80, al
        mov esp, 0x9000
        xor eax, eax
        mov ss, eax
        mov fs, eax
        out 0x80, al
        mov ax, 0x28
        ltr ax
        out 0x80, al
        hlt
        .balign 8
10:     .word 0x37
        .long 0x7000 + 11f - program_boot
        .balign 8
11:     .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff, 0x00cf93000000ffff
        .quad 0x0000890030000067, 0
end_program boot

        .section .note.GNU-stack, "", @progbits
