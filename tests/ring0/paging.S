/*
 * A guest that tries every combination of page permissions, controls, level and kind of access, and notes what came of
 * it: the whole loop runs in the guest. Index bits, from 0 on:
 *
 *   access 2 (read, write, execute) | CPL 3 1 | leaf P, W, U, NX 4 | entry above it 2 | WP, SMEP, SMAP, AC 4 | size 2
 *
 * Entry above: all allowed, W clear, U clear, NX set. Size: 4 KiB, 2 MiB, 1 GiB. The page is the same one each time.
 */
        CASE "every combination of page permissions", ENV_LONG, FLAG_PAGING
paging:
        movw $page_fault-image, IDT64+16*14
        movw $IMAGE_BASE>>16, IDT64+16*14+6
        movw $no_fault-image, IDT64+16*3
        movw $IMAGE_BASE>>16, IDT64+16*3+6
        movb $0xc3, PAGING_PAGE                 /* RET: can be read, written, executed */
        xor %r12d, %r12d

paging_next:
        mov %r12d, %eax
        and $3, %eax
        cmp $3, %eax
        je paging_skip
        mov %r12d, %eax
        and PAGING_MASK, %eax
        cmp %r12d, %eax                         /* controls and sizes that are not wanted */
        jne paging_skip
        shr $13, %eax
        cmp $3, %eax
        je paging_skip

        mov %r12d, %r8d                         /* the leaf's bits: P, W, U */
        shr $3, %r8d
        and $7, %r8d
        bt $6, %r12d
        jnc 1f
        bts $63, %r8
1:      mov %r12d, %r9d                         /* the bits of the entry above */
        shr $7, %r9d
        and $3, %r9d
        movzbl above_bits(%r9), %r9d
        btr $7, %r9d
        jnc 1f
        bts $63, %r9
1:
        movq $PAGING_TABLES+7, PML4+8
        movq $PAGING_TABLES+0x1007, PAGING_TABLES
        cmp $1, %eax
        ja 3f
        je 2f
        or $PAGING_PAGE, %r8                    /* 4 KiB */
        mov $PAGING_TABLES+0x2000+8*(PAGING_PAGE>>12), %esi
        or $PAGING_TABLES+0x2000, %r9
        mov $PAGING_TABLES+0x1000, %edi
        jmp 4f
2:      or $0x80, %r8                           /* 2 MiB at 0 */
        mov $PAGING_TABLES+0x1000, %esi
        or $PAGING_TABLES+0x1000, %r9
        mov $PAGING_TABLES, %edi
        jmp 4f
3:      or $0x80, %r8                           /* 1 GiB at 0 */
        mov $PAGING_TABLES, %esi
        or $PAGING_TABLES, %r9
        mov $PML4+8, %edi
4:      mov %r8, (%rsi)
        mov %r9, (%rdi)
        mov %cr3, %rax
        mov %rax, %cr3

        mov %cr0, %rax
        btr $16, %rax
        bt $9, %r12d
        jnc 1f
        bts $16, %rax
1:      mov %rax, %cr0
        mov %r12d, %eax
        shl $10, %eax                           /* SMEP, SMAP: index bits 10, 11; CR4 bits 20, 21 */
        and $0x300000, %eax
        jz 1f                                   /* where they do not exist they are not touched */
        mov %cr4, %rcx
        or %rax, %rcx
        mov %rcx, %cr4
1:      mov $2, %r10d
        bt $12, %r12d
        jnc 1f
        bts $18, %r10d
1:      movabs $PAGING_LINEAR, %rbx
        xor %r13d, %r13d
        mov $0xc3, %al
        mov %r12d, %ecx
        and $3, %ecx
        mov %rsp, %rbp
        bt $2, %r12d
        jc 5f
        push %r10
        popfq
        cmp $1, %ecx
        ja 3f
        je 2f
        mov (%rbx), %al
        jmp paging_done
2:      mov %al, (%rbx)
        jmp paging_done
3:      call *%rbx
        jmp paging_done

5:      push $UDATA
        push $USTACK+ALIAS
        push %r10
        push $UCODE64
        push $A(6f)+ALIAS
        iretq
6:      cmp $1, %ecx
        ja 3f
        je 2f
        mov (%rbx), %al
        int3
2:      mov %al, (%rbx)
        int3
3:      call *%rbx
        int3

page_fault:
        pop %r13
        shl $8, %r13
        or $14, %r13
        mov %cr2, %rax
        cmp %rbx, %rax
        jne paging_done
        bts $32, %r13
        jmp paging_done
no_fault:
        xor %r13d, %r13d
paging_done:
        mov %rbp, %rsp
        pushq $2
        popfq
        mov %cr4, %rax
        test $0x300000, %eax
        jz 1f
        and $~0x300000, %eax
        mov %rax, %cr4
1:      mov (%rsi), %rax                        /* A and D */
        shr $5, %eax
        and $3, %eax
        shl $24, %eax
        or %rax, %r13
        mov (%rdi), %rax
        shr $5, %eax
        and $1, %eax
        shl $26, %eax
        or %rax, %r13
        bts $33, %r13                           /* this one was done */
        mov %r13, PAGING_RESULTS(,%r12,8)
paging_skip:
        inc %r12d
        cmp $PAGING_COUNT, %r12d
        jne paging_next
        DONE
above_bits_image:
        .byte 7, 5, 3, 0x87
        .set above_bits, above_bits_image-image+IMAGE_BASE
