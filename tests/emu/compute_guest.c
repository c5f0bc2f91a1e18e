/* The guest around compute.c: started as an ELF64 image in long mode at CPL 0, ends in HLT with the result in RAX. */
#include <stddef.h>
#include <stdint.h>

#include "tests/emu/compute.h"

void *memcpy(void *to, const void *from, size_t length);
void *memset(void *to, int byte, size_t length);
void guest_main(unsigned turns);

void *memcpy(void *to, const void *from, size_t length)
{
    void *d = to;
    __asm__ volatile("rep movsb" : "+D"(d), "+S"(from), "+c"(length)::"memory");
    return to;
}

void *memset(void *to, int byte, size_t length)
{
    void *d = to;
    __asm__ volatile("rep stosb" : "+D"(d), "+c"(length) : "a"(byte) : "memory");
    return to;
}

void guest_main(unsigned turns)
{
    uint64_t result = COMPUTE(turns);
    for (;;)
        __asm__ volatile("hlt" : : "a"(result));
}

/* SSE on (CR4.OSFXSR, OSXMMEXCPT), CR0.EM off, MP on; XSAVE and AVX too when the program was compiled for it. */
__asm__(".globl _start\n"
        "_start:\n"
        "   mov %cr0, %rax\n"
        "   and $~4, %rax\n"
        "   or $2, %rax\n"
        "   mov %rax, %cr0\n"
        "   mov %cr4, %rax\n"
        "   or $0x600, %rax\n"
#ifdef __AVX__
        "   or $0x40000, %rax\n"
#endif
        "   mov %rax, %cr4\n"
#ifdef __AVX__
        "   xor %ecx, %ecx\n"
        "   xor %edx, %edx\n"
        "   mov $7, %eax\n"
        "   xsetbv\n"
#endif
        "   fninit\n"
        "   lea guest_stack_top(%rip), %rsp\n"
        "   mov %r15d, %edi\n"
        "   call guest_main\n"
        ".bss\n"
        ".balign 16\n"
        "   .skip 65536\n"
        "guest_stack_top:\n"
        ".text\n");
