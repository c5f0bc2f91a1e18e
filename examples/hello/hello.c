/* The smallest guest: prints, and exits with a status. Command line: exit=STATUS cpuid=1 (prints what CPUID shows) */
#include "guest.h"

static void print_cpuid(void)
{
    static const uint32_t leaves[] = {0, 1, 7, 0xd, 0x80000000, 0x80000001, 0x80000008};
    for (unsigned i = 0; i < sizeof(leaves) / sizeof(leaves[0]); i++) {
        uint32_t a = leaves[i], b, c = 0, d;
        __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
        print("cpuid %x: %x %x %x %x\n", leaves[i], a, b, c, d);
    }
}

void guest_main(void)
{
    print("Hello from long mode!\n");
    print("command line: \"%s\"\n", command_line());
    if (option_number("cpuid", 0))
        print_cpuid();
    guest_exit((uint8_t)option_number("exit", 0));
}
