/* Code that the guest writes is executed as written (SDM 3, 11.6 and 9.1.3 with this CPU's strict order). */

        CASE "the next instruction is the one just written", ENV_LONG
        mov $1, %ebx
        movb $2, 1f+1(%rip)
1:      mov $1, %ebx
        mov %ebx, RESULT
        DONE
        VALUE RESULT, 4, 2

        CASE "a loop rewrites its own body", ENV_LONG
        xor %ebx, %ebx
        mov $4, %ecx
1:      add $1, %ebx
        incb 1b+2(%rip)
        dec %ecx
        jnz 1b
        mov %ebx, RESULT
        DONE
        VALUE RESULT, 4, 10

        CASE "code through another page of the same memory", ENV_LONG
        mov $1, %ebx
        movb $7, ALIAS+1f-image+IMAGE_BASE+1
1:      mov $1, %ebx
        mov %ebx, RESULT
        DONE
        VALUE RESULT, 4, 7

        CASE "new code, called, changed and called again", ENV_LONG
        movl $0x000003b8, DATA          /* mov $3, %eax; ret */
        movw $0xc300, DATA+4
        mov $DATA, %ebx
        call *%rbx
        mov %eax, RESULT
        movb $4, DATA+1
        call *%rbx
        mov %eax, RESULT+4
        DONE
        VALUE RESULT, 8, 0x400000003

        CASE "an instruction on two pages, and its second half changes", ENV_LONG
        movw $0x05b8, DATA+0xffe
        movl $0xc3000000, DATA+0x1000
        mov $DATA+0xffe, %ebx
        call *%rbx
        mov %eax, RESULT
        movb $1, DATA+0x1000
        call *%rbx
        mov %eax, RESULT+4
        DONE
        VALUE RESULT, 8, 0x10500000005

        CASE "REP STOS over the instructions after it", ENV_LONG
        lea 1f(%rip), %rdi
        mov $0x90, %eax
        mov $6, %ecx
        rep stosb
1:      ud2
        ud2
        ud2
        DONE

        CASE "another page is mapped where code was", ENV_LONG
        movl $0x0001b8, DATA
        movw $0xc300, DATA+4
        movl $0x0002b8, DATA+0x1000
        movw $0xc300, DATA+0x1004
        mov $DATA, %ebx
        call *%rbx
        mov %eax, RESULT
        movl $DATA+0x1003, PT_LOW+8*(DATA>>12)
        invlpg DATA
        call *%rbx
        mov %eax, RESULT+4
        DONE
        VALUE RESULT, 8, 0x200000001

        CASE "the same bytes in 64-bit and in 32-bit code", ENV_LONG
        mov $5, %eax
        movl $A(1f), DATA
        movl $KCODE64, DATA+4
        push $KCODE64
        push $A(1f)
        push $A(2f)
        ret
1:      mov %rax, RESULT
        movl $A(3f), DATA+8
        movl $KCODE32, DATA+12
        mov $5, %eax
        ljmp *DATA+8
        .code32
3:      push $KCODE32
        push $A(4f)
        push $A(5f)
        ret
4:      mov %eax, RESULT+8
        DONE
        .code64
2:      .byte 0x48, 0xff, 0xc0          /* inc %rax; in 32-bit code: dec %eax; inc %eax */
        lretq
5:      .code32
        push $A(6f)
        jmp 7f
6:      lretl
        .code64
7:      .byte 0x48, 0x90                /* xchg; in 32-bit code: dec %eax; nop */
        ret
        VALUE RESULT, 8, 6
        VALUE RESULT+8, 4, 4

        CASE "code changed by the handler of a fault in it", ENV_LONG
        movw $2f-image, IDT64+16*6
        movw $IMAGE_BASE>>16, IDT64+16*6+6
1:      ud2
        DONE
2:      movw $0x9090, 1b(%rip)
        iretq
        VALUE LOG_COUNT, 4, 0
