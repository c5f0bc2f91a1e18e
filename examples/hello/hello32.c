/* A Multiboot guest in 32-bit protected mode: prints what the loader told it. Command line: exit=STATUS */
#include "guest.h"

void guest_main(void)
{
    print("Hello from protected mode!\n");
    print("command line: \"%s\"\n", command_line());

    struct memory_region region[16];
    unsigned count = memory_regions(region, ARRAY_LEN(region));
    for (unsigned i = 0; i < count; i++)
        print("memory: %016llx..%016llx type %u\n", (unsigned long long)region[i].start,
              (unsigned long long)(region[i].start + region[i].length - 1), region[i].type);

    struct boot_module module[4];
    count = boot_modules(module, ARRAY_LEN(module));
    for (unsigned i = 0; i < count; i++)
        print("module: %lx..%lx \"%s\", starts with \"%c%c%c%c\"\n", (unsigned long)module[i].start,
              (unsigned long)module[i].end - 1, module[i].name, *(const char *)module[i].start,
              *(const char *)(module[i].start + 1), *(const char *)(module[i].start + 2),
              *(const char *)(module[i].start + 3));
    guest_exit((uint8_t)option_number("exit", 0));
}
