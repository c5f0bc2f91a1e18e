# One instruction each, for tests/timeline/test_points.c. RBX, RSI, RDI and RSP are set by the test.
        .intel_syntax noprefix
        .section .rodata
        .code64

        .macro insn name, text:vararg
        .global code_\name, code_\name\()_end
code_\name:
        \text
        hlt
code_\name\()_end:
        .byte 0
        .endm

        insn store4, mov [rbx + 4], eax
        insn store_before, mov [rbx], eax
        insn store_behind, mov [rbx + 8], eax
        insn store_last, mov [rbx + 7], al
        insn store8, mov [rbx], rax
        insn load4, mov eax, [rbx + 4]
        insn load_before, mov eax, [rbx]
        insn load16, movdqu xmm0, [rbx]
        insn store16, movups [rbx - 8], xmm0
        insn add_to, add [rbx], rax
        insn compare, cmp dword ptr [rbx + 4], 3
        insn negate, neg dword ptr [rbx + 4]
        insn exchange, xchg [rbx + 4], eax
        insn exchange_add, lock xadd [rbx + 4], eax
        insn compare_exchange, lock cmpxchg [rbx + 4], ecx
        insn bit_set, bts dword ptr [rbx], eax
        insn push, push rax
        insn pop, pop rax
        insn call, call .
        insn return, ret
        insn lods, lodsd
        insn cmps, cmpsb
        insn scas, scasd
        insn rep_movs, rep movsb
        insn rep_stos, rep stosb
        insn save_fpu, fxsave64 [rbx - 48]
        insn load_fpu, fld qword ptr [rbx]
        insn store_fpu, fstp tbyte ptr [rbx]
        insn store_gdtr, sgdt [rbx]
        insn address, lea rax, [rbx + 4]
        insn fetch_ahead, prefetcht0 [rbx + 4]
        insn set_if, sete byte ptr [rbx + 5]
        insn move_if, cmove eax, [rbx + 4]
        insn multiply, mul dword ptr [rbx + 4]
        insn port_in, insb
        insn port_out, outsb
        insn divide_by_zero, div dword ptr [rbx + 4]
        insn undefined, ud2
        insn software_interrupt, int 0x40
        insn breakpoint, int3
        insn load_cr3, mov cr3, rax

        .section .note.GNU-stack, "", @progbits
